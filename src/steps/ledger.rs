//! Items with an identity: what the ledger says of them when they are gathered, and what it is told once the run is over.
//!
//! Rule 9 of the dialect. An item is *handled* when a run has taken it to its end: an intern dropped it, a child run ended well,
//! or the whole run did. What `keep` or `take` of a fetch or `take` of an `each` left behind, and what failed or was capped,
//! stays new. After a step that failed only those items are handled whose own end was reached. It is the steps of the run itself
//! that gather; what a `fetch` below an `each` reads is judged and never counted as handled.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::domain::activity::Activity;
use crate::domain::definition::{Options, Pipeline, Step, StepBody};
use crate::domain::finding::{FindingsRequest, Handled, Judged, Seen, Standing};
use crate::domain::proposal::Tended;
use crate::domain::run::{Effects, Outcome};
use crate::ports::durable::{DurableContext, Stop};

use super::each;
use super::run::outcome_of;
use super::tell;

/// The longest title and place that the ledger keeps, in characters.
const MOST_TEXT: usize = 200;

/// What a gathering step yields when the YAML does not say.
const DEFAULT_ONLY: [Standing; 3] = [Standing::New, Standing::Worsened, Standing::Regressed];

/// The standings that `only` lets through. What a person muted is never among them.
pub(super) fn only(options: &Options) -> Vec<Standing> {
    let words = options.texts("only");
    if words.is_empty() {
        return DEFAULT_ONLY.to_vec();
    }
    let mut only: Vec<Standing> = words.iter().filter_map(|word| word.parse().ok()).collect();
    if words.contains(&"all") {
        only = DEFAULT_ONLY.to_vec();
        only.push(Standing::Ongoing);
    }
    only
}

/// The item's identity in the ledger: its `key`.
fn key(item: &Value) -> Option<String> {
    match item.get("key")? {
        Value::String(key) if !key.trim().is_empty() => Some(key.clone()),
        Value::Number(key) => Some(key.to_string()),
        _ => None,
    }
}

/// The identities that an item stands for: its own, and those of its `members` if it is a group.
pub(super) fn keys(item: &Value) -> Vec<String> {
    let members = item.get("members").and_then(Value::as_array).into_iter().flatten();
    key(item).into_iter().chain(members.filter_map(Value::as_str).map(str::to_owned)).collect()
}

/// The item as the ledger keeps it; `None` without a key.
///
/// Its weight is how many users are hit, else how often it happened, else 1.
pub(super) fn seen(item: &Value) -> Option<Seen> {
    let number = |name: &str| item.get(name).and_then(Value::as_f64).filter(|number| *number > 0.0);
    let text = |name: &str| item.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let place = match (text("file"), item.get("line").and_then(Value::as_u64).filter(|line| *line > 0)) {
        (Some(file), Some(line)) => format!("{file}:{line}"),
        (Some(file), None) => file.to_owned(),
        (None, _) => text("culprit").or(text("project")).unwrap_or_default().to_owned(),
    };
    Some(Seen {
        fingerprint: key(item)?,
        title: cut(&each::title_of(item)),
        weight: number("users").or(number("count")).or(number("occurrences")).unwrap_or(1.0),
        place: cut(&place),
        last_at: text("last_seen").and_then(|at| at.parse().ok()),
    })
}

fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MOST_TEXT).collect()
}

/// Asks the ledger about items of a source, and gives each its `standing`. Those without a key are new.
pub(super) async fn judge(
    ctx: &dyn DurableContext,
    label: &str,
    source: &str,
    items: &mut [Value],
    complete: bool,
) -> Result<Judged, Stop> {
    let seen: Vec<Seen> = items.iter().filter_map(seen).collect();
    let request = FindingsRequest::Judge { source: source.to_owned(), seen, complete };
    let judged: Judged = ctx.perform(label, Activity::Findings(request)).await?.decode()?;
    let mut standings = judged.standings.iter();
    for item in items {
        let known = key(item).and_then(|_| standings.next().copied());
        if let Value::Object(fields) = item {
            fields.insert("standing".into(), known.unwrap_or(Standing::New).as_str().into());
        }
    }
    Ok(judged)
}

