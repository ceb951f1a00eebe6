//! A folder of a process's own among those of others: locked for as long as the process lives, and removed by whoever comes next
//! when the process died without removing it. Everything here blocks.

use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::remove_folder;

/// Folders that one process may claim beside each other, as tests do.
const MOST: u32 = 1_000;

/// A folder that nobody else has, empty when it is claimed.
#[derive(Debug)]
pub struct Claim {
    name: String,
    folder: PathBuf,
    _lock: File,
}

impl Claim {
    /// Claims a folder below `all`, after what dead processes left there is removed. `mode` is that of the folders. `before` is
    /// called while no other process claims or removes anything here.
    pub fn take<T>(all: &Path, mode: u32, before: impl FnOnce() -> io::Result<T>) -> io::Result<(Self, T)> {
        make(all, mode)?;
        let _turn = tidy(all)?;
        let answer = before()?;
        for number in 0..MOST {
            let name = format!("{}-{number}", std::process::id());
            let folder = all.join(&name);
            if let Some(held) = taken(&lock_of(&folder))? {
                if remove_folder(&folder).is_err() {
                    continue;
                }
                make(&folder, mode)?;
                return Ok((Self { name, folder, _lock: held }, answer));
            }
        }
        Err(io::Error::other(format!("one process has more than {MOST} folders below {}", all.display())))
    }

    /// Among the claims beside it: the process's id and a number.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether the process that claimed this name beside ours lives, as far as this machine can tell.
    pub fn lives(&self, name: &str) -> bool {
        let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
        let lock = lock_of(&self.folder.with_file_name(name));
        // What cannot be looked at is left alone.
        plain && lock.exists() && !matches!(taken(&lock), Ok(Some(_)))
    }

    /// Removes the folder, at the end.
    pub fn release(&self) -> io::Result<()> {
        let _turn = turn(self.folder.parent().unwrap_or(&self.folder))?;
        remove_folder(&self.folder)?;
        match std::fs::remove_file(lock_of(&self.folder)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Removes the folders of processes that are gone. The answer is the turn: as long as it is held, nobody else claims or removes.
pub fn tidy(all: &Path) -> io::Result<File> {
    let turn = turn(all)?;
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

fn make(folder: &Path, mode: u32) -> io::Result<()> {
    std::fs::DirBuilder::new().mode(mode).recursive(true).create(folder)
}

fn lock_of(folder: &Path) -> PathBuf {
    folder.with_extension("lock")
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

    fn claim(all: &Path) -> Claim {
        Claim::take(all, 0o700, || Ok(())).unwrap().0
    }

    #[test]
    fn what_a_dead_process_left_goes_and_what_a_living_one_has_stays() {
        let root = tempfile::tempdir().unwrap();
        let all = root.path().join("own");
        let one = claim(&all);
        std::fs::write(one.folder().join("x"), "x").unwrap();
        // As `kill -9` leaves it: a lock that nobody holds.
        std::fs::create_dir_all(all.join("1-0/deep")).unwrap();
        std::fs::write(all.join("1-0.lock"), "").unwrap();

        let two = claim(&all);
        assert!(one.folder().join("x").exists() && !all.join("1-0").exists() && !all.join("1-0.lock").exists());
        assert!(one.name() != two.name() && two.lives(one.name()) && one.lives(two.name()));
        assert!(!one.lives("1-0") && !one.lives("") && !one.lives("../own/1"));
        let name = one.name().to_owned();
        one.release().unwrap();
        assert!(!two.lives(&name));
        two.release().unwrap();
        let left: Vec<_> = std::fs::read_dir(&all).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["turn"]);
    }
}
