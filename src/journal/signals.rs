//! Table `signals`: what people sent to a run, and whether it was taken. The entry of the signal holds value and sender.

use rusqlite::params;
use serde_json::{Value, json};

use super::entries::{Prepared, Stored};
use super::error::Error;
use super::raw;
use super::writer::Store;
use crate::base::ids::RunId;
use crate::domain::entry::{EntryKind, Family, NewEntry};
use crate::ports::durable::SignalValue;

/// The entry of a new signal.
pub(super) fn entry(run: &RunId, path: &str, name: &str, value: Value, by: &str) -> Result<NewEntry, Error> {
    Ok(NewEntry {
        run: run.clone(),
        family: Family::User,
        kind: EntryKind::Signal,
        path: path.to_owned(),
        attempt: 1,
        supersedes: None,
        input: None,
        payload: raw(&json!({"name": name, "value": value, "by": by}))?,
    })
}

impl Store {
    pub(super) fn signal(&mut self, entry: &Prepared, name: &str) -> Result<i64, Error> {
        let id = &entry.entry.run;
        let run = self.run_no(id)?;
        if let Some(outcome) = self.outcome(run)? {
            return Err(Error::Ended { run: id.clone(), outcome });
        }
        let seq = self.insert(entry)?;
        self.conn()
            .prepare_cached("INSERT INTO signals (seq, run, path, name) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![seq, run, entry.entry.path, name])?;
        self.tell_signal();
        Ok(seq)
    }

    pub(super) fn take_signal(
        &mut self,
        id: &RunId,
        path: &str,
        name: &str,
        value_path: &str,
    ) -> Result<Option<SignalValue>, Error> {
        let run = self.run_no(id)?;
        let (seq, payload) = {
            let mut statement = self.conn().prepare_cached(
                "SELECT s.seq, e.payload, e.blob FROM signals s JOIN entries e ON e.seq = s.seq
                 WHERE s.run = ?1 AND s.name = ?2 AND s.taken IS NULL AND s.path IN (?3, '') ORDER BY s.seq LIMIT 1",
            )?;
            let mut rows = statement.query(params![run, name, path])?;
            let Some(row) = rows.next()? else { return Ok(None) };
            (row.get::<_, i64>(0)?, Stored::from_row(row, 1, 2)?)
        };
        let text = payload.text(self.blobs())?;
        let signal: SignalValue =
            serde_json::from_str(&text).map_err(|error| Error::record(format!("of signal {seq}"), error))?;
        let taken = self.insert(&Prepared::new(NewEntry {
            run: id.clone(),
            family: Family::User,
            kind: EntryKind::Value,
            path: value_path.to_owned(),
            attempt: 1,
            supersedes: None,
            input: None,
            payload: raw(&signal)?,
        }))?;
        self.conn().prepare_cached("UPDATE signals SET taken = ?2 WHERE seq = ?1")?.execute(params![seq, taken])?;
        self.tell_taken();
        Ok(Some(signal))
    }

    /// The run has ended with entry `ended`: nobody will take what is left.
    pub(super) fn drop_signals(&mut self, run: i64, ended: i64) -> Result<(), Error> {
        self.conn()
            .prepare_cached("UPDATE signals SET taken = ?2 WHERE run = ?1 AND taken IS NULL")?
            .execute(params![run, ended])?;
        self.tell_taken();
        Ok(())
    }

    /// How many signals nobody has taken; one too many when that cannot be read.
    pub(super) fn waiting_signals(&self) -> u64 {
        let count = self.conn().prepare_cached("SELECT count(*) FROM signals WHERE taken IS NULL");
        let count = count.and_then(|mut statement| statement.query_row([], |row| row.get::<_, i64>(0)));
        count.map_or(1, i64::unsigned_abs)
    }
}
