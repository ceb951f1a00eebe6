//! The engine: takes claimed runs, keeps them going, ends them in a typed outcome.
//!
//! Runs live on a few current-thread executors, because durable logic need not be `Send`; activities run on the multi-thread
//! runtime in one scope. The engine holds no truth: what it knows of a run is in the journal, and a run that it loses in a
//! crash is taken up again by [`Engine::resume_open`].

pub mod bind;
mod calls;
mod code;
mod code_tools;
mod embedded;
mod executor;
mod findings;
mod inspect;
mod lines;
mod paid;
mod publish;
#[cfg(test)]
mod publish_tests;
mod shelf;
#[cfg(test)]
mod testing;
mod ties;
mod transcript;
pub mod workshop;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::json;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::base::env::Env;
use crate::base::ids::RunId;
use crate::base::scope::Scope;
use crate::domain::entry::{EntryKind, Family, NewEntry};
use crate::domain::run::{Failure, Outcome, RunStart};
use crate::journal::{self, Journal, ReplayRecords, RunFinish};
use crate::ports::durable::Stop;
use crate::sinks::files;
use crate::steps::run_pipeline;

use bind::{Bind, Bound};
use embedded::{Context, RunState, raw};
use executor::Executor;

/// Removing what a run left in its sandboxes may hold up its end for this long.
const RELEASE: Duration = Duration::from_secs(30);

/// Text that streams from a model, for whoever watches. Lost without harm.
#[derive(Clone, Debug)]
pub struct Live {
    pub run: RunId,
    pub path: String,
    pub text: String,
}

/// What an engine is made of.
pub struct EngineSetup {
    pub env: Env,
    pub journal: Journal,
    /// Where activities run.
    pub runtime: tokio::runtime::Handle,
    /// How many executors runs are spread over.
    pub threads: usize,
    pub bind: Arc<dyn Bind>,
    /// Of this binary: the same one must replay exactly.
    pub build_id: String,
}

/// A handle; clones share the engine.
#[derive(Clone)]
pub struct Engine(Arc<Shared>);

struct Shared {
    setup: EngineSetup,
    scope: Scope,
    suspend: CancellationToken,
    live: broadcast::Sender<Live>,
    active: Mutex<HashMap<RunId, Active>>,
    /// Grows whenever a run ends.
    ended: watch::Sender<u64>,
    executors: Vec<mpsc::UnboundedSender<Job>>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

struct Active {
    executor: usize,
    cancel: CancellationToken,
    reason: Arc<OnceLock<String>>,
}

struct Job {
    start: RunStart,
    replay: Option<ReplayRecords>,
    cancel: (CancellationToken, Arc<OnceLock<String>>),
}

impl Engine {
    /// Starts the executors. Nothing runs before [`Engine::launch`].
    pub fn start(setup: EngineSetup) -> std::io::Result<Self> {
        let count = setup.threads.max(1);
        let mut executors = Vec::new();
        let mut receivers = Vec::new();
        for _ in 0..count {
            // Unbounded on purpose: every job is a claimed run, and claims are bounded by the queue in the journal.
            let (sender, receiver) = mpsc::unbounded_channel();
            executors.push(sender);
            receivers.push(receiver);
        }
        let shared = Arc::new(Shared {
            scope: Scope::new(setup.runtime.clone()),
            setup,
            suspend: CancellationToken::new(),
            live: broadcast::Sender::new(256),
            active: Mutex::default(),
            ended: watch::Sender::new(0),
            executors,
            threads: Mutex::default(),
        });
        for (i, receiver) in receivers.into_iter().enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let weak = Arc::downgrade(&shared);
            let thread = std::thread::Builder::new().name(format!("runs-{i}")).spawn(move || {
                let local = tokio::task::LocalSet::new();
                local.block_on(&runtime, serve(receiver, weak));
                // Runs that are still there were suspended and end at their next ask.
                runtime.block_on(local);
            })?;
            shared.threads().push(thread);
        }
        Ok(Self(shared))
    }

