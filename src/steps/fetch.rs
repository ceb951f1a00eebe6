//! `fetch`: reads one or several sources, and waits for late data when it is told what must be there.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::base::LocalBoxFuture;
use crate::domain::activity::{Activity, FetchRequest, Rows};
use crate::domain::definition::{OptionValue, Order};
use crate::domain::entry::StepEnd;
use crate::domain::finding::WITH_IDENTITY;
use crate::domain::run::{Failure, TriggerKind};
use crate::expr::cel::Expr;
use crate::expr::types::{Field, Type};
use crate::ports::durable::Stop;
use crate::ports::step::{Checked, KindMistake, Opt, OptType, Sees, StepCall, StepKind, Yields};

use super::{E_REQUIRE, data, each, ledger, model};

const REQUIRE: &[Opt] = &[
    Opt {
        name: "that",
        ty: OptType::Expr(Sees::Own),
        required: true,
        doc: "what must be true of the step's own result",
    },
    Opt { name: "retry", ty: OptType::Duration, required: false, doc: "read again after this long" },
    Opt { name: "for", ty: OptType::Duration, required: false, doc: "how long to go on trying" },
    Opt {
        name: "else",
        ty: OptType::Word(&["blocked", "failed", "skip", "proceed"]),
        required: false,
        doc: "what then; default `blocked`",
    },
];

pub const KIND: StepKind = StepKind {
    name: "fetch",
    summary: "read sources",
    options: &[
        Opt {
            name: "from",
            ty: OptType::Sources,
            required: true,
            doc: "a source or a tool of the pipeline, or a list of them",
        },
        Opt { name: "query", ty: OptType::Text, required: false, doc: "in the source's own language" },
        Opt { name: "args", ty: OptType::Args, required: false, doc: "arguments by name" },
        Opt {
            name: "only",
            ty: OptType::Words(&["new", "worsened", "regressed", "all"]),
            required: false,
            doc: "of a source whose items have an identity; default: what is new, worse or back",
        },
        Opt {
            name: "keep",
            ty: OptType::Expr(Sees::Item),
            required: false,
            doc: "items for which this is false are left alone",
        },
        Opt { name: "order", ty: OptType::Field, required: false, doc: "a field, `-` in front for descending" },
        Opt { name: "take", ty: OptType::Integer, required: false, doc: "at most this many; the others stay new" },
    ],
    beside: &[Opt {
        name: "require",
        ty: OptType::Map(REQUIRE),
        required: false,
        doc: "what the data must fulfil, and how long to wait for it",
    }],
    model: false,
    closing: false,
    yields,
    check,
    run: Some(run),
    example: "fetch: {from: [signups, checkout], args: {to: params.day}}\nrequire: {that: \"data.count == 2\", retry: 15m, for: 2h, else: blocked}\n",
};

/// Reads side by side.
const PARALLEL: usize = 4;

fn yields(y: &Yields<'_>) -> Type {
    let field = |name: &str, ty| Field { name: name.into(), ty };
    let list = |of| Type::List(Box::new(of));
    let text = || Type::String { max: None };
    let one = y.options.texts("from").len() <= 1;
    let item = match one {
        true => Type::Any,
        false => Type::Map(vec![
            field("source", text()),
            field("key", text()),
            field("rows", list(Type::Any)),
            field("via", text()),
        ]),
    };
    let mut fields = vec![
        field("items", list(item)),
        field("count", Type::Integer),
        field("left_behind", Type::Integer),
        field("truncated", Type::Boolean),
        field("known", Type::Integer),
        field("muted", Type::Integer),
    ];
    if one {
        fields.extend([field("source", text()), field("via", text())]);
    }
    Type::Map(fields)
}

fn check(checked: &Checked<'_>) -> Vec<KindMistake> {
    let mut mistakes = Vec::new();
    if checked.options.texts("from").contains(&"sentry") && !checked.sentry {
        mistakes.push(model::mistake(
            "fetch.from",
            "`sentry` has no project",
            "it reads the project of `on.sentry`",
            Some("write `on: {sentry: {project: …}}`"),
        ));
    }
    let sources = checked.options.texts("from");
    if !checked.options.texts("only").is_empty() && !sources.iter().any(|source| ledger::has_identities(source)) {
        let help = format!("leave it out; it is for: {}", WITH_IDENTITY.join(", "));
        let label = "nothing is remembered of the items of this source";
        mistakes.push(model::mistake("fetch.only", "`only` has no meaning here", label, Some(&help)));
    }
    if let Some(require) = checked.options.map("require") {
        let has = |name: &str| data::nested(require, name).is_some();
        if has("retry") != has("for") {
            let there = if has("retry") { "require.retry" } else { "require.for" };
            mistakes.push(model::mistake(
                there,
                "`retry` and `for` belong together",
                "the other one is missing",
                Some("write for instance `retry: 15m, for: 2h`"),
            ));
        }
    }
    mistakes
}

