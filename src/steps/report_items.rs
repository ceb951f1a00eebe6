//! Lists of errors, findings and tickets as tables that a person can read: what it is, how bad, where, and what came of it. Pure.
//!
//! Other lists keep all of their columns; these have far too many, and most of them are there for machines.

use serde_json::{Map, Value};

use crate::domain::report::ReportBlock;

/// Fields that a finding has from its scanner and the ledger; whatever else it has was said by a step about it.
const OF_FINDING: [&str; 14] = [
    "key",
    "rule",
    "file",
    "line",
    "message",
    "severity",
    "source",
    "source_from",
    "scanner",
    "symbol",
    "occurrences",
    "standing",
    "column",
    "end_line",
];
/// Fields about how an item went.
const ABOUT: [&str; 10] =
    ["ran", "outcome", "failure", "headline", "left_behind", "opened", "updated", "url", "published", "receipts"];
/// What a step said about a finding, at most so much of it.
const MOST_SAID: usize = 3;

type Row = Map<String, Value>;

/// The table for items of a known shape; `None`: they are of no such shape.
pub(super) fn table(label: &str, items: &[Value]) -> Option<ReportBlock> {
    let rows: Vec<&Row> = items.iter().filter_map(Value::as_object).collect();
    if rows.is_empty() || rows.len() != items.len() {
        return None;
    }
    let all = |names: &[&str]| rows.iter().all(|row| names.iter().all(|name| row.contains_key(*name)));
    let (columns, rows) = if all(&["title", "culprit", "users", "count"]) {
        errors(&rows)
    } else if all(&["rule", "file", "line", "message"]) {
        findings(&rows)
    } else if all(&["title", "published"]) {
        tickets(&rows)
    } else {
        return None;
    };
    Some(ReportBlock::Table { title: label.to_owned(), columns, rows })
}

type Table = (Vec<String>, Vec<Vec<Value>>);

fn names(columns: &[&str]) -> Vec<String> {
    columns.iter().map(|name| (*name).to_owned()).collect()
}

fn errors(rows: &[&Row]) -> Table {
    let classed = rows.iter().any(|row| row.contains_key("class"));
    let acted = rows.iter().any(|row| !came_of(row).is_empty());
    let mut columns = names(&["error", "users", "times", "last seen"]);
    columns.extend(classed.then(|| "class".to_owned()));
    columns.extend(acted.then(|| "what came of it".to_owned()));
    let cells = rows.iter().map(|row| {
        let mut cells =
            vec![text(row, "title").into(), row["users"].clone(), row["count"].clone(), day(row, "last_seen")];
        cells.extend(classed.then(|| row.get("class").cloned().unwrap_or_default()));
        cells.extend(acted.then(|| came_of(row).into()));
        cells
    });
    (columns, cells.collect())
}

fn findings(rows: &[&Row]) -> Table {
    let mut said: Vec<&str> = Vec::new();
    for (name, value) in rows.iter().copied().flatten() {
        let own = !OF_FINDING.contains(&name.as_str()) && !ABOUT.contains(&name.as_str());
        if own && !value.is_object() && !value.is_array() && !said.contains(&name.as_str()) && said.len() < MOST_SAID {
            said.push(name);
        }
    }
    let mut columns = names(&["where", "finding"]);
    columns.extend(names(&said));
    let cells = rows.iter().map(|row| {
        let place = match &row["line"] {
            Value::Null => text(row, "file"),
            line => format!("{}:{line}", text(row, "file")),
        };
        let mut cells = vec![Value::from(place), text(row, "message").into()];
        cells.extend(said.iter().map(|name| row.get(*name).cloned().unwrap_or_default()));
        cells
    });
    (columns, cells.collect())
}

fn tickets(rows: &[&Row]) -> Table {
    let has = |name: &str| rows.iter().any(|row| row.get(name).is_some_and(Value::is_string));
    let shown: Vec<&str> = ["title", "severity", "harm"].into_iter().filter(|name| has(name)).collect();
    let columns = shown.iter().map(|name| if *name == "title" { "ticket" } else { name }.to_owned()).collect();
    let cells = rows.iter().map(|row| shown.iter().map(|name| text(row, name).into()).collect());
    (columns, cells.collect())
}

