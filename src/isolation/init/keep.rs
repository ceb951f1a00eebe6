//! Keeping a room: orders, the processes that run, their end and what they may use.
//!
//! One loop of one thread. Nothing in it waits for anybody inside, nor for the daemon.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus};

use super::super::egress::{self, Proxy};
use super::super::helper::Failure;
use super::super::plan::{Mount, Plan};
use super::super::watch::{Stat, Table};
use super::super::wire::{End, Lines, Opening, Order, Stage, Stopped, Word};
use super::super::{sys, terminal};
use super::accounts::Accounts;
use super::confine::Confinement;
use super::look::{LOOK, LOOK_AT_DISK, LOOK_WHILE_ENDING};
use super::starter::{self, Held, Starter};
use super::still::Frozen;

/// How long the starter may take for a process, before another one is tried: somebody inside may have stopped it.
const STARTING: Duration = Duration::from_secs(3);
const TRIES: u32 = 3;

/// A process that was ordered and does not run yet.
pub(super) struct Pending {
    pub(super) opening: Opening,
    kind: u8,
    /// Words, and what it gets: kept for another try.
    descriptors: Vec<OwnedFd>,
    report: File,
    said: Vec<u8>,
    asked: Instant,
    tries: u32,
}

/// A process that runs.
pub(super) struct Running {
    pub(super) pid: Pid,
    /// To be waited for.
    pub(super) ended: OwnedFd,
    /// `None`: never.
    pub(super) deadline: Option<Instant>,
    pub(super) stopped: Option<Stopped>,
    /// It is the worker for files.
    pub(super) files: bool,
}

pub(super) struct Keep<'a> {
    pub(super) plan: &'a Plan,
    pub(super) supervisor: i32,
    pub(super) confinement: Confinement,
    /// Variables of every process.
    pub(super) environment: BTreeMap<String, String>,
    pub(super) proxy: Option<Proxy>,
    pub(super) lines: Lines,
    pub(super) starter: Option<Starter>,
    pub(super) held: Vec<Held>,
    pub(super) waiting: VecDeque<(Opening, Vec<OwnedFd>)>,
    pub(super) pending: Vec<Pending>,
    pub(super) running: BTreeMap<u64, Running>,
    /// Those that ended before their report was read.
    pub(super) early: BTreeMap<i32, (WaitStatus, Stat)>,
    pub(super) accounts: Accounts,
    pub(super) last: Table,
    /// Whose processes are being ended; all, if a limit of the room was met.
    pub(super) ending: BTreeSet<u64>,
    pub(super) ending_all: bool,
    pub(super) frozen: Option<Frozen>,
    pub(super) look_at: Option<Instant>,
    pub(super) look_at_disk: Option<Instant>,
    pub(super) unreadable: u32,
    /// What lay on disk when everything was ended for it: that much is suffered, so that somebody can tidy up.
    pub(super) suffered_bytes: u64,
    /// Toolchains that are shown within the own directories: they are nobody's doing.
    pub(super) aside: Vec<PathBuf>,
    /// The end of the only process.
    pub(super) last_word: Option<Word>,
    pub(super) closed: bool,
}

impl<'a> Keep<'a> {
    pub(super) fn new(plan: &'a Plan, proxy: Option<Proxy>) -> Result<Self, Failure> {
        let shown = plan.mounts.iter().filter_map(|mount| match mount {
            Mount::Read { at, .. } => Some(at.clone()),
            _ => None,
        });
        let mut environment = plan.environment.clone();
        environment.extend(proxy.map(egress::variables).unwrap_or_default());
        let mut keep = Self {
            plan,
            supervisor: rustix::process::getpid().as_raw_nonzero().get(),
            confinement: Confinement::prepare(plan)?,
            environment,
            // Where there is a network of its own nobody leads anybody.
            proxy: proxy.filter(|_| !plan.tier.own_file_system()),
            lines: Lines::default(),
            starter: None,
            held: Vec::new(),
            waiting: VecDeque::new(),
            pending: Vec::new(),
            running: BTreeMap::new(),
            early: BTreeMap::new(),
            accounts: Accounts::default(),
            last: Table::new(),
            ending: BTreeSet::new(),
            ending_all: false,
            frozen: None,
            look_at: None,
            look_at_disk: None,
            unreadable: 0,
            suffered_bytes: 0,
            aside: shown.filter(|at| plan.disks.iter().any(|disk| at.starts_with(disk))).collect(),
            last_word: None,
            closed: false,
        };
        keep.begin_starter()?;
        Ok(keep)
    }

