//! A step kind: a row of data (names, options, what it yields) and durable logic.
//!
//! How to write one: a file in `steps/` with `pub const KIND: StepKind` and an async function from [`StepCall`] to `StepEnd`;
//! a `mod` line and a row in `steps::ALL`. `pipeline/` parses the options from the table, so `validate`, the JSON schema, help
//! and docs follow by themselves.

use crate::base::LocalBoxFuture;
use crate::domain::definition::{Options, Pipeline, Step};
use crate::domain::entry::StepEnd;
use crate::domain::sandbox::{Prepared, Workspace};
use crate::expr::cel::Bindings;
use crate::expr::types::Type;

use super::durable::{DurableContext, Stop};

/// One row of the table of step kinds.
#[derive(Clone, Copy, Debug)]
pub struct StepKind {
    /// As in YAML, `snake_case`.
    pub name: &'static str,
    /// One line.
    pub summary: &'static str,
    /// Options under the kind.
    pub options: &'static [Opt],
    /// Options beside the kind (`require` of a fetch; `diff`, `review`, `tools` of a fix).
    pub beside: &'static [Opt],
    /// A model kind: may have `output` and `check`.
    pub model: bool,
    /// May use the slice of money held back by `keep_for_report`, and runs after a failure.
    pub closing: bool,
    /// The static type of the result, without `ran` and `outcome`, which every step has.
    pub yields: fn(&Yields) -> Type,
    /// Rules that the option table cannot say. Returns mistakes; `at` names the option.
    pub check: fn(&Checked) -> Vec<KindMistake>,
    /// `None`: the kind is part of the dialect and cannot run in this version yet.
    pub run: Option<RunStep>,
    /// A short example for the docs; it must parse as a step.
    pub example: &'static str,
}

/// One option of a kind.
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    pub name: &'static str,
    pub ty: OptType,
    pub required: bool,
    pub doc: &'static str,
}

/// How an option is written. Becomes an `OptionValue`.
#[derive(Clone, Copy, Debug)]
pub enum OptType {
    /// CEL; sees what [`Sees`] says beside the names in scope. → `Expr`
    Expr(Sees),
    /// CEL or a list of CEL, where data is expected. → `Expr` or `List` of `Expr`
    Data,
    /// Literal text. → `Text`
    Text,
    /// One text or a list. → `Text` or `List`
    Texts,
    /// → `Integer`, at least 0
    Integer,
    /// → `Money`
    Money,
    /// `10%` or `0.1`. → `Permille`
    Permille,
    /// → `Duration`
    Duration,
    /// → `Boolean`
    Boolean,
    /// One of these words. → `Text`
    Word(&'static [&'static str]),
    /// One of these words or a list of them. → `Text` or `List`
    Words(&'static [&'static str]),
    /// A file beside the pipeline. → `File`
    File,
    /// The name of a source of items or of a tool of the pipeline, or a list of them. → `Text` or `List` of `Text`
    Sources,
    /// Where a report goes: one of these words, the name of a sink of the configuration, or a list of them. → `Text` or `List`
    Sinks(&'static [&'static str]),
    /// A list of tools: capability names and tools of the pipeline. → `List` of `Text`
    Tools,
    /// A map from argument names to CEL. → `Map` of `Expr`
    Args,
    /// An id of an earlier step. → `Text`
    StepId,
    /// A field name, `-` in front for descending. → `Text`
    Field,
    /// Commands or patterns of a scanner: a text or `{run, ok_exit}`, or a list of those. → `List` of `Map{run, ok_exit}`
    Commands,
    /// The name of a channel. → `Text`
    Channel,
    /// A nested map. → `Map`
    Map(&'static [Opt]),
}

/// Names that one expression sees beside ids, `params`, `trigger` and `run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sees {
    Nothing,
    /// `item`: one of the step's own items.
    Item,
    /// The step's own id: its result so far.
    Own,
    /// `output`: what the model answered.
    Output,
}

/// What `yields` may look at.
pub struct Yields<'a> {
    pub options: &'a Options,
    /// `output`, or the kind's default for its task.
    pub output: Option<&'a Type>,
    /// The type of the expression's value, in the scope of the step.
    pub type_of: &'a dyn Fn(&crate::expr::cel::Expr) -> Type,
    /// The pipeline's tools by name, for `fetch`.
    pub is_tool: &'a dyn Fn(&str) -> bool,
    pub has_each: bool,
}

/// What `check` may look at.
pub struct Checked<'a> {
    pub options: &'a Options,
    pub has_output: bool,
    pub has_each: bool,
    /// The kind and options of an earlier step in scope.
    pub step: &'a dyn Fn(&str) -> Option<(&'a str, &'a Options)>,
    pub environment: bool,
    pub repository: bool,
    pub sentry: bool,
}

/// A mistake found by a kind's own rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindMistake {
    /// Dotted name of the option, for instance `pull_request.from`; empty for the whole step.
    pub at: String,
    pub title: String,
    pub label: String,
    pub help: Option<String>,
}

/// The code that the steps of a run share.
#[derive(Clone, Debug)]
pub struct Work {
    pub workspace: Workspace,
    /// Where something of the pipeline runs in the sandbox.
    pub prepared: Option<Prepared>,
}

/// What the logic of one step (or of one item of its `each`) gets.
pub struct StepCall<'a> {
    /// The context at the step's own path.
    pub ctx: &'a dyn DurableContext,
    pub pipeline: &'a Pipeline,
    pub step: &'a Step,
    pub options: &'a Options,
    pub output: Option<&'a Type>,
    pub check: Option<&'a crate::domain::definition::Check>,
    /// Results of earlier steps by id, names bound by `each`, `params`, `trigger`, `run`.
    pub scope: &'a Bindings,
    /// The name and value of the innermost `each` item.
    pub item: Option<(&'a str, &'a serde_json::Value)>,
    /// The run's code, where one of its steps needs any.
    pub work: Option<&'a Work>,
    /// Steps of the run that failed, were blocked or capped, as (path, outcome, reason): for reports.
    pub problems: &'a [(String, String, String)],
}

/// Durable logic of a kind.
pub type RunStep = for<'a> fn(StepCall<'a>) -> LocalBoxFuture<'a, Result<StepEnd, Stop>>;
