//! What everything else stands on: clock, ids, money, secret strings, tracked tasks, retry maths, hashes, whole files.
//!
//! Nothing here knows about pipelines. Time, randomness and the process environment are read only here.

pub mod base64;
pub mod clock;
pub mod env;
pub mod files;
pub mod hash;
pub mod ids;
pub mod money;
pub mod retry;
pub mod scope;
pub mod secret;

/// A future that need not be `Send`: durable logic lives on current-thread executors.
pub type LocalBoxFuture<'a, T> = std::pin::Pin<Box<dyn std::future::Future<Output = T> + 'a>>;
/// A future that may cross threads: activities run on the multi-thread runtime.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn std::future::Future<Output = T> + Send + 'a>>;
