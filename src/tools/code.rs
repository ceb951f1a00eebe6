//! The capabilities that work on a repository. They are part of the dialect; none runs in this version yet.

use serde_json::{Value, json};

use crate::ports::tool::{ToolKind, WorksOn};

pub const READ: ToolKind = ToolKind {
    name: "read",
    summary: "read a file of the repository",
    description: "Read a file of the repository, or some of its lines.",
    schema: || {
        closed(
            json!({"path": {"type": "string"}, "from_line": {"type": "integer"}, "lines": {"type": "integer"}}),
            &["path"],
        )
    },
    always: false,
    works_on: WorksOn::Code,
    ready: false,
};

pub const SEARCH: ToolKind = ToolKind {
    name: "search",
    summary: "search the repository",
    description: "Search the files of the repository with a regular expression.",
    schema: || closed(json!({"pattern": {"type": "string"}, "glob": {"type": "string"}}), &["pattern"]),
    always: false,
    works_on: WorksOn::Code,
    ready: false,
};

pub const TREE: ToolKind = ToolKind {
    name: "tree",
    summary: "list the files of the repository",
    description: "List the files of the repository below a folder.",
    schema: || closed(json!({"path": {"type": "string"}, "glob": {"type": "string"}}), &[]),
    always: false,
    works_on: WorksOn::Code,
    ready: false,
};

pub const EDIT: ToolKind = ToolKind {
    name: "edit",
    summary: "change a file of the workspace",
    description: "Replace one exact passage of a file in the workspace, or create a file. Nothing is published by this.",
    schema: || {
        closed(
            json!({"path": {"type": "string"}, "old": {"type": "string"}, "new": {"type": "string"}}),
            &["path", "old", "new"],
        )
    },
    always: false,
    works_on: WorksOn::Code,
    ready: false,
};

pub const RUN_TESTS: ToolKind = ToolKind {
    name: "run_tests",
    summary: "run the tests in the sandbox",
    description: "Run the project's tests on the workspace as it is now, in the sandbox.",
    schema: || closed(json!({"filter": {"type": "string"}}), &[]),
    always: false,
    works_on: WorksOn::Sandbox,
    ready: false,
};

pub const RUN: ToolKind = ToolKind {
    name: "run",
    summary: "run a command in the sandbox",
    description: "Run a shell command in the sandbox: no network, no secret, the workspace as it is now.",
    schema: || closed(json!({"command": {"type": "string"}}), &["command"]),
    always: false,
    works_on: WorksOn::Sandbox,
    ready: false,
};

fn closed(properties: Value, required: &[&str]) -> Value {
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}
