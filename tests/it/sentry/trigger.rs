//! Errors become runs: by polling, by webhooks and by the intake; once each, also through restarts and floods.

use std::collections::BTreeSet;
use std::time::Duration;

use nightcrew::base::clock::Clock as _;
use nightcrew::base::secret::Secret;
use nightcrew::domain::finding::Standing;
use nightcrew::journal::{MOST_WAITING, Rate};
use nightcrew::triggers::sentry::{Origin, Seen, Watch};
use serde_json::{Value, json};

use super::crew::{Crew, HOUR, MINUTE, delivery, watch};
use crate::fakes::service::Fault;

const NEW: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
const OLD: &str = "ffeeddccbbaa99887766554433221100";

fn error(crew: &Crew, value: &str) -> String {
    crew.sentry.error("api", "ValueError", value, &[("src/a.py", "parse", 41)])
}

fn secrets() -> Vec<Secret> {
    vec![Secret::new(NEW), Secret::new(OLD)]
}

/// An issue of the stand-in as a webhook tells of it.
fn hook_body(crew: &Crew, id: &str, action: &str) -> Value {
    let mut issue = crew.sentry.issue(id);
    let number = issue["id"].as_str().unwrap().to_owned();
    issue["url"] = format!("https://sentry.io/api/0/organizations/acme/issues/{number}/").into();
    issue["project_url"] = "https://sentry.io/api/0/projects/acme/api/".into();
    json!({"action": action, "installation": {"uuid": "x"}, "data": {"issue": issue}, "actor": {"type": "application"}})
}

#[tokio::test]
async fn what_happened_since_the_last_poll_becomes_one_run_each_and_what_is_known_none() {
    let mut crew = Crew::new(vec![watch("fix", Duration::ZERO)]);
    let old = error(&crew, "before anybody listened");
    crew.clock.pass(HOUR);
    let first = error(&crew, "first");
    crew.poll().await;
    crew.turn().await;
    assert_eq!(crew.keys(), [first.as_str()], "what is older than the first poll is for a schedule");
    let item = crew.runs()[0].trigger.item.clone().unwrap();
    assert_eq!((&item["stacktrace"][0]["line"], &item["type"]), (&json!(41), &json!("ValueError")), "it is read whole");
    crew.finish(&crew.runs()[0], true).await;

    // The same again, no worse: nothing but a line about why.
    crew.clock.pass(2 * HOUR);
    crew.sentry.seen(&first, 3, 1);
    crew.poll().await;
    crew.turn().await;
    assert_eq!(crew.keys(), Vec::<String>::new());
    assert_eq!(crew.fates(), [("ongoing".into(), "it was handled before and is no worse".into())]);
    // Much worse.
    crew.clock.pass(2 * HOUR);
    crew.sentry.seen(&first, 900, 90);
    crew.poll().await;
    crew.turn().await;
    assert_eq!(crew.keys(), [first.as_str()]);
    crew.finish(&crew.runs()[0], true).await;
    // Resolved over there, and back.
    crew.clock.pass(2 * HOUR);
    crew.sentry.regress(&first);
    crew.poll().await;
    crew.turn().await;
    assert_eq!(crew.keys(), [first.as_str()]);
    crew.finish(&crew.runs()[0], true).await;
    // It is still called regressed, and is known.
    crew.clock.pass(2 * HOUR);
    crew.sentry.seen(&first, 1, 0);
    crew.sentry.seen(&old, 1, 0);
    crew.poll().await;
    crew.turn().await;
    assert_eq!(crew.keys(), [old.as_str()]);
}

#[tokio::test]
async fn a_gap_is_filled_after_downtime_and_a_poll_that_fails_goes_on_from_the_same_place() {
    let mut crew = Crew::new(vec![watch("fix", Duration::ZERO)]);
    crew.poll().await;
    crew = crew.restart(MINUTE).await;
    let mut expected = Vec::new();
    for i in 0..130 {
        expected.push(error(&crew, &format!("while it was down {i}")));
        crew.clock.pass(Duration::from_secs(25));
    }
    crew = crew.restart(MINUTE).await;
    // The second page fails for good: nothing is taken as read.
    let list = "/api/0/organizations/acme/issues";
    crew.sentry.fault_after("GET", list, Fault::status(500), 1, 20);
    crew.poll().await;
    crew.sentry.heal();
    let polled = crew.journal.reader().polled_to("api").unwrap().unwrap();
    assert!(polled < "2026-11-20T08:01:00Z".parse().unwrap(), "{polled}");
    crew.clock.pass(10 * MINUTE);
    crew.poll().await;
    crew.turn().await;
    expected.sort();
    assert_eq!(crew.keys(), expected);
    // After four days only the last three are looked at.
    let lost = error(&crew, "four days ago");
    crew.clock.pass(24 * HOUR);
    let found = error(&crew, "three days ago");
    crew = crew.restart(71 * HOUR).await;
    crew.poll().await;
    crew.turn().await;
    assert!(crew.keys().contains(&found) && !crew.keys().contains(&lost));
}

