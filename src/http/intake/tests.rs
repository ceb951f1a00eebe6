//! The intake over real sockets.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Mutex;

use flate2::Compression;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::base::clock::ManualClock;
use crate::base::ids::SeededIds;
use crate::base::secret::{SecretRef, SecretSource};
use crate::domain::error_group::{ErrorGroupLine, ErrorStanding};
use crate::journal::OpenOptions;

struct Bench {
    folder: tempfile::TempDir,
    clock: ManualClock,
    journal: Journal,
    scope: Scope,
    address: SocketAddr,
    news: Arc<Mutex<Vec<ErrorStanding>>>,
}

struct Answer {
    status: u16,
    head: String,
    body: Value,
}

impl Bench {
    async fn start(max_per_minute: Option<u32>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::new("2026-11-20T12:00:00Z".parse().unwrap());
        let env = Env { clock: Arc::new(clock.clone()), ids: Arc::new(SeededIds::new(3)) };
        let journal = Journal::open(&folder.path().join("state"), OpenOptions::new(env.clone(), "b")).unwrap();
        let scope = Scope::new(tokio::runtime::Handle::current());
        std::fs::write(folder.path().join("key"), "thekey\n").unwrap();
        let source = SecretSource::Files(vec![folder.path().join("key")]);
        let key = SecretRef { name: "KEY".into(), source };
        let project = IntakeProject { id: 42, name: "api".into(), key, max_per_minute };
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.address().unwrap();
        let news: Arc<Mutex<Vec<ErrorStanding>>> = Arc::default();
        let heard = news.clone();
        let setup = IntakeSetup {
            env,
            journal: journal.clone(),
            bounds: ErrorBounds::default(),
            projects: Arc::new(move |id| (id == 42).then(|| project.clone())),
            hidden: Arc::new(|| Arc::new(Hidden::new(&["email".into()]))),
            news: Arc::new(move |standings| heard.lock().unwrap().extend(standings)),
        };
        listener.serve_intake(&scope, setup);
        Self { folder, clock, journal, scope, address, news }
    }

    async fn raw(&self, request: &[u8]) -> Answer {
        let mut stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let head = head.to_ascii_lowercase();
        assert!(head.contains("access-control-allow-origin: *"), "{head}");
        Answer { status, head, body: serde_json::from_str(body).unwrap_or_default() }
    }

    /// With the key in the header, and more of those.
    async fn post(&self, path: &str, headers: &str, body: &[u8]) -> Answer {
        let auth = "X-Sentry-Auth: Sentry sentry_key=thekey, sentry_version=7, sentry_client=t/1\r\n";
        self.bare(path, &format!("{auth}{headers}"), body).await
    }

    async fn bare(&self, path: &str, headers: &str, body: &[u8]) -> Answer {
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
        );
        self.raw(&[head.as_bytes(), body].concat()).await
    }

    fn groups(&self) -> Vec<ErrorGroupLine> {
        self.journal.reader().error_groups(None, 100).unwrap()
    }

    fn count(&self) -> u64 {
        self.groups().iter().map(|group| group.count).sum()
    }

    async fn drops(&self) -> Vec<(String, u64)> {
        // They are written once a second.
        for _ in 0..2_000 {
            self.clock.advance(FLUSH);
            let drops = self.journal.reader().error_drops(jiff::Timestamp::UNIX_EPOCH).unwrap();
            if !drops.is_empty() {
                return drops.into_iter().map(|drop| (drop.reason, drop.count)).collect();
            }
            tokio::task::yield_now().await;
        }
        Vec::new()
    }

    async fn end(self) {
        assert!(self.scope.close(Duration::from_secs(10)).await.is_empty());
    }
}

fn event(n: u32) -> String {
    json!({"event_id": format!("{n:032x}"), "level": "error", "exception": {"values": [{"type": "E", "value": "boom"}]}})
        .to_string()
}

