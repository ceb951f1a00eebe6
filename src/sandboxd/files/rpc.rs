//! `filesystem.Filesystem`: Connect calls with one answer, in JSON.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::Shared;
use super::super::connect::{self, Unary};
use super::super::error::RpcError;
use super::super::live::{Inside, Live};
use super::{Told, watch};

type Answer = Result<Json<Value>, RpcError>;

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/filesystem.Filesystem/Stat", post(stat))
        .route("/filesystem.Filesystem/ListDir", post(list))
        .route("/filesystem.Filesystem/MakeDir", post(make))
        .route("/filesystem.Filesystem/Move", post(rename))
        .route("/filesystem.Filesystem/Remove", post(remove))
        .route("/filesystem.Filesystem/WatchDir", post(watch::stream))
        .route("/filesystem.Filesystem/CreateWatcher", post(watch::create))
        .route("/filesystem.Filesystem/GetWatcherEvents", post(watch::events))
        .route("/filesystem.Filesystem/RemoveWatcher", post(watch::remove))
}

/// What most of them are asked with.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Path {
    path: String,
    depth: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Move {
    source: String,
    destination: String,
}

pub(super) fn path(live: &Live, said: &str) -> Result<String, RpcError> {
    live.path(said).map_err(|message| RpcError::new("invalid_argument", message))
}

/// Within the client's time.
pub(super) async fn in_time<T>(
    headers: &HeaderMap,
    act: impl Future<Output = Result<T, RpcError>>,
) -> Result<T, RpcError> {
    match connect::timeout(headers)? {
        None => act.await,
        Some(time) => match tokio::time::timeout(time, act).await {
            Ok(answer) => answer,
            Err(_) => Err(RpcError::new("deadline_exceeded", "the caller's time is over")),
        },
    }
}

async fn stat(
    State(shared): State<Arc<Shared>>,
    Inside(live): Inside,
    headers: HeaderMap,
    Unary(body): Unary,
) -> Answer {
    let asked: Path = connect::message(&body)?;
    let path = path(&live, &asked.path)?;
    let found = in_time(&headers, async { Ok(live.files(&shared).stat(&path).await?) }).await?;
    Ok(Json(json!({ "entry": Told::from(found) })))
}

async fn list(
    State(shared): State<Arc<Shared>>,
    Inside(live): Inside,
    headers: HeaderMap,
    Unary(body): Unary,
) -> Answer {
    let asked: Path = connect::message(&body)?;
    let path = path(&live, &asked.path)?;
    let found = in_time(&headers, async { Ok(live.files(&shared).list(&path, asked.depth.max(1)).await?) }).await?;
    let entries: Vec<_> = found.into_iter().map(Told::from).collect();
    Ok(Json(json!({ "entries": entries })))
}

async fn make(
    State(shared): State<Arc<Shared>>,
    Inside(live): Inside,
    headers: HeaderMap,
    Unary(body): Unary,
) -> Answer {
    let asked: Path = connect::message(&body)?;
    let path = path(&live, &asked.path)?;
    let made = in_time(&headers, async { Ok(live.files(&shared).make(&path).await?) }).await?;
    Ok(Json(json!({ "entry": Told::from(made) })))
}

async fn rename(
    State(shared): State<Arc<Shared>>,
    Inside(live): Inside,
    headers: HeaderMap,
    Unary(body): Unary,
) -> Answer {
    let asked: Move = connect::message(&body)?;
    let (from, to) = (path(&live, &asked.source)?, path(&live, &asked.destination)?);
    let moved = in_time(&headers, async { Ok(live.files(&shared).rename(&from, &to).await?) }).await?;
    Ok(Json(json!({ "entry": Told::from(moved) })))
}

async fn remove(
    State(shared): State<Arc<Shared>>,
    Inside(live): Inside,
    headers: HeaderMap,
    Unary(body): Unary,
) -> Answer {
    let asked: Path = connect::message(&body)?;
    let path = path(&live, &asked.path)?;
    in_time(&headers, async { Ok(live.files(&shared).remove(&path).await?) }).await?;
    Ok(Json(json!({})))
}
