//! Where commands of repositories and agents run: one adapter for whoever speaks E2B's protocol, and a row for each place.

use crate::ports::sandbox::SandboxKind;

pub mod e2b;

/// Every sandbox that a profile can name.
pub const ALL: &[SandboxKind] = &[e2b::KIND_SANDBOXD, e2b::KIND_E2B];
