//! The first process inside, or in the last tier the supervisor: finishes the confinement, starts the command, watches it, ends
//! everything and says how it ended.
//!
//! In a namespace of processes it is number 1: when it ends, the kernel ends every other. In the last tier it is a subreaper: what
//! its descendants leave behind becomes its child, so it finds and kills them all. Invariant: it is never confined by what it
//! puts on the command, and the command can neither signal, trace nor read it (the last tier's exceptions are its gaps).

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, Resource, Rlimit, Signal, WaitOptions, WaitStatus};

use super::egress::Proxy;
use super::helper::{Failure, drop_capabilities, plan, settle, tell};
use super::plan::{Mount, Plan};
use super::spec::Limits;
use super::tier::Tier;
use super::watch::{self, Survey};
use super::wire::{self, Order, Received, Stage, Stopped, Word};
use super::{egress, filter, mounts, ruleset, sys};

/// How often usage is looked at.
const LOOK: Duration = Duration::from_millis(50);
const LOOK_AT_DISK: Duration = Duration::from_millis(1000);
/// Looking may take this part of the time, so that it is rarer where it is expensive.
const SHARE: u32 = 20;
/// A directory that stays unreadable for so many looks hides something.
const UNREADABLE_LOOKS: u32 = 5;
/// How long descendants that are being killed may take to be gone.
const SWEEP: Duration = Duration::from_secs(5);
/// Codes by which the code between `fork` and `exec` says which of its parts failed; above every error number of the kernel.
const STAGE_CODES: [(Stage, i32); 5] = [
    (Stage::Limits, 20_001),
    (Stage::Ownership, 20_002),
    (Stage::Landlock, 20_003),
    (Stage::Seccomp, 20_004),
    (Stage::Egress, 20_005),
];

pub(super) fn run(socket: &OwnedFd) -> Result<(), Failure> {
    let (mut plan, Received { stdin, egress }) = plan(socket)?;
    enclose(&plan)?;
    let proxy = egress
        .map(|to| egress::open(to, !plan.tier.own_file_system()))
        .transpose()
        .map_err(|e| Failure::new(Stage::Egress, "the proxy's socket", e))?;
    plan.environment.extend(proxy.map(egress::variables).unwrap_or_default());
    let started = Instant::now();
    let (command, held) = start(&plan, stdin, proxy)?;
    tell(socket, &Word::Started).map_err(|e| Failure::new(Stage::Protocol, "the socket", e))?;
    let mut watched = Watched::new(&plan, command, held, started);
    watched.until_the_end(socket).map_err(|e| Failure::new(Stage::Protocol, "watching the command", e))?;
    if plan.tier == Tier::Landlock {
        sweep(watched.supervisor).map_err(|e| Failure::new(Stage::Protocol, "ending what was left behind", e))?;
    }
    tell(socket, &watched.word()).map_err(|e| Failure::new(Stage::Protocol, "the socket", e))
}

/// Everything that concerns this process too, before the command exists.
fn enclose(plan: &Plan) -> Result<(), Failure> {
    let capabilities = |error: rustix::io::Errno| Failure::new(Stage::Capabilities, "giving them up", error);
    if plan.tier.own_file_system() {
        // The process outside is what the daemon can kill.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(capabilities)?;
    } else {
        settle()?;
        let own = rustix::process::getpid();
        rustix::process::set_child_subreaper(Some(own)).map_err(capabilities)?;
    }
    if plan.tier == Tier::Namespaces {
        mounts::build(plan)?;
        sys::raise_loopback().map_err(|error| Failure::new(Stage::Namespaces, "the loopback interface", error))?;
        rustix::system::sethostname(b"sandbox")
            .map_err(|error| Failure::new(Stage::Namespaces, "the host's name", error))?;
        drop_capabilities().map_err(capabilities)?;
    }
    // Nobody may look into this process, its descriptors and its environment.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(capabilities)?;
    if let (Some(text), Some(home)) = (&plan.cargo, plan.environment.get("CARGO_HOME")) {
        configure_cargo(Path::new(home), text).map_err(|e| Failure::new(Stage::Egress, "cargo's configuration", e))?;
    }
    if let Some(user) = plan.user {
        let ownership = |error| Failure::new(Stage::Ownership, "handing over the work directory", error);
        for root in &plan.disks {
            hand_over(root, user).map_err(ownership)?;
        }
    }
    Ok(())
}

