//! A folder of files that cannot be escaped: everything goes through one open handle of it.
//!
//! A path is opened beneath the handle and through no link at all, by the kernel itself (`openat2`), else folder by folder;
//! so neither `..`, nor an absolute path, nor a link that appears between a check and its use leads out. What is not an
//! ordinary file is not opened. It is read only.
//!
//! Seen as a tree would be: git's own folder is not there, neither are folders that are repositories of their own (submodules),
//! and a link is its text.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat, openat2, readlinkat, statat};
use rustix::io::Errno;

use super::Error;
use super::path::{RepoPath, is_git_folder, shown};

/// More files than this are not listed.
const MOST_FILES: usize = 2_000_000;
const MOST_DEPTH: usize = 128;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Not blocking: a pipe in the place of a file must not hang us.
const FILE: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// A handle of a folder.
pub struct Directory {
    root: OwnedFd,
    path: PathBuf,
    /// The kernel knows `openat2`. It is asked once.
    beneath: AtomicBool,
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Directory({})", self.path.display())
    }
}

impl Directory {
    /// Opens a folder that the host names.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let root = rustix::fs::open(path, FOLDER.difference(OFlags::NOFOLLOW), Mode::empty()).map_err(|error| {
            Error::Io { what: format!("opening the folder `{}`", path.display()), source: error.into() }
        })?;
        Ok(Self { root, path: path.to_owned(), beneath: AtomicBool::new(true) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The content of a file; of a link, its text.
    ///
    /// Errors: `NotFound`, `Refused` for what is no ordinary file, `TooLarge` above `cap` bytes.
    pub fn read(&self, path: &RepoPath, cap: u64) -> Result<Vec<u8>, Error> {
        let mut content = Vec::new();
        if self.is_in_inner_repository(path)? {
            return Err(super::tree::not_found(path));
        }
        self.read_into(path, cap, &mut content)?;
        Ok(content)
    }

    /// Whether a folder on the way to this path is a repository of its own.
    fn is_in_inner_repository(&self, path: &RepoPath) -> Result<bool, Error> {
        let mut above = path.split().0;
        while let Some(folder) = above {
            match self
                .open_at(&[folder.as_bytes(), b"/.git"].concat(), OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC)
            {
                Ok(_) => return Ok(true),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS | Errno::XDEV) => {}
                Err(error) => return Err(reading(path, error)),
            }
            above = folder.split().0;
        }
        Ok(false)
    }

    /// As [`Self::read`] for a path from [`Self::entries`], into a buffer that is used again.
    pub(super) fn read_into(&self, path: &RepoPath, cap: u64, content: &mut Vec<u8>) -> Result<(), Error> {
        content.clear();
        if path.parts().any(is_git_folder) {
            return Err(super::tree::not_found(path));
        }
        let what = |error: Errno| reading(path, error);
        let file = match self.open_at(path.as_bytes(), FILE) {
            Ok(file) => file,
            Err(Errno::LOOP) => return self.read_link(path, cap, content),
            Err(error) => return Err(what(error)),
        };
        let stat = rustix::fs::fstat(&file).map_err(what)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Error::Refused(format!("`{path}` is a folder"))),
            _ => return Err(Error::Refused(format!("`{path}` is no ordinary file"))),
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let too_large = || Error::TooLarge { what: format!("the bytes of `{path}`"), cap };
        if size > cap {
            return Err(too_large());
        }
        // One byte more than expected shows that it grew meanwhile.
        content.reserve(size as usize + 1);
        let read = std::io::Read::read_to_end(&mut std::io::Read::take(std::fs::File::from(file), cap + 1), content);
        read.map_err(|source| Error::Io { what: format!("reading `{path}`"), source })?;
        if content.len() as u64 > cap {
            return Err(too_large());
        }
        Ok(())
    }

    /// A link is its text. A link in the middle of a path leads nowhere.
    fn read_link(&self, path: &RepoPath, cap: u64, content: &mut Vec<u8>) -> Result<(), Error> {
        let (above, name) = path.split();
        let folder;
        let at = match &above {
            None => self.root.as_fd(),
            Some(above) => {
                folder = self.open_at(above.as_bytes(), FOLDER).map_err(|error| reading(path, error))?;
                folder.as_fd()
            }
        };
        let text = readlinkat(at, name, Vec::new()).map_err(|error| reading(path, error))?;
        if text.as_bytes().len() as u64 > cap {
            return Err(Error::TooLarge { what: format!("the bytes of `{path}`"), cap });
        }
        content.extend(text.as_bytes());
        Ok(())
    }

    /// Opens something beneath the root, through no link.
    fn open_at(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        if self.beneath.load(Ordering::Relaxed) {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            // EAGAIN: something was moved meanwhile, and the kernel could not be sure.
            for _ in 0..16 {
                match openat2(&self.root, path, flags, Mode::empty(), resolve) {
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    // ENOSYS: an old kernel. EPERM: a filter of system calls that does not know it.
                    Err(Errno::NOSYS | Errno::PERM) => {
                        self.beneath.store(false, Ordering::Relaxed);
                        return self.open_by_parts(path, flags);
                    }
                    other => return other,
                }
            }
            return Err(Errno::AGAIN);
        }
        self.open_by_parts(path, flags)
    }

    /// The same without `openat2`: each folder is opened in the one before it, as a folder and no link.
    fn open_by_parts(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let mut at: Option<OwnedFd> = None;
        let mut parts = path.split(|b| *b == b'/').peekable();
        while let Some(part) = parts.next() {
            if part.is_empty() || part == b"." || part == b".." {
                return Err(Errno::NOENT);
            }
            let wanted = if parts.peek().is_some() { FOLDER } else { flags };
            let folder = at.as_ref().map_or(self.root.as_fd(), |fd| fd.as_fd());
            at = Some(openat(folder, part, wanted, Mode::empty())?);
        }
        at.ok_or(Errno::NOENT)
    }

    /// Every file and link, sorted by the bytes of the path. Folders are read side by side.
    ///
    /// Errors: `TooLarge` above two million files, `Io` when a folder cannot be read.
    pub fn entries(&self) -> Result<Vec<RepoPath>, Error> {
        let state = State { folders: vec![(None, 0)], busy: 0 };
        let walk = Walk { directory: self, waiting: Mutex::new(state), changed: Condvar::new() };
        let threads = super::search::threads();
        let parts: Vec<Result<Vec<RepoPath>, Error>> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| walk.work())).collect();
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| Err(panicked()))).collect()
        });
        let mut all = Vec::new();
        for part in parts {
            all.extend(part?);
        }
        if all.len() > MOST_FILES {
            return Err(Error::TooLarge { what: "the files of the folder".into(), cap: MOST_FILES as u64 });
        }
        all.sort_unstable();
        Ok(all)
    }
}

