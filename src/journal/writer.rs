//! The one writer: a thread that owns the connection and commits in groups.
//!
//! Everything queued at one moment goes into one transaction and one fsync; then all waiters are answered. If the transaction
//! fails nothing of it counts: each waiter gets the error (after a failure that can be one call's own fault each call is tried
//! by itself first), lazy entries stay for the next try, and what is cached is read anew. The thread lives through all of it.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use rusqlite::{Connection, OptionalExtension as _};

use super::blobs::Blobs;
use super::entries::Unawaited;
use super::error::Error;
use super::grants::Money;
use super::lock::Lock;
use super::queue::{Job, Queue, Work};
use super::{DATABASE, DaemonCaps, Watches, migrate};
use crate::base::clock::Timestamp;
use crate::base::env::Env;
use crate::base::ids::RunId;

/// Calls and entries of one transaction: enough that the fsync is a small part of it, and few enough that the first of a
/// thousand need not wait for the last.
const BATCH: usize = 256;
/// Run numbers remembered before the memory is emptied.
const RUNS: usize = 10_000;

/// The database as the writer sees it, with caches that are true within the open transaction.
pub(super) struct Store {
    conn: Connection,
    blobs: Blobs,
    env: Env,
    path: PathBuf,
    epoch: i64,
    cache: Cache,
    caps: Arc<Mutex<DaemonCaps>>,
    /// Of the transaction.
    now: Timestamp,
    news: News,
    die_after: Option<i64>,
    /// Kept for the time of the connection, and released after it.
    _lock: Lock,
}

/// Read from the database when first needed, forgotten after a rollback.
#[derive(Default)]
struct Cache {
    last_seq: Option<i64>,
    run_nos: HashMap<RunId, i64>,
    /// Open runs with nothing but their first entry: the queue of the daemon.
    waiting: Option<HashSet<i64>>,
    money: Money,
}

/// What the transaction will have to tell once it is durable.
#[derive(Clone, Copy, Default)]
struct News {
    settled: bool,
    signal: bool,
    /// Signals were taken.
    taken: bool,
}

impl Store {
    pub(super) fn open(
        dir: &Path,
        env: &Env,
        build_id: &str,
        take_over: bool,
        caps: Arc<Mutex<DaemonCaps>>,
        lock: Lock,
    ) -> Result<Self, Error> {
        let path = dir.join(DATABASE);
        let conn = migrate::open_holder(&path, migrate::MIGRATIONS)?;
        let blobs = Blobs::at(dir);
        blobs.prepare()?;
        let mut store = Self {
            conn,
            blobs,
            env: env.clone(),
            path,
            epoch: 0,
            cache: Cache::default(),
            caps,
            now: env.now(),
            news: News::default(),
            die_after: None,
            _lock: lock,
        };
        store.take_office(dir, build_id, take_over)?;
        Ok(store)
    }

    /// Raises the epoch: whoever wrote before is stale from here on.
    fn take_office(&mut self, dir: &Path, build_id: &str, take_over: bool) -> Result<(), Error> {
        self.conn.execute_batch("BEGIN IMMEDIATE")?;
        let restored: Option<i64> =
            self.conn.query_row("SELECT value FROM meta WHERE key = 'restored'", [], |row| row.get(0)).optional()?;
        if restored.is_some() && !take_over {
            self.rollback();
            return Err(Error::Restored { dir: dir.to_owned() });
        }
        self.conn.execute("DELETE FROM meta WHERE key = 'restored'", [])?;
        let set = "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = excluded.value";
        self.epoch = self.stored_epoch()?.unwrap_or(0) + 1;
        self.conn.execute(set, ("epoch", self.epoch))?;
        self.conn.execute(set, ("build_id", build_id))?;
        self.conn.execute_batch("COMMIT")?;
        self.last()?;
        Ok(())
    }

    pub(super) fn die_after(mut self, seq: Option<i64>) -> Self {
        self.die_after = seq;
        self
    }

    /// Refuses what comes after the entry at which a crash test lets this holder die.
    pub(super) fn alive(&self, last: i64) -> Result<(), Error> {
        if self.die_after.is_some_and(|seq| last >= seq) { Err(Error::Closed) } else { Ok(()) }
    }

    pub(super) fn epoch(&self) -> i64 {
        self.epoch
    }

    pub(super) fn conn(&self) -> &Connection {
        &self.conn
    }

    pub(super) fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    pub(super) fn now(&self) -> Timestamp {
        self.now
    }

    /// The connection and the money caches, to be used together.
    pub(super) fn money(&mut self) -> (&Connection, &mut Money) {
        (&self.conn, &mut self.cache.money)
    }

