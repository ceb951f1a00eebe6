//! The account: every slot gets exactly one decision, whatever happens to the clock, the daemon and the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::domain::definition::{Missed, Overlap};
use crate::policy::due::{
    Decision, Fate, MissedBecause, OpenRuns, Policy, Refusal, Situation, Start, decide, due_at, next_due, rewind,
};

const NONE: &BTreeSet<Timestamp> = &BTreeSet::new();
const IDLE: OpenRuns = OpenRuns { running: 0, queued: 0 };
const BUSY: OpenRuns = OpenRuns { running: 1, queued: 0 };

fn policy(missed: Missed, overlap: Overlap) -> Policy {
    Policy { missed, max_age: None, overlap, jitter: Duration::ZERO, max_queued: 3 }
}

fn run(start: Start, late: bool) -> Fate {
    Fate::Run { start, late }
}

/// Decides `expression` in UTC for the time from `accounted_to` to `now`.
fn fates(expression: &str, policy: &Policy, open: OpenRuns, accounted_to: &str, now: &str) -> Vec<Fate> {
    let schedule = schedule(expression, "UTC");
    let situation = Situation {
        pipeline: "p",
        schedule: &schedule,
        policy,
        accounted_to: at(accounted_to),
        taken: NONE,
        now: at(now),
        open,
        refusal: None,
    };
    decide(situation).map(|decision| decision.fate).collect()
}

#[test]
fn a_slot_on_time_runs_and_nothing_is_due_before_it() {
    let policy = policy(Missed::Skip, Overlap::Skip);
    let fates = |now| fates("0 * * * *", &policy, IDLE, "2026-11-20T08:00:00Z", now);
    assert_eq!(fates("2026-11-20T08:59:59.999Z"), []);
    assert_eq!(fates("2026-11-20T09:00:00Z"), [run(Start::Now, false)]);
    assert_eq!(fates("2026-11-20T09:01:00Z"), [run(Start::Now, false)], "a restart across the slot is not a downtime");
    assert_eq!(fates("2026-11-20T09:01:01Z"), [Fate::Missed(MissedBecause::Skip)]);
}

#[test]
fn downtime_follows_the_declared_policy() {
    let down = |policy: &Policy, now| fates("0 * * * *", policy, IDLE, "2026-11-20T08:00:00Z", now);
    let into = Fate::Coalesced { into: at("2026-11-20T12:00:00Z") };
    let at_noon_and_a_half = "2026-11-20T12:30:00Z";

    let skip = policy(Missed::Skip, Overlap::Skip);
    assert_eq!(down(&skip, at_noon_and_a_half), vec![Fate::Missed(MissedBecause::Skip); 4]);

    let mut latest = policy(Missed::Latest, Overlap::Skip);
    assert_eq!(down(&latest, at_noon_and_a_half), [into.clone(), into.clone(), into.clone(), run(Start::Now, true)]);
    latest.max_age = Some(Duration::from_secs(3600));
    assert_eq!(down(&latest, at_noon_and_a_half), [into.clone(), into.clone(), into, run(Start::Now, true)]);
    latest.max_age = Some(Duration::from_secs(60 * 20));
    assert_eq!(down(&latest, at_noon_and_a_half), vec![Fate::Missed(MissedBecause::TooOld); 4]);

    let mut all = policy(Missed::All(2), Overlap::Skip);
    let over = Fate::Missed(MissedBecause::OverMax);
    assert_eq!(down(&all, at_noon_and_a_half), [over.clone(), over, run(Start::Now, true), run(Start::Queued, true)]);
    all.max_age = Some(Duration::from_secs(3600));
    let old = Fate::Missed(MissedBecause::TooOld);
    assert_eq!(down(&all, at_noon_and_a_half), [old.clone(), old.clone(), old, run(Start::Now, true)]);
    assert_eq!(down(&policy(Missed::All(9), Overlap::Skip), at_noon_and_a_half).len(), 4);
    assert_eq!(
        down(&policy(Missed::All(0), Overlap::Skip), at_noon_and_a_half),
        vec![Fate::Missed(MissedBecause::OverMax); 4]
    );
}

