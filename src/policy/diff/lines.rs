//! Lines that appear: is there anything in them that a reviewer would not see, or should never see?

use crate::domain::code::{Change, Line};
use crate::policy::redact::Redactor;

use super::{Findings, Rule};

/// A longer line is not read by anybody, in characters.
const MOST_LINE: usize = 2_000;
/// Blanks within a line behind which text is out of sight.
const FAR: usize = 100;

pub(super) fn judge(change: &Change, redactor: &Redactor, findings: &mut Findings) {
    let path = &change.path;
    for hunk in &change.hunks {
        let mut number = hunk.new_start;
        let mut added = String::new();
        let mut found = false;
        for line in &hunk.lines {
            match line {
                Line::Removed(_) => continue,
                Line::Kept(_) => {
                    // Text that is cut by an old line is not one text.
                    added.push_str("\n\n");
                }
                Line::Added(text) => {
                    one(text, path, number, findings);
                    if redactor.redact(text) != text.as_str() {
                        findings.add(Rule::Secret, path, Some(number), "looks like a secret");
                        found = true;
                    }
                    added.push_str(text);
                    added.push('\n');
                }
            }
            number += 1;
        }
        // A secret may be spread over lines.
        if !found && redactor.redact(&added) != added.as_str() {
            findings.add(Rule::Secret, path, Some(hunk.new_start), "looks like a secret over several lines");
        }
    }
}

fn one(text: &str, path: &str, number: u32, findings: &mut Findings) {
    let line = text.strip_suffix('\r').unwrap_or(text);
    if line.contains(char::REPLACEMENT_CHARACTER) {
        findings.add(Rule::NotText, path, Some(number), "not UTF-8");
    }
    if line.chars().any(|c| c.is_control() && c != '\t') {
        findings.add(Rule::Invisible, path, Some(number), "a control character");
    }
    let mut before = '\0';
    let mut chars = line.chars().enumerate().peekable();
    while let Some((at, c)) = chars.next() {
        let after = chars.peek().map_or('\0', |(_, c)| *c);
        let is_mark_at_beginning = c == '\u{feff}' && at == 0 && number == 1;
        if is_invisible(c) && !is_mark_at_beginning && !joins(before, c, after) {
            findings.add(
                Rule::Invisible,
                path,
                Some(number),
                format!("an invisible character, U+{:04X}", u32::from(c)),
            );
        }
        before = c;
    }
    if let Some(word) = line.split(|c: char| !c.is_alphanumeric() && c != '_').find(|word| mixes_scripts(word)) {
        let letters = word.chars().count();
        findings.add(
            Rule::Invisible,
            path,
            Some(number),
            format!("a word of {letters} letters mixes alphabets that look alike"),
        );
    }
    if line.chars().count() > MOST_LINE {
        findings.add(Rule::Invisible, path, Some(number), format!("a line of more than {MOST_LINE} characters"));
    }
    let inner = line.trim();
    if inner.split(|c: char| !c.is_whitespace()).any(|blanks| blanks.chars().count() >= FAR)
        || line.len() - line.trim_start().len() >= FAR * 2
    {
        findings.add(Rule::Invisible, path, Some(number), "text that is moved out of sight by blanks");
    }
}

/// Characters that are drawn as nothing or change the direction of others.
pub fn is_invisible(c: char) -> bool {
    matches!(u32::from(c),
        0xad | 0x34f | 0x61c | 0x115f | 0x1160 | 0x17b4 | 0x17b5 | 0x180b..=0x180f | 0x200b..=0x200f | 0x2028..=0x202e
        | 0x2060..=0x206f | 0x3164 | 0xfe00..=0xfe0f | 0xfeff | 0xffa0 | 0xfff0..=0xfffb | 0x1bca0..=0x1bca3
        | 0x1d173..=0x1d17a | 0xe0000..=0xe0fff)
}

/// Joiners and the emoji sign where writing needs them: between signs, or in scripts that join letters.
fn joins(before: char, c: char, after: char) -> bool {
    let is_sign = |c: char| {
        matches!(u32::from(c), 0x203c | 0x2049 | 0x20e3 | 0x2100..=0x2bff | 0x3030 | 0x303d | 0x1f000..=0x1faff)
            || c == '\u{fe0f}'
    };
    let joining = |c: char| matches!(u32::from(c), 0x600..=0x6ff | 0x900..=0xdff);
    match c {
        '\u{fe0f}' => is_sign(before) || (matches!(before, '0'..='9' | '#' | '*') && after == '\u{20e3}'),
        '\u{200d}' => (is_sign(before) && is_sign(after)) || (joining(before) && joining(after)),
        '\u{200c}' => joining(before) && joining(after),
        _ => false,
    }
}

/// Latin letters beside letters of an alphabet with the same shapes.
fn mixes_scripts(word: &str) -> bool {
    let latin = word.chars().any(|c| c.is_ascii_alphabetic());
    let twin = |c: char| matches!(u32::from(c), 0x400..=0x52f | 0x531..=0x58f | 0x13a0..=0x13ff | 0xff21..=0xff5a | 0x1d400..=0x1d7ff);
    latin && word.chars().any(twin)
}
