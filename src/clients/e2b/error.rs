//! What a call of E2B's protocol can end with, by what the caller does next.

use std::time::Duration;

use reqwest::StatusCode;

use crate::base::retry::Retry;
use crate::base::secret::SecretError;
use crate::clients::http::{Answer, HttpError, shorten};

use super::wire;

/// Why a call gave nothing. Texts are what the other side said, one line, cleaned of what was sent to it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such sandbox, template, build, file or process.
    #[error("{message}")]
    NotFound { message: String },
    /// The sandbox was killed or reached the end of its life: make another.
    #[error("the sandbox is gone: {message}")]
    Gone { message: String },
    /// The sandbox may live, and its daemon does not answer.
    #[error("the sandbox cannot be reached: {message}")]
    Unreachable { message: String },
    #[error("the credential was refused: {message}")]
    Unauthorized { message: String },
    /// Told to wait, also after the tries that are allowed.
    #[error("requests are being limited: {message}")]
    RateLimited { retry_after: Option<Duration>, message: String },
    /// Another 4xx, or a Connect code that says that the request is wrong.
    #[error("refused with {status}: {message}")]
    Rejected { status: u16, message: String },
    /// There is no room left on the sandbox's disk.
    #[error("no space is left in the sandbox: {message}")]
    NoSpace { message: String },
    /// A 5xx, or no connection, also after the tries that are allowed. It was not carried out, or carrying it out twice does no harm.
    #[error("unavailable: {message}")]
    Unavailable { message: String },
    /// The request went out and no answer came: it may have been carried out, and must not be sent again blindly.
    #[error("it is not known whether this was carried out: {message}")]
    Ambiguous { message: String },
    /// The time that a process was given is over; the other side has killed it, or was told to.
    #[error("out of time: {message}")]
    Deadline { message: String },
    /// The answer does not follow the protocol.
    #[error("an answer that cannot be understood: {message}")]
    Protocol { message: String },
    #[error("the answer is larger than {cap} bytes")]
    TooLarge { cap: usize },
    /// The address, or what should be sent to it, is no request.
    #[error("{0}")]
    Request(String),
    /// A local file that should be sent cannot be read.
    #[error("reading what should be sent")]
    Read(#[source] std::io::Error),
    #[error(transparent)]
    Secret(#[from] SecretError),
}

impl Error {
    /// What to do next, for a call that does no harm when it is repeated.
    pub fn retry(&self) -> Retry {
        match self {
            Self::RateLimited { retry_after: Some(after), .. } => Retry::After(*after),
            Self::RateLimited { retry_after: None, .. }
            | Self::Unavailable { .. }
            | Self::Unreachable { .. }
            | Self::Ambiguous { .. } => Retry::Backoff,
            Self::NotFound { .. }
            | Self::Gone { .. }
            | Self::Unauthorized { .. }
            | Self::Rejected { .. }
            | Self::NoSpace { .. }
            | Self::Deadline { .. }
            | Self::Protocol { .. }
            | Self::TooLarge { .. }
            | Self::Request(_)
            | Self::Read(_)
            | Self::Secret(_) => Retry::Never,
        }
    }

    /// Whether another sandbox is needed.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. })
    }
}

/// Who answers: the same words mean something else from each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plane {
    Control,
    /// The daemon of a sandbox, or the proxy in front of it.
    Sandbox,
}

/// An answer other than 2xx, or the error that ends a stream.
#[derive(Debug)]
pub(super) struct Refused {
    pub status: u16,
    /// `not_found`, …: from Connect calls.
    pub code: Option<String>,
    pub message: String,
    pub retry_after: Option<Duration>,
    /// What the server says itself about trying again.
    pub should_retry: Option<bool>,
}

impl Refused {
    /// Reads the rest of an answer.
    pub async fn read(answer: &mut Answer) -> Self {
        let retry_after = answer.header("retry-after").and_then(whole_seconds);
        let should_retry = answer.header("should-retry").map(|value| value.trim().eq_ignore_ascii_case("true"));
        let status = answer.status;
        let text = answer.refusal_text().await;
        let (code, message) = said(&text);
        let message = message.unwrap_or_else(|| {
            let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
            format!("HTTP {status} {}", reason.unwrap_or_default()).trim_end().to_owned()
        });
        Self { status, code, message, retry_after, should_retry }
    }

