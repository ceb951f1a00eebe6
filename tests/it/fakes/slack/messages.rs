//! Messages: sent, changed, read.

use serde_json::{Value, json};

use super::super::service::{Answer, Log, Request};
use super::{Args, BOT, BOT_USER, Channel, Desk, TEAM, blocks, flag, no, structured, text, yes};

/// What is let through within a second of the last one, in milliseconds: clocks are not that exact.
const SPACE_MS: i64 = 980;

#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub ts: String,
    /// Of a reply, and of who has replies.
    pub thread_ts: Option<String>,
    pub user: String,
    pub text: String,
    pub blocks: Vec<Value>,
    pub attachments: Value,
    pub metadata: Option<Value>,
    pub files: Vec<Value>,
    pub edited: bool,
    pub broadcast: bool,
    pub reactions: Vec<String>,
}

impl Message {
    pub fn is_top(&self) -> bool {
        self.thread_ts.as_deref().is_none_or(|thread| thread == self.ts)
    }

    /// As the API shows it; metadata only to who asks for it.
    fn shown(&self, with_metadata: bool) -> Value {
        let mut shown = json!({"type": "message", "user": self.user, "text": self.text, "ts": self.ts, "team": TEAM});
        if self.user == BOT_USER {
            shown["bot_id"] = BOT.into();
            shown["app_id"] = "A0000000001".into();
        }
        if let Some(thread) = &self.thread_ts {
            shown["thread_ts"] = thread.clone().into();
        }
        if !self.blocks.is_empty() {
            shown["blocks"] = self.blocks.clone().into();
        }
        if !self.attachments.is_null() {
            shown["attachments"] = self.attachments.clone();
        }
        if !self.files.is_empty() {
            shown["files"] = self.files.clone().into();
        }
        if self.edited {
            shown["edited"] = json!({"user": self.user, "ts": self.ts});
        }
        if let Some(metadata) = self.metadata.as_ref().filter(|_| with_metadata) {
            shown["metadata"] = metadata.clone();
        }
        shown
    }
}

/// Where the bot writes.
fn writable(desk: &Desk, args: &Args) -> Result<usize, Answer> {
    let at = desk.seen(text(args, "channel"))?;
    let channel = &desk.channels[at];
    if channel.archived {
        return Err(no("is_archived"));
    }
    if !channel.members.contains(BOT_USER) {
        return Err(no("not_in_channel"));
    }
    Ok(at)
}

/// One message a second and channel, as Slack asks; 429 where it is more.
pub fn too_soon(desk: &mut Desk, at: usize, request: &Request) -> Option<Answer> {
    let now = request.at.as_millisecond();
    let patient = desk.patient;
    let sent = &mut desk.channels[at].sent;
    sent.retain(|then| now - then < SPACE_MS);
    if !sent.is_empty() && !patient {
        let refusal = json!({"ok": false, "error": "ratelimited"});
        return Some(Answer::json(429, &refusal).header("retry-after", "1"));
    }
    sent.push(now);
    None
}

/// Text, blocks and attachments of a message, checked.
fn content(args: &Args) -> Result<(String, Vec<Value>, Value), Answer> {
    let words = text(args, "text").unwrap_or_default().to_owned();
    let blocks = match args.get("blocks") {
        None | Some(Value::Null) => Vec::new(),
        Some(_) => match structured(args, "blocks") {
            Some(Value::Array(blocks)) => blocks,
            _ => return Err(no("invalid_blocks_format")),
        },
    };
    let attachments = structured(args, "attachments").unwrap_or(Value::Null);
    if words.is_empty() && blocks.is_empty() && attachments.is_null() {
        return Err(no("no_text"));
    }
    if words.chars().count() > 40_000 {
        return Err(no("msg_too_long"));
    }
    let wrong = blocks::wrong(&blocks);
    if !wrong.is_empty() {
        let refusal =
            json!({"ok": false, "error": "invalid_blocks", "errors": wrong, "response_metadata": {"messages": wrong}});
        return Err(Answer::json(200, &refusal));
    }
    Ok((words, blocks, attachments))
}

