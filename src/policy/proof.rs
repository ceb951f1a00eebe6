//! Whether evidence proves a fix: red on the base for the reason at hand, green with the patch, nothing worse.

use serde_json::Value;

use crate::domain::proof::{Evidence, Proven};

/// One reason why a patch is not proved. Texts are for the agent that wrote it and for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unproved {
    pub why: String,
}

/// The verdict. Pure: the publisher asks again over the same evidence before it acts.
pub fn judge(evidence: &Evidence) -> Result<Proven, Vec<Unproved>> {
    let _ = evidence;
    Err(vec![Unproved { why: "not there yet".into() }])
}

/// Whether a file is a test by its path, in the customs of Rust, Python, JavaScript and others.
pub fn is_test(path: &str) -> bool {
    let _ = path;
    false
}

/// For a Rust file with test modules inside: `base` with the test modules of `new` and nothing else of it. `None`: no difference.
pub fn with_tests_of(base: &str, new: &str) -> Option<String> {
    let _ = (base, new);
    None
}

/// What an error item says of itself: exception types, telling parts of its message, its own functions.
pub fn reasons(error: &Value) -> Vec<String> {
    let _ = error;
    Vec::new()
}
