//! What an expression may say, and what it then means (in UTC, where nothing else disturbs).

use super::*;
use crate::policy::due::CronError;

/// The first slots after `after`, each as `YYYY-MM-DDTHH:MM` with seconds if there are any.
fn next(expression: &str, after: &str, count: usize) -> Vec<String> {
    let slots: Vec<_> = schedule(expression, "UTC").slots_after(at(after)).take(count).collect();
    for slot in &slots {
        assert_eq!(slot.local, jiff::tz::TimeZone::UTC.to_datetime(slot.nominal_at));
    }
    slots.iter().map(|slot| slot.local.to_string().trim_end_matches(":00").to_owned()).collect()
}

#[test]
fn an_expression_means_what_crontab_says() {
    // 20 November 2026 is a Friday.
    let cases: &[(&str, &[&str])] = &[
        ("0 8 * * *", &["2026-11-21T08", "2026-11-22T08"]),
        ("15 */4 * * *", &["2026-11-20T12:15", "2026-11-20T16:15"]),
        ("0 6 * * 1", &["2026-11-23T06", "2026-11-30T06"]),
        ("*/10 * * * * *", &["2026-11-20T12:00:10", "2026-11-20T12:00:20"]),
        ("30 0 12 * * *", &["2026-11-20T12:00:30", "2026-11-21T12:00:30"]),
        ("  5,35 9-10 * jan-mar MON ", &["2027-01-04T09:05", "2027-01-04T09:35", "2027-01-04T10:05"]),
        ("10-50/20 12 * * *", &["2026-11-20T12:10", "2026-11-20T12:30", "2026-11-20T12:50", "2026-11-21T12:10"]),
        ("0 0 * * 7", &["2026-11-22T00"]),
        ("0 0 * * 0", &["2026-11-22T00"]),
        ("0 0 * * sat-sun", &["2026-11-21T00", "2026-11-22T00", "2026-11-28T00"]),
        ("0 0 * * 5-7", &["2026-11-21T00", "2026-11-22T00", "2026-11-27T00"]),
        // Both days restricted: either will do.
        ("0 0 1 * fri", &["2026-11-27T00", "2026-12-01T00", "2026-12-04T00"]),
        ("0 0 13 * ?", &["2026-12-13T00"]),
        ("0 0 L * *", &["2026-11-30T00", "2026-12-31T00", "2027-01-31T00", "2027-02-28T00"]),
        ("0 0 LW 1-2 *", &["2027-01-29T00", "2027-02-26T00"]),
        ("0 0 15W 8 *", &["2027-08-16T00"]),
        ("0 0 * * 5L", &["2026-11-27T00", "2026-12-25T00"]),
        ("0 0 * * fril", &["2026-11-27T00", "2026-12-25T00"]),
        ("0 0 * * mon#2", &["2026-12-14T00", "2027-01-11T00"]),
        ("0 0 * * 7#1", &["2026-12-06T00"]),
        ("0 0 29 2 *", &["2028-02-29T00", "2032-02-29T00"]),
        ("59 59 23 31 12 *", &["2026-12-31T23:59:59"]),
        ("@hourly", &["2026-11-20T13", "2026-11-20T14"]),
        ("@Daily", &["2026-11-21T00"]),
        ("@midnight", &["2026-11-21T00"]),
        ("@weekly", &["2026-11-22T00"]),
        ("@monthly", &["2026-12-01T00"]),
        ("@yearly", &["2027-01-01T00"]),
        ("@annually", &["2027-01-01T00"]),
    ];
    for (expression, expected) in cases {
        let expected: Vec<_> = expected
            .iter()
            .map(|text| if text.len() == 13 { format!("{text}:00") } else { (*text).to_owned() })
            .map(|text| text.trim_end_matches(":00").to_owned())
            .collect();
        assert_eq!(next(expression, "2026-11-20T12:00:00Z", expected.len()), expected, "{expression}");
    }
}

#[test]
fn the_next_slot_is_strictly_after_and_fractions_of_a_second_do_not_matter() {
    assert_eq!(next("0 12 * * *", "2026-11-20T12:00:00Z", 1), ["2026-11-21T12"]);
    assert_eq!(next("0 12 * * *", "2026-11-20T12:00:00.5Z", 1), ["2026-11-21T12"]);
    assert_eq!(next("0 12 * * *", "2026-11-20T11:59:59.999999999Z", 1), ["2026-11-20T12"]);
    assert_eq!(next("* * * * * *", "2026-11-20T11:59:59.1Z", 1), ["2026-11-20T12"]);
    assert_eq!(next("0 0 * * *", "1969-12-31T23:59:59.5Z", 1), ["1970-01-01T00"]);
}