#[tokio::test]
async fn deliveries_count_once_whatever_their_order_and_what_is_not_genuine_not_at_all() {
    let crew = Crew::new(vec![watch("fix", Duration::ZERO), watch("report", Duration::ZERO)]);
    let ids: Vec<String> = (0..40).map(|i| error(&crew, &format!("error {i}"))).collect();
    let now = crew.clock.now();
    let mut requests = Vec::new();
    for (n, id) in ids.iter().enumerate() {
        let body = hook_body(&crew, id, "created");
        // Both secrets are accepted while one is rotated.
        let good = delivery(if n % 2 == 0 { NEW } else { OLD }, "issue", &format!("request-{n}"), &body, now);
        for _ in 0..5 {
            requests.push((good.clone(), true));
        }
        // A replay under another id and a fresh time: the same body.
        requests.push((delivery(NEW, "issue", &format!("replay-{n}"), &body, now), true));
        let mut forged = good.clone();
        forged.body =
            forged.body.iter().map(|byte| if *byte == b'1' { b'2' } else { *byte }).collect::<Vec<_>>().into();
        requests.push((forged, false));
        requests.push((delivery("a secret of nobody", "issue", &format!("other-{n}"), &body, now), false));
        let stale = nightcrew::base::clock::Timestamp::from_second(now.as_second() - 301).unwrap();
        requests.push((delivery(NEW, "issue", &format!("stale-{n}"), &body, stale), false));
        let mut bare = good.clone();
        bare.headers.retain(|(name, _)| name != "sentry-hook-signature");
        requests.push((bare, false));
    }
    // Shuffled, the same way in every run.
    let mut dice = 7_u64;
    for at in (1..requests.len()).rev() {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        requests.swap(at, (dice >> 33) as usize % (at + 1));
    }
    let (mut noted, mut known) = (0, 0);
    for chunk in requests.chunks(16) {
        let answers = chunk.iter().map(|(request, _)| crew.hook(secrets(), request.clone()));
        let answers = futures_util::future::join_all(answers).await;
        for (answer, (_, genuine)) in answers.iter().zip(chunk) {
            match (answer.status, genuine) {
                (202, true) => noted += 1,
                (200, true) => known += 1,
                (401, false) => {}
                other => panic!("{other:?}: {answer:?}"),
            }
        }
    }
    assert_eq!((noted, known), (40, 5 * 40));
    crew.turn().await;
    let runs = crew.runs();
    let distinct: BTreeSet<_> = runs.iter().map(|run| (run.pipeline.clone(), run.trigger.key.clone())).collect();
    assert_eq!((runs.len(), distinct.len()), (80, 80), "each once in each of the two pipelines");
    // Days later, and after the restart of another process, it is still the same delivery.
    let crew = crew.restart(96 * HOUR).await;
    let again = delivery(NEW, "issue", "request-0", &json!({"any": "body"}), crew.clock.now());
    assert_eq!(crew.hook(secrets(), again).await.status, 200);
}

#[tokio::test]
async fn the_project_and_the_organization_must_be_ours() {
    let crew = Crew::new(vec![watch("fix", Duration::ZERO)]);
    let id = error(&crew, "x");
    let send = async |body: &Value, resource: &str, request: &str| {
        let request = delivery(NEW, resource, request, body, crew.clock.now());
        crew.hook(secrets(), request).await
    };
    let mut other = hook_body(&crew, &id, "created");
    other["data"]["issue"]["project"] = json!({"id": "77", "slug": "web"});
    other["data"]["issue"]["project_url"] = "https://sentry.io/api/0/projects/acme/web/".into();
    assert_eq!(send(&other, "issue", "1").await.status, 200);
    let mut foreign = hook_body(&crew, &id, "created");
    foreign["data"]["issue"]["url"] = "https://sentry.io/api/0/organizations/evil/issues/1/".into();
    assert_eq!(send(&foreign, "issue", "2").await.status, 200);
    for (resource, body) in
        [("installation", json!({})), ("issue", json!({"action": "created"})), ("issue", json!([])), ("", json!(1))]
    {
        assert_eq!(send(&body, resource, "3").await.status, 200, "{resource}");
    }
    crew.turn().await;
    assert_eq!(crew.keys(), Vec::<String>::new());
    let mut request = delivery(NEW, "issue", "4", &json!({}), crew.clock.now());
    request = HookRequestOf(request).with_body(b"{", NEW);
    assert_eq!(crew.hook(secrets(), request).await.status, 400);
    assert_eq!(send(&hook_body(&crew, &id, "created"), "issue", "5").await.status, 202);
    crew.turn().await;
    assert_eq!(crew.keys(), [id]);
}

