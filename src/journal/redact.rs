//! Applies the redactor to JSON so that JSON comes out.

use serde_json::Value;
use serde_json::value::RawValue;

use super::Redactor;

/// The payload as it may be stored.
pub(super) fn json(redactor: &Redactor, payload: Box<RawValue>) -> Box<RawValue> {
    let Some(text) = redactor(payload.get()) else { return payload };
    RawValue::from_string(text).unwrap_or_else(|_| {
        // The replacement broke the syntax (a secret that stood as a bare number): go through the values instead.
        let value = serde_json::from_str(payload.get()).map(|value| walk(redactor, value)).unwrap_or_default();
        serde_json::value::to_raw_value(&value).unwrap_or_default()
    })
}

fn walk(redactor: &Redactor, value: Value) -> Value {
    let text = |text: String| redactor(&text).unwrap_or(text);
    match value {
        Value::String(s) => Value::String(text(s)),
        Value::Array(items) => items.into_iter().map(|item| walk(redactor, item)).collect(),
        Value::Object(map) => map.into_iter().map(|(key, item)| (text(key), walk(redactor, item))).collect(),
        Value::Number(number) => redactor(&number.to_string()).map_or(Value::Number(number), Value::String),
        Value::Null | Value::Bool(_) => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn json_stays_json_even_when_the_secret_is_a_number() {
        let redactor: Redactor = Arc::new(|text| text.contains("4711").then(|| text.replace("4711", "[pin]")));
        let redact = |text: &str| json(&redactor, RawValue::from_string(text.to_owned()).unwrap()).get().to_owned();
        assert_eq!(redact(r#"{"a":"is 4711!"}"#), r#"{"a":"is [pin]!"}"#);
        assert_eq!(redact(r#"{"a":4711,"4711":[1,"x"]}"#), r#"{"a":"[pin]","[pin]":[1,"x"]}"#);
        assert_eq!(redact(r#"{ "a": 1 }"#), r#"{ "a": 1 }"#);
    }
}
