//! What our client of E2B's protocol sends, beside what E2B's own SDKs send.
//!
//! `tests/conformance/e2b/golden/*.json` holds the requests that the official SDKs were seen to send, as shapes (written by
//! `tests/conformance/run golden`, and compared with the SDKs by each `tests/conformance/run`). Here every call of our client goes to a
//! server that answers by rote, and each request must have the method, path, query, headers and body shape of at least one SDK's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use serde_json::{Map, Value, json};

use nightcrew::base::env::Env;
use nightcrew::base::scope::Scope;
use nightcrew::base::secret::Secret;
use nightcrew::clients::e2b::wire::{
    BuildStep, NewSandbox, NewTemplate, ProcessConfig, Signal, StartBuild, StartProcess, State, frame,
};
use nightcrew::clients::e2b::{Cloud, Endpoint, Key};

const SDKS: [(&str, &str); 2] = [
    ("Python", include_str!("../conformance/e2b/golden/python.json")),
    ("JavaScript", include_str!("../conformance/e2b/golden/javascript.json")),
];

/// Headers of an SDK that ours leaves out on purpose.
const LEFT_OUT: &[(&str, &str)] = &[
    ("content-encoding", "`identity` is what its absence means"),
    ("connect-content-encoding", "`identity` is what its absence means"),
];

/// Calls of ours that no SDK makes.
const OWN: &[(&str, &str, &str)] = &[
    ("GET", "/nightcrew/report", "asks our own server how it confines; E2B's answers 404, which is understood"),
    ("DELETE", "/templates/{template}", "in E2B's description of its API; its SDKs delete templates only as snapshots"),
];

/// Fields of ours that no SDK's request had, by path.
const ADDED: &[(&str, &str, &str)] = &[
    ("/sandboxes/{sandbox}/network", "denyOut", "an SDK sends it where it is told to"),
    ("/sandboxes/{sandbox}/network", "allow_internet_access", "an SDK sends it where it is told to"),
];

/// Headers of ours that no SDK's request had.
const ADDED_HEADERS: &[(&str, &str, &str)] = &[
    ("/v2/templates/", "x-nightcrew-network", "tells our own builder what setup may reach; E2B's does not look at it"),
    (
        "/process.Process/",
        "authorization",
        "says as whom, in each call; the daemon looks at it only where something starts",
    ),
];

