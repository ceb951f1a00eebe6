//! Where commands of repositories and agents run, one file per kind.

use crate::ports::sandbox::SandboxKind;

pub mod e2b;
pub mod sandboxd;

/// Every sandbox that a profile can name.
pub const ALL: &[SandboxKind] = &[sandboxd::KIND, SandboxKind { name: "e2b", summary: "E2B's cloud", make: None }];
