//! The Sentry-compatible intake: where it listens, and what becomes of a group that is new, worse or back.
//!
//! What was told to the triggers is marked in the journal after they have it on disk. So a crash in between tells them again, which
//! is harmless; and whatever was not told, for whatever reason, is found by a look once a minute.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc;

use super::{Holder, Inner};
use crate::base::clock::Timestamp;
use crate::domain::error_group::{ErrorStanding, ErrorTold};
use crate::http::Listener;
use crate::http::intake::{IntakeSetup, News};
use crate::journal::{ErrorBounds, ErrorRetention, Reader};
use crate::policy::errors::group::row_of;
use crate::policy::errors::private::Hidden;
use crate::policy::errors::telling::{QUIET, telling};
use crate::ports::source::ErrorShelf as _;
use crate::triggers::housekeeping::Chore;
use crate::triggers::sentry::{Handle, Seen};

/// Between two looks for groups that were not told of.
const LOOK: Duration = Duration::from_secs(60);
/// Groups of one look, and of one telling.
const MOST: u32 = 200;
/// Batches of news that wait; the look makes up for one that does not fit.
const WAITING: usize = 256;

/// Starts it, where it is configured.
pub(super) async fn start(holder: &Holder) -> anyhow::Result<()> {
    let library = holder.library();
    let Some(intake) = library.settings.intake.as_ref().filter(|intake| !intake.projects.is_empty()) else {
        return Ok(());
    };
    let listener = Listener::bind(&intake.listen).await.context("the address for errors (`intake.listen`)")?;
    let inner = &holder.inner;
    let projects: Vec<&str> = intake.projects.iter().map(|project| project.name.as_str()).collect();
    tracing::info!(address = %listener.address()?, projects = projects.join(", "), "taking errors in");
    let (sender, news) = mpsc::channel(WAITING);
    tell(inner, news);
    let (known, hiding) = (inner.library.subscribe(), inner.library.subscribe());
    let news: News = Arc::new(move |standings| {
        if sender.try_send(standings).is_err() {
            tracing::debug!("groups wait for the next look");
        }
    });
    let setup = IntakeSetup {
        env: inner.env.clone(),
        journal: inner.journal.clone(),
        bounds: ErrorBounds::default(),
        projects: Arc::new(move |id| {
            let library = known.borrow();
            let mut projects = library.settings.intake.iter().flat_map(|intake| &intake.projects);
            projects.find(|project| project.id == id).cloned()
        }),
        hidden: Arc::new(move || Arc::new(Hidden::new(&hiding.borrow().settings.hide))),
        news,
    };
    listener.serve_intake(&inner.scope, setup);
    Ok(())
}

/// What is done now and then: old errors go.
pub(super) fn chores(holder: &Holder) -> Vec<Chore> {
    let journal = holder.journal().clone();
    let act = move || -> crate::base::BoxFuture<'static, anyhow::Result<()>> {
        let journal = journal.clone();
        Box::pin(async move { Ok(journal.tidy_errors(ErrorRetention::default()).await?) })
    };
    vec![Chore { name: "old errors", cron: "0 17 * * * *", act: Arc::new(act) }]
}

/// Tells the triggers, until the daemon stops.
fn tell(inner: &Arc<Inner>, mut news: mpsc::Receiver<Vec<ErrorStanding>>) {
    let mut teller = Teller { errors: inner.errors.clone(), journal: inner.journal.clone(), told: HashMap::new() };
    let (env, stop) = (inner.env.clone(), inner.scope.token().clone());
    drop(inner.scope.spawn("intake news", async move {
        // What an earlier process had on disk and did not tell.
        let left = teller.look(env.now()).await;
        teller.hear(left, env.now()).await;
        // Of its own pace, however many news there are.
        let mut due = env.clock.sleep(LOOK);
        loop {
            let mut batches = Vec::new();
            let found = tokio::select! {
                () = stop.cancelled() => return,
                count = news.recv_many(&mut batches, WAITING) => match count {
                    0 => return,
                    _ => batches.into_iter().flatten().collect(),
                },
                () = &mut due => {
                    due = env.clock.sleep(LOOK);
                    teller.look(env.now()).await
                }
            };
            teller.hear(found, env.now()).await;
        }
    }));
}

