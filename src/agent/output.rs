//! From the text of an answer to a value of the type that was asked for.

use serde_json::{Map, Value};

use crate::expr::types::Type;

/// The longest answer that is looked at, in bytes.
const MOST_BYTES: usize = 1024 * 1024;

/// The answer as a value of `ty`, with fields in its order; else what is wrong with it, for the model to correct.
///
/// The text must be JSON. A code fence or words around it are forgiven (not every server has a schema mode), half a value
/// and extra fields are not.
pub fn read(text: &str, ty: &Type, keys: &dyn Fn(&str) -> Vec<String>) -> Result<Map<String, Value>, Vec<String>> {
    if text.len() > MOST_BYTES {
        return Err(vec![format!("the answer has {} bytes, which is too long", text.len())]);
    }
    let value = json_of(text).ok_or_else(|| match text.trim() {
        "" => vec!["the answer is empty".to_owned()],
        _ => vec!["the answer is not one complete JSON value".to_owned()],
    })?;
    match ty.validate(&value, keys) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(vec!["the answer must be a map".to_owned()]),
        Err(mistakes) => Err(mistakes.iter().take(12).map(ToString::to_string).collect()),
    }
}

fn json_of(text: &str) -> Option<Value> {
    let text = text.trim();
    if let Ok(value) = serde_json::from_str(text) {
        return Some(value);
    }
    let (from, to) = (text.find('{')?, text.rfind('}')?);
    serde_json::from_str(text.get(from..=to)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::types::Field;
    use serde_json::json;

    fn read_class(text: &str) -> Result<Value, Vec<String>> {
        let ty =
            Type::Map(vec![Field { name: "class".into(), ty: Type::Enum(vec!["simple".into(), "complex".into()]) }]);
        read(text, &ty, &|_| Vec::new()).map(Value::Object)
    }

    #[test]
    fn words_around_an_answer_are_forgiven_and_half_an_answer_is_not() {
        let good = Ok(json!({"class": "simple"}));
        assert_eq!(read_class(r#"{"class": "simple"}"#), good);
        assert_eq!(read_class("Here it is:\n```json\n{\"class\": \"simple\"}\n```"), good);
        for bad in [
            "",
            r#"{"class": "sim"#,
            r#"{"class": "hard"}"#,
            r#"{"class": "simple", "channel": "x"}"#,
            "[]",
            "simple",
            "{}",
        ] {
            assert!(read_class(bad).is_err(), "{bad}");
        }
        assert!(read_class(&"x".repeat(2 << 20)).is_err());
    }
}
