//! The request body of a chat completion, translated from the neutral form.
//!
//! The translation is a function of each message alone, so consecutive requests of one conversation share their beginning and
//! the server's own prompt cache works. Thinking blocks are left out: they belong to another provider's model.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::domain::model::{ModelRequest, Speaker};

use super::super::{schema, wire};

/// The name by which a server knows the limit of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputLimit {
    MaxCompletionTokens,
    MaxTokens,
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool<'a>>,
    messages: Vec<Out<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<Format<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    stream: bool,
    stream_options: StreamOptions,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

#[derive(Serialize)]
struct Tool<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    function: ToolFunction<'a>,
}

#[derive(Serialize)]
struct ToolFunction<'a> {
    name: &'a str,
    description: &'a str,
    parameters: &'a serde_json::Value,
}

#[derive(Serialize)]
struct Format<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    json_schema: Schema<'a>,
}

#[derive(Serialize)]
struct Schema<'a> {
    name: &'a str,
    strict: bool,
    schema: serde_json::Value,
}

#[derive(Serialize)]
#[serde(tag = "role", rename_all = "lowercase")]
enum Out<'a> {
    System {
        content: &'a str,
    },
    User {
        content: String,
    },
    Assistant {
        /// Null is what the API itself gives beside tool calls.
        content: Option<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        tool_calls: Vec<Call>,
    },
    Tool {
        tool_call_id: String,
        content: String,
    },
}

#[derive(Serialize)]
struct Call {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    function: CallFunction,
}

#[derive(Serialize)]
struct CallFunction {
    name: String,
    arguments: String,
}

#[derive(Deserialize)]
struct In<'a> {
    role: Speaker,
    #[serde(borrow)]
    content: &'a RawValue,
}

#[derive(Deserialize)]
struct ToolUse<'a> {
    id: String,
    name: String,
    #[serde(borrow)]
    input: &'a RawValue,
}

#[derive(Deserialize)]
struct ToolResult<'a> {
    tool_use_id: String,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(default)]
    is_error: bool,
}

#[derive(Deserialize)]
struct Text {
    text: String,
}

pub fn write(
    request: &ModelRequest,
    model: &str,
    max_output_tokens: u32,
    limit: OutputLimit,
) -> Result<Vec<u8>, serde_json::Error> {
    let mut messages = Vec::with_capacity(request.messages.len() + 1);
    if !request.system.trim().is_empty() {
        messages.push(Out::System { content: &request.system });
    }
    for raw in &request.messages {
        translate(serde_json::from_str(raw.get())?, &mut messages)?;
    }
    let tools = request
        .tools
        .iter()
        .map(|tool| Tool {
            kind: "function",
            function: ToolFunction { name: &tool.name, description: &tool.description, parameters: &tool.input_schema },
        })
        .collect();
    let format = request.output_schema.as_ref().map(|wanted| Format {
        kind: "json_schema",
        json_schema: Schema { name: "answer", strict: true, schema: schema::for_openai(wanted) },
    });
    serde_json::to_vec(&Body {
        model,
        tools,
        messages,
        tool_choice: (request.no_tools && !request.tools.is_empty()).then_some("none"),
        response_format: format,
        max_completion_tokens: (limit == OutputLimit::MaxCompletionTokens).then_some(max_output_tokens),
        max_tokens: (limit == OutputLimit::MaxTokens).then_some(max_output_tokens),
        stream: true,
        stream_options: StreamOptions { include_usage: true },
    })
}

