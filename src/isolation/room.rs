//! A room: one file system, one network and one set of processes for as many commands as come, until it is closed.
//!
//! What is true of a single command ([`super::Spec`]) is true of everything in a room together: nothing reaches out of it, limits
//! count for all, and everything ends with it. Between two commands processes go on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::plan::HOME;
use super::{Command, Error, Isolation, Limits, ReadOnly, Running, Spec, Stdin};

/// The file system that processes see around their home.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Root {
    /// The host's programs and toolchains, read-only.
    #[default]
    Host,
    /// A root file system in a directory of the host, read-only.
    Directory(PathBuf),
}

/// What a room is made of.
#[derive(Clone, Debug)]
pub struct RoomSpec {
    pub root: Root,
    /// The host directory that is the home, writable, at [`Room::HOME`] where the tier has a file system of its own.
    pub home: PathBuf,
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
            read_only: Vec::new(),
            egress: Vec::new(),
            environment: BTreeMap::new(),
            limits: Limits::default(),
        }
    }
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    isolation: Isolation,
    spec: Arc<RoomSpec>,
    serial: Arc<AtomicU32>,
}

impl Room {
    /// The home as processes name it, where the tier has a file system of its own.
    pub const HOME: &'static str = HOME;

    /// Where processes find what clients call `path`: the same, but for the last tier, where home and temporary directory are the host's.
    pub fn shown(&self, path: &Path) -> PathBuf {
        match self.isolation.tier {
            Some(tier) if !tier.own_file_system() => match path.strip_prefix(HOME) {
                Ok(rest) => self.spec.home.join(rest),
                Err(_) => path.to_owned(),
            },
            _ => path.to_owned(),
        }
    }

    /// Starts a process.
    ///
    /// Errors: `Command` if there is no such program or directory; `Lost` if the room is gone.
    pub async fn start(&self, process: Process) -> Result<Started, Error> {
        let mut spec = Spec::new(process.command, self.spec.home.clone());
        spec.home = Some(self.spec.home.clone());
        let directory = process.directory.unwrap_or_else(|| HOME.into());
        spec.directory = directory.strip_prefix(HOME).map(Path::to_owned).unwrap_or_default();
        spec.read_only.clone_from(&self.spec.read_only);
        spec.egress.clone_from(&self.spec.egress);
        spec.environment = self.spec.environment.clone();
        spec.environment.extend(process.environment);
        spec.stdin = process.stdin;
        spec.limits = self.spec.limits.clone();
        if let Some(wall) = process.wall {
            spec.limits.wall = wall;
        }
        let running = self.isolation.start(spec).await?;
        Ok(Started { pid: self.serial.fetch_add(1, Ordering::Relaxed), running })
    }

    /// Starts a worker that reads and writes files as a process of the room does, so that no path is ever resolved outside: it takes
    /// requests on its standard input and answers on its standard output (`files`).
    pub async fn files(&self) -> Result<Started, Error> {
        Err(Error::Spec("not in this version".into()))
    }

    /// Stops every process where it is, or lets them go on.
    pub async fn freeze(&self, frozen: bool) -> Result<(), Error> {
        Err(Error::Spec(format!("not in this version ({frozen})")))
    }

    /// Ends every process and waits until they are gone.
    pub async fn close(self) {}
}

impl super::Handle {
    /// Tells the terminal its size. False if there is none.
    pub async fn resize(&self, _size: Size) -> bool {
        false
    }
}

impl Isolation {
    /// Makes a room and waits until it stands.
    ///
    /// Errors: as of [`Isolation::start`], and `Setup`.
    pub async fn open(&self, spec: RoomSpec) -> Result<Room, Error> {
        Ok(Room { isolation: self.clone(), spec: Arc::new(spec), serial: Arc::new(AtomicU32::new(2)) })
    }
}
