//! The control plane: sandboxes and templates.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Cloud, Reply, Request, Sandbox, Template};

/// What E2B's specification does not allow in a request. Kept apart from the answers, so that a client is not let off by a lenient one.
pub fn violations(request: &Request) -> Vec<String> {
    let mut wrong = Vec::new();
    let body = request.json();
    let mut keys = |known: &[&str]| {
        let Some(object) = body.as_object() else {
            wrong.push(format!("the body is no object: {body}"));
            return;
        };
        for key in object.keys().filter(|key| !known.contains(&key.as_str())) {
            wrong.push(format!("unknown field `{key}`"));
        }
    };
    match request.call.as_str() {
        "create" => keys(&[
            "templateID",
            "timeout",
            "autoPause",
            "autoPauseMemory",
            "autoResume",
            "allow_internet_access",
            "network",
            "metadata",
            "envVars",
            "mcp",
            "iam",
            "volumeMounts",
        ]),
        "connect" => keys(&["timeout", "memory"]),
        "timeout" => keys(&["timeout"]),
        "pause" => keys(&["memory", "requireHealthyGuest"]),
        "network" => {
            keys(&["allowOut", "denyOut", "egressProxy", "dnsServers", "rules", "allow_internet_access"]);
        }
        "request_template" => keys(&["name", "tags", "alias", "teamID", "cpuCount", "memoryMB", "minFreeDiskMb"]),
        "start_build" => {
            keys(&["fromImage", "fromTemplate", "fromImageRegistry", "force", "steps", "startCmd", "readyCmd"]);
        }
        "Start" => keys(&["process", "pty", "tag", "stdin"]),
        "Connect" | "CloseStdin" => keys(&["process"]),
        "SendInput" => keys(&["process", "input"]),
        "SendSignal" => keys(&["process", "signal"]),
        "Stat" | "MakeDir" | "Remove" => keys(&["path"]),
        "ListDir" => keys(&["path", "depth"]),
        "Move" => keys(&["source", "destination"]),
        _ => {}
    }
    let rpc = request.path.starts_with("/process.Process/") || request.path.starts_with("/filesystem.Filesystem/");
    if rpc {
        let streams = matches!(request.call.as_str(), "Start" | "Connect");
        let wanted = if streams { "application/connect+json" } else { "application/json" };
        for (name, wanted) in
            [("content-type", wanted), ("connect-protocol-version", "1"), ("e2b-sandbox-port", "49983")]
        {
            if request.header(name) != Some(wanted) {
                wrong.push(format!("{name} is {:?}", request.header(name)));
            }
        }
        if request.header("x-api-key").is_some() {
            wrong.push("the API key went into a sandbox".into());
        }
    }
    if request.call == "upload" && request.headers.keys().any(|name| name == "x-api-key" || name == "authorization") {
        wrong.push("a credential went to the store of archives".into());
    }
    wrong
}

