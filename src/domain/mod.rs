//! Plain data that everything speaks about: no I/O, no async.

pub mod activity;
pub mod code;
pub mod definition;
pub mod diff;
pub mod entry;
pub mod error_group;
pub mod finding;
pub mod model;
pub mod money;
pub mod proof;
pub mod proposal;
pub mod report;
pub mod run;
pub mod sandbox;
pub mod view;