    pub(super) fn caps(&self) -> DaemonCaps {
        *self.caps.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn stored_epoch(&self) -> Result<Option<i64>, Error> {
        let mut statement = self.conn.prepare_cached("SELECT value FROM meta WHERE key = 'epoch'")?;
        Ok(statement.query_row([], |row| row.get(0)).optional()?)
    }

    fn last(&mut self) -> Result<i64, Error> {
        match self.cache.last_seq {
            Some(seq) => Ok(seq),
            None => {
                let seq = self.conn.query_row("SELECT coalesce(max(seq), 0) FROM entries", [], |row| row.get(0))?;
                self.cache.last_seq = Some(seq);
                Ok(seq)
            }
        }
    }

    /// The number of the last entry; known from the beginning of each transaction.
    pub(super) fn last_seq(&self) -> i64 {
        self.cache.last_seq.unwrap_or_default()
    }

    pub(super) fn next_seq(&mut self) -> i64 {
        let next = self.last_seq() + 1;
        self.cache.last_seq = Some(next);
        next
    }

    /// The row number of a run.
    pub(super) fn run_no(&mut self, run: &RunId) -> Result<i64, Error> {
        if let Some(no) = self.cache.run_nos.get(run) {
            return Ok(*no);
        }
        let no: Option<i64> = self
            .conn
            .prepare_cached("SELECT no FROM runs WHERE id = ?1")?
            .query_row([run.as_str()], |row| row.get(0))
            .optional()?;
        let no = no.ok_or_else(|| Error::NoRun(run.clone()))?;
        self.know_run(run, no);
        Ok(no)
    }

    /// Remembers the row number of a run.
    pub(super) fn know_run(&mut self, run: &RunId, no: i64) {
        if self.cache.run_nos.len() >= RUNS {
            self.cache.run_nos.clear();
        }
        self.cache.run_nos.insert(run.clone(), no);
    }

    /// Runs that were claimed and have not begun.
    pub(super) fn waiting(&mut self) -> Result<&mut HashSet<i64>, Error> {
        if self.cache.waiting.is_none() {
            let mut statement = self.conn.prepare_cached(
                "SELECT no FROM runs WHERE outcome IS NULL
                 AND NOT EXISTS (SELECT 1 FROM entries e WHERE e.run = runs.no AND e.seq > runs.first_seq)",
            )?;
            let found = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
            self.cache.waiting = Some(found);
        }
        Ok(self.cache.waiting.get_or_insert_default())
    }

    /// A run has an entry beside its first.
    pub(super) fn begun(&mut self, run: i64) {
        if let Some(waiting) = &mut self.cache.waiting {
            waiting.remove(&run);
        }
    }

    /// A run has ended: what is remembered of it is not needed any more.
    pub(super) fn forget(&mut self, run: &RunId) {
        self.cache.run_nos.remove(run);
        self.cache.money.forget(run);
    }

    pub(super) fn tell_settled(&mut self) {
        self.news.settled = true;
    }

    pub(super) fn tell_signal(&mut self) {
        self.news.signal = true;
    }

    pub(super) fn tell_taken(&mut self) {
        self.news.taken = true;
    }

    fn begin(&mut self) -> Result<(), Error> {
        self.conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        self.now = self.env.now();
        self.news = News::default();
        let current = self.stored_epoch()?.unwrap_or(0);
        if current != self.epoch {
            return Err(Error::Stale { mine: self.epoch, current });
        }
        let last = self.last()?;
        self.alive(last)
    }

    fn commit(&mut self) -> Result<(), Error> {
        self.conn.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }

    fn rollback(&mut self) {
        self.cache = Cache::default();
        if !self.conn.is_autocommit()
            && let Err(error) = self.conn.execute_batch("ROLLBACK")
        {
            // SQLite rolls back by itself when the next transaction finds the old one broken.
            tracing::error!(%error, "rolling back");
        }
    }

    /// Does `work` in a transaction of its own: all of it is durable, or nothing.
    fn transaction(&mut self, mut work: impl FnMut(&mut Self) -> Result<(), Error>) -> Result<(), Error> {
        let done = self.begin().and_then(|()| work(self)).and_then(|()| self.commit());
        done.map_err(|error| {
            self.rollback();
            error.at(&self.path)
        })
    }

    fn tell(&mut self, seen: &Watches) {
        let news = std::mem::take(&mut self.news);
        let last = self.last_seq();
        seen.entries.send_if_modified(|seq| std::mem::replace(seq, last) != last);
        if news.settled {
            seen.settled.send_modify(|n| *n += 1);
        }
        if news.signal || news.taken {
            // Before anybody is woken to look.
            seen.waiting_signals.store(self.waiting_signals(), Ordering::Release);
        }
        if news.signal {
            seen.signals.send_modify(|n| *n += 1);
        }
    }

    /// Truncates the WAL; the next opening is then quick and backups are one file.
    fn checkpoint(&self) {
        let done: Result<i64, _> = self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
        if let Err(error) = done {
            tracing::warn!(%error, "checkpointing the journal");
        }
    }
}

/// Runs the writer until the queue is finished.
pub(super) fn start(store: Store, queue: Arc<Queue>, seen: Watches) -> Result<std::thread::JoinHandle<()>, Error> {
    let path = store.path.clone();
    let work = move || {
        let _ended = Ended(&queue);
        let mut writer = Writer { store, seen, lazy: Vec::new() };
        while let Some(jobs) = queue.drain() {
            writer.work(jobs);
        }
        if !writer.lazy.is_empty() {
            writer.write(Vec::new());
        }
        if !writer.lazy.is_empty() {
            tracing::error!(entries = writer.lazy.len(), "entries could not be written before the journal closed");
        }
        writer.store.checkpoint();
    };
    let thread = std::thread::Builder::new().name("journal".to_owned()).spawn(work);
    thread.map_err(|error| Error::io("starting the writer of", &path, error))
}

/// However the thread ends, nobody is left waiting.
struct Ended<'a>(&'a Queue);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

