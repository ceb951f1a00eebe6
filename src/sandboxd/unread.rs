//! What is left of a request that was refused: it is taken off the connection before the answer goes out.
//!
//! Otherwise the connection is closed under a client that is still sending, and some (Node's) then tell of a broken connection and never
//! look at the answer.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::Request;
use axum::http::header::EXPECT;
use axum::middleware::Next;
use axum::response::Response;
use futures_util::{Stream, StreamExt as _};

/// More than that is not waited for: the client has to live with a closed connection.
const MOST_BYTES: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(2);

type Left = Arc<Mutex<Option<BodyDataStream>>>;

/// A body whose rest is put aside when its reader has had enough of it.
struct Watched {
    body: Option<BodyDataStream>,
    left: Left,
}

impl Stream for Watched {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = body.poll_next_unpin(context);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        polled
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = self.body.take();
    }
}

/// Reads what a refused request still holds, within bounds.
pub(super) async fn taken(request: Request, next: Next) -> Response {
    // Who asks first whether to send at all has sent nothing.
    if request.headers().contains_key(EXPECT) {
        return next.run(request).await;
    }
    let left = Left::default();
    let (parts, body) = request.into_parts();
    let watched = Watched { body: Some(body.into_data_stream()), left: left.clone() };
    let response = next.run(Request::from_parts(parts, Body::from_stream(watched))).await;
    // Whatever the status: a refused Connect stream is answered with 200.
    let rest = left.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(mut rest) = rest {
        let mut bytes = 0;
        let reading = async {
            while bytes <= MOST_BYTES
                && let Some(Ok(piece)) = rest.next().await
            {
                bytes += piece.len();
            }
        };
        // One who is slower than that hears it or not.
        drop(tokio::time::timeout(PATIENCE, reading).await);
    }
    response
}
