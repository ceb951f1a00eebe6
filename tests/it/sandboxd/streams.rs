//! Streams of processes by hand: watchers that are many, slow, or gone, and what ends under them.

use std::time::Duration;

use nightcrew::base::base64;
use nightcrew::base::hash::Hasher;
use nightcrew::clients::e2b::wire;
use serde_json::{Value, json};

use super::{Bench, Call, until};

/// The messages of a stream as they come.
struct Messages {
    response: reqwest::Response,
    read: Vec<u8>,
}

impl Messages {
    async fn of(call: Call, message: &Value) -> Self {
        let response = call.message(message).open().await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/connect+json");
        Self { response, read: Vec::new() }
    }

    /// Flag and message; `None` when the connection ends.
    async fn next(&mut self) -> Option<(u8, Value)> {
        loop {
            if let Some((head, rest)) = self.read.split_first_chunk::<5>() {
                let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                if rest.len() >= length {
                    let found = (head[0], serde_json::from_slice(&rest[..length]).unwrap());
                    self.read.drain(..5 + length);
                    return Some(found);
                }
            }
            match self.response.chunk().await.unwrap() {
                Some(piece) => self.read.extend_from_slice(&piece),
                None => {
                    assert!(self.read.is_empty(), "the connection ends within a message");
                    return None;
                }
            }
        }
    }

    async fn event(&mut self) -> Value {
        let (flag, message) = self.next().await.expect("a message");
        assert_eq!(flag, 0, "{message}");
        message["event"].clone()
    }

    async fn pid(&mut self) -> u64 {
        self.event().await["start"]["pid"].as_u64().expect("the first event says the number")
    }

    /// Everything that is left: hash and size of the output, the event that ends it and the frame that ends the stream.
    async fn rest(mut self) -> Rest {
        let mut rest = Rest::default();
        let mut hasher = Hasher::default();
        while let Some((flag, message)) = self.next().await {
            assert!(rest.last.is_null(), "{message} after the end of the stream");
            match flag {
                wire::END_OF_STREAM => rest.last = message,
                _ if message["event"]["end"].is_object() => rest.end = message["event"]["end"].clone(),
                _ => {
                    let data = &message["event"]["data"];
                    let text = data["stdout"].as_str().or(data["stderr"].as_str()).unwrap_or_default();
                    let bytes = base64::decoded(text).unwrap();
                    hasher.update(&bytes);
                    rest.bytes += bytes.len();
                }
            }
        }
        rest.hash = hasher.finish().to_string();
        rest
    }
}

#[derive(Debug, Default)]
struct Rest {
    hash: String,
    bytes: usize,
    end: Value,
    last: Value,
}

/// A server with one sandbox.
struct Desk {
    bench: Bench,
    sandbox: wire::Created,
}

impl Desk {
    async fn new() -> Self {
        let bench = Bench::new().await;
        let sandbox = bench.create().await;
        Self { bench, sandbox }
    }

    fn call(&self, method: &str) -> Call {
        self.bench.inside(&self.sandbox, "POST", &format!("/process.Process/{method}"))
    }

    async fn start(&self, line: &str, stdin: bool) -> Messages {
        let process = json!({"cmd": "/bin/sh", "args": ["-c", line]});
        Messages::of(self.call("Start"), &json!({"process": process, "stdin": stdin})).await
    }

    async fn connect(&self, pid: u64) -> Messages {
        Messages::of(self.call("Connect"), &json!({"process": {"pid": pid}})).await
    }

    async fn said(&self, line: &str) -> Rest {
        self.start(line, false).await.rest().await
    }

    async fn listed(&self) -> usize {
        let answer = self.call("List").json(&json!({})).send().await;
        answer.json()["processes"].as_array().unwrap().len()
    }
}

