//! The schedule loop as others see it: what they give it, what it tells them, and the handle with its verbs.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::base::ids::RunId;
use crate::domain::definition::Pipeline;
use crate::domain::run::{Failure, RunStart};
use crate::policy::due::{CronError, CronSchedule, Policy, Slot};

/// One pipeline with its schedule.
#[derive(Debug, Clone)]
pub struct Scheduled {
    pub pipeline: Arc<Pipeline>,
    pub schedule: CronSchedule,
    pub policy: Policy,
}

impl Scheduled {
    /// `None` for a pipeline without a schedule. Errors only for an expression that `validate` would have refused.
    pub fn of(pipeline: &Arc<Pipeline>, max_queued: u32) -> Result<Option<Self>, CronError> {
        let Some(def) = &pipeline.on.schedule else { return Ok(None) };
        let schedule = CronSchedule::parse(&def.cron, &def.timezone)?;
        let policy = Policy {
            missed: def.missed,
            max_age: def.max_age,
            overlap: def.overlap,
            jitter: def.jitter.unwrap_or_default(),
            max_queued,
        };
        Ok(Some(Self { pipeline: pipeline.clone(), schedule, policy }))
    }
}

/// What the loop tells those who run runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Order {
    /// The run is claimed and may begin now. Its end must be told with [`Handle::run_ended`].
    Start(Box<RunStart>),
    /// A newer slot takes its place (`overlap: cancel_previous`).
    Cancel { run: RunId, reason: String },
}

/// See [`Hooks::prepare`].
pub type Prepare = dyn Fn(&Arc<Pipeline>, &Slot, Timestamp) -> Result<RunStart, Failure> + Send + Sync;
/// See [`Hooks::limit`].
pub type Limit = dyn Fn(&Pipeline, Timestamp) -> Option<String> + Send + Sync;

/// What the loop asks of its surroundings. The functions are called on the loop and must answer at once.
#[derive(Clone)]
pub struct Hooks {
    /// The run that a slot of this pipeline would be, begun at the given moment; the trigger is filled in by the loop.
    pub prepare: Arc<Prepare>,
    /// Why no run of this pipeline may begin now (`the day cap of $20.00 is reached`), if so.
    pub limit: Arc<Limit>,
    /// Called on every turn of the loop: feeds the watchdog of systemd.
    pub alive: Arc<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hooks")
    }
}

/// How many runs run and wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// `limits.max_concurrent_runs`.
    pub max_running: usize,
    /// Runs of all pipelines that may wait for a place. A slot beyond it is refused, with the reason.
    pub max_waiting: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { max_running: 50, max_waiting: 10_000 }
    }
}

pub(super) enum Command {
    Pipelines(Vec<Scheduled>, oneshot::Sender<()>),
    Bounds(Bounds),
    Paused(String, Option<String>, oneshot::Sender<()>),
    Admit(Box<RunStart>),
    Ended(RunId),
    Settle(oneshot::Sender<()>),
}

/// The loop as others see it. Cheap to clone. Calls after the loop's end do nothing.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) wake: Arc<Notify>,
}

impl Handle {
    /// Makes the loop look at the clock. Any number of calls, at any time.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// The pipelines from now on. Resolves when the slots of those before are decided and the new ones are in force.
    pub async fn set_pipelines(&self, pipelines: Vec<Scheduled>) {
        self.ask(|done| Command::Pipelines(pipelines, done)).await;
    }

    /// The concurrency limit from now on; runs beyond a lower one go on.
    pub async fn set_bounds(&self, bounds: Bounds) {
        self.send(Command::Bounds(bounds)).await;
    }

    /// Somebody paused a pipeline, with the reason, or went on with it. The journal keeps it; this tells the loop. Resolves
    /// when it is in force.
    pub async fn set_paused(&self, pipeline: &str, paused: Option<String>) {
        self.ask(|done| Command::Paused(pipeline.to_owned(), paused, done)).await;
    }

    /// A run that is claimed (by another trigger) or was interrupted: it begins when there is a place for it.
    pub async fn admit(&self, start: RunStart) {
        self.send(Command::Admit(Box::new(start))).await;
    }

    /// A run has ended, however; also one that never began.
    pub async fn run_ended(&self, run: RunId) {
        self.send(Command::Ended(run)).await;
    }

    /// Resolves when all that is due by now is decided and runs that may begin are handed on.
    pub async fn settle(&self) {
        self.ask(Command::Settle).await;
    }

    async fn ask(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) {
        let (done, answer) = oneshot::channel();
        self.send(command(done)).await;
        // An error means that the loop has ended, see `send`.
        let _ = answer.await;
    }

    async fn send(&self, command: Command) {
        // The loop has ended: the daemon is stopping, and the journal knows what is open.
        let _ = self.commands.send(command).await;
    }
}

pub(super) fn answer(done: oneshot::Sender<()>) {
    let _ = done.send(()); // Who asked may have gone.
}
