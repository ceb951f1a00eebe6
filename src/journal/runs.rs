//! Table `runs`: the claim, the end, the resumption; lists of runs.
//!
//! The row holds what lists need and what must be unique. What a run began with is the payload of its first entry.

use rusqlite::{Connection, OptionalExtension as _, params};
use serde_json::json;
use serde_json::value::RawValue;

use super::blobs::Blobs;
use super::entries::{Prepared, Stored, word};
use super::error::Error;
use super::grants::day_in;
use super::reader::{Reader, RunFilter};
use super::writer::Store;
use super::{from_micros, micros, raw};
use crate::base::clock::Timestamp;
use crate::base::ids::RunId;
use crate::base::money::UsdMicros;
use crate::domain::entry::{EntryKind, Family, NewEntry};
use crate::domain::run::{Failure, Outcome, RunStart};
use crate::domain::view::{RunLine, SlotFate, SlotLine};

/// A trigger wants a run.
#[derive(Clone, Debug)]
pub struct Claim {
    pub start: RunStart,
    /// The slot it stands for, with fate `Run` or `Queued`; its `run` is set to the claimed one.
    pub slot: Option<SlotLine>,
    /// How many runs may be claimed and not yet begun, over all pipelines, before this one is refused.
    /// `u32::MAX`: not limited.
    pub max_queued: u32,
}

/// What became of a [`Claim`]. Except for `New` nothing was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    New,
    /// The trigger's key, or the slot, has this run already.
    AlreadyClaimed(RunId),
    /// The slot was decided otherwise before: a wake-up came twice.
    AlreadyDecided(SlotFate),
    QueueFull {
        queued: u32,
    },
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct RunFinish {
    pub outcome: Outcome,
    pub failure: Option<Failure>,
    /// One line for lists.
    pub headline: String,
    pub at: Timestamp,
}

impl Claim {
    pub(super) fn started_entry(&self) -> Result<NewEntry, Error> {
        Ok(session(&self.start.id, EntryKind::RunStarted, raw(&self.start)?))
    }
}

impl RunFinish {
    pub(super) fn entry(&self, run: &RunId) -> Result<NewEntry, Error> {
        let payload = json!({"outcome": self.outcome, "failure": self.failure, "headline": self.headline});
        Ok(session(run, EntryKind::RunFinished, raw(&payload)?))
    }
}

fn session(run: &RunId, kind: EntryKind, payload: Box<RawValue>) -> NewEntry {
    NewEntry {
        run: run.clone(),
        family: Family::Session,
        kind,
        path: String::new(),
        attempt: 1,
        supersedes: None,
        input: None,
        payload,
    }
}

