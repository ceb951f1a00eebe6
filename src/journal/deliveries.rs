//! Tables `deliveries` and `trigger_…`: what reaches the daemon from outside, until it is a run or it is known why not.
//!
//! An error waits in one row per pipeline, however often it is told; a run and the end of its waiting are one transaction. What is
//! told and dropped, because too much waits already, is counted. Who may begin is decided here too, beside the ledger: between
//! looking and claiming nothing can change.

use rusqlite::{OptionalExtension as _, Row, params};
use serde_json::{Map, Value};

use super::entries::{Prepared, word};
use super::error::Error;
use super::reader::Reader;
use super::runs::{Claim, Claimed};
use super::writer::Store;
use super::{Journal, from_micros, micros, raw};
use crate::base::clock::Timestamp;
use crate::base::ids::RunId;
use crate::domain::finding::{FindingState, Seen, Standing};
use crate::policy::findings::{Known, standing};

/// Errors that may wait per pipeline. More are dropped and counted; polling finds them again while they go on happening.
pub const MOST_WAITING: u32 = 1_000;
/// The ledger's name of the source.
const SOURCE: &str = "sentry";
/// Deliveries are remembered so long; nobody sends one again later.
const KEEP_DELIVERIES_S: i64 = 7 * 86_400;
/// What was decided, and what the source said, is remembered so long after the last time.
const KEEP_DECIDED_S: i64 = 90 * 86_400;

/// An error as its source tells of it.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenError {
    /// Its identity in the ledger.
    pub key: String,
    /// What a run is handed: a row as `policy::errors` makes it.
    pub item: Map<String, Value>,
    /// Nothing of it need be asked for.
    pub whole: bool,
    /// When it happened last.
    pub seen_at: Timestamp,
    /// What the source says of it: `new`, `ongoing`, `regressed`, `escalating`… `None`: nothing.
    pub state: Option<String>,
    /// Whoever tells of it knows that it was gone and is back.
    pub back: bool,
}

/// A pipeline that wants to hear of errors, and how long it waits for more of the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub pipeline: String,
    pub debounce: std::time::Duration,
}

/// A delivery of a webhook, by everything that would be the same if it came again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub hook: &'static str,
    pub ids: Vec<String>,
}

/// What was made of what was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// The delivery had come before; nothing was done.
    pub repeated: bool,
    /// Wait now, or waited already.
    pub waiting: u32,
    /// Nothing has happened since it was decided last.
    pub known: u32,
    /// Too many wait.
    pub dropped: u32,
}

/// An error that waits to become a run.
#[derive(Clone, Debug, PartialEq)]
pub struct WaitingError {
    pub pipeline: String,
    pub key: String,
    pub item: Map<String, Value>,
    pub whole: bool,
    pub regressed: bool,
    pub seen_at: Timestamp,
    pub first_at: Timestamp,
    pub due_at: Timestamp,
    pub times: u64,
    pub reason: String,
}

impl WaitingError {
    /// What a run for it is unique by: the error and the window.
    pub fn trigger_key(&self) -> String {
        format!("{}@{}", self.key, micros(self.first_at))
    }
}

/// What became of an error that waited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecidedError {
    pub pipeline: String,
    pub key: String,
    /// `run`, `muted`, `ongoing`, `filtered`, `coalesced`, `resolved`, `gone`, `expired`.
    pub fate: String,
    pub reason: String,
    pub at: Timestamp,
    pub times: u64,
    /// The last run for it.
    pub run: Option<String>,
}

/// How many runs a pipeline may begin by errors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// At once.
    pub burst: u32,
    /// Afterwards, per hour.
    pub per_hour: u32,
}

/// An error asks for its run.
#[derive(Clone, Debug)]
pub struct ErrorClaim {
    pub claim: Claim,
    pub waiting: WaitingError,
    /// As the ledger sees it.
    pub seen: Seen,
    /// Standings that the pipeline wants to hear of.
    pub when: Vec<Standing>,
    pub rate: Rate,
    /// No second run for the same error so soon after the first.
    pub again: std::time::Duration,
}

