//! From what a client calls a file to what this tier calls it, and back.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::wire::{Failure, Reason};

/// How paths are to be read: (prefix as clients say it, prefix as this tier has it). Empty where they are the same.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in crate::isolation) struct Map(pub Vec<(PathBuf, PathBuf)>);

impl Map {
    /// The path of an entry, which need not exist. Links on the way are left for the system to follow.
    pub(super) fn inside(&self, path: &str) -> Result<PathBuf, Failure> {
        if !path.starts_with('/') || path.contains('\0') {
            return Err(Failure::new(Reason::Invalid, format!("'{path}' is not the path of a file")));
        }
        let mut inside = PathBuf::from(path);
        if !self.0.is_empty() {
            // `/home/user/../x` would be something else below another prefix.
            let plain = plain(&inside);
            let under = |(said, own): &(PathBuf, PathBuf)| {
                plain.strip_prefix(said).ok().map(|rest| own.components().chain(rest.components()).collect())
            };
            inside = self.0.iter().find_map(under).unwrap_or(plain);
        }
        Ok(if path.contains('\u{FFFD}') { meant(inside) } else { inside })
    }

    /// What clients call what is here at `path`.
    pub(super) fn said(&self, path: &Path) -> String {
        let back = |(said, own): &(PathBuf, PathBuf)| {
            path.strip_prefix(own).ok().map(|rest| said.components().chain(rest.components()).collect::<PathBuf>())
        };
        self.0.iter().find_map(back).unwrap_or_else(|| path.to_owned()).to_string_lossy().into_owned()
    }
}

/// Without `.` and `..`, by the text alone.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::Normal(name) => plain.push(name),
            _ => {}
        }
    }
    plain
}

/// A name that is not UTF-8 was shown with other characters in it. Where nothing has the name as it was said, and one entry alone
/// is shown by it, that one is meant.
fn meant(path: PathBuf) -> PathBuf {
    if std::fs::symlink_metadata(&path).is_ok() {
        return path;
    }
    let mut found = PathBuf::new();
    for part in path.components() {
        let next = found.join(part);
        found = match part {
            Component::Normal(name) if std::fs::symlink_metadata(&next).is_err() => {
                shown_as(&found, name).map_or(next, |real| found.join(real))
            }
            _ => next,
        };
    }
    found
}

fn shown_as(directory: &Path, name: &OsStr) -> Option<OsString> {
    /// So many entries are looked at.
    const MOST: usize = 100_000;
    if !name.as_bytes().windows(3).any(|bytes| bytes == "\u{FFFD}".as_bytes()) {
        return None;
    }
    let entries = std::fs::read_dir(directory).ok()?.take(MOST).flatten().map(|entry| entry.file_name());
    let mut same = entries.filter(|real| real.to_str().is_none() && *real.to_string_lossy() == *name);
    let only = same.next();
    if same.next().is_some() { None } else { only }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_whole_names_and_cannot_be_left_by_dots() {
        let map = Map(vec![("/home/user".into(), "/srv/a/home".into()), ("/tmp".into(), "/srv/a/tmp".into())]);
        let inside = |path| map.inside(path).unwrap().to_str().unwrap().to_owned();
        assert_eq!(inside("/home/user"), "/srv/a/home");
        assert_eq!(inside("/home/user/x y/../z"), "/srv/a/home/z");
        assert_eq!(inside("/home/user/../user2/x"), "/home/user2/x");
        assert_eq!(inside("/home/../home/user/x"), "/srv/a/home/x");
        assert_eq!(inside("/home/user/../../../.."), "/");
        assert_eq!(inside("/tmpfile"), "/tmpfile");
        assert_eq!(inside("/tmp/./a"), "/srv/a/tmp/a");
        assert_eq!(map.said(Path::new("/srv/a/tmp/a")), "/tmp/a");
        assert_eq!(map.said(Path::new("/usr/bin")), "/usr/bin");
        let none = Map::default();
        assert_eq!(none.inside("/a/../b").unwrap(), Path::new("/a/../b"));
        for wrong in ["", "x", "../x", "/a\0b"] {
            assert_eq!(none.inside(wrong).unwrap_err().reason, Reason::Invalid, "{wrong:?}");
        }
    }
}
