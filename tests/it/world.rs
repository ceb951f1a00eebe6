//! A small world for tests of whole runs: a state directory, pipelines, a SQLite source, a scripted model over real HTTP.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nightcrew::base::env::Env;
use nightcrew::base::hash::Hash;
use nightcrew::base::ids::RunId;
use nightcrew::base::scope::Scope;
use nightcrew::config;
use nightcrew::domain::run::{Effects, Failure, Outcome, RunLimits, RunStart, Trigger, TriggerKind};
use nightcrew::domain::view::RunView;
use nightcrew::engine::bind::StandardBind;
use nightcrew::engine::workshop::{Workshop, WorkshopSetup};
use nightcrew::engine::{Engine, EngineSetup};
use nightcrew::journal::{Claim, Journal, OpenOptions, StoredDefinition};
use nightcrew::pipeline;
use nightcrew::ports::Registry;

use crate::fakes::model::ModelServer;

pub const REGISTRY: Registry = Registry {
    steps: nightcrew::steps::ALL,
    tools: nightcrew::tools::ALL,
    sources: nightcrew::sources::ALL,
    sinks: nightcrew::sinks::ALL,
    models: nightcrew::models::ALL,
    sandboxes: nightcrew::sandboxes::ALL,
    publishers: nightcrew::publishers::ALL,
};

/// A folder with a configuration and a warehouse, and the address of a scripted model.
pub struct World {
    pub folder: tempfile::TempDir,
    pub config: String,
    pub env: Env,
    pub registry: Registry,
    /// Beside the pipeline: environments, playbooks.
    pub files: Vec<(String, String)>,
    pub prices: String,
}

impl World {
    /// `boss` and `intern` both answer from `model`.
    pub fn new(model: &ModelServer) -> Self {
        Self::below(model, &std::env::temp_dir())
    }

