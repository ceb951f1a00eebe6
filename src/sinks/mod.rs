//! Sinks.
use crate::ports::sink::SinkKind;
pub const ALL: &[SinkKind] = &[];
