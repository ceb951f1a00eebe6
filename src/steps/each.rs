//! `each`: one branch per item, side by side; what came of them as one result.

use std::cmp::Ordering;

use serde_json::{Map, Value};

use crate::base::hash::Hash;
use crate::domain::definition::{Each, Order, Step, StepBody};
use crate::domain::entry::StepEnd;
use crate::domain::run::Outcome;
use crate::expr::cel::Bindings;
use crate::ports::durable::{ChildRun, DurableContext, Stop};
use crate::ports::step::Work;

use super::run::{Level, outcome_of};
use super::{data, intern, ledger};

/// Branches at a time when the YAML does not say.
const PARALLEL: u32 = 4;
/// A key longer than this is shortened in paths.
const MOST_KEY: usize = 80;

/// Runs a step once per item.
pub(super) async fn run(
    level: &Level<'_>,
    ctx: &dyn DurableContext,
    step: &Step,
    each: &Each,
    scope: &Bindings,
    work: Option<&Work>,
    problems: &[(String, String, String)],
) -> Result<StepEnd, Stop> {
    let mut items = data::items(&each.items, scope)?;
    if let Some(order) = &each.order {
        sort(&mut items, order);
    }
    let take = each.take.map_or(items.len(), |take| take as usize);
    let left = items.split_off(take.min(items.len()));
    let children = items.iter().map(|item| ChildRun {
        key: item_key(item),
        title: title_of(item),
        budget: each.max_budget_usd,
        logic: Box::new(move |ctx| {
            let mut scope = scope.clone();
            scope.set(each.name.as_str(), item.clone());
            Box::pin(async move {
                data::settle(level.body(&*ctx, step, &scope, Some((&each.name, item)), work, problems).await)
            })
        }),
    });
    let parallel = each.parallel.unwrap_or(PARALLEL).max(1) as usize;
    let ends = ctx.children(children.collect(), parallel).await?;
    Ok(gather(step, each, items, ends, &left))
}

/// Orders items by a field: numbers before texts before nothing, equal ones as they were.
pub(super) fn sort(items: &mut [Value], order: &Order) {
    items.sort_by(|a, b| {
        let (a, b) = (a.get(&order.field), b.get(&order.field));
        let ascending = match (a, b) {
            (Some(Value::Number(a)), Some(Value::Number(b))) => {
                a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal)
            }
            (Some(Value::String(a)), Some(Value::String(b))) => a.cmp(b),
            // What has no such field stays behind whatever the direction.
            (a, b) => return rank(a).cmp(&rank(b)),
        };
        if order.descending { ascending.reverse() } else { ascending }
    });
}

fn rank(value: Option<&Value>) -> u8 {
    match value {
        Some(Value::Number(_)) => 0,
        Some(Value::String(_)) => 1,
        Some(Value::Bool(_)) => 2,
        Some(Value::Array(_) | Value::Object(_)) => 3,
        Some(Value::Null) | None => 4,
    }
}

fn gather(step: &Step, each: &Each, items: Vec<Value>, ends: Vec<StepEnd>, left: &[Value]) -> StepEnd {
    let left_behind = left.len();
    let mut kept = Vec::new();
    let mut failed = Vec::new();
    let mut dropped = 0usize;
    let mut dropped_keys = Vec::new();
    let mut gravest = Outcome::NothingNew;
    let mut tally = intern::Tally::default();
    let mut reason = None;
    let mut failure = None;
    for (item, mut end) in items.into_iter().zip(ends) {
        tally.add(&mut end.result);
        let outcome = outcome_of(&end.result);
        let key = item_key(&item);
        let identities = ledger::keys(&item);
        let mut fields = own_fields(each, item);
        if outcome > Outcome::Acted {
            if outcome > gravest {
                (gravest, reason, failure) = (outcome, end.reason.clone(), end.result.get("failure").cloned());
            }
            fields.entry("key").or_insert(key.into());
            fields.insert("outcome".into(), outcome.to_string().into());
            fields.insert("reason".into(), end.reason.unwrap_or_default().into());
            fields.insert("failure".into(), end.result.remove("failure").unwrap_or_default());
            failed.push(Value::Object(fields));
        } else if end.result.get("outcome").is_some_and(|outcome| outcome == intern::DROPPED) {
            dropped += 1;
            dropped_keys.extend(identities);
        } else {
            fields.extend(end.result);
            kept.push(Value::Object(fields));
        }
    }
    let total = kept.len() + failed.len() + dropped;
    let mut parts = vec![format!("{total} item{}", if total == 1 { "" } else { "s" })];
    parts.extend(counts(&kept, step));
    parts.extend((dropped > 0).then(|| format!("{dropped} dropped")));
    parts.extend((!failed.is_empty()).then(|| format!("{} failed", failed.len())));
    parts.extend((left_behind > 0).then(|| format!("{left_behind} left for later")));
    let mut fields = Map::new();
    fields.insert("count".into(), kept.len().into());
    // When nothing else came of it, the step shares the fate of its items.
    let lost = kept.is_empty() && dropped == 0 && !failed.is_empty();
    fields.insert("items".into(), kept.into());
    fields.insert("failed".into(), failed.into());
    fields.insert("dropped".into(), dropped.into());
    fields.insert("left_behind".into(), left_behind.into());
    // By these the run's end knows what was taken to its end and what was not.
    let left: Vec<String> = left.iter().flat_map(ledger::keys).collect();
    for (name, keys) in [("dropped_keys", dropped_keys), ("left", left)] {
        if !keys.is_empty() {
            fields.insert(name.into(), keys.into());
        }
    }
    if matches!(&step.body, StepBody::Kind { kind, .. } if kind == "intern") {
        parts.extend(tally.summary());
        fields.insert("audit".into(), tally.result());
    }
    if lost {
        fields.insert("failure".into(), failure.unwrap_or_default());
        let mut end = data::end(gravest.as_str(), fields, parts.join(", "));
        end.reason = Some(format!("every item: {}", reason.unwrap_or_default()));
        return end;
    }
    data::done(fields, parts.join(", "))
}

