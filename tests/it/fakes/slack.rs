//! A stand-in of Slack's Web API, as strict as the real one where we lean on it.
//!
//! Written from Slack's documentation, not from our client. Arguments come in the query, as a form or, where Slack takes it, as JSON;
//! an error is HTTP 200 with `ok: false` and Slack's word; a bot that is not a member reads and writes nothing, and does not even see a
//! private channel; metadata is told only to who asks for it; blocks are checked; more than one message a second in a channel is 429.
//! What every answer, fault and line of the log is like: [`service`](super::service).
//!
//! ```ignore
//! let slack = Slack::start();                              // or Slack::start_at(clock)
//! let ops = slack.channel("api-oncall", Members::WithBot); // its id
//! // … api_url: slack.url() + "/api", bot_token: slack::TOKEN …
//! assert_eq!(slack.messages("api-oncall").len(), 1);
//! slack.fault("POST", "/api/chat.postMessage", Fault::Lost);
//! slack.refuse("chat.postMessage", "fatal_error");         // `ok: false`, nothing done
//! ```
//!
//! Effects in the log: `message.create`, `message.update`, `message.delete`, `message.ephemeral`, `file.upload`, `file.share`,
//! `view.open`, `reaction.add`, `channel.join`, each with `channel` (its name) and what it is about.

#![allow(dead_code)] // More than each test needs.

#[path = "slack/blocks.rs"]
pub mod blocks;
#[path = "slack/files.rs"]
mod files;
#[path = "slack/messages.rs"]
mod messages;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nightcrew::base::clock::{Clock, Timestamp};
use serde_json::{Map, Value, json};

use super::service::{Answer, Fault, Log, Part, Request, Server};

pub use messages::Message;

/// The bot's token.
pub const TOKEN: &str = "xoxb-17653672481-19874698323-pdFZKVeTuE8sk7oOcHrzqqgy";
/// The App's token, for Socket Mode.
pub const APP_TOKEN: &str = "xapp-1-A0000000001-1234567890123-0a1b2c3d4e5f";
pub const BOT_USER: &str = "U0CREWBOT";
pub const BOT: &str = "B0CREWBOT";
pub const TEAM: &str = "T0ACME";

/// What the bot may do.
const SCOPES: &str = "chat:write,channels:read,groups:read,channels:history,groups:history,files:write,users:read,reactions:write,commands";

/// Methods that take a form or a query, and no JSON.
const FORM_ONLY: [&str; 8] = [
    "chat.getPermalink",
    "conversations.info",
    "conversations.list",
    "conversations.replies",
    "conversations.members",
    "files.getUploadURLExternal",
    "users.info",
    "users.list",
];

/// Which scope a method needs.
fn scope(method: &str, channel: Option<&Channel>) -> Option<&'static str> {
    let private = channel.is_some_and(|channel| channel.private);
    match method {
        "chat.postMessage" | "chat.update" | "chat.delete" | "chat.postEphemeral" => Some("chat:write"),
        "conversations.list" => Some("channels:read"),
        "conversations.info" | "conversations.members" => Some(if private { "groups:read" } else { "channels:read" }),
        "conversations.history" | "conversations.replies" => {
            Some(if private { "groups:history" } else { "channels:history" })
        }
        "conversations.join" => Some("channels:join"),
        "users.info" | "users.list" => Some("users:read"),
        "files.getUploadURLExternal" | "files.completeUploadExternal" => Some("files:write"),
        "reactions.add" => Some("reactions:write"),
        _ => None,
    }
}

/// Who sees a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Members {
    /// Public, and the bot is in it.
    WithBot,
    /// Public, and the bot was not invited.
    WithoutBot,
    /// Private, and the bot is in it.
    Private,
    /// Private, and the bot does not see it.
    PrivateWithoutBot,
}

#[derive(Clone, Debug)]
pub struct Channel {
    pub id: String,
    pub name: String,
    pub private: bool,
    pub members: BTreeSet<String>,
    pub archived: bool,
    /// In the order of their coming.
    pub messages: Vec<Message>,
    /// When its last messages came, in milliseconds.
    sent: Vec<i64>,
}

#[derive(Clone, Debug)]
pub struct User {
    pub id: String,
    pub name: String,
    pub bot: bool,
    pub deleted: bool,
    /// Of another organisation.
    pub stranger: bool,
}

