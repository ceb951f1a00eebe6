//! Our own server, started when the first sandbox is needed and ended with this process, however that ends.
//!
//! It is this program again, with a key of its own for each start, handed over on its standard input: that pipe stays open for as long
//! as the server is wanted, and the server ends when it closes, which the kernel does for a process that was killed.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::base::env::{Env, process_variable};
use crate::base::scope::Scope;
use crate::base::secret::Secret;
use crate::clients::e2b::wire::Report;
use crate::clients::e2b::{Cloud, Endpoint, Key};
use crate::isolation::Search;
use crate::ports::sandbox::{SandboxError, SandboxSetup};

use super::needs::{failed, of_client};

/// How long a start may take on a loaded machine: it tries what can confine here.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take to end everything.
const GRACE: Duration = Duration::from_secs(30);

/// Starts it, and starts it anew when it has died.
#[derive(Debug)]
pub(super) struct Starter {
    env: Env,
    scope: Scope,
    program: Option<PathBuf>,
    /// What the server begins with, but for the key.
    order: serde_json::Value,
    running: tokio::sync::Mutex<Option<Arc<Running>>>,
}

/// A server that was started. When the last holder lets go it ends.
#[derive(Debug)]
pub(super) struct Running {
    pub cloud: Cloud,
    pub report: Option<Arc<Report>>,
    /// It has ended.
    gone: CancellationToken,
    _ends_when_dropped: DropGuard,
}

impl Running {
    pub(super) fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }
}

/// What it says when it can be used, or cannot.
#[derive(Deserialize)]
#[serde(untagged)]
enum Word {
    Ready { url: String, pid: u32 },
    Broken { error: String, help: Option<String> },
}

impl Starter {
    /// `folder`: what the server keeps. Several may share one.
    pub(super) fn new(setup: &SandboxSetup, folder: PathBuf, tier: Option<String>) -> Self {
        let order = json!({"folder": folder, "images": setup.places.sandboxd.images, "tier": tier});
        Self {
            env: setup.env.clone(),
            scope: setup.scope.clone(),
            program: setup.program.clone(),
            order,
            running: tokio::sync::Mutex::default(),
        }
    }

    /// The server, started if it is not there. Cancel safe.
    ///
    /// Errors: `Missing` where it cannot be started here.
    pub(super) async fn running(&self) -> Result<Arc<Running>, SandboxError> {
        let mut slot = self.running.lock().await;
        if let Some(running) = slot.as_ref().filter(|running| !running.is_gone()) {
            return Ok(running.clone());
        }
        if slot.take().is_some() {
            tracing::warn!("the sandbox server has ended; it is started anew");
        }
        let started = Arc::new(self.start().await?);
        *slot = Some(started.clone());
        Ok(started)
    }

    async fn start(&self) -> Result<Running, SandboxError> {
        let program = self.program.clone().unwrap_or_else(|| "/proc/self/exe".into());
        let cannot = |error: std::io::Error| failed(format!("the sandbox server cannot be started: {error}"));
        let mut command = Command::new(&program);
        command.args(["sandboxd", "--attached"]);
        command.env_clear();
        command.envs(Search::variables().chain(OWN).filter_map(|name| Some((name, process_variable(name)?))));
        // What a person types at the terminal is meant for this process, which ends the server when it has ended its runs.
        command.process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        let mut child = command.spawn().map_err(cannot)?;
        let key = format!("e2b_{:032x}{:032x}", self.env.ids.random(), self.env.ids.random());
        let mut order = self.order.clone();
        order["key"] = json!(key);
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(failed("the sandbox server has no pipes".into()));
        };
        let said = Arc::new(std::sync::Mutex::new(String::new()));
        let listening = said.clone();
        drop(self.scope.spawn("what the sandbox server says", async move {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                tracing::debug!(target: "nightcrew::sandboxd", "{line}");
                let mut last = listening.lock().unwrap_or_else(PoisonError::into_inner);
                *last = line;
            }
        }));
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        let talk = async {
            stdin.write_all(format!("{order}\n").as_bytes()).await?;
            stdin.flush().await?;
            stdout.read_line(&mut line).await
        };
        match tokio::time::timeout(PATIENCE, talk).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(cannot(error)),
            Err(_) => return Err(failed(format!("the sandbox server was not ready within {} s", PATIENCE.as_secs()))),
        }
        let (url, pid) = match serde_json::from_str(&line) {
            Ok(Word::Ready { url, pid }) => (url, pid),
            Ok(Word::Broken { error, help }) => {
                let help = help.unwrap_or_else(|| "see nightcrew doctor".into());
                return Err(SandboxError::Missing { message: error, help });
            }
            Err(_) => {
                let last = said.lock().unwrap_or_else(PoisonError::into_inner).clone();
                return Err(failed(format!(
                    "the sandbox server did not start: {}",
                    if last.is_empty() { &line } else { &last }
                )));
            }
        };
        tracing::debug!(pid, "the sandbox server is started");
        let (gone, wanted) = (CancellationToken::new(), self.scope.token().child_token());
        let endpoint = Endpoint { api_url: url.clone(), sandbox_url: Some(url), key: Key::Given(Secret::new(key)) };
        let cloud = Cloud::new(endpoint, self.env.clone(), self.scope.clone()).map_err(of_client)?;
        drop(self.scope.spawn("the sandbox server", watch(child, stdin, wanted.clone(), gone.clone())));
        let report = cloud.report().await.map_err(of_client)?.map(Arc::new);
        Ok(Running { cloud, report, gone, _ends_when_dropped: wanted.drop_guard() })
    }
}

/// What it gets of this process's variables beside those by which toolchains and registries are found.
const OWN: [&str; 4] = ["TMPDIR", "TZ", "LANG", "RUST_LOG"];

/// Holds its input open until it is not wanted any more, and waits for its end.
async fn watch(mut child: Child, stdin: ChildStdin, wanted: CancellationToken, gone: CancellationToken) {
    tokio::select! {
        ended = child.wait() => match ended {
            Ok(status) => tracing::warn!(%status, "the sandbox server ended by itself"),
            Err(error) => tracing::warn!(%error, "the sandbox server was lost"),
        },
        () = wanted.cancelled() => {
            drop(stdin);
            if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
                tracing::warn!("the sandbox server did not end in time and is killed");
                if let Err(error) = child.kill().await {
                    tracing::warn!(%error, "the sandbox server could not be killed");
                }
            }
        }
    }
    gone.cancel();
}
