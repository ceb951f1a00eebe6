//! `nightcrew demo`: offline, in a bare environment, with every figure checked. And how its tapes are made.

mod script;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::fakes::model::ModelServer;
use crate::project::Answer;

/// What each pipeline's tape is.
const TAPES: [(&str, &str); 3] = [
    ("analytics-report", "tests/samples/analytics/demo.tape"),
    ("code-health", "tests/samples/findings/demo.tape"),
    ("error-to-pr", "tests/samples/errors/demo.tape"),
];

/// The binary in a folder, with nothing of the caller's environment but where the tools of the host are.
pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = crate::project::command(folder, arguments);
    command.env("PATH", std::env::var_os("PATH").unwrap());
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    for (name, below) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
        command.env(name, std::env::var_os(name).unwrap_or_else(|| home.join(below).into()));
    }
    command
}

/// Has `main` of a laid-out sample point at what `to` names.
pub fn point(repository: &Path, to: &str) {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .arg("-C")
            .arg(repository)
            .args(arguments)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    git(&["update-ref", "refs/heads/main", &git(&["rev-parse", to])]);
}

/// Records the demo's tapes anew, after a change of prompts, tools or samples:
/// `cargo test --test it -- --ignored record_the_demos_tapes`. Needs what the demo needs. Only some of them with
/// `NIGHTCREW_TAPES=error-to-pr,…`.
#[test]
#[ignore = "writes files of the repository"]
fn record_the_demos_tapes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let server = ModelServer::script(script::answer);
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| Answer::of(command(folder.path(), arguments).output().unwrap());
    // The demo lays out its own files; how far it comes with the old tapes does not matter.
    run(&["demo"]);
    let demo = folder.path().join("nightcrew-demo");
    let config = demo.join("nightcrew.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    let url = server.url();
    let text = text
        .replace("provider: anthropic,", &format!("provider: anthropic, base_url: \"{url}\","))
        .replace("    models: {tape: samples/demo.tape}\n", "");
    std::fs::write(&config, text).unwrap();
    let begin = ["--config", config.to_str().unwrap(), "--state", "state", "--json", "run"];
    let record = |pipeline: &str, more: &[&str]| {
        let arguments = [&begin[..], &[pipeline, "--profile", "demo"], more].concat();
        let answer = run(&arguments);
        server.assert_clean();
        let ran = answer.json()["runs"][0].clone();
        assert!(answer.code == Some(0), "{pipeline}: {ran:#}\n{}", answer.err);
        ran
    };
    let some = std::env::var("NIGHTCREW_TAPES").ok();
    let wanted = |pipeline: &str| some.as_ref().is_none_or(|some| some.split(',').any(|name| name == pipeline));
    let tape = |name: &str| folder.path().join(format!("{name}.tape"));
    for (pipeline, _) in TAPES.iter().filter(|(pipeline, _)| wanted(pipeline)) {
        let file = tape(pipeline);
        if *pipeline == "code-health" {
            point(&demo.join("samples/parcels"), "next~1");
            assert_eq!(record(pipeline, &[])["cost_usd"], 0.0, "the baseline asks no model");
            point(&demo.join("samples/parcels"), "next");
        }
        let day: &[&str] = if *pipeline == "analytics-report" { &["--set", "day=2026-11-19"] } else { &[] };
        let ran = record(pipeline, &[&["--record", file.to_str().unwrap()], day].concat());
        eprintln!("{pipeline}: {} {}", ran["outcome"], ran["receipts"]);
    }
    for (pipeline, place) in TAPES.iter().filter(|(pipeline, _)| wanted(pipeline)) {
        std::fs::copy(tape(pipeline), root.join(place)).unwrap();
    }
}