/// Cargo takes a mirror from a file alone. An earlier command may have left links in its home: none is followed, and no file replaced.
fn configure_cargo(home: &Path, text: &str) -> io::Result<()> {
    match std::fs::create_dir(home) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ if !std::fs::symlink_metadata(home)?.is_dir() => return Ok(()),
        _ => {}
    }
    match std::fs::File::create_new(home.join("config.toml")) {
        Ok(mut file) => file.write_all(text.as_bytes()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes `user` the owner of everything below `root`. Files with several names stay as they are: another name may be in a
/// repository that the command has no business with.
fn hand_over(root: &Path, user: u32) -> io::Result<()> {
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let found = std::fs::symlink_metadata(&path)?;
        if found.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                open.push(entry?.path());
            }
        } else if found.nlink() > 1 {
            continue;
        }
        if found.uid() != user {
            std::os::unix::fs::lchown(&path, Some(user), Some(user))?;
        }
    }
    Ok(())
}

/// Starts the command with everything on it that confines it.
fn start(plan: &Plan, stdin: Option<OwnedFd>, proxy: Option<Proxy>) -> Result<(Pid, Option<Held>), Failure> {
    let rules = ruleset::prepare(plan).map_err(|error| Failure::new(Stage::Landlock, "preparing it", error))?;
    let programs = filter::programs(plan.tier, plan.counted, plan.egress)
        .map_err(|error| Failure::new(Stage::Seccomp, "preparing it", error))?;
    let limits = resource_limits(&plan.limits, plan.tier, plan.user)
        .map_err(|error| Failure::new(Stage::Limits, "counting processes", error))?;
    let (user, alone) = (plan.user, !plan.tier.own_file_system());
    let mut rules = Some(rules);
    let proxy = proxy.filter(|_| alone);
    let channel =
        proxy.map(|_| UnixStream::pair()).transpose().map_err(|e| Failure::new(Stage::Egress, "a pair", e))?;
    let (ours, theirs) = channel.unzip();

    let [program, arguments @ ..] = &plan.words[..] else {
        return Err(Failure { stage: Stage::Command, message: "the command is empty".into(), errno: None });
    };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(&plan.environment).current_dir(&plan.directory);
    command.stdin(stdin.map_or_else(Stdio::null, Stdio::from));
    sys::before_exec(&mut command, move || {
        rustix::process::setsid().map_err(|_| failed_at(Stage::Limits))?;
        for (resource, most) in &limits {
            lower(*resource, *most).map_err(|_| failed_at(Stage::Limits))?;
        }
        if let Some(user) = user {
            become_user(user).map_err(|_| failed_at(Stage::Ownership))?;
        }
        let rules = rules.take().ok_or_else(|| failed_at(Stage::Landlock))?;
        ruleset::enforce(rules, alone).map_err(|_| failed_at(Stage::Landlock))?;
        programs
            .iter()
            .try_for_each(|program| seccompiler::apply_filter(program).map_err(|_| failed_at(Stage::Seccomp)))?;
        if let Some(theirs) = &theirs {
            let calls = sys::hold_connects().map_err(|_| failed_at(Stage::Egress))?;
            wire::send_descriptors(theirs, &[calls.as_fd()]).map_err(|_| failed_at(Stage::Egress))?;
        }
        Ok(())
    });
    let child = command.spawn().map_err(|error| {
        let stage = STAGE_CODES.iter().find(|(_, code)| error.raw_os_error() == Some(*code));
        match stage {
            Some((stage, _)) => {
                Failure { stage: *stage, message: "before the command was started".into(), errno: None }
            }
            None => Failure::new(Stage::Command, program, error),
        }
    })?;
    let held = ours.zip(proxy).map(|(ours, proxy)| wire::receive_descriptor(ours).map(|calls| Held { calls, proxy }));
    let held = held.transpose().map_err(|e| Failure::new(Stage::Egress, "the command's connections", e))?;
    // It is waited for together with every other child, by number.
    match Pid::from_raw(child.id().cast_signed()) {
        Some(command) => Ok((command, held)),
        None => Err(Failure { stage: Stage::Command, message: "it has no process number".into(), errno: None }),
    }
}

/// In the last tier: the command's attempts to connect, and whereto alone they lead.
struct Held {
    calls: OwnedFd,
    proxy: Proxy,
}

fn failed_at(stage: Stage) -> io::Error {
    let code = STAGE_CODES.iter().find(|(known, _)| *known == stage).map_or(0, |(_, code)| *code);
    io::Error::from_raw_os_error(code)
}

