//! `nightcrew plan PIPELINE`: what a run would be allowed and bound to, with the file and line of each value. Spends nothing,
//! contacts nothing.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::args::PlanArgs;
use super::session::Session;
use super::ui::{clip, table};
use super::{Exit, Trouble, slots};
use crate::base::clock::Timestamp;
use crate::base::money::UsdMicros;
use crate::builtin::REGISTRY;
use crate::config::settings::{Profile, Settings, SourceSettings};
use crate::daemon::find;
use crate::daemon::limits::Effective;
use crate::domain::definition::{Origin, Pipeline, StepBody};
use crate::domain::model::Role;
use crate::engine::bind::implied;
use crate::engine::workshop::places;
use crate::journal::{Reader, RunFilter};
use crate::policy::due::CronSchedule;
use crate::sandboxes::e2b;
use crate::tools::code::{BINDINGS, bound_to};

/// Columns of one command.
const COMMAND: usize = 60;

/// One line of the table.
struct Row {
    section: &'static str,
    name: String,
    value: String,
    origin: Origin,
    json: Value,
}

impl Row {
    fn new(section: &'static str, name: &str, value: impl Into<String>, origin: &Origin, json: Value) -> Self {
        Self { section, name: name.to_owned(), value: value.into(), origin: origin.clone(), json }
    }

    /// The value with where it comes from.
    fn json(&self) -> Value {
        match &self.json {
            Value::Object(fields) => {
                let mut fields = fields.clone();
                fields.insert("file".into(), json!(file(&self.origin)));
                fields.insert("line".into(), json!(line(&self.origin)));
                Value::Object(fields)
            }
            value => json!({"value": value, "file": file(&self.origin), "line": line(&self.origin)}),
        }
    }
}

fn file(origin: &Origin) -> Option<&str> {
    (!origin.file.is_empty()).then_some(origin.file.as_str())
}

fn line(origin: &Origin) -> Option<u32> {
    (origin.line > 0).then_some(origin.line)
}

fn shown(origin: &Origin) -> String {
    match (file(origin), line(origin)) {
        (Some(file), Some(line)) => format!("{}:{line}", near(file)),
        (Some(file), None) => near(file).to_owned(),
        (None, _) => "built in".to_owned(),
    }
}

/// A path below the folder one stands in, as one would type it.
fn near(file: &str) -> &str {
    let here = std::env::current_dir().ok();
    let below = here.as_ref().and_then(|here| std::path::Path::new(file).strip_prefix(here).ok());
    below.and_then(|path| path.to_str()).unwrap_or(file)
}

