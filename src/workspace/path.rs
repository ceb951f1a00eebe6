//! Names of files in a repository, and which of them may be written.
//!
//! Reading is generous: a name that stands in a tree can be looked up, for a lookup cannot leave the tree. Writing is strict: a
//! new name must mean the same file on every system and must not be able to become git's own folder on any of them.

use std::fmt;

pub(super) use crate::policy::diff::is_invisible;

use super::Error;

/// Longest name of one file or folder, in bytes, as file systems have it.
const MOST_NAME: usize = 255;
const MOST_PATH: usize = 1024;
const MOST_DEPTH: usize = 64;

/// A path relative to the root of a repository: parts joined by `/`, none of them empty, `.` or `..`.
///
/// Invariant: it cannot leave the root by itself. It is bytes, for git's names are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepoPath(Vec<u8>);

impl RepoPath {
    /// A path that somebody typed, for looking up. `./` in front and `/` at the end are taken away.
    ///
    /// Errors: `Refused` for an absolute path, `..`, NUL, git's own folder, or one of absurd length.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let refused = |why: &str| Err(Error::Refused(format!("the path `{}` {why}", shown(text.as_bytes()))));
        let trimmed = text.trim_start_matches("./").trim_end_matches('/');
        if text.starts_with('/') {
            return refused("is absolute; paths are relative to the root of the repository");
        }
        if trimmed.is_empty() || trimmed == "." {
            return refused("names no file");
        }
        match Self::from_bytes(trimmed.as_bytes()) {
            Some(path) if path.parts().any(is_git_folder) => refused("is in git's own folder"),
            Some(path) => Ok(path),
            None => refused("has a part that is empty, `.`, `..` or holds NUL, or it is too long"),
        }
    }

    /// A folder that somebody typed; `None` for the root.
    pub fn parse_folder(text: &str) -> Result<Option<Self>, Error> {
        match text.trim_start_matches("./").trim_end_matches('/') {
            "" | "." if !text.starts_with('/') => Ok(None),
            _ => Self::parse(text).map(Some),
        }
    }

    /// A path as it stands in a tree, if it is one.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let fine = |part: &[u8]| {
            !part.is_empty() && part != b"." && part != b".." && part.len() <= MOST_NAME && !part.contains(&0)
        };
        let parts = bytes.split(|b| *b == b'/');
        (bytes.len() <= MOST_PATH && parts.clone().count() <= MOST_DEPTH && parts.into_iter().all(fine))
            .then(|| Self(bytes.to_owned()))
    }

    /// A path that somebody typed, for writing.
    ///
    /// Errors: as [`Self::parse`], and `Refused` for names that mean something else on another system: control and invisible
    /// characters, `\`, a dot or space at the end, `.git` in any disguise that Windows or macOS would see through.
    pub fn for_writing(text: &str) -> Result<Self, Error> {
        let path = Self::parse(text)?;
        for part in text.trim_start_matches("./").trim_end_matches('/').split('/') {
            if let Some(why) = why_not_written(part) {
                return Err(Error::Refused(format!("the path `{}` cannot be written: {why}", shown(text.as_bytes()))));
            }
        }
        Ok(path)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As the path of a file, relative to wherever the tree is written to.
    pub fn to_path(&self) -> std::path::PathBuf {
        std::path::PathBuf::from(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&self.0))
    }

    /// Folder by folder, the file last.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/')
    }

    /// The folder that it is in (`None`: the root) and its name there.
    pub fn split(&self) -> (Option<Self>, &[u8]) {
        match self.0.iter().rposition(|b| *b == b'/') {
            Some(at) => (Some(Self(self.0[..at].to_owned())), &self.0[at + 1..]),
            None => (None, &self.0),
        }
    }

    /// This path with one more part. The part comes from a tree or a folder.
    pub fn join(folder: Option<&Self>, name: &[u8]) -> Option<Self> {
        match folder {
            Some(folder) => Self::from_bytes(&[folder.as_bytes(), b"/", name].concat()),
            None => Self::from_bytes(name),
        }
    }
}

impl fmt::Display for RepoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.0))
    }
}

impl fmt::Debug for RepoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

