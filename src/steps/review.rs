//! `review`: an advisory reading by a second model. Part of the dialect; it cannot run in this version yet.

use crate::expr::types::{Field, Type};
use crate::ports::step::{Opt, OptType, StepKind};

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
    yields: |_| Type::Map(vec![Field { name: "findings".into(), ty: Type::List(Box::new(Type::Any)) }]),
    check: |_| Vec::new(),
    run: None,
    example: "review: {given: [fix], playbook: playbooks/review.md}\n",
};
