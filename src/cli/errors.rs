//! `nightcrew errors`: what the intake has received, by group; with an id one of them whole.

use std::time::Duration;

use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::args::ErrorsArgs;
use super::session::Session;
use super::ui::{clip, table};
use super::{Exit, Trouble};
use crate::base::clock::Timestamp;
use crate::domain::error_group::{ErrorDrops, ErrorGroupLine};
use crate::journal::Reader;
use crate::policy::errors::group::{Row, row_of};
use crate::ports::source::ErrorShelf as _;

/// Columns of a title and of a place in the table.
const TITLE: usize = 60;
const PLACE: usize = 40;
/// For how long it is told what was refused.
const DROPS: Duration = Duration::from_secs(86_400);

pub fn run(session: &Session, args: &ErrorsArgs) -> anyhow::Result<Exit> {
    let reader = session.reader()?;
    if let (Some(project), Some(issue)) = (&args.project, &args.issue) {
        return one(session, reader.as_ref(), project, issue);
    }
    let now = session.env.now();
    let project = args.project.as_deref();
    let (lines, drops) = match &reader {
        Some(reader) => {
            let since = now.saturating_sub(DROPS).unwrap_or(Timestamp::MIN);
            let mut drops = reader.error_drops(since)?;
            drops.retain(|drop| project.is_none_or(|project| drop.project == project));
            (reader.error_groups(project, args.limit)?, drops)
        }
        None => (Vec::new(), Vec::new()),
    };
    if session.ui.json {
        session.ui.data_json(&json!({ "errors": lines, "not_taken_in_24h": drops }))?;
        return Ok(Exit::Done);
    }
    match lines.is_empty() {
        true => session.ui.data("no error was received yet")?,
        false => session.ui.data(shown(&lines))?,
    }
    if lines.len() == args.limit as usize {
        session.ui.say(format!("the newest {}; more with --limit", args.limit));
    }
    for drop in &drops {
        session.ui.say(refused(drop));
    }
    Ok(Exit::Done)
}

fn one(session: &Session, reader: Option<&Reader>, project: &str, issue: &str) -> anyhow::Result<Exit> {
    let none = || {
        let trouble =
            Trouble::new(Exit::No, format!("there is no error `{}` in `{}`", clip(issue, 40), clip(project, 40)));
        anyhow::Error::from(trouble.help(session.again("errors")))
    };
    let reader = reader.ok_or_else(none)?;
    let lines = reader.error_groups(Some(project), u32::MAX)?;
    let fits = |line: &&ErrorGroupLine| line.id.eq_ignore_ascii_case(issue) || line.key.eq_ignore_ascii_case(issue);
    let line = lines.iter().find(fits).ok_or_else(none)?;
    let group = reader.group(project, &line.key).map_err(anyhow::Error::msg)?.ok_or_else(none)?;
    let row = row_of(&group);
    if session.ui.json {
        let events = reader.error_events(project, &line.key)?;
        session.ui.data_json(&json!({"error": line, "item": row, "events": events}))?;
    } else {
        session.ui.data(whole(line, &row))?;
    }
    Ok(Exit::Done)
}

fn shown(lines: &[ErrorGroupLine]) -> String {
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|line| {
            vec![
                line.id.clone(),
                clip(&line.project, 20),
                line.level.clone(),
                line.count.to_string(),
                line.users.to_string(),
                moment(line.last_seen),
                clip(line.releases.last().map_or("", String::as_str), 24),
                clip(&line.culprit, PLACE),
                clip(&line.title, TITLE),
            ]
        })
        .collect();
    table(&["ID", "PROJECT", "LEVEL", "TIMES", "USERS", "SEEN (UTC)", "RELEASE", "WHERE", "WHAT"], &rows, &[3, 4])
}

/// One group for people: what, how often, and the innermost calls.
fn whole(line: &ErrorGroupLine, row: &Row) -> String {
    let people = match line.users {
        0 => String::new(),
        1 => " by 1 person".into(),
        n => format!(" by {n} people"),
    };
    let times = if line.count == 1 { "once".into() } else { format!("{} times", line.count) };
    let mut out = vec![
        format!("{}  {}", line.id, clip(&line.title, 160)),
        format!("seen {times}{people}, from {} to {} (UTC)", moment(line.first_seen), moment(line.last_seen)),
    ];
    let list = |label: &str, names: &[String]| {
        let names: Vec<String> = names.iter().map(|name| clip(name, 60)).collect();
        (!names.is_empty()).then(|| format!("{label}: {}", names.join(", ")))
    };
    out.extend(list("releases", &line.releases));
    out.extend(list("environments", &line.environments));
    let frames = row.get("stacktrace").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for frame in frames.iter().rev().filter(|frame| frame["in_app"] == true).take(8) {
        let text = |name: &str| clip(frame[name].as_str().unwrap_or_default(), 80);
        let line = frame["line"].as_u64().map_or_else(String::new, |line| format!(":{line}"));
        out.push(format!("  {}{line}  {}", text("file"), text("function")));
    }
    out.join("\n")
}

fn refused(drop: &ErrorDrops) -> String {
    let why = match drop.reason.as_str() {
        "limit" => "above the project's `max_per_minute`; the SDKs were told to wait",
        "busy" => "more at once than can be written; the SDKs were told to wait",
        "unwritable" => "while nothing could be written",
        "too_large" => "larger than 1 MB",
        "unreadable" => "that were no JSON",
        "groups" => "groups given up: there were too many, these were seen last the longest ago",
        "bytes" => "kept events given up for room; they stay counted",
        "users" => "users not told apart: there were too many",
        other => other,
    };
    format!("{}: in 24 h {} {why}", clip(&drop.project, 40), drop.count)
}

fn moment(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_shown_in_a_table_and_one_of_them_whole() {
        let line = ErrorGroupLine {
            project: "api".into(),
            id: "E-3F9C1A".into(),
            key: "3f9c1a0000000000".into(),
            title: "KeyError: 'sku'\u{1b}[2J".into(),
            culprit: "price in shop/cart.py".into(),
            level: "error".into(),
            platform: "python".into(),
            count: 412,
            users: 37,
            first_seen: "2026-11-17T22:15:08Z".parse().unwrap(),
            last_seen: "2026-11-20T07:00:00Z".parse().unwrap(),
            releases: vec!["1.0".into(), "1.1".into()],
            environments: vec!["production".into()],
            levels: vec!["error".into()],
            kept: 10,
            told_at: None,
        };
        let table = shown(std::slice::from_ref(&line));
        let mut rows = table.lines();
        assert_eq!(
            rows.next().unwrap(),
            "ID        PROJECT  LEVEL  TIMES  USERS  SEEN (UTC)        RELEASE  WHERE                  WHAT"
        );
        assert!(
            rows.next().unwrap().starts_with("E-3F9C1A  api      error    412     37  2026-11-20 07:00  1.1"),
            "{table}"
        );
        let row = json!({"stacktrace": [
            {"file": "shop/app.py", "function": "main", "line": 3, "in_app": true},
            {"file": "lib.py", "function": "call", "line": 1, "in_app": false},
            {"file": "shop/cart.py", "function": "price", "line": 41, "in_app": true}
        ]});
        assert_eq!(
            whole(&line, row.as_object().unwrap()),
            "E-3F9C1A  KeyError: 'sku'[2J\nseen 412 times by 37 people, from 2026-11-17 22:15 to 2026-11-20 07:00 (UTC)\n\
             releases: 1.0, 1.1\nenvironments: production\n  shop/cart.py:41  price\n  shop/app.py:3  main"
        );
    }
}
