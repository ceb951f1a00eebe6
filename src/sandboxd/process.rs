//! `process.Process`: starting, watching and ending processes.
//!
//! A process belongs to its sandbox and not to the call that started it: a caller who goes away changes nothing. Its output goes to
//! whoever watches at the moment; nobody watching, it is dropped. Watchers who read slowly slow the process down, so that nothing is lost.

mod ask;
mod table;

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::post;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::clients::e2b::wire::{ProcessEvent, StartResponse};

use super::Shared;
use super::connect::{self, Frames, Step, Unary};
use super::error::RpcError;
use super::live::{Inside, Live};

use ask::{OnProcess, Resize, SendInput, SendSignal, StartProcess, StreamInput};
use table::Watch;

pub(super) use table::Processes;

type Answer = Result<Json<Value>, RpcError>;

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/process.Process/Start", post(start))
        .route("/process.Process/Connect", post(watch))
        .route("/process.Process/List", post(list))
        .route("/process.Process/SendInput", post(send_input))
        .route("/process.Process/StreamInput", post(stream_input))
        .route("/process.Process/CloseStdin", post(close_stdin))
        .route("/process.Process/SendSignal", post(send_signal))
        .route("/process.Process/Update", post(update))
}

async fn start(State(shared): State<Arc<Shared>>, Inside(live): Inside, headers: HeaderMap, body: Body) -> Response {
    match started(&shared, &live, &headers, body).await {
        Ok(watch) => answer(watch, None, &headers),
        Err(error) => connect::refused(&error),
    }
}

async fn started(shared: &Arc<Shared>, live: &Arc<Live>, headers: &HeaderMap, body: Body) -> Result<Watch, RpcError> {
    connect::admit_stream(headers)?;
    let deadline = connect::timeout(headers)?;
    let asked: StartProcess = Frames::new(body).only().await?;
    live.processes.start(shared, live, asked, deadline).await
}

async fn watch(Inside(live): Inside, headers: HeaderMap, body: Body) -> Response {
    let watched = async {
        connect::admit_stream(&headers)?;
        let deadline = connect::timeout(&headers)?;
        let asked: OnProcess = Frames::new(body).only().await?;
        Ok((live.processes.find(&asked.process)?.watch()?, deadline.map(|time| Instant::now() + time)))
    };
    match watched.await {
        Ok((watch, until)) => answer(watch, until, &headers),
        Err(error) => connect::refused(&error),
    }
}

/// `until`: when the caller stops watching.
fn answer(watch: Watch, until: Option<Instant>, headers: &HeaderMap) -> Response {
    let alive = Step::message(&StartResponse { event: ProcessEvent::Keepalive {} });
    connect::streamed(watch.steps(), until, connect::keepalive(headers), alive)
}

async fn list(Inside(live): Inside, _: Unary) -> Answer {
    Ok(Json(json!({"processes": live.processes.list()})))
}

async fn send_input(Inside(live): Inside, Unary(body): Unary) -> Answer {
    let asked: SendInput = connect::message(&body)?;
    live.processes.find(&asked.process)?.write(asked.input.decoded()?).await?;
    Ok(Json(json!({})))
}

async fn stream_input(Inside(live): Inside, headers: HeaderMap, body: Body) -> Response {
    connect::single(streamed_input(&live, &headers, body).await)
}

async fn streamed_input(live: &Live, headers: &HeaderMap, body: Body) -> Result<Value, RpcError> {
    connect::admit_stream(headers)?;
    let mut frames = Frames::new(body);
    let mut process = None;
    while let Some(StreamInput { start, data }) = frames.next().await? {
        if let Some(start) = start {
            process = Some(live.processes.find(&start.process)?);
        }
        if let Some(data) = data {
            let early = || RpcError::new("invalid_argument", "input before the message that says for which process");
            process.as_ref().ok_or_else(early)?.write(data.input.decoded()?).await?;
        }
    }
    Ok(json!({}))
}

async fn close_stdin(Inside(live): Inside, Unary(body): Unary) -> Answer {
    let asked: OnProcess = connect::message(&body)?;
    live.processes.find(&asked.process)?.close_stdin().await?;
    Ok(Json(json!({})))
}

async fn send_signal(Inside(live): Inside, Unary(body): Unary) -> Answer {
    let asked: SendSignal = connect::message(&body)?;
    live.processes.find(&asked.process)?.signal(asked.signal.number()?).await?;
    Ok(Json(json!({})))
}

async fn update(Inside(live): Inside, Unary(body): Unary) -> Answer {
    let asked: Resize = connect::message(&body)?;
    let process = live.processes.find(&asked.process)?;
    if let Some(pty) = asked.pty {
        process.resize(pty).await?;
    }
    Ok(Json(json!({})))
}

/// How long a process may take that nobody set a deadline for: its sandbox ends before.
const NO_DEADLINE: Duration = Duration::from_secs(7 * 24 * 3600);
