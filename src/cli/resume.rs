//! `nightcrew resume [ID]`: takes up what was interrupted, or takes one ended run further.

use std::time::Duration;

use super::args::ResumeArgs;
use super::session::{Session, asked, by, unexpected};
use super::{Exit, Trouble, run, show};
use crate::base::ids::RunId;
use crate::base::money::UsdMicros;
use crate::base::scope::Scope;
use crate::control::{Reply, Request};
use crate::daemon::has_changed_since;
use crate::daemon::signals::Signals;
use crate::domain::view::RunView;
use crate::journal::Reader;

pub async fn run(session: &Session, args: ResumeArgs) -> anyhow::Result<Exit> {
    let Some(reader) = session.reader()? else { return nothing(session) };
    let add = args.add_usd.map_or(UsdMicros::ZERO, UsdMicros::from_usd);
    match args.id {
        Some(id) => {
            let view = session.find_run(&reader, &id)?;
            one(session, reader, view, add).await
        }
        None => all(session, reader).await,
    }
}

async fn one(session: &Session, reader: Reader, view: RunView, add: UsdMicros) -> anyhow::Result<Exit> {
    let id = view.start.id.clone();
    if session.library_if_whole().is_some_and(|library| has_changed_since(&library, &view.start)) {
        session.ui.must_say(format!(
            "note: the run keeps the pipeline and the configuration that it began with; for what has changed since: {}",
            session.again(&format!("run {}", view.start.pipeline))
        ));
    }
    if let Some(mut holder) = session.holder().await? {
        holder.ask(&Request::Resume { run: Some(id.clone()), add, by: by() }).await.map_err(asked)?;
        return run::watch(session, holder, reader, id, None).await;
    }
    let holder = session.hold("resume", &view.start.profile, session.library()?)?;
    if let Err(refusal) = holder.resume(&id, add, &by()).await {
        run::stop(session, holder).await?;
        return Err(Trouble::from(refusal).into());
    }
    run::hold(session, holder, id, None).await
}

async fn all(session: &Session, reader: Reader) -> anyhow::Result<Exit> {
    if let Some(mut holder) = session.holder().await? {
        let request = Request::Resume { run: None, add: UsdMicros::ZERO, by: by() };
        let runs = match holder.ask(&request).await.map_err(asked)? {
            Reply::Resumed { runs } => runs,
            other => return Err(unexpected(&other)),
        };
        if runs.is_empty() {
            return nothing(session);
        }
        for run in &runs {
            holder.ask(&Request::Wait { run: run.clone() }).await.map_err(asked)?;
        }
        return summary(session, &reader, &runs);
    }
    if reader.open_runs()?.is_empty() {
        return nothing(session);
    }
    let holder = session.hold("resume", "local", session.library()?)?;
    let runs = holder.resume_open().await?;
    if let [only] = &runs[..] {
        return run::hold(session, holder, only.clone(), None).await;
    }
    session.ui.say(format!("{} runs go on", runs.len()));
    let scope = Scope::new(tokio::runtime::Handle::current());
    let signals = Signals::listen(&scope)?;
    tokio::select! {
        () = holder.wait_idle() => {}
        () = signals.stop.cancelled() => {}
    }
    run::stop(session, holder).await?;
    drop(scope.close(Duration::ZERO).await);
    summary(session, &reader, &runs)
}

fn nothing(session: &Session) -> anyhow::Result<Exit> {
    match session.ui.json {
        true => session.ui.data_json(&show::runs_json(&[]))?,
        false => session.ui.data("no run was interrupted")?,
    }
    Ok(Exit::Done)
}

/// One line per run, or all as JSON; 0 when all ended well.
fn summary(session: &Session, reader: &Reader, runs: &[RunId]) -> anyhow::Result<Exit> {
    let mut views = Vec::new();
    for run in runs {
        views.extend(reader.run(run.as_str())?);
    }
    if session.ui.json {
        session.ui.data_json(&show::runs_json(&views))?;
    } else {
        for view in &views {
            let outcome = view.outcome.map_or_else(|| "suspended".to_owned(), |outcome| outcome.to_string());
            session.ui.data(format!(
                "{}  {}  {outcome}  {}",
                view.start.id.short(),
                view.start.pipeline,
                view.spend.total()
            ))?;
        }
    }
    Ok(if views.iter().all(|view| show::exit(view) == Exit::Done) { Exit::Done } else { Exit::No })
}
