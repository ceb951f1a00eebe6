//! A report as a value. Sinks render it; models never do.
//!
//! Text fields may come from a model and are therefore untrusted: every renderer escapes them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::activity::Complaint;
use super::money::Spend;
use super::run::{Effects, Outcome};

/// What a `report` step hands to its sinks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub pipeline: String,
    pub run: String,
    pub summary: String,
    /// First line: a model's `headline`, else the sentence of the outcome.
    pub headline: String,
    pub outcome: Option<Outcome>,
    pub effects: Effects,
    pub profile: String,
    /// Nominal time of the run in its zone, for people: `Thu 19 Nov 2026`.
    pub date: String,
    pub blocks: Vec<ReportBlock>,
    pub chart: Option<Chart>,
    pub footer: Footer,
    /// What the report is about, one by one: threads and buttons are made of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<ReportFinding>,
    /// A person is asked something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<Question>,
}

/// One finding of a report, and what was done about it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReportFinding {
    /// By which its thread is found again, in every run of the pipeline.
    pub fingerprint: String,
    /// The finding's id in the ledger, for buttons; empty: it is not there.
    pub id: String,
    pub title: String,
    /// Short lines for people: how often and by whom seen, the size of the patch.
    pub lines: Vec<String>,
    /// The proof in one sentence, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    /// Pull request or ticket.
    pub links: Vec<Link>,
    /// `draft`, `ticket`, `declined`, `failed`, …
    pub state: String,
}

/// What a person is asked. Only a signal answers it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// The step that waits, in the run of the report.
    pub path: String,
    /// The signal that it waits for: `approve`, `answer`.
    pub signal: String,
    pub ask: String,
    /// (label, text) of what is shown with it.
    pub given: Vec<(String, String)>,
    pub expires_at: Option<jiff::Timestamp>,
    /// What happens then, in words.
    pub on_expiry: String,
    /// Hash of exactly what is approved.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hash: String,
    /// How it was answered, and by whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<(String, String)>,
}

/// One part of the body, in the order of `from`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ReportBlock {
    Paragraph {
        text: String,
    },
    Bullets {
        items: Vec<String>,
    },
    Table {
        title: String,
        columns: Vec<String>,
        rows: Vec<Vec<Value>>,
    },
    Links {
        items: Vec<Link>,
    },
    /// A warning of the host: something dropped, refused, missing.
    Notice {
        text: String,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    pub title: String,
    pub url_or_path: String,
    /// In preview: it *would have* been opened.
    pub preview: bool,
}

/// Series over days, one per metric.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Chart {
    pub title: String,
    /// Days as `YYYY-MM-DD`, ascending.
    pub days: Vec<String>,
    pub series: Vec<Series>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    pub metric: String,
    /// One per day; `null` where there is no number.
    pub values: Vec<Option<f64>>,
    /// The usual value at the last day.
    pub usual: Option<f64>,
    pub flagged: bool,
}

/// What the host adds to every report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Footer {
    pub spend: Spend,
    pub budget_usd: Option<f64>,
    /// Models that answered, or `demo tape (reads no key)`.
    pub models: Vec<String>,
    pub interns: InternStats,
    /// Figures checked and sentences dropped by `check`.
    pub figures_checked: u32,
    pub sentences_dropped: u32,
    pub complaints: Vec<Complaint>,
    pub refused: Vec<String>,
    /// Steps that failed, were blocked or capped, with their reason.
    pub problems: Vec<String>,
    /// What a person might do about them; the end of a failed command's output, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub help: Vec<String>,
    /// The code that was worked on, and how its commands were confined: `api at 2e36d60c5c9d`, `sandboxd (bubblewrap)`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub code: Vec<String>,
    /// Items left behind by `take` or a cap: they stay new.
    pub left_behind: u32,
    /// What is a stand-in: bundled samples, tape, local sinks.
    pub stand_ins: Vec<String>,
    pub duration_s: f64,
}

/// How the interns did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InternStats {
    pub items: u32,
    pub escalated: u32,
    pub audited: u32,
    pub disagreed: u32,
    /// What the same calls would have cost at the boss's prices, less what they did cost; in dollars.
    pub saved_usd: f64,
}
