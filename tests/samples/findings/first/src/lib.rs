//! Where parcels are.

pub mod audit;
pub mod http;
pub mod status;
pub mod store;
pub mod track;
