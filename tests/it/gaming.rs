//! Patches that want to be proved, through the real engine: a scripted model, real trees, the sandbox of this machine, cargo's own
//! tests. What belongs here: that every honest one is proved and becomes a branch, and no other one does. The rules themselves have
//! their tables beside `policy::diff` and `policy::proof`.

mod evil;
mod honest;
mod hostile;
mod ledger;
mod tricks;

use std::collections::BTreeMap;
use std::path::Path;

use nightcrew::domain::run::Outcome;
use serde_json::{Value, json};

use crate::fakes::model::{ModelServer, Reply, Request};
use crate::workspace::{files, user_git};
use crate::world::World;

/// A patch, and what is to become of it.
pub struct Case {
    pub what: &'static str,
    pub error: Error,
    /// Inputs of `edit`.
    pub edits: Vec<Value>,
    /// Part of why it is not proved.
    pub expected: &'static str,
}

/// Type and message of what a program's users ran into.
pub type Error = (&'static str, &'static str);

fn error(kind: &'static str, message: &'static str) -> Error {
    (kind, message)
}

fn create(path: &str, content: &str) -> Value {
    json!({"path": path, "content": content})
}

fn replace(path: &str, old: &str, new: &str) -> Value {
    json!({"path": path, "old": old, "new": new})
}

fn delete(path: &str) -> Value {
    json!({"path": path, "delete": true})
}

fn rename(path: &str, to: &str) -> Value {
    json!({"path": path, "rename_to": to})
}

/// A file with one test.
fn test_file(name: &str, body: &str) -> Value {
    create(&format!("tests/{name}.rs"), &format!("#[test]\nfn {name}() {{\n    {body}\n}}\n"))
}

const ENVIRONMENT: &str = "tools: [rust]\ntest: \"cargo test --offline --locked --no-fail-fast 2>&1\"\n";

/// So that the rules about paths are not what holds a trick back.
const EVERYWHERE: &str = "[\"*\", \"src/**\", \"tests/**\", \"web/**\", \".*/**\"]";

