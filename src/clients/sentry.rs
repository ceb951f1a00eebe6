//! Sentry's REST API (`/api/0/`): issues, their latest event, and what a person would do with them: comment, assign, resolve.
//!
//! Reads are repeated with growing pauses, and as late as the server asks; a write is sent once, and when its end is not known the
//! caller looks before it sends again. One limit that was hit holds back every call of the process. The token is read at each use.
//! Source: <https://docs.sentry.io/api/>, and `getsentry/sentry-api-schema` as read in August 2026; comments (`/comments/`) are
//! in Sentry's `urls.py` and not in the schema.

mod hook;

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};

use super::http::{Answer, Auth, Call, Client, HttpError, Limits, parse_url};
use super::link;
use crate::base::env::Env;
use crate::base::retry::{Backoff, Retry};
use crate::base::secret::SecretRef;
use crate::ports::service::Outside;

pub use hook::{HOOK_WINDOW, is_fresh, is_signed};

/// Where Sentry is when nothing is said.
const DEFAULT_URL: &str = "https://sentry.io";
/// Sentry gives no more issues at once.
const PAGE: usize = 100;
/// A list that goes on longer is cut off.
const MOST_PAGES: usize = 50;
const LIMITS: Limits =
    Limits { idle: Duration::from_secs(20), total: Duration::from_secs(60), cap_bytes: 24 * 1024 * 1024 };
/// How long a read is repeated.
const PAUSES: Backoff =
    Backoff { first: Duration::from_secs(1), most: Duration::from_secs(20), total: Duration::from_secs(90) };

/// How a call ended without an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SentryError {
    /// Nothing is configured, or a secret cannot be read.
    #[error("{message}")]
    Missing { message: String, help: String },
    /// 401: this secret is not taken any more.
    #[error("Sentry refuses the secret `{secret}`: {message}")]
    Credential { secret: String, message: String },
    /// 403: the token has not this scope.
    #[error("Sentry does not allow it, the token needs `{scope}`: {message}")]
    Forbidden { scope: &'static str, message: String },
    #[error("Sentry knows no {what}")]
    NotFound { what: String },
    /// 400 and its like: the question is wrong.
    #[error("Sentry does not take it: {message}")]
    Invalid { message: String },
    /// It did not answer, or limits us; nothing was done, or it was a read. `after`: as it asks.
    #[error("Sentry does not answer: {message}")]
    Unavailable { message: String, after: Option<Duration> },
    /// A write whose end is not known: look before it is sent again.
    #[error("Sentry did not say how it ended: {message}")]
    Ambiguous { message: String },
}

/// Which issues to list.
#[derive(Clone, Copy, Debug)]
pub struct IssueQuery<'a> {
    /// In Sentry's own language; empty: all.
    pub query: &'a str,
    /// Slug or id.
    pub project: &'a str,
    pub environments: &'a [String],
    /// `14d`, `24h`
    pub period: &'a str,
}

/// A page of a list, and the cursor of the next if there is one.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    pub items: Vec<Value>,
    pub next: Option<String>,
}

/// The client. One for each address and credential.
#[derive(Debug)]
pub struct Sentry {
    http: Client,
    env: Env,
    base: String,
    organization: String,
    token: SecretRef,
    /// Nothing is sent before this moment: a limit was hit.
    closed_until: Mutex<Timestamp>,
}

impl Sentry {
    /// The client for `services.sentry`, shared by the process. Contacts nothing.
    ///
    /// Errors: `Missing` without token or organization.
    pub fn of(outside: &Outside) -> Result<std::sync::Arc<Self>, SentryError> {
        let missing = |message: &str| SentryError::Missing {
            message: message.into(),
            help: "services: {sentry: {organization: acme, token: secret:SENTRY}}, see nightcrew connect sentry".into(),
        };
        let service = outside.services.sentry.as_ref().ok_or_else(|| missing("Sentry is not configured"))?;
        let token = service.secret("token").ok_or_else(|| missing("`services.sentry` has no token"))?;
        let organization =
            service.setting("organization").ok_or_else(|| missing("`services.sentry` names no organization"))?;
        if !is_plain(organization) {
            return Err(missing("`services.sentry.organization` is no slug"));
        }
        let base = service.setting("base_url").unwrap_or(DEFAULT_URL).trim_end_matches('/').to_owned();
        let key = format!("sentry {base} {organization} {token:?}");
        outside.shared.get_or_make(&key, || {
            Ok(Self {
                http: Client::for_url(&base)
                    .map_err(|error| SentryError::Unavailable { message: error.to_string(), after: None })?,
                env: outside.env.clone(),
                base,
                organization: organization.to_owned(),
                token: token.clone(),
                closed_until: Mutex::new(Timestamp::MIN),
            })
        })
    }

