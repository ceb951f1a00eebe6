//! Reading and measuring quiet hours.

use quiethours::{Time, Window};

fn window(text: &str) -> Window {
    text.parse().unwrap()
}

fn time(text: &str) -> Time {
    text.parse().unwrap()
}

#[test]
fn what_is_read_is_shown_as_it_was_written() {
    for text in ["13:00-14:30", "00:00-08:00", "09:05-23:59"] {
        assert_eq!(window(text).to_string(), text);
    }
}

#[test]
fn what_no_clock_shows_is_refused() {
    for text in ["", "13:00", "13:00-", "24:00-25:00", "13:60-14:00", "1pm-2pm"] {
        assert!(text.parse::<Window>().is_err(), "{text}");
    }
}

#[test]
fn it_lasts_from_its_start_to_its_end() {
    assert_eq!(window("13:00-14:30").length(), 90);
    assert_eq!(window("00:00-08:00").length(), 480);
    assert_eq!(window("12:00-12:00").length(), 0);
}

#[test]
fn the_start_is_within_and_the_end_is_not() {
    let lunch = window("13:00-14:30");
    assert!(lunch.contains(time("13:00")) && lunch.contains(time("14:29")));
    assert!(!lunch.contains(time("12:59")) && !lunch.contains(time("14:30")));
}

#[test]
fn what_remains_is_counted_to_the_end() {
    assert_eq!(window("13:00-14:30").remaining(time("13:15")), 75);
}
