//! The bounded queue in front of the writer thread.
//!
//! Order is the order of pushing. Awaited work waits for room without blocking its thread; lazy entries are counted too and
//! block only when the writer is far behind, which bounds memory.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::entries::Prepared;
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
    /// How many of them are awaited.
    awaited: usize,
    /// No more may be pushed; what is there is still done.
    finished: bool,
}

pub(super) enum Job {
    Lazy(Prepared),
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
            state.awaited += 1;
            state.jobs.push_back(Job::Ask(Box::new(Ask { work, value: None, reply, _room: room })));
        }
        self.filled.notify_one();
        answer.await.map_err(|_| Error::Closed)?
    }

    pub(super) fn push_lazy(&self, entry: Prepared) {
        let mut state = self
            .drained
            .wait_while(self.state(), |state| state.jobs.len() >= LAZY && !state.finished)
            .unwrap_or_else(PoisonError::into_inner);
        if state.finished {
            // The next awaited call says so to whoever goes on.
            tracing::warn!(run = %entry.entry.run, path = entry.entry.path, "entry after the journal was closed");
            return;
        }
        state.jobs.push_back(Job::Lazy(entry));
        // It shares the commit of the next awaited call; only a writer that waits for anything at all has to know of it.
        if matches!(state.jobs.len(), 1 | LAZY) {
            drop(state);
            self.filled.notify_one();
        }
    }

    /// All that is queued, as soon as something is awaited; lazy entries alone wait up to [`LINGER`] for company. `None` once
    /// finished and empty.
    pub(super) fn drain(&self) -> Option<Vec<Job>> {
        let nothing = |state: &mut State| !state.finished && state.jobs.is_empty();
        let state = self.filled.wait_while(self.state(), nothing).unwrap_or_else(PoisonError::into_inner);
        let only_lazy = |state: &mut State| !state.finished && state.awaited == 0 && state.jobs.len() < LAZY;
        let (mut state, _) =
            self.filled.wait_timeout_while(state, LINGER, only_lazy).unwrap_or_else(PoisonError::into_inner);
        if state.jobs.is_empty() {
            return None;
        }
        state.awaited = 0;
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
        state.awaited = 0;
    }
}