    /// One page of issues, the one seen last first. Cancel safe.
    pub async fn issues_page(&self, ask: IssueQuery<'_>, cursor: Option<&str>) -> Result<Page, SentryError> {
        let mut query: Vec<(&str, String)> = vec![
            ("query", ask.query.to_owned()),
            ("project", ask.project.to_owned()),
            ("statsPeriod", ask.period.to_owned()),
            ("sort", "date".into()),
            ("limit", PAGE.to_string()),
            ("collapse", "stats".into()),
        ];
        query.extend(ask.environments.iter().map(|name| ("environment", name.clone())));
        query.extend(cursor.map(|cursor| ("cursor", cursor.to_owned())));
        let what = format!("project `{}`", ask.project);
        self.page("issues/", &query, &what).await
    }

    /// Issues, the one seen last first, at most `most`; true: there are more. Cancel safe.
    pub async fn issues(&self, ask: IssueQuery<'_>, most: usize) -> Result<(Vec<Value>, bool), SentryError> {
        let (mut found, mut cursor) = (Vec::new(), None::<String>);
        for _ in 0..MOST_PAGES {
            let page = self.issues_page(ask, cursor.as_deref()).await?;
            found.extend(page.items);
            if found.len() > most {
                found.truncate(most);
                return Ok((found, true));
            }
            match page.next {
                // A cursor that does not move would never end.
                Some(next) if cursor.as_ref() != Some(&next) => cursor = Some(next),
                _ => return Ok((found, false)),
            }
        }
        Ok((found, true))
    }

