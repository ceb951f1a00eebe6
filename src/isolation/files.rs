//! Files of a room: read, written, listed and watched as a process of the room does it.
//!
//! A *worker* ([`work`]) runs inside, under the whole confinement and with one thread, so links and mounts are what they are inside and
//! no path is ever resolved on the host. [`Files`] is the other end: it starts workers when they are needed, lets many callers use them
//! at the same time, and believes them nothing.
//!
//! Everything in the file system is hostile to the worker: it follows links no further than the system lets any process, opens nothing
//! that makes it wait, keeps no list without an end and calls nothing of its own that nests with the depth of a directory.

mod client;
mod entry;
mod paths;
mod transfer;
mod tree;
mod watch;
mod wire;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

pub(super) use paths::Map;

pub use client::{Files, FilesError, Reader, Watcher, Writer};
pub use wire::{Change, Entry, Event, Failure, From, Kind, PIECE, Reason, Time};

use transfer::{Reading, Writing};
use watch::Watch;
use wire::{Answer, Request};

/// Transfers that are open at the same time.
const MOST_OPEN: usize = 64;
/// Each is an instance of the kernel's, of which a user has a hundred or so.
const MOST_WATCHES: usize = 16;

/// Answers requests until `input` ends.
///
/// Errors: of the two ends alone; what happens to files goes into the answers.
pub(super) fn work(input: File, output: File, map: &Map) -> io::Result<()> {
    let mut worker = Worker { map, open: BTreeMap::new(), watches: BTreeMap::new(), last: 0, serial: 0 };
    loop {
        let (asked, stirred) = wait(&input, &worker.watches)?;
        for number in stirred {
            if let Some(watch) = worker.watches.get_mut(&number)
                && watch.collect(map)
                && !watch.announced
            {
                watch.announced = true;
                wire::write(&output, &Answer::Stir { watch: number }, &[])?;
            }
        }
        if asked {
            let Some((request, payload)) = wire::read(&input)? else { return Ok(()) };
            let (answer, payload) =
                worker.answer(request, &payload).unwrap_or_else(|f| (Answer::Failed(f), Vec::new()));
            wire::write(&output, &answer, &payload)?;
        }
    }
}

/// Until there is a request, or its end, or something has happened to what is watched.
fn wait(input: &File, watches: &BTreeMap<u32, Watch>) -> io::Result<(bool, Vec<u32>)> {
    let watched = watches.values().map(|watch| PollFd::from_borrowed_fd(watch.kernel(), PollFlags::IN));
    let mut polled: Vec<_> =
        std::iter::once(PollFd::from_borrowed_fd(input.as_fd(), PollFlags::IN)).chain(watched).collect();
    match rustix::event::poll(&mut polled, None) {
        Err(Errno::INTR) => return Ok((false, Vec::new())),
        polled => polled?,
    };
    let (input, watched) = match polled.split_first() {
        Some(split) => split,
        None => return Ok((false, Vec::new())),
    };
    let stirred = watches.keys().zip(watched).filter(|(_, fd)| !fd.revents().is_empty());
    Ok((!input.revents().is_empty(), stirred.map(|(number, _)| *number).collect()))
}

#[derive(Debug)]
enum Open {
    Read(Reading),
    Write(Writing),
}

struct Worker<'a> {
    map: &'a Map,
    open: BTreeMap<u32, Open>,
    watches: BTreeMap<u32, Watch>,
    /// The last number that was given to anything.
    last: u32,
    serial: u64,
}

fn unknown() -> Failure {
    Failure::new(Reason::Invalid, "there is no such transfer or watcher")
}

impl Worker<'_> {
    fn number(&mut self) -> u32 {
        self.last = self.last.wrapping_add(1);
        self.last
    }

    fn room_for_one(&self) -> Result<(), Failure> {
        match self.open.len() {
            ..MOST_OPEN => Ok(()),
            _ => Err(Failure::new(Reason::TooMany, "too many files are being transferred at the same time")),
        }
    }

    fn answer(&mut self, request: Request, payload: &[u8]) -> Result<(Answer, Vec<u8>), Failure> {
        let map = self.map;
        let plain = |answer| Ok((answer, Vec::new()));
        let told = |entry: Entry| plain(Answer::Entry(Box::new(entry)));
        match request {
            Request::Stat { path } => {
                let found = entry::entry(&map.inside(&path)?, path.clone(), map);
                told(found.map_err(|error| match error.kind() {
                    io::ErrorKind::NotFound => Failure::new(Reason::NotFound, format!("file not found: {path}")),
                    _ => Failure::of(&error, &format!("looking at '{path}'")),
                })?)
            }
            Request::List { path, depth } => Ok((Answer::Entries, tree::list(&path, depth.max(1), map)?)),
            Request::Make { path } => told(tree::make(&path, map)?),
            Request::Move { from, to } => told(tree::rename(&from, &to, map)?),
            Request::Remove { path } => tree::remove(&path, map).and_then(|()| plain(Answer::Done)),
            Request::Open { path, from, most } => {
                self.room_for_one()?;
                let (mut answer, piece, more) = Reading::begin(&path, from, most, map)?;
                if let (Some(reading), Answer::Opened { handle, .. }) = (more, &mut answer) {
                    let number = self.number();
                    *handle = Some(number);
                    self.open.insert(number, Open::Read(reading));
                }
                Ok((answer, piece))
            }
            Request::Piece { handle } => {
                let Some(Open::Read(reading)) = self.open.get_mut(&handle) else { return Err(unknown()) };
                let read = reading.next().map_err(|error| Failure::of(&error, "reading"));
                if !matches!(read, Ok((_, false))) {
                    self.open.remove(&handle);
                }
                let (piece, last) = read?;
                Ok((Answer::Piece { last }, piece))
            }
            Request::Create { path, metadata } => {
                self.room_for_one()?;
                let writing = Writing::begin(&path, metadata, map, &mut self.serial)?;
                let (handle, temporary) = (self.number(), writing.temporary(map));
                self.open.insert(handle, Open::Write(writing));
                plain(Answer::Created { handle, temporary })
            }
            Request::Append { handle } => {
                let Some(Open::Write(writing)) = self.open.get_mut(&handle) else { return Err(unknown()) };
                writing
                    .append(payload)
                    .and_then(|()| plain(Answer::Done))
                    .inspect_err(|_| drop(self.open.remove(&handle)))
            }
            Request::Finish { handle } => match self.open.remove(&handle) {
                Some(Open::Write(writing)) => told(writing.finish(map)?),
                _ => Err(unknown()),
            },
            Request::Close { handle } => {
                drop(self.open.remove(&handle));
                plain(Answer::Done)
            }
            Request::Compose { sources, to } => told(transfer::compose(&sources, &to, map, &mut self.serial)?),
            Request::Watch { path, recursive, entries } => {
                if self.watches.len() >= MOST_WATCHES {
                    return Err(Failure::new(Reason::TooMany, "too many directories are watched at the same time"));
                }
                let begun = Watch::begin(&path, recursive, entries, map)?;
                let watch = self.number();
                self.watches.insert(watch, begun);
                plain(Answer::Watching { watch })
            }
            Request::Events { watch } => {
                let (events, lost) = self.watches.get_mut(&watch).ok_or_else(unknown)?.events(map)?;
                Ok((Answer::Events { lost }, events))
            }
            Request::Unwatch { watch } => match self.watches.remove(&watch) {
                Some(_) => plain(Answer::Done),
                None => Err(unknown()),
            },
        }
    }
}
