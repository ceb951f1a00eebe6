//! The processes of a sandbox: each with a task that takes its output and hands it to whoever watches.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::super::Shared;
use super::super::connect::Step;
use super::super::error::RpcError;
use super::super::live::{Level, Live};
use super::NO_DEADLINE;
use super::ask::{Input, Pty, Selector, StartProcess};
use crate::base::base64::base64;
use crate::clients::e2b::wire::{
    ListedProcess, ProcessConfig, ProcessData, ProcessEnd, ProcessEvent, ProcessSelector, StartResponse,
};
use crate::isolation::{Chunk, Command, Error, Finished, Handle, Process, Room, Running, Started, Stdin, Stopped};

/// Pieces of output on their way to one watcher.
const ON_THE_WAY: usize = 16;
/// As much output as goes into one piece, if it is there already.
const MOST_AT_ONCE: usize = 64 << 10;
/// As much input as is handed over at once: a few pieces wait until the process reads.
const INPUT_AT_ONCE: usize = 64 << 10;
/// Who has not read anything for so long does not watch any more.
const PATIENCE: Duration = Duration::from_secs(600);

/// The processes of one sandbox.
#[derive(Debug, Default)]
pub(in super::super) struct Processes {
    all: Mutex<BTreeMap<u32, Arc<One>>>,
    /// The sandbox is gone.
    gone: CancellationToken,
}

/// One process.
#[derive(Debug)]
pub(super) struct One {
    pid: u32,
    tag: Option<String>,
    config: ProcessConfig,
    has_terminal: bool,
    /// Whether it can be written to. Held by who writes, so that inputs do not mix.
    reads: tokio::sync::Mutex<bool>,
    handle: Handle,
    watchers: Mutex<Watchers>,
    last: OnceLock<Last>,
}

#[derive(Debug, Default)]
struct Watchers {
    all: Vec<(u64, mpsc::Sender<Step>)>,
    next: u64,
}

/// How it ended.
#[derive(Debug)]
struct Last {
    end: Result<ProcessEnd, RpcError>,
    /// By the time that its starter had set.
    at_deadline: bool,
}

/// What a watcher gets.
pub(super) struct Watch {
    output: mpsc::Receiver<Step>,
    of: Arc<One>,
    /// This is the call that started it.
    starter: bool,
}

impl Watch {
    /// Its start, its output, its end. The end is not sent but looked up when all output was taken, so nobody waits for a slow watcher
    /// and no watcher misses it.
    pub(super) fn steps(self) -> impl Stream<Item = Step> + Send + 'static {
        let Self { mut output, of, starter } = self;
        let start = event(ProcessEvent::Start { pid: of.pid });
        let pieces = stream::poll_fn(move |context| output.poll_recv(context));
        let end = stream::once(async move { stream::iter(of.last_steps(starter)) }).flatten();
        stream::iter([start]).chain(pieces).chain(end)
    }
}

fn event(event: ProcessEvent) -> Step {
    Step::message(&StartResponse { event })
}

fn not_found(pid: u32) -> RpcError {
    RpcError::new("not_found", format!("process with pid {pid} not found"))
}

impl Processes {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<One>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its sandbox ends: every watcher is told that, and nothing more.
    pub(in super::super) fn close(&self) {
        self.gone.cancel();
    }

    pub(super) fn list(&self) -> Vec<ListedProcess> {
        let listed = |one: &Arc<One>| ListedProcess { config: one.config.clone(), pid: one.pid, tag: one.tag.clone() };
        self.lock().values().map(listed).collect()
    }

