//! What an item says of its own cause, in words that a failing test would say too.

use serde_json::Value;

use crate::policy::diff::is_invisible;

const MOST: usize = 12;
/// The longest part of a message, in characters: longer ones are seldom said twice in the same way.
const LONGEST: usize = 120;
/// Innermost functions of the application.
const FRAMES: usize = 4;

pub(super) fn reasons(item: &Value) -> Vec<String> {
    let mut found = Vec::new();
    // Frameworks nest an event in an item; one step is enough.
    collect(item, &mut found);
    if found.is_empty()
        && let Some(inner) =
            ["error", "event", "issue", "finding"].iter().find_map(|name| item.get(*name)).filter(|v| v.is_object())
    {
        collect(inner, &mut found);
    }
    found.truncate(MOST);
    found
}

fn collect(item: &Value, found: &mut Vec<String>) {
    let mut add = |text: &str| {
        let text = text.trim();
        let known = found.iter().any(|known: &String| known.eq_ignore_ascii_case(text));
        if is_telling(text) && !known {
            found.push(text.to_owned());
        }
    };
    if let Some(text) = item.as_str() {
        // An item may be a line of a log.
        return parts(text).into_iter().take(4).for_each(|part| add(&part));
    }
    let text = |name: &str| item.get(name).and_then(Value::as_str).unwrap_or_default();
    let exceptions: Vec<&Value> = item.get("exceptions").and_then(Value::as_array).into_iter().flatten().collect();
    let metadata = |name: &str| item.pointer(&format!("/metadata/{name}")).and_then(Value::as_str).unwrap_or_default();
    // The last one is the one that was seen; the others are its causes.
    let mut messages: Vec<&str> = Vec::new();
    for exception in exceptions.iter().rev().take(3) {
        let part = |name: &str| exception.get(name).and_then(Value::as_str).unwrap_or_default();
        add(last_segment(part("type")));
        messages.push(part("value"));
    }
    for name in [text("type"), text("error_type"), text("exception"), metadata("type")] {
        if is_name(name) {
            add(last_segment(name));
        }
    }
    messages.extend([text("message"), metadata("value"), text("template"), text("msg")]);
    if messages.iter().all(|message| message.is_empty()) {
        messages.extend([text("title"), text("error"), text("description")]);
    }
    for message in messages.iter().filter(|message| !message.is_empty()) {
        for part in parts(message).into_iter().take(3) {
            add(&part);
        }
    }
    for function in functions(item) {
        add(&function);
    }
    // Findings of scanners.
    for name in ["rule", "code", "check", "symbol"] {
        let value = text(name);
        if is_name(value) {
            add(value);
        }
    }
    if !text("rule").is_empty() {
        messages.iter().flat_map(|message| named_in_code(message)).take(4).for_each(|name| add(&name));
    }
}

/// Whether a reason says something by itself. Words that stand in every failure do not.
pub(super) fn is_telling(reason: &str) -> bool {
    let reason = reason.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>().join(" ");
    let letters = reason.chars().filter(|c| c.is_alphabetic()).count();
    let is_common = |word: &str| COMMON.contains(&word.trim_matches(|c: char| !c.is_alphanumeric() && c != '_'));
    let mut words = reason.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty());
    reason.chars().count() >= 4
        && letters >= 3
        && !words.all(is_common)
        && !ALWAYS.iter().any(|start| reason.starts_with(start))
}

/// The parts of a message that are the same each time: without numbers, ids, addresses and what is in quotes.
fn parts(message: &str) -> Vec<String> {
    let message: String = message.chars().take(2_000).filter(|c| !is_invisible(*c)).collect();
    // A line of its own is a thought of its own; traces under a message are told by their frames.
    let mut parts: Vec<String> = Vec::new();
    for line in message.lines().take(6) {
        if line.trim_start().starts_with("at ") || line.trim_start().starts_with("File \"") {
            continue;
        }
        for piece in unquoted(line) {
            let mut part: Vec<&str> = Vec::new();
            for word in piece.split_whitespace() {
                if is_variable(word) {
                    push(&mut parts, &part);
                    part.clear();
                } else {
                    part.push(word);
                }
            }
            push(&mut parts, &part);
        }
    }
    // The longest say most; those of one length stay in their order.
    parts.sort_by_key(|part| std::cmp::Reverse(part.split(' ').count().min(4)));
    parts
}

fn push(parts: &mut Vec<String>, words: &[&str]) {
    let text = words.join(" ");
    let text = text.trim_matches(|c: char| !c.is_alphanumeric() && !matches!(c, ')' | '`' | '}' | '_'));
    let text: String = text.chars().take(LONGEST).collect();
    let words = text.split(' ').count();
    let long = text.chars().count();
    if (words >= 2 && long >= 10) || long >= 12 {
        parts.push(text);
    }
}

