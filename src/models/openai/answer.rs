//! The answer of a chat completion, put together from chunks and translated to the neutral form.
//!
//! Invariants: nothing is returned before a finish reason; a tool call is returned only when its arguments are one whole JSON
//! object. Servers differ: an index, an id or the usage may be missing, a name may be repeated; that is made good here.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::domain::model::{ModelAnswer, StopReason, Usage};
use crate::ports::model::{ModelCall, ModelError};

use super::super::schema;
use super::super::sse::Event;
use super::super::wire::{self, MAX_ANSWER, broken, garbage};

#[derive(Deserialize)]
struct Chunk {
    model: Option<String>,
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Counts>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: u32,
    delta: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
    refusal: Option<String>,
    reasoning: Option<Value>,
    /// The same under an older name; some servers send both.
    reasoning_content: Option<Value>,
    tool_calls: Option<Vec<CallPiece>>,
}

#[derive(Deserialize)]
struct CallPiece {
    index: Option<usize>,
    id: Option<String>,
    function: Option<FunctionPiece>,
}

#[derive(Deserialize)]
struct FunctionPiece {
    name: Option<String>,
    arguments: Option<Value>,
}

#[derive(Deserialize)]
struct Counts {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u64>,
    cache_write_tokens: Option<u64>,
}

#[derive(Default)]
struct Call {
    index: Option<usize>,
    id: String,
    name: String,
    arguments: String,
}

/// See the module.
pub struct Assembly<'a> {
    call: &'a ModelCall<'a>,
    model: Option<String>,
    begun: bool,
    text: String,
    refusal: String,
    calls: Vec<Call>,
    finish: Option<String>,
    usage: Option<Usage>,
    bytes: usize,
}

impl<'a> Assembly<'a> {
    pub fn new(call: &'a ModelCall<'a>) -> Self {
        Self {
            call,
            model: None,
            begun: false,
            text: String::new(),
            refusal: String::new(),
            calls: Vec::new(),
            finish: None,
            usage: None,
            bytes: 0,
        }
    }

    /// What has been reported so far.
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// The finish reason has come.
    pub fn is_whole(&self) -> bool {
        self.finish.is_some()
    }

    /// One event; `true` at `[DONE]`.
    pub fn take(&mut self, event: &Event, live: &(dyn Fn(&str) + Send + Sync)) -> Result<bool, ModelError> {
        if event.data.trim() == "[DONE]" {
            return match self.finish {
                Some(_) => Ok(true),
                None => Err(broken("the stream is done before the answer is", self.usage)),
            };
        }
        if event.name == "error" {
            let body = serde_json::from_str(&event.data).unwrap_or(Value::Null);
            return Err(wire::error_event(&body, self.begun, self.usage));
        }
        let chunk: Chunk = serde_json::from_str(&event.data)
            .map_err(|error| self.garbage(format!("a chunk is not what the API sends: {error}")))?;
        if chunk.error.as_ref().is_some_and(|error| !error.is_null()) {
            let body = serde_json::from_str(&event.data).unwrap_or(Value::Null);
            return Err(wire::error_event(&body, self.begun, self.usage));
        }
        if let Some(counts) = chunk.usage {
            self.count(&counts)?;
        }
        // A server that leaves the name out cannot be checked.
        if let Some(model) = chunk.model.filter(|name| !name.is_empty()) {
            if !wire::same_model(self.call.model, &model) {
                return Err(wire::other_model(self.call.model, &model, self.usage));
            }
            self.model = Some(model);
        }
        for choice in chunk.choices.into_iter().filter(|choice| choice.index == 0) {
            self.begun = true;
            if let Some(delta) = choice.delta {
                self.delta(delta, live)?;
            }
            if let Some(reason) = choice.finish_reason.filter(|reason| !reason.is_empty()) {
                self.finish = Some(reason);
            }
        }
        Ok(false)
    }

