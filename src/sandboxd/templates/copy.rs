//! Copies of folders that commands have written to: files, folders and links with their modes and times, nothing else.
//!
//! No link is followed, no name leads out of the folder. Whoever copies makes sure that nobody writes to it meanwhile. A copy shares
//! nothing that can be written to: where the file system can, blocks until one changes, and never a name of the same file.

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Timespec, Timestamps};

/// The most that one copy may hold.
const MOST_ENTRIES: u64 = 2_000_000;
const MOST_BYTES: u64 = 32 << 30;
/// Folders in folders: nobody who does not try makes a deeper one.
const DEEPEST: u32 = 200;

/// How files get into a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// They share their blocks until one changes.
    Reflink,
    Bytes,
}

impl How {
    /// What the file system of a folder can. Leaves nothing in it.
    pub fn find(folder: &Path) -> io::Result<Self> {
        let (one, two) = (Mark::new(folder.join(".can-1"))?, Mark::new(folder.join(".can-2"))?);
        std::fs::write(&one.0, "x")?;
        let (source, target) = (File::open(&one.0)?, OpenOptions::new().write(true).open(&two.0)?);
        match rustix::fs::ioctl_ficlone(&target, &source) {
            Ok(()) => Ok(Self::Reflink),
            Err(_) => Ok(Self::Bytes),
        }
    }
}

struct Mark(PathBuf);

impl Mark {
    fn new(mut path: PathBuf) -> io::Result<Self> {
        // Several processes look at the same time.
        path.as_mut_os_string().push(format!("-{}", std::process::id()));
        File::create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        // An empty file is left: the next one writes over it.
        drop(std::fs::remove_file(&self.0));
    }
}

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub entries: u64,
    pub bytes: u64,
}

/// Copies everything below `from` into the empty folder `to`. Pipes, sockets and devices are left out. Blocking.
pub(super) fn copy(from: &Path, to: &Path, how: How) -> io::Result<Size> {
    let mut copying = Copying { how, size: Size::default(), batch: Vec::new(), folders: Vec::new() };
    copying.folder(from, to, 0)?;
    copying.write()?;
    // What is in a folder comes after it in the list. Its mode may close it, and writing into it has changed its time.
    for (folder, found) in copying.folders.iter().rev() {
        let made = File::open(folder)?;
        made.set_permissions(Permissions::from_mode(found.mode() & 0o777))?;
        date(&made, found)?;
    }
    Ok(copying.size)
}

/// Adds up what lies below `folder`.
pub(super) fn measure(folder: &Path) -> io::Result<Size> {
    let mut size = Size::default();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in readable(&folder, || std::fs::read_dir(&folder))? {
            let entry = entry?;
            let found = entry.metadata()?;
            size.count(&found)?;
            if found.is_dir() {
                open.push(entry.path());
            }
        }
    }
    Ok(size)
}

impl Size {
    fn count(&mut self, found: &Metadata) -> io::Result<()> {
        self.entries += 1;
        if found.is_file() {
            self.bytes += found.len();
        }
        if self.entries > MOST_ENTRIES || self.bytes > MOST_BYTES {
            return Err(io::Error::other(format!(
                "more than {MOST_ENTRIES} files or {} GiB were left behind",
                MOST_BYTES >> 30
            )));
        }
        Ok(())
    }
}

/// Files that are copied by several threads together: most of the time goes into making them, one by one.
const BATCH: usize = 4096;
const THREADS: usize = 4;
/// What is read and written in one go.
const SMALL: u64 = 64 << 10;

struct Copying {
    how: How,
    size: Size,
    batch: Vec<(PathBuf, PathBuf, Metadata)>,
    folders: Vec<(PathBuf, Metadata)>,
}

impl Copying {
    fn folder(&mut self, from: &Path, to: &Path, depth: u32) -> io::Result<()> {
        if depth > DEEPEST {
            return Err(io::Error::other(format!("folders are nested deeper than {DEEPEST}")));
        }
        for entry in readable(from, || std::fs::read_dir(from))? {
            let entry = entry?;
            let (path, target) = (entry.path(), to.join(entry.file_name()));
            let found = entry.metadata()?;
            self.size.count(&found)?;
            if found.is_symlink() {
                std::os::unix::fs::symlink(std::fs::read_link(&path)?, &target)?;
            } else if found.is_dir() {
                // It must be possible to fill it; its own mode comes at the end.
                std::fs::DirBuilder::new().mode(0o700).create(&target)?;
                self.folders.push((target.clone(), found));
                self.folder(&path, &target, depth + 1)?;
            } else if found.is_file() {
                self.batch.push((path, target, found));
                if self.batch.len() >= BATCH {
                    self.write()?;
                }
            }
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        let (batch, how) = (std::mem::take(&mut self.batch), self.how);
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS);
        let all = |files: &[(PathBuf, PathBuf, Metadata)]| {
            let mut buffer = Vec::new();
            files.iter().try_for_each(|(from, to, found)| file(from, to, found, how, &mut buffer))
        };
        if threads == 1 || batch.len() < 256 {
            return all(&batch);
        }
        std::thread::scope(|scope| {
            let parts = batch.chunks(batch.len().div_ceil(threads));
            let workers: Vec<_> = parts.map(|part| scope.spawn(move || all(part))).collect();
            let lost = |_| Err(io::Error::other("a thread that copies has panicked"));
            workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(lost))
        })
    }
}

