//! What the ledger is asked and told, over whole pipelines with scripted models.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::json;

use super::super::testing::{Ran, Says, World, capped, pipeline, says};
use super::*;
use crate::domain::run::{Trigger, TriggerKind};
use crate::policy::findings::{Known, standing};

type Told = Rc<RefCell<Vec<FindingsRequest>>>;

/// A world whose ledger knows these findings, and what it is told.
fn remembering(known: &[(&str, Known)]) -> (World, Told) {
    let told: Told = Rc::default();
    let known: BTreeMap<String, Known> = known.iter().map(|(key, known)| ((*key).to_owned(), *known)).collect();
    let seen = told.clone();
    let now = "2026-11-20T07:00:00Z".parse().unwrap();
    let world = World::new().ledger(move |request| {
        seen.borrow_mut().push(request.clone());
        Ok(match request {
            FindingsRequest::Judge { seen, .. } => {
                let standings = seen.iter().map(|s| standing(known.get(&s.fingerprint), s, now)).collect();
                json!(Judged { standings, ..Judged::default() })
            }
            _ => json!({}),
        })
    });
    (world, told)
}

fn known(state: &str, weight: f64) -> Known {
    Known { state: state.parse().unwrap(), weight, muted_until: None, again: false, fixed_at: None }
}

/// (key, end, place) of all that was handled.
fn handled(told: &Told) -> Vec<(String, String, Option<String>)> {
    let told = told.borrow();
    let handled = told.iter().filter_map(|request| match request {
        FindingsRequest::Handled { source, findings } => {
            assert_eq!(source, "sentry");
            Some(findings.iter().map(|f| (f.seen.fingerprint.clone(), f.end.clone(), f.place.clone())))
        }
        _ => None,
    });
    handled.flatten().collect()
}

fn ends(told: &Told) -> String {
    handled(told).iter().map(|(key, end, _)| format!("{key}={end}")).collect::<Vec<_>>().join(" ")
}

fn items(ran: &Ran, step: &str) -> Vec<(String, String)> {
    let result = ran.result(step);
    let text = |item: &Value, name: &str| item[name].as_str().unwrap_or_default().to_owned();
    result["items"].as_array().unwrap().iter().map(|item| (text(item, "key"), text(item, "standing"))).collect()
}

fn rows() -> Value {
    json!([
        {"key": "a", "title": "A", "users": 3, "count": 10, "culprit": "f in x.rs"},
        {"key": "b", "title": "B", "users": 30, "count": 10},
        {"key": "c", "title": "C", "users": 1, "count": 10},
        {"key": "d", "title": "D", "users": 4, "count": 10},
        {"key": "e", "title": "E", "users": 5, "count": 10},
    ])
}

const FETCH: &str = "  - id: errors\n    fetch: {from: sentry}\n";

#[test]
fn a_fetch_yields_what_is_new_worse_or_back_and_says_so() {
    let (world, told) = remembering(&[
        ("a", known("handled", 3.0)),
        ("b", known("handled", 10.0)),
        ("c", known("fixed", 1.0)),
        ("d", known("muted", 1.0)),
    ]);
    let ran = world.rows(rows()).run(FETCH);
    let pairs = [("b", "worsened"), ("c", "regressed"), ("e", "new")];
    assert_eq!(items(&ran, "errors"), pairs.map(|(a, b)| (a.to_owned(), b.to_owned())));
    assert_eq!(ran.step("errors").summary, "3 items of 5 (1 known, 1 muted)");
    let seen =
        Seen { fingerprint: "a".into(), title: "A".into(), weight: 3.0, place: "f in x.rs".into(), last_at: None };
    assert!(
        matches!(&told.borrow()[0], FindingsRequest::Judge { seen: all, complete: false, source } if all[0] == seen && source == "sentry")
    );
    assert_eq!(ends(&told), "b=reported c=reported e=reported");
}

