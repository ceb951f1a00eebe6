//! The host's part of a fix: the suite on the base, the change as data, the suite with it. No word of the agent enters here.

use serde_json::{Value, json};

use crate::base::hash::Hash;
use crate::domain::activity::{Activity, CodeRequest, Difference, NewTree};
use crate::domain::code::TreeId;
use crate::domain::finding::FindingsRequest;
use crate::domain::proof::{Case, CaseState, Evidence, Proven, Stage, StageKind};
use crate::domain::run::Failure;
use crate::domain::sandbox::{SandboxAnswer, SandboxRequest, Workspace};
use crate::policy::diff::{Finding, Rule};
use crate::policy::redact::Redactor;
use crate::policy::{proof, suite};
use crate::ports::durable::{DurableContext, Stop};

use super::super::E_CONFLICT;
use super::plan::Plan;
use super::suites::{self, Base, does_not_run, has_changed, has_failed, list, outcome_text, unreadable, worse};

/// Findings of the diff policy that are told one by one.
const MOST_FINDINGS: usize = 20;
/// The name under which the number of tests is remembered.
const TESTS: &str = "tests";

/// What the host knows of one change. Filled as it goes, so that a stop half-way leaves what was found.
#[derive(Default)]
pub(super) struct Judged {
    pub difference: Option<Difference>,
    pub tree: Option<TreeId>,
    pub test_tree: Option<TreeId>,
    /// Those of the base first.
    pub stages: Vec<Stage>,
    pub evidence: Option<Evidence>,
    pub proven: Option<Proven>,
    /// The suite ran with the change and nothing is worse.
    pub green: bool,
    /// There is no difference at all.
    pub is_empty_change: bool,
    /// Why it is not proved, in words for the agent and for people.
    pub why: Vec<String>,
    /// What the diff policy refused it for.
    pub refused: Vec<Finding>,
    /// What it found and lets pass.
    pub noted: Vec<String>,
    /// What failed, and what it wrote.
    pub output: Option<(String, String)>,
}

impl Judged {
    /// As good as the step asks for.
    pub fn is_good(&self, test_first: bool) -> bool {
        if test_first { self.proven.is_some() } else { self.green }
    }

    /// A rule was broken that is about harm, not about size or place.
    pub fn is_dangerous(&self) -> bool {
        let harmless = |rule| {
            matches!(rule, Rule::Path | Rule::Name | Rule::TooManyFiles | Rule::TooManyLines | Rule::TooManyBytes)
        };
        self.refused.iter().any(|finding| !harmless(finding.rule))
    }

    fn unproved(&mut self, why: impl Into<String>) {
        self.why.push(why.into());
    }
}

pub(super) struct Host<'a> {
    pub ctx: &'a dyn DurableContext,
    pub plan: &'a Plan<'a>,
}

