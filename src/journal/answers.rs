//! Answers to questions that were put to people: each question is answered once, and only as it was put.
//!
//! A question is what was delivered (the intention of its delivery holds it whole); whether it is still open is looked up in the
//! transaction that records the answer, so of two people who press at once one is first.

use rusqlite::{OptionalExtension as _, params};
use serde::Deserialize;
use serde_json::{Value, json};

use super::entries::{Prepared, Stored};
use super::error::Error;
use super::reader::Reader;
use super::signals;
use super::writer::Store;
use super::{Journal, micros, raw};
use crate::base::clock::Timestamp;
use crate::base::ids::RunId;
use crate::base::money::UsdMicros;
use crate::domain::entry::NewEntry;
use crate::domain::report::{Question, Report};
use crate::ports::durable::SignalValue;

/// A person's answer to one question.
#[derive(Clone, Debug)]
pub struct Answer {
    pub run: RunId,
    /// The address of the signal that the run waits for, and its name.
    pub path: String,
    pub name: String,
    /// Where the question was delivered from.
    pub delivered_at: String,
    /// Of what the person saw.
    pub hash: String,
    pub value: Value,
    pub by: String,
}

/// What became of an [`Answer`].
#[derive(Clone, Debug, PartialEq)]
pub enum Answered {
    /// It is recorded and the run hears of it. What was asked.
    Now { ask: String },
    /// Somebody was first; it may have been the same press, delivered again.
    Before(SignalValue),
    /// Nobody answered in time. What that means, in words.
    Expired { then: String },
    /// No such question was put, or another one.
    NotAsked,
}

#[derive(Deserialize)]
struct Intention {
    #[serde(default)]
    report: Option<Report>,
}

impl Journal {
    /// Records an answer if its question is open and is the one that was put. Errors: `NoRun`, `Ended`.
    pub async fn answer(&self, answer: Answer) -> Result<Answered, Error> {
        let Answer { run, path, name, delivered_at, hash, value, by } = answer;
        let entry = self.prepare(signals::entry(&run, &path, &name, value, &by)?);
        self.ask(move |store| store.answer(&entry, &name, &delivered_at, &hash)).await
    }

    /// Records what somebody said about a run that nobody waits for: who began it, a word that does not count.
    pub async fn overheard(&self, run: &RunId, path: &str, name: &str, value: Value, by: &str) -> Result<(), Error> {
        let entry = self.prepare(signals::entry(run, path, name, value, by)?);
        self.ask(move |store| store.insert(&entry).map(drop)).await
    }

    /// As [`Journal::resume_run`], once for each `key`; `false`: it was done before.
    pub async fn resume_run_once(&self, run: &RunId, add: UsdMicros, by: &str, key: &str) -> Result<bool, Error> {
        let (run, by, key, build_id) = (run.clone(), by.to_owned(), key.to_owned(), self.inner.build_id.clone());
        self.ask(move |store| {
            if store.was_resumed_by(&run, &key)? {
                return Ok(false);
            }
            store.resume_run(&run, add, &by, &build_id, Some(&key)).map(|()| true)
        })
        .await
    }
}

impl Journal {
    /// A delivery was taken. `false`: it was before. Kept as long as those of webhooks.
    pub async fn note_delivery(&self, hook: &'static str, id: &str) -> Result<bool, Error> {
        let id = id.to_owned();
        self.ask(move |store| {
            let mut insert = store
                .conn()
                .prepare_cached("INSERT INTO deliveries (hook, id, at) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING")?;
            Ok(insert.execute(params![hook, id, micros(store.now())])? > 0)
        })
        .await
    }
}

impl Reader {
    /// Whether a delivery was taken.
    pub fn was_delivered(&self, hook: &str, id: &str) -> Result<bool, Error> {
        self.with(|conn, _| {
            let mut statement = conn.prepare_cached("SELECT 1 FROM deliveries WHERE hook = ?1 AND id = ?2")?;
            Ok(statement.exists(params![hook, id])?)
        })
    }
}

