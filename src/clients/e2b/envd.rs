//! The daemon inside of one sandbox: how it is addressed, and its calls that answer at once.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::{Method, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::base::base64::base64;
use crate::base::scope::Scope;
use crate::base::secret::Secret;
use crate::clients::http::{Auth, Client, parse_url};

use super::Cloud;
use super::call::{ANSWER_CAP, Caller, Payload, Plan, Resend, Wait};
use super::cloud::{below, encoded};
use super::error::{Error, Plane};
use super::wire::{Created, ENVD_PORT};

/// For one call that answers at once, as E2B's clients have it.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// For asking whether a sandbox is there at all.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
/// Domains whose sandboxes share one host, and are told apart by headers. As in E2B's clients.
const SHARED_HOST: &[&str] =
    &["e2b.app", "e2b.dev", "e2b.pro", "e2b-staging.dev", "e2b-tango.dev", "e2b-juliett.dev", "foxtrot-2.e2b.dev"];

/// The daemon of one sandbox. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Envd {
    pub(super) caller: Caller,
    pub(super) scope: Scope,
    base: String,
    sandbox: String,
    token: Option<Secret>,
    /// As whom processes run and files are written, where it is not the template's own user.
    user: Option<String>,
    /// For downloads alone: the proxy of E2B's cloud pads them with empty frames, for which HTTP/2 closes the connection.
    downloads: Arc<OnceLock<Client>>,
}

impl Envd {
    pub(super) fn new(cloud: &Cloud, sandbox: &Created) -> Result<Self, Error> {
        let domain = sandbox.domain.as_deref().filter(|domain| !domain.is_empty()).unwrap_or(&cloud.domain);
        let base = match &cloud.endpoint.sandbox_url {
            Some(url) => url.clone(),
            None if SHARED_HOST.contains(&domain) => format!("https://sandbox.{domain}"),
            None => format!("https://{ENVD_PORT}-{}.{domain}", sandbox.sandbox_id),
        };
        parse_url(&base)?;
        let caller = if base.starts_with("http://") || !cloud.endpoint.plain() {
            cloud.caller.clone()
        } else {
            Caller { http: Client::for_url(&base)?, env: cloud.caller.env.clone() }
        };
        Ok(Self {
            caller,
            scope: cloud.scope.clone(),
            base,
            sandbox: sandbox.sandbox_id.clone(),
            token: sandbox.envd_access_token.clone().map(Secret::new),
            user: None,
            downloads: Arc::default(),
        })
    }

    /// The same daemon, with processes and files of another user: `root`.
    pub fn as_user(&self, user: &str) -> Self {
        Self { user: Some(user.to_owned()), ..self.clone() }
    }

    pub fn sandbox(&self) -> &str {
        &self.sandbox
    }