#[test]
fn only_says_what_else_a_fetch_yields_and_what_is_muted_stays_away() {
    for (only, expected) in [("all", "a b c e"), ("regressed", "c"), ("[new, worsened]", "b e")] {
        let (world, _) = remembering(&[
            ("a", known("handled", 3.0)),
            ("b", known("handled", 10.0)),
            ("c", known("fixed", 1.0)),
            ("d", known("muted", 1.0)),
        ]);
        let ran = world.rows(rows()).run(&format!("  - id: errors\n    fetch: {{from: sentry, only: {only}}}\n"));
        let keys: Vec<_> = items(&ran, "errors").into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys.join(" "), expected, "{only}");
    }
}

#[test]
fn a_known_item_that_a_trigger_carries_is_nothing_new_and_one_named_by_hand_is_taken_all_the_same() {
    let item = json!({"key": "a", "title": "A", "users": 3});
    let steps = "  - id: errors\n    fetch: {from: sentry, keep: item.users >= 5}\n";
    for (known_too, users, expected) in [(true, 6, 0), (false, 3, 0), (false, 6, 1)] {
        let ledger = [("a", known("handled", 6.0))];
        let (mut world, told) = remembering(if known_too { &ledger } else { &[] });
        let mut item = item.clone();
        item["users"] = users.into();
        world.run.trigger = Trigger { kind: TriggerKind::Sentry, key: "k".into(), item: Some(item) };
        let ran = world.run(steps);
        assert_eq!(items(&ran, "errors").len(), expected, "{known_too} {users}");
        assert_eq!(ran.paths("fetch"), [""; 0], "it is handed in");
        assert_eq!(handled(&told).len(), expected);
    }
    // `args.issue` skips both rules.
    let (world, told) = remembering(&[("a", known("handled", 3.0))]);
    let ran = world
        .rows(json!([item]))
        .run("  - id: errors\n    fetch: {from: sentry, args: {issue: '\"API-1\"'}, keep: item.users >= 5}\n");
    assert_eq!(items(&ran, "errors"), [("a".to_owned(), "ongoing".to_owned())]);
    assert_eq!(ends(&told), "a=reported");
}

#[test]
fn nothing_new_costs_nothing_and_tells_nothing() {
    let ledger: Vec<_> = ["a", "b", "c", "d", "e"].map(|key| (key, known("handled", 100.0))).to_vec();
    let (world, told) = remembering(&ledger);
    let ran = world.rows(rows()).run(
        "  - id: errors\n    fetch: {from: sentry}\n  - id: t\n    each: e in errors\n    intern: {task: summarise, ask: x}\n",
    );
    assert_eq!((ran.outcome(), ran.paths("model")), ("nothing_new", Vec::new()));
    assert_eq!(told.borrow().len(), 1, "one judgement");
}

