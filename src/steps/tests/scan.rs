//! Scans with scripted scanners, files and a ledger.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::json;

use super::super::testing::{Ran, World, pipeline, says};
use super::*;
use crate::base::hash::Hash;
use crate::domain::finding::{FindingState, Judged};
use crate::domain::run::Failure;
use crate::domain::sandbox::{CommandReceipt, Prepared, SandboxAnswer, SandboxRequest, Workspace};
use crate::policy::findings::{Known, standing};

const TREE: &str = "0123456789abcdef0123456789abcdef01234567";
const NOW: &str = "2026-11-20T07:00:00Z";

/// How a scripted scanner ends.
#[derive(Clone)]
struct Printed {
    exit: Option<i32>,
    stdout: String,
    stderr: String,
    stopped: Option<String>,
}

/// Stands for an output that the sandbox does not hand over.
const TOO_LARGE: &str = "too large";

fn printed(exit: i32, stdout: impl Into<String>) -> Printed {
    Printed { exit: Some(exit), stdout: stdout.into(), stderr: String::new(), stopped: None }
}

fn answer(request: &SandboxRequest, printed: Printed) -> SandboxAnswer {
    SandboxAnswer {
        receipt: CommandReceipt {
            command: request.command.clone(),
            tree: request.tree.clone(),
            exit: printed.exit,
            signal: None,
            stopped: printed.stopped,
            duration_ms: 5,
            output: Hash::of(""),
            environment: Hash::of("e"),
            provider: "test".into(),
            template: String::new(),
            sandbox: String::new(),
            isolation: "none".into(),
            gaps: Vec::new(),
            network: "none".into(),
            fresh: request.fresh,
            at: NOW.parse().unwrap(),
        },
        stdout: String::new(),
        stderr: printed.stderr,
        junit: (printed.stdout != TOO_LARGE).then(|| format!("/work\n{}", printed.stdout)),
        billed_ms: 0,
    }
}

/// By source and fingerprint.
type Ledger = BTreeMap<(String, String), (Known, Seen)>;

/// What stays from run to run.
#[derive(Clone, Default)]
struct Bench {
    files: Rc<RefCell<BTreeMap<String, String>>>,
    ledger: Rc<RefCell<Ledger>>,
    sources: Rc<RefCell<Vec<String>>>,
    commands: Rc<RefCell<Vec<SandboxRequest>>>,
}

impl Bench {
    fn file(&self, path: &str, text: &str) {
        self.files.borrow_mut().insert(path.into(), text.into());
    }

    fn world(&self, scanner: impl Fn(&str) -> Printed + 'static) -> World {
        let bench = self.clone();
        let world = World::new().ledger(move |request| Ok(bench.told(request)));
        let bench = self.clone();
        *world.work.borrow_mut() = Box::new(move |activity| {
            Ok(match activity {
                Activity::Workspace { .. } => json!(Workspace {
                    origin: "acme/api".into(),
                    reference: "main".into(),
                    commit: TREE.parse().unwrap(),
                    tree: TREE.parse().unwrap(),
                    bound: "path".into(),
                }),
                Activity::Environment { .. } => json!(Prepared {
                    environment: Hash::of("e"),
                    built: false,
                    duration_ms: 1,
                    receipts: Vec::new(),
                    sandbox: "test".into(),
                    billed_ms: 0
                }),
                Activity::Sandbox(request) => {
                    bench.commands.borrow_mut().push(request.clone());
                    let inner = request.command.strip_prefix("{ pwd\n").unwrap();
                    json!(answer(request, scanner(inner.strip_suffix("\n} > \"$JUNIT\"").unwrap())))
                }
                Activity::Lines(request) => {
                    let files = bench.files.borrow();
                    let text = |wanted: &Passage| {
                        let (skip, to) = (wanted.from.saturating_sub(1) as usize, wanted.to as usize);
                        let lines = files.get(&wanted.path)?.lines().skip(skip).take(to.saturating_sub(skip));
                        Some(lines.collect::<Vec<_>>().join("\n"))
                    };
                    json!(Passages { texts: request.wanted.iter().map(text).collect() })
                }
                other => return Err(super::super::failed("E-TEST", other.kind())),
            })
        });
        world
    }

