//! What one process has for itself: a name by which its sandboxes are known, and a folder for files on their way.
//!
//! The folder is locked for as long as the process lives. Whoever starts next removes what dead ones left: their folders, and, where
//! sandboxes outlive the process that made them, those too.

use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::env::Env;
use crate::workspace::claim::{self, Claim};
use crate::workspace::remove_folder;

#[derive(Debug)]
pub(super) struct Own {
    /// Of the folder that several processes share: the same for each of them, and for nobody else.
    pub instance: String,
    claim: Claim,
    serial: AtomicU64,
}

impl Own {
    /// Claims a place below `folder` and removes those of dead processes. Blocking.
    pub(super) fn begin(folder: &Path, env: &Env) -> io::Result<Self> {
        let (claim, instance) = Claim::take(&folder.join("own"), 0o700, || instance(&folder.join("instance"), env))?;
        Ok(Self { instance, claim, serial: AtomicU64::new(1) })
    }

    /// Of this process.
    pub(super) fn name(&self) -> &str {
        self.claim.name()
    }

    /// A folder that is empty, and goes when the answer is dropped. Blocking.
    pub(super) fn scratch(&self) -> io::Result<Scratch> {
        let path = self.claim.folder().join(self.serial.fetch_add(1, Ordering::Relaxed).to_string());
        make_dir(&path)?;
        Ok(Scratch(path))
    }

    /// Whether the process of this name lives, as far as this machine can tell. Blocking.
    pub(super) fn lives(&self, name: &str) -> bool {
        self.claim.lives(name)
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
    if all.is_dir() { claim::tidy(&all).map(drop) } else { Ok(()) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_share_an_instance_and_files_on_their_way_go_when_they_are_through() {
        let root = tempfile::tempdir().unwrap();
        let one = Own::begin(root.path(), &Env::system()).unwrap();
        let two = Own::begin(root.path(), &Env::system()).unwrap();
        assert_eq!(one.instance, two.instance);
        assert!(one.name() != two.name() && two.lives(one.name()));
        let (first, second) = (one.scratch().unwrap(), one.scratch().unwrap());
        assert_ne!(first.path(), second.path());
        let path = first.path().to_owned();
        std::fs::write(path.join("x"), "x").unwrap();
        drop(first);
        assert!(!path.exists() && second.path().is_dir());
    }
}
