//! A pipeline's steps in their order: what is skipped and why, what a failure means for the rest, and the run's outcome.
//!
//! Every step becomes one durable step, also a skipped one, so that nobody is left wondering. A stop of one step is its end
//! (`failed`, `blocked`, `capped`, `unsafe`), never lost; only final stops (cancelled, suspended, broken) leave here as they are.

use serde_json::{Map, Value, json};

use crate::domain::definition::{Pipeline, Step, StepBody};
use crate::domain::entry::StepEnd;
use crate::domain::money::Cap;
use crate::domain::run::{Failure, Outcome};
use crate::expr::cel::Bindings;
use crate::ports::durable::{DurableContext, Logic, Stop};
use crate::ports::step::{StepCall, StepKind, Work};

use super::work::{self, Needs};
use super::{E_KIND, data, each, find, ledger};

/// How the reason of a step begins that was skipped because an earlier one failed: it runs when the run is resumed.
pub const AFTER_A_FAILURE: &str = "skipped after a failure: ";

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct RunEnd {
    /// The gravest of its results.
    pub outcome: Outcome,
    /// Of the gravest problem.
    pub failure: Option<Failure>,
    /// One line: the report's headline, else a sentence of ours.
    pub headline: String,
    /// Steps and items that failed, were blocked or capped: (path, outcome, reason).
    pub problems: Vec<(String, String, String)>,
}

/// Runs a pipeline to its end.
///
/// Errors: only final stops. Not cancel safe: dropping it abandons the run, which can be taken up again.
pub async fn run_pipeline(ctx: &dyn DurableContext, pipeline: &Pipeline) -> Result<RunEnd, Stop> {
    let run = ctx.run();
    let mut scope = Bindings::default();
    scope.set("params", Value::Object(run.params.clone()));
    scope.set("trigger", json!({"kind": run.trigger.kind, "key": run.trigger.key, "item": run.trigger.item}));
    scope.set(
        "run",
        json!({"id": run.id.as_str(), "started_at": run.started_at.to_string(), "nominal_at": run.nominal_at.to_string()}),
    );
    let full = full(pipeline, ledger::tend(ctx, pipeline).await?);
    let level = Level {
        pipeline,
        steps: &pipeline.steps,
        item: None,
        work: None,
        problems: &[],
        until: run.until.as_deref(),
        full: full.as_ref(),
    };
    let ended = level.run(ctx, scope).await?;
    // A run that was to go only so far has taken nothing to its end.
    if run.until.is_none() {
        ledger::close(ctx, pipeline, &ended.results).await?;
    }
    let failure = ended.failure();
    let headline = match ended.headline {
        Some(headline) => headline,
        None => sentence(ended.outcome, &ended.problems),
    };
    Ok(RunEnd { outcome: ended.outcome, failure, headline, problems: ended.problems })
}

/// One line for people about how it went.
pub(super) fn sentence(outcome: Outcome, problems: &[(String, String, String)]) -> String {
    let gravest = problems.iter().rev().max_by_key(|(_, outcome, _)| outcome.parse::<Outcome>().ok());
    match (outcome, gravest) {
        (Outcome::NothingNew, _) => "Nothing new".into(),
        (Outcome::Reported, _) => "Reported".into(),
        (Outcome::Declined, _) => "Looked at and declined".into(),
        (Outcome::Acted, _) => "Done".into(),
        (Outcome::Cancelled, _) => "Cancelled".into(),
        (Outcome::Blocked, Some((path, _, reason))) => format!("Could not run: `{path}`: {reason}"),
        (Outcome::Capped, Some((path, _, reason))) => format!("Stopped at a limit in `{path}`: {reason}"),
        (Outcome::Unsafe, Some((path, _, reason))) => format!("Refused as unsafe in `{path}`: {reason}"),
        (_, Some((path, _, reason))) => format!("Failed at `{path}`: {reason}"),
        (outcome, None) => format!("Ended as {outcome}"),
    }
}

/// The steps of the run itself or of one item.
pub(super) struct Level<'a> {
    pub pipeline: &'a Pipeline,
    pub steps: &'a [Step],
    /// The innermost `each` item.
    pub item: Option<(&'a str, &'a Value)>,
    /// The run's code, once it was looked up.
    pub work: Option<&'a Work>,
    /// Of the levels above.
    pub problems: &'a [(String, String, String)],
    pub until: Option<&'a str>,
    /// What keeps anything from being spent, where something is.
    pub full: Option<&'a Stop>,
}