struct HookRequestOf(nightcrew::triggers::hook::HookRequest);

impl HookRequestOf {
    /// Signed anew.
    fn with_body(self, body: &'static [u8], secret: &str) -> nightcrew::triggers::hook::HookRequest {
        let mut request = self.0;
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
        let signature: String =
            ring::hmac::sign(&key, body).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        for (name, value) in &mut request.headers {
            if name == "sentry-hook-signature" {
                *value = signature.clone().into_bytes();
            }
        }
        request.body = bytes::Bytes::from_static(body);
        request
    }
}

#[tokio::test]
async fn an_alert_is_completed_by_the_api_and_without_it_what_it_says_must_do() {
    let mut crew = Crew::new(vec![watch("fix", Duration::ZERO)]);
    let id = error(&crew, "x");
    crew.sentry.seen(&id, 40, 9);
    let number = crew.sentry.issue(&id)["id"].clone();
    let mut body: Value = serde_json::from_str(include_str!("../data/sentry/hook_event_alert.json")).unwrap();
    body["data"]["event"]["issue_id"] = number.clone();
    body["data"]["event"]["datetime"] = crew.clock.now().to_string().into();
    let request = delivery(NEW, "event_alert", "1", &body, crew.clock.now());
    assert_eq!(crew.hook(secrets(), request).await.status, 202);
    // Sentry does not answer: it is asked again, and the run waits.
    crew.sentry.fault_times("GET", "/api/0/organizations/acme/issues/**", Fault::status(503), 1_000);
    crew.turn().await;
    assert_eq!(crew.keys(), Vec::<String>::new());
    crew.sentry.heal();
    crew.clock.pass(2 * MINUTE);
    crew.turn().await;
    let item = crew.runs()[0].trigger.item.clone().unwrap();
    assert_eq!(
        (&item["id"], &item["users"], &item["stacktrace"][0]["file"]),
        (&json!(id), &json!(10), &json!("src/a.py"))
    );
    crew.finish(&crew.runs()[0], true).await;

    // It never answers: the run begins with what the alert said.
    let other = error(&crew, "y");
    body["data"]["event"]["issue_id"] = crew.sentry.issue(&other)["id"].clone();
    crew.clock.pass(MINUTE);
    let request = delivery(NEW, "event_alert", "2", &body, crew.clock.now());
    assert_eq!(crew.hook(secrets(), request).await.status, 202);
    crew.sentry.fault_times("GET", "/api/0/organizations/acme/issues/**", Fault::status(503), 100_000);
    for _ in 0..20 {
        crew.turn().await;
        crew.clock.pass(MINUTE);
    }
    crew.sentry.heal();
    let item = crew.runs()[0].trigger.item.clone().unwrap();
    assert_eq!(
        (&item["title"], &item["stacktrace"][1]["line"]),
        (&json!("ZeroDivisionError: division by zero"), &json!(42))
    );
    // An issue that is resolved meanwhile needs nobody.
    let third = error(&crew, "z");
    let request = delivery(NEW, "issue", "3", &hook_body(&crew, &third, "created"), crew.clock.now());
    assert_eq!(crew.hook(secrets(), request).await.status, 202);
    crew.sentry.change(&third, |issue, _| issue.status = "resolved".into());
    crew.turn().await;
    assert_eq!(crew.fates()[0], ("resolved".into(), "it is resolved in Sentry".into()));
    crew.poll().await;
}

