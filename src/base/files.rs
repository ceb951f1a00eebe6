//! Files that appear whole or not at all, and are on disk when the call returns. Blocking.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::hash::Hash;

/// Replaces a file in one step: readers see the old or the new one.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = write_beside(path, bytes)?;
    std::fs::rename(&temporary, path).inspect_err(|_| drop(std::fs::remove_file(&temporary)))?;
    sync_folder(path)
}

/// Creates a file in one step; `false` if the name is taken.
pub fn create(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let temporary = write_beside(path, bytes)?;
    let taken = match std::fs::hard_link(&temporary, path) {
        Ok(()) => false,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => true,
        // A file system without hard links: the names of one run are its own, so a plain rename will do.
        Err(_) if !path.exists() => {
            std::fs::rename(&temporary, path)?;
            sync_folder(path)?;
            return Ok(true);
        }
        Err(error) => {
            drop(std::fs::remove_file(&temporary));
            return Err(error);
        }
    };
    std::fs::remove_file(&temporary)?;
    sync_folder(path)?;
    Ok(!taken)
}

/// The content in a file of its own, on disk, named by its hash: two writers of different contents never share it.
fn write_beside(path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", Hash::of(bytes).short()));
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(temporary)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
