//! HTTP as nightcrew speaks it: connections are reused, every call has timeouts and a size cap, and no error text holds a
//! secret or a query string.
//!
//! What it does not do: retry (the executor decides), follow a redirect to another origin (a credential would go with it), read
//! the proxy variables of the environment (a destination comes from the configuration alone), decompress (so that a small
//! answer cannot become a large one).

use std::borrow::Cow;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url, redirect};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::base::retry::Retry;
use crate::base::secret::{Secret, SecretError, SecretRef};

/// How long a TCP and TLS handshake may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of a refusal's body is read and shown.
const MESSAGE_CAP: usize = 64 * 1024;
const SHOWN: usize = 600;
/// Redirects within one origin.
const MAX_REDIRECTS: usize = 4;

/// Makes *ring* the one TLS provider of the process. The first line of `main`; harmless when repeated.
pub fn install_tls() {
    // An error only says that a provider is installed already.
    drop(rustls::crypto::ring::default_provider().install_default());
}

/// Why an HTTP call gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The address or a header cannot be sent at all.
    #[error("{0}")]
    Request(String),
    /// The secret cannot be sent as it is.
    #[error("{0}")]
    Credential(String),
    /// Nothing was sent.
    #[error("{0}")]
    Connect(String),
    /// Nothing arrived for this long, or the whole call took longer.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// Another status than 2xx. `message` is the beginning of what the server said, cleaned.
    #[error("HTTP {status}: {message}")]
    Status { status: u16, message: String, after: Option<Duration> },
    #[error("the answer is larger than {cap} bytes")]
    TooLarge { cap: usize },
    /// The connection ended after the request had gone out.
    #[error("{0}")]
    Broken(String),
    #[error("the answer is not JSON: {0}")]
    NotJson(String),
}

impl HttpError {
    /// What to do next, for calls that change nothing on the other side.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Status { after: Some(after), status, .. } if transient(*status) => Retry::After(*after),
            Self::Status { status, .. } if transient(*status) => Retry::Backoff,
            Self::Connect(_) | Self::Timeout(_) | Self::Broken(_) => Retry::Backoff,
            Self::Secret(_)
            | Self::Request(_)
            | Self::Credential(_)
            | Self::Status { .. }
            | Self::TooLarge { .. }
            | Self::NotJson(_) => Retry::Never,
        }
    }
}

fn transient(status: u16) -> bool {
    matches!(status, 408 | 409 | 429) || status >= 500
}

/// The credential of one call. It is read from its place at that moment.
#[derive(Clone, Copy, Debug)]
pub enum Auth<'a> {
    None,
    Bearer(&'a SecretRef),
    /// The value of a header of this name.
    Header(&'static str, &'a SecretRef),
    /// The same, for a secret that the other side handed out and that is nowhere else.
    Value(&'static str, &'a Secret),
    /// A header whose value was made from a secret, if it goes in a header at all, with everything that must not be repeated.
    Made(Option<&'a (String, Secret)>, &'a [Secret]),
}

/// The bounds of one call.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// No byte for this long ends the call.
    pub idle: Duration,
    /// The whole call, body included.
    pub total: Duration,
    /// The most bytes of an answer.
    pub cap_bytes: usize,
}

/// One call.
pub(super) struct Call<'a> {
    pub method: Method,
    pub url: Url,
    pub headers: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    pub auth: Auth<'a>,
    pub body: Option<reqwest::Body>,
    pub limits: Limits,
}

/// A pool of connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    inner: reqwest::Client,
}

impl Client {
    /// For any address. Errors: `Request` when the TLS roots of the machine cannot be read.
    pub fn new() -> Result<Self, HttpError> {
        Self::build(reqwest::Client::builder())
    }

    /// For `base_url` and what lies under it. Without TLS the roots of the machine are not read, which takes longer than
    /// everything else at a start.
    pub fn for_url(base_url: &str) -> Result<Self, HttpError> {
        Self::build(Self::roots(base_url))
    }

