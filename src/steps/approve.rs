//! `approve`: asks a person and waits. Only a signal approves; no text of a model can.
//!
//! The question is delivered before the wait and once more after it, under one key, so that its message says how it was answered.
//! A question that cannot be delivered still waits: `nightcrew approve` answers it.

use serde_json::{Map, Value, json};

use crate::base::LocalBoxFuture;
use crate::base::hash::Hash;
use crate::domain::activity::{Activity, Complaint, Delivery, Thread};
use crate::domain::entry::StepEnd;
use crate::domain::report::{Question, Report};
use crate::domain::run::Failure;
use crate::expr::types::{Field, Type};
use crate::ports::durable::{SignalValue, Stop};
use crate::ports::step::{Opt, OptType, StepCall, StepKind};

use super::{E_DELIVER, E_EXPIRED, data, failed, model};

pub const KIND: StepKind = StepKind {
    name: "approve",
    summary: "ask a person and wait for the answer",
    options: &[
        Opt { name: "ask", ty: OptType::Text, required: true, doc: "the question" },
        Opt { name: "given", ty: OptType::Data, required: false, doc: "what is shown with it" },
        Opt { name: "expires", ty: OptType::Duration, required: true, doc: "how long to wait" },
        Opt {
            name: "on_expiry",
            ty: OptType::Word(&["skip", "fail", "proceed"]),
            required: true,
            doc: "what no answer means",
        },
    ],
    beside: &[],
    model: false,
    closing: false,
    yields: |_| {
        Type::Map(vec![
            Field { name: "approved".into(), ty: Type::Boolean },
            Field { name: "by".into(), ty: Type::String { max: None } },
        ])
    },
    check: |_| Vec::new(),
    run: Some(run),
    example: "approve: {ask: \"May I add a dependency?\", expires: 4h, on_expiry: skip}\n",
};

/// Where the question is put: the profile says what that is.
const SINK: &str = "slack";
/// The signal that it waits for, and the last part of the address that the signal has.
pub const SIGNAL: &str = "approve";
/// The last part of the address that the question is delivered from.
const ASK: &str = "ask";

/// Where the question was delivered from whose answer is awaited at this path.
pub fn delivered_at(path: &str) -> Option<String> {
    let step = path.strip_suffix(SIGNAL)?;
    step.ends_with('/').then(|| format!("{step}{ASK}"))
}

fn run<'a>(call: StepCall<'a>) -> LocalBoxFuture<'a, Result<StepEnd, Stop>> {
    Box::pin(go(call))
}

async fn go(call: StepCall<'_>) -> Result<StepEnd, Stop> {
    let options = call.options;
    let given: Vec<data::Datum> =
        data::data(&options.exprs("given"), call.scope)?.into_iter().filter(|datum| !datum.is_empty()).collect();
    let expires = options.duration("expires").copied();
    let expires_at = match expires {
        Some(expires) => Some(call.ctx.now().await?.saturating_add(expires).unwrap_or(jiff::Timestamp::MAX)),
        None => None,
    };
    let on_expiry = options.text("on_expiry").unwrap_or("skip");
    let question = question(&call, &given, expires_at, on_expiry);
    let asked = json!({
        "ask": question.ask,
        "given": given.iter().map(|datum| json!({"label": datum.label, "value": datum.value})).collect::<Vec<_>>(),
        "expires_at": expires_at.map(|at| at.to_string()),
        "on_expiry": on_expiry,
        "hash": question.hash,
    });
    let hash = question.hash.clone();
    let posted = tell(&call, ASK, question.clone()).await?;
    let signal = call.ctx.signal(SIGNAL, asked, expires).await?;
    let said = match &signal {
        Some(SignalValue { value, by }) => (if is_yes(value, &hash) { "approved" } else { "denied" }, by.as_str()),
        None => ("expired", "nobody"),
    };
    if posted {
        // The same message, without its buttons.
        let answered = Some((said.0.to_owned(), said.1.to_owned()));
        tell(&call, "answered", Question { answered, ..question }).await?;
    }
    let answer = |approved: bool, by: &str| {
        Map::from_iter([("approved".to_owned(), Value::from(approved)), ("by".to_owned(), by.into())])
    };
    match (said, on_expiry) {
        (("approved", by), _) => Ok(data::done(answer(true, by), format!("approved by {by}"))),
        (("denied", by), _) => Ok(data::done(answer(false, by), format!("declined by {by}"))),
        (_, "proceed") => Ok(data::done(answer(true, "nobody (expired)"), "expired, goes on")),
        (_, "fail") => Err(failed(E_EXPIRED, "nobody answered in time")),
        (_, _) => {
            let mut end = data::skipped("nobody answered in time");
            end.result.extend(answer(false, "nobody (expired)"));
            Ok(end)
        }
    }
}

