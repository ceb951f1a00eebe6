//! What becomes of every slot that has fallen due: run, coalesced, missed, skipped or refused. Pure.
//!
//! [`decide`] is lazy: after a month of downtime a schedule by the second has 2.6 million decisions, which the caller takes
//! and stores in chunks. Each decision stands alone, so a crash between two chunks only means to decide the rest later.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::base::hash::Hash;
use crate::domain::definition::{Missed, Overlap};

use super::{CronSchedule, Slot, Slots};

/// A slot handled at most this long after it was due is on time: a wake-up that comes late, or a disk that hesitates, changes nothing.
pub const ON_TIME: SignedDuration = SignedDuration::from_secs(5);

/// The newest due slot is on time even this long after: a restart across the slot is not a downtime.
pub const GRACE: SignedDuration = SignedDuration::from_secs(60);

/// How a pipeline wants its slots handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub missed: Missed,
    /// A slot that is late by more than this is not made up for.
    pub max_age: Option<Duration>,
    pub overlap: Overlap,
    /// A slot falls due up to this long after its nominal time, always the same for the same slot.
    pub jitter: Duration,
    /// How many runs may wait behind the active one.
    pub max_queued: u32,
}

/// Runs of the pipeline that have not ended, of whatever trigger counts for the overlap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenRuns {
    pub running: u32,
    pub queued: u32,
}

impl OpenRuns {
    fn is_busy(self) -> bool {
        self.running + self.queued > 0
    }
}

/// Why no slot may start a run now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Somebody paused the pipeline or the daemon.
    Paused,
    /// A limit, named for people: `the day cap of $20.00 is reached`.
    Limit(String),
    /// As many runs wait as may.
    QueueFull,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Paused => f.write_str("paused"),
            Self::Limit(limit) => f.write_str(limit),
            Self::QueueFull => f.write_str("the queue is full"),
        }
    }
}

/// Why a slot was left out that nobody handled in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MissedBecause {
    /// `missed: skip`.
    Skip,
    /// Later than `max_age`.
    TooOld,
    /// `missed: all(max n)`, and n newer ones are run.
    OverMax,
}

impl std::fmt::Display for MissedBecause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Skip => "nobody was there in time, and `missed: skip` asks for no run",
            Self::TooOld => "nobody was there in time, and it is older than `max_age`",
            Self::OverMax => "nobody was there in time, and more were missed than `missed: all` makes up for",
        })
    }
}

/// When the run of a slot may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Start {
    Now,
    /// After the runs before it have ended.
    Queued,
    /// Now; the pipeline's other open runs are to be cancelled.
    CancelPrevious,
}

/// What becomes of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// `late`: it makes up for a time when nobody was there.
    Run {
        start: Start,
        late: bool,
    },
    /// The slot `into` stands for it.
    Coalesced {
        into: Timestamp,
    },
    Missed(MissedBecause),
    /// A run was active: `overlap: skip`.
    Skipped,
    Refused(Refusal),
}

impl Fate {
    /// One sentence for the slot's row.
    pub fn reason(&self) -> String {
        match self {
            Self::Run { start, late } => {
                let before = match start {
                    Start::Now => "",
                    Start::Queued => "; waits for the run before it",
                    Start::CancelPrevious => "; the run before it is cancelled",
                };
                format!("{}{before}", if *late { "late, made up for" } else { "on time" })
            }
            Self::Coalesced { into } => format!("the slot of {into} stands for it"),
            Self::Missed(because) => because.to_string(),
            Self::Skipped => "a run was still active".to_owned(),
            Self::Refused(refusal) => refusal.to_string(),
        }
    }
}

/// One slot and its fate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub slot: Slot,
    pub fate: Fate,
}

