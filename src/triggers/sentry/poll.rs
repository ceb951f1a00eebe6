//! Sentry polled: what has happened in a project since it was last looked at, however long that is ago (three days at the most).
//!
//! Polling goes on beside webhooks: it finds what they did not bring. How far it came stands in the journal and moves on only when
//! everything before it is noted there, so downtime leaves no gap, and nothing that waits is lost where too much waits.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use super::{Api, Handle, Origin, from_issue};
use crate::base::env::Env;
use crate::clients::sentry::{IssueQuery, Sentry, SentryError};
use crate::journal;
use crate::policy::errors::rest;

/// A gap is filled from no earlier than this.
const WINDOW: SignedDuration = SignedDuration::from_hours(72);
/// Sentry may take this long until an event that has happened is in its lists.
const OVERLAP: SignedDuration = SignedDuration::from_mins(10);
const PERIOD: &str = "14d";
const QUERY: &str = "is:unresolved";
/// Pages of one poll; a hundred issues each.
const MOST_PAGES: usize = 100;
/// Noted in one transaction.
const CHUNK: usize = 200;
/// It looks at its list of projects at least this often.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Old deliveries and decisions are forgotten this often.
const FORGET: SignedDuration = SignedDuration::from_hours(6);

/// Why a poll came to no end.
#[derive(Debug, thiserror::Error)]
enum PollError {
    #[error(transparent)]
    Sentry(#[from] SentryError),
    #[error(transparent)]
    Journal(#[from] journal::Error),
}

/// Polls every project that a pipeline listens to. Run it in a task of a scope.
pub struct Poller {
    pub handle: Handle,
    pub env: Env,
    pub api: Api,
}

impl std::fmt::Debug for Poller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Poller")
    }
}

impl Poller {
    /// Runs until `stop` is cancelled. Cancel safe: what was not noted is found again.
    pub async fn run(self, stop: CancellationToken) {
        let mut next: BTreeMap<String, Timestamp> = BTreeMap::new();
        let mut forgotten = Timestamp::MIN;
        let mut changes = self.handle.watches.subscribe();
        loop {
            changes.mark_unchanged();
            let pause = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                pause = self.look(&mut next) => pause,
            };
            if self.env.now().duration_since(forgotten) > FORGET {
                forgotten = self.env.now();
                if let Err(error) = self.handle.journal.forget_deliveries().await {
                    tracing::warn!(%error, "old deliveries could not be forgotten");
                }
            }
            let sleep = self.env.clock.sleep(pause);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
                () = sleep => {}
            }
        }
    }

    /// Polls what is due by `next` (by project; nothing known: now); answers how long nothing will be.
    pub async fn look(&self, next: &mut BTreeMap<String, Timestamp>) -> Duration {
        let projects = self.projects();
        next.retain(|project, _| projects.contains_key(project));
        for (project, every) in &projects {
            let now = self.env.now();
            if next.get(project).is_some_and(|at| *at > now && at.duration_since(now).unsigned_abs() <= *every * 2) {
                continue;
            }
            let Some(api) = (self.api)() else {
                next.insert(project.clone(), later(now, *every));
                continue;
            };
            match self.poll(&api, project, *every).await {
                Ok(found) => tracing::debug!(project, found, "polled"),
                Err(error) => {
                    tracing::warn!(project, %error, "polling found nothing out; it goes on from the same place")
                }
            }
            // Never at the same moment as everybody else.
            let pause = every.mul_f64(0.9) + self.env.jitter(every.mul_f64(0.1));
            next.insert(project.clone(), later(self.env.now(), pause));
        }
        let now = self.env.now();
        let wait = next.values().min().map(|at| Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO));
        wait.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN)
    }

    /// Projects with the shortest time between polls that a pipeline asks for.
    fn projects(&self) -> BTreeMap<String, Duration> {
        let mut projects = BTreeMap::new();
        for watch in self.handle.watches().iter().filter(|watch| watch.origin == Origin::Sentry) {
            let every = projects.entry(watch.project.clone()).or_insert(watch.every);
            *every = watch.every.min(*every);
        }
        projects
    }

    /// Notes what has happened in a project since the last poll; answers how many issues that is.
    async fn poll(&self, api: &Sentry, project: &str, every: Duration) -> Result<usize, PollError> {
        let journal = &self.handle.journal;
        let begun = self.env.now();
        let last = journal.reader().polled_to(project)?;
        // Before the first poll nobody has asked: what is old is for a schedule to gather.
        let from = last.unwrap_or_else(|| begun.saturating_sub(every).unwrap_or(Timestamp::MIN));
        let floor = begun.saturating_sub(WINDOW).unwrap_or(Timestamp::MIN);
        if from < floor {
            tracing::warn!(project, since = %from, "polled again after more than three days; older errors are left to a schedule");
        }
        let from = from.max(floor).saturating_sub(OVERLAP).unwrap_or(Timestamp::MIN);
        let ask = IssueQuery { query: QUERY, project, environments: &[], period: PERIOD };
        let (mut seen, mut cursor, mut cut_off) = (Vec::new(), None::<String>, true);
        for _ in 0..MOST_PAGES {
            let page = api.issues_page(ask, cursor.as_deref()).await?;
            let mut reached = false;
            for issue in &page.items {
                self.handle.learn(issue);
                if rest::last_seen(issue).is_some_and(|at| at < from) {
                    reached = true;
                    break;
                }
                seen.extend(from_issue(issue, begun, false));
            }
            let moved = page.next.filter(|next| cursor.as_ref() != Some(next));
            if reached || moved.is_none() {
                cut_off = false;
                break;
            }
            cursor = moved;
        }
        if cut_off {
            tracing::warn!(project, issues = seen.len(), "a poll is cut off: more has happened than is read at once");
        }
        let listeners = self.handle.listeners(&[project.to_owned()]);
        let (found, mut dropped, mut waiting) = (seen.len(), 0, 0);
        // The oldest first: if there is no place for all, the others come with the next poll.
        seen.reverse();
        let mut seen = seen.into_iter();
        loop {
            let chunk: Vec<_> = seen.by_ref().take(CHUNK).collect();
            if chunk.is_empty() {
                break;
            }
            let noted = journal.note_errors(None, listeners.clone(), chunk, None).await?;
            dropped += noted.dropped;
            waiting += noted.waiting;
        }
        if dropped == 0 {
            journal.note_errors(None, Vec::new(), Vec::new(), Some((project.to_owned(), begun))).await?;
        } else {
            tracing::warn!(project, dropped, "too many errors wait; the next poll goes on from the same place");
        }
        if waiting > 0 {
            self.handle.wake.notify_one();
        }
        Ok(found)
    }
}

fn later(now: Timestamp, after: Duration) -> Timestamp {
    now.saturating_add(after).unwrap_or(Timestamp::MAX)
}
