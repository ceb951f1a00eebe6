//! Sinks: one file per place where reports go, and the pure renderers that they and the CLI share.
//!
//! Everything a report holds may come from a model, so every renderer escapes all of it with what `render` has for it. No renderer does I/O; `files` writes.
//! A new sink is a file here, a `mod` line and a row of [`ALL`].

pub mod chart;
mod chart_png;
pub mod files;
mod later;
pub mod markdown;
mod markdown_file;
pub mod page;
pub mod slack;
pub mod terminal;
mod webhook;

use crate::ports::sink::SinkKind;
pub use crate::render::text;

pub const ALL: &[SinkKind] =
    &[files::KIND, terminal::KIND, markdown_file::KIND, webhook::KIND, slack::KIND, later::GITHUB, later::LOCAL_BRANCH];

#[cfg(test)]
pub(crate) mod sample;
