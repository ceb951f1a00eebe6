//! Slack's Web API through slack-morphism: at most one message a second per channel, `ok: false` is a failure, a write is sent once.

use serde_json::Value;

use crate::ports::service::Outside;

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
}

/// The client. One for each address and credential; cheap to clone.
#[derive(Clone, Debug)]
pub struct Slack {
    outside: Outside,
}

impl Slack {
    /// The client for `services.slack`, shared by the process. Contacts nothing.
    pub fn of(outside: &Outside) -> Result<Self, SlackError> {
        Ok(Self { outside: outside.clone() })
    }

    fn later(&self) -> SlackError {
        let _ = &self.outside;
        SlackError::Missing { message: "Slack is not spoken yet".into(), help: "use another version".into() }
    }

    /// The channel of that name (with or without `#`) or id, kept for ten minutes.
    pub async fn channel(&self, name: &str) -> Result<Channel, SlackError> {
        let _ = name;
        Err(self.later())
    }

    /// Posts. Waits for its turn in the channel. Errors: `Ambiguous` when it may have happened.
    pub async fn post(&self, message: &NewMessage) -> Result<Posted, SlackError> {
        let _ = message;
        Err(self.later())
    }

    /// Replaces a message of ours.
    pub async fn update(&self, ts: &str, message: &NewMessage) -> Result<Posted, SlackError> {
        let _ = (ts, message);
        Err(self.later())
    }

    /// Messages of a channel, or of one thread, the newest first, with their metadata; at most `most`, not older than `since`.
    pub async fn history(
        &self,
        channel: &str,
        thread_ts: Option<&str>,
        since: jiff::Timestamp,
        most: usize,
    ) -> Result<Vec<Posted>, SlackError> {
        let _ = (channel, thread_ts, since, most);
        Err(self.later())
    }

    /// A link to a message.
    pub async fn permalink(&self, channel: &str, ts: &str) -> Result<String, SlackError> {
        let _ = (channel, ts);
        Err(self.later())
    }
}
