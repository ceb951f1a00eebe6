//! The real process, killed at random moments and started again. What judges reads only the model server's log, the output folder
//! and what the commands print.

mod demo;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::fakes::model::{ModelServer, Reply, Request, Tokens};
use crate::project::Project;

/// How often the process is killed.
const KILLS: usize = 20;

/// Everything that costs or acts: interns side by side, a boss with tools in a child of each item, a report.
const WORK: &str = "\
version: 1
name: work
summary: Everything that runs now.
limits: {max_turns: 60, max_budget_usd: 9.00}
tools:
  days: {sql: warehouse, file: sql/days.sql}
steps:
  - id: data
    fetch: {from: days}
  - id: rated
    each: {as: row, in: data, parallel: 2}
    intern: {task: classify, ask: \"Is this day unusual?\"}
    output: {unusual: boolean}
  - id: deep
    each: {as: row, in: rated, parallel: 2}
    steps:
      - id: why
        boss: {ask: \"Why?\", given: [row], tools: [days], max_turns: 6}
        output: {cause: string(200)}
      - id: words
        intern: {task: summarise, ask: \"In one sentence.\", given: [why]}
  - id: post
    report: {from: [deep, rated], to: files}
";

/// What the model says; each answer takes a moment, so that a kill finds calls under way.
fn script(request: &Request) -> Reply {
    let reply = if request.tool_names().is_empty() || request.turn() > 1 {
        match request.schema() {
            Some(schema) if schema.to_string().contains("unusual") => Reply::json(&json!({"unusual": true})),
            Some(schema) if schema.to_string().contains("cause") => Reply::json(&json!({"cause": "unknown"})),
            _ => Reply::json(&json!({"text": "It is not known."})),
        }
    } else {
        Reply::calls([("days", json!({}))])
    };
    reply.delay(Duration::from_millis(15))
}

/// Splitmix64: the moments of a seed are the same on every machine.
struct Moments(u64);

impl Moments {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// A seed to try again with is given as `NIGHTCREW_TEST_SEED`.
fn seed() -> u64 {
    let given = std::env::var("NIGHTCREW_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    given.unwrap_or(now as u64)
}

/// Begins and takes up runs with three commands in turn, kills each at a moment below `longest`, and lets the rest end.
fn torment(project: &Project, server: &ModelServer, moments: &mut Moments, longest: u64) {
    for kill in 0..KILLS {
        let is_open = project.runs().iter().any(|run| run["outcome"].is_null());
        let mut process = match (is_open, kill % 3) {
            (false, _) => project.start(&["run", "work"]),
            (true, 0) => project.start(&["serve", "--profile", "local"]),
            (true, _) => project.start(&["resume"]),
        };
        // Now and then as it starts, mostly in the middle of its calls.
        let calls = server.count();
        if moments.below(8) != 0 {
            project.until("a call, or the end", || {
                let over = process.is_over() || process.log().contains("\"finished\"") || server.count() > calls;
                over.then_some(())
            });
        }
        std::thread::sleep(Duration::from_millis(moments.below(longest)));
        process.kill();
    }
    if project.runs().iter().any(|run| run["outcome"].is_null()) {
        project.run(&["resume"]).ends(0);
    }
    if project.runs().is_empty() {
        project.run(&["run", "work"]).ends(0);
    }
}

#[test]
fn twenty_kills_at_random_lose_nothing_and_repeat_nothing_that_was_done() {
    let seed = seed();
    println!("NIGHTCREW_TEST_SEED={seed}");
    let server = ModelServer::script(script);
    let project = Project::new(&[("work", WORK)], Some(&server));
    torment(&project, &server, &mut Moments(seed), 120);

    let runs = project.runs();
    let (mut begun, mut lost, mut paid) = (0, 0, 0.0);
    for run in &runs {
        assert_eq!((&run["outcome"], &run["counts"]), (&json!("reported"), &json!({"done": 4})), "{run}");
        assert_eq!(run["receipts"].as_array().unwrap().len(), 1, "{run}");
        let id = run["id"].as_str().unwrap();
        let entries = entries(&project, id);
        for kind in ["activity_done", "step_finished", "child_finished"] {
            let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
            for entry in entries.iter().filter(|entry| entry["kind"] == kind) {
                *seen.entry(entry["path"].as_str().unwrap()).or_default() += 1;
            }
            assert!(seen.values().all(|times| *times == 1), "{kind} twice in {id}: {seen:?}");
        }
        let is_call = |entry: &&Value| entry["payload"]["kind"] == "model";
        let calls = entries.iter().filter(|entry| entry["kind"] == "activity_intended").filter(is_call).count();
        let answered =
            entries.iter().filter(|e| e["kind"] == "activity_done" && e["payload"]["usage"].is_object()).count();
        assert_eq!(answered, 10, "2 rated, 2 × 3 turns of a boss, 2 × a sentence");
        assert_eq!(run["boss"]["calls"].as_u64().unwrap() + run["intern"]["calls"].as_u64().unwrap(), 10);
        begun += calls;
        lost += calls - answered;
        paid += run["cost_usd"].as_f64().unwrap();
    }
    // A call that was recorded may have been killed before it went out; none goes out unrecorded.
    assert!(server.count() <= begun, "{} requests, {begun} calls on record", server.count());
    assert!(server.count() + lost >= begun, "{} requests, {begun} calls on record, {lost} lost", server.count());
    // The server charges for whatever it answered; that is on our books at least.
    let charged: f64 = server.requests().iter().zip(server.tokens()).map(|(r, tokens)| price(r, tokens)).sum();
    assert!(paid >= charged - 1e-6, "{paid} on record, {charged} charged");
    if lost == 0 {
        assert!((paid - charged).abs() < 1e-5, "{paid} on record, {charged} charged");
    }
    let costs = project.run(&["--json", "costs"]).ends(0).json();
    let booked: f64 = costs["costs"].as_array().unwrap().iter().map(all_of).sum();
    assert!((booked - paid).abs() < 1e-6, "{booked} by day, {paid} by run");
    let reports = files(&project.path("state/out")).into_iter().filter(|path| path.ends_with("report.md"));
    assert_eq!(reports.count(), runs.len(), "one report each");
    server.assert_clean();
}

fn entries(project: &Project, id: &str) -> Vec<Value> {
    let lines = project.run(&["--json", "logs", id]).ends(0).out;
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// By the list in `config/prices.yaml`.
fn price(request: &Request, tokens: Tokens) -> f64 {
    let [input, output, write, read] =
        if request.model().contains("opus") { [4.0, 20.0, 5.0, 0.4] } else { [0.1, 0.5, 0.125, 0.01] };
    let Tokens { input: fresh, cache_write, cache_read, output: said } = tokens;
    (fresh as f64 * input + cache_write as f64 * write + cache_read as f64 * read + said as f64 * output) / 1e6
}

fn all_of(line: &Value) -> f64 {
    ["boss", "intern", "reviewer"].iter().map(|role| line[role]["usd"].as_f64().unwrap_or(0.0)).sum::<f64>()
        + line["reserved_usd"].as_f64().unwrap_or(0.0)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}
