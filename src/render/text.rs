//! Words, numbers and times as people read them, the same on every surface. Pure.
//!
//! [`clean`] stands before every renderer: what a reader cannot see must not reach a report (hidden instructions, text that
//! runs backwards, escape sequences of a terminal).

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use crate::domain::activity::Receipt;
use crate::domain::money::Spend;
use crate::domain::run::Outcome;
use crate::domain::view::RunView;

/// `text` without control and format characters (Unicode Cc and Cf, and the tag and private blocks used to hide text), but
/// for newline and tab. Line ends become `\n`.
pub fn clean(text: &str) -> String {
    let unified = text.replace("\r\n", "\n");
    unified.chars().map(|c| if c == '\r' { '\n' } else { c }).filter(|c| is_visible(*c)).collect()
}

/// [`clean`], on one line.
pub fn line(text: &str) -> String {
    clean(text).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Newline and tab are; whatever [`clean`] takes out is not.
pub fn is_visible(c: char) -> bool {
    let format = matches!(
        u32::from(c),
        0xAD | 0x34F // soft hyphen, grapheme joiner
        | 0x600..=0x605 | 0x61C | 0x6DD | 0x70F | 0x890..=0x891 | 0x8E2
        | 0x115F..=0x1160 | 0x17B4..=0x17B5 | 0x180B..=0x180F
        | 0x200B..=0x200F | 0x2028..=0x202E | 0x2060..=0x206F // widths, marks, embeddings, isolates
        | 0x3164 | 0xFE00..=0xFE0E | 0xFEFF | 0xFFA0 | 0xFFF0..=0xFFFB
        | 0x110BD | 0x110CD | 0x13430..=0x1345F | 0x1BCA0..=0x1BCA3 | 0x1D173..=0x1D17A
        | 0xE000..=0xF8FF | 0xE0000..=0xE0FFF | 0xF0000..=0x10FFFF
    );
    (c == '\n' || c == '\t' || !c.is_control()) && !format
}

/// Takes a text apart at its backticks: (is code, part). Only where they pair up and enclose something; else the text is one
/// part. Models write identifiers that way, and code that is shown as code cannot be anything else.
pub fn spans(text: &str) -> Vec<(bool, &str)> {
    let parts: Vec<&str> = text.split('`').collect();
    let odd = parts.iter().skip(1).step_by(2);
    if parts.len() < 3
        || parts.len().is_multiple_of(2)
        || odd.clone().any(|code| code.trim().is_empty() || code.contains('\n'))
    {
        return vec![(false, text)];
    }
    parts.into_iter().enumerate().map(|(i, part)| (i % 2 == 1, part)).filter(|(_, part)| !part.is_empty()).collect()
}

/// The first `most` columns, with `…` if something was cut.
pub fn fit(text: &str, most: usize) -> String {
    if width(text) <= most {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        let wide = char_width(c);
        if used + wide + 1 > most {
            break;
        }
        used += wide;
        out.push(c);
    }
    if most > 0 {
        out.push('…');
    }
    out
}

/// Columns on a terminal.
pub fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

fn char_width(c: char) -> usize {
    match u32::from(c) {
        0x300..=0x36F | 0x1AB0..=0x1AFF | 0x20D0..=0x20FF | 0xFE20..=0xFE2F | 0xFE0F => 0,
        0x1100..=0x115F
        | 0x2E80..=0x303E
        | 0x3041..=0xA4CF
        | 0xAC00..=0xD7A3
        | 0xF900..=0xFAFF
        | 0xFE30..=0xFE6F
        | 0xFF00..=0xFF60
        | 0xFFE0..=0xFFE6
        | 0x1F300..=0x1F64F
        | 0x1F900..=0x1F9FF
        | 0x20000..=0x3FFFD => 2,
        _ => 1,
    }
}

/// `1,204`, `-3.5`, `0.004`: thousands parted, at most two decimals, more only below one.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "–".into();
    }
    let abs = value.abs();
    let digits = match abs {
        a if a == 0.0 || a >= 1000.0 && a.fract() == 0.0 => 0,
        a if a >= 100_000.0 => 0,
        a if a >= 1.0 => 2,
        a if a >= 0.01 => 3,
        a => usize::try_from((-a.log10()).ceil() as i64 + 1).unwrap_or(6).min(8),
    };
    let text = format!("{abs:.digits$}");
    let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
    let part = part.trim_end_matches('0');
    let mut out = thousands(whole);
    if !part.is_empty() {
        out.push('.');
        out.push_str(part);
    }
    if value < 0.0 && out != "0" { format!("−{out}") } else { out }
}

/// With its sign: `+18`, `−3.5`, `0`.
pub fn signed(value: f64) -> String {
    let text = number(value);
    if value > 0.0 && text != "0" { format!("+{text}") } else { text }
}

