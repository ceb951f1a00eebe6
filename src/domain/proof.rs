//! The proof of a fix as plain data: what the host ran, on which trees, and what every single test did.
//!
//! `policy::proof` decides whether evidence proves anything; only its verdict opens the way to a pull request.

use serde::{Deserialize, Serialize};

use crate::base::hash::Hash;

use super::code::TreeId;
use super::sandbox::{CommandReceipt, Workspace};

/// What one test did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaseState {
    Passed,
    /// Failed or could not be run.
    Failed,
    Skipped,
}

/// One test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    /// Unique within its suite, for instance `duration::tests::negative` or `tests.test_api::test_get`.
    pub name: String,
    pub state: CaseState,
    /// What it said when it failed; cut.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// The tests of one run of the test command, as read from what it wrote for machines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suite {
    /// Sorted by name.
    pub cases: Vec<Case>,
    /// `junit`, `cargo`, `pytest`; empty when single tests could not be read.
    pub format: String,
    /// Why this is not to be relied on: counts that do not add up, a name twice. Empty: it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doubts: Vec<String>,
}

/// What a stage shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageKind {
    /// The suite on the base.
    Base,
    /// Once more, because something failed: what fails twice is broken, what fails once is flaky.
    BaseAgain,
    /// The base with the new tests alone.
    Reproduced,
    /// The base with the whole patch.
    Patched,
    /// Once more, because something failed that passed before.
    PatchedAgain,
}

/// One run of the suite by the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    pub kind: StageKind,
    pub receipt: CommandReceipt,
    pub suite: Suite,
}

/// Everything on which the verdict over a patch rests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The current base, on which everything ran.
    pub base: Workspace,
    /// The base with the new tests alone.
    pub test_tree: TreeId,
    /// The base with the whole patch.
    pub new_tree: TreeId,
    /// Of the patch as text.
    pub patch: Hash,
    /// In the order in which they ran.
    pub stages: Vec<Stage>,
    /// What the failure at hand says of itself: exception types, messages, functions. One of them must stand in what the new
    /// test says when it fails on the base. Empty: nothing is known of it.
    pub reasons: Vec<String>,
    /// What the diff policy found and lets pass, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub noted: Vec<String>,
}

/// What evidence proves, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proven {
    /// Tests that are new, fail on the base and pass with the patch.
    pub red_then_green: Vec<String>,
    /// The reason found in the failing test's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// Tests that passed before and pass now.
    pub unchanged: u32,
    /// Tests that failed before and pass now, beside the new ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also_fixed: Vec<String>,
    /// Tests that fail on the base and still do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known_failures: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flaky: Vec<String>,
}
