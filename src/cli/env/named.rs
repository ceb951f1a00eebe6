//! Which environments an argument means, and for which code.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;

use crate::base::hash::Hash;
use crate::builtin::REGISTRY;
use crate::cli::args::WhichEnv;
use crate::cli::session::Session;
use crate::cli::{Exit, Trouble};
use crate::daemon::find;
use crate::daemon::load::Library;
use crate::domain::definition::{Environment, Limits, On, Pipeline, Repository};
use crate::domain::run::Effects;
use crate::pipeline;

/// An environment, and the code for which it is.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub environment: Environment,
    /// The pipeline, whose repository it is for.
    pub pipeline: Arc<Pipeline>,
    /// All pipelines that use it for that repository.
    pub used_by: Vec<String>,
}

impl Named {
    pub(super) fn shown(&self) -> String {
        match self.used_by.first() {
            Some(pipeline) => pipeline.clone(),
            None => self.environment.file.clone(),
        }
    }
}

/// What the argument means: a pipeline, a file that pipelines name, any other file (for the repository one stands in), or all.
pub(super) fn named(session: &Session, library: &Library, which: &WhichEnv) -> anyhow::Result<Vec<Named>> {
    let mut all: Vec<Named> = Vec::new();
    for (_, pipeline) in library.pipelines.values() {
        let Some(environment) = &pipeline.environment else { continue };
        let same = |one: &&mut Named| {
            one.environment.file == environment.file && one.pipeline.repository == pipeline.repository
        };
        match all.iter_mut().find(same) {
            Some(one) => one.used_by.push(pipeline.name.clone()),
            None => all.push(Named {
                environment: environment.clone(),
                pipeline: pipeline.clone(),
                used_by: vec![pipeline.name.clone()],
            }),
        }
    }
    let Some(asked) = &which.environment else {
        // An environment of a pipeline that cannot be used is not among them.
        let broken = library.report.has_errors();
        if broken {
            session.show_report(&library.report);
        }
        return match all.is_empty() {
            false => Ok(all),
            true if broken => Err(Trouble::new(Exit::Config, "no pipeline without mistakes has an environment").into()),
            true => Err(Trouble::new(Exit::No, "no pipeline has an environment")
                .help("add `environment: environments/NAME.yaml` to one, or name a file")
                .into()),
        };
    };
    if let Some(position) = all.iter().position(|one| one.used_by.contains(asked)) {
        return Ok(vec![all.swap_remove(position)]);
    }
    let file = Path::new(asked);
    let folder = session.places.pipelines.clone();
    let of = |one: &Named| -> bool {
        let Ok(meant) = folder.join(&one.environment.file).canonicalize() else { return false };
        let stem = meant.file_stem().is_some_and(|stem| stem == asked.as_str());
        stem || file.canonicalize().is_ok_and(|file| file == meant)
    };
    let by_file: Vec<Named> = all.iter().filter(|one| of(one)).cloned().collect();
    if !by_file.is_empty() {
        return Ok(by_file);
    }
    if !file.is_file() || file.parent().is_some_and(|parent| same_folder(parent, &folder)) {
        let pipeline = find(library, &session.places, &REGISTRY, asked).map_err(|refusal| {
            if refusal.code == "E-CONFIG" {
                session.show_mistakes_of(library, asked);
            }
            Trouble::from(refusal)
        })?;
        let Some(environment) = pipeline.environment.clone() else {
            let help = format!("add `environment: environments/NAME.yaml` to {}", pipeline.name);
            return Err(Trouble::new(Exit::No, format!("the pipeline `{asked}` has no environment")).help(help).into());
        };
        return Ok(vec![Named { environment, used_by: vec![pipeline.name.clone()], pipeline }]);
    }
    // For the clone that one stands in.
    let here = std::env::current_dir().context("finding the folder one stands in")?;
    let top = here.ancestors().find(|folder| folder.join(".git").exists()).unwrap_or(&here);
    let pipeline = Arc::new(Pipeline {
        name: asked.clone(),
        summary: String::new(),
        hash: Hash::of(asked),
        files: Vec::new(),
        owner: None,
        effects: Effects::Preview,
        params: Vec::new(),
        on: On::default(),
        limits: Limits::default(),
        repository: Some(Repository {
            github: None,
            r#ref: None,
            path: Some(top.display().to_string()),
            may_reach: Vec::new(),
        }),
        environment: None,
        tools: Vec::new(),
        steps: Vec::new(),
    });
    Ok(vec![Named { environment: read(session, file, asked)?, pipeline, used_by: Vec::new() }])
}

fn same_folder(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| if path.as_os_str().is_empty() { Path::new(".") } else { path }.canonicalize().ok();
    real(one).is_some_and(|one| Some(one) == real(other))
}

/// An environment's file. Its mistakes are shown.
pub(super) fn read(session: &Session, path: &Path, file: &str) -> anyhow::Result<Environment> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(|| format!("reading `{shown}`"))?;
    let (environment, report) = pipeline::parse_environment(&shown, file, &text);
    session.show_report(&report);
    environment.ok_or_else(|| Trouble::new(Exit::Config, format!("`{shown}` has mistakes")).into())
}
