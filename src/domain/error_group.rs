//! A group of errors as our own intake keeps it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Events of one cause, counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorGroup {
    /// The identity: 16 hex digits, see `policy::errors`.
    pub key: String,
    pub project: String,
    /// For people: the first six digits of the key.
    pub id: String,
    pub title: String,
    /// Events ever seen.
    pub count: u64,
    /// Distinct users, counted exactly up to a bound.
    pub users: u64,
    pub first_seen: Timestamp,
    pub last_seen: Timestamp,
    /// Newest last; bounded.
    pub releases: Vec<String>,
    /// The newest event as it came, after normalisation.
    pub event: Value,
}
