//! What happens in a directory: inotify with a queue that has an end.

use std::collections::{BTreeMap, VecDeque};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::entry::entry;
use super::paths::Map;
use super::transfer::{Replaces, being_written};
use super::wire::{Change, Event, Failure, Reason};

/// Events that wait to be asked for.
const MOST_EVENTS: usize = 4096;
/// Bytes of them, roughly.
const MOST_BYTES: usize = 4 << 20;
/// Directories that one watch looks at.
const MOST_DIRECTORIES: usize = 8192;

/// A directory that is watched.
#[derive(Debug)]
pub(super) struct Watch {
    kernel: OwnedFd,
    root: PathBuf,
    said: String,
    recursive: bool,
    entries: bool,
    /// What the kernel watches, relative to the root.
    directories: BTreeMap<i32, PathBuf>,
    queue: VecDeque<Event>,
    bytes: usize,
    lost: bool,
    /// The file that is being put into its place: the kernel's number for that, and whether it replaces another.
    placed: Option<(u32, Replaces)>,
    /// Whether the other end was told that there is something.
    pub announced: bool,
}

fn flags() -> WatchFlags {
    WatchFlags::CREATE
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::MODIFY
        | WatchFlags::ATTRIB
        | WatchFlags::DELETE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR
}

impl Watch {
    pub fn begin(path: &str, recursive: bool, entries: bool, map: &Map) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => Failure::new(Reason::NotFound, format!("path {path} not found")),
            std::io::ErrorKind::StorageFull => {
                Failure::new(Reason::TooMany, format!("'{path}' has more directories than the system watches"))
            }
            _ if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                Failure::new(Reason::TooMany, "the system watches no more directories")
            }
            _ => Failure::of(&error, &format!("watching '{path}'")),
        };
        let root = map.inside(path)?.canonicalize().map_err(failed)?;
        if !std::fs::metadata(&root).map_err(failed)?.is_dir() {
            return Err(Failure::new(Reason::NotDirectory, format!("path {path} not a directory")));
        }
        let kernel =
            inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        let first = inotify::add_watch(&kernel, &root, flags()).map_err(|error| failed(error.into()))?;
        let mut watch = Self {
            kernel,
            root,
            said: path.trim_end_matches('/').to_owned(),
            recursive,
            entries,
            directories: BTreeMap::from([(first, PathBuf::new())]),
            queue: VecDeque::new(),
            bytes: 0,
            lost: false,
            placed: None,
            announced: false,
        };
        if recursive && !watch.add_below(Path::new(""), None) {
            let message = format!("'{path}' has more directories than are watched ({MOST_DIRECTORIES})");
            return Err(Failure::new(Reason::TooMany, message));
        }
        Ok(watch)
    }

    pub fn kernel(&self) -> BorrowedFd<'_> {
        self.kernel.as_fd()
    }

    /// Watches what is below a directory too. With a map, it tells of everything there as new. False: there is too much of it.
    fn add_below(&mut self, from: &Path, told: Option<&Map>) -> bool {
        let mut open = vec![from.to_owned()];
        while let Some(relative) = open.pop() {
            // What has gone again, or may not be looked into, is nothing to watch.
            let Ok(found) = std::fs::read_dir(self.root.join(&relative)) else { continue };
            for found in found.flatten() {
                let below = relative.join(found.file_name());
                if let Some(map) = told {
                    self.push(&below, Change::Create, map);
                }
                if !found.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                if !self.add(&below) || open.len() > MOST_DIRECTORIES {
                    return false;
                }
                open.push(below);
            }
        }
        true
    }

    /// False: no more are watched.
    fn add(&mut self, relative: &Path) -> bool {
        if self.directories.len() >= MOST_DIRECTORIES {
            return false;
        }
        match inotify::add_watch(&self.kernel, self.root.join(relative), flags() | WatchFlags::DONT_FOLLOW) {
            Ok(number) => {
                self.directories.insert(number, relative.to_owned());
                true
            }
            Err(Errno::NOSPC | Errno::NOMEM) => false,
            Err(_) => true,
        }
    }

    /// Takes over what the kernel has. Whether there is anything to tell of.
    pub fn collect(&mut self, map: &Map) -> bool {
        let mut buffer = vec![MaybeUninit::uninit(); 64 << 10];
        // Names and numbers first: what they lead to changes the list of what is watched.
        let mut seen = Vec::new();
        {
            let mut reader = inotify::Reader::new(&self.kernel, &mut buffer);
            // As many as one answer holds: whoever writes all the time does not keep us here.
            while seen.len() < MOST_EVENTS {
                match reader.next() {
                    Ok(event) => {
                        let name = event.file_name().map(|name| name.to_bytes().to_vec());
                        seen.push((event.wd(), event.events(), event.cookie(), name));
                    }
                    Err(Errno::INTR) => {}
                    Err(_) => break,
                }
            }
        }
        for (number, what, cookie, name) in seen {
            self.take(number, what, cookie, name, map);
        }
        !self.queue.is_empty() || self.lost
    }

    fn take(&mut self, number: i32, what: ReadFlags, cookie: u32, name: Option<Vec<u8>>, map: &Map) {
        if what.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.lost = true;
            return;
        }
        if what.contains(ReadFlags::IGNORED) {
            self.directories.remove(&number);
            return;
        }
        let Some(directory) = self.directories.get(&number).cloned() else { return };
        let Some(name) = name else {
            // Of directories below, the one above has told already.
            if directory.as_os_str().is_empty() {
                if what.contains(ReadFlags::DELETE_SELF) {
                    self.push(Path::new(""), Change::Remove, map);
                } else if what.contains(ReadFlags::MOVE_SELF) {
                    self.push(Path::new(""), Change::Rename, map);
                } else if what.contains(ReadFlags::ATTRIB) {
                    self.push(Path::new(""), Change::Chmod, map);
                }
            }
            return;
        };
        let name = std::ffi::OsStr::from_bytes(&name);
        let path = directory.join(name);
        if let Some(replaces) = name.to_str().and_then(being_written) {
            if what.contains(ReadFlags::MOVED_FROM) {
                self.placed = Some((cookie, replaces));
            }
            return;
        }
        if what.contains(ReadFlags::CREATE) {
            self.push(&path, Change::Create, map);
        }
        if what.contains(ReadFlags::MOVED_TO) {
            match self.placed.take_if(|(own, _)| *own == cookie) {
                // A client has written it: as if it had been written where it is.
                Some((_, Replaces::Another)) => self.push(&path, Change::Write, map),
                Some((_, Replaces::Nothing)) => {
                    self.push(&path, Change::Create, map);
                    self.push(&path, Change::Write, map);
                }
                None => self.push(&path, Change::Create, map),
            }
        }
        if what.contains(ReadFlags::MOVED_FROM) {
            self.push(&path, Change::Rename, map);
            self.forget(&path);
        }
        if what.contains(ReadFlags::ATTRIB) {
            self.push(&path, Change::Chmod, map);
        }
        if what.contains(ReadFlags::MODIFY) {
            self.push(&path, Change::Write, map);
        }
        if what.contains(ReadFlags::DELETE) {
            self.push(&path, Change::Remove, map);
        }
        let new = what.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) && what.contains(ReadFlags::ISDIR);
        // What was put into it before it was watched would be missed.
        if new && self.recursive && !(self.add(&path) && self.add_below(&path, Some(map))) {
            self.lost = true;
        }
    }

    /// A directory has gone elsewhere, and what is below it too.
    fn forget(&mut self, path: &Path) {
        if !self.recursive {
            return;
        }
        let kernel = &self.kernel;
        self.directories.retain(|number, directory| {
            let gone = directory.starts_with(path);
            if gone {
                // It may have gone for good already.
                inotify::remove_watch(kernel, *number).ok();
            }
            !gone
        });
    }

    fn push(&mut self, path: &Path, change: Change, map: &Map) {
        let name = match path.as_os_str().is_empty() {
            true => ".".to_owned(),
            false => path.to_string_lossy().into_owned(),
        };
        if self.queue.len() >= MOST_EVENTS || self.bytes >= MOST_BYTES {
            self.lost = true;
            return;
        }
        let there = matches!(change, Change::Create | Change::Write | Change::Chmod);
        let said = || format!("{}/{name}", self.said);
        let entry = if self.entries && there { entry(&self.root.join(path), said(), map).ok() } else { None };
        if change == Change::Write
            && let Some(last) = self.queue.back_mut().filter(|last| last.change == change && last.name == name)
        {
            last.entry = entry;
            return;
        }
        // An entry has its name twice, and a target and metadata that may be long.
        let metadata =
            |entry: &super::wire::Entry| entry.metadata.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>();
        let more = entry
            .as_ref()
            .map_or(0, |e| e.path.len() + e.name.len() + e.target.as_ref().map_or(0, String::len) + metadata(e) + 400);
        self.bytes += name.len() + more + 64;
        self.queue.push_back(Event { name, change, entry });
    }

    /// What has happened since the last time, as a JSON array, and whether there was more.
    pub fn events(&mut self, map: &Map) -> Result<(Vec<u8>, bool), Failure> {
        self.collect(map);
        self.announced = false;
        self.bytes = 0;
        let events = std::mem::take(&mut self.queue);
        let json = serde_json::to_vec(&events).map_err(|error| Failure::new(Reason::Other, error.to_string()))?;
        Ok((json, std::mem::take(&mut self.lost)))
    }
}
