//! The Sentry-compatible intake: `/api/{project}/envelope/` and `/store/`, for official SDKs pointed here by a DSN
//! `http://KEY@host:port/42`.
//!
//! On an address of its own. A request is judged before its body is read: project, key, and whether there is room. It is
//! answered after the commit. What is refused is counted, by project and reason; when there is too much of it SDKs are told
//! to be silent for a while, in the words that they understand. Nothing here decides what becomes of an error.
//! Source: <https://develop.sentry.dev/sdk/foundations/transport/>, and what the SDKs really send (`tests/conformance/sentry`).

mod body;
mod collect;
mod envelope;
mod room;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::post;
use sentry_types::{Auth, Dsn};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use collect::News;

use super::Listener;
use crate::base::env::Env;
use crate::base::scope::Scope;
use crate::clients::verify;
use crate::config::settings::IntakeProject;
use crate::journal::{ErrorBounds, Journal};
use crate::policy::errors::private::Hidden;
use crate::policy::errors::seen::{SeenEvent, plain_id};

use body::{Encoding, Held};
use collect::Collector;
use envelope::{Opened, Stream};
use room::{Buckets, Drops, Room};

/// Events of a project per minute when the configuration does not say.
pub const PER_MINUTE: u32 = 120_000;
/// Requests per minute for each event: beyond that a project is refused unread.
const REQUESTS: u32 = 3;
/// A body that takes longer to arrive is refused.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bodies that are taken apart at the same time.
const APART: usize = 4;
/// What was refused is written down this often.
const FLUSH: Duration = Duration::from_secs(1);

/// The project of an id, as the configuration in force has it.
pub type Projects = Arc<dyn Fn(u64) -> Option<IntakeProject> + Send + Sync>;

/// What the intake is made of.
#[derive(Clone)]
pub struct IntakeSetup {
    pub env: Env,
    pub journal: Journal,
    pub bounds: ErrorBounds,
    pub projects: Projects,
    /// Fields that are not even kept.
    pub hidden: Arc<dyn Fn() -> Arc<Hidden> + Send + Sync>,
    pub news: News,
}

/// Why a request is not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    Bad(&'static str),
    /// Project or key: which of them is nobody's business.
    Key,
    TooLarge,
    /// The body did not arrive in time.
    Slow,
    /// The project has had its share.
    Limit,
    /// Too much at once.
    Busy,
    /// The journal, or the key's file.
    Unwritable,
    Stopping,
}

struct Intake {
    setup: IntakeSetup,
    collector: Collector,
    room: Room,
    buckets: Buckets,
    requests: Buckets,
    drops: Arc<Drops>,
    apart: Arc<Semaphore>,
    stopping: CancellationToken,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Envelope,
    Store,
}

/// A body taken apart.
struct Apart {
    seen: Vec<SeenEvent>,
    event_id: Option<String>,
    opened: Opened,
}

impl Listener {
    /// Takes errors in, in tasks of `scope`, until it is closed.
    pub fn serve_intake(self, scope: &Scope, setup: IntakeSetup) {
        let collector = Collector::start(scope, setup.journal.clone(), setup.bounds, setup.news.clone());
        let drops = Arc::new(Drops::default());
        write_down(scope, &setup, &drops);
        let stopping = scope.token().clone();
        let intake = Intake {
            setup,
            collector,
            room: Room::default(),
            buckets: Buckets::default(),
            requests: Buckets::default(),
            drops,
            apart: Arc::new(Semaphore::new(APART)),
            stopping: stopping.clone(),
        };
        drop(scope.spawn("intake listener", async move {
            let server = axum::serve(self.listener, router(intake)).with_graceful_shutdown(stopping.cancelled_owned());
            if let Err(error) = server.await {
                tracing::error!(%error, "the listener of the intake ended");
            }
        }));
    }
}

fn router(intake: Intake) -> axum::Router {
    let envelope = post(|state, path, request| take(state, path, request, Form::Envelope)).options(preflight);
    let store = post(|state, path, request| take(state, path, request, Form::Store)).options(preflight);
    axum::Router::new()
        .route("/api/{project}/envelope/", envelope.clone())
        .route("/api/{project}/envelope", envelope)
        .route("/api/{project}/store/", store.clone())
        .route("/api/{project}/store", store)
        .with_state(Arc::new(intake))
}

/// Writes down what was refused, now and then and at the end.
fn write_down(scope: &Scope, setup: &IntakeSetup, drops: &Arc<Drops>) {
    let (journal, clock, drops, stop) =
        (setup.journal.clone(), setup.env.clock.clone(), drops.clone(), scope.token().clone());
    drop(scope.spawn("intake drops", async move {
        loop {
            let last = tokio::select! {
                () = stop.cancelled() => true,
                () = clock.sleep(FLUSH) => false,
            };
            let refused = drops.drain();
            if !refused.is_empty()
                && let Err(error) = journal.errors_dropped(refused.clone()).await
            {
                tracing::warn!(%error, ?refused, "how many errors were refused cannot be written down");
            }
            if last {
                return;
            }
        }
    }));
}

