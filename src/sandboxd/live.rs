//! One sandbox that lives, and how a call finds the one that it is about.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::base::env::Env;
use crate::base::secret::Secret;
use crate::clients::e2b::wire::{NewSandbox, State};
use crate::clients::verify;
use crate::isolation::{Room, RoomSpec};

use super::Shared;
use super::error::ApiError;
use super::files::Files;
use super::process::Processes;
use super::templates::Template;
use super::wire_in::Lifecycle;

/// One sandbox.
///
/// Its room is its own for good: one that was paused without its processes comes back as another value with the same [`Lasting`].
#[derive(Debug)]
pub(super) struct Live {
    pub id: String,
    /// What calls of its in-sandbox daemon must have.
    pub token: Secret,
    /// The same for those who have the key.
    pub token_text: String,
    pub template: Template,
    /// Those that the template gives its processes.
    pub variables: BTreeMap<String, String>,
    pub asked: NewSandbox,
    pub lifecycle: Lifecycle,
    pub started_at: Timestamp,
    /// A folder of its own.
    pub folder: PathBuf,
    pub spec: RoomSpec,
    pub room: Room,
    pub lasting: Arc<Lasting>,
    pub processes: Processes,
    pub files: Files,
}

/// What lasts as long as the sandbox does.
#[derive(Debug)]
pub(super) struct Lasting {
    vital: Mutex<Vital>,
    log: Log,
    /// Processor time of an earlier look.
    looked: Mutex<(Instant, Duration)>,
    /// Held by whatever changes the state: pausing, resuming and ending wait for one another.
    pub turn: tokio::sync::Mutex<()>,
}

/// What changes in its life.
#[derive(Clone, Debug)]
pub(super) struct Vital {
    /// For people; [`Vital::ends`] decides.
    pub ends_at: Timestamp,
    /// By a clock that nobody sets.
    pub ends: Instant,
    pub state: State,
    /// Paused without its processes: its room is closed.
    pub asleep: bool,
}

impl Lasting {
    pub fn new(env: &Env, vital: Vital) -> Arc<Self> {
        let log = Log { env: env.clone(), lines: Mutex::default() };
        let looked = Mutex::new((Instant::now(), Duration::ZERO));
        Arc::new(Self { vital: Mutex::new(vital), log, looked, turn: tokio::sync::Mutex::default() })
    }
}

impl Live {
    pub fn vital(&self) -> MutexGuard<'_, Vital> {
        self.lasting.vital.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is paused, and its processes are about to end.
    pub fn fall_asleep(&self) {
        let mut vital = self.vital();
        (vital.state, vital.asleep) = (State::Paused, true);
    }

    /// Variables of all its processes: the template's, then those it was made with.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let mut all = self.variables.clone();
        all.extend(self.asked.env_vars.clone());
        all
    }

    /// How many processors it has kept busy since the last look, which is at least a second ago, or since it was made.
    pub fn busy(&self, cpu: Duration) -> f64 {
        let mut looked = self.lasting.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, before) = *looked;
        let passed = since.elapsed();
        if passed >= Duration::from_secs(1) {
            *looked = (Instant::now(), cpu);
        }
        // A room that was made anew has begun at nothing.
        cpu.saturating_sub(before).as_secs_f64() / passed.as_secs_f64().max(0.001)
    }

    /// Adds a line to what `GET /v2/sandboxes/{id}/logs` tells: something that the server did with it, or that happened to it.
    pub fn note(&self, level: Level, message: impl Into<String>, fields: &[(&str, String)]) {
        self.lasting.log.add(level, message.into(), fields);
    }

    /// Its log, oldest first.
    pub fn log(&self) -> Vec<Line> {
        self.lasting.log.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

impl Level {
    pub const ALL: [Self; 4] = [Self::Debug, Self::Info, Self::Warn, Self::Error];

    pub fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// One line of a sandbox's log.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub at: Timestamp,
    pub level: Level,
    pub message: String,
    pub fields: BTreeMap<String, String>,
}

/// The last lines.
#[derive(Debug)]
struct Log {
    env: Env,
    lines: Mutex<VecDeque<Line>>,
}

/// So many lines of a sandbox are kept.
const MOST_LINES: usize = 1000;
/// And of each text in it, so many characters.
const MOST_TEXT: usize = 500;

impl Log {
    fn add(&self, level: Level, message: String, fields: &[(&str, String)]) {
        let clip = |text: &str| text.chars().take(MOST_TEXT).collect::<String>();
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), clip(value))).collect();
        let line = Line { at: self.env.now(), level, message: clip(&message), fields };
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == MOST_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

/// The id of the sandbox that a call of the in-sandbox daemon is about: its header, or the host `PORT-ID.domain`.
pub(super) fn named(parts: &Parts) -> Option<&str> {
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let of_host = || {
        let (port, rest) = header("host")?.split_once('-')?;
        port.parse::<u16>().ok()?;
        rest.split_once('.').map(|(id, _)| id)
    };
    header("e2b-sandbox-id").or_else(of_host)
}

/// The answer to calls of a sandbox's daemon when there is no such sandbox: clients look for these words.
pub(super) fn gone(id: &str) -> ApiError {
    ApiError::new(StatusCode::BAD_GATEWAY, format!("The sandbox {id} was not found"))
}

/// The sandbox that a call of the in-sandbox daemon is about; whoever has this was let in.
pub(super) struct Inside(pub Arc<Live>);

impl FromRequestParts<Arc<Shared>> for Inside {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, ApiError> {
        let id = named(parts).unwrap_or_default();
        let live = shared.sandboxes.get(id).ok_or_else(|| gone(id))?;
        let given = parts.headers.get("x-access-token").map(|value| value.as_bytes()).unwrap_or_default();
        if !verify::matches(&live.token, given) {
            return Err(ApiError::new(
                StatusCode::UNAUTHORIZED,
                "unauthorized access, please provide a valid access token",
            ));
        }
        awake(shared, live).await.map(Self)
    }
}

/// The same, running: resumed if it was made so that calls resume it.
pub(super) async fn awake(shared: &Arc<Shared>, live: Arc<Live>) -> Result<Arc<Live>, ApiError> {
    let (paused, asleep) = {
        let vital = live.vital();
        (vital.state == State::Paused, vital.asleep)
    };
    match paused {
        false => Ok(live),
        true if live.lifecycle.resumes && !asleep => {
            let seconds = live.asked.timeout.unwrap_or(super::rest::USUAL_SECONDS).max(super::rest::USUAL_SECONDS);
            Ok(shared.sandboxes.resume(shared, &live.id, seconds, false).await?.0)
        }
        true => {
            let ApiError { status, message, .. } = gone(&live.id);
            Err(ApiError::new(status, format!("{message}: it is paused, and `connect` resumes it")))
        }
    }
}