/// `+18.2 %`, to one decimal.
pub fn percent(value: f64) -> String {
    let rounded = (value * 10.0).round() / 10.0;
    format!("{} %", signed(rounded))
}

/// `12.9k`, `3.4M`: for axes.
pub fn compact(value: f64) -> String {
    let abs = value.abs();
    for (unit, name) in [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")] {
        if abs >= unit {
            let scale = if name == "k" { 1e3 } else { unit };
            let scaled = (value / scale * 10.0).round() / 10.0;
            return format!("{}{name}", number(scaled));
        }
    }
    number(value)
}

fn thousands(digits: &str) -> String {
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A cell of a table. The column's name says how a number is meant.
pub fn cell(column: &str, value: &Value) -> String {
    match value {
        Value::Null => "–".into(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::Number(found) => {
            let plain = matches!(column, "id" | "line" | "year" | "port" | "status") || column.ends_with("_id");
            match found.as_f64() {
                Some(_) if plain => found.to_string(),
                Some(n) if column == "change_pct" => percent(n),
                Some(n) if column.ends_with("_pct") => format!("{} %", number((n * 100.0).round() / 100.0)),
                Some(n) if column == "change" => signed(n),
                Some(n) => number(n),
                None => found.to_string(),
            }
        }
        Value::String(text) => line(text),
        Value::Array(items) if items.iter().all(|v| !v.is_array() && !v.is_object()) => {
            items.iter().map(|item| cell(column, item)).collect::<Vec<_>>().join(", ")
        }
        other => line(&other.to_string()),
    }
}

/// A column's name as a heading: `change_pct` → `change %`, `first_seen` → `first seen`.
pub fn heading(column: &str) -> String {
    line(&match column.strip_suffix("_pct") {
        Some(stem) => format!("{} %", stem.replace('_', " ")),
        None => column.replace('_', " "),
    })
}

/// `20 ms`, `0.4 s`, `12.3 s`, `9 min`, `2 h 5 min`, `3 d 4 h`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let whole = duration.as_secs();
    match whole {
        _ if seconds < 0.0995 => format!("{:.0} ms", seconds * 1000.0),
        0..60 => format!("{seconds:.1} s"),
        60..600 if !whole.is_multiple_of(60) => format!("{} min {} s", whole / 60, whole % 60),
        60..3600 => format!("{} min", whole / 60),
        3600..86_400 if !(whole / 60).is_multiple_of(60) => format!("{} h {} min", whole / 3600, whole / 60 % 60),
        3600..86_400 => format!("{} h", whole / 3600),
        _ if !(whole / 3600).is_multiple_of(24) => format!("{} d {} h", whole / 86_400, whole / 3600 % 24),
        _ => format!("{} d", whole / 86_400),
    }
}

/// Time between two instants; none if the clock went backwards.
pub fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// `Thu 19 Nov 2026, 08:00` in a zone (UTC if the zone is not known).
pub fn moment(at: Timestamp, zone: &str) -> String {
    let zoned = at.in_tz(zone).unwrap_or_else(|_| at.to_zoned(jiff::tz::TimeZone::UTC));
    zoned.strftime("%a %-d %b %Y, %H:%M").to_string()
}

/// `1 ticket`, `3 tickets`, `2 replies`.
pub fn counted(n: u64, one: &str) -> String {
    let name = match one {
        _ if n == 1 => one.to_owned(),
        one if one.ends_with('y') && !["ay", "ey", "oy", "uy"].iter().any(|end| one.ends_with(end)) => {
            format!("{}ies", &one[..one.len() - 1])
        }
        one => format!("{one}s"),
    };
    format!("{} {name}", thousands(&n.to_string()))
}

/// A receipt's kind in words.
pub fn receipt_kind(kind: &str) -> String {
    match kind {
        "pull_request" => "draft pull request".into(),
        other => line(other).replace('_', " "),
    }
}

/// What came out: `1 draft pull request, 3 tickets, 1 report`; the gravest first. Empty when nothing did.
pub fn produce(receipts: &[Receipt]) -> String {
    let mut kinds: Vec<(&str, u64)> = Vec::new();
    for receipt in receipts {
        match kinds.iter_mut().find(|(kind, _)| *kind == receipt.kind) {
            Some((_, n)) => *n += 1,
            None => kinds.push((&receipt.kind, 1)),
        }
    }
    kinds.sort_by_key(|(kind, _)| match *kind {
        "pull_request" => 0,
        "ticket" => 1,
        "report" => 3,
        _ => 2,
    });
    kinds.iter().map(|(kind, n)| counted(*n, &receipt_kind(kind))).collect::<Vec<_>>().join(", ")
}

/// The outcome as people say it.
pub fn outcome_word(outcome: Option<Outcome>) -> &'static str {
    match outcome {
        None => "running",
        Some(Outcome::NothingNew) => "nothing new",
        Some(other) => other.as_str(),
    }
}

