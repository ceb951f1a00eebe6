//! `ticket`: opens or updates a ticket, found again by the fingerprints of what it is about, never by a model's words.

use serde_json::Value;

use crate::base::LocalBoxFuture;
use crate::domain::entry::StepEnd;
use crate::domain::proposal::Proposed;
use crate::expr::types::{Field, Type};
use crate::ports::durable::Stop;
use crate::ports::step::{Opt, OptType, Sees, StepCall, StepKind};

use super::ticket_text::{self, Told};
use super::{data, each, publish};

pub const KIND: StepKind = StepKind {
    name: "ticket",
    summary: "open or update a ticket",
    options: &[
        Opt { name: "from", ty: OptType::Data, required: true, doc: "what the ticket is made of" },
        Opt { name: "tracker", ty: OptType::Text, required: false, doc: "where it is opened" },
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
    check: |_| Vec::new(),
    run: Some(run),
    example: "ticket: {from: ranked, tracker: github, labels: [tech-debt]}\n",
};

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
    let fingerprints = publish::fingerprints(about(&call, keys)?);
    // One that is about nothing with a key is the step's own, one for all runs.
    let fingerprints = if fingerprints.is_empty() { vec![path_without_keys(call.ctx.path())] } else { fingerprints };
    if ticket.title.trim().is_empty() {
        ticket.title = call.pipeline.summary.clone();
    }
    let texts = |name: &str| options.texts(name).into_iter().map(str::to_owned).collect();
    ticket.labels = texts("labels");
    ticket.assignees = texts("assignees");
    ticket.closed_as_not_planned = options.text("closed_as_not_planned").map(str::to_owned);
    ticket.commit = call.work.map(|work| work.workspace.commit.to_string());
    let words = if words.is_empty() { call.step.id.clone() } else { words };
    let key = publish::key(&call.pipeline.name, &fingerprints, &words);
    let title = ticket.title.clone();
    let what = Proposed::Ticket(Box::new(ticket));
    let published = publish::publish(&call, "tickets", key, fingerprints, what).await?;
    Ok(publish::end(&published, &title))
}

/// The keys of what the ticket is about: as the YAML says, else of the data, else of the item.
fn about(call: &StepCall<'_>, keys: Vec<String>) -> Result<Vec<String>, Stop> {
    if let Some(expr) = call.options.expr("key") {
        let found = match data::eval_unless_skipped(expr, call.scope)? {
            Some(Value::Array(keys)) => keys.iter().map(key_text).collect(),
            Some(Value::Null) | None => Vec::new(),
            Some(key) => vec![key_text(&key)],
        };
        if !found.is_empty() {
            return Ok(found);
        }
    }
    if !keys.is_empty() {
        return Ok(keys);
    }
    Ok(call.item.map(|(_, item)| item_fingerprint(item)).into_iter().collect())
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
