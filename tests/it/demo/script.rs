//! What the models of the demo say: their words alone. What they say of code is looked up in the samples, so that it stays true.

use std::path::Path;

use serde_json::{Value, json};

use crate::fakes::model::{Reply, Request};

/// Plays boss, interns and reviewer of the three shipped pipelines over the demo's samples.
pub fn answer(request: &Request) -> Reply {
    let system = request.system();
    let pipeline = |name: &str| system.contains(&format!("\nPipeline: {name}. "));
    match () {
        () if pipeline("code-health") => code_health(request),
        () if pipeline("error-to-pr") => error_to_pr(request),
        () => analytics(request),
    }
}

fn analytics(request: &Request) -> Reply {
    if request.model().contains("haiku") {
        return Reply::json(&json!({
            "headline": "Checkout errors at 216 against the usual 40, only on Safari 18; sign-ups up 18 %",
            "bullets": [
                "Checkout errors: 216 (usual 40), 2.1 % of attempts; 181 of them on Safari 18, from 14:10.",
                "Attempts are as usual: 10512 (usual 10208), so it is the errors that rose.",
                "Sign-ups: 1204 (usual 1020), the rise is referral alone: 289 against 145 a week before.",
                "Activations hardly followed the sign-ups: 413 (usual 386).",
                "What sent the referrals and what broke Safari 18 is unknown: the data does not say."
            ]
        }));
    }
    match request.turn() {
        0 => Reply::text("I compare the flagged day with the Thursday before.")
            .and_call("signups", &json!({"from": "2026-11-12", "to": "2026-11-19"}))
            .and_call("checkout", &json!({"from": "2026-11-12", "to": "2026-11-19"})),
        _ => Reply::json(&json!({"causes": [
            {
                "metric": "checkout.errors",
                "cause": "Safari 18 alone, from 14:10 on; why it fails there is unknown: the data names the step, not the reason.",
                "evidence": "181 of the day's 216 errors are Safari 18, against 9 of 39 on the Thursday before; attempts are as usual."
            },
            {
                "metric": "signups.signups",
                "cause": "Referral alone; what sent them is unknown: it stands nowhere in the data.",
                "evidence": "Referral brought 289, against 145 on the Thursday before; search and direct hardly moved, nor did activations."
            }
        ]})),
    }
}

/// What a careful engineer says of each finding of the second commit. See `tests/samples/findings/README.md`.
struct Opinion {
    file: &'static str,
    /// The deciding line, as it stands there; only in one line of the file.
    line: &'static str,
    verdict: &'static str,
    confidence: f64,
    /// Findings of one root cause.
    cause: Option<usize>,
}

const fn opinion(
    file: &'static str,
    line: &'static str,
    verdict: &'static str,
    confidence: f64,
    cause: Option<usize>,
) -> Opinion {
    Opinion { file, line, verdict, confidence, cause }
}