struct Writer {
    store: Store,
    seen: Watches,
    /// Lazy entries that are not on disk yet; they go before everything else.
    lazy: Vec<Unawaited>,
}

/// One step of a transaction.
enum Step {
    /// So many of the lazy entries have to be written before the next call.
    Lazy(usize),
    Ask(Box<dyn Work>),
}

impl Writer {
    fn work(&mut self, jobs: Vec<Job>) {
        let mut jobs = jobs.into_iter();
        loop {
            let mut steps = vec![Step::Lazy(self.lazy.len())];
            for job in jobs.by_ref().take(BATCH) {
                match (job, steps.last_mut()) {
                    (Job::Lazy(entry), Some(Step::Lazy(up_to))) => {
                        self.lazy.push(entry);
                        *up_to = self.lazy.len();
                    }
                    (Job::Lazy(entry), _) => {
                        self.lazy.push(entry);
                        steps.push(Step::Lazy(self.lazy.len()));
                    }
                    (Job::Ask(work), _) => steps.push(Step::Ask(work)),
                }
            }
            self.write(steps);
            if jobs.len() == 0 {
                return;
            }
        }
    }

    /// Writes all of it as one transaction; failing that, each call by itself.
    fn write(&mut self, mut steps: Vec<Step>) {
        if steps.is_empty() {
            steps.push(Step::Lazy(self.lazy.len()));
        }
        match self.attempt(&mut steps) {
            Ok(()) => {
                self.lazy.clear();
                self.store.tell(&self.seen);
                answer(steps, &Ok(()));
            }
            Err(error) if error.is_passing() || matches!(error, Error::Stale { .. } | Error::Corrupt { .. }) => {
                tracing::warn!(%error, "the journal could not be written");
                answer(steps, &Err(error));
            }
            Err(_) => self.one_by_one(steps),
        }
    }

    fn attempt(&mut self, steps: &mut [Step]) -> Result<(), Error> {
        let lazy = &self.lazy;
        self.store.transaction(|store| {
            let mut written = 0;
            for step in &mut *steps {
                match step {
                    Step::Lazy(up_to) => {
                        for entry in lazy.get(written..*up_to).unwrap_or_default() {
                            store.insert_unawaited(entry)?;
                        }
                        written = (*up_to).max(written);
                    }
                    Step::Ask(work) => work.attempt(store)?,
                }
            }
            Ok(())
        })
    }

    /// One of the calls failed for a reason of its own: the others shall not suffer.
    fn one_by_one(&mut self, steps: Vec<Step>) {
        let mut lazy = std::mem::take(&mut self.lazy).into_iter();
        let mut taken = 0;
        for step in steps {
            match step {
                Step::Lazy(up_to) => {
                    self.lazy.extend(lazy.by_ref().take(up_to.saturating_sub(taken)));
                    taken = up_to.max(taken);
                    if let Err(error) = self.write_lazy() {
                        tracing::warn!(%error, "the journal could not be written");
                    }
                }
                Step::Ask(mut work) => {
                    // While lazy entries cannot be written nothing may go before them.
                    let done = match self.write_lazy() {
                        Ok(()) => self.store.transaction(|store| work.attempt(store)),
                        Err(error) => Err(error),
                    };
                    if done.is_ok() {
                        self.store.tell(&self.seen);
                    }
                    work.answer(done);
                }
            }
        }
        self.lazy.extend(lazy);
    }

    /// Writes the lazy entries, each by itself. One that never can be written is a mistake of the caller: it is dropped loudly.
    fn write_lazy(&mut self) -> Result<(), Error> {
        while let Some(entry) = self.lazy.first() {
            match self.store.transaction(|store| store.insert_unawaited(entry)) {
                Ok(()) => self.store.tell(&self.seen),
                Err(error @ (Error::NoRun(_) | Error::Sql(_))) => {
                    let entry = &entry.entry.entry;
                    tracing::error!(%error, run = %entry.run, path = entry.path, kind = %entry.kind, "an entry is lost");
                }
                Err(error) => return Err(error),
            }
            self.lazy.remove(0);
        }
        Ok(())
    }
}

fn answer(steps: Vec<Step>, outcome: &Result<(), Error>) {
    for step in steps {
        if let Step::Ask(work) = step {
            work.answer(outcome.clone());
        }
    }
}
