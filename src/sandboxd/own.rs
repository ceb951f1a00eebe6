//! What one server has for itself: a folder with its sandboxes, locked for as long as the process lives.
//!
//! Whoever starts next over the same state removes what dead servers left. Their processes are gone by then: each sandbox has a first
//! process inside that ends with the server, and everything else ends with that.

use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::isolation::Limits;
use crate::workspace::remove_folder;

/// Files of commands may become so large that they leave some of the disk to others, such as the daemon's journal.
pub(super) fn leave_room(limits: &mut Limits, folder: &Path) {
    if let Ok(found) = rustix::fs::statvfs(folder) {
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        limits.file_bytes = limits.file_bytes.min(free / 4 * 3);
    }
}

#[derive(Debug)]
pub(super) struct Own {
    folder: PathBuf,
    _lock: File,
}

impl Own {
    /// A folder of this server's own below `all`, when what dead ones left there is removed. Blocking.
    pub fn claim(all: &Path) -> io::Result<Self> {
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
                make_dir(&folder.join("sandboxes"))?;
                return Ok(Self { folder, _lock: held });
            }
        }
        Err(io::Error::other("too many servers in one process"))
    }

    /// The state of the isolation.
    pub fn isolation(&self) -> PathBuf {
        self.folder.join("isolation")
    }

    /// Homes that are ready before a sandbox asks for one.
    pub fn spares(&self) -> PathBuf {
        self.folder.join("spares")
    }

    /// The folder of one sandbox; not made yet.
    pub fn sandbox(&self, id: &str) -> PathBuf {
        self.folder.join("sandboxes").join(id)
    }

    /// Removes everything, at the end. Blocking.
    pub fn release(&self) -> io::Result<()> {
        let all = self.folder.parent().unwrap_or(&self.folder);
        let _turn = turn(all)?;
        remove_folder(&self.folder)?;
        match std::fs::remove_file(self.folder.with_extension("lock")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// A folder that nobody else can look into. Root lets users of sandboxes pass through it: in the last tier each has one of its own.
pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    let mode = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
    std::fs::DirBuilder::new().mode(mode).recursive(true).create(path)
}

/// Removes the folders of servers that are gone. The answer is the turn: hold it for as long as locks are made.
fn reap(all: &Path) -> io::Result<File> {
    let turn = turn(all)?;
    for entry in std::fs::read_dir(all)? {
        let lock = entry?.path();
        if lock.extension().is_some_and(|extension| extension == "lock")
            && let Some(_held) = taken(&lock)?
        {
            match remove_folder(&lock.with_extension("")) {
                Ok(()) => std::fs::remove_file(&lock)?,
                // The next one tries again.
                Err(error) => tracing::warn!(%error, lock = %lock.display(), "what a dead server left stays"),
            }
        }
    }
    Ok(turn)
}

/// One at a time: between making a lock and taking it, it looks like a dead one's.
fn turn(all: &Path) -> io::Result<File> {
    let turn = File::options().write(true).create(true).truncate(false).open(all.join("turn"))?;
    turn.lock()?;
    Ok(turn)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_server_left_goes_and_what_a_living_one_has_stays() {
        let root = tempfile::tempdir().unwrap();
        let all = root.path().join("own");
        let living = Own::claim(&all).unwrap();
        std::fs::create_dir(living.sandbox("a")).unwrap();
        // As `kill -9` leaves it: a lock that nobody holds.
        std::fs::create_dir_all(all.join("1-0/sandboxes/b")).unwrap();
        std::fs::write(all.join("1-0.lock"), "").unwrap();

        let other = Own::claim(&all).unwrap();
        assert_ne!(other.folder, living.folder);
        assert!(living.sandbox("a").is_dir() && !all.join("1-0").exists() && !all.join("1-0.lock").exists());
        living.release().unwrap();
        other.release().unwrap();
        let left: Vec<_> = std::fs::read_dir(&all).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["turn"]);
    }
}
