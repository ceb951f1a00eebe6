//! A scripted model server: Anthropic's Messages API and OpenAI's chat completions over real HTTP on loopback.
//!
//! It runs on a thread of its own, so that it serves any test, a started binary and the benches alike (they take this one file
//! by `#[path]`). What it answers is a script: a queue of [`Reply`]s, or a function from the [`Request`]. It checks every
//! request as strictly as the APIs do and stricter: a violation is answered with 400 and kept for [`ModelServer::violations`].
//! It counts tokens as a quarter of the bytes and keeps a prompt cache by the API's own rules, so money and cache hits of a
//! test are those of a real conversation.
//!
//! ```ignore
//! let server = ModelServer::queue([Reply::calls([("read", json!({"path": "a"}))]), Reply::text("done")]);
//! // … base_url: server.url() …
//! server.assert_clean();
//! ```

#![allow(dead_code, clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{Hash as _, Hasher as _};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

#[path = "model_check.rs"]
mod check;
#[path = "http.rs"]
pub mod http;

use http::{Received, read_request, write_chunk};

/// Which API a request came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    Anthropic,
    OpenAi,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// 0 is the first.
    pub number: usize,
    pub api: Api,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Value,
    pub raw: Vec<u8>,
}

impl Request {
    pub fn model(&self) -> &str {
        self.body["model"].as_str().unwrap_or_default()
    }
    pub fn messages(&self) -> &[Value] {
        self.body["messages"].as_array().map_or(&[], Vec::as_slice)
    }
    /// The system text of either API.
    pub fn system(&self) -> String {
        match self.api {
            Api::Anthropic => texts(&self.body["system"]),
            Api::OpenAi => self
                .messages()
                .iter()
                .find(|m| m["role"] == "system")
                .map_or_else(String::new, |m| texts(&m["content"])),
        }
    }
    /// All text of the last message: the user's words and the tool results.
    pub fn last_text(&self) -> String {
        self.messages().last().map_or_else(String::new, |message| texts(&message["content"]))
    }
    /// All text of the conversation.
    pub fn all_text(&self) -> String {
        self.messages().iter().map(|message| texts(&message["content"]) + "\n").collect()
    }
    /// How many assistant messages came before: 0 in the first turn.
    pub fn turn(&self) -> usize {
        self.messages().iter().filter(|message| message["role"] == "assistant").count()
    }
    pub fn tool_names(&self) -> Vec<&str> {
        let tools = self.body["tools"].as_array().map_or(&[] as &[Value], Vec::as_slice);
        tools.iter().filter_map(|tool| tool["name"].as_str().or(tool["function"]["name"].as_str())).collect()
    }
    /// Tools may be called in the answer.
    pub fn may_call(&self) -> bool {
        !self.tool_names().is_empty()
            && self.body["tool_choice"] != "none"
            && self.body["tool_choice"]["type"] != "none"
    }
    /// The schema that the answer must have.
    pub fn schema(&self) -> Option<&Value> {
        let of = match self.api {
            Api::Anthropic => &self.body["output_config"]["format"]["schema"],
            Api::OpenAi => &self.body["response_format"]["json_schema"]["schema"],
        };
        (!of.is_null()).then_some(of)
    }
}

/// All text within content, tool results and texts alike.
fn texts(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => blocks
            .iter()
            .map(|block| match block["text"].as_str() {
                Some(text) => text.to_owned(),
                None => texts(&block["content"]),
            })
            .collect::<Vec<_>>()
            .join("\n"),
        _ => String::new(),
    }
}

/// One block of an answer.
#[derive(Clone, Debug)]
pub enum Part {
    Text(String),
    /// Signed by the server, which checks that it comes back untouched.
    Thinking(String),
    /// `None`: an id is made up.
    Call {
        id: Option<String>,
        name: String,
        input: String,
    },
    /// A block as it is, for kinds that nobody knows.
    Raw(Value),
}

/// Tokens as the API reports them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    pub input: u64,
    pub cache_write: u64,
    pub cache_read: u64,
    pub output: u64,
}

