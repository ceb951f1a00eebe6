//! `ticket`: opens or updates a ticket, found again by the fingerprints of what it is about, never by a model's words.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::base::LocalBoxFuture;
use crate::domain::definition::StepBody;
use crate::domain::entry::StepEnd;
use crate::domain::proposal::{Proposed, is_repository};
use crate::expr::types::{Field, Type};
use crate::ports::durable::Stop;
use crate::ports::step::{Checked, KindMistake, Opt, OptType, Sees, StepCall, StepKind};

use super::model::mistake;
use super::ticket_text::{self, Told};
use super::{data, each, publish};

pub const KIND: StepKind = StepKind {
    name: "ticket",
    summary: "open or update a ticket",
    options: &[
        Opt { name: "from", ty: OptType::Data, required: true, doc: "what the ticket is made of" },
        Opt {
            name: "tracker",
            ty: OptType::Text,
            required: false,
            doc: "where it is opened: `github` (the pipeline's repository), or another repository as `owner/name`",
        },
        Opt { name: "key", ty: OptType::Expr(Sees::Nothing), required: false, doc: "by which it is found again" },
        Opt { name: "labels", ty: OptType::Texts, required: false, doc: "labels to set" },
        Opt { name: "assignees", ty: OptType::Texts, required: false, doc: "who gets it" },
        Opt {
            name: "closed_as_not_planned",
            ty: OptType::Word(&["mute", "reopen"]),
            required: false,
            doc: "what a person's `not planned` means",
        },
    ],
    beside: &[],
    model: false,
    closing: false,
    yields: |_| yields(),
    check,
    run: Some(run),
    example: "ticket: {from: ranked, tracker: github, labels: [tech-debt]}\n",
};

fn check(checked: &Checked<'_>) -> Vec<KindMistake> {
    match checked.options.text("tracker") {
        Some(tracker) if tracker.contains('/') && !is_repository(tracker) => vec![mistake(
            "ticket.tracker",
            "no repository has such a name",
            "tickets cannot be opened there",
            Some("write `github` for the pipeline's own repository, or another one as `owner/name`"),
        )],
        _ => Vec::new(),
    }
}

/// Of a ticket and of a pull request.
pub(super) fn yields() -> Type {
    let text = || Type::String { max: None };
    let field = |name: &str, ty| Field { name: name.into(), ty };
    Type::Map(vec![
        field("opened", Type::Boolean),
        field("updated", Type::Boolean),
        field("url", text()),
        field(
            "published",
            Type::Map(vec![
                field("state", text()),
                field("key", text()),
                field("title", text()),
                field("note", text()),
            ]),
        ),
        field("receipts", Type::List(Box::new(Type::Any))),
    ])
}

fn run<'a>(call: StepCall<'a>) -> LocalBoxFuture<'a, Result<StepEnd, Stop>> {
    Box::pin(go(call))
}

async fn go(call: StepCall<'_>) -> Result<StepEnd, Stop> {
    let options = call.options;
    let from = data::data(&options.exprs("from"), call.scope)?;
    if from.iter().all(data::Datum::is_empty) {
        let names: Vec<&str> = from.iter().map(|datum| datum.label.as_str()).collect();
        return Ok(data::skipped(format!("nothing to open a ticket about: {} empty or skipped", names.join(", "))));
    }
    let Told { text: mut ticket, keys, words } = ticket_text::read(&from, call.scope);
    let Known { keys, invented } = known(&call, &from, about(&call, keys)?)?;
    let fingerprints = publish::fingerprints(keys);
    ticket.findings.retain(|finding| !invented.contains(&finding.fingerprint));
    // One that is about nothing with a key is the step's own, one for all runs.
    let fingerprints = if fingerprints.is_empty() { vec![path_without_keys(call.ctx.path())] } else { fingerprints };
    if ticket.title.trim().is_empty() {
        ticket.title = call.pipeline.summary.clone();
    }
    let texts = |name: &str| options.texts(name).into_iter().map(str::to_owned).collect();
    ticket.labels = texts("labels");
    ticket.assignees = texts("assignees");
    ticket.closed_as_not_planned = options.text("closed_as_not_planned").map(str::to_owned);
    ticket.tracker = options.text("tracker").filter(|tracker| is_repository(tracker)).map(str::to_owned);
    ticket.commit = call.work.map(|work| work.workspace.commit.to_string());
    let words = if words.is_empty() { call.step.id.clone() } else { words };
    let key = publish::key(&call.pipeline.name, &fingerprints, &words);
    let title = ticket.title.clone();
    let what = Proposed::Ticket(Box::new(ticket));
    let published = publish::publish(&call, "tickets", key, fingerprints, what).await?;
    Ok(publish::end(&published, &title))
}

