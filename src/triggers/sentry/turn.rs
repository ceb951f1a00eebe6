//! The loop over errors that wait: whose time has come is read whole, and asks for its run.
//!
//! Everything it knows is in the journal, so a crash at any point loses nothing: what waits still waits, and a run that was claimed
//! waits no more. A turn that is early, late or doubled changes nothing.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use super::{Api, Handle, Watch, sighting};
use crate::base::BoxFuture;
use crate::base::env::Env;
use crate::clients::sentry::SentryError;
use crate::domain::finding::{Seen, Standing};
use crate::journal::{self, ErrorClaimed, WaitingError};
use crate::policy::errors::group::row_of;
use crate::policy::errors::rest;
use crate::ports::source::ErrorShelf as _;
use crate::sources::sentry as source;

/// So many are decided before the next look.
const BATCH: u32 = 100;
/// Side by side: each may ask Sentry.
const PARALLEL: usize = 4;
/// It looks at least this often.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// After the journal refused.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// While Sentry does not answer, an error waits this much longer for the rest of what is known of it…
const PATIENCE: SignedDuration = SignedDuration::from_mins(15);
/// …and is asked for again after this long.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// What has waited longer than this is no news any more.
const TOO_OLD: SignedDuration = SignedDuration::from_hours(72);

/// What became of the wish for a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fired {
    Decided(ErrorClaimed),
    /// It cannot begin now, for this reason; ask again after so long.
    NotNow(Duration, String),
    /// It never can.
    Never(String),
}

/// Claims the run of an error that waits, in a pipeline that wants these standings.
pub type Fire =
    Arc<dyn Fn(WaitingError, Seen, Vec<Standing>) -> BoxFuture<'static, Result<Fired, journal::Error>> + Send + Sync>;

/// The loop. Run it in a task of a scope.
pub struct Loop {
    pub handle: Handle,
    pub env: Env,
    pub api: Api,
    pub fire: Fire,
}

impl std::fmt::Debug for Loop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Loop")
    }
}

