//! Contents: reading, writing and joining files, piece by piece.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::process::Resource;

use super::entry::{entry, modified, set_metadata};
use super::paths::Map;
use super::tree::make_all;
use super::wire::{Answer, Entry, Failure, From, PIECE, Reason};

/// Begins the name of what is being written. Watchers do not tell of it.
const PREFIX: &str = ".nightcrew-upload-";
/// So many links in a row are followed to a file that does not exist yet.
const MOST_LINKS: usize = 40;
/// How long joining may take.
const LONGEST: Duration = Duration::from_secs(90);

/// Whether a name is that of a file being written, and whether it will replace another.
pub(super) fn being_written(name: &str) -> Option<Replaces> {
    match name.strip_prefix(PREFIX)?.rsplit_once('-')?.1 {
        "new" => Some(Replaces::Nothing),
        "old" => Some(Replaces::Another),
        _ => None,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replaces {
    Nothing,
    Another,
}

/// A file that is being read.
#[derive(Debug)]
pub(super) struct Reading {
    file: File,
    at: u64,
    /// Bytes that may still be told.
    left: u64,
}

/// Opens what is a regular file. Nothing here waits for anybody: a pipe or a device is refused and never opened.
fn regular(path: &Path, said: &str) -> Result<File, Failure> {
    let failed = |error: &io::Error| match error.kind() {
        io::ErrorKind::NotFound => Failure::new(Reason::NotFound, format!("path '{said}' does not exist")),
        _ => Failure::of(error, &format!("opening '{said}'")),
    };
    let judge = |found: &std::fs::Metadata| match found.file_type() {
        kind if kind.is_file() => Ok(()),
        kind if kind.is_dir() => Err(Failure::new(Reason::Directory, format!("path '{said}' is a directory"))),
        _ => Err(Failure::new(Reason::Invalid, format!("path '{said}' is not a regular file"))),
    };
    judge(&std::fs::metadata(path).map_err(|error| failed(&error))?)?;
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let file = file.map_err(|error| failed(&error))?;
    // It may be another one by now.
    judge(&file.metadata().map_err(|error| failed(&error))?)?;
    Ok(file)
}

impl Reading {
    /// Opens a file; the answer's handle is for the caller to fill in, where there is more than the first piece.
    pub fn begin(
        path: &str,
        from: From,
        most: Option<u64>,
        map: &Map,
    ) -> Result<(Answer, Vec<u8>, Option<Self>), Failure> {
        let file = regular(&map.inside(path)?, path)?;
        let found = file.metadata().map_err(|error| Failure::of(&error, &format!("reading '{path}'")))?;
        let at = match from {
            From::Start(at) => at,
            From::End(back) => found.len().saturating_sub(back),
        };
        let mut reading = Self { file, at, left: most.unwrap_or(u64::MAX) };
        let (piece, last) = reading.next().map_err(|error| Failure::of(&error, &format!("reading '{path}'")))?;
        let answer = Answer::Opened { handle: None, size: found.len(), at, modified: modified(&found) };
        Ok((answer, piece, (!last).then_some(reading)))
    }

    /// The next piece, and whether it is the last.
    pub fn next(&mut self) -> io::Result<(Vec<u8>, bool)> {
        let want = usize::try_from(self.left).unwrap_or(PIECE).min(PIECE);
        let mut piece = vec![0; want];
        let mut have = 0;
        let mut ended = false;
        while have < want {
            let at = self.at + have as u64;
            match self.file.read_at(piece.get_mut(have..).unwrap_or_default(), at) {
                Ok(0) => {
                    ended = true;
                    break;
                }
                Ok(count) => have += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        piece.truncate(have);
        self.at += have as u64;
        self.left -= have as u64;
        Ok((piece, ended || self.left == 0))
    }
}

/// A file that is being written, beside the one that it will be. Dropped before its end it is gone.
#[derive(Debug)]
pub(super) struct Writing {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    /// As the client calls it.
    said: String,
    metadata: BTreeMap<String, String>,
    mode: u32,
    written: u64,
    done: bool,
}

impl Writing {
    pub fn begin(path: &str, metadata: BTreeMap<String, String>, map: &Map, serial: &mut u64) -> Result<Self, Failure> {
        let inside = map.inside(path)?;
        let failed = |error: io::Error| Failure::of(&error, &format!("writing '{path}'"));
        let directory = || Failure::new(Reason::Directory, format!("path is a directory: {path}"));
        if path.ends_with('/') || inside.file_name().is_none() {
            return Err(directory());
        }
        if let Some(above) = inside.parent() {
            make_all(above).map_err(failed)?;
        }
        let target = behind_links(inside).map_err(failed)?;
        let (mode, replaces) = match std::fs::symlink_metadata(&target) {
            Ok(found) if found.is_dir() => return Err(directory()),
            Ok(found) if !found.is_file() => {
                return Err(Failure::new(Reason::Invalid, format!("path is not a regular file: {path}")));
            }
            Ok(found) => (found.permissions().mode() & 0o777, "old"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (0o644, "new"),
            Err(error) => return Err(failed(error)),
        };
        for _ in 0..100 {
            *serial += 1;
            let name = format!("{PREFIX}{}-{serial}-{replaces}", std::process::id());
            let temporary = target.with_file_name(name);
            match File::options().write(true).create_new(true).mode(0o600).open(&temporary) {
                Ok(file) => {
                    let said = path.to_owned();
                    return Ok(Self { file, temporary, target, said, metadata, mode, written: 0, done: false });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(failed(io::ErrorKind::AlreadyExists.into()))
    }

    /// Where it lies meanwhile, as clients would call it.
    pub fn temporary(&self, map: &Map) -> String {
        map.said(&self.temporary)
    }

    fn failed(&self, error: &io::Error) -> Failure {
        Failure::of(error, &format!("writing '{}'", self.said))
    }

    pub fn append(&mut self, piece: &[u8]) -> Result<(), Failure> {
        let all = self.written + piece.len() as u64;
        within_the_limit(all).and_then(|()| self.file.write_all(piece)).map_err(|error| self.failed(&error))?;
        self.written = all;
        Ok(())
    }

    /// Puts it into its place, at once for everybody who looks.
    pub fn finish(mut self, map: &Map) -> Result<Entry, Failure> {
        let placed = set_metadata(&self.file, &self.metadata)
            .and_then(|()| self.file.set_permissions(Permissions::from_mode(self.mode)))
            .and_then(|()| std::fs::rename(&self.temporary, &self.target));
        placed.map_err(|error| self.failed(&error))?;
        self.done = true;
        let path = map.inside(&self.said)?;
        entry(&path, self.said.clone(), map).map_err(|error| self.failed(&error))
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if !self.done {
            // Whoever has removed it already has done what is to be done.
            drop(std::fs::remove_file(&self.temporary));
        }
    }
}

/// Where a file is that is named by way of links, the last of which may lead to nothing yet.
fn behind_links(mut path: PathBuf) -> io::Result<PathBuf> {
    for _ in 0..MOST_LINKS {
        match path.canonicalize() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            real => return real,
        }
        let above = path.parent().unwrap_or(Path::new("/")).canonicalize()?;
        let own = above.join(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
        match std::fs::read_link(&own) {
            Ok(next) => path = above.join(next),
            Err(_) => return Ok(own),
        }
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

/// A process that writes more than its limit is killed instead of being told.
fn within_the_limit(size: u64) -> io::Result<()> {
    match rustix::process::getrlimit(Resource::Fsize).current {
        Some(most) if size > most => Err(io::ErrorKind::FileTooLarge.into()),
        _ => Ok(()),
    }
}

/// Copies until the end, or until time or the largest size is over.
pub(super) fn pour(from: &mut File, to: &mut File, until: Instant) -> io::Result<()> {
    let (mut buffer, mut all) = (vec![0; PIECE], 0);
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        all += count as u64;
        within_the_limit(all)?;
        to.write_all(buffer.get(..count).unwrap_or_default())?;
        if Instant::now() > until {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// Joins files into one, in this order, and removes them.
pub(super) fn compose(sources: &[String], to: &str, map: &Map, serial: &mut u64) -> Result<Entry, Failure> {
    let until = Instant::now() + LONGEST;
    let target = map.inside(to)?;
    let paths = sources.iter().map(|source| map.inside(source)).collect::<Result<Vec<_>, _>>()?;
    for (path, said) in paths.iter().zip(sources) {
        if *path == target || path.canonicalize().is_ok_and(|real| target.canonicalize().is_ok_and(|own| own == real)) {
            let message = format!("source path '{said}' cannot be the same as destination");
            return Err(Failure::new(Reason::Invalid, message));
        }
        drop(regular(path, said)?);
    }
    let mut writing = Writing::begin(to, BTreeMap::new(), map, serial)?;
    let mut buffer = vec![0; PIECE];
    for (path, said) in paths.iter().zip(sources) {
        let mut file = regular(path, said)?;
        loop {
            let count = file.read(&mut buffer).map_err(|error| Failure::of(&error, &format!("reading '{said}'")))?;
            if count == 0 {
                break;
            }
            writing.append(buffer.get(..count).unwrap_or_default())?;
            if Instant::now() > until {
                return Err(Failure::of(&io::ErrorKind::TimedOut.into(), &format!("writing '{to}'")));
            }
        }
    }
    let made = writing.finish(map)?;
    for path in &paths {
        // The file is made; that a source stays is no reason to say it was not.
        drop(std::fs::remove_file(path));
    }
    Ok(made)
}
