//! Watching a directory: as a stream, or with events that a client comes for.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::Shared;
use super::super::error::RpcError;
use super::super::live::{Inside, Live};
use super::Told;
use super::rpc::{deadline, in_time, message, path};
use crate::clients::e2b::wire::{END_OF_STREAM, frame};
use crate::isolation::{Change, Event, Watcher};

/// How often a stream says that it is there, unless the client says otherwise.
const KEEPALIVE: Duration = Duration::from_secs(90);

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Watch {
    path: String,
    recursive: bool,
    include_entry: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Named {
    watcher_id: String,
}

/// A watcher whose events a client comes for.
#[derive(Debug)]
pub(super) struct Polled {
    watcher: Watcher,
    /// More has happened than was told: the next call says so.
    lost: AtomicBool,
}

fn lost() -> RpcError {
    RpcError::new("data_loss", "more has happened than a watcher keeps: list the directory, and ask again")
}

fn told(event: Event) -> Value {
    let kind = match event.change {
        Change::Create => "EVENT_TYPE_CREATE",
        Change::Write => "EVENT_TYPE_WRITE",
        Change::Remove => "EVENT_TYPE_REMOVE",
        Change::Rename => "EVENT_TYPE_RENAME",
        Change::Chmod => "EVENT_TYPE_CHMOD",
    };
    match event.entry {
        None => json!({ "name": event.name, "type": kind }),
        Some(entry) => json!({ "name": event.name, "type": kind, "entry": Told::from(entry) }),
    }
}

async fn begin(shared: &Shared, live: &Live, asked: &Watch) -> Result<Watcher, RpcError> {
    let path = path(live, &asked.path)?;
    Ok(live.files(shared).watch(&path, asked.recursive, asked.include_entry).await?)
}

type Answer = Result<Json<Value>, RpcError>;

pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    Inside(live): Inside,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let asked: Watch = message(&headers, &body)?;
    let watcher = in_time(&headers, begin(&shared, &live, &asked)).await?;
    let id = format!("w{:020x}", shared.env.ids.random());
    let polled = Arc::new(Polled { watcher, lost: AtomicBool::new(false) });
    live.files.watchers.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), polled);
    Ok(Json(json!({ "watcherId": id })))
}

fn unknown(id: &str) -> RpcError {
    RpcError::new("not_found", format!("watcher with id {id} not found"))
}

pub(super) async fn events(Inside(live): Inside, headers: HeaderMap, body: Bytes) -> Answer {
    let Named { watcher_id: id } = message(&headers, &body)?;
    let polled = live.files.watchers.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
    let polled = polled.ok_or_else(|| unknown(&id))?;
    if polled.lost.swap(false, Ordering::Relaxed) {
        return Err(lost());
    }
    let (events, more) = in_time(&headers, async { Ok(polled.watcher.events().await?) }).await?;
    polled.lost.fetch_or(more, Ordering::Relaxed);
    let events: Vec<_> = events.into_iter().map(told).collect();
    Ok(Json(json!({ "events": events })))
}

pub(super) async fn remove(Inside(live): Inside, headers: HeaderMap, body: Bytes) -> Answer {
    let Named { watcher_id: id } = message(&headers, &body)?;
    match live.files.watchers.lock().unwrap_or_else(PoisonError::into_inner).remove(&id) {
        Some(_) => Ok(Json(json!({}))),
        None => Err(unknown(&id)),
    }
}

pub(super) async fn stream(
    State(shared): State<Arc<Shared>>,
    Inside(live): Inside,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let begun = async {
        let asked: Watch = message(&headers, enveloped(&body)?)?;
        in_time(&headers, begin(&shared, &live, &asked)).await
    };
    let keepalive = headers.get("keepalive-ping-interval").and_then(|value| value.to_str().ok()?.parse().ok());
    let state = match begun.await {
        Ok(watcher) => Stream {
            watcher: Some(watcher),
            frames: VecDeque::from([plain(&json!({ "start": {} }))]),
            until: deadline(&headers).map(|time| Instant::now() + time),
            keepalive: keepalive.filter(|seconds| *seconds > 0).map_or(KEEPALIVE, Duration::from_secs),
        },
        Err(error) => {
            Stream { watcher: None, frames: VecDeque::from([last(&error)]), until: None, keepalive: KEEPALIVE }
        }
    };
    let next = |mut state: Stream| async move { Some((Ok::<_, Infallible>(state.next().await?), state)) };
    let body = Body::from_stream(futures_util::stream::unfold(state, next));
    ([(header::CONTENT_TYPE, "application/connect+json")], body).into_response()
}

/// The one message of a stream's request.
fn enveloped(body: &[u8]) -> Result<&[u8], RpcError> {
    let wrong = |what: &str| RpcError::new("invalid_argument", format!("protocol error: {what}"));
    let Some((head, message)) = body.split_first_chunk::<5>() else { return Err(wrong("no message")) };
    let [flag, a, b, c, d] = *head;
    if flag != 0 {
        return Err(wrong("the message is compressed or has unknown flags"));
    }
    message.get(..u32::from_be_bytes([a, b, c, d]) as usize).ok_or_else(|| wrong("the message is incomplete"))
}

fn plain(message: &Value) -> Bytes {
    frame(0, message.to_string().as_bytes()).into()
}

fn last(error: &RpcError) -> Bytes {
    frame(END_OF_STREAM, json!({ "error": error.wire() }).to_string().as_bytes()).into()
}

struct Stream {
    /// `None`: what is in `frames` is all.
    watcher: Option<Watcher>,
    frames: VecDeque<Bytes>,
    until: Option<Instant>,
    keepalive: Duration,
}

impl Stream {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Some(frame);
            }
            let watcher = self.watcher.as_ref()?;
            let quiet = Instant::now() + self.keepalive;
            let wake = self.until.map_or(quiet, |until| until.min(quiet));
            let ended = if tokio::time::timeout_at(wake, watcher.stirred()).await.is_ok() {
                match watcher.events().await {
                    Ok((events, more)) => {
                        let frames = events.into_iter().map(|event| plain(&json!({ "filesystem": told(event) })));
                        self.frames.extend(frames);
                        more.then(lost)
                    }
                    Err(error) => Some(error.into()),
                }
            } else if self.until.is_some_and(|until| Instant::now() >= until) {
                Some(RpcError::new("deadline_exceeded", "context deadline exceeded"))
            } else {
                self.frames.push_back(plain(&json!({ "keepalive": {} })));
                None
            };
            if let Some(error) = ended {
                self.frames.push_back(last(&error));
                self.watcher = None;
            }
        }
    }
}