/// All that it holds.
pub struct Desk {
    base: String,
    tokens: BTreeMap<String, String>,
    pub channels: Vec<Channel>,
    pub users: BTreeMap<String, User>,
    files: BTreeMap<String, files::File>,
    pub scopes: BTreeSet<String>,
    /// Where Socket Mode is.
    socket: Option<String>,
    /// Words to refuse with, by method, each once.
    refusals: Vec<(String, String)>,
    next: u64,
    last_micros: i64,
    /// Bursts are let through.
    patient: bool,
}

type Args = Map<String, Value>;

/// `ok: false`
fn no(word: &str) -> Answer {
    Answer::json(200, &json!({"ok": false, "error": word}))
}

fn yes(mut fields: Value) -> Answer {
    let mut whole = json!({"ok": true});
    if let (Value::Object(whole), Value::Object(fields)) = (&mut whole, &mut fields) {
        whole.append(fields);
    }
    Answer::json(200, &whole)
}

fn text<'a>(args: &'a Args, key: &str) -> Option<&'a str> {
    args.get(key).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn flag(args: &Args, key: &str) -> bool {
    args.get(key).is_some_and(|given| given == true || given == "true" || given == "1" || given == 1)
}

fn number(args: &Args, key: &str) -> Option<u64> {
    args.get(key).and_then(|given| given.as_u64().or_else(|| given.as_str()?.parse().ok()))
}

/// A value that is JSON in a form, too.
fn structured(args: &Args, key: &str) -> Option<Value> {
    let given = args.get(key)?;
    match given {
        Value::String(text) => serde_json::from_str(text).ok(),
        Value::Null => None,
        other => Some(other.clone()),
    }
}

impl Desk {
    fn id(&mut self, prefix: &str) -> String {
        self.next += 1;
        format!("{prefix}{:08}", self.next)
    }

    /// By its id, or by its name.
    fn channel_index(&self, name: &str) -> Option<usize> {
        let plain = name.trim_start_matches('#');
        self.channels.iter().position(|channel| channel.id == name || channel.name == plain)
    }

    /// A channel that the bot sees.
    fn seen(&self, name: Option<&str>) -> Result<usize, Answer> {
        let at = name.and_then(|name| self.channel_index(name)).ok_or_else(|| no("channel_not_found"))?;
        let channel = &self.channels[at];
        if channel.private && !channel.members.contains(BOT_USER) {
            return Err(no("channel_not_found"));
        }
        Ok(at)
    }

    /// A time stamp that no other message has.
    fn stamp(&mut self, now: Timestamp) -> String {
        self.last_micros = now.as_microsecond().max(self.last_micros + 1);
        format!("{}.{:06}", self.last_micros / 1_000_000, self.last_micros % 1_000_000)
    }

    fn shown_channel(channel: &Channel) -> Value {
        json!({
            "id": channel.id, "name": channel.name, "is_channel": !channel.private, "is_group": channel.private, "is_im": false, "is_mpim": false,
            "is_private": channel.private, "is_archived": channel.archived, "is_general": false, "is_shared": false, "is_ext_shared": false,
            "is_org_shared": false, "is_pending_ext_shared": false, "is_member": channel.members.contains(BOT_USER), "name_normalized": channel.name,
            "created": 1_700_000_000, "creator": "U0ADA", "unlinked": 0, "context_team_id": TEAM, "num_members": channel.members.len(),
            "topic": {"value": "", "creator": "", "last_set": 0}, "purpose": {"value": "", "creator": "", "last_set": 0},
        })
    }

    fn shown_user(user: &User) -> Value {
        let team = if user.stranger { "T0OTHER" } else { TEAM };
        json!({
            "id": user.id, "team_id": team, "name": user.name, "deleted": user.deleted, "real_name": user.name, "is_bot": user.bot,
            "is_app_user": false, "is_restricted": false, "is_ultra_restricted": false, "is_stranger": user.stranger, "tz": "Europe/Berlin", "tz_offset": 3600,
            "profile": {"real_name": user.name, "display_name": user.name, "team": team},
        })
    }

    /// A page of a list, and the cursor of the next.
    fn paged(all: Vec<Value>, args: &Args, default: u64) -> Result<(Vec<Value>, String), Answer> {
        let limit = usize::try_from(number(args, "limit").unwrap_or(default).clamp(1, 1000)).unwrap();
        let start = match text(args, "cursor") {
            None => 0,
            Some(cursor) => {
                let plain = STANDARD.decode(cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok());
                match plain.as_deref().and_then(|plain| plain.strip_prefix("next:")?.parse::<usize>().ok()) {
                    Some(start) => start,
                    None => return Err(no("invalid_cursor")),
                }
            }
        };
        let more = all.len() > start + limit;
        let page = all.into_iter().skip(start).take(limit).collect();
        let next = if more { STANDARD.encode(format!("next:{}", start + limit)) } else { String::new() };
        Ok((page, next))
    }

