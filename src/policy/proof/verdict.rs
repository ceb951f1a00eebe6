//! The verdict over evidence: first whether the runs are the right ones, then whether they can be read, then what they show.

use std::collections::{BTreeMap, BTreeSet};

use super::{Unproved, reasons};
use crate::domain::code::TreeId;
use crate::domain::proof::{Case, CaseState, Evidence, Proven, Stage, StageKind, Suite};

/// How many tests a reason names.
const NAMED: usize = 5;
/// How much of what a test said a reason shows, in characters.
const SAID: usize = 300;

type Cases<'a> = BTreeMap<&'a str, &'a Case>;

#[derive(Default)]
struct Reasons(Vec<Unproved>);

impl Reasons {
    fn add(&mut self, why: impl Into<String>) {
        let why = why.into();
        if !self.0.iter().any(|known| known.why == why) {
            self.0.push(Unproved { why });
        }
    }

    fn none(&self) -> bool {
        self.0.is_empty()
    }
}

pub(super) fn judge(evidence: &Evidence) -> Result<Proven, Vec<Unproved>> {
    let mut why = Reasons::default();
    let Some(runs) = Runs::of(evidence, &mut why) else { return Err(why.0) };
    trees(evidence, &mut why);
    runs.receipts(evidence, &mut why);
    if !why.none() {
        return Err(why.0);
    }
    runs.readable(&mut why);
    if !why.none() {
        return Err(why.0);
    }
    let shown = Shown::of(&runs);
    let mut proven = Proven::default();
    shown.before(&runs, &mut proven, &mut why);
    let red = shown.red(evidence, &mut proven, &mut why);
    shown.after(&red, &mut proven, &mut why);
    if !why.none() {
        return Err(why.0);
    }
    Ok(proven)
}

/// The stages by what they show.
struct Runs<'a> {
    base: &'a Stage,
    base_again: Option<&'a Stage>,
    reproduced: &'a Stage,
    patched: &'a Stage,
    patched_again: Option<&'a Stage>,
}

fn name_of(kind: StageKind) -> &'static str {
    match kind {
        StageKind::Base => "on the base",
        StageKind::BaseAgain => "on the base, once more",
        StageKind::Reproduced => "on the base with the new tests",
        StageKind::Patched => "with the patch",
        StageKind::PatchedAgain => "with the patch, once more",
    }
}

impl<'a> Runs<'a> {
    fn of(evidence: &'a Evidence, why: &mut Reasons) -> Option<Self> {
        let kinds: Vec<StageKind> = evidence.stages.iter().map(|stage| stage.kind).collect();
        // The kinds are declared in the order in which they have to be run.
        if !kinds.windows(2).all(|pair| matches!(pair, [one, next] if one < next)) {
            why.add("the test runs stand twice or out of order; the host has to run them anew");
            return None;
        }
        let get = |kind: StageKind| evidence.stages.iter().find(|stage| stage.kind == kind);
        let mut need = |kind: StageKind| {
            let found = get(kind);
            if found.is_none() {
                why.add(format!("the tests were not run {}", name_of(kind)));
            }
            found
        };
        let (base, reproduced, patched) =
            (need(StageKind::Base), need(StageKind::Reproduced), need(StageKind::Patched));
        Some(Self {
            base: base?,
            base_again: get(StageKind::BaseAgain),
            reproduced: reproduced?,
            patched: patched?,
            patched_again: get(StageKind::PatchedAgain),
        })
    }

