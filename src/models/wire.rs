//! What the HTTP providers share: one call from request bytes to events, the mapping of refusals, the checks of an answer.

use std::borrow::Cow;
use std::sync::OnceLock;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::base::secret::SecretRef;
use crate::clients::http::{Answer, Auth, Client, HttpError, Limits, shorten};
use crate::domain::model::Usage;
use crate::ports::model::{ModelError, ModelSetup};

use super::sse::{Event, Events};

/// The most bytes of the answer itself: text, arguments, thinking.
pub const MAX_ANSWER: usize = 10 * 1024 * 1024;
/// The most bytes on the wire: every few characters of an answer come with a hundred bytes of framing.
const MAX_STREAM: usize = 96 * 1024 * 1024;
/// How long the end of a finished stream is waited for, so that the connection can be used again.
const DRAIN: Duration = Duration::from_millis(100);
/// No provider counts more tokens than this in one call; more is nonsense and would overflow sums.
const MAX_TOKENS: u64 = 1 << 40;

/// How a provider is reached.
#[derive(Debug)]
pub struct Endpoint {
    /// Made at the first call: the roots of the machine are read only where a model is asked.
    client: OnceLock<Client>,
    url: String,
    key: Option<SecretRef>,
    idle: Duration,
    total: Duration,
}

/// Where the key goes.
#[derive(Clone, Copy, Debug)]
pub enum KeyIn {
    Bearer,
    Header(&'static str),
}

impl Endpoint {
    /// `path` is put behind the base URL; a base that ends in `/v1` already, or does not, is fine both ways when `path`
    /// begins with `/v1`.
    pub fn new(setup: &ModelSetup, default_base: &str, path: &str) -> Result<Self, ModelError> {
        if setup.base_url.is_none() && setup.api_key.is_none() {
            return Err(ModelError::Credential(format!("{default_base} needs an `api_key`")));
        }
        let base = setup.base_url.as_deref().unwrap_or(default_base).trim_end_matches('/');
        let path = if base.ends_with("/v1") { path.trim_start_matches("/v1") } else { path };
        Ok(Self {
            client: OnceLock::new(),
            url: format!("{base}{path}"),
            key: setup.api_key.clone(),
            idle: setup.idle_timeout,
            total: setup.total_timeout,
        })
    }

    fn client(&self) -> Result<&Client, HttpError> {
        match self.client.get() {
            Some(client) => Ok(client),
            None => {
                let client = Client::for_url(&self.url)?;
                Ok(self.client.get_or_init(|| client))
            }
        }
    }

