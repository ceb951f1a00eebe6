//! An activity is data: what durable logic asks for and the executor does.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::hash::Hash;

use super::code::{TreeDiff, TreeId};
use super::finding::FindingsRequest;
use super::model::ModelRequest;
use super::proposal::Proposal;
use super::report::Report;
use super::sandbox::SandboxRequest;

/// One journalled act. Its address is the path of the context that performs it plus a number.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Activity {
    /// A model call. Costs money. Yields `ModelAnswer`.
    Model(ModelRequest),
    /// Reads a source. Yields [`Rows`].
    Fetch(FetchRequest),
    /// An agent's call of a tool. Yields [`ToolAnswer`].
    Tool(ToolRequest),
    /// Hands a report to a sink. Acts outside. Yields [`Receipt`].
    Deliver(Delivery),
    /// Reads the run's own account at this moment. Yields `view::RunView`.
    Account,
    /// Stores a large text as an artifact. Yields [`Artifact`].
    Keep { name: String, text: String },
    /// Looks up the code that the run works on. `attempt` tells looks apart. Yields `sandbox::Workspace`.
    Workspace { attempt: u32 },
    /// Makes or finds the environment for a tree and runs its checks. Yields `sandbox::Prepared`.
    Environment { base: TreeId },
    /// Runs a command in the sandbox. Yields `sandbox::SandboxAnswer`.
    Sandbox(SandboxRequest),
    /// Compares, applies and picks from trees. Yields [`Difference`] or [`NewTree`].
    Code(CodeRequest),
    /// Reads passages of files of a tree. Yields [`Passages`].
    Lines(LinesRequest),
    /// Asks the findings ledger, or tells it. Yields `finding::Judged`, or an object.
    Findings(FindingsRequest),
    /// Publishes a ticket or a pull request. Acts outside. Yields `proposal::Published`.
    Publish(Box<Proposal>),
    /// Looks after what the pipeline has published to `sink` before. Repeatable. Yields `proposal::Tended`.
    Tend { sink: String, effects: super::run::Effects },
}

/// Whether a crash between beginning and end matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Care {
    /// Repeating it is harmless: only `done` is written, and shares the next commit.
    Pure,
    /// Costs money or acts outside: `intended` is on disk before it begins.
    Guarded,
}

impl Activity {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Model(_) => "model",
            Self::Fetch(_) => "fetch",
            Self::Tool(_) => "tool",
            Self::Deliver(_) => "deliver",
            Self::Account => "account",
            Self::Keep { .. } => "keep",
            Self::Workspace { .. } => "workspace",
            Self::Environment { .. } => "environment",
            Self::Sandbox(_) => "sandbox",
            Self::Code(_) => "code",
            Self::Lines(_) => "lines",
            Self::Findings(_) => "findings",
            Self::Publish(_) => "publish",
            Self::Tend { .. } => "tend",
        }
    }

    pub fn care(&self) -> Care {
        match self {
            Self::Model(_) | Self::Deliver(_) | Self::Publish(_) => Care::Guarded,
            // Sandbox work is repeated from the tree; the ledger takes the same word twice.
            Self::Fetch(_)
            | Self::Tool(_)
            | Self::Account
            | Self::Keep { .. }
            | Self::Workspace { .. }
            | Self::Environment { .. }
            | Self::Sandbox(_)
            | Self::Code(_)
            | Self::Lines(_)
            | Self::Findings(_)
            | Self::Tend { .. } => Care::Pure,
        }
    }

    /// The hash of the input. The same path with another hash under the same binary is a bug (E-REPLAY).
    pub fn input_hash(&self) -> Hash {
        // Serialising plain data to memory cannot fail; an empty text would only make replay stricter.
        let text = serde_json::to_vec(self).unwrap_or_default();
        Hash::of_parts([self.kind().as_bytes(), &text])
    }
}

/// Asks a source for rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FetchRequest {
    /// The name of a tool of the pipeline, or of a source such as `sentry`.
    pub from: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    pub args: Map<String, Value>,
    /// Tells repeated reads apart (`require` with `retry`).
    #[serde(default)]
    pub attempt: u32,
}

/// What a source answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rows {
    pub rows: Vec<Map<String, Value>>,
    /// More rows existed than were taken.
    #[serde(default)]
    pub truncated: bool,
    /// `sqlite`, `http`, `files`…: for the report's footer and `plan`.
    pub via: String,
}

impl Rows {
    /// Takes out every field of these names, also from objects within the rows. Upper and lower case are the same: a database
    /// may spell a column as it likes.
    pub fn hide(&mut self, names: &[String]) {
        if names.is_empty() {
            return;
        }
        let names: Vec<String> = names.iter().map(|name| name.to_lowercase()).collect();
        for row in &mut self.rows {
            hide_in(row, &names);
        }
    }
}

