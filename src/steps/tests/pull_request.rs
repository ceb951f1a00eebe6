//! How a proved fix is handed over: a base that moves on, a service that limits, a cap on open drafts.

use serde_json::{Value, json};

use super::super::testing::code::{Files, Repo};
use super::super::testing::{Ran, World, pipeline};
use super::super::{E_BASE, E_LIMITED, failed};
use super::fix::{FIX, attempt, base, honest};
use crate::domain::activity::{Activity, Receipt};
use crate::domain::definition::From;
use crate::domain::proposal::{Proposed, PublishState, Published, PullRequestText};
use crate::domain::run::Effects;
use crate::ports::durable::Stop;

fn steps() -> String {
    format!(
        "{FIX}  - id: draft\n    pull_request: {{from: fix}}\n  - id: told\n    report: {{from: [errors], to: slack}}\n"
    )
}

fn with(path: &str, text: &str) -> Files {
    let mut tree = base();
    tree.insert(path.into(), text.into());
    tree
}

/// A world in which the first publications end so, and the others open a draft. So many are open before.
fn world(heads: Vec<Files>, ends: &[&'static str], open: u32) -> World {
    let mut ends: Vec<&str> = ends.iter().rev().copied().collect();
    let mut code = Repo::new(heads).work();
    let work = move |activity: &Activity| -> Result<Value, Stop> {
        let proposal = match activity {
            Activity::Publish(proposal) => proposal,
            Activity::Tend { .. } => return Ok(json!({"open": open})),
            other => return code(other),
        };
        if let Some(code) = ends.pop() {
            return Err(failed(code, "not now"));
        }
        let (kind, destination, key) = ("pull_request".into(), "acme/api".into(), proposal.key.clone());
        let receipt = Receipt { kind, destination, url_or_path: "https://x/1".into(), key, found: false };
        Ok(json!(Published { state: PublishState::Opened, receipt, note: String::new() }))
    };
    let rows =
        json!([{"key": "API-1", "type": "ParseError", "value": "src/duration.rs has no sign", "title": "ParseError"}]);
    attempt(World::new().rows(rows).work(work), 1, honest())
}

fn drafts(ran: &Ran) -> Vec<PullRequestText> {
    let asked = ran.world.asked.borrow();
    let all = asked.iter().filter_map(|(_, activity)| match activity {
        Activity::Publish(proposal) => match &proposal.what {
            Proposed::PullRequest(pr) => Some((**pr).clone()),
            _ => None,
        },
        _ => None,
    });
    all.collect()
}

#[test]
fn a_base_that_moved_on_has_the_proof_repeated_before_anything_is_published() {
    let moved = with("src/other.rs", "news\n");
    let ran = world(vec![base(), base(), moved], &[E_BASE], 0).run(&steps());
    assert_eq!(ran.outcome(), "acted", "{}", ran.reason("draft"));
    assert_eq!(ran.paths("publish"), ["draft/publish", "draft/moved-1/publish"]);
    let suites: Vec<String> = ran.paths("sandbox").into_iter().filter(|path| path.starts_with("draft/")).collect();
    assert_eq!(
        suites,
        ["draft/moved-1/base/suite", "draft/moved-1/reproduced", "draft/moved-1/patched"],
        "everything runs there again"
    );
    let drafts = drafts(&ran);
    let (before, after) = (&drafts[0], &drafts[1]);
    assert_ne!(before.evidence.base, after.evidence.base);
    assert!(crate::policy::proof::judge(&after.evidence).is_ok() && after.new_tree == after.evidence.new_tree);
    assert!(after.limits.iter().any(|limit| limit.contains("not reviewed again")), "{:?}", after.limits);
    assert_eq!((&before.title, before.patch.is_empty()), (&after.title, false));
}

#[test]
fn what_is_not_proved_there_or_moves_too_fast_is_not_published_and_said() {
    let torn = with("src/duration.rs", "parse digits quickly\n");
    let ran = world(vec![base(), base(), torn], &[E_BASE], 0).run(&steps());
    assert_eq!(
        ran.reason("draft"),
        "the base has moved on, and the fix is not proved there: it touches lines that have changed there"
    );
    let mended = with("tests/other.rs", "sign: src/duration.rs has digits\n");
    let ran = world(vec![base(), base(), mended], &[E_BASE], 0).run(&steps());
    assert!(
        ran.reason("draft").starts_with("the base has moved on, and the fix is not proved there: "),
        "{}",
        ran.reason("draft")
    );
    assert_eq!((ran.paths("publish").len(), ran.result("draft")["ran"].clone()), (1, json!(false)));
    let moved = with("src/other.rs", "news\n");
    let ran = world(vec![base(), base(), moved], &[E_BASE; 9], 0).run(&steps());
    assert_eq!(ran.paths("publish").len(), 3, "the proof is repeated twice at most");
    assert!(ran.reason("draft").contains("moves faster"), "{}", ran.reason("draft"));
}

#[test]
fn a_limit_of_the_service_is_waited_for_and_the_draft_comes_later() {
    let ran = world(vec![base()], &[E_LIMITED, E_LIMITED], 0).run(&steps());
    assert_eq!(ran.paths("publish"), ["draft/publish", "draft/publish-2", "draft/publish-3"]);
    let slept: Vec<u64> = ran.world.slept.borrow().iter().map(|slept| slept.as_secs()).collect();
    assert_eq!((ran.outcome(), slept), ("acted", vec![120, 600]));
    let ran = world(vec![base()], &[E_LIMITED; 9], 0).run(&steps());
    assert_eq!((ran.outcome(), ran.paths("publish").len()), ("failed", 5));
}

#[test]
fn nothing_is_spent_where_no_other_draft_may_be_opened() {
    let run = |effects, open, rows: bool| {
        let mut world = world(vec![base()], &[], open);
        world.run.effects = effects;
        let world = if rows { world } else { world.rows(json!([])) };
        let mut pipeline = pipeline(&steps());
        let mut most: From<u32> = pipeline.limits.max_turns.clone().unwrap();
        most.value = 2;
        pipeline.limits.max_open_prs = Some(most);
        world.run_pipeline(&pipeline)
    };
    let ran = run(Effects::Live, 2, true);
    assert_eq!((ran.outcome(), ran.paths("model"), ran.paths("sandbox")), ("capped", vec![], vec![]));
    assert_eq!(ran.reason("fix"), "2 of at most 2 drafts of this pipeline are open, so none can be added");
    assert_eq!(ran.delivered().len(), 1, "and it is told");
    assert_ne!(run(Effects::Live, 2, false).outcome(), "capped", "nothing was found, so nothing is held back");
    assert_eq!(run(Effects::Live, 1, true).outcome(), "acted");
    assert_eq!(run(Effects::Preview, 2, true).outcome(), "acted", "preview opens nothing for anybody");
}
