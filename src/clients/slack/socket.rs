//! Socket Mode: what people press and type reaches us over a WebSocket that we open, so that no address of ours is public. And the
//! way back: an answer that only who acted sees.
//!
//! Nothing here acts: whoever holds a [`Socket`] takes what is [`Incoming`] and acknowledges it when it is safe. The address that
//! Slack hands out holds a ticket and is never logged; it is used only if it is Slack's.
//!
//! Source: <https://docs.slack.dev/apis/events-api/using-socket-mode>, as of November 2026. The crate's own listener is not used:
//! it spawns tasks that nobody owns and logs the ticket.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::Url;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use super::{Slack, SlackError};
use crate::base::secret::SecretRef;
use crate::clients::http::{self, Auth, Limits};

/// How long opening or closing may take.
const HANDSHAKE: Duration = Duration::from_secs(15);
const FAREWELL: Duration = Duration::from_secs(1);
/// After so much silence we ask whether somebody is there; after that much it is taken for dead.
const QUIET: Duration = Duration::from_secs(20);
const DEAD: Duration = Duration::from_secs(50);
/// The most bytes of one message.
const MOST_BYTES: usize = 4 << 20;
/// How long an answer to a person may take to send.
const ANSWER: Duration = Duration::from_secs(10);

/// An open connection. Dropping it ends it without a word.
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    heard_at: Instant,
    asked_at: Instant,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Socket")
    }
}

/// What comes over it.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    /// The connection stands; the app that it belongs to, if Slack says.
    Hello {
        app: Option<String>,
    },
    /// Slack will end it soon, or does now: another one is to be opened.
    Leave {
        reason: String,
    },
    Envelope(Envelope),
}

/// Something that is acknowledged, or else comes again.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    pub id: String,
    /// `interactive`, `slash_commands`, `events_api`.
    pub kind: String,
    pub payload: Value,
    /// The acknowledgement may hold an answer.
    pub takes_answer: bool,
}

impl Slack {
    /// Opens a connection with the app's token. Not cancel safe: a ticket may be spent.
    ///
    /// Errors: `Credential` for a token that is refused, `Refused` for one that may not (`not_allowed_token_type`).
    pub async fn open_socket(&self, app_token: &SecretRef) -> Result<Socket, SlackError> {
        let opened = self.call_as(app_token, "apps.connections.open", &json!({}), true).await?;
        let url = opened["url"].as_str().and_then(|url| own_address(&self.inner.wire.url, url));
        let unavailable = |message: &str| SlackError::Unavailable { message: message.to_owned(), after: None };
        let url = url.ok_or_else(|| unavailable("its connection has an address that is not Slack's"))?;
        http::install_tls();
        let config = WebSocketConfig::default().max_message_size(Some(MOST_BYTES)).max_frame_size(Some(MOST_BYTES));
        let opening = connect_async_with_config(url.as_str(), Some(config), true);
        match timeout(HANDSHAKE, opening).await {
            Ok(Ok((stream, _))) => {
                let now = Instant::now();
                Ok(Socket { stream, heard_at: now, asked_at: now })
            }
            Ok(Err(error)) => Err(unavailable(&told(&error))),
            Err(_) => Err(unavailable(&format!("its connection does not stand within {HANDSHAKE:?}"))),
        }
    }

    /// Says something that only who acted sees, at the address that Slack gave for it.
    ///
    /// Errors: `Missing` for an address that is not Slack's: nothing is sent there. Not cancel safe.
    pub async fn answer_at(&self, response_url: &str, text: &str) -> Result<(), SlackError> {
        let wire = &self.inner.wire;
        let url = own_address(&wire.url, response_url).ok_or_else(|| SlackError::Missing {
            message: "the address for an answer is not Slack's".into(),
            help: "see `services.slack.api_url`".into(),
        })?;
        let limits = Limits { idle: ANSWER, total: ANSWER, cap_bytes: 64 * 1024 };
        let body = json!({"response_type": "ephemeral", "replace_original": false, "text": text}).to_string();
        let sent = wire.plain.post_json(url.as_str(), &[], Auth::None, body.into_bytes(), limits).await;
        match sent {
            Ok(answer) if (200..300).contains(&answer.status) => Ok(()),
            Ok(answer) => Err(SlackError::Refused { word: format!("http_{}", answer.status), needed: None }),
            Err(error) => Err(SlackError::Ambiguous { message: error.to_string() }),
        }
    }

