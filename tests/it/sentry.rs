//! Sentry as a source, as a trigger by polling and by webhooks, and notes back to it.

#[path = "sentry/client.rs"]
mod client;
#[path = "sentry/crew.rs"]
mod crew;
#[path = "sentry/notes.rs"]
mod notes;
#[path = "sentry/served.rs"]
mod served;
#[path = "sentry/trigger.rs"]
mod trigger;
