//! E2B's protocol: what goes over the wire ([`wire`]), and the client of it: [`Cloud`] for the control plane, [`Envd`] for the daemon
//! inside of one sandbox, [`Process`] for one process there.
//!
//! What it does not do: keep a sandbox alive, find orphans, decide what a step does when a sandbox is gone (`sandboxes/` does). A
//! sandbox's lifetime is a field of a request; it bounds nothing here.
//!
//! Invariants. A call is sent again only where that can do no harm: see [`Resend`]. No error holds a secret, a query string or more
//! than a line of what the other side said. Every answer has a cap; every wait has an end, the idle time of a stream included, for
//! which the other side is asked to send keepalives.
//!
//! Source: E2B's OpenAPI and protobuf files as of August 2026, and what its official clients 2.63 (Python) and 2.51 (JavaScript) send.

mod call;
mod cloud;
mod envd;
mod error;
mod files;
mod frames;
mod process;
mod templates;
pub mod wire;

use crate::base::env::Env;
use crate::base::scope::Scope;
use crate::base::secret::{Secret, SecretRef};

use super::http::Client;

use call::Caller;

pub use envd::Envd;
pub use error::Error;
pub use files::Download;
pub use process::{Event, Process};

/// Where a cloud is, and what it lets in.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The control plane: `https://api.e2b.app`, or where our own server listens.
    pub api_url: String,
    /// Where the daemons of all sandboxes are reached, in place of what their domain says.
    pub sandbox_url: Option<String>,
    pub key: Key,
}

/// The API key of a cloud.
#[derive(Clone, Debug)]
pub enum Key {
    /// Read anew for each call.
    Kept(SecretRef),
    /// Made for a server that this process started.
    Given(Secret),
}

/// The control plane of a cloud. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct Cloud {
    caller: Caller,
    endpoint: Endpoint,
    /// For sandboxes whose answer names no domain: the one of `api_url`.
    domain: String,
    /// Ends what an owner dropped.
    scope: Scope,
}

impl Cloud {
    /// Contacts nothing. Processes that are dropped before their end are killed by a task of `scope`.
    ///
    /// Errors: `Request` where an address is no HTTP URL.
    pub fn new(endpoint: Endpoint, env: Env, scope: Scope) -> Result<Self, Error> {
        let api = super::http::parse_url(&endpoint.api_url)?;
        if let Some(url) = &endpoint.sandbox_url {
            super::http::parse_url(url)?;
        }
        let host = api.host_str().unwrap_or_default();
        let domain = host.strip_prefix("api.").unwrap_or(host).to_owned();
        // The TLS roots of the machine are read only where one of the two needs them.
        let urls = [Some(&endpoint.api_url), endpoint.sandbox_url.as_ref()];
        let secure = urls.into_iter().flatten().find(|url| !url.starts_with("http://"));
        let http = Client::for_url(secure.unwrap_or(&endpoint.api_url))?;
        Ok(Self { caller: Caller { http, env }, endpoint, domain, scope })
    }
}

impl Endpoint {
    /// Nothing that it names needs TLS.
    fn plain(&self) -> bool {
        [Some(&self.api_url), self.sandbox_url.as_ref()].into_iter().flatten().all(|url| url.starts_with("http://"))
    }
}
