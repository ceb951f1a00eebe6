//! A stand-in of E2B's cloud: its control plane, and the daemon of each of its sandboxes, over real HTTP on loopback.
//!
//! Written from E2B's own specification and clients, not from ours: bodies are read as plain JSON, and [`E2b::requests`] keeps every
//! one. Sandboxes, templates and files live in memory. A process does what [`E2b::program`] says: a list of [`Act`]s made from what was
//! started and the sandbox's files, so that a test may write it down or run a real command for it. Whatever can go wrong between the two
//! ends is a [`Fault`] of the next call of a kind.
//!
//! ```ignore
//! let cloud = E2b::start();
//! cloud.program(|run| if run.command.contains("test") { Act::exit(0) } else { Act::said("no", 1) });
//! cloud.fail("create", Fault::Lost);
//! // … api_url: cloud.url(), api_key: e2b::KEY …
//! assert_eq!(cloud.calls("create").len(), 2);
//! ```
//!
//! [`E2b::before`] stands before a real server instead, which does what is asked; the requests, the faults and the key are the same.

#![allow(dead_code)] // More than each test needs.

#[path = "e2b/control.rs"]
mod control;
#[path = "e2b/envd.rs"]
mod envd;
#[path = "e2b/forward.rs"]
mod forward;
#[path = "e2b/process.rs"]
mod process;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::model::http::{Received, read_request};

pub use process::{Act, Run};

/// What it lets in.
pub const KEY: &str = "e2b_0123456789abcdef0123456789abcdef01234567";

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which call it is: `create`, `Start`, …; its method and path where it is none that we know.
    pub call: String,
    pub method: String,
    /// As it came, with its query.
    pub target: String,
    /// Without its query.
    pub path: String,
    pub query: Vec<(String, String)>,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    /// The sandbox that it is about.
    pub sandbox: Option<String>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Its body; of a Connect stream the message in its one frame.
    pub fn json(&self) -> Value {
        let streams = self.header("content-type").is_some_and(|kind| kind.starts_with("application/connect+"));
        serde_json::from_slice(if streams { &self.body[5..] } else { &self.body }).unwrap_or(Value::Null)
    }

    fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }
}

