//! The stages of evidence by what they show: whether they are the ones that are needed, and whether they can be believed.

use super::verdict::{Reasons, cases_of, with_state};
use super::words::listed;
use crate::domain::code::TreeId;
use crate::domain::proof::{CaseState, Evidence, Stage, StageKind};

/// The stages by what they show.
pub(super) struct Runs<'a> {
    pub base: &'a Stage,
    pub base_again: Option<&'a Stage>,
    pub reproduced: &'a Stage,
    pub patched: &'a Stage,
    pub patched_again: Option<&'a Stage>,
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
    pub fn of(evidence: &'a Evidence, why: &mut Reasons) -> Option<Self> {
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
    pub fn receipts(&self, evidence: &Evidence, why: &mut Reasons) {
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
    pub fn readable(&self, why: &mut Reasons) {
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
