//! From create to kill: what is answered, what is refused, and that nothing is left.

use std::io::Write as _;
use std::time::Duration;

use nightcrew::base::clock::{ManualClock, SystemClock};
use nightcrew::base::env::Env;
use nightcrew::base::ids::SystemIds;
use nightcrew::clients::e2b::wire::State;
use serde_json::{Value, json};

use super::{Bench, Call, KEY, sandbox_folders, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_is_made_with_the_key_alone_and_killed_once() {
    let bench = Bench::new().await;
    let made = bench.create().await;
    let calls = [
        ("POST", "/v2/sandboxes"),
        ("POST", "/sandboxes"),
        ("GET", "/v2/sandboxes"),
        ("GET", "/sandboxes"),
        ("GET", "/sandboxes/x"),
        ("DELETE", "/sandboxes/x"),
        ("POST", "/v2/sandboxes/x/connect"),
        ("POST", "/sandboxes/x/timeout"),
        ("PUT", "/sandboxes/x/network"),
        ("GET", "/nightcrew/report"),
    ];
    for (method, path) in calls {
        for key in ["", "e2b_0123456789abcdee", "e2b_0123456789abcdef0"] {
            let path = path.replace("/x", &format!("/{}", made.sandbox_id));
            let call = Call::new(method, format!("{}{path}", bench.url)).header("x-api-key", key);
            let answer = call.body("not json").send().await;
            assert_eq!((answer.status, answer.json()["code"].as_u64()), (401, Some(401)), "{method} {path} {key:?}");
            assert!(!answer.text().contains(KEY));
        }
    }
    assert!(bench.folder_of(&made.sandbox_id).is_some());
    assert_eq!(made.envd_version, "0.6.4");
    let path = format!("/sandboxes/{}", made.sandbox_id);
    let killed = bench.call("DELETE", &path).send().await;
    assert_eq!((killed.status, killed.body.len()), (204, 0));
    assert!(bench.folder_of(&made.sandbox_id).is_none());
    let again = bench.call("DELETE", &path).send().await;
    assert_eq!((again.status, again.json()["code"].as_u64()), (404, Some(404)));
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_for_wrongly_is_told_in_the_vendors_form() {
    let bench = Bench::new().await;
    let made = bench.create().await;
    let own = |path: &str| format!("/sandboxes/{}{path}", made.sandbox_id);
    let create = |body: &str| ("POST", "/v2/sandboxes".to_owned(), body.to_owned());
    let large = format!("{{\"templateID\": \"{}\"}}", "x".repeat(1 << 20));
    let cases = [
        (create("{"), 400, "the body"),
        (create(""), 400, "templateID"),
        (create("[]"), 400, "the body"),
        (create(r#"{"templateID": "base", "timeout": -1}"#), 400, "-1"),
        (create(r#"{"templateID": "base", "timeout": 0}"#), 400, "timeout"),
        (create(r#"{"templateID": "base", "timeout": 86401}"#), 400, "86400"),
        (create(r#"{"templateID": "base", "metadata": {"a": 1}}"#), 400, "the body"),
        (create(r#"{"templateID": "base", "network": {"allowOut": ["0.0.0.0/0"]}}"#), 400, "open network"),
        (create(r#"{"templateID": "base", "volumeMounts": [{"name": "a", "path": "/b"}]}"#), 400, "volumeMounts"),
        (create(r#"{"templateID": "nothing-of-the-kind"}"#), 404, "nothing-of-the-kind"),
        (create(&large), 413, "1048576"),
        (("POST", own("/timeout"), r#"{"timeout": -1}"#.into()), 400, "-1"),
        (("POST", own("/timeout"), "{}".into()), 400, "timeout"),
        (("POST", own("/timeout"), r#"{"timeout": 90000}"#.into()), 400, "86400"),
        (("POST", own("/refreshes"), r#"{"duration": 3601}"#.into()), 400, "3600"),
        (("POST", own("/connect"), "{}".into()), 400, "timeout"),
        (("POST", own("/resume"), r#"{"timeout": 5}"#.into()), 409, "running"),
        (("PUT", own("/network"), r#"{"allowOut": ["example.com"]}"#.into()), 409, "network"),
        (("PUT", own("/network"), r#"{"egressProxy": {"address": "a:1"}}"#.into()), 400, "egressProxy"),
        (("POST", "/sandboxes/nobody/timeout".into(), r#"{"timeout": 5}"#.into()), 404, "nobody"),
        (("POST", "/v2/sandboxes/nobody/connect".into(), "".into()), 404, "nobody"),
        (("POST", "/sandboxes/nobody/pause".into(), "".into()), 404, "nobody"),
        (("GET", "/sandboxes/nobody".into(), "".into()), 404, "nobody"),
        (("GET", "/v2/sandboxes/nobody/logs".into(), "".into()), 404, "nobody"),
        (("GET", "/v2/sandboxes?limit=0".into(), "".into()), 400, "limit"),
        (("GET", "/v2/sandboxes?state=dead".into(), "".into()), 400, "dead"),
        (("GET", "/v2/sandboxes?nextToken=x".into(), "".into()), 400, "nextToken"),
        (("GET", "/nowhere".into(), "".into()), 404, "/nowhere"),
        (("PATCH", own(""), "".into()), 405, "PATCH"),
    ];
    for ((method, path, body), status, word) in cases {
        let answer = bench.call(method, &path).body(body).send().await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        let told = answer.json();
        assert_eq!(told["code"].as_u64(), Some(status.into()), "{told}");
        assert!(told["message"].as_str().unwrap().contains(word), "{told}");
    }
    assert_eq!(sandbox_folders(&bench.folder).len(), 1, "a refused create leaves something");
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_at_its_time_whatever_the_wall_clock_says() {
    let clock = ManualClock::new("2026-11-20T08:00:00Z".parse().unwrap());
    let env = Env { clock: std::sync::Arc::new(clock.clone()), ids: std::sync::Arc::new(SystemIds) };
    let bench = Bench::begin(|_| {}, env).await.unwrap();
    let lasting = bench.create().await;
    let short = bench.create_with(json!({"timeout": 1})).await;
    let other = bench.create().await;
    let info = bench.info(&lasting.sandbox_id).await.unwrap();
    assert_eq!(info.end_at.duration_since(info.started_at).as_secs(), 300);
    // Somebody sets the clock of the machine to next year.
    clock.step_to("2027-11-20T08:00:00Z".parse().unwrap());
    until("the short one ends", async || bench.info(&short.sandbox_id).await.is_none()).await;
    until("its folder goes", async || bench.folder_of(&short.sandbox_id).is_none()).await;
    assert!(bench.info(&lasting.sandbox_id).await.is_some());

    // Its time can be made shorter, and none at all ends it.
    let path = format!("/sandboxes/{}/timeout", other.sandbox_id);
    assert_eq!(bench.call("POST", &path).json(&json!({"timeout": 0})).send().await.status, 204);
    until("it ends", async || bench.info(&other.sandbox_id).await.is_none()).await;
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_time_is_set_refreshed_and_never_made_shorter_by_connecting() {
    let bench = Bench::new().await;
    let made = bench.create_with(json!({"timeout": 1000})).await;
    let left = async || {
        let end_at = bench.info(&made.sandbox_id).await.unwrap().end_at;
        end_at.duration_since(Env { clock: std::sync::Arc::new(SystemClock), ..Env::system() }.now()).as_secs()
    };
    let call = async |path: &str, body: Value| {
        let answer = bench.call("POST", &path.replace("ID", &made.sandbox_id)).json(&body).send().await;
        (answer.status, answer.body)
    };
    let (status, body) = call("/v2/sandboxes/ID/connect", json!({"timeout": 10})).await;
    let again: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (status, &again["sandboxID"], &again["envdAccessToken"]),
        (200, &json!(made.sandbox_id), &json!(made.envd_access_token))
    );
    assert!(left().await > 900);
    assert_eq!(call("/sandboxes/ID/refreshes", json!({"duration": 10})).await.0, 204);
    assert!(left().await > 900);
    assert_eq!(call("/sandboxes/ID/timeout", json!({"timeout": 60})).await.0, 204);
    assert!(left().await <= 60);
    assert_eq!(call("/v2/sandboxes/ID/connect", json!({})).await.0, 200);
    assert!((200..=300).contains(&left().await), "a connect that says nothing means 300 seconds");
    assert_eq!(call("/sandboxes/ID/connect", json!({"timeout": 500})).await.0, 200);
    assert!(left().await > 400);
    assert_eq!(call("/sandboxes/ID/refreshes", json!({"duration": 3600})).await.0, 204);
    assert!(left().await > 3500);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_who_kills_it_waits_for_the_same_end() {
    let bench = Bench::new().await;
    let made = bench.create().await;
    let home = bench.folder_of(&made.sandbox_id).unwrap().join("home");
    for n in 0..3000 {
        std::fs::write(home.join(n.to_string()), "").unwrap();
    }
    let path = format!("/sandboxes/{}", made.sandbox_id);
    let kill = async || {
        let answer = bench.call("DELETE", &path).send().await;
        (answer.status, bench.folder_of(&made.sandbox_id).is_none())
    };
    let ended = tokio::join!(kill(), kill(), kill(), kill());
    for (status, gone) in [ended.0, ended.1, ended.2, ended.3] {
        // Who comes when all is over is told that there is none.
        assert!(matches!(status, 204 | 404) && gone, "{ended:?}");
    }
    assert_eq!(ended.0.0, 204);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_fit_are_refused_until_one_has_ended() {
    let bench = Bench::with(|settings| settings.most_sandboxes = 2).await;
    let (first, _second) = (bench.create().await, bench.create().await);
    let third = bench.call("POST", "/v2/sandboxes").json(&json!({"templateID": "base"})).send().await;
    assert_eq!((third.status, third.json()["code"].as_u64()), (429, Some(429)), "{third:?}");
    assert!(third.headers.contains_key("retry-after"));
    assert_eq!(bench.call("DELETE", &format!("/sandboxes/{}", first.sandbox_id)).send().await.status, 204);
    bench.create().await;
    bench.close().await;

    let bench = Bench::with(|settings| settings.least_memory = u64::MAX).await;
    let none = bench.call("POST", "/v2/sandboxes").json(&json!({"templateID": "base"})).send().await;
    assert_eq!((none.status, &none.json()["error_code"]), (503, &json!("sandbox_capacity_unavailable")));
    assert!(sandbox_folders(&bench.folder).is_empty());
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_makes_one_sandbox_also_while_it_is_being_made() {
    let bench = Bench::new().await;
    let body = json!({"templateID": "base", "metadata": {"a": "1", "b": "2"}});
    let create = async |key: &str, body: &Value| {
        bench.call("POST", "/v2/sandboxes").header("idempotency-key", key).json(body).send().await
    };
    let together = tokio::join!(create("k-1", &body), create("k-1", &body), create("k-1", &body), create("k-1", &body));
    let together = [together.0, together.1, together.2, together.3];
    assert!(together.iter().all(|answer| answer.status == 201), "{together:?}");
    assert!(together.iter().all(|answer| answer.json() == together[0].json()), "{together:?}");
    // The order of fields is not what was asked for.
    let turned = json!({"metadata": {"b": "2", "a": "1"}, "templateID": "base"});
    assert_eq!(create("k-1", &turned).await.json(), together[0].json());
    assert_eq!(sandbox_folders(&bench.folder).len(), 1);

    let other = create("k-1", &json!({"templateID": "base"})).await;
    assert_eq!((other.status, other.json()["code"].as_u64()), (422, Some(422)));
    assert_eq!(create("K 1", &body).await.status, 400);
    assert_ne!(create("k-2", &body).await.json()["sandboxID"], together[0].json()["sandboxID"]);

    // A failure does not bind the key.
    assert_eq!(create("k-3", &json!({"templateID": "none"})).await.status, 404);
    assert_eq!(create("k-3", &body).await.status, 201);
    // Nor does a sandbox that has ended: what is promised is that no two of them live.
    let id = together[0].json()["sandboxID"].as_str().unwrap().to_owned();
    assert_eq!(bench.call("DELETE", &format!("/sandboxes/{id}")).send().await.status, 204);
    let anew = create("k-1", &body).await;
    assert_eq!(anew.status, 201);
    assert_ne!(anew.json()["sandboxID"].as_str(), Some(&id[..]));
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_that_fails_half_way_leaves_nothing() {
    let bench = Bench::new().await;
    // A file in the place where the folders of sandboxes are made.
    let first = bench.create().await;
    let folder = bench.folder_of(&first.sandbox_id).unwrap().parent().unwrap().to_owned();
    assert_eq!(bench.call("DELETE", &format!("/sandboxes/{}", first.sandbox_id)).send().await.status, 204);
    std::fs::remove_dir(&folder).unwrap();
    std::fs::write(&folder, "").unwrap();
    let failed = bench.call("POST", "/v2/sandboxes").json(&json!({"templateID": "base"})).send().await;
    assert_eq!((failed.status, failed.json()["code"].as_u64()), (500, Some(500)), "{failed:?}");
    assert!(bench.call("GET", "/v2/sandboxes").send().await.json().as_array().unwrap().is_empty());
    std::fs::remove_file(&folder).unwrap();
    std::fs::create_dir(&folder).unwrap();
    bench.create().await;
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_makes_no_more_and_ends_all() {
    let bench = Bench::with(|settings| settings.most_sandboxes = 64).await;
    for _ in 0..3 {
        bench.create().await;
    }
    // Some are still being made when it stops.
    let address = bench.url.trim_start_matches("http://").to_owned();
    let body = r#"{"templateID": "base"}"#;
    let head = format!("POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Length: {}", body.len());
    let mut streams = Vec::new();
    for _ in 0..16 {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        write!(stream, "{head}\r\n\r\n{body}").unwrap();
        streams.push(stream);
    }
    let begun = std::time::Instant::now();
    bench.server.close().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let late = bench.call("POST", "/v2/sandboxes").json(&json!({"templateID": "base"})).send().await;
    assert_eq!((late.status, late.json()["code"].as_u64()), (503, Some(503)));
    let left: Vec<_> = std::fs::read_dir(bench.folder.join("own")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["turn"]);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_share_a_folder_and_the_next_one_tidies_up() {
    let bench = Bench::new().await;
    let made = bench.create().await;
    let own = bench.folder.join("own");
    // What a server leaves that is killed: its folder and a lock that nobody holds.
    std::fs::create_dir_all(own.join("1-0/sandboxes/i0123456789abcdefghij/home")).unwrap();
    std::fs::write(own.join("1-0.lock"), "").unwrap();
    let folder = bench.folder.clone();
    let other = Bench::over(tempfile::tempdir().unwrap(), folder, |_| {}, Env::system()).await.unwrap();
    assert!(!own.join("1-0").exists() && !own.join("1-0.lock").exists());
    let of_other = other.create().await;
    assert!(bench.info(&made.sandbox_id).await.is_some() && bench.info(&of_other.sandbox_id).await.is_none());
    assert_eq!(sandbox_folders(&bench.folder).len(), 2);
    assert_eq!(other.call("DELETE", &format!("/sandboxes/{}", of_other.sandbox_id)).send().await.status, 204);
    other.server.close().await;
    assert!(bench.info(&made.sandbox_id).await.is_some_and(|info| info.state == State::Running));
    assert!(bench.folder_of(&made.sandbox_id).is_some());
    bench.close().await;
}
#[tokio::test]
async fn a_client_that_goes_away_while_it_is_made_leaves_nothing() {
    let bench = Bench::new().await;
    let address = bench.url.trim_start_matches("http://");
    let body = r#"{"templateID": "base", "timeout": 86400}"#;
    let send = |more: &str| {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        write!(
            stream,
            "POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\n{more}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
    };
    // This thread is the server's as well: it reads the request and its end only when all are sent.
    for _ in 0..8 {
        send("");
    }
    // One of those that come again stays, for who comes again.
    send("Idempotency-Key: once\r\n");
    let listed = async || bench.call("GET", "/v2/sandboxes").send().await.json().as_array().unwrap().len();
    let again = bench.call("POST", "/v2/sandboxes").header("idempotency-key", "once").body(body).send().await;
    assert_eq!(again.status, 201, "{again:?}");
    until("the others end", async || listed().await == 1 && sandbox_folders(&bench.folder).len() == 1).await;
    let listed = bench.call("GET", "/v2/sandboxes").send().await.json();
    assert_eq!(listed[0]["sandboxID"], again.json()["sandboxID"]);
    bench.close().await;
}
