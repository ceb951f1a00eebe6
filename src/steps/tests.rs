//! The rules of PIPELINES.md as tests, over pipelines as people write them.

mod agents;
mod evil;
mod fix;
mod flow;
mod kinds;
mod pull_request;
mod shipped;
mod tell;
mod tickets;
