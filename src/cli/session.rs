//! What every command starts from: where things are, the journal to read, the holder to ask or to become.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;

use super::args::Global;
use super::paper;
use super::ui::Ui;
use super::{Exit, Trouble};
use crate::base::env::{Env, process_variable};
use crate::base::ids::RunId;
use crate::builtin::REGISTRY;
use crate::config::settings::Settings;
use crate::control::{self, Client};
use crate::daemon::load::{self, Library, Places};
use crate::daemon::{Holder, HolderSetup, OpenError, file_of};
use crate::diag::{Color, Report};
use crate::domain::view::RunView;
use crate::journal::{self, Reader, RunFilter};

/// One command's surroundings.
#[derive(Debug)]
pub struct Session {
    pub ui: Ui,
    pub env: Env,
    /// The state directory.
    pub state: PathBuf,
    pub places: Places,
}

impl Session {
    pub fn new(global: &Global) -> Self {
        let home = process_variable("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        let folder = |variable: &str, below: &str| {
            let named = process_variable(variable).filter(|path| path.starts_with('/')).map(PathBuf::from);
            named.or_else(|| home.as_ref().map(|home| home.join(below)))
        };
        let asked = process_variable("NIGHTCREW_STATE").filter(|path| !path.is_empty()).map(PathBuf::from);
        let state = global
            .state
            .clone()
            .or(asked)
            .or_else(|| folder("XDG_STATE_HOME", ".local/state").map(|path| path.join("nightcrew")));
        let user = folder("XDG_CONFIG_HOME", ".config");
        Self {
            ui: Ui::new(global),
            env: Env::system(),
            // Without a home there is only here.
            state: state.unwrap_or_else(|| PathBuf::from(".nightcrew")),
            places: Places::find(global.config.as_deref(), user.as_deref()),
        }
    }

    /// Runs an asynchronous command to its end.
    pub fn block_on<T>(&self, command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("nightcrew")
            .build()
            .context("starting the runtime")?;
        let answer = runtime.block_on(command);
        // What is still blocking (a slow disk, a name server) is not waited for.
        runtime.shutdown_background();
        answer
    }

