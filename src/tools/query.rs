//! The read-only queries that a pipeline defines under `tools:`, as a model sees them.

use serde_json::{Map, Value, json};

use crate::domain::definition::{ToolDef, ToolQuery};
use crate::domain::model::ToolSpec;
use crate::expr::types::Type;

/// What the model is told about a tool of the pipeline. Built from trusted YAML only.
pub fn spec(tool: &ToolDef) -> ToolSpec {
    let how = match &tool.query {
        ToolQuery::Sql { file, .. } => format!("the query {file}"),
        ToolQuery::HttpGet { path, .. } => format!("GET {path}"),
        ToolQuery::Promql { query, .. } => format!("the query {query}"),
    };
    let most = tool.max_rows.map(|rows| format!(" At most {rows} rows.")).unwrap_or_default();
    ToolSpec {
        name: tool.name.clone(),
        description: format!("Read-only: {how} of `{}`. Answers with rows as JSON, one per line.{most}", tool.source),
        input_schema: schema(&tool.args),
    }
}

fn schema(args: &[(String, Type)]) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (name, ty) in args {
        let inner = match ty {
            Type::Optional(inner) => inner,
            ty => {
                required.push(name.as_str());
                ty
            }
        };
        let mut of = inner.json_schema();
        if let (Type::Date, Some(of)) = (inner, of.as_object_mut()) {
            of.insert("description".into(), "YYYY-MM-DD".into());
        }
        properties.insert(name.clone(), of);
    }
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}
