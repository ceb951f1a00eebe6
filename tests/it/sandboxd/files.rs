//! Files of a sandbox: contents in both directions, directories, watchers, signed URLs, and what is said when it cannot be.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use nightcrew::base::base64::base64;
use nightcrew::clients::e2b::wire::{Created, frame};
use nightcrew::isolation::Tier;

use super::{Answer, Bench, Call, until};

/// The form of a request with several files.
fn form(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, content) in files {
        let head = format!("--b0\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--b0--\r\n");
    body
}

fn query(pairs: &[(&str, &str)]) -> String {
    let encode = |text: &str| -> String {
        text.bytes()
            .map(|byte| match byte.is_ascii_alphanumeric() {
                true => char::from(byte).to_string(),
                false => format!("%{byte:02X}"),
            })
            .collect()
    };
    pairs.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect::<Vec<_>>().join("&")
}

impl Bench {
    async fn put(&self, sandbox: &Created, path: &str, content: impl Into<reqwest::Body>) -> Answer {
        let url = format!("/files?{}", query(&[("path", path)]));
        self.inside(sandbox, "POST", &url).header("content-type", "application/octet-stream").body(content).send().await
    }

    async fn get(&self, sandbox: &Created, path: &str) -> Answer {
        self.inside(sandbox, "GET", &format!("/files?{}", query(&[("path", path)]))).send().await
    }

    async fn filesystem(&self, sandbox: &Created, method: &str, message: Value) -> Answer {
        let path = format!("/filesystem.Filesystem/{method}");
        self.inside(sandbox, "POST", &path).header("connect-protocol-version", "1").json(&message).send().await
    }

    #[track_caller]
    fn says(answer: &Answer, status: u16, code: &str) {
        assert_eq!((answer.status, answer.json()["code"].as_str()), (status, Some(code)), "{answer:?}");
    }
}

const TIERS: [Tier; 3] = [Tier::Bubblewrap, Tier::Namespaces, Tier::Landlock];

/// In every tier that this machine has.
async fn in_every_tier(act: impl AsyncFn(&Bench, &Created)) {
    in_tiers(&TIERS, act).await;
}

