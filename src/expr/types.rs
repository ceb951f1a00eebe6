//! The types of `output` and `params`: what they are, as JSON Schema, and the check of a value.
//!
//! How they are written is in `parse_type`. Invariant: a value that [`Type::validate`] returned has every field of its maps,
//! absent optional ones as null.

use jiff::ToSpan as _;
use jiff::civil::Date;
use serde_json::{Map, Number, Value, json};

/// A type of the dialect.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// Not known before the run: rows of a source.
    Any,
    String {
        /// In characters.
        max: Option<u32>,
    },
    Integer,
    Number,
    /// `0..1`
    Ratio,
    Boolean,
    /// `YYYY-MM-DD`
    Date,
    Enum(Vec<String>),
    List(Box<Type>),
    /// Closed: other fields are mistakes.
    Map(Vec<Field>),
    /// These fields are known; others may be there. Only in results of steps, never written by people.
    Open(Vec<Field>),
    Optional(Box<Type>),
    /// One of that step's item keys.
    Key(String),
}

/// One field of a map.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    pub name: String,
    pub ty: Type,
}

impl Field {
    /// A field of that name and type.
    pub fn new(name: impl Into<String>, ty: Type) -> Self {
        Self { name: name.into(), ty }
    }
}

/// Where a value does not fit its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeMistake {
    /// `groups[2].title`; empty for the whole value.
    pub path: String,
    pub message: String,
}

impl std::fmt::Display for TypeMistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.message),
            path => write!(f, "`{path}` {}", self.message),
        }
    }
}

/// Whether a schema may use the keywords for lengths and ranges.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keywords {
    /// Providers reject them in their schema modes; they stand in descriptions.
    Plain,
    All,
}

impl Type {
    /// A text of any length.
    pub const TEXT: Type = Type::String { max: None };

    /// A list of that type.
    pub fn list(of: Type) -> Self {
        Self::List(Box::new(of))
    }

    /// The same type, which may be absent.
    pub fn optional(self) -> Self {
        Self::Optional(Box::new(self))
    }

    /// The fields that are known, for maps of both kinds.
    pub fn fields(&self) -> Option<&[Field]> {
        match self {
            Self::Map(fields) | Self::Open(fields) => Some(fields),
            Self::Optional(inner) => inner.fields(),
            _ => None,
        }
    }

    /// The type of a field that is known.
    pub fn field(&self, name: &str) -> Option<&Type> {
        self.fields()?.iter().find(|field| field.name == name).map(|field| &field.ty)
    }

    /// What the type is without its `?`.
    pub fn required(&self) -> &Type {
        match self {
            Self::Optional(inner) => inner.required(),
            other => other,
        }
    }

    /// JSON Schema for a provider's schema mode: closed objects, everything required, optional as nullable, no length or
    /// range keywords (providers reject them; [`Type::validate`] enforces them).
    pub fn json_schema(&self) -> Value {
        self.schema(Keywords::Plain)
    }

    /// JSON Schema with lengths and ranges, for people and validators.
    pub fn json_schema_full(&self) -> Value {
        self.schema(Keywords::All)
    }

    fn schema(&self, keywords: Keywords) -> Value {
        match self {
            Self::Any => json!({}),
            Self::String { max: None } => json!({"type": "string"}),
            Self::String { max: Some(max) } if keywords == Keywords::All => json!({"type": "string", "maxLength": max}),
            Self::String { max: Some(max) } => {
                json!({"type": "string", "description": format!("at most {max} characters")})
            }
            Self::Integer => json!({"type": "integer"}),
            Self::Number => json!({"type": "number"}),
            Self::Ratio if keywords == Keywords::All => json!({"type": "number", "minimum": 0, "maximum": 1}),
            Self::Ratio => json!({"type": "number", "description": "from 0 to 1"}),
            Self::Boolean => json!({"type": "boolean"}),
            Self::Date if keywords == Keywords::All => json!({"type": "string", "format": "date"}),
            Self::Date => json!({"type": "string", "description": "a date, YYYY-MM-DD"}),
            Self::Enum(words) => json!({"type": "string", "enum": words}),
            Self::List(of) => json!({"type": "array", "items": of.schema(keywords)}),
            Self::Map(fields) | Self::Open(fields) => {
                let properties: Map<String, Value> =
                    fields.iter().map(|field| (field.name.clone(), field.ty.schema(keywords))).collect();
                let required: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
                let open = matches!(self, Self::Open(_));
                json!({"type": "object", "properties": properties, "required": required, "additionalProperties": open})
            }
            Self::Optional(inner) => json!({"anyOf": [inner.schema(keywords), {"type": "null"}]}),
            Self::Key(step) => {
                json!({"type": "string", "description": format!("the key of one of the items of `{step}`, exactly as given")})
            }
        }
    }

