//! Checks a tool's input against its JSON Schema before anything is done with it.
//!
//! Only the keywords that our own schemas use: `type` (one or several), `enum`, `properties`, `required`,
//! `additionalProperties: false`, `items`, `maxLength`, `minimum`, `anyOf`. An unknown keyword is ignored.

use serde_json::Value;

/// The first mistakes of `value`, each with its place, for the model to read. Empty: the input is fine.
pub fn mistakes(schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(schema, value, "input", &mut found);
    found.truncate(5);
    found
}

/// The input without fields that may be left out and are null: some models send every field that they know of.
pub fn without_nulls(schema: &Value, mut input: Value) -> Value {
    let required =
        |name: &str| schema["required"].as_array().is_some_and(|list| list.iter().any(|field| field == name));
    let takes_null = |name: &str| {
        let of = &schema["properties"][name];
        let mut found = Vec::new();
        check(of, &Value::Null, "", &mut found);
        found.is_empty()
    };
    if let Some(fields) = input.as_object_mut() {
        fields.retain(|name, value| !value.is_null() || required(name) || takes_null(name));
    }
    input
}

fn check(schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    if let Some(choices) = schema["anyOf"].as_array() {
        let fits = |choice: &Value| {
            let mut inner = Vec::new();
            check(choice, value, at, &mut inner);
            inner.is_empty()
        };
        if !choices.iter().any(fits) {
            found.push(format!("`{at}` has none of the allowed forms"));
        }
        return;
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !types.is_empty() && !types.iter().any(|ty| is(ty, value)) {
        found.push(format!("`{at}` must be {}", types.join(" or ")));
        return;
    }
    if let Some(choices) = schema["enum"].as_array()
        && !choices.contains(value)
    {
        let list: Vec<String> = choices.iter().map(ToString::to_string).collect();
        found.push(format!("`{at}` must be one of {}", list.join(", ")));
    }
    if let (Some(most), Some(text)) = (schema["maxLength"].as_u64(), value.as_str())
        && text.chars().count() as u64 > most
    {
        found.push(format!("`{at}` is longer than {most} characters"));
    }
    if let (Some(least), Some(number)) = (schema["minimum"].as_f64(), value.as_f64())
        && number < least
    {
        found.push(format!("`{at}` must be at least {least}"));
    }
    if let (Some(of), Some(items)) = (schema.get("items"), value.as_array()) {
        for (n, item) in items.iter().enumerate().take(200) {
            check(of, item, &format!("{at}[{n}]"), found);
        }
    }
    if let Some(fields) = value.as_object() {
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                found.push(format!("`{at}.{name}` is missing"));
            }
        }
        for (name, field) in fields {
            match schema["properties"].get(name) {
                Some(of) => check(of, field, &format!("{at}.{name}"), found),
                None if schema["additionalProperties"] == Value::Bool(false) => {
                    let shown: String = name.chars().take(40).collect();
                    found.push(format!("`{at}` has no field `{shown}`"));
                }
                None => {}
            }
        }
    }
}

fn is(ty: &str, value: &Value) -> bool {
    match ty {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_null_says_no_more_than_a_field_that_is_left_out() {
        let schema = json!({
            "type": "object",
            "properties": {"path": {"type": "string"}, "skip": {"type": "integer"}, "day": {"type": ["string", "null"]}},
            "required": ["path"],
            "additionalProperties": false
        });
        let sent = json!({"path": null, "skip": null, "day": null});
        assert_eq!(without_nulls(&schema, sent), json!({"path": null, "day": null}));
        assert_eq!(without_nulls(&schema, json!([null])), json!([null]));
        // A name that the schema does not know stays, so that it is told.
        assert_eq!(mistakes(&schema, &json!({"path": "a", "pth": 1})), ["`input` has no field `pth`"]);
    }

    #[test]
    fn extra_missing_and_wrong_fields_are_named() {
        let schema = (super::super::complain::KIND.schema)();
        assert!(mistakes(&schema, &json!({"kind": "tool", "need": "curl", "evidence": "exit 127"})).is_empty());
        assert_eq!(
            mistakes(&schema, &json!({"kind": "money", "need": 1, "channel": "general"})),
            [
                "`input.evidence` is missing",
                "`input.kind` must be one of \"secret\", \"network\", \"tool\", \"dependency\", \"data\", \"instruction\"",
                "`input.need` must be string",
                "`input` has no field `channel`",
            ]
        );
        assert_eq!(mistakes(&schema, &json!("half")), ["`input` must be object"]);
    }
}