    pub(super) fn find(&self, selector: &Selector) -> Result<Arc<One>, RpcError> {
        let selector = selector.chosen()?;
        let all = self.lock();
        match &selector {
            ProcessSelector::Pid(pid) => all.get(pid).cloned().ok_or_else(|| not_found(*pid)),
            ProcessSelector::Tag(tag) => {
                let found = all.values().find(|one| one.tag.as_deref() == Some(tag)).cloned();
                found.ok_or_else(|| RpcError::new("not_found", format!("process with tag {tag} not found")))
            }
        }
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
        let config = ProcessConfig::from(config);
        // Callers from before there was a choice say nothing and may write.
        let reads = stdin.unwrap_or(true);
        let process = process(live, &config, pty, reads, deadline);
        let directory = process.directory.clone();
        let started = live.room.start(process).await;
        let Started { pid, running } = started.map_err(|error| not_started(&error, directory.as_deref()))?;
        let (sender, output) = mpsc::channel(ON_THE_WAY);
        let one = Arc::new(One {
            pid,
            tag,
            config,
            has_terminal: pty.is_some(),
            reads: tokio::sync::Mutex::new(reads || pty.is_some()),
            handle: running.handle(),
            watchers: Mutex::new(Watchers { all: vec![(0, sender)], next: 1 }),
            last: OnceLock::new(),
        });
        self.lock().insert(pid, one.clone());
        live.note(Level::Info, "process started", &[("pid", pid.to_string()), ("command", one.command_line())]);
        let watch = Watch { output, of: one.clone(), starter: true };
        let (owner, stopping) = (live.clone(), shared.scope.token().clone());
        drop(shared.scope.spawn(format!("process {pid} of sandbox {}", live.id), async move {
            let gone = || Last { end: Err(sandbox_gone(&owner.id)), at_deadline: false };
            let last = tokio::select! {
                biased;
                () = owner.processes.gone.cancelled() => gone(),
                () = stopping.cancelled() => gone(),
                // A process that always has something to say may come to its end before anybody else gets a turn.
                last = one.pump(running, deadline.is_some()) => {
                    if owner.processes.gone.is_cancelled() || stopping.is_cancelled() { gone() } else { last }
                }
            };
            owner.processes.forget(&one);
            let how = match &last.end {
                Ok(end) => end.error.as_ref().unwrap_or(&end.status).clone(),
                Err(error) => error.message.clone(),
            };
            owner.note(Level::Info, "process ended", &[("pid", pid.to_string()), ("status", how)]);
            one.over(last);
        }));
        Ok(watch)
    }
}

/// As E2B says it when a sandbox vanishes under a stream: its clients then look whether the sandbox is still there.
fn sandbox_gone(id: &str) -> RpcError {
    RpcError::new("unavailable", format!("the connection to sandbox {id} ended before the stream completed"))
}

