//! Processes that do what a test says, and the streams that tell of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nightcrew::base::base64::base64;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::State;
use crate::fakes::model::http::write_chunk;

/// What was started, for a test to decide what it does.
#[derive(Clone, Debug)]
pub struct Run {
    pub sandbox: String,
    pub pid: u32,
    /// The last argument: of a shell, its script.
    pub command: String,
    pub start: Value,
    /// The sandbox's, as they were when it began.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// One thing that a process does.
#[derive(Clone, Debug)]
pub enum Act {
    Out(Vec<u8>),
    Err(Vec<u8>),
    /// Writes a file of its sandbox.
    Write(String, Vec<u8>),
    Wait(Duration),
    Keepalive,
    /// Repeats its input until that is closed.
    Echo,
    /// Until it is killed.
    Hang,
    Exit(i32),
    /// Ended by a limit: `memory`.
    Limit(&'static str),
    /// Bytes into the stream, framed or not.
    Raw(Vec<u8>),
    /// The frame that ends the stream, without the end of the process.
    Finish(Value),
    /// The stream ends like a body that is over, with neither.
    Stop,
    /// The connection breaks; the process is as it was.
    Break,
    /// The sandbox is gone.
    Vanish,
    /// The same, and it kills its processes and says so before it goes.
    VanishTold,
}

impl Act {
    pub fn exit(code: i32) -> Vec<Self> {
        vec![Self::Exit(code)]
    }
    pub fn said(text: &str, code: i32) -> Vec<Self> {
        vec![Self::Out(text.as_bytes().to_vec()), Self::Exit(code)]
    }
}

#[derive(Debug, Default)]
struct Input {
    bytes: Vec<u8>,
    closed: bool,
}

#[derive(Clone, Debug)]
enum Emit {
    Bytes(Vec<u8>),
    Stop,
    Break,
}

#[derive(Debug)]
pub struct Process {
    pub pid: u32,
    pub config: Value,
    log: Mutex<Vec<Emit>>,
    /// Told whenever something changes: the log, the input.
    changed: watch::Sender<()>,
    input: Mutex<Input>,
    killed: CancellationToken,
    signal: Mutex<&'static str>,
    ended: AtomicBool,
}

fn frame(flag: u8, json: &Value) -> Vec<u8> {
    let json = json.to_string();
    let mut bytes = vec![flag];
    bytes.extend_from_slice(&(json.len() as u32).to_be_bytes());
    bytes.extend_from_slice(json.as_bytes());
    bytes
}

fn event(event: Value) -> Vec<u8> {
    frame(0, &json!({ "event": event }))
}

impl Process {
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    pub fn kill(&self, signal: &'static str) {
        *self.signal.lock().unwrap() = signal;
        self.killed.cancel();
    }

    /// `None` closes it.
    pub fn input(&self, bytes: Option<&[u8]>) {
        let mut input = self.input.lock().unwrap();
        match bytes {
            Some(bytes) => input.bytes.extend_from_slice(bytes),
            None => input.closed = true,
        }
        drop(input);
        self.changed.send_replace(());
    }

    fn emit(&self, emit: Emit) {
        self.log.lock().unwrap().push(emit);
        self.changed.send_replace(());
    }

    /// The end of the process and of its stream.
    fn end(&self, end: Value) {
        self.ended.store(true, Ordering::SeqCst);
        self.emit(Emit::Bytes(event(json!({ "end": end }))));
        self.emit(Emit::Bytes(frame(2, &json!({}))));
        self.emit(Emit::Stop);
    }

    /// Begins it on the stand-in's own runtime.
    pub fn begin(state: &Arc<State>, sandbox: &str, start: &Value, deadline: Option<Duration>) -> Option<Arc<Self>> {
        let mut cloud = state.cloud();
        let pid = 100 + cloud.number() as u32;
        let program = cloud.program.clone();
        let deadline = deadline.filter(|_| !cloud.careless);
        let found = cloud.sandboxes.get_mut(sandbox)?;
        let process = Arc::new(Self {
            pid,
            config: start["process"].clone(),
            log: Mutex::new(vec![Emit::Bytes(event(json!({"start": {"pid": pid}})))]),
            changed: watch::Sender::new(()),
            input: Mutex::default(),
            killed: CancellationToken::new(),
            signal: Mutex::new("killed"),
            ended: AtomicBool::new(false),
        });
        found.processes.push(process.clone());
        let config = &start["process"];
        let command = config["args"].as_array().and_then(|args| args.last()).unwrap_or(&config["cmd"]);
        let run = Run {
            sandbox: sandbox.to_owned(),
            pid,
            command: command.as_str().unwrap_or_default().to_owned(),
            start: start.clone(),
            files: found.files.clone(),
        };
        let gone = found.gone.clone();
        let (own, state, id) = (process.clone(), state.clone(), sandbox.to_owned());
        tokio::spawn(async move {
            let acts = tokio::task::spawn_blocking(move || program(&run)).await.unwrap_or_else(|_| Act::exit(70));
            let played = own.play(&state, &id, acts);
            let over = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = played => {}
                () = gone.cancelled() => {}
                () = own.killed.cancelled() => {
                    let status = format!("signal: {}", own.signal.lock().unwrap());
                    own.end(json!({"exitCode": -1, "exited": false, "status": status, "error": status}));
                }
                () = over => {
                    own.ended.store(true, Ordering::SeqCst);
                    let error = json!({"code": "deadline_exceeded", "message": "context deadline exceeded"});
                    own.emit(Emit::Bytes(frame(2, &json!({ "error": error }))));
                    own.emit(Emit::Stop);
                }
            }
        });
        Some(process)
    }

