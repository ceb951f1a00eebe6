//! The capabilities that work on a repository, what stands behind them in each profile, and the forms of an edit.
//!
//! What a model sees is the same in every profile, so prompts, caches and tapes are, too; only [`BINDINGS`] differs.

use serde_json::{Map, Value, json};

use crate::domain::code::Edit;
use crate::ports::tool::{ToolKind, WorksOn};

/// What stands behind a capability: in a profile with `tools: native`, and in one with `tools: clone`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    pub capability: &'static str,
    /// Over the files of a worktree on this machine.
    pub native: &'static str,
    /// Over the objects of a private clone; nothing is checked out.
    pub clone: &'static str,
}

/// One row for each capability that works on code.
pub const BINDINGS: &[Binding] = &[
    Binding { capability: "read", native: "Read", clone: "code_read_file" },
    Binding { capability: "search", native: "Grep", clone: "code_search" },
    Binding { capability: "tree", native: "Glob", clone: "code_file_tree" },
    Binding { capability: "edit", native: "Edit", clone: "code_edit" },
    Binding { capability: "run_tests", native: "Bash", clone: "e2b_run_tests" },
    Binding { capability: "run", native: "Bash", clone: "e2b_run" },
];

/// How a profile's `tools` looks at code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// `native`: through the files of a worktree.
    Files,
    /// `clone`: straight from the objects of the clone.
    Objects,
}

impl Look {
    /// What `tools:` in a profile says.
    pub fn of(tools: &str) -> Self {
        if tools == "clone" { Self::Objects } else { Self::Files }
    }
}

/// What a capability is bound to, by the profile's `tools`. `None`: it does not work on code.
pub fn bound_to(capability: &str, tools: &str) -> Option<&'static str> {
    let row = BINDINGS.iter().find(|row| row.capability == capability)?;
    Some(match Look::of(tools) {
        Look::Files => row.native,
        Look::Objects => row.clone,
    })
}

pub const READ: ToolKind = ToolKind {
    name: "read",
    summary: "read a file of the repository",
    description: "Read lines of a file of the repository, with their numbers; at most 400 at a time.",
    schema: || {
        closed(
            json!({
                "path": {"type": "string", "maxLength": 4096},
                "from_line": {"type": "integer", "minimum": 1},
                "lines": {"type": "integer", "minimum": 1}
            }),
            &["path"],
        )
    },
    always: false,
    works_on: WorksOn::Code,
    ready: true,
};

pub const SEARCH: ToolKind = ToolKind {
    name: "search",
    summary: "search the repository",
    description: "Find the lines that match a regular expression (Rust syntax). `path`: only below this folder or in this file; \
                  `glob`: only files like `*.py` or `src/**/*.rs`; `around`: lines shown before and after; `skip`: for the \
                  next page.",
    schema: || {
        closed(
            json!({
                "pattern": {"type": "string", "maxLength": 1000},
                "path": {"type": "string", "maxLength": 4096},
                "glob": {"type": "string", "maxLength": 1000},
                "ignore_case": {"type": "boolean"},
                "around": {"type": "integer", "minimum": 0},
                "skip": {"type": "integer", "minimum": 0}
            }),
            &["pattern"],
        )
    },
    always: false,
    works_on: WorksOn::Code,
    ready: true,
};

pub const TREE: ToolKind = ToolKind {
    name: "tree",
    summary: "list the files of the repository",
    description: "List the files below a folder (`path`, default all) or those that fit a `glob`; many are shown folder by \
                  folder. `skip`: for the next page.",
    schema: || {
        closed(
            json!({
                "path": {"type": "string", "maxLength": 4096},
                "glob": {"type": "string", "maxLength": 1000},
                "skip": {"type": "integer", "minimum": 0}
            }),
            &[],
        )
    },
    always: false,
    works_on: WorksOn::Code,
    ready: true,
};

pub const EDIT: ToolKind = ToolKind {
    name: "edit",
    summary: "change a file of the workspace",
    description: "Change one file of your copy of the code; nothing is published by it. Give `path` and one of: `old` and `new` \
                  (an exact passage without line numbers that stands in the file once, or `count` times), `content` (the \
                  whole file, which may be new), `delete`: true, `rename_to`.",
    schema: || {
        closed(
            json!({
                "path": {"type": "string", "maxLength": 4096},
                "old": {"type": "string"},
                "new": {"type": "string"},
                "count": {"type": "integer", "minimum": 1},
                "content": {"type": "string"},
                "delete": {"type": "boolean"},
                "rename_to": {"type": "string", "maxLength": 4096}
            }),
            &["path"],
        )
    },
    always: false,
    works_on: WorksOn::Code,
    ready: true,
};

pub const RUN_TESTS: ToolKind = ToolKind {
    name: "run_tests",
    summary: "run the tests in the sandbox",
    description: "Run the project's tests on your copy of the code, in the sandbox. `filter` shows only results of tests whose \
                  name contains it; all are run.",
    schema: || closed(json!({"filter": {"type": "string", "maxLength": 200}}), &[]),
    always: false,
    works_on: WorksOn::Sandbox,
    ready: true,
};

pub const RUN: ToolKind = ToolKind {
    name: "run",
    summary: "run a command in the sandbox",
    description: "Run a shell command in the sandbox, at the root of your copy of the code: no secret, no network. What it \
                  changes is not kept; to change code use `edit`. `wall_s`: seconds it may take (default 120).",
    schema: || {
        closed(
            json!({
                "command": {"type": "string", "maxLength": 20000},
                "wall_s": {"type": "integer", "minimum": 1}
            }),
            &["command"],
        )
    },
    always: false,
    works_on: WorksOn::Sandbox,
    ready: true,
};