#[test]
fn the_newest_slot_on_time_stands_for_those_that_were_missed() {
    let latest = policy(Missed::Latest, Overlap::Skip);
    let fates = fates("0 * * * *", &latest, IDLE, "2026-11-20T09:30:00Z", "2026-11-20T12:00:30Z");
    let into = Fate::Coalesced { into: at("2026-11-20T12:00:00Z") };
    assert_eq!(fates, [into.clone(), into, run(Start::Now, false)]);
}

#[test]
fn a_wake_up_that_comes_seconds_late_loses_nothing() {
    let skip = policy(Missed::Skip, Overlap::Queue);
    let fates = fates("* * * * * *", &skip, IDLE, "2026-11-20T12:00:00Z", "2026-11-20T12:00:02.5Z");
    assert_eq!(fates, [run(Start::Now, false), run(Start::Queued, false)]);
}

#[test]
fn an_active_run_is_met_as_overlap_says() {
    let busy = |overlap, open| {
        fates("0 * * * *", &policy(Missed::Latest, overlap), open, "2026-11-20T08:30:00Z", "2026-11-20T09:00:00Z")
    };
    assert_eq!(busy(Overlap::Skip, BUSY), [Fate::Skipped]);
    assert_eq!(busy(Overlap::Skip, OpenRuns { running: 0, queued: 1 }), [Fate::Skipped]);
    assert_eq!(busy(Overlap::Queue, BUSY), [run(Start::Queued, false)]);
    assert_eq!(busy(Overlap::Queue, OpenRuns { running: 1, queued: 3 }), [Fate::Refused(Refusal::QueueFull)]);
    assert_eq!(busy(Overlap::CancelPrevious, BUSY), [run(Start::CancelPrevious, false)]);
}

#[test]
fn two_slots_at_once_are_not_started_only_to_be_cancelled() {
    let cancel = policy(Missed::Latest, Overlap::CancelPrevious);
    let fates = fates("* * * * * *", &cancel, BUSY, "2026-11-20T12:00:00Z", "2026-11-20T12:00:02Z");
    assert_eq!(fates, [Fate::Coalesced { into: at("2026-11-20T12:00:02Z") }, run(Start::CancelPrevious, false)]);
}

#[test]
fn a_pause_or_a_limit_refuses_every_slot_by_name() {
    let schedule = schedule("0 * * * *", "UTC");
    let policy = policy(Missed::Latest, Overlap::Skip);
    let limit = Refusal::Limit("the day cap of $20.00 is reached".into());
    for refusal in [Refusal::Paused, limit] {
        let situation = Situation {
            pipeline: "p",
            schedule: &schedule,
            policy: &policy,
            accounted_to: at("2026-11-20T08:00:00Z"),
            taken: NONE,
            now: at("2026-11-20T10:00:00Z"),
            open: IDLE,
            refusal: Some(refusal.clone()),
        };
        let fates: Vec<_> = decide(situation).map(|d| d.fate).collect();
        assert_eq!(fates, vec![Fate::Refused(refusal); 2]);
    }
}

#[test]
fn jitter_belongs_to_the_slot_and_never_to_chance() {
    let hour = Duration::from_secs(3600);
    let (first, second) = (at("2026-11-20T08:00:00Z"), at("2026-11-21T08:00:00Z"));
    assert_eq!(due_at("a", first, hour), due_at("a", first, hour));
    assert_eq!(due_at("a", first, Duration::ZERO), first);
    let delays: BTreeSet<_> =
        ["a", "b", "c"].iter().flat_map(|p| [first, second].map(|t| due_at(p, t, hour).duration_since(t))).collect();
    assert_eq!(delays.len(), 6, "pipelines and slots differ");
    assert!(delays.iter().all(|delay| (SignedDuration::ZERO..=SignedDuration::from_hours(1)).contains(delay)));

    // The loop wakes for the jittered time, and the slot is not decided before.
    let (schedule, mut policy) = (schedule("0 8 * * *", "UTC"), policy(Missed::Skip, Overlap::Skip));
    policy.jitter = hour;
    let due = next_due("a", &schedule, &policy, at("2026-11-20T00:00:00Z"), NONE).unwrap();
    assert_eq!(due, due_at("a", first, hour));
    let count = |now| {
        let accounted_to = at("2026-11-20T00:00:00Z");
        decide(Situation {
            pipeline: "a",
            schedule: &schedule,
            policy: &policy,
            accounted_to,
            taken: NONE,
            now,
            open: IDLE,
            refusal: None,
        })
        .count()
    };
    assert_eq!((count(due - SignedDuration::from_millis(1)), count(due)), (0, 1));
}

