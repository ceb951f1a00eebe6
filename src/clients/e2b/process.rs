//! Processes of a sandbox: their output as it comes, their input, and their end.
//!
//! A disconnect does not end a process. So whoever drops a [`Process`] that [`Envd::start`] gave, before its end, has it killed by a
//! task of the cloud's scope, unless it was [left](Process::leave); the same holds where the starting itself is dropped half-way.

use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use tokio::time::{Instant, timeout, timeout_at};

use crate::base::base64;
use crate::clients::http::Answer;

use super::Envd;
use super::call::{Plan, Resend, Wait};
use super::cloud::encoded;
use super::envd::REQUEST_TIMEOUT;
use super::error::{Error, Plane, Refused};
use super::frames::Frames;
use super::wire::{
    CloseStdin, ConnectError, ConnectProcess, Listed, ListedProcess, MOST_MESSAGE, Nothing, ProcessEnd, ProcessInput,
    ProcessSelector, Pty, PtySize, SendInput, SendSignal, Signal, StartProcess, frame,
};

/// How often the other side is asked to send something, in seconds. As E2B's clients have it.
const KEEPALIVE_S: u64 = 50;
/// No byte for this long: the connection is dead.
const IDLE: Duration = Duration::from_secs(2 * KEEPALIVE_S + 10);
/// How much longer than its deadline a process is waited for, in which the other side ends it.
const DEADLINE_GRACE: Duration = Duration::from_secs(5);
/// For killing what was dropped.
const KILL_TIMEOUT: Duration = Duration::from_secs(20);
/// For the last frame, after the end of the process was told.
const TRAILER_TIMEOUT: Duration = Duration::from_secs(1);

/// What a process did.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    Pty(Vec<u8>),
    /// The last one.
    End(ProcessEnd),
}

/// A process, and the stream of what it does.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    envd: Envd,
    stream: Stream,
    /// When it is not waited for any longer.
    until: Option<Instant>,
    /// It is killed when this is dropped.
    guarded: bool,
    /// How it ended, where that came and was not told yet.
    end: Option<ProcessEnd>,
    ended: bool,
}

impl Envd {
    /// Starts a process. It is killed after `deadline`, and when the answer is dropped before its end.
    ///
    /// Never sent twice. Cancel safe: what was started is killed. The first answer is waited for a minute; after that there is no
    /// bound but `deadline` and the silence of the other side.
    ///
    /// Errors: `Rejected` where it cannot be started (a `cwd` that is not there); `Ambiguous` where it may run, unseen.
    pub async fn start(&self, start: &StartProcess, deadline: Option<Duration>) -> Result<Process, Error> {
        let mut start = start.clone();
        // Left out it means yes, for old clients; new ones always say it.
        start.stdin.get_or_insert(false);
        let (envd, message) = (self.clone(), encoded(&start)?);
        let opening =
            self.scope.spawn("start a process in a sandbox", async move { envd.begin(message, deadline).await });
        let lost = |_| Err(Error::Ambiguous { message: "nightcrew stopped while a process was being started".into() });
        opening.await.unwrap_or_else(lost)
    }

    async fn begin(&self, message: Vec<u8>, deadline: Option<Duration>) -> Result<Process, Error> {
        let (pid, stream) = self.stream("Start", message, deadline, Resend::Never).await?;
        let until = deadline.and_then(|deadline| Instant::now().checked_add(deadline + DEADLINE_GRACE));
        Ok(Process { pid, envd: self.clone(), stream, until, guarded: true, end: None, ended: false })
    }

    /// What a process does from now on. Dropping the answer leaves it running.
    pub async fn connect(&self, pid: u32) -> Result<Process, Error> {
        let message = encoded(&ConnectProcess { process: ProcessSelector::Pid(pid) })?;
        let (pid, stream) = self.stream("Connect", message, None, Resend::Safe).await?;
        Ok(Process { pid, envd: self.clone(), stream, until: None, guarded: false, end: None, ended: false })
    }

