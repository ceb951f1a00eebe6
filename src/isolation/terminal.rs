//! Terminals of processes. They are opened inside, where they have a name, and handed out over a socket.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::room::Size;
use super::wire;

/// Inside: makes a terminal, hands it out, and answers with the end that is for the process.
pub(super) fn open(out: impl AsFd, size: Size) -> io::Result<OwnedFd> {
    let ours = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::pty::unlockpt(&ours)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags)?;
    resize(&ours, size)?;
    wire::send_descriptors(out, &[ours.as_fd()])?;
    Ok(theirs)
}

pub(super) fn resize(terminal: impl AsFd, size: Size) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}
