//! The judge of exactly-once: a program that reads nothing but the stand-ins' logs (`tests/conformance/auditor.py`, which says what the
//! rules are), and tests that it sees what is wrong. It is no part of the crate and in another language, so that it cannot share a
//! mistake with what it judges.

#![allow(dead_code)] // More than each test needs.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

fn program(arguments: &[String], logs: &[PathBuf]) -> (bool, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/auditor.py");
    let output =
        Command::new("python3").arg(path).args(arguments).args(logs).output().expect("python3 judges the logs");
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.code().is_some_and(|code| code < 2) && !err.contains("Traceback"), "{err}");
    (output.status.success(), out)
}

/// Which rules are broken, and by what. `allowed`: `repository:acme/api`, `channel:api-oncall`, `base:main`, `organization:acme`.
pub fn judge(logs: &[PathBuf], allowed: &[&str]) -> Vec<Value> {
    let arguments: Vec<String> = allowed.iter().flat_map(|word| ["--allow".to_owned(), (*word).to_owned()]).collect();
    let (clean, out) = program(&arguments, logs);
    let broken: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(clean, broken.is_empty());
    broken
}

/// Fails the test where a rule is broken.
pub fn assert_clean(logs: &[PathBuf], allowed: &[&str], when: &str) {
    let broken = judge(logs, allowed);
    let lines: Vec<String> = broken.iter().map(Value::to_string).collect();
    assert!(broken.is_empty(), "{when}:\n{}", lines.join("\n"));
}

/// What there is in the end, without what tells runs apart.
pub fn effects(logs: &[PathBuf]) -> Vec<String> {
    program(&["--effects".to_owned()], logs).1.lines().map(str::to_owned).collect()
}

const ALLOWED: [&str; 4] = ["repository:acme/api", "channel:ops", "base:main", "organization:acme"];
const SECRET: &str = "ghp_0123456789abcdefghijklmnopqrstuvwxyzAB";
const BOT: &str = "xoxb-17653672481-19874698323-pdFZKVeTuE8sk7oOcHrzqqgy";
const NOTE: &str = "/api/0/organizations/acme/issues/4501/comments/";

/// A log that somebody makes up.
#[derive(Clone)]
struct Story {
    service: &'static str,
    lines: Vec<Value>,
    n: u64,
    at_ms: i64,
}

impl Story {
    fn of(service: &'static str, secret: &str) -> Self {
        let start = json!({"kind": "start", "service": service, "at_ms": 0, "secrets": [secret]});
        let mut made = Self { service, lines: vec![start], n: 0, at_ms: 1_000_000 };
        if service == "slack" {
            made.lines.push(json!({"kind": "channel", "id": "C1", "channel": "ops"}));
            made.lines.push(json!({"kind": "channel", "id": "C2", "channel": "general"}));
        }
        made
    }

    /// A request two seconds after the last one.
    fn asked(mut self, method: &str, path: &str, body: Value, status: u16, effect: Option<(&str, Value)>) -> Self {
        self.n += 1;
        self.at_ms += 2_000;
        if let Some((effect, fields)) = effect {
            let mut line = json!({"kind": "effect", "n": self.n, "at_ms": self.at_ms, "effect": effect});
            line.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            self.lines.push(line);
        }
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let ended = if status >= 500 { "refused" } else { "answered" };
        self.lines.push(json!({
            "kind": "request", "n": self.n, "at_ms": self.at_ms, "who": "bot", "method": method, "path": path, "query": query, "body": body,
            "status": status, "ended": ended, "retry_after": null, "word": null, "reset_ms": null,
        }));
        self
    }

    /// The last request as something else.
    fn with(mut self, key: &str, value: Value) -> Self {
        self.lines.last_mut().unwrap()[key] = value;
        self
    }

    fn later(mut self, ms: i64) -> Self {
        self.at_ms += ms;
        self
    }

    fn got(self, path: &str) -> Self {
        self.asked("GET", path, Value::Null, 200, None)
    }

    fn reference(self, name: &str) -> Self {
        let made = json!({"repository": "acme/api", "ref": name, "sha": "1".repeat(40)});
        self.asked("POST", "/repos/acme/api/git/refs", json!({"ref": name}), 201, Some(("ref.create", made)))
    }

    fn pull(self, number: u64, head: &str, base: &str, draft: bool, body: &str) -> Self {
        let made = json!({"repository": "acme/api", "number": number, "head": head, "base": base, "draft": draft, "title": "t", "body": body});
        let sent = json!({"head": head, "base": base, "draft": draft, "title": "t", "body": body});
        self.asked("POST", "/repos/acme/api/pulls", sent, 201, Some(("pull_request.create", made)))
    }

