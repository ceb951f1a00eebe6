//! The daemon's side of one run: starts the helper, streams what comes out, keeps the caps, and ends it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::cgroup::Group;
use super::egress::Egress;
use super::helper;
use super::output::{Capture, Captured};
use super::plan::Plan;
use super::spec::Stdin;
use super::tier::Tier;
use super::wire::{self, Order, Stage, Stopped, Word};
use super::{Error, Helper};
use crate::base::scope::Answer;

/// How long the helper may take to end everything before it is killed itself.
const GRACE: Duration = Duration::from_secs(8);
/// How long an output may stay open after everything has ended.
const DRAIN: Duration = Duration::from_secs(2);

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The exit code, unless a signal ended it.
    pub exit: Option<i32>,
    pub signal: Option<i32>,
    /// The limit that ended it, or the caller.
    pub stopped: Option<Stopped>,
    pub stdout: Captured,
    pub stderr: Captured,
    /// From the order to the end of everything, set-up included.
    pub duration: Duration,
    /// Processor time of all processes together, to 10 ms.
    pub cpu: Duration,
    /// The most that was seen; what is shorter than a twentieth of a second may be missed.
    pub peak_memory_bytes: u64,
    pub peak_processes: u64,
    pub tier: Tier,
    /// What it wanted to reach and was not allowed to, as `host:port (why)`: some tens at most, each once.
    pub refused: Vec<String>,
}

impl Finished {
    /// It ended by itself, with exit code 0.
    pub fn succeeded(&self) -> bool {
        self.exit == Some(0) && self.stopped.is_none()
    }

    pub fn timed_out(&self) -> bool {
        self.stopped == Some(Stopped::Wall)
    }
}

/// A piece of output as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
}

/// A command at work. Dropping it ends the command and everything that it has started.
#[derive(Debug)]
pub struct Running {
    chunks: mpsc::Receiver<Chunk>,
    handle: Handle,
    answer: Answer<Result<Finished, Error>>,
    _ends_when_dropped: DropGuard,
}

impl Running {
    /// The next piece of output; `None` after the last. Who does not ask slows the command down. Cancel safe.
    pub async fn next(&mut self) -> Option<Chunk> {
        self.chunks.recv().await
    }

    /// For those who want to stop it or to write to it while somebody else waits.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits for the end. Output that was not asked for is in the answer, within the caps. Dropping the future ends the command.
    pub async fn wait(self) -> Result<Finished, Error> {
        let Self { chunks, answer, _ends_when_dropped, .. } = self;
        drop(chunks);
        answer.await.unwrap_or(Err(Error::Lost { what: "its task was ended".into() }))
    }
}

/// What can be done to a running command. Cheap to clone; does not keep the command alive.
#[derive(Clone, Debug)]
pub struct Handle {
    stop: CancellationToken,
    input: mpsc::Sender<Input>,
}

#[derive(Debug)]
enum Input {
    Signal(i32),
    Bytes(Vec<u8>),
    Close,
}

impl Handle {
    /// Ends the command and everything that it has started.
    pub fn kill(&self) {
        self.stop.cancel();
    }

    /// Sends a signal to the command itself (not to what it has started). False if it has ended.
    pub async fn signal(&self, number: i32) -> bool {
        self.input.send(Input::Signal(number)).await.is_ok()
    }

    /// Writes to the command's standard input, where the spec says [`Stdin::Open`]. False if it has ended.
    pub async fn write_stdin(&self, bytes: Vec<u8>) -> bool {
        self.input.send(Input::Bytes(bytes)).await.is_ok()
    }

    /// Ends the command's standard input. False if it has ended.
    pub async fn close_stdin(&self) -> bool {
        self.input.send(Input::Close).await.is_ok()
    }
}

/// Everything that one run needs.
pub(super) struct Job {
    pub plan: Plan,
    pub stdin: Stdin,
    pub helper: Helper,
    pub group: Option<Group>,
    pub egress: Option<Egress>,
    /// Removed at the end.
    pub directory: PathBuf,
}

