//! E2B's calls about templates.

use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State as Given};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::clients::e2b::wire::{
    BUILD_NETWORK, BuildInfo, BuildStatus, ENVD_VERSION, FileUpload, LogEntry, RequestedTemplate, StartBuild,
};
use crate::isolation::{Room, check_egress};
use crate::sandboxd::Shared;
use crate::sandboxd::error::ApiError;
use crate::sandboxd::rest::admit;

use super::build::{self, Build, From, State, Work};
use super::catalogue::{BuildRecord, DEFAULT_TAG, Index, Record, split};
use super::log::{Log, weight};
use super::{BASE, CPU_COUNT, MEMORY_MB, MOST_OVER, broken, steps};

/// What E2B calls its own base image.
const E2B_BASE: &str = "e2bdev/base";
/// Entries of a log in one answer.
const MOST_ENTRIES: usize = 100;

type Answer = Result<Response, ApiError>;

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v3/templates", post(request))
        .route("/v2/templates", get(list).post(request))
        .route("/templates", get(list))
        .route("/templates/tags", post(assign_tags).delete(remove_tags))
        .route("/templates/aliases/{alias}", get(alias))
        .route("/templates/{id}", get(one).delete(delete).patch(update))
        .route("/v2/templates/{id}", axum::routing::patch(update))
        .route("/templates/{id}/tags", get(tags))
        .route("/templates/{id}/files/{hash}", get(upload_address))
        .route("/v2/templates/{id}/builds/{build}", post(begin))
        .route("/templates/{id}/builds/{build}/status", get(status))
        .route("/templates/{id}/builds/{build}/logs", get(logs))
        .route("/nightcrew/uploads/{word}", put(upload))
}

fn refuse<T>(status: StatusCode, message: impl Into<String>) -> Result<T, ApiError> {
    Err(ApiError::new(status, message))
}

pub(super) fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, ApiError> {
    let read = serde_json::from_slice(body);
    read.map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, format!("the request cannot be read: {error}")))
}

/// A name without a tag, as templates have it.
pub(super) fn checked_name(name: &str) -> Result<String, ApiError> {
    let name = name.trim().to_lowercase();
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte));
    let begins = name.split('/').all(|part| part.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric));
    if name.len() > 128 || !plain || !begins || name == BASE {
        return refuse(StatusCode::BAD_REQUEST, format!("'{}' cannot be the name of a template", name.escape_debug()));
    }
    Ok(name)
}

fn checked_tag(tag: &str) -> Result<String, ApiError> {
    let plain = tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if tag.is_empty() || tag.len() > 128 || !plain {
        return refuse(StatusCode::BAD_REQUEST, format!("'{}' cannot be a tag", tag.escape_debug()));
    }
    Ok(tag.to_owned())
}

/// `POST /v3/templates`; the one before it, which some clients still know, says `alias`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    name: Option<String>,
    alias: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    cpu_count: Option<u32>,
    #[serde(rename = "memoryMB")]
    memory_mb: Option<u64>,
}