/// A name as people and models see it: what is not printable text is escaped, what is absurdly long is cut.
pub(super) fn shown(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes[..bytes.len().min(MOST_PATH)].utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || is_invisible(c) {
                out.extend(c.escape_unicode());
            } else {
                out.push(c);
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    if bytes.len() > MOST_PATH {
        out.push('…');
    }
    out
}

/// Git's own folder, as this system would see it. Case is ignored, for a copy may come to lie on a disk that ignores it.
pub(super) fn is_git_folder(part: &[u8]) -> bool {
    part.eq_ignore_ascii_case(b".git")
}

fn why_not_written(part: &str) -> Option<&'static str> {
    if part.chars().any(char::is_control) {
        return Some("a name has a control character");
    }
    if part.chars().any(is_invisible) {
        return Some("a name has an invisible character");
    }
    if part.contains('\\') {
        return Some("a name has a backslash");
    }
    if part.ends_with(['.', ' ']) || part.starts_with(' ') {
        return Some("a name begins with a space, or ends with a space or a dot");
    }
    if looks_like_git_folder(part) {
        return Some("a name looks like git's own folder");
    }
    None
}

/// `.git` in the disguises of NTFS and HFS+: another case, dots and spaces behind, a stream, the short name.
fn looks_like_git_folder(part: &str) -> bool {
    let lower: String = part.chars().filter(|c| !is_invisible(*c)).flat_map(char::to_lowercase).collect();
    let name = lower.split(':').next().unwrap_or_default().trim_end_matches(['.', ' ']);
    let short = name.strip_prefix("git~").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    // Full-width letters and the like fold to ASCII on some systems.
    let ascii: String = name.chars().map(plain_letter).collect();
    name == ".git" || ascii == ".git" || short
}

/// Full-width forms as the ASCII characters that they stand for.
fn plain_letter(c: char) -> char {
    match u32::from(c) {
        n @ 0xff01..=0xff5e => char::from_u32(n - 0xfee0).map_or(c, |c| c.to_ascii_lowercase()),
        0x2024 | 0xfe52 => '.',
        _ => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_leave_the_root_or_reach_git_s_own_folder() {
        for bad in [
            "",
            ".",
            "/",
            "/etc/passwd",
            "..",
            "../x",
            "a/../b",
            "a/./b",
            "a//b",
            ".git",
            ".git/config",
            "a/.GIT/x",
            "a\0b",
        ] {
            assert!(RepoPath::parse(bad).is_err(), "{bad}");
        }
        let deep = vec!["a"; 65].join("/");
        let long = "a".repeat(256);
        assert!(RepoPath::parse(&deep).is_err() && RepoPath::parse(&long).is_err());
        for good in ["a", "./a/b", "a/b/", ".gitignore", "a b/ü.txt", "x\\y", "..a", "a..", "-rf"] {
            assert!(RepoPath::parse(good).is_ok(), "{good}");
        }
        assert_eq!(RepoPath::parse_folder("./").unwrap(), None);
        assert!(RepoPath::parse_folder("/").is_err());
    }

    #[test]
    fn a_name_that_means_git_s_folder_elsewhere_is_not_written() {
        let bad = [
            ".Git",
            ".git.",
            ".git ",
            ".git . .",
            "git~1",
            "GIT~2",
            ".git::$INDEX_ALLOCATION",
            ".g\u{200c}it",
            ".gi\u{feff}t",
            "\u{ff0e}git",
            ".g\u{ff29}t",
            "a\\b",
            "a\nb",
            "a\u{202e}b",
            "x ",
            " x",
            "x.",
            "a\u{1b}[2J",
        ];
        for part in bad {
            for path in [part.to_owned(), format!("{part}/x"), format!("a/{part}/b")] {
                assert!(RepoPath::for_writing(&path).is_err(), "{path:?}");
            }
        }
        for good in ["a/b.rs", ".gitignore", "gitfoo", "git~x", "a:b", "ü/日本.txt", "-x", "a b"] {
            assert!(RepoPath::for_writing(good).is_ok(), "{good}");
        }
        assert_eq!(RepoPath::from_bytes(b"a\xff\x1b").unwrap().to_string(), "a\\xff\\u{1b}");
    }
}
