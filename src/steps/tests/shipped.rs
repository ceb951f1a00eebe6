//! The pipelines that ship, over the real table of kinds.

use std::path::Path;

use serde_json::{Value, json};

use super::super::testing::{REGISTRY, Says, World, calls, says};
use crate::domain::definition::Pipeline;
use crate::domain::report::ReportBlock;
use crate::pipeline::{DiskFiles, Surroundings, parse};

fn shipped(name: &str) -> Pipeline {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines").join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    let (pipeline, report) = parse(name, name, &text, &DiskFiles::beside(&path), &REGISTRY, &Surroundings::default());
    pipeline.unwrap_or_else(|| panic!("{}", report.render(crate::diag::Color::Off)))
}

/// Nine Thursdays of sign-ups and checkout errors, the last one as given.
fn days(signups: i64, errors: i64) -> World {
    World::new().source(move |request| {
        let last: jiff::civil::Date = request.args["to"].as_str().unwrap().parse().unwrap();
        let row = |weeks: i64| {
            let day = last.checked_sub(jiff::Span::new().days(weeks * 7)).unwrap();
            let usual = |value: i64, usual: i64| if weeks == 0 { value } else { usual };
            match request.from.as_str() {
                "signups" => json!({"day": day.to_string(), "new": usual(signups, 1000), "email": "a@example.com"}),
                _ => json!({"day": day.to_string(), "errors": usual(errors, 40)}),
            }
        };
        Ok((0..9).rev().map(row).collect::<Vec<Value>>())
    })
}

#[test]
fn all_three_are_accepted() {
    for name in ["analytics-report.yaml", "code-health.yaml", "error-to-pr.yaml"] {
        assert!(!shipped(name).steps.is_empty(), "{name}");
    }
}

/// A day on which everything moved, with a boss that asks a tool and an intern that must be corrected.
fn eventful() -> World {
    days(1204, 412)
        .tool(|_| Ok("{\"day\": \"2026-11-19\", \"errors\": 412, \"browser\": \"Safari 18\"}".into()))
        .answer("why/turn-1", [calls("checkout", json!({"from": "2026-11-19", "to": "2026-11-19"}))])
        .answer(
            "why/turn-2",
            [says(json!({"causes": [
                {"metric": "checkout.errors", "cause": "unknown", "evidence": "412 errors against the usual 40, on Safari 18"},
                {"metric": "signups.new", "cause": "unknown", "evidence": "+20.4 % on Thu 19 Nov"},
            ]}))],
        )
        .answer(
            "brief/turn-1",
            [Says::Text("Here you are: {".into())],
        )
        .answer(
            "brief/turn-2",
            [says(json!({"headline": "Sign-ups 1,204 (+20 %), checkout errors 412", "bullets": ["Usual: 40 errors", "2 of 2 metrics moved by more than 15 %"]}))],
        )
}

#[test]
fn analytics_report_explains_what_is_flagged_with_checked_figures() {
    let ran = eventful().run_pipeline(&shipped("analytics-report.yaml"));
    assert_eq!((ran.outcome(), ran.notes("sentence_dropped").len()), ("reported", 0));
    assert_eq!(ran.paths("model"), ["why/turn-1", "why/turn-2", "brief/turn-1", "brief/turn-2"]);
    let report = &ran.delivered()[0].report;
    assert_eq!(report.headline, "Sign-ups 1,204 (+20 %), checkout errors 412");
    let kinds: Vec<&str> = report
        .blocks
        .iter()
        .map(|block| match block {
            ReportBlock::Bullets { .. } => "bullets",
            ReportBlock::Table { title, .. } => title,
            _ => "other",
        })
        .collect();
    assert_eq!(kinds, ["bullets", "causes", "delta"]);
    assert_eq!(report.chart.as_ref().unwrap().days.len(), 9);
    let everything =
        ran.world.told.borrow().join("") + &ran.delivered().iter().map(|d| json!(d).to_string()).collect::<String>();
    assert!(!everything.contains("example.com"), "a hidden column reaches neither model nor report");
}

#[test]
fn on_a_usual_day_the_boss_is_not_asked() {
    let ran = days(1001, 41)
        .answer("brief/turn-1", [says(json!({"headline": "All as usual", "bullets": []}))])
        .run_pipeline(&shipped("analytics-report.yaml"));
    assert_eq!((ran.outcome(), ran.paths("model").len()), ("reported", 1));
    assert_eq!(ran.reason("why"), "when delta.items.exists(m, m.flagged)");
}

#[test]
fn what_the_code_lacks_is_said_before_any_money_is_spent() {
    let world = World::new();
    *world.work.borrow_mut() = Box::new(|_| {
        let failure = crate::domain::run::Failure::new("E-REPOSITORY", "there is no such repository");
        Err(crate::ports::durable::Stop::Blocked(failure))
    });
    let ran = world.run_pipeline(&shipped("code-health.yaml"));
    assert_eq!((ran.outcome(), ran.paths("model").len()), ("blocked", 0));
    assert_eq!(ran.delivered().len(), 1);
}

/// Killed after every answer, the run asks for the same again and does nothing twice.
#[test]
fn wherever_it_is_killed_it_goes_on_as_if_nothing_had_happened() {
    let pipeline = shipped("analytics-report.yaml");
    let whole = eventful().run_pipeline(&pipeline);
    let asked = |ran: &crate::steps::testing::Ran| -> Vec<String> {
        ran.world.asked.borrow().iter().map(|(path, _)| path.clone()).collect()
    };
    let mut survived = 0;
    for lives in 0..200 {
        let world = std::rc::Rc::new(eventful());
        world.lives.set(lives);
        let first = world.clone().begin(&pipeline);
        if first.end.is_ok() {
            break;
        }
        assert_eq!(first.end, Err(crate::ports::durable::Stop::Suspended));
        world.lives.set(usize::MAX);
        let second = world.begin(&pipeline);
        assert_eq!(second.end, whole.end, "killed after {lives}");
        assert_eq!(asked(&second), asked(&whole), "killed after {lives}");
        survived += 1;
    }
    assert!(survived > 10, "{survived}");
}
