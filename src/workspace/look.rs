//! The tools `read`, `search` and `tree`: code as an agent sees it. Pure answers over a tree or a folder; both answer alike.
//!
//! Every answer is text of bounded size, the same for the same code, and says how to go on where something was left out.

use serde::Deserialize;

use super::Error;
use super::directory::Directory;
use super::path::{RepoPath, shown};
use super::tree::{MOST_BYTES, Snapshot};

/// The most bytes that one answer has, roughly: what is larger would be stored as an artifact instead of shown.
pub(super) const MOST_ANSWER: usize = 12_000;
/// Lines of one `read`.
const MOST_LINES: u32 = 400;
/// A longer line is cut, in characters.
pub(super) const LINE_CHARS: usize = 600;
/// Names of one `tree`.
const MOST_NAMES: usize = 300;
/// How much of a file is looked at to tell whether it is text: git's own rule.
const SNIFF: usize = 8_000;

/// Code to look at: a tree, or a folder of files that holds the same.
#[derive(Debug)]
pub enum Code {
    Tree(Snapshot),
    Directory(Directory),
}

/// Input of `read`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadInput {
    pub path: String,
    /// Counted from 1.
    #[serde(default)]
    pub from_line: Option<u32>,
    #[serde(default)]
    pub lines: Option<u32>,
}

/// Input of `search`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchInput {
    /// A regular expression, matched line by line.
    pub pattern: String,
    /// Only below this folder, or in this file.
    #[serde(default)]
    pub path: Option<String>,
    /// Only in files whose path fits, for instance `*.rs` or `src/**/*.py`.
    #[serde(default)]
    pub glob: Option<String>,
    #[serde(default)]
    pub ignore_case: bool,
    /// Lines shown before and after each match.
    #[serde(default)]
    pub around: Option<u32>,
    /// Matching lines to leave out at the beginning: for the next page.
    #[serde(default)]
    pub skip: Option<u32>,
}

/// Input of `tree`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeInput {
    /// Only below this folder.
    #[serde(default)]
    pub path: Option<String>,
    #[serde(default)]
    pub glob: Option<String>,
    /// Names to leave out at the beginning: for the next page.
    #[serde(default)]
    pub skip: Option<u32>,
}

impl Code {
    /// Lines of a file with their numbers.
    ///
    /// Errors: `NotFound`, `Refused` for what is no text, `TooLarge` above 8 MB.
    pub fn read(&self, input: &ReadInput) -> Result<String, Error> {
        let path = RepoPath::parse(&input.path)?;
        let content = match self {
            Self::Tree(snapshot) => snapshot.read(&path, MOST_BYTES),
            Self::Directory(directory) => directory.read(&path, MOST_BYTES),
        };
        let content = content.map_err(|error| self.explain(&path, error))?;
        if is_binary(&content) {
            return Err(Error::Refused(format!("`{path}` is no text: {} bytes", content.len())));
        }
        let lines: Vec<&[u8]> = split_lines(&content);
        let from = input.from_line.unwrap_or(1).max(1) as usize;
        let most = input.lines.unwrap_or(MOST_LINES).clamp(1, MOST_LINES) as usize;
        if lines.is_empty() {
            return Ok(format!("`{path}` is empty"));
        }
        if from > lines.len() {
            return Ok(format!("`{path}` has {} lines", lines.len()));
        }
        let mut out = String::new();
        let mut next = from;
        for line in lines.iter().skip(from - 1).take(most) {
            let line = shown_line(line);
            if !out.is_empty() && out.len() + line.len() > MOST_ANSWER {
                break;
            }
            out.push_str(&format!("{next}: {line}\n"));
            next += 1;
        }
        match next > lines.len() {
            true => out.push_str(&format!("[{} lines in all]", lines.len())),
            false => out.push_str(&format!("[{} lines in all; go on with from_line {next}]", lines.len())),
        }
        Ok(out)
    }

    /// The files below a folder: by name if they are few or a glob is given, else folder by folder with their counts.
    pub fn tree(&self, input: &TreeInput) -> Result<String, Error> {
        let folder = RepoPath::parse_folder(input.path.as_deref().unwrap_or_default())?;
        let filter = Filter::new(folder.as_ref(), input.glob.as_deref())?;
        let below: Vec<RepoPath> = self.paths()?.into_iter().filter(|path| filter.takes(path)).collect();
        if below.is_empty() {
            return Ok(match (&folder, &input.glob) {
                (_, Some(glob)) => format!("no file fits `{}`", shown(glob.as_bytes())),
                (Some(folder), None) => return Err(Error::NotFound(format!("there is no folder `{folder}`"))),
                (None, None) => "there are no files".into(),
            });
        }
        let names: Vec<String> = if input.glob.is_some() || below.len() <= MOST_NAMES {
            below.iter().map(ToString::to_string).collect()
        } else {
            by_folder(&below, folder.as_ref())
        };
        let skip = input.skip.unwrap_or(0) as usize;
        let mut out = String::new();
        let mut count = 0;
        for name in names.iter().skip(skip).take(MOST_NAMES) {
            if out.len() + name.len() > MOST_ANSWER {
                break;
            }
            out.push_str(name);
            out.push('\n');
            count += 1;
        }
        let after = skip + count;
        out.push_str(&format!("[{} files", below.len()));
        if after < names.len() {
            out.push_str(&format!("; go on with skip {after}"));
        }
        out.push(']');
        Ok(out)
    }

