//! The answer, put together from the events of the stream.
//!
//! Invariants: nothing is returned before `message_stop`; a tool call is returned only when its input is one whole JSON
//! object, as the bytes that came; blocks of unknown type are kept as they are. Unknown events are skipped, as the API's
//! versioning policy asks.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::domain::model::{ModelAnswer, StopReason, Usage};
use crate::ports::model::ModelError;

use super::super::sse::Event;
use super::super::wire::{self, MAX_ANSWER, broken, garbage};

#[derive(Deserialize)]
struct Incoming {
    #[serde(rename = "type", default)]
    kind: String,
    message: Option<Start>,
    index: Option<usize>,
    content_block: Option<Map<String, Value>>,
    delta: Option<Map<String, Value>>,
    usage: Option<Counts>,
    stop_details: Option<Value>,
}

#[derive(Deserialize)]
struct Start {
    model: String,
    #[serde(default)]
    usage: Option<Counts>,
}

#[derive(Deserialize, Default)]
struct Counts {
    input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation: Option<Written>,
    output_tokens: Option<u64>,
}

#[derive(Deserialize, Default)]
struct Written {
    ephemeral_5m_input_tokens: Option<u64>,
    ephemeral_1h_input_tokens: Option<u64>,
}

/// A content block.
struct Part {
    fields: Map<String, Value>,
    /// The input of a tool call as it comes.
    input: String,
    closed: bool,
}

/// See the module.
pub struct Assembly<'a> {
    asked: &'a str,
    model: Option<String>,
    parts: Vec<Part>,
    stop: Option<StopReason>,
    usage: Option<Usage>,
    bytes: usize,
}

impl<'a> Assembly<'a> {
    pub fn new(asked: &'a str) -> Self {
        Self { asked, model: None, parts: Vec::new(), stop: None, usage: None, bytes: 0 }
    }

    /// What has been reported so far.
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// One event; `true` when the answer is complete.
    pub fn take(&mut self, event: &Event, live: &(dyn Fn(&str) + Send + Sync)) -> Result<bool, ModelError> {
        if event.name == "error" {
            let body = serde_json::from_str(&event.data).unwrap_or(Value::Null);
            return Err(wire::error_event(&body, self.model.is_some(), self.usage));
        }
        let incoming: Incoming = serde_json::from_str(&event.data)
            .map_err(|error| self.garbage(format!("an event is not what the API sends: {error}")))?;
        let kind = if incoming.kind.is_empty() { event.name.as_str() } else { incoming.kind.as_str() };
        match kind {
            "error" => {
                let body = serde_json::from_str(&event.data).unwrap_or(Value::Null);
                Err(wire::error_event(&body, self.model.is_some(), self.usage))
            }
            "ping" => Ok(false),
            "message_start" => self.start(incoming).map(|()| false),
            "content_block_start" | "content_block_delta" | "content_block_stop" | "message_delta" | "message_stop"
                if self.model.is_none() =>
            {
                Err(self.garbage(format!("`{kind}` came before `message_start`")))
            }
            "content_block_start" => self.open(incoming, live).map(|()| false),
            "content_block_delta" => self.delta(incoming, live).map(|()| false),
            "content_block_stop" => self.close(incoming).map(|()| false),
            "message_delta" => self.message_delta(incoming).map(|()| false),
            "message_stop" => Ok(true),
            _ => Ok(false),
        }
    }

    fn start(&mut self, incoming: Incoming) -> Result<(), ModelError> {
        let Some(start) = incoming.message else { return Err(self.garbage("`message_start` without a message")) };
        if self.model.is_some() {
            return Err(self.garbage("a second `message_start`"));
        }
        self.count(start.usage)?;
        if !wire::same_model(self.asked, &start.model) {
            return Err(wire::other_model(self.asked, &start.model, self.usage));
        }
        self.model = Some(start.model);
        Ok(())
    }

    fn open(&mut self, incoming: Incoming, live: &(dyn Fn(&str) + Send + Sync)) -> Result<(), ModelError> {
        let (Some(index), Some(fields)) = (incoming.index, incoming.content_block) else {
            return Err(self.garbage("`content_block_start` without index or block"));
        };
        if index != self.parts.len() || self.stop.is_some() {
            return Err(self.garbage(format!("block {index} begins out of order")));
        }
        if fields.get("type").and_then(Value::as_str).is_none_or(str::is_empty) {
            return Err(self.garbage(format!("block {index} has no type")));
        }
        if let Some(text) = fields.get("text").and_then(Value::as_str).filter(|text| !text.is_empty()) {
            live(text);
        }
        self.grow(fields.values().map(|value| value.as_str().map_or(8, str::len)).sum())?;
        self.parts.push(Part { fields, input: String::new(), closed: false });
        Ok(())
    }

