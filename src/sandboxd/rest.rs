//! E2B's control plane, as far as it is about sandboxes.

use std::sync::Arc;

use axum::extract::{Json, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, post};

use axum::Router;

use crate::clients::e2b::wire::{Created, ENVD_VERSION, NewSandbox};
use crate::clients::verify;

use super::Shared;
use super::error::ApiError;

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/v2/sandboxes", post(create)).route("/sandboxes/{id}", delete(kill))
}

/// Lets in whoever has the key.
pub(super) fn admit(shared: &Shared, headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get("x-api-key").map(|value| value.as_bytes()).unwrap_or_default();
    if verify::matches(&shared.settings.key, given) {
        return Ok(());
    }
    Err(ApiError::new(StatusCode::UNAUTHORIZED, "this server asks for its API key in the header X-API-Key"))
}

async fn create(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Json(asked): Json<NewSandbox>,
) -> Result<Response, ApiError> {
    admit(&shared, &headers)?;
    let id = format!("i{:016x}{:016x}", shared.env.ids.random(), shared.env.ids.random());
    let token = format!("{:016x}{:016x}", shared.env.ids.random(), shared.env.ids.random());
    let live = shared.sandboxes.make(&shared, asked, id, token).await?;
    let created = Created {
        template_id: live.template.id.clone(),
        sandbox_id: live.id.clone(),
        client_id: "nightcrew".into(),
        envd_version: ENVD_VERSION.into(),
        alias: live.template.alias.clone(),
        envd_access_token: Some(live.token_text.clone()),
        traffic_access_token: None,
        domain: None,
    };
    Ok((StatusCode::CREATED, Json(created)).into_response())
}

async fn kill(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    admit(&shared, &headers)?;
    match shared.sandboxes.end(&id).await {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(ApiError::new(StatusCode::NOT_FOUND, format!("sandbox \"{id}\" doesn't exist"))),
    }
}