    /// Begins or takes up a claimed, open run; returns at once. A run that is already active is left alone.
    pub fn launch(&self, start: RunStart) {
        self.launch_with(start, None);
    }

    fn launch_with(&self, start: RunStart, replay: Option<ReplayRecords>) {
        let shared = &self.0;
        let (cancel, reason) = (CancellationToken::new(), Arc::new(OnceLock::new()));
        let executor = {
            let mut active = shared.active();
            if active.contains_key(&start.id) {
                return;
            }
            let mut load = vec![0usize; shared.executors.len()];
            active.values().for_each(|run| load[run.executor] += 1);
            let executor = load.iter().enumerate().min_by_key(|(_, n)| **n).map_or(0, |(i, _)| i);
            active.insert(start.id.clone(), Active { executor, cancel: cancel.clone(), reason: reason.clone() });
            executor
        };
        let id = start.id.clone();
        if shared.executors[executor].send(Job { start, replay, cancel: (cancel, reason) }).is_err() {
            // The engine is stopping: the run stays open and is taken up at the next start.
            shared.active().remove(&id);
        }
    }

    /// Takes up every open run that is not active. Returns how many.
    pub async fn resume_open(&self) -> Result<usize, journal::Error> {
        let reader = self.0.setup.journal.reader().clone();
        let open = self.0.scope.spawn("resume", async move { reader.replay_all_open() }).await;
        let open = open.map_err(|_| journal::Error::Closed)??;
        let count = open.len();
        for (start, replay) in open {
            self.launch_with(start, Some(replay));
        }
        Ok(count)
    }

    /// Stops a run for good. `false`: it is not active here.
    pub fn cancel(&self, run: &RunId, reason: &str) -> bool {
        let active = self.0.active();
        let Some(found) = active.get(run) else { return false };
        // The first reason counts.
        let _already_cancelled = found.reason.set(reason.to_owned());
        found.cancel.cancel();
        true
    }

    pub fn active(&self) -> Vec<RunId> {
        self.0.active().keys().cloned().collect()
    }

    /// Waits until the run is no longer active. `None`: it was suspended and stays open, or is unknown. Cancel safe.
    pub async fn wait(&self, run: &RunId) -> Result<Option<Outcome>, journal::Error> {
        let mut ended = self.0.ended.subscribe();
        loop {
            ended.mark_unchanged();
            if !self.0.active().contains_key(run) {
                let view = self.0.setup.journal.reader().run(run.as_str())?;
                return Ok(view.and_then(|view| view.outcome));
            }
            if ended.changed().await.is_err() {
                return Ok(None);
            }
        }
    }

    /// Changes whenever a run ends, for an overlap queue.
    pub fn ended(&self) -> watch::Receiver<u64> {
        self.0.ended.subscribe()
    }

    /// Waits until no run is active. Cancel safe.
    pub async fn wait_idle(&self) {
        let mut ended = self.0.ended.subscribe();
        loop {
            ended.mark_unchanged();
            if self.0.active().is_empty() || ended.changed().await.is_err() {
                return;
            }
        }
    }

    /// Streaming text of all runs. Slow readers miss some.
    pub fn live(&self) -> broadcast::Receiver<Live> {
        self.0.live.subscribe()
    }

    /// Suspends every run at its next journalled point, waits up to `grace` for acts under way, then cuts them off. Returns the
    /// names of those. Runs stay open.
    pub async fn stop(&self, grace: Duration) -> Vec<String> {
        self.0.suspend.cancel();
        let all = async {
            self.wait_idle().await;
        };
        let mut late = Vec::new();
        if tokio::time::timeout(grace, all).await.is_err() {
            late = self.0.scope.close(Duration::ZERO).await;
            self.wait_idle().await;
        }
        late.extend(self.0.scope.close(Duration::from_secs(1)).await);
        let threads = std::mem::take(&mut *self.0.threads());
        let joined =
            tokio::task::spawn_blocking(move || threads.into_iter().filter_map(|thread| thread.join().err()).count());
        match joined.await {
            Ok(0) => {}
            Ok(broken) => tracing::error!(broken, "executors ended with a panic"),
            Err(error) => tracing::error!(%error, "executors could not be joined"),
        }
        late
    }
}

