//! The runs that this process has taken in, from their claim (or resumption) to their end or suspension.
//!
//! The schedule loop decides when a run may begin; here its orders are carried out and ends are told back to it. Holds no
//! truth: the journal knows what is open.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::Inner;
use crate::base::ids::RunId;
use crate::triggers::handle::Order;

/// Between two looks at a journal that could not be written.
const AGAIN: Duration = Duration::from_secs(15);

/// Runs taken in and not ended; runs that must not begin any more.
#[derive(Debug)]
pub struct Intake {
    open: watch::Sender<BTreeSet<RunId>>,
    withdrawn: Mutex<BTreeSet<RunId>>,
}

impl Default for Intake {
    fn default() -> Self {
        Self { open: watch::Sender::new(BTreeSet::new()), withdrawn: Mutex::default() }
    }
}

impl Intake {
    fn withdrawn(&self) -> std::sync::MutexGuard<'_, BTreeSet<RunId>> {
        self.withdrawn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The run is taken in.
    pub fn open(&self, run: &RunId) {
        self.withdrawn().remove(run);
        self.open.send_if_modified(|open| open.insert(run.clone()));
    }

    /// It has ended, or stays open for the next process.
    pub fn close(&self, run: &RunId) {
        self.open.send_if_modified(|open| open.remove(run));
    }

    pub fn is_open(&self, run: &RunId) -> bool {
        self.open.borrow().contains(run)
    }

    pub fn len(&self) -> usize {
        self.open.borrow().len()
    }

    /// The set, and each change of it.
    pub fn changes(&self) -> watch::Receiver<BTreeSet<RunId>> {
        self.open.subscribe()
    }

    /// If it has not begun it never will.
    pub fn withdraw(&self, run: &RunId) {
        self.withdrawn().insert(run.clone());
    }

    fn is_withdrawn(&self, run: &RunId) -> bool {
        self.withdrawn().contains(run)
    }
}

/// Carries the loop's orders out until the process stops.
pub(super) fn obey(inner: &Arc<Inner>, mut orders: mpsc::Receiver<Order>) {
    let weak = Arc::downgrade(inner);
    let stop = inner.scope.token().clone();
    drop(inner.scope.spawn("orders", async move {
        loop {
            let order = tokio::select! {
                order = orders.recv() => order,
                () = stop.cancelled() => None,
            };
            let (Some(order), Some(inner)) = (order, weak.upgrade()) else { return };
            match order {
                Order::Start(start) => begin(&inner, *start).await,
                Order::Cancel { run, reason } => {
                    if !inner.engine.cancel(&run, &reason) {
                        tracing::debug!(%run, reason, "nothing to cancel: it had ended");
                    }
                }
            }
        }
    }));
}

async fn begin(inner: &Arc<Inner>, start: crate::domain::run::RunStart) {
    let run = start.id.clone();
    // Its end was written by whoever withdrew it.
    if inner.intake.is_withdrawn(&run) {
        inner.intake.close(&run);
        inner.schedule.run_ended(run).await;
        return;
    }
    inner.intake.open.send_if_modified(|open| open.insert(run.clone()));
    inner.engine.launch(start);
    if inner.intake.is_withdrawn(&run) {
        let _too_late = inner.engine.cancel(&run, "cancelled before it began");
    }
    let (engine, schedule, weak) = (inner.engine.clone(), inner.schedule.clone(), Arc::downgrade(inner));
    drop(inner.scope.spawn(format!("watch {run}"), async move {
        let ended = engine.wait(&run).await;
        if let Err(error) = &ended {
            tracing::warn!(%run, %error, "how the run ended cannot be read");
        }
        if let Some(inner) = weak.upgrade() {
            inner.intake.close(&run);
        }
        schedule.run_ended(run.clone()).await;
        if !matches!(ended, Ok(Some(_)))
            && let Some(inner) = weak.upgrade()
        {
            again_later(&inner, run);
        }
    }));
}

/// A run that was left open although the daemon goes on: its journal could not be written, a full disk most likely. It is taken
/// up again when that has passed; a command that holds ends instead.
fn again_later(inner: &Arc<Inner>, run: RunId) {
    if inner.command != "serve" || inner.stopping.load(std::sync::atomic::Ordering::SeqCst) {
        return;
    }
    let (weak, clock, stop) = (Arc::downgrade(inner), inner.env.clock.clone(), inner.scope.token().clone());
    drop(inner.scope.spawn(format!("take up {run}"), async move {
        loop {
            tokio::select! {
                () = clock.sleep(AGAIN) => {}
                () = stop.cancelled() => return,
            }
            let Some(inner) = weak.upgrade() else { return };
            if inner.intake.is_open(&run) || inner.stopping.load(std::sync::atomic::Ordering::SeqCst) {
                return;
            }
            if inner.journal.sync().await.is_err() {
                continue;
            }
            match inner.journal.reader().run(run.as_str()) {
                Ok(Some(view)) if view.outcome.is_none() => {
                    tracing::info!(%run, "the journal can be written again: the run goes on");
                    inner.intake.open(&run);
                    inner.schedule.admit(view.start).await;
                    return;
                }
                Ok(_) => return,
                Err(error) => tracing::warn!(%run, %error, "the run cannot be read; it is looked at again"),
            }
        }
    }));
}