/// Why the run may spend nothing: so many drafts are open already that no other could be opened.
fn full(pipeline: &Pipeline, open: u32) -> Option<Stop> {
    let most = pipeline.limits.max_open_prs.as_ref()?.value;
    let opens = |step: &Step| matches!(&step.body, StepBody::Kind { kind, .. } if kind == "pull_request");
    let is_full = open >= most && pipeline.walk().iter().any(|(_, step)| opens(step));
    is_full.then(|| {
        let message = format!("{open} of at most {most} drafts of this pipeline are open, so none can be added");
        Stop::Capped { cap: Cap::OpenDrafts, message }
    })
}

/// What became of a level.
#[derive(Debug)]
pub(super) struct Ended {
    /// By id, in order.
    pub results: Vec<(String, Map<String, Value>)>,
    pub problems: Vec<(String, String, String)>,
    pub failures: Vec<(Outcome, Failure)>,
    /// `NothingNew` when nothing had an effect.
    pub outcome: Outcome,
    pub headline: Option<String>,
}

impl Ended {
    fn failure(&self) -> Option<Failure> {
        // The first of the gravest; one that waits for a secret goes on by itself.
        let gravest = self.failures.iter().rev().max_by_key(|(outcome, failure)| (*outcome, failure.secret.is_some()));
        gravest.map(|(_, failure)| failure.clone())
    }

    fn note(&mut self, path: &str, end: &StepEnd) {
        let outcome = outcome_of(&end.result);
        if outcome > Outcome::Acted {
            self.problems.push((path.to_owned(), outcome.to_string(), end.reason.clone().unwrap_or_default()));
            let failure = end.result.get("failure").and_then(|failure| serde_json::from_value(failure.clone()).ok());
            self.failures.extend(failure.map(|failure| (outcome, failure)));
        }
        self.outcome = self.outcome.max(outcome);
    }
}