/// Has a live run learn what people did with what the pipeline has published, before it judges anything: a ticket that was closed
/// as not planned costs nothing more. What keeps it from that is told, and fails nothing.
///
/// Returns how many drafts of the pipeline are open. Errors: only final stops.
pub(super) async fn tend(ctx: &dyn DurableContext, pipeline: &Pipeline) -> Result<u32, Stop> {
    let mut open = 0;
    let effects = ctx.run().effects;
    if effects != Effects::Live {
        return Ok(open);
    }
    let publishes = |kind: &str| {
        let is = |step: &Step| matches!(&step.body, StepBody::Kind { kind: own, .. } if own == kind);
        pipeline.walk().iter().any(|(_, step)| is(step))
    };
    for (kind, sink) in [("ticket", "tickets"), ("pull_request", "pull_requests")] {
        if !publishes(kind) {
            continue;
        }
        match ctx.perform(&format!("tend-{sink}"), Activity::Tend { sink: sink.to_owned(), effects }).await {
            Ok(recorded) => {
                let tended: Tended = recorded.decode()?;
                if sink == "pull_requests" {
                    open = tended.open;
                }
                tell::ended(ctx, pipeline, &tended.ended).await?;
            }
            Err(stop) if stop.is_final() => return Err(stop),
            Err(stop) => ctx.note("not_tended", serde_json::json!({"reason": stop.to_string()})),
        }
    }
    Ok(open)
}

/// Items that a step yields, and how many it leaves out.
pub(super) struct Sifted {
    pub items: Vec<Value>,
    /// Left out, because they are known.
    pub known: usize,
    /// Left out, because a person muted them.
    pub muted: usize,
}

/// Of judged items those whose standing is in `only`.
pub(super) fn sift(items: Vec<Value>, only: &[Standing]) -> Sifted {
    let mut sifted = Sifted { items: Vec::new(), known: 0, muted: 0 };
    for item in items {
        let standing = item.get("standing").and_then(Value::as_str).and_then(|word| word.parse().ok());
        match standing.unwrap_or(Standing::New) {
            standing if only.contains(&standing) => sifted.items.push(item),
            Standing::Muted => sifted.muted += 1,
            _ => sifted.known += 1,
        }
    }
    sifted
}

/// What one source of the ledger is told at the end.
#[derive(Debug, Default, PartialEq)]
struct Account {
    source: String,
    handled: Vec<Handled>,
    gone: Vec<String>,
}

/// Tells the ledger what became of the run's items. Errors: only final stops; another failure is noted for people.
pub(super) async fn close(
    ctx: &dyn DurableContext,
    pipeline: &Pipeline,
    results: &[(String, Map<String, Value>)],
) -> Result<(), Stop> {
    for Account { source, handled, gone } in accounts(&pipeline.steps, results) {
        // No step can have such an id.
        let name = source.replace('/', "-");
        let told = handled.clone();
        let mut asks = Vec::new();
        if !handled.is_empty() {
            let request = FindingsRequest::Handled { source: source.clone(), findings: handled };
            asks.push((format!("handled-{name}"), request));
        }
        if !gone.is_empty() {
            asks.push((format!("gone-{name}"), FindingsRequest::Gone { source, fingerprints: gone }));
        }
        for (label, request) in asks {
            match ctx.perform(&label, Activity::Findings(request)).await {
                Ok(_) => {}
                Err(stop) if stop.is_final() => return Err(stop),
                Err(stop) => ctx.note("not_remembered", serde_json::json!({"reason": stop.to_string()})),
            }
        }
        tell::handled(ctx, pipeline, &told).await?;
    }
    Ok(())
}

