//! The request body, spliced together from raw parts.
//!
//! Messages are never parsed into values and written again: their bytes are the transcript's. Order is model, tools, system,
//! messages, then what changes from call to call, so that consecutive requests of one conversation share their beginning.
//!
//! Cache breakpoints (at most three of the four that are allowed): the end of tools + system; the last message; and the last
//! message of the request before this one. The API looks back only 20 blocks from a breakpoint, and one turn with many
//! parallel tool calls is longer, so the old end is named again and is always found.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::domain::model::{ModelRequest, RawMessage};

use super::super::{schema, wire};

const BREAKPOINT: &str = r#""cache_control":{"type":"ephemeral"}"#;

pub fn write(request: &ModelRequest, model: &str, max_output_tokens: u32) -> Result<Vec<u8>, serde_json::Error> {
    let length: usize = request.messages.iter().map(|message| message.get().len() + 1).sum();
    let mut out = Vec::with_capacity(length + request.system.len() + 4096);
    push(&mut out, r#"{"model":"#);
    json(&mut out, model)?;
    let has_system = !request.system.trim().is_empty();
    if !request.tools.is_empty() {
        push(&mut out, r#","tools":["#);
        for (index, tool) in request.tools.iter().enumerate() {
            push(&mut out, if index > 0 { r#",{"name":"# } else { r#"{"name":"# });
            json(&mut out, &tool.name)?;
            push(&mut out, r#","description":"#);
            json(&mut out, &tool.description)?;
            push(&mut out, r#","input_schema":"#);
            json(&mut out, &tool.input_schema)?;
            if !has_system && index + 1 == request.tools.len() {
                push(&mut out, ",");
                push(&mut out, BREAKPOINT);
            }
            push(&mut out, "}");
        }
        push(&mut out, "]");
    }
    if has_system {
        push(&mut out, r#","system":[{"type":"text","text":"#);
        json(&mut out, &request.system)?;
        push(&mut out, ",");
        push(&mut out, BREAKPOINT);
        push(&mut out, "}]");
    }
    push(&mut out, r#","messages":["#);
    let marked = breakpoints(request);
    for (index, message) in request.messages.iter().enumerate() {
        if index > 0 {
            push(&mut out, ",");
        }
        if marked.contains(&Some(index)) {
            with_breakpoint(&mut out, message)?;
        } else {
            push(&mut out, message.get());
        }
    }
    push(&mut out, r#"],"max_tokens":"#);
    json(&mut out, &max_output_tokens)?;
    if request.no_tools && !request.tools.is_empty() {
        push(&mut out, r#","tool_choice":{"type":"none"}"#);
    }
    if let Some(wanted) = &request.output_schema {
        push(&mut out, r#","output_config":{"format":{"type":"json_schema","schema":"#);
        json(&mut out, &schema::for_anthropic(wanted))?;
        push(&mut out, "}}");
    }
    push(&mut out, r#","stream":true}"#);
    Ok(out)
}

/// The messages that end a cached prefix. Writing to the cache costs a quarter more than not, so only a conversation that
/// will go on is written: one with tools that may still be called.
fn breakpoints(request: &ModelRequest) -> [Option<usize>; 2] {
    if request.tools.is_empty() {
        return [None, None];
    }
    let last = request.messages.len().checked_sub(1);
    // Before this request came the answer; before the answer stood the end of the request before.
    let before = request.messages.len().checked_sub(3);
    [before, if request.no_tools { None } else { last }]
}

fn with_breakpoint(out: &mut Vec<u8>, message: &RawMessage) -> Result<(), serde_json::Error> {
    #[derive(Deserialize)]
    struct Parts<'a> {
        #[serde(borrow)]
        role: &'a RawValue,
        #[serde(borrow)]
        content: &'a RawValue,
    }
    let parts: Parts<'_> = serde_json::from_str(message.get())?;
    // Content that is a bare string has no block to mark.
    let Ok(blocks) = serde_json::from_str::<Vec<&RawValue>>(parts.content.get()) else {
        push(out, message.get());
        return Ok(());
    };
    let mut marked = None;
    for (index, block) in blocks.iter().enumerate() {
        if matches!(wire::block_type(block)?.as_ref(), "text" | "tool_use" | "tool_result" | "image" | "document") {
            marked = Some(index);
        }
    }
    push(out, r#"{"role":"#);
    push(out, parts.role.get());
    push(out, r#","content":["#);
    for (index, block) in blocks.iter().enumerate() {
        if index > 0 {
            push(out, ",");
        }
        match block.get().strip_suffix('}') {
            Some(open) if marked == Some(index) && !open.contains(r#""cache_control""#) => {
                push(out, open);
                push(out, ",");
                push(out, BREAKPOINT);
                push(out, "}");
            }
            _ => push(out, block.get()),
        }
    }
    push(out, "]}");
    Ok(())
}

fn push(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

fn json(out: &mut Vec<u8>, value: &(impl serde::Serialize + ?Sized)) -> Result<(), serde_json::Error> {
    serde_json::to_writer(out, value)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::domain::model::{Block, Message, Role, Speaker, ToolSpec};

    fn turn(messages: Vec<Message>) -> ModelRequest {
        let tool = |name: &str| ToolSpec {
            name: name.into(),
            description: "d".into(),
            input_schema: json!({"type": "object"}),
        };
        ModelRequest {
            role: Role::Boss,
            system: "You are careful.".into(),
            tools: Arc::new(vec![tool("read"), tool("search")]),
            messages: messages.iter().map(|m| m.raw().unwrap()).collect(),
            output_schema: None,
            no_tools: false,
            known_prefix: (0, 0),
            items: Vec::new(),
            from_report_slice: false,
            counts_turn: true,
        }
    }

    fn exchange(n: usize) -> [Message; 2] {
        let id = |k: usize| format!("toolu_{n}_{k}");
        let calls = (0..3).map(|k| Block::ToolUse { id: id(k), name: "read".into(), input: json!({"path": "a"}) });
        let results = (0..3).map(|k| Block::ToolResult { tool_use_id: id(k), content: "…".into(), is_error: false });
        [
            Message { role: Speaker::Assistant, content: calls.collect() },
            Message { role: Speaker::User, content: results.collect() },
        ]
    }

    fn text(request: &ModelRequest) -> String {
        String::from_utf8(write(request, "claude-opus-5-5", 1000).unwrap()).unwrap()
    }

    #[test]
    fn the_beginning_of_a_conversation_keeps_its_bytes_from_turn_to_turn() {
        let mut messages = vec![Message::user("go \u{e9}")];
        let mut before: Option<String> = None;
        for n in 0..5 {
            let request = turn(messages.clone());
            let body = text(&request);
            let plain = body.replace(&format!(",{BREAKPOINT}"), "");
            if let Some(before) = before {
                assert!(plain.starts_with(&before), "turn {n}");
                // The end of the request before is named again.
                let parsed: Value = serde_json::from_str(&body).unwrap();
                let old_end = &parsed["messages"][messages.len() - 3]["content"];
                assert!(old_end.as_array().unwrap().last().unwrap()["cache_control"].is_object(), "turn {n}");
            }
            assert!(body.matches("cache_control").count() <= 4);
            let end = plain.rfind(r#"],"max_tokens""#).unwrap();
            before = Some(plain[..end].to_owned());
            messages.extend(exchange(n));
        }
    }

    #[test]
    fn a_closing_call_asks_for_no_tools_and_its_schema_and_forces_nothing() {
        let mut request = turn(vec![Message::user("go")]);
        request.no_tools = true;
        request.output_schema =
            Some(Arc::new(json!({"type": "object", "properties": {"a": {"type": "string", "maxLength": 3}}})));
        let body: Value = serde_json::from_str(&text(&request)).unwrap();
        assert_eq!(body["tool_choice"], json!({"type": "none"}));
        assert_eq!(
            body["output_config"]["format"],
            json!({"type": "json_schema", "schema": {"type": "object", "additionalProperties": false,
                "properties": {"a": {"type": "string", "description": "at most 3 characters"}}}})
        );
        assert_eq!(body.get("thinking"), None);
        request.tools = Arc::default();
        let body: Value = serde_json::from_str(&text(&request)).unwrap();
        assert_eq!((body.get("tool_choice"), body.get("tools")), (None, None));
    }

    #[test]
    fn thinking_and_unknown_blocks_travel_as_they_came_and_are_never_marked() {
        let raw = r#"{"role":"assistant","content":[ {"type":"text","text":"a"}, {"type":"new_kind","x":1.50,"cites":[]},{"type":"thinking","thinking":"","signature":"s=="}]}"#;
        let mut request = turn(vec![Message::user("go")]);
        request.messages.push(RawValue::from_string(raw.into()).unwrap().into());
        let body = text(&request);
        assert!(body.contains(
            r#"{"type":"new_kind","x":1.50,"cites":[]},{"type":"thinking","thinking":"","signature":"s=="}]}"#
        ));
        assert!(body.contains(&format!(r#"{{"type":"text","text":"a",{BREAKPOINT}}}"#)));
    }
}
