//! Slack's Web API through slack-morphism: at most one message a second per channel, `ok: false` is a failure, a write is sent once.
//!
//! Reads are repeated while they fail for a passing reason. A write is sent again only where Slack said that it did nothing (a rate
//! limit, a connection that never stood); when its end is not known the caller looks before it sends again. Answers are read as plain
//! JSON: the crate's typed messages refuse a whole page of history for one block that they do not know.

mod calls;
mod pace;
mod socket;
mod upload;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::base::env::Env;
use crate::base::secret::SecretRef;
use crate::ports::service::Outside;

pub use socket::{Envelope, Incoming, Socket};
pub use upload::Upload;

/// Slack's own address.
pub const API_URL: &str = "https://slack.com/api";
/// How long a channel's facts are believed.
const KEPT: Duration = Duration::from_secs(10 * 60);
/// Channels of one page (Slack's advice is at most 200), and pages of one search.
const PAGE: usize = 200;
const MOST_PAGES: usize = 50;
/// Messages of one page of history.
const HISTORY_PAGE: usize = 200;

/// How a call ended without an answer.
#[derive(Debug, thiserror::Error)]
pub enum SlackError {
    #[error("{message}")]
    Missing { message: String, help: String },
    /// `invalid_auth`, `token_revoked`, …
    #[error("Slack refuses the secret `{secret}`: {message}")]
    Credential { secret: String, message: String },
    /// `ok: false` with this word, for instance `channel_not_found`; `needed`: the scope that is missing.
    #[error("Slack says `{word}`")]
    Refused { word: String, needed: Option<String> },
    /// Nothing was done, or it was a read.
    #[error("Slack does not answer: {message}")]
    Unavailable { message: String, after: Option<std::time::Duration> },
    /// A write whose end is not known: look before it is sent again.
    #[error("Slack did not say how it ended: {message}")]
    Ambiguous { message: String },
}

/// A channel as Slack knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    pub id: String,
    pub name: String,
    /// Only its members see it, and nobody of another organisation.
    pub is_private: bool,
    /// Our bot is in it.
    pub is_member: bool,
}

/// A message to send. Blocks are Block Kit as JSON.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewMessage {
    /// A channel's id.
    pub channel: String,
    pub blocks: Vec<Value>,
    /// What notifications show.
    pub text: String,
    pub thread_ts: Option<String>,
    /// By which it is found again: (event type, payload).
    pub metadata: Option<(String, Value)>,
}

/// A message that is there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Posted {
    pub channel: String,
    /// Its time stamp is its name.
    pub ts: String,
    pub thread_ts: Option<String>,
    pub text: String,
    pub metadata: Option<(String, Value)>,
    /// Names of the files in it.
    pub files: Vec<String>,
    /// The bot that posted it; empty for a person.
    pub bot_id: String,
}

/// Who the token is, and what it may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    pub user: String,
    pub user_id: String,
    pub bot_id: String,
    pub team: String,
    pub team_id: String,
    /// `chat:write`, `channels:read`, …; as Slack lists them beside its answer.
    pub scopes: Vec<String>,
}

/// The client. One for each address and credential; cheap to clone.
#[derive(Clone, Debug)]
pub struct Slack {
    inner: Arc<Inner>,
    env: Env,
}

/// What everybody who uses this address and credential shares.
#[derive(Debug)]
struct Inner {
    wire: calls::Wire,
    token: SecretRef,
    pace: pace::Pace,
    channels: Mutex<HashMap<String, (Channel, Timestamp)>>,
    rights: Mutex<Option<(Rights, Timestamp)>>,
}

impl Slack {
    /// The client for `services.slack`, shared by the process. Contacts nothing.
    ///
    /// Errors: `Missing` without a token's place, or where TLS cannot be set up.
    pub fn of(outside: &Outside) -> Result<Self, SlackError> {
        let help = "add `slack: {bot_token: secret:SLACK}` under `services:`; `nightcrew connect slack` shows how";
        let missing = |message: &str| SlackError::Missing { message: message.into(), help: help.into() };
        let service = outside.services.slack.as_ref().ok_or_else(|| missing("Slack is not configured"))?;
        let token = service.secret("bot_token").ok_or_else(|| missing("Slack has no `bot_token`"))?;
        let url = service.setting("api_url").unwrap_or(API_URL).trim_end_matches('/');
        let inner = outside.shared.get_or_make(&format!("slack {url} {token:?}"), || {
            Ok(Inner {
                wire: calls::Wire::new(url)?,
                token: token.clone(),
                pace: pace::Pace::default(),
                channels: Mutex::default(),
                rights: Mutex::default(),
            })
        })?;
        Ok(Self { inner, env: outside.env.clone() })
    }

