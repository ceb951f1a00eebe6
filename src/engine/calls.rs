//! Model calls: money first, then the call, then the settlement; retry and fallback.
//!
//! A try that cost nothing gives its grant back; one that may have been billed is charged what was reported, or all of its
//! grant. Trying again consumes no turns. All calls to one provider share a gate: when it limits one, the others wait too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use serde_json::value::RawValue;

use crate::base::money::UsdMicros;
use crate::base::retry::{Backoff, Retry};
use crate::config::settings::ModelSettings;
use crate::domain::entry::EntryKind;
use crate::domain::model::{ModelAnswer, ModelRequest, Role, Usage};
use crate::domain::money::{Grant, GrantRequest, Settlement};
use crate::domain::run::Failure;
use crate::models::{estimate, without_thinking};
use crate::ports::durable::Stop;
use crate::ports::model::{ModelCall, ModelError};
use crate::ports::sink::Earlier;

use super::Live;
use super::embedded::{journal_broken, raw};
use super::executor::{At, Executor, Halt};

/// Ten minutes of a provider that limits every call are about ten calls.
const CALL_BACKOFF: Backoff =
    Backoff { first: Duration::from_secs(4), most: Duration::from_secs(90), total: Duration::from_secs(600) };

/// While another model stands ready, nobody waits for long.
const SHORT_BACKOFF: Backoff =
    Backoff { first: Duration::from_secs(2), most: Duration::from_secs(15), total: Duration::from_secs(30) };

/// A call with less room than this for its answer is not worth its input.
const LEAST_OUTPUT_TOKENS: u32 = 1_000;

/// When each provider may be asked again, by its address. Shared by all runs of the process.
#[derive(Debug, Default)]
pub(super) struct Gates(Mutex<HashMap<String, Timestamp>>);

impl Gates {
    fn close(&self, address: &str, until: Timestamp) {
        let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let gate = gates.entry(address.to_owned()).or_insert(until);
        *gate = (*gate).max(until);
    }
    fn until(&self, address: &str) -> Option<Timestamp> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(address).copied()
    }
}

/// How one model of the fallback chain ended.
enum Tried {
    Answered(Arc<RawValue>),
    /// It is out; the next of the chain may be asked.
    Out(Stop),
    /// Asking another would not help, or must not happen.
    Ended(Stop),
}

impl Executor {
    /// One model call with its grant, tries and fallbacks; recorded.
    pub(super) async fn model(&self, mut at: At, request: ModelRequest, halt: &Halt) -> Result<Arc<RawValue>, Stop> {
        if at.earlier == Earlier::Unknown {
            tracing::warn!(run = %at.run, path = at.path, "a call was under way when the process died: it is charged as granted and asked again");
        }
        let chain = self.bound.chain(request.role)?;
        let own_model = chain.first().map(|(_, settings)| settings.model.clone()).unwrap_or_default();
        let mut last = None;
        let count = chain.len();
        for (i, (role, settings)) in chain.into_iter().enumerate() {
            let more = i + 1 < count;
            let fallback = (role != request.role).then(|| settings.model.clone());
            let messages = match &fallback {
                Some(model) if *model != own_model => without_thinking(&request.messages),
                _ => Ok(request.messages.clone()),
            };
            let messages = messages.map_err(|e| Stop::Broken(Failure::new("E-TRANSCRIPT", e.to_string())))?;
            let request = ModelRequest { messages, ..request.clone() };
            match self.try_model(&mut at, (role, settings), &request, fallback, more, halt).await {
                Tried::Answered(output) => return Ok(output),
                Tried::Ended(stop) => return Err(stop),
                Tried::Out(stop) => {
                    tracing::warn!(run = %at.run, path = at.path, model = settings.model, error = %stop, "model is out");
                    last = Some(stop);
                }
            }
        }
        Err(last.unwrap_or_else(|| {
            Stop::Blocked(Failure::new("E-MODEL", format!("no model is configured for the {}", request.role)))
        }))
    }

