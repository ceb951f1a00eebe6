//! The Test Anything Protocol as node and others write it, with tests that lie in each other.
//!
//! A name is the path of titles, `group > adds`; what holds others is not counted as a test of its own.

use super::clean;
use super::collect::Reading;
use crate::domain::proof::CaseState;

/// One level of nesting.
#[derive(Default)]
struct Level {
    planned: Option<usize>,
    points: usize,
    /// Results that are not part of a test around them yet.
    results: Vec<(String, CaseState, String)>,
}

/// `None`: this is not TAP.
pub(super) fn read(stdout: &str) -> Option<Reading> {
    let lines: Vec<&str> = stdout.lines().collect();
    let start = lines.iter().position(|line| line.starts_with("TAP version 1"))?;
    let mut reading = Reading::new("tap");
    let mut levels: Vec<Level> = vec![Level::default()];
    let mut at = start + 1;
    let mut end = start;
    while let Some(line) = lines.get(at) {
        let indent = line.len() - line.trim_start_matches(' ').len();
        let text = &line[indent..];
        let depth = indent / 4;
        at += 1;
        if indent % 4 != 0 || depth > 30 {
            continue;
        }
        if let Some(planned) = plan(text) {
            end = at - 1;
            let level = level(&mut levels, depth);
            if level.planned.replace(planned).is_some() {
                reading.doubt("a plan stands there twice");
            }
        } else if text.starts_with("Bail out!") {
            reading.doubt(format!("the tests were given up: {}", clean::line(text, 120)));
        } else if let Some((ok, title, directive)) = point(text) {
            end = at - 1;
            let (said, is_suite, next) = diagnosis(&lines, at, indent);
            at = next;
            // What lies in this test was told before it, one step further in.
            let mut inner = Vec::new();
            while levels.len() > depth + 1 {
                if let Some(level) = levels.pop() {
                    check(&level, &mut reading);
                    inner = level.results;
                }
            }
            let state = match (directive.as_str(), ok) {
                ("skip" | "todo", _) => CaseState::Skipped,
                (_, true) => CaseState::Passed,
                (_, false) => CaseState::Failed,
            };
            let level = level(&mut levels, depth);
            level.points += 1;
            let inner_fails = inner.iter().any(|(_, state, _)| *state == CaseState::Failed);
            let is_outer = is_suite || !inner.is_empty();
            // A test with parts that fails by itself, or in what it does around its parts.
            if !is_outer || (state == CaseState::Failed && !inner_fails) {
                level.results.push((title.clone(), state, said));
            }
            level
                .results
                .extend(inner.into_iter().map(|(name, state, said)| (format!("{title} > {name}"), state, said)));
        }
    }
    reading.lines = (start, end);
    if levels.len() > 1 {
        reading.doubt("the results end within a test");
    }
    let top = levels.drain(..).next().unwrap_or_default();
    check(&top, &mut reading);
    if top.planned.is_none() {
        reading.doubt("the results are cut off: there is no plan");
    }
    for (name, state, said) in top.results {
        reading.add(&name, state, &said);
    }
    Some(reading)
}

fn level(levels: &mut Vec<Level>, depth: usize) -> &mut Level {
    while levels.len() <= depth {
        levels.push(Level::default());
    }
    &mut levels[depth]
}

fn check(level: &Level, reading: &mut Reading) {
    if let Some(planned) = level.planned
        && planned != level.points
    {
        reading.doubt(format!("{planned} results were announced, there are {}", level.points));
    }
}

/// `1..8`.
fn plan(text: &str) -> Option<usize> {
    let rest = text.strip_prefix("1..")?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// `not ok 2 - title # SKIP why`: whether it is good, the title, the directive in lower case.
fn point(text: &str) -> Option<(bool, String, String)> {
    let (ok, rest) = match text.strip_prefix("not ok") {
        Some(rest) => (false, rest),
        None => (true, text.strip_prefix("ok")?),
    };
    let rest = rest.strip_prefix(' ').or_else(|| rest.is_empty().then_some(""))?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let rest = rest[digits..].trim_start();
    let rest = rest.strip_prefix("- ").unwrap_or(rest);
    let (title, directive) = match rest.rfind(" # ") {
        Some(at) => (&rest[..at], rest[at + 3..].split(' ').next().unwrap_or_default().to_lowercase()),
        None => (rest, String::new()),
    };
    let directive = if matches!(directive.as_str(), "skip" | "todo") { directive } else { String::new() };
    let title = if directive.is_empty() { rest } else { title };
    Some((ok, title.replace("\\#", "#").trim().to_owned(), directive))
}

/// The block between `---` and `...` behind a result: its text, whether it is of a suite, and the line behind it.
fn diagnosis(lines: &[&str], at: usize, indent: usize) -> (String, bool, usize) {
    let inner = indent + 2;
    let is = |line: &str, text: &str| line.len() == inner + 3 && line.trim_start() == text;
    if !lines.get(at).is_some_and(|line| is(line, "---")) {
        return (String::new(), false, at);
    }
    let Some(length) = lines[at..].iter().position(|line| is(line, "...")) else { return (String::new(), false, at) };
    let block = &lines[at + 1..at + length];
    let is_suite = block.iter().any(|line| line.trim() == "type: 'suite'");
    let text: Vec<&str> = block
        .iter()
        .map(|line| line.get(inner..).unwrap_or(line))
        .filter(|line| !line.starts_with("duration_ms:") && !line.starts_with("location:"))
        .collect();
    (text.join("\n"), is_suite, at + length + 1)
}