pub fn run(session: &Session, args: &PlanArgs) -> anyhow::Result<Exit> {
    let library = session.library()?;
    let pipeline = match find(&library, &session.places, &REGISTRY, &args.pipeline) {
        Ok(pipeline) => pipeline,
        Err(refusal) => {
            if refusal.code == "E-CONFIG" {
                session.show_mistakes_of(&library, &args.pipeline);
            }
            return Err(Trouble::from(refusal).into());
        }
    };
    let settings = &library.settings;
    let Some(profile) = settings.profiles.get(&args.profile) else {
        let known: Vec<_> = settings.profiles.keys().map(String::as_str).collect();
        let trouble = Trouble::new(Exit::Usage, format!("there is no profile `{}`", args.profile));
        return Err(trouble.help(format!("one of: {}", known.join(", "))).into());
    };
    let effective = Effective::of(&pipeline.limits, &settings.limits);
    let limits = limits(&effective);
    let models = models(&pipeline, settings, profile);
    let code = code(&pipeline, settings, profile);
    let bindings = bindings(&pipeline, settings, profile);
    let next = next_slots(&pipeline, session.env.now());
    let worst = effective.max_budget.value;
    let usual = match session.reader()? {
        Some(reader) => usual(&reader, &pipeline.name)?,
        None => None,
    };
    if session.ui.json {
        let section =
            |rows: &[Row]| Value::from(rows.iter().map(|row| (row.name.clone(), row.json())).collect::<Map<_, _>>());
        session.ui.data_json(&json!({
            "pipeline": pipeline.name,
            "hash": pipeline.hash,
            "profile": args.profile,
            "effects": pipeline.effects.min(settings.effects),
            "limits": section(&limits),
            "models": section(&models),
            "code": section(&code),
            "bindings": section(&bindings),
            "next_slots": next,
            "worst_case_usd": worst.as_usd(),
            "usual_usd": usual.map(UsdMicros::as_usd),
        }))?;
        return Ok(Exit::Done);
    }
    let ui = &session.ui;
    ui.data(format!("{}  {}  profile {}", pipeline.name, pipeline.hash.short(), args.profile))?;
    if !pipeline.summary.is_empty() {
        ui.data(&pipeline.summary)?;
    }
    let said = format!(
        "{} (pipeline: {}, configuration: {})",
        pipeline.effects.min(settings.effects),
        pipeline.effects,
        settings.effects
    );
    ui.data(format!("effects: {said}\n"))?;
    let mut section = "";
    let mut rows = Vec::new();
    for row in limits.iter().chain(&models).chain(&code).chain(&bindings) {
        let first = std::mem::replace(&mut section, row.section) != row.section;
        let section = if first { row.section } else { "" };
        rows.push(vec![section.to_owned(), row.name.clone(), row.value.clone(), shown(&row.origin)]);
    }
    ui.data(table(&["", "WHAT", "VALUE", "FROM"], &rows, &[]))?;
    ui.data("")?;
    let zone = pipeline.on.schedule.as_ref().map_or("UTC", |schedule| schedule.timezone.as_str());
    match (&pipeline.on.schedule, next.is_empty()) {
        (None, _) => ui.data("no schedule")?,
        (Some(_), true) => ui.data("no next slot within five years")?,
        (Some(schedule), false) => {
            ui.data(format!("next slots of `{}` ({}):", schedule.cron, shown(&schedule.origin)))?;
            for at in &next {
                ui.data(format!("  {}", slots::local(*at, zone)))?;
            }
        }
    }
    let usual = usual.map_or_else(|| "no run yet".to_owned(), |usual| format!("{usual} usually"));
    ui.data(format!("cost of a run: {worst} at worst, {usual}; at most {} a day", effective.max_per_day.value))?;
    Ok(Exit::Done)
}

fn limits(effective: &Effective) -> Vec<Row> {
    let row = |name: &str, value: String, origin: &Origin, json: Value| Row::new("limits", name, value, origin, json);
    let Effective { max_turns, max_budget, max_per_day, max_duration, keep_for_report_permille: keep } = effective;
    let mut rows = vec![
        row("max_turns", max_turns.value.to_string(), &max_turns.origin, json!(max_turns.value)),
        row("max_budget_usd", max_budget.value.to_string(), &max_budget.origin, json!(max_budget.value.as_usd())),
        row("max_per_day_usd", max_per_day.value.to_string(), &max_per_day.origin, json!(max_per_day.value.as_usd())),
    ];
    rows.push(match max_duration {
        Some(limit) => {
            let shown =
                format!("{:#}", jiff::SignedDuration::try_from(limit.value).unwrap_or(jiff::SignedDuration::MAX));
            row("max_duration", shown, &limit.origin, json!(limit.value.as_secs()))
        }
        None => row("max_duration", "none".into(), &Origin::default(), Value::Null),
    });
    let share = f64::from(keep.value) / 10.0;
    let held = effective.max_budget.value.permille(keep.value);
    rows.push(row(
        "keep_for_report",
        format!("{share} % ({held})"),
        &keep.origin,
        json!(f64::from(keep.value) / 1000.0),
    ));
    rows
}

/// Roles that the pipeline's steps can call.
fn roles(pipeline: &Pipeline) -> BTreeSet<Role> {
    let mut roles = BTreeSet::new();
    for (_, step) in pipeline.walk() {
        let StepBody::Kind { kind, options, .. } = &step.body else { continue };
        match kind.as_str() {
            "boss" => drop(roles.insert(Role::Boss)),
            "intern" => {
                roles.insert(Role::Intern);
                if options.0.contains_key("escalate_when") || options.0.contains_key("audit") {
                    roles.insert(Role::Boss);
                }
            }
            "fix" => {
                roles.insert(Role::Boss);
                if options.0.contains_key("review") {
                    roles.insert(Role::Reviewer);
                }
            }
            "review" => drop(roles.insert(Role::Reviewer)),
            _ => {}
        }
    }
    roles
}