    /// The same, in HTTP/1.1 alone.
    pub(super) fn for_url_in_http1(base_url: &str) -> Result<Self, HttpError> {
        Self::build(Self::roots(base_url).http1_only())
    }

    /// The same, without following any redirect: for what is sent, not asked.
    pub(super) fn for_url_without_redirects(base_url: &str) -> Result<Self, HttpError> {
        Self::build_with(Self::roots(base_url), redirect::Policy::none())
    }

    fn roots(base_url: &str) -> reqwest::ClientBuilder {
        let builder = reqwest::Client::builder();
        let plain = base_url.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://"));
        if plain { builder.tls_certs_only([]) } else { builder }
    }

    fn build(builder: reqwest::ClientBuilder) -> Result<Self, HttpError> {
        Self::build_with(builder, redirect::Policy::custom(within_origin))
    }

    fn build_with(builder: reqwest::ClientBuilder, redirects: redirect::Policy) -> Result<Self, HttpError> {
        install_tls();
        let inner = builder
            .user_agent(concat!("nightcrew/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .redirect(redirects)
            .referer(false)
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(Duration::from_secs(60))
            .build()
            .map_err(|error| HttpError::Request(format!("cannot set up HTTP: {}", chain(&error.without_url()))))?;
        Ok(Self { inner })
    }

    /// GET, and the answer read as JSON. `timeout` holds for the whole call, `cap_bytes` for the body. Cancel safe.
    ///
    /// Errors: `Status` for anything but 2xx, with the server's words cleaned of the credential.
    pub async fn get_json(
        &self,
        url: &str,
        query: &[(String, String)],
        bearer: Option<&SecretRef>,
        timeout: Duration,
        cap_bytes: usize,
    ) -> Result<Value, HttpError> {
        let mut url = parse_url(url)?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let auth = bearer.map_or(Auth::None, Auth::Bearer);
        let limits = Limits { idle: timeout, total: timeout, cap_bytes };
        let headers = vec![("accept".into(), "application/json".into())];
        let mut answer = self.send(Call { method: Method::GET, url, headers, auth, body: None, limits }).await?;
        if !(200..300).contains(&answer.status) {
            return Err(answer.refusal().await);
        }
        let mut body = Vec::new();
        while answer.more(&mut body).await? {}
        // serde_json names line and column, never the text itself.
        serde_json::from_slice(&body).map_err(|error| HttpError::NotJson(error.to_string()))
    }

    /// POST of a JSON body; the answer is returned as soon as its head is here, whatever its status. Not cancel safe: the
    /// server may have acted.
    pub async fn post_json(
        &self,
        url: &str,
        headers: &[(&'static str, &str)],
        auth: Auth<'_>,
        body: Vec<u8>,
        limits: Limits,
    ) -> Result<Answer, HttpError> {
        let mut all = vec![(Cow::from("content-type"), Cow::from("application/json"))];
        all.extend(headers.iter().map(|(name, value)| (Cow::from(*name), Cow::from(*value))));
        let (url, body) = (parse_url(url)?, Some(body.into()));
        self.send(Call { method: Method::POST, url, headers: all, auth, body, limits }).await
    }

    /// Sends one call; the answer is returned as soon as its head is here, whatever its status.
    pub(super) async fn send(&self, call: Call<'_>) -> Result<Answer, HttpError> {
        let Call { method, url, headers, auth, body, limits } = call;
        let place = origin(&url);
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let unfit = || HttpError::Request(format!("header `{name}` cannot hold this value"));
            let value = HeaderValue::from_str(&value).map_err(|_| unfit())?;
            map.insert(HeaderName::try_from(name.as_ref()).map_err(|_| unfit())?, value);
        }
        let (name, secret, shown) = match auth {
            Auth::None => (None, None, None),
            Auth::Bearer(reference) => (Some(AUTHORIZATION), Some(reference.read()?), Some(reference.name.clone())),
            Auth::Header(name, reference) => {
                (Some(HeaderName::from_static(name)), Some(reference.read()?), Some(reference.name.clone()))
            }
            Auth::Value(name, secret) => (Some(HeaderName::from_static(name)), Some(secret.clone()), None),
            Auth::Made(None, _) => (None, None, None),
            Auth::Made(Some((name, value)), _) => {
                let unfit = |_| HttpError::Request(format!("`{name}` cannot be the name of a header"));
                (Some(HeaderName::try_from(name.as_str()).map_err(unfit)?), Some(value.clone()), None)
            }
        };
        if let (Some(name), Some(secret)) = (name, &secret) {
            let prefix = if matches!(auth, Auth::Bearer(_)) { "Bearer " } else { "" };
            let mut value = HeaderValue::from_str(&format!("{prefix}{}", secret.expose())).map_err(|_| {
                let shown = shown.unwrap_or_else(|| name.to_string());
                HttpError::Credential(format!("secret `{shown}` holds characters that a header cannot carry"))
            })?;
            value.set_sensitive(true);
            map.insert(name, value);
        }
        let mut secrets: Vec<Secret> = secret.into_iter().collect();
        if let Auth::Made(_, from) = auth {
            secrets.extend_from_slice(from);
        }
        let mut request = self.inner.request(method, url).headers(map);
        if let Some(body) = body {
            request = request.body(body);
        }
        let total = Instant::now() + limits.total;
        let idle = Instant::now() + limits.idle;
        let response = match timeout_at(idle.min(total), request.send()).await {
            Err(_) => return Err(HttpError::Timeout(limits.idle.min(limits.total))),
            Ok(Err(error)) => return Err(sending(error, &place, &secrets)),
            Ok(Ok(response)) => response,
        };
        Ok(Answer { status: response.status().as_u16(), response, secrets, limits, total, received: 0 })
    }
}

/// An answer whose head is here and whose body is still coming.
pub struct Answer {
    pub status: u16,
    response: reqwest::Response,
    /// What was sent, to be taken out of what the server says.
    secrets: Vec<Secret>,
    limits: Limits,
    total: Instant,
    received: usize,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).field("received", &self.received).finish_non_exhaustive()
    }
}

impl Answer {
    /// A header of the answer, if it is readable text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// Appends the next piece of the body; `false` at its end. Cancel safe.
    pub async fn more(&mut self, into: &mut Vec<u8>) -> Result<bool, HttpError> {
        let idle = Instant::now() + self.limits.idle;
        let (deadline, limit) =
            if idle < self.total { (idle, self.limits.idle) } else { (self.total, self.limits.total) };
        let chunk = match timeout_at(deadline, self.response.chunk()).await {
            Err(_) => return Err(HttpError::Timeout(limit)),
            Ok(Err(error)) if error.is_timeout() => return Err(HttpError::Timeout(limit)),
            Ok(Err(error)) => return Err(HttpError::Broken(self.clean(&chain(&error.without_url())))),
            Ok(Ok(chunk)) => chunk,
        };
        let Some(chunk) = chunk else { return Ok(false) };
        self.received = self.received.saturating_add(chunk.len());
        if self.received > self.limits.cap_bytes {
            return Err(HttpError::TooLarge { cap: self.limits.cap_bytes });
        }
        into.extend_from_slice(&chunk);
        Ok(true)
    }