#[test]
fn a_mistake_is_named_with_its_place_and_a_way_out() {
    let cases: &[(&str, &str, &str)] = &[
        // expression, the bytes that are meant, message
        ("", "", "the cron expression is empty"),
        ("0 8 * *", "0 8 * *", "a cron expression has five fields, or six with seconds; this has 4"),
        ("0 0 8 * * * 2027", "0 0 8 * * * 2027", "years are not supported"),
        ("0 24 * * *", "24", "`24` is not an hour"),
        ("60 * * * *", "60", "`60` is not a minute"),
        ("0 0 0 * *", "0", "`0` is not a day of month"),
        ("0 0 * 13 *", "13", "`13` is not a month"),
        ("0 0 * * 8", "8", "`8` is not a day of week"),
        ("0 0 * mon *", "mon", "`mon` is not a month"),
        ("0 0 * * jan", "jan", "`jan` is not a day of week"),
        ("0 0 mon * *", "mon", "`mon` is not a day of month"),
        ("1,,2 * * * *", ",", "an empty item in the minute"),
        ("1, * * * *", ",", "an empty item in the minute"),
        ("*/0 * * * *", "*/0", "`0` is not a step"),
        ("*/x * * * *", "*/x", "`x` is not a step"),
        ("*/90 * * * *", "*/90", "a step of 90 never gets anywhere between 0 and 59"),
        ("5/15 * * * *", "5/15", "a step needs a range or `*` in front"),
        ("0 22-6 * * *", "22-6", "the range `22-6` runs backwards"),
        ("0 0 * * fri-mon", "fri-mon", "the range `fri-mon` runs backwards"),
        ("0 0 * * L", "L", "`L` alone is not a day of the week"),
        ("0 0 * * mon#6", "mon#6", "`#6` is not a week of the month"),
        ("L * * * *", "L", "`L` is not a minute"),
        ("+5 * * * *", "+5", "`+5` is not a minute"),
        ("0 0 * * +1", "+1", "`+1` is not a day of week"),
        ("-1 * * * *", "-1", "`` is not a minute"),
        ("0 0 \u{a0}* * 99", "99", "`99` is not a day of week"),
        ("@reboot", "@reboot", "`@reboot` is not a time"),
        (" @every 10m", "@every 10m", "`@every` is not cron"),
        ("@noon", "@noon", "`@noon` is not a known name"),
        (
            "CRON_TZ=Europe/Berlin 0 8 * * *",
            "CRON_TZ=Europe/Berlin 0 8 * * *",
            "the zone does not stand in the expression",
        ),
    ];
    for (expression, place, message) in cases {
        let error = CronSchedule::parse(expression, "UTC").unwrap_err();
        assert_eq!(error.to_string(), *message, "{expression}");
        assert_eq!(error.span().map(|span| &expression[span]), Some(*place), "{expression}");
        assert!(!error.help().is_empty(), "{expression}");
    }
}

#[test]
fn a_zone_must_be_known_by_its_name() {
    for zone in ["Europe/Berlinn", "", "Etc/Unknown", "+02:00", "CET-1CEST"] {
        let error = CronSchedule::parse("0 8 * * *", zone).unwrap_err();
        assert_eq!(error, CronError::UnknownZone { zone: zone.into() });
        assert_eq!(error.span(), None);
    }
    assert_eq!(schedule("0 8 * * *", "europe/berlin").zone_name(), "Europe/Berlin");
    assert!(crate::policy::due::zone_names().iter().any(|name| name == "Europe/Berlin"));
}

#[test]
fn a_schedule_that_never_comes_is_refused_and_not_waited_for() {
    for (expression, now) in [
        ("0 0 30 2 *", "2026-11-20T00:00:00Z"),
        ("0 0 31 4,6,9,11 *", "2026-11-20T00:00:00Z"),
        ("0 0 29 2 *", "2096-03-01T00:00:00Z"),
    ] {
        let schedule = schedule(expression, "Europe/Berlin");
        assert_eq!(schedule.first(at(now)), Err(CronError::Never { expression: expression.into() }));
    }
    assert!(schedule("0 0 29 2 *", "UTC").first(at("2026-11-20T00:00:00Z")).is_ok());
}

#[test]
fn only_a_change_of_meaning_begins_a_schedule_anew() {
    let identity = |expression, zone| schedule(expression, zone).identity();
    assert_eq!(identity("0  8 * * *", "europe/berlin"), identity(" 0 8 * * *", "Europe/Berlin"));
    assert_ne!(identity("0 8 * * *", "Europe/Berlin"), identity("0 8 * * *", "UTC"));
    assert_ne!(identity("0 8 * * *", "UTC"), identity("0 9 * * *", "UTC"));
}
