//! Sources: one file per kind. Read-only; where rows and work items come from.
//!
//! A new source is a file here, a `mod` line and a row of [`ALL`]. What it does not do: hide columns, decide what is new, keep
//! anything. The step that fetches does.

mod files;
mod github;
mod glob;
mod http;
mod intake;
mod postgres;
mod prometheus;
mod rows;
pub mod sentry;
mod sentry_files;
mod sqlite;

use crate::ports::source::SourceKind;

pub const ALL: &[SourceKind] = &[
    sqlite::KIND,
    http::KIND,
    files::KIND,
    intake::KIND,
    postgres::KIND,
    prometheus::KIND,
    sentry::KIND,
    github::KIND,
];
