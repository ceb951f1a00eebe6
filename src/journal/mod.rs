//! The journal: SQLite, the only truth about runs, slots, signals and money.
//!
//! [`Journal`] is the holder's handle: one per state directory, guarded by a lock and an epoch. All writing happens on one
//! thread with group commit (`writer`); an answer means that what was asked is on disk. [`Reader`] reads beside a writer, from
//! any process. Nothing here decides what a run does next: `replay` hands out records, the engine judges them.
//!
//! Invariants: entries are never edited and their numbers grow; what belongs together (claim, run and slot; grant and
//! intention; end and settlement; signal taken and its record) is one transaction; every transaction checks the epoch; every
//! payload passes the redactor before it is stored.

mod answers;
mod blobs;
mod definitions;
mod deliveries;
mod entries;
mod error;
mod errors;
mod findings;
mod grants;
mod lock;
mod migrate;
mod parked;
mod queue;
mod reader;
mod redact;
mod replay;
mod runs;
mod signals;
mod slots;
mod tied;
mod ties;
mod views;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::watch;

pub use answers::{Answer, Answered};
pub use definitions::StoredDefinition;
pub use deliveries::{
    DecidedError, Delivery, ErrorClaim, ErrorClaimed, Listener, MOST_WAITING, Noted, Rate, SeenError, WaitingError,
};
pub use error::Error;
pub use errors::{ErrorBounds, ErrorRetention, PreparedErrors};
pub use findings::FindingFilter;
pub use parked::{ParkedRun, RefusedSecret};
pub use reader::{Reader, RunFilter};
pub use replay::{Record, ReplayRecords};
pub use runs::{Claim, Claimed, RunFinish};
pub use slots::ScheduleState;
pub use tied::Tied;
pub use ties::{NewTie, NotPlanned};

use crate::base::clock::Timestamp;
use crate::base::env::Env;
use crate::base::hash::Hash;
use crate::base::ids::RunId;
use crate::base::money::UsdMicros;
use crate::domain::entry::NewEntry;
use crate::domain::money::{Grant, GrantRequest, Settlement};
use crate::domain::view::SlotLine;
use crate::ports::durable::SignalValue;

use entries::{Prepared, Unawaited};
use queue::Queue;
use writer::Store;

/// Removes the journal of a state directory that nobody holds, and the folders `beside` it. What stays is as never used.
///
/// Errors: `Held`, and `Io` with the rest left where it was.
pub fn clear(dir: &Path, beside: &[&str]) -> Result<(), Error> {
    let _lock = lock::Lock::take(dir, "nightcrew, clearing")?;
    let gone = |path: PathBuf, removed: std::io::Result<()>| match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("removing", &path, error)),
        Ok(()) | Err(_) => Ok(()),
    };
    // The database first: what is left behind by an interruption must not look like a journal without its blobs.
    for suffix in ["", "-wal", "-shm"] {
        let path = dir.join(format!("{DATABASE}{suffix}"));
        let removed = std::fs::remove_file(&path);
        gone(path, removed)?;
    }
    for folder in ["blobs"].iter().chain(beside) {
        let path = dir.join(folder);
        let mut removed = std::fs::remove_dir_all(&path);
        // A process of one that was killed may still be writing there, for a moment.
        for _ in 0..40 {
            match &removed {
                Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
                    std::thread::sleep(std::time::Duration::from_millis(50));
                    removed = std::fs::remove_dir_all(&path);
                }
                Ok(()) | Err(_) => break,
            }
        }
        gone(path, removed)?;
    }
    Ok(())
}

/// The database's file name in the state directory.
pub const DATABASE: &str = "nightcrew.db";

/// Takes secrets out of a text; `None` when there is nothing to take out. Must be idempotent.
pub type Redactor = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// How to open a journal as its holder.
#[derive(Clone)]
pub struct OpenOptions {
    pub env: Env,
    /// Identifies the binary; written into `RunResumed` entries and the lock file.
    pub build_id: String,
    /// Go to work on a restored backup.
    pub take_over: bool,
    /// Applied to every payload before it is stored.
    pub redactor: Option<Redactor>,
    /// For crash tests: nothing is written after the entry of this number, as if the process had died there.
    pub die_after: Option<i64>,
}

impl OpenOptions {
    pub fn new(env: Env, build_id: impl Into<String>) -> Self {
        Self { env, build_id: build_id.into(), take_over: false, redactor: None, die_after: None }
    }
    pub fn take_over(mut self, take_over: bool) -> Self {
        self.take_over = take_over;
        self
    }
    pub fn redactor(mut self, redactor: Redactor) -> Self {
        self.redactor = Some(redactor);
        self
    }
}

impl std::fmt::Debug for OpenOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenOptions").field("build_id", &self.build_id).field("take_over", &self.take_over).finish()
    }
}