    async fn try_model(
        &self,
        at: &mut At,
        (role, settings): (Role, &ModelSettings),
        request: &ModelRequest,
        fallback: Option<String>,
        more: bool,
        halt: &Halt,
    ) -> Tried {
        let model = match self.bound.model(role) {
            Ok(model) => model,
            Err(stop) if more => return Tried::Out(stop),
            Err(stop) => return Tried::Ended(self.failed(at, stop).await),
        };
        let address = settings.base_url.clone().unwrap_or_else(|| settings.provider.clone());
        let mut waited = Duration::ZERO;
        let mut costly = 0;
        for attempt in 1.. {
            if let Err(stop) = self.wait_for_gate(&address, halt).await {
                return Tried::Ended(stop);
            }
            let (intended, max_output_tokens, granted) = match self.granted(at, settings, request, halt).await {
                Ok(granted) => granted,
                Err(stop) => return Tried::Ended(self.failed(at, stop).await),
            };
            let live = |text: &str| {
                // Nobody may be watching.
                let _unwatched =
                    self.live.send(Live { run: at.run.clone(), path: at.path.clone(), text: text.to_owned() });
            };
            let call = ModelCall { request, model: &settings.model, max_output_tokens, path: &at.path, live: &live };
            let error = match model.call(call).await {
                Ok(mut answer) => {
                    answer.fallback = fallback;
                    return Tried::Answered(self.answered(at, intended, settings, request, granted, answer));
                }
                Err(error) => error,
            };
            let mut stop = model_stop(&error, &settings.model);
            if let (ModelError::Credential(_), Stop::Blocked(failure), Some(key)) =
                (&error, &mut stop, &settings.api_key)
            {
                failure.secret = Some(key.name.clone());
                stop = self.refused(&settings.provider, stop);
            }
            let settlement = self.cost_of_failure(settings, &error, granted);
            // A garbled answer that may have been paid for is asked for again once, not for ten minutes.
            costly += u32::from(error.may_cost());
            let retry = if costly > 1 { Retry::Never } else { error.retry() };
            let backoff = if more { SHORT_BACKOFF } else { CALL_BACKOFF };
            let pause = backoff.pause(attempt, waited, retry);
            let next = pause.is_none() && is_outage(&error) && more;
            let entry = if pause.is_some() || next {
                // Not the activity's end: after a crash it is asked again, not given up.
                let mut entry = self.entry(
                    at,
                    EntryKind::Note,
                    raw(&json!({
                        "note": "try_failed", "try": attempt, "model": settings.model, "error": error.to_string(),
                    })),
                );
                entry.path = format!("{}/try-{}", at.path, at.attempt);
                entry
            } else {
                self.entry(at, EntryKind::ActivityFailed, raw(&stop))
            };
            if let Err(error) = self.journal.settle(entry, intended, Some(settlement)).await {
                return Tried::Ended(journal_broken(error));
            }
            at.attempt += 1;
            at.supersedes = Some(intended);
            let Some(pause) = pause else { return if next { Tried::Out(stop) } else { Tried::Ended(stop) } };
            // Beside others who wait for the same provider; never shorter than what the server asked for.
            let pause = if retry == Retry::Backoff { self.env.jitter(pause) } else { pause };
            tracing::warn!(run = %at.run, path = at.path, model = settings.model, %error, "asking again in {pause:?}");
            waited += pause;
            if matches!(error, ModelError::Limited { .. } | ModelError::Overloaded { .. }) {
                self.bound.gates.close(&address, self.env.now().saturating_add(pause).unwrap_or(Timestamp::MAX));
            } else {
                tokio::select! {
                    () = self.env.clock.sleep(pause) => {}
                    stop = halt.asked("waiting to ask again") => return Tried::Ended(stop),
                }
            }
        }
        Tried::Ended(Stop::Failed(Failure::new("E-MODEL", "no try was made")))
    }

    /// Records a stop that was met before any money was granted.
    async fn failed(&self, at: &mut At, stop: Stop) -> Stop {
        match self.record_failure(at, &stop).await {
            Ok(()) => stop,
            Err(broken) => broken,
        }
    }

    async fn wait_for_gate(&self, address: &str, halt: &Halt) -> Result<(), Stop> {
        loop {
            let now = self.env.now();
            let left = match self.bound.gates.until(address) {
                Some(until) if until > now => Duration::try_from(until.duration_since(now)).unwrap_or_default(),
                _ => return Ok(()),
            };
            tokio::select! {
                () = self.env.clock.sleep(left) => {}
                stop = halt.asked("waiting for the provider") => return Err(stop),
            }
        }
    }

    /// Reserves the worst case of the call. Returns the number of `intended`, the output tokens it allows and the money.
    async fn granted(
        &self,
        at: &At,
        settings: &ModelSettings,
        request: &ModelRequest,
        halt: &Halt,
    ) -> Result<(i64, u32, UsdMicros), Stop> {
        let input_tokens = estimate::input_tokens(request);
        let most = u64::from(settings.max_output_tokens);
        let worst = |output| self.bound.prices.worst_case(&settings.model, input_tokens, output);
        let (Some((input, output)), Some((_, least_output))) =
            (worst(most), worst(most.min(LEAST_OUTPUT_TOKENS.into())))
        else {
            return Err(Stop::Blocked(
                Failure::new("E-PRICE", format!("the model `{}` has no price, so no call is made", settings.model))
                    .help("add it to prices.yaml, with `free: true` if it runs on your own machine"),
            ));
        };
        let grant = GrantRequest {
            input,
            output,
            least_output,
            payee: request.role.into(),
            model: settings.model.clone(),
            from_report_slice: request.from_report_slice,
            counts_turn: request.counts_turn,
            items: request.items.clone(),
        };
        let payload = json!({
            "kind": "model", "role": request.role, "model": settings.model,
            "messages": request.messages.len(), "max_output_tokens": settings.max_output_tokens,
        });
        let what = format!("a call to {}", settings.model);
        let (intended, input, granted) = self.reserve(at, &payload, &grant, &what, halt).await?;
        let share = if output.is_zero() { 1.0 } else { granted.0 as f64 / output.0 as f64 };
        let tokens = (f64::from(settings.max_output_tokens) * share).floor() as u32;
        Ok((intended, tokens.clamp(1, settings.max_output_tokens), input + granted))
    }