/// What became of an [`ErrorClaim`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrorClaimed {
    Run(RunId),
    /// It waits no longer: the fate, and why.
    Settled(&'static str, String),
    /// It goes on waiting until then.
    Later(Timestamp, String),
    /// It does not wait any more, or for something newer.
    Gone,
}

impl Store {
    fn take_delivery(&mut self, delivery: &Delivery) -> Result<bool, Error> {
        let now = micros(self.now());
        let mut known = self.conn().prepare_cached("SELECT 1 FROM deliveries WHERE hook = ?1 AND id = ?2")?;
        for id in &delivery.ids {
            if known.exists(params![delivery.hook, id])? {
                return Ok(false);
            }
        }
        let mut insert = self
            .conn()
            .prepare_cached("INSERT INTO deliveries (hook, id, at) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING")?;
        for id in &delivery.ids {
            insert.execute(params![delivery.hook, id, now])?;
        }
        Ok(true)
    }

    fn note_errors(
        &mut self,
        delivery: Option<&Delivery>,
        listeners: &[Listener],
        errors: &[SeenError],
        polled: Option<&(String, Timestamp)>,
    ) -> Result<Noted, Error> {
        let mut noted = Noted::default();
        if let Some(delivery) = delivery
            && !self.take_delivery(delivery)?
        {
            return Ok(Noted { repeated: true, ..noted });
        }
        for error in errors {
            let back = self.has_come_back(error)? || error.back;
            for listener in listeners {
                self.note(listener, error, back, &mut noted)?;
            }
        }
        if let Some((project, seen_to)) = polled {
            self.conn()
                .prepare_cached(
                    "INSERT INTO trigger_polls (project, seen_to) VALUES (?1, ?2)
                     ON CONFLICT DO UPDATE SET seen_to = max(seen_to, excluded.seen_to)",
                )?
                .execute(params![project, micros(*seen_to)])?;
        }
        Ok(noted)
    }

    /// Remembers what the source says of it. True: it had said otherwise before, and now that it is back.
    fn has_come_back(&mut self, error: &SeenError) -> Result<bool, Error> {
        let Some(state) = &error.state else { return Ok(false) };
        let before = self.set_state(&error.key, state)?;
        Ok(state == "regressed" && before.as_deref() != Some("regressed"))
    }

    fn set_state(&mut self, key: &str, state: &str) -> Result<Option<String>, Error> {
        let before: Option<String> = self
            .conn()
            .prepare_cached("SELECT state FROM trigger_states WHERE key = ?1")?
            .query_row([key], |row| row.get(0))
            .optional()?;
        self.conn()
            .prepare_cached(
                "INSERT INTO trigger_states (key, state, at) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET state = excluded.state, at = excluded.at",
            )?
            .execute(params![key, state, micros(self.now())])?;
        Ok(before)
    }

