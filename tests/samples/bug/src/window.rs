//! The hours in which a user does not want to be disturbed.

use std::fmt;
use std::str::FromStr;

use crate::clock::{ParseError, Time};

/// Quiet hours, from `start` up to but not including `end`. The same time twice is no time at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub start: Time,
    pub end: Time,
}

impl Window {
    /// How many minutes they last.
    pub fn length(self) -> u16 {
        self.end.minutes() - self.start.minutes()
    }

    /// Whether it is quiet at that time.
    pub fn contains(self, at: Time) -> bool {
        self.start <= at && at < self.end
    }

    /// How many minutes are left of them at a time within.
    pub fn remaining(self, at: Time) -> u16 {
        self.end.minutes() - at.minutes()
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.start, self.end)
    }
}

impl FromStr for Window {
    type Err = ParseError;

    /// Reads `HH:MM-HH:MM`.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (start, end) = text
            .split_once('-')
            .ok_or_else(|| ParseError(format!("`{text}` are no quiet hours, for instance 13:00-14:30")))?;
        Ok(Self { start: start.parse()?, end: end.parse()? })
    }
}
