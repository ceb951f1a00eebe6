//! The daemon's listener: `/healthz` (the process and its scheduler live) and `/readyz` (work can be taken in).
//!
//! Knows nothing about what the daemon does; it reads a [`Health`]. Bound before any work begins, so that a taken port is
//! told at once. Loopback by default; nothing here changes anything, so nothing asks for a token.

pub mod hooks;
pub mod intake;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::base::BoxFuture;
use crate::base::clock::Timestamp;
use crate::base::env::Env;
use crate::base::scope::Scope;

/// Where it listens when nothing else is said.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:7717";

/// A scheduler that has not shown itself for longer than this is stuck.
pub const STALE: Duration = Duration::from_secs(120);

/// Whether the journal takes a write is asked with this much patience.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks the journal for proof that it can be written; the error is for people.
pub type Probe = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// What the two pages look at.
#[derive(Clone)]
pub struct Health {
    pub env: Env,
    /// The scheduler loop's last sign of life.
    pub heartbeat: watch::Receiver<Timestamp>,
    pub journal: Probe,
    /// Loaded pipelines and files that could not be loaded.
    pub pipelines: watch::Receiver<Loaded>,
    /// The daemon is stopping: it lives, and takes nothing in.
    pub stopping: Arc<std::sync::atomic::AtomicBool>,
}

/// What of the pipelines folder is in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    pub names: Vec<String>,
    pub broken: Vec<String>,
}

/// A bound address.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
}

impl Listener {
    /// Binds `address` (`host:port`).
    pub async fn bind(address: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
        Ok(Self { listener })
    }

    /// Where it really listens (`:0` takes a free port).
    pub fn address(&self) -> anyhow::Result<std::net::SocketAddr> {
        self.listener.local_addr().context("reading the address that was bound")
    }

    /// Answers in a task of `scope` until it is closed.
    pub fn serve(self, scope: &Scope, health: Health) {
        let stopping = scope.token().clone().cancelled_owned();
        drop(scope.spawn("http", async move {
            let server = axum::serve(self.listener, router(health)).with_graceful_shutdown(stopping);
            if let Err(error) = server.await {
                tracing::error!(%error, "the HTTP listener ended");
            }
        }));
    }
}

fn router(health: Health) -> axum::Router {
    axum::Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz)).with_state(health)
}

/// 200 while the scheduler has shown itself lately, else 503.
async fn healthz(State(health): State<Health>) -> Response {
    let last = *health.heartbeat.borrow();
    let age = health.env.now().duration_since(last);
    let lives = age.unsigned_abs() < STALE;
    let body = json!({"ok": lives, "scheduler_seen_at": last.to_string()});
    (status(lives), Json(body)).into_response()
}

/// 200 while a trigger would be taken in, else 503 with the reasons.
async fn readyz(State(health): State<Health>) -> Response {
    let mut reasons = Vec::new();
    match tokio::time::timeout(PATIENCE, (health.journal)()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => reasons.push(format!("the journal cannot be written: {error}")),
        Err(_) => reasons.push("the journal does not answer".to_owned()),
    }
    let loaded = health.pipelines.borrow().clone();
    if loaded.names.is_empty() {
        reasons.push("no pipeline is loaded".to_owned());
    }
    if health.stopping.load(std::sync::atomic::Ordering::Relaxed) {
        reasons.push("stopping".to_owned());
    }
    let ready = reasons.is_empty();
    let body = json!({"ready": ready, "reasons": reasons, "pipelines": loaded.names, "broken": loaded.broken});
    (status(ready), Json(body)).into_response()
}

fn status(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::ManualClock;
    use crate::base::ids::SeededIds;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn get(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_stuck_scheduler_is_not_healthy_and_a_dead_journal_is_not_ready() {
        let clock = ManualClock::new("2026-11-20T08:00:00Z".parse().unwrap());
        let env = Env { clock: Arc::new(clock.clone()), ids: Arc::new(SeededIds::new(1)) };
        let (_beat, heartbeat) = watch::channel(env.now());
        let loaded = Loaded { names: vec!["a".into()], broken: vec![] };
        let (pipelines_now, pipelines) = watch::channel(loaded);
        let (dead, journal_dead) = watch::channel(false);
        let journal: Probe = Arc::new(move || {
            let dead = *journal_dead.borrow();
            Box::pin(async move { if dead { Err("disk full".to_owned()) } else { Ok(()) } })
        });
        let stopping = Arc::default();
        let scope = Scope::new(tokio::runtime::Handle::current());
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.address().unwrap();
        listener.serve(&scope, Health { env, heartbeat, journal, pipelines, stopping });

        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        clock.advance(Duration::from_secs(121));
        dead.send(true).unwrap();
        pipelines_now.send(Loaded::default()).unwrap();
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 503"));
        let ready = get(address, "/readyz").await;
        assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("disk full") && ready.contains("no pipeline"));
        assert!(scope.close(Duration::from_secs(5)).await.is_empty());
    }
}
