//! The file system of a sandbox, made by ourselves: the counterpart of `bwrap`'s arguments.
//!
//! Runs in the helper as the first process of its namespaces, with capabilities over them and none outside.

use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::helper::Failure;
use super::plan::{Mount, Plan};
use super::sys;
use super::wire::Stage;

const OLD: &str = "/old";
const NEW: &str = "/new";
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Builds the tree of `plan` and makes it the root. What was there before is out of reach afterwards.
pub(super) fn build(plan: &Plan) -> Result<(), Failure> {
    let at = |what: &'static str| move |error: io::Error| Failure::new(Stage::Mounts, what, error);
    into_an_empty_root().map_err(at("an empty root"))?;
    for mount in &plan.mounts {
        one(mount).map_err(|error| {
            let stage = if *mount == Mount::Proc { Stage::Proc } else { Stage::Mounts };
            Failure::new(stage, &format!("{mount:?}"), error)
        })?;
    }
    // One namespace of users is enough; the filter refuses further ones too.
    let knob = inside(Path::new("/proc/sys/user/max_user_namespaces"));
    // The kernel's root could write to these whatever its capabilities, so they are frozen after the last write of ours.
    std::fs::write(&knob, "0").map_err(at("no further user namespaces"))?;
    for mount in &plan.mounts {
        if let Mount::Freeze { at: path } = mount
            && inside(path).exists()
        {
            bind(&inside(path), &inside(path), false, false).map_err(at("a read-only part of /proc"))?;
        }
    }
    leave_the_old_root().map_err(at("leaving the host's root"))
}

/// A tmpfs as root, with the host's root below `/old`.
fn into_an_empty_root() -> io::Result<()> {
    rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    // Any directory that exists will do: the mount covers it for a moment, in this namespace alone.
    tmpfs(Path::new("/proc"), 1 << 20, "0755")?;
    std::fs::create_dir("/proc/old")?;
    std::fs::create_dir("/proc/new")?;
    rustix::process::pivot_root("/proc", "/proc/old")?;
    std::env::set_current_dir("/")?;
    tmpfs(Path::new(NEW), 16 << 20, "0755")
}

fn leave_the_old_root() -> io::Result<()> {
    std::env::set_current_dir(NEW)?;
    rustix::mount::unmount(OLD, UnmountFlags::DETACH)?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    std::env::set_current_dir("/")?;
    let read_only = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount_remount("/", read_only, c"")?;
    Ok(())
}

fn one(mount: &Mount) -> io::Result<()> {
    match mount {
        Mount::Tmpfs { at, size_bytes } => {
            std::fs::create_dir_all(inside(at))?;
            tmpfs(&inside(at), *size_bytes, "0755")
        }
        Mount::Proc => {
            let at = inside(Path::new("/proc"));
            std::fs::create_dir_all(&at)?;
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            Ok(rustix::mount::mount("proc", &at, "proc", flags, None)?)
        }
        Mount::Dev { size_bytes } => devices(*size_bytes),
        Mount::Link { at, target } => {
            parent(&inside(at))?;
            std::os::unix::fs::symlink(target, inside(at))
        }
        Mount::Read { host, at } => bind(&outside(host), &inside(at), false, false),
        Mount::Write { host, at } => bind(&outside(host), &inside(at), true, false),
        Mount::Mask { at } => bind(&outside(Path::new("/dev/null")), &inside(at), false, true),
        Mount::Freeze { .. } => Ok(()),
    }
}

fn devices(size_bytes: u64) -> io::Result<()> {
    let dev = inside(Path::new("/dev"));
    std::fs::create_dir_all(&dev)?;
    tmpfs(&dev, 1 << 20, "0755")?;
    for name in DEVICES {
        bind(&outside(&Path::new("/dev").join(name)), &dev.join(name), true, true)?;
    }
    for (name, target) in
        [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"), ("ptmx", "pts/ptmx")]
    {
        std::os::unix::fs::symlink(target, dev.join(name))?;
    }
    std::fs::create_dir(dev.join("shm"))?;
    tmpfs(&dev.join("shm"), size_bytes, "1777")?;
    std::fs::create_dir(dev.join("pts"))?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    rustix::mount::mount("devpts", dev.join("pts"), "devpts", flags, c"newinstance,ptmxmode=0666,mode=620")?;
    Ok(())
}

/// Shows `from` at `to`, with everything mounted below it.
fn bind(from: &Path, to: &Path, write: bool, devices: bool) -> io::Result<()> {
    if from != to && !to.exists() {
        if from.is_dir() {
            std::fs::create_dir_all(to)?;
        } else {
            parent(to)?;
            std::fs::File::create(to)?;
        }
    }
    rustix::mount::mount_bind_recursive(from, to)?;
    sys::restrict_mount(to, write, devices)
}

fn tmpfs(at: &Path, size_bytes: u64, mode: &str) -> io::Result<()> {
    let options = CString::new(format!("size={size_bytes},mode={mode}"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    Ok(rustix::mount::mount("tmpfs", at, "tmpfs", flags, options.as_c_str())?)
}

fn parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), std::fs::create_dir_all)
}

fn inside(path: &Path) -> PathBuf {
    Path::new(NEW).join(path.strip_prefix("/").unwrap_or(path))
}

fn outside(path: &Path) -> PathBuf {
    Path::new(OLD).join(path.strip_prefix("/").unwrap_or(path))
}