/// The two ends of a run that is about to be started: what the caller holds, and what the task holds.
pub(super) fn ends(scope_token: &CancellationToken) -> (Handle, Reins, mpsc::Receiver<Chunk>) {
    let (chunks, receiver) = mpsc::channel(16);
    let (input, inputs) = mpsc::channel(16);
    let stop = scope_token.child_token();
    (Handle { stop: stop.clone(), input }, Reins { stop, inputs, chunks: Some(chunks) }, receiver)
}

/// The task's end.
pub(super) struct Reins {
    stop: CancellationToken,
    inputs: mpsc::Receiver<Input>,
    chunks: Option<mpsc::Sender<Chunk>>,
}

impl Running {
    pub(super) fn new(handle: Handle, chunks: mpsc::Receiver<Chunk>, answer: Answer<Result<Finished, Error>>) -> Self {
        let guard = handle.stop.clone().drop_guard();
        Self { chunks, handle, answer, _ends_when_dropped: guard }
    }
}

/// The daemon's ends of what it shares with the helper.
struct Ends {
    socket: tokio::net::UnixStream,
    stdin: Option<pipe::Sender>,
    /// Where the socket comes from on which the proxy is to listen.
    egress: Option<OwnedFd>,
}

impl Job {
    /// Runs to the end, whatever happens. Not cancel safe: dropped, it kills the helper but leaves its directory.
    pub(super) async fn run(self, reins: Reins) -> Result<Finished, Error> {
        let directory = self.directory.clone();
        let answer = self.confined(reins).await;
        // A command may have made it unremovable; the next start tries again.
        if let Err(error) = tokio::fs::remove_dir_all(&directory).await
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, directory = %directory.display(), "a sandbox's directory stays behind");
        }
        answer
    }

    async fn confined(self, reins: Reins) -> Result<Finished, Error> {
        let begun = Instant::now();
        let (tier, limits) = (self.plan.tier, self.plan.limits.clone());
        let (mut child, Ends { socket, stdin, egress }) = self.start().map_err(|source| Error::Start { source })?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Error::Lost { what: "the helper has no outputs".into() });
        };
        let Reins { stop, mut inputs, chunks } = reins;
        let drained = CancellationToken::new();
        let outputs = async {
            tokio::join!(
                read(stdout, limits.output_bytes, chunks.clone(), Chunk::Stdout, &drained),
                read(stderr, limits.output_bytes, chunks.clone(), Chunk::Stderr, &drained),
            )
        };
        let outputs = std::pin::pin!(outputs);
        let conversation = Conversation {
            child: &mut child,
            group: self.group.as_ref(),
            overdue: tokio::time::Instant::now() + limits.wall + GRACE,
        };
        let (orders, order) = mpsc::channel(4);
        let talk = std::pin::pin!(conversation.hold(socket, order, &stop));
        let mut feed = std::pin::pin!(feed(stdin, self.stdin.clone(), &mut inputs, orders));
        let mut outputs = outputs;
        let mut talk = talk;
        let mut served = std::pin::pin!(async {
            match (&self.egress, egress) {
                (Some(served), Some(from)) => served.serve(from, !tier.own_file_system()).await,
                _ => Ok(()),
            }
        });
        let (mut kept, mut fed, mut closed) = (None, false, false);
        let told = loop {
            tokio::select! {
                outcome = &mut talk => break outcome,
                both = &mut outputs, if kept.is_none() => kept = Some(both),
                () = &mut feed, if !fed => fed = true,
                ended = &mut served, if !closed => {
                    closed = true;
                    if let Err(error) = ended {
                        tracing::warn!(%error, "a sandbox has no proxy to the network");
                    }
                }
            }
        };
        let (stdout, stderr) = match kept {
            Some(both) => both,
            None => tokio::select! {
                both = &mut outputs => both,
                () = tokio::time::sleep(DRAIN) => {
                    drained.cancel();
                    outputs.await
                }
            },
        };
        let out_of_memory = self.group.as_ref().is_some_and(Group::ran_out_of_memory);
        let mut finished = told.finish(tier, begun.elapsed(), stdout, stderr, out_of_memory)?;
        finished.refused = self.egress.as_ref().map(Egress::refused).unwrap_or_default();
        Ok(finished)
    }

    /// Starts the helper and opens the conversation with it.
    fn start(&self) -> io::Result<(tokio::process::Child, Ends)> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        let outer = self.plan.tier.own_file_system();
        let mut command = tokio::process::Command::new(self.helper.program());
        command.arg(helper::WORD).arg(if outer { "outer" } else { "init" }).env_clear().current_dir("/");
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let child = command.spawn()?;
        // Before the helper gets its plan it starts nothing, so nothing can be missing from the group.
        if let (Some(group), Some(pid)) = (&self.group, child.id()) {
            group.add(pid)?;
        }
        let plan = wire::plan_file(&self.plan)?;
        if outer {
            wire::send_descriptors(&ours, &[plan.as_fd()])?;
        }
        let input = match &self.stdin {
            Stdin::Nothing => None,
            Stdin::Bytes(_) | Stdin::Open => Some(io::pipe()?),
        };
        let proxy = self.egress.as_ref().map(|_| std::os::unix::net::UnixStream::pair()).transpose()?;
        let theirs =
            input.iter().map(|(reader, _)| reader.as_fd()).chain(proxy.iter().map(|(_, theirs)| theirs.as_fd()));
        let descriptors: Vec<_> = [plan.as_fd()].into_iter().chain(theirs).collect();
        wire::send_descriptors(&ours, &descriptors)?;
        ours.set_nonblocking(true)?;
        let stdin = input.map(|(_, writer)| pipe::Sender::from_owned_fd(writer.into())).transpose()?;
        let egress = proxy.map(|(ours, _)| ours.into());
        Ok((child, Ends { socket: tokio::net::UnixStream::from_std(ours)?, stdin, egress }))
    }
}

