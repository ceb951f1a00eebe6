//! What a build says: bounded, in order, read by offset while it grows.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::base::env::Env;
use crate::clients::e2b::wire::LogEntry;

/// Lines of commands that are kept, and their bytes. What the builder itself says always is.
const MOST_LINES: usize = 20_000;
const MOST_BYTES: usize = 8 << 20;
/// The longest line, in bytes.
const LONGEST: usize = 4 << 10;

pub(super) const DEBUG: &str = "debug";
pub(super) const INFO: &str = "info";
pub(super) const WARN: &str = "warn";
pub(super) const ERROR: &str = "error";

#[derive(Debug, Default)]
pub(super) struct Log(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    entries: Vec<LogEntry>,
    lines: usize,
    bytes: usize,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something that the builder says. `step` is `base`, a number from 1 on, or `finalize`.
    pub fn say(&self, env: &Env, step: &str, level: &str, message: impl Into<String>) {
        let mut message = message.into();
        shorten(&mut message);
        self.lock().entries.push(entry(env, step, level, message));
    }

    /// A line of a command.
    pub fn line(&self, env: &Env, step: &str, line: &[u8]) {
        let mut inner = self.lock();
        if inner.lines >= MOST_LINES || inner.bytes >= MOST_BYTES {
            return;
        }
        let mut text = String::from_utf8_lossy(line.get(..LONGEST).unwrap_or(line)).into_owned();
        if line.len() > LONGEST {
            text.push_str("[…]");
        }
        inner.lines += 1;
        inner.bytes += text.len();
        inner.entries.push(entry(env, step, INFO, text));
        if inner.lines == MOST_LINES || inner.bytes >= MOST_BYTES {
            inner.entries.push(entry(env, step, WARN, "what commands write from here on is left out".to_owned()));
        }
    }

    /// What another build of the same said.
    pub fn repeat(&self, entries: Vec<LogEntry>) {
        self.lock().entries.extend(entries);
    }

    pub fn all(&self) -> Vec<LogEntry> {
        self.lock().entries.clone()
    }

    /// The last lines about a step.
    pub fn end_of(&self, step: &str, most: usize) -> Vec<LogEntry> {
        let inner = self.lock();
        let mut last: Vec<_> = inner
            .entries
            .iter()
            .rev()
            .filter(|entry| entry.step.as_deref() == Some(step))
            .take(most)
            .cloned()
            .collect();
        last.reverse();
        last
    }
}

fn shorten(text: &mut String) {
    if text.len() > LONGEST {
        let cut = (0..=LONGEST).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        text.truncate(cut);
        text.push_str("[…]");
    }
}

fn entry(env: &Env, step: &str, level: &str, message: String) -> LogEntry {
    LogEntry { timestamp: env.now(), message, level: level.to_owned(), step: Some(step.to_owned()) }
}

/// How much a level matters.
pub(super) fn weight(level: &str) -> u8 {
    match level {
        DEBUG => 0,
        WARN => 2,
        ERROR => 3,
        _ => 1,
    }
}

/// Cuts a stream into lines, whatever its pieces are. What never ends a line is cut at some length.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<u8>);

impl Lines {
    pub fn push(&mut self, piece: &[u8], mut line: impl FnMut(&[u8])) {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.0.extend_from_slice(part);
            if part.ends_with(b"\n") || self.0.len() > 64 << 10 {
                self.flush(&mut line);
            }
        }
    }

    /// What has come without an end of line.
    pub fn flush(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.0.is_empty() {
            line(self.0.trim_ascii_end());
            self.0.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let (mut lines, mut seen) = (Lines::default(), Vec::new());
        for piece in ["a", "b\nc\r\n", "\n", "d"] {
            lines.push(piece.as_bytes(), |line| seen.push(String::from_utf8_lossy(line).into_owned()));
        }
        lines.flush(|line| seen.push(String::from_utf8_lossy(line).into_owned()));
        lines.flush(|_| panic!("nothing is left"));
        assert_eq!(seen, ["ab", "c", "", "d"]);
    }

    #[test]
    fn output_without_end_is_left_out_and_what_the_builder_says_is_not() {
        let (log, env) = (Log::default(), Env::system());
        (0..MOST_LINES + 10).for_each(|_| log.line(&env, "1", b"line"));
        log.line(&env, "1", &vec![b'x'; LONGEST * 2]);
        log.say(&env, "1", DEBUG, "exit 0 after 5 ms");
        let all = log.all();
        assert_eq!(all.len(), MOST_LINES + 2);
        assert!(all[MOST_LINES].message.contains("left out"));
        assert_eq!(log.end_of("1", 1)[0].message, "exit 0 after 5 ms");
        let log = Log::default();
        log.line(&env, "1", &"ä".repeat(LONGEST).into_bytes());
        assert!(log.all()[0].message.len() < LONGEST + 20);
    }
}
