//! When a schedule is due, and what becomes of each of its slots: pure functions, with `now` as an argument.
//!
//! [`CronSchedule`] turns an expression and an IANA zone into slots; [`decide`] gives every slot that fell due exactly one
//! [`Decision`]. Nothing here reads a clock, sleeps or writes: `triggers::schedule` does, and the journal's unique
//! (pipeline, nominal time) is what makes a slot happen once.
//!
//! **The rule for clock changes of a zone** (as Debian's cron has it). A job whose minute and hour fields do not begin with
//! `*` is *fixed-time*: when the wall clock jumps over its time it fires once, right after the gap; when its time comes twice it fires
//! the first time only. Every other job is a *wildcard* job and follows the wall clock: it does not fire at times that do not exist,
//! and fires in both passes of an hour that comes twice. Several fixed times in one gap are one slot, because a slot is a moment.
//! A date that a zone leaves out altogether (Apia, 30 December 2011) has no slots.
//!
//! Invariant, tested as an identity: every nominal slot in (accounted, due now] gets one decision, in order, and none twice.

mod cron;
mod decide;
#[cfg(test)]
mod tests;

pub use cron::{CronError, CronSchedule, HORIZON, Slot, Slots, zone_names};
pub use decide::{
    Decision, Decisions, Fate, GRACE, MissedBecause, ON_TIME, OpenRuns, Policy, Refusal, Situation, Start, decide,
    due_at, next_due, rewind,
};
