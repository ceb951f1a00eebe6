//! `report`: what people read, made from typed values and handed to the sinks that YAML names.

use serde_json::{Map, Value, json};

use crate::base::LocalBoxFuture;
use crate::domain::activity::{Activity, Delivery, Receipt, Thread};
use crate::domain::entry::StepEnd;
use crate::domain::report::{Footer, Report};
use crate::domain::run::{Failure, Outcome};
use crate::domain::view::RunView;
use crate::expr::types::{Field, Type};
use crate::ports::durable::Stop;
use crate::ports::step::{Checked, KindMistake, Opt, OptType, StepCall, StepKind};

use super::{E_DELIVER, data, model, report_body, report_findings};

const CHART: &[Opt] = &[
    Opt { name: "of", ty: OptType::StepId, required: true, doc: "a `compute` step" },
    Opt { name: "days", ty: OptType::Integer, required: false, doc: "the last days shown; default 28" },
];

pub const KIND: StepKind = StepKind {
    name: "report",
    summary: "tell people",
    options: &[
        Opt { name: "from", ty: OptType::Data, required: true, doc: "what is told, in this order" },
        Opt {
            name: "to",
            ty: OptType::Sinks(&["files", "terminal", "slack"]),
            required: false,
            doc: "where to: these, or a name under `sinks` of the configuration; default `files`",
        },
        Opt { name: "channel", ty: OptType::Channel, required: false, doc: "default: the owner's" },
        Opt {
            name: "thread",
            ty: OptType::Word(&["per_run", "per_finding"]),
            required: false,
            doc: "default `per_run`",
        },
        Opt { name: "chart", ty: OptType::Map(CHART), required: false, doc: "a chart of computed series" },
        Opt {
            name: "when_quiet",
            ty: OptType::Word(&["post", "edit", "silent"]),
            required: false,
            doc: "when there is nothing to tell; default `silent`",
        },
    ],
    beside: &[],
    model: false,
    closing: true,
    yields: |_| {
        Type::Map(vec![
            Field { name: "posted".into(), ty: Type::Boolean },
            Field { name: "headline".into(), ty: Type::String { max: None } },
            Field { name: "receipts".into(), ty: Type::List(Box::new(Type::Any)) },
        ])
    },
    check,
    run: Some(run),
    example: "report: {from: [brief, delta], chart: {of: delta, days: 28}, to: slack}\n",
};

/// Ways out told in one report.
const MOST_HELPS: usize = 5;
/// Sinks at a time.
const PARALLEL: usize = 4;

fn check(checked: &Checked<'_>) -> Vec<KindMistake> {
    let of = checked.options.map("chart").and_then(|chart| data::nested(chart, "of"));
    let Some(crate::domain::definition::OptionValue::Text(of)) = of else { return Vec::new() };
    match (checked.step)(of) {
        Some((kind, _)) if kind != "compute" => vec![model::mistake(
            "report.chart.of",
            "nothing to draw",
            &format!("this step is a `{kind}`"),
            Some("name an earlier `compute` step"),
        )],
        _ => Vec::new(),
    }
}

fn run<'a>(call: StepCall<'a>) -> LocalBoxFuture<'a, Result<StepEnd, Stop>> {
    Box::pin(go(call))
}