    /// The same in a channel, where there is no such address.
    pub async fn whisper(&self, channel: &str, user: &str, text: &str) -> Result<(), SlackError> {
        let body = json!({"channel": channel, "user": user, "text": text, "parse": "none", "link_names": false});
        self.write("chat.postEphemeral", Some(channel), &body).await.map(drop)
    }
}

impl Socket {
    /// The next thing that comes. Errors: the connection is over, or silent for too long. Cancel safe.
    pub async fn next(&mut self) -> Result<Incoming, SlackError> {
        loop {
            let due = (self.heard_at.max(self.asked_at) + QUIET).min(self.heard_at + DEAD);
            let message = match timeout_at(due, self.stream.next()).await {
                Ok(Some(Ok(message))) => message,
                Ok(Some(Err(error))) => return Err(over(&told(&error))),
                Ok(None) => return Err(over("it ended")),
                Err(_) if self.heard_at.elapsed() >= DEAD => return Err(over("it fell silent")),
                Err(_) => {
                    self.asked_at = Instant::now();
                    self.send(Message::Ping(bytes::Bytes::from_static(b"nightcrew"))).await?;
                    continue;
                }
            };
            self.heard_at = Instant::now();
            match message {
                Message::Text(text) => match incoming(&text) {
                    Some(incoming) => return Ok(incoming),
                    None => tracing::debug!("slack sends something that is not understood"),
                },
                Message::Close(_) => return Err(over("it was closed")),
                // A ping is answered by the library, with the next thing that is sent or read.
                Message::Ping(_) | Message::Pong(_) | Message::Binary(_) | Message::Frame(_) => {}
            }
        }
    }

    /// What was taken need not come again. `answer`: what who acted sees.
    pub async fn acknowledge(&mut self, envelope: &Envelope, answer: Option<&str>) -> Result<(), SlackError> {
        let mut body = json!({"envelope_id": envelope.id});
        if let Some(text) = answer.filter(|_| envelope.takes_answer) {
            body["payload"] = json!({"response_type": "ephemeral", "text": text});
        }
        self.send(Message::Text(body.to_string().into())).await
    }

    async fn send(&mut self, message: Message) -> Result<(), SlackError> {
        match timeout(HANDSHAKE, self.stream.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(over(&told(&error))),
            Err(_) => Err(over("it takes nothing")),
        }
    }

    /// Ends it in order, if the other side plays along.
    pub async fn close(mut self) {
        // It ends in any case.
        drop(timeout(FAREWELL, self.stream.close(None)).await);
    }
}

fn over(message: &str) -> SlackError {
    SlackError::Unavailable { message: format!("the connection is over: {message}"), after: None }
}

/// In our own words: an error's text may hold the address with its ticket.
fn told(error: &tungstenite::Error) -> String {
    match error {
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => "it was closed".into(),
        tungstenite::Error::Io(error) => http::shorten(&error.to_string()),
        tungstenite::Error::Tls(error) => http::shorten(&error.to_string()),
        tungstenite::Error::Http(answer) => format!("HTTP {} instead of a WebSocket", answer.status().as_u16()),
        tungstenite::Error::Capacity(_) => format!("a message is larger than {MOST_BYTES} bytes"),
        _ => "it does not keep to the protocol".into(),
    }
}