pub fn answer(cloud: &mut Cloud, request: &Request) -> Reply {
    let body = request.json();
    let parts: Vec<String> = request.path.trim_start_matches('/').split('/').map(decoded).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let id = request.sandbox.clone().unwrap_or_default();
    let unknown = || Reply::refused(404, &format!("sandbox \"{id}\" doesn't exist or you don't have access to it"));
    match (request.call.as_str(), parts.as_slice()) {
        ("create", _) => create(cloud, request, &body),
        ("list", _) => list(cloud, request),
        ("info", _) => cloud.sandboxes.get(&id).map_or_else(unknown, |sandbox| Reply::json(200, &told(sandbox))),
        ("kill", _) => {
            if cloud.end(&id) {
                Reply::none(204)
            } else {
                unknown()
            }
        }
        ("connect", _) => {
            let Some(sandbox) = cloud.sandboxes.get_mut(&id) else { return unknown() };
            let status = if std::mem::take(&mut sandbox.paused) { 201 } else { 200 };
            sandbox.timeout = sandbox.timeout.max(body["timeout"].as_u64().unwrap_or(0));
            Reply::json(status, &created(sandbox))
        }
        ("timeout", _) => {
            let Some(sandbox) = cloud.sandboxes.get_mut(&id) else { return unknown() };
            sandbox.timeout = body["timeout"].as_u64().unwrap_or(0);
            Reply::none(204)
        }
        ("pause", _) => {
            let Some(sandbox) = cloud.sandboxes.get_mut(&id) else { return unknown() };
            if std::mem::replace(&mut sandbox.paused, true) {
                return Reply::refused(409, "sandbox is already paused");
            }
            Reply::none(204)
        }
        ("network", _) => {
            let Some(sandbox) = cloud.sandboxes.get_mut(&id) else { return unknown() };
            sandbox.network = body;
            Reply::none(204)
        }
        ("alias", [.., name]) => {
            let found = cloud.templates.values().find(|template| template.name == *name);
            let answer = |template: &Template| Reply::json(200, &json!({"templateID": template.id, "public": false}));
            found.map_or_else(|| Reply::refused(404, "template alias not found"), answer)
        }
        ("request_template", _) => {
            let name = body["name"].as_str().unwrap_or_default().to_owned();
            let known = cloud.templates.values().find(|template| template.name == name).map(|known| known.id.clone());
            let id = known.unwrap_or_else(|| format!("tpl{:017}", cloud.number()));
            let build = format!("00000000-0000-4000-8000-{:012}", cloud.number());
            let template = cloud.templates.entry(id.clone()).or_default();
            (template.id, template.name) = (id.clone(), name.clone());
            let answer = json!({"templateID": id, "buildID": build, "public": false, "names": [name], "tags": [], "aliases": [name]});
            Reply::json(202, &answer)
        }
        ("files_link", [_, id, _, hash]) => {
            let base = cloud.base.clone();
            let Some(template) = cloud.templates.get(*id) else { return Reply::refused(404, "no such template") };
            if template.archives.contains_key(*hash) {
                return Reply::json(201, &json!({"present": true}));
            }
            let url = format!("{base}/uploads/{id}/{hash}?X-Amz-Signature=0ddba11");
            Reply::json(
                201,
                &json!({"present": false, "url": url, "headers": {"x-amz-tagging": "a=b", "Content-Length": "1"}}),
            )
        }
        ("start_build", [_, _, id, ..]) => {
            let builder = cloud.builder.clone();
            let Some(template) = cloud.templates.get_mut(*id) else { return Reply::refused(404, "no such template") };
            let missing = body["steps"].as_array().into_iter().flatten().filter_map(|step| step["filesHash"].as_str());
            if let Some(hash) = missing.into_iter().find(|hash| !template.archives.contains_key(*hash)) {
                return Reply::refused(400, &format!("files {hash} were not uploaded"));
            }
            template.status = builder(&body).into();
            template.steps = Some(body);
            Reply::none(202)
        }
        ("build_status", [_, id, _, build, _]) => {
            let Some(template) = cloud.templates.get_mut(*id) else { return Reply::refused(404, "no such template") };
            let mut status = template.status.front().cloned().unwrap_or_else(|| json!({"status": "waiting"}));
            if template.status.len() > 1 {
                template.status.pop_front();
            }
            template.ready = status["status"] == "ready";
            let offset = request.query("logsOffset").and_then(|text| text.parse().ok()).unwrap_or(0);
            let entries = status["logEntries"].as_array().cloned().unwrap_or_default();
            let entries: Vec<Value> = entries.into_iter().skip(offset).take(100).collect();
            status["logs"] = entries.iter().map(|entry| entry["message"].clone()).collect();
            status["logEntries"] = entries.into();
            (status["templateID"], status["buildID"]) = (json!(id), json!(build));
            Reply::json(200, &status)
        }
        ("delete_template", [_, id]) => match cloud.templates.remove(*id) {
            Some(_) => Reply::none(204),
            None => Reply::refused(404, "no such template"),
        },
        _ => Reply::refused(404, &format!("no route for {} {}", request.method, request.path)),
    }
}

pub fn upload(cloud: &mut Cloud, request: &Request) -> Reply {
    let parts: Vec<String> = request.path.trim_start_matches('/').split('/').map(decoded).collect();
    if request.query("X-Amz-Signature") != Some("0ddba11") || request.header("x-amz-tagging") != Some("a=b") {
        return Reply::refused(403, "SignatureDoesNotMatch 0ddba11");
    }
    let Some(template) = cloud.templates.get_mut(&parts[1]) else { return Reply::refused(404, "NoSuchKey") };
    template.archives.insert(parts[2].clone(), request.body.clone());
    Reply::none(200)
}

