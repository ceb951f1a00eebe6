//! What the two ends of a file worker say to each other.
//!
//! A frame is the length of its header and of its payload (both 32 bits, big-endian), the header as JSON, and the payload as it is. Every
//! request gets one answer, in the order of the requests; between answers comes [`Answer::Stir`]. A file is asked for and sent piece by
//! piece, so no request takes long, many transfers go side by side, and none is ever in memory as a whole.
//!
//! The worker trusts the form of what it gets. The other end trusts nothing: a worker runs beside what it must be guarded from.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

/// A piece of a file, in bytes: more never stands in one frame of a transfer.
pub const PIECE: usize = 256 << 10;
/// The largest header, in bytes.
pub(super) const MOST_HEADER: usize = 256 << 10;
/// The largest payload: a list of entries.
pub(super) const MOST_PAYLOAD: usize = 12 << 20;

/// Paths are absolute, as clients say them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    Stat {
        path: String,
    },
    /// Answers `Entries`.
    List {
        path: String,
        depth: u32,
    },
    /// Makes a directory and those above it.
    Make {
        path: String,
    },
    Move {
        from: String,
        to: String,
    },
    /// With everything in it. What is not there is removed already.
    Remove {
        path: String,
    },
    /// Begins to read, `most` bytes at the most. Answers `Opened` with the first piece.
    Open {
        path: String,
        from: From,
        most: Option<u64>,
    },
    /// The next piece.
    Piece {
        handle: u32,
    },
    /// Begins to write. Answers `Created`.
    Create {
        path: String,
        metadata: BTreeMap<String, String>,
    },
    /// The payload is what comes next.
    Append {
        handle: u32,
    },
    /// The file is complete: it takes its place.
    Finish {
        handle: u32,
    },
    /// No more of this transfer; what was written is gone.
    Close {
        handle: u32,
    },
    /// Joins files into one and removes them.
    Compose {
        sources: Vec<String>,
        to: String,
    },
    /// Answers `Watching`.
    Watch {
        path: String,
        recursive: bool,
        entries: bool,
    },
    /// What has happened since the last time.
    Events {
        watch: u32,
    },
    Unwatch {
        watch: u32,
    },
}

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum From {
    /// So many bytes behind the beginning.
    Start(u64),
    /// So many bytes before the end.
    End(u64),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Done,
    Entry(Box<Entry>),
    /// The payload has them, as a JSON array.
    Entries,
    Opened {
        /// `None`: the payload is all of it.
        handle: Option<u32>,
        /// Of the whole file; files of the kernel's say 0 and have more.
        size: u64,
        /// Where the payload begins in the file.
        at: u64,
        modified: Time,
    },
    /// The payload is the next piece; after the last the handle is gone.
    Piece {
        last: bool,
    },
    Created {
        handle: u32,
        /// What is to be removed if the worker dies.
        temporary: String,
    },
    Watching {
        watch: u32,
    },
    /// The payload has the events, as a JSON array. `lost`: more has happened than was kept.
    Events {
        lost: bool,
    },
    /// No answer: something has happened where `watch` looks. Said once until it is asked for.
    Stir {
        watch: u32,
    },
    Failed(Failure),
}

/// Why a request failed, as far as callers do different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    NotFound,
    Exists,
    /// It is one, and must not be.
    Directory,
    NotDirectory,
    /// A name that no file has, or something that is no file.
    Invalid,
    Denied,
    /// Disk, quota or the largest size of a file.
    Full,
    /// More of something than the worker handles.
    TooMany,
    /// Links that go round in circles.
    Loop,
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub reason: Reason,
    pub message: String,
}

impl Failure {
    pub(super) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// `what` says what was tried, with the path: "reading '/x'".
    pub(super) fn of(error: &io::Error, what: &str) -> Self {
        use io::ErrorKind as Kind;
        let reason = match error.kind() {
            Kind::NotFound => Reason::NotFound,
            Kind::AlreadyExists | Kind::DirectoryNotEmpty => Reason::Exists,
            Kind::IsADirectory => Reason::Directory,
            Kind::NotADirectory => Reason::NotDirectory,
            Kind::InvalidInput | Kind::InvalidFilename => Reason::Invalid,
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem => Reason::Denied,
            Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => Reason::Full,
            _ => match error.raw_os_error() {
                Some(libc::ELOOP) => Reason::Loop,
                Some(libc::ENXIO) => Reason::Invalid,
                _ => Reason::Other,
            },
        };
        let message = match reason {
            Reason::Full => format!("not enough disk space available: {what}: {error}"),
            _ => format!("{what}: {error}"),
        };
        Self { reason, message }
    }
}

/// Seconds since 1970 (UTC) and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Time {
    pub seconds: i64,
    pub nanoseconds: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    File,
    Directory,
    /// A link that leads nowhere; of others the kind is that of where they lead.
    Symlink,
    #[default]
    Other,
}