impl Level<'_> {
    /// Runs the steps. Errors: only final stops.
    pub async fn run(&self, ctx: &dyn DurableContext, mut scope: Bindings) -> Result<Ended, Stop> {
        let mut ended = Ended {
            results: Vec::new(),
            problems: Vec::new(),
            failures: Vec::new(),
            outcome: Outcome::NothingNew,
            headline: None,
        };
        let mut stopped: Option<String> = None;
        let mut fetched = Fetched::No;
        let mut begun: Option<Work> = None;
        let needs = if self.work.is_none() { Needs::of(self.steps) } else { Needs::Nothing };
        for step in self.steps {
            let kind = kind_of(step);
            let closing = kind.is_some_and(|kind| kind.closing);
            let gathers = kind.is_some_and(|kind| matches!(kind.name, "fetch" | "scan"));
            let mut skip = match (&stopped, closing) {
                (Some(reason), false) => Some(format!("{AFTER_A_FAILURE}{reason}")),
                _ if fetched == Fetched::Nothing && !closing && !gathers => Some("nothing new was fetched".to_owned()),
                _ => None,
            };
            let mut broken = None;
            if let (None, Some(condition)) = (&skip, &step.condition) {
                // A condition on a step that did not run does not hold.
                match data::holds(&condition.expr, &scope) {
                    Ok(answer) if answer == condition.negated => {
                        let word = if condition.negated { "unless" } else { "when" };
                        skip = Some(format!("{word} {}", condition.expr.source));
                    }
                    Ok(_) => {}
                    Err(stop) => broken = Some(stop),
                }
            }
            // Before the first step that costs anything, so that nothing is paid for what cannot be finished.
            let costs = !closing && kind.is_none_or(|kind| !matches!(kind.name, "fetch" | "compute" | "approve"));
            if let (Some(full), true, None, None) = (self.full, costs, &skip, &broken) {
                broken = Some(full.clone());
            }
            if needs > Needs::Nothing && begun.is_none() && costs && skip.is_none() && broken.is_none() {
                match work::begin(ctx, needs).await {
                    Ok(work) => begun = Some(work),
                    Err(stop) if stop.is_final() => return Err(stop),
                    Err(stop) => broken = Some(stop),
                }
            }
            let work = self.work.or(begun.as_ref());
            let problems: Vec<_> = self.problems.iter().chain(&ended.problems).cloned().collect();
            let end = {
                let (scope, problems) = (&scope, problems.as_slice());
                let logic: Logic<'_> = Box::new(move |ctx| {
                    Box::pin(async move {
                        match (skip, broken) {
                            (Some(reason), _) => Ok(data::skipped(reason)),
                            (None, Some(stop)) => data::settle(Err(stop)),
                            (None, None) => data::settle(self.step(&*ctx, step, scope, work, problems).await),
                        }
                    })
                });
                data::settle(ctx.step(&step.id, kind.map_or("each", |kind| kind.name), logic).await)?
            };
            let path = if ctx.path().is_empty() { step.id.clone() } else { format!("{}/{}", ctx.path(), step.id) };
            ended.note(&path, &end);
            self.weigh(step, kind, &end, &path, &mut ended);
            if gathers && ran(&end.result) {
                fetched = if brought_nothing(&end.result) { fetched.max(Fetched::Nothing) } else { Fetched::Something };
            }
            if stopped.is_none() && outcome_of(&end.result) > Outcome::Acted && !closing {
                stopped = Some(format!("`{}` {}", step.id, text(&end.result, "outcome")));
            }
            scope.set(step.id.as_str(), Value::Object(end.result.clone()));
            ended.results.push((step.id.clone(), end.result));
            if self.until == Some(step.id.as_str()) {
                break;
            }
        }
        if self.is_declined(&ended) {
            ended.outcome = ended.outcome.max(Outcome::Declined);
        }
        Ok(ended)
    }

    /// A fix that is not proved, and neither ticket nor pull request instead, not even one that preview only would have opened.
    fn is_declined(&self, ended: &Ended) -> bool {
        let of = |kinds: &'static [&'static str]| {
            let steps =
                self.steps.iter().filter(move |step| kind_of(step).is_some_and(|kind| kinds.contains(&kind.name)));
            steps.filter_map(|step| Some((step, &ended.results.iter().find(|(id, _)| *id == step.id)?.1)))
        };
        // The results of the step, or of its items.
        fn any(step: &Step, result: &Map<String, Value>, is: fn(&Map<String, Value>) -> bool) -> bool {
            let items =
                || result.get("items").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object);
            if step.each.is_some() { items().any(is) } else { is(result) }
        }
        let unproved = of(&["fix"]).any(|(step, result)| {
            any(step, result, |result| ran(result) && result.get("proved") == Some(&Value::Bool(false)))
        });
        let instead = of(&["ticket", "pull_request"]).any(|(step, result)| {
            any(step, result, |result| matches!(outcome_of(result), Outcome::Acted | Outcome::Reported))
        });
        unproved && !instead
    }

    /// What a step adds to the run's outcome beside its own end: effects, and the ends of its items.
    fn weigh(&self, step: &Step, kind: Option<&StepKind>, end: &StepEnd, path: &str, ended: &mut Ended) {
        if step.each.is_some() {
            for item in end.result.get("items").and_then(Value::as_array).into_iter().flatten() {
                ended.outcome = ended.outcome.max(item.as_object().map_or(Outcome::NothingNew, outcome_of));
            }
            for item in end.result.get("failed").and_then(Value::as_array).into_iter().flatten() {
                let Some(item) = item.as_object() else { continue };
                let outcome = outcome_of(item);
                let (key, reason) = (text(item, "key"), text(item, "reason"));
                // When all of them failed, the step itself already says so.
                ended.problems.push((format!("{path}[{key}]"), outcome.to_string(), reason));
                ended.outcome = ended.outcome.max(outcome);
                let failure = item.get("failure").and_then(|failure| serde_json::from_value(failure.clone()).ok());
                ended.failures.extend(failure.map(|failure| (outcome, failure)));
            }
        }
        match kind.map(|kind| kind.name) {
            Some("report") => {
                if end.result.get("posted") == Some(&Value::Bool(true)) {
                    ended.outcome = ended.outcome.max(Outcome::Reported);
                }
                if let Some(headline) = end.result.get("headline").and_then(Value::as_str) {
                    ended.headline.get_or_insert_with(|| headline.to_owned());
                }
            }
            Some("approve") if ran(&end.result) && end.result.get("approved") == Some(&Value::Bool(false)) => {
                ended.outcome = ended.outcome.max(Outcome::Declined);
            }
            _ => {}
        }
    }

    /// One step: each of its items, or itself.
    async fn step(
        &self,
        ctx: &dyn DurableContext,
        step: &Step,
        scope: &Bindings,
        work: Option<&Work>,
        problems: &[(String, String, String)],
    ) -> Result<StepEnd, Stop> {
        match &step.each {
            Some(each) => each::run(self, ctx, step, each, scope, work, problems).await,
            None => self.body(ctx, step, scope, self.item, work, problems).await,
        }
    }

    /// The body of a step, once.
    pub async fn body(
        &self,
        ctx: &dyn DurableContext,
        step: &Step,
        scope: &Bindings,
        item: Option<(&str, &Value)>,
        work: Option<&Work>,
        problems: &[(String, String, String)],
    ) -> Result<StepEnd, Stop> {
        match &step.body {
            StepBody::Kind { kind, options, output, check } => {
                let run = runnable(kind)?;
                let call = StepCall {
                    ctx,
                    pipeline: self.pipeline,
                    step,
                    options,
                    output: output.as_ref(),
                    check: check.as_ref(),
                    scope,
                    item,
                    work,
                    problems,
                };
                run(call).await
            }
            StepBody::Steps(steps) => {
                let level = Level { pipeline: self.pipeline, steps, item, work, problems, until: None, full: None };
                let ended = level.run(ctx, scope.clone()).await?;
                Ok(child_end(ended))
            }
        }
    }
}

