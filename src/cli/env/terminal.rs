//! The terminal that a person sits at, while it belongs to a shell in a sandbox.

use anyhow::Context as _;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Keys are passed on as they are typed; dropped, the terminal is as it was.
#[derive(Debug)]
pub(super) struct Raw(Termios);

impl Raw {
    /// `None`: it is no terminal that can do that.
    pub(super) fn begin() -> Option<Self> {
        let before = tcgetattr(std::io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0) {
            tracing::warn!(%error, "the terminal is not as it was: `stty sane` helps");
        }
    }
}

/// Columns and rows.
pub(super) fn size() -> (u32, u32) {
    match tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}

/// Comes when the size has changed.
pub(super) fn resized() -> anyhow::Result<Signal> {
    signal(SignalKind::window_change()).context("listening for the terminal's size")
}
