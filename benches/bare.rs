//! The floor: the same conversation with the same server and the same query, by a loop that keeps nothing.

use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::world::{DAYS, World};

pub struct Bare {
    client: reqwest::Client,
    url: String,
}

impl Bare {
    pub fn new(url: &str) -> Self {
        nightcrew::clients::http::install_tls();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { client, url: format!("{url}/v1/messages") }
    }

    /// One conversation to its end; answers how many requests it took. `tool` does the tool call.
    pub async fn talk(&self, tool: impl Fn(&Value) -> String) -> usize {
        let system = "s".repeat(4_000);
        let mut messages = vec![raw(json!({"role": "user", "content": [{"type": "text", "text": "Why?"}]}))];
        for requests in 1.. {
            let body = serde_json::to_vec(&Body {
                model: "claude-opus-5-5",
                system: &system,
                messages: &messages,
                stream: true,
            });
            let request = self.client.post(&self.url).header("content-type", "application/json").body(body.unwrap());
            let text = request.send().await.unwrap().text().await.unwrap();
            let (mut call, mut input) = (Value::Null, String::new());
            for line in text.lines().filter_map(|line| line.strip_prefix("data: ")) {
                let event: Value = serde_json::from_str(line).unwrap();
                if event["content_block"]["type"] == "tool_use" {
                    call = event["content_block"].clone();
                }
                input.push_str(event["delta"]["partial_json"].as_str().unwrap_or_default());
            }
            if call.is_null() {
                return requests;
            }
            call["input"] = serde_json::from_str(&input).unwrap();
            let content = tool(&call["input"]);
            let result = json!({"type": "tool_result", "tool_use_id": call["id"], "content": content});
            messages.push(raw(json!({"role": "assistant", "content": [call]})));
            messages.push(raw(json!({"role": "user", "content": [result]})));
        }
        0
    }
}

#[derive(serde::Serialize)]
struct Body<'a> {
    model: &'a str,
    system: &'a str,
    messages: &'a [Box<RawValue>],
    stream: bool,
}

fn raw(value: Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(&value).unwrap()
}

/// The tool's query, each time on a connection of its own as the source does it, so that a replaced file is seen.
pub fn query(world: &World, input: &Value) -> String {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = rusqlite::Connection::open_with_flags(world.warehouse(), flags).unwrap();
    let mut statement = conn.prepare(DAYS).unwrap();
    let mut text = String::new();
    let mut rows = statement.query([input["from"].as_str()]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let line: (String, i64, String) = (row.get(0).unwrap(), row.get(1).unwrap(), row.get(2).unwrap());
        text.push_str(&json!([line.0, line.1, line.2]).to_string());
        text.push('\n');
    }
    text
}
