//! Slack as a place to answer, approve and command.

use super::Holder;
use crate::triggers::hook::Hooks;

/// Starts it, where it is configured.
pub(super) async fn start(_: &Holder, _: &mut Hooks) -> anyhow::Result<()> {
    Ok(())
}
