//! What a git that was killed leaves in a private repository: locks that nobody holds, and objects that were never finished.
//!
//! Git removes neither by itself, and fails for good at a lock. Whoever calls here has the repository to itself, but for a git whose
//! daemon was killed a moment ago: that one gets the time to end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Error;

/// How long a git that has lost its daemon may still hold a lock. It holds one while it renames a file.
const LAST_BREATH: Duration = Duration::from_secs(2);

/// Acts; where a lock is in the way, waits, and then acts without it. Blocking.
pub(super) fn despite_locks<T>(folder: &Path, act: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
    match act() {
        Err(error) if is_lock(&error) => {}
        other => return other,
    }
    std::thread::sleep(LAST_BREATH);
    match act() {
        Err(error) if is_lock(&error) => {}
        other => return other,
    }
    for lock in locks(folder) {
        tracing::warn!(lock = %lock.display(), "a lock that a killed git left is removed");
        // Git says what is wrong if it is still there.
        drop(std::fs::remove_file(lock));
    }
    act()
}

/// As git says it: `Unable to create '…/shallow.lock': File exists.`
fn is_lock(error: &Error) -> bool {
    let (Error::Git { message, .. } | Error::Unreachable { message, .. }) = error else { return false };
    message.contains(".lock': File exists")
}

/// Locks of refs and of what lies beside them. Those of refs are below `refs/`, however deep.
fn locks(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.join("refs")];
    let mut take = |path: PathBuf| {
        if path.extension().is_some_and(|extension| extension == "lock") {
            found.push(path);
        }
    };
    for (path, _) in entries(folder) {
        take(path);
    }
    while let Some(refs) = open.pop() {
        for (path, is_folder) in entries(&refs) {
            if is_folder { open.push(path) } else { take(path) }
        }
    }
    found
}

/// Removes packs and objects that were never finished. They do no harm but take up room.
pub(super) fn remove_halves(objects: &Path) {
    for (path, is_folder) in entries(objects) {
        for (path, _) in if is_folder { entries(&path) } else { vec![(path, false)] } {
            if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"tmp_")) {
                drop(std::fs::remove_file(path));
            }
        }
    }
}

/// What is in a folder, and whether it is a folder itself. Nothing, if it cannot be read.
fn entries(folder: &Path) -> Vec<(PathBuf, bool)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| (entry.path(), entry.file_type().is_ok_and(|kind| kind.is_dir()))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::git::{Access, Git};
    use super::super::history::{Commit, make};
    use super::super::repository::{Origin, Repository};

    #[test]
    fn a_repository_whose_git_was_killed_is_used_on() {
        let path = crate::base::env::process_variable("PATH").unwrap();
        let git = Git::find(std::ffi::OsStr::new(&path)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (source, private) = (folder.path().join("source"), folder.path().join("private"));
        let author = "Ada <ada@example.com>";
        let commit = Commit { branch: "main", message: "x\n", author, seconds: 1, files: vec![("a.txt", "a\n")] };
        make(&git, &source, &[commit]).unwrap();
        let open = || Repository::open(&git, &private, Origin::folder(&source).unwrap()).unwrap();
        let repository = open();
        let first = repository.fetch("main", &Access::none()).unwrap();
        repository.set_branch("nightcrew/one", &first.commit).unwrap();

        let inside = |below: &str| repository.folder().join(below);
        let fetched = std::fs::read_dir(inside("refs/nightcrew/fetched")).unwrap().next().unwrap().unwrap().file_name();
        let fetched = format!("refs/nightcrew/fetched/{}.lock", fetched.to_str().unwrap());
        let locks = ["shallow.lock", "refs/nightcrew/any.lock", fetched.as_str(), "refs/heads/nightcrew/one.lock"];
        for lock in locks {
            std::fs::write(inside(lock), "").unwrap();
        }
        let halves = ["objects/pack/tmp_pack_a1b2c3", "objects/aa/tmp_obj_a1b2c3"];
        for half in halves {
            std::fs::create_dir_all(inside(half).parent().unwrap()).unwrap();
            std::fs::write(inside(half), "half").unwrap();
        }
        let parent = std::slice::from_ref(&first.commit);
        let next = repository.commit(&first.tree, parent, "next\n", 2).unwrap();
        // The first that meets a lock removes them all.
        repository.set_branch("nightcrew/one", &next).unwrap();
        assert_eq!(repository.branch("nightcrew/one").unwrap(), Some(next));
        assert_eq!(repository.fetch("main", &Access::none()).unwrap(), first);
        assert_eq!(locks.map(|lock| inside(lock).exists()), [false; 4]);
        std::fs::write(inside(&fetched), "").unwrap();
        assert_eq!(repository.fetch("main", &Access::none()).unwrap(), first);
        drop(open());
        assert_eq!(halves.map(|half| inside(half).exists()), [false; 2]);
        assert_eq!(open().fetch("main", &Access::none()).unwrap(), first);
    }
}