    /// Sends `body`. A refusal is read, understood and returned as the error.
    pub async fn post(
        &self,
        headers: &[(&'static str, &str)],
        key_in: KeyIn,
        body: Vec<u8>,
    ) -> Result<Answer, Refusal> {
        let auth = match (&self.key, key_in) {
            (None, _) => Auth::None,
            (Some(key), KeyIn::Bearer) => Auth::Bearer(key),
            (Some(key), KeyIn::Header(name)) => Auth::Header(name, key),
        };
        let limits = Limits { idle: self.idle, total: self.total, cap_bytes: MAX_STREAM };
        let failed = |error| Refusal { error: transport(error, None), text: String::new() };
        let client = self.client().map_err(failed)?;
        let mut answer = client.post_json(&self.url, headers, auth, body, limits).await.map_err(failed)?;
        if (200..300).contains(&answer.status) {
            let kind = answer.header("content-type").unwrap_or("text/event-stream").to_owned();
            if kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream") {
                return Ok(answer);
            }
            let text = answer.refusal_text().await;
            let message = format!("expected a stream of events, got {}: {}", shorten(&kind), shorten(&text));
            return Err(Refusal { error: ModelError::Garbage { message, usage: None }, text });
        }
        let after = answer.retry_after();
        let should_retry = answer.header("x-should-retry").map(|v| v.trim().eq_ignore_ascii_case("true"));
        let status = answer.status;
        let text = answer.refusal_text().await;
        Err(Refusal { error: refused(status, &text, after, should_retry), text })
    }
}

/// Why nothing was answered, with the server's words for a provider that can adapt to them.
pub struct Refusal {
    pub error: ModelError,
    pub text: String,
}

/// Why reading stopped before the answer was complete.
pub enum Lost {
    Transport(HttpError),
    /// The stream cannot be understood, or the handler said so.
    Answer(ModelError),
    /// A clean end of the stream.
    Ended,
}

/// Hands each event to `handle` until it says `true` (the answer is complete).
pub async fn read_events(
    answer: &mut Answer,
    mut handle: impl FnMut(&Event) -> Result<bool, ModelError> + Send,
) -> Result<(), Lost> {
    let mut events = Events::default();
    loop {
        let more = answer.more(events.buffer()).await.map_err(Lost::Transport)?;
        loop {
            match events.take() {
                Err(fault) => return Err(Lost::Answer(garbage(fault.to_string(), None))),
                Ok(None) => break,
                Ok(Some(event)) => {
                    if handle(&event).map_err(|error| Lost::Answer(cleaned(error, answer)))? {
                        // A connection is used again only when its answer was read to the end. What comes after the
                        // end of the answer means nothing, and whether the end comes does not either.
                        drop(tokio::time::timeout(DRAIN, drain(answer)).await);
                        return Ok(());
                    }
                }
            }
        }
        if !more {
            return Err(Lost::Ended);
        }
    }
}

/// A server may repeat the credential in what it says.
fn cleaned(error: ModelError, answer: &Answer) -> ModelError {
    match error {
        ModelError::Broken { message, usage } => broken(answer.clean(&message), usage),
        ModelError::Garbage { message, usage } => garbage(answer.clean(&message), usage),
        ModelError::Rejected { status, message } => ModelError::Rejected { status, message: answer.clean(&message) },
        ModelError::TooLong(text) => ModelError::TooLong(answer.clean(&text)),
        ModelError::Credential(text) => ModelError::Credential(answer.clean(&text)),
        ModelError::Billing(text) => ModelError::Billing(answer.clean(&text)),
        other @ (ModelError::Limited { .. }
        | ModelError::Overloaded { .. }
        | ModelError::Connect(_)
        | ModelError::Timeout(_)
        | ModelError::Tape(_)) => other,
    }
}

async fn drain(answer: &mut Answer) {
    let mut rest = Vec::new();
    while rest.len() < 64 * 1024 && matches!(answer.more(&mut rest).await, Ok(true)) {}
}

/// The error of a call that was lost on the way, with the usage that had been reported.
pub fn lost(lost: Lost, usage: Option<Usage>) -> ModelError {
    match lost {
        Lost::Transport(error) => transport(error, usage),
        Lost::Ended => broken("the stream ended early", usage),
        Lost::Answer(ModelError::Garbage { message, usage: own }) => {
            ModelError::Garbage { message, usage: own.or(usage) }
        }
        Lost::Answer(ModelError::Broken { message, usage: own }) => {
            ModelError::Broken { message, usage: own.or(usage) }
        }
        Lost::Answer(error) => error,
    }
}

pub fn garbage(message: impl Into<String>, usage: Option<Usage>) -> ModelError {
    ModelError::Garbage { message: message.into(), usage }
}

pub fn broken(message: impl Into<String>, usage: Option<Usage>) -> ModelError {
    ModelError::Broken { message: message.into(), usage }
}

fn transport(error: HttpError, usage: Option<Usage>) -> ModelError {
    match error {
        HttpError::Secret(error) => ModelError::Credential(error.to_string()),
        HttpError::Credential(text) => ModelError::Credential(text),
        HttpError::Connect(text) | HttpError::Request(text) => ModelError::Connect(text),
        HttpError::Timeout(after) => ModelError::Timeout(after),
        HttpError::TooLarge { cap } => garbage(format!("the answer is larger than {cap} bytes"), usage),
        HttpError::Broken(message) => broken(message, usage),
        HttpError::NotJson(message) => garbage(message, usage),
        HttpError::Status { status, message, after } => refused(status, &message, after, None),
    }
}

/// What the providers and the servers compatible with them say when they refuse.
#[derive(Debug, Default, PartialEq)]
pub struct Words {
    /// `invalid_request_error`, `overloaded_error` …
    pub kind: String,
    /// `context_length_exceeded`, `insufficient_quota`, `enforced_spend_limit_reached` …
    pub code: String,
    pub message: String,
}

impl Words {
    /// Reads `{"error": {type, code, message, details: {error_code}}}`, `{"error": "…"}`, `{"message": …}`, `{"detail": …}`,
    /// else takes the text as it is.
    pub fn read(text: &str) -> Self {
        let Ok(body) = serde_json::from_str::<Value>(text) else {
            return Self { message: shorten(text), ..Self::default() };
        };
        Self::of(&body).unwrap_or_else(|| Self { message: shorten(text), ..Self::default() })
    }

    pub fn of(body: &Value) -> Option<Self> {
        let word = |value: Option<&Value>| match value {
            Some(Value::String(text)) => shorten(text),
            Some(Value::Number(number)) => number.to_string(),
            _ => String::new(),
        };
        match body.get("error") {
            Some(Value::Object(error)) => {
                let code = word(error.get("details").and_then(|details| details.get("error_code")));
                Some(Self {
                    kind: word(error.get("type")),
                    code: if code.is_empty() { word(error.get("code")) } else { code },
                    message: word(error.get("message")),
                })
            }
            Some(Value::String(text)) => Some(Self { message: shorten(text), ..Self::default() }),
            _ => {
                let message = ["message", "detail"].iter().find_map(|key| body.get(key)).map(|value| match value {
                    Value::String(text) => shorten(text),
                    other => shorten(&other.to_string()),
                })?;
                Some(Self { kind: word(body.get("type")), code: word(body.get("code")), message })
            }
        }
    }

