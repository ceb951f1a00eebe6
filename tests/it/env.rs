//! `nightcrew env` and what `doctor` says about work on code, as a person types them. What belongs here: the real binary over a real clone.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::json;

use crate::project::{Answer, Project};
use crate::workspace::user_git;

const PIPELINE: &str = "\
version: 1
name: tests
summary: Something with code.
repository: {path: ../clone}
environment: environments/api.yaml
tools:
  days: {sql: warehouse, file: sql/days.sql}
steps:
  - id: data
    fetch: {from: days}
";

const ENVIRONMENT: &str = "\
tools: [git]
setup:
  - {run: \"echo fetching $(cat needs); cp needs got; echo kept >$HOME/kept\", reads: [needs]}
checks: [\"printf 'found\\\\033[2J\\\\n3 tests collected\\\\n'\", \"cat got\"]
test: \"true\"
";

struct Bench(Project);

impl Bench {
    fn new() -> Self {
        let project = Project::new(&[("tests", PIPELINE)], None);
        project.write("pipelines/environments/api.yaml", ENVIRONMENT);
        project.write("clone/needs", "one\n");
        let bench = Self(project);
        user_git(&bench.0.path("clone"), &["init", "-q", "-b", "main"]);
        bench.commit();
        bench
    }

    fn commit(&self) {
        user_git(&self.0.path("clone"), &["add", "-A"]);
        user_git(&self.0.path("clone"), &["commit", "-q", "-m", "x"]);
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = self.0.command(arguments);
        command.env("PATH", std::env::var_os("PATH").unwrap()).env("SECRET_KEY", "canary-51d0");
        command
    }

    fn run(&self, arguments: &[&str]) -> Answer {
        Answer::of(self.command(arguments).output().unwrap())
    }
}

#[test]
fn an_environment_is_built_checked_and_entered_beside_a_daemon() {
    let bench = Bench::new();
    let daemon = bench.0.start(&["serve", "--profile", "local", "--listen", "127.0.0.1:0"]);
    bench.0.until("the daemon", || daemon.log().contains("ready").then_some(()));

    let first = bench.run(&["env", "build"]).ends(0);
    assert!(first.err.contains("fetching one") && first.err.contains("setup $ "), "{first:?}");
    let line = first.out.lines().nth(1).unwrap();
    assert!(line.starts_with("environments/api.yaml  tests  ") && line.contains("  built  "), "{first:?}");
    let again = bench.run(&["--json", "env", "build", "tests"]).ends(0);
    let found = &again.json()["environments"][0];
    assert_eq!((&found["built"], &found["pipelines"]), (&json!(false), &json!(["tests"])));
    assert!(!again.err.contains("fetching"), "{again:?}");
    let anew = bench.run(&["--json", "env", "build", "--anew", "pipelines/environments/api.yaml"]).ends(0).json();
    assert_eq!((&anew["environments"][0]["built"], &anew["environments"][0]["hash"]), (&json!(true), &found["hash"]));

    // Only what is committed counts.
    bench.0.write("clone/needs", "two\n");
    assert_eq!(bench.run(&["--json", "env", "build"]).ends(0).json()["environments"][0]["built"], false);
    bench.commit();
    let changed = bench.run(&["--json", "env", "build", "api"]).ends(0).json();
    assert_eq!(changed["environments"][0]["built"], true);
    assert_ne!(changed["environments"][0]["hash"], found["hash"]);

    let checked = bench.run(&["env", "check", "tests"]).ends(0);
    let lines: Vec<_> = checked.out.lines().collect();
    assert!(lines[1].contains("passed") && lines[1].ends_with("  3"), "{checked:?}");
    assert!(checked.err.contains("found[2J") && !checked.err.contains('\u{1b}'), "{checked:?}");

    // A shell in a copy: it reads what is piped in, sees no secret, and changes nothing.
    let mut shell = bench.command(&["env", "shell", "tests"]);
    shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut shell = shell.spawn().unwrap();
    shell.stdin.take().unwrap().write_all(b"cat got $HOME/kept; env; echo spoiled >got\nexit 3\n").unwrap();
    let said = Answer::of(shell.wait_with_output().unwrap()).ends(1);
    assert!(said.out.starts_with("two\nkept\n") && !said.out.contains("canary-51d0"), "{said:?}");
    let one = bench.run(&["env", "shell", "tests", "--", "cat", "got"]).ends(0);
    assert_eq!(one.out, "two\n");

    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
}

#[test]
fn what_is_wrong_with_an_environment_is_said_with_the_way_out() {
    let bench = Bench::new();
    let write = |text: &str| bench.0.write("pipelines/environments/api.yaml", text);
    write("setup: [\"echo trying; exit 7\"]\n");
    let broken = bench.run(&["env", "build"]).ends(1);
    assert!(broken.err.contains("trying") && broken.err.contains("exit code 7 (setup)"), "{broken:?}");
    let quiet = bench.run(&["-q", "env", "build"]).ends(1);
    assert!(quiet.err.contains("trying") && !quiet.err.contains("setup $"), "{quiet:?}");

    write("checks: [\"true\", \"echo no tests; exit 5\", \"true\"]\n");
    let failed = bench.run(&["env", "check"]).ends(1);
    let states: Vec<_> =
        failed.out.lines().skip(1).map(|line| ["passed", "failed", "not run"].map(|s| line.contains(s))).collect();
    assert_eq!(states, [[true, false, false], [false, true, false], [false, false, true]], "{failed:?}");

    write("tools: [no-such-tool]\n");
    let missing = bench.run(&["env", "build"]).ends(1);
    assert!(missing.err.contains("`no-such-tool`") && missing.err.contains("= help:"), "{missing:?}");
    write("setups: []\n");
    assert!(bench.run(&["env", "build", "pipelines/environments/api.yaml"]).err.contains("setups"));
    write("test: \"true\"\n");
    assert!(bench.run(&["env", "build", "nothing"]).ends(1).err.contains("no pipeline `nothing`"));
    assert!(bench.run(&["env", "build", "--profile", "x"]).ends(2).err.contains("no profile `x`"));

    // A file that no pipeline names is for the clone that one stands in.
    bench.0.write("clone/own.yaml", "setup: [{run: \"cat needs\", reads: []}]\n");
    let mut command = bench.command(&["env", "build", "own.yaml"]);
    let own = Answer::of(command.current_dir(bench.0.path("clone")).output().unwrap()).ends(0);
    assert!(own.err.contains("  one\n"), "{own:?}");
}

#[test]
fn doctor_says_how_commands_are_confined() {
    let bench = Bench::new();
    let answer = bench.run(&["doctor"]);
    for about in ["isolation", "limits", "toolchains", "git"] {
        let line = answer.out.lines().find(|line| line.split_whitespace().nth(1) == Some(about));
        assert!(line.is_some(), "{about}: {answer:?}");
    }
    assert!(!bench.0.path("state").exists(), "looking makes nothing");
}