/// What lies between quotes taken out. An apostrophe within a word is none.
fn unquoted(line: &str) -> Vec<String> {
    let chars: Vec<char> = line.chars().collect();
    let is_word = |at: Option<&char>| at.is_some_and(|c| c.is_alphanumeric());
    let mut pieces = vec![String::new()];
    let mut at = 0;
    while let Some(c) = chars.get(at) {
        let close = match c {
            '"' => Some('"'),
            '\'' if at == 0 || !is_word(chars.get(at - 1)) => Some('\''),
            '“' => Some('”'),
            '‘' => Some('’'),
            '<' => Some('>'),
            _ => None,
        };
        let end = close.and_then(|close| {
            (at + 1..chars.len()).find(|end| {
                chars[*end] == close
                    && (close != '\'' || !is_word(chars.get(*end + 1)))
                    && (close != '>' || *end - at < 60)
            })
        });
        match end {
            Some(end) => {
                pieces.push(String::new());
                at = end + 1;
            }
            None => {
                if let Some(piece) = pieces.last_mut() {
                    piece.push(*c);
                }
                at += 1;
            }
        }
    }
    pieces
}

/// A word that differs from one time to the next: numbers, ids, places, addresses, placeholders.
fn is_variable(word: &str) -> bool {
    let bare = word.trim_matches(|c: char| !c.is_alphanumeric() && !matches!(c, '%' | '{' | '}' | '$'));
    let digits = bare.chars().filter(char::is_ascii_digit).count();
    let is_code = bare.contains('`') || word.contains('`');
    (digits > 0 && !is_code)
        || bare.starts_with(['%', '$'])
        || (bare.starts_with('{') && bare.ends_with('}'))
        || bare.contains('@')
        || bare.contains("://")
        || (bare.starts_with('/') && bare.len() > 1)
        || (bare.len() >= 20 && bare.chars().all(|c| c.is_ascii_hexdigit() || c == '-'))
}

/// The innermost functions of the application's own code, the innermost first.
fn functions(item: &Value) -> Vec<String> {
    let frames: Vec<&Value> = item.get("stacktrace").and_then(Value::as_array).into_iter().flatten().collect();
    let is_own = |frame: &&&Value| frame.get("in_app").and_then(Value::as_bool) != Some(false);
    let mut found: Vec<String> = frames
        .iter()
        .rev()
        .filter(is_own)
        .filter_map(|frame| frame.get("function").and_then(Value::as_str))
        .filter_map(function_name)
        .take(FRAMES)
        .collect();
    if found.is_empty()
        && let Some((function, _)) =
            item.get("culprit").and_then(Value::as_str).and_then(|culprit| culprit.split_once(" in "))
    {
        found.extend(function_name(function));
    }
    found
}

/// `acme::duration::parse::h0123456789abcdef` → `parse`; a common name with what it belongs to, `Cart.add`.
fn function_name(function: &str) -> Option<String> {
    let mut plain = String::new();
    let mut depth = 0_u32;
    for c in function.chars().take(300) {
        match c {
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            '(' if depth == 0 => break,
            c if depth == 0 => plain.push(c),
            _ => {}
        }
    }
    let plain = plain.rsplit(' ').find(|word| !word.is_empty()).unwrap_or_default();
    let separator = if plain.contains("::") { "::" } else { "." };
    let is_hash =
        |part: &str| part.len() == 17 && part.starts_with('h') && part[1..].bytes().all(|b| b.is_ascii_hexdigit());
    let parts: Vec<&str> = plain
        .split(separator)
        .map(|part| part.trim_matches(|c: char| !(c.is_alphanumeric() || c == '_')))
        .filter(|part| {
            !part.is_empty() && !is_hash(part) && !matches!(*part, "closure" | "anonymous" | "lambda" | "locals")
        })
        .collect();
    let name = parts.last()?;
    if is_telling(name) {
        return Some((*name).to_owned());
    }
    // Where every program begins, whatever it is called.
    if matches!(*name, "main" | "module" | "run" | "wrapper") {
        return None;
    }
    let owner = parts.len().checked_sub(2).and_then(|at| parts.get(at)).filter(|owner| is_telling(owner))?;
    Some(format!("{owner}{separator}{name}"))
}

/// Names in backticks or quotes, as scanners write them: "function `parse_duration` may panic".
fn named_in_code(message: &str) -> Vec<String> {
    message
        .split(['`', '\'', '"'])
        .skip(1)
        .step_by(2)
        .filter(|name| is_name(name) && name.len() >= 5)
        .map(str::to_owned)
        .collect()
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 80
        && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | ':' | '-' | '/' | '$'))
}

/// `builtins.ValueError`, `core::num::ParseIntError` → the name alone.
fn last_segment(name: &str) -> &str {
    name.rsplit(['.', ':', '\\', '/']).next().unwrap_or(name)
}

/// What any failing test may say.
const ALWAYS: &[&str] =
    &["assertion failed", "assertion `", "assert ", "expected ", "thread '", "note: run with", "stack backtrace"];

