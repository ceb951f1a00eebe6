//! The tool calls of one turn: checked, performed side by side, answered. Nothing that a model sends is trusted here.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::base::hash::Hash;
use crate::domain::activity::{Activity, Artifact, Complaint, ToolAnswer, ToolRequest};
use crate::domain::definition::Pipeline;
use crate::domain::model::{Block, Role, ToolSpec};
use crate::domain::run::Failure;
use crate::domain::view::RunView;
use crate::expr::types::{Field, Type};
use crate::ports::durable::{DurableContext, Recorded, Stop};
use crate::ports::tool::WorksOn;
use crate::tools;

use super::boss::{self, Question};
use super::check::Evidence;
use super::intern::Task;
use super::prompt::{self, Given};
use super::transcript::Call;
use super::{E_LOOP, E_TOOL, failed};

/// Calls of one message that are performed; the others are told to come again.
const MOST_CALLS: usize = 16;
const PARALLEL: usize = 8;
/// Arguments above this are refused and not sent back, in bytes.
pub(super) const MOST_INPUT: usize = 64 * 1024;
/// Results above this become artifacts, in bytes.
const MOST_RESULT: usize = 16 * 1024;
/// How much of an artifact is shown at once.
const SHOWN: usize = 3 * 1024;
/// The same call this many times ends the step.
const SAME_CALL: u32 = 3;
/// Turns in a row without one useful result.
const FRUITLESS_TURNS: u32 = 5;
const MOST_COMPLAINTS: usize = 10;
/// Refused calls that leave a note of their own, per step.
const MOST_REFUSALS: u32 = 20;

/// The tools of one agent.
#[derive(Clone, Debug)]
pub struct Toolbox {
    pub(super) specs: Arc<Vec<ToolSpec>>,
    /// Arguments of the pipeline's own tools.
    args: BTreeMap<String, Type>,
}

impl Toolbox {
    /// The tools that YAML lists, and those that every agent has.
    ///
    /// Errors: `Blocked` for a capability that this version cannot offer.
    pub fn new(pipeline: &Pipeline, names: &[&str]) -> Result<Self, Stop> {
        let mut specs = Vec::new();
        let mut args = BTreeMap::new();
        for name in names {
            if let Some(def) = pipeline.tool(name) {
                specs.push(tools::query::spec(def));
                let fields = def.args.iter().map(|(name, ty)| Field { name: name.clone(), ty: ty.clone() });
                args.insert(def.name.clone(), Type::Map(fields.collect()));
                continue;
            }
            match tools::find(name) {
                Some(kind) if kind.always => {}
                Some(kind) if kind.ready => specs.push(tools::spec(kind)),
                Some(_) => {
                    let failure =
                        Failure::new(E_TOOL, format!("the tool `{name}` comes with a later version of nightcrew"));
                    return Err(Stop::Blocked(
                        failure.help("take it out of the step's `tools` to run the step without it"),
                    ));
                }
                None => return Err(Stop::Blocked(Failure::new(E_TOOL, format!("there is no tool `{name}`")))),
            }
        }
        specs.extend(tools::ALL.iter().filter(|kind| kind.always).map(tools::spec));
        Ok(Self { specs: Arc::new(specs), args })
    }

    fn spec(&self, name: &str) -> Option<&ToolSpec> {
        self.specs.iter().find(|spec| spec.name == name)
    }
}

/// What one agent's calls have been so far.
#[derive(Default)]
pub(super) struct Calls {
    seen: BTreeMap<Hash, u32>,
    artifacts: BTreeMap<String, Artifact>,
    fruitless: u32,
    refusals: u32,
    /// What the agent said it lacks.
    pub complaints: Vec<Complaint>,
}

enum Plan {
    Answer(ToolAnswer),
    Ask(Activity),
}

impl Calls {
    /// Remembers an artifact, so that the agent may look into it.
    pub fn know(&mut self, artifact: Artifact) {
        self.artifacts.insert(artifact.id.clone(), artifact);
    }

