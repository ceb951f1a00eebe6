//! The surroundings, passed down as one small value: clock, ids, jitter.

use std::sync::Arc;
use std::time::Duration;

use super::clock::{Clock, SystemClock, Timestamp};
use super::ids::{Ids, SystemIds};

/// Clock and identifiers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Env {
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
}

impl Env {
    /// The real machine.
    pub fn system() -> Self {
        Self { clock: Arc::new(SystemClock), ids: Arc::new(SystemIds) }
    }
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
    /// A duration between half of `base` and one and a half of it, for waiting beside others who also wait.
    pub fn jitter(&self, base: Duration) -> Duration {
        let unit = (self.ids.random() % 1_000_000) as f64 / 1e6;
        base.mul_f64(0.5 + unit)
    }
}

/// One variable of the process environment. Everything else gets its values from here, as arguments.
#[allow(clippy::disallowed_methods)]
pub fn process_variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