pub(super) fn panicked() -> Error {
    Error::Io { what: "a thread panicked".into(), source: std::io::Error::other("panic") }
}

fn reading(path: &RepoPath, error: Errno) -> Error {
    match error {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV => super::tree::not_found(path),
        Errno::ACCESS => Error::Refused(format!("`{path}` may not be read")),
        Errno::ISDIR => Error::Refused(format!("`{path}` is a folder")),
        // A socket, a device without a driver.
        Errno::NXIO | Errno::NODEV => Error::Refused(format!("`{path}` is no ordinary file")),
        other => Error::Io { what: format!("reading `{path}`"), source: other.into() },
    }
}

struct State {
    /// Folders that are to be read, with their depth; the root has no path.
    folders: Vec<(Option<RepoPath>, usize)>,
    /// Workers that are reading one and may find more.
    busy: usize,
}

/// Folders that are read by several threads.
struct Walk<'a> {
    directory: &'a Directory,
    waiting: Mutex<State>,
    changed: Condvar,
}

impl Walk<'_> {
    fn work(&self) -> Result<Vec<RepoPath>, Error> {
        let mut found = Vec::new();
        loop {
            let next = {
                let mut state = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                loop {
                    if let Some(folder) = state.folders.pop() {
                        state.busy += 1;
                        break Some(folder);
                    }
                    if state.busy == 0 {
                        break None;
                    }
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            };
            let Some((path, depth)) = next else {
                self.changed.notify_all();
                return Ok(found);
            };
            let read = self.read(path.as_ref(), depth, &mut found);
            let mut state = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            state.busy -= 1;
            if read.is_err() || found.len() > MOST_FILES {
                // The others have nothing more to do.
                state.folders.clear();
            }
            drop(state);
            self.changed.notify_all();
            read?;
        }
    }

    /// Reads one folder.
    fn read(&self, path: Option<&RepoPath>, depth: usize, found: &mut Vec<RepoPath>) -> Result<(), Error> {
        let shown_path = || path.map_or_else(|| ".".to_owned(), ToString::to_string);
        let broken =
            |error: Errno| Error::Io { what: format!("reading the folder `{}`", shown_path()), source: error.into() };
        let folder = match path {
            None => openat(&self.directory.root, c".", FOLDER, Mode::empty()).map_err(broken)?,
            Some(path) => match self.directory.open_at(path.as_bytes(), FOLDER) {
                Ok(folder) => folder,
                // Gone, or replaced by a link meanwhile; or not ours to read.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => return Ok(()),
                Err(error) => return Err(broken(error)),
            },
        };
        if depth > MOST_DEPTH {
            return Err(Error::TooLarge { what: "folders in folders".into(), cap: MOST_DEPTH as u64 });
        }
        let mut entries = Vec::new();
        for entry in Dir::read_from(&folder).map_err(broken)? {
            let entry = entry.map_err(broken)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            if is_git_folder(name) {
                if path.is_some() {
                    // A repository of its own.
                    return Ok(());
                }
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => match statat(&folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(Errno::NOENT) => continue,
                    Err(error) => return Err(broken(error)),
                },
                known => known,
            };
            entries.push((name.to_vec(), kind));
        }
        let mut folders = Vec::new();
        for (name, kind) in entries {
            let Some(full) = RepoPath::join(path, &name) else {
                return Err(Error::Refused(format!(
                    "`{}` has a file with the name `{}`, which is not worked on",
                    shown_path(),
                    shown(&name)
                )));
            };
            match kind {
                FileType::RegularFile | FileType::Symlink => found.push(full),
                FileType::Directory => folders.push((Some(full), depth + 1)),
                _ => {}
            }
        }
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).folders.extend(folders);
        Ok(())
    }
}