#[test]
fn what_keep_and_take_leave_behind_stays_new_and_what_an_intern_drops_is_handled() {
    let (world, told) = remembering(&[]);
    let ran = world
        .rows(rows())
        .model(|path, _| match path {
            p if p.starts_with("told") => says(json!({"text": "said"})),
            p if p.contains("[b]") => says(json!({"verdict": "drop", "why": "noise"})),
            _ => says(json!({"verdict": "keep", "why": "real"})),
        })
        .run(
            "  - id: errors
    fetch: {from: sentry, keep: item.users >= 3, take: 3}
  - id: real
    each: e in errors
    intern: {task: filter, ask: Real?, keep: output.verdict == \"keep\"}
  - id: told
    each: {as: e, in: real, take: 1}
    intern: {task: summarise, ask: Say it.}
",
        );
    // c by `keep`, e by the fetch's `take`; d by the each's.
    assert_eq!(items(&ran, "errors").len(), 3);
    assert_eq!(ends(&told), "a=reported b=dropped");
}

#[test]
fn after_a_failure_only_what_reached_its_own_end_is_handled() {
    let steps = "  - id: errors
    fetch: {from: sentry}
  - id: real
    each: e in errors
    intern: {task: filter, ask: Real?, keep: output.verdict == \"keep\"}
  - id: repair
    each: e in real
    steps:
      - id: cause
        boss: {ask: Why?, given: [e]}
        output: {why: string}
  - id: after
    boss: {ask: All?, given: [repair]}
    output: {all: string}
";
    let model = |after: fn() -> Says| {
        move |path: &str, _: &crate::domain::model::ModelRequest| match path {
            p if p.starts_with("real[a]") => says(json!({"verdict": "drop", "why": "noise"})),
            p if p.starts_with("real") => says(json!({"verdict": "keep", "why": "real"})),
            p if p.starts_with("repair[b]") => capped(),
            p if p.starts_with("after") => after(),
            _ => says(json!({"why": "because"})),
        }
    };
    let (world, told) = remembering(&[]);
    let ran = world.rows(rows()).model(model(|| says(json!({"all": "ok"})))).run(steps);
    // One item was capped: it stays new, the others do not.
    assert_eq!(ran.outcome(), "capped");
    assert_eq!(ends(&told), "a=dropped c=reported d=reported e=reported");
    assert_eq!(ran.paths("findings"), ["errors/known-sentry", "handled-sentry"]);

    // A later step fails: the triage alone would not have been an end, the child runs are.
    let (world, told) = remembering(&[]);
    let ran = world.rows(rows()).model(model(capped)).run(steps);
    assert_eq!(ran.outcome(), "capped");
    assert_eq!(ends(&told), "a=dropped c=reported d=reported e=reported");

    let (world, told) = remembering(&[]);
    let short = steps.split("  - id: repair").next().unwrap().to_owned()
        + "  - id: after\n    boss: {ask: All?, given: [real]}\n    output: {all: string}\n";
    world.rows(rows()).model(model(capped)).run(&short);
    assert_eq!(ends(&told), "a=dropped", "what was merely sorted stays new");
}

#[test]
fn with_until_nothing_is_handled() {
    let (mut world, told) = remembering(&[]);
    world.run.until = Some("errors".into());
    world.rows(rows()).run(FETCH);
    assert_eq!(handled(&told), []);
}

#[test]
fn a_run_that_is_killed_anywhere_tells_the_ledger_the_same_when_it_goes_on() {
    let steps = "  - id: errors\n    fetch: {from: sentry, take: 2}\n  - id: t\n    each: e in errors\n    intern: {task: summarise, ask: x}\n";
    for lives in 0..6 {
        let (world, told) = remembering(&[]);
        let world = Rc::new(world.rows(rows()).model(|_, _| says(json!({"text": "hm"}))));
        world.lives.set(lives);
        let pipeline = pipeline(steps);
        let first = world.clone().begin(&pipeline);
        world.lives.set(usize::MAX);
        let ran = world.begin(&pipeline);
        assert!(lives >= 5 || first.end.is_err(), "{lives}");
        assert_eq!(ran.outcome(), "nothing_new");
        assert_eq!(ends(&told), "a=reported b=reported", "killed after {lives}");
    }
}

/// Accounts of a fetch of `g` items a to e, followed by steps with these results.
fn account_of(steps: &str, results: &[(&str, Value)]) -> Vec<(String, String, Option<String>)> {
    let pipeline = pipeline(&format!("{FETCH}{steps}"));
    let fetched = json!({"ran": true, "outcome": "done", "source": "sentry", "items": rows()});
    let mut all = vec![("errors".to_owned(), fetched.as_object().cloned().unwrap())];
    all.extend(results.iter().map(|(id, result)| ((*id).to_owned(), result.as_object().cloned().unwrap())));
    let accounts = accounts(&pipeline.steps, &all);
    let handled = accounts.into_iter().flat_map(|account| account.handled);
    handled.map(|f| (f.seen.fingerprint, f.end, f.place)).collect()
}

#[test]
fn groups_stand_for_their_members_and_tickets_say_where_they_are() {
    let steps = "  - id: groups
    boss: {ask: Merge., given: [errors]}
    output: {groups: [{title: string, members: [key(errors)]}]}
  - id: tickets
    each: {as: g, in: groups.groups, take: 3}
    ticket: {from: g, key: g.members}
";
    let ticket = json!({
        "ran": true, "outcome": "done",
        "items": [
            {"title": "x", "members": ["a", "b"], "ran": true, "outcome": "acted", "opened": true, "url": "out/1.md"},
            {"title": "y", "members": ["c"], "ran": true, "outcome": "reported", "opened": false, "url": ""},
        ],
        "failed": [{"title": "z", "members": ["d"], "key": "z", "outcome": "failed"}],
    });
    let groups = json!({"ran": true, "outcome": "done", "groups": []});
    let url = || Some("out/1.md".to_owned());
    let some = |key: &str, end: &str, place| (key.to_owned(), end.to_owned(), place);
    let expected = [some("a", "ticket", url()), some("b", "ticket", url()), some("c", "reported", None)];
    // e is in no group: somebody looked at it and the run went well.
    let all = account_of(steps, &[("groups", groups.clone()), ("tickets", ticket.clone())]);
    assert_eq!(all, [&expected[..], &[some("e", "reported", None)]].concat());
    // A later step failed: then only what has its ticket.
    let steps = &format!("{steps}  - id: news\n    report: {{from: tickets}}\n");
    let news = json!({"ran": true, "outcome": "failed"});
    assert_eq!(account_of(steps, &[("groups", groups.clone()), ("tickets", ticket.clone()), ("news", news)]), expected);
    // What `take` left for later stays new, also as a member of a group.
    let mut left = ticket;
    left["left"] = json!(["e", "a"]);
    let all = account_of(steps, &[("groups", groups), ("tickets", left)]);
    assert_eq!(all, [some("b", "ticket", url()), some("c", "reported", None)]);
}

#[test]
fn a_child_run_ends_as_what_it_published() {
    let steps = "  - id: repair
    each: e in errors
    steps:
      - id: fix
        fix: {ask: x, given: [e], test_first: true}
      - id: draft
        pull_request: {from: fix}
      - id: ticket
        unless: draft.ran
        ticket: {from: e}
";
    let child = |key: &str, draft: Value, ticket: Value| json!({"key": key, "outcome": "acted", "draft": draft, "ticket": ticket});
    let skipped = || json!({"ran": false, "outcome": "skipped"});
    let result = json!({"ran": true, "outcome": "done", "items": [
        child("a", json!({"ran": true, "outcome": "acted", "url": "branch x"}), skipped()),
        child("b", skipped(), json!({"ran": true, "outcome": "acted", "url": "out/t.md"})),
        child("c", json!({"ran": true, "outcome": "reported", "url": "branch y"}), skipped()),
        child("d", skipped(), skipped()),
    ], "failed": [{"key": "e"}]});
    let ends: Vec<_> = account_of(steps, &[("repair", result)]);
    let some = |key: &str, end: &str, place: Option<&str>| (key.to_owned(), end.to_owned(), place.map(str::to_owned));
    assert_eq!(
        ends,
        [
            some("a", "pull_request", Some("branch x")),
            some("b", "ticket", Some("out/t.md")),
            some("c", "reported", None),
            some("d", "reported", None),
        ]
    );
}

#[test]
fn what_was_denied_is_declined_and_what_is_gone_is_told_only_if_the_run_went_well() {
    let steps = "  - id: ok\n    approve: {ask: Sure?, expires: 1h, on_expiry: skip}\n";
    let denied = json!({"ran": true, "outcome": "done", "approved": false});
    assert!(account_of(steps, &[("ok", denied)]).iter().all(|(_, end, _)| end == "declined"));

    let steps = pipeline("  - id: scan\n    scan: {}\n  - id: news\n    report: {from: scan}\n").steps;
    let scan = json!({"ran": true, "outcome": "done", "items": [{"key": "k", "scanner": "ruff", "file": "a.py", "line": 3}],
        "fixed": [{"key": "g", "scanner": "ruff"}, {"key": "h", "scanner": "cargo"}]});
    let results = |news: &str| {
        [("scan", scan.clone()), ("news", json!({"ran": true, "outcome": news}))]
            .map(|(id, result)| (id.to_owned(), result.as_object().cloned().unwrap()))
    };
    let all = accounts(&steps, &results("done"));
    assert_eq!(all.iter().map(|a| a.source.as_str()).collect::<Vec<_>>(), ["scan/ruff", "scan/cargo"]);
    assert_eq!((all[0].handled[0].seen.place.as_str(), &all[0].gone[..]), ("a.py:3", &["g".to_owned()][..]));
    assert_eq!(accounts(&steps, &results("failed")), []);
}
