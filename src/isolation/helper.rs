//! The helper: this same binary, started anew to build a sandbox from the inside out.
//!
//! `… __confine outer` leaves the host's namespaces (or becomes `bwrap`, which does) and starts `… __confine init`, which becomes the first
//! process inside, or in the last tier the supervisor. It is a process of its own because a daemon with threads cannot
//! safely run code between `fork` and `exec`. It has one thread and reads nothing from the environment.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use rustix::thread::CapabilitySet;

use super::other_user::hand_over;
use super::plan::{BUILD, Plan, UID, bubblewrap_arguments};
use super::tier::Tier;
use super::wire::{Stage, Word, line, receive_plan};
use super::{init, other_user, sys};

/// The hidden first argument by which the binary knows that it is the helper.
pub(super) const WORD: &str = "__confine";
/// Its own binary, whatever happened to the file since it was started.
const SELF: &str = "/proc/self/exe";

/// Why a sandbox could not be set up.
#[derive(Debug)]
pub(super) struct Failure {
    pub stage: Stage,
    pub message: String,
    pub errno: Option<i32>,
}

impl Failure {
    pub(super) fn new(stage: Stage, what: &str, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        Self { stage, message: format!("{what}: {error}"), errno: error.raw_os_error() }
    }
}

/// For the first line of `main`: runs as the helper if the arguments say so, before anything else is done or any thread is started.
///
/// `None` means that this is an ordinary start. `arguments` are those of the process, with its name.
pub fn run_if_asked(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    if arguments.nth(1)? != WORD {
        return None;
    }
    let role = arguments.next();
    let Ok(socket) = sys::take_stdin() else { return Some(ExitCode::FAILURE) };
    let answer = match role.as_ref().and_then(|role| role.to_str()) {
        Some("outer") => outer(&socket),
        Some("init") => init::run(&socket),
        _ => Err(Failure { stage: Stage::Protocol, message: "an unknown role".into(), errno: None }),
    };
    Some(match answer {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let word = Word::Failed { stage: failure.stage, message: failure.message, errno: failure.errno };
            // If the daemon is gone there is nobody left to tell.
            tell(&socket, &word).map_or(ExitCode::FAILURE, |()| ExitCode::from(1))
        }
    })
}

/// Sends one word to the daemon.
pub(super) fn tell(socket: &OwnedFd, word: &Word) -> io::Result<()> {
    let line = line(word)?;
    let mut rest = &line[..];
    while !rest.is_empty() {
        rest = &rest[rustix::net::send(socket, rest, rustix::net::SendFlags::NOSIGNAL)?..];
    }
    Ok(())
}

/// Waits for the daemon (which meanwhile puts this process into its cgroup) and takes the plan, and where the proxy's socket goes.
pub(super) fn plan(socket: &OwnedFd) -> Result<(Plan, Option<OwnedFd>), Failure> {
    let (plan, other) =
        receive_plan(socket).map_err(|error| Failure::new(Stage::Protocol, "what the daemon sent", error))?;
    if plan.build != BUILD {
        let message = "the binary was replaced under a running daemon: restart it".to_owned();
        return Err(Failure { stage: Stage::Protocol, message, errno: None });
    }
    Ok((plan, other))
}

/// What concerns the helper of every tier, before it does anything else.
pub(super) fn settle() -> Result<(), Failure> {
    let limits = |error: io::Error| Failure::new(Stage::Limits, "the helper's own process", error);
    sys::close_others_on_exec().map_err(limits)?;
    // When memory runs out the kernel is to end a sandbox and not the daemon.
    std::fs::write("/proc/self/oom_score_adj", "1000").map_err(limits)?;
    // No controlling terminal, and no signal that is meant for the daemon's group.
    match rustix::process::setsid() {
        Ok(_) | Err(rustix::io::Errno::PERM) => Ok(()),
        Err(error) => Err(limits(error.into())),
    }
}

