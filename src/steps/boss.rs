//! `boss`: reasoning and decisions by the capable model, with tools, within turns and money.

use std::cell::RefCell;

use serde_json::Value;

use crate::agent::boss::{Condense, Question, Toolbox, answer};
use crate::agent::prompt;
use crate::base::LocalBoxFuture;
use crate::domain::activity::CodeAt;
use crate::domain::entry::StepEnd;
use crate::domain::model::Role;
use crate::expr::types::{Field, Type};
use crate::ports::durable::Stop;
use crate::ports::step::{Opt, OptType, StepCall, StepKind, Yields};

use super::data;
use super::model::{self, Gave};

pub const KIND: StepKind = StepKind {
    name: "boss",
    summary: "reasoning and decisions by the capable model, with tools",
    options: &[
        Opt { name: "ask", ty: OptType::Text, required: false, doc: "the instruction; or `playbook`" },
        Opt { name: "playbook", ty: OptType::File, required: false, doc: "a file with the instruction" },
        Opt {
            name: "given",
            ty: OptType::Data,
            required: false,
            doc: "all that the model sees; default: the item of the `each`",
        },
        Opt {
            name: "tools",
            ty: OptType::Tools,
            required: false,
            doc: "capabilities and tools of the pipeline that it may call",
        },
        Opt { name: "max_turns", ty: OptType::Integer, required: false, doc: "requests of this step at most" },
    ],
    beside: &[],
    model: true,
    closing: false,
    yields: |y: &Yields<'_>| y.output.map_or_else(default_output, model::fields_of),
    check: |checked| model::one_instruction("boss", checked),
    run: Some(run),
    example: "boss: {ask: \"Explain what is flagged.\", given: [delta]}\noutput: {causes: [{metric: string, cause: string(300)}]}\n",
};

/// What a boss step without `output` yields.
fn default_output() -> Type {
    Type::Map(vec![Field { name: "text".into(), ty: Type::String { max: Some(4000) } }])
}

fn run<'a>(call: StepCall<'a>) -> LocalBoxFuture<'a, Result<StepEnd, Stop>> {
    Box::pin(go(call))
}

async fn go(call: StepCall<'_>) -> Result<StepEnd, Stop> {
    let given = match model::given(&call)? {
        Gave::Data(given) => given,
        Gave::Nothing(reason) => return Ok(data::skipped(reason)),
    };
    let default = default_output();
    let output = call.output.unwrap_or(&default);
    let (pipeline, ask) = (call.pipeline, model::instruction(call.options));
    let code = call.work.map(|work| {
        let tree = work.workspace.tree.clone();
        RefCell::new(CodeAt { base: tree.clone(), tree })
    });
    let question = Question {
        ctx: call.ctx,
        role: Role::Boss,
        label: "",
        system: prompt::system(Role::Boss, &pipeline.name, &pipeline.summary, None, ask, output).into(),
        given,
        output,
        keys: &|step| model::keys_of(&call, step),
        evidence: model::evidence(&call, ask)?,
        tools: Some(Toolbox::new(pipeline, &call.options.texts("tools"))?),
        code: code.as_ref(),
        condense: Some(Condense {
            pipeline: pipeline.name.clone(),
            summary: pipeline.summary.clone(),
            asked: ask.to_owned(),
        }),
        max_turns: call.options.integer("max_turns").and_then(|turns| u32::try_from(*turns).ok()),
        counts_turn: true,
        closing: true,
    };
    let answered = answer(&question).await?;
    let turns = answered.turns;
    let summary = format!("{turns} turn{}", if turns == 1 { "" } else { "s" });
    let Some((cap, message)) = answered.capped else { return Ok(data::done(answered.value, summary)) };
    // What is known so far is the result; the step is capped all the same.
    let mut fields = answered.value;
    let failure = data::capped(cap, &message);
    fields.insert("failure".into(), serde_json::to_value(failure).unwrap_or(Value::Null));
    let mut end = data::end("capped", fields, format!("{summary}, concluded early"));
    end.reason = Some(message);
    Ok(end)
}