    fn method(&mut self, method: &str, args: &Args, request: &Request, log: &mut Log) -> Answer {
        match method {
            "auth.test" => yes(json!({
                "url": "https://acme.slack.example/", "team": "Acme", "user": "crew", "team_id": TEAM, "user_id": BOT_USER, "bot_id": BOT,
                "is_enterprise_install": false,
            })),
            "api.test" => yes(json!({"args": args})),
            "conversations.list" => {
                let kinds = text(args, "types").unwrap_or("public_channel");
                let all = self.channels.iter().filter(|channel| {
                    let kind = if channel.private { "private_channel" } else { "public_channel" };
                    kinds.split(',').any(|wanted| wanted.trim() == kind)
                        && (!channel.private || channel.members.contains(BOT_USER))
                        && !(flag(args, "exclude_archived") && channel.archived)
                });
                match Self::paged(all.map(Self::shown_channel).collect(), args, 100) {
                    Ok((page, next)) => yes(json!({"channels": page, "response_metadata": {"next_cursor": next}})),
                    Err(answer) => answer,
                }
            }
            "conversations.info" => match self.seen(text(args, "channel")) {
                Ok(at) => yes(json!({"channel": Self::shown_channel(&self.channels[at])})),
                Err(answer) => answer,
            },
            "conversations.members" => match self.seen(text(args, "channel")) {
                Ok(at) => yes(json!({"members": self.channels[at].members, "response_metadata": {"next_cursor": ""}})),
                Err(answer) => answer,
            },
            "conversations.join" => match self.seen(text(args, "channel")) {
                Ok(at) if self.channels[at].private => no("method_not_supported_for_channel_type"),
                Ok(at) => {
                    if self.channels[at].members.insert(BOT_USER.into()) {
                        log.effect("channel.join", json!({"channel": self.channels[at].name}));
                    }
                    yes(json!({"channel": Self::shown_channel(&self.channels[at])}))
                }
                Err(answer) => answer,
            },
            "conversations.history" => messages::history(self, args),
            "conversations.replies" => messages::replies(self, args),
            "users.info" => match text(args, "user").and_then(|id| self.users.get(id)) {
                Some(user) => yes(json!({"user": Self::shown_user(user)})),
                None => no("user_not_found"),
            },
            "users.list" => match Self::paged(self.users.values().map(Self::shown_user).collect(), args, 100) {
                Ok((page, next)) => {
                    yes(json!({"members": page, "cache_ts": 0, "response_metadata": {"next_cursor": next}}))
                }
                Err(answer) => answer,
            },
            "chat.postMessage" => messages::post(self, args, request, log),
            "chat.postEphemeral" => messages::ephemeral(self, args, log),
            "chat.update" => messages::update(self, args, log),
            "chat.delete" => messages::delete(self, args, log),
            "chat.getPermalink" => messages::permalink(self, args),
            "reactions.add" => messages::react(self, args, log),
            "files.getUploadURLExternal" => files::place(self, args),
            "files.completeUploadExternal" => files::complete(self, args, request, log),
            "views.open" => {
                let Some(view) = structured(args, "view") else { return no("invalid_arguments") };
                if text(args, "trigger_id").is_none() {
                    return no("invalid_trigger_id");
                }
                log.effect("view.open", json!({"view": view}));
                yes(json!({"view": {"id": self.id("V"), "type": "modal"}}))
            }
            "apps.connections.open" => match &self.socket {
                Some(url) => yes(json!({"url": url})),
                None => no("internal_error"),
            },
            _ => no("unknown_method"),
        }
    }
}

/// What a request says, however it says it.
fn arguments(method: &str, request: &Request) -> Result<Args, Answer> {
    let mut args: Args = request.query.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
    let kind = request.header("content-type").unwrap_or_default();
    if kind.starts_with("application/json") {
        if FORM_ONLY.contains(&method) {
            return Ok(args);
        }
        match serde_json::from_slice(&request.body) {
            Ok(Value::Object(body)) => args.extend(body),
            Ok(_) => return Err(no("json_not_object")),
            Err(_) if request.body.is_empty() => {}
            Err(_) => return Err(no("invalid_json")),
        }
    } else if kind.starts_with("application/x-www-form-urlencoded") {
        args.extend(form(&request.body));
    } else if kind.starts_with("multipart/form-data") {
        return Err(no("invalid_form_data"));
    }
    Ok(args)
}

