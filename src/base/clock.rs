//! Time as a value. Decisions take `now: Timestamp`; only loops read a [`Clock`].

use std::sync::{Arc, Mutex};
use std::time::Duration;

pub use jiff::Timestamp;
use tokio::sync::watch;

use super::BoxFuture;

/// Wall clock and sleep. Sleeps are on monotonic time in [`SystemClock`], on manual time in [`ManualClock`].
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// The wall clock, UTC. It may step in either direction between two calls.
    fn now(&self) -> Timestamp;
    /// Resolves after `duration`. Cancel safe.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// The real clock of this machine.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // This is the one place that reads it.
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// A clock that moves only when told. For tests and for the demo's fixed day.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    now: Timestamp,
    /// Monotonic time, in nanoseconds since the clock was made. A step of the wall clock does not move it.
    monotonic: watch::Sender<u128>,
}

impl ManualClock {
    /// A clock that stands at `now`.
    pub fn new(now: Timestamp) -> Self {
        Self(Arc::new(Mutex::new(State { now, monotonic: watch::Sender::new(0) })))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Time passes: wall and monotonic time go forward together and sleepers wake.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state();
        state.now = state.now.saturating_add(by).unwrap_or(Timestamp::MAX);
        state.monotonic.send_modify(|m| *m += by.as_nanos());
    }

    /// The wall clock is set, as by an operator or NTP. Sleepers notice nothing.
    pub fn step_to(&self, now: Timestamp) {
        self.state().now = now;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.state().now
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let (mut receiver, until) = {
            let state = self.state();
            (state.monotonic.subscribe(), *state.monotonic.borrow() + duration.as_nanos())
        };
        Box::pin(async move {
            // The sender lives as long as the clock; if the clock is gone nobody will ever move it.
            if receiver.wait_for(|m| *m >= until).await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn a_sleeper_wakes_when_time_passes_and_not_when_the_wall_clock_is_set() {
        let clock = ManualClock::new(Timestamp::UNIX_EPOCH);
        let mut sleep = clock.sleep(Duration::from_secs(5));
        clock.step_to("2026-11-20T00:00:00Z".parse().unwrap());
        clock.advance(Duration::from_secs(4));
        assert!((&mut sleep).now_or_never().is_none());
        clock.advance(Duration::from_secs(1));
        assert!((&mut sleep).now_or_never().is_some());
    }
}
