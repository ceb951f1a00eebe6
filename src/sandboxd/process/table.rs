//! The processes of a sandbox: each with a task that takes its output and hands it to whoever watches.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::super::Shared;
use super::super::connect::Step;
use super::super::error::RpcError;
use super::super::live::Live;
use super::NO_DEADLINE;
use super::ask::{Input, StartProcess};
use crate::base::base64::base64;
use crate::clients::e2b::wire::{
    ListedProcess, ProcessConfig, ProcessData, ProcessEnd, ProcessEvent, ProcessSelector, Pty, StartResponse,
};
use crate::isolation::{
    Chunk, Command, Error, Finished, Handle, Process, Room, Running, Size, Started, Stdin, Stopped,
};

/// Pieces of output on their way to one watcher.
const ON_THE_WAY: usize = 32;
/// Who has not read anything for so long does not watch any more.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long others wait for a slow one once the process has ended.
const LAST_PATIENCE: Duration = Duration::from_secs(60);

/// The processes of one sandbox.
#[derive(Debug, Default)]
pub(in super::super) struct Processes {
    all: Mutex<BTreeMap<u32, Arc<One>>>,
}

/// One process.
#[derive(Debug)]
pub(super) struct One {
    pid: u32,
    tag: Option<String>,
    config: ProcessConfig,
    has_terminal: bool,
    reads: bool,
    handle: Handle,
    watchers: Mutex<Watchers>,
}

#[derive(Debug, Default)]
struct Watchers {
    all: Vec<mpsc::Sender<Step>>,
    /// Nobody is told anything any more.
    ended: bool,
}

/// What a watcher gets.
pub(super) struct Watch {
    pub steps: mpsc::Receiver<Step>,
    /// When the caller stops watching.
    pub until: Option<Instant>,
}

fn event(event: ProcessEvent) -> Step {
    Step::message(&StartResponse { event })
}

impl Processes {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<One>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn list(&self) -> Vec<ListedProcess> {
        let listed = |one: &Arc<One>| ListedProcess { config: one.config.clone(), pid: one.pid, tag: one.tag.clone() };
        self.lock().values().map(listed).collect()
    }

    pub(super) fn find(&self, selector: &ProcessSelector) -> Result<Arc<One>, RpcError> {
        let all = self.lock();
        let (found, said) = match selector {
            ProcessSelector::Pid(pid) => (all.get(pid), format!("process with pid {pid} not found")),
            ProcessSelector::Tag(tag) => {
                let found = all.values().find(|one| one.tag.as_deref() == Some(tag));
                (found, format!("process with tag {tag} not found"))
            }
        };
        found.cloned().ok_or_else(|| RpcError::new("not_found", said))
    }

    /// It has ended: its number is free for another.
    fn forget(&self, one: &Arc<One>) {
        let mut all = self.lock();
        if all.get(&one.pid).is_some_and(|listed| Arc::ptr_eq(listed, one)) {
            all.remove(&one.pid);
        }
    }

    /// Starts a process and watches it. It ends at its deadline, with its sandbox, or by itself.
    pub(super) async fn start(
        &self,
        shared: &Arc<Shared>,
        live: &Arc<Live>,
        asked: StartProcess,
        deadline: Option<Duration>,
    ) -> Result<Watch, RpcError> {
        let StartProcess { process: config, pty, tag, stdin } = asked;
        // Callers from before there was a choice say nothing and may write.
        let reads = stdin.unwrap_or(true);
        let process = process(live, &config, pty, reads, deadline);
        let Started { pid, running } = live.room.start(process).await.map_err(not_started)?;
        let (sender, steps) = mpsc::channel(ON_THE_WAY);
        // There is room for it.
        drop(sender.try_send(event(ProcessEvent::Start { pid })));
        let one = Arc::new(One {
            pid,
            tag,
            config,
            has_terminal: pty.is_some(),
            reads: reads || pty.is_some(),
            handle: running.handle(),
            watchers: Mutex::new(Watchers { all: vec![sender], ended: false }),
        });
        self.lock().insert(pid, one.clone());
        let owner = live.clone();
        drop(shared.scope.spawn(format!("process {pid} of sandbox {}", live.id), async move {
            let last = one.pump(running, deadline.is_some()).await;
            owner.processes.forget(&one);
            one.finish(last).await;
        }));
        Ok(Watch { steps, until: None })
    }
}

