//! Directories: listing, making, moving, removing. Every walk has its own stack and its bounds.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::entry::entry;
use super::paths::Map;
use super::wire::{Entry, Failure, MOST_PAYLOAD, Reason};

/// The most entries of one listing.
const MOST_ENTRIES: usize = 40_000;
/// How long removing or copying may take.
const LONGEST: Duration = Duration::from_secs(90);
/// How deep is removed: a level costs some bytes of memory.
const DEEPEST: usize = 200_000;

/// What is in a directory, in the order of names, each directory before what is in it, as a JSON array. `depth` 1: itself alone.
pub(super) fn list(path: &str, depth: u32, map: &Map) -> Result<Vec<u8>, Failure> {
    let asked = map.inside(path)?;
    let failed = |error: &io::Error| Failure::of(error, &format!("listing '{path}'"));
    let root = asked.canonicalize().map_err(|error| failed(&error))?;
    if !std::fs::metadata(&root).map_err(|error| failed(&error))?.is_dir() {
        return Err(Failure::new(Reason::NotDirectory, format!("path is not a directory: {path}")));
    }
    let too_many = || {
        let message = format!("'{path}' has more entries than one answer holds ({MOST_ENTRIES}): list a part of it");
        Failure::new(Reason::TooMany, message)
    };
    let mut left = MOST_ENTRIES;
    let mut names = |directory: &Path| -> Result<io::Result<Vec<OsString>>, Failure> {
        let found: io::Result<Vec<_>> = std::fs::read_dir(directory)
            .and_then(|entries| entries.take(left + 1).map(|entry| Ok(entry?.file_name())).collect());
        let Ok(mut found) = found else { return Ok(found) };
        left = left.checked_sub(found.len()).ok_or_else(too_many)?;
        // Taken from the end.
        found.sort_unstable_by(|a, b| b.cmp(a));
        Ok(Ok(found))
    };
    let mut json = vec![b'['];
    let mut open = vec![(root.clone(), path.trim_end_matches('/').to_owned(), names(&root)?.map_err(|e| failed(&e))?)];
    while let Some((directory, said, rest)) = open.last_mut() {
        let Some(name) = rest.pop() else {
            open.pop();
            continue;
        };
        let (below, said) = (directory.join(&name), format!("{said}/{}", name.to_string_lossy()));
        let found = match entry(&below, said.clone(), map) {
            Ok(found) => found,
            // It has gone meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Failure::of(&error, &format!("listing '{said}'"))),
        };
        if json.len() > 1 {
            json.push(b',');
        }
        serde_json::to_writer(&mut json, &found).map_err(|e| Failure::new(Reason::Other, e.to_string()))?;
        if json.len() >= MOST_PAYLOAD {
            return Err(too_many());
        }
        let level = u32::try_from(open.len()).unwrap_or(u32::MAX);
        if level < depth
            && std::fs::symlink_metadata(&below).is_ok_and(|found| found.is_dir())
            // What may not be looked into is an entry all the same.
            && let Ok(inside) = names(&below)?
        {
            open.push((below, said, inside));
        }
    }
    json.push(b']');
    Ok(json)
}

/// Makes a directory and those above it.
pub(super) fn make(path: &str, map: &Map) -> Result<Entry, Failure> {
    let inside = map.inside(path)?;
    match std::fs::metadata(&inside) {
        Ok(found) if found.is_dir() => {
            return Err(Failure::new(Reason::Exists, format!("directory already exists: {path}")));
        }
        Ok(_) => {
            let message = format!("path already exists but it is not a directory: {path}");
            return Err(Failure::new(Reason::NotDirectory, message));
        }
        Err(_) => {}
    }
    make_all(&inside).map_err(|error| Failure::of(&error, &format!("making '{path}'")))?;
    entry(&inside, path.to_owned(), map).map_err(|error| Failure::of(&error, &format!("making '{path}'")))
}

pub(super) fn make_all(path: &Path) -> io::Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path);
    match made {
        // A file, or a link to nothing, is where a directory must be.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(io::ErrorKind::NotADirectory.into()),
        made => made,
    }
}

/// Gives an entry another name, over the borders of file systems too, and makes the directories above it.
pub(super) fn rename(from: &str, to: &str, map: &Map) -> Result<Entry, Failure> {
    let (source, target) = (map.inside(from)?, map.inside(to)?);
    let failed = |error: io::Error| Failure::of(&error, &format!("moving '{from}' to '{to}'"));
    std::fs::symlink_metadata(&source).map_err(failed)?;
    if let Some(above) = target.parent() {
        make_all(above).map_err(failed)?;
    }
    match std::fs::rename(&source, &target) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            let copied = copy(&source, &target, Instant::now() + LONGEST);
            let moved = copied.and_then(|()| remove_at(&source));
            if let Err(error) = moved {
                return Err(failed(error));
            }
        }
        moved => moved.map_err(failed)?,
    }
    entry(&target, to.to_owned(), map).map_err(failed)
}

