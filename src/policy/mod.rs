//! Pure rules: no I/O.

pub mod redact;