/// Everything that a decision depends on.
#[derive(Debug, Clone)]
pub struct Situation<'a> {
    pub pipeline: &'a str,
    pub schedule: &'a CronSchedule,
    pub policy: &'a Policy,
    /// Every slot up to this instant has been decided. A new or changed schedule begins with the moment it was first seen.
    pub accounted_to: Timestamp,
    /// Slots after `accounted_to` that have a run all the same, because the clock was ahead for a while. They never run again; what was
    /// then decided without a run is decided anew when its time really comes.
    pub taken: &'a BTreeSet<Timestamp>,
    pub now: Timestamp,
    pub open: OpenRuns,
    pub refusal: Option<Refusal>,
}

/// The clock went back behind what is accounted for: decide again from `now`, with the slots that have a run as `taken`.
///
/// Slots are only decided once they are due, so an account that lies ahead of `now` means that the clock was set back. To wait until it
/// comes round again would be silence for as long as the clock was wrong, and that may be a year.
pub fn rewind(accounted_to: Timestamp, now: Timestamp) -> Option<Timestamp> {
    (now < accounted_to).then_some(now)
}

/// The instant at which a slot falls due: its nominal time and a delay in `0..=jitter` that depends on pipeline and slot only.
pub fn due_at(pipeline: &str, nominal_at: Timestamp, jitter: Duration) -> Timestamp {
    let span = u64::try_from(jitter.as_millis()).unwrap_or(u64::MAX);
    if span == 0 {
        return nominal_at;
    }
    let hash = Hash::of_parts([pipeline.as_bytes(), &nominal_at.as_second().to_le_bytes()]).as_u64();
    let delay = Duration::from_millis(hash % span.saturating_add(1));
    nominal_at.saturating_add(delay).unwrap_or(Timestamp::MAX)
}

/// When the loop has to look at this pipeline again; `None` if its schedule has no next slot, which is an alarm.
pub fn next_due(
    pipeline: &str,
    schedule: &CronSchedule,
    policy: &Policy,
    accounted_to: Timestamp,
    taken: &BTreeSet<Timestamp>,
) -> Option<Timestamp> {
    let slot = schedule.slots_after(accounted_to).find(|slot| !taken.contains(&slot.nominal_at))?;
    Some(due_at(pipeline, slot.nominal_at, policy.jitter))
}

/// One decision for every slot that is due and not yet accounted for, in the order of their nominal times.
///
/// With `jitter` a slot is never decided before one that nominally precedes it.
pub fn decide(situation: Situation<'_>) -> Decisions<'_> {
    let keep = match situation.policy.missed {
        Missed::Skip | Missed::Latest => 1,
        Missed::All(max) => usize::try_from(max.max(1)).unwrap_or(usize::MAX),
    };
    let tail = situation.last_due(keep);
    let newest = tail.back().copied();
    Decisions {
        due: Due { slots: situation.schedule.slots_after(situation.accounted_to) },
        open: situation.open,
        oldest_kept: tail.front().copied(),
        newest,
        situation,
    }
}

impl Situation<'_> {
    fn late_by(&self, slot: Slot) -> SignedDuration {
        self.now.duration_since(due_at(self.pipeline, slot.nominal_at, self.policy.jitter))
    }

    fn is_too_old(&self, slot: Slot) -> bool {
        let max_age = self.policy.max_age.and_then(|age| SignedDuration::try_from(age).ok());
        max_age.is_some_and(|age| self.late_by(slot) > age.max(ON_TIME))
    }

    /// The newest `keep` slots that are due, oldest first, without walking through all of a long downtime: it looks back
    /// from `now` through windows that grow.
    fn last_due(&self, keep: usize) -> VecDeque<Slot> {
        let mut window = Duration::from_secs(5);
        loop {
            // Whatever is nominally before `now - jitter` is due, so a walk that begins there meets the same first slot that
            // is not due as a walk from the account would.
            let from = self.now.checked_sub(self.policy.jitter.saturating_add(window)).unwrap_or(self.accounted_to);
            let from = from.max(self.accounted_to);
            let mut due = Due { slots: self.schedule.slots_after(from) };
            let mut tail = VecDeque::new();
            while let Some(slot) = due.next(self) {
                if tail.len() == keep {
                    tail.pop_front();
                }
                tail.push_back(slot);
            }
            if tail.len() == keep || from == self.accounted_to {
                return tail;
            }
            window = window.saturating_mul(8);
        }
    }
}

