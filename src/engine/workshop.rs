//! What work on code needs, shared by all runs of a process: the git command, the private repositories, the sandboxes.
//!
//! Everything is made when it is first asked for, so that a pipeline without code costs nothing.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::base::env::Env;
use crate::base::scope::Scope;
use crate::clients::git;
use crate::clients::github::{GitHub, GitHubError};
use crate::config::settings::{Profile, Settings};
use crate::domain::code::TreeId;
use crate::domain::definition::{Environment, Pipeline};
use crate::domain::run::Failure;
use crate::ports::Registry;
use crate::ports::durable::Stop;
use crate::ports::sandbox::{Files, Job, Listed, Places, Sandbox, SandboxSetup};
use crate::ports::service::Outside;
use crate::sandboxes::e2b;
use crate::workspace::{Access, Error, Git, Origin, Repository, Worktrees};

use super::shelf::Shelf;

/// Where it is and what it may use.
#[derive(Clone, Debug)]
pub struct WorkshopSetup {
    pub env: Env,
    pub registry: Registry,
    /// Its own folder: repositories, worktrees, sandboxes.
    pub folder: PathBuf,
    /// The folder of the pipelines: their `repository.path` is relative to it.
    pub pipelines: PathBuf,
    pub scope: Scope,
    /// The nightcrew program where this process is another one (tests).
    pub program: Option<PathBuf>,
    /// `PATH`, for the git command.
    pub path: std::ffi::OsString,
}

/// A sandbox that was made, by its kind and by where it is.
type Made = (String, Places, Arc<dyn Sandbox>);

/// Made once per process that holds a state directory.
#[derive(Debug)]
pub struct Workshop {
    setup: WorkshopSetup,
    git: OnceLock<Result<Git, String>>,
    worktrees: OnceLock<Result<Arc<Worktrees>, String>>,
    shelf: OnceLock<Shelf>,
    repositories: Mutex<HashMap<String, Arc<Repository>>>,
    /// By name and by where it is.
    sandboxes: Mutex<Vec<Made>>,
}

/// Where the code of a run comes from.
#[derive(Clone, Debug)]
pub struct Source {
    pub repository: Arc<Repository>,
    /// `main`, or what else `ref` names.
    pub reference: String,
    /// For people.
    pub origin: String,
    /// `path` or `clone`.
    pub bound: &'static str,
}

impl Source {
    /// What a sandbox is told about work on this code. `owner` is the step that asks, as `run/path`.
    ///
    /// The repository goes by its origin: it is the same for every process, wherever that keeps its copy.
    pub fn job(&self, environment: Arc<Environment>, owner: String) -> Job {
        let files = Arc::new(RepositoryFiles(self.repository.clone()));
        Job { environment, repository: self.repository.origin().to_string(), files, owner }
    }
}

pub(super) const E_REPOSITORY: &str = "E-REPOSITORY";

impl Workshop {
    pub fn new(setup: WorkshopSetup) -> Self {
        Self {
            setup,
            git: OnceLock::new(),
            worktrees: OnceLock::new(),
            shelf: OnceLock::new(),
            repositories: Mutex::default(),
            sandboxes: Mutex::default(),
        }
    }

    /// The private repository for what the pipeline and the profile name. Blocking; contacts nothing.
    ///
    /// Errors: `Blocked` with what to do.
    pub fn source(&self, pipeline: &Pipeline, settings: &Settings, profile: &Profile) -> Result<Source, Stop> {
        let blocked = |message: String, help: String| Stop::Blocked(Failure::new(E_REPOSITORY, message).help(help));
        let named = pipeline.repository.as_ref().ok_or_else(|| {
            blocked(
                "the pipeline names no repository".into(),
                "add `repository: {github: owner/name, path: ../clone}` to the pipeline".into(),
            )
        })?;
        let reference = named.r#ref.clone().unwrap_or_else(|| "HEAD".into());
        let clones = profile.repository.as_deref() == Some("clone");
        let (origin, people) = if clones {
            let Some(name) = &named.github else {
                let help = "add `github: owner/name` to the pipeline's `repository`, or run it with another profile";
                return Err(blocked(
                    format!("the profile `{}` clones, and the repository has no `github` name", profile.name),
                    help.into(),
                ));
            };
            let server = settings.services.github.as_ref().and_then(|github| github.settings.get("git_url"));
            let server = server.map_or("https://github.com", String::as_str).trim_end_matches('/');
            (Origin::server(&format!("{server}/{name}.git")), name.clone())
        } else {
            let folder = match (profile.repository_of(&pipeline.name), &named.path) {
                (Some(folder), _) => folder.to_owned(),
                (None, Some(path)) => self.setup.pipelines.join(path),
                (None, None) => {
                    return Err(blocked(
                        "the repository has no `path`".into(),
                        format!(
                            "add `path: FOLDER` (a clone) to the pipeline's `repository`, or bind one in the profile `{}`: \
                             repository: {{path: FOLDER}}",
                            profile.name
                        ),
                    ));
                }
            };
            // Its name alone: a draft is read by people who have nothing of this machine's folders, which may name its owner.
            let whole = folder.canonicalize().unwrap_or_else(|_| folder.clone());
            let name = whole
                .file_name()
                .map_or_else(|| whole.display().to_string(), |name| name.to_string_lossy().into_owned());
            let people = named.github.clone().unwrap_or(name);
            (Origin::folder(&folder), people)
        };
        let origin = origin.map_err(|error| blocked(error.to_string(), "name the folder of a git clone".into()))?;
        let key = format!("{origin:?}");
        let mut repositories = self.repositories.lock().unwrap_or_else(PoisonError::into_inner);
        let repository = match repositories.get(&key) {
            Some(repository) => repository.clone(),
            None => {
                let folder = self.setup.folder.join("repositories");
                let made = Repository::open(&self.git()?, &folder, origin).map_err(workspace_stop)?;
                repositories.insert(key, made.clone());
                made
            }
        };
        Ok(Source { repository, reference, origin: people, bound: if clones { "clone" } else { "path" } })
    }

