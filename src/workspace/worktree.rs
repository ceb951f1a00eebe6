//! Worktrees: a tree as files, for sandboxes to mount and for searching. A cache: it can be thrown away at any time.
//!
//! Files are written by us, not by git: no filter, no hook, no conversion of line ends. A symbolic link becomes a plain file
//! with its text, a submodule an empty folder, so that no name in a worktree leads out of it. Every file is made new in a folder
//! that is held open, never through a link.
//!
//! What it does not do: hold work. Whoever lets others write into a worktree must not believe it afterwards: a proof takes a
//! fresh one.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Mode as Bits, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;

use crate::domain::code::{Mode, TreeId};

use super::Error;
use super::objects::Kind;
use super::path::{RepoPath, shown};
use super::repository::Repository;
use super::tree::{Entry, Snapshot};

/// Files and bytes of one worktree.
const MOST_FILES: usize = 500_000;
const MOST_BYTES: u64 = 8 * 1024 * 1024 * 1024;
/// Below this many files one writer is quicker than several.
const FEW: usize = 500;
/// One file.
const MOST_FILE: u64 = 512 * 1024 * 1024;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const NEW: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A folder in which worktrees are made. What an earlier process left there is removed when it is opened.
#[derive(Debug)]
pub struct Worktrees {
    folder: PathBuf,
    next: AtomicU64,
}

/// A tree as files. Removed when it is dropped.
#[derive(Debug)]
pub struct Worktree {
    path: PathBuf,
    tree: TreeId,
}

impl Worktrees {
    /// Opens the folder and empties it: after a crash nobody knows which copies are whole. For one process at a time.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let what = || format!("emptying `{}`", folder.display());
        match std::fs::remove_dir_all(folder) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::Io { what: what(), source }),
        }
        std::fs::create_dir_all(folder).map_err(Error::io(what()))?;
        let folder = std::fs::canonicalize(folder).map_err(Error::io(what()))?;
        Ok(Self { folder, next: AtomicU64::new(0) })
    }

    /// Writes a tree into a folder of its own.
    ///
    /// Errors: `Refused` when the tree has names that no file can safely have, `TooLarge`, `Io`.
    pub fn fresh(&self, repository: &Arc<Repository>, tree: &TreeId) -> Result<Worktree, Error> {
        let snapshot = repository.snapshot(tree)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!("{}-{number}", tree.short()));
        std::fs::create_dir(&path).map_err(Error::io(format!("making `{}`", path.display())))?;
        let worktree = Worktree { path, tree: tree.clone() };
        let entries = snapshot.entries()?;
        if entries.len() > MOST_FILES {
            return Err(Error::TooLarge { what: "the files of the repository".into(), cap: MOST_FILES as u64 });
        }
        write_all(&worktree.path, &snapshot, entries)?;
        Ok(worktree)
    }
}

impl Worktree {
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn tree(&self) -> &TreeId {
        &self.tree
    }

    /// Makes it the files of another tree by writing only what differs. For worktrees that only the host writes to.
    ///
    /// On an error it is in between: throw it away.
    pub fn update(&mut self, repository: &Arc<Repository>, tree: &TreeId) -> Result<(), Error> {
        if *tree == self.tree {
            return Ok(());
        }
        let (old, new) = (repository.snapshot(&self.tree)?, repository.snapshot(tree)?);
        let before: BTreeMap<&RepoPath, &Entry> = old.entries()?.iter().map(|entry| (&entry.path, entry)).collect();
        let after: BTreeMap<&RepoPath, &Entry> = new.entries()?.iter().map(|entry| (&entry.path, entry)).collect();
        let bytes = AtomicU64::new(0);
        let mut writer = Writer::new(&self.path, &bytes)?;
        for (path, entry) in &before {
            if after.get(path).is_none_or(|now| now != entry) {
                writer.remove(path)?;
            }
        }
        let changed = after.iter().filter(|(path, entry)| before.get(*path).is_none_or(|was| was != *entry));
        writer.write(&new, changed.map(|(_, entry)| *entry))?;
        self.tree = tree.clone();
        Ok(())
    }
}

impl Drop for Worktree {
    fn drop(&mut self) {
        // A sandbox may have left folders that may not be entered.
        if std::fs::remove_dir_all(&self.path).is_err() {
            open_up(&self.path);
            // What still cannot be removed goes when the folder of worktrees is opened next.
            drop(std::fs::remove_dir_all(&self.path));
        }
    }
}

/// Gives the folders below back the bits that removing them needs. Follows no link.
fn open_up(folder: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    if std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).is_err() {
        return;
    }
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

