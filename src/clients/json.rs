//! GET of JSON from a service that the configuration names, shown who asks as it wants it, page by page.
//!
//! Every credential passes [`Credentials`]: what the service refused once is not sent again. Everybody who reads from one address
//! keeps the pause that it asks for. What it does not do: follow anything to another origin, or repeat a call.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::Method;
pub use reqwest::Url;
use serde_json::Value;

use super::credentials::{Credential, CredentialError, Credentials};
use super::http::{Answer, Auth, Call, Client, HttpError, Limits, origin, parse_url};
use super::link;
use crate::base::base64::base64;
use crate::base::env::Env;
use crate::base::secret::Secret;
use crate::ports::service::Outside;
use crate::ports::source::SourceAuth;

/// One address. Cheap to clone; all of one process share connections and pauses.
#[derive(Clone, Debug)]
pub struct Service {
    base: Url,
    auth: SourceAuth,
    client: Client,
    credentials: Credentials,
    env: Env,
    pause: Arc<Pause>,
    /// Sent with each call.
    headers: Vec<(&'static str, &'static str)>,
}

/// Until when the service wants to be left alone.
#[derive(Debug, Default)]
struct Pause(Mutex<Option<Timestamp>>);

/// One page.
#[derive(Debug)]
pub struct Page {
    pub json: Value,
    /// The size of the answer.
    pub bytes: usize,
    /// Where `Link` says the next one is.
    pub next: Option<Url>,
    url: Url,
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// The secret cannot be read, or was refused before. Nothing was sent.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// 401: the service does not take this secret.
    #[error("HTTP 401: {message}")]
    Refused { secret: String, message: String },
    /// The service wants a pause that is longer than a call may wait. Nothing was sent.
    #[error("it wants no requests for {after:?}")]
    Limited { after: Duration },
    /// The next page is elsewhere.
    #[error("the next page is at another origin ({0}): nothing was sent there")]
    Elsewhere(String),
    #[error(transparent)]
    Http(#[from] HttpError),
}

/// The longest pause that a call waits for by itself.
const PATIENCE: Duration = Duration::from_secs(60);

impl Service {
    /// For this address. Contacts nothing. Errors: it is no address, or TLS cannot be set up.
    pub fn new(base: &str, auth: SourceAuth, outside: &Outside) -> Result<Self, HttpError> {
        let url = parse_url(base)?;
        let place = origin(&url);
        let client = outside.shared.get_or_make(&format!("http {place}"), || Client::for_url(base))?;
        let pause =
            outside.shared.get_or_make::<Pause, HttpError>(&format!("pause {place}"), || Ok(Pause::default()))?;
        let credentials = Credentials::of(&outside.shared);
        Ok(Self {
            base: url,
            auth,
            client: (*client).clone(),
            credentials,
            env: outside.env.clone(),
            pause,
            headers: Vec::new(),
        })
    }

    /// The same, with a header that every call needs.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The address of `path` below the service's own, which is kept as it is: both are joined as text.
    ///
    /// Errors: the path could name something that is not below it.
    pub fn below(&self, path: &str) -> Result<Url, String> {
        if path.is_empty() {
            return Ok(self.base.clone());
        }
        let bad = || format!("`{path}` is not a path below the source's address: begin with one `/`, without `..`");
        let climbs = path.split(['/', '\\', '?']).any(|part| {
            let part = part.to_ascii_lowercase().replace("%2e", ".");
            part == ".." || part == "."
        });
        let lower = path.to_ascii_lowercase();
        if !path.starts_with('/')
            || path.starts_with("//")
            || climbs
            || lower.contains("%2f..")
            || path.contains(['#', '\\', '\n'])
        {
            return Err(bad());
        }
        let url = Url::parse(&format!("{}{path}", self.base.as_str().trim_end_matches('/'))).map_err(|_| bad())?;
        if url.origin() == self.base.origin() { Ok(url) } else { Err(bad()) }
    }

    /// The name of the secret that is sent.
    pub fn secret(&self) -> Option<&str> {
        self.auth.secret().map(|secret| secret.name.as_str())
    }