impl Host<'_> {
    /// Runs the suite on a base, twice where something fails.
    ///
    /// Errors: `Blocked` when it does not run there at all, or not in a way that anything could be read from.
    pub async fn base(&self, label: &str, workspace: Workspace) -> Result<Base, Stop> {
        let tree = workspace.tree.clone();
        let (stage, answer) = self.suite(&format!("{label}/suite"), StageKind::Base, (&tree, &tree), 0).await?;
        if let Some(why) = unreadable(&stage) {
            return Err(does_not_run(&why, &stage, &answer));
        }
        let failed = has_failed(&stage.suite);
        let mut stages = vec![stage];
        if failed {
            let (again, _) = self.suite(&format!("{label}/again"), StageKind::BaseAgain, (&tree, &tree), 1).await?;
            stages.push(again);
        }
        Ok(Base { workspace, stages })
    }

    /// Remembers how many tests there are. `{before, now}` when there were more.
    pub async fn remember(&self, base: &Base) -> Result<Option<Value>, Stop> {
        let now = base.stages.first().map_or(0, |stage| i64::try_from(stage.suite.cases.len()).unwrap_or(i64::MAX));
        let request = FindingsRequest::Remember { name: TESTS.into(), value: now };
        let answer: Value = match self.ctx.perform("base/tests", Activity::Findings(request)).await {
            Ok(recorded) => recorded.decode()?,
            Err(stop) if stop.is_final() => return Err(stop),
            Err(stop) => {
                // A comparison for people; the proof does not need it.
                self.ctx.note("not_remembered", json!({"what": TESTS, "reason": stop.to_string()}));
                return Ok(None);
            }
        };
        let Some(before) = answer["before"].as_i64().filter(|before| *before > now) else { return Ok(None) };
        let fewer = json!({"before": before, "now": now});
        self.ctx.note("fewer_tests", fewer.clone());
        Ok(Some(fewer))
    }

    /// One run of the suite on a clean checkout of `tree`.
    async fn suite(
        &self,
        label: &str,
        kind: StageKind,
        (base, tree): (&TreeId, &TreeId),
        attempt: u32,
    ) -> Result<(Stage, SandboxAnswer), Stop> {
        let request = SandboxRequest {
            base: base.clone(),
            tree: tree.clone(),
            command: self.plan.test.to_owned(),
            fresh: true,
            wall_s: None,
            attempt,
        };
        let answer: SandboxAnswer = self.ctx.perform(label, Activity::Sandbox(request)).await?.decode()?;
        let suite = suite::read(&answer.stdout, &answer.stderr, answer.junit.as_deref());
        Ok((Stage { kind, receipt: answer.receipt.clone(), suite }, answer))
    }

    /// Judges the change from the base to `tree`: policy, the change as data, tests, verdict. A change that is not proved is
    /// an answer.
    pub async fn judge(&self, label: &str, base: &Base, tree: &TreeId, judged: &mut Judged) -> Result<(), Stop> {
        judged.stages.clone_from(&base.stages);
        judged.tree = Some(tree.clone());
        let diff = CodeRequest::Diff { base: base.tree().clone(), new: tree.clone() };
        let difference: Difference = self.ctx.perform(&format!("{label}diff"), Activity::Code(diff)).await?.decode()?;
        let judgement = self.plan.policy.judge(&difference.diff, &Redactor::default());
        judged.is_empty_change = difference.diff.changes.is_empty();
        judged.noted = judgement.noted.iter().map(ToString::to_string).collect();
        let patch = difference.patch.clone();
        judged.difference = Some(difference);
        if judged.is_empty_change {
            return Ok(());
        }
        if !judgement.is_accepted() {
            self.refuse(judgement.refused, judged);
            return Ok(());
        }
        // From here on the change is the text of the patch: what the agent left behind is not looked at again.
        let apply = CodeRequest::Apply { base: base.tree().clone(), patch };
        match self.tree(&format!("{label}apply"), apply).await? {
            Ok(applied) if applied == *tree => {}
            Ok(_) => judged
                .unproved("the change as a patch does not give the same files: it holds something that is no text, or looks like a secret"),
            Err(why) => judged.unproved(format!("the change cannot be applied as a patch: {why}")),
        }
        if !judged.why.is_empty() {
            return Ok(());
        }
        if self.plan.test_first && !self.reproduced(label, base, tree, judged).await? {
            self.verdict(base, tree, judged);
            return Ok(());
        }
        self.patched(label, base, tree, judged).await?;
        if self.plan.test_first {
            self.verdict(base, tree, judged);
        }
        Ok(())
    }

    fn refuse(&self, refused: Vec<Finding>, judged: &mut Judged) {
        let count = refused.len();
        judged.unproved("the change was refused before any test ran; take out what is named here");
        for finding in refused.iter().take(MOST_FINDINGS) {
            self.ctx.note("refused", json!({"text": format!("a patch: {finding}"), "rule": finding.rule}));
            judged.unproved(finding.to_string());
        }
        if count > MOST_FINDINGS {
            judged.unproved(format!("and {} more of the kind", count - MOST_FINDINGS));
        }
        judged.refused = refused;
    }

    /// The new tests alone on the base. False: the proof has failed already.
    async fn reproduced(&self, label: &str, base: &Base, tree: &TreeId, judged: &mut Judged) -> Result<bool, Stop> {
        let tests = CodeRequest::Tests { base: base.tree().clone(), new: tree.clone() };
        let test_tree = match self.tree(&format!("{label}tests"), tests).await? {
            Ok(tree) => tree,
            Err(why) => {
                judged.unproved(format!("the new tests cannot be told from the rest of the change: {why}"));
                return Ok(false);
            }
        };
        judged.test_tree = Some(test_tree.clone());
        if test_tree == *base.tree() {
            judged.unproved(
                "the change adds no test: write one in a test file, or in a test module of a Rust file, that fails without \
                 the fix",
            );
            return Ok(false);
        }
        let trees = (base.tree(), &test_tree);
        let (mut stage, mut answer) =
            self.suite(&format!("{label}reproduced"), StageKind::Reproduced, trees, 0).await?;
        if unreadable(&stage).is_none() && has_changed(base, &stage.suite) {
            // A test that was there before does something else: by chance, or because of the new ones. The second run decides.
            let again = format!("{label}reproduced-again");
            (stage, answer) = self.suite(&again, StageKind::Reproduced, trees, 1).await?;
        }
        let states = base.states();
        let is_new = |case: &&Case| !states.contains_key(case.name.as_str());
        let new: Vec<&Case> = stage.suite.cases.iter().filter(is_new).collect();
        let is_red = new.iter().any(|case| case.state == CaseState::Failed);
        if let Some(why) = unreadable(&stage) {
            judged.unproved(format!(
                "the suite with your tests alone, on the code without your fix: {why}. A test that cannot be built or loaded \
                 there shows nothing: write it against what is there, so that it runs and fails"
            ));
        } else if new.is_empty() {
            judged.unproved(
                "your tests do not appear in the results: put one into a file and under a name by which the test command finds \
                 it",
            );
        } else if !is_red {
            let names: Vec<String> = new.iter().map(|case| case.name.clone()).collect();
            judged.unproved(format!(
                "no new test fails without the fix, so none of them shows the error ({}): make one do what the report says",
                list(&names)
            ));
        }
        judged.output = Some(("your tests on the base, without your fix".into(), outcome_text(&stage, base, &answer)));
        judged.stages.push(stage);
        Ok(judged.why.is_empty())
    }

    /// The whole change.
    async fn patched(&self, label: &str, base: &Base, tree: &TreeId, judged: &mut Judged) -> Result<(), Stop> {
        let trees = (base.tree(), tree);
        let (stage, answer) = self.suite(&format!("{label}patched"), StageKind::Patched, trees, 0).await?;
        let mut worse = worse(base, &stage.suite);
        let readable = unreadable(&stage);
        let output = outcome_text(&stage, base, &answer);
        let known = base.known_failures();
        let before = base.states();
        let once_more = stage.suite.cases.iter().any(|case| {
            let name = case.name.as_str();
            case.state == CaseState::Failed && before.contains_key(name) && !known.contains(name)
        });
        judged.stages.push(stage);
        if readable.is_none() && once_more {
            let (again, _) = self.suite(&format!("{label}patched-again"), StageKind::PatchedAgain, trees, 1).await?;
            let still = suites::worse(base, &again.suite);
            worse.retain(|name| still.contains(name));
            judged.stages.push(again);
        }
        judged.green = readable.is_none() && worse.is_empty();
        if !judged.green {
            judged.output = Some(("the suite with your change".into(), output));
        }
        if let (false, Some(why)) = (self.plan.test_first, readable) {
            judged.unproved(format!("the suite with your change: {why}"));
        } else if !self.plan.test_first && !worse.is_empty() {
            judged.unproved(format!("with your change these tests fail or are gone: {}", list(&worse)));
        }
        Ok(())
    }

    /// Hands what there is to the rules.
    fn verdict(&self, base: &Base, tree: &TreeId, judged: &mut Judged) {
        let Some(difference) = &judged.difference else { return };
        let evidence = Evidence {
            base: base.workspace.clone(),
            test_tree: judged.test_tree.clone().unwrap_or_else(|| base.tree().clone()),
            new_tree: tree.clone(),
            patch: Hash::of(&difference.patch),
            stages: judged.stages.clone(),
            reasons: self.plan.reasons.clone(),
            noted: judged.noted.clone(),
        };
        match proof::judge(&evidence) {
            Ok(proven) if judged.why.is_empty() => {
                judged.proven = Some(proven);
                judged.output = None;
            }
            Ok(_) => {}
            // What the host saw before says it better than the stages that are missing for it.
            Err(_) if !judged.why.is_empty() => {}
            Err(unproved) => judged.why.extend(unproved.into_iter().map(|unproved| unproved.why)),
        }
        judged.evidence = Some(evidence);
    }

    /// A tree made of others; `Err`: the change is such that there is none, and why.
    async fn tree(&self, label: &str, request: CodeRequest) -> Result<Result<TreeId, String>, Stop> {
        match self.ctx.perform(label, Activity::Code(request)).await {
            Ok(recorded) => Ok(Ok(recorded.decode::<NewTree>()?.tree)),
            Err(Stop::Failed(Failure { code, message, .. })) if code == E_CONFLICT => Ok(Err(message)),
            Err(stop) => Err(stop),
        }
    }
}
