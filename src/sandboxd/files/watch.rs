//! Watching a directory: as a stream, or with events that a client comes for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::super::Shared;
use super::super::connect::{self, Frames, Step, Unary};
use super::super::error::RpcError;
use super::super::live::{Inside, Live};
use super::Told;
use super::rpc::{in_time, path};
use crate::isolation::{Change, Event, Watcher};

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
    Unary(body): Unary,
) -> Answer {
    let asked: Watch = connect::message(&body)?;
    let watcher = in_time(&headers, begin(&shared, &live, &asked)).await?;
    let id = format!("w{:020x}", shared.env.ids.random());
    let polled = Arc::new(Polled { watcher, lost: AtomicBool::new(false) });
    live.files.watchers.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), polled);
    Ok(Json(json!({ "watcherId": id })))
}

fn unknown(id: &str) -> RpcError {
    RpcError::new("not_found", format!("watcher with id {id} not found"))
}

pub(super) async fn events(Inside(live): Inside, headers: HeaderMap, Unary(body): Unary) -> Answer {
    let Named { watcher_id: id } = connect::message(&body)?;
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

pub(super) async fn remove(Inside(live): Inside, Unary(body): Unary) -> Answer {
    let Named { watcher_id: id } = connect::message(&body)?;
    match live.files.watchers.lock().unwrap_or_else(PoisonError::into_inner).remove(&id) {
        Some(_) => Ok(Json(json!({}))),
        None => Err(unknown(&id)),
    }
}

pub(super) async fn stream(
    State(shared): State<Arc<Shared>>,
    Inside(live): Inside,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let begun = async {
        connect::admit_stream(&headers)?;
        let until = connect::timeout(&headers)?.map(|time| Instant::now() + time);
        let asked = Frames::new(body).only().await?;
        Ok((in_time(&headers, begin(&shared, &live, &asked)).await?, until))
    };
    let (watcher, until) = match begun.await {
        Ok(begun) => begun,
        Err(error) => return connect::refused(&error),
    };
    let (steps, mut told) = mpsc::channel(16);
    drop(shared.scope.spawn(format!("watcher of {}", live.id), tell(watcher, steps)));
    let told = futures_util::stream::poll_fn(move |context| told.poll_recv(context));
    connect::streamed(told, until, connect::keepalive(&headers), Step::message(&json!({ "keepalive": {} })))
}

/// Until nobody listens, or the watcher ends.
async fn tell(watcher: Watcher, steps: mpsc::Sender<Step>) {
    let mut next = vec![Step::message(&json!({ "start": {} }))];
    loop {
        for step in next.drain(..) {
            let last = matches!(step, Step::End(_));
            if steps.send(step).await.is_err() || last {
                return;
            }
        }
        tokio::select! {
            () = watcher.stirred() => {}
            () = steps.closed() => return,
        }
        match watcher.events().await {
            Ok((events, more)) => {
                next.extend(events.into_iter().map(|event| Step::message(&json!({ "filesystem": told(event) }))));
                if more {
                    next.push(Step::End(Some(lost())));
                }
            }
            Err(error) => next.push(Step::End(Some(error.into()))),
        }
    }
}
