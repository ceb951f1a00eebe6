//! Workspaces: the code under work is a git tree in a private bare repository.
//!
//! A [`Repository`] is ours alone: it fetches from the user's clone or from a server and never writes there. A [`Snapshot`] reads
//! one tree; [`Repository::edit`] makes a tree from a tree; [`Repository::diff`] compares two. A [`Worktree`] is a copy in
//! files, a cache that can be rebuilt at any time, for sandboxes to mount and for searching at the speed of files. [`Code`] is
//! either of the two as the tools `read`, `search` and `tree` see it; both give equal answers.
//!
//! What it does not do: hold a credential (one is handed in as [`Access`]), check files out with git (so no filter, hook or link
//! of a repository ever runs), decide what a patch may change (`policy::diff`).
//!
//! Everything here blocks: call it where blocking is allowed. Every act of git has a time limit and a cap on its output.

pub mod claim;
mod directory;
mod files_of;
mod git;
pub mod history;
mod leftovers;
mod look;
mod objects;
mod patch;
mod path;
mod repository;
mod search;
mod tree;
mod worktree;

pub use directory::Directory;
pub use git::{Access, Git, Version};
pub use look::{Code, ReadInput, SearchInput, TreeInput};
pub use path::RepoPath;
pub use repository::{Origin, Repository, Resolved};
pub use tree::{Edited, Entry, Pick, Snapshot};
pub use worktree::{Worktree, Worktrees, remove_folder};

use std::time::Duration;

/// Why something about a workspace did not work. The texts are fit for a model and for a person.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was asked for does not exist.
    #[error("{0}")]
    NotFound(String),
    /// What was asked for breaks a rule, or the repository is of a kind that is not worked on.
    #[error("{0}")]
    Refused(String),
    /// More than `cap` bytes or entries, as `what` says.
    #[error("{what}: more than {cap}")]
    TooLarge { what: String, cap: u64 },
    #[error("{what} took longer than {after:?} and was stopped")]
    Timeout { what: String, after: Duration },
    /// The server or the credential said no.
    #[error("{what}: {message}")]
    Unreachable { what: String, message: String },
    /// Git failed in a way that is not foreseen.
    #[error("{what}: {message}")]
    Git { what: String, message: String },
    #[error("{what}")]
    Io { what: String, source: std::io::Error },
}

impl Error {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// The asker can do something about it: another path, another passage. Otherwise the workspace itself is at fault.
    pub fn is_reply(&self) -> bool {
        match self {
            Self::NotFound(_) | Self::Refused(_) | Self::TooLarge { .. } => true,
            Self::Timeout { .. } | Self::Unreachable { .. } | Self::Git { .. } | Self::Io { .. } => false,
        }
    }
}
