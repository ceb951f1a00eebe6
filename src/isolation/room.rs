//! A room: one file system, one network and one set of processes for as many commands as come, until it is closed.
//!
//! What is true of a single command ([`super::Spec`]) is true of everything in a room together: nothing reaches out of it, limits
//! count for all, and everything ends with it. Between two commands processes go on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::DropGuard;

use super::files::Map;
use super::keeper::Line;
use super::plan::{Ground, HOME};
use super::run::{Launch, Running};
use super::spec::{self, Command, Limits, ReadOnly, Stdin};
use super::tier::Tier;
use super::users::TakenUser;
use super::wire::{self, Program};
use super::{Error, Isolation, Made};

/// The file system that processes see around their home.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Root {
    /// The host's programs and toolchains, read-only.
    #[default]
    Host,
    /// A root file system in a directory of the host, read-only; not in the last tier. `proc dev sys tmp home` are every room's own.
    Directory(PathBuf),
}

/// What a room is made of.
#[derive(Clone, Debug)]
pub struct RoomSpec {
    pub root: Root,
    /// The host directory that is the home, writable, at [`Room::HOME`] where the tier has a file system of its own.
    pub home: PathBuf,
    /// The user that the room has for itself, as [`Isolation::take_user`] gives it. `None`: one is taken where there are any.
    pub user: Option<TakenUser>,
    /// The home belongs to `user` already, with all that is in it. Else it is handed over.
    pub owned: bool,
    pub read_only: Vec<ReadOnly>,
    /// Hosts or registries that processes may reach through the host's proxy. Empty: no network but their own loopback.
    pub egress: Vec<String>,
    /// Added to the few variables that every process gets.
    pub environment: BTreeMap<String, String>,
    /// For all processes together; `wall`, `cpu` and `output_bytes` are for each of them.
    pub limits: Limits,
}

impl RoomSpec {
    /// A room over the host's toolchains with this home, no network and the usual limits.
    pub fn new(home: impl Into<PathBuf>) -> Self {
        Self {
            root: Root::Host,
            home: home.into(),
            user: None,
            owned: false,
            read_only: Vec::new(),
            egress: Vec::new(),
            environment: BTreeMap::new(),
            limits: Limits::default(),
        }
    }
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    pub columns: u16,
    pub rows: u16,
}

/// One process to be started in a room.
#[derive(Clone, Debug)]
pub struct Process {
    pub command: Command,
    /// Where it starts, as processes name it (`/home/user/x`). `None`: the home.
    pub directory: Option<PathBuf>,
    /// Added to the room's.
    pub environment: BTreeMap<String, String>,
    pub stdin: Stdin,
    /// It gets a terminal of this size instead of three pipes: both outputs then come as [`super::Chunk::Stdout`].
    pub terminal: Option<Size>,
    /// How long it may take; `None`: the room's `limits.wall`.
    pub wall: Option<Duration>,
}

impl Process {
    /// A command in the home, without input.
    pub fn new(command: Command) -> Self {
        Self {
            command,
            directory: None,
            environment: BTreeMap::new(),
            stdin: Stdin::Nothing,
            terminal: None,
            wall: None,
        }
    }
}

/// What the processes of a room use together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub processes: usize,
    /// Since the room was made, without what processes have used that ended and were waited for by nobody.
    pub cpu: Duration,
    /// Shared pages count once.
    pub memory_bytes: u64,
}

/// A process that was started.
#[derive(Debug)]
pub struct Started {
    /// Its number, as processes of the room name it.
    pub pid: u32,
    /// Dropping it ends the process (and what it has started, unless that has left it).
    pub running: Running,
}

/// A room that stands. When the last clone is dropped it is closed.
#[derive(Clone, Debug)]
pub struct Room {
    stands: Arc<Stands>,
}

#[derive(Debug)]
struct Stands {
    isolation: Isolation,
    tier: Tier,
    name: String,
    line: Line,
    /// Where processes start that are not told where.
    directory: PathBuf,
    /// What clients call otherwise than its processes do.
    names: Vec<(PathBuf, PathBuf)>,
    limits: Limits,
    serial: AtomicU64,
    _closed_when_dropped: DropGuard,
}

impl Room {
    /// The home as processes name it, where the tier has a file system of its own.
    pub const HOME: &'static str = HOME;

    /// Where processes find what clients call `path`: the same, but for the last tier, where home and temporary directory are the host's.
    pub fn shown(&self, path: &Path) -> PathBuf {
        let found = self.stands.names.iter().find_map(|(name, at)| Some((at, path.strip_prefix(name).ok()?)));
        match found {
            // Not `join("")`, which would end in a slash.
            Some((at, rest)) => at.components().chain(rest.components()).collect(),
            None => path.to_owned(),
        }
    }

    /// The tier that confines it.
    pub fn tier(&self) -> Tier {
        self.stands.tier
    }

    /// What its processes wanted to reach and were not allowed to, so far.
    pub fn refused(&self) -> Vec<String> {
        self.stands.line.refused()
    }

