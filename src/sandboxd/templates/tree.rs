//! Writing below one folder, whatever lies in it and whoever else writes to it meanwhile.
//!
//! Every step goes from a folder that is open to a name in it, and no link is ever followed, so nothing is touched that is not below
//! the folder, also when processes of a sandbox rename things there at the same time. What is in the way of an entry goes.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::archive::wrong;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Folders in folders that are removed.
const DEEPEST: u32 = 400;

/// A folder to write below.
pub(super) struct Tree {
    root: OwnedFd,
    /// Whose everything becomes, as the folder itself is; `None`: this process's.
    owner: Option<u32>,
    /// The folder of the last entry: the next one is mostly beside it.
    last: Option<(Vec<OsString>, OwnedFd)>,
    /// What folders get when all is written, since writing into them changes it.
    folders: Vec<(Vec<OsString>, u32, Timespec)>,
}

impl Tree {
    pub fn open(root: &Path) -> io::Result<Self> {
        let root = rustix::fs::open(root, FOLDER, Mode::empty())?;
        let owner = rustix::fs::fstat(&root)?.st_uid;
        let owner = (owner != rustix::process::geteuid().as_raw()).then_some(owner);
        Ok(Self { root, owner, last: None, folders: Vec::new() })
    }

    /// Makes a folder with these permissions, or gives them to the one that is there, and keeps what is in it.
    pub fn folder(&mut self, path: &[OsString], mode: u32, modified: Timespec) -> io::Result<()> {
        self.into(path)?;
        self.folders.push((path.to_vec(), mode, modified));
        Ok(())
    }

    /// Makes a folder if there is none.
    pub fn ensure(&mut self, path: &[OsString]) -> io::Result<()> {
        self.into(path).map(drop)
    }

    /// Writes a file with all that `content` has.
    pub fn file(&mut self, path: &[OsString], content: &mut dyn Read, mode: u32, modified: Timespec) -> io::Result<()> {
        let owner = self.owner;
        let (folder, name) = self.place(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = File::from(made);
        io::copy(content, &mut file)?;
        file.flush()?;
        if let Some(owner) = owner {
            rustix::fs::fchown(&file, uid(owner), gid(owner))?;
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o777))?;
        Ok(rustix::fs::futimens(&file, &times(modified))?)
    }