    async fn stream(
        &self,
        method: &str,
        message: Vec<u8>,
        deadline: Option<Duration>,
        resend: Resend,
    ) -> Result<(u32, Stream), Error> {
        if message.len() > MOST_MESSAGE {
            return Err(Error::Request(format!("a command of {} bytes cannot be sent", message.len())));
        }
        let mut headers = self.rpc_headers("application/connect+json");
        headers.push(("keepalive-ping-interval".into(), KEEPALIVE_S.to_string().into()));
        if let Some(deadline) = deadline {
            headers.push(("connect-timeout-ms".into(), deadline.as_millis().max(1).to_string().into()));
        }
        let plan = Plan {
            plane: Plane::Sandbox,
            resend,
            method: Method::POST,
            url: self.url(&["process.Process", method])?,
            headers,
            auth: self.auth(),
            body: frame(0, &message).into(),
            wait: Wait::Stream { head: REQUEST_TIMEOUT, idle: IDLE },
            cap_bytes: usize::MAX,
        };
        let answer = match self.caller.opened(plan).await {
            Ok(answer) => answer,
            Err(error) => return Err(self.explain(error).await),
        };
        let mut stream = Stream { answer, frames: Frames::default() };
        let once = resend == Resend::Never;
        let message = match timeout(REQUEST_TIMEOUT, stream.next(once)).await {
            Ok(Ok(message)) => message,
            Ok(Err(error)) => return Err(self.explain(error).await),
            Err(_) => {
                let message = "the process was not told of within a minute".to_owned();
                return Err(if once { Error::Ambiguous { message } } else { Error::Unavailable { message } });
            }
        };
        match message {
            Some(Message { start: Some(start), .. }) => Ok((start.pid, stream)),
            _ => Err(Error::Protocol { message: "a process that does not begin with its start".into() }),
        }
    }

    /// Those that run.
    pub async fn list(&self) -> Result<Vec<ListedProcess>, Error> {
        let listed: Listed = self.process("List", &Nothing {}, Resend::Safe).await?;
        Ok(listed.processes)
    }

    /// Writes to the input of a process that was started with `stdin`. Never sent twice.
    pub async fn send_input(&self, pid: u32, bytes: &[u8]) -> Result<(), Error> {
        let input = ProcessInput::Stdin(base64::base64(bytes));
        let message = SendInput { process: ProcessSelector::Pid(pid), input };
        self.process("SendInput", &message, Resend::Never).await.map(|Nothing {}| ())
    }

    /// Types into the terminal of a process that was started with `pty`. Never sent twice.
    pub async fn send_keys(&self, pid: u32, bytes: &[u8]) -> Result<(), Error> {
        let message = SendInput { process: ProcessSelector::Pid(pid), input: ProcessInput::Pty(base64::base64(bytes)) };
        self.process("SendInput", &message, Resend::Never).await.map(|Nothing {}| ())
    }

    /// Tells the terminal of a process its new size.
    pub async fn resize(&self, pid: u32, size: PtySize) -> Result<(), Error> {
        #[derive(serde::Serialize)]
        struct Update {
            process: ProcessSelector,
            pty: Pty,
        }
        let message = Update { process: ProcessSelector::Pid(pid), pty: Pty { size } };
        self.process("Update", &message, Resend::Safe).await.map(|Nothing {}| ())
    }

    /// Nothing more comes for the process to read.
    pub async fn close_stdin(&self, pid: u32) -> Result<(), Error> {
        let message = CloseStdin { process: ProcessSelector::Pid(pid) };
        self.process("CloseStdin", &message, Resend::Asked).await.map(|Nothing {}| ())
    }

