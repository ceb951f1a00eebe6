//! A source: where rows and work items come from. Read-only.
//!
//! How to write one: a file in `sources/` with a `KIND` and an implementation of [`Source`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::base::BoxFuture;
use crate::base::secret::SecretRef;
use crate::domain::activity::Rows;
use crate::domain::definition::ToolQuery;
use crate::domain::error_group::ErrorGroup;

use super::service::Outside;

/// One row of the table of sources.
#[derive(Clone, Copy, Debug)]
pub struct SourceKind {
    /// The key in the configuration: `sqlite`, `http`, `postgres`, `files`…
    pub name: &'static str,
    pub summary: &'static str,
    /// The word a pipeline's tool uses for it (`sql`, `http`), or empty when it is fetched by its own name.
    pub query: &'static str,
    /// `None`: known to the configuration, not built yet.
    pub make: Option<MakeSource>,
}

/// Makes a source; contacts nothing.
pub type MakeSource = fn(&SourceSetup) -> Result<Arc<dyn Source>, SourceError>;

/// What the configuration or a profile says about one source.
#[derive(Clone, Debug)]
pub struct SourceSetup {
    pub name: String,
    /// File, glob or URL in clear.
    pub target: Option<String>,
    /// A target that is a secret (a database URL).
    pub secret: Option<SecretRef>,
    pub auth: SourceAuth,
    pub paging: Paging,
    pub timeout: Duration,
    /// The folder against which files are resolved.
    pub base: PathBuf,
    pub outside: Outside,
    /// The project of `on.sentry`, for sources of errors.
    pub project: Option<String>,
    /// `owner/name` of the pipeline's repository.
    pub repository: Option<String>,
    /// What our own intake has received.
    pub errors: Option<Arc<dyn ErrorShelf>>,
}

impl SourceSetup {
    /// A source of this name with nothing else said; relative files start at `base`.
    pub fn new(name: impl Into<String>, base: impl Into<PathBuf>, outside: Outside) -> Self {
        Self {
            name: name.into(),
            target: None,
            secret: None,
            auth: SourceAuth::None,
            paging: Paging::None,
            timeout: Duration::from_secs(30),
            base: base.into(),
            outside,
            project: None,
            repository: None,
            errors: None,
        }
    }
}

/// How an HTTP service is shown who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SourceAuth {
    #[default]
    None,
    /// `Authorization: Bearer …`
    Bearer(SecretRef),
    /// `Authorization: Basic …`; the secret is `user:password`.
    Basic(SecretRef),
    /// A header of this name.
    Header { name: String, secret: SecretRef },
    /// A parameter of the query string of this name.
    Query { name: String, secret: SecretRef },
}

impl SourceAuth {
    pub fn secret(&self) -> Option<&SecretRef> {
        match self {
            Self::None => None,
            Self::Bearer(secret) | Self::Basic(secret) | Self::Header { secret, .. } | Self::Query { secret, .. } => {
                Some(secret)
            }
        }
    }
}

/// How the rows after the first page are found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Paging {
    /// One answer is all.
    #[default]
    None,
    /// The header `Link` with `rel="next"` (RFC 8288).
    Link,
    /// The answer holds, at this path (`$.meta.next`), what `param` takes for the next page; without `param` its address.
    Cursor { param: Option<String>, at: String },
    /// Pages are counted, the first is `first`. A page with fewer rows than `size` is the last one; without `size` an empty one.
    Page { param: String, first: u32, size: Option<PageSize> },
    /// So many rows are left out; `param` is 0 for the first page.
    Offset { param: String, size: Option<PageSize> },
}

/// How many rows a page has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageSize {
    /// The parameter that asks for so many; `None`: the service decides, and this is what it decides.
    pub param: Option<String>,
    pub rows: u32,
}

/// The errors that our own intake has received, grouped. Blocking.
pub trait ErrorShelf: Send + Sync + std::fmt::Debug {
    /// Groups of a project that were seen since then, the one seen last first; at most so many.
    fn groups(&self, project: &str, since: jiff::Timestamp, most: u32) -> Result<Vec<ErrorGroup>, String>;
    /// One group by its key, with the newest event as it came.
    fn group(&self, project: &str, key: &str) -> Result<Option<ErrorGroup>, String>;
}

/// One read.
pub struct SourceQuery<'a> {
    /// The tool's query, when a tool of the pipeline asks.
    pub query: Option<&'a ToolQuery>,
    /// The literal `query:` of a fetch, in the source's own language.
    pub filter: Option<&'a str>,
    pub args: &'a Map<String, Value>,
    pub max_rows: u32,
}

/// A source bound to its address. Reads are repeatable and change nothing. Cancel safe.
pub trait Source: Send + Sync {
    fn fetch<'a>(&'a self, query: SourceQuery<'a>) -> BoxFuture<'a, Result<Rows, SourceError>>;
}

/// Why a read gave no rows.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A person must supply or repair something.
    #[error("source `{name}` is not usable: {message}")]
    Missing { name: String, message: String, help: String },
    /// The service refuses this secret. Runs that need it wait until it is replaced.
    #[error("source `{name}` refuses the secret `{secret}`: {message}")]
    Credential { name: String, secret: String, message: String, help: String },
    /// Worth another try.
    #[error("source `{name}` does not answer: {message}")]
    Unavailable { name: String, message: String, after: Option<Duration> },
    /// The question is wrong: bad SQL, unknown path.
    #[error("source `{name}` refused the query: {message}")]
    Refused { name: String, message: String },
}

/// Resolves `path` against `base` unless it is absolute.
pub fn resolve(base: &Path, path: &str) -> PathBuf {
    base.join(path)
}