fn process(live: &Live, config: &ProcessConfig, pty: Option<Pty>, reads: bool, deadline: Option<Duration>) -> Process {
    let words = std::iter::once(&config.cmd).chain(&config.args).cloned().collect();
    let mut process = Process::new(Command::Argv(words));
    let asked = config.cwd.as_deref().filter(|cwd| !cwd.is_empty()).map(directory);
    process.directory = asked.or_else(|| live.template.directory.clone());
    process.environment = live.environment();
    process.environment.extend(config.envs.clone());
    process.stdin = if reads { Stdin::Open } else { Stdin::Nothing };
    process.terminal = pty.map(size);
    process.wall = Some(deadline.unwrap_or(NO_DEADLINE));
    process
}

/// Where a process is to start: relative to the home.
fn directory(cwd: &str) -> PathBuf {
    let home = Path::new(Room::HOME);
    match cwd.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => home.join(rest.trim_start_matches('/')),
        _ => home.join(cwd),
    }
}

fn size(pty: Pty) -> Size {
    let characters = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
    Size { columns: characters(pty.size.cols), rows: characters(pty.size.rows) }
}

fn not_started(error: Error) -> RpcError {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    let code = match error {
        Error::Command { .. } | Error::Directory { .. } | Error::Spec(_) | Error::Work { .. } => "invalid_argument",
        Error::Lost { .. } => "unavailable",
        _ => "internal",
    };
    RpcError::new(code, text)
}

impl One {
    fn watchers(&self) -> MutexGuard<'_, Watchers> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What comes from now on.
    pub(super) fn watch(&self) -> Result<Watch, RpcError> {
        let (sender, steps) = mpsc::channel(ON_THE_WAY);
        drop(sender.try_send(event(ProcessEvent::Start { pid: self.pid })));
        let mut watchers = self.watchers();
        if watchers.ended {
            return Err(RpcError::new("not_found", format!("process with pid {} not found", self.pid)));
        }
        watchers.all.push(sender);
        Ok(Watch { steps, until: None })
    }

    pub(super) async fn write(&self, input: Input) -> Result<(), RpcError> {
        if matches!(input, Input::Pty(_)) != self.has_terminal {
            let message = if self.has_terminal { "the process has a terminal" } else { "the process has no terminal" };
            return Err(RpcError::new("failed_precondition", message));
        }
        if !self.reads {
            return Err(RpcError::new("failed_precondition", "stdin not enabled or closed"));
        }
        self.told(self.handle.write_stdin(input.bytes()?).await)
    }

    pub(super) async fn close_stdin(&self) -> Result<(), RpcError> {
        if self.has_terminal {
            let message = "a terminal is closed by sending Ctrl+D (0x04) to it";
            return Err(RpcError::new("failed_precondition", message));
        }
        self.told(self.handle.close_stdin().await)
    }

    pub(super) async fn signal(&self, number: i32) -> Result<(), RpcError> {
        if number == libc::SIGKILL {
            // With what it has started: nobody is left who could end that.
            self.handle.kill();
            return Ok(());
        }
        self.told(self.handle.signal(number).await)
    }

    pub(super) async fn resize(&self, pty: Pty) -> Result<(), RpcError> {
        if !self.has_terminal {
            return Err(RpcError::new("failed_precondition", "the process has no terminal"));
        }
        self.told(self.handle.resize(size(pty)).await)
    }

    fn told(&self, heard: bool) -> Result<(), RpcError> {
        let gone = || RpcError::new("not_found", format!("process with pid {} not found", self.pid));
        heard.then_some(()).ok_or_else(gone)
    }

