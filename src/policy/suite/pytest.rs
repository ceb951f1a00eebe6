//! What pytest writes for people: `-v` names every test as it runs, `-rA` at the end; else only failures have names.
//!
//! Names are those of its JUnit file: `tests/test_api.py::TestMore::test_get` is `tests.test_api.TestMore::test_get`.

use std::collections::{BTreeMap, BTreeSet};

use super::clean;
use super::collect::Reading;
use crate::domain::proof::CaseState;

const WORDS: &[&str] = &["PASSED", "FAILED", "ERROR", "SKIPPED", "XFAIL", "XPASS", "RERUN"];

/// Counts by pytest's words: `passed`, `failed`, `errors`, `skipped`, `xfailed`, `xpassed`.
type Totals = BTreeMap<&'static str, usize>;

/// `None`: this is not from pytest.
pub(super) fn read(stdout: &str) -> Option<Reading> {
    let lines: Vec<&str> = stdout.lines().collect();
    let start = lines.iter().position(|line| heading(line) == Some("test session starts"));
    let ends: Vec<usize> = (0..lines.len()).filter(|at| totals(lines[*at]).is_some()).collect();
    let mut reading = Reading::new("pytest");
    let (first, last) = match (start, ends.last()) {
        (_, Some(last)) => (start.filter(|start| start < last).unwrap_or(0), *last),
        (Some(start), None) => {
            reading.doubt("pytest did not run to its end: its last line with the counts is missing");
            (start, lines.len().saturating_sub(1))
        }
        (None, None) => return None,
    };
    reading.lines = (first, last);
    let body = &lines[first..last];
    if lines.iter().filter(|line| heading(line) == Some("test session starts")).count() > 1 {
        reading.doubt("pytest ran more than once in one test command; let it write one JUnit file to $JUNIT");
    }
    let said = said(body);
    let mut results = progress(body, &mut reading);
    let listed = short_summary(body, &mut reading);
    let by_list = results.is_empty() && listed.iter().any(|(_, word, _)| matches!(*word, "PASSED" | "XPASS"));
    let by_name = !results.is_empty() || by_list;
    if results.is_empty() {
        results = listed.iter().map(|(id, word, _)| (id.clone(), *word)).collect();
    } else {
        let named: BTreeSet<&str> = results.iter().map(|(id, _)| id.as_str()).collect();
        // What could not be collected has no line of its own.
        let more: Vec<(String, &'static str)> = listed
            .iter()
            .filter(|(id, word, _)| *word == "ERROR" && !id.contains("::") && !named.contains(id.as_str()))
            .map(|(id, word, _)| (id.clone(), *word))
            .collect();
        results.extend(more);
    }
    results.retain(|(_, word)| *word != "RERUN");
    let messages: BTreeMap<&str, &str> =
        listed.iter().map(|(id, _, message)| (id.as_str(), message.as_str())).collect();
    let mut used: BTreeMap<String, usize> = BTreeMap::new();
    for (id, word) in &results {
        let state = match *word {
            "PASSED" | "XPASS" => CaseState::Passed,
            "SKIPPED" | "XFAIL" => CaseState::Skipped,
            _ => CaseState::Failed,
        };
        let mut message = messages.get(id.as_str()).copied().unwrap_or_default().to_owned();
        if state == CaseState::Failed {
            let title = title_of(id, word);
            let nth = used.entry(title.clone()).or_default();
            let block = said.get(&title).and_then(|blocks| blocks.get(*nth).or(blocks.last()));
            *nth += 1;
            if let Some(block) = block {
                message = block.clone();
            }
            if !id.contains("::") {
                message = format!("collection failure\n{message}");
            }
        }
        reading.add(&name_of(id), state, &message);
    }
    if let Some(totals) = lines.get(last).and_then(|line| totals(line)) {
        check(&totals, &results, by_name, &mut reading);
    }
    reading.merge_same_names();
    Some(reading)
}

/// Where pytest's last line and its JUnit file disagree, in words.
pub(super) fn contradiction(stdout: &str, file: &Reading) -> Option<String> {
    let last = stdout.lines().rev().find(|line| !line.trim().is_empty())?;
    let totals = totals(last)?;
    let count = |word: &str| totals.get(word).copied().unwrap_or(0);
    let [passed, failed, skipped] = file.counts();
    let (green, red) = (count("passed") + count("xpassed"), count("failed") + count("errors"));
    // A test whose clean-up fails after it passed, or failed, stands in both counts.
    let fits = (passed..=passed + count("errors")).contains(&green)
        && (red.saturating_sub(count("errors"))..=red).contains(&failed)
        && failed.min(1) == red.min(1)
        && skipped == count("skipped") + count("xfailed");
    (!fits).then(|| {
        format!(
            "pytest says `{}`, but its JUnit file has {passed} passed, {failed} failed and {skipped} skipped",
            clean::line(last.trim_matches(['=', ' ']), 120)
        )
    })
}

/// `==== text ====`.
fn heading(line: &str) -> Option<&str> {
    let text = line.strip_prefix("==")?.strip_suffix("==")?.trim_matches('=');
    let text = text.strip_prefix(' ')?.strip_suffix(' ')?;
    (!text.is_empty()).then_some(text)
}

/// `3 failed, 5 passed in 0.08s`, with or without a frame.
fn totals(line: &str) -> Option<Totals> {
    let text = heading(line).unwrap_or(line);
    let (counts, time) = text.rsplit_once(" in ")?;
    let seconds = time.split(' ').next()?.strip_suffix('s')?;
    seconds.parse::<f64>().ok()?;
    let mut totals = Totals::new();
    if counts == "no tests ran" {
        return Some(totals);
    }
    for part in counts.split(", ") {
        let (count, word) = part.split_once(' ')?;
        let count: usize = count.parse().ok()?;
        let word = match word {
            "passed" => "passed",
            "failed" => "failed",
            "error" | "errors" => "errors",
            "skipped" => "skipped",
            "xfailed" => "xfailed",
            "xpassed" => "xpassed",
            "warning" | "warnings" | "deselected" | "rerun" | "subtests passed" | "subtests failed" => continue,
            _ => return None,
        };
        totals.insert(word, count);
    }
    Some(totals)
}

/// The lines of `-v`: what each test did, as it ran.
fn progress(body: &[&str], reading: &mut Reading) -> Vec<(String, &'static str)> {
    let mut results = Vec::new();
    let mut pending: Option<String> = None;
    for line in body {
        if let Some(text) = heading(line) {
            if matches!(text, "ERRORS" | "FAILURES" | "PASSES" | "warnings summary" | "short test summary info") {
                break;
            }
            continue;
        }
        let line = without_percent(line);
        // xdist: `[gw0] [ 50%] PASSED tests/test_api.py::test_get`.
        if let Some((_, rest)) = line.strip_prefix("[gw").and_then(|rest| rest.split_once("] ")) {
            let rest = rest.split_once("] ").map_or(rest, |(_, rest)| rest);
            if let Some((word, id)) = rest.split_once(' ')
                && let Some(word) = word_of(word)
                && is_id(id)
            {
                results.push((id.trim().to_owned(), word));
            }
            continue;
        }
        let told = told(line);
        match (told, &pending) {
            (Some(("", word)), Some(id)) => {
                results.push((id.clone(), word));
                pending = None;
            }
            (Some(("", _)), None) => {
                reading.doubt("a result stands alone in pytest's output; a test may have printed it")
            }
            (Some((id, word)), _) if is_id(id) => {
                // Two names in one line: one that runs, and one that it printed.
                if id.matches(".py::").count() > 1 && id.contains(' ') && !id.contains('[') {
                    reading.doubt("a test printed what looks like a result of pytest");
                    pending = id.split(' ').next().map(str::to_owned);
                } else {
                    // With uncaptured output a second result of the test may follow, as of its clean-up.
                    results.push((id.to_owned(), word));
                    pending = None;
                }
            }
            _ => {
                let id = line.split(' ').next().unwrap_or_default();
                if is_id(id) {
                    pending = Some(id.to_owned());
                }
            }
        }
    }
    results
}

/// `ID WORD (reason)`: the id, which may be empty, and the word.
fn told(line: &str) -> Option<(&str, &'static str)> {
    let line = line.trim_end();
    let without_reason = match line.rfind(" (").filter(|_| line.ends_with(')')) {
        Some(at) => [&line[..at], line],
        None => [line, line],
    };
    // A reason may hold parentheses itself: then what stands before the first of them.
    let first = line.find(" (").map_or(line, |at| &line[..at]);
    without_reason.into_iter().chain([first]).find_map(|text| {
        let (id, word) = text.rsplit_once(' ').unwrap_or(("", text));
        word_of(word).map(|word| (id.trim_end(), word))
    })
}

fn word_of(text: &str) -> Option<&'static str> {
    WORDS.iter().copied().find(|word| *word == text)
}