    /// Until it is to be closed, or its only process has ended. Answers what is to be said last.
    pub(super) fn until_the_end(&mut self, socket: &OwnedFd) -> io::Result<Option<Word>> {
        self.lines.say(&Word::Ready)?;
        while !self.closed && self.last_word.is_none() {
            if !self.lines.flush(socket) {
                break;
            }
            let wait = self.wake().map(|at| at.saturating_duration_since(Instant::now()));
            let wait = wait.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
            let (heard, called) = self.poll(socket, wait.as_ref())?;
            self.lead(&called);
            if heard {
                self.listen(socket)?;
            }
            self.read_reports()?;
            self.reap()?;
            self.start_waiting()?;
            self.look()?;
        }
        // Nobody may listen any more.
        self.lines.flush(socket);
        Ok(self.last_word.take())
    }

    fn poll(&self, socket: &OwnedFd, wait: Option<&Timespec>) -> io::Result<(bool, Vec<PollFlags>)> {
        let out = if self.lines.full() { PollFlags::OUT } else { PollFlags::empty() };
        let mut polled = vec![PollFd::new(socket, PollFlags::IN | out)];
        polled.extend(self.held.iter().map(|held| PollFd::new(&held.calls, PollFlags::IN)));
        polled.extend(self.pending.iter().map(|pending| PollFd::new(&pending.report, PollFlags::IN)));
        polled.extend(self.running.values().map(|running| PollFd::new(&running.ended, PollFlags::IN)));
        match rustix::event::poll(&mut polled, wait) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let heard = polled[0].revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
        Ok((heard, polled.iter().skip(1).take(self.held.len()).map(PollFd::revents).collect()))
    }

    fn wake(&self) -> Option<Instant> {
        let ending = (self.ending_all || !self.ending.is_empty()).then(|| Instant::now() + LOOK_WHILE_ENDING);
        let starting = self.pending.iter().map(|pending| pending.asked + STARTING).min();
        let looks =
            [self.look_at, self.look_at_disk, self.running.values().filter_map(|running| running.deadline).min()];
        // Nobody's time runs while everything stands still.
        let looks = looks.into_iter().flatten().filter(|_| self.frozen.is_none());
        looks.chain(ending).chain(starting).min()
    }

    /// Answers those that want to connect.
    fn lead(&mut self, called: &[PollFlags]) {
        let mut called = called.iter();
        self.held.retain(|held| match called.next() {
            Some(called) if !called.is_empty() => {
                // Nobody is left who could call; or it cannot be answered, and then nobody connects.
                called.contains(PollFlags::IN) && egress::lead::answer(held.calls.as_fd(), &held.proxy).is_ok()
            }
            _ => true,
        });
    }

    fn listen(&mut self, socket: &OwnedFd) -> io::Result<()> {
        // What was said before the daemon went away is not done any more.
        self.closed |= !self.lines.listen(socket);
        while !self.closed
            && let Some((order, descriptors)) = self.lines.next()?
        {
            match order {
                Order::Close => self.closed = true,
                Order::Start(opening) => self.waiting.push_back((opening, descriptors)),
                Order::Kill(id) => {
                    if let Some(running) = self.running.get_mut(&id) {
                        running.stopped.get_or_insert(Stopped::Caller);
                        self.ending.insert(id);
                    } else {
                        self.forget(id)?;
                    }
                }
                Order::Signal { id, number } => {
                    // It may have ended meanwhile, and an unknown number is nobody's signal: neither is an error.
                    if let (Some(running), Some(signal)) = (self.running.get(&id), Signal::from_named_raw(number)) {
                        match rustix::process::pidfd_send_signal(&running.ended, signal) {
                            Ok(()) | Err(_) => {}
                        }
                    }
                }
                Order::Freeze(true) => self.freeze()?,
                Order::Freeze(false) => self.thaw()?,
            }
        }
        Ok(())
    }

    /// One that is to be ended before it runs.
    fn forget(&mut self, id: u64) -> io::Result<()> {
        if let Some(at) = self.waiting.iter().position(|(opening, _)| opening.id == id) {
            self.waiting.remove(at);
            return self
                .refuse(id, Failure::new(Stage::Command, "it was ended before it began", io::ErrorKind::Interrupted));
        }
        // It begins in a moment, and ends then.
        if self.pending.iter().any(|pending| pending.opening.id == id) {
            self.ending.insert(id);
        }
        Ok(())
    }

    // --- Starting.

    fn begin_starter(&mut self) -> Result<(), Failure> {
        let (starter, calls) = Starter::begin(&self.confinement, &self.environment, self.proxy.is_some())?;
        self.starter = Some(starter);
        self.held.extend(calls.zip(self.proxy).map(|(calls, proxy)| Held { calls, proxy }));
        Ok(())
    }

