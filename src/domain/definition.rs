//! The checked pipeline: what `pipeline/` makes of a YAML file and everything downstream trusts.
//!
//! A value of [`Pipeline`] has no mistakes left: references resolve, expressions are parsed and type-checked, limits are
//! consistent. Nothing here does I/O. Options of a step kind stand in [`Options`], typed by the kind's own table
//! (`ports::step::StepKind`), so that a new kind needs no change here.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::hash::Hash;
use crate::base::money::UsdMicros;
use crate::expr::cel::Expr;
use crate::expr::types::Type;

use super::run::Effects;

/// Where a value was written: file as the user knows it, line counted from 1. Line 0: a built-in default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    pub file: String,
    pub line: u32,
}

/// A value and where it comes from: `plan` shows both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct From<T> {
    pub value: T,
    pub origin: Origin,
}

/// One checked pipeline.
#[derive(Clone, Debug)]
pub struct Pipeline {
    pub name: String,
    pub summary: String,
    /// Over the YAML and everything it refers to.
    pub hash: Hash,
    /// The pipeline's file and all it refers to, by path relative to it; the pipeline itself first. The journal keeps them,
    /// so a run goes on with what it began with.
    pub files: Vec<(String, String)>,
    pub owner: Option<Owner>,
    pub effects: Effects,
    pub params: Vec<Param>,
    pub on: On,
    pub limits: Limits,
    pub repository: Option<Repository>,
    pub environment: Option<Environment>,
    pub tools: Vec<ToolDef>,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub channel: String,
    pub alarm_if_late: Option<Duration>,
}

/// A value that a run may be given with `--set name=value`.
#[derive(Clone, Debug)]
pub struct Param {
    pub name: String,
    pub ty: Type,
    /// As written, for instance `yesterday` for a date; resolved against the run's nominal day. `None`: must be given.
    pub default: Option<serde_json::Value>,
}

/// What starts a run beside a person.
#[derive(Clone, Debug, Default)]
pub struct On {
    pub schedule: Option<ScheduleDef>,
    pub sentry: Option<SentryDef>,
}

/// `on.schedule`. The expression and zone are already known to have a next slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleDef {
    pub cron: String,
    pub timezone: String,
    pub missed: Missed,
    /// Older slots are not made up for.
    pub max_age: Option<Duration>,
    pub overlap: Overlap,
    pub jitter: Option<Duration>,
    pub origin: Origin,
}

/// What happens to slots that passed while the daemon was down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    Skip,
    #[default]
    Latest,
    /// All of them, at most this many, the newest first to be kept.
    All(u32),
}

/// What happens to a slot that falls due while a run of the pipeline is still active.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    #[default]
    Skip,
    Queue,
    CancelPrevious,
}

/// `on.sentry`: run when an error is new, worse or back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentryDef {
    pub project: String,
    pub when: Vec<String>,
    pub debounce: Option<Duration>,
    pub every: Option<Duration>,
    pub tell: Option<TellDef>,
}

/// `on.sentry.tell`: what Sentry hears of its issues, in live.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TellDef {
    /// The link of a pull request or ticket.
    pub comment: bool,
    /// To whom an issue that nobody has is assigned: `user:ID`, `team:ID` or an address.
    pub assign: Option<String>,
    /// It is resolved in the next release when the pull request was merged.
    pub resolve: bool,
}

/// Effective limits of a pipeline, before the daemon's are applied. `None`: not limited by the pipeline.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    pub max_turns: Option<From<u32>>,
    pub max_budget_usd: Option<From<UsdMicros>>,
    pub max_per_day_usd: Option<From<UsdMicros>>,
    pub max_duration: Option<From<Duration>>,
    /// Share of the budget held back for the report steps and closing calls, in thousandths.
    pub keep_for_report_permille: Option<From<u32>>,
    pub max_open_prs: Option<From<u32>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// `owner/name`.
    pub github: Option<String>,
    pub r#ref: Option<String>,
    /// The clone that the local profile uses, relative to the pipeline's file.
    pub path: Option<String>,
    /// Where its text may go although it is private: `public_channels`, `public_repositories`.
    pub may_reach: Vec<String>,
}