fn is_id(text: &str) -> bool {
    text.split_once("::").is_some_and(|(file, test)| {
        !test.is_empty()
            && !file.contains(' ')
            && file.rsplit_once('.').is_some_and(|(_, end)| matches!(end, "py" | "md" | "rst" | "txt" | "yaml" | "yml"))
    })
}

/// Without `[ 50%]` at its end.
fn without_percent(line: &str) -> &str {
    let trimmed = line.trim_end();
    match trimmed.rsplit_once('[') {
        Some((rest, percent)) if percent.ends_with("%]") && percent.len() <= 6 => rest.trim_end(),
        _ => trimmed,
    }
}

/// The lines of the short summary: id, word, message.
fn short_summary(body: &[&str], reading: &mut Reading) -> Vec<(String, &'static str, String)> {
    let begins: Vec<usize> =
        (0..body.len()).filter(|at| heading(body[*at]) == Some("short test summary info")).collect();
    if begins.len() > 1 {
        reading.doubt("pytest's summary stands there more than once; a test may have printed one");
    }
    let Some(begin) = begins.last() else { return Vec::new() };
    let mut listed = Vec::new();
    for line in &body[begin + 1..] {
        let Some((word, rest)) = line.split_once(' ') else { continue };
        let Some(word) = word_of(word) else { continue };
        // `SKIPPED [2] tests/test_api.py:17: slow`: a place and not a name.
        if word == "SKIPPED"
            && let Some((count, place)) = rest.strip_prefix('[').and_then(|rest| rest.split_once("] "))
        {
            let (place, reason) = place.split_once(": ").unwrap_or((place, ""));
            let file = place.rsplit_once(':').map_or(place, |(file, _)| file);
            for _ in 0..count.parse::<usize>().unwrap_or(1).min(10_000) {
                listed.push((format!("{file}::(skipped) {reason}"), word, reason.to_owned()));
            }
            continue;
        }
        // The name of a parametrised test may hold ` - ` itself.
        let split = rest.find(']').filter(|_| rest.contains('[')).unwrap_or(0);
        let (id, message) = match rest[split..].find(" - ") {
            Some(at) => (&rest[..split + at], &rest[split + at + 3..]),
            None => (rest, ""),
        };
        listed.push((id.trim().to_owned(), word, message.to_owned()));
    }
    listed
}