    /// Every file, sorted.
    pub(super) fn paths(&self) -> Result<Vec<RepoPath>, Error> {
        match self {
            Self::Tree(snapshot) => Ok(snapshot.entries()?.iter().map(|entry| entry.path.clone()).collect()),
            Self::Directory(directory) => directory.entries(),
        }
    }

    /// Says the same about a path that cannot be read, whatever the binding.
    fn explain(&self, path: &RepoPath, error: Error) -> Error {
        if !matches!(error, Error::NotFound(_) | Error::Refused(_)) {
            return error;
        }
        let prefix = [path.as_bytes(), b"/"].concat();
        match self.paths() {
            Ok(paths) if paths.iter().any(|other| other.as_bytes().starts_with(&prefix)) => {
                Error::Refused(format!("`{path}` is a folder; `tree` lists it"))
            }
            Ok(paths) => {
                let (_, name) = path.split();
                let same_name: Vec<String> = paths
                    .iter()
                    .filter(|other| other.split().1 == name)
                    .take(3)
                    .map(|other| format!("`{other}`"))
                    .collect();
                let hint =
                    if same_name.is_empty() { String::new() } else { format!("; there is {}", same_name.join(", ")) };
                Error::NotFound(format!("there is no file `{path}`{hint}"))
            }
            Err(error) => error,
        }
    }
}

/// Which paths are asked for.
pub(super) struct Filter {
    folder: Option<(Vec<u8>, Vec<u8>)>,
    glob: Option<globset::GlobMatcher>,
}

impl Filter {
    /// A glob without `/` is matched against the name alone, as `.gitignore` has it.
    pub fn new(folder: Option<&RepoPath>, glob: Option<&str>) -> Result<Self, Error> {
        let glob = match glob.filter(|glob| !glob.is_empty()) {
            None => None,
            Some(text) if text.len() > 1000 => {
                return Err(Error::TooLarge { what: "the glob's bytes".into(), cap: 1000 });
            }
            Some(text) => {
                let trimmed = text.trim_start_matches("./");
                let full = if trimmed.contains('/') { trimmed.to_owned() } else { format!("**/{trimmed}") };
                let glob = globset::GlobBuilder::new(&full).literal_separator(true).empty_alternates(true).build();
                Some(
                    glob.map_err(|error| Error::Refused(format!("the glob is wrong: {}", error.kind())))?
                        .compile_matcher(),
                )
            }
        };
        let folder = folder.map(|folder| (folder.as_bytes().to_vec(), [folder.as_bytes(), b"/"].concat()));
        Ok(Self { folder, glob })
    }

    pub fn takes(&self, path: &RepoPath) -> bool {
        let bytes = path.as_bytes();
        let in_folder = self.folder.as_ref().is_none_or(|(file, prefix)| bytes == file || bytes.starts_with(prefix));
        in_folder
            && self
                .glob
                .as_ref()
                .is_none_or(|glob| glob.is_match(std::path::Path::new(std::ffi::OsStr::new(as_os(bytes)))))
    }
}

fn as_os(bytes: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}

/// The entries of one folder, folders with `/` and the number of files below.
fn by_folder(below: &[RepoPath], folder: Option<&RepoPath>) -> Vec<String> {
    let skip = folder.map_or(0, |folder| folder.as_bytes().len() + 1);
    let mut names: Vec<(Vec<u8>, Option<usize>)> = Vec::new();
    for path in below {
        let rest = path.as_bytes().get(skip..).unwrap_or_default();
        match rest.iter().position(|b| *b == b'/') {
            None => names.push((path.as_bytes().to_vec(), None)),
            Some(at) => {
                let name = &path.as_bytes()[..skip + at + 1];
                match names.last_mut() {
                    Some((last, Some(count))) if last.as_slice() == name => *count += 1,
                    _ => names.push((name.to_vec(), Some(1))),
                }
            }
        }
    }
    names
        .into_iter()
        .map(|(name, count)| match count {
            None => shown(&name),
            Some(count) => format!("{} ({count} files)", shown(&name)),
        })
        .collect()
}

/// Lines without their ends. A last line without a line feed counts.
pub(super) fn split_lines(content: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = content.split(|b| *b == b'\n').collect();
    if lines.last().is_some_and(|line| line.is_empty()) {
        lines.pop();
    }
    lines
}

pub(super) fn is_binary(content: &[u8]) -> bool {
    memchr::memchr(0, &content[..content.len().min(SNIFF)]).is_some()
}

/// A line as it is shown: printable, not too long.
pub(super) fn shown_line(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // Four bytes a character at most; the rest of a huge line is not even looked at.
    let beginning = &line[..line.len().min(LINE_CHARS * 4)];
    let text = String::from_utf8_lossy(beginning);
    let mut out: String = text.chars().take(LINE_CHARS).collect();
    if out.len() < line.len() && (out.len() < text.len() || beginning.len() < line.len()) {
        out.push_str(" […]");
    }
    out
}
