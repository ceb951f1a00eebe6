//! What tests said: whether a reason stands in it, and how it is told.

use crate::domain::proof::Case;

/// How many tests a reason names.
const NAMED: usize = 5;
/// How much of what a test said a reason shows, in characters.
const SAID: usize = 300;

/// The test is the stand-in for a file that could not be loaded.
pub(super) fn is_unloaded(case: &Case) -> bool {
    let head = case.message.trim_start();
    head.starts_with("collection failure")
        || head.starts_with("ImportError while importing test module")
        || head.contains("Test suite failed to run")
        || case.name.ends_with("[build failed]")
        || (case.name.contains("unittest.loader") && case.name.contains("_FailedTest"))
}

/// Whether the reason stands in what the test said as words of its own.
pub(super) fn stands_in(reason: &str, case: &Case) -> bool {
    let reason = squeezed(reason);
    let text = squeezed(&without_own_words(case));
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let mut from = 0;
    while let Some(at) = text[from..].find(&reason).map(|at| at + from) {
        let end = at + reason.len();
        let before = is_word(text[..at].chars().next_back()) && is_word(reason.chars().next());
        let behind = is_word(text[end..].chars().next()) && is_word(reason.chars().next_back());
        if !before && !behind {
            return true;
        }
        from = at + text[at..].chars().next().map_or(1, char::len_utf8);
    }
    false
}

/// What the test said without what it always says: where the runner names it, and the lines of its own source that runners
/// show, of which only the one that failed counts. Else a name or a comment would do for a reason.
pub(super) fn without_own_words(case: &Case) -> String {
    let own = case.name.split_once("::").map_or(case.name.as_str(), |(_, own)| own);
    let own = own.split('[').next().unwrap_or(own);
    let function = own.rsplit([':', '>', '/', '.']).next().unwrap_or(own).trim();
    let begins = format!("def {function}(");
    let mut text = String::new();
    let mut in_own = false;
    for line in case.message.lines() {
        let trimmed = line.trim_start();
        if trimmed.starts_with("_ _ _") {
            in_own = false;
        }
        in_own |= trimmed.trim_start_matches(['>', ' ']).trim_start_matches("async ").starts_with(&begins);
        // jest: `  12 |     expect(parse("x"))`.
        let is_frame = trimmed.split_once(" | ").is_some_and(|(number, _)| number.parse::<u32>().is_ok());
        let is_shown = (in_own && !line.starts_with("E ") && !line.starts_with('>')) || is_frame;
        if is_shown {
            continue;
        }
        let line = if line.starts_with('>') { line.split(" #").next().unwrap_or(line) } else { line };
        text.push_str(line);
        text.push('\n');
    }
    for mention in
        [format!("thread '{own}'"), format!("::{own}"), format!("def {function}("), format!(" in {function}\n")]
    {
        text = text.replace(&mention, " ");
    }
    text
}

/// In lower case, with single blanks.
pub(super) fn squeezed(text: &str) -> String {
    text.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>().join(" ")
}

pub(super) fn names<'a>(cases: &[&'a Case]) -> Vec<&'a str> {
    cases.iter().map(|case| case.name.as_str()).collect()
}

pub(super) fn owned<'a>(names: impl Iterator<Item = &'a &'a str>) -> Vec<String> {
    names.map(|name| (*name).to_owned()).collect()
}

/// `a`, `b` and 3 others.
pub(super) fn listed(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(NAMED).map(|name| format!("`{name}`")).collect();
    match names.len().saturating_sub(NAMED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// The beginning of what the test said, on one line.
pub(super) fn said(case: &Case) -> String {
    let text = case.message.split_whitespace().collect::<Vec<_>>().join(" ");
    match (text.is_empty(), text.char_indices().nth(SAID)) {
        (true, _) => "(nothing)".into(),
        (false, None) => text,
        (false, Some((end, _))) => format!("{}…", &text[..end]),
    }
}
