//! Where tickets and pull requests go, one file per kind.
//!
//! `ticket` and `draft` are the texts, `draft_page` the page, `patch` reads a patch for showing; all of them are pure, and the
//! publishers share them. Whatever is published is found again by a head of `name: value` lines (`front`) or a marker in the text.

mod draft;
mod draft_page;
mod files;
mod front;
mod github;
mod local_branch;
mod patch;
mod sentry;
mod ticket;
#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::base::BoxFuture;
use crate::base::hash::Hash;
use crate::domain::proposal::Published;
use crate::ports::publisher::{PublishError, PublisherKind};

/// Every publisher that a profile can name.
pub const ALL: &[PublisherKind] = &[files::KIND, local_branch::KIND, github::KIND, sentry::KIND];

fn write_error(path: &Path) -> impl FnOnce(io::Error) -> PublishError {
    let path = path.to_owned();
    move |source| PublishError::Write { path, source }
}

/// Makes the folder and holds it until the answer is dropped, against other processes too. Blocking.
fn locked(folder: &Path) -> Result<File, PublishError> {
    std::fs::create_dir_all(folder).map_err(write_error(folder))?;
    let held = File::open(folder).map_err(write_error(folder))?;
    held.lock().map_err(write_error(folder))?;
    Ok(held)
}

/// Runs what writes files where blocking is allowed.
fn blocking<'a>(
    path: PathBuf,
    act: impl FnOnce() -> Result<Published, PublishError> + Send + 'static,
) -> BoxFuture<'a, Result<Published, PublishError>> {
    Box::pin(async move {
        match tokio::task::spawn_blocking(act).await {
            Ok(published) => published,
            Err(error) => Err(PublishError::Write { path, source: io::Error::other(format!("interrupted: {error}")) }),
        }
    })
}

/// Keys come checked; should one ever not, it still names a file and nothing else.
fn file_key(key: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    match key.chars().all(plain) && !key.is_empty() && key.len() <= 100 && !key.starts_with('-') {
        true => key.to_owned(),
        false => Hash::of(key).short(),
    }
}
