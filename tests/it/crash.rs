//! Stop after entry n, start again, for every n: the end is that of the undisturbed run. What judges reads only the model
//! server's log, the output folder and the database.

pub mod shipped;

use std::collections::BTreeMap;

use nightcrew::domain::run::Outcome;
use serde_json::json;

use crate::fakes::model::{ModelServer, Reply, Request};
use crate::world::{Process, World};

const PIPELINE: &str = r#"
version: 1
name: crash
summary: Everything that runs now, in one pipeline.
limits: {max_turns: 20, max_budget_usd: 5.00}
steps:
  - id: data
    fetch: {from: days}
  - id: rated
    each: {as: row, in: data, parallel: 2}
    intern: {task: classify, ask: "Is this day unusual?"}
    output: {unusual: boolean, confidence: 0..1}
  - id: deep
    each: {as: row, in: "rated.items.filter(r, r.unusual)"}
    steps:
      - id: why
        boss: {ask: "Why?", given: [row], tools: [days], max_turns: 6}
        output: {cause: string(200)}
      - id: words
        intern: {task: summarise, ask: "In one sentence.", given: [why]}
        output: {text: string(200)}
  - id: news
    report: {from: [deep, rated], to: files}
tools:
  days: {sql: warehouse, file: days.sql, args: {from: date?}}
"#;

fn script(request: &Request) -> Reply {
    let last = request.last_text();
    if request.tool_names().is_empty() {
        return match request.schema() {
            Some(schema) if schema.to_string().contains("unusual") => {
                Reply::json(&json!({"unusual": request.all_text().contains("150"), "confidence": 0.9}))
            }
            Some(schema) if schema.to_string().contains("cause") => Reply::json(&json!({"cause": "unknown"})),
            _ => Reply::json(&json!({"text": "It is not known."})),
        };
    }
    match request.turn() {
        1 => Reply::calls([("days", json!({"from": "2026-11-17"})), ("days", json!({"from": "2026-11-18"}))]),
        2 => Reply::calls([("days", json!({"from": "2026-11-19"}))]),
        _ => {
            assert!(!last.is_empty());
            Reply::json(&json!({"cause": "unknown"}))
        }
    }
}

/// What must be the same however often the process died.
#[derive(Debug, PartialEq)]
struct End {
    outcome: Option<Outcome>,
    counts: BTreeMap<String, u64>,
    receipts: Vec<(String, String)>,
    steps: Vec<(String, Option<String>)>,
    reports: usize,
}

fn end(world: &World, process: &Process, id: &nightcrew::base::ids::RunId) -> End {
    let view = process.view(id);
    let files: Vec<_> = walk(&world.out()).into_iter().filter(|path| path.ends_with("report.md")).collect();
    End {
        outcome: view.outcome,
        counts: view.counts,
        receipts: view.receipts.into_iter().map(|r| (r.kind, r.destination)).collect(),
        steps: view.steps.into_iter().map(|s| (s.path, s.outcome)).collect(),
        reports: files.len(),
    }
}

fn walk(folder: &std::path::Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path.display().to_string()) }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resumes_after_a_crash_at_every_entry_with_the_same_end() {
    let model = ModelServer::script(script);
    let world = World::new(&model);
    let process = world.open(|_| {});
    let start = world.claim(&process, PIPELINE, "undisturbed").await.unwrap();
    let id = start.id.clone();
    let outcome = process.run(start).await;
    let view = process.view(&id);
    assert_eq!(outcome, Some(Outcome::Reported), "{:#?}", view.failure);
    let undisturbed = end(&world, &process, &id);
    assert_eq!(undisturbed.reports, 1, "{undisturbed:#?}");
    let calls = model.count();
    let spent = view.spend.total();
    let entries = process.journal.reader().entries_after(None, 0, 10_000).unwrap().len() as i64;
    process.stop().await;
    model.assert_clean();
    assert!(entries > 30, "{entries}");

    for n in 1..entries {
        let model = ModelServer::script(script);
        let world = World::new(&model);
        let dying = world.open(|options| options.die_after = Some(n));
        let claimed = world.claim(&dying, PIPELINE, "crash").await;
        if let Ok(start) = claimed {
            dying.run(start).await;
        }
        dying.stop().await;
        let process = world.open(|_| {});
        let open = process.journal.reader().open_runs().unwrap();
        let id = match open.first() {
            Some(start) => start.id.clone(),
            // Died before the claim was durable, or after the end.
            None if n + 1 >= entries => continue,
            None => panic!("the run is lost after entry {n}"),
        };
        assert_eq!(process.engine.resume_open().await.unwrap(), 1);
        let outcome = process.engine.wait(&id).await.unwrap();
        assert_eq!(outcome, Some(Outcome::Reported), "after entry {n}: {:#?}", process.view(&id).failure);
        assert_eq!(end(&world, &process, &id), undisturbed, "after entry {n}");
        // At most the calls that were under way were asked again, and what they cost is booked.
        let view = process.view(&id);
        assert!(model.count() >= calls && model.count() <= calls + 2, "after entry {n}: {} calls", model.count());
        assert!(view.spend.total() >= spent, "after entry {n}: money was lost");
        if model.count() == calls {
            assert_eq!(view.spend.total() - view.spend.reserved, spent, "after entry {n}");
        }
        process.stop().await;
        model.assert_clean();
    }
}
