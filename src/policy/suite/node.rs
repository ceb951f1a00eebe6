//! What `node --test` writes for people: a tree of titles with signs, and its counts.

use super::collect::Reading;
use crate::domain::proof::CaseState;

/// `None`: this is not from node.
pub(super) fn read(stdout: &str) -> Option<Reading> {
    let lines: Vec<&str> = stdout.lines().collect();
    let end = lines.iter().rposition(|line| line.starts_with("ℹ tests "))?;
    let mut reading = Reading::new("node");
    let count = |word: &str| {
        lines[end..]
            .iter()
            .find_map(|line| line.strip_prefix("ℹ ")?.strip_prefix(word)?.strip_prefix(' ')?.parse::<usize>().ok())
    };
    let (tests, passed, failed) = (count("tests").unwrap_or(0), count("pass").unwrap_or(0), count("fail").unwrap_or(0));
    let cancelled = count("cancelled").unwrap_or(0);
    let skipped = count("skipped").unwrap_or(0) + count("todo").unwrap_or(0);
    // Titles of what is open around the line, with whether anything was told in it.
    let mut open: Vec<(String, bool)> = Vec::new();
    let mut points: Vec<(String, CaseState, bool)> = Vec::new();
    let mut said: Vec<String> = Vec::new();
    let mut first = end;
    for (number, line) in lines[..end].iter().enumerate() {
        let indent = line.len() - line.trim_start_matches(' ').len();
        let text = &line[indent..];
        let depth = indent / 2;
        let mut sign = text.chars();
        let state = match sign.next() {
            Some('▶') => None,
            Some('✔') => Some(CaseState::Passed),
            Some('✖') => Some(CaseState::Failed),
            Some('﹣') => Some(CaseState::Skipped),
            _ => {
                if let Some(last) = said.last_mut() {
                    last.push_str(line);
                    last.push('\n');
                }
                continue;
            }
        };
        let Some(rest) = sign.as_str().strip_prefix(' ').filter(|_| indent % 2 == 0) else { continue };
        first = first.min(number);
        match state {
            None => {
                open.truncate(depth);
                open.push((rest.trim_end().to_owned(), false));
            }
            Some(state) => {
                let Some((title, directive)) = title(rest) else { continue };
                // The line that closes what was opened with ▶ stands as deep as that.
                let closes = open.len() == depth + 1 && open.last().is_some_and(|(open, _)| *open == title);
                if closes {
                    open.pop();
                } else {
                    open.truncate(depth);
                }
                let path: Vec<&str> = open.iter().map(|(title, _)| title.as_str()).chain([title.as_str()]).collect();
                let state = if directive { CaseState::Skipped } else { state };
                points.push((path.join(" > "), state, closes));
                said.push(String::new());
            }
        }
    }
    reading.lines = (first, lines.len().saturating_sub(1));
    for ((name, state, closes), said) in points.iter().zip(&said) {
        if !closes {
            reading.add(name, *state, said);
        }
    }
    // Tests with parts are counted by node like those without, suites are not; the signs do not tell them apart.
    let outer = points.iter().filter(|(.., closes)| *closes).count();
    let [green, red, grey] = reading.counts();
    let fits = |told: usize, counted: usize| (counted..=counted + outer).contains(&told);
    if !fits(tests, green + red + grey) || !fits(passed, green) || !fits(failed + cancelled, red) || grey != skipped {
        reading.doubt(format!(
            "node counts {tests} tests, {passed} passed, {failed} failed, {skipped} skipped; {green}, {red} and {grey} are listed; \
             let it write JUnit XML (--test-reporter=junit --test-reporter-destination=$JUNIT)"
        ));
    }
    Some(reading)
}

/// `title (1.2ms) # SKIP`: the title, and whether it was skipped or is to be done.
fn title(text: &str) -> Option<(String, bool)> {
    let (text, directive) = match text.rsplit_once(" # ") {
        Some((before, _)) if before.ends_with("ms)") => (before, true),
        _ => (text, false),
    };
    let (title, time) = text.trim_end().rsplit_once(" (")?;
    time.strip_suffix("ms)")?.parse::<f64>().ok()?;
    Some((title.to_owned(), directive))
}
