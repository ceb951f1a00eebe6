//! Findings with an identity: what was seen, what is known of it, what became of it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::run::names;

/// Sources whose items have an identity (their `key`), by the name that pipelines fetch them from.
pub const WITH_IDENTITY: &[&str] = &["sentry"];

/// What a finding is, compared with what the ledger knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Never handled.
    New,
    /// Handled before, and no worse.
    Ongoing,
    /// Handled before, and much worse now.
    Worsened,
    /// It was gone and is back.
    Regressed,
    /// A person does not want to hear of it.
    Muted,
    /// It was there and is gone.
    Fixed,
}
names!(Standing {
    New = "new",
    Ongoing = "ongoing",
    Worsened = "worsened",
    Regressed = "regressed",
    Muted = "muted",
    Fixed = "fixed",
});

/// What the ledger keeps of a finding that was handled once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingState {
    Handled,
    /// A person does not want to hear of it, for a time or for good.
    Muted,
    /// It was there and is gone.
    Fixed,
}
names!(FindingState { Handled = "handled", Muted = "muted", Fixed = "fixed" });

/// One finding as a source sees it now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Its identity: an item's `key`.
    pub fingerprint: String,
    pub title: String,
    /// How bad, for `worsened`: users or events of an error, occurrences of a scanner's finding.
    pub weight: f64,
    /// Where, for people: `src/a.rs:10`, `api`.
    pub place: String,
    /// When it happened last, where the source knows: what happened before its fix was out has not come back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_at: Option<Timestamp>,
}

/// What a step asks of the ledger. The ledger is kept per pipeline, profile, effects and source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum FindingsRequest {
    /// Compares; changes nothing. `complete`: the source was read whole, so that what is not there is gone. Yields [`Judged`].
    Judge { source: String, seen: Vec<Seen>, complete: bool },
    /// These were taken to their end, or recorded as the baseline. Repeating it is harmless. Yields nothing.
    Handled { source: String, findings: Vec<Handled> },
    /// These are gone. Yields nothing.
    Gone { source: String, fingerprints: Vec<String> },
    /// A figure to remember, for instance how many tests there are; yields `{before}`: what an earlier run remembered.
    Remember { name: String, value: i64 },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Handled {
    pub seen: Seen,
    /// How it ended: `baseline`, `dropped`, `reported`, `ticket`, `pull_request`.
    pub end: String,
    /// Where it can be seen: a ticket, a pull request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

/// What a finding can be tied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TieKind {
    Slack,
    Ticket,
    PullRequest,
}
names!(TieKind { Slack = "slack", Ticket = "ticket", PullRequest = "pull_request" });

/// How what a finding is tied to stands, as we know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TieState {
    Open,
    Merged,
    Closed,
    NotPlanned,
    Expired,
}
names!(TieState {
    Open = "open",
    Merged = "merged",
    Closed = "closed",
    NotPlanned = "not_planned",
    Expired = "expired",
});

/// Where a finding can be seen outside: one message, ticket or pull request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tie {
    pub kind: TieKind,
    /// The sink or publisher that keeps it: `slack`, `github`, `files`.
    pub destination: String,
    /// The identity: its address, or its key where it has none.
    pub url: String,
    /// By which its keeper finds it again.
    pub key: String,
    pub state: TieState,
    /// The run that tied it, or changed its state, and when.
    pub run: String,
    pub at: Timestamp,
}

/// What ended a finding: a pull request that was merged, a ticket that was closed as done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FixedBy {
    pub kind: TieKind,
    pub url: String,
    /// When we learnt of it.
    pub at: Timestamp,
}

/// What a person can say about a finding with one click.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedbackWord {
    /// What was said about it is not what is behind it: it is looked at anew when it is seen next.
    WrongCause,
    /// Nobody wants to hear of it any more.
    WontFix,
}
names!(FeedbackWord { WrongCause = "wrong_cause", WontFix = "wont_fix" });

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feedback {
    pub word: FeedbackWord,
    pub by: String,
    pub at: Timestamp,
}

/// The ledger's answer to `Judge`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// One for each that was seen, in their order.
    pub standings: Vec<Standing>,
    /// Known, not seen and not yet known to be gone; only if the read was complete.
    pub gone: Vec<Seen>,
    /// Nothing was ever recorded for this source.
    pub first: bool,
}

/// One line of the ledger, for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FindingLine {
    /// For commands: the first characters of a hash over its place in the ledger.
    pub id: String,
    pub pipeline: String,
    pub profile: String,
    pub effects: String,
    pub source: String,
    pub fingerprint: String,
    pub title: String,
    pub place: String,
    pub state: FindingState,
    /// How a run ended with it last: `baseline`, `dropped`, `reported`, `ticket`, `pull_request`.
    pub end: String,
    pub url_or_path: Option<String>,
    pub weight: f64,
    pub first_seen: Timestamp,
    pub last_seen: Timestamp,
    /// While it is muted: until when; `None`: for good.
    pub muted_until: Option<Timestamp>,
    /// Why it was muted or dismissed.
    pub reason: Option<String>,
    /// Who muted it, or took that back.
    pub by: Option<String>,
    /// The run that handled it last.
    pub run: String,
    /// A person said that what was made of it is wrong: it is new when it is seen next.
    pub again: bool,
    /// While it is fixed: what did it, as far as we know.
    pub fixed_by: Option<FixedBy>,
    /// Messages, tickets and pull requests, the newest first.
    pub ties: Vec<Tie>,
    /// What people said, the newest first.
    pub feedback: Vec<Feedback>,
    /// Fingerprints that a model has said to be the same, without its own. Sorted.
    pub same_as: Vec<String>,
}