/// What comes instead of a whole answer.
#[derive(Clone, Debug, PartialEq)]
enum Fault {
    None,
    /// Status, content type and body as they are.
    Raw {
        status: u16,
        content_type: String,
        body: Vec<u8>,
    },
    /// The connection is cut after this many bytes of the body.
    CutAt(usize),
    /// Nothing more is sent after this many bytes, and the connection stays open.
    StallAt(usize),
    /// Text without end.
    Endless,
    /// Pings without end.
    EndlessPings,
    /// The connection is closed without an answer.
    HangUp,
}

/// What the server answers: a builder.
#[derive(Clone, Debug)]
pub struct Reply {
    parts: Vec<Part>,
    stop: Option<String>,
    stop_details: Option<Value>,
    tokens: Option<Tokens>,
    usage: bool,
    model: Option<String>,
    headers: Vec<(String, String)>,
    delay: Duration,
    piece: usize,
    between: Duration,
    error_event: Option<(usize, Value)>,
    fault: Fault,
}

impl Default for Reply {
    fn default() -> Self {
        Self {
            parts: Vec::new(),
            stop: None,
            stop_details: None,
            tokens: None,
            usage: true,
            model: None,
            headers: Vec::new(),
            delay: Duration::ZERO,
            piece: 64,
            between: Duration::ZERO,
            error_event: None,
            fault: Fault::None,
        }
    }
}

impl Reply {
    pub fn text(text: impl Into<String>) -> Self {
        Self::default().and_text(text)
    }
    /// A text that is the JSON of `value`: what a schema asks for.
    pub fn json(value: &Value) -> Self {
        Self::text(value.to_string())
    }
    /// Parallel tool calls.
    pub fn calls<N: Into<String>>(calls: impl IntoIterator<Item = (N, Value)>) -> Self {
        calls.into_iter().fold(Self::default(), |reply, (name, input)| reply.and_call(name, &input))
    }
    /// An HTTP error with the API's own error body.
    pub fn status(status: u16, kind: &str, message: &str) -> Self {
        let body = json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"});
        Self::raw(status, "application/json", body.to_string())
    }
    pub fn raw(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { fault: Fault::Raw { status, content_type: content_type.into(), body: body.into() }, ..Self::default() }
    }
    pub fn endless() -> Self {
        Self { fault: Fault::Endless, ..Self::default() }
    }
    pub fn endless_pings() -> Self {
        Self { fault: Fault::EndlessPings, ..Self::default() }
    }
    pub fn hang_up() -> Self {
        Self { fault: Fault::HangUp, ..Self::default() }
    }

    pub fn and_text(mut self, text: impl Into<String>) -> Self {
        self.parts.push(Part::Text(text.into()));
        self
    }
    pub fn and_thinking(mut self, text: impl Into<String>) -> Self {
        self.parts.push(Part::Thinking(text.into()));
        self
    }
    pub fn and_call(self, name: impl Into<String>, input: &Value) -> Self {
        self.and_raw_call(name, input.to_string())
    }
    /// A call whose input is these bytes, whole JSON or not.
    pub fn and_raw_call(mut self, name: impl Into<String>, input: impl Into<String>) -> Self {
        self.parts.push(Part::Call { id: None, name: name.into(), input: input.into() });
        self
    }
    pub fn and_raw_block(mut self, block: Value) -> Self {
        self.parts.push(Part::Raw(block));
        self
    }
    /// The API's own word; without it `tool_use` or `end_turn`.
    pub fn stop(mut self, reason: &str) -> Self {
        self.stop = Some(reason.into());
        self
    }
    pub fn refusal(mut self, category: &str, explanation: &str) -> Self {
        self.stop = Some("refusal".into());
        self.stop_details = Some(json!({"type": "refusal", "category": category, "explanation": explanation}));
        self
    }
    pub fn tokens(mut self, tokens: Tokens) -> Self {
        self.tokens = Some(tokens);
        self
    }
    /// No usage is reported at all.
    pub fn without_usage(mut self) -> Self {
        self.usage = false;
        self
    }
    /// The name that the answer claims.
    pub fn model(mut self, model: &str) -> Self {
        self.model = Some(model.into());
        self
    }
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
    /// Before the first byte.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
    /// Characters per delta.
    pub fn piece(mut self, characters: usize) -> Self {
        self.piece = characters.max(1);
        self
    }
    /// A pause after each event.
    pub fn between(mut self, pause: Duration) -> Self {
        self.between = pause;
        self
    }
    /// An error event takes the place of event number `at` and ends the stream.
    pub fn error_event(mut self, at: usize, kind: &str, message: &str) -> Self {
        self.error_event = Some((at, json!({"type": "error", "error": {"type": kind, "message": message}})));
        self
    }
    pub fn cut_at(mut self, bytes: usize) -> Self {
        self.fault = Fault::CutAt(bytes);
        self
    }
    pub fn stall_at(mut self, bytes: usize) -> Self {
        self.fault = Fault::StallAt(bytes);
        self
    }
}

