//! A table of kinds like the real one, for this folder's tests: the rows of `steps/` stand below this one in the house.

use crate::expr::types::{Field, Type};
use crate::ports::Registry;
use crate::ports::source::SourceKind;
use crate::ports::step::{Checked, KindMistake, Opt, OptType, Sees, StepKind, Yields};
use crate::ports::tool::ToolKind;

const fn opt(name: &'static str, ty: OptType) -> Opt {
    Opt { name, ty, required: false, doc: "" }
}
const fn must(name: &'static str, ty: OptType) -> Opt {
    Opt { name, ty, required: true, doc: "" }
}
const fn kind(
    name: &'static str,
    options: &'static [Opt],
    beside: &'static [Opt],
    model: bool,
    yields: fn(&Yields) -> Type,
) -> StepKind {
    StepKind {
        name,
        summary: "",
        options,
        beside,
        model,
        closing: false,
        yields,
        check: |_| Vec::new(),
        run: None,
        example: "",
    }
}

fn map(fields: &[(&str, Type)]) -> Type {
    Type::Map(fields.iter().map(|(name, ty)| Field::new(*name, ty.clone())).collect())
}

fn output(yields: &Yields) -> Type {
    yields.output.cloned().unwrap_or(Type::Any)
}

fn fetched(yields: &Yields) -> Type {
    let many = yields.options.texts("from").len() > 1;
    let item = if many { Type::Open(vec![Field::new("rows", Type::list(Type::Any))]) } else { Type::Any };
    map(&[("items", Type::list(item)), ("count", Type::Integer)])
}

fn computed(_: &Yields) -> Type {
    let item = map(&[
        ("metric", Type::TEXT),
        ("value", Type::Number),
        ("usual", Type::Number),
        ("change", Type::Number),
        ("change_pct", Type::Number),
        ("flagged", Type::Boolean),
    ]);
    map(&[("items", Type::list(item)), ("count", Type::Integer)])
}

fn found(_: &Yields) -> Type {
    let item = map(&[
        ("key", Type::TEXT),
        ("rule", Type::TEXT),
        ("file", Type::TEXT),
        ("line", Type::Integer),
        ("message", Type::TEXT),
        ("source", Type::TEXT),
    ]);
    map(&[("items", Type::list(item)), ("count", Type::Integer), ("fixed", Type::list(Type::Any))])
}

fn needs_one_of(checked: &Checked, kind: &str, a: &str, b: &str) -> Vec<KindMistake> {
    let has = |name| checked.options.0.contains_key(name);
    if has(a) || has(b) {
        return Vec::new();
    }
    vec![KindMistake {
        at: kind.into(),
        title: format!("`{kind}` needs `{a}` or `{b}`"),
        label: "neither is here".into(),
        help: Some(format!("add `{a}: \"…\"`")),
    }]
}

const REQUIRE: &[Opt] = &[
    must("that", OptType::Expr(Sees::Own)),
    opt("retry", OptType::Duration),
    opt("for", OptType::Duration),
    opt("else", OptType::Word(&["blocked", "failed", "skip"])),
];
const REVIEW: &[Opt] = &[must("playbook", OptType::File), opt("rounds", OptType::Integer)];
const DIFF: &[Opt] =
    &[opt("paths", OptType::Texts), opt("max_files", OptType::Integer), opt("max_lines", OptType::Integer)];