    fn note(&mut self, listener: &Listener, error: &SeenError, back: bool, noted: &mut Noted) -> Result<(), Error> {
        let (pipeline, now, seen_at) = (listener.pipeline.as_str(), micros(self.now()), micros(error.seen_at));
        let waits: Option<String> = self
            .conn()
            .prepare_cached("SELECT item FROM trigger_waiting WHERE pipeline = ?1 AND key = ?2")?
            .query_row(params![pipeline, error.key], |row| row.get(0))
            .optional()?;
        if let Some(before) = waits {
            let item = text(&newer(&before, &error.item)?)?;
            self.conn()
                .prepare_cached(
                    "UPDATE trigger_waiting SET item = ?3, whole = max(whole, ?4), regressed = max(regressed, ?5),
                         seen_at = max(seen_at, ?6), times = times + 1
                     WHERE pipeline = ?1 AND key = ?2",
                )?
                .execute(params![pipeline, error.key, item, error.whole, back, seen_at])?;
            noted.waiting += 1;
            return Ok(());
        }
        let decided: Option<i64> = self
            .conn()
            .prepare_cached("SELECT seen_at FROM trigger_decided WHERE pipeline = ?1 AND key = ?2")?
            .query_row(params![pipeline, error.key], |row| row.get(0))
            .optional()?;
        if decided.is_some_and(|decided| decided >= seen_at) && !back {
            noted.known += 1;
            return Ok(());
        }
        let waiting: u32 = self
            .conn()
            .prepare_cached("SELECT count(*) FROM trigger_waiting WHERE pipeline = ?1")?
            .query_row([pipeline], |row| row.get(0))?;
        if waiting >= MOST_WAITING {
            self.conn()
                .prepare_cached(
                    "INSERT INTO trigger_rates (pipeline, tokens, at, dropped) VALUES (?1, 1e9, ?2, 1)
                     ON CONFLICT DO UPDATE SET dropped = dropped + 1",
                )?
                .execute(params![pipeline, now])?;
            noted.dropped += 1;
            return Ok(());
        }
        let debounce = i64::try_from(listener.debounce.as_micros()).unwrap_or(i64::MAX);
        self.conn()
            .prepare_cached(
                "INSERT INTO trigger_waiting (pipeline, key, item, whole, regressed, seen_at, first_at, due_at, times)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 1)",
            )?
            .execute(params![
                pipeline,
                error.key,
                text(&error.item)?,
                error.whole,
                back,
                seen_at,
                now,
                now.saturating_add(debounce),
            ])?;
        noted.waiting += 1;
        Ok(())
    }

