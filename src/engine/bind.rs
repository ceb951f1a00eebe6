//! What a run is bound to: its pipeline, models, sources, sinks, prices, as it began with them.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::BoxFuture;
use crate::base::env::Env;
use crate::base::hash::Hash;
use crate::base::money::UsdMicros;
use crate::clients::credentials::{CredentialError, Credentials};
use crate::config::settings::{ModelSettings, Prices, Profile, Settings, SourceSettings};
use crate::domain::definition::{Pipeline, StepBody, ToolQuery};
use crate::domain::model::Role;
use crate::domain::money::RoleSpend;
use crate::domain::proposal::is_repository;
use crate::domain::run::{Failure, RunStart};
use crate::journal::{Reader, StoredDefinition};
use crate::models::tape::{Recorder, TapeWriter};
use crate::ports::Registry;
use crate::ports::durable::Stop;
use crate::ports::model::{Model, ModelSetup};
use crate::ports::publisher::{Branches, PublisherSetup};
use crate::ports::service::{HomeRepository, Outside, Shared};
use crate::ports::sink::{Sink, SinkSetup};
use crate::ports::source::{ErrorShelf, Source, SourceSetup};

use super::calls::Gates;
use super::executor::default_max_rows;
use super::publish::E_CREDENTIAL;
use super::workshop::Workshop;

/// Makes what a run is bound to, from the definition it began with.
pub trait Bind: Send + Sync {
    /// Called when a run is launched, also after a restart. Reads files, contacts nothing.
    fn bind(&self, start: &RunStart) -> Result<Arc<Bound>, Failure>;

    /// The run has ended for good, however it did: what it holds outside of the journal may go.
    fn release<'a>(&'a self, run: &'a str) -> BoxFuture<'a, ()>;
}

/// Everything a run may reach. Names in the pipeline resolve here and nowhere else.
pub struct Bound {
    pub pipeline: Arc<Pipeline>,
    pub(super) settings: Arc<Settings>,
    pub(super) profile: Profile,
    pub(super) prices: Prices,
    pub(super) gates: Arc<Gates>,
    pub(super) out: PathBuf,
    pub(super) outside: Outside,
    models: BTreeMap<Role, Result<Arc<dyn Model>, Stop>>,
    sources: HashMap<String, Result<Arc<dyn Source>, Stop>>,
    pub(super) registry: Registry,
    /// `None`: this process works on no code (benchmarks).
    pub(super) workshop: Option<Arc<Workshop>>,
}

/// A source with the question that a tool asks of it.
pub(super) type Question<'a> = (Arc<dyn Source>, Option<&'a ToolQuery>, u32, Vec<String>);

impl Bound {
    /// The role's own model and its fallbacks, in order.
    pub(super) fn chain(&self, role: Role) -> Result<Vec<(Role, &ModelSettings)>, Stop> {
        let own = self.settings.models.get(&role).ok_or_else(|| no_model(role))?;
        let mut chain = vec![(role, own)];
        for fallback in &own.fallback {
            if let Some(settings) = self.settings.models.get(fallback) {
                chain.push((*fallback, settings));
            }
        }
        Ok(chain)
    }

    pub(super) fn model(&self, role: Role) -> Result<Arc<dyn Model>, Stop> {
        self.models.get(&role).cloned().unwrap_or_else(|| Err(no_model(role)))
    }