    /// Answers every call of a message, in its order.
    ///
    /// Errors: `E-LOOP` when the agent goes round in circles; whatever ends a tool for good.
    pub async fn perform(
        &mut self,
        question: &Question<'_>,
        toolbox: &Toolbox,
        turn: u32,
        calls: &[Call],
        evidence: &mut Evidence,
    ) -> Result<Vec<Block>, Stop> {
        let mut answers: Vec<Option<ToolAnswer>> = Vec::new();
        let mut asked = Vec::new();
        let mut again = Vec::new();
        for (n, call) in calls.iter().enumerate() {
            let repeated = self.count(question, call)?;
            match self.plan(question, toolbox, n, call) {
                Plan::Answer(answer) => {
                    if answer.is_error {
                        self.refused(question, toolbox, call, &answer.text);
                    }
                    answers.push(Some(answer));
                }
                Plan::Ask(activity) => {
                    answers.push(None);
                    again.push(repeated);
                    asked.push((format!("{}turn-{turn}/call-{}", question.label, n + 1), activity));
                }
            }
        }
        let labels: Vec<String> = asked.iter().map(|(label, _)| label.clone()).collect();
        let accounts: Vec<bool> = asked.iter().map(|(_, activity)| matches!(activity, Activity::Account)).collect();
        let recorded = act(question, asked).await?;
        let mut useful = false;
        let mut performed = labels.iter().zip(accounts).zip(recorded).zip(again);
        let mut blocks = Vec::new();
        for (call, answer) in calls.iter().zip(answers) {
            let answer = match answer {
                Some(answer) => answer,
                None => match performed.next() {
                    Some((((_, true), recorded), _)) => reply(account_text(&recorded.decode::<RunView>()?)),
                    Some((((label, false), recorded), repeated)) => {
                        let answer: ToolAnswer = recorded.decode()?;
                        useful |= !answer.is_error && !repeated;
                        learn(evidence, &answer.text);
                        self.shown(question, label, call, answer).await?
                    }
                    None => mistake("this call was not performed"),
                },
            };
            blocks.push(Block::ToolResult {
                tool_use_id: call.id.clone(),
                content: answer.text,
                is_error: answer.is_error,
            });
        }
        self.fruitless = if useful { 0 } else { self.fruitless + 1 };
        if self.fruitless >= FRUITLESS_TURNS {
            return Err(failed(E_LOOP, format!("the model made no progress in {FRUITLESS_TURNS} turns")));
        }
        Ok(blocks)
    }

    /// Counts a call. True when it was made before.
    fn count(&mut self, question: &Question<'_>, call: &Call) -> Result<bool, Stop> {
        if call.name == "budget" {
            return Ok(true);
        }
        let input = crate::base::hash::canonical_json(&call.input);
        // The same look at code that has changed is another one.
        let looks = tools::find(&call.name).is_some_and(|kind| kind.works_on != WorksOn::Nothing);
        let tree = question.code.filter(|_| looks).map(|code| code.borrow().tree.to_string()).unwrap_or_default();
        let parts = [call.name.as_bytes(), input.as_bytes(), tree.as_bytes()];
        let count = self.seen.entry(Hash::of_parts(parts)).or_default();
        *count += 1;
        if *count >= SAME_CALL {
            let shown: String = prompt::clean(&input).chars().take(120).collect();
            let name: String = prompt::clean(&call.name).chars().take(60).collect();
            return Err(failed(E_LOOP, format!("the model made the same call {SAME_CALL} times: `{name}` {shown}")));
        }
        Ok(*count > 1)
    }

