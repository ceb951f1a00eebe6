//! What is said to a model and what comes back, independent of the provider.
//!
//! The neutral form of a message is the JSON of Anthropic's Messages API (`text`, `tool_use`, `tool_result`, `thinking`
//! blocks), because it is the richest; other providers translate. Messages travel as raw bytes: a transcript of twenty
//! turns is then twenty small strings, not twenty trees, and the stable prefix of a prompt stays byte for byte the same.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::run::names;

/// The role of a model call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Boss,
    Intern,
    Reviewer,
}
names!(Role { Boss = "boss", Intern = "intern", Reviewer = "reviewer" });

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Speaker {
    User,
    Assistant,
}

/// One message of a transcript, readable. [`RawMessage`] is how it travels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub role: Speaker,
    pub content: Vec<Block>,
}

/// One block of a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Block {
    Text {
        text: String,
    },
    ToolUse {
        id: String,
        name: String,
        input: serde_json::Value,
    },
    ToolResult {
        tool_use_id: String,
        content: String,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        is_error: bool,
    },
    /// Returned to the provider untouched: the signature binds it to model and conversation.
    Thinking {
        #[serde(default)]
        thinking: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signature: Option<String>,
    },
    RedactedThinking {
        data: String,
    },
    /// A block that this version does not know. It travels on in the raw message; a typed copy must not be sent.
    #[serde(other)]
    Other,
}

/// A message as the JSON that is sent, shared and never re-serialised.
pub type RawMessage = Arc<RawValue>;

impl Message {
    pub fn user(text: impl Into<String>) -> Self {
        Self { role: Speaker::User, content: vec![Block::Text { text: text.into() }] }
    }
    /// The bytes that travel.
    pub fn raw(&self) -> Result<RawMessage, serde_json::Error> {
        Ok(Arc::from(serde_json::value::to_raw_value(self)?))
    }
    /// Reads a raw message again.
    pub fn from_raw(raw: &RawValue) -> Result<Self, serde_json::Error> {
        serde_json::from_str(raw.get())
    }
}

/// A tool as the model sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolSpec {
    pub name: String,
    pub description: String,
    /// JSON Schema of the input object.
    pub input_schema: serde_json::Value,
}

/// One request to a model, as data. The executor adds model name, limits and credentials.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelRequest {
    pub role: Role,
    /// Trusted text only: from nightcrew and from YAML.
    pub system: Arc<str>,
    pub tools: Arc<Vec<ToolSpec>>,
    pub messages: Vec<RawMessage>,
    /// The final answer must be JSON of this schema, through the provider's own schema mode.
    pub output_schema: Option<Arc<serde_json::Value>>,
    /// The model must not call tools in this answer (a closing call).
    #[serde(default)]
    pub no_tools: bool,
    /// Exact input tokens of the request of which this one is a continuation, and the number of messages it had; from there
    /// the size of the rest is estimated. Zeroes: nothing is known.
    #[serde(default)]
    pub known_prefix: (u64, usize),
    /// Item budgets above this call, outermost first: (path of the child, its cap in micro-dollars).
    #[serde(default)]
    pub items: Vec<(String, crate::base::money::UsdMicros)>,
    #[serde(default)]
    pub from_report_slice: bool,
    /// See `GrantRequest::counts_turn`.
    #[serde(default)]
    pub counts_turn: bool,
}

/// Why the model stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    EndTurn,
    ToolUse,
    MaxTokens,
    StopSequence,
    /// Send the assistant's message back to go on.
    PauseTurn,
    Refusal {
        why: Option<String>,
    },
    ContextExceeded,
    Other(String),
}

/// Tokens of one call. `input` counts only what was neither read from nor written to the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub input: u64,
    pub cache_write_5m: u64,
    pub cache_write_1h: u64,
    pub cache_read: u64,
    pub output: u64,
}

impl Usage {
    /// All input tokens, cached or not.
    pub fn total_input(&self) -> u64 {
        self.input + self.cache_write_5m + self.cache_write_1h + self.cache_read
    }
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.input += other.input;
        self.cache_write_5m += other.cache_write_5m;
        self.cache_write_1h += other.cache_write_1h;
        self.cache_read += other.cache_read;
        self.output += other.output;
    }
}

/// A finished answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelAnswer {
    /// The assistant's message, to be appended to the transcript as it is.
    pub message: RawMessage,
    pub stop: StopReason,
    pub usage: Usage,
    /// As the provider named it.
    pub model: String,
    /// `anthropic`, `openai`, `tape`.
    pub provider: String,
    /// The configured model that answered instead of the role's own, after an outage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
}