/// Walks over the slots that are due and not taken, and stops at the first that is not due.
#[derive(Debug)]
struct Due<'a> {
    slots: Slots<'a>,
}

impl Due<'_> {
    fn next(&mut self, situation: &Situation<'_>) -> Option<Slot> {
        loop {
            let slot = self.slots.next().filter(|slot| situation.late_by(*slot) >= SignedDuration::ZERO)?;
            if !situation.taken.contains(&slot.nominal_at) {
                return Some(slot);
            }
        }
    }
}

/// Decisions in nominal order, see [`decide`].
#[derive(Debug)]
pub struct Decisions<'a> {
    due: Due<'a>,
    /// As it will be when the decisions so far have been carried out.
    open: OpenRuns,
    oldest_kept: Option<Slot>,
    newest: Option<Slot>,
    situation: Situation<'a>,
}

impl Iterator for Decisions<'_> {
    type Item = Decision;
    fn next(&mut self) -> Option<Decision> {
        let slot = self.due.next(&self.situation)?;
        Some(Decision { slot, fate: self.fate(slot) })
    }
}

impl Decisions<'_> {
    fn fate(&mut self, slot: Slot) -> Fate {
        if let Some(refusal) = &self.situation.refusal {
            return Fate::Refused(refusal.clone());
        }
        let late_by = self.situation.late_by(slot);
        let newest = self.newest.unwrap_or(slot);
        let is_newest = slot == newest;
        let on_time = late_by <= ON_TIME || (is_newest && late_by <= GRACE);
        let policy = self.situation.policy;
        if !is_newest && on_time && policy.overlap == Overlap::CancelPrevious {
            // To start it only to cancel it in the same breath would help nobody.
            return Fate::Coalesced { into: newest.nominal_at };
        }
        if on_time && !self.situation.is_too_old(slot) {
            return self.launch(policy.overlap, false);
        }
        match policy.missed {
            Missed::Skip => Fate::Missed(MissedBecause::Skip),
            Missed::Latest if is_newest && !self.situation.is_too_old(slot) => self.launch(policy.overlap, true),
            Missed::Latest if self.situation.is_too_old(newest) => Fate::Missed(MissedBecause::TooOld),
            Missed::Latest => Fate::Coalesced { into: newest.nominal_at },
            Missed::All(_) if self.situation.is_too_old(slot) => Fate::Missed(MissedBecause::TooOld),
            Missed::All(0) => Fate::Missed(MissedBecause::OverMax),
            Missed::All(_) if self.oldest_kept.is_some_and(|oldest| slot < oldest) => {
                Fate::Missed(MissedBecause::OverMax)
            }
            // Who asks for all of them wants them one after the other, whatever happens to slots that meet a run on time.
            Missed::All(_) => self.launch(Overlap::Queue, true),
        }
    }

    fn launch(&mut self, overlap: Overlap, late: bool) -> Fate {
        if !self.open.is_busy() {
            self.open.running = 1;
            return Fate::Run { start: Start::Now, late };
        }
        match overlap {
            Overlap::Skip => Fate::Skipped,
            Overlap::Queue if self.open.queued >= self.situation.policy.max_queued => Fate::Refused(Refusal::QueueFull),
            Overlap::Queue => {
                self.open.queued += 1;
                Fate::Run { start: Start::Queued, late }
            }
            Overlap::CancelPrevious => {
                self.open = OpenRuns { running: 1, queued: 0 };
                Fate::Run { start: Start::CancelPrevious, late }
            }
        }
    }
}
