//! Connect calls over HTTP, JSON alone: one message in and one out, or streams of framed messages.
//!
//! A frame is a flag, a length (big endian) and a message. The last frame of a stream has a flag of its own and says how the stream
//! ended; the HTTP status of a stream is always 200. Messages are never compressed: nobody who speaks to this server asks for it.
//! No message is held that is larger than `MOST_MESSAGE`, whatever its sender says of it.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::base::base64;
use crate::clients::e2b::wire::{self, END_OF_STREAM, MOST_MESSAGE};

use super::error::RpcError;

/// A message with this flag is compressed.
const COMPRESSED: u8 = 1;

/// How often a stream that says nothing shows that it lives, unless the caller asks for another interval.
const KEEPALIVE: Duration = Duration::from_secs(90);
/// And the longest such interval, in seconds.
const MOST_QUIET: u64 = 24 * 3600;

/// The body of a call with one message, from a caller who may ask and in a form that is read here.
pub(super) struct Unary(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for Unary {
    type Rejection = RpcError;

    async fn from_request(request: Request, _: &S) -> Result<Self, RpcError> {
        admit(request.headers(), CONTENT_ENCODING.as_str(), "application/json")?;
        let mut pieces = request.into_body().into_data_stream();
        let mut read = Vec::new();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| broken_off(&error))?;
            if read.len() + piece.len() > MOST_MESSAGE {
                return Err(too_large());
            }
            read.extend_from_slice(&piece);
        }
        Ok(Self(read.into()))
    }
}

/// Refuses a call of a stream by a user that there is not, or in a form that is not read here.
pub(super) fn admit_stream(headers: &HeaderMap) -> Result<(), RpcError> {
    admit(headers, "connect-content-encoding", "application/connect+json")
}

fn admit(headers: &HeaderMap, encoding: &str, form: &str) -> Result<(), RpcError> {
    let said = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_owned());
    if let Some(version) = said("connect-protocol-version").filter(|version| version != "1") {
        let message = format!("connect-protocol-version must be \"1\": got \"{version}\"");
        return Err(RpcError::new("invalid_argument", message));
    }
    if let Some(asked) = said(CONTENT_TYPE.as_str()) {
        let kind = asked.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case(form) {
            return Err(RpcError::new("unimplemented", format!("content type \"{kind}\": this call takes {form}")));
        }
    }
    if let Some(coding) = said(encoding).filter(|coding| !coding.is_empty() && coding != "identity") {
        let message = format!("unknown compression \"{coding}\": supported encodings are identity");
        return Err(RpcError::new("unimplemented", message));
    }
    user(headers)
}

fn too_large() -> RpcError {
    RpcError::new("resource_exhausted", format!("message is larger than configured max {MOST_MESSAGE}"))
}

fn broken_off(error: &axum::Error) -> RpcError {
    RpcError::new("canceled", format!("the request broke off: {error}"))
}

/// The one message of a call. Nothing at all is the empty message.
pub(super) fn message<T: DeserializeOwned>(body: &[u8]) -> Result<T, RpcError> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| RpcError::new("invalid_argument", format!("the message: {error}")))
}

/// The deadline that the caller sets, if any.
pub(super) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, RpcError> {
    let Some(value) = headers.get("connect-timeout-ms") else { return Ok(None) };
    let wrong = || RpcError::new("invalid_argument", "Connect-Timeout-Ms is no number of milliseconds");
    // The protocol allows ten digits, so no clock can overflow.
    let digits = value.to_str().ok().map(str::trim).filter(|value| value.len() <= 10).ok_or_else(wrong)?;
    let milliseconds: u64 = digits.parse().map_err(|_| wrong())?;
    Ok((milliseconds > 0).then(|| Duration::from_millis(milliseconds)))
}

/// How often the caller wants to see that a stream lives.
pub(super) fn keepalive(headers: &HeaderMap) -> Duration {
    let seconds = headers.get("keepalive-ping-interval").and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let seconds = seconds.filter(|seconds: &u64| *seconds > 0);
    seconds.map_or(KEEPALIVE, |seconds| Duration::from_secs(seconds.min(MOST_QUIET)))
}