/// What a browser asks first.
async fn preflight() -> Response {
    let allow = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "POST, OPTIONS"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "authorization, content-encoding, content-type, sentry-trace, baggage, traceparent, x-requested-with, x-sentry-auth",
        ),
        (header::ACCESS_CONTROL_MAX_AGE, "3600"),
    ];
    open_to_all((StatusCode::OK, allow).into_response())
}

/// Pages of any origin may send, and read the answer: the key is what counts.
fn open_to_all(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    let exposed = HeaderValue::from_static("retry-after, x-sentry-error, x-sentry-rate-limits");
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    response
}

async fn take(
    State(intake): State<Arc<Intake>>,
    Path(project): Path<String>,
    request: Request,
    form: Form,
) -> Response {
    let (parts, body) = request.into_parts();
    let named = project.parse().ok().and_then(|id| (intake.setup.projects)(id));
    let taken = match &named {
        Some(project) => intake.take(project, &parts.uri, &parts.headers, body, form).await,
        None => {
            forget(&intake, body).await;
            Err(Refused::Key)
        }
    };
    open_to_all(match taken {
        Ok(Some(id)) => Json(json!({"id": id})).into_response(),
        Ok(None) => Json(json!({})).into_response(),
        Err(refused) => refused.into_response(),
    })
}

/// Lets a refused sender finish, for a moment.
async fn forget(intake: &Intake, body: Body) {
    tokio::select! {
        () = body::forget(body) => {}
        () = intake.setup.env.clock.sleep(Duration::from_secs(5)) => {}
        () = intake.stopping.cancelled() => {}
    }
}

impl Intake {
    /// Answers the event's id. A refusal that concerns events is counted.
    async fn take(
        &self,
        project: &IntakeProject,
        uri: &Uri,
        headers: &HeaderMap,
        body: Body,
        form: Form,
    ) -> Result<Option<String>, Refused> {
        let per_minute = project.max_per_minute.unwrap_or(PER_MINUTE);
        let given = given_key(uri, headers);
        let early = match &given {
            Some(given) => allowed(project, given),
            None if form == Form::Store => Err(Refused::Key),
            None => Ok(()),
        };
        let early = early.and_then(|()| Encoding::of(headers)).and_then(|encoding| {
            // Requests that have no events cost an event's share nothing (SDKs report what they did not send), but nobody
            // reads on for ever.
            let most = per_minute.saturating_mul(REQUESTS).max(60);
            let open = self.requests.take(project.id, 1, most, self.setup.env.now());
            if open { Ok(encoding) } else { Err(Refused::Limit) }
        });
        let encoding = match early {
            Ok(encoding) => encoding,
            Err(refused) => {
                forget(self, body).await;
                self.count(project, refused, 1);
                return Err(refused);
            }
        };
        let held = tokio::select! {
            held = body::read(headers, body, &self.room) => held,
            () = self.setup.env.clock.sleep(PATIENCE) => Err(Refused::Slow),
            () = self.stopping.cancelled() => Err(Refused::Stopping),
        };
        let held = held.inspect_err(|refused| self.count(project, *refused, 1))?;
        self.apart_and_written(project, given.is_some(), encoding, held, form).await
    }

    async fn apart_and_written(
        &self,
        project: &IntakeProject,
        known: bool,
        encoding: Encoding,
        held: Held,
        form: Form,
    ) -> Result<Option<String>, Refused> {
        let Held { pieces, room } = held;
        let Ok(_place) = self.apart.acquire().await else { return Err(Refused::Stopping) };
        let (owned, hidden, env) = (project.clone(), (self.setup.hidden)(), self.setup.env.clone());
        let work = move || take_apart(&owned, known, encoding, pieces, form, &hidden, &env);
        let Apart { seen, event_id, opened } =
            tokio::task::spawn_blocking(work).await.map_err(|_| Refused::Bad("the body cannot be read"))??;
        drop(_place);
        drop(room);
        self.drops.add(&project.name, "unreadable", opened.unreadable.into());
        self.drops.add(&project.name, "too_large", opened.too_large.into());
        if seen.is_empty() {
            return match (opened.too_large, opened.unreadable) {
                (1.., _) => Err(Refused::TooLarge),
                (_, 1..) => Err(Refused::Bad("no event of the envelope can be read")),
                _ => Ok(event_id),
            };
        }
        let events = seen.len() as u64;
        let written = self.write(project, seen).await;
        written.inspect_err(|refused| self.count(project, *refused, events))?;
        Ok(event_id)
    }

    async fn write(&self, project: &IntakeProject, seen: Vec<SeenEvent>) -> Result<(), Refused> {
        let per_minute = project.max_per_minute.unwrap_or(PER_MINUTE);
        let events = u32::try_from(seen.len()).unwrap_or(u32::MAX);
        if !self.buckets.take(project.id, events, per_minute, self.setup.env.now()) {
            return Err(Refused::Limit);
        }
        let bytes = seen.iter().map(|seen| seen.event.raw.get().len()).sum();
        let _room = self.room.take(bytes)?;
        self.collector.write(seen).await
    }

