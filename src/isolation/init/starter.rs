//! The starter: the one confined process from which every other comes.
//!
//! Processes that began apart could not send each other a signal (Landlock draws its line around who confined itself together), nor
//! would each be confined as quickly. So the first process makes one copy of itself, which confines itself and then, for each program,
//! makes a copy that becomes the program. The copy's parent is the first process (`CLONE_PARENT`), which so learns how it ended.
//! Invariant: nothing that runs inside reads or traces the starter; it may end it, which harms nobody: there will be another.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal};

use super::super::helper::Failure;
use super::super::wire::{self, Program, Stage};
use super::super::{egress, sys};
use super::confine::Confinement;

/// By the number at this place, and one, the starter says which part of confining itself failed.
const STAGES: [Stage; 5] = [Stage::Limits, Stage::Ownership, Stage::Landlock, Stage::Seccomp, Stage::Egress];
/// How long confining may take. On a machine at its limits even this little takes a while.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// What comes with a program beside its report and its words.
pub(super) const WITH_STDIN: u8 = 1;
pub(super) const WITH_TERMINAL: u8 = 2;

/// Why a program was not started, in the report of its process.
pub(super) const NO_PROGRAM: i32 = 1;
pub(super) const NO_DIRECTORY: i32 = 2;
pub(super) const NO_TERMINAL: i32 = 3;
pub(super) const NO_PROCESS: i32 = 4;

/// The first process's end of it.
pub(super) struct Starter {
    pub pid: Pid,
    channel: OwnedFd,
}

impl Starter {
    /// Waits until it is confined. `held`: its programs' attempts to connect are held; they come out of the second.
    pub(super) fn begin(
        confinement: &Confinement,
        environment: &BTreeMap<String, String>,
        held: bool,
    ) -> Result<(Self, Option<OwnedFd>), Failure> {
        let failed = |error: io::Error| Failure::new(Stage::Limits, "the process that starts the others", error);
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let null = File::open("/dev/null").map_err(failed)?;
        let life = || serve(theirs.as_fd(), null.as_fd(), confinement, environment, held);
        let pid = sys::fork(false, life).map_err(failed)?;
        drop(theirs);
        let pid = Pid::from_raw(pid).ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
        let starter = Self { pid, channel: ours.into() };
        let mut polled = [PollFd::new(&starter.channel, PollFlags::IN)];
        let ready = rustix::event::poll(&mut polled, Some(&PATIENCE)).map_err(|error| failed(error.into()))?;
        if ready == 0 {
            starter.end();
            return Err(failed(io::ErrorKind::TimedOut.into()));
        }
        match wire::receive(&starter.channel).map_err(failed)? {
            (0, descriptors) => Ok((starter, descriptors.into_iter().next())),
            (number, _) => {
                let stage = STAGES.get(usize::from(number) - 1).copied().unwrap_or(Stage::Protocol);
                Err(Failure {
                    stage,
                    message: format!("confining the process that starts the others ({stage:?})"),
                    errno: None,
                })
            }
        }
    }