    /// The same in a folder below `place`.
    pub fn below(model: &ModelServer, place: &Path) -> Self {
        let folder = tempfile::tempdir_in(place).unwrap();
        let url = model.url();
        let key = folder.path().join("model.key");
        std::fs::write(&key, "test-key\n").unwrap();
        std::fs::write(folder.path().join("prices.yaml"), PRICES).unwrap();
        let warehouse = rusqlite::Connection::open(folder.path().join("warehouse.db")).unwrap();
        warehouse.execute_batch(WAREHOUSE).unwrap();
        let config = format!(
            "version: 1\n\
             prices: prices.yaml\n\
             secrets: {{MODEL: {{file: model.key}}}}\n\
             models:\n  \
               boss: {{provider: anthropic, model: claude-opus-5-5, base_url: \"{url}\", api_key: secret:MODEL, max_output_tokens: 2000}}\n  \
               intern: {{provider: anthropic, model: claude-haiku-5-5, base_url: \"{url}\", api_key: secret:MODEL, max_output_tokens: 1000}}\n\
             sources:\n  warehouse: {{sqlite: warehouse.db}}\n"
        );
        Self { folder, config, env: Env::system(), registry: REGISTRY, files: Vec::new(), prices: PRICES.into() }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    pub fn out(&self) -> PathBuf {
        self.path().join("out")
    }

    /// The settings' texts, as they are kept with a run.
    fn settings(&self) -> Vec<(String, String)> {
        let name = self.path().join("nightcrew.yaml").display().to_string();
        vec![(name, self.config.clone()), ("prices.yaml".into(), self.prices.clone())]
    }

    /// Opens the journal and starts an engine over it, as a fresh process would.
    pub fn open(&self, options: impl FnOnce(&mut OpenOptions)) -> Process {
        let mut open = OpenOptions::new(self.env.clone(), "test-build");
        options(&mut open);
        let build_id = open.build_id.clone();
        let journal = Journal::open(&self.state(), open).unwrap();
        let registry = self.registry;
        let load = move |stored: &StoredDefinition| {
            let (pipeline, report) = pipeline::parse_stored(&stored.files, &registry);
            let pipeline =
                pipeline.ok_or_else(|| Failure::new("E-TEST", report.render(nightcrew::diag::Color::Off)))?;
            let (settings, report) = config::parse_stored(&stored.settings, &registry);
            let settings =
                settings.ok_or_else(|| Failure::new("E-TEST", report.render(nightcrew::diag::Color::Off)))?;
            Ok((pipeline, settings))
        };
        let mut bind =
            StandardBind::new(registry, journal.reader().clone(), self.env.clone(), self.out(), Box::new(load));
        bind.workshop = Some(Arc::new(Workshop::new(WorkshopSetup {
            env: self.env.clone(),
            registry,
            folder: self.state().join("work"),
            pipelines: self.path().to_owned(),
            scope: Scope::new(tokio::runtime::Handle::current()),
            program: Some(env!("CARGO_BIN_EXE_nightcrew").into()),
            path: std::env::var_os("PATH").unwrap(),
        })));
        let engine = Engine::start(EngineSetup {
            env: self.env.clone(),
            journal: journal.clone(),
            runtime: tokio::runtime::Handle::current(),
            threads: 2,
            bind: Arc::new(bind),
            build_id,
        })
        .unwrap();
        Process { engine, journal }
    }

    /// Claims a run of the pipeline text. Errors are the journal's.
    pub async fn claim(&self, process: &Process, yaml: &str, key: &str) -> Result<RunStart, nightcrew::journal::Error> {
        self.try_claim(process, yaml, key, |_| {}).await
    }

    /// As [`World::claim`], of a run that begins otherwise.
    pub async fn claim_as(
        &self,
        process: &Process,
        yaml: &str,
        key: &str,
        change: impl FnOnce(&mut RunStart),
    ) -> RunStart {
        self.try_claim(process, yaml, key, change).await.unwrap()
    }

    /// Both. Errors are the journal's.
    pub async fn try_claim(
        &self,
        process: &Process,
        yaml: &str,
        key: &str,
        change: impl FnOnce(&mut RunStart),
    ) -> Result<RunStart, nightcrew::journal::Error> {
        let mut files = vec![("pipeline.yaml".to_owned(), yaml.to_owned()), ("days.sql".to_owned(), DAYS.to_owned())];
        files.extend(self.files.iter().cloned());
        let (parsed, report) = pipeline::parse_stored(&files, &self.registry);
        let parsed = parsed.unwrap_or_else(|| panic!("{}", report.render(nightcrew::diag::Color::Off)));
        let texts = files.iter().map(|(_, text)| text.as_bytes());
        let definition = Hash::of_parts(texts.chain([self.config.as_bytes()]));
        process.journal.put_definition(&parsed.name, definition, &files, &self.settings()).await?;
        let now = self.env.now();
        let limits = &parsed.limits;
        let mut start = RunStart {
            id: self.env.ids.run_id(now),
            pipeline: parsed.name.clone(),
            definition,
            profile: "local".into(),
            effects: Effects::Preview,
            trigger: Trigger { kind: TriggerKind::Manual, key: key.into(), item: None },
            params: serde_json::Map::new(),
            nominal_at: now,
            timezone: "UTC".into(),
            started_at: now,
            build_id: "test-build".into(),
            limits: RunLimits {
                max_turns: limits.max_turns.as_ref().map(|v| v.value),
                max_budget: limits.max_budget_usd.as_ref().map(|v| v.value),
                max_per_day: limits.max_per_day_usd.as_ref().map(|v| v.value),
                max_duration_s: limits.max_duration.as_ref().map(|v| v.value.as_secs()),
                keep_for_report_permille: limits.keep_for_report_permille.as_ref().map_or(0, |v| v.value),
            },
            until: None,
        };
        change(&mut start);
        process.journal.claim(Claim { start: start.clone(), slot: None, max_queued: 100 }).await?;
        Ok(start)
    }
}

/// One life of the daemon.
pub struct Process {
    pub engine: Engine,
    pub journal: Journal,
}

impl Process {
    pub async fn run(&self, start: RunStart) -> Option<Outcome> {
        let id = start.id.clone();
        self.engine.launch(start);
        self.engine.wait(&id).await.unwrap()
    }

    pub fn view(&self, id: &RunId) -> RunView {
        self.journal.reader().run(id.as_str()).unwrap().unwrap()
    }

    /// Ends this life in order.
    pub async fn stop(self) {
        let late = self.engine.stop(Duration::from_secs(10)).await;
        assert!(late.is_empty(), "late: {late:?}");
        drop(self.engine);
        drop(self.journal);
    }
}

const PRICES: &str = "version: 1\n\
    as_of: 2026-11-20\n\
    models:\n  \
      claude-opus-5-5: {bands: [{input: 4, output: 20, cache_write_5m: 5, cache_write_1h: 8, cache_read: 0.4}]}\n  \
      claude-haiku-5-5: {bands: [{input: 0.1, output: 0.5, cache_write_5m: 0.125, cache_write_1h: 0.2, cache_read: 0.01}]}\n";

const WAREHOUSE: &str = "CREATE TABLE signups(day TEXT, signups INTEGER, note TEXT);
    INSERT INTO signups VALUES ('2026-11-17', 100, 'a'), ('2026-11-18', 102, 'b'), ('2026-11-19', 150, 'c');";

const DAYS: &str = "SELECT day, signups, note FROM signups WHERE :from IS NULL OR day >= :from ORDER BY day";