type Script = Box<dyn Fn(&Request) -> Reply + Send + Sync>;

struct State {
    script: Script,
    checks: bool,
    key: Option<String>,
    max_body: usize,
    refused_parameters: Vec<String>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    requests: Vec<Request>,
    tokens: Vec<Tokens>,
    violations: Vec<String>,
    connections: usize,
    count: usize,
    /// Hashes of cached prefixes.
    cache: BTreeSet<u64>,
    /// signature → the thinking that it signs.
    signed: BTreeMap<String, String>,
}

/// How the server is set up: a builder.
pub struct Setup {
    state: State,
}

impl Setup {
    /// Without checks, recording and token counting: for benches.
    pub fn unchecked(mut self) -> Self {
        self.state.checks = false;
        self
    }
    /// The key that requests must carry.
    pub fn key(mut self, key: &str) -> Self {
        self.state.key = Some(key.into());
        self
    }
    /// Larger bodies are answered with 413.
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.state.max_body = bytes;
        self
    }
    /// Requests with this top-level key are answered with 400, as by a server that does not know it.
    pub fn refuses(mut self, parameter: &str) -> Self {
        self.state.refused_parameters.push(parameter.into());
        self
    }
    pub fn start(self) -> ModelServer {
        ModelServer::run(self.state)
    }
}