    /// Hands out its output until it ends. Answers the last steps.
    async fn pump(&self, mut running: Running, deadline: bool) -> Vec<Step> {
        while let Some(chunk) = running.next().await {
            let data = match chunk {
                Chunk::Stdout(bytes) if self.has_terminal => ProcessData::Pty(base64(&bytes)),
                Chunk::Stdout(bytes) => ProcessData::Stdout(base64(&bytes)),
                Chunk::Stderr(bytes) => ProcessData::Stderr(base64(&bytes)),
            };
            self.tell(&event(ProcessEvent::Data(data)), PATIENCE).await;
        }
        match running.wait().await {
            Ok(finished) if deadline && finished.timed_out() => {
                vec![Step::End(Some(RpcError::new("deadline_exceeded", "the process was ended at its deadline")))]
            }
            Ok(finished) => vec![event(ProcessEvent::End(end(&finished))), Step::End(None)],
            Err(error) => vec![Step::End(Some(not_started(error)))],
        }
    }

    /// To everybody who watches. Waits for the slow ones.
    async fn tell(&self, step: &Step, patience: Duration) {
        let watchers = self.watchers().all.clone();
        let mut gone = false;
        for watcher in &watchers {
            gone |= watcher.send_timeout(step.clone(), patience).await.is_err();
        }
        if gone {
            // Who has not taken it in time has lost a piece: the stream breaks off rather than hiding that.
            self.watchers().all.retain(|watcher| !watcher.is_closed() && watcher.capacity() > 0);
        }
    }

    async fn finish(&self, last: Vec<Step>) {
        self.watchers().ended = true;
        for step in &last {
            self.tell(step, LAST_PATIENCE).await;
        }
        self.watchers().all.clear();
    }
}

/// As Go tells of a process that has ended.
fn end(finished: &Finished) -> ProcessEnd {
    let limit = finished.stopped.and_then(limit).map(|limit| format!("limit: {limit}"));
    match (finished.exit, finished.signal) {
        (Some(code), _) => {
            ProcessEnd { exit_code: code, exited: true, status: format!("exit status {code}"), error: limit }
        }
        (None, signal) => {
            let status =
                signal.map_or("signal: killed".to_owned(), |signal| format!("signal: {}", signal_name(signal)));
            ProcessEnd { exit_code: -1, exited: false, error: limit.or_else(|| Some(status.clone())), status }
        }
    }
}

fn limit(stopped: Stopped) -> Option<&'static str> {
    match stopped {
        Stopped::Wall => Some("wall"),
        Stopped::Cpu => Some("cpu"),
        Stopped::Memory => Some("memory"),
        Stopped::Processes => Some("processes"),
        Stopped::FileSize => Some("file_size"),
        Stopped::Disk => Some("disk"),
        Stopped::Caller => None,
    }
}

/// Go's names of Linux's signals.
fn signal_name(number: i32) -> String {
    const NAMES: [&str; 32] = [
        "",
        "hangup",
        "interrupt",
        "quit",
        "illegal instruction",
        "trace/breakpoint trap",
        "aborted",
        "bus error",
        "floating point exception",
        "killed",
        "user defined signal 1",
        "segmentation fault",
        "user defined signal 2",
        "broken pipe",
        "alarm clock",
        "terminated",
        "stack fault",
        "child exited",
        "continued",
        "stopped (signal)",
        "stopped",
        "stopped (tty input)",
        "stopped (tty output)",
        "urgent I/O condition",
        "CPU time limit exceeded",
        "file size limit exceeded",
        "virtual timer expired",
        "profiling timer expired",
        "window changed",
        "I/O possible",
        "power failure",
        "bad system call",
    ];
    let known = usize::try_from(number).ok().and_then(|number| NAMES.get(number)).filter(|name| !name.is_empty());
    known.map_or_else(|| format!("signal {number}"), |name| (*name).to_owned())
}
