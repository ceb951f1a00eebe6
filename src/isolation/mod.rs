//! Running one command confined, on Linux.
//!
//! Nothing that an agent wrote, and nothing that comes out of a repository, runs outside of this. A command gets the directories that the
//! caller names to write to, the host's toolchains and what the caller names to read, a few variables, and limits. Hosts that the caller
//! names it reaches through a proxy (`egress`). It does not get: any other network (nor the host's loopback), sockets, other processes,
//! the daemon's environment, its state, anybody's home, devices, keys,
//! privileges. Everything that it has started ends with it.
//!
//! There are three tiers ([`Tier`]): `bwrap`; namespaces of our own; Landlock and seccomp alone. In all of them the command is put under
//! Landlock and a system call filter. A self-test at the start decides; without a tier every run is refused. There is no
//! way to run a command unconfined.
//!
//! Invariants: the limits hold also when the daemon hangs, since the helper inside keeps them; when the daemon is gone the helper ends
//! everything; `unsafe` stands in `sys` alone. What this does not do: no image, no network but by HTTP proxy, no way to keep a sandbox
//! between two commands other than its work directory.

mod cgroup;
mod detect;
mod egress;
mod files;
mod filter;
mod helper;
mod init;
mod keeper;
mod mounts;
mod other_user;
mod output;
mod plan;
mod room;
mod ruleset;
mod run;
mod spec;
mod sys;
mod terminal;
mod tier;
mod toolchains;
mod users;
mod watch;
mod wire;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use egress::{Reach, check as check_egress};
pub use files::{
    Change, Entry, Event, Failure, Files, FilesError, From as ReadFrom, Kind, PIECE, Reader, Reason, Time, Watcher,
    Writer,
};
pub use helper::run_if_asked;
pub use output::{Capture, Captured};
pub use room::{Process, Room, RoomSpec, Root, Size, Started, Usage};
pub use run::{Chunk, Finished, Handle, Running};
pub use spec::{Command, Limits, ReadOnly, Spec, Stdin, Writable};
pub use tier::{Check, Gap, Machine, Tier, Unavailable};
pub use toolchains::{Search, Toolchain};
pub use users::TakenUser;
pub use watch::folder_bytes;
pub use wire::{Stage, Stopped};

use crate::base::scope::Scope;

/// Why a command was not run, or nobody knows how it ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No tier works on this machine; the report says why.
    #[error("there is no way to confine a command on this machine")]
    NoTier,
    #[error("{0}")]
    Spec(String),
    /// It is to reach hosts, and cannot be given a way: the text says what is in the way and what helps.
    #[error("network for the command: {0}")]
    Egress(String),
    #[error("the command's directory {}", path.display())]
    Work { path: PathBuf, source: io::Error },
    #[error("{} cannot be shown to the command", path.display())]
    ReadOnly { path: PathBuf, source: io::Error },
    #[error("the sandbox's own directory {}", path.display())]
    State { path: PathBuf, source: io::Error },
    #[error("the sandbox helper cannot be started")]
    Start { source: io::Error },
    /// The confinement could not be set up, so the command was not started.
    #[error("setting up the sandbox by {tier}: {message}")]
    Setup { tier: Tier, stage: Stage, message: String, errno: Option<i32> },
    /// The confinement stands, but there is no such program, or it cannot be executed.
    #[error("the command cannot be started: {message}")]
    Command { message: String, errno: Option<i32> },
    /// There is no such directory for it to start in, or it cannot be entered.
    #[error("the command cannot be started: {message}")]
    Directory { message: String, errno: Option<i32> },
    /// The helper is gone and left no word. The command is as well.
    #[error("the sandbox was lost: {what}")]
    Lost { what: String },
}

/// The program that is started as the helper: it must call [`run_if_asked`] first thing in its `main`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Helper {
    /// This process's own program.
    Own,
    Program(PathBuf),
}

impl Helper {
    fn program(&self) -> &Path {
        match self {
            Self::Own => Path::new("/proc/self/exe"),
            Self::Program(path) => path,
        }
    }
}

/// What is needed to begin.
#[derive(Clone, Debug)]
pub struct Setup {
    pub helper: Helper,
    /// A directory for what the sandboxes need, with one owner at a time (so not the daemon's for `doctor`). What is in it is
    /// removed at the start.
    pub state: PathBuf,
    pub search: Search,
}

/// What the self-test found. For `doctor` and for receipts.
#[derive(Clone, Debug)]
pub struct Report {
    /// The best tier that works.
    pub tier: Option<Tier>,
    /// Every tier, best first.
    pub checks: Vec<Check>,
    pub machine: Machine,
    /// What the tier in use leaves open.
    pub gaps: Vec<Gap>,
    /// Those that commands can use.
    pub toolchains: Vec<Toolchain>,
    /// Whether memory and processes are limited by a cgroup; else why not. They are watched then.
    pub cgroup: Result<(), String>,
}

