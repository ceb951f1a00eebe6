//! `filesystem.Filesystem` and `/files`: reading, writing and watching files.

use std::sync::Arc;

use axum::Router;

use super::Shared;

/// The file worker and the watchers of one sandbox.
#[derive(Debug, Default)]
pub(super) struct Files {}

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
}
