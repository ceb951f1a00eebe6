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
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::post;
use serde_json::{Value, json};

use crate::clients::e2b::wire::{MOST_MESSAGE, ProcessEvent, StartResponse};

use super::Shared;
use super::connect::{self, Frames, Step};
use super::error::RpcError;
use super::live::{Inside, Live};

use ask::{Input, OnProcess, Resize, SendInput, SendSignal, StartProcess, StreamInput};
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
        .layer(DefaultBodyLimit::max(MOST_MESSAGE))
}

async fn start(State(shared): State<Arc<Shared>>, Inside(live): Inside, headers: HeaderMap, body: Body) -> Response {
    match started(&shared, &live, &headers, body).await {
        Ok(watch) => answer(watch, &headers),
        Err(error) => connect::refused(&error),
    }
}

async fn started(shared: &Arc<Shared>, live: &Arc<Live>, headers: &HeaderMap, body: Body) -> Result<Watch, RpcError> {
    connect::user(headers)?;
    let deadline = connect::timeout(headers)?;
    let asked: StartProcess = Frames::new(body).only().await?;
    live.processes.start(shared, live, asked, deadline).await
}

async fn watch(Inside(live): Inside, headers: HeaderMap, body: Body) -> Response {
    let watched = async {
        let deadline = connect::timeout(&headers)?;
        let asked: OnProcess = Frames::new(body).only().await?;
        Ok((live.processes.find(&asked.process)?.watch()?, deadline))
    };
    match watched.await {
        Ok((watch, deadline)) => {
            answer(Watch { until: deadline.map(|time| tokio::time::Instant::now() + time), ..watch }, &headers)
        }
        Err(error) => connect::refused(&error),
    }
}

fn answer(watch: Watch, headers: &HeaderMap) -> Response {
    let alive = Step::message(&StartResponse { event: ProcessEvent::Keepalive {} });
    connect::streamed(watch.steps, watch.until, connect::keepalive(headers), alive)
}

async fn list(Inside(live): Inside) -> Answer {
    Ok(Json(json!({"processes": live.processes.list()})))
}

async fn send_input(Inside(live): Inside, body: Bytes) -> Answer {
    let asked: SendInput = connect::message(&body)?;
    live.processes.find(&asked.process)?.write(asked.input).await?;
    Ok(Json(json!({})))
}

async fn stream_input(Inside(live): Inside, body: Body) -> Response {
    connect::single(streamed_input(&live, body).await)
}

async fn streamed_input(live: &Live, body: Body) -> Result<Value, RpcError> {
    let mut frames = Frames::new(body);
    let mut process = None;
    while let Some(message) = frames.next::<StreamInput>().await? {
        match (message, &process) {
            (StreamInput::Start(asked), _) => process = Some(live.processes.find(&asked.process)?),
            (StreamInput::Data(data), Some(process)) => process.write(data.input).await?,
            (StreamInput::Data(_), None) => {
                return Err(RpcError::new("invalid_argument", "input before the message that says for which process"));
            }
            (StreamInput::Keepalive {}, _) => {}
        }
    }
    Ok(json!({}))
}

async fn close_stdin(Inside(live): Inside, body: Bytes) -> Answer {
    let asked: OnProcess = connect::message(&body)?;
    live.processes.find(&asked.process)?.close_stdin().await?;
    Ok(Json(json!({})))
}

async fn send_signal(Inside(live): Inside, body: Bytes) -> Answer {
    let asked: SendSignal = connect::message(&body)?;
    live.processes.find(&asked.process)?.signal(asked.signal.number()?).await?;
    Ok(Json(json!({})))
}

async fn update(Inside(live): Inside, body: Bytes) -> Answer {
    let asked: Resize = connect::message(&body)?;
    let process = live.processes.find(&asked.process)?;
    if let Some(pty) = asked.pty {
        process.resize(pty).await?;
    }
    Ok(Json(json!({})))
}

/// How long a process may take that nobody set a deadline for: its sandbox ends before.
const NO_DEADLINE: Duration = Duration::from_secs(7 * 24 * 3600);

impl Input {
    fn bytes(self) -> Result<Vec<u8>, RpcError> {
        let (Self::Stdin(text) | Self::Pty(text)) = self;
        crate::base::base64::decoded(&text).ok_or_else(|| RpcError::new("invalid_argument", "the input is no base64"))
    }
}
