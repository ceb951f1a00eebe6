//! GitHub's REST API through octocrab: a token or an App, one gate for the rate limits of all runs, errors by what to do next.
//!
//! octocrab retries nothing (`RetryConfig::None`): a write that is sent again without looking would be done twice. Reads are repeated
//! here; a write is sent once, and when its end is not known the caller looks before it sends again.

use serde_json::Value;

use crate::base::secret::Secret;
use crate::ports::service::Outside;

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
    /// A rate limit that lasts longer than a call may wait. Nothing was sent.
    #[error("GitHub's rate limit is used up for {after:?}")]
    RateLimited { after: std::time::Duration },
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
    pub name: String,
    pub visibility: Visibility,
    pub default_branch: String,
}

/// The method of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    Post,
    Patch,
    Put,
    Delete,
}

/// The client. One for each address and credential; cheap to clone.
#[derive(Clone, Debug)]
pub struct GitHub {
    outside: Outside,
}

impl GitHub {
    /// The client for `services.github`, shared by the process. Contacts nothing.
    ///
    /// Errors: `Missing` without address or credential.
    pub fn of(outside: &Outside) -> Result<Self, GitHubError> {
        Ok(Self { outside: outside.clone() })
    }

    fn later(&self) -> GitHubError {
        let _ = &self.outside;
        GitHubError::Missing { message: "GitHub is not spoken yet".into(), help: "use another version".into() }
    }

    /// GET of a route such as `/repos/acme/api`, repeated while it fails for a passing reason.
    pub async fn get(&self, route: &str, query: &[(&str, String)]) -> Result<Value, GitHubError> {
        let _ = (route, query);
        Err(self.later())
    }

    /// All pages of a list, at most `most` elements.
    pub async fn list(&self, route: &str, query: &[(&str, String)], most: usize) -> Result<Vec<Value>, GitHubError> {
        let _ = (route, query, most);
        Err(self.later())
    }

    /// A write, sent once. Errors: `Ambiguous` when it may have happened.
    pub async fn write(&self, method: Write, route: &str, body: &Value) -> Result<Value, GitHubError> {
        let _ = (method, route, body);
        Err(self.later())
    }

    /// Facts about `owner/name`, kept for ten minutes.
    pub async fn repository(&self, name: &str) -> Result<RepositoryFacts, GitHubError> {
        let _ = name;
        Err(self.later())
    }

    /// The login that acts: a user, or the bot of an App (`name[bot]`).
    pub async fn login(&self) -> Result<String, GitHubError> {
        Err(self.later())
    }

    /// A token for git, valid for at least ten minutes: the personal one, or one of the App's installation.
    pub async fn token(&self) -> Result<Secret, GitHubError> {
        Err(self.later())
    }
}