/// Writes what the command reads, and passes signals on. Ends when both can have no more.
async fn feed(
    mut writer: Option<pipe::Sender>,
    stdin: Stdin,
    inputs: &mut mpsc::Receiver<Input>,
    orders: mpsc::Sender<Order>,
) {
    if let Stdin::Bytes(bytes) = stdin
        && let Some(mut writer) = writer.take()
    {
        // A command need not read its input: a closed pipe is no error.
        drop(writer.write_all(&bytes).await);
    }
    while let Some(input) = inputs.recv().await {
        match input {
            Input::Signal(number) => {
                if orders.send(Order::Signal(number)).await.is_err() {
                    return;
                }
            }
            Input::Bytes(bytes) => {
                if let Some(open) = &mut writer
                    && open.write_all(&bytes).await.is_err()
                {
                    writer = None;
                }
            }
            Input::Close => writer = None,
        }
    }
}

/// Reads one output to its end, keeps what the cap allows and passes every piece on as long as somebody takes it.
async fn read(
    mut from: impl AsyncRead + Unpin,
    cap_bytes: u64,
    mut chunks: Option<mpsc::Sender<Chunk>>,
    chunk: fn(Vec<u8>) -> Chunk,
    drained: &CancellationToken,
) -> Captured {
    let mut capture = Capture::new(cap_bytes);
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = tokio::select! {
            // What is there is read, whatever else.
            biased;
            read = from.read(&mut buffer) => read,
            () = drained.cancelled() => break,
        };
        // An error of a pipe is as good as its end.
        let Ok(count @ 1..) = read else { break };
        let piece = buffer.get(..count).unwrap_or_default();
        capture.push(piece);
        if let Some(sender) = &chunks {
            let taken = tokio::select! {
                sent = sender.send(chunk(piece.to_vec())) => sent.is_ok(),
                () = drained.cancelled() => false,
            };
            if !taken {
                chunks = None;
            }
        }
    }
    capture.finish()
}

/// The conversation with the helper, and the means to end it by force.
struct Conversation<'a> {
    child: &'a mut tokio::process::Child,
    group: Option<&'a Group>,
    overdue: tokio::time::Instant,
}

