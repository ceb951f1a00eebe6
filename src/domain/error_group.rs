//! A group of errors as our own intake keeps it.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

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
    /// The newest event as it came, after normalisation. Null when it is not kept any more.
    pub event: Value,
}

/// A group as a list shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ErrorGroupLine {
    pub project: String,
    pub id: String,
    pub key: String,
    pub title: String,
    pub culprit: String,
    pub level: String,
    pub platform: String,
    pub count: u64,
    pub users: u64,
    pub first_seen: Timestamp,
    pub last_seen: Timestamp,
    pub releases: Vec<String>,
    pub environments: Vec<String>,
    pub levels: Vec<String>,
    /// Events of which the whole is kept.
    pub kept: u64,
    /// When a trigger was told of it last.
    pub told_at: Option<Timestamp>,
}

/// Events of one group that came together: what is counted of them, and those that are kept.
#[derive(Clone, Debug)]
pub struct SeenErrors {
    pub project: String,
    pub key: String,
    /// These four of the newest.
    pub title: String,
    pub culprit: String,
    pub level: String,
    pub platform: String,
    pub count: u64,
    /// Hashes of who met it.
    pub users: BTreeSet<u64>,
    pub first: Timestamp,
    pub last: Timestamp,
    pub releases: Vec<String>,
    pub environments: Vec<String>,
    pub levels: Vec<String>,
    /// The oldest first.
    pub events: Vec<KeptEvent>,
}

/// An event to be kept whole.
#[derive(Clone, Debug)]
pub struct KeptEvent {
    pub event_id: String,
    pub raw: Box<RawValue>,
}

/// Events that were not taken in, or were given up again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ErrorDrops {
    pub project: String,
    /// `limit`, `busy`, `too_large`, `unreadable`, `groups`, `users`, `bytes`
    pub reason: String,
    pub count: u64,
}

/// A group with what the triggers know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorStanding {
    pub project: String,
    pub key: String,
    pub title: String,
    pub count: u64,
    pub users: u64,
    pub last_seen: Timestamp,
    /// When it was seen before its newest events, where that is known.
    pub seen_before: Option<Timestamp>,
    /// What they were told last; `None`: nothing yet.
    pub told: Option<ErrorTold>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorTold {
    pub count: u64,
    pub users: u64,
    pub at: Timestamp,
}
