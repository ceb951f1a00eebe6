//! Single calls, and when one is tried again.

use std::time::Duration;

use serde_json::{Value, json};
use slack_morphism::errors::SlackClientError;
use slack_morphism::hyper_tokio::{SlackClientHyperConnector, SlackHyperClient};
use slack_morphism::{SlackApiToken, SlackApiTokenValue, SlackClient};

use super::{Rights, Slack, SlackError};
use crate::base::retry::{Backoff, Retry};
use crate::base::secret::SecretRef;
use crate::clients::http::{self, Auth, HttpError, Limits};

/// The longest that one call may take, its answer included.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Pauses between tries of a call that certainly did nothing.
const AGAIN: Backoff =
    Backoff { first: Duration::from_millis(500), most: Duration::from_secs(8), total: Duration::from_secs(30) };
/// Waiting for rate limits, in one call together. Without a time from Slack the first pause is five seconds.
const LIMITED: Backoff =
    Backoff { first: Duration::from_secs(5), most: Duration::from_secs(60), total: Duration::from_secs(300) };
/// The answer to `auth.test` at most.
const RIGHTS_CAP: usize = 256 * 1024;

/// Connections.
#[derive(Debug)]
pub(super) struct Wire {
    client: SlackHyperClient,
    /// For what the crate does not do: headers of answers, uploads without the token.
    pub(super) plain: http::Client,
    pub(super) url: String,
}

impl Wire {
    /// Without TLS the roots of the machine are not read.
    pub fn new(url: &str) -> Result<Self, SlackError> {
        http::install_tls();
        let wrong = |message: String| SlackError::Missing { message, help: "see `services.slack.api_url`".into() };
        let parsed = http::parse_url(url).map_err(|error| wrong(error.to_string()))?;
        let connector = if parsed.scheme() == "https" {
            SlackClientHyperConnector::new().map_err(|error| wrong(format!("cannot read the TLS roots: {error}")))?
        } else {
            let roots = rustls::RootCertStore::empty();
            let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
            let builder = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls);
            SlackClientHyperConnector::with_connector(builder.https_or_http().enable_http1().build())
        };
        let plain = http::Client::for_url(url).map_err(|error| wrong(error.to_string()))?;
        let client = SlackClient::new(connector.with_slack_api_url(url));
        Ok(Self { client, plain, url: url.to_owned() })
    }
}

/// How one try ended without an answer.
enum Fault {
    /// Whatever else would be tried, this call cannot be.
    Final(SlackError),
    /// Nothing was done.
    Limited(Option<Duration>),
    /// Nothing was sent.
    Connect(String),
    /// It was sent, and what came of it is not known.
    Broken(String),
}

/// One call as it is sent.
#[derive(Clone, Copy)]
enum Sent<'a> {
    Get(&'a [(&'static str, Option<String>)]),
    Post(&'a Value),
}