/// What goes wrong with one call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing is done, and this is the answer.
    Answer { status: u16, headers: Vec<(String, String)>, content_type: &'static str, body: Vec<u8> },
    /// Nothing is done, and the connection ends.
    Cut,
    /// It is done; the connection ends without an answer.
    Lost,
    /// It is done, and answered after this long.
    Slow(Duration),
    /// It is done; the connection ends after so many bytes of the answer's body.
    Torn(usize),
    /// It is done, and answered with 200 and this.
    Garbage(&'static str),
    /// The sandbox is gone before it is looked at.
    Vanish,
    /// Of a real server's: it is done, and once so many bytes of the answer's body have come the sandbox ends, and the connection.
    VanishAfter(usize),
}

impl Fault {
    /// An error as the control plane words it.
    pub fn status(status: u16) -> Self {
        let body = json!({"code": status, "message": format!("scripted {status}")}).to_string().into_bytes();
        Self::Answer { status, headers: Vec::new(), content_type: "application/json", body }
    }

    /// A page of a proxy that knows nothing of the protocol.
    pub fn html(status: u16) -> Self {
        let body = format!("<html><head><title>{status}</title></head><body>nginx</body></html>").into_bytes();
        Self::Answer { status, headers: Vec::new(), content_type: "text/html", body }
    }

    /// What the proxy in front of the sandboxes says.
    pub fn proxy(message: &str) -> Self {
        let body = json!({"sandboxId": "x", "message": message, "code": 502}).to_string().into_bytes();
        Self::Answer { status: 502, headers: Vec::new(), content_type: "application/json", body }
    }

    pub fn text(status: u16, text: &str) -> Self {
        Self::Answer { status, headers: Vec::new(), content_type: "text/plain", body: text.as_bytes().to_vec() }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Self::Answer { headers, .. } = &mut self {
            headers.push((name.into(), value.into()));
        }
        self
    }
}

/// A sandbox, as a test sees it.
#[derive(Clone, Debug)]
pub struct Sandbox {
    pub id: String,
    pub token: String,
    /// The request that made it.
    pub asked: Value,
    pub template: String,
    /// As `create`, `connect` and `timeout` last set it, in seconds.
    pub timeout: u64,
    pub paused: bool,
    /// By absolute path. A folder is there where a file is below it, or in `folders`.
    pub files: BTreeMap<String, Vec<u8>>,
    pub folders: Vec<String>,
    pub network: Value,
    /// Ended when it is gone: its streams break.
    gone: CancellationToken,
    processes: Vec<Arc<process::Process>>,
}

/// A template, as a test sees it.
#[derive(Clone, Debug, Default)]
pub struct Template {
    pub id: String,
    pub name: String,
    /// The body of `start_build`, once it came.
    pub steps: Option<Value>,
    /// Archives by hash.
    pub archives: BTreeMap<String, Vec<u8>>,
    /// What the status says next, each once; the last one stays.
    status: VecDeque<Value>,
    pub ready: bool,
}

type Program = Arc<dyn Fn(&Run) -> Vec<Act> + Send + Sync>;
type Builder = Arc<dyn Fn(&Value) -> Vec<Value> + Send + Sync>;

/// All that it holds.
struct Cloud {
    sandboxes: BTreeMap<String, Sandbox>,
    templates: BTreeMap<String, Template>,
    /// What was made with an idempotency key.
    made: BTreeMap<String, Value>,
    /// By the kind of the call, and what its body holds.
    faults: Vec<(String, String, Fault)>,
    requests: Vec<Request>,
    /// What a cloud would not have let pass.
    violations: Vec<String>,
    program: Program,
    builder: Builder,
    page: usize,
    next: u64,
    base: String,
    /// Processes outlive their deadline.
    careless: bool,
    /// A real server, and its key.
    behind: Option<(SocketAddr, String)>,
}

struct State {
    cloud: Mutex<Cloud>,
}

impl State {
    fn cloud(&self) -> MutexGuard<'_, Cloud> {
        self.cloud.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cloud {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn end(&mut self, id: &str) -> bool {
        let Some(sandbox) = self.sandboxes.remove(id) else { return false };
        sandbox.gone.cancel();
        true
    }
}

/// The running stand-in. It stops when dropped.
pub struct E2b {
    address: SocketAddr,
    state: Arc<State>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl E2b {
    /// With the template `base`, and programs that end with 0 at once.
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let base = Template { id: "base".into(), name: "base".into(), ready: true, ..Template::default() };
        let cloud = Cloud {
            sandboxes: BTreeMap::new(),
            templates: BTreeMap::from([("base".into(), base)]),
            made: BTreeMap::new(),
            faults: Vec::new(),
            requests: Vec::new(),
            violations: Vec::new(),
            program: Arc::new(|_| Act::exit(0)),
            builder: Arc::new(|_| vec![json!({"status": "building"}), json!({"status": "ready"})]),
            page: 100,
            next: 0,
            base: format!("http://{address}"),
            careless: false,
            behind: None,
        };
        let state = Arc::new(State { cloud: Mutex::new(cloud) });
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let shared = state.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                let serve = async move {
                    let mut tasks = tokio::task::JoinSet::new();
                    while let Ok((stream, _)) = listener.accept().await {
                        // The other side may go away at any moment.
                        let state = shared.clone();
                        tasks.spawn(async move { drop(connection(stream, state).await) });
                        while tasks.try_join_next().is_some() {}
                    }
                };
                tokio::select! { _ = serve => {}, _ = stopped => {} }
            });
        });
        Self { address, state, stop: Some(stop), thread: Some(thread) }
    }

    /// A cloud that is a real server, which listens at `url`; it does not say of itself what only ours does.
    pub fn before(url: &str, key: &str) -> Self {
        let cloud = Self::start();
        let address = url.trim_start_matches("http://").trim_end_matches('/').parse().unwrap();
        cloud.state.cloud().behind = Some((address, key.to_owned()));
        cloud
    }

    /// `api_url` and `sandbox_url` alike.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What processes do. It runs on a thread of its own, and may take its time.
    pub fn program(&self, program: impl Fn(&Run) -> Vec<Act> + Send + Sync + 'static) {
        self.state.cloud().program = Arc::new(program);
    }

    /// What a build's status says, one after the other, from the body that began it: `{"status": …, "logEntries": …, "reason": …}`.
    pub fn builder(&self, builder: impl Fn(&Value) -> Vec<Value> + Send + Sync + 'static) {
        self.state.cloud().builder = Arc::new(builder);
    }

    /// From now on it does not keep the deadlines of processes.
    pub fn careless(&self) {
        self.state.cloud().careless = true;
    }

    /// How many sandboxes are on a page of the list.
    pub fn page(&self, size: usize) {
        self.state.cloud().page = size;
    }

    /// What goes wrong with the next call of this kind; further ones wait for the calls after it.
    pub fn fail(&self, call: &str, fault: Fault) {
        self.fail_where(call, "", fault);
    }

    /// The same for the next one whose body holds these words.
    pub fn fail_where(&self, call: &str, words: &str, fault: Fault) {
        self.state.cloud().faults.push((call.to_owned(), words.to_owned(), fault));
    }

    /// What has not gone wrong yet, though it was to.
    pub fn faults(&self) -> Vec<(String, String, Fault)> {
        self.state.cloud().faults.clone()
    }

    /// The same for the next `times` calls.
    pub fn fail_times(&self, call: &str, fault: &Fault, times: usize) {
        (0..times).for_each(|_| self.fail(call, fault.clone()));
    }

    pub fn requests(&self) -> Vec<Request> {
        self.state.cloud().requests.clone()
    }

    /// Those of one kind, in order.
    pub fn calls(&self, call: &str) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.call == call).collect()
    }

    /// Those that live.
    pub fn sandboxes(&self) -> Vec<Sandbox> {
        self.state.cloud().sandboxes.values().cloned().collect()
    }

    pub fn sandbox(&self, id: &str) -> Option<Sandbox> {
        self.state.cloud().sandboxes.get(id).cloned()
    }

    /// Processes that run, over all sandboxes, by what was started.
    pub fn running(&self) -> Vec<Value> {
        let cloud = self.state.cloud();
        let all = cloud.sandboxes.values().flat_map(|sandbox| &sandbox.processes);
        all.filter(|process| !process.ended()).map(|process| process.config.clone()).collect()
    }

    pub fn templates(&self) -> Vec<Template> {
        self.state.cloud().templates.values().cloned().collect()
    }

    /// A sandbox ends by itself: its streams break, and the proxy no longer knows it.
    pub fn vanish(&self, id: &str) -> bool {
        self.state.cloud().end(id)
    }

    /// Fails the test where a request was wrong in itself.
    pub fn assert_clean(&self) {
        let violations = self.state.cloud().violations.clone();
        assert!(violations.is_empty(), "requests that E2B would refuse:\n{}", violations.join("\n"));
    }
}

