//! A sink: where reports go. Finds what it already delivered before it delivers.
//!
//! How to write one: a file in `sinks/` with a `KIND` and an implementation of [`Sink`]. The report is a value of untrusted
//! texts; the sink escapes all of them.

use std::path::PathBuf;
use std::sync::Arc;

use crate::base::BoxFuture;
use crate::base::secret::SecretRef;
use crate::domain::activity::{Delivery, Receipt};

use super::service::{HomeRepository, Outside};

/// One row of the table of sinks.
#[derive(Clone, Copy, Debug)]
pub struct SinkKind {
    /// `files`, `terminal`, `slack`…: what `report.to` and a profile's `sinks` name.
    pub name: &'static str,
    pub summary: &'static str,
    /// `None`: part of the dialect, not built yet.
    pub make: Option<MakeSink>,
}

/// Makes a sink; contacts nothing.
pub type MakeSink = fn(&SinkSetup) -> Arc<dyn Sink>;

/// What a sink gets from the daemon.
#[derive(Clone, Debug)]
pub struct SinkSetup {
    /// The folder for everything that is written locally.
    pub out: PathBuf,
    pub outside: Outside,
    /// Whose text the reports hold, if the pipeline works on code.
    pub repository: Option<HomeRepository>,
    /// What the configuration says of a sink of its own (`sinks:`): a folder or an address, and what to sign with.
    pub target: Option<String>,
    pub secret: Option<SecretRef>,
}

impl SinkSetup {
    /// Writes below `out`, reaches nothing else.
    pub fn local(out: impl Into<PathBuf>, outside: Outside) -> Self {
        Self { out: out.into(), outside, repository: None, target: None, secret: None }
    }
}

/// Whether an earlier try may have got through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Earlier {
    /// Nothing was begun.
    None,
    /// It was intended and the end is not known: look before acting.
    Unknown,
}

/// A sink bound to its address. Not cancel safe: a dropped delivery may have happened.
pub trait Sink: Send + Sync {
    fn deliver<'a>(&'a self, delivery: &'a Delivery, earlier: Earlier) -> BoxFuture<'a, Result<Receipt, SinkError>>;
}

/// Why nothing was delivered.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("the sink is not usable: {message}")]
    Missing { message: String, help: String },
    /// The service refuses this secret. Runs that need it wait until it is replaced.
    #[error("{message}")]
    Credential { secret: String, message: String, help: String },
    /// Nothing was delivered; worth another try.
    #[error("{message}")]
    Unavailable { message: String, after: Option<std::time::Duration> },
    /// It may have been delivered, and looking did not tell. It is not sent again; a person is told.
    #[error("it is not known whether it was delivered: {message}")]
    Unknown { message: String },
    /// The service or a rule does not take it; the same again would be refused again.
    #[error("{message}")]
    Refused { message: String, help: String },
}