impl Shared {
    fn active(&self) -> std::sync::MutexGuard<'_, HashMap<RunId, Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn threads(&self) -> std::sync::MutexGuard<'_, Vec<std::thread::JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One executor: begins runs until the engine stops or is dropped.
async fn serve(mut jobs: mpsc::UnboundedReceiver<Job>, shared: std::sync::Weak<Shared>) {
    let Some(suspend) = shared.upgrade().map(|s| s.suspend.clone()) else { return };
    loop {
        let job = tokio::select! {
            job = jobs.recv() => job,
            () = suspend.cancelled() => None,
        };
        let (Some(job), Some(shared)) = (job, shared.upgrade()) else { break };
        tokio::task::spawn_local(run(job, shared));
    }
    // Claimed runs that never began stay open in the journal.
    jobs.close();
    while let Ok(job) = jobs.try_recv() {
        if let Some(shared) = shared.upgrade() {
            shared.active().remove(&job.start.id);
            shared.ended.send_modify(|n| *n += 1);
        }
    }
}

/// Runs one run to its end or its suspension.
async fn run(job: Job, shared: Arc<Shared>) {
    let id = job.start.id.clone();
    let pipeline = job.start.pipeline.clone();
    // A panic in logic ends this run as failed and nothing else.
    let ended = AssertUnwindSafe(drive(job, &shared)).catch_unwind().await;
    let ended = ended.unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().cloned();
        let message = message.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default();
        Ended::Finished {
            outcome: Outcome::Failed,
            failure: Some(
                Failure::new("E-PANIC", format!("nightcrew itself broke: {message}"))
                    .help("this is a bug; please report it"),
            ),
            headline: String::new(),
            bound: None,
        }
    });
    match ended {
        Ended::Suspended => tracing::info!(run = %id, pipeline, "suspended"),
        Ended::Finished { outcome, failure, headline, bound } => {
            if let Some(bound) = &bound {
                note_savings(&shared, &id, bound).await;
            }
            let finish = RunFinish { outcome, failure: failure.clone(), headline, at: shared.setup.env.now() };
            match shared.setup.journal.finish_run(&id, finish).await {
                Ok(()) => {
                    tracing::info!(run = %id, pipeline, %outcome, error = failure.map(|f| f.to_string()), "finished");
                    if let Some(bound) = &bound {
                        write_page(&shared, &id, bound);
                    }
                }
                Err(error) => {
                    tracing::error!(run = %id, pipeline, %error, "the end of the run could not be recorded; it stays open")
                }
            }
            release(&shared, &id).await;
        }
    }
    shared.active().remove(&id);
    shared.ended.send_modify(|n| *n += 1);
}

/// Sandboxes keep what a run left behind until it has ended.
async fn release(shared: &Shared, id: &RunId) {
    if tokio::time::timeout(RELEASE, shared.setup.bind.release(id.as_str())).await.is_err() {
        tracing::warn!(run = %id, "what the run left in its sandboxes was not removed within {RELEASE:?}");
    }
}

enum Ended {
    Suspended,
    Finished { outcome: Outcome, failure: Option<Failure>, headline: String, bound: Option<Arc<Bound>> },
}

