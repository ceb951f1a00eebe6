//! Requests that may come again: one key makes one sandbox, also while the first request is still under way.
//!
//! A key is remembered while its sandbox lives and for an hour after it was made. When that sandbox has ended the same key makes
//! another: what a key promises is that no two of them live.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::base::hash::Hash;

use super::Shared;
use super::error::ApiError;
use super::life::Order;
use super::live::Live;

const REMEMBERED: Duration = Duration::from_secs(3600);
/// More keys than this, and those whose sandbox has ended are forgotten earlier.
const MANY: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Keys {
    all: Mutex<HashMap<String, Used>>,
}

/// The id of the sandbox, or why there is none; nothing yet.
type Answer = Option<Result<String, ApiError>>;

#[derive(Debug)]
struct Used {
    body: Hash,
    since: Instant,
    answer: watch::Receiver<Answer>,
}

impl Keys {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Used>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sandbox of this key: the one that it made before, or a new one. `body` is what was asked for.
    ///
    /// Errors: 422 if the key came with something else before; else as of making. Cancel safe: who comes again finds it.
    pub async fn make(&self, shared: &Arc<Shared>, key: &str, body: Hash, order: Order) -> Result<Arc<Live>, ApiError> {
        loop {
            let mut answer = self.answer(shared, key, body, &order)?;
            // A task that was lost leaves no answer, and the key is free again.
            let told = answer.wait_for(Option::is_some).await.map(|told| told.clone()).unwrap_or_default();
            match told {
                Some(Ok(id)) => match shared.sandboxes.get(&id) {
                    Some(live) => return Ok(live),
                    None => self.forget(key, &id),
                },
                Some(Err(error)) => return Err(error),
                None => return Err(ApiError::internal("the sandbox was lost while it was made")),
            }
        }
    }

    /// Where the answer will be told: to the first request with this key and to those after it.
    fn answer(
        &self,
        shared: &Arc<Shared>,
        key: &str,
        body: Hash,
        order: &Order,
    ) -> Result<watch::Receiver<Answer>, ApiError> {
        let mut all = self.lock();
        if let Some(used) = all.get(key) {
            // One that failed, or was lost, does not bind.
            let failed = matches!(&*used.answer.borrow(), Some(Err(_)))
                || (used.answer.borrow().is_none() && used.answer.has_changed().is_err());
            if !failed && used.body != body {
                let message = "this Idempotency-Key came with another request before";
                return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, message));
            }
            if !failed {
                return Ok(used.answer.clone());
            }
        }
        forget_old(&mut all, shared);
        let (tell, answer) = watch::channel(None);
        all.insert(key.to_owned(), Used { body, since: Instant::now(), answer: answer.clone() });
        drop(all);
        let (shared, order) = (shared.clone(), order.clone());
        drop(shared.scope.clone().spawn("make once", async move {
            let made = shared.sandboxes.make(&shared, order).await;
            tell.send_replace(Some(made.map(|live| live.id.clone())));
        }));
        Ok(answer)
    }

    /// Frees the key of a sandbox that has ended.
    fn forget(&self, key: &str, id: &str) {
        let mut all = self.lock();
        let ended = |used: &Used| matches!(&*used.answer.borrow(), Some(Ok(made)) if made == id);
        if all.get(key).is_some_and(ended) {
            all.remove(key);
        }
    }
}

fn forget_old(all: &mut HashMap<String, Used>, shared: &Shared) {
    let many = all.len() >= MANY;
    all.retain(|_, used| match &*used.answer.borrow() {
        None => used.answer.has_changed().is_ok(),
        Some(Err(_)) => false,
        Some(Ok(id)) => shared.sandboxes.get(id).is_some() || (!many && used.since.elapsed() < REMEMBERED),
    });
}
