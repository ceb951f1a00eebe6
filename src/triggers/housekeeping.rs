//! Periodic chores: the safety wake-up of the schedule loop, and housekeeping such as retention and checkpoints.
//!
//! This is the one place for `tokio-cron-scheduler`. It may not decide what is due: it polls twice a second, may lose a fire, give one late
//! or run several copies at once, and goes silent when the clock steps back. So nothing here may matter for once: a wake-up only
//! makes the loop look, a chore must be one that the next turn makes up for, and a chore that still runs is not started again.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_cron_scheduler::{Job, JobScheduler};

use crate::base::BoxFuture;

/// A chore: a name for the log, when (six fields with seconds, UTC), and what.
pub struct Chore {
    pub name: &'static str,
    pub cron: &'static str,
    pub act: Arc<dyn Fn() -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync>,
}

impl std::fmt::Debug for Chore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chore").field("name", &self.name).field("cron", &self.cron).finish_non_exhaustive()
    }
}

/// The running scheduler of chores.
pub struct Housekeeping(JobScheduler);

impl std::fmt::Debug for Housekeeping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Housekeeping").finish()
    }
}

impl Housekeeping {
    /// Starts the chores, and calls `wake` about once a second. Must be called on a multi-thread runtime.
    pub async fn start(wake: impl Fn() + Send + Sync + 'static, chores: Vec<Chore>) -> anyhow::Result<Self> {
        let scheduler = JobScheduler::new().await?;
        scheduler.add(Job::new("* * * * * *", move |_, _| wake())?).await?;
        for chore in chores {
            let Chore { name, cron, act } = chore;
            let free = Arc::new(Semaphore::new(1));
            let job = Job::new_async(cron, move |_, _| {
                let (free, act) = (free.clone(), act.clone());
                Box::pin(async move {
                    let Ok(_busy) = free.try_acquire() else { return };
                    match act().await {
                        Ok(()) => tracing::debug!(chore = name, "done"),
                        Err(error) => {
                            tracing::warn!(chore = name, error = %format!("{error:#}"), "chore failed; the next turn tries again")
                        }
                    }
                })
            })?;
            scheduler.add(job).await?;
        }
        scheduler.start().await?;
        Ok(Self(scheduler))
    }

    /// Stops starting chores. Not cancel safe: afterwards some may have been stopped.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        Ok(self.0.shutdown().await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn wakes_come_and_chores_are_done() {
        let (woken, mut wakes) = mpsc::channel(8);
        let (done, mut dones) = mpsc::channel(8);
        let chore = Chore {
            name: "test",
            cron: "* * * * * *",
            act: Arc::new(move || {
                let done = done.clone();
                Box::pin(async move { Ok(done.send(()).await?) })
            }),
        };
        // Nobody takes more than the first.
        let wake = move || {
            let _ = woken.try_send(());
        };
        let housekeeping = Housekeeping::start(wake, vec![chore]).await.unwrap();
        assert_eq!((wakes.recv().await, dones.recv().await), (Some(()), Some(())));
        housekeeping.stop().await.unwrap();
    }
}
