//! The self-test: each tier runs a small command that tries to read and write what it must not. What passes can be used; what does not
//! is reported with the reason and with what to do about it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::spec::Spec;
use super::tier::{Check, Machine, Tier, Unavailable};
use super::wire::Stage;
use super::{Error, Isolation, ruleset};

/// Where a distribution puts `bwrap`. Never `PATH`, never the current directory.
const BUBBLEWRAP: [&str; 4] =
    ["/usr/bin/bwrap", "/usr/local/bin/bwrap", "/bin/bwrap", "/run/current-system/sw/bin/bwrap"];

/// `bwrap`, if the system has one that only root can have put there.
pub(super) fn bubblewrap() -> Option<PathBuf> {
    BUBBLEWRAP.iter().map(PathBuf::from).find(|path| {
        let roots = |found: std::fs::Metadata| found.is_file() && found.uid() == 0 && found.mode() & 0o022 == 0;
        std::fs::metadata(path).is_ok_and(roots)
    })
}

/// Tries every tier. Answers also in which of them a sandbox has a user of its own on this machine.
pub(super) async fn check_all(isolation: &Isolation) -> Result<(Vec<Check>, Vec<Tier>), Error> {
    let (mut checks, mut own_user) = (Vec::new(), Vec::new());
    for tier in Tier::ALL {
        if isolation.machine().root {
            let result = check(isolation, tier, true).await?;
            // The last tier has no other way.
            if result.is_ok() || tier == Tier::Landlock {
                own_user.push(tier);
                checks.push(Check { tier, result });
                continue;
            }
        }
        checks.push(Check { tier, result: check(isolation, tier, false).await? });
    }
    Ok((checks, own_user))
}

async fn check(isolation: &Isolation, tier: Tier, own_user: bool) -> Result<Result<(), Unavailable>, Error> {
    let missing = |reason: &str, fix: &str| Ok(Err(Unavailable { reason: reason.into(), fix: fix.into() }));
    let machine = isolation.machine();
    if tier == Tier::Bubblewrap && isolation.bubblewrap().is_none() {
        return missing(
            "bubblewrap is not installed, or not by root",
            "install it: `apt install bubblewrap`, `dnf install bubblewrap` or `apk add bubblewrap`",
        );
    }
    if tier == Tier::Landlock && machine.landlock_abi < ruleset::LEAST_ALONE {
        let reason = match machine.landlock_abi {
            0 => "the kernel has no Landlock, or it is switched off".to_owned(),
            abi => format!("the kernel's Landlock is too old (ABI {abi}, needed is {})", ruleset::LEAST_ALONE),
        };
        return missing(&reason, "Linux 6.2 or later, with `landlock` among the kernel parameter `lsm=`");
    }

    let directory = isolation.state().join("self-test").join(tier.name());
    let place = |source| Error::State { path: directory.clone(), source };
    let (work, canary) = (directory.join("work"), directory.join("canary"));
    std::fs::create_dir_all(&work).map_err(place)?;
    std::fs::write(&canary, "to be seen by nobody\n").map_err(place)?;
    let user = if own_user { isolation.shared.users.take() } else { None };
    let answer = isolation.start_in(tier, probe(&work, &canary), user).await;
    let answer = match answer {
        Ok(running) => running.wait().await,
        Err(error) => Err(error),
    };
    std::fs::remove_dir_all(&directory).map_err(place)?;
    Ok(match answer {
        Ok(finished) if finished.succeeded() && finished.stdout.head == b"confined\n" => Ok(()),
        Ok(finished) => Err(Unavailable {
            reason: match finished.exit {
                Some(40) => "the self-test could read a file of the host".into(),
                Some(41) => "the self-test could write outside of its work directory".into(),
                Some(42) => "the self-test could not write into its work directory".into(),
                _ => format!("the self-test ended unexpectedly: {}", finished.stderr.text().trim()),
            },
            fix: match finished.exit {
                Some(42) => {
                    "the state directory must be reachable for the sandbox's user: choose one outside of /root".into()
                }
                _ => "please report this, with the output of `doctor`".into(),
            },
        }),
        Err(error) => Err(explain(tier, &error, machine)),
    })
}

