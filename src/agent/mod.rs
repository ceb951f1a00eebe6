//! Asking models: the boss's loop with tools, the intern's single question, prompts, and the checks of what they answer.
//!
//! All of it is durable logic over `&dyn DurableContext`: it asks for activities and never acts. A model's answer is a
//! proposal: it is typed, checked against its type and its evidence, and it names no destination. Text from the pipeline's
//! YAML is the only instruction; everything else that a model reads stands in a fence (see `prompt`).

pub mod boss;
mod calls;
pub mod check;
pub mod facts;
pub mod intern;
pub mod output;
pub mod prompt;
mod transcript;

use crate::domain::run::Failure;
use crate::ports::durable::Stop;

/// The answer was not of the type that was asked for, also after a correction.
pub const E_OUTPUT: &str = "E-OUTPUT";
/// The model declined.
pub const E_REFUSED: &str = "E-REFUSED";
/// The answer did not fit into the output tokens, twice.
pub const E_LENGTH: &str = "E-LENGTH";
/// The transcript does not fit the model, also after compaction.
pub const E_CONTEXT: &str = "E-CONTEXT";
/// The same call again and again, or turns without any progress.
pub const E_LOOP: &str = "E-LOOP";
/// An answer that makes no sense as a message.
pub const E_MODEL: &str = "E-MODEL";
/// A tool that this version cannot offer.
pub const E_TOOL: &str = "E-TOOL";
/// The agent said what it lacks and could not do without it.
pub const E_LACKING: &str = "E-LACKING";

pub(crate) fn failed(code: &str, message: impl Into<String>) -> Stop {
    Stop::Failed(Failure::new(code, message))
}
