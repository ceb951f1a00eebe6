//! A run as scripts read it, and the last block that people read.

use std::path::Path;

use serde_json::{Value, json};

use super::session::Session;
use super::{Exit, paper};
use crate::base::ids::RunId;
use crate::base::scope::Scope;
use crate::builtin::REGISTRY;
use crate::daemon::load;
use crate::domain::money::RoleSpend;
use crate::domain::view::RunView;
use crate::engine::workshop;
use crate::isolation::{self, Helper, Isolation, Reach, Search};
use crate::journal::Reader;
use crate::sandboxes::e2b;
use crate::sinks::terminal::{self, Style};

/// One run in the form that scripts may rely on. It only grows.
pub fn run_json(view: &RunView) -> Value {
    let role = |spend: &RoleSpend| json!({"calls": spend.calls, "usd": spend.usd.as_usd()});
    let start = &view.start;
    let receipts: Vec<Value> = view
        .receipts
        .iter()
        .map(|r| json!({"kind": r.kind, "destination": r.destination, "url_or_path": r.url_or_path, "key": r.key}))
        .collect();
    json!({
        "id": start.id,
        "pipeline": start.pipeline,
        "profile": start.profile,
        "effects": start.effects,
        "outcome": view.outcome,
        "cost_usd": view.spend.total().as_usd(),
        "turns": view.spend.turns,
        "boss": role(&view.spend.boss),
        "intern": role(&view.spend.intern),
        "reviewer": role(&view.spend.reviewer),
        "sandbox": {"uses": view.spend.sandbox.uses, "usd": view.spend.sandbox.usd.as_usd(), "seconds": view.spend.sandbox.millis as f64 / 1e3},
        "activities": view.activities,
        "counts": view.counts,
        "complaints": view.complaints,
        "refused": view.refused,
        "receipts": receipts,
        "trigger": {"kind": start.trigger.kind, "key": start.trigger.key},
        "params": start.params,
        "definition": start.definition,
        "nominal_at": start.nominal_at,
        "started_at": start.started_at,
        "finished_at": view.finished_at,
        "failure": view.failure,
        "questions": view.questions.iter().map(|(path, ask)| json!({"path": path, "ask": ask})).collect::<Vec<_>>(),
    })
}

/// What answers for the roles of a run: its tape, or the models that have answered, else those that are configured.
pub fn models(reader: &Reader, view: &RunView) -> Vec<String> {
    let stored = reader.definition(&view.start.definition).ok().flatten();
    let Some((_, settings)) = stored.and_then(|stored| load::stored(&stored, &REGISTRY).ok()) else {
        return view.models.clone();
    };
    if let Some(tape) = settings.profiles.get(&view.start.profile).and_then(|profile| profile.tape.as_ref()) {
        let name = tape.file_stem().map(|name| name.to_string_lossy()).unwrap_or_default();
        return vec![format!("tape {name} (reads no key)")];
    }
    if !view.models.is_empty() {
        return view.models.clone();
    }
    let mut names: Vec<_> = settings.models.values().map(|model| model.model.clone()).collect();
    names.dedup();
    names
}

/// How the commands of a run are confined, if it may run any: `bubblewrap`, or the name of another sandbox than this machine's own.
/// Tries it, which takes some tens of milliseconds.
pub async fn sandbox(session: &Session, reader: &Reader, run: &RunId) -> Option<String> {
    if session.ui.quiet || session.ui.json {
        return None;
    }
    let view = reader.run(run.as_str()).ok().flatten()?;
    let stored = reader.definition(&view.start.definition).ok().flatten()?;
    let (pipeline, settings) = load::stored(&stored, &REGISTRY).ok()?;
    let profile = settings.profiles.get(&view.start.profile)?;
    pipeline.environment.as_ref()?;
    let chosen = e2b::chosen(&profile.sandbox, &workshop::places(&settings));
    if chosen.url.is_some() {
        return Some(chosen.provider.to_owned());
    }
    // Only the tier is asked for: no toolchain is looked for, and the folder is this command's alone.
    let search = Search {
        path: String::new(),
        home: None,
        cargo_home: None,
        rustup_home: None,
        forbidden: Vec::new(),
        reach: Reach::default(),
    };
    let folder = std::path::absolute(&session.state).ok()?.join(format!("tier-{}", std::process::id()));
    let scope = Scope::new(tokio::runtime::Handle::current());
    let setup = isolation::Setup { helper: Helper::Own, state: folder.clone(), search };
    let tier = Isolation::begin(setup, scope.clone()).await.ok().and_then(|isolation| isolation.tier());
    drop(scope.close(std::time::Duration::from_secs(1)).await);
    if let Err(error) = std::fs::remove_dir_all(&folder) {
        tracing::debug!(%error, "removing what the look at the sandbox left");
    }
    let tier = tier.map_or("none works here", |tier| tier.name());
    Some(match chosen.instead {
        Some(why) => format!("{tier} ({why})"),
        None => tier.to_owned(),
    })
}

/// `{"runs": […]}`.
pub fn runs_json(views: &[RunView]) -> Value {
    json!({"runs": views.iter().map(run_json).collect::<Vec<_>>()})
}

/// Prints how a run ended, as JSON or as the last block, and answers with its exit code.
pub fn ended(session: &Session, view: &RunView) -> anyhow::Result<Exit> {
    if session.ui.json {
        session.ui.data_json(&runs_json(std::slice::from_ref(view)))?;
        return Ok(exit(view));
    }
    if !session.ui.quiet {
        paper::print(session, view)?;
        session.ui.say("");
    }
    let style = Style { color: session.ui.color_out(), width: session.ui.width() };
    session.ui.data(terminal::closing(view, &next(session, view), style).trim_end())?;
    Ok(exit(view))
}

/// 0 for the healthy outcomes; an open run has no answer yet.
pub fn exit(view: &RunView) -> Exit {
    if view.outcome.is_some_and(|outcome| outcome.is_healthy()) { Exit::Done } else { Exit::No }
}

/// What a person might type or open now.
pub fn next(session: &Session, view: &RunView) -> Vec<String> {
    let id = view.start.id.short();
    let mut next = Vec::new();
    // The page stands beside the report.
    let pages = view
        .receipts
        .iter()
        .rev()
        .filter_map(|receipt| Some(Path::new(&receipt.url_or_path).parent()?.join("index.html")));
    if let Some(page) = pages.into_iter().find(|page| page.is_file()) {
        next.push(format!("open {}", page.display()));
    }
    match view.outcome {
        None => next.push(format!("`{}`", session.again(&format!("resume {id}")))),
        Some(crate::domain::run::Outcome::Capped) => {
            // Where the way out is another one, its help says so.
            let help = view.failure.as_ref().and_then(|failure| failure.help.as_deref()).unwrap_or_default();
            if help.contains("--add-usd") {
                next.push(format!("`{}`", session.again(&format!("resume {id} --add-usd 1"))));
            } else if help.contains("nightcrew resume") {
                next.push(format!("`{}`", session.again(&format!("resume {id}"))));
            }
        }
        Some(outcome) if outcome.is_resumable() => next.push(format!("`{}`", session.again(&format!("resume {id}")))),
        Some(_) => {}
    }
    next.push(format!("`{}`", session.again(&format!("logs {id}"))));
    next
}