fn outer(socket: &OwnedFd) -> Result<(), Failure> {
    settle()?;
    let (plan, _) = plan(socket)?;
    let own = std::env::current_exe().map_err(|e| Failure::new(Stage::Bubblewrap, "the path of nightcrew", e))?;
    hand_over(&plan)?;
    let own = other_user::stage(&plan, own)?;
    if let Some(user) = plan.user {
        other_user::begin_as(user)?;
    }
    let control = || socket.try_clone().map(Stdio::from).map_err(|e| Failure::new(Stage::Protocol, "the socket", e));
    match (plan.tier, &plan.bubblewrap) {
        (Tier::Bubblewrap, Some(bubblewrap)) => {
            let mut command = Command::new(bubblewrap);
            let libraries = if plan.foreign { libraries() } else { Ok(Vec::new()) };
            let libraries = libraries.map_err(|e| Failure::new(Stage::Bubblewrap, "what nightcrew needs", e))?;
            command
                .args(bubblewrap_arguments(&plan, &own, &libraries))
                .args([WORD, "init"])
                .env_clear()
                .current_dir("/");
            let error = command.stdin(control()?).exec();
            Err(Failure::new(Stage::Bubblewrap, &bubblewrap.display().to_string(), error))
        }
        (Tier::Namespaces, _) => {
            into_namespaces()?;
            let mut command = Command::new(SELF);
            command.args([WORD, "init"]).env_clear().current_dir("/").stdin(control()?);
            let started = command.spawn().map_err(|e| Failure::new(Stage::Namespaces, "the first process", e));
            // The word of how it ended comes from the process inside.
            started?.wait().map(drop).map_err(|e| Failure::new(Stage::Namespaces, "waiting", e))
        }
        _ => Err(Failure { stage: Stage::Protocol, message: "this tier has no outer part".into(), errno: None }),
    }
}

/// What this program is linked with, the loader among it, by the names that it is asked for by. Empty where it needs nothing.
fn libraries() -> io::Result<Vec<(String, PathBuf)>> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let mapped = maps.lines().filter_map(|line| line.find('/').and_then(|at| line.get(at..)));
    let paths: BTreeSet<&Path> = mapped.filter(|path| path.contains(".so")).map(Path::new).collect();
    let mut found = Vec::new();
    for path in paths {
        let (Some(directory), Some(own)) = (path.parent(), path.file_name()) else { continue };
        found.push((own.to_string_lossy().into_owned(), path.to_owned()));
        // Older systems give the file its version and a link the name that programs know.
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type().is_ok_and(|kind| kind.is_symlink())
                && std::fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str() == own)
            {
                found.push((entry.file_name().to_string_lossy().into_owned(), path.to_owned()));
            }
        }
    }
    Ok(found)
}

fn into_namespaces() -> Result<(), Failure> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    sys::unshare_all().map_err(|error| Failure::new(Stage::Namespaces, "unshare", error))?;
    let map = |file: &str, text: String| {
        std::fs::write(file, text).map_err(|error| Failure::new(Stage::UserMap, file, error))
    };
    map("/proc/self/setgroups", "deny".into())?;
    map("/proc/self/uid_map", format!("{UID} {uid} 1"))?;
    map("/proc/self/gid_map", format!("{UID} {gid} 1"))?;
    keep_capabilities().map_err(|error| Failure::new(Stage::Capabilities, "over the new namespaces", error))
}

/// Lets the process that is started next have this one's capabilities, which reach no further than the new namespaces.
fn keep_capabilities() -> rustix::io::Result<()> {
    let mut sets = rustix::thread::capabilities(None)?;
    sets.inheritable = sets.permitted;
    rustix::thread::set_capabilities(None, sets)?;
    for capability in sets.permitted.iter() {
        rustix::thread::configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

/// Gives up every capability, and every way to have one again.
pub(super) fn drop_capabilities() -> rustix::io::Result<()> {
    rustix::thread::clear_ambient_capability_set()?;
    for capability in CapabilitySet::all().iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // The last is of a kernel that does not know this capability.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
    }
    let none = CapabilitySet::empty();
    let sets = rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets)
}