#[tokio::test]
async fn resolved_by_webhook_and_back_is_a_regression_and_what_waits_is_dropped_when_it_is_resolved() {
    let crew = Crew::new(vec![watch("fix", 10 * MINUTE)]);
    let id = error(&crew, "x");
    let send = async |action: &str, request: &str| {
        let request = delivery(NEW, "issue", request, &hook_body(&crew, &id, action), crew.clock.now());
        assert_eq!(crew.hook(secrets(), request).await.status, 202, "{action}");
    };
    send("created", "1").await;
    crew.clock.pass(11 * MINUTE);
    crew.turn().await;
    crew.finish(&crew.runs()[0], true).await;
    crew.clock.pass(2 * HOUR);
    crew.sentry.change(&id, |issue, _| issue.status = "resolved".into());
    send("resolved", "2").await;
    crew.clock.pass(HOUR);
    crew.sentry.regress(&id);
    send("unresolved", "3").await;
    crew.clock.pass(11 * MINUTE);
    crew.turn().await;
    assert_eq!(crew.keys(), [id.as_str()]);
    assert_eq!(crew.fates()[0], ("run".into(), "regressed".into()));
    crew.finish(&crew.runs()[0], true).await;
    // Waits, and is archived.
    crew.clock.pass(2 * HOUR);
    crew.sentry.seen(&id, 1_000, 1_000);
    send("unresolved", "4").await;
    crew.sentry.change(&id, |issue, _| issue.status = "ignored".into());
    send("archived", "5").await;
    crew.clock.pass(HOUR);
    crew.turn().await;
    assert_eq!(crew.keys(), Vec::<String>::new());
    assert_eq!(crew.fates()[0], ("resolved".into(), "it is archived where it comes from".into()));
}

fn seen(key: &str, crew: &Crew, users: u64) -> Seen {
    let item =
        json!({"key": key, "id": key, "title": format!("error {key}"), "users": users, "count": users, "culprit": "f"});
    let Value::Object(item) = item else { unreachable!() };
    Seen { project: "shop".into(), key: key.into(), hint: None, item, seen_at: crew.clock.now() }
}

fn intake(pipeline: &str, debounce: Duration, when: Vec<Standing>) -> Watch {
    Watch { project: "shop".into(), origin: Origin::Intake, when, ..watch(pipeline, debounce) }
}

const ALL: [Standing; 3] = [Standing::New, Standing::Worsened, Standing::Regressed];

#[tokio::test]
async fn a_flood_of_one_error_costs_one_run_and_one_row() {
    let crew = Crew::new(vec![intake("fix", 10 * MINUTE, ALL.into())]);
    for n in 0..2_000 {
        crew.handle.seen(vec![seen("flood", &crew, n)]).await.unwrap();
        crew.clock.pass(Duration::from_millis(250));
    }
    assert_eq!(crew.journal.reader().dropped_errors("fix").unwrap(), (0, 1));
    crew.clock.pass(10 * MINUTE);
    crew.turn().await;
    let runs = crew.runs();
    assert_eq!((runs.len(), runs[0].trigger.item.clone().unwrap()["users"].clone()), (1, json!(1_999)));
    assert_eq!(crew.fates(), [("run".to_owned(), "new, told 2000 times".to_owned())]);
    // It goes on while the run is at work, and after it has failed: not before the hour is over.
    for n in 0..100 {
        crew.handle.seen(vec![seen("flood", &crew, 3_000 + n)]).await.unwrap();
        crew.clock.pass(Duration::from_secs(12));
        crew.turn().await;
    }
    assert_eq!(crew.runs().len(), 1);
    crew.finish(&crew.runs()[0], false).await;
    crew.clock.pass(Duration::from_secs(1));
    crew.handle.seen(vec![seen("flood", &crew, 9_000)]).await.unwrap();
    crew.clock.pass(11 * MINUTE);
    crew.turn().await;
    assert_eq!(crew.runs().len(), 0, "a run that failed is not begun again at once");
    crew.clock.pass(HOUR);
    crew.turn().await;
    assert_eq!(crew.runs().len(), 1);
}

#[tokio::test]
async fn many_errors_at_once_wait_for_their_turn_and_what_is_too_much_is_counted() {
    let mut crew = Crew::new(vec![intake("fix", Duration::ZERO, ALL.into())]);
    crew.rate = Rate { burst: 5, per_hour: 60 };
    let all = (0..MOST_WAITING + 250).map(|n| seen(&format!("e{n:05}"), &crew, 1)).collect();
    let noted = crew.handle.seen(all).await.unwrap();
    assert_eq!((noted.waiting, noted.dropped), (MOST_WAITING, 250));
    crew.turn().await;
    assert_eq!(crew.runs().len(), 5);
    assert_eq!(crew.journal.reader().dropped_errors("fix").unwrap(), (250, u64::from(MOST_WAITING) - 5));
    for run in crew.runs() {
        crew.finish(&run, true).await;
    }
    crew.clock.pass(2 * MINUTE);
    crew.turn().await;
    assert_eq!(crew.runs().len(), 2, "one a minute");
}

