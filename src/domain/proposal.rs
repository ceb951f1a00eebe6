//! What the host is asked to publish: typed, with destinations from YAML and configuration only.

use serde::{Deserialize, Serialize};

use super::code::TreeId;
use super::proof::Evidence;
use super::run::Effects;

/// One thing to publish.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    /// `tickets` or `pull_requests`: the name that the profile binds.
    pub sink: String,
    /// By which the publisher finds what it already made; the same for the same cause in every run. Fit for a file name.
    pub key: String,
    pub effects: Effects,
    /// Pipeline, its hash and the run: the provenance marker.
    pub pipeline: String,
    pub definition: String,
    pub run: String,
    pub what: Proposed,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Proposed {
    Ticket(Box<TicketText>),
    PullRequest(Box<PullRequestText>),
    /// The findings of a ticket are gone.
    CloseTicket {
        why: String,
    },
}

/// A ticket from typed fields. All texts are untrusted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TicketText {
    /// The harm, not the tool.
    pub title: String,
    pub severity: Option<String>,
    pub harm: String,
    /// In order, each with a heading: root cause, why it was not fixed, …
    pub sections: Vec<(String, String)>,
    pub findings: Vec<TicketFinding>,
    /// What a machine could check.
    pub accept: Vec<String>,
    pub labels: Vec<String>,
    pub assignees: Vec<String>,
    /// Code it was found in.
    pub commit: Option<String>,
    /// How often and by how many seen, first and last, for errors: (name, value).
    pub facts: Vec<(String, String)>,
    pub closed_as_not_planned: Option<String>,
}

/// One member of a ticket.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TicketFinding {
    pub fingerprint: String,
    pub title: String,
    pub file: Option<String>,
    pub line: Option<u32>,
    /// The deciding line, as quoted and checked.
    pub quote: Option<String>,
}

/// A draft pull request from typed fields. All texts are untrusted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PullRequestText {
    pub title: String,
    /// What was wrong, what changes, what was not checked.
    pub cause: String,
    pub change: String,
    pub limits: Vec<String>,
    /// `Fixes API-4F2`.
    pub fixes: Vec<String>,
    /// Text of the patch.
    pub patch: String,
    pub new_tree: TreeId,
    pub evidence: Evidence,
    /// What the reviewer said and what was done about it: (round, verdict, text).
    pub review: Vec<(u32, String, String)>,
    pub labels: Vec<String>,
    pub reviewers: Vec<String>,
    pub expires_days: Option<u32>,
    pub max_open: Option<u32>,
    pub cost_usd: f64,
    pub models: Vec<String>,
}

/// What became of a proposal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    pub state: PublishState,
    pub receipt: super::activity::Receipt,
    /// For people: `branch nightcrew/parse-error-3f9c`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PublishState {
    Opened,
    Updated,
    /// It was there already, as proposed.
    Unchanged,
    Closed,
    /// `effects: preview`: it would have been.
    WouldHave,
    /// A person closed it, or it is muted: left alone.
    LeftAlone,
}
