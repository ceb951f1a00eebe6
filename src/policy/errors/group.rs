//! Events grouped into issues, one row per group, the newest first: for every source of errors the same. Pure.
//!
//! Groups are found as Sentry's SDKs expect:
//! by the fingerprint that the application gave, else by platform, exception types and the innermost frames of its own code,
//! else by the message without its variable parts. Line numbers never count, so a release does not make an old error new.
//! Rows are capped in every direction; who the users are stays here, only their number leaves.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::event::{Frame, Report};
use crate::base::hash::Hash;
use crate::domain::error_group::ErrorGroup;

/// One work item for steps: see [`row`].
pub type Row = Map<String, Value>;

/// Innermost frames of the application's own code that tell groups apart.
const GROUPING_FRAMES: usize = 4;
const SHOWN_FRAMES: usize = 30;
const SHOWN_CRUMBS: usize = 10;
const SHOWN_TAGS: usize = 30;
const TITLE: usize = 160;
const MESSAGE: usize = 2_000;
const LINE: usize = 300;

/// One row per group, the one seen last first.
pub fn group(reports: &[Report]) -> Vec<Row> {
    let mut groups: BTreeMap<String, Vec<&Report>> = BTreeMap::new();
    for report in reports {
        groups.entry(key(report)).or_default().push(report);
    }
    let mut rows: Vec<(Timestamp, Row)> = groups
        .into_iter()
        .map(|(key, mut reports)| {
            reports.sort_by_key(|report| report.at);
            let last = reports.last().map_or_else(Timestamp::default, |report| report.at);
            (last, row(&key, &reports))
        })
        .collect();
    // Ties keep the order of the keys, so that two reads of the same files are equal.
    rows.sort_by_key(|(last, _)| std::cmp::Reverse(*last));
    rows.into_iter().map(|(_, row)| row).collect()
}

/// The identity of the group that an event belongs to: 16 hex digits.
pub fn key(report: &Report) -> String {
    let default = default_parts(report);
    let parts = if report.fingerprint.is_empty() {
        default
    } else {
        let own = report.fingerprint.iter().flat_map(|part| match part.trim() {
            "{{ default }}" | "{{default}}" => default.clone(),
            part => vec![part.to_owned()],
        });
        std::iter::once("fingerprint".to_owned()).chain(own).collect()
    };
    Hash::of_parts(parts.iter().map(String::as_bytes)).to_string()[..16].to_owned()
}

fn default_parts(report: &Report) -> Vec<String> {
    let types = report.exceptions.iter().map(|(ty, _)| ty.clone());
    let own: Vec<&Frame> = report.frames.iter().filter(|frame| frame.in_app).collect();
    let frames: Vec<String> = own.iter().rev().take(GROUPING_FRAMES).filter_map(|frame| place(frame)).collect();
    if !frames.is_empty() && !report.exceptions.is_empty() {
        return ["frames".to_owned(), report.platform.clone()].into_iter().chain(types).chain(frames).collect();
    }
    let (ty, value) = report.exceptions.last().cloned().unwrap_or_default();
    let message =
        report.template.clone().or_else(|| report.message.clone()).filter(|_| value.is_empty()).unwrap_or(value);
    vec!["message".to_owned(), ty, parameterise(&message)]
}

/// Module and function without what differs between two builds of the same code.
fn place(frame: &Frame) -> Option<String> {
    let module = frame.module.clone().or_else(|| frame.file.as_deref().map(|file| file.replace('\\', "/")));
    let function = frame.function.as_deref().map(|function| match function.rsplit_once("::h") {
        Some((name, hash)) if hash.len() == 16 && hash.chars().all(|c| c.is_ascii_hexdigit()) => name,
        _ => function,
    });
    match (module, function) {
        (None, None) => None,
        (module, function) => Some(format!("{}\u{0}{}", module.unwrap_or_default(), function.unwrap_or_default())),
    }
}

