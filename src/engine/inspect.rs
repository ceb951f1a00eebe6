//! What is looked at once more before a pull request leaves, whatever the steps before have said of it.
//!
//! The steps that made the proposal ran the same rules. Here they are asked again over what cannot be talked into anything: the
//! trees themselves, the journal of this run, the daemon's own secrets. A proposal that claims something else is refused as
//! unsafe, and nothing of it leaves.

use std::collections::HashSet;
use std::sync::Arc;

use crate::base::hash::Hash;
use crate::base::ids::RunId;
use crate::domain::activity::{CodeRequest, NewTree};
use crate::domain::code::{TreeDiff, TreeId};
use crate::domain::proof::{Evidence, Stage, StageKind};
use crate::domain::proposal::PullRequestText;
use crate::domain::run::Failure;
use crate::domain::sandbox::{SandboxAnswer, Workspace};
use crate::policy::diff::DiffPolicy;
use crate::policy::redact::Redactor;
use crate::policy::{proof, suite};
use crate::ports::durable::Stop;
use crate::workspace::{Error, Repository};

use super::embedded::journal_broken;
use super::executor::Executor;
use super::workshop::{Source, workspace_stop};

/// Policy refused a patch.
pub(super) const E_DIFF: &str = "E-DIFF";
/// The proof does not hold.
pub(super) const E_PROOF: &str = "E-PROOF";

/// Reasons that are told one by one.
const MOST_REASONS: usize = 12;

/// Why a pull request is not let through.
pub(super) struct Refusal {
    pub code: &'static str,
    pub reasons: Vec<String>,
}

impl Refusal {
    fn new(code: &'static str, reasons: impl IntoIterator<Item = String>) -> Self {
        Self { code, reasons: reasons.into_iter().collect() }
    }

    pub fn stop(&self) -> Stop {
        let shown: Vec<&str> = self.reasons.iter().take(MOST_REASONS).map(String::as_str).collect();
        let more = self.reasons.len().saturating_sub(MOST_REASONS);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        Stop::Unsafe(
            Failure::new(self.code, format!("the pull request was refused: {}{more}", shown.join("; ")))
                .help("nothing was published; the run's journal has the patch and what the tests did"),
        )
    }
}

/// What came of looking: an answer, or a reason why there is none.
type Looked = Result<Result<(), Refusal>, Stop>;

impl Executor {
    /// The private repository that the run works on.
    pub(super) async fn repository(&self) -> Result<Arc<Repository>, Stop> {
        let workshop = self.bound.workshop.clone().ok_or_else(|| {
            Stop::Blocked(
                Failure::new(super::workshop::E_REPOSITORY, "this process works on no code")
                    .help("run the pipeline with `nightcrew run` or `nightcrew serve`"),
            )
        })?;
        let bound = self.bound.clone();
        let source: Source =
            blocking(move || workshop.source(&bound.pipeline, &bound.settings, &bound.profile)).await?;
        Ok(source.repository)
    }

    /// Looks at a pull request. The first rule that it breaks is the answer.
    ///
    /// Errors: what kept the looking from being done; then nothing may leave either.
    pub(super) async fn inspect(&self, run: &RunId, pr: &PullRequestText) -> Looked {
        let evidence = &pr.evidence;
        if let Err(refusal) = consistent(pr) {
            return Ok(Err(refusal));
        }
        if let Err(unproved) = proof::judge(evidence) {
            return Ok(Err(Refusal::new(E_PROOF, unproved.into_iter().map(|unproved| unproved.why))));
        }
        if let Err(refusal) = self.witnessed(run, evidence).await? {
            return Ok(Err(refusal));
        }
        let repository = self.repository().await?;
        let (base, new, patch) = (evidence.base.tree.clone(), pr.new_tree.clone(), pr.patch.clone());
        let looked = blocking(move || look(&repository, &base, &new, &patch)).await?;
        let diff = match looked {
            Ok(diff) => diff,
            Err(why) => return Ok(Err(Refusal::new(E_PROOF, [why]))),
        };
        if let Err(refusal) = self.allowed(pr, &diff)? {
            return Ok(Err(refusal));
        }
        // The tree that was red must be the base with the tests of this patch and nothing else.
        let tests = CodeRequest::Tests { base: evidence.base.tree.clone(), new: pr.new_tree.clone() };
        let made = self.code(&tests).await?;
        let made: NewTree = serde_json::from_str(made.get())
            .map_err(|error| Stop::Failed(Failure::new(E_PROOF, format!("the tests' tree cannot be read: {error}"))))?;
        Ok(match made.tree == evidence.test_tree {
            true => Ok(()),
            false => Err(Refusal::new(E_PROOF, ["the test that was red is not the one of this patch".to_owned()])),
        })
    }

