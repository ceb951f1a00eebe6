//! The file: YAML that people read, review and write.
//!
//! A list of calls. Each is written whole or not at all, and what is written reads back as the same value: the writer checks
//! that before it hands the text out.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::domain::model::{ModelAnswer, Role, StopReason, Usage};
use crate::ports::model::ModelCall;

use super::digest::{Digest, likely_usage};

/// One recorded call.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The activity's address within its run.
    pub path: String,
    #[serde(default)]
    pub role: Option<Role>,
    /// The model that was asked; compared when given.
    #[serde(default)]
    pub model: Option<String>,
    /// Left out in entries written by hand: not compared.
    #[serde(default)]
    pub request: Option<Digest>,
    pub answer: Answer,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Blocks as `domain::model` has them, or shorter: `{text: …}`, `{json: …}` (a text that is this JSON), `{tool: NAME, input:
    /// {…}}` with an optional `id`.
    pub content: Vec<Map<String, Value>>,
    /// Left out: `tool_use` when tools are called, else `end_turn`.
    #[serde(default)]
    pub stop: Option<StopReason>,
    /// As the provider named it. Left out: as it was asked.
    #[serde(default)]
    pub model: Option<String>,
    /// Left out: a quarter of the bytes.
    #[serde(default)]
    pub usage: Option<Counts>,
}

/// Tokens; zeroes are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Counts {
    #[serde(skip_serializing_if = "is_zero")]
    pub input: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_write_5m: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_write_1h: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_read: u64,
    pub output: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // The form that serde calls.
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl From<Usage> for Counts {
    fn from(u: Usage) -> Self {
        Self {
            input: u.input,
            cache_write_5m: u.cache_write_5m,
            cache_write_1h: u.cache_write_1h,
            cache_read: u.cache_read,
            output: u.output,
        }
    }
}

impl From<Counts> for Usage {
    fn from(c: Counts) -> Self {
        Self {
            input: c.input,
            cache_write_5m: c.cache_write_5m,
            cache_write_1h: c.cache_write_1h,
            cache_read: c.cache_read,
            output: c.output,
        }
    }
}

impl Answer {
    /// From what a model gave.
    pub fn of(answer: &ModelAnswer) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Blocks {
            content: Vec<Map<String, Value>>,
        }
        let blocks: Blocks = serde_json::from_str(answer.message.get())?;
        Ok(Self {
            content: blocks.content,
            stop: Some(answer.stop.clone()),
            model: Some(answer.model.clone()),
            usage: Some(answer.usage.into()),
        })
    }

    /// Bytes of the content.
    pub fn size(&self) -> usize {
        self.content.iter().map(|block| Value::Object(block.clone()).to_string().len()).sum()
    }

    /// The answer to `call`. The same every time.
    pub fn give(&self, call: &ModelCall<'_>) -> Result<ModelAnswer, String> {
        let mut content = Vec::with_capacity(self.content.len());
        for (index, block) in self.content.iter().enumerate() {
            content.push(whole_block(block, call.request.messages.len(), index)?);
        }
        let calls = content.iter().any(|block| block["type"] == "tool_use");
        let stop = self.stop.clone().unwrap_or(if calls { StopReason::ToolUse } else { StopReason::EndTurn });
        let text = format!(r#"{{"role":"assistant","content":{}}}"#, Value::Array(content));
        let message = RawValue::from_string(text).map_err(|error| error.to_string())?;
        let usage = self.usage.map_or_else(|| likely_usage(call.request, self.size()), Usage::from);
        Ok(ModelAnswer {
            message: message.into(),
            stop,
            usage,
            model: self.model.clone().unwrap_or_else(|| call.model.to_owned()),
            provider: "tape".into(),
            fallback: None,
        })
    }
}

/// The block as it travels. Ids that are left out are made of the place, so that they are the same every time.
fn whole_block(block: &Map<String, Value>, message: usize, index: usize) -> Result<Value, String> {
    let known = |names: &[&str]| match block.keys().find(|key| !names.contains(&key.as_str())) {
        Some(key) => Err(format!("block {}: unknown key `{key}`", index + 1)),
        None => Ok(()),
    };
    if block.contains_key("type") {
        return Ok(Value::Object(block.clone()));
    }
    if let Some(text) = block.get("text").and_then(Value::as_str) {
        known(&["text"])?;
        return Ok(json!({"type": "text", "text": text}));
    }
    if let Some(value) = block.get("json") {
        known(&["json"])?;
        return Ok(json!({"type": "text", "text": value.to_string()}));
    }
    if let Some(name) = block.get("tool").and_then(Value::as_str) {
        known(&["tool", "input", "id"])?;
        let input = block.get("input").cloned().unwrap_or_else(|| json!({}));
        let id =
            block.get("id").and_then(Value::as_str).map_or_else(|| format!("tape_{message}_{index}"), str::to_owned);
        return Ok(json!({"type": "tool_use", "id": id, "name": name, "input": input}));
    }
    Err(format!("block {} has neither `type` nor `text`, `json` or `tool`", index + 1))
}