    fn all(&self) -> impl Iterator<Item = &'a Stage> {
        [Some(self.base), self.base_again, Some(self.reproduced), Some(self.patched), self.patched_again]
            .into_iter()
            .flatten()
    }

    /// Whether what ran is what had to run.
    fn receipts(&self, evidence: &Evidence, why: &mut Reasons) {
        let first = &self.base.receipt;
        if first.command.trim().is_empty() {
            why.add("the environment has no test command");
        }
        for stage in self.all() {
            let (receipt, place) = (&stage.receipt, name_of(stage.kind));
            let tree: &TreeId = match stage.kind {
                StageKind::Base | StageKind::BaseAgain => &evidence.base.tree,
                StageKind::Reproduced => &evidence.test_tree,
                StageKind::Patched | StageKind::PatchedAgain => &evidence.new_tree,
            };
            if receipt.tree != *tree {
                why.add(format!(
                    "the run {place} was made on the tree {}, not on {}; the host has to run it anew",
                    receipt.tree.short(),
                    tree.short()
                ));
            }
            if !receipt.fresh {
                why.add(format!("the run {place} began with what an earlier command had left; it has to begin afresh"));
            }
            if receipt.command != first.command {
                why.add(format!("the run {place} used another test command than the run on the base"));
            }
            if receipt.environment != first.environment {
                why.add(format!("the run {place} used another environment than the run on the base"));
            }
            if receipt.provider != first.provider || receipt.isolation != first.isolation {
                why.add(format!("the run {place} was confined otherwise than the run on the base"));
            }
            if receipt.network != "none" {
                why.add(format!("the run {place} had network: what it shows may come from outside"));
            }
            if let Some(limit) = &receipt.stopped {
                why.add(match limit.as_str() {
                    "wall" => format!("the tests took too long {place} and were stopped; look for what hangs or waits"),
                    limit => format!("the tests were stopped {place} by the limit `{limit}`"),
                });
            } else if let Some(signal) = receipt.signal {
                why.add(format!("the test command was ended by signal {signal} {place}"));
            } else if receipt.exit.is_none() {
                why.add(format!("the test command did not end by itself {place}"));
            }
        }
    }

    /// Whether what ran can be believed.
    fn readable(&self, why: &mut Reasons) {
        for stage in self.all() {
            let (suite, place) = (&stage.suite, name_of(stage.kind));
            for doubt in &suite.doubts {
                let advice = match stage.kind {
                    StageKind::Reproduced if doubt.contains("do not compile") => {
                        "; a test that does not compile on the base shows nothing: write it against what is there, so that it \
                         runs and fails"
                    }
                    _ => "",
                };
                why.add(format!("the results {place} cannot be relied on: {doubt}{advice}"));
            }
            if suite.format.is_empty() && suite.doubts.is_empty() {
                why.add(format!(
                    "the single tests cannot be read {place}; let the test command write JUnit XML to $JUNIT"
                ));
            }
            if suite.format != self.base.suite.format && !suite.format.is_empty() {
                why.add(format!(
                    "the results {place} were read from `{}`, those on the base from `{}`: they cannot be compared",
                    suite.format, self.base.suite.format
                ));
            }
            if cases_of(suite).len() != suite.cases.len() {
                why.add(format!("a test stands twice in the results {place}"));
            }
            if suite.doubts.is_empty()
                && let Some(reason) = disagreement(stage)
            {
                why.add(reason);
            }
        }
    }
}

/// Where the exit code and the single tests contradict each other.
fn disagreement(stage: &Stage) -> Option<String> {
    let place = name_of(stage.kind);
    let exit = stage.receipt.exit?;
    let failed = with_state(&stage.suite, CaseState::Failed);
    match (exit, failed.is_empty()) {
        (0, false) => Some(format!(
            "the test command ends with success {place} although {} failed; something hides failures",
            listed(&failed)
        )),
        (0, true) => None,
        (_, false) => None,
        // pytest ends so when there are no tests.
        (5, true) if stage.suite.cases.is_empty() => None,
        (_, true) => Some(format!(
            "the test command ends with exit code {exit} {place} although no test failed: something else is broken, for \
             instance a file that cannot be loaded"
        )),
    }
}

/// The results of the stages side by side.
struct Shown<'a> {
    format: &'a str,
    base: Cases<'a>,
    reproduced: Cases<'a>,
    patched: Cases<'a>,
    patched_again: Option<Cases<'a>>,
    /// Did not do the same twice on the base.
    flaky: BTreeSet<&'a str>,
    /// Failed twice on the base.
    known: BTreeSet<&'a str>,
}