/// A message without its numbers, ids and hashes: `user 42 not found` → `user <n> not found`.
pub fn parameterise(message: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    let flush = |word: &mut String, out: &mut String| {
        let plain: String = word.chars().filter(|c| *c != '-').collect();
        let hex = plain.chars().all(|c| c.is_ascii_hexdigit());
        let digits = word.chars().any(|c| c.is_ascii_digit());
        let number =
            digits && word.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '-' | ',' | 'e' | 'E' | '_'));
        out.push_str(match word.as_str() {
            w if hex && plain.len() == 32 && w.matches('-').count() == 4 => "<uuid>",
            w if w.strip_prefix("0x").is_some_and(|h| !h.is_empty() && h.chars().all(|c| c.is_ascii_hexdigit())) => {
                "<hex>"
            }
            _ if number => "<n>",
            _ if hex && digits && plain.len() >= 8 => "<hex>",
            w => w,
        });
        word.clear();
    };
    for c in message.chars().take(MESSAGE) {
        if c.is_alphanumeric() || matches!(c, '-' | '.' | '_') {
            word.push(c);
        } else {
            flush(&mut word, &mut out);
            out.push(c);
        }
    }
    flush(&mut word, &mut out);
    out
}

/// A group's name for people: `E-` and the first six digits of its key.
pub fn id(key: &str) -> String {
    format!("E-{}", key.get(..6).unwrap_or(key).to_ascii_uppercase())
}

/// What was said: the value of the exception thrown last, else the message.
fn message(report: &Report) -> String {
    let value = report.exceptions.last().map(|(_, value)| value.clone()).unwrap_or_default();
    if value.is_empty() {
        report.message.clone().or_else(|| report.template.clone()).unwrap_or_default()
    } else {
        value
    }
}

/// Type and first line of what was said, capped.
pub fn title(report: &Report) -> String {
    let ty = report.exceptions.last().map(|(ty, _)| ty.clone()).unwrap_or_default();
    let message = message(report);
    let head = message.lines().next().unwrap_or_default();
    let title = match (ty.is_empty(), head.is_empty()) {
        (true, true) => "(an event without message)".to_owned(),
        (true, false) => head.to_owned(),
        (false, true) => ty,
        (false, false) => format!("{ty}: {head}"),
    };
    clip(&title, TITLE)
}

/// Where it comes from: the innermost frame of the application's own code, else the transaction; capped.
pub fn culprit(report: &Report) -> String {
    let inner = report.frames.iter().rev().find(|frame| frame.in_app).or(report.frames.last());
    let culprit = inner.map_or_else(
        || report.transaction.clone().unwrap_or_default(),
        |frame| {
            let (function, file) = (frame.function.as_deref(), frame.file.as_deref().or(frame.module.as_deref()));
            match (function, file) {
                (Some(function), Some(file)) => format!("{function} in {file}"),
                (one, other) => one.or(other).unwrap_or_default().to_owned(),
            }
        },
    );
    clip(&culprit, LINE)
}

