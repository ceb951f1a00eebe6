//! What each kind does that runs now.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::testing::{REGISTRY, Ran, World, pipeline, says};
use crate::domain::report::{Question, ReportBlock};
use crate::domain::run::{Failure, Outcome};
use crate::ports::durable::Stop;
use crate::ports::step::{Opt, OptType};

#[test]
fn every_row_of_the_table_is_well_formed_and_its_example_is_a_step() {
    fn walk(options: &[Opt]) {
        for option in options {
            assert!(option.name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{}", option.name);
            assert!(!option.doc.is_empty(), "{}", option.name);
            if let OptType::Map(inner) = option.ty {
                walk(inner);
            }
        }
    }
    let before = "
  - {id: data, fetch: {from: [signups, checkout]}}
  - {id: errors, fetch: {from: signups}}
  - {id: delta, compute: {compare: data, at: params.day, usual: previous}}
  - {id: brief, intern: {task: summarise, ask: x, given: [delta]}}
  - {id: ranked, boss: {ask: x, given: [delta]}}
  - {id: fix, fix: {ask: x, given: [delta], test_first: true}}
";
    for kind in REGISTRY.steps {
        walk(kind.options);
        walk(kind.beside);
        assert!(!kind.summary.is_empty(), "{}", kind.name);
        let example = kind.example.trim_end().replace("data.count", "shown.count").replace('\n', "\n    ");
        let pipeline = pipeline(&format!("{before}  - id: shown\n    {example}\n"));
        assert_eq!(pipeline.steps.last().unwrap().id, "shown", "{}", kind.name);
    }
    assert!(REGISTRY.step("report").unwrap().closing);
}

#[test]
fn fetch_keeps_orders_takes_and_hides() {
    let ran = World::new().rows(json!([{"n": 1, "email": "a@b"}, {"n": 5}, {"n": 3}, {"n": 4}])).run(
        "  - id: rows\n    fetch: {from: signups, args: {to: params.day}, keep: item.n > 1, order: \"-n\", take: 2}\n",
    );
    let rows = ran.result("rows");
    assert_eq!(
        (&rows["items"], &rows["count"], &rows["left_behind"]),
        (&json!([{"n": 5}, {"n": 4}]), &json!(2), &json!(1))
    );
    assert_eq!(ran.step("rows").summary, "2 items of 4, 1 left for later");
    let asked = ran.world.asked.borrow();
    let crate::domain::activity::Activity::Fetch(request) = &asked[0].1 else { panic!() };
    assert_eq!((request.args["to"].as_str(), request.attempt), (Some("2026-11-19"), 0));
    drop(asked);
    let ran = World::new().rows(json!([{"email": "a@b", "n": 1}])).run("  - id: rows\n    fetch: {from: signups}\n");
    assert_eq!(ran.result("rows")["items"], json!([{"n": 1}]), "hidden columns go no further");
}

#[test]
fn several_sources_are_one_item_each() {
    let ran = World::new()
        .source(|request| Ok(vec![json!({"day": "2026-11-19", "of": request.from})]))
        .run("  - id: data\n    fetch: {from: [signups, checkout]}\n");
    assert_eq!(ran.paths("fetch"), ["data/signups", "data/checkout"]);
    let items = &ran.result("data")["items"];
    assert_eq!(
        items[1],
        json!({"source": "checkout", "key": "checkout", "rows": [{"day": "2026-11-19", "of": "checkout"}], "via": "test"})
    );
}

const REQUIRE: &str = "
  - id: data
    fetch: {from: [signups, checkout], args: {from: \"days_before(params.day, 56)\", to: params.day}}
    require: {that: \"data.items.all(t, t.rows.exists(r, r.day == params.day))\", retry: 15m, for: 1h, else: ELSE}
";

fn late(until: u32, otherwise: &str) -> Ran {
    World::new()
        .source(move |request| match request.attempt {
            attempt if attempt >= until => Ok(vec![json!({"day": "2026-11-19"})]),
            1 => Err(Stop::Failed(Failure::new("E-SOURCE", "does not answer"))),
            _ => Ok(vec![json!({"day": "2026-11-18"})]),
        })
        .run(&REQUIRE.replace("ELSE", otherwise))
}

#[test]
fn late_data_is_waited_for() {
    let ran = late(2, "blocked");
    assert_eq!(ran.outcome(), "nothing_new");
    assert_eq!(*ran.world.slept.borrow(), [Duration::from_secs(900); 2]);
    assert_eq!(
        ran.paths("fetch")[2..],
        ["data/attempt-2/signups", "data/attempt-2/checkout", "data/attempt-3/signups", "data/attempt-3/checkout"]
    );
    assert_eq!(ran.result("data")["items"][0]["rows"], json!([{"day": "2026-11-19"}]));
}

#[test]
fn what_does_not_come_in_time_ends_as_else_says() {
    let ran = late(99, "blocked");
    let end = ran.end.clone().unwrap();
    assert_eq!((end.outcome, end.failure.unwrap().code.as_str()), (Outcome::Blocked, "E-REQUIRE"));
    assert_eq!(ran.world.slept.borrow().len(), 4);
    assert!(ran.reason("data").ends_with("(waited 60 min)"), "{}", ran.reason("data"));
    assert_eq!(late(99, "failed").outcome(), "failed");
    assert_eq!(late(99, "skip").result("data"), json!({"ran": false, "outcome": "skipped"}));
    assert_eq!(late(99, "proceed").result("data")["count"], 2);
}

fn days() -> Value {
    let usual = (1..=8).map(|week| {
        let day: jiff::civil::Date = "2026-11-19".parse().unwrap();
        json!({"day": day.checked_sub(jiff::Span::new().days(week * 7)).unwrap().to_string(), "n": 1000 + week, "rate": 0.004})
    });
    Value::Array(usual.chain([json!({"day": "2026-11-19", "n": 1204, "rate": 0.021})]).collect())
}

const COMPUTE: &str = "
  - id: data
    fetch: {from: [signups, checkout]}
  - id: delta
    compute: {compare: data, at: params.day, usual: median_same_weekday(8), flag_when: abs(item.change_pct) > 15 && abs(item.change) >= 20}
  - id: why
    when: delta.items.exists(m, m.flagged)
    boss: {ask: \"Explain.\", given: [delta]}
  - id: news
    report: {from: [why, delta], chart: {of: delta, days: 3}}
";

#[test]
fn compute_compares_a_day_with_the_usual_and_flags_what_moved() {
    let ran = World::new().rows(days()).answer("why/turn-1", [says(json!({"text": "unknown"}))]).run(COMPUTE);
    let items = ran.result("delta")["items"].clone();
    assert_eq!(
        items[0],
        json!({"metric": "signups.n", "value": 1204, "usual": 1004.5, "change": 199.5, "change_pct": 19.860627, "flagged": true})
    );
    assert_eq!(
        items[1],
        json!({"metric": "signups.rate", "value": 0.021, "usual": 0.004, "change": 0.017, "change_pct": 425, "flagged": false})
    );
    assert_eq!(ran.step("delta").summary, "4 metrics, 2 flagged");
    assert!(!ran.prompt("why/turn-1").contains("2026-09"), "the series is not shown to models");
    let report = &ran.delivered()[0].report;
    let chart = report.chart.as_ref().unwrap();
    assert_eq!(chart.days, ["2026-11-05", "2026-11-12", "2026-11-19"]);
    assert_eq!(
        (chart.series[0].flagged, &chart.series[0].values),
        (true, &vec![Some(1002.0), Some(1001.0), Some(1204.0)])
    );
}

#[test]
fn a_missing_day_is_named() {
    let ran = World::new().rows(json!([{"day": "2026-11-18", "n": 1}])).run(COMPUTE);
    assert_eq!(ran.reason("delta"), "`signups` has no row for 2026-11-19: its last day is 2026-11-18");
    assert_eq!(ran.outcome(), "failed");
}

#[test]
fn a_report_is_made_of_typed_values_and_delivered_once_per_sink() {
    let ran = World::new()
        .rows(json!([{"metric": "m", "value": 1}]))
        .answer("brief/turn-1", [says(json!({"headline": "All fine", "bullets": ["one", "two"]}))])
        .run(
            "
  - id: rows
    fetch: {from: signups}
  - id: brief
    intern: {task: summarise, ask: x, given: [rows]}
    output: {headline: string(120), bullets: [string(160)]}
  - id: post
    report: {from: [brief, rows], to: [slack, files]}
",
        );
    let delivered = ran.delivered();
    let sent: Vec<_> = delivered.iter().map(|d| (d.sink.as_str(), d.channel.as_deref(), d.key.as_str())).collect();
    assert_eq!(
        sent,
        [
            ("slack", Some("growth"), "01JD0000000000000000000001/post/slack"),
            ("files", Some("growth"), "01JD0000000000000000000001/post/files"),
        ]
    );
    let report = &delivered[0].report;
    assert_eq!((report.headline.as_str(), report.date.as_str()), ("All fine", "Fri 20 Nov 2026"));
    assert_eq!(report.blocks[0], ReportBlock::Bullets { items: vec!["one".into(), "two".into()] });
    assert!(matches!(&report.blocks[1], ReportBlock::Table { columns, .. } if columns == &["metric", "value"]));
    assert_eq!((report.footer.figures_checked, report.footer.budget_usd), (3, Some(0.6)));
    assert_eq!(ran.result("post")["receipts"].as_array().unwrap().len(), 2);
    assert_eq!(ran.end.unwrap().headline, "All fine");
}

#[test]
fn a_sink_that_fails_does_not_take_the_others_with_it() {
    let world = World::new().rows(json!([{"a": 1}]));
    let ok = world.sink.replace(Box::new(|_| Err(Stop::Suspended)));
    let ok = std::cell::RefCell::new(ok);
    *world.sink.borrow_mut() = Box::new(move |delivery| match delivery.sink.as_str() {
        "slack" => Err(Stop::Blocked(Failure::new("E-SINK", "no token"))),
        _ => (ok.borrow_mut())(delivery),
    });
    let ran =
        world.run("  - {id: rows, fetch: {from: signups}}\n  - {id: post, report: {from: rows, to: [slack, files]}}\n");
    let post = ran.result("post");
    assert_eq!((&post["posted"], &post["outcome"]), (&json!(true), &json!("blocked")));
    assert_eq!(ran.reason("post"), "not delivered to `slack`: no token");
    assert_eq!(ran.outcome(), "blocked");
}

const APPROVE: &str = "
  - id: rows
    fetch: {from: signups}
  - id: ok
    approve: {ask: \"May I?\", given: [rows], expires: 4h, on_expiry: WORD}
  - id: after
    when: ok.approved
    boss: {ask: go, given: [rows]}
";

fn approve(word: &str, answer: Option<Value>) -> Ran {
    let world = World::new().rows(json!([{"a": 1}])).model(|_, _| says(json!({"text": "went"})));
    let world = match answer {
        Some(answer) => world.signal("ok:approve", answer),
        None => world,
    };
    world.run(&APPROVE.replace("WORD", word))
}

#[test]
fn only_a_persons_yes_approves() {
    let yes = approve("skip", Some(json!({"approved": true})));
    assert_eq!(yes.result("ok"), json!({"ran": true, "outcome": "done", "approved": true, "by": "cli"}));
    assert_eq!(yes.result("after")["text"], "went");
    let asked = yes.world.questions.borrow()[0].clone();
    assert_eq!(asked["given"], json!([{"label": "rows", "value": [{"a": 1}]}]));
    assert_eq!((&asked["expires_at"], &asked["on_expiry"]), (&json!("2026-11-20T11:00:00Z"), &json!("skip")));
    for no in [json!({"approved": false}), json!({"approved": "yes"}), json!("approved"), json!(null)] {
        let no = approve("skip", Some(no));
        assert_eq!((&no.result("ok")["approved"], no.outcome()), (&json!(false), "declined"));
        assert_eq!(no.result("after")["ran"], false);
    }
}

#[test]
fn a_question_is_put_where_people_are_and_its_message_says_how_it_was_answered() {
    let told = |ran: &Ran| {
        let questions = ran.delivered().into_iter().map(|delivery| {
            assert_eq!((delivery.sink.as_str(), delivery.channel.as_deref()), ("slack", Some("growth")));
            assert_eq!(delivery.key, "01JD0000000000000000000001/ok/ask");
            delivery.report.question.unwrap()
        });
        questions.collect::<Vec<_>>()
    };
    let yes = approve("skip", Some(json!({"approved": true})));
    assert_eq!(yes.paths("deliver"), ["ok/ask", "ok/answered"]);
    let questions = told(&yes);
    let [asked, answered] = questions.as_slice() else { panic!("{questions:?}") };
    assert_eq!((asked.path.as_str(), asked.signal.as_str(), asked.on_expiry.as_str()), ("ok/approve", "approve", "no"));
    assert_eq!(asked.expires_at.unwrap().to_string(), "2026-11-20T11:00:00Z");
    assert_eq!(asked.given, [("rows".to_owned(), "[\n  {\n    \"a\": 1\n  }\n]".to_owned())]);
    assert_eq!(asked.answered, None);
    let how = |how: &str, by: &str| Some((how.to_owned(), by.to_owned()));
    assert_eq!(answered.answered, how("approved", "cli"));
    assert_eq!(asked, &Question { answered: None, ..answered.clone() });
    // The hash is that of exactly what is shown, and the step knows it.
    assert_eq!(yes.world.questions.borrow()[0]["hash"], asked.hash.as_str());
    let other = World::new().rows(json!([{"a": 2}])).run(&APPROVE.replace("WORD", "skip"));
    assert!(told(&other)[0].hash != asked.hash && asked.hash.len() == 64);
    // A yes to something else is none; no answer is no denial.
    let about = |hash: &str| approve("skip", Some(json!({"approved": true, "hash": hash})));
    assert_eq!(told(&about(&asked.hash))[1].answered, how("approved", "cli"));
    assert_eq!(told(&about("other"))[1].answered, how("denied", "cli"));
    assert_eq!(told(&approve("skip", None))[1].answered, how("expired", "nobody"));
    assert_eq!(told(&approve("proceed", None))[1].on_expiry, "yes");
}

#[test]
fn a_question_is_put_and_closed_once_wherever_its_run_is_killed() {
    let pipeline = pipeline(&APPROVE.replace("WORD", "skip"));
    let world = || {
        let world = World::new().rows(json!([{"a": 1}])).model(|_, _| says(json!({"text": "went"})));
        std::rc::Rc::new(world.signal("ok:approve", json!({"approved": true})))
    };
    let whole = world().begin(&pipeline);
    let mut survived = 0;
    for lives in 0.. {
        let world = world();
        world.lives.set(lives);
        if world.clone().begin(&pipeline).end.is_ok() {
            break;
        }
        world.lives.set(usize::MAX);
        let second = world.begin(&pipeline);
        assert_eq!(second.end, whole.end, "killed after {lives}");
        assert_eq!(second.paths("deliver"), ["ok/ask", "ok/answered"], "killed after {lives}");
        assert_eq!(second.result("ok")["approved"], true, "killed after {lives}");
        survived += 1;
    }
    assert!(survived >= 6, "{survived}");
}

#[test]
fn a_question_that_cannot_be_delivered_waits_all_the_same_and_the_run_says_so() {
    let world = World::new().rows(json!([{"a": 1}])).model(|_, _| says(json!({"text": "went"})));
    let refused = || Stop::Blocked(Failure::new("E-SINK", "no token").help("give it one"));
    drop(world.sink.replace(Box::new(move |_| Err(refused()))));
    let ran = world.signal("ok:approve", json!({"approved": true})).run(&APPROVE.replace("WORD", "skip"));
    assert_eq!(ran.result("after")["text"], "went");
    assert_eq!(ran.paths("deliver"), ["ok/ask"], "what was never put is not closed");
    let complaints = ran.world.complaints.borrow();
    let told: Vec<_> = complaints.iter().map(|c| (c.need.as_str(), c.evidence.as_str(), c.step.as_str())).collect();
    assert_eq!(told, [("the question could not be put: no token", "give it one", "ok")]);
}

#[test]
fn a_question_that_expires_ends_as_the_yaml_says() {
    let skip = approve("skip", None);
    assert_eq!((&skip.result("ok")["ran"], &skip.result("ok")["outcome"]), (&json!(false), &json!("skipped")));
    assert_eq!(skip.result("after")["ran"], false);
    let fail = approve("fail", None).end.unwrap();
    assert_eq!((fail.outcome, fail.failure.unwrap().code.as_str()), (Outcome::Failed, "E-EXPIRED"));
    assert_eq!(approve("proceed", None).result("after")["text"], "went");
}
