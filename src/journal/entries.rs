//! Table `entries`: writing them, and reading them back whole.

use rusqlite::{OptionalExtension as _, Row, params};
use serde_json::value::RawValue;

use super::blobs::{Blobs, INLINE};
use super::error::Error;
use super::reader::Reader;
use super::writer::Store;
use super::{from_micros, micros};
use crate::base::hash::Hash;
use crate::base::ids::RunId;
use crate::domain::entry::{Entry, EntryKind, NewEntry};
use crate::domain::money::Settlement;

/// An entry whose payload has passed the redactor and, if large, has been hashed: by the caller, not by the one writer.
pub(super) struct Prepared {
    pub(super) entry: NewEntry,
    blob: Option<Hash>,
}

impl Prepared {
    pub(super) fn new(entry: NewEntry) -> Self {
        let blob = large(entry.payload.get());
        Self { entry, blob }
    }
}

/// An entry that nobody waits for.
pub(super) struct Unawaited {
    pub(super) entry: Prepared,
    /// The intention that it ends, and what that cost.
    pub(super) settles: Option<(i64, Settlement)>,
}

/// The hash of a payload that does not stand in the database itself.
pub(super) fn large(payload: &str) -> Option<Hash> {
    (payload.len() > INLINE).then(|| Hash::of(payload))
}

impl Store {
    /// Writes one entry and answers its number.
    pub(super) fn insert(&mut self, prepared: &Prepared) -> Result<i64, Error> {
        self.insert_with(prepared, prepared.entry.payload.get(), prepared.blob)
    }

    /// Writes one entry with the settlement that belongs to it.
    pub(super) fn insert_unawaited(&mut self, unawaited: &Unawaited) -> Result<(), Error> {
        self.insert(&unawaited.entry)?;
        match &unawaited.settles {
            Some((intended, settlement)) => self.settle_grant(&unawaited.entry.entry.run, *intended, Some(settlement)),
            None => Ok(()),
        }
    }

    /// As [`Store::insert`], with another payload.
    pub(super) fn insert_with(&mut self, prepared: &Prepared, payload: &str, blob: Option<Hash>) -> Result<i64, Error> {
        let run = self.run_no(&prepared.entry.run)?;
        let seq = self.insert_row(run, &prepared.entry, payload, blob)?;
        self.begun(run);
        Ok(seq)
    }

    pub(super) fn insert_row(
        &mut self,
        run: i64,
        entry: &NewEntry,
        payload: &str,
        blob: Option<Hash>,
    ) -> Result<i64, Error> {
        if let Some(hash) = &blob {
            self.blobs().write(hash, payload.as_bytes())?;
        }
        self.alive(self.last_seq())?;
        let seq = self.next_seq();
        self.conn()
            .prepare_cached(
                "INSERT INTO entries (seq, run, family, kind, path, attempt, supersedes, at, input, payload, blob)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            )?
            .execute(params![
                seq,
                run,
                entry.family.as_str(),
                entry.kind.as_str(),
                entry.path,
                entry.attempt,
                entry.supersedes,
                micros(self.now()),
                entry.input.map(|hash| hash.to_string()),
                blob.is_none().then_some(payload),
                blob.map(|hash| hash.to_string()),
            ])?;
        Ok(seq)
    }

    pub(super) fn put_blob(&mut self, hash: &Hash, bytes: &[u8]) -> Result<(), Error> {
        self.blobs().write(hash, bytes)
    }
}

/// A payload as it stands in a row: inline, or the name of a blob.
#[derive(Clone, Debug)]
pub(super) enum Stored {
    Inline(String),
    Blob(Hash),
}

impl Stored {
    /// From the columns `payload` and `blob`.
    pub(super) fn from_row(row: &Row<'_>, payload: usize, blob: usize) -> Result<Self, Error> {
        match row.get(payload)? {
            Some(text) => Ok(Self::Inline(text)),
            None => Ok(Self::Blob(hash(&row.get::<_, String>(blob)?)?)),
        }
    }

