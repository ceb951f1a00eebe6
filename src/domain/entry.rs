//! One line of the journal.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::base::hash::Hash;
use crate::base::ids::RunId;

use super::run::names;

/// Who an entry is about; what a browser filters by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// A person did something: a signal, an answer, an approval.
    User,
    /// What a model said or asked for.
    Agent,
    /// The run's own life: started, resumed, finished.
    Session,
    /// Work with a beginning and an end: steps, activities.
    Span,
}
names!(Family { User = "user", Agent = "agent", Session = "session", Span = "span" });

/// What an entry records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// The run began. Payload: `RunStart`.
    RunStarted,
    /// An engine took it up again after an interruption. Payload: `{build_id, add_usd}`.
    RunResumed,
    /// Payload: `{outcome, failure, headline}`. May be followed by `RunResumed`.
    RunFinished,
    /// A step began. Payload: `{kind}`.
    StepStarted,
    /// A step ended; replay starts after it. Payload: `StepEnd`.
    StepFinished,
    /// A child of `each` began. Payload: `{key, title}`.
    ChildStarted,
    /// A child ended; replay starts after it. Payload: `{outcome, result}`.
    ChildFinished,
    /// A guarded activity is about to begin. Payload: `{kind, grant}`.
    ActivityIntended,
    /// An activity ended well. Payload: its output.
    ActivityDone,
    /// An activity ended badly. Payload: `Failure`.
    ActivityFailed,
    /// `now`, `new_id`, a timer's end, a signal taken: values that replay must see again. Payload: the value.
    Value,
    /// A person's signal, when it arrived. Payload: `{name, value, by}`.
    Signal,
    /// What the model was given at the start of a step, or was told later. Payload: message.
    Message,
    /// `Complaint`.
    Complaint,
    /// Something for people: a refusal, a dropped sentence, an escalation. Payload: `{note, …}`.
    Note,
    /// A question to a person is open. Payload: `{ask, given, expires_at, on_expiry}`.
    Asked,
}
names!(EntryKind {
    RunStarted = "run_started",
    RunResumed = "run_resumed",
    RunFinished = "run_finished",
    StepStarted = "step_started",
    StepFinished = "step_finished",
    ChildStarted = "child_started",
    ChildFinished = "child_finished",
    ActivityIntended = "activity_intended",
    ActivityDone = "activity_done",
    ActivityFailed = "activity_failed",
    Value = "value",
    Signal = "signal",
    Message = "message",
    Complaint = "complaint",
    Note = "note",
    Asked = "asked",
});

/// An entry that is to be written. The journal gives it its number and time.
#[derive(Clone, Debug)]
pub struct NewEntry {
    pub run: RunId,
    pub family: Family,
    pub kind: EntryKind,
    /// Address, for instance `repair[KEY]/fix/attempt-2/turn-5/call-1`; empty for the run itself.
    pub path: String,
    /// 1 for the first try of this path.
    pub attempt: u32,
    /// The sequence number of the entry that this one replaces (an earlier attempt's).
    pub supersedes: Option<i64>,
    /// Of an activity's input.
    pub input: Option<Hash>,
    /// JSON. Above 32 KB it goes to the blob store by itself.
    pub payload: Box<RawValue>,
}

/// An entry as it stands.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Global and growing; also the id of a live event.
    pub seq: i64,
    pub run: RunId,
    pub family: Family,
    pub kind: EntryKind,
    pub path: String,
    pub attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub supersedes: Option<i64>,
    pub at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<Hash>,
    pub payload: Box<RawValue>,
}

/// The payload of [`EntryKind::StepFinished`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepEnd {
    /// The step's result: `ran`, `outcome`, `items`…
    pub result: serde_json::Map<String, serde_json::Value>,
    /// One line for people: `25 events, 4 groups`.
    #[serde(default)]
    pub summary: String,
    /// Why it did not run, or how it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
