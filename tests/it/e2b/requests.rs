//! What each call looks like on the wire, field by field as E2B's own clients write it (Python 2.63, JavaScript 2.51), but for the name
//! that a client gives itself.

use std::time::Duration;

use nightcrew::clients::e2b::wire::{Network, NewSandbox, Signal, State};
use serde_json::{Value, json};

use super::bench::{Bench, finish, shell};
use crate::fakes::e2b::{Act, KEY, Request};

fn described(request: &Request) -> (String, Vec<(String, String)>, Value) {
    let target = format!("{} {}", request.method, request.path);
    (target, request.query.clone(), request.json())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_plane() {
    let bench = Bench::new();
    let (client, none) = (&bench.client, Value::Null);
    let asked = NewSandbox {
        template_id: "base".into(),
        timeout: Some(300),
        allow_internet_access: Some(false),
        network: Some(Network { allow_out: vec!["crates.io".into()], ..Network::default() }),
        metadata: [("run".to_owned(), "01k".to_owned())].into(),
        env_vars: [("CI".to_owned(), "1".to_owned())].into(),
        ..NewSandbox::default()
    };
    let created = client.create(&asked, "a-key").await.unwrap();
    let id = created.sandbox_id.clone();
    client.connect(&id, 60).await.unwrap();
    client.info(&id).await.unwrap();
    client.list(&[("a b".to_owned(), "c/d&e=f".to_owned())].into(), &[State::Running, State::Paused]).await.unwrap();
    client.set_timeout(&id, 60).await.unwrap();
    client.set_network(&id, &Network::default(), false).await.unwrap();
    client.pause(&id).await.unwrap();
    client.kill(&id).await.unwrap();
    let query = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let body = json!({
        "templateID": "base", "timeout": 300, "allow_internet_access": false, "network": {"allowOut": ["crates.io"]},
        "metadata": {"run": "01k"}, "envVars": {"CI": "1"},
    });
    let filter = query(&[("metadata", "a%2520b=c%252Fd%2526e%253Df"), ("state", "running,paused")]);
    let expected = [
        ("POST /v2/sandboxes".to_owned(), vec![], body),
        (format!("POST /v2/sandboxes/{id}/connect"), vec![], json!({"timeout": 60})),
        (format!("GET /sandboxes/{id}"), vec![], none.clone()),
        ("GET /v2/sandboxes".to_owned(), filter, none.clone()),
        (format!("POST /sandboxes/{id}/timeout"), vec![], json!({"timeout": 60})),
        (format!("PUT /sandboxes/{id}/network"), vec![], json!({"allow_internet_access": false})),
        (format!("POST /sandboxes/{id}/pause"), vec![], json!({})),
        (format!("DELETE /sandboxes/{id}"), vec![], none),
    ];
    let requests = bench.cloud.requests();
    assert_eq!(requests.iter().map(described).collect::<Vec<_>>(), expected);
    for request in &requests {
        assert_eq!(request.header("x-api-key"), Some(KEY));
        let kind = (!request.body.is_empty()).then_some("application/json");
        assert_eq!(request.header("content-type"), kind, "{}", request.call);
        assert_eq!(request.header("idempotency-key").is_some(), request.call == "create");
        assert!(request.header("user-agent").unwrap().starts_with("nightcrew/"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon() {
    let bench = Bench::new();
    bench.cloud.program(|run| if run.command == "cat" { vec![Act::Echo, Act::Exit(0)] } else { Act::exit(0) });
    let (created, envd) = bench.sandbox().await;
    finish(&mut envd.start(&shell("true"), Some(Duration::from_secs(60))).await.unwrap()).await.unwrap();
    let mut start = shell("cat");
    start.stdin = Some(true);
    start.process.cwd = Some("/home/user".into());
    start.process.envs = [("A".to_owned(), "b".to_owned())].into();
    let pid = envd.as_user("root").start(&start, None).await.unwrap().leave();
    drop(envd.connect(pid).await.unwrap());
    envd.send_input(pid, b"hi").await.unwrap();
    envd.list().await.unwrap();
    envd.signal(pid, Signal::Term).await.unwrap();
    envd.make_dir("/home/user/x").await.unwrap();
    envd.stat("/home/user/x").await.unwrap();
    envd.list_dir("/home/user", 1).await.unwrap();
    envd.rename("/home/user/x", "/home/user/y").await.unwrap();
    envd.remove("/home/user/x").await.unwrap();
    let calls: Vec<(String, Value)> = bench
        .cloud
        .requests()
        .iter()
        .filter(|request| request.call != "create")
        .map(|request| (request.path.clone(), request.json()))
        .collect();
    let of = |pid: u32| json!({ "pid": pid });
    let process = |method: &str, body: Value| (format!("/process.Process/{method}"), body);
    let file = |method: &str, body: Value| (format!("/filesystem.Filesystem/{method}"), body);
    let bash = |command: &str| json!({"cmd": "/bin/bash", "args": ["-l", "-c", command]});
    let mut cat = bash("cat");
    cat["envs"] = json!({"A": "b"});
    cat["cwd"] = json!("/home/user");
    assert_eq!(
        calls,
        [
            process("Start", json!({"process": bash("true"), "stdin": false})),
            process("Start", json!({"process": cat, "stdin": true})),
            process("Connect", json!({"process": of(pid)})),
            process("SendInput", json!({"process": of(pid), "input": {"stdin": "aGk="}})),
            process("List", json!({})),
            process("SendSignal", json!({"process": of(pid), "signal": "SIGNAL_SIGTERM"})),
            file("MakeDir", json!({"path": "/home/user/x"})),
            file("Stat", json!({"path": "/home/user/x"})),
            file("ListDir", json!({"path": "/home/user", "depth": 1})),
            file("Move", json!({"source": "/home/user/x", "destination": "/home/user/y"})),
            file("Remove", json!({"path": "/home/user/x"})),
        ]
    );
    for request in bench.cloud.requests().iter().filter(|request| request.call != "create") {
        let streams = matches!(request.call.as_str(), "Start" | "Connect");
        let call = &request.call;
        for (name, expected) in [
            ("e2b-sandbox-id", Some(created.sandbox_id.as_str())),
            ("e2b-sandbox-port", Some("49983")),
            ("x-access-token", created.envd_access_token.as_deref()),
            ("x-api-key", None),
            ("connect-protocol-version", Some("1")),
            ("content-type", Some(if streams { "application/connect+json" } else { "application/json" })),
            ("keepalive-ping-interval", streams.then_some("50")),
        ] {
            assert_eq!(request.header(name), expected, "{call} {name}");
        }
        let timeout = request.header("connect-timeout-ms");
        match (call.as_str(), request.json()["stdin"].as_bool()) {
            ("Start", Some(false)) => assert_eq!((timeout, request.header("authorization")), (Some("60000"), None)),
            ("Start", _) => assert_eq!((timeout, request.header("authorization")), (None, Some("Basic cm9vdDo="))),
            ("Connect", _) => assert_eq!((timeout, request.header("authorization")), (None, None)),
            _ => assert_eq!((timeout, request.header("authorization")), (Some("60000"), None), "{call}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files() {
    let bench = Bench::new();
    let (created, envd) = bench.sandbox().await;
    envd.write("/home/user/a b", b"one").await.unwrap();
    envd.as_user("root").write_many(&[("/etc/a", b"1"), ("/etc/ü", b"2")]).await.unwrap();
    envd.write("/home/user/\"q\"\n", b"odd").await.unwrap();
    envd.write_many(&[]).await.unwrap();
    envd.read("/home/user/a b", 10).await.unwrap();
    envd.read("/home/user/\"q\"\n", 10).await.unwrap();
    envd.health().await.unwrap();
    let requests: Vec<Request> = bench.cloud.requests().into_iter().skip(1).collect();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let expected = [
        ("POST", "/files", vec![pair("path", "/home/user/a b")]),
        ("POST", "/files", vec![pair("username", "root")]),
        ("POST", "/files", vec![pair("path", "/home/user/\"q\"\n")]),
        ("GET", "/files", vec![pair("path", "/home/user/a b")]),
        ("GET", "/files", vec![pair("path", "/home/user/\"q\"\n")]),
        ("GET", "/health", vec![]),
    ];
    let seen: Vec<_> = requests.iter().map(|r| (r.method.as_str(), r.path.as_str(), r.query.clone())).collect();
    assert_eq!(seen, expected);
    for request in &requests {
        assert_eq!(request.header("x-access-token"), created.envd_access_token.as_deref());
        assert_eq!(request.header("e2b-sandbox-id"), Some(created.sandbox_id.as_str()));
        assert_eq!(request.header("authorization"), None);
    }
    let form = requests[1].header("content-type").unwrap();
    let boundary = form.strip_prefix("multipart/form-data; boundary=").unwrap();
    let part = |path: &str, content: &str| {
        format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{path}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n{content}\r\n"
        )
    };
    let whole = format!("{}{}--{boundary}--\r\n", part("/etc/a", "1"), part("/etc/ü", "2"));
    assert_eq!(String::from_utf8(requests[1].body.clone()).unwrap(), whole);
}