    /// One page. `name` is the service for people, when it refuses the secret. Waits while the service wants a pause. Cancel safe.
    pub async fn get(
        &self,
        name: &str,
        url: &Url,
        query: &[(String, String)],
        limits: Limits,
    ) -> Result<Page, JsonError> {
        self.wait().await?;
        let credential = self.auth.secret().map(|secret| self.credentials.take(secret)).transpose()?;
        let mut url = url.clone();
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let shown = url.clone();
        let signed = self.sign(credential.as_ref(), &mut url);
        let auth = Auth::Made(signed.header.as_ref(), &signed.hidden);
        let own = self.headers.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let headers = std::iter::once(("accept".into(), "application/json".into())).chain(own).collect();
        let call = Call { method: Method::GET, url, headers, auth, body: None, limits };
        let mut answer = self.client.send(call).await?;
        self.heed(&answer);
        if !(200..300).contains(&answer.status) {
            let refusal = answer.refusal().await;
            return Err(match (&refusal, &credential) {
                (HttpError::Status { status: 401, message, .. }, Some(credential)) => {
                    credential.refused(name, &format!("HTTP 401: {message}"));
                    JsonError::Refused { secret: credential.name().to_owned(), message: message.clone() }
                }
                _ => JsonError::Http(refusal),
            });
        }
        let link = answer.header("link").and_then(next_link);
        let next = link.map(|link| self.beside(&shown, &link)).transpose()?;
        let mut body = Vec::new();
        while answer.more(&mut body).await? {}
        // serde_json names line and column, never the text itself.
        let json = serde_json::from_slice(&body).map_err(|error| HttpError::NotJson(error.to_string()))?;
        Ok(Page { json, bytes: body.len(), next, url: shown })
    }

    /// An address that `page` gave, which may be relative. Errors: another origin.
    pub fn after(&self, page: &Page, address: &str) -> Result<Url, JsonError> {
        self.beside(&page.url, address)
    }

    fn beside(&self, page: &Url, address: &str) -> Result<Url, JsonError> {
        let elsewhere = |place: String| JsonError::Elsewhere(super::http::shorten(&place));
        let mut url = page.join(address).map_err(|error| elsewhere(error.to_string()))?;
        if url.origin() != self.base.origin() || !url.username().is_empty() || url.password().is_some() {
            return Err(elsewhere(origin(&url)));
        }
        // A service repeats the address as it was asked, and with it the credential, which comes again by itself.
        if let SourceAuth::Query { name, .. } = &self.auth {
            let kept: Vec<(String, String)> = url.query_pairs().into_owned().filter(|(key, _)| key != name).collect();
            url.set_query(None);
            if !kept.is_empty() {
                url.query_pairs_mut().extend_pairs(kept);
            }
        }
        Ok(url)
    }

    fn sign(&self, credential: Option<&Credential>, url: &mut Url) -> Signed {
        let Some(credential) = credential else { return Signed::default() };
        let value = credential.value().expose();
        let header = |name: &str, text: String| Some((name.to_owned(), Secret::new(text)));
        let mut hidden = vec![credential.value().clone()];
        let header = match &self.auth {
            SourceAuth::None => None,
            SourceAuth::Bearer(_) => header("authorization", format!("Bearer {value}")),
            SourceAuth::Basic(_) => {
                let pair = base64(value.as_bytes());
                hidden.push(Secret::new(pair.clone()));
                hidden.extend(
                    value.split_once(':').filter(|(_, word)| word.len() > 3).map(|(_, word)| Secret::new(word)),
                );
                header("authorization", format!("Basic {pair}"))
            }
            SourceAuth::Header { name, .. } => header(name, value.to_owned()),
            SourceAuth::Query { name, .. } => {
                url.query_pairs_mut().append_pair(name, value);
                let written = url.query().and_then(|query| query.rsplit_once('=')).map(|(_, value)| value.to_owned());
                hidden.extend(written.map(Secret::new));
                None
            }
        };
        Signed { header, hidden }
    }

