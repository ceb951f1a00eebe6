//! JSON to CEL values and back.
//!
//! Whole JSON numbers become CEL integers, never unsigned ones (then `n - 5` would fail); numbers beyond 64 bits become
//! doubles. Going back, a double that cannot be JSON (infinite, not a number) is an error.

use std::collections::HashMap;
use std::sync::Arc;

use cel::Value as Cel;
use cel::objects::{Key, Map};
use serde_json::Value as Json;

/// The CEL value of a JSON value.
pub fn to_cel(json: &Json) -> Cel {
    match json {
        Json::Null => Cel::Null,
        Json::Bool(b) => Cel::Bool(*b),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Cel::Int(whole),
            None => Cel::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Cel::String(Arc::new(text.clone())),
        Json::Array(items) => Cel::List(Arc::new(items.iter().map(to_cel).collect())),
        Json::Object(object) => {
            let map: HashMap<Key, Cel> =
                object.iter().map(|(key, value)| (Key::String(Arc::new(key.clone())), to_cel(value))).collect();
            Cel::Map(Map { map: Arc::new(map) })
        }
    }
}

/// The JSON value of a CEL value; the keys of maps in alphabetical order, because CEL keeps none.
///
/// Errors: what cannot be JSON, for people.
pub fn to_json(cel: &Cel) -> Result<Json, String> {
    Ok(match cel {
        Cel::Null => Json::Null,
        Cel::Bool(b) => Json::Bool(*b),
        Cel::Int(whole) => Json::from(*whole),
        Cel::UInt(whole) => Json::from(*whole),
        Cel::Float(float) => serde_json::Number::from_f64(*float)
            .map(Json::Number)
            .ok_or_else(|| format!("the result is {float}, which is not a number"))?,
        Cel::String(text) => Json::String(text.to_string()),
        Cel::List(items) => Json::Array(items.iter().map(to_json).collect::<Result<_, _>>()?),
        Cel::Map(map) => {
            let mut entries: Vec<(String, &Cel)> =
                map.map.iter().map(|(key, value)| (key.to_string(), value)).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            let object = entries.into_iter().map(|(key, value)| Ok((key, to_json(value)?)));
            Json::Object(object.collect::<Result<_, String>>()?)
        }
        other => return Err(format!("a {} is not data", other.type_of())),
    })
}