/// Refuses every user but the one that there is.
pub(super) fn user(headers: &HeaderMap) -> Result<(), RpcError> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(()) };
    let named = value.to_str().ok().and_then(|value| base64::decoded(value.strip_prefix("Basic ")?.trim()));
    let Some(named) = named else {
        return Err(RpcError::new("unauthenticated", "the authorization names no user"));
    };
    let name = named.split(|byte| *byte == b':').next().unwrap_or_default();
    match name {
        b"" | b"user" => Ok(()),
        other => Err(RpcError::new(
            "unauthenticated",
            format!("invalid username: '{}': sandboxes here have the one user `user`", String::from_utf8_lossy(other)),
        )),
    }
}

/// The framed messages of a request.
pub(super) struct Frames {
    body: axum::body::BodyDataStream,
    read: Vec<u8>,
}

impl Frames {
    pub(super) fn new(body: Body) -> Self {
        Self { body: body.into_data_stream(), read: Vec::new() }
    }

    /// The next message; `None` at the end of the request.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, RpcError> {
        loop {
            if let [flag, a, b, c, d, ..] = self.read[..] {
                let length = u32::from_be_bytes([a, b, c, d]) as usize;
                if length > MOST_MESSAGE {
                    return Err(too_large());
                }
                if flag & COMPRESSED != 0 {
                    return Err(RpcError::new("unimplemented", "compressed messages are not taken here"));
                }
                if self.read.len() >= length + 5 {
                    let framed: Vec<u8> = self.read.drain(..length + 5).collect();
                    if flag & END_OF_STREAM != 0 {
                        return Ok(None);
                    }
                    return message(&framed[5..]).map(Some);
                }
            }
            match self.body.next().await {
                Some(Ok(piece)) => self.read.extend_from_slice(&piece),
                Some(Err(error)) => return Err(broken_off(&error)),
                None if self.read.is_empty() => return Ok(None),
                None => return Err(RpcError::new("invalid_argument", "the request ends within a message")),
            }
        }
    }

    /// The one message of a call that answers with a stream.
    pub(super) async fn only<T: DeserializeOwned>(&mut self) -> Result<T, RpcError> {
        let none = || RpcError::new("invalid_argument", "the request has no message");
        self.next().await?.ok_or_else(none)
    }
}

/// One step of an answer that is a stream.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A message, framed.
    Message(Bytes),
    /// The last: how it ended.
    End(Option<RpcError>),
}

impl Step {
    pub(super) fn message(message: &impl Serialize) -> Self {
        match serde_json::to_vec(message) {
            Ok(json) => Self::Message(wire::frame(0, &json).into()),
            Err(error) => Self::End(Some(RpcError::new("internal", error.to_string()))),
        }
    }
}

/// An answer of the steps of a stream, until its end step or `until`. Where nothing comes for `quiet` the message `alive` is sent. Steps
/// that cease without an end step are an end that nobody explained.
pub(super) fn streamed(
    steps: impl Stream<Item = Step> + Send + 'static,
    until: Option<Instant>,
    quiet: Duration,
    alive: Step,
) -> Response {
    let pieces = futures_util::stream::unfold(Some(Box::pin(steps)), move |steps| {
        let alive = alive.clone();
        async move {
            let mut steps = steps?;
            let next = Instant::now() + quiet;
            let step = match tokio::time::timeout_at(until.map_or(next, |until| until.min(next)), steps.next()).await {
                Ok(Some(step)) => step,
                Ok(None) => Step::End(Some(RpcError::new("unavailable", "the stream was broken off"))),
                Err(_) if until.is_some_and(|until| until <= next) => {
                    Step::End(Some(RpcError::new("deadline_exceeded", "the caller's time is over")))
                }
                Err(_) => alive,
            };
            Some(match step {
                Step::Message(framed) => (Ok::<_, std::convert::Infallible>(framed), Some(steps)),
                Step::End(error) => (Ok(last(error.as_ref())), None),
            })
        }
    });
    stream_of(Body::from_stream(pieces))
}

/// An answer that ends before its first message.
pub(super) fn refused(error: &RpcError) -> Response {
    stream_of(Body::from(last(Some(error))))
}

/// A stream of one message.
pub(super) fn single(answer: Result<impl Serialize, RpcError>) -> Response {
    match answer.map(|message| Step::message(&message)) {
        Ok(Step::Message(framed)) => stream_of(Body::from([framed, last(None)].concat())),
        Ok(Step::End(error)) => stream_of(Body::from(last(error.as_ref()))),
        Err(error) => refused(&error),
    }
}

