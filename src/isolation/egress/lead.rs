//! In the last tier, where the command is on the host's network: each `connect` of the command stops in the kernel until the process that
//! watches it has answered, and the answer is a connection to the proxy or a refusal.
//!
//! The command's own call is never carried out: its socket is replaced by one that was connected here. So nothing depends on the address
//! that the command may change while it is looked at; it is read only so that a wrong one fails as it should.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::fs::OFlags;

use super::super::sys::{self, HeldConnect};
use super::Proxy;

/// How long the proxy, on the same machine, may take to accept: nobody is watched meanwhile.
const ACCEPT: Duration = Duration::from_millis(200);

/// Answers the next call. An error means that no more can be answered.
pub(in crate::isolation) fn answer(calls: BorrowedFd<'_>, proxy: &Proxy) -> io::Result<()> {
    let call = match sys::held_connect(calls) {
        Ok(call) => call,
        // Its process was killed before it was looked at.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
        Err(error) => return Err(error),
    };
    let errno = lead(calls, &call, proxy).err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EPERM));
    match sys::answer_connect(calls, &call, errno) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn lead(calls: BorrowedFd<'_>, call: &HeldConnect, proxy: &Proxy) -> io::Result<()> {
    // Who may not look into the command cannot lead it either: it is as without a network.
    let closed = |_| io::Error::from_raw_os_error(libc::EPERM);
    if !is_the_proxy(call, proxy.port).map_err(closed)? {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    let flags = flags(call).map_err(closed)?;
    let mut socket = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, proxy.port)), ACCEPT)?;
    socket.write_all(&proxy.word)?;
    socket.set_nonblocking(flags.contains(OFlags::NONBLOCK))?;
    sys::replace_descriptor(calls, call, socket.as_fd(), flags.contains(OFlags::CLOEXEC))
}

/// Whether the address is that of the proxy: family, port and address of a `sockaddr_in`.
fn is_the_proxy(call: &HeldConnect, port: u16) -> io::Result<bool> {
    let mut address = [0; 8];
    let mut memory = fs::File::open(format!("/proc/{}/mem", call.pid))?;
    memory.seek(SeekFrom::Start(call.address))?;
    memory.read_exact(&mut address)?;
    let mut expected = [0; 8];
    expected[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    expected[2..4].copy_from_slice(&port.to_be_bytes());
    expected[4..].copy_from_slice(&Ipv4Addr::LOCALHOST.octets());
    Ok(call.length >= size_of::<libc::sockaddr_in>() as u64 && address == expected)
}

/// The flags of the socket that is to be replaced.
fn flags(call: &HeldConnect) -> io::Result<OFlags> {
    let text = fs::read_to_string(format!("/proc/{}/fdinfo/{}", call.pid, call.descriptor))?;
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
    flags.map(OFlags::from_bits_retain).ok_or_else(|| io::ErrorKind::InvalidData.into())
}
