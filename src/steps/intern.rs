//! `intern`: grunt work by a cheap, fast model without tools, typed and measured.

use serde_json::{Map, Value, json};

use crate::agent::intern::{InternCall, Judged, Task, judge};
use crate::base::LocalBoxFuture;
use crate::base::hash::Hash;
use crate::domain::entry::StepEnd;
use crate::expr::types::Type;
use crate::ports::durable::Stop;
use crate::ports::step::{Checked, KindMistake, Opt, OptType, Sees, StepCall, StepKind, Yields};

use super::model::{self, Gave};
use super::{data, each};

pub const KIND: StepKind = StepKind {
    name: "intern",
    summary: "grunt work by a cheap model: summarise, filter, classify, extract, format",
    options: &[
        Opt { name: "task", ty: OptType::Word(Task::WORDS), required: true, doc: "what kind of work it is" },
        Opt { name: "ask", ty: OptType::Text, required: true, doc: "the instruction" },
        Opt {
            name: "given",
            ty: OptType::Data,
            required: false,
            doc: "all that the model sees; default: the item of the `each`",
        },
        Opt {
            name: "keep",
            ty: OptType::Expr(Sees::Output),
            required: false,
            doc: "items for which this is false are dropped",
        },
        Opt {
            name: "escalate_when",
            ty: OptType::Expr(Sees::Output),
            required: false,
            doc: "when true the boss answers instead",
        },
        Opt {
            name: "audit",
            ty: OptType::Permille,
            required: false,
            doc: "share of items that the boss judges independently",
        },
    ],
    beside: &[],
    model: true,
    closing: false,
    yields,
    check,
    run: Some(run),
    example: "each: error in errors\nintern: {task: filter, ask: \"Is this a real error?\", audit: 10%}\n",
};

/// The outcome of an item that an intern dropped: handled, and not among the items.
pub(super) const DROPPED: &str = "dropped";
/// Where an item's end carries how it was judged; no field of the dialect can have this name.
const JUDGED: &str = "#judged";

fn yields(y: &Yields<'_>) -> Type {
    let default = y.options.text("task").and_then(Task::parse).and_then(Task::default_output);
    y.output.map(model::fields_of).or(default).unwrap_or(Type::Map(Vec::new()))
}

fn check(checked: &Checked<'_>) -> Vec<KindMistake> {
    match checked.options.text("task").and_then(Task::parse) {
        Some(task) if task.default_output().is_none() && !checked.has_output => vec![model::mistake(
            "intern.task",
            "this task needs an `output`",
            "what may come out is not said",
            Some("write for instance `output: {class: simple | complex, why: string(200)}` beside `intern`"),
        )],
        _ => Vec::new(),
    }
}

fn run<'a>(call: StepCall<'a>) -> LocalBoxFuture<'a, Result<StepEnd, Stop>> {
    Box::pin(go(call))
}

async fn go(call: StepCall<'_>) -> Result<StepEnd, Stop> {
    let options = call.options;
    let given = match model::given(&call)? {
        Gave::Data(given) => given,
        Gave::Nothing(reason) => return Ok(data::skipped(reason)),
    };
    // The option table has only these words, and the check refuses a task without output.
    let task = options.text("task").and_then(Task::parse).unwrap_or(Task::Extract);
    let default = task.default_output().unwrap_or(Type::Map(Vec::new()));
    let output = call.output.unwrap_or(&default);
    let ask = model::instruction(options);
    let key = match call.item {
        Some((_, item)) => each::item_key(item),
        None => Hash::of_json(&Value::Array(given.iter().map(|given| given.value.clone()).collect())).short(),
    };
    let judged = judge(&InternCall {
        ctx: call.ctx,
        pipeline: call.pipeline,
        task,
        ask,
        evidence: model::evidence(&call, ask)?,
        given,
        output,
        keys: &|step| model::keys_of(&call, step),
        key: &key,
        scope: call.scope,
        keep: options.expr("keep"),
        escalate_when: options.expr("escalate_when"),
        audit: options.permille("audit").copied(),
    })
    .await?;
    Ok(end(&call, judged))
}

fn end(call: &StepCall<'_>, judged: Judged) -> StepEnd {
    let mut fields = judged.value;
    if call.step.each.is_some() {
        fields.insert(JUDGED.into(), json!({"escalated": judged.escalated, "audited": judged.audited}));
    }
    let mut parts = Vec::new();
    parts.extend(judged.escalated.then_some("asked the boss"));
    parts.extend(judged.audited.map(|agreed| if agreed { "audited, agreed" } else { "audited, disagreed" }));
    data::end(if judged.kept { "done" } else { DROPPED }, fields, parts.join(", "))
}

/// How the items of an `each` were judged.
#[derive(Debug, Default)]
pub(super) struct Tally {
    items: u32,
    escalated: u32,
    audited: u32,
    disagreed: u32,
}

impl Tally {
    /// Counts one item and takes the count out of its result.
    pub fn add(&mut self, result: &mut Map<String, Value>) {
        let Some(judged) = result.remove(JUDGED) else { return };
        self.items += 1;
        self.escalated += u32::from(judged["escalated"] == true);
        self.audited += u32::from(judged["audited"].is_boolean());
        self.disagreed += u32::from(judged["audited"] == false);
    }

    pub fn result(&self) -> Value {
        json!({"items": self.items, "escalated": self.escalated, "audited": self.audited, "disagreed": self.disagreed})
    }

    /// `2 escalated, 1 audited, agreed`
    pub fn summary(&self) -> Vec<String> {
        let mut parts = Vec::new();
        parts.extend((self.escalated > 0).then(|| format!("{} escalated", self.escalated)));
        parts.extend((self.audited > 0).then(|| match self.disagreed {
            0 => format!("{} audited, agreed", self.audited),
            n => format!("{} audited, {n} disagreed", self.audited),
        }));
        parts
    }
}
