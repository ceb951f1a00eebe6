//! Named parameters: `:name` in the text of a query becomes `$1`, `$2`, …, wherever it is no part of a string, an identifier, a
//! comment or a cast. Values never come near the text. Pure.

use serde_json::{Map, Value};

/// A query whose parameters are numbered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub sql: String,
    /// By number, from 1.
    params: Vec<String>,
}

impl Named {
    /// Errors, for people: several statements, a parameter without a name, a string without an end.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut found = Self { sql: String::with_capacity(text.len()), params: Vec::new() };
        let mut rest = text;
        // The semicolon at the end, if it is one.
        let mut ended: Option<usize> = None;
        while let Some(c) = rest.chars().next() {
            let taken = token(rest)?;
            let piece = &rest[..taken];
            let significant = !piece.trim().is_empty() && !piece.starts_with("--") && !piece.starts_with("/*");
            if significant && ended.is_some() {
                return Err("write one statement, not several".into());
            }
            if c == ';' {
                ended = Some(found.sql.len());
            } else if let Some(name) = piece.strip_prefix(':').filter(|name| name.starts_with(is_start)) {
                let number = match found.params.iter().position(|known| known == name) {
                    Some(at) => at,
                    None => {
                        found.params.push(name.to_owned());
                        found.params.len() - 1
                    }
                };
                found.sql.push_str(&format!("${}", number + 1));
            } else if piece.starts_with('$') && piece[1..].starts_with(|c: char| c.is_ascii_digit()) {
                return Err(format!("the query has a parameter without a name: write `:name`, not `{piece}`"));
            } else {
                found.sql.push_str(piece);
            }
            rest = &rest[taken..];
        }
        if found.sql.trim().is_empty() {
            return Err("the query is empty: write one SELECT".into());
        }
        Ok(found)
    }

    /// The values in the order of the numbers. Arguments that the query does not name are not its business.
    pub fn bind(&self, args: &Map<String, Value>) -> Result<Vec<Value>, String> {
        let value = |name: &String| {
            args.get(name).cloned().ok_or_else(|| {
                let given: Vec<_> = args.keys().map(|key| format!("`{key}`")).collect();
                let given = if given.is_empty() { "none".to_owned() } else { given.join(", ") };
                format!("the query needs `:{name}`, which is not among the arguments ({given})")
            })
        };
        self.params.iter().map(value).collect()
    }
}

fn is_start(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

fn is_part(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// How long the next piece is: a string, an identifier, a comment, a parameter, else one character.
///
/// Source: <https://www.postgresql.org/docs/current/sql-syntax-lexical.html>.
fn token(text: &str) -> Result<usize, String> {
    let bytes = text.as_bytes();
    let word = |from: usize| from + text[from..].find(|c| !is_part(c)).unwrap_or(text.len() - from);
    match bytes[0] {
        b'\'' => quoted(text, 0, b'\'', false),
        b'"' => quoted(text, 0, b'"', false),
        b'e' | b'E' if bytes.get(1) == Some(&b'\'') => quoted(text, 1, b'\'', true),
        b'-' if bytes.get(1) == Some(&b'-') => Ok(text.find('\n').unwrap_or(text.len())),
        b'/' if bytes.get(1) == Some(&b'*') => comment(text),
        b':' if bytes.get(1) == Some(&b':') => Ok(2),
        b':' => match text[1..].chars().next() {
            Some(c) if is_start(c) => Ok(word(1)),
            _ => Ok(1),
        },
        b'$' if bytes.get(1).is_some_and(u8::is_ascii_digit) => Ok(word(1)),
        b'$' => dollar(text),
        // An identifier, with the dollars that may stand in it.
        _ if text.starts_with(is_part) => Ok(text.find(|c| !is_part(c) && c != '$').unwrap_or(text.len())),
        _ => Ok(text.chars().next().map_or(1, char::len_utf8)),
    }
}

fn quoted(text: &str, open: usize, quote: u8, escapes: bool) -> Result<usize, String> {
    let bytes = text.as_bytes();
    let mut at = open + 1;
    while at < bytes.len() {
        if escapes && bytes[at] == b'\\' {
            at += 2;
        } else if bytes[at] == quote {
            // Twice is one of them within the string.
            if bytes.get(at + 1) != Some(&quote) {
                return Ok(at + 1);
            }
            at += 2;
        } else {
            at += 1;
        }
    }
    Err("a quote is not closed".into())
}

/// Comments nest.
fn comment(text: &str) -> Result<usize, String> {
    let (mut depth, mut at) = (0_u32, 0);
    while let Some(found) = text[at..].find(['/', '*']) {
        at += found;
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Ok(at);
            }
        } else {
            at += 1;
        }
    }
    Err("a comment is not closed".into())
}

/// `$$ … $$` or `$tag$ … $tag$`.
fn dollar(text: &str) -> Result<usize, String> {
    let Some(end) = text[1..].find(|c| !is_part(c)) else { return Ok(1) };
    let tag = &text[..end + 2];
    if !tag.ends_with('$') {
        return Ok(1);
    }
    let body = &text[tag.len()..];
    body.find(tag).map(|at| at + 2 * tag.len()).ok_or_else(|| "a quote is not closed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_a_parameter_becomes_a_number() {
        for (text, sql, params) in [
            ("SELECT :a, :b_2, :a", "SELECT $1, $2, $1", vec!["a", "b_2"]),
            ("SELECT x::date WHERE d>=:from::date", "SELECT x::date WHERE d>=$1::date", vec!["from"]),
            ("SELECT ':a', E'\\':a', \":a\", ':a'':b'", "SELECT ':a', E'\\':a', \":a\", ':a'':b'", vec![]),
            ("SELECT 1 -- :a\n, /* :b /* :c */ :d */ :e", "SELECT 1 -- :a\n, /* :b /* :c */ :d */ $1", vec!["e"]),
            ("SELECT $$:a$$, $t$:b $$ ; $t$, a$b:c", "SELECT $$:a$$, $t$:b $$ ; $t$, a$b$1", vec!["c"]),
            ("SELECT f(x := 1), a[1:2], 'é:x', :é", "SELECT f(x := 1), a[1:2], 'é:x', $1", vec!["é"]),
            ("SELECT 1;\n -- end ;\n", "SELECT 1\n -- end ;\n", vec![]),
        ] {
            let found = Named::parse(text).unwrap();
            assert_eq!(
                (found.sql.as_str(), found.params.iter().map(String::as_str).collect::<Vec<_>>()),
                (sql, params)
            );
        }
        for (text, why) in [
            ("SELECT 1; SELECT 2", "one statement"),
            ("SELECT 1;; ", "one statement"),
            ("SELECT $1", "`:name`, not `$1`"),
            ("SELECT 'x", "not closed"),
            ("SELECT $a$ x", "not closed"),
            ("SELECT /* /* */", "not closed"),
            (" ;", "empty"),
        ] {
            assert!(Named::parse(text).unwrap_err().contains(why), "{text}");
        }
    }

    #[test]
    fn an_argument_that_is_not_given_is_named() {
        let query = Named::parse("SELECT :a, :b").unwrap();
        let args = json!({"b": 2, "a": [1], "c": 3});
        assert_eq!(query.bind(args.as_object().unwrap()), Ok(vec![json!([1]), json!(2)]));
        let args = json!({"b": 2});
        let error = query.bind(args.as_object().unwrap()).unwrap_err();
        assert_eq!(error, "the query needs `:a`, which is not among the arguments (`b`)");
    }
}
