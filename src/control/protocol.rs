//! The words of the control socket, version [`VERSION`]. Plain data.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::clock::Timestamp;
use crate::base::ids::RunId;
use crate::base::money::UsdMicros;
use crate::domain::run::{Effects, Outcome, TriggerKind};

/// Raised when a word changes its meaning. Both sides refuse another version than their own.
pub const VERSION: u32 = 1;

/// The longest line that is read, in bytes.
pub const MAX_LINE: u64 = 4 * 1024 * 1024;

/// One line: the version and a word.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Line<T> {
    pub v: u32,
    #[serde(flatten)]
    pub body: T,
}

/// What a command asks of the holder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Request {
    /// Who holds the directory and what it does. → `Status`
    Status,
    /// Begin a run, with the holder's configuration. → `Started`
    Run(Box<RunRequest>),
    /// → `Done`
    Cancel { run: RunId, reason: String },
    /// One run, or every interrupted one. `add` lifts its cap first. → `Resumed`
    Resume { run: Option<RunId>, add: UsdMicros, by: String },
    /// A person's word to a run: an approval, an answer, a hint. → `Done`
    Signal { run: RunId, path: String, name: String, value: Value, by: String },
    /// A person does not want to hear of a finding until then, or ever. `id` is whole. → `Done`
    Mute { id: String, until: Option<Timestamp>, reason: String, by: String },
    /// → `Done`
    Unmute { id: String, by: String },
    /// A click on a message about a finding: `wrong_cause`, `wont_fix`. `id` is whole. → `Done`
    Feedback { id: String, word: String, by: String },
    /// → `Ended`, when the run has ended or is suspended
    Wait { run: RunId },
    /// What the models are saying right now, of one run or of all. → `Text` again and again
    Live { run: Option<RunId> },
}

/// One run, asked for by a person or a trigger.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunRequest {
    /// The name of a pipeline, or the absolute path of its file.
    pub pipeline: String,
    /// `None`: the holder's own.
    #[serde(default)]
    pub profile: Option<String>,
    /// Lowers what pipeline and configuration allow, never raises it. `None`: what they allow.
    #[serde(default)]
    pub effects: Option<Effects>,
    /// As typed (`--set`): text that is read by the parameter's type, or values already typed.
    #[serde(default)]
    pub params: Map<String, Value>,
    /// What the trigger carries (`--event`).
    #[serde(default)]
    pub item: Option<Value>,
    /// Stop after this step.
    #[serde(default)]
    pub until: Option<String>,
    /// Take over what an earlier run found out before this step: (run, step).
    #[serde(default)]
    pub from: Option<(RunId, String)>,
    /// Write the models' answers to this tape.
    #[serde(default)]
    pub record: Option<PathBuf>,
    /// `None`: by hand.
    #[serde(default)]
    pub trigger: Option<TriggerKind>,
    /// Makes the run unique among those of its pipeline and trigger. `None`: a new one.
    #[serde(default)]
    pub key: Option<String>,
    /// The moment that the run counts its days from. `None`: now.
    #[serde(default)]
    pub nominal_at: Option<Timestamp>,
}

/// The holder about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub pid: u32,
    /// `serve`, `run`, `demo`, `resume`.
    pub command: String,
    pub build_id: String,
    pub started_at: Timestamp,
    /// Pipelines that are loaded.
    pub pipelines: Vec<String>,
    /// Files that could not be loaded.
    pub broken: Vec<String>,
    pub active: Vec<RunId>,
    /// Claimed, and waiting for a free place.
    pub queued: usize,
}

/// What the holder answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Reply {
    Status(Status),
    Started {
        run: RunId,
    },
    Resumed {
        runs: Vec<RunId>,
    },
    Done,
    /// `None`: suspended, because the holder is stopping.
    Ended {
        outcome: Option<Outcome>,
    },
    Text {
        run: RunId,
        path: String,
        text: String,
    },
    Refused(Refusal),
}

/// Why the holder does not do it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Stable: `E-PIPELINE`, `E-RUN`…
    pub code: String,
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl Refusal {
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), help: None }
    }
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}