impl Slack {
    /// A method that changes nothing, by GET. Repeated while it fails for a passing reason. Cancel safe.
    pub async fn read(&self, method: &str, params: &[(&'static str, Option<String>)]) -> Result<Value, SlackError> {
        self.tried(&self.inner.token, method, Sent::Get(params), true).await
    }

    /// A method that changes something, by POST of JSON; in the channel's turn if it shows there. Not cancel safe.
    ///
    /// Errors: `Ambiguous` when it may have happened.
    pub async fn write(&self, method: &str, channel: Option<&str>, body: &Value) -> Result<Value, SlackError> {
        let Some(channel) = channel else {
            return self.tried(&self.inner.token, method, Sent::Post(body), false).await;
        };
        let lane = self.inner.pace.lane(channel);
        let _turn = lane.turn().await;
        lane.space(&self.env).await;
        let answer = self.tried(&self.inner.token, method, Sent::Post(body), false).await;
        lane.sent(self.env.now());
        answer
    }

    /// A method with another secret of the service, such as the app's token. `repeatable`: doing it twice is harmless.
    pub async fn call_as(
        &self,
        secret: &SecretRef,
        method: &str,
        body: &Value,
        repeatable: bool,
    ) -> Result<Value, SlackError> {
        self.tried(secret, method, Sent::Post(body), repeatable).await
    }

    async fn tried(
        &self,
        secret: &SecretRef,
        method: &str,
        sent: Sent<'_>,
        repeatable: bool,
    ) -> Result<Value, SlackError> {
        let (mut limits, mut limited) = (0, Duration::ZERO);
        let (mut faults, mut waited) = (0, Duration::ZERO);
        loop {
            limited += self.outwait(method, limited).await?;
            let (message, retry) = match self.once(secret, method, sent).await {
                Ok(answer) => return Ok(answer),
                Err(Fault::Final(error)) => return Err(error),
                Err(Fault::Limited(asked)) => {
                    limits += 1;
                    let retry = asked.map_or(Retry::Backoff, |asked| Retry::After(asked.max(Duration::from_secs(1))));
                    let pause = LIMITED.pause(limits, limited, retry);
                    // Others wait too, also where this call gives up.
                    let told = pause.or(asked).unwrap_or(LIMITED.most);
                    self.inner.pace.pause(method, told, self.env.now());
                    if pause.is_none() {
                        let message = format!("it limits `{method}` for longer than a call may wait");
                        return Err(SlackError::Unavailable { message, after: Some(told) });
                    }
                    tracing::warn!(method, ?told, "slack limits calls");
                    continue;
                }
                Err(Fault::Connect(message)) => (message, Retry::Backoff),
                Err(Fault::Broken(message)) if repeatable => (message, Retry::Backoff),
                Err(Fault::Broken(message)) => return Err(SlackError::Ambiguous { message }),
            };
            faults += 1;
            let Some(pause) = AGAIN.pause(faults, waited, retry) else {
                return Err(SlackError::Unavailable { message, after: None });
            };
            tracing::warn!(method, %message, "asking slack again in {pause:?}");
            waited += pause;
            self.env.clock.sleep(pause).await;
        }
    }

    /// Waits while the method is paused, for whomever it was; tells how long that was.
    async fn outwait(&self, method: &str, before: Duration) -> Result<Duration, SlackError> {
        let mut waited = Duration::ZERO;
        loop {
            let left = self.inner.pace.left(method, self.env.now());
            if left.is_zero() {
                return Ok(waited);
            }
            if before + waited + left > LIMITED.total {
                let message = format!("it limits `{method}` for longer than a call may wait");
                return Err(SlackError::Unavailable { message, after: Some(left) });
            }
            self.env.clock.sleep(left).await;
            waited += left;
        }
    }

    async fn once(&self, secret: &SecretRef, method: &str, sent: Sent<'_>) -> Result<Value, Fault> {
        let token = token(secret)?;
        let session = self.inner.wire.client.open_session(&token);
        let api = &session.http_session_api;
        let call = async {
            match sent {
                Sent::Get(params) => api.http_get::<Value, _, _>(method, &params.to_vec(), None).await,
                Sent::Post(body) => api.http_post::<_, Value>(method, body, None).await,
            }
        };
        let answer = match tokio::time::timeout(TIMEOUT, call).await {
            Err(_) => return Err(Fault::Broken(format!("no answer within {TIMEOUT:?}"))),
            Ok(answer) => answer.map_err(|error| fault(error, secret))?,
        };
        // Anything but Slack's own answer (a proxy's page) says nothing about what happened.
        match answer["ok"].as_bool() {
            Some(true) => Ok(answer),
            Some(false) => Err(refusal(answer["error"].as_str().unwrap_or("unknown_error"), &answer, secret)),
            None => Err(Fault::Broken("the answer is not Slack's".into())),
        }
    }

    /// `auth.test` with the scopes that stand in a header of its answer.
    pub(super) async fn ask_rights(&self) -> Result<Rights, SlackError> {
        let (wire, secret) = (&self.inner.wire, &self.inner.token);
        let unavailable = |message: String, after| SlackError::Unavailable { message, after };
        let mut last = unavailable("not asked".into(), None);
        for attempt in 1..=3 {
            if attempt > 1 {
                self.env.clock.sleep(AGAIN.first * attempt).await;
            }
            self.outwait("auth.test", Duration::ZERO).await?;
            // Refused here, with its reason, rather than by the HTTP client.
            token(secret).map_err(final_of)?;
            let limits = Limits { idle: TIMEOUT, total: TIMEOUT, cap_bytes: RIGHTS_CAP };
            let (url, body) = (format!("{}/auth.test", wire.url), json!({}).to_string().into_bytes());
            let mut answer = match wire.plain.post_json(&url, &[], Auth::Bearer(secret), body, limits).await {
                Ok(answer) => answer,
                Err(error) => {
                    last = unavailable(error.to_string(), None);
                    continue;
                }
            };
            if answer.status == 429 {
                let asked = answer.retry_after().unwrap_or(LIMITED.first);
                self.inner.pace.pause("auth.test", asked, self.env.now());
                last = unavailable("it limits `auth.test`".into(), Some(asked));
                continue;
            }
            let listed = answer.header("x-oauth-scopes").unwrap_or_default().to_owned();
            let found = match whole(&mut answer).await {
                Ok(found) => found,
                Err(error) => {
                    last = unavailable(error.to_string(), None);
                    continue;
                }
            };
            if found["ok"] != true {
                let word = found["error"].as_str().unwrap_or("unknown_error");
                match refusal(word, &found, secret) {
                    Fault::Final(error) => return Err(error),
                    _ => last = unavailable(format!("it says `{word}`"), None),
                }
                continue;
            }
            let text = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
            let scopes = listed.split(',').map(|scope| scope.trim().to_owned()).filter(|scope| !scope.is_empty());
            return Ok(Rights {
                user: text("user"),
                user_id: text("user_id"),
                bot_id: text("bot_id"),
                team: text("team"),
                team_id: text("team_id"),
                scopes: scopes.collect(),
            });
        }
        Err(last)
    }
}

async fn whole(answer: &mut http::Answer) -> Result<Value, HttpError> {
    let mut body = Vec::new();
    while answer.more(&mut body).await? {}
    serde_json::from_slice(&body).map_err(|error| HttpError::NotJson(error.to_string()))
}

/// Read from its place at this moment, so that a rotated one needs no restart.
fn token(secret: &SecretRef) -> Result<SlackApiToken, Fault> {
    let missing = |message: String| {
        let help = format!("put the token where the secret `{}` is read from; `nightcrew connect slack`", secret.name);
        Fault::Final(SlackError::Missing { message, help })
    };
    let value = secret.read().map_err(|error| missing(error.to_string()))?;
    if !value.expose().chars().all(|c| c.is_ascii_graphic()) {
        return Err(missing(format!("secret `{}` holds characters that a token does not have", secret.name)));
    }
    Ok(SlackApiToken::new(SlackApiTokenValue(value.expose().to_owned())))
}

fn final_of(fault: Fault) -> SlackError {
    match fault {
        Fault::Final(error) => error,
        Fault::Limited(after) => SlackError::Unavailable { message: "it limits calls".into(), after },
        Fault::Connect(message) | Fault::Broken(message) => SlackError::Unavailable { message, after: None },
    }
}

/// `ok: false` with this word.
fn refusal(word: &str, answer: &Value, secret: &SecretRef) -> Fault {
    let word: String = word.chars().filter(|c| c.is_ascii_graphic()).take(80).collect();
    match word.as_str() {
        "ratelimited" | "rate_limited" => Fault::Limited(None),
        "invalid_auth" | "token_revoked" | "token_expired" | "account_inactive" | "not_authed" => {
            Fault::Final(SlackError::Credential { secret: secret.name.clone(), message: format!("it says `{word}`") })
        }
        // Slack's own words for: part of it may have been done.
        "internal_error" | "fatal_error" | "service_unavailable" | "request_timeout" => {
            Fault::Broken(format!("it says `{word}`"))
        }
        _ => {
            let needed = answer["needed"].as_str().map(|scope| scope.chars().take(200).collect());
            Fault::Final(SlackError::Refused { word, needed })
        }
    }
}

/// Messages are our own: what a server said may hold anything.
fn fault(error: SlackClientError, secret: &SecretRef) -> Fault {
    match error {
        SlackClientError::ApiError(error) => {
            let body = error.http_response_body.as_deref().and_then(|body| serde_json::from_str(body).ok());
            refusal(&error.code, &body.unwrap_or(Value::Null), secret)
        }
        SlackClientError::RateLimitError(error) => Fault::Limited(error.retry_after),
        SlackClientError::HttpError(error) => match error.status_code.as_u16() {
            401 => Fault::Final(SlackError::Credential { secret: secret.name.clone(), message: "HTTP 401".into() }),
            status @ (400 | 403 | 404 | 405 | 413) => {
                Fault::Final(SlackError::Refused { word: format!("http_{status}"), needed: None })
            }
            status => Fault::Broken(format!("HTTP {status}")),
        },
        SlackClientError::HttpProtocolError(error) => {
            let cause = error.cause.as_deref();
            let connect = cause
                .and_then(|cause| cause.downcast_ref::<hyper_util::client::legacy::Error>())
                .is_some_and(hyper_util::client::legacy::Error::is_connect);
            let message = cause.map_or_else(|| "the connection broke".to_owned(), |cause| innermost(cause));
            if connect { Fault::Connect(message) } else { Fault::Broken(message) }
        }
        SlackClientError::SystemError(error) => {
            Fault::Broken(error.cause.as_deref().map_or_else(|| "it broke off".to_owned(), |cause| innermost(cause)))
        }
        SlackClientError::ProtocolError(error) => Fault::Broken(format!("no whole JSON: {}", error.json_error)),
        SlackClientError::EndOfStream(_) | SlackClientError::SocketModeProtocolError(_) => {
            Fault::Broken("the connection ended".into())
        }
    }
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    http::shorten(&error.to_string())
}
