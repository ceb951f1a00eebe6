//! Whether evidence proves a fix: red on the base for the reason at hand, green with the patch, nothing worse.
//!
//! The host ran everything itself, on trees that it made; what remains to be judged is whether the runs are those that are
//! needed, whether they can be believed, and what they show. The one who wrote the patch wrote the new tests too, and wants to
//! be proved right: so silence is never taken for success. A test that is missing, skipped or unreadable counts against.
//!
//! What it does not do: run anything, or look at the patch (that is `policy::diff`). Invariants: pure; all reasons are given at
//! once where they do not follow from each other; texts say what to do, to an agent or to a person.

use serde_json::Value;

use crate::domain::proof::{Evidence, Proven};

mod modules;
mod paths;
mod reasons;
mod runs;
mod verdict;
mod words;
#[cfg(test)]
mod table;

/// One reason why a patch is not proved. Texts are for the agent that wrote it and for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unproved {
    pub why: String,
}

/// The verdict. Pure: the publisher asks again over the same evidence before it acts.
///
/// Errors: every reason why not, the weightiest first; never empty.
pub fn judge(evidence: &Evidence) -> Result<Proven, Vec<Unproved>> {
    verdict::judge(evidence)
}

/// Whether a file is a test by its path, in the customs of Rust, Python, JavaScript and others. Data beside tests is part of
/// them; what configures a test runner is not.
pub fn is_test(path: &str) -> bool {
    paths::is_test(path)
}

/// For a Rust file with test modules inside: `base` with the test modules of `new` and nothing else of it. `None`: no difference,
/// or one of the two cannot be understood.
///
/// Test modules are `#[cfg(test)] mod …`, whether they stand there or name a file. Modules that `base` does not have go to its
/// end, those that `new` does not have disappear.
pub fn with_tests_of(base: &str, new: &str) -> Option<String> {
    modules::with_tests_of(base, new)
}

/// What an error item says of itself: exception types, telling parts of its message, its own functions. The most telling first,
/// at most 12; words that stand in every failure are left out.
pub fn reasons(error: &Value) -> Vec<String> {
    reasons::reasons(error)
}