fn ticket_files(out: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![out.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found
}

/// Outcome and receipts of each run, without what differs from time to time.
pub fn summary(answer: &Value) -> Value {
    let count = |run: &Value, kind: &str| {
        run["receipts"].as_array().into_iter().flatten().filter(|receipt| receipt["kind"] == kind).count()
    };
    let line = |run: &Value| {
        json!([run["pipeline"], run["outcome"], count(run, "ticket"), count(run, "pull_request"), count(run, "report")])
    };
    answer["runs"].as_array().into_iter().flatten().map(line).collect()
}

/// Four runs: the baseline of `code-health` is one of its own.
pub fn whole() -> Value {
    json!([
        ["analytics-report", "reported", 0, 0, 1],
        ["code-health", "nothing_new", 0, 0, 0],
        ["code-health", "acted", 4, 0, 1],
        ["error-to-pr", "acted", 1, 1, 1]
    ])
}

#[test]
fn the_demo_needs_nothing_and_checks_every_figure() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| Answer::of(command(folder.path(), arguments).output().unwrap());
    let answer = run(&["--json", "demo"]).ends(0).json();
    assert_eq!(summary(&answer), whole(), "{answer:#}");
    let ran = &answer["runs"][0];
    assert_eq!(
        json!([ran["pipeline"], ran["profile"], ran["effects"], ran["outcome"], ran["turns"], ran["intern"]["calls"]]),
        json!(["analytics-report", "demo", "preview", "reported", 2, 1])
    );
    assert_eq!(json!([ran["complaints"], ran["refused"]]), json!([[], []]));
    let report = folder.path().join(ran["receipts"][0]["url_or_path"].as_str().unwrap());
    let text = std::fs::read_to_string(&report).unwrap();
    assert!(text.contains("216 against the usual 40") && text.contains("289 against 145"), "{text}");
    let page = std::fs::read_to_string(report.with_file_name("index.html")).unwrap();
    assert!(page.contains("<svg") && !page.contains("http://"), "readable offline, with its chart");

    // What was handled costs nothing again.
    let demo = folder.path().join("nightcrew-demo");
    let config = demo.join("nightcrew.yaml");
    for pipeline in ["code-health", "error-to-pr"] {
        let arguments = ["--config", config.to_str().unwrap(), "--state", "nightcrew-demo", "--json", "run", pipeline];
        let again = run(&[&arguments[..], &["--profile", "demo"]].concat()).ends(0).json();
        let again = &again["runs"][0];
        assert_eq!(json!([again["outcome"], again["cost_usd"]]), json!(["nothing_new", 0.0]), "{pipeline}: {again:#}");
    }

    // A finished one begins anew; anybody else's folder is left alone.
    let files = ticket_files(&demo.join("out")).len();
    let again: Value = run(&["--json", "demo"]).ends(0).json();
    assert_eq!(summary(&again), whole());
    assert_ne!(again["runs"][0]["id"], ran["id"]);
    assert_eq!(ticket_files(&demo.join("out")).len(), files, "in the place of the old one");
    std::fs::create_dir(folder.path().join("mine")).unwrap();
    std::fs::write(folder.path().join("mine/nightcrew.yaml"), "precious").unwrap();
    assert!(run(&["demo", "mine"]).ends(1).err.contains("is not empty and is not a demo's"));
}

/// The event file says what the program really throws, as far as that can be seen without running it.
#[test]
fn the_errors_of_the_sample_name_its_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
    let events: Vec<Value> = serde_json::from_slice(&std::fs::read(root.join("errors/errors.json")).unwrap()).unwrap();
    let mut looked = 0;
    for frame in events.iter().flat_map(|event| {
        event.pointer("/exception/values/0/stacktrace/frames").and_then(Value::as_array).cloned().unwrap_or_default()
    }) {
        if frame["in_app"] == true {
            let text = std::fs::read_to_string(root.join("bug").join(frame["filename"].as_str().unwrap())).unwrap();
            let line = usize::try_from(frame["lineno"].as_u64().unwrap()).unwrap();
            assert_eq!(text.lines().nth(line - 1), frame["context_line"].as_str());
            looked += 1;
        }
    }
    assert!(looked >= 5);
}
