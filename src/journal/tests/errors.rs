//! Groups of errors: exact counts, a bounded few events, retention.

use std::time::Duration;

use super::*;
use crate::domain::error_group::{ErrorDrops, ErrorTold, KeptEvent, SeenErrors};
use crate::ports::source::ErrorShelf as _;

fn seen(bench: &Bench, key: &str, ids: std::ops::Range<u32>, users: &[u64]) -> SeenErrors {
    let now = bench.env().now();
    let event = |n| KeptEvent {
        event_id: format!("{n:032}"),
        raw: serde_json::value::to_raw_value(&json!({"n": n, "message": format!("{key} {}", "x".repeat(600))}))
            .unwrap(),
    };
    SeenErrors {
        project: "api".into(),
        key: key.into(),
        title: format!("{key} {}", ids.end),
        culprit: "f in a.py".into(),
        level: "error".into(),
        platform: "python".into(),
        count: u64::from(ids.end - ids.start),
        users: users.iter().copied().collect(),
        first: now,
        last: now,
        releases: vec![format!("1.{}", ids.end)],
        environments: vec!["production".into()],
        levels: vec!["error".into()],
        events: ids.map(event).collect(),
    }
}

async fn take(journal: &Journal, seen: SeenErrors, bounds: ErrorBounds) -> crate::domain::error_group::ErrorStanding {
    journal.errors_seen(journal.prepare_errors(vec![seen]), bounds).await.unwrap().remove(0)
}