    fn delta(&mut self, incoming: Incoming, live: &(dyn Fn(&str) + Send + Sync)) -> Result<(), ModelError> {
        let (Some(index), Some(delta)) = (incoming.index, incoming.delta) else {
            return Err(self.garbage("`content_block_delta` without index or delta"));
        };
        self.grow(delta.values().map(|value| value.as_str().map_or(8, str::len)).sum())?;
        let Some(part) = self.parts.get_mut(index).filter(|part| !part.closed) else {
            return Err(self.garbage(format!("a delta for block {index}, which is not open")));
        };
        let kind = delta.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        for (name, value) in delta {
            match (kind.as_str(), name.as_str(), value) {
                (_, "type", _) => {}
                ("input_json_delta", "partial_json", Value::String(piece)) => part.input.push_str(&piece),
                ("text_delta", "text", Value::String(piece)) => {
                    live(&piece);
                    append(&mut part.fields, "text", piece);
                }
                ("signature_delta", "signature", value) => {
                    part.fields.insert("signature".into(), value);
                }
                ("citations_delta", "citation", value) => {
                    if let Some(Value::Array(list)) = part.fields.get_mut("citations") {
                        list.push(value);
                    } else {
                        part.fields.insert("citations".into(), vec![value].into());
                    }
                }
                // `thinking_delta`, and what a later version adds: a piece of text belongs to the field of its name.
                (_, name, Value::String(piece)) => append(&mut part.fields, name, piece),
                (_, name, value) => {
                    part.fields.insert(name.to_owned(), value);
                }
            }
        }
        Ok(())
    }

    fn close(&mut self, incoming: Incoming) -> Result<(), ModelError> {
        match incoming.index.and_then(|index| self.parts.get_mut(index)) {
            Some(part) if !part.closed => {
                part.closed = true;
                Ok(())
            }
            _ => Err(self.garbage("a block ends that is not open")),
        }
    }

    fn message_delta(&mut self, incoming: Incoming) -> Result<(), ModelError> {
        self.count(incoming.usage)?;
        let delta = incoming.delta.unwrap_or_default();
        if let Some(reason) = delta.get("stop_reason").and_then(Value::as_str) {
            let details = delta.get("stop_details").or(incoming.stop_details.as_ref());
            self.stop = Some(match reason {
                "end_turn" => StopReason::EndTurn,
                "tool_use" => StopReason::ToolUse,
                "max_tokens" => StopReason::MaxTokens,
                "stop_sequence" => StopReason::StopSequence,
                "pause_turn" => StopReason::PauseTurn,
                "refusal" => StopReason::Refusal { why: details.and_then(explanation) },
                "model_context_window_exceeded" => StopReason::ContextExceeded,
                other => StopReason::Other(other.to_owned()),
            });
        }
        Ok(())
    }

    /// Counts are cumulative, and a field that is left out or smaller says nothing new.
    fn count(&mut self, counts: Option<Counts>) -> Result<(), ModelError> {
        let Some(counts) = counts else { return Ok(()) };
        let old = self.usage.unwrap_or_default();
        let written = counts.cache_creation_input_tokens.unwrap_or(0);
        let split = counts.cache_creation.unwrap_or_default();
        let hour = split.ephemeral_1h_input_tokens.unwrap_or(0);
        let minutes = split.ephemeral_5m_input_tokens.unwrap_or(0).max(written.saturating_sub(hour));
        let usage = Usage {
            input: old.input.max(counts.input_tokens.unwrap_or(0)),
            cache_write_5m: old.cache_write_5m.max(minutes),
            cache_write_1h: old.cache_write_1h.max(hour),
            cache_read: old.cache_read.max(counts.cache_read_input_tokens.unwrap_or(0)),
            output: old.output.max(counts.output_tokens.unwrap_or(0)),
        };
        if !wire::plausible(&usage) {
            return Err(self.garbage("the reported usage is impossible"));
        }
        self.usage = Some(usage);
        Ok(())
    }

    fn grow(&mut self, by: usize) -> Result<(), ModelError> {
        self.bytes = self.bytes.saturating_add(by);
        if self.bytes > MAX_ANSWER || self.parts.len() > 10_000 {
            return Err(self.garbage(format!("the answer is larger than {MAX_ANSWER} bytes")));
        }
        Ok(())
    }

    fn garbage(&self, message: impl Into<String>) -> ModelError {
        garbage(message, self.usage)
    }