/// The row of a group from its events, oldest first. Fields: `key id title type message culprit level platform count users
/// first_seen last_seen release environment exceptions stacktrace breadcrumbs tags url`. `count` and `users` are those of the
/// events given.
pub fn row(key: &str, reports: &[&Report]) -> Row {
    let (Some(first), Some(last)) = (reports.first(), reports.last()) else { return Row::new() };
    let ty = last.exceptions.last().map(|(ty, _)| ty.clone()).unwrap_or_default();
    let message = message(last);
    let users: BTreeSet<&str> = reports.iter().filter_map(|report| report.user.as_deref()).collect();
    // The innermost frames are the ones that tell something.
    let frames = &last.frames[last.frames.len().saturating_sub(SHOWN_FRAMES)..];
    let crumbs = &last.breadcrumbs[last.breadcrumbs.len().saturating_sub(SHOWN_CRUMBS)..];
    let chain: Vec<Value> =
        last.exceptions.iter().map(|(ty, value)| json!({"type": ty, "value": clip(value, LINE)})).collect();
    let mut row = Map::new();
    let mut put = |name: &str, value: Value| drop(row.insert(name.to_owned(), value));
    put("key", key.into());
    put("id", id(key).into());
    put("title", title(last).into());
    put("type", ty.into());
    put("message", clip(&message, MESSAGE).into());
    put("culprit", culprit(last).into());
    put("level", last.level.clone().into());
    put("platform", last.platform.clone().into());
    put("count", reports.len().into());
    put("users", users.len().into());
    put("first_seen", first.at.to_string().into());
    put("last_seen", last.at.to_string().into());
    put("release", last.release.clone().unwrap_or_default().into());
    put("environment", last.environment.clone().unwrap_or_default().into());
    put("exceptions", chain.into());
    put("stacktrace", frames.iter().map(shown_frame).collect());
    put("breadcrumbs", crumbs.iter().map(shown_crumb).collect());
    put("tags", last.tags.iter().take(SHOWN_TAGS).map(|(k, v)| (k.clone(), clip_value(v))).collect());
    put("url", clip(last.url.as_deref().unwrap_or_default(), LINE).into());
    row
}

/// The row of a group that is counted elsewhere: that of its newest event, with the group's own counts, times and `releases`.
pub fn row_of(group: &ErrorGroup) -> Row {
    let mut row = if group.event.is_object() {
        let newest = Report::read(group.event.clone(), group.last_seen);
        self::row(&group.key, &[&newest])
    } else {
        // The event is not kept any more; what is counted still is.
        let texts = ["type", "culprit", "level", "platform", "release", "environment", "url"];
        let mut row: Row = texts.into_iter().map(|name| (name.to_owned(), Value::from(""))).collect();
        row.extend(["exceptions", "stacktrace", "breadcrumbs"].map(|name| (name.to_owned(), json!([]))));
        row.insert("tags".into(), json!({}));
        row.insert("message".into(), group.title.clone().into());
        row.insert("title".into(), group.title.clone().into());
        row
    };
    row.insert("key".into(), group.key.clone().into());
    row.insert("id".into(), group.id.clone().into());
    row.insert("count".into(), group.count.into());
    row.insert("users".into(), group.users.into());
    row.insert("first_seen".into(), group.first_seen.to_string().into());
    row.insert("last_seen".into(), group.last_seen.to_string().into());
    row.insert("releases".into(), group.releases.clone().into());
    row
}

fn shown_frame(frame: &Frame) -> Value {
    let context: Vec<String> =
        frame.context.iter().map(|(line, text)| format!("{line}: {}", clip(text, LINE))).collect();
    json!({
        "file": frame.file.as_deref().map(|text| clip(text, LINE)),
        "function": frame.function.as_deref().or(frame.module.as_deref()).map(|text| clip(text, LINE)),
        "line": frame.line,
        "in_app": frame.in_app,
        "context": context,
    })
}

fn shown_crumb(crumb: &Value) -> Value {
    let mut shown = Map::new();
    for name in ["timestamp", "category", "level", "message", "data"] {
        match crumb.get(name) {
            Some(Value::Object(data)) => {
                let data = data.iter().take(8).map(|(key, value)| (key.clone(), clip_value(value)));
                shown.insert(name.into(), Value::Object(data.collect()));
            }
            Some(found) => drop(shown.insert(name.into(), clip_value(found))),
            None => {}
        }
    }
    Value::Object(shown)
}

fn clip_value(value: &Value) -> Value {
    match value {
        Value::String(text) => clip(text, LINE).into(),
        Value::Array(_) | Value::Object(_) => clip(&value.to_string(), LINE).into(),
        scalar => scalar.clone(),
    }
}

/// The first `most` characters.
pub(super) fn clip(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
#[path = "group_tests.rs"]
mod tests;
