//! The file from which the sender takes what was decided. Workers share it and take turns by a lock file.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

/// An outbox at a path; `PATH.lock` is there while somebody writes.
#[derive(Clone, Debug)]
pub struct Outbox {
    path: PathBuf,
}

/// Why a line was not written.
#[derive(Debug)]
pub enum OutboxError {
    /// Another worker is writing, or went away without unlocking.
    Locked { holder: String },
    Io(io::Error),
}

impl fmt::Display for OutboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked { holder } => write!(f, "the outbox is locked by {holder}"),
            Self::Io(error) => write!(f, "the outbox cannot be written: {error}"),
        }
    }
}

impl std::error::Error for OutboxError {}

impl Outbox {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    fn lock_path(&self) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(".lock");
        path.into()
    }

    /// Appends one line. `worker` is who others will read in the lock file.
    pub fn append(&self, worker: &str, line: &str) -> Result<(), OutboxError> {
        let lock = self.lock_path();
        match OpenOptions::new().write(true).create_new(true).open(&lock) {
            Ok(mut file) => file.write_all(worker.as_bytes()).map_err(OutboxError::Io)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let holder = fs::read_to_string(&lock).unwrap_or_default();
                return Err(OutboxError::Locked { holder: holder.trim().to_owned() });
            }
            Err(error) => return Err(OutboxError::Io(error)),
        }
        let written = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&self.path)
            .and_then(|mut file| writeln!(file, "{line}"));
        fs::remove_file(&lock).and(written).map_err(OutboxError::Io)
    }
}
