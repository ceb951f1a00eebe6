//! Tracked tasks. Every task belongs to a [`Scope`]; nothing is detached.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Owns tasks. Dropping it cancels them; [`Scope::close`] cancels, waits, then aborts the late ones.
#[derive(Clone, Debug)]
pub struct Scope {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    token: CancellationToken,
    tracker: TaskTracker,
    runtime: Handle,
    tasks: Mutex<BTreeMap<u64, (String, tokio::task::AbortHandle)>>,
    next: std::sync::atomic::AtomicU64,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

/// The task panicked or was aborted before it answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the task ended without an answer (it panicked or was aborted)")]
pub struct TaskLost;

impl Scope {
    /// A scope whose tasks run on `runtime`.
    pub fn new(runtime: Handle) -> Self {
        Self {
            inner: Arc::new(Inner {
                token: CancellationToken::new(),
                tracker: TaskTracker::new(),
                runtime,
                tasks: Mutex::new(BTreeMap::new()),
                next: std::sync::atomic::AtomicU64::new(0),
            }),
        }
    }

    /// The token that tasks watch.
    pub fn token(&self) -> &CancellationToken {
        &self.inner.token
    }

    /// Runs `future` to its end. The answer comes through the receiver, which may be dropped: the task goes on.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: impl Into<String>,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Answer<T> {
        let (sender, receiver) = oneshot::channel();
        let id = self.inner.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let inner = Arc::downgrade(&self.inner);
        let mut tasks = self.tasks();
        let handle = self.inner.tracker.spawn_on(
            async move {
                // Removes the task from the list also when it panics.
                let _listed = Listed { id, inner };
                let answer = future.await;
                // Nobody waits for the answer of a task that was started for its effect.
                drop(sender.send(answer));
            },
            &self.inner.runtime,
        );
        tasks.insert(id, (name.into(), handle.abort_handle()));
        Answer(receiver)
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, (String, tokio::task::AbortHandle)>> {
        self.inner.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// How many tasks are running.
    pub fn len(&self) -> usize {
        self.inner.tracker.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Cancels, waits up to `grace`, aborts what is left and returns the names of those.
    pub async fn close(&self, grace: Duration) -> Vec<String> {
        self.inner.token.cancel();
        self.inner.tracker.close();
        if tokio::time::timeout(grace, self.inner.tracker.wait()).await.is_ok() {
            return Vec::new();
        }
        let late: Vec<_> = self.tasks().values().cloned().collect();
        late.into_iter()
            .map(|(name, handle)| {
                handle.abort();
                name
            })
            .collect()
    }
}

struct Listed {
    id: u64,
    inner: std::sync::Weak<Inner>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.upgrade() {
            inner.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&self.id);
        }
    }
}

/// The answer of a task, as a future. Cancel safe.
#[derive(Debug)]
pub struct Answer<T>(oneshot::Receiver<T>);

impl<T> Future for Answer<T> {
    type Output = Result<T, TaskLost>;
    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        std::pin::Pin::new(&mut self.0).poll(cx).map(|r| r.map_err(|_| TaskLost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn close_names_the_task_that_does_not_stop() {
        let scope = Scope::new(Handle::current());
        assert_eq!(scope.spawn("quick", async { 7 }).await, Ok(7));
        assert_eq!(
            scope
                .spawn("bad", async {
                    if true {
                        panic!("on purpose")
                    }
                })
                .await,
            Err(TaskLost)
        );
        let stuck = scope.spawn("stuck", std::future::pending::<()>());
        assert_eq!(scope.close(Duration::ZERO).await, ["stuck"]);
        assert_eq!(stuck.await, Err(TaskLost));
    }
}
