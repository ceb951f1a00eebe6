//! Composition: what a process that holds a state directory is made of, and the order in which it starts and stops.
//!
//! A [`Holder`] has the journal (and with it the lock), the engine, the schedule loop with its queue of claimed runs, and the
//! control socket; `serve` gives the loop its pipelines and adds the listener. `run`, `demo` and `resume` are short-lived holders.
//!
//! Stop order, here and nowhere else: refuse new triggers → let each run reach its next journalled point → close the listeners →
//! flush the journal → exit. Runs stay open and are taken up by the next holder.

mod chat;
mod credentials;
mod errors;
pub mod limits;
pub mod load;
pub mod params;
mod findings;
mod inherit;
mod intake;
mod outside;
mod reports;
pub mod serve;
pub mod signals;
mod start;
mod verbs;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::base::clock::Timestamp;
use crate::base::env::{Env, process_variable};
use crate::base::hash::Hash;
use crate::base::ids::RunId;
use crate::base::money::UsdMicros;
use crate::base::scope::Scope;
use crate::clients::credentials::Credentials;
use crate::config::settings::Settings;
use crate::control::{Refusal, RunRequest, Server, Status};
use crate::domain::definition::Pipeline;
use crate::domain::entry::NewEntry;
use crate::domain::run::{Failure, Outcome, RunStart, TriggerKind};
use crate::domain::view::SlotLine;
use crate::engine::bind::StandardBind;
use crate::engine::workshop::{Workshop, WorkshopSetup};
use crate::engine::{Engine, EngineSetup};
use crate::journal::{self, Claim, Claimed, DaemonCaps, Journal, OpenOptions, RunFinish};
use crate::models::tape::TapeWriter;
use crate::policy::redact::Redactor;
use crate::ports::Registry;
use crate::ports::service::Shared;
use crate::triggers::handle::{Bounds, Handle, Hooks};
use crate::triggers::schedule::Loop;

use intake::Intake;
use load::{Library, Places};

/// Runs that may be claimed and open at the same time; a trigger beyond that is refused and says so.
pub const MAX_QUEUED: u32 = 1_000;

/// How long acts under way may take to reach their record when the daemon stops. The unit's `TimeoutStopSec` is longer.
pub const GRACE: Duration = Duration::from_secs(10);

/// What a holder is made of.
pub struct HolderSetup {
    pub env: Env,
    pub registry: Registry,
    pub state: PathBuf,
    pub places: Places,
    pub library: Library,
    /// Of runs that name none.
    pub profile: String,
    /// Which command holds: shown to others.
    pub command: &'static str,
    /// Go to work on a restored backup.
    pub take_over: bool,
    /// Every model call is appended to this tape.
    pub record: Option<PathBuf>,
}

/// Why nothing can be held.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Journal(#[from] journal::Error),
    #[error("starting the engine")]
    Engine(#[source] std::io::Error),
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// A handle of the process that holds a state directory. Cheap to clone.
#[derive(Clone)]
pub struct Holder {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    registry: Registry,
    state: PathBuf,
    places: Places,
    profile: String,
    command: &'static str,
    build_id: String,
    started_at: Timestamp,
    /// `--record`.
    tape: Option<Arc<TapeWriter>>,
    /// One client per service for the runs and for everybody else.
    shared: Shared,
    library: watch::Sender<Arc<Library>>,
    journal: Journal,
    engine: Engine,
    intake: Intake,
    schedule: Handle,
    /// Where errors are told, whoever has seen them.
    errors: crate::triggers::sentry::Handle,
    /// The loop's last sign of life.
    heartbeat: watch::Receiver<Timestamp>,
    /// Nothing new is taken in.
    stopping: Arc<AtomicBool>,
    /// The schedule loop: ended first.
    triggers: Scope,
    /// Control socket, listener, watchers of runs.
    scope: Scope,
}

/// What became of a request for a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Submitted {
    New(RunId),
    /// The same trigger has begun it before.
    Already(RunId),
}

impl Submitted {
    /// The run, new or not.
    pub fn run(self) -> RunId {
        match self {
            Self::New(run) | Self::Already(run) => run,
        }
    }
}

