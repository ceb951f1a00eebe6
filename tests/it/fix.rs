//! A fix through the whole way: real trees, a scripted model over HTTP and a scripted sandbox, down to the branch that comes of it.
//! What belongs here: how the parts of a fix fit together; what a fix decides is tested beside `steps/fix.rs`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nightcrew::domain::run::Outcome;
use nightcrew::ports::Registry;
use serde_json::json;

use crate::fakes::model::{ModelServer, Reply, Request};
use crate::fakes::sandbox::{self, End};
use crate::workspace::user_git;
use crate::world::{REGISTRY, World};

const PIPELINE: &str = "version: 1
name: trial
summary: A trial.
limits: {max_turns: 60, max_budget_usd: 9.00}
repository: {path: code, ref: main}
environment: environments/api.yaml
steps:
  - id: data
    fetch: {from: days}
  - id: repair
    each: {as: error, in: data, take: 1}
    steps:
      - id: fix
        fix: {ask: \"The smallest honest fix.\", given: [error], test_first: true}
        diff: {paths: [\"src/**\", \"tests/**\"], max_files: 4}
        review: {playbook: playbooks/review.md}
      - id: draft
        pull_request: {from: fix}
tools:
  days: {sql: warehouse, file: days.sql, args: {from: date?}}
";

fn put(code: &Path, path: &str, content: &str) {
    let path = code.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

fn commit(code: &Path) {
    user_git(code, &["add", "-A"]);
    user_git(code, &["commit", "-q", "-m", "x"]);
}

/// Every line `NAME: TEXT` of a test file is a test: the text must stand in `src/code.py`.
fn suite(folder: &Path) -> End {
    let code = std::fs::read_to_string(folder.join("src/code.py")).unwrap();
    let (mut cases, mut count, mut failures) = (String::new(), 0, 0);
    let mut files: Vec<_> =
        std::fs::read_dir(folder.join("tests")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for (name, wanted) in text.lines().filter_map(|line| line.split_once(": ")) {
            count += 1;
            let failure = if code.contains(wanted) {
                String::new()
            } else {
                failures += 1;
                format!("<failure message=\"no {wanted}\">no {wanted}</failure>")
            };
            let class = file.file_stem().unwrap().to_str().unwrap();
            cases.push_str(&format!("<testcase classname=\"tests.{class}\" name=\"{name}\">{failure}</testcase>"));
        }
    }
    let junit = format!(
        "<testsuites><testsuite name=\"all\" tests=\"{count}\" failures=\"{failures}\" errors=\"0\" skipped=\"0\">{cases}\
         </testsuite></testsuites>"
    );
    End { exit: i32::from(failures > 0), junit: Some(junit), ..End::default() }
}

fn answer() -> Reply {
    Reply::json(
        &json!({"title": "code: keep the sign", "summary": "The sign was lost.", "root_cause": null, "limits": []}),
    )
}

/// The first attempt has a test that shows nothing, and meanwhile the base moves on; the second mends it.
fn agent(request: &Request, code: &Path) -> Reply {
    let again = request.all_text().contains("verdict on your last attempt");
    let test = |text: &str| ("edit", json!({"path": "tests/test_sign.py", "content": text}));
    match (again, request.turn()) {
        (false, 0) => {
            let fix = ("edit", json!({"path": "src/code.py", "old": "digits\n", "new": "digits\nsign\n"}));
            Reply::calls([test("keeps_sign: digits\n"), fix, ("run_tests", json!({}))])
        }
        (false, _) => {
            put(code, "src/other.py", "news\n");
            commit(code);
            answer()
        }
        (true, 0) => Reply::calls([test("keeps_sign: sign\n"), ("run_tests", json!({}))]),
        (true, _) => answer(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fix_is_proved_on_the_current_base_and_becomes_a_branch() {
    let code = Arc::new(std::sync::OnceLock::<std::path::PathBuf>::new());
    let reviews = Arc::new(AtomicUsize::new(0));
    let (at, read) = (code.clone(), reviews.clone());
    let model = ModelServer::script(move |request| {
        let system = request.system();
        if system.contains("How a fix is made here") {
            agent(request, at.get().unwrap())
        } else if system.contains("Your verdict is binding") {
            read.fetch_add(1, Ordering::SeqCst);
            let seen = request.all_text();
            assert!(
                seen.contains("+sign") && seen.contains("The sign was lost.") && !seen.contains("run_tests"),
                "{seen}"
            );
            Reply::json(&json!({"verdict": "approve", "findings": []}))
        } else {
            Reply::json(&json!({"text": "no sign"}))
        }
    });
    let mut world = World::new(&model);
    world.registry = Registry { sandboxes: sandbox::ALL, ..REGISTRY };
    let boss = world.config.lines().find(|line| line.starts_with("  boss:")).unwrap().replace("boss", "reviewer");
    world.config = world.config.replace("sources:\n", &format!("{boss}\nsources:\n"));
    world.files.push(("environments/api.yaml".into(), "test: \"make test\"\n".into()));
    world.files.push(("playbooks/review.md".into(), "Be strict.".into()));
    let folder = code.get_or_init(|| world.path().join("code"));
    std::fs::create_dir(folder).unwrap();
    user_git(folder, &["init", "-q", "-b", "main"]);
    put(folder, "src/code.py", "digits\n");
    put(folder, "tests/test_old.py", "parses: digits\n");
    commit(folder);
    let script = sandbox::script(world.path(), |_, folder| Ok(suite(folder)));

    let process = world.open(|_| {});
    let start = world.claim(&process, PIPELINE, "k").await.unwrap();
    let id = start.id.clone();
    let outcome = process.run(start).await;
    let view = process.view(&id);
    process.stop().await;
    model.assert_clean();
    let steps: Vec<String> = view
        .steps
        .iter()
        .map(|step| {
            format!("{} {} {} {:?}", step.path, step.outcome.as_deref().unwrap_or("open"), step.summary, step.reason)
        })
        .collect();
    let told = steps.join("\n");
    assert_eq!(outcome, Some(Outcome::Acted), "{told}\n{:?}", view.failure);
    let fix = view.steps.iter().find(|step| step.path.ends_with("/fix")).unwrap();
    assert_eq!(fix.outcome.as_deref(), Some("proved"), "{told}");
    assert_eq!(fix.summary, "red on base ✓ · green with patch ✓ · 2 tests, none worse · reviewed");
    assert_eq!(reviews.load(Ordering::SeqCst), 1);
    let fresh = script.seen().iter().filter(|line| line.starts_with("run ")).count();
    // The base, run_tests; the new base, the idle test; run_tests; the test and the fix.
    assert_eq!(fresh, 7, "{:?}", script.seen());
    let receipt = view.receipts.iter().find(|receipt| receipt.kind == "pull_request").expect("a branch");
    assert!(!receipt.url_or_path.is_empty());
}