    /// The body of a refusal as text, capped and cleaned. A body that breaks off counts as far as it came.
    pub async fn refusal_text(&mut self) -> String {
        self.limits.cap_bytes = self.limits.cap_bytes.min(MESSAGE_CAP);
        let mut body = Vec::new();
        while let Ok(true) = self.more(&mut body).await {}
        self.clean(&String::from_utf8_lossy(&body))
    }

    pub(super) async fn refusal(mut self) -> HttpError {
        let after = self.retry_after();
        let text = self.refusal_text().await;
        let message = match (text.as_str(), self.response.status().canonical_reason()) {
            ("", reason) => reason.unwrap_or("no explanation").to_owned(),
            (text, _) => shorten(text),
        };
        HttpError::Status { status: self.status, message, after }
    }

    /// `retry-after-ms`, else `retry-after` as seconds or as a date. A date is held against the server's own `date`, so that
    /// a clock that is wrong here or there does no harm.
    pub fn retry_after(&self) -> Option<Duration> {
        retry_after(|name| self.header(name))
    }

    /// `text` without the credential that was sent and without control characters.
    pub fn clean(&self, text: &str) -> String {
        clean(text, &self.secrets)
    }
}

pub(super) fn retry_after<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Option<Duration> {
    if let Some(ms) = header("retry-after-ms").and_then(|v| v.trim().parse::<f64>().ok()) {
        return Duration::try_from_secs_f64(ms / 1000.0).ok();
    }
    let value = header("retry-after")?.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let until = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    let now = jiff::fmt::rfc2822::parse(header("date")?).ok()?.timestamp();
    Some(Duration::try_from(until.duration_since(now)).unwrap_or(Duration::ZERO))
}

/// The first characters of what a server said, for a message of one line.
pub fn shorten(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

fn within_origin(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let same = attempt.previous().first().is_some_and(|first| first.origin() == attempt.url().origin());
    if same && attempt.previous().len() <= MAX_REDIRECTS { attempt.follow() } else { attempt.stop() }
}

pub(super) fn parse_url(text: &str) -> Result<Url, HttpError> {
    let bad = |why: &str| HttpError::Request(format!("the address is not an HTTP URL: {why}"));
    let url = Url::parse(text).map_err(|error| bad(&error.to_string()))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        other => Err(bad(&format!("its scheme is `{other}`"))),
    }
}

/// Scheme, host and port: all of a URL that may stand in a message.
pub(super) fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

fn sending(error: reqwest::Error, place: &str, secrets: &[Secret]) -> HttpError {
    let error = error.without_url();
    let text = clean(&chain(&error), secrets);
    if error.is_connect() {
        HttpError::Connect(format!("{place}: {text}"))
    } else if error.is_builder() {
        HttpError::Request(format!("{place}: {text}"))
    } else {
        HttpError::Broken(format!("{place}: {text}"))
    }
}

/// The message of the innermost causes: the outer ones only say that a request was sent.
fn chain(error: &dyn std::error::Error) -> String {
    let mut texts = vec![error.to_string()];
    let mut source = error.source();
    while let Some(inner) = source {
        let text = inner.to_string();
        if texts.last() != Some(&text) {
            texts.push(text);
        }
        source = inner.source();
    }
    let from = texts.len().saturating_sub(2);
    texts[from..].join(": ")
}

fn clean(text: &str, secrets: &[Secret]) -> String {
    let mut text = text.to_owned();
    for secret in secrets {
        text = text.replace(secret.expose(), "[secret]");
    }
    text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_after_is_read_in_each_of_its_forms() {
        let read = |headers: &[(&str, &'static str)]| {
            retry_after(|name| headers.iter().find(|(n, _)| *n == name).map(|(_, value)| *value))
        };
        let s = Duration::from_secs;
        assert_eq!(read(&[("retry-after", "7")]), Some(s(7)));
        assert_eq!(read(&[("retry-after", "7"), ("retry-after-ms", "1500")]), Some(Duration::from_millis(1500)));
        let date = ("date", "Fri, 20 Nov 2026 08:00:00 GMT");
        assert_eq!(read(&[date, ("retry-after", "Fri, 20 Nov 2026 08:00:30 GMT")]), Some(s(30)));
        assert_eq!(read(&[date, ("retry-after", "Fri, 20 Nov 2026 07:00:00 GMT")]), Some(s(0)));
        for bad in ["", "-1", "NaN", "inf", "1e400", "soon", "Fri, 99 Nov 2026 08:00:30 GMT"] {
            assert_eq!(retry_after(|name| (name == "retry-after").then_some(bad)), None, "{bad}");
        }
    }

    #[test]
    fn an_address_that_is_no_http_url_is_refused_without_being_repeated() {
        for bad in ["ftp://user:hunter2@host/", "hunter2", "http://", "file:///hunter2"] {
            let error = parse_url(bad).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert_eq!(origin(&parse_url("https://me:hunter2@host:8443/x?key=1").unwrap()), "https://host:8443");
    }
}
