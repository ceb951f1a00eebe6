//! Errors as E2B's clients expect them: the control plane's, and those of Connect calls.

use std::error::Error;
use std::io;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::clients::e2b::wire;
use crate::isolation;

/// An error of the control plane or of `/files`: `{"code", "message"}`.
#[derive(Clone, Debug)]
pub(super) struct ApiError {
    pub status: StatusCode,
    pub message: String,
    /// For programs: one of the vendor's codes, or one of ours.
    pub code: Option<&'static str>,
    /// Seconds after which it is worth another try.
    pub after: Option<u32>,
}

impl ApiError {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), code: None, after: None }
    }

    #[must_use]
    pub fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// Worth another try after so many seconds.
    #[must_use]
    pub fn after(mut self, seconds: u32) -> Self {
        self.after = Some(seconds);
        self
    }

    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    /// There is no such sandbox, or not any more.
    pub fn no_sandbox(id: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("sandbox \"{id}\" doesn't exist or you don't have access to it"))
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message).code("internal_server_error")
    }

    /// What went wrong with files of the server's own.
    pub fn io(what: &str, error: &io::Error) -> Self {
        match full(error) {
            true => Self::disk_full(),
            false => Self::internal(format!("{what}: {error}")),
        }
    }

    fn disk_full() -> Self {
        Self::new(StatusCode::INSUFFICIENT_STORAGE, "the disk of the sandbox server is full").code("disk_full")
    }

    /// Why there is no room for a sandbox.
    pub fn room(error: &isolation::Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            if inner.downcast_ref::<io::Error>().is_some_and(full) {
                return Self::disk_full();
            }
            message = format!("{message}: {inner}");
            cause = inner.source();
        }
        match error {
            isolation::Error::NoTier => {
                let message = format!("{message}; `nightcrew doctor` on the server's machine says what is missing");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, message).code("sandbox_no_compatible_node")
            }
            isolation::Error::Spec(_) | isolation::Error::Egress(_) => Self::refused(message),
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, message).code("sandbox_create_failed"),
        }
    }
}

/// Whether there was no place left, on the disk or in a quota.
fn full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = wire::ApiError {
            code: self.status.as_u16(),
            message: self.message,
            error_code: self.code.map(str::to_owned),
        };
        let mut response = (self.status, Json(body)).into_response();
        if let Some(seconds) = self.after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// An error of a Connect call, with the HTTP status that goes with its code.
#[derive(Clone, Debug)]
pub(super) struct RpcError {
    /// `not_found`, `invalid_argument`, ….
    pub code: &'static str,
    pub message: String,
}

impl RpcError {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub fn wire(&self) -> wire::ConnectError {
        wire::ConnectError { code: self.code.to_owned(), message: self.message.clone() }
    }

    fn status(&self) -> StatusCode {
        match self.code {
            "canceled" => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            "invalid_argument" | "failed_precondition" | "out_of_range" => StatusCode::BAD_REQUEST,
            "deadline_exceeded" => StatusCode::GATEWAY_TIMEOUT,
            "not_found" => StatusCode::NOT_FOUND,
            "already_exists" | "aborted" => StatusCode::CONFLICT,
            "permission_denied" => StatusCode::FORBIDDEN,
            "resource_exhausted" => StatusCode::TOO_MANY_REQUESTS,
            "unimplemented" => StatusCode::NOT_IMPLEMENTED,
            "unavailable" => StatusCode::SERVICE_UNAVAILABLE,
            "unauthenticated" => StatusCode::UNAUTHORIZED,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for RpcError {
    fn into_response(self) -> Response {
        (self.status(), Json(self.wire())).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_as_such_however_deep_it_lies() {
        let no_space = || io::Error::from_raw_os_error(libc::ENOSPC);
        assert_eq!(ApiError::io("x", &no_space()).status, StatusCode::INSUFFICIENT_STORAGE);
        let deep = isolation::Error::State { path: "/x".into(), source: no_space() };
        assert_eq!(ApiError::room(&deep).code, Some("disk_full"));
        let other = isolation::Error::Start { source: io::Error::other("why") };
        assert_eq!(ApiError::room(&other).status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(ApiError::room(&other).message.ends_with(": why"));
    }
}
