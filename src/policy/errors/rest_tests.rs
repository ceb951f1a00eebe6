use super::*;
use crate::base::hash::Hash;

const ISSUE: &str = include_str!("../../../tests/it/data/sentry/issue.json");
const EVENT: &str = include_str!("../../../tests/it/data/sentry/event.json");
const HOOK_EVENT: &str = include_str!("../../../tests/it/data/sentry/hook_event_alert.json");

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn now() -> Timestamp {
    "2026-11-20T12:00:00Z".parse().unwrap()
}

#[test]
fn an_issue_and_its_event_of_the_api_make_the_row_that_every_source_gives() {
    let row = row(&json_of(ISSUE), Some(json_of(EVENT)), now()).unwrap();
    let frames = row.get("stacktrace").and_then(Value::as_array).unwrap();
    let shown = |name: &str| row[name].clone();
    assert_eq!(
        json!({"key": shown("key"), "id": shown("id"), "title": shown("title"), "type": shown("type"),
            "message": shown("message"), "culprit": shown("culprit"), "level": shown("level"), "platform": shown("platform"),
            "count": shown("count"), "users": shown("users"), "first_seen": shown("first_seen"), "last_seen": shown("last_seen"),
            "release": shown("release"), "environment": shown("environment"), "url": shown("url"), "project": shown("project"),
            "substatus": shown("substatus"), "exceptions": shown("exceptions"), "last frame": frames.last()}),
        json!({"key": "sentry-4509123", "id": "API-4F2", "title": "ZeroDivisionError: division by zero", "type": "ZeroDivisionError",
            "message": "division by zero", "culprit": "app.billing in share", "level": "error", "platform": "python",
            "count": 1287, "users": 31, "first_seen": "2026-11-18T09:12:44.123Z", "last_seen": "2026-11-20T11:58:02Z",
            "release": "api@2.4.1", "environment": "production", "url": "https://acme.sentry.io/issues/4509123/", "project": "api",
            "substatus": "ongoing",
            "exceptions": [{"type": "KeyError", "value": "'members'"}, {"type": "ZeroDivisionError", "value": "division by zero"}],
            "last frame": {"file": "app/billing.py", "function": "share", "line": 42, "in_app": true,
                "context": ["41: def share(total, members):", "42:     return total / len(members)", "43: "]}}),
    );
    assert_eq!(row["tags"]["environment"], "production");
    assert_eq!(row["breadcrumbs"][0]["category"], "query");
    assert_eq!(frames.len(), 2);
}

#[test]
fn rows_of_all_sources_have_the_same_fields() {
    let fields = |row: &Row| row.keys().cloned().collect::<std::collections::BTreeSet<_>>();
    let report = Report::read(json!({"message": "x"}), now());
    let own = fields(&group::row("0123456789abcdef", &[&report]));
    for row in [
        row(&json_of(ISSUE), Some(json_of(EVENT)), now()).unwrap(),
        row(&json!({"id": "1"}), None, now()).unwrap(),
        event_row(&json_of(HOOK_EVENT)["data"]["event"], now()).unwrap(),
    ] {
        assert!(fields(&row).is_superset(&own), "{row:?}");
    }
}

#[test]
fn an_event_of_a_webhook_is_read_without_what_it_does_not_say() {
    let row = event_row(&json_of(HOOK_EVENT)["data"]["event"], now()).unwrap();
    assert_eq!(row["key"], "sentry-4509123");
    assert_eq!(row["title"], "ZeroDivisionError: division by zero");
    assert_eq!((&row["users"], &row["count"]), (&json!(0), &json!(0)));
    assert_eq!(row["stacktrace"].as_array().map(Vec::len), Some(2));
    assert_eq!(row["stacktrace"][1]["line"], 42);
    assert_eq!(row["url"], "https://acme.sentry.io/issues/4509123/events/9f6a/");
}

#[test]
fn what_an_issue_is_called_and_what_it_is_by_another_name() {
    assert_eq!((key_of("45"), issue_of("sentry-45")), ("sentry-45".into(), Some("45")));
    for other in ["45", "sentry-", "sentry-4/5", "0123456789abcdef"] {
        assert_eq!(issue_of(other), None, "{other}");
    }
    let state = |status: &str, substatus: Value| {
        super::state(&json!({"status": status, "substatus": substatus})).map(str::to_owned)
    };
    assert_eq!(state("resolved", Value::Null).as_deref(), Some("resolved"));
    assert_eq!(state("unresolved", "regressed".into()).as_deref(), Some("regressed"));
    assert_eq!(state("unresolved", Value::Null).as_deref(), Some("unresolved"));
    assert_eq!(super::state(&json!({})), None);
}

#[test]
fn an_address_that_is_no_link_is_left_out() {
    for bad in ["javascript:alert(1)", "https://a b", "//x", "https://x\n"] {
        assert_eq!(row(&json!({"id": "1", "permalink": bad}), None, now()).unwrap()["url"], "", "{bad:?}");
    }
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n.max(1)
    }
}

/// Puts something else in one place of a document.
fn spoil(value: &mut Value, dice: &mut Dice) {
    let odd = [
        json!(null),
        json!(true),
        json!(-1),
        json!(1e300),
        json!(u64::MAX),
        json!(""),
        json!("\u{0}\u{202e}é"),
        json!([]),
        json!({}),
        json!([[]]),
        json!([[1]]),
        json!({"values": 3}),
        json!({"values": [null, 1, "x", {}]}),
        json!("x".repeat(5_000)),
        json!([{"type": "exception", "data": {"values": [{"stacktrace": {"frames": [null, {"context": [[1], 2, [3, 4]]}]}}]}}]),
    ];
    match value {
        Value::Array(items) if !items.is_empty() && dice.below(5) > 0 => {
            let at = dice.below(items.len());
            spoil(&mut items[at], dice);
        }
        Value::Object(fields) if !fields.is_empty() && dice.below(6) > 0 => {
            let at = dice.below(fields.len());
            match fields.values_mut().nth(at) {
                Some(field) => spoil(field, dice),
                None => unreachable!(),
            }
        }
        other => *other = odd[dice.below(odd.len())].clone(),
    }
}

#[test]
fn nothing_that_arrives_breaks_the_reader_and_every_row_is_bounded() {
    let mut dice = Dice(0x5eed);
    let (issue, event, hook) = (json_of(ISSUE), json_of(EVENT), json_of(HOOK_EVENT));
    let mut read = 0;
    for round in 0..4_000 {
        let (mut issue, mut event, mut hook) = (issue.clone(), event.clone(), hook["data"]["event"].clone());
        for _ in 0..=dice.below(4) {
            spoil(&mut issue, &mut dice);
            spoil(&mut event, &mut dice);
            spoil(&mut hook, &mut dice);
        }
        for row in [row(&issue, Some(event), now()), event_row(&hook, now())].into_iter().flatten() {
            read += 1;
            let size = Value::Object(row.clone()).to_string().len();
            assert!(size < 300_000, "round {round}: {size} bytes");
            let key = row["key"].as_str().unwrap();
            assert!(issue_of(key).is_some(), "round {round}: {key}");
        }
    }
    assert!(read > 4_000, "{read}: the documents are spoilt so that nothing is tested");
}

#[test]
fn the_same_document_gives_the_same_row() {
    let once = || Value::Object(row(&json_of(ISSUE), Some(json_of(EVENT)), now()).unwrap()).to_string();
    assert_eq!(Hash::of(once()), Hash::of(once()));
}
