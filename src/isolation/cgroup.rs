//! Limits by the kernel, where a cgroup (version 2) is delegated to the daemon: memory and processes of a whole sandbox.
//!
//! systemd delegates with `Delegate=memory pids`. Nothing is taken that was not given: the group must be writable and hold
//! no processes but the daemon's own. Where that is not so the sandbox is watched instead, and `doctor` says why.

use std::io;
use std::path::{Path, PathBuf};

use super::spec::Limits;

const NEEDED: [&str; 2] = ["memory", "pids"];

/// The daemon's own group, under which every sandbox gets one.
#[derive(Clone, Debug)]
pub(super) struct Delegated {
    root: PathBuf,
}

impl Delegated {
    /// Looks for it on this machine. The error says why there is none.
    pub(super) fn find() -> Result<Self, String> {
        let read = |path: &str| std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
        let mounted = mount_point(&read("/proc/self/mountinfo")?).ok_or("cgroup version 2 is not mounted")?;
        let memberships = read("/proc/self/cgroup")?;
        let own = memberships.lines().find_map(|line| line.strip_prefix("0::/")).ok_or("no cgroup of version 2")?;
        // Where it has moved itself to before.
        let own = own.strip_suffix("/daemon").unwrap_or(own);
        Self::prepare(&mounted.join(own), std::process::id())
    }

    /// Makes the group `own` fit to hold others. Moves `daemon` into a group below it, as a group with children may hold no processes.
    fn prepare(own: &Path, daemon: u32) -> Result<Self, String> {
        let read = |name: &str| std::fs::read_to_string(own.join(name)).map_err(|e| format!("{}: {e}", own.display()));
        let offered = read("cgroup.controllers")?;
        let has = |list: &str, name: &str| list.split_ascii_whitespace().any(|have| have == name);
        if let Some(missing) = NEEDED.iter().find(|name| !has(&offered, name)) {
            return Err(format!("the controller `{missing}` is not delegated to {}", own.display()));
        }
        let enabled = read("cgroup.subtree_control")?;
        if !NEEDED.iter().all(|name| has(&enabled, name)) {
            let inside = read("cgroup.procs")?;
            if inside.lines().any(|pid| pid != daemon.to_string()) {
                return Err(format!("{} holds other processes than the daemon", own.display()));
            }
            let give_way = || {
                let leaf = own.join("daemon");
                make(&leaf)?;
                std::fs::write(leaf.join("cgroup.procs"), daemon.to_string())?;
                std::fs::write(own.join("cgroup.subtree_control"), "+memory +pids")
            };
            give_way().map_err(|error: io::Error| format!("{} is not delegated: {error}", own.display()))?;
        }
        Ok(Self { root: own.to_owned() })
    }

    /// A group for one sandbox, with its limits.
    ///
    /// `whole`: when memory runs out everything in it is ended, and not the largest process alone.
    pub(super) fn group(&self, name: &str, limits: &Limits, whole: bool) -> io::Result<Group> {
        let path = self.root.join(name);
        make(&path)?;
        let group = Group { path };
        group.write("memory.max", &limits.memory_bytes.to_string())?;
        group.write("memory.oom.group", if whole { "1" } else { "0" })?;
        // The supervisor and what stands around it count as well.
        group.write("pids.max", &(limits.processes + 8).to_string())?;
        match group.write("memory.swap.max", "0") {
            // A kernel without swap has no such file.
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(group),
        }
    }
}

fn make(path: &Path) -> io::Result<()> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Where version 2 is mounted: field 5 of the line whose type is `cgroup2`.
fn mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        right.starts_with("cgroup2 ").then(|| left.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// The group of one sandbox. Dropping it removes it, once it is empty.
#[derive(Debug)]
pub(super) struct Group {
    path: PathBuf,
}

impl Group {
    fn write(&self, name: &str, value: &str) -> io::Result<()> {
        let file = std::fs::OpenOptions::new().write(true).open(self.path.join(name));
        io::Write::write_all(&mut file?, value.as_bytes())
    }

    /// Puts a process in, and with it all that it will start.
    pub(super) fn add(&self, pid: u32) -> io::Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Kills everything that is in it.
    pub(super) fn kill(&self) -> io::Result<()> {
        self.write("cgroup.kill", "1")
    }

    /// How many processes in it the kernel has ended for want of memory.
    pub(super) fn deaths_by_memory(&self) -> u64 {
        let events = std::fs::read_to_string(self.path.join("memory.events")).unwrap_or_default();
        let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir(&self.path) {
            tracing::warn!(%error, group = %self.path.display(), "an empty cgroup stays behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake(controllers: &str, processes: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in
            [("cgroup.controllers", controllers), ("cgroup.procs", processes), ("cgroup.subtree_control", "")]
        {
            std::fs::write(root.path().join(name), text).unwrap();
        }
        root
    }

    #[test]
    fn takes_only_what_is_delegated_to_the_daemon_alone() {
        let given = fake("cpu memory pids\n", "77\n");
        let delegated = Delegated::prepare(given.path(), 77).unwrap();
        assert_eq!(std::fs::read_to_string(given.path().join("cgroup.subtree_control")).unwrap(), "+memory +pids");
        assert_eq!(std::fs::read_to_string(given.path().join("daemon/cgroup.procs")).unwrap(), "77");
        // The kernel makes the files of a new group; without them there are no limits, and that is an error.
        assert!(delegated.group("run-1", &Limits::default(), true).is_err());

        let shared = fake("memory pids\n", "77\n78\n");
        assert!(Delegated::prepare(shared.path(), 77).unwrap_err().contains("other processes"));
        let part = fake("memory\n", "77\n");
        assert!(Delegated::prepare(part.path(), 77).unwrap_err().contains("`pids`"));
    }

    #[test]
    fn finds_version_two_beside_version_one() {
        let mounts = "36 25 0:31 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                      37 25 0:32 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(mounts), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_point("36 25 0:31 / /sys rw - sysfs sysfs rw\n"), None);
    }
}
