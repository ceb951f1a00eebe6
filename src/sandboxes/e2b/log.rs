//! The log of a template's build, read for what each setup command said. Pure.
//!
//! What a builder writes before a line of a command's output (the step, which of the two outputs) is its own affair. So each setup
//! command's output stands between two lines of ours, and what stood before the first of them is taken off the others.

use jiff::Timestamp;

use crate::base::hash::Hash;
use crate::clients::e2b::wire::LogEntry;

use super::scripts::{BEGIN, END};

/// The most that is kept of one command's output, in bytes from its end.
const MOST: usize = 64 << 10;

/// One setup command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// Its place among the setup commands.
    pub number: usize,
    pub began_at: Timestamp,
    pub ended_at: Timestamp,
    /// `None`: it did not end by itself.
    pub exit: Option<i32>,
    /// The end of it.
    pub output: String,
    /// Of all of it.
    pub hash: Hash,
}

/// What one more line of the log means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    Began(usize),
    Said(String),
    Ended(Said),
}

/// Reads a log from its beginning.
#[derive(Debug, Default)]
pub(super) struct Log {
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    number: usize,
    began_at: Timestamp,
    last_at: Timestamp,
    prefixes: Vec<String>,
    output: String,
    all: crate::base::hash::Hasher,
    /// An empty line, of which nobody knows yet whether it is the one before ours.
    empty: bool,
}

impl Log {
    pub(super) fn take(&mut self, entry: &LogEntry) -> Vec<News> {
        entry.message.trim_end_matches('\n').split('\n').filter_map(|line| self.line(line, entry.timestamp)).collect()
    }

    /// The build has ended: whatever is open did not end by itself.
    pub(super) fn finish(&mut self) -> Option<Said> {
        self.open.take().map(|open| open.said(None))
    }

    fn line(&mut self, line: &str, at: Timestamp) -> Option<News> {
        let line = line.trim_end_matches('\r');
        if let Some((before, number)) = line.split_once(BEGIN)
            && let Ok(number) = number.trim_end().parse::<usize>()
        {
            return self.begin(before, number, at);
        }
        let open = self.open.as_mut()?;
        open.last_at = at;
        if let Some((_, rest)) = line.split_once(END)
            && let Some((number, exit)) = rest.trim_end().split_once(':')
            && number.parse() == Ok(open.number)
            && let Ok(exit) = exit.parse()
        {
            return self.open.take().map(|open| News::Ended(open.said(Some(exit))));
        }
        let bare =
            open.prefixes.iter().filter_map(|prefix| line.strip_prefix(prefix.as_str())).min_by_key(|bare| bare.len());
        let bare = bare.unwrap_or(line).to_owned();
        open.push(&bare);
        Some(News::Said(bare))
    }

    fn begin(&mut self, before: &str, number: usize, at: Timestamp) -> Option<News> {
        match &mut self.open {
            // The same on the other output.
            Some(open) if open.number == number => {
                open.prefixes.push(before.to_owned());
                None
            }
            _ => {
                self.open = Some(Open {
                    number,
                    began_at: at,
                    last_at: at,
                    prefixes: vec![before.to_owned()],
                    output: String::new(),
                    all: crate::base::hash::Hasher::default(),
                    empty: false,
                });
                Some(News::Began(number))
            }
        }
    }
}

impl Open {
    fn push(&mut self, line: &str) {
        if std::mem::take(&mut self.empty) {
            self.keep("");
        }
        match line.is_empty() {
            true => self.empty = true,
            false => self.keep(line),
        }
    }

    fn keep(&mut self, line: &str) {
        self.all.update(line.as_bytes());
        self.all.update(b"\n");
        self.output.push_str(line);
        self.output.push('\n');
        if self.output.len() > 2 * MOST {
            let from = self.output.len() - MOST;
            let from = (from..self.output.len()).find(|at| self.output.is_char_boundary(*at)).unwrap_or_default();
            self.output.drain(..from);
        }
    }

    fn said(self, exit: Option<i32>) -> Said {
        Said {
            number: self.number,
            began_at: self.began_at,
            ended_at: self.last_at,
            exit,
            output: self.output,
            hash: self.all.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_setup_command_said_is_told_from_what_the_builder_says() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let entry = |second, message: &str| LogEntry {
            timestamp: at(second),
            message: message.into(),
            level: "info".into(),
            step: None,
        };
        let mut log = Log::default();
        let mut news = Vec::new();
        for (second, message) in [
            (1, "[builder 2/5] RUN make"),
            (2, "[builder 2/5] [stdout]: nightcrew-begin:0\n"),
            (2, "[builder 2/5] [stderr]: nightcrew-begin:0"),
            (3, "[builder 2/5] [stdout]: one\n[builder 2/5] [stdout]: "),
            (4, "[builder 2/5] [stderr]: two: nightcrew-end:7:0"),
            (4, "[builder 2/5] [stdout]: \n"),
            (5, "[builder 2/5] [stdout]: nightcrew-end:0:0"),
            (6, "between"),
            (7, "nightcrew-begin:1\nlast word"),
        ] {
            news.extend(log.take(&entry(second, message)));
        }
        let said = |text: &str| News::Said(text.into());
        let output = "one\n\ntwo: nightcrew-end:7:0\n";
        let first = Said {
            number: 0,
            began_at: at(2),
            ended_at: at(5),
            exit: Some(0),
            output: output.into(),
            hash: Hash::of(output),
        };
        let expected = vec![
            News::Began(0),
            said("one"),
            said(""),
            said("two: nightcrew-end:7:0"),
            said(""),
            News::Ended(first),
            News::Began(1),
            said("last word"),
        ];
        assert_eq!(news, expected);
        let last = log.finish().unwrap();
        assert_eq!((last.number, last.exit, last.output.as_str()), (1, None, "last word\n"));
        assert_eq!(log.finish(), None);
    }
}