impl Holder {
    /// Takes the lock, opens the journal, starts the engine and the control socket. No run begins by itself.
    pub fn open(setup: HolderSetup) -> Result<Self, OpenError> {
        let HolderSetup { env, registry, state, places, library, profile, command, take_over, record } = setup;
        let build_id = build_id();
        let redactor = Arc::new(redactor(&library.settings));
        let for_journal = redactor.clone();
        let options = OpenOptions::new(env.clone(), build_id.clone())
            .take_over(take_over)
            .redactor(Arc::new(move |text| redact(&for_journal, text)));
        let journal = Journal::open(&state, options)?;
        journal.set_daemon_limits(caps(&library.settings));
        let runtime = tokio::runtime::Handle::current();
        let scope = Scope::new(runtime.clone());
        let server = Server::bind(&state)?;
        let out = state.join("out");
        let load = Box::new(move |stored: &journal::StoredDefinition| load::stored(stored, &registry));
        let tape = record.map(|file| TapeWriter::open(&file, redactor)).transpose()?;
        let mut bind = StandardBind::new(registry, journal.reader().clone(), env.clone(), out, load);
        bind.record = tape.clone();
        let shared = bind.shared.clone();
        let workshop = Workshop::new(WorkshopSetup {
            env: env.clone(),
            registry,
            folder: state.join("work"),
            pipelines: places.pipelines.clone(),
            scope: scope.clone(),
            program: None,
            path: process_variable("PATH").unwrap_or_default().into(),
        });
        workshop.tidy(&library.settings);
        bind.workshop = Some(Arc::new(workshop));
        bind.errors = Some(Arc::new(journal.reader().clone()));
        let engine = Engine::start(EngineSetup {
            env: env.clone(),
            journal: journal.clone(),
            runtime,
            threads: std::thread::available_parallelism().map_or(2, usize::from).clamp(1, 4),
            bind: Arc::new(bind),
            build_id: build_id.clone(),
        })
        .map_err(OpenError::Engine)?;
        let library = watch::Sender::new(Arc::new(library));
        let (beat, heartbeat) = watch::channel(env.now());
        let (orders, taken) = tokio::sync::mpsc::channel(64);
        let hooks = self::hooks(&env, &library, journal.reader(), &profile, &build_id, beat);
        let bounds = bounds(&library.borrow().settings);
        let (schedule_loop, schedule) = Loop::new(journal.clone(), env.clone(), hooks, bounds, orders);
        let triggers = Scope::new(tokio::runtime::Handle::current());
        let stop = triggers.token().clone();
        drop(triggers.spawn("schedule", schedule_loop.run(stop)));
        let inner = Inner {
            started_at: env.now(),
            env,
            registry,
            state,
            places,
            profile,
            command,
            build_id,
            tape,
            shared,
            library,
            errors: crate::triggers::sentry::Handle::new(journal.clone()),
            journal,
            engine,
            intake: Intake::default(),
            schedule,
            heartbeat,
            stopping: Arc::default(),
            triggers,
            scope,
        };
        let holder = Self { inner: Arc::new(inner) };
        intake::obey(&holder.inner, taken);
        server.serve(&holder.inner.scope, verbs::handler(&holder));
        Ok(holder)
    }

    pub fn journal(&self) -> &Journal {
        &self.inner.journal
    }

    pub fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    pub fn state(&self) -> &Path {
        &self.inner.state
    }

    /// Configuration and pipelines in use now.
    pub fn library(&self) -> Arc<Library> {
        self.inner.library.borrow().clone()
    }

    /// Makes, claims and queues a run. Not cancel safe: once claimed it happens.
    pub async fn submit(&self, mut request: RunRequest) -> Result<Submitted, Refusal> {
        if request.record.is_some() && self.inner.tape.is_none() {
            let refusal =
                Refusal::new("E-RECORD", format!("`{}` already runs and records no tape", self.inner.command));
            return Err(refusal.help("stop it, or give --record another state directory with --state"));
        }
        let library = self.library();
        let pipeline = self.find(&library, &request.pipeline)?;
        let inherited = inherit::take_over(self.inner.journal.reader(), &pipeline, &mut request)?;
        let start = self.make_start(&library.settings, &pipeline, request)?;
        let entries = inherited.map(|inherited| inherited.entries(&start)).unwrap_or_default();
        self.claim(&library.settings, &pipeline, start, None, entries).await
    }

