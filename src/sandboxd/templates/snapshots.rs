//! E2B's calls that make templates from what a sandbox has in its home: snapshots and forks.
//!
//! Files alone: processes and what is in their memory stay where they are, so a fork begins as any sandbox from a template does.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Query, State as Given};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::clients::e2b::wire::{ApiError as Told, NewSandbox};
use crate::sandboxd::Shared;
use crate::sandboxd::error::ApiError;
use crate::sandboxd::life::Order;
use crate::sandboxd::live::Live;
use crate::sandboxd::rest::{admit, created};

use super::api::parse;
use super::broken;
use super::catalogue::{DEFAULT_TAG, Record};

/// Of one sandbox in one call.
const MOST_FORKS: u32 = 20;
const FORK_SECONDS: u32 = 15;

type Answer = Result<Response, ApiError>;

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/sandboxes/{id}/snapshots", post(snapshot))
        .route("/sandboxes/{id}/fork", post(fork))
        .route("/snapshots", get(list))
}

fn live(shared: &Shared, id: &str) -> Result<Arc<Live>, ApiError> {
    shared.sandboxes.get(id).ok_or_else(|| ApiError::no_sandbox(id))
}

fn told(id: &str, record: &Record) -> Value {
    let names: Vec<_> = record.name.iter().map(|name| format!("{name}:{DEFAULT_TAG}")).collect();
    let id = record.name.as_deref().unwrap_or(id);
    json!({"snapshotID": format!("{id}:{DEFAULT_TAG}"), "names": names})
}

#[derive(Debug, Default, Deserialize)]
struct Wanted {
    name: Option<String>,
}

async fn snapshot(
    Given(shared): Given<Arc<Shared>>,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Bytes,
) -> Answer {
    admit(&shared, &headers)?;
    let wanted: Wanted = if body.is_empty() { Wanted::default() } else { parse(&body)? };
    let live = live(&shared, &id)?;
    let name = wanted.name.filter(|name| !name.is_empty());
    let made = shared.templates.snapshot(&live, name.as_deref()).await?;
    let index = shared.templates.catalogue.read().map_err(broken)?;
    let record = index.templates.get(&made.id).ok_or_else(|| ApiError::internal("the snapshot was deleted"))?;
    Ok((StatusCode::CREATED, Json(told(&made.id, record))).into_response())
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Which {
    #[serde(rename = "sandboxID")]
    sandbox_id: Option<String>,
    name: Option<String>,
}

async fn list(Given(shared): Given<Arc<Shared>>, headers: HeaderMap, Query(which): Query<Which>) -> Answer {
    admit(&shared, &headers)?;
    let index = shared.templates.catalogue.read().map_err(broken)?;
    let named = which.name.as_deref().map(|name| index.template(name).map(|(id, _)| id.clone()));
    let found = index.templates.iter().filter(|(id, record)| {
        record.source.is_some()
            && (which.sandbox_id.is_none() || record.source == which.sandbox_id)
            && named.as_ref().is_none_or(|named| named.as_ref() == Some(id))
    });
    Ok(Json(found.map(|(id, record)| told(id, record)).collect::<Vec<_>>()).into_response())
}

#[derive(Debug, Default, Deserialize)]
struct Forks {
    timeout: Option<u32>,
    count: Option<u32>,
}

async fn fork(Given(shared): Given<Arc<Shared>>, headers: HeaderMap, Path(id): Path<String>, body: Bytes) -> Answer {
    admit(&shared, &headers)?;
    let wanted: Forks = if body.is_empty() { Forks::default() } else { parse(&body)? };
    let (count, seconds) = (wanted.count.unwrap_or(1), wanted.timeout.unwrap_or(FORK_SECONDS));
    if !(1..=MOST_FORKS).contains(&count) {
        return Err(ApiError::refused(format!("count is from 1 to {MOST_FORKS}")));
    }
    let live = live(&shared, &id)?;
    let template = shared.templates.snapshot(&live, None).await?;
    let mut forks = Vec::new();
    for _ in 0..count {
        let new = NewSandbox { template_id: template.id.clone(), timeout: Some(seconds), ..live.asked.clone() };
        let made = make(&shared, new, &live, seconds).await;
        forks.push(match made {
            Ok(fork) => json!({"sandbox": created(&fork)}),
            Err(error) => {
                json!({"error": Told { code: error.status.as_u16(), message: error.message, error_code: None }})
            }
        });
    }
    // They have copies of it.
    shared.templates.remove(&template.id).await?;
    Ok((StatusCode::CREATED, Json(forks)).into_response())
}

async fn make(shared: &Arc<Shared>, new: NewSandbox, of: &Live, seconds: u32) -> Result<Arc<Live>, ApiError> {
    let asked = serde_json::to_value(&new).and_then(serde_json::from_value);
    let asked: crate::sandboxd::wire_in::Asked = asked.map_err(|error| ApiError::internal(error.to_string()))?;
    asked.check()?;
    let order = Order { asked, lifecycle: of.lifecycle, seconds, keep: false };
    shared.sandboxes.make(shared, order).await
}
