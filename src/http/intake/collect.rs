//! Between the requests and the journal: what comes together is written together.
//!
//! A bounded queue; whoever does not fit is told so at once. The more comes while a batch is written, the more share the next
//! one, and of a flood of one group only the newest events are prepared and kept. An answer means that it is on disk.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::Refused;
use crate::base::scope::Scope;
use crate::domain::error_group::ErrorStanding;
use crate::journal::{ErrorBounds, Journal};
use crate::policy::errors::seen::{SeenEvent, together};

/// Requests that wait to be written.
const WAITING: usize = 2_048;
/// Requests of one batch.
const BATCH: usize = 256;
/// Batches under way: one is prepared while another is written.
const UNDER_WAY: usize = 2;

/// Hears how groups stand after each batch that was written.
pub type News = Arc<dyn Fn(Vec<ErrorStanding>) + Send + Sync>;

struct Waiting {
    events: Vec<SeenEvent>,
    reply: oneshot::Sender<Result<(), Refused>>,
}

/// The queue's end for requests.
#[derive(Clone)]
pub struct Collector(mpsc::Sender<Waiting>);

impl Collector {
    /// Starts the writer of batches; it ends when the last clone of the collector is gone.
    pub fn start(scope: &Scope, journal: Journal, bounds: ErrorBounds, news: News) -> Self {
        let (sender, mut queue) = mpsc::channel(WAITING);
        let inside = scope.clone();
        drop(scope.spawn("intake", async move {
            let places = Arc::new(Semaphore::new(UNDER_WAY));
            loop {
                let Ok(place) = places.clone().acquire_owned().await else { return };
                let mut batch = Vec::new();
                if queue.recv_many(&mut batch, BATCH).await == 0 {
                    return;
                }
                let (journal, news) = (journal.clone(), news.clone());
                drop(inside.spawn("intake batch", async move {
                    write(journal, bounds, batch, news).await;
                    drop(place);
                }));
            }
        }));
        Self(sender)
    }

    /// Writes events and answers when they are on disk. Not cancel safe in that they are written all the same.
    pub async fn write(&self, events: Vec<SeenEvent>) -> Result<(), Refused> {
        let (reply, answer) = oneshot::channel();
        self.0.try_send(Waiting { events, reply }).map_err(|_| Refused::Busy)?;
        answer.await.unwrap_or(Err(Refused::Unwritable))
    }
}

async fn write(journal: Journal, bounds: ErrorBounds, batch: Vec<Waiting>, news: News) {
    let mut replies = Vec::with_capacity(batch.len());
    let mut events = Vec::with_capacity(batch.len());
    for waiting in batch {
        events.extend(waiting.events);
        replies.push(waiting.reply);
    }
    let preparing = journal.clone();
    let prepared =
        tokio::task::spawn_blocking(move || preparing.prepare_errors(together(events, bounds.events as usize)));
    let written = match prepared.await {
        Ok(prepared) => journal.errors_seen(prepared, bounds).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let outcome = match written {
        Ok(standings) => {
            news(standings);
            Ok(())
        }
        Err(error) => {
            tracing::error!(%error, "errors could not be written");
            Err(Refused::Unwritable)
        }
    };
    for reply in replies {
        if reply.send(outcome).is_err() {
            tracing::trace!("a sender has gone away; its events are written");
        }
    }
}
