//! What of a request is compared with its recording, in a form that people can read.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::hash::Hash;
use crate::domain::model::{ModelRequest, Usage};
use crate::ports::model::ModelCall;

use super::super::estimate::likely_tokens;
use super::super::normalise::normalise;
use super::file::Entry;

/// One request, digested.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Digest {
    /// Hash of the system text.
    pub system: String,
    /// `name@hash` of each tool, in order.
    #[serde(default)]
    pub tools: Vec<String>,
    /// Hash of the schema that the answer must have.
    #[serde(default)]
    pub schema: Option<String>,
    /// One line per message: who speaks, and the types of the blocks. Calls name their tool, results the hash of their
    /// normalised text.
    #[serde(default)]
    pub shape: Vec<String>,
}

pub fn of(request: &ModelRequest) -> Result<Digest, serde_json::Error> {
    let closed = request.no_tools && !request.tools.is_empty();
    let closed = closed.then(|| "(none may be called)".to_owned());
    let tools = request.tools.iter().map(|tool| {
        let text = format!("{}\n{}", tool.description, Hash::of_json(&tool.input_schema));
        format!("{}@{}", tool.name, Hash::of(text).short())
    });
    let mut shape = Vec::with_capacity(request.messages.len());
    for message in &request.messages {
        let message: Value = serde_json::from_str(message.get())?;
        let blocks: Vec<String> = match &message["content"] {
            Value::Array(blocks) => blocks.iter().map(block).collect(),
            _ => vec!["text".into()],
        };
        shape.push(format!("{}: {}", message["role"].as_str().unwrap_or("?"), blocks.join(", ")));
    }
    Ok(Digest {
        system: Hash::of(request.system.as_bytes()).short(),
        tools: tools.chain(closed).collect(),
        schema: request.output_schema.as_ref().map(|schema| Hash::of_json(schema).short()),
        shape,
    })
}

fn block(block: &Value) -> String {
    match block["type"].as_str().unwrap_or("?") {
        "tool_use" => format!("tool_use {}", block["name"].as_str().unwrap_or("?")),
        "tool_result" => {
            let content = &block["content"];
            let text = content.as_str().map_or_else(|| content.to_string(), str::to_owned);
            let failed = if block["is_error"] == true { "failed " } else { "" };
            format!("tool_result {failed}{}", Hash::of(normalise(&text).as_bytes()).short())
        }
        other => other.to_owned(),
    }
}

impl Entry {
    /// The first difference between what was recorded and what is asked; `None` when it fits.
    pub fn difference(&self, call: &ModelCall<'_>, asked: &Digest) -> Option<String> {
        let differs = |what: &str, recorded: &str, asked: &str| {
            (recorded != asked).then(|| format!("{what} differs: recorded `{recorded}`, asked `{asked}`"))
        };
        if let Some(role) = self.role
            && let Some(text) = differs("the role", role.as_str(), call.request.role.as_str())
        {
            return Some(text);
        }
        if let Some(model) = &self.model
            && let Some(text) = differs("the model", model, call.model)
        {
            return Some(text);
        }
        let recorded = self.request.as_ref()?;
        if recorded.system != asked.system {
            let head: String = call.request.system.chars().take(120).collect();
            return Some(format!(
                "the system text differs: recorded {}, asked {}, which begins {head:?}",
                recorded.system, asked.system
            ));
        }
        list("tool", &recorded.tools, &asked.tools)
            .or_else(|| {
                let none = |schema: &Option<String>| schema.clone().unwrap_or_else(|| "none".into());
                differs("the schema of the answer", &none(&recorded.schema), &none(&asked.schema))
            })
            .or_else(|| list("message", &recorded.shape, &asked.shape))
    }
}

fn list(what: &str, recorded: &[String], asked: &[String]) -> Option<String> {
    let none = String::from("nothing");
    (0..recorded.len().max(asked.len())).find_map(|n| {
        let (old, new) = (recorded.get(n).unwrap_or(&none), asked.get(n).unwrap_or(&none));
        (old != new).then(|| format!("{what} {} differs: recorded `{old}`, asked `{new}`", n + 1))
    })
}

/// What a call like this one would have used, for answers written by hand: a quarter of the bytes, and the beginning of a
/// conversation read from the cache.
pub fn likely_usage(request: &ModelRequest, answer_bytes: usize) -> Usage {
    let tools: usize =
        request.tools.iter().map(|t| t.name.len() + t.description.len() + t.input_schema.to_string().len()).sum();
    let fixed = request.system.len() + tools;
    let sizes: Vec<usize> = request.messages.iter().map(|message| message.get().len()).collect();
    let all = likely_tokens((fixed + sizes.iter().sum::<usize>()) as u64);
    let output = likely_tokens(answer_bytes as u64).max(1);
    if request.tools.is_empty() {
        return Usage { input: all, output, ..Usage::default() };
    }
    let before: usize = sizes.iter().rev().skip(2).sum();
    let read = if sizes.len() > 2 { likely_tokens((fixed + before) as u64).min(all) } else { 0 };
    Usage { cache_read: read, cache_write_5m: all - read, output, ..Usage::default() }
}
