//! What runs of the suite say beside each other: pure readings for the host, and their words for agents and people.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::agent::prompt;
use crate::domain::code::TreeId;
use crate::domain::proof::{Case, CaseState, Stage, Suite};
use crate::domain::run::Failure;
use crate::domain::sandbox::{SandboxAnswer, Workspace};
use crate::ports::durable::Stop;

use super::super::E_TESTS;

/// How much of a failing command's output people and agents are shown, in bytes.
const MOST_OUTPUT: usize = 24 * 1024;
/// The end of an output in an error, in bytes.
const MOST_END: usize = 1500;
/// The current base and what its suite did.
pub(super) struct Base {
    pub workspace: Workspace,
    /// [`StageKind::Base`], and [`StageKind::BaseAgain`] where something failed.
    pub stages: Vec<Stage>,
}

impl Base {
    pub fn tree(&self) -> &TreeId {
        &self.workspace.tree
    }

    /// What each test did in the first run.
    pub fn states(&self) -> BTreeMap<&str, CaseState> {
        self.stages.first().map(|stage| states(&stage.suite)).unwrap_or_default()
    }

    /// Tests that fail, or did not do the same twice: they say nothing about a change.
    pub fn unreliable(&self) -> BTreeSet<&str> {
        let first = self.states();
        let again = self.stages.get(1).map(|stage| states(&stage.suite));
        let is_same = |name: &str, state| again.as_ref().is_none_or(|again| again.get(name) == Some(&state));
        first
            .iter()
            .filter(|(name, state)| **state == CaseState::Failed || !is_same(name, **state))
            .map(|(name, _)| *name)
            .collect()
    }

    /// Tests that failed each time.
    pub fn known_failures(&self) -> BTreeSet<&str> {
        let failed = |stage: &Stage, name: &str| states(&stage.suite).get(name) == Some(&CaseState::Failed);
        let mut names = self.unreliable();
        names.retain(|name| self.stages.iter().all(|stage| failed(stage, name)));
        names
    }
}

fn states(suite: &Suite) -> BTreeMap<&str, CaseState> {
    suite.cases.iter().map(|case| (case.name.as_str(), case.state)).collect()
}

pub(super) fn has_failed(suite: &Suite) -> bool {
    suite.cases.iter().any(|case| case.state == CaseState::Failed)
}

/// A reliable test of the base does something else here.
pub(super) fn has_changed(base: &Base, with: &Suite) -> bool {
    let (before, unreliable) = (base.states(), base.unreliable());
    let other = |case: &Case| before.get(case.name.as_str()).is_some_and(|state| *state != case.state);
    with.cases.iter().any(|case| other(case) && !unreliable.contains(case.name.as_str()))
}

/// Tests that are worse with the change than on the base: failing, gone or skipped.
pub(super) fn worse(base: &Base, with: &Suite) -> Vec<String> {
    let (before, unreliable, now) = (base.states(), base.unreliable(), states(with));
    let failing = now.iter().filter(|(name, state)| **state == CaseState::Failed && !unreliable.contains(*name));
    let gone = before.iter().filter(|(name, state)| {
        **state == CaseState::Passed && now.get(*name).is_none_or(|state| *state == CaseState::Skipped)
    });
    failing.chain(gone).map(|(name, _)| (*name).to_owned()).collect()
}

/// Why nothing can be told from a run of the suite.
pub(super) fn unreadable(stage: &Stage) -> Option<String> {
    let (receipt, suite) = (&stage.receipt, &stage.suite);
    if let Some(limit) = &receipt.stopped {
        return Some(format!("it was stopped by the limit `{limit}`"));
    }
    if let Some(signal) = receipt.signal {
        return Some(format!("it was ended by the signal {signal}"));
    }
    let Some(exit) = receipt.exit else { return Some("it did not end by itself".into()) };
    // pytest ends so where there are no tests yet.
    let is_empty =
        suite.cases.is_empty() && !suite.format.is_empty() && suite.doubts.is_empty() && matches!(exit, 0 | 5);
    if is_empty {
        return None;
    }
    if suite.cases.is_empty() && exit != 0 {
        let built = suite.doubts.iter().find(|doubt| doubt.starts_with("the tests do not compile"));
        let built = built.map(|doubt| format!(": {doubt}")).unwrap_or_default();
        return Some(format!("the test command ends with exit code {exit} before any test is run{built}"));
    }
    if !suite.doubts.is_empty() {
        return Some(format!("its result cannot be relied on: {}", suite.doubts.join("; ")));
    }
    if suite.cases.is_empty() {
        return Some("no single test can be read from what it writes".into());
    }
    match (exit, has_failed(suite)) {
        (0, true) => Some("tests fail and the test command ends with success; something hides failures".into()),
        (0, false) | (_, true) => None,
        (exit, false) => Some(format!("the test command ends with exit code {exit} although no test fails")),
    }
}

pub(super) fn does_not_run(why: &str, stage: &Stage, answer: &SandboxAnswer) -> Stop {
    let command: String = prompt::clean(&stage.receipt.command).chars().take(200).collect();
    let end = end_of(&format!("{}\n{}", answer.stdout.trim_end(), answer.stderr.trim_end()), MOST_END);
    let end = end.trim();
    let help = match end.is_empty() {
        true => format!("`{command}` wrote nothing; see `test` and `setup` of the environment"),
        false => format!("see `test` and `setup` of the environment; the end of what `{command}` wrote:\n{end}"),
    };
    Stop::Blocked(Failure::new(E_TESTS, format!("the suite does not run on the base: {why}")).help(help))
}

/// What a run of the suite says about tests that are not as on the base, then the end of its output.
pub(super) fn outcome_text(stage: &Stage, base: &Base, answer: &SandboxAnswer) -> String {
    let known = base.known_failures();
    let mut text = String::new();
    let exit = stage.receipt.exit.map_or_else(|| "no exit code".to_owned(), |code| format!("exit code {code}"));
    let _ = writeln!(text, "{} tests, {exit}", stage.suite.cases.len());
    let cases = stage.suite.cases.iter();
    let news = cases.filter(|case| case.state == CaseState::Failed && !known.contains(case.name.as_str()));
    for case in news.take(50) {
        let _ = writeln!(text, "FAILED {}\n{}", case.name, prompt::clip(case.message.trim(), 1000));
    }
    let room = MOST_OUTPUT.saturating_sub(text.len()) / 2;
    for (name, output) in [("stdout", &answer.stdout), ("stderr", &answer.stderr)] {
        if !output.trim().is_empty() {
            let _ = writeln!(text, "--- {name}\n{}", end_of(output.trim(), room));
        }
    }
    prompt::clean(&text)
}

/// The last `most` bytes of a text, for people.
pub(super) fn end_of(text: &str, most: usize) -> String {
    let text = prompt::clean(text);
    let mut from = text.len().saturating_sub(most);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    if from == 0 { text } else { format!("…{}", &text[from..]) }
}

/// The first of many names.
pub(super) fn list(names: &[String]) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<String> =
        names.iter().take(SHOWN).map(|name| prompt::clean(name).chars().take(200).collect()).collect();
    match names.len() {
        n if n > SHOWN => format!("{}, and {} more", shown.join(", "), n - SHOWN),
        _ => shown.join(", "),
    }
}
