//! Files: a place, the bytes, and the end that shares them.

use serde_json::{Value, json};

use super::super::service::{Answer, Log, Request};
use super::messages::{share, too_soon};
use super::{Args, BOT_USER, Desk, no, number, structured, text, yes};

#[derive(Clone, Debug)]
pub struct File {
    pub name: String,
    pub length: u64,
    pub bytes: Option<Vec<u8>>,
    pub complete: bool,
}

pub fn place(desk: &mut Desk, args: &Args) -> Answer {
    let (Some(name), Some(length)) = (text(args, "filename"), number(args, "length")) else {
        return no("invalid_arguments");
    };
    if length == 0 {
        return no("length_required");
    }
    let id = desk.id("F");
    desk.files.insert(id.clone(), File { name: name.into(), length, bytes: None, complete: false });
    yes(json!({"upload_url": format!("{}/upload/v1/{id}", desk.base), "file_id": id}))
}

/// The bytes as they are, or as the one part of a form.
fn content(request: &Request) -> Vec<u8> {
    let kind = request.header("content-type").unwrap_or_default();
    let Some((_, boundary)) = kind.split_once("boundary=").filter(|_| kind.starts_with("multipart/")) else {
        return request.body.clone();
    };
    let mark = format!("\r\n--{}", boundary.trim_matches('"'));
    let find = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|part| part == what);
    let Some(start) = find(&request.body, b"\r\n\r\n") else { return Vec::new() };
    let rest = &request.body[start + 4..];
    rest[..find(rest, mark.as_bytes()).unwrap_or(rest.len())].to_vec()
}

pub fn upload(desk: &mut Desk, id: &str, request: &Request, log: &mut Log) -> Answer {
    let Some(file) = desk.files.get_mut(id).filter(|_| request.method == "POST") else {
        return Answer::text(404, "no such upload");
    };
    let bytes = content(request);
    if bytes.len() as u64 != file.length {
        return Answer::text(400, "the length is another one");
    }
    log.effect("file.upload", json!({"file": id, "name": file.name, "bytes": bytes.len()}));
    file.bytes = Some(bytes);
    Answer::text(200, &format!("OK - {}", file.length))
}

pub fn complete(desk: &mut Desk, args: &Args, request: &Request, log: &mut Log) -> Answer {
    let Some(Value::Array(wanted)) =
        structured(args, "files").filter(|files| files.as_array().is_some_and(|files| !files.is_empty()))
    else {
        return no("invalid_arguments");
    };
    let mut shown = Vec::new();
    for entry in &wanted {
        let id = entry["id"].as_str().unwrap_or_default();
        let Some(file) = desk.files.get_mut(id).filter(|file| file.bytes.is_some()) else {
            return no("file_not_found");
        };
        if file.complete {
            return no("file_already_completed");
        }
        let title = entry["title"].as_str().unwrap_or(&file.name).to_owned();
        shown.push(json!({
            "id": id, "name": file.name, "title": title, "mimetype": "image/png", "filetype": "png", "size": file.length, "user": BOT_USER,
            "permalink": format!("https://acme.slack.example/files/{BOT_USER}/{id}"), "url_private": format!("https://files.slack.example/{id}"),
        }));
    }
    let channel = text(args, "channel_id").or_else(|| text(args, "channels"));
    let at = match channel.map(|name| desk.seen(Some(name))) {
        None => None,
        Some(Err(answer)) => return answer,
        Some(Ok(at)) => Some(at),
    };
    if let Some(at) = at {
        if !desk.channels[at].members.contains(BOT_USER) {
            return no("not_in_channel");
        }
        if let Some(answer) = too_soon(desk, at, request) {
            return answer;
        }
    }
    for file in &shown {
        if let Some(file) = file["id"].as_str().and_then(|id| desk.files.get_mut(id)) {
            file.complete = true;
        }
    }
    if let Some(at) = at {
        let words = text(args, "initial_comment").unwrap_or_default();
        let ts = match share(desk, at, words, text(args, "thread_ts"), shown.clone(), request) {
            Ok(ts) => ts,
            Err(answer) => return answer,
        };
        log.effect("file.share", json!({
            "channel": desk.channels[at].name, "ts": ts, "thread_ts": args.get("thread_ts"), "text": words, "files": shown,
        }));
    }
    yes(json!({"files": shown}))
}