/// The running server. It stops when dropped.
pub struct ModelServer {
    address: SocketAddr,
    state: Arc<State>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl ModelServer {
    /// Answers by a function of the request.
    pub fn setup(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Setup {
        Setup {
            state: State {
                script: Box::new(script),
                checks: true,
                key: None,
                max_body: 32 * 1024 * 1024,
                refused_parameters: Vec::new(),
                seen: Mutex::default(),
            },
        }
    }
    pub fn script(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::setup(script).start()
    }
    /// Answers in this order; after the last one every request is a violation.
    pub fn queue(replies: impl IntoIterator<Item = Reply>) -> Self {
        let queue: Mutex<VecDeque<Reply>> = Mutex::new(replies.into_iter().collect());
        Self::script(move |_| {
            queue
                .lock()
                .unwrap()
                .pop_front()
                .unwrap_or_else(|| Reply::status(400, "invalid_request_error", "the queue is empty"))
        })
    }

    fn run(state: State) -> Self {
        let state = Arc::new(state);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let shared = state.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                let serve = async move {
                    let mut tasks = tokio::task::JoinSet::new();
                    while let Ok((stream, _)) = listener.accept().await {
                        shared.seen().connections += 1;
                        let state = shared.clone();
                        // The other side may go away at any moment.
                        tasks.spawn(async move { drop(connection(stream, state).await) });
                        while tasks.try_join_next().is_some() {}
                    }
                };
                tokio::select! { _ = serve => {}, _ = stopped => {} }
            });
        });
        Self { address, state, stop: Some(stop), thread: Some(thread) }
    }

    /// The base URL for `provider: anthropic`; for `openai` the same with `/v1`, or without.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
    pub fn requests(&self) -> Vec<Request> {
        self.state.seen().requests.clone()
    }
    /// How many requests came, also when unchecked.
    pub fn count(&self) -> usize {
        self.state.seen().count
    }
    pub fn connections(&self) -> usize {
        self.state.seen().connections
    }
    /// What was reported for each answered request.
    pub fn tokens(&self) -> Vec<Tokens> {
        self.state.seen().tokens.clone()
    }
    pub fn violations(&self) -> Vec<String> {
        self.state.seen().violations.clone()
    }
    /// Fails the test when a request was wrong.
    pub fn assert_clean(&self) {
        let violations = self.violations();
        assert!(violations.is_empty(), "requests that the API would refuse:\n{}", violations.join("\n"));
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl State {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

// HTTP.

async fn connection(mut stream: TcpStream, state: Arc<State>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while let Some(Received { path, headers, body, .. }) = read_request(&mut stream, &mut buffer).await? {
        let (reply, request) = answer(&state, &path, headers, body);
        tokio::time::sleep(reply.delay).await;
        let extra: String = reply.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        match &reply.fault {
            Fault::HangUp => return Ok(()),
            Fault::Raw { status, content_type, body } => {
                let head = format!(
                    "HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n{extra}\r\n",
                    body.len()
                );
                stream.write_all(&[head.as_bytes(), body].concat()).await?;
                continue;
            }
            _ => {}
        }
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\nrequest-id: req_1\r\n{extra}\r\n"
        );
        let Some(request) = request else { return Ok(()) };
        match reply.fault {
            Fault::Endless | Fault::EndlessPings => {
                stream.write_all(head.as_bytes()).await?;
                endless(&mut stream, &request, reply.fault == Fault::EndlessPings).await?;
            }
            Fault::CutAt(limit) | Fault::StallAt(limit) => {
                let mut bytes = state.stream(&request, &reply).concat();
                bytes.truncate(limit);
                stream.write_all(head.as_bytes()).await?;
                write_chunk(&mut stream, &bytes).await?;
                if matches!(reply.fault, Fault::StallAt(_)) {
                    // Until the client goes away.
                    drop(stream.read(&mut [0; 64]).await);
                }
                return Ok(());
            }
            _ if reply.between.is_zero() => {
                let body = state.stream(&request, &reply).concat();
                let mut bytes = head.into_bytes();
                bytes.extend_from_slice(format!("{:x}\r\n", body.len()).as_bytes());
                bytes.extend_from_slice(&body);
                bytes.extend_from_slice(b"\r\n0\r\n\r\n");
                stream.write_all(&bytes).await?;
            }
            _ => {
                stream.write_all(head.as_bytes()).await?;
                for event in state.stream(&request, &reply) {
                    write_chunk(&mut stream, &event).await?;
                    tokio::time::sleep(reply.between).await;
                }
                stream.write_all(b"0\r\n\r\n").await?;
            }
        }
    }
    Ok(())
}

async fn endless(stream: &mut TcpStream, request: &Request, pings: bool) -> io::Result<()> {
    let start = match request.api {
        Api::Anthropic => vec![
            json!({"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant", "content": [],
                "model": request.model(), "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": 9, "output_tokens": 1}}}),
            json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        ],
        Api::OpenAi => Vec::new(),
    };
    for event in start {
        write_chunk(stream, &sse(request.api, &event)).await?;
    }
    let filler = "x".repeat(16 * 1024);
    let event = match request.api {
        _ if pings => json!({"type": "ping"}),
        Api::Anthropic => {
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": filler}})
        }
        Api::OpenAi => json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": request.model(),
            "choices": [{"index": 0, "delta": {"content": filler}, "finish_reason": null}]}),
    };
    let bytes = if pings && request.api == Api::OpenAi { b": ping\n\n".to_vec() } else { sse(request.api, &event) };
    loop {
        write_chunk(stream, &bytes).await?;
        if pings {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Checks the request and asks the script.
fn answer(state: &State, path: &str, headers: BTreeMap<String, String>, raw: Vec<u8>) -> (Reply, Option<Request>) {
    let number = {
        let mut seen = state.seen();
        seen.count += 1;
        seen.count - 1
    };
    let refuse = |status: u16, kind: &str, message: &str| {
        state.seen().violations.push(format!("request {number}: {message}"));
        (Reply::status(status, kind, message), None)
    };
    let api = match path {
        "/v1/messages" => Api::Anthropic,
        "/v1/chat/completions" | "/chat/completions" => Api::OpenAi,
        other => return refuse(404, "not_found_error", &format!("no such path: {other}")),
    };
    if raw.len() > state.max_body {
        return refuse(413, "request_too_large", "the request is too large");
    }
    let Ok(body) = serde_json::from_slice::<Value>(&raw) else {
        return refuse(400, "invalid_request_error", "the body is not JSON");
    };
    let request = Request { number, api, headers, body, raw };
    for parameter in &state.refused_parameters {
        if request.body.get(parameter).is_some() {
            let message = format!("Unsupported parameter: '{parameter}' is not supported with this model.");
            let body = json!({"error": {"message": message, "type": "invalid_request_error", "param": parameter, "code": "unsupported_parameter"}});
            return (Reply::raw(400, "application/json", body.to_string()), None);
        }
    }
    if state.checks {
        let key = match api {
            Api::Anthropic => request.headers.get("x-api-key").map(String::as_str),
            Api::OpenAi => request.headers.get("authorization").and_then(|v| v.strip_prefix("Bearer ")),
        };
        if let Some(wanted) = &state.key
            && key != Some(wanted.as_str())
        {
            return (
                Reply::status(401, "authentication_error", &format!("invalid key: {}", key.unwrap_or("none"))),
                None,
            );
        }
        let mistakes = {
            let seen = state.seen();
            check::request(&request, &seen.signed)
        };
        state.seen().requests.push(request.clone());
        if let Some(first) = mistakes.first() {
            let first = first.clone();
            state.seen().violations.extend(mistakes.into_iter().map(|m| format!("request {number}: {m}")));
            return (Reply::status(400, "invalid_request_error", &first), None);
        }
    }
    ((state.script)(&request), Some(request))
}

// Answers as events.

fn sse(api: Api, event: &Value) -> Vec<u8> {
    match (api, event["type"].as_str()) {
        (Api::Anthropic, Some(name)) => format!("event: {name}\ndata: {event}\n\n").into_bytes(),
        _ => format!("data: {event}\n\n").into_bytes(),
    }
}

impl State {
    /// The body of a streamed answer, event by event.
    fn stream(&self, request: &Request, reply: &Reply) -> Vec<Vec<u8>> {
        let tokens = self.count(request, reply);
        let events = events(request, reply, tokens);
        if self.checks {
            let mut seen = self.seen();
            for part in &reply.parts {
                if let Part::Thinking(text) = part {
                    seen.signed.insert(signature(text), text.clone());
                }
            }
            seen.tokens.push(tokens);
        }
        let mut out: Vec<Vec<u8>> = events.iter().map(|event| sse(request.api, event)).collect();
        match (&reply.error_event, request.api) {
            (Some((at, event)), api) => {
                out.truncate(*at);
                out.push(sse(api, event));
            }
            (None, Api::OpenAi) => out.push(b"data: [DONE]\n\n".to_vec()),
            (None, Api::Anthropic) => {}
        }
        out
    }

    /// A quarter of the bytes, with the prompt cache of the API: a prefix is written where `cache_control` stands, and found
    /// again up to 20 blocks before such a mark.
    fn count(&self, request: &Request, reply: &Reply) -> Tokens {
        if let Some(tokens) = reply.tokens {
            return tokens;
        }
        let tokens = |bytes: usize| (bytes as u64).div_ceil(4);
        let output = tokens(reply.parts.iter().map(Part::size).sum()).max(1);
        if !self.checks || request.api == Api::OpenAi {
            return Tokens { input: tokens(request.raw.len()), output, ..Tokens::default() };
        }
        let mut blocks: Vec<(String, bool)> = Vec::new();
        let mut add = |role: &str, block: &Value| {
            let mut block = block.clone();
            let marked = block.as_object_mut().is_some_and(|map| map.remove("cache_control").is_some());
            blocks.push((format!("{role}{block}"), marked));
        };
        for tool in request.body["tools"].as_array().into_iter().flatten() {
            add("tool", tool);
        }
        for block in request.body["system"].as_array().into_iter().flatten() {
            add("system", block);
        }
        for message in request.messages() {
            for block in message["content"].as_array().into_iter().flatten() {
                add(message["role"].as_str().unwrap_or_default(), block);
            }
        }
        // Another schema or another choice of tools is another prompt.
        let mut hasher = DefaultHasher::new();
        (request.model(), request.body["output_config"].to_string()).hash(&mut hasher);
        let (mut hashes, mut sizes, mut size) = (Vec::new(), Vec::new(), 0);
        for (text, _) in &blocks {
            text.hash(&mut hasher);
            size += text.len();
            hashes.push(hasher.finish());
            sizes.push(size);
        }
        let mut seen = self.seen();
        let marks: Vec<usize> = (0..blocks.len()).filter(|i| blocks[*i].1).collect();
        let found = marks
            .iter()
            .flat_map(|mark| (mark.saturating_sub(20)..=*mark).rev().find(|i| seen.cache.contains(&hashes[*i])))
            .max();
        let read = found.map_or(0, |i| sizes[i]);
        let written = marks.last().map_or(0, |i| sizes[*i]).max(read);
        seen.cache.extend(marks.iter().map(|i| hashes[*i]));
        Tokens { input: tokens(size - written), cache_write: tokens(written - read), cache_read: tokens(read), output }
    }
}

impl Part {
    fn size(&self) -> usize {
        match self {
            Self::Text(text) | Self::Thinking(text) => text.len(),
            Self::Call { name, input, .. } => name.len() + input.len(),
            Self::Raw(value) => value.to_string().len(),
        }
    }
}

fn signature(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("sig{:016x}", hasher.finish())
}

fn pieces(text: &str, size: usize) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    characters.chunks(size).map(|chunk| chunk.iter().collect()).collect()
}

/// The events of a whole answer.
pub fn events(request: &Request, reply: &Reply, tokens: Tokens) -> Vec<Value> {
    match request.api {
        Api::Anthropic => anthropic_events(request, reply, tokens),
        Api::OpenAi => openai_chunks(request, reply, tokens),
    }
}

fn call_id(request: &Request, index: usize, id: Option<&String>) -> String {
    let prefix = if request.api == Api::Anthropic { "toolu" } else { "call" };
    id.cloned().unwrap_or_else(|| format!("{prefix}_{}_{index}", request.number))
}

fn anthropic_events(request: &Request, reply: &Reply, tokens: Tokens) -> Vec<Value> {
    let usage = |output: u64| {
        json!({"input_tokens": tokens.input, "cache_creation_input_tokens": tokens.cache_write,
            "cache_read_input_tokens": tokens.cache_read, "output_tokens": output,
            "cache_creation": {"ephemeral_5m_input_tokens": tokens.cache_write, "ephemeral_1h_input_tokens": 0}})
    };
    let model = reply.model.as_deref().unwrap_or(request.model());
    let mut message = json!({"id": format!("msg_{}", request.number), "type": "message", "role": "assistant", "content": [],
        "model": model, "stop_reason": null, "stop_sequence": null});
    if reply.usage {
        message["usage"] = usage(1);
    }
    let mut out = vec![json!({"type": "message_start", "message": message}), json!({"type": "ping"})];
    for (index, part) in reply.parts.iter().enumerate() {
        let start = |block: Value| json!({"type": "content_block_start", "index": index, "content_block": block});
        let delta = |delta: Value| json!({"type": "content_block_delta", "index": index, "delta": delta});
        match part {
            Part::Text(text) => {
                out.push(start(json!({"type": "text", "text": ""})));
                let text = pieces(text, reply.piece).into_iter();
                out.extend(text.map(|piece| delta(json!({"type": "text_delta", "text": piece}))));
            }
            Part::Thinking(text) => {
                out.push(start(json!({"type": "thinking", "thinking": "", "signature": ""})));
                let pieces = pieces(text, reply.piece).into_iter();
                out.extend(pieces.map(|piece| delta(json!({"type": "thinking_delta", "thinking": piece}))));
                out.push(delta(json!({"type": "signature_delta", "signature": signature(text)})));
            }
            Part::Call { id, name, input } => {
                let id = call_id(request, index, id.as_ref());
                out.push(start(json!({"type": "tool_use", "id": id, "name": name, "input": {}})));
                out.push(delta(json!({"type": "input_json_delta", "partial_json": ""})));
                let pieces = pieces(input, reply.piece).into_iter();
                out.extend(pieces.map(|piece| delta(json!({"type": "input_json_delta", "partial_json": piece}))));
            }
            Part::Raw(block) => out.push(start(block.clone())),
        }
        out.push(json!({"type": "content_block_stop", "index": index}));
    }
    let called = reply.parts.iter().any(|part| matches!(part, Part::Call { .. }));
    let stop = reply.stop.as_deref().unwrap_or(if called { "tool_use" } else { "end_turn" });
    let mut end = json!({"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": null}});
    if let Some(details) = &reply.stop_details {
        end["delta"]["stop_details"] = details.clone();
    }
    if reply.usage {
        end["usage"] = json!({"output_tokens": tokens.output});
    }
    out.push(end);
    out.push(json!({"type": "message_stop"}));
    out
}

