//! The dialect's types and CEL: parse, check, evaluate. Pure.
//!
//! Knows nothing of pipelines: names and their types come in as a [`check::TypeScope`], values as [`cel::Bindings`].

pub mod cel;
pub mod check;
mod facts;
pub mod functions;
pub mod names;
pub mod parse_type;
mod places;
pub mod types;
mod value;
