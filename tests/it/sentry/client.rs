//! Sentry's API over the stand-in: pages, faults, rights, and the source's rows.

use std::sync::Arc;
use std::time::Duration;

use nightcrew::clients::sentry::{IssueQuery, SentryError};
use nightcrew::ports::source::{Source, SourceError, SourceQuery, SourceSetup};
use serde_json::{Map, Value, json};

use super::crew::Crew;
use crate::fakes::sentry::TOKEN;
use crate::fakes::service::Fault;

const LIST: &str = "/api/0/organizations/acme/issues";
const ASK: IssueQuery<'static> =
    IssueQuery { query: "is:unresolved", project: "api", environments: &[], period: "14d" };
const S: fn(u64) -> Duration = Duration::from_secs;

fn crew() -> Crew {
    Crew::new(Vec::new())
}

fn many(crew: &Crew, n: usize) {
    for i in 0..n {
        crew.sentry.error("api", "ValueError", &format!("number {i}"), &[("src/a.py", "f", 7)]);
        crew.clock.pass(S(1));
    }
}

#[tokio::test]
async fn pages_are_read_until_the_link_has_no_results_and_no_further_than_asked() {
    let crew = crew();
    many(&crew, 230);
    let client = crew.client();
    let (all, more) = client.issues(ASK, 1_000).await.unwrap();
    assert_eq!((all.len(), more), (230, false));
    assert_eq!(all[0]["metadata"]["value"], "number 229", "the one seen last is the first");
    assert_eq!(
        crew.sentry.requests("GET", LIST).len(),
        3,
        "the next page is always named; only results=\"true\" counts"
    );
    let (some, more) = client.issues(ASK, 120).await.unwrap();
    assert_eq!((some.len(), more, crew.sentry.requests("GET", LIST).len()), (120, true, 5));
    let web = IssueQuery { project: "web", ..ASK };
    assert!(matches!(client.issues(web, 10).await, Err(SentryError::Forbidden { scope: "event:read", .. })));
}

#[tokio::test]
async fn a_read_is_repeated_with_growing_pauses_and_as_late_as_it_is_asked_to() {
    let crew = crew();
    many(&crew, 1);
    let client = crew.client();
    for (fault, times, slept) in [
        (Fault::status(503), 3, vec![S(1), S(2), S(4)]),
        (Fault::Cut, 2, vec![S(1), S(2)]),
        (Fault::Torn(20), 1, vec![S(1)]),
        (Fault::Failed(500), 1, vec![S(1)]),
        // The limit holds for whatever is sent next, by whomever; the pause is over when it is.
        (Fault::status(429).header("retry-after", "7"), 1, vec![S(7)]),
        (Fault::status(429), 2, vec![S(1), S(2)]),
    ] {
        let before = crew.sentry.requests("GET", LIST).len();
        crew.sentry.fault_times("GET", LIST, fault.clone(), times);
        assert_eq!(client.issues(ASK, 10).await.unwrap().0.len(), 1, "{fault:?}");
        assert_eq!(crew.clock.slept(), slept, "{fault:?}");
        assert_eq!(crew.sentry.requests("GET", LIST).len() - before, times + 1, "{fault:?}");
    }
    // What is asked for is longer than a read may take.
    crew.sentry.fault("GET", LIST, Fault::status(429).header("retry-after", "600"));
    let asked = crew.sentry.requests("GET", LIST).len();
    for _ in 0..2 {
        let limited = client.issues(ASK, 10).await;
        assert!(
            matches!(limited, Err(SentryError::Unavailable { after: Some(after), .. }) if after == S(600)),
            "{limited:?}"
        );
    }
    assert_eq!(crew.sentry.requests("GET", LIST).len(), asked + 1, "while it holds nothing is sent");
    crew.clock.pass(S(601));
    assert_eq!(client.issues(ASK, 10).await.unwrap().0.len(), 1);
    // It never comes back: so many tries, and no more.
    crew.clock.slept();
    crew.sentry.fault_times("GET", LIST, Fault::status(502), 100);
    assert!(matches!(client.issues(ASK, 10).await, Err(SentryError::Unavailable { .. })));
    assert!(crew.clock.slept().iter().sum::<Duration>() <= S(90));
}

#[tokio::test]
async fn a_write_is_sent_once_and_its_unknown_end_is_told_as_such() {
    let crew = crew();
    many(&crew, 1);
    let client = crew.client();
    let id = crew.sentry.with(|watch, _| watch.issues[0].id.clone());
    let comments = format!("{LIST}/{id}/comments");
    for (fault, done, ambiguous) in [
        (Fault::Lost, true, true),
        (Fault::Failed(502), true, true),
        (Fault::Torn(3), true, true),
        (Fault::Cut, false, true),
        (Fault::status(503), false, true),
        (Fault::status(429).header("retry-after", "3"), false, false),
    ] {
        let (sent, notes) = (crew.sentry.requests("POST", &comments).len(), crew.sentry.effects("note.create").len());
        crew.sentry.fault("POST", &comments, fault.clone());
        let error = client.comment(&id, "found").await.unwrap_err();
        assert_eq!(matches!(error, SentryError::Ambiguous { .. }), ambiguous, "{fault:?}: {error}");
        assert_eq!(crew.sentry.requests("POST", &comments).len() - sent, 1, "{fault:?}");
        assert_eq!(crew.sentry.effects("note.create").len() - notes, usize::from(done), "{fault:?}");
    }
    assert_eq!(client.comments(&id).await.unwrap().len(), 3);
    client.update(&id, &json!({"status": "resolved", "statusDetails": {"inNextRelease": true}})).await.unwrap();
    assert_eq!(crew.sentry.effects("issue.update").len(), 1);
    assert!(matches!(client.update("1/../2", &json!({})).await, Err(SentryError::NotFound { .. })));
}

