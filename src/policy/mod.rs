//! Pure rules: no I/O.

pub mod due;
pub mod redact;