#[test]
fn a_month_of_downtime_by_the_second_is_decided_without_holding_it() {
    let schedule = schedule("* * * * * *", "Europe/Berlin");
    let policy = policy(Missed::All(20), Overlap::Queue);
    let (accounted_to, now) = (at("2026-03-20T00:00:00Z"), at("2026-04-01T00:00:00Z"));
    let situation = Situation {
        pipeline: "p",
        schedule: &schedule,
        policy: &policy,
        accounted_to,
        taken: NONE,
        now,
        open: IDLE,
        refusal: None,
    };
    let mut decisions = decide(situation);
    let mut counts = BTreeMap::<String, u64>::new();
    loop {
        let chunk: Vec<Decision> = decisions.by_ref().take(1_000).collect();
        if chunk.is_empty() {
            break;
        }
        for decision in chunk {
            *counts.entry(decision.fate.reason()).or_default() += 1;
        }
    }
    assert_eq!(counts.values().sum::<u64>(), 12 * 86_400);
    assert_eq!(counts[&MissedBecause::OverMax.to_string()], 12 * 86_400 - 20);
}

/// A daemon that keeps its account in a map, with a clock that does what we say.
struct Daemon<'a> {
    schedule: &'a CronSchedule,
    policy: &'a Policy,
    accounted_to: Timestamp,
    now: Timestamp,
    /// The unique index of the journal: (nominal time) → fate.
    rows: BTreeMap<Timestamp, Fate>,
    open: OpenRuns,
    earliest: Timestamp,
    latest: Timestamp,
}

impl<'a> Daemon<'a> {
    fn new(schedule: &'a CronSchedule, policy: &'a Policy, now: Timestamp) -> Self {
        Self { schedule, policy, accounted_to: now, now, rows: BTreeMap::new(), open: IDLE, earliest: now, latest: now }
    }

    /// One turn of the loop; with `crash_after` it dies after that many rows, stored in chunks of three.
    fn tick(&mut self, crash_after: Option<usize>) {
        if let Some(back) = rewind(self.accounted_to, self.now) {
            self.accounted_to = back;
        }
        self.earliest = self.earliest.min(self.accounted_to);
        self.latest = self.latest.max(self.now);
        let ran = |(nominal, fate): (&Timestamp, &Fate)| matches!(fate, Fate::Run { .. }).then_some(*nominal);
        let taken: BTreeSet<_> =
            self.rows.range(self.accounted_to..).filter_map(ran).filter(|t| *t > self.accounted_to).collect();
        let situation = Situation {
            pipeline: "p",
            schedule: self.schedule,
            policy: self.policy,
            accounted_to: self.accounted_to,
            taken: &taken,
            now: self.now,
            open: self.open,
            refusal: None,
        };
        let mut decisions = decide(situation);
        let mut left = crash_after.unwrap_or(usize::MAX);
        loop {
            let chunk: Vec<_> = decisions.by_ref().take(3).collect();
            if chunk.is_empty() {
                break;
            }
            if left < chunk.len() {
                return; // The transaction of this chunk never happened.
            }
            left -= chunk.len();
            for Decision { slot, fate } in chunk {
                match &fate {
                    Fate::Run { start: Start::Queued, .. } => self.open.queued += 1,
                    Fate::Run { start: Start::Now, .. } => self.open.running += 1,
                    Fate::Run { start: Start::CancelPrevious, .. } => self.open = BUSY,
                    _ => {}
                }
                assert!(self.open.running <= 1, "two runs at once at {}", slot.nominal_at);
                let before = self.rows.insert(slot.nominal_at, fate);
                assert!(!matches!(before, Some(Fate::Run { .. })), "run twice: {}", slot.nominal_at);
                self.accounted_to = slot.nominal_at;
            }
        }
        self.accounted_to = self.accounted_to.max(self.now - SignedDuration::try_from(self.policy.jitter).unwrap());
    }

    fn end_run(&mut self) {
        if self.open.running > 0 {
            self.open.running -= 1;
            if self.open.queued > 0 {
                self.open = OpenRuns { running: 1, queued: self.open.queued - 1 };
            }
        }
    }
}