fn process(live: &Live, config: &ProcessConfig, pty: Option<Pty>, reads: bool, deadline: Option<Duration>) -> Process {
    let words = std::iter::once(&config.cmd).chain(&config.args).cloned().collect();
    let mut process = Process::new(Command::Argv(words));
    let asked = config.cwd.as_deref().filter(|cwd| !cwd.is_empty()).map(directory);
    process.directory = asked.or_else(|| live.template.directory.clone());
    process.environment = live.environment();
    process.environment.extend(config.envs.clone());
    process.stdin = if reads { Stdin::Open } else { Stdin::Nothing };
    process.terminal = pty.map(Pty::size);
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

/// Why it was not started, or nobody knows how it ended.
fn not_started(error: &Error, directory: Option<&Path>) -> RpcError {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    match (error, directory) {
        (Error::Directory { .. }, Some(cwd)) => {
            RpcError::new("invalid_argument", format!("cwd '{}' does not exist: {text}", cwd.display()))
        }
        (Error::Command { .. } | Error::Directory { .. } | Error::Spec(_) | Error::Work { .. }, _) => {
            RpcError::new("invalid_argument", text)
        }
        (Error::Lost { .. }, _) => RpcError::new("unavailable", text),
        _ => RpcError::new("internal", text),
    }
}

/// The output that a piece is of, and the piece.
fn apart(chunk: Chunk) -> (bool, Vec<u8>) {
    match chunk {
        Chunk::Stdout(bytes) => (true, bytes),
        Chunk::Stderr(bytes) => (false, bytes),
    }
}

impl One {
    fn watchers(&self) -> MutexGuard<'_, Watchers> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn command_line(&self) -> String {
        let words = std::iter::once(&self.config.cmd).chain(&self.config.args);
        words.map(String::as_str).collect::<Vec<_>>().join(" ")
    }

    /// What comes from now on.
    pub(super) fn watch(self: &Arc<Self>) -> Result<Watch, RpcError> {
        let (sender, output) = mpsc::channel(ON_THE_WAY);
        let mut watchers = self.watchers();
        // It is set under this lock.
        if self.last.get().is_some() {
            return Err(not_found(self.pid));
        }
        let id = watchers.next;
        watchers.next += 1;
        watchers.all.push((id, sender));
        Ok(Watch { output, of: self.clone(), starter: false })
    }

    /// Writes all of it, in turn with others who write. Whoever goes away meanwhile has written a part.
    pub(super) async fn write(&self, input: Input) -> Result<(), RpcError> {
        let (bytes, to_terminal) = match input {
            Input::Stdin(bytes) => (bytes, false),
            Input::Pty(bytes) => (bytes, true),
        };
        if to_terminal != self.has_terminal {
            let message = if self.has_terminal { "the process has a terminal" } else { "the process has no terminal" };
            return Err(RpcError::new("failed_precondition", message));
        }
        let reads = self.reads.lock().await;
        if !*reads {
            return Err(RpcError::new("failed_precondition", "stdin not enabled or closed"));
        }
        for piece in bytes.chunks(INPUT_AT_ONCE) {
            self.told(self.handle.write_stdin(piece.to_vec()).await)?;
        }
        Ok(())
    }

    pub(super) async fn close_stdin(&self) -> Result<(), RpcError> {
        if self.has_terminal {
            let message = "a terminal is closed by sending Ctrl+D (0x04) to it";
            return Err(RpcError::new("failed_precondition", message));
        }
        let mut reads = self.reads.lock().await;
        if std::mem::take(&mut *reads) {
            self.told(self.handle.close_stdin().await)?;
        }
        Ok(())
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
        self.told(self.handle.resize(pty.size()).await)
    }

    fn told(&self, heard: bool) -> Result<(), RpcError> {
        heard.then_some(()).ok_or_else(|| not_found(self.pid))
    }

    /// Hands out its output until it ends.
    async fn pump(&self, mut running: Running, deadline: bool) -> Last {
        let mut waiting = None;
        loop {
            let chunk = match waiting.take() {
                Some(chunk) => Some(chunk),
                None => running.next().await,
            };
            let Some(chunk) = chunk else { break };
            if self.watchers().all.is_empty() {
                continue;
            }
            let (out, mut bytes) = apart(chunk);
            // What has come meanwhile goes with it.
            while bytes.len() < MOST_AT_ONCE
                && let Some(Some(chunk)) = running.next().now_or_never()
            {
                if matches!(chunk, Chunk::Stdout(_)) != out {
                    waiting = Some(chunk);
                    break;
                }
                bytes.extend(apart(chunk).1);
            }
            let data = match out {
                true if self.has_terminal => ProcessData::Pty(base64(&bytes)),
                true => ProcessData::Stdout(base64(&bytes)),
                false => ProcessData::Stderr(base64(&bytes)),
            };
            self.tell(&event(ProcessEvent::Data(data))).await;
        }
        match running.wait().await {
            Ok(finished) => Last { end: Ok(end(&finished)), at_deadline: deadline && finished.timed_out() },
            Err(error) => Last { end: Err(not_started(&error, None)), at_deadline: false },
        }
    }

    /// To everybody who watches. Waits for the slow ones, so the process does as well.
    async fn tell(&self, step: &Step) {
        let watchers = self.watchers().all.clone();
        let mut lost = Vec::new();
        for (id, watcher) in &watchers {
            // Who has not taken it in time has lost a piece: the stream breaks off rather than hiding that.
            if watcher.send_timeout(step.clone(), PATIENCE).await.is_err() {
                lost.push(*id);
            }
        }
        if !lost.is_empty() {
            self.watchers().all.retain(|(id, _)| !lost.contains(id));
        }
    }

    /// Nothing more comes.
    fn over(&self, last: Last) {
        let mut watchers = self.watchers();
        // One task says so, once.
        drop(self.last.set(last));
        watchers.all.clear();
    }

    /// What a watcher gets who has taken everything else.
    fn last_steps(&self, starter: bool) -> Vec<Step> {
        match self.last.get() {
            Some(last) if last.at_deadline && starter => {
                vec![Step::End(Some(RpcError::new("deadline_exceeded", "the process was ended at its deadline")))]
            }
            Some(Last { end: Ok(end), .. }) => vec![event(ProcessEvent::End(end.clone())), Step::End(None)],
            Some(Last { end: Err(error), .. }) => vec![Step::End(Some(error.clone()))],
            None => {
                let message = "output was lost: the caller did not read for too long";
                vec![Step::End(Some(RpcError::new("resource_exhausted", message)))]
            }
        }
    }
}

/// As Go tells of a process that has ended.
fn end(finished: &Finished) -> ProcessEnd {
    let limit = finished.stopped.and_then(limit).map(|limit| format!("limit: {limit}"));
    match (finished.exit, finished.signal) {
        (Some(code), _) => {
            let status = format!("exit status {code}");
            let error = limit.or_else(|| (code != 0).then(|| status.clone()));
            ProcessEnd { exit_code: code, exited: true, status, error }
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
