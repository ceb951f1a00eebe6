//! Errors as Sentry's SDKs report them: one normaliser and one way to group, for files, for Sentry's API and for our own intake.

pub mod event;
pub mod filter;
pub mod group;
pub mod private;
pub mod seen;
pub mod telling;
pub mod rest;
