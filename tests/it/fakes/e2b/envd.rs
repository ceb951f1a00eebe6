//! The daemon of each sandbox: files in memory, and processes.

use std::sync::Arc;
use std::time::Duration;

use nightcrew::base::base64::decoded;
use serde_json::{Value, json};

use super::process::{Follow, Process};
use super::{Cloud, Reply, Request, Sandbox, State};

/// An error of a Connect call.
fn rpc_error(status: u16, code: &str, message: &str) -> Reply {
    Reply::json(status, &json!({"code": code, "message": message}))
}

pub fn answer(state: &Arc<State>, request: &Request) -> Reply {
    let id = request.sandbox.clone().unwrap_or_default();
    {
        let mut cloud = state.cloud();
        let Some(sandbox) = cloud.sandboxes.get(&id).filter(|sandbox| !sandbox.paused) else {
            return Reply::json(502, &json!({"sandboxId": id, "message": "The sandbox was not found", "code": 502}));
        };
        if request.call == "health" {
            return Reply::none(204);
        }
        if request.header("x-access-token") != Some(&sandbox.token) {
            return Reply::refused(401, "unauthorized access, please provide a valid access token");
        }
        match request.call.as_str() {
            "read" => return read(sandbox, request),
            "write" => return write(&mut cloud, &id, request),
            "Stat" | "ListDir" | "MakeDir" | "Remove" | "Move" => return filesystem(&mut cloud, &id, request),
            _ => {}
        }
    }
    process(state, &id, request)
}

fn process(state: &Arc<State>, id: &str, request: &Request) -> Reply {
    let body = request.json();
    if request.call == "Start" {
        let cwd = body["process"]["cwd"].as_str();
        let missing = cwd.filter(|cwd| !there(state.cloud().sandboxes.get(id), cwd));
        if let Some(cwd) = missing {
            // A stream's error comes in its last frame.
            let error =
                json!({"error": {"code": "invalid_argument", "message": format!("cwd '{cwd}' does not exist")}});
            let error = error.to_string();
            let mut last = vec![2];
            last.extend_from_slice(&(error.len() as u32).to_be_bytes());
            last.extend_from_slice(error.as_bytes());
            return Reply::Whole {
                status: 200,
                headers: Vec::new(),
                content_type: "application/connect+json",
                body: last,
            };
        }
        let deadline = request.header("connect-timeout-ms").and_then(|text| text.parse().ok());
        let process = Process::begin(state, id, &body, deadline.map(Duration::from_millis));
        return process.map_or_else(|| Reply::none(502), |process| follow(state, id, process, true));
    }
    let pid = body["process"]["pid"].as_u64().unwrap_or(0) as u32;
    let processes = state.cloud().sandboxes.get(id).map(|sandbox| sandbox.processes.clone()).unwrap_or_default();
    let live = processes.iter().filter(|process| !process.ended());
    if request.call == "List" {
        let all: Vec<Value> = live.map(|process| json!({"pid": process.pid, "config": process.config})).collect();
        return Reply::json(200, &json!({ "processes": all }));
    }
    let Some(found) = live.into_iter().find(|process| process.pid == pid) else {
        return rpc_error(404, "not_found", &format!("process with pid {pid} not found"));
    };
    match request.call.as_str() {
        "Connect" => return follow(state, id, found.clone(), false),
        "SendInput" => match body["input"]["stdin"].as_str().and_then(decoded) {
            Some(bytes) => found.input(Some(&bytes)),
            None => return rpc_error(400, "invalid_argument", "no input"),
        },
        "CloseStdin" => found.input(None),
        "SendSignal" => match body["signal"].as_str() {
            Some("SIGNAL_SIGKILL") => found.kill("killed"),
            Some("SIGNAL_SIGTERM") => found.kill("terminated"),
            _ => return rpc_error(400, "invalid_argument", "no signal"),
        },
        _ => return rpc_error(404, "unimplemented", "no such method"),
    }
    Reply::json(200, &json!({}))
}

fn follow(state: &State, id: &str, process: Arc<Process>, whole: bool) -> Reply {
    let gone = state.cloud().sandboxes.get(id).map(|sandbox| sandbox.gone.clone()).unwrap_or_default();
    Reply::Follow(Follow { process, whole, gone })
}

fn there(sandbox: Option<&Sandbox>, path: &str) -> bool {
    let Some(sandbox) = sandbox else { return false };
    let below = format!("{}/", path.trim_end_matches('/'));
    sandbox.files.contains_key(path)
        || sandbox.folders.iter().any(|folder| folder == path || folder.starts_with(&below))
        || sandbox.files.keys().any(|file| file.starts_with(&below))
}

fn read(sandbox: &Sandbox, request: &Request) -> Reply {
    let path = request.query("path").unwrap_or_default();
    match sandbox.files.get(path) {
        Some(bytes) => Reply::Whole {
            status: 200,
            headers: Vec::new(),
            content_type: "application/octet-stream",
            body: bytes.clone(),
        },
        None if there(Some(sandbox), path) => Reply::refused(400, &format!("path '{path}' is a directory")),
        None => Reply::refused(404, &format!("path '{path}' does not exist")),
    }
}

