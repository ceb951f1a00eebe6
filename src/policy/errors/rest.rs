//! Errors as Sentry's API and its webhooks tell of them, made into the rows that every source of errors gives.
//!
//! An event of the API has another shape than those of the SDKs (`entries`, camel case); [`sdk_shape`] turns it into theirs, and
//! the one normaliser does the rest. What Sentry has counted and grouped stands: the identity is its issue's. Pure; nothing here
//! trusts a field to be there or to be what it should be.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::event::Report;
use super::group::{self, Row, clip};

const TITLE: usize = 160;
const TEXT: usize = 2_000;
const LINE: usize = 300;
/// Frames and breadcrumbs of an event that are read; rows show fewer.
const MOST_FRAMES: usize = 250;

/// What stands in front of an issue's id to make the identity that the ledger keeps.
const PREFIX: &str = "sentry-";

/// The identity of an issue in the ledger.
pub fn key_of(issue_id: &str) -> String {
    format!("{PREFIX}{issue_id}")
}

/// The issue's id behind an identity; `None` for one that our own intake has made.
pub fn issue_of(key: &str) -> Option<&str> {
    key.strip_prefix(PREFIX).filter(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The id of an issue; `None` for what is none.
pub fn issue_id(issue: &Value) -> Option<String> {
    id(issue.get("id")?)
}

/// A number, as text or not.
pub fn id(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.as_u64()?.to_string(),
        _ => return None,
    };
    (!text.is_empty() && text.len() <= 20 && text.bytes().all(|byte| byte.is_ascii_digit())).then_some(text)
}

/// When an issue happened last.
pub fn last_seen(issue: &Value) -> Option<Timestamp> {
    instant(issue.get("lastSeen")?)
}

/// What Sentry says of an issue in one word: `resolved`, `ignored`, else `new`, `ongoing`, `regressed`, `escalating`, `unresolved`.
pub fn state(issue: &Value) -> Option<&str> {
    match text(issue, "status") {
        Some("unresolved") => text(issue, "substatus").or(Some("unresolved")),
        other => other,
    }
}

/// The row of an issue with its latest event, if there is one. `None`: it has no id.
pub fn row(issue: &Value, event: Option<Value>, now: Timestamp) -> Option<Row> {
    let issue_id = issue_id(issue)?;
    let report = event.map(|event| Report::read(sdk_shape(event), now));
    let empty;
    let report = match &report {
        Some(report) => report,
        None => {
            empty = Report::read(json!({}), now);
            &empty
        }
    };
    let mut row = group::row(&key_of(&issue_id), &[report]);
    let short = text(issue, "shortId").map_or_else(|| issue_id.clone(), |short| clip(short, LINE));
    let mut put = |name: &str, value: Value| drop(row.insert(name.to_owned(), value));
    put("id", short.into());
    let metadata = issue.get("metadata").cloned().unwrap_or_default();
    for (name, found, most) in [
        ("title", text(issue, "title"), TITLE),
        ("type", text(&metadata, "type"), LINE),
        ("message", text(&metadata, "value"), TEXT),
        ("culprit", text(issue, "culprit"), LINE),
        ("level", text(issue, "level"), LINE),
        ("platform", text(issue, "platform"), LINE),
        ("project", issue.get("project").and_then(|project| text(project, "slug")), LINE),
        ("substatus", state(issue), LINE),
    ] {
        if let Some(found) = found {
            put(name, clip(found, most).into());
        }
    }
    put("count", count(issue.get("count")).into());
    put("users", count(issue.get("userCount")).into());
    for (name, field) in [("first_seen", "firstSeen"), ("last_seen", "lastSeen")] {
        if let Some(at) = issue.get(field).and_then(instant) {
            put(name, at.to_string().into());
        }
    }
    put(
        "url",
        text(issue, "permalink").filter(|url| is_link(url)).map(|url| clip(url, LINE)).unwrap_or_default().into(),
    );
    Some(row)
}

/// The row of an event that a webhook carries: what is not in it (users, counts, the short id) must be asked for.
pub fn event_row(event: &Value, now: Timestamp) -> Option<Row> {
    let issue_id = id(event.get("issue_id")?)?;
    let report = Report::read(sdk_shape(event.clone()), now);
    let mut row = group::row(&key_of(&issue_id), &[&report]);
    let mut put = |name: &str, value: Value| drop(row.insert(name.to_owned(), value));
    put("id", issue_id.into());
    for (name, field, most) in [("title", "title", TITLE), ("culprit", "culprit", LINE)] {
        if let Some(found) = text(event, field) {
            put(name, clip(found, most).into());
        }
    }
    // One event says nothing about how many there are.
    put("count", 0.into());
    put("users", 0.into());
    put("url", text(event, "web_url").filter(|url| is_link(url)).map(|url| clip(url, LINE)).unwrap_or_default().into());
    Some(row)
}

/// An event of the API in the shape of the SDKs. One that has that shape already stays as it is.
pub fn sdk_shape(event: Value) -> Value {
    let Value::Object(mut event) = event else { return json!({}) };
    let Some(entries) = event.remove("entries") else { return Value::Object(event) };
    let mut out = Map::new();
    let Value::Array(entries) = entries else { return Value::Object(out) };
    for entry in entries {
        let Value::Object(mut entry) = entry else { continue };
        let data = entry.remove("data").unwrap_or_default();
        match entry.get("type").and_then(Value::as_str) {
            Some(kind @ ("exception" | "threads")) => {
                let values = values(data).into_iter().map(exception).collect();
                out.insert(kind.into(), json!({"values": Value::Array(values)}));
            }
            Some("breadcrumbs") => {
                let mut values = values(data);
                let from = values.len().saturating_sub(MOST_FRAMES);
                out.insert("breadcrumbs".into(), json!({"values": values.split_off(from)}));
            }
            Some("stacktrace") => {
                out.insert("stacktrace".into(), stacktrace(data));
            }
            Some("message") => {
                out.insert("message".into(), data);
            }
            Some("request") => {
                out.insert("request".into(), data);
            }
            _ => {}
        }
    }
    let tag = |name: &str| {
        let tags = event.get("tags").and_then(Value::as_array).into_iter().flatten();
        tags.filter(|tag| text(tag, "key") == Some(name)).find_map(|tag| tag.get("value").cloned())
    };
    for name in ["environment", "level", "transaction", "server_name"] {
        if let Some(found) = tag(name) {
            out.insert(name.into(), found);
        }
    }
    // `release` is the whole release there; the tag is its version.
    let version = event.get("release").and_then(|release| release.get("version")).cloned();
    if let Some(release) = version.filter(Value::is_string).or_else(|| tag("release")) {
        out.insert("release".into(), release);
    }
    for (to, from) in [("platform", "platform"), ("user", "user"), ("tags", "tags"), ("event_id", "eventID")] {
        if let Some(found) = event.remove(from) {
            out.insert(to.into(), found);
        }
    }
    for name in ["dateCreated", "dateReceived"] {
        if let Some(found) = event.get(name).filter(|at| instant(at).is_some())
            && !out.contains_key("timestamp")
        {
            out.insert("timestamp".into(), found.clone());
        }
    }
    if !out.contains_key("message")
        && let Some(message) = event.get("message").and_then(Value::as_str).filter(|text| !text.is_empty())
    {
        out.insert("message".into(), message.into());
    }
    Value::Object(out)
}

fn values(data: Value) -> Vec<Value> {
    match data {
        Value::Object(mut data) => match data.remove("values") {
            Some(Value::Array(values)) => values,
            _ => Vec::new(),
        },
        Value::Array(values) => values,
        _ => Vec::new(),
    }
}

/// Of an exception or a thread: its frames in the other spelling.
fn exception(value: Value) -> Value {
    let Value::Object(mut value) = value else { return Value::Null };
    for name in ["stacktrace", "rawStacktrace"] {
        let Some(found) = value.remove(name) else { continue };
        if name == "stacktrace" && !found.is_null() {
            value.insert(name.into(), stacktrace(found));
        }
    }
    Value::Object(value)
}

fn stacktrace(trace: Value) -> Value {
    let Value::Object(mut trace) = trace else { return Value::Null };
    let Some(Value::Array(mut frames)) = trace.remove("frames") else { return json!({"frames": []}) };
    let from = frames.len().saturating_sub(MOST_FRAMES);
    let frames = frames.split_off(from).into_iter().map(frame).collect();
    json!({"frames": Value::Array(frames)})
}

fn frame(frame: Value) -> Value {
    let Value::Object(mut frame) = frame else { return Value::Null };
    for (from, to) in [("absPath", "abs_path"), ("lineNo", "lineno"), ("colNo", "colno"), ("inApp", "in_app")] {
        if let Some(found) = frame.remove(from) {
            frame.insert(to.into(), found);
        }
    }
    // `[[41, "def f():"], [42, "    return 1 / 0"]]`
    if let Some(Value::Array(lines)) = frame.remove("context") {
        let at = frame.get("lineno").and_then(Value::as_u64);
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for line in lines {
            let Some((number, text)) = line.get(0).and_then(Value::as_u64).zip(line.get(1)) else { continue };
            let text = Value::from(text.as_str().unwrap_or_default());
            match at {
                Some(at) if number < at => before.push(text),
                Some(at) if number == at => drop(frame.insert("context_line".into(), text)),
                Some(_) => after.push(text),
                None => {}
            }
        }
        frame.insert("pre_context".into(), before.into());
        frame.insert("post_context".into(), after.into());
    }
    Value::Object(frame)
}

fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// `"1234"`, as the API gives it, or 1234.
fn count(value: Option<&Value>) -> u64 {
    match value {
        Some(Value::String(text)) => text.trim().parse().unwrap_or_default(),
        Some(Value::Number(number)) => number.as_u64().unwrap_or_default(),
        _ => 0,
    }
}

fn instant(value: &Value) -> Option<Timestamp> {
    let text = value.as_str()?.trim();
    text.parse().ok().or_else(|| format!("{text}Z").parse().ok())
}

fn is_link(url: &str) -> bool {
    (url.starts_with("https://") || url.starts_with("http://"))
        && !url.contains(|c: char| c.is_whitespace() || c.is_control())
}

#[cfg(test)]
#[path = "rest_tests.rs"]
mod tests;
