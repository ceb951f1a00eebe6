//! The messages of one question: bytes that were sent stay as they are, so that the prefix of the next request is cached.

use std::sync::Arc;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::domain::model::{Block, Message, RawMessage, Speaker, Usage};
use crate::ports::durable::Stop;

use super::{E_MODEL, failed};

/// The messages so far, with the part of the next user message that is not sent yet.
#[derive(Default)]
pub(super) struct Transcript {
    messages: Vec<RawMessage>,
    pending: Vec<Block>,
    /// See `ModelRequest::known_prefix`.
    known: (u64, usize),
}

/// What a model's message says, as far as we act on it. Other blocks (thinking) are only sent back.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Said {
    pub text: String,
    pub calls: Vec<Call>,
}

/// A tool call that the model asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    pub id: String,
    pub name: String,
    pub input: Value,
}

impl Transcript {
    /// Adds to the next user message. Tool results must come before text.
    pub fn say(&mut self, block: Block) {
        self.pending.push(block);
    }

    /// The messages to send.
    pub fn messages(&mut self) -> Result<Vec<RawMessage>, Stop> {
        if !self.pending.is_empty() {
            // Two user messages in a row happen when a request was refused and something is added to it.
            if let Some(last) = self.messages.last().filter(|last| is_users(last))
                && let Ok(mut message) = Message::from_raw(last)
            {
                self.messages.pop();
                message.content.append(&mut self.pending);
                self.pending = message.content;
            }
            let content = std::mem::take(&mut self.pending);
            self.messages.push(raw(&Message { role: Speaker::User, content })?);
        }
        Ok(self.messages.clone())
    }

    pub fn known_prefix(&self) -> (u64, usize) {
        self.known
    }

    /// Appends the model's message as it is. What follows a pause continues the paused message.
    pub fn answered(&mut self, message: RawMessage, usage: &Usage) {
        self.known = (usage.total_input(), self.messages.len());
        let continued = self.messages.last().and_then(|last| joined(last, &message));
        match continued {
            Some(whole) => {
                self.messages.pop();
                self.known = (0, 0);
                self.messages.push(whole);
            }
            None => self.messages.push(message),
        }
    }

    /// Appends a notice instead of a message that is too large to be sent again.
    pub fn answered_at_length(&mut self, bytes: usize, usage: &Usage) -> Result<(), Stop> {
        let text = format!("(an answer of {bytes} bytes is left out)");
        let message = raw(&Message { role: Speaker::Assistant, content: vec![Block::Text { text }] })?;
        self.answered(message, usage);
        Ok(())
    }

    /// Appends the model's message without calls that it did not finish, or that are too large to be sent again.
    pub fn answered_without(
        &mut self,
        message: &RawValue,
        usage: &Usage,
        keep: impl Fn(&Call) -> Keep,
    ) -> Result<(), Stop> {
        let mut parsed: Value = serde_json::from_str(message.get()).map_err(|_| garbage())?;
        if let Some(blocks) = parsed["content"].as_array_mut() {
            blocks.retain_mut(|block| match call_of(block).map(|call| keep(&call)) {
                Some(Keep::No) => false,
                Some(Keep::Instead(input)) => {
                    block["input"] = input;
                    true
                }
                Some(Keep::Yes) | None => true,
            });
            if blocks.iter().all(|block| matches!(block["type"].as_str(), Some("thinking" | "redacted_thinking"))) {
                blocks.push(serde_json::json!({"type": "text", "text": "(nothing)"}));
            }
        }
        let bytes = serde_json::value::to_raw_value(&parsed).map_err(|_| garbage())?;
        self.answered(Arc::from(bytes), usage);
        Ok(())
    }

    /// Size of all messages in bytes.
    pub fn bytes(&self) -> usize {
        self.messages.iter().map(|message| message.get().len()).sum()
    }

    /// Tool results worth moving out of the transcript: (message, block, tool call id, text), oldest first. The first message
    /// and the last `keep` ones stay.
    pub fn old_results(&self, keep: usize, least_bytes: usize) -> Vec<(usize, usize, String)> {
        let mut found = Vec::new();
        let end = self.messages.len().saturating_sub(keep);
        for (at, raw) in self.messages.iter().enumerate().take(end).skip(1) {
            let Ok(message) = Message::from_raw(raw) else { continue };
            for (n, block) in message.content.iter().enumerate() {
                if let Block::ToolResult { content, .. } = block
                    && content.len() >= least_bytes
                {
                    found.push((at, n, content.clone()));
                }
            }
        }
        found
    }

    /// Replaces the text of a tool result. The cached prefix ends there.
    pub fn replace_result(&mut self, at: usize, block: usize, text: String) -> Result<(), Stop> {
        let Some(message) = self.messages.get_mut(at) else { return Ok(()) };
        let mut parsed = Message::from_raw(message).map_err(|_| garbage())?;
        if let Some(Block::ToolResult { content, .. }) = parsed.content.get_mut(block) {
            *content = text;
        }
        *message = raw(&parsed)?;
        // What is known about the size no longer holds.
        self.known = (0, 0);
        Ok(())
    }
}

/// Whether a message is one of ours, without reading all of it: ours begin with the speaker.
fn is_users(message: &RawValue) -> bool {
    message.get().starts_with(r#"{"role":"user""#)
}

/// Two messages of the assistant as one; `None` when the first is ours.
fn joined(first: &RawValue, second: &RawValue) -> Option<RawMessage> {
    if is_users(first) {
        return None;
    }
    let mut whole: Value = serde_json::from_str(first.get()).ok()?;
    let mut second: Value = serde_json::from_str(second.get()).ok()?;
    let more = std::mem::take(second["content"].as_array_mut()?);
    whole["content"].as_array_mut()?.extend(more);
    serde_json::value::to_raw_value(&whole).ok().map(Arc::from)
}

/// What becomes of a call when its message is kept.
pub(super) enum Keep {
    Yes,
    No,
    Instead(Value),
}

/// Reads a model's message. Unknown blocks are left alone.
pub(super) fn read(message: &RawValue) -> Result<Said, Stop> {
    let parsed: Value = serde_json::from_str(message.get()).map_err(|_| garbage())?;
    let mut said = Said::default();
    for block in parsed["content"].as_array().ok_or_else(garbage)? {
        if block["type"] == "text" {
            said.text.push_str(block["text"].as_str().unwrap_or_default());
        } else if let Some(call) = call_of(block) {
            said.calls.push(call);
        }
    }
    let mut ids = std::collections::BTreeSet::new();
    if said.calls.iter().any(|call| call.id.is_empty() || !ids.insert(&call.id)) {
        return Err(failed(E_MODEL, "the model's tool calls have no ids of their own"));
    }
    Ok(said)
}

fn call_of(block: &Value) -> Option<Call> {
    (block["type"] == "tool_use").then(|| Call {
        id: block["id"].as_str().unwrap_or_default().to_owned(),
        name: block["name"].as_str().unwrap_or_default().to_owned(),
        input: block["input"].clone(),
    })
}

pub(super) fn raw(message: &Message) -> Result<RawMessage, Stop> {
    message.raw().map_err(|error| failed(E_MODEL, format!("a message cannot be written: {error}")))
}

fn garbage() -> Stop {
    failed(E_MODEL, "the model's answer is not a message")
}