fn file(from: &Path, to: &Path, found: &Metadata, how: How, buffer: &mut Vec<u8>) -> io::Result<()> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let no_link = flags.bits().cast_signed();
    let mut source = readable(from, || OpenOptions::new().read(true).custom_flags(no_link).open(from))?;
    let mut target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    if how == How::Bytes || rustix::fs::ioctl_ficlone(&target, &source).is_err() {
        if found.len() <= SMALL {
            buffer.clear();
            source.read_to_end(buffer)?;
            target.write_all(buffer)?;
        } else {
            // By the kernel, without passing through this process.
            io::copy(&mut source, &mut target)?;
        }
    }
    target.set_permissions(Permissions::from_mode(found.mode() & 0o777))?;
    date(&target, found)
}

/// Build tools compare times to know what is up to date.
fn date(file: &File, found: &Metadata) -> io::Result<()> {
    let at = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps {
        last_access: at(found.atime(), found.atime_nsec()),
        last_modification: at(found.mtime(), found.mtime_nsec()),
    };
    Ok(rustix::fs::futimens(file, &times)?)
}

/// Opens what commands have left unreadable for its owner, which this process is: once with its mode as it is, then with more rights.
/// A file gets its own back; a folder keeps them, since what is in it is opened later.
fn readable<T>(path: &Path, open: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match open() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let found = std::fs::symlink_metadata(path)?;
            let more = rustix::fs::Mode::from_raw_mode((found.mode() & 0o777) | 0o500);
            if found.is_symlink() {
                return Err(error);
            }
            rustix::fs::chmodat(rustix::fs::CWD, path, more, AtFlags::empty())?;
            let opened = open();
            if found.is_file() {
                let own = rustix::fs::Mode::from_raw_mode(found.mode() & 0o777);
                rustix::fs::chmodat(rustix::fs::CWD, path, own, AtFlags::empty())?;
            }
            opened
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_modes_times_and_links_and_shares_nothing() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        std::fs::create_dir_all(from.join("deep/er")).unwrap();
        std::fs::create_dir(&to).unwrap();
        std::fs::write(from.join("deep/tool"), "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(from.join("deep/tool"), Permissions::from_mode(0o6755)).unwrap();
        std::fs::write(from.join("secretive"), "x").unwrap();
        std::fs::set_permissions(from.join("secretive"), Permissions::from_mode(0o0)).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", from.join("away")).unwrap();
        std::os::unix::fs::symlink("deep", from.join("near")).unwrap();
        std::fs::hard_link(from.join("deep/tool"), from.join("again")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, from.join("pipe"), 0o600.into()).unwrap();
        let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
        File::open(from.join("deep/tool")).unwrap().set_modified(old).unwrap();
        std::fs::set_permissions(from.join("deep/er"), Permissions::from_mode(0o555)).unwrap();
        File::open(from.join("deep/er")).unwrap().set_modified(old).unwrap();

        let how = How::find(root.path()).unwrap();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 2, "looking leaves nothing");
        let size = copy(&from, &to, how).unwrap();
        assert_eq!(size, Size { entries: 8, bytes: 21 });
        assert_eq!(measure(&to).unwrap(), Size { entries: 7, bytes: 21 }, "the pipe is left out");
        let tool = std::fs::metadata(to.join("deep/tool")).unwrap();
        assert_eq!((tool.mode() & 0o7777, tool.modified().unwrap(), tool.nlink()), (0o755, old, 1));
        let folder = std::fs::metadata(to.join("deep/er")).unwrap();
        assert_eq!((folder.mode() & 0o777, folder.modified().unwrap()), (0o555, old));
        assert_eq!(std::fs::read_link(to.join("away")).unwrap(), Path::new("/etc/passwd"));
        assert_eq!(std::fs::read_link(to.join("near")).unwrap(), Path::new("deep"));
        std::fs::write(to.join("again"), "changed").unwrap();
        assert_eq!(std::fs::read_to_string(from.join("again")).unwrap(), "#!/bin/sh\n");
    }
}