/// What stands under the headings of failures and errors, by the title of the block.
fn said(body: &[&str]) -> BTreeMap<String, Vec<String>> {
    let mut blocks: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut open: Option<(String, String)> = None;
    let mut inside = false;
    let close = |open: &mut Option<(String, String)>, blocks: &mut BTreeMap<String, Vec<String>>| {
        if let Some((title, text)) = open.take() {
            blocks.entry(title).or_default().push(text);
        }
    };
    for line in body {
        if let Some(text) = heading(line) {
            close(&mut open, &mut blocks);
            inside = matches!(text, "ERRORS" | "FAILURES");
            continue;
        }
        if !inside {
            continue;
        }
        let title = line
            .strip_prefix("__")
            .and_then(|rest| rest.strip_suffix("__"))
            .and_then(|rest| rest.trim_matches('_').strip_prefix(' '))
            .and_then(|rest| rest.strip_suffix(' '))
            .filter(|title| !title.chars().all(|c| matches!(c, '_' | ' ')));
        match (title, &mut open) {
            (Some(title), _) => {
                close(&mut open, &mut blocks);
                open = Some((title.to_owned(), String::new()));
            }
            (None, Some((_, text))) if text.len() < 8 * clean::MESSAGE => {
                text.push_str(line);
                text.push('\n');
            }
            _ => {}
        }
    }
    close(&mut open, &mut blocks);
    blocks
}

/// The title under which pytest tells of a failure: `TestMore.test_get`.
fn title_of(id: &str, word: &str) -> String {
    let Some((_, test)) = id.split_once("::") else { return format!("ERROR collecting {id}") };
    let test = test.replace("::", ".");
    match word {
        "ERROR" => format!("ERROR at setup of {test}"),
        _ => test,
    }
}

fn name_of(id: &str) -> String {
    let (path, test) = id.split_once("::").unwrap_or((id, ""));
    let module = path.strip_suffix(".py").unwrap_or(path).replace('/', ".");
    if test.is_empty() {
        return module;
    }
    // Classes belong to the module; what is in brackets is a value and may hold anything.
    let (plain, values) = test.split_once('[').map_or((test, ""), |(plain, _)| (plain, &test[plain.len()..]));
    match plain.rsplit_once("::") {
        Some((classes, name)) => format!("{module}.{}::{name}{values}", classes.replace("::", ".")),
        None => format!("{module}::{plain}{values}"),
    }
}

fn check(totals: &Totals, results: &[(String, &'static str)], by_name: bool, reading: &mut Reading) {
    let told = |word: &str| totals.get(word).copied().unwrap_or(0);
    let counted = |word: &str| results.iter().filter(|(_, other)| *other == word).count();
    if !by_name {
        let unnamed = told("passed") + told("xpassed");
        if unnamed > 0 {
            return reading.doubt(format!(
                "pytest names only the tests that failed: {unnamed} passed without a name; let the test command write JUnit XML \
                 (--junitxml=$JUNIT)"
            ));
        }
    }
    for (word, plural) in [
        ("PASSED", "passed"),
        ("FAILED", "failed"),
        ("ERROR", "errors"),
        ("SKIPPED", "skipped"),
        ("XFAIL", "xfailed"),
        ("XPASS", "xpassed"),
    ] {
        let (told, counted) = (told(plural), counted(word));
        if told != counted && (by_name || !matches!(word, "SKIPPED" | "XFAIL")) {
            reading.doubt(format!("pytest counts {told} {plural}, but {counted} are listed"));
        }
    }
}
