//! How a fix is made: what the agent is told, what the host runs, what the reviewer may, and how it all ends.

use std::rc::Rc;

use serde_json::{Value, json};

use super::super::testing::code::{Files, Repo, files};
use super::super::testing::{REGISTRY, Ran, Says, World, calls, capped, pipeline, says};
use crate::diag::Color;
use crate::domain::activity::Activity;
use crate::domain::model::Role;
use crate::domain::run::Failure;
use crate::pipeline::{StoredFiles, Surroundings, parse};
use crate::ports::durable::Stop;

pub(super) const FIX: &str = "
  - id: errors
    fetch: {from: signups}
  - id: fix
    fix: {ask: \"The smallest honest fix.\", given: [errors], test_first: true, attempts: 3}
    diff: {paths: [\"src/**\", \"tests/**\"], max_files: 4}
";

const REVIEWED: &str = "
  - id: errors
    fetch: {from: signups}
  - id: fix
    fix: {ask: \"The smallest honest fix.\", given: [errors], test_first: true, attempts: 2}
    review: {playbook: playbooks/review.md, rounds: 2}
";

/// A parser without a sign, and two tests that pass.
pub(super) fn base() -> Files {
    files(&[
        ("src/duration.rs", "parse digits\n"),
        ("tests/old.rs", "parses: src/duration.rs has digits\nis_small: src/duration.rs lacks unsafe\n"),
        (".github/workflows/ci.yml", "on: push\n"),
    ])
}

fn world() -> World {
    at(Repo::new(vec![base()]))
}

fn at(repo: Repo) -> World {
    World::new()
        .rows(json!([{"key": "API-1", "type": "ParseError", "value": "src/duration.rs has no sign", "title": "ParseError: no sign"}]))
        .work(repo.work())
}

fn write(path: &str, text: &str) -> (String, Value) {
    ("edit".into(), json!({"path": path, "old": "", "new": text}))
}

/// The honest work: a test that fails on the base, and the sign.
pub(super) fn honest() -> Says {
    Says::Calls(vec![write("tests/sign.rs", "sign: src/duration.rs has sign\n"), fixed()])
}

fn fixed() -> (String, Value) {
    write("src/duration.rs", "parse digits\nparse sign\n")
}

fn done() -> Says {
    says(json!({
        "title": "duration: keep the sign", "summary": "The sign was dropped.", "root_cause": "src/duration.rs:1", "limits": []
    }))
}

fn review(verdict: &str, findings: Value) -> Says {
    says(json!({"verdict": verdict, "findings": findings}))
}

/// An attempt with these calls in one turn.
pub(super) fn attempt(world: World, n: u32, calls: Says) -> World {
    world.answer(&format!("fix/attempt-{n}/turn-1"), [calls]).answer(&format!("fix/attempt-{n}/turn-2"), [done()])
}

fn word(ran: &Ran) -> String {
    ran.result("fix")["outcome"].as_str().unwrap().to_owned()
}

fn why(ran: &Ran) -> String {
    ran.result("fix")["why"].to_string()
}

#[test]
fn an_honest_fix_is_proved_at_the_first_attempt() {
    let ran = attempt(world(), 1, honest()).run(FIX);
    let fix = ran.result("fix");
    assert_eq!((word(&ran).as_str(), &fix["proved"], &fix["green"]), ("proved", &json!(true), &json!(true)), "{fix:#}");
    assert_eq!(ran.step("fix").summary, "red on base ✓ · green with patch ✓ · 3 tests, none worse");
    assert_eq!(ran.outcome(), "nothing_new", "a fix alone changes nothing for anybody");
    let stages: Vec<&Value> = fix["receipts"].as_array().unwrap().iter().map(|receipt| &receipt["stage"]).collect();
    assert_eq!(stages, ["base", "reproduced", "patched"]);
    assert_eq!(
        ran.paths("sandbox"),
        ["fix/base/suite", "fix/attempt-1/reproduced", "fix/attempt-1/patched"],
        "each stage once, on a clean checkout"
    );
    assert!(fix["proven"]["red_then_green"][0].as_str().unwrap().contains("sign"));
    assert_eq!(
        (&fix["title"], &fix["files"], &fix["attempts"]),
        (&json!("duration: keep the sign"), &json!(2), &json!(1))
    );
    assert_eq!((&fix["why"], &fix["refused"], &fix["fewer_tests"]), (&json!([]), &json!([]), &Value::Null));
    assert!(fix["patch"].as_str().unwrap().contains("parse sign"));
    let evidence: crate::domain::proof::Evidence = serde_json::from_value(fix["evidence"].clone()).unwrap();
    assert!(crate::policy::proof::judge(&evidence).is_ok(), "the evidence stands for itself");
    for (_, activity) in ran.world.asked.borrow().iter() {
        if let Activity::Sandbox(request) = activity {
            assert!(request.fresh && request.command == "true");
        }
    }
}

#[test]
fn the_agent_is_told_its_rules_and_what_fails_already() {
    let mut tree = base();
    tree.insert("tests/bad.rs".into(), "broken: fails\n".into());
    let ran = attempt(at(Repo::new(vec![tree])), 1, honest()).run(FIX);
    assert_eq!(word(&ran), "proved", "{}", why(&ran));
    assert_eq!(ran.paths("sandbox")[..2], ["fix/base/suite", "fix/base/again"]);
    let request = ran.request("fix/attempt-1/turn-1");
    assert!(request.system.contains("The smallest honest fix.") && request.system.contains("src/** tests/**"));
    assert!(request.system.contains("At most 4 files and 500 lines") && !request.system.contains("ParseError"));
    let names: Vec<&str> = request.tools.iter().map(|tool| tool.name.as_str()).take(6).collect();
    assert_eq!(names, ["read", "search", "tree", "edit", "run_tests", "run"]);
    let prompt = ran.prompt("fix/attempt-1/turn-1");
    assert!(prompt.contains("ParseError") && prompt.contains("failing_or_flaky_before_you_began"), "{prompt}");
    assert!(prompt.contains("broken") && !prompt.contains("verdict on your last attempt"));
    assert!(request.counts_turn);
}

#[test]
fn a_test_that_passes_on_the_base_is_sent_back() {
    let idle = Says::Calls(vec![write("tests/sign.rs", "sign: src/duration.rs has digits\n"), fixed()]);
    let mend = Says::Calls(vec![write("tests/sign.rs", "sign: src/duration.rs has sign\n")]);
    let ran = attempt(attempt(world(), 1, idle), 2, mend).run(FIX);
    assert_eq!((word(&ran).as_str(), &ran.result("fix")["attempts"]), ("proved", &json!(2)));
    let told = ran.prompt("fix/attempt-2/turn-1");
    assert!(told.contains("verdict on your last attempt"), "{told}");
    assert_eq!(
        ran.paths("sandbox"),
        ["fix/base/suite", "fix/attempt-1/reproduced", "fix/attempt-2/reproduced", "fix/attempt-2/patched"],
        "what has failed already is not run on"
    );
}

#[test]
fn a_change_without_a_test_is_sent_back_before_anything_runs() {
    let ran = attempt(attempt(world(), 1, Says::Calls(vec![fixed()])), 2, honest()).run(FIX);
    assert_eq!(word(&ran), "proved");
    assert!(ran.prompt("fix/attempt-2/turn-1").contains("the change adds no test"));
    assert_eq!(ran.paths("sandbox").len(), 3);
}

#[test]
fn what_gets_worse_is_told_with_a_digest_of_the_output() {
    let harm = Says::Calls(vec![
        write("tests/sign.rs", "sign: src/duration.rs has sign\n"),
        write("src/duration.rs", "parse sign, unsafe\n"),
    ]);
    let ran = attempt(attempt(world(), 1, harm), 2, honest())
        .answer("fix/attempt-1/digest/turn-1", [says(json!({"text": "is_small: unsafe was found"}))])
        .run(FIX);
    assert_eq!(word(&ran), "proved", "{}", why(&ran));
    let told = ran.prompt("fix/attempt-2/turn-1");
    assert!(told.contains("condensed by an intern") && told.contains("is_small: unsafe was found"), "{told}");
    assert_eq!(ran.request("fix/attempt-1/digest/turn-1").role, Role::Intern);
    assert!(ran.prompt("fix/attempt-1/digest/turn-1").contains("ParseError: src/duration.rs has unsafe"));
    assert!(ran.paths("sandbox").contains(&"fix/attempt-1/patched-again".to_owned()), "it may have been chance");
}

#[test]
fn without_an_intern_the_agent_sees_the_end_of_the_output() {
    let harm = Says::Calls(vec![
        write("tests/sign.rs", "sign: src/duration.rs has sign\n"),
        write("src/duration.rs", "parse digits sign, unsafe\n"),
    ]);
    let missing = Says::Stop(Stop::Blocked(Failure::new("E-MODEL", "no model is configured for the intern")));
    let ran = attempt(attempt(world(), 1, harm), 2, honest()).answer("fix/attempt-1/digest/turn-1", [missing]).run(FIX);
    assert_eq!(word(&ran), "proved", "{}", why(&ran));
    assert!(ran.prompt("fix/attempt-2/turn-1").contains("a line of no interest"));
    assert_eq!(ran.notes("not_condensed").len(), 1);
}

#[test]
fn a_refused_patch_runs_nothing_and_is_told_why() {
    let ci = Says::Calls(vec![write(".github/workflows/ci.yml", "on: never\n"), fixed()]);
    let undo = Says::Calls(vec![
        write(".github/workflows/ci.yml", "on: push\n"),
        write("tests/sign.rs", "sign: src/duration.rs has sign\n"),
    ]);
    let ran = attempt(attempt(world(), 1, ci.clone()), 2, undo).run(FIX);
    assert_eq!(word(&ran), "proved", "{}", why(&ran));
    let told = ran.prompt("fix/attempt-2/turn-1");
    assert!(told.contains("the change was refused before any test ran") && told.contains(".github/workflows/ci.yml"));
    assert!(!told.contains("on: never"), "the reason repeats nothing of the file");
    assert!(!ran.notes("refused").is_empty());
    let ran = attempt(world(), 1, ci).run(&FIX.replace("attempts: 3", "attempts: 1"));
    assert_eq!((word(&ran).as_str(), ran.outcome()), ("unproved", "declined"));
    assert!(ran.result("fix")["refused"].to_string().contains("ci.yml"), "{}", ran.result("fix"));
    assert_eq!(ran.result("fix")["why"].as_array().unwrap().len(), 1, "said once");
    assert_eq!(ran.paths("sandbox"), ["fix/base/suite"]);
    let big = Says::Calls(vec![write("docs/a.md", "x\n")]);
    let ran = attempt(world(), 1, big).run(&FIX.replace("attempts: 3", "attempts: 1"));
    assert_eq!(ran.result("fix")["refused"], json!([]), "a place is no danger");
    assert!(why(&ran).contains("outside of the paths"));
}

#[test]
fn a_change_that_is_no_text_is_not_proved() {
    let mut repo = Repo::new(vec![base()]);
    repo.lossy = true;
    let ran = attempt(at(repo), 1, honest()).run(&FIX.replace("attempts: 3", "attempts: 1"));
    assert!(word(&ran) == "unproved" && why(&ran).contains("does not give the same files"));
    assert_eq!(ran.paths("sandbox").len(), 1);
}

#[test]
fn the_reviewer_sees_diff_tests_and_cause_and_may_block() {
    let finding =
        json!([{"file": "src/duration.rs", "line": 2, "severity": "blocking", "text": "a plus sign is lost"}]);
    let better = Says::Calls(vec![write("src/duration.rs", "parse digits\nparse sign and plus\n")]);
    let ran = attempt(attempt(world(), 1, honest()), 2, better)
        .answer("fix/attempt-1/review/turn-1", [review("block", finding)])
        .answer("fix/attempt-2/review/turn-1", [review("approve", json!([]))])
        .run(REVIEWED);
    assert_eq!(word(&ran), "proved", "{}", why(&ran));
    assert_eq!(ran.step("fix").summary, "red on base ✓ · green with patch ✓ · 3 tests, none worse · reviewed");
    let first = ran.request("fix/attempt-1/review/turn-1");
    assert!(first.role == Role::Reviewer && first.counts_turn && first.tools.is_empty());
    assert!(first.system.contains("Be strict."));
    let seen = ran.prompt("fix/attempt-1/review/turn-1");
    assert!(seen.contains("parse sign") && seen.contains("failed_on_the_base_with") && seen.contains("ParseError"));
    assert!(seen.contains("The sign was dropped.") && !seen.contains("edited"), "not how it came about");
    let told = ran.prompt("fix/attempt-2/turn-1");
    assert!(told.contains("a plus sign is lost") && told.contains("a reviewer blocks it"), "{told}");
    assert!(ran.prompt("fix/attempt-2/review/turn-1").contains("a plus sign is lost"));
    let rounds = &ran.result("fix")["review"];
    assert_eq!((&rounds[0]["verdict"], &rounds[1]["verdict"]), (&json!("block"), &json!("approve")));
    assert_eq!(ran.paths("sandbox").len(), 5, "the whole proof again");
}

#[test]
fn what_stays_blocked_is_not_proved() {
    let finding = || json!([{"file": "src/duration.rs", "line": null, "severity": "blocking", "text": "wrong place"}]);
    // One who approves with a blocking finding has not decided.
    let ran = attempt(world(), 1, honest())
        .answer("fix/attempt-1/review/turn-1", [review("approve", finding())])
        .run(&REVIEWED.replace(", rounds: 2", ""));
    let fix = ran.result("fix");
    assert_eq!((word(&ran).as_str(), &fix["proved"], ran.outcome()), ("blocked_by_review", &json!(false), "declined"));
    assert!(why(&ran).contains("wrong place") && !fix["proven"].is_null());
    // The agent changes nothing.
    let ran = attempt(world(), 1, honest())
        .answer("fix/attempt-1/review/turn-1", [review("block", finding())])
        .answer("fix/attempt-2/turn-1", [done()])
        .run(REVIEWED);
    assert_eq!((word(&ran).as_str(), ran.paths("sandbox").len()), ("blocked_by_review", 3));
}

#[test]
fn without_a_reviewer_nothing_goes_on_unreviewed() {
    let missing = Stop::Blocked(Failure::new("E-MODEL", "no model is configured for the reviewer"));
    let ran = attempt(world(), 1, honest()).answer("fix/attempt-1/review/turn-1", [Says::Stop(missing)]).run(REVIEWED);
    let fix = ran.result("fix");
    assert_eq!((word(&ran).as_str(), ran.outcome(), &fix["proved"]), ("blocked", "blocked", &json!(false)));
    assert!(
        fix["patch"].as_str().unwrap().contains("parse sign") && !fix["evidence"].is_null(),
        "what is known is kept"
    );
    assert_eq!(fix["failure"]["code"], "E-MODEL");
}

#[test]
fn a_base_that_moves_on_takes_the_change_along_and_everything_runs_there() {
    let mut moved = base();
    moved.insert("src/other.rs".into(), "news\n".into());
    let ran = attempt(at(Repo::new(vec![base(), moved])), 1, honest()).run(FIX);
    assert_eq!(word(&ran), "proved", "{}", why(&ran));
    assert_eq!(ran.paths("environment"), ["base-environment", "fix/attempt-1/base-environment"]);
    assert_eq!(
        ran.paths("sandbox"),
        ["fix/base/suite", "fix/attempt-1/base/suite", "fix/attempt-1/reproduced", "fix/attempt-1/patched"]
    );
    let fix = ran.result("fix");
    assert_eq!(fix["files"], 2, "the news of the base are no part of the patch");
    assert_eq!(fix["receipts"][0]["tree"], fix["evidence"]["base"]["tree"]);
    assert_eq!(ran.notes("base_moved").len(), 1);
}

#[test]
fn a_change_that_does_not_fit_the_new_base_is_made_again_there() {
    let mut moved = base();
    moved.insert("src/duration.rs".into(), "parse digits quickly\n".into());
    let again = Says::Calls(vec![
        write("tests/sign.rs", "sign: src/duration.rs has sign\n"),
        write("src/duration.rs", "parse digits quickly\nparse sign\n"),
    ]);
    let ran = attempt(attempt(at(Repo::new(vec![base(), moved])), 1, honest()), 2, again).run(FIX);
    assert_eq!(word(&ran), "proved", "{}", why(&ran));
    let told = ran.prompt("fix/attempt-2/turn-1");
    assert!(told.contains("the base moved on") && told.contains("your change, which is lost"), "{told}");
    assert_eq!(ran.paths("code")[..2], ["fix/attempt-1/carry", "fix/attempt-1/lost"]);
}

#[test]
fn flaky_tests_neither_prove_nor_stop_anything() {
    let mut tree = base();
    tree.insert("tests/net.rs".into(), "network: fails once\n".into());
    let ran = attempt(at(Repo::new(vec![tree])), 1, honest()).run(FIX);
    assert_eq!(word(&ran), "proved", "{}", why(&ran));
    assert!(ran.result("fix")["proven"]["flaky"].to_string().contains("network"), "{}", ran.result("fix")["proven"]);
}

#[test]
fn what_fails_by_chance_is_run_once_more_wherever_it_happens() {
    let mut tree = base();
    tree.insert("tests/net.rs".into(), "network: tests/sign.rs unlucky sign\n".into());
    let ran = attempt(at(Repo::new(vec![tree])), 1, honest()).run(FIX);
    assert_eq!(word(&ran), "proved", "{}", why(&ran));
    let again: Vec<String> = ran.paths("sandbox").into_iter().filter(|path| path.ends_with("again")).collect();
    assert_eq!(again, ["fix/attempt-1/reproduced-again", "fix/attempt-1/patched-again"]);
    assert!(ran.result("fix")["proven"]["flaky"].to_string().contains("network"));
    let mut tree = base();
    tree.insert("tests/net.rs".into(), "network: src/duration.rs unlucky sign\n".into());
    let ran =
        attempt(at(Repo::new(vec![tree])), 1, Says::Calls(vec![fixed()])).run(&FIX.replace("test_first: true, ", ""));
    assert_eq!((ran.paths("sandbox").len(), &ran.result("fix")["green"]), (3, &json!(true)), "{}", why(&ran));
}

#[test]
fn a_base_on_which_the_suite_does_not_run_costs_nothing() {
    let mut tree = base();
    tree.insert("src/bad.rs".into(), "NOT RUST\n".into());
    let ran = at(Repo::new(vec![tree])).run(FIX);
    assert_eq!((word(&ran).as_str(), ran.outcome(), ran.paths("model").len()), ("blocked", "blocked", 0));
    let failure = &ran.result("fix")["failure"];
    assert!(failure["message"].as_str().unwrap().starts_with("the suite does not run on the base"), "{failure}");
    assert!(failure["help"].as_str().unwrap().contains("found `RUST`"), "{failure}");
    let mut repo = Repo::new(vec![base()]);
    repo.broken = Some(Stop::Blocked(Failure::new("E-SANDBOX", "no sandbox here")));
    assert_eq!(at(repo).run(FIX).outcome(), "blocked");
}

#[test]
fn an_environment_without_a_test_command_blocks() {
    let mut without = pipeline(FIX);
    without.environment.as_mut().unwrap().test = None;
    let ran = world().run_pipeline(&without);
    assert_eq!(ran.outcome(), "blocked");
    assert!(ran.reason("fix").contains("no test command"), "{}", ran.reason("fix"));
}

#[test]
fn an_agent_that_changes_nothing_ends_the_fix() {
    let ran = world().answer("fix/attempt-1/turn-1", [done()]).run(FIX);
    let fix = ran.result("fix");
    assert_eq!(
        (word(&ran).as_str(), &fix["summary"], ran.outcome()),
        ("no_change", &json!("The sign was dropped."), "declined")
    );
    assert_eq!((ran.paths("sandbox").len(), &fix["patch"]), (1, &json!("")));
}

#[test]
fn a_change_that_is_undone_leaves_no_patch() {
    let undo = Says::Calls(vec![write("src/duration.rs", "parse digits\n")]);
    let ran = attempt(attempt(world(), 1, Says::Calls(vec![fixed()])), 2, undo).run(FIX);
    assert_eq!((word(&ran).as_str(), &ran.result("fix")["patch"]), ("no_change", &json!("")));
    assert!(why(&ran).contains("adds no test"), "why it was given up stays known");
}

#[test]
fn an_attempt_that_leaves_everything_as_it_was_is_the_last() {
    let ran = attempt(world(), 1, Says::Calls(vec![fixed()])).answer("fix/attempt-2/turn-1", [done()]).run(FIX);
    assert_eq!((word(&ran).as_str(), &ran.result("fix")["attempts"]), ("unproved", &json!(2)));
    assert!(why(&ran).contains("attempt 2 changed nothing"), "{}", why(&ran));
    assert!(ran.step("fix").summary.starts_with("not proved in 2 attempts · the change adds no test"));
}

#[test]
fn an_attempt_that_goes_astray_is_followed_by_another() {
    let astray = |n: u32, world: World| {
        world
            .answer(&format!("fix/attempt-{n}/turn-1"), [Says::Text("half {".into())])
            .answer(&format!("fix/attempt-{n}/turn-2"), [Says::Text("half {".into())])
    };
    let ran = attempt(astray(1, world()), 2, honest()).run(FIX);
    assert_eq!(word(&ran), "proved");
    assert!(ran.prompt("fix/attempt-2/turn-1").contains("ended without an answer"));
    let ran = astray(3, astray(2, astray(1, world()))).run(FIX);
    assert_eq!((word(&ran).as_str(), &ran.result("fix")["failure"]["code"]), ("failed", &json!("E-OUTPUT")));
}

#[test]
fn at_a_cap_what_is_known_is_kept_and_what_is_proved_is_proved() {
    // Without an answer.
    let ran = world()
        .answer("fix/attempt-1/turn-1", [Says::Calls(vec![fixed()])])
        .answer("fix/attempt-1/turn-2", [capped()])
        .answer("fix/attempt-1/closing", [capped()])
        .run(FIX);
    let fix = ran.result("fix");
    assert_eq!((word(&ran).as_str(), ran.outcome(), &fix["proved"]), ("capped", "capped", &json!(false)));
    assert!(fix["patch"].as_str().unwrap().contains("parse sign"));
    // With an answer from the slice held back: the host's part costs nothing.
    let ran = world()
        .answer("fix/attempt-1/turn-1", [honest()])
        .answer("fix/attempt-1/turn-2", [capped()])
        .answer("fix/attempt-1/closing", [done()])
        .run(FIX);
    assert_eq!((word(&ran).as_str(), ran.outcome()), ("proved", "nothing_new"));
    // Not proved: there is no money for another attempt.
    let ran = world()
        .answer("fix/attempt-1/turn-1", [Says::Calls(vec![fixed()])])
        .answer("fix/attempt-1/turn-2", [capped()])
        .answer("fix/attempt-1/closing", [done()])
        .run(FIX);
    assert_eq!((word(&ran).as_str(), &ran.result("fix")["title"]), ("capped", &json!("duration: keep the sign")));
    assert!(why(&ran).contains("adds no test"));
    // No money for a second attempt at all: it can be taken further.
    let ran = attempt(world(), 1, Says::Calls(vec![fixed()]))
        .answer("fix/attempt-2/turn-1", [capped()])
        .answer("fix/attempt-2/closing", [done()])
        .run(FIX);
    assert_eq!((word(&ran).as_str(), &ran.result("fix")["attempts"]), ("capped", &json!(2)));
}

#[test]
fn without_test_first_nothing_is_proved_but_it_may_be_green() {
    let steps = FIX.replace("test_first: true, ", "");
    let ran = attempt(world(), 1, Says::Calls(vec![fixed()])).run(&steps);
    let fix = ran.result("fix");
    assert_eq!((word(&ran).as_str(), &fix["proved"], &fix["green"]), ("unproved", &json!(false), &json!(true)));
    assert_eq!(ran.paths("sandbox"), ["fix/base/suite", "fix/attempt-1/patched"]);
    assert_eq!(ran.step("fix").summary, "green with patch ✓ · 2 tests, none worse");
    let harm = Says::Calls(vec![write("src/duration.rs", "nothing\n")]);
    let ran = attempt(world(), 1, harm).run(&steps.replace("attempts: 3", "attempts: 1"));
    assert_eq!((word(&ran).as_str(), &ran.result("fix")["green"]), ("unproved", &json!(false)));
    assert!(why(&ran).contains("these tests fail or are gone"), "{}", why(&ran));
}

#[test]
fn fewer_tests_than_last_time_are_shown() {
    let mut repo = Repo::new(vec![base()]);
    repo.tests_before = Some(48);
    let ran = attempt(at(repo), 1, honest()).run(FIX);
    assert_eq!(ran.result("fix")["fewer_tests"], json!({"before": 48, "now": 2}));
    assert_eq!(ran.notes("fewer_tests"), [json!({"before": 48, "now": 2})]);
}

const EACH: &str = "
  - id: errors
    fetch: {from: signups}
  - id: repair
    each: {as: error, in: errors, max_budget_usd: 0.50}
    steps:
      - id: fix
        fix: {playbook: playbooks/book.md, given: [error], test_first: true}
        review: {playbook: playbooks/review.md}
";

#[test]
fn items_of_one_base_ask_for_the_same_suite_and_end_each_for_itself() {
    let rows = json!([{"key": "API-1", "type": "ParseError"}, {"key": "API-2", "type": "TypeError"}]);
    let world = at(Repo::new(vec![base()])).rows(rows);
    let first = "repair[API-1]/fix/attempt-1";
    let ran = world
        .answer(&format!("{first}/turn-1"), [honest()])
        .answer(&format!("{first}/turn-2"), [done()])
        .answer(&format!("{first}/review/turn-1"), [review("approve", json!([]))])
        .answer("repair[API-2]/fix/attempt-1/turn-1", [done()])
        .run(EACH);
    let items = ran.result("repair")["items"].clone();
    assert_eq!((&items[0]["fix"]["outcome"], &items[0]["outcome"]), (&json!("proved"), &json!("done")));
    assert_eq!((&items[1]["fix"]["outcome"], &items[1]["outcome"]), (&json!("no_change"), &json!("declined")));
    assert_eq!(ran.outcome(), "declined");
    let asked = ran.world.asked.borrow();
    let suites = asked.iter().filter(|(path, _)| path.ends_with("fix/base/suite"));
    let suites: Vec<_> = suites.map(|(_, activity)| activity.input_hash()).collect();
    assert!(suites.len() == 2 && suites[0] == suites[1]);
    assert!(ran.request(&format!("{first}/turn-1")).system.contains("Follow the book."));
}

#[test]
fn an_attempt_has_an_end_and_is_judged_all_the_same() {
    let ran = world()
        .model(|path, request| match path {
            "fix/attempt-1/turn-1" => honest(),
            _ if request.no_tools => done(),
            path => calls("read", json!({"path": path})),
        })
        .run(FIX);
    assert_eq!((word(&ran).as_str(), ran.outcome()), ("proved", "nothing_new"), "{}", why(&ran));
    assert_eq!(ran.paths("model").len(), 40);
}

#[test]
fn what_makes_no_sense_is_refused_at_load() {
    let mistakes = |step: &str| {
        let text = format!(
            "version: 1\nname: test\nsummary: A test.\nowner: {{channel: growth}}\nrepository: {{github: acme/api}}\n\
             environment: environments/api.yaml\nsteps:\n  - id: fix\n{step}"
        );
        let own = [
            ("environments/api.yaml".to_owned(), "test: \"true\"\n".to_owned()),
            ("playbooks/review.md".to_owned(), "Be strict.".to_owned()),
        ];
        let files = StoredFiles(&own);
        parse("t.yaml", "t.yaml", &text, &files, &REGISTRY, &Surroundings::default()).1.render(Color::Off)
    };
    for (step, expected) in [
        ("    fix: {ask: x}\n    diff: {paths: [\"src/{a\"]}\n", "the paths of the diff cannot be read"),
        ("    fix: {ask: x, attempts: 0}\n", "`attempts` must not be 0"),
        ("    fix: {ask: x}\n    review: {playbook: playbooks/review.md, rounds: 0}\n", "`rounds` must not be 0"),
        ("    fix: {ask: x}\n    tools: [read, search]\n", "a fix without `edit` can change nothing"),
    ] {
        let found = mistakes(step);
        assert!(found.contains(expected), "{step}\n{found}");
    }
}

#[test]
fn an_advisory_review_lists_its_findings() {
    let steps = format!("{FIX}  - id: second\n    review: {{given: [fix], playbook: playbooks/review.md}}\n");
    let advice = json!([{"file": "src/duration.rs", "line": 1, "severity": "advice", "text": "name it"}]);
    let ran = attempt(world(), 1, honest()).answer("second/turn-1", [says(json!({"findings": advice}))]).run(&steps);
    assert_eq!(ran.result("second")["findings"], advice);
    assert_eq!(ran.step("second").summary, "1 finding, none blocking");
    assert_eq!(ran.request("second/turn-1").role, Role::Reviewer);
}

/// A fix in which everything happens: the base moves, a test is idle, the reviewer blocks.
fn eventful() -> World {
    let mut moved = base();
    moved.insert("src/other.rs".into(), "news\n".into());
    let idle = Says::Calls(vec![
        write("tests/sign.rs", "sign: src/duration.rs has digits\n"),
        fixed(),
        ("read".into(), json!({"path": "src/duration.rs"})),
    ]);
    let mend = Says::Calls(vec![write("tests/sign.rs", "sign: src/duration.rs has sign\n")]);
    let harm = calls("edit", json!({"path": "src/duration.rs", "old": "digits", "new": "digits, unsafe"}));
    let better = calls("edit", json!({"path": "src/duration.rs", "old": ", unsafe", "new": " and plus"}));
    let finding =
        json!([{"file": "src/duration.rs", "line": 2, "severity": "blocking", "text": "a plus sign is lost"}]);
    let world = at(Repo::new(vec![base(), base(), moved]));
    attempt(attempt(attempt(attempt(world, 1, idle), 2, mend), 3, harm), 4, better)
        .answer("fix/attempt-3/digest/turn-1", [says(json!({"text": "is_small fails"}))])
        .answer("fix/attempt-2/review/turn-1", [review("block", finding)])
        .answer("fix/attempt-4/review/turn-1", [review("approve", json!([]))])
}

/// Killed after every answer, the run asks for the same again and does nothing twice.
#[test]
fn wherever_it_is_killed_it_goes_on_as_if_nothing_had_happened() {
    let pipeline = pipeline(&REVIEWED.replace("attempts: 2", "attempts: 3"));
    let whole = eventful().run_pipeline(&pipeline);
    assert_eq!(word(&whole), "proved", "{:#}", whole.result("fix"));
    let asked = |ran: &Ran| -> Vec<String> {
        ran.world.asked.borrow().iter().map(|(path, activity)| format!("{path} {}", activity.input_hash())).collect()
    };
    let mut survived = 0;
    for lives in 0..200 {
        let world = Rc::new(eventful());
        world.lives.set(lives);
        let first = world.clone().begin(&pipeline);
        if first.end.is_ok() {
            break;
        }
        assert_eq!(first.end, Err(Stop::Suspended));
        world.lives.set(usize::MAX);
        let second = world.begin(&pipeline);
        assert_eq!(second.end, whole.end, "killed after {lives}");
        assert_eq!(second.result("fix"), whole.result("fix"), "killed after {lives}");
        assert_eq!(asked(&second), asked(&whole), "killed after {lives}");
        survived += 1;
    }
    assert!(survived > 30, "{survived}");
}
