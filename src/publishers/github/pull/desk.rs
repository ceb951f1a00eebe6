//! One repository on GitHub and who we are there: what is found, and writes that are looked for before they are sent again.

use serde_json::{Value, json};

use super::marker::Marker;
use crate::base::env::Env;
use crate::clients::github::{
    GitHub, GitHubError, Identity, RepositoryFacts, Visibility, Write, repository_route, segment,
};
use crate::ports::publisher::{PublishError, PublisherSetup};
use crate::ports::service::HomeRepository;
use crate::publishers::github::error;

/// Pull requests, last touched first, among which ours are looked for.
const MOST_SEEN: usize = 300;
/// Every branch of ours begins so.
pub(super) const PREFIX: &str = "nightcrew/";

pub(super) struct Desk<'a> {
    pub github: GitHub,
    pub env: &'a Env,
    pub home: &'a HomeRepository,
    pub facts: RepositoryFacts,
    /// `/repos/owner/name`
    pub route: String,
    pub me: Identity,
}

/// How one looks for what a write may have left.
pub(super) enum Sought<'a> {
    /// An object or anything else that is either there or not.
    Route(String),
    /// A branch at this commit.
    Ref { branch: &'a str, commit: &'a str },
    /// A pull request from this branch.
    Pull { branch: &'a str },
    /// A pull request whose marker is this one.
    Marked { number: u64, marker: &'a Marker },
}

/// A pull request as far as it concerns us.
#[derive(Clone, Debug)]
pub(super) struct Pull {
    pub number: u64,
    pub url: String,
    pub branch: String,
    pub head: String,
    pub open: bool,
    pub merged: bool,
    pub draft: bool,
    pub author: String,
    pub body: String,
    pub labels: Vec<String>,
    pub assigned: bool,
    pub asked: bool,
}

impl Pull {
    pub fn of(found: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let some = |value: &Value| value.as_array().is_some_and(|list| !list.is_empty());
        Some(Self {
            number: found["number"].as_u64()?,
            url: text(&found["html_url"]),
            branch: text(&found["head"]["ref"]),
            head: text(&found["head"]["sha"]),
            open: found["state"] == "open",
            merged: found["merged_at"].is_string() || found["merged"] == true,
            draft: found["draft"] == true,
            author: text(&found["user"]["login"]),
            body: text(&found["body"]),
            labels: found["labels"].as_array().into_iter().flatten().map(|label| text(&label["name"])).collect(),
            assigned: some(&found["assignees"]),
            asked: some(&found["requested_reviewers"]) || some(&found["requested_teams"]),
        })
    }

    pub fn marker(&self) -> Option<Marker> {
        Marker::find(&self.body)
    }
}

impl<'a> Desk<'a> {
    /// Errors: what is missing in the configuration or over there.
    pub async fn open(setup: &'a PublisherSetup) -> Result<Self, PublishError> {
        let missing = |message: &str| PublishError::Missing {
            message: message.to_owned(),
            help: "write `repository: {github: owner/name}` in the pipeline".into(),
        };
        let home = setup.repository.as_ref().ok_or_else(|| missing("the pipeline names no repository"))?;
        let name = home.github.as_deref().ok_or_else(|| missing("the repository has no name on GitHub"))?;
        let route = repository_route(name).map_err(error)?;
        let github = GitHub::of(&setup.outside).map_err(error)?;
        let facts = github.repository(name).await.map_err(error)?;
        let me = github.identity().await.map_err(error)?;
        Ok(Self { github, env: &setup.outside.env, home, facts, route, me })
    }

    /// The branch that pull requests go into.
    pub fn base(&self) -> &str {
        let named = self.home.r#ref.as_deref().filter(|name| *name != "HEAD");
        named.map_or(self.facts.default_branch.as_str(), |name| name.strip_prefix("refs/heads/").unwrap_or(name))
    }

    pub fn is_public(&self) -> bool {
        self.facts.visibility == Visibility::Public
    }

    pub fn is_mine(&self, pull: &Pull) -> bool {
        pull.author.eq_ignore_ascii_case(&self.me.login)
    }

    fn pulls(&self, found: &[Value]) -> Vec<Pull> {
        let own = |found: &&Value| {
            // From a fork anybody may use our names.
            let from = found["head"]["repo"]["full_name"].as_str();
            from.is_none_or(|from| from.eq_ignore_ascii_case(&self.facts.name))
                && found["head"]["ref"].as_str().is_some_and(|branch| branch.starts_with(PREFIX))
        };
        found.iter().filter(own).filter_map(Pull::of).collect()
    }

    /// Pull requests from our branches of this repository, by whomever: those from the branch `exactly`, or the last ones.
    pub async fn of_branch(&self, exactly: &str) -> Result<Vec<Pull>, GitHubError> {
        let owner = self.facts.name.split('/').next().unwrap_or_default();
        let query = [("head", format!("{owner}:{exactly}")), ("state", "all".to_owned())];
        let found = self.github.list(&format!("{}/pulls", self.route), &query, MOST_SEEN).await?;
        // Some servers do not know the filter.
        Ok(self.pulls(&found).into_iter().filter(|pull| pull.branch == exactly).collect())
    }

    /// The same in one state (`open`, `closed`, `all`), last touched first.
    pub async fn recent(&self, state: &str) -> Result<Vec<Pull>, GitHubError> {
        let words = [("state", state), ("sort", "updated"), ("direction", "desc")];
        let query = words.map(|(name, value)| (name, value.to_owned()));
        let found = self.github.list(&format!("{}/pulls", self.route), &query, MOST_SEEN).await?;
        Ok(self.pulls(&found))
    }

    /// The commit that a branch is at.
    pub async fn branch(&self, name: &str) -> Result<Option<String>, GitHubError> {
        let path = name.split('/').map(segment).collect::<Vec<_>>().join("/");
        let found = match self.github.get(&format!("{}/git/ref/heads/{path}", self.route), &[]).await {
            Ok(found) => found,
            Err(GitHubError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        // A server may answer with all that begin so.
        let whole = format!("refs/heads/{name}");
        Ok(found["object"]["sha"].as_str().filter(|_| found["ref"] == whole.as_str()).map(str::to_owned))
    }

    /// What is at a route, if it is there.
    pub async fn maybe(&self, route: &str) -> Result<Option<Value>, GitHubError> {
        match self.github.get(route, &[]).await {
            Ok(found) => Ok(Some(found)),
            Err(GitHubError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Our own commit: it names the same cause, and we are its author.
    pub async fn is_our_commit(&self, commit: &str, id: &str) -> Result<bool, GitHubError> {
        let found = self.maybe(&format!("{}/git/commits/{commit}", self.route)).await?.unwrap_or_default();
        let message = found["message"].as_str().unwrap_or_default();
        let names = |line: &str| {
            let key = line.strip_prefix("Nightcrew: ").and_then(|rest| rest.split(' ').next());
            key.is_some_and(|key| key == id || key.ends_with(&format!("-{id}")))
        };
        Ok(message.lines().any(names) && found["author"]["email"] == self.me.email().as_str())
    }

    async fn seek(&self, sought: &Sought<'_>) -> Result<Option<Value>, GitHubError> {
        match sought {
            Sought::Route(route) => self.maybe(route).await,
            Sought::Ref { branch, commit } => {
                Ok(self.branch(branch).await?.filter(|at| at == commit).map(|at| json!({"object": {"sha": at}})))
            }
            Sought::Pull { branch } => {
                let found = self.of_branch(branch).await?.into_iter().find(|pull| pull.open && self.is_mine(pull));
                match found {
                    Some(pull) => self.maybe(&format!("{}/pulls/{}", self.route, pull.number)).await,
                    None => Ok(None),
                }
            }
            Sought::Marked { number, marker } => {
                let found = self.maybe(&format!("{}/pulls/{number}", self.route)).await?;
                let is =
                    |found: &Value| Marker::find(found["body"].as_str().unwrap_or_default()).as_ref() == Some(*marker);
                Ok(found.filter(is))
            }
        }
    }

    /// A write. Where it is not clear that it was done, it is looked for; only what is not there is sent once more.
    ///
    /// Errors: `Ambiguous` when looking did not tell.
    pub async fn write(
        &self,
        method: Write,
        route: &str,
        body: &Value,
        sought: Sought<'_>,
    ) -> Result<(Value, bool), GitHubError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let error = match self.github.write(method, route, body).await {
                Ok(answer) => return Ok((answer, false)),
                Err(error) => error,
            };
            let exists = says(&error, "already exists");
            let unclear = matches!(
                error,
                GitHubError::Ambiguous { .. } | GitHubError::RateLimited { .. } | GitHubError::Unavailable { .. }
            );
            if !exists && !unclear {
                return Err(error);
            }
            let found = match (self.seek(&sought).await, &error) {
                (Ok(found), _) => found,
                (Err(looking), GitHubError::Ambiguous { message }) => {
                    return Err(GitHubError::Ambiguous {
                        message: format!("{message}; and looking for it: {looking}"),
                    });
                }
                (Err(looking), _) => return Err(looking),
            };
            match found {
                Some(found) => return Ok((found, true)),
                None if tries < 2 && !exists => {}
                None => return Err(error),
            }
        }
    }
}

/// Whether a refusal says this.
pub(super) fn says(error: &GitHubError, words: &str) -> bool {
    matches!(error, GitHubError::Invalid { message, .. } if message.to_lowercase().contains(words))
}
