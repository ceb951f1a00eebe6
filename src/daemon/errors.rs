//! Errors as a trigger: Sentry polled and its webhooks, both into one claim per error.

use std::time::Duration;

use super::Holder;
use super::load::Library;
use crate::triggers::hook::Hooks;
use crate::triggers::sentry::{Origin, Watch};

/// How often a project is polled where the pipeline does not say.
const EVERY: Duration = Duration::from_secs(5 * 60);

/// Starts it, where it is configured.
pub(super) async fn start(holder: &Holder, _: &mut Hooks) -> anyhow::Result<()> {
    let errors = holder.inner.errors.clone();
    errors.set_watches(watches(&holder.library()));
    let mut library = holder.inner.library.subscribe();
    let stop = holder.inner.scope.token().clone();
    drop(holder.inner.scope.spawn("errors: pipelines", async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = library.changed() => if changed.is_err() { return },
            }
            let library = library.borrow_and_update().clone();
            errors.set_watches(watches(&library));
        }
    }));
    Ok(())
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
