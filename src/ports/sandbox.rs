//! A sandbox: where commands of a repository and of agents run. It holds no credential.
//!
//! How to write one: a file in `sandboxes/` with a `KIND` and an implementation of [`Sandbox`]. Code comes in as [`Files`], so an
//! adapter needs to know nothing of git.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::base::BoxFuture;
use crate::base::env::Env;
use crate::base::scope::Scope;
use crate::base::secret::SecretRef;
use crate::domain::code::TreeId;
use crate::domain::definition::Environment;
use crate::domain::sandbox::{CommandReceipt, Prepared, SandboxAnswer, SandboxRequest};

/// One row of the table of sandboxes.
#[derive(Clone, Copy, Debug)]
pub struct SandboxKind {
    /// `sandboxd`, `e2b`: what a profile's `sandbox` names.
    pub name: &'static str,
    pub summary: &'static str,
    /// `None`: part of the configuration, not built yet.
    pub make: Option<MakeSandbox>,
}

/// Makes a sandbox; starts and contacts nothing.
pub type MakeSandbox = fn(&SandboxSetup) -> Arc<dyn Sandbox>;

/// What a sandbox gets from the daemon.
#[derive(Clone, Debug)]
pub struct SandboxSetup {
    pub env: Env,
    /// A folder of its own for what it keeps between runs; other kinds have theirs beside it.
    pub folder: PathBuf,
    /// For whatever it must watch.
    pub scope: Scope,
    /// The nightcrew program, where this process is another one (tests). `None`: this process's own.
    pub program: Option<PathBuf>,
    pub places: Places,
    pub watcher: Watcher,
}

/// Where sandboxes are to be had, as the configuration says it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Places {
    pub e2b: CloudPlace,
    pub sandboxd: ServerPlace,
}

/// `services.e2b`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CloudPlace {
    pub api_url: Option<String>,
    /// Where all sandboxes are reached, in place of what their domain says.
    pub sandbox_url: Option<String>,
    /// `None`: our own server stands in.
    pub key: Option<SecretRef>,
}

/// `services.sandboxd`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerPlace {
    /// `None`: it is started when it is needed, and ends with this process.
    pub url: Option<String>,
    pub key: Option<SecretRef>,
    /// Root file systems by the name that `base.image` uses: a directory, an OCI layout, or an archive of `docker save`.
    pub images: BTreeMap<String, PathBuf>,
}

/// What a command of an environment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Setup,
    Check,
    Run,
}

impl Phase {
    /// `setup`, `check`, `run`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Check => "check",
            Self::Run => "run",
        }
    }
}

/// What happens, for whoever watches. A watcher that does not take it slows the command down.
#[derive(Clone, Debug)]
pub enum Progress {
    Began {
        phase: Phase,
        command: String,
    },
    /// Of both outputs, as it came.
    Output(Vec<u8>),
    Ended(Box<CommandReceipt>),
}

/// Somebody who watches, or nobody.
pub type Watcher = Option<mpsc::Sender<Progress>>;

/// The trees of one repository as files. Blocking.
pub trait Files: Send + Sync {
    /// Every file of a tree.
    fn list(&self, tree: &TreeId) -> Result<Vec<Listed>, String>;
    /// Writes the files of a tree into an empty folder. Nothing of the repository is executed.
    fn write(&self, tree: &TreeId, into: &Path) -> Result<(), String>;
    /// Makes these paths in a folder what they are in the tree: a file of its own, or nothing where the tree has none. What commands
    /// left in their way goes; no link is followed; nothing else is touched.
    fn put(&self, tree: &TreeId, paths: &[PathBuf], folder: &Path) -> Result<(), String>;
}

/// One file of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Relative to the root.
    pub path: PathBuf,
    /// Names content and mode: two files of one repository are the same if these are.
    pub content: String,
}

/// What is the same for all work of one run.
#[derive(Clone)]
pub struct Job {
    pub environment: Arc<Environment>,
    /// Distinguishes repositories: two may have equal trees and share nothing.
    pub repository: String,
    pub files: Arc<dyn Files>,
    /// The step that asks, as `run/path`: what one owner leaves behind in a folder that is not fresh no other one sees.
    pub owner: String,
}

/// What is paid by the second while a sandbox lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Billed {
    /// A name in the price table's `sandboxes`.
    pub provider: String,
    pub vcpus: u32,
    pub memory_mb: u64,
}

/// A sandbox bound to its place. Cancel safe: a dropped future ends the command.
pub trait Sandbox: Send + Sync + std::fmt::Debug {
    /// Makes the environment for `base`, or finds it: setup commands with the network they were given, then `checks` without.
    fn prepare<'a>(&'a self, job: &'a Job, base: &'a TreeId) -> BoxFuture<'a, Result<Prepared, SandboxError>>;

    /// Runs one command on a tree, in the environment that was prepared for `request.base` (made again if it is gone).
    fn run<'a>(
        &'a self,
        job: &'a Job,
        request: &'a SandboxRequest,
    ) -> BoxFuture<'a, Result<SandboxAnswer, SandboxError>>;

    /// What an environment's sandboxes are billed by; `None`: they cost nothing.
    fn billed(&self, _environment: &Environment) -> Option<Billed> {
        None
    }

    /// The run has ended: what its steps left behind may go.
    fn release<'a>(&'a self, run: &'a str) -> BoxFuture<'a, ()>;
}

/// Why a sandbox could not do it. A command that fails is no error.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A person must install, configure or repair something.
    #[error("{message}")]
    Missing { message: String, help: String },
    /// The environment is broken: a setup command or a check failed.
    #[error("`{command}` {what}", command = receipt.command)]
    Broken {
        /// `failed with exit code 2 (setup)`
        what: String,
        receipt: Box<CommandReceipt>,
        /// The end of its output.
        output: String,
    },
    #[error("{message}")]
    Failed { message: String },
}
