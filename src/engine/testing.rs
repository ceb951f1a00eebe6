//! For tests: a private repository with files in it.

use std::sync::Arc;

use crate::base::env::process_variable;
use crate::domain::code::TreeId;
use crate::workspace::{Access, Git, Origin, Repository};

/// A repository that was fetched from a user's clone with these files, and its tree. All of it lies in the folder.
pub(super) fn repository(files: &[(&str, &str)]) -> (tempfile::TempDir, Arc<Repository>, TreeId) {
    let folder = tempfile::tempdir().unwrap();
    let git = Git::find(process_variable("PATH").unwrap().as_ref()).unwrap();
    let user = folder.path().join("user");
    for (path, content) in files {
        let path = user.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    let script = "git init -q -b main && git add -A && git -c user.name=u -c user.email=u@example commit -q -m x";
    let made = std::process::Command::new("sh").args(["-c", script]).current_dir(&user).status().unwrap();
    assert!(made.success());
    let origin = Origin::folder(&user).unwrap();
    let repository = Repository::open(&git, &folder.path().join("repositories"), origin).unwrap();
    let tree = repository.fetch("main", &Access::none()).unwrap().tree;
    (folder, repository, tree)
}
