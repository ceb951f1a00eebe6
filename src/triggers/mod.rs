//! What makes a run begin: the slot ledger and the schedule loop.
//!
//! The rules about slots are pure and stand in [`crate::policy::due`], where `pipeline` can use them at load.

pub use crate::policy::due;