fn metadata(args: &Args) -> Result<Option<Value>, Answer> {
    let Some(given) = structured(args, "metadata") else { return Ok(None) };
    if !given["event_type"].is_string() || !given["event_payload"].is_object() {
        return Err(no("invalid_metadata_format"));
    }
    if given.to_string().len() > 16_384 {
        return Err(no("metadata_too_large"));
    }
    Ok(Some(given))
}

fn logged(channel: &Channel, message: &Message, by: &str) -> Value {
    json!({
        "channel": channel.name, "ts": message.ts, "thread_ts": message.thread_ts, "text": message.text, "blocks": message.blocks,
        "metadata": message.metadata, "by": by,
    })
}

/// Where a reply goes: the top of its thread.
fn thread(channel: &mut Channel, given: Option<&str>) -> Result<Option<String>, Answer> {
    let Some(given) = given else { return Ok(None) };
    let Some(found) = channel.messages.iter().position(|message| message.ts == given) else {
        return Err(no("thread_not_found"));
    };
    let top = channel.messages[found].thread_ts.clone().unwrap_or_else(|| given.to_owned());
    if let Some(parent) = channel.messages.iter_mut().find(|message| message.ts == top) {
        parent.thread_ts = Some(top.clone());
    }
    Ok(Some(top))
}

pub fn post(desk: &mut Desk, args: &Args, request: &Request, log: &mut Log) -> Answer {
    let at = match writable(desk, args) {
        Ok(at) => at,
        Err(answer) => return answer,
    };
    let ((words, blocks, attachments), metadata) = match (content(args), metadata(args)) {
        (Ok(content), Ok(metadata)) => (content, metadata),
        (Err(answer), _) | (_, Err(answer)) => return answer,
    };
    if let Some(answer) = too_soon(desk, at, request) {
        return answer;
    }
    let thread_ts = match thread(&mut desk.channels[at], text(args, "thread_ts")) {
        Ok(thread) => thread,
        Err(answer) => return answer,
    };
    let message = Message {
        ts: desk.stamp(request.at),
        thread_ts,
        user: BOT_USER.into(),
        text: words,
        blocks,
        attachments,
        metadata,
        files: Vec::new(),
        edited: false,
        broadcast: flag(args, "reply_broadcast"),
        reactions: Vec::new(),
    };
    let channel = &mut desk.channels[at];
    log.effect("message.create", logged(channel, &message, "bot"));
    let answer = yes(json!({"channel": channel.id, "ts": message.ts, "message": message.shown(true)}));
    channel.messages.push(message);
    answer
}

/// A person writes.
pub fn say(desk: &mut Desk, channel: &str, user: &str, words: &str, given: Option<&str>, log: &mut Log) -> String {
    let at = desk.channel_index(channel).unwrap();
    let ts = desk.stamp(log.now());
    let thread_ts = thread(&mut desk.channels[at], given).ok().unwrap();
    let message = Message {
        ts: ts.clone(),
        thread_ts,
        user: user.into(),
        text: words.into(),
        blocks: Vec::new(),
        attachments: Value::Null,
        metadata: None,
        files: Vec::new(),
        edited: false,
        broadcast: false,
        reactions: Vec::new(),
    };
    log.effect("message.create", logged(&desk.channels[at], &message, user));
    desk.channels[at].messages.push(message);
    ts
}

pub fn share(
    desk: &mut Desk,
    at: usize,
    words: &str,
    thread_given: Option<&str>,
    files: Vec<Value>,
    request: &Request,
) -> Result<String, Answer> {
    let thread_ts = thread(&mut desk.channels[at], thread_given)?;
    let ts = desk.stamp(request.at);
    let message = Message {
        ts: ts.clone(),
        thread_ts,
        user: BOT_USER.into(),
        text: words.into(),
        blocks: Vec::new(),
        attachments: Value::Null,
        metadata: None,
        files,
        edited: false,
        broadcast: false,
        reactions: Vec::new(),
    };
    desk.channels[at].messages.push(message);
    Ok(ts)
}

