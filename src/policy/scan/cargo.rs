//! `cargo … --message-format=json`: diagnostics of the compiler and of clippy, one JSON object a line.
//!
//! Source: <https://doc.rust-lang.org/cargo/reference/external-tools.html#json-messages>,
//! <https://doc.rust-lang.org/rustc/json.html>.

use std::collections::HashSet;

use serde::Deserialize;

use super::{Found, Scanned, relative, severity};

#[derive(Deserialize)]
struct Line {
    reason: String,
    #[serde(default)]
    message: Option<Diagnostic>,
    #[serde(default)]
    success: Option<bool>,
}

#[derive(Deserialize)]
struct Diagnostic {
    #[serde(default)]
    message: String,
    #[serde(default)]
    level: String,
    #[serde(default)]
    code: Option<Code>,
    #[serde(default)]
    spans: Vec<Span>,
}

#[derive(Deserialize)]
struct Code {
    code: String,
}

#[derive(Deserialize)]
struct Span {
    file_name: String,
    #[serde(default)]
    line_start: u32,
    #[serde(default)]
    column_start: u32,
    #[serde(default)]
    is_primary: bool,
    #[serde(default)]
    expansion: Option<Box<Expansion>>,
}

#[derive(Deserialize)]
struct Expansion {
    span: Span,
}

/// Findings in cargo's messages. The same one in several targets (the library and its tests) counts once.
///
/// Not complete when the build failed: what comes after an error was not looked at. Errors: no messages of cargo, for people.
pub fn cargo(text: &str, roots: &[String]) -> Result<Vec<Scanned>, String> {
    let mut scanned = Scanned::new("cargo");
    let mut met = HashSet::new();
    let mut finished = None;
    for line in text.lines().filter(|line| line.starts_with('{')) {
        // Build scripts and macros may print whatever they like.
        let Ok(line) = serde_json::from_str::<Line>(line) else { continue };
        match (line.reason.as_str(), line.message) {
            ("build-finished", _) => finished = line.success,
            ("compiler-message", Some(message)) => take(message, roots, &mut met, &mut scanned),
            _ => {}
        }
    }
    let Some(success) = finished else {
        return Err("there are no messages of cargo in it; add `--message-format=json` to the command".into());
    };
    scanned.complete &= success;
    Ok(vec![scanned])
}

fn take(
    message: Diagnostic,
    roots: &[String],
    met: &mut HashSet<(String, String, u32, u32, String)>,
    into: &mut Scanned,
) {
    if !matches!(message.level.as_str(), "error" | "warning") {
        return;
    }
    // Without a place: a summary such as `2 warnings emitted`.
    let Some(primary) = message.spans.iter().find(|span| span.is_primary) else { return };
    let Some((file, span)) = in_repository(primary, roots) else {
        into.outside = into.outside.saturating_add(1);
        return;
    };
    let rule = message.code.map_or_else(|| message.level.clone(), |code| code.code);
    let place = (rule.clone(), file.clone(), span.line_start, span.column_start, message.message.clone());
    if met.insert(place) {
        into.push(Found {
            rule,
            file,
            line: span.line_start,
            message: message.message,
            severity: severity(&message.level),
            ..Found::default()
        });
    }
}

/// Where in the repository: what a macro from elsewhere expands to counts where it is used.
fn in_repository<'a>(span: &'a Span, roots: &[String]) -> Option<(String, &'a Span)> {
    let mut span = span;
    loop {
        match (relative(&span.file_name, roots), &span.expansion) {
            (Some(file), _) if !file.starts_with('<') => return Some((file, span)),
            (_, Some(expansion)) => span = &expansion.span,
            (_, None) => return None,
        }
    }
}