/// Caps over all pipelines, by UTC day and UTC month. `None`: not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DaemonCaps {
    pub max_per_day: Option<UsdMicros>,
    pub max_per_month: Option<UsdMicros>,
}

/// The answer of [`Journal::intend`].
#[derive(Clone, Debug, PartialEq)]
pub struct Intended {
    /// Of the `ActivityIntended` entry; 0 when the grant was not given and so nothing was written.
    pub seq: i64,
    /// The answer to the grant that was asked for.
    pub grant: Option<Grant>,
}

/// The holder's handle. Cheap to clone; the last one dropped flushes what is queued and releases the lock.
///
/// Every async method here is cancel safe in this sense: a dropped future does not undo what it has queued.
#[derive(Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

struct Inner {
    queue: Arc<Queue>,
    reader: Reader,
    epoch: i64,
    build_id: String,
    redactor: Option<Redactor>,
    caps: Arc<Mutex<DaemonCaps>>,
    seen: Watches,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// What the writer tells after each commit.
#[derive(Clone)]
struct Watches {
    entries: watch::Sender<i64>,
    settled: watch::Sender<u64>,
    signals: watch::Sender<u64>,
    /// Signals that nobody has taken, of all runs: none is the usual answer, and costs nothing.
    waiting_signals: Arc<AtomicU64>,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("dir", &self.inner.reader.dir()).field("epoch", &self.inner.epoch).finish()
    }
}

