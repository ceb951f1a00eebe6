//! One process of a room, seen from the daemon: its output as it comes, its input, its end.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::keeper::{Line, Starting};
use super::output::{Capture, Captured};
use super::room::Size;
use super::spec::Stdin;
use super::tier::Tier;
use super::wire::{self, End, Opening, Order, Stopped};
use super::{Error, terminal};
use crate::base::scope::{Answer, Scope};

/// How long an output may stay open after everything has ended.
const DRAIN: Duration = Duration::from_secs(2);
/// How long an output is waited for that somebody else holds who is not ended with the process.
const HELD: Duration = Duration::from_millis(100);

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
    /// From the order to the end (for a single command: of everything, set-up included).
    pub duration: Duration,
    /// Processor time of it and of what it has started, to 10 ms.
    pub cpu: Duration,
    /// The most that was seen; what is shorter than a twentieth of a second may be missed.
    pub peak_memory_bytes: u64,
    pub peak_processes: u64,
    pub tier: Tier,
    /// What the sandbox's processes wanted to reach and were not allowed to, as `host:port (why)`: some tens at most, each once.
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
    id: u64,
    line: Line,
    stop: CancellationToken,
    over: CancellationToken,
    input: mpsc::Sender<Input>,
}

#[derive(Debug)]
enum Input {
    Bytes(Vec<u8>),
    Close,
    Resize(Size),
}

impl Handle {
    /// Ends the command and what it has started, as far as that is known: its descendants and its sessions.
    pub fn kill(&self) {
        self.stop.cancel();
    }

    /// Sends a signal to the command itself (not to what it has started). False if it has ended.
    pub async fn signal(&self, number: i32) -> bool {
        !self.over.is_cancelled() && self.line.order(Order::Signal { id: self.id, number }).await
    }

    /// Writes to the command's standard input, where the spec says [`Stdin::Open`], or to its terminal. False if it has ended.
    pub async fn write_stdin(&self, bytes: Vec<u8>) -> bool {
        self.input.send(Input::Bytes(bytes)).await.is_ok()
    }

    /// Ends the command's standard input. False if it has ended.
    pub async fn close_stdin(&self) -> bool {
        self.input.send(Input::Close).await.is_ok()
    }

    /// Gives its terminal another size, if it has one. False if it has ended.
    pub async fn resize(&self, size: Size) -> bool {
        self.input.send(Input::Resize(size)).await.is_ok()
    }
}

/// What is to be started in a room.
pub(super) struct Launch {
    pub id: u64,
    /// The program or the file worker's map, in memory.
    pub words: OwnedFd,
    pub files: bool,
    pub stdin: Stdin,
    pub terminal: Option<Size>,
    pub wall: Duration,
    pub output_bytes: u64,
    /// The room ends with it, and it is over when nothing is left of the room.
    pub once: bool,
    pub tier: Tier,
}

/// The daemon's ends of what a process reads and writes.
enum Ends {
    Pipes {
        stdin: Option<pipe::Sender>,
        stdout: pipe::Receiver,
        stderr: pipe::Receiver,
    },
    /// Where the terminal comes from.
    Terminal(std::os::unix::net::UnixStream),
}

/// A process that was ordered.
pub(super) struct Launched {
    launch: Launch,
    line: Line,
    ends: Ends,
    begun: Instant,
    pub started: oneshot::Receiver<Result<u32, Error>>,
    ended: oneshot::Receiver<Result<End, Error>>,
}

impl Launch {
    /// Orders it. Answers `Lost` if the room is gone.
    pub(super) async fn order(self, line: &Line) -> Result<Launched, Error> {
        let begun = Instant::now();
        let start = |source| Error::Start { source };
        let (ends, theirs) = self.pipes().map_err(start)?;
        let opening = Opening {
            id: self.id,
            stdin: self.stdin != Stdin::Nothing,
            terminal: self.terminal,
            wall_ms: u64::try_from(self.wall.as_millis()).unwrap_or(u64::MAX),
            files: self.files,
        };
        let words = self.words.try_clone().map_err(start)?;
        let descriptors = [words].into_iter().chain(theirs).collect();
        let ((started, is_started), (ended, is_ended)) = (oneshot::channel(), oneshot::channel());
        if !line.start(Starting { opening, descriptors, started, ended }).await {
            return Err(Error::Lost { what: "it is closed".into() });
        }
        Ok(Launched { launch: self, line: line.clone(), ends, begun, started: is_started, ended: is_ended })
    }

