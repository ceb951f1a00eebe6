//! Templates: what sandboxes begin with, and how they are built.

mod archive;
mod copy;
#[cfg(test)]
mod tar_writer;
mod tree;
mod unpack;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;

use crate::isolation::Root;

use super::error::ApiError;
use super::{Settings, Shared};

/// What a sandbox begins with.
#[derive(Clone, Debug, Default)]
pub(super) struct Template {
    pub id: String,
    pub alias: Option<String>,
    pub root: Root,
    pub environment: BTreeMap<String, String>,
    /// Where processes start that say nothing: `WORKDIR`.
    pub directory: Option<PathBuf>,
    pub memory_mb: u64,
    pub cpu_count: u32,
}

/// All that there are.
#[derive(Debug)]
pub(super) struct Templates {}

impl Templates {
    pub fn open(_settings: &Settings) -> anyhow::Result<Self> {
        Ok(Self {})
    }

    /// The template with this name or id.
    pub fn resolve(&self, name: &str) -> Result<Template, ApiError> {
        match name {
            "base" => Ok(Template { id: "base".into(), memory_mb: 4096, cpu_count: 2, ..Template::default() }),
            _ => Err(ApiError::new(StatusCode::NOT_FOUND, format!("template '{name}' not found"))),
        }
    }

    /// A home for one sandbox, below its folder, with what the template has in it.
    pub async fn home(&self, _template: &Template, folder: &Path) -> io::Result<PathBuf> {
        let home = folder.join("home");
        std::fs::create_dir_all(&home)?;
        Ok(home)
    }
}

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
}
