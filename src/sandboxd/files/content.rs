//! `/files`: contents in both directions, and joining what was sent in parts.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body as Sent, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query as FromQuery, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};

use super::super::Shared;
use super::super::error::ApiError;
use super::super::live::{Inside, Live, awake};
use super::access::{Query, admit};
use super::body::{Body, BodyError};
use super::check_user;
use super::multipart::Multipart;
use crate::isolation::{Entry, Files, PIECE, ReadFrom, Reader, Writer};

/// Names of metadata, with what the kernel puts before them, are no longer than its.
const MOST_KEY: usize = 255 - "user.e2b.".len();
/// And all of it together, with that before each.
const MOST_METADATA: usize = 4096;

fn bad(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, message)
}

type Asked = Result<FromQuery<Query>, QueryRejection>;

fn query(asked: Asked) -> Result<Query, ApiError> {
    asked.map(|FromQuery(query)| query).map_err(|error| bad(error.to_string()))
}

/// The content of a file, or a part of it.
pub(super) async fn read(State(shared): State<Arc<Shared>>, asked: Asked, parts: Parts) -> Result<Response, ApiError> {
    let query = query(asked)?;
    let live = awake(&shared, admit(&shared, &parts, &query, "read")?).await?;
    let path = live.path(query.path.as_deref().unwrap_or_default()).map_err(bad)?;
    let files = live.files(&shared);
    let range = parts.headers.get(header::RANGE).and_then(|value| range(value.to_str().ok()?));
    // A condition that we cannot judge means the whole.
    let range = range.filter(|_| !parts.headers.contains_key(header::IF_RANGE));
    let (from, most) = range.unwrap_or((ReadFrom::Start(0), None));
    let reader = files.open(&path, from, most).await?;
    let mut answer = HeaderMap::new();
    answer.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    answer.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    answer.insert(header::CONTENT_DISPOSITION, disposition(&path));
    if let Some(modified) = modified(&reader) {
        answer.insert(header::LAST_MODIFIED, modified);
    }
    // Files of the kernel's say that they are empty and are not: they come in one go, for as long as there is something.
    let size = reader.size;
    let mut status = StatusCode::OK;
    if size > 0 {
        answer.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if range.is_some() {
            if reader.at >= size {
                answer.insert(header::CONTENT_RANGE, text(format!("bytes */{size}")));
                let message = format!("the file has {size} bytes");
                return Ok((answer, ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, message)).into_response());
            }
            status = StatusCode::PARTIAL_CONTENT;
            let last = reader.at + most.unwrap_or(u64::MAX).min(size - reader.at) - 1;
            answer.insert(header::CONTENT_RANGE, text(format!("bytes {}-{last}/{size}", reader.at)));
        }
    }
    let promised = match reader.whole() {
        Some(length) => Some(length as u64),
        None if size > 0 => Some((size.saturating_sub(reader.at)).min(most.unwrap_or(u64::MAX))),
        None => None,
    };
    if let Some(promised) = promised {
        answer.insert(header::CONTENT_LENGTH, promised.into());
    }
    Ok((status, answer, stream(reader, promised)).into_response())
}

/// What comes out of a reader: exactly as much as was promised, or a broken connection.
fn stream(reader: Reader, promised: Option<u64>) -> Sent {
    let next = |(mut reader, left): (Reader, Option<u64>)| async move {
        if left == Some(0) {
            return Ok(None);
        }
        let Some(mut piece) = reader.next().await.map_err(io::Error::other)? else {
            return match left {
                None => Ok(None),
                Some(_) => Err(io::Error::other("the file has become shorter while it was read")),
            };
        };
        let left = left.map(|left| {
            // It may have become longer.
            piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            left - piece.len() as u64
        });
        Ok::<_, io::Error>(Some((Bytes::from(piece), (reader, left))))
    };
    Sent::from_stream(futures_util::stream::try_unfold((reader, promised), next))
}

/// One range of bytes; several at once are answered with everything.
fn range(header: &str) -> Option<(ReadFrom, Option<u64>)> {
    let (first, last) = header.strip_prefix("bytes=")?.trim().split_once('-')?;
    match (first, last) {
        ("", back) => Some((ReadFrom::End(back.parse().ok().filter(|back| *back > 0)?), None)),
        (first, "") => Some((ReadFrom::Start(first.parse().ok()?), None)),
        (first, last) => {
            let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
            Some((ReadFrom::Start(first), Some(last.checked_sub(first)?.saturating_add(1))))
        }
    }
}