    pub(super) fn text(self, blobs: &Blobs) -> Result<String, Error> {
        match self {
            Self::Inline(text) => Ok(text),
            Self::Blob(hash) => {
                String::from_utf8(blobs.read(&hash)?).map_err(|error| Error::record(format!("in blob {hash}"), error))
            }
        }
    }

    pub(super) fn raw(self, blobs: &Blobs) -> Result<Box<RawValue>, Error> {
        RawValue::from_string(self.text(blobs)?).map_err(|error| Error::record("payload", error))
    }
}

pub(super) fn hash(text: &str) -> Result<Hash, Error> {
    text.parse().map_err(|error| Error::record(format!("hash `{text}`"), error))
}

/// A word of one of our enumerations.
pub(super) fn word<T: std::str::FromStr>(text: &str) -> Result<T, Error>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error| Error::record(format!("word `{text}`"), error))
}

/// The columns that [`entry`] reads.
pub(super) const COLUMNS: &str =
    "e.seq, r.id, e.family, e.kind, e.path, e.attempt, e.supersedes, e.at, e.input, e.payload, e.blob";

pub(super) fn entry(row: &Row<'_>, blobs: &Blobs) -> Result<Entry, Error> {
    Ok(Entry {
        seq: row.get(0)?,
        run: RunId(row.get(1)?),
        family: word(row.get_ref(2)?.as_str().unwrap_or_default())?,
        kind: word::<EntryKind>(row.get_ref(3)?.as_str().unwrap_or_default())?,
        path: row.get(4)?,
        attempt: row.get(5)?,
        supersedes: row.get(6)?,
        at: from_micros(row.get(7)?)?,
        input: row.get::<_, Option<String>>(8)?.map(|text| hash(&text)).transpose()?,
        payload: Stored::from_row(row, 9, 10)?.raw(blobs)?,
    })
}

impl Reader {
    /// Entries with a number above `seq`, in order, at most `limit`; of one run or of all.
    pub fn entries_after(&self, run: Option<&RunId>, seq: i64, limit: u32) -> Result<Vec<Entry>, Error> {
        self.with(|conn, blobs| {
            let only = match run {
                Some(id) => Some(self.no(conn, id)?.ok_or_else(|| Error::NoRun(id.clone()))?),
                None => None,
            };
            let by = if only.is_some() { "e.run = ?2 AND" } else { "?2 IS NULL AND" };
            let mut statement = conn.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM entries e JOIN runs r ON r.no = e.run WHERE {by} e.seq > ?1 ORDER BY e.seq LIMIT ?3"
            ))?;
            let mut rows = statement.query(params![seq, only, limit])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(entry(row, blobs)?);
            }
            Ok(found)
        })
    }

    /// Outputs of this run's activities that ended well, in order, as JSON text; only those that begin with `begins`.
    ///
    /// An output is one of our own types, and what it begins with says which: a text from outside stands deeper in it.
    pub fn outputs(&self, run: &RunId, begins: &str) -> Result<Vec<String>, Error> {
        self.with(|conn, blobs| {
            let no = self.no(conn, run)?.ok_or_else(|| Error::NoRun(run.clone()))?;
            let mut statement = conn.prepare_cached(
                "SELECT payload, blob FROM entries WHERE run = ?1 AND kind = 'activity_done'
                 AND (payload IS NULL OR substr(payload, 1, length(?2)) = ?2) ORDER BY seq",
            )?;
            let mut rows = statement.query(params![no, begins])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let text = Stored::from_row(row, 0, 1)?.text(blobs)?;
                if text.starts_with(begins) {
                    found.push(text);
                }
            }
            Ok(found)
        })
    }

    /// The bytes of a blob. `Error::NoBlob` if there is none.
    pub fn blob(&self, hash: &Hash) -> Result<Vec<u8>, Error> {
        self.blobs().read(hash)
    }

    pub(super) fn no(&self, conn: &rusqlite::Connection, run: &RunId) -> Result<Option<i64>, Error> {
        let mut statement = conn.prepare_cached("SELECT no FROM runs WHERE id = ?1")?;
        Ok(statement.query_row([run.as_str()], |row| row.get(0)).optional()?)
    }
}
