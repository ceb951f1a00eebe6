//! The findings ledger, as activities.

use serde_json::value::RawValue;

use crate::domain::finding::FindingsRequest;
use crate::ports::durable::Stop;

use super::executor::{At, Executor};

impl Executor {
    /// Asks the ledger of this run's pipeline, profile and effects.
    pub(super) async fn findings(&self, at: &At, request: &FindingsRequest) -> Result<Box<RawValue>, Stop> {
        let _ = (at, request);
        Err(super::code::not_yet("the findings ledger"))
    }
}
