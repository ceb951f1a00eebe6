//! The git command, hardened: the one place where git is started.
//!
//! Git runs on repositories whose content nobody has checked. So its environment is empty but for what is set here, its only
//! configuration is given here (system and user files are not read), hooks, file monitors, filters, links, submodules and
//! credential helpers are off, no protocol is allowed unless the call names it, nothing can prompt, and the repository is always
//! named (git never looks for one). Arguments are constants, object ids, checked ref names or stand behind `--`. A credential
//! travels in the environment of one process, never in its arguments or in an address.
//!
//! Every act has a time limit and a cap on its output. At its end nothing that it started is left: it has a process group of
//! its own, which is killed.
//!
//! What it does not do: know what a repository is for (`repository`, `tree`), keep git processes (`objects`).

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions};

use super::Error;

/// The oldest git that knows `safe.bareRepository`.
const OLDEST: Version = Version(2, 38, 0);

/// The first releases of each line in which CVE-2024-32002, -32021 and CVE-2025-48384 are fixed. What these attack (submodules and
/// checking out) is never done here; the version is a second wall and told by `doctor`.
const PATCHED: &[Version] = &[
    Version(2, 43, 7),
    Version(2, 44, 4),
    Version(2, 45, 4),
    Version(2, 46, 4),
    Version(2, 47, 3),
    Version(2, 48, 2),
    Version(2, 49, 1),
    Version(2, 50, 1),
];

