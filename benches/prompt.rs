//! What every prompt carries, and how much of a conversation comes from the provider's cache.
//!
//! The server of the tests keeps the cache by the API's own rules. What was never sent before cannot come from it, so the floor
//! (here a ceiling) is the share of bytes that stood at the beginning of an earlier request.

use std::sync::Mutex;

use serde_json::{Value, json};

use crate::checked::{ModelServer, Reply, Request, Tokens};
use crate::table::{Bar, Line};
use crate::world::World;
use crate::{runtime, scratch};

const TURNS: usize = 12;

/// As an analyst's: two months of a number are given, and a few rows are asked for again and again.
const WITH_DATA: &str = "\
version: 1
name: bench
summary: One agent, its data and its tool.
limits: {max_turns: 1000, max_budget_usd: 900.00}
steps:
  - id: data
    fetch: {from: days}
  - id: why
    boss: {ask: \"Why did signups change?\", given: [data], tools: [days], max_turns: 900}
    output: {cause: string(200)}
tools:
  days: {sql: warehouse, file: days.sql, args: {from: date?}}
";

const TWO_MONTHS: &str = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 60)
    INSERT INTO signups SELECT date('2099-09-17', i || ' days'), 90 + i, 'as usual' FROM n";

pub fn prompt() -> Vec<Line> {
    let seen: &'static Mutex<Vec<Request>> = Box::leak(Box::default());
    let model = ModelServer::script(move |request| {
        seen.lock().unwrap().push(request.clone());
        match request.turn() {
            turn if turn < TURNS => Reply::calls([("days", json!({"from": format!("2099-11-{:02}", turn + 8)}))]),
            _ => Reply::json(&json!({"cause": "unknown"})),
        }
    });
    let folder = scratch();
    let mut world = World::at(folder.path(), &model.url());
    world.pipeline = WITH_DATA;
    rusqlite::Connection::open(world.warehouse()).unwrap().execute_batch(TWO_MONTHS).unwrap();
    runtime().block_on(async {
        let process = world.open();
        for _ in 0..2 {
            let starts = world.claim(&process.journal, 1).await;
            process.run(starts).await;
        }
        process.stop().await;
    });
    model.assert_clean();
    let tokens = model.tokens();
    let requests = seen.lock().unwrap();
    assert_eq!(tokens.len(), 2 * (TURNS + 1));
    let (cold, warm) = tokens.split_at(TURNS + 1);
    let fixed = requests[0].body["tools"].to_string().len() + requests[0].body["system"].to_string().len();
    vec![
        Line {
            name: "tools and instructions of every prompt",
            figure: fixed as f64 / 1024.0,
            unit: "KB",
            bar: Bar::AtMost(8.0),
            floor: None,
        },
        Line {
            name: "input tokens from cache, 12 turns",
            figure: share(warm),
            unit: "%",
            bar: Bar::AtLeast(95.0),
            floor: Some(("what was sent before", sent_before(&requests, TURNS + 1))),
        },
        Line {
            name: "  the first run of the pipeline",
            figure: share(cold),
            unit: "%",
            bar: Bar::None,
            floor: Some(("what was sent before", sent_before(&requests[..=TURNS], 0))),
        },
    ]
}

fn share(run: &[Tokens]) -> f64 {
    let read: u64 = run.iter().map(|call| call.cache_read).sum();
    let all: u64 = run.iter().map(|call| call.cache_read + call.cache_write + call.input).sum();
    100.0 * read as f64 / all as f64
}

/// Of the requests from number `from` on, how much stood at the beginning of an earlier one, in percent of their bytes.
fn sent_before(requests: &[Request], from: usize) -> f64 {
    let texts: Vec<String> = requests.iter().map(text).collect();
    let (mut before, mut all) = (0, 0);
    for (n, text) in texts.iter().enumerate().skip(from) {
        let common = |other: &String| text.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
        before += texts[..n].iter().map(common).max().unwrap_or(0);
        all += text.len();
    }
    100.0 * before as f64 / all as f64
}

/// The prompt as the model reads it, without the marks of the cache.
fn text(request: &Request) -> String {
    fn unmarked(value: &Value) -> Value {
        match value {
            Value::Object(fields) => {
                let kept = fields.iter().filter(|(name, _)| *name != "cache_control");
                Value::Object(kept.map(|(name, value)| (name.clone(), unmarked(value))).collect())
            }
            Value::Array(items) => items.iter().map(unmarked).collect(),
            other => other.clone(),
        }
    }
    ["tools", "system", "messages"].map(|part| unmarked(&request.body[part]).to_string()).concat()
}
