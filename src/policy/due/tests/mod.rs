//! Tables over days on which zones change their clocks, an oracle that walks through every minute, and the accounting identity.

mod account;
mod expressions;
mod oracle;
mod zones;

use jiff::Timestamp;

use super::CronSchedule;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn schedule(expression: &str, zone: &str) -> CronSchedule {
    CronSchedule::parse(expression, zone).unwrap_or_else(|error| panic!("{expression} in {zone}: {error}"))
}