    fn refuse(&mut self, id: u64, failure: Failure) -> io::Result<()> {
        self.accounts.end(id);
        let Failure { stage, message, errno } = failure;
        if self.plan.once {
            self.last_word = Some(Word::Refused { id, stage, message, errno });
            return Ok(());
        }
        self.lines.say(&Word::Refused { id, stage, message, errno })
    }

    fn start_waiting(&mut self) -> io::Result<()> {
        // What is being ended is not to be mixed up with what begins.
        while !self.ending_all
            && let Some((opening, descriptors)) = self.waiting.pop_front()
        {
            let id = opening.id;
            let begun = if self.frozen.is_some() {
                Err(Failure::new(Stage::Command, "everything stands still", io::ErrorKind::ResourceBusy))
            } else if opening.files {
                self.begin_worker(&opening, descriptors)
            } else {
                self.prepare(opening, descriptors).and_then(|pending| self.hand_over(pending))
            };
            if let Err(failure) = begun {
                self.refuse(id, failure)?;
            }
        }
        Ok(())
    }

    fn prepare(&self, opening: Opening, mut descriptors: Vec<OwnedFd>) -> Result<Pending, Failure> {
        let failed = |error: io::Error| Failure::new(Stage::Command, "its terminal", error);
        let mut kind = if opening.stdin { starter::WITH_STDIN } else { 0 };
        if let Some(size) = opening.terminal {
            kind = starter::WITH_TERMINAL;
            let out = descriptors.pop().ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
            descriptors.push(terminal::open(&out, size).map_err(failed)?);
        }
        let (report, _) = io::pipe().map_err(failed)?;
        let (report, asked) = (OwnedFd::from(report).into(), Instant::now());
        Ok(Pending { opening, kind, descriptors, report, said: Vec::new(), asked, tries: 0 })
    }

