//! One holder per state directory: an exclusive `flock` on `DIR/lock`, and the permissions of the directory.
//!
//! The lock goes with the process, however it dies; the text inside the file is only for the message of the second holder.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::error::Error;

/// The held lock. Dropping it releases it.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// Makes `dir` (0700; wider permissions are narrowed) and takes its lock, or says who has it. `what` describes this holder.
    pub(super) fn take(dir: &Path, what: &str) -> Result<Self, Error> {
        private_dir(dir)?;
        let path = dir.join("lock");
        let failed = |error| Error::io("locking", &path, error);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // The text is for people and may be missing: the holder may be about to write it.
                let holder = match file.read_to_string(&mut text) {
                    Ok(_) if text.starts_with("process ") => text.trim().to_owned(),
                    Ok(_) | Err(_) => "another process".to_owned(),
                };
                return Err(Error::Held { dir: dir.to_owned(), holder });
            }
            Err(error) => return Err(failed(error.into())),
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "process {} ({what})", std::process::id())
        };
        match write(&mut file) {
            // A full disk must not keep a holder from reading what is there.
            Err(error) if error.kind() != std::io::ErrorKind::StorageFull => Err(failed(error)),
            Ok(()) | Err(_) => Ok(Self { file }),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A name left behind would only be misleading.
        if let Err(error) = self.file.set_len(0) {
            tracing::debug!(%error, "emptying the lock file");
        }
        // Closing is not enough: a child that was forked and has not reached its `exec` yet shares the open file.
        if let Err(error) = flock(&self.file, FlockOperation::Unlock) {
            tracing::debug!(%error, "unlocking the lock file");
        }
    }
}

/// Makes a directory and its parents if missing, and takes all rights on it from group and world.
pub(super) fn private_dir(dir: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| Error::io("making the directory", dir, error))?;
    narrow(dir, 0o700)
}

/// Takes the rights beyond `mode` away, if there are any.
pub(super) fn narrow(path: &Path, mode: u32) -> Result<(), Error> {
    let failed = |error| Error::io("setting the permissions of", path, error);
    let found = std::fs::metadata(path).map_err(failed)?.permissions().mode() & 0o7777;
    if found & !mode != 0 {
        std::fs::set_permissions(path, Permissions::from_mode(found & mode)).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_holder_learns_who_the_first_is_and_the_lock_is_free_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/state");
        let first = Lock::take(&state, "nightcrew test").unwrap();
        let error = Lock::take(&state, "other").unwrap_err().to_string();
        let pid = std::process::id();
        assert!(error.contains(&format!("is held by process {pid} (nightcrew test)")), "{error}");
        drop(first);
        Lock::take(&state, "other").unwrap();
        assert_eq!(std::fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(std::fs::metadata(state.join("lock")).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_directory_that_others_can_read_is_narrowed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let _lock = Lock::take(dir.path(), "x").unwrap();
        assert_eq!(std::fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
