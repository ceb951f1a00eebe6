//! SIGTERM and SIGINT stop in order, a second one at once; SIGHUP reloads.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::base::scope::Scope;

/// What the operating system asks of this process.
#[derive(Clone, Debug)]
pub struct Signals {
    /// Cancelled by the first SIGTERM or SIGINT.
    pub stop: CancellationToken,
    /// Notified by each SIGHUP.
    pub reload: Arc<Notify>,
}

impl Signals {
    /// Listens in a task of `scope`. The second SIGTERM or SIGINT ends the process on the spot: everything that matters is in the
    /// journal already.
    pub fn listen(scope: &Scope) -> anyhow::Result<Self> {
        let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
        let mut hangup = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
        let signals = Self { stop: CancellationToken::new(), reload: Arc::default() };
        let (stop, reload) = (signals.stop.clone(), signals.reload.clone());
        let ended = scope.token().clone();
        drop(scope.spawn("signals", async move {
            loop {
                let code = tokio::select! {
                    () = ended.cancelled() => return,
                    _ = hangup.recv() => { reload.notify_one(); continue; }
                    _ = terminate.recv() => 143,
                    _ = interrupt.recv() => 130,
                };
                if stop.is_cancelled() {
                    std::process::exit(code);
                }
                stop.cancel();
            }
        }));
        Ok(signals)
    }
}