/// As `recorder.py` writes a call down.
type Call = Map<String, Value>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_is_one_that_an_official_sdk_sends() {
    let golden: Vec<(&str, Vec<Call>)> =
        SDKS.iter().map(|(name, text)| (*name, serde_json::from_str(text).unwrap())).collect();
    let calls = recorded().await;
    let mut wrong = Vec::new();
    let mut own = BTreeSet::new();
    for call in &calls {
        let (method, path) = (text(call, "method"), text(call, "path"));
        if OWN.iter().any(|(m, p, _)| (*m, *p) == (method, path)) {
            own.insert(path.to_owned());
            continue;
        }
        for part in ["query", "headers", "body"] {
            let verdicts: Vec<String> = golden
                .iter()
                .filter_map(|(name, all)| like(part, call, all).err().map(|why| format!("  unlike {name}'s: {why}")))
                .collect();
            if verdicts.len() == golden.len() {
                wrong.push(format!("{method} {path}\n{}\n  {}", verdicts.join("\n"), Value::Object(call.clone())));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // What is excused must happen.
    assert_eq!(own, OWN.iter().map(|(_, path, _)| (*path).to_owned()).collect());
    let paths: BTreeSet<&str> = calls.iter().map(|call| text(call, "path")).collect();
    assert!(paths.len() >= 27, "only {} of the client's calls were seen: {paths:?}", paths.len());
}

#[test]
fn a_request_that_differs_is_noticed() {
    let all: Vec<Call> = serde_json::from_str(SDKS[0].1).unwrap();
    let seen = |path: &str| all.iter().find(|call| text(call, "path") == path).unwrap().clone();
    let start = seen("/process.Process/Start");
    let whole = |call: &Call| ["query", "headers", "body"].iter().try_for_each(|part| like(part, call, &all));
    assert_eq!(whole(&start), Ok(()));
    type Change<'a> = &'a dyn Fn(&mut Call);
    let differing: [(&str, Change<'_>); 9] = [
        ("no call of this method and path", &|call| call["method"] = "PUT".into()),
        ("no call of this method and path", &|call| call["path"] = "/process.Process/Begin".into()),
        ("query `dry` is not sent", &|call| call["query"]["dry"] = "<value>".into()),
        ("header `x-access-token` is missing", &|call| {
            call["headers"].as_object_mut().unwrap().remove("x-access-token");
        }),
        ("header `x-other` is not sent", &|call| call["headers"]["x-other"] = "<value>".into()),
        ("header `e2b-sandbox-port` is another", &|call| call["headers"]["e2b-sandbox-port"] = "80".into()),
        ("body.frames[].message.process: `cmd` is missing", &|call| {
            call["body"]["frames"][0]["message"]["process"].as_object_mut().unwrap().remove("cmd");
        }),
        ("body.frames[].message: `tty` is not sent", &|call| {
            call["body"]["frames"][0]["message"]["tty"] = "boolean".into();
        }),
        ("body.frames[].message.stdin: \"string\" is not sent", &|call| {
            let message = call["body"]["frames"][0]["message"].as_object_mut().unwrap();
            message.remove("pty");
            message.insert("stdin".into(), "string".into());
        }),
    ];
    for (expected, change) in differing {
        let mut call = start.clone();
        change(&mut call);
        let why = whole(&call).expect_err(expected);
        assert!(why.contains(expected), "{why} instead of {expected}");
    }
}

/// Whether a part of a call (`query`, `headers`, `body`) is as in those that an SDK sends to the same place.
fn like(part: &str, call: &Call, all: &[Call]) -> Result<(), String> {
    let kind = |call: &Call| call["headers"].get("content-type").cloned();
    let of_place: Vec<&Call> =
        all.iter().filter(|other| ["method", "path"].iter().all(|name| other[*name] == call[*name])).collect();
    if of_place.is_empty() {
        return Err("no call of this method and path".into());
    }
    let same: Vec<&Call> = of_place.into_iter().filter(|other| kind(other) == kind(call)).collect();
    if same.is_empty() {
        return Err(format!("no call of this content type ({:?})", kind(call)));
    }
    match part {
        "body" => {
            let bodies: Vec<&Value> = same.iter().map(|other| &other["body"]).collect();
            shaped(text(call, "path"), "body", &call["body"], &bodies)
        }
        part => named(part, call, &same),
    }
}

/// Query and headers: what all have must be there, what none has must not, and written values are one of those seen.
fn named(part: &str, call: &Call, same: &[&Call]) -> Result<(), String> {
    let what = if part == "query" { "query" } else { "header" };
    let of = |call: &Call| call[part].as_object().cloned().unwrap_or_default();
    let path = text(call, "path");
    let added = |name: &str| {
        part == "headers" && ADDED_HEADERS.iter().any(|(place, header, _)| path.starts_with(place) && name == *header)
    };
    let (ours, theirs): (_, Vec<_>) = (of(call), same.iter().map(|other| of(other)).collect());
    for (name, value) in &ours {
        let values: Vec<&Value> = theirs.iter().filter_map(|other| other.get(name)).collect();
        if values.is_empty() && !added(name) {
            return Err(format!("{what} `{name}` is not sent"));
        }
        if !values.is_empty() && !values.contains(&value) && !added(name) {
            return Err(format!("{what} `{name}` is another: {value} and not one of {values:?}"));
        }
    }
    for name in theirs[0].keys().filter(|name| theirs.iter().all(|other| other.contains_key(*name))) {
        let excused = part == "headers" && LEFT_OUT.iter().any(|(left, _)| left == name);
        if !ours.contains_key(name) && !excused {
            return Err(format!("{what} `{name}` is missing"));
        }
    }
    Ok(())
}

fn shaped(path: &str, at: &str, ours: &Value, theirs: &[&Value]) -> Result<(), String> {
    match ours {
        Value::Object(fields) => {
            // Steps of a build, entries of a list: those of one type have one shape.
            let typed =
                |other: &Map<String, Value>| fields.get("type").is_none_or(|kind| other.get("type") == Some(kind));
            let objects: Vec<_> = theirs.iter().filter_map(|other| other.as_object()).filter(|o| typed(o)).collect();
            if objects.is_empty() {
                return Err(format!("{at}: an object is not sent, but {theirs:?}"));
            }
            for (name, value) in fields {
                let values: Vec<&Value> = objects.iter().filter_map(|other| other.get(name)).collect();
                if ADDED.iter().any(|(place, added, _)| (*place, *added) == (path, name.as_str())) {
                    continue;
                }
                if values.is_empty() {
                    return Err(format!("{at}: `{name}` is not sent"));
                }
                shaped(path, &format!("{at}.{name}"), value, &values)?;
            }
            let mut always = objects[0].keys().filter(|name| objects.iter().all(|other| other.contains_key(*name)));
            match always.find(|name| !fields.contains_key(*name)) {
                Some(name) => Err(format!("{at}: `{name}` is missing")),
                None => Ok(()),
            }
        }
        Value::Array(items) => {
            let all: Vec<&Value> = theirs.iter().filter_map(|other| other.as_array()).flatten().collect();
            items.iter().try_for_each(|item| shaped(path, &format!("{at}[]"), item, &all))
        }
        plain if theirs.contains(&plain) => Ok(()),
        plain => Err(format!("{at}: {plain} is not sent, but {theirs:?}")),
    }
}

fn text<'a>(call: &'a Call, name: &str) -> &'a str {
    call[name].as_str().unwrap()
}

// --- what is sent, as shapes: the same rules as in recorder.py ------------------------------------------------------------

const NO_MATTER: &[&str] =
    &["host", "connection", "content-length", "transfer-encoding", "accept", "user-agent", "accept-encoding"];
const VALUED: &[&str] = &[
    "content-type",
    "content-encoding",
    "connect-protocol-version",
    "keepalive-ping-interval",
    "e2b-sandbox-port",
    "authorization",
    "connect-content-encoding",
];
const WRITTEN: &[&str] = &["metadata", "state"];
const MAPS: &[&str] = &["metadata", "envVars", "envs"];
const LITERAL: &[&str] = &["cmd", "signal", "type", "fromTemplate", "templateID"];

fn entry(method: &str, url: &reqwest::Url, headers: &axum::http::HeaderMap, body: &[u8]) -> Call {
    let mut kept = Map::new();
    for (name, value) in headers {
        let value = value.to_str().unwrap();
        match name.as_str() {
            name if NO_MATTER.contains(&name) => {}
            name if VALUED.contains(&name) => drop(kept.insert(name.into(), value.split(';').next().into())),
            name => drop(kept.insert(name.into(), "<value>".into())),
        }
    }
    let query: Map<String, Value> = url
        .query_pairs()
        .map(|(name, value)| {
            let value = if WRITTEN.contains(&&*name) { value.into_owned() } else { "<value>".into() };
            (name.into_owned(), value.into())
        })
        .collect();
    let content_type = headers.get("content-type").map_or("", |value| value.to_str().unwrap());
    let body = match content_type.split(';').next().unwrap_or_default() {
        "application/connect+json" => json!({"frames": frames(body)}),
        "multipart/form-data" => json!({"parts": parts(content_type, body)}),
        "application/json" => shape(&serde_json::from_slice(body).unwrap(), None),
        _ if body.is_empty() => Value::Null,
        _ => "<bytes>".into(),
    };
    // Where archives go is the server's to say.
    let upload = method == "PUT" && !kept.contains_key("x-api-key");
    let (path, query) = if upload { ("{upload}".into(), Map::new()) } else { (pattern(url.path()), query) };
    let call = json!({"method": method, "path": path, "query": query, "headers": kept, "body": body});
    call.as_object().unwrap().clone()
}

/// A path with its ids as words.
fn pattern(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let named: Vec<&str> = parts
        .iter()
        .enumerate()
        .map(|(index, part)| match (index.checked_sub(1).map(|before| parts[before]), *part) {
            (Some("sandboxes"), _) => "{sandbox}",
            (Some("templates"), part) if part != "aliases" && parts[0] != "v3" => "{template}",
            (Some("aliases"), _) => "{name}",
            (Some("builds"), _) => "{build}",
            (Some("files"), _) => "{hash}",
            (_, part) => part,
        })
        .collect();
    format!("/{}", named.join("/"))
}

fn shape(value: &Value, key: Option<&str>) -> Value {
    match value {
        Value::Object(fields) if key.is_some_and(|key| MAPS.contains(&key)) => {
            if fields.is_empty() {
                json!({})
            } else {
                json!({"*": "string"})
            }
        }
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), shape(value, Some(name)))).collect(),
        Value::Array(items) if key == Some("args") && items.starts_with(&["-l".into(), "-c".into()]) => {
            json!(["-l", "-c", "<command>"])
        }
        Value::Array(items) => {
            let mut shapes = Vec::new();
            for shape in items.iter().map(|item| shape(item, None)) {
                if !shapes.contains(&shape) {
                    shapes.push(shape);
                }
            }
            shapes.into()
        }
        literal if key.is_some_and(|key| LITERAL.contains(&key)) => literal.clone(),
        Value::Bool(_) => "boolean".into(),
        Value::Number(_) => "number".into(),
        Value::String(_) => "string".into(),
        Value::Null => "null".into(),
    }
}

