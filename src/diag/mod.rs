//! Mistakes in what a person wrote, shown so that they can be put right.
//!
//! A YAML file becomes a [`Node`] tree in which every key and value knows its bytes ([`Span`]); readers take typed values
//! out of it and report each mistake into a [`Diagnostics`], which renders them with carets. Nothing here knows the
//! dialect or the configuration: only text, positions and messages.
//!
//! Invariants: nothing is coerced (`on`, `yes`, `007` stay text until a typed reader asks), a file is refused before it can cost
//! memory or time, and text that looks like a secret is never shown again (see [`secrets`]).

mod span;
mod suggest;
pub mod codes;
mod render;
pub mod secrets;
mod node;
mod parse;
mod read;

pub use codes::Code;
pub use node::{Entry, Node, NodeKind, ScalarStyle};
pub use parse::{MAX_BYTES, MAX_DEPTH, MAX_NODES, parse_yaml};
pub use read::{MapReader, parse_duration, parse_money, parse_ratio};
pub use render::{Color, Diagnostic, DiagnosticJson, Diagnostics, Label, MAX_MISTAKES, Report, Severity};
pub use span::{Source, Span};
pub use suggest::{closest, did_you_mean};