    fn delta(&mut self, delta: Delta, live: &(dyn Fn(&str) + Send + Sync)) -> Result<(), ModelError> {
        if let Some(piece) = delta.content.filter(|piece| !piece.is_empty()) {
            if self.finish.is_some() {
                return Err(self.garbage("text after the finish reason"));
            }
            self.grow(piece.len())?;
            live(&piece);
            self.text.push_str(&piece);
        }
        if let Some(piece) = delta.refusal {
            self.grow(piece.len())?;
            self.refusal.push_str(&piece);
        }
        // Reasoning is paid for but belongs to nobody else: it is counted and left out.
        if let Some(Value::String(piece)) = delta.reasoning.or(delta.reasoning_content) {
            self.grow(piece.len())?;
        }
        for piece in delta.tool_calls.unwrap_or_default() {
            if self.finish.is_some() {
                return Err(self.garbage("a tool call after the finish reason"));
            }
            self.call_piece(piece)?;
        }
        Ok(())
    }

    fn call_piece(&mut self, piece: CallPiece) -> Result<(), ModelError> {
        let id = piece.id.unwrap_or_default();
        let place = match piece.index {
            Some(index) => self.calls.iter().position(|call| call.index == Some(index)),
            // Without an index a new id begins a new call, and everything else goes on with the last one.
            None if id.is_empty() => self.calls.len().checked_sub(1),
            None => self.calls.iter().position(|call| call.id == id),
        };
        let place = place.unwrap_or_else(|| {
            self.calls.push(Call { index: piece.index, ..Call::default() });
            self.calls.len() - 1
        });
        let mut grown = 16 + id.len();
        let call = &mut self.calls[place];
        if call.id.is_empty() {
            call.id = id;
        }
        if let Some(function) = piece.function {
            // Some servers repeat the name with every piece.
            if let Some(name) = function.name.filter(|name| *name != call.name) {
                grown += name.len();
                call.name.push_str(&name);
            }
            match function.arguments {
                Some(Value::String(text)) => {
                    grown += text.len();
                    call.arguments.push_str(&text);
                }
                // Some give the whole object at once.
                Some(object @ Value::Object(_)) => {
                    let text = object.to_string();
                    grown += text.len();
                    call.arguments.push_str(&text);
                }
                Some(_) | None => {}
            }
        }
        self.grow(grown)
    }

    /// Counts are cumulative where they come more than once.
    fn count(&mut self, counts: &Counts) -> Result<(), ModelError> {
        let old = self.usage.unwrap_or_default();
        let prompt = counts.prompt_tokens.unwrap_or(0);
        let details = counts.prompt_tokens_details.as_ref();
        let cached = details.and_then(|d| d.cached_tokens).unwrap_or(0).min(prompt);
        let written = details.and_then(|d| d.cache_write_tokens).unwrap_or(0).min(prompt - cached);
        let mut usage = Usage {
            input: prompt - cached - written,
            cache_write_5m: written,
            cache_read: cached,
            output: counts.completion_tokens.unwrap_or(0).max(old.output),
            ..Usage::default()
        };
        if usage.total_input() < old.total_input() {
            usage = Usage { output: usage.output, ..old };
        }
        if !wire::plausible(&usage) {
            return Err(self.garbage("the reported usage is impossible"));
        }
        self.usage = Some(usage);
        Ok(())
    }

    fn grow(&mut self, by: usize) -> Result<(), ModelError> {
        self.bytes = self.bytes.saturating_add(by);
        if self.bytes > MAX_ANSWER {
            return Err(self.garbage(format!("the answer is larger than {MAX_ANSWER} bytes")));
        }
        Ok(())
    }

    fn garbage(&self, message: impl Into<String>) -> ModelError {
        garbage(message, self.usage)
    }