fn run<'a>(call: StepCall<'a>) -> LocalBoxFuture<'a, Result<StepEnd, Stop>> {
    Box::pin(go(call))
}

/// `require`, as written.
struct Require<'a> {
    that: &'a Expr,
    retry: Option<Duration>,
    most: Duration,
    otherwise: &'a str,
}

impl<'a> Require<'a> {
    fn of(map: &'a [(String, OptionValue)]) -> Option<Self> {
        let duration = |name| match data::nested(map, name) {
            Some(OptionValue::Duration(duration)) => Some(*duration),
            _ => None,
        };
        let Some(OptionValue::Expr(that)) = data::nested(map, "that") else { return None };
        let otherwise = match data::nested(map, "else") {
            Some(OptionValue::Text(word)) => word.as_str(),
            _ => "blocked",
        };
        Some(Self { that, retry: duration("retry"), most: duration("for").unwrap_or_default(), otherwise })
    }
}

async fn go(call: StepCall<'_>) -> Result<StepEnd, Stop> {
    let Some(require) = call.options.map("require").and_then(|map| Require::of(map)) else {
        return fetch(&call, 0).await;
    };
    let mut waited = Duration::ZERO;
    let mut attempt = 0;
    loop {
        let (lacking, end) = match fetch(&call, attempt).await {
            Ok(end) => {
                let mut scope = call.scope.clone();
                scope.set(call.step.id.as_str(), Value::Object(end.result.clone()));
                // Fields that are not there yet make the condition fail, not the step.
                match data::eval_bool(require.that, &scope) {
                    Ok(true) => return Ok(end),
                    Ok(false) => (format!("not yet true: {}", require.that.source), Some(end)),
                    Err(stop) => (stop.to_string(), Some(end)),
                }
            }
            // Where waiting was asked for, a source that does not answer is waited for too.
            Err(Stop::Failed(failure)) => (failure.to_string(), None),
            Err(stop) => return Err(stop),
        };
        let pause = require.retry.filter(|retry| !retry.is_zero() && waited.saturating_add(*retry) <= require.most);
        let Some(retry) = pause else { return give_up(&require, lacking, end, waited) };
        attempt += 1;
        call.ctx.note("waiting", json!({"for_s": retry.as_secs(), "reason": lacking}));
        call.ctx.sleep(&format!("retry-{attempt}"), retry).await?;
        waited += retry;
    }
}

fn give_up(require: &Require<'_>, lacking: String, end: Option<StepEnd>, waited: Duration) -> Result<StepEnd, Stop> {
    let message = match waited.as_secs() / 60 {
        0 => lacking,
        minutes => format!("{lacking} (waited {minutes} min)"),
    };
    match (require.otherwise, end) {
        ("proceed", Some(end)) => Ok(end),
        ("skip", _) => Ok(data::skipped(message)),
        ("failed", _) => Err(super::failed(E_REQUIRE, message)),
        _ => Err(Stop::Blocked(
            Failure::new(E_REQUIRE, message).help("run it again when the data is there: `nightcrew resume`"),
        )),
    }
}

/// One read of everything.
async fn fetch(call: &StepCall<'_>, attempt: u32) -> Result<StepEnd, Stop> {
    let sources = call.options.texts("from");
    let mut args = Map::new();
    for (name, value) in call.options.map("args").into_iter().flatten() {
        if let OptionValue::Expr(expr) = value {
            args.insert(name.clone(), data::eval(expr, call.scope)?);
        }
    }
    let by_hand = args.get("issue").and_then(Value::as_str).is_some_and(|issue| !issue.is_empty());
    let label = |label: &str| if attempt == 0 { label.to_owned() } else { format!("attempt-{}/{label}", attempt + 1) };
    let mut found = Found { by_hand, ..Found::default() };
    if let (Some(item), false) = (handed_in(call, &sources), by_hand) {
        found.about = Map::from_iter([("source".into(), sources[0].into())]);
        found.items = sift(call, &label, sources[0], vec![item.clone()], &mut found).await?;
        return finish(call, found);
    }
    let asked = sources.iter().map(|source| {
        let request = FetchRequest {
            from: (*source).to_owned(),
            query: call.options.text("query").map(str::to_owned),
            args: args.clone(),
            attempt,
        };
        (label(source), Activity::Fetch(request))
    });
    let mut answers = Vec::new();
    for (recorded, source) in call.ctx.perform_all(asked.collect(), PARALLEL).await.into_iter().zip(&sources) {
        let mut rows: Rows = recorded?.decode()?;
        let hide = call.pipeline.tool(source).map(|tool| tool.hide.as_slice()).unwrap_or_default();
        if !hide.is_empty() {
            rows.rows.iter_mut().for_each(|row| row.retain(|name, _| !hide.contains(name)));
        }
        found.truncated |= rows.truncated;
        answers.push(rows);
    }
    let one = sources.len() == 1;
    for (source, Rows { rows, via, .. }) in sources.iter().zip(answers) {
        let rows = rows.into_iter().map(Value::Object).collect();
        let rows = sift(call, &label, source, rows, &mut found).await?;
        if one {
            found.items = rows;
            found.about = Map::from_iter([("source".into(), (*source).into()), ("via".into(), via.into())]);
        } else {
            found.items.push(json!({"source": source, "key": source, "rows": rows, "via": via}));
        }
    }
    finish(call, found)
}

