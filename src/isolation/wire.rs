//! What the daemon and its helper say to each other, over a socket that is the helper's standard input.
//!
//! The daemon opens with one byte and descriptors: the plan in a memory file, and for the innermost process also a socket for where the
//! proxy of a room with network listens (`egress`). Then both send lines: [`Order`] down, [`Word`] up. With an [`Order::Start`] come
//! descriptors, in the order of the orders. End of file means that the other is gone: the helper then ends everything.
//! Nothing of this is within reach of what runs inside.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::MemfdFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::plan::Plan;
use super::room::Size;

/// Where the set-up of a sandbox failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The helper did not understand the daemon: the binary was replaced under it.
    Protocol,
    /// `bwrap` ended before our part began.
    Bubblewrap,
    Namespaces,
    UserMap,
    Mounts,
    /// A `/proc` of one's own could not be mounted.
    Proc,
    Capabilities,
    Landlock,
    Seccomp,
    Limits,
    Ownership,
    /// Where the proxy to the network listens.
    Egress,
    /// A process could not be started.
    Command,
    /// There is no such directory for a process to start in.
    Directory,
}

/// What ended a command other than itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stopped {
    Wall,
    Cpu,
    Memory,
    Processes,
    FileSize,
    Disk,
    /// The caller, by its handle or by dropping it.
    Caller,
}

/// From the helper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Word {
    /// The confinement stands.
    Ready,
    /// There is no room, or no longer.
    Failed { stage: Stage, message: String, errno: Option<i32> },
    Started {
        id: u64,
        /// As processes inside number each other.
        pid: i32,
    },
    /// It was not started.
    Refused { id: u64, stage: Stage, message: String, errno: Option<i32> },
    Ended {
        id: u64,
        #[serde(flatten)]
        end: End,
    },
    /// Every process stands still, or goes on.
    Frozen(bool),
}

/// How a process ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct End {
    pub exit: Option<i32>,
    pub signal: Option<i32>,
    pub stopped: Option<Stopped>,
    pub cpu_ms: u64,
    pub peak_memory_bytes: u64,
    pub peak_processes: u64,
}

/// From the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    Start(Opening),
    Signal {
        id: u64,
        number: i32,
    },
    /// Ends a process and what it has started.
    Kill(u64),
    Freeze(bool),
    /// Ends everything.
    Close,
}

/// What the helper needs to know of a process to be started. Its descriptors: a memory file with a [`Program`] (or for the file worker
/// its map), then either standard input (where there is one) and both outputs, or a socket over which the terminal goes out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Opening {
    pub id: u64,
    pub stdin: bool,
    pub terminal: Option<Size>,
    pub wall_ms: u64,
    /// It is the worker for files, and no program.
    pub files: bool,
}

/// What is executed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Program {
    pub words: Vec<String>,
    /// Added to the room's.
    pub environment: BTreeMap<String, String>,
    pub directory: PathBuf,
}

/// A message as a line.
pub(super) fn line(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// A message as a file in memory, which can be read any number of times.
pub(super) fn memory_file(message: &impl Serialize) -> io::Result<OwnedFd> {
    let file = std::fs::File::from(rustix::fs::memfd_create("nightcrew", MemfdFlags::CLOEXEC)?);
    file.write_all_at(&serde_json::to_vec(message)?, 0)?;
    Ok(file.into())
}

/// The message in such a file.
pub(super) fn read_memory<T: DeserializeOwned>(file: OwnedFd) -> io::Result<T> {
    let file = std::fs::File::from(file);
    let mut text = vec![0; usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?];
    file.read_exact_at(&mut text, 0)?;
    Ok(serde_json::from_slice(&text)?)
}

/// The most descriptors that come with one message.
const MOST: usize = 5;

/// Sends one byte with descriptors.
pub(super) fn send_descriptors(socket: impl AsFd, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_with(socket, b"\0", descriptors).map(drop)
}

/// Sends the beginning of `bytes` with descriptors; answers how many bytes went out.
pub(super) fn send_with(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("more descriptors than the protocol knows"));
    }
    Ok(rustix::net::sendmsg(socket, &[io::IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?)
}

/// The helper's side of it: waits, and answers with the plan and where the socket goes on which the proxy is to listen, if there is one.
pub(super) fn receive_plan(socket: impl AsFd) -> io::Result<(Plan, Option<OwnedFd>)> {
    let mut descriptors = receive(socket)?.1.into_iter();
    let plan: Plan = read_memory(descriptors.next().ok_or(io::ErrorKind::InvalidData)?)?;
    Ok((plan, descriptors.next()))
}

/// The one descriptor that came with a byte.
pub(super) fn receive_descriptor(socket: impl AsFd) -> io::Result<OwnedFd> {
    receive(socket)?.1.into_iter().next().ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Waits for one byte and what came with it.
pub(super) fn receive(socket: impl AsFd) -> io::Result<(u8, Vec<OwnedFd>)> {
    let mut byte = [0];
    let (read, descriptors) = receive_into(socket, &mut byte, RecvFlags::empty())?;
    if read == 1 { Ok((byte[0], descriptors)) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn receive_into(socket: impl AsFd, buffer: &mut [u8], flags: RecvFlags) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let parts = &mut [io::IoSliceMut::new(buffer)];
    let received = rustix::net::recvmsg(socket, parts, &mut ancillary, flags | RecvFlags::CMSG_CLOEXEC)?;
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let descriptors = ancillary.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    Ok((received.bytes, descriptors.collect()))
}

/// The helper's end of the lines, none of which makes it wait.
#[derive(Default)]
pub(super) struct Lines {
    incoming: Vec<u8>,
    /// The kernel hands descriptors out no later than the bytes that they were sent with, and never those of two messages at once: so
    /// they belong to the orders that have some, one after the other.
    descriptors: VecDeque<Vec<OwnedFd>>,
    outgoing: Vec<u8>,
}

impl Lines {
    /// Takes what is there. False: the daemon is gone.
    pub(super) fn listen(&mut self, socket: &OwnedFd) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match receive_into(socket, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return false,
                Ok((read, descriptors)) => {
                    self.incoming.extend(buffer.iter().take(read));
                    self.descriptors.extend((!descriptors.is_empty()).then_some(descriptors));
                }
                Err(error) => {
                    let kind = error.kind();
                    return matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
                }
            }
        }
    }

    /// The next order that is there, with its descriptors.
    pub(super) fn next(&mut self) -> io::Result<Option<(Order, Vec<OwnedFd>)>> {
        let Some(end) = self.incoming.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
        let line: Vec<u8> = self.incoming.drain(..=end).collect();
        let order = serde_json::from_slice(&line)?;
        let descriptors = match order {
            Order::Start(_) => self.descriptors.pop_front().ok_or(io::ErrorKind::InvalidData)?,
            _ => Vec::new(),
        };
        Ok(Some((order, descriptors)))
    }

    pub(super) fn say(&mut self, word: &Word) -> io::Result<()> {
        self.outgoing.extend(line(word)?);
        Ok(())
    }

    /// Whether something is still to go out.
    pub(super) fn full(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Sends what the daemon takes at the moment. False: it is gone.
    pub(super) fn flush(&mut self, socket: &OwnedFd) -> bool {
        while self.full() {
            match rustix::net::send(socket, &self.outgoing, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => drop(self.outgoing.drain(..sent)),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return true,
                Err(_) => return false,
            }
        }
        true
    }
}
