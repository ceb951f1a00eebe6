//! A stand-in of GitHub: its REST API and clones over HTTP, on real bare repositories; as strict as the real one where we lean on it.
//!
//! Written from GitHub's documentation, not from our client. Unknown tokens get 401, what a token may not see 404, a second pull
//! request for a branch and a branch that is not there 422; `draft` changes by no PATCH; lists come in pages with `Link`; a `head`
//! filter without its owner filters nothing; a search finds nothing, since the real one lags. Objects are git's own, so that ids are
//! true and a tree can be compared. What every answer, fault and line of the log is like: [`service`](super::service).
//!
//! ```ignore
//! let hub = GitHub::start();                               // or GitHub::start_at(clock)
//! hub.repository("acme/api", "private");                   // empty; or hub.repository_from("acme/api", "private", folder, "main")
//! hub.push("acme/api", "main", &[("a.txt", Some("1"))], "first");
//! // … api_url: hub.url(), git_url: hub.url(), token: github::TOKEN …
//! assert_eq!(hub.pulls("acme/api").len(), 1);
//! hub.close("acme/api", 1, "ada");                         // as a person does
//! ```
//!
//! Effects in the log: `ref.create`, `ref.update`, `ref.delete`, `pull_request.create|update|close|reopen|merge`,
//! `review.request`, `issue.create|update|close|reopen`, `comment.create|update|delete`, `label.create`, `labels.change`,
//! `assignees.change`, each with `repository`, `by` and what it is about.

#![allow(dead_code)] // More than each test needs.

#[path = "github/git.rs"]
mod git;
#[path = "github/issues.rs"]
mod issues;
#[path = "github/pulls.rs"]
mod pulls;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nightcrew::base::clock::{Clock, Timestamp};
use serde_json::{Value, json};

use super::service::{Answer, Log, Part, Request, Server};

/// The personal token of [`LOGIN`].
pub const TOKEN: &str = "ghp_0123456789abcdefghijklmnopqrstuvwxyzAB";
/// Who acts by [`TOKEN`].
pub const LOGIN: &str = "crew-bot";
/// An App that is installed: its id and its installation's.
pub const APP: u64 = 4711;
pub const INSTALLATION: u64 = 815;
/// Who acts by the App.
pub const APP_LOGIN: &str = "nightcrew[bot]";

/// Whose credential a request has.
#[derive(Clone, Debug)]
pub struct Identity {
    pub login: String,
    /// A person's or bot's token; else an installation's.
    personal: bool,
    /// Repositories that it cannot see.
    hidden: BTreeSet<String>,
    expires_at: Option<Timestamp>,
}

impl Identity {
    fn sees(&self, repository: &str) -> bool {
        !self.hidden.contains(repository)
    }
}

/// One repository.
#[derive(Clone, Debug)]
pub struct Repository {
    pub name: String,
    /// `public`, `internal`, `private`.
    pub visibility: String,
    pub default_branch: String,
    pub bare: git::Bare,
    /// Issues and pull requests by number.
    pub issues: BTreeMap<u64, issues::Issue>,
    pub labels: BTreeSet<String>,
    /// Who may be asked for a review and given an issue.
    pub collaborators: BTreeSet<String>,
    /// By commit.
    pub suites: BTreeMap<String, Vec<Value>>,
    pub archived: bool,
    pub has_issues: bool,
    /// Each new commit of a branch gets a check suite.
    pub ci: bool,
    next: u64,
    id: u64,
}

/// All that it holds.
pub struct Hub {
    base: String,
    folder: tempfile::TempDir,
    pub tokens: BTreeMap<String, Identity>,
    pub repositories: BTreeMap<String, Repository>,
    next_id: u64,
    remaining: i64,
    resets_at: i64,
}