    fn pipes(&self) -> io::Result<(Ends, Vec<OwnedFd>)> {
        if self.terminal.is_some() {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
            return Ok((Ends::Terminal(ours), vec![theirs.into()]));
        }
        let input = (self.stdin != Stdin::Nothing).then(io::pipe).transpose()?;
        let ((stdout, to_stdout), (stderr, to_stderr)) = (io::pipe()?, io::pipe()?);
        let (reader, writer) = input.unzip();
        let theirs = reader.map(OwnedFd::from).into_iter().chain([to_stdout.into(), to_stderr.into()]).collect();
        let ends = Ends::Pipes {
            stdin: writer.map(|writer| pipe::Sender::from_owned_fd(writer.into())).transpose()?,
            stdout: pipe::Receiver::from_owned_fd(stdout.into())?,
            stderr: pipe::Receiver::from_owned_fd(stderr.into())?,
        };
        Ok((ends, theirs))
    }
}

impl Launched {
    /// Begins the task that attends to it.
    pub(super) fn attend(self, scope: &Scope, name: String) -> Running {
        let (chunks, receiver) = mpsc::channel(16);
        let (input, inputs) = mpsc::channel(16);
        let (stop, over) = (self.line.stop.child_token(), CancellationToken::new());
        let handle = Handle { id: self.launch.id, line: self.line.clone(), stop: stop.clone(), over, input };
        let (task, rest) = (handle.clone(), scope.clone());
        let answer = scope.spawn(name, async move { self.run(&task, inputs, chunks, &rest).await });
        Running { chunks: receiver, handle, answer, _ends_when_dropped: stop.drop_guard() }
    }

    async fn run(
        self,
        handle: &Handle,
        mut inputs: mpsc::Receiver<Input>,
        chunks: mpsc::Sender<Chunk>,
        scope: &Scope,
    ) -> Result<Finished, Error> {
        let Self { launch, line, ends, begun, started, mut ended } = self;
        let _over = handle.over.clone().drop_guard();
        let mut killed = std::pin::pin!(kill_when(handle, &line));
        let lost = || Error::Lost { what: "its room is gone".into() };
        // Where somebody has waited for the start already there is nothing to hear any more.
        if !started.is_terminated() {
            let mut started = started;
            let answer = loop {
                tokio::select! {
                    answer = &mut started => break answer,
                    () = &mut killed => {}
                }
            };
            answer.map_err(|_| lost())??;
        }
        let (stdin, stdout, stderr, size) = match ends {
            Ends::Pipes { stdin, stdout, stderr } => (stdin, stdout, Some(stderr), None),
            Ends::Terminal(from) => {
                let terminal = receive_terminal(from).await.map_err(|source| Error::Start { source })?;
                let copy = || terminal.try_clone().map_err(|source| Error::Start { source });
                let reader = pipe::Receiver::from_owned_fd_unchecked(copy()?);
                let writer = pipe::Sender::from_owned_fd_unchecked(copy()?);
                let failed = |source| Error::Start { source };
                (Some(writer.map_err(failed)?), reader.map_err(failed)?, None, Some(terminal))
            }
        };
        let ((cut, given_up), once) = ((CancellationToken::new(), CancellationToken::new()), launch.once);
        let mut stdout = Output::new(Some(stdout), launch.output_bytes, chunks.clone(), Chunk::Stdout);
        let mut stderr = Output::new(stderr, launch.output_bytes, chunks, Chunk::Stderr);
        let end = {
            let mut outputs = std::pin::pin!(async {
                tokio::join!(stdout.read(&cut, &given_up), stderr.read(&cut, &given_up));
            });
            let mut feed = std::pin::pin!(feed(stdin, size, launch.stdin, &mut inputs));
            let (mut read, mut fed) = (false, false);
            let end = loop {
                tokio::select! {
                    end = &mut ended => break end.map_err(|_| lost())?,
                    () = &mut outputs, if !read => read = true,
                    () = &mut feed, if !fed => fed = true,
                    () = &mut killed => {}
                }
            };
            handle.over.cancel();
            let mut waited = std::pin::pin!(async {
                if once {
                    line.gone.cancelled().await;
                    tokio::time::sleep(DRAIN).await;
                    given_up.cancel();
                } else {
                    tokio::time::sleep(HELD).await;
                }
                cut.cancel();
                // What is there is handed on as long as there is a room.
                line.gone.cancelled().await;
                tokio::time::sleep(DRAIN).await;
                given_up.cancel();
                std::future::pending::<()>().await;
            });
            while !read {
                tokio::select! {
                    () = &mut outputs => read = true,
                    () = &mut waited => {}
                }
            }
            end?
        };
        if once {
            line.gone.cancelled().await;
        }
        // Somebody who goes on holds them; without a reader that would be ended by its own output.
        let held: Vec<_> = [stdout.from.take(), stderr.from.take()].into_iter().flatten().collect();
        if !held.is_empty() {
            let gone = line.gone.clone();
            drop(scope.spawn("output that nobody asks for", async move {
                let all = futures_util::future::join_all(held.into_iter().map(to_nowhere));
                tokio::select! {
                    _ = all => {}
                    () = gone.cancelled() => {}
                }
            }));
        }
        let End { exit, signal, stopped, cpu_ms, peak_memory_bytes, peak_processes } = end;
        Ok(Finished {
            exit,
            signal,
            stopped,
            stdout: stdout.capture.finish(),
            stderr: stderr.capture.finish(),
            duration: begun.elapsed(),
            cpu: Duration::from_millis(cpu_ms),
            peak_memory_bytes,
            peak_processes,
            tier: launch.tier,
            refused: line.refused(),
        })
    }
}