#[rustfmt::skip]
const COMMON: &[&str] = &[
    "a", "an", "and", "anonymous", "any", "app", "apply", "args", "array", "as", "assert", "assertion", "assertionerror",
    "assertionfailederror", "async", "at", "await", "base", "be", "bool", "call", "callback", "called", "class", "client",
    "close", "closure", "code", "comparisonfailure", "create", "data", "default", "delete", "dict", "dispatch", "do", "done",
    "err", "err_assertion", "err_test_failure", "error", "errors", "exception", "execute", "exit", "expect", "expected", "fail",
    "failed", "failure", "false", "file", "fn", "for", "format", "from", "func", "function", "get", "got", "handle", "handler",
    "id", "in", "index", "info", "init", "__init__", "__call__", "inner", "int", "invoke", "is", "item", "key", "lambda", "left",
    "line", "list", "load", "main", "message", "method", "module", "name", "new", "next", "no", "none", "not", "null", "object",
    "of", "ok", "on", "open", "or", "panic", "panicked", "path", "process", "promise", "read", "receive", "request", "response",
    "result", "return", "right", "run", "runner", "self", "send", "server", "set", "start", "stop", "str", "string", "task", "test",
    "testcase", "testfailed", "tests", "the", "then", "this", "thread", "throw", "to", "true", "type", "undefined", "unknown",
    "unwrap", "update", "user", "utils", "value", "values", "void", "warning", "was", "with", "worker", "wrapper", "write",
];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_what_items_say_of_themselves() {
        let frame =
            |function: &str, in_app: bool| json!({"file": "x", "function": function, "line": 3, "in_app": in_app});
        for (item, expected) in [
            (
                json!({
                    "title": "ValueError: invalid literal", "type": "ValueError", "culprit": "parse_duration in app/duration.py",
                    "message": "invalid literal for int() with base 10: '5x'",
                    "exceptions": [
                        {"type": "KeyError", "value": "'user_id'"},
                        {"type": "builtins.ValueError", "value": "invalid literal for int() with base 10: '5x'"},
                    ],
                    "stacktrace": [
                        frame("main", true), frame("Cart.add", true), frame("app.duration.parse_duration", true), frame("int", false),
                    ],
                }),
                vec!["ValueError", "KeyError", "invalid literal for int() with base", "parse_duration", "Cart.add"],
            ),
            (
                json!({
                    "type": "panic", "message": "attempt to subtract with overflow",
                    "exceptions": [{"type": "panic", "value": "attempt to subtract with overflow"}],
                    "stacktrace": [
                        frame("acme::main", true), frame("acme::duration::Duration::new::h0123456789abcdef", true),
                        frame("<acme::cart::Cart as acme::Total>::total_of::{{closure}}", true),
                        frame("core::panicking::panic", false),
                    ],
                }),
                vec!["attempt to subtract with overflow", "total_of", "Duration::new"],
            ),
            (
                json!({"type": "TypeError", "message": "Cannot read properties of undefined (reading 'price')",
                       "stacktrace": [frame("Object.<anonymous>", true), frame("async priceOf", true)]}),
                vec!["TypeError", "Cannot read properties of undefined (reading", "priceOf"],
            ),
            (
                json!({"type": "Error", "message": "order 4711 of user ada@example.com was not found in region eu-west-1"}),
                vec!["was not found in region", "order"],
            ),
            (
                json!({"key": "k", "rule": "clippy::indexing_slicing", "file": "src/a.rs", "line": 3,
                       "message": "function `split_header` may panic: indexing may panic"}),
                vec![
                    "function `split_header` may panic: indexing may panic",
                    "clippy::indexing_slicing",
                    "split_header",
                ],
            ),
            (json!({"type": "AssertionError", "message": "assert 1 == 2", "title": "main"}), vec![]),
            (
                json!({"event": {"type": "ZeroDivisionError", "message": "division by zero"}}),
                vec!["ZeroDivisionError", "division by zero"],
            ),
            (
                json!("ERROR worker: connection pool exhausted after 30 s"),
                vec!["ERROR worker: connection pool exhausted after"],
            ),
            (json!({"n": 3}), vec![]),
            (json!(null), vec![]),
            (json!([]), vec![]),
        ] {
            let mut expected = expected;
            expected.retain(|text| is_telling(text) && *text != "order");
            assert_eq!(reasons(&item), expected, "{item}");
        }
    }

    #[test]
    fn short_and_common_words_say_nothing() {
        for word in [
            "",
            "e",
            "x1",
            "Error",
            "None",
            "main",
            "test",
            "new",
            "  ERROR ",
            "1234",
            "assertion failed: a == b",
            "self.run",
            "not in",
        ] {
            assert!(!is_telling(word), "{word}");
        }
        for word in ["ValueError", "parse", "total_of", "division by zero", "no-unused-vars", "Duration::new"] {
            assert!(is_telling(word), "{word}");
        }
    }

    #[test]
    fn there_are_never_many() {
        let exceptions: Vec<Value> =
            (0..50).map(|n| json!({"type": format!("Kind{}Error", char::from(b'A' + n % 26)), "value": "what went wrong here it is"})).collect();
        let found = reasons(&json!({"exceptions": exceptions, "message": "a very long thought ".repeat(500)}));
        assert!(found.len() <= MOST);
        assert!(found.iter().all(|reason| reason.chars().count() <= LONGEST), "{found:?}");
    }
}