fn incoming(text: &str) -> Option<Incoming> {
    let mut message: Value = serde_json::from_str(text).ok()?;
    let word = |value: &Value| value.as_str().filter(|word| !word.is_empty()).map(str::to_owned);
    match message["type"].as_str()? {
        "hello" => Some(Incoming::Hello { app: word(&message["connection_info"]["app_id"]) }),
        "disconnect" => {
            let reason = word(&message["reason"]).unwrap_or_default();
            let reason = reason.chars().filter(char::is_ascii_graphic).take(60).collect();
            Some(Incoming::Leave { reason })
        }
        kind => Some(Incoming::Envelope(Envelope {
            id: word(&message["envelope_id"])?,
            kind: kind.to_owned(),
            takes_answer: message["accepts_response_payload"] == true,
            payload: message["payload"].take(),
        })),
    }
}

/// An address that Slack handed out, if it is Slack's: of the host that is configured or, encrypted, below it. A stand-in's may
/// have another port of its own host.
fn own_address(configured: &str, given: &str) -> Option<Url> {
    let (own, given) = (Url::parse(configured).ok()?, Url::parse(given).ok()?);
    let (host, theirs) = (own.host_str()?, given.host_str()?);
    let fits = match (own.scheme(), given.scheme()) {
        ("https", "https" | "wss") => {
            let below =
                own.domain().is_some_and(|domain| theirs.strip_suffix(domain).is_some_and(|sub| sub.ends_with('.')));
            let port = given.port().unwrap_or(443);
            port == own.port().unwrap_or(443) && (theirs == host || below)
        }
        ("http", "http" | "ws") => theirs == host,
        _ => false,
    };
    (fits && given.username().is_empty() && given.password().is_none()).then_some(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_counts_only_below_the_host_that_is_configured() {
        let slack = "https://slack.com/api";
        for good in [
            "https://hooks.slack.com/actions/T1/2/x",
            "https://slack.com/x",
            "wss://wss-primary.slack.com/link/?ticket=1&app_id=2",
            "https://hooks.slack.com:443/x",
        ] {
            assert!(own_address(slack, good).is_some(), "{good}");
        }
        for bad in [
            "http://hooks.slack.com/x",
            "ws://wss-primary.slack.com/",
            "https://hooks.slack.com.evil.example/x",
            "https://evilslack.com/x",
            "https://evil.example/hooks.slack.com",
            "https://hooks.slack.com@evil.example/x",
            "https://me@hooks.slack.com/x",
            "https://hooks.slack.com:8443/x",
            "https://169.254.169.254/",
            "file:///etc/passwd",
            "hooks.slack.com/x",
            "",
        ] {
            assert!(own_address(slack, bad).is_none(), "{bad}");
        }
        let stand_in = "http://127.0.0.1:4401/api";
        assert!(own_address(stand_in, "ws://127.0.0.1:4501/?ticket=1").is_some());
        assert!(own_address(stand_in, "http://127.0.0.1:4401/respond/1").is_some());
        assert!(own_address(stand_in, "http://127.0.0.2:4401/respond/1").is_none());
        assert!(own_address(stand_in, "https://127.0.0.1:4401/respond/1").is_none());
        assert!(
            own_address("https://10.0.0.1/api", "https://1.10.0.0.1/x").is_none(),
            "an address has nothing below it"
        );
    }

    #[test]
    fn what_comes_is_told_apart() {
        let hello = r#"{"type":"hello","num_connections":1,"debug_info":{},"connection_info":{"app_id":"A1"}}"#;
        assert_eq!(incoming(hello), Some(Incoming::Hello { app: Some("A1".into()) }));
        let leave = r#"{"type":"disconnect","reason":"refresh_requested","debug_info":{"host":"x"}}"#;
        assert_eq!(incoming(leave), Some(Incoming::Leave { reason: "refresh_requested".into() }));
        let command =
            r#"{"type":"slash_commands","envelope_id":"e1","payload":{"a":1},"accepts_response_payload":true}"#;
        let envelope =
            Envelope { id: "e1".into(), kind: "slash_commands".into(), payload: json!({"a": 1}), takes_answer: true };
        assert_eq!(incoming(command), Some(Incoming::Envelope(envelope)));
        for nothing in ["", "null", "[]", "{}", r#"{"type":"interactive","payload":{}}"#] {
            assert_eq!(incoming(nothing), None, "{nothing}");
        }
    }
}
