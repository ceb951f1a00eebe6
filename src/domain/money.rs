//! Grants and spending: money is reserved before it is spent.

use serde::{Deserialize, Serialize};

use crate::base::money::UsdMicros;

use super::model::{Role, Usage};
use super::run::names;

/// Which cap a call did not fit under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cap {
    /// `each.max_budget_usd` of one item.
    Item,
    /// `limits.max_budget_usd` of the run.
    Run,
    /// `limits.max_per_day_usd` of the pipeline.
    PipelineDay,
    /// `limits.max_per_day_usd` of the daemon.
    DaemonDay,
    /// `limits.max_per_month_usd` of the daemon.
    DaemonMonth,
    /// `limits.max_turns`.
    Turns,
    /// `limits.max_duration`.
    Duration,
    /// `limits.max_open_prs`.
    OpenDrafts,
}

impl std::fmt::Display for Cap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Item => "the budget of this item",
            Self::Run => "the run's budget",
            Self::PipelineDay => "the pipeline's day cap",
            Self::DaemonDay => "the daemon's day cap",
            Self::DaemonMonth => "the daemon's month cap",
            Self::Turns => "the turn limit",
            Self::Duration => "the time limit",
            Self::OpenDrafts => "the most drafts that may be open",
        })
    }
}

/// What the money of one call goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Payee {
    Boss,
    Intern,
    Reviewer,
    /// Seconds of a sandbox that is billed by them.
    Sandbox,
}
names!(Payee { Boss = "boss", Intern = "intern", Reviewer = "reviewer", Sandbox = "sandbox" });

impl Payee {
    /// The role whose model is paid.
    pub fn role(self) -> Option<Role> {
        match self {
            Self::Boss => Some(Role::Boss),
            Self::Intern => Some(Role::Intern),
            Self::Reviewer => Some(Role::Reviewer),
            Self::Sandbox => None,
        }
    }
}

impl From<Role> for Payee {
    fn from(role: Role) -> Self {
        match role {
            Role::Boss => Self::Boss,
            Role::Intern => Self::Intern,
            Role::Reviewer => Self::Reviewer,
        }
    }
}

/// Asks for money for one call. The journal answers in the same transaction that writes `intended`.
#[derive(Clone, Debug, PartialEq)]
pub struct GrantRequest {
    /// What the input costs at most; cannot be lowered.
    pub input: UsdMicros,
    /// What the output costs at most with the full `max_output_tokens`.
    pub output: UsdMicros,
    /// The least that makes the call worth while; between this and `output` the grant may be lowered to fit.
    pub least_output: UsdMicros,
    pub payee: Payee,
    /// The model, or the sandbox's provider.
    pub model: String,
    /// May use the slice held back for reports and closing calls.
    pub from_report_slice: bool,
    /// Counts against `max_turns` (boss, fix, reviewer; not interns, their escalations and audits).
    pub counts_turn: bool,
    /// Item budgets above this call, outermost first: (path prefix of the child, its cap).
    pub items: Vec<(String, UsdMicros)>,
}

/// The answer to a [`GrantRequest`].
#[derive(Clone, Debug, PartialEq)]
pub enum Grant {
    /// Reserved: `input + output`, output perhaps lowered.
    Granted { input: UsdMicros, output: UsdMicros },
    /// Only outstanding grants are in the way: wait for one to be settled and ask again.
    Wait,
    /// It cannot fit alone.
    Refused(Cap),
}

/// What one model call, or one use of a sandbox, really cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Settlement {
    pub cost: UsdMicros,
    pub usage: Usage,
    /// How long a sandbox was used.
    #[serde(default)]
    pub millis: u64,
}

/// Calls, tokens and money of one role within a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RoleSpend {
    pub calls: u64,
    pub usd: UsdMicros,
    pub usage: Usage,
}

/// Commands, time and money of sandboxes that are billed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SandboxSpend {
    pub uses: u64,
    pub usd: UsdMicros,
    pub millis: u64,
}

/// What a run has used so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spend {
    pub turns: u32,
    pub boss: RoleSpend,
    pub intern: RoleSpend,
    pub reviewer: RoleSpend,
    #[serde(default)]
    pub sandbox: SandboxSpend,
    /// Granted and not yet settled, or never settled because of a crash.
    pub reserved: UsdMicros,
}

impl Spend {
    pub fn total(&self) -> UsdMicros {
        self.boss.usd + self.intern.usd + self.reviewer.usd + self.sandbox.usd + self.reserved
    }
    pub fn of(&mut self, role: Role) -> &mut RoleSpend {
        match role {
            Role::Boss => &mut self.boss,
            Role::Intern => &mut self.intern,
            Role::Reviewer => &mut self.reviewer,
        }
    }
}
