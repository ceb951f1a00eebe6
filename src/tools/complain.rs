//! `complain`: an agent says in a structured way what it lacks. It changes nothing by itself; a person hears of it.

use serde_json::{Value, json};

use crate::ports::tool::{ToolKind, WorksOn};

/// What may be lacking.
pub const KINDS: &[&str] = &["secret", "network", "tool", "dependency", "data", "instruction"];

pub const KIND: ToolKind = ToolKind {
    name: "complain",
    summary: "say what is missing",
    description: "Say that something you need is missing or broken: a secret, a host on the network, a tool, a dependency, \
                  data, or a clear instruction. A person will read it. `need` names exactly what is missing, `evidence` \
                  quotes the error or says how you noticed. Then do as much as is possible without it.",
    schema,
    always: true,
    works_on: WorksOn::Nothing,
    ready: true,
};

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "kind": {"type": "string", "enum": KINDS},
            "need": {"type": "string", "maxLength": 500},
            "evidence": {"type": "string", "maxLength": 2000}
        },
        "required": ["kind", "need", "evidence"],
        "additionalProperties": false
    })
}