/// Orders the end when it is asked for, and never ends itself.
async fn kill_when(handle: &Handle, line: &Line) {
    handle.stop.cancelled().await;
    // With the room everything is ended anyway.
    if !line.stop.is_cancelled() {
        line.order(Order::Kill(handle.id)).await;
    }
    std::future::pending().await
}

async fn receive_terminal(from: std::os::unix::net::UnixStream) -> io::Result<Arc<OwnedFd>> {
    from.set_nonblocking(true)?;
    let from = tokio::net::UnixStream::from_std(from)?;
    let terminal = from.async_io(Interest::READABLE, || wire::receive_descriptor(&from)).await?;
    rustix::io::ioctl_fionbio(&terminal, true)?;
    Ok(Arc::new(terminal))
}

/// Writes what the command reads. Ends when it can have no more.
async fn feed(
    mut writer: Option<pipe::Sender>,
    size: Option<Arc<OwnedFd>>,
    stdin: Stdin,
    inputs: &mut mpsc::Receiver<Input>,
) {
    if let Stdin::Bytes(bytes) = stdin {
        if let Some(open) = &mut writer {
            // A command need not read its input: a closed pipe is no error.
            drop(open.write_all(&bytes).await);
        }
        // A terminal has no end of its input.
        writer = writer.filter(|_| size.is_some());
    }
    while let Some(input) = inputs.recv().await {
        match input {
            Input::Bytes(bytes) => {
                if let Some(open) = &mut writer
                    && open.write_all(&bytes).await.is_err()
                {
                    writer = None;
                }
            }
            Input::Close => writer = None,
            Input::Resize(to) => {
                if let Some(size) = &size {
                    // It may have ended a moment ago.
                    drop(terminal::resize(size.as_fd(), to));
                }
            }
        }
    }
}

/// One output: what is kept of it, and who gets it.
struct Output {
    /// Until its end.
    from: Option<pipe::Receiver>,
    capture: Capture,
    chunks: Option<mpsc::Sender<Chunk>>,
    chunk: fn(Vec<u8>) -> Chunk,
}

impl Output {
    fn new(
        from: Option<pipe::Receiver>,
        cap_bytes: u64,
        chunks: mpsc::Sender<Chunk>,
        chunk: fn(Vec<u8>) -> Chunk,
    ) -> Self {
        Self { from, capture: Capture::new(cap_bytes), chunks: Some(chunks), chunk }
    }

    /// Reads to the end, or after `cut` what is there, keeps what the cap allows and passes every piece on as long as somebody takes it,
    /// or until it is `given_up`.
    async fn read(&mut self, cut: &CancellationToken, given_up: &CancellationToken) {
        let mut buffer = vec![0; 16 << 10];
        let mut last = None;
        while let Some(from) = &mut self.from {
            let read = tokio::select! {
                // What is there is read, whatever else.
                biased;
                read = from.read(&mut buffer), if last.is_none() => read,
                () = cut.cancelled() => {
                    // Directly: whether something is there may not have been said yet. Somebody may go on writing for ever.
                    let until = *last.get_or_insert_with(|| Instant::now() + DRAIN);
                    match rustix::io::read(&*from, &mut buffer) {
                        Err(rustix::io::Errno::AGAIN) => break,
                        Ok(_) if Instant::now() > until => break,
                        read => read.map_err(Into::into),
                    }
                }
            };
            // An error of a pipe is as good as its end; a terminal ends with one.
            let Ok(count @ 1..) = read else {
                self.from = None;
                break;
            };
            let piece = buffer.get(..count).unwrap_or_default();
            self.capture.push(piece);
            if let Some(sender) = &self.chunks {
                let taken = tokio::select! {
                    sent = sender.send((self.chunk)(piece.to_vec())) => sent.is_ok(),
                    () = given_up.cancelled() => false,
                };
                if !taken {
                    self.chunks = None;
                }
            }
        }
        self.chunks = None;
    }
}

async fn to_nowhere(mut from: pipe::Receiver) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(1..) = from.read(&mut buffer).await {}
}
