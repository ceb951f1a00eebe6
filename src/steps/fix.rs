//! `fix`: a patch that is proved by tests. Part of the dialect; it cannot run in this version yet.

use crate::expr::types::{Field, Type};
use crate::ports::step::{Checked, KindMistake, Opt, OptType, StepKind};

use super::model::{mistake, one_instruction};

const DIFF: &[Opt] = &[
    Opt { name: "paths", ty: OptType::Texts, required: false, doc: "globs of files that may change" },
    Opt { name: "max_files", ty: OptType::Integer, required: false, doc: "files at most" },
    Opt { name: "max_lines", ty: OptType::Integer, required: false, doc: "changed lines at most" },
];

const REVIEW: &[Opt] = &[
    Opt { name: "playbook", ty: OptType::File, required: true, doc: "what the reviewer is told" },
    Opt { name: "rounds", ty: OptType::Integer, required: false, doc: "rounds of review at most" },
];

pub const KIND: StepKind = StepKind {
    name: "fix",
    summary: "write a patch and prove it by tests",
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
            name: "test_first",
            ty: OptType::Boolean,
            required: false,
            doc: "a failing test must be shown before the fix",
        },
        Opt { name: "attempts", ty: OptType::Integer, required: false, doc: "attempts at most" },
    ],
    beside: &[
        Opt { name: "diff", ty: OptType::Map(DIFF), required: false, doc: "what the patch may touch" },
        Opt {
            name: "review",
            ty: OptType::Map(REVIEW),
            required: false,
            doc: "a second model reads the patch before it counts",
        },
        Opt { name: "tools", ty: OptType::Tools, required: false, doc: "tools that it may call beside its own" },
    ],
    model: false,
    closing: false,
    yields: |_| {
        let text = || Type::String { max: None };
        let field = |name: &str, ty| Field { name: name.into(), ty };
        Type::Map(vec![
            field("proved", Type::Boolean),
            field("patch", text()),
            field("receipts", Type::List(Box::new(Type::Any))),
        ])
    },
    check,
    run: None,
    example: "fix: {ask: \"The smallest honest fix.\", test_first: true, attempts: 3}\ndiff: {paths: [\"src/**\", \"tests/**\"], max_files: 8}\n",
};

fn check(checked: &Checked<'_>) -> Vec<KindMistake> {
    let mut mistakes = one_instruction("fix", checked);
    if !checked.repository {
        let help = "write `repository: {github: owner/name, path: …}`";
        mistakes.push(mistake("", "`fix` needs a repository", "there is no code to change", Some(help)));
    }
    if !checked.environment {
        let help = "write `environment: environments/….yaml`, with `test:` in it";
        mistakes.push(mistake("", "`fix` needs an environment", "the test command is the environment's", Some(help)));
    }
    mistakes
}