    /// The finished answer. `estimate` gives the usage for a server that reported none, from the bytes of the answer.
    ///
    /// The content can be empty: when nothing was said, or when the only block was a tool call that `max_tokens` cut off.
    pub fn finish(self, estimate: impl FnOnce(u64) -> Usage) -> Result<ModelAnswer, ModelError> {
        let Some(stop) = self.stop else { return Err(broken("the answer has no stop reason", self.usage)) };
        let Some(model) = self.model else { return Err(broken("the answer has no beginning", self.usage)) };
        let mut usage = self.usage.unwrap_or_default();
        if usage.total_input() == 0 || (usage.output == 0 && self.bytes > 0) {
            let bound = estimate(self.bytes as u64);
            usage = Usage {
                input: if usage.total_input() == 0 { bound.input } else { usage.input },
                output: if usage.output == 0 { bound.output } else { usage.output },
                ..usage
            };
        }
        let cut_off = matches!(stop, StopReason::MaxTokens | StopReason::ContextExceeded);
        let mut content = String::from(r#"{"role":"assistant","content":["#);
        let (mut ids, mut blocks) = (Vec::new(), 0);
        for (index, part) in self.parts.iter().enumerate() {
            let last = index + 1 == self.parts.len();
            let kind = part.fields.get("type").and_then(Value::as_str).unwrap_or_default();
            if !(part.closed || (cut_off && last)) {
                return Err(garbage(format!("block {index} never ends"), Some(usage)));
            }
            // The API refuses a blank text when it is sent back.
            let text = part.fields.get("text").and_then(Value::as_str);
            if kind == "text" && text.is_none_or(|text| text.trim().is_empty()) {
                continue;
            }
            let input = match whole_input(part) {
                // What the limit cut off is no call. The stop reason tells.
                Err(_) if cut_off && last => continue,
                Ok(None) if cut_off && last && kind == "tool_use" => continue,
                Ok(input) => input,
                Err(why) => return Err(garbage(format!("the input of a tool call {why}"), Some(usage))),
            };
            if kind == "tool_use" {
                let word = |name: &str| part.fields.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
                let (Some(id), Some(_)) = (word("id"), word("name")) else {
                    return Err(garbage("a tool call without id or name", Some(usage)));
                };
                if ids.contains(&id) {
                    return Err(garbage("two tool calls with one id", Some(usage)));
                }
                ids.push(id);
            }
            content.push_str(if blocks > 0 { ",{" } else { "{" });
            blocks += 1;
            for (n, (name, value)) in part.fields.iter().enumerate() {
                if n > 0 {
                    content.push(',');
                }
                content.push_str(&Value::from(name.as_str()).to_string());
                content.push(':');
                match (name.as_str(), input) {
                    ("input", Some(input)) => content.push_str(input),
                    _ => content.push_str(&value.to_string()),
                }
            }
            content.push('}');
        }
        content.push_str("]}");
        let stop = match stop {
            StopReason::ToolUse if ids.is_empty() => {
                return Err(garbage("it stops for a tool call and makes none", Some(usage)));
            }
            StopReason::EndTurn if !ids.is_empty() => StopReason::ToolUse,
            stop => stop,
        };
        let message = RawValue::from_string(content)
            .map_err(|error| garbage(format!("a block is not JSON: {error}"), Some(usage)))?;
        Ok(ModelAnswer { message: message.into(), stop, usage, model, provider: "anthropic".into(), fallback: None })
    }
}

fn append(fields: &mut Map<String, Value>, name: &str, piece: String) {
    match fields.get_mut(name) {
        Some(Value::String(text)) => text.push_str(&piece),
        _ => {
            fields.insert(name.to_owned(), piece.into());
        }
    }
}

/// The streamed input of a tool call if it is one whole JSON object; `None` where none was streamed and the block's own counts.
fn whole_input(part: &Part) -> Result<Option<&str>, &'static str> {
    if !part.fields.contains_key("input") {
        let wanted = part.fields.get("type").and_then(Value::as_str).is_some_and(|kind| kind == "tool_use");
        return if wanted { Err("is missing") } else { Ok(None) };
    }
    if part.input.trim().is_empty() {
        let own = part.fields.get("input").is_some_and(Value::is_object);
        return if part.closed && own { Ok(None) } else { Err("is not there") };
    }
    match serde_json::from_str::<Value>(&part.input) {
        Ok(Value::Object(_)) => Ok(Some(part.input.trim())),
        Ok(_) => Err("is not an object"),
        Err(_) => Err("is not whole JSON"),
    }
}

/// `stop_details` of a refusal in one line.
fn explanation(details: &Value) -> Option<String> {
    let word = |name: &str| details.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    match (word("category"), word("explanation")) {
        (Some(category), Some(text)) => Some(format!("{category}: {text}")),
        (one, other) => one.or(other).map(str::to_owned),
    }
}
