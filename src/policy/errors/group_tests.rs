//! Events as the SDKs for Python, Node and Rust shape them.

use super::super::event::events;
use super::*;

fn python(line: u64, user: &str, at: &str) -> Value {
    json!({
        "event_id": "6f1c2a9d7d6b4b1c8c0d3c1a2b3c4d5e", "platform": "python", "level": "error", "timestamp": at,
        "exception": {"values": [
            {"type": "ZeroDivisionError", "value": "division by zero", "module": null,
             "stacktrace": {"frames": [{"function": "ratio", "module": "shop.maths", "filename": "shop/maths.py", "lineno": 9,
                                        "in_app": true, "vars": {"total": "0"}}]}},
            {"type": "ReportError", "value": "cannot build the report for 2026-11-19", "mechanism": {"type": "chained", "handled": false},
             "stacktrace": {"frames": [
                {"function": "_run_module_as_main", "module": "runpy", "filename": "<frozen runpy>", "lineno": 198, "in_app": false},
                {"function": "build", "module": "shop.report", "filename": "shop/report.py", "lineno": line, "in_app": true,
                 "pre_context": ["def build(day):", "    rows = load(day)"], "context_line": "    return ratio(rows)",
                 "post_context": ["", "def main():"], "vars": null}]}}]},
        "breadcrumbs": {"values": [{"timestamp": "2026-11-20T07:59:00.5Z", "type": "log", "category": "shop", "level": "info",
                                    "message": "loading", "data": null}]},
        "user": {"id": user, "email": "someone@example.com"}, "release": "shop@1.4.2", "environment": "production",
        "tags": {"region": "eu"}, "extra": {"sys.argv": ["run"]}, "contexts": {"runtime": {"name": "CPython"}, "trace": null},
        "transaction": "shop.report.build", "modules": {"pip": "24.0"}, "sdk": {"name": "sentry.python", "version": "2.75.0", "packages": null}
    })
}

fn node() -> Value {
    json!({
        "event_id": "b2f0c9a1d7d64b1b8c0d3c1a2b3c4d5e", "platform": "node", "timestamp": 1_795_161_600.25, "level": "critical",
        "exception": {"values": [{"type": "TypeError", "value": "Cannot read properties of undefined (reading 'id')",
            "stacktrace": {"frames": [
                {"filename": "node:internal/process/task_queues", "module": "task_queues", "function": "processTicks", "lineno": 95, "colno": 5, "in_app": false},
                null,
                {"filename": "/srv/api/dist/orders.js", "module": "orders", "function": "Orders.total", "lineno": "41", "colno": -1, "in_app": true,
                 "context_line": "  return order.customer.id;"}]}}]},
        "breadcrumbs": [{"timestamp": 1_795_161_599.1, "category": "http", "type": "http", "data": {"url": "https://x/y", "status_code": 200}},
                        {"timestamp": 1_795_161_599.9, "category": "console", "level": "log", "message": "order 7"}],
        "tags": [["handled", "no"], ["count", 3]], "user": {"id": 42, "ip_address": "not-an-ip"},
        "request": {"url": "/orders/7", "method": "GET", "headers": [["accept", "*/*"], ["x-n", 1]], "query_string": {"a": "b c"},
                    "cookies": [["s", "1"]], "data": {"k": [1]}},
        "sdk": {"name": "sentry.javascript.node", "version": "10.78.0"}
    })
}

fn rust() -> Value {
    json!({
        "event_id": "0194a1f0-3b5f-7c21-9d8e-aa0011223344", "platform": "native", "timestamp": "2026-11-20T08:00:00",
        "exception": {"values": [{"type": "ParseIntError", "value": "invalid digit found in string", "stacktrace": {"frames": [
            {"function": "std::rt::lang_start", "package": "api", "filename": "/rustc/abc/library/std/src/rt.rs", "lineno": 195},
            {"function": "api::duration::parse_duration::h0123456789abcdef", "filename": "src/duration.rs", "lineno": 41, "in_app": true}]}}]},
        "contexts": {"os": {"type": "os", "name": "Linux"}, "device": null}, "release": null,
        "message": {"formatted": "could not parse `-1h`", "message": "could not parse `{}`", "params": ["-1h"]}
    })
}

fn read(event: Value) -> Report {
    Report::read(event, Timestamp::UNIX_EPOCH)
}

#[test]
fn events_of_every_sdk_are_read_by_the_types() {
    for event in [python(12, "u1", "2026-11-20T08:00:00.123456Z"), node(), rust()] {
        let report = read(event);
        assert!(report.typed, "{}", report.platform);
    }
    let node = read(node());
    assert_eq!((node.level.as_str(), node.breadcrumbs.len(), node.user.as_deref()), ("fatal", 2, Some("42")));
    assert_eq!(node.frames[1].line, Some(41));
    assert_eq!(Value::Object(node.tags), json!({"count": "3", "handled": "no"}));
    assert_eq!(read(rust()).at.to_string(), "2026-11-20T08:00:00Z");
}