    /// Has it start a program. `descriptors`: the report's end, the words, and what the program gets.
    pub(super) fn start(&self, kind: u8, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        match wire::send_with(&self.channel, &[kind], descriptors) {
            Ok(1) => Ok(()),
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn end(&self) {
        match rustix::process::kill_process(self.pid, Signal::KILL) {
            // It may be gone already.
            Ok(()) | Err(_) => {}
        }
    }
}

/// The starter's own life.
fn serve(
    channel: BorrowedFd<'_>,
    null: BorrowedFd<'_>,
    confinement: &Confinement,
    environment: &BTreeMap<String, String>,
    held: bool,
) -> i32 {
    let ready = confine(confinement, held).and_then(|calls| {
        let calls: Vec<_> = calls.iter().map(AsFd::as_fd).collect();
        let kept: Vec<_> = [channel, null].into_iter().chain(calls.iter().copied()).collect();
        sys::keep_only(&kept, null).map_err(|_| Stage::Limits)?;
        wire::send_with(channel, &[0], &calls).map(drop).map_err(|_| Stage::Egress)
    });
    if let Err(stage) = ready {
        let number = STAGES.iter().position(|known| *known == stage).map_or(0, |place| place + 1);
        drop(wire::send_with(channel, &[u8::try_from(number).unwrap_or(u8::MAX)], &[]));
        return 1;
    }
    // Until the first process is gone.
    while let Ok((kind, descriptors)) = wire::receive(channel) {
        let Some(Ok(report)) = descriptors.first().map(OwnedFd::try_clone) else { return 1 };
        if let Err(error) = sys::fork(true, move || become_program(kind, descriptors, confinement, environment)) {
            drop(say(&mut File::from(report), &[0, NO_PROCESS, error.raw_os_error().unwrap_or(libc::EAGAIN)]));
        }
    }
    0
}

fn say(report: &mut File, numbers: &[i32]) -> io::Result<()> {
    report.write_all(&numbers.iter().flat_map(|number| number.to_ne_bytes()).collect::<Vec<_>>())
}

fn confine(confinement: &Confinement, held: bool) -> Result<Option<OwnedFd>, Stage> {
    rustix::process::setsid().map_err(|_| Stage::Limits)?;
    confinement.put_on()?;
    if held { sys::hold_connects().map(Some).map_err(|_| Stage::Egress) } else { Ok(None) }
}

/// The life of a process until its program begins. Its report: its number, and then what went wrong and why, if something does. Every
/// descriptor closes when the program begins, but for the three that it gets.
fn become_program(
    kind: u8,
    descriptors: Vec<OwnedFd>,
    confinement: &Confinement,
    environment: &BTreeMap<String, String>,
) -> i32 {
    let mut descriptors = descriptors.into_iter();
    let Some(mut report) = descriptors.next().map(File::from) else { return 1 };
    let own = rustix::process::getpid().as_raw_nonzero().get();
    if say(&mut report, &[own]).is_err() {
        return 1;
    }
    let confined = confinement.no_more_processes().map_err(|error| (NO_PROCESS, error));
    let (what, error) = match confined.and_then(|()| execute(kind, descriptors, environment)) {
        Ok(never) => match never {},
        Err(failed) => failed,
    };
    drop(say(&mut report, &[what, error.raw_os_error().unwrap_or(libc::EINVAL)]));
    1
}

fn execute(
    kind: u8,
    mut descriptors: impl Iterator<Item = OwnedFd>,
    environment: &BTreeMap<String, String>,
) -> Result<std::convert::Infallible, (i32, io::Error)> {
    let odd = |_| (NO_PROGRAM, io::ErrorKind::InvalidData.into());
    let words = descriptors.next().ok_or(()).map_err(odd)?;
    let program: Program = wire::read_memory(words).map_err(|_| ()).map_err(odd)?;
    let [name, arguments @ ..] = &program.words[..] else { return Err(odd(())) };
    rustix::process::setsid().map_err(|error| (NO_TERMINAL, error.into()))?;
    // Whatever it starts, whoever watches it gets a turn: where no cgroup counts processes, that is what a fork bomb is ended by.
    rustix::process::nice(19).map_err(|error| (NO_PROGRAM, error.into()))?;
    // In the last tier the first process ends what is left; should it be ended itself, then at least these end with it.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| (NO_PROGRAM, error.into()))?;
    let mut command = Command::new(name);
    command.args(arguments).env_clear().env("TERM", "dumb");
    if kind & WITH_TERMINAL == 0 {
        let stdin = if kind & WITH_STDIN == 0 { None } else { descriptors.next() };
        command.stdin(stdin.map_or_else(Stdio::null, Stdio::from));
        let (Some(stdout), Some(stderr)) = (descriptors.next(), descriptors.next()) else { return Err(odd(())) };
        command.stdout(stdout).stderr(stderr);
    } else {
        let terminal = descriptors.next().ok_or(()).map_err(odd)?;
        rustix::process::ioctl_tiocsctty(&terminal).map_err(|error| (NO_TERMINAL, error.into()))?;
        let copy = || terminal.try_clone().map_err(|error| (NO_TERMINAL, error));
        command.stdin(copy()?).stdout(copy()?).stderr(copy()?).env("TERM", "xterm-256color");
    }
    command.envs(environment).env("PWD", &program.directory).envs(&program.environment);
    std::env::set_current_dir(&program.directory).map_err(|error| (NO_DIRECTORY, error))?;
    Err((NO_PROGRAM, command.exec()))
}

/// How a held connection is answered, with where it leads.
pub(super) struct Held {
    pub calls: OwnedFd,
    pub proxy: egress::Proxy,
}
