//! Stand-ins for the services outside: small, stateful, over real HTTP on loopback.

pub mod model;
pub mod sandbox;
