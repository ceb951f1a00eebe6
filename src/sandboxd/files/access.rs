//! Who may read or write by `/files`: whoever has the sandbox's token, or a URL that somebody signed who has it.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::Deserialize;

use super::super::Shared;
use super::super::error::ApiError;
use super::super::live::{Live, gone, named};
use super::check_user;
use crate::clients::verify::{self, FileAccess};

/// What stands in the URL.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Query {
    pub path: Option<String>,
    username: Option<String>,
    signature: Option<String>,
    signature_expiration: Option<i64>,
}

fn unauthorized(message: &str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, message)
}

/// The sandbox whose files these are, for somebody who may `operation` (`read`, `write`) them.
///
/// A signed URL says nothing of a sandbox where all of them have one address: it is the one whose token made the signature.
pub(super) fn admit(
    shared: &Shared,
    parts: &Parts,
    query: &Query,
    operation: &'static str,
) -> Result<Arc<Live>, ApiError> {
    let named = match named(parts) {
        Some(id) => Some(shared.sandboxes.get(id).ok_or_else(|| gone(id))?),
        None => None,
    };
    let token = parts.headers.get("x-access-token").map(|value| value.as_bytes()).unwrap_or_default();
    let live = if !token.is_empty() {
        let live = named.ok_or_else(|| gone(""))?;
        if !verify::matches(&live.token, token) {
            return Err(unauthorized("access token present in header but does not match"));
        }
        live
    } else {
        let given = query.signature.as_deref().ok_or_else(|| unauthorized("missing signature query parameter"))?;
        let access = FileAccess {
            path: query.path.as_deref().unwrap_or_default(),
            operation,
            user: query.username.as_deref().unwrap_or_default(),
            expires: query.signature_expiration,
        };
        let candidates = named.map_or_else(|| shared.sandboxes.all(), |live| vec![live]);
        let mut signed = candidates.into_iter().filter(|live| verify::signed(&live.token, access, given.as_bytes()));
        let live = signed.next().ok_or_else(|| unauthorized("invalid signature"))?;
        if access.expires.is_some_and(|at| at < shared.env.now().as_second()) {
            return Err(unauthorized("signature is already expired"));
        }
        live
    };
    check_user(query.username.as_deref()).map_err(|message| unauthorized(&message))?;
    Ok(live)
}
