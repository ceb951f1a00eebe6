//! `on.sentry.tell`: which notes a run asks for, and that none of them can fail it.

use serde_json::{Value, json};

use super::super::testing::{Ran, World, pipeline};
use crate::domain::activity::{Activity, Receipt};
use crate::domain::definition::TellDef;
use crate::domain::proposal::{ErrorNote, Proposed, PublishState, Published};
use crate::domain::run::{Effects, Failure};
use crate::ports::durable::Stop;

const STEPS: &str = "  - id: errors
    fetch: {from: sentry}
  - id: tickets
    each: error in errors
    ticket: {from: error}
";

const MERGED: &str = "https://github.com/acme/api/pull/3";

fn tell() -> TellDef {
    TellDef { comment: true, assign: Some("team:7".into()), resolve: true }
}

/// Every ticket is opened at `place`; notes end as `note` says.
fn run(tell: Option<TellDef>, effects: Effects, place: &'static str, note: fn() -> Result<(), Stop>) -> Ran {
    let work = move |activity: &Activity| {
        let proposal = match activity {
            Activity::Publish(proposal) => proposal,
            Activity::Tend { .. } => {
                let ended =
                    |prints: &[&str], how: &str| json!({"key": "k", "url": MERGED, "fingerprints": prints, "how": how});
                let all = [ended(&["sentry-12", "0123456789abcdef"], "merged"), ended(&["sentry-13"], "closed")];
                return Ok(json!({"open": 0, "ended": all}));
            }
            other => panic!("{other:?}"),
        };
        if let Proposed::ErrorNote(_) = &proposal.what {
            note()?;
        }
        let receipt = Receipt {
            kind: "ticket".into(),
            destination: "x".into(),
            url_or_path: place.into(),
            key: proposal.key.clone(),
            found: false,
        };
        Ok(json!(Published { state: PublishState::Opened, receipt, note: String::new() }))
    };
    let rows = json!([{"key": "sentry-45", "id": "API-1", "title": "a", "users": 3}, {"key": "0123456789abcdef", "id": "E-1", "title": "b", "users": 3}]);
    let mut world = World::new().rows(rows).work(work);
    world.run.effects = effects;
    let mut pipeline = pipeline(STEPS);
    pipeline.on.sentry.as_mut().unwrap().tell = tell;
    world.run_pipeline(&pipeline)
}

fn notes(ran: &Ran) -> Vec<ErrorNote> {
    let asked = ran.world.asked.borrow();
    let all = asked.iter().filter_map(|(_, activity)| match activity {
        Activity::Publish(proposal) => match &proposal.what {
            Proposed::ErrorNote(note) => Some((**note).clone()),
            _ => None,
        },
        _ => None,
    });
    all.collect()
}

const ISSUE: &str = "https://github.com/acme/api/issues/9";

#[test]
fn sentry_hears_of_its_own_issues_only_in_live_and_only_what_is_asked_for() {
    let ran = run(Some(tell()), Effects::Live, ISSUE, || Ok(()));
    assert_eq!(ran.outcome(), "acted");
    assert_eq!(
        notes(&ran),
        [
            ErrorNote {
                issue: "12".into(),
                text: "The fix is merged: resolved with the next release.".into(),
                links: vec![("Pull request".into(), MERGED.into())],
                assign: None,
                resolve: true,
            },
            ErrorNote {
                issue: "45".into(),
                text: "A ticket is open for this.".into(),
                links: vec![("Ticket".into(), ISSUE.into())],
                assign: Some("team:7".into()),
                resolve: false,
            },
        ]
    );
    let quiet = TellDef { comment: false, resolve: false, ..tell() };
    let ran = run(Some(quiet), Effects::Live, ISSUE, || Ok(()));
    assert_eq!(notes(&ran).iter().map(|note| (note.text.as_str(), note.links.len())).collect::<Vec<_>>(), [("", 0)]);
    for (tell, effects, place) in [
        (None, Effects::Live, ISSUE),
        (Some(tell()), Effects::Preview, ISSUE),
        (Some(TellDef { resolve: false, ..tell() }), Effects::Live, "out/tickets/a.md"),
    ] {
        assert_eq!(notes(&run(tell, effects, place, || Ok(()))), []);
    }
}

#[test]
fn a_note_that_cannot_be_made_is_told_and_fails_nothing() {
    for stop in [
        || Err(Stop::Failed(Failure::new("E-PUBLISH", "Sentry does not answer"))),
        || Err(Stop::Blocked(Failure::new("E-CREDENTIAL", "Sentry refuses the secret"))),
    ] {
        let ran = run(Some(tell()), Effects::Live, ISSUE, stop);
        assert_eq!(ran.outcome(), "acted");
        let told: Vec<Value> = ran.notes("not_told");
        assert_eq!(
            told.iter().map(|note| note["issue"].clone()).collect::<Vec<_>>(),
            [json!("sentry-12"), json!("sentry-45")]
        );
        assert!(told[1]["reason"].as_str().unwrap().contains("Sentry"));
    }
}
