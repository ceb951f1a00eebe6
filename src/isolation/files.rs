//! The file worker of a room: reads, writes, lists and watches files as a process of the room does.
//!
//! It runs inside, under the whole confinement and with one thread, so links and mounts are what they are inside and no path is ever
//! resolved on the host.

use std::fs::File;
use std::io;
use std::path::PathBuf;

/// How paths are to be read: (prefix as clients say it, prefix as this tier has it). Empty where they are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Map(pub Vec<(PathBuf, PathBuf)>);

/// Answers requests until `input` ends.
///
/// Errors: of the two ends alone; what happens to files goes into the answers.
pub(super) fn work(_input: File, _output: File, _map: &Map) -> io::Result<()> {
    Ok(())
}