    /// The configuration; its mistakes are shown and end the command with 78.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        let (settings, report) = load::settings(&self.places, &REGISTRY);
        match settings.filter(|_| !report.has_errors()) {
            Some(settings) => {
                self.show_report(&report);
                Ok(settings)
            }
            None => {
                self.show_report(&report);
                let file = self.places.config.as_deref().unwrap_or(Path::new("config/nightcrew.yaml"));
                Err(Trouble::new(Exit::Config, format!("`{}` has mistakes", file.display())).into())
            }
        }
    }

    /// Configuration and pipelines. Broken pipelines are in its report, which is not shown yet.
    pub fn library(&self) -> anyhow::Result<Library> {
        let settings = Arc::new(self.settings()?);
        Library::load(&self.places, &REGISTRY, settings)
            .with_context(|| format!("reading the folder `{}`", self.places.pipelines.display()))
    }

    /// As [`Session::library`], and nothing is said when there is none.
    pub fn library_if_whole(&self) -> Option<Library> {
        let (settings, report) = load::settings(&self.places, &REGISTRY);
        let settings = settings.filter(|_| !report.has_errors())?;
        Library::load(&self.places, &REGISTRY, Arc::new(settings)).ok()
    }

    /// Mistakes with carets, on stderr.
    pub fn show_report(&self, report: &Report) {
        if !report.is_empty() {
            let color = if self.ui.color_err() { Color::On } else { Color::Off };
            self.ui.must_say(report.render(color).trim_end());
        }
    }

    /// The mistakes of the pipeline that was asked for, in whichever of its files they stand: its environment's, too.
    pub fn show_mistakes_of(&self, library: &Library, pipeline: &str) {
        let (_, report) = load::pipeline(&file_of(&self.places, pipeline), &REGISTRY, Some(&library.settings));
        self.show_report(&report);
    }

    /// The journal to read. `None`: nothing was ever recorded here.
    pub fn reader(&self) -> anyhow::Result<Option<Reader>> {
        match Reader::open(&self.state) {
            Ok(reader) => Ok(Some(reader)),
            Err(journal::Error::Missing { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The journal to read, which must be there.
    pub fn must_reader(&self) -> anyhow::Result<Reader> {
        self.reader()?.ok_or_else(|| {
            let message = format!("nothing was recorded in `{}` yet", self.state.display());
            Trouble::new(Exit::No, message).help("another state directory is given with --state").into()
        })
    }

    /// The run of that id, or whose id begins or ends so, or of that short form (`01JD…7QK`).
    pub fn find_run(&self, reader: &Reader, asked: &str) -> anyhow::Result<RunView> {
        let missing = || Trouble::new(Exit::No, format!("there is no run `{asked}`")).help("nightcrew runs");
        let found = match asked.split_once('…').or_else(|| asked.split_once("...")) {
            None => reader.run(&asked.to_ascii_uppercase())?,
            Some((head, tail)) => {
                let (head, tail) = (head.to_ascii_uppercase(), tail.to_ascii_uppercase());
                let lines = reader.runs(RunFilter { limit: 100_000, ..RunFilter::default() })?;
                let mut fits = lines.into_iter().filter(|l| l.id.0.starts_with(&head) && l.id.0.ends_with(&tail));
                match (fits.next(), fits.next()) {
                    (Some(one), None) => reader.run(one.id.as_str())?,
                    (None, _) => None,
                    (Some(_), Some(_)) => {
                        return Err(Trouble::new(Exit::No, format!("`{asked}` fits several runs")).into());
                    }
                }
            }
        };
        found.ok_or_else(|| missing().into())
    }

    /// The process that holds the state directory, if any.
    pub async fn holder(&self) -> anyhow::Result<Option<Client>> {
        Ok(Client::connect(&self.state).await?)
    }

    /// Becomes the holder.
    pub fn hold(&self, command: &'static str, profile: &str, library: Library) -> anyhow::Result<Holder> {
        self.open(HolderSetup {
            env: self.env.clone(),
            registry: paper::registry(),
            state: self.state.clone(),
            places: self.places.clone(),
            library,
            profile: profile.to_owned(),
            command,
            take_over: false,
            record: None,
        })
    }

    /// As [`Session::hold`], with everything said.
    pub fn open(&self, setup: HolderSetup) -> anyhow::Result<Holder> {
        Holder::open(setup).map_err(|error| match error {
            OpenError::Journal(error @ journal::Error::Held { .. }) => Trouble::new(Exit::No, error.to_string()).into(),
            OpenError::Journal(error) => anyhow::Error::from(error).context("opening the journal"),
            OpenError::Engine(error) => anyhow::Error::from(error).context("starting the engine"),
            OpenError::Other(error) => error,
        })
    }

    /// How this command names itself to others, and how to give the state directory again.
    pub fn again(&self, command: &str) -> String {
        let usual = Self::new(&Global::default()).state;
        if usual == self.state {
            format!("nightcrew {command}")
        } else {
            format!("nightcrew --state {} {command}", self.state.display())
        }
    }
}

/// Whose word a signal is.
pub fn by() -> String {
    match process_variable("USER").or_else(|| process_variable("LOGNAME")) {
        Some(user) if !user.is_empty() => format!("cli:{user}"),
        _ => "cli".to_owned(),
    }
}

/// What went wrong between a command and the holder.
pub fn asked(error: control::Error) -> anyhow::Error {
    match error {
        control::Error::Refused(refusal) => Trouble::from(refusal).into(),
        other => other.into(),
    }
}

/// An answer that belongs to another question: both sides are of one version, so this is a bug.
pub fn unexpected(reply: &control::Reply) -> anyhow::Error {
    anyhow::anyhow!("the daemon answered something else than was asked: {reply:?}")
}

/// Checks that a run is open before somebody's word is sent to it.
pub fn must_be_open(view: &RunView) -> anyhow::Result<&RunId> {
    match view.outcome {
        None => Ok(&view.start.id),
        Some(outcome) => {
            let message = format!("run {} has already ended: {outcome}", view.start.id.short());
            Err(Trouble::new(Exit::No, message).into())
        }
    }
}
