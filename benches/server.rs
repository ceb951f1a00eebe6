//! A lean scripted model: Anthropic's streamed answers over HTTP on loopback, with as little work of its own as possible.
//!
//! `tests/it/fakes/model.rs` parses and checks every request, which would be most of what is measured here. This one finds the
//! number of the turn at the end of the request and answers from a template. What it shall do stands in the address:
//! `/d100/t20/h5` waits 100 ms, asks for a tool in 20 turns and then concludes, and never answers the fifth request.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

/// What it was asked, over all connections.
#[derive(Default)]
pub struct Seen {
    pub requests: AtomicUsize,
    /// Requests that will never be answered.
    pub held: AtomicUsize,
    pub first: Mutex<Option<Instant>>,
    /// The longest request.
    pub largest: AtomicUsize,
}

/// Runs on a thread of its own until the process ends.
pub struct Server {
    address: SocketAddr,
    pub seen: Arc<Seen>,
}

/// What the address asks for.
#[derive(Clone, Copy, Default)]
struct Script {
    delay: Duration,
    turns: usize,
    hold: Option<usize>,
}

impl Server {
    pub fn start() -> Self {
        let (tell, told) = std::sync::mpsc::channel();
        let seen = Arc::new(Seen::default());
        let shared = seen.clone();
        std::thread::Builder::new()
            .name("model".into())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async move {
                    // A thousand runs may connect in one moment.
                    let socket = TcpSocket::new_v4().unwrap();
                    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
                    let listener = socket.listen(4_096).unwrap();
                    tell.send(listener.local_addr().unwrap()).unwrap();
                    loop {
                        let (stream, _) = listener.accept().await.unwrap();
                        let seen = shared.clone();
                        // The client may go away at any moment.
                        drop(tokio::task::spawn(async move { drop(connection(stream, &seen).await) }));
                    }
                });
            })
            .unwrap();
        Self { address: told.recv().unwrap(), seen }
    }

    /// Answers after `delay`, asks for a tool `turns` times, does not answer request number `hold` of a conversation.
    pub fn url(&self, delay: Duration, turns: usize, hold: Option<usize>) -> String {
        let hold = hold.map(|n| format!("/h{n}")).unwrap_or_default();
        format!("http://{}/d{}/t{turns}{hold}", self.address, delay.as_millis())
    }

    pub fn reset(&self) {
        self.seen.requests.store(0, Ordering::Relaxed);
        self.seen.held.store(0, Ordering::Relaxed);
        self.seen.largest.store(0, Ordering::Relaxed);
        *self.seen.first.lock().unwrap() = None;
    }
}

async fn connection(mut stream: TcpStream, seen: &Seen) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer: Vec<u8> = Vec::with_capacity(64 * 1024);
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        seen.first.lock().unwrap().get_or_insert_with(Instant::now);
        let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
        let script = script(head.split(' ').nth(1).unwrap_or_default());
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        let whole = end + 4 + length.and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
        while buffer.len() < whole {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        let number = seen.requests.fetch_add(1, Ordering::Relaxed);
        let turn = turn(&buffer[end + 4..whole]);
        seen.largest.fetch_max(whole - end - 4, Ordering::Relaxed);
        let answer = answer(&script, turn, number, (whole - end - 4) / 4);
        buffer.drain(..whole);
        if script.hold.is_some_and(|at| turn + 1 >= at) {
            seen.held.fetch_add(1, Ordering::Relaxed);
            // Until the client goes away.
            while stream.read_buf(&mut buffer).await? > 0 {}
            return Ok(());
        }
        if !script.delay.is_zero() {
            tokio::time::sleep(script.delay).await;
        }
        stream.write_all(&answer).await?;
    }
}

fn script(path: &str) -> Script {
    let mut script = Script::default();
    for part in path.split('/') {
        let number = || part.get(1..).and_then(|n| n.parse::<usize>().ok());
        match (part.as_bytes().first(), number()) {
            (Some(b'd'), Some(n)) => script.delay = Duration::from_millis(n as u64),
            (Some(b't'), Some(n)) => script.turns = n,
            (Some(b'h'), Some(n)) => script.hold = Some(n),
            _ => {}
        }
    }
    script
}

/// How many answers came before: the number in the id of the last tool call.
fn turn(body: &[u8]) -> usize {
    const MARK: &[u8] = br#""tool_use_id":"t"#;
    let Some(at) = body.windows(MARK.len()).rposition(|w| w == MARK) else { return 0 };
    let digits = body[at + MARK.len()..].iter().take_while(|b| b.is_ascii_digit());
    digits.fold(0, |n, digit| n * 10 + usize::from(digit - b'0'))
}

fn answer(script: &Script, turn: usize, number: usize, input: usize) -> Vec<u8> {
    let (block, delta, stop) = if turn < script.turns {
        (
            format!(r#"{{"type":"tool_use","id":"t{}","name":"days","input":{{}}}}"#, turn + 1),
            format!(r#"{{"type":"input_json_delta","partial_json":"{{\"from\":\"{}\"}}"}}"#, date(turn)),
            "tool_use",
        )
    } else {
        (
            r#"{"type":"text","text":""}"#.to_owned(),
            r#"{"type":"text_delta","text":"{\"cause\":\"unknown\"}"}"#.to_owned(),
            "end_turn",
        )
    };
    let model = "claude-opus-5-5";
    let body = format!(
        "event: message_start\ndata: {{\"type\":\"message_start\",\"message\":{{\"id\":\"msg_{number}\",\"type\":\"message\",\
         \"role\":\"assistant\",\"content\":[],\"model\":\"{model}\",\"stop_reason\":null,\"stop_sequence\":null,\
         \"usage\":{{\"input_tokens\":{input},\"output_tokens\":1}}}}}}\n\n\
         event: content_block_start\ndata: {{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{block}}}\n\n\
         event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{delta}}}\n\n\
         event: content_block_stop\ndata: {{\"type\":\"content_block_stop\",\"index\":0}}\n\n\
         event: message_delta\ndata: {{\"type\":\"message_delta\",\"delta\":{{\"stop_reason\":\"{stop}\",\
         \"stop_sequence\":null}},\"usage\":{{\"output_tokens\":20}}}}\n\n\
         event: message_stop\ndata: {{\"type\":\"message_stop\"}}\n\n"
    );
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    )
    .into_bytes()
}

/// Another day each turn, because an agent that asks the same again and again is stopped.
pub fn date(turn: usize) -> String {
    format!("{}-{:02}-{:02}", 2000 + turn / 336, turn / 28 % 12 + 1, turn % 28 + 1)
}
