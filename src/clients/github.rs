//! GitHub's REST API through octocrab: a token or an App, one gate for the rate limits of all runs, errors by what to do next.
//!
//! octocrab retries nothing (it is built without that feature): a write that is sent again without looking would be done twice.
//! Reads are repeated here; a write is sent once, and when its end is not known, or a limit refused it, the caller looks before it
//! sends again. Nothing leaves the configured origin: no redirect is followed, and of a link to the next page only its query counts.

mod credential;
mod gate;
mod wire;
#[cfg(test)]
pub(crate) mod script;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::Method;
use jiff::Timestamp;
use reqwest::Url;
use serde_json::Value;

use crate::base::env::Env;
use crate::base::hash::Hash;
use crate::base::retry::{Backoff, Retry};
use crate::base::secret::Secret;
use crate::clients::credentials::Credentials;
use crate::clients::{http, link};
use crate::ports::service::Outside;

use credential::{App, Credential, Reach};
use gate::Gate;
use wire::{Answer, Lost, Wire};

/// How a call ended without an answer.
#[derive(Debug, thiserror::Error)]
pub enum GitHubError {
    /// Nothing is configured, or a secret cannot be read.
    #[error("{message}")]
    Missing { message: String, help: String },
    /// 401: this secret is not taken any more.
    #[error("GitHub refuses the secret `{secret}`: {message}")]
    Credential { secret: String, message: String },
    /// 403 that is no rate limit: the credential has not this right.
    #[error("GitHub does not allow it: {message}")]
    Forbidden { message: String },
    #[error("GitHub knows no {what}")]
    NotFound { what: String },
    /// 409: it has changed meanwhile.
    #[error("GitHub says that it has changed meanwhile: {message}")]
    Conflict { message: String },
    /// 422, for instance what exists already. `errors` as GitHub lists them.
    #[error("GitHub does not take it: {message}")]
    Invalid { message: String, errors: Vec<Value> },
    /// A rate limit that lasts longer than a call may wait, or one that refused a write. Nothing was done.
    #[error("GitHub's rate limit is used up for {} s", after.as_secs())]
    RateLimited { after: Duration },
    /// It did not answer; nothing was done, or it was a read.
    #[error("GitHub does not answer: {message}")]
    Unavailable { message: String },
    /// A write whose end is not known: look before it is sent again.
    #[error("GitHub did not say how it ended: {message}")]
    Ambiguous { message: String },
}

/// Who may see a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    Public,
    Internal,
    Private,
}

/// What is known of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryFacts {
    /// `owner/name`.
    pub name: String,
    pub visibility: Visibility,
    pub default_branch: String,
}

/// Who acts on GitHub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub login: String,
    pub id: Option<u64>,
}

impl Identity {
    /// The address by which GitHub knows commits of this login.
    pub fn email(&self) -> String {
        let id = self.id.map(|id| format!("{id}+")).unwrap_or_default();
        format!("{id}{}@users.noreply.github.com", self.login)
    }
}

/// The method of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    Post,
    Patch,
    Put,
    Delete,
}

/// How long facts about a repository and our own login are believed.
const KEPT: Duration = Duration::from_secs(10 * 60);
/// A token for git outlives a clone.
const FOR_GIT: Duration = Duration::from_secs(10 * 60);
const BACKOFF: Backoff =
    Backoff { first: Duration::from_secs(1), most: Duration::from_secs(16), total: Duration::from_secs(45) };
/// How often one read waits for a limit to end before it gives up.
const MOST_LIMITS: u32 = 3;
const PER_PAGE: usize = 100;
const MOST_PAGES: usize = 50;
const DEFAULT_API: &str = "https://api.github.com";

/// The client. One for each address and credential; cheap to clone.
#[derive(Clone, Debug)]
pub struct GitHub {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    env: Env,
    wire: Wire,
    gate: Gate,
    credential: Credential,
    /// What was refused is not sent again as it is.
    secrets: Credentials,
    known: Mutex<Known>,
}

/// What was asked once and is believed for a while.
#[derive(Debug, Default)]
struct Known {
    repositories: HashMap<String, (Timestamp, RepositoryFacts)>,
    /// By the hash of the token.
    identity: Option<(Timestamp, Hash, Identity)>,
}

