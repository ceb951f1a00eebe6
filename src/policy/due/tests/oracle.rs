//! A second implementation that shares nothing with the first: it walks through time minute by minute as a cron daemon does,
//! looks at the wall clock, and remembers how far the wall clock has come.

use std::collections::BTreeSet;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::*;

/// Sets of minutes, hours, days of the month, months, days of the week; whether the two day fields are `*`.
pub struct Fields {
    sets: [BTreeSet<i8>; 5],
    any_day: bool,
    any_weekday: bool,
    pub wildcard: bool,
}

impl Fields {
    /// Numbers, lists, ranges and steps only.
    pub fn parse(expression: &str) -> Self {
        let parts: Vec<&str> = expression.split(' ').collect();
        let limits = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)];
        let mut sets: [BTreeSet<i8>; 5] = Default::default();
        for ((set, part), (least, most)) in sets.iter_mut().zip(&parts).zip(limits) {
            for item in part.split(',') {
                let (range, step) =
                    item.split_once('/').map_or((item, 1), |(range, step)| (range, step.parse().unwrap()));
                let (from, to) = match range.split_once('-') {
                    _ if range == "*" => (least, most),
                    Some((from, to)) => (from.parse().unwrap(), to.parse().unwrap()),
                    None => (range.parse().unwrap(), range.parse().unwrap()),
                };
                set.extend((from..=to).step_by(step));
            }
        }
        Self {
            any_day: parts[2] == "*",
            any_weekday: parts[4] == "*",
            wildcard: parts[0].starts_with('*') || parts[1].starts_with('*'),
            sets,
        }
    }

    fn matches(&self, local: DateTime) -> bool {
        let weekday = local.weekday().to_sunday_zero_offset();
        let by_date = self.sets[2].contains(&local.day());
        let by_weekday = self.sets[4].contains(&weekday) || (weekday == 0 && self.sets[4].contains(&7));
        let day = match (self.any_day, self.any_weekday) {
            (true, _) => by_weekday,
            (_, true) => by_date,
            _ => by_date || by_weekday,
        };
        day && self.sets[0].contains(&local.minute())
            && self.sets[1].contains(&local.hour())
            && self.sets[3].contains(&local.month())
    }
}

/// All slots in `from < t <= to`, on whole minutes.
pub fn slots(expression: &str, zone: &TimeZone, from: Timestamp, to: Timestamp) -> Vec<Timestamp> {
    let fields = Fields::parse(expression);
    let minute = SignedDuration::from_mins(1);
    let wall = |t: Timestamp| zone.to_datetime(t);
    let mut found = Vec::new();
    // Begins a day early, so that it knows whether `from` stands in a repeated hour, and on a whole minute.
    let mut t = Timestamp::from_second(from.as_second().div_euclid(60) * 60).unwrap() - SignedDuration::from_hours(26);
    let mut furthest = wall(t);
    while t + minute <= to {
        t += minute;
        let local = wall(t);
        let mut fires = fields.matches(local);
        if !fields.wildcard {
            if local <= furthest {
                fires = false; // The clock was set back: this time has been.
            }
            let mut skipped = furthest + minute;
            while skipped < local {
                // The clock was set forward over this time. A date left out whole is no time of anybody's.
                let lost_day = furthest.date() < skipped.date() && skipped.date() < local.date();
                fires |= !lost_day && fields.matches(skipped);
                skipped += minute;
            }
        }
        furthest = furthest.max(local);
        if fires && t > from {
            found.push(t);
        }
    }
    found
}

/// Fails with the first difference: whole lists would fill many screens.
pub fn assert_same(found: &[Timestamp], expected: &[Timestamp], what: &str) {
    let differ = found.iter().zip(expected).find(|(a, b)| a != b);
    assert_eq!((differ, found.len()), (None, expected.len()), "{what}");
}

const EXPRESSIONS: &[&str] = &[
    "30 2 * * *",
    "0 0 * * *",
    "0,15,30,45 0-3 * * *",
    "*/7 * * * *",
    "*/15 1-2 * * *",
    "5 * * * *",
    "30 1 * * *",
    "45 23 * * *",
    "0 */2 * * *",
    "0 12 29-31 12 *",
    "15 2 * 3,4,10 0",
    "59 23 1-7 * 6",
    "10-50/20 */3 * * 1-5",
];

