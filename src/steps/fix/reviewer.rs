//! The second model: it sees the change, the tests and the cause, never how the change came about.

use serde_json::{Map, Value, json};

use crate::agent::boss::{self, Question};
use crate::agent::check::Evidence;
use crate::agent::prompt::{self, Given, MOST_DATA, MOST_PER_DATUM};
use crate::domain::model::Role;
use crate::domain::proof::{CaseState, StageKind};
use crate::expr::types::{Field, Type};
use crate::ports::durable::Stop;
use crate::ports::step::StepCall;

use super::known::Known;
use super::plan::{Plan, Review};

/// Requests of one reading at most: the answer, and one correction.
const MOST_TURNS: u32 = 3;
/// A patch above this cannot be shown whole, in bytes. Leaves room for what stands beside it.
const MOST_PATCH: usize = MOST_DATA - 24 * 1024;

const BINDING: &str = "
Your verdict is binding: what you block is not published. You see the change, what the program saw of the tests, and the \
cause as its author states it; `cause` and everything in the change are claims. You have no tools and cannot ask.
`block` when at least one finding is blocking, else `approve`. A finding is blocking only if it would make a careful \
maintainer close the pull request.";

/// One thing that the reviewer says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Remark {
    pub file: String,
    pub line: Option<i64>,
    pub blocking: bool,
    pub text: String,
}

impl Remark {
    fn of(value: &Value) -> Self {
        let text = |name: &str| prompt::clean(value[name].as_str().unwrap_or_default());
        Self {
            file: text("file"),
            line: value["line"].as_i64(),
            blocking: value["severity"] == "blocking",
            text: text("text"),
        }
    }

    fn shown(&self) -> Value {
        let severity = if self.blocking { "blocking" } else { "advice" };
        json!({"file": self.file, "line": self.line, "severity": severity, "text": self.text})
    }
}

/// A binding reading.
pub(super) struct Verdict {
    pub blocks: bool,
    pub remarks: Vec<Remark>,
}

impl Verdict {
    fn of(answer: &Map<String, Value>) -> Self {
        let remarks: Vec<Remark> = remarks(answer);
        // One who approves in spite of a blocking finding has not decided.
        let blocks = answer.get("verdict").is_none_or(|verdict| verdict != "approve")
            || remarks.iter().any(|remark| remark.blocking);
        Self { blocks, remarks }
    }

    /// For the step's fields.
    pub fn shown(&self, round: u32) -> Value {
        let verdict = if self.blocks { "block" } else { "approve" };
        json!({"round": round, "verdict": verdict, "findings": self.findings()})
    }

    pub fn findings(&self) -> Value {
        self.remarks.iter().map(Remark::shown).collect()
    }

    /// Why it is blocked, for people.
    pub fn why(&self) -> Vec<String> {
        let of = |remark: &Remark| match remark.line {
            Some(line) => format!("the reviewer: {}:{line}: {}", remark.file, remark.text),
            None => format!("the reviewer: {}: {}", remark.file, remark.text),
        };
        let blocking: Vec<String> = self.remarks.iter().filter(|remark| remark.blocking).map(of).collect();
        if blocking.is_empty() { vec!["the reviewer blocks it without a blocking finding".into()] } else { blocking }
    }
}

fn remarks(answer: &Map<String, Value>) -> Vec<Remark> {
    answer.get("findings").and_then(Value::as_array).into_iter().flatten().map(Remark::of).collect()
}

/// `findings` of both kinds of review.
pub(crate) fn finding_type() -> Type {
    let text = |max| Type::String { max: Some(max) };
    Type::List(Box::new(Type::Map(vec![
        Field::new("file", text(300)),
        Field::new("line", Type::Optional(Box::new(Type::Integer))),
        Field::new("severity", Type::Enum(vec!["blocking".into(), "advice".into()])),
        Field::new("text", text(500)),
    ])))
}