    async fn play(&self, state: &State, sandbox: &str, acts: Vec<Act>) {
        for act in acts {
            match act {
                Act::Out(bytes) => self.emit(Emit::Bytes(event(json!({"data": {"stdout": base64(&bytes)}})))),
                Act::Err(bytes) => self.emit(Emit::Bytes(event(json!({"data": {"stderr": base64(&bytes)}})))),
                Act::Write(path, bytes) => {
                    if let Some(sandbox) = state.cloud().sandboxes.get_mut(sandbox) {
                        sandbox.files.insert(path, bytes);
                    }
                }
                Act::Wait(time) => tokio::time::sleep(time).await,
                Act::Keepalive => self.emit(Emit::Bytes(event(json!({"keepalive": {}})))),
                Act::Echo => self.echo().await,
                Act::Hang => std::future::pending().await,
                // Protobuf's JSON leaves out what is zero.
                Act::Exit(0) => return self.end(json!({"exited": true, "status": "exit status 0"})),
                Act::Exit(code) => {
                    let status = format!("exit status {code}");
                    return self.end(json!({"exitCode": code, "exited": true, "status": status, "error": status}));
                }
                Act::Limit(limit) => {
                    let error = format!("limit: {limit}");
                    return self.end(json!({"exitCode": -1, "status": "signal: killed", "error": error}));
                }
                Act::Raw(bytes) => self.emit(Emit::Bytes(bytes)),
                Act::Finish(last) => {
                    self.ended.store(true, Ordering::SeqCst);
                    self.emit(Emit::Bytes(frame(2, &last)));
                    return self.emit(Emit::Stop);
                }
                Act::Stop => self.emit(Emit::Stop),
                Act::Break => self.emit(Emit::Break),
                Act::Vanish => {
                    state.cloud().end(sandbox);
                }
                Act::VanishTold => {
                    state.cloud().sandboxes.remove(sandbox);
                    return self.end(json!({"exitCode": -1, "status": "signal: killed", "error": "signal: killed"}));
                }
            }
        }
        std::future::pending().await
    }

    async fn echo(&self) {
        let mut changes = self.changed.subscribe();
        loop {
            let (bytes, closed) = {
                let mut input = self.input.lock().unwrap();
                (std::mem::take(&mut input.bytes), input.closed)
            };
            if !bytes.is_empty() {
                self.emit(Emit::Bytes(event(json!({"data": {"stdout": base64(&bytes)}}))));
            } else if closed || changes.changed().await.is_err() {
                return;
            }
        }
    }
}

/// A stream about one process, from one of its events on.
pub struct Follow {
    pub process: Arc<Process>,
    /// From the beginning, or from now on.
    pub whole: bool,
    pub gone: CancellationToken,
}

impl Follow {
    /// Writes it to its end; `false` where the connection is to be broken.
    pub async fn write(self, stream: &mut TcpStream) -> std::io::Result<bool> {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/connect+json\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await?;
        let mut changes = self.process.changed.subscribe();
        let mut at = 0;
        if !self.whole {
            at = self.process.log.lock().unwrap().len();
            write_chunk(stream, &event(json!({"start": {"pid": self.process.pid}}))).await?;
        }
        loop {
            changes.mark_unchanged();
            let next = self.process.log.lock().unwrap().get(at).cloned();
            at += usize::from(next.is_some());
            match next {
                Some(Emit::Bytes(bytes)) => write_chunk(stream, &bytes).await?,
                Some(Emit::Stop) => {
                    stream.write_all(b"0\r\n\r\n").await?;
                    return Ok(true);
                }
                Some(Emit::Break) => return Ok(false),
                None => {
                    let mut one = [0];
                    tokio::select! {
                        changed = changes.changed() => if changed.is_err() { return Ok(false) },
                        () = self.gone.cancelled() => return Ok(false),
                        // The client went away; the process does not mind.
                        _ = stream.peek(&mut one) => return Ok(false),
                    }
                }
            }
        }
    }
}