/// What became of one item.
#[derive(Clone, Debug, PartialEq)]
enum Fate {
    /// Its own end was reached: the word, and where it can be seen.
    Ended(&'static str, Option<String>),
    /// It failed, or was left for later.
    StaysNew,
}

fn accounts(steps: &[Step], results: &[(String, Map<String, Value>)]) -> Vec<Account> {
    let result_of = |step: &Step| results.iter().find(|(id, _)| *id == step.id).map(|(_, result)| result);
    let whole = results.iter().all(|(_, result)| outcome_of(result) <= Outcome::Acted);
    let mut fates: BTreeMap<String, Fate> = BTreeMap::new();
    // How the run ended for what no step ended by itself.
    let mut last = ("reported", None);
    for step in steps {
        let Some(result) = result_of(step) else { continue };
        match &step.each {
            Some(_) => fates_of_each(step, result, &mut fates),
            None => last = end_of(step, result).unwrap_or(last),
        }
    }
    let mut accounts: Vec<Account> = Vec::new();
    for step in steps.iter().filter(|step| step.each.is_none()) {
        let Some(result) = result_of(step).filter(|result| outcome_of(result) <= Outcome::Acted) else { continue };
        for (source, item) in gathered(step, result, "items") {
            let Some(seen) = seen(item) else { continue };
            let (end, place) = match fates.get(&seen.fingerprint) {
                Some(Fate::StaysNew) => continue,
                Some(Fate::Ended(end, place)) => (*end, place.clone()),
                None if whole => last.clone(),
                None => continue,
            };
            let account = account(&mut accounts, source);
            if account.handled.iter().all(|known| known.seen.fingerprint != seen.fingerprint) {
                account.handled.push(Handled { seen, end: end.to_owned(), place });
            }
        }
        // That they are gone was told by a report, if the run came so far.
        if whole {
            for (source, item) in gathered(step, result, "fixed") {
                account(&mut accounts, source).gone.extend(key(item));
            }
        }
    }
    accounts
}

fn account(accounts: &mut Vec<Account>, source: String) -> &mut Account {
    let at = accounts.iter().position(|account| account.source == source).unwrap_or_else(|| {
        accounts.push(Account { source, ..Account::default() });
        accounts.len() - 1
    });
    &mut accounts[at]
}

/// The items of a gathering step with the source that the ledger keeps them under.
pub(super) fn gathered<'a>(step: &Step, result: &'a Map<String, Value>, field: &str) -> Vec<(String, &'a Value)> {
    let StepBody::Kind { kind, .. } = &step.body else { return Vec::new() };
    let items = result.get(field).and_then(Value::as_array).into_iter().flatten();
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let known = |source: &String| has_identities(source);
    match kind.as_str() {
        "scan" => items.map(|item| (scan_source(&step.id, &text(item.get("scanner"))), item)).collect(),
        "fetch" if result.contains_key("source") => {
            let source = text(result.get("source"));
            items.filter(|_| known(&source)).map(|item| (source.clone(), item)).collect()
        }
        // Several sources: one item each, with its rows.
        "fetch" => items
            .map(|item| (text(item.get("source")), item.get("rows").and_then(Value::as_array)))
            .filter(|(source, _)| known(source))
            .flat_map(|(source, rows)| rows.into_iter().flatten().map(move |row| (source.clone(), row)))
            .collect(),
        _ => Vec::new(),
    }
}

/// The items of this source have identities.
pub(super) fn has_identities(source: &str) -> bool {
    crate::domain::finding::WITH_IDENTITY.contains(&source)
}

/// Under which name the ledger keeps the findings of one scanner of a step: a new scanner has a first run of its own, and one
/// that was taken away has fixed nothing.
pub(super) fn scan_source(step: &str, scanner: &str) -> String {
    format!("{step}/{scanner}")
}

fn fates_of_each(step: &Step, result: &Map<String, Value>, fates: &mut BTreeMap<String, Fate>) {
    let list = |name: &str| result.get(name).and_then(Value::as_array).into_iter().flatten();
    for key in list("dropped_keys").filter_map(Value::as_str) {
        fates.entry(key.to_owned()).or_insert(Fate::Ended("dropped", None));
    }
    for item in list("items") {
        let fate = match (&step.body, item.as_object()) {
            (StepBody::Steps(steps), Some(fields)) => {
                let ends = steps.iter().filter_map(|step| end_of(step, fields.get(&step.id)?.as_object()?));
                // What acted outside outlives a mere report.
                let (end, place) = ends.max_by_key(|(end, _)| *end != "reported").unwrap_or(("reported", None));
                Fate::Ended(end, place)
            }
            (StepBody::Kind { .. }, Some(fields)) => match end_of(step, fields) {
                Some((end, place)) => Fate::Ended(end, place),
                None => continue,
            },
            (_, None) => continue,
        };
        for key in keys(item) {
            match fates.get(&key) {
                Some(Fate::StaysNew) => {}
                _ => drop(fates.insert(key, fate.clone())),
            }
        }
    }
    let lost = list("left").filter_map(Value::as_str).map(str::to_owned);
    for key in lost.chain(list("failed").flat_map(keys)) {
        fates.insert(key, Fate::StaysNew);
    }
}

/// How a step that publishes or decides ended for the items that it was about; `None` for other steps, and where it did not run.
fn end_of(step: &Step, result: &Map<String, Value>) -> Option<(&'static str, Option<String>)> {
    let StepBody::Kind { kind, .. } = &step.body else { return None };
    let ran = result.get("ran") == Some(&Value::Bool(true)) && outcome_of(result) <= Outcome::Acted;
    let word = match kind.as_str() {
        _ if !ran => return None,
        "ticket" => "ticket",
        "pull_request" => "pull_request",
        "approve" if result.get("approved") == Some(&Value::Bool(false)) => return Some(("declined", None)),
        _ => return None,
    };
    let acted = outcome_of(result) == Outcome::Acted;
    let url = result.get("url").and_then(Value::as_str).filter(|url| !url.is_empty() && acted);
    Some((if acted { word } else { "reported" }, url.map(str::to_owned)))
}

#[cfg(test)]
#[path = "tests/ledger.rs"]
mod tests;