    fn told(&self, request: &FindingsRequest) -> Value {
        let mut ledger = self.ledger.borrow_mut();
        match request {
            FindingsRequest::Judge { source, seen, complete } => {
                let now = NOW.parse().unwrap();
                let of = |seen: &Seen| {
                    let known = ledger.get(&(source.clone(), seen.fingerprint.clone())).map(|(known, _)| known);
                    standing(known, seen, now)
                };
                let there: Vec<&String> = seen.iter().map(|seen| &seen.fingerprint).collect();
                let known = ledger.iter().filter(|((of, key), (known, _))| {
                    *complete && of == source && !there.contains(&key) && known.may_be_gone(now)
                });
                json!(Judged {
                    standings: seen.iter().map(of).collect(),
                    gone: known.map(|(_, (_, seen))| seen.clone()).collect(),
                    first: !self.sources.borrow().contains(source),
                })
            }
            FindingsRequest::Handled { source, findings } => {
                self.sources.borrow_mut().push(source.clone());
                for Handled { seen, .. } in findings {
                    let state = FindingState::Handled;
                    let known = Known { state, weight: seen.weight, muted_until: None, again: false, fixed_at: None };
                    ledger.insert((source.clone(), seen.fingerprint.clone()), (known, seen.clone()));
                }
                json!({})
            }
            FindingsRequest::Gone { source, fingerprints } => {
                for key in fingerprints {
                    ledger.get_mut(&(source.clone(), key.clone())).unwrap().0.state = FindingState::Fixed;
                }
                json!({})
            }
            FindingsRequest::Remember { .. } => json!({}),
        }
    }
}