/// What was read.
#[derive(Default)]
struct Found {
    items: Vec<Value>,
    about: Map<String, Value>,
    truncated: bool,
    /// One item was named by hand: `only` and `keep` do not apply.
    by_hand: bool,
    /// Left out, because they were handled before and are no worse.
    known: usize,
    muted: usize,
}

/// Of a source whose items have an identity only what `only` lets through, each with its standing.
async fn sift(
    call: &StepCall<'_>,
    label: &impl Fn(&str) -> String,
    source: &str,
    items: Vec<Value>,
    found: &mut Found,
) -> Result<Vec<Value>, Stop> {
    if !ledger::has_identities(source) || items.is_empty() {
        return Ok(items);
    }
    let mut items = items;
    // A list of errors is never whole: it is searched, paged, and shows what happened lately.
    let complete = false;
    ledger::judge(call.ctx, &label(&format!("known-{source}")), source, &mut items, complete).await?;
    if found.by_hand {
        return Ok(items);
    }
    let sifted = ledger::sift(items, &ledger::only(call.options));
    found.known += sifted.known;
    found.muted += sifted.muted;
    Ok(sifted.items)
}

/// The item that the trigger carries, for the fetch of its own source.
fn handed_in<'a>(call: &StepCall<'a>, sources: &[&str]) -> Option<&'a Value> {
    let trigger = &call.ctx.run().trigger;
    (trigger.kind == TriggerKind::Sentry && sources == ["sentry"]).then_some(trigger.item.as_ref()).flatten()
}

fn finish(call: &StepCall<'_>, found: Found) -> Result<StepEnd, Stop> {
    let Found { items, about, truncated, by_hand, known, muted } = found;
    let sources = call.options.texts("from").len();
    // Of several sources the rows are sifted, not the items.
    let read = items.len() + if sources <= 1 { known + muted } else { 0 };
    let mut kept = Vec::new();
    for item in items {
        let keep = match call.options.expr("keep").filter(|_| !by_hand) {
            Some(keep) => {
                let mut scope = call.scope.clone();
                scope.set("item", item.clone());
                data::eval_bool(keep, &scope)?
            }
            None => true,
        };
        if keep {
            kept.push(item);
        }
    }
    if let Some(order) = call.options.text("order") {
        let field = order.trim_start_matches('-');
        each::sort(&mut kept, &Order { field: field.to_owned(), descending: field.len() < order.len() });
    }
    let take = call.options.integer("take").and_then(|take| usize::try_from(*take).ok()).unwrap_or(usize::MAX);
    let left_behind = kept.len().saturating_sub(take);
    kept.truncate(take);
    let rows: usize = kept.iter().map(|item| item["rows"].as_array().map_or(0, Vec::len)).sum();
    let mut summary = match (sources, kept.len()) {
        (0 | 1, 1) => "1 item".to_owned(),
        (0 | 1, n) => format!("{n} items"),
        (_, n) => format!("{rows} rows from {n} sources"),
    };
    if kept.len() + left_behind < read {
        summary.push_str(&format!(" of {read}"));
    }
    let told: Vec<String> = [(known, "known"), (muted, "muted")]
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, word)| format!("{n} {word}"))
        .collect();
    if !told.is_empty() {
        summary.push_str(&format!(" ({})", told.join(", ")));
    }
    if left_behind > 0 {
        summary.push_str(&format!(", {left_behind} left for later"));
    }
    if truncated {
        summary.push_str(", cut off at the row limit");
        call.ctx.note("truncated", json!({"sources": call.options.texts("from")}));
    }
    let mut fields = Map::new();
    fields.insert("count".into(), kept.len().into());
    fields.insert("items".into(), kept.into());
    fields.insert("left_behind".into(), left_behind.into());
    fields.insert("truncated".into(), truncated.into());
    fields.insert("known".into(), known.into());
    fields.insert("muted".into(), muted.into());
    fields.extend(about);
    Ok(data::done(fields, summary))
}