/// What the helper has said by its end.
#[derive(Debug, Default)]
struct Told {
    started: bool,
    last: Option<Word>,
    stopped_by_us: Option<Stopped>,
    killed: bool,
}

impl Conversation<'_> {
    /// Until the helper is gone.
    async fn hold(
        mut self,
        socket: tokio::net::UnixStream,
        mut orders: mpsc::Receiver<Order>,
        stop: &CancellationToken,
    ) -> Told {
        let (reader, mut writer) = socket.into_split();
        let mut lines = BufReader::new(reader).lines();
        let mut told = Told::default();
        loop {
            tokio::select! {
                line = lines.next_line() => match line {
                    Ok(Some(line)) => match serde_json::from_str(&line) {
                        Ok(Word::Started) => told.started = true,
                        Ok(word) => told.last = Some(word),
                        Err(error) => tracing::warn!(%error, "a sandbox helper said something unknown"),
                    },
                    Ok(None) | Err(_) => break,
                },
                Some(order) = orders.recv() => order_down(&mut writer, &order).await,
                () = stop.cancelled(), if told.stopped_by_us.is_none() => {
                    told.stopped_by_us = Some(Stopped::Caller);
                    self.overdue = self.overdue.min(tokio::time::Instant::now() + GRACE);
                    order_down(&mut writer, &Order::Stop).await;
                }
                () = tokio::time::sleep_until(self.overdue), if !told.killed => {
                    // The helper keeps the time itself; here it did not.
                    told.stopped_by_us.get_or_insert(Stopped::Wall);
                    told.killed = true;
                    self.kill();
                }
            }
        }
        if tokio::time::timeout(GRACE, self.child.wait()).await.is_err() {
            told.killed = true;
            self.kill();
        }
        if let Some(group) = self.group
            && let Err(error) = group.kill()
        {
            tracing::warn!(%error, "a sandbox's cgroup could not be ended");
        }
        told
    }

    fn kill(&mut self) {
        // Either may have ended by itself a moment ago.
        drop(self.child.start_kill());
        drop(self.group.map(Group::kill));
    }
}

async fn order_down(writer: &mut tokio::net::unix::OwnedWriteHalf, order: &Order) {
    // A helper that no longer listens is ending: the reading half sees that.
    if let Ok(line) = wire::line(order) {
        drop(writer.write_all(&line).await);
    }
}

impl Told {
    fn finish(
        self,
        tier: Tier,
        duration: Duration,
        stdout: Captured,
        stderr: Captured,
        out_of_memory: bool,
    ) -> Result<Finished, Error> {
        let memory = out_of_memory.then_some(Stopped::Memory);
        let finished = |exit, signal, stopped| Finished {
            exit,
            signal,
            stopped,
            stdout: stdout.clone(),
            stderr: stderr.clone(),
            duration,
            cpu: Duration::ZERO,
            peak_memory_bytes: 0,
            peak_processes: 0,
            tier,
            refused: Vec::new(),
        };
        match self.last {
            Some(Word::Ended { exit, signal, stopped, cpu_ms, peak_memory_bytes, peak_processes }) => Ok(Finished {
                cpu: Duration::from_millis(cpu_ms),
                peak_memory_bytes,
                peak_processes,
                ..finished(exit, signal, stopped.or(memory))
            }),
            Some(Word::Failed { stage: Stage::Command, message, errno }) => Err(Error::Command { message, errno }),
            Some(Word::Failed { stage, message, errno }) => Err(Error::Setup { tier, stage, message, errno }),
            Some(Word::Started) | None => match memory.or(self.stopped_by_us) {
                Some(stopped) => Ok(finished(None, Some(libc::SIGKILL), Some(stopped))),
                None if tier == Tier::Bubblewrap && !self.started => {
                    let message = stderr.text().trim().to_owned();
                    Err(Error::Setup { tier, stage: Stage::Bubblewrap, message, errno: None })
                }
                None => Err(Error::Lost { what: format!("it ended without a word; {}", stderr.text().trim()) }),
            },
        }
    }
}