impl Store {
    fn answer(&mut self, entry: &Prepared, name: &str, delivered_at: &str, hash: &str) -> Result<Answered, Error> {
        let NewEntry { run: id, path, .. } = &entry.entry;
        let run = self.run_no(id)?;
        let Some(question) = self.question(run, delivered_at, path)?.filter(|put| put.hash == hash) else {
            return Ok(Answered::NotAsked);
        };
        let expired = || Answered::Expired { then: question.on_expiry.clone() };
        // How it ended, if it did: the value that the run took, or that there was none.
        if let Some(taken) = self.payload(
            "SELECT payload, blob FROM entries WHERE run = ?1 AND kind = 'value' AND path = ?2 ORDER BY seq DESC LIMIT 1",
            run,
            path,
        )? {
            let taken: Option<SignalValue> = read(&taken)?;
            return Ok(taken.map_or_else(expired, Answered::Before));
        }
        if let Some(outcome) = self.outcome(run)? {
            return Err(Error::Ended { run: id.clone(), outcome });
        }
        let waiting = self.waiting_signal(run, name, path)?;
        if let Some(waiting) = waiting {
            return Ok(Answered::Before(read(&waiting)?));
        }
        if question.expires_at.is_some_and(|at: Timestamp| at <= self.now()) {
            return Ok(expired());
        }
        self.signal(entry, name)?;
        Ok(Answered::Now { ask: question.ask })
    }

    /// The question that was delivered from that address for an answer at `path`.
    fn question(&mut self, run: i64, delivered_at: &str, path: &str) -> Result<Option<Question>, Error> {
        let intention = self.payload(
            "SELECT payload, blob FROM entries WHERE run = ?1 AND kind = 'activity_intended' AND path = ?2
             ORDER BY seq DESC LIMIT 1",
            run,
            delivered_at,
        )?;
        let Some(intention) = intention else { return Ok(None) };
        let intention: Intention = read(&intention)?;
        Ok(intention.report.and_then(|report| report.question).filter(|question| question.path == path))
    }

    /// A signal to that path or to the whole run that the run has not taken yet.
    fn waiting_signal(&mut self, run: i64, name: &str, path: &str) -> Result<Option<String>, Error> {
        let found = {
            let mut statement = self.conn().prepare_cached(
                "SELECT e.payload, e.blob FROM signals s JOIN entries e ON e.seq = s.seq
                 WHERE s.run = ?1 AND s.name = ?2 AND s.taken IS NULL AND s.path IN (?3, '') ORDER BY s.seq LIMIT 1",
            )?;
            let mut rows = statement.query(params![run, name, path])?;
            rows.next()?.map(|row| Stored::from_row(row, 0, 1)).transpose()?
        };
        found.map(|stored| stored.text(self.blobs())).transpose()
    }

    fn payload(&mut self, query: &str, run: i64, path: &str) -> Result<Option<String>, Error> {
        let found = {
            let mut statement = self.conn().prepare_cached(query)?;
            let mut rows = statement.query(params![run, path])?;
            rows.next()?.map(|row| Stored::from_row(row, 0, 1)).transpose()?
        };
        found.map(|stored| stored.text(self.blobs())).transpose()
    }

    fn was_resumed_by(&mut self, run: &RunId, key: &str) -> Result<bool, Error> {
        let run = self.run_no(run)?;
        let mut statement = self.conn().prepare_cached(
            "SELECT 1 FROM entries WHERE run = ?1 AND kind = 'run_resumed' AND json_extract(payload, '$.key') = ?2",
        )?;
        Ok(statement.query_row(params![run, key], |_| Ok(())).optional()?.is_some())
    }
}

fn read<T: for<'a> Deserialize<'a>>(text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|error| Error::record("of a question", error))
}

/// What a resumption records.
pub(super) fn resumption(
    by: &str,
    person: bool,
    build_id: &str,
    add: UsdMicros,
    key: Option<&str>,
) -> Result<Box<serde_json::value::RawValue>, Error> {
    let mut payload = json!({"by": by, "person": person, "build_id": build_id, "add_usd_micros": add});
    if let Some(key) = key {
        payload["key"] = key.into();
    }
    raw(&payload)
}
