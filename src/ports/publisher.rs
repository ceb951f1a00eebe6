//! A publisher: where tickets and pull requests go. Finds what it already made before it makes anything.
//!
//! How to write one: a file in `publishers/` with a `KIND` and an implementation of [`Publisher`]. Every text of a proposal is
//! untrusted; the publisher escapes all of them. What may be published was decided before (`policy`).

use std::path::PathBuf;
use std::sync::Arc;

use crate::base::BoxFuture;
use crate::domain::code::{BlobId, CommitId, Mode, TreeId};
use crate::domain::proposal::{Proposal, Published, Tended};

use super::service::{HomeRepository, Outside};
use super::sink::Earlier;

/// One row of the table of publishers.
#[derive(Clone, Copy, Debug)]
pub struct PublisherKind {
    /// What a profile's `sinks` binds `tickets` and `pull_requests` to: `files`, `local_branch`, `github`.
    pub name: &'static str,
    pub summary: &'static str,
    /// What it takes: `ticket`, `pull_request`, `error_note`.
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
    pub outside: Outside,
    pub repository: Option<HomeRepository>,
}

/// One file that differs between two trees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeChange {
    /// Relative to the repository, with `/`.
    pub path: String,
    /// `Mode::Absent`: it is gone.
    pub mode: Mode,
    pub blob: Option<BlobId>,
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
    /// What turns `base` into `new`, by path; renames are a removal and an addition.
    fn changes(&self, base: &TreeId, new: &TreeId) -> Result<Vec<TreeChange>, String>;
    /// The content of a file.
    fn blob(&self, id: &BlobId) -> Result<Vec<u8>, String>;
    /// A file of a tree, if it is there and is a file.
    fn file(&self, tree: &TreeId, path: &str) -> Result<Option<Vec<u8>>, String>;
}

/// A publisher bound to its address. Not cancel safe: a dropped publication may have happened.
pub trait Publisher: Send + Sync {
    fn publish<'a>(
        &'a self,
        proposal: &'a Proposal,
        earlier: Earlier,
    ) -> BoxFuture<'a, Result<Published, PublishError>>;

    /// Looks after what this pipeline has published before: closes drafts that have expired, finds out what people did with the
    /// others, and counts those that are open. Repeatable. A publisher that keeps nothing open has nothing to do.
    fn tend<'a>(&'a self, pipeline: &'a str, now: jiff::Timestamp) -> BoxFuture<'a, Result<Tended, PublishError>> {
        let _ = (pipeline, now);
        Box::pin(async { Ok(Tended::default()) })
    }
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
    /// The service refuses this secret. Runs that need it wait until it is replaced.
    #[error("{message}")]
    Credential { secret: String, message: String, help: String },
    /// Nothing was published; worth another try.
    #[error("{message}")]
    Unavailable { message: String, after: Option<std::time::Duration> },
    /// It may have been published, and looking did not tell. It is not sent again; a person is told.
    #[error("it is not known whether it was published: {message}")]
    Unknown { message: String },
    /// Policy: private text would become public.
    #[error("{message}")]
    Unsafe { message: String, help: String },
    /// The branch that the proof is about has moved on; the proof must be repeated on the new base.
    #[error("the base has moved on to {}", now.short())]
    BaseMoved { now: CommitId },
}
