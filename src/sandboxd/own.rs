//! What one server has for itself: a folder with its sandboxes, locked for as long as the process lives.
//!
//! Whoever starts next over the same state removes what dead servers left. Their processes are gone by then: each sandbox has a first
//! process inside that ends with the server, and everything else ends with that.

use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::isolation::Limits;
use crate::workspace::claim::Claim;

/// Files of commands may become so large that they leave some of the disk to others, such as the daemon's journal.
pub(super) fn leave_room(limits: &mut Limits, folder: &Path) {
    if let Ok(found) = rustix::fs::statvfs(folder) {
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        limits.file_bytes = limits.file_bytes.min(free / 4 * 3);
    }
}

/// A folder that nobody else can look into. Root lets users of sandboxes pass through it: in the last tier each has one of its own.
fn mode() -> u32 {
    if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 }
}

/// Makes such a folder.
pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().mode(mode()).recursive(true).create(path)
}

#[derive(Debug)]
pub(super) struct Own(Claim);

impl Own {
    /// A folder of this server's own below `all`, when what dead ones left there is removed. Blocking.
    pub fn claim(all: &Path) -> io::Result<Self> {
        let (claim, ()) = Claim::take(all, mode(), || Ok(()))?;
        make_dir(&claim.folder().join("sandboxes"))?;
        Ok(Self(claim))
    }

    /// The state of the isolation.
    pub fn isolation(&self) -> PathBuf {
        self.0.folder().join("isolation")
    }

    /// Homes that are ready before a sandbox asks for one.
    pub fn spares(&self) -> PathBuf {
        self.0.folder().join("spares")
    }

    /// The folder of one sandbox; not made yet.
    pub fn sandbox(&self, id: &str) -> PathBuf {
        self.0.folder().join("sandboxes").join(id)
    }

    /// Removes everything, at the end. Blocking.
    pub fn release(&self) -> io::Result<()> {
        self.0.release()
    }
}