async fn go(call: StepCall<'_>) -> Result<StepEnd, Stop> {
    let options = call.options;
    // A report must not fail because an earlier step has nothing to say.
    let mut missing = Vec::new();
    let mut from = Vec::new();
    for expr in options.exprs("from") {
        match data::datum(expr, call.scope) {
            Ok(datum) => from.push(datum),
            Err(stop) => missing.push(stop.to_string()),
        }
    }
    let quiet = from.iter().all(data::Datum::is_empty) && call.problems.is_empty() && missing.is_empty();
    let when_quiet = options.text("when_quiet").unwrap_or("silent");
    let view: RunView = call.ctx.perform("account", Activity::Account).await?.decode()?;
    if quiet && when_quiet == "silent" && view.complaints.is_empty() && view.refused.is_empty() {
        let fields = Map::from_iter([("posted".to_owned(), Value::from(false))]);
        return Ok(data::done(fields, "nothing to tell"));
    }
    let report = report(&call, &from, &missing, quiet, &view).await?;
    let sinks = match options.texts("to") {
        sinks if sinks.is_empty() => vec!["files"],
        sinks => sinks,
    };
    let channel =
        options.text("channel").map(str::to_owned).or(call.pipeline.owner.as_ref().map(|owner| owner.channel.clone()));
    let path = call.ctx.path();
    let thread = match (quiet, when_quiet, options.text("thread")) {
        (true, "edit", _) => Thread::Quiet,
        (_, _, Some("per_finding")) => Thread::PerFinding,
        _ => Thread::PerRun,
    };
    let deliveries = sinks.iter().map(|sink| {
        let delivery = Delivery {
            sink: (*sink).to_owned(),
            channel: channel.clone(),
            report: Box::new(report.clone()),
            key: format!("{}/{path}/{sink}", call.ctx.run().id),
            thread,
        };
        (format!("deliver-{sink}"), Activity::Deliver(delivery))
    });
    let mut receipts: Vec<Receipt> = Vec::new();
    let mut lost = None;
    for (sink, recorded) in sinks.iter().zip(call.ctx.perform_all(deliveries.collect(), PARALLEL).await) {
        match recorded {
            Ok(recorded) => receipts.push(recorded.decode()?),
            Err(stop) if stop.is_final() => return Err(stop),
            // The other sinks have theirs; the first that has not decides how the step ends.
            Err(stop) => drop(lost.get_or_insert((*sink, stop))),
        }
    }
    let mut fields = Map::new();
    fields.insert("posted".into(), (!receipts.is_empty()).into());
    fields.insert("headline".into(), report.headline.into());
    let places: Vec<&str> = receipts.iter().map(|receipt| receipt.url_or_path.as_str()).collect();
    let summary = format!("→ {}", places.join(", "));
    fields.insert("receipts".into(), json!(receipts));
    let Some((sink, stop)) = lost else { return Ok(data::done(fields, summary)) };
    let (outcome, failure) = match stop {
        Stop::Blocked(failure) => ("blocked", failure),
        Stop::Failed(failure) => ("failed", failure),
        other => ("failed", Failure::new(E_DELIVER, other.to_string())),
    };
    let reason = format!("not delivered to `{sink}`: {}", failure.message);
    fields.insert("failure".into(), json!(failure));
    let mut end = data::end(outcome, fields, summary);
    end.reason = Some(reason);
    Ok(end)
}

async fn report(
    call: &StepCall<'_>,
    from: &[data::Datum],
    missing: &[String],
    quiet: bool,
    view: &RunView,
) -> Result<Report, Stop> {
    let run = call.ctx.run();
    let gravest = call.problems.iter().filter_map(|(_, outcome, _)| outcome.parse::<Outcome>().ok()).max();
    let healthy = match (quiet, call.scope.0.values().any(|result| has_acted(result))) {
        (_, true) => Outcome::Acted,
        (true, false) => Outcome::NothingNew,
        (false, false) => Outcome::Reported,
    };
    let outcome = gravest.unwrap_or(healthy);
    let body = report_body::body(from, run.effects);
    // A model's headline must not stand above a run that failed.
    let headline = match (gravest, body.headline) {
        (None, Some(headline)) => headline,
        (None, None) => match outcome {
            Outcome::NothingNew => "Nothing new".to_owned(),
            _ => report_body::headline(&body.blocks).unwrap_or_else(|| call.pipeline.summary.clone()),
        },
        (Some(gravest), headline) => {
            let sentence = super::run::sentence(gravest, call.problems);
            headline.map_or(sentence.clone(), |headline| format!("{sentence} · {headline}"))
        }
    };
    let mut blocks = report_body::problems(call.problems, missing);
    blocks.extend(body.blocks);
    let chart = options_chart(call).and_then(|(of, days)| report_body::chart(of, call.scope.get(of)?, days));
    let now = call.ctx.now().await?;
    let names: Vec<String> = from.iter().map(|datum| datum.label.clone()).collect();
    Ok(Report {
        pipeline: call.pipeline.name.clone(),
        run: run.id.to_string(),
        summary: call.pipeline.summary.clone(),
        headline,
        outcome: Some(outcome),
        effects: run.effects,
        profile: run.profile.clone(),
        date: model::local(run).strftime("%a %-d %b %Y").to_string(),
        blocks,
        chart,
        footer: footer(call, missing, view, now.duration_since(run.started_at).as_secs_f64()),
        findings: report_findings::of(&names, &call.pipeline.steps, call.scope, run),
        question: None,
    })
}

