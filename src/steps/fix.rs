//! `fix`: a patch that is proved by tests. An agent proposes, the host judges.
//!
//! The agent works on a copy of the code until it says that it is done. What it says counts for nothing: the host looks up the
//! current base, takes the difference as data, holds it against the diff policy, and runs the suite itself on clean checkouts
//! (see `host`). Only the verdict of `policy::proof` makes a fix `proved`. An attempt that is not proved is followed by another
//! that is told why. A reviewer that never saw the transcript may block what is proved.
//!
//! Invariants: `proved` is true in one end alone, and after the review if there is one; an attempt that changes nothing ends
//! the step; what is known when a limit or an error ends the step is kept in its fields.

mod agent;
mod host;
mod known;
mod plan;
pub(super) mod reviewer;
mod suites;

use std::cell::RefCell;

use serde_json::json;

use crate::agent::{E_CONTEXT, E_LENGTH, E_LOOP, E_OUTPUT, prompt};
use crate::base::LocalBoxFuture;
use crate::domain::activity::{Activity, CodeAt, CodeRequest, Difference, NewTree};
use crate::domain::code::TreeId;
use crate::domain::entry::StepEnd;
use crate::domain::money::Cap;
use crate::domain::proof::{Evidence, Stage, StageKind};
use crate::domain::sandbox::Workspace;
use crate::expr::types::{Field, Type};
use crate::policy::diff::DiffPolicy;
use crate::ports::durable::Stop;
use crate::ports::step::{Checked, KindMistake, Opt, OptType, StepCall, StepKind};

use self::host::Judged;
use self::known::{Known, Word};
pub(super) use self::plan::diff_rules;
use self::plan::{Plan, Planned};
use self::suites::Base;

use super::model::{mistake, one_instruction};
use super::{E_CONFLICT, data};

const DIFF: &[Opt] = &[
    Opt { name: "paths", ty: OptType::Texts, required: false, doc: "globs of files that may change" },
    Opt { name: "max_files", ty: OptType::Integer, required: false, doc: "files at most" },
    Opt { name: "max_lines", ty: OptType::Integer, required: false, doc: "changed lines at most" },
];

const REVIEW: &[Opt] = &[
    Opt { name: "playbook", ty: OptType::File, required: true, doc: "what the reviewer is told" },
    Opt { name: "rounds", ty: OptType::Integer, required: false, doc: "rounds of review at most; default 1" },
];

pub const KIND: StepKind = StepKind {
    name: "fix",
    summary: "write a patch and prove it by tests",
    options: &[
        Opt { name: "ask", ty: OptType::Text, required: false, doc: "the instruction; or `playbook`" },
        Opt { name: "playbook", ty: OptType::File, required: false, doc: "a file with the instruction" },
        Opt {
            name: "given",
            ty: OptType::Data,
            required: false,
            doc: "all that the model sees; default: the item of the `each`",
        },
        Opt {
            name: "test_first",
            ty: OptType::Boolean,
            required: false,
            doc: "a failing test must be shown before the fix",
        },
        Opt { name: "attempts", ty: OptType::Integer, required: false, doc: "attempts at most; default 3" },
    ],
    beside: &[
        Opt { name: "diff", ty: OptType::Map(DIFF), required: false, doc: "what the patch may touch" },
        Opt {
            name: "review",
            ty: OptType::Map(REVIEW),
            required: false,
            doc: "a second model reads the patch before it counts",
        },
        Opt {
            name: "tools",
            ty: OptType::Tools,
            required: false,
            doc: "its tools; default: read, search, tree, edit, run_tests, run",
        },
    ],
    model: false,
    closing: false,
    yields: |_| yields(),
    check,
    run: Some(run),
    example: "fix: {ask: \"The smallest honest fix.\", test_first: true, attempts: 3}\ndiff: {paths: [\"src/**\", \"tests/**\"], max_files: 8}\n",
};

/// As [`Known::end`] writes it.
fn yields() -> Type {
    let text = || Type::String { max: None };
    let list = |of| Type::List(Box::new(of));
    let maybe = |of| Type::Optional(Box::new(of));
    Type::Map(vec![
        Field::new("proved", Type::Boolean),
        Field::new("green", Type::Boolean),
        Field::new("why", list(text())),
        Field::new("title", text()),
        Field::new("summary", text()),
        Field::new("root_cause", maybe(text())),
        Field::new("limits", list(text())),
        Field::new("patch", text()),
        Field::new("files", Type::Integer),
        Field::new("added", Type::Integer),
        Field::new("removed", Type::Integer),
        Field::new("tree", maybe(text())),
        Field::new("test_tree", maybe(text())),
        Field::new("receipts", list(Type::Any)),
        Field::new("evidence", maybe(Type::Any)),
        Field::new("proven", maybe(Type::Any)),
        Field::new("refused", list(text())),
        Field::new("review", list(Type::Any)),
        Field::new("attempts", Type::Integer),
        Field::new("fewer_tests", maybe(Type::Any)),
    ])
}