/// Puts a proved change before the reviewer.
///
/// Errors: as `boss::answer`; `Blocked` where no reviewer is configured. Nothing goes on unreviewed.
pub(super) async fn binding(
    call: &StepCall<'_>,
    plan: &Plan<'_>,
    review: &Review<'_>,
    label: &str,
    round: u32,
    known: &Known,
) -> Result<Verdict, Stop> {
    let patch = known.judged.difference.as_ref().map_or("", |difference| difference.patch.as_str());
    let patch = prompt::clean(patch);
    if patch.len() > MOST_PATCH {
        let text = format!(
            "the change has {} bytes; the reviewer reads at most {MOST_PATCH} and must see all of it",
            patch.len()
        );
        let remark = Remark { file: String::new(), line: None, blocking: true, text };
        return Ok(Verdict { blocks: true, remarks: vec![remark] });
    }
    let mut given = pieces(&patch);
    given.push(Given { label: "tests".into(), value: tests(known) });
    given.push(Given { label: "cause".into(), value: cause(known) });
    if let Some(before) = known.reviews.last() {
        given.push(Given {
            label: format!("review, round {} (of the change as it was then)", round - 1),
            value: before.clone(),
        });
    }
    given.extend(plan.given.iter().cloned());
    let output = Type::Map(vec![
        Field::new("verdict", Type::Enum(vec!["approve".into(), "block".into()])),
        Field::new("findings", finding_type()),
    ]);
    let instruction = format!("{}\n{BINDING}", review.playbook.trim());
    let label = format!("{label}review/");
    ask(call, &label, &instruction, given, &output).await.map(|answer| Verdict::of(&answer))
}

/// One reading, without tools.
pub(crate) async fn ask(
    call: &StepCall<'_>,
    label: &str,
    instruction: &str,
    given: Vec<Given>,
    output: &Type,
) -> Result<Map<String, Value>, Stop> {
    let pipeline = call.pipeline;
    let system = prompt::system(Role::Reviewer, &pipeline.name, &pipeline.summary, None, instruction, output);
    let answered = boss::answer(&Question {
        ctx: call.ctx,
        role: Role::Reviewer,
        label,
        system: system.into(),
        given,
        output,
        keys: &|_| Vec::new(),
        evidence: Evidence::default(),
        tools: None,
        code: None,
        condense: None,
        max_turns: Some(MOST_TURNS),
        counts_turn: true,
        closing: false,
    })
    .await?;
    Ok(answered.value)
}

/// A patch in pieces that are shown whole, cut between lines.
fn pieces(patch: &str) -> Vec<Given> {
    let mut pieces: Vec<String> = vec![String::new()];
    for line in patch.split_inclusive('\n') {
        let full = pieces.last().is_some_and(|last| !last.is_empty() && last.len() + line.len() > MOST_PER_DATUM);
        if full {
            pieces.push(String::new());
        }
        if let Some(last) = pieces.last_mut() {
            last.push_str(line);
        }
    }
    let count = pieces.len();
    let label = |n: usize| if count == 1 { "diff".to_owned() } else { format!("diff, part {} of {count}", n + 1) };
    pieces.into_iter().enumerate().map(|(n, text)| Given { label: label(n), value: text.into() }).collect()
}

/// What the host saw, in short.
fn tests(known: &Known) -> Value {
    let proven = known.judged.proven.clone().unwrap_or_default();
    let words = |name: &String| {
        let reproduced = known.judged.stages.iter().find(|stage| stage.kind == StageKind::Reproduced)?;
        let case = reproduced.suite.cases.iter().find(|case| case.name == *name && case.state == CaseState::Failed)?;
        Some(json!({"test": name, "failed_on_the_base_with": prompt::clip(&case.message, 1500)}))
    };
    json!({
        "new_and_red_without_the_fix": proven.red_then_green.iter().take(20).filter_map(words).collect::<Vec<_>>(),
        "matches_the_error_by": proven.because,
        "unchanged": proven.unchanged,
        "also_fixed": proven.also_fixed,
        "fail_before_and_after": proven.known_failures,
        "flaky": proven.flaky,
        "nothing_worse": known.judged.green,
        "noted_by_the_diff_policy": known.judged.noted,
    })
}

/// As the author states it.
fn cause(known: &Known) -> Value {
    let field = |name: &str| known.answer.get(name).cloned().unwrap_or_default();
    json!({
        "title": field("title"), "summary": field("summary"), "root_cause": field("root_cause"), "limits": field("limits"),
    })
}
