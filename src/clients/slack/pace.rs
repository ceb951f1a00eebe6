//! Who may send when: one message a second per channel in the order of asking, and pauses that Slack asked for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Semaphore;

use crate::base::env::Env;

/// Between two messages of one channel, counted from the answer to the first.
const SPACING: Duration = Duration::from_secs(1);

/// Shared by everybody who uses one token.
#[derive(Debug, Default)]
pub(super) struct Pace {
    lanes: Mutex<HashMap<String, Arc<Lane>>>,
    /// By method: until when, and how long was asked for.
    pauses: Mutex<HashMap<String, (Timestamp, Duration)>>,
}

/// The queue of one channel. Its semaphore is fair, so what was asked for first is sent first.
#[derive(Debug)]
pub(super) struct Lane {
    turn: Semaphore,
    last: Mutex<Option<Timestamp>>,
}

impl Pace {
    pub fn lane(&self, channel: &str) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Lane { turn: Semaphore::new(1), last: Mutex::default() });
        lanes.entry(channel.to_owned()).or_insert_with(new).clone()
    }

    /// Nobody calls this method for so long.
    pub fn pause(&self, method: &str, asked: Duration, now: Timestamp) {
        let until = now.saturating_add(asked).unwrap_or(Timestamp::MAX);
        let mut pauses = self.pauses.lock().unwrap_or_else(PoisonError::into_inner);
        let known = pauses.entry(method.to_owned()).or_insert((until, asked));
        if known.0 < until {
            *known = (until, asked);
        }
    }

    /// How long this method is paused from now on.
    pub fn left(&self, method: &str, now: Timestamp) -> Duration {
        let mut pauses = self.pauses.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((until, asked)) = pauses.get(method).copied() else { return Duration::ZERO };
        let left = until.duration_since(now);
        if left.is_positive() {
            // A clock that was set back lengthens no pause.
            return left.unsigned_abs().min(asked);
        }
        pauses.remove(method);
        Duration::ZERO
    }
}

impl Lane {
    /// Waits for the turn in this channel. `None` cannot happen: nobody closes a lane. Cancel safe.
    pub async fn turn(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        self.turn.acquire().await.ok()
    }

    /// Waits until the last message is a second old. For whoever has the turn.
    pub async fn space(&self, env: &Env) {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = last else { return };
        let since = Duration::try_from(env.now().duration_since(last)).unwrap_or_default();
        let left = SPACING.saturating_sub(since);
        if !left.is_zero() {
            env.clock.sleep(left).await;
        }
    }

    pub fn sent(&self, now: Timestamp) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }
}
