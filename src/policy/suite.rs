//! What single tests did, read from what a test command writes for machines: JUnit XML, cargo, pytest, go, TAP, node.
//!
//! Everything here was written by the code under test and by its tests, so it is taken at its word only where it agrees with
//! itself: results against the runner's own totals, results against the order in which runners write. What does not fit
//! becomes a doubt, and a suite with doubts proves nothing.
//!
//! What it does not do: judge (that is `policy::proof`), or find out why a test failed. Invariants: pure; names are unique and
//! sorted; messages hold no control characters and are short; nothing in the input makes it fail, it only makes it doubt.

use crate::domain::proof::{CaseState, Suite};

mod cargo;
mod clean;
mod collect;
mod go;
mod junit;
mod node;
mod pytest;
mod tap;
mod xml;
#[cfg(test)]
mod tests;

use collect::Reading;

/// Reads the tests of one run of the test command. Takes the JUnit file if there is one that is whole, else the output.
///
/// A suite without cases is empty because there are none if `format` is set, and because none could be read if it is not.
pub fn read(stdout: &str, stderr: &str, junit: Option<&str>) -> Suite {
    let stdout = &clean::plain(stdout);
    let stderr = &clean::plain(stderr);
    let mut doubt = None;
    let mut whole = None;
    match junit.map(|xml| xml.trim_start_matches('\u{feff}').trim()).filter(|xml| !xml.is_empty()).map(junit::read) {
        None => {}
        Some(Ok(file)) => whole = Some(file),
        Some(Err(why)) => doubt = Some(format!("the JUnit file is not whole: {why}")),
    }
    let text = from_text(stdout, stderr);
    if let Some(mut file) = whole {
        if file.is_empty() && text.as_ref().is_some_and(|text| !text.is_empty()) {
            file.doubt("the JUnit file names no test, but the output does");
        }
        if let Some(why) = pytest::contradiction(stdout, &file) {
            file.doubt(why);
        }
        // A suite that could not be built may leave an old or an empty file behind.
        if file.is_empty()
            && let Some(why) = cargo::compile_error(stdout, stderr)
        {
            file.doubt(why);
        }
        return file.suite();
    }
    let mut read = text.unwrap_or_else(|| {
        let mut nothing = Reading::new("");
        nothing.doubt(
            "the single tests cannot be read from what the test command wrote: let it write JUnit XML to $JUNIT (pytest: \
             --junitxml=$JUNIT; node --test: --test-reporter=junit --test-reporter-destination=$JUNIT; unittest: run it by \
             pytest), or print as cargo test or pytest -v do",
        );
        nothing
    });
    if let Some(doubt) = doubt {
        read.doubt(doubt);
    }
    read.suite()
}

/// What the runners whose output this looks like make of it. A runner's output inside of another's was printed by a test.
fn from_text(stdout: &str, stderr: &str) -> Option<Reading> {
    let mut read: Vec<Reading> =
        [cargo::read(stdout, stderr), pytest::read(stdout), go::read(stdout), tap::read(stdout), node::read(stdout)]
            .into_iter()
            .flatten()
            .collect();
    let spans: Vec<(usize, usize)> = read.iter().map(|one| one.lines).collect();
    let mut at = 0;
    read.retain(|one| {
        let (first, last) = one.lines;
        at += 1;
        !spans.iter().enumerate().any(|(other, (start, end))| {
            other + 1 != at && *start <= first && last <= *end && (*start, *end) != (first, last)
        })
    });
    read.sort_by_key(|one| one.lines);
    let overlap = read.windows(2).any(|pair| matches!(pair, [one, next] if next.lines.0 <= one.lines.1));
    let mut all = read.into_iter();
    let mut first = all.next()?;
    for next in all {
        first.join(next);
    }
    if overlap {
        first.doubt("the output mixes what several test runners write; let the test command write JUnit XML to $JUNIT");
    }
    Some(first)
}

/// A suite in a few words: `48 passed, 1 failed, 2 skipped`.
pub fn summary(suite: &Suite) -> String {
    let count = |state: CaseState| suite.cases.iter().filter(|case| case.state == state).count();
    let parts: Vec<String> =
        [(CaseState::Passed, "passed"), (CaseState::Failed, "failed"), (CaseState::Skipped, "skipped")]
            .into_iter()
            .map(|(state, word)| (count(state), word))
            .filter(|(count, _)| *count > 0)
            .map(|(count, word)| format!("{count} {word}"))
            .collect();
    match (parts.is_empty(), suite.format.is_empty()) {
        (false, _) => parts.join(", "),
        (true, false) => "no tests".into(),
        (true, true) => "tests could not be read".into(),
    }
}
