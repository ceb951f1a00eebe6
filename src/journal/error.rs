//! What can go wrong with the journal, by what the caller does next.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::hash::Hash;
use crate::base::ids::RunId;
use crate::domain::run::Outcome;

/// An answer that the journal could not give. Cheap to clone: one failed commit answers everybody who shared it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Another process has the lock. `holder` is what it wrote about itself: `process 123 (nightcrew 0.1.0, since …)`.
    #[error(
        "the state directory `{}` is held by {holder}; stop it first, or give another directory with --state",
        dir.display()
    )]
    Held { dir: PathBuf, holder: String },
    /// No holder has ever written here.
    #[error("there is no journal in `{}` yet", dir.display())]
    Missing { dir: PathBuf },
    /// The database was written by a newer nightcrew.
    #[error(
        "`{}` has schema version {found}, this binary knows versions up to {known}: use the newer nightcrew, or restore \
         the backup that it made before its migration",
        path.display()
    )]
    Newer { path: PathBuf, found: u32, known: u32 },
    /// A reader met a database that only a holder may migrate.
    #[error(
        "`{}` has schema version {found}, this binary reads version {known}: start the daemon once, it migrates",
        path.display()
    )]
    Older { path: PathBuf, found: u32, known: u32 },
    /// The SQLite library has the WAL-reset corruption bug.
    #[error("SQLite {found} is too old: 3.51.3 or newer is needed")]
    OldSqlite { found: String },
    /// A restored backup: its original may still be at work elsewhere.
    #[error("`{}` was restored from a backup; make sure that no other server works from it, then use --take-over", dir.display())]
    Restored { dir: PathBuf },
    /// Another holder has taken the database over since. Nothing was written; nothing ever will be by this handle.
    #[error("this process no longer holds the journal (its epoch is {mine}, the current one is {current})")]
    Stale { mine: i64, current: i64 },
    /// No space left. Nothing of the transaction was written; later calls succeed by themselves when there is space again.
    #[error("no space left to write the journal in `{}`", dir.display())]
    Full { dir: PathBuf },
    /// The disk failed. Nothing of the transaction counts as written; later calls try again.
    #[error("{doing}")]
    Io { doing: String, source: Arc<std::io::Error> },
    /// SQLite met an I/O error. As for `Io`.
    #[error("reading or writing `{}` failed", path.display())]
    SqlIo { path: PathBuf, source: Arc<rusqlite::Error> },
    /// The file is damaged or is no database of nightcrew.
    #[error("`{}` is damaged or is not a journal of nightcrew ({detail}); restore a backup, or move the directory away", path.display())]
    Corrupt { path: PathBuf, detail: String },
    /// An entry cannot be read.
    #[error("the journal's record {what} cannot be read: {detail}")]
    Record { what: String, detail: String },
    /// A payload's blob is missing.
    #[error("the blob {0} is missing")]
    NoBlob(Hash),
    /// No run has this id.
    #[error("there is no run {0}")]
    NoRun(RunId),
    /// The run has ended and takes no signals.
    #[error("run {run} has already ended ({outcome})")]
    Ended { run: RunId, outcome: Outcome },
    /// Several runs fit.
    #[error("`{prefix}` fits several runs: {}", matches.join(", "))]
    Ambiguous { prefix: String, matches: Vec<String> },
    /// The journal was closed.
    #[error("the journal is closed")]
    Closed,
    /// SQLite refused a statement: a bug here.
    #[error("the journal's database refused a statement")]
    Sql(#[source] Arc<rusqlite::Error>),
}

impl Error {
    /// The same call may succeed later without anybody changing it.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::Io { .. } | Self::SqlIo { .. })
    }

    pub(super) fn io(doing: impl Into<String>, path: &Path, source: std::io::Error) -> Self {
        match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::Full { dir: path.parent().unwrap_or(path).to_owned() }
            }
            _ => Self::Io { doing: format!("{} `{}` failed", doing.into(), path.display()), source: Arc::new(source) },
        }
    }

    pub(super) fn sql(path: &Path, error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full { dir: path.parent().unwrap_or(path).to_owned() },
            Some(
                ErrorCode::SystemIoFailure
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied,
            ) => Self::SqlIo { path: path.to_owned(), source: Arc::new(error) },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Corrupt { path: path.to_owned(), detail: error.to_string() }
            }
            _ => Self::Sql(Arc::new(error)),
        }
    }

    pub(super) fn record(what: impl std::fmt::Display, detail: impl std::fmt::Display) -> Self {
        Self::Record { what: what.to_string(), detail: detail.to_string() }
    }
}

impl From<rusqlite::Error> for Error {
    /// For statements whose file is not at hand; [`Error::at`] adds it where an answer leaves the module.
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(Arc::new(error))
    }
}

impl Error {
    /// Sorts a raw SQLite error into what the caller does next, naming the file.
    pub(super) fn at(self, path: &Path) -> Self {
        match self {
            Self::Sql(error) => match Arc::try_unwrap(error) {
                Ok(error) => Self::sql(path, error),
                Err(shared) => Self::Sql(shared),
            },
            other => other,
        }
    }
}
