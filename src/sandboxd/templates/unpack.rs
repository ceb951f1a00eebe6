//! Archives become files: uploads of a `COPY`, and the layers of an image.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::archive::{Archive, Bounds, Entry, Kind, names, wrong};
use super::tree::Tree;

/// What was brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Brought {
    pub entries: u64,
    pub bytes: u64,
}

/// A `COPY`: what of the upload goes where.
#[derive(Clone, Debug)]
pub(super) struct Copy<'a> {
    /// As the client wrote it: a path, or a pattern.
    pub source: &'a str,
    /// Names from the tree's root on.
    pub target: &'a [OsString],
    /// The target is meant as a folder, also where the source is one file.
    pub into: bool,
    /// Permissions for all of it, instead of its own.
    pub mode: Option<u32>,
}

/// Reads an archive from end to end and writes nothing.
///
/// Errors: `InvalidData` with what is wrong with it.
pub(super) fn check(archive: &Path, bounds: Bounds) -> io::Result<Brought> {
    let mut brought = Brought::default();
    let mut archive = Archive::new(File::open(archive)?, bounds)?;
    while let Some(entry) = archive.next()? {
        if entry.kind == Kind::Special {
            return Err(special(&entry));
        }
        brought.count(&entry);
    }
    Ok(brought)
}

impl Brought {
    fn count(&mut self, entry: &Entry) {
        self.entries += 1;
        self.bytes += entry.size;
    }
}

/// Brings an upload into a tree: one file as the target, or into it; or what is in a folder into the target, over what is there.
///
/// Errors: `InvalidData` with what is wrong with the archive.
pub(super) fn copy(archive: &Path, copy: &Copy<'_>, tree: &mut Tree, bounds: Bounds) -> io::Result<Brought> {
    let exact = names(copy.source.trim_start_matches('/').as_bytes())?;
    let open = || Archive::new(File::open(archive)?, bounds);
    // The whole archive is read before anything of it is written.
    let (mut single, mut first) = (false, open()?);
    while let Some(entry) = first.next()? {
        if entry.kind == Kind::Special {
            return Err(special(&entry));
        }
        single |= !exact.is_empty() && entry.path == exact && entry.kind != Kind::Folder;
    }
    drop(first);
    let below = match single {
        true => exact.clone(),
        // As far as it is no pattern; the client has chosen by the rest.
        false => exact.iter().take_while(|name| !is_pattern(name)).cloned().collect(),
    };
    let mut target = copy.target.to_vec();
    if single {
        let folder = copy.into || target.is_empty() || tree.is_folder(&target)?;
        target.extend(exact.last().filter(|_| folder).cloned());
    } else {
        tree.ensure(&target)?;
    }
    let placed = |path: &[OsString]| path.strip_prefix(below.as_slice()).map(|rest| [target.as_slice(), rest].concat());
    let (mut brought, mut archive) = (Brought::default(), open()?);
    while let Some(entry) = archive.next()? {
        let Some(at) = placed(&entry.path) else { continue };
        brought.count(&entry);
        // The target's own permissions stay.
        if entry.kind != Kind::Folder || at.len() > target.len() {
            let mode = copy.mode.unwrap_or(entry.mode);
            place(tree, &mut archive, &entry, &at, mode, &placed)?;
        }
    }
    if brought.entries == 0 {
        return Err(wrong(format!("it has nothing that is called `{}`", copy.source.escape_debug())));
    }
    Ok(brought)
}

/// Brings a layer of an image over those below it. Devices and pipes are left out.
///
/// Errors: `InvalidData` with what is wrong with it.
pub(super) fn layer(archive: &Path, tree: &mut Tree, bounds: Bounds) -> io::Result<Brought> {
    let open = || Archive::new(File::open(archive)?, bounds);
    // What it takes away is of the layers below, wherever in the archive that stands.
    let mut first = open()?;
    while let Some(entry) = first.next()? {
        let Some((name, above)) = entry.path.split_last() else { continue };
        match whiteout(name) {
            Some(b".wh..opq") => tree.clear(above)?,
            Some(hidden) if !hidden.starts_with(b".wh.") && is_name(hidden) => {
                tree.remove(&[above, &[OsStr::from_bytes(hidden).to_owned()]].concat())?;
            }
            _ => {}
        }
    }
    drop(first);
    let (mut brought, mut archive) = (Brought::default(), open()?);
    while let Some(entry) = archive.next()? {
        if entry.path.last().is_some_and(|name| whiteout(name).is_some()) || entry.kind == Kind::Special {
            continue;
        }
        brought.count(&entry);
        place(tree, &mut archive, &entry, &entry.path, entry.mode, &|path| Some(path.to_vec()))?;
    }
    Ok(brought)
}

fn place<R: io::Read>(
    tree: &mut Tree,
    archive: &mut Archive<R>,
    entry: &Entry,
    at: &[OsString],
    mode: u32,
    placed: &dyn Fn(&[OsString]) -> Option<Vec<OsString>>,
) -> io::Result<()> {
    let done = match &entry.kind {
        Kind::File => tree.file(at, archive, mode, entry.modified),
        Kind::Folder => tree.folder(at, mode, entry.modified),
        Kind::Symlink(to) => tree.symlink(at, to, entry.modified),
        Kind::Hardlink(to) => match placed(to) {
            Some(to) => tree.hard_link(at, &to),
            None => Err(wrong("it leads to what is not copied")),
        },
        Kind::Special => Err(special(entry)),
    };
    done.map_err(|error| {
        let name: Vec<_> = entry.path.iter().map(|name| name.to_string_lossy()).collect();
        io::Error::new(error.kind(), format!("`{}`: {error}", name.join("/").escape_debug()))
    })
}

fn special(entry: &Entry) -> io::Error {
    let name: Vec<_> = entry.path.iter().map(|name| name.to_string_lossy()).collect();
    wrong(format!("`{}` is a device or a pipe", name.join("/").escape_debug()))
}

fn is_pattern(name: &OsStr) -> bool {
    name.as_bytes().iter().any(|byte| b"*?[{\\".contains(byte))
}

fn whiteout(name: &OsStr) -> Option<&[u8]> {
    name.as_bytes().strip_prefix(b".wh.")
}

fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".."
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