/// What the outcome means, in one sentence without a full stop.
pub fn outcome_sentence(outcome: Option<Outcome>) -> &'static str {
    match outcome {
        None => "The run is still open",
        Some(Outcome::NothingNew) => "There was nothing new, so nothing was done",
        Some(Outcome::Reported) => "A report was made; nothing else was changed",
        Some(Outcome::Acted) => "The run ended well and its results were handed over",
        Some(Outcome::Declined) => "It was looked at and deliberately left alone",
        Some(Outcome::Blocked) => "The run could not go on: something was missing",
        Some(Outcome::Capped) => "The run reached its cap and stopped with what it knew",
        Some(Outcome::Failed) => "The run failed",
        Some(Outcome::Unsafe) => "Policy refused what the run wanted to do",
        Some(Outcome::Cancelled) => "The run was cancelled",
    }
}

/// The sentence of a whole run: outcome, reason, what came out.
pub fn run_sentence(run: &RunView) -> String {
    let mut text = outcome_sentence(run.outcome).to_owned();
    if let Some(failure) = &run.failure {
        text.push_str(": ");
        text.push_str(&line(&failure.message));
    }
    let produced = produce(&run.receipts);
    if !produced.is_empty() && run.outcome != Some(Outcome::Reported) {
        text.push_str(" · ");
        text.push_str(&produced);
    }
    text
}

/// `14 boss calls, 22 intern calls`; `no model call` when there was none.
pub fn calls(spend: &Spend) -> String {
    let roles = [(&spend.boss, "boss call"), (&spend.intern, "intern call"), (&spend.reviewer, "reviewer call")];
    let shown: Vec<String> =
        roles.iter().filter(|(role, _)| role.calls > 0).map(|(role, name)| counted(role.calls, name)).collect();
    if shown.is_empty() { "no model call".into() } else { shown.join(", ") }
}

/// Dollars that are known only roughly.
pub fn usd(dollars: f64) -> String {
    crate::base::money::UsdMicros::from_usd(dollars).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_does_not_pass() {
        let hidden = "a\u{202e}b\u{200b}c\u{1b}[31md\u{e0041}\u{feff}\u{ad}\r\ne\tf\u{7}\u{9b}g\u{2066}\u{f8ff}";
        assert_eq!(clean(hidden), "abc[31md\ne\tfg");
        assert_eq!(line(" a\r\n\tb  c "), "a b c");
        assert_eq!(clean("naïve 日本 ✓ 👍 é"), "naïve 日本 ✓ 👍 é");
    }

    #[test]
    fn numbers_are_short_and_never_lie_about_their_sign() {
        let shown = [0.0, 1204.0, -3.5, 0.004, 1_234_567.891, 12.345, 0.0000012, -0.0, f64::NAN, 999.999].map(number);
        assert_eq!(shown, ["0", "1,204", "−3.5", "0.004", "1,234,568", "12.35", "0.0000012", "0", "–", "1,000"]);
        let cells = [("change_pct", 440.0), ("rate_pct", 2.1), ("value", 10512.0), ("user_id", 10512.0)];
        assert_eq!(cells.map(|(c, n)| cell(c, &n.into())), ["+440 %", "2.1 %", "10,512", "10512.0"]);
        assert_eq!([18.04, -0.04, 0.06].map(percent), ["+18 %", "0 %", "+0.1 %"]);
        assert_eq!(
            [9_999.0, 12_900.0, 3_400_000.0, -2e9, 0.25].map(compact),
            ["9,999", "12.9k", "3.4M", "−2B", "0.25"]
        );
    }

    #[test]
    fn times_and_counts_read_well() {
        let shown = [0, 400, 9_960, 12_000, 540_000, 552_000, 7_500_000, 273_600_000]
            .map(|ms| duration(Duration::from_millis(ms)));
        assert_eq!(shown, ["0 ms", "0.4 s", "10.0 s", "12.0 s", "9 min", "9 min 12 s", "2 h 5 min", "3 d 4 h"]);
        assert_eq!(moment("2026-11-19T07:00:00Z".parse().unwrap(), "Europe/Berlin"), "Thu 19 Nov 2026, 08:00");
        assert_eq!(
            [counted(1, "reply"), counted(2, "reply"), counted(1204, "key"), counted(14, "day")],
            ["1 reply", "2 replies", "1,204 keys", "14 days"]
        );
        assert_eq!(fit("日本語テキスト", 7), "日本語…");
    }
}