    /// Writes what is intended with the money for it, waiting for money that others may give back. Answers the entry's number and
    /// what was granted for input and output. `what` is told when it does not fit.
    pub(super) async fn reserve(
        &self,
        at: &At,
        payload: &serde_json::Value,
        grant: &GrantRequest,
        what: &str,
        halt: &Halt,
    ) -> Result<(i64, UsdMicros, UsdMicros), Stop> {
        let mut settled = self.journal.settled();
        loop {
            settled.mark_unchanged();
            let entry = self.entry(at, EntryKind::ActivityIntended, raw(payload));
            let intended = self.journal.intend(entry, Some(grant.clone())).await.map_err(journal_broken)?;
            match intended.grant {
                Some(Grant::Granted { input, output }) => return Ok((intended.seq, input, output)),
                Some(Grant::Refused(cap)) => {
                    let message =
                        format!("{cap} is reached: {what} may cost up to {}", grant.input + grant.least_output);
                    return Err(Stop::Capped { cap, message });
                }
                Some(Grant::Wait) | None => {
                    tokio::select! {
                        changed = settled.changed() => if changed.is_err() { return Err(Stop::Suspended) },
                        stop = halt.asked("waiting for money") => return Err(stop),
                    }
                }
            }
        }
    }

    /// Books what the call cost and records its answer.
    fn answered(
        &self,
        at: &At,
        intended: i64,
        settings: &ModelSettings,
        request: &ModelRequest,
        granted: UsdMicros,
        answer: ModelAnswer,
    ) -> Arc<RawValue> {
        // What the provider says it took is what is booked, also if it were more than was granted.
        let cost = self.bound.prices.cost(&settings.model, &answer.usage).unwrap_or(granted);
        if cost > granted {
            tracing::error!(run = %at.run, path = at.path, model = settings.model, %cost, %granted, role = %request.role,
                "the provider charged more than the worst case that was granted");
        }
        let settlement = Settlement { cost, usage: answer.usage, millis: 0 };
        let output = self.redacted(raw(&answer));
        let entry = self.entry(at, EntryKind::ActivityDone, output.clone());
        // Logic may go on while this is being written: what it can do without asking the journal first is only to read.
        self.journal.settle_soon(entry, intended, settlement);
        Arc::from(output)
    }

    fn cost_of_failure(&self, settings: &ModelSettings, error: &ModelError, granted: UsdMicros) -> Settlement {
        let usage = match error {
            ModelError::Broken { usage, .. } | ModelError::Garbage { usage, .. } => *usage,
            _ => None,
        };
        let cost = if error.may_cost() { granted } else { UsdMicros::ZERO };
        // A usage that broke off in the middle says what the input cost, and at least so much of the output: the rest of the
        // grant covers what the provider went on to produce.
        let known = usage.and_then(|usage| self.bound.prices.cost(&settings.model, &usage));
        Settlement { cost: cost.max(known.unwrap_or_default()), usage: usage.unwrap_or_else(Usage::default), millis: 0 }
    }
}

/// Another model may do better.
fn is_outage(error: &ModelError) -> bool {
    match error {
        ModelError::Limited { .. }
        | ModelError::Overloaded { .. }
        | ModelError::Connect(_)
        | ModelError::Timeout(_)
        | ModelError::Broken { .. }
        | ModelError::Garbage { .. }
        | ModelError::Credential(_)
        | ModelError::Billing(_) => true,
        ModelError::TooLong(_) | ModelError::Rejected { .. } | ModelError::Tape(_) => false,
    }
}

fn model_stop(error: &ModelError, model: &str) -> Stop {
    let message = format!("{model}: {error}");
    match error {
        ModelError::Credential(_) => Stop::Blocked(Failure::new("E-CREDENTIAL", message).help(
            "put the key where the model's `api_key` looks for it and resume; `nightcrew doctor` names what is missing",
        )),
        ModelError::Billing(_) => {
            Stop::Blocked(Failure::new("E-BILLING", message).help("raise the limit in the provider's own console"))
        }
        ModelError::TooLong(_) => Stop::Failed(Failure::new("E-CONTEXT", message)),
        ModelError::Rejected { status: 404, .. } => {
            Stop::Failed(Failure::new("E-MODEL", message).help("check `model` and `base_url` in the configuration"))
        }
        ModelError::Tape(_) => Stop::Failed(
            Failure::new("E-TAPE", message)
                .help("the request differs from the recorded one; record the tape anew with `--record`"),
        ),
        ModelError::Limited { .. }
        | ModelError::Overloaded { .. }
        | ModelError::Rejected { .. }
        | ModelError::Connect(_)
        | ModelError::Timeout(_)
        | ModelError::Broken { .. }
        | ModelError::Garbage { .. } => Stop::Failed(Failure::new("E-MODEL", message)),
    }
}
