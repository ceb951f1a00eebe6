//! What one process has for itself: a name by which its sandboxes are known, and a folder for files on their way.
//!
//! The folder is locked for as long as the process lives. Whoever starts next removes what dead ones left: their folders, and, where
//! sandboxes outlive the process that made them, those too.

use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::env::Env;
use crate::workspace::remove_folder;

#[derive(Debug)]
pub(super) struct Own {
    /// Of the folder that several processes share: the same for each of them, and for nobody else.
    pub instance: String,
    /// Of this process.
    pub name: String,
    all: PathBuf,
    scratch: PathBuf,
    serial: AtomicU64,
    _lock: File,
}

impl Own {
    /// Claims a place below `folder` and removes those of dead processes. Blocking.
    pub(super) fn begin(folder: &Path, env: &Env) -> io::Result<Self> {
        let all = folder.join("own");
        make_dir(&all)?;
        let _turn = reap(&all)?;
        let instance = instance(&folder.join("instance"), env)?;
        // More than one where a process has several of these, as tests do.
        for number in 0..1000 {
            let name = format!("{}-{number}", std::process::id());
            let scratch = all.join(&name);
            if let Some(held) = taken(&lock_of(&scratch))? {
                if remove_folder(&scratch).is_err() {
                    continue;
                }
                make_dir(&scratch)?;
                return Ok(Self { instance, name, all, scratch, serial: AtomicU64::new(1), _lock: held });
            }
        }
        Err(io::Error::other("too many sandboxes in one process"))
    }

    /// A folder that is empty, and goes when the answer is dropped. Blocking.
    pub(super) fn scratch(&self) -> io::Result<Scratch> {
        let path = self.scratch.join(self.serial.fetch_add(1, Ordering::Relaxed).to_string());
        make_dir(&path)?;
        Ok(Scratch(path))
    }

    /// Whether the process of this name lives, as far as this machine can tell. Blocking.
    pub(super) fn lives(&self, name: &str) -> bool {
        let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
        let lock = lock_of(&self.all.join(name));
        // What cannot be looked at is left alone.
        plain && lock.exists() && !matches!(taken(&lock), Ok(Some(_)))
    }
}

/// An empty folder for a moment.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove_folder(&self.0) {
            tracing::debug!(%error, "files on their way stay until the next start");
        }
    }
}

/// Removes the folders that dead processes left, without claiming one. Blocking.
pub(super) fn tidy(folder: &Path) -> io::Result<()> {
    let all = folder.join("own");
    if all.is_dir() { reap(&all).map(drop) } else { Ok(()) }
}

fn lock_of(folder: &Path) -> PathBuf {
    folder.with_extension("lock")
}

pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().mode(0o700).recursive(true).create(path)
}

/// The name that stands in a file, made at the first time. For the holder of the turn.
fn instance(file: &Path, env: &Env) -> io::Result<String> {
    match std::fs::read_to_string(file) {
        Ok(text) if text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) => return Ok(text),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let made = format!("{:032x}", env.ids.random());
    std::fs::write(file, &made)?;
    Ok(made)
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
fn reap(all: &Path) -> io::Result<File> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dead_processes_left_goes_and_the_living_are_known() {
        let root = tempfile::tempdir().unwrap();
        let one = Own::begin(root.path(), &Env::system()).unwrap();
        let scratch = one.scratch().unwrap();
        std::fs::write(scratch.path().join("x"), "x").unwrap();
        let dead = root.path().join("own/77-0");
        std::fs::create_dir(&dead).unwrap();
        std::fs::write(lock_of(&dead), "").unwrap();
        let two = Own::begin(root.path(), &Env::system()).unwrap();
        assert!(!dead.exists() && !lock_of(&dead).exists() && scratch.path().join("x").exists());
        assert_eq!(one.instance, two.instance);
        assert!(one.name != two.name && two.lives(&one.name) && one.lives(&two.name));
        assert!(!one.lives("77-0") && !one.lives("") && !one.lives("../own/1"));
        let (path, name) = (scratch.path().to_owned(), one.name.clone());
        drop(scratch);
        assert!(!path.exists());
        drop(one);
        assert!(!two.lives(&name));
    }
}
