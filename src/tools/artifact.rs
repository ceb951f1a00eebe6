//! `artifact_read` and `artifact_search`: how an agent looks into a large text that was stored instead of shown.
//!
//! The agent names an artifact by its id; the host adds the `blob` under which it was stored (a model cannot name one), and
//! the executor hands the text to [`read`] or [`search`]. Both are pure and bounded.

use serde_json::{Value, json};

use crate::ports::tool::{ToolKind, WorksOn};

/// The most characters that one answer has.
pub const MOST_CHARS: usize = 12_000;
const MOST_LINES: u64 = 400;
const MOST_MATCHES: usize = 40;
/// A longer line is cut, so that one line of minified text cannot fill an answer.
const LINE_CHARS: usize = 1_000;

pub const READ: ToolKind = ToolKind {
    name: "artifact_read",
    summary: "read lines of a stored large output",
    description: "Read lines of a stored artifact. `from_line` counts from 1; at most 400 lines at a time.",
    schema: || {
        json!({
            "type": "object",
            "properties": {
                "id": {"type": "string"},
                "from_line": {"type": "integer", "minimum": 1},
                "lines": {"type": "integer", "minimum": 1}
            },
            "required": ["id"],
            "additionalProperties": false
        })
    },
    always: true,
    works_on: WorksOn::Nothing,
    ready: true,
};

pub const SEARCH: ToolKind = ToolKind {
    name: "artifact_search",
    summary: "search a stored large output",
    description: "Find the lines of a stored artifact that contain a text (case does not matter), with their numbers and \
                  `around` lines before and after.",
    schema: || {
        json!({
            "type": "object",
            "properties": {
                "id": {"type": "string"},
                "text": {"type": "string", "maxLength": 200},
                "around": {"type": "integer", "minimum": 0}
            },
            "required": ["id", "text"],
            "additionalProperties": false
        })
    },
    always: true,
    works_on: WorksOn::Nothing,
    ready: true,
};

/// Lines of `text` as the input asks, each with its number.
pub fn read(text: &str, input: &Value) -> String {
    let from = input["from_line"].as_u64().unwrap_or(1).max(1);
    let lines = input["lines"].as_u64().unwrap_or(100).clamp(1, MOST_LINES);
    let total = text.lines().count() as u64;
    if from > total {
        return format!("the artifact has {total} lines");
    }
    let mut out = Bounded::default();
    let wanted = text.lines().enumerate().skip(from as usize - 1).take(lines as usize);
    for (at, line) in wanted {
        if !out.line(at, line) {
            break;
        }
    }
    out.text.push_str(&format!("[{total} lines in all]"));
    out.text
}

/// The lines of `text` that contain what the input asks for.
pub fn search(text: &str, input: &Value) -> String {
    let wanted = input["text"].as_str().unwrap_or_default().to_lowercase();
    if wanted.trim().is_empty() {
        return "nothing to search for".into();
    }
    let around = input["around"].as_u64().unwrap_or(0).min(10) as usize;
    let lines: Vec<&str> = text.lines().collect();
    let found: Vec<usize> =
        lines.iter().enumerate().filter(|(_, line)| line.to_lowercase().contains(&wanted)).map(|(at, _)| at).collect();
    let mut out = Bounded::default();
    let mut next = 0;
    'matches: for at in found.iter().take(MOST_MATCHES) {
        let from = at.saturating_sub(around).max(next);
        let to = (at + around + 1).min(lines.len()).max(from);
        for (shown, line) in lines.iter().enumerate().take(to).skip(from) {
            if !out.line(shown, line) {
                break 'matches;
            }
            next = shown + 1;
        }
    }
    out.text.push_str(&format!("[{} of {} lines match]", found.len(), lines.len()));
    out.text
}

#[derive(Default)]
struct Bounded {
    text: String,
}

impl Bounded {
    /// Adds a numbered line, unless the answer is full.
    fn line(&mut self, at: usize, line: &str) -> bool {
        if self.text.len() + line.len().min(LINE_CHARS * 4) > MOST_CHARS {
            self.text.push_str("[more lines are left out]\n");
            return false;
        }
        let cut: String = line.chars().take(LINE_CHARS).collect();
        let mark = if cut.len() < line.len() { " […]" } else { "" };
        self.text.push_str(&format!("{}: {cut}{mark}\n", at + 1));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_and_read_by_number_and_answers_are_bounded() {
        let text: String =
            (1..=5000).map(|n| format!("line {n}{}\n", if n % 1000 == 0 { " Error" } else { "" })).collect();
        let found = search(&text, &json!({"id": "a", "text": "error", "around": 1}));
        assert!(found.starts_with("999: line 999\n1000: line 1000 Error\n1001: line 1001\n"), "{found}");
        assert!(found.ends_with("[5 of 5000 lines match]"), "{found}");
        let lines = read(&text, &json!({"id": "a", "from_line": 4999, "lines": 10}));
        assert_eq!(lines, "4999: line 4999\n5000: line 5000 Error\n[5000 lines in all]");
        assert_eq!(read(&text, &json!({"id": "a", "from_line": 9000})), "the artifact has 5000 lines");
        let long = "x".repeat(1_000_000);
        assert!(read(&long, &json!({"id": "a"})).len() <= MOST_CHARS + 100);
        assert!(search(&long, &json!({"id": "a", "text": "x"})).len() <= MOST_CHARS + 100);
        assert_eq!(search("abc", &json!({"id": "a", "text": " "})), "nothing to search for");
    }
}