/// Of what the ticket is to be about only what this run has seen: a model may say that findings are one, and invents none.
///
/// A single key that the YAML writes itself stands for the step, not for a finding.
fn known(call: &StepCall<'_>, from: &[data::Datum], about: About) -> Result<Known, Stop> {
    let keys = match about {
        About::Own(key) => return Ok(Known { keys: vec![key], invented: Vec::new() }),
        About::Findings(keys) => keys,
    };
    let mut known: BTreeSet<String> = BTreeSet::new();
    for (_, step) in call.pipeline.walk() {
        if matches!(&step.body, StepBody::Kind { kind, .. } if matches!(kind.as_str(), "fetch" | "scan" | "compute")) {
            known.extend(call.scope.get(&step.id).into_iter().flat_map(item_keys));
        }
    }
    let items = from.iter().map(|datum| &datum.value).chain(call.item.map(|(_, item)| item));
    known.extend(items.filter(|item| item.get("members").is_none()).map(item_fingerprint));
    let lists = from.iter().filter_map(|datum| datum.value.as_array());
    known.extend(lists.flatten().map(item_fingerprint));
    let (keys, invented): (Vec<String>, Vec<String>) = keys.into_iter().partition(|key| known.contains(key));
    for key in &invented {
        call.ctx.note("refused", json!({"text": format!("a ticket about `{key}`, which this run has not seen")}));
    }
    match keys.is_empty() && !invented.is_empty() {
        true => Err(super::failed(super::E_DATA, "the ticket is about nothing that this run has seen")),
        false => Ok(Known { keys, invented }),
    }
}

/// What the ticket is about, and what it is not because this run has not seen it.
struct Known {
    keys: Vec<String>,
    invented: Vec<String>,
}

/// The keys of all items of a step's result, also below their sources.
fn item_keys(result: &Value) -> Vec<String> {
    let items = result.get("items").and_then(Value::as_array).into_iter().flatten();
    let rows = |item: &Value| item.get("rows").and_then(Value::as_array).cloned().unwrap_or_default();
    items.flat_map(|item| rows(item).into_iter().chain([item.clone()])).map(|item| item_fingerprint(&item)).collect()
}

/// What a ticket is about.
enum About {
    /// A key that is no finding's: the step's own.
    Own(String),
    Findings(Vec<String>),
}

/// The keys of what the ticket is about: as the YAML says, else of the data, else of the item.
fn about(call: &StepCall<'_>, keys: Vec<String>) -> Result<About, Stop> {
    if let Some(expr) = call.options.expr("key") {
        match data::eval_unless_skipped(expr, call.scope)? {
            Some(Value::Array(keys)) if !keys.is_empty() => {
                return Ok(About::Findings(keys.iter().map(key_text).collect()));
            }
            Some(Value::Array(_) | Value::Null) | None => {}
            Some(key) => return Ok(About::Own(key_text(&key))),
        }
    }
    if !keys.is_empty() {
        return Ok(About::Findings(keys));
    }
    Ok(About::Findings(call.item.map(|(_, item)| item_fingerprint(item)).into_iter().collect()))
}

fn key_text(key: &Value) -> String {
    key.as_str().map_or_else(|| key.to_string(), str::to_owned)
}

/// The identity of an item.
pub(super) fn item_fingerprint(item: &Value) -> String {
    item.as_object().map_or_else(|| each::item_key(item), ticket_text::item_key_of)
}

/// `repair[KEY]/ticket` → `repair/ticket`.
pub(super) fn path_without_keys(path: &str) -> String {
    path.split('/').map(|part| part.split('[').next().unwrap_or(part)).collect::<Vec<_>>().join("/")
}
