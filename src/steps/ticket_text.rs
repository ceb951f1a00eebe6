//! From data to a ticket, by shape: a group of findings, an error, a cause, a fix that was not proved. Pure.
//!
//! The host's own words stand around what a model said; what the ticket is about is told by keys alone.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::domain::proposal::{TicketFinding, TicketText};
use crate::expr::cel::Bindings;

use super::data::Datum;
use super::each::item_key;

/// Frames of a stack trace that are shown, the innermost.
const MOST_FRAMES: usize = 15;
/// Findings of a list that are taken apart.
const MOST_FINDINGS: usize = 200;

/// What the data says, and what it is about.
#[derive(Default)]
pub(super) struct Told {
    pub text: TicketText,
    /// Keys of what the data is about, in order.
    pub keys: Vec<String>,
    /// For the readable part of the key: an exception's type, a rule.
    pub words: String,
}

/// Reads the data. Of several that say the same, the first counts.
pub(super) fn read(from: &[Datum], scope: &Bindings) -> Told {
    let mut told = Told::default();
    for datum in from.iter().filter(|datum| !datum.is_empty()) {
        match &datum.value {
            Value::Object(fields) => object(&datum.label, fields, &mut told),
            Value::Array(items) => {
                for item in items.iter().take(MOST_FINDINGS) {
                    match item.as_object() {
                        Some(fields) => finding(fields, &mut told),
                        None => section(&mut told, &title_of(&datum.label), &plain(item)),
                    }
                }
            }
            other => section(&mut told, &title_of(&datum.label), &plain(other)),
        }
    }
    details(&mut told, scope);
    if told.text.title.is_empty() {
        told.text.title = match told.text.findings.as_slice() {
            [] => String::new(),
            [one] => one.title.clone(),
            [one, more @ ..] => format!("{} and {} more", one.title, more.len()),
        };
    }
    told
}

fn object(label: &str, fields: &Map<String, Value>, told: &mut Told) {
    let has = |name: &str| fields.contains_key(name);
    if fields.get("members").is_some_and(Value::is_array) {
        group(fields, told);
    } else if has("proved") {
        fix(fields, told);
    } else if has("stacktrace") || has("exceptions") || has("culprit") {
        error(fields, told);
    } else if has("root_cause") {
        cause(fields, told);
    } else if has("key") && (has("rule") || has("file")) {
        finding(fields, told);
    } else {
        other(label, fields, told);
    }
}

fn group(fields: &Map<String, Value>, told: &mut Told) {
    let ticket = &mut told.text;
    set(&mut ticket.title, text(fields, "title"));
    set(&mut ticket.harm, text(fields, "harm"));
    ticket.severity = ticket.severity.take().or(some(text(fields, "severity")));
    ticket.accept.extend(texts(fields, "accept"));
    for key in texts(fields, "members") {
        told.text.findings.push(TicketFinding { fingerprint: key.clone(), ..TicketFinding::default() });
        told.keys.push(key);
    }
}

