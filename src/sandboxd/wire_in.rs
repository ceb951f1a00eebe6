//! What callers of the control plane send: bodies, queries, and what of it this server cannot do.

use std::collections::BTreeMap;

use axum::body::{Body as Stream, to_bytes};
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::clients::e2b::wire::{Info, Network, NewSandbox, State};
use crate::isolation::check_egress;

use super::error::ApiError;

/// A body of the control plane is not longer, in bytes.
pub(super) const MOST_BODY: usize = 1 << 20;
/// The longest time to live that can be asked for at once, in seconds. It can be asked for again.
pub(super) const MOST_SECONDS: u32 = 24 * 60 * 60;
/// Of a list, at once.
const MOST_LISTED: usize = 100;

/// A JSON body of at most [`MOST_BODY`] bytes. None at all is as good as `{}`.
pub(super) struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request<Stream>, _: &S) -> Result<Self, ApiError> {
        let too_large = || {
            ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is larger than {MOST_BODY} bytes, or broke off"),
            )
        };
        let bytes = to_bytes(request.into_body(), MOST_BODY).await.map_err(|_| too_large())?;
        let text = if bytes.trim_ascii().is_empty() { &b"{}"[..] } else { &bytes };
        serde_json::from_slice(text).map(Self).map_err(|error| ApiError::refused(format!("the body: {error}")))
    }
}

/// What becomes of a sandbox at the end of its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lifecycle {
    /// It is paused instead of killed.
    pub pauses: bool,
    /// With its processes.
    pub keeps_memory: bool,
    /// Calls of its in-sandbox daemon resume it.
    pub resumes: bool,
}

/// `POST /v2/sandboxes`, with what only the server reads.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Asked {
    #[serde(flatten)]
    pub new: NewSandbox,
    #[serde(default, rename = "autoPauseMemory")]
    auto_pause_memory: Option<bool>,
    #[serde(default, rename = "autoResume")]
    auto_resume: Option<AutoResume>,
    #[serde(default)]
    mcp: Value,
    #[serde(default)]
    iam: Value,
    #[serde(default, rename = "volumeMounts")]
    volume_mounts: Value,
}

#[derive(Clone, Debug, Deserialize)]
struct AutoResume {
    enabled: bool,
}

impl Asked {
    /// Refuses what cannot be meant and what this server does not do. Silence would be taken for consent.
    pub fn check(&self) -> Result<Lifecycle, ApiError> {
        if let Some(seconds) = self.new.timeout {
            seconds_of(seconds)?;
        }
        if let Some(name) = self.new.env_vars.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return Err(ApiError::refused(format!("envVars: `{name}` cannot be the name of a variable")));
        }
        for (what, value) in [("mcp", &self.mcp), ("iam", &self.iam), ("volumeMounts", &self.volume_mounts)] {
            if !nothing(value) {
                return Err(ApiError::refused(format!("{what}: this sandbox server has nothing of the kind")));
            }
        }
        egress(self.new.network.as_ref())?;
        let lifecycle = Lifecycle {
            pauses: self.new.auto_pause.unwrap_or(false),
            keeps_memory: self.auto_pause_memory.unwrap_or(true),
            resumes: self.auto_resume.as_ref().is_some_and(|resume| resume.enabled),
        };
        if lifecycle.resumes && !lifecycle.keeps_memory {
            return Err(ApiError::refused(
                "autoResume needs autoPauseMemory: without memory, only an explicit call resumes",
            ));
        }
        Ok(lifecycle)
    }
}

fn nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(nothing),
        _ => false,
    }
}

/// A time to live in seconds, which is to be used.
pub(super) fn seconds_of(seconds: u32) -> Result<u32, ApiError> {
    match seconds {
        0 => Err(ApiError::refused("timeout: a sandbox that ends at once is of no use")),
        1..=MOST_SECONDS => Ok(seconds),
        _ => Err(ApiError::refused(format!("timeout: at most {MOST_SECONDS} seconds at once"))),
    }
}

/// The hosts that a sandbox may reach. All others it cannot: this server has no open network to give.
pub(super) fn egress(network: Option<&Network>) -> Result<Vec<String>, ApiError> {
    let Some(network) = network else { return Ok(Vec::new()) };
    for what in ["rules", "egressProxy", "maskRequestHost"] {
        if !network.more.0.get(what).is_none_or(nothing) {
            return Err(ApiError::refused(format!("network.{what}: this sandbox server has nothing of the kind")));
        }
    }
    if network.allow_out.iter().any(|entry| entry.ends_with("/0")) {
        return Err(ApiError::refused("network.allowOut: this sandbox server gives no open network; name the hosts"));
    }
    check_egress(&network.allow_out).map_err(|why| ApiError::refused(format!("network.allowOut: {why}")))?;
    Ok(network.allow_out.clone())
}

/// `PUT /sandboxes/{id}/network`: what stands nowhere is given up.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct NewNetwork {
    #[serde(flatten)]
    pub network: Network,
}

impl NewNetwork {
    pub fn check(&self) -> Result<Vec<String>, ApiError> {
        egress(Some(&self.network))
    }
}

