//! The daemon proper: pipelines on their schedules, health pages, reloads, the notes to systemd, and the stop.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use futures_util::future::try_join_all;
use tokio::sync::watch;

use super::load::{self, Library};
use super::signals::Signals;
use super::{GRACE, Holder};
use crate::base::hash::Hash;
use crate::http::{Health, Listener, Loaded, Probe};
use crate::triggers::handle::Scheduled;
use crate::triggers::housekeeping::Housekeeping;

/// Files of configuration and pipelines are looked at this often.
const LOOK: Duration = Duration::from_secs(2);
/// Systemd hears of the loop at most this often.
const FEED: Duration = Duration::from_secs(5);

/// Runs until a signal stops it. The listener is bound and the journal is open already; no work has begun.
///
/// Not cancel safe: it ends with the stop order.
pub async fn serve(holder: Holder, listener: Listener, signals: Signals) -> anyhow::Result<()> {
    let (loaded, pipelines) = watch::channel(told(&holder.library()));
    let journal = holder.journal().clone();
    let probe: Probe = Arc::new(move || {
        let journal = journal.clone();
        Box::pin(async move { journal.sync().await.map_err(|error| error.to_string()) })
    });
    let address = listener.address()?;
    let health = Health {
        env: holder.inner.env.clone(),
        heartbeat: holder.inner.heartbeat.clone(),
        journal: probe,
        pipelines,
        stopping: holder.inner.stopping.clone(),
    };
    listener.serve(&holder.inner.scope, health);
    super::outside::start(&holder).await?;
    let resumed = holder.resume_open().await.context("taking up interrupted runs")?;
    if !resumed.is_empty() {
        tracing::info!(runs = resumed.len(), "interrupted runs go on");
    }
    holder.put_in_force(holder.library().as_ref().clone()).await?;
    let schedule = holder.inner.schedule.clone();
    let housekeeping = Housekeeping::start(move || schedule.wake(), super::reports::chores(&holder))
        .await
        .context("starting the safety wake-up")?;
    feed_systemd(&holder);
    notify(&[sd_notify::NotifyState::Ready]);
    let library = holder.library();
    tracing::info!(
        %address, state = %holder.state().display(), pipelines = library.pipelines.len(), broken = library.broken.len(),
        effects = %library.settings.effects, profile = holder.inner.profile, "ready"
    );
    watch_files(&holder, &signals, &loaded).await;

    notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("stopping: runs go to their next journalled point");
    holder.refuse_new();
    if let Err(error) = housekeeping.stop().await {
        tracing::warn!(%error, "the safety wake-up did not stop");
    }
    let late = holder.stop(GRACE).await.context("closing the journal")?;
    if !late.is_empty() {
        tracing::warn!(late = late.join(", "), "cut off; they are repeated or looked for when their runs go on");
    }
    tracing::info!("stopped");
    Ok(())
}

/// Reloads on SIGHUP and when files change, until a signal stops the daemon.
async fn watch_files(holder: &Holder, signals: &Signals, loaded: &watch::Sender<Loaded>) {
    let mut in_force = fingerprint(holder);
    let mut seen = in_force;
    loop {
        let asked = tokio::select! {
            () = signals.stop.cancelled() => return,
            () = signals.reload.notified() => true,
            () = tokio::time::sleep(LOOK) => false,
        };
        let now = fingerprint(holder);
        // A change is taken when it has stood still for one look: an editor may be half-way.
        let settled = now == seen && now != in_force;
        seen = now;
        if !asked && !settled {
            continue;
        }
        in_force = now;
        match holder.reload().await {
            Ok(true) => {
                let told = told(&holder.library());
                tracing::info!(pipelines = told.names.len(), "configuration and pipelines were reloaded");
                loaded.send_replace(told);
            }
            Ok(false) => {}
            Err(error) => {
                tracing::error!(error = %format!("{error:#}"), "nothing was reloaded; what was in force stays in force");
            }
        }
    }
}

fn told(library: &Library) -> Loaded {
    Loaded {
        names: library.pipelines.keys().cloned().collect(),
        broken: library.broken.iter().map(|path| path.display().to_string()).collect(),
    }
}