pub(super) const STEPS: &[StepKind] = &[
    kind(
        "fetch",
        &[
            must("from", OptType::Sources),
            opt("query", OptType::Text),
            opt("args", OptType::Args),
            opt("only", OptType::Words(&["new", "worsened", "regressed", "all"])),
            opt("keep", OptType::Expr(Sees::Item)),
            opt("order", OptType::Field),
            opt("take", OptType::Integer),
        ],
        &[opt("require", OptType::Map(REQUIRE))],
        false,
        fetched,
    ),
    kind(
        "scan",
        &[
            opt("sarif", OptType::Commands),
            opt("cargo", OptType::Commands),
            opt("first_run", OptType::Word(&["baseline", "judge"])),
        ],
        &[],
        false,
        found,
    ),
    kind(
        "compute",
        &[
            must("compare", OptType::Data),
            must("at", OptType::Expr(Sees::Nothing)),
            must("usual", OptType::Word(&["median_same_weekday(n)", "mean(n)", "previous"])),
            opt("flag_when", OptType::Expr(Sees::Item)),
        ],
        &[],
        false,
        computed,
    ),
    kind(
        "intern",
        &[
            must("task", OptType::Word(&["summarise", "filter", "classify", "extract", "format"])),
            must("ask", OptType::Text),
            opt("given", OptType::Data),
            opt("keep", OptType::Expr(Sees::Output)),
            opt("escalate_when", OptType::Expr(Sees::Output)),
            opt("audit", OptType::Permille),
        ],
        &[],
        true,
        output,
    ),
    StepKind {
        check: |checked| needs_one_of(checked, "boss", "ask", "playbook"),
        ..kind(
            "boss",
            &[
                opt("ask", OptType::Text),
                opt("playbook", OptType::File),
                opt("given", OptType::Data),
                opt("tools", OptType::Tools),
                opt("max_turns", OptType::Integer),
            ],
            &[],
            true,
            output,
        )
    },
    kind(
        "fix",
        &[
            opt("ask", OptType::Text),
            opt("playbook", OptType::File),
            opt("given", OptType::Data),
            opt("test_first", OptType::Boolean),
            opt("attempts", OptType::Integer),
        ],
        &[opt("diff", OptType::Map(DIFF)), opt("review", OptType::Map(REVIEW)), opt("tools", OptType::Tools)],
        false,
        |_| map(&[("proved", Type::Boolean), ("patch", Type::TEXT), ("receipts", Type::list(Type::Any))]),
    ),
    kind("review", &[must("given", OptType::Data), must("playbook", OptType::File)], &[], false, |_| {
        map(&[("findings", Type::list(Type::Any))])
    }),
    kind(
        "approve",
        &[
            must("ask", OptType::Text),
            opt("given", OptType::Data),
            must("expires", OptType::Duration),
            must("on_expiry", OptType::Word(&["skip", "fail", "proceed"])),
        ],
        &[],
        false,
        |_| map(&[("approved", Type::Boolean), ("by", Type::TEXT)]),
    ),
    kind(
        "ticket",
        &[
            must("from", OptType::Data),
            opt("tracker", OptType::Text),
            opt("key", OptType::Expr(Sees::Nothing)),
            opt("labels", OptType::Texts),
            opt("assignees", OptType::Texts),
            opt("closed_as_not_planned", OptType::Word(&["mute", "reopen"])),
        ],
        &[],
        false,
        |_| map(&[("opened", Type::Boolean), ("updated", Type::Boolean), ("url", Type::TEXT)]),
    ),
    kind(
        "pull_request",
        &[
            must("from", OptType::Expr(Sees::Nothing)),
            opt("labels", OptType::Texts),
            opt("reviewers", OptType::Texts),
            opt("expires", OptType::Duration),
        ],
        &[],
        false,
        |_| map(&[("opened", Type::Boolean), ("url", Type::TEXT)]),
    ),
    kind(
        "report",
        &[
            must("from", OptType::Data),
            opt("to", OptType::Word(&["files", "slack", "terminal"])),
            opt("channel", OptType::Channel),
            opt("thread", OptType::Word(&["per_run", "per_finding"])),
            opt("chart", OptType::Map(&[must("of", OptType::StepId), must("days", OptType::Integer)])),
            opt("when_quiet", OptType::Word(&["post", "edit", "silent"])),
        ],
        &[],
        false,
        |_| map(&[("posted", Type::Boolean)]),
    ),
];

const fn tool(name: &'static str, always: bool) -> ToolKind {
    ToolKind { name, summary: "", description: "", schema: || serde_json::Value::Null, always, ready: true }
}

const TOOLS: &[ToolKind] = &[
    tool("read", false),
    tool("search", false),
    tool("tree", false),
    tool("edit", false),
    tool("run_tests", false),
    tool("run", false),
    tool("complain", true),
];
const SOURCES: &[SourceKind] = &[
    SourceKind { name: "sqlite", summary: "", query: "sql", make: None },
    SourceKind { name: "http", summary: "", query: "http", make: None },
];

pub(super) const REGISTRY: Registry =
    Registry { steps: STEPS, tools: TOOLS, sources: SOURCES, sinks: &[], models: &[] };