    /// The policy over the difference of the trees, with the daemon's own secrets.
    fn allowed(&self, pr: &PullRequestText, diff: &TreeDiff) -> Looked {
        // A rule that holds for every patch cannot be in the list of what is allowed.
        let policy = match DiffPolicy::new(pr.rules.clone()) {
            Ok(policy) => policy,
            Err(error) => return Ok(Err(Refusal::new(E_DIFF, [error.to_string()]))),
        };
        // A secret that cannot be read now cannot have come from here either.
        let secrets = self.bound.settings.secrets.values().filter_map(|secret| secret.read_all().ok()).flatten();
        let judgement = policy.judge(diff, &Redactor::new(secrets.collect()));
        Ok(match judgement.is_accepted() && !diff.changes.is_empty() {
            true => Ok(()),
            false if diff.changes.is_empty() => Err(Refusal::new(E_DIFF, ["nothing changes".to_owned()])),
            false => Err(Refusal::new(E_DIFF, judgement.refused.iter().map(ToString::to_string))),
        })
    }

    /// Every stage stands in the journal of this run as the host saw it, and says there what it says here.
    async fn witnessed(&self, run: &RunId, evidence: &Evidence) -> Looked {
        self.journal.sync().await.map_err(journal_broken)?;
        let (reader, run, evidence) = (self.journal.reader().clone(), run.clone(), evidence.clone());
        blocking(move || {
            let bases = reader.outputs(&run, "{\"origin\":").map_err(journal_broken)?;
            let mut bases = bases.iter().filter_map(|text| serde_json::from_str::<Workspace>(text).ok());
            if !bases.any(|base| base == evidence.base) {
                return Ok(Err(Refusal::new(E_PROOF, ["this run never looked up the base of the proof".to_owned()])));
            }
            let answers = reader.outputs(&run, "{\"receipt\":{\"command\":").map_err(journal_broken)?;
            let answers: Vec<SandboxAnswer> =
                answers.iter().filter_map(|text| serde_json::from_str(text).ok()).collect();
            let unseen = evidence.stages.iter().filter(|stage| !answers.iter().any(|answer| is(stage, answer)));
            let reasons: Vec<String> = unseen
                .map(|stage| format!("the host of this run never saw `{}` as the proof has it", name(stage.kind)))
                .collect();
            Ok(if reasons.is_empty() { Ok(()) } else { Err(Refusal::new(E_PROOF, reasons)) })
        })
        .await
    }
}

/// What the proposal says of itself must fit together.
fn consistent(pr: &PullRequestText) -> Result<(), Refusal> {
    let evidence = &pr.evidence;
    let mut reasons = Vec::new();
    if evidence.new_tree != pr.new_tree {
        reasons.push("the proof is about another tree than the one that is proposed".to_owned());
    }
    if Hash::of(&pr.patch) != evidence.patch {
        reasons.push("the proof is about another patch than the one that is proposed".to_owned());
    }
    let mut once = HashSet::new();
    if evidence.stages.iter().any(|stage| !once.insert(stage.kind)) {
        reasons.push("a stage of the proof is there twice".to_owned());
    }
    if evidence.stages.iter().any(|stage| !stage.receipt.fresh) {
        reasons.push("a stage of the proof did not run on a clean checkout".to_owned());
    }
    if reasons.is_empty() { Ok(()) } else { Err(Refusal::new(E_PROOF, reasons)) }
}

/// The stage is what the host saw, and its tests are what is read from that.
fn is(stage: &Stage, answer: &SandboxAnswer) -> bool {
    answer.receipt == stage.receipt
        && suite::read(&answer.stdout, &answer.stderr, answer.junit.as_deref()) == stage.suite
}

/// The difference of the two trees, after the patch was seen to make one of the other. `Err`: it does not.
fn look(repository: &Repository, base: &TreeId, new: &TreeId, patch: &str) -> Result<Result<TreeDiff, String>, Stop> {
    match repository.apply(base, patch.as_bytes()) {
        Ok(applied) if applied == *new => {}
        Ok(_) => return Ok(Err("the patch makes another tree of the base than the one that is proposed".into())),
        Err(Error::Refused(why)) => return Ok(Err(why)),
        Err(error) => return Err(workspace_stop(error)),
    }
    repository.diff(base, new).map(Ok).map_err(workspace_stop)
}

fn name(kind: StageKind) -> &'static str {
    match kind {
        StageKind::Base => "the suite on the base",
        StageKind::BaseAgain => "the suite on the base, again",
        StageKind::Reproduced => "the new test on the base",
        StageKind::Patched => "the suite with the patch",
        StageKind::PatchedAgain => "the suite with the patch, again",
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, Stop> + Send + 'static,
) -> Result<T, Stop> {
    tokio::task::spawn_blocking(act)
        .await
        .unwrap_or_else(|lost| Err(Stop::Failed(Failure::new("E-PANIC", format!("it broke: {lost}")))))
}
