//! Making sandboxes.

use std::sync::Arc;

use axum::extract::{Json, State};
use axum::http::{HeaderMap, StatusCode};

use crate::base::hash::Hash;
use crate::clients::e2b::wire::Created;

use super::{OLD_SECONDS, Shared, USUAL_SECONDS, created};
use crate::sandboxd::error::ApiError;
use crate::sandboxd::life::Order;
use crate::sandboxd::wire_in::{Asked, Body, idempotency_key};

type Answer = Result<(StatusCode, Json<Created>), ApiError>;

/// `POST /v2/sandboxes`.
pub async fn create(State(shared): State<Arc<Shared>>, headers: HeaderMap, Body(asked): Body<Asked>) -> Answer {
    make(&shared, &headers, asked, USUAL_SECONDS).await
}

/// `POST /sandboxes`.
pub async fn old_create(State(shared): State<Arc<Shared>>, headers: HeaderMap, Body(asked): Body<Asked>) -> Answer {
    make(&shared, &headers, asked, OLD_SECONDS).await
}

async fn make(shared: &Arc<Shared>, headers: &HeaderMap, asked: Asked, usual: u32) -> Answer {
    let lifecycle = asked.check()?;
    let key = headers.get("idempotency-key").map(|key| key.to_str().unwrap_or_default());
    let key = key.map(idempotency_key).transpose()?;
    let seconds = asked.new.timeout.unwrap_or(usual);
    let body = Hash::of(format!("{asked:?}"));
    let order = Order { asked, lifecycle, seconds, keep: key.is_some() };
    let live = match key {
        Some(key) => shared.keys.make(shared, key, body, order).await?,
        None => shared.sandboxes.make(shared, order).await?,
    };
    Ok((StatusCode::CREATED, Json(created(&live))))
}
