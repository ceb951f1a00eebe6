//! The dialect's types and CEL: parse, check, evaluate. Pure.

pub mod cel;
pub mod types;