/// Settings of every act. Later entries of the same key win, so an act can add to them.
const SETTINGS: &[(&str, &str)] = &[
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.untrackedCache", "false"),
    ("core.symlinks", "false"),
    ("core.attributesFile", "/dev/null"),
    ("core.excludesFile", "/dev/null"),
    ("core.autocrlf", "false"),
    ("core.protectNTFS", "true"),
    ("core.protectHFS", "true"),
    ("core.quotePath", "true"),
    ("core.askPass", ""),
    ("core.sshCommand", "false"),
    // The journal names trees, so they must be on disk before it does.
    ("core.fsync", "committed"),
    ("core.bigFileThreshold", "64m"),
    ("safe.bareRepository", "explicit"),
    ("credential.helper", ""),
    ("credential.interactive", "false"),
    ("protocol.allow", "never"),
    ("protocol.file.allow", "never"),
    ("protocol.ext.allow", "never"),
    ("submodule.recurse", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("fetch.writeCommitGraph", "false"),
    ("fetch.parallel", "1"),
    ("transfer.bundleURI", "false"),
    ("transfer.advertiseSID", "false"),
    ("http.followRedirects", "false"),
    ("http.emptyAuth", "false"),
    ("http.lowSpeedLimit", "1"),
    ("http.lowSpeedTime", "60"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("diff.renames", "true"),
    ("diff.renameLimit", "2000"),
    ("diff.algorithm", "histogram"),
    ("diff.ignoreSubmodules", "none"),
    ("diff.noprefix", "false"),
    ("diff.mnemonicPrefix", "false"),
    ("commit.gpgSign", "false"),
    ("log.showSignature", "false"),
    ("user.name", "nightcrew"),
    ("user.email", "nightcrew@localhost"),
];

/// No pack and no index that git writes becomes larger than this, in bytes.
const MOST_FILE: u64 = 8 * 1024 * 1024 * 1024;

/// How much of what git complains about is kept, in bytes.
const MOST_COMPLAINT: usize = 64 * 1024;

/// A version of git.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// From `git version 2.47.3` and what distributions put behind it.
    fn parse(text: &str) -> Option<Self> {
        let number = text.trim().strip_prefix("git version ")?.split_whitespace().next()?;
        let mut parts = number.split('.').map(|part| part.parse().ok());
        Some(Self(parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
    }

    /// Whether the upstream release has the fixes that matter for hostile repositories. Distributions may have them earlier.
    fn is_patched(self) -> bool {
        match PATCHED.iter().find(|fixed| (fixed.0, fixed.1) == (self.0, self.1)) {
            Some(fixed) => self >= *fixed,
            None => PATCHED.last().is_some_and(|last| self > *last),
        }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// What a server is asked with. Made by `clients`, which alone knows the secret; shows nothing of it.
#[derive(Clone, Default)]
pub struct Access {
    header: Option<String>,
}

impl Access {
    /// No credential.
    pub fn none() -> Self {
        Self::default()
    }
    /// There is a credential.
    pub fn is_some(&self) -> bool {
        self.header.is_some()
    }
    /// One whole header line, for instance `Authorization: Basic …`. It goes to the origin of the address alone.
    pub fn header(line: impl Into<String>) -> Self {
        Self { header: Some(line.into()) }
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.header.is_some() { "Access(header)" } else { "Access(none)" })
    }
}

/// Where an act may reach.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reach<'a> {
    Nowhere,
    /// A folder of this machine, which git opens for reading.
    Folder,
    /// One origin (`https://host`) over `https`, or over `http` where the address says so.
    Server {
        origin: &'a str,
        access: &'a Access,
    },
}

/// The most that one act may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub time: Duration,
    /// Bytes of output.
    pub output: usize,
}

impl Limits {
    pub const QUICK: Self = Self { time: Duration::from_secs(60), output: 64 * 1024 * 1024 };
    pub const FETCH: Self = Self { time: Duration::from_secs(600), output: 1024 * 1024 };
}

/// One act of git.
pub(super) struct Act<'a> {
    /// For messages: `reading the tree`.
    pub what: &'a str,
    /// The repository; `None` only for what needs none.
    pub repository: Option<&'a Path>,
    pub args: Vec<OsString>,
    pub input: &'a [u8],
    pub reach: Reach<'a>,
    /// A temporary index.
    pub index: Option<&'a Path>,
    /// Seconds since 1970 that a commit bears.
    pub time: i64,
    pub limits: Limits,
}

impl<'a> Act<'a> {
    pub fn new<S: AsRef<OsStr>>(what: &'a str, repository: &'a Path, args: impl IntoIterator<Item = S>) -> Self {
        Self {
            what,
            repository: Some(repository),
            args: args.into_iter().map(|arg| arg.as_ref().to_owned()).collect(),
            input: &[],
            reach: Reach::Nowhere,
            index: None,
            time: 0,
            limits: Limits::QUICK,
        }
    }
}

/// What git answered.
#[derive(Debug)]
pub(super) struct Answer {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    pub output: Vec<u8>,
    /// What it complained about, made printable.
    pub complaint: String,
}

/// A git that is new enough.
#[derive(Clone, Debug)]
pub struct Git {
    program: PathBuf,
    path: OsString,
    version: Version,
}

impl Git {
    /// Looks for git in the folders of `path` (as in `$PATH`) and asks for its version.
    ///
    /// Errors: `NotFound` without git, `Refused` when it is too old.
    pub fn find(path: &OsStr) -> Result<Self, Error> {
        let program = std::env::split_paths(path)
            .filter(|folder| folder.is_absolute())
            .map(|folder| folder.join("git"))
            .find(|program| program.is_file())
            .ok_or_else(|| Error::NotFound("there is no `git` on the PATH; install git 2.38 or newer".into()))?;
        let mut git = Self { program, path: path.to_owned(), version: OLDEST };
        let mut act = Act::new("asking git for its version", Path::new("/"), ["version"]);
        act.repository = None;
        act.limits.time = Duration::from_secs(10);
        let answer = git.run(act)?;
        let text = String::from_utf8_lossy(&answer.output).into_owned();
        let program = git.program.display();
        git.version = Version::parse(&text).ok_or_else(|| {
            Error::Refused(format!("`{program}` is no git: it says `{}`", super::path::shown(text.trim().as_bytes())))
        })?;
        if git.version < OLDEST {
            let version = git.version;
            return Err(Error::Refused(format!("`{program}` is git {version}; nightcrew needs {OLDEST} or newer")));
        }
        Ok(git)
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// What a person should know about this version, if anything.
    pub fn advice(&self) -> Option<String> {
        (!self.version.is_patched()).then(|| {
            format!(
                "git {} lacks fixes for hostile repositories unless your distribution added them (CVE-2024-32002, \
                 CVE-2025-48384); update git",
                self.version
            )
        })
    }

    /// A command with an empty environment and all settings, in a process group of its own.
    pub(super) fn command(&self, repository: Option<&Path>, reach: Reach<'_>, index: Option<&Path>) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().process_group(0).current_dir("/");
        command.env("PATH", &self.path);
        // A HOME that cannot hold a file: neither git nor curl finds settings or a netrc there.
        command.env("HOME", "/dev/null").env("XDG_CONFIG_HOME", "/dev/null");
        command.env("LC_ALL", "C").env("TZ", "UTC");
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_SYSTEM", "/dev/null");
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_ATTR_NOSYSTEM", "1");
        command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_ASKPASS", "false").env("SSH_ASKPASS", "false");
        command.env("GIT_SSH_COMMAND", "false").env("GIT_EDITOR", "false").env("GIT_PAGER", "cat");
        command.env("GIT_NO_LAZY_FETCH", "1").env("GIT_NO_REPLACE_OBJECTS", "1").env("GIT_LITERAL_PATHSPECS", "1");
        command.env("GIT_OPTIONAL_LOCKS", "0").env("GIT_PROTOCOL_FROM_USER", "0").env("GIT_ADVICE", "0");
        if let Some(repository) = repository {
            command.env("GIT_DIR", repository);
        }
        if let Some(index) = index {
            command.env("GIT_INDEX_FILE", index);
        }
        let mut settings: Vec<(String, &str)> =
            SETTINGS.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect();
        let protocol = match reach {
            Reach::Nowhere => "none",
            Reach::Folder => "file",
            Reach::Server { origin, access } => {
                if let Some(header) = &access.header {
                    settings.push((format!("http.{origin}/.extraHeader"), header));
                }
                if origin.starts_with("http://") { "http" } else { "https" }
            }
        };
        settings.push((format!("protocol.{protocol}.allow"), "always"));
        command.env("GIT_ALLOW_PROTOCOL", protocol);
        command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (n, (key, value)) in settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{n}"), key).env(format!("GIT_CONFIG_VALUE_{n}"), value);
        }
        command
    }

    /// Runs an act to its end. Any exit code is an answer.
    ///
    /// Errors: `Io` when git cannot be started, `Timeout`, `TooLarge`.
    pub(super) fn run(&self, act: Act<'_>) -> Result<Answer, Error> {
        let mut command = self.command(act.repository, act.reach, act.index);
        let time = format!("@{} +0000", act.time);
        command.env("GIT_AUTHOR_DATE", &time).env("GIT_COMMITTER_DATE", &time);
        command.args(&act.args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(Error::io(format!("starting `{}`", self.program.display())))?;
        let mut group = Group::new(child);
        let answer = group.exchange(&act);
        // Also after a good end: nothing that git started may outlive it.
        let status = group.end();
        let mut answer = answer?;
        answer.code = status.and_then(|status| status.code());
        if let Reach::Server { access: Access { header: Some(header) }, .. } = act.reach {
            answer.complaint = answer.complaint.replace(header.as_str(), "[redacted]");
        }
        Ok(answer)
    }

    /// Runs an act that must succeed; answers with its output.
    ///
    /// Errors: as [`Self::run`], and `Git` for any exit code but 0.
    pub(super) fn output(&self, act: Act<'_>) -> Result<Vec<u8>, Error> {
        let what = act.what.to_owned();
        let answer = self.run(act)?;
        match answer.code {
            Some(0) => Ok(answer.output),
            code => Err(failed(&what, code, &answer.complaint)),
        }
    }
}

/// An exit code that was not foreseen, with what git said about it.
pub(super) fn failed(what: &str, code: Option<i32>, complaint: &str) -> Error {
    let said = complaint.trim();
    let message = match (code, said.is_empty()) {
        (_, false) => said.chars().take(600).collect(),
        (Some(code), true) => format!("git ended with exit code {code}"),
        (None, true) => "git was killed".to_owned(),
    };
    Error::Git { what: what.to_owned(), message }
}

/// A child with everything that it started. Dropped, all of it is killed.
pub(super) struct Group {
    child: Child,
    ended: bool,
}

impl Group {
    pub fn new(child: Child) -> Self {
        // A file of our own making is not one that can fill the disk. Failing to set this only loses a second wall.
        let limit = Rlimit { current: Some(MOST_FILE), maximum: Some(MOST_FILE) };
        let _ = rustix::process::prlimit(Some(Pid::from_child(&child)), Resource::Fsize, limit);
        Self { child, ended: false }
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Writes the input and reads the outputs until both ends are closed and the child is gone.
    fn exchange(&mut self, act: &Act<'_>) -> Result<Answer, Error> {
        let (Some(stdin), Some(mut stdout), Some(mut stderr)) =
            (self.child.stdin.take(), self.child.stdout.take(), self.child.stderr.take())
        else {
            return Err(Error::Git { what: act.what.into(), message: "git has no pipes".into() });
        };
        let broken = |source: std::io::Error| Error::Io { what: act.what.to_owned(), source };
        for fd in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
            set_nonblocking(fd).map_err(broken)?;
        }
        let deadline = Instant::now() + act.limits.time;
        let late = || Error::Timeout { what: act.what.to_owned(), after: act.limits.time };
        let mut stdin = Some(stdin);
        let mut rest = act.input;
        let (mut output, mut complaint) = (Vec::new(), Vec::new());
        let (mut output_open, mut complaint_open) = (true, true);
        while output_open || complaint_open {
            if rest.is_empty() {
                stdin = None;
            }
            let mut fds = Vec::with_capacity(3);
            if output_open {
                fds.push(PollFd::new(&stdout, PollFlags::IN));
            }
            if complaint_open {
                fds.push(PollFd::new(&stderr, PollFlags::IN));
            }
            if let Some(stdin) = &stdin {
                fds.push(PollFd::new(stdin, PollFlags::OUT));
            }
            wait(&mut fds, deadline).map_err(broken)?.then_some(()).ok_or_else(late)?;
            drop(fds);
            if let Some(pipe) = &mut stdin {
                match pipe.write(rest) {
                    Ok(written) => rest = &rest[written..],
                    Err(error) if passing(&error) => {}
                    // Git need not read all that it is given; its exit code tells.
                    Err(_) => rest = &[],
                }
            }
            if output_open {
                output_open = take(&mut stdout, &mut output).map_err(broken)?;
            }
            if complaint_open {
                complaint_open = take(&mut stderr, &mut complaint).map_err(broken)?;
            }
            if output.len() > act.limits.output {
                return Err(Error::TooLarge { what: format!("{}: bytes", act.what), cap: act.limits.output as u64 });
            }
            complaint.truncate(MOST_COMPLAINT);
        }
        // Without taking its end: `end` does, after the rest of the group.
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        while rustix::process::waitid(WaitId::Pid(Pid::from_child(&self.child)), ended)
            .map_err(|e| broken(e.into()))?
            .is_none()
        {
            if Instant::now() > deadline {
                return Err(late());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Answer { code: None, output, complaint: printable(&complaint) })
    }

    /// Kills whatever is left of the group and takes its end.
    pub fn end(&mut self) -> Option<std::process::ExitStatus> {
        let mut status = None;
        if !self.ended {
            self.ended = true;
            // The child is not waited for before, so that its number cannot have passed to somebody else. An error says that
            // all of it has ended by itself.
            let _ = rustix::process::kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            status = self.child.wait().ok();
        }
        status
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}

pub(super) fn set_nonblocking(fd: BorrowedFd<'_>) -> std::io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK)?)
}

/// Waits until something can be done. False: the deadline has passed.
pub(super) fn wait(fds: &mut [PollFd<'_>], deadline: Instant) -> std::io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(fds, Some(&left)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

pub(super) fn passing(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted)
}

/// Takes what is there. False: the other end is closed.
fn take(pipe: &mut impl Read, into: &mut Vec<u8>) -> std::io::Result<bool> {
    let at = into.len();
    into.resize(at + 64 * 1024, 0);
    let read = pipe.read(&mut into[at..]);
    into.truncate(at + read.as_ref().copied().unwrap_or(0));
    match read {
        Ok(read) => Ok(read > 0),
        Err(error) if passing(&error) => Ok(true),
        Err(error) => Err(error),
    }
}

fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars()
        .map(|c| if c == '\r' || c == '\t' { ' ' } else { c })
        .filter(|c| *c == '\n' || !c.is_control())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_distributions_write_them() {
        let cases = [
            ("git version 2.47.3\n", Some(Version(2, 47, 3))),
            ("git version 2.39.5 (Apple Git-154)", Some(Version(2, 39, 5))),
            ("git version 2.50.0.windows.1", Some(Version(2, 50, 0))),
            ("git version 3.0", Some(Version(3, 0, 0))),
            ("git version 2.51.0-rc1", Some(Version(2, 51, 0))),
            ("something else", None),
        ];
        for (text, version) in cases {
            assert_eq!(Version::parse(text), version, "{text}");
        }
        assert!(Version(2, 47, 3).is_patched() && Version(3, 0, 0).is_patched() && Version(2, 51, 0).is_patched());
        assert!(!Version(2, 47, 2).is_patched() && !Version(2, 39, 5).is_patched() && !Version(2, 50, 0).is_patched());
    }

    #[test]
    fn a_credential_is_in_the_environment_of_git_alone_and_is_never_shown() {
        let git = Git { program: "/x/git".into(), path: "/x".into(), version: OLDEST };
        let access = Access::header("Authorization: Basic hunter2");
        let reach = Reach::Server { origin: "https://git.example", access: &access };
        let command = git.command(Some(Path::new("/repo")), reach, None);
        let holds = |text: &OsStr| text.to_string_lossy().contains("hunter2");
        assert!(!command.get_args().any(holds));
        let keys: Vec<_> =
            command.get_envs().filter(|(_, v)| v.is_some_and(holds)).map(|(key, _)| key.to_owned()).collect();
        assert_eq!(keys.len(), 1);
        assert!(!format!("{access:?}").contains("hunter2"));
        let elsewhere = git.command(Some(Path::new("/repo")), Reach::Folder, None);
        assert!(!elsewhere.get_envs().any(|(_, value)| value.is_some_and(holds)));
    }
}
