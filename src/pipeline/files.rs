//! Where the files come from that a pipeline refers to: a folder on disk, or what the journal kept.

use std::path::{Path, PathBuf};

/// Reads files beside a pipeline.
pub trait Files {
    /// The text at `path`, relative to the pipeline's folder; never called with a path that leaves it.
    fn read(&self, path: &str) -> Result<String, FileError>;

    /// How the file is named in messages.
    fn shown(&self, path: &str) -> String {
        path.to_owned()
    }

    /// Paths that could have been meant, for a did-you-mean.
    fn beside(&self, path: &str) -> Vec<String> {
        let _ = path;
        Vec::new()
    }
}

/// Why a file gave no text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    #[error("there is no such file")]
    Missing,
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    #[error("it is larger than 1 MiB")]
    TooLarge,
}

/// A folder on disk.
#[derive(Clone, Debug)]
pub struct DiskFiles {
    folder: PathBuf,
    /// The folder as the user typed it.
    shown: String,
}

impl DiskFiles {
    /// The folder that holds `pipeline`, a path as the user typed it.
    pub fn beside(pipeline: &Path) -> Self {
        let folder = pipeline.parent().unwrap_or(Path::new(""));
        Self { folder: folder.to_owned(), shown: folder.display().to_string() }
    }
}

impl Files for DiskFiles {
    fn read(&self, path: &str) -> Result<String, FileError> {
        read_text(&self.folder.join(path))
    }

    fn shown(&self, path: &str) -> String {
        if self.shown.is_empty() { path.to_owned() } else { format!("{}/{path}", self.shown.trim_end_matches('/')) }
    }

    fn beside(&self, path: &str) -> Vec<String> {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let Ok(entries) = std::fs::read_dir(self.folder.join(folder)) else { return Vec::new() };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut paths: Vec<String> =
            names.map(|name| if folder.is_empty() { name } else { format!("{folder}/{name}") }).collect();
        paths.sort();
        paths
    }
}

/// The largest file that a pipeline may refer to.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A text file of at most the size that is read.
pub fn read_text(path: &Path) -> Result<String, FileError> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => FileError::Missing,
        _ => FileError::Unreadable(error.to_string()),
    };
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > MAX_FILE_BYTES {
        return Err(FileError::TooLarge);
    }
    let bytes = std::fs::read(path).map_err(failed)?;
    String::from_utf8(bytes).map_err(|_| FileError::Unreadable("it is not UTF-8 text".to_owned()))
}

/// What the journal kept: (path, text), the pipeline first.
#[derive(Clone, Copy, Debug)]
pub struct StoredFiles<'a>(pub &'a [(String, String)]);

impl Files for StoredFiles<'_> {
    fn read(&self, path: &str) -> Result<String, FileError> {
        self.0.iter().find(|(known, _)| known == path).map(|(_, text)| text.clone()).ok_or(FileError::Missing)
    }
}

/// The pipelines of a folder: its `*.yaml` and `*.yml` files, sorted, without hidden ones; folders below hold what
/// they refer to and are left out.
///
/// Errors: the folder cannot be read.
pub fn scan(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if yaml && !hidden && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
