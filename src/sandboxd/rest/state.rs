//! What changes in the life of a sandbox: its time, whether it runs, its end.

use std::sync::Arc;

use axum::extract::{Json, Path, State};
use axum::http::StatusCode;

use crate::clients::e2b::wire::Created;

use super::{OLD_SECONDS, Shared, USUAL_SECONDS, created};
use crate::sandboxd::error::ApiError;
use crate::sandboxd::wire_in::{Body, Connect, MOST_SECONDS, NewNetwork, Pause, Refresh, Timeout, seconds_of};

/// The most that `refreshes` gives at once, in seconds.
const MOST_REFRESHED: u32 = 3600;

type Nothing = Result<StatusCode, ApiError>;
type Answer = Result<(StatusCode, Json<Created>), ApiError>;

/// `DELETE /sandboxes/{id}`.
pub async fn kill(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Nothing {
    match shared.sandboxes.end(&id).await {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(ApiError::no_sandbox(&id)),
    }
}

/// `POST /v2/sandboxes/{id}/connect`: 201 if it was paused. Its time only gets longer.
pub async fn connect(State(shared): State<Arc<Shared>>, Path(id): Path<String>, Body(asked): Body<Connect>) -> Answer {
    wake(&shared, &id, &asked, USUAL_SECONDS).await
}

/// `POST /sandboxes/{id}/connect`, where the time must be said.
pub async fn old_connect(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    Body(asked): Body<Connect>,
) -> Answer {
    match asked.timeout {
        Some(_) => wake(&shared, &id, &asked, OLD_SECONDS).await,
        None => Err(ApiError::refused("the body: missing field `timeout`")),
    }
}

async fn wake(shared: &Arc<Shared>, id: &str, asked: &Connect, usual: u32) -> Answer {
    let seconds = asked.timeout.unwrap_or(usual);
    if seconds > MOST_SECONDS {
        seconds_of(seconds)?;
    }
    let (live, resumed) = shared.sandboxes.resume(shared, id, seconds, asked.memory == Some(false)).await?;
    Ok((if resumed { StatusCode::CREATED } else { StatusCode::OK }, Json(created(&live))))
}

/// `POST /sandboxes/{id}/resume`: 409 if it runs.
pub async fn resume(State(shared): State<Arc<Shared>>, Path(id): Path<String>, Body(asked): Body<Connect>) -> Answer {
    match wake(&shared, &id, &asked, OLD_SECONDS).await? {
        (StatusCode::CREATED, answer) => Ok((StatusCode::CREATED, answer)),
        _ => Err(ApiError::conflict(format!("sandbox \"{id}\" is running already"))),
    }
}

/// `POST /sandboxes/{id}/pause`.
pub async fn pause(State(shared): State<Arc<Shared>>, Path(id): Path<String>, Body(asked): Body<Pause>) -> Nothing {
    shared.sandboxes.pause(&id, asked.memory.unwrap_or(true)).await.map(|()| StatusCode::NO_CONTENT)
}

/// `POST /sandboxes/{id}/timeout`: from now, also if that is sooner than before. None at all ends it.
pub async fn timeout(State(shared): State<Arc<Shared>>, Path(id): Path<String>, Body(asked): Body<Timeout>) -> Nothing {
    if asked.timeout > MOST_SECONDS {
        seconds_of(asked.timeout)?;
    }
    shared.sandboxes.lease(&id, asked.timeout, false).map(|()| StatusCode::NO_CONTENT)
}

/// `POST /sandboxes/{id}/refreshes`.
pub async fn refresh(State(shared): State<Arc<Shared>>, Path(id): Path<String>, Body(asked): Body<Refresh>) -> Nothing {
    let seconds = asked.duration.unwrap_or(OLD_SECONDS);
    if seconds > MOST_REFRESHED {
        return Err(ApiError::refused(format!("duration: at most {MOST_REFRESHED} seconds")));
    }
    shared.sandboxes.lease(&id, seconds, true).map(|()| StatusCode::NO_CONTENT)
}

/// `PUT /sandboxes/{id}/network`. A room's network is settled when it is made, so only what it has can be put.
pub async fn network(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    Body(asked): Body<NewNetwork>,
) -> Nothing {
    let mut hosts = asked.check()?;
    let live = shared.sandboxes.get(&id).ok_or_else(|| ApiError::no_sandbox(&id))?;
    let mut own = live.spec.egress.clone();
    hosts.sort();
    own.sort();
    match hosts == own {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(ApiError::conflict(
            "on this sandbox server the network of a sandbox is settled when it is made; make another one",
        )),
    }
}
