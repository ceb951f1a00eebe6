//! The types of `output` and `params`.

use serde_json::Value;

/// A type of the dialect.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// Not known before the run: rows of a source.
    Any,
    String {
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

/// Where a value does not fit its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeMistake {
    /// `groups[2].title`
    pub path: String,
    pub message: String,
}

impl Type {
    /// JSON Schema for a provider's schema mode: closed objects, everything required, optional as nullable, no length or
    /// range keywords (providers reject them; [`Type::validate`] enforces them).
    pub fn json_schema(&self) -> Value {
        Value::Null
    }

    /// Checks a value, lengths and ranges included, and returns it with fields in the order of the type.
    /// `keys` gives the item keys of a step, for `key(step)`.
    pub fn validate(&self, value: &Value, keys: &dyn Fn(&str) -> Vec<String>) -> Result<Value, Vec<TypeMistake>> {
        let _ = keys;
        Ok(value.clone())
    }
}
