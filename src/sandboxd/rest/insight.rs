//! What a sandbox uses, what happened to it, and how this server confines.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Json, Path, RawQuery, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::{Value, json};

use crate::clients::e2b::wire;
use crate::isolation::{Tier, folder_bytes};

use super::Shared;
use crate::sandboxd::error::ApiError;
use crate::sandboxd::live::{Level, Line, Live, gone, named};
use crate::sandboxd::wire_in::Query;

/// Sandboxes whose metrics are asked for at once.
const MOST_MEASURED: usize = 100;
/// Lines of a log at once.
const MOST_LINES: usize = 1000;

/// `GET /health`: of a sandbox's daemon, if the call names one, else of this server. Asks for nothing.
pub async fn health(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    match named(&parts) {
        None => StatusCode::OK.into_response(),
        Some(id) => match shared.sandboxes.get(id).filter(|live| live.vital().state == wire::State::Running) {
            Some(_) => StatusCode::NO_CONTENT.into_response(),
            None => gone(id).into_response(),
        },
    }
}

/// `GET /nightcrew/report`.
pub async fn report(State(shared): State<Arc<Shared>>) -> Json<wire::Report> {
    let report = shared.isolation.report();
    let why = report.checks.iter().find_map(|check| check.result.clone().err()).filter(|_| report.tier.is_none());
    let loopback = report.tier.is_some_and(|tier| tier != Tier::Landlock);
    let place = |toolchain: &crate::isolation::Toolchain| {
        let place = toolchain.search.first().or(toolchain.paths.first());
        (toolchain.name.to_owned(), place.map_or_else(|| "/usr".to_owned(), |path| path.display().to_string()))
    };
    Json(wire::Report {
        isolation: report.tier.map(|tier| tier.name().to_owned()),
        gaps: report.gaps.iter().map(|gap| gap.summary().to_owned()).collect(),
        own_file_system: report.tier.is_some_and(Tier::own_file_system),
        loopback,
        toolchains: report.toolchains.iter().map(place).collect(),
        images: shared.settings.images.keys().cloned().collect(),
        missing: why.as_ref().map(|why| why.reason.clone()),
        help: why.map(|why| why.fix),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// How many processors commands can use.
pub fn processors() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX))
}

/// A line of a log as the calls answer it.
#[derive(Serialize)]
struct Entry {
    timestamp: String,
    level: &'static str,
    message: String,
    fields: BTreeMap<String, String>,
}

impl Entry {
    fn of(line: &Line) -> Self {
        Self {
            timestamp: line.at.to_string(),
            level: line.level.name(),
            message: line.message.clone(),
            fields: line.fields.clone(),
        }
    }
}

/// What `GET /v2/sandboxes/{id}/logs` asks for.
struct Lines<'a> {
    /// Milliseconds: where to begin, in the direction of reading.
    cursor: Option<i64>,
    limit: usize,
    newest_first: bool,
    least: Level,
    search: &'a str,
}

impl<'a> Lines<'a> {
    fn new(query: &'a Query) -> Result<Self, ApiError> {
        let newest_first = match query.get("direction") {
            None | Some("forward") => false,
            Some("backward") => true,
            Some(other) => {
                return Err(ApiError::refused(format!("direction: `{other}` is neither forward nor backward")));
            }
        };
        let level = |name: &str| {
            let found = Level::ALL.into_iter().find(|level| level.name() == name);
            found.ok_or_else(|| ApiError::refused(format!("level: there is no `{name}`")))
        };
        Ok(Self {
            cursor: query.number("cursor")?,
            limit: query.number("limit")?.unwrap_or(MOST_LINES).min(MOST_LINES),
            newest_first,
            least: query.get("level").map(level).transpose()?.unwrap_or(Level::Debug),
            search: query.get("search").unwrap_or_default(),
        })
    }

