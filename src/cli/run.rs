//! `nightcrew run PIPELINE`: one run, by the holder if there is one, else by this process.

use anyhow::Context as _;
use serde_json::{Map, Value};

use super::args::RunArgs;
use super::progress::{News, Progress, Talk, lowered};
use super::session::{Session, asked, unexpected};
use super::{Exit, Trouble, paper, show};
use crate::base::ids::RunId;
use crate::base::scope::Scope;
use crate::builtin::REGISTRY;
use crate::control::{self, Client, Reply, Request, RunRequest};
use crate::daemon::signals::Signals;
use crate::daemon::{GRACE, Holder, HolderSetup, find};
use crate::domain::run::Effects;
use crate::journal::Reader;

/// The profile of runs that this process holds.
const PROFILE: &str = "local";

pub async fn run(session: &Session, args: RunArgs) -> anyhow::Result<Exit> {
    let effects = args.effects;
    let record = args.record.clone();
    let request = request(session, args)?;
    if let Some(client) = session.holder().await? {
        if let Some(tape) = record {
            let message =
                format!("the daemon that holds `{}` does not record to {}", session.state.display(), tape.display());
            return Err(Trouble::new(Exit::No, message)
                .help("record with a state directory of its own: --state DIR")
                .into());
        }
        return beside(session, client, request, effects).await;
    }
    let library = session.library()?;
    // Before anything is held or made.
    if let Err(refusal) = find(&library, &session.places, &REGISTRY, &request.pipeline) {
        // The carets say more than the refusal.
        if refusal.code == "E-CONFIG" {
            session.show_mistakes_of(&library, &request.pipeline);
        }
        return Err(Trouble::from(refusal).into());
    }
    let setup = HolderSetup {
        env: session.env.clone(),
        registry: paper::registry(),
        state: session.state.clone(),
        places: session.places.clone(),
        library,
        profile: PROFILE.to_owned(),
        command: "run",
        take_over: false,
        record,
    };
    let holder = session.open(setup)?;
    match holder.submit(request).await {
        Ok(submitted) => hold(session, holder, submitted.run(), effects).await,
        Err(refusal) => {
            holder.stop(GRACE).await?;
            Err(Trouble::from(refusal).into())
        }
    }
}

/// Shows a run of this process to its end; stays until what others asked for meanwhile has ended, too.
pub async fn hold(session: &Session, holder: Holder, run: RunId, effects: Option<Effects>) -> anyhow::Result<Exit> {
    let scope = Scope::new(tokio::runtime::Handle::current());
    let signals = Signals::listen(&scope)?;
    let reader = holder.journal().reader().clone();
    follow(session, &holder, &run, &signals).await?;
    if !signals.stop.is_cancelled() && !holder.status().active.is_empty() {
        session.ui.say("waiting for runs that others asked for");
        tokio::select! {
            () = holder.wait_idle() => {}
            () = signals.stop.cancelled() => {}
        }
    }
    if let Some(why) = holder.tape_failure() {
        session.ui.must_say(format!("the tape is not complete: {why}"));
    }
    let stopped = stop(session, holder).await;
    let view = reader.run(run.as_str())?.context("the run is not in the journal")?;
    stopped?;
    drop(scope.close(std::time::Duration::ZERO).await);
    if let Some(note) = lowered(effects, &view) {
        session.ui.say(note);
    }
    if view.outcome.is_none() {
        session.ui.must_say(format!("suspended; go on with: {}", session.again(&format!("resume {}", run.short()))));
    }
    show::ended(session, &view)
}

/// Shows a run of this process until it has ended or a signal asks to stop.
pub async fn follow(session: &Session, holder: &Holder, run: &RunId, signals: &Signals) -> anyhow::Result<()> {
    let news = News::Watch(holder.journal().entries());
    let talk = Talk::Engine(holder.engine().live());
    let reader = holder.journal().reader().clone();
    let sandbox = show::sandbox(session, &reader, run).await;
    let mut progress = Progress::new(session, reader, run.clone(), news, talk).in_sandbox(sandbox);
    let ended = async {
        tokio::select! {
            ended = holder.wait(run) => ended.map(drop),
            () = signals.stop.cancelled() => Ok(()),
        }
    };
    progress.until(ended).await??;
    if signals.stop.is_cancelled() {
        session.ui.must_say("stopping at the next recorded point; once more stops at once");
    }
    Ok(())
}

/// Stops a holder in order and names what had to be cut off.
pub async fn stop(session: &Session, holder: Holder) -> anyhow::Result<()> {
    let late = holder.stop(GRACE).await.context("closing the journal")?;
    if !late.is_empty() {
        session.ui.must_say(format!("cut off after {} s: {}", GRACE.as_secs(), late.join(", ")));
    }
    Ok(())
}

/// Has the holder do it, and shows it.
async fn beside(
    session: &Session,
    mut client: Client,
    request: RunRequest,
    effects: Option<Effects>,
) -> anyhow::Result<Exit> {
    let run = match client.ask(&Request::Run(Box::new(request))).await.map_err(asked)? {
        Reply::Started { run } => run,
        other => return Err(unexpected(&other)),
    };
    let reader = Reader::open(&session.state)?;
    watch(session, client, reader, run, effects).await
}

/// Shows a run of the holder until it has ended. Ctrl-C leaves it running.
pub async fn watch(
    session: &Session,
    mut client: Client,
    reader: Reader,
    run: RunId,
    effects: Option<Effects>,
) -> anyhow::Result<Exit> {
    let talk = Talk::of_holder(session, &run).await;
    let sandbox = show::sandbox(session, &reader, &run).await;
    let mut progress = Progress::new(session, reader.clone(), run.clone(), News::Poll, talk).in_sandbox(sandbox);
    let wait = Request::Wait { run: run.clone() };
    let ended = async {
        tokio::select! {
            ended = client.ask(&wait) => Some(ended),
            _ = tokio::signal::ctrl_c() => None,
        }
    };
    match progress.until(ended).await? {
        None => session.ui.must_say(format!(
            "the daemon goes on with it; stop it with: {}",
            session.again(&format!("cancel {}", run.short()))
        )),
        Some(Ok(_) | Err(control::Error::Closed)) => {}
        Some(Err(error)) => return Err(asked(error)),
    }
    let view = reader.run(run.as_str())?.context("the run is not in the journal")?;
    if let Some(note) = lowered(effects, &view) {
        session.ui.say(note);
    }
    show::ended(session, &view)
}

fn request(session: &Session, args: RunArgs) -> anyhow::Result<RunRequest> {
    let mut params = Map::new();
    for (name, value) in args.set {
        params.insert(name, Value::from(value));
    }
    let item = match &args.event {
        Some(file) => {
            let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
            Some(serde_json::from_str(&text).with_context(|| format!("{} is no JSON", file.display()))?)
        }
        None => None,
    };
    let from = match (&args.from, args.step) {
        (Some(run), Some(step)) => Some((session.find_run(&session.must_reader()?, run)?.start.id, step)),
        _ => None,
    };
    // The holder stands in another folder.
    let is_path = args.pipeline.contains('/') || args.pipeline.ends_with(".yaml") || args.pipeline.ends_with(".yml");
    let pipeline = match is_path {
        true => std::path::absolute(&args.pipeline)?.display().to_string(),
        false => args.pipeline,
    };
    Ok(RunRequest {
        pipeline,
        profile: args.profile,
        effects: args.effects,
        params,
        item,
        until: args.until,
        from,
        ..RunRequest::default()
    })
}
