//! What the APIs refuse, and what they only punish with a lost cache or a lost answer. Part of `model.rs`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Api, Request};

pub fn request(request: &Request, signed: &BTreeMap<String, String>) -> Vec<String> {
    let mut out = Vec::new();
    if request.headers.get("content-type").is_none_or(|v| !v.starts_with("application/json")) {
        out.push("content-type is not application/json".to_owned());
    }
    if request.model().is_empty() {
        out.push("model: field required".into());
    }
    if request.body["stream"] != true {
        out.push("stream: only streaming is expected".into());
    }
    match request.api {
        Api::Anthropic => anthropic(request, signed, &mut out),
        Api::OpenAi => openai(request, &mut out),
    }
    out
}

fn keys(what: &str, value: &Value, known: &[&str], out: &mut Vec<String>) {
    for key in value.as_object().into_iter().flat_map(|map| map.keys()) {
        if !known.contains(&key.as_str()) {
            out.push(format!("{what}.{key}: extra inputs are not permitted"));
        }
    }
}

fn schema(value: &Value, all_required: bool, out: &mut Vec<String>) {
    let Some(map) = value.as_object() else { return };
    for keyword in ["minLength", "maxLength", "minimum", "maximum", "multipleOf", "maxItems", "uniqueItems"] {
        if map.contains_key(keyword) {
            out.push(format!("schema: `{keyword}` is not supported"));
        }
    }
    if let Some(properties) = map.get("properties").and_then(Value::as_object) {
        if map.get("additionalProperties") != Some(&Value::Bool(false)) {
            out.push("schema: additionalProperties must be false".into());
        }
        let required = map.get("required").and_then(Value::as_array).map_or(0, Vec::len);
        if all_required && required != properties.len() {
            out.push("schema: every property must be required".into());
        }
        for inner in properties.values() {
            schema(inner, all_required, out);
        }
    }
    if let Some(items) = map.get("items") {
        schema(items, all_required, out);
    }
    for inner in map.get("anyOf").and_then(Value::as_array).into_iter().flatten() {
        schema(inner, all_required, out);
    }
}

fn anthropic(request: &Request, signed: &BTreeMap<String, String>, out: &mut Vec<String>) {
    let body = &request.body;
    if request.headers.get("anthropic-version").map(String::as_str) != Some("2023-06-01") {
        out.push("anthropic-version: header is required".into());
    }
    let known =
        ["model", "max_tokens", "messages", "system", "tools", "tool_choice", "thinking", "output_config", "stream"];
    keys("body", body, &known, out);
    if body["max_tokens"].as_u64().is_none_or(|n| n == 0 || n > 128_000) {
        out.push("max_tokens: must be between 1 and 128000".into());
    }
    if matches!(body["tool_choice"]["type"].as_str(), Some("any" | "tool")) {
        out.push("tool_choice: this model does not support forcing tool use".into());
    }
    if body.get("tool_choice").is_some() && body.get("tools").is_none() {
        out.push("tool_choice: only allowed with tools".into());
    }
    if matches!(body["thinking"]["type"].as_str(), Some("enabled" | "disabled")) {
        out.push("thinking: this model always thinks".into());
    }
    if body.to_string().matches("\"cache_control\"").count() > 4 {
        out.push("a maximum of 4 blocks with cache_control may be provided".into());
    }
    for tool in body["tools"].as_array().into_iter().flatten() {
        if tool["input_schema"]["type"] != "object" {
            out.push(format!("tools.{}.input_schema.type: must be object", tool["name"]));
        }
    }
    if let Some(wanted) = request.schema() {
        schema(wanted, false, out);
    }
    let messages = request.messages();
    if messages.first().is_none_or(|message| message["role"] != "user") {
        out.push("messages: first message must use the user role".into());
    }
    let mut open: Vec<&str> = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        let place = format!("messages.{index}");
        keys(&place, message, &["role", "content"], out);
        let Some(blocks) = message["content"].as_array() else { continue };
        let last = index + 1 == messages.len();
        if blocks.is_empty() {
            out.push(format!("{place}: content must not be empty"));
        }
        let results: Vec<&str> = blocks
            .iter()
            .take_while(|block| block["type"] == "tool_result")
            .filter_map(|block| block["tool_use_id"].as_str())
            .collect();
        for id in &open {
            if results.iter().filter(|result| result == &id).count() != 1 {
                out.push(format!("{place}: `tool_use` {id} has no `tool_result` at the beginning of the next message"));
            }
        }
        for id in blocks.iter().filter_map(|block| block["tool_use_id"].as_str()) {
            if !open.contains(&id) {
                out.push(format!("{place}: `tool_result` {id} without its `tool_use` in the message before"));
            }
        }
        open = blocks.iter().filter(|b| b["type"] == "tool_use").filter_map(|b| b["id"].as_str()).collect();
        if !open.is_empty() && (last || message["role"] != "assistant") {
            out.push(format!("{place}: `tool_use` without an answer"));
        }
        for block in blocks {
            match block["type"].as_str() {
                Some("text") if block["text"].as_str().is_none_or(|text| text.trim().is_empty()) => {
                    out.push(format!("{place}: text content blocks must be non-empty"));
                }
                Some("thinking") => {
                    let signature = block["signature"].as_str().unwrap_or_default();
                    if signed.get(signature).map(String::as_str) != block["thinking"].as_str() {
                        out.push(format!("{place}: thinking blocks cannot be modified"));
                    }
                    if block.get("cache_control").is_some() {
                        out.push(format!("{place}: cache_control is not allowed on thinking"));
                    }
                }
                Some("tool_use") if !block["input"].is_object() => {
                    out.push(format!("{place}: tool_use input must be an object"));
                }
                _ => {}
            }
        }
    }
}

fn openai(request: &Request, out: &mut Vec<String>) {
    let body = &request.body;
    let known = [
        "model",
        "messages",
        "tools",
        "tool_choice",
        "response_format",
        "max_completion_tokens",
        "max_tokens",
        "stream",
        "stream_options",
    ];
    keys("body", body, &known, out);
    if body.get("max_completion_tokens").or(body.get("max_tokens")).and_then(Value::as_u64).is_none_or(|n| n == 0) {
        out.push("no limit of the output".into());
    }
    if body.get("tool_choice").is_some() && body.get("tools").is_none() {
        out.push("'tool_choice' is only allowed when 'tools' are specified".into());
    }
    if body["response_format"]["json_schema"]["strict"] == true
        && let Some(wanted) = request.schema()
    {
        schema(wanted, true, out);
    }
    let mut open: Vec<&str> = Vec::new();
    for (index, message) in request.messages().iter().enumerate() {
        if message["role"] == "tool" {
            let id = message["tool_call_id"].as_str().unwrap_or_default();
            match open.iter().position(|call| *call == id) {
                Some(at) => drop(open.remove(at)),
                None => out.push(format!("messages.{index}: answers {id}, which was not called")),
            }
            continue;
        }
        if !open.is_empty() {
            out.push(format!("messages.{index}: tool_call_ids did not have response messages: {}", open.join(", ")));
        }
        open.clear();
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            open.extend(call["id"].as_str());
            let arguments = call["function"]["arguments"].as_str().unwrap_or_default();
            if !serde_json::from_str::<Value>(arguments).is_ok_and(|value| value.is_object()) {
                out.push(format!("messages.{index}: arguments are not a JSON object"));
            }
        }
    }
    if !open.is_empty() {
        out.push(format!("tool_call_ids did not have response messages: {}", open.join(", ")));
    }
}