fn check(checked: &Checked<'_>) -> Vec<KindMistake> {
    let mut mistakes = one_instruction("fix", checked);
    if !checked.repository {
        let help = "write `repository: {github: owner/name, path: …}`";
        mistakes.push(mistake("", "`fix` needs a repository", "there is no code to change", Some(help)));
    }
    if !checked.environment {
        let help = "write `environment: environments/….yaml`, with `test:` in it";
        mistakes.push(mistake("", "`fix` needs an environment", "the test command is the environment's", Some(help)));
    }
    let tools = checked.options.texts("tools");
    if checked.options.0.contains_key("tools") && !tools.contains(&"edit") {
        let help = "add `edit`, or leave `tools` out: then it has read, search, tree, edit, run_tests and run";
        mistakes.push(mistake(
            "tools",
            "a fix without `edit` can change nothing",
            "`edit` is not among them",
            Some(help),
        ));
    }
    if let Err(error) = DiffPolicy::new(plan::diff_rules(checked.options)) {
        let help = "write globs over whole paths, such as `src/**`";
        mistakes.push(mistake("diff.paths", "the paths of the diff cannot be read", &error.to_string(), Some(help)));
    }
    for (option, value) in
        [("attempts", checked.options.integer("attempts")), ("rounds", plan::rounds(checked.options))]
    {
        if value == Some(&0) {
            let at = if option == "attempts" { "fix.attempts" } else { "review.rounds" };
            let help = format!("write `{option}: 1` or more");
            mistakes.push(mistake(at, &format!("`{option}` must not be 0"), "nothing would be done", Some(&help)));
        }
    }
    mistakes
}

fn run<'a>(call: StepCall<'a>) -> LocalBoxFuture<'a, Result<StepEnd, Stop>> {
    Box::pin(go(call))
}

async fn go(call: StepCall<'_>) -> Result<StepEnd, Stop> {
    let plan = match Plan::of(&call)? {
        Planned::Fix(plan) => plan,
        Planned::Nothing(reason) => return Ok(data::skipped(reason)),
    };
    let mut known = Known::default();
    match attempts(&call, &plan, &mut known).await {
        Ok(word) => Ok(known.end(word, plan.test_first)),
        Err(stop) => known.stopped(stop),
    }
}

/// How an attempt of the agent ended.
enum Tried {
    /// It says that it is done.
    Done,
    /// At this cap it was made to conclude.
    Capped(Cap, String),
    /// It went astray; another attempt may do better.
    Astray(Stop),
}

