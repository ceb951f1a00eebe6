//! Texts for people: what cannot be seen is taken out, what means something in Markdown or HTML is escaped. Pure.
//!
//! Sinks, publishers and the CLI build what they show from here, so that a text from a model is harmless everywhere in the same
//! way. No I/O, no clock.

pub mod markdown;
pub mod page;
pub mod text;