struct Teller {
    errors: Handle,
    journal: crate::journal::Journal,
    /// When these were told: news that are older than that may still come.
    told: HashMap<(String, String), Timestamp>,
}

impl Teller {
    /// What was not told, or may have to be told again.
    async fn look(&mut self, now: Timestamp) -> Vec<ErrorStanding> {
        self.told.retain(|_, at| now.duration_since(*at).unsigned_abs() < QUIET);
        let mut projects: Vec<String> = self.errors.watches().iter().map(|watch| watch.project.clone()).collect();
        projects.sort();
        projects.dedup();
        let reader = self.journal.reader().clone();
        let read = move || -> Result<Vec<ErrorStanding>, crate::journal::Error> {
            let found = projects.iter().map(|project| reader.errors_to_tell(project, now, QUIET, MOST));
            Ok(found.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
        };
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::warn!(%error, "groups of errors cannot be read; the next look tries again");
                Vec::new()
            }
            Err(error) => {
                tracing::error!(%error, "looking for groups of errors");
                Vec::new()
            }
        }
    }

    /// Tells what is worth it of these, the newest standing of each.
    async fn hear(&mut self, found: Vec<ErrorStanding>, now: Timestamp) {
        let mut newest: HashMap<(String, String), ErrorStanding> = HashMap::new();
        for group in found {
            let name = (group.project.clone(), group.key.clone());
            let again = self.told.get(&name).or(group.told.as_ref().map(|told| &told.at));
            let early = again.is_some_and(|at| now.duration_since(*at).unsigned_abs() < QUIET);
            if !early && self.errors.listens(&group.project) {
                newest.insert(name, group);
            }
        }
        let mut groups: Vec<ErrorStanding> = newest.into_values().collect();
        groups.sort_by(|a, b| (&a.project, &a.key).cmp(&(&b.project, &b.key)));
        while !groups.is_empty() {
            let portion = groups.split_off(groups.len().saturating_sub(MOST as usize));
            let (reader, read) = (self.journal.reader().clone(), portion);
            let seen = match tokio::task::spawn_blocking(move || worth_telling(&reader, read, now)).await {
                Ok(Ok(seen)) => seen,
                Ok(Err(error)) => {
                    return tracing::warn!(error, "groups of errors cannot be read; they are looked for again");
                }
                Err(error) => return tracing::error!(%error, "reading groups of errors"),
            };
            if seen.is_empty() {
                continue;
            }
            let (seen, marks): (Vec<Seen>, Vec<_>) = seen.into_iter().unzip();
            match self.errors.seen(seen).await {
                Ok(noted) => tracing::debug!(?noted, "groups were told"),
                Err(error) => return tracing::warn!(%error, "groups of errors are told again later"),
            }
            self.told.extend(marks.iter().map(|(project, key, told)| ((project.clone(), key.clone()), told.at)));
            if let Err(error) = self.journal.errors_told(marks).await {
                tracing::warn!(%error, "what was told cannot be marked; it is told again");
            }
        }
    }
}

/// What is told of a group, and the mark that it was.
type Telling = (Seen, (String, String, ErrorTold));

fn worth_telling(reader: &Reader, groups: Vec<ErrorStanding>, now: Timestamp) -> Result<Vec<Telling>, String> {
    let keys: Vec<String> = groups.iter().map(|group| group.key.clone()).collect();
    let fixed = reader.errors_fixed(&keys).map_err(|error| error.to_string())?;
    let mut told = Vec::new();
    for group in groups {
        let Some(standing) = telling(&group, fixed.contains(&group.key), now) else { continue };
        // It may have been given up meanwhile.
        let Some(whole) = reader.group(&group.project, &group.key)? else { continue };
        let mark = ErrorTold { count: whole.count, users: whole.users, at: now };
        let seen = Seen {
            project: group.project.clone(),
            key: group.key.clone(),
            // What it is to a pipeline is for its ledger to say.
            hint: None,
            seen_at: whole.last_seen,
            item: row_of(&whole),
        };
        tracing::debug!(project = group.project, key = group.key, %standing, "to be told");
        told.push((seen, (group.project, group.key, mark)));
    }
    Ok(told)
}