impl GitHub {
    /// The client for `services.github`, shared by the process. Contacts nothing.
    ///
    /// Errors: `Missing` without address or credential.
    pub fn of(outside: &Outside) -> Result<Self, GitHubError> {
        let missing = |message: &str| GitHubError::Missing {
            message: message.to_owned(),
            help: "nightcrew connect github shows what to write under `services.github`".into(),
        };
        let service = outside.services.github.as_ref().ok_or_else(|| missing("GitHub is not configured"))?;
        let api = service.setting("api_url").unwrap_or(DEFAULT_API);
        let base = http::parse_url(api).map_err(|error| missing(&format!("`services.github.api_url`: {error}")))?;
        if base.query().is_some() || !base.username().is_empty() || base.password().is_some() {
            return Err(missing("`services.github.api_url` holds more than an address"));
        }
        let of_app = (service.setting("app.id"), service.setting("app.installation"), service.secret("app.key"));
        let (credential, name) = match (of_app, service.secret("token")) {
            ((Some(id), Some(installation), Some(key)), _) => {
                if ![id, installation].iter().all(|text| is_plain(text)) {
                    return Err(missing("`services.github.app`: its id and installation are numbers"));
                }
                let name = format!("app {id} {installation} {key:?}");
                (Credential::App(App::new(id, installation, key.clone())), name)
            }
            (_, Some(token)) => (Credential::Token(token.clone()), format!("token {token:?}")),
            (_, None) => return Err(missing("GitHub has neither a token nor an App")),
        };
        // Before the client is made: what is shared is made one at a time.
        let secrets = Credentials::of(&outside.shared);
        let made = outside.shared.get_or_make(&format!("github {base} {name}"), || {
            Ok(Self::over(outside.env.clone(), secrets, Wire::new(base.clone()), credential))
        })?;
        Ok((*made).clone())
    }

    fn over(env: Env, secrets: Credentials, wire: Wire, credential: Credential) -> Self {
        let gate = Gate::new(env.clone());
        Self { inner: Arc::new(Inner { env, wire, gate, credential, secrets, known: Mutex::default() }) }
    }

    fn reach(&self) -> Reach<'_> {
        let Inner { wire, gate, env, secrets, .. } = &*self.inner;
        Reach { wire, gate, env, secrets }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.inner.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// GET of a route such as `/repos/acme/api`, repeated while it fails for a passing reason. Cancel safe.
    pub async fn get(&self, route: &str, query: &[(&str, String)]) -> Result<Value, GitHubError> {
        Ok(self.read(route, &encoded(query)).await?.body)
    }

    /// All pages of a list, at most `most` elements, in the order of GitHub. Of an answer that is an object its one list counts.
    pub async fn list(&self, route: &str, query: &[(&str, String)], most: usize) -> Result<Vec<Value>, GitHubError> {
        let mut query = query.to_vec();
        if !query.iter().any(|(name, _)| *name == "per_page") {
            query.push(("per_page", PER_PAGE.min(most.max(1)).to_string()));
        }
        let mut query = encoded(&query);
        let mut all = Vec::new();
        for _ in 0..MOST_PAGES {
            let answer = self.read(route, &query).await?;
            let next = answer.headers.get("link").and_then(|link| link.to_str().ok()).and_then(next_query);
            let items = elements(answer.body)
                .ok_or_else(|| GitHubError::Unavailable { message: format!("what it says of `{route}` is no list") })?;
            let none = items.is_empty();
            all.extend(items);
            match next {
                Some(next) if all.len() < most && !none && next != query => query = next,
                _ => break,
            }
        }
        all.truncate(most);
        Ok(all)
    }

    /// A write, sent once. Not cancel safe.
    ///
    /// Errors: `Ambiguous` when it may have happened; `RateLimited` and `Unavailable` when it has not, but look before another try.
    pub async fn write(&self, method: Write, route: &str, body: &Value) -> Result<Value, GitHubError> {
        let gate = &self.inner.gate;
        let told = notifies(route);
        let _turn = gate.turn().await?;
        if told {
            gate.pace().await;
        }
        // Before it enters: an App's token may have to be asked for, which enters too.
        let token = self.inner.credential.token(self.reach()).await?;
        let _entered = gate.enter().await?;
        let method = match method {
            Write::Post => Method::POST,
            Write::Patch => Method::PATCH,
            Write::Put => Method::PUT,
            Write::Delete => Method::DELETE,
        };
        let body = Some(body).filter(|body| !body.is_null());
        let sent = self.inner.wire.exchange(method, route, "", &token, body).await;
        if told {
            gate.created();
        }
        let answer = match sent {
            Ok(answer) => answer,
            Err(Lost::NotSent(message)) => return Err(unavailable(Lost::NotSent(message), &token)),
            Err(Lost::Unknown(message)) => {
                return Err(GitHubError::Ambiguous { message: clean(&message, &token) });
            }
        };
        match self.refused(&answer, route, &token) {
            None => Ok(answer.body),
            Some(error) => Err(error),
        }
    }

