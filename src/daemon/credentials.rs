//! Secrets that a service refused: told once, and runs that wait for them go on when they are replaced.

use super::Holder;

/// Starts it.
pub(super) async fn start(_: &Holder) -> anyhow::Result<()> {
    Ok(())
}