    /// The source behind a name in `fetch.from` or in an agent's tools.
    pub(super) fn source<'a>(&'a self, name: &str) -> Result<Question<'a>, Stop> {
        let (source, query, max_rows, mut hide) = match self.pipeline.tool(name) {
            Some(tool) => {
                let max_rows = tool.max_rows.unwrap_or_else(default_max_rows);
                (tool.source.as_str(), Some(&tool.query), max_rows, tool.hide.clone())
            }
            None => (name, None, default_max_rows(), Vec::new()),
        };
        hide.extend(self.settings.hide.iter().cloned());
        match self.sources.get(source) {
            Some(Ok(source)) => Ok((source.clone(), query, max_rows, hide)),
            Some(Err(stop)) => Err(stop.clone()),
            None => Err(Stop::Blocked(
                Failure::new("E-SOURCE", format!("the source `{source}` is not configured")).help(format!(
                    "add `{source}:` under `sources:` in the configuration, or bind it in the profile `{}`",
                    self.profile.name
                )),
            )),
        }
    }

    /// What the profile binds to a name in the YAML.
    pub(super) fn sink_name<'a>(&'a self, name: &'a str) -> &'a str {
        self.profile.sinks.get(name).map_or(name, String::as_str)
    }

    /// Whether the secret of a service was refused as it is now: then nothing is asked of that service.
    pub(super) fn known_refusal(&self, service: &str) -> Option<Stop> {
        let services = &self.outside.services;
        let service = match service {
            "github" => services.github.as_ref(),
            "slack" => services.slack.as_ref(),
            "sentry" => services.sentry.as_ref(),
            _ => None,
        }?;
        let credentials = Credentials::of(&self.outside.shared);
        ["token", "app.key", "bot_token"].into_iter().filter_map(|key| service.secret(key)).find_map(|secret| {
            let error @ CredentialError::Refused(_) = credentials.take(secret).err()? else { return None };
            let help = format!("put a valid one where `secrets.{}` says; this run goes on by itself then", secret.name);
            Some(Stop::Blocked(Failure::new(E_CREDENTIAL, error.to_string()).help(help).waits_for(&secret.name)))
        })
    }

    /// The sink that the profile binds to a name in the YAML.
    pub(super) fn sink(&self, name: &str) -> Result<Arc<dyn Sink>, Stop> {
        let bound = self.sink_name(name);
        let own = self.settings.sinks.get(bound);
        let make = self.registry.sink(own.map_or(bound, |own| &own.kind)).and_then(|kind| kind.make);
        let setup = SinkSetup {
            out: self.out.clone(),
            outside: self.outside.clone(),
            repository: self.home_repository(),
            target: own.map(|own| own.target.clone()),
            secret: own.and_then(|own| own.secret.clone()),
        };
        make.map(|make| make(&setup)).ok_or_else(|| {
            Stop::Blocked(Failure::new("E-SINK", format!("reports cannot go to `{bound}` in this version")).help(
                format!("bind `{name}` to `files` in the profile `{}`: sinks: {{{name}: files}}", self.profile.name),
            ))
        })
    }

    /// What the profile's publishers are made with.
    pub(super) fn publisher_setup(&self, branches: Option<Arc<dyn Branches>>) -> PublisherSetup {
        PublisherSetup {
            out: self.out.clone(),
            branches,
            outside: self.outside.clone(),
            repository: self.home_repository(),
        }
    }

    /// The repository that the YAML names, and where else it has tickets opened.
    fn home_repository(&self) -> Option<HomeRepository> {
        let steps = self.pipeline.walk();
        let trackers = steps.iter().filter_map(|(_, step)| match &step.body {
            StepBody::Kind { kind, options, .. } if kind == "ticket" => options.text("tracker"),
            _ => None,
        });
        let mut trackers: Vec<String> = trackers.filter(|word| is_repository(word)).map(str::to_owned).collect();
        trackers.sort();
        trackers.dedup();
        let named = self.pipeline.repository.as_ref();
        (named.is_some() || !trackers.is_empty()).then(|| HomeRepository {
            github: named.and_then(|named| named.github.clone()),
            r#ref: named.and_then(|named| named.r#ref.clone()),
            may_reach: named.map(|named| named.may_reach.clone()).unwrap_or_default(),
            trackers,
        })
    }

    /// What the interns' calls would have cost at the boss's prices, less what they cost, in dollars.
    pub fn interns_saved(&self, interns: &RoleSpend) -> f64 {
        let Some(boss) = self.settings.models.get(&Role::Boss) else { return 0.0 };
        if interns.calls == 0 {
            return 0.0;
        }
        // Bands go by the length of one prompt, so the average call decides.
        let Some(band) = self.prices.band(&boss.model, interns.usage.total_input() / interns.calls) else { return 0.0 };
        let usage = interns.usage;
        let at_boss = usage.input as f64 * band.input
            + usage.cache_write_5m as f64 * band.cache_write_5m
            + usage.cache_write_1h as f64 * band.cache_write_1h
            + usage.cache_read as f64 * band.cache_read
            + usage.output as f64 * band.output;
        (UsdMicros::from_usd(at_boss / 1e6) - interns.usd).as_usd()
    }
}

