//! `nightcrew demo [DIR]`: the shipped analytics-report over bundled samples, offline. The tape replaces only the model's words;
//! the journal, the engine, the queries and every check are the real ones.
//!
//! DIR is the demo's state directory and holds its configuration, samples and output as well.

use std::path::Path;

use anyhow::Context as _;

use super::args::DemoArgs;
use super::session::Session;
use super::{Exit, Trouble, paper, run, templates};
use crate::control::RunRequest;
use crate::daemon::HolderSetup;
use crate::daemon::load::Places;
use crate::journal::{self, Reader};

const PIPELINE: &str = "analytics-report";
const PROFILE: &str = "demo";
/// The folder is the demo's own when this is in it.
const MARK: &str = ".nightcrew-demo";
/// The morning after the samples' last day: slot 08:00 in Berlin.
const NOMINAL: &str = "2026-11-20T07:00:00Z";

const CONFIG: &str = "\
# The demo's configuration: the shipped one with a profile that binds bundled samples and reads no key.
version: 1
effects: preview
models:
  boss:   {provider: anthropic, model: claude-opus-5-5, max_output_tokens: 16000}
  intern: {provider: anthropic, model: claude-haiku-5-5, max_output_tokens: 4000}
prices: prices.yaml
privacy: {hide: [email, ip]}
limits: {max_budget_usd: 10, max_per_day_usd: 100, max_per_month_usd: 1000, max_concurrent_runs: 4}
profiles:
  demo:
    repository: path
    tools: native
    sandbox: sandboxd
    models: {tape: samples/demo.tape}
    sources: {warehouse: {sqlite: samples/warehouse.db}, shop: {files: samples/checkout.json}}
    sinks: {slack: files, tickets: files, pull_requests: local_branch}
";

const WAREHOUSE: &str = include_str!("../../tests/samples/analytics/warehouse.sql");
const CHECKOUT: &str = include_str!("../../tests/samples/analytics/checkout.json");
const TAPE: &str = include_str!("../../tests/samples/analytics/demo.tape");

pub async fn run(session: &Session, args: DemoArgs) -> anyhow::Result<Exit> {
    let dir = args.dir;
    let places = Places { config: Some(dir.join("nightcrew.yaml")), pipelines: dir.join("pipelines") };
    let demo = Session { ui: session.ui.clone(), env: session.env.clone(), state: dir.clone(), places };
    claim_folder(&dir)?;
    if demo.holder().await?.is_some() {
        return Err(Trouble::new(Exit::No, format!("a demo is already running in `{}`", dir.display())).into());
    }
    let interrupted = match Reader::open(&dir) {
        Ok(reader) => reader.open_runs()?.into_iter().find(|start| start.pipeline == PIPELINE),
        Err(journal::Error::Missing { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    if interrupted.is_none() {
        lay_out(&dir)?;
    }
    let holder = demo.open(HolderSetup {
        env: demo.env.clone(),
        registry: paper::registry(),
        state: dir.clone(),
        places: demo.places.clone(),
        library: demo.library()?,
        profile: PROFILE.to_owned(),
        command: "demo",
        take_over: false,
        record: None,
    })?;
    let begun = match interrupted {
        Some(start) => {
            demo.ui.say(format!("the demo was interrupted: run {} goes on", start.id.short()));
            holder.resume_open().await.map(|_| start.id).map_err(anyhow::Error::from)
        }
        None => {
            let nominal_at = NOMINAL.parse().context("reading the demo's day")?;
            let request =
                RunRequest { pipeline: PIPELINE.into(), nominal_at: Some(nominal_at), ..RunRequest::default() };
            let submitted = holder.submit(request).await;
            submitted.map(|submitted| submitted.run()).map_err(|refusal| Trouble::from(refusal).into())
        }
    };
    match begun {
        Ok(id) => run::hold(&demo, holder, id, None).await,
        Err(error) => {
            run::stop(&demo, holder).await?;
            Err(error)
        }
    }
}

/// Makes sure that nothing of the user's is written over.
fn claim_folder(dir: &Path) -> anyhow::Result<()> {
    let mark = dir.join(MARK);
    if mark.exists() {
        return Ok(());
    }
    match std::fs::read_dir(dir) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                let trouble = Trouble::new(Exit::No, format!("`{}` is not empty and is not a demo's", dir.display()));
                return Err(trouble.help("name another folder: nightcrew demo DIR").into());
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("reading {}", dir.display())),
    }
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    put(&mark, "This folder was made by `nightcrew demo`; it may be deleted.\n")
}

/// Configuration, pipeline and samples, as they are in this binary.
fn lay_out(dir: &Path) -> anyhow::Result<()> {
    put(&dir.join("nightcrew.yaml"), CONFIG)?;
    put(&dir.join("prices.yaml"), templates::PRICES)?;
    let template = templates::find(PIPELINE).context("the demo's pipeline is not among the templates")?;
    put(&dir.join(format!("pipelines/{PIPELINE}.yaml")), template.text)?;
    for (path, text) in template.refers_to {
        put(&dir.join("pipelines").join(path), text)?;
    }
    put(&dir.join("samples/checkout.json"), CHECKOUT)?;
    put(&dir.join("samples/demo.tape"), TAPE)?;
    let database = dir.join("samples/warehouse.db");
    rusqlite::Connection::open(&database)
        .and_then(|connection| connection.execute_batch(WAREHOUSE))
        .with_context(|| format!("building {}", database.display()))
}

fn put(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
