//! The runs that this process has taken in, from their claim (or resumption) to their end or suspension.
//!
//! The schedule loop decides when a run may begin; here its orders are carried out and ends are told back to it. Holds no
//! truth: the journal knows what is open.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};

use super::Inner;
use crate::base::ids::RunId;
use crate::triggers::handle::Order;

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
        if let Err(error) = engine.wait(&run).await {
            tracing::warn!(%run, %error, "how the run ended cannot be read");
        }
        if let Some(inner) = weak.upgrade() {
            inner.intake.close(&run);
        }
        schedule.run_ended(run).await;
    }));
}