/// `connect` and the older `resume`.
#[derive(Debug, Deserialize)]
pub(super) struct Connect {
    pub timeout: Option<u32>,
    /// `false`: begin anew from its files.
    pub memory: Option<bool>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Timeout {
    pub timeout: u32,
}

#[derive(Debug, Deserialize)]
pub(super) struct Refresh {
    pub duration: Option<u32>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Pause {
    /// `false`: its processes end, its files stay.
    pub memory: Option<bool>,
}

/// What of a query stands in `name=value`, decoded.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub fn new(query: Option<&str>) -> Self {
        Self(pairs(query.unwrap_or_default()))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// Values that are separated by commas, given once or more often.
    pub fn list(&self, name: &str) -> Vec<&str> {
        let given = self.0.iter().filter(|(key, _)| key == name);
        given.flat_map(|(_, value)| value.split(',')).filter(|value| !value.is_empty()).collect()
    }

    pub fn number<N: std::str::FromStr>(&self, name: &str) -> Result<Option<N>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| ApiError::refused(format!("{name}: `{text}` is no such number")))
    }
}

fn pairs(text: &str) -> Vec<(String, String)> {
    let split = |part: &str| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        (unescape(key), unescape(value))
    };
    text.split('&').filter(|part| !part.is_empty()).map(split).collect()
}

/// Undoes the encoding of forms. What is no escape stands for itself.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = hex.filter(|hex| !hex.starts_with('+')).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        (rest, bytes) = match (first, escaped) {
            (b'%', Some(byte)) => (&after[2..], push(bytes, byte)),
            (b'+', _) => (after, push(bytes, b' ')),
            (other, _) => (after, push(bytes, *other)),
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn push(mut bytes: Vec<u8>, byte: u8) -> Vec<u8> {
    bytes.push(byte);
    bytes
}

/// Which sandboxes a list is about, in which order, and where it goes on.
#[derive(Debug)]
pub(super) struct Listing {
    metadata: BTreeMap<String, String>,
    states: Vec<State>,
    template: Option<String>,
    started_after: Option<Timestamp>,
    oldest_first: bool,
    limit: usize,
    /// The last of the page before.
    after: Option<(i128, String)>,
}

impl Listing {
    /// As `GET /v2/sandboxes` has it.
    pub fn new(query: &Query) -> Result<Self, ApiError> {
        // Keys and values are encoded by themselves, then as a form, then as a part of the query: that is how all clients do it.
        let metadata = pairs(query.get("metadata").unwrap_or_default());
        let state = |name: &&str| match *name {
            "running" => Ok(State::Running),
            "paused" => Ok(State::Paused),
            other => Err(ApiError::refused(format!("state: `{other}` is neither running nor paused"))),
        };
        let states = query.list("state").iter().map(state).collect::<Result<Vec<_>, _>>()?;
        let oldest_first = match query.get("order") {
            None | Some("desc") => false,
            Some("asc") => true,
            Some(other) => return Err(ApiError::refused(format!("order: `{other}` is neither asc nor desc"))),
        };
        let moment = |text: &str| {
            text.parse().map_err(|_| ApiError::refused(format!("startedAfter: `{text}` is no such moment")))
        };
        let token = |text: &str| {
            let (at, id) = text.split_once('-')?;
            Some((at.parse().ok()?, id.to_owned()))
        };
        let token = |text: &str| token(text).ok_or_else(|| ApiError::refused("nextToken: it is not one of ours"));
        let limit = query.number("limit")?.unwrap_or(MOST_LISTED);
        if !(1..=MOST_LISTED).contains(&limit) {
            return Err(ApiError::refused(format!("limit: from 1 to {MOST_LISTED}")));
        }
        Ok(Self {
            metadata: metadata.iter().map(|(key, value)| (unescape(key), unescape(value))).collect(),
            states: if states.is_empty() { vec![State::Running, State::Paused] } else { states },
            template: query.get("template").map(str::to_owned),
            started_after: query.get("startedAfter").map(moment).transpose()?,
            oldest_first,
            limit,
            after: query.get("nextToken").map(token).transpose()?,
        })
    }

    /// As the older `GET /sandboxes` has it: what runs, all at once.
    pub fn old(query: &Query) -> Result<Self, ApiError> {
        Ok(Self { states: vec![State::Running], limit: usize::MAX, after: None, ..Self::new(query)? })
    }

    /// One page of `all`, the token of the next one, and how many run of all pages together, where running ones were asked for.
    pub fn page(&self, all: Vec<Info>) -> (Vec<Info>, Option<String>, Option<usize>) {
        let fits = |info: &Info| {
            let of_template = |name: &String| *name == info.template_id || info.alias.as_ref() == Some(name);
            self.states.contains(&info.state)
                && self.started_after.is_none_or(|after| info.started_at >= after)
                && self.template.as_ref().is_none_or(of_template)
                && self.metadata.iter().all(|(key, value)| info.metadata.get(key) == Some(value))
        };
        let mut fitting: Vec<Info> = all.into_iter().filter(fits).collect();
        let running = fitting.iter().filter(|info| info.state == State::Running).count();
        let running = self.states.contains(&State::Running).then_some(running);
        fitting.sort_by_cached_key(place);
        if !self.oldest_first {
            fitting.reverse();
        }
        if let Some(after) = &self.after {
            fitting.retain(|info| if self.oldest_first { place(info) > *after } else { place(info) < *after });
        }
        let more = fitting.len() > self.limit;
        fitting.truncate(self.limit);
        let next = fitting.last().filter(|_| more).map(|info| format!("{}-{}", place(info).0, info.sandbox_id));
        (fitting, next, running)
    }
}