/// The texts of a message.
pub fn texts(message: &RawValue) -> Vec<String> {
    let message: Value = serde_json::from_str(message.get()).unwrap_or_default();
    let blocks = message["content"].as_array().cloned().unwrap_or_default();
    blocks.iter().filter_map(|block| Some(block["text"].as_str()?.to_owned())).collect()
}

/// Reads a tape. Errors say line and column.
pub fn parse(text: &str) -> anyhow::Result<Vec<Entry>> {
    if text.lines().all(|line| line.trim().is_empty() || line.starts_with('#')) {
        return Ok(Vec::new());
    }
    // The reader's own drawing of the place belongs on a terminal, not into a report.
    serde_yaml::from_str(text).map_err(|error| {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        anyhow::anyhow!("{}", first.strip_prefix("error: ").unwrap_or(first).to_owned())
    })
}

/// One call as an item of the list.
pub fn write(entry: &Entry) -> anyhow::Result<String> {
    for readable in [true, false] {
        let text = write_item(entry, readable);
        if parse(&text).is_ok_and(|read| read.as_slice() == std::slice::from_ref(entry)) {
            return Ok(text);
        }
    }
    anyhow::bail!("the call `{}` cannot be written as YAML", entry.path)
}

fn write_item(entry: &Entry, readable: bool) -> String {
    let mut out = format!("- path: {}\n", quoted(&entry.path));
    let mut line = |indent: usize, key: &str, value: String| {
        let space = if value.is_empty() { "" } else { " " };
        out.push_str(&format!("{:indent$}{key}:{space}{value}\n", ""));
    };
    if let Some(role) = entry.role {
        line(2, "role", role.as_str().to_owned());
    }
    if let Some(model) = &entry.model {
        line(2, "model", quoted(model));
    }
    if let Some(request) = &entry.request {
        line(2, "request", String::new());
        line(4, "system", quoted(&request.system));
        line(4, "tools", json!(request.tools).to_string());
        if let Some(schema) = &request.schema {
            line(4, "schema", quoted(schema));
        }
        line(4, "shape", if request.shape.is_empty() { "[]".into() } else { String::new() });
        for message in &request.shape {
            out.push_str(&format!("      - {}\n", quoted(message)));
        }
    }
    out.push_str("  answer:\n");
    out.push_str(if entry.answer.content.is_empty() { "    content: []\n" } else { "    content:\n" });
    for block in &entry.answer.content {
        out.push_str(&format!("      - {}\n", write_block(block, readable)));
    }
    if let Some(stop) = &entry.answer.stop {
        let stop = json!(stop);
        out.push_str(&format!("    stop: {}\n", stop.as_str().map_or_else(|| stop.to_string(), quoted)));
    }
    if let Some(model) = &entry.answer.model {
        out.push_str(&format!("    model: {}\n", quoted(model)));
    }
    if let Some(usage) = entry.answer.usage {
        out.push_str(&format!("    usage: {}\n", json!(usage)));
    }
    out
}

/// A block in JSON, which is YAML; a plain text of several lines as such.
fn write_block(block: &Map<String, Value>, readable: bool) -> String {
    let text = block.get("text").and_then(Value::as_str).filter(|text| readable && literal(text));
    match text {
        Some(text) => {
            let mut out = String::new();
            for (n, (key, value)) in block.iter().enumerate() {
                let value = if key == "text" {
                    let lines: String = text
                        .lines()
                        .map(|line| format!("\n{:10}{line}", "").trim_end_matches(' ').to_owned())
                        .collect();
                    format!("|-{lines}")
                } else {
                    value.to_string()
                };
                out.push_str(&format!("{}{key}: {value}", if n > 0 { "\n        " } else { "" }));
            }
            out
        }
        None => Value::Object(block.clone()).to_string(),
    }
}

/// Whether a text can stand as a literal block.
fn literal(text: &str) -> bool {
    text.contains('\n')
        && !text.starts_with([' ', '\n', '\t'])
        && !text.ends_with('\n')
        && text
            .chars()
            .all(|c| c == '\n' || (!c.is_control() && !matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}')))
}

fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '/' | '.');
    let word = text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(plain);
    // Words that YAML reads as something else.
    if word && !matches!(text, "true" | "false" | "null") { text.to_owned() } else { Value::from(text).to_string() }
}