/// (rule, file, line) as one line of JSON each.
fn lines_of(found: &[(&str, &str, u32)]) -> String {
    let line = |(rule, file, line): &(&str, &str, u32)| {
        json!({"rule": rule, "file": file, "line": line, "message": format!("{rule} in {file}")}).to_string()
    };
    found.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn steps(options: &str) -> String {
    format!("  - id: found\n    scan: {{{options}}}\n")
}

fn items(ran: &Ran, field: &str) -> Vec<String> {
    let result = ran.result("found");
    let text = |item: &Value| format!("{} {}:{} {}", item["rule"], item["file"], item["line"], item["standing"]);
    result[field].as_array().unwrap().iter().map(|item| text(item).replace('"', "")).collect()
}

const LINT: &str = "jsonl: mylint --json";

#[test]
fn findings_carry_the_code_around_them_and_are_known_the_next_time_wherever_they_moved() {
    let bench = Bench::default();
    bench.file("src/a.py", "1\n2\n3\n4\n  bad = x\n6\n7\n8\n9");
    let ran = bench
        .world(|command| {
            assert_eq!(command, "mylint --json");
            printed(0, lines_of(&[("R1", "/work/src/a.py", 5), ("R1", "./node_modules/x.py", 1), ("R1", "/etc/x", 1)]))
        })
        .run(&steps(LINT));
    let first = &ran.result("found")["items"][0];
    assert_eq!(first["source"], "2\n3\n4\n  bad = x\n6\n7\n8");
    assert_eq!(
        (&first["source_from"], &first["scanner"], &first["severity"]),
        (&json!(2), &json!("mylint"), &json!("warning"))
    );
    assert!(first["key"].as_str().unwrap().starts_with("R1-"));
    assert_eq!(items(&ran, "items"), ["R1 src/a.py:5 new"]);
    assert_eq!(ran.step("found").summary, "1 finding, 2 outside of the repository's files");
    assert_eq!(ran.paths("sandbox"), ["found/scan/mylint-1"]);
    assert!(bench.commands.borrow()[0].fresh);
    assert_eq!(ran.paths("findings"), ["found/known-mylint", "handled-found-mylint"]);

    // Lines were added above and it was indented: the same finding, and nothing new.
    bench.file("src/a.py", "0\n1\n2\n3\n4\n      bad = x\n6");
    let ran = bench.world(|_| printed(0, lines_of(&[("R1", "src/a.py", 6)]))).run(&steps(LINT));
    assert_eq!((items(&ran, "items").len(), ran.outcome()), (0, "nothing_new"));
    assert_eq!(ran.step("found").summary, "0 findings of 1, 1 known");
    // All the same if asked for.
    let ran =
        bench.world(|_| printed(0, lines_of(&[("R1", "src/a.py", 6)]))).run(&steps("only: all, jsonl: mylint --json"));
    assert_eq!(items(&ran, "items"), ["R1 src/a.py:6 ongoing"]);

    // It is gone, and comes back.
    let ran = bench.world(|_| printed(0, "")).run(&steps(LINT));
    assert_eq!(items(&ran, "fixed"), ["R1 src/a.py:6 fixed"]);
    assert_eq!(ran.step("found").summary, "0 findings, 1 fixed");
    assert_eq!(ran.paths("findings"), ["found/known-mylint", "gone-found-mylint"]);
    let ran = bench.world(|_| printed(0, "")).run(&steps(LINT));
    assert_eq!(items(&ran, "fixed"), [""; 0], "told once");
    let ran = bench.world(|_| printed(0, lines_of(&[("R1", "src/a.py", 6)]))).run(&steps(LINT));
    assert_eq!(items(&ran, "items"), ["R1 src/a.py:6 regressed"]);
}

#[test]
fn the_first_run_of_a_scanner_can_record_what_exists_and_a_later_scanner_has_its_own() {
    let bench = Bench::default();
    bench.file("a", "x\ny\nz");
    let baseline = "first_run: baseline, jsonl: [one, two]";
    let scanner = |more: bool| {
        move |command: &str| match command {
            "one" if more => printed(0, lines_of(&[("R1", "a", 1), ("R2", "a", 2), ("R3", "a", 3)])),
            "one" => printed(0, lines_of(&[("R1", "a", 1), ("R2", "a", 2)])),
            _ => printed(0, ""),
        }
    };
    let ran = bench.world(scanner(false)).run(&steps("first_run: baseline, jsonl: one"));
    assert_eq!((ran.outcome(), ran.step("found").summary.as_str()), ("nothing_new", "baseline: 2 findings recorded"));
    assert_eq!((items(&ran, "items").len(), ran.result("found")["baseline"].clone()), (0, json!(2)));
    // The second run judges what is new, and the scanner that is new finds nothing; that is remembered too.
    let ran = bench.world(scanner(true)).run(&steps(baseline));
    assert_eq!(items(&ran, "items"), ["R3 a:3 new"]);
    assert_eq!(*bench.sources.borrow(), ["found/one", "found/two", "found/one"]);
    let ran = bench
        .world(|command| match command {
            "two" => printed(0, lines_of(&[("S", "a", 1)])),
            _ => printed(0, lines_of(&[("R1", "a", 1), ("R2", "a", 2), ("R3", "a", 3)])),
        })
        .run(&steps(baseline));
    assert_eq!(items(&ran, "items"), ["S a:1 new"]);
    // A scanner that is taken away has fixed nothing.
    let ran = bench.world(|_| printed(0, lines_of(&[("S", "a", 1)]))).run(&steps("jsonl: two"));
    assert_eq!((items(&ran, "items").len(), items(&ran, "fixed").len()), (0, 0));
}

#[test]
fn with_until_a_baseline_is_not_recorded() {
    let bench = Bench::default();
    bench.file("a", "x");
    let mut world = bench.world(|_| printed(0, lines_of(&[("R1", "a", 1)])));
    world.run.until = Some("found".into());
    let ran = world.run(&steps("first_run: baseline, jsonl: one"));
    assert_eq!(ran.step("found").summary, "baseline: 1 finding, not recorded");
    assert_eq!(*bench.sources.borrow(), [""; 0]);
}

#[test]
fn a_scanner_that_fails_ends_the_step_and_says_why_and_declares_nothing_fixed() {
    let end = |printed: Printed, options: &str| {
        let bench = Bench::default();
        bench.file("a", "x");
        bench.world(|_| super::tests::printed(0, lines_of(&[("R1", "a", 1)]))).run(&steps("jsonl: mylint"));
        let ran = bench.world(move |_| printed.clone()).run(&steps(options));
        assert_eq!(ran.paths("findings"), [""; 0]);
        let failure: Failure = serde_json::from_value(ran.result("found")["failure"].clone()).unwrap();
        (ran.outcome(), failure.message, failure.help.unwrap_or_default())
    };
    let stderr = |exit, text: &str| Printed { stderr: text.into(), ..printed(exit, "") };

    let (outcome, message, help) = end(stderr(127, "sh: 1: mylint: not found"), "jsonl: X=1 mylint --all");
    assert_eq!((outcome, message.as_str()), ("blocked", "the sandbox has no `mylint`, which `X=1 mylint --all` needs"));
    assert!(help.contains("environments/api.yaml") && help.contains("setup:"), "{help}");

    let (outcome, message, help) = end(stderr(2, "bad\u{1b}[2J option"), "jsonl: mylint");
    assert_eq!((outcome, message.as_str()), ("failed", "`mylint` ended with exit code 2: bad [2J option"));
    assert!(help.contains("`ok_exit: [0, 2]`"), "{help}");

    let stopped = Printed { stopped: Some("wall".into()), exit: None, ..printed(0, "{}") };
    let (outcome, message, _) = end(stopped, "jsonl: mylint");
    assert!(outcome == "failed" && message.contains("was stopped at its limit: wall"), "{message}");

    let (outcome, message, help) = end(printed(0, "All good!"), "sarif: mylint");
    assert!(
        outcome == "failed" && message.contains("this is no SARIF") && help.contains("`sarif:`"),
        "{message} {help}"
    );
    let (_, message, help) = end(printed(0, ""), "cargo: cargo check");
    assert!(message.contains("printed nothing") && help.contains("8 MiB"), "{message} {help}");
    // What was too large is not there at all: that is no scanner without findings.
    for scanner in ["jsonl: mylint", "pattern: TODO", "sarif: mylint"] {
        let (outcome, message, help) = end(printed(0, TOO_LARGE), scanner);
        assert!(outcome == "failed" && help.contains("8 MiB"), "{scanner}: {message} {help}");
    }
}

#[test]
fn exit_codes_that_mean_found_are_said_in_the_pipeline_or_environment() {
    let bench = Bench::default();
    bench.file("a", "x");
    let ran =
        bench.world(|_| printed(1, lines_of(&[("R1", "a", 1)]))).run(&steps("jsonl: {run: mylint, ok_exit: [0, 1]}"));
    assert_eq!(items(&ran, "items"), ["R1 a:1 new"]);
    // Nothing in the step: the environment's. The one of the tests has none.
    let ran = bench.world(|_| printed(0, "")).run(&steps("first_run: judge"));
    assert_eq!((ran.outcome(), ran.paths("sandbox").len()), ("blocked", 0));
    assert!(ran.reason("found").contains("there is no scanner"));
    let mut with = pipeline(&steps("first_run: judge"));
    with.environment.as_mut().unwrap().scanners = vec![
        ("jsonl".into(), crate::domain::definition::ScanCommand { run: "mylint".into(), ok_exit: vec![0, 3] }),
        ("pattern".into(), crate::domain::definition::ScanCommand { run: "TODO".into(), ok_exit: vec![0] }),
    ];
    let ran = bench
        .world(|command| match command {
            "mylint" => printed(3, lines_of(&[("R9", "a", 1)])),
            grep => {
                assert!(grep.starts_with("grep -rnIE"), "{grep}");
                // Nothing matches.
                printed(1, "")
            }
        })
        .run_pipeline(&with);
    assert_eq!(items(&ran, "items"), ["R9 a:1 new"]);
    assert_eq!(ran.paths("sandbox"), ["found/scan/mylint-1", "found/scan/grep-2"]);
}

#[test]
fn a_reading_that_is_not_complete_declares_nothing_fixed() {
    let bench = Bench::default();
    bench.file("a", "x\ny");
    let diagnostic = json!({"reason": "compiler-message", "message": {"message": "m", "level": "warning", "code": {"code": "w"},
        "spans": [{"file_name": "a", "line_start": 1, "column_start": 1, "is_primary": true}]}});
    let built = |success| json!({"reason": "build-finished", "success": success});
    let cargo = "cargo: {run: cargo clippy, ok_exit: [0, 101]}";
    let good = format!("{diagnostic}\n{}", built(true));
    let ran = bench.world(move |_| printed(0, good.clone())).run(&steps(cargo));
    assert_eq!(items(&ran, "items"), ["w a:1 new"]);
    let ran = bench.world(move |_| printed(101, built(false).to_string())).run(&steps(cargo));
    assert_eq!(items(&ran, "fixed"), [""; 0]);
    assert_eq!(ran.step("found").summary, "0 findings, not complete: cargo");
    assert_eq!(ran.notes("incomplete").len(), 1);
    let ran = bench.world(move |_| printed(0, built(true).to_string())).run(&steps(cargo));
    assert_eq!(items(&ran, "fixed"), ["w a:1 fixed"]);
}

#[test]
fn two_commands_of_one_scanner_report_the_same_once() {
    let bench = Bench::default();
    bench.file("a", "x\ny");
    let ran = bench
        .world(|command| {
            let more = if command.contains("clippy") { "clippy::x" } else { "w" };
            let one = |rule: &str| json!({"reason": "compiler-message", "message": {"message": "m", "level": "warning", "code": {"code": rule},
                "spans": [{"file_name": "a", "line_start": 1, "column_start": 1, "is_primary": true}]}});
            printed(0, format!("{}\n{}\n{}", one("w"), one(more), json!({"reason": "build-finished", "success": true})))
        })
        .run(&steps("cargo: [cargo check, cargo clippy]"));
    assert_eq!(items(&ran, "items"), ["w a:1 new", "clippy::x a:1 new"]);
    assert_eq!(ran.paths("findings"), ["found/known-cargo", "handled-found-cargo"]);
}

#[test]
fn an_intern_may_quote_the_code_of_a_finding_and_what_it_drops_is_handled() {
    let bench = Bench::default();
    bench.file("a.py", "def f(x=[]):\n    pass\n");
    let steps = format!(
        "{}  - id: real
    each: finding in found
    intern: {{task: filter, ask: Real? Quote., given: [finding], keep: output.verdict == \"real\"}}
    output: {{verdict: real | style, quote: string(300)}}
    check: {{quotes_from: finding.source}}
",
        steps(LINT)
    );
    let run = |verdict: &'static str, quote: &'static str| {
        let bench = bench.clone();
        bench
            .world(|_| printed(0, lines_of(&[("B006", "a.py", 1)])))
            .model(move |_, _| says(json!({"verdict": verdict, "quote": quote})))
            .run(&steps)
    };
    let ran = run("real", "def f(x=[]):");
    assert_eq!((&ran.result("real")["count"], ran.notes("sentence_dropped").len()), (&json!(1), 0));
    assert_eq!(ran.paths("model").len(), 1, "the quote stands there: no correction");
    // Known now: nobody is asked again.
    assert_eq!(run("style", "x").paths("model").len(), 0);
    bench.ledger.borrow_mut().clear();
    let ran = run("style", "def f(x=[]):");
    assert_eq!(ran.result("real")["dropped"], 1);
    assert_eq!(bench.ledger.borrow().len(), 1, "an intern's drop is an end");
}

#[test]
fn a_scan_that_is_killed_anywhere_goes_on_as_if_nothing_had_happened() {
    let steps = steps("first_run: baseline, jsonl: [one, two]");
    let whole = |lives: usize| {
        let bench = Bench::default();
        bench.file("a", "x\ny");
        bench.sources.borrow_mut().push("found/two".into());
        let world = Rc::new(bench.world(|command| match command {
            "one" => printed(0, lines_of(&[("R1", "a", 1)])),
            _ => printed(0, lines_of(&[("R2", "a", 2)])),
        }));
        world.lives.set(lives);
        let pipeline = pipeline(&steps);
        let first = world.clone().begin(&pipeline);
        world.lives.set(usize::MAX);
        let ran = world.begin(&pipeline);
        let keys: Vec<_> = bench.ledger.borrow().keys().map(|(source, _)| source.clone()).collect();
        (first.end.is_ok(), items(&ran, "items"), keys)
    };
    let (done, found, keys) = whole(usize::MAX);
    assert!(done);
    assert_eq!((found.len(), keys.len()), (1, 2));
    for lives in 0.. {
        let (done, again, told) = whole(lives);
        assert_eq!((&again, &told), (&found, &keys), "killed after {lives}");
        if done {
            assert!(lives > 8, "{lives}");
            break;
        }
    }
}
