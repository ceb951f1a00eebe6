//! `nightcrew validate [PATH…]`: every mistake at once; quiet when all is well.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::json;

use super::args::ValidateArgs;
use super::session::Session;
use super::{Exit, Trouble};
use crate::builtin::REGISTRY;
use crate::daemon::load::{self, Places};
use crate::diag::{Color, Report};

pub fn run(session: &Session, args: &ValidateArgs) -> anyhow::Result<Exit> {
    let files = files(&session.places, &args.paths)?;
    // Sources and profiles are named in the configuration, so its mistakes belong to the answer.
    let (settings, mut report) = load::settings(&session.places, &REGISTRY);
    let settings = match settings {
        Some(settings) => Some(settings),
        // Pipelines are checked all the same, as if nothing were configured.
        None => load::built_in(&REGISTRY),
    };
    let (mut bad, mut names) = (0, std::collections::BTreeMap::<String, PathBuf>::new());
    let mut twice = Vec::new();
    for file in &files {
        let (pipeline, of_file) = load::pipeline(file, &REGISTRY, settings.as_ref());
        bad += usize::from(pipeline.is_none() || of_file.has_errors());
        report.merge(of_file);
        if let Some(pipeline) = pipeline
            && let Some(first) = names.insert(pipeline.name.clone(), file.clone())
        {
            twice.push(format!("`{}` and `{}` are both named `{}`", first.display(), file.display(), pipeline.name));
        }
    }
    let failed = report.has_errors() || !twice.is_empty();
    if session.ui.json {
        session.ui.data_json(&json!({"diagnostics": report.to_json()}))?;
    } else {
        show(session, &report, files.len(), bad)?;
    }
    if !twice.is_empty() {
        return Err(Trouble::new(Exit::No, twice.join("\n"))
            .help("a pipeline is identified by its name: rename one")
            .into());
    }
    Ok(if failed { Exit::No } else { Exit::Done })
}

fn show(session: &Session, report: &Report, files: usize, bad: usize) -> anyhow::Result<()> {
    if !report.is_empty() {
        let color = if session.ui.color_out() { Color::On } else { Color::Off };
        session.ui.data(report.render(color).trim_end())?;
        session.ui.data("")?;
    }
    let pipelines = counted(files, "pipeline");
    let summary = match (report.len(), report.has_errors()) {
        (0, _) => format!("{pipelines}, no mistakes"),
        (n, false) => format!("{pipelines}, {}", counted(n, "warning")),
        (n, true) if bad > 0 => format!("{} in {bad} of {pipelines}", counted(n, "mistake")),
        (n, true) => format!("{} in the configuration, {pipelines}", counted(n, "mistake")),
    };
    session.ui.data(summary)
}

pub fn counted(n: usize, word: &str) -> String {
    if n == 1 { format!("1 {word}") } else { format!("{n} {word}s") }
}

/// The named files and the pipelines of named folders; without names those of the project.
fn files(places: &Places, paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let folder = |folder: &Path| {
        let places = Places { config: None, pipelines: folder.to_owned() };
        places.pipeline_files().with_context(|| format!("reading the folder {}", folder.display()))
    };
    if paths.is_empty() {
        let found = folder(&places.pipelines)?;
        if found.is_empty() {
            let message = format!("there is no pipeline in `{}`", places.pipelines.display());
            return Err(Trouble::new(Exit::No, message).help("nightcrew init").into());
        }
        return Ok(found);
    }
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            files.extend(folder(path)?);
        } else if path.is_file() {
            files.push(path.clone());
        } else {
            return Err(Trouble::new(Exit::No, format!("there is no `{}`", path.display())).into());
        }
    }
    Ok(files)
}
