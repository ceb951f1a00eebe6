//! One finding as JSON a line, in the field names that tools usually have; or one JSON list of such objects.

use serde_json::{Map, Value};

use super::{Found, Scanned, relative, severity};

const FILE: &[&str] = &["file", "path", "filename", "file_path", "file_name"];
const LINE: &[&str] = &["line", "line_number", "lineno", "start_line", "row"];
const RULE: &[&str] = &["rule", "code", "check", "rule_id", "check_id", "check_name", "test_id", "id"];
const MESSAGE: &[&str] = &["message", "msg", "description", "text", "title", "issue_text"];
const SEVERITY: &[&str] = &["severity", "level", "issue_severity", "type"];
const SYMBOL: &[&str] = &["symbol", "function", "object", "obj"];
/// Objects in which the fields above may stand as well.
const NESTED: &[&str] = &["location", "start", "extra"];

/// Findings, one a line. Objects without a file are counted as outside; what is no JSON is a mistake, for people.
pub fn jsonl(text: &str, scanner: &str, roots: &[String]) -> Result<Vec<Scanned>, String> {
    let mut scanned = Scanned::new(scanner);
    let text = text.trim();
    if text.starts_with('[') {
        let list: Vec<Value> = serde_json::from_str(text).map_err(|error| format!("this is no JSON list: {error}"))?;
        list.iter().for_each(|item| take(item, roots, &mut scanned));
        return Ok(vec![scanned]);
    }
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let item: Value =
            serde_json::from_str(line).map_err(|error| format!("line {} is no JSON: {error}", number + 1))?;
        take(&item, roots, &mut scanned);
    }
    Ok(vec![scanned])
}

fn take(item: &Value, roots: &[String], into: &mut Scanned) {
    let found = item.as_object().and_then(|fields| finding(fields, roots));
    match found {
        Some(found) => into.push(found),
        None => into.outside = into.outside.saturating_add(1),
    }
}

fn finding(fields: &Map<String, Value>, roots: &[String]) -> Option<Found> {
    let file = relative(&text(fields, FILE)?, roots)?;
    let line = find(fields, LINE).and_then(|line| match line {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    });
    let rule = text(fields, RULE).unwrap_or_else(|| "finding".into());
    Some(Found {
        message: text(fields, MESSAGE).unwrap_or_else(|| rule.clone()),
        rule,
        file,
        line: line.and_then(|line| u32::try_from(line).ok()).unwrap_or(0),
        severity: severity(&text(fields, SEVERITY).unwrap_or_default()),
        symbol: text(fields, SYMBOL).filter(|symbol| !symbol.is_empty()),
        ..Found::default()
    })
}

/// The first of these fields that is a scalar, at the top or in a place where tools put it.
fn find<'a>(fields: &'a Map<String, Value>, names: &[&str]) -> Option<&'a Value> {
    let here = |fields: &'a Map<String, Value>| {
        names.iter().find_map(|name| fields.get(*name).filter(|value| value.is_string() || value.is_number()))
    };
    here(fields).or_else(|| NESTED.iter().find_map(|nested| here(fields.get(*nested)?.as_object()?)))
}

fn text(fields: &Map<String, Value>, names: &[&str]) -> Option<String> {
    match find(fields, names)? {
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}
