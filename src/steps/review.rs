//! `review`: an advisory reading by a second model. It stops nothing; the binding one stands beside a `fix`.

use crate::base::LocalBoxFuture;
use crate::domain::entry::StepEnd;
use crate::expr::types::{Field, Type};
use crate::ports::durable::Stop;
use crate::ports::step::{Opt, OptType, StepCall, StepKind};

use super::data;
use super::fix::reviewer;
use super::model::{self, Gave};

pub const KIND: StepKind = StepKind {
    name: "review",
    summary: "a second model's advisory reading",
    options: &[
        Opt { name: "given", ty: OptType::Data, required: true, doc: "all that the reviewer sees" },
        Opt { name: "playbook", ty: OptType::File, required: true, doc: "what the reviewer is told" },
    ],
    beside: &[],
    model: false,
    closing: false,
    yields: |_| yields(),
    check: |_| Vec::new(),
    run: Some(run),
    example: "review: {given: [fix], playbook: playbooks/review.md}\n",
};

fn yields() -> Type {
    Type::Map(vec![Field::new("findings", reviewer::finding_type())])
}

fn run<'a>(call: StepCall<'a>) -> LocalBoxFuture<'a, Result<StepEnd, Stop>> {
    Box::pin(go(call))
}

async fn go(call: StepCall<'_>) -> Result<StepEnd, Stop> {
    let given = match model::given(&call)? {
        Gave::Data(given) => given,
        Gave::Nothing(reason) => return Ok(data::skipped(reason)),
    };
    let answer = reviewer::ask(&call, "", model::instruction(call.options), given, &yields()).await?;
    let findings = answer.get("findings").and_then(serde_json::Value::as_array).map_or(&[][..], Vec::as_slice);
    let blocking = findings.iter().filter(|finding| finding["severity"] == "blocking").count();
    let summary = match (findings.len(), blocking) {
        (0, _) => "no finding".to_owned(),
        (n, 0) => format!("{n} finding{}, none blocking", if n == 1 { "" } else { "s" }),
        (n, blocking) => format!("{n} finding{}, {blocking} blocking", if n == 1 { "" } else { "s" }),
    };
    Ok(data::done(answer, summary))
}