    /// The channel of that name (with or without `#`) or id, kept for ten minutes.
    ///
    /// Errors: `Refused` with `channel_not_found`, also for a private one that our bot is not in. Cancel safe.
    pub async fn channel(&self, name: &str) -> Result<Channel, SlackError> {
        let name = name.trim().trim_start_matches('#');
        let known = self.channels().get(name).filter(|(_, at)| self.is_fresh(*at)).map(|(channel, _)| channel.clone());
        if let Some(known) = known {
            return Ok(known);
        }
        if is_id(name) {
            let answer = self.read("conversations.info", &[("channel", Some(name.to_owned()))]).await?;
            return Ok(self.keep(channel(&answer["channel"])));
        }
        let mut cursor = None;
        for _ in 0..MOST_PAGES {
            let params = [
                ("types", Some("public_channel,private_channel".to_owned())),
                ("exclude_archived", Some("true".to_owned())),
                ("limit", Some(PAGE.to_string())),
                ("cursor", cursor.clone()),
            ];
            let answer = self.read("conversations.list", &params).await?;
            let page: Vec<Channel> = answer["channels"].as_array().into_iter().flatten().map(channel).collect();
            let found = page.iter().find(|channel| channel.name == name).cloned();
            page.into_iter().for_each(|channel| drop(self.keep(channel)));
            if let Some(found) = found {
                return Ok(found);
            }
            cursor = next_cursor(&answer);
            if cursor.is_none() {
                break;
            }
        }
        Err(SlackError::Refused { word: "channel_not_found".into(), needed: None })
    }

    /// Posts. Waits for its turn in the channel. Errors: `Ambiguous` when it may have happened.
    pub async fn post(&self, message: &NewMessage) -> Result<Posted, SlackError> {
        let answer = self.write("chat.postMessage", Some(&message.channel), &body(message, None)).await?;
        posted(message, &answer)
    }

    /// Replaces a message of ours. Waits for its turn as [`Slack::post`] does; doing it twice is harmless.
    pub async fn update(&self, ts: &str, message: &NewMessage) -> Result<Posted, SlackError> {
        let answer = self.write("chat.update", Some(&message.channel), &body(message, Some(ts))).await?;
        posted(message, &answer)
    }

    /// Messages of a channel, or of one thread (its first message included), the newest first, with their metadata; at most
    /// `most`, not older than `since`.
    pub async fn history(
        &self,
        channel: &str,
        thread_ts: Option<&str>,
        since: Timestamp,
        most: usize,
    ) -> Result<Vec<Posted>, SlackError> {
        let method = if thread_ts.is_some() { "conversations.replies" } else { "conversations.history" };
        let since = since.max(Timestamp::UNIX_EPOCH);
        let oldest = format!("{}.{:06}", since.as_second(), since.subsec_microsecond());
        let (mut found, mut cursor) = (Vec::new(), None);
        while found.len() < most {
            let params = [
                ("channel", Some(channel.to_owned())),
                ("ts", thread_ts.map(str::to_owned)),
                ("cursor", cursor),
                ("limit", Some((most - found.len()).min(HISTORY_PAGE).to_string())),
                ("include_all_metadata", Some("true".to_owned())),
                ("oldest", Some(oldest.clone())),
            ];
            let answer = self.read(method, &params).await?;
            let page = answer["messages"].as_array().into_iter().flatten();
            found.extend(page.map(|message| message_of(channel, message)));
            cursor = next_cursor(&answer);
            if cursor.is_none() {
                break;
            }
        }
        // Time stamps have one length, so they sort as texts.
        found.sort_by(|a, b| b.ts.cmp(&a.ts));
        found.truncate(most);
        Ok(found)
    }

    /// A link to a message.
    pub async fn permalink(&self, channel: &str, ts: &str) -> Result<String, SlackError> {
        let params = [("channel", Some(channel.to_owned())), ("message_ts", Some(ts.to_owned()))];
        let answer = self.read("chat.getPermalink", &params).await?;
        let link = answer["permalink"].as_str().map(str::to_owned);
        link.ok_or_else(|| SlackError::Unavailable { message: "its answer has no link".into(), after: None })
    }