fn models(pipeline: &Pipeline, settings: &Settings, profile: &Profile) -> Vec<Row> {
    let mut rows = Vec::new();
    for role in roles(pipeline) {
        let name = role.as_str();
        let Some(model) = settings.models.get(&role) else {
            let value = "not configured: its steps end blocked";
            rows.push(Row::new("models", name, value, &Origin::default(), json!({"model": null})));
            continue;
        };
        let price = settings.prices.band(&model.model, 0);
        let mut value = match &profile.tape {
            Some(tape) => format!("tape {} in place of {}", tape.display(), model.model),
            None => format!("{} ({})", model.model, model.provider),
        };
        value += &format!(", at most {} tokens an answer", model.max_output_tokens);
        let mut json = json!({
            "provider": if profile.tape.is_some() { "tape" } else { &model.provider },
            "model": model.model, "max_output_tokens": model.max_output_tokens,
            "fallback": model.fallback,
        });
        if let (Some(tape), Some(json)) = (&profile.tape, json.as_object_mut()) {
            json.insert("tape".into(), json!(tape));
        }
        rows.push(Row::new("models", name, value, &model.origin, json));
        let origin = settings.prices.origins.get(&model.model).cloned().unwrap_or_default();
        let (value, json) = match price {
            Some(p) => (
                format!("{} in, {} out per million tokens, of {}", usd(p.input), usd(p.output), settings.prices.as_of),
                json!({"input": p.input, "output": p.output, "as_of": settings.prices.as_of}),
            ),
            None => ("no price: refused before any call".to_owned(), Value::Null),
        };
        rows.push(Row::new("models", &format!("{name} price"), value, &origin, json));
    }
    rows
}

/// A folder that is named relative to a pipeline's file, without its `..` where it exists.
fn folder(pipeline: &str, path: &str) -> String {
    let folder = Path::new(pipeline).with_file_name(path);
    folder.canonicalize().unwrap_or(folder).display().to_string()
}

