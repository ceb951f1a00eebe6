//! The control plane: sandboxes, from their making to their end.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::{Method, Url};
use serde::Serialize;
use serde_json::json;

use crate::clients::http::{Auth, parse_url};

use super::call::{ANSWER_CAP, Payload, Plan, Reply, Resend, Wait};
use super::error::{Error, Plane};
use super::wire::{Created, Info, Network, NewSandbox, Report, State};
use super::{Cloud, Envd, Key};

/// For one call with all its tries, as E2B's clients have it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Pages of a list that are followed, against a server that never ends it.
const MOST_PAGES: usize = 1000;

/// A call of the control plane.
pub(super) struct Ask<'a> {
    pub method: Method,
    /// Below the base, each encoded.
    pub path: &'a [&'a str],
    pub query: Vec<(&'static str, String)>,
    pub headers: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    pub body: Option<Vec<u8>>,
    pub resend: Resend,
}

impl<'a> Ask<'a> {
    pub fn new(method: Method, path: &'a [&'a str], resend: Resend) -> Self {
        Self { method, path, query: Vec::new(), headers: Vec::new(), body: None, resend }
    }

    pub fn json(mut self, body: &impl Serialize) -> Result<Self, Error> {
        self.body = Some(encoded(body)?);
        Ok(self)
    }
}

pub(super) fn encoded(body: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(body).map_err(|error| Error::Request(error.to_string()))
}

/// `base` with segments below it, each encoded, so that a name with a slash or a dot stays one of them.
pub(super) fn below(base: &str, path: &[&str]) -> Result<Url, Error> {
    let mut url = parse_url(base)?;
    url.set_query(None);
    url.path_segments_mut()
        .map_err(|()| Error::Request("the address cannot have a path".into()))?
        .pop_if_empty()
        .extend(path);
    // `.` and `..` are taken away by the parser, and another place would be asked.
    let given = url.path_segments().map_or(0, Iterator::count);
    let own = parse_url(base)?.path_segments().map_or(0, |all| all.filter(|segment| !segment.is_empty()).count());
    if given != own + path.len() || path.iter().any(|segment| segment.is_empty()) {
        return Err(Error::Request("a name is missing or cannot stand in an address".into()));
    }
    Ok(url)
}

