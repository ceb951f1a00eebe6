//! Hostile repositories through a whole run: workspace, environment, scan, fix, draft, with the sandbox of this machine.

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use nightcrew::domain::run::Outcome;
use serde_json::json;

use super::{branches, create, whole};
use crate::fakes::model::{ModelServer, Reply, Request};
use crate::workspace::Place;
use crate::workspace::hostile::{CORPUS, End, Hostile};
use crate::world::World;

/// A suite that fits every repository: the new test asks for the new code.
const ENVIRONMENT: &str = r#"test: |
  count=1; bad=0
  echo "TAP version 13"
  echo "ok 1 - old"
  if [ -e tests/new.t ]; then
    count=2
    if grep -q good added/code.txt 2>&1; then echo "ok 2 - new"; else echo "not ok 2 - new"; bad=1; fi
  fi
  echo "1..$count"
  exit $bad
scanners:
  jsonl: ["find . -type f | wc -l >&2"]
  pattern: ["a|x"]
"#;

fn pipeline(code: &Path) -> String {
    format!(
        "version: 1
name: hostile
summary: Scan and mend.
limits: {{max_turns: 20, max_budget_usd: 9.00}}
repository: {{path: {code:?}, ref: main}}
environment: environments/api.yaml
steps:
  - id: found
    scan: {{first_run: baseline}}
  - id: errors
    fetch: {{from: seen}}
  - id: repair
    each: {{as: error, in: errors}}
    steps:
      - id: look
        boss: {{ask: \"What is it?\", given: [error], tools: [read, search, tree, run]}}
        output: {{cause: string(200)}}
      - id: fix
        fix: {{ask: \"Mend it.\", given: [error], test_first: true, attempts: 1}}
      - id: draft
        pull_request: {{from: fix, expires: 14d}}
tools:
  seen: {{sql: warehouse, file: seen.sql}}
"
    )
}

fn script(request: &Request) -> Reply {
    let is_fix = request.system().contains("How a fix is made here");
    match (is_fix, request.turn()) {
        (false, 0) => Reply::calls([
            ("tree", json!({})),
            ("search", json!({"pattern": "a|x|root:"})),
            ("run", json!({"command": "find . | head -50; git status; cat a.txt passwd env 2>&1 | head -5"})),
        ]),
        (false, _) => Reply::json(&json!({"cause": "unknown"})),
        (true, 0) => Reply::calls([
            ("edit", create("added/code.txt", "good\n")),
            ("edit", create("tests/new.t", "asks for the code\n")),
            ("run_tests", json!({})),
        ]),
        (true, _) => {
            Reply::json(&json!({"title": "Add it", "summary": "It is there.", "root_cause": null, "limits": []}))
        }
    }
}

/// Where the outside is touched, if it is. Answers what the run came to.
async fn through(case: &Hostile, listener: &TcpListener) -> Result<(), String> {
    let address = format!("http://{}", listener.local_addr().unwrap());
    let place = Place::new();
    let marker = place.folder.path().join("marker");
    (case.make)(&place, &marker, &address);
    // The user's own git may have run the traps while the repository was made.
    drop(std::fs::remove_file(&marker));
    let before = whole(&place.clone());
    let model = ModelServer::script(script);
    let mut world = World::new(&model);
    world.files.push(("environments/api.yaml".into(), ENVIRONMENT.into()));
    world.files.push(("seen.sql".into(), "SELECT 'K-1' AS key, 'Error' AS type, 'wrong' AS title, 3 AS users".into()));
    let process = world.open(|_| {});
    let start = world.claim(&process, &pipeline(&place.clone()), "k").await.unwrap();
    let id = start.id.clone();
    let outcome = process.run(start).await;
    let view = process.view(&id);
    process.stop().await;
    model.assert_clean();
    let told = view.failure.as_ref().map(|failure| failure.message.clone()).unwrap_or_default();
    let steps: Vec<String> = view
        .steps
        .iter()
        .map(|step| format!("{} {:?} {} {:?}", step.path, step.outcome, step.summary, step.reason))
        .collect();
    let told = format!("{told} {}", steps.join("; "));
    let mut wrong = Vec::new();
    let mut check = |fine: bool, what: &str| (!fine).then(|| wrong.push(what.to_owned()));
    check(!marker.exists(), "something ran");
    check(listener.accept().is_err(), "somebody was called");
    check(whole(&place.clone()) == before, "the user's own clone was changed");
    for name in ["written-outside", "../written-outside", "b"] {
        check(!place.folder.path().join(name).exists(), name);
    }
    check(!Path::new("/tmp/written-through-a-link").exists(), "a link was followed");
    check(
        model.requests().iter().all(|request| !request.all_text().contains("root:x:")),
        "a file of the host was shown",
    );
    match case.end {
        End::Normal => {
            check(outcome == Some(Outcome::Acted), "it should have come to a draft");
            check(outcome != Some(Outcome::Acted) || branches(&world) == 1, "one branch");
        }
        End::Refused | End::NotFetched => {
            check(matches!(outcome, Some(Outcome::Blocked | Outcome::Failed)), "it should have been refused");
            check(model.count() == 0, "refused before any model is asked");
            let said = view.failure.map(|failure| failure.message).unwrap_or_default();
            check(!said.is_empty() && said.len() < 2000, "it should say why, in short");
            check(!said.chars().any(|c| c.is_control() && c != '\n'), "it should say so in clean letters");
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(format!("{}: {wrong:?}: {outcome:?} {told}", case.name)) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_repositories_come_to_a_draft_or_a_clear_refusal_and_touch_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let began = Instant::now();
    let (even, odd): (Vec<_>, Vec<_>) = CORPUS.iter().enumerate().partition(|(at, _)| at % 2 == 0);
    let half = async |cases: Vec<(usize, &Hostile)>| {
        let mut wrong = Vec::new();
        for (_, case) in cases {
            let begun = Instant::now();
            wrong.extend(through(case, &listener).await.err());
            assert!(begun.elapsed() < Duration::from_secs(60), "{}: {:?}", case.name, begun.elapsed());
        }
        wrong
    };
    let (mut wrong, more) = tokio::join!(half(even), half(odd));
    wrong.extend(more);
    println!("{} hostile repositories in {:?}", CORPUS.len(), began.elapsed());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(CORPUS.len() >= 15);
}
