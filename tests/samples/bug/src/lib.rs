//! Quiet hours: when a notification must wait, and for how long.

mod clock;
mod outbox;
mod plan;
mod window;

pub use clock::{ParseError, Time, DAY};
pub use outbox::{Outbox, OutboxError};
pub use plan::{plan, Plan, LONGEST};
pub use window::Window;
