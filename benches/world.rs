//! A state directory with a pipeline, a configuration and a source, and one life of the engine over it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nightcrew::base::env::Env;
use nightcrew::base::hash::Hash;
use nightcrew::base::secret::Secret;
use nightcrew::config;
use nightcrew::domain::run::{Effects, Failure, RunLimits, RunStart, Trigger, TriggerKind};
use nightcrew::engine::bind::StandardBind;
use nightcrew::engine::{Engine, EngineSetup};
use nightcrew::journal::{Claim, Claimed, Journal, OpenOptions, StoredDefinition};
use nightcrew::pipeline;
use nightcrew::policy::redact::Redactor;
use nightcrew::ports::Registry;

pub const REGISTRY: Registry = Registry {
    steps: nightcrew::steps::ALL,
    tools: nightcrew::tools::ALL,
    sources: nightcrew::sources::ALL,
    sinks: nightcrew::sinks::ALL,
    models: nightcrew::models::ALL,
    sandboxes: nightcrew::sandboxes::ALL,
    publishers: nightcrew::publishers::ALL,
};

/// One agent and its tool.
pub const PIPELINE: &str = "\
version: 1
name: bench
summary: One agent and its tool.
limits: {max_turns: 1000, max_budget_usd: 900.00}
steps:
  - id: why
    boss: {ask: \"Why did signups change?\", tools: [days], max_turns: 900}
    output: {cause: string(200)}
tools:
  days: {sql: warehouse, file: days.sql, args: {from: date?}}
";

pub const DAYS: &str = "SELECT day, signups, note FROM signups WHERE :from IS NULL OR day >= :from ORDER BY day";

const WAREHOUSE: &str = "CREATE TABLE signups(day TEXT, signups INTEGER, note TEXT);
    INSERT INTO signups VALUES ('2099-11-17', 100, 'a'), ('2099-11-18', 102, 'b'), ('2099-11-19', 150, 'c');";

const PRICES: &str = "version: 1
as_of: 2026-11-20
models:
  claude-opus-5-5: {bands: [{input: 4, output: 20, cache_write_5m: 5, cache_write_1h: 8, cache_read: 0.4}]}
";

/// A folder with what a user writes: `nightcrew.yaml`, `prices.yaml`, `pipelines/`, and a source; `state/` is made in it.
pub struct World {
    pub folder: PathBuf,
    pub config: String,
    pub env: Env,
    /// The text of the pipeline whose runs are claimed.
    pub pipeline: &'static str,
}

impl World {
    /// The boss answers from `url`.
    pub fn at(folder: &Path, url: &str) -> Self {
        let config = format!(
            "version: 1\nprices: prices.yaml\nsecrets: {{MODEL: {{file: model.key}}}}\nmodels:\n  \
             boss: {{provider: anthropic, model: claude-opus-5-5, base_url: \"{url}\", api_key: secret:MODEL, max_output_tokens: 2000}}\n\
             sources:\n  warehouse: {{sqlite: warehouse.db}}\n"
        );
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
        write("model.key", "test-key-of-the-bench\n");
        write("prices.yaml", PRICES);
        write("nightcrew.yaml", &config);
        std::fs::create_dir_all(folder.join("pipelines")).unwrap();
        write("pipelines/bench.yaml", PIPELINE);
        write("pipelines/days.sql", DAYS);
        let warehouse = folder.join("warehouse.db");
        if !warehouse.exists() {
            rusqlite::Connection::open(warehouse).unwrap().execute_batch(WAREHOUSE).unwrap();
        }
        Self { folder: folder.to_owned(), config, env: Env::system(), pipeline: PIPELINE }
    }

    pub fn warehouse(&self) -> PathBuf {
        self.folder.join("warehouse.db")
    }

    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// The journal as the daemon opens it, with its redactor.
    pub fn journal(&self) -> Journal {
        let redactor = Redactor::new(vec![Secret::new("test-key-of-the-bench")]);
        let redact = move |text: &str| match redactor.redact(text) {
            std::borrow::Cow::Borrowed(_) => None,
            std::borrow::Cow::Owned(text) => Some(text),
        };
        let options = OpenOptions::new(self.env.clone(), "bench").redactor(Arc::new(redact));
        Journal::open(&self.state(), options).unwrap()
    }

    /// Journal and engine, as a fresh process would have them. Call within a runtime.
    pub fn open(&self) -> Process {
        let journal = self.journal();
        let load = |stored: &StoredDefinition| {
            let (pipeline, report) = pipeline::parse_stored(&stored.files, &REGISTRY);
            let failure =
                |report: nightcrew::diag::Report| Failure::new("E-BENCH", report.render(nightcrew::diag::Color::Off));
            let pipeline = pipeline.ok_or_else(|| failure(report))?;
            let (settings, report) = config::parse_stored(&stored.settings, &REGISTRY);
            Ok((pipeline, settings.ok_or_else(|| failure(report))?))
        };
        let out = self.state().join("out");
        let bind = StandardBind::new(REGISTRY, journal.reader().clone(), self.env.clone(), out, Box::new(load));
        let engine = Engine::start(EngineSetup {
            env: self.env.clone(),
            journal: journal.clone(),
            runtime: tokio::runtime::Handle::current(),
            threads: std::thread::available_parallelism().map_or(2, usize::from).clamp(1, 4),
            bind: Arc::new(bind),
            build_id: "bench".into(),
        })
        .unwrap();
        Process { engine, journal }
    }

    /// Claims `count` runs.
    pub async fn claim(&self, journal: &Journal, count: usize) -> Vec<RunStart> {
        let name = self.folder.join("nightcrew.yaml").display().to_string();
        let files = [("pipeline.yaml".to_owned(), self.pipeline.to_owned()), ("days.sql".to_owned(), DAYS.to_owned())];
        let settings = [(name, self.config.clone()), ("prices.yaml".into(), PRICES.into())];
        let (parsed, report) = pipeline::parse_stored(&files, &REGISTRY);
        let parsed = parsed.unwrap_or_else(|| panic!("{}", report.render(nightcrew::diag::Color::Off)));
        let definition = Hash::of_parts([self.pipeline.as_bytes(), self.config.as_bytes()]);
        journal.put_definition(&parsed.name, definition, &files, &settings).await.unwrap();
        let mut starts = Vec::new();
        for _ in 0..count {
            let now = self.env.now();
            let id = self.env.ids.run_id(now);
            let start = RunStart {
                id: id.clone(),
                pipeline: parsed.name.clone(),
                definition,
                profile: "local".into(),
                effects: Effects::Preview,
                trigger: Trigger { kind: TriggerKind::Manual, key: id.to_string(), item: None },
                params: serde_json::Map::new(),
                nominal_at: now,
                timezone: "UTC".into(),
                started_at: now,
                build_id: "bench".into(),
                limits: RunLimits {
                    max_turns: parsed.limits.max_turns.as_ref().map(|v| v.value),
                    max_budget: parsed.limits.max_budget_usd.as_ref().map(|v| v.value),
                    max_per_day: None,
                    max_duration_s: None,
                    keep_for_report_permille: 50,
                },
                until: None,
            };
            starts.push(start);
        }
        let claims =
            starts.iter().map(|start| journal.claim(Claim { start: start.clone(), slot: None, max_queued: u32::MAX }));
        for claimed in futures_util::future::join_all(claims).await {
            assert_eq!(claimed.unwrap(), Claimed::New);
        }
        starts
    }
}

/// One life of the daemon.
pub struct Process {
    pub engine: Engine,
    pub journal: Journal,
}

impl Process {
    /// Runs them all to their end and answers how long that took.
    pub async fn run(&self, starts: Vec<RunStart>) -> Duration {
        let runs: Vec<_> = starts.iter().map(|start| start.id.clone()).collect();
        let began = std::time::Instant::now();
        starts.into_iter().for_each(|start| self.engine.launch(start));
        self.engine.wait_idle().await;
        let took = began.elapsed();
        for run in runs {
            let view = self.journal.reader().run(run.as_str()).unwrap().unwrap();
            assert!(view.failure.is_none(), "{:?}", view.failure);
            assert!(view.outcome.is_some(), "the run did not end");
        }
        took
    }

    pub async fn stop(self) {
        let late = self.engine.stop(Duration::from_secs(10)).await;
        assert!(late.is_empty(), "late: {late:?}");
        drop(self.engine);
        self.journal.close().await.unwrap();
    }
}
