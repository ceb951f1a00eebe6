//! What becomes of one notification.

use std::fmt;

use crate::clock::{Time, DAY};
use crate::window::Window;

/// Longer quiet hours are taken for a mistake: hardly anything would ever be delivered.
pub const LONGEST: u16 = DAY / 3 * 2;

/// What to do with a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    Send,
    /// Wait for so many minutes.
    Hold(u16),
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send => f.write_str("send"),
            Self::Hold(minutes) => write!(f, "hold {minutes}"),
        }
    }
}

/// Decides for a receiver with these quiet hours, at this time.
pub fn plan(quiet: Window, at: Time) -> Plan {
    if quiet.length() > LONGEST {
        return Plan::Send;
    }
    if quiet.contains(at) {
        Plan::Hold(quiet.remaining(at))
    } else {
        Plan::Send
    }
}