    /// Stores the definition, claims the run and queues it: the one way in for every trigger but the schedule. `known`: what the
    /// run need not find out again.
    pub async fn claim(
        &self,
        settings: &Settings,
        pipeline: &Pipeline,
        start: RunStart,
        slot: Option<SlotLine>,
        known: Vec<NewEntry>,
    ) -> Result<Submitted, Refusal> {
        if self.inner.stopping.load(Ordering::SeqCst) {
            return Err(
                Refusal::new("E-STOPPING", "the daemon is stopping").help("try again when it has started again")
            );
        }
        let journal = &self.inner.journal;
        let refused = |error: journal::Error| Refusal::new("E-JOURNAL", format!("the run cannot be recorded: {error}"));
        store(journal, settings, pipeline).await.map_err(refused)?;
        let claim = Claim { start: start.clone(), slot, max_queued: MAX_QUEUED };
        match journal.claim(claim).await.map_err(refused)? {
            Claimed::New => {
                if !known.is_empty() {
                    journal.append(known).await.map_err(refused)?;
                }
                let run = start.id.clone();
                tracing::info!(%run, pipeline = start.pipeline, trigger = %start.trigger.kind, "claimed");
                self.admit(start).await;
                Ok(Submitted::New(run))
            }
            Claimed::AlreadyClaimed(run) => Ok(Submitted::Already(run)),
            Claimed::AlreadyDecided(fate) => {
                Err(Refusal::new("E-SLOT", format!("this slot was decided before: {fate}")))
            }
            Claimed::QueueFull { queued } => {
                Err(Refusal::new("E-QUEUE", format!("{queued} runs are open already, no more are taken in"))
                    .help("wait until some have ended, or cancel some"))
            }
        }
    }

    /// The pipeline of that name, or in the file of that path.
    fn find(&self, library: &Library, asked: &str) -> Result<Arc<Pipeline>, Refusal> {
        find(library, &self.inner.places, &self.inner.registry, asked)
    }

    fn make_start(&self, settings: &Settings, pipeline: &Pipeline, request: RunRequest) -> Result<RunStart, Refusal> {
        let (now, ids) = (self.inner.env.now(), &self.inner.env.ids);
        start::make(settings, pipeline, request, &self.inner.profile, &self.inner.build_id, ids.run_id(now), now)
    }

    /// Hands a claimed run to the loop, which lets it begin when there is a place.
    async fn admit(&self, start: RunStart) {
        self.inner.intake.open(&start.id);
        self.inner.schedule.admit(start).await;
    }

    /// Queues every open run that is not active: what an earlier process left. Answers which.
    pub async fn resume_open(&self) -> Result<Vec<RunId>, journal::Error> {
        let open = self.inner.journal.reader().open_runs()?;
        let left: Vec<_> = open.into_iter().filter(|start| !self.inner.intake.is_open(&start.id)).collect();
        let ids = left.iter().map(|start| start.id.clone()).collect();
        for start in left {
            self.admit(start).await;
        }
        Ok(ids)
    }

    /// Takes one run further: an interrupted one as it is, one that ended `blocked`, `capped` or `failed` anew from there.
    pub async fn resume(&self, run: &RunId, add: UsdMicros, by: &str) -> Result<(), Refusal> {
        self.take_further(run, add, by, None).await
    }

    /// The same, once for each `key`: the one press or command that asks for it.
    pub async fn take_further(&self, run: &RunId, add: UsdMicros, by: &str, key: Option<&str>) -> Result<(), Refusal> {
        let refused = |error: journal::Error| Refusal::new("E-JOURNAL", error.to_string());
        let view = self.inner.journal.reader().run(run.as_str()).map_err(refused)?.ok_or_else(|| no_run(run))?;
        match view.outcome {
            None if add.is_zero() => {}
            Some(outcome) if !outcome.is_resumable() => {
                let refusal = Refusal::new("E-ENDED", format!("the run ended {outcome}: there is nothing to resume"));
                return Err(refusal.help(format!("begin a new one: nightcrew run {}", view.start.pipeline)));
            }
            None | Some(_) => {
                // Whoever resumes it wants its secret tried again, also as it is.
                if let Some(secret) = view.failure.as_ref().and_then(|failure| failure.secret.as_deref()) {
                    let _was_refused = Credentials::of(&self.inner.shared).lift(secret);
                }
                match key {
                    None => self.inner.journal.resume_run(run, add, by).await.map_err(refused)?,
                    Some(key) => {
                        if !self.inner.journal.resume_run_once(run, add, by, key).await.map_err(refused)? {
                            return Ok(());
                        }
                    }
                }
            }
        }
        if !self.inner.intake.is_open(run) {
            self.admit(view.start).await;
        }
        Ok(())
    }

    /// Ends a run for good, wherever it stands.
    pub async fn cancel(&self, run: &RunId, reason: &str) -> Result<(), Refusal> {
        self.inner.intake.withdraw(run);
        if self.inner.engine.cancel(run, reason) {
            return Ok(());
        }
        let finish = RunFinish {
            outcome: Outcome::Cancelled,
            failure: Some(Failure::new("E-CANCELLED", reason)),
            headline: String::new(),
            at: self.inner.env.now(),
        };
        self.inner.journal.finish_run(run, finish).await.map_err(|error| not_open(run, &error))?;
        self.inner.intake.close(run);
        self.inner.schedule.run_ended(run.clone()).await;
        Ok(())
    }