fn error(fields: &Map<String, Value>, told: &mut Told) {
    let ticket = &mut told.text;
    let title = [text(fields, "title"), text(fields, "message")].into_iter().find(|title| !title.is_empty());
    let title = title.unwrap_or_default();
    set(&mut ticket.title, title.clone());
    ticket.severity = ticket.severity.take().or(some(text(fields, "level")));
    let (message, culprit) = (text(fields, "message"), text(fields, "culprit"));
    if ticket.harm.is_empty() {
        let users = fields.get("users").and_then(Value::as_u64).unwrap_or(0);
        let whom = match users {
            0 => String::new(),
            1 => "One user meets it. ".to_owned(),
            n => format!("{n} users meet it. "),
        };
        ticket.harm = format!("{whom}{message}").trim().to_owned();
    }
    for (name, shown) in [
        ("count", "times"),
        ("users", "users"),
        ("first_seen", "first seen"),
        ("last_seen", "last seen"),
        ("release", "release"),
        ("environment", "environment"),
        ("id", "issue"),
    ] {
        let value = fields.get(name).map(plain).unwrap_or_default();
        if !value.is_empty() {
            ticket.facts.push((shown.to_owned(), value));
        }
    }
    let trace = trace(fields);
    if !trace.is_empty() {
        ticket.code.push(("Stack trace, innermost last".into(), trace));
    }
    if ticket.accept.is_empty() {
        ticket.accept.push("a test fails because of it on this code, and passes afterwards".into());
        ticket.accept.push("it is not seen again in a later release".into());
    }
    let (file, line) = innermost(fields);
    let key = item_key_of(fields);
    ticket.findings.push(TicketFinding {
        fingerprint: key.clone(),
        title: if culprit.is_empty() { title.clone() } else { culprit },
        file,
        line,
        quote: None,
    });
    told.keys.push(key);
    let words = [text(fields, "type"), title].into_iter().find(|words| !words.is_empty()).unwrap_or_default();
    set(&mut told.words, words);
    // What an intern said when it sorted the error: the reason why nothing was tried, where nothing was.
    let heading = match text(fields, "class") {
        class if class.is_empty() => "How it was sorted".to_owned(),
        class => format!("Sorted as {}", class.replace('_', " ")),
    };
    section(told, &heading, &text(fields, "why"));
}

fn cause(fields: &Map<String, Value>, told: &mut Told) {
    let files = texts(fields, "files");
    let mut found = text(fields, "root_cause");
    if !files.is_empty() {
        let list: Vec<String> = files.iter().map(|file| format!("`{}`", file.replace('`', "'"))).collect();
        found = format!("{found}\n\nIn {}", list.join(", "));
    }
    let risk = text(fields, "risk");
    if !risk.is_empty() {
        found = format!("{found}\n\nRisk of a change: {risk}");
    }
    section(told, "Root cause", &found);
}

/// Why there is a ticket and no pull request.
fn fix(fields: &Map<String, Value>, told: &mut Told) {
    if fields.get("proved") == Some(&Value::Bool(true)) {
        return;
    }
    let mut why = texts(fields, "why");
    let refused = texts(fields, "refused");
    why.extend(refused.into_iter().map(|refused| format!("refused by policy: {refused}")));
    if why.is_empty() {
        why.push("no patch was proved".into());
    }
    section(told, "Why it was not fixed", &why.join("\n\n"));
    section(told, "What was tried", &text(fields, "summary"));
    if told.text.sections.iter().all(|(heading, _)| heading != "Root cause") {
        section(told, "Root cause", &text(fields, "root_cause"));
    }
}

fn finding(fields: &Map<String, Value>, told: &mut Told) {
    let key = item_key_of(fields);
    if told.keys.contains(&key) {
        return;
    }
    told.text.findings.push(finding_of(key.clone(), fields));
    told.keys.push(key);
    set(&mut told.words, text(fields, "rule"));
}

fn finding_of(fingerprint: String, fields: &Map<String, Value>) -> TicketFinding {
    let (rule, message) = (text(fields, "rule"), text(fields, "message"));
    let title = match (rule.is_empty(), message.is_empty()) {
        // A pattern's message repeats it.
        (false, false) if message.contains(&rule) => message,
        (false, false) => format!("{message} ({rule})"),
        (false, true) => rule,
        (true, _) => [message, text(fields, "title")].into_iter().find(|t| !t.is_empty()).unwrap_or_default(),
    };
    TicketFinding {
        fingerprint,
        title,
        file: some(text(fields, "file")),
        line: fields.get("line").and_then(Value::as_u64).and_then(|line| u32::try_from(line).ok()).filter(|n| *n > 0),
        quote: some(text(fields, "quote")).or(some(text(fields, "source")).filter(|source| !source.contains('\n'))),
    }
}

