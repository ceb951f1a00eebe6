//! Untrusted text within Markdown. Pure.
//!
//! Text is cleaned, and every character that Markdown or GitHub's dialect gives a meaning is escaped, so a model can make no
//! heading, link, image, mention, HTML or table of its own. Words that a reader's program would turn into a link or a mention by
//! itself stand in code spans, whole.

use super::text;

/// One line of text in which nothing is Markdown, for the start of a block.
pub fn inline(text: &str) -> String {
    at_start(within(text))
}

/// Paragraphs: what an empty line parts.
pub fn block(found: &str) -> String {
    let cleaned = text::clean(found);
    let parts = cleaned.split("\n\n").map(inline).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("\n\n")
}

/// Lines as code, in a fence that is longer than any within.
pub fn fenced(found: &str) -> String {
    let cleaned = text::clean(found);
    let mut longest = 0;
    let mut current = 0;
    for c in cleaned.chars() {
        current = if c == '`' { current + 1 } else { 0 };
        longest = longest.max(current);
    }
    let fence = "`".repeat(longest.max(2) + 1);
    // Text that stands alone on its line at the margin could pass for a line of ours to a reader that looks line by line.
    let lines: Vec<String> = cleaned.trim_end().lines().map(|line| format!(" {}", line.trim_end())).collect();
    format!("{fence}text\n{}\n{fence}", lines.join("\n"))
}

/// The same for a place within a line, such as a cell of a table. Paired backticks stay: code is inert.
pub fn within(text: &str) -> String {
    let line = text::line(text);
    let mut out = String::new();
    for (is_code, part) in text::spans(&line) {
        if is_code {
            out.push_str(&format!("`{}`", code(part)));
            continue;
        }
        for (index, word) in part.split(' ').enumerate() {
            if index > 0 {
                out.push(' ');
            }
            if linkable(word) {
                out.push_str(&format!("`{}`", code(word)));
            } else {
                escape(word, &mut out);
            }
        }
    }
    out
}

/// Words that programs link or ring a person for by themselves.
fn linkable(word: &str) -> bool {
    let lower = word.to_ascii_lowercase();
    let scheme =
        lower.contains("://") || lower.contains("www.") || lower.contains("mailto:") || lower.contains("xmpp:");
    let digits = |after: &str| after.starts_with(|c: char| c.is_ascii_digit());
    let reference = word.split('#').skip(1).any(digits) || lower.split("gh-").skip(1).any(digits);
    scheme || word.contains('@') || reference
}

/// Text for a code span: nothing in it is Markdown but the backtick, which cannot be escaped there.
pub fn code(text: &str) -> String {
    text::line(text).replace('`', "'").replace('|', "¦")
}

/// Escapes a word. `_` between letters and `$` before an amount mean nothing, so plain text stays readable.
fn escape(word: &str, out: &mut String) {
    let chars: Vec<char> = word.chars().collect();
    for (index, c) in chars.iter().copied().enumerate() {
        let before = index.checked_sub(1).and_then(|i| chars.get(i)).copied();
        let after = chars.get(index + 1).copied();
        let is = |side: Option<char>| side.is_some_and(char::is_alphanumeric);
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '_' if is(before) && is(after) => out.push('_'),
            '$' if before.is_none_or(|c| matches!(c, '(' | '−' | '≈')) && after.is_some_and(|c| c.is_ascii_digit()) =>
            {
                out.push('$');
            }
            '\\' | '`' | '*' | '_' | '[' | ']' | '!' | '|' | '~' | '$' | '^' | '{' | '}' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
}

/// What begins a block only at the start of a line: headings, lists, rules, definitions.
fn at_start(text: String) -> String {
    let mut chars = text.chars();
    let (first, second) = (chars.next(), chars.next());
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let list = |rest: &str| rest.starts_with(['.', ')']) && matches!(rest.chars().nth(1), None | Some(' '));
    match first {
        Some('#' | ':') => format!("\\{text}"),
        Some(mark @ ('-' | '+' | '=')) if second.is_none_or(|c| c == ' ' || c == mark) => format!("\\{text}"),
        Some('0'..='9') if list(rest) => {
            let digits = text.len() - rest.len();
            format!("{}\\{}", &text[..digits], &text[digits..])
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_of_a_model_is_markup() {
        let evil = [
            ("![x](https://evil.example/?q=1)", "`![x](https://evil.example/?q=1)`"),
            ("[a](javascript:alert)", "\\[a\\](javascript:alert)"),
            ("<img src=x> &lt;", "&lt;img src=x&gt; &amp;lt;"),
            ("see https://evil.example/x and www.evil.example", "see `https://evil.example/x` and `www.evil.example`"),
            ("hi @channel, fixes #12 me@x.org", "hi `@channel,` fixes `#12` `me@x.org`"),
            ("closes GH-12, gh-pages", "closes `GH-12,` gh-pages"),
            ("# head", "\\# head"),
            ("1. list", "1\\. list"),
            ("1.5 of 2", "1.5 of 2"),
            ("- x\n\n# y", "\\- x # y"),
            ("--- a | b", "\\--- a \\| b"),
            ("*b* _i_ $m$ ~s~ a_b $5 (−29 %)", "\\*b\\* \\_i\\_ \\$m\\$ \\~s\\~ a_b $5 (−29 %)"),
            ("`a|b` and `@all <b>`", "`a¦b` and `@all <b>`"),
            ("``` `https://x``y", "\\`\\`\\` `'https://x''y`"),
            ("a ` b", "a \\` b"),
        ];
        for (text, shown) in evil {
            assert_eq!(inline(text), shown);
        }
    }
}