async fn drive(job: Job, shared: &Arc<Shared>) -> Ended {
    let Job { start, replay, cancel } = job;
    let setup = &shared.setup;
    let failed = |failure: Failure, outcome| Ended::Finished {
        outcome,
        failure: Some(failure),
        headline: String::new(),
        bound: None,
    };
    let bound = match setup.bind.bind(&start) {
        Ok(bound) => bound,
        Err(failure) => return failed(failure, Outcome::Blocked),
    };
    let replay = match replay {
        Some(replay) => replay,
        None => match setup.journal.reader().replay(&start.id) {
            Ok(replay) => replay,
            Err(error) => return failed(Failure::new("E-JOURNAL", error.to_string()), Outcome::Failed),
        },
    };
    if replay.build_id_of_last != setup.build_id {
        // What this binary records from here on is its own: the next one must know whose records it reads.
        setup.journal.append_lazy(NewEntry {
            run: start.id.clone(),
            family: Family::Session,
            kind: EntryKind::RunResumed,
            path: String::new(),
            attempt: 1,
            supersedes: None,
            input: None,
            payload: raw(&json!({"by": "engine", "person": false, "build_id": setup.build_id})),
        });
    }
    let executor =
        Arc::new(Executor::new(bound.clone(), setup.journal.clone(), setup.env.clone(), shared.live.clone()));
    let state = RunState::new(
        start,
        setup.env.clone(),
        setup.journal.clone(),
        executor,
        shared.scope.clone(),
        cancel,
        shared.suspend.clone(),
        replay,
        &setup.build_id,
    );
    let context = Context::root(Rc::new(state));
    let finished =
        |outcome, failure, headline| Ended::Finished { outcome, failure, headline, bound: Some(bound.clone()) };
    match run_pipeline(&context, &bound.pipeline).await {
        Ok(end) => finished(end.outcome, end.failure, end.headline),
        Err(Stop::Suspended) => Ended::Suspended,
        // The journal is the truth: without it nothing can be said of the run, so it stays open.
        Err(Stop::Broken(failure)) if failure.code == "E-JOURNAL" => Ended::Suspended,
        Err(Stop::Cancelled { reason }) => {
            finished(Outcome::Cancelled, Some(Failure::new("E-CANCELLED", reason)), String::new())
        }
        Err(Stop::Capped { message, .. }) => {
            finished(Outcome::Capped, Some(Failure::new("E-BUDGET", message)), String::new())
        }
        Err(Stop::Blocked(failure)) => finished(Outcome::Blocked, Some(failure), String::new()),
        Err(Stop::Unsafe(failure)) => finished(Outcome::Unsafe, Some(failure), String::new()),
        Err(Stop::Failed(failure) | Stop::Broken(failure)) => finished(Outcome::Failed, Some(failure), String::new()),
    }
}

/// What the interns saved depends on prices, which the journal does not know: it is noted once, at the end.
async fn note_savings(shared: &Shared, id: &RunId, bound: &Bound) {
    let spend = match shared.setup.journal.reader().spend_of(id) {
        Ok(spend) if spend.intern.calls > 0 => spend,
        Ok(_) => return,
        Err(error) => {
            tracing::warn!(run = %id, %error, "what the interns saved is not known");
            return;
        }
    };
    shared.setup.journal.append_lazy(NewEntry {
        run: id.clone(),
        family: Family::Session,
        kind: EntryKind::Note,
        path: "interns-saved".into(),
        attempt: 1,
        supersedes: None,
        input: None,
        payload: raw(&json!({ "note": "interns_saved", "usd": bound.interns_saved(&spend.intern) })),
    });
}

/// The report page of a finished run shows its end; a page that cannot be written costs nothing but itself.
fn write_page(shared: &Shared, id: &RunId, bound: &Bound) {
    let reader = shared.setup.journal.reader();
    let written = || -> anyhow::Result<()> {
        let Some(view) = reader.run(id.as_str())?.filter(|view| !view.reports.is_empty()) else { return Ok(()) };
        files::write_page(&bound.out, &view, &transcript::of_run(reader, id)?)?;
        Ok(())
    };
    if let Err(error) = written() {
        tracing::warn!(run = %id, error = format!("{error:#}"), "the report page could not be written");
    }
}
