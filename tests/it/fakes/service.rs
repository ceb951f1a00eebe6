//! What the stand-ins of GitHub, Slack and Sentry have in common: the server, the log, and what goes wrong.
//!
//! A stand-in is a [`Part`]: state, and an answer to every request. The rest is here. Everything that it is asked and everything that
//! it has accepted is written to an append-only log of JSON lines, from which alone the auditor judges:
//!
//! ```json
//! {"kind": "start", "service": "github", "at_ms": 0, "secrets": ["ghp_…"]}
//! {"kind": "effect", "n": 7, "at_ms": 12, "effect": "pull_request.create", "repository": "acme/api", "number": 3, …}
//! {"kind": "request", "n": 7, "at_ms": 12, "who": "crew-bot", "method": "POST", "path": "/repos/acme/api/pulls", "query": "",
//!  "body": {…}, "status": 201, "ended": "answered", "retry_after": null, "word": null, "reset_ms": null}
//! ```
//!
//! `n` numbers requests; an effect stands before the line of the request that caused it, and has no `n` where a person did it.
//! `ended`: `answered`, `refused` (a scripted answer, nothing done), `cut` (nothing done), `lost` (done, no answer), `failed` (done,
//! and answered with an error), `slow`, `torn` (done, half an answer). `at_ms` is the stand-in's clock: hand in the test's own to have
//! its manual time. Credentials are logged as the name of who they belong to. `word` is the service's own for what it did not take;
//! `reset_ms`: when a limit that is used up begins anew. Slack's log names its channels, too: `{"kind": "channel", "id", "channel"}`.
//!
//! ```ignore
//! hub.fault("POST", "/repos/*/*/pulls", Fault::Lost);                              // the next one: done, but the connection ends
//! hub.fault_times("GET", "/user", Fault::status(429).header("retry-after", "2"), 3); // three times
//! hub.lose_effect(4);                                                               // the fifth request that changes anything is lost
//! ```
//!
//! In a pattern `*` is one part of a path and `**` all that follows. `NIGHTCREW_DUMP_LOGS=DIR` keeps the logs there.

#![allow(dead_code)] // More than each test needs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nightcrew::base::clock::{Clock, SystemClock, Timestamp};
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use super::model::http::{Received, read_request};

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub n: u64,
    pub method: String,
    /// Decoded, without its query.
    pub path: String,
    pub raw_query: String,
    pub query: Vec<(String, String)>,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    pub at: Timestamp,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Its body as JSON; `null` where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The first value of a parameter of the query.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// The parts of the path.
    pub fn parts(&self) -> Vec<&str> {
        self.path.trim_matches('/').split('/').collect()
    }
}

/// What is answered.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(status: u16, body: &Value) -> Self {
        let headers = vec![("content-type".into(), "application/json; charset=utf-8".into())];
        Self { status, headers, body: if status == 204 { Vec::new() } else { body.to_string().into_bytes() } }
    }

    pub fn none() -> Self {
        Self { status: 204, headers: Vec::new(), body: Vec::new() }
    }

    pub fn text(status: u16, text: &str) -> Self {
        Self { status, headers: vec![("content-type".into(), "text/plain".into())], body: text.as_bytes().to_vec() }
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// What goes wrong with one request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing is done, and this is the answer. `body`: in the service's own words where none is given.
    Refuse { status: u16, headers: Vec<(String, String)>, body: Option<Value> },
    /// Nothing is done, and the connection ends.
    Cut,
    /// It is done, and the connection ends without an answer.
    Lost,
    /// It is done, and answered with this status.
    Failed(u16),
    /// It is done, and answered after this long (of real time).
    Slow(Duration),
    /// It is done; the connection ends after so many bytes of the answer's body.
    Torn(usize),
}

impl Fault {
    /// Nothing is done; an error as the service words it.
    pub fn status(status: u16) -> Self {
        Self::Refuse { status, headers: Vec::new(), body: None }
    }

    /// With a header of the answer.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Self::Refuse { headers, .. } = &mut self {
            headers.push((name.into(), value.into()));
        }
        self
    }

    /// With a body of its own.
    pub fn saying(mut self, said: Value) -> Self {
        if let Self::Refuse { body, .. } = &mut self {
            *body = Some(said);
        }
        self
    }
}

/// A fault that waits for its request.
#[derive(Clone, Debug)]
struct Trap {
    method: String,
    pattern: String,
    /// So many that match pass first.
    skip: usize,
    times: usize,
    fault: Fault,
}

