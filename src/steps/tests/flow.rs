//! What runs, what is skipped, and how a run ends.

use serde_json::json;

use super::super::testing::{World, says};
use crate::base::money::UsdMicros;
use crate::domain::run::{Failure, Outcome, TriggerKind};
use crate::ports::durable::Stop;

const NOTED: &str = "
  - id: rows
    fetch: {from: signups}
  - id: brief
    intern: {task: summarise, ask: \"Say it.\", given: [rows]}
  - id: news
    report: {from: [brief]}
";

#[test]
fn steps_run_in_their_order_and_the_report_ends_the_run() {
    let ran = World::new()
        .rows(json!([{"day": "2026-11-19", "n": 3}]))
        .answer("brief/turn-1", [says(json!({"text": "Three."}))])
        .run(NOTED);
    let end = ran.end.clone().unwrap();
    assert_eq!((end.outcome, end.failure, end.headline.as_str()), (Outcome::Reported, None, "A test."));
    assert_eq!(ran.result("rows")["items"], json!([{"day": "2026-11-19", "n": 3}]));
    assert_eq!(ran.result("brief"), json!({"ran": true, "outcome": "done", "text": "Three."}));
    assert_eq!(ran.result("news")["posted"], true);
    let request = ran.request("brief/turn-1");
    assert!(!request.counts_turn && request.tools.is_empty() && !request.from_report_slice);
}

#[test]
fn nothing_fetched_means_nothing_new_and_no_model_call() {
    let ran = World::new().rows(json!([])).run(NOTED);
    assert_eq!(ran.outcome(), "nothing_new");
    assert_eq!(ran.paths("model"), [""; 0]);
    assert_eq!(ran.delivered().len(), 0, "a quiet night says nothing");
    assert_eq!(ran.result("brief"), json!({"ran": false, "outcome": "skipped"}));
    assert_eq!(ran.reason("brief"), "nothing new was fetched");
    assert_eq!(ran.result("news"), json!({"ran": true, "outcome": "done", "posted": false}));
    let loud = World::new().rows(json!([])).run(&NOTED.replace("{from: [brief]}", "{from: [brief], when_quiet: post}"));
    assert_eq!((loud.outcome(), loud.delivered()[0].report.headline.as_str()), ("reported", "Nothing new"));
}

#[test]
fn what_reaches_into_a_step_that_did_not_run_is_empty_and_no_mistake() {
    let ran = World::new().rows(json!([{"n": 1}])).run(
        "
  - id: rows
    fetch: {from: signups}
  - id: large
    fetch: {from: signups, keep: item.n > 5}
  - id: ranked
    boss: {ask: \"Rank.\", given: [large]}
    output: {groups: [{title: string(90), severity: low | high}]}
  - id: each_group
    each: {as: group, in: 'ranked.groups.filter(g, g.severity != \"low\")'}
    intern: {task: summarise, ask: \"Say it.\", given: [group]}
  - id: more
    when: ranked.groups.size() > 1
    intern: {task: summarise, ask: \"Say it.\", given: [rows]}
  - id: news
    report: {from: [rows]}
",
    );
    assert_eq!(ran.outcome(), "reported");
    assert_eq!(ran.result("each_group")["count"], json!(0));
    assert_eq!(ran.result("more"), json!({"ran": false, "outcome": "skipped"}));
}

#[test]
fn several_sources_without_a_row_are_nothing_new_too() {
    let steps = NOTED.replace("from: signups", "from: [signups, checkout]");
    assert_eq!(World::new().rows(json!([])).run(&steps).outcome(), "nothing_new");
}

#[test]
fn a_model_step_whose_data_is_all_empty_or_skipped_is_skipped() {
    let ran = World::new().rows(json!([{"n": 1}])).run(
        "
  - id: rows
    fetch: {from: signups}
  - id: never
    when: rows.count > 5
    boss: {ask: \"Why?\", given: [rows]}
  - id: brief
    intern: {task: summarise, ask: \"Say it.\", given: [never, 'rows.items.filter(r, r.n > 1)']}
",
    );
    assert_eq!(ran.reason("never"), "when rows.count > 5");
    assert_eq!(ran.result("brief"), json!({"ran": false, "outcome": "skipped"}));
    assert_eq!(ran.paths("model"), [""; 0]);
}

#[test]
fn after_a_failure_only_the_report_runs_and_says_so() {
    let ran = World::new()
        .source(|_| Err(Stop::Blocked(Failure::new("E-SOURCE", "the warehouse does not answer").help("start it"))))
        .run(NOTED);
    let end = ran.end.clone().unwrap();
    assert_eq!(end.outcome, Outcome::Blocked);
    assert_eq!(end.failure, Some(Failure::new("E-SOURCE", "the warehouse does not answer").help("start it")));
    assert_eq!(ran.reason("brief"), "skipped after a failure: `rows` blocked");
    let report = ran.delivered()[0].report.clone();
    assert_eq!(report.headline, "Could not run: `rows`: the warehouse does not answer");
    assert_eq!(report.outcome, Some(Outcome::Blocked));
    assert_eq!(report.footer.problems, ["rows: blocked: the warehouse does not answer"]);
    assert_eq!(end.headline, report.headline);
}

#[test]
fn a_final_stop_ends_the_run_as_it_is() {
    let ran = World::new().source(|_| Err(Stop::Suspended)).run(NOTED);
    assert_eq!(ran.end, Err(Stop::Suspended));
    assert!(ran.world.ends.borrow().is_empty());
}

#[test]
fn until_stops_after_its_step() {
    let mut world = World::new().rows(json!([{"n": 1}]));
    world.run.until = Some("rows".into());
    let ran = world.run(NOTED);
    assert_eq!((ran.outcome(), ran.world.ends.borrow().len()), ("nothing_new", 1));
}

#[test]
fn a_condition_without_a_value_fails_its_step() {
    let ran = World::new().rows(json!([{"n": 1}])).run(
        "
  - id: rows
    fetch: {from: signups}
  - id: brief
    when: rows.items[0].nothing > 1
    intern: {task: summarise, ask: \"Say it.\", given: [rows]}
",
    );
    let end = ran.end.unwrap();
    assert_eq!((end.outcome, end.failure.unwrap().code.as_str()), (Outcome::Failed, "E-CEL"));
}

const TRIAGE: &str = "
  - id: errors
    fetch: {from: signups}
  - id: triage
    each: {as: error, in: errors, order: \"-users\", take: 3, max_budget_usd: 0.10}
    intern: {task: classify, ask: \"How hard?\"}
    output: {class: simple | complex, note: string(300)}
  - id: again
    each: t in triage
    intern: {task: filter, ask: \"Keep?\"}
  - id: news
    report: {from: [triage, again]}
";

fn errors() -> serde_json::Value {
    json!([
        {"key": "A", "users": 1, "title": "a"},
        {"key": "B", "users": 9, "title": "b"},
        {"key": "C", "users": 5, "title": "c"},
        {"key": "D", "users": 7, "title": "d"},
    ])
}

#[test]
fn each_runs_per_item_in_order_and_items_carry_their_own_fields_and_the_steps() {
    let ran = World::new()
        .rows(errors())
        .model(|path, request| match path {
            "triage[D]/turn-1" => says(json!({"class": "complex", "note": "deep"})),
            path if path.starts_with("triage") => {
                assert!(request.messages[0].get().contains("users"), "the default of `given` is the item");
                says(json!({"class": "simple", "note": "shallow"}))
            }
            "again[D]/turn-1" => says(json!({"verdict": "drop", "why": "noise"})),
            _ => says(json!({"verdict": "keep", "why": "real"})),
        })
        .run(TRIAGE);
    assert_eq!(ran.paths("model")[..3], ["triage[B]/turn-1", "triage[D]/turn-1", "triage[C]/turn-1"]);
    let triage = ran.result("triage");
    assert_eq!(
        triage["items"][1],
        json!({"key": "D", "users": 7, "title": "d", "ran": true, "outcome": "done", "class": "complex", "note": "deep"})
    );
    assert_eq!((&triage["count"], &triage["left_behind"]), (&json!(3), &json!(1)));
    assert_eq!(ran.step("triage").summary, "3 items, 2 simple, 1 complex, 1 left for later");
    assert_eq!(ran.world.budgets.borrow()[0], Some(UsdMicros(100_000)));
    // An intern's drop is an end: not among the items, and not failed.
    let again = ran.result("again");
    assert_eq!((&again["count"], &again["dropped"], &again["failed"]), (&json!(2), &json!(1), &json!([])));
    assert_eq!(ran.outcome(), "reported");
    assert_eq!(ran.delivered()[0].report.footer.left_behind, 1, "what `take` leaves behind is counted in the report");
}

#[test]
fn a_failed_item_does_not_stop_its_siblings() {
    let ran = World::new()
        .rows(errors())
        .model(|path, _| match path {
            path if path.starts_with("triage[D]") => says(json!({"class": "impossible"})),
            path if path.starts_with("triage") => says(json!({"class": "simple", "note": "w"})),
            _ => says(json!({"verdict": "keep", "why": "w"})),
        })
        .run(TRIAGE);
    let triage = ran.result("triage");
    assert_eq!((&triage["outcome"], &triage["count"]), (&json!("done"), &json!(2)));
    let failed = &triage["failed"][0];
    assert_eq!(
        (&failed["key"], &failed["outcome"], &failed["failure"]["code"]),
        (&json!("D"), &json!("failed"), &json!("E-OUTPUT"))
    );
    assert_eq!(ran.result("again")["count"], 2, "the others go on");
    let end = ran.end.clone().unwrap();
    assert_eq!((end.outcome, end.problems.len()), (Outcome::Failed, 1), "the gravest of several results is the run's");
    assert_eq!(end.problems[0].0, "triage[D]");
}

#[test]
fn when_every_item_fails_the_step_has_failed() {
    let ran = World::new().rows(errors()).model(|_, _| says(json!({"class": "impossible"}))).run(TRIAGE);
    assert_eq!(ran.result("triage")["outcome"], "failed");
    assert!(ran.reason("again").starts_with("skipped after a failure"));
    assert_eq!(ran.delivered().len(), 1);
}

#[test]
fn with_steps_each_item_is_a_child_run_of_its_own() {
    let ran = World::new()
        .rows(json!([{"key": "A", "n": 1}, {"key": "B", "n": 2}]))
        .model(|path, _| match path {
            "repair[A]/cause/turn-1" => says(json!({"text": "because"})),
            "repair[B]/cause/turn-1" => says(json!({"wrong": 1})),
            "repair[B]/cause/turn-2" => says(json!({"wrong": 2})),
            _ => says(json!({"text": "said"})),
        })
        .run(
            "
  - id: errors
    fetch: {from: signups}
  - id: repair
    each: error in errors
    steps:
      - id: cause
        boss: {ask: \"Find it.\", given: [error]}
      - id: small
        when: error.n > 5
        boss: {ask: \"Small.\", given: [cause]}
      - id: say
        unless: small.ran
        intern: {task: summarise, ask: \"Say it.\", given: [error, cause]}
  - id: news
    report: {from: repair}
",
        );
    let repair = ran.result("repair");
    assert_eq!(
        repair["items"],
        json!([{
            "key": "A", "n": 1, "ran": true, "outcome": "done",
            "cause": {"ran": true, "outcome": "done", "text": "because"},
            "small": {"ran": false, "outcome": "skipped"},
            "say": {"ran": true, "outcome": "done", "text": "said"},
        }])
    );
    assert_eq!((&repair["failed"][0]["key"], &repair["failed"][0]["outcome"]), (&json!("B"), &json!("failed")));
    assert_eq!(ran.reason("repair[B]/say"), "skipped after a failure: `cause` failed");
    assert_eq!(ran.outcome(), "failed");
}

#[test]
fn an_item_that_the_trigger_carries_is_the_only_one_and_still_passes_keep() {
    let run = |n: i64| {
        let mut world = World::new();
        world.run.trigger.kind = TriggerKind::Sentry;
        world.run.trigger.item = Some(json!({"key": "E1", "users": n}));
        world.run("  - id: errors\n    fetch: {from: sentry, query: \"is:unresolved\", keep: item.users >= 3}\n")
    };
    let ran = run(7);
    assert_eq!(
        (ran.paths("fetch").len(), ran.result("errors")["items"].clone()),
        (0, json!([{"key": "E1", "users": 7, "standing": "new"}]))
    );
    assert_eq!(run(1).result("errors")["count"], 0);
}
