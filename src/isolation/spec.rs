//! What a caller asks for: a command, its work directory, its limits.
//!
//! Plain data. Nothing here says how the command is confined; that is the tier's business.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Error;

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A program, looked up in the sandbox's `PATH`, and its arguments.
    Argv(Vec<String>),
    /// A line for `/bin/sh -c`.
    Shell(String),
}

impl Command {
    /// The words that are executed.
    pub(super) fn words(&self) -> Vec<String> {
        match self {
            Self::Argv(words) => words.clone(),
            Self::Shell(line) => vec!["/bin/sh".into(), "-c".into(), line.clone()],
        }
    }
}

/// A host path that the command may read and execute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadOnly {
    pub host: PathBuf,
    /// Where it appears inside, in tiers that have a file system of their own; the last tier leaves it where it is.
    pub inside: PathBuf,
}

/// A host directory that the command may write to beside its work directory. It counts towards the limit on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writable {
    pub host: PathBuf,
    /// Where it appears inside, in tiers that have a file system of their own; see [`super::Tier::shown_at`].
    pub inside: PathBuf,
}

/// What the command reads on standard input.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Stdin {
    /// End of file at once.
    #[default]
    Nothing,
    Bytes(Vec<u8>),
    /// What [`super::Handle::write_stdin`] sends, until it is closed there.
    Open,
}

/// One command to be run confined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub command: Command,
    /// The host directory that the command may write to: `/work` inside, where tiers have a file system of their own.
    pub work: PathBuf,
    /// Where in `work` the command starts. Relative, without `..`.
    pub directory: PathBuf,
    pub read_only: Vec<ReadOnly>,
    pub writable: Vec<Writable>,
    /// The host directory that is the command's home, at `/home/user` where tiers have a file system of their own. `None`: an empty
    /// one in memory. In every tier `HOME` names it.
    pub home: Option<PathBuf>,
    /// Hosts or registries that the command may reach through the host's proxy. Empty: no network at all.
    pub egress: Vec<String>,
    /// Added to the few variables that every command gets (`PATH HOME TMPDIR LANG USER …`); the daemon's own are never passed on.
    pub environment: BTreeMap<String, String>,
    pub stdin: Stdin,
    pub limits: Limits,
}

impl Spec {
    /// `command` in `work` with nothing else: no input, no further paths, the usual limits.
    pub fn new(command: Command, work: impl Into<PathBuf>) -> Self {
        Self {
            command,
            work: work.into(),
            directory: PathBuf::new(),
            read_only: Vec::new(),
            writable: Vec::new(),
            home: None,
            egress: Vec::new(),
            environment: BTreeMap::new(),
            stdin: Stdin::Nothing,
            limits: Limits::default(),
        }
    }

    /// A line for the shell.
    pub fn shell(line: impl Into<String>, work: impl Into<PathBuf>) -> Self {
        Self::new(Command::Shell(line.into()), work)
    }

    /// A program and its arguments.
    pub fn argv(argv: &[&str], work: impl Into<PathBuf>) -> Self {
        Self::new(Command::Argv(argv.iter().map(|word| (*word).to_owned()).collect()), work)
    }

    /// The words that are executed.
    pub(super) fn words(&self) -> Vec<String> {
        self.command.words()
    }

    /// Refuses what cannot be meant, before anything is started.
    pub(super) fn check(&self) -> Result<(), Error> {
        check_words(&self.words(), &self.environment)?;
        if !self.directory.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(Error::Spec(format!("`{}` leads out of the work directory", self.directory.display())));
        }
        check_paths(&self.read_only, &self.writable)?;
        super::egress::check(&self.egress).map_err(Error::Egress)
    }
}

/// Refuses words and variables that no program can be given.
pub(super) fn check_words(words: &[String], environment: &BTreeMap<String, String>) -> Result<(), Error> {
    let refuse = |what: String| Err(Error::Spec(what));
    if words.first().is_none_or(String::is_empty) {
        return refuse("the command is empty".into());
    }
    let nul = |text: &String| text.contains('\0');
    if words.iter().any(nul) || environment.iter().any(|(k, v)| nul(k) || nul(v)) {
        return refuse("the command or a variable contains a NUL character".into());
    }
    if let Some(name) = environment.keys().find(|name| name.is_empty() || name.contains('=')) {
        return refuse(format!("`{name}` cannot be the name of a variable"));
    }
    Ok(())
}