/// Where a sandbox stands in a list: no two at the same place.
fn place(info: &Info) -> (i128, String) {
    (info.started_at.as_nanosecond(), info.sandbox_id.clone())
}

/// The key of a request that may be sent again.
pub(super) fn idempotency_key(text: &str) -> Result<&str, ApiError> {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    match (1..=255).contains(&text.len()) && text.bytes().all(plain) {
        true => Ok(text),
        false => Err(ApiError::refused("Idempotency-Key: 1 to 255 of a-z, 0-9 and `-`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(id: &str, second: i64, pairs: &[(&str, &str)]) -> Info {
        let started_at = Timestamp::from_second(second).unwrap();
        serde_json::from_value(serde_json::json!({
            "templateID": "base", "sandboxID": id, "startedAt": started_at, "endAt": started_at, "state": "running", "cpuCount": 1,
            "memoryMB": 1, "diskSizeMB": 1, "envdVersion": "0.6.4", "metadata": pairs.iter().copied().collect::<BTreeMap<_, _>>(),
        }))
        .unwrap()
    }

    fn listing(query: &str) -> Listing {
        Listing::new(&Query::new(Some(query))).unwrap()
    }

    #[test]
    fn metadata_is_understood_as_the_sdks_encode_it() {
        // Python: urlencode({quote("a b"): quote("c+d&e=ü")}), which httpx encodes once more.
        let all = || vec![info("x", 1, &[("a b", "c+d&e=ü")]), info("y", 1, &[("a b", "other")])];
        let (page, ..) = listing("metadata=a%252520b%3Dc%25252Bd%252526e%25253D%2525C3%2525BC").page(all());
        assert_eq!(page.iter().map(|i| &i.sandbox_id[..]).collect::<Vec<_>>(), ["x"]);
        // Simple values need only the outermost.
        let all = vec![info("x", 1, &[("user", "a"), ("app", "b")]), info("y", 1, &[("user", "a")])];
        assert_eq!(listing("metadata=user%3Da%26app%3Db").page(all).0.len(), 1);
        assert_eq!((&unescape("%zz%4")[..], &unescape("100%")[..], &unescape("a+b%2b")[..]), ("%zz%4", "100%", "a b+"));
    }

    #[test]
    fn pages_cover_everything_once_in_either_order() {
        let all: Vec<Info> = (0..25).map(|n| info(&format!("i{n}"), n / 3, &[])).collect();
        for order in ["asc", "desc"] {
            let (mut seen, mut token) = (Vec::new(), String::new());
            loop {
                let (page, next, running) =
                    listing(&format!("limit=4&order={order}&nextToken={token}")).page(all.clone());
                assert_eq!(running, Some(25));
                seen.extend(page.into_iter().map(|info| place(&info)));
                match next {
                    Some(next) => token = next,
                    None => break,
                }
            }
            let mut expected: Vec<_> = all.iter().map(place).collect();
            expected.sort();
            if order == "desc" {
                expected.reverse();
            }
            assert_eq!(seen, expected);
        }
    }

    #[test]
    fn what_this_server_does_not_do_is_refused_and_not_forgotten() {
        let asked = |more: serde_json::Value| {
            let mut body = serde_json::json!({"templateID": "base"});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            serde_json::from_value::<Asked>(body).unwrap().check().map_err(|error| error.message)
        };
        use serde_json::json;
        assert!(asked(json!({"network": {"rules": {}, "egressProxy": null, "something": 1}})).is_ok());
        assert!(asked(json!({"mcp": null, "iam": {"tokens": {}}, "volumeMounts": [], "timeout": 1})).is_ok());
        for more in [
            json!({"timeout": 0}),
            json!({"timeout": 86401}),
            json!({"mcp": {"x": {"y": 1}}}),
            json!({"volumeMounts": [{"name": "a", "path": "/b"}]}),
            json!({"network": {"allowOut": ["0.0.0.0/0"]}}),
            json!({"network": {"allowOut": ["not a host"]}}),
            json!({"network": {"rules": {"a.example": [{"transform": {"headers": {"x": "y"}}}]}}}),
            json!({"network": {"egressProxy": "socks5://me:hunter2@proxy.example"}}),
            json!({"network": {"maskRequestHost": "x.example"}}),
            json!({"envVars": {"A=B": "c"}}),
            json!({"autoPause": true, "autoPauseMemory": false, "autoResume": {"enabled": true}}),
        ] {
            assert!(asked(more.clone()).is_err(), "{more}");
        }
        assert!(idempotency_key("0a-").is_ok() && idempotency_key("A").is_err() && idempotency_key("").is_err());
    }
}