    /// Makes a symbolic link. Where it leads is nobody's business here.
    pub fn symlink(&mut self, path: &[OsString], to: &Path, modified: Timespec) -> io::Result<()> {
        let owner = self.owner;
        let (folder, name) = self.place(path)?;
        rustix::fs::symlinkat(to, folder, name)?;
        if let Some(owner) = owner {
            rustix::fs::chownat(folder, name, uid(owner), gid(owner), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(rustix::fs::utimensat(folder, name, &times(modified), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Makes a further name for a file that is below the folder.
    pub fn hard_link(&mut self, path: &[OsString], to: &[OsString]) -> io::Result<()> {
        let Some((name, above)) = to.split_last() else { return Err(wrong("a link leads to no name")) };
        if path == to {
            return Ok(());
        }
        let missing = || wrong(format!("a link leads to `{}`, which is not there", joined(to).escape_debug()));
        let source = self.descend(above, false)?.ok_or_else(missing)?;
        match rustix::fs::statat(&source, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if FileType::from_raw_mode(found.st_mode) != FileType::Directory => {}
            Ok(_) | Err(Errno::NOENT) => return Err(missing()),
            Err(error) => return Err(error.into()),
        }
        let (folder, own) = self.place(path)?;
        Ok(rustix::fs::linkat(&source, name, folder, own, AtFlags::empty())?)
    }

    /// Removes what is there, with all that is in it.
    pub fn remove(&mut self, path: &[OsString]) -> io::Result<()> {
        let Some((name, above)) = path.split_last() else { return Ok(()) };
        self.last = None;
        self.folders.retain(|(folder, ..)| !folder.starts_with(path));
        match self.descend(above, false)? {
            Some(folder) => remove(folder.as_fd(), name, 0),
            None => Ok(()),
        }
    }

    /// Removes all that is in a folder, but not the folder.
    pub fn clear(&mut self, path: &[OsString]) -> io::Result<()> {
        self.last = None;
        self.folders.retain(|(folder, ..)| folder == path || !folder.starts_with(path));
        match self.descend(path, false)? {
            Some(folder) => clear(folder, 0),
            None => Ok(()),
        }
    }

    /// Whether there is a folder, which is not a link to one.
    pub fn is_folder(&self, path: &[OsString]) -> io::Result<bool> {
        Ok(self.descend(path, false)?.is_some())
    }

    /// Gives the folders what they are to have. For the end.
    pub fn finish(mut self) -> io::Result<()> {
        let mut folders = std::mem::take(&mut self.folders);
        // The innermost first: what is set above may close the way.
        folders.sort_by_key(|(path, ..)| std::cmp::Reverse(path.len()));
        for (path, mode, modified) in folders {
            // Later entries, or processes, may have put something else in its place.
            if let Some(folder) = self.descend(&path, false)? {
                rustix::fs::fchmod(&folder, Mode::from_raw_mode(mode & 0o777))?;
                rustix::fs::futimens(&folder, &times(modified))?;
            }
        }
        Ok(())
    }

    /// The open folder of an entry and its name there, where nothing is left of what was there.
    fn place<'a>(&'a mut self, path: &'a [OsString]) -> io::Result<(BorrowedFd<'a>, &'a OsStr)> {
        let Some((name, above)) = path.split_last() else { return Err(wrong("an entry has no name")) };
        if self.last.as_ref().is_none_or(|(last, _)| last != above) {
            let folder = self.into(above)?;
            self.last = Some((above.to_vec(), folder));
        }
        let Some((_, folder)) = &self.last else { return Err(wrong("an entry has no folder")) };
        let folder = folder.as_fd();
        match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => remove(folder, name, 0)?,
            Err(error) => return Err(error.into()),
        }
        Ok((folder, name))
    }

    /// Opens a folder and makes those on the way that are not there; what is not a folder gives way.
    fn into(&mut self, path: &[OsString]) -> io::Result<OwnedFd> {
        match self.descend(path, true)? {
            Some(folder) => Ok(folder),
            None => Err(wrong("a folder went away")),
        }
    }

    fn descend(&self, path: &[OsString], make: bool) -> io::Result<Option<OwnedFd>> {
        let mut folder = self.root.try_clone()?;
        for name in path {
            let next = match open_folder(folder.as_fd(), name) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if make => {
                    remove(folder.as_fd(), name, 0)?;
                    rustix::fs::mkdirat(&folder, name.as_os_str(), Mode::from_raw_mode(0o755))?;
                    let made = open_folder(folder.as_fd(), name)?;
                    rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))?;
                    if let Some(owner) = self.owner {
                        rustix::fs::fchown(&made, uid(owner), gid(owner))?;
                    }
                    made
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                other => other?,
            };
            folder = next;
        }
        Ok(Some(folder))
    }
}

/// Opens a folder; one that its owner, which is this process, must not enter is opened up first.
fn open_folder(above: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    match rustix::fs::openat(above, name, FOLDER, Mode::empty()) {
        Err(Errno::ACCESS) => {
            let found = rustix::fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
                return Err(Errno::NOTDIR);
            }
            // On the folder itself by way of its descriptor, since it could be a link by now.
            let path = rustix::fs::openat(above, name, FOLDER | OFlags::PATH, Mode::empty())?;
            let own = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&path));
            rustix::fs::chmod(own, Mode::from_raw_mode(0o700))?;
            rustix::fs::openat(above, name, FOLDER, Mode::empty())
        }
        other => other,
    }
}

fn remove(above: BorrowedFd<'_>, name: &OsStr, depth: u32) -> io::Result<()> {
    match rustix::fs::unlinkat(above, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    clear(open_folder(above, name)?, depth)?;
    match rustix::fs::unlinkat(above, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn clear(folder: OwnedFd, depth: u32) -> io::Result<()> {
    if depth > DEEPEST {
        return Err(wrong(format!("folders are nested deeper than {DEEPEST}")));
    }
    let found = File::from(folder.try_clone()?).metadata()?;
    if found.mode() & 0o300 != 0o300 {
        rustix::fs::fchmod(&folder, Mode::from_raw_mode(0o700))?;
    }
    // All names first: a folder that changes while it is read may be told of twice or not at all.
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(<OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name).to_owned());
        }
    }
    names.iter().try_for_each(|name| remove(folder.as_fd(), name, depth + 1))
}

fn times(modified: Timespec) -> Timestamps {
    Timestamps { last_access: modified, last_modification: modified }
}

fn uid(owner: u32) -> Option<Uid> {
    Some(Uid::from_raw(owner))
}

fn gid(owner: u32) -> Option<Gid> {
    Some(Gid::from_raw(owner))
}

fn joined(path: &[OsString]) -> String {
    path.iter().map(|name| name.to_string_lossy()).collect::<Vec<_>>().join("/")
}