fn envelope(n: u32) -> Vec<u8> {
    format!("{{\"event_id\":\"{n:032x}\"}}\n{{\"type\":\"event\"}}\n{}\n", event(n)).into_bytes()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

const ENVELOPE: &str = "/api/42/envelope/";

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_on_disk_when_it_is_answered_whichever_way_it_comes() {
    let bench = Bench::start(None).await;
    let zlib = |bytes: &[u8]| {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let deflate = |bytes: &[u8]| {
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = |bytes: &[u8]| ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest);
    // `envelope-6.br` was made with the `brotli` of PyPI.
    let ways: Vec<(&str, &str, Vec<u8>)> = vec![
        (ENVELOPE, "", envelope(1)),
        (
            "/api/42/envelope",
            "content-type: application/x-sentry-envelope\r\ncontent-encoding: gzip\r\n",
            gzip(&envelope(2)),
        ),
        (ENVELOPE, "content-encoding: deflate\r\n", zlib(&envelope(3))),
        (ENVELOPE, "content-encoding: deflate\r\n", deflate(&envelope(4))),
        (ENVELOPE, "content-encoding: zstd\r\n", zstd(&envelope(5))),
        (ENVELOPE, "content-encoding: br\r\n", include_bytes!("envelope-6.br").to_vec()),
        ("/api/42/store/", "content-type: text/plain\r\n", event(7).into_bytes()),
        ("/api/42/store", "content-encoding: gzip\r\n", gzip(event(8).as_bytes())),
    ];
    for (n, (path, headers, body)) in (1_u32..).zip(ways) {
        let answer = bench.post(path, headers, &body).await;
        assert_eq!(
            (answer.status, answer.body),
            (200, json!({"id": format!("{n:032x}")})),
            "{headers} {}",
            answer.head
        );
        assert_eq!(bench.count(), u64::from(n));
    }
    let text = String::from_utf8(envelope(9)).unwrap();
    let (a, b) = text.split_at(50);
    let chunked = format!(
        "POST {ENVELOPE}?sentry_version=7&sentry_key=thekey&sentry_client=x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         transfer-encoding: chunked\r\n\r\n{:x}\r\n{a}\r\n{:x}\r\n{b}\r\n0\r\n\r\n",
        a.len(),
        b.len()
    );
    assert_eq!(bench.raw(chunked.as_bytes()).await.status, 200);
    // Sent again: counted once.
    assert_eq!(bench.post(ENVELOPE, "", &envelope(9)).await.status, 200);
    assert_eq!((bench.count(), bench.groups().len()), (9, 1));
    assert_eq!(bench.news.lock().unwrap().last().unwrap().count, 9);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_key_that_is_valid_now_opens_its_project() {
    let bench = Bench::start(None).await;
    let dsn = |key: &str| {
        format!("{{\"dsn\":\"http://{key}@127.0.0.1:1/42\"}}\n{{\"type\":\"event\"}}\n{}\n", event(1)).into_bytes()
    };
    let auth = |key: &str| format!("Authorization: Sentry sentry_key={key}\r\n");
    for (path, headers, body, status) in [
        (ENVELOPE, auth("thekey"), envelope(1), 200),
        (ENVELOPE, String::new(), dsn("thekey"), 200),
        ("/api/42/envelope/?sentry_key=thekey", String::new(), envelope(1), 200),
        (ENVELOPE, auth("thekex"), envelope(2), 403),
        (ENVELOPE, auth("thekexthekex"), dsn("thekey"), 403),
        (ENVELOPE, String::new(), dsn("thekex"), 403),
        (ENVELOPE, String::new(), envelope(2), 403),
        (ENVELOPE, "Authorization: Bearer thekey\r\n".into(), envelope(2), 403),
        ("/api/42/envelope/?sentry_key=", String::new(), envelope(2), 403),
        ("/api/43/envelope/", auth("thekey"), envelope(2), 403),
        ("/api/api/envelope/", auth("thekey"), envelope(2), 403),
        ("/api/42/store/", String::new(), event(2).into_bytes(), 403),
    ] {
        let answer = bench.bare(path, &headers, &body).await;
        assert_eq!(answer.status, status, "{path} {headers} {}", answer.head);
    }
    // The key is replaced while the intake runs.
    std::fs::write(bench.folder.path().join("key"), "newkey\n").unwrap();
    assert_eq!(bench.bare(ENVELOPE, &auth("thekey"), &envelope(3)).await.status, 403);
    assert_eq!(bench.bare(ENVELOPE, &auth("newkey"), &envelope(3)).await.status, 200);
    std::fs::remove_file(bench.folder.path().join("key")).unwrap();
    assert_eq!(bench.bare(ENVELOPE, &auth("newkey"), &envelope(4)).await.status, 503);
    assert_eq!(bench.count(), 2);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_in_is_told_and_loses_nothing_else() {
    let bench = Bench::start(None).await;
    let mixed = [
        &envelope(1)[..],
        b"{\"type\":\"session\",\"length\":2}\n{}\n{\"type\":\"event\"}\n{broken\n{\"type\":\"transaction\"}\n{\"type\":\"transaction\"}\n",
        b"{\"type\":\"event\",\"length\":99}\n{\"message\":\"of its own\",\"a\":1",
    ]
    .concat();
    let answer = bench.post(ENVELOPE, "", &mixed).await;
    assert_eq!((answer.status, &answer.body), (200, &json!({"id": format!("{:032x}", 1)})));
    assert_eq!(bench.count(), 1, "the last item is shorter than its length says");
    let session = b"{}\n{\"type\":\"session\"}\n{}\n";
    let answer = bench.post(ENVELOPE, "", session).await;
    assert_eq!((answer.status, answer.body), (200, json!({})));
    let large = format!("{{\"message\":\"{}\"}}", "x".repeat(1 << 20));
    let bomb = gzip(&[b"{}\n{\"type\":\"attachment\"}\n".as_slice(), &vec![b'x'; 101 << 20]].concat());
    assert!(bomb.len() < 200_000);
    for (path, headers, body, status) in [
        (ENVELOPE, "", b"no envelope".to_vec(), 400),
        (ENVELOPE, "", Vec::new(), 400),
        (ENVELOPE, "", b"{}\n{\"type\":\"event\"}\nno json\n".to_vec(), 400),
        (ENVELOPE, "content-encoding: gzip\r\n", envelope(2), 400),
        (ENVELOPE, "content-encoding: br\r\n", b"\x81\x81\x81\x81".to_vec(), 400),
        // Large windows: 1 GB, and in zstd 128 MB.
        (ENVELOPE, "content-encoding: br\r\n", b"\x91\x1e\x00\x00".to_vec(), 400),
        (ENVELOPE, "content-encoding: zstd\r\n", b"\x28\xb5\x2f\xfd\x00\x88\x01\x00\x00".to_vec(), 400),
        (ENVELOPE, "content-encoding: zstd\r\n", envelope(2), 400),
        (ENVELOPE, "content-encoding: lzma\r\n", envelope(2), 400),
        (ENVELOPE, "content-encoding: gzip\r\n", bomb, 413),
        (ENVELOPE, "", format!("{{}}\n{{\"type\":\"event\"}}\n{large}\n").into_bytes(), 413),
        ("/api/42/store/", "", large.into_bytes(), 413),
        ("/api/42/store/", "", b"[]".to_vec(), 400),
        ("/api/42/minidump/", "", Vec::new(), 404),
    ] {
        if status == 404 {
            continue;
        }
        let answer = bench.post(path, headers, &body).await;
        assert_eq!(answer.status, status, "{path} {headers} {}", answer.head);
        assert!(answer.body["detail"].is_string() && answer.head.contains("x-sentry-error: "), "{}", answer.head);
    }
    let head = format!(
        "POST {ENVELOPE}?sentry_key=thekey HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 20971521\r\n\r\n"
    );
    assert_eq!(bench.raw(head.as_bytes()).await.status, 413, "before anything of it has come");
    assert_eq!(bench.count(), 1);
    let drops = bench.drops().await;
    assert_eq!(drops, [("too_large".to_owned(), 1), ("unreadable".to_owned(), 3)]);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_that_has_had_its_share_is_told_to_wait_and_what_it_lost_is_counted() {
    let bench = Bench::start(Some(60)).await;
    let many: Vec<u8> = (0..16).fold(b"{}\n".to_vec(), |all, n| {
        [all, format!("{{\"type\":\"event\"}}\n{}\n", event(n)).into_bytes()].concat()
    });
    for _ in 0..3 {
        assert_eq!(bench.post(ENVELOPE, "", &many).await.status, 200);
    }
    // 12 are left; the whole envelope does not fit.
    let refused = bench.post(ENVELOPE, "", &many).await;
    assert_eq!(refused.status, 429);
    assert!(refused.head.contains("\r\nretry-after: 10\r\n"), "{}", refused.head);
    assert!(refused.head.contains("x-sentry-rate-limits: 10:error;default:project:too_many"), "{}", refused.head);
    assert!(refused.head.contains("access-control-expose-headers: retry-after, "), "{}", refused.head);
    for n in 0..12 {
        assert_eq!(bench.post(ENVELOPE, "", &envelope(100 + n)).await.status, 200);
    }
    assert_eq!(bench.post(ENVELOPE, "", &envelope(200)).await.status, 429);
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(bench.post(ENVELOPE, "", &envelope(200)).await.status, 200);
    // What SDKs report of what they did not send takes nothing.
    assert_eq!(bench.post(ENVELOPE, "", b"{}\n{\"type\":\"client_report\"}\n{}\n").await.status, 200);
    let drops = bench.drops().await;
    assert_eq!(drops, [("limit".to_owned(), 17)]);
    // But nobody reads on for ever.
    let mut refused = 0;
    for _ in 0..200 {
        refused += u32::from(bench.post(ENVELOPE, "", b"{}\n{\"type\":\"session\"}\n{}\n").await.status == 429);
    }
    assert!(refused > 0);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_may_send_and_hidden_fields_are_not_even_kept() {
    let bench = Bench::start(None).await;
    let asked = format!(
        "OPTIONS {ENVELOPE} HTTP/1.1\r\nhost: x\r\nconnection: close\r\norigin: https://shop.example\r\n\
         access-control-request-method: POST\r\naccess-control-request-headers: x-sentry-auth\r\n\r\n"
    );
    let preflight = bench.raw(asked.as_bytes()).await;
    assert_eq!(preflight.status, 200);
    assert!(
        preflight.head.contains("access-control-allow-methods: post, options")
            && preflight.head.contains("x-sentry-auth")
    );
    let event = json!({"event_id": "a".repeat(32), "message": "x", "user": {"id": "CANARY"}, "tags": {"email": "CANARY"},
        "request": {"url": "http://x/?t=CANARY"}});
    assert_eq!(
        bench.post("/api/42/store/", "origin: https://shop.example\r\n", event.to_string().as_bytes()).await.status,
        200
    );
    let group = bench.groups().remove(0);
    let kept = bench.journal.reader().error_events("api", &group.key).unwrap();
    assert_eq!((group.users, kept.len()), (1, 1));
    assert!(!kept[0].to_string().contains("CANARY"), "{}", kept[0]);
    for file in ["nightcrew.db", "nightcrew.db-wal"] {
        let bytes = std::fs::read(bench.folder.path().join("state").join(file)).unwrap_or_default();
        assert!(memchr::memmem::find(&bytes, b"CANARY").is_none(), "{file}");
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_one_group_is_counted_whole_and_takes_little_room() {
    let bench = Arc::new(Bench::start(None).await);
    let scope = Scope::new(tokio::runtime::Handle::current());
    let senders = (0..8_u32).map(|sender| {
        let bench = bench.clone();
        scope.spawn("sender", async move {
            for batch in 0..20 {
                let mut body = b"{}\n".to_vec();
                for n in 0..16 {
                    body.extend(
                        format!("{{\"type\":\"event\"}}\n{}\n", event((sender * 20 + batch) * 16 + n)).into_bytes(),
                    );
                }
                assert_eq!(bench.post(ENVELOPE, "", &body).await.status, 200);
            }
        })
    });
    for sender in senders.collect::<Vec<_>>() {
        sender.await.unwrap();
    }
    let group = bench.groups().remove(0);
    assert_eq!((group.count, group.kept, bench.groups().len()), (8 * 20 * 16, 10, 1));
    Arc::into_inner(bench).unwrap().end().await;
}
