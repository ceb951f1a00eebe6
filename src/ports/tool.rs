//! A capability that agents may be given, by the name that models see.

use serde_json::Value;

/// One row of the table of capabilities.
#[derive(Clone, Copy, Debug)]
pub struct ToolKind {
    /// What the model sees and YAML lists: `read`, `search`…
    pub name: &'static str,
    pub summary: &'static str,
    /// What the model is told.
    pub description: &'static str,
    /// JSON Schema of its input.
    pub schema: fn() -> Value,
    /// Every agent has it; it is not listed in YAML.
    pub always: bool,
    /// What it needs beside data.
    pub works_on: WorksOn,
    /// Can run in this version.
    pub ready: bool,
}

/// What a capability needs beside data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorksOn {
    Nothing,
    /// The code of the run.
    Code,
    /// The code, and a sandbox in which its commands run.
    Sandbox,
}