    /// One line for people.
    pub fn line(&self) -> String {
        match (self.kind.as_str(), self.message.as_str()) {
            ("", "") => "no explanation".to_owned(),
            ("", message) => message.to_owned(),
            (kind, "") => kind.to_owned(),
            (kind, message) => format!("{kind}: {message}"),
        }
    }

    fn spend_limit(&self) -> bool {
        let named =
            ["enforced_spend_limit_reached", "insufficient_quota", "billing_hard_limit_reached", "billing_error"];
        named.contains(&self.code.as_str())
            || named.contains(&self.kind.as_str())
            || self.message.to_ascii_lowercase().contains("credit balance is too low")
    }

    fn too_long(&self) -> bool {
        let message = self.message.to_ascii_lowercase();
        ["context_length_exceeded", "exceed_context_size_error", "context_window_exceeded"]
            .iter()
            .any(|name| self.code == *name || self.kind == *name)
            || ["prompt is too long", "maximum context length", "context window", "exceed context limit"]
                .iter()
                .any(|words| message.contains(words))
    }
}

/// The error for a status that is no success. `should_retry` is the server's own `x-should-retry`.
pub fn refused(status: u16, text: &str, after: Option<Duration>, should_retry: Option<bool>) -> ModelError {
    let words = Words::read(text);
    let message = words.line();
    let rejected = |message| ModelError::Rejected { status, message };
    match status {
        402 => ModelError::Billing(message),
        400 | 403 | 429 if words.spend_limit() => ModelError::Billing(message),
        401 | 403 => ModelError::Credential(message),
        400 | 413 | 422 if words.too_long() => ModelError::TooLong(message),
        429 if should_retry != Some(false) => ModelError::Limited { after },
        // 408 and 409 are of the moment, like 5xx: nothing was answered and the same request may pass later.
        408 | 409 | 500.. if should_retry != Some(false) => ModelError::Overloaded { status, after },
        300..=399 => rejected("it answers with a redirect to another address; give that one as `base_url`".into()),
        _ if should_retry == Some(true) => ModelError::Overloaded { status, after },
        _ => rejected(message),
    }
}

/// The error for an error event in a stream. Once an answer has begun it may be billed, so it is `Broken`; before that it is
/// what the same words would have been as a status.
pub fn error_event(body: &Value, begun: bool, usage: Option<Usage>) -> ModelError {
    let words = Words::of(body).unwrap_or_default();
    if begun {
        return broken(words.line(), usage);
    }
    let status = match words.kind.as_str() {
        "rate_limit_error" | "rate_limit_exceeded" | "insufficient_quota" => 429,
        "overloaded_error" => 529,
        "authentication_error" => 401,
        "permission_error" => 403,
        "billing_error" => 402,
        "not_found_error" => 404,
        "request_too_large" => 413,
        "invalid_request_error" => 400,
        // Compatible servers put the status into the code.
        _ => words.code.parse().ok().filter(|code| (400..600).contains(code)).unwrap_or(500),
    };
    refused(status, &body.to_string(), None, None)
}

/// Whether `answered` is the model that was asked for: the same id, or the same with a date, a tag or `-latest` resolved.
pub fn same_model(asked: &str, answered: &str) -> bool {
    let asked = asked.strip_suffix("-latest").unwrap_or(asked);
    let Some(rest) = answered.strip_prefix(asked) else { return false };
    let dated = |text: &str| {
        let digits = text.bytes().filter(u8::is_ascii_digit).count();
        matches!(digits, 4 | 8) && text.bytes().all(|b| b.is_ascii_digit() || b == b'-') && !text.ends_with('-')
    };
    match rest.as_bytes().first() {
        None => true,
        Some(b'-' | b'@') => dated(&rest[1..]),
        Some(b':') => &rest[1..] == "latest",
        Some(_) => false,
    }
}

/// The error for an answer of another model than the one that was asked for (and will be paid for).
pub fn other_model(asked: &str, answered: &str, usage: Option<Usage>) -> ModelError {
    garbage(format!("asked for model `{}`, `{}` answered", shorten(asked), shorten(answered)), usage)
}

/// Refuses counts that no call can have.
pub fn plausible(usage: &Usage) -> bool {
    [usage.input, usage.cache_write_5m, usage.cache_write_1h, usage.cache_read, usage.output]
        .iter()
        .all(|tokens| *tokens < MAX_TOKENS)
}

/// The `type` of a content block.
pub fn block_type(block: &RawValue) -> Result<Cow<'_, str>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Typed<'a> {
        #[serde(rename = "type", borrow)]
        name: Cow<'a, str>,
    }
    Ok(serde_json::from_str::<Typed<'_>>(block.get())?.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_the_same_with_a_date_and_another_with_anything_else() {
        let asked = "claude-opus-5-5";
        for same in
            ["claude-opus-5-5", "claude-opus-5-5-20260922", "claude-opus-5-5-2026-09-22", "claude-opus-5-5@20260922"]
        {
            assert!(same_model(asked, same), "{same}");
        }
        for other in [
            "claude-haiku-5-5",
            "claude-opus-5",
            "claude-opus-5-50",
            "claude-opus-5-5-mini",
            "",
            "claude-opus-5-5-",
            "Claude-opus-5-5",
        ] {
            assert!(!same_model(asked, other), "{other}");
        }
        assert!(same_model("llama3.2", "llama3.2:latest"));
        assert!(same_model("claude-opus-5-5-latest", "claude-opus-5-5-20260922"));
        assert!(!same_model("llama3.2", "llama3.2:70b"));
    }

