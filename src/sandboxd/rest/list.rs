//! What sandboxes there are.

use std::sync::Arc;

use axum::extract::{Json, Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue};
use serde::Serialize;

use crate::clients::e2b::wire::{self, ENVD_VERSION, Info};

use super::{CLIENT, Shared};
use crate::sandboxd::error::ApiError;
use crate::sandboxd::live::Live;
use crate::sandboxd::wire_in::{Listing, Query};

/// `GET /v2/sandboxes`.
pub async fn list(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<(HeaderMap, Json<Vec<Info>>), ApiError> {
    let listing = Listing::new(&Query::new(query.as_deref()))?;
    let (page, next, running) = listing.page(shared.sandboxes.all().iter().map(|live| listed(live)).collect());
    let mut headers = HeaderMap::new();
    if let Some(next) = next.and_then(|next| HeaderValue::try_from(next).ok()) {
        headers.insert("x-next-token", next);
    }
    if let Some(running) = running {
        headers.insert("x-total-running", HeaderValue::from(running));
    }
    Ok((headers, Json(page)))
}

/// `GET /sandboxes`.
pub async fn old_list(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<Json<Vec<Info>>, ApiError> {
    let listing = Listing::old(&Query::new(query.as_deref()))?;
    Ok(Json(listing.page(shared.sandboxes.all().iter().map(|live| listed(live)).collect()).0))
}

/// What `GET /sandboxes/{id}` tells beyond [`Info`].
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Detail {
    #[serde(flatten)]
    info: Info,
    lifecycle: Lifecycle,
    #[serde(skip_serializing_if = "Option::is_none")]
    pause_mode: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Lifecycle {
    auto_resume: bool,
    on_timeout: &'static str,
}

/// `GET /sandboxes/{id}`.
pub async fn info(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Result<Json<Detail>, ApiError> {
    let live = shared.sandboxes.get(&id).ok_or_else(|| ApiError::no_sandbox(&id))?;
    let vital = live.vital().clone();
    let info = Info {
        envd_access_token: Some(live.token_text.clone()),
        allow_internet_access: live.asked.allow_internet_access,
        network: live.asked.network.clone(),
        ..listed(&live)
    };
    let lifecycle = Lifecycle {
        auto_resume: live.lifecycle.resumes,
        on_timeout: if live.lifecycle.pauses { "pause" } else { "kill" },
    };
    let mode = if vital.asleep { "filesystem" } else { "full" };
    let pause_mode = (vital.state == wire::State::Paused).then_some(mode);
    Ok(Json(Detail { info, lifecycle, pause_mode }))
}

/// Its figures are what its limits really are: as many processors as this machine has, since there is no limit on them.
fn listed(live: &Live) -> Info {
    let vital = live.vital().clone();
    Info {
        template_id: live.template.id.clone(),
        sandbox_id: live.id.clone(),
        client_id: CLIENT.into(),
        alias: live.template.alias.clone(),
        started_at: live.started_at,
        end_at: vital.ends_at,
        state: vital.state,
        cpu_count: super::insight::processors(),
        memory_mb: live.spec.limits.memory_bytes >> 20,
        disk_size_mb: live.spec.limits.disk_bytes >> 20,
        envd_version: ENVD_VERSION.into(),
        metadata: live.asked.metadata.clone(),
        envd_access_token: None,
        allow_internet_access: None,
        network: None,
        domain: None,
    }
}
