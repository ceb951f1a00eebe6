//! What the host is asked to publish: typed, with destinations from YAML and configuration only.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::code::TreeId;
use super::diff::DiffRules;
use super::proof::Evidence;
use super::run::Effects;

/// One thing to publish.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    /// `tickets` or `pull_requests`: the name that the profile binds.
    pub sink: String,
    /// By which the publisher finds what it already made; the same for the same cause in every run. Fit for a file name: words for
    /// people, and behind the last `-` a hash in hex, which alone is the identity.
    pub key: String,
    /// What it is about: of findings and errors. A ticket is found by any of them too. Sorted.
    #[serde(default)]
    pub fingerprints: Vec<String>,
    /// More fingerprints that the ledger knows to be the same: only for finding what is there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub same: Vec<String>,
    /// When the run began: the time that commits bear.
    pub at: Timestamp,
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
    /// What has these fingerprints is gone. The ticket is closed when nothing of it is left. With none: all of it is gone.
    CloseTicket {
        why: String,
    },
    /// Tells the tracker of errors what became of one of its issues.
    ErrorNote(Box<ErrorNote>),
}

/// What the tracker of errors (Sentry) is told of one of its issues. Texts are untrusted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ErrorNote {
    /// The issue's id over there.
    pub issue: String,
    /// One sentence, then links: (what, address). Both come from receipts of the host.
    pub text: String,
    pub links: Vec<(String, String)>,
    /// Sentry's `assignedTo`: `user:ID`, `team:ID` or an address; from YAML.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assign: Option<String>,
    /// Set it resolved.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resolve: bool,
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
    /// Likewise, shown as code: a stack trace, a failing test's words.
    #[serde(default)]
    pub code: Vec<(String, String)>,
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
    /// Another repository than the pipeline's own, `owner/name`; from YAML.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracker: Option<String>,
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
    /// What the pipeline lets the patch do.
    pub rules: DiffRules,
    /// What the reviewer said and what was done about it: (round, verdict, text).
    pub review: Vec<(u32, String, String)>,
    pub labels: Vec<String>,
    pub reviewers: Vec<String>,
    pub expires_days: Option<u32>,
    pub max_open: Option<u32>,
    pub cost_usd: f64,
    pub models: Vec<String>,
}

/// Whether `tracker` names a repository, `owner/name`, and not a kind of tracker.
pub fn is_repository(tracker: &str) -> bool {
    let plain = |part: &str| {
        let fits = part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        fits && !part.is_empty() && part.len() <= 100 && part.chars().any(|c| c != '.')
    };
    matches!(tracker.split_once('/'), Some((owner, name)) if plain(owner) && plain(name))
}

impl Proposal {
    /// The hash behind the last `-` of the key.
    pub fn id(&self) -> &str {
        self.key.rsplit_once('-').map_or(&self.key, |(_, id)| id)
    }
}

impl PublishState {
    /// Something is there that was not before, or is otherwise now.
    pub fn acted(self) -> bool {
        matches!(self, Self::Opened | Self::Updated | Self::Closed)
    }
    /// Something is there that the receipt names.
    pub fn is_there(self) -> bool {
        self.acted() || self == Self::Unchanged
    }
}

/// What was found of earlier publications of a pipeline.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tended {
    /// Drafts that are open now.
    pub open: u32,
    /// What has ended since it was published, whoever ended it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended: Vec<EndedWork>,
}

/// A pull request or ticket that is not open any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndedWork {
    pub key: String,
    pub url: String,
    pub fingerprints: Vec<String>,
    pub how: WorkEnd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkEnd {
    /// The pull request is in.
    Merged,
    /// A person closed it.
    Closed,
    /// A person closed the ticket as not planned.
    NotPlanned,
    /// Nobody looked at it in time; we closed it.
    Expired,
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
    /// A cap holds it back; the note says which.
    Refused,
}