    /// Checks a value, lengths and ranges included, and returns it with fields in the order of the type, absent optional
    /// fields as null and whole numbers as integers. `keys` gives the item keys of a step, for `key(step)`.
    ///
    /// Errors: every mistake of the value, in its order.
    pub fn validate(&self, value: &Value, keys: &dyn Fn(&str) -> Vec<String>) -> Result<Value, Vec<TypeMistake>> {
        let mut mistakes = Vec::new();
        let normal = self.accept(value, "", keys, &mut mistakes);
        if mistakes.is_empty() { Ok(normal) } else { Err(mistakes) }
    }

    fn accept(
        &self,
        value: &Value,
        path: &str,
        keys: &dyn Fn(&str) -> Vec<String>,
        mistakes: &mut Vec<TypeMistake>,
    ) -> Value {
        let mut wrong = |message: String| mistakes.push(TypeMistake { path: path.to_owned(), message });
        match (self, value) {
            (Self::Any, any) => return any.clone(),
            (Self::Optional(_), Value::Null) => return Value::Null,
            (Self::Optional(inner), some) => return inner.accept(some, path, keys, mistakes),
            (Self::String { max }, Value::String(text)) => {
                let length = text.chars().count();
                if let Some(max) = max.filter(|max| length > *max as usize) {
                    wrong(format!("has {length} characters, at most {max} are allowed"));
                }
            }
            (Self::Integer, Value::Number(number)) => match whole(number) {
                Some(whole) => return whole.into(),
                None => wrong(format!("must be a whole number, not {number}")),
            },
            (Self::Number, Value::Number(_)) | (Self::Boolean, Value::Bool(_)) => {}
            (Self::Ratio, Value::Number(number)) => {
                if !number.as_f64().is_some_and(|n| (0.0..=1.0).contains(&n)) {
                    wrong(format!("must be from 0 to 1, not {number}"));
                }
            }
            (Self::Date, Value::String(text)) => {
                if parse_date(text).is_none() {
                    wrong("must be a date such as 2026-11-20".to_owned());
                }
            }
            (Self::Enum(words), Value::String(text)) => {
                if !words.contains(text) {
                    wrong(format!("must be one of {}", words.join(", ")));
                }
            }
            (Self::Key(step), Value::String(text)) => {
                if !keys(step).contains(text) {
                    wrong(format!("must be the key of an item of `{step}`"));
                }
            }
            (Self::List(of), Value::Array(items)) => {
                let each = items
                    .iter()
                    .enumerate()
                    .map(|(index, item)| of.accept(item, &format!("{path}[{index}]"), keys, mistakes));
                return Value::Array(each.collect());
            }
            (Self::Map(fields) | Self::Open(fields), Value::Object(object)) => {
                return self.accept_fields(fields, object, path, keys, mistakes);
            }
            (expected, Value::Null) => wrong(format!("must be {}, and nothing is there", expected.noun())),
            (expected, _) => wrong(format!("must be {}", expected.noun())),
        }
        value.clone()
    }

    fn accept_fields(
        &self,
        fields: &[Field],
        object: &Map<String, Value>,
        path: &str,
        keys: &dyn Fn(&str) -> Vec<String>,
        mistakes: &mut Vec<TypeMistake>,
    ) -> Value {
        let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let mut normal = Map::new();
        for field in fields {
            match (object.get(&field.name), &field.ty) {
                (Some(value), ty) => {
                    normal.insert(field.name.clone(), ty.accept(value, &below(&field.name), keys, mistakes));
                }
                (None, Self::Optional(_)) => {
                    normal.insert(field.name.clone(), Value::Null);
                }
                (None, _) => mistakes.push(TypeMistake { path: below(&field.name), message: "is missing".to_owned() }),
            }
        }
        for (name, value) in object {
            if fields.iter().any(|field| field.name == *name) {
                continue;
            }
            if matches!(self, Self::Open(_)) {
                normal.insert(name.clone(), value.clone());
            } else {
                mistakes.push(TypeMistake { path: below(name), message: "is not a field of the type".to_owned() });
            }
        }
        Value::Object(normal)
    }

    /// What it is, for sentences: "a text", "a list", …
    pub fn noun(&self) -> &'static str {
        match self {
            Self::Any => "any value",
            Self::String { .. } => "a text",
            Self::Integer => "a whole number",
            Self::Number => "a number",
            Self::Ratio => "a number from 0 to 1",
            Self::Boolean => "true or false",
            Self::Date => "a date",
            Self::Enum(_) => "one of some words",
            Self::List(_) => "a list",
            Self::Map(_) | Self::Open(_) => "a map",
            Self::Optional(inner) => inner.noun(),
            Self::Key(_) => "the key of an item",
        }
    }

    /// The value of a param whose default is `written`: `today` and `yesterday` count from the nominal local day.
    ///
    /// Errors: the mistakes of the value, as [`Type::validate`].
    pub fn resolve_default(&self, written: &Value, nominal_day: Date) -> Result<Value, Vec<TypeMistake>> {
        if let (Self::Date, Some(word)) = (self.required(), written.as_str()) {
            let day = match word {
                "today" => Some(nominal_day),
                "yesterday" => nominal_day.checked_sub(1.day()).ok(),
                _ => None,
            };
            if let Some(day) = day {
                return Ok(day.to_string().into());
            }
        }
        self.validate(written, &|_| Vec::new())
    }

    /// The value that a person typed as text (`--set name=value`).
    ///
    /// Numbers and booleans are read from the text, lists and maps from JSON, dates also as `today` and `yesterday`.
    /// Errors: what the text should have been.
    pub fn from_text(&self, text: &str, nominal_day: Date) -> Result<Value, Vec<TypeMistake>> {
        let value = match self.required() {
            Self::String { .. } | Self::Date | Self::Enum(_) | Self::Key(_) => Value::String(text.to_owned()),
            _ => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())),
        };
        self.resolve_default(&value, nominal_day)
    }
}

