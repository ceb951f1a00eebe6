//! The kinds of steps, and how the steps of a pipeline are run.
//!
//! A kind is one file with its `KIND`: its options as data (parsed, checked, documented from there) and, where it can run
//! in this version, its durable logic. `run` walks through a pipeline's steps, `each` through a list. Logic here decides and
//! asks; nothing here acts, reads a clock or rolls dice.

mod approve;
mod boss;
mod compute;
pub mod data;
mod each;
mod fetch;
mod fix;
mod intern;
mod ledger;
mod model;
mod publish;
mod pull_request;
mod report;
mod report_body;
mod report_findings;
mod report_items;
mod review;
mod run;
mod scan;
mod tell;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod ticket;
mod ticket_text;
mod work;

pub use approve::{SIGNAL as APPROVAL, delivered_at};
pub use each::item_key;
pub use run::{AFTER_A_FAILURE, RunEnd, run_pipeline};

use crate::domain::run::Failure;
use crate::ports::durable::Stop;
use crate::ports::step::StepKind;

/// Every kind of the dialect, in the order of PIPELINES.md.
pub const ALL: &[StepKind] = &[
    fetch::KIND,
    scan::KIND,
    compute::KIND,
    intern::KIND,
    boss::KIND,
    fix::KIND,
    review::KIND,
    approve::KIND,
    ticket::KIND,
    pull_request::KIND,
    report::KIND,
];

/// The kind of that name.
pub fn find(name: &str) -> Option<&'static StepKind> {
    ALL.iter().find(|kind| kind.name == name)
}

/// A limit was reached.
pub const E_BUDGET: &str = "E-BUDGET";
/// An expression had no value.
pub const E_CEL: &str = "E-CEL";
/// A kind that this version cannot run.
pub const E_KIND: &str = "E-KIND";
/// The data is not what the step needs.
pub const E_DATA: &str = "E-DATA";
/// `require` was not fulfilled in time.
pub const E_REQUIRE: &str = "E-REQUIRE";
/// A question to a person expired.
pub const E_EXPIRED: &str = "E-EXPIRED";
/// A change does not fit the code that it is to be made to: another may.
pub const E_CONFLICT: &str = "E-CONFLICT";
/// The tests by which a fix is judged cannot be run, or not be read.
pub const E_TESTS: &str = "E-TESTS";
/// The branch that a proof is about has moved on.
pub const E_BASE: &str = "E-BASE";
/// A service limits how much is asked of it, for longer than a call waits.
pub const E_LIMITED: &str = "E-LIMITED";
/// A report could not be delivered.
pub const E_DELIVER: &str = "E-DELIVER";

fn failed(code: &str, message: impl Into<String>) -> Stop {
    Stop::Failed(Failure::new(code, message))
}
