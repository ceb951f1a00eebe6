//! Slots on the days on which zones change their clocks, each instant worked out by hand from the zone's published rules.

use super::*;

/// zone, expression, after, the next slots
type Case = (&'static str, &'static str, &'static str, &'static [&'static str]);

fn check(cases: &[Case]) {
    for (zone, expression, after, expected) in cases {
        let schedule = schedule(expression, zone);
        let slots = schedule.slots_after(at(after)).take(expected.len());
        let slots: Vec<String> = slots.map(|slot| slot.nominal_at.to_string()).collect();
        let expected: Vec<String> = expected.iter().map(|text| at(text).to_string()).collect();
        assert_eq!(slots, expected, "{expression} in {zone} after {after}");
    }
}

#[test]
fn a_fixed_time_in_a_gap_fires_once_right_after_it() {
    check(&[
        ("Europe/Berlin", "30 2 * * *", "2026-03-28T12:00:00Z", &["2026-03-29T03:00:00+02", "2026-03-30T02:30:00+02"]),
        (
            "Europe/Berlin",
            "0,30 2 * * *",
            "2026-03-28T12:00:00Z",
            &["2026-03-29T03:00:00+02", "2026-03-30T02:00:00+02"],
        ),
        (
            "Europe/Berlin",
            "0 1-3 * * *",
            "2026-03-28T12:00:00Z",
            &["2026-03-29T01:00:00+01", "2026-03-29T03:00:00+02", "2026-03-30T01:00:00+02"],
        ),
        ("Europe/Berlin", "0 2 * * *", "2026-03-29T01:00:00Z", &["2026-03-30T02:00:00+02"]),
        ("Europe/Berlin", "0 2 29 3 *", "2026-03-28T12:00:00Z", &["2026-03-29T03:00:00+02", "2027-03-29T02:00:00+02"]),
        (
            "America/New_York",
            "30 2 * * *",
            "2026-03-07T12:00:00Z",
            &["2026-03-08T03:00:00-04", "2026-03-09T02:30:00-04"],
        ),
        (
            "Australia/Lord_Howe",
            "15 2 * * *",
            "2026-10-03T00:00:00Z",
            &["2026-10-04T02:30:00+11", "2026-10-05T02:15:00+11"],
        ),
        (
            "America/Santiago",
            "0 0 * * *",
            "2026-09-05T12:00:00Z",
            &["2026-09-06T01:00:00-03", "2026-09-07T00:00:00-03"],
        ),
        (
            "Africa/Casablanca",
            "30 2 * * *",
            "2026-03-21T12:00:00Z",
            &["2026-03-22T03:00:00+01", "2026-03-23T02:30:00+01"],
        ),
        (
            "Antarctica/Troll",
            "30 1 * * *",
            "2026-03-28T12:00:00Z",
            &["2026-03-29T03:00:00+02", "2026-03-30T01:30:00+02"],
        ),
        (
            "Antarctica/Troll",
            "30 2 * * *",
            "2026-03-28T12:00:00Z",
            &["2026-03-29T03:00:00+02", "2026-03-30T02:30:00+02"],
        ),
        (
            "America/Scoresbysund",
            "30 23 * * *",
            "2026-03-28T12:00:00Z",
            &["2026-03-29T00:00:00-01", "2026-03-29T23:30:00-01"],
        ),
        // The hour before the gap and the hour after it are untouched.
        ("Europe/Berlin", "30 1 * * *", "2026-03-28T12:00:00Z", &["2026-03-29T01:30:00+01", "2026-03-30T01:30:00+02"]),
        ("Europe/Berlin", "0 3 * * *", "2026-03-28T12:00:00Z", &["2026-03-29T03:00:00+02", "2026-03-30T03:00:00+02"]),
    ]);
}

#[test]
fn a_fixed_time_that_comes_twice_fires_the_first_time() {
    check(&[
        ("Europe/Berlin", "30 2 * * *", "2026-10-24T12:00:00Z", &["2026-10-25T02:30:00+02", "2026-10-26T02:30:00+01"]),
        (
            "Europe/Berlin",
            "0,30 2 * * *",
            "2026-10-24T12:00:00Z",
            &["2026-10-25T02:00:00+02", "2026-10-25T02:30:00+02", "2026-10-26T02:00:00+01"],
        ),
        (
            "Europe/Berlin",
            "0 1-3 * * *",
            "2026-10-24T12:00:00Z",
            &["2026-10-25T01:00:00+02", "2026-10-25T02:00:00+02", "2026-10-25T03:00:00+01"],
        ),
        // Asked in the middle of the second pass.
        ("Europe/Berlin", "45 2 * * *", "2026-10-25T02:10:00+01", &["2026-10-26T02:45:00+01"]),
        ("Europe/Berlin", "0 3 * * *", "2026-10-25T02:10:00+02", &["2026-10-25T03:00:00+01"]),
        (
            "America/New_York",
            "30 1 * * *",
            "2026-10-31T12:00:00Z",
            &["2026-11-01T01:30:00-04", "2026-11-02T01:30:00-05"],
        ),
        (
            "Australia/Lord_Howe",
            "45 1 * * *",
            "2026-04-04T00:00:00Z",
            &["2026-04-05T01:45:00+11", "2026-04-06T01:45:00+10:30"],
        ),
        (
            "America/Santiago",
            "30 23 * * *",
            "2026-04-04T12:00:00Z",
            &["2026-04-04T23:30:00-03", "2026-04-05T23:30:00-04"],
        ),
        (
            "Africa/Casablanca",
            "30 2 * * *",
            "2026-02-14T12:00:00Z",
            &["2026-02-15T02:30:00+01", "2026-02-16T02:30:00+00"],
        ),
        (
            "Antarctica/Troll",
            "30 1 * * *",
            "2026-10-24T12:00:00Z",
            &["2026-10-25T01:30:00+02", "2026-10-26T01:30:00+00"],
        ),
    ]);
}

#[test]
fn a_wildcard_follows_the_wall_clock() {
    check(&[
        // Not at times that do not exist …
        (
            "Europe/Berlin",
            "*/30 2 * * *",
            "2026-03-28T12:00:00Z",
            &["2026-03-30T02:00:00+02", "2026-03-30T02:30:00+02"],
        ),
        ("Europe/Berlin", "30 * * * *", "2026-03-29T00:00:00Z", &["2026-03-29T01:30:00+01", "2026-03-29T03:30:00+02"]),
        (
            "Australia/Lord_Howe",
            "*/15 2 * * *",
            "2026-10-03T15:00:00Z",
            &["2026-10-04T02:30:00+11", "2026-10-04T02:45:00+11"],
        ),
        (
            "America/Santiago",
            "0 * * * *",
            "2026-09-06T02:30:00Z",
            &["2026-09-05T23:00:00-04", "2026-09-06T01:00:00-03"],
        ),
        ("America/Santiago", "*/30 0 * * *", "2026-09-06T02:30:00Z", &["2026-09-07T00:00:00-03"]),
        (
            "Antarctica/Troll",
            "0 */2 * * *",
            "2026-03-28T23:00:00Z",
            &["2026-03-29T00:00:00+00", "2026-03-29T04:00:00+02"],
        ),
        // … and in both passes of those that come twice.
        (
            "Europe/Berlin",
            "*/30 2 * * *",
            "2026-10-24T12:00:00Z",
            &[
                "2026-10-25T02:00:00+02",
                "2026-10-25T02:30:00+02",
                "2026-10-25T02:00:00+01",
                "2026-10-25T02:30:00+01",
                "2026-10-26T02:00:00+01",
            ],
        ),
        (
            "Europe/Berlin",
            "@hourly",
            "2026-10-25T01:30:00+02",
            &["2026-10-25T02:00:00+02", "2026-10-25T02:00:00+01", "2026-10-25T03:00:00+01"],
        ),
        (
            "America/New_York",
            "30 * * * *",
            "2026-11-01T01:00:00-04",
            &["2026-11-01T01:30:00-04", "2026-11-01T01:30:00-05", "2026-11-01T02:30:00-05"],
        ),
        (
            "Australia/Lord_Howe",
            "*/15 1 * * *",
            "2026-04-05T01:20:00+11",
            &[
                "2026-04-05T01:30:00+11",
                "2026-04-05T01:45:00+11",
                "2026-04-05T01:30:00+10:30",
                "2026-04-05T01:45:00+10:30",
                "2026-04-06T01:00:00+10:30",
            ],
        ),
        (
            "Antarctica/Troll",
            "0 * * * *",
            "2026-10-25T01:30:00+02",
            &["2026-10-25T02:00:00+02", "2026-10-25T01:00:00+00", "2026-10-25T02:00:00+00", "2026-10-25T03:00:00+00"],
        ),
        (
            "Africa/Casablanca",
            "15 * * * *",
            "2026-02-15T02:00:00+01",
            &["2026-02-15T02:15:00+01", "2026-02-15T02:15:00+00", "2026-02-15T03:15:00+00"],
        ),
    ]);
}

#[test]
fn a_date_that_a_zone_left_out_has_no_slots_and_ends_nothing() {
    check(&[
        (
            "Pacific/Apia",
            "0 12 * * *",
            "2011-12-29T00:00:00-10",
            &["2011-12-29T12:00:00-10", "2011-12-31T12:00:00+14", "2012-01-01T12:00:00+14"],
        ),
        ("Pacific/Apia", "0 12 * * *", "2011-12-29T12:00:00-10", &["2011-12-31T12:00:00+14"]),
        ("Pacific/Apia", "0 0 * * *", "2011-12-29T12:00:00-10", &["2011-12-31T00:00:00+14", "2012-01-01T00:00:00+14"]),
        ("Pacific/Apia", "0 12 30 12 *", "2011-12-29T12:00:00-10", &["2012-12-30T12:00:00+14"]),
        ("Pacific/Apia", "30 * * * *", "2011-12-29T23:00:00-10", &["2011-12-29T23:30:00-10", "2011-12-31T00:30:00+14"]),
        ("Pacific/Apia", "0 9 * * fri", "2011-12-23T12:00:00-10", &["2012-01-06T09:00:00+14"]),
        ("Pacific/Kwajalein", "0 12 * * *", "1993-08-20T00:00:00Z", &["1993-08-21T00:00:00Z", "1993-08-22T00:00:00Z"]),
    ]);
}

#[test]
fn zones_without_changes_and_far_years_work() {
    check(&[
        ("UTC", "30 2 * * *", "2026-03-28T12:00:00Z", &["2026-03-29T02:30:00Z"]),
        ("Asia/Kathmandu", "0 0 * * *", "2026-01-01T12:00:00Z", &["2026-01-02T00:00:00+05:45"]),
        // Beyond the table of the database, by the zone's rule.
        ("Europe/Berlin", "30 2 * * *", "2088-03-27T12:00:00Z", &["2088-03-28T03:00:00+02", "2088-03-29T02:30:00+02"]),
    ]);
}

#[test]
fn the_day_of_a_slot_is_the_one_that_was_asked_for() {
    let day = |expression, zone, after| {
        let slot = schedule(expression, zone).next_after(at(after)).unwrap();
        (slot.local.to_string(), slot.date().to_string(), slot.yesterday().to_string())
    };
    let expect = |local: &str, date: &str, yesterday: &str| (local.to_owned(), date.to_owned(), yesterday.to_owned());
    // Eight in Berlin is six or seven in UTC; half past midnight is still the day before there.
    assert_eq!(
        day("30 0 * * *", "Europe/Berlin", "2026-11-19T12:00:00Z"),
        expect("2026-11-20T00:30:00", "2026-11-20", "2026-11-19")
    );
    assert_eq!(
        day("0 8 * * *", "Pacific/Auckland", "2026-11-20T12:00:00Z"),
        expect("2026-11-21T08:00:00", "2026-11-21", "2026-11-20")
    );
    assert_eq!(
        day("0 8 1 3 *", "Europe/Berlin", "2028-01-01T12:00:00Z"),
        expect("2028-03-01T08:00:00", "2028-03-01", "2028-02-29")
    );
    // In a gap over midnight the report is still about the day whose evening was lost.
    assert_eq!(
        day("30 23 * * *", "America/Scoresbysund", "2026-03-28T12:00:00Z"),
        expect("2026-03-28T23:30:00", "2026-03-28", "2026-03-27")
    );
}
