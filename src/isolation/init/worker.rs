//! The worker for files: a copy of the first process, confined as every other, that reads and writes files for the daemon.
//!
//! It is in nobody's domain, so that what runs inside can neither signal nor read it. It becomes no program, since in the tiers
//! with a file system of their own there is none of ours inside that it could become.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use super::super::{files, sys, wire};
use super::confine::Confinement;

/// Its whole life. `descriptors`: its map in a memory file, where it reads, where it writes, and what it complains to.
pub(super) fn run(confinement: &Confinement, descriptors: Vec<OwnedFd>) -> i32 {
    let Ok(null) = File::open("/dev/null") else { return 1 };
    if rustix::process::setsid().is_err() || confinement.put_on().is_err() || confinement.no_more_processes().is_err() {
        return 1;
    }
    let kept: Vec<_> = descriptors.iter().map(AsFd::as_fd).chain([null.as_fd()]).collect();
    if sys::keep_only(&kept, null.as_fd()).is_err() {
        return 1;
    }
    drop(kept);
    let Ok([map, input, output, _complaints]) = <[OwnedFd; 4]>::try_from(descriptors) else { return 1 };
    let Ok(map) = wire::read_memory(map) else { return 1 };
    // The daemon sees the end of the answers.
    i32::from(files::work(File::from(input), File::from(output), &map).is_err())
}