    /// Counts what was refused for want of room; the rest says itself what is wrong.
    fn count(&self, project: &IntakeProject, refused: Refused, events: u64) {
        let reason = match refused {
            Refused::Limit => "limit",
            Refused::Busy | Refused::Slow => "busy",
            Refused::Unwritable | Refused::Stopping => "unwritable",
            Refused::Bad(_) | Refused::Key | Refused::TooLarge => return,
        };
        self.drops.add(&project.name, reason, events);
    }
}

/// The key that a request names in its headers or its query.
fn given_key(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let named = ["x-sentry-auth", "authorization"].iter().find_map(|name| {
        let auth: Auth = headers.get(*name)?.to_str().ok()?.parse().ok()?;
        Some(auth.public_key().to_owned())
    });
    named.or_else(|| {
        let auth = Auth::from_querystring(uri.query()?.as_bytes()).ok()?;
        Some(auth.public_key().to_owned())
    })
}

/// Whether this is a key of the project now: its files are read again each time.
fn allowed(project: &IntakeProject, given: &str) -> Result<(), Refused> {
    let keys = project.key.read_all().map_err(|error| {
        tracing::error!(%error, project = project.name, "the key of the intake cannot be read: its errors are refused");
        Refused::Unwritable
    })?;
    // Each is compared, so that the time does not say which.
    let fits = keys.iter().fold(false, |fits, key| fits | verify::matches(key, given.as_bytes()));
    if fits { Ok(()) } else { Err(Refused::Key) }
}

/// Decodes, reads and groups. For a thread that may block.
fn take_apart(
    project: &IntakeProject,
    known: bool,
    encoding: Encoding,
    pieces: Vec<bytes::Bytes>,
    form: Form,
    hidden: &Hidden,
    env: &Env,
) -> Result<Apart, Refused> {
    let mut stream = Stream::new(body::decoded(encoding, pieces)?);
    let (said, opened) = match form {
        Form::Store => (None, Opened { events: vec![stream.event()?], ..Opened::default() }),
        Form::Envelope => {
            let head = stream.head()?;
            if !known {
                let dsn: Dsn = head.dsn.as_deref().and_then(|dsn| dsn.parse().ok()).ok_or(Refused::Key)?;
                allowed(project, dsn.public_key())?;
            }
            (head.event_id, stream.items()?)
        }
    };
    let received = env.now();
    let mut event_id = said.as_deref().and_then(plain_id);
    let mut seen = Vec::with_capacity(opened.events.len());
    let Opened { events, other, mut unreadable, too_large } = opened;
    for event in events {
        let spare = match (&event_id, seen.is_empty()) {
            (Some(id), true) => id.clone(),
            _ => format!("{:016x}{:016x}", env.ids.random(), env.ids.random()),
        };
        match SeenEvent::read(&project.name, event, &spare, received, hidden) {
            Ok(Some(event)) => {
                event_id.get_or_insert_with(|| event.event.event_id.clone());
                seen.push(event);
            }
            Ok(None) => {}
            Err(_) => unreadable += 1,
        }
    }
    Ok(Apart { seen, event_id, opened: Opened { events: Vec::new(), other, unreadable, too_large } })
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        // Seconds for which SDKs are to send no errors, and why in a word.
        let silent = match self {
            Self::Limit => Some((10, "project", "too_many")),
            Self::Busy => Some((5, "organization", "busy")),
            Self::Unwritable => Some((30, "organization", "unwritable")),
            Self::Bad(_) | Self::Key | Self::TooLarge | Self::Slow | Self::Stopping => None,
        };
        let (status, detail) = match self {
            Self::Bad(why) => (StatusCode::BAD_REQUEST, why),
            Self::Key => (StatusCode::FORBIDDEN, "there is no project with this id and this key"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "at most 20 MB sent, 100 MB decoded and 1 MB an event"),
            Self::Slow => (StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"),
            Self::Limit => (StatusCode::TOO_MANY_REQUESTS, "the project has had its share of this minute"),
            Self::Busy => (StatusCode::TOO_MANY_REQUESTS, "too much at once"),
            Self::Unwritable => (StatusCode::SERVICE_UNAVAILABLE, "nothing can be taken in now"),
            Self::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping"),
        };
        let mut response = (status, Json(json!({"detail": detail}))).into_response();
        let headers = response.headers_mut();
        headers.insert(HeaderName::from_static("x-sentry-error"), HeaderValue::from_static(detail));
        if let Some((seconds, scope, reason)) = silent {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            if let Ok(limits) = HeaderValue::from_str(&format!("{seconds}:error;default:{scope}:{reason}")) {
                headers.insert(HeaderName::from_static("x-sentry-rate-limits"), limits);
            }
        }
        response
    }
}

#[cfg(test)]
#[path = "intake/tests.rs"]
mod tests;