impl Store {
    pub(super) fn claim(
        &mut self,
        start: &RunStart,
        slot: Option<&SlotLine>,
        max_queued: u32,
        started: &Prepared,
    ) -> Result<Claimed, Error> {
        let (kind, key) = (start.trigger.kind.as_str(), start.trigger.key.as_str());
        let claimed: Option<String> = self
            .conn()
            .prepare_cached("SELECT id FROM runs WHERE pipeline = ?1 AND trigger_kind = ?2 AND trigger_key = ?3")?
            .query_row(params![start.pipeline, kind, key], |row| row.get(0))
            .optional()?;
        if let Some(id) = claimed {
            return Ok(Claimed::AlreadyClaimed(RunId(id)));
        }
        if let Some(slot) = slot
            && let Some(decided) = self.slot(&slot.pipeline, slot.nominal_at)?
        {
            match decided.run {
                Some(run) => return Ok(Claimed::AlreadyClaimed(run)),
                // One that was decided later than now was decided by a clock that was ahead, see `record_slot`.
                None if decided.fate != SlotFate::Queued && decided.decided_at <= slot.decided_at => {
                    return Ok(Claimed::AlreadyDecided(decided.fate));
                }
                None => {}
            }
        }
        let queued = self.waiting()?.len() as u32;
        if queued >= max_queued {
            return Ok(Claimed::QueueFull { queued });
        }
        let first_seq = self.last_seq() + 1;
        self.conn()
            .prepare_cached(
                "INSERT INTO runs (id, pipeline, trigger_kind, trigger_key, profile, effects, timezone, started_at, first_seq)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute(params![
                start.id.as_str(),
                start.pipeline,
                kind,
                key,
                start.profile,
                start.effects.as_str(),
                start.timezone,
                micros(start.started_at),
                first_seq,
            ])?;
        let run = self.conn().last_insert_rowid();
        self.know_run(&start.id, run);
        self.insert(started)?;
        self.waiting()?.insert(run);
        if let Some(slot) = slot {
            self.record_slot(&SlotLine { run: Some(start.id.clone()), ..slot.clone() })?;
        }
        Ok(Claimed::New)
    }

    /// How the run ended; `None` while it is open.
    pub(super) fn outcome(&self, run: i64) -> Result<Option<Outcome>, Error> {
        let mut statement = self.conn().prepare_cached("SELECT outcome FROM runs WHERE no = ?1")?;
        let outcome: Option<String> = statement.query_row([run], |row| row.get(0))?;
        outcome.map(|text| word(&text)).transpose()
    }

    pub(super) fn finish_run(&mut self, entry: &Prepared, finish: &RunFinish) -> Result<(), Error> {
        let id = &entry.entry.run;
        let run = self.run_no(id)?;
        if let Some(outcome) = self.outcome(run)? {
            return Err(Error::Ended { run: id.clone(), outcome });
        }
        let seq = self.insert(entry)?;
        self.abandon_grants(id)?;
        self.drop_signals(run, seq)?;
        self.park(run, finish.outcome, finish.failure.as_ref().and_then(|failure| failure.secret.as_deref()))?;
        let failure = finish.failure.as_ref().map(raw).transpose()?;
        self.conn()
            .prepare_cached(
                "UPDATE runs SET outcome = ?2, failure = ?3, headline = ?4, finished_at = ?5 WHERE no = ?1",
            )?
            .execute(params![
                run,
                finish.outcome.as_str(),
                failure.as_ref().map(|failure| failure.get()),
                finish.headline,
                micros(finish.at),
            ])?;
        self.forget(id);
        Ok(())
    }

    /// `key`: of the one press or command that asks for it.
    pub(super) fn resume_run(
        &mut self,
        id: &RunId,
        add: UsdMicros,
        by: &str,
        build_id: &str,
        key: Option<&str>,
    ) -> Result<(), Error> {
        let run = self.run_no(id)?;
        let ended = self.outcome(run)?.is_some();
        let payload = super::answers::resumption(by, ended, build_id, add, key)?;
        let seq = self.insert(&Prepared::new(session(id, EntryKind::RunResumed, payload)))?;
        self.abandon_grants(id)?;
        self.unpark(run)?;
        self.conn()
            .prepare_cached(
                "UPDATE runs SET outcome = NULL, failure = NULL, headline = '', finished_at = NULL, added = added + ?2
                 WHERE no = ?1",
            )?
            .execute(params![run, add.0])?;
        if !add.is_zero() {
            let (pipeline, timezone): (String, String) = self
                .conn()
                .prepare_cached("SELECT pipeline, timezone FROM runs WHERE no = ?1")?
                .query_row([run], |row| Ok((row.get(0)?, row.get(1)?)))?;
            let day = day_in(&timezone, self.now());
            self.conn()
                .prepare_cached(
                    "INSERT INTO additions (seq, run, pipeline, pipeline_day, amount) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![seq, run, pipeline, day, add.0])?;
        }
        // Its caps are read anew with the next grant.
        self.money().1.forget(id);
        if !add.is_zero() {
            self.money().1.forget_pipeline_days();
        }
        Ok(())
    }
}

/// What a run began with, from the row of its first entry.
pub(super) fn start(payload: Stored, blobs: &Blobs) -> Result<RunStart, Error> {
    let text = payload.text(blobs)?;
    serde_json::from_str(&text).map_err(|error| Error::record("of a run's start", error))
}

