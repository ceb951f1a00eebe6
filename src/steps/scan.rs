//! `scan`: findings of scanners over the repository. Part of the dialect; it cannot run in this version yet.

use crate::expr::types::{Field, Type};
use crate::ports::step::{Checked, KindMistake, Opt, OptType, StepKind};

use super::model::mistake;

pub const KIND: StepKind = StepKind {
    name: "scan",
    summary: "scan the repository for findings",
    options: &[
        Opt { name: "sarif", ty: OptType::Commands, required: false, doc: "commands that print SARIF" },
        Opt { name: "cargo", ty: OptType::Commands, required: false, doc: "cargo commands that print JSON messages" },
        Opt {
            name: "jsonl",
            ty: OptType::Commands,
            required: false,
            doc: "commands that print one finding as JSON a line",
        },
        Opt { name: "pattern", ty: OptType::Commands, required: false, doc: "regular expressions to look for" },
        Opt {
            name: "only",
            ty: OptType::Words(&["new", "worsened", "regressed", "all"]),
            required: false,
            doc: "default: what is new, worse or back",
        },
        Opt {
            name: "first_run",
            ty: OptType::Word(&["baseline", "judge"]),
            required: false,
            doc: "whether the first run only records what exists",
        },
    ],
    beside: &[],
    model: false,
    closing: false,
    yields: |_| {
        let text = || Type::String { max: None };
        let field = |name: &str, ty| Field { name: name.into(), ty };
        let finding = Type::Map(vec![
            field("key", text()),
            field("rule", text()),
            field("file", text()),
            field("line", Type::Integer),
            field("message", text()),
            field("source", text()),
        ]);
        let list = |of| Type::List(Box::new(of));
        Type::Map(vec![
            field("items", list(finding.clone())),
            field("count", Type::Integer),
            field("fixed", list(finding)),
        ])
    },
    check,
    run: None,
    example: "scan: {first_run: baseline}\n",
};

fn check(checked: &Checked<'_>) -> Vec<KindMistake> {
    let mut mistakes = Vec::new();
    if !checked.repository {
        mistakes.push(mistake(
            "",
            "`scan` needs a repository",
            "there is nothing to scan",
            Some("write `repository: {github: owner/name, path: …}`"),
        ));
    }
    if !checked.environment {
        let help = "write `environment: environments/….yaml`";
        mistakes.push(mistake("", "`scan` needs an environment", "scanners run in a sandbox made from it", Some(help)));
    }
    mistakes
}