    fn issue(self, number: u64, body: &str) -> Self {
        let made = json!({"repository": "acme/api", "number": number, "title": "t", "body": body, "labels": []});
        self.asked(
            "POST",
            "/repos/acme/api/issues",
            json!({"title": "t", "body": body}),
            201,
            Some(("issue.create", made)),
        )
    }

    fn message(self, channel: &str, key: &str, text: &str) -> Self {
        let name = if channel == "C1" { "ops" } else { "general" };
        let metadata = if key.is_empty() {
            Value::Null
        } else {
            json!({"event_type": "nightcrew_report", "event_payload": {"key": key}})
        };
        let made = json!({"channel": name, "ts": format!("{}.0", self.n), "thread_ts": null, "text": text, "blocks": [], "metadata": metadata});
        let sent = json!({"channel": channel, "text": text, "metadata": metadata, "unfurl_links": false, "unfurl_media": false});
        self.asked("POST", "/api/chat.postMessage", sent, 200, Some(("message.create", made)))
    }

    fn note(self, text: &str) -> Self {
        self.asked(
            "POST",
            NOTE,
            json!({"text": text}),
            201,
            Some(("note.create", json!({"issue": "API-4F2", "text": text}))),
        )
    }
}

const MARK: &str = "<!-- nightcrew {\"key\":\"error-to-pr/abc\"} -->";

fn hub() -> Story {
    Story::of("github", SECRET).got("/repos/acme/api").got("/repos/acme/api/pulls?head=acme:nightcrew/a&state=all")
}

fn desk() -> Story {
    Story::of("slack", BOT).got("/api/conversations.history?channel=C1")
}

fn watch() -> Story {
    Story::of("sentry", "sntryu_0123456789abcdef0123456789abcdef").got("/api/0/organizations/acme/issues/")
}

fn rules(stories: &[Story]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let logs: Vec<PathBuf> = stories
        .iter()
        .enumerate()
        .map(|(number, story)| {
            let path = folder.path().join(format!("{number}-{}.jsonl", story.service));
            let lines: Vec<String> = story.lines.iter().map(Value::to_string).collect();
            std::fs::write(&path, lines.join("\n") + "\n").unwrap();
            path
        })
        .collect();
    let mut found: Vec<String> =
        judge(&logs, &ALLOWED).iter().map(|broken| broken["rule"].as_str().unwrap().to_owned()).collect();
    found.dedup();
    found
}

#[test]
fn an_honest_log_breaks_no_rule() {
    let github = hub()
        .reference("refs/heads/nightcrew/a")
        .pull(1, "nightcrew/a", "main", true, MARK)
        .issue(2, "<!-- nightcrew:ticket {\"key\":\"code-health-1\"} -->")
        // Its end is not known, so it is looked for before it is sent again.
        .asked("POST", "/repos/acme/api/issues", json!({"title": "u", "body": ""}), 502, None)
        .got("/repos/acme/api/issues?state=all")
        .asked("POST", "/repos/acme/api/issues", json!({"title": "u", "body": ""}), 422, None)
        // Nothing was done, and it waits as long as it is told.
        .asked("POST", "/repos/acme/api/issues/2/comments", json!({"body": MARK}), 403, None)
        .with("word", json!("You have exceeded a secondary rate limit."))
        .later(60_000)
        .asked("POST", "/repos/acme/api/issues/2/comments", json!({"body": MARK}), 422, None);
    let slack = desk().message("C1", "k1", "one").message("C1", "k2", "two");
    assert_eq!(rules(&[github, slack, watch().note("a draft is open")]), Vec::<String>::new());
}