impl Hub {
    fn api(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn web(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// It is there: the router has looked.
    fn repository(&self, name: &str) -> &Repository {
        &self.repositories[name]
    }

    fn repository_mut(&mut self, name: &str) -> &mut Repository {
        self.repositories.get_mut(name).unwrap()
    }

    fn identity(&self, token: &str, now: Timestamp) -> Option<Identity> {
        self.tokens.get(token).filter(|who| who.expires_at.is_none_or(|end| now < end)).cloned()
    }

    /// A page of a list, with its links.
    fn paged(&self, request: &Request, all: Vec<Value>) -> Answer {
        let number = |name: &str, default: usize| request.query(name).and_then(|n| n.parse().ok()).unwrap_or(default);
        let size = number("per_page", 30).clamp(1, 100);
        let page = number("page", 1).max(1);
        let last = all.len().div_ceil(size).max(1);
        let link = |page: usize, rel: &str| {
            let others = request.query.iter().filter(|(name, _)| name != "page");
            let mut url = reqwest::Url::parse(&self.api(&request.path)).unwrap();
            url.query_pairs_mut().extend_pairs(others).append_pair("page", &page.to_string());
            format!("<{url}>; rel=\"{rel}\"")
        };
        let mut links = Vec::new();
        if page > 1 {
            links.extend([link(1, "first"), link(page - 1, "prev")]);
        }
        if page < last {
            links.extend([link(page + 1, "next"), link(last, "last")]);
        }
        let shown: Vec<Value> = all.into_iter().skip((page - 1) * size).take(size).collect();
        let answer = Answer::json(200, &shown.into());
        if links.is_empty() { answer } else { answer.header("link", links.join(", ")) }
    }

    /// A reference has moved: pull requests follow, and CI begins where there is one.
    fn pushed(&mut self, repository: &str, name: &str, sha: &str) {
        let id = self.id();
        let repository = self.repository_mut(repository);
        if let Some(branch) = name.strip_prefix("refs/heads/") {
            for issue in repository.issues.values_mut() {
                if let Some(pull) = &mut issue.pull
                    && issue.state == "open"
                    && pull.head == branch
                {
                    pull.head_sha = sha.to_owned();
                }
            }
            if repository.ci {
                let suite = suite(id, branch, sha, "queued", None);
                repository.suites.entry(sha.to_owned()).or_insert_with(|| vec![suite]);
            }
        }
    }

    /// Open pull requests of a branch that is gone are closed.
    fn branch_gone(&mut self, repository: &str, name: &str, log: &mut Log) {
        let Some(branch) = name.strip_prefix("refs/heads/") else { return };
        let now = log.now();
        for (number, issue) in &mut self.repository_mut(repository).issues {
            if issue.state == "open" && issue.pull.as_ref().is_some_and(|pull| pull.head == branch) {
                issue.state = "closed".into();
                issue.closed_at = Some(now);
                log.effect(
                    "pull_request.close",
                    json!({"repository": repository, "number": number, "by": "the branch is gone"}),
                );
            }
        }
    }

    fn shown_repository(&self, repository: &Repository) -> Value {
        let (owner, name) = repository.name.split_once('/').unwrap();
        json!({
            "id": repository.id, "node_id": format!("R_{}", repository.id), "name": name, "full_name": repository.name,
            "owner": account(owner), "private": repository.visibility != "public", "visibility": repository.visibility,
            "html_url": self.web(&format!("/{}", repository.name)), "url": self.api(&format!("/repos/{}", repository.name)),
            "clone_url": self.web(&format!("/{}.git", repository.name)), "description": null, "fork": false,
            "default_branch": repository.default_branch, "archived": repository.archived, "disabled": false,
            "has_issues": repository.has_issues, "stargazers_count": 12, "forks_count": 1, "watchers_count": 12,
            "open_issues_count": repository.issues.values().filter(|issue| issue.state == "open").count(), "size": 100,
            "permissions": {"admin": false, "maintain": false, "push": true, "triage": true, "pull": true},
            "created_at": "2024-01-01T00:00:00Z", "updated_at": "2026-11-01T00:00:00Z", "pushed_at": "2026-11-01T00:00:00Z",
        })
    }

    fn routed(&mut self, request: &Request, who: &Identity, log: &mut Log) -> Answer {
        let path = request.path.clone();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (request.method.as_str(), parts.as_slice()) {
            ("GET", ["user"]) if who.personal => {
                Answer::json(200, &account(&who.login)).header("x-oauth-scopes", "repo")
            }
            ("GET", ["user"]) => said(403, "Resource not accessible by integration"),
            ("GET", ["users", login]) => Answer::json(200, &account(login)),
            ("GET", ["rate_limit"]) => {
                let core = json!({"limit": 5000, "remaining": self.remaining, "reset": self.resets_at, "used": 5000 - self.remaining});
                Answer::json(200, &json!({"resources": {"core": core}, "rate": core}))
            }
            ("GET", ["installation", "repositories"]) if !who.personal => {
                let all: Vec<Value> = self.repositories.values().map(|found| self.shown_repository(found)).collect();
                Answer::json(200, &json!({"total_count": all.len(), "repositories": all}))
            }
            // The real one lags behind by minutes: what was just made is not found.
            ("GET", ["search", _]) => {
                Answer::json(200, &json!({"total_count": 0, "incomplete_results": true, "items": []}))
            }
            (_, ["repos", owner, name, rest @ ..]) => {
                let repository = format!("{owner}/{name}");
                if !self.repositories.contains_key(&repository) || !who.sees(&repository) {
                    return not_found();
                }
                if request.method != "GET" && self.repository(&repository).archived {
                    return said(403, "Repository was archived so is read-only.");
                }
                self.in_repository(&repository, rest, request, who, log)
            }
            _ => not_found(),
        }
    }

    fn in_repository(
        &mut self,
        repository: &str,
        rest: &[&str],
        request: &Request,
        who: &Identity,
        log: &mut Log,
    ) -> Answer {
        let found = self.repository(repository);
        match (request.method.as_str(), rest) {
            ("GET", []) => Answer::json(200, &self.shown_repository(found)),
            (_, ["git", rest @ ..]) => git::data(self, repository, rest, request, who, log),
            ("GET", ["contents", path @ ..]) => git::contents(self, repository, &path.join("/"), request),
            ("GET", ["commits"]) => git::commits(self, repository, request),
            ("GET", ["compare", span @ ..]) => git::compare(self, repository, &span.join("/")),
            ("GET", ["branches"]) => {
                let all = found
                    .bare
                    .git(&["for-each-ref", "--format=%(refname:short) %(objectname)", "refs/heads/"], b"")
                    .unwrap();
                let all = all.lines().filter_map(|line| line.split_once(' '));
                let all = all
                    .map(|(name, sha)| json!({"name": name, "commit": {"sha": sha, "url": ""}, "protected": false}))
                    .collect();
                self.paged(request, all)
            }
            ("GET", ["branches", name @ ..]) => {
                let name = name.join("/");
                match found.bare.branch(&name) {
                    Some(sha) => {
                        let commit = git::commit_shown(self, repository, &sha);
                        Answer::json(200, &json!({"name": name, "commit": commit, "protected": false}))
                    }
                    None => said(404, "Branch not found"),
                }
            }
            ("GET", ["commits", name @ .., "check-suites"]) => {
                let Some(sha) = found.bare.commit_of(&name.join("/")) else {
                    return said(422, "No commit found for SHA");
                };
                let all = found.suites.get(&sha).cloned().unwrap_or_default();
                Answer::json(200, &json!({"total_count": all.len(), "check_suites": all}))
            }
            ("GET", ["commits", name @ .., "check-runs"]) => {
                let Some(sha) = found.bare.commit_of(&name.join("/")) else {
                    return said(422, "No commit found for SHA");
                };
                let suites = found.suites.get(&sha).cloned().unwrap_or_default();
                let all: Vec<Value> = suites
                    .iter()
                    .filter(|suite| suite["latest_check_runs_count"] != 0)
                    .map(|suite| {
                        json!({
                            "id": suite["id"], "node_id": "CR", "name": "tests", "head_sha": sha, "status": suite["status"],
                            "conclusion": suite["conclusion"], "html_url": self.web(&format!("/{repository}/runs/{}", suite["id"])),
                            "url": "", "started_at": null, "completed_at": null, "check_suite": {"id": suite["id"]},
                            "output": {"title": null, "summary": null, "text": null, "annotations_count": 0, "annotations_url": ""},
                            "pull_requests": [], "app": suite["app"], "external_id": "", "details_url": null,
                        })
                    })
                    .collect();
                Answer::json(200, &json!({"total_count": all.len(), "check_runs": all}))
            }
            ("GET", ["commits", name @ .., "status"]) => {
                let Some(sha) = found.bare.commit_of(&name.join("/")) else {
                    return said(422, "No commit found for SHA");
                };
                Answer::json(
                    200,
                    &json!({"state": "pending", "statuses": [], "sha": sha, "total_count": 0, "url": "", "commit_url": ""}),
                )
            }
            ("GET", ["commits", sha, "pulls"]) => {
                let all =
                    found.issues.values().filter(|issue| issue.pull.as_ref().is_some_and(|pull| pull.head_sha == *sha));
                let all = all.map(|issue| pulls::shown(self, repository, issue)).collect();
                self.paged(request, all)
            }
            ("GET", ["commits", name @ ..]) => match found.bare.commit_of(&name.join("/")) {
                Some(sha) => {
                    let mut shown = git::commit_shown(self, repository, &sha);
                    let parent = found.bare.git(&["rev-parse", "--verify", "--quiet", &format!("{sha}^")], b"");
                    shown["files"] =
                        parent.map(|parent| git::files(&found.bare, &parent, &sha)).unwrap_or_default().into();
                    Answer::json(200, &shown)
                }
                None => said(422, &format!("No commit found for SHA: {}", name.join("/"))),
            },
            ("GET", ["actions", "runs"]) => {
                let sha = request.query("head_sha").unwrap_or_default();
                let suites = found.suites.get(sha).cloned().unwrap_or_default();
                Answer::json(200, &json!({"total_count": suites.len(), "workflow_runs": suites}))
            }
            ("GET", ["collaborators", login]) => {
                if found.collaborators.contains(*login) {
                    Answer::none()
                } else {
                    not_found()
                }
            }
            ("GET", ["collaborators", login, "permission"]) => {
                let role = if found.collaborators.contains(*login) { "write" } else { "none" };
                Answer::json(200, &json!({"permission": role, "role_name": role, "user": account(login)}))
            }
            ("GET", ["installation"]) => {
                Answer::json(200, &json!({"id": INSTALLATION, "app_id": APP, "account": account("acme")}))
            }
            (_, ["pulls", ..]) => pulls::answer(self, repository, &rest[1..], request, who, log),
            (_, ["issues" | "labels", ..]) => issues::answer(self, repository, rest, request, who, log),
            _ => not_found(),
        }
    }

    /// What an App asks for as itself, by a JSON web token of which only the shape is looked at.
    fn as_app(&mut self, request: &Request) -> Option<Answer> {
        let parts = request.parts();
        let asked = matches!(parts.as_slice(), ["app", ..] | ["repos", _, _, "installation"]);
        let token = bearer(request)?;
        if !asked || self.tokens.contains_key(&token) {
            return None;
        }
        let decoded =
            |part: &str| -> Option<Value> { serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok() };
        let pieces: Vec<&str> = token.split('.').collect();
        let (head, claims, signed) = match pieces.as_slice() {
            [head, claims, signature] => {
                (decoded(head), decoded(claims), URL_SAFE_NO_PAD.decode(signature).is_ok_and(|s| s.len() >= 256))
            }
            _ => return Some(said(401, "A JSON web token could not be decoded")),
        };
        let (Some(head), Some(claims)) = (head, claims) else {
            return Some(said(401, "A JSON web token could not be decoded"));
        };
        let now = request.at.as_second();
        let number = |key: &str| claims[key].as_i64();
        let issuer = claims["iss"].as_u64().or_else(|| claims["iss"].as_str()?.parse().ok());
        if head["alg"] != "RS256" || !signed || issuer != Some(APP) {
            return Some(said(401, "A JSON web token could not be decoded"));
        }
        match (number("iat"), number("exp")) {
            (Some(iat), _) if iat > now => {
                return Some(said(
                    401,
                    "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued",
                ));
            }
            (Some(_), Some(end)) if end <= now => return Some(said(401, "'Expiration time' claim ('exp') is too old")),
            (Some(_), Some(end)) if end > now + 600 => {
                return Some(said(401, "'Expiration time' claim ('exp') is too far in the future"));
            }
            (Some(_), Some(_)) => {}
            _ => return Some(said(401, "Missing 'exp' claim in assertion")),
        }
        let installation = json!({
            "id": INSTALLATION, "app_id": APP, "app_slug": "nightcrew", "account": account("acme"), "target_type": "Organization",
            "repository_selection": "all", "permissions": {"contents": "write", "issues": "write", "pull_requests": "write", "checks": "read"},
        });
        Some(match (request.method.as_str(), parts.as_slice()) {
            ("GET", ["app"]) => Answer::json(
                200,
                &json!({"id": APP, "slug": "nightcrew", "name": "nightcrew", "owner": account("acme")}),
            ),
            ("GET", ["app", "installations"]) => Answer::json(200, &json!([installation])),
            ("GET", ["repos", _, _, "installation"]) => Answer::json(200, &installation),
            ("GET", ["app", "installations", id]) if *id == INSTALLATION.to_string() => {
                Answer::json(200, &installation)
            }
            ("POST", ["app", "installations", id, "access_tokens"]) if *id == INSTALLATION.to_string() => {
                let number = self.id();
                let token = format!("ghs_{number:036}");
                let end = request.at + jiff::SignedDuration::from_hours(1);
                let who = Identity {
                    login: APP_LOGIN.into(),
                    personal: false,
                    hidden: BTreeSet::new(),
                    expires_at: Some(end),
                };
                self.tokens.insert(token.clone(), who);
                Answer::json(
                    201,
                    &json!({
                        "token": token, "expires_at": date(end.as_second()), "permissions": installation["permissions"], "repository_selection": "all",
                    }),
                )
            }
            _ => not_found(),
        })
    }
}

impl Part for Hub {
    const NAME: &'static str = "github";

    fn answer(&mut self, request: &Request, log: &mut Log) -> Answer {
        let parts = request.parts();
        let cloning = parts.len() > 2
            && (request.path.ends_with("/info/refs")
                || request.path.ends_with("/git-upload-pack")
                || request.path.ends_with("/git-receive-pack"));
        if cloning && parts[0] != "repos" {
            return git::smart_http(self, request);
        }
        if request.header("user-agent").is_none() {
            return said(
                403,
                "Request forbidden by administrative rules. Please make sure your request has a User-Agent header",
            );
        }
        if let Some(answer) = self.as_app(request) {
            return answer;
        }
        let who = bearer(request).and_then(|token| self.identity(&token, request.at));
        let Some(who) = who else {
            let message =
                if request.header("authorization").is_some() { "Bad credentials" } else { "Requires authentication" };
            return said(401, message);
        };
        let now = request.at.as_second();
        if now >= self.resets_at {
            (self.remaining, self.resets_at) = (5000, now + 3600);
        }
        let mut answer = if self.remaining <= 0 {
            said(
                403,
                "API rate limit exceeded for user ID 1. If you reach out to GitHub Support for help, please include the request ID",
            )
        } else {
            self.remaining -= 1;
            self.routed(request, &who, log)
        };
        for (name, value) in [
            ("x-ratelimit-limit", 5000),
            ("x-ratelimit-remaining", self.remaining),
            ("x-ratelimit-reset", self.resets_at),
            ("x-ratelimit-used", 5000 - self.remaining),
        ] {
            answer = answer.header(name, value.to_string());
        }
        answer.header("x-ratelimit-resource", "core").header("x-github-request-id", format!("FAKE:{}", request.n))
    }

    fn error(status: u16) -> Value {
        let message = match status {
            401 => "Bad credentials",
            403 => "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.",
            404 => "Not Found",
            409 => "Conflict",
            422 => "Validation Failed",
            429 => "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.",
            503 => "No server is currently available to service your request. Sorry about that.",
            _ => "Server Error",
        };
        let mut error = json!({"message": message, "documentation_url": "https://docs.github.com/rest", "status": status.to_string()});
        if status == 422 {
            error["errors"] = json!([{"resource": "Scripted", "field": "body", "code": "invalid"}]);
        }
        error
    }

    fn who(&self, request: &Request) -> String {
        match bearer(request) {
            Some(token) => match self.tokens.get(&token) {
                Some(who) => who.login.clone(),
                None => "unknown".into(),
            },
            None => request.header("authorization").map_or("nobody", |_| "git").into(),
        }
    }
}

fn bearer(request: &Request) -> Option<String> {
    let given = request.header("authorization")?;
    let (scheme, token) = given.split_once(' ')?;
    matches!(scheme.to_ascii_lowercase().as_str(), "bearer" | "token").then(|| token.trim().to_owned())
}

fn said(status: u16, message: &str) -> Answer {
    Answer::json(
        status,
        &json!({"message": message, "documentation_url": "https://docs.github.com/rest", "status": status.to_string()}),
    )
}

fn not_found() -> Answer {
    said(404, "Not Found")
}

fn invalid(errors: &[Value]) -> Answer {
    Answer::json(
        422,
        &json!({
            "message": "Validation Failed", "errors": errors, "documentation_url": "https://docs.github.com/rest", "status": "422",
        }),
    )
}

/// As GitHub writes times.
fn date(seconds: i64) -> String {
    Timestamp::from_second(seconds).unwrap().to_string()
}

/// A user, a bot or an organisation.
fn account(login: &str) -> Value {
    let id = login.bytes().fold(1_u64, |sum, byte| (sum * 31 + u64::from(byte)) % 1_000_003);
    let kind = if login.ends_with("[bot]") { "Bot" } else { "User" };
    let url = format!("http://users.example.com/{login}");
    json!({
        "login": login, "id": id, "node_id": format!("U_{id}"), "avatar_url": url, "gravatar_id": "", "url": url, "html_url": url,
        "followers_url": url, "following_url": url, "gists_url": url, "starred_url": url, "subscriptions_url": url,
        "organizations_url": url, "repos_url": url, "events_url": url, "received_events_url": url, "type": kind, "site_admin": false,
    })
}

fn suite(id: u64, branch: &str, sha: &str, status: &str, conclusion: Option<&str>) -> Value {
    json!({
        "id": id, "node_id": format!("CS_{id}"), "head_branch": branch, "head_sha": sha, "status": status, "conclusion": conclusion,
        "latest_check_runs_count": 1, "url": "", "before": null, "after": sha, "pull_requests": [],
        "app": {"id": 15368, "slug": "github-actions", "name": "GitHub Actions"}, "created_at": "2026-11-01T00:00:00Z", "updated_at": "2026-11-01T00:00:00Z",
    })
}

/// The running stand-in; faults and the log are the [`Server`]'s.
pub struct GitHub {
    server: Server<Hub>,
}

impl std::ops::Deref for GitHub {
    type Target = Server<Hub>;
    fn deref(&self) -> &Server<Hub> {
        &self.server
    }
}

impl GitHub {
    pub fn start() -> Self {
        Self::make(None)
    }

    /// With a test's own clock.
    pub fn start_at(clock: Arc<dyn Clock>) -> Self {
        Self::make(Some(clock))
    }

    fn make(clock: Option<Arc<dyn Clock>>) -> Self {
        let server = Server::start(clock, |base| Hub {
            base: base.to_owned(),
            folder: tempfile::tempdir().unwrap(),
            tokens: BTreeMap::from([(
                TOKEN.to_owned(),
                Identity { login: LOGIN.into(), personal: true, hidden: BTreeSet::new(), expires_at: None },
            )]),
            repositories: BTreeMap::new(),
            next_id: 1000,
            remaining: 5000,
            resets_at: 0,
        });
        server.secrets(&[TOKEN]);
        Self { server }
    }

    /// An empty repository; `visibility`: `public`, `internal` or `private`.
    pub fn repository(&self, name: &str, visibility: &str) {
        self.with(|hub, _| {
            let id = hub.id();
            let bare = git::Bare::create(&hub.folder.path().join(name.replace('/', "+")));
            let made = Repository {
                name: name.into(),
                visibility: visibility.into(),
                default_branch: "main".into(),
                bare,
                issues: BTreeMap::new(),
                labels: ["bug", "documentation"].map(str::to_owned).into(),
                collaborators: ["ada", "grace", LOGIN].map(str::to_owned).into(),
                suites: BTreeMap::new(),
                archived: false,
                has_issues: true,
                ci: false,
                next: 1,
                id,
            };
            hub.repositories.insert(name.into(), made);
        });
    }

    /// One whose `main` is what `from` is in a repository on this machine.
    pub fn repository_from(&self, name: &str, visibility: &str, folder: &Path, from: &str) {
        self.repository(name, visibility);
        self.with(|hub, _| hub.repository(name).bare.take(folder, from, "main"));
    }

    /// A person's commit on a branch; a file that is `None` goes. Its id.
    pub fn push(&self, name: &str, branch: &str, files: &[(&str, Option<&str>)], message: &str) -> String {
        self.with(|hub, log| {
            let sha = hub.repository(name).bare.push(branch, files, message, log.now().as_second());
            hub.pushed(name, &format!("refs/heads/{branch}"), &sha);
            sha
        })
    }

    /// The token is refused from now on; [`Self::accept`] takes one in.
    pub fn revoke(&self, token: &str) {
        self.with(|hub, _| hub.tokens.remove(token));
    }

    /// A personal token, and who acts by it.
    pub fn accept(&self, token: &str, login: &str) {
        let who = Identity { login: login.into(), personal: true, hidden: BTreeSet::new(), expires_at: None };
        self.with(|hub, _| hub.tokens.insert(token.into(), who));
        self.secrets(&[token]);
    }

    /// No token sees the repository any more: 404.
    pub fn hide(&self, name: &str) {
        self.with(|hub, _| {
            for who in hub.tokens.values_mut() {
                who.hidden.insert(name.into());
            }
        });
    }

    /// Changes a repository: its labels, collaborators, whether there is CI, …
    pub fn change(&self, name: &str, change: impl FnOnce(&mut Repository)) {
        self.with(|hub, _| change(hub.repository_mut(name)));
    }

    /// So many requests are left until the hour is over.
    pub fn remaining(&self, requests: i64, reset_in: Duration) {
        self.with(|hub, log| {
            hub.remaining = requests;
            hub.resets_at = log.now().as_second() + i64::try_from(reset_in.as_secs()).unwrap();
        });
    }

    /// CI's word on the newest commit of a branch: `completed`, `success`.
    pub fn checks(&self, name: &str, branch: &str, status: &str, conclusion: Option<&str>) {
        self.with(|hub, _| {
            let id = hub.id();
            let repository = hub.repository_mut(name);
            let sha = repository.bare.branch(branch).unwrap();
            repository.suites.insert(sha.clone(), vec![suite(id, branch, &sha, status, conclusion)]);
        });
    }

    /// A person closes an issue or a pull request.
    pub fn close(&self, name: &str, number: u64, by: &str) {
        self.close_as(name, number, by, "completed");
    }

    /// `reason`: `completed` or `not_planned`.
    pub fn close_as(&self, name: &str, number: u64, by: &str, reason: &str) {
        self.with(|hub, log| issues::set_state(hub, name, number, "closed", Some(reason), by, log));
    }

    pub fn reopen(&self, name: &str, number: u64, by: &str) {
        self.with(|hub, log| issues::set_state(hub, name, number, "open", Some("reopened"), by, log));
    }

    /// A person merges a pull request: its tree is on the base.
    pub fn merge(&self, name: &str, number: u64, by: &str) -> String {
        self.with(|hub, log| pulls::merge(hub, name, number, by, log))
    }

    /// A person marks a draft as ready.
    pub fn ready(&self, name: &str, number: u64) {
        self.change(name, |found| found.issues.get_mut(&number).unwrap().pull.as_mut().unwrap().draft = false);
    }

    /// A person comments.
    pub fn comment(&self, name: &str, number: u64, by: &str, body: &str) -> u64 {
        self.with(|hub, log| issues::add_comment(hub, name, number, by, body, log))
    }

    /// A person opens an issue.
    pub fn open_issue(&self, name: &str, by: &str, title: &str, body: &str) -> u64 {
        self.with(|hub, log| issues::open(hub, name, by, title, body, log))
    }

    /// A person sets the labels.
    pub fn label(&self, name: &str, number: u64, labels: &[&str]) {
        self.change(name, |found| {
            found.labels.extend(labels.iter().map(|label| (*label).to_owned()));
            found.issues.get_mut(&number).unwrap().labels = labels.iter().map(|label| (*label).to_owned()).collect();
        });
    }

    pub fn delete_branch(&self, name: &str, branch: &str) {
        self.with(|hub, log| {
            let name_of = format!("refs/heads/{branch}");
            hub.repository(name).bare.git(&["update-ref", "-d", &name_of], b"").unwrap();
            hub.branch_gone(name, &name_of, log);
        });
    }

    /// Pull requests as the API shows them, by number.
    pub fn pulls(&self, name: &str) -> Vec<Value> {
        self.with(|hub, _| {
            let all = hub.repository(name).issues.values().filter(|issue| issue.pull.is_some());
            all.map(|issue| pulls::shown(hub, name, issue)).collect()
        })
    }

    /// Issues that are no pull requests.
    pub fn issues(&self, name: &str) -> Vec<Value> {
        self.with(|hub, _| {
            let all = hub.repository(name).issues.values().filter(|issue| issue.pull.is_none());
            all.map(|issue| issues::shown(hub, name, issue)).collect()
        })
    }

    pub fn comments(&self, name: &str, number: u64) -> Vec<Value> {
        self.with(|hub, _| {
            let issue = &hub.repository(name).issues[&number];
            issue.comments.iter().map(|comment| issues::comment_shown(hub, name, number, comment)).collect()
        })
    }

    /// Branches and what they are at.
    pub fn branches(&self, name: &str) -> BTreeMap<String, String> {
        self.with(|hub, _| {
            let format = "--format=%(refname:short) %(objectname)";
            let all = hub.repository(name).bare.git(&["for-each-ref", format, "refs/heads/"], b"").unwrap();
            all.lines().filter_map(|line| line.split_once(' ')).map(|(name, sha)| (name.into(), sha.into())).collect()
        })
    }

    /// The tree of a branch or a commit, to compare with the one that was proved.
    pub fn tree(&self, name: &str, of: &str) -> Option<String> {
        self.with(|hub, _| hub.repository(name).bare.tree_of(of))
    }

    /// The bare repository on disk.
    pub fn git_dir(&self, name: &str) -> PathBuf {
        self.with(|hub, _| hub.repository(name).bare.dir.clone())
    }

    /// The text of a file on a branch.
    pub fn file(&self, name: &str, branch: &str, path: &str) -> Option<String> {
        self.with(|hub, _| hub.repository(name).bare.git(&["show", &format!("{branch}:{path}")], b"").ok())
    }
}
