//! The one test binary: a module per area.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

/// Rules about the code itself.
mod house;
/// Sources over the samples that ship.
mod sources;
