//! Thin typed clients for the world outside. The only folder where a secret is exposed.

pub mod credentials;
pub mod e2b;
pub mod git;
pub mod github;
pub mod http;
pub mod json;
mod link;
pub mod postgres;
pub mod sentry;
pub mod slack;
pub mod verify;
pub mod webhook;

pub use http::install_tls;