/// Whether a path is meant by a pattern.
pub fn matches(pattern: &str, path: &str) -> bool {
    let mut wanted = pattern.trim_matches('/').split('/');
    let mut parts = path.trim_matches('/').split('/');
    loop {
        match (wanted.next(), parts.next()) {
            (Some("**"), _) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(want), Some(part)) if want == part => {}
            _ => return false,
        }
    }
}

/// The log, and the clock that it goes by.
pub struct Log {
    pub clock: Arc<dyn Clock>,
    file: File,
    path: PathBuf,
    lines: Vec<Value>,
    /// Of the request that is under way.
    n: Option<u64>,
    effects: usize,
    requests: u64,
    _folder: Option<tempfile::TempDir>,
}

impl Log {
    fn new(service: &str, clock: Arc<dyn Clock>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{service}-{}-{number}.jsonl", std::process::id());
        let (folder, path) = match std::env::var_os("NIGHTCREW_DUMP_LOGS") {
            Some(kept) => {
                std::fs::create_dir_all(&kept).unwrap();
                (None, PathBuf::from(kept).join(name))
            }
            None => {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join(name);
                (Some(folder), path)
            }
        };
        let file = File::create(&path).unwrap();
        Self { clock, file, path, lines: Vec::new(), n: None, effects: 0, requests: 0, _folder: folder }
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn write(&mut self, line: Value) {
        writeln!(self.file, "{line}").unwrap();
        self.file.flush().unwrap();
        self.lines.push(line);
    }

    /// A fact that whoever reads the log needs.
    pub fn note(&mut self, line: Value) {
        self.write(line);
    }

    /// Something has changed, by the request under way or, where there is none, by a person.
    pub fn effect(&mut self, effect: &str, fields: Value) {
        let mut line = Map::new();
        line.insert("kind".into(), "effect".into());
        line.insert("n".into(), json!(self.n));
        line.insert("at_ms".into(), json!(self.now().as_millisecond()));
        line.insert("effect".into(), effect.into());
        if let Value::Object(fields) = fields {
            line.extend(fields);
        }
        if self.n.is_some() {
            self.effects += 1;
        }
        self.write(Value::Object(line));
    }
}

/// The state of one stand-in.
pub trait Part: Send + 'static {
    const NAME: &'static str;
    /// Does what is asked, and tells the log.
    fn answer(&mut self, request: &Request, log: &mut Log) -> Answer;
    /// An error in the service's words, for scripted ones.
    fn error(status: u16) -> Value;
    /// Who is asking, by a name that is no secret.
    fn who(&self, request: &Request) -> String;
    /// How the body looks in the log.
    fn logged(request: &Request) -> Value {
        if request.body.is_empty() {
            return Value::Null;
        }
        match serde_json::from_slice(&request.body) {
            Ok(body) => body,
            Err(_) => match std::str::from_utf8(&request.body) {
                Ok(text) => text.into(),
                Err(_) => format!("{} bytes", request.body.len()).into(),
            },
        }
    }
}

struct Inner<P> {
    part: P,
    log: Log,
    traps: Vec<Trap>,
    /// The so many-th request that has an effect from now on is lost.
    lose: Option<usize>,
    changed: usize,
}

