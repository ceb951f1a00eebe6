//! An activity is data: what durable logic asks for and the executor does.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::hash::Hash;

use super::model::ModelRequest;
use super::report::Report;

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
        }
    }

    pub fn care(&self) -> Care {
        match self {
            Self::Model(_) | Self::Deliver(_) => Care::Guarded,
            Self::Fetch(_) | Self::Tool(_) | Self::Account | Self::Keep { .. } => Care::Pure,
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

/// An agent's call of a tool, after the model asked for it. The input is checked against the tool's schema first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolRequest {
    /// The capability name.
    pub tool: String,
    pub input: Value,
}

/// What the model is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolAnswer {
    pub text: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_error: bool,
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