fn cases_of(suite: &Suite) -> Cases<'_> {
    suite.cases.iter().map(|case| (case.name.as_str(), case)).collect()
}

fn with_state(suite: &Suite, state: CaseState) -> Vec<&str> {
    suite.cases.iter().filter(|case| case.state == state).map(|case| case.name.as_str()).collect()
}

fn state(cases: &Cases<'_>, name: &str) -> Option<CaseState> {
    cases.get(name).map(|case| case.state)
}

impl<'a> Shown<'a> {
    fn of(runs: &Runs<'a>) -> Self {
        let base = cases_of(&runs.base.suite);
        let (mut flaky, mut known) = (BTreeSet::new(), BTreeSet::new());
        if let Some(again) = runs.base_again {
            let again = cases_of(&again.suite);
            for (name, case) in &base {
                match state(&again, name) {
                    Some(CaseState::Failed) if case.state == CaseState::Failed => drop(known.insert(*name)),
                    other if other == Some(case.state) => {}
                    _ => drop(flaky.insert(*name)),
                }
            }
        }
        Self {
            format: &runs.base.suite.format,
            base,
            reproduced: cases_of(&runs.reproduced.suite),
            patched: cases_of(&runs.patched.suite),
            patched_again: runs.patched_again.map(|stage| cases_of(&stage.suite)),
            flaky,
            known,
        }
    }

    /// What the base shows by itself.
    fn before(&self, runs: &Runs<'a>, proven: &mut Proven, why: &mut Reasons) {
        let failed = with_state(&runs.base.suite, CaseState::Failed);
        if runs.base_again.is_none() && !failed.is_empty() {
            why.add(format!(
                "{} failed on the base and the tests were not run once more there, so that what is broken cannot be told from \
                 what is flaky",
                listed(&failed)
            ));
        }
        if let Some(again) = runs.base_again {
            let new: Vec<&str> = again
                .suite
                .cases
                .iter()
                .map(|case| case.name.as_str())
                .filter(|name| !self.base.contains_key(name))
                .collect();
            if !new.is_empty() {
                why.add(format!("the second run on the base has other tests than the first: {}", listed(&new)));
            }
        }
        proven.flaky = owned(self.flaky.iter());
    }