async fn attempts(call: &StepCall<'_>, plan: &Plan<'_>, known: &mut Known) -> Result<Word, Stop> {
    let ctx = call.ctx;
    let host = host::Host { ctx, plan };
    let mut base = host.base("base", plan.workspace.clone()).await?;
    known.stages.clone_from(&base.stages);
    known.fewer_tests = host.remember(&base).await?;
    let code = RefCell::new(CodeAt { base: base.tree().clone(), tree: base.tree().clone() });
    let mut told = agent::Told::default();
    // The base and the tree that were judged last.
    let mut judged: Option<(TreeId, TreeId)> = None;
    let mut most = plan.attempts;
    let mut round = 0;
    let mut attempt = 0;
    while attempt < most {
        attempt += 1;
        known.attempts = attempt;
        let label = format!("attempt-{attempt}/");
        let capped = match agent_works(call, plan, &label, &code, told.given(&base), known).await? {
            Tried::Done => None,
            Tried::Capped(cap, message) => Some(Stop::Capped { cap, message }),
            Tried::Astray(stop) if attempt >= most && known.answer.is_empty() => return Err(stop),
            Tried::Astray(stop) => {
                let why = format!("the last attempt ended without an answer: {stop}");
                known.judged.why = vec![why.clone()];
                told = agent::Told::why(vec![why]);
                continue;
            }
        };
        let tree = code.borrow().tree.clone();
        if tree == *base.tree() {
            // What an earlier attempt had changed is undone.
            known.judged = Judged { why: std::mem::take(&mut known.judged.why), ..Judged::default() };
            return match capped {
                Some(stop) => Err(stop),
                None => Ok(Word::NoChange),
            };
        }
        if judged.as_ref().is_some_and(|(on, of)| on == base.tree() && *of == tree) {
            if let Some(stop) = capped {
                return Err(stop);
            }
            known.no_progress = true;
            break;
        }
        match follow_base(call, &host, &label, attempt, &mut base, &tree).await? {
            Followed::Stays => {}
            Followed::Carried(carried) => {
                known.stages.clone_from(&base.stages);
                *code.borrow_mut() = CodeAt { base: base.tree().clone(), tree: carried };
            }
            Followed::Conflict(lost) => {
                known.stages.clone_from(&base.stages);
                *code.borrow_mut() = CodeAt { base: base.tree().clone(), tree: base.tree().clone() };
                let why = "while you worked the base moved on, and your change touches the same lines. The code stands at the \
                           new base now, without your change: make it again there";
                told = agent::Told::conflict(why, lost.patch.clone());
                known.judged = Judged { why: vec![why.to_owned()], difference: Some(*lost), ..Judged::default() };
                judged = None;
                if let Some(stop) = capped {
                    return Err(stop);
                }
                continue;
            }
        }
        let tree = code.borrow().tree.clone();
        known.judged = Judged::default();
        host.judge(&label, &base, &tree, &mut known.judged).await?;
        known.stages.clone_from(&known.judged.stages);
        judged = Some((base.tree().clone(), tree));
        if known.judged.is_empty_change {
            return Ok(Word::NoChange);
        }
        if !known.judged.is_good(plan.test_first) {
            if let Some(stop) = capped {
                return Err(stop);
            }
            told = agent::Told::why(known.judged.why.clone());
            if attempt < most
                && let Some((what, output)) = &known.judged.output
            {
                told.output = Some(agent::condensed(call, &label, what, output).await?);
            }
            continue;
        }
        let Some(review) = &plan.review else { return Ok(Word::good(plan.test_first)) };
        round += 1;
        let verdict = reviewer::binding(call, plan, review, &label, round, known).await?;
        known.reviews.push(verdict.shown(round));
        if !verdict.blocks {
            known.reviewed = true;
            return Ok(Word::good(plan.test_first));
        }
        known.judged.why = verdict.why();
        if round >= review.rounds {
            return Ok(Word::BlockedByReview);
        }
        if let Some(stop) = capped {
            return Err(stop);
        }
        // What the reviewer asks for is an attempt of its own.
        most = most.saturating_add(1);
        told = agent::Told::review(&verdict);
    }
    // What is good and came this far was blocked by the reviewer, and not mended since.
    Ok(if known.judged.is_good(plan.test_first) { Word::BlockedByReview } else { Word::Unproved })
}

/// One attempt of the agent. Errors: what another attempt would not mend.
async fn agent_works(
    call: &StepCall<'_>,
    plan: &Plan<'_>,
    label: &str,
    code: &RefCell<CodeAt>,
    given: Vec<prompt::Given>,
    known: &mut Known,
) -> Result<Tried, Stop> {
    match agent::work(call, plan, label, code, given).await {
        Ok(answered) => {
            known.answer = answered.value;
            Ok(match answered.capped {
                // The end of an attempt, not of the run's turns.
                Some((Cap::Turns, _)) if answered.turns >= agent::MOST_TURNS => Tried::Done,
                Some((cap, message)) => Tried::Capped(cap, message),
                None => Tried::Done,
            })
        }
        Err(Stop::Failed(failure)) if [E_OUTPUT, E_LOOP, E_LENGTH, E_CONTEXT].contains(&failure.code.as_str()) => {
            call.ctx.note("attempt_failed", json!({"attempt": known.attempts, "reason": failure.message}));
            keep(call, label, code, known).await?;
            Ok(Tried::Astray(Stop::Failed(failure)))
        }
        Err(stop) if stop.is_final() => Err(stop),
        Err(stop) => {
            keep(call, label, code, known).await?;
            Err(stop)
        }
    }
}

/// What the agent had changed when it was stopped stays known.
async fn keep(call: &StepCall<'_>, label: &str, code: &RefCell<CodeAt>, known: &mut Known) -> Result<(), Stop> {
    let at = code.borrow().clone();
    if at.tree == at.base || known.judged.tree.as_ref() == Some(&at.tree) {
        return Ok(());
    }
    let diff = Activity::Code(CodeRequest::Diff { base: at.base, new: at.tree.clone() });
    match call.ctx.perform(&format!("{label}left"), diff).await {
        Ok(recorded) => {
            let found: Difference = recorded.decode()?;
            known.judged = Judged { tree: Some(at.tree), ..Judged::default() };
            known.judged.difference = Some(found);
            Ok(())
        }
        Err(stop) if stop.is_final() => Err(stop),
        Err(stop) => {
            call.ctx.note("not_kept", json!({"reason": stop.to_string()}));
            Ok(())
        }
    }
}

