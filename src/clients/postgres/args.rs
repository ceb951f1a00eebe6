//! Arguments as PostgreSQL reads them: text, which the server parses by the type that the query gives the parameter.

use bytes::BytesMut;
use serde_json::Value;
use tokio_postgres::types::{Format, IsNull, Kind, ToSql, Type, to_sql_checked};

/// One bound value.
#[derive(Debug)]
pub(super) struct Arg(pub Value);

impl ToSql for Arg {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        let Some(text) = text(&self.0, ty) else { return Ok(IsNull::Yes) };
        out.extend_from_slice(text.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

fn text(value: &Value, ty: &Type) -> Option<String> {
    let json = *ty == Type::JSON || *ty == Type::JSONB;
    match (value, ty.kind()) {
        (Value::Null, _) => None,
        (value, _) if json => Some(value.to_string()),
        (Value::Array(items), Kind::Array(inner)) => {
            let items: Vec<String> = items.iter().map(|item| element(text(item, inner))).collect();
            Some(format!("{{{}}}", items.join(",")))
        }
        (Value::String(text), _) => Some(text.clone()),
        (other, _) => Some(other.to_string()),
    }
}

/// Source: <https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO>.
fn element(text: Option<String>) -> String {
    match text {
        Some(text) => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
        None => "NULL".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_written_for_the_type_they_meet() {
        for (value, ty, expected) in [
            (json!(null), Type::INT4, None),
            (json!("2026-11-20"), Type::DATE, Some("2026-11-20")),
            (json!(1.5), Type::NUMERIC, Some("1.5")),
            (json!(true), Type::BOOL, Some("true")),
            (json!("a"), Type::JSONB, Some("\"a\"")),
            (json!({"a": [1]}), Type::JSON, Some("{\"a\":[1]}")),
            (json!([1, null]), Type::INT4_ARRAY, Some("{\"1\",NULL}")),
            (json!(["a\"b", "c\\d,{}", ""]), Type::TEXT_ARRAY, Some("{\"a\\\"b\",\"c\\\\d,{}\",\"\"}")),
            (json!(["x"]), Type::JSONB_ARRAY, Some("{\"\\\"x\\\"\"}")),
        ] {
            assert_eq!(text(&value, &ty).as_deref(), expected, "{value} as {ty}");
        }
    }
}