/// The type as it is written in the dialect.
impl std::fmt::Display for Type {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::String { max: None } => f.write_str("string"),
            Self::String { max: Some(max) } => write!(f, "string({max})"),
            Self::Integer => f.write_str("integer"),
            Self::Number => f.write_str("number"),
            Self::Ratio => f.write_str("0..1"),
            Self::Boolean => f.write_str("boolean"),
            Self::Date => f.write_str("date"),
            Self::Enum(words) => f.write_str(&words.join(" | ")),
            Self::List(of) => write!(f, "[{of}]"),
            Self::Map(fields) | Self::Open(fields) => {
                f.write_str("{")?;
                for (index, field) in fields.iter().enumerate() {
                    write!(f, "{}{}: {}", if index == 0 { "" } else { ", " }, field.name, field.ty)?;
                }
                f.write_str("}")
            }
            Self::Optional(inner) => write!(f, "{inner}?"),
            Self::Key(step) => write!(f, "key({step})"),
        }
    }
}

/// `YYYY-MM-DD`, and nothing else.
pub fn parse_date(text: &str) -> Option<Date> {
    let shaped = text.len() == 10
        && text.bytes().enumerate().all(|(i, b)| if matches!(i, 4 | 7) { b == b'-' } else { b.is_ascii_digit() });
    text.parse().ok().filter(|_| shaped)
}

fn whole(number: &Number) -> Option<i64> {
    let float = || number.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9e15).map(|f| f as i64);
    number.as_i64().or_else(float)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding() -> Type {
        Type::Map(vec![
            Field::new("title", Type::String { max: Some(5) }),
            Field::new("severity", Type::Enum(vec!["low".into(), "high".into()])),
            Field::new("confidence", Type::Ratio),
            Field::new("members", Type::list(Type::Key("real".into()))),
            Field::new("due", Type::Date.optional()),
            Field::new("count", Type::Integer),
        ])
    }

    #[test]
    fn every_mistake_of_a_value_is_named_with_its_path() {
        let value = json!({"title": "toolong", "severity": "mid", "confidence": 1.2, "members": ["k1", "k9"], "count": 1.5, "x": 1});
        let mistakes = finding().validate(&value, &|_| vec!["k1".into()]).unwrap_err();
        let shown: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "`title` has 7 characters, at most 5 are allowed",
                "`severity` must be one of low, high",
                "`confidence` must be from 0 to 1, not 1.2",
                "`members[1]` must be the key of an item of `real`",
                "`count` must be a whole number, not 1.5",
                "`x` is not a field of the type",
            ]
        );
    }

    #[test]
    fn a_good_value_is_returned_in_the_order_of_the_type() {
        let value = json!({"count": 2.0, "confidence": 1, "members": [], "severity": "low", "title": "é".repeat(5)});
        let normal = finding().validate(&value, &|_| Vec::new()).unwrap();
        assert_eq!(
            normal.to_string(),
            r#"{"title":"ééééé","severity":"low","confidence":1,"members":[],"due":null,"count":2}"#
        );
    }

    #[test]
    fn the_strict_schema_has_no_keyword_that_providers_reject() {
        let strict = finding().json_schema();
        let text = strict.to_string();
        assert!(["maxLength", "minimum", "maximum", "format"].iter().all(|word| !text.contains(word)), "{text}");
        assert_eq!(strict["additionalProperties"], json!(false));
        assert_eq!(strict["required"].as_array().unwrap().len(), 6);
        assert_eq!(strict["properties"]["due"]["anyOf"][1], json!({"type": "null"}));
        assert_eq!(finding().json_schema_full()["properties"]["title"]["maxLength"], json!(5));
    }

    #[test]
    fn defaults_of_dates_count_from_the_nominal_day() {
        let day = parse_date("2026-03-01").unwrap();
        assert_eq!(Type::Date.resolve_default(&json!("yesterday"), day), Ok(json!("2026-02-28")));
        assert_eq!(Type::Date.from_text("today", day), Ok(json!("2026-03-01")));
        assert!(Type::Date.from_text("2026-3-1", day).is_err());
        assert_eq!(Type::Integer.from_text("7", day), Ok(json!(7)));
        assert_eq!(Type::TEXT.from_text("7", day), Ok(json!("7")));
        assert!(Type::Boolean.from_text("yes", day).is_err());
    }
}