fn text(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

fn modified(reader: &Reader) -> Option<HeaderValue> {
    let at = jiff::Timestamp::from_second(reader.modified.seconds).ok()?;
    Some(text(at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()))
}

fn disposition(path: &str) -> HeaderValue {
    let name = path.rsplit('/').next().unwrap_or_default();
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b" ._-+".contains(&byte));
    if plain {
        return text(format!("inline; filename=\"{name}\""));
    }
    let encoded: String = name
        .bytes()
        .map(|byte| match byte.is_ascii_alphanumeric() || b"._-".contains(&byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect();
    text(format!("inline; filename*=utf-8''{encoded}"))
}

/// A file that was written.
#[derive(Debug, Serialize)]
pub(super) struct Written {
    path: String,
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
}

impl From<Entry> for Written {
    fn from(entry: Entry) -> Self {
        Self { path: entry.path, name: entry.name, kind: "file", metadata: entry.metadata }
    }
}

/// Writes files: one as it is, or those of a form.
pub(super) async fn write(
    State(shared): State<Arc<Shared>>,
    asked: Asked,
    parts: Parts,
    sent: Sent,
) -> Result<Json<Vec<Written>>, ApiError> {
    let query = query(asked)?;
    let live = awake(&shared, admit(&shared, &parts, &query, "write")?).await?;
    let metadata = metadata(&parts.headers).map_err(|message| bad(format!("invalid metadata: {message}")))?;
    let said = parts.headers.get(header::CONTENT_TYPE).map_or("", |value| value.to_str().unwrap_or_default());
    let kind = said.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let body = Body::new(&parts.headers, sent).map_err(bad)?;
    let upload = Upload { live: &live, files: live.files(&shared), path: query.path, metadata };
    let (written, rest) = match kind.as_str() {
        "application/octet-stream" => upload.raw(body).await,
        kind if kind.starts_with("multipart/") => match Multipart::new(said, body) {
            Some(form) => upload.form(form).await,
            None => return Err(bad("error parsing multipart form: no multipart boundary param in Content-Type")),
        },
        _ => {
            let message =
                format!("unsupported content type: {said}, expected multipart/form-data or application/octet-stream");
            (Err(bad(message)), body)
        }
    };
    if written.is_err() {
        rest.drain().await;
    }
    written.map(Json)
}

struct Upload<'a> {
    live: &'a Live,
    files: &'a Files,
    path: Option<String>,
    metadata: BTreeMap<String, String>,
}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        bad(error.to_string())
    }
}

impl Upload<'_> {
    /// Both answer what is left of the request as well.
    async fn raw(self, mut body: Body) -> (Result<Vec<Written>, ApiError>, Body) {
        let written = async {
            let missing = || bad("path query parameter is required for raw body upload");
            let path = self.live.path(self.path.as_deref().ok_or_else(missing)?).map_err(bad)?;
            let mut pieces = Pieces::new(self.files.create(&path, self.metadata.clone()).await?);
            while let Some(piece) = body.next().await? {
                pieces.push(&piece).await?;
            }
            Ok(vec![pieces.finish().await?])
        };
        (written.await, body)
    }

    async fn form(self, mut form: Multipart) -> (Result<Vec<Written>, ApiError>, Body) {
        let written = async {
            let mut written: Vec<Written> = Vec::new();
            while let Some(part) = form.part().await? {
                if part.name.as_deref() != Some("file") {
                    continue;
                }
                let said = self.path.as_ref().or(part.filename.as_ref()).filter(|said| !said.is_empty());
                let path = self.live.path(said.ok_or_else(|| bad("a file of the form has no name"))?).map_err(bad)?;
                if written.iter().any(|file| file.path == path) {
                    return Err(bad(format!(
                        "you cannot upload multiple files to the same path '{path}' in one upload request, only the \
                         first specified file was uploaded"
                    )));
                }
                let mut pieces = Pieces::new(self.files.create(&path, self.metadata.clone()).await?);
                while let Some(piece) = form.piece().await? {
                    pieces.push(&piece).await?;
                }
                written.push(pieces.finish().await?);
            }
            Ok(written)
        };
        (written.await, form.into_body())
    }
}

/// Gathers what comes in small pieces.
struct Pieces {
    writer: Writer,
    buffer: Vec<u8>,
}

impl Pieces {
    fn new(writer: Writer) -> Self {
        Self { writer, buffer: Vec::new() }
    }

