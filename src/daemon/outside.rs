//! What reaches the daemon from outside beside its schedules, and what it watches there: errors, chat, the intake, secrets.
//!
//! One file per concern, each with a `start` that adds its webhooks and spawns what it needs in the holder's scope. Listeners are
//! bound before any work begins, so that a taken port is told at once.

use anyhow::Context as _;

use super::{Holder, chat, credentials, errors, reports};
use crate::http::{Listener, hooks};
use crate::triggers::hook::Hooks;

/// Starts all of it. Not cancel safe.
pub(super) async fn start(holder: &Holder) -> anyhow::Result<()> {
    let mut hooks = Hooks::default();
    errors::start(holder, &mut hooks).await.context("starting the triggers for errors")?;
    chat::start(holder, &mut hooks).await.context("starting the chat")?;
    reports::start(holder).await.context("starting the intake")?;
    credentials::start(holder).await.context("watching the secrets")?;
    if hooks.is_empty() {
        return Ok(());
    }
    let library = holder.library();
    let listen = library.settings.hooks_listen.as_deref().unwrap_or(hooks::DEFAULT_LISTEN);
    let listener = Listener::bind(listen).await.context("the address for webhooks (`hooks.listen`)")?;
    tracing::info!(address = %listener.address()?, hooks = ?hooks, "taking webhooks");
    listener.serve_hooks(&holder.inner.scope, hooks);
    Ok(())
}
