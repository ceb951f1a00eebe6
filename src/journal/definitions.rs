//! Table `definitions`: the files and settings that runs began with, so that they go on with them.

use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::entries::{Stored, large};
use super::error::Error;
use super::reader::Reader;
use super::writer::Store;
use super::{micros, raw};
use crate::base::hash::Hash;

/// What a run's definition hash stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredDefinition {
    pub pipeline: String,
    /// (path, text), the pipeline itself first.
    pub files: Vec<(String, String)>,
    /// (name, text) of the settings that bind it.
    pub settings: Vec<(String, String)>,
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
}

impl Reader {
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
}