/// The logic of a kind. Errors: `Blocked` when this version has none.
fn runnable(name: &str) -> Result<crate::ports::step::RunStep, Stop> {
    find(name).and_then(|kind| kind.run).ok_or_else(|| {
        let failure =
            Failure::new(E_KIND, format!("steps of the kind `{name}` come with a later version of nightcrew"));
        Stop::Blocked(failure.help("`--until` with an earlier step runs the pipeline up to there"))
    })
}

/// A child run as a result: its outcome, and one map per step.
fn child_end(ended: Ended) -> StepEnd {
    let outcome = match ended.outcome {
        Outcome::NothingNew => "done".to_owned(),
        outcome => outcome.to_string(),
    };
    let failure = ended.failure();
    let reason = ended.problems.first().map(|(path, _, reason)| format!("`{path}`: {reason}"));
    let mut fields: Map<String, Value> =
        ended.results.into_iter().map(|(id, result)| (id, Value::Object(result))).collect();
    if let Some(failure) = failure {
        fields.insert("failure".into(), serde_json::to_value(failure).unwrap_or_default());
    }
    let mut end = data::end(&outcome, fields, "");
    end.reason = reason;
    end
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fetched {
    /// No step has looked yet.
    No,
    Nothing,
    Something,
}

fn brought_nothing(result: &Map<String, Value>) -> bool {
    let items = result.get("items").and_then(Value::as_array);
    // Several sources are one item each; what they brought are its rows.
    let empty = |item: &Value| item.get("rows").and_then(Value::as_array).is_some_and(Vec::is_empty);
    outcome_of(result) <= Outcome::Acted && items.is_none_or(|items| items.iter().all(empty))
}

fn kind_of(step: &Step) -> Option<&'static StepKind> {
    match &step.body {
        StepBody::Kind { kind, .. } => find(kind),
        StepBody::Steps(_) => None,
    }
}

/// The outcome of a result in the words of runs; a kind's own words (`done`, `proved`) are nothing new.
pub(super) fn outcome_of(result: &Map<String, Value>) -> Outcome {
    result.get("outcome").and_then(Value::as_str).and_then(|word| word.parse().ok()).unwrap_or(Outcome::NothingNew)
}

fn ran(result: &Map<String, Value>) -> bool {
    result.get("ran") == Some(&Value::Bool(true))
}

fn text(fields: &Map<String, Value>, name: &str) -> String {
    fields.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::testing::pipeline;
    use super::*;

    const FIX: &str = "
  - id: errors
    fetch: {from: signups}
  - id: fix
    fix: {ask: x, given: [errors], test_first: true}
  - id: draft
    pull_request: {from: fix}
  - id: ticket
    ticket: {from: [errors]}
";

    fn is_declined(steps: &str, results: &[(&str, Value)]) -> bool {
        let pipeline = pipeline(steps);
        let level = Level {
            pipeline: &pipeline,
            steps: &pipeline.steps,
            item: None,
            work: None,
            problems: &[],
            until: None,
            full: None,
        };
        let result = |(id, value): &(&str, Value)| ((*id).to_owned(), value.as_object().unwrap().clone());
        level.is_declined(&Ended {
            results: results.iter().map(result).collect(),
            problems: Vec::new(),
            failures: Vec::new(),
            outcome: Outcome::NothingNew,
            headline: None,
        })
    }

    #[test]
    fn a_fix_that_is_not_proved_is_declined_unless_something_came_of_it() {
        let fix = |proved| json!({"ran": true, "outcome": "unproved", "proved": proved});
        let ended = |outcome| json!({"ran": true, "outcome": outcome});
        assert!(is_declined(FIX, &[("fix", fix(false))]));
        assert!(is_declined(FIX, &[("fix", fix(false)), ("ticket", json!({"ran": false, "outcome": "skipped"}))]));
        assert!(!is_declined(FIX, &[("fix", fix(true))]));
        assert!(!is_declined(FIX, &[("fix", json!({"ran": false, "outcome": "skipped"}))]));
        for outcome in ["acted", "reported"] {
            assert!(!is_declined(FIX, &[("fix", fix(false)), ("ticket", ended(outcome))]), "{outcome}");
        }
        let each = FIX.replace("  - id: fix\n", "  - id: fix\n    each: error in errors\n");
        let each =
            each.replace("    pull_request: {from: fix}\n", "    approve: {ask: x, expires: 1h, on_expiry: skip}\n");
        let items = |proved| json!({"ran": true, "outcome": "done", "items": [fix(true), fix(proved)]});
        assert!(is_declined(&each, &[("fix", items(false))]) && !is_declined(&each, &[("fix", items(true))]));
    }
}