    pub(super) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    pub(super) fn auth(&self) -> Auth<'_> {
        self.token.as_ref().map_or(Auth::None, |token| Auth::Value("x-access-token", token))
    }

    pub(super) fn url(&self, path: &[&str]) -> Result<Url, Error> {
        below(&self.base, path)
    }

    /// Which sandbox is meant.
    pub(super) fn headers(&self) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
        vec![
            ("e2b-sandbox-id".into(), self.sandbox.as_str().into()),
            ("e2b-sandbox-port".into(), ENVD_PORT.to_string().into()),
        ]
    }

    /// Those of a Connect call.
    pub(super) fn rpc_headers(&self, content_type: &'static str) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
        let mut headers = self.headers();
        headers.push(("content-type".into(), content_type.into()));
        headers.push(("connect-protocol-version".into(), "1".into()));
        if let Some(user) = &self.user {
            headers.push(("authorization".into(), format!("Basic {}", base64(format!("{user}:").as_bytes())).into()));
        }
        headers
    }

    /// Connections for a download.
    pub(super) fn downloader(&self) -> Result<Caller, Error> {
        if self.base.starts_with("http://") {
            return Ok(self.caller.clone());
        }
        let http = match self.downloads.get() {
            Some(http) => http.clone(),
            None => {
                let made = Client::for_url_in_http1(&self.base)?;
                self.downloads.get_or_init(|| made).clone()
            }
        };
        Ok(Caller { http, env: self.caller.env.clone() })
    }

    /// Whether the sandbox runs. `false`: it is gone.
    ///
    /// Errors: `Unreachable` where it is said to run and its daemon does not answer.
    pub async fn health(&self) -> Result<bool, Error> {
        self.probe(Resend::Safe).await
    }

    pub(super) async fn probe(&self, resend: Resend) -> Result<bool, Error> {
        let plan = Plan {
            plane: Plane::Sandbox,
            resend,
            method: Method::GET,
            url: self.url(&["health"])?,
            headers: self.headers(),
            auth: self.auth(),
            body: Payload::None,
            wait: Wait::Whole(HEALTH_TIMEOUT),
            cap_bytes: ANSWER_CAP,
        };
        match self.caller.whole(plan).await {
            Ok(_) => Ok(true),
            Err(Error::Gone { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A unary Connect call.
    pub(super) async fn rpc<T: DeserializeOwned>(
        &self,
        service: &str,
        method: &str,
        body: &impl Serialize,
        resend: Resend,
    ) -> Result<T, Error> {
        let mut headers = self.rpc_headers("application/json");
        headers.push(("connect-timeout-ms".into(), REQUEST_TIMEOUT.as_millis().to_string().into()));
        let plan = Plan {
            plane: Plane::Sandbox,
            resend,
            method: Method::POST,
            url: self.url(&[service, method])?,
            headers,
            auth: self.auth(),
            body: encoded(body)?.into(),
            wait: Wait::Whole(REQUEST_TIMEOUT),
            cap_bytes: ANSWER_CAP,
        };
        match self.caller.whole(plan).await {
            Ok(reply) => reply.json(),
            Err(error) => Err(self.explain(error).await),
        }
    }

    /// Tells a connection that broke because the sandbox is gone from any other.
    pub(super) async fn explain(&self, error: Error) -> Error {
        let (Error::Unavailable { message } | Error::Unreachable { message } | Error::Ambiguous { message }) = &error
        else {
            return error;
        };
        match self.probe(Resend::Never).await {
            Ok(false) => Error::Gone { message: message.clone() },
            Ok(true) | Err(_) => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Endpoint, Key};
    use super::*;
    use crate::base::env::Env;

    #[tokio::test]
    async fn a_daemon_is_found_where_e2bs_clients_find_it() {
        for (api_url, sandbox_url, domain, expected) in [
            ("https://api.e2b.app", None, None, "https://sandbox.e2b.app"),
            ("https://api.e2b.app/", None, Some(""), "https://sandbox.e2b.app"),
            ("https://api.e2b.app", None, Some("foxtrot-2.e2b.dev"), "https://sandbox.foxtrot-2.e2b.dev"),
            ("https://api.e2b.app", None, Some("e2b.example.com"), "https://49983-ixyz.e2b.example.com"),
            ("https://api.example.com", None, None, "https://49983-ixyz.example.com"),
            ("https://e2b.example.com:8443", None, None, "https://49983-ixyz.e2b.example.com"),
            ("http://127.0.0.1:1", Some("http://127.0.0.1:2"), Some("e2b.app"), "http://127.0.0.1:2"),
        ] {
            let key = Key::Given(Secret::new("e2b_0"));
            let endpoint = Endpoint { api_url: api_url.into(), sandbox_url: sandbox_url.map(str::to_owned), key };
            let scope = Scope::new(tokio::runtime::Handle::current());
            let cloud = Cloud::new(endpoint, Env::system(), scope).unwrap();
            let created = Created {
                template_id: "base".into(),
                sandbox_id: "ixyz".into(),
                client_id: String::new(),
                envd_version: "0.6.4".into(),
                alias: None,
                envd_access_token: Some("token".into()),
                traffic_access_token: None,
                domain: domain.map(str::to_owned),
            };
            let envd = cloud.envd(&created).unwrap();
            assert_eq!(envd.base, expected, "{api_url} {domain:?}");
            assert_eq!(envd.url(&["files"]).unwrap().path(), "/files");
        }
    }
}