fn frames(mut body: &[u8]) -> Vec<Value> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = body.split_at_checked(5) {
        let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
        let (message, rest) = rest.split_at(length);
        frames.push(json!({"flag": head[0], "message": shape(&serde_json::from_slice(message).unwrap(), None)}));
        body = rest;
    }
    frames
}

fn parts(content_type: &str, body: &[u8]) -> Vec<Value> {
    let boundary = format!("--{}", content_type.split("boundary=").nth(1).unwrap());
    let text = String::from_utf8_lossy(body);
    let mut parts = Vec::new();
    for part in text.split(boundary.as_str()).filter(|part| part.contains("Content-Disposition")) {
        let head = part.split("\r\n\r\n").next().unwrap();
        let name = head.split(" name=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        let filename = head.contains(" filename=\"").then_some("<path>");
        let part = json!({"part": name, "filename": filename});
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    parts
}

// --- every call of the client ---------------------------------------------------------------------------------------------

async fn recorded() -> Vec<Call> {
    let seen: Arc<Mutex<Vec<Call>>> = Arc::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let scope = Scope::new(tokio::runtime::Handle::current());
    let (keep, base) = (seen.clone(), url.clone());
    let router = axum::Router::new().fallback(move |request: Request| {
        let (keep, base) = (keep.clone(), base.clone());
        async move {
            let (parts, body) = request.into_parts();
            let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
            let url: reqwest::Url = format!("{base}{}", parts.uri).parse().unwrap();
            let call = entry(parts.method.as_str(), &url, &parts.headers, &body);
            let (status, body) = by_rote(text(&call, "method"), text(&call, "path"), &base);
            keep.lock().unwrap().push(call);
            Response::builder().status(status).body(Body::from(body)).unwrap()
        }
    });
    drop(scope.spawn("by rote", async move { axum::serve(listener, router).await.unwrap() }));
    every_call(&url, &scope).await;
    // The answering ends by being cut off.
    drop(scope.close(Duration::ZERO).await);
    let seen = seen.lock().unwrap();
    seen.clone()
}

/// An answer that lets the client go on.
fn by_rote(method: &str, path: &str, base: &str) -> (u16, Vec<u8>) {
    let sandbox = json!({
        "templateID": "base", "sandboxID": "i1", "clientID": "c", "envdVersion": "0.6.4", "envdAccessToken": "t",
        "startedAt": "2026-01-01T00:00:00Z", "endAt": "2026-01-01T00:05:00Z", "state": "running", "cpuCount": 1, "memoryMB": 1,
        "diskSizeMB": 1, "metadata": {},
    });
    let template =
        json!({"templateID": "t1", "buildID": "b1", "public": false, "names": [], "aliases": [], "tags": []});
    let stream = |events: &[Value]| {
        let mut body = Vec::new();
        for event in events {
            body.extend(frame(0, json!({ "event": event }).to_string().as_bytes()));
        }
        body.extend(frame(2, b"{}"));
        (200, body)
    };
    let answer = |status: u16, body: Value| (status, body.to_string().into_bytes());
    match (method, path) {
        (_, "/process.Process/Start" | "/process.Process/Connect") => stream(&[
            json!({"start": {"pid": 7}}),
            json!({"data": {"stdout": "eA=="}}),
            json!({"end": {"exitCode": 0, "exited": true, "status": "exit status 0"}}),
        ]),
        (_, "/filesystem.Filesystem/Stat" | "/filesystem.Filesystem/Move") => {
            answer(200, json!({"entry": {"name": "x"}}))
        }
        ("GET", "/v2/sandboxes") => answer(200, json!([sandbox])),
        ("GET", "/nightcrew/report") => answer(404, json!({"code": 404, "message": "no"})),
        ("POST", "/v2/sandboxes") => answer(201, sandbox),
        ("GET", "/sandboxes/{sandbox}") | ("POST", "/v2/sandboxes/{sandbox}/connect") => answer(200, sandbox),
        ("POST", "/v3/templates") => answer(202, template),
        ("GET", "/templates/aliases/{name}") => answer(200, json!({"templateID": "t1", "public": false})),
        ("GET", "/templates/{template}/files/{hash}") => {
            answer(201, json!({"present": false, "url": format!("{base}/somewhere/else?token=1")}))
        }
        ("GET", "/templates/{template}/builds/{build}/status") => {
            answer(200, json!({"templateID": "t1", "buildID": "b1", "status": "ready", "logs": [], "logEntries": []}))
        }
        ("POST", "/files") => answer(200, json!([{"name": "x", "path": "/home/user/x", "type": "file"}])),
        ("POST", _) if path.contains("process.Process") || path.contains("Filesystem") => answer(200, json!({})),
        ("GET", "/files") => (200, b"x".to_vec()),
        _ => (204, Vec::new()),
    }
}

async fn every_call(url: &str, scope: &Scope) {
    let endpoint = Endpoint {
        api_url: url.to_owned(),
        sandbox_url: Some(url.to_owned()),
        key: Key::Given(Secret::new("e2b_0123456789abcdef")),
    };
    nightcrew::clients::install_tls();
    let cloud = Cloud::new(endpoint, Env::system(), scope.clone()).unwrap();
    let map = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);

    let plain = NewSandbox { template_id: "base".into(), timeout: Some(60), ..NewSandbox::default() };
    cloud.create(&plain, "key-1").await.unwrap();
    let network = json!({"allowOut": ["example.com"], "denyOut": ["0.0.0.0/0"]});
    let network: nightcrew::clients::e2b::wire::Network = serde_json::from_value(network).unwrap();
    let whole = NewSandbox {
        auto_pause: Some(false),
        allow_internet_access: Some(false),
        network: Some(network.clone()),
        metadata: map("a", "b"),
        env_vars: map("C", "d"),
        ..plain
    };
    let sandbox = cloud.create(&whole, "key-2").await.unwrap();
    let id = &sandbox.sandbox_id;
    cloud.info(id).await.unwrap();
    cloud.connect(id, 100).await.unwrap();
    cloud.set_timeout(id, 100).await.unwrap();
    cloud.list(&BTreeMap::new(), &[]).await.unwrap();
    cloud.list(&map("a b", "c&d=/é"), &[State::Running, State::Paused]).await.unwrap();
    cloud.pause(id).await.unwrap();
    cloud.resume(id, 100).await.unwrap();
    cloud.set_network(id, &network, false).await.unwrap();
    cloud.report().await.unwrap();

    cloud.template("nightcrew-1").await.unwrap();
    let new =
        NewTemplate { name: Some("t".into()), cpu_count: Some(1), memory_mb: Some(512), ..NewTemplate::default() };
    let template = cloud.request_template(&new).await.unwrap();
    let (template, build) = (&template.template_id, &template.build_id);
    cloud.upload(template, &"0123456789abcdef".repeat(4), b"archive".to_vec()).await.unwrap();
    let step = |kind: &str, args: &[&str], hash: Option<&str>| BuildStep {
        kind: kind.into(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        files_hash: hash.map(str::to_owned),
        force: false,
    };
    let steps = StartBuild {
        from_template: Some("base".into()),
        steps: vec![
            step("COPY", &["a", "/home/user/a", "", ""], Some("0123456789abcdef")),
            step("RUN", &["true"], None),
            step("ENV", &["A", "b"], None),
            step("WORKDIR", &["/home/user"], None),
            step("USER", &["user"], None),
        ],
        start_cmd: Some("sleep 1".into()),
        ready_cmd: Some("true".into()),
        ..StartBuild::default()
    };
    cloud.start_build(template, build, &steps, &["pypi".to_owned()]).await.unwrap();
    cloud.build_status(template, build, 0).await.unwrap();
    cloud.delete_template(template).await.unwrap();

    let local = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(local.path(), "local").unwrap();
    let own = cloud.envd(&sandbox).unwrap();
    for envd in [&own, &own.as_user("user")] {
        envd.health().await.unwrap();
        let shell = ProcessConfig {
            cmd: "/bin/bash".into(),
            args: vec!["-l".into(), "-c".into(), "true".into()],
            ..ProcessConfig::default()
        };
        let start = StartProcess { process: shell.clone(), ..StartProcess::default() };
        let mut process = envd.start(&start, Some(Duration::from_secs(9))).await.unwrap();
        while process.next().await.unwrap().is_some() {}
        let placed = ProcessConfig { envs: map("A", "b"), cwd: Some("/tmp".into()), ..shell };
        let start = StartProcess { process: placed, stdin: Some(true), ..StartProcess::default() };
        let process = envd.start(&start, None).await.unwrap();
        process.send_input(b"x").await.unwrap();
        process.close_stdin().await.unwrap();
        let pid = process.leave();
        drop(envd.connect(pid).await.unwrap());
        envd.list().await.unwrap();
        envd.signal(pid, Signal::Kill).await.unwrap();

        envd.write("one", b"text").await.unwrap();
        envd.write_many(&[("two", b"2"), ("three", b"3")]).await.unwrap();
        envd.write_file("four", local.path()).await.unwrap();
        envd.read("one", 100).await.unwrap();
        drop(envd.open("one").await.unwrap());
        envd.stat("one").await.unwrap();
        envd.list_dir("/home/user", 2).await.unwrap();
        envd.make_dir("folder").await.unwrap();
        envd.rename("two", "folder/two").await.unwrap();
        envd.remove("folder").await.unwrap();
    }
    cloud.kill(id).await.unwrap();
}
