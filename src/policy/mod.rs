//! Pure rules: no I/O.

pub mod diff;
pub mod due;
pub mod errors;
pub mod findings;
pub mod proof;
pub mod redact;
pub mod scan;
pub mod suite;