fn closed(properties: Value, required: &[&str]) -> Value {
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

const FORMS: &str = "give `path` and exactly one of: `old` with `new`; `content`; `delete`: true; `rename_to`";

/// The edit that an input asks for. Its types have been held against the schema before.
///
/// Errors: what is wrong with it, for the model.
pub fn edit(input: &Value) -> Result<Edit, String> {
    let none = Map::new();
    let fields = input.as_object().unwrap_or(&none);
    // Some models send every field of a schema and leave those that they do not mean empty.
    let given = |name: &str| fields.get(name).filter(|value| !value.is_null());
    let text = |name: &str| given(name).and_then(Value::as_str).map(str::to_owned);
    let path = text("path").filter(|path| !path.is_empty()).ok_or("`path` is missing")?;
    let replaces = given("old").is_some() || given("new").is_some() || given("count").is_some();
    let writes = given("content").is_some();
    let deletes = given("delete") == Some(&Value::Bool(true));
    let renames = given("rename_to").is_some();
    match (replaces, writes, deletes, renames) {
        (true, false, false, false) => {
            let old = text("old").ok_or("`old` is missing: the exact passage that `new` replaces")?;
            let new = text("new").ok_or("`new` is missing: what stands there instead of `old`; \"\" to remove it")?;
            if old.is_empty() {
                return Err(
                    "`old` is empty: to add text, take a passage next to it into `old` and `new`; to make a file, \
                            give `content`"
                        .into(),
                );
            }
            let count = given("count").and_then(Value::as_u64).unwrap_or(1);
            let count = u32::try_from(count).map_err(|_| "`count` is too large")?;
            Ok(Edit::Replace { path, old, new, count })
        }
        (false, true, false, false) => Ok(Edit::Write { path, content: text("content").unwrap_or_default() }),
        (false, false, true, false) => Ok(Edit::Delete { path }),
        (false, false, false, true) => Ok(Edit::Rename { from: path, to: text("rename_to").unwrap_or_default() }),
        (false, false, false, false) => Err(format!("nothing is said about what to change: {FORMS}")),
        _ => {
            let named =
                [(replaces, "`old`/`new`"), (writes, "`content`"), (deletes, "`delete`"), (renames, "`rename_to`")];
            let named: Vec<&str> = named.into_iter().filter(|(given, _)| *given).map(|(_, name)| name).collect();
            Err(format!("{} were given together: {FORMS}", named.join(" and ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_has_exactly_one_form() {
        let path = || "src/a.rs".to_owned();
        let good = [
            (
                json!({"path": "src/a.rs", "old": "a", "new": ""}),
                Edit::Replace { path: path(), old: "a".into(), new: String::new(), count: 1 },
            ),
            (
                json!({"path": "src/a.rs", "old": "a", "new": "b", "count": 3}),
                Edit::Replace { path: path(), old: "a".into(), new: "b".into(), count: 3 },
            ),
            (json!({"path": "src/a.rs", "content": ""}), Edit::Write { path: path(), content: String::new() }),
            (
                json!({"path": "src/a.rs", "content": "x", "delete": false, "rename_to": null}),
                Edit::Write { path: path(), content: "x".into() },
            ),
            (json!({"path": "src/a.rs", "delete": true}), Edit::Delete { path: path() }),
            (json!({"path": "src/a.rs", "rename_to": "b.rs"}), Edit::Rename { from: path(), to: "b.rs".into() }),
        ];
        for (input, wanted) in good {
            assert!(super::super::input::mistakes(&(EDIT.schema)(), &input).is_empty() || input["rename_to"].is_null());
            assert_eq!(edit(&input), Ok(wanted), "{input}");
        }
        let bad = [
            (json!({}), "`path` is missing"),
            (json!({"path": ""}), "`path` is missing"),
            (json!({"path": "a"}), "nothing is said about what to change: "),
            (json!({"path": "a", "delete": false}), "nothing is said about what to change: "),
            (json!({"path": "a", "new": "x"}), "`old` is missing"),
            (json!({"path": "a", "old": "x"}), "`new` is missing"),
            (json!({"path": "a", "count": 2}), "`old` is missing"),
            (json!({"path": "a", "old": "", "new": "x"}), "`old` is empty"),
            (
                json!({"path": "a", "old": "x", "new": "y", "content": "z"}),
                "`old`/`new` and `content` were given together",
            ),
            (json!({"path": "a", "delete": true, "rename_to": "b"}), "`delete` and `rename_to` were given together"),
            (json!({"path": "a", "old": "x", "new": "y", "count": 5_000_000_000u64}), "`count` is too large"),
        ];
        for (input, wanted) in bad {
            let mistake = edit(&input).unwrap_err();
            assert!(mistake.starts_with(wanted), "{input}: {mistake}");
        }
    }

    #[test]
    fn every_capability_on_code_is_bound_in_both_profiles() {
        let on_code: Vec<&str> =
            super::super::ALL.iter().filter(|kind| kind.works_on != WorksOn::Nothing).map(|kind| kind.name).collect();
        let bound: Vec<&str> = BINDINGS.iter().map(|row| row.capability).collect();
        assert_eq!(bound, on_code);
        assert_eq!(
            [bound_to("read", "native"), bound_to("read", "clone"), bound_to("budget", "clone")],
            [Some("Read"), Some("code_read_file"), None]
        );
    }
}