impl Drop for E2b {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// What is answered.
enum Reply {
    Whole {
        status: u16,
        headers: Vec<(String, String)>,
        content_type: &'static str,
        body: Vec<u8>,
    },
    /// A Connect stream.
    Follow(process::Follow),
}

impl Reply {
    fn json(status: u16, body: &Value) -> Self {
        let body = body.to_string().into_bytes();
        Self::Whole { status, headers: Vec::new(), content_type: "application/json", body }
    }

    fn none(status: u16) -> Self {
        Self::Whole { status, headers: Vec::new(), content_type: "application/json", body: Vec::new() }
    }

    fn refused(status: u16, message: &str) -> Self {
        Self::json(status, &json!({"code": status, "message": message}))
    }
}

async fn connection(mut stream: TcpStream, state: Arc<State>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while let Some(received) = read_request(&mut stream, &mut buffer).await? {
        let request = understood(&state, received);
        let fault = {
            let mut cloud = state.cloud();
            cloud.requests.push(request.clone());
            let body = String::from_utf8_lossy(&request.body);
            let due = |(call, words, _): &(String, String, Fault)| *call == request.call && body.contains(words);
            let at = cloud.faults.iter().position(due);
            at.map(|at| cloud.faults.remove(at).2)
        };
        match &fault {
            Some(Fault::Cut) => return Ok(()),
            Some(Fault::Answer { status, headers, content_type, body }) => {
                whole(&mut stream, *status, headers, content_type, body, body.len()).await?;
                continue;
            }
            _ => {}
        }
        let behind = state.cloud().behind.clone();
        if let Some((address, key)) = behind {
            let done = forward::forward(&mut stream, &request, fault, address, &key).await;
            if let Err(error) = &done
                && error.kind() == std::io::ErrorKind::Other
            {
                state.cloud().violations.push(format!("{}: {error}", request.call));
            }
            return done;
        }
        if matches!(fault, Some(Fault::Vanish)) {
            let id = request.sandbox.clone().unwrap_or_default();
            state.cloud().end(&id);
        }
        let reply = answer(&state, &request);
        match (fault, reply) {
            (Some(Fault::Lost), _) => return Ok(()),
            (Some(Fault::Garbage(text)), _) => {
                whole(&mut stream, 200, &[], "application/json", text.as_bytes(), text.len()).await?;
            }
            (fault, Reply::Whole { status, headers, content_type, body }) => {
                if let Some(Fault::Slow(pause)) = fault {
                    tokio::time::sleep(pause).await;
                }
                let most = if let Some(Fault::Torn(most)) = fault { most.min(body.len()) } else { body.len() };
                whole(&mut stream, status, &headers, content_type, &body, most).await?;
                if most < body.len() {
                    return Ok(());
                }
            }
            (fault, Reply::Follow(follow)) => {
                if let Some(Fault::Slow(pause)) = fault {
                    tokio::time::sleep(pause).await;
                }
                if !follow.write(&mut stream).await? {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// Writes an answer; of its body only the first `most` bytes.
async fn whole(
    stream: &mut TcpStream,
    status: u16,
    headers: &[(String, String)],
    content_type: &str,
    body: &[u8],
    most: usize,
) -> std::io::Result<()> {
    let extra: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let described = match status {
        204 => String::new(),
        _ => format!("content-type: {content_type}\r\ncontent-length: {}\r\n", body.len()),
    };
    let head = format!("HTTP/1.1 {status} X\r\n{described}{extra}\r\n");
    stream.write_all(&[head.as_bytes(), &body[..most]].concat()).await?;
    stream.flush().await
}

/// Reads what was asked and says which call it is.
fn understood(state: &State, received: Received) -> Request {
    let Received { method, path: target, headers, body } = received;
    let url = reqwest::Url::parse(&format!("http://host{target}")).unwrap();
    let path = url.path().to_owned();
    let query = url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (call, sandbox): (&str, Option<&str>) = match (method.as_str(), parts.as_slice()) {
        ("POST", ["v2", "sandboxes"]) => ("create", None),
        ("GET", ["v2", "sandboxes"]) => ("list", None),
        ("POST", ["v2", "sandboxes", id, "connect"]) => ("connect", Some(id)),
        ("GET", ["sandboxes", id]) => ("info", Some(id)),
        ("DELETE", ["sandboxes", id]) => ("kill", Some(id)),
        ("POST", ["sandboxes", id, "timeout"]) => ("timeout", Some(id)),
        ("POST", ["sandboxes", id, "pause"]) => ("pause", Some(id)),
        ("PUT", ["sandboxes", id, "network"]) => ("network", Some(id)),
        ("GET", ["templates", "aliases", _]) => ("alias", None),
        ("POST", ["v3", "templates"]) => ("request_template", None),
        ("GET", ["templates", _, "files", _]) => ("files_link", None),
        ("PUT", ["uploads", _, _]) => ("upload", None),
        ("POST", ["v2", "templates", _, "builds", _]) => ("start_build", None),
        ("GET", ["templates", _, "builds", _, "status"]) => ("build_status", None),
        ("DELETE", ["templates", _]) => ("delete_template", None),
        ("GET", ["health"]) => ("health", headers.get("e2b-sandbox-id").map(String::as_str)),
        ("GET", ["files"]) => ("read", headers.get("e2b-sandbox-id").map(String::as_str)),
        ("POST", ["files"]) => ("write", headers.get("e2b-sandbox-id").map(String::as_str)),
        ("POST", ["process.Process" | "filesystem.Filesystem", name]) => {
            (name, headers.get("e2b-sandbox-id").map(String::as_str))
        }
        _ => ("", None),
    };
    let call = if call.is_empty() { format!("{method} {path}") } else { call.to_owned() };
    let sandbox = sandbox.map(str::to_owned);
    let request = Request { call, method, target, path, query, headers, body, sandbox };
    let wrong = control::violations(&request);
    state.cloud().violations.extend(wrong.into_iter().map(|what| format!("{}: {what}", request.call)));
    request
}

fn answer(state: &Arc<State>, request: &Request) -> Reply {
    if request.call == "upload" {
        return control::upload(&mut state.cloud(), request);
    }
    let inside = matches!(request.path.as_str(), "/health" | "/files")
        || request.path.starts_with("/process.Process/")
        || request.path.starts_with("/filesystem.Filesystem/");
    if inside {
        return envd::answer(state, request);
    }
    if request.header("x-api-key") != Some(KEY) {
        // A real cloud would not repeat the key; a careless one might.
        let given = request.header("x-api-key").unwrap_or("none");
        return Reply::refused(401, &format!("invalid API key {given}"));
    }
    control::answer(&mut state.cloud(), request)
}
