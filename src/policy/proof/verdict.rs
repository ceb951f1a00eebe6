//! The verdict over evidence: first whether the runs are the right ones, then whether they can be read, then what they show.

use std::collections::{BTreeMap, BTreeSet};

use super::runs::Runs;
use super::words::{is_unloaded, listed, names, owned, said, stands_in};
use super::{Unproved, reasons};
use crate::domain::proof::{Case, CaseState, Evidence, Proven, Suite};

pub(super) type Cases<'a> = BTreeMap<&'a str, &'a Case>;

#[derive(Default)]
pub(super) struct Reasons(Vec<Unproved>);

impl Reasons {
    pub fn add(&mut self, why: impl Into<String>) {
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

pub(super) fn cases_of(suite: &Suite) -> Cases<'_> {
    suite.cases.iter().map(|case| (case.name.as_str(), case)).collect()
}

pub(super) fn with_state(suite: &Suite, state: CaseState) -> Vec<&str> {
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