pub fn ephemeral(desk: &mut Desk, args: &Args, log: &mut Log) -> Answer {
    let at = match writable(desk, args) {
        Ok(at) => at,
        Err(answer) => return answer,
    };
    let (words, blocks, _) = match content(args) {
        Ok(content) => content,
        Err(answer) => return answer,
    };
    let user = text(args, "user").unwrap_or_default();
    if !desk.channels[at].members.contains(user) {
        return no("user_not_in_channel");
    }
    let line = json!({"channel": desk.channels[at].name, "user": user, "text": words, "blocks": blocks});
    log.effect("message.ephemeral", line);
    let ts = desk.stamp(log.now());
    yes(json!({"message_ts": ts}))
}

/// A message of the bot by its time stamp.
fn own(desk: &Desk, at: usize, args: &Args, word: &str) -> Result<usize, Answer> {
    let found = desk.channels[at].messages.iter().position(|message| Some(message.ts.as_str()) == text(args, "ts"));
    let found = found.ok_or_else(|| no("message_not_found"))?;
    if desk.channels[at].messages[found].user != BOT_USER {
        return Err(no(word));
    }
    Ok(found)
}

pub fn update(desk: &mut Desk, args: &Args, log: &mut Log) -> Answer {
    let found = writable(desk, args).and_then(|at| Ok((at, own(desk, at, args, "cant_update_message")?)));
    let (at, found) = match found {
        Ok(found) => found,
        Err(answer) => return answer,
    };
    let ((words, blocks, attachments), metadata) = match (content(args), metadata(args)) {
        (Ok(content), Ok(metadata)) => (content, metadata),
        (Err(answer), _) | (_, Err(answer)) => return answer,
    };
    let channel = &mut desk.channels[at];
    let message = &mut channel.messages[found];
    message.text = words;
    message.blocks = blocks;
    message.attachments = attachments;
    if metadata.is_some() {
        message.metadata = metadata;
    }
    message.edited = true;
    let message = message.clone();
    log.effect("message.update", logged(channel, &message, "bot"));
    yes(json!({"channel": channel.id, "ts": message.ts, "text": message.text, "message": message.shown(true)}))
}

pub fn delete(desk: &mut Desk, args: &Args, log: &mut Log) -> Answer {
    let found = writable(desk, args).and_then(|at| Ok((at, own(desk, at, args, "cant_delete_message")?)));
    let (at, found) = match found {
        Ok(found) => found,
        Err(answer) => return answer,
    };
    let gone = desk.channels[at].messages.remove(found);
    log.effect("message.delete", json!({"channel": desk.channels[at].name, "ts": gone.ts}));
    yes(json!({"channel": desk.channels[at].id, "ts": gone.ts}))
}

pub fn permalink(desk: &Desk, args: &Args) -> Answer {
    let at = match desk.seen(text(args, "channel")) {
        Ok(at) => at,
        Err(answer) => return answer,
    };
    let channel = &desk.channels[at];
    let Some(ts) = text(args, "message_ts").filter(|ts| channel.messages.iter().any(|message| message.ts == *ts))
    else {
        return no("message_not_found");
    };
    let link = format!("https://acme.slack.example/archives/{}/p{}", channel.id, ts.replace('.', ""));
    yes(json!({"channel": channel.id, "permalink": link}))
}

