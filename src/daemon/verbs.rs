//! What the holder does for commands that reach it through the control socket.

use std::sync::{Arc, Weak};

use crate::base::BoxFuture;
use crate::base::ids::RunId;
use crate::control::{Handler, Refusal, Replies, Reply, Request};

use super::{Holder, Inner};

/// Answers requests while the holder lives. Holds it weakly: the socket does not keep a stopping holder alive.
pub(super) fn handler(holder: &Holder) -> Handler {
    let weak: Weak<Inner> = Arc::downgrade(&holder.inner);
    Arc::new(move |request, replies| -> BoxFuture<'static, ()> {
        let weak = weak.clone();
        Box::pin(async move {
            match weak.upgrade() {
                Some(inner) => answer(Holder { inner }, request, replies).await,
                None => replies.send(Reply::Refused(Refusal::new("E-STOPPING", "the daemon is stopping"))).await,
            }
        })
    })
}

async fn answer(holder: Holder, request: Request, replies: Replies) {
    let reply = match request {
        Request::Status => Ok(Reply::Status(holder.status())),
        Request::Run(request) => holder.submit(*request).await.map(|submitted| Reply::Started { run: submitted.run() }),
        Request::Cancel { run, reason } => holder.cancel(&run, &reason).await.map(|()| Reply::Done),
        Request::Resume { run: Some(run), add, by } => {
            holder.resume(&run, add, &by).await.map(|()| Reply::Resumed { runs: vec![run] })
        }
        Request::Resume { run: None, .. } => {
            let resumed = holder.resume_open().await;
            resumed.map(|runs| Reply::Resumed { runs }).map_err(|e| Refusal::new("E-JOURNAL", e.to_string()))
        }
        Request::Signal { run, path, name, value, by } => {
            holder.signal(&run, &path, &name, value, &by).await.map(|()| Reply::Done)
        }
        Request::Mute { id, until, reason, by } => holder.mute(&id, until, &reason, &by).await.map(|()| Reply::Done),
        Request::Unmute { id, by } => holder.unmute(&id, &by).await.map(|()| Reply::Done),
        Request::Feedback { id, word, by } => holder.feedback(&id, &word, &by).await.map(|()| Reply::Done),
        Request::Wait { run } => {
            tokio::select! {
                ended = holder.wait(&run) => ended
                    .map(|outcome| Reply::Ended { outcome })
                    .map_err(|e| Refusal::new("E-JOURNAL", e.to_string())),
                () = replies.gone() => Ok(Reply::Ended { outcome: None }),
            }
        }
        Request::Live { run } => return live(&holder, run.as_ref(), &replies).await,
    };
    replies.send(reply.unwrap_or_else(Reply::Refused)).await;
}

/// Passes on what models say until nobody listens. A slow listener misses some.
async fn live(holder: &Holder, only: Option<&RunId>, replies: &Replies) {
    use tokio::sync::broadcast::error::RecvError;
    let mut live = holder.engine().live();
    loop {
        let said = tokio::select! {
            said = live.recv() => said,
            () = replies.gone() => return,
        };
        match said {
            Ok(said) if only.is_none_or(|run| *run == said.run) => {
                replies.send(Reply::Text { run: said.run, path: said.path, text: said.text }).await;
            }
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}
