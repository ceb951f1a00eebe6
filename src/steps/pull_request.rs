//! `pull_request`: a draft from a proved fix. Part of the dialect; it cannot run in this version yet.

use crate::expr::types::{Field, Type};
use crate::ports::step::{Checked, KindMistake, Opt, OptType, StepKind};

use super::model::mistake;

pub const KIND: StepKind = StepKind {
    name: "pull_request",
    summary: "open a draft pull request from a proved fix",
    options: &[
        Opt { name: "from", ty: OptType::StepId, required: true, doc: "an earlier `fix` with `test_first: true`" },
        Opt { name: "labels", ty: OptType::Texts, required: false, doc: "labels to set" },
        Opt { name: "reviewers", ty: OptType::Texts, required: false, doc: "`codeowners`, or names" },
        Opt {
            name: "expires",
            ty: OptType::Duration,
            required: false,
            doc: "closed when nobody looked at it for so long",
        },
    ],
    beside: &[],
    model: false,
    closing: false,
    yields: |_| {
        Type::Map(vec![
            Field { name: "opened".into(), ty: Type::Boolean },
            Field { name: "url".into(), ty: Type::String { max: None } },
        ])
    },
    check,
    run: None,
    example: "pull_request: {from: fix, reviewers: codeowners, expires: 14d}\n",
};

/// Rule 12: only a fix that shows its failing test first can be proved, and no YAML can weaken this.
fn check(checked: &Checked<'_>) -> Vec<KindMistake> {
    let title = "a pull request must come from a proved fix";
    let Some(from) = checked.options.text("from") else { return Vec::new() };
    match (checked.step)(from) {
        Some(("fix", options)) if options.boolean("test_first") == Some(&true) => Vec::new(),
        Some(("fix", _)) => vec![mistake(
            "pull_request.from",
            title,
            "this fix need not show a failing test first",
            Some("write `test_first: true` in the options of the fix"),
        )],
        Some((kind, _)) => {
            let label = format!("this step is a `{kind}`");
            vec![mistake(
                "pull_request.from",
                title,
                &label,
                Some("name an earlier `fix` step with `test_first: true`"),
            )]
        }
        // An unknown step is reported where references are checked.
        None => Vec::new(),
    }
}
