//! [`Reader`]: reads beside a writer, from the holder's process or any other. Takes no lock and changes nothing.
//!
//! Every call sees one consistent state of what is durable. The methods stand in the file of the table they read.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;

use super::blobs::Blobs;
use super::error::Error;
use super::{DATABASE, migrate};

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
            // A directory that may not be looked into is not an empty one.
            None if !path.try_exists().map_err(|error| Error::io("reading", &path, error))? => {
                return Err(Error::Missing { dir: self.inner.dir.clone() });
            }
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
}