fn form(body: &[u8]) -> Args {
    let text = String::from_utf8_lossy(body).replace('+', " ");
    let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (super::service::decoded(key), super::service::decoded(value).into())
    });
    pairs.collect()
}

impl Part for Desk {
    const NAME: &'static str = "slack";

    fn answer(&mut self, request: &Request, log: &mut Log) -> Answer {
        let parts = request.parts();
        match parts.as_slice() {
            ["upload", "v1", id] => return files::upload(self, id, request, log),
            ["response", id] => return messages::respond(self, id, request, log),
            ["api", _] => {}
            _ => return Answer::text(404, "no such page"),
        }
        let method = parts[1];
        if !matches!(request.method.as_str(), "GET" | "POST") {
            return Answer::text(405, "method not allowed");
        }
        let mut args = match arguments(method, request) {
            Ok(args) => args,
            Err(answer) => return answer,
        };
        let bearer = request.header("authorization").and_then(|given| given.strip_prefix("Bearer ")).map(str::to_owned);
        // A token in JSON is not looked at.
        let json = request.header("content-type").is_some_and(|kind| kind.starts_with("application/json"));
        let given = args.remove("token").filter(|_| !json).and_then(|token| token.as_str().map(str::to_owned));
        let Some(token) = bearer.or(given) else { return no("not_authed") };
        let Some(kind) = self.tokens.get(token.trim()).cloned() else { return no("invalid_auth") };
        let for_app = method == "apps.connections.open";
        if for_app != (kind == "app") {
            return no("not_allowed_token_type");
        }
        if let Some(at) = self.refusals.iter().position(|(refused, _)| refused == method) {
            let (_, word) = self.refusals.remove(at);
            return no(&word);
        }
        let about = text(&args, "channel").and_then(|name| self.channel_index(name)).map(|at| &self.channels[at]);
        let provided = self.scopes.iter().cloned().collect::<Vec<_>>().join(",");
        if let Some(needed) = scope(method, about)
            && !self.scopes.contains(needed)
        {
            let refusal = json!({"ok": false, "error": "missing_scope", "needed": needed, "provided": provided});
            return Answer::json(200, &refusal).header("x-oauth-scopes", provided);
        }
        self.method(method, &args, request, log)
            .header("x-oauth-scopes", provided)
            .header("x-slack-req-id", request.n.to_string())
    }

    fn error(status: u16) -> Value {
        let word = match status {
            429 => "ratelimited",
            401 => "invalid_auth",
            503 => "service_unavailable",
            _ => "internal_error",
        };
        json!({"ok": false, "error": word})
    }

    fn who(&self, request: &Request) -> String {
        match request.header("authorization").and_then(|given| given.strip_prefix("Bearer ")) {
            Some(token) => self.tokens.get(token).cloned().unwrap_or_else(|| "unknown".into()),
            None => "nobody".into(),
        }
    }

    fn logged(request: &Request) -> Value {
        let kind = request.header("content-type").unwrap_or_default();
        if request.path.starts_with("/upload/") {
            return format!("{} bytes", request.body.len()).into();
        }
        if kind.starts_with("application/x-www-form-urlencoded") {
            let mut args = form(&request.body);
            args.remove("token");
            return Value::Object(args);
        }
        serde_json::from_slice(&request.body).unwrap_or(Value::Null)
    }
}

/// The running stand-in; faults and the log are the [`Server`]'s.
pub struct Slack {
    server: Server<Desk>,
}

impl std::ops::Deref for Slack {
    type Target = Server<Desk>;
    fn deref(&self) -> &Server<Desk> {
        &self.server
    }
}

impl Slack {
    /// With the people `U0ADA` and `U0GRACE`, and no channel.
    pub fn start() -> Self {
        Self::make(None)
    }

    /// With a test's own clock.
    pub fn start_at(clock: Arc<dyn Clock>) -> Self {
        Self::make(Some(clock))
    }