    /// The new tests that fail without the fix.
    fn red(&self, evidence: &Evidence, proven: &mut Proven, why: &mut Reasons) -> Vec<&'a Case> {
        let new: Vec<&'a Case> =
            self.reproduced.values().copied().filter(|case| !self.base.contains_key(case.name.as_str())).collect();
        let (unloaded, failed): (Vec<&'a Case>, Vec<&'a Case>) =
            new.iter().copied().filter(|case| case.state == CaseState::Failed).partition(|case| is_unloaded(case));
        if !unloaded.is_empty() {
            why.add(format!(
                "{} could not be loaded on the base, which shows nothing: write the tests against what is there, so that they run \
                 and fail; it says: {}",
                listed(&names(&unloaded)),
                said(unloaded[0])
            ));
            return failed;
        }
        self.kept(why);
        if failed.is_empty() {
            let passed: Vec<&str> =
                new.iter().filter(|case| case.state == CaseState::Passed).map(|case| case.name.as_str()).collect();
            why.add(match (new.is_empty(), passed.is_empty()) {
                (true, _) if !self.known.is_empty() => format!(
                    "there is no new test in the results. That {} failed on the base before is not enough: add a test that fails on \
                     the base for the reason at hand, where the test command finds it",
                    listed(&self.known.iter().copied().collect::<Vec<_>>())
                ),
                (true, _) => "there is no new test in the results: add one that fails on the base, in a file and under a name by \
                              which the test command finds it"
                    .into(),
                (false, false) => format!(
                    "the new test passes on the base: it does not show the bug ({}). Make it do what fails in the report",
                    listed(&passed)
                ),
                (false, true) => format!("the new test is skipped on the base: it has to run and fail ({})", listed(&names(&new))),
            });
            return failed;
        }
        let usable: Vec<&String> = evidence.reasons.iter().filter(|reason| reasons::is_telling(reason)).collect();
        if !usable.is_empty() {
            let found = failed.iter().find_map(|case| usable.iter().find(|reason| stands_in(reason, case)));
            match found {
                Some(reason) => proven.because = Some((*reason).clone()),
                None => {
                    let wanted: Vec<String> = usable.iter().take(6).map(|reason| format!("`{reason}`")).collect();
                    why.add(format!(
                        "the new test fails on the base for another reason than the one at hand: `{}` says: {}. One of these has to \
                         stand in it: {}",
                        failed[0].name,
                        said(failed[0]),
                        wanted.join(", ")
                    ));
                }
            }
        }
        failed
    }

    /// Whether the tests that were there do with the new ones what they did without.
    fn kept(&self, why: &mut Reasons) {
        let (mut gone, mut changed) = (Vec::new(), Vec::new());
        for (name, case) in &self.base {
            if self.flaky.contains(name) {
                continue;
            }
            match state(&self.reproduced, name) {
                None => gone.push(*name),
                Some(now) if now != case.state => changed.push(*name),
                Some(_) => {}
            }
        }
        // cargo runs no further test binary after one that failed, unless it is told to.
        let group = |name: &'a str| name.split("::").next().unwrap_or(name);
        if self.format == "cargo" {
            let present: BTreeSet<&str> = self.reproduced.keys().map(|name| group(name)).collect();
            gone.retain(|name| present.contains(group(name)));
        }
        if !gone.is_empty() {
            why.add(format!(
                "{} is there on the base but not with the new tests: tests that exist have to stay, and a new file of tests must \
                 not take the place of another",
                listed(&gone)
            ));
        }
        if !changed.is_empty() {
            why.add(format!(
                "{} does something else once the new tests are there: leave existing tests as they are, and let new ones leave \
                 nothing behind (if it is flaky, try again)",
                listed(&changed)
            ));
        }
    }

    /// What the patch does to the tests.
    fn after(&self, red: &[&'a Case], proven: &mut Proven, why: &mut Reasons) {
        let again = |name: &str| self.patched_again.as_ref().map(|cases| state(cases, name));
        for case in red {
            let name = case.name.as_str();
            match state(&self.patched, name) {
                Some(CaseState::Passed) => {}
                Some(CaseState::Failed) => {
                    let now = self.patched.get(name).map(|case| said(case)).unwrap_or_default();
                    why.add(format!("the new test `{name}` still fails with the patch; it says: {now}"));
                    continue;
                }
                Some(CaseState::Skipped) => {
                    why.add(format!("the new test `{name}` is skipped with the patch: it has to run and pass"));
                    continue;
                }
                None => {
                    why.add(format!("the new test `{name}` is missing with the patch: it has to run and pass"));
                    continue;
                }
            }
            match again(name) {
                None | Some(Some(CaseState::Passed)) => proven.red_then_green.push(name.to_owned()),
                Some(_) => why.add(format!(
                    "the new test `{name}` passed once with the patch and not the second time: make it give the same result \
                     every time"
                )),
            }
        }
        let mut groups = After::default();
        for (name, case) in &self.base {
            groups.old(name, case.state, self, again(name));
        }
        for (name, case) in &self.patched {
            let is_red = red.iter().any(|red| red.name == *name);
            if self.base.contains_key(name) || is_red {
                continue;
            }
            if case.state == CaseState::Failed {
                groups.new_fails.push(name);
            }
        }
        for (name, case) in &self.reproduced {
            if !self.base.contains_key(name) && case.state != CaseState::Failed && !self.patched.contains_key(name) {
                groups.gone.push(name);
            } else if !self.base.contains_key(name)
                && case.state == CaseState::Passed
                && state(&self.patched, name) == Some(CaseState::Skipped)
            {
                groups.skipped.push(name);
            }
        }
        groups.tell(self, proven, why);
        if self.patched.len() < self.base.len() {
            why.add(format!(
                "there are {} tests with the patch and {} on the base: none may get lost",
                self.patched.len(),
                self.base.len()
            ));
        }
    }
}