fn numbers(journal: &Journal, key: &str) -> Vec<u64> {
    let events = journal.reader().error_events("api", key).unwrap();
    events.iter().map(|event| event["n"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn a_group_counts_everything_and_keeps_the_first_and_the_newest() {
    let bench = Bench::new();
    let journal = bench.open();
    let bounds = ErrorBounds { events: 4, users_of_group: 3, ..ErrorBounds::default() };
    let begun = bench.env().now();
    let first = take(&journal, seen(&bench, "a", 0..1, &[1]), bounds).await;
    assert_eq!((first.count, first.users, first.seen_before, first.told), (1, 1, None, None));
    bench.clock.advance(Duration::from_secs(60));
    let more = take(&journal, seen(&bench, "a", 1..9, &[1, 2, 3, 4, 5]), bounds).await;
    assert_eq!((more.count, more.users, more.seen_before), (9, 3, Some(begun)), "users up to the bound");
    assert_eq!(numbers(&journal, "a"), [0, 6, 7, 8]);
    // Sent again after an answer that was lost: counted once, as long as it is kept.
    let again = take(&journal, seen(&bench, "a", 7..10, &[]), bounds).await;
    assert_eq!((again.count, numbers(&journal, "a")), (10, vec![0, 7, 8, 9]));

    let group = journal.reader().group("api", "a").unwrap().unwrap();
    assert_eq!((group.id.as_str(), group.title.as_str(), group.count, group.users), ("E-A", "a 10", 10, 3));
    assert_eq!((group.first_seen, group.last_seen), (begun, bench.env().now()));
    assert_eq!((group.releases.join(" "), &group.event["n"]), ("1.1 1.9 1.10".to_owned(), &json!(9)));
    assert_eq!(journal.reader().group("web", "a").unwrap(), None);
    assert_eq!(journal.reader().groups("api", begun, 10).unwrap(), [group]);
    let drops = journal.reader().error_drops(begun - jiff::SignedDuration::from_hours(1)).unwrap();
    assert_eq!(drops, [ErrorDrops { project: "api".into(), reason: "users".into(), count: 2 }]);
    let line = journal.reader().error_groups(None, 5).unwrap().remove(0);
    assert_eq!((line.kept, line.environments.join(" ")), (4, "production".to_owned()));
}

#[tokio::test]
async fn a_project_stays_within_its_bounds_and_says_what_was_given_up() {
    let bench = Bench::new();
    let journal = bench.open();
    let bounds = ErrorBounds { groups: 3, bytes: 300, users: 4, ..ErrorBounds::default() };
    for (n, key) in ["a", "b", "c", "a", "d"].into_iter().enumerate() {
        bench.clock.advance(Duration::from_secs(1));
        let n = n as u32;
        take(&journal, seen(&bench, key, n * 10..n * 10 + 2, &[u64::from(n), 100 + u64::from(n)]), bounds).await;
    }
    let lines = journal.reader().error_groups(Some("api"), 10).unwrap();
    let keys: Vec<&str> = lines.iter().map(|line| line.key.as_str()).collect();
    assert_eq!(keys, ["d", "a", "c"], "the one seen last the longest ago is gone");
    let sqlite = bench.sqlite();
    let number = |sql: &str| sqlite.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert!(number("SELECT coalesce(sum(length(body)), 0) FROM error_events") <= 300);
    assert!(number("SELECT count(*) FROM error_users") <= 4);
    assert_eq!(number("SELECT count(*) FROM error_events WHERE grp NOT IN (SELECT no FROM error_groups)"), 0);
    assert_eq!(number("SELECT count(*) FROM error_users WHERE grp NOT IN (SELECT no FROM error_groups)"), 0);
    let exact = "SELECT count(*) FROM error_projects WHERE groups = (SELECT count(*) FROM error_groups)
         AND users = (SELECT count(*) FROM error_users)
         AND bytes = (SELECT coalesce(sum(length(body)), 0) FROM error_events)";
    assert_eq!(number(exact), 1, "what is counted on the way is what there is");
    let reasons: Vec<String> = journal
        .reader()
        .error_drops(Timestamp::UNIX_EPOCH)
        .unwrap()
        .into_iter()
        .map(|drop| format!("{} {}", drop.reason, drop.count))
        .collect();
    assert!(reasons.contains(&"groups 1".to_owned()) && reasons.iter().any(|r| r.starts_with("bytes ")), "{reasons:?}");
    // A group without events is still there, with its counts.
    let empty = lines.iter().find(|line| line.kept == 0).unwrap();
    assert_eq!(journal.reader().group("api", &empty.key).unwrap().unwrap().event, serde_json::Value::Null);
}

#[tokio::test]
async fn old_events_go_before_their_group_and_nothing_of_it_is_left() {
    let bench = Bench::new();
    let journal = bench.open();
    take(&journal, seen(&bench, "old", 0..300, &[1, 2]), ErrorBounds { events: 300, ..ErrorBounds::default() }).await;
    bench.clock.advance(Duration::from_secs(31 * 86_400));
    take(&journal, seen(&bench, "new", 300..301, &[3]), ErrorBounds::default()).await;
    journal.tidy_errors(ErrorRetention::default()).await.unwrap();
    assert_eq!((numbers(&journal, "old"), numbers(&journal, "new")), (vec![], vec![300]));
    assert_eq!(journal.reader().group("api", "old").unwrap().unwrap().count, 300);
    bench.clock.advance(Duration::from_secs(60 * 86_400));
    journal.tidy_errors(ErrorRetention::default()).await.unwrap();
    assert_eq!(journal.reader().group("api", "old").unwrap(), None);
    let sqlite = bench.sqlite();
    let number = |sql: &str| sqlite.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!((number("SELECT count(*) FROM error_users"), number("SELECT users FROM error_projects")), (1, 1));
}

#[tokio::test]
async fn a_group_is_to_be_told_until_it_was_and_again_when_it_went_on() {
    let bench = Bench::new();
    let journal = bench.open();
    let quiet = Duration::from_secs(600);
    let now = || bench.env().now();
    let to_tell = || -> Vec<u64> {
        let found = journal.reader().errors_to_tell("api", now(), quiet, 10).unwrap();
        found.iter().map(|group| group.count).collect()
    };
    take(&journal, seen(&bench, "a", 0..1, &[]), ErrorBounds::default()).await;
    assert_eq!(to_tell(), [1]);
    let told = ErrorTold { count: 1, users: 0, at: now() };
    journal.errors_told(vec![("api".into(), "a".into(), told)]).await.unwrap();
    assert!(to_tell().is_empty());
    bench.clock.advance(quiet);
    assert!(to_tell().is_empty(), "nothing has happened since");
    let standing = take(&journal, seen(&bench, "a", 1..3, &[]), ErrorBounds::default()).await;
    assert_eq!((standing.told, to_tell()), (Some(told), vec![3]));
    let run = begin_plain(&journal, "01A").await;
    assert!(journal.reader().errors_fixed(&["a".into()]).unwrap().is_empty());
    let handled = crate::domain::finding::Handled {
        seen: crate::domain::finding::Seen {
            fingerprint: "a".into(),
            title: "a".into(),
            weight: 1.0,
            place: "x".into(),
            last_at: None,
        },
        end: "pull_request".into(),
        place: None,
    };
    journal.findings_handled(&run, "sentry", vec![handled]).await.unwrap();
    journal.findings_gone(&run, "sentry", vec!["a".into()]).await.unwrap();
    assert_eq!(journal.reader().errors_fixed(&["a".into(), "b".into()]).unwrap(), ["a"]);
}

#[tokio::test]
async fn secrets_do_not_reach_the_tables() {
    let bench = Bench::new();
    let hide = Arc::new(|text: &str| text.contains("CANARY").then(|| text.replace("CANARY", "[gone]")));
    let journal = Journal::open(bench.dir.path(), OpenOptions::new(bench.env(), "b").redactor(hide)).unwrap();
    let mut group = seen(&bench, "a", 0..1, &[]);
    group.title = "CANARY".into();
    group.culprit = "CANARY".into();
    group.releases = vec!["CANARY".into()];
    group.events[0].raw = serde_json::value::to_raw_value(&json!({"message": "a CANARY"})).unwrap();
    take(&journal, group, ErrorBounds::default()).await;
    let line = serde_json::to_string(&journal.reader().error_groups(None, 5).unwrap()).unwrap();
    assert!(line.contains("[gone]") && !line.contains("CANARY"), "{line}");
    assert_eq!(journal.reader().error_events("api", "a").unwrap(), [json!({"message": "a [gone]"})]);
}
