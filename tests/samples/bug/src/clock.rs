//! Times of day, as a clock on the wall shows them.

use std::fmt;
use std::str::FromStr;

/// Minutes of a day.
pub const DAY: u16 = 24 * 60;

/// A time of day, to the minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(u16);

impl Time {
    /// `None` when no clock shows that.
    pub fn new(hours: u16, minutes: u16) -> Option<Self> {
        (hours < 24 && minutes < 60).then(|| Self(hours * 60 + minutes))
    }

    /// Minutes since midnight.
    pub fn minutes(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

/// A text that is no time or no window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError(pub(crate) String);

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ParseError {}

impl FromStr for Time {
    type Err = ParseError;

    /// Reads `HH:MM`.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let read = || {
            let (hours, minutes) = text.split_once(':')?;
            Self::new(hours.parse().ok()?, minutes.parse().ok()?)
        };
        read().ok_or_else(|| ParseError(format!("`{text}` is no time of day, for instance 07:30")))
    }
}
