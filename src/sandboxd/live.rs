//! Sandboxes that live, and how a call finds the one that it is about.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use jiff::Timestamp;

use crate::base::secret::Secret;
use crate::clients::e2b::wire::{NewSandbox, State};
use crate::clients::verify;
use crate::isolation::{Room, RoomSpec};

use super::Shared;
use super::error::ApiError;
use super::files::Files;
use super::process::Processes;
use super::templates::Template;

/// One sandbox.
#[derive(Debug)]
pub(super) struct Live {
    pub id: String,
    /// What calls of its in-sandbox daemon must have.
    pub token: Secret,
    /// The same for the answer to `create`, which alone may hold it.
    pub token_text: String,
    pub template: Template,
    pub asked: NewSandbox,
    pub started_at: Timestamp,
    /// A folder of its own.
    pub folder: PathBuf,
    pub room: Room,
    pub vital: Mutex<Vital>,
    pub processes: Processes,
    pub files: Files,
}

/// What changes in its life.
#[derive(Clone, Debug)]
pub(super) struct Vital {
    pub ends_at: Timestamp,
    pub state: State,
}

impl Live {
    pub fn vital(&self) -> MutexGuard<'_, Vital> {
        self.vital.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Variables of all its processes: the template's, then those it was made with.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let mut all = self.template.environment.clone();
        all.extend(self.asked.env_vars.clone());
        all
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Sandboxes {
    all: Mutex<HashMap<String, Arc<Live>>>,
}

impl Sandboxes {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Live>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, id: &str) -> Option<Arc<Live>> {
        self.lock().get(id).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Live>> {
        self.lock().values().cloned().collect()
    }

    /// Makes one and waits until its room stands.
    pub async fn make(
        &self,
        shared: &Shared,
        asked: NewSandbox,
        id: String,
        token: String,
    ) -> Result<Arc<Live>, ApiError> {
        let broken =
            |error: &dyn std::error::Error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
        let template = shared.templates.resolve(&asked.template_id)?;
        let folder = shared.own.sandbox(&id);
        std::fs::create_dir_all(&folder).map_err(|e| broken(&e))?;
        let home = shared.templates.home(&template, &folder).await.map_err(|e| broken(&e))?;
        let mut spec = RoomSpec::new(home);
        spec.root = template.root.clone();
        let room = shared.isolation.open(spec).await.map_err(|e| broken(&e))?;
        let now = shared.env.now();
        let lasts = jiff::SignedDuration::from_secs(asked.timeout.unwrap_or(300).into());
        let vital = Vital { ends_at: now.checked_add(lasts).unwrap_or(Timestamp::MAX), state: State::Running };
        let live = Arc::new(Live {
            id: id.clone(),
            token: Secret::new(token.clone()),
            token_text: token,
            template,
            asked,
            started_at: now,
            folder,
            room,
            vital: Mutex::new(vital),
            processes: Processes::default(),
            files: Files::default(),
        });
        self.lock().insert(id, live.clone());
        Ok(live)
    }

    /// Ends one: its processes, then its files. `false`: there is none.
    pub async fn end(&self, id: &str) -> bool {
        let Some(live) = self.lock().remove(id) else { return false };
        live.room.clone().close().await;
        if let Err(error) = crate::workspace::remove_folder(&live.folder) {
            tracing::warn!(%error, folder = %live.folder.display(), "a sandbox's folder stays");
        }
        true
    }
}

/// The sandbox that a call of the in-sandbox daemon is about; whoever has this was let in.
pub(super) struct Inside(pub Arc<Live>);

impl FromRequestParts<Arc<Shared>> for Inside {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, ApiError> {
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let of_host = || {
            // `49983-ID.domain`
            let (_port, rest) = header("host")?.split_once('-')?;
            rest.split_once('.').map(|(id, _)| id)
        };
        let id = header("e2b-sandbox-id").or_else(of_host).unwrap_or_default();
        let gone = || ApiError::new(StatusCode::BAD_GATEWAY, format!("The sandbox {id} was not found"));
        let live = shared.sandboxes.get(id).ok_or_else(gone)?;
        let given = header("x-access-token").unwrap_or_default();
        if !verify::matches(&live.token, given.as_bytes()) {
            return Err(ApiError::new(
                StatusCode::UNAUTHORIZED,
                "unauthorized access, please provide a valid access token",
            ));
        }
        Ok(Self(live))
    }
}