    /// One issue by its id or its short id (`API-4F2`). `None`: there is none. Cancel safe.
    pub async fn issue(&self, name: &str) -> Result<Option<Value>, SentryError> {
        let what = format!("issue `{name}`");
        if is_id(name) {
            return match self.get(&format!("issues/{name}/"), &[], &what).await {
                Ok(found) => Ok(Some(found)),
                Err(SentryError::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            };
        }
        if !is_plain(name) {
            return Ok(None);
        }
        let query = [("query", name.to_owned()), ("shortIdLookup", "1".into()), ("limit", "5".into())];
        let found = self.page("issues/", &query, &what).await?.items;
        let is_it = |issue: &Value| {
            issue.get("shortId").and_then(Value::as_str).is_some_and(|own| own.eq_ignore_ascii_case(name))
        };
        Ok(found.into_iter().find(is_it))
    }

    /// The latest event of an issue, in the API's own shape. `None`: none is kept. Cancel safe.
    pub async fn latest_event(&self, issue: &str) -> Result<Option<Value>, SentryError> {
        let route = format!("issues/{}/events/latest/", checked(issue)?);
        match self.get(&route, &[], "event").await {
            Ok(event) => Ok(Some(event)),
            Err(SentryError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What people and we have said about an issue, the newest first. Cancel safe.
    pub async fn comments(&self, issue: &str) -> Result<Vec<Value>, SentryError> {
        let route = format!("issues/{}/comments/", checked(issue)?);
        let (mut found, mut cursor) = (Vec::new(), None::<String>);
        for _ in 0..MOST_PAGES {
            let query: Vec<_> = cursor.iter().map(|cursor| ("cursor", cursor.clone())).collect();
            let page = self.page(&route, &query, "issue").await?;
            found.extend(page.items);
            match page.next {
                Some(next) if cursor.as_ref() != Some(&next) => cursor = Some(next),
                _ => break,
            }
        }
        Ok(found)
    }

    /// Says something about an issue. Not cancel safe, sent once: `Ambiguous` when it may have been said.
    pub async fn comment(&self, issue: &str, text: &str) -> Result<Value, SentryError> {
        let route = format!("issues/{}/comments/", checked(issue)?);
        self.write(Method::POST, &route, &json!({ "text": text })).await
    }

    /// Changes an issue: `status`, `statusDetails`, `assignedTo`. Saying the same twice is harmless, so an end that is not known is
    /// looked up by the caller and said again. Not cancel safe.
    pub async fn update(&self, issue: &str, change: &Value) -> Result<Value, SentryError> {
        self.write(Method::PUT, &format!("issues/{}/", checked(issue)?), change).await
    }

    /// What the token may do, by scope: for `doctor --online`. Changes nothing: what is written to is an issue that is never there.
    pub async fn rights(&self, project: &str) -> Vec<(&'static str, Result<(), SentryError>)> {
        let ask = IssueQuery { query: "is:unresolved", project, environments: &[], period: "24h" };
        let read = self.issues_page(ask, None).await.map(drop);
        let write = match self.write(Method::PUT, "issues/0/", &json!({})).await {
            Ok(_) | Err(SentryError::NotFound { .. } | SentryError::Invalid { .. }) => Ok(()),
            Err(error) => Err(error),
        };
        vec![("event:read", read), ("event:write", write)]
    }

    async fn get(&self, route: &str, query: &[(&str, String)], what: &str) -> Result<Value, SentryError> {
        Ok(self.read(route, query, what).await?.0)
    }

    async fn page(&self, route: &str, query: &[(&str, String)], what: &str) -> Result<Page, SentryError> {
        let (body, next) = self.read(route, query, what).await?;
        match body {
            Value::Array(items) => Ok(Page { items, next }),
            _ => Err(SentryError::Unavailable { message: "the answer is no list".into(), after: None }),
        }
    }

    /// A read, repeated while it fails for a passing reason.
    async fn read(
        &self,
        route: &str,
        query: &[(&str, String)],
        what: &str,
    ) -> Result<(Value, Option<String>), SentryError> {
        let (mut attempt, mut waited) = (0, Duration::ZERO);
        loop {
            let failed = match self.once(Method::GET, route, query, None).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            attempt += 1;
            // An answer that broke off looks like bad JSON.
            let retry = if matches!(failed, HttpError::NotJson(_)) { Retry::Backoff } else { failed.retry() };
            let Some(pause) = PAUSES.pause(attempt, waited, retry) else {
                return Err(self.told(failed, "event:read", what));
            };
            tracing::debug!(error = %failed, pause_ms = pause.as_millis(), "Sentry is asked again");
            self.env.clock.sleep(pause).await;
            waited += pause;
        }
    }

    /// A write, sent once.
    async fn write(&self, method: Method, route: &str, body: &Value) -> Result<Value, SentryError> {
        let body = serde_json::to_vec(body).map_err(|error| SentryError::Invalid { message: error.to_string() })?;
        let failed = match self.once(method, route, &[], Some(body)).await {
            Ok((answer, _)) => return Ok(answer),
            Err(error) => error,
        };
        let message = failed.to_string();
        Err(match failed {
            HttpError::Timeout(_) | HttpError::Broken(_) | HttpError::NotJson(_) | HttpError::TooLarge { .. } => {
                SentryError::Ambiguous { message }
            }
            HttpError::Status { status, .. } if status >= 500 || status == 408 => SentryError::Ambiguous { message },
            other => self.told(other, "event:write", "issue"),
        })
    }

    async fn once(
        &self,
        method: Method,
        route: &str,
        query: &[(&str, String)],
        body: Option<Vec<u8>>,
    ) -> Result<(Value, Option<String>), HttpError> {
        self.wait_for_the_limit().await?;
        let mut url = parse_url(&format!("{}/api/0/organizations/{}/{route}", self.base, self.organization))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut headers = vec![(Cow::from("accept"), Cow::from("application/json"))];
        if body.is_some() {
            headers.push(("content-type".into(), "application/json".into()));
        }
        let call =
            Call { method, url, headers, auth: Auth::Bearer(&self.token), body: body.map(Into::into), limits: LIMITS };
        let mut answer = self.http.send(call).await?;
        if !(200..300).contains(&answer.status) {
            return Err(self.refusal(answer).await);
        }
        let next = answer.header("link").and_then(next_cursor);
        let mut body = Vec::new();
        while answer.more(&mut body).await? {}
        if body.is_empty() {
            return Ok((Value::Null, next));
        }
        // serde_json names line and column, never the text itself.
        let body = serde_json::from_slice(&body).map_err(|error| HttpError::NotJson(error.to_string()))?;
        Ok((body, next))
    }

    async fn refusal(&self, mut answer: Answer) -> HttpError {
        let status = answer.status;
        let mut after = answer.retry_after();
        if status == 429 {
            // Seconds since 1970, where there is no `Retry-After`.
            let reset = answer.header("x-sentry-rate-limit-reset").and_then(|text| text.trim().parse::<i64>().ok());
            let now = self.env.now();
            let until = reset.and_then(|at| Timestamp::from_second(at).ok());
            after = after.or_else(|| Duration::try_from(until?.duration_since(now)).ok());
            let closed = now.saturating_add(after.unwrap_or(Duration::from_secs(1))).unwrap_or(Timestamp::MAX);
            let mut until = self.closed_until.lock().unwrap_or_else(PoisonError::into_inner);
            *until = closed.max(*until);
        }
        let text = answer.refusal_text().await;
        // Django's errors are `{"detail": …}`.
        let detail = serde_json::from_str::<Value>(&text).ok().and_then(|body| {
            let detail = body.get("detail")?;
            detail.as_str().or_else(|| detail.get("message")?.as_str()).map(str::to_owned)
        });
        let message = super::http::shorten(&detail.unwrap_or(text));
        let message = if message.is_empty() { "no explanation".into() } else { message };
        HttpError::Status { status, message, after }
    }

    /// Waits while a limit that others have hit holds; not longer than a read would be repeated.
    async fn wait_for_the_limit(&self) -> Result<(), HttpError> {
        let until = *self.closed_until.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(pause) = Duration::try_from(until.duration_since(self.env.now())) else { return Ok(()) };
        if pause.is_zero() {
            return Ok(());
        }
        if pause > PAUSES.total {
            let message = "a rate limit that was hit before still holds".into();
            return Err(HttpError::Status { status: 429, message, after: Some(pause) });
        }
        self.env.clock.sleep(pause).await;
        Ok(())
    }

    fn told(&self, error: HttpError, scope: &'static str, what: &str) -> SentryError {
        let shown = error.to_string();
        match error {
            HttpError::Status { status: 401, message, .. } => {
                SentryError::Credential { secret: self.token.name.clone(), message }
            }
            HttpError::Status { status: 403, message, .. } => SentryError::Forbidden { scope, message },
            HttpError::Status { status: 404, .. } => {
                SentryError::NotFound { what: format!("{what} in the organization `{}`", self.organization) }
            }
            HttpError::Status { status, after, .. } if status == 429 || status == 408 || status >= 500 => {
                SentryError::Unavailable { message: shown, after }
            }
            HttpError::Status { .. } | HttpError::Request(_) => SentryError::Invalid { message: shown },
            HttpError::Secret(_) | HttpError::Credential(_) => SentryError::Missing {
                message: shown,
                help: format!("put a token into the secret `{}`: nightcrew connect sentry", self.token.name),
            },
            HttpError::Connect(_)
            | HttpError::Timeout(_)
            | HttpError::Broken(_)
            | HttpError::TooLarge { .. }
            | HttpError::NotJson(_) => SentryError::Unavailable { message: shown, after: None },
        }
    }
}

/// A number, as Sentry's ids are.
pub fn is_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= 20 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Fit to be one part of a path.
fn is_plain(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !text.is_empty() && text.len() <= 100 && text.bytes().all(plain)
}

fn checked(issue: &str) -> Result<&str, SentryError> {
    match is_id(issue) {
        true => Ok(issue),
        false => Err(SentryError::NotFound { what: "issue with an id that is no number".into() }),
    }
}

/// The cursor of the next page. The header always names one; only `results="true"` says that anything is there.
fn next_cursor(header: &str) -> Option<String> {
    let next = link::next(header).filter(|next| next.param("results") == Some("true"))?;
    next.param("cursor").map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_there_only_where_it_has_results() {
        let link = |results: &str| {
            format!(
                "<https://sentry.io/api/0/x/?cursor=0:0:1>; rel=\"previous\"; results=\"false\"; cursor=\"0:0:1\", \
                 <https://sentry.io/api/0/x/?a=b, c&cursor=0:100:0>; rel=\"next\"; results=\"{results}\"; cursor=\"0:100:0\""
            )
        };
        assert_eq!(next_cursor(&link("true")).as_deref(), Some("0:100:0"));
        for none in [link("false").as_str(), "", "nonsense", "<x>; rel=\"next\"", "; ; =; rel"] {
            assert_eq!(next_cursor(none), None, "{none}");
        }
    }

    #[test]
    fn what_is_no_id_never_becomes_part_of_an_address() {
        for bad in ["", "1/../2", "12?x", "abc", "１２", "123456789012345678901"] {
            assert!(!is_id(bad) && checked(bad).is_err(), "{bad}");
        }
        assert!(is_id("4509123") && is_plain("API-4F2") && !is_plain("a/b") && !is_plain(""));
    }
}