    /// Hands a person's word to a run.
    pub async fn signal(
        &self,
        run: &RunId,
        path: &str,
        name: &str,
        value: serde_json::Value,
        by: &str,
    ) -> Result<(), Refusal> {
        let sent = self.inner.journal.signal(run, path, name, value, by).await;
        sent.map(drop).map_err(|error| not_open(run, &error))
    }

    /// Waits until the run has ended. `None`: it stays open, because the holder stops. Cancel safe.
    pub async fn wait(&self, run: &RunId) -> Result<Option<Outcome>, journal::Error> {
        let mut changes = self.inner.intake.changes();
        let stop = self.inner.scope.token();
        while changes.borrow_and_update().contains(run) {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { break },
                () = stop.cancelled() => break,
            }
        }
        Ok(self.inner.journal.reader().run(run.as_str())?.and_then(|view| view.outcome))
    }

    /// Waits until every run that was taken in has ended or was suspended. Cancel safe.
    pub async fn wait_idle(&self) {
        let mut changes = self.inner.intake.changes();
        // An error would mean that the sender is gone, and it lives in `self`.
        drop(changes.wait_for(std::collections::BTreeSet::is_empty).await);
    }

    /// Why the tape of `--record` is not complete, if it is not.
    pub fn tape_failure(&self) -> Option<String> {
        self.inner.tape.as_ref().and_then(|tape| tape.failure())
    }

    /// What others are told about this process.
    pub fn status(&self) -> Status {
        let (library, active) = (self.library(), self.inner.engine.active());
        Status {
            pid: std::process::id(),
            command: self.inner.command.to_owned(),
            build_id: self.inner.build_id.clone(),
            started_at: self.inner.started_at,
            pipelines: library.pipelines.keys().cloned().collect(),
            broken: library.broken.iter().map(|path| path.display().to_string()).collect(),
            queued: self.inner.intake.len().saturating_sub(active.len()),
            active,
        }
    }

    /// Nothing new is taken in from here on.
    pub fn refuse_new(&self) {
        self.inner.stopping.store(true, Ordering::SeqCst);
    }

    /// Stops in order. Runs that have not ended stay open. Answers the names of acts that had to be cut off.
    pub async fn stop(self, grace: Duration) -> Result<Vec<String>, journal::Error> {
        self.refuse_new();
        let mut late = self.inner.triggers.close(grace).await;
        late.extend(self.inner.engine.stop(grace).await);
        late.extend(self.inner.scope.close(Duration::from_secs(2)).await);
        self.inner.journal.clone().close().await?;
        Ok(late)
    }
}

/// What the schedule loop asks of the daemon.
fn hooks(
    env: &Env,
    library: &watch::Sender<Arc<Library>>,
    reader: &journal::Reader,
    profile: &str,
    build_id: &str,
    beat: watch::Sender<Timestamp>,
) -> Hooks {
    let (prepared, limited) = (library.subscribe(), library.subscribe());
    let (ids, clock) = (env.ids.clone(), env.clock.clone());
    let (profile, build_id, reader) = (profile.to_owned(), build_id.to_owned(), reader.clone());
    let known: Mutex<Option<(i64, Option<String>)>> = Mutex::default();
    Hooks {
        prepare: Arc::new(move |pipeline, slot, now| {
            // The library's own, not the loop's: during a reload they differ for a moment, and the pair that is used must be
            // the one that is stored.
            let library = prepared.borrow().clone();
            let Some((_, pipeline)) = library.pipelines.get(&pipeline.name) else {
                return Err(Failure::new("E-PIPELINE", "the pipeline was taken away"));
            };
            let trigger = Some(TriggerKind::Schedule);
            let request = RunRequest { trigger, nominal_at: Some(slot.nominal_at), ..RunRequest::default() };
            start::make(&library.settings, pipeline, request, &profile, &build_id, ids.run_id(now), now)
                .map_err(|refusal| Failure::new(refusal.code, refusal.message))
        }),
        limit: Arc::new(move |_pipeline, now| {
            // Many slots may fall due in one second, and the answer is the same for all of them.
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            match &*known {
                Some((second, reason)) if *second == now.as_second() => reason.clone(),
                _ => {
                    let reason = limits::reached(&limited.borrow().settings.limits, &reader, now);
                    *known = Some((now.as_second(), reason.clone()));
                    reason
                }
            }
        }),
        alive: Arc::new(move || {
            beat.send_replace(clock.now());
        }),
    }
}

fn bounds(settings: &Settings) -> Bounds {
    Bounds { max_running: settings.limits.max_concurrent_runs.value as usize, max_waiting: MAX_QUEUED as usize }
}