/// The repository, where its commands run, and what will run there.
fn code(pipeline: &Pipeline, settings: &Settings, profile: &Profile) -> Vec<Row> {
    let mut rows = Vec::new();
    let file = pipeline.steps.first().map(|step| step.origin.file.clone()).unwrap_or_default();
    let own = Origin { file, line: 0 };
    if let Some(named) = &pipeline.repository {
        let at = named.r#ref.as_deref().unwrap_or("HEAD");
        let (place, origin) = match (profile.repository.as_deref(), profile.repository_of(&pipeline.name)) {
            (Some("clone"), _) => (named.github.clone(), &own),
            (_, Some(folder)) => (Some(folder.display().to_string()), &profile.origin),
            (_, None) => (named.path.as_ref().map(|path| folder(&own.file, path)), &own),
        };
        let value = place.as_ref().map_or_else(
            || "missing for this profile: its steps end blocked".to_owned(),
            |place| format!("{place} at {at}"),
        );
        rows.push(Row::new("code", "repository", value, origin, json!({"place": place, "ref": at})));
    }
    let Some(environment) = &pipeline.environment else { return rows };
    let chosen = e2b::chosen(&profile.sandbox, &places(settings));
    let price = settings.prices.sandboxes.get(chosen.provider).filter(|_| chosen.provider == e2b::E2B);
    let mut value = profile.sandbox.clone();
    match (&chosen.url, chosen.instead) {
        (Some(url), None) => value.push_str(&format!(" at {url}")),
        (Some(url), Some(why)) => value.push_str(&format!(": {why}, so our own server at {url} stands in")),
        (None, Some(why)) => value.push_str(&format!(": {why}, so our own server on this machine stands in")),
        (None, None) => {}
    }
    if chosen.provider == e2b::E2B {
        match price {
            Some(price) => {
                let hour = price.cost(e2b::CPUS, e2b::MEMORY_MB, std::time::Duration::from_secs(3600));
                value.push_str(&format!(", {hour} an hour, by the second"));
            }
            None => value.push_str(", without a price in prices.yaml: refused"),
        }
    }
    let ready = chosen.provider != e2b::E2B || price.is_some();
    let told = json!({"sandbox": profile.sandbox, "provider": chosen.provider, "url": chosen.url, "ready": ready});
    rows.push(Row::new("code", "sandbox", value, &profile.origin, told));
    if let Some(other) = profile.environments.get(&environment.file) {
        let value = format!("{} in place of {}", other.display(), environment.file);
        rows.push(Row::new("code", "environment", value, &profile.origin, json!({"environment": other})));
        return rows;
    }
    let file = Path::new(&own.file).with_file_name(&environment.file).display().to_string();
    let commands = [
        ("setup", environment.setup.iter().map(|setup| setup.run.clone()).collect()),
        ("hosts of setup", environment.network_setup.clone()),
        ("hosts later", environment.network_run.clone()),
        ("checks", environment.checks.clone()),
        ("test", environment.test.iter().cloned().collect()),
        ("scanners", environment.scanners.iter().map(|(_, scanner)| scanner.run.clone()).collect::<Vec<_>>()),
    ];
    for (name, commands) in commands.into_iter().filter(|(_, commands)| !commands.is_empty()) {
        let shown: Vec<String> = commands.iter().map(|command| clip(command, COMMAND)).collect();
        let origin = Origin { file: file.clone(), line: 0 };
        rows.push(Row::new("code", name, shown.join(" · "), &origin, json!(commands)));
    }
    rows
}

fn usd(dollars: f64) -> UsdMicros {
    UsdMicros::from_usd(dollars)
}

fn bindings(pipeline: &Pipeline, settings: &Settings, profile: &Profile) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut names = BTreeSet::new();
    let (mut sinks, mut published) = (BTreeSet::new(), BTreeSet::new());
    let (mut tools, mut unready) = (BTreeSet::new(), BTreeSet::new());
    for (_, step) in pipeline.walk() {
        let StepBody::Kind { kind, options, .. } = &step.body else { continue };
        if kind == "fetch" {
            let named = options.texts("from").into_iter().filter(|name| pipeline.tool(name).is_none());
            names.extend(named.map(|name| (name, (step.origin.file.as_str(), step.origin.line))));
        }
        match kind.as_str() {
            "report" => {
                let to = options.texts("to");
                sinks.extend(if to.is_empty() { vec!["files"] } else { to });
            }
            // Its own tools, beside those that are listed.
            "fix" => tools.extend(BINDINGS.iter().map(|row| row.capability)),
            "ticket" => drop(published.insert("tickets")),
            "pull_request" => drop(published.insert("pull_requests")),
            _ => {}
        }
        tools.extend(options.texts("tools").into_iter().filter(|name| pipeline.tool(name).is_none()));
        if REGISTRY.step(kind).is_none_or(|kind| kind.run.is_none()) {
            unready.insert((step.id.as_str(), kind.as_str(), step.origin.file.as_str(), step.origin.line));
        }
    }
    for tool in &pipeline.tools {
        let (value, origin, json) = source(&tool.source, pipeline, settings, profile, &tool.origin);
        rows.push(Row::new("bindings", &format!("{} ({})", tool.name, tool.source), value, &origin, json));
    }
    for (name, (file, line)) in names {
        let (value, origin, json) = source(name, pipeline, settings, profile, &Origin { file: file.to_owned(), line });
        rows.push(Row::new("bindings", name, value, &origin, json));
    }
    for name in tools {
        let ready = REGISTRY.tool(name).is_some_and(|tool| tool.ready);
        let bound = bound_to(name, &profile.tools);
        let value = match (ready, bound) {
            (false, _) => "cannot run in this version yet".to_owned(),
            (true, Some(bound)) => format!("{bound} ({})", profile.tools),
            (true, None) => profile.tools.clone(),
        };
        let json = json!({"tool": name, "binding": bound, "ready": ready});
        rows.push(Row::new("bindings", name, value, &profile.origin, json));
    }
    let sinks = sinks.into_iter().map(|name| (name, false)).chain(published.into_iter().map(|name| (name, true)));
    for (name, published) in sinks {
        let bound = profile.sinks.get(name).map_or(name, String::as_str);
        let own = settings.sinks.get(bound).filter(|_| !published);
        let ready = match published {
            true => REGISTRY.publisher(bound).is_some_and(|publisher| publisher.make.is_some()),
            false => REGISTRY.sink(own.map_or(bound, |own| &own.kind)).is_some_and(|sink| sink.make.is_some()),
        };
        let (shown, origin) = match own {
            Some(own) => (format!("{} {}", own.kind, own.target), &own.origin),
            None => (bound.to_owned(), &profile.origin),
        };
        let value = if ready { shown } else { format!("{shown}: cannot run in this version yet") };
        let json = json!({"sink": bound, "ready": ready});
        rows.push(Row::new("bindings", &format!("→ {name}"), value, origin, json));
    }
    for (id, kind, file, line) in unready {
        let origin = Origin { file: file.to_owned(), line };
        let value = format!("`{kind}` cannot run in this version yet: it ends blocked");
        rows.push(Row::new("bindings", &format!("step {id}"), value, &origin, json!({"step": kind, "ready": false})));
    }
    rows
}