fn become_user(user: u32) -> rustix::io::Result<()> {
    let (uid, gid) = (rustix::process::Uid::from_raw(user), rustix::process::Gid::from_raw(user));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

fn resource_limits(limits: &Limits, tier: Tier, user: Option<u32>) -> io::Result<Vec<(Resource, u64)>> {
    // Counted per user and namespace of users; in the last tier without a user of its own the others count as well.
    let shared = tier == Tier::Landlock && user.is_none();
    let others = if shared { watch::tasks_of_user(rustix::process::geteuid().as_raw())? } else { 0 };
    Ok(vec![
        // A limit of 1 keeps also the kernel's pipe to a program of the host, which 0 does not. See core(5).
        (Resource::Core, 1),
        // The sum is watched; this ends one process that the watching would be late for.
        (Resource::Cpu, limits.cpu.as_secs() + 1),
        // Not RLIMIT_AS: Node, Go and Java reserve far more address space than they use.
        (Resource::Data, limits.memory_bytes),
        (Resource::Nproc, others + limits.processes),
        (Resource::Fsize, limits.file_bytes),
        (Resource::Nofile, limits.open_files),
        (Resource::Msgqueue, 1 << 20),
    ])
}

fn lower(resource: Resource, most: u64) -> rustix::io::Result<()> {
    let now = rustix::process::getrlimit(resource);
    let most = now.maximum.map_or(most, |maximum| maximum.min(most));
    rustix::process::setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
}

/// The command while it runs.
struct Watched<'a> {
    plan: &'a Plan,
    /// Toolchains that are shown within the command's own directories: they are not its doing.
    aside: Vec<PathBuf>,
    supervisor: i32,
    command: Pid,
    held: Option<Held>,
    deadline: Instant,
    status: Option<WaitStatus>,
    stopped: Option<Stopped>,
    last: Survey,
    peak: Survey,
    look_at: Instant,
    look_at_disk: Instant,
    unreadable: u32,
    incoming: Vec<u8>,
}

impl<'a> Watched<'a> {
    fn new(plan: &'a Plan, command: Pid, held: Option<Held>, started: Instant) -> Self {
        let shown = plan.mounts.iter().filter_map(|mount| match mount {
            Mount::Read { at, .. } => Some(at.clone()),
            _ => None,
        });
        Self {
            plan,
            aside: shown.filter(|at| plan.disks.iter().any(|disk| at.starts_with(disk))).collect(),
            supervisor: rustix::process::getpid().as_raw_nonzero().get(),
            command,
            held,
            deadline: started + plan.limits.wall,
            status: None,
            stopped: None,
            last: Survey::default(),
            peak: Survey::default(),
            look_at: started + LOOK,
            look_at_disk: started + LOOK_AT_DISK,
            unreadable: 0,
            incoming: Vec::new(),
        }
    }