    /// What the service says about its limits.
    fn heed(&self, answer: &Answer) {
        let limited = matches!(answer.status, 429 | 503);
        let asked = answer.retry_after().filter(|_| limited);
        let used_up = ["x-ratelimit-remaining", "ratelimit-remaining"]
            .into_iter()
            .any(|name| answer.header(name).and_then(|left| left.trim().parse::<f64>().ok()) == Some(0.0));
        let until_reset = || {
            let reset = ["x-ratelimit-reset", "ratelimit-reset"].into_iter().find_map(|name| answer.header(name))?;
            let reset = reset.trim().parse::<f64>().ok().filter(|reset| *reset >= 0.0)?;
            // Seconds to go, or seconds since 1970.
            let seconds = if reset > 1e9 { reset - self.env.now().as_second() as f64 } else { reset };
            Duration::try_from_secs_f64(seconds.max(0.0)).ok()
        };
        let pause = asked.or_else(|| used_up.then(until_reset).flatten());
        let Some(until) = pause.and_then(|pause| self.env.now().checked_add(pause).ok()) else { return };
        let mut known = self.pause.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some(known.map_or(until, |known| known.max(until)));
    }

    async fn wait(&self) -> Result<(), JsonError> {
        loop {
            let until = *self.pause.0.lock().unwrap_or_else(PoisonError::into_inner);
            let left = until.map(|until| until.duration_since(self.env.now()));
            let Some(left) = left.and_then(|left| Duration::try_from(left).ok()).filter(|left| !left.is_zero()) else {
                return Ok(());
            };
            if left > PATIENCE {
                return Err(JsonError::Limited { after: left });
            }
            self.env.clock.sleep(left).await;
        }
    }
}

/// What shows who asks.
#[derive(Default)]
struct Signed {
    header: Option<(String, Secret)>,
    /// Taken out of everything that is said about the call.
    hidden: Vec<Secret>,
}

/// The target of the next page, unless the link says that it has no results (as Sentry's do).
fn next_link(header: &str) -> Option<String> {
    let next = link::next(header)?;
    (next.param("results") != Some("false")).then(|| next.target.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(base: &str) -> Service {
        Service::new(base, SourceAuth::None, &Outside::none(Env::system())).unwrap()
    }

    #[test]
    fn a_path_stays_below_the_configured_address() {
        let below = |base: &str, path: &str| service(base).below(path).map(|url| url.to_string());
        assert_eq!(below("https://shop/api/", "/v1/x?y=1"), Ok("https://shop/api/v1/x?y=1".into()));
        assert_eq!(below("https://shop", ""), Ok("https://shop/".into()));
        for bad in ["v1", "//evil/x", "/a/../b", "/a/%2E%2e/b", "/a\\b", "@evil/", "/a#b", "/a/.."] {
            assert!(below("https://shop", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_next_page_is_found_in_a_link_header() {
        for (header, next) in [
            (r#"<https://h/a?p=2>; rel="next", <https://h/a?p=9>; rel="last""#, Some("https://h/a?p=2")),
            (r#"<https://h/a?p=1>; rel="prev first", </a?p=3>; rel="Next""#, Some("/a?p=3")),
            (r#"<https://h/a,b?x=1>; title="a, b; c"; rel=next"#, Some("https://h/a,b?x=1")),
            (
                r#"<https://h/a>; rel="previous"; results="false", <https://h/b>; rel="next"; results="true""#,
                Some("https://h/b"),
            ),
            (r#"<https://h/b>; rel="next"; results="false"; cursor="0:100:0""#, None),
            (r#"<https://h/b>; rel="nextish""#, None),
            ("<https://h/b", None),
            ("", None),
        ] {
            assert_eq!(next_link(header).as_deref(), next, "{header}");
        }
    }

    #[test]
    fn a_next_page_elsewhere_is_refused() {
        let service = service("https://shop:8443/api");
        let page = service.below("/v1/x?a=1").unwrap();
        let beside = |address: &str| service.beside(&page, address).map(|url| url.to_string()).ok();
        assert_eq!(beside("?a=2").as_deref(), Some("https://shop:8443/api/v1/x?a=2"));
        assert_eq!(beside("/other").as_deref(), Some("https://shop:8443/other"));
        for bad in ["https://shop/api", "http://shop:8443/api", "//evil/", "https://a:b@shop:8443/", "javascript:x"] {
            assert_eq!(beside(bad), None, "{bad}");
        }
    }
}
