//! What a run begins with: profile, effects, parameters, limits. Pure but for the time zone database.

use crate::base::clock::Timestamp;
use crate::base::hash::Hash;
use crate::base::ids::RunId;
use crate::config::settings::Settings;
use crate::control::{Refusal, RunRequest};
use crate::domain::definition::Pipeline;
use crate::domain::run::{RunStart, Trigger, TriggerKind};

use super::limits::Effective;
use super::params;

/// The start of a run of `pipeline`, or why it cannot begin. `profile` is that of runs that name none.
pub fn make(
    settings: &Settings,
    pipeline: &Pipeline,
    request: RunRequest,
    profile: &str,
    build_id: &str,
    id: RunId,
    now: Timestamp,
) -> Result<RunStart, Refusal> {
    let profile = request.profile.unwrap_or_else(|| profile.to_owned());
    if !settings.profiles.contains_key(&profile) {
        let known: Vec<_> = settings.profiles.keys().map(String::as_str).collect();
        let refusal = Refusal::new("E-PROFILE", format!("there is no profile `{profile}`"));
        return Err(refusal.help(format!("one of: {}", known.join(", "))));
    }
    if let Some(until) = &request.until {
        known_step(pipeline, until)?;
    }
    let schedule = pipeline.on.schedule.as_ref();
    let timezone = schedule.map_or_else(|| "UTC".to_owned(), |schedule| schedule.timezone.clone());
    let nominal_at = request.nominal_at.unwrap_or(now);
    let zone = jiff::tz::TimeZone::get(&timezone)
        .map_err(|error| Refusal::new("E-ZONE", format!("the time zone `{timezone}` cannot be read: {error}")))?;
    let day = nominal_at.to_zoned(zone).date();
    let params = params::resolve(&pipeline.params, &request.params, day)
        .map_err(|mistakes| Refusal::new("E-PARAMS", mistakes.join("\n")))?;
    let allowed = pipeline.effects.min(settings.effects);
    let kind = request.trigger.unwrap_or(TriggerKind::Manual);
    let key = request.key.unwrap_or_else(|| id.0.clone());
    Ok(RunStart {
        id,
        pipeline: pipeline.name.clone(),
        definition: definition_hash(pipeline, settings),
        profile,
        effects: request.effects.map_or(allowed, |asked| asked.min(allowed)),
        trigger: Trigger { kind, key, item: request.item },
        params,
        nominal_at,
        timezone,
        started_at: now,
        build_id: build_id.to_owned(),
        limits: Effective::of(&pipeline.limits, &settings.limits).run_limits(),
        until: request.until,
    })
}

/// Refuses a name that is none of the pipeline's own steps.
pub fn known_step(pipeline: &Pipeline, step: &str) -> Result<(), Refusal> {
    if pipeline.steps.iter().any(|known| known.id == step) {
        return Ok(());
    }
    let known: Vec<_> = pipeline.steps.iter().map(|step| step.id.as_str()).collect();
    let refusal = Refusal::new("E-STEP", format!("`{}` has no step `{step}`", pipeline.name));
    Err(refusal.help(format!("one of: {}", known.join(", "))))
}

/// Of the pipeline with everything it refers to, and of the settings that bind it.
pub fn definition_hash(pipeline: &Pipeline, settings: &Settings) -> Hash {
    let pipeline_hash = pipeline.hash.to_string();
    let mut parts = vec![pipeline_hash.as_bytes()];
    let files = settings_files(settings);
    for (name, text) in &files {
        parts.extend([name.as_bytes(), text.as_bytes()]);
    }
    Hash::of_parts(parts)
}

/// The settings' texts as they are stored with a run. The configuration's own path is made absolute: paths in it are resolved
/// against its folder, also when the run is taken up from somewhere else.
pub fn settings_files(settings: &Settings) -> Vec<(String, String)> {
    let mut files = settings.files.clone();
    if let (Some(file), Some((name, _))) = (&settings.file, files.first_mut())
        && let Ok(absolute) = std::path::absolute(file)
    {
        *name = absolute.display().to_string();
    }
    files
}
