//! JUnit XML as it is written by pytest, node, jest, vitest, gradle, surefire, go-junit-report, PHPUnit and others.
//!
//! There is no one format. Suites nest or do not; classes are there, are the path of the suite, or are always the same word;
//! totals count what lies directly in a suite or all of it. What is demanded is that totals, where they are given, fit one of
//! the ways of counting.

use super::clean;
use super::collect::Reading;
use super::xml::{Event, Reader};
use crate::domain::proof::CaseState;

/// How many of what.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    tests: u64,
    failures: u64,
    errors: u64,
    skipped: u64,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.tests += other.tests;
        self.failures += other.failures;
        self.errors += other.errors;
        self.skipped += other.skipped;
    }
}

#[derive(Default)]
struct SuiteElement {
    name: String,
    attributes: Vec<(String, String)>,
    /// All that lies in it.
    all: Counts,
    /// What lies directly in it, a suite counting as one.
    direct: Counts,
    /// Results of a test that already had one: a failure of its body and one of its clean-up.
    again: u64,
    last: String,
    /// What is said of the suite itself: that it could not be run.
    said: Option<String>,
}

#[derive(Default)]
struct CaseElement {
    class: String,
    name: String,
    file: String,
    status: String,
    failure: bool,
    error: bool,
    skipped: bool,
    message: String,
}

enum Open {
    Suite(SuiteElement),
    Case(CaseElement),
    /// What is said of a failure, an error or a skip.
    Said {
        heading: String,
        text: String,
    },
    Other,
}

/// The results in a file.
///
/// Errors: what is wrong with the file, in words.
pub(super) fn read(xml: &str) -> Result<Reading, String> {
    let mut reader = Reader::new(xml);
    let mut reading = Reading::new("junit");
    let mut open: Vec<Open> = Vec::new();
    let mut is_pytest = false;
    while let Some(event) = reader.next()? {
        match event {
            Event::Open { name, attributes } => {
                let next = opened(&name, attributes, &mut open)?;
                if let Open::Suite(suite) = &next {
                    is_pytest |= suite.name == "pytest";
                }
                open.push(next);
            }
            Event::Text(more) => {
                if let Some(Open::Said { text, .. }) = open.last_mut()
                    && text.len() < 4 * clean::MESSAGE
                {
                    text.push_str(&more);
                }
            }
            Event::Close => match open.pop() {
                Some(Open::Case(case)) => end_case(case, &mut open, &mut reading),
                Some(Open::Suite(suite)) => end_suite(suite, &mut open, &mut reading),
                Some(Open::Said { heading, text }) => say(&heading, &text, &mut open),
                Some(Open::Other) | None => {}
            },
        }
    }
    if is_pytest {
        reading.merge_same_names();
    }
    Ok(reading)
}

fn opened(name: &str, attributes: Vec<(String, String)>, open: &mut [Open]) -> Result<Open, String> {
    let get = |wanted: &str| {
        attributes.iter().find(|(name, _)| name == wanted).map_or_else(String::new, |(_, value)| value.clone())
    };
    if open.is_empty() && !matches!(name, "testsuites" | "testsuite") {
        return Err(format!("it is not JUnit XML, for it begins with <{}>", clean::line(name, 40)));
    }
    Ok(match name {
        "testsuites" | "testsuite" => {
            if open.iter().any(|one| matches!(one, Open::Case(_))) {
                return Err("a suite lies in a test".into());
            }
            Open::Suite(SuiteElement { name: get("name"), attributes, ..SuiteElement::default() })
        }
        "testcase" => {
            if !matches!(open.last(), Some(Open::Suite(_))) {
                return Err("a test lies outside of a suite".into());
            }
            Open::Case(CaseElement {
                class: get("classname"),
                name: get("name"),
                file: get("file"),
                status: format!("{} {}", get("status"), get("result")).to_lowercase(),
                ..CaseElement::default()
            })
        }
        "failure" | "error" | "skipped" => {
            let heading = match (get("type"), get("message")) {
                (kind, message) if kind.is_empty() || message.contains(&kind) => message,
                (kind, message) if message.is_empty() => kind,
                (kind, message) => format!("{kind}: {message}"),
            };
            match open.last_mut() {
                Some(Open::Case(case)) => match name {
                    "failure" => case.failure = true,
                    "error" => case.error = true,
                    _ => case.skipped = true,
                },
                // Said of a whole suite: that it could not be run.
                Some(Open::Suite(_)) if name != "skipped" => {}
                _ => return Ok(Open::Other),
            }
            Open::Said { heading, text: String::new() }
        }
        _ => Open::Other,
    })
}

fn say(heading: &str, text: &str, open: &mut [Open]) {
    let said = match (heading.trim().is_empty(), text.trim().is_empty()) {
        (false, false) if text.contains(heading.trim()) => text.to_owned(),
        (false, false) => format!("{heading}\n{}", text.trim_matches('\n')),
        (false, true) => heading.to_owned(),
        (true, _) => text.to_owned(),
    };
    match open.last_mut() {
        Some(Open::Case(case)) => {
            if !case.message.is_empty() {
                case.message.push('\n');
            }
            case.message.push_str(&said);
        }
        Some(Open::Suite(suite)) => suite.said = Some(said),
        _ => {}
    }
}

