//! Thin typed clients for the world outside. The only folder where a secret is exposed.

pub mod git;
pub mod http;

pub use http::install_tls;