pub(super) fn open_runs(conn: &Connection, blobs: &Blobs) -> Result<Vec<(i64, RunStart)>, Error> {
    let mut statement = conn.prepare_cached(
        "SELECT r.no, e.payload, e.blob FROM runs r JOIN entries e ON e.seq = r.first_seq
         WHERE r.outcome IS NULL ORDER BY r.no",
    )?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push((row.get(0)?, start(Stored::from_row(row, 1, 2)?, blobs)?));
    }
    Ok(found)
}

impl Reader {
    /// What the open runs began with, oldest first.
    pub fn open_runs(&self) -> Result<Vec<RunStart>, Error> {
        self.with(|conn, blobs| Ok(open_runs(conn, blobs)?.into_iter().map(|(_, start)| start).collect()))
    }

    /// The oldest open run of a pipeline.
    pub fn active_run(&self, pipeline: &str) -> Result<Option<RunId>, Error> {
        self.with(|conn, _| {
            let mut statement =
                conn.prepare_cached("SELECT id FROM runs WHERE outcome IS NULL AND pipeline = ?1 ORDER BY no LIMIT 1")?;
            Ok(statement.query_row([pipeline], |row| row.get(0).map(RunId)).optional()?)
        })
    }

    /// Runs, newest first.
    pub fn runs(&self, filter: RunFilter) -> Result<Vec<RunLine>, Error> {
        self.with(|conn, _| {
            let pipeline = if filter.pipeline.is_some() { "pipeline = ?1" } else { "?1 IS NULL" };
            let open = if filter.open_only { "AND outcome IS NULL" } else { "" };
            let mut statement = conn.prepare_cached(&format!(
                "SELECT id, pipeline, profile, effects, trigger_kind, started_at, finished_at, outcome, headline,
                     (SELECT coalesce(sum(coalesce(settled, granted)), 0) FROM calls c WHERE c.run = runs.no)
                 FROM runs WHERE {pipeline} {open} ORDER BY no DESC LIMIT ?2"
            ))?;
            let mut rows = statement.query(params![filter.pipeline, filter.limit])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(RunLine {
                    id: RunId(row.get(0)?),
                    pipeline: row.get(1)?,
                    profile: row.get(2)?,
                    effects: row.get(3)?,
                    trigger: row.get(4)?,
                    started_at: from_micros(row.get(5)?)?,
                    finished_at: row.get::<_, Option<i64>>(6)?.map(from_micros).transpose()?,
                    outcome: row.get::<_, Option<String>>(7)?.map(|text| word(&text)).transpose()?,
                    headline: row.get(8)?,
                    cost: UsdMicros(row.get(9)?),
                });
            }
            Ok(found)
        })
    }

    /// The one run that `text` names: its id, the beginning or the end of it, or its short form. `Error::Ambiguous` when
    /// several fit.
    pub(super) fn find(&self, conn: &Connection, text: &str) -> Result<Option<RunId>, Error> {
        let wanted = text.trim().to_ascii_uppercase();
        for exact in [text.to_owned(), wanted.clone()].map(RunId) {
            if self.no(conn, &exact)?.is_some() {
                return Ok(Some(exact));
            }
        }
        let (head, tail) = wanted.split_once('…').unwrap_or((&wanted, ""));
        if wanted.is_empty() || !(head.chars().chain(tail.chars())).all(|c| c.is_ascii_alphanumeric()) {
            return Ok(None);
        }
        let patterns = match tail {
            "" => vec![format!("{head}%"), format!("%{head}")],
            tail => vec![format!("{head}%{tail}")],
        };
        let mut statement =
            conn.prepare_cached("SELECT id FROM runs WHERE upper(id) LIKE ?1 ORDER BY no DESC LIMIT 6")?;
        let mut matches: Vec<String> = Vec::new();
        for pattern in patterns {
            for id in statement.query_map([pattern], |row| row.get::<_, String>(0))? {
                let id = id?;
                if !matches.contains(&id) {
                    matches.push(id);
                }
            }
        }
        match matches.len() {
            0 => Ok(None),
            1 => Ok(matches.pop().map(RunId)),
            _ => Err(Error::Ambiguous { prefix: text.to_owned(), matches }),
        }
    }
}