/// Tests by what became of them with the patch.
#[derive(Default)]
struct After<'a> {
    worse: Vec<&'a str>,
    not_again: Vec<&'a str>,
    skipped: Vec<&'a str>,
    gone: Vec<&'a str>,
    hidden: Vec<&'a str>,
    unclear: Vec<&'a str>,
    new_fails: Vec<&'a str>,
    flaky: BTreeSet<&'a str>,
    fixed: Vec<&'a str>,
    known: Vec<&'a str>,
    unchanged: u32,
}

impl<'a> After<'a> {
    /// A test that was there before. `again`: what it did in the second run with the patch, if there was one.
    fn old(&mut self, name: &'a str, before: CaseState, shown: &Shown<'a>, again: Option<Option<CaseState>>) {
        use CaseState::{Failed, Passed, Skipped};
        let now = state(&shown.patched, name);
        let Some(now) = now else { return self.gone.push(name) };
        if let Some(again) = again
            && now == Passed
            && again != Some(Passed)
        {
            match again {
                Some(Failed) if shown.known.contains(name) => return self.known.push(name),
                Some(Failed) => drop(self.flaky.insert(name)),
                Some(_) => return self.skipped.push(name),
                None => return self.gone.push(name),
            }
        }
        let is_flaky = shown.flaky.contains(name);
        match (before, now) {
            (_, Failed) if shown.known.contains(name) => self.known.push(name),
            (_, Passed) if shown.known.contains(name) => self.fixed.push(name),
            (_, Skipped) if shown.known.contains(name) => self.hidden.push(name),
            (_, Passed) => self.unchanged += u32::from(before == Passed || is_flaky),
            (Skipped, Skipped) => {}
            (_, Skipped) => self.skipped.push(name),
            (_, Failed) => match again {
                None if is_flaky => self.unclear.push(name),
                None => self.not_again.push(name),
                Some(Some(Passed)) => drop(self.flaky.insert(name)),
                Some(_) if is_flaky => self.unclear.push(name),
                Some(_) => self.worse.push(name),
            },
        }
    }

    fn tell(self, shown: &Shown<'a>, proven: &mut Proven, why: &mut Reasons) {
        let first_says = |names: &[&str]| {
            let case = names.first().and_then(|name| shown.patched.get(name));
            case.map(|case| format!("; `{}` says: {}", case.name, said(case))).unwrap_or_default()
        };
        let mut say = |names: &[&str], text: &str, with_words: bool| {
            if !names.is_empty() {
                let words = if with_words { first_says(names) } else { String::new() };
                why.add(format!("{} {text}{words}", listed(names)));
            }
        };
        say(&self.worse, "passed on the base and fails with the patch, twice: the patch breaks it", true);
        say(
            &self.not_again,
            "passed on the base and fails with the patch; the tests were not run once more to tell whether it is flaky",
            true,
        );
        say(
            &self.unclear,
            "is flaky on the base and fails with the patch, so that nothing can be told of it; the tests have to be run again",
            true,
        );
        say(&self.new_fails, "is new and fails with the patch", true);
        say(&self.skipped, "ran on the base and is skipped with the patch: it has to run", false);
        say(
            &self.hidden,
            "failed on the base and is skipped with the patch: leave it as it is, or make it pass; skipping repairs nothing",
            false,
        );
        say(&self.gone, "is there without the patch and missing with it: no test may disappear", false);
        proven
            .flaky
            .extend(self.flaky.iter().filter(|name| !shown.flaky.contains(*name)).map(|name| (*name).to_owned()));
        proven.flaky.sort();
        proven.also_fixed = owned(self.fixed.iter());
        proven.known_failures = owned(self.known.iter());
        proven.unchanged = self.unchanged;
    }
}

