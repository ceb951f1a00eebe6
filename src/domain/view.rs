//! What is read back from the journal about runs: lists, one run whole, slots, costs. For CLI, page and API.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::base::ids::RunId;
use crate::base::money::UsdMicros;

use super::activity::{Complaint, Receipt};
use super::money::Spend;
use super::report::{InternStats, Report};
use super::run::{Failure, Outcome, RunStart};

/// One run as far as it has come.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunView {
    pub start: RunStart,
    /// `None` while it is open.
    pub outcome: Option<Outcome>,
    pub failure: Option<Failure>,
    pub finished_at: Option<Timestamp>,
    /// Extra money given by `resume --add-usd`.
    pub added: UsdMicros,
    pub spend: Spend,
    pub activities: u64,
    /// Children by outcome.
    pub counts: std::collections::BTreeMap<String, u64>,
    pub complaints: Vec<Complaint>,
    pub refused: Vec<String>,
    pub receipts: Vec<Receipt>,
    pub steps: Vec<StepView>,
    pub models: Vec<String>,
    pub interns: InternStats,
    pub figures_checked: u32,
    pub sentences_dropped: u32,
    /// Open questions: (path, what is asked).
    pub questions: Vec<(String, String)>,
    /// The reports handed to sinks.
    pub reports: Vec<Report>,
}

/// A step, or a child of an `each`, as a line of the timeline.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StepView {
    pub path: String,
    /// 0 for the run's own steps.
    pub depth: u32,
    /// Of a child: the how-manieth of how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<(u32, u32)>,
    pub kind: String,
    /// `None` while it is open.
    pub outcome: Option<String>,
    pub summary: String,
    pub reason: Option<String>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub cost: UsdMicros,
    pub boss_calls: u32,
    pub intern_calls: u32,
}

/// One line of `runs`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunLine {
    pub id: RunId,
    pub pipeline: String,
    pub profile: String,
    pub effects: String,
    pub trigger: String,
    pub started_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    pub outcome: Option<Outcome>,
    pub cost: UsdMicros,
    pub headline: String,
}

/// What became of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotFate {
    /// A run was made.
    Run,
    /// Its run waits for the one before (`overlap: queue`).
    Queued,
    /// Another run was active.
    Skipped,
    /// A later slot stands for it.
    Coalesced,
    /// The daemon was down, or the clock jumped over it.
    Missed,
    /// Limits, a full queue or a pause.
    Refused,
}
super::run::names!(SlotFate {
    Run = "run",
    Queued = "queued",
    Skipped = "skipped",
    Coalesced = "coalesced",
    Missed = "missed",
    Refused = "refused",
});

/// One slot of a schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlotLine {
    pub pipeline: String,
    pub nominal_at: Timestamp,
    pub timezone: String,
    pub fate: SlotFate,
    pub reason: String,
    pub run: Option<RunId>,
    pub decided_at: Timestamp,
}

/// Spending of one pipeline on one day.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CostLine {
    /// UTC day, `YYYY-MM-DD`.
    pub day: String,
    pub pipeline: String,
    pub runs: u64,
    pub boss_calls: u64,
    pub boss: UsdMicros,
    pub intern_calls: u64,
    pub intern: UsdMicros,
    pub reviewer: UsdMicros,
    pub reserved: UsdMicros,
    /// Seconds of sandboxes that are billed.
    pub sandbox: UsdMicros,
}
