//! The durable context: all that pipeline logic may ask of the world.
//!
//! Logic is ordinary async Rust over `&dyn DurableContext`. It must be deterministic between two asks: no clock, no
//! randomness, no `select!`, `join!` or `spawn`; parallel work goes through [`DurableContext::perform_all`] and
//! [`DurableContext::children`]. What an ask answered once it answers again after a crash, without doing it again.
//!
//! How to write another engine: implement this trait so that every answer is recorded under the path of the ask before it is
//! given, and replayed from the record afterwards.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::base::LocalBoxFuture;
use crate::base::money::UsdMicros;
use crate::domain::activity::{Activity, Complaint};
use crate::domain::entry::StepEnd;
use crate::domain::money::Cap;
use crate::domain::run::{Failure, RunStart};

/// Why an ask, a step or a run cannot go on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "stop", rename_all = "snake_case")]
pub enum Stop {
    /// The activity failed for good.
    #[error("{0}")]
    Failed(Failure),
    /// Something is missing that a person can supply.
    #[error("{0}")]
    Blocked(Failure),
    /// A cap was reached; the message names it.
    #[error("{message}")]
    Capped { cap: Cap, message: String },
    /// Policy refused it.
    #[error("{0}")]
    Unsafe(Failure),
    /// A person stopped the run. Never caught by logic.
    #[error("cancelled: {reason}")]
    Cancelled { reason: String },
    /// The process is stopping; the run stays open and goes on later. Never caught, never recorded.
    #[error("suspended")]
    Suspended,
    /// The record does not fit what the logic asks (E-REPLAY), or the journal failed. Never caught.
    #[error("{0}")]
    Broken(Failure),
}

impl Stop {
    /// Ends the run as it is; logic must hand it on.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Cancelled { .. } | Self::Suspended | Self::Broken(_))
    }
}

/// The recorded answer of an activity.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Its full address.
    pub path: String,
    pub output: Arc<RawValue>,
}

impl Recorded {
    /// The output as its type. A mismatch is a broken record.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, Stop> {
        serde_json::from_str(self.output.get()).map_err(|error| {
            Stop::Broken(Failure::new("E-REPLAY", format!("the record at `{}` cannot be read: {error}", self.path)))
        })
    }
}

/// A signal that a person sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SignalValue {
    pub value: serde_json::Value,
    /// Who: `cli`, `slack:U024BE7LH`.
    pub by: String,
}

/// Logic of a step or child: gets the context of its own path.
pub type Logic<'a> = Box<dyn FnOnce(Box<dyn DurableContext + 'a>) -> LocalBoxFuture<'a, Result<StepEnd, Stop>> + 'a>;

/// One branch of an `each`. Its path is the parent's path with `[key]`.
pub struct ChildRun<'a> {
    /// The item's KEY; the context makes repeats unique (`~2`).
    pub key: String,
    /// For people.
    pub title: String,
    /// `each.max_budget_usd`.
    pub budget: Option<UsdMicros>,
    pub logic: Logic<'a>,
}

/// What durable logic may ask. Object-safe; futures are local. Dropping a returned future abandons the ask.
pub trait DurableContext {
    /// What the run began with.
    fn run(&self) -> &RunStart;

    /// The address of this context; empty for the run itself.
    fn path(&self) -> &str;

    /// Performs one activity at `path/label`; a label used again in the same context becomes `label~2`.
    fn perform<'a>(&'a self, label: &str, activity: Activity) -> LocalBoxFuture<'a, Result<Recorded, Stop>>;

    /// Performs several, at most `max_parallel` at a time; answers in the order asked. Item budgets of the context are added.
    fn perform_all<'a>(
        &'a self,
        activities: Vec<(String, Activity)>,
        max_parallel: usize,
    ) -> LocalBoxFuture<'a, Vec<Result<Recorded, Stop>>>;

    /// Runs `logic` as a step at `path/id`, or returns what it ended with before. `kind` is for people.
    fn step<'a>(&'a self, id: &str, kind: &str, logic: Logic<'a>) -> LocalBoxFuture<'a, Result<StepEnd, Stop>>;

    /// Runs branches, at most `max_parallel` at a time; answers in the order given. A branch that failed is an answer;
    /// only a final stop ends the others.
    fn children<'a>(
        &'a self,
        children: Vec<ChildRun<'a>>,
        max_parallel: usize,
    ) -> LocalBoxFuture<'a, Result<Vec<StepEnd>, Stop>>;

    /// Sleeps on the durable clock: after a restart only the rest.
    fn sleep<'a>(&'a self, label: &str, duration: Duration) -> LocalBoxFuture<'a, Result<(), Stop>>;

    /// Waits for a signal to this path, at most until `timeout`; `None` when it expired. `asked` is shown to people meanwhile.
    fn signal<'a>(
        &'a self,
        name: &str,
        asked: serde_json::Value,
        timeout: Option<Duration>,
    ) -> LocalBoxFuture<'a, Result<Option<SignalValue>, Stop>>;

    /// A signal that has already come, for steering between turns.
    fn poll_signal<'a>(&'a self, name: &str) -> LocalBoxFuture<'a, Result<Option<SignalValue>, Stop>>;

    /// The time, as it was when this was asked first.
    fn now<'a>(&'a self) -> LocalBoxFuture<'a, Result<Timestamp, Stop>>;

    /// A new identifier, the same after a crash.
    fn new_id<'a>(&'a self) -> LocalBoxFuture<'a, Result<String, Stop>>;

    /// Writes something for people: a note with a stable word and details. Written once.
    fn note(&self, note: &str, details: serde_json::Value);

    /// Records what an agent lacks. Written once.
    fn complain(&self, complaint: Complaint);

    /// Records a message that a model was given (prompt, later instruction). Written once.
    fn message(&self, message: &RawValue);
}