    /// `false`: there is no such process.
    pub async fn signal(&self, pid: u32, signal: Signal) -> Result<bool, Error> {
        let message = SendSignal { process: ProcessSelector::Pid(pid), signal };
        match self.process("SendSignal", &message, Resend::Safe).await {
            Ok(Nothing {}) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn process<T: serde::de::DeserializeOwned>(
        &self,
        method: &str,
        message: &impl serde::Serialize,
        resend: Resend,
    ) -> Result<T, Error> {
        self.rpc("process.Process", method, message, resend).await
    }
}

impl Process {
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The next thing it does; `None` after its end. Cancel safe.
    ///
    /// Errors: `Deadline` where its time was over; `Gone` where the sandbox ended under it; `Unreachable` where the connection broke
    /// and the process may go on ([`Envd::connect`] follows it again, without what was said in between).
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        if self.ended {
            // Read to its end, a connection can be used again.
            drop(timeout(TRAILER_TIMEOUT, self.stream.next(false)).await);
            return Ok(None);
        }
        if self.end.is_some() {
            return self.told().await.map(Some);
        }
        loop {
            let read = self.stream.next(false);
            let message = match self.until {
                None => read.await,
                Some(until) => timeout_at(until, read).await.unwrap_or_else(|_| {
                    Err(Error::Deadline { message: "the process was not ended by the sandbox in its time".into() })
                }),
            };
            let message = match message {
                Ok(Some(message)) => message,
                Ok(None) => return Err(self.broken("the stream ended before the process did".into()).await),
                Err(Error::Unavailable { message } | Error::Ambiguous { message } | Error::Unreachable { message }) => {
                    return Err(self.broken(message).await);
                }
                Err(error) => {
                    self.ended = error.is_gone();
                    return Err(error);
                }
            };
            if message.end.is_some() {
                self.end = message.end;
                return self.told().await.map(Some);
            }
            if let Some(event) = message.data.map(Data::event).transpose()?.flatten() {
                return Ok(Some(event));
            }
        }
    }

    /// Its end. A sandbox that is killed may kill its processes first and say so, which is no outcome of theirs.
    async fn told(&mut self) -> Result<Event, Error> {
        let killed = self.end.as_ref().is_some_and(|end| !end.exited && end.exit_code != 0);
        let gone = killed && matches!(self.envd.probe(Resend::Never).await, Ok(false));
        self.ended = true;
        let end = self.end.take().unwrap_or_default();
        if gone {
            return Err(Error::Gone { message: format!("it ended under a process ({})", end.status) });
        }
        Ok(Event::End(end))
    }

    async fn broken(&mut self, message: String) -> Error {
        let error = self.envd.explain(Error::Unreachable { message }).await;
        self.ended = error.is_gone();
        error
    }

    /// Ends it at once. `false`: it had ended.
    pub async fn kill(&self) -> Result<bool, Error> {
        self.envd.signal(self.pid, Signal::Kill).await
    }

    pub async fn send_input(&self, bytes: &[u8]) -> Result<(), Error> {
        self.envd.send_input(self.pid, bytes).await
    }

    pub async fn close_stdin(&self) -> Result<(), Error> {
        self.envd.close_stdin(self.pid).await
    }

    /// Lets it run on, unwatched.
    pub fn leave(mut self) -> u32 {
        self.guarded = false;
        self.pid
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.guarded || self.ended {
            return;
        }
        let (envd, pid) = (self.envd.clone(), self.pid);
        // The task goes on without its answer; the scope waits for it.
        drop(self.envd.scope.spawn("kill a dropped process", async move {
            match timeout(KILL_TIMEOUT, envd.signal(pid, Signal::Kill)).await {
                Ok(Ok(_) | Err(Error::Gone { .. })) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, sandbox = envd.sandbox(), pid, "a process could not be killed")
                }
                Err(_) => tracing::warn!(sandbox = envd.sandbox(), pid, "a process could not be killed in time"),
            }
        }));
    }
}

/// Messages as they come.
#[derive(Debug)]
struct Stream {
    answer: Answer,
    frames: Frames,
}

impl Stream {
    /// The next message; `None` at the end that the other side announced. Cancel safe.
    async fn next(&mut self, once: bool) -> Result<Option<Message>, Error> {
        loop {
            match self.frames.next()? {
                Some((json, true)) => {
                    let last: Last = parsed(json)?;
                    let Some(mut error) = last.error else { return Ok(None) };
                    error.message = self.answer.clean(&error.message);
                    return Err(Refused::from_stream(error).into_error(Plane::Sandbox, once));
                }
                Some((json, false)) => {
                    let message = parsed::<Enveloped>(json)?.event.unwrap_or_default();
                    if message.start.is_some() || message.data.is_some() || message.end.is_some() {
                        return Ok(Some(message));
                    }
                    // A keepalive, or something newer than this client.
                    continue;
                }
                None => {}
            }
            let more = self.answer.more(&mut self.frames.bytes).await;
            if !more.map_err(|error| Error::from_http(error, !once))? {
                let message =
                    if self.frames.torn() { "the stream broke off" } else { "the stream ended without its end" };
                let message = message.to_owned();
                return Err(if once { Error::Ambiguous { message } } else { Error::Unreachable { message } });
            }
        }
    }
}

fn parsed<T: serde::de::DeserializeOwned>(json: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(json).map_err(|error| Error::Protocol { message: error.to_string() })
}

#[derive(Deserialize)]
struct Enveloped {
    event: Option<Message>,
}

/// One of its fields is there, or one that we do not know.
#[derive(Default, Deserialize)]
struct Message {
    start: Option<Start>,
    data: Option<Data>,
    end: Option<ProcessEnd>,
}

#[derive(Deserialize)]
struct Start {
    pid: u32,
}

#[derive(Deserialize)]
struct Data {
    stdout: Option<String>,
    stderr: Option<String>,
    pty: Option<String>,
}

impl Data {
    fn event(self) -> Result<Option<Event>, Error> {
        let (text, event): (_, fn(Vec<u8>) -> Event) = match self {
            Self { stdout: Some(text), .. } => (text, Event::Stdout),
            Self { stderr: Some(text), .. } => (text, Event::Stderr),
            Self { pty: Some(text), .. } => (text, Event::Pty),
            Self { .. } => return Ok(None),
        };
        let wrong = || Error::Protocol { message: "output that is not base64".into() };
        base64::decoded(&text).map(|bytes| Some(event(bytes))).ok_or_else(wrong)
    }
}

/// What the last frame holds.
#[derive(Deserialize)]
struct Last {
    error: Option<ConnectError>,
}
