//! The first process inside, or in the last tier the supervisor: finishes the confinement, starts processes, watches them, ends
//! everything and says how each ended.
//!
//! In a namespace of processes it is number 1: when it ends, the kernel ends every other. In the last tier it is a subreaper: what
//! its descendants leave behind becomes its child, so it finds and kills them all. Invariant: it is never confined by what it
//! puts on others, and nothing inside can signal, trace or read it (the last tier's exceptions are its gaps).

mod accounts;
mod confine;
mod keep;
mod look;
mod starter;
mod still;
mod worker;

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{DumpableBehavior, Pid, Signal, WaitOptions};

use super::helper::{Failure, drop_capabilities, plan, settle, tell};
use super::other_user::hand_over;
use super::plan::Plan;
use super::tier::Tier;
use super::wire::Stage;
use super::{egress, mounts, sys, watch};

/// How long descendants that are being killed may take to be gone.
const SWEEP: Duration = Duration::from_secs(5);

pub(super) fn run(socket: &OwnedFd) -> Result<(), Failure> {
    let (plan, egress) = plan(socket)?;
    enclose(&plan)?;
    let proxy = egress
        .map(|to| egress::open(to, !plan.tier.own_file_system()))
        .transpose()
        .map_err(|e| Failure::new(Stage::Egress, "the proxy's socket", e))?;
    let mut keep = keep::Keep::new(&plan, proxy)?;
    let kept = keep.until_the_end(socket).map_err(|e| Failure::new(Stage::Protocol, "watching what runs", e));
    if plan.tier == Tier::Landlock {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        sweep(own).map_err(|e| Failure::new(Stage::Protocol, "ending what was left behind", e))?;
    }
    match kept? {
        Some(word) => tell(socket, &word).map_err(|e| Failure::new(Stage::Protocol, "the socket", e)),
        None => Ok(()),
    }
}

/// Everything that concerns this process too, before the command exists.
fn enclose(plan: &Plan) -> Result<(), Failure> {
    let capabilities = |error: rustix::io::Errno| Failure::new(Stage::Capabilities, "giving them up", error);
    if plan.tier.own_file_system() {
        // The process outside is what the daemon can kill.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(capabilities)?;
    } else {
        settle()?;
        let own = rustix::process::getpid();
        rustix::process::set_child_subreaper(Some(own)).map_err(capabilities)?;
    }
    if plan.tier == Tier::Namespaces {
        mounts::build(plan)?;
        sys::raise_loopback().map_err(|error| Failure::new(Stage::Namespaces, "the loopback interface", error))?;
        rustix::system::sethostname(b"sandbox")
            .map_err(|error| Failure::new(Stage::Namespaces, "the host's name", error))?;
        drop_capabilities().map_err(capabilities)?;
    }
    // Nobody may look into this process, its descriptors and its environment.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(capabilities)?;
    if let (Some(text), Some(home)) = (&plan.cargo, plan.environment.get("CARGO_HOME")) {
        configure_cargo(Path::new(home), text).map_err(|e| Failure::new(Stage::Egress, "cargo's configuration", e))?;
    }
    // Where there are namespaces that was done before they were made.
    if plan.tier == Tier::Landlock { hand_over(plan) } else { Ok(()) }
}

/// Cargo takes a mirror from a file alone. An earlier command may have left links in its home: none is followed, and no file replaced.
fn configure_cargo(home: &Path, text: &str) -> io::Result<()> {
    match std::fs::create_dir(home) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ if !std::fs::symlink_metadata(home)?.is_dir() => return Ok(()),
        _ => {}
    }
    match std::fs::File::create_new(home.join("config.toml")) {
        Ok(mut file) => file.write_all(text.as_bytes()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Kills every descendant of the supervisor, also those that are being born meanwhile, and waits until none is left.
fn sweep(supervisor: i32) -> io::Result<()> {
    let give_up = Instant::now() + SWEEP;
    loop {
        // First who has ended already: mostly that is all of them.
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::CHILD) => return Ok(()),
                Ok(None) => break,
                Err(error) => return Err(error.into()),
            }
        }
        if Instant::now() > give_up {
            return Err(io::Error::other("some processes do not end"));
        }
        for pid in watch::living(supervisor)?.into_keys().filter_map(Pid::from_raw) {
            match rustix::process::kill_process(pid, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