#[test]
fn a_group_is_one_row_with_counts_users_and_the_newest_event() {
    let reports = [
        read(python(12, "u1", "2026-11-18T08:00:00Z")),
        read(python(14, "u2", "2026-11-20T09:00:00Z")),
        read(python(12, "u1", "2026-11-19T08:00:00Z")),
        read(rust()),
    ];
    let rows = group(&reports);
    assert_eq!(rows.len(), 2);
    let mut row = Value::Object(rows[0].clone());
    let key = row["key"].as_str().unwrap().to_owned();
    assert_eq!((key.len(), row["id"].as_str().unwrap()), (16, format!("E-{}", key[..6].to_uppercase()).as_str()));
    row["key"] = Value::Null;
    row["id"] = Value::Null;
    assert_eq!(
        row,
        json!({
            "key": null, "id": null, "title": "ReportError: cannot build the report for 2026-11-19", "type": "ReportError",
            "message": "cannot build the report for 2026-11-19", "culprit": "build in shop/report.py", "level": "error",
            "platform": "python", "count": 3, "users": 2, "first_seen": "2026-11-18T08:00:00Z", "last_seen": "2026-11-20T09:00:00Z",
            "release": "shop@1.4.2", "environment": "production",
            "exceptions": [{"type": "ZeroDivisionError", "value": "division by zero"},
                           {"type": "ReportError", "value": "cannot build the report for 2026-11-19"}],
            "stacktrace": [
                {"file": "<frozen runpy>", "function": "_run_module_as_main", "line": 198, "in_app": false, "context": []},
                {"file": "shop/report.py", "function": "build", "line": 14, "in_app": true, "context": [
                    "12: def build(day):", "13:     rows = load(day)", "14:     return ratio(rows)", "15: ", "16: def main():"]}],
            "breadcrumbs": [{"timestamp": 1_795_161_540.5, "category": "shop", "message": "loading"}],
            "tags": {"region": "eu"}, "url": ""
        })
    );
    let shown = serde_json::to_string(&rows).unwrap();
    assert!(!shown.contains("someone@example.com") && !shown.contains("u1"), "users are only counted");
}

#[test]
fn groups_part_by_code_and_not_by_lines_or_variable_words() {
    let base = python(12, "u", "2026-11-20T08:00:00Z");
    let mut moved = python(99, "u", "2026-11-20T08:00:00Z");
    moved["exception"]["values"][1]["value"] = "another text".into();
    assert_eq!(key(&read(base.clone())), key(&read(moved)));
    let mut renamed = base.clone();
    renamed["exception"]["values"][1]["stacktrace"]["frames"][1]["function"] = "make".into();
    assert_ne!(key(&read(base.clone())), key(&read(renamed)));
    let mut rebuilt = rust();
    rebuilt["exception"]["values"][0]["stacktrace"]["frames"][1]["function"] =
        "api::duration::parse_duration::hfedcba9876543210".into();
    assert_eq!(key(&read(rust())), key(&read(rebuilt)));

    let with = |fingerprint: Value| {
        let mut event = base.clone();
        event["fingerprint"] = fingerprint;
        key(&read(event))
    };
    assert_eq!(with(json!(["{{ default }}"])), key(&read(base.clone())));
    assert_eq!(with(json!(["db", 7])), with(json!(["db", "7"])));
    assert_ne!(with(json!(["{{ default }}", "eu"])), with(json!(["{{ default }}", "us"])));

    let message = |text: &str| key(&read(json!({"message": text, "platform": "node"})));
    assert_eq!(message("order 17 of user 9f8e7d6c5b4a failed"), message("order 4 of user 00112233aa failed"));
    assert_ne!(message("order 17 failed"), message("payment 17 failed"));
    assert_eq!(
        parameterise("id 0194a1f0-3b5f-7c21-9d8e-aa0011223344 at 0xdeadbeef: -3.5 of v2, cafe"),
        "id <uuid> at <hex>: <n> of v2, cafe"
    );
}

#[test]
fn files_may_hold_an_event_a_list_lines_or_an_envelope() {
    let event = json!({"event_id": "a", "message": "x"}).to_string();
    assert_eq!(events(&event).unwrap().len(), 1);
    assert_eq!(events(&format!("[{event},{event}]")).unwrap().len(), 2);
    assert_eq!(events(&format!("{event}\n{event}\n")).unwrap().len(), 2);
    let with_length = format!(
        "{{\"event_id\":\"a\"}}\n{{\"type\":\"session\"}}\n{{}}\n{{\"type\":\"event\",\"length\":{}}}\n{event}\n{{\"type\":\"attachment\",\"length\":4}}\na\nb\n\n",
        event.len()
    );
    assert_eq!(events(&with_length).unwrap(), [json!({"event_id": "a", "message": "x"})]);
    let without_length = format!("{{}}\n{{\"type\":\"event\"}}\n{event}");
    assert_eq!(events(&without_length).unwrap().len(), 1);
    assert!(events("<html>").is_err() && events("{}\n{\"type\":\"event\",\"length\":9999}\n{}").is_err());
}

#[test]
fn nothing_that_is_json_makes_the_reader_fail() {
    // Each member of a full event is replaced by values of every other kind, at any depth.
    let strange = [
        json!(null),
        json!(-1),
        json!(1e300),
        json!("x"),
        json!([]),
        json!([null, 1, ["a"], {}]),
        json!({}),
        json!({"values": 3}),
        json!(true),
    ];
    fn paths(value: &Value, at: String, into: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                map.iter().for_each(|(k, v)| paths(v, format!("{at}/{}", k.replace('/', "~1")), into))
            }
            Value::Array(items) => items.iter().enumerate().for_each(|(i, v)| paths(v, format!("{at}/{i}"), into)),
            _ => {}
        }
        into.push(at);
    }
    for event in [python(12, "u", "2026-11-20T08:00:00Z"), node(), rust()] {
        let mut all = Vec::new();
        paths(&event, String::new(), &mut all);
        for path in &all {
            for value in &strange {
                let mut changed = event.clone();
                *changed.pointer_mut(path).unwrap() = value.clone();
                let report = read(changed);
                assert!(report.typed, "{path}: {value}");
                assert_eq!(group(&[report]).len(), 1);
            }
        }
    }
}