    /// Starts a process.
    ///
    /// Errors: `Spec`; `Command` if there is no such program, `Directory` if there is no such directory; `Lost` if the room is gone.
    pub async fn start(&self, process: Process) -> Result<Started, Error> {
        let Process { command, directory, environment, stdin, terminal, wall } = process;
        let words = command.words();
        spec::check_words(&words, &environment)?;
        let directory = directory.map_or_else(|| self.stands.directory.clone(), |path| self.shown(&path));
        if !directory.is_absolute() {
            return Err(Error::Spec(format!("`{}` is not an absolute path", directory.display())));
        }
        let program = wire::memory_file(&Program { words, environment, directory });
        let launch = Launch {
            id: self.stands.serial.fetch_add(1, Ordering::Relaxed),
            words: program.map_err(|source| Error::Start { source })?,
            files: false,
            stdin,
            terminal,
            wall: wall.unwrap_or(self.stands.limits.wall),
            output_bytes: self.stands.limits.output_bytes,
            once: false,
            tier: self.stands.tier,
        };
        self.launch(launch).await
    }

    /// Starts a worker that reads and writes files as a process of the room does, so that no path is ever resolved outside: it takes
    /// requests on its standard input and answers on its standard output (`files`). When a limit of the room is met it is ended with all
    /// others, and another can be started.
    ///
    /// Errors: `Lost` if the room is gone.
    pub async fn files(&self) -> Result<Started, Error> {
        let map = wire::memory_file(&Map(self.stands.names.clone()));
        let launch = Launch {
            id: self.stands.serial.fetch_add(1, Ordering::Relaxed),
            words: map.map_err(|source| Error::Start { source })?,
            files: true,
            stdin: Stdin::Open,
            terminal: None,
            wall: Duration::MAX,
            output_bytes: 0,
            once: false,
            tier: self.stands.tier,
        };
        self.launch(launch).await
    }

    async fn launch(&self, launch: Launch) -> Result<Started, Error> {
        let lost = || Error::Lost { what: "it is closed".into() };
        let name = format!("sandbox {}: process {}", self.stands.name, launch.id);
        let mut launched = launch.order(&self.stands.line).await?;
        let pid = (&mut launched.started).await.map_err(|_| lost())??;
        Ok(Started { pid, running: launched.attend(&self.stands.isolation.shared.scope, name) })
    }

    /// Stops every process where it is, or lets them go on. Meanwhile nothing can be started, and nobody's time runs.
    ///
    /// Errors: `Lost` if the room is gone.
    pub async fn freeze(&self, frozen: bool) -> Result<(), Error> {
        let done = self.stands.line.freeze(frozen).await;
        if done { Ok(()) } else { Err(Error::Lost { what: "it is closed".into() }) }
    }

    /// What its processes use now, with those that stand around them. Blocking for some milliseconds. `None`: it is gone.
    pub fn usage(&self) -> Option<Usage> {
        self.stands.line.usage()
    }

    /// Resolves when nothing is left of it, whether it was closed or came to its end in another way. Does not keep it.
    pub fn gone(&self) -> impl Future<Output = ()> + Send + 'static {
        let gone = self.stands.line.gone.clone();
        async move { gone.cancelled().await }
    }

    /// Ends every process and waits until they are gone.
    pub async fn close(self) {
        self.stands.line.stop.cancel();
        self.stands.line.gone.cancelled().await;
    }
}

impl Isolation {
    /// A user for one room alone. `None` where rooms are the daemon's user: it is not root, or the machine does not let it (the report's
    /// gaps say so), or too many are taken.
    pub fn take_user(&self) -> Option<TakenUser> {
        self.tier.filter(|tier| self.own_user.contains(tier)).and_then(|_| self.shared.users.take())
    }

    /// Makes a room and waits until it stands.
    ///
    /// Errors: as of [`Isolation::start`], and `Setup`.
    pub async fn open(&self, mut spec: RoomSpec) -> Result<Room, Error> {
        let tier = self.tier.ok_or(Error::NoTier)?;
        spec::check_paths(&spec.read_only, &[])?;
        spec::check_words(&["a room".into()], &spec.environment)?;
        if let Root::Directory(root) = &mut spec.root {
            if !tier.own_file_system() {
                let why =
                    "a root file system needs namespaces, which cannot be had on this machine (see `nightcrew doctor`)";
                return Err(Error::Spec(why.into()));
            }
            let failed = |source| Error::ReadOnly { path: root.clone(), source };
            let real = tokio::fs::canonicalize(&*root).await.map_err(failed)?;
            if !real.is_dir() || real.parent().is_none() {
                return Err(Error::ReadOnly { path: real, source: std::io::ErrorKind::NotADirectory.into() });
            }
            *root = real;
        }
        let user = spec.user.take().or_else(|| self.take_user());
        let Made { name, line, ready, directory, names } = self.make(tier, Ground::of_many(&spec), user).await?;
        let closed_when_dropped = line.stop.clone().drop_guard();
        ready.await.map_err(|_| Error::Lost { what: "its task was ended".into() })??;
        let stands = Stands {
            isolation: self.clone(),
            tier,
            name,
            line,
            directory,
            names,
            limits: spec.limits,
            serial: AtomicU64::new(1),
            _closed_when_dropped: closed_when_dropped,
        };
        Ok(Room { stands: Arc::new(stands) })
    }
}
