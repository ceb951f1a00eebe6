//! Errors taken in: real events of Sentry's Python SDK, compressed as it sends them, over HTTP until they are decoded, grouped and on
//! disk; beside the least of that work.

use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use nightcrew::base::scope::Scope;
use nightcrew::base::secret::{SecretRef, SecretSource};
use nightcrew::config::settings::IntakeProject;
use nightcrew::http::Listener;
use nightcrew::http::intake::IntakeSetup;
use nightcrew::journal::ErrorBounds;
use nightcrew::policy::errors::private::Hidden;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use crate::table::{Bar, Line, median};
use crate::world::World;
use crate::{runtime, scratch};

const GOLDEN: &str = include_str!("../tests/conformance/sentry/golden/python.envelope");
const EVENTS: usize = 6_000;
/// Causes of which the events are, in turn.
const GROUPS: usize = 200;
const SENDERS: usize = 16;

/// Envelopes as they come over the wire, each of its own event: `groups` causes, a thousand users.
fn envelopes(groups: usize, of: u32) -> Vec<Vec<u8>> {
    let event = GOLDEN.lines().nth(2).unwrap();
    let mut event: serde_json::Value = serde_json::from_str(event).unwrap();
    (0..EVENTS)
        .map(|n| {
            event["event_id"] = format!("{of:08x}{n:024x}").into();
            event["user"]["id"] = format!("u-{}", n % 1_000).into();
            event["timestamp"] = (jiff::Timestamp::now().as_millisecond() as f64 / 1e3).into();
            let frames = event["exception"]["values"][1]["stacktrace"]["frames"].as_array_mut().unwrap();
            frames.last_mut().unwrap()["function"] = format!("price_{}", n % groups).into();
            let text = event.to_string();
            let body = format!("{{}}\n{{\"type\":\"event\",\"length\":{}}}\n{text}\n", text.len());
            let mut gzip = flate2::read::GzEncoder::new(body.as_bytes(), flate2::Compression::new(9));
            let mut packed = Vec::new();
            gzip.read_to_end(&mut packed).unwrap();
            packed
        })
        .collect()
}

/// Sends all of them over connections that stay, and waits for each answer.
async fn send(address: SocketAddr, envelopes: Arc<Vec<Vec<u8>>>) {
    let next = Arc::new(AtomicUsize::new(0));
    let senders = (0..SENDERS).map(|_| {
        let (next, envelopes) = (next.clone(), envelopes.clone());
        tokio::task::spawn(async move {
            let mut stream = BufReader::new(tokio::net::TcpStream::connect(address).await.unwrap());
            while let Some(body) = envelopes.get(next.fetch_add(1, Ordering::Relaxed)) {
                let head = format!(
                    "POST /api/42/envelope/ HTTP/1.1\r\nhost: x\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\
                     x-sentry-auth: Sentry sentry_key=benchkey, sentry_version=7\r\n\r\n",
                    body.len()
                );
                let request = [head.as_bytes(), body].concat();
                stream.get_mut().write_all(&request).await.unwrap();
                let (mut line, mut length, mut first) = (String::new(), 0, true);
                loop {
                    line.clear();
                    stream.read_line(&mut line).await.unwrap();
                    assert!(!first || line.starts_with("HTTP/1.1 200"), "{line}");
                    first = false;
                    if let Some(said) = line.strip_prefix("content-length: ") {
                        length = said.trim().parse().unwrap();
                    }
                    if line == "\r\n" {
                        break;
                    }
                }
                let mut answer = vec![0; length];
                stream.read_exact(&mut answer).await.unwrap();
            }
        })
    });
    join_all(senders).await.into_iter().for_each(|done| done.unwrap());
}

/// Taken out of gzip, read as JSON, inserted: one thread, no groups.
fn least(conn: &rusqlite::Connection, envelopes: &[Vec<u8>]) {
    for hundred in envelopes.chunks(100) {
        conn.execute_batch("BEGIN").unwrap();
        for body in hundred {
            let mut text = String::new();
            flate2::read::GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
            let event: serde_json::Value = serde_json::from_str(text.lines().nth(2).unwrap()).unwrap();
            let id = event["event_id"].as_str().unwrap();
            let mut insert = conn.prepare_cached("INSERT INTO events (id, body) VALUES (?1, ?2)").unwrap();
            insert.execute((id, body)).unwrap();
        }
        conn.execute_batch("COMMIT").unwrap();
    }
}

pub fn intake() -> Vec<Line> {
    let (folder, runtime) = (scratch(), runtime());
    let world = World::at(folder.path(), "http://127.0.0.1:9");
    let conn = rusqlite::Connection::open(folder.path().join("bare.db")).unwrap();
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4000;
         CREATE TABLE events (no INTEGER PRIMARY KEY, id TEXT, body BLOB);",
    )
    .unwrap();
    std::fs::write(folder.path().join("intake.key"), "benchkey\n").unwrap();
    let source = SecretSource::Files(vec![folder.path().join("intake.key")]);
    let key = SecretRef { name: "INTAKE".into(), source };
    let project = IntakeProject { id: 42, name: "api".into(), key, max_per_minute: Some(u32::MAX) };
    let (mut many, mut one, mut floor) = (Vec::new(), Vec::new(), Vec::new());
    runtime.block_on(async {
        let journal = world.journal();
        let scope = Scope::new(tokio::runtime::Handle::current());
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.address().unwrap();
        let setup = IntakeSetup {
            env: world.env.clone(),
            journal: journal.clone(),
            bounds: ErrorBounds::default(),
            projects: Arc::new(move |id| (id == 42).then(|| project.clone())),
            hidden: Arc::new(|| Arc::new(Hidden::new(&["email".into(), "ip".into()]))),
            news: Arc::new(|_| {}),
        };
        listener.serve_intake(&scope, setup);
        for round in 0..3 {
            for (groups, figures) in [(GROUPS, &mut many), (1, &mut one)] {
                let all = Arc::new(envelopes(groups, round * 2 + u32::from(groups == 1)));
                let began = Instant::now();
                send(address, all.clone()).await;
                figures.push(EVENTS as f64 / began.elapsed().as_secs_f64());
                if groups > 1 {
                    let began = Instant::now();
                    least(&conn, &all);
                    floor.push(EVENTS as f64 / began.elapsed().as_secs_f64());
                }
            }
        }
        let counted: u64 = journal.reader().error_groups(None, 1_000).unwrap().iter().map(|group| group.count).sum();
        assert_eq!(counted, 6 * EVENTS as u64, "every event counts");
        assert!(scope.close(Duration::from_secs(10)).await.is_empty());
        journal.close().await.unwrap();
    });
    vec![
        Line {
            name: "errors taken in over HTTP, decoded, grouped, on disk",
            figure: median(many),
            unit: "/s",
            bar: Bar::AtLeast(2_000.0),
            floor: Some(("gunzip, parse and insert, 100 a transaction, one thread", median(floor))),
        },
        Line {
            name: "the same, a flood of one group",
            figure: median(one),
            unit: "/s",
            bar: Bar::AtLeast(2_000.0),
            floor: None,
        },
    ]
}