    fn plan(&mut self, question: &Question<'_>, toolbox: &Toolbox, n: usize, call: &Call) -> Plan {
        if n >= MOST_CALLS {
            return Plan::Answer(mistake(format!(
                "at most {MOST_CALLS} calls at a time: make this call again if you need it"
            )));
        }
        let Some(spec) = toolbox.spec(&call.name) else {
            let names: Vec<&str> = toolbox.specs.iter().map(|spec| spec.name.as_str()).collect();
            return Plan::Answer(mistake(format!("there is no such tool; the tools are: {}", names.join(", "))));
        };
        if call.input.to_string().len() > MOST_INPUT {
            return Plan::Answer(mistake(format!("the arguments have more than {} KB", MOST_INPUT / 1024)));
        }
        let mut input = tools::input::without_nulls(&spec.input_schema, call.input.clone());
        let mistakes = tools::input::mistakes(&spec.input_schema, &input);
        if !mistakes.is_empty() {
            return Plan::Answer(mistake(format!("the arguments are wrong: {}", mistakes.join("; "))));
        }
        match call.name.as_str() {
            "complain" => return Plan::Answer(self.complain(question, &input)),
            "budget" => return Plan::Ask(Activity::Account),
            "artifact_read" | "artifact_search" => {
                let Some(artifact) = input["id"].as_str().and_then(|id| self.artifacts.get(id)) else {
                    return Plan::Answer(mistake("there is no artifact with this id"));
                };
                // A model cannot name a blob: the host looks it up among the artifacts of this agent.
                input["blob"] = json!(artifact.blob);
            }
            name => {
                if let Some(ty) = toolbox.args.get(name) {
                    match ty.validate(&input, &|_| Vec::new()) {
                        Ok(checked) => input = checked,
                        Err(mistakes) => {
                            let list: Vec<String> = mistakes.iter().take(5).map(ToString::to_string).collect();
                            return Plan::Answer(mistake(format!("the arguments are wrong: {}", list.join("; "))));
                        }
                    }
                }
            }
        }
        let works_on = tools::find(&call.name).map_or(WorksOn::Nothing, |kind| kind.works_on);
        let code = match works_on {
            WorksOn::Nothing => None,
            WorksOn::Code | WorksOn::Sandbox => match question.code {
                Some(code) => Some(code.borrow().clone()),
                None => return Plan::Answer(mistake("this run has no repository")),
            },
        };
        Plan::Ask(Activity::Tool(ToolRequest { tool: call.name.clone(), input, code }))
    }

    fn complain(&mut self, question: &Question<'_>, input: &Value) -> ToolAnswer {
        if self.complaints.len() >= MOST_COMPLAINTS {
            return mistake("that is enough; do what is possible without it");
        }
        let text = |name: &str| prompt::clean(input[name].as_str().unwrap_or_default());
        let complaint = Complaint {
            kind: text("kind"),
            need: text("need"),
            evidence: text("evidence"),
            step: question.ctx.path().to_owned(),
        };
        question.ctx.complain(complaint.clone());
        self.complaints.push(complaint);
        reply("noted, a person will read it; do what is possible without it")
    }

    /// Leaves a trace of a call that was not performed. One that names no tool of this agent is shown to people.
    fn refused(&mut self, question: &Question<'_>, toolbox: &Toolbox, call: &Call, why: &str) {
        self.refusals += 1;
        if self.refusals > MOST_REFUSALS {
            return;
        }
        let name: String = prompt::clean(&call.name).chars().take(60).collect();
        let input: String = prompt::clean(&call.input.to_string()).chars().take(200).collect();
        match toolbox.spec(&call.name) {
            Some(_) => question.ctx.note("call_refused", json!({"tool": name, "input": input, "why": why})),
            None => {
                let what = format!("a call of `{name}`, which this agent does not have");
                question.ctx.note("refused", json!({"what": what, "input": input}));
            }
        }
    }

    /// What the model sees of a tool's answer: small ones whole, large ones as an artifact with head, tail and digest.
    async fn shown(
        &mut self,
        question: &Question<'_>,
        label: &str,
        call: &Call,
        answer: ToolAnswer,
    ) -> Result<ToolAnswer, Stop> {
        let text = prompt::clean(&answer.text);
        let source = format!("tool {}", call.name);
        if text.len() <= MOST_RESULT {
            return Ok(ToolAnswer { text: prompt::fence(&source, &text), ..answer });
        }
        let artifact = keep(question.ctx, &format!("{label}/keep"), &source, text.clone()).await?;
        let digest = digest(question, label, call, &text).await?;
        let shown = prompt::clip(&text, SHOWN);
        let mut told = format!(
            "The result is large ({} lines, {} bytes) and was stored as artifact `{}`. Its beginning and end:\n{}",
            artifact.lines,
            artifact.bytes,
            artifact.id,
            prompt::fence(&source, &shown)
        );
        if let Some(digest) = digest {
            told.push_str("\nAn intern condensed it for the question at hand; check what matters in the artifact:\n");
            told.push_str(&prompt::fence("digest", &digest));
        }
        self.know(artifact);
        Ok(ToolAnswer { text: told, ..answer })
    }
}