async fn request(Given(shared): Given<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Answer {
    admit(&shared, &headers)?;
    let asked: Asked = parse(&body)?;
    let given = asked.name.or(asked.alias).unwrap_or_default();
    let (name, tag) = split(&given);
    let name = if name.is_empty() { None } else { Some(checked_name(name)?) };
    let mut tags = tag
        .iter()
        .copied()
        .chain(asked.tags.iter().map(String::as_str))
        .map(checked_tag)
        .collect::<Result<Vec<_>, _>>()?;
    if tags.is_empty() {
        tags.push(DEFAULT_TAG.to_owned());
    }
    tags.sort();
    tags.dedup();
    let (cpu_count, memory_mb) = (asked.cpu_count.unwrap_or(CPU_COUNT), asked.memory_mb.unwrap_or(MEMORY_MB));
    if !(1..=256).contains(&cpu_count) || !(64..=1 << 20).contains(&memory_mb) {
        return refuse(StatusCode::BAD_REQUEST, "cpuCount or memoryMB is out of range");
    }
    let templates = &shared.templates;
    let (new, build, now) = (templates.new_id(), templates.new_uuid(), shared.env.now());
    let (id, own_name, own_tags) = (build.clone(), name.clone(), tags.clone());
    let template = templates.change(move |index| {
        let known = own_name.as_deref().and_then(|name| index.template(name)).map(|(id, _)| id.clone());
        if known.is_none() && index.is_full() {
            return None;
        }
        let template = known.unwrap_or(new);
        index.templates.entry(template.clone()).or_insert_with(|| Record {
            name: own_name,
            public: false,
            source: None,
            created_at: now,
            updated_at: now,
            tags: Default::default(),
            cpu_count,
            memory_mb,
        });
        let record = BuildRecord {
            template: template.clone(),
            status: BuildStatus::Waiting,
            tags: own_tags,
            image: None,
            key: None,
            cpu_count,
            memory_mb,
            created_at: now,
            updated_at: now,
            finished_at: None,
            reason: None,
        };
        index.builds.insert(id, record);
        Some(template)
    });
    let Some(template) = template.await.map_err(broken)? else {
        return refuse(StatusCode::TOO_MANY_REQUESTS, "there are too many templates: delete some");
    };
    let state = State { status: BuildStatus::Waiting, reason: None, begun: false };
    let made = Build {
        id: build.clone(),
        template: template.clone(),
        tags: tags.clone(),
        memory_mb,
        log: Log::default(),
        cancel: templates.stop.child_token(),
        state: Mutex::new(state),
    };
    let mut builds = templates.builds();
    // The oldest that are over are told of from what is on disk.
    let mut over: Vec<_> = builds.values().filter(|build| !build.is_at_work()).map(|build| build.id.clone()).collect();
    over.sort_by_key(|id| templates.catalogue.read().ok().and_then(|index| Some(index.builds.get(id)?.created_at)));
    let many = over.len().saturating_sub(MOST_OVER);
    over.into_iter().take(many).for_each(|id| drop(builds.remove(&id)));
    builds.insert(build.clone(), Arc::new(made));
    drop(builds);
    let aliases: Vec<_> = name.into_iter().collect();
    let answer = RequestedTemplate {
        template_id: template,
        build_id: build,
        public: false,
        names: aliases.clone(),
        aliases,
        tags,
    };
    Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
}

async fn upload_address(
    Given(shared): Given<Arc<Shared>>,
    headers: HeaderMap,
    Path((id, hash)): Path<(String, String)>,
) -> Answer {
    admit(&shared, &headers)?;
    let (templates, now) = (&shared.templates, shared.env.now());
    known(&*templates.catalogue.read().map_err(broken)?, &id)?;
    if templates.uploads.path(&hash).is_none() {
        return refuse(StatusCode::BAD_REQUEST, "that is no hash of files");
    }
    let word = templates.new_word();
    templates.uploads.address(word.clone(), &hash, now);
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    // As the client has reached us.
    let host = text("x-forwarded-host").or(text("host")).unwrap_or("localhost");
    let scheme = text("x-forwarded-proto").filter(|scheme| *scheme == "https").unwrap_or("http");
    let url = Some(format!("{scheme}://{host}/nightcrew/uploads/{word}"));
    let present = templates.uploads.is_there(&hash, now);
    Ok((StatusCode::CREATED, Json(FileUpload { present, url, headers: std::collections::BTreeMap::new() }))
        .into_response())
}

async fn upload(
    Given(shared): Given<Arc<Shared>>,
    headers: HeaderMap,
    Path(word): Path<String>,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    shared.templates.uploads.take(&word, body, length, shared.env.now()).await?;
    Ok(StatusCode::OK)
}

async fn begin(
    Given(shared): Given<Arc<Shared>>,
    headers: HeaderMap,
    Path((id, build)): Path<(String, String)>,
    body: Bytes,
) -> Answer {
    admit(&shared, &headers)?;
    let asked: StartBuild = parse(&body)?;
    let templates = &shared.templates;
    let build = templates.builds().get(&build).filter(|build| build.template == id).cloned();
    let Some(build) = build else { return refuse(StatusCode::NOT_FOUND, "there is no such build, or it is over") };
    let from = origin(&shared, &asked)?;
    let network = headers.get(BUILD_NETWORK).map(|hosts| hosts.to_str().unwrap_or("?")).unwrap_or_default();
    let network: Vec<_> =
        network.split(',').map(str::trim).filter(|host| !host.is_empty()).map(str::to_owned).collect();
    if let Err(error) = check_egress(&network) {
        return refuse(StatusCode::BAD_REQUEST, format!("{BUILD_NETWORK}: {error}"));
    }
    let directory = match &from {
        From::Image(image) => image.manifest.directory.clone(),
        From::Host | From::Root(_) => None,
    };
    let directory = directory.unwrap_or_else(|| Room::HOME.into());
    let key = Work::key_of(&from, &asked, &network);
    let read = steps::read(&asked, &directory);
    let non_empty = |command: &Option<String>| command.clone().filter(|command| !command.trim().is_empty());
    let mut state = build.state();
    if state.begun {
        return refuse(StatusCode::CONFLICT, "this build has begun already");
    }
    state.begun = true;
    drop(state);
    let (start, ready) = (non_empty(&asked.start_cmd), non_empty(&asked.ready_cmd));
    let force = asked.force || asked.steps.iter().any(|step| step.force);
    let (steps, refused) = match read {
        Ok(steps) => (steps, None),
        Err(refused) => (Vec::new(), Some(refused)),
    };
    let work = Work { from, steps, refused, start, ready, network, force, key };
    let name = format!("building template {id}");
    drop(shared.scope.spawn(name, build::run(shared.clone(), build, work)));
    Ok(StatusCode::ACCEPTED.into_response())
}

/// What it is built on.
fn origin(shared: &Shared, asked: &StartBuild) -> Result<From, ApiError> {
    let templates = &shared.templates;
    match (&asked.from_template, &asked.from_image) {
        (Some(_), Some(_)) => refuse(StatusCode::BAD_REQUEST, "a template is from an image or from a template"),
        (None, None) => Ok(From::Host),
        (Some(name), None) if name == BASE => Ok(From::Host),
        (Some(name), None) => {
            let found = templates.resolve(name)?;
            let image = templates.images.find(&found.manifest.id, shared.env.now()).map_err(broken)?;
            image.map(|image| From::Image(Arc::new(image))).ok_or_else(|| templates.unknown(name))
        }
        (None, Some(name)) if templates.roots.has(name) => Ok(From::Root(name.clone())),
        (None, Some(name)) if split(name).0 == E2B_BASE || name == BASE => Ok(From::Host),
        (None, Some(name)) => {
            let names: Vec<_> = templates.roots.names().collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let message = format!(
                "this server has no image '{}', and it loads none from a registry; images that its operator has named: {names}",
                name.escape_debug()
            );
            refuse(StatusCode::BAD_REQUEST, message)
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Range {
    logs_offset: usize,
    limit: Option<usize>,
    level: Option<String>,
    /// Milliseconds since 1970.
    cursor: Option<i64>,
    direction: Option<String>,
}

/// The build, where it is or was this server's, and what it said.
fn look(shared: &Shared, template: &str, build: &str) -> Result<(State, Vec<LogEntry>), ApiError> {
    let templates = &shared.templates;
    if let Some(build) = templates.builds().get(build).filter(|found| found.template == template).cloned() {
        // The state first: what is said before the end is then in the log for sure.
        let state = build.state().clone();
        return Ok((state, build.log.all()));
    }
    let index = templates.catalogue.read().map_err(broken)?;
    let found = index.builds.get(build).filter(|found| found.template == template);
    let Some(found) = found else { return refuse(StatusCode::NOT_FOUND, format!("build '{build}' not found")) };
    let log = found.image.as_ref().and_then(|image| templates.images.find_unused(image).ok()??.log().ok());
    let (status, reason) = match found.status {
        BuildStatus::Ready | BuildStatus::Error => (found.status, found.reason.clone()),
        BuildStatus::Building | BuildStatus::Waiting => {
            (BuildStatus::Error, Some(build::lost("the server that was to build it has ended")))
        }
    };
    let mut log = log.unwrap_or_default();
    if log.is_empty() {
        log.extend(reason.iter().flat_map(|reason| reason.log_entries.clone()));
    }
    Ok((State { status, reason, begun: true }, log))
}

fn at_least<'a>(level: &'a Option<String>) -> impl Fn(&LogEntry) -> bool + 'a {
    let least = level.as_deref().map(weight).unwrap_or_default();
    move |entry| weight(&entry.level) >= least
}

async fn status(
    Given(shared): Given<Arc<Shared>>,
    headers: HeaderMap,
    Path((template, build)): Path<(String, String)>,
    Query(range): Query<Range>,
) -> Answer {
    admit(&shared, &headers)?;
    let (state, log) = look(&shared, &template, &build)?;
    let limit = range.limit.unwrap_or(MOST_ENTRIES).min(MOST_ENTRIES);
    let log_entries: Vec<_> =
        log.into_iter().filter(at_least(&range.level)).skip(range.logs_offset).take(limit).collect();
    let logs = log_entries.iter().map(|entry| entry.message.clone()).collect();
    let info = BuildInfo {
        template_id: template,
        build_id: build,
        status: state.status,
        logs,
        log_entries,
        reason: state.reason,
    };
    Ok(Json(info).into_response())
}

async fn logs(
    Given(shared): Given<Arc<Shared>>,
    headers: HeaderMap,
    Path((template, build)): Path<(String, String)>,
    Query(range): Query<Range>,
) -> Answer {
    admit(&shared, &headers)?;
    let (_, mut log) = look(&shared, &template, &build)?;
    let backward = range.direction.as_deref() == Some("backward");
    if let Some(cursor) = range.cursor {
        let at = |entry: &LogEntry| entry.timestamp.as_millisecond();
        log.retain(|entry| if backward { at(entry) <= cursor } else { at(entry) >= cursor });
    }
    log.retain(at_least(&range.level));
    if backward {
        log.reverse();
    }
    log.truncate(range.limit.unwrap_or(MOST_ENTRIES).min(MOST_ENTRIES));
    Ok(Json(json!({"logs": log})).into_response())
}

fn known<'a>(index: &'a Index, name: &str) -> Result<(&'a String, &'a Record), ApiError> {
    let unknown = || ApiError::new(StatusCode::NOT_FOUND, format!("template '{}' not found", name.escape_debug()));
    index.template(name).ok_or_else(unknown)
}

fn aliases(record: &Record) -> Vec<&String> {
    record.name.iter().collect()
}

fn template(shared: &Shared, index: &Index, id: &str, record: &Record) -> Value {
    let mut builds: Vec<_> = index.builds.iter().filter(|(_, build)| build.template == id).collect();
    builds.sort_by_key(|(_, build)| build.created_at);
    let current = record.tags.get(DEFAULT_TAG).or(record.tags.values().next()).map(|tag| &tag.build);
    let (current, build) = current.and_then(|id| index.builds.get_key_value(id)).or(builds.last().copied()).unzip();
    let image = build.and_then(|build| build.image.as_deref());
    let size_mb = image.and_then(|id| Some(shared.templates.images.find_unused(id).ok()??.manifest.bytes >> 20));
    let used_at: Option<Timestamp> = image.and_then(|id| shared.templates.images.used_at(id));
    json!({
        "templateID": id,
        "buildID": current,
        "cpuCount": record.cpu_count,
        "memoryMB": record.memory_mb,
        "diskSizeMB": size_mb.unwrap_or_default(),
        "public": record.public,
        "aliases": aliases(record),
        "names": aliases(record),
        "createdAt": record.created_at,
        "updatedAt": record.updated_at,
        "createdBy": null,
        "lastSpawnedAt": used_at,
        "spawnCount": 0,
        "buildCount": builds.len(),
        "envdVersion": ENVD_VERSION,
        "buildStatus": build.map_or(BuildStatus::Waiting, |build| status_of(shared, current, build)),
    })
}

/// Of this server's builds it knows better.
fn status_of(shared: &Shared, id: Option<&String>, build: &BuildRecord) -> BuildStatus {
    let own = id.and_then(|id| Some(shared.templates.builds().get(id)?.state().status));
    own.unwrap_or(match build.status {
        BuildStatus::Waiting | BuildStatus::Building => BuildStatus::Error,
        over => over,
    })
}

async fn list(Given(shared): Given<Arc<Shared>>, headers: HeaderMap) -> Answer {
    admit(&shared, &headers)?;
    let index = shared.templates.catalogue.read().map_err(broken)?;
    let all: Vec<_> = index.templates.iter().map(|(id, record)| template(&shared, &index, id, record)).collect();
    Ok(Json(all).into_response())
}

async fn one(Given(shared): Given<Arc<Shared>>, headers: HeaderMap, Path(id): Path<String>) -> Answer {
    admit(&shared, &headers)?;
    let index = shared.templates.catalogue.read().map_err(broken)?;
    let (id, record) = known(&index, &id)?;
    let mut builds: Vec<_> = index.builds.iter().filter(|(_, build)| build.template == *id).collect();
    builds.sort_by_key(|(_, build)| std::cmp::Reverse(build.created_at));
    let builds = builds.into_iter().map(|(id, build)| {
        json!({
            "buildID": id,
            "status": status_of(&shared, Some(id), build),
            "createdAt": build.created_at,
            "updatedAt": build.updated_at,
            "finishedAt": build.finished_at,
            "cpuCount": build.cpu_count,
            "memoryMB": build.memory_mb,
            "envdVersion": ENVD_VERSION,
        })
    });
    let mut answer = template(&shared, &index, id, record);
    answer["builds"] = builds.collect();
    Ok(Json(answer).into_response())
}

async fn delete(
    Given(shared): Given<Arc<Shared>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    admit(&shared, &headers)?;
    match shared.templates.remove(&id).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => refuse(StatusCode::NOT_FOUND, format!("template '{}' not found", id.escape_debug())),
    }
}

