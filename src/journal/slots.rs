//! Tables `slots`, `schedules` and `paused`: what was due and what became of it, how far each schedule has been decided, and
//! which pipelines a person has paused.

use rusqlite::{OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

use super::entries::{hash, word};
use super::error::Error;
use super::reader::Reader;
use super::writer::Store;
use super::{from_micros, micros};
use crate::base::clock::Timestamp;
use crate::base::hash::Hash;
use crate::base::ids::RunId;
use crate::domain::view::SlotLine;

/// How far the schedule of a pipeline has been decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleState {
    pub expr: String,
    pub timezone: String,
    /// Of everything that makes the schedule what it is; another hash begins it anew.
    pub config_hash: Hash,
    /// Slots before this moment are none of this schedule's.
    pub begins_at: Timestamp,
    /// The last slot that was decided.
    pub last_nominal: Option<Timestamp>,
}

impl Store {
    /// Decides a slot, unless it is decided already. Answers whether it was.
    ///
    /// Two decisions are not the last word: `queued`, and one without a run that was made later than this one, which means that the clock
    /// was ahead then and has been set back.
    pub(super) fn record_slot(&mut self, slot: &SlotLine) -> Result<bool, Error> {
        let changed = self
            .conn()
            .prepare_cached(
                "INSERT INTO slots (pipeline, nominal_at, timezone, fate, reason, run, decided_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT DO UPDATE SET fate = excluded.fate, reason = excluded.reason,
                     run = coalesce(excluded.run, run), decided_at = excluded.decided_at
                 WHERE fate = 'queued' OR (run IS NULL AND decided_at > excluded.decided_at)",
            )?
            .execute(params![
                slot.pipeline,
                micros(slot.nominal_at),
                slot.timezone,
                slot.fate.as_str(),
                slot.reason,
                slot.run.as_ref().map(RunId::as_str),
                micros(slot.decided_at),
            ])?;
        Ok(changed > 0)
    }

    pub(super) fn record_slots(&mut self, slots: &[SlotLine]) -> Result<(), Error> {
        slots.iter().try_for_each(|slot| self.record_slot(slot).map(drop))
    }

    pub(super) fn schedule_state(&mut self, pipeline: &str) -> Result<Option<ScheduleState>, Error> {
        let mut statement = self.conn().prepare_cached(
            "SELECT expr, timezone, config_hash, begins_at, last_nominal FROM schedules WHERE pipeline = ?1",
        )?;
        let mut rows = statement.query([pipeline])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        Ok(Some(ScheduleState {
            expr: row.get(0)?,
            timezone: row.get(1)?,
            config_hash: hash(&row.get::<_, String>(2)?)?,
            begins_at: from_micros(row.get(3)?)?,
            last_nominal: row.get::<_, Option<i64>>(4)?.map(from_micros).transpose()?,
        }))
    }

    pub(super) fn set_schedule_state(&mut self, pipeline: &str, state: &ScheduleState) -> Result<(), Error> {
        self.conn()
            .prepare_cached(
                "INSERT OR REPLACE INTO schedules (pipeline, expr, timezone, config_hash, begins_at, last_nominal)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                pipeline,
                state.expr,
                state.timezone,
                state.config_hash.to_string(),
                micros(state.begins_at),
                state.last_nominal.map(micros),
            ])?;
        Ok(())
    }

    pub(super) fn set_paused(&mut self, pipeline: &str, reason: Option<&str>) -> Result<(), Error> {
        match reason {
            Some(reason) => self
                .conn()
                .prepare_cached(
                    "INSERT INTO paused (pipeline, reason, since) VALUES (?1, ?2, ?3)
                     ON CONFLICT DO UPDATE SET reason = excluded.reason",
                )?
                .execute(params![pipeline, reason, micros(self.now())])?,
            None => self.conn().prepare_cached("DELETE FROM paused WHERE pipeline = ?1")?.execute([pipeline])?,
        };
        Ok(())
    }

    /// A slot as it stands.
    pub(super) fn slot(&self, pipeline: &str, nominal_at: Timestamp) -> Result<Option<SlotLine>, Error> {
        let mut statement = self
            .conn()
            .prepare_cached(&format!("SELECT {COLUMNS} FROM slots WHERE pipeline = ?1 AND nominal_at = ?2"))?;
        let row = statement.query_row(params![pipeline, micros(nominal_at)], |row| Ok(line(row))).optional()?;
        row.transpose()
    }
}

const COLUMNS: &str = "pipeline, nominal_at, timezone, fate, reason, run, decided_at";

fn line(row: &rusqlite::Row<'_>) -> Result<SlotLine, Error> {
    Ok(SlotLine {
        pipeline: row.get(0)?,
        nominal_at: from_micros(row.get(1)?)?,
        timezone: row.get(2)?,
        fate: word(&row.get::<_, String>(3)?)?,
        reason: row.get(4)?,
        run: row.get::<_, Option<String>>(5)?.map(RunId),
        decided_at: from_micros(row.get(6)?)?,
    })
}

impl Reader {
    /// The slots of a pipeline after a moment, oldest first.
    pub fn slots_after(&self, pipeline: &str, after: Timestamp) -> Result<Vec<SlotLine>, Error> {
        self.with(|conn, _| {
            let mut statement = conn.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM slots WHERE pipeline = ?1 AND nominal_at > ?2 ORDER BY nominal_at"
            ))?;
            let mut rows = statement.query(params![pipeline, micros(after)])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(line(row)?);
            }
            Ok(found)
        })
    }

    /// The newest slots, latest first; of one pipeline or of all.
    pub fn slots(&self, pipeline: Option<&str>, limit: u32) -> Result<Vec<SlotLine>, Error> {
        self.with(|conn, _| {
            let only = if pipeline.is_some() { "pipeline = ?1" } else { "?1 IS NULL" };
            let mut statement = conn.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM slots WHERE {only} ORDER BY nominal_at DESC, pipeline LIMIT ?2"
            ))?;
            let mut rows = statement.query(params![pipeline, limit])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(line(row)?);
            }
            Ok(found)
        })
    }

    /// Why a pipeline is paused, if it is.
    pub fn paused(&self, pipeline: &str) -> Result<Option<String>, Error> {
        self.with(|conn, _| {
            let mut statement = conn.prepare_cached("SELECT reason FROM paused WHERE pipeline = ?1")?;
            Ok(statement.query_row([pipeline], |row| row.get(0)).optional()?)
        })
    }
}