/// The running server. It stops when dropped.
pub struct Server<P: Part> {
    address: SocketAddr,
    inner: Arc<Mutex<Inner<P>>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

fn locked<P>(inner: &Mutex<Inner<P>>) -> MutexGuard<'_, Inner<P>> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<P: Part> Server<P> {
    /// `make` gets the base address.
    pub fn start(clock: Option<Arc<dyn Clock>>, make: impl FnOnce(&str) -> P) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let log = Log::new(P::NAME, clock.unwrap_or_else(|| Arc::new(SystemClock)));
        let part = make(&format!("http://{address}"));
        let inner = Arc::new(Mutex::new(Inner { part, log, traps: Vec::new(), lose: None, changed: 0 }));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let shared = inner.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                let serve = async move {
                    let mut tasks = tokio::task::JoinSet::new();
                    while let Ok((stream, _)) = listener.accept().await {
                        // The other side may go away at any moment.
                        let inner = shared.clone();
                        tasks.spawn(async move { drop(connection(stream, inner).await) });
                        while tasks.try_join_next().is_some() {}
                    }
                };
                tokio::select! { _ = serve => {}, _ = stopped => {} }
            });
        });
        Self { address, inner, stop: Some(stop), thread: Some(thread) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Looks at its state, or changes it as a person would; the log hears of it where `change` says so.
    pub fn with<T>(&self, change: impl FnOnce(&mut P, &mut Log) -> T) -> T {
        let mut inner = locked(&self.inner);
        let Inner { part, log, .. } = &mut *inner;
        change(part, log)
    }

    /// What must never stand in a body: the stand-in's own credentials, and whatever else a test has.
    pub fn secrets(&self, secrets: &[&str]) {
        self.with(|_, log| {
            let at = log.now().as_millisecond();
            log.write(json!({"kind": "start", "service": P::NAME, "at_ms": at, "secrets": secrets}));
        });
    }

    pub fn fault(&self, method: &str, pattern: &str, fault: Fault) {
        self.fault_after(method, pattern, fault, 0, 1);
    }

    pub fn fault_times(&self, method: &str, pattern: &str, fault: Fault, times: usize) {
        self.fault_after(method, pattern, fault, 0, times);
    }

    /// The first `skip` requests that match pass. A method `*` is any.
    pub fn fault_after(&self, method: &str, pattern: &str, fault: Fault, skip: usize, times: usize) {
        let trap = Trap { method: method.into(), pattern: pattern.into(), skip, times, fault };
        locked(&self.inner).traps.push(trap);
    }

    /// What has not gone wrong yet, though it was to: how many traps still wait.
    pub fn faults_left(&self) -> usize {
        let inner = locked(&self.inner);
        inner.traps.iter().map(|trap| trap.times).sum::<usize>() + usize::from(inner.lose.is_some())
    }

    /// No fault waits any more.
    pub fn heal(&self) {
        let mut inner = locked(&self.inner);
        inner.traps.clear();
        inner.lose = None;
    }

    /// After so many more requests that change something, the next one is done and its connection ends without an answer.
    pub fn lose_effect(&self, skip: usize) {
        locked(&self.inner).lose = Some(skip);
    }

    /// How many requests have changed something.
    pub fn changed(&self) -> usize {
        locked(&self.inner).changed
    }

    pub fn log_path(&self) -> PathBuf {
        locked(&self.inner).log.path.clone()
    }

    /// All lines of the log.
    pub fn lines(&self) -> Vec<Value> {
        locked(&self.inner).log.lines.clone()
    }

    /// The requests of this method that match, in order.
    pub fn requests(&self, method: &str, pattern: &str) -> Vec<Value> {
        let meant = |line: &Value| {
            line["kind"] == "request"
                && (method == "*" || line["method"] == method)
                && line["path"].as_str().is_some_and(|path| matches(pattern, path))
        };
        self.lines().into_iter().filter(meant).collect()
    }

    /// What was accepted, of this name (`pull_request.create`), in order; by people too.
    pub fn effects(&self, name: &str) -> Vec<Value> {
        self.lines().into_iter().filter(|line| line["kind"] == "effect" && line["effect"] == name).collect()
    }
}