    /// It is resolved or archived over there: nobody waits for it, and if it comes back it is back.
    fn error_over(&mut self, delivery: Option<&Delivery>, key: &str, state: &str, gone: bool) -> Result<Noted, Error> {
        if let Some(delivery) = delivery
            && !self.take_delivery(delivery)?
        {
            return Ok(Noted { repeated: true, ..Noted::default() });
        }
        self.set_state(key, state)?;
        if gone {
            self.conn()
                .prepare_cached(
                    "UPDATE findings SET state = 'fixed', muted_until = NULL, fixed_at = NULL
                     WHERE source = ?1 AND fingerprint = ?2 AND state = 'handled'",
                )?
                .execute(params![SOURCE, key])?;
        }
        let waiting: Vec<(String, i64)> = self
            .conn()
            .prepare_cached("SELECT pipeline, first_at FROM trigger_waiting WHERE key = ?1")?
            .query_map([key], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        for (pipeline, first_at) in waiting {
            let reason = format!("it is {state} where it comes from");
            self.settle_error(&pipeline, key, from_micros(first_at)?, "resolved", &reason, None)?;
        }
        Ok(Noted::default())
    }

    fn waiting_error(&mut self, pipeline: &str, key: &str) -> Result<Option<WaitingError>, Error> {
        let mut statement =
            self.conn().prepare_cached(&format!("{SELECT_WAITING} WHERE pipeline = ?1 AND key = ?2"))?;
        let mut rows = statement.query(params![pipeline, key])?;
        rows.next()?.map(waiting).transpose()
    }

    fn settle_error(
        &mut self,
        pipeline: &str,
        key: &str,
        first_at: Timestamp,
        fate: &str,
        reason: &str,
        run: Option<&RunId>,
    ) -> Result<bool, Error> {
        let now = micros(self.now());
        let waits: Option<(i64, i64)> = self
            .conn()
            .prepare_cached(
                "DELETE FROM trigger_waiting WHERE pipeline = ?1 AND key = ?2 AND first_at = ?3 RETURNING seen_at, times",
            )?
            .query_row(params![pipeline, key, micros(first_at)], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((seen_at, times)) = waits else { return Ok(false) };
        self.conn()
            .prepare_cached(
                "INSERT INTO trigger_decided (pipeline, key, fate, reason, seen_at, at, times, run, run_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, iif(?8 IS NULL, NULL, ?6))
                 ON CONFLICT DO UPDATE SET fate = excluded.fate, reason = excluded.reason,
                     seen_at = max(seen_at, excluded.seen_at), at = excluded.at, times = times + excluded.times,
                     run = coalesce(excluded.run, run), run_at = coalesce(excluded.run_at, run_at)",
            )?
            .execute(params![pipeline, key, fate, reason, seen_at, now, times, run.map(RunId::as_str)])?;
        Ok(true)
    }

    fn postpone_error(
        &mut self,
        pipeline: &str,
        key: &str,
        first_at: Timestamp,
        until: Timestamp,
        reason: &str,
    ) -> Result<(), Error> {
        self.conn()
            .prepare_cached(
                "UPDATE trigger_waiting SET due_at = max(due_at, ?4), reason = ?5
                 WHERE pipeline = ?1 AND key = ?2 AND first_at = ?3",
            )?
            .execute(params![pipeline, key, micros(first_at), micros(until), reason])?;
        Ok(())
    }

    fn claim_error(&mut self, error: &ErrorClaim, started: &Prepared) -> Result<ErrorClaimed, Error> {
        let ErrorClaim { claim, waiting: asked, seen, when, rate, again } = error;
        let (start, now) = (&claim.start, self.now());
        let (pipeline, key) = (start.pipeline.as_str(), asked.key.as_str());
        let Some(waiting) = self.waiting_error(pipeline, key)?.filter(|found| found.first_at == asked.first_at) else {
            return Ok(ErrorClaimed::Gone);
        };
        let settled = |store: &mut Self, fate: &'static str, reason: String| {
            store.settle_error(pipeline, key, waiting.first_at, fate, &reason, None)?;
            Ok(ErrorClaimed::Settled(fate, reason))
        };
        let later = |store: &mut Self, until: Timestamp, reason: String| {
            store.postpone_error(pipeline, key, waiting.first_at, until, &reason)?;
            Ok(ErrorClaimed::Later(until, reason))
        };
        if let Some(run) = self.open_run_for(pipeline, key)? {
            return settled(self, "coalesced", format!("run {run} is at work on it"));
        }
        let known = self.known_error(start, key)?;
        let mut standing = standing(known.as_ref(), seen, now);
        // The ledger has not heard that it was resolved; who keeps the error has.
        let handled = known.is_some_and(|known| known.state == FindingState::Handled);
        let back = waiting.regressed && handled && standing != Standing::New;
        if back {
            standing = Standing::Regressed;
        }
        match standing {
            Standing::Muted => return settled(self, "muted", "a person muted it".into()),
            standing if when.contains(&standing) => {}
            Standing::Ongoing => return settled(self, "ongoing", "it was handled before and is no worse".into()),
            standing => return settled(self, "filtered", format!("`when` does not name {standing}")),
        }
        if let Some(run_at) = self.last_run_at(pipeline, key)? {
            let free = run_at.saturating_add(*again).unwrap_or(Timestamp::MAX);
            if free > now {
                return later(self, free, format!("its last run began at {run_at:.0}"));
            }
        }
        let tokens = self.tokens(pipeline, *rate)?;
        if tokens < 1.0 {
            let wait = (1.0 - tokens) * 3600.0 / f64::from(rate.per_hour.max(1));
            let until = now.saturating_add(std::time::Duration::from_secs_f64(wait + 0.001)).unwrap_or(Timestamp::MAX);
            return later(self, until, format!("more than {} runs an hour by errors", rate.per_hour));
        }
        match self.claim(start, None, claim.max_queued, started)? {
            Claimed::New => {}
            Claimed::AlreadyClaimed(run) => {
                self.settle_error(pipeline, key, waiting.first_at, "run", "claimed before", Some(&run))?;
                return Ok(ErrorClaimed::Gone);
            }
            Claimed::QueueFull { queued } => {
                let until = now.saturating_add(std::time::Duration::from_secs(60)).unwrap_or(Timestamp::MAX);
                return later(self, until, format!("{queued} runs are open already"));
            }
            Claimed::AlreadyDecided(fate) => return settled(self, "filtered", format!("decided before: {fate}")),
        }
        if back {
            // The run looks at the ledger too, and shall find what the source says.
            self.conn()
                .prepare_cached(
                    "UPDATE findings SET state = 'fixed', muted_until = NULL, fixed_at = NULL
                     WHERE pipeline = ?1 AND profile = ?2 AND effects = ?3 AND source = ?4 AND fingerprint = ?5",
                )?
                .execute(params![pipeline, start.profile, start.effects.as_str(), SOURCE, key])?;
        }
        self.set_tokens(pipeline, tokens - 1.0)?;
        let reason = match waiting.times {
            1 => standing.to_string(),
            times => format!("{standing}, told {times} times"),
        };
        self.settle_error(pipeline, key, waiting.first_at, "run", &reason, Some(&start.id))?;
        Ok(ErrorClaimed::Run(start.id.clone()))
    }

    /// An open run that errors began for this key.
    fn open_run_for(&self, pipeline: &str, key: &str) -> Result<Option<String>, Error> {
        let prefix = format!("{key}@");
        let mut statement = self.conn().prepare_cached(
            "SELECT id FROM runs WHERE pipeline = ?1 AND outcome IS NULL AND trigger_kind = 'sentry'
                 AND substr(trigger_key, 1, length(?2)) = ?2 LIMIT 1",
        )?;
        Ok(statement.query_row(params![pipeline, prefix], |row| row.get(0)).optional()?)
    }

    fn known_error(&self, start: &crate::domain::run::RunStart, key: &str) -> Result<Option<Known>, Error> {
        let mut statement = self.conn().prepare_cached(
            "SELECT state, weight, muted_until, again, fixed_at FROM findings
             WHERE pipeline = ?1 AND profile = ?2 AND effects = ?3 AND source = ?4 AND fingerprint = ?5",
        )?;
        let mut rows = statement.query(params![start.pipeline, start.profile, start.effects.as_str(), SOURCE, key])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let state: FindingState = word(row.get_ref(0)?.as_str().unwrap_or_default())?;
        let muted_until = row.get::<_, Option<i64>>(2)?.map(from_micros).transpose()?;
        let fixed_at = row.get::<_, Option<i64>>(4)?.map(from_micros).transpose()?;
        Ok(Some(Known { state, weight: row.get(1)?, muted_until, again: row.get(3)?, fixed_at }))
    }

    fn last_run_at(&self, pipeline: &str, key: &str) -> Result<Option<Timestamp>, Error> {
        let at: Option<Option<i64>> = self
            .conn()
            .prepare_cached("SELECT run_at FROM trigger_decided WHERE pipeline = ?1 AND key = ?2")?
            .query_row(params![pipeline, key], |row| row.get(0))
            .optional()?;
        at.flatten().map(from_micros).transpose()
    }

    fn tokens(&self, pipeline: &str, rate: Rate) -> Result<f64, Error> {
        let found: Option<(f64, i64)> = self
            .conn()
            .prepare_cached("SELECT tokens, at FROM trigger_rates WHERE pipeline = ?1")?
            .query_row([pipeline], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let burst = f64::from(rate.burst.max(1));
        let Some((tokens, at)) = found else { return Ok(burst) };
        // A clock that went back gives nothing and takes nothing.
        let hours = (micros(self.now()) - at).max(0) as f64 / 3.6e9;
        Ok((tokens + hours * f64::from(rate.per_hour)).min(burst))
    }

    fn set_tokens(&self, pipeline: &str, tokens: f64) -> Result<(), Error> {
        self.conn()
            .prepare_cached(
                "INSERT INTO trigger_rates (pipeline, tokens, at) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET tokens = excluded.tokens, at = excluded.at",
            )?
            .execute(params![pipeline, tokens, micros(self.now())])?;
        Ok(())
    }

    fn forget_deliveries(&mut self) -> Result<u64, Error> {
        let now = micros(self.now());
        let mut forgotten = 0;
        for (table, keep) in
            [("deliveries", KEEP_DELIVERIES_S), ("trigger_decided", KEEP_DECIDED_S), ("trigger_states", KEEP_DECIDED_S)]
        {
            let sql = format!("DELETE FROM {table} WHERE at < ?1");
            forgotten += self.conn().prepare_cached(&sql)?.execute([now - keep * 1_000_000])? as u64;
        }
        Ok(forgotten)
    }
}

impl Journal {
    /// Errors were told: each waits for its run in every pipeline that listens, or the delivery had come before. One transaction.
    /// `polled`: a project was read up to this moment.
    pub async fn note_errors(
        &self,
        delivery: Option<Delivery>,
        listeners: Vec<Listener>,
        errors: Vec<SeenError>,
        polled: Option<(String, Timestamp)>,
    ) -> Result<Noted, Error> {
        let errors = errors.into_iter().map(|error| self.clean(error)).collect::<Result<Vec<_>, _>>()?;
        self.ask(move |store| store.note_errors(delivery.as_ref(), &listeners, &errors, polled.as_ref())).await
    }

    fn clean(&self, error: SeenError) -> Result<SeenError, Error> {
        let item = self.redact(raw(&error.item)?);
        let item = serde_json::from_str(item.get()).map_err(|e| Error::record("an error that waits", e))?;
        Ok(SeenError { item, ..error })
    }

    /// An error is resolved (`gone`) or put away where it comes from.
    pub async fn error_over(
        &self,
        delivery: Option<Delivery>,
        key: &str,
        state: &str,
        gone: bool,
    ) -> Result<Noted, Error> {
        let (key, state) = (key.to_owned(), state.to_owned());
        self.ask(move |store| store.error_over(delivery.as_ref(), &key, &state, gone)).await
    }

    /// Claims the run of an error that waits, if it may begin now, and ends its waiting: one transaction.
    pub async fn claim_error(&self, error: ErrorClaim) -> Result<ErrorClaimed, Error> {
        let started = self.prepare(error.claim.started_entry()?);
        self.ask(move |store| store.claim_error(&error, &started)).await
    }

    /// It waits no longer, for this reason. False: it did not wait.
    pub async fn settle_error(&self, waiting: &WaitingError, fate: &'static str, reason: &str) -> Result<bool, Error> {
        let (pipeline, key, first_at) = (waiting.pipeline.clone(), waiting.key.clone(), waiting.first_at);
        let reason = self.redact_text(reason);
        self.ask(move |store| store.settle_error(&pipeline, &key, first_at, fate, &reason, None)).await
    }

    /// It goes on waiting until then, for this reason.
    pub async fn postpone_error(&self, waiting: &WaitingError, until: Timestamp, reason: &str) -> Result<(), Error> {
        let (pipeline, key, first_at) = (waiting.pipeline.clone(), waiting.key.clone(), waiting.first_at);
        let reason = self.redact_text(reason);
        self.ask(move |store| store.postpone_error(&pipeline, &key, first_at, until, &reason)).await
    }

    /// Forgets deliveries and decisions that are old. Answers how many.
    pub async fn forget_deliveries(&self) -> Result<u64, Error> {
        self.ask(Store::forget_deliveries).await
    }
}

const SELECT_WAITING: &str =
    "SELECT pipeline, key, item, whole, regressed, seen_at, first_at, due_at, times, reason FROM trigger_waiting";

fn waiting(row: &Row<'_>) -> Result<WaitingError, Error> {
    let item: String = row.get(2)?;
    Ok(WaitingError {
        pipeline: row.get(0)?,
        key: row.get(1)?,
        item: parse(&item)?,
        whole: row.get(3)?,
        regressed: row.get(4)?,
        seen_at: from_micros(row.get(5)?)?,
        first_at: from_micros(row.get(6)?)?,
        due_at: from_micros(row.get(7)?)?,
        times: row.get::<_, i64>(8)?.unsigned_abs(),
        reason: row.get(9)?,
    })
}

impl Reader {
    /// Errors whose time has come, the longest due first.
    pub fn due_errors(&self, now: Timestamp, most: u32) -> Result<Vec<WaitingError>, Error> {
        self.with(|conn, _| {
            let mut statement = conn.prepare_cached(&format!(
                "{SELECT_WAITING} WHERE due_at <= ?1 ORDER BY due_at, pipeline, key LIMIT ?2"
            ))?;
            let mut rows = statement.query(params![micros(now), most])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(waiting(row)?);
            }
            Ok(found)
        })
    }

    /// When the next error is due.
    pub fn next_error_due(&self) -> Result<Option<Timestamp>, Error> {
        self.with(|conn, _| {
            let at: Option<i64> =
                conn.prepare_cached("SELECT min(due_at) FROM trigger_waiting")?.query_row([], |row| row.get(0))?;
            at.map(from_micros).transpose()
        })
    }

    /// How far a project has been polled.
    pub fn polled_to(&self, project: &str) -> Result<Option<Timestamp>, Error> {
        self.with(|conn, _| {
            let at: Option<i64> = conn
                .prepare_cached("SELECT seen_to FROM trigger_polls WHERE project = ?1")?
                .query_row([project], |row| row.get(0))
                .optional()?;
            at.map(from_micros).transpose()
        })
    }

    /// What became of errors, the last first.
    pub fn decided_errors(&self, most: u32) -> Result<Vec<DecidedError>, Error> {
        self.with(|conn, _| {
            let mut statement = conn.prepare_cached(
                "SELECT pipeline, key, fate, reason, at, times, run FROM trigger_decided ORDER BY at DESC, pipeline, key LIMIT ?1",
            )?;
            let mut rows = statement.query([most])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(DecidedError {
                    pipeline: row.get(0)?,
                    key: row.get(1)?,
                    fate: row.get(2)?,
                    reason: row.get(3)?,
                    at: from_micros(row.get(4)?)?,
                    times: row.get::<_, i64>(5)?.unsigned_abs(),
                    run: row.get(6)?,
                });
            }
            Ok(found)
        })
    }

