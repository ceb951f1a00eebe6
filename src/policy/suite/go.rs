//! What `go test -v` and `go test -json` write. Names are `package::TestName/part`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::clean;
use super::collect::Reading;
use crate::domain::proof::CaseState;

/// One result: test, state, what it printed.
type Result = (String, CaseState, String);

/// `None`: this is not from go, or it names no test.
pub(super) fn read(stdout: &str) -> Option<Reading> {
    from_json(stdout).or_else(|| from_text(stdout))
}

fn from_text(stdout: &str) -> Option<Reading> {
    let mut reading = Reading::new("go");
    let mut span: Option<(usize, usize)> = None;
    let mut running: BTreeMap<String, String> = BTreeMap::new();
    let mut current: Option<String> = None;
    let mut results: Vec<Result> = Vec::new();
    let mut packages = 0;
    for (number, line) in stdout.lines().enumerate() {
        let trimmed = line.trim_start();
        if let Some(name) = line.strip_prefix("=== RUN   ") {
            if running.insert(name.to_owned(), String::new()).is_some() {
                reading.doubt(format!("`{name}` begins twice"));
            }
            current = Some(name.to_owned());
            span.get_or_insert((number, number));
        } else if let Some(name) =
            ["=== CONT  ", "=== NAME  ", "=== PAUSE "].iter().find_map(|start| line.strip_prefix(start))
        {
            current = Some(name.to_owned());
        } else if let Some((name, state)) = result(trimmed) {
            match running.get(name) {
                Some(said) if !results.iter().any(|(known, ..)| known == name) => {
                    results.push((name.to_owned(), state, said.clone()));
                }
                Some(_) => reading.doubt(format!("`{name}` has more than one result")),
                None => reading.doubt(format!("`{name}` has a result but never began; a test may have printed it")),
            }
            current = Some(name.to_owned());
        } else if let Some((package, failed, said)) = package_end(line) {
            if span.is_none() && running.is_empty() && !said.contains("build failed") {
                // Without `-v` there are no names.
                if packages == 0 && !line.contains("[no test files]") {
                    reading.doubt("go names no test: let the test command be `go test -v` or `go test -json`");
                }
            }
            span = Some((span.map_or(number, |(first, _)| first), number));
            packages += 1;
            if said.contains("build failed") || said.contains("setup failed") {
                reading.doubt(format!("the tests of `{package}` do not compile: {}", build_errors(stdout)));
            }
            end_package(package, failed, &mut running, &mut results, &mut reading);
            current = None;
        } else if let Some(name) = &current
            && let Some(said) = running.get_mut(name)
            && said.len() < 8 * clean::MESSAGE
        {
            said.push_str(line);
            said.push('\n');
        }
    }
    reading.lines = span?;
    if !running.is_empty() {
        reading.doubt("go did not run to its end: there is no last line for the package");
        for (name, state, said) in results {
            reading.add(&name, state, &said);
        }
    }
    Some(reading)
}

fn end_package(
    package: &str,
    failed: bool,
    running: &mut BTreeMap<String, String>,
    results: &mut Vec<Result>,
    reading: &mut Reading,
) {
    let done: BTreeSet<&str> = results.iter().map(|(name, ..)| name.as_str()).collect();
    let unfinished: Vec<(String, String)> =
        running.iter().filter(|(name, _)| !done.contains(name.as_str())).map(|(a, b)| (a.clone(), b.clone())).collect();
    for (name, said) in unfinished {
        if !failed {
            reading.doubt(format!("`{name}` of `{package}` began and has no result"));
        }
        // A panic ends the whole package.
        results.push((name, CaseState::Failed, said));
    }
    if failed != results.iter().any(|(_, state, _)| *state == CaseState::Failed) {
        reading.doubt(format!("`{package}` as a whole ended otherwise than its tests"));
    }
    for (name, state, said) in results.drain(..) {
        reading.add(&format!("{package}::{name}"), state, &said);
    }
    running.clear();
}