#[tokio::test]
async fn a_refused_secret_is_named_a_missing_scope_too_and_a_new_token_is_read_at_once() {
    let crew = crew();
    many(&crew, 1);
    let client = crew.client();
    crew.sentry.revoke(TOKEN);
    let refused = client.issues(ASK, 10).await;
    assert!(matches!(&refused, Err(SentryError::Credential { secret, .. }) if secret == "SENTRY"), "{refused:?}");
    assert_eq!(crew.sentry.requests("GET", LIST).len(), 1, "a refusal is not asked again");
    crew.sentry.accept("sntryu_reader", &["event:read"]);
    std::fs::write(crew.folder.path().join("token"), "sntryu_reader\n").unwrap();
    let rights = client.rights("api").await;
    let found: Vec<_> = rights.iter().map(|(scope, found)| (*scope, found.is_ok())).collect();
    assert_eq!(found, [("event:read", true), ("event:write", false)]);
    assert!(matches!(&rights[1].1, Err(SentryError::Forbidden { scope: "event:write", .. })));
    std::fs::remove_file(crew.folder.path().join("token")).unwrap();
    assert!(matches!(client.issues(ASK, 10).await, Err(SentryError::Missing { .. })));
}

fn source(crew: &Crew) -> Arc<dyn Source> {
    let mut setup = SourceSetup::new("sentry", crew.folder.path(), crew.outside.clone());
    setup.project = Some("api".into());
    nightcrew::sources::ALL.iter().find(|kind| kind.name == "sentry").unwrap().make.unwrap()(&setup).unwrap()
}

async fn fetch(
    source: &Arc<dyn Source>,
    args: Value,
    max_rows: u32,
) -> Result<nightcrew::domain::activity::Rows, SourceError> {
    let none = Map::new();
    let args = args.as_object().unwrap_or(&none).clone();
    source.fetch(SourceQuery { query: None, filter: Some("is:unresolved"), args: &args, max_rows }).await
}

#[tokio::test]
async fn the_source_gives_issues_with_their_latest_event_in_both_shapes() {
    let crew = crew();
    let id = crew.sentry.error(
        "api",
        "ValueError",
        "no unit in '5'",
        &[("src/cli.py", "main", 3), ("src/duration.py", "parse", 41)],
    );
    crew.sentry.seen(&id, 11, 4);
    crew.sentry.project("web", 43);
    crew.sentry.error("web", "TypeError", "x is undefined", &[("app.js", "f", 1)]);
    let source = source(&crew);
    let rows = fetch(&source, json!({}), 100).await.unwrap();
    assert_eq!((rows.rows.len(), rows.truncated, rows.via.as_str()), (1, false, "sentry"));
    let row = &rows.rows[0];
    assert_eq!(
        (&row["id"], &row["count"], &row["users"], &row["type"], &row["release"], &row["environment"]),
        (&json!(id), &json!(12), &json!(5), &json!("ValueError"), &json!("api@1.0.0"), &json!("production"))
    );
    assert_eq!((&row["stacktrace"][1]["file"], &row["stacktrace"][1]["line"]), (&json!("src/duration.py"), &json!(41)));
    assert!(
        row["url"]
            .as_str()
            .unwrap()
            .ends_with(&format!("/issues/{}/", row["key"].as_str().unwrap().trim_start_matches("sentry-")))
    );
    // By hand: short id in any case, and the number.
    let number = row["key"].as_str().unwrap().trim_start_matches("sentry-").to_owned();
    for name in [id.to_lowercase(), number] {
        assert_eq!(fetch(&source, json!({"issue": name}), 100).await.unwrap().rows, rows.rows, "{name}");
    }
    for other in ["API-999", "WEB-4F3", "../../projects", "99999"] {
        assert!(
            matches!(fetch(&source, json!({"issue": other}), 100).await, Err(SourceError::Refused { .. })),
            "{other}"
        );
    }
    assert!(matches!(fetch(&source, json!({"period": "forever"}), 9).await, Err(SourceError::Refused { .. })));
    assert_eq!(fetch(&source, json!({"environment": ["staging"]}), 9).await.unwrap().rows.len(), 0);
}

#[tokio::test]
async fn events_are_read_only_for_what_is_given_and_one_that_fails_costs_only_itself() {
    let crew = crew();
    many(&crew, 30);
    let source = source(&crew);
    crew.sentry.fault_times("GET", "/api/0/organizations/acme/issues/*/events/latest", Fault::status(500), 7);
    let rows = fetch(&source, json!({}), 12).await.unwrap();
    assert_eq!((rows.rows.len(), rows.truncated), (12, true));
    let whole = rows.rows.iter().filter(|row| row["stacktrace"][0]["file"] == "src/a.py").count();
    assert!((11..=12).contains(&whole), "{whole}");
    assert!(crew.sentry.requests("GET", "/api/0/organizations/acme/issues/*/events/latest").len() <= 12 + 7);
}