const OPINIONS: &[Opinion] = &[
    opinion("src/webhook.rs", r#"if request.header("x-token") != Some(token) {"#, "real", 0.86, Some(1)),
    opinion("src/webhook.rs", "if request.body.read_to_string(&mut body).is_err() {", "real", 0.93, Some(2)),
    // The intern is not sure that `split` always yields something, and asks.
    opinion("src/webhook.rs", "let parcel = fields.next().unwrap();", "false_positive", 0.55, None),
    opinion("src/webhook.rs", "let place = fields.next().unwrap();", "real", 0.95, Some(0)),
    opinion("src/webhook.rs", r#"let word = fields.next().expect("every scan has a word");"#, "real", 0.95, Some(0)),
    opinion(
        "src/webhook.rs",
        "store.record(parcel, Scan { place: place.into(), grams, word: word.into() });",
        "real",
        0.9,
        Some(3),
    ),
    opinion(
        "src/webhook.rs",
        r#"let _ = audit::note(log, "carrier", &format!("{taken} scans"));"#,
        "real",
        0.81,
        Some(3),
    ),
    opinion(
        "src/webhook.rs",
        "let request = Request::read(text.as_bytes()).unwrap().unwrap();",
        "false_positive",
        0.97,
        None,
    ),
    opinion("src/status.rs", r#""TODO" => Self::Announced,"#, "false_positive", 0.96, None),
    opinion(
        "src/main.rs",
        r#"("POST", None) if request.path == "/scans" => webhook::answer(request, store, Path::new("audit.log"), token),"#,
        "false_positive",
        0.9,
        None,
    ),
    opinion("src/main.rs", "let _ = serve(stream?, &mut store, &token);", "style", 0.84, None),
];

/// Title, harm, severity and what a machine could check, by the number of the cause.
const CAUSES: &[(&str, &str, &str, &[&str])] = &[
    (
        "One malformed line of a carrier ends the server",
        "A line with one, two or three fields panics in the only thread: tracking is down for everybody until somebody restarts \
         it. Any carrier's export error does that.",
        "high",
        &[
            "`POST /scans` with the line `5` answers with 400 and the server answers the next request",
            "no `unwrap` or `expect` on a field of a request in src/webhook.rs outside of its tests",
        ],
    ),
    (
        "The carriers' token can be guessed from the time of the answer",
        "`!=` stops at the first byte that differs, so who measures long enough learns the token and can then report any parcel \
         as delivered.",
        "medium",
        &[
            "the token is compared in a time that does not depend on its content",
            "a token of another length is refused",
        ],
    ),
    (
        "A body without end fills the memory of the server",
        "`read_to_string` reads until the other side stops. One connection can take the whole memory; the token is known to \
         every carrier.",
        "medium",
        &["a body of more than a stated size is answered with 413", "at most that many bytes are read"],
    ),
    (
        "Scans that were not kept are acknowledged with 200",
        "When the file or the audit log cannot be written, the results are thrown away: the carrier deletes its copy, the scan is \
         lost at the next start, and the note that the law asks for is missing.",
        "high",
        &[
            "`POST /scans` answers with 500 when `Store::record` or `audit::note` fails",
            "`cargo check` reports no `unused_must_use` in src/webhook.rs",
        ],
    ),
];

fn code_health(request: &Request) -> Reply {
    let schema = request.schema().map(ToString::to_string).unwrap_or_default();
    if schema.contains("false_positive") {
        let finding = first_object(&request.all_text(), |found| found["rule"].is_string() && found["line"].is_number());
        let opinion = opinion_of(&finding);
        // A boss that is asked has looked at it longer.
        let sure = if request.model().contains("haiku") { opinion.confidence } else { 0.97 };
        return Reply::json(&json!({"verdict": opinion.verdict, "confidence": sure, "quote": opinion.line}));
    }
    if request.turn() == 0 {
        return Reply::text("I read the places in their context, and what the audit log is for.")
            .and_call("read", &json!({"path": "src/webhook.rs"}))
            .and_call("search", &json!({"pattern": "audit::note|fn note|the law", "around": 2}));
    }
    let findings = objects(&request.all_text(), |found| found["rule"].is_string() && found["key"].is_string());
    let group = |(number, (title, harm, severity, accept)): (usize, &(&str, &str, &str, &[&str]))| {
        let of_cause = |finding: &&Value| opinion_of(finding).cause == Some(number);
        let members: Vec<&Value> = findings.iter().filter(of_cause).map(|finding| &finding["key"]).collect();
        json!({"title": title, "harm": harm, "severity": severity, "members": members, "accept": accept})
    };
    let mut groups: Vec<Value> = CAUSES.iter().enumerate().map(group).collect();
    groups.retain(|group| group["members"].as_array().is_some_and(|members| !members.is_empty()));
    // By harm: what ends the server or loses data comes first.
    groups.sort_by_key(|group| group["severity"] != "high");
    Reply::json(&json!({"groups": groups}))
}

/// The opinion about the line that a finding names.
fn opinion_of(finding: &Value) -> &'static Opinion {
    let (file, line) = (finding["file"].as_str().unwrap_or_default(), finding["line"].as_u64().unwrap_or_default());
    let text = sample("findings/second", file);
    let text = text.lines().nth(usize::try_from(line).unwrap_or_default().saturating_sub(1)).unwrap_or_default().trim();
    let found = OPINIONS.iter().find(|opinion| opinion.file == file && opinion.line == text);
    found.unwrap_or_else(|| panic!("nobody has an opinion about {file}:{line}: {text}"))
}

fn error_to_pr(request: &Request) -> Reply {
    let schema = request.schema().map(ToString::to_string).unwrap_or_default();
    let system = request.system();
    match () {
        () if schema.contains("manageable") => triage(request),
        () if system.contains("How a fix is made here") => fix(request),
        () if schema.contains("\"approve\"") => Reply::json(&json!({
            "verdict": "approve",
            "findings": [{
                "file": "src/clock.rs",
                "line": line_of("bug", "src/clock.rs", "self.0") + 5,
                "severity": "advice",
                "text": "`until` of a time to itself is 0, so quiet hours from 12:00 to 12:00 stay empty as the existing test has \
                         it; a user who means the whole day cannot say so, before and after."
            }]
        })),
        () if schema.contains("\"risk\"") => cause(request),
        // An intern's digest of a long output.
        () => Reply::json(
            &json!({"text": "The tests of tests/overnight.rs panic with `attempt to subtract with overflow` at \
            src/window.rs:18; all others pass."}),
        ),
    }
}

fn triage(request: &Request) -> Reply {
    let error = first_object(&request.all_text(), |found| found["culprit"].is_string() && found["type"].is_string());
    let audit = !request.model().contains("haiku");
    Reply::json(&match error["type"].as_str() {
        Some("panic") => json!({
            "class": "simple",
            "confidence": if audit { 0.95 } else { 0.9 },
            "why": "A subtraction in Window::length overflows; every event has quiet hours that go over midnight, so the input \
                    that does it is known."
        }),
        Some("OutboxError") => json!({
            "class": "complex",
            "confidence": 0.88,
            "why": "A worker of 1.3.2 holds the lock of an outbox that a worker of 1.4.0 needs: who may take it over, and when, is a \
                    decision about how releases are rolled out."
        }),
        other => panic!("an error that the sample does not throw: {other:?}"),
    })
}

fn cause(request: &Request) -> Reply {
    match request.turn() {
        0 => Reply::text("The frames end in Window::length. I look at it, at its caller, and at what a Time is.")
            .and_call("read", &json!({"path": "src/window.rs"}))
            .and_call("read", &json!({"path": "src/plan.rs"}))
            .and_call("search", &json!({"pattern": r"minutes\(\)"})),
        1 => Reply::text("Do the tests know quiet hours that go over midnight?")
            .and_call("search", &json!({"pattern": r"\d\d:\d\d-\d\d:\d\d", "path": "tests"})),
        _ => Reply::json(&json!({
            "root_cause": format!(
                "Window::length (src/window.rs:{}) takes the minutes of `start` from those of `end` as if both were on one day. For \
                 quiet hours that go over midnight, such as 22:00-07:00, `end` is the smaller one and the subtraction of u16 \
                 overflows; the release profile checks for that, so the worker panics. `remaining` subtracts in the same way, and \
                 `contains` compares in the same way: it would find no time within such hours, so without the panic \
                 notifications would be sent at night.",
                line_of("bug", "src/window.rs", "self.end.minutes() - self.start.minutes()")
            ),
            "files": ["src/window.rs", "src/clock.rs"],
            "risk": "low"
        })),
    }
}

const OVERNIGHT: &str = r#"//! Quiet hours that go over midnight.

use quiethours::{plan, Plan, Time, Window};

fn window(text: &str) -> Window {
    text.parse().unwrap()
}

fn time(text: &str) -> Time {
    text.parse().unwrap()
}

#[test]
fn hours_over_midnight_last_until_the_next_morning() {
    assert_eq!(window("22:00-07:00").length(), 540);
    assert_eq!(window("23:59-00:00").length(), 1);
}

#[test]
fn a_notification_waits_before_and_after_midnight() {
    let quiet = window("22:00-07:00");
    assert_eq!(plan(quiet, time("22:00")), Plan::Hold(540));
    assert_eq!(plan(quiet, time("23:15")), Plan::Hold(465));
    assert_eq!(plan(quiet, time("00:00")), Plan::Hold(420));
    assert_eq!(plan(quiet, time("06:59")), Plan::Hold(1));
}

#[test]
fn it_is_sent_by_day() {
    let quiet = window("22:00-07:00");
    assert_eq!(plan(quiet, time("07:00")), Plan::Send);
    assert_eq!(plan(quiet, time("21:59")), Plan::Send);
}

#[test]
fn nearly_a_day_over_midnight_is_taken_for_a_mistake_too() {
    assert_eq!(plan(window("12:01-12:00"), time("03:00")), Plan::Send);
}
"#;

fn fix(request: &Request) -> Reply {
    match request.turn() {
        0 => Reply::text("I open the named lines, and a test beside which the new one goes.")
            .and_call("read", &json!({"path": "src/window.rs", "from_line": 9, "lines": 26}))
            .and_call("read", &json!({"path": "src/clock.rs", "from_line": 1, "lines": 24}))
            .and_call("read", &json!({"path": "tests/plan.rs", "from_line": 1, "lines": 21})),
        1 => Reply::text("First a test that shows it: hours over midnight, measured and used.")
            .and_call("edit", &json!({"path": "tests/overnight.rs", "content": OVERNIGHT})),
        2 => Reply::calls([("run_tests", json!({}))]),
        3 => Reply::text(
            "They fail with the reported overflow, in the reported function. The wrong step is taken in three places, so the \
             distance between two times of day goes where times are, and all three use it.",
        )
        .and_call(
            "edit",
            &json!({
                "path": "src/clock.rs",
                "old": "    pub fn minutes(self) -> u16 {\n        self.0\n    }\n",
                "new": "    pub fn minutes(self) -> u16 {\n        self.0\n    }\n\n    /// Minutes until a clock shows `later` the next time; 0 if it does now.\n    pub fn until(self, later: Self) -> u16 {\n        (later.0 + DAY - self.0) % DAY\n    }\n"
            }),
        ),
        4 => Reply::calls([
            (
                "edit",
                json!({
                    "path": "src/window.rs",
                    "old": "        self.end.minutes() - self.start.minutes()\n",
                    "new": "        self.start.until(self.end)\n"
                }),
            ),
            (
                "edit",
                json!({
                    "path": "src/window.rs",
                    "old": "        self.start <= at && at < self.end\n",
                    "new": "        self.start.until(at) < self.length()\n"
                }),
            ),
            (
                "edit",
                json!({
                    "path": "src/window.rs",
                    "old": "        self.end.minutes() - at.minutes()\n",
                    "new": "        at.until(self.end)\n"
                }),
            ),
        ]),
        5 => Reply::calls([("run_tests", json!({}))]),
        _ => Reply::json(&json!({
            "title": "Reckon quiet hours that go over midnight",
            "summary": "Quiet hours such as 22:00-07:00 made the worker panic, because the end was taken to be on the day of the start. \
                        Times of day now tell how long it is until the next one, around midnight too; the length of quiet hours, \
                        whether a time is within and what remains are all reckoned by that.",
            "root_cause": "Window::length, contains and remaining treat both ends as times of one day.",
            "limits": [
                "Days on which clocks change are not looked at: the program knows times of day only.",
                "Notifications that were lost while workers panicked are not made up for."
            ]
        })),
    }
}

fn sample(folder: &str, path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples").join(folder).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The number of the first line that contains `text`, from 1.
fn line_of(folder: &str, path: &str, text: &str) -> usize {
    let whole = sample(folder, path);
    whole.lines().position(|line| line.contains(text)).unwrap_or_else(|| panic!("{text} is not in {path}")) + 1
}

/// JSON objects that stand in a text and fit, also within others.
fn objects(text: &str, fits: impl Fn(&Value) -> bool) -> Vec<Value> {
    fn walk(value: Value, fits: &impl Fn(&Value) -> bool, into: &mut Vec<Value>) {
        if fits(&value) {
            into.push(value);
            return;
        }
        match value {
            Value::Array(items) => items.into_iter().for_each(|item| walk(item, fits, into)),
            Value::Object(fields) => fields.into_iter().for_each(|(_, field)| walk(field, fits, into)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        let mut stream = serde_json::Deserializer::from_str(&rest[at..]).into_iter::<Value>();
        match stream.next() {
            Some(Ok(value)) => {
                let end = stream.byte_offset();
                walk(value, &fits, &mut found);
                rest = &rest[at + end..];
            }
            _ => rest = &rest[at + 1..],
        }
    }
    found
}

fn first_object(text: &str, fits: impl Fn(&Value) -> bool) -> Value {
    objects(text, fits)
        .into_iter()
        .next()
        .unwrap_or_else(|| panic!("the request does not show what it is about:\n{text}"))
}
