//! An E2B-compatible sandbox server over `isolation/`: E2B's control plane and in-sandbox daemon on one port.
//!
//! One file per group of calls: [`rest`] (sandboxes), [`templates`] (builds and images), [`process`] and [`files`] (the in-sandbox
//! daemon). A sandbox is a [`live::Live`]: a room (`isolation::Room`) over a home of its own; [`life`] makes, pauses and ends them.
//! Files are read and written by a worker inside of the room, so no path of a client or of a command is ever resolved here. It holds
//! no credential but the key that callers must have.

mod again;
mod attach;
mod connect;
mod error;
mod files;
mod life;
mod live;
mod own;
mod process;
mod rest;
mod templates;
mod unread;
mod wire_in;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::serve::ListenerExt as _;

use crate::base::env::Env;
use crate::base::scope::Scope;
use crate::base::secret::Secret;
use crate::isolation::{Helper, Isolation, Search, Setup, Tier};

use again::Keys;
use life::Sandboxes;
use own::Own;
use templates::Templates;

pub use attach::attached;

/// Where it listens when nothing else is said.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:7720";

/// At the end, sandboxes are waited for no longer.
const LAST: Duration = Duration::from_secs(4);

/// What a server is begun with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A folder of its own: images, and what lives.
    pub folder: PathBuf,
    /// What callers send as `X-API-Key`.
    pub key: Secret,
    /// Root file systems by name: a directory, an OCI layout, or an archive of `docker save`.
    pub images: BTreeMap<String, PathBuf>,
    /// So many sandboxes at once, with those that are paused.
    pub most_sandboxes: usize,
    /// With less memory than this left on the machine, in bytes, no further sandbox is made.
    pub least_memory: u64,
    /// Held to this tier. `None`: the best that works.
    pub tier: Option<Tier>,
    /// The nightcrew program, where this process is another one (tests).
    pub program: Option<PathBuf>,
}

impl Settings {
    /// No images but the host's, the usual limits, the best tier, this program.
    pub fn new(folder: impl Into<PathBuf>, key: Secret) -> Self {
        Self {
            folder: folder.into(),
            key,
            images: BTreeMap::new(),
            most_sandboxes: 256,
            least_memory: 128 << 20,
            tier: None,
            program: None,
        }
    }
}

/// What all calls share.
#[derive(Debug)]
struct Shared {
    pub settings: Settings,
    pub env: Env,
    pub scope: Scope,
    pub own: Own,
    pub isolation: Isolation,
    pub sandboxes: Sandboxes,
    pub keys: Keys,
    pub templates: Templates,
}

/// A server that can answer.
#[derive(Clone, Debug)]
pub struct Server {
    shared: Arc<Shared>,
}

impl Server {
    /// Looks at the machine and removes what dead servers left in the folder.
    pub async fn begin(mut settings: Settings, env: Env, scope: Scope) -> anyhow::Result<Self> {
        own::make_dir(&settings.folder).with_context(|| format!("making `{}`", settings.folder.display()))?;
        settings.folder = settings.folder.canonicalize()?;
        let all = settings.folder.join("own");
        let own = tokio::task::spawn_blocking(move || Own::claim(&all)).await?.context("a folder for the sandboxes")?;
        let helper = settings.program.clone().map_or(Helper::Own, Helper::Program);
        let search = Search::from_process(vec![settings.folder.clone()]);
        let setup = Setup { helper, state: own.isolation(), search };
        let mut isolation = Isolation::begin(setup, scope.clone()).await?;
        if let Some(tier) = settings.tier {
            isolation = isolation
                .held_to(tier)
                .map_err(|why| anyhow::anyhow!("{tier} cannot be had here: {} ({})", why.reason, why.fix))?;
        }
        let templates = Templates::open(&settings, &own, env.clone(), scope.clone()).context("the templates")?;
        let sandboxes = Sandboxes::begin(&settings, &env, &scope);
        let shared = Shared { settings, env, scope, own, isolation, sandboxes, keys: Keys::default(), templates };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// How it confines. `None`: not at all, and it refuses every sandbox.
    pub fn tier(&self) -> Option<Tier> {
        self.shared.isolation.tier()
    }

    /// Everything that it answers.
    pub fn router(&self) -> Router {
        Router::new()
            .merge(rest::routes(&self.shared))
            .merge(templates::routes())
            .merge(process::routes())
            .merge(files::routes())
            .fallback(rest::unknown)
            .method_not_allowed_fallback(rest::wrong_method)
            .layer(axum::middleware::from_fn(unread::taken))
            .with_state(self.shared.clone())
    }

    /// Answers on `listener` until [`Server::close`], or until the scope ends.
    pub async fn serve(&self, listener: tokio::net::TcpListener) -> std::io::Result<()> {
        let stopping = self.shared.scope.token().clone().cancelled_owned();
        // A stream's messages are small and come one by one: without this each waits for the answer to the one before.
        let listener = listener.tap_io(|connection| {
            if let Err(error) = connection.set_nodelay(true) {
                tracing::debug!(%error, "a connection answers late");
            }
        });
        axum::serve(listener, self.router()).with_graceful_shutdown(stopping).await
    }

    /// Ends every sandbox and waits until nothing of them is left.
    pub async fn close(&self) {
        let ended = async { tokio::join!(self.shared.sandboxes.close(), self.shared.templates.close()) };
        if tokio::time::timeout(LAST, ended).await.is_err() {
            tracing::warn!("some sandboxes do not end; their processes are killed with this one");
        }
        let shared = self.shared.clone();
        let released = tokio::task::spawn_blocking(move || shared.own.release()).await;
        if let Err(error) = released.unwrap_or_else(|lost| Err(std::io::Error::other(lost))) {
            tracing::warn!(%error, "what this server made stays until the next one starts");
        }
    }
}
