//! Errors as a trigger: Sentry polled and its webhooks, both into one claim per error.

use std::sync::Arc;
use std::time::Duration;

use super::load::Library;
use super::{Holder, MAX_QUEUED, limits, start, store};
use crate::clients::sentry::Sentry;
use crate::control::RunRequest;
use crate::domain::finding::{Seen, Standing};
use crate::domain::run::TriggerKind;
use crate::journal::{self, Claim, ErrorClaim, ErrorClaimed, Rate, WaitingError};
use crate::ports::service::{Outside, Shared};
use crate::triggers::hook::Hooks;
use crate::triggers::sentry::{Api, Fire, Fired, HookSetup, Loop, Origin, Poller, Watch, handler};

/// How often a project is polled where the pipeline does not say.
const EVERY: Duration = Duration::from_secs(5 * 60);
/// A pipeline begins no more runs by errors than these: what is more waits.
const RATE: Rate = Rate { burst: 30, per_hour: 60 };
/// No second run for the same error so soon after the first, however the first ended.
const AGAIN: Duration = Duration::from_secs(60 * 60);
/// While a pipeline is paused or a cap is reached, its errors are asked for again after this long.
const NOT_NOW: Duration = Duration::from_secs(5 * 60);

/// Starts it, where it is configured.
pub(super) async fn start(holder: &Holder, hooks: &mut Hooks) -> anyhow::Result<()> {
    let errors = holder.inner.errors.clone();
    errors.set_watches(watches(&holder.library()));
    let mut library = holder.inner.library.subscribe();
    let scope = &holder.inner.triggers;
    let stop = scope.token().clone();
    let following = errors.clone();
    drop(scope.spawn("errors: pipelines", async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = library.changed() => if changed.is_err() { return },
            }
            let library = library.borrow_and_update().clone();
            following.set_watches(watches(&library));
        }
    }));
    let env = holder.inner.env.clone();
    let (api, stop) = (api(holder), scope.token().clone());
    let waiting = Loop { handle: errors.clone(), env: env.clone(), api: api.clone(), fire: fire(holder) };
    drop(scope.spawn("errors: waiting", waiting.run(stop.clone())));
    let poller = Poller { handle: errors.clone(), env: env.clone(), api };
    drop(scope.spawn("errors: polling", poller.run(stop)));
    let signed = holder
        .library()
        .settings
        .services
        .sentry
        .as_ref()
        .is_some_and(|sentry| sentry.secret("webhook_secret").is_some());
    if signed {
        let (secrets, organization) = (holder.inner.library.subscribe(), holder.inner.library.subscribe());
        let setup = HookSetup {
            handle: errors,
            env,
            secrets: Arc::new(move || {
                let library = secrets.borrow().clone();
                let sentry = library.settings.services.sentry.as_ref();
                let secret = sentry.and_then(|sentry| sentry.secret("webhook_secret"));
                let secret = secret.ok_or("`services.sentry` has no webhook_secret any more")?;
                secret.read_all().map_err(|error| error.to_string())
            }),
            organization: Arc::new(move || {
                let library = organization.borrow().clone();
                library.settings.services.sentry.as_ref()?.setting("organization").map(str::to_owned)
            }),
        };
        hooks.add("sentry", handler(setup));
    }
    Ok(())
}

/// Sentry's API as the configuration names it now; one client as long as it says the same.
fn api(holder: &Holder) -> Api {
    let (library, env, shared) = (holder.inner.library.subscribe(), holder.inner.env.clone(), Shared::default());
    Arc::new(move || {
        let services = library.borrow().settings.services.clone();
        services.sentry.as_ref()?.secret("token")?;
        let outside = Outside { services: Arc::new(services), shared: shared.clone(), env: env.clone() };
        match Sentry::of(&outside) {
            Ok(sentry) => Some(sentry),
            Err(error) => {
                tracing::warn!(%error, "Sentry cannot be asked");
                None
            }
        }
    })
}

/// Makes and claims the run of an error. Weak: what it belongs to owns the loop that calls it.
fn fire(holder: &Holder) -> Fire {
    let inner = Arc::downgrade(&holder.inner);
    Arc::new(move |waiting, seen, when| {
        let inner = inner.clone();
        Box::pin(async move {
            match inner.upgrade() {
                Some(inner) => Holder { inner }.fire(waiting, seen, when).await,
                None => Ok(Fired::NotNow(NOT_NOW, "the daemon is stopping".into())),
            }
        })
    })
}

impl Holder {
    async fn fire(&self, waiting: WaitingError, seen: Seen, when: Vec<Standing>) -> Result<Fired, journal::Error> {
        let inner = &self.inner;
        if inner.stopping.load(std::sync::atomic::Ordering::SeqCst) {
            return Ok(Fired::NotNow(Duration::from_secs(1), "the daemon is stopping".into()));
        }
        let library = self.library();
        let Some((_, pipeline)) = library.pipelines.get(&waiting.pipeline) else {
            return Ok(Fired::Never("the pipeline was taken away".into()));
        };
        let (journal, now) = (&inner.journal, inner.env.now());
        if let Some(reason) = journal.reader().paused(&waiting.pipeline)? {
            return Ok(Fired::NotNow(NOT_NOW, format!("paused: {reason}")));
        }
        if let Some(reason) = limits::reached(&library.settings.limits, journal.reader(), now) {
            return Ok(Fired::NotNow(NOT_NOW, reason));
        }
        let request = RunRequest {
            trigger: Some(TriggerKind::Sentry),
            key: Some(waiting.trigger_key()),
            item: Some(waiting.item.clone().into()),
            ..RunRequest::default()
        };
        let made = start::make(
            &library.settings,
            pipeline,
            request,
            &inner.profile,
            &inner.build_id,
            inner.env.ids.run_id(now),
            now,
        );
        let start = match made {
            Ok(start) => start,
            Err(refusal) => return Ok(Fired::Never(format!("{refusal} ({})", refusal.code))),
        };
        store(journal, &library.settings, pipeline).await?;
        let claim = Claim { start: start.clone(), slot: None, max_queued: MAX_QUEUED };
        let claimed = journal.claim_error(ErrorClaim { claim, waiting, seen, when, rate: RATE, again: AGAIN }).await?;
        if let ErrorClaimed::Run(_) = &claimed {
            self.admit(start).await;
        }
        Ok(Fired::Decided(claimed))
    }
}

/// The pipelines with `on.sentry`, and who tells of their project: as `from: sentry` reads it.
fn watches(library: &Library) -> Vec<Watch> {
    let settings = &library.settings;
    let pipelines = library.pipelines.values().map(|(_, pipeline)| pipeline);
    pipelines
        .filter_map(|pipeline| {
            let on = pipeline.on.sentry.as_ref()?;
            let mut projects = settings.intake.iter().flat_map(|intake| &intake.projects);
            let taken_in = projects.any(|own| own.name == on.project);
            Some(Watch {
                pipeline: pipeline.name.clone(),
                project: on.project.clone(),
                origin: if taken_in { Origin::Intake } else { Origin::Sentry },
                when: on.when.iter().filter_map(|word| word.parse().ok()).collect(),
                debounce: on.debounce.unwrap_or_default(),
                every: on.every.filter(|every| !every.is_zero()).unwrap_or(EVERY),
            })
        })
        .collect()
}
