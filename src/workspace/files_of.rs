//! What has to be sent elsewhere so that a tree that is known there becomes another one: changed paths and their contents.

use crate::domain::code::{BlobId, Mode, TreeId};

use super::git::{Act, Limits};
use super::objects::Kind;
use super::repository::{Repository, odd_id};
use super::tree::mode_of;
use super::{Error, RepoPath};

/// A file above this is not read for somebody else, in bytes.
const MOST_BYTES: u64 = 32 * 1024 * 1024;

/// A path whose content or mode differs: `Mode::Absent` and no blob where it is gone.
pub type Changed = (String, Mode, Option<BlobId>);

impl Repository {
    /// What turns `base` into `new`, by path; a rename is a removal and an addition.
    ///
    /// Errors: `Refused` for a path that is not UTF-8.
    pub fn changes(&self, base: &TreeId, new: &TreeId) -> Result<Vec<Changed>, Error> {
        let args = ["diff-tree", "-r", "--no-renames", "--raw", "-z", "--no-abbrev", base.as_str(), new.as_str()];
        let mut act = Act::new("listing what changed", self.folder(), args);
        act.limits = Limits { output: MOST_BYTES as usize, ..Limits::QUICK };
        let raw = self.git.output(act)?;
        let mut fields = raw.split(|byte| *byte == 0);
        let mut found = Vec::new();
        while let Some(head) = fields.next().filter(|head| !head.is_empty()) {
            let head = std::str::from_utf8(head).map_err(|_| odd_id())?;
            let words: Vec<&str> = head.split(' ').collect();
            let [_, mode, _, id, _] = words.as_slice() else { return Err(odd_id()) };
            let mode = mode_of(u32::from_str_radix(mode, 8).map_err(|_| odd_id())?);
            let path = String::from_utf8(fields.next().ok_or_else(odd_id)?.to_vec())
                .map_err(|_| Error::Refused("a path that is not UTF-8 cannot be sent".into()))?;
            let blob = match mode {
                Mode::Absent => None,
                _ => Some(id.parse().map_err(|_| odd_id())?),
            };
            found.push((path, mode, blob));
        }
        Ok(found)
    }

    /// The content of a file. Errors: `NotFound`, `TooLarge` above 32 MB.
    pub fn blob(&self, id: &BlobId) -> Result<Vec<u8>, Error> {
        self.objects.read(id.as_str(), Kind::Blob, MOST_BYTES)
    }

    /// A file of a tree; `None` when there is none of this name, or it is no file.
    pub fn file(&self, tree: &TreeId, path: &str) -> Result<Option<Vec<u8>>, Error> {
        RepoPath::parse(path)?;
        let args = ["ls-tree", "-z", "--full-tree", tree.as_str(), "--", path];
        let listed = self.git.output(Act::new("looking for a file", self.folder(), args))?;
        let head = listed.split(|byte| *byte == b'\t').next().unwrap_or_default();
        let words: Vec<&str> = std::str::from_utf8(head).map_err(|_| odd_id())?.split(' ').collect();
        match words.as_slice() {
            [mode, "blob", id] if mode.starts_with("100") => self.objects.read(id, Kind::Blob, MOST_BYTES).map(Some),
            _ => Ok(None),
        }
    }
}