fn translate<'a>(message: In<'_>, out: &mut Vec<Out<'a>>) -> Result<(), serde_json::Error> {
    let blocks: Vec<&RawValue> = match serde_json::from_str::<String>(message.content.get()) {
        Ok(text) => {
            out.push(match message.role {
                Speaker::User => Out::User { content: text },
                Speaker::Assistant => Out::Assistant { content: Some(text), tool_calls: Vec::new() },
            });
            return Ok(());
        }
        Err(_) => serde_json::from_str(message.content.get())?,
    };
    let (mut texts, mut calls) = (Vec::new(), Vec::new());
    for block in blocks {
        match wire::block_type(block)?.as_ref() {
            "text" => texts.push(serde_json::from_str::<Text>(block.get())?.text),
            "tool_use" => {
                let call: ToolUse<'_> = serde_json::from_str(block.get())?;
                let function = CallFunction { name: call.name, arguments: call.input.get().to_owned() };
                calls.push(Call { id: call.id, kind: "function", function });
            }
            "tool_result" => {
                let result: ToolResult<'_> = serde_json::from_str(block.get())?;
                let text = result.content.map(result_text).transpose()?.unwrap_or_default();
                // This API has no flag for a failed call.
                let content = if result.is_error { format!("error: {text}") } else { text };
                out.push(Out::Tool { tool_call_id: result.tool_use_id, content });
            }
            // Thinking and blocks that only their own provider understands.
            _ => {}
        }
    }
    let text = (!texts.is_empty()).then(|| texts.join("\n\n"));
    match (message.role, text) {
        (Speaker::User, Some(content)) => out.push(Out::User { content }),
        (Speaker::User, None) => {}
        (Speaker::Assistant, None) if calls.is_empty() => {}
        (Speaker::Assistant, content) => out.push(Out::Assistant { content, tool_calls: calls }),
    }
    Ok(())
}

/// The content of a tool result: a string, or text blocks.
fn result_text(raw: &RawValue) -> Result<String, serde_json::Error> {
    if raw.get().starts_with('[') {
        let blocks: Vec<&RawValue> = serde_json::from_str(raw.get())?;
        let mut texts = Vec::new();
        for block in blocks {
            if wire::block_type(block)? == "text" {
                texts.push(serde_json::from_str::<Text>(block.get())?.text);
            }
        }
        return Ok(texts.join("\n"));
    }
    serde_json::from_str(raw.get())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::domain::model::{Block, Message, Role, ToolSpec};

    #[test]
    fn a_conversation_with_parallel_calls_becomes_tool_messages_in_order() {
        let call = |id: &str| Block::ToolUse { id: id.into(), name: "read".into(), input: json!({"path": "a"}) };
        let result = |id: &str, is_error| Block::ToolResult { tool_use_id: id.into(), content: "x".into(), is_error };
        let messages = [
            Message::user("go"),
            Message {
                role: Speaker::Assistant,
                content: vec![
                    Block::Thinking { thinking: "hm".into(), signature: Some("s".into()) },
                    Block::Text { text: "I read.".into() },
                    call("c1"),
                    call("c2"),
                ],
            },
            Message {
                role: Speaker::User,
                content: vec![result("c1", false), result("c2", true), Block::Text { text: "hurry".into() }],
            },
        ];
        let request = ModelRequest {
            role: Role::Boss,
            system: "S".into(),
            tools: Arc::new(vec![ToolSpec {
                name: "read".into(),
                description: "d".into(),
                input_schema: json!({"type": "object"}),
            }]),
            messages: messages.iter().map(|m| m.raw().unwrap()).collect(),
            output_schema: Some(Arc::new(json!({"type": "object", "properties": {"a": {"type": "string"}}}))),
            no_tools: true,
            known_prefix: (0, 0),
            items: Vec::new(),
            from_report_slice: false,
            counts_turn: true,
        };
        let body: Value = serde_json::from_slice(&write(&request, "m", 9, OutputLimit::MaxTokens).unwrap()).unwrap();
        let sent = |id: &str| json!({"id": id, "type": "function", "function": {"name": "read", "arguments": "{\"path\":\"a\"}"}});
        assert_eq!(
            body,
            json!({
                "model": "m",
                "tools": [{"type": "function", "function": {"name": "read", "description": "d", "parameters": {"type": "object"}}}],
                "messages": [
                    {"role": "system", "content": "S"},
                    {"role": "user", "content": "go"},
                    {"role": "assistant", "content": "I read.", "tool_calls": [sent("c1"), sent("c2")]},
                    {"role": "tool", "tool_call_id": "c1", "content": "x"},
                    {"role": "tool", "tool_call_id": "c2", "content": "error: x"},
                    {"role": "user", "content": "hurry"},
                ],
                "tool_choice": "none",
                "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "strict": true, "schema": {
                    "type": "object", "properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
                    "additionalProperties": false, "required": ["a"]}}},
                "max_tokens": 9,
                "stream": true,
                "stream_options": {"include_usage": true},
            })
        );
    }
}
