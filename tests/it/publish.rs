//! From an error to a draft, or else to a ticket, through the whole engine: a scripted model, a scripted sandbox, real trees.
//! What belongs here: each once however often the process dies, found again in the next run, left to people, held back by caps.

use std::collections::BTreeMap;
use std::path::Path;

use nightcrew::base::ids::RunId;
use nightcrew::domain::run::Outcome;
use nightcrew::ports::Registry;
use serde_json::json;

use crate::fakes::model::{ModelServer, Reply, Request};
use crate::fakes::sandbox::{self, End};
use crate::workspace::user_git;
use crate::world::{Process, REGISTRY, World};

pub const PIPELINE: &str = "version: 1
name: mend
summary: Mend what breaks.
limits: {max_turns: 60, max_budget_usd: 9.00, max_open_prs: 1}
repository: {path: code, ref: main}
environment: environments/api.yaml
steps:
  - id: errors
    fetch: {from: seen}
  - id: repair
    each: {as: error, in: errors, parallel: 1}
    steps:
      - id: fix
        fix: {ask: \"Mend it.\", given: [error], test_first: true, attempts: 1}
        diff: {paths: [\"src/**\", \"tests/**\"], max_files: 4}
      - id: draft
        pull_request: {from: fix, labels: [bug], expires: 14d}
      - id: ticket
        unless: draft.ran
        ticket: {from: [error, fix], labels: [bug]}
  - id: news
    report: {from: repair, to: files}
tools:
  seen: {sql: warehouse, file: seen.sql}
";

/// One error that is mended, one that is not.
const SEEN: &str =
    "SELECT 'E-1' AS key, 'API-1' AS id, 'ParseError' AS type, 'ParseError: sign lost in parse' AS title,
    'sign lost in parse' AS message, 'parse in src/lib.rs' AS culprit, 37 AS users, 412 AS count
    UNION ALL SELECT 'E-2', 'API-2', 'KeyError', 'KeyError: no such zone', 'no such zone', 'zone in src/zone.rs', 3, 9";

/// Writes a test and mends the first error, gives up on the second.
pub fn script(request: &Request) -> Reply {
    let about_first = request.all_text().contains("sign lost");
    let end = |summary: &str| {
        Reply::json(
            &json!({"title": "Keep the sign", "summary": summary, "root_cause": "The sign is dropped.", "limits": ["@all of it"]}),
        )
    };
    match (about_first, request.turn()) {
        (true, 0) => Reply::calls([("edit", json!({"path": "tests/sign.rs", "content": TEST}))]),
        (true, 1) => {
            let edit = json!({"path": "src/lib.rs", "old": "text.trim_start_matches('-')", "new": "text"});
            Reply::calls([("edit", edit)])
        }
        (true, _) => end("The sign stays with the digits."),
        (false, _) => end("I do not know."),
    }
}

const SOURCE: &str = "pub fn parse(text: &str) -> i64 {\n    text.trim_start_matches('-').parse().unwrap_or(0)\n}\n";
const TEST: &str = "#[test]\nfn keeps_the_sign() {\n    assert_eq!(api::parse(\"-3\"), -3);\n}\n";

/// A suite that reads the files: the test of the sign passes where the sign is kept.
fn suite(folder: &Path) -> End {
    let source = std::fs::read_to_string(folder.join("src/lib.rs")).unwrap();
    let mut cases = vec!["<testcase classname=\"base\" name=\"reads_digits\"/>".to_owned()];
    let mut failures = 0;
    if folder.join("tests/sign.rs").is_file() {
        let red = source.contains("trim_start_matches");
        failures = i32::from(red);
        let said =
            if red { "<failure message=\"ParseError: sign lost in parse\">left: 3, right: -3</failure>" } else { "" };
        cases.push(format!("<testcase classname=\"sign\" name=\"keeps_the_sign\">{said}</testcase>"));
    }
    let junit = format!(
        "<testsuites><testsuite name=\"api\" tests=\"{}\" failures=\"{failures}\">{}</testsuite></testsuites>",
        cases.len(),
        cases.concat()
    );
    End { exit: failures, stdout: "ran".into(), stderr: String::new(), junit: Some(junit) }
}

pub fn world(model: &ModelServer) -> World {
    let mut world = World::new(model);
    world.registry = Registry { sandboxes: sandbox::ALL, ..REGISTRY };
    world.files.push(("environments/api.yaml".into(), "test: \"make test\"\n".into()));
    world.files.push(("seen.sql".into(), SEEN.into()));
    let code = world.path().join("code");
    std::fs::create_dir_all(code.join("src")).unwrap();
    std::fs::write(code.join("src/lib.rs"), SOURCE).unwrap();
    user_git(&code, &["init", "-q", "-b", "main"]);
    user_git(&code, &["add", "-A"]);
    user_git(&code, &["commit", "-q", "-m", "x"]);
    sandbox::script(world.path(), |_, folder| Ok(suite(folder)));
    world
}

/// Everything that was published, without what tells runs apart.
fn published(world: &World) -> BTreeMap<String, String> {
    fn walk(folder: &Path, root: &Path, into: &mut BTreeMap<String, String>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, root, into);
            } else {
                into.insert(
                    path.strip_prefix(root).unwrap().display().to_string(),
                    std::fs::read_to_string(&path).unwrap(),
                );
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(&world.out(), &world.out(), &mut found);
    found.retain(|name, _| name.starts_with("tickets/") || name.starts_with("pr-"));
    found
}

/// The branches of the private clone, with the difference that each makes.
pub fn branches(world: &World) -> Vec<(String, String)> {
    let Ok(mut clones) = std::fs::read_dir(world.state().join("work/repositories")) else { return Vec::new() };
    let Some(clone) = clones.next() else { return Vec::new() };
    let git = |args: &[&str]| {
        let output =
            std::process::Command::new("git").arg("-C").arg(clone.as_ref().unwrap().path()).args(args).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let names = git(&["for-each-ref", "--format=%(refname:short)", "refs/heads/"]);
    names.lines().map(|name| (name.to_owned(), git(&["diff", "--stat", &format!("{name}^"), name]))).collect()
}

#[derive(Debug, PartialEq)]
struct Ended {
    outcome: Option<Outcome>,
    steps: Vec<(String, Option<String>)>,
    receipts: Vec<(String, String, String)>,
    names: Vec<String>,
    branches: Vec<(String, String)>,
}

fn end(world: &World, process: &Process, id: &RunId) -> Ended {
    let view = process.view(id);
    let root = world.out().display().to_string();
    Ended {
        outcome: view.outcome,
        steps: view.steps.into_iter().map(|step| (step.path, step.outcome)).collect(),
        receipts: view
            .receipts
            .into_iter()
            .filter(|receipt| receipt.kind != "report")
            .map(|receipt| (receipt.kind, receipt.destination, receipt.url_or_path.replace(&root, "out")))
            .collect(),
        names: published(world).into_keys().collect(),
        branches: branches(world),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_draft_and_one_ticket_however_often_the_process_dies() {
    let model = ModelServer::script(script);
    let world = world(&model);
    let process = world.open(|_| {});
    let start = world.claim(&process, PIPELINE, "undisturbed").await.unwrap();
    let id = start.id.clone();
    let outcome = process.run(start).await;
    let view = process.view(&id);
    assert_eq!(outcome, Some(Outcome::Acted), "{:#?} {:#?}", view.failure, view.steps);
    let undisturbed = end(&world, &process, &id);
    let kinds: Vec<&str> = undisturbed.receipts.iter().map(|(kind, ..)| kind.as_str()).collect();
    assert_eq!(kinds, ["pull_request", "ticket"], "{undisturbed:#?}");
    assert_eq!(undisturbed.names.len(), 5, "{undisturbed:#?}");
    assert_eq!(undisturbed.branches.len(), 1);
    assert!(undisturbed.branches[0].0.starts_with("nightcrew/parse-error-"), "{:?}", undisturbed.branches);
    assert!(undisturbed.branches[0].1.contains("tests/sign.rs"), "{:?}", undisturbed.branches);
    let all = process.journal.reader().entries_after(None, 0, 10_000).unwrap();
    let entries = all.len() as i64;
    // What comes before is the fix's, and dies here and there only.
    let begins = all.iter().find(|entry| entry.path.ends_with("/draft")).unwrap().seq;
    let files = published(&world);
    let page = &files.iter().find(|(name, _)| name.ends_with("index.html")).unwrap().1;
    for part in ["keeps_the_sign", "sign lost in parse", "The sign stays with the digits.", "Fixes", "API-1", "main of"]
    {
        assert!(page.contains(part), "{part}");
    }
    let ticket = &files.iter().find(|(name, _)| name.starts_with("tickets/key-error-")).unwrap().1;
    for part in ["# KeyError: no such zone", "3 users meet it.", "## Why it was not fixed", "- times: 9"] {
        assert!(ticket.contains(part), "{part} in {ticket}");
    }
    let report = std::fs::read_to_string(world.out().join(format!("mend/{id}/report.md"))).unwrap();
    for part in [
        "[Draft pull request: Keep the sign](<../../pr-",
        "[Ticket: KeyError: no such zone](<../../tickets/key-error-",
        "not fixed:",
    ] {
        assert!(report.contains(part), "{part} in {report}");
    }

    // The next run finds both again.
    let start = world.claim(&process, PIPELINE, "again").await.unwrap();
    let again = start.id.clone();
    process.run(start).await;
    let view = process.view(&again);
    let states: Vec<_> =
        view.steps.iter().filter(|s| s.path.ends_with("/draft") || s.path.ends_with("/ticket")).collect();
    assert!(states.iter().any(|step| step.summary.starts_with("as before")), "{states:#?}");
    assert_eq!((published(&world), branches(&world)), (files, undisturbed.branches.clone()), "{:#?}", view.steps);
    process.stop().await;

    for n in (1..begins).step_by(9).chain(begins..entries) {
        let model = ModelServer::script(script);
        let world = self::world(&model);
        let dying = world.open(|options| options.die_after = Some(n));
        if let Ok(start) = world.claim(&dying, PIPELINE, "crash").await {
            dying.run(start).await;
        }
        dying.stop().await;
        let process = world.open(|_| {});
        let open = process.journal.reader().open_runs().unwrap();
        let id = match open.first() {
            Some(start) => start.id.clone(),
            None if n + 1 >= entries => continue,
            None => panic!("the run is lost after entry {n}"),
        };
        assert_eq!(process.engine.resume_open().await.unwrap(), 1);
        process.engine.wait(&id).await.unwrap();
        let found = end(&world, &process, &id);
        // Branches are named by what they are about, and commits bear the run's time: only the names and content compare.
        assert_eq!(found, undisturbed, "after entry {n}: {:#?}", process.view(&id).failure);
        process.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_person_closed_is_left_alone_and_a_cap_turns_a_draft_into_a_ticket() {
    let model = ModelServer::script(script);
    let world = world(&model);
    let process = world.open(|_| {});
    let run = async |yaml: &str, key: &str| {
        let start = world.claim(&process, yaml, key).await.unwrap();
        let id = start.id.clone();
        process.run(start).await;
        process.view(&id)
    };
    let first = run(PIPELINE, "first").await;
    assert_eq!(first.outcome, Some(Outcome::Acted), "{:#?}", first.steps);
    for (name, text) in published(&world) {
        if name.ends_with(".md") && !name.ends_with("README.md") {
            std::fs::write(world.out().join(name), text.replace("state: open", "state: closed as not planned"))
                .unwrap();
        }
    }
    let files = published(&world);
    let second = run(PIPELINE, "second").await;
    assert_eq!(second.outcome, Some(Outcome::Declined), "a person decided: {:#?}", second.steps);
    assert!(second.receipts.iter().all(|receipt| receipt.kind == "report"), "{:#?}", second.receipts);
    assert_eq!(published(&world), files);

    // Another pipeline with a draft of its own, and then no room for a second one.
    let other = PIPELINE.replace("name: mend", "name: other");
    let third = run(&other, "third").await;
    assert_eq!(third.receipts.iter().filter(|receipt| receipt.kind == "pull_request").count(), 1, "{:#?}", third.steps);
    let more = "SELECT 'E-9' AS key, 'API-9' AS id, 'ParseError' AS type, 'ParseError: sign lost in parse' AS title,
        'sign lost in parse' AS message, 'parse in src/lib.rs' AS culprit, 1 AS users, 1 AS count";
    let mut world = world;
    world.files.retain(|(name, _)| name != "seen.sql");
    world.files.push(("seen.sql".into(), more.into()));
    let start = world.claim(&process, &other, "fourth").await.unwrap();
    let id = start.id.clone();
    process.run(start).await;
    let fourth = process.view(&id);
    let draft = fourth.steps.iter().find(|step| step.path.ends_with("/draft")).unwrap();
    assert_eq!(draft.outcome.as_deref(), Some("skipped"), "{draft:#?}");
    assert!(draft.reason.as_ref().unwrap().contains("1 draft of this pipeline is open and 1 may be"), "{draft:#?}");
    assert!(fourth.refused.iter().any(|refused| refused.contains("max_open_prs")), "{:?}", fourth.refused);
    assert_eq!(fourth.receipts.iter().filter(|receipt| receipt.kind == "ticket").count(), 1, "{:#?}", fourth.steps);
    process.stop().await;
}