    fn of(&self, mut all: Vec<Line>) -> Vec<Entry> {
        if self.newest_first {
            all.reverse();
        }
        let begun = |line: &Line| {
            let at = line.at.as_millisecond();
            self.cursor.is_none_or(|cursor| if self.newest_first { at <= cursor } else { at >= cursor })
        };
        let fits = |line: &&Line| begun(line) && line.level >= self.least && line.message.contains(self.search);
        all.iter().filter(fits).take(self.limit).map(Entry::of).collect()
    }
}

/// `GET /v2/sandboxes/{id}/logs`: what the server did with a sandbox, and what was started in it.
pub async fn logs(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, ApiError> {
    let live = shared.sandboxes.get(&id).ok_or_else(|| ApiError::no_sandbox(&id))?;
    let query = Query::new(query.as_deref());
    Ok(Json(json!({"logs": Lines::new(&query)?.of(live.log())})))
}

/// `GET /sandboxes/{id}/logs`.
pub async fn old_logs(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, ApiError> {
    let live = shared.sandboxes.get(&id).ok_or_else(|| ApiError::no_sandbox(&id))?;
    let query = Query::new(query.as_deref());
    let lines = Lines { cursor: query.number("start")?, ..Lines::new(&query)? };
    let entries = lines.of(live.log());
    let plain: Vec<_> =
        entries.iter().map(|entry| json!({"timestamp": entry.timestamp, "line": entry.message})).collect();
    Ok(Json(json!({"logs": plain, "logEntries": entries})))
}

/// What a sandbox uses at a moment.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Metric {
    timestamp: String,
    timestamp_unix: i64,
    cpu_count: u32,
    /// Of all processors together, since the last look.
    cpu_used_pct: f64,
    mem_used: u64,
    mem_total: u64,
    /// The kernel's cache belongs to no sandbox here.
    mem_cache: u64,
    disk_used: u64,
    disk_total: u64,
}

async fn measure(shared: &Shared, live: &Arc<Live>) -> Result<Metric, ApiError> {
    let looked = live.clone();
    // It reads all of /proc and walks the home.
    let measured =
        tokio::task::spawn_blocking(move || (looked.room.usage().unwrap_or_default(), folder_bytes(&looked.folder)));
    let (usage, disk_used) = measured.await.map_err(|error| ApiError::internal(error.to_string()))?;
    let (now, cpu_count) = (shared.env.now(), processors());
    Ok(Metric {
        timestamp: now.to_string(),
        timestamp_unix: now.as_second(),
        cpu_count,
        cpu_used_pct: (live.busy(usage.cpu) * 10_000.0 / f64::from(cpu_count)).round() / 100.0,
        mem_used: usage.memory_bytes,
        mem_total: live.spec.limits.memory_bytes,
        mem_cache: 0,
        disk_used,
        disk_total: live.spec.limits.disk_bytes,
    })
}

/// `GET /sandboxes/{id}/metrics`: what it uses now, if now is in the interval that is asked about. Nothing is kept of earlier moments.
pub async fn metrics(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Vec<Metric>>, ApiError> {
    let live = shared.sandboxes.get(&id).ok_or_else(|| ApiError::no_sandbox(&id))?;
    let query = Query::new(query.as_deref());
    let (start, end): (Option<i64>, Option<i64>) = (query.number("start")?, query.number("end")?);
    let now = shared.env.now().as_second();
    let asked = start.is_none_or(|start| start <= now) && end.is_none_or(|end| now <= end);
    Ok(Json(if asked { vec![measure(&shared, &live).await?] } else { Vec::new() }))
}

/// `GET /sandboxes/metrics?sandbox_ids=a,b`.
pub async fn metrics_of_many(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, ApiError> {
    let query = Query::new(query.as_deref());
    let ids = query.list("sandbox_ids");
    if ids.is_empty() || ids.len() > MOST_MEASURED {
        return Err(ApiError::refused(format!("sandbox_ids: from 1 to {MOST_MEASURED} of them")));
    }
    let mut all = BTreeMap::new();
    for live in ids.into_iter().filter_map(|id| shared.sandboxes.get(id)) {
        all.insert(live.id.clone(), measure(&shared, &live).await?);
    }
    Ok(Json(json!({"sandboxes": all})))
}