fn options_chart<'a>(call: &StepCall<'a>) -> Option<(&'a str, usize)> {
    use crate::domain::definition::OptionValue::{Integer, Text};
    let chart = call.options.map("chart")?;
    let Some(Text(of)) = data::nested(chart, "of") else { return None };
    let days = match data::nested(chart, "days") {
        Some(Integer(days)) => usize::try_from(*days).unwrap_or(28),
        _ => 28,
    };
    Some((of, days))
}

fn footer(call: &StepCall<'_>, missing: &[String], view: &RunView, duration_s: f64) -> Footer {
    let problems = call.problems.iter().map(report_body::problem_line);
    let code = call.work.into_iter().flat_map(|work| {
        let at = work.workspace.commit.short();
        let sandbox = work.prepared.as_ref().map(|prepared| {
            let sandbox = prepared.sandbox.split_once("; ").map_or(prepared.sandbox.as_str(), |(sandbox, _)| sandbox);
            format!("commands confined by {sandbox}")
        });
        [Some(format!("code: {} at {at}", work.workspace.origin)), sandbox].into_iter().flatten()
    });
    let mut stand_ins = Vec::new();
    if call.ctx.run().profile == "demo" {
        stand_ins.push("bundled samples instead of live sources".to_owned());
    }
    let prepared = call.work.and_then(|work| work.prepared.as_ref());
    if let Some((_, why)) = prepared.and_then(|prepared| prepared.sandbox.split_once("; ")) {
        stand_ins.push(format!("our own sandbox server, for {why}"));
    }
    Footer {
        spend: view.spend.clone(),
        budget_usd: view.start.limits.max_budget.map(|budget| (budget + view.added).as_usd()),
        models: view.models.clone(),
        interns: view.interns.clone(),
        figures_checked: view.figures_checked,
        sentences_dropped: view.sentences_dropped,
        complaints: view.complaints.clone(),
        refused: view.refused.clone(),
        problems: problems.chain(missing.iter().cloned()).collect(),
        help: call.scope.0.values().fold(Vec::new(), |found, result| helps(found, result)),
        code: code.collect(),
        left_behind: call.scope.0.values().map(|value| left_behind(value)).fold(0, u32::saturating_add),
        stand_ins,
        duration_s: duration_s.max(0.0),
    }
}

/// Whether a step or one of its items changed something outside.
fn has_acted(result: &Value) -> bool {
    let acted = |result: &Value| result["outcome"] == Outcome::Acted.to_string();
    acted(result) || result["items"].as_array().into_iter().flatten().any(acted)
}

/// Adds the ways out of what failed in a step or its items, each once.
fn helps(mut found: Vec<String>, result: &Value) -> Vec<String> {
    let failed = result["failed"].as_array().into_iter().flatten();
    for result in std::iter::once(result).chain(failed) {
        if let Some(help) = result["failure"]["help"].as_str()
            && found.len() < MOST_HELPS
            && !found.iter().any(|known| known == help)
        {
            found.push(help.to_owned());
        }
    }
    found
}

/// What `take` left for later, in a step's result and in those of its children.
fn left_behind(result: &Value) -> u32 {
    let own = result["left_behind"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let children = result["items"].as_array().into_iter().flatten().filter_map(Value::as_object);
    let below = children.flat_map(|item| item.values()).filter(|value| value["ran"] == true);
    below.map(left_behind).fold(own, u32::saturating_add)
}
