//! What scanners print, read into findings with an identity. Pure; everything that is read here is untrusted.
//!
//! A finding's identity ([`keys`]) is its rule, its file, the symbol it stands in, and the text of its line without its blanks: it
//! outlives lines that are added above it. The line's number is never part of it.

mod cargo;
mod jsonl;
mod pattern;
mod sarif;

pub use cargo::cargo;
pub use jsonl::jsonl;
pub use pattern::{command as pattern_command, pattern};
pub use sarif::sarif;

use std::collections::HashMap;

use crate::base::hash::Hash;

/// Findings that are taken from one scanner; above it the reading is not complete.
pub const MOST_FINDINGS: usize = 5_000;
/// Characters of a rule's name, a message, a symbol.
const MOST_RULE: usize = 100;
const MOST_MESSAGE: usize = 1_000;
const MOST_PATH: usize = 1_000;

/// One finding as a scanner reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub rule: String,
    /// Relative to the repository, with `/`.
    pub file: String,
    /// From 1; 0: the file as a whole.
    pub line: u32,
    pub message: String,
    /// `error`, `warning` or `note`.
    pub severity: &'static str,
    /// The function or class it stands in, where the scanner says so.
    pub symbol: Option<String>,
    /// The scanner's own stable fingerprint, if it has a believable one.
    pub identity: Option<String>,
    /// How often, where the scanner counts.
    pub occurrences: u32,
}

/// What one scanner found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// Its name, fit for a key: `ruff`, `cargo`.
    pub scanner: String,
    pub found: Vec<Found>,
    /// Findings outside of the repository or without a file: left out.
    pub outside: u32,
    /// Findings that the repository's own comments or settings suppress: left out.
    pub suppressed: u32,
    /// It looked at everything and all of it was taken: what is not there is gone.
    pub complete: bool,
}

impl Scanned {
    fn new(scanner: &str) -> Self {
        Self { scanner: scanner_name(scanner), complete: true, ..Self::default() }
    }

    /// Takes one more finding, in bounds.
    fn push(&mut self, found: Found) {
        if self.found.len() >= MOST_FINDINGS {
            self.complete = false;
            return;
        }
        self.found.push(Found {
            rule: clean(&found.rule, MOST_RULE),
            message: clean(&found.message, MOST_MESSAGE),
            symbol: found.symbol.map(|symbol| clean(&symbol, MOST_RULE)),
            occurrences: found.occurrences.max(1),
            ..found
        });
    }
}

/// One line without what could move a cursor, cut.
fn clean(text: &str, most: usize) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(most).collect();
    text.trim().to_owned()
}

fn scanner_name(text: &str) -> String {
    let name: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let name = name.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-");
    if name.is_empty() { "scanner".into() } else { name.chars().take(40).collect() }
}

/// The name of the program that a command begins with, for scanners that do not give their own.
pub fn program(command: &str) -> &str {
    let assignment = |word: &&str| {
        word.split_once('=').is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
    };
    let word = command.split_whitespace().find(|word| !assignment(word)).unwrap_or_default();
    word.rsplit('/').next().unwrap_or(word)
}

/// The path relative to the repository, of one that is relative or lies below one of `roots` (absolute, without `/` at the end).
/// `None`: outside, or git's own folder.
pub fn relative(path: &str, roots: &[String]) -> Option<String> {
    let path = if path.contains('\\') && !path.contains('/') { path.replace('\\', "/") } else { path.to_owned() };
    let below = |root: &String| path.strip_prefix(root.as_str()).and_then(|rest| rest.strip_prefix('/'));
    let rest = if path.starts_with('/') { roots.iter().find_map(below)? } else { path.as_str() };
    let mut parts: Vec<&str> = Vec::new();
    for part in rest.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    let fine = parts.first().is_some_and(|first| *first != ".git") && !rest.chars().any(char::is_control);
    (fine && rest.len() <= MOST_PATH).then(|| parts.join("/"))
}

/// `error`, `warning` or `note`, from the many words that scanners have.
fn severity(word: &str) -> &'static str {
    match word.to_ascii_lowercase().as_str() {
        "error" | "critical" | "high" | "fatal" | "blocker" | "major" | "severe" => "error",
        "note" | "info" | "information" | "informational" | "low" | "hint" | "style" | "none" | "minor"
        | "convention" | "refactor" | "suggestion" => "note",
        _ => "warning",
    }
}

/// A key for each finding, in their order, given the text of its line where it is known.
///
/// It begins with the rule, for people. Findings that are equal in everything but their place get `~2`, `~3` in the order of
/// their lines.
pub fn keys(found: &[Found], lines: &[Option<String>]) -> Vec<String> {
    let base = |(at, found): (usize, &Found)| {
        let own = match (&found.identity, lines.get(at).cloned().flatten()) {
            (Some(identity), _) => format!("identity {identity}"),
            (None, Some(line)) if !line.trim().is_empty() => format!("line {}", without_blanks(&line)),
            // Numbers in a message differ from day to day.
            (None, _) => format!("message {}", without_figures(&found.message)),
        };
        let symbol = found.symbol.as_deref().unwrap_or_default();
        let hash = Hash::of_parts([&found.rule, &found.file, symbol, &own].map(str::as_bytes));
        let rule: String = found
            .rule
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "._:-".contains(c) { c } else { '-' })
            .take(40)
            .collect();
        format!("{rule}-{}", hash.short())
    };
    let bases: Vec<String> = found.iter().enumerate().map(base).collect();
    let mut by_line: Vec<usize> = (0..found.len()).collect();
    by_line.sort_by_key(|at| found[*at].line);
    let mut met: HashMap<&str, u32> = HashMap::new();
    let mut keys = vec![String::new(); found.len()];
    for at in by_line {
        let count = met.entry(&bases[at]).or_default();
        *count += 1;
        keys[at] = if *count == 1 { bases[at].clone() } else { format!("{}~{count}", bases[at]) };
    }
    keys
}

fn without_blanks(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn without_figures(message: &str) -> String {
    let mut out = String::new();
    for c in message.chars() {
        match c.is_ascii_digit() {
            true if out.ends_with('#') => {}
            true => out.push('#'),
            false => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests;
