//! The intern's call: one typed question about one datum, without tools, and how far it is trusted.
//!
//! `escalate_when` puts the same question to the boss, whose answer then counts. `audit` lets the boss judge a sample
//! independently: which items is decided by a hash of the item's key, never by chance, so that a replay decides alike. Where
//! the two disagree the boss's answer counts, and the disagreement is noted. Escalations and audits are the boss's money but
//! no turns.

use serde_json::{Map, Value, json};

use crate::base::hash::Hash;
use crate::domain::definition::Pipeline;
use crate::domain::model::Role;
use crate::domain::run::Failure;
use crate::expr::cel::{Bindings, Expr};
use crate::expr::types::{Field, Type};
use crate::ports::durable::{DurableContext, Stop};

use super::boss::{self, Question};
use super::check::Evidence;
use super::prompt::{self, Given};

/// What an intern can be asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    Summarise,
    Filter,
    Classify,
    Extract,
    Format,
}

impl Task {
    /// The words of the dialect.
    pub const WORDS: &'static [&'static str] = &["summarise", "filter", "classify", "extract", "format"];

    /// The task of that word.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "summarise" => Some(Self::Summarise),
            "filter" => Some(Self::Filter),
            "classify" => Some(Self::Classify),
            "extract" => Some(Self::Extract),
            "format" => Some(Self::Format),
            _ => None,
        }
    }

    /// The output of a step that writes none. `None`: it must be written.
    pub fn default_output(self) -> Option<Type> {
        let text = |max| Type::String { max: Some(max) };
        let field = |name: &str, ty| Field { name: name.into(), ty };
        match self {
            Self::Summarise => Some(Type::Map(vec![field("text", text(1200))])),
            Self::Filter => Some(Type::Map(vec![
                field("verdict", Type::Enum(vec!["keep".into(), "drop".into()])),
                field("why", text(200)),
            ])),
            Self::Format => Some(Type::Map(vec![field("text", text(4000))])),
            Self::Classify | Self::Extract => None,
        }
    }

    pub(super) fn explained(self) -> &'static str {
        match self {
            Self::Summarise => {
                "summarise the data for the reader that is described below. Leave out what does not matter."
            }
            Self::Filter => "decide whether the datum is to be kept, by the rule below. Judge each on its own.",
            Self::Classify => "put the datum into one of the classes of the type, by the rule below.",
            Self::Extract => {
                "take out of the data what is asked for below, as it stands there; null or empty where it is not there."
            }
            Self::Format => "bring the data into the form that is described below. Add nothing and leave nothing out.",
        }
    }
}

/// One call.
pub struct InternCall<'a> {
    pub ctx: &'a dyn DurableContext,
    pub pipeline: &'a Pipeline,
    pub task: Task,
    /// Trusted.
    pub ask: &'a str,
    pub given: Vec<Given>,
    /// A map.
    pub output: &'a Type,
    pub keys: &'a dyn Fn(&str) -> Vec<String>,
    pub evidence: Evidence,
    /// The KEY of the item that is judged; decides about the audit.
    pub key: &'a str,
    /// For `keep` and `escalate_when`.
    pub scope: &'a Bindings,
    pub keep: Option<&'a Expr>,
    pub escalate_when: Option<&'a Expr>,
    /// In thousandths.
    pub audit: Option<u32>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    pub value: Map<String, Value>,
    /// False: an intern's drop, which is an end.
    pub kept: bool,
    pub escalated: bool,
    /// Whether the boss agreed, when it was asked to audit.
    pub audited: Option<bool>,
}