async fn in_tiers(tiers: &[Tier], act: impl AsyncFn(&Bench, &Created)) {
    for tier in tiers.iter().copied() {
        let Some(bench) = Bench::held_to(tier).await else { continue };
        let sandbox = bench.create().await;
        act(&bench, &sandbox).await;
        bench.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contents_come_back_as_they_were_sent_in_every_tier() {
    in_every_tier(async |bench, sandbox| {
        for (path, at) in [
            ("plain.txt", "/home/user/plain.txt"),
            ("~/a/b/c", "/home/user/a/b/c"),
            ("/home/user/x/../with space", "/home/user/x/../with space"),
            ("new\nline", "/home/user/new\nline"),
            ("üñï\u{1F980}.bin", "/home/user/üñï\u{1F980}.bin"),
            ("../user/./up", "/home/user/up"),
            ("/tmp/in-tmp", "/tmp/in-tmp"),
        ] {
            if path.contains("/x/") {
                Bench::says(&bench.filesystem(sandbox, "Stat", json!({"path": "x"})).await, 404, "not_found");
                bench.filesystem(sandbox, "MakeDir", json!({"path": "x"})).await;
            }
            let content: Vec<u8> = path.bytes().chain(0..=255).cycle().take(10_000).collect();
            let answer = bench.put(sandbox, path, content.clone()).await;
            assert_eq!(answer.status, 200, "{path:?}: {answer:?}");
            let name = at.rsplit('/').next().unwrap();
            assert_eq!(answer.json(), json!([{"path": at, "name": name, "type": "file"}]));
            let answer = bench.get(sandbox, path).await;
            assert!(answer.status == 200 && answer.body == content, "{path:?}: {}", answer.status);
        }
        assert_eq!(bench.put(sandbox, "empty", "").await.status, 200);
        let answer = bench.get(sandbox, "empty").await;
        assert_eq!((answer.status, answer.headers["content-length"].as_str()), (200, "0"));

        // Of the system as much as a process sees.
        assert_eq!(bench.get(sandbox, "/usr/../etc/passwd").await.status, 200);
        assert!(!bench.get(sandbox, "/proc/meminfo").await.body.is_empty());
        for (path, status) in [("none", 404), ("a", 400), ("/dev/null", 400), ("~other/x", 400), ("\0", 400)] {
            let answer = bench.get(sandbox, path).await;
            assert_eq!((answer.status, answer.json()["code"].as_u64()), (status, Some(status.into())), "{path:?}");
        }
        for (path, status) in [("/usr/bin/x", 403), ("a", 400), ("plain.txt/x", 400)] {
            assert_eq!(bench.put(sandbox, path, "x").await.status, status, "{path}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_is_not_reached_by_any_name() {
    let secret = tempfile::Builder::new().prefix("nightcrew-secret").tempdir_in("/var/tmp").unwrap();
    std::fs::write(secret.path().join("key"), "of the host").unwrap();
    let host = secret.path().join("key").to_str().unwrap().to_owned();
    in_every_tier(async |bench, sandbox| {
        let folder = bench.folder_of(&sandbox.sandbox_id).unwrap();
        let journal = folder.parent().unwrap().join("server-file");
        std::fs::write(&journal, "of the server").unwrap();
        for path in [host.as_str(), journal.to_str().unwrap(), "/root/.bashrc", "/etc/shadow", "/proc/1/environ"] {
            let tricks = [path.to_owned(), format!("/home/user/../..{path}"), format!("../../../../..{path}")];
            for path in tricks {
                let answer = bench.get(sandbox, &path).await;
                assert!(matches!(answer.status, 403 | 404), "{path}: {answer:?}");
                // In a file system of its own there may be such a file then.
                bench.put(sandbox, &path, "of the sandbox").await;
                bench.filesystem(sandbox, "Remove", json!({"path": path})).await;
            }
        }
        assert_eq!(std::fs::read_to_string(&journal).unwrap(), "of the server");
        std::fs::remove_file(journal).unwrap();
    })
    .await;
    assert_eq!(std::fs::read_to_string(host).unwrap(), "of the host");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_files_come_in_one_form_and_packed_bodies_are_unpacked() {
    let bench = Bench::new().await;
    let sandbox = bench.create().await;
    let names: Vec<_> = (0..200).map(|number| format!("many/d{}/f {number}", number % 9)).collect();
    let contents: Vec<_> = (0..200).map(|number| vec![number as u8; number * 37]).collect();
    let files: Vec<_> = names.iter().map(String::as_str).zip(contents.iter().map(Vec::as_slice)).collect();
    let kind = "multipart/form-data; boundary=b0";
    let send =
        |url: &str, body: Vec<u8>| bench.inside(&sandbox, "POST", url).header("content-type", kind).body(body).send();
    let answer = send("/files", form(&files)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let told = answer.json();
    assert_eq!(told.as_array().unwrap().len(), 200);
    assert_eq!(told[7], json!({"path": "/home/user/many/d7/f 7", "name": "f 7", "type": "file"}));
    for (name, content) in &files {
        assert!(bench.get(&sandbox, name).await.body == *content, "{name}");
    }

    // With a path in the URL that is the name; the same twice is refused; nothing is a file without a name.
    let answer = send("/files?path=named", form(&[("other", b"1")])).await;
    assert_eq!(answer.json()[0]["path"], "/home/user/named");
    let answer = send("/files", form(&[("twice", b"1"), ("./twice", b"2")])).await;
    assert_eq!((answer.status, bench.get(&sandbox, "twice").await.body), (400, b"1".to_vec()));
    assert_eq!(send("/files", form(&[("", b"1")])).await.status, 400);
    let cut = form(&[("cut", &[b'x'; 100_000])]);
    assert_eq!(send("/files", cut[..90_000].to_vec()).await.status, 400);
    assert_eq!(bench.get(&sandbox, "cut").await.status, 404);

    let packed = {
        use std::io::Write as _;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&[b'z'; 1 << 20]).unwrap();
        encoder.finish().unwrap()
    };
    let octets = |body: Vec<u8>, encoding: &str| {
        let call = bench.inside(&sandbox, "POST", "/files?path=packed").header("content-encoding", encoding);
        call.header("content-type", "application/octet-stream").body(body).send()
    };
    assert_eq!(octets(packed.clone(), "gzip").await.status, 200);
    assert_eq!(bench.get(&sandbox, "packed").await.body, [b'z'; 1 << 20]);
    assert_eq!(octets(packed[..packed.len() / 2].to_vec(), "gzip").await.status, 400);
    assert_eq!(octets(packed, "br").await.status, 400);
    assert_eq!(bench.get(&sandbox, "packed").await.body.len(), 1 << 20, "what failed has changed nothing");
    let answer =
        bench.inside(&sandbox, "POST", "/files?path=x").header("content-type", "text/plain").body("x").send().await;
    assert_eq!(answer.status, 400);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_are_told_as_the_sdks_read_them() {
    in_every_tier(async |bench, sandbox| {
        let rpc = |method: &'static str, message: Value| bench.filesystem(sandbox, method, message);
        let made = rpc("MakeDir", json!({"path": "d/e"})).await;
        assert_eq!(made.status, 200, "{made:?}");
        let entry = &made.json()["entry"];
        assert_eq!(entry["type"], "FILE_TYPE_DIRECTORY");
        assert_eq!((&entry["path"], &entry["permissions"]), (&json!("/home/user/d/e"), &json!("drwxr-xr-x")));
        Bench::says(&rpc("MakeDir", json!({"path": "d"})).await, 409, "already_exists");
        bench.put(sandbox, "d/f", "content").await;
        Bench::says(&rpc("MakeDir", json!({"path": "d/f"})).await, 400, "invalid_argument");

        let stat = rpc("Stat", json!({"path": "/home/user/d/f"})).await.json();
        let entry = &stat["entry"];
        assert_eq!(
            (&entry["name"], &entry["type"], &entry["size"]),
            (&json!("f"), &json!("FILE_TYPE_FILE"), &json!("7"))
        );
        assert_eq!((&entry["mode"], &entry["permissions"]), (&json!(0o644), &json!("-rw-r--r--")));
        assert_eq!((&entry["owner"], &entry["group"]), (&json!("user"), &json!("user")));
        entry["modifiedTime"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        assert!(entry.get("symlinkTarget").is_none() && entry.get("isSymlink").is_none());

        let paths = |answer: Answer| -> Vec<String> {
            let entries = answer.json()["entries"].as_array().unwrap().clone();
            entries.iter().map(|entry| entry["path"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(paths(rpc("ListDir", json!({"path": "d"})).await), ["/home/user/d/e", "/home/user/d/f"]);
        assert_eq!(paths(rpc("ListDir", json!({"path": "", "depth": 2})).await).len(), 3);
        Bench::says(&rpc("ListDir", json!({"path": "none"})).await, 404, "not_found");
        Bench::says(&rpc("ListDir", json!({"path": "d/f"})).await, 400, "invalid_argument");
        Bench::says(&rpc("ListDir", json!({"path": 7})).await, 400, "invalid_argument");

        let moved = rpc("Move", json!({"source": "d", "destination": "/tmp/moved/d"})).await;
        assert_eq!((moved.status, &moved.json()["entry"]["path"]), (200, &json!("/tmp/moved/d")), "{moved:?}");
        assert_eq!(bench.get(sandbox, "/tmp/moved/d/f").await.body, b"content");
        Bench::says(&rpc("Move", json!({"source": "d", "destination": "e"})).await, 404, "not_found");
        assert_eq!(rpc("Remove", json!({"path": "/tmp/moved"})).await.json(), json!({}));
        assert_eq!(rpc("Remove", json!({"path": "/tmp/moved"})).await.json(), json!({}));
        Bench::says(&rpc("Stat", json!({"path": "/tmp/moved/d"})).await, 404, "not_found");

        // A user who is not there.
        let path = "/filesystem.Filesystem/Stat";
        let call = bench.inside(sandbox, "POST", path).header("authorization", &format!("Basic {}", base64(b"ghost:")));
        Bench::says(&call.json(&json!({"path": ""})).send().await, 401, "unauthenticated");
        let call = bench.inside(sandbox, "POST", path).header("authorization", &format!("Basic {}", base64(b"user:")));
        assert_eq!(call.json(&json!({"path": ""})).send().await.status, 200);
        assert_eq!(bench.inside(sandbox, "GET", "/files?path=x&username=ghost").send().await.status, 401);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_files_and_metadata() {
    let bench = Bench::new().await;
    let sandbox = bench.create().await;
    bench.put(&sandbox, "digits", "0123456789").await;
    let ranged = |range: &str| bench.inside(&sandbox, "GET", "/files?path=digits").header("range", range).send();
    for (range, status, content, told) in [
        ("bytes=2-4", 206, "234", "bytes 2-4/10"),
        ("bytes=8-", 206, "89", "bytes 8-9/10"),
        ("bytes=-3", 206, "789", "bytes 7-9/10"),
        ("bytes=0-99", 206, "0123456789", "bytes 0-9/10"),
    ] {
        let answer = ranged(range).await;
        assert_eq!(
            (answer.status, answer.text().as_str(), answer.headers["content-range"].as_str()),
            (status, content, told)
        );
    }
    let answer = ranged("bytes=10-").await;
    assert_eq!((answer.status, answer.headers["content-range"].as_str()), (416, "bytes */10"));
    assert_eq!(ranged("bytes=1-2,4-5").await.status, 200);

    let octets = |name: &str, value: &str| {
        let call = bench.inside(&sandbox, "POST", "/files?path=m").header("content-type", "application/octet-stream");
        call.header(name, value).body("x").send()
    };
    let answer = octets("X-Metadata-Author", "me too").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    // Where the file system has it; else nothing is said of it.
    let has = rustix::fs::setxattr(&bench.folder, "user.probe", b"1", rustix::fs::XattrFlags::empty()).is_ok();
    let metadata = has.then(|| json!({"author": "me too"}));
    assert_eq!(answer.json()[0].get("metadata"), metadata.as_ref());
    let stat = bench.filesystem(&sandbox, "Stat", json!({"path": "m"})).await.json();
    assert_eq!(stat["entry"].get("metadata"), metadata.as_ref());
    assert_eq!(octets("x-metadata-a", &"v".repeat(5000)).await.status, 400);

    for part in ["p1", "p2"] {
        bench.put(&sandbox, part, part).await;
    }
    let compose = |body: Value| bench.inside(&sandbox, "POST", "/files/compose").json(&body).send();
    let answer = compose(json!({"source_paths": ["p2", "p1"], "destination": "whole"})).await;
    assert_eq!(answer.json(), json!({"path": "/home/user/whole", "name": "whole", "type": "file"}));
    assert_eq!(bench.get(&sandbox, "whole").await.body, b"p2p1");
    assert_eq!(bench.get(&sandbox, "p1").await.status, 404);
    assert_eq!(compose(json!({"source_paths": ["p1"], "destination": "whole"})).await.status, 404);
    assert_eq!(compose(json!({"source_paths": [], "destination": "whole"})).await.status, 400);
    assert_eq!(compose(json!({"source_paths": ["whole"], "destination": "whole"})).await.status, 400);
    bench.close().await;
}

fn signature(path: &str, operation: &str, token: &str, expires: Option<i64>) -> String {
    use sha2::Digest as _;
    let expires = expires.map(|at| format!(":{at}")).unwrap_or_default();
    let digest = sha2::Sha256::digest(format!("{path}:{operation}::{token}{expires}").as_bytes());
    format!("v1_{}", base64(&digest).trim_end_matches('='))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_url_opens_one_file_for_one_purpose_and_for_its_time() {
    let bench = Bench::new().await;
    let (one, other) = (bench.create().await, bench.create().await);
    let token = one.envd_access_token.clone().unwrap();
    bench.put(&one, "x y", "of one").await;
    bench.put(&other, "x y", "of the other").await;
    let soon = 4_000_000_000;
    let open = async |method: &str, pairs: &[(&str, &str)]| {
        let call = Call::new(method, format!("{}/files?{}", bench.url, query(pairs)));
        match method {
            "POST" => {
                call.header("content-type", "multipart/form-data; boundary=b0")
                    .body(form(&[("f", b"new")]))
                    .send()
                    .await
            }
            _ => call.send().await,
        }
    };
    let read = signature("x y", "read", &token, None);
    let answer = open("GET", &[("path", "x y"), ("signature", &read)]).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "of one"));
    let late = signature("x y", "read", &token, Some(soon));
    let answer =
        open("GET", &[("path", "x y"), ("signature", &late), ("signature_expiration", &soon.to_string())]).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "of one"));
    let write = signature("x y", "write", &token, None);
    assert_eq!(open("POST", &[("path", "x y"), ("signature", &write)]).await.status, 200);
    assert_eq!(bench.get(&one, "x y").await.body, b"new");
    assert_eq!(bench.get(&other, "x y").await.body, b"of the other");

    let gone = signature("x y", "read", &token, Some(1_000_000_000));
    let cases: [&[(&str, &str)]; 7] = [
        &[("path", "x y"), ("signature", &gone), ("signature_expiration", "1000000000")],
        &[("path", "x y"), ("signature", &late), ("signature_expiration", "4000000001")],
        &[("path", "x y"), ("signature", &late)],
        &[("path", "x z"), ("signature", &read)],
        &[("path", "x y"), ("signature", &write)],
        &[("path", "x y"), ("username", "user"), ("signature", &read)],
        &[("path", "x y"), ("signature", "")],
    ];
    for pairs in cases {
        assert_eq!(open("GET", pairs).await.status, 401, "{pairs:?}");
    }
    assert_eq!(open("POST", &[("path", "x y"), ("signature", &read)]).await.status, 401);
    // The one sandbox's signature at the other; no signature at all; a wrong token beside a right signature.
    let url = format!("{}/files?{}", bench.url, query(&[("path", "x y"), ("signature", &read)]));
    let at = |id: &str| Call::new("GET", url.clone()).header("e2b-sandbox-id", id);
    assert_eq!(at(&one.sandbox_id).send().await.status, 200);
    assert_eq!(at(&other.sandbox_id).send().await.status, 401);
    assert_eq!(at(&one.sandbox_id).header("x-access-token", "wrong").send().await.status, 401);
    let by_host = Call::new("GET", url.clone()).header("host", &format!("49983-{}.e2b.local", one.sandbox_id));
    assert_eq!(by_host.send().await.status, 200);
    assert_eq!(open("GET", &[("path", "x y")]).await.status, 401);
    bench.call("DELETE", &format!("/sandboxes/{}", one.sandbox_id)).send().await;
    assert_eq!(Call::new("GET", url.clone()).send().await.status, 401);
    let answer = at(&one.sandbox_id).send().await;
    assert!(answer.status == 502 && answer.text().contains("was not found"), "{answer:?}");

    let health = |id: &str| Call::new("GET", format!("{}/health", bench.url)).header("e2b-sandbox-id", id);
    assert_eq!(health(&other.sandbox_id).send().await.status, 204);
    assert_eq!(health(&one.sandbox_id).send().await.status, 502);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_tell_in_every_tier_what_others_do() {
    in_every_tier(async |bench, sandbox| {
        let rpc = |method: &'static str, message: Value| bench.filesystem(sandbox, method, message);
        rpc("MakeDir", json!({"path": "w/deep"})).await;
        let made = rpc("CreateWatcher", json!({"path": "w", "recursive": true, "includeEntry": true})).await;
        assert_eq!(made.status, 200, "{made:?}");
        let id = made.json()["watcherId"].clone();

        let stream = bench.inside(sandbox, "POST", "/filesystem.Filesystem/WatchDir");
        let mut stream = stream.message(&json!({"path": "/home/user/w"})).open().await;
        assert_eq!(stream.headers()["content-type"], "application/connect+json");
        let start = stream.chunk().await.unwrap().unwrap();
        assert_eq!(start.as_ref(), frame(0, br#"{"start":{}}"#));

        bench.put(sandbox, "w/a b", "1").await;
        bench.put(sandbox, "w/deep/f", "22").await;
        let events = rpc("GetWatcherEvents", json!({"watcherId": id})).await.json();
        let events = events["events"].as_array().unwrap();
        let told: Vec<_> = events.iter().map(|e| (e["name"].as_str().unwrap(), e["type"].as_str().unwrap())).collect();
        for expected in [("a b", "EVENT_TYPE_CREATE"), ("a b", "EVENT_TYPE_WRITE"), ("deep/f", "EVENT_TYPE_WRITE")] {
            assert!(told.contains(&expected), "{told:?}");
        }
        let of = events.iter().find(|event| event["name"] == "deep/f" && event["type"] == "EVENT_TYPE_WRITE").unwrap();
        assert_eq!((&of["entry"]["path"], &of["entry"]["size"]), (&json!("/home/user/w/deep/f"), &json!("2")));
        assert_eq!(rpc("GetWatcherEvents", json!({"watcherId": id})).await.json(), json!({"events": []}));

        let mut seen = String::new();
        while !seen.contains(r#"{"filesystem":{"name":"a b","type":"EVENT_TYPE_WRITE"}}"#) {
            let piece = tokio::time::timeout(Duration::from_secs(30), stream.chunk()).await.expect("no event came");
            seen.push_str(&String::from_utf8_lossy(&piece.unwrap().unwrap()));
        }
        assert!(!seen.contains("deep/f"), "{seen}");
        drop(stream);

        assert_eq!(rpc("RemoveWatcher", json!({"watcherId": id})).await.status, 200);
        Bench::says(&rpc("RemoveWatcher", json!({"watcherId": id})).await, 404, "not_found");
        Bench::says(&rpc("GetWatcherEvents", json!({"watcherId": id})).await, 404, "not_found");
        Bench::says(&rpc("CreateWatcher", json!({"path": "none"})).await, 404, "not_found");
        Bench::says(&rpc("CreateWatcher", json!({"path": "w/a b"})).await, 400, "invalid_argument");

        let watch = |path: &str| {
            bench.inside(sandbox, "POST", "/filesystem.Filesystem/WatchDir").message(&json!({"path": path}))
        };
        let answer = watch("none").send().await;
        assert_eq!((answer.status, &answer.frames()[0].1["error"]["code"]), (200, &json!("not_found")));
        let answer = watch("w").header("connect-timeout-ms", "300").header("keepalive-ping-interval", "1").send().await;
        let frames = answer.frames();
        assert_eq!((frames[0].1.clone(), frames.len()), (json!({"start": {}}), 2));
        assert_eq!((frames[1].0, &frames[1].1["error"]["code"]), (2, &json!("deadline_exceeded")));
        // Streams that were left are no longer watched.
        for _ in 0..40 {
            let mut left = watch("w").open().await;
            left.chunk().await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_events_ends_with_its_sandbox() {
    let bench = Bench::new().await;
    let sandbox = bench.create().await;
    let call = bench.inside(&sandbox, "POST", "/filesystem.Filesystem/WatchDir").message(&json!({"path": ""}));
    let mut stream = call.open().await;
    stream.chunk().await.unwrap();
    bench.call("DELETE", &format!("/sandboxes/{}", sandbox.sandbox_id)).send().await;
    let rest = tokio::time::timeout(Duration::from_secs(30), stream.bytes()).await.expect("it goes on").unwrap();
    assert!(String::from_utf8_lossy(&rest).contains("unavailable"), "{rest:?}");
    bench.close().await;
}

/// Resident memory of this process, with everything that the server in it holds.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_megabytes_go_up_and_down_and_are_never_held() {
    const SIZE: u64 = 300 << 20;
    const PIECE: u64 = 1 << 20;
    let bench = Bench::new().await;
    let sandbox = bench.create().await;
    bench.put(&sandbox, "warm", "up").await;
    let before = resident();
    let piece = |number: u64| vec![(number % 251) as u8; PIECE as usize];
    let pieces = futures_util::stream::iter((0..SIZE / PIECE).map(move |n| Ok::<_, std::io::Error>(piece(n))));
    let answer = bench.put(&sandbox, "large", reqwest::Body::wrap_stream(pieces)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut response = bench.inside(&sandbox, "GET", "/files?path=large").open().await;
    assert_eq!(response.content_length(), Some(SIZE));
    let (mut all, mut most) = (0, 0);
    while let Some(bytes) = response.chunk().await.unwrap() {
        for (offset, byte) in bytes.iter().enumerate().step_by(4099) {
            assert_eq!(u64::from(*byte), (all + offset as u64) / PIECE % 251);
        }
        all += bytes.len() as u64;
        most = most.max(resident());
    }
    assert_eq!(all, SIZE);
    let grown = most.saturating_sub(before) >> 20;
    // Others run in this process at the same time; it is not a quarter of the file all the same.
    assert!(grown < 75, "{grown} MB more than before");

    // Who goes away half-way leaves no half file, and holds nobody up.
    let endless = futures_util::stream::iter((0..SIZE / PIECE).map(move |n| match n {
        0..20 => Ok(piece(n)),
        _ => Err(std::io::Error::other("enough")),
    }));
    let call = bench.inside(&sandbox, "POST", "/files?path=half").header("content-type", "application/octet-stream");
    call.body(reqwest::Body::wrap_stream(endless)).fails().await;
    let mut left = bench.inside(&sandbox, "GET", "/files?path=large").open().await;
    left.chunk().await.unwrap();
    drop(left);
    until("the half file is gone", async || {
        let listed = bench.filesystem(&sandbox, "ListDir", json!({"path": ""})).await.json();
        listed["entries"]
            .as_array()
            .unwrap()
            .iter()
            .all(|entry| ["large", "warm"].contains(&entry["name"].as_str().unwrap()))
    })
    .await;
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_at_once_get_what_is_theirs() {
    let bench = Bench::new().await;
    let sandbox = bench.create().await;
    let clients = (0..50_usize).map(|number| {
        let (bench, sandbox) = (&bench, &sandbox);
        async move {
            let content = vec![number as u8; 1000 + number * 20_000];
            let path = format!("c/{}/{number}", number % 5);
            assert_eq!(bench.put(sandbox, &path, content.clone()).await.status, 200);
            let listed = bench.filesystem(sandbox, "ListDir", json!({"path": "c", "depth": 2})).await;
            assert_eq!(listed.status, 200, "{listed:?}");
            assert!(bench.get(sandbox, &path).await.body == content, "{number}");
            assert_eq!(bench.filesystem(sandbox, "Remove", json!({"path": path})).await.status, 200);
        }
    });
    futures_util::future::join_all(clients).await;
    bench.close().await;
}

/// A small file system of its own, if whoever runs the tests may make one.
struct Small(PathBuf);

impl Small {
    fn over(home: PathBuf) -> Option<Self> {
        let mut command = std::process::Command::new("mount");
        let mounted = command.args(["-t", "tmpfs", "-o", "size=8m,mode=0777", "tmpfs"]).arg(&home).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(home))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        std::process::Command::new("umount").arg("-l").arg(&self.0).status().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_as_such_and_what_was_there_stays() {
    let bench = Bench::new().await;
    let directory = bench.folder.clone();
    let Some(_small) = Small::over(directory) else { return println!("skipped: no file system can be mounted here") };
    let Ok(small) =
        Bench::begin(|settings| settings.folder = bench.folder.join("small"), nightcrew::base::env::Env::system())
            .await
    else {
        panic!("a server over a small file system")
    };
    let sandbox = small.create().await;
    assert_eq!(small.put(&sandbox, "kept", vec![b'k'; 1 << 20]).await.status, 200);
    let answer = small.put(&sandbox, "kept", vec![b'x'; 50 << 20]).await;
    assert_eq!(answer.status, 507, "{answer:?}");
    assert!(answer.json()["message"].as_str().unwrap().contains("not enough disk space"), "{answer:?}");
    assert_eq!(small.get(&sandbox, "kept").await.body, vec![b'k'; 1 << 20]);
    assert_eq!(small.put(&sandbox, "fits", vec![b'f'; 1 << 20]).await.status, 200);
    small.close().await;
}

impl Bench {
    /// Runs a line of shell in the sandbox; the answer is read to its end by whoever wants to wait for that.
    async fn shell(&self, sandbox: &Created, line: &str) -> reqwest::Response {
        let process = json!({"cmd": "/bin/sh", "args": ["-c", line]});
        let call = self.inside(sandbox, "POST", "/process.Process/Start").message(&json!({"process": process}));
        let answer = call.open().await;
        assert_eq!(answer.status(), 200);
        answer
    }
}

/// Not in the last tier, where a process might reach others of whoever runs the tests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_kills_everything_costs_what_is_under_way_and_no_more() {
    in_tiers(&[Tier::Bubblewrap, Tier::Namespaces], async |bench, sandbox| {
        bench.put(sandbox, "kept", "1").await;
        let made = bench.filesystem(sandbox, "CreateWatcher", json!({"path": ""})).await;
        let id = made.json()["watcherId"].clone();
        bench.shell(sandbox, "kill -9 -1").await.bytes().await.unwrap();
        // Newer kernels do not let a command signal the worker; with older ones another takes its place, and what was watched has to be
        // watched anew.
        let answer = bench.filesystem(sandbox, "GetWatcherEvents", json!({"watcherId": id})).await;
        assert!(answer.status == 200 || answer.json()["code"] == "unavailable", "{answer:?}");
        until("files are read again", async || bench.get(sandbox, "kept").await.body == b"1").await;
        assert_eq!(bench.filesystem(sandbox, "RemoveWatcher", json!({"watcherId": id})).await.status, 200);
        assert_eq!(bench.filesystem(sandbox, "CreateWatcher", json!({"path": ""})).await.status, 200);

        // In the middle of an upload: it is whole, or it fails and nothing of it stays.
        let (pieces, body) = tokio::sync::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(1);
        let body = futures_util::stream::unfold(body, |mut body| async { Some((body.recv().await?, body)) });
        let upload = bench.put(sandbox, "half", reqwest::Body::wrap_stream(body));
        let feed = async {
            let piece = || Ok(vec![b'x'; 1 << 20]);
            // When the eighth is taken, the first are with the worker: the connection holds no eight megabytes.
            for _ in 0..8 {
                pieces.send(piece()).await.unwrap();
            }
            bench.shell(sandbox, "kill -9 -1").await.bytes().await.unwrap();
            for _ in 0..8 {
                // The server may have hung up.
                drop(pieces.send(piece()).await);
            }
            drop(pieces);
        };
        let (answer, ()) = tokio::join!(upload, feed);
        let half = bench.get(sandbox, "half").await;
        match answer.status {
            200 => assert_eq!(half.body.len(), 16 << 20),
            status => assert_eq!((status, half.status), (503, 404), "{answer:?}"),
        }
        let listed = bench.filesystem(sandbox, "ListDir", json!({"path": ""})).await;
        assert!(!listed.text().contains(".nightcrew-upload"), "{listed:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swapper_of_links_leads_nobody_to_the_host() {
    let secret = tempfile::Builder::new().prefix("nightcrew-secret").tempdir_in("/var/tmp").unwrap();
    std::fs::write(secret.path().join("key"), "of the host").unwrap();
    let host = secret.path().to_str().unwrap().to_owned();
    in_every_tier(async |bench, sandbox| {
        bench.put(sandbox, "own/key", "mine").await;
        let line =
            format!("while :; do ln -sfn own s; ln -sfn '{host}' s; ln -sfn s s; rm -f s; mkdir s; rmdir s; done");
        let swapping = bench.shell(sandbox, &line).await;
        for round in 0..100 {
            for path in ["s/key", "/home/user/s/../s/key", "s"] {
                let answer = bench.get(sandbox, path).await;
                assert!(!answer.text().contains("of the host"), "{path}: {answer:?}");
                assert!(answer.status < 500, "{answer:?}");
                bench.put(sandbox, &format!("s/new{}", round % 3), "written").await;
            }
            let answer = bench.filesystem(sandbox, "ListDir", json!({"path": "", "depth": 4})).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            bench.filesystem(sandbox, "Remove", json!({"path": "s"})).await;
        }
        drop(swapping);
    })
    .await;
    let left: Vec<_> = std::fs::read_dir(secret.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["key"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_watches_for_long_is_not_taken_for_somebody_who_hides() {
    in_every_tier(async |bench, sandbox| {
        let made = bench.filesystem(sandbox, "CreateWatcher", json!({"path": ""})).await;
        // The sandbox looks at its disk once a second, and suffers what it cannot look at for five looks.
        tokio::time::sleep(Duration::from_secs(8)).await;
        bench.shell(sandbox, "echo x > later").await.bytes().await.unwrap();
        let id = made.json()["watcherId"].clone();
        let answer = bench.filesystem(sandbox, "GetWatcherEvents", json!({"watcherId": id})).await;
        assert!(answer.text().contains("later"), "{answer:?}");
    })
    .await;
}
