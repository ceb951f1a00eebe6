//! Where sandboxes come from: our own server, started here or running elsewhere, or E2B's cloud.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::OnceCell;

use crate::base::hash::Hash;
use crate::clients::e2b::wire::Report;
use crate::clients::e2b::{Cloud, Endpoint, Key};
use crate::ports::sandbox::{Places, SandboxError, SandboxSetup};

use super::needs::{Host, of_client};
use super::own::Own;
use super::server::{Running, Starter};
use super::{E2B, SANDBOXD, held};

/// E2B's own.
const API_URL: &str = "https://api.e2b.app";

/// What the configuration comes to for one kind, without asking anybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Who gives the sandboxes: `sandboxd`, `e2b`.
    pub provider: &'static str,
    /// Where; `None`: a server is started here when it is needed.
    pub url: Option<String>,
    /// Why it is another one than was asked for, in words.
    pub instead: Option<&'static str>,
}

/// Who gives the sandboxes of this kind.
pub fn chosen(kind: &str, places: &Places) -> Chosen {
    let Places { e2b, sandboxd } = places;
    if kind == E2B && e2b.key.is_some() {
        let url = e2b.api_url.clone().unwrap_or_else(|| API_URL.to_owned());
        return Chosen { provider: E2B, url: Some(url), instead: None };
    }
    let instead = (kind == E2B).then_some("e2b has no key");
    Chosen { provider: SANDBOXD, url: sandboxd.url.clone(), instead }
}

/// One place.
#[derive(Debug)]
pub(super) struct Site {
    /// What receipts say: `sandboxd`, `e2b`.
    pub provider: &'static str,
    pub host: Host,
    /// Why it is another one than was asked for, in words.
    pub instead: Option<&'static str>,
    /// What this process keeps about it.
    pub folder: PathBuf,
    setup: SandboxSetup,
    how: How,
    own: OnceCell<Arc<Own>>,
}

#[derive(Debug)]
enum How {
    Started(Box<Starter>),
    There {
        endpoint: Box<Endpoint>,
        link: OnceCell<Link>,
    },
    /// The configuration is not whole.
    Nowhere(String, String),
}

/// A way to it. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub cloud: Cloud,
    /// What our own server says of itself.
    pub report: Option<Arc<Report>>,
    running: Option<Arc<Running>>,
}

impl Link {
    /// It was a server of this process's own, and has ended, with all its sandboxes.
    pub(super) fn is_gone(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.is_gone())
    }

    /// How it confines: `bubblewrap`, …; another provider's own name.
    pub(super) fn isolation(&self, provider: &str) -> String {
        match self.report.as_ref().map(|report| report.isolation.clone()) {
            Some(tier) => tier.unwrap_or_else(|| "none".to_owned()),
            None => provider.to_owned(),
        }
    }

    pub(super) fn gaps(&self) -> Vec<String> {
        self.report.as_ref().map(|report| report.gaps.clone()).unwrap_or_default()
    }
}

impl Site {
    /// What `setup` says of this kind; contacts nothing. `tier`: our own server is held to it.
    pub(super) fn new(setup: &SandboxSetup, kind: &str, tier: Option<String>) -> Self {
        let (e2b, sandboxd) = (&setup.places.e2b, &setup.places.sandboxd);
        let Chosen { provider, url, instead } = chosen(kind, &setup.places);
        // Who stands in has its own folder, beside it.
        let folder = if provider == kind { setup.folder.clone() } else { setup.folder.with_file_name(provider) };
        let key = if provider == E2B { &e2b.key } else { &sandboxd.key };
        let sandbox_url = if provider == E2B { e2b.sandbox_url.clone() } else { url.clone() };
        let (host, how, part) = match (url, key) {
            (None, _) => {
                let starter = Starter::new(setup, folder.clone(), tier);
                (Host::Here, How::Started(Box::new(starter)), "client".to_owned())
            }
            (Some(api_url), Some(key)) => {
                let host = if provider == E2B { Host::Cloud } else { Host::Elsewhere };
                let part = elsewhere(&api_url);
                let endpoint = Endpoint { api_url, sandbox_url, key: Key::Kept(key.clone()) };
                (host, How::There { endpoint: Box::new(endpoint), link: OnceCell::new() }, part)
            }
            (Some(url), None) => {
                let message = "`services.sandboxd.url` is set, and there is no key for it".to_owned();
                let help =
                    "add `api_key: secret:NAME` to `services.sandboxd`: that server says at its start where its key is";
                (Host::Elsewhere, How::Nowhere(message, help.to_owned()), elsewhere(&url))
            }
        };
        Self { provider, host, instead, folder: folder.join(part), setup: setup.clone(), how, own: OnceCell::new() }
    }

    /// A way to it; our own server is started if it is not there.
    pub(super) async fn link(&self) -> Result<Link, SandboxError> {
        match &self.how {
            How::Started(starter) => {
                let running = starter.running().await?;
                let (cloud, report) = (running.cloud.clone(), running.report.clone());
                Ok(Link { cloud, report, running: Some(running) })
            }
            How::There { endpoint, link } => link.get_or_try_init(|| self.reach(endpoint)).await.cloned(),
            How::Nowhere(message, help) => Err(SandboxError::Missing { message: message.clone(), help: help.clone() }),
        }
    }

    async fn reach(&self, endpoint: &Endpoint) -> Result<Link, SandboxError> {
        let (env, scope) = (&self.setup.env, &self.setup.scope);
        let cloud = Cloud::new(endpoint.clone(), env.clone(), scope.clone()).map_err(of_client)?;
        let report = match self.host {
            Host::Cloud => None,
            Host::Here | Host::Elsewhere => cloud.report().await.map_err(of_client)?.map(Arc::new),
        };
        let link = Link { cloud, report, running: None };
        // What an earlier process left there goes on costing; nobody waits for its end.
        let (own, of, env, scope) = (self.own().await?, link.clone(), env.clone(), scope.clone());
        drop(self.setup.scope.spawn("ending sandboxes that dead processes left", async move {
            match held::reap(&of, &env, &scope, &own).await {
                Ok(0) => {}
                Ok(ended) => tracing::info!(ended, "sandboxes that an earlier process left are ended"),
                Err(error) => {
                    tracing::warn!(%error, "sandboxes of an earlier process may be there until their time is over")
                }
            }
        }));
        Ok(link)
    }

    /// What this process has for itself.
    pub(super) async fn own(&self) -> Result<Arc<Own>, SandboxError> {
        let begin = || async {
            let (folder, env) = (self.folder.clone(), self.setup.env.clone());
            let begun = tokio::task::spawn_blocking(move || Own::begin(&folder, &env)).await;
            let begun = begun.unwrap_or_else(|lost| Err(std::io::Error::other(lost)));
            let message = |error| format!("the sandboxes' folder {}: {error}", self.folder.display());
            begun.map(Arc::new).map_err(|error| SandboxError::Failed { message: message(error) })
        };
        self.own.get_or_try_init(begin).await.cloned()
    }
}

/// A folder's name for what is kept about a server elsewhere.
fn elsewhere(url: &str) -> String {
    format!("at-{}", Hash::of(url).short())
}
