//! Output of programs made fit to be read and shown: without escape sequences and control characters, and short.

use crate::base::hash::Hash;
use crate::policy::diff::is_invisible;

/// The most of what a test said that is kept, in bytes.
pub(super) const MESSAGE: usize = 2_000;
/// The longest name of a test, in bytes.
const NAME: usize = 300;

/// `text` without escape sequences (colours, titles, links) and control characters other than line feeds and tabs.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            // A line feed ends every sequence, lest one swallow what follows.
            '\u{1b}' => match chars.next_if(|c| *c != '\n') {
                Some('[') => {
                    while chars.next_if(|c| matches!(c, ' '..='?')).is_some() {}
                    chars.next_if(|c| matches!(c, '@'..='~'));
                }
                Some(']' | 'P' | 'X' | '^' | '_') => {
                    while chars.next_if(|c| !matches!(c, '\u{7}' | '\u{1b}' | '\n')).is_some() {}
                    if chars.next_if_eq(&'\u{1b}').is_some() {
                        chars.next_if_eq(&'\\');
                    }
                }
                _ => {}
            },
            '\n' | '\t' => out.push(c),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// What a test said, fit to be kept: its beginning and its end if it is long.
pub(super) fn message(text: &str) -> String {
    let text: String = plain(text).chars().filter(|c| !is_invisible(*c)).collect();
    let text = text.trim_matches('\n').trim_end();
    if text.len() <= MESSAGE {
        return text.to_owned();
    }
    // The type and the message stand at one end or at the other, depending on the language.
    format!("{}\n[…]\n{}", head(text, MESSAGE * 3 / 5), tail(text, MESSAGE * 2 / 5 - 8))
}

/// A name on one line. A very long one is cut, and told from its like by a hash.
pub(super) fn name(text: &str) -> String {
    let name: String = plain(text)
        .chars()
        .filter(|c| !is_invisible(*c))
        .map(|c| if c.is_whitespace() { ' ' } else { c })
        .collect::<String>();
    let name = name.trim();
    if name.len() <= NAME {
        return name.to_owned();
    }
    format!("{}…#{}", head(name, NAME - 20), Hash::of(name).short())
}

/// The first `most` bytes of one line, for doubts.
pub(super) fn line(text: &str, most: usize) -> String {
    let text = name(text);
    if text.len() <= most { text } else { format!("{}…", head(&text, most)) }
}

/// The longest beginning of at most `most` bytes.
pub(super) fn head(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

/// The longest end of at most `most` bytes.
fn tail(text: &str, most: usize) -> &str {
    let start = text.len().saturating_sub(most);
    &text[(start..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len())..]
}