/// What a source's name is bound to; `asked` is where a missing one is asked for.
fn source(
    name: &str,
    pipeline: &Pipeline,
    settings: &Settings,
    profile: &Profile,
    asked: &Origin,
) -> (String, Origin, Value) {
    let found: Option<&SourceSettings> = profile.sources.get(name).or_else(|| settings.sources.get(name));
    let Some(found) = found else {
        if let Some((_, kind)) = implied(pipeline, settings).into_iter().find(|(own, _)| *own == name) {
            let ready = REGISTRY.source(kind).is_some_and(|kind| kind.make.is_some());
            let value = match kind {
                "intake" => "our own intake".to_owned(),
                "sentry" => "Sentry's API (services.sentry)".to_owned(),
                other => format!("services.{other}"),
            };
            let later = if ready { "" } else { ": cannot run in this version yet" };
            let json = json!({"source": name, "kind": kind, "ready": ready});
            return (format!("{value}{later}"), asked.clone(), json);
        }
        let value = "missing: its steps end blocked".to_owned();
        return (value, asked.clone(), json!({"source": name, "ready": false}));
    };
    let ready = REGISTRY.source(&found.kind).is_some_and(|kind| kind.make.is_some());
    let target = match (&found.target, &found.secret) {
        (Some(target), _) => target.clone(),
        (None, Some(secret)) => format!("secret {}", secret.name),
        (None, None) => String::new(),
    };
    let later = if ready { "" } else { ": cannot run in this version yet" };
    let value = format!("{} {target}{later}", found.kind);
    (value, found.origin.clone(), json!({"source": name, "kind": found.kind, "target": target, "ready": ready}))
}

fn next_slots(pipeline: &Pipeline, now: Timestamp) -> Vec<Timestamp> {
    let Some(schedule) = &pipeline.on.schedule else { return Vec::new() };
    match CronSchedule::parse(&schedule.cron, &schedule.timezone) {
        Ok(cron) => cron.slots_after(now).take(5).map(|slot| slot.nominal_at).collect(),
        // The check at load has refused it before.
        Err(_) => Vec::new(),
    }
}

/// The median of the last finished runs.
fn usual(reader: &Reader, pipeline: &str) -> anyhow::Result<Option<UsdMicros>> {
    let filter = RunFilter { pipeline: Some(pipeline.to_owned()), open_only: false, limit: 20 };
    let mut costs: Vec<_> =
        reader.runs(filter)?.into_iter().filter(|run| run.outcome.is_some()).map(|run| run.cost).collect();
    costs.sort();
    Ok(costs.get(costs.len() / 2).copied())
}