/// Small, fast and the same on every machine.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

#[test]
fn a_year_of_downtime_clock_steps_and_crashes_leaves_no_slot_out() {
    let expressions = ["30 2 * * *", "*/30 * * * *", "0,15,30,45 0-3 * * *", "15 */4 * * *", "0 6 * * 1", "5 1 1 * *"];
    let zones = [
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "America/Santiago",
        "Africa/Casablanca",
        "Antarctica/Troll",
    ];
    let policies =
        [(Missed::Skip, Overlap::Skip), (Missed::Latest, Overlap::Queue), (Missed::All(4), Overlap::CancelPrevious)];
    let mut dice = Dice(7);
    // Twelve of the pairs, so that each zone and each expression comes twice.
    for index in 0..12 {
        let (zone, expression) = (zones[index % 6], expressions[(index * 5 + index / 6) % 6]);
        let schedule = schedule(expression, zone);
        let (missed, overlap) = policies[index % policies.len()];
        let mut policy = policy(missed, overlap);
        policy.max_age = (index % 2 == 0).then(|| Duration::from_secs(4 * 3600));
        let mut daemon = Daemon::new(&schedule, &policy, at("2026-01-01T00:00:00Z"));
        let end = at("2027-01-01T00:00:00Z");
        while daemon.now < end {
            let seconds = match dice.below(40) {
                0 => 3 * 86_400, // The machine was off.
                1 => 3_600,      // The clock was set forward.
                2 => -3_600,     // … and back.
                3 => -(dice.below(5_000) as i64),
                _ => dice.below(1_800) as i64,
            };
            daemon.now += SignedDuration::new(seconds, 5_000_000);
            let crash = (dice.below(10) == 0).then(|| dice.below(20) as usize);
            daemon.tick(crash);
            if dice.below(2) == 0 {
                daemon.end_run();
            }
        }
        daemon.tick(None);
        let expected = oracle::slots(expression, schedule.zone(), daemon.earliest, daemon.latest);
        let decided: Vec<_> = daemon.rows.into_keys().collect();
        oracle::assert_same(&decided, &expected, &format!("{expression} in {zone}"));
    }
}

#[test]
fn apia_lost_a_day_and_the_account_lost_nothing() {
    let schedule = schedule("0 12 * * *", "Pacific/Apia");
    let policy = policy(Missed::Latest, Overlap::Queue);
    let mut daemon = Daemon::new(&schedule, &policy, at("2011-12-01T00:00:00Z"));
    for _ in 0..24 * 60 {
        daemon.now += SignedDuration::from_hours(1);
        daemon.tick(None);
        daemon.end_run();
    }
    let expected = oracle::slots("0 12 * * *", schedule.zone(), daemon.earliest, daemon.latest);
    assert_eq!(daemon.rows.len(), 60);
    assert_eq!(daemon.rows.into_keys().collect::<Vec<_>>(), expected);
}

/// Every second for a minute, beginning ten seconds before the zone's clock changes.
#[test]
fn every_second_for_a_minute_loses_none_and_runs_none_twice() {
    let changes = [
        ("Europe/Berlin", "2026-03-29T00:59:50Z"),
        ("Europe/Berlin", "2026-10-25T00:59:50Z"),
        ("Australia/Lord_Howe", "2026-04-04T14:59:50Z"),
        ("America/Santiago", "2026-09-06T03:59:50Z"),
        ("Pacific/Apia", "2011-12-30T09:59:50Z"),
        ("Antarctica/Troll", "2026-10-25T00:59:50Z"),
    ];
    let minute: Vec<i64> = (1..=60).collect();
    for (zone, from) in changes {
        let (schedule, from) = (schedule("* * * * * *", zone), at(from));
        let policy = policy(Missed::All(60), Overlap::Queue);
        let policy = Policy { max_queued: 100, ..policy };
        let seconds =
            |daemon: &Daemon<'_>| daemon.rows.keys().map(|t| t.duration_since(from).as_secs()).collect::<Vec<_>>();
        let all_ran = |daemon: &Daemon<'_>| daemon.rows.values().all(|fate| matches!(fate, Fate::Run { .. }));

        // Wake-ups early, late and doubled.
        let mut dice = Dice(3);
        let mut daemon = Daemon::new(&schedule, &policy, from);
        while daemon.now < from + SignedDuration::from_secs(60) {
            daemon.now = (daemon.now + SignedDuration::from_millis(dice.below(900) as i64))
                .min(from + SignedDuration::from_secs(60));
            daemon.tick(None);
            daemon.end_run();
        }
        assert_eq!(seconds(&daemon), minute, "{zone}");
        assert!(all_ran(&daemon), "{zone}");

        // Killed and started again, and the clock put back by 20 s half-way and forward again.
        let mut daemon = Daemon::new(&schedule, &policy, from);
        for step in [1, 5, 3, 1, 1, 10, 9, -20, 1, 2, 20, 1, 26] {
            daemon.now += SignedDuration::from_secs(step);
            daemon.tick(Some(4));
            daemon.tick(None);
            daemon.end_run();
        }
        assert_eq!(seconds(&daemon), minute, "{zone}");
        assert!(all_ran(&daemon), "{zone}");
    }
}