/// Writes all files of a tree, by several threads where there are many.
fn write_all(path: &Path, snapshot: &Snapshot, entries: &[Entry]) -> Result<(), Error> {
    let bytes = AtomicU64::new(0);
    let threads = if entries.len() < FEW { 1 } else { super::search::threads() };
    let chunk = entries.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let bytes = &bytes;
        let work = |part: &[Entry]| Writer::new(path, bytes)?.write(snapshot, part.iter());
        let workers: Vec<_> = entries.chunks(chunk).map(|part| scope.spawn(move || work(part))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| Err(super::directory::panicked())))
    })
}

/// Writes files beneath one folder.
struct Writer<'a> {
    root: OwnedFd,
    /// The folder that was written to last: files come sorted, so it is mostly the next one's, too.
    at: Option<(RepoPath, OwnedFd)>,
    /// Written by all writers of one worktree.
    bytes: &'a AtomicU64,
}

impl<'a> Writer<'a> {
    fn new(path: &Path, bytes: &'a AtomicU64) -> Result<Self, Error> {
        let root = rustix::fs::open(path, FOLDER, Bits::empty())
            .map_err(|error| Error::Io { what: format!("opening `{}`", path.display()), source: error.into() })?;
        Ok(Self { root, at: None, bytes })
    }

    fn write<'e>(&mut self, snapshot: &Snapshot, entries: impl Iterator<Item = &'e Entry>) -> Result<(), Error> {
        snapshot.reading(|batch| {
            for entry in entries {
                if matches!(entry.mode, Mode::Submodule | Mode::Folder | Mode::Absent) {
                    continue;
                }
                let content = batch.read(&entry.id, Kind::Blob, MOST_FILE)?;
                let size = content.len() as u64;
                if self.bytes.fetch_add(size, Ordering::Relaxed) + size > MOST_BYTES {
                    return Err(Error::TooLarge { what: "the bytes of the repository".into(), cap: MOST_BYTES });
                }
                let bits = if entry.mode == Mode::Executable { 0o755 } else { 0o644 };
                self.file(&entry.path, bits, &content)?;
            }
            Ok(())
        })
    }

    fn file(&mut self, path: &RepoPath, bits: u32, content: &[u8]) -> Result<(), Error> {
        let (folder, name) = path.split();
        self.enter(folder)?;
        let file = openat(self.folder(), name, NEW, Bits::from_raw_mode(bits)).map_err(|error| writing(path, error))?;
        let mut file = std::fs::File::from(file);
        file.write_all(content).map_err(|source| Error::Io { what: format!("writing `{path}`"), source })
    }

    /// Removes a file, and the folders that are empty without it.
    fn remove(&mut self, path: &RepoPath) -> Result<(), Error> {
        let (mut folder, name) = path.split();
        self.enter(folder.clone())?;
        match unlinkat(self.folder(), name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(writing(path, error)),
        }
        while let Some(empty) = folder {
            let (above, name) = empty.split();
            self.enter(above.clone())?;
            match unlinkat(self.folder(), name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST) => break,
                Err(error) => return Err(writing(&empty, error)),
            }
            folder = above;
        }
        Ok(())
    }

    fn folder(&self) -> std::os::fd::BorrowedFd<'_> {
        self.at.as_ref().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd())
    }

    /// Opens a folder part by part, making what is missing.
    fn enter(&mut self, folder: Option<RepoPath>) -> Result<(), Error> {
        let Some(folder) = folder else {
            self.at = None;
            return Ok(());
        };
        if self.at.as_ref().is_some_and(|(at, _)| *at == folder) {
            return Ok(());
        }
        let mut at: Option<OwnedFd> = None;
        for part in folder.parts() {
            let here = at.as_ref().map_or(self.root.as_fd(), |fd| fd.as_fd());
            let next = match openat(here, part, FOLDER, Bits::empty()) {
                Err(Errno::NOENT) => {
                    match mkdirat(here, part, Bits::from_raw_mode(0o755)) {
                        // Another writer was quicker.
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(writing(&folder, error)),
                    }
                    openat(here, part, FOLDER, Bits::empty())
                }
                other => other,
            };
            at = Some(next.map_err(|error| writing(&folder, error))?);
        }
        self.at = at.map(|fd| (folder, fd));
        Ok(())
    }
}

fn writing(path: &RepoPath, error: Errno) -> Error {
    match error {
        // Two names that this file system takes for one, or a link in the way.
        Errno::EXIST | Errno::NOTDIR | Errno::LOOP | Errno::ISDIR => {
            Error::Refused(format!("something else stands where `{path}` is to be written"))
        }
        Errno::NAMETOOLONG | Errno::ILSEQ | Errno::INVAL => {
            Error::Refused(format!("the file system does not take the name `{}`", shown(path.as_bytes())))
        }
        error => Error::Io { what: format!("writing `{path}`"), source: error.into() },
    }
}