fn pipeline(name: &str, paths: &str) -> String {
    format!(
        "version: 1
name: {name}
summary: Mend what breaks.
limits: {{max_turns: 1000, max_budget_usd: 90.00}}
repository: {{path: code, ref: main}}
environment: environments/api.yaml
steps:
  - id: errors
    fetch: {{from: seen}}
  - id: repair
    each: {{as: error, in: errors, parallel: 2}}
    steps:
      - id: fix
        fix: {{ask: \"Mend it.\", given: [error], test_first: true, attempts: 1}}
        diff: {{paths: {paths}, max_files: 8}}
      - id: draft
        pull_request: {{from: fix, expires: 14d}}
tools:
  seen: {{sql: warehouse, file: seen.sql}}
"
    )
}

/// Everything below a folder, git's own files too.
fn whole(folder: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut all = files(folder);
    for (name, file) in files(&folder.join(".git")) {
        all.insert(format!(".git/{name}"), file);
    }
    all
}

fn number(text: &str) -> Option<usize> {
    let (_, rest) = text.split_once("number-")?;
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
}

/// What became of a case.
#[derive(Debug, Default)]
struct Became {
    /// Of the fix.
    outcome: String,
    /// Why it is not proved, and what was refused.
    why: String,
    drafted: bool,
}

/// Runs all cases in one run, each as an item of its own.
async fn run(name: &str, paths: &str, cases: Vec<Case>) -> Vec<(Case, Became)> {
    let edits: Vec<Vec<Value>> = cases.iter().map(|case| case.edits.clone()).collect();
    let model = ModelServer::script(move |request: &Request| {
        let at = number(&request.all_text()).expect("a case");
        match request.turn() {
            0 if !edits[at].is_empty() => Reply::calls(edits[at].iter().map(|edit| ("edit", edit.clone()))),
            _ => Reply::json(&json!({
                "title": format!("Mend number-{at}"), "summary": "All tests pass; it is proved.", "root_cause": null, "limits": []
            })),
        }
    });
    let mut world = World::new(&model);
    world.files.push(("environments/api.yaml".into(), ENVIRONMENT.into()));
    let quoted = |text: &str| text.replace('\'', "''");
    let rows: Vec<String> = cases
        .iter()
        .enumerate()
        .map(|(at, case)| {
            let (kind, message) = case.error;
            let title = format!("number-{at} {kind}");
            format!(
                "SELECT 'K-{at}' AS key, 'API-{at}' AS id, '{}' AS type, '{title}' AS title, '{}' AS message, 3 AS users, 4 AS count",
                quoted(kind),
                quoted(message)
            )
        })
        .collect();
    world.files.push(("seen.sql".into(), rows.join(" UNION ALL ")));
    let code = world.path().join("code");
    for (path, content) in ledger::FILES {
        let path = code.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    user_git(&code, &["init", "-q", "-b", "main"]);
    user_git(&code, &["add", "-A"]);
    user_git(&code, &["commit", "-q", "-m", "x"]);
    let before = whole(&code);

    let process = world.open(|_| {});
    let start = world.claim(&process, &pipeline(name, paths), "k").await.unwrap();
    let id = start.id.clone();
    let outcome = process.run(start).await;
    let view = process.view(&id);
    let entries = process.journal.reader().entries_after(None, 0, 1_000_000).unwrap();
    process.stop().await;
    model.assert_clean();
    assert!(matches!(outcome, Some(Outcome::Acted | Outcome::Declined)), "{outcome:?} {:#?}", view.failure);
    assert!(whole(&code) == before, "the user's own clone was changed");

    let mut became: Vec<Became> = cases.iter().map(|_| Became::default()).collect();
    for entry in entries.iter().filter(|entry| entry.kind.as_str() == "step_finished") {
        let place = entry.path.split_once("[K-").and_then(|(_, rest)| rest.split_once(']'));
        let Some((at, step)) = place.map(|(at, step)| (at.parse::<usize>().unwrap(), step)) else { continue };
        let end = serde_json::to_value(entry).unwrap()["payload"].take();
        let result = &end["result"];
        match step {
            "/fix" => {
                became[at].outcome = result["outcome"].as_str().unwrap().to_owned();
                assert_eq!(result["proved"] == true, became[at].outcome == "proved");
                became[at].why = format!("{} {} {}", end["reason"], result["why"], result["refused"]);
            }
            "/draft" => became[at].drafted = result["outcome"] == "acted",
            _ => {}
        }
    }
    let drafted = became.iter().filter(|became| became.drafted).count();
    assert_eq!(branches(&world), drafted, "branches");
    let pages = std::fs::read_dir(world.out()).into_iter().flatten();
    let pages = pages.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("pr-"));
    assert_eq!(pages.count(), drafted, "pages");
    cases.into_iter().zip(became).collect()
}

/// How many there are in the private clone.
fn branches(world: &World) -> usize {
    let mut clones = std::fs::read_dir(world.state().join("work/repositories")).unwrap();
    let clone = clones.next().unwrap().unwrap().path();
    user_git(&clone, &["for-each-ref", "--format=%(refname)", "refs/heads/"]).lines().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_honest_patch_is_proved_and_becomes_a_branch() {
    let began = std::time::Instant::now();
    let ran = run("honest", "[\"src/**\", \"tests/**\"]", honest::cases()).await;
    println!("{} honest patches in {:?}", ran.len(), began.elapsed());
    assert!(ran.len() >= 20);
    let wrong: Vec<_> = ran.iter().filter(|(_, became)| became.outcome != "proved" || !became.drafted).collect();
    for (case, became) in &wrong {
        println!("{}: {} (drafted: {}): {}", case.what, became.outcome, became.drafted, became.why);
    }
    assert!(wrong.is_empty(), "{} honest patches are not proved", wrong.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_patch_that_games_the_proof_is_proved_or_becomes_anything() {
    let began = std::time::Instant::now();
    let ran = run("gaming", EVERYWHERE, tricks::cases()).await;
    println!("{} tricks in {:?}", ran.len(), began.elapsed());
    assert!(ran.len() >= 14);
    let mut wrong = 0;
    for (case, became) in &ran {
        let is_told = became.why.contains(case.expected);
        let is_harmless = matches!(became.outcome.as_str(), "unproved" | "no_change") && !became.drafted;
        if !is_told || !is_harmless {
            wrong += 1;
            println!("{}: {} (drafted: {}): {}", case.what, became.outcome, became.drafted, became.why);
        }
    }
    assert_eq!(wrong, 0, "tricks that work, or are not told as what they are");
}