/// `--- PASS: TestGet (0.00s)`.
fn result(line: &str) -> Option<(&str, CaseState)> {
    let (word, rest) = line.strip_prefix("--- ")?.split_once(": ")?;
    let state = state(word)?;
    let (name, time) = rest.rsplit_once(" (")?;
    time.strip_suffix("s)")?.parse::<f64>().ok()?;
    Some((name, state))
}

fn state(word: &str) -> Option<CaseState> {
    match word {
        "PASS" | "pass" => Some(CaseState::Passed),
        "FAIL" | "fail" => Some(CaseState::Failed),
        "SKIP" | "skip" => Some(CaseState::Skipped),
        _ => None,
    }
}

/// `ok  \tpackage\t0.01s`: the package, whether it failed, and what is said of it.
fn package_end(line: &str) -> Option<(&str, bool, &str)> {
    let (failed, rest) = match line {
        _ if line.starts_with("ok  \t") => (false, &line[5..]),
        _ if line.starts_with("FAIL\t") => (true, &line[5..]),
        _ if line.starts_with("?   \t") => (false, &line[5..]),
        _ => return None,
    };
    let end = rest.find(['\t', ' ']).unwrap_or(rest.len());
    (end > 0).then(|| (&rest[..end], failed, rest[end..].trim()))
}

fn build_errors(stdout: &str) -> String {
    let said: Vec<String> = stdout
        .lines()
        .filter(|line| line.contains(".go:") && !line.starts_with([' ', '\t']))
        .take(3)
        .map(|line| clean::line(line, 120))
        .collect();
    if said.is_empty() { "its words are in the error output".into() } else { said.join("; ") }
}

fn from_json(stdout: &str) -> Option<Reading> {
    let mut reading = Reading::new("go");
    let mut span: Option<(usize, usize)> = None;
    let mut said: BTreeMap<(String, String), String> = BTreeMap::new();
    let mut states: BTreeMap<(String, String), Option<CaseState>> = BTreeMap::new();
    let mut packages: BTreeMap<String, Option<CaseState>> = BTreeMap::new();
    for (number, line) in stdout.lines().enumerate() {
        if !line.starts_with("{\"") {
            continue;
        }
        let Ok(Value::Object(event)) = serde_json::from_str::<Value>(line) else { continue };
        let get = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (action, package, test) = (get("Action"), get("Package"), get("Test"));
        if action.is_empty() || package.is_empty() {
            continue;
        }
        span = Some((span.map_or(number, |(first, _)| first), number));
        let state = state(&action);
        if test.is_empty() {
            let known = packages.entry(package.clone()).or_default();
            match (state, &known) {
                (Some(_), Some(_)) => reading.doubt(format!("`{package}` ends twice")),
                (Some(state), None) => *known = Some(state),
                (None, _) => {}
            }
            if get("Output").contains("[build failed]") {
                reading.doubt(format!("the tests of `{package}` do not compile: {}", build_errors(stdout)));
            }
            continue;
        }
        packages.entry(package.clone()).or_default();
        let key = (package, test);
        let known = states.entry(key.clone()).or_default();
        match (state, &known) {
            (Some(_), Some(_)) => reading.doubt(format!("`{}` has more than one result", key.1)),
            (Some(state), None) => *known = Some(state),
            (None, _) => {}
        }
        let said = said.entry(key).or_default();
        if action == "output" && said.len() < 8 * clean::MESSAGE {
            said.push_str(&get("Output"));
        }
    }
    reading.lines = span?;
    for (package, state) in &packages {
        let failed = states.iter().any(|((of, _), state)| {
            of == package && *state != Some(CaseState::Passed) && *state != Some(CaseState::Skipped)
        });
        match state {
            None => reading.doubt(format!("go did not run `{package}` to its end")),
            Some(state) if (*state == CaseState::Failed) != failed => {
                reading.doubt(format!("`{package}` as a whole ended otherwise than its tests"));
            }
            Some(_) => {}
        }
    }
    for ((package, test), state) in states {
        let said = said.get(&(package.clone(), test.clone())).cloned().unwrap_or_default();
        // Without a result: a panic ended the package.
        reading.add(&format!("{package}::{test}"), state.unwrap_or(CaseState::Failed), &said);
    }
    Some(reading)
}