pub fn react(desk: &mut Desk, args: &Args, log: &mut Log) -> Answer {
    let at = match desk.seen(text(args, "channel")) {
        Ok(at) => at,
        Err(answer) => return answer,
    };
    let Some(name) = text(args, "name") else { return no("invalid_name") };
    let channel = &mut desk.channels[at];
    let Some(message) =
        channel.messages.iter_mut().find(|message| Some(message.ts.as_str()) == text(args, "timestamp"))
    else {
        return no("message_not_found");
    };
    if message.reactions.iter().any(|has| has == name) {
        return no("already_reacted");
    }
    message.reactions.push(name.to_owned());
    log.effect("reaction.add", json!({"channel": channel.name, "ts": message.ts, "name": name}));
    yes(json!({}))
}

/// Where the bot may read; the messages of it, the oldest first.
fn readable<'a>(desk: &'a Desk, args: &Args) -> Result<&'a Channel, Answer> {
    let channel = &desk.channels[desk.seen(text(args, "channel"))?];
    if !channel.members.contains(BOT_USER) {
        return Err(no("not_in_channel"));
    }
    Ok(channel)
}

/// Between `oldest` and `latest`; both are left out unless `inclusive`.
fn within(message: &Message, args: &Args) -> bool {
    let micros = |ts: &str| {
        let (seconds, rest) = ts.split_once('.').unwrap_or((ts, "0"));
        seconds.parse::<i64>().unwrap_or(0) * 1_000_000 + format!("{rest:0<6}")[..6].parse::<i64>().unwrap_or(0)
    };
    let plain = |key: &str| {
        args.get(key).and_then(|value| value.as_str().map(str::to_owned).or_else(|| Some(value.as_f64()?.to_string())))
    };
    let inclusive = flag(args, "inclusive");
    let at = micros(&message.ts);
    let oldest = plain("oldest").is_none_or(|ts| at > micros(&ts) || (inclusive && at == micros(&ts)));
    let latest = plain("latest").is_none_or(|ts| at < micros(&ts) || (inclusive && at == micros(&ts)));
    oldest && latest
}

pub fn history(desk: &Desk, args: &Args) -> Answer {
    let channel = match readable(desk, args) {
        Ok(channel) => channel,
        Err(answer) => return answer,
    };
    let with_metadata = flag(args, "include_all_metadata");
    let top = channel.messages.iter().rev().filter(|message| message.is_top() || message.broadcast);
    let all = top.filter(|message| within(message, args)).map(|message| {
        let mut shown = message.shown(with_metadata);
        let replies = channel
            .messages
            .iter()
            .filter(|reply| !reply.is_top() && reply.thread_ts.as_deref() == Some(&message.ts))
            .count();
        if replies > 0 {
            shown["reply_count"] = replies.into();
        }
        shown
    });
    paged(all.collect(), args)
}

pub fn replies(desk: &Desk, args: &Args) -> Answer {
    let channel = match readable(desk, args) {
        Ok(channel) => channel,
        Err(answer) => return answer,
    };
    let Some(found) = channel.messages.iter().find(|message| Some(message.ts.as_str()) == text(args, "ts")) else {
        return no("thread_not_found");
    };
    let top = found.thread_ts.clone().unwrap_or_else(|| found.ts.clone());
    let with_metadata = flag(args, "include_all_metadata");
    // The parent comes first, whatever the span.
    let all = channel
        .messages
        .iter()
        .filter(|message| message.ts == top || (message.thread_ts.as_deref() == Some(&top) && within(message, args)));
    paged(all.map(|message| message.shown(with_metadata)).collect(), args)
}

fn paged(all: Vec<Value>, args: &Args) -> Answer {
    match Desk::paged(all, args, 100) {
        Ok((page, next)) => yes(
            json!({"messages": page, "has_more": !next.is_empty(), "pin_count": 0, "response_metadata": {"next_cursor": next}}),
        ),
        Err(answer) => answer,
    }
}

/// The `response_url` of an interaction.
pub fn respond(desk: &mut Desk, id: &str, request: &Request, log: &mut Log) -> Answer {
    drop(desk.stamp(request.at));
    log.effect("message.ephemeral", json!({"response": id, "body": request.json()}));
    Answer::text(200, "ok")
}