    fn git(&self) -> Result<Git, Stop> {
        let found = self.git.get_or_init(|| Git::find(&self.setup.path).map_err(|error| error.to_string()));
        found.clone().map_err(|message| {
            Stop::Blocked(Failure::new(E_REPOSITORY, message).help("install git: `apt install git` or the like"))
        })
    }

    /// Where trees are written out as files.
    pub fn worktrees(&self) -> Result<Arc<Worktrees>, Stop> {
        let opened = self.worktrees.get_or_init(|| {
            Worktrees::open(&self.setup.folder.join("worktrees")).map(Arc::new).map_err(|error| error.to_string())
        });
        opened.clone().map_err(|message| Stop::Failed(Failure::new(E_REPOSITORY, message)))
    }

    /// Removes the copies of trees and the sandboxes that a killed process left behind: only for the holder of the state, before any
    /// run. Without this they would stay until a run needs some again.
    pub fn tidy(&self, settings: &Settings) {
        for kind in [e2b::SANDBOXD, e2b::E2B] {
            let folder = sandbox_folder(&self.setup.folder, kind);
            if !folder.is_dir() {
                continue;
            }
            if let Err(error) = e2b::tidy(&folder) {
                tracing::warn!(%error, "what an earlier process left cannot be removed");
            }
            // On another machine sandboxes outlive who made them.
            let left = e2b::Remote::new(&self.sandbox_setup(settings, kind), kind, e2b::Options::default());
            drop(self.setup.scope.spawn("looking for sandboxes that earlier processes left", async move {
                if let Err(error) = left.reach().await {
                    tracing::warn!(%error, "sandboxes of earlier processes are not looked for before the first run needs one");
                }
            }));
        }
        if self.setup.folder.join("worktrees").is_dir()
            && let Err(stop) = self.worktrees()
        {
            // Whoever needs the folder meets the same trouble and says so in its run.
            tracing::warn!(%stop, "what an earlier process left cannot be removed");
        }
    }

    /// Copies of trees for reading.
    pub(super) fn shelf(&self) -> Result<&Shelf, Stop> {
        let worktrees = self.worktrees()?;
        Ok(self.shelf.get_or_init(|| Shelf::new(worktrees)))
    }

    /// The folder below which everything of it is, as commands see it that share the host's file system. `None` before anything
    /// is in it.
    pub(super) fn shown_folder(&self) -> Option<String> {
        Some(std::fs::canonicalize(&self.setup.folder).ok()?.display().to_string())
    }

    /// The sandboxes that something has asked for so far.
    pub(super) fn made_sandboxes(&self) -> Vec<Arc<dyn Sandbox>> {
        self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(.., made)| made.clone()).collect()
    }

    /// The sandbox that the profile binds.
    pub fn sandbox(&self, settings: &Settings, profile: &Profile) -> Result<Arc<dyn Sandbox>, Stop> {
        let name = profile.sandbox.as_str();
        let mut sandboxes = self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner);
        // A run keeps what it began with, also where the configuration has changed since.
        let places = places(settings);
        if let Some((.., sandbox)) = sandboxes.iter().find(|(known, at, _)| known == name && *at == places) {
            return Ok(sandbox.clone());
        }
        let make = self.setup.registry.sandbox(name).and_then(|kind| kind.make).ok_or_else(|| {
            Stop::Blocked(
                Failure::new("E-SANDBOX", format!("the sandbox `{name}` comes with a later version of nightcrew"))
                    .help(format!("bind another one in the profile `{}`: sandbox: sandboxd", profile.name)),
            )
        })?;
        let setup = self.sandbox_setup(settings, name);
        let made = make(&setup);
        sandboxes.push((name.to_owned(), setup.places, made.clone()));
        Ok(made)
    }

    fn sandbox_setup(&self, settings: &Settings, name: &str) -> SandboxSetup {
        SandboxSetup {
            env: self.setup.env.clone(),
            folder: sandbox_folder(&self.setup.folder, name),
            scope: self.setup.scope.clone(),
            program: self.setup.program.clone(),
            places: places(settings),
            watcher: None,
        }
    }
}