    /// How many errors were dropped, because too many waited, and how many wait now: of a pipeline.
    pub fn dropped_errors(&self, pipeline: &str) -> Result<(u64, u64), Error> {
        self.with(|conn, _| {
            let dropped: Option<i64> = conn
                .prepare_cached("SELECT dropped FROM trigger_rates WHERE pipeline = ?1")?
                .query_row([pipeline], |row| row.get(0))
                .optional()?;
            let waiting: i64 = conn
                .prepare_cached("SELECT count(*) FROM trigger_waiting WHERE pipeline = ?1")?
                .query_row([pipeline], |row| row.get(0))?;
            Ok((dropped.unwrap_or_default().unsigned_abs(), waiting.unsigned_abs()))
        })
    }
}

fn parse(item: &str) -> Result<Map<String, Value>, Error> {
    serde_json::from_str(item).map_err(|error| Error::record("an error that waits", error))
}

fn text(item: &Map<String, Value>) -> Result<String, Error> {
    Ok(raw(item)?.get().to_owned())
}

/// The newer word; what it leaves empty is taken from the older one.
fn newer(before: &str, item: &Map<String, Value>) -> Result<Map<String, Value>, Error> {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Bool(_) => false,
    };
    let mut merged = parse(before)?;
    for (name, value) in item {
        if !empty(value) || !merged.contains_key(name) {
            merged.insert(name.clone(), value.clone());
        }
    }
    Ok(merged)
}
