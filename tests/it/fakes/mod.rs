//! Stand-ins for the services outside: small, stateful, over real HTTP on loopback.

pub mod e2b;
pub mod github;
pub mod memory;
pub mod model;
pub mod sandbox;
pub mod sentry;
pub mod service;
pub mod slack;
pub mod slack_socket;
