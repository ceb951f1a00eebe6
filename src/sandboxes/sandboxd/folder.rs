//! Folders in which commands run: a copy of an image, brought to the files of a tree.
//!
//! Commands write to them, so nothing in them is believed: before a folder is used again every file of the tree is compared with
//! what was written there, and what differs is written anew. What is not of the tree (build output) stays.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::base::scope::Scope;
use crate::domain::code::TreeId;
use crate::ports::sandbox::Files;
use crate::workspace::remove_folder;

use super::copy;
use super::recipe::Listing;

/// Removing is tried so often: what the commands have started may end a moment later.
const TRIES: u32 = 10;

/// A folder with `work/`, `home/` and `results/`. Removed when the last holder lets go.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    scope: Scope,
}

impl Folder {
    /// Makes it, empty. Blocking.
    pub(super) fn make(path: PathBuf, scope: &Scope) -> io::Result<Arc<Self>> {
        make_dir(&path)?;
        // From here on it is removed, whatever happens.
        let this = Arc::new(Self { path, scope: scope.clone() });
        for folder in [this.work(), this.home(), this.results()] {
            make_dir(&folder)?;
        }
        Ok(this)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The code, and what commands make of it.
    pub(super) fn work(&self) -> PathBuf {
        self.path.join("work")
    }

    pub(super) fn home(&self) -> PathBuf {
        self.path.join("home")
    }

    /// What commands tell the host.
    pub(super) fn results(&self) -> PathBuf {
        self.path.join("results")
    }

    /// An empty `results/`, whatever the last command left there. Blocking.
    pub(super) fn clear_results(&self) -> io::Result<()> {
        remove_folder(&self.results())?;
        make_dir(&self.results())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        // It can be large, and a command that was ended by force may still be ending.
        drop(self.scope.spawn(format!("removing {}", path.display()), async move {
            for _ in 0..TRIES {
                let folder = path.clone();
                match tokio::task::spawn_blocking(move || remove_folder(&folder)).await {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => tracing::debug!(%error, folder = %path.display(), "removing it again"),
                    Err(lost) => tracing::debug!(%lost, folder = %path.display(), "removing it again"),
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            tracing::warn!(folder = %path.display(), "a sandbox's folder stays until the next start");
        }));
    }
}

/// Makes a folder that, where this process is root, others can pass through: in the last tier commands have a user of their own.
pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    let mode = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
    std::fs::DirBuilder::new().mode(mode).recursive(true).create(path)
}

/// What the host wrote to a file, as the file system knows it. A command cannot set `changed`, whatever it does to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    mode: u32,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

fn stamp(path: &Path) -> Option<Stamp> {
    // What cannot be looked at is not what was written.
    let found = std::fs::symlink_metadata(path).ok()?;
    Some(Stamp {
        inode: found.ino(),
        mode: found.mode(),
        bytes: found.len(),
        modified: (found.mtime(), found.mtime_nsec()),
        changed: (found.ctime(), found.ctime_nsec()),
    })
}

/// A folder with the files of a tree in `work/`.
#[derive(Debug)]
pub(super) struct Checkout {
    pub folder: Arc<Folder>,
    tracked: Arc<Listing>,
    /// By path of `tracked`. `None`: nobody but the host has written there so far.
    stamps: Option<HashMap<PathBuf, Stamp>>,
}

impl Checkout {
    /// The files of a tree and nothing else. Blocking.
    pub(super) fn write(
        folder: Arc<Folder>,
        files: &dyn Files,
        tree: &TreeId,
        tracked: Arc<Listing>,
    ) -> Result<Self, String> {
        files.write(tree, &folder.work())?;
        Ok(Self { folder, tracked, stamps: None })
    }

    /// A copy of an image. Blocking.
    pub(super) fn copy(folder: Arc<Folder>, image: &Path, tracked: Arc<Listing>) -> io::Result<Self> {
        copy::copy(&image.join("work"), &folder.work())?;
        copy::copy(&image.join("home"), &folder.home())?;
        Ok(Self { folder, tracked, stamps: None })
    }

    /// Remembers how every file was written, so that [`Self::bring`] sees which ones commands have changed. Blocking.
    pub(super) fn remember(&mut self) {
        let work = self.folder.work();
        let stamped = |path: &PathBuf| Some((path.clone(), stamp(&work.join(path))?));
        self.stamps = Some(self.tracked.keys().filter_map(stamped).collect());
    }

    /// Makes the tracked files those of `tree`, and touches none that is so already. Blocking.
    ///
    /// On an error it is in between: throw it away.
    pub(super) fn bring(&mut self, files: &dyn Files, tree: &TreeId, to: Arc<Listing>) -> Result<(), String> {
        let work = self.folder.work();
        let stamps = self.stamps.as_ref();
        let spoiled = |path: &PathBuf| stamps.is_some_and(|known| stamp(&work.join(path)).as_ref() != known.get(path));
        let gone = self.tracked.keys().filter(|path| !to.contains_key(*path));
        let changed = to.iter().filter(|(path, content)| self.tracked.get(*path) != Some(content) || spoiled(path));
        let paths: Vec<PathBuf> = gone.chain(changed.map(|(path, _)| path)).cloned().collect();
        if !paths.is_empty() {
            files.put(tree, &paths, &work)?;
        }
        self.tracked = to;
        if let Some(stamps) = &mut self.stamps {
            for path in paths {
                match stamp(&work.join(&path)) {
                    Some(stamp) => stamps.insert(path, stamp),
                    None => stamps.remove(&path),
                };
            }
        }
        Ok(())
    }
}