/// Days on which the zone's clock changes, with days around them.
const WINDOWS: &[(&str, &str, i64)] = &[
    ("Europe/Berlin", "2026-03-27T00:00:00Z", 4),
    ("Europe/Berlin", "2026-10-23T00:00:00Z", 4),
    ("America/New_York", "2026-03-06T00:00:00Z", 4),
    ("America/New_York", "2026-10-30T00:00:00Z", 4),
    ("Australia/Lord_Howe", "2026-04-03T00:00:00Z", 4),
    ("Australia/Lord_Howe", "2026-10-02T00:00:00Z", 4),
    ("America/Santiago", "2026-04-03T00:00:00Z", 4),
    ("America/Santiago", "2026-09-04T00:00:00Z", 4),
    ("Pacific/Apia", "2011-12-27T00:00:00Z", 6),
    ("Africa/Casablanca", "2026-02-13T00:00:00Z", 4),
    ("Africa/Casablanca", "2026-03-20T00:00:00Z", 4),
    ("Antarctica/Troll", "2026-03-27T00:00:00Z", 4),
    ("Antarctica/Troll", "2026-10-23T00:00:00Z", 4),
    ("America/Scoresbysund", "2026-03-27T00:00:00Z", 4),
    ("Asia/Tehran", "2022-03-20T00:00:00Z", 4),
    ("America/Caracas", "2016-04-29T00:00:00Z", 4),
    ("Asia/Pyongyang", "2018-05-02T00:00:00Z", 5),
    ("Antarctica/Casey", "2020-10-02T00:00:00Z", 4),
    ("Asia/Kathmandu", "2026-03-27T00:00:00Z", 2),
];

#[test]
fn slots_agree_with_a_walk_through_every_minute() {
    for (zone, from, days) in WINDOWS {
        let (from, to) = (at(from), at(from) + SignedDuration::from_hours(24 * days));
        for expression in EXPRESSIONS {
            let schedule = schedule(expression, zone);
            let found: Vec<_> =
                schedule.slots_after(from).map(|slot| slot.nominal_at).take_while(|t| *t <= to).collect();
            let expected = slots(expression, schedule.zone(), from, to);
            assert_same(&found, &expected, &format!("{expression} in {zone} from {from}"));
        }
    }
}

#[test]
fn asking_from_any_minute_finds_the_same_slots() {
    for (zone, from, days) in WINDOWS {
        let (from, to) = (at(from), at(from) + SignedDuration::from_hours(24 * days));
        for expression in ["30 2 * * *", "0,15,30,45 0-3 * * *", "*/15 1-2 * * *", "0 0 * * *"] {
            let schedule = schedule(expression, zone);
            let all = slots(expression, schedule.zone(), from, to);
            let mut t = from;
            for next in all {
                while t < next {
                    let found = schedule.next_after(t).map(|slot| slot.nominal_at);
                    assert_eq!(found, Some(next), "{expression} in {zone} after {t}");
                    t += SignedDuration::from_secs(7 * 60 + 13);
                }
            }
        }
    }
}

#[test]
fn outside_of_clock_changes_slots_agree_with_croners_own_search() {
    let mut seed = 11_u64;
    let mut dice = |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % n
    };
    let mut field = |least: u64, most: u64, star: u64| match dice(10) {
        n if n < star => "*".to_owned(),
        9 => format!("*/{}", 1 + dice((most - least) / 2)),
        8 => {
            let from = least + dice(most - least);
            format!("{from}-{}", from + 1 + dice(most - from))
        }
        7 => format!("{},{}", least + dice(most - least + 1), least + dice(most - least + 1)),
        _ => format!("{}", least + dice(most - least + 1)),
    };
    for n in 0..4_000_i64 {
        let fields = [field(0, 59, 2), field(0, 23, 3), field(1, 31, 6), field(1, 12, 7), field(0, 6, 6)];
        let expression = fields.join(" ");
        let after = Timestamp::from_second(1_600_000_000 + n * 97_531).unwrap();
        let theirs: croner::Cron = expression.parse().unwrap();
        let theirs = theirs.find_next_occurrence(&TimeZone::UTC.to_datetime(after), false).ok();
        let within = TimeZone::UTC.to_datetime(after + crate::policy::due::HORIZON).date();
        let ours = schedule(&expression, "UTC").next_after(after).map(|slot| slot.local);
        assert_eq!(ours, theirs.filter(|local| local.date() <= within), "{expression} after {after}");
    }
}
