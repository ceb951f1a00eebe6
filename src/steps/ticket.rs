//! `ticket`: opens or updates a ticket, found again by its key. Part of the dialect; it cannot run in this version yet.

use crate::expr::types::{Field, Type};
use crate::ports::step::{Opt, OptType, Sees, StepKind};

pub const KIND: StepKind = StepKind {
    name: "ticket",
    summary: "open or update a ticket",
    options: &[
        Opt { name: "from", ty: OptType::Data, required: true, doc: "what the ticket is made of" },
        Opt { name: "tracker", ty: OptType::Text, required: false, doc: "where it is opened" },
        Opt { name: "key", ty: OptType::Expr(Sees::Nothing), required: false, doc: "by which it is found again" },
        Opt { name: "labels", ty: OptType::Texts, required: false, doc: "labels to set" },
        Opt { name: "assignees", ty: OptType::Texts, required: false, doc: "who gets it" },
        Opt {
            name: "closed_as_not_planned",
            ty: OptType::Word(&["mute", "reopen"]),
            required: false,
            doc: "what a person's `not planned` means",
        },
    ],
    beside: &[],
    model: false,
    closing: false,
    yields: |_| {
        Type::Map(vec![
            Field { name: "opened".into(), ty: Type::Boolean },
            Field { name: "updated".into(), ty: Type::Boolean },
            Field { name: "url".into(), ty: Type::String { max: None } },
        ])
    },
    check: |_| Vec::new(),
    run: None,
    example: "ticket: {from: ranked, tracker: github, labels: [tech-debt]}\n",
};
