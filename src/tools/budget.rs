//! `budget`: what the run has used and may still use. Asking changes nothing and raises nothing.

use serde_json::{Value, json};

use crate::ports::tool::{ToolKind, WorksOn};

pub const KIND: ToolKind = ToolKind {
    name: "budget",
    summary: "turns and money used and left",
    description: "How many turns and how much money this run has used and may still use. It cannot be raised from here.",
    schema,
    always: true,
    works_on: WorksOn::Nothing,
    ready: true,
};

fn schema() -> Value {
    json!({"type": "object", "properties": {}, "required": [], "additionalProperties": false})
}
