//! A publisher: where tickets and pull requests go. Finds what it already made before it makes anything.
//!
//! How to write one: a file in `publishers/` with a `KIND` and an implementation of [`Publisher`]. Every text of a proposal is
//! untrusted; the publisher escapes all of them. What may be published was decided before (`policy`).

use std::path::PathBuf;
use std::sync::Arc;

use crate::base::BoxFuture;
use crate::domain::code::{CommitId, TreeId};
use crate::domain::proposal::{Proposal, Published};

use super::sink::Earlier;

/// One row of the table of publishers.
#[derive(Clone, Copy, Debug)]
pub struct PublisherKind {
    /// What a profile's `sinks` binds `tickets` and `pull_requests` to: `files`, `local_branch`, `github`.
    pub name: &'static str,
    pub summary: &'static str,
    /// What it takes: `ticket`, `pull_request`.
    pub takes: &'static [&'static str],
    /// Changes nothing for anybody else, so it acts in preview too.
    pub local: bool,
    /// `None`: part of the configuration, not built yet.
    pub make: Option<MakePublisher>,
}

/// Makes a publisher; contacts nothing.
pub type MakePublisher = fn(&PublisherSetup) -> Arc<dyn Publisher>;

/// What a publisher gets from the daemon.
#[derive(Clone)]
pub struct PublisherSetup {
    /// The folder for everything that is written locally.
    pub out: PathBuf,
    /// The run's repository, if it has one.
    pub branches: Option<Arc<dyn Branches>>,
}

/// Branches of the private clone. Blocking.
pub trait Branches: Send + Sync {
    /// Puts a commit of `tree` on top of `parent` on a branch of the private clone; the same again changes nothing.
    /// `seconds` since 1970 are the commit's time.
    fn put(
        &self,
        branch: &str,
        tree: &TreeId,
        parent: &CommitId,
        message: &str,
        seconds: i64,
    ) -> Result<CommitId, String>;
    fn find(&self, branch: &str) -> Result<Option<CommitId>, String>;
    /// The folder of the private clone, for people.
    fn folder(&self) -> PathBuf;
}

/// A publisher bound to its address. Not cancel safe: a dropped publication may have happened.
pub trait Publisher: Send + Sync {
    fn publish<'a>(
        &'a self,
        proposal: &'a Proposal,
        earlier: Earlier,
    ) -> BoxFuture<'a, Result<Published, PublishError>>;
}

/// Why nothing was published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("{message}")]
    Missing { message: String, help: String },
    #[error("{message}")]
    Refused { message: String },
}