#[test]
fn a_clock_set_back_is_neither_a_second_time_nor_silence() {
    let (schedule, policy) = (schedule("* * * * * *", "UTC"), policy(Missed::Skip, Overlap::Queue));
    let begin = at("2026-11-20T12:00:00Z");
    let mut daemon = Daemon::new(&schedule, &policy, begin);
    for _ in 0..30 {
        daemon.now += SignedDuration::from_secs(1);
        daemon.tick(None);
        daemon.end_run();
    }
    assert_eq!(daemon.rows.len(), 30);
    daemon.now -= SignedDuration::from_hours(1);
    for ticks in 1..=10 {
        daemon.now += SignedDuration::from_secs(1);
        daemon.tick(None);
        daemon.end_run();
        assert!(daemon.rows.len() >= 30 + ticks - 1, "a slot runs within two seconds of being due");
    }
    assert!(daemon.rows.values().all(|fate| matches!(fate, Fate::Run { .. })));
}

#[test]
fn a_clock_that_was_a_year_ahead_does_not_silence_a_schedule_for_a_year() {
    let (schedule, policy) = (schedule("0 8 * * *", "Europe/Berlin"), policy(Missed::Latest, Overlap::Skip));
    let begin = at("2026-01-01T00:00:00Z");
    let mut daemon = Daemon::new(&schedule, &policy, begin);
    daemon.now = at("2027-01-01T00:00:00Z"); // The battery of its clock was empty.
    daemon.tick(None);
    daemon.end_run();
    assert_eq!(daemon.rows.len(), 365);
    daemon.now = begin;
    daemon.tick(None);
    for day in 1..=30 {
        daemon.now = begin + SignedDuration::from_hours(24 * day);
        daemon.tick(None);
        daemon.end_run();
    }
    let runs = daemon.rows.values().filter(|fate| matches!(fate, Fate::Run { .. })).count();
    assert_eq!((runs, daemon.rows.len()), (31, 365), "thirty mornings, and the one of the wrong year");
}

#[test]
fn a_clock_set_forward_records_what_it_jumped_over() {
    let (schedule, policy) = (schedule("* * * * * *", "UTC"), policy(Missed::Skip, Overlap::Skip));
    let mut daemon = Daemon::new(&schedule, &policy, at("2026-11-20T12:00:00Z"));
    daemon.now += SignedDuration::from_secs(1);
    daemon.tick(None);
    daemon.now += SignedDuration::from_hours(1);
    daemon.tick(None);
    let missed = daemon.rows.values().filter(|fate| matches!(fate, Fate::Missed(_))).count();
    assert_eq!((daemon.rows.len(), missed), (3_601, 3_594), "all but the first and the last six, which are on time");
}

#[test]
fn the_loop_is_told_when_to_look_again() {
    let (schedule, policy) = (schedule("0 8 * * *", "Europe/Berlin"), policy(Missed::Skip, Overlap::Skip));
    let taken = BTreeSet::from([at("2026-11-20T07:00:00Z")]);
    let next = |taken| next_due("p", &schedule, &policy, at("2026-11-19T12:00:00Z"), taken);
    assert_eq!(next(NONE), Some(at("2026-11-20T07:00:00Z")));
    assert_eq!(next(&taken), Some(at("2026-11-21T07:00:00Z")));
}
