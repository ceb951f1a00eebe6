//! The checked configuration as plain data. `parse` makes it; nothing downstream checks again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::money::UsdMicros;
use crate::base::secret::SecretRef;
use crate::domain::definition::{From, Origin};
use crate::domain::model::{Role, Usage};
use crate::domain::run::Effects;
pub use crate::ports::service::{Service, Services};
use crate::ports::source::{Paging, SourceAuth};

/// Everything the daemon was told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The file it came from; `None`: built-in defaults.
    pub file: Option<PathBuf>,
    /// The folder of that file: relative paths start here.
    pub base: PathBuf,
    pub effects: Effects,
    pub models: BTreeMap<Role, ModelSettings>,
    pub prices: Prices,
    pub secrets: BTreeMap<String, SecretRef>,
    pub services: Services,
    pub sources: BTreeMap<String, SourceSettings>,
    /// By the name that `report.to` uses.
    pub sinks: BTreeMap<String, SinkSettings>,
    /// Fields that never reach a model or a report.
    pub hide: Vec<String>,
    pub http: Http,
    pub limits: DaemonLimits,
    pub profiles: BTreeMap<String, Profile>,
    pub notify: Notify,
    pub intake: Option<Intake>,
    /// `hooks.listen`.
    pub hooks_listen: Option<String>,
    /// The configuration's text (and that of the prices), stored with each run so that it keeps what it began with.
    pub files: Vec<(String, String)>,
}

/// `models.<role>`.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSettings {
    /// A name in `Registry::models`.
    pub provider: String,
    pub model: String,
    pub base_url: Option<String>,
    pub api_key: Option<SecretRef>,
    pub max_output_tokens: u32,
    /// Roles whose model answers when this one is out.
    pub fallback: Vec<Role>,
    pub idle_timeout: Duration,
    pub total_timeout: Duration,
    pub origin: Origin,
}

/// The price table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prices {
    /// `YYYY-MM-DD`
    pub as_of: String,
    pub models: BTreeMap<String, Vec<PriceBand>>,
    /// By provider.
    pub sandboxes: BTreeMap<String, SandboxPrice>,
    pub origins: BTreeMap<String, Origin>,
}

/// What a sandbox costs while it lives, in dollars per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SandboxPrice {
    pub vcpu: f64,
    pub gib: f64,
}

impl SandboxPrice {
    /// For so many processors, so much memory, so long.
    pub fn cost(&self, vcpus: u32, memory_mb: u64, lasts: Duration) -> UsdMicros {
        let second = f64::from(vcpus) * self.vcpu + memory_mb as f64 / 1024.0 * self.gib;
        UsdMicros::from_usd(second * lasts.as_secs_f64())
    }
}

/// Prices up to a prompt length, in dollars per million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PriceBand {
    /// Largest prompt of the band in tokens; the last band has none.
    pub up_to_tokens: Option<u64>,
    pub input: f64,
    pub output: f64,
    pub cache_write_5m: f64,
    pub cache_write_1h: f64,
    pub cache_read: f64,
}

impl Prices {
    /// The band that a prompt of `input_tokens` falls into.
    pub fn band(&self, model: &str, input_tokens: u64) -> Option<&PriceBand> {
        let bands = self.models.get(model)?;
        bands.iter().find(|band| band.up_to_tokens.is_none_or(|most| input_tokens <= most)).or(bands.last())
    }

    /// What a finished call cost.
    pub fn cost(&self, model: &str, usage: &Usage) -> Option<UsdMicros> {
        let band = self.band(model, usage.total_input())?;
        let dollars = usage.input as f64 * band.input
            + usage.cache_write_5m as f64 * band.cache_write_5m
            + usage.cache_write_1h as f64 * band.cache_write_1h
            + usage.cache_read as f64 * band.cache_read
            + usage.output as f64 * band.output;
        Some(UsdMicros::from_usd(dollars / 1e6))
    }

