//! Proposals become tickets and pull requests: policy first, then find or create, then a receipt.

use std::sync::Arc;

use serde_json::value::RawValue;

use crate::domain::proposal::Proposal;
use crate::ports::durable::Stop;

use super::executor::{At, Executor};

impl Executor {
    pub(super) async fn publish(&self, at: At, proposal: &Proposal) -> Result<Arc<RawValue>, Stop> {
        let _ = (at, proposal);
        Err(super::code::not_yet("publishing"))
    }
}
