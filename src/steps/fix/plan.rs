//! What the YAML says about one fix, checked against what the run has.

use crate::agent::prompt::Given;
use crate::domain::definition::{OptionValue, Options};
use crate::domain::run::Failure;
use crate::domain::sandbox::Workspace;
use crate::policy::diff::{DiffPolicy, DiffRules};
use crate::policy::proof;
use crate::ports::durable::Stop;
use crate::ports::step::StepCall;

use super::super::model::{self, Gave};
use super::super::{E_TESTS, data};

/// Attempts when the YAML does not say.
const ATTEMPTS: u32 = 3;
/// Rounds of review when the YAML does not say.
const ROUNDS: u32 = 1;
/// What the agent has when the YAML does not say.
const TOOLS: [&str; 6] = ["read", "search", "tree", "edit", "run_tests", "run"];

/// Everything that does not change while the fix is made.
pub(super) struct Plan<'a> {
    /// The instruction of the YAML.
    pub ask: &'a str,
    pub given: Vec<Given>,
    /// The environment's test command.
    pub test: &'a str,
    pub tools: Vec<&'a str>,
    pub test_first: bool,
    pub attempts: u32,
    pub rules: DiffRules,
    pub policy: DiffPolicy,
    pub review: Option<Review<'a>>,
    /// What the error at hand says of itself.
    pub reasons: Vec<String>,
    /// As the run found it.
    pub workspace: &'a Workspace,
}

/// The binding review.
pub(super) struct Review<'a> {
    pub playbook: &'a str,
    pub rounds: u32,
}

pub(super) enum Planned<'a> {
    Fix(Box<Plan<'a>>),
    /// There is nothing to fix.
    Nothing(String),
}

impl<'a> Plan<'a> {
    /// Errors: `Blocked` when the run has no code, no environment or no test command; `E-CEL`.
    pub fn of(call: &StepCall<'a>) -> Result<Planned<'a>, Stop> {
        let options = call.options;
        let given = match model::given(call)? {
            Gave::Data(given) => given,
            Gave::Nothing(reason) => return Ok(Planned::Nothing(reason)),
        };
        let blocked = |message: &str, help: &str| Stop::Blocked(Failure::new(E_TESTS, message).help(help));
        let work = call.work.filter(|work| work.prepared.is_some()).ok_or_else(|| {
            blocked("there is no environment for the code", "add `environment: environments/….yaml` to the pipeline")
        })?;
        let test = call.pipeline.environment.as_ref().and_then(|environment| environment.test.as_deref());
        let test = test.filter(|test| !test.trim().is_empty()).ok_or_else(|| {
            let file = call.pipeline.environment.as_ref().map_or("the environment", |found| found.file.as_str());
            blocked(
                "the environment has no test command",
                &format!("add `test: COMMAND` to `{file}`; a fix is proved by it alone"),
            )
        })?;
        let rules = diff_rules(options);
        let policy = DiffPolicy::new(rules.clone()).map_err(|error| {
            blocked(&format!("`diff` of the fix: {error}"), "write globs over whole paths, such as `src/**`")
        })?;
        let tools = match options.texts("tools") {
            listed if listed.is_empty() && !options.0.contains_key("tools") => TOOLS.to_vec(),
            listed => listed,
        };
        Ok(Planned::Fix(Box::new(Self {
            ask: model::instruction(options),
            reasons: reasons(call, &given),
            given,
            test,
            tools,
            test_first: options.boolean("test_first") == Some(&true),
            attempts: options.integer("attempts").map_or(ATTEMPTS, |n| bounded(*n)).max(1),
            rules,
            policy,
            review: review(options),
            workspace: &work.workspace,
        })))
    }
}

/// By the item that is mended, else by what is given.
fn reasons(call: &StepCall<'_>, given: &[Given]) -> Vec<String> {
    let of_item = call.item.map(|(_, item)| proof::reasons(item)).unwrap_or_default();
    if !of_item.is_empty() {
        return of_item;
    }
    let mut found: Vec<String> = Vec::new();
    for reason in given.iter().flat_map(|given| proof::reasons(&given.value)) {
        if !found.contains(&reason) {
            found.push(reason);
        }
    }
    found
}

/// `diff` beside the fix, over the defaults.
pub(in crate::steps) fn diff_rules(options: &Options) -> DiffRules {
    let mut rules = DiffRules::default();
    let Some(map) = options.map("diff") else { return rules };
    let number = |name| match data::nested(map, name) {
        Some(OptionValue::Integer(n)) => Some(bounded(*n)),
        _ => None,
    };
    match data::nested(map, "paths") {
        Some(OptionValue::Text(path)) => rules.paths = vec![path.clone()],
        Some(OptionValue::List(paths)) => {
            let text = |path: &OptionValue| if let OptionValue::Text(path) = path { Some(path.clone()) } else { None };
            rules.paths = paths.iter().filter_map(text).collect();
        }
        _ => {}
    }
    rules.max_files = number("max_files").unwrap_or(rules.max_files);
    rules.max_lines = number("max_lines").unwrap_or(rules.max_lines);
    rules
}

/// `review.rounds` as it is written.
pub(super) fn rounds(options: &Options) -> Option<&i64> {
    match data::nested(options.map("review")?, "rounds") {
        Some(OptionValue::Integer(rounds)) => Some(rounds),
        _ => None,
    }
}

fn review(options: &Options) -> Option<Review<'_>> {
    let playbook = match data::nested(options.map("review")?, "playbook") {
        Some(OptionValue::File(_, text)) => text.as_str(),
        _ => "",
    };
    Some(Review { playbook, rounds: rounds(options).map_or(ROUNDS, |n| bounded(*n)).max(1) })
}

fn bounded(n: i64) -> u32 {
    u32::try_from(n.max(0)).unwrap_or(u32::MAX)
}
