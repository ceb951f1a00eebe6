//! `process.Process`: starting, watching and ending processes.

use std::sync::Arc;

use axum::Router;

use super::Shared;

/// The processes of one sandbox.
#[derive(Debug, Default)]
pub(super) struct Processes {}

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
}