fn last(error: Option<&RpcError>) -> Bytes {
    let end = match error {
        None => serde_json::json!({}),
        Some(error) => serde_json::json!({"error": error.wire()}),
    };
    wire::frame(END_OF_STREAM, end.to_string().as_bytes()).into()
}

fn stream_of(body: Body) -> Response {
    let kind = (CONTENT_TYPE, HeaderValue::from_static("application/connect+json"));
    (StatusCode::OK, [kind], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn body(pieces: Vec<Vec<u8>>) -> Body {
        Body::from_stream(futures_util::stream::iter(pieces.into_iter().map(Ok::<_, std::convert::Infallible>)))
    }

    #[tokio::test]
    async fn messages_are_found_wherever_the_request_was_cut() {
        let bytes = [wire::frame(0, br#"{"a": 1}"#), wire::frame(0, b"{}"), wire::frame(0, br#"{"b": "x"}"#)].concat();
        for at in 0..bytes.len() {
            let (head, tail) = bytes.split_at(at);
            let mut frames = Frames::new(body(vec![head.to_vec(), tail.to_vec()]));
            let mut found: Vec<Value> = Vec::new();
            while let Some(message) = frames.next().await.unwrap() {
                found.push(message);
            }
            assert_eq!(found, [json!({"a": 1}), json!({}), json!({"b": "x"})], "{at}");
        }
    }

    #[tokio::test]
    async fn what_is_too_large_compressed_or_cut_off_is_refused() {
        for (bytes, code) in [
            (vec![0, 0xff, 0, 0, 0], "resource_exhausted"),
            (wire::frame(COMPRESSED, b"x"), "unimplemented"),
            (vec![0, 0, 0, 0, 9, b'{'], "invalid_argument"),
            (vec![0, 0], "invalid_argument"),
            (wire::frame(0, b"{"), "invalid_argument"),
        ] {
            let error = Frames::new(body(vec![bytes])).next::<Value>().await.unwrap_err();
            assert_eq!(error.code, code);
        }
        assert_eq!(Frames::new(Body::empty()).only::<Value>().await.unwrap_err().code, "invalid_argument");
    }

    #[test]
    fn headers_say_who_asks_and_for_how_long() {
        let header = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(name.parse::<axum::http::HeaderName>().unwrap(), HeaderValue::from_static(value))])
        };
        for (value, good) in
            [("Basic dXNlcjo=", true), ("Basic Og==", true), ("Basic cm9vdDo=", false), ("Bearer x", false)]
        {
            assert_eq!(user(&header("authorization", value)).is_ok(), good, "{value}");
        }
        assert!(user(&HeaderMap::new()).is_ok());
        assert_eq!(timeout(&header("connect-timeout-ms", "1500")).unwrap(), Some(Duration::from_millis(1500)));
        assert_eq!(timeout(&header("connect-timeout-ms", "0")).unwrap(), None);
        assert!(timeout(&header("connect-timeout-ms", "soon")).is_err());
        assert!(timeout(&header("connect-timeout-ms", "18446744073709551615")).is_err());
        assert_eq!(keepalive(&header("keepalive-ping-interval", "18446744073709551615")).as_secs(), MOST_QUIET);
        let admitted = |name, value| admit(&header(name, value), "content-encoding", "application/json");
        for (name, value) in [
            ("content-type", "application/json"),
            ("content-type", "Application/JSON; charset=utf-8"),
            ("connect-protocol-version", "1"),
            ("content-encoding", "identity"),
        ] {
            assert!(admitted(name, value).is_ok(), "{name}: {value}");
        }
        for (name, value, code) in [
            ("content-type", "application/proto", "unimplemented"),
            ("connect-protocol-version", "2", "invalid_argument"),
            ("content-encoding", "gzip", "unimplemented"),
            ("authorization", "Basic cm9vdDo=", "unauthenticated"),
        ] {
            assert_eq!(admitted(name, value).unwrap_err().code, code, "{name}: {value}");
        }
        assert_eq!(keepalive(&header("keepalive-ping-interval", "5")), Duration::from_secs(5));
        assert_eq!(keepalive(&HeaderMap::new()), KEEPALIVE);
    }
}
