//! Becoming a user of one's own, where the helper begins as root: what processes write is handed over to it, what it could not reach is
//! put where it can, and then root is left for good.
//!
//! Runs in the helper, before namespaces are made or `bwrap` is started, so that both work as they do for any ordinary user.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::process::DumpableBehavior;

use super::helper::Failure;
use super::plan::{Plan, everybody_reaches};
use super::sys;
use super::tier::Tier;
use super::wire::Stage;

/// Makes the plan's user the owner of what processes write to.
pub(super) fn hand_over(plan: &Plan) -> Result<(), Failure> {
    let failed = |error| Failure::new(Stage::Ownership, "handing over what is written to", error);
    let Some(user) = plan.user else { return Ok(()) };
    plan.handed_over.iter().try_for_each(|root| hand_over_below(root, user)).map_err(failed)
}

/// Makes `user` the owner of everything below `root`. Files with several names stay as they are: another name may be in a
/// repository that the command has no business with.
fn hand_over_below(root: &Path, user: u32) -> io::Result<()> {
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let found = std::fs::symlink_metadata(&path)?;
        if found.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                open.push(entry?.path());
            }
        } else if found.nlink() > 1 {
            continue;
        }
        if found.uid() != user {
            std::os::unix::fs::lchown(&path, Some(user), Some(user))?;
        }
    }
    Ok(())
}

/// Puts what the user could not reach where it can, in mounts that nobody else sees. Answers where `own`, this program, is then.
pub(super) fn stage(plan: &Plan, own: PathBuf) -> Result<PathBuf, Failure> {
    let failed = |error: io::Error| Failure::new(Stage::Mounts, "what only root can reach", error);
    // The other tier starts it by its descriptor.
    let hidden = plan.tier == Tier::Bubblewrap && !everybody_reaches(&own);
    let (Some(stage), true) = (&plan.stage, plan.user.is_some() && (hidden || !plan.staged.is_empty())) else {
        return Ok(own);
    };
    let put = || {
        sys::unshare_mounts()?;
        rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
        rustix::mount::mount("tmpfs", stage, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"size=1m,mode=0755")?;
        for (from, at) in &plan.staged {
            bind(from, at)?;
        }
        let at = stage.join("helper");
        if hidden {
            bind(&own, &at)?;
        }
        io::Result::Ok(if hidden { at } else { own.clone() })
    };
    put().map_err(failed)
}

fn bind(from: &Path, at: &Path) -> io::Result<()> {
    if from.is_dir() {
        std::fs::create_dir(at)?;
    } else {
        std::fs::File::create_new(at)?;
    }
    Ok(rustix::mount::mount_bind_recursive(from, at)?)
}

/// Leaves root for good: no other identity and no capability is left.
pub(super) fn become_user(user: u32) -> rustix::io::Result<()> {
    let (uid, gid) = (rustix::process::Uid::from_raw(user), rustix::process::Gid::from_raw(user));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

/// The same for a process that goes on to make namespaces: it must be able to write its own maps.
pub(super) fn begin_as(user: u32) -> Result<(), Failure> {
    let failed = |error: rustix::io::Errno| Failure::new(Stage::Ownership, "becoming the sandbox's user", error);
    become_user(user).map_err(failed)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable).map_err(failed)
}