fn no_model(role: Role) -> Stop {
    Stop::Blocked(
        Failure::new("E-MODEL", format!("no model is configured for the {role}"))
            .help(format!("add `{role}:` under `models:` in the configuration")),
    )
}

/// Parses a stored definition again: the pipeline and the settings of its run.
pub type LoadStored = Box<dyn Fn(&StoredDefinition) -> Result<(Pipeline, Settings), Failure> + Send + Sync>;

/// Pipelines parsed from stored definitions, by their hash.
type Definitions = HashMap<Hash, (Arc<Pipeline>, Arc<Settings>)>;

/// The binding of the real daemon: everything from the stored definition, its settings and the run's profile.
pub struct StandardBind {
    pub registry: Registry,
    pub reader: Reader,
    pub env: Env,
    /// For local sinks.
    pub out: PathBuf,
    pub load: LoadStored,
    /// `--record`: every model call is appended to this tape.
    pub record: Option<Arc<TapeWriter>>,
    /// For runs that work on code.
    pub workshop: Option<Arc<Workshop>>,
    /// What our own intake has received.
    pub errors: Option<Arc<dyn ErrorShelf>>,
    /// One client per service for all runs.
    pub shared: Shared,
    cache: Mutex<Definitions>,
    models: Mutex<HashMap<String, Arc<dyn Model>>>,
    gates: Arc<Gates>,
}

impl StandardBind {
    pub fn new(registry: Registry, reader: Reader, env: Env, out: PathBuf, load: LoadStored) -> Self {
        Self {
            registry,
            reader,
            env,
            out,
            load,
            record: None,
            workshop: None,
            errors: None,
            shared: Shared::default(),
            cache: Mutex::default(),
            models: Mutex::default(),
            gates: Arc::default(),
        }
    }

    fn definition(&self, hash: &Hash) -> Result<(Arc<Pipeline>, Arc<Settings>), Failure> {
        if let Some(found) = self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(hash) {
            return Ok(found.clone());
        }
        let stored = self.reader.definition(hash).map_err(|e| Failure::new("E-JOURNAL", e.to_string()))?;
        let stored = stored
            .ok_or_else(|| Failure::new("E-JOURNAL", format!("the definition {} is not stored", hash.short())))?;
        let (pipeline, settings) = (self.load)(&stored)?;
        let loaded = (Arc::new(pipeline), Arc::new(settings));
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).insert(*hash, loaded.clone());
        Ok(loaded)
    }

    fn model(&self, settings: &ModelSettings, profile: &Profile) -> Result<Arc<dyn Model>, Stop> {
        let provider = if profile.tape.is_some() { "tape" } else { &settings.provider };
        // One client for all runs with the same settings, so that connections are used again.
        let key = format!(
            "{provider} {:?} {:?} {:?} {:?} {:?}",
            settings.base_url, settings.api_key, profile.tape, settings.idle_timeout, settings.total_timeout
        );
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = models.get(&key) {
            return Ok(model.clone());
        }
        let kind = self.registry.model(provider);
        let kind =
            kind.ok_or_else(|| Stop::Blocked(Failure::new("E-MODEL", format!("there is no provider `{provider}`"))))?;
        let setup = ModelSetup {
            base_url: settings.base_url.clone(),
            api_key: settings.api_key.clone(),
            tape: profile.tape.clone(),
            idle_timeout: settings.idle_timeout,
            total_timeout: settings.total_timeout,
            env: self.env.clone(),
        };
        let made = (kind.make)(&setup).map_err(|error| {
            Stop::Blocked(match profile.tape.is_some() {
                true => Failure::new("E-TAPE", error.to_string())
                    .help("record it anew with another profile: nightcrew run PIPELINE --record TAPE"),
                false => Failure::new("E-MODEL", error.to_string()),
            })
        })?;
        let made = match &self.record {
            Some(tape) => Arc::new(Recorder::new(made, tape.clone())),
            None => made,
        };
        models.insert(key, made.clone());
        Ok(made)
    }

    fn source(
        &self,
        name: &str,
        settings: &SourceSettings,
        pipeline: &Pipeline,
        outside: &Outside,
    ) -> Result<Arc<dyn Source>, Stop> {
        let blocked = |message: String, help: &str| Stop::Blocked(Failure::new("E-SOURCE", message).help(help));
        let make = self.registry.source(&settings.kind).and_then(|kind| kind.make).ok_or_else(|| {
            blocked(
                format!("the source `{name}` is of the kind `{}`, which this version cannot read", settings.kind),
                "bind it to another kind in the profile",
            )
        })?;
        let setup = SourceSetup {
            name: name.to_owned(),
            target: settings.target.clone(),
            secret: settings.secret.clone(),
            auth: settings.auth.clone(),
            paging: settings.paging.clone(),
            timeout: settings.timeout,
            base: settings.base.clone(),
            outside: outside.clone(),
            project: pipeline.on.sentry.as_ref().map(|on| on.project.clone()),
            repository: pipeline.repository.as_ref().and_then(|repository| repository.github.clone()),
            errors: self.errors.clone(),
        };
        make(&setup).map_err(|e| blocked(e.to_string(), "see `nightcrew doctor`"))
    }
}