    fn make(clock: Option<Arc<dyn Clock>>) -> Self {
        let server = Server::start(clock, |base| Desk {
            base: base.to_owned(),
            tokens: BTreeMap::from([(TOKEN.to_owned(), "bot".to_owned()), (APP_TOKEN.to_owned(), "app".to_owned())]),
            channels: Vec::new(),
            users: BTreeMap::new(),
            files: BTreeMap::new(),
            scopes: SCOPES.split(',').map(str::to_owned).collect(),
            socket: None,
            refusals: Vec::new(),
            next: 0,
            last_micros: 0,
            patient: false,
        });
        server.secrets(&[TOKEN, APP_TOKEN]);
        let made = Self { server };
        made.user(BOT_USER, "crew", true);
        made.user("U0ADA", "ada", false);
        made.user("U0GRACE", "grace", false);
        made
    }

    /// What `services.slack.api_url` is.
    pub fn api(&self) -> String {
        format!("{}/api", self.url())
    }

    /// A channel; its id.
    pub fn channel(&self, name: &str, members: Members) -> String {
        self.with(|desk, log| {
            let private = matches!(members, Members::Private | Members::PrivateWithoutBot);
            let mut inside: BTreeSet<String> = ["U0ADA", "U0GRACE"].map(str::to_owned).into();
            if matches!(members, Members::WithBot | Members::Private) {
                inside.insert(BOT_USER.into());
            }
            let id = desk.id("C");
            let made = Channel {
                id: id.clone(),
                name: name.into(),
                private,
                members: inside,
                archived: false,
                messages: Vec::new(),
                sent: Vec::new(),
            };
            desk.channels.push(made);
            log.note(json!({"kind": "channel", "id": id, "channel": name}));
            id
        })
    }

    pub fn user(&self, id: &str, name: &str, bot: bool) {
        let user = User { id: id.into(), name: name.into(), bot, deleted: false, stranger: false };
        self.with(|desk, _| desk.users.insert(id.into(), user));
    }

    /// Changes a channel: who is in it, whether it is archived.
    pub fn change(&self, channel: &str, change: impl FnOnce(&mut Channel)) {
        self.with(|desk, _| {
            let at = desk.channel_index(channel).unwrap();
            change(&mut desk.channels[at]);
        });
    }

    /// The next call of this method is refused with a word.
    pub fn refuse(&self, method: &str, word: &str) {
        self.with(|desk, _| desk.refusals.push((method.into(), word.into())));
    }

    /// The bot may not do this any more.
    pub fn without_scope(&self, scope: &str) {
        self.with(|desk, _| desk.scopes.remove(scope));
    }

    pub fn revoke(&self, token: &str) {
        self.with(|desk, _| desk.tokens.remove(token));
    }

    /// A token of the bot (`xoxb-…`).
    pub fn accept(&self, token: &str) {
        self.with(|desk, _| desk.tokens.insert(token.into(), "bot".into()));
        self.secrets(&[token]);
    }

    /// More than one message a second is let through.
    pub fn patient(&self) {
        self.with(|desk, _| desk.patient = true);
    }

    /// What `apps.connections.open` tells.
    pub fn socket(&self, url: &str) {
        self.with(|desk, _| desk.socket = Some(url.into()));
    }

    /// A rate limit as Slack says it.
    pub fn limit(&self, method: &str, retry_after: Option<u64>, times: usize) {
        let mut fault = Fault::status(429);
        if let Some(seconds) = retry_after {
            fault = fault.header("retry-after", &seconds.to_string());
        }
        self.fault_times("*", &format!("/api/{method}"), fault, times);
    }

    /// A person writes; the message's time stamp.
    pub fn say(&self, channel: &str, user: &str, words: &str, thread: Option<&str>) -> String {
        self.with(|desk, log| messages::say(desk, channel, user, words, thread, log))
    }

    /// The messages of a channel and its threads, in their order.
    pub fn messages(&self, channel: &str) -> Vec<Message> {
        self.with(|desk, _| {
            let at = desk.channel_index(channel).unwrap();
            desk.channels[at].messages.clone()
        })
    }

    /// Those that are no replies.
    pub fn top(&self, channel: &str) -> Vec<Message> {
        self.messages(channel).into_iter().filter(|message| message.is_top()).collect()
    }

    /// Those of all channels.
    pub fn all_messages(&self) -> Vec<(String, Message)> {
        self.with(|desk, _| {
            let all = desk.channels.iter();
            all.flat_map(|channel| channel.messages.iter().map(|message| (channel.name.clone(), message.clone())))
                .collect()
        })
    }

    /// Uploaded files: name and bytes.
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        self.with(|desk, _| {
            desk.files.values().filter_map(|file| Some((file.name.clone(), file.bytes.clone()?))).collect()
        })
    }
}
