//! Each rule of the normaliser beside what it is for: shapes that SDKs, webhooks and the API really send, and the types refuse.

use super::*;

/// A member of an event: as it comes, and as the types are given it. `None`: it is gone.
type Rule = (&'static str, Value, Option<Value>);

fn values(of: Value) -> Option<Value> {
    Some(json!({ "values": of }))
}

fn rules() -> Vec<Rule> {
    let crumb = json!({"timestamp": 1.0, "message": "x"});
    let frames = |frames: Value| json!([{"type": "E", "value": "v", "stacktrace": {"frames": frames}}]);
    let framed = |frames: Value| values(json!([{"type": "E", "value": "v", "stacktrace": {"frames": frames}}]));
    let error = json!({"type": "E", "value": "v"});
    vec![
        // Lists without `values`, one object, null.
        ("breadcrumbs", json!([crumb]), values(json!([crumb]))),
        ("breadcrumbs", crumb.clone(), values(json!([crumb]))),
        ("breadcrumbs", Value::Null, None),
        ("breadcrumbs", json!({"values": null}), values(json!([]))),
        ("breadcrumbs", json!([crumb, null, 7]), values(json!([crumb]))),
        ("exception", json!([error]), values(json!([error]))),
        ("exception", error.clone(), values(json!([error]))),
        ("threads", json!([{"id": 1}]), values(json!([{"id": 1}]))),
        ("threads", Value::Null, None),
        // Nulls, at any depth.
        ("extra", Value::Null, None),
        ("extra", json!({"a": {"b": null}}), Some(json!({"a": {}}))),
        ("contexts", json!({"trace": null}), Some(json!({}))),
        ("sdk", json!({"name": "s", "version": "1", "packages": null}), Some(json!({"name": "s", "version": "1"}))),
        ("exception", json!([{"type": null, "value": "v"}]), values(json!([{"value": "v", "type": "Error"}]))),
        (
            "exception",
            frames(json!([{"function": "f", "vars": null, "pre_context": null}])),
            framed(json!([{"function": "f"}])),
        ),
        ("exception", frames(json!([null, {"function": "f"}])), framed(json!([{"function": "f"}]))),
        // Frames.
        ("exception", frames(json!([{"lineno": "41", "colno": -1}])), framed(json!([{"lineno": 41}]))),
        ("exception", frames(json!([{"lineno": 1e300}])), framed(json!([{}]))),
        (
            "exception",
            frames(json!([{"function": 7, "vars": [1], "in_app": "yes"}])),
            framed(json!([{"function": "7"}])),
        ),
        ("exception", json!([{"type": "E", "value": {"a": 1}}]), values(json!([{"type": "E", "value": "{\"a\":1}"}]))),
        ("exception", json!([{"type": 404, "value": 7}]), values(json!([{"type": "404", "value": "7"}]))),
        // Tags.
        ("tags", json!([["a", "b"], ["n", 3], null]), Some(json!({"a": "b", "n": "3"}))),
        ("tags", json!([{"key": "a", "value": true}]), Some(json!({"a": "true"}))),
        ("tags", json!({"a": {"b": 1}, "c": null}), Some(json!({"a": "{\"b\":1}"}))),
        // Message and level.
        ("message", json!({"message": "x %s", "formatted": "x y"}), Some(json!("x y"))),
        ("level", json!("critical"), Some(json!("fatal"))),
        ("level", json!("log"), Some(json!("info"))),
        ("level", json!("nonsense"), Some(json!("error"))),
        ("level", json!(40), Some(json!("error"))),
        // Times.
        ("timestamp", json!("2026-11-20T08:00:00"), Some(json!("2026-11-20T08:00:00Z"))),
        ("timestamp", json!("2026-11-20 08:00:00.5"), Some(json!("2026-11-20T08:00:00.5Z"))),
        ("timestamp", json!("yesterday"), None),
        ("timestamp", json!(-1.0), None),
        ("timestamp", json!(true), None),
        // The request.
        (
            "request",
            json!({"headers": [["accept", "*/*"], ["n", 1]]}),
            Some(json!({"headers": {"accept": "*/*", "n": "1"}})),
        ),
        ("request", json!({"headers": {"set": ["a", "b"]}}), Some(json!({"headers": {"set": "a, b"}}))),
        ("request", json!({"query_string": {"a": "b c"}}), Some(json!({"query_string": "a=b%20c"}))),
        ("request", json!({"query_string": [["a", "b"]]}), Some(json!({"query_string": "a=b"}))),
        ("request", json!({"cookies": [["s", "1"], ["t", "2"]]}), Some(json!({"cookies": "s=1; t=2"}))),
        ("request", json!({"data": {"k": [1]}}), Some(json!({"data": "{\"k\":[1]}"}))),
        ("request", json!({"url": "/orders/7", "method": "GET"}), Some(json!({"method": "GET"}))),
        ("request", json!("GET /"), None),
        // The rest.
        ("user", json!({"id": 42}), Some(json!({"id": "42"}))),
        ("user", json!({"ip_address": "nowhere"}), Some(json!({}))),
        ("user", json!("me"), None),
        ("fingerprint", json!(["a", 1, null]), Some(json!(["a", "1"]))),
        ("fingerprint", json!("a"), Some(json!(["a"]))),
        ("release", json!(2), Some(json!("2"))),
        ("event_id", json!("short"), None),
    ]
}

#[test]
fn each_rule_makes_of_what_comes_what_the_types_read() {
    let mut refused_raw = 0;
    for (name, given, wanted) in rules() {
        let raw = json!({ name: given });
        refused_raw += usize::from(serde_json::from_value::<Event<'static>>(raw.clone()).is_err());
        let normal = normalise(raw.clone());
        assert_eq!(normal.get(name), wanted.as_ref(), "{raw}");
        let read = serde_json::from_value::<Event<'static>>(normal.clone());
        assert!(read.is_ok(), "{raw} → {normal}: {:?}", read.err());
        assert_eq!(normalise(normal.clone()), normal, "normal is normal: {raw}");
        assert!(Report::read(raw, Timestamp::UNIX_EPOCH).typed);
    }
    assert!(refused_raw > rules().len() / 2, "the rules are for what the types refuse: {refused_raw}");
}

/// Every envelope that was recorded from an official SDK, as the intake would take it.
const GOLDEN: [(&str, &str, &str); 3] = [
    ("python", include_str!("../../../tests/conformance/sentry/golden/python.envelope"), "KeyError PriceError"),
    ("node", include_str!("../../../tests/conformance/sentry/golden/node.envelope"), "TypeError RangeError"),
    ("rust", include_str!("../../../tests/conformance/sentry/golden/rust.envelope"), "ParseIntError OrderError"),
];

#[test]
fn what_official_sdks_sent_is_read_whole() {
    for (sdk, envelope, chain) in GOLDEN {
        let event = events(envelope).unwrap().remove(0);
        let report = Report::read(event.clone(), Timestamp::UNIX_EPOCH);
        assert!(report.typed, "{sdk}");
        let types: Vec<&str> = report.exceptions.iter().map(|(ty, _)| ty.as_str()).collect();
        assert_eq!(types.join(" "), chain, "{sdk}: the cause first");
        assert!(
            report.breadcrumbs.len() == 1 && report.user.is_some() && report.release.is_some(),
            "{sdk}: {report:?}"
        );
        assert_eq!(report.tags.get("queue"), Some(&json!("push")), "{sdk}");
        assert!(report.at > Timestamp::UNIX_EPOCH && report.environment.is_some(), "{sdk}");
        assert!(sdk == "rust" || report.frames.iter().any(|frame| frame.in_app && !frame.context.is_empty()), "{sdk}");
        assert_eq!(events(envelope).unwrap().len(), 1);
    }
    // The types alone lose a real event of Node's: the reason why there is a normaliser.
    let node = events(GOLDEN[1].1).unwrap().remove(0);
    assert!(serde_json::from_value::<Event<'static>>(node).is_err());
}

/// A small generator (SplitMix64): the same seed gives the same mutants.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % below.max(1) as u64) as usize
    }

    fn odd(&mut self, other: &Value) -> Value {
        match self.roll(14) {
            0 => Value::Null,
            1 => json!(true),
            2 => json!(-1),
            3 => json!(u64::MAX),
            4 => json!(1e308),
            5 => json!(""),
            6 => json!("\u{0}\u{feff}\u{202e}é"),
            7 => json!([]),
            8 => json!({}),
            9 => json!([[["a"]], [null, 1], {"key": null}]),
            10 => json!({"values": {"values": [1]}, "frames": 7, "formatted": {}}),
            11 => json!("{{ default }}"),
            12 => json!(["a", other]),
            _ => other.clone(),
        }
    }

    /// Changes one member somewhere.
    fn mutate(&mut self, value: &mut Value, other: &Value) {
        let count = match value {
            Value::Object(map) => map.len(),
            Value::Array(items) => items.len(),
            _ => 0,
        };
        if count == 0 || self.roll(4) == 0 {
            *value = self.odd(other);
            return;
        }
        let at = self.roll(count);
        match value {
            Value::Object(map) => {
                let name = map.keys().nth(at).cloned().unwrap_or_default();
                if self.roll(8) == 0 {
                    map.remove(&name);
                } else if let Some(inner) = map.get_mut(&name) {
                    self.mutate(inner, other);
                }
            }
            Value::Array(items) => self.mutate(&mut items[at], other),
            _ => {}
        }
    }
}

#[test]
fn no_mutant_of_a_real_event_is_lost() {
    let originals: Vec<Value> = GOLDEN.iter().map(|(_, envelope, _)| events(envelope).unwrap().remove(0)).collect();
    let hidden = crate::policy::errors::private::Hidden::new(&["email".into()]);
    let mut typed = 0;
    const MUTANTS: usize = 1_500;
    for seed in 0..MUTANTS {
        let mut dice = Dice(seed as u64);
        let mut mutant = originals[seed % originals.len()].clone();
        let other = originals[(seed + 1) % originals.len()].clone();
        for _ in 0..=dice.roll(6) {
            dice.mutate(&mut mutant, &other);
        }
        let normal = normalise(mutant.clone());
        assert_eq!(normalise(normal.clone()), normal, "seed {seed}");
        let report = Report::read(mutant.clone(), Timestamp::UNIX_EPOCH);
        typed += usize::from(report.typed);
        let key = crate::policy::errors::group::key(&report);
        assert!(key.len() == 16 && report.at >= Timestamp::UNIX_EPOCH, "seed {seed}");
        let read = crate::policy::errors::seen::SeenEvent::read("p", mutant, "x", Timestamp::UNIX_EPOCH, &hidden);
        assert!(read.is_ok(), "seed {seed}");
    }
    // Where the types still refuse one, it is read leniently; that is the exception.
    assert!(typed * 100 >= MUTANTS * 97, "{typed} of {MUTANTS}");
}