/// Sources that need no entry of their own: the errors of `on.sentry` (our own intake if it has this project, else Sentry's
/// API if that is configured) and the statistics of the pipeline's repository.
pub fn implied(pipeline: &Pipeline, settings: &Settings) -> Vec<(&'static str, &'static str)> {
    let mut implied = Vec::new();
    if let Some(on) = &pipeline.on.sentry {
        let taken_in = settings.intake.iter().flat_map(|intake| &intake.projects).any(|own| own.name == on.project);
        if taken_in {
            implied.push(("sentry", "intake"));
        } else if settings.services.sentry.as_ref().is_some_and(|sentry| sentry.secret("token").is_some()) {
            implied.push(("sentry", "sentry"));
        }
    }
    if pipeline.repository.as_ref().is_some_and(|repository| repository.github.is_some()) {
        implied.push(("github", "github"));
    }
    implied
}

impl Bind for StandardBind {
    fn release<'a>(&'a self, run: &'a str) -> BoxFuture<'a, ()> {
        match &self.workshop {
            Some(workshop) => workshop.release(run),
            None => Box::pin(async {}),
        }
    }

    fn bind(&self, start: &RunStart) -> Result<Arc<Bound>, Failure> {
        let (pipeline, settings) = self.definition(&start.definition)?;
        let profile = settings.profiles.get(&start.profile).cloned().ok_or_else(|| {
            let known: Vec<_> = settings.profiles.keys().map(String::as_str).collect();
            Failure::new("E-PROFILE", format!("there is no profile `{}`", start.profile))
                .help(format!("one of: {}", known.join(", ")))
        })?;
        let pipeline = in_environment_of(&profile, pipeline);
        let models = settings.models.iter().map(|(role, model)| (*role, self.model(model, &profile))).collect();
        // A profile's sources replace the configured ones by name.
        let outside = Outside {
            services: Arc::new(settings.services.clone()),
            shared: self.shared.clone(),
            env: self.env.clone(),
        };
        let implied = self::implied(&pipeline, &settings);
        let implied =
            implied.into_iter().map(|(name, kind)| (name.to_owned(), SourceSettings::implied(kind, &settings)));
        let named = settings.sources.iter().chain(&profile.sources);
        let named = implied.chain(named.map(|(name, source)| (name.clone(), source.clone())));
        let sources = named
            .map(|(name, source)| {
                let made = self.source(&name, &source, &pipeline, &outside);
                (name, made)
            })
            .collect();
        Ok(Arc::new(Bound {
            pipeline,
            prices: settings.prices.clone(),
            settings,
            profile,
            gates: self.gates.clone(),
            out: self.out.clone(),
            outside,
            models,
            sources,
            registry: self.registry,
            workshop: self.workshop.clone(),
        }))
    }
}

/// The pipeline with the environment that the profile puts in the place of its own: steps read its test command and scanners.
///
/// One that cannot be read is left to whoever prepares it, which says why before anything is spent.
fn in_environment_of(profile: &Profile, pipeline: Arc<Pipeline>) -> Arc<Pipeline> {
    let Some(file) = pipeline.environment.as_ref().map(|environment| environment.file.clone()) else { return pipeline };
    let Some(path) = profile.environments.get(&file) else { return pipeline };
    let Ok(text) = std::fs::read_to_string(path) else { return pipeline };
    match crate::pipeline::parse_environment(&path.display().to_string(), &file, &text).0 {
        Some(environment) => Arc::new(Pipeline { environment: Some(environment), ..(*pipeline).clone() }),
        None => pipeline,
    }
}