fn other(label: &str, fields: &Map<String, Value>, told: &mut Told) {
    set(&mut told.text.title, text(fields, "title"));
    if let Some(key) = fields.get("key").and_then(Value::as_str) {
        told.keys.push(key.to_owned());
    }
    for (name, value) in fields {
        let about = matches!(name.as_str(), "title" | "key" | "ran" | "outcome" | "failure" | "items" | "count");
        if !about && value.is_string() {
            let heading = if fields.len() > 2 { title_of(name) } else { title_of(label) };
            section(told, &heading, &plain(value));
        }
    }
}

/// What earlier steps in scope know of the members: file, line, rule, the deciding quote.
fn details(told: &mut Told, scope: &Bindings) {
    let mut known: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    let items = scope.0.values().filter_map(|result| result.get("items")?.as_array());
    for item in items.flatten().filter_map(Value::as_object) {
        let Some(key) = item.get("key").and_then(Value::as_str) else { continue };
        if !told.keys.iter().any(|own| own == key) {
            continue;
        }
        let fields = known.entry(key).or_default();
        for (name, value) in item.iter().filter(|(_, value)| !value.is_null()) {
            fields.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    for member in &mut told.text.findings {
        let Some(fields) = known.get(member.fingerprint.as_str()) else { continue };
        let found = finding_of(member.fingerprint.clone(), fields);
        if member.title.is_empty() {
            member.title = found.title;
        }
        member.file = member.file.take().or(found.file);
        member.line = member.line.or(found.line);
        member.quote = member.quote.take().or(found.quote);
    }
    let mut rules: Vec<String> = known.values().map(|fields| text(fields, "rule")).filter(|r| !r.is_empty()).collect();
    rules.sort();
    if let Some(rule) = rules.first() {
        set(&mut told.words, rule.clone());
    }
}

fn trace(fields: &Map<String, Value>) -> String {
    let mut lines = Vec::new();
    let frames = fields.get("stacktrace").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for frame in &frames[frames.len().saturating_sub(MOST_FRAMES)..] {
        let place =
            [frame["file"].as_str().unwrap_or("?"), &frame["line"].as_u64().map(|n| n.to_string()).unwrap_or_default()]
                .iter()
                .filter(|part| !part.is_empty())
                .copied()
                .collect::<Vec<_>>()
                .join(":");
        let own = if frame["in_app"] == true { "" } else { "  (not our code)" };
        lines.push(format!("{place} in {}{own}", frame["function"].as_str().unwrap_or("?")));
    }
    for exception in fields.get("exceptions").and_then(Value::as_array).into_iter().flatten() {
        let (ty, value) =
            (exception["type"].as_str().unwrap_or_default(), exception["value"].as_str().unwrap_or_default());
        lines.push(format!("{ty}: {value}").trim_matches([':', ' ']).to_owned());
    }
    lines.join("\n")
}

/// Where it happened in our own code.
fn innermost(fields: &Map<String, Value>) -> (Option<String>, Option<u32>) {
    let frames = fields.get("stacktrace").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let frame = frames.iter().rev().find(|frame| frame["in_app"] == true);
    let line = frame.and_then(|frame| u32::try_from(frame["line"].as_u64()?).ok());
    (frame.and_then(|frame| some(frame["file"].as_str()?.to_owned())), line)
}

/// The raw key of an item, as the model names it and the ledger keeps it.
pub(super) fn item_key_of(fields: &Map<String, Value>) -> String {
    match fields.get("key").and_then(Value::as_str).filter(|key| !key.trim().is_empty()) {
        Some(key) => key.to_owned(),
        None => item_key(&Value::Object(fields.clone())),
    }
}

fn section(told: &mut Told, heading: &str, found: &str) {
    if !found.trim().is_empty() {
        told.text.sections.push((heading.to_owned(), found.trim().to_owned()));
    }
}

fn title_of(name: &str) -> String {
    let words = name.replace(['_', '.'], " ");
    let mut chars = words.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

fn set(place: &mut String, value: String) {
    if place.trim().is_empty() {
        *place = value;
    }
}

fn some(text: String) -> Option<String> {
    (!text.trim().is_empty()).then_some(text)
}

fn text(fields: &Map<String, Value>, name: &str) -> String {
    fields.get(name).and_then(Value::as_str).unwrap_or_default().trim().to_owned()
}

/// A text, or a list of them.
fn texts(fields: &Map<String, Value>, name: &str) -> Vec<String> {
    match fields.get(name) {
        Some(Value::Array(items)) => items.iter().map(plain).filter(|text| !text.is_empty()).collect(),
        Some(Value::String(text)) if !text.trim().is_empty() => vec![text.clone()],
        _ => Vec::new(),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.trim().to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn datum(label: &str, value: Value) -> Datum {
        Datum { label: label.into(), value, skipped: false }
    }

    #[test]
    fn a_groups_members_get_their_places_from_the_steps_before() {
        let mut scope = Bindings::default();
        scope.set("scan", json!({"items": [
            {"key": "f-1", "rule": "clippy::unwrap_used", "file": "src/a.rs", "line": 3, "message": "may panic", "source": "x\ny"},
            {"key": "f-9", "rule": "aaa", "file": "src/z.rs"},
        ]}));
        scope.set("real", json!({"items": [{"key": "f-1", "quote": "x.unwrap()"}]}));
        let group = json!({"title": "Panics", "harm": "It stops.", "severity": "high", "members": ["f-1", "f-2"], "accept": ["a"]});
        let told = read(&[datum("group", group)], &scope);
        assert_eq!(
            (told.keys.as_slice(), told.words.as_str()),
            (["f-1".to_owned(), "f-2".into()].as_slice(), "clippy::unwrap_used")
        );
        let first = &told.text.findings[0];
        assert_eq!(
            (first.title.as_str(), first.file.as_deref(), first.line),
            ("may panic (clippy::unwrap_used)", Some("src/a.rs"), Some(3))
        );
        assert_eq!(first.quote.as_deref(), Some("x.unwrap()"));
        assert_eq!((told.text.title.as_str(), told.text.severity.as_deref()), ("Panics", Some("high")));
    }

    #[test]
    fn an_error_with_its_cause_and_an_unproved_fix_is_one_ticket() {
        let error = json!({"key": "k1", "id": "API-1", "title": "ParseError: bad", "type": "ParseError", "message": "bad",
            "culprit": "parse in src/d.rs", "users": 37, "count": 412, "first_seen": "a", "level": "error",
            "stacktrace": [{"file": "lib/x.rs", "line": 1, "function": "f", "in_app": false},
                {"file": "src/d.rs", "line": 41, "function": "parse", "in_app": true}],
            "exceptions": [{"type": "ParseError", "value": "bad"}]});
        let cause = json!({"root_cause": "The sign.", "files": ["src/d.rs"], "risk": "low"});
        let fix = json!({"proved": false, "why": ["no test fails"], "refused": ["ci"], "summary": "tried"});
        let told = read(&[datum("error", error), datum("cause", cause), datum("fix", fix)], &Bindings::default());
        let ticket = &told.text;
        assert_eq!((told.keys.as_slice(), told.words.as_str()), (["k1".to_owned()].as_slice(), "ParseError"));
        assert_eq!((ticket.title.as_str(), ticket.harm.as_str()), ("ParseError: bad", "37 users meet it. bad"));
        let headings: Vec<&str> = ticket.sections.iter().map(|(heading, _)| heading.as_str()).collect();
        assert_eq!(headings, ["Root cause", "Why it was not fixed", "What was tried"]);
        assert_eq!(ticket.sections[1].1, "no test fails\n\nrefused by policy: ci");
        assert_eq!(ticket.code[0].1, "lib/x.rs:1 in f  (not our code)\nsrc/d.rs:41 in parse\nParseError: bad");
        assert_eq!((ticket.findings[0].file.as_deref(), ticket.findings[0].line), (Some("src/d.rs"), Some(41)));
        let proved = read(&[datum("fix", json!({"proved": true, "why": []}))], &Bindings::default());
        assert!(proved.text.sections.is_empty());
    }
}
