//! `filesystem.Filesystem` and `/files`: reading, writing and watching files.
//!
//! What happens to files happens in the room ([`isolation::Files`](crate::isolation::Files)). Here is what clients say and hear: how
//! paths are meant, what errors are called, and contents that stream through in both directions without ever being here as a whole.

mod access;
mod body;
mod content;
mod multipart;
mod rpc;
mod watch;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use serde::Serialize;

use super::Shared;
use super::error::{ApiError, RpcError};
use super::live::Live;
use crate::clients::e2b::wire;
use crate::isolation::{self, Entry, FilesError, Kind, Reason, Room};

/// The file worker and the watchers of one sandbox.
#[derive(Debug, Default)]
pub(super) struct Files {
    client: OnceLock<isolation::Files>,
    watchers: Mutex<HashMap<String, Arc<watch::Polled>>>,
}

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/files", get(content::read).post(content::write))
        .route("/files/compose", post(content::compose))
        .merge(rpc::routes())
}

impl Live {
    /// Its files.
    pub fn files(&self, shared: &Shared) -> &isolation::Files {
        self.files.client.get_or_init(|| isolation::Files::new(self.room.clone(), shared.scope.clone()))
    }

    /// The absolute path that a client means: `~` and what is relative is below the home, nothing is the work directory.
    fn path(&self, said: &str) -> Result<String, String> {
        let usual = self.template.directory.as_ref().map(|path| path.to_string_lossy().into_owned());
        absolute(if said.is_empty() { usual.as_deref().unwrap_or_default() } else { said })
    }
}

fn absolute(said: &str) -> Result<String, String> {
    let below = match said.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
        Some(_) => return Err(format!("failed to expand path '{said}': cannot expand user-specific home dir")),
        None if said.starts_with('/') => return Ok(said.to_owned()),
        None => said,
    };
    // By the text alone, as the SDKs' own server does.
    let mut parts: Vec<_> = Room::HOME.split('/').filter(|part| !part.is_empty()).collect();
    for part in below.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    Ok(format!("/{}", parts.join("/")))
}

/// Commands and files have one user. The error is what to say.
fn check_user(name: Option<&str>) -> Result<(), String> {
    match name {
        None | Some("" | "user") => Ok(()),
        Some(name) => Err(format!("error looking up user '{name}': user: unknown user {name}")),
    }
}

/// What E2B's clients are told of an entry.
#[derive(Debug, Serialize)]
struct Told {
    #[serde(flatten)]
    entry: wire::Entry,
    #[serde(rename = "isSymlink", skip_serializing_if = "std::ops::Not::not")]
    is_symlink: bool,
}

impl From<Entry> for Told {
    fn from(entry: Entry) -> Self {
        let kind = match entry.kind {
            Kind::File => "FILE_TYPE_FILE",
            Kind::Directory => "FILE_TYPE_DIRECTORY",
            Kind::Symlink => "FILE_TYPE_SYMLINK",
            Kind::Other => "FILE_TYPE_UNSPECIFIED",
        };
        let nanoseconds = i32::try_from(entry.modified.nanoseconds).unwrap_or_default();
        Self {
            is_symlink: entry.target.is_some(),
            entry: wire::Entry {
                name: entry.name,
                kind: kind.into(),
                path: entry.path,
                size: entry.size.to_string(),
                mode: entry.mode,
                permissions: entry.permissions,
                owner: entry.owner,
                group: entry.group,
                modified_time: jiff::Timestamp::new(entry.modified.seconds, nanoseconds).ok(),
                symlink_target: entry.target,
                metadata: entry.metadata,
            },
        }
    }
}

impl From<FilesError> for RpcError {
    fn from(error: FilesError) -> Self {
        let code = match &error {
            FilesError::Failed(failure) => match failure.reason {
                Reason::NotFound => "not_found",
                Reason::Exists => "already_exists",
                Reason::Directory | Reason::NotDirectory | Reason::Invalid => "invalid_argument",
                Reason::Denied => "permission_denied",
                Reason::Full => "resource_exhausted",
                Reason::TooMany | Reason::Loop => "failed_precondition",
                Reason::Other => "internal",
            },
            FilesError::Lost { .. } | FilesError::Start(_) => "unavailable",
        };
        Self::new(code, whole(&error))
    }
}

impl From<FilesError> for ApiError {
    fn from(error: FilesError) -> Self {
        let status = match &error {
            FilesError::Failed(failure) => match failure.reason {
                Reason::NotFound => StatusCode::NOT_FOUND,
                Reason::Exists | Reason::Directory | Reason::NotDirectory | Reason::Invalid => StatusCode::BAD_REQUEST,
                Reason::TooMany | Reason::Loop => StatusCode::BAD_REQUEST,
                Reason::Denied => StatusCode::FORBIDDEN,
                Reason::Full => StatusCode::INSUFFICIENT_STORAGE,
                Reason::Other => StatusCode::INTERNAL_SERVER_ERROR,
            },
            FilesError::Lost { .. } | FilesError::Start(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, whole(&error))
    }
}

/// With what it was caused by.
fn whole(error: &FilesError) -> String {
    let mut text = error.to_string();
    if let FilesError::Start(cause) = error {
        text.push_str(&format!(": {cause}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_meant_from_the_home() {
        for (said, meant) in [
            ("x", "/home/user/x"),
            ("", "/home/user"),
            ("~", "/home/user"),
            ("~/a b", "/home/user/a b"),
            ("./a//b/../c", "/home/user/a/c"),
            ("../other", "/home/other"),
            ("../../../../etc", "/etc"),
            ("/etc/../x", "/etc/../x"),
        ] {
            assert_eq!(absolute(said).as_deref(), Ok(meant), "{said}");
        }
        assert!(absolute("~root/x").is_err());
    }
}