/// Reads and writes beside its work directory, then inside.
fn probe(work: &Path, canary: &Path) -> Spec {
    let script = "cat \"$1\" 2>/dev/null && exit 40; (echo x >\"$1.new\") 2>/dev/null && exit 41; \
                  (echo x >made) 2>/dev/null && test -s made || exit 42; echo confined";
    let canary = canary.display().to_string();
    let mut spec = Spec::argv(&["/bin/sh", "-c", script, "sh", &canary], work);
    spec.limits.wall = std::time::Duration::from_secs(20);
    spec
}

/// What stands in the way and how to remove it, from where the set-up failed and what the machine says about itself.
fn explain(tier: Tier, error: &Error, machine: &Machine) -> Unavailable {
    let reason = {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(inner) = source {
            text = format!("{text}: {inner}");
            source = inner.source();
        }
        text
    };
    let says = |path: &str, value: &str| std::fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
    let namespaces = matches!(
        error,
        Error::Setup {
            stage: Stage::Bubblewrap | Stage::Namespaces | Stage::UserMap | Stage::Mounts | Stage::Capabilities,
            ..
        }
    );
    let about_proc = matches!(error, Error::Setup { stage: Stage::Proc, .. })
        || matches!(error, Error::Setup { stage: Stage::Bubblewrap, message, .. } if message.contains("proc"));
    let contained = ["/.dockerenv", "/run/.containerenv"].iter().any(|path| Path::new(path).exists());
    let unreachable =
        matches!(error, Error::Work { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied);
    let fix = if unreachable {
        "choose a state directory that everybody can enter (not below /root), or run as an ordinary user".to_owned()
    } else if says("/proc/sys/user/max_user_namespaces", "0") {
        "`sysctl user.max_user_namespaces=10000`: user namespaces are switched off".to_owned()
    } else if matches!(error, Error::Setup { stage: Stage::Ownership, .. }) {
        "run it as an ordinary user: root without its capabilities cannot give commands a user of their own".to_owned()
    } else if matches!(error, Error::Setup { errno: Some(libc::ENOSPC), .. }) {
        "a larger `user.max_user_namespaces` here, or fewer layers of sandboxes around this one".to_owned()
    } else if says("/proc/sys/kernel/unprivileged_userns_clone", "0") && !machine.root {
        "`sysctl kernel.unprivileged_userns_clone=1`: user namespaces are kept for root".to_owned()
    } else if namespaces && says("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") && !machine.root {
        match tier {
            Tier::Bubblewrap => {
                "an AppArmor profile that lets bwrap use user namespaces (Ubuntu: install `apparmor-profiles` and \
                                 load `bwrap-userns-restrict`)"
                    .to_owned()
            }
            _ => "install bubblewrap and its AppArmor profile: this system keeps user namespaces for profiled programs"
                .to_owned(),
        }
    } else if about_proc {
        "a `/proc` that is not covered: in a systemd unit leave out ProtectKernelTunables=, ProtectKernelLogs= and ProcSubset=, in a \
         container unmask /proc (`--security-opt systempaths=unconfined`)"
            .to_owned()
    } else if namespaces && contained {
        "a container that may make namespaces (`--security-opt seccomp=unconfined --security-opt apparmor=unconfined`), or run \
         `nightcrew sandboxd` outside of it"
            .to_owned()
    } else if namespaces {
        "let the service make namespaces: leave out RestrictNamespaces=, PrivateUsers= and `~@mount` in SystemCallFilter=".to_owned()
    } else {
        "see the reason".to_owned()
    };
    Unavailable { reason, fix }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_covered_proc_is_explained_by_what_covers_it() {
        let error = |stage, message: &str| Error::Setup {
            tier: Tier::Namespaces,
            stage,
            message: message.into(),
            errno: Some(1),
        };
        let machine = Machine { landlock_abi: 7, root: false };
        let told = explain(Tier::Namespaces, &error(Stage::Proc, "Proc: Operation not permitted"), &machine);
        assert!(told.reason.contains("Operation not permitted"), "{told:?}");
        // Unless the machine has a more general reason.
        assert!(told.fix.contains("ProtectKernelTunables") || told.fix.contains("sysctl"), "{told:?}");
    }
}
