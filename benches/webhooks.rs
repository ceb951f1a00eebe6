//! Ten thousand deliveries of Sentry's webhooks over real sockets, half of them repetitions, some forged, some stale: how long each
//! waits for its answer, which comes only when it is on disk.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nightcrew::base::clock::Timestamp;
use nightcrew::base::env::Env;
use nightcrew::base::scope::Scope;
use nightcrew::base::secret::Secret;
use nightcrew::domain::finding::Standing;
use nightcrew::http::Listener;
use nightcrew::journal::{Journal, OpenOptions};
use nightcrew::triggers::hook::Hooks;
use nightcrew::triggers::sentry::{Handle, HookSetup, Origin, Watch, handler};
use ring::hmac;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::table::{Bar, Line};
use crate::{runtime, scratch};

const DELIVERIES: usize = 10_000;
/// Distinct ones among the genuine.
const DISTINCT: usize = 4_500;
const ISSUES: usize = 900;
const CONNECTIONS: usize = 32;
const SECRET: &str = "4f1d9a7c3e5b2806";

pub fn webhooks() -> Vec<Line> {
    let (mut waits, total) = runtime().block_on(deliver());
    waits.sort_by(f64::total_cmp);
    let at = |share: usize| waits[(waits.len() - 1) * share / 100];
    let line = |name, figure, unit, bar| Line { name, figure, unit, bar, floor: None };
    vec![
        line("10,000 webhook deliveries, 99 % answered within", at(99), "ms", Bar::AtMost(100.0)),
        line("  half of them", at(50), "ms", Bar::None),
        line("  deliveries a second", DELIVERIES as f64 / total.as_secs_f64(), "/s", Bar::None),
    ]
}

/// One request as bytes, and the status that is right for it; 0: noted or seen before.
fn request(n: usize, now: Timestamp) -> (Vec<u8>, u16) {
    let (forged, stale) = (n % 20 == 7, n % 20 == 13);
    let number = n * 7_919 % DISTINCT;
    let id = 1_000 + number % ISSUES;
    let body = json!({"action": "created", "data": {"issue": {
        "id": id.to_string(), "shortId": format!("API-{id}"), "title": format!("ValueError: {number}"), "status": "unresolved", "substatus": "new",
        "count": (number / ISSUES + 1).to_string(), "userCount": 1, "lastSeen": now.to_string(), "project": {"id": "42", "slug": "api"},
        "metadata": {"type": "ValueError", "value": "x".repeat(1_500)}, "culprit": "app.billing in share",
    }}});
    let body = body.to_string();
    let key = hmac::Key::new(hmac::HMAC_SHA256, if forged { b"another" } else { SECRET.as_bytes() });
    let signature: String =
        hmac::sign(&key, body.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let sent = now.as_second() - if stale { 900 } else { 0 };
    let head = format!(
        "POST /hooks/sentry HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\nsentry-hook-resource: issue\r\nsentry-hook-timestamp: {sent}\r\n\
         sentry-hook-signature: {signature}\r\nrequest-id: r-{number}\r\n\r\n{body}",
        body.len()
    );
    (head.into_bytes(), if forged || stale { 401 } else { 0 })
}

/// How long each waited, in milliseconds.
async fn deliver() -> (Vec<f64>, Duration) {
    let folder = scratch();
    let env = Env::system();
    let journal = Journal::open(folder.path(), OpenOptions::new(env.clone(), "bench")).unwrap();
    let handle = Handle::new(journal.clone());
    let watch = Watch {
        pipeline: "fix".into(),
        project: "api".into(),
        origin: Origin::Sentry,
        when: vec![Standing::New],
        debounce: Duration::from_secs(600),
        every: Duration::from_secs(300),
    };
    handle.set_watches(vec![watch]);
    let setup = HookSetup {
        handle,
        env: env.clone(),
        secrets: Arc::new(|| Ok(vec![Secret::new("another one, while it is rotated"), Secret::new(SECRET)])),
        organization: Arc::new(|| None),
    };
    let mut hooks = Hooks::default();
    hooks.add("sentry", handler(setup));
    let scope = Scope::new(tokio::runtime::Handle::current());
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.address().unwrap();
    listener.serve_hooks(&scope, hooks);
    let now = env.now();
    let began = Instant::now();
    let senders = (0..CONNECTIONS).map(|connection| {
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut waits = Vec::new();
            let mut counts = [0_usize; 3];
            for n in (connection..DELIVERIES).step_by(CONNECTIONS) {
                let (bytes, expected) = request(n, now);
                let sent = Instant::now();
                stream.write_all(&bytes).await.unwrap();
                let status = answer(&mut stream).await;
                waits.push(sent.elapsed().as_secs_f64() * 1e3);
                match (expected, status) {
                    (0, 202) => counts[0] += 1,
                    (0, 200) => counts[1] += 1,
                    (401, 401) => counts[2] += 1,
                    other => panic!("delivery {n}: {other:?}"),
                }
            }
            (waits, counts)
        })
    });
    let (mut waits, mut counts) = (Vec::new(), [0_usize; 3]);
    for sender in senders.collect::<Vec<_>>() {
        let (its, counted) = sender.await.unwrap();
        waits.extend(its);
        counts.iter_mut().zip(counted).for_each(|(all, one)| *all += one);
    }
    let total = began.elapsed();
    let genuine: std::collections::BTreeSet<usize> =
        (0..DELIVERIES).filter(|n| request(*n, now).1 == 0).map(|n| n * 7_919 % DISTINCT).collect();
    assert_eq!(counts[0], genuine.len(), "each genuine one is noted once");
    assert_eq!(counts.iter().sum::<usize>(), DELIVERIES);
    let issues: std::collections::BTreeSet<usize> = genuine.iter().map(|number| number % ISSUES).collect();
    assert_eq!(journal.reader().dropped_errors("fix").unwrap(), (0, issues.len() as u64), "one row for each error");
    assert!(scope.close(Duration::from_secs(5)).await.is_empty());
    (waits, total)
}

/// The status of an answer; its body is read.
async fn answer(stream: &mut TcpStream) -> u16 {
    let mut buffer = Vec::new();
    let end = loop {
        stream.read_buf(&mut buffer).await.unwrap();
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok()).unwrap_or(0);
    while buffer.len() < end + length {
        stream.read_buf(&mut buffer).await.unwrap();
    }
    head.split(' ').nth(1).unwrap().parse().unwrap()
}
