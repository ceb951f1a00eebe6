//! What the kinds that ask a model have in common: their data, evidence and instruction.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::agent::check::Evidence;
use crate::agent::prompt::Given;
use crate::domain::definition::{OptionValue, Options, Pipeline, StepBody};
use crate::domain::run::RunStart;
use crate::expr::types::Type;
use crate::ports::durable::Stop;
use crate::ports::step::{Checked, KindMistake, StepCall};

use super::{data, each};

/// What a step gives to its model.
pub(super) enum Gave {
    Data(Vec<Given>),
    /// All of it is empty or skipped: there is nothing to ask about.
    Nothing(String),
}

/// Exactly what `given` lists, else the item of the `each`. Errors: `E-CEL`.
pub(super) fn given(call: &StepCall<'_>) -> Result<Gave, Stop> {
    let exprs = call.options.exprs("given");
    if exprs.is_empty() {
        let item = call.item.map(|(name, value)| Given { label: name.to_owned(), value: shown(value) });
        return Ok(Gave::Data(item.into_iter().collect()));
    }
    let found = data::data(&exprs, call.scope)?;
    if found.iter().all(data::Datum::is_empty) {
        let names: Vec<&str> = found.iter().map(|datum| datum.label.as_str()).collect();
        return Ok(Gave::Nothing(format!("nothing is given: {} empty or skipped", names.join(", "))));
    }
    let mut keyed = BTreeSet::new();
    call.output.into_iter().for_each(|output| key_steps(output, &mut keyed));
    let full = found.into_iter().filter(|datum| !datum.is_empty());
    Ok(Gave::Data(
        full.map(|datum| {
            let mut value = shown(&datum.value);
            if keyed.contains(datum.label.as_str()) {
                // The model must name items by their keys, so it has to see them.
                for item in value.as_array_mut().into_iter().flatten() {
                    let key = raw_key(item);
                    if let Some(fields) = item.as_object_mut() {
                        fields.entry("key").or_insert(key.into());
                    }
                }
            }
            Given { label: datum.label, value }
        })
        .collect(),
    ))
}

/// Without the words that only say that a step went as it should.
fn shown(value: &Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.iter().map(shown).collect()),
        Value::Object(fields) => {
            let usual = |name: &str, value: &Value| {
                (name == "ran" && value == &Value::Bool(true)) || (name == "outcome" && value == "done")
            };
            let kept = fields.iter().filter(|(name, value)| !usual(name, value));
            Value::Object(kept.map(|(name, value)| (name.clone(), value.clone())).collect())
        }
        other => other.clone(),
    }
}

fn key_steps<'t>(ty: &'t Type, into: &mut BTreeSet<&'t str>) {
    match ty {
        Type::Key(step) => {
            into.insert(step);
        }
        Type::List(inner) | Type::Optional(inner) => key_steps(inner, into),
        other => other.fields().into_iter().flatten().for_each(|field| key_steps(&field.ty, into)),
    }
}

/// The keys by which a model may name a step's items.
pub(super) fn keys_of(call: &StepCall<'_>, step: &str) -> Vec<String> {
    let items = call.scope.get(step).and_then(|result| result.get("items")).and_then(Value::as_array);
    items.into_iter().flatten().map(raw_key).collect()
}

fn raw_key(item: &Value) -> String {
    match &item["key"] {
        Value::String(key) => key.clone(),
        _ => each::item_key(item),
    }
}

/// What an answer is held against. Trusted figures count too: those of the instruction, of the pipeline's thresholds, and the
/// days that the run is about. Errors: `E-CEL`.
pub(super) fn evidence(call: &StepCall<'_>, instruction: &str) -> Result<Evidence, Stop> {
    let mut evidence = Evidence::default();
    let Some(check) = call.check else { return Ok(evidence) };
    for datum in data::data(&check.figures_from.iter().collect::<Vec<_>>(), call.scope)? {
        evidence.add_figures(&datum.value);
    }
    for datum in data::data(&check.quotes_from.iter().collect::<Vec<_>>(), call.scope)? {
        evidence.add_quotes(&datum.value);
    }
    if let Some(facts) = &mut evidence.figures {
        facts.add_text(instruction);
        facts.add_text(&nominal_day(call.ctx.run()));
        facts.add(&Value::Object(call.ctx.run().params.clone()));
        thresholds(call.pipeline).iter().for_each(|text| facts.add_text(text));
    }
    evidence.ready();
    Ok(evidence)
}

/// The texts in which a pipeline's own thresholds stand.
fn thresholds(pipeline: &Pipeline) -> Vec<&str> {
    let mut found = Vec::new();
    for (_, step) in pipeline.walk() {
        if let StepBody::Kind { kind, options, .. } = &step.body
            && kind == "compute"
        {
            found.extend(options.expr("flag_when").map(|expr| expr.source.as_ref()));
            found.extend(options.text("usual"));
        }
    }
    found
}

/// The run's nominal day in its zone, `YYYY-MM-DD`.
pub(super) fn nominal_day(run: &RunStart) -> String {
    local(run).strftime("%Y-%m-%d").to_string()
}

/// The run's nominal time in its zone; UTC when the zone is not known here.
pub(super) fn local(run: &RunStart) -> jiff::Zoned {
    run.nominal_at.in_tz(&run.timezone).unwrap_or_else(|_| run.nominal_at.to_zoned(jiff::tz::TimeZone::UTC))
}

/// The step's `ask`, else the text of its playbook.
pub(super) fn instruction(options: &Options) -> &str {
    match (options.text("ask"), options.0.get("playbook")) {
        (Some(ask), _) => ask,
        (None, Some(OptionValue::File(_, text))) => text,
        _ => "",
    }
}

/// A mistake of a kind's own rules.
pub(super) fn mistake(at: &str, title: &str, label: &str, help: Option<&str>) -> KindMistake {
    KindMistake { at: at.into(), title: title.into(), label: label.into(), help: help.map(str::to_owned) }
}

/// `ask` or `playbook`: one of them.
pub(super) fn one_instruction(kind: &str, checked: &Checked<'_>) -> Vec<KindMistake> {
    let has = |name: &str| checked.options.0.contains_key(name);
    match (has("ask"), has("playbook")) {
        (false, false) => vec![mistake(
            kind,
            &format!("`{kind}` needs an instruction"),
            "neither `ask` nor `playbook` is here",
            Some("write `ask: \"…\"`, or `playbook: playbooks/….md` for a longer text"),
        )],
        (true, true) => vec![mistake(
            &format!("{kind}.playbook"),
            "two instructions",
            "`ask` is here too",
            Some("keep one of them; a playbook is the place for the longer one"),
        )],
        _ => Vec::new(),
    }
}

/// The fields of a map type.
pub(super) fn fields_of(output: &Type) -> Type {
    match output.required() {
        ty @ (Type::Map(_) | Type::Open(_)) => ty.clone(),
        _ => Type::Map(Vec::new()),
    }
}
