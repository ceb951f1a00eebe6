//! One run: what began it, what it may do, how it ended.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::base::hash::Hash;
use crate::base::ids::RunId;
use crate::base::money::UsdMicros;

macro_rules! names {
    ($ty:ident { $($variant:ident = $name:literal),+ $(,)? }) => {
        impl $ty {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
        impl std::fmt::Display for $ty {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
        impl std::str::FromStr for $ty {
            type Err = $crate::domain::run::UnknownName;
            fn from_str(s: &str) -> Result<Self, $crate::domain::run::UnknownName> {
                match s { $($name => Ok(Self::$variant),)+ other => Err($crate::domain::run::UnknownName(other.to_owned())) }
            }
        }
    };
}
pub(crate) use names;

/// A word that is not one of the enumeration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown name `{0}`")]
pub struct UnknownName(pub String);

/// Whether anything is published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effects {
    #[default]
    Preview,
    Live,
}
names!(Effects { Preview = "preview", Live = "live" });

/// How a run ended. Ordered by gravity: the greatest of several results is the run's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    NothingNew,
    Reported,
    Declined,
    Acted,
    Blocked,
    Capped,
    Failed,
    Cancelled,
    Unsafe,
}
names!(Outcome {
    NothingNew = "nothing_new",
    Reported = "reported",
    Declined = "declined",
    Acted = "acted",
    Blocked = "blocked",
    Capped = "capped",
    Failed = "failed",
    Cancelled = "cancelled",
    Unsafe = "unsafe",
});

impl Outcome {
    /// Exit code 0 of `run`.
    pub fn is_healthy(self) -> bool {
        self <= Self::Acted
    }
    /// `nightcrew resume` can take it further.
    pub fn is_resumable(self) -> bool {
        matches!(self, Self::Blocked | Self::Capped | Self::Failed)
    }
}

/// Why a run began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TriggerKind {
    Manual,
    Schedule,
    Sentry,
    Webhook,
    Threshold,
    Rest,
    Slack,
}
names!(TriggerKind {
    Manual = "manual",
    Schedule = "schedule",
    Sentry = "sentry",
    Webhook = "webhook",
    Threshold = "threshold",
    Rest = "rest",
    Slack = "slack",
});

/// `(pipeline, kind, key)` is unique: the claim of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trigger {
    pub kind: TriggerKind,
    pub key: String,
    /// What the trigger carries, for instance an event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<serde_json::Value>,
}

/// What a run began with; never changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunStart {
    pub id: RunId,
    pub pipeline: String,
    /// Of the stored definition.
    pub definition: Hash,
    pub profile: String,
    /// The configured settings that bind the profile, as stored text; runs keep what they began with.
    pub effects: Effects,
    pub trigger: Trigger,
    pub params: serde_json::Map<String, serde_json::Value>,
    /// The slot's nominal time, or the moment of the trigger.
    pub nominal_at: Timestamp,
    /// IANA zone in which the run's days are counted.
    pub timezone: String,
    pub started_at: Timestamp,
    /// Identifies the binary: the same build must replay exactly.
    pub build_id: String,
    /// Effective limits (pipeline tightened by daemon), with `--add-usd` not yet counted.
    pub limits: RunLimits,
    /// Stop after this step (`--until`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// Effective limits of one run. `None`: no such limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunLimits {
    pub max_turns: Option<u32>,
    pub max_budget: Option<UsdMicros>,
    pub max_per_day: Option<UsdMicros>,
    pub max_duration_s: Option<u64>,
    /// Thousandths of `max_budget` that only report steps and closing calls may use.
    pub keep_for_report_permille: u32,
}

impl RunLimits {
    /// What may be spent before the report.
    pub fn before_report(&self) -> Option<UsdMicros> {
        self.max_budget.map(|max| max - max.permille(self.keep_for_report_permille))
    }
}

/// A stop that a step asks for; the reason is for people, the code is stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For instance `E-MODEL`.
    pub code: String,
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// The secret that was refused: its run waits until it is replaced, and goes on by itself then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

impl Failure {
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), help: None, secret: None }
    }
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
    /// It waits for this secret.
    pub fn waits_for(mut self, secret: impl Into<String>) -> Self {
        self.secret = Some(secret.into());
        self
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}
