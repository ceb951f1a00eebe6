//! What one process has for itself: its isolation and the folders in which its commands run.
//!
//! It lies in a folder that is locked for as long as the process lives; whoever starts next removes what dead ones left.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::isolation::{Helper, Isolation, Search, Setup, Tier};
use crate::ports::sandbox::{SandboxError, SandboxSetup};
use crate::workspace::remove_folder;

use super::act::failed;
use super::folder::make_dir;
use super::images::Images;
use super::needs::chain;

#[derive(Debug)]
pub(super) struct Own {
    pub isolation: Isolation,
    pub images: Arc<Images>,
    runs: PathBuf,
    serial: AtomicU64,
    _lock: File,
}

impl Own {
    /// Looks at the machine and removes what others left.
    pub(super) async fn begin(setup: &SandboxSetup, tier: Option<Tier>) -> Result<Arc<Self>, SandboxError> {
        let folder = setup.folder.clone();
        let place = move || -> io::Result<_> {
            make_dir(&folder)?;
            let folder = folder.canonicalize()?;
            let (own, lock) = claim(&folder.join("own"))?;
            make_dir(&own.join("runs"))?;
            Ok((Images::open(&folder)?, own, lock, folder))
        };
        let placed = tokio::task::spawn_blocking(place).await.unwrap_or_else(|lost| Err(io::Error::other(lost)));
        let (images, own, lock, folder) =
            placed.map_err(|error| failed(format!("the sandbox's folder {}: {error}", setup.folder.display())))?;
        let helper = setup.program.clone().map_or(Helper::Own, Helper::Program);
        let begun = Setup { helper, state: own.join("isolation"), search: Search::from_process(vec![folder]) };
        let mut isolation =
            Isolation::begin(begun, setup.scope.clone()).await.map_err(|error| failed(chain(&error)))?;
        if let Some(tier) = tier {
            isolation = isolation.held_to(tier).map_err(|why| SandboxError::Missing {
                message: format!("commands cannot be confined by {tier}: {}", why.reason),
                help: why.fix,
            })?;
        }
        let runs = own.join("runs");
        Ok(Arc::new(Self { isolation, images: Arc::new(images), runs, serial: AtomicU64::new(1), _lock: lock }))
    }

    /// A name for a folder that does not exist.
    pub(super) fn next_folder(&self) -> PathBuf {
        self.runs.join(self.serial.fetch_add(1, Ordering::Relaxed).to_string())
    }
}

/// The lock of a folder, unless a living process has it.
fn taken(lock: &Path) -> io::Result<Option<File>> {
    let file = File::options().write(true).create(true).truncate(false).open(lock)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}

/// Removes the folders of processes that are gone. The answer is the turn: hold it for as long as locks are made.
pub(super) fn reap(all: &Path) -> io::Result<File> {
    // One at a time: between making a lock and taking it, it looks like a dead one's.
    let turn = File::options().write(true).create(true).truncate(false).open(all.join("turn"))?;
    turn.lock()?;
    for entry in std::fs::read_dir(all)? {
        let lock = entry?.path();
        if lock.extension().is_some_and(|extension| extension == "lock")
            && let Some(_held) = taken(&lock)?
        {
            match remove_folder(&lock.with_extension("")) {
                Ok(()) => std::fs::remove_file(&lock)?,
                // The next one tries again.
                Err(error) => tracing::warn!(%error, lock = %lock.display(), "what a dead process left stays"),
            }
        }
    }
    Ok(turn)
}

/// A folder of this process below `all`, and the lock that says so.
fn claim(all: &Path) -> io::Result<(PathBuf, File)> {
    make_dir(all)?;
    let _turn = reap(all)?;
    // More than one where a process has several of these, as tests do.
    for number in 0..1000 {
        let folder = all.join(format!("{}-{number}", std::process::id()));
        if let Some(held) = taken(&folder.with_extension("lock"))? {
            if remove_folder(&folder).is_err() {
                continue;
            }
            make_dir(&folder)?;
            return Ok((folder, held));
        }
    }
    Err(io::Error::other("too many sandboxes in one process"))
}