impl<P: Part> Drop for Server<P> {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// How a request ends.
struct End {
    answer: Option<Answer>,
    slow: Option<Duration>,
    most: Option<usize>,
}

async fn connection<P: Part>(mut stream: TcpStream, inner: Arc<Mutex<Inner<P>>>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while let Some(received) = read_request(&mut stream, &mut buffer).await? {
        let head = received.method == "HEAD";
        let end = handled(&mut locked(&inner), received);
        let Some(answer) = end.answer else { return Ok(()) };
        if let Some(pause) = end.slow {
            tokio::time::sleep(pause).await;
        }
        let most = end.most.unwrap_or(usize::MAX).min(answer.body.len());
        let written = if head { &[][..] } else { &answer.body[..most] };
        let extra: String = answer.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = if matches!(answer.status, 204 | 304) {
            String::new()
        } else {
            format!("content-length: {}\r\n", answer.body.len())
        };
        let first = format!("HTTP/1.1 {} X\r\n{length}{extra}\r\n", answer.status);
        stream.write_all(&[first.as_bytes(), written].concat()).await?;
        stream.flush().await?;
        if most < answer.body.len() {
            return Ok(());
        }
    }
    Ok(())
}

fn handled<P: Part>(inner: &mut Inner<P>, received: Received) -> End {
    let Received { method, path: target, headers, body } = received;
    let url = reqwest::Url::parse(&format!("http://host{target}")).unwrap();
    let query = url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
    inner.log.requests += 1;
    let request = Request {
        n: inner.log.requests,
        method,
        path: decoded(url.path()),
        raw_query: url.query().unwrap_or_default().to_owned(),
        query,
        headers,
        body,
        at: inner.log.now(),
    };
    let fault = sprung(&mut inner.traps, &request);
    let before = inner.log.effects;
    let mut answer = match &fault {
        Some(Fault::Cut) => None,
        Some(Fault::Refuse { status, headers, body }) => {
            let said = body.clone().unwrap_or_else(|| P::error(*status));
            let mut answer = Answer::json(*status, &said);
            answer.headers.extend(headers.iter().cloned());
            Some(answer)
        }
        _ => {
            inner.log.n = Some(request.n);
            let answer = inner.part.answer(&request, &mut inner.log);
            inner.log.n = None;
            Some(answer)
        }
    };
    let has_changed = inner.log.effects > before;
    let mut ended = match &fault {
        None => "answered",
        Some(Fault::Refuse { .. }) => "refused",
        Some(Fault::Cut) => "cut",
        Some(Fault::Lost) => "lost",
        Some(Fault::Failed(_)) => "failed",
        Some(Fault::Slow(_)) => "slow",
        Some(Fault::Torn(_)) => "torn",
    };
    if has_changed {
        inner.changed += 1;
        match inner.lose {
            Some(0) => {
                inner.lose = None;
                ended = "lost";
            }
            Some(more) => inner.lose = Some(more - 1),
            None => {}
        }
    }
    if let Some(Fault::Failed(status)) = fault {
        answer = Some(Answer::json(status, &P::error(status)));
    }
    let retry_after = answer.as_ref().and_then(|answer| {
        let found = answer.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("retry-after"));
        found.and_then(|(_, value)| value.parse::<u64>().ok())
    });
    let word = answer.as_ref().and_then(said_wrong);
    let reset_ms = answer.as_ref().and_then(exhausted_until);
    let line = json!({
        "kind": "request", "n": request.n, "at_ms": request.at.as_millisecond(), "who": inner.part.who(&request),
        "method": request.method, "path": request.path, "query": request.raw_query, "body": P::logged(&request),
        "status": answer.as_ref().map(|answer| answer.status), "ended": ended, "retry_after": retry_after,
        "word": word, "reset_ms": reset_ms,
    });
    inner.log.write(line);
    if ended == "lost" {
        answer = None;
    }
    let slow = if let Some(Fault::Slow(pause)) = fault { Some(pause) } else { None };
    let most = if let Some(Fault::Torn(most)) = fault { Some(most) } else { None };
    End { answer, slow, most }
}

/// The service's own word for what it did not take.
fn said_wrong(answer: &Answer) -> Option<Value> {
    let body: Value = serde_json::from_slice(&answer.body).ok()?;
    let wrong = answer.status >= 400 || body["ok"] == false;
    let word = ["error", "message", "detail"].iter().find_map(|key| body.get(*key).filter(|word| word.is_string()));
    word.filter(|_| wrong).cloned()
}

/// When a primary rate limit that is used up begins anew.
fn exhausted_until(answer: &Answer) -> Option<i64> {
    let number = |name: &str| -> Option<i64> {
        answer
            .headers
            .iter()
            .find(|(given, _)| given.eq_ignore_ascii_case(name))
            .and_then(|(_, value)| value.parse().ok())
    };
    (number("x-ratelimit-remaining")? <= 0).then(|| number("x-ratelimit-reset")).flatten().map(|seconds| seconds * 1000)
}

fn sprung(traps: &mut Vec<Trap>, request: &Request) -> Option<Fault> {
    let meant =
        |trap: &Trap| (trap.method == "*" || trap.method == request.method) && matches(&trap.pattern, &request.path);
    let at = traps.iter().position(meant)?;
    let trap = &mut traps[at];
    if trap.skip > 0 {
        trap.skip -= 1;
        return None;
    }
    trap.times -= 1;
    let fault = trap.fault.clone();
    if trap.times == 0 {
        traps.remove(at);
    }
    Some(fault)
}

/// A path or a form's value without its `%XX`.
pub fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (bytes[at], hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The lines of a log on disk.
pub fn read_log(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