/// Refuses paths that would land in the work directory, or cover what confines.
pub(super) fn check_paths(read_only: &[ReadOnly], writable: &[Writable]) -> Result<(), Error> {
    let refuse = |what: String| Err(Error::Spec(what));
    let read_only = read_only.iter().map(|path| (&path.host, &path.inside));
    for (host, inside) in read_only.chain(writable.iter().map(|path| (&path.host, &path.inside))) {
        if !host.is_absolute() || !plain(inside) {
            return refuse(format!("`{}` is not an absolute path without `..`", inside.display()));
        }
        if let Some(own) = RESERVED.iter().find(|own| inside.starts_with(own) || Path::new(own).starts_with(inside)) {
            return refuse(format!("`{}` would cover `{own}`", inside.display()));
        }
    }
    match writable.iter().find(|path| path.inside.starts_with("/home") || path.inside.starts_with("/tmp")) {
        Some(path) => refuse(format!("`{}` lies in a directory that the command has anyway", path.inside.display())),
        None => Ok(()),
    }
}

/// Where nothing of the caller's may be mounted: it would land in the work directory, or cover what confines.
const RESERVED: &[&str] =
    &["/work", "/proc", "/dev", "/sys", "/etc", "/usr", "/bin", "/sbin", "/lib", "/lib64", super::plan::OWN];

fn plain(path: &Path) -> bool {
    path.is_absolute() && path.components().all(|part| matches!(part, Component::Normal(_) | Component::RootDir))
}

/// The most that one command, or the processes of one room, may use. Reaching `wall`, `cpu`, `memory`, `processes` or `disk` ends it; the others make a call of the
/// command fail or cut what is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub wall: Duration,
    /// Processor time of all processes together.
    pub cpu: Duration,
    /// Memory of all processes together. Enforced by the kernel where a cgroup is delegated to the daemon; else each process has
    /// it as its `RLIMIT_DATA` and the sum is looked at ten times a second, so a short overshoot is possible.
    pub memory_bytes: u64,
    /// Processes and threads together. Enforced and looked at as `memory_bytes` is.
    pub processes: u64,
    /// The largest file that can be written. A process that goes on gets `SIGXFSZ`.
    pub file_bytes: u64,
    pub open_files: u64,
    /// Size of the work directory, the home and what else is writable, with what was in them before. Looked at once a second or less often where it is large.
    pub disk_bytes: u64,
    /// Size of each of the temporary file systems (`/tmp`, `/dev/shm`, the home), where the tier has them; at most a quarter of
    /// `memory_bytes`, which they count towards.
    pub scratch_bytes: u64,
    /// What is kept of each of the two outputs: half from its head, half from its tail.
    pub output_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: u64 = 1 << 20;
        Self {
            wall: Duration::from_secs(600),
            cpu: Duration::from_secs(1200),
            memory_bytes: 4096 * MIB,
            processes: 1024,
            file_bytes: 2048 * MIB,
            open_files: 4096,
            disk_bytes: 8192 * MIB,
            scratch_bytes: 1024 * MIB,
            output_bytes: MIB / 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_that_leads_out_of_its_work_directory_is_refused() {
        let spec = |directory: &str| Spec { directory: directory.into(), ..Spec::shell("true", "/w") };
        assert!(spec("").check().is_ok() && spec("a/b").check().is_ok());
        assert!(spec("../x").check().is_err() && spec("/etc").check().is_err() && spec("a/../../b").check().is_err());
        let mount = |inside: &str| Spec {
            read_only: vec![ReadOnly { host: "/x".into(), inside: inside.into() }],
            ..Spec::shell("true", "/w")
        };
        assert!(mount("/opt/x").check().is_ok());
        for covered in ["/", "/work", "/work/x", "/proc/1", "/etc", "/usr/bin/../../etc", "relative"] {
            assert!(mount(covered).check().is_err(), "{covered}");
        }
        let writable = |inside: &str| Spec {
            writable: vec![Writable { host: "/x".into(), inside: inside.into() }],
            ..Spec::shell("true", "/w")
        };
        assert!(writable("/results").check().is_ok());
        for covered in ["/", "/work/x", "/usr/x", "/home/user/x", "/tmp", "/results/../etc"] {
            assert!(writable(covered).check().is_err(), "{covered}");
        }
        assert!(Spec::argv(&[], "/w").check().is_err() && Spec::argv(&["a\0b"], "/w").check().is_err());
    }
}
