//! nightcrew: a self-hosted daemon that keeps AI monitoring agents at work around the clock.
//!
//! The house, top row first. A row may import the rows above it, never a row below nor another entry of its own row
//! (`tests/it/house.rs` reads the `use crate::` lines and fails otherwise). `ARCHITECTURE.md` explains it to a newcomer.
//!
//! | row | path | what lives there |
//! | --- | --- | --- |
//! | 1 | `base` `diag` | clock, ids, secrets, scope, money · spans, the YAML node tree, the caret renderer |
//! | 2 | `expr` | the dialect's types and CEL: parse, check, evaluate; pure |
//! | 3 | `domain` | plain data: the checked definition, run, activity, transcript, report, entry; no I/O, no async |
//! | 4 | `ports` `policy` `render` | one file per seam: trait + `…Kind` row + error · pure rules · untrusted text made fit for people |
//! | 5 | `config` `journal` `clients` `workspace` `isolation` | settings and profiles · SQLite, the only truth · the one place where a secret is exposed · git, trees, files of repositories · running a command confined |
//! | 6 | `pipeline` `models` `sources` `tools` `sinks` `sandboxes` `publishers` `sandboxd` | parse → check · adapters, one file each · the E2B-compatible server over `isolation` |
//! | 7 | `agent` | the boss loop, the intern call |
//! | 8 | `steps` | one file per step kind: durable logic |
//! | 9 | `engine` | the executor (where an activity becomes an act) and the embedded engine |
//! | 10 | `triggers` | slot ledger and schedules |
//! | 11 | `http` `control` | health · the control socket |
//! | 12 | `builtin` | the registry of what ships |
//! | 13 | `daemon` | composition, start and stop order |
//! | 14 | `cli` | one file per command |

pub mod base;
pub mod diag;
pub mod expr;
pub mod domain;
pub mod ports;
pub mod policy;
pub mod render;
pub mod config;
pub mod journal;
pub mod clients;
pub mod workspace;
pub mod isolation;
pub mod pipeline;
pub mod models;
pub mod sources;
pub mod tools;
pub mod sinks;
pub mod sandboxes;
pub mod publishers;
pub mod sandboxd;
pub mod agent;
pub mod steps;
pub mod engine;
pub mod triggers;
pub mod http;
pub mod control;
pub mod builtin;
pub mod daemon;
pub mod cli;
