//! Finding and reading what the user wrote: the configuration and the pipelines folder. Contacts nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config;
use crate::config::settings::Settings;
use crate::diag::{Color, Report};
use crate::domain::definition::Pipeline;
use crate::domain::run::Failure;
use crate::journal::StoredDefinition;
use crate::pipeline::{self, Surroundings};
use crate::ports::Registry;

/// Where the user's files are.
#[derive(Clone, Debug)]
pub struct Places {
    /// `None`: no configuration file anywhere; the built-in defaults hold.
    pub config: Option<PathBuf>,
    /// The folder whose `*.yaml` are pipelines.
    pub pipelines: PathBuf,
}

impl Places {
    /// Looks for the configuration (unless it is named) in `config/`, then in `user` (`~/.config`) and in the system's folder;
    /// pipelines are in `pipelines/` here, else beside the configuration or its folder.
    pub fn find(named: Option<&Path>, user: Option<&Path>) -> Self {
        let looked =
            config::Places { working: PathBuf::new(), user: user.map(Path::to_owned), system: Some("/etc".into()) };
        let config = looked.find(named);
        let here = PathBuf::from("pipelines");
        // A configuration that is named says which project is meant; else the folder where the command was typed does.
        let beside = config.as_deref().and_then(Path::parent).map(|base| {
            let base = if base.as_os_str().is_empty() { Path::new(".") } else { base };
            let own = base.join("pipelines");
            match base.parent() {
                _ if own.is_dir() => own,
                Some(above) if base.ends_with("config") => above.join("pipelines"),
                _ => base.join("../pipelines"),
            }
        });
        let pipelines = match beside {
            Some(beside) if named.is_some() && beside.is_dir() => beside,
            Some(beside) if !here.is_dir() && beside.is_dir() => beside,
            _ => here,
        };
        Self { config, pipelines }
    }

    /// The pipelines of the folder. An absent folder has none.
    pub fn pipeline_files(&self) -> std::io::Result<Vec<PathBuf>> {
        match pipeline::scan(&self.pipelines) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            found => found,
        }
    }
}

/// The configuration (without a file the built-in one) unless it has errors, and what is wrong with it.
pub fn settings(places: &Places, registry: &Registry) -> (Option<Settings>, Report) {
    match &places.config {
        Some(file) => config::load(file, registry),
        None => config::built_in(registry),
    }
}

/// The built-in settings, as if there were no configuration file.
pub fn built_in(registry: &Registry) -> Option<Settings> {
    config::built_in(registry).0
}

/// One pipeline unless it has errors, and what is wrong with it. Without settings the names of sources are not checked.
pub fn pipeline(file: &Path, registry: &Registry, settings: Option<&Settings>) -> (Option<Pipeline>, Report) {
    let surroundings = settings.map(Surroundings::of).unwrap_or_default();
    pipeline::load(file, registry, &surroundings)
}

/// A stored definition, parsed again.
pub fn stored(definition: &StoredDefinition, registry: &Registry) -> Result<(Pipeline, Settings), Failure> {
    let unreadable = |what: &str, report: &Report| {
        let mistakes = report.render(Color::Off);
        Failure::new(
            "E-DEFINITION",
            format!("the {what} that the run began with cannot be read by this version:\n{mistakes}"),
        )
        .help("use the nightcrew that began it, or begin a new run")
    };
    let (found, report) = pipeline::parse_stored(&definition.files, registry);
    let pipeline = found.ok_or_else(|| unreadable("pipeline", &report))?;
    let (found, report) = config::parse_stored(&definition.settings, registry);
    let settings = found.ok_or_else(|| unreadable("configuration", &report))?;
    Ok((pipeline, settings))
}

/// The JSON Schema of pipelines, as text.
pub fn schema(registry: &Registry) -> String {
    pipeline::schema::text(registry)
}

/// What is in use of the pipelines folder.
#[derive(Clone, Debug)]
pub struct Library {
    pub settings: Arc<Settings>,
    /// By name.
    pub pipelines: BTreeMap<String, (PathBuf, Arc<Pipeline>)>,
    /// Files that cannot be used.
    pub broken: Vec<PathBuf>,
    /// Everything that is wrong, warnings included.
    pub report: Report,
}

impl Library {
    /// Reads the whole pipelines folder. A broken file leaves the others in use.
    pub fn load(places: &Places, registry: &Registry, settings: Arc<Settings>) -> std::io::Result<Self> {
        let mut library = Self { settings, pipelines: BTreeMap::new(), broken: Vec::new(), report: Report::default() };
        for file in places.pipeline_files()? {
            let (loaded, report) = pipeline(&file, registry, Some(&library.settings));
            library.report.merge(report);
            match loaded {
                Some(loaded) if !library.pipelines.contains_key(&loaded.name) => {
                    library.pipelines.insert(loaded.name.clone(), (file, Arc::new(loaded)));
                }
                Some(loaded) => {
                    let (first, _) = &library.pipelines[&loaded.name];
                    tracing::error!(pipeline = loaded.name, file = %file.display(), first = %first.display(), "two files have one pipeline name; the second is left out");
                    library.broken.push(file);
                }
                None => library.broken.push(file),
            }
        }
        Ok(library)
    }
}