/// B37: what a careless change would do, each as a log; none may pass.
#[test]
fn every_seeded_bug_is_seen() {
    let ticket = "<!-- nightcrew:ticket {\"key\":\"code-health-1\"} -->";
    let posted = |body: Value, status: u16| hub().asked("POST", "/repos/acme/api/issues", body, status, None);
    let seeded: Vec<(&str, &str, Story)> = vec![
        (
            "a receipt is dropped: the pull request is opened again",
            "once",
            hub().pull(1, "nightcrew/a", "main", true, MARK).pull(2, "nightcrew/b", "main", true, MARK),
        ),
        (
            "the same branch gets two",
            "once",
            hub().pull(1, "nightcrew/a", "main", true, MARK).pull(
                2,
                "nightcrew/a",
                "main",
                true,
                "<!-- nightcrew {\"key\":\"other\"} -->",
            ),
        ),
        ("the ticket is filed twice", "once", hub().issue(1, ticket).issue(2, ticket)),
        ("the report is posted twice", "once", desk().message("C1", "k", "a").message("C1", "k", "a")),
        ("Sentry gets the comment twice", "once", watch().note("a").note("a")),
        ("a ticket without its marker", "unmarked", hub().issue(1, "no marker")),
        ("a message without metadata", "unmarked", desk().message("C1", "", "a")),
        (
            "a POST after a 502 is sent again at once",
            "resent",
            posted(json!({"title": "t"}), 502).asked(
                "POST",
                "/repos/acme/api/issues",
                json!({"title": "t"}),
                201,
                None,
            ),
        ),
        (
            "a POST after a cut is sent again after looking elsewhere",
            "resent",
            posted(json!({"title": "t"}), 201)
                .with("ended", json!("lost"))
                .with("status", Value::Null)
                .got("/repos/acme/api")
                .asked("POST", "/repos/acme/api/issues", json!({"title": "t"}), 201, None),
        ),
        (
            "the look failed and it is sent all the same",
            "resent",
            posted(json!({"title": "t"}), 502).asked("GET", "/repos/acme/api/issues", Value::Null, 502, None).asked(
                "POST",
                "/repos/acme/api/issues",
                json!({"title": "t"}),
                201,
                None,
            ),
        ),
        (
            "a message is sent again after `fatal_error`",
            "resent",
            desk()
                .asked(
                    "POST",
                    "/api/chat.postMessage",
                    json!({"channel": "C1", "text": "a", "unfurl_links": false, "unfurl_media": false}),
                    200,
                    None,
                )
                .with("word", json!("fatal_error"))
                .message("C1", "", "a")
                .lines
                .into_iter()
                .fold(Story { lines: Vec::new(), ..desk() }, |mut story, mut line| {
                    // The second one is the same request.
                    if line["kind"] == "request" && line["path"] == "/api/chat.postMessage" && line["word"].is_null() {
                        line["body"] =
                            json!({"channel": "C1", "text": "a", "unfurl_links": false, "unfurl_media": false});
                    }
                    if line["effect"] != "message.create" {
                        story.lines.push(line);
                    }
                    story
                }),
        ),
        (
            "two messages in half a second",
            "spacing",
            desk().message("C1", "k1", "a").later(-1_500).message("C1", "k2", "b"),
        ),
        (
            "a limit is not waited for",
            "limits",
            posted(json!({"title": "t"}), 429).with("retry_after", json!(30)).got("/repos/acme/api/issues"),
        ),
        (
            "a secondary limit without a time is taken for a short one",
            "limits",
            posted(json!({"title": "t"}), 403)
                .with("word", json!("You have exceeded a secondary rate limit."))
                .later(10_000)
                .got("/user"),
        ),
        (
            "a refused secret is tried without end",
            "storm",
            (0..5).fold(hub(), |story, _| story.asked("GET", "/user", Value::Null, 401, None)),
        ),
        (
            "a read is repeated without end",
            "storm",
            (0..14).fold(hub(), |story, _| story.asked("GET", "/user", Value::Null, 500, None)),
        ),
        ("another repository", "destination", hub().got("/repos/evil/api/pulls")),
        ("another channel", "destination", desk().message("C2", "k", "a")),
        ("another base", "destination", hub().pull(1, "nightcrew/a", "release", true, MARK)),
        (
            "a push to main",
            "destination",
            hub().asked(
                "PATCH",
                "/repos/acme/api/git/refs/heads/main",
                json!({"sha": "1"}),
                200,
                Some(("ref.update", json!({"repository": "acme/api", "ref": "refs/heads/main"}))),
            ),
        ),
        ("a pull request that is no draft", "draft", hub().pull(1, "nightcrew/a", "main", false, MARK)),
        ("a token in a body", "secret", hub().issue(1, &format!("{ticket} {SECRET}"))),
        ("a token in base64, behind other bytes", "secret", {
            use base64::Engine as _;
            let hidden = base64::engine::general_purpose::STANDARD.encode(format!("x={SECRET};"));
            hub().issue(1, &format!("{ticket} {hidden}"))
        }),
        ("another one's token", "secret", hub().issue(1, &format!("{ticket} sk-ant-{}", "a1b2".repeat(8)))),
        ("everybody's phone rings", "loud", desk().message("C1", "k", "look <!channel>")),
    ];
    assert!(seeded.len() >= 10);
    for (bug, rule, story) in seeded {
        let found = rules(&[story]);
        assert!(found.iter().any(|broken| broken == rule), "{bug}: {found:?}");
        assert!(found.len() == 1, "{bug}: {found:?}");
    }
}
