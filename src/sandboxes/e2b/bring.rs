//! What has to travel so that the code in a sandbox is that of a tree. Pure, but for the archive.
//!
//! Commands write to the code, so nothing in a sandbox that had one is believed: before it is used again every file of the tree is
//! compared with what was written there, and what differs is written anew. What is not of the tree (build output) stays.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::domain::code::TreeId;
use crate::ports::sandbox::Files;

use super::archive::{Archive, list, packed};
use super::recipe::Listing;

/// What the sandbox's file system knows of each file that was written: by name, as it was printed.
pub(super) type Seen = HashMap<Vec<u8>, Vec<u8>>;

/// What differs between what is inside and what should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// Files of the tree that are written.
    pub write: Vec<PathBuf>,
    /// What is no file of the tree any more.
    pub gone: Vec<PathBuf>,
}

impl Change {
    /// From the files of one tree to those of another; `spoiled` says of a file that is in both and the same whether a command has
    /// changed it.
    pub(super) fn between(from: &Listing, to: &Listing, spoiled: impl Fn(&Path) -> bool) -> Self {
        let gone = from.keys().filter(|path| !to.contains_key(*path)).cloned().collect();
        let write = to.iter().filter(|(path, content)| from.get(*path) != Some(content) || spoiled(path));
        Self { write: write.map(|(path, _)| path.clone()).collect(), gone }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.write.is_empty() && self.gone.is_empty()
    }

    /// All folders above what changes, the outer ones first.
    fn folders(&self) -> BTreeSet<PathBuf> {
        self.write.iter().chain(&self.gone).flat_map(|path| above(path)).map(Path::to_owned).collect()
    }

    /// Folders in which the tree has no file any more, the inner ones first.
    fn empty(&self, to: &Listing) -> Vec<PathBuf> {
        let mut left: BTreeSet<&Path> = self.gone.iter().flat_map(|path| above(path)).collect();
        left.retain(|folder| {
            // What is below a folder follows it in the order of paths.
            let from = (std::ops::Bound::Excluded(*folder), std::ops::Bound::Unbounded);
            let next = to.range::<Path, _>(from).next();
            next.is_none_or(|(path, _)| !path.starts_with(folder))
        });
        left.into_iter().rev().map(Path::to_owned).collect()
    }

    /// The archive that `scripts::BRING` takes. `scratch` is an empty folder; `far`: it travels further than this machine. Blocking.
    pub(super) fn archive(
        &self,
        files: &dyn Files,
        tree: &TreeId,
        to: &Listing,
        scratch: &Path,
        far: bool,
    ) -> Result<Vec<u8>, String> {
        let said = |error: std::io::Error| error.to_string();
        if self.write.len() == to.len() {
            files.write(tree, scratch)?;
        } else if !self.write.is_empty() {
            files.put(tree, &self.write, scratch)?;
        }
        let mut inner = Archive::default();
        inner.folder(scratch, "").map_err(said)?;
        let mut inner = inner.finish();
        if far {
            inner = packed(&inner).map_err(said)?;
        }
        let mut archive = Archive::default();
        let lists = [
            ("folders", list(&self.folders())),
            ("clear", list(self.gone.iter().chain(&self.write))),
            ("empty", list(&self.empty(to))),
            ("paths", list(to.keys())),
            ("tree.tar", inner),
        ];
        for (name, content) in lists {
            archive.file(name, &content).map_err(said)?;
        }
        Ok(archive.finish())
    }
}

/// The folders above a path, the innermost first, without the root.
fn above(path: &Path) -> impl Iterator<Item = &Path> {
    path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty())
}

/// The archive from which a template gets its tree: the files, and the list of them that stays in the template. `scratch` is an empty
/// folder. Blocking.
pub(super) fn of_template(
    files: &dyn Files,
    tree: &TreeId,
    tracked: &Listing,
    scratch: &Path,
) -> Result<Vec<u8>, String> {
    let said = |error: std::io::Error| error.to_string();
    files.write(tree, scratch)?;
    let mut archive = Archive::default();
    archive.file("tracked", &written(tracked)).map_err(said)?;
    archive.empty_folder("tree").map_err(said)?;
    archive.folder(scratch, "tree").map_err(said)?;
    Ok(archive.finish())
}

/// A list of files with what names their content, as it lies in templates.
pub(super) fn written(tracked: &Listing) -> Vec<u8> {
    let mut text = Vec::new();
    for (path, content) in tracked {
        text.extend_from_slice(path.as_os_str().as_bytes());
        text.push(0);
        text.extend_from_slice(content.as_bytes());
        text.push(0);
    }
    text
}

/// The opposite of [`written`].
pub(super) fn tracked_of(text: &[u8]) -> Listing {
    let mut fields = text.split(|byte| *byte == 0);
    let mut listing = BTreeMap::new();
    while let (Some(path), Some(content)) = (fields.next(), fields.next()) {
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(path));
        listing.insert(path, String::from_utf8_lossy(content).into_owned());
    }
    listing
}

/// What `scripts::LOOK` prints, line by line: inode, mode, size, two times of three words each, and the name. A name with a line break
/// in it is not found here, so its file counts as changed.
pub(super) fn seen(output: &[u8]) -> Seen {
    let line = |line: &[u8]| {
        let mut blanks = line.iter().enumerate().filter(|(_, byte)| **byte == b' ').map(|(at, _)| at);
        let at = blanks.nth(8)?;
        Some((line.get(at + 1..)?.to_vec(), line.get(..at)?.to_vec()))
    };
    output.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// Whether a command has touched a file since it was written: in what way does not matter, and it cannot be undone, for nobody can
/// set the time of the last change.
pub(super) fn spoiled(path: &Path, before: &Seen, now: &Seen) -> bool {
    let name = path.as_os_str().as_bytes();
    match (before.get(name), now.get(name)) {
        (Some(before), Some(now)) => before != now,
        // What is no file in a sandbox (another repository) was none before.
        (None, None) => name.contains(&b'\n'),
        _ => true,
    }
}