    /// Facts about `owner/name`, kept for ten minutes.
    pub async fn repository(&self, name: &str) -> Result<RepositoryFacts, GitHubError> {
        let now = self.inner.env.now();
        if let Some((at, facts)) = self.known().repositories.get(name)
            && fresh(*at, now)
        {
            return Ok(facts.clone());
        }
        let found = self.get(&repository_route(name)?, &[]).await?;
        let visibility = match (found["visibility"].as_str(), found["private"].as_bool()) {
            (Some("public"), _) | (None, Some(false)) => Visibility::Public,
            (Some("internal"), _) => Visibility::Internal,
            _ => Visibility::Private,
        };
        let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
        let facts = RepositoryFacts { name: text("full_name"), visibility, default_branch: text("default_branch") };
        self.known().repositories.insert(name.to_owned(), (now, facts.clone()));
        Ok(facts)
    }

    /// The login that acts: a user, or the bot of an App (`name[bot]`).
    pub async fn login(&self) -> Result<String, GitHubError> {
        Ok(self.identity().await?.login)
    }

    /// Who acts, kept for ten minutes.
    pub async fn identity(&self) -> Result<Identity, GitHubError> {
        let now = self.inner.env.now();
        let credential = &self.inner.credential;
        let hash = Hash::of(self.reach().read(credential.secret())?.value().expose());
        if let Some((at, of, identity)) = &self.known().identity
            && fresh(*at, now)
            && *of == hash
        {
            return Ok(identity.clone());
        }
        let none = || GitHubError::Unavailable { message: "it does not say who we are".into() };
        let text = |found: &Value, field: &str| found[field].as_str().map(str::to_owned).ok_or_else(none);
        let identity = match credential {
            Credential::Token(_) => {
                let user = self.get("/user", &[]).await?;
                Identity { login: text(&user, "login")?, id: user["id"].as_u64() }
            }
            Credential::App(app) => {
                let found = self.repeated(|| app.call(self.reach(), "/app")).await?;
                let login = format!("{}[bot]", text(&found, "slug")?);
                let bot = match self.get(&format!("/users/{}", segment(&login)), &[]).await {
                    Ok(bot) => bot,
                    Err(GitHubError::NotFound { .. }) => Value::Null,
                    Err(error) => return Err(error),
                };
                Identity { login, id: bot["id"].as_u64() }
            }
        };
        self.known().identity = Some((now, hash, identity.clone()));
        Ok(identity)
    }

    /// A token for git, valid for at least ten minutes: the personal one, or one of the App's installation.
    pub async fn token(&self) -> Result<Secret, GitHubError> {
        self.repeated(|| self.inner.credential.token_for(self.reach(), FOR_GIT)).await
    }

    /// What the credential may do: scopes of a classic token (`repo`), permissions of an App (`contents: write`). Empty for a
    /// fine-grained token, which does not tell.
    pub async fn rights(&self) -> Result<Vec<String>, GitHubError> {
        match &self.inner.credential {
            Credential::Token(_) => Ok(credential::scopes(&self.read("/user", "").await?.headers)),
            Credential::App(app) => self.repeated(|| app.permissions(self.reach())).await,
        }
    }

    async fn read(&self, route: &str, query: &str) -> Result<Answer, GitHubError> {
        self.repeated(|| self.read_once(route, query)).await
    }

    async fn read_once(&self, route: &str, query: &str) -> Result<Answer, GitHubError> {
        let token = self.inner.credential.token(self.reach()).await?;
        let _entered = self.inner.gate.enter().await?;
        let sent = self.inner.wire.exchange(Method::GET, route, query, &token, None).await;
        let answer = sent.map_err(|lost| unavailable(lost, &token))?;
        match self.refused(&answer, route, &token) {
            None => Ok(answer),
            Some(GitHubError::Ambiguous { message }) => Err(GitHubError::Unavailable { message }),
            Some(error) => Err(error),
        }
    }

    /// What an answer to a call with this token refuses.
    fn refused(&self, answer: &Answer, route: &str, token: &Secret) -> Option<GitHubError> {
        let credential = &self.inner.credential;
        let error = refusal(answer, &self.inner.gate, route, &credential.secret().name, token)?;
        let GitHubError::Credential { message, .. } = &error else { return Some(error) };
        // An installation's token may have been withdrawn, and another one is to be had.
        match credential.refused(self.reach(), token, message) {
            true => {
                Some(GitHubError::Unavailable { message: format!("the installation's token is not taken: {message}") })
            }
            false => Some(error),
        }
    }