/// Asks the intern, and the boss where that is due.
///
/// Errors: as [`boss::answer`]; `E-CEL` when `keep` or `escalate_when` has no value.
pub async fn judge(call: &InternCall<'_>) -> Result<Judged, Stop> {
    let mut value = ask(call, Role::Intern, "").await?;
    let mut judged = Judged { value: Map::new(), kept: true, escalated: false, audited: None };
    if let Some(when) = call.escalate_when
        && decide(call, when, &value)?
    {
        call.ctx.note("escalated", json!({"key": call.key}));
        judged.escalated = true;
        value = ask(call, Role::Boss, "escalation/").await?;
    } else if call.audit.is_some_and(|permille| is_sampled(call.key, permille)) {
        match ask(call, Role::Boss, "audit/").await {
            Ok(second) => {
                let agreed = agrees(call, &value, &second)?;
                let mut note = json!({"key": call.key, "agreed": agreed});
                if !agreed {
                    note["intern"] = deciding(call.output, &value);
                    note["boss"] = deciding(call.output, &second);
                    value = second;
                }
                call.ctx.note("audited", note);
                judged.audited = Some(agreed);
            }
            Err(stop) if stop.is_final() => return Err(stop),
            // The work itself is done: an audit that cannot be afforded is no failure of it.
            Err(stop) => call.ctx.note("not_audited", json!({"key": call.key, "reason": stop.to_string()})),
        }
    }
    judged.kept = keeps(call, &value)?;
    judged.value = value;
    Ok(judged)
}

async fn ask(call: &InternCall<'_>, role: Role, label: &str) -> Result<Map<String, Value>, Stop> {
    let pipeline = call.pipeline;
    let question = Question {
        ctx: call.ctx,
        role,
        label,
        system: prompt::system(role, &pipeline.name, &pipeline.summary, Some(call.task), call.ask, call.output).into(),
        given: call.given.clone(),
        output: call.output,
        keys: call.keys,
        evidence: call.evidence.clone(),
        tools: None,
        code: None,
        condense: None,
        max_turns: None,
        counts_turn: false,
        closing: false,
    };
    boss::answer(&question).await.map(|answered| answered.value)
}

/// Whether an item belongs to the sample: by its key alone.
pub fn is_sampled(key: &str, permille: u32) -> bool {
    Hash::of_parts([b"audit".as_slice(), key.as_bytes()]).as_u64() % 1000 < u64::from(permille)
}

fn decide(call: &InternCall<'_>, expr: &Expr, value: &Map<String, Value>) -> Result<bool, Stop> {
    let mut scope = call.scope.clone();
    scope.set("output", Value::Object(value.clone()));
    match expr.eval(&scope) {
        Ok(Value::Bool(answer)) => Ok(answer),
        Ok(_) => Err(super::failed("E-CEL", format!("`{}`: the result is not true or false", expr.source))),
        Err(error) => Err(Stop::Failed(Failure::new("E-CEL", error.to_string()))),
    }
}

fn keeps(call: &InternCall<'_>, value: &Map<String, Value>) -> Result<bool, Stop> {
    match call.keep {
        Some(keep) => decide(call, keep, value),
        None => Ok(call.task != Task::Filter || value.get("verdict").is_none_or(|verdict| verdict != "drop")),
    }
}

fn agrees(call: &InternCall<'_>, intern: &Map<String, Value>, boss: &Map<String, Value>) -> Result<bool, Stop> {
    Ok(keeps(call, intern)? == keeps(call, boss)? && deciding(call.output, intern) == deciding(call.output, boss))
}

/// Whether an answer of this type can be compared: it has a choice, not only words.
pub fn is_comparable(output: &Type) -> bool {
    output.fields().is_some_and(|fields| fields.iter().any(|field| is_choice(&field.ty)))
}

fn is_choice(ty: &Type) -> bool {
    match ty {
        Type::Enum(_) | Type::Boolean | Type::Key(_) | Type::Integer | Type::Date => true,
        Type::Optional(inner) => is_choice(inner),
        _ => false,
    }
}

/// The fields in which two answers can differ without it being a matter of words.
fn deciding(output: &Type, value: &Map<String, Value>) -> Value {
    let fields = output.fields().unwrap_or_default().iter().filter(|field| is_choice(&field.ty));
    Value::Object(fields.filter_map(|field| Some((field.name.clone(), value.get(&field.name)?.clone()))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_decided_by_the_key_and_has_about_the_size_asked_for() {
        let sampled = (0..10_000).filter(|n| is_sampled(&format!("key-{n}"), 100)).count();
        assert!((900..1100).contains(&sampled), "{sampled}");
        assert!(is_sampled("x", 1000) && !is_sampled("x", 0));
        assert_eq!(is_sampled("a", 100), is_sampled("a", 100));
    }
}
