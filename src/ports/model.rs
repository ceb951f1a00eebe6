//! A model provider: one request in, one finished answer out.
//!
//! How to write one: a file in `models/` with a `KIND`; translate the neutral request (`domain::model`) to the provider's
//! wire format, stream the answer with idle and total timeouts, and return it whole. A provider never retries and never
//! spends without being asked: retry, grants and fallback are the executor's.

use std::sync::Arc;
use std::time::Duration;

use crate::base::BoxFuture;
use crate::base::env::Env;
use crate::base::retry::Retry;
use crate::base::secret::SecretRef;
use crate::domain::model::{ModelAnswer, ModelRequest, Usage};

/// One row of the table of providers.
#[derive(Clone, Copy, Debug)]
pub struct ModelKind {
    /// The word for `provider:` in the configuration.
    pub name: &'static str,
    pub summary: &'static str,
    /// Where it is reached when `base_url` is not given.
    pub default_base_url: Option<&'static str>,
    pub make: fn(&ModelSetup) -> Result<Arc<dyn Model>, ModelError>,
}

/// What the configuration says about one role's model.
#[derive(Clone, Debug)]
pub struct ModelSetup {
    pub base_url: Option<String>,
    pub api_key: Option<SecretRef>,
    /// For `tape`: the file to replay.
    pub tape: Option<std::path::PathBuf>,
    /// No byte for this long: the call is lost.
    pub idle_timeout: Duration,
    /// The whole call.
    pub total_timeout: Duration,
    pub env: Env,
}

/// One call.
pub struct ModelCall<'a> {
    pub request: &'a ModelRequest,
    /// The provider's model id.
    pub model: &'a str,
    /// The grant may have lowered it.
    pub max_output_tokens: u32,
    /// The activity's address within its run: the key of a tape.
    pub path: &'a str,
    /// Text as it streams, for live display; never recorded.
    pub live: &'a (dyn Fn(&str) + Send + Sync),
}

/// A provider bound to its address and key. Not cancel safe in money: a dropped call may still be billed.
pub trait Model: Send + Sync {
    fn call<'a>(&'a self, call: ModelCall<'a>) -> BoxFuture<'a, Result<ModelAnswer, ModelError>>;
}

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// HTTP 429. `after` is the server's own request, when it sent one.
    #[error("the model provider is limiting requests")]
    Limited { after: Option<Duration> },
    /// HTTP 5xx or 529: nothing was answered.
    #[error("the model provider is overloaded or failing (HTTP {status})")]
    Overloaded { status: u16, after: Option<Duration> },
    #[error("the request is too long for the model: {0}")]
    TooLong(String),
    /// 401 or 403, or the secret cannot be read.
    #[error("the credential was refused or is missing: {0}")]
    Credential(String),
    /// 402, or an enforced spend limit at the provider.
    #[error("the provider's own spend limit is reached: {0}")]
    Billing(String),
    /// 400, 404, 413, 422: our request is wrong for this model.
    #[error("the provider refused the request (HTTP {status}): {message}")]
    Rejected { status: u16, message: String },
    #[error("cannot reach the model provider: {0}")]
    Connect(String),
    /// Nothing arrived for the idle timeout, or the total ran out. What came may have been billed.
    #[error("the model did not answer in time ({0:?})")]
    Timeout(Duration),
    /// The stream ended or broke before the answer was complete; `usage` is what had been reported.
    #[error("the answer broke off: {message}")]
    Broken { message: String, usage: Option<Usage> },
    /// The answer cannot be understood, or is larger than the cap.
    #[error("the answer makes no sense: {message}")]
    Garbage { message: String, usage: Option<Usage> },
    /// The tape has no such call, or another request than the recorded one.
    #[error("{0}")]
    Tape(String),
}

impl ModelError {
    /// What to do next. Trying again costs no turn.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Limited { after: Some(after) } | Self::Overloaded { after: Some(after), .. } => Retry::After(*after),
            Self::Limited { after: None } | Self::Overloaded { after: None, .. } => Retry::Backoff,
            Self::Connect(_) | Self::Timeout(_) | Self::Broken { .. } | Self::Garbage { .. } => Retry::Backoff,
            Self::TooLong(_) | Self::Credential(_) | Self::Billing(_) | Self::Rejected { .. } | Self::Tape(_) => {
                Retry::Never
            }
        }
    }

    /// The call may have been billed although it gave no answer.
    pub fn may_cost(&self) -> bool {
        match self {
            Self::Timeout(_) | Self::Broken { .. } | Self::Garbage { .. } => true,
            Self::Limited { .. }
            | Self::Overloaded { .. }
            | Self::TooLong(_)
            | Self::Credential(_)
            | Self::Billing(_)
            | Self::Rejected { .. }
            | Self::Connect(_)
            | Self::Tape(_) => false,
        }
    }
}