/// Runs commands confined. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Isolation {
    shared: Arc<Shared>,
    checks: Arc<Vec<Check>>,
    tier: Option<Tier>,
    /// The tiers in which a sandbox is a user of its own on this machine.
    own_user: Arc<Vec<Tier>>,
}

#[derive(Debug)]
struct Shared {
    host: plan::Host,
    machine: Machine,
    bubblewrap: Option<PathBuf>,
    cgroup: Result<cgroup::Delegated, String>,
    helper: Helper,
    reach: Reach,
    state: PathBuf,
    scope: Scope,
    serial: AtomicU64,
    users: users::Users,
}

impl Isolation {
    /// Looks at the machine and tries every tier. Takes some tens of milliseconds. Succeeds also when no tier works.
    ///
    /// Errors: `State` if `setup.state` cannot be used.
    pub async fn begin(setup: Setup, scope: Scope) -> Result<Self, Error> {
        let Setup { helper, state, search } = setup;
        let reach = search.reach.clone();
        let at = |source| Error::State { path: state.clone(), source };
        if !state.is_absolute() || state.parent().is_none() {
            return Err(at(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not an absolute path of a directory of its own",
            )));
        }
        match std::fs::remove_dir_all(&state) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(error)),
            _ => {}
        }
        std::fs::create_dir_all(&state).map_err(at)?;
        let state = state.canonicalize().map_err(at)?;
        let root = rustix::process::geteuid().is_root();
        // In the last tier a user of its own must be able to reach its directory below, and nothing else is in there to be seen.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(if root { 0o711 } else { 0o700 });
        std::fs::set_permissions(&state, mode).map_err(at)?;
        // Asking the toolchains where they live takes as long as they take to start.
        let toolchains =
            tokio::task::spawn_blocking(move || search.find()).await.map_err(|e| at(io::Error::other(e)))?;
        let shared = Shared {
            host: plan::Host::look(&state, toolchains).map_err(at)?,
            machine: Machine { landlock_abi: sys::landlock_abi(), root },
            bubblewrap: detect::bubblewrap(),
            cgroup: cgroup::Delegated::find(),
            helper,
            reach,
            state,
            scope,
            serial: AtomicU64::new(1),
            users: users::Users::default(),
        };
        let (checks, own_user, tier) = Default::default();
        let mut isolation = Self { shared: Arc::new(shared), checks, tier, own_user };
        let (checks, own_user) = detect::check_all(&isolation).await?;
        isolation.own_user = Arc::new(own_user);
        isolation.tier = checks.iter().find(|check| check.result.is_ok()).map(|check| check.tier);
        isolation.checks = Arc::new(checks);
        Ok(isolation)
    }

    /// The same, held to one tier: for tests, and for those who want the same everywhere. The error says why it cannot be had.
    pub fn held_to(&self, tier: Tier) -> Result<Self, Unavailable> {
        match self.checks.iter().find(|check| check.tier == tier) {
            Some(check) => check.result.clone().map(|()| Self { tier: Some(tier), ..self.clone() }),
            None => Err(Unavailable { reason: "it was not tried".into(), fix: "begin anew".into() }),
        }
    }

    /// What the self-test found.
    pub fn report(&self) -> Report {
        let shared = &self.shared;
        let own = |tier: &Tier| shared.machine.root && self.own_user.contains(tier);
        let of_its_own = self.tier.filter(own).map(|_| users::USERS.start);
        let mut gaps = self.tier.map(|tier| tier.gaps(&shared.machine)).unwrap_or_default();
        gaps.extend(self.tier.filter(|tier| shared.machine.root && !own(tier)).map(|_| Gap::RootOutside));
        Report {
            tier: self.tier,
            checks: self.checks.to_vec(),
            machine: shared.machine,
            gaps,
            toolchains: self
                .tier
                .map(|tier| plan::usable(&shared.host.toolchains, tier, of_its_own).into_iter().cloned().collect())
                .unwrap_or_default(),
            cgroup: shared.cgroup.as_ref().map(drop).map_err(Clone::clone),
        }
    }

    /// The tier in use.
    pub fn tier(&self) -> Option<Tier> {
        self.tier
    }

    /// Runs a command to its end. Dropping the future ends the command.
    pub async fn run(&self, spec: Spec) -> Result<Finished, Error> {
        self.start(spec).await?.wait().await
    }

    /// Starts a command. Its output comes in pieces; see [`Running`].
    ///
    /// Errors: `NoTier`, `Spec`, `Egress`, `Work`, `ReadOnly`, `State`; what fails later comes out of [`Running::wait`].
    pub async fn start(&self, spec: Spec) -> Result<Running, Error> {
        let tier = self.tier.ok_or(Error::NoTier)?;
        // Handing its directories over for one command would touch every file, each time.
        let user = if tier.own_file_system() { None } else { self.take_user() };
        self.start_in(tier, spec, user).await
    }

    async fn start_in(&self, tier: Tier, spec: Spec, user: Option<TakenUser>) -> Result<Running, Error> {
        spec.check()?;
        let ground = plan::Ground::of_one(&spec);
        let work = |source| Error::Work { path: spec.work.clone(), source };
        if !tokio::fs::canonicalize(&spec.work).await.map_err(work)?.join(&spec.directory).is_dir() {
            return Err(work(io::ErrorKind::NotADirectory.into()));
        }
        let Made { name, line, directory, .. } = self.make(tier, ground, user).await?;
        // The same path, without a slash at its end.
        let directory = directory.join(&spec.directory).components().collect();
        let program = wire::Program { words: spec.words(), environment: spec.environment, directory };
        let launch = run::Launch {
            id: 1,
            words: wire::memory_file(&program).map_err(|source| Error::Start { source })?,
            files: false,
            stdin: spec.stdin,
            terminal: None,
            wall: spec.limits.wall,
            output_bytes: spec.limits.output_bytes,
            once: true,
            tier,
        };
        let launched = launch.order(&line).await?;
        Ok(launched.attend(&self.shared.scope, format!("sandbox {name}: its command")))
    }

    /// Makes a sandbox. It need not stand yet.
    async fn make(&self, tier: Tier, mut ground: plan::Ground, user: Option<TakenUser>) -> Result<Made, Error> {
        let egress = self.egress(&ground.egress)?;
        for path in &mut ground.read_only {
            let failed = |source| Error::ReadOnly { path: path.host.clone(), source };
            path.host = tokio::fs::canonicalize(&path.host).await.map_err(failed)?;
        }
        let shared = &self.shared;
        let needed = !ground.once || !tier.own_file_system();
        if needed && user.is_none() && shared.machine.root && self.own_user.contains(&tier) {
            return Err(Error::Spec("too many sandboxes at the same time".into()));
        }
        let of_its_own = tier == Tier::Landlock && user.is_some();
        let why = "in this tier commands have a user of their own, which cannot enter a directory above it";
        let writable = ground.writable.iter_mut().map(|path| &mut path.host);
        for path in ground.work.iter_mut().chain(&mut ground.home).chain(writable) {
            let failed = |source| Error::Work { path: path.clone(), source };
            let real = tokio::fs::canonicalize(&*path).await.map_err(failed)?;
            if real.parent().is_none() || !real.is_dir() {
                return Err(Error::Work { path: real, source: io::ErrorKind::NotADirectory.into() });
            }
            if of_its_own && !plan::everybody_reaches(&real) {
                let source = io::Error::new(io::ErrorKind::PermissionDenied, why);
                return Err(Error::Work { path: real, source });
            }
            *path = real;
        }
        let name = format!("run-{}", shared.serial.fetch_add(1, Ordering::Relaxed));
        let directory = shared.state.join(&name);
        let mut plan = plan::plan(&ground, tier, &shared.host, &directory, user.as_ref().map(TakenUser::uid));
        plan.bubblewrap.clone_from(&shared.bubblewrap);
        let group = match &shared.cgroup {
            Ok(delegated) => Some(
                delegated
                    .group(&name, &ground.limits, ground.once)
                    .map_err(|source| Error::State { path: name.clone().into(), source })?,
            ),
            Err(_) => None,
        };
        plan.counted = group.is_some();
        let own_directory = |source| Error::State { path: directory.clone(), source };
        tokio::fs::create_dir(&directory).await.map_err(own_directory)?;
        if let Some(egress) = &egress {
            egress.shape(&mut plan, &ground.environment, &directory).map_err(own_directory)?;
        }
        if tier.own_file_system() && user.is_some() {
            plan::stage(&mut plan);
        }
        let mut names = Vec::new();
        if !tier.own_file_system() {
            names.extend(ground.home.map(|home| (PathBuf::from(plan::HOME), home)));
            names.push((PathBuf::from("/tmp"), directory.clone()));
        }
        let made = (plan.directory.clone(), name.clone());
        let egress = egress.map(Arc::new);
        let helper = shared.helper.clone();
        let job = keeper::Job { plan, helper, group, egress, directory, user };
        let (keeper, line, ready) = keeper::Keeper::new(job, shared.scope.token());
        drop(shared.scope.spawn(format!("sandbox {name}"), keeper.run()));
        let (directory, name) = made;
        Ok(Made { name, line, ready, directory, names })
    }

    /// The way to the network, for a sandbox that names hosts.
    fn egress(&self, hosts: &[String]) -> Result<Option<egress::Egress>, Error> {
        if hosts.is_empty() {
            return Ok(None);
        }
        egress::Egress::new(hosts, &self.shared.reach).map(Some).map_err(Error::Egress)
    }

    fn machine(&self) -> &Machine {
        &self.shared.machine
    }

    fn bubblewrap(&self) -> Option<&Path> {
        self.shared.bubblewrap.as_deref()
    }

    fn state(&self) -> &Path {
        &self.shared.state
    }
}

/// A sandbox that was made.
struct Made {
    name: String,
    line: keeper::Line,
    ready: tokio::sync::oneshot::Receiver<Result<(), Error>>,
    /// Where its processes start, as they name it.
    directory: PathBuf,
    /// What clients call otherwise than its processes do.
    names: Vec<(PathBuf, PathBuf)>,
}
