//! JSON Schema as the providers' own schema modes take it.
//!
//! They refuse lengths and ranges, want every object closed, and OpenAI wants every property required. What is taken out is
//! said in the description instead; enforcing it is the host's work. Pure.

use serde_json::{Map, Value, json};

/// Constraints that a schema mode refuses, with the words that replace them.
const TOLD: &[(&str, &str)] = &[
    ("maxLength", "at most {} characters"),
    ("minLength", "at least {} characters"),
    ("maximum", "at most {}"),
    ("minimum", "at least {}"),
    ("exclusiveMaximum", "below {}"),
    ("exclusiveMinimum", "above {}"),
    ("multipleOf", "a multiple of {}"),
    ("maxItems", "at most {} items"),
    ("minItems", "at least {} items"),
    ("pattern", "matching {}"),
];
/// Dropped without a word.
const DROPPED: &[&str] = &["$schema", "$id", "uniqueItems", "minProperties", "maxProperties", "examples", "default"];

/// For `output_config.format`.
pub fn for_anthropic(schema: &Value) -> Value {
    translate(schema, Optional::Left)
}

/// For `response_format` with `strict`: an optional property becomes a required one that may be null.
pub fn for_openai(schema: &Value) -> Value {
    translate(schema, Optional::Null)
}

#[derive(Clone, Copy, PartialEq)]
enum Optional {
    Left,
    Null,
}

fn translate(schema: &Value, optional: Optional) -> Value {
    let Value::Object(source) = schema else { return schema.clone() };
    let mut out = Map::new();
    let mut told = Vec::new();
    for (key, value) in source {
        if let Some((_, words)) = TOLD.iter().find(|(name, _)| name == key) {
            let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            told.push(words.replace("{}", &shown));
            continue;
        }
        if DROPPED.contains(&key.as_str()) {
            continue;
        }
        let value = match (key.as_str(), value) {
            ("properties" | "$defs" | "definitions", Value::Object(map)) => {
                Value::Object(map.iter().map(|(name, inner)| (name.clone(), translate(inner, optional))).collect())
            }
            ("items" | "additionalProperties" | "not", inner) => translate(inner, optional),
            ("anyOf" | "oneOf" | "allOf" | "prefixItems", Value::Array(list)) => {
                list.iter().map(|inner| translate(inner, optional)).collect()
            }
            (_, value) => value.clone(),
        };
        out.insert(key.clone(), value);
    }
    if let Some(properties) = out.get("properties").and_then(Value::as_object) {
        let names: Vec<String> = properties.keys().cloned().collect();
        out.insert("additionalProperties".into(), Value::Bool(false));
        if optional == Optional::Null {
            let required = required(source);
            if let Some(Value::Object(properties)) = out.get_mut("properties") {
                for (_, inner) in properties.iter_mut().filter(|(name, _)| !required.contains(&name.as_str())) {
                    *inner = nullable(inner.take());
                }
            }
            out.insert("required".into(), names.into());
        }
    }
    if !told.is_empty() {
        let told = told.join(", ");
        let text = match out.get("description").and_then(Value::as_str) {
            Some(text) => format!("{text} ({told})"),
            None => told,
        };
        out.insert("description".into(), text.into());
    }
    Value::Object(out)
}

fn required(schema: &Map<String, Value>) -> Vec<&str> {
    schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

fn nullable(schema: Value) -> Value {
    let already = |schema: &Value| match schema.get("type") {
        Some(Value::String(name)) => name == "null",
        Some(Value::Array(names)) => names.iter().any(|name| name == "null"),
        _ => false,
    };
    if already(&schema) { schema } else { json!({"anyOf": [schema, {"type": "null"}]}) }
}

/// Takes the nulls out that only stand for "left out", after an answer in the form of [`for_openai`]. Says whether it did.
pub fn drop_nulls(value: &mut Value, schema: &Value) -> bool {
    let mut changed = false;
    match value {
        Value::Object(map) => {
            let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return false };
            let required = schema.as_object().map(required).unwrap_or_default();
            let before = map.len();
            map.retain(|name, value| !value.is_null() || required.contains(&name.as_str()));
            changed |= map.len() != before;
            for (name, value) in map.iter_mut() {
                if let Some(inner) = properties.get(name) {
                    changed |= drop_nulls(value, inner);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = schema.get("items") {
                for value in list {
                    changed |= drop_nulls(value, items);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Value {
        json!({"$schema": "x", "type": "object", "required": ["groups"], "properties": {
            "groups": {"type": "array", "maxItems": 5, "items": {"type": "object", "required": ["title"], "properties": {
                "title": {"type": "string", "maxLength": 90, "description": "the harm"},
                "share": {"type": "number", "minimum": 0, "maximum": 1}}}},
            "note": {"type": ["string", "null"]}}})
    }

    #[test]
    fn lengths_and_ranges_become_words_and_objects_are_closed() {
        assert_eq!(
            for_anthropic(&schema()),
            json!({"type": "object", "required": ["groups"], "properties": {
                "groups": {"type": "array", "items": {"type": "object", "required": ["title"], "properties": {
                    "title": {"type": "string", "description": "the harm (at most 90 characters)"},
                    "share": {"type": "number", "description": "at least 0, at most 1"}},
                    "additionalProperties": false}, "description": "at most 5 items"},
                "note": {"type": ["string", "null"]}},
                "additionalProperties": false})
        );
    }

    #[test]
    fn an_optional_property_may_be_null_for_openai_and_is_taken_out_of_the_answer() {
        let strict = for_openai(&schema());
        assert_eq!(strict["required"], json!(["groups", "note"]));
        let item = &strict["properties"]["groups"]["items"];
        assert_eq!(item["required"], json!(["title", "share"]));
        assert_eq!(item["properties"]["share"]["anyOf"][1], json!({"type": "null"}));
        let mut answer = json!({"groups": [{"title": "a", "share": null}, {"title": "b", "share": 1}], "note": null});
        assert!(drop_nulls(&mut answer, &schema()));
        assert_eq!(answer, json!({"groups": [{"title": "a"}, {"title": "b", "share": 1}]}));
        assert!(!drop_nulls(&mut answer, &schema()));
    }
}