    /// The most that `input_tokens` of input and `output_tokens` of output can cost: every input token at the dearest input
    /// price of any band the prompt may fall into.
    pub fn worst_case(&self, model: &str, input_tokens: u64, output_tokens: u64) -> Option<(UsdMicros, UsdMicros)> {
        let bands = self.models.get(model)?;
        let mut reachable = Vec::new();
        for band in bands {
            reachable.push(band);
            if band.up_to_tokens.is_none_or(|most| input_tokens <= most) {
                break;
            }
        }
        let most = |price: fn(&PriceBand) -> f64| reachable.iter().map(|b| price(b)).fold(0.0, f64::max);
        let input = most(|b| b.input.max(b.cache_write_5m).max(b.cache_write_1h).max(b.cache_read));
        let output = most(|b| b.output);
        Some((
            UsdMicros::from_usd(input_tokens as f64 * input / 1e6),
            UsdMicros::from_usd(output_tokens as f64 * output / 1e6),
        ))
    }
}

/// One entry under `sources:`, or in a profile's.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceSettings {
    /// A name in `Registry::sources`: `sqlite`, `http`, `files`, `postgres`, `prometheus`.
    pub kind: String,
    pub target: Option<String>,
    pub secret: Option<SecretRef>,
    pub auth: SourceAuth,
    pub paging: Paging,
    pub timeout: Duration,
    pub origin: Origin,
    /// The folder against which its files are resolved.
    pub base: PathBuf,
}

impl SourceSettings {
    /// A source that no file names: it is reached through `services`.
    pub fn implied(kind: &str, settings: &Settings) -> Self {
        Self {
            kind: kind.to_owned(),
            target: None,
            secret: None,
            auth: SourceAuth::None,
            paging: Paging::None,
            timeout: Duration::from_secs(30),
            origin: Origin::default(),
            base: settings.base.clone(),
        }
    }
}

/// One entry under `sinks:`: a place for reports beside those that are built in.
#[derive(Clone, Debug, PartialEq)]
pub struct SinkSettings {
    /// A name in `Registry::sinks`: `markdown`, `webhook`.
    pub kind: String,
    /// A folder or an address.
    pub target: String,
    /// What a webhook is signed with.
    pub secret: Option<SecretRef>,
    pub origin: Origin,
    /// The folder against which its files are resolved.
    pub base: PathBuf,
}

/// `http:`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Http {
    pub listen: Option<String>,
    pub public_url: Option<String>,
    pub tokens: Vec<HttpToken>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct HttpToken {
    pub name: String,
    pub secret: SecretRef,
    pub scopes: Vec<String>,
}

/// `limits:` of the daemon.
#[derive(Clone, Debug)]
pub struct DaemonLimits {
    pub max_budget: From<UsdMicros>,
    pub max_per_day: From<UsdMicros>,
    pub max_per_month: From<UsdMicros>,
    pub max_concurrent_runs: From<u32>,
}

/// `notify:`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Notify {
    pub digest_channel: Option<String>,
    pub digest_at: Option<String>,
    pub digest_timezone: Option<String>,
    pub quiet_hours: Option<String>,
    pub ping_url: Option<String>,
}

/// `intake:`
#[derive(Clone, Debug, PartialEq)]
pub struct Intake {
    pub listen: String,
    pub projects: Vec<IntakeProject>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct IntakeProject {
    pub id: u64,
    pub name: String,
    pub key: SecretRef,
    /// Events taken in per minute; as many may come at once.
    pub max_per_minute: Option<u32>,
}

/// What one profile binds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    pub name: String,
    /// `path`, `clone`, or a folder (`{path: DIR}`).
    pub repository: Option<String>,
    pub repository_path: Option<PathBuf>,
    /// Other folders for some pipelines, by their name (`{path: DIR, pipelines: {NAME: DIR}}`).
    pub repository_paths: BTreeMap<String, PathBuf>,
    /// `native` or `clone`.
    pub tools: String,
    /// `sandboxd` or `e2b`.
    pub sandbox: String,
    /// Replace configured sources by name.
    pub sources: BTreeMap<String, SourceSettings>,
    /// From the name in YAML (`slack`, `tickets`, `pull_requests`) to the sink that takes it.
    pub sinks: BTreeMap<String, String>,
    /// All roles answer from this tape.
    pub tape: Option<PathBuf>,
    /// Environment files replaced.
    pub environments: BTreeMap<String, PathBuf>,
    pub origin: Origin,
}

impl Profile {
    /// The folder that stands for the repository of a pipeline, if this profile names one.
    pub fn repository_of(&self, pipeline: &str) -> Option<&Path> {
        self.repository_paths.get(pipeline).or(self.repository_path.as_ref()).map(PathBuf::as_path)
    }
}
