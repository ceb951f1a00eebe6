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
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
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
        self.fresh_of(&repository.snapshot(tree)?)
    }

    /// The same for a tree that was opened before, perhaps listed too.
    pub fn fresh_of(&self, snapshot: &Snapshot) -> Result<Worktree, Error> {
        let tree = snapshot.tree();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!("{}-{number}", tree.short()));
        std::fs::create_dir(&path).map_err(Error::io(format!("making `{}`", path.display())))?;
        let worktree = Worktree { path, tree: tree.clone() };
        snapshot.write(&worktree.path)?;
        Ok(worktree)
    }
}

impl Snapshot {
    /// Writes all files into an empty folder.
    ///
    /// Errors: `Refused` when the tree has names that no file can safely have, or when something is in the way; `TooLarge`, `Io`.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        let entries = self.entries()?;
        if entries.len() > MOST_FILES {
            return Err(Error::TooLarge { what: "the files of the repository".into(), cap: MOST_FILES as u64 });
        }
        write_all(folder, self, entries)
    }

    /// Makes these paths what they are in this tree: a new file, or nothing where the tree has no file. Others may have written into
    /// the folder, and do so no more: what they left in the way is removed, whatever it is, and no link of theirs is followed.
    ///
    /// Errors: `Refused` for a path that is none, `TooLarge`, `Io`. On an error the folder is in between.
    pub fn put(&self, paths: &[PathBuf], folder: &Path) -> Result<(), Error> {
        let path = |path: &PathBuf| {
            let bytes = path.as_os_str().as_encoded_bytes();
            RepoPath::from_bytes(bytes)
                .ok_or_else(|| Error::Refused(format!("`{}` is no path of a file", shown(bytes))))
        };
        let paths = paths.iter().map(path).collect::<Result<Vec<_>, Error>>()?;
        let mut found: Vec<Entry> = Vec::new();
        if paths.len() < FEW {
            for path in &paths {
                found.extend(self.entry(path)?);
            }
        } else {
            let asked: std::collections::BTreeSet<&RepoPath> = paths.iter().collect();
            found.extend(self.entries()?.iter().filter(|entry| asked.contains(&entry.path)).cloned());
        }
        found.retain(|entry| matches!(entry.mode, Mode::File | Mode::Executable | Mode::Symlink));
        found.sort_by(|a, b| a.path.cmp(&b.path));
        let bytes = AtomicU64::new(0);
        let mut writer = Writer::new(folder, &bytes)?;
        writer.clears = true;
        // First what goes: it may be in the way of what comes.
        for path in &paths {
            if found.binary_search_by(|entry| entry.path.cmp(path)).is_err() {
                writer.remove(path)?;
            }
        }
        writer.write(self, found.iter())
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
        self.change(&repository.snapshot(&self.tree)?, &repository.snapshot(tree)?)
    }

    /// The same for trees that were opened before. `old` is the tree that it holds.
    pub fn change(&mut self, old: &Snapshot, new: &Snapshot) -> Result<(), Error> {
        if *old.tree() != self.tree {
            return Err(Error::Refused("the copy holds another tree".into()));
        }
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
        writer.write(new, changed.map(|(_, entry)| *entry))?;
        self.tree = new.tree().clone();
        Ok(())
    }
}

impl Drop for Worktree {
    fn drop(&mut self) {
        // What cannot be removed goes when the folder of worktrees is opened next.
        drop(remove_folder(&self.path));
    }
}

/// Removes a folder that commands may have written to, also when they have left folders that may not be entered. One that is not there
/// is no error. Follows no link.
pub fn remove_folder(folder: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(_) => {
            open_up(folder);
            std::fs::remove_dir_all(folder)
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
    /// What stands in the way is removed; else it is an error.
    clears: bool,
}

impl<'a> Writer<'a> {
    fn new(path: &Path, bytes: &'a AtomicU64) -> Result<Self, Error> {
        let root = rustix::fs::open(path, FOLDER, Bits::empty())
            .map_err(|error| Error::Io { what: format!("opening `{}`", path.display()), source: error.into() })?;
        Ok(Self { root, at: None, bytes, clears: false })
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
        if self.clears {
            self.clear(path, name)?;
        }
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
            // A folder that somebody made in the place of the file is none of the tree's business.
            Err(Errno::ISDIR) if self.clears => {}
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

    /// Removes whatever has this name in the folder that is open.
    fn clear(&self, path: &RepoPath, name: &[u8]) -> Result<(), Error> {
        match unlinkat(self.folder(), name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => {
                // By the descriptor that was opened part by part, so that no link leads elsewhere.
                let here = PathBuf::from(format!("/proc/self/fd/{}", self.folder().as_raw_fd()));
                let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name);
                remove_folder(&here.join(name)).map_err(Error::io(format!("writing `{path}`")))
            }
            Err(error) => Err(writing(path, error)),
        }
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
                // A file or a link where a folder belongs.
                Err(Errno::NOTDIR | Errno::LOOP) if self.clears => unlinkat(here, part, AtFlags::empty())
                    .and_then(|()| mkdirat(here, part, Bits::from_raw_mode(0o755)))
                    .and_then(|()| openat(here, part, FOLDER, Bits::empty())),
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
