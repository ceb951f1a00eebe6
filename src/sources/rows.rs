//! From a JSON document to rows: the path that finds the list, the cut at `max_rows`.
//!
//! The path is the part of JSONPath that names one place: `$`, `$.data`, `$['a b'].items`, `$.a.b[*]`. Pure.

use serde_json::{Map, Value};

pub type Row = Map<String, Value>;

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Field(String),
    /// `[*]`: every element.
    Every,
}

/// A checked path to the rows of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowsPath {
    text: String,
    parts: Vec<Part>,
}

impl RowsPath {
    /// Errors: a sentence for people about what is not understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad =
            |why: &str| format!("the path `{text}` {why}; write for instance `$`, `$.data` or `$.result.items[*]`");
        let mut rest = text.trim().strip_prefix('$').ok_or_else(|| bad("does not begin with `$`"))?;
        let mut parts = Vec::new();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("[*]") {
                parts.push(Part::Every);
                rest = after;
            } else if let Some(after) = rest.strip_prefix('[') {
                let quote = after.chars().next().filter(|c| matches!(c, '\'' | '"')).ok_or_else(|| {
                    bad("picks single elements: only `[*]` and quoted field names can stand in brackets")
                })?;
                let (name, after) =
                    after[1..].split_once(quote).ok_or_else(|| bad("has a quote that is not closed"))?;
                rest = after.strip_prefix(']').ok_or_else(|| bad("has a bracket that is not closed"))?;
                parts.push(Part::Field(name.to_owned()));
            } else if let Some(after) = rest.strip_prefix('.') {
                let end = after.find(['.', '[']).unwrap_or(after.len());
                let name = &after[..end];
                if name.is_empty() || name.contains(['*', '?', '(', ' ']) {
                    return Err(bad("has a part that is not a field name"));
                }
                parts.push(Part::Field(name.to_owned()));
                rest = &after[end..];
            } else {
                return Err(bad("cannot be understood"));
            }
        }
        Ok(Self { text: text.trim().to_owned(), parts })
    }

    /// The rows of `document`. A list at the end of the path stands for its elements; each row must be an object.
    pub fn rows(&self, document: Value) -> Result<Vec<Row>, String> {
        let mut nodes = vec![document];
        for part in &self.parts {
            let mut next = Vec::with_capacity(nodes.len());
            for node in nodes {
                match (part, node) {
                    (Part::Field(name), Value::Object(mut map)) => match map.remove(name) {
                        Some(found) => next.push(found),
                        None => return Err(self.missing(name, &map)),
                    },
                    (Part::Every, Value::Array(items)) => next.extend(items),
                    (Part::Field(name), other) => {
                        return Err(format!(
                            "`{}`: `{name}` stands below {}, not below an object",
                            self.text,
                            kind(&other)
                        ));
                    }
                    (Part::Every, other) => return Err(format!("`{}`: `[*]` meets {}", self.text, kind(&other))),
                }
            }
            nodes = next;
        }
        // A path that ends in a list means its elements; after `[*]` the nodes are the elements already.
        if self.parts.last() != Some(&Part::Every) && nodes.len() == 1 && nodes[0].is_array() {
            nodes = match nodes.pop() {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            };
        } else if self.parts.last() != Some(&Part::Every) && !nodes.iter().all(Value::is_array) {
            let lists = nodes.first().and_then(Value::as_object).map(lists_in).unwrap_or_default();
            let help =
                if lists.is_empty() { String::new() } else { format!("; the lists in it: {}", lists.join(", ")) };
            let met = nodes.first().map_or("nothing", kind);
            return Err(format!("`{}` is {met}, not a list of rows{help}", self.text));
        } else if nodes.iter().all(Value::is_array) && self.parts.last() != Some(&Part::Every) {
            nodes =
                nodes.into_iter().flat_map(|n| if let Value::Array(items) = n { items } else { Vec::new() }).collect();
        }
        nodes
            .into_iter()
            .enumerate()
            .map(|(index, node)| match node {
                Value::Object(row) => Ok(row),
                other => Err(format!("`{}`: row {index} is {}, not an object", self.text, kind(&other))),
            })
            .collect()
    }

    /// The one value at the path, if there is one.
    pub fn one<'v>(&self, document: &'v Value) -> Option<&'v Value> {
        self.parts.iter().try_fold(document, |at, part| match part {
            Part::Field(name) => at.get(name),
            Part::Every => None,
        })
    }

    fn missing(&self, name: &str, map: &Row) -> String {
        let names: Vec<_> = map.keys().take(12).map(|key| format!("`{}`", printable(key))).collect();
        match names.is_empty() {
            true => format!("`{}`: there is no `{name}`, the object is empty", self.text),
            false => format!("`{}`: there is no `{name}` among {}", self.text, names.join(", ")),
        }
    }
}

fn lists_in(map: &Row) -> Vec<String> {
    map.iter().filter(|(_, v)| v.is_array()).map(|(k, _)| format!("`$.{}`", printable(k))).take(5).collect()
}

/// A name from outside, fit for a message of one line.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(40).collect()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Cuts at `max_rows`; the flag says that more existed.
pub fn cut(mut rows: Vec<Row>, max_rows: u32) -> (Vec<Row>, bool) {
    let most = usize::try_from(max_rows).unwrap_or(usize::MAX);
    let truncated = rows.len() > most;
    rows.truncate(most);
    (rows, truncated)
}

/// An argument as text for a query string or a comparison; `null` means that it is not given.
pub fn argument(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rows(path: &str, document: Value) -> Result<Vec<Value>, String> {
        Ok(RowsPath::parse(path)?.rows(document)?.into_iter().map(Value::Object).collect())
    }

    #[test]
    fn a_path_finds_the_list_wherever_it_is() {
        let list = json!([{"a": 1}, {"a": 2}]);
        let expected = vec![json!({"a": 1}), json!({"a": 2})];
        assert_eq!(rows("$", list.clone()), Ok(expected.clone()));
        assert_eq!(rows("$[*]", list.clone()), Ok(expected.clone()));
        assert_eq!(rows("$.data", json!({"data": list})), Ok(expected.clone()));
        assert_eq!(rows("$['a b'].x[*]", json!({"a b": {"x": list}})), Ok(expected.clone()));
        let nested = json!({"pages": [{"rows": [{"a": 1}]}, {"rows": [{"a": 2}]}]});
        assert_eq!(rows("$.pages[*].rows[*]", nested.clone()), Ok(expected.clone()));
        assert_eq!(rows("$.pages[*].rows", nested), Ok(expected));
        assert_eq!(rows("$.data", json!({"data": []})), Ok(vec![]));
    }

    #[test]
    fn a_path_that_does_not_fit_says_what_is_there() {
        let error = rows("$", json!({"data": [], "n": 1})).unwrap_err();
        assert_eq!(error, "`$` is an object, not a list of rows; the lists in it: `$.data`");
        let error = rows("$.dat", json!({"data": [], "n": 1})).unwrap_err();
        assert_eq!(error, "`$.dat`: there is no `dat` among `data`, `n`");
        assert_eq!(rows("$", json!([1])).unwrap_err(), "`$`: row 0 is a number, not an object");
        for bad in ["data", "$..x", "$.a[0]", "$.a[?(@.b)]", "$['a", "$x"] {
            assert!(RowsPath::parse(bad).is_err(), "{bad}");
        }
    }
}
