//! E2B's control plane, as far as it is about sandboxes: [`create`], [`list`], [`state`], [`insight`].
//!
//! Every call needs the API key, before anything else of it is looked at, but for `/health`.

mod create;
mod insight;
mod list;
mod state;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post, put};

use crate::clients::e2b::wire::{Created, ENVD_VERSION};
use crate::clients::verify;

use super::Shared;
use super::error::ApiError;
use super::live::Live;

/// What a sandbox lives that says nothing, and what the older calls of the control plane meant by that, in seconds.
pub(super) const USUAL_SECONDS: u32 = 300;
const OLD_SECONDS: u32 = 15;

pub(super) fn routes(shared: &Arc<Shared>) -> Router<Arc<Shared>> {
    Router::new()
        .route("/v2/sandboxes", get(list::list).post(create::create))
        .route("/sandboxes", get(list::old_list).post(create::old_create))
        .route("/sandboxes/{id}", get(list::info).delete(state::kill))
        .route("/v2/sandboxes/{id}/connect", post(state::connect))
        .route("/sandboxes/{id}/connect", post(state::old_connect))
        .route("/sandboxes/{id}/resume", post(state::resume))
        .route("/sandboxes/{id}/pause", post(state::pause))
        .route("/sandboxes/{id}/timeout", post(state::timeout))
        .route("/sandboxes/{id}/refreshes", post(state::refresh))
        .route("/sandboxes/{id}/network", put(state::network))
        .route("/sandboxes/metrics", get(insight::metrics_of_many))
        .route("/sandboxes/{id}/metrics", get(insight::metrics))
        .route("/v2/sandboxes/{id}/logs", get(insight::logs))
        .route("/sandboxes/{id}/logs", get(insight::old_logs))
        .route("/nightcrew/report", get(insight::report))
        .route_layer(from_fn_with_state(shared.clone(), admitted))
        .route("/health", get(insight::health))
}

/// Lets in whoever has the key.
pub(super) fn admit(shared: &Shared, headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get("x-api-key").map(|value| value.as_bytes()).unwrap_or_default();
    if verify::matches(&shared.settings.key, given) {
        return Ok(());
    }
    Err(ApiError::new(StatusCode::UNAUTHORIZED, "this server asks for its API key in the header X-API-Key"))
}

async fn admitted(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    match admit(&shared, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

/// What nobody answers.
pub(super) async fn unknown(request: Request) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, format!("there is no {} {}", request.method(), request.uri().path()))
}

pub(super) async fn wrong_method(request: Request) -> ApiError {
    let message = format!("{} cannot be called by {}", request.uri().path(), request.method());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
}

/// A sandbox as whoever may use it is told.
pub(super) fn created(live: &Live) -> Created {
    Created {
        template_id: live.template.id.clone(),
        sandbox_id: live.id.clone(),
        client_id: CLIENT.into(),
        envd_version: ENVD_VERSION.into(),
        alias: live.template.alias.clone(),
        envd_access_token: Some(live.token_text.clone()),
        traffic_access_token: None,
        domain: None,
    }
}

/// Once the node that a sandbox ran on; clients still want one.
const CLIENT: &str = "nightcrew";
