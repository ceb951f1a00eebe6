//! What the daemon and its helper say to each other, over a socket that is the helper's standard input.
//!
//! The daemon opens with one byte and descriptors: the plan in a memory file, and for the innermost process also what the command will
//! read, and a socket for where the proxy of a command with network listens (`egress`). Then both send lines: [`Order`] down, [`Word`] up. End of file means that the other is gone: the helper then ends everything.
//! Nothing of this is within reach of the command, which gets another standard input.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::MemfdFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::{Deserialize, Serialize};

use super::plan::Plan;

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
    /// The command itself could not be started.
    Command,
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
    Started,
    Failed {
        stage: Stage,
        message: String,
        errno: Option<i32>,
    },
    Ended {
        exit: Option<i32>,
        signal: Option<i32>,
        stopped: Option<Stopped>,
        cpu_ms: u64,
        peak_memory_bytes: u64,
        peak_processes: u64,
    },
}

/// From the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    Stop,
    Signal(i32),
}

/// A message as a line.
pub(super) fn line(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// The plan as a file in memory, which can be read any number of times.
pub(super) fn plan_file(plan: &Plan) -> io::Result<OwnedFd> {
    let file = std::fs::File::from(rustix::fs::memfd_create("nightcrew-plan", MemfdFlags::CLOEXEC)?);
    file.write_all_at(&serde_json::to_vec(plan)?, 0)?;
    Ok(file.into())
}

/// Opens the conversation with one process of the helper.
pub(super) fn send_descriptors(socket: impl AsFd, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("more descriptors than the protocol knows"));
    }
    rustix::net::sendmsg(socket, &[io::IoSlice::new(b"\0")], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The helper's side of it: waits, and answers with the plan and the other descriptors, as far as there are any.
pub(super) fn receive_plan(socket: impl AsFd) -> io::Result<(Plan, Received)> {
    let mut descriptors = receive(socket)?.into_iter();
    let file = std::fs::File::from(descriptors.next().ok_or(io::ErrorKind::InvalidData)?);
    let mut text = vec![0; usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?];
    file.read_exact_at(&mut text, 0)?;
    let plan: Plan = serde_json::from_slice(&text)?;
    let mut next = |there: bool| if there { descriptors.next() } else { None };
    let (stdin, egress) = (next(plan.stdin), next(plan.egress));
    Ok((plan, Received { stdin, egress }))
}

/// What comes with the plan.
pub(super) struct Received {
    /// What the command reads.
    pub stdin: Option<OwnedFd>,
    /// Where the socket goes on which the proxy is to listen.
    pub egress: Option<OwnedFd>,
}

/// The one descriptor that came with a byte.
pub(super) fn receive_descriptor(socket: impl AsFd) -> io::Result<OwnedFd> {
    receive(socket)?.into_iter().next().ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn receive(socket: impl AsFd) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received =
        rustix::net::recvmsg(socket, &mut [io::IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes != 1 || received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let descriptors = ancillary.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    Ok(descriptors.collect())
}