fn write(cloud: &mut Cloud, id: &str, request: &Request) -> Reply {
    let kind = request.header("content-type").unwrap_or_default();
    let path = request.query("path");
    let files: Vec<(String, Vec<u8>)> = if let Some(boundary) = kind.strip_prefix("multipart/form-data; boundary=") {
        parts(&request.body, boundary)
    } else if let (Some(path), "application/octet-stream") = (path, kind) {
        vec![(path.to_owned(), request.body.clone())]
    } else {
        return Reply::refused(400, &format!("error parsing multipart form: {kind}"));
    };
    if files.is_empty() || (path.is_some() && files.len() > 1) {
        return Reply::refused(400, "a path and the files do not fit");
    }
    let Some(sandbox) = cloud.sandboxes.get_mut(id) else { return Reply::none(502) };
    let mut told = Vec::new();
    for (name, bytes) in files {
        let path = path.map_or(name, str::to_owned);
        told.push(json!({"path": path, "name": path.rsplit('/').next(), "type": "file"}));
        sandbox.files.insert(path, bytes);
    }
    Reply::json(200, &told.into())
}

/// The parts of a form by their file name, read as strictly as the format says.
fn parts(body: &[u8], boundary: &str) -> Vec<(String, Vec<u8>)> {
    let mark = format!("\r\n--{boundary}").into_bytes();
    let body = [b"\r\n", body].concat();
    let mut found = Vec::new();
    let starts: Vec<usize> =
        body.windows(mark.len()).enumerate().filter(|(_, w)| *w == mark).map(|(at, _)| at).collect();
    for pair in starts.windows(2) {
        let part = &body[pair[0] + mark.len() + 2..pair[1]];
        let head = part.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let text = String::from_utf8(part[..head].to_vec()).unwrap();
        assert!(text.contains("form-data; name=\"file\"; "), "{text}");
        let name = text.split("filename=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        found.push((name.to_owned(), part[head + 4..].to_vec()));
    }
    assert!(body.ends_with(format!("--{boundary}--\r\n").as_bytes()));
    found
}

fn filesystem(cloud: &mut Cloud, id: &str, request: &Request) -> Reply {
    let body = request.json();
    let Some(sandbox) = cloud.sandboxes.get_mut(id) else { return Reply::none(502) };
    let path = body["path"].as_str().or(body["source"].as_str()).unwrap_or_default().trim_end_matches('/').to_owned();
    if request.call == "MakeDir" {
        if there(Some(sandbox), &path) {
            return rpc_error(409, "already_exists", &format!("directory already exists: {path}"));
        }
        sandbox.folders.push(path);
        return Reply::json(200, &json!({"entry": {}}));
    }
    // As with `rm -rf`, it is no error that there is nothing to remove.
    if request.call != "Remove" && !there(Some(sandbox), &path) {
        return rpc_error(404, "not_found", &format!("path not found: {path}"));
    }
    let below = format!("{path}/");
    match request.call.as_str() {
        "Stat" => Reply::json(200, &json!({ "entry": entry(sandbox, &path) })),
        "ListDir" => {
            if sandbox.files.contains_key(&path) {
                return rpc_error(400, "invalid_argument", &format!("path is not a directory: {path}"));
            }
            let depth = body["depth"].as_u64().unwrap_or(1).max(1) as usize;
            let mut names: Vec<String> = Vec::new();
            for file in sandbox.files.keys().chain(&sandbox.folders).filter(|file| file.starts_with(&below)) {
                let rest: Vec<&str> = file[below.len()..].split('/').collect();
                names.extend((1..=depth.min(rest.len())).map(|n| format!("{below}{}", rest[..n].join("/"))));
            }
            names.sort();
            names.dedup();
            let entries: Vec<Value> = names.iter().map(|name| entry(sandbox, name)).collect();
            Reply::json(200, &json!({ "entries": entries }))
        }
        "Remove" => {
            sandbox.files.retain(|file, _| *file != path && !file.starts_with(&below));
            sandbox.folders.retain(|folder| *folder != path && !folder.starts_with(&below));
            Reply::json(200, &json!({}))
        }
        _ => {
            let to = body["destination"].as_str().unwrap_or_default().to_owned();
            let moved: Vec<String> =
                sandbox.files.keys().filter(|file| **file == path || file.starts_with(&below)).cloned().collect();
            for from in moved {
                let bytes = sandbox.files.remove(&from).unwrap();
                sandbox.files.insert(format!("{to}{}", &from[path.len()..]), bytes);
            }
            Reply::json(200, &json!({ "entry": entry(sandbox, &to) }))
        }
    }
}

/// As protobuf's JSON has it: 64-bit numbers in strings, nothing that is zero.
fn entry(sandbox: &Sandbox, path: &str) -> Value {
    let name = path.rsplit('/').next();
    match sandbox.files.get(path) {
        Some(bytes) => {
            let mut entry = json!({"name": name, "type": "FILE_TYPE_FILE", "path": path, "mode": 420, "permissions": "-rw-r--r--",
                "owner": "user", "group": "user", "modifiedTime": "2026-11-20T08:00:00.123456789Z"});
            if !bytes.is_empty() {
                entry["size"] = json!(bytes.len().to_string());
            }
            entry
        }
        None => json!({"name": name, "type": "FILE_TYPE_DIRECTORY", "path": path, "size": "4096", "mode": 493,
            "permissions": "drwxr-xr-x", "owner": "user", "group": "user", "modifiedTime": "2026-11-20T08:00:00Z"}),
    }
}