fn hide_in(map: &mut Map<String, Value>, names: &[String]) {
    map.retain(|field, _| !names.contains(&field.to_lowercase()));
    let mut left: Vec<&mut Value> = map.values_mut().collect();
    while let Some(value) = left.pop() {
        match value {
            Value::Object(map) => {
                map.retain(|field, _| !names.contains(&field.to_lowercase()));
                left.extend(map.values_mut());
            }
            Value::Array(items) => left.extend(items.iter_mut()),
            _ => {}
        }
    }
}

/// An agent's call of a tool, after the model asked for it. The input is checked against the tool's schema first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolRequest {
    /// The capability name.
    pub tool: String,
    pub input: Value,
    /// The code it is about, for those that look at code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<CodeAt>,
}

/// Where an agent's work on the code stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeAt {
    /// The run's base, for which the environment was prepared.
    pub base: TreeId,
    /// With the agent's edits so far.
    pub tree: TreeId,
}

/// Work on trees that needs no sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum CodeRequest {
    /// Yields [`Difference`].
    Diff { base: TreeId, new: TreeId },
    /// `base` with a patch as text. Yields [`NewTree`].
    Apply { base: TreeId, patch: String },
    /// The change from `base` to `new`, on another base; fails where they touch the same lines. Yields [`NewTree`].
    Carry { base: TreeId, new: TreeId, onto: TreeId },
    /// `base` with its tests as in `new` and all else as it was: whole files that are tests, and of other Rust files the test
    /// modules. Yields [`NewTree`].
    Tests { base: TreeId, new: TreeId },
}

/// Passages of many files at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinesRequest {
    pub tree: TreeId,
    pub wanted: Vec<Passage>,
}

/// Some lines of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passage {
    /// Relative to the repository.
    pub path: String,
    /// From 1; 0: none, only whether the file is there.
    pub from: u32,
    /// Inclusive.
    pub to: u32,
}

/// What stands there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passages {
    /// One for each that was wanted, in their order; lines that do not exist are left out, long ones cut. `None`: no such file,
    /// or it is no text.
    pub texts: Vec<Option<String>>,
}

/// The difference of two trees, for rules and for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    pub diff: TreeDiff,
    /// As text that `git apply` takes.
    pub patch: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTree {
    pub tree: TreeId,
}

/// What the model is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolAnswer {
    pub text: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_error: bool,
    /// The code afterwards, where the tool changed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<TreeId>,
}

impl ToolAnswer {
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_error: false, tree: None }
    }
    /// What the model did wrong, so that it may do it right.
    pub fn mistake(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_error: true, tree: None }
    }
}

/// One report for one sink.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Delivery {
    /// `files`, `slack`, …: the name in the YAML; the profile binds it.
    pub sink: String,
    pub channel: Option<String>,
    pub report: Box<Report>,
    /// By which the sink finds what it already delivered: `run/path/sink`.
    pub key: String,
    #[serde(default, skip_serializing_if = "Thread::is_default")]
    pub thread: Thread,
}

/// `report.thread`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Thread {
    /// One message per run, its details in the thread.
    #[default]
    PerRun,
    /// One message and thread per finding, edited as things move.
    PerFinding,
    /// Nothing to tell: the pipeline's last message that said so is edited (`when_quiet: edit`).
    Quiet,
}

impl Thread {
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Proof that the host did it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// `report`, `ticket`, `pull_request`, …
    pub kind: String,
    /// The sink that really took it: `files`, `terminal`, `slack`…
    pub destination: String,
    pub url_or_path: String,
    pub key: String,
    /// Found where an earlier attempt had left it.
    #[serde(default)]
    pub found: bool,
}

/// A stored large text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    pub id: String,
    pub name: String,
    pub blob: Hash,
    pub bytes: u64,
    pub lines: u64,
}

/// An agent says what it lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Complaint {
    /// secret, network, tool, dependency, data, instruction.
    pub kind: String,
    pub need: String,
    pub evidence: String,
    #[serde(default)]
    pub step: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn hidden_fields_leave_rows_at_every_depth() {
        let row = json!({
            "n": 1, "Email": "a", "who": {"email": "b", "id": 2}, "list": [{"EMAIL": "c", "k": [[{"email": 1}]]}, 3],
        });
        let mut rows = Rows { rows: vec![row.as_object().cloned().unwrap()], ..Rows::default() };
        rows.hide(&["email".to_owned()]);
        assert_eq!(Value::Object(rows.rows.remove(0)), json!({"n": 1, "who": {"id": 2}, "list": [{"k": [[{}]]}, 3]}));
    }
}