/// The item's own fields; an item that is no map is one field under the name of the `each`.
fn own_fields(each: &Each, item: Value) -> Map<String, Value> {
    match item {
        Value::Object(fields) => fields,
        other => Map::from_iter([(each.name.clone(), other)]),
    }
}

/// How often each word of the first enumeration of the output occurs: `3 simple, 1 complex`.
fn counts(kept: &[Value], step: &Step) -> Option<String> {
    let StepBody::Kind { output: Some(output), .. } = &step.body else { return None };
    let (name, words) = output.fields()?.iter().find_map(|field| match &field.ty {
        crate::expr::types::Type::Enum(words) => Some((&field.name, words)),
        _ => None,
    })?;
    let count = |word: &String| kept.iter().filter(|item| item[name.as_str()] == word.as_str()).count();
    let parts: Vec<String> = words
        .iter()
        .map(|word| (count(word), word))
        .filter(|(n, _)| *n > 0)
        .map(|(n, word)| format!("{n} {word}"))
        .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// The KEY of an item: its `key` field, else the hash of its canonical JSON. Fit for a path.
pub fn item_key(item: &Value) -> String {
    let key = match item.get("key") {
        Some(Value::String(key)) if !key.trim().is_empty() => key.clone(),
        Some(Value::Number(key)) => key.to_string(),
        _ => return Hash::of_json(item).short(),
    };
    let plain = |c: char| !c.is_control() && !c.is_whitespace() && !matches!(c, '/' | '[' | ']' | '~');
    if key.len() <= MOST_KEY && key.chars().all(plain) {
        return key;
    }
    let start: String = key.chars().map(|c| if plain(c) { c } else { '-' }).take(40).collect();
    format!("{start}-{}", Hash::of(&key).short())
}

pub(super) fn title_of(item: &Value) -> String {
    let named = ["title", "name", "message", "metric", "source", "key"].iter().find_map(|name| item[*name].as_str());
    let title = named.or(item.as_str()).map_or_else(|| item_key(item), str::to_owned);
    title.chars().filter(|c| !c.is_control()).take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_key_is_the_field_or_else_the_content_and_fits_a_path() {
        assert_eq!(item_key(&json!({"key": "API-4F2", "n": 1})), "API-4F2");
        assert_eq!(item_key(&json!({"key": 7})), "7");
        assert_eq!(item_key(&json!({"a": 1, "b": 2})), item_key(&json!({"b": 2, "a": 1})));
        assert_ne!(item_key(&json!({"a": 1})), item_key(&json!({"a": 2})));
        let path = item_key(&json!({"key": "src/a b.rs[1]"}));
        assert!(path.starts_with("src-a-b.rs-1--") && !path.contains(['/', '[', ' ']), "{path}");
        assert_ne!(path, item_key(&json!({"key": "src/a b.rs(1]"})));
    }

    #[test]
    fn items_are_ordered_by_a_field_and_those_without_come_last_either_way() {
        let items = || {
            vec![
                json!({"n": 1, "id": "a"}),
                json!({"id": "b"}),
                json!({"n": 10.5, "id": "c"}),
                json!({"n": 1, "id": "d"}),
            ]
        };
        let order = |descending| {
            let mut items = items();
            sort(&mut items, &Order { field: "n".into(), descending });
            items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect::<String>()
        };
        assert_eq!((order(false), order(true)), ("adcb".into(), "cadb".into()));
    }
}