impl Loop {
    /// Runs until `stop` is cancelled. Not cancel safe: drop it only after it has returned.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let pause = match self.turn().await {
                Ok(pause) => pause,
                Err(error @ (journal::Error::Stale { .. } | journal::Error::Closed)) => {
                    tracing::error!(%error, "errors begin no runs any more");
                    return;
                }
                Err(error) => {
                    tracing::error!(%error, "the journal could not be used; errors wait for it");
                    TRY_AGAIN
                }
            };
            let sleep = self.env.clock.sleep(pause);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.handle.wake.notified() => {}
                () = sleep => {}
            }
        }
    }

    /// Decides what is due; answers how long nothing will be.
    pub async fn turn(&self) -> Result<Duration, journal::Error> {
        let now = self.env.now();
        let due = self.handle.journal.reader().due_errors(now, BATCH)?;
        let mut decided = stream::iter(due).map(|waiting| self.decide(waiting, now)).buffer_unordered(PARALLEL);
        let mut failed = None;
        while let Some(done) = decided.next().await {
            failed = failed.or(done.err());
        }
        drop(decided);
        if let Some(error) = failed {
            return Err(error);
        }
        let next = self.handle.journal.reader().next_error_due()?;
        let wait = next.map(|next| Duration::try_from(next.duration_since(self.env.now())).unwrap_or(Duration::ZERO));
        Ok(wait.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN))
    }

    async fn decide(&self, mut waiting: WaitingError, now: Timestamp) -> Result<(), journal::Error> {
        let journal = &self.handle.journal;
        let watches = self.handle.watches();
        let Some(watch) = watches.iter().find(|watch| watch.pipeline == waiting.pipeline) else {
            journal.settle_error(&waiting, "filtered", "the pipeline listens no more").await?;
            return Ok(());
        };
        if now.duration_since(waiting.first_at) > TOO_OLD {
            let reason = match waiting.reason.as_str() {
                "" => "it waited for three days".to_owned(),
                reason => format!("it waited for three days: {reason}"),
            };
            journal.settle_error(&waiting, "expired", &reason).await?;
            return Ok(());
        }
        if !waiting.whole
            && let Asked::Done = self.complete(&mut waiting, watch, now).await?
        {
            return Ok(());
        }
        // What came while it waited counts, also for the pipeline's `keep`: it was told of when it was first seen.
        match journal.reader().group(&watch.project, &waiting.key) {
            Ok(group) => waiting.item = group.as_ref().map_or(waiting.item, row_of),
            Err(error) => tracing::warn!(key = waiting.key, error, "a run begins with what was told of its error"),
        }
        let seen = sighting(&waiting.key, &waiting.item, waiting.seen_at);
        let fired = (self.fire)(waiting.clone(), seen, watch.when.clone()).await?;
        let (pipeline, key) = (&waiting.pipeline, &waiting.key);
        match fired {
            Fired::Decided(ErrorClaimed::Run(run)) => {
                tracing::info!(%run, pipeline, key, times = waiting.times, "an error begins a run");
            }
            Fired::Decided(ErrorClaimed::Settled(fate, reason)) => {
                tracing::info!(pipeline, key, fate, reason, "an error begins no run");
            }
            Fired::Decided(ErrorClaimed::Later(until, reason)) => {
                tracing::info!(pipeline, key, %until, reason, "an error waits longer");
            }
            Fired::Decided(ErrorClaimed::Gone) => {}
            Fired::NotNow(after, reason) => {
                journal.postpone_error(&waiting, later(self.env.now(), after), &reason).await?;
            }
            Fired::Never(reason) => {
                tracing::warn!(pipeline, key, reason, "an error can begin no run");
                journal.settle_error(&waiting, "filtered", &reason).await?;
            }
        }
        Ok(())
    }

    /// Reads the issue and its latest event, if Sentry's API is there.
    async fn complete(
        &self,
        waiting: &mut WaitingError,
        watch: &Watch,
        now: Timestamp,
    ) -> Result<Asked, journal::Error> {
        let journal = &self.handle.journal;
        let Some((api, issue)) = (self.api)().zip(rest::issue_of(&waiting.key).map(str::to_owned)) else {
            return Ok(Asked::GoOn);
        };
        let read = async {
            let Some(issue) = api.issue(&issue).await? else { return Ok(None) };
            let row = source::whole(&api, &issue, now).await?;
            Ok::<_, SentryError>(Some((issue, row)))
        };
        match read.await {
            Ok(None) => {
                journal.settle_error(waiting, "gone", "Sentry knows the issue no more").await?;
                Ok(Asked::Done)
            }
            Ok(Some((issue, _))) if !source::is_of(&issue, &watch.project) => {
                journal.settle_error(waiting, "filtered", "it is of another project").await?;
                Ok(Asked::Done)
            }
            Ok(Some((issue, row))) => {
                self.handle.learn(&issue);
                if let Some(state @ ("resolved" | "ignored")) = rest::state(&issue) {
                    let state = if state == "ignored" { "archived" } else { state };
                    journal.settle_error(waiting, "resolved", &format!("it is {state} in Sentry")).await?;
                    return Ok(Asked::Done);
                }
                if let Some(row) = row {
                    waiting.item = row;
                }
                Ok(Asked::GoOn)
            }
            Err(error) => {
                let patient = now.duration_since(waiting.first_at) < PATIENCE.saturating_add(debounce(watch));
                let passing = matches!(error, SentryError::Unavailable { .. } | SentryError::Ambiguous { .. });
                if passing && patient {
                    let after = match error {
                        SentryError::Unavailable { after: Some(after), .. } => after.max(ASK_AGAIN),
                        _ => ASK_AGAIN,
                    };
                    journal.postpone_error(waiting, later(self.env.now(), after), &error.to_string()).await?;
                    return Ok(Asked::Done);
                }
                tracing::warn!(key = waiting.key, %error, "a run begins with what is known of its error");
                Ok(Asked::GoOn)
            }
        }
    }
}

/// Whether there is anything left to do with an error after its source was asked.
enum Asked {
    GoOn,
    Done,
}

fn debounce(watch: &Watch) -> SignedDuration {
    SignedDuration::try_from(watch.debounce).unwrap_or(SignedDuration::MAX)
}

fn later(now: Timestamp, after: Duration) -> Timestamp {
    now.saturating_add(after).unwrap_or(Timestamp::MAX)
}
