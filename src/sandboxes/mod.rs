//! Where commands of repositories and agents run, one file per kind.

use crate::ports::sandbox::SandboxKind;

/// Every sandbox that a profile can name.
pub const ALL: &[SandboxKind] = &[
    SandboxKind { name: "sandboxd", summary: "confined on this machine, without a key", make: None },
    SandboxKind { name: "e2b", summary: "E2B's cloud", make: None },
];