    /// For what changes nothing: tried again with growing pauses while it fails for a passing reason.
    async fn repeated<T, F: Future<Output = Result<T, GitHubError>>>(
        &self,
        call: impl Fn() -> F,
    ) -> Result<T, GitHubError> {
        let (mut attempt, mut limits, mut waited) = (0, 0, Duration::ZERO);
        loop {
            let error = match call().await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            match &error {
                // The next try waits at the gate.
                GitHubError::RateLimited { after } if *after <= gate::MOST_WAIT && limits < MOST_LIMITS => limits += 1,
                GitHubError::Unavailable { .. } => {
                    attempt += 1;
                    let Some(pause) = BACKOFF.pause(attempt, waited, Retry::Backoff) else { return Err(error) };
                    let pause = self.inner.env.jitter(pause);
                    self.inner.env.clock.sleep(pause).await;
                    waited += pause;
                }
                _ => return Err(error),
            }
        }
    }
}

/// `/repos/owner/name`, where the name is one.
///
/// Errors: `Missing` where it is not.
pub fn repository_route(name: &str) -> Result<String, GitHubError> {
    let fits = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    match name.split_once('/') {
        Some((owner, repository)) if fits(owner) && fits(repository) && ![owner, repository].contains(&"..") => {
            Ok(format!("/repos/{name}"))
        }
        _ => Err(GitHubError::Missing {
            message: format!("`{}` is no repository on GitHub", http::shorten(name)),
            help: "write `repository: {github: owner/name}` in the pipeline".into(),
        }),
    }
}

/// Text as one segment of a route.
pub fn segment(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(byte);
    text.bytes().fold(String::new(), |mut out, byte| {
        match plain(&byte) {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}

fn encoded(query: &[(&str, String)]) -> String {
    let pairs: Vec<String> =
        query.iter().map(|(name, value)| format!("{}={}", segment(name), segment(value))).collect();
    pairs.join("&")
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

fn fresh(at: Timestamp, now: Timestamp) -> bool {
    Duration::try_from(now.duration_since(at)).is_ok_and(|age| age < KEPT)
}

/// Writes that people are notified of. Those below `/git/` make objects and branches that nobody sees.
fn notifies(route: &str) -> bool {
    !route.contains("/git/")
}

fn elements(body: Value) -> Option<Vec<Value>> {
    match body {
        Value::Array(items) => Some(items),
        Value::Object(fields) => fields.into_iter().find_map(|(_, value)| match value {
            Value::Array(items) => Some(items),
            _ => None,
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// The query of the link to the next page. Only that is taken: the route stays ours.
fn next_query(header: &str) -> Option<String> {
    Url::parse(link::next(header)?.target).ok()?.query().map(str::to_owned)
}

fn unavailable(lost: Lost, sent: &Secret) -> GitHubError {
    let (Lost::NotSent(message) | Lost::Unknown(message)) = lost;
    GitHubError::Unavailable { message: clean(&message, sent) }
}

/// What a server says, on one line, short, and without the credential that was sent.
fn clean(text: &str, sent: &Secret) -> String {
    let text = text.replace(sent.expose(), "[secret]");
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    http::shorten(&text)
}

/// What an answer refuses, and what the gate learns from it. `None`: it is an answer.
fn refusal(answer: &Answer, gate: &Gate, route: &str, secret: &str, sent: &Secret) -> Option<GitHubError> {
    let message = clean(&words(&answer.body), sent);
    let status = answer.status;
    if let Some(after) = gate.learn(status, &answer.headers, &message) {
        return Some(GitHubError::RateLimited { after });
    }
    let or = |otherwise: &str| if message.is_empty() { otherwise.to_owned() } else { message.clone() };
    match status {
        200..=299 => None,
        300..=399 => Some(GitHubError::Missing {
            message: format!("GitHub has moved `{route}` to another place"),
            help: "write the repository in the YAML as it is called now".into(),
        }),
        401 => Some(GitHubError::Credential { secret: secret.to_owned(), message: or("401") }),
        403 | 451 => Some(GitHubError::Forbidden { message: or("403") }),
        404 | 410 => Some(GitHubError::NotFound { what: format!("`{route}`, or does not show it to this credential") }),
        409 => Some(GitHubError::Conflict { message: or("409") }),
        408 | 500.. => Some(GitHubError::Ambiguous { message: or(&format!("HTTP {status}")) }),
        _ => Some(GitHubError::Invalid {
            message: or(&format!("HTTP {status}")),
            errors: answer.body["errors"].as_array().cloned().unwrap_or_default(),
        }),
    }
}

/// The message and what is said of single fields.
fn words(body: &Value) -> String {
    let mut said: Vec<String> = body["message"].as_str().map(str::to_owned).into_iter().collect();
    for error in body["errors"].as_array().into_iter().flatten() {
        let text = |field: &str| error[field].as_str();
        match (error.as_str().or_else(|| text("message")), text("field"), text("code")) {
            (Some(message), ..) => said.push(message.to_owned()),
            (None, Some(field), Some(code)) => said.push(format!("{field}: {code}")),
            _ => {}
        }
    }
    said.join("; ")
}
