//! What is told of one entry.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::paths::Map;
use super::wire::{Entry, Kind, Time};

/// Where E2B keeps what users say of a file; other extended attributes are not told.
const METADATA: &str = "user.e2b.";

/// Looks at an entry, not through it. `said` is how the client calls it.
pub(super) fn entry(path: &Path, said: String, map: &Map) -> io::Result<Entry> {
    let (found, target) = look(path, map)?;
    let (mut kind, mut mode) = (kind(&found), found.mode() & 0o777);
    if target.is_some()
        && let Ok(behind) = std::fs::metadata(path)
    {
        (kind, mode) = (self::kind(&behind), behind.mode() & 0o777);
    }
    let name = path.file_name().map_or_else(|| "/".into(), |name| name.to_string_lossy().into_owned());
    let metadata = if found.is_file() || found.is_dir() { metadata(path) } else { BTreeMap::new() };
    Ok(Entry {
        name,
        path: said,
        kind,
        target,
        size: found.len(),
        mode,
        permissions: permissions(&found),
        owner: owner(found.uid(), rustix::process::geteuid().as_raw(), "nobody"),
        group: owner(found.gid(), rustix::process::getegid().as_raw(), "nogroup"),
        modified: modified(&found),
        metadata,
    })
}

/// An entry, and where it leads to if it is a link.
fn look(path: &Path, map: &Map) -> io::Result<(Metadata, Option<String>)> {
    // Somebody may make a link of it, or something else of the link, between two questions; not for ever, or it is as good as gone.
    for _ in 0..20 {
        let found = std::fs::symlink_metadata(path)?;
        if !found.is_symlink() {
            return Ok((found, None));
        }
        let target = match path.canonicalize() {
            Ok(real) => Ok(map.said(&real)),
            Err(_) => std::fs::read_link(path).map(|target| target.to_string_lossy().into_owned()),
        };
        match target {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            target => return Ok((found, Some(target?))),
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

pub(super) fn modified(found: &Metadata) -> Time {
    Time { seconds: found.mtime(), nanoseconds: u32::try_from(found.mtime_nsec()).unwrap_or_default() }
}

fn kind(found: &Metadata) -> Kind {
    match found.file_type() {
        kind if kind.is_file() => Kind::File,
        kind if kind.is_dir() => Kind::Directory,
        kind if kind.is_symlink() => Kind::Symlink,
        _ => Kind::Other,
    }
}

/// Whoever runs the sandbox is called `user` in it, whatever the number.
fn owner(number: u32, own: u32, nobody: &str) -> String {
    match number {
        _ if number == own => "user".into(),
        0 => "root".into(),
        65_534 => nobody.into(),
        _ => number.to_string(),
    }
}

/// As Go's `FileMode` prints itself.
fn permissions(found: &Metadata) -> String {
    let (kind, mode) = (found.file_type(), found.mode());
    let flags = [
        (kind.is_dir(), 'd'),
        (kind.is_symlink(), 'L'),
        (kind.is_block_device() || kind.is_char_device(), 'D'),
        (kind.is_fifo(), 'p'),
        (kind.is_socket(), 'S'),
        (mode & libc::S_ISUID != 0, 'u'),
        (mode & libc::S_ISGID != 0, 'g'),
        (kind.is_char_device(), 'c'),
        (mode & libc::S_ISVTX != 0, 't'),
    ];
    let mut text: String = flags.iter().filter(|(is, _)| *is).map(|(_, letter)| *letter).collect();
    if text.is_empty() {
        text.push('-');
    }
    text.extend("rwxrwxrwx".chars().zip((0..9).rev()).map(|(letter, bit)| match mode >> bit & 1 {
        0 => '-',
        _ => letter,
    }));
    text
}

fn metadata(path: &Path) -> BTreeMap<String, String> {
    /// What the kernel gives at the most.
    const MOST: usize = 64 << 10;
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return BTreeMap::new() };
    // Most files have none, and to ask for the length is the cheaper question.
    let Ok(1..) = rustix::fs::llistxattr_query(&*path) else { return BTreeMap::new() };
    let mut names = vec![0; MOST];
    let Ok(length) = rustix::fs::llistxattr(&*path, &mut *names) else { return BTreeMap::new() };
    let names = names.get(..length).unwrap_or_default().split(|byte| *byte == 0);
    let mut value = vec![0; MOST];
    let pairs = names.filter_map(|name| {
        let name = std::str::from_utf8(name).ok()?;
        let key = name.strip_prefix(METADATA)?;
        let length = rustix::fs::lgetxattr(&*path, name, &mut *value).ok()?;
        Some((key.to_owned(), std::str::from_utf8(value.get(..length)?).ok()?.to_owned()))
    });
    let mut left = MOST / 4;
    // Anybody inside may have set them; a header of an answer is no place for a megabyte.
    pairs
        .take_while(|(key, value)| {
            left = left.saturating_sub(key.len() + value.len());
            left > 0
        })
        .collect()
}

/// Gives a new file its metadata. A file system that keeps none is no failure: nothing is told of it afterwards.
pub(super) fn set_metadata(file: &File, metadata: &BTreeMap<String, String>) -> io::Result<()> {
    for (key, value) in metadata {
        match rustix::fs::fsetxattr(file, format!("{METADATA}{key}"), value.as_bytes(), XattrFlags::empty()) {
            Ok(()) => {}
            Err(Errno::NOTSUP | Errno::PERM | Errno::ACCESS | Errno::NOSYS) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
