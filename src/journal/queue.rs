//! The bounded queue in front of the writer thread.
//!
//! Order is the order of pushing. Awaited work waits for room without blocking its thread; lazy entries are counted too and
//! block only when the writer is far behind, which bounds memory. A writer that has just written stays awake for a moment, so
//! that entries which follow closely need not wake it: a wake-up costs more than the entry.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::entries::Unawaited;
use super::error::Error;
use super::writer::Store;

/// Awaited calls that may be queued or under way.
const AWAITED: usize = 4_096;
/// Entries and calls in the queue at which a lazy push waits.
const LAZY: usize = 16_384;
/// How long lazy entries wait for an awaited call whose commit they can share.
const LINGER: Duration = Duration::from_millis(20);

pub(super) struct Queue {
    state: Mutex<State>,
    /// Something was pushed, or the queue was finished.
    filled: Condvar,
    /// The writer took what was there.
    drained: Condvar,
    room: Arc<Semaphore>,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// How many of them are to be on disk at once.
    pressing: usize,
    /// The writer sleeps until it is woken.
    asleep: bool,
    /// No more may be pushed; what is there is still done.
    finished: bool,
}

// Most jobs are entries: boxing them would cost each an allocation.
#[allow(clippy::large_enum_variant)]
pub(super) enum Job {
    Lazy(Unawaited),
    Ask(Box<dyn Work>),
}

/// Something awaited. May be done again after a rollback.
pub(super) trait Work: Send {
    fn attempt(&mut self, store: &mut Store) -> Result<(), Error>;
    /// Tells the waiter: the value of the last attempt, or why it does not count.
    fn answer(self: Box<Self>, outcome: Result<(), Error>);
}

struct Ask<T, F> {
    work: F,
    value: Option<T>,
    reply: oneshot::Sender<Result<T, Error>>,
    _room: OwnedSemaphorePermit,
}

impl<T: Send, F: FnMut(&mut Store) -> Result<T, Error> + Send> Work for Ask<T, F> {
    fn attempt(&mut self, store: &mut Store) -> Result<(), Error> {
        self.value = Some((self.work)(store)?);
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), Error>) {
        let Self { value, reply, .. } = *self;
        // The waiter may have been dropped; what it asked for stands all the same.
        drop(reply.send(outcome.and_then(|()| value.ok_or(Error::Closed))));
    }
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::default(),
            filled: Condvar::new(),
            drained: Condvar::new(),
            room: Arc::new(Semaphore::new(AWAITED)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn ask<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut Store) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let room = self.room.clone().acquire_owned().await.map_err(|_| Error::Closed)?;
        let (reply, answer) = oneshot::channel();
        {
            let mut state = self.state();
            if state.finished {
                return Err(Error::Closed);
            }
            state.pressing += 1;
            state.jobs.push_back(Job::Ask(Box::new(Ask { work, value: None, reply, _room: room })));
        }
        self.filled.notify_one();
        answer.await.map_err(|_| Error::Closed)?
    }

    /// The end of something that was intended is `pressing`: its commit begins at once. Anything else shares the next one.
    pub(super) fn push_lazy(&self, entry: Unawaited) {
        let mut state = self
            .drained
            .wait_while(self.state(), |state| state.jobs.len() >= LAZY && !state.finished)
            .unwrap_or_else(PoisonError::into_inner);
        if state.finished {
            // The next awaited call says so to whoever goes on.
            let entry = &entry.entry.entry;
            tracing::warn!(run = %entry.run, path = entry.path, "entry after the journal was closed");
            return;
        }
        let pressing = entry.settles.is_some();
        state.pressing += usize::from(pressing);
        state.jobs.push_back(Job::Lazy(entry));
        if pressing || state.asleep || state.jobs.len() == LAZY {
            drop(state);
            self.filled.notify_one();
        }
    }

    /// All that is queued, as soon as something is pressing; lazy entries alone wait up to [`LINGER`] for company. `None` once
    /// finished and empty.
    pub(super) fn drain(&self) -> Option<Vec<Job>> {
        let mut state = self.state();
        loop {
            let nothing_presses = |state: &mut State| !state.finished && state.pressing == 0 && state.jobs.len() < LAZY;
            (state, _) =
                self.filled.wait_timeout_while(state, LINGER, nothing_presses).unwrap_or_else(PoisonError::into_inner);
            if !state.jobs.is_empty() || state.finished {
                break;
            }
            state.asleep = true;
            let nothing = |state: &mut State| !state.finished && state.jobs.is_empty();
            state = self.filled.wait_while(state, nothing).unwrap_or_else(PoisonError::into_inner);
            state.asleep = false;
        }
        if state.jobs.is_empty() {
            return None;
        }
        state.pressing = 0;
        let jobs = state.jobs.drain(..).collect();
        drop(state);
        self.drained.notify_all();
        Some(jobs)
    }

    /// Refuses more; the writer does what is there and ends.
    pub(super) fn finish(&self) {
        self.state().finished = true;
        self.room.close();
        self.filled.notify_all();
        self.drained.notify_all();
    }

    /// For the writer's end, however it comes: nobody waits for an answer that will not be given.
    pub(super) fn abandon(&self) {
        self.finish();
        let mut state = self.state();
        state.jobs.clear();
        state.pressing = 0;
    }
}
