//! Values in scope: expressions evaluated, and rule 4 of the dialect: a step's id alone means its items if it has them,
//! else its fields.

use serde_json::{Map, Value};

use crate::domain::definition::OptionValue;
use crate::domain::entry::StepEnd;
use crate::domain::money::Cap;
use crate::domain::run::Failure;
use crate::expr::cel::{Bindings, Expr};
use crate::ports::durable::Stop;

use super::{E_BUDGET, E_CEL, failed};

/// Fields of a result that say how the step went, not what it found.
const ABOUT: [&str; 3] = ["ran", "outcome", "failure"];

/// A value where data is expected.
#[derive(Clone, Debug, PartialEq)]
pub struct Datum {
    /// The expression as written.
    pub label: String,
    pub value: Value,
    /// The step that it names did not run.
    pub skipped: bool,
}

impl Datum {
    /// Nothing is there: skipped, null, or a text, list or map without content.
    pub fn is_empty(&self) -> bool {
        self.skipped || is_empty(&self.value)
    }
}

/// Null, or a text, list or map without content.
pub fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// The value of an expression. Errors: `E-CEL`.
pub fn eval(expr: &Expr, scope: &Bindings) -> Result<Value, Stop> {
    expr.eval(scope).map_err(|error| failed(E_CEL, error.to_string()))
}

/// The value of an expression; `None` when it reaches into a step that did not run: then there is nothing, and no mistake.
/// Errors: `E-CEL`.
pub fn eval_unless_skipped(expr: &Expr, scope: &Bindings) -> Result<Option<Value>, Stop> {
    match expr.eval(scope) {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.missing && expr.not_run(scope).is_some() => Ok(None),
        Err(error) => Err(failed(E_CEL, error.to_string())),
    }
}

/// The value of a condition. Errors: `E-CEL`, also when it is not true or false.
pub fn eval_bool(expr: &Expr, scope: &Bindings) -> Result<bool, Stop> {
    eval(expr, scope)?.as_bool().ok_or_else(|| not_a_condition(expr))
}

fn not_a_condition(expr: &Expr) -> Stop {
    failed(E_CEL, format!("`{}`: the result is not true or false", expr.source))
}

/// As [`eval_bool`], and false when it reaches into a step that did not run.
pub fn holds(expr: &Expr, scope: &Bindings) -> Result<bool, Stop> {
    match eval_unless_skipped(expr, scope)? {
        None => Ok(false),
        Some(value) => value.as_bool().ok_or_else(|| not_a_condition(expr)),
    }
}

/// The value of an expression where data is expected. Errors: `E-CEL`.
pub fn datum(expr: &Expr, scope: &Bindings) -> Result<Datum, Stop> {
    let label = expr.source.trim().to_owned();
    let Some(value) = eval_unless_skipped(expr, scope)? else {
        return Ok(Datum { label, value: Value::Null, skipped: true });
    };
    if expr.bare_name().is_none() {
        return Ok(Datum { label, value, skipped: false });
    }
    Ok(match value {
        // Only a step's result has a field `ran` that is false; an item of an `each` was run.
        Value::Object(fields) if fields.get("ran") == Some(&Value::Bool(false)) => {
            Datum { label, value: Value::Null, skipped: true }
        }
        Value::Object(mut fields) if fields.contains_key("ran") => {
            let value = match fields.remove("items") {
                Some(items) => items,
                None => {
                    fields.retain(|name, _| !ABOUT.contains(&name.as_str()));
                    Value::Object(fields)
                }
            };
            Datum { label, value, skipped: false }
        }
        value => Datum { label, value, skipped: false },
    })
}

/// Every datum of an option that takes one or a list. Errors: `E-CEL`.
pub fn data(exprs: &[&Expr], scope: &Bindings) -> Result<Vec<Datum>, Stop> {
    exprs.iter().map(|expr| datum(expr, scope)).collect()
}

/// The items where a list is expected: of a list, or of a map with `items`. Nothing gives none.
pub fn items(expr: &Expr, scope: &Bindings) -> Result<Vec<Value>, Stop> {
    match datum(expr, scope)?.value {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => Ok(items),
        Value::Object(mut fields) => match fields.remove("items") {
            Some(Value::Array(items)) => Ok(items),
            // A step that ran and has no items.
            None if fields.is_empty() => Ok(Vec::new()),
            _ => Err(failed(E_CEL, format!("`{}` is not a list", expr.source))),
        },
        _ => Err(failed(E_CEL, format!("`{}` is not a list", expr.source))),
    }
}

/// A step's end with these fields, done.
pub fn done(fields: Map<String, Value>, summary: impl Into<String>) -> StepEnd {
    end("done", fields, summary)
}

/// A step's end that ran to `outcome`.
pub fn end(outcome: &str, fields: Map<String, Value>, summary: impl Into<String>) -> StepEnd {
    let mut result = Map::new();
    result.insert("ran".into(), true.into());
    result.insert("outcome".into(), outcome.into());
    for (name, value) in fields {
        if name != "ran" && name != "outcome" {
            result.insert(name, value);
        }
    }
    StepEnd { result, summary: summary.into(), reason: None }
}

/// The end of a step that did not run.
pub fn skipped(reason: impl Into<String>) -> StepEnd {
    let mut result = Map::new();
    result.insert("ran".into(), false.into());
    result.insert("outcome".into(), "skipped".into());
    StepEnd { result, summary: String::new(), reason: Some(reason.into()) }
}

/// A stop that is not final as a step's end; final ones are handed on.
pub fn settle(result: Result<StepEnd, Stop>) -> Result<StepEnd, Stop> {
    let stop = match result {
        Ok(end) => return Ok(end),
        Err(stop) if stop.is_final() => return Err(stop),
        Err(stop) => stop,
    };
    let (outcome, failure) = match &stop {
        Stop::Blocked(failure) => ("blocked", failure.clone()),
        Stop::Unsafe(failure) => ("unsafe", failure.clone()),
        Stop::Capped { cap, message } => ("capped", capped(*cap, message)),
        Stop::Failed(failure) => ("failed", failure.clone()),
        Stop::Cancelled { .. } | Stop::Suspended | Stop::Broken(_) => return Err(stop),
    };
    let mut fields = Map::new();
    let reason = failure.message.clone();
    // Plain texts: serialising them cannot fail, and null would only hide the code.
    fields.insert("failure".into(), serde_json::to_value(&failure).unwrap_or_default());
    let mut end = end(outcome, fields, "");
    end.reason = Some(reason);
    Ok(end)
}

/// A cap as a failure that says how to go on.
pub fn capped(cap: Cap, message: &str) -> Failure {
    let failure = Failure::new(E_BUDGET, message);
    match cap {
        Cap::Run | Cap::PipelineDay => {
            failure.help("`nightcrew resume ID --add-usd N` takes the run further with more money")
        }
        Cap::Item => failure.help("raise `max_budget_usd` of the `each`"),
        Cap::DaemonDay | Cap::DaemonMonth => {
            failure.help("the daemon's own `limits` say how much; what is left stays new")
        }
        Cap::Turns => failure.help("raise `max_turns` and run it anew: a run keeps the limits that it began with"),
        Cap::Duration => failure.help("`nightcrew resume ID` takes the run further; or raise `max_duration`"),
        Cap::OpenDrafts => failure.help("merge or close one, or raise `max_open_prs`; what was found stays new"),
    }
}

/// The nested options under `name` as a lookup.
pub fn nested<'a>(map: &'a [(String, OptionValue)], name: &str) -> Option<&'a OptionValue> {
    map.iter().find(|(key, _)| key == name).map(|(_, value)| value)
}
