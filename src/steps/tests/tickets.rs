//! What a ticket is about: findings that the run has seen, whatever a model says.

use serde_json::{Value, json};

use super::super::testing::{Ran, World, code, says};
use crate::domain::activity::{Activity, Receipt};
use crate::domain::proposal::{Proposal, Proposed, PublishState, Published, TicketText};
use crate::domain::run::Effects;
use crate::ports::durable::Stop;

const STEPS: &str = "  - id: real
    fetch: {from: signups}
  - id: ranked
    boss: {ask: Merge., given: [real]}
    output: {groups: [{title: string(90), harm: string(300), severity: low | high, members: [string]}]}
  - id: tickets
    each: {as: group, in: ranked.groups}
    ticket: {from: group, key: group.members, tracker: acme/tickets}
";

/// A repository with one file, and every ticket is opened.
fn opening() -> impl FnMut(&Activity) -> Result<Value, Stop> {
    let mut code = code::Repo::new(vec![code::files(&[("a.rs", "fn a() {}\n")])]).work();
    move |activity| {
        let proposal = match activity {
            Activity::Publish(proposal) => proposal,
            Activity::Tend { .. } => return Ok(json!({"open": 0})),
            other => return code(other),
        };
        let key = proposal.key.clone();
        let (kind, destination) = ("ticket".to_owned(), "files".to_owned());
        let receipt = Receipt { kind, destination, url_or_path: format!("out/{key}.md"), key, found: false };
        Ok(json!(Published { state: PublishState::Opened, receipt, note: String::new() }))
    }
}

fn run(members: &[&str], steps: &str) -> Ran {
    let group = json!({"title": "T", "harm": "H", "severity": "high", "members": members});
    World::new()
        .rows(json!([{"key": "f-1", "rule": "r", "file": "a.rs"}, {"key": "f-2", "rule": "r", "file": "b.rs"}]))
        .answer("ranked/turn-1", [says(json!({"groups": [group]}))])
        .work(opening())
        .run(steps)
}

fn published(ran: &Ran) -> Vec<(Proposal, TicketText)> {
    let asked = ran.world.asked.borrow();
    let all = asked.iter().filter_map(|(_, activity)| match activity {
        Activity::Publish(proposal) => match &proposal.what {
            Proposed::Ticket(ticket) => Some(((**proposal).clone(), (**ticket).clone())),
            _ => None,
        },
        _ => None,
    });
    all.collect()
}

#[test]
fn a_model_merges_findings_and_invents_none() {
    let ran = run(&["f-2", "f-1"], STEPS);
    let (proposal, ticket) = published(&ran).remove(0);
    assert_eq!((proposal.fingerprints, ticket.findings.len()), (vec!["f-1".to_owned(), "f-2".into()], 2));
    assert_eq!(ticket.tracker.as_deref(), Some("acme/tickets"));
    assert_eq!(ran.notes("refused"), [] as [Value; 0]);

    let ran = run(&["f-1", "f-9"], STEPS);
    let (proposal, ticket) = published(&ran).remove(0);
    assert_eq!((proposal.fingerprints, ticket.findings.len()), (vec!["f-1".to_owned()], 1));
    assert_eq!(ran.notes("refused"), [json!({"text": "a ticket about `f-9`, which this run has not seen"})]);

    let ran = run(&["f-8", "f-9"], STEPS);
    assert_eq!((published(&ran).len(), ran.outcome()), (0, "failed"));
    assert!(ran.reason("tickets").contains("nothing that this run has seen"), "{}", ran.reason("tickets"));
}

#[test]
fn a_key_of_the_yaml_s_own_words_is_the_step_s() {
    let steps = STEPS.replace("key: group.members", "key: '\"nightly\"'");
    let (proposal, ticket) = published(&run(&["f-1"], &steps)).remove(0);
    assert_eq!((proposal.fingerprints, ticket.findings.len()), (vec!["nightly".to_owned()], 1));
}

#[test]
fn a_live_run_first_learns_what_people_did_with_what_is_there() {
    let tends = |effects, steps: &str| {
        let mut world = World::new().rows(json!([])).work(opening());
        world.run.effects = effects;
        world.run(steps).paths("tend")
    };
    assert_eq!(tends(Effects::Live, STEPS), ["tend-tickets"]);
    assert_eq!(tends(Effects::Preview, STEPS), [""; 0]);
    assert_eq!(tends(Effects::Live, "  - id: real\n    fetch: {from: signups}\n"), [""; 0]);
}
