//! The client of E2B's protocol against a scripted cloud: what is sent, what is understood, what is sent again and what never is.
//! What belongs here: everything between a call of `clients::e2b` and the wire, each way in which it can fail included.

mod bench;
mod real;
mod requests;
mod retries;
mod scenario;
mod streams;