/// The test is the stand-in for a file that could not be loaded.
fn is_unloaded(case: &Case) -> bool {
    let head = case.message.trim_start();
    head.starts_with("collection failure")
        || head.starts_with("ImportError while importing test module")
        || head.contains("Test suite failed to run")
        || case.name.ends_with("[build failed]")
        || (case.name.contains("unittest.loader") && case.name.contains("_FailedTest"))
}

/// Whether the reason stands in what the test said as words of its own.
fn stands_in(reason: &str, case: &Case) -> bool {
    let reason = squeezed(reason);
    let text = squeezed(&without_own_words(case));
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let mut from = 0;
    while let Some(at) = text[from..].find(&reason).map(|at| at + from) {
        let end = at + reason.len();
        let before = is_word(text[..at].chars().next_back()) && is_word(reason.chars().next());
        let behind = is_word(text[end..].chars().next()) && is_word(reason.chars().next_back());
        if !before && !behind {
            return true;
        }
        from = at + text[at..].chars().next().map_or(1, char::len_utf8);
    }
    false
}

/// What the test said without what it always says: where the runner names it, and the lines of its own source that runners
/// show, of which only the one that failed counts. Else a name or a comment would do for a reason.
fn without_own_words(case: &Case) -> String {
    let own = case.name.split_once("::").map_or(case.name.as_str(), |(_, own)| own);
    let own = own.split('[').next().unwrap_or(own);
    let function = own.rsplit([':', '>', '/', '.']).next().unwrap_or(own).trim();
    let begins = format!("def {function}(");
    let mut text = String::new();
    let mut in_own = false;
    for line in case.message.lines() {
        let trimmed = line.trim_start();
        if trimmed.starts_with("_ _ _") {
            in_own = false;
        }
        in_own |= trimmed.trim_start_matches(['>', ' ']).trim_start_matches("async ").starts_with(&begins);
        // jest: `  12 |     expect(parse("x"))`.
        let is_frame = trimmed.split_once(" | ").is_some_and(|(number, _)| number.parse::<u32>().is_ok());
        let is_shown = (in_own && !line.starts_with("E ") && !line.starts_with('>')) || is_frame;
        if is_shown {
            continue;
        }
        let line = if line.starts_with('>') { line.split(" #").next().unwrap_or(line) } else { line };
        text.push_str(line);
        text.push('\n');
    }
    for mention in
        [format!("thread '{own}'"), format!("::{own}"), format!("def {function}("), format!(" in {function}\n")]
    {
        text = text.replace(&mention, " ");
    }
    text
}

/// In lower case, with single blanks.
fn squeezed(text: &str) -> String {
    text.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>().join(" ")
}

fn names<'a>(cases: &[&'a Case]) -> Vec<&'a str> {
    cases.iter().map(|case| case.name.as_str()).collect()
}

fn owned<'a>(names: impl Iterator<Item = &'a &'a str>) -> Vec<String> {
    names.map(|name| (*name).to_owned()).collect()
}

/// `a`, `b` and 3 others.
fn listed(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(NAMED).map(|name| format!("`{name}`")).collect();
    match names.len().saturating_sub(NAMED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// The beginning of what the test said, on one line.
fn said(case: &Case) -> String {
    let text = case.message.split_whitespace().collect::<Vec<_>>().join(" ");
    match (text.is_empty(), text.char_indices().nth(SAID)) {
        (true, _) => "(nothing)".into(),
        (false, None) => text,
        (false, Some((end, _))) => format!("{}…", &text[..end]),
    }
}

/// The trees have to differ where the patch has something to show.
fn trees(evidence: &Evidence, why: &mut Reasons) {
    let (base, test, new) = (&evidence.base.tree, &evidence.test_tree, &evidence.new_tree);
    if new == base {
        why.add("there is no change");
    } else if test == base {
        why.add("there is no new test: add one that fails on the base and passes with the patch");
    } else if new == test {
        why.add("the patch changes nothing but tests: repair the code");
    }
}
