//! Scans of a real clone in the real sandbox. What belongs here: scanners as they print, over several commits and runs.

use std::process::Command;

use serde_json::{Value, json};

use crate::fakes::model::{ModelServer, Reply, Request};
use crate::project::{Answer, Project};
use crate::workspace::user_git;

const PIPELINE: &str = "\
version: 1
name: health
summary: Scans and tells.
limits: {max_turns: 5, max_budget_usd: 1.00}
repository: {path: ../clone}
environment: environments/api.yaml
steps:
  - id: found
    scan: {first_run: baseline}
  - id: real
    each: finding in found
    intern: {task: filter, ask: \"Real? Quote the line.\", given: [finding], keep: output.verdict == \"real\"}
    output: {verdict: real | style, quote: string(300)}
    check: {quotes_from: finding.source}
  - id: news
    report: {from: real, to: files}
";

/// `lint.sh` prints what the repository says it prints: with absolute paths in SARIF, relative ones in JSON lines.
const ENVIRONMENT: &str = "\
tools: [git]
setup: [{run: \"mkdir -p built && echo 'FIXME: not ours' >built/x.py\", reads: []}]
test: \"true\"
scanners:
  sarif: [{run: \"sh lint.sh sarif\", ok_exit: [0, 1]}]
  jsonl: [\"sh lint.sh jsonl\"]
  pattern: [\"FIXME[:(]\"]
";

const LINT: &str = r#"
result() {
  printf '{"ruleId": "%s", "level": "error", "message": {"text": "%s is used"}, "locations": [{"physicalLocation":' "$1" "$1"
  printf ' {"artifactLocation": {"uri": "file://%s/%s"}, "region": {"startLine": %s}}}]}' "$PWD" "$2" "$3"
}
case $1 in
sarif)
  printf '{"runs": [{"tool": {"driver": {"name": "Evil Finder"}}, "results": ['
  first=1
  for at in $(grep -n 'eval(' src/app.py | cut -d: -f1); do
    [ $first ] || printf ','
    first=
    result evil src/app.py "$at"
  done
  printf ']}]}'
  [ $first ] ;;
jsonl) if [ -e broken ]; then echo 'cannot start' >&2; exit 3; fi ;;
esac
"#;

struct Bench {
    project: Project,
    server: ModelServer,
}

impl Bench {
    fn new() -> Self {
        let server = ModelServer::script(|request: &Request| {
            // The deciding line, as it stands in the fenced source.
            let quote = if request.all_text().contains("eval(second)") { "eval(second)" } else { "FIXME: soon" };
            Reply::json(&json!({"verdict": "real", "quote": quote}))
        });
        let project = Project::new(&[("health", PIPELINE)], Some(&server));
        project.write("pipelines/environments/api.yaml", ENVIRONMENT);
        project.write("clone/lint.sh", LINT);
        user_git_init(&project);
        let bench = Self { project, server };
        bench.commit("import os\n\neval(first)\n");
        bench
    }

    /// Commits the application with this text.
    fn commit(&self, app: &str) {
        self.project.write("clone/src/app.py", app);
        user_git(&self.project.path("clone"), &["add", "-A"]);
        user_git(&self.project.path("clone"), &["commit", "-q", "-m", "x"]);
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.project.command(arguments);
        command.env("PATH", std::env::var_os("PATH").unwrap());
        command
    }

    /// Runs the pipeline: its outcome, and the summary of the scan.
    fn run(&self, code: i32) -> (String, String) {
        let answer = Answer::of(self.command(&["--json", "run", "health"]).output().unwrap()).ends(code).json();
        let run = &answer["runs"][0];
        let log = self.project.run(&["--json", "logs", run["id"].as_str().unwrap()]).ends(0).out;
        let mut entries = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let found = entries.rfind(|e| e["kind"] == "step_finished" && e["path"] == "found").unwrap();
        let found = &found["payload"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let said = if found["result"]["outcome"] == "done" { text(&found["summary"]) } else { text(&found["reason"]) };
        (text(&run["outcome"]), said)
    }

    fn findings(&self) -> Vec<(String, String)> {
        let answer = self.project.run(&["--json", "findings", "--all"]).ends(0).json();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let line = |line: &Value| {
            let end = if line["state"] == "handled" { &line["end"] } else { &line["state"] };
            (text(&line["place"]), text(end))
        };
        let mut lines: Vec<_> = answer["findings"].as_array().unwrap().iter().map(line).collect();
        lines.sort();
        lines
    }
}

fn user_git_init(project: &Project) {
    user_git(&project.path("clone"), &["init", "-q", "-b", "main"]);
}

fn lines(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(place, end)| ((*place).to_owned(), (*end).to_owned())).collect()
}

#[test]
fn a_repository_is_scanned_night_after_night_and_only_what_is_new_is_judged() {
    let bench = Bench::new();
    let (outcome, said) = bench.run(0);
    assert_eq!((outcome.as_str(), bench.server.count()), ("nothing_new", 0), "{said}");
    // What the setup made is no file of the repository.
    assert_eq!(said, "baseline: 1 finding recorded, 1 outside of the repository's files");
    assert_eq!(bench.findings(), lines(&[("src/app.py:3", "baseline")]));

    // Lines are added above, and two findings.
    bench.commit("import os\nimport sys\n\n# FIXME: soon\n\n  eval( first )\neval(first)\n\n\n\n\neval(second)\n");
    let (outcome, said) = bench.run(0);
    assert_eq!(outcome, "reported", "{said}");
    assert!(said.starts_with("3 findings of 4, 1 known"), "{said}");
    assert_eq!(bench.server.count(), 3);
    // The same again, and nobody is asked.
    let (outcome, said) = bench.run(0);
    assert_eq!((outcome.as_str(), bench.server.count()), ("nothing_new", 3), "{said}");

    // A scanner that fails says nothing about what is gone.
    bench.project.write("clone/broken", "");
    bench.commit("eval(second)\n");
    let (outcome, said) = bench.run(1);
    assert!(outcome == "failed" && said.contains("ended with exit code 3: cannot start"), "{outcome} {said}");
    assert!(bench.findings().iter().all(|(_, end)| end != "fixed"));
    std::fs::remove_file(bench.project.path("clone/broken")).unwrap();
    bench.commit("\neval(second)\n");
    let (outcome, said) = bench.run(0);
    assert_eq!(outcome, "nothing_new");
    assert_eq!(said, "0 findings of 1, 1 known, 3 fixed, 1 outside of the repository's files");
    assert_eq!(bench.findings().iter().filter(|(_, end)| end == "fixed").count(), 3);
    bench.server.assert_clean();
}

#[test]
fn a_scanner_that_the_sandbox_does_not_have_blocks_with_what_to_write() {
    let bench = Bench::new();
    bench.project.write(
        "pipelines/environments/api.yaml",
        "tools: [git]\ntest: \"true\"\nscanners: {jsonl: [no-such-linter --json]}\n",
    );
    let (outcome, said) = bench.run(1);
    assert_eq!(outcome, "blocked");
    assert_eq!(said, "the sandbox has no `no-such-linter`, which `no-such-linter --json` needs");
    assert_eq!(bench.server.count(), 0);
}
