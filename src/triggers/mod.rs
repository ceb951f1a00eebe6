//! What makes a run begin: schedules and their slot ledger, and the queue of claimed runs.
//!
//! `schedule` is the loop, `handle` how others speak with it, `sentry` waits with errors until they are runs, `slack` and `github` read
//! what people do there, `hook` is a delivery as it came, `queue` says which claimed run may begin, `housekeeping` holds the safety
//! wake-up. The rules about
//! slots are pure and stand in [`crate::policy::due`], where `pipeline` can use them at load. Every trigger makes its run with
//! the journal's one claim; nothing here runs a run.

pub use crate::policy::due;

pub mod github;
pub mod handle;
pub mod hook;
pub mod housekeeping;
pub mod queue;
pub mod schedule;
pub mod sentry;
pub mod slack;

#[cfg(test)]
mod tests;
