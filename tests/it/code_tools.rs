//! Agents at work on code, through the whole way: a scripted model over HTTP asks, the engine's executor acts, the answers go back.
//! What belongs here: the tools `read search tree edit run_tests run` under both bindings, and what blocks a run before them.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nightcrew::domain::run::{Failure, Outcome};
use nightcrew::ports::Registry;
use nightcrew::ports::sandbox::SandboxError;
use serde_json::{Value, json};

use crate::fakes::model::{ModelServer, Reply, Request};
use crate::fakes::sandbox::{self, End, Script};
use crate::workspace::hostile::serve;
use crate::workspace::{files, user_git};
use crate::world::{REGISTRY, World};

/// A world with a user's clone at `code` and a scripted sandbox.
fn world(model: &ModelServer, fill: impl FnOnce(&Path)) -> World {
    let mut world = World::new(model);
    world.registry = Registry { sandboxes: sandbox::ALL, ..REGISTRY };
    let code = world.path().join("code");
    std::fs::create_dir(&code).unwrap();
    user_git(&code, &["init", "-q", "-b", "main"]);
    fill(&code);
    commit(&code);
    world
}

fn commit(code: &Path) {
    user_git(code, &["add", "-A", "-f"]);
    user_git(code, &["commit", "-q", "--allow-empty", "-m", "x"]);
}

