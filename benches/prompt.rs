//! What every prompt carries, and how much of a conversation comes from the provider's cache.

use std::sync::Mutex;

use serde_json::json;

use crate::checked::{ModelServer, Reply, Request};
use crate::table::{Bar, Line};
use crate::world::World;
use crate::{runtime, scratch, server};

const TURNS: usize = 12;

pub fn prompt() -> Vec<Line> {
    let first: &'static Mutex<Option<Request>> = Box::leak(Box::default());
    let model = ModelServer::script(move |request| {
        first.lock().unwrap().get_or_insert_with(|| request.clone());
        match request.turn() {
            turn if turn < TURNS => Reply::calls([("days", json!({"from": server::date(turn)}))]),
            _ => Reply::json(&json!({"cause": "unknown"})),
        }
    });
    let folder = scratch();
    let world = World::at(folder.path(), &model.url());
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
    assert_eq!(tokens.len(), 2 * (TURNS + 1));
    let share = |run: &[crate::checked::Tokens]| {
        let read: u64 = run.iter().map(|call| call.cache_read).sum();
        let all: u64 = run.iter().map(|call| call.cache_read + call.cache_write + call.input).sum();
        100.0 * read as f64 / all as f64
    };
    let (cold, warm) = tokens.split_at(TURNS + 1);
    let request = first.lock().unwrap().take().unwrap();
    let fixed = request.body["tools"].to_string().len() + request.body["system"].to_string().len();
    vec![
        Line {
            name: "tools and instructions of every prompt",
            figure: fixed as f64 / 1024.0,
            unit: "KB",
            bar: Bar::AtMost(8.0),
            floor: None,
        },
        Line {
            name: "input tokens from cache, 12 turns, pipeline ran before",
            figure: share(warm),
            unit: "%",
            bar: Bar::AtLeast(95.0),
            floor: None,
        },
        Line { name: "  the first run of the pipeline", figure: share(cold), unit: "%", bar: Bar::None, floor: None },
    ]
}
