//! `/hooks/{name}` on an address of its own, so that exposing a webhook never exposes anything else.
//!
//! Reads the body whole (capped) and hands it over raw; what it means, and whether it is genuine, is for the handler of that
//! name to say. An unknown name is 404, a body above the cap 413, and nothing else is answered here.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;

use super::Listener;
use crate::base::scope::Scope;
use crate::triggers::hook::{HookRequest, Hooks};

/// Where it listens when nothing else is said.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:7718";

/// The most bytes of a delivery. GitHub sends up to 25 MB, Sentry and Slack far less.
const MOST_BYTES: usize = 25 << 20;

impl Listener {
    /// Takes deliveries in a task of `scope` until it is closed.
    pub fn serve_hooks(self, scope: &Scope, hooks: Hooks) {
        let stopping = scope.token().clone().cancelled_owned();
        drop(scope.spawn("hooks", async move {
            let router = axum::Router::new().route("/hooks/{name}", post(take)).with_state(hooks);
            let server = axum::serve(self.listener, router).with_graceful_shutdown(stopping);
            if let Err(error) = server.await {
                tracing::error!(%error, "the listener for webhooks ended");
            }
        }));
    }
}

async fn take(State(hooks): State<Hooks>, Path(name): Path<String>, headers: HeaderMap, body: Body) -> Response {
    let Some(handler) = hooks.0.get(&name).cloned() else { return StatusCode::NOT_FOUND.into_response() };
    let body = match axum::body::to_bytes(body, MOST_BYTES).await {
        Ok(body) => body,
        Err(_) => return StatusCode::PAYLOAD_TOO_LARGE.into_response(),
    };
    let headers = headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
    let answer = handler(HookRequest { headers, body }).await;
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match answer.body {
        Some((kind, text)) => (status, [(header::CONTENT_TYPE, kind)], text).into_response(),
        None => status.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::triggers::hook::HookAnswer;

    #[tokio::test]
    async fn a_delivery_reaches_its_handler_raw_and_nothing_else_is_answered() {
        let mut hooks = Hooks::default();
        hooks.add(
            "echo",
            Arc::new(|request| {
                Box::pin(async move {
                    let said = format!("{:?} {:?}", request.header("x-one"), request.body);
                    HookAnswer::text(202, said)
                })
            }),
        );
        let scope = Scope::new(tokio::runtime::Handle::current());
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.address().unwrap();
        listener.serve_hooks(&scope, hooks);
        let send = async |request: &str| {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let head = "HTTP/1.1\r\nhost: x\r\nconnection: close\r\nX-One: 1\r\ncontent-length: 2\r\n\r\nab";
        let answer = send(&format!("POST /hooks/echo {head}")).await;
        assert!(answer.starts_with("HTTP/1.1 202") && answer.ends_with(r#"Some("1") b"ab""#), "{answer}");
        assert!(send(&format!("POST /hooks/other {head}")).await.starts_with("HTTP/1.1 404"));
        assert!(send(&format!("GET /hooks/echo {head}")).await.starts_with("HTTP/1.1 405"));
        assert!(send(&format!("POST /healthz {head}")).await.starts_with("HTTP/1.1 404"));
        assert!(scope.close(Duration::from_secs(5)).await.is_empty());
    }
}