/// What the steps of an item's own made of it, in a few words.
fn came_of(row: &Row) -> String {
    let steps = || row.values().filter_map(Value::as_object).filter(|step| step.get("ran") == Some(&Value::Bool(true)));
    let kind = |step: &Row| step.get("receipts").and_then(|receipts| receipts[0]["kind"].as_str().map(str::to_owned));
    let state = |step: &Row| step.get("published").and_then(|about| about["state"].as_str().map(str::to_owned));
    let mut words = Vec::new();
    if let Some(fix) = steps().find(|step| step.contains_key("proved")) {
        words.push(match (fix["proved"] == true, fix.get("outcome").and_then(Value::as_str)) {
            (true, _) => "fixed and proved".to_owned(),
            (false, Some(word)) => word.replace('_', " "),
            (false, None) => "not fixed".to_owned(),
        });
    }
    for step in steps() {
        let Some(state) = state(step) else { continue };
        let what = match kind(step).as_deref() {
            Some("pull_request") => "draft pull request",
            _ => "ticket",
        };
        words.push(match state.as_str() {
            "opened" => what.to_owned(),
            "would_have" => format!("would have opened a {what}"),
            state => format!("{what} {}", state.replace('_', " ")),
        });
    }
    words.join(", ")
}

fn text(row: &Row, name: &str) -> String {
    row.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// The day of a time, which is all that a person needs here.
fn day(row: &Row, name: &str) -> Value {
    let time = text(row, name);
    time.get(..10).filter(|_| time.get(10..11) == Some("T")).map_or_else(|| time.as_str().into(), Value::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(items: Value) -> (Vec<String>, Value) {
        match table("x", items.as_array().unwrap()) {
            Some(ReportBlock::Table { columns, rows, .. }) => (columns, json!(rows)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_error_is_a_line_with_what_came_of_it() {
        let error = |more: Value| {
            let mut row = json!({"key": "k", "id": "E-1", "title": "panic: x", "culprit": "f", "users": 5, "count": 6,
                "last_seen": "2026-11-19T05:58:02Z", "platform": "native"});
            row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            row
        };
        let draft = json!({"fix": {"ran": true, "proved": true, "outcome": "proved"},
            "draft": {"ran": true, "published": {"state": "opened"}, "receipts": [{"kind": "pull_request"}]},
            "ticket": {"ran": false}});
        let ticket = json!({"fix": {"ran": true, "proved": false, "outcome": "no_change"},
            "ticket": {"ran": true, "published": {"state": "would_have"}, "receipts": [{"kind": "ticket"}]}});
        let (columns, rows) = shown(json!([error(draft), error(ticket), error(json!({}))]));
        assert_eq!(columns, ["error", "users", "times", "last seen", "what came of it"]);
        assert_eq!(rows[0], json!(["panic: x", 5, 6, "2026-11-19", "fixed and proved, draft pull request"]));
        assert_eq!(rows[1][4], "no change, would have opened a ticket");
        assert_eq!(rows[2][4], "");
    }

    #[test]
    fn a_finding_is_where_what_and_what_was_said_of_it() {
        let (columns, rows) = shown(json!([
            {"key": "k", "rule": "r", "file": "a.rs", "line": 3, "message": "m", "source": "long", "scanner": "cargo",
                "verdict": "real", "confidence": 0.9, "quote": "q", "fourth": 4},
            {"key": "l", "rule": "r", "file": "b.rs", "line": null, "message": "n"},
        ]));
        assert_eq!(columns, ["where", "finding", "verdict", "confidence", "quote"]);
        assert_eq!(rows[0], json!(["a.rs:3", "m", "real", 0.9, "q"]));
        assert_eq!(rows[1], json!(["b.rs", "n", null, null, null]));
    }

    #[test]
    fn a_ticket_says_its_harm_and_anything_else_is_not_ours() {
        let (columns, rows) =
            shown(json!([{"title": "t", "harm": "h", "members": ["k"], "published": {}, "url": "u"}]));
        assert_eq!((columns, rows), (vec!["ticket".to_owned(), "harm".to_owned()], json!([["t", "h"]])));
        for other in [json!([]), json!([{"metric": "m"}]), json!([{"title": "t", "published": {}}, 3])] {
            assert_eq!(table("x", other.as_array().unwrap()), None);
        }
    }
}
