//! Work in a sandbox as plain data: one command on one tree, and what came of it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::base::hash::Hash;

use super::code::{CommitId, TreeId};

/// The code that a run works on, as it was when the run looked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workspace {
    /// For people: `acme/api`, or the name of the folder it was taken from.
    pub origin: String,
    /// The branch or other name that was looked up.
    pub reference: String,
    pub commit: CommitId,
    pub tree: TreeId,
    /// How the profile binds it: `path` or `clone`.
    pub bound: String,
}

/// The prepared environment on which commands run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// Of the recipe and of what the recipe reads.
    pub environment: Hash,
    /// It was made now and not found.
    pub built: bool,
    pub duration_ms: u64,
    /// Setup commands (if built) and `checks`, all of which succeeded.
    pub receipts: Vec<CommandReceipt>,
    /// Where: `sandboxd (bubblewrap)`; behind `; ` why it is another one than the profile binds.
    pub sandbox: String,
    /// How long sandboxes lived for this, where that is longer than the call took.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub billed_ms: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// One command to be run in the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRequest {
    /// The tree on which the environment was prepared: the run's base.
    pub base: TreeId,
    /// The tree on which the command runs.
    pub tree: TreeId,
    /// For `/bin/sh -c`. `$JUNIT` names a file for machine-readable results; it is read afterwards if it is there.
    pub command: String,
    /// Nothing of an earlier command is there: a clean checkout on the prepared environment. Else what an earlier command of the
    /// same step left behind (build output) may be used again.
    pub fresh: bool,
    /// The longest it may take, in seconds; `None`: the sandbox's own limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_s: Option<u64>,
    /// Tells repeated runs of the same command apart.
    #[serde(default)]
    pub attempt: u32,
}

impl SandboxRequest {
    /// What a command may take that nobody gave another limit, in seconds.
    pub const WALL_S: u64 = 600;

    /// The longest that it may take, in seconds.
    pub fn wall_s(&self) -> u64 {
        self.wall_s.unwrap_or(Self::WALL_S)
    }
}

/// How a command in the sandbox ended. It having failed is an answer, not an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxAnswer {
    pub receipt: CommandReceipt,
    /// Cut in the middle where they are long.
    pub stdout: String,
    pub stderr: String,
    /// What the command wrote to `$JUNIT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub junit: Option<String>,
    /// How long the sandbox lived for this (since the last command in it), where that is longer than the call took.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub billed_ms: u64,
}

/// What the host saw of one command: part of a proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandReceipt {
    pub command: String,
    pub tree: TreeId,
    /// The exit code, unless a signal or a limit ended it.
    pub exit: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The limit that ended it: `wall`, `memory`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    pub duration_ms: u64,
    /// Of both outputs and `$JUNIT` as they were before anything was cut out.
    pub output: Hash,
    pub environment: Hash,
    /// `sandboxd`, `e2b`.
    pub provider: String,
    /// What the sandbox began with, as its provider names it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub template: String,
    /// Which one it was, as its provider names it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// How it was confined: `bubblewrap`, `namespaces`, `landlock`.
    pub isolation: String,
    /// What that leaves open, in words; empty for the first two.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<String>,
    /// `none`, or the hosts that were reachable.
    pub network: String,
    pub fresh: bool,
    pub at: Timestamp,
}

impl CommandReceipt {
    /// It ended by itself with exit code 0.
    pub fn succeeded(&self) -> bool {
        self.exit == Some(0) && self.stopped.is_none()
    }
}
