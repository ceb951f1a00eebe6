//! A server that belongs to another process: what `run`, `demo` and `serve` start when nothing else is configured.
//!
//! The parent writes one line of JSON to its standard input, reads one from its standard output, and keeps the pipe open: when that
//! closes, in whatever way the parent came to its end, the server kills and removes everything and ends.
//!
//! ```text
//! in   {"key": "e2b_…", "folder": "/…/work/sandboxes/sandboxd", "images": {"name": "/path"}, "tier": "bubblewrap"}
//! out  {"url": "http://127.0.0.1:40123", "pid": 4711}     ready
//! out  {"error": "…", "help": "…"}                        not to be had; it ends with exit code 1
//! ```
//!
//! `images` and `tier` may be left out. The key is handed over by the pipe alone, so that it stands in no list of processes. The
//! parent should start it with an empty environment and add, of its own, the variables that [`crate::isolation::Search::variables`]
//! names: where toolchains lie and how this machine reaches the network (of which commands are given what they need and never a
//! credential). It ignores SIGINT, since a Ctrl-C at a terminal goes to the parent as well, which then decides; SIGTERM ends it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio_util::sync::CancellationToken;

use crate::base::env::Env;
use crate::base::scope::Scope;
use crate::base::secret::Secret;
use crate::isolation::Tier;

use super::{Server, Settings};

/// What the parent says is not longer than this.
const MOST_WORDS: u64 = 1 << 20;
/// How long a parent may take to say it.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the parent says.
#[derive(Deserialize)]
struct Handover {
    key: String,
    folder: PathBuf,
    #[serde(default)]
    images: BTreeMap<String, PathBuf>,
    #[serde(default)]
    tier: Option<Tier>,
}

/// Serves the parent until that is gone or `stop` is cancelled. `false`: it could not begin, and the parent was told why.
///
/// Not cancel safe: it ends with the stop order.
pub async fn attached(env: Env, scope: Scope, stop: CancellationToken) -> anyhow::Result<bool> {
    let mut parent = BufReader::new(tokio::io::stdin());
    let begun = begin(&mut parent, env, &scope).await;
    let (server, listener) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            tell(&json!({"error": format!("{error:#}"), "help": "see the reason; `nightcrew doctor` tells more"}))
                .await?;
            return Ok(false);
        }
    };
    let url = format!("http://{}", listener.local_addr().context("reading the address that was bound")?);
    let serving = server.clone();
    drop(scope.spawn("http", async move {
        if let Err(error) = serving.serve(listener).await {
            tracing::error!(%error, "the HTTP listener ended");
        }
    }));
    // A parent that has gone meanwhile is noticed below.
    if let Err(error) = tell(&json!({"url": url, "pid": std::process::id()})).await {
        tracing::debug!(%error, "nobody waits for this server");
    }
    tokio::select! {
        () = gone(parent) => tracing::debug!("the parent has gone"),
        () = stop.cancelled() => tracing::debug!("stopped by a signal"),
    }
    server.close().await;
    Ok(true)
}

async fn begin(
    parent: &mut BufReader<tokio::io::Stdin>,
    env: Env,
    scope: &Scope,
) -> anyhow::Result<(Server, tokio::net::TcpListener)> {
    let mut line = Vec::new();
    let read = async { parent.take(MOST_WORDS).read_until(b'\n', &mut line).await };
    tokio::time::timeout(PATIENCE, read).await.context("nothing was handed over")?.context("reading the hand-over")?;
    // The line holds the key, so it is not quoted.
    let Handover { key, folder, images, tier } = serde_json::from_slice(&line)
        .map_err(|error| anyhow::anyhow!("what was handed over is not understood (column {})", error.column()))?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.context("listening on loopback")?;
    let settings = Settings { images, tier, ..Settings::new(folder, Secret::new(key)) };
    Ok((Server::begin(settings, env, scope.clone()).await?, listener))
}

/// One line to the parent.
async fn tell(words: &Value) -> std::io::Result<()> {
    let mut output = tokio::io::stdout();
    output.write_all(format!("{words}\n").as_bytes()).await?;
    output.flush().await
}

/// Resolves at end of file. What else the parent may write is nothing that this version knows.
async fn gone(mut parent: BufReader<tokio::io::Stdin>) {
    let mut ignored = [0; 256];
    while let Ok(1..) = parent.read(&mut ignored).await {}
}