/// What becomes of the agent's change when the base has moved on.
enum Followed {
    /// It has not.
    Stays,
    /// The change on the new base.
    Carried(TreeId),
    /// It does not fit there. The change as it was.
    Conflict(Box<Difference>),
}

/// A proof that was repeated on the base as it is now.
pub(super) struct Repeated {
    pub evidence: Evidence,
    /// `None`: as it was.
    pub patch: Option<String>,
}

/// Numbers of looks at the base that are later than those of all attempts.
const LATER: u32 = 1_000;

/// Carries what was proved to the base as it is now, and proves it there. `call` has the options of the fix; `number` tells
/// repetitions apart. `Err` within: why it does not hold there.
pub(super) async fn again(
    call: &StepCall<'_>,
    number: u32,
    before: &Evidence,
) -> Result<Result<Repeated, String>, Stop> {
    let plan = match Plan::of(call)? {
        Planned::Fix(plan) => plan,
        Planned::Nothing(reason) => return Ok(Err(reason)),
    };
    let host = host::Host { ctx: call.ctx, plan: &plan };
    let of_base = |stage: &&Stage| matches!(stage.kind, StageKind::Base | StageKind::BaseAgain);
    let stages = before.stages.iter().filter(of_base).cloned().collect();
    let mut base = Base { workspace: before.base.clone(), stages };
    let label = format!("moved-{number}/");
    let look = LATER.saturating_add(number);
    let tree = match follow_base(call, &host, &label, look, &mut base, &before.new_tree).await? {
        // The same files under another commit: what was seen holds for them.
        Followed::Stays => {
            let evidence = Evidence { base: base.workspace, ..before.clone() };
            return Ok(Ok(Repeated { evidence, patch: None }));
        }
        Followed::Carried(tree) => tree,
        Followed::Conflict(_) => return Ok(Err("it touches lines that have changed there".into())),
    };
    let mut judged = Judged::default();
    host.judge(&label, &base, &tree, &mut judged).await?;
    let why = judged.why.first().cloned().unwrap_or_else(|| "nothing is left to change there".into());
    Ok(match (judged.proven, judged.evidence, judged.difference) {
        (Some(_), Some(evidence), Some(difference)) => Ok(Repeated { evidence, patch: Some(difference.patch) }),
        _ => Err(why),
    })
}

/// Looks up the base again; `base` is the current one afterwards, with an environment and its suite.
async fn follow_base(
    call: &StepCall<'_>,
    host: &host::Host<'_>,
    label: &str,
    attempt: u32,
    base: &mut Base,
    tree: &TreeId,
) -> Result<Followed, Stop> {
    let ctx = call.ctx;
    let look = Activity::Workspace { attempt };
    let now: Workspace = ctx.perform(&format!("{label}base-code"), look).await?.decode()?;
    if now.tree == *base.tree() {
        base.workspace = now;
        return Ok(Followed::Stays);
    }
    let from = base.tree().clone();
    let details = json!({"from": base.workspace.commit.as_str(), "to": now.commit.as_str(), "attempt": attempt});
    ctx.note("base_moved", details);
    let environment = Activity::Environment { base: now.tree.clone() };
    ctx.perform(&format!("{label}base-environment"), environment).await?;
    *base = host.base(&format!("{label}base"), now.clone()).await?;
    let carry = CodeRequest::Carry { base: from.clone(), new: tree.clone(), onto: now.tree };
    match ctx.perform(&format!("{label}carry"), Activity::Code(carry)).await {
        Ok(carried) => Ok(Followed::Carried(carried.decode::<NewTree>()?.tree)),
        Err(Stop::Failed(failure)) if failure.code == E_CONFLICT => {
            ctx.note("not_carried", json!({"attempt": attempt, "reason": failure.message}));
            let diff = Activity::Code(CodeRequest::Diff { base: from, new: tree.clone() });
            let lost: Difference = ctx.perform(&format!("{label}lost"), diff).await?.decode()?;
            Ok(Followed::Conflict(Box::new(lost)))
        }
        Err(stop) => Err(stop),
    }
}