/// Copies files, links and directories to where nothing is, or a file over a file.
fn copy(from: &Path, to: &Path, until: Instant) -> io::Result<()> {
    if std::fs::symlink_metadata(to).is_ok_and(|found| found.is_dir()) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let mut open = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = open.pop() {
        if Instant::now() > until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let found = std::fs::symlink_metadata(&from)?;
        if found.is_dir() {
            std::fs::create_dir(&to)?;
            for entry in std::fs::read_dir(&from)? {
                let name = entry?.file_name();
                if open.len() >= DEEPEST {
                    return Err(io::Error::other("there are too many files"));
                }
                open.push((from.join(&name), to.join(&name)));
            }
        } else if found.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(&from)?, &to)?;
        } else if found.is_file() {
            let options = OFlags::NONBLOCK | OFlags::NOFOLLOW;
            let mut source = File::options().read(true).custom_flags(options.bits().cast_signed()).open(&from)?;
            if !source.metadata()?.is_file() {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            // What it replaces goes away and keeps its other names.
            match std::fs::remove_file(&to) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut target = File::create_new(&to)?;
            super::transfer::pour(&mut source, &mut target, until)?;
            target.set_permissions(std::fs::Permissions::from_mode(found.permissions().mode() & 0o777))?;
        } else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is something that is no file in it"));
        }
    }
    Ok(())
}

/// Removes an entry with everything in it. What is not there is removed already.
pub(super) fn remove(path: &str, map: &Map) -> Result<(), Failure> {
    remove_at(&map.inside(path)?).map_err(|error| Failure::of(&error, &format!("removing '{path}'")))
}

pub(super) fn remove_at(path: &Path) -> io::Result<()> {
    // A link is removed and not what it leads to, also where somebody wrote a slash behind it.
    let path: PathBuf = path.components().collect();
    match rustix::fs::unlinkat(CWD, &path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        // Directories are told from others by different errors on different file systems.
        Err(error) if !std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) => return Err(error.into()),
        Err(_) => {}
    }
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let above = open_directory(CWD, above, OFlags::empty())?;
    empty(above, name.to_owned())
}

fn open_directory(at: impl AsFd, name: impl rustix::path::Arg, more: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC | more;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

/// Removes directory `name` of `above`, one open directory at a time, so that no depth is too deep.
fn empty(above: OwnedFd, name: OsString) -> io::Result<()> {
    let until = Instant::now() + LONGEST;
    let identity = |directory: &OwnedFd| rustix::fs::fstat(directory).map(|found| (found.st_dev, found.st_ino));
    // The way down: what each directory is, and the name of the one that was entered from it.
    let mut way = vec![(identity(&above)?, name.clone())];
    let mut here = enter(&above, &name)?;
    loop {
        if Instant::now() > until {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "it takes too long, or something goes on writing there",
            ));
        }
        let Some(below) = clear(&here)? else {
            // It is empty: up.
            let Some((expected, name)) = way.pop() else { return Ok(()) };
            let up = if way.is_empty() { above.try_clone()? } else { open_directory(&here, "..", OFlags::NOFOLLOW)? };
            if identity(&up)? != expected {
                return Err(io::Error::other("it was moved away meanwhile"));
            }
            match rustix::fs::unlinkat(&up, &name, AtFlags::REMOVEDIR) {
                // Something was written there at the last moment: it is looked at again.
                Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => {}
                Err(error) => return Err(error.into()),
            }
            if way.is_empty() {
                match rustix::fs::statat(&up, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => {
                        way.push((expected, name.clone()));
                        here = enter(&up, &name)?;
                        continue;
                    }
                    _ => return Ok(()),
                }
            }
            here = up;
            continue;
        };
        if way.len() >= DEEPEST {
            return Err(io::Error::other("it is too deep"));
        }
        let into = enter(&here, &below)?;
        way.push((identity(&here)?, below));
        here = into;
    }
}

/// Opens a directory to be emptied; who owns it may do so whatever its mode says.
fn enter(above: &OwnedFd, name: &OsString) -> io::Result<OwnedFd> {
    if let Ok(found) = rustix::fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW)
        && FileType::from_raw_mode(found.st_mode) == FileType::Directory
        && found.st_mode & 0o700 != 0o700
    {
        // If it cannot be, opening or removing says so.
        rustix::fs::chmodat(above, name, Mode::RWXU, AtFlags::empty()).ok();
    }
    Ok(open_directory(above, name, OFlags::NOFOLLOW)?)
}

/// Removes what is no directory, and names a directory that is left.
fn clear(here: &OwnedFd) -> io::Result<Option<OsString>> {
    loop {
        let (mut removed, mut below) = (false, None);
        for found in Dir::read_from(here)? {
            let found = found?;
            let name = found.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match rustix::fs::unlinkat(here, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => removed = true,
                Err(error) => match rustix::fs::statat(here, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => {
                        below = Some(OsString::from_vec(name.to_bytes().to_vec()));
                        break;
                    }
                    Err(Errno::NOENT) => {}
                    _ => return Err(error.into()),
                },
            }
        }
        match below {
            Some(below) => return Ok(Some(below)),
            // A directory that is changed while it is read may show less than there is.
            None if removed => {}
            None => return Ok(None),
        }
    }
}