#[tokio::test]
async fn only_what_when_names_begins_a_run_and_every_other_has_its_reason() {
    let crew = Crew::new(vec![
        intake("back", Duration::ZERO, vec![Standing::Regressed]),
        intake("all", Duration::ZERO, ALL.into()),
    ]);
    crew.handle.seen(vec![seen("a", &crew, 3)]).await.unwrap();
    crew.turn().await;
    assert_eq!(crew.runs().iter().map(|run| run.pipeline.as_str()).collect::<Vec<_>>(), ["all"]);
    assert!(crew.fates().contains(&("filtered".into(), "`when` does not name new".into())));
    let run = crew.runs().remove(0);
    crew.finish(&run, true).await;
    // Muted in one pipeline: its reason.
    let id =
        crew.journal.reader().findings(&nightcrew::journal::FindingFilter { all: true, ..Default::default() }).unwrap()
            [0]
        .id
        .clone();
    crew.journal.mute_finding(&id, None, "noise", "ada").await.unwrap();
    crew.clock.pass(2 * HOUR);
    crew.handle.seen(vec![Seen { hint: Some(Standing::Regressed), ..seen("a", &crew, 900) }]).await.unwrap();
    crew.turn().await;
    assert!(crew.fates().contains(&("muted".into(), "a person muted it".into())));
    assert_eq!(crew.runs().len(), 0);
    // Nobody listens to another project.
    let other = Seen { project: "other".into(), ..seen("b", &crew, 1) };
    assert_eq!(crew.handle.seen(vec![other]).await.unwrap().waiting, 0);
    assert!(crew.handle.listens("shop") && !crew.handle.listens("other") && !crew.handle.listens("api"));
}

#[tokio::test]
async fn a_restart_in_every_phase_of_the_debounce_loses_nothing_and_begins_nothing_twice() {
    for phase in 0..4 {
        let mut crew = Crew::new(vec![intake("fix", 10 * MINUTE, ALL.into())]);
        crew.handle.seen(vec![seen("a", &crew, 1)]).await.unwrap();
        if phase == 0 {
            crew = crew.restart(MINUTE).await;
        }
        crew.handle.seen(vec![seen("a", &crew, 2)]).await.unwrap();
        crew.turn().await;
        assert_eq!(crew.runs().len(), 0, "phase {phase}: too early");
        if phase == 1 {
            crew = crew.restart(5 * MINUTE).await;
            crew.turn().await;
            assert_eq!(crew.runs().len(), 0, "phase {phase}: the wait goes on where it was");
        }
        crew.clock.pass(11 * MINUTE);
        if phase == 2 {
            crew = crew.restart(HOUR).await;
        }
        crew.turn().await;
        if phase == 3 {
            crew = crew.restart(MINUTE).await;
        }
        crew.turn().await;
        let runs = crew.runs();
        assert_eq!(runs.len(), 1, "phase {phase}");
        assert_eq!(runs[0].trigger.item.clone().unwrap()["users"], 2, "phase {phase}");
        assert_eq!(crew.journal.reader().due_errors(crew.clock.now() + 100 * HOUR, 10).unwrap(), []);
    }
}

#[tokio::test]
async fn a_holder_that_was_followed_by_another_writes_nothing() {
    let crew = Crew::new(vec![intake("fix", Duration::ZERO, ALL.into())]);
    crew.handle.seen(vec![seen("a", &crew, 1)]).await.unwrap();
    // Another process has taken office, as after a lock that was lost.
    let database = rusqlite::Connection::open(crew.folder.path().join("state/nightcrew.db")).unwrap();
    database.execute("UPDATE meta SET value = value + 1 WHERE key = 'epoch'", []).unwrap();
    assert!(crew.handle.seen(vec![seen("b", &crew, 1)]).await.is_err());
    let request =
        delivery(NEW, "issue", "1", &json!({"action": "resolved", "data": {"issue": {"id": "7"}}}), crew.clock.now());
    assert_eq!(crew.hook(secrets(), request).await.status, 503, "it is not acknowledged");
    let count: i64 = database.query_row("SELECT count(*) FROM trigger_waiting", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 1);
}