    /// From the frame that ends a stream.
    pub fn from_stream(error: wire::ConnectError) -> Self {
        let message = shorten(&error.message);
        Self { status: 200, code: Some(error.code), message, retry_after: None, should_retry: None }
    }

    /// Whether the server wants it to be tried again, or says something that passes.
    pub fn again(&self, plane: Plane) -> bool {
        if plane == Plane::Sandbox && self.gone() {
            return false;
        }
        self.should_retry.unwrap_or(matches!(self.status, 429 | 502 | 503 | 504))
    }

    fn gone(&self) -> bool {
        self.message.contains("was not found")
    }

    /// `once`: it must not be carried out twice, and is told apart from what certainly was not carried out.
    pub fn into_error(self, plane: Plane, once: bool) -> Error {
        let Self { status, code, message, retry_after, .. } = self;
        match (code.as_deref(), status) {
            (Some("not_found"), _) | (None, 404) => Error::NotFound { message },
            (Some("unauthenticated" | "permission_denied"), _) | (None, 401 | 403) => Error::Unauthorized { message },
            (Some("resource_exhausted"), _) | (None, 429) => Error::RateLimited { retry_after, message },
            (Some("deadline_exceeded"), _) => Error::Deadline { message },
            (None, 507) => Error::NoSpace { message },
            (Some("unavailable"), _) | (None, 502) if plane == Plane::Sandbox => unavailable(message, once),
            // A proxy or the daemon gave up on it in the middle.
            (Some("canceled"), _) if once => Error::Ambiguous { message },
            (Some("canceled"), _) => Error::Unreachable { message },
            (None, 502 | 504) if once => Error::Ambiguous { message },
            (None, 500..) | (Some("unavailable" | "internal" | "unknown" | "data_loss"), _) => {
                Error::Unavailable { message }
            }
            (Some("already_exists" | "aborted"), _) => Error::Rejected { status: 409, message },
            (Some("unimplemented"), _) => Error::Rejected { status: 501, message },
            (Some(_), 200) => Error::Rejected { status: 400, message },
            (_, status) => Error::Rejected { status, message },
        }
    }
}

/// What the proxy in front of the sandboxes says, which E2B's own clients tell apart by these words.
fn unavailable(message: String, once: bool) -> Error {
    if message.contains("was not found") {
        Error::Gone { message }
    } else if once && !message.contains("port is not open") {
        Error::Ambiguous { message }
    } else {
        Error::Unreachable { message }
    }
}

/// `Retry-After` as E2B gives it: whole seconds.
fn whole_seconds(value: &str) -> Option<Duration> {
    let value = value.trim();
    let digits = !value.is_empty() && value.len() <= 9 && value.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| value.parse().ok().map(Duration::from_secs)).flatten()
}

/// The code of a Connect error and the words of any other; nothing of a page of HTML.
fn said(text: &str) -> (Option<String>, Option<String>) {
    if let Ok(serde_json::Value::Object(body)) = serde_json::from_str(text) {
        let text = |name: &str| body.get(name).and_then(|value| value.as_str()).map(shorten);
        return (text("code"), text("message").filter(|message| !message.is_empty()));
    }
    let line = shorten(text);
    (None, (!line.is_empty() && !line.starts_with('<')).then_some(line))
}

impl From<HttpError> for Error {
    /// For what cannot have been carried out.
    fn from(error: HttpError) -> Self {
        Self::from_http(error, true)
    }
}

impl Error {
    /// `harmless`: whether it does no harm that the call may have been carried out.
    pub(super) fn from_http(error: HttpError, harmless: bool) -> Self {
        match error {
            HttpError::Secret(error) => Self::Secret(error),
            HttpError::Request(text) | HttpError::Credential(text) => Self::Request(text),
            HttpError::Connect(message) => Self::Unavailable { message },
            error @ (HttpError::Timeout(_) | HttpError::Broken(_)) if harmless => {
                Self::Unavailable { message: error.to_string() }
            }
            error @ (HttpError::Timeout(_) | HttpError::Broken(_)) => Self::Ambiguous { message: error.to_string() },
            HttpError::TooLarge { cap } => Self::TooLarge { cap },
            error @ (HttpError::Status { .. } | HttpError::NotJson(_)) => Self::Protocol { message: error.to_string() },
        }
    }
}