fn put(code: &Path, path: &str, content: impl AsRef<[u8]>) {
    let path = code.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// A boss with all tools of code.
const BOSS: &str = "version: 1
name: trial
summary: A trial.
limits: {max_turns: 60, max_budget_usd: 9.00}
repository: {path: code, ref: main}
environment: environments/api.yaml
steps:
  - id: data
    fetch: {from: days}
  - id: work
    boss: {ask: \"Do it.\", given: [data], tools: [read, search, tree, edit, run_tests, run]}
    output: {cause: string(200)}
tools:
  days: {sql: warehouse, file: days.sql, args: {from: date?}}
";

const ENVIRONMENT: &str = "test: \"make test\"\n";

fn with_environment(world: &mut World, text: &str) {
    world.files.push(("environments/api.yaml".into(), text.into()));
}

/// Messages of calls, one after the other; then the answer.
fn turns(calls: Vec<Vec<(&'static str, Value)>>) -> impl Fn(&Request) -> Reply + Send + Sync + 'static {
    move |request| match calls.get(request.turn()) {
        Some(calls) => Reply::calls(calls.iter().map(|(name, input)| (*name, input.clone()))),
        None => Reply::json(&json!({"cause": "unknown"})),
    }
}

/// The results of all calls in order: (is_error, text without its fence).
fn results(model: &ModelServer) -> Vec<(bool, String)> {
    let last = model.requests().pop().unwrap();
    let blocks = last.messages().iter().filter_map(|message| message["content"].as_array()).flatten();
    let results = blocks.filter(|block| block["type"] == "tool_result");
    results
        .map(|block| {
            let text = match &block["content"] {
                Value::String(text) => text.clone(),
                blocks => blocks[0]["text"].as_str().unwrap().to_owned(),
            };
            let inner = text.split_once('\n').and_then(|(_, rest)| rest.rsplit_once("\n</data "));
            (block["is_error"] == true, inner.map_or(text.clone(), |(inner, _)| inner.to_owned()))
        })
        .collect()
}

struct Ended {
    outcome: Option<Outcome>,
    failure: Option<Failure>,
    results: Vec<(bool, String)>,
    id: String,
}

async fn run(model: &ModelServer, world: &World, yaml: &str) -> Ended {
    let process = world.open(|_| {});
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let key = format!("k{}", RUNS.fetch_add(1, Ordering::Relaxed));
    let start = world.claim(&process, yaml, &key).await.unwrap();
    let id = start.id.clone();
    let outcome = process.run(start).await;
    let failure = process.view(&id).failure;
    process.stop().await;
    let results = if model.count() == 0 { Vec::new() } else { results(model) };
    Ended { outcome, failure, results, id: id.to_string() }
}

/// Files of all kinds that a repository may hold.
fn odd(code: &Path) {
    use std::os::unix::ffi::OsStrExt as _;
    put(code, "src/lib.rs", "pub fn add(a: u32, b: u32) -> u32 {\n    a + b\n}\n");
    put(code, "src/crlf.txt", "one\r\ntwo needle\r\nthree\r\n");
    put(code, "src/no_end.txt", "a\nneedle without end");
    put(code, "src/empty.txt", "");
    put(code, "src/latin1.txt", b"caf\xe9 needle\nna\xefve\n");
    put(code, "src/bom.txt", "\u{feff}needle after a mark\n");
    put(code, "src/bin.dat", b"needle\0\x01\x02");
    put(code, "src/late_nul.txt", [b"needle\n".repeat(2000), vec![0]].concat());
    put(code, "src/long_line.txt", "x".repeat(5000) + " needle\n" + &"é".repeat(700) + "\n");
    put(code, "src/many.txt", (1..=900).map(|n| format!("line {n} needle\n")).collect::<String>());
    put(code, "src/escape.txt", "\u{1b}[31mred needle\u{1b}[0m\u{202e}turned\n\u{7}bell\n");
    put(code, "big.txt", "0123456789 needle\n".repeat(600_000));
    put(code, "odd/a b.txt", "needle\n");
    put(code, "odd/-rf", "needle\n");
    put(code, "odd/ü.txt", "needle\n");
    put(code, "odd/new\nline.txt", "needle\n");
    put(code, "odd/quote\"'.txt", "needle\n");
    put(code, "odd/[x]*.txt", "needle\n");
    std::fs::write(code.join("odd").join(std::ffi::OsStr::from_bytes(b"bad\xff.txt")), "needle\n").unwrap();
    std::os::unix::fs::symlink("lib.rs", code.join("src/link.rs")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", code.join("src/out.txt")).unwrap();
    std::os::unix::fs::symlink("/etc", code.join("etc")).unwrap();
    std::os::unix::fs::symlink("..", code.join("src/up")).unwrap();
    std::os::unix::fs::symlink("loop", code.join("loop")).unwrap();
    put(code, "deep/a/b/c/d/e/f.txt", "needle\n");
    for n in 0..400 {
        put(code, &format!("many/f{n:03}.txt"), format!("{n} needle {}\n", n % 7));
    }
    put(code, ".gitignore", "ignored/\n*.log\n");
    put(code, "ignored/x.txt", "needle\n");
    put(code, ".hidden/x.txt", "needle\n");
}

/// Looks at all of it, and at what is not there. Each is made once, so none counts as a loop.
fn looks() -> Vec<(&'static str, Value)> {
    let read = |path: &str| ("read", json!({"path": path}));
    let mut looks: Vec<(&'static str, Value)> = [
        "src/lib.rs",
        "./src/lib.rs",
        "src/crlf.txt",
        "src/no_end.txt",
        "src/empty.txt",
        "src/latin1.txt",
        "src/bom.txt",
        "src/bin.dat",
        "src/late_nul.txt",
        "src/long_line.txt",
        "src/many.txt",
        "src/escape.txt",
        "big.txt",
        "odd/a b.txt",
        "odd/-rf",
        "odd/ü.txt",
        "odd/new\nline.txt",
        "odd/quote\"'.txt",
        "odd/[x]*.txt",
        "src/link.rs",
        "src/out.txt",
        "etc",
        "etc/passwd",
        "src/up/src/lib.rs",
        "loop",
        "src",
        "no/such",
        "lib.rs",
        "SRC/lib.rs",
        ".gitignore",
        // Ways out.
        "../secret",
        "src/../../secret",
        "/etc/passwd",
        "",
        ".",
        "a\0b",
        ".git/config",
        ".GIT/HEAD",
        "src//lib.rs",
    ]
    .into_iter()
    .map(read)
    .collect();
    looks.extend([
        ("read", json!({"path": "src/many.txt", "from_line": 890, "lines": 5})),
        ("read", json!({"path": "src/many.txt", "from_line": 890, "lines": 900})),
        ("read", json!({"path": "src/many.txt", "from_line": 5000})),
        ("search", json!({"pattern": "needle"})),
        ("search", json!({"pattern": "needle", "skip": 100})),
        ("search", json!({"pattern": "NEEDLE", "path": "src"})),
        ("search", json!({"pattern": "NEEDLE", "ignore_case": true, "path": "src"})),
        ("search", json!({"pattern": "needle", "glob": "*.rs"})),
        ("search", json!({"pattern": "needle", "glob": "odd/**"})),
        ("search", json!({"pattern": "needle", "path": "src/crlf.txt", "around": 1})),
        ("search", json!({"pattern": "needle [36]$", "path": "many"})),
        ("search", json!({"pattern": "^two needle$"})),
        ("search", json!({"pattern": "root:"})),
        ("search", json!({"pattern": "lib\\.rs"})),
        ("search", json!({"pattern": "(unclosed"})),
        ("search", json!({"pattern": "x", "glob": "{a"})),
        ("search", json!({"pattern": "needle", "path": "../.."})),
        ("search", json!({"pattern": "needle", "path": "no/such"})),
        ("search", json!({"pattern": "nothing has this"})),
        ("tree", json!({})),
        ("tree", json!({"path": "odd"})),
        ("tree", json!({"path": "many"})),
        ("tree", json!({"path": "many", "skip": 300})),
        ("tree", json!({"path": "src/up"})),
        ("tree", json!({"path": "etc"})),
        ("tree", json!({"path": "deep"})),
        ("tree", json!({"glob": "**/*.rs"})),
        ("tree", json!({"glob": "f00?.txt"})),
        ("tree", json!({"glob": "no*such"})),
        ("tree", json!({"path": "../"})),
        ("tree", json!({"path": "/"})),
    ]);
    looks
}

/// What all looks answer in a profile.
async fn answers(profile: &str, fill: fn(&Path), edits: &[(&'static str, Value)]) -> Vec<(String, bool, String)> {
    let (looks, has_edits) = (looks(), !edits.is_empty());
    let mut messages: Vec<Vec<(&'static str, Value)>> = Vec::new();
    if !edits.is_empty() {
        messages.push(edits.to_vec());
    }
    messages.extend(looks.chunks(12).map(<[_]>::to_vec));
    let asked: Vec<String> = messages.iter().flatten().map(|(name, input)| format!("{name} {input}")).collect();
    let (worktrees, talk) = (Arc::new(Mutex::new(PathBuf::new())), turns(messages));
    let (files, native) = (worktrees.clone(), profile == "native");
    let model = ModelServer::script(move |request| {
        // The bindings really are two: one has files, the other none.
        let copies = std::fs::read_dir(&*files.lock().unwrap()).map_or(0, Iterator::count);
        assert_eq!(
            copies > 0,
            native && request.turn() > usize::from(has_edits),
            "{copies} copies at {}",
            request.turn()
        );
        talk(request)
    });
    let mut world = world(&model, fill);
    *worktrees.lock().unwrap() = world.state().join("work/worktrees");
    with_environment(&mut world, ENVIRONMENT);
    world.config.push_str(&format!("profiles:\n  local: {{tools: {profile}}}\n"));
    sandbox::script(world.path(), |_, _| Ok(End::default()));
    let ended = run(&model, &world, BOSS).await;
    assert_eq!(ended.outcome, Some(Outcome::NothingNew), "{:?}", ended.failure);
    model.assert_clean();
    assert_eq!(ended.results.len(), asked.len());
    asked.into_iter().zip(ended.results).map(|(asked, (bad, text))| (asked, bad, text)).collect()
}

async fn alike(fill: fn(&Path), edits: &[(&'static str, Value)]) -> Vec<(String, bool, String)> {
    let native = answers("native", fill, edits).await;
    let clone = answers("clone", fill, edits).await;
    for (native, clone) in native.iter().zip(&clone) {
        assert_eq!(native, clone);
    }
    assert_eq!(native.len(), clone.len());
    native
}

fn answer<'a>(answers: &'a [(String, bool, String)], asked: &str) -> &'a (String, bool, String) {
    answers.iter().find(|(known, _, _)| known == asked).unwrap_or_else(|| panic!("{asked} was not asked"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_bindings_answer_alike_about_files_of_every_kind() {
    let answers = alike(odd, &[]).await;
    assert!(answers.len() >= 60);
    let says = |asked: &str, bad: bool, part: &str| {
        let found = answer(&answers, asked);
        assert!(found.1 == bad && found.2.contains(part), "{found:?}");
    };
    says(r#"read {"path":"src/lib.rs"}"#, false, "2:     a + b\n");
    says(r#"read {"path":"src/out.txt"}"#, false, "1: /etc/passwd\n");
    says(r#"read {"path":"etc/passwd"}"#, true, "there is no file `etc/passwd`");
    says(r#"read {"path":"src"}"#, true, "is a folder");
    says(r#"read {"path":"big.txt"}"#, true, "more than");
    says(r#"read {"path":"src/bin.dat"}"#, true, "is no text");
    says(r#"read {"path":"lib.rs"}"#, true, "there is `src/lib.rs`");
    says(r#"search {"pattern":"root:"}"#, false, "[0 lines match");
    for out in ["../secret", "src/../../secret", "/etc/passwd", "", ".", "a\0b", ".git/config", ".GIT/HEAD"] {
        let asked = format!("read {}", json!({"path": out}));
        assert!(answer(&answers, &asked).1, "{asked}");
    }
    let all: String = answers.iter().map(|(_, _, text)| text.as_str()).collect();
    assert!(!all.contains("root:x:"), "a link was followed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_bindings_answer_alike_after_edits_and_without_files() {
    let edits = [
        ("edit", json!({"path": "src/lib.rs", "old": "a + b", "new": "b + a // needle"})),
        ("edit", json!({"path": "src/crlf.txt", "content": "all new needle\n"})),
        ("edit", json!({"path": "many/f000.txt", "delete": true})),
        ("edit", json!({"path": "odd/a b.txt", "rename_to": "moved/to/here.txt"})),
        ("edit", json!({"path": "src/link.rs", "content": "over a link"})),
        ("edit", json!({"path": "src/up/evil.txt", "content": "through a link"})),
        ("edit", json!({"path": "../evil.txt", "content": "x"})),
        ("edit", json!({"path": "/tmp/evil.txt", "content": "x"})),
        ("edit", json!({"path": "a\0b", "content": "x"})),
        ("edit", json!({"path": ".git/hooks/pre-commit", "content": "x"})),
        ("edit", json!({"path": "src/lib.rs", "rename_to": "../evil.rs"})),
        ("edit", json!({"path": "src/lib.rs", "old": "b + a // needle", "new": "b + a // needle"})),
        ("edit", json!({"path": "src/lib.rs", "old": "not there", "new": "x"})),
        ("edit", json!({"path": "src/lib.rs", "old": "u32", "new": "u64"})),
        ("edit", json!({"path": "src/lib.rs", "old": "u32", "new": "u64", "count": 3})),
        ("edit", json!({"path": "src/lib.rs", "content": "x", "delete": true})),
    ];
    let answers = alike(odd, &edits).await;
    let edited: Vec<(bool, &str)> =
        answers.iter().take(edits.len()).map(|(_, bad, text)| (*bad, text.as_str())).collect();
    let wanted = [
        (
            false,
            "`src/lib.rs` is changed; it reads now:\n1: pub fn add(a: u32, b: u32) -> u32 {\n2:     b + a // needle\n3: }",
        ),
        (false, "`src/crlf.txt` has 1 lines now"),
        (false, "`many/f000.txt` is deleted"),
        (false, "`odd/a b.txt` is `moved/to/here.txt` now"),
        (true, "`src/link.rs` is a symbolic link, which cannot be edited"),
        (true, "`src/up` is a file, so nothing can lie below it"),
    ];
    for (found, wanted) in edited.iter().zip(wanted) {
        assert_eq!(*found, wanted);
    }
    for (n, (bad, text)) in edited.iter().enumerate().skip(6).take(8) {
        assert!(*bad && !text.is_empty(), "{} was not refused: {text}", edits[n].1);
    }
    assert!(edited[13].1.contains("3 times"), "{}", edited[13].1);
    assert!(!edited[14].0, "{}", edited[14].1);
    assert!(edited[15].1.starts_with("`content` and `delete` were given together"), "{}", edited[15].1);
    assert!(
        answer(&answers, r#"read {"path":"src/lib.rs"}"#)
            .2
            .contains("1: pub fn add(a: u64, b: u64) -> u64 {\n2:     b + a // needle")
    );
    assert!(answer(&answers, r#"read {"path":"odd/a b.txt"}"#).1);
    alike(|_| {}, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_edits_until_the_tests_pass_and_nothing_else_sees_it() {
    let model = ModelServer::script(turns(vec![
        vec![("search", json!({"pattern": "fn answer"})), ("run_tests", json!({}))],
        vec![
            ("edit", json!({"path": "src/answer.py", "old": "return 41", "new": "return 42"})),
            ("run_tests", json!({"filter": "test_answer"})),
            ("run", json!({"command": "cat src/answer.py"})),
        ],
        vec![("run_tests", json!({}))],
    ]));
    let mut world = world(&model, |code| put(code, "src/answer.py", "def answer():\n    return 41\n"));
    with_environment(&mut world, ENVIRONMENT);
    let script = sandbox::script(world.path(), |request, folder| {
        let answer = std::fs::read_to_string(folder.join("src/answer.py")).unwrap();
        Ok(match request.command.as_str() {
            "make test" if answer.contains("42") => {
                End { stdout: "\u{1b}[32m2 passed in 0.12s\u{1b}[0m\n".into(), ..End::default() }
            }
            "make test" => End {
                exit: 1,
                stdout: "at 2026-11-20T08:00:01Z: 1 failed in 0.31s\n".into(),
                stderr: "wanted 42, was 41\n".into(),
                junit: None,
            },
            "cat src/answer.py" => {
                // Whatever a command does to its copy is its own.
                std::fs::write(folder.join("src/answer.py"), "spoilt").unwrap();
                End { stdout: answer, ..End::default() }
            }
            other => panic!("{other}"),
        })
    });
    let ended = run(&model, &world, BOSS).await;
    assert_eq!(ended.outcome, Some(Outcome::NothingNew), "{:?}", ended.failure);
    model.assert_clean();
    let texts: Vec<&str> = ended.results.iter().map(|(_, text)| text.as_str()).collect();
    let red = "the tests FAILED: exit code 1";
    assert!(texts[1].starts_with(red) && texts[1].contains("at <time>: 1 failed in <duration>"), "{}", texts[1]);
    assert!(texts[1].contains("--- the end of the errors ---\nwanted 42, was 41"), "{}", texts[1]);
    assert!(texts[3].starts_with("the tests passed: exit code 0"), "{}", texts[3]);
    assert_eq!(texts[4], "exit code 0\n--- output ---\ndef answer():\n    return 42");
    assert!(texts[5].contains("2 passed in <duration>"), "{}", texts[5]);
    let owner = format!("{}/work", ended.id);
    assert_eq!(
        script.seen(),
        [
            format!("prepare {}/", ended.id),
            format!("run {owner}: make test"),
            format!("run {owner}: make test"),
            format!("run {owner}: cat src/answer.py"),
            format!("run {owner}: make test"),
            format!("release {}", ended.id),
        ]
    );
    // The user's own clone is as it was.
    assert_eq!(
        std::fs::read_to_string(world.path().join("code/src/answer.py")).unwrap(),
        "def answer():\n    return 41\n"
    );
    assert_eq!(user_git(&world.path().join("code"), &["status", "--porcelain"]), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_that_cannot_be_had_blocks_before_any_call_and_says_what_to_do() {
    type Change = fn(&World) -> String;
    let cases: [(&str, Change, &str, &str); 6] = [
        (
            "no such ref",
            |_| BOSS.replace("ref: main", "ref: release/9"),
            "has no `release/9`",
            "`ref: release/9` in the pipeline's `repository` must name a branch, a tag or a full commit id",
        ),
        (
            "no git folder",
            |world| {
                std::fs::remove_dir_all(world.path().join("code/.git")).unwrap();
                BOSS.into()
            },
            "is not a git repository",
            "git rev-parse --show-toplevel",
        ),
        (
            "no folder",
            |_| BOSS.replace("path: code", "path: nowhere"),
            "there is no folder",
            "name the folder of a git clone",
        ),
        (
            "no commit",
            |world| {
                let code = world.path().join("code");
                std::fs::remove_dir_all(code.join(".git")).unwrap();
                user_git(&code, &["init", "-q", "-b", "main"]);
                BOSS.replace(", ref: main", "")
            },
            "has no commit yet",
            "git add -A && git commit",
        ),
        (
            "no repository",
            |_| BOSS.replace("repository: {path: code, ref: main}\n", ""),
            "the pipeline names no repository",
            "add `repository:",
        ),
        (
            "no environment",
            |_| BOSS.replace("environment: environments/api.yaml\n", ""),
            "the pipeline names no environment",
            "add `environment:",
        ),
    ];
    for (name, change, message, help) in cases {
        let model = ModelServer::script(|_| Reply::json(&json!({"cause": "unknown"})));
        let mut world = world(&model, |code| put(code, "a.txt", "a\n"));
        with_environment(&mut world, ENVIRONMENT);
        sandbox::script(world.path(), |_, _| Ok(End::default()));
        let yaml = change(&world);
        let ended = run(&model, &world, &yaml).await;
        let failure = ended.failure.unwrap_or_else(|| panic!("{name}"));
        assert_eq!((ended.outcome, model.count()), (Some(Outcome::Blocked), 0), "{name}: {failure}");
        assert!(failure.message.contains(message), "{name}: {failure}");
        assert!(failure.help.as_deref().unwrap_or_default().contains(help), "{name}: {:?}", failure.help);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_environment_that_does_not_work_blocks_with_the_end_of_its_output() {
    let tree = "0123456789abcdef0123456789abcdef01234567".parse().unwrap();
    let output: String = (1..500).map(|n| format!("\u{1b}[31mline {n}\u{1b}[0m\n\n")).collect();
    let broken = SandboxError::Broken {
        what: "failed with exit code 2 (setup)".into(),
        receipt: Box::new(sandbox::receipt("pip install -r requirements.txt", &tree, 2)),
        output,
    };
    let missing = SandboxError::Missing { message: "there is no bwrap".into(), help: "apt install bubblewrap".into() };
    let failed = SandboxError::Failed { message: "the disk is full".into() };
    let cases = [
        (
            broken,
            Outcome::Blocked,
            "E-ENVIRONMENT",
            "`pip install -r requirements.txt` failed with exit code 2 (setup)",
            "line 498 / line 499",
        ),
        (missing, Outcome::Blocked, "E-SANDBOX", "there is no bwrap", "apt install bubblewrap"),
        (failed, Outcome::Failed, "E-SANDBOX", "the disk is full", ""),
    ];
    for (error, outcome, code, message, help) in cases {
        let model = ModelServer::script(|_| Reply::json(&json!({"cause": "unknown"})));
        let mut world = world(&model, |code| put(code, "a.txt", "a\n"));
        with_environment(&mut world, ENVIRONMENT);
        sandbox::script(world.path(), |_, _| Ok(End::default())).breaks(error);
        let ended = run(&model, &world, BOSS).await;
        let failure = ended.failure.unwrap();
        assert_eq!((ended.outcome, model.count()), (Some(outcome), 0), "{failure}");
        assert_eq!((failure.code.as_str(), failure.message.as_str()), (code, message));
        let said = failure.help.unwrap_or_default();
        assert!(said.ends_with(help) && said.len() < 1000 && !said.contains('\u{1b}'), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_run_ends_the_command_that_it_waits_for() {
    let model = ModelServer::script(turns(vec![vec![("run", json!({"command": "hang"}))]]));
    let mut world = world(&model, |code| put(code, "a.txt", "a\n"));
    with_environment(&mut world, ENVIRONMENT);
    let script = sandbox::script(world.path(), |_, _| Ok(End::default()));
    let process = world.open(|_| {});
    let start = world.claim(&process, BOSS, "k").await.unwrap();
    let id = start.id.clone();
    process.engine.launch(start);
    wait_for(&script, "run ").await;
    assert!(process.engine.cancel(&id, "enough"));
    assert_eq!(process.engine.wait(&id).await.unwrap(), Some(Outcome::Cancelled));
    assert_eq!(process.view(&id).failure.unwrap().message, "enough", "who cancels says why");
    wait_for(&script, "dropped").await;
    wait_for(&script, "release ").await;
    process.stop().await;
}

async fn wait_for(script: &Arc<Script>, what: &str) {
    for _ in 0..2000 {
        if script.seen().iter().any(|seen| seen.starts_with(what)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("no `{what}` in {:?}", script.seen());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_side_by_side_each_see_their_own_edits() {
    // Four agents read, edit and read again at the same time; each of them writes its own name.
    let steps = "  - id: crews
    each: {as: crew, in: data.items, parallel: 4}
    steps:
      - id: work
        boss: {ask: \"Do it.\", given: [crew], tools: [read, search, edit]}
        output: {cause: string(200)}
";
    let yaml = BOSS.split_once("  - id: work").unwrap().0.to_owned()
        + steps
        + "tools:\n  days: {sql: warehouse, file: days.sql, args: {from: date?}}\n";
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = seen.clone();
    let model = ModelServer::script(move |request| {
        let all = request.all_text();
        let name = ["2026-11-17", "2026-11-18", "2026-11-19"].into_iter().find(|day| all.contains(*day)).unwrap();
        match request.turn() {
            turn if turn < 6 => Reply::calls([
                ("edit", json!({"path": format!("notes/{turn}.txt"), "content": format!("{name} was here\n")})),
                ("search", json!({"pattern": "was here"})),
            ]),
            _ => {
                kept.lock().unwrap().push(format!("{name} {}", request.last_text()));
                Reply::json(&json!({"cause": "unknown"}))
            }
        }
    });
    let world = world(&model, |code| {
        for n in 0..50 {
            put(code, &format!("src/f{n}.txt"), "nothing\n");
        }
    });
    let mut world = world;
    with_environment(&mut world, ENVIRONMENT);
    sandbox::script(world.path(), |_, _| Ok(End::default()));
    let ended = run(&model, &world, &yaml).await;
    assert_eq!(ended.outcome, Some(Outcome::NothingNew), "{:?}", ended.failure);
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 3);
    for text in seen.iter() {
        let name = &text[..10];
        assert_eq!(text.matches(&format!("{name} was here")).count(), 6, "{text}");
        assert_eq!(text.matches("was here").count(), 6, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_is_made_with_the_token_which_stands_nowhere() {
    let model = ModelServer::script(turns(vec![vec![("read", json!({"path": "a.txt"}))]]));
    let mut world = world(&model, |code| put(code, "a.txt", "from a server\n"));
    with_environment(&mut world, ENVIRONMENT);
    sandbox::script(world.path(), |_, _| Ok(End::default()));
    let served = world.path().join("served/acme");
    std::fs::create_dir_all(&served).unwrap();
    user_git(&served, &["clone", "-q", "--bare", "../../code", "api.git"]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let token = world.path().join("github.token");
    std::fs::write(&token, "ghp_hunter2hunter2\n").unwrap();
    world.config = world.config.replace("secrets: {", "secrets: {GITHUB: {file: github.token}, ");
    world.config.push_str(&format!(
        "services:\n  github: {{git_url: \"http://127.0.0.1:{port}\", token: secret:GITHUB}}\n\
         profiles:\n  local: {{repository: clone, tools: clone}}\n"
    ));
    let yaml = BOSS.replace("{path: code, ref: main}", "{github: acme/api, ref: main}");
    let (stop, heads) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let server = {
        let (root, stop, heads) = (world.path().join("served"), stop.clone(), heads.clone());
        let wanted = "Basic eC1hY2Nlc3MtdG9rZW46Z2hwX2h1bnRlcjJodW50ZXIy";
        std::thread::spawn(move || serve(listener, &root, wanted, &stop, &heads))
    };
    let ended = run(&model, &world, &yaml).await;
    assert_eq!(ended.outcome, Some(Outcome::NothingNew), "{:?}", ended.failure);
    assert_eq!(ended.results, [(false, "1: from a server\n[1 lines in all]".to_owned())]);
    for (path, (_, content)) in files(&world.state()) {
        let text = String::from_utf8_lossy(&content);
        assert!(!text.contains("hunter2") && !text.contains("Z2hwX2h1bnRlcjJ"), "the token stands in {path}");
    }
    // A token that is refused, and one that is not there.
    for (content, message, help) in [
        (Some("other"), "fetching `main` from http://127.0.0.1", "`services.github` may read the contents of acme/api"),
        (Some("two words"), "secret `GITHUB` holds characters that a token does not have", "`services.github`"),
        (None, "secret `GITHUB`: cannot read", "connect github"),
    ] {
        match content {
            Some(content) => std::fs::write(&token, content).unwrap(),
            None => std::fs::remove_file(&token).unwrap(),
        }
        let ended = run(&model, &world, &yaml).await;
        let failure = ended.failure.unwrap();
        assert_eq!(ended.outcome, Some(Outcome::Blocked), "{failure}");
        assert!(failure.message.contains(message), "{failure}");
        assert!(failure.help.as_deref().unwrap().contains(help), "{failure:?}");
    }
    stop.store(true, Ordering::Relaxed);
    drop(TcpStream::connect(("127.0.0.1", port)).unwrap());
    server.join().unwrap();
    assert!(heads.lock().unwrap().iter().all(|head| head.contains("/acme/api.git/")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_on_code_goes_on_after_a_crash_at_every_entry_with_its_edits() {
    let calls = || {
        turns(vec![
            vec![("edit", json!({"path": "a.txt", "content": "one\n"})), ("search", json!({"pattern": "."}))],
            vec![("run", json!({"command": "cat a.txt"})), ("read", json!({"path": "a.txt"}))],
            vec![("edit", json!({"path": "a.txt", "old": "one", "new": "two"})), ("tree", json!({}))],
            vec![("run", json!({"command": "cat a.txt b.txt"})), ("search", json!({"pattern": "o"}))],
        ])
    };
    let make = |model: &ModelServer| {
        let mut world = world(model, |code| {
            put(code, "a.txt", "zero\n");
            put(code, "b.txt", "b\n");
        });
        with_environment(&mut world, ENVIRONMENT);
        sandbox::script(world.path(), |_, folder| {
            let stdout = std::fs::read_to_string(folder.join("a.txt")).unwrap();
            Ok(End { stdout, ..End::default() })
        });
        world
    };
    let model = ModelServer::script(calls());
    let calm = make(&model);
    let process = calm.open(|_| {});
    let start = calm.claim(&process, BOSS, "k").await.unwrap();
    assert_eq!(process.run(start).await, Some(Outcome::NothingNew));
    let entries = process.journal.reader().entries_after(None, 0, 10_000).unwrap().len() as i64;
    process.stop().await;
    let undisturbed = results(&model);
    assert_eq!(undisturbed.len(), 8);
    assert!(undisturbed[6].1.contains("two") && entries > 20, "{undisturbed:?}");

    for n in 1..entries {
        let model = ModelServer::script(calls());
        let world = make(&model);
        let dying = world.open(|options| options.die_after = Some(n));
        if let Ok(start) = world.claim(&dying, BOSS, "k").await {
            dying.run(start).await;
        }
        dying.stop().await;
        let process = world.open(|_| {});
        let open = process.journal.reader().open_runs().unwrap();
        let Some(id) = open.first().map(|start| start.id.clone()) else {
            assert!(n < 3 || n + 1 >= entries, "the run is lost after entry {n}");
            process.stop().await;
            continue;
        };
        assert_eq!(process.engine.resume_open().await.unwrap(), 1);
        assert_eq!(process.engine.wait(&id).await.unwrap(), Some(Outcome::NothingNew), "after entry {n}");
        process.stop().await;
        model.assert_clean();
        assert_eq!(results(&model), undisturbed, "after entry {n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_real_sandbox_an_agent_sees_its_edits_and_no_path_of_this_machine() {
    let model = ModelServer::script(turns(vec![
        vec![("run_tests", json!({}))],
        vec![
            ("edit", json!({"path": "answer.sh", "old": "41", "new": "42"})),
            ("run_tests", json!({"filter": "answer"})),
        ],
        vec![
            (
                "run",
                json!({"command": "pwd; echo $PWD/answer.sh; echo x > new.txt; echo \"at $(date -u +%FT%TZ)\"; exit 3"}),
            ),
            ("read", json!({"path": "new.txt"})),
        ],
    ]));
    let mut world = world(&model, |code| {
        put(code, "answer.sh", "echo 41\n");
        let test = "echo TAP version 13\necho 1..2\necho ok 1 - starts\n\
                    if [ \"$(sh answer.sh)\" = 42 ]; then echo ok 2 - answer; else echo not ok 2 - answer; exit 1; fi\n";
        put(code, "test.sh", test);
    });
    world.registry = REGISTRY;
    // Where the tests run as root the last tier has users of its own, who must be able to get here.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(world.path(), open).unwrap();
    with_environment(&mut world, "checks: [\"sh answer.sh\"]\ntest: \"sh test.sh\"\n");
    let ended = run(&model, &world, BOSS).await;
    assert_eq!(ended.outcome, Some(Outcome::NothingNew), "{:?}", ended.failure);
    model.assert_clean();
    let texts: Vec<&str> = ended.results.iter().map(|(_, text)| text.as_str()).collect();
    assert!(texts[0].starts_with("the tests FAILED: exit code 1; 1 passed, 1 failed\n"), "{}", texts[0]);
    assert!(texts[2].starts_with("the tests passed: exit code 0; 2 passed, 0 failed\n"), "{}", texts[2]);
    assert!(texts[2].contains("of these with `answer` in the name: 1 passed, 0 failed\n"), "{}", texts[2]);
    assert_eq!(texts[3], "exit code 3\n--- output ---\n.\nanswer.sh\nat <time>");
    assert_eq!(ended.results[4], (true, "there is no file `new.txt`".to_owned()));
}