async fn update(Given(shared): Given<Arc<Shared>>, headers: HeaderMap, Path(id): Path<String>, body: Bytes) -> Answer {
    admit(&shared, &headers)?;
    let public = parse::<Value>(&body)?.get("public").and_then(Value::as_bool);
    let changed = shared.templates.change(move |index| {
        let id = index.template(&id).map(|(id, _)| id.clone())?;
        let record = index.templates.get_mut(&id)?;
        // Everybody with the key has every template, so it changes nothing else.
        record.public = public.unwrap_or(record.public);
        Some(aliases(record).into_iter().cloned().collect::<Vec<_>>())
    });
    match changed.await.map_err(broken)? {
        Some(names) => Ok(Json(json!({"names": names})).into_response()),
        None => refuse(StatusCode::NOT_FOUND, "template not found"),
    }
}

/// Known as soon as a sandbox can be made from it.
async fn alias(Given(shared): Given<Arc<Shared>>, headers: HeaderMap, Path(alias): Path<String>) -> Answer {
    admit(&shared, &headers)?;
    if alias == BASE {
        return Ok(Json(json!({"templateID": BASE, "public": true})).into_response());
    }
    let index = shared.templates.catalogue.read().map_err(broken)?;
    let (id, record) = known(&index, split(&alias).0)?;
    let whole = |build: &str| {
        let image = index.builds.get(build).and_then(|build| build.image.as_deref());
        image.is_some_and(|image| shared.templates.images.has(image))
    };
    let ready = match split(&alias).1 {
        Some(tag) => record.tags.get(tag).is_some_and(|tag| whole(&tag.build)),
        None => record.tags.values().any(|tag| whole(&tag.build)),
    };
    match ready {
        true => Ok(Json(json!({"templateID": id, "public": record.public})).into_response()),
        false => refuse(StatusCode::NOT_FOUND, format!("template '{alias}' has no build that is ready")),
    }
}