    async fn push(&mut self, piece: &[u8]) -> Result<(), ApiError> {
        self.buffer.extend_from_slice(piece);
        if self.buffer.len() >= PIECE {
            let whole = self.buffer.len() / PIECE * PIECE;
            self.writer.write(self.buffer.get(..whole).unwrap_or_default()).await?;
            self.buffer.drain(..whole);
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<Written, ApiError> {
        self.writer.write(&self.buffer).await?;
        Ok(self.writer.finish().await?.into())
    }
}

/// What `X-Metadata-…` says of all files of a request.
fn metadata(headers: &HeaderMap) -> Result<BTreeMap<String, String>, String> {
    let mut all = BTreeMap::new();
    let mut size = 0;
    for name in headers.keys() {
        let Some(key) = name.as_str().strip_prefix("x-metadata-").filter(|key| !key.is_empty()) else { continue };
        let value = headers.get(name).map(HeaderValue::as_bytes).unwrap_or_default();
        if key.len() > MOST_KEY {
            return Err(format!("metadata key \"{key}\" exceeds {MOST_KEY} bytes"));
        }
        let Some(value) = std::str::from_utf8(value).ok().filter(|v| v.bytes().all(|b| (0x20..0x7f).contains(&b)))
        else {
            return Err(format!("metadata value for key \"{key}\" contains a byte that is not printable ASCII"));
        };
        size += "user.e2b.".len() + key.len() + value.len();
        all.insert(key.to_owned(), value.to_owned());
    }
    match size {
        0..=MOST_METADATA => Ok(all),
        _ => Err(format!("total metadata size {size} exceeds {MOST_METADATA} bytes")),
    }
}

/// `POST /files/compose`.
#[derive(Debug, Deserialize)]
pub(super) struct Compose {
    #[serde(default)]
    source_paths: Vec<String>,
    #[serde(default)]
    destination: String,
    username: Option<String>,
}

/// Joins files into one and removes them.
pub(super) async fn compose(
    State(shared): State<Arc<Shared>>,
    Inside(live): Inside,
    body: Bytes,
) -> Result<Json<Written>, ApiError> {
    let asked: Compose =
        serde_json::from_slice(&body).map_err(|error| bad(format!("invalid request body: {error}")))?;
    if asked.source_paths.is_empty() {
        return Err(bad("source_paths must not be empty"));
    }
    if asked.destination.is_empty() {
        return Err(bad("destination is required"));
    }
    check_user(asked.username.as_deref()).map_err(|message| ApiError::new(StatusCode::UNAUTHORIZED, message))?;
    let sources = asked.source_paths.iter().map(|path| live.path(path)).collect::<Result<Vec<_>, _>>().map_err(bad)?;
    let target = live.path(&asked.destination).map_err(bad)?;
    Ok(Json(live.files(&shared).compose(sources, &target).await?.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_one_or_none() {
        assert_eq!(range("bytes=0-0"), Some((ReadFrom::Start(0), Some(1))));
        assert_eq!(range("bytes=5-"), Some((ReadFrom::Start(5), None)));
        assert_eq!(range("bytes=-5"), Some((ReadFrom::End(5), None)));
        assert_eq!(range("bytes=0-18446744073709551615"), Some((ReadFrom::Start(0), Some(u64::MAX))));
        for other in ["bytes=5-4", "bytes=-", "bytes=-0", "bytes=0-1,3-4", "lines=1-2", "bytes=a-b", ""] {
            assert_eq!(range(other), None, "{other}");
        }
    }

    #[test]
    fn metadata_is_printable_and_small() {
        let of = |pairs: &[(&str, &str)]| {
            let pair = |(name, value): &(&str, &str)| {
                (name.parse().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
            };
            metadata(&pairs.iter().map(pair).collect())
        };
        let found = of(&[("X-Metadata-Author", "me"), ("x-metadata-", "no"), ("x-other", "no")]).unwrap();
        assert_eq!(found, BTreeMap::from([("author".into(), "me".into())]));
        assert!(of(&[("x-metadata-a", "ü")]).is_err());
        assert!(of(&[("x-metadata-a", "\t")]).is_err());
        assert!(of(&[(&format!("x-metadata-{}", "k".repeat(247)), "")]).is_err());
        assert!(of(&[("x-metadata-a", &"v".repeat(4086)), ("x-metadata-b", "")]).is_err());
        assert!(of(&[("x-metadata-a", &"v".repeat(4086))]).is_ok());
    }

    #[test]
    fn any_name_goes_into_a_header() {
        assert_eq!(disposition("/a/b c.txt"), "inline; filename=\"b c.txt\"");
        assert_eq!(disposition("/a/\"\n;ü"), "inline; filename*=utf-8''%22%0A%3B%C3%BC");
    }
}
