//! `nightcrew demo [DIR]`: the three shipped pipelines over bundled samples, offline. The tape replaces only the models' words; the
//! journal, the engine, the queries, the sandbox, the tests and every check are the real ones.
//!
//! DIR is the demo's state directory and holds its configuration, samples and output as well. How far the demo has come is in the
//! journal alone: each of its runs is found again by its trigger's key, so it can be interrupted anywhere.

mod samples;

use std::ffi::OsString;
use std::path::Path;

use anyhow::Context as _;

use super::args::DemoArgs;
use super::run::{follow, stop};
use super::session::Session;
use super::{Exit, Trouble, paper, show};
use crate::base::env::process_variable;
use crate::base::money::UsdMicros;
use crate::base::scope::Scope;
use crate::control::RunRequest;
use crate::daemon::load::Places;
use crate::daemon::signals::Signals;
use crate::daemon::{Holder, HolderSetup};
use crate::domain::view::RunView;
use crate::journal::{self, Reader, RunFilter};
use crate::sinks::terminal::{self, Style};

const PROFILE: &str = "demo";
/// The folder is the demo's own when this is in it.
const MARK: &str = ".nightcrew-demo";
/// The morning after the samples' last day: slot 08:00 in Berlin.
const NOMINAL: &str = "2026-11-20T07:00:00Z";

/// One run of the demo.
struct Part {
    pipeline: &'static str,
    /// Its trigger's key.
    key: &'static str,
    what: &'static str,
}

const PARTS: &[Part] = &[
    Part { pipeline: "analytics-report", key: "demo-report", what: "yesterday's numbers of a shop" },
    Part {
        pipeline: "code-health",
        key: "demo-baseline",
        what: "its first night: what exists is recorded, not judged",
    },
    Part { pipeline: "code-health", key: "demo-findings", what: "the next night, after a commit" },
    Part { pipeline: "error-to-pr", key: "demo-errors", what: "what a program's users ran into" },
];

/// The part after which the code that it looked at gets its next commit.
const BASELINE: usize = 1;

pub async fn run(session: &Session, args: DemoArgs) -> anyhow::Result<Exit> {
    let dir = args.dir;
    let places = Places { config: Some(dir.join("nightcrew.yaml")), pipelines: dir.join("pipelines") };
    let demo = Session { ui: session.ui.clone(), env: session.env.clone(), state: dir.clone(), places };
    claim_folder(&dir)?;
    if demo.holder().await?.is_some() {
        return Err(Trouble::new(Exit::No, format!("a demo is already running in `{}`", dir.display())).into());
    }
    let path: OsString = process_variable("PATH").unwrap_or_default().into();
    let known = known(&demo)?;
    if known.iter().all(Option::is_none) || is_over(&known) {
        journal::clear(&dir, samples::MADE)?;
        if let Some(why) = samples::lay_out(&dir, &path)? {
            demo.ui.must_say(format!("code-health and error-to-pr will not run: {why}"));
        }
    } else {
        demo.ui.say("the demo was interrupted and goes on");
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
    let scope = Scope::new(tokio::runtime::Handle::current());
    let signals = Signals::listen(&scope)?;
    let went = all_parts(&demo, &holder, &signals, &path).await;
    stop(&demo, holder).await?;
    drop(scope.close(std::time::Duration::ZERO).await);
    went?;
    let known = self::known(&demo)?;
    let over = is_over(&known);
    let views: Vec<RunView> = known.into_iter().flatten().collect();
    if demo.ui.json {
        demo.ui.data_json(&show::runs_json(&views))?;
    } else {
        let style = Style { color: demo.ui.color_out(), width: demo.ui.width() };
        let next = match views.last() {
            Some(last) if over => show::next(&demo, last),
            _ => vec![format!("`nightcrew demo {}`", dir.display())],
        };
        demo.ui.data(terminal::together(&views, &next, style).trim_end())?;
    }
    let healthy = views.iter().all(|view| view.outcome.is_some_and(|outcome| outcome.is_healthy()));
    Ok(if over && healthy { Exit::Done } else { Exit::No })
}

/// Takes every part to its end that has not come there; returns early when a signal asks to stop.
async fn all_parts(demo: &Session, holder: &Holder, signals: &Signals, path: &OsString) -> anyhow::Result<()> {
    for (number, part) in PARTS.iter().enumerate() {
        let known = known(demo)?;
        if part_is_over(&known, number) {
            continue;
        }
        if number == BASELINE + 1 && known[number].is_none() {
            samples::move_on(&demo.state, path)?;
        }
        demo.ui.say(format!("{}/{} {}: {}", number + 1, PARTS.len(), part.pipeline, part.what));
        let run = match &known[number] {
            Some(view) => {
                let id = view.start.id.clone();
                holder.resume(&id, UsdMicros::ZERO, "demo").await.map_err(Trouble::from)?;
                id
            }
            None => {
                let request = RunRequest {
                    pipeline: part.pipeline.into(),
                    key: Some(part.key.into()),
                    nominal_at: Some(NOMINAL.parse().context("reading the demo's day")?),
                    ..RunRequest::default()
                };
                holder.submit(request).await.map_err(Trouble::from)?.run()
            }
        };
        follow(demo, holder, &run, signals).await?;
        let view = holder.journal().reader().run(run.as_str())?.context("the run is not in the journal")?;
        if !demo.ui.json && !demo.ui.quiet {
            paper::print(demo, &view)?;
            let style = Style { color: demo.ui.color_out(), width: demo.ui.width() };
            demo.ui.data(format!("\n{}", terminal::closing(&view, &[], style).trim_end()))?;
            demo.ui.say("");
        }
        if signals.stop.is_cancelled() {
            break;
        }
    }
    Ok(())
}

/// The run of each part that was begun.
fn known(demo: &Session) -> anyhow::Result<Vec<Option<RunView>>> {
    let mut known: Vec<Option<RunView>> = PARTS.iter().map(|_| None).collect();
    let reader = match Reader::open(&demo.state) {
        Ok(reader) => reader,
        Err(journal::Error::Missing { .. }) => return Ok(known),
        Err(error) => return Err(error.into()),
    };
    // People may have begun others here.
    for line in reader.runs(RunFilter { limit: 10_000, ..RunFilter::default() })? {
        let Some(view) = reader.run(line.id.as_str())? else { continue };
        let fits = |part: &Part| part.key == view.start.trigger.key && part.pipeline == view.start.pipeline;
        if let Some(number) = PARTS.iter().position(fits) {
            known[number] = Some(view);
        }
    }
    Ok(known)
}

fn part_is_over(known: &[Option<RunView>], number: usize) -> bool {
    let outcome = |number: usize| known.get(number).and_then(Option::as_ref).and_then(|view| view.outcome);
    // Without a baseline there is nothing that the next night could be compared with.
    let in_vain = number == BASELINE + 1 && outcome(BASELINE).is_some_and(|outcome| !outcome.is_healthy());
    outcome(number).is_some() || in_vain
}

fn is_over(known: &[Option<RunView>]) -> bool {
    (0..PARTS.len()).all(|number| part_is_over(known, number))
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
    samples::put(&mark, "This folder was made by `nightcrew demo`; it may be deleted.\n")
}
