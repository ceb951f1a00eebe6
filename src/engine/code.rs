//! Work on code, as activities: the workspace, the agents' code tools, the sandbox.

use serde_json::value::RawValue;

use crate::domain::activity::{CodeAt, CodeRequest, ToolAnswer, ToolRequest};
use crate::domain::code::TreeId;
use crate::domain::run::Failure;
use crate::domain::sandbox::{Prepared, SandboxAnswer, SandboxRequest, Workspace};
use crate::ports::durable::Stop;

use super::executor::{At, Executor};

pub(super) fn not_yet(what: &str) -> Stop {
    Stop::Blocked(Failure::new("E-KIND", format!("{what} comes with a later version of nightcrew")))
}

impl Executor {
    /// The code that the run works on, as it is now.
    pub(super) async fn workspace(&self, attempt: u32) -> Result<Workspace, Stop> {
        let _ = attempt;
        Err(not_yet("work on code"))
    }

    /// The environment for `base`.
    pub(super) async fn environment(&self, at: &At, base: &TreeId) -> Result<Prepared, Stop> {
        let _ = (at, base);
        Err(not_yet("work on code"))
    }

    pub(super) async fn sandbox(&self, at: &At, request: &SandboxRequest) -> Result<SandboxAnswer, Stop> {
        let _ = (at, request);
        Err(not_yet("work on code"))
    }

    /// Work on trees.
    pub(super) async fn code(&self, request: &CodeRequest) -> Result<Box<RawValue>, Stop> {
        let _ = request;
        Err(not_yet("work on code"))
    }

    /// An agent's call of `read`, `search`, `tree`, `edit`, `run_tests` or `run`.
    pub(super) async fn code_tool(&self, at: &At, request: &ToolRequest, code: &CodeAt) -> Result<ToolAnswer, Stop> {
        let _ = (at, request, code);
        Err(not_yet("work on code"))
    }
}
