//! The listed sandbox module: the only file of the crate that may say `unsafe`.
//!
//! What stands here has no safe wrapper in the libraries that we use: a file descriptor that arrives by number, marking inherited
//! descriptors, `unshare`, recursive read-only mounts, raising the loopback interface, calls that wait for an answer, and `fork`. Each
//! function is safe to call from the helper, which is a fresh process with one thread; its own comment says why. No decision
//! is taken here.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::thread::UnshareFlags;

/// Standard input as a descriptor of its own, so that nobody else in this process reads it.
pub fn take_stdin() -> io::Result<OwnedFd> {
    // SAFETY: duplicating descriptor 0 touches no memory of ours; the number that comes back is new and owned by nobody else.
    let fd = unsafe { libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was opened in the line above and is stored nowhere else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Marks every descriptor from 3 upwards to be closed on `exec`: whatever the daemon left open goes no further than the helper.
pub fn close_others_on_exec() -> io::Result<()> {
    // SAFETY: sets a flag on descriptors; no memory is involved and none is closed here.
    let answer = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The highest Landlock ABI of the running kernel, 0 where Landlock is not built in or not switched on.
pub fn landlock_abi() -> i32 {
    const VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the call takes no attributes and answers with a number.
    let answer = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION) };
    i32::try_from(answer).unwrap_or(0).max(0)
}

/// Leaves the namespaces of the host.
pub fn unshare_all() -> io::Result<()> {
    let all = UnshareFlags::NEWUSER
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    // SAFETY: the call is unsafe for the sake of FILES, which would split the descriptor table under other threads. It is not
    // among the flags, and the helper has one thread.
    unsafe { rustix::thread::unshare_unsafe(all) }.map_err(Into::into)
}

/// Leaves the mounts of the host, with the privileges that this process has.
pub fn unshare_mounts() -> io::Result<()> {
    // SAFETY: as below: the helper has one thread, and FILES is not among the flags.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.map_err(Into::into)
}

/// Makes the mount at `path`, with everything mounted below it, `nosuid` and `nodev`, and read-only unless `write`.
///
/// `mount_setattr` (Linux 5.12) is the one call that does so for a whole tree and keeps the flags that are locked there already.
pub fn restrict_mount(path: &Path, write: bool, devices: bool) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut set = libc::MOUNT_ATTR_NOSUID;
    if !write {
        set |= libc::MOUNT_ATTR_RDONLY;
    }
    if !devices {
        set |= libc::MOUNT_ATTR_NODEV;
    }
    // SAFETY: an all-zero `mount_attr` is a valid one: it changes nothing.
    let mut attributes: libc::mount_attr = unsafe { std::mem::zeroed() };
    attributes.attr_set = set;
    // SAFETY: both pointers live over the call and the size is that of the structure pointed to.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_RECURSIVE as libc::c_uint,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Raises `lo` in the network namespace of this process, which has no other interface.
pub fn raise_loopback() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: an all-zero `ifreq` is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, which lives over the call.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has every `connect` of this process and of its descendants wait for an answer through the descriptor that comes back. Needs
/// `no_new_privs`, which Landlock and the other filters set as well.
pub fn hold_connects() -> io::Result<OwnedFd> {
    let statement = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    // What comes in through another architecture's door the other filter ends.
    let mut program = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_connect as u32),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: program.len() as libc::c_ushort, filter: program.as_mut_ptr() };
    // Once somebody looks at a call, signals other than a deadly one wait for the answer.
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    // SAFETY: `program` and what it points to live over the call, and its length is that of the array.
    let fd =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) } as i32;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was opened in the line above and is stored nowhere else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A `connect` that waits: who called it, and with what.
#[derive(Clone, Copy, Debug)]
pub struct HeldConnect {
    id: u64,
    pub pid: u32,
    pub descriptor: i32,
    /// Where in the caller's memory the address lies, and how long it is said to be.
    pub address: u64,
    pub length: u64,
}