/// Performs the calls: side by side, but one after the other as soon as one of them changes the code, so that each sees what
/// the earlier ones made of it.
async fn act(question: &Question<'_>, asked: Vec<(String, Activity)>) -> Result<Vec<Recorded>, Stop> {
    let edits = |activity: &Activity| matches!(activity, Activity::Tool(request) if request.tool == "edit");
    let mut recorded = Vec::new();
    if !asked.iter().any(|(_, activity)| edits(activity)) {
        for result in question.ctx.perform_all(asked, PARALLEL).await {
            recorded.push(result?);
        }
        return Ok(recorded);
    }
    for (label, mut activity) in asked {
        if let (Activity::Tool(request), Some(code)) = (&mut activity, question.code)
            && request.code.is_some()
        {
            request.code = Some(code.borrow().clone());
        }
        let changes = edits(&activity);
        let answer = question.ctx.perform(&label, activity).await?;
        if let (true, Some(code)) = (changes, question.code)
            && let Some(tree) = answer.decode::<ToolAnswer>()?.tree
        {
            code.borrow_mut().tree = tree;
        }
        recorded.push(answer);
    }
    Ok(recorded)
}

/// Stores a large text.
pub(super) async fn keep(ctx: &dyn DurableContext, label: &str, name: &str, text: String) -> Result<Artifact, Stop> {
    ctx.perform(label, Activity::Keep { name: name.to_owned(), text }).await?.decode()
}

/// An intern condenses a large result for the boss's question. Going without it is no failure.
async fn digest(question: &Question<'_>, label: &str, call: &Call, text: &str) -> Result<Option<String>, Stop> {
    let Some(condense) = &question.condense else { return Ok(None) };
    let output = Type::Map(vec![Field { name: "text".into(), ty: Type::String { max: Some(2000) } }]);
    let instruction = format!(
        "Condense the tool's output to what bears on this question, with its figures and names as they stand there:\n{}",
        condense.asked
    );
    let label = format!("{label}/condense/");
    let inner = Question {
        ctx: question.ctx,
        role: Role::Intern,
        label: &label,
        system: prompt::system(
            Role::Intern,
            &condense.pipeline,
            &condense.summary,
            Some(Task::Summarise),
            &instruction,
            &output,
        )
        .into(),
        given: vec![
            Given { label: format!("arguments of {}", call.name), value: call.input.clone() },
            Given { label: format!("output of {}", call.name), value: Value::String(text.to_owned()) },
        ],
        output: &output,
        keys: &|_| Vec::new(),
        evidence: Evidence::default(),
        tools: None,
        code: None,
        condense: None,
        max_turns: Some(2),
        counts_turn: false,
        closing: false,
    };
    match Box::pin(boss::answer(&inner)).await {
        Ok(answered) => Ok(answered.value["text"].as_str().map(str::to_owned)),
        Err(stop) if stop.is_final() => Err(stop),
        Err(stop) => {
            question.ctx.note("not_condensed", json!({"call": label, "reason": stop.to_string()}));
            Ok(None)
        }
    }
}

/// What a tool returned counts as data for `check`.
fn learn(evidence: &mut Evidence, text: &str) {
    if let Some(facts) = &mut evidence.figures {
        match serde_json::from_str::<Value>(text) {
            Ok(value) => facts.add(&value),
            Err(_) => {
                for line in text.lines() {
                    match serde_json::from_str::<Value>(line) {
                        Ok(value) => facts.add(&value),
                        Err(_) => facts.add_text(line),
                    }
                }
            }
        }
        facts.sort();
    }
}

fn account_text(view: &RunView) -> String {
    let limits = &view.start.limits;
    let turns = match limits.max_turns {
        Some(most) => format!("{} of {most} turns are used", view.spend.turns),
        None => format!("{} turns are used, there is no limit", view.spend.turns),
    };
    let money = match limits.before_report() {
        Some(most) => format!("{} of {} are spent", view.spend.total(), most + view.added),
        None => format!("{} are spent, there is no limit", view.spend.total()),
    };
    format!("{turns}; {money}")
}

fn reply(text: impl Into<String>) -> ToolAnswer {
    ToolAnswer::text(text)
}

fn mistake(text: impl Into<String>) -> ToolAnswer {
    ToolAnswer::mistake(text)
}