/// The credential with which git reads from GitHub, if the profile clones and one is configured: without one only public repositories
/// can be cloned. An App is given a token of its installation; it goes from here into one header of one git process.
///
/// Errors: `Blocked` with what to do, naming the secret that is waited for.
pub async fn access(profile: &Profile, outside: &Outside) -> Result<Access, Stop> {
    let clones = profile.repository.as_deref() == Some("clone");
    let service = outside.services.github.as_ref().filter(|_| clones);
    let Some(service) = service.filter(|service| ["token", "app.key"].iter().any(|key| service.secret(key).is_some()))
    else {
        return Ok(Access::none());
    };
    let token = match GitHub::of(outside) {
        Ok(github) => github.token().await,
        Err(error) => Err(error),
    };
    let name = ["token", "app.key"].iter().find_map(|key| service.secret(key)).map_or("", |secret| &secret.name);
    let token = token.map_err(|error| {
        let said = Failure::new(E_REPOSITORY, error.to_string());
        match error {
            GitHubError::Missing { help, .. } => Stop::Blocked(said.help(help)),
            GitHubError::Credential { secret, .. } => {
                Stop::Blocked(said.help(format!("replace the secret `{secret}`")).waits_for(secret))
            }
            GitHubError::Forbidden { .. } | GitHubError::NotFound { .. } | GitHubError::Invalid { .. } => {
                Stop::Blocked(said.help("see `services.github` in the configuration: nightcrew connect github"))
            }
            GitHubError::Conflict { .. }
            | GitHubError::RateLimited { .. }
            | GitHubError::Unavailable { .. }
            | GitHubError::Ambiguous { .. } => Stop::Failed(said.help("nightcrew resume tries it again")),
        }
    })?;
    git::github_header(name, &token).map(Access::header).map_err(|error| {
        let help = "see `services.github` and `secrets` in the configuration";
        Stop::Blocked(Failure::new(E_REPOSITORY, error.to_string()).help(help))
    })
}

/// Where sandboxes are to be had.
pub fn places(settings: &Settings) -> Places {
    let mut places = Places::default();
    if let Some(e2b) = &settings.services.e2b {
        places.e2b.api_url = e2b.settings.get("api_url").cloned();
        places.e2b.sandbox_url = e2b.settings.get("sandbox_url").cloned();
        places.e2b.key = e2b.secrets.get("api_key").cloned();
    }
    if let Some(sandboxd) = &settings.services.sandboxd {
        places.sandboxd.url = sandboxd.settings.get("url").cloned();
        places.sandboxd.key = sandboxd.secrets.get("api_key").cloned();
        places.sandboxd.images = sandboxd.files.get("images").cloned().unwrap_or_default();
    }
    places
}

/// Where a sandbox keeps its things below the folder of a workshop.
pub fn sandbox_folder(workshop: &Path, name: &str) -> PathBuf {
    workshop.join("sandboxes").join(name)
}

/// What went wrong with code, as the end of an activity.
pub fn workspace_stop(error: Error) -> Stop {
    let help = match &error {
        Error::NotFound(_) | Error::Refused(_) | Error::TooLarge { .. } => {
            Some("see `repository` in the pipeline and in the profile")
        }
        Error::Unreachable { .. } => Some("see `services` in the configuration"),
        Error::Timeout { .. } | Error::Git { .. } | Error::Io { .. } => None,
    };
    let failure = Failure::new(E_REPOSITORY, said(error));
    match help {
        Some(help) => Stop::Blocked(failure.help(help)),
        None => Stop::Failed(failure),
    }
}

/// A repository's trees as files, for sandboxes.
struct RepositoryFiles(Arc<Repository>);

impl Files for RepositoryFiles {
    fn list(&self, tree: &TreeId) -> Result<Vec<Listed>, String> {
        let listed = |entry: &crate::workspace::Entry| Listed { path: entry.path.to_path(), content: entry.content() };
        let snapshot = self.0.snapshot(tree).map_err(said)?;
        Ok(snapshot.entries().map_err(said)?.iter().map(listed).collect())
    }

    fn write(&self, tree: &TreeId, into: &Path) -> Result<(), String> {
        self.0.snapshot(tree).and_then(|snapshot| snapshot.write(into)).map_err(said)
    }

    fn put(&self, tree: &TreeId, paths: &[PathBuf], folder: &Path) -> Result<(), String> {
        self.0.snapshot(tree).and_then(|snapshot| snapshot.put(paths, folder)).map_err(said)
    }
}

/// An error with its cause, as text.
fn said(error: Error) -> String {
    match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