/// The next that waits. `NotFound` if its caller is gone meanwhile.
pub fn held_connect(calls: BorrowedFd<'_>) -> io::Result<HeldConnect> {
    // SAFETY: an all-zero `seccomp_notif` is a valid one, and the one that the kernel asks for.
    let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills in one structure of this type, which lives over the call.
    let answer = unsafe { libc::ioctl(calls.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV as _, &raw mut call) };
    let [descriptor, address, length, ..] = call.data.args;
    // The length is an `int`: what stands above it is nobody's.
    let (descriptor, length) = (descriptor as i32, length & u64::from(u32::MAX));
    if answer == 0 {
        Ok(HeldConnect { id: call.id, pid: call.pid, descriptor, address, length })
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Puts a copy of `socket` where the caller has the descriptor that it wanted to connect.
pub fn replace_descriptor(
    calls: BorrowedFd<'_>,
    call: &HeldConnect,
    socket: BorrowedFd<'_>,
    close_on_exec: bool,
) -> io::Result<()> {
    let request = libc::seccomp_notif_addfd {
        id: call.id,
        flags: libc::SECCOMP_ADDFD_FLAG_SETFD as u32,
        srcfd: socket.as_raw_fd().cast_unsigned(),
        newfd: call.descriptor.cast_unsigned(),
        newfd_flags: if close_on_exec { libc::O_CLOEXEC.cast_unsigned() } else { 0 },
    };
    // SAFETY: the kernel reads one structure of this type, which lives over the call; the descriptor in it is borrowed as long.
    let answer = unsafe { libc::ioctl(calls.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD as _, &raw const request) };
    if answer >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets the caller go on: its call has succeeded, or failed with this error number. `NotFound` if it is gone meanwhile.
pub fn answer_connect(calls: BorrowedFd<'_>, call: &HeldConnect, errno: i32) -> io::Result<()> {
    let answer = libc::seccomp_notif_resp { id: call.id, val: 0, error: -errno, flags: 0 };
    // SAFETY: the kernel reads one structure of this type, which lives over the call.
    let answer = unsafe { libc::ioctl(calls.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND as _, &raw const answer) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Runs `act` in a new process, which ends with it. `sibling`: this process's parent is the new one's parent as well.
///
/// The new process has a copy of everything, descriptors included, until it calls [`keep_only`].
pub fn fork(sibling: bool, act: impl FnOnce() -> i32) -> io::Result<i32> {
    let flags = libc::SIGCHLD | if sibling { libc::CLONE_PARENT } else { 0 };
    // SAFETY: without CLONE_VM the child has its own copy of all memory, as after `fork`. No other thread can hold a lock at that
    // moment, since the helper has one thread, so ordinary code may run in the child.
    match unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(flags), 0, 0, 0, 0) } {
        0 => {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).unwrap_or(101);
            // SAFETY: ends the process without running what the original has registered for its own end.
            unsafe { libc::_exit(code) }
        }
        -1 => Err(io::Error::last_os_error()),
        pid => i32::try_from(pid).map_err(io::Error::other),
    }
}

/// Closes every descriptor but `kept`, and puts `null` in the place of the three first. Only for the process of a [`fork`].
pub fn keep_only(kept: &[BorrowedFd<'_>], null: BorrowedFd<'_>) -> io::Result<()> {
    let checked = |answer: i64| if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    for standard in 0..3 {
        // SAFETY: what stood there belongs to the process that this one was copied from; here nobody uses it.
        checked(unsafe { libc::dup2(null.as_raw_fd(), standard) }.into())?;
    }
    let mut numbers: Vec<u32> = kept.iter().map(|kept| kept.as_raw_fd().cast_unsigned()).filter(|n| *n > 2).collect();
    numbers.sort_unstable();
    let mut from = 3;
    for number in numbers.into_iter().chain([u32::MAX]) {
        if from < number {
            let last = if number == u32::MAX { number } else { number - 1 };
            // SAFETY: owners of these descriptors are copies that are never dropped, since the process of a `fork` ends by `_exit`.
            checked(unsafe { libc::syscall(libc::SYS_close_range, from, last, 0) })?;
        }
        from = number.saturating_add(1);
    }
    Ok(())
}

/// A child that has ended and was not waited for yet; it stays so.
pub fn ended_child() -> io::Result<Option<i32>> {
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    loop {
        // SAFETY: an all-zero `siginfo_t` is a valid one.
        let mut found: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel fills in one structure of this type, which lives over the call.
        let answer = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut found, flags) };
        if answer == 0 {
            // SAFETY: after `waitid` this is the field that counts; 0 where nobody was found.
            let pid = unsafe { found.si_pid() };
            return Ok((pid != 0).then_some(pid));
        }
        match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ECHILD) => return Ok(None),
            error if error.kind() == io::ErrorKind::Interrupted => {}
            error => return Err(error),
        }
    }
}

/// Removes a System V segment of memory. One that somebody still uses goes when it is let go.
pub fn remove_segment(id: i32) -> io::Result<()> {
    // SAFETY: this command takes no third argument.
    let answer = unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