#[derive(Debug, Deserialize)]
struct Tags {
    #[serde(alias = "target")]
    name: String,
    tags: Vec<String>,
}

async fn assign_tags(Given(shared): Given<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Answer {
    admit(&shared, &headers)?;
    let asked: Tags = parse(&body)?;
    let tags = asked.tags.iter().map(|tag| checked_tag(tag)).collect::<Result<Vec<_>, _>>()?;
    let (now, own) = (shared.env.now(), tags.clone());
    let assigned = shared.templates.change(move |index| {
        let (id, _, build, _) = index.tagged(&asked.name)?;
        let (id, build) = (id.clone(), build.clone());
        let record = index.templates.get_mut(&id)?;
        for tag in own {
            record.tags.insert(tag, super::Tag { build: build.clone(), assigned_at: now });
        }
        Some(build)
    });
    match assigned.await.map_err(broken)? {
        Some(build) => Ok((StatusCode::CREATED, Json(json!({"tags": tags, "buildID": build}))).into_response()),
        None => refuse(StatusCode::NOT_FOUND, "there is no build with this name and tag"),
    }
}

async fn remove_tags(
    Given(shared): Given<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    admit(&shared, &headers)?;
    let asked: Tags = parse(&body)?;
    let removed = shared.templates.change(move |index| {
        let id = index.template(split(&asked.name).0).map(|(id, _)| id.clone())?;
        let record = index.templates.get_mut(&id)?;
        asked.tags.iter().for_each(|tag| drop(record.tags.remove(tag)));
        Some(())
    });
    match removed.await.map_err(broken)? {
        Some(()) => Ok(StatusCode::NO_CONTENT),
        None => refuse(StatusCode::NOT_FOUND, "template not found"),
    }
}

async fn tags(Given(shared): Given<Arc<Shared>>, headers: HeaderMap, Path(id): Path<String>) -> Answer {
    admit(&shared, &headers)?;
    let index = shared.templates.catalogue.read().map_err(broken)?;
    let (_, record) = known(&index, &id)?;
    let tags = record.tags.iter();
    let tags = tags.map(|(name, tag)| json!({"tag": name, "buildID": tag.build, "createdAt": tag.assigned_at}));
    Ok(Json(tags.collect::<Vec<_>>()).into_response())
}
