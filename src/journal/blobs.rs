//! The blob store: large payloads as files named by their hash, `DIR/blobs/ab/cdef…`.
//!
//! A file appears under its name only when it is whole and on disk (temporary file, fsync, rename, fsync of the directory), so
//! an entry that names a blob never precedes it.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::error::Error;
use super::lock::private_dir;
use crate::base::hash::Hash;

/// Payloads above this many bytes become blobs.
pub(super) const INLINE: usize = 32 * 1024;

#[derive(Clone, Debug)]
pub(super) struct Blobs {
    dir: PathBuf,
}

impl Blobs {
    pub(super) fn at(state: &Path) -> Self {
        Self { dir: state.join("blobs") }
    }

    fn temporary(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    fn path(&self, hash: &Hash) -> PathBuf {
        let name = hash.to_string();
        self.dir.join(&name[..2]).join(&name[2..])
    }

    /// Makes the folder and removes what a crash left half written. For the holder.
    pub(super) fn prepare(&self) -> Result<(), Error> {
        let temporary = self.temporary();
        private_dir(&self.dir)?;
        private_dir(&temporary)?;
        let failed = |error| Error::io("cleaning", &temporary, error);
        for file in std::fs::read_dir(&temporary).map_err(failed)? {
            std::fs::remove_file(file.map_err(failed)?.path()).map_err(failed)?;
        }
        Ok(())
    }

    /// Stores `bytes`, whose hash the caller has computed. Durable when it returns. Only the writer thread calls this.
    pub(super) fn write(&self, hash: &Hash, bytes: &[u8]) -> Result<(), Error> {
        let path = self.path(hash);
        // A file under its name is whole, unless somebody else has damaged it.
        if std::fs::metadata(&path).is_ok_and(|found| found.len() == bytes.len() as u64) {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(&self.dir);
        let new_folder = !folder.exists();
        private_dir(folder)?;
        let temporary = self.temporary().join(hash.to_string());
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            File::open(folder)?.sync_all()?;
            if new_folder { File::open(&self.dir)?.sync_all() } else { Ok(()) }
        };
        write().map_err(|error| {
            // What was written is of no use; a full disk has better use for the space.
            if let Err(left) = std::fs::remove_file(&temporary)
                && left.kind() != std::io::ErrorKind::NotFound
            {
                tracing::debug!(error = %left, "removing a half-written blob");
            }
            Error::io("writing", &path, error)
        })
    }

    pub(super) fn read(&self, hash: &Hash) -> Result<Vec<u8>, Error> {
        let path = self.path(hash);
        match std::fs::read(&path) {
            Ok(bytes) if Hash::of(&bytes) == *hash => Ok(bytes),
            Ok(_) => Err(Error::Corrupt { path, detail: "its content does not have its hash".to_owned() }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::NoBlob(*hash)),
            Err(error) => Err(Error::io("reading", &path, error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_comes_back_whole_and_a_damaged_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::at(dir.path());
        blobs.prepare().unwrap();
        let hash = Hash::of("content");
        assert!(matches!(blobs.read(&hash), Err(Error::NoBlob(missing)) if missing == hash));
        blobs.write(&hash, b"content").unwrap();
        blobs.write(&hash, b"content").unwrap();
        assert_eq!(blobs.read(&hash).unwrap(), b"content");
        std::fs::write(blobs.path(&hash), "CONTENT").unwrap();
        assert!(matches!(blobs.read(&hash), Err(Error::Corrupt { .. })));
        std::fs::write(blobs.temporary().join("half"), "x").unwrap();
        blobs.prepare().unwrap();
        assert_eq!(std::fs::read_dir(blobs.temporary()).unwrap().count(), 0);
    }
}
