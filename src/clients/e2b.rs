//! E2B's protocol: what goes over the wire ([`wire`]), and the client of it.
//!
//! Source: E2B's OpenAPI and protobuf files as of August 2026, and what its official clients 2.63 (Python) and 2.51 (JavaScript) send.

pub mod wire;