impl Cloud {
    pub(super) fn auth(&self) -> Auth<'_> {
        match &self.endpoint.key {
            Key::Kept(reference) => Auth::Header("x-api-key", reference),
            Key::Given(secret) => Auth::Value("x-api-key", secret),
        }
    }

    pub(super) async fn ask(&self, ask: Ask<'_>) -> Result<Reply, Error> {
        let Ask { method, path, query, mut headers, body, resend } = ask;
        let mut url = below(&self.endpoint.api_url, path)?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        if body.is_some() {
            headers.push(("content-type".into(), "application/json".into()));
        }
        let (auth, body, wait) = (self.auth(), body.map_or(Payload::None, Payload::from), Wait::Whole(REQUEST_TIMEOUT));
        self.caller
            .whole(Plan {
                plane: Plane::Control,
                resend,
                method,
                url,
                headers,
                auth,
                body,
                wait,
                cap_bytes: ANSWER_CAP,
            })
            .await
    }

    /// Makes a sandbox; it runs when this returns. `timeout` in `asked` is its lifetime in seconds from now.
    ///
    /// It is sent again, after a lost answer too, with the same key, so that one sandbox comes of it. Not cancel safe: what was
    /// made is found by its metadata.
    ///
    /// Errors: `Request` where the key has other characters than `a-z0-9-` or more than 255.
    pub async fn create(&self, asked: &NewSandbox, idempotency_key: &str) -> Result<Created, Error> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !(1..=255).contains(&idempotency_key.len()) || !idempotency_key.bytes().all(fits) {
            return Err(Error::Request("an idempotency key is 1 to 255 of `a-z`, `0-9`, `-`".into()));
        }
        let mut ask = Ask::new(Method::POST, &["v2", "sandboxes"], Resend::Safe).json(asked)?;
        ask.headers.push(("idempotency-key".into(), idempotency_key.into()));
        self.ask(ask).await?.json()
    }

    /// Finds a sandbox, resumes it if it is paused, and lets it live at least `timeout` seconds from now.
    pub async fn connect(&self, id: &str, timeout: u32) -> Result<Created, Error> {
        let path = ["v2", "sandboxes", id, "connect"];
        let ask = Ask::new(Method::POST, &path, Resend::Safe).json(&json!({ "timeout": timeout }))?;
        self.ask(ask).await?.json()
    }

    pub async fn info(&self, id: &str) -> Result<Info, Error> {
        self.ask(Ask::new(Method::GET, &["sandboxes", id], Resend::Safe)).await?.json()
    }

    /// Every sandbox that has all of `metadata` and is in one of `states` (empty: in any). Follows the pages.
    pub async fn list(&self, metadata: &BTreeMap<String, String>, states: &[State]) -> Result<Vec<Info>, Error> {
        let mut all = Vec::new();
        let mut next = None;
        for _ in 0..MOST_PAGES {
            let mut ask = Ask::new(Method::GET, &["v2", "sandboxes"], Resend::Safe);
            if !metadata.is_empty() {
                ask.query.push(("metadata", filter(metadata)));
            }
            if !states.is_empty() {
                let names: Vec<&str> = states.iter().map(State::name).collect();
                ask.query.push(("state", names.join(",")));
            }
            if let Some(token) = next.take() {
                ask.query.push(("nextToken", token));
            }
            let reply = self.ask(ask).await?;
            all.extend(reply.json::<Vec<Info>>()?);
            next = reply.next;
            if next.is_none() {
                return Ok(all);
            }
        }
        Err(Error::Protocol { message: format!("the list of sandboxes has more than {MOST_PAGES} pages") })
    }

    /// Ends a sandbox, with all in it. `false`: there was none, or an earlier try of this call whose answer was lost ended it.
    pub async fn kill(&self, id: &str) -> Result<bool, Error> {
        match self.ask(Ask::new(Method::DELETE, &["sandboxes", id], Resend::Safe)).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sets the sandbox's end to `seconds` from now, whether that is later or earlier.
    pub async fn set_timeout(&self, id: &str, seconds: u32) -> Result<(), Error> {
        let path = ["sandboxes", id, "timeout"];
        let ask = Ask::new(Method::POST, &path, Resend::Safe).json(&json!({ "timeout": seconds }))?;
        self.ask(ask).await.map(drop)
    }

    /// `false`: it was paused already.
    pub async fn pause(&self, id: &str) -> Result<bool, Error> {
        let path = ["sandboxes", id, "pause"];
        match self.ask(Ask::new(Method::POST, &path, Resend::Safe).json(&json!({}))?).await {
            Ok(_) => Ok(true),
            Err(Error::Rejected { status: 409, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Wakes a paused sandbox, and lets it live at least `timeout` seconds from now.
    pub async fn resume(&self, id: &str, timeout: u32) -> Result<Created, Error> {
        self.connect(id, timeout).await
    }

    /// Replaces what the sandbox may reach, whole.
    pub async fn set_network(&self, id: &str, network: &Network, allow_internet_access: bool) -> Result<(), Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            allow_out: &'a [String],
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            deny_out: &'a [String],
            #[serde(rename = "allow_internet_access")]
            allow_internet_access: bool,
        }
        let body = Body { allow_out: &network.allow_out, deny_out: &network.deny_out, allow_internet_access };
        let path = ["sandboxes", id, "network"];
        self.ask(Ask::new(Method::PUT, &path, Resend::Safe).json(&body)?).await.map(drop)
    }

    /// How our own server confines; `None` where another one answers.
    pub async fn report(&self) -> Result<Option<Report>, Error> {
        match self.ask(Ask::new(Method::GET, &["nightcrew", "report"], Resend::Safe)).await {
            Ok(reply) => reply.json().map(Some),
            Err(Error::NotFound { .. } | Error::Rejected { status: 405, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The daemon of a sandbox. Contacts nothing.
    pub fn envd(&self, sandbox: &Created) -> Result<Envd, Error> {
        Envd::new(self, sandbox)
    }
}

/// `k=v&k2=v2` with both encoded twice, as E2B's clients write it: the server decodes the list, then its parts.
fn filter(metadata: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (name, value) in metadata {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(&twice(name));
        text.push('=');
        text.push_str(&twice(value));
    }
    text
}

fn twice(text: &str) -> String {
    // What is encoded once holds only `%`, and characters that stay as they are.
    percent(text).replace('%', "%25")
}

/// Percent encoding of all but letters, digits and `-._~`.
fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