/// A checked `environments/*.yaml`.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// Path relative to the pipeline.
    pub file: String,
    pub e2b_template: Option<String>,
    pub image: Option<String>,
    pub tools: Vec<String>,
    pub setup: Vec<SetupCommand>,
    pub network_setup: Vec<String>,
    pub network_run: Vec<String>,
    pub services: Vec<(String, ServiceCommand)>,
    pub checks: Vec<String>,
    pub test: Option<String>,
    /// (`sarif` | `cargo` | `jsonl` | `pattern`, command)
    pub scanners: Vec<(String, ScanCommand)>,
    pub fresh_max_age: Option<Duration>,
    pub rebuild_when: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetupCommand {
    pub run: String,
    /// Files it reads; `None`: unknown, so it is cached by the whole tree.
    pub reads: Option<Vec<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCommand {
    pub run: String,
    pub ready: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanCommand {
    pub run: String,
    pub ok_exit: Vec<i32>,
}

/// One entry under `tools:`: a read-only query that `fetch` and agents may call.
#[derive(Clone, Debug)]
pub struct ToolDef {
    pub name: String,
    /// The source it asks, by the name under `sources:` in the configuration.
    pub source: String,
    pub query: ToolQuery,
    pub args: Vec<(String, Type)>,
    pub max_rows: Option<u32>,
    /// Columns that never reach a model or a report.
    pub hide: Vec<String>,
    pub origin: Origin,
}

/// What a tool asks of its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolQuery {
    /// The text of the SQL file, with named parameters `:name`.
    Sql { file: String, text: String },
    /// `GET path` with the arguments as query string; `rows` is a JSONPath such as `$.data`.
    HttpGet { path: String, rows: Option<String> },
    /// An expression in PromQL; `step` in seconds between two points of a range.
    Promql { query: String, step: Option<u64> },
}

/// One entry under `steps:`.
#[derive(Clone, Debug)]
pub struct Step {
    pub id: String,
    pub origin: Origin,
    pub condition: Option<Condition>,
    pub each: Option<Each>,
    pub body: StepBody,
    /// The static type of the step's result, as CEL sees it.
    pub yields: Type,
}

/// A kind with its options, or (below an `each`) a child run's steps.
#[derive(Clone, Debug)]
pub enum StepBody {
    Kind {
        /// A name in `ports::step::Registry`.
        kind: String,
        options: Options,
        /// `output:` of a model kind, or the kind's default.
        output: Option<Type>,
        check: Option<Check>,
    },
    Steps(Vec<Step>),
}

/// `when` (run if true) or `unless` (run if false).
#[derive(Clone, Debug)]
pub struct Condition {
    pub expr: Expr,
    pub negated: bool,
}

/// `each`.
#[derive(Clone, Debug)]
pub struct Each {
    pub name: String,
    pub items: Expr,
    pub order: Option<Order>,
    pub take: Option<u32>,
    pub parallel: Option<u32>,
    /// Per item.
    pub max_budget_usd: Option<UsdMicros>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub field: String,
    pub descending: bool,
}

/// `check` on a model step. Each expression yields the data in which figures or quotes must stand.
#[derive(Clone, Debug, Default)]
pub struct Check {
    pub figures_from: Vec<Expr>,
    pub quotes_from: Vec<Expr>,
}

/// The options of a step as the kind's table typed them. Absent options are absent.
#[derive(Clone, Debug, Default)]
pub struct Options(pub BTreeMap<&'static str, OptionValue>);

/// One checked option value.
#[derive(Clone, Debug)]
pub enum OptionValue {
    Expr(Expr),
    Text(String),
    Integer(i64),
    Money(UsdMicros),
    /// Thousandths.
    Permille(u32),
    Duration(Duration),
    Boolean(bool),
    /// A file that the pipeline refers to: (path, text).
    File(String, String),
    List(Vec<OptionValue>),
    /// Nested options by name, in the order written.
    Map(Vec<(String, OptionValue)>),
}

macro_rules! getter {
    ($(#[$doc:meta])* $name:ident, $variant:ident, $ty:ty) => {
        $(#[$doc])*
        pub fn $name(&self, key: &str) -> Option<$ty> {
            match self.0.get(key) {
                Some(OptionValue::$variant(value)) => Some(value),
                _ => None,
            }
        }
    };
}

impl Options {
    getter!(expr, Expr, &Expr);
    getter!(list, List, &Vec<OptionValue>);
    getter!(map, Map, &Vec<(String, OptionValue)>);
    getter!(duration, Duration, &Duration);
    getter!(integer, Integer, &i64);
    getter!(permille, Permille, &u32);
    getter!(boolean, Boolean, &bool);

    /// Literal text.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.0.get(key) {
            Some(OptionValue::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The expressions under `key`, whether one or a list was written.
    pub fn exprs(&self, key: &str) -> Vec<&Expr> {
        fn collect<'a>(value: &'a OptionValue, into: &mut Vec<&'a Expr>) {
            match value {
                OptionValue::Expr(expr) => into.push(expr),
                OptionValue::List(values) => values.iter().for_each(|v| collect(v, into)),
                _ => {}
            }
        }
        let mut found = Vec::new();
        if let Some(value) = self.0.get(key) {
            collect(value, &mut found);
        }
        found
    }

    /// The texts under `key`, whether one or a list was written.
    pub fn texts(&self, key: &str) -> Vec<&str> {
        match self.0.get(key) {
            Some(OptionValue::Text(text)) => vec![text],
            Some(OptionValue::List(values)) => values
                .iter()
                .filter_map(|v| if let OptionValue::Text(t) = v { Some(t.as_str()) } else { None })
                .collect(),
            _ => Vec::new(),
        }
    }
}

impl Pipeline {
    /// Every step with its path of ids, children after their parent.
    pub fn walk(&self) -> Vec<(Vec<&str>, &Step)> {
        fn go<'a>(steps: &'a [Step], above: &[&'a str], into: &mut Vec<(Vec<&'a str>, &'a Step)>) {
            for step in steps {
                let mut path = above.to_vec();
                path.push(&step.id);
                into.push((path.clone(), step));
                if let StepBody::Steps(children) = &step.body {
                    go(children, &path, into);
                }
            }
        }
        let mut found = Vec::new();
        go(&self.steps, &[], &mut found);
        found
    }

    /// The tool of that name.
    pub fn tool(&self, name: &str) -> Option<&ToolDef> {
        self.tools.iter().find(|tool| tool.name == name)
    }
}
