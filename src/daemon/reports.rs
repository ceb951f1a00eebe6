//! The Sentry-compatible intake: where it listens, and what becomes of a new group.

use super::Holder;

/// Starts it, where it is configured.
pub(super) async fn start(_: &Holder) -> anyhow::Result<()> {
    Ok(())
}