    /// Until the command has ended or is to be ended. What else runs does not count: it is ended with it.
    fn until_the_end(&mut self, socket: &OwnedFd) -> io::Result<()> {
        let ended = rustix::process::pidfd_open(self.command, PidfdFlags::empty())?;
        while self.status.is_none() && self.stopped.is_none() {
            let now = Instant::now();
            let wake = self.deadline.min(self.look_at).min(self.look_at_disk);
            let mut polled = vec![PollFd::new(&ended, PollFlags::IN), PollFd::new(socket, PollFlags::IN)];
            polled.extend(self.held.as_ref().map(|held| PollFd::new(&held.calls, PollFlags::IN)));
            let wait = Timespec::try_from(wake.saturating_duration_since(now)).map_err(io::Error::other)?;
            match rustix::event::poll(&mut polled, Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let called = polled.get(2).map(PollFd::revents);
            if !polled[1].revents().is_empty() {
                self.listen(socket)?;
            }
            if let (Some(held), Some(called)) = (&self.held, called.filter(|called| !called.is_empty())) {
                // Nobody is left who could call; or it cannot be answered, and then nobody connects.
                if !called.contains(PollFlags::IN) || egress::lead::answer(held.calls.as_fd(), &held.proxy).is_err() {
                    self.held = None;
                }
            }
            self.reap()?;
            if self.status.is_none() && self.stopped.is_none() {
                self.look()?;
            }
        }
        // A last look, for what happened since the one before. Of a command that left nothing running only its time is left to see.
        let left = self.reap()?;
        self.look_at_usage(left)?;
        if Instant::now() > self.look_at_disk && self.stopped.is_none() {
            self.look_at_disk()?;
        }
        Ok(())
    }

    /// Collects every child that has ended; orphans of the command are children of this process. Answers whether any is left.
    fn reap(&mut self) -> io::Result<bool> {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.command => self.status = Some(status),
                Ok(Some(_)) => {}
                Ok(None) => return Ok(true),
                Err(rustix::io::Errno::CHILD) => return Ok(false),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn listen(&mut self, socket: &OwnedFd) -> io::Result<()> {
        let mut buffer = [0; 256];
        match rustix::net::recv(socket, &mut buffer[..], rustix::net::RecvFlags::DONTWAIT) {
            // The daemon is gone, or has let go of this run.
            Ok((_, 0)) => self.stopped = Some(Stopped::Caller),
            Ok((_, read)) => self.incoming.extend(buffer.iter().take(read)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => self.stopped = Some(Stopped::Caller),
        }
        while let Some(end) = self.incoming.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.incoming.drain(..=end).collect();
            match serde_json::from_slice(&line)? {
                Order::Stop => self.stopped = Some(Stopped::Caller),
                Order::Signal(number) => {
                    // The command may have ended meanwhile, and an unknown number is nobody's signal: neither is an error.
                    if let Some(signal) = Signal::from_named_raw(number) {
                        match rustix::process::kill_process(self.command, signal) {
                            Ok(()) | Err(_) => {}
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn look(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if now >= self.deadline {
            self.stopped = Some(Stopped::Wall);
        } else if now >= self.look_at {
            self.look_at_usage(true)?;
            self.look_at = next(now, LOOK);
        } else if now >= self.look_at_disk {
            self.look_at_disk()?;
            self.look_at_disk = next(now, LOOK_AT_DISK);
        }
        Ok(())
    }

    fn look_at_usage(&mut self, others: bool) -> io::Result<()> {
        let limits = &self.plan.limits;
        let mut seen = if others { watch::survey(self.supervisor)? } else { watch::survey_of_ended(self.supervisor)? };
        let unowned = if others && self.plan.tier.own_file_system() {
            watch::unowned_memory_bytes(&self.plan.memories)?
        } else {
            0
        };
        if seen.memory_bytes + unowned > limits.memory_bytes {
            seen.memory_bytes = watch::exact_memory_bytes(self.supervisor)?;
        }
        seen.memory_bytes += unowned;
        self.last = seen;
        self.peak.memory_bytes = self.peak.memory_bytes.max(seen.memory_bytes);
        self.peak.tasks = self.peak.tasks.max(seen.tasks);
        let over = [
            (seen.tasks > limits.processes, Stopped::Processes),
            (seen.memory_bytes > limits.memory_bytes, Stopped::Memory),
            (seen.cpu > limits.cpu, Stopped::Cpu),
        ];
        if self.stopped.is_none() {
            self.stopped = over.into_iter().find_map(|(over, limit)| over.then_some(limit));
        }
        Ok(())
    }

    fn look_at_disk(&mut self) -> io::Result<()> {
        let most = self.plan.limits.disk_bytes;
        let mut used = watch::disk_use(&self.plan.disks, &self.aside, most);
        used.add(watch::deleted_disk_use(self.supervisor, &self.plan.disks)?);
        self.unreadable = if used.incomplete { self.unreadable + 1 } else { 0 };
        let over = used.bytes > most || self.unreadable >= UNREADABLE_LOOKS;
        if over || watch::hardly_any_room(&self.plan.disks) {
            self.stopped = Some(Stopped::Disk);
        }
        Ok(())
    }

    fn word(&self) -> Word {
        // What is still running now is killed by the end of this process, or was by the sweep.
        let signal = self.status.map_or(Some(libc::SIGKILL), WaitStatus::terminating_signal);
        // The kernel's own way to say that a limit was met.
        let by_signal = match signal {
            Some(libc::SIGXFSZ) => Some(Stopped::FileSize),
            Some(libc::SIGXCPU) => Some(Stopped::Cpu),
            _ => None,
        };
        Word::Ended {
            exit: self.status.and_then(WaitStatus::exit_status),
            signal,
            stopped: self.stopped.or(by_signal),
            cpu_ms: u64::try_from(self.last.cpu.as_millis()).unwrap_or(u64::MAX),
            peak_memory_bytes: self.peak.memory_bytes,
            peak_processes: self.peak.tasks,
        }
    }
}

/// When to look again: after `every`, or later where looking takes long.
fn next(began: Instant, every: Duration) -> Instant {
    let now = Instant::now();
    now + every.max((now - began) * SHARE)
}

/// Kills every descendant of the supervisor, also those that are being born meanwhile, and waits until none is left.
fn sweep(supervisor: i32) -> io::Result<()> {
    let give_up = Instant::now() + SWEEP;
    loop {
        // First who has ended already: mostly that is all of them.
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::CHILD) => return Ok(()),
                Ok(None) => break,
                Err(error) => return Err(error.into()),
            }
        }
        if Instant::now() > give_up {
            return Err(io::Error::other("some processes do not end"));
        }
        for pid in watch::living(supervisor)?.into_iter().filter_map(Pid::from_raw) {
            match rustix::process::kill_process(pid, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
