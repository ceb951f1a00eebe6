//! [`Reader`]: reads beside a writer, from the holder's process or any other. Takes no lock and changes nothing.
//!
//! Every call sees one consistent state of what is durable. The methods stand in the file of the table they read.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

use super::blobs::Blobs;
use super::entries::{Stored, large};
use super::error::Error;
use super::writer::Store;
use super::{DATABASE, micros, migrate, raw};
use crate::base::hash::Hash;

/// Connections kept for the next call.
const IDLE: usize = 4;

/// A read-only view. Cheap to clone; calls block for the time of a query.
#[derive(Clone, Debug)]
pub struct Reader {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    blobs: Blobs,
    idle: Mutex<Vec<Connection>>,
}

/// Which runs to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFilter {
    pub pipeline: Option<String>,
    pub open_only: bool,
    /// The newest so many.
    pub limit: u32,
}

impl Default for RunFilter {
    fn default() -> Self {
        Self { pipeline: None, open_only: false, limit: 50 }
    }
}

/// What a run's definition hash stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredDefinition {
    pub pipeline: String,
    /// (path, text), the pipeline itself first.
    pub files: Vec<(String, String)>,
    /// (name, text) of the settings that bind it.
    pub settings: Vec<(String, String)>,
}

impl Reader {
    /// Opens the journal of a state directory. Errors: `Missing`, `Newer`, `Older`, `Corrupt`.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let inner = Inner { dir: dir.to_owned(), blobs: Blobs::at(dir), idle: Mutex::default() };
        let reader = Self { inner: Arc::new(inner) };
        // Tells at once what is wrong, if anything is.
        reader.with(|_, _| Ok(()))?;
        Ok(reader)
    }

    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    pub(super) fn blobs(&self) -> &Blobs {
        &self.inner.blobs
    }

    /// Reads in one transaction, so that several statements see the same state.
    pub(super) fn with<T>(&self, read: impl FnOnce(&Connection, &Blobs) -> Result<T, Error>) -> Result<T, Error> {
        let path = self.inner.dir.join(DATABASE);
        let idle = || self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle().pop();
        let mut conn = match kept {
            Some(conn) => conn,
            None if !path.exists() => return Err(Error::Missing { dir: self.inner.dir.clone() }),
            None => migrate::open_reader(&path).map_err(|error| error.at(&path))?,
        };
        let answer = conn
            .transaction()
            .map_err(Error::from)
            .and_then(|transaction| read(&transaction, &self.inner.blobs))
            .map_err(|error| error.at(&path));
        if answer.is_ok() {
            let mut idle = idle();
            if idle.len() < IDLE {
                idle.push(conn);
            }
        }
        answer
    }

    /// What was stored by `put_definition`.
    pub fn definition(&self, hash: &Hash) -> Result<Option<StoredDefinition>, Error> {
        self.with(|conn, blobs| {
            let mut statement = conn.prepare_cached("SELECT payload, blob FROM definitions WHERE hash = ?1")?;
            let mut rows = statement.query([hash.to_string()])?;
            let Some(row) = rows.next()? else { return Ok(None) };
            let text = Stored::from_row(row, 0, 1)?.text(blobs)?;
            let read = serde_json::from_str(&text);
            read.map(Some).map_err(|error| Error::record(format!("definition {}", hash.short()), error))
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

impl Store {
    pub(super) fn put_definition(&mut self, hash: &Hash, definition: &StoredDefinition) -> Result<(), Error> {
        let mut known = self.conn().prepare_cached("SELECT 1 FROM definitions WHERE hash = ?1")?;
        if known.exists([hash.to_string()])? {
            return Ok(());
        }
        let payload = raw(definition)?;
        let blob = large(payload.get());
        if let Some(blob) = &blob {
            self.blobs().write(blob, payload.get().as_bytes())?;
        }
        self.conn()
            .prepare_cached(
                "INSERT INTO definitions (hash, pipeline, stored_at, payload, blob) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                hash.to_string(),
                definition.pipeline,
                micros(self.now()),
                blob.is_none().then_some(payload.get()),
                blob.map(|hash| hash.to_string()),
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
}
