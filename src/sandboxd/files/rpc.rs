//! `filesystem.Filesystem`: Connect calls with one answer, in JSON.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::routing::post;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::super::Shared;
use super::super::error::RpcError;
use super::super::live::{Inside, Live};
use super::{Told, check_user, watch};

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

/// The message of a call, from a user that there is.
pub(super) fn message<T: DeserializeOwned + Default>(headers: &HeaderMap, body: &[u8]) -> Result<T, RpcError> {
    check_user(user(headers).as_deref()).map_err(|message| RpcError::new("unauthenticated", message))?;
    if body.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(body).map_err(|error| RpcError::new("invalid_argument", error.to_string()))
}

pub(super) fn path(live: &Live, said: &str) -> Result<String, RpcError> {
    live.path(said).map_err(|message| RpcError::new("invalid_argument", message))
}

/// The name before the colon of `Authorization: Basic …`.
fn user(headers: &HeaderMap) -> Option<String> {
    let encoded = headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
    let (mut bits, mut have, mut bytes) = (0_u32, 0, Vec::new());
    for letter in encoded.trim_end_matches('=').bytes() {
        let digit = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Some("?".into()),
        };
        bits = bits << 6 | u32::from(digit);
        have += 6;
        if have >= 8 {
            have -= 8;
            bytes.push((bits >> have & 0xff) as u8);
        }
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Some(text.split(':').next().unwrap_or_default().to_owned())
}

/// How long the client waits.
pub(super) fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let milliseconds: u64 = headers.get("connect-timeout-ms")?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_millis(milliseconds)).filter(|time| !time.is_zero())
}

/// Within the client's time.
pub(super) async fn in_time<T>(
    headers: &HeaderMap,
    act: impl Future<Output = Result<T, RpcError>>,
) -> Result<T, RpcError> {
    match deadline(headers) {
        None => act.await,
        Some(time) => match tokio::time::timeout(time, act).await {
            Ok(answer) => answer,
            Err(_) => Err(RpcError::new("deadline_exceeded", "context deadline exceeded")),
        },
    }
}

async fn stat(State(shared): State<Arc<Shared>>, Inside(live): Inside, headers: HeaderMap, body: Bytes) -> Answer {
    let asked: Path = message(&headers, &body)?;
    let path = path(&live, &asked.path)?;
    let found = in_time(&headers, async { Ok(live.files(&shared).stat(&path).await?) }).await?;
    Ok(Json(json!({ "entry": Told::from(found) })))
}

async fn list(State(shared): State<Arc<Shared>>, Inside(live): Inside, headers: HeaderMap, body: Bytes) -> Answer {
    let asked: Path = message(&headers, &body)?;
    let path = path(&live, &asked.path)?;
    let found = in_time(&headers, async { Ok(live.files(&shared).list(&path, asked.depth.max(1)).await?) }).await?;
    let entries: Vec<_> = found.into_iter().map(Told::from).collect();
    Ok(Json(json!({ "entries": entries })))
}

async fn make(State(shared): State<Arc<Shared>>, Inside(live): Inside, headers: HeaderMap, body: Bytes) -> Answer {
    let asked: Path = message(&headers, &body)?;
    let path = path(&live, &asked.path)?;
    let made = in_time(&headers, async { Ok(live.files(&shared).make(&path).await?) }).await?;
    Ok(Json(json!({ "entry": Told::from(made) })))
}

async fn rename(State(shared): State<Arc<Shared>>, Inside(live): Inside, headers: HeaderMap, body: Bytes) -> Answer {
    let asked: Move = message(&headers, &body)?;
    let (from, to) = (path(&live, &asked.source)?, path(&live, &asked.destination)?);
    let moved = in_time(&headers, async { Ok(live.files(&shared).rename(&from, &to).await?) }).await?;
    Ok(Json(json!({ "entry": Told::from(moved) })))
}

async fn remove(State(shared): State<Arc<Shared>>, Inside(live): Inside, headers: HeaderMap, body: Bytes) -> Answer {
    let asked: Path = message(&headers, &body)?;
    let path = path(&live, &asked.path)?;
    in_time(&headers, async { Ok(live.files(&shared).remove(&path).await?) }).await?;
    Ok(Json(json!({})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_read_from_the_basic_header() {
        let of = |value: &str| user(&HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]));
        assert_eq!(of("Basic dXNlcjo=").as_deref(), Some("user"));
        assert_eq!(of("Basic cm9vdDo=").as_deref(), Some("root"));
        assert_eq!(of("Basic Og==").as_deref(), Some(""));
        assert_eq!(of("Basic !").as_deref(), Some("?"));
        assert_eq!(of("Bearer x"), None);
    }
}
