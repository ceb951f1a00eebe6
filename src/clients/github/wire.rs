//! One exchange with GitHub's API through octocrab, and how it was lost where it was. Knows nothing of limits or credentials.
//!
//! octocrab is built without its retries, redirects and own credentials: what goes out is what is asked for, once. The types of
//! HTTP are those that axum hands on.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{ACCEPT, AUTHORIZATION};
use axum::http::{HeaderMap, HeaderValue, Method, Request, Uri};
use futures_util::StreamExt as _;
use octocrab::Octocrab;
use reqwest::Url;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::base::secret::Secret;

const CONNECT: Duration = Duration::from_secs(10);
/// A whole call.
const TOTAL: Duration = Duration::from_secs(60);
/// A hundred pull requests with long bodies are about 7 MB.
const CAP: usize = 32 << 20;

/// An answer that came whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    /// `Null` where there is none, or none that is JSON beside a status that says enough.
    pub body: Value,
}

/// How an exchange ended without an answer.
#[derive(Debug)]
pub(super) enum Lost {
    /// It never left.
    NotSent(String),
    /// It may have arrived.
    Unknown(String),
}

pub(super) struct Wire {
    base: Url,
    total: Duration,
    cap: usize,
    /// Made with the first call: it reads the roots of the machine and needs a runtime.
    crab: Mutex<Option<Octocrab>>,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

impl Wire {
    pub fn new(base: Url) -> Self {
        Self { base, total: TOTAL, cap: CAP, crab: Mutex::default() }
    }

    #[cfg(test)]
    pub fn bounded(self, total: Duration, cap: usize) -> Self {
        Self { total, cap, ..self }
    }

    fn crab(&self) -> Result<Octocrab, String> {
        let mut kept = self.crab.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(crab) = kept.as_ref() {
            return Ok(crab.clone());
        }
        crate::clients::install_tls();
        let made = Octocrab::builder().set_connect_timeout(Some(CONNECT)).base_uri(self.base.as_str());
        let made = made.and_then(|builder| builder.build()).map_err(|error| chain(&error))?;
        *kept = Some(made.clone());
        Ok(made)
    }

    /// The whole address of a route: always of this origin, below the base.
    fn address(&self, route: &str, query: &str) -> Result<Uri, String> {
        let base = self.base.as_str().trim_end_matches('/');
        let mark = if query.is_empty() { "" } else { "?" };
        format!("{base}{route}{mark}{query}").parse().map_err(|_| format!("`{route}` is no route"))
    }

    /// Sends it once. `query` is encoded already.
    pub async fn exchange(
        &self,
        method: Method,
        route: &str,
        query: &str,
        bearer: &Secret,
        body: Option<&Value>,
    ) -> Result<Answer, Lost> {
        let crab = self.crab().map_err(Lost::NotSent)?;
        let mut header = HeaderValue::from_str(&format!("Bearer {}", bearer.expose()))
            .map_err(|_| Lost::NotSent("the secret holds characters that a header cannot carry".into()))?;
        header.set_sensitive(true);
        let request = Request::builder()
            .method(method)
            .uri(self.address(route, query).map_err(Lost::NotSent)?)
            .header(ACCEPT, "application/vnd.github+json")
            .header(AUTHORIZATION, header);
        let request = crab.build_request(request, body).map_err(|error| Lost::NotSent(chain(&error)))?;
        let deadline = Instant::now() + self.total;
        let response = match timeout_at(deadline, crab.execute(request)).await {
            Err(_) => return Err(Lost::Unknown(format!("no answer within {:?}", self.total))),
            Ok(Err(error)) if never_left(&error) => return Err(Lost::NotSent(chain(&error))),
            Ok(Err(error)) => return Err(Lost::Unknown(chain(&error))),
            Ok(Ok(response)) => response,
        };
        let (head, body) = response.into_parts();
        let status = head.status.as_u16();
        let body = self.body(Body::new(body), deadline).await;
        let body = match body.and_then(|bytes| parse(&bytes)) {
            Ok(body) => body,
            // What it refuses, it refuses with its status.
            Err(_) if !head.status.is_success() => Value::Null,
            Err(why) => return Err(Lost::Unknown(why)),
        };
        Ok(Answer { status, headers: head.headers, body })
    }

    async fn body(&self, body: Body, deadline: Instant) -> Result<Vec<u8>, String> {
        let mut stream = body.into_data_stream();
        let mut bytes = Vec::new();
        loop {
            match timeout_at(deadline, stream.next()).await {
                Err(_) => return Err(format!("the answer did not end within {:?}", self.total)),
                Ok(None) => return Ok(bytes),
                Ok(Some(Err(error))) => return Err(format!("the answer breaks off: {}", chain(&error))),
                Ok(Some(Ok(piece))) if bytes.len() + piece.len() > self.cap => {
                    return Err(format!("the answer is larger than {} bytes", self.cap));
                }
                Ok(Some(Ok(piece))) => bytes.extend_from_slice(&piece),
            }
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Value, String> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(bytes).map_err(|error| format!("the answer is not JSON: {error}"))
}

/// No connection came about.
fn never_left(error: &octocrab::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = source {
        if let Some(error) = inner.downcast_ref::<hyper_util::client::legacy::Error>() {
            return error.is_connect();
        }
        source = inner.source();
    }
    false
}

/// The innermost causes; the outer ones only say that a request was sent.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut texts = Vec::new();
    let mut source = Some(error);
    while let Some(inner) = source {
        // octocrab's own texts hold a backtrace from the second line on.
        let text = inner.to_string().lines().next().unwrap_or_default().trim().to_owned();
        if !text.is_empty() && texts.last() != Some(&text) {
            texts.push(text);
        }
        source = inner.source();
    }
    texts.split_off(texts.len().saturating_sub(2)).join(": ")
}