    /// Hands it to the starter, or to another one if that is gone.
    fn hand_over(&mut self, mut pending: Pending) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::new(Stage::Command, "the process that starts the others", error);
        pending.tries += 1;
        if pending.tries > TRIES {
            return Err(failed(io::ErrorKind::ConnectionAborted.into()));
        }
        if self.starter.is_none() {
            self.begin_starter()?;
        }
        let (report, theirs) = io::pipe().map_err(failed)?;
        (pending.report, pending.asked) = (OwnedFd::from(report).into(), Instant::now());
        pending.said.clear();
        let given = pending.descriptors.iter().map(AsFd::as_fd);
        let descriptors: Vec<_> = [theirs.as_fd()].into_iter().chain(given).collect();
        let sent = self.starter.as_ref().map(|starter| starter.start(pending.kind, &descriptors));
        drop(descriptors);
        drop(theirs);
        match sent {
            Some(Ok(())) => {
                self.pending.push(pending);
                Ok(())
            }
            // It was ended from inside.
            Some(Err(_)) | None => {
                self.end_starter();
                self.hand_over(pending)
            }
        }
    }

    fn end_starter(&mut self) {
        if let Some(starter) = self.starter.take() {
            starter.end();
        }
    }

    fn read_reports(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if self.pending.iter().any(|pending| now > pending.asked + STARTING && pending.said.is_empty()) {
            // With it goes its end of the reports, which says so to each of them.
            self.end_starter();
        }
        for mut pending in std::mem::take(&mut self.pending) {
            match read_report(&mut pending)? {
                Report::Open => self.pending.push(pending),
                Report::Lost => {
                    let id = pending.opening.id;
                    self.end_starter();
                    if let Err(failure) = self.hand_over(pending) {
                        self.refuse(id, failure)?;
                    }
                }
                Report::Failed(what, errno) => {
                    self.refuse(pending.opening.id, not_started(what, errno))?;
                }
                Report::Begun(pid) => self.begun(&pending.opening, pid, now)?,
            }
        }
        if self.pending.is_empty() {
            // They were nobody's report.
            for (pid, (_, stat)) in std::mem::take(&mut self.early) {
                self.accounts.ended(pid, &stat, &self.last);
            }
        }
        Ok(())
    }

    /// A program runs, or did already.
    fn begun(&mut self, opening: &Opening, pid: i32, now: Instant) -> io::Result<()> {
        let id = opening.id;
        let number = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
        self.lines.say(&Word::Started { id, pid })?;
        self.accounts.begin(id, pid, self.plan.once);
        self.look_at.get_or_insert(now + LOOK);
        self.look_at_disk.get_or_insert(now + if self.suffered_bytes > 0 { LOOK } else { LOOK_AT_DISK });
        if let Some((status, stat)) = self.early.remove(&pid) {
            return self.ended(id, pid, status, &stat, None);
        }
        let ended = rustix::process::pidfd_open(number, PidfdFlags::empty())?;
        let deadline = now.checked_add(Duration::from_millis(opening.wall_ms));
        let stopped = self.ending.contains(&id).then_some(Stopped::Caller);
        self.running.insert(id, Running { pid: number, ended, deadline, stopped, files: opening.files });
        Ok(())
    }

    /// The worker for files: a copy of this process, confined as every other, that becomes no program.
    fn begin_worker(&mut self, opening: &Opening, descriptors: Vec<OwnedFd>) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::new(Stage::Command, "the worker for files", error);
        let pid = sys::fork(false, || super::worker::run(&self.confinement, descriptors)).map_err(failed)?;
        self.begun(opening, pid, Instant::now()).map_err(failed)
    }

    // --- Ending.

    /// Collects every child that has ended; orphans are children of this process.
    pub(super) fn reap(&mut self) -> io::Result<()> {
        loop {
            let Some(pid) = sys::ended_child()?.and_then(Pid::from_raw) else { return Ok(()) };
            let number = pid.as_raw_nonzero().get();
            // Its last figures, which go with it.
            let stat = Stat::of(number);
            let found = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG)?;
            let (Some(stat), Some((_, status))) = (stat, found) else { continue };
            if self.starter.as_ref().is_some_and(|starter| starter.pid == pid) {
                self.starter = None;
                continue;
            }
            let id = self.running.iter().find(|(_, running)| running.pid == pid).map(|(id, _)| *id);
            match id {
                Some(id) => {
                    let stopped = self.running.remove(&id).and_then(|running| running.stopped);
                    self.ended(id, number, status, &stat, stopped)?;
                }
                None if self.pending.is_empty() => drop(self.accounts.ended(number, &stat, &self.last)),
                None => drop(self.early.insert(number, (status, stat))),
            }
        }
    }

    fn ended(
        &mut self,
        id: u64,
        pid: i32,
        status: WaitStatus,
        stat: &Stat,
        stopped: Option<Stopped>,
    ) -> io::Result<()> {
        self.accounts.ended(pid, stat, &self.last);
        let mut stopped = stopped;
        // A last look, for what happened since the one before.
        if self.plan.once {
            let table = self.others()?;
            stopped = stopped.or(self.take_in(table)?);
            let due = self.look_at_disk.is_some_and(|at| Instant::now() > at);
            if stopped.is_none() && due && self.too_much_on_disk() {
                stopped = Some(Stopped::Disk);
            }
        }
        let account = self.accounts.get(id);
        let signal = status.terminating_signal();
        // The kernel's own way to say that a limit was met.
        let by_signal = match signal {
            Some(libc::SIGXFSZ) => Some(Stopped::FileSize),
            Some(libc::SIGXCPU) => Some(Stopped::Cpu),
            _ => None,
        };
        let too_long = (self.accounts.cpu(id) > self.plan.limits.cpu).then_some(Stopped::Cpu);
        let end = End {
            exit: status.exit_status(),
            signal,
            stopped: stopped.or(by_signal).or(too_long),
            cpu_ms: u64::try_from(account.cpu.as_millis()).unwrap_or(u64::MAX),
            peak_memory_bytes: account.peak_memory_bytes,
            peak_processes: account.peak_tasks,
        };
        if self.plan.once {
            self.last_word = Some(Word::Ended { id, end });
            return Ok(());
        }
        self.lines.say(&Word::Ended { id, end })
    }
}

/// What the report of a process says so far.
enum Report {
    Open,
    /// It never came to be.
    Lost,
    Begun(i32),
    Failed(i32, i32),
}

fn read_report(pending: &mut Pending) -> io::Result<Report> {
    loop {
        let mut polled = [PollFd::new(&pending.report, PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(0) => return Ok(Report::Open),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let mut buffer = [0; 16];
        let read = pending.report.read(&mut buffer)?;
        if read > 0 {
            pending.said.extend(buffer.iter().take(read));
            continue;
        }
        let number = |place: usize| {
            let bytes = pending.said.get(4 * place..4 * place + 4)?;
            Some(i32::from_ne_bytes(bytes.try_into().ok()?))
        };
        return Ok(match (number(0), number(1), number(2)) {
            (Some(_), Some(what), Some(errno)) => Report::Failed(what, errno),
            (Some(pid), None, None) => Report::Begun(pid),
            _ => Report::Lost,
        });
    }
}

fn not_started(what: i32, errno: i32) -> Failure {
    let error = io::Error::from_raw_os_error(errno);
    match what {
        starter::NO_DIRECTORY => Failure::new(Stage::Directory, "the directory to start in", error),
        starter::NO_PROCESS => Failure::new(Stage::Command, "no process is left for it", error),
        starter::NO_TERMINAL => Failure::new(Stage::Command, "its terminal", error),
        _ => Failure::new(Stage::Command, "the program", error),
    }
}
