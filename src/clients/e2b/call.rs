//! One call, sent again where that is allowed: the contract of E2B's control plane for waiting, and our own for what may be repeated.
//!
//! `Should-Retry` wins; without it 429, 502, 503 and 504 are tried three times more, after `Retry-After` seconds or else 0.1 to 10 s
//! with jitter. A wait that would pass the time of the whole call is not begun.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use reqwest::{Method, Url};
use tokio::time::Instant;

use crate::base::env::Env;
use crate::clients::http::{Answer, Auth, Call, Client, HttpError, Limits};

use super::error::{Error, Plane, Refused};

/// Tries after the first.
const RETRIES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// The most bytes of an answer that is read whole.
pub(super) const ANSWER_CAP: usize = 16 << 20;
/// Beyond the life of any connection; an `Instant` still holds it.
const UNBOUNDED: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Whether a call may be sent again. Where no connection was made, nothing was sent, and every call may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resend {
    /// Carrying it out twice does no harm: also after an answer that was lost.
    Safe,
    /// Where the server answered that it should be tried again.
    Asked,
    /// Not once it has gone out.
    Never,
}

/// A call to be made.
pub(super) struct Plan<'a> {
    pub plane: Plane,
    pub resend: Resend,
    pub method: Method,
    pub url: Url,
    pub headers: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    pub auth: Auth<'a>,
    pub body: Payload,
    pub wait: Wait,
    /// The most bytes of its answer.
    pub cap_bytes: usize,
}

/// What is sent.
pub(super) enum Payload {
    None,
    Bytes(Bytes),
    /// Read as it is sent, and so sent once.
    Once(reqwest::Body),
}

impl Payload {
    fn take(&mut self) -> Option<reqwest::Body> {
        match std::mem::replace(self, Self::None) {
            Self::None => None,
            Self::Bytes(bytes) => {
                *self = Self::Bytes(bytes.clone());
                Some(bytes.into())
            }
            Self::Once(body) => Some(body),
        }
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

/// How long it may take.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wait {
    /// The whole call, all its tries and their pauses.
    Whole(Duration),
    /// The answer has begun by `head`; then no more than `idle` passes without a byte. There is no bound on the whole.
    Stream { head: Duration, idle: Duration },
}

/// An answer that was read to its end.
pub(super) struct Reply {
    /// `X-Next-Token`: there is another page.
    pub next: Option<String>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, Error> {
        // serde_json names line and column, and a value only where its type is wrong; no answer holds a secret in such a place.
        serde_json::from_slice(&self.body).map_err(|error| Error::Protocol { message: error.to_string() })
    }
}

/// Connections, and what a wait depends on.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub http: Client,
    pub env: Env,
}

impl Caller {
    /// Sends it and reads the answer whole. Not cancel safe where it changes anything: it may have been carried out.
    pub async fn whole(&self, plan: Plan<'_>) -> Result<Reply, Error> {
        let (answer, body) = self.tries(plan, true).await?;
        let next = answer.header("x-next-token").map(str::to_owned).filter(|token| !token.is_empty());
        Ok(Reply { next, body })
    }

    /// The same; the answer is returned when its head is here.
    pub async fn opened(&self, plan: Plan<'_>) -> Result<Answer, Error> {
        Ok(self.tries(plan, false).await?.0)
    }

    async fn tries(&self, mut plan: Plan<'_>, whole: bool) -> Result<(Answer, Vec<u8>), Error> {
        let began = Instant::now();
        // Pauses are on the clock of `env`, which need not be the one of the sockets.
        let mut waited = Duration::ZERO;
        let most = if matches!(plan.body, Payload::Once(_)) { 0 } else { RETRIES };
        for retry in 0..=most {
            let left = match plan.wait {
                Wait::Whole(whole) => whole.saturating_sub(began.elapsed().max(waited)),
                Wait::Stream { head, .. } => head,
            };
            let failed = match self.once(&mut plan, left, whole).await {
                Ok(done) => return Ok(done),
                Err(failed) => failed,
            };
            let pause = if retry < most { self.pause(&plan, &failed, retry) } else { None };
            let bound = match plan.wait {
                Wait::Whole(whole) => whole.saturating_sub(began.elapsed().max(waited)),
                Wait::Stream { head, .. } => head.saturating_sub(waited),
            };
            let Some(pause) = pause.filter(|pause| *pause < bound) else {
                return Err(failed.into_error(plan.plane, plan.resend));
            };
            tracing::debug!(
                path = plan.url.path(),
                pause_ms = pause.as_millis(),
                "a call to the sandboxes is tried again"
            );
            self.env.clock.sleep(pause).await;
            waited += pause;
        }
        // The last try returns.
        Err(Error::Unavailable { message: "too many tries".into() })
    }

    async fn once(&self, plan: &mut Plan<'_>, left: Duration, whole: bool) -> Result<(Answer, Vec<u8>), Failed> {
        let limits = match plan.wait {
            Wait::Whole(_) => Limits { idle: left, total: left, cap_bytes: plan.cap_bytes },
            Wait::Stream { idle, .. } => Limits { idle, total: UNBOUNDED, cap_bytes: plan.cap_bytes },
        };
        let body = plan.body.take();
        let call = Call {
            method: plan.method.clone(),
            url: plan.url.clone(),
            headers: plan.headers.clone(),
            auth: plan.auth,
            body,
            limits,
        };
        let mut answer = match tokio::time::timeout(left, self.http.send(call)).await {
            Err(_) => return Err(Failed::Http(HttpError::Timeout(left))),
            Ok(sent) => sent.map_err(Failed::Http)?,
        };
        if !(200..300).contains(&answer.status) {
            return Err(Failed::Refused(Refused::read(&mut answer).await));
        }
        let mut body = Vec::new();
        if whole {
            while answer.more(&mut body).await.map_err(Failed::Http)? {}
        }
        Ok((answer, body))
    }

    /// How long to wait before the next try, or `None` where there must be none.
    fn pause(&self, plan: &Plan<'_>, failed: &Failed, retry: u32) -> Option<Duration> {
        let asked = match failed {
            Failed::Http(HttpError::Connect(_)) => None,
            Failed::Http(HttpError::Broken(_)) if plan.resend == Resend::Safe => None,
            Failed::Refused(refused) if plan.resend != Resend::Never && refused.again(plan.plane) => {
                refused.retry_after
            }
            Failed::Http(_) | Failed::Refused(_) => return None,
        };
        let doubled = FIRST_PAUSE.saturating_mul(1 << retry.min(16)).min(LONGEST_PAUSE);
        Some(asked.unwrap_or_else(|| self.env.jitter(doubled).min(LONGEST_PAUSE)))
    }
}

/// One try that gave nothing.
pub(super) enum Failed {
    Http(HttpError),
    Refused(Refused),
}

impl Failed {
    fn into_error(self, plane: Plane, resend: Resend) -> Error {
        match self {
            Self::Http(error) => Error::from_http(error, resend == Resend::Safe),
            Self::Refused(refused) => refused.into_error(plane, resend == Resend::Never),
        }
    }
}