fn end_case(case: CaseElement, open: &mut [Open], reading: &mut Reading) {
    let word = |words: &[&str]| case.status.split_whitespace().any(|status| words.contains(&status));
    let skipped = case.skipped || word(&["skipped", "notrun", "disabled", "ignored", "suppressed", "pending"]);
    let failed = case.failure || case.error || word(&["failed", "failure", "error", "fail"]);
    let state = match (skipped, failed) {
        // A test "to do" may fail; runners do not count it.
        (true, _) => CaseState::Skipped,
        (false, true) => CaseState::Failed,
        (false, false) => CaseState::Passed,
    };
    let counts =
        Counts { tests: 1, failures: case.failure.into(), errors: case.error.into(), skipped: case.skipped.into() };
    let path = path_of(open);
    if case.name.trim().is_empty() && case.class.trim().is_empty() {
        reading.doubt("a test in the JUnit file has no name");
    }
    let name = full_name(&case, &path);
    reading.add(&name, state, &case.message);
    if let Some(Open::Suite(suite)) = open.last_mut() {
        suite.all.add(counts);
        suite.direct.add(counts);
        suite.again += u64::from(suite.last == name);
        suite.last = name;
    }
}

/// The names of the suites that are open.
fn path_of(open: &[Open]) -> Vec<&str> {
    open.iter()
        .filter_map(|one| match one {
            Open::Suite(suite) if !suite.name.is_empty() => Some(suite.name.as_str()),
            _ => None,
        })
        .collect()
}

/// What makes the test known: its class where there is one that says something, else the suites around it.
fn full_name(case: &CaseElement, path: &[&str]) -> String {
    // node writes the same class everywhere; jest by default twice the full name.
    let class_says = !matches!(case.class.trim(), "" | "test") && case.class != case.name;
    let is_relative = !case.file.is_empty() && !case.file.starts_with('/') && !case.file.contains(':');
    if case.name.trim().is_empty() {
        return case.class.clone();
    }
    if class_says {
        return format!("{}::{}", case.class, case.name);
    }
    // The class of a file that could not be loaded is empty, and the suite is the runner's.
    let path = if path.last() == Some(&"pytest") { &[] } else { path };
    let mut parts: Vec<&str> = path.to_vec();
    parts.push(&case.name);
    let name = parts.join(" > ");
    if is_relative { format!("{}::{name}", case.file) } else { name }
}

fn end_suite(suite: SuiteElement, open: &mut [Open], reading: &mut Reading) {
    let given = |names: &[&str]| {
        suite
            .attributes
            .iter()
            .find(|(name, _)| names.contains(&name.as_str()))
            .and_then(|(_, value)| value.trim().parse::<u64>().ok())
    };
    let fits = |given: Option<u64>, ways: &[u64]| given.is_none_or(|given| ways.contains(&given));
    let (all, direct) = (suite.all, suite.direct);
    let skipped = given(&["skipped", "skips", "skip", "ignored"]);
    let failures = given(&["failures"]);
    let errors = given(&["errors"]);
    let together = match (failures, errors) {
        (Some(failures), Some(errors)) => Some(failures.saturating_add(errors)),
        _ => None,
    };
    let fit_together = |bad: &[u64]| together.is_some_and(|given| bad.contains(&given));
    let mut wrong = Vec::new();
    let tests = [all.tests, direct.tests, all.tests - suite.again.min(all.tests)];
    if !fits(given(&["tests"]), &tests) {
        wrong.push("tests");
    }
    let bad = |counts: Counts| counts.failures + counts.errors;
    if !fits(failures, &[all.failures, direct.failures, bad(all), bad(direct)])
        && !fit_together(&[bad(all), bad(direct)])
    {
        wrong.push("failures");
    }
    if !fits(errors, &[all.errors, direct.errors]) && !fit_together(&[bad(all), bad(direct)]) {
        wrong.push("errors");
    }
    if !fits(skipped, &[all.skipped, direct.skipped]) {
        wrong.push("skipped");
    }
    if !wrong.is_empty() {
        reading.doubt(format!(
            "the JUnit file says of the suite `{}` another number of {} than it has",
            clean::line(&suite.name, 80),
            wrong.join(" and ")
        ));
    }
    if let Some(said) = &suite.said {
        let mut path = path_of(open);
        path.push(if suite.name.is_empty() { "(a suite)" } else { &suite.name });
        reading.add(&path.join(" > "), CaseState::Failed, said);
    }
    if let Some(Open::Suite(parent)) = open.last_mut() {
        parent.all.add(all);
        parent.again += suite.again;
        parent.direct.add(Counts {
            tests: 1,
            failures: u64::from(bad(all) > 0),
            errors: 0,
            skipped: u64::from(all.skipped > 0),
        });
    }
}