    /// The finished answer. `estimate` gives the usage for a server that reported none, from the bytes of the answer.
    pub fn finish(self, estimate: impl FnOnce(u64) -> Usage) -> Result<ModelAnswer, ModelError> {
        let Some(finish) = self.finish else { return Err(broken("the answer has no finish reason", self.usage)) };
        let bound = || estimate(self.bytes as u64);
        let usage = match self.usage {
            Some(usage) if usage.total_input() > 0 && (usage.output > 0 || self.bytes == 0) => usage,
            Some(usage) => {
                let bound = bound();
                let input = if usage.total_input() == 0 { bound.input } else { usage.input };
                let output = if usage.output == 0 { bound.output } else { usage.output };
                Usage { input, output, ..usage }
            }
            None => bound(),
        };
        let cut_off = finish == "length";
        let request = self.call.request;
        let mut content = Vec::new();
        let text = without_nulls(self.text, request.output_schema.as_deref());
        if !text.trim().is_empty() {
            content.push(json!({"type": "text", "text": text}).to_string());
        }
        let mut ids: Vec<String> = Vec::new();
        let count = self.calls.len();
        for (n, call) in self.calls.into_iter().enumerate() {
            let arguments = match call.arguments.trim() {
                // A call without arguments. What the limit cut off is no call.
                "" if cut_off && n + 1 == count => continue,
                "" => "{}",
                text => text,
            };
            match serde_json::from_str::<Value>(arguments) {
                Ok(Value::Object(_)) => {}
                Err(_) if cut_off && n + 1 == count => continue,
                Ok(_) => return Err(garbage("the arguments of a tool call are not an object", Some(usage))),
                Err(_) => return Err(garbage("the arguments of a tool call are not whole JSON", Some(usage))),
            }
            if call.name.is_empty() {
                return Err(garbage("a tool call without name", Some(usage)));
            }
            // Unique within the conversation and the same whenever the same answer is read.
            let id = if call.id.is_empty() { format!("call_{}_{n}", request.messages.len()) } else { call.id };
            if ids.contains(&id) {
                return Err(garbage("two tool calls with one id", Some(usage)));
            }
            content.push(format!(
                r#"{{"type":"tool_use","id":{},"name":{},"input":{arguments}}}"#,
                Value::from(id.as_str()),
                Value::from(call.name)
            ));
            ids.push(id);
        }
        let stop = match finish.as_str() {
            "stop" | "eos" if ids.is_empty() && !self.refusal.is_empty() => {
                StopReason::Refusal { why: Some(self.refusal) }
            }
            // Several servers say `stop` when they mean tool calls.
            "stop" | "eos" | "tool_calls" | "function_call" if !ids.is_empty() => StopReason::ToolUse,
            "stop" | "eos" => StopReason::EndTurn,
            "tool_calls" | "function_call" => {
                return Err(garbage("it stops for a tool call and makes none", Some(usage)));
            }
            "length" => StopReason::MaxTokens,
            "content_filter" => StopReason::Refusal { why: Some("content_filter".into()) },
            "error" => return Err(broken("the server stopped with an error", Some(usage))),
            other => StopReason::Other(other.to_owned()),
        };
        let message = RawValue::from_string(format!(r#"{{"role":"assistant","content":[{}]}}"#, content.join(",")))
            .map_err(|error| garbage(format!("a block is not JSON: {error}"), Some(usage)))?;
        Ok(ModelAnswer {
            message: message.into(),
            stop,
            usage,
            model: self.model.unwrap_or_else(|| self.call.model.to_owned()),
            provider: "openai".into(),
            fallback: None,
        })
    }
}

/// In strict mode an optional property that is left out arrives as null. Anything that is not JSON stays as it is.
fn without_nulls(text: String, wanted: Option<&Value>) -> String {
    let Some(wanted) = wanted else { return text };
    let Ok(mut value) = serde_json::from_str::<Value>(&text) else { return text };
    if schema::drop_nulls(&mut value, wanted) { value.to_string() } else { text }
}
