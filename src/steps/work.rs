//! The code that a run works on: looked up once, before the first step that costs anything, so that a missing repository or a
//! broken environment is known before money is spent.

use crate::domain::activity::Activity;
use crate::domain::definition::{Step, StepBody};
use crate::domain::sandbox::Workspace;
use crate::ports::durable::{DurableContext, Stop};
use crate::ports::step::Work;
use crate::ports::tool::WorksOn;
use crate::tools;

/// What a step needs beside data and models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Needs {
    #[default]
    Nothing,
    Code,
    Sandbox,
}

impl Needs {
    /// Of these steps and those below them.
    pub fn of(steps: &[Step]) -> Self {
        steps.iter().map(Self::of_step).max().unwrap_or_default()
    }

    fn of_step(step: &Step) -> Self {
        match &step.body {
            StepBody::Steps(steps) => Self::of(steps),
            StepBody::Kind { kind, options, .. } => match kind.as_str() {
                "scan" | "fix" => Self::Sandbox,
                _ => options.texts("tools").into_iter().map(Self::of_tool).max().unwrap_or_default(),
            },
        }
    }

    fn of_tool(name: &str) -> Self {
        match tools::find(name).map(|kind| kind.works_on) {
            Some(WorksOn::Code) => Self::Code,
            Some(WorksOn::Sandbox) => Self::Sandbox,
            Some(WorksOn::Nothing) | None => Self::Nothing,
        }
    }
}

/// Looks up the code and, where it is needed, prepares the environment. The labels can be no step's id.
pub(super) async fn begin(ctx: &dyn DurableContext, needs: Needs) -> Result<Work, Stop> {
    let workspace: Workspace = ctx.perform("base-code", Activity::Workspace { attempt: 0 }).await?.decode()?;
    let prepared = match needs {
        Needs::Sandbox => {
            let environment = Activity::Environment { base: workspace.tree.clone() };
            Some(ctx.perform("base-environment", environment).await?.decode()?)
        }
        Needs::Nothing | Needs::Code => None,
    };
    Ok(Work { workspace, prepared })
}