    #[test]
    fn a_refusal_says_what_to_do_next() {
        let s = |n| Some(Duration::from_secs(n));
        let anthropic = |kind: &str, message: &str| {
            format!(r#"{{"type":"error","error":{{"type":"{kind}","message":"{message}"}},"request_id":"req_1"}}"#)
        };
        let enforced = r#"{"type":"error","error":{"type":"rate_limit_error","message":"limit","details":{"error_code":"enforced_spend_limit_reached"}}}"#;
        let quota = r#"{"error":{"message":"quota","type":"insufficient_quota","code":"insufficient_quota"}}"#;
        let context =
            r#"{"error":{"message":"too many","type":"invalid_request_error","code":"context_length_exceeded"}}"#;
        let bad = anthropic("invalid_request_error", "max_tokens: required");
        type Case<'a> = (u16, &'a str, Option<Duration>, Option<bool>, &'a str);
        // (status, body, retry-after, x-should-retry) → the error, as `Debug` begins.
        let cases: &[Case<'_>] = &[
            (
                400,
                &bad,
                None,
                None,
                r#"Rejected { status: 400, message: "invalid_request_error: max_tokens: required" }"#,
            ),
            (400, &anthropic("invalid_request_error", "prompt is too long: 9 tokens > 8"), None, None, "TooLong("),
            (400, &anthropic("invalid_request_error", "Your credit balance is too low"), None, None, "Billing("),
            (400, context, None, None, "TooLong("),
            (400, &bad, None, Some(true), "Overloaded { status: 400, after: None }"),
            (401, &anthropic("authentication_error", "invalid x-api-key"), None, None, "Credential("),
            (402, &anthropic("billing_error", "pay"), None, None, "Billing("),
            (403, &anthropic("permission_error", "no"), None, None, "Credential("),
            (404, &anthropic("not_found_error", "model: x"), None, None, "Rejected { status: 404"),
            (408, "", None, None, "Overloaded { status: 408, after: None }"),
            (409, "", None, None, "Overloaded { status: 409, after: None }"),
            (413, &anthropic("request_too_large", "32 MB"), None, None, "Rejected { status: 413"),
            (
                422,
                r#"{"detail":[{"loc":["body"]}]}"#,
                None,
                None,
                r#"Rejected { status: 422, message: "[{\"loc\":[\"body\"]}]" }"#,
            ),
            (429, &anthropic("rate_limit_error", "slow"), s(7), None, "Limited { after: Some(7s) }"),
            (429, &anthropic("rate_limit_error", "slow"), None, None, "Limited { after: None }"),
            (429, &anthropic("rate_limit_error", "slow"), s(7), Some(false), "Rejected { status: 429"),
            (429, enforced, s(7), None, "Billing("),
            (429, quota, None, None, "Billing("),
            (500, "<html>oops</html>", None, None, "Overloaded { status: 500, after: None }"),
            (503, "", s(2), None, "Overloaded { status: 503, after: Some(2s) }"),
            (500, "", None, Some(false), "Rejected { status: 500"),
            (529, &anthropic("overloaded_error", "Overloaded"), None, None, "Overloaded { status: 529, after: None }"),
            (302, "", None, None, "Rejected { status: 302"),
            (
                404,
                r#"{"error":"model not found"}"#,
                None,
                None,
                r#"Rejected { status: 404, message: "model not found" }"#,
            ),
        ];
        for (status, body, after, should_retry, expected) in cases {
            let error = format!("{:?}", refused(*status, body, *after, *should_retry));
            assert!(error.starts_with(expected), "{status} {body}: {error}");
        }
    }
}
