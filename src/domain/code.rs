//! Code under work as plain data: trees, edits, and the difference of two trees.
//!
//! A tree is named by the object id that git gives it. `workspace/` makes and reads trees; `policy::diff` judges differences;
//! neither is needed to hold one.

use serde::{Deserialize, Serialize};

/// Writes a newtype of a git object id: 40 (SHA-1) or 64 (SHA-256) lower-case hex digits, nothing else can be made.
macro_rules! object_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
            /// The first 12 digits: enough for people.
            pub fn short(&self) -> &str {
                self.0.get(..12).unwrap_or(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = BadObjectId;
            fn from_str(text: &str) -> Result<Self, BadObjectId> {
                is_object_id(text).then(|| Self(text.to_owned())).ok_or(BadObjectId)
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadObjectId;
            fn try_from(text: String) -> Result<Self, BadObjectId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }
    };
}

object_id! {
    /// The code as it is at one moment: the id of a git tree in the private repository.
    TreeId
}
object_id! {
    /// A commit of the source repository or of the private one.
    CommitId
}
object_id! {
    /// The content of one file.
    BlobId
}

/// The text is not an object id in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a git object id of 40 or 64 lower-case hex digits")]
pub struct BadObjectId;

fn is_object_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// One change that an agent asks for. Paths are relative to the root of the repository, with `/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "edit", rename_all = "snake_case", deny_unknown_fields)]
pub enum Edit {
    /// Replaces `old`, which must stand in the file exactly `count` times, by `new`.
    Replace {
        path: String,
        old: String,
        new: String,
        #[serde(default = "once")]
        count: u32,
    },
    /// The whole content of a file, which may be new.
    Write { path: String, content: String },
    /// Removes a file.
    Delete { path: String },
    /// Moves a file to a name that is free.
    Rename { from: String, to: String },
}

fn once() -> u32 {
    1
}

/// What an entry of a tree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// There is none: before an addition, after a deletion.
    Absent,
    File,
    Executable,
    Symlink,
    Submodule,
    Folder,
}

/// What happened to one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Added,
    Deleted,
    Modified,
    Renamed,
    /// A file became a symbolic link, or the like.
    TypeChanged,
}

/// The difference of two trees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeDiff {
    pub base: TreeId,
    pub new: TreeId,
    pub changes: Vec<Change>,
}

impl TreeDiff {
    /// Lines that appear and disappear.
    pub fn lines(&self) -> (u64, u64) {
        self.changes.iter().fold((0, 0), |(added, removed), change| {
            (added + u64::from(change.added), removed + u64::from(change.removed))
        })
    }
}

/// The change of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub status: Status,
    /// Its name afterwards (before, if it is deleted). Bytes that are not UTF-8 are shown as U+FFFD.
    pub path: String,
    /// Its name before, if it was renamed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_path: Option<String>,
    pub old_mode: Mode,
    pub new_mode: Mode,
    /// Not text on one side: there are no hunks.
    pub binary: bool,
    /// The new content is a pointer of Git LFS.
    pub lfs_pointer: bool,
    /// Size of the new content; 0 when deleted.
    pub new_bytes: u64,
    /// Lines that appear.
    pub added: u32,
    /// Lines that disappear.
    pub removed: u32,
    pub hunks: Vec<Hunk>,
}

/// Neighbouring changed lines with three unchanged ones around.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hunk {
    /// First line before, counted from 1; 0 in a new file.
    pub old_start: u32,
    /// First line afterwards.
    pub new_start: u32,
    /// The line at which git found that the surrounding function or class begins.
    pub section: String,
    pub lines: Vec<Line>,
}

/// One line of a hunk, without its line feed. Bytes that are not UTF-8 are shown as U+FFFD.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "side", content = "text", rename_all = "snake_case")]
pub enum Line {
    Kept(String),
    Added(String),
    Removed(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_full_object_ids_can_be_made() {
        let id = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(id.parse::<TreeId>().unwrap().to_string(), id);
        for bad in ["", "HEAD", "0123456789ABCDEF0123456789ABCDEF01234567", "--help", &id[..39], &format!("{id}0")] {
            assert_eq!(bad.parse::<TreeId>(), Err(BadObjectId), "{bad}");
            assert!(serde_json::from_value::<TreeId>(bad.into()).is_err(), "{bad}");
        }
    }
}
