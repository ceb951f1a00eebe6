//! Notes on issues over the stand-in: each once, whatever goes wrong, and nothing against what a person did.

use nightcrew::domain::proposal::{ErrorNote, Proposal, Proposed, PublishState, Published};
use nightcrew::domain::run::Effects;
use nightcrew::ports::publisher::{PublishError, PublisherSetup};
use nightcrew::ports::service::Shared;
use nightcrew::ports::sink::Earlier;
use serde_json::{Value, json};

use super::crew::Crew;
use crate::fakes::service::Fault;

/// Publishes as a process that knows nothing of earlier ones.
async fn publish(crew: &Crew, note: ErrorNote) -> Result<Published, PublishError> {
    let kind = nightcrew::publishers::ALL.iter().find(|kind| kind.name == "sentry").unwrap();
    let mut outside = crew.outside.clone();
    outside.shared = Shared::default();
    let setup = PublisherSetup { out: crew.folder.path().into(), branches: None, outside, repository: None };
    let proposal = Proposal {
        sink: "errors".into(),
        key: "note-3f9c1a2b4c5d".into(),
        fingerprints: Vec::new(),
        same: Vec::new(),
        at: "2026-11-20T08:00:00Z".parse().unwrap(),
        effects: Effects::Live,
        pipeline: "fix".into(),
        definition: "d".into(),
        run: "01A".into(),
        what: Proposed::ErrorNote(Box::new(note)),
    };
    kind.make.unwrap()(&setup).publish(&proposal, Earlier::Unknown).await
}

/// The short id of a new issue, and the note about it.
fn issue(crew: &Crew) -> (String, ErrorNote) {
    let id = crew.sentry.error("api", "ValueError", "x", &[("src/a.py", "f", 7)]);
    let note = ErrorNote {
        issue: crew.sentry.issue(&id)["id"].as_str().unwrap().into(),
        text: "A draft pull request with a proved fix is open.".into(),
        links: vec![("Pull request".into(), "https://github.com/acme/api/pull/7".into())],
        assign: Some("team:3".into()),
        resolve: false,
    };
    (id, note)
}

fn state(published: &Result<Published, PublishError>) -> Option<PublishState> {
    published.as_ref().ok().map(|published| published.state)
}

#[tokio::test]
async fn a_note_is_made_once_also_when_its_answer_was_lost() {
    for (fault, times, states, notes) in [
        (None, 0, [Some(PublishState::Opened), Some(PublishState::Unchanged)], 1),
        (Some(Fault::Lost), 1, [Some(PublishState::Opened), Some(PublishState::Unchanged)], 1),
        (Some(Fault::Failed(502)), 1, [Some(PublishState::Opened), Some(PublishState::Unchanged)], 1),
        (Some(Fault::Cut), 1, [Some(PublishState::Opened), Some(PublishState::Unchanged)], 1),
        (Some(Fault::status(503)), 2, [None, Some(PublishState::Opened)], 1),
        (Some(Fault::status(403)), 1, [None, Some(PublishState::Opened)], 1),
    ] {
        let crew = Crew::new(Vec::new());
        let (id, note) = issue(&crew);
        if let Some(fault) = &fault {
            crew.sentry.fault_times("POST", "/api/0/organizations/acme/issues/*/comments", fault.clone(), times);
        }
        let first = publish(&crew, note.clone()).await;
        let again = publish(&crew, note).await;
        assert_eq!([state(&first), state(&again)], states, "{fault:?}: {first:?} {again:?}");
        assert_eq!(crew.sentry.notes(&id).len(), notes, "{fault:?}");
        assert_eq!(crew.sentry.issue(&id)["assignedTo"]["id"], "team:3", "{fault:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_looked_for_is_unknown_and_not_sent_again() {
    let crew = Crew::new(Vec::new());
    let (id, note) = issue(&crew);
    let comments = "/api/0/organizations/acme/issues/*/comments";
    crew.sentry.fault("POST", comments, Fault::Lost);
    crew.sentry.fault_after("GET", comments, Fault::status(500), 1, 50);
    let unknown = publish(&crew, note.clone()).await;
    assert!(matches!(unknown, Err(PublishError::Unknown { .. })), "{unknown:?}");
    crew.sentry.heal();
    assert_eq!(state(&publish(&crew, note).await), Some(PublishState::Updated), "found; what was left is assigned");
    assert_eq!((crew.sentry.notes(&id).len(), crew.sentry.requests("POST", comments).len()), (1, 1));
}

#[tokio::test]
async fn an_issue_is_resolved_with_the_next_release_or_now_unless_a_person_was_there() {
    let crew = Crew::new(Vec::new());
    let resolve = |note: &ErrorNote| ErrorNote { resolve: true, assign: None, ..note.clone() };
    let (id, note) = issue(&crew);
    assert_eq!(state(&publish(&crew, resolve(&note)).await), Some(PublishState::Opened));
    let shown = crew.sentry.issue(&id);
    assert_eq!((&shown["status"], &shown["statusDetails"]), (&json!("resolved"), &json!({"inNextRelease": true})));
    // A project without releases.
    let (id, note) = issue(&crew);
    crew.sentry.fault("PUT", "/api/0/organizations/acme/issues/*", Fault::status(400));
    assert_eq!(state(&publish(&crew, resolve(&note)).await), Some(PublishState::Opened));
    assert_eq!(crew.sentry.issue(&id)["status"], "resolved");
    // The answer is lost: it is looked at, and not said again.
    let (id, note) = issue(&crew);
    let before = crew.sentry.effects("issue.update").len();
    crew.sentry.fault("PUT", "/api/0/organizations/acme/issues/*", Fault::Lost);
    assert_eq!(state(&publish(&crew, resolve(&note)).await), Some(PublishState::Opened));
    assert_eq!(
        (crew.sentry.issue(&id)["status"].clone(), crew.sentry.effects("issue.update").len() - before),
        (json!("resolved"), 1)
    );
    // A person archived it, and took it.
    let (id, note) = issue(&crew);
    crew.sentry.change(&id, |issue, _| {
        issue.status = "ignored".into();
        issue.assigned_to = json!({"type": "user", "id": "9", "name": "Ada"});
    });
    let both = ErrorNote { resolve: true, ..note };
    assert_eq!(state(&publish(&crew, both).await), Some(PublishState::Opened));
    let shown: Value = crew.sentry.issue(&id);
    assert_eq!((&shown["status"], &shown["assignedTo"]["name"]), (&json!("ignored"), &json!("Ada")));
    // It is gone.
    let gone = publish(&crew, ErrorNote { issue: "1".into(), ..ErrorNote::default() }).await;
    assert!(matches!(gone, Err(PublishError::Refused { .. })), "{gone:?}");
}
