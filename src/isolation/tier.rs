//! The ways to confine a command, best first, and what the last of them does not block. Data; deciding is `detect`'s business.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// How a command is confined. Receipts name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Namespaces made by `bwrap`, and inside them Landlock and seccomp.
    Bubblewrap,
    /// Namespaces made by ourselves, and inside them Landlock and seccomp.
    Namespaces,
    /// Landlock and seccomp under a supervisor that kills every descendant. The host's file names stay visible: see [`Tier::gaps`].
    Landlock,
}

impl Tier {
    /// Best first.
    pub const ALL: [Self; 3] = [Self::Bubblewrap, Self::Namespaces, Self::Landlock];

    /// As receipts and `doctor` write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bubblewrap => "bubblewrap",
            Self::Namespaces => "namespaces",
            Self::Landlock => "landlock",
        }
    }

    /// Whether the command sees a file system of its own, with the work directory at `/work`.
    pub fn own_file_system(self) -> bool {
        match self {
            Self::Bubblewrap | Self::Namespaces => true,
            Self::Landlock => false,
        }
    }

    /// Where a command finds a directory of the host that was to appear at `inside`.
    pub fn shown_at<'a>(self, host: &'a Path, inside: &'a Path) -> &'a Path {
        if self.own_file_system() { inside } else { host }
    }

    /// What this tier does not block on this machine, as `doctor` and receipts list it. Empty for the first two.
    pub fn gaps(self, machine: &Machine) -> Vec<Gap> {
        match self {
            Self::Bubblewrap | Self::Namespaces => Vec::new(),
            Self::Landlock => Gap::ALL.into_iter().filter(|gap| gap.open_on(machine)).collect(),
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The facts about a machine that gaps depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Highest Landlock ABI that the kernel offers and we know; 0 for none.
    pub landlock_abi: i32,
    /// Whether the daemon is root, so that the last tier can give each command a user of its own.
    pub root: bool,
}

/// Something that the last tier leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gap {
    /// `stat`, `readlink` and `inotify` on host paths are not covered by Landlock; reading and listing are.
    HostNames,
    /// The host's name, its mounts and its process numbers can be seen (not what the processes hold).
    HostIdentity,
    /// Mode, times and extended attributes of files of the daemon's own user can be changed, wherever they are.
    OwnedMetadata,
    /// Processes of the daemon's own user can be sent signals, the daemon and the supervisor among them.
    Signals,
    /// No network at all, not even 127.0.0.1: tests that open a socket fail.
    NoLoopback,
    /// The limit on processes is shared with everything else that the daemon's user runs.
    SharedProcessLimit,
    /// The daemon is root, and so are its sandboxes outside of their namespaces: who broke out would be root. Any tier.
    RootOutside,
}

impl Gap {
    pub const ALL: [Self; 7] = [
        Self::HostNames,
        Self::HostIdentity,
        Self::OwnedMetadata,
        Self::Signals,
        Self::NoLoopback,
        Self::SharedProcessLimit,
        Self::RootOutside,
    ];

    fn open_on(self, machine: &Machine) -> bool {
        match self {
            Self::HostNames | Self::HostIdentity | Self::NoLoopback => true,
            // A user of its own owns nothing but the work directory.
            Self::OwnedMetadata | Self::SharedProcessLimit => !machine.root,
            Self::Signals => !machine.root && machine.landlock_abi < 6,
            // The self-test finds out.
            Self::RootOutside => false,
        }
    }

    /// One line for people.
    pub fn summary(self) -> &'static str {
        match self {
            Self::HostNames => {
                "names, sizes and times of host files can be seen (not their content, not directory listings)"
            }
            Self::HostIdentity => "the host's name, mounts and process numbers can be seen",
            Self::OwnedMetadata => "mode and times of files that the daemon's user owns can be changed",
            Self::Signals => "processes of the daemon's user can be sent signals",
            Self::NoLoopback => "no loopback network: tests that bind 127.0.0.1 fail",
            Self::SharedProcessLimit => "the limit on processes counts everything that the daemon's user runs",
            Self::RootOutside => {
                "a sandbox has no user of its own on this machine: the daemon is root, and who broke out would be as well"
            }
        }
    }
}

/// Why a tier cannot be used here, and what would make it usable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unavailable {
    pub reason: String,
    pub fix: String,
}

/// What the self-test found for one tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub tier: Tier,
    pub result: Result<(), Unavailable>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_tier_has_gaps_and_a_user_of_its_own_closes_some() {
        let machine = Machine { landlock_abi: 7, root: false };
        assert!(Tier::Bubblewrap.gaps(&machine).is_empty() && Tier::Namespaces.gaps(&machine).is_empty());
        let gaps = |landlock_abi, root| Tier::Landlock.gaps(&Machine { landlock_abi, root });
        assert!(gaps(7, false).contains(&Gap::OwnedMetadata) && !gaps(7, false).contains(&Gap::Signals));
        assert!(gaps(5, false).contains(&Gap::Signals));
        assert!(!gaps(3, true).contains(&Gap::Signals) && !gaps(7, true).contains(&Gap::OwnedMetadata));
    }
}