fn of_lines(count: u32) -> (String, usize) {
    let (mut hasher, mut bytes) = (Hasher::default(), 0);
    for n in 1..=count {
        let line = format!("{n}\n");
        hasher.update(line.as_bytes());
        bytes += line.len();
    }
    (hasher.finish().to_string(), bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_watchers_get_all_of_it_whoever_leaves() {
    let desk = Desk::new().await;
    let mut starter = desk.start("read go; seq 1 200000", true).await;
    let pid = starter.pid().await;
    let mut watchers = Vec::new();
    for _ in 0..10 {
        let mut watcher = desk.connect(pid).await;
        assert_eq!(watcher.pid().await, pid);
        watchers.push(watcher);
    }
    let input = json!({"process": {"pid": pid}, "input": {"stdin": base64::base64(b"go\n")}});
    assert_eq!(desk.call("SendInput").json(&input).send().await.status, 200);
    // Three leave in the middle, among them who has started it.
    starter.event().await;
    drop(starter);
    for mut watcher in watchers.drain(..2) {
        watcher.event().await;
    }
    let (hash, bytes) = of_lines(200_000);
    let rests = futures_util::future::join_all(watchers.into_iter().map(Messages::rest)).await;
    assert_eq!(rests.len(), 8);
    for rest in rests {
        assert_eq!((rest.hash.as_str(), rest.bytes, &rest.last), (hash.as_str(), bytes, &json!({})));
        assert_eq!(rest.end["status"], "exit status 0");
    }
    desk.bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_who_does_not_read_loses_nothing_and_holds_nobody_else_up() {
    let desk = Desk::new().await;
    // More than all buffers on the way hold.
    let mut slow = desk.start("seq 1 2000000; echo over >over", false).await;
    slow.pid().await;
    for _ in 0..3 {
        assert_eq!(desk.said("echo quick").await.bytes, 6);
    }
    assert_eq!(desk.said("cat over").await.end["exitCode"], 1, "it waits until it is read");
    let rest = slow.rest().await;
    let (hash, bytes) = of_lines(2_000_000);
    assert_eq!((rest.hash, rest.bytes, rest.last), (hash, bytes, json!({})));
    assert_eq!(desk.said("cat over").await.bytes, 5);
    desk.bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_under_which_all_ends_says_so() {
    let desk = Desk::new().await;
    let sandbox = &desk.sandbox.sandbox_id;
    // One that reads, and one that has stopped reading.
    let mut reads = desk.start("sleep 1000", false).await;
    reads.pid().await;
    let mut stuck = desk.start("exec yes", false).await;
    stuck.pid().await;
    stuck.event().await;
    assert_eq!(desk.bench.call("DELETE", &format!("/sandboxes/{sandbox}")).send().await.status, 204);
    for rest in [reads.rest().await, stuck.rest().await] {
        assert_eq!((&rest.last["error"]["code"], &rest.end), (&json!("unavailable"), &Value::Null), "{rest:?}");
    }
    // The same when the server ends.
    let other = Desk { sandbox: desk.bench.create().await, bench: desk.bench };
    let mut watched = other.start("sleep 1000", false).await;
    watched.pid().await;
    let (rest, _) = tokio::join!(watched.rest(), other.bench.close());
    assert_eq!(rest.last["error"]["code"], "unavailable", "{rest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_ends_the_process_for_its_starter_and_the_watch_for_others() {
    let desk = Desk::new().await;
    let process = json!({"process": {"cmd": "sleep", "args": ["1000"]}, "stdin": false});
    let mut starter = Messages::of(desk.call("Start").header("connect-timeout-ms", "4000"), &process).await;
    let pid = starter.pid().await;
    let watcher = desk.connect(pid).await;
    let (starter, watcher) = tokio::join!(starter.rest(), watcher.rest());
    assert_eq!((starter.last["error"]["code"].as_str(), &starter.end), (Some("deadline_exceeded"), &Value::Null));
    assert_eq!((watcher.end["exitCode"].as_i64(), watcher.end["exited"].as_bool()), (Some(-1), Some(false)));
    assert_eq!((watcher.end["status"].as_str(), watcher.last), (Some("signal: killed"), json!({})));
    assert_eq!(desk.listed().await, 0, "the stream ends when the process has ended");

    // Who stops watching ends nothing; and a stream that is quiet shows that it lives.
    let mut lives = Messages::of(desk.call("Start").header("keepalive-ping-interval", "1"), &process).await;
    let pid = lives.pid().await;
    assert_eq!(lives.event().await, json!({"keepalive": {}}));
    let asked = json!({"process": {"pid": pid}});
    let watched = Messages::of(desk.call("Connect").header("connect-timeout-ms", "200"), &asked).await.rest().await;
    assert_eq!((watched.last["error"]["code"].as_str(), desk.listed().await), (Some("deadline_exceeded"), 1));
    // Nobody watches any more.
    drop(lives);
    let signal = json!({"process": {"pid": pid}, "signal": "SIGNAL_SIGTERM"});
    assert_eq!(desk.call("SendSignal").json(&signal).send().await.status, 200);
    until("it has ended", async || desk.listed().await == 0).await;
    desk.bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_short_processes_leave_nothing() {
    let desk = Desk::new().await;
    for _ in 0..25 {
        let twenty = (0..20).map(|n| {
            let desk = &desk;
            async move { (n, desk.said(&format!("exit {n}")).await) }
        });
        for (n, rest) in futures_util::future::join_all(twenty).await {
            let error = (n != 0).then(|| format!("exit status {n}"));
            assert_eq!(
                (rest.end["exitCode"].as_i64().unwrap_or_default(), rest.end["error"].as_str()),
                (n, error.as_deref())
            );
        }
    }
    until("none is listed", async || desk.listed().await == 0).await;
    desk.bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_in_other_forms_are_refused_with_the_reason() {
    let desk = Desk::new().await;
    for (name, value, status, code) in [
        ("content-encoding", "gzip", 501, "unimplemented"),
        ("connect-protocol-version", "7", 400, "invalid_argument"),
        ("authorization", "Basic cm9vdDo=", 401, "unauthenticated"),
    ] {
        let answer = desk.call("List").header(name, value).json(&json!({})).send().await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (status, Some(code)), "{name}: {value}");
    }
    let large = desk.call("SendInput").header("content-type", "application/json").body(vec![b' '; (16 << 20) + 1]);
    let answer = large.send().await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (429, Some("resource_exhausted")));
    let started = json!({"process": {"cmd": "true"}});
    for (name, value, code) in [
        ("connect-content-encoding", "gzip", "unimplemented"),
        ("authorization", "Basic cm9vdDo=", "unauthenticated"),
        ("connect-timeout-ms", "99999999999", "invalid_argument"),
    ] {
        let rest = Messages::of(desk.call("Start").header(name, value), &started).await.rest().await;
        assert_eq!(rest.last["error"]["code"], code, "{name}: {value}");
    }
    let cwd = json!({"process": {"cmd": "true", "cwd": "/no/such"}});
    let rest = Messages::of(desk.call("Start"), &cwd).await.rest().await;
    assert_eq!(rest.last["error"]["code"], "invalid_argument");
    assert!(rest.last["error"]["message"].as_str().unwrap().contains("cwd '/no/such' does not exist"), "{rest:?}");
    let rest = Messages::of(desk.call("Start"), &json!({"process": {"cmd": "/no/such"}})).await.rest().await;
    assert_eq!(rest.last["error"]["code"], "invalid_argument", "{rest:?}");

    // Input as a stream, one piece of it in the other alphabet of base64; what is closed takes none.
    let mut asked = desk.start("od -An -tx1", true).await;
    let process = json!({"process": {"pid": asked.pid().await}});
    let messages = [
        json!({"start": process}),
        json!({"keepalive": {}}),
        json!({"data": {"input": {"stdin": "-_8"}}}),
        json!({"data": {"input": {"stdin": base64::base64(&[0, 255])}}, "unknown": null}),
    ];
    let body: Vec<u8> = messages.iter().flat_map(|message| wire::frame(0, message.to_string().as_bytes())).collect();
    let call = desk.call("StreamInput").header("content-type", "application/connect+json").body(body);
    let frames = tokio::time::timeout(Duration::from_secs(60), call.send()).await.unwrap().frames();
    assert_eq!(frames, [(0, json!({})), (wire::END_OF_STREAM, json!({}))]);
    assert_eq!(desk.call("CloseStdin").json(&process).send().await.status, 200);
    let mut text = String::new();
    while let Some((0, message)) = asked.next().await {
        let stdout = message["event"]["data"]["stdout"].as_str().unwrap_or_default();
        text.push_str(&String::from_utf8(base64::decoded(stdout).unwrap()).unwrap());
    }
    assert_eq!(text, " fb ff 00 ff\n");
    desk.bench.close().await;
}