    /// Who we are and what we may do, asked anew.
    pub async fn rights(&self) -> Result<Rights, SlackError> {
        let rights = self.ask_rights().await?;
        *self.inner.rights.lock().unwrap_or_else(PoisonError::into_inner) = Some((rights.clone(), self.env.now()));
        Ok(rights)
    }

    /// Who we are, kept for ten minutes.
    pub async fn me(&self) -> Result<Rights, SlackError> {
        let known = self.inner.rights.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match known.filter(|(_, at)| self.is_fresh(*at)) {
            Some((rights, _)) => Ok(rights),
            None => self.rights().await,
        }
    }

    fn channels(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Channel, Timestamp)>> {
        self.inner.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_fresh(&self, at: Timestamp) -> bool {
        // A clock that was set back makes it old, not eternal.
        let age = self.env.now().duration_since(at);
        !age.is_negative() && age.unsigned_abs() < KEPT
    }

    fn keep(&self, channel: Channel) -> Channel {
        let now = self.env.now();
        let mut channels = self.channels();
        for name in [&channel.id, &channel.name] {
            if !name.is_empty() {
                channels.insert(name.clone(), (channel.clone(), now));
            }
        }
        channel
    }
}

/// Whether it is written as ids of channels are; names are in lower case.
fn is_id(name: &str) -> bool {
    name.len() >= 8
        && name.starts_with(['C', 'G', 'D'])
        && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
}

fn channel(found: &Value) -> Channel {
    let is = |name: &str| found[name] == true;
    let foreign = is("is_ext_shared") || is("is_pending_ext_shared") || (is("is_shared") && !is("is_org_shared"));
    let text = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
    Channel {
        id: text("id"),
        name: text("name"),
        is_private: (is("is_private") || is("is_im") || is("is_mpim")) && !foreign,
        is_member: is("is_member"),
    }
}

fn next_cursor(answer: &Value) -> Option<String> {
    let cursor = answer["response_metadata"]["next_cursor"].as_str();
    cursor.filter(|cursor| !cursor.is_empty()).map(str::to_owned)
}

/// The body of a post, or of an edit of the message `ts`. Nothing in it is unfurled, linked or rung by Slack itself.
fn body(message: &NewMessage, ts: Option<&str>) -> Value {
    let mut body = json!({
        "channel": message.channel,
        "text": message.text,
        "blocks": message.blocks,
        "parse": "none",
        "link_names": false,
    });
    match ts {
        Some(ts) => body["ts"] = ts.into(),
        None => {
            body["unfurl_links"] = false.into();
            body["unfurl_media"] = false.into();
            if let Some(thread) = &message.thread_ts {
                body["thread_ts"] = thread.as_str().into();
            }
        }
    }
    if let Some((event_type, payload)) = &message.metadata {
        body["metadata"] = json!({"event_type": event_type, "event_payload": payload});
    }
    body
}

fn posted(message: &NewMessage, answer: &Value) -> Result<Posted, SlackError> {
    let Some(ts) = answer["ts"].as_str() else {
        return Err(SlackError::Ambiguous { message: "its answer names no message".into() });
    };
    Ok(Posted {
        channel: answer["channel"].as_str().unwrap_or(&message.channel).to_owned(),
        ts: ts.to_owned(),
        thread_ts: message.thread_ts.clone(),
        text: message.text.clone(),
        metadata: message.metadata.clone(),
        files: Vec::new(),
        bot_id: answer["message"]["bot_id"].as_str().unwrap_or_default().to_owned(),
    })
}

fn message_of(channel: &str, message: &Value) -> Posted {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let metadata = &message["metadata"];
    let files = message["files"].as_array().into_iter().flatten();
    Posted {
        channel: channel.to_owned(),
        ts: text(&message["ts"]).unwrap_or_default(),
        thread_ts: text(&message["thread_ts"]),
        text: text(&message["text"]).unwrap_or_default(),
        metadata: text(&metadata["event_type"]).map(|event_type| (event_type, metadata["event_payload"].clone())),
        files: files.filter_map(|file| text(&file["name"])).collect(),
        bot_id: text(&message["bot_id"]).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