fn openai_chunks(request: &Request, reply: &Reply, tokens: Tokens) -> Vec<Value> {
    let model = reply.model.as_deref().unwrap_or(request.model());
    let chunk = |choices: Value| {
        json!({"id": format!("chatcmpl-{}", request.number), "object": "chat.completion.chunk", "created": 1_793_000_000,
            "model": model, "choices": choices})
    };
    let choice =
        |delta: Value, finish: Option<&str>| chunk(json!([{"index": 0, "delta": delta, "finish_reason": finish}]));
    let mut out = vec![choice(json!({"role": "assistant", "content": ""}), None)];
    let mut calls = 0;
    for (index, part) in reply.parts.iter().enumerate() {
        match part {
            Part::Text(text) => {
                let text = pieces(text, reply.piece).into_iter();
                out.extend(text.map(|piece| choice(json!({"content": piece}), None)));
            }
            Part::Thinking(text) => out.push(choice(json!({"reasoning_content": text}), None)),
            Part::Call { id, name, input } => {
                let id = call_id(request, index, id.as_ref());
                out.push(choice(
                    json!({"tool_calls": [{"index": calls, "id": id, "type": "function", "function": {"name": name, "arguments": ""}}]}),
                    None,
                ));
                let pieces = pieces(input, reply.piece).into_iter();
                out.extend(pieces.map(|piece| {
                    choice(json!({"tool_calls": [{"index": calls, "function": {"arguments": piece}}]}), None)
                }));
                calls += 1;
            }
            Part::Raw(delta) => out.push(choice(delta.clone(), None)),
        }
    }
    let stop = reply.stop.as_deref().unwrap_or(if calls > 0 { "tool_calls" } else { "stop" });
    out.push(choice(json!({}), Some(stop)));
    if reply.usage && request.body["stream_options"]["include_usage"] == true {
        let prompt = tokens.input + tokens.cache_read + tokens.cache_write;
        let mut last = chunk(json!([]));
        last["usage"] = json!({"prompt_tokens": prompt, "completion_tokens": tokens.output, "total_tokens": prompt + tokens.output,
            "prompt_tokens_details": {"cached_tokens": tokens.cache_read}});
        out.push(last);
    }
    out
}
