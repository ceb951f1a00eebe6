//! `approve`: asks a person and waits. Only a signal approves; no text of a model can.

use serde_json::{Map, Value, json};

use crate::base::LocalBoxFuture;
use crate::domain::entry::StepEnd;
use crate::expr::types::{Field, Type};
use crate::ports::durable::{SignalValue, Stop};
use crate::ports::step::{Opt, OptType, StepCall, StepKind};

use super::{E_EXPIRED, data, failed};

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

fn run<'a>(call: StepCall<'a>) -> LocalBoxFuture<'a, Result<StepEnd, Stop>> {
    Box::pin(go(call))
}

async fn go(call: StepCall<'_>) -> Result<StepEnd, Stop> {
    let options = call.options;
    let given: Vec<Value> = data::data(&options.exprs("given"), call.scope)?
        .into_iter()
        .filter(|datum| !datum.is_empty())
        .map(|datum| json!({"label": datum.label, "value": datum.value}))
        .collect();
    let expires = options.duration("expires").copied();
    let expires_at = match expires {
        Some(expires) => {
            Some(call.ctx.now().await?.saturating_add(expires).unwrap_or(jiff::Timestamp::MAX).to_string())
        }
        None => None,
    };
    let on_expiry = options.text("on_expiry").unwrap_or("skip");
    let asked = json!({
        "ask": options.text("ask").unwrap_or_default(),
        "given": given,
        "expires_at": expires_at,
        "on_expiry": on_expiry,
    });
    let answer = |approved: bool, by: &str| {
        Map::from_iter([("approved".to_owned(), Value::from(approved)), ("by".to_owned(), by.into())])
    };
    match (call.ctx.signal("approve", asked, expires).await?, on_expiry) {
        (Some(SignalValue { value, by }), _) => {
            // Anything but a clear yes is a no.
            let approved = value.as_bool().or(value["approved"].as_bool()).unwrap_or(false);
            let word = if approved { "approved" } else { "declined" };
            Ok(data::done(answer(approved, &by), format!("{word} by {by}")))
        }
        (None, "proceed") => Ok(data::done(answer(true, "nobody (expired)"), "expired, goes on")),
        (None, "fail") => Err(failed(E_EXPIRED, "nobody answered in time")),
        (None, _) => {
            let mut end = data::skipped("nobody answered in time");
            end.result.extend(answer(false, "nobody (expired)"));
            Ok(end)
        }
    }
}