impl Inner {
    fn thread(&self) -> MutexGuard<'_, Option<std::thread::JoinHandle<()>>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the writer finish what is queued, and waits for it: afterwards the lock is free.
    fn stop(&self) {
        self.queue.finish();
        let thread = self.thread().take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the journal's writer thread panicked");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Journal {
    /// Takes the lock of `dir` (made with mode 0700 if missing), opens or migrates the database (0600), raises the epoch and
    /// starts the writer thread.
    ///
    /// Errors: `Held`, `Newer`, `OldSqlite`, `Restored`, `Corrupt`, `Full`, `Io`. Blocks for some milliseconds.
    pub fn open(dir: &Path, options: OpenOptions) -> Result<Self, Error> {
        let OpenOptions { env, build_id, take_over, redactor, die_after } = options;
        let lock = lock::Lock::take(dir, &format!("nightcrew {build_id}, since {:.0}", env.now()))?;
        let path = dir.join(DATABASE);
        let caps = Arc::new(Mutex::new(DaemonCaps::default()));
        let store =
            Store::open(dir, &env, &build_id, take_over, caps.clone(), lock).map_err(|error| error.at(&path))?;
        let store = store.die_after(die_after);
        let epoch = store.epoch();
        let seen = Watches {
            entries: watch::Sender::new(store.last_seq()),
            settled: watch::Sender::new(0),
            signals: watch::Sender::new(0),
            waiting_signals: Arc::new(AtomicU64::new(store.waiting_signals())),
        };
        let reader = Reader::open(dir)?;
        let queue = Arc::new(Queue::new());
        let thread = writer::start(store, queue.clone(), seen.clone())?;
        let thread = Mutex::new(Some(thread));
        Ok(Self { inner: Arc::new(Inner { queue, reader, epoch, build_id, redactor, caps, seen, thread }) })
    }

    /// Reads of what is durable. For what is only queued, [`Journal::sync`] first.
    pub fn reader(&self) -> &Reader {
        &self.inner.reader
    }

    pub fn epoch(&self) -> i64 {
        self.inner.epoch
    }

    pub fn dir(&self) -> PathBuf {
        self.inner.reader.dir().to_owned()
    }

    /// Does `work` on the writer thread in a transaction that others share, and answers once it is durable.
    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut Store) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.inner.queue.ask(work).await
    }

    fn prepare(&self, entry: NewEntry) -> Prepared {
        Prepared::new(NewEntry { payload: self.redact(entry.payload), ..entry })
    }

    /// What would be stored for this payload. The engine gives logic this form, so that it sees the same again on replay.
    pub fn redact(&self, payload: Box<RawValue>) -> Box<RawValue> {
        match &self.inner.redactor {
            Some(redactor) => redact::json(redactor, payload),
            None => payload,
        }
    }

    fn redact_text(&self, text: &str) -> String {
        self.inner.redactor.as_ref().and_then(|redactor| redactor(text)).unwrap_or_else(|| text.to_owned())
    }

    /// Writes entries, in order, in one transaction; durable when it returns. Answers their sequence numbers.
    pub async fn append(&self, entries: Vec<NewEntry>) -> Result<Vec<i64>, Error> {
        let entries: Vec<_> = entries.into_iter().map(|entry| self.prepare(entry)).collect();
        self.ask(move |store| entries.iter().map(|entry| store.insert(entry)).collect()).await
    }

    /// Queues an entry: it shares the next commit and stands before everything that is queued later.
    ///
    /// While the disk is full it is kept and tried again with every later call, which fail with the reason meanwhile. Blocks
    /// only when the writer is thousands of entries behind.
    pub fn append_lazy(&self, entry: NewEntry) {
        self.inner.queue.push_lazy(Unawaited { entry: self.prepare(entry), settles: None });
    }

    /// THE claim: run, slot and `RunStarted` in one transaction. Every trigger calls this and only this.
    pub async fn claim(&self, claim: Claim) -> Result<Claimed, Error> {
        let started = self.prepare(claim.started_entry()?);
        let Claim { start, mut slot, max_queued } = claim;
        if let Some(slot) = &mut slot {
            slot.reason = self.redact_text(&slot.reason);
        }
        self.ask(move |store| store.claim(&start, slot.as_ref(), max_queued, &started)).await
    }

    /// A guarded activity is about to begin: its grant (if asked for) and its `ActivityIntended` in one durable transaction.
    ///
    /// When the grant is given, `grant_usd_micros` is set in the payload. On [`Grant::Wait`] and [`Grant::Refused`] nothing is
    /// written. Take [`Journal::settled`] before the call if you mean to wait.
    pub async fn intend(&self, entry: NewEntry, grant: Option<GrantRequest>) -> Result<Intended, Error> {
        let entry = self.prepare(entry);
        self.ask(move |store| store.intend(&entry, grant.as_ref())).await
    }

    /// The end of a guarded activity: its done or failed entry, and what it really cost.
    ///
    /// Without a settlement an open grant of this activity stays charged as granted. Answers the entry's number.
    pub async fn settle(&self, entry: NewEntry, intended: i64, settlement: Option<Settlement>) -> Result<i64, Error> {
        let entry = self.prepare(entry);
        self.ask(move |store| {
            let seq = store.insert(&entry)?;
            store.settle_grant(&entry.entry.run, intended, settlement.as_ref())?;
            Ok(seq)
        })
        .await
    }

    /// As [`Journal::settle`] for an act that ended well, without waiting: its commit begins at once, and whatever is asked of
    /// the journal later stands behind it, so nothing can be intended that does not find it on disk.
    ///
    /// Kept and tried again like an entry of [`Journal::append_lazy`].
    pub fn settle_soon(&self, entry: NewEntry, intended: i64, settlement: Settlement) {
        self.inner.queue.push_lazy(Unawaited { entry: self.prepare(entry), settles: Some((intended, settlement)) });
    }

    /// Changes at every settlement: whoever got [`Grant::Wait`] asks again.
    pub fn settled(&self) -> watch::Receiver<u64> {
        self.inner.seen.settled.subscribe()
    }

    /// Grants of this run that nobody will settle any more (its activities were dropped) stay charged as granted and stop
    /// others from waiting for them. Finishing and resuming a run do this by themselves, and so does a restart.
    pub async fn abandon_grants(&self, run: &RunId) -> Result<(), Error> {
        let run = run.clone();
        self.ask(move |store| store.abandon_grants(&run)).await
    }

    /// Caps over all pipelines, from the daemon's configuration. In force from the next grant.
    pub fn set_daemon_limits(&self, caps: DaemonCaps) {
        *self.inner.caps.lock().unwrap_or_else(PoisonError::into_inner) = caps;
    }

    /// The run ends: `RunFinished` and its row. `Error::Ended` if it already has.
    pub async fn finish_run(&self, run: &RunId, finish: RunFinish) -> Result<(), Error> {
        let entry = self.prepare(finish.entry(run)?);
        let finish = RunFinish {
            failure: finish.failure.map(|mut failure| {
                failure.message = self.redact_text(&failure.message);
                failure
            }),
            headline: self.redact_text(&finish.headline),
            ..finish
        };
        self.ask(move |store| store.finish_run(&entry, &finish)).await
    }

    /// A run is taken up again: `RunResumed`, its row reopened, its cap and its pipeline's day cap lifted by `add`.
    ///
    /// `person` in the payload tells whether the run had ended, so that somebody's decision reopened it; a run that was merely
    /// interrupted goes on exactly where it was.
    pub async fn resume_run(&self, run: &RunId, add: UsdMicros, by: &str) -> Result<(), Error> {
        let (run, by, build_id) = (run.clone(), by.to_owned(), self.inner.build_id.clone());
        self.ask(move |store| store.resume_run(&run, add, &by, &build_id, None)).await
    }

    /// Records a person's signal to `path` (`""`: the whole run). `Error::Ended` for a run that is no longer open.
    pub async fn signal(&self, run: &RunId, path: &str, name: &str, value: Value, by: &str) -> Result<i64, Error> {
        let signal = signals::entry(run, path, name, value, by)?;
        let entry = self.prepare(signal);
        let name = name.to_owned();
        self.ask(move |store| store.signal(&entry, &name)).await
    }

    /// Takes the oldest signal of that name to `path` or to the whole run, and records it as a `Value` at `value_path` in the
    /// same transaction, as the JSON of [`SignalValue`]. Each signal is taken once.
    pub async fn take_signal(
        &self,
        run: &RunId,
        path: &str,
        name: &str,
        value_path: &str,
    ) -> Result<Option<SignalValue>, Error> {
        if self.inner.seen.waiting_signals.load(Ordering::Acquire) == 0 {
            return Ok(None);
        }
        let (run, path, name, value_path) = (run.clone(), path.to_owned(), name.to_owned(), value_path.to_owned());
        self.ask(move |store| store.take_signal(&run, &path, &name, &value_path)).await
    }

    /// Changes at each new signal.
    pub fn signals(&self) -> watch::Receiver<u64> {
        self.inner.seen.signals.subscribe()
    }

    /// Keeps a definition: the pipeline's files by path, and the settings that bind it. The first text under a hash stays.
    pub async fn put_definition(
        &self,
        pipeline: &str,
        hash: Hash,
        files: &[(String, String)],
        settings: &[(String, String)],
    ) -> Result<(), Error> {
        let definition =
            StoredDefinition { pipeline: pipeline.to_owned(), files: files.to_vec(), settings: settings.to_vec() };
        self.ask(move |store| store.put_definition(&hash, &definition)).await
    }

    /// Stores bytes under their hash. Text passes the redactor first, so the hash is that of what is stored.
    pub async fn put_blob(&self, bytes: Vec<u8>) -> Result<Hash, Error> {
        let bytes = match std::str::from_utf8(&bytes).ok().zip(self.inner.redactor.as_ref()) {
            Some((text, redactor)) => redactor(text).map_or(bytes, String::into_bytes),
            None => bytes,
        };
        let hash = Hash::of(&bytes);
        self.ask(move |store| store.put_blob(&hash, &bytes)).await?;
        Ok(hash)
    }

    /// Records what became of slots. A slot that is already decided stays as it is; only `queued` may become something else.
    pub async fn record_slots(&self, slots: Vec<SlotLine>) -> Result<(), Error> {
        let slots: Vec<_> =
            slots.into_iter().map(|slot| SlotLine { reason: self.redact_text(&slot.reason), ..slot }).collect();
        self.ask(move |store| store.record_slots(&slots)).await
    }

    /// How far the schedule of a pipeline has been decided.
    pub async fn schedule_state(&self, pipeline: &str) -> Result<Option<ScheduleState>, Error> {
        let pipeline = pipeline.to_owned();
        self.ask(move |store| store.schedule_state(&pipeline)).await
    }

    pub async fn set_schedule_state(&self, pipeline: &str, state: ScheduleState) -> Result<(), Error> {
        let pipeline = pipeline.to_owned();
        self.ask(move |store| store.set_schedule_state(&pipeline, &state)).await
    }

    /// Pauses a pipeline with a reason for people, or goes on with it.
    pub async fn set_paused(&self, pipeline: &str, paused: Option<String>) -> Result<(), Error> {
        let pipeline = pipeline.to_owned();
        let paused = paused.map(|reason| self.redact_text(&reason));
        self.ask(move |store| store.set_paused(&pipeline, paused.as_deref())).await
    }

    /// Everything that was queued before is durable when it returns.
    pub async fn sync(&self) -> Result<(), Error> {
        self.ask(|_| Ok(())).await
    }

    /// The number of the last durable entry: for `logs -f` and SSE.
    pub fn entries(&self) -> watch::Receiver<i64> {
        self.inner.seen.entries.subscribe()
    }

    /// Flushes, checkpoints and releases the lock. Calls of other clones get `Error::Closed` from here on.
    pub async fn close(self) -> Result<(), Error> {
        let flushed = self.sync().await;
        // The writer ends within its last commit and a checkpoint.
        self.inner.stop();
        flushed
    }
}

/// A moment as the database keeps it: microseconds since 1970, UTC.
fn micros(at: Timestamp) -> i64 {
    at.as_microsecond()
}

fn from_micros(at: i64) -> Result<Timestamp, Error> {
    Timestamp::from_microsecond(at).map_err(|error| Error::record("time", error))
}

/// Serialises plain data. Cannot fail for our types; the error says which if one ever does.
fn raw(value: &impl serde::Serialize) -> Result<Box<RawValue>, Error> {
    serde_json::value::to_raw_value(value).map_err(|error| Error::record("to be written", error))
}

#[cfg(test)]
mod tests;