fn create(cloud: &mut Cloud, request: &Request, asked: &Value) -> Reply {
    let key = request.header("idempotency-key").map(str::to_owned);
    if let Some(made) = key.as_ref().and_then(|key| cloud.made.get(key)) {
        return Reply::json(201, made);
    }
    let wanted = asked["templateID"].as_str().unwrap_or_default();
    let known = cloud.templates.values().find(|template| template.id == wanted || template.name == wanted);
    let Some(template) = known.filter(|template| template.ready).map(|template| template.id.clone()) else {
        return Reply::refused(404, &format!("template '{wanted}' not found"));
    };
    let number = cloud.number();
    let sandbox = Sandbox {
        id: format!("i{number:019}"),
        token: format!("ea_{number:040}"),
        asked: asked.clone(),
        template,
        timeout: asked["timeout"].as_u64().unwrap_or(300),
        paused: false,
        files: BTreeMap::new(),
        folders: vec!["/".into(), "/home".into(), "/home/user".into(), "/tmp".into()],
        network: asked["network"].clone(),
        gone: CancellationToken::new(),
        processes: Vec::new(),
    };
    let answer = created(&sandbox);
    cloud.sandboxes.insert(sandbox.id.clone(), sandbox);
    if let Some(key) = key {
        cloud.made.insert(key, answer.clone());
    }
    Reply::json(201, &answer)
}

fn created(sandbox: &Sandbox) -> Value {
    json!({
        "templateID": sandbox.template, "sandboxID": sandbox.id, "clientID": "6532622b", "envdVersion": "0.6.13",
        "envdAccessToken": sandbox.token, "domain": null,
    })
}

fn told(sandbox: &Sandbox) -> Value {
    let started = Timestamp::from_second(1_790_000_000).unwrap();
    let end = started + SignedDuration::from_secs(sandbox.timeout as i64);
    json!({
        "templateID": sandbox.template, "alias": "base", "sandboxID": sandbox.id, "clientID": "6532622b",
        "startedAt": started.to_string(), "endAt": end.to_string(), "envdVersion": "0.6.13", "cpuCount": 2, "memoryMB": 512,
        "diskSizeMB": 1024, "state": if sandbox.paused { "paused" } else { "running" },
        "metadata": sandbox.asked["metadata"].as_object().cloned().unwrap_or_default(), "volumeMounts": [],
    })
}

fn list(cloud: &Cloud, request: &Request) -> Reply {
    // Decoded once with the query, the filter is a list whose parts are decoded once as a list and once more each.
    let wanted: Vec<(String, String)> = request
        .query("metadata")
        .into_iter()
        .flat_map(|text| text.split('&'))
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (decoded(decoded(name)), decoded(decoded(value))))
        .collect();
    let states: Vec<&str> = request.query("state").map_or_else(Vec::new, |text| text.split(',').collect());
    let from = request.query("nextToken").and_then(|token| token.strip_prefix("page ")?.parse().ok()).unwrap_or(0);
    let all: Vec<Value> = cloud
        .sandboxes
        .values()
        .filter(|sandbox| wanted.iter().all(|(name, value)| sandbox.asked["metadata"][name] == json!(value)))
        .map(told)
        .filter(|told| states.is_empty() || states.iter().any(|state| told["state"] == *state))
        .collect();
    let page: Vec<Value> = all.iter().skip(from).take(cloud.page).cloned().collect();
    let mut headers = vec![("x-total-running".to_owned(), all.len().to_string())];
    if from + page.len() < all.len() {
        headers.push(("x-next-token".to_owned(), format!("page {}", from + page.len())));
    }
    let body = Value::from(page).to_string().into_bytes();
    Reply::Whole { status: 200, headers, content_type: "application/json", body }
}

fn decoded(text: impl AsRef<str>) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_ref().as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        match (byte, hex) {
            (b'%', Some(value)) => {
                out.push(value);
                rest = &after[2..];
            }
            (byte, _) => {
                out.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8(out).unwrap()
}