/// The pipeline of that name in the library, or in the file of that path.
pub fn find(library: &Library, places: &Places, registry: &Registry, asked: &str) -> Result<Arc<Pipeline>, Refusal> {
    if let Some((_, pipeline)) = library.pipelines.get(asked) {
        return Ok(pipeline.clone());
    }
    let file = file_of(places, asked);
    if !file.is_file() {
        let known: Vec<_> = library.pipelines.keys().map(String::as_str).collect();
        let refusal = Refusal::new("E-PIPELINE", format!("there is no pipeline `{asked}`"));
        return Err(refusal.help(match known.is_empty() {
            true => format!("there is none in `{}`: nightcrew init", places.pipelines.display()),
            false => crate::diag::did_you_mean(asked, known.iter().copied())
                .unwrap_or_else(|| format!("one of: {}", known.join(", "))),
        }));
    }
    let (pipeline, report) = load::pipeline(&file, registry, Some(&library.settings));
    pipeline.filter(|_| !report.has_errors()).map(Arc::new).ok_or_else(|| {
        Refusal::new("E-CONFIG", format!("`{}` has mistakes", file.display()))
            .help(format!("nightcrew validate {}", file.display()))
    })
}

/// The file that a pipeline's name or path means. A broken file is named after its pipeline, most likely.
pub fn file_of(places: &Places, asked: &str) -> PathBuf {
    let is_path = asked.contains('/') || asked.ends_with(".yaml") || asked.ends_with(".yml");
    if is_path { PathBuf::from(asked) } else { places.pipelines.join(format!("{asked}.yaml")) }
}

/// Whether files have changed since the run began. It keeps what it began with; `false` where that cannot be said.
pub fn has_changed_since(library: &Library, run: &RunStart) -> bool {
    let now = library.pipelines.get(&run.pipeline);
    now.is_some_and(|(_, pipeline)| start::definition_hash(pipeline, &library.settings) != run.definition)
}

fn not_open(run: &RunId, error: &journal::Error) -> Refusal {
    match error {
        journal::Error::Ended { outcome, .. } => {
            Refusal::new("E-ENDED", format!("the run has already ended: {outcome}"))
        }
        journal::Error::NoRun(_) => no_run(run),
        other => Refusal::new("E-JOURNAL", other.to_string()),
    }
}

fn no_run(run: &RunId) -> Refusal {
    Refusal::new("E-RUN", format!("there is no run {run}")).help("nightcrew runs")
}

/// Keeps what runs of this pipeline begin with.
async fn store(journal: &Journal, settings: &Settings, pipeline: &Pipeline) -> Result<(), journal::Error> {
    let hash = start::definition_hash(pipeline, settings);
    journal.put_definition(&pipeline.name, hash, &pipeline.files, &start::settings_files(settings)).await
}

fn caps(settings: &Settings) -> DaemonCaps {
    DaemonCaps {
        max_per_day: Some(settings.limits.max_per_day.value),
        max_per_month: Some(settings.limits.max_per_month.value),
    }
}

/// Knows every configured secret that can be read now.
fn redactor(settings: &Settings) -> Redactor {
    // A secret that cannot be read now cannot leak from here either; whoever needs it will say so.
    Redactor::new(settings.secrets.values().filter_map(|secret| secret.read_all().ok()).flatten().collect())
}

fn redact(redactor: &Redactor, text: &str) -> Option<String> {
    match redactor.redact(text) {
        std::borrow::Cow::Borrowed(_) => None,
        std::borrow::Cow::Owned(clean) => Some(clean),
    }
}

/// Identifies this binary without reading all of it: version, size, time of writing, and its first bytes, where the linker's
/// own build id stands. Two builds that are told apart wrongly cost nothing (an upgrade replays leniently).
pub fn build_id() -> String {
    use std::io::Read as _;
    let version = env!("CARGO_PKG_VERSION");
    let read = || -> std::io::Result<Hash> {
        let file = std::fs::File::open("/proc/self/exe").or_else(|_| std::fs::File::open(std::env::current_exe()?))?;
        let meta = file.metadata()?;
        let modified = meta.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let mut head = Vec::new();
        file.take(64 * 1024).read_to_end(&mut head)?;
        Ok(Hash::of_parts([&head[..], &meta.len().to_le_bytes(), &modified.as_nanos().to_le_bytes()]))
    };
    match read() {
        Ok(hash) => format!("{version}+{}", hash.short()),
        Err(error) => {
            tracing::debug!(%error, "the binary cannot be read; its version alone identifies it");
            version.to_owned()
        }
    }
}