/// Anything but a clear yes is a no, and so is a yes to something else than was asked.
fn is_yes(value: &Value, hash: &str) -> bool {
    let about_this = value["hash"].as_str().is_none_or(|approved| approved == hash);
    about_this && value.as_bool().or(value["approved"].as_bool()).unwrap_or(false)
}

fn question(
    call: &StepCall<'_>,
    given: &[data::Datum],
    expires_at: Option<jiff::Timestamp>,
    on_expiry: &str,
) -> Question {
    let ask = call.options.text("ask").unwrap_or_default().to_owned();
    let given: Vec<(String, String)> = given.iter().map(|datum| (datum.label.clone(), shown(&datum.value))).collect();
    let texts = given.iter().flat_map(|(label, text)| [label.as_bytes(), text.as_bytes()]);
    let hash = Hash::of_parts(std::iter::once(ask.as_bytes()).chain(texts)).to_string();
    Question {
        path: format!("{}/{SIGNAL}", call.ctx.path()),
        signal: SIGNAL.to_owned(),
        ask,
        given,
        expires_at,
        on_expiry: match on_expiry {
            "proceed" => "yes",
            "fail" => "the run fails",
            _ => "no",
        }
        .to_owned(),
        hash,
        answered: None,
    }
}

/// All of it, as people read it.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        // Printing plain data cannot fail; the short form says the same.
        value => serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string()),
    }
}

/// Puts the question where people are, or what became of it. `false`: it could not be delivered, which the run says; it can be
/// answered all the same.
async fn tell(call: &StepCall<'_>, label: &str, question: Question) -> Result<bool, Stop> {
    let (run, path) = (call.ctx.run(), call.ctx.path());
    let report = Report {
        pipeline: call.pipeline.name.clone(),
        run: run.id.to_string(),
        summary: call.pipeline.summary.clone(),
        headline: format!("{} asks: {}", call.pipeline.name, question.ask),
        effects: run.effects,
        profile: run.profile.clone(),
        date: model::local(run).strftime("%a %-d %b %Y").to_string(),
        question: Some(question),
        ..Report::default()
    };
    let delivery = Delivery {
        sink: SINK.to_owned(),
        channel: call.pipeline.owner.as_ref().map(|owner| owner.channel.clone()),
        report: Box::new(report),
        key: format!("{}/{path}/{ASK}", run.id),
        thread: Thread::default(),
    };
    let failure = match call.ctx.perform(label, Activity::Deliver(delivery)).await {
        Ok(_) => return Ok(true),
        Err(stop) if stop.is_final() => return Err(stop),
        Err(Stop::Blocked(failure) | Stop::Failed(failure)) => failure,
        Err(other) => Failure::new(E_DELIVER, other.to_string()),
    };
    let what = if label == ASK { "the question could not be put" } else { "the question could not be closed" };
    call.ctx.complain(Complaint {
        kind: "network".to_owned(),
        need: format!("{what}: {}", failure.message),
        evidence: failure.help.unwrap_or_default(),
        step: path.to_owned(),
    });
    Ok(false)
}