/// One entry of a file system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub name: String,
    /// As the client names it.
    pub path: String,
    pub kind: Kind,
    /// Where a link leads to.
    pub target: Option<String>,
    pub size: u64,
    /// Permission bits; of a link those of where it leads.
    pub mode: u32,
    /// As Go writes them: `-rw-r--r--`, `drwxr-xr-x`, `Lrwxrwxrwx`.
    pub permissions: String,
    pub owner: String,
    pub group: String,
    pub modified: Time,
    pub metadata: BTreeMap<String, String>,
}

/// What has happened to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Create,
    Write,
    Remove,
    /// It has another name, or place, now.
    Rename,
    Chmod,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Relative to the directory that is watched.
    pub name: String,
    pub change: Change,
    pub entry: Option<Entry>,
}

/// A frame as bytes.
pub(super) fn frame(header: &impl Serialize, payload: &[u8]) -> io::Result<Vec<u8>> {
    let header = serde_json::to_vec(header)?;
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).map(u32::to_be_bytes).map_err(io::Error::other);
    let mut framed = Vec::with_capacity(8 + header.len() + payload.len());
    framed.extend_from_slice(&length(&header)?);
    framed.extend_from_slice(&length(payload)?);
    framed.extend_from_slice(&header);
    framed.extend_from_slice(payload);
    Ok(framed)
}

/// The worker's side of reading; `None` at the end.
pub(super) fn read(mut from: impl Read) -> io::Result<Option<(Request, Vec<u8>)>> {
    let mut lengths = [0; 8];
    match from.read_exact(&mut lengths) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let (header, payload) = split(lengths);
    if header > MOST_HEADER || payload > PIECE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; header + payload];
    from.read_exact(&mut bytes)?;
    let payload = bytes.split_off(header);
    Ok(Some((serde_json::from_slice(&bytes)?, payload)))
}

pub(super) fn write(mut to: impl Write, header: &Answer, payload: &[u8]) -> io::Result<()> {
    to.write_all(&frame(header, payload)?)
}

fn split(lengths: [u8; 8]) -> (usize, usize) {
    let [a, b, c, d, e, f, g, h] = lengths;
    (u32::from_be_bytes([a, b, c, d]) as usize, u32::from_be_bytes([e, f, g, h]) as usize)
}

/// Puts frames together from pieces as they come, and refuses what is too large before it is there.
#[derive(Debug, Default)]
pub(super) struct Frames {
    bytes: Vec<u8>,
}

impl Frames {
    pub fn push(&mut self, piece: &[u8]) {
        self.bytes.extend_from_slice(piece);
    }

    /// The next complete frame.
    pub fn next(&mut self) -> io::Result<Option<(Answer, Vec<u8>)>> {
        let Some(lengths) = self.bytes.first_chunk::<8>() else { return Ok(None) };
        let (header, payload) = split(*lengths);
        if header > MOST_HEADER || payload > MOST_PAYLOAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let whole = 8 + header + payload;
        if self.bytes.len() < whole {
            self.bytes.reserve(whole.min(self.bytes.len() + (1 << 20)) - self.bytes.len());
            return Ok(None);
        }
        let rest = self.bytes.split_off(whole);
        let mut frame = std::mem::replace(&mut self.bytes, rest);
        let payload = frame.split_off(8 + header);
        let answer = serde_json::from_slice(frame.get(8..).unwrap_or_default())?;
        Ok(Some((answer, payload)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_together_from_any_pieces_and_are_refused_when_too_large() {
        let first = frame(&Answer::Piece { last: false }, b"abc").unwrap();
        let second = frame(&Answer::Failed(Failure::new(Reason::Full, "x\n\u{1F980}")), b"").unwrap();
        let all = [first, second].concat();
        for size in [1, 3, 7, 8, 9, all.len()] {
            let (mut frames, mut found) = (Frames::default(), Vec::new());
            for piece in all.chunks(size) {
                frames.push(piece);
                while let Some(frame) = frames.next().unwrap() {
                    found.push(frame);
                }
            }
            assert_eq!(found.len(), 2, "in pieces of {size}");
            assert_eq!(found[0], (Answer::Piece { last: false }, b"abc".to_vec()));
        }
        for lengths in [[0xff; 8], [0, 0, 0, 1, 0xff, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]] {
            let mut frames = Frames::default();
            frames.push(&lengths);
            assert!(frames.next().is_err());
        }
        let mut frames = Frames::default();
        frames.push(&[0, 0, 0, 2, 0, 0, 0, 0, b'{', b'"']);
        assert!(frames.next().is_err());
    }

    #[test]
    fn what_the_system_says_has_a_reason() {
        let of = |number| Failure::of(&io::Error::from_raw_os_error(number), "x").reason;
        let expected = [
            (libc::ENOENT, Reason::NotFound),
            (libc::ENOSPC, Reason::Full),
            (libc::EDQUOT, Reason::Full),
            (libc::EFBIG, Reason::Full),
            (libc::EROFS, Reason::Denied),
            (libc::ELOOP, Reason::Loop),
            (libc::ENAMETOOLONG, Reason::Invalid),
            (libc::EISDIR, Reason::Directory),
            (libc::EIO, Reason::Other),
        ];
        for (number, reason) in expected {
            assert_eq!(of(number), reason, "{number}");
        }
    }
}
