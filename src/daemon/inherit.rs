//! `run --from RUN --step STEP`: a new run that takes over what an earlier one found out before a step.

use serde_json::Map;

use crate::control::{Refusal, RunRequest};
use crate::domain::definition::Pipeline;
use crate::domain::entry::{EntryKind, Family, NewEntry, StepEnd};
use crate::domain::run::RunStart;
use crate::journal::{Reader, Record};

/// The ends of the steps before the one that is run anew, by id, in the pipeline's order.
pub struct Inherited(Vec<(String, Box<serde_json::value::RawValue>)>);

/// Reads the earlier run, and gives the request its day and its parameters where it names none.
pub fn take_over(reader: &Reader, pipeline: &Pipeline, request: &mut RunRequest) -> Result<Option<Inherited>, Refusal> {
    let Some((run, step)) = &request.from else { return Ok(None) };
    super::start::known_step(pipeline, step)?;
    let refused = |error: crate::journal::Error| Refusal::new("E-JOURNAL", error.to_string());
    let view = reader.run(run.as_str()).map_err(refused)?;
    let earlier = view.ok_or_else(|| Refusal::new("E-RUN", format!("there is no run {run}")))?.start;
    if earlier.pipeline != pipeline.name {
        let message = format!("run {} is of `{}`, not of `{}`", run.short(), earlier.pipeline, pipeline.name);
        return Err(Refusal::new("E-RUN", message));
    }
    let mut records = reader.replay(run).map_err(refused)?.records;
    let mut ends = Vec::new();
    for before in pipeline.steps.iter().take_while(|known| known.id != *step) {
        let end = match records.remove(&before.id) {
            Some(Record::Finished(end)) => end,
            _ => return Err(missing(run.short(), &before.id)),
        };
        let known: StepEnd = serde_json::from_str(end.get()).map_err(|_| missing(run.short(), &before.id))?;
        if known.result.get("outcome").is_some_and(|outcome| outcome == "failed") {
            return Err(missing(run.short(), &before.id));
        }
        ends.push((before.id.clone(), end.as_ref().to_owned()));
    }
    let mut params: Map<_, _> = earlier.params;
    params.retain(|name, _| pipeline.params.iter().any(|param| param.name == *name));
    params.append(&mut request.params);
    request.params = params;
    request.nominal_at = request.nominal_at.or(Some(earlier.nominal_at));
    Ok(Some(Inherited(ends)))
}

fn missing(run: String, step: &str) -> Refusal {
    Refusal::new("E-FROM", format!("run {run} has no result of the step `{step}` to take over"))
        .help(format!("begin there: --step {step}"))
}

impl Inherited {
    /// The entries by which the new run knows these steps as done.
    pub fn entries(self, start: &RunStart) -> Vec<NewEntry> {
        let entry = |(path, payload)| NewEntry {
            run: start.id.clone(),
            family: Family::Span,
            kind: EntryKind::StepFinished,
            path,
            attempt: 1,
            supersedes: None,
            input: None,
            payload,
        };
        self.0.into_iter().map(entry).collect()
    }
}
