//! What becomes of notifications.

use quiethours::{plan, Outbox, OutboxError, Plan};

fn decide(quiet: &str, at: &str) -> Plan {
    plan(quiet.parse().unwrap(), at.parse().unwrap())
}

#[test]
fn within_quiet_hours_it_waits_for_their_end() {
    assert_eq!(decide("13:00-14:30", "13:15"), Plan::Hold(75));
    assert_eq!(decide("00:00-08:00", "00:00"), Plan::Hold(480));
}

#[test]
fn outside_of_them_it_is_sent() {
    assert_eq!(decide("13:00-14:30", "14:30"), Plan::Send);
    assert_eq!(decide("13:00-14:30", "09:00"), Plan::Send);
}

#[test]
fn no_quiet_hours_hold_nothing_back() {
    assert_eq!(decide("12:00-12:00", "12:00"), Plan::Send);
}

#[test]
fn quiet_hours_of_nearly_a_day_are_taken_for_a_mistake() {
    assert_eq!(decide("01:00-17:00", "02:00"), Plan::Hold(900));
    assert_eq!(decide("01:00-17:01", "02:00"), Plan::Send);
}

#[test]
fn a_locked_outbox_says_by_whom() {
    let path = std::env::temp_dir().join(format!("quiethours-{}", std::process::id()));
    let lock = path.with_extension("lock");
    let outbox = Outbox::new(&path);
    outbox.append("worker 1", "mia send").unwrap();
    std::fs::write(&lock, "worker 7 of 1.3.2").unwrap();
    let refused = outbox.append("worker 1", "mia send").unwrap_err();
    assert!(matches!(&refused, OutboxError::Locked { holder } if holder == "worker 7 of 1.3.2"), "{refused}");
    std::fs::remove_file(lock).unwrap();
    outbox.append("worker 1", "ben hold 5").unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mia send\nben hold 5\n");
    std::fs::remove_file(path).unwrap();
}