impl Holder {
    /// Puts configuration and pipelines in force for everything that begins from now on.
    pub(super) async fn put_in_force(&self, library: Library) -> anyhow::Result<()> {
        let inner = &self.inner;
        inner.journal.set_daemon_limits(super::caps(&library.settings));
        let mut scheduled = Vec::new();
        let mut stored = Vec::new();
        for (_, pipeline) in library.pipelines.values() {
            let found = Scheduled::of(pipeline, super::MAX_QUEUED)
                .with_context(|| format!("reading the schedule of `{}`", pipeline.name))?;
            if let Some(found) = found {
                // The loop claims runs without waiting for anything else, so what they refer to is stored first.
                stored.push(super::store(&inner.journal, &library.settings, pipeline));
                scheduled.push(found);
            }
        }
        // Together: they share their commits.
        try_join_all(stored).await?;
        let bounds = super::bounds(&library.settings);
        inner.library.send_replace(Arc::new(library));
        inner.schedule.set_bounds(bounds).await;
        inner.schedule.set_pipelines(scheduled).await;
        Ok(())
    }

    /// Reads everything anew and puts it in force, all or nothing. `false`: nothing has changed.
    async fn reload(&self) -> anyhow::Result<bool> {
        let inner = &self.inner;
        let (settings, report) = load::settings(&inner.places, &inner.registry);
        let settings = settings.filter(|_| !report.has_errors());
        let settings = settings
            .with_context(|| format!("the configuration has mistakes\n{}", report.render(crate::diag::Color::Off)))?;
        let library =
            Library::load(&inner.places, &inner.registry, Arc::new(settings)).context("reading the pipelines")?;
        let before = self.library();
        if !library.broken.is_empty() && library.broken != before.broken {
            anyhow::bail!("pipelines have mistakes\n{}", library.report.render(crate::diag::Color::Off));
        }
        let same = library.settings.files == before.settings.files
            && library.pipelines.len() == before.pipelines.len()
            && library
                .pipelines
                .iter()
                .all(|(name, (_, new))| before.pipelines.get(name).is_some_and(|(_, old)| old.hash == new.hash));
        if same {
            return Ok(false);
        }
        self.put_in_force(library).await?;
        Ok(true)
    }
}

/// Tells systemd that the schedule loop lives, whenever it does.
fn feed_systemd(holder: &Holder) {
    let mut heartbeat = holder.inner.heartbeat.clone();
    let stop = holder.inner.scope.token().clone();
    drop(holder.inner.scope.spawn("watchdog", async move {
        loop {
            notify(&[sd_notify::NotifyState::Watchdog]);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(FEED) => {}
            }
            // Only a turn of the loop since then counts.
            heartbeat.mark_unchanged();
            tokio::select! {
                () = stop.cancelled() => return,
                changed = heartbeat.changed() => if changed.is_err() { return },
            }
        }
    }));
}

fn notify(state: &[sd_notify::NotifyState<'_>]) {
    // Without systemd there is nobody to notify, and that is no error.
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd could not be notified");
    }
}

/// Of the names, sizes and times of every file that may matter.
fn fingerprint(holder: &Holder) -> Hash {
    fn walk(path: &Path, depth: u32, into: &mut Vec<(PathBuf, u64, Option<SystemTime>)>) {
        let Ok(meta) = std::fs::metadata(path) else { return };
        if meta.is_file() {
            into.push((path.to_owned(), meta.len(), meta.modified().ok()));
        } else if let Some(depth) = depth.checked_sub(1)
            && let Ok(entries) = std::fs::read_dir(path)
        {
            entries.flatten().for_each(|entry| walk(&entry.path(), depth, into));
        }
    }
    let places = &holder.inner.places;
    let mut files = Vec::new();
    walk(&places.pipelines, 4, &mut files);
    for file in places.config.iter() {
        walk(file, 1, &mut files);
    }
    for (name, _) in &holder.library().settings.files {
        walk(&holder.library().settings.base.join(name), 1, &mut files);
    }
    files.sort();
    Hash::of(format!("{files:?}"))
}
