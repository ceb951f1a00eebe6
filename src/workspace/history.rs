//! A repository with a history that is made from texts: what `demo` shows its pipelines.
//!
//! The same texts make the same commit ids on every machine. The folder is the user's to look at: it has the files of the branch that
//! is checked out, and git finds nothing changed there. What it does not do: touch a repository that was there before.

use std::path::Path;

use super::Error;
use super::git::{Act, Git};
use super::leftovers::despite_locks;

/// One commit on top of the one before.
#[derive(Clone, Debug)]
pub struct Commit<'a> {
    /// The branch that points at it; a branch moves along when several name it.
    pub branch: &'a str,
    pub message: &'a str,
    /// `Name <address>`
    pub author: &'a str,
    /// Since 1970, in UTC.
    pub seconds: i64,
    /// All files that there are then, by their path.
    pub files: Vec<(&'a str, &'a str)>,
}

/// Makes the repository in a folder that has none, and checks out its first branch.
pub fn make(git: &Git, folder: &Path, commits: &[Commit<'_>]) -> Result<(), Error> {
    let Some(first) = commits.first() else { return Ok(()) };
    std::fs::create_dir_all(folder).map_err(Error::io(format!("making `{}`", folder.display())))?;
    let at = std::path::absolute(folder.join(".git")).map_err(Error::io("finding the folder"))?;
    let branch = format!("--initial-branch={}", first.branch);
    // No template: it could hold hooks.
    let init = ["init", "--quiet", "--object-format=sha1", "--template=", &branch];
    git.output(Act::new("making a repository", &at, init))?;
    let stream = stream(commits);
    let mut import = Act::new("writing the history", &at, ["fast-import", "--quiet", "--force", "--date-format=raw"]);
    import.input = &stream;
    git.output(import)?;
    check_out(git, folder, first)
}

/// Has `branch` point at the last of the commits that name `to`, and checks it out. Again changes nothing.
pub fn move_on(git: &Git, folder: &Path, branch: &str, to: &Commit<'_>) -> Result<(), Error> {
    let at = std::path::absolute(folder.join(".git")).map_err(Error::io("finding the folder"))?;
    let (branch, from) = (format!("refs/heads/{branch}"), format!("refs/heads/{}", to.branch));
    // It may be asked for again because a process was killed in the middle of it.
    let args = ["update-ref", &branch, &from];
    despite_locks(&at, || git.output(Act::new("moving a branch", &at, args)).map(drop))?;
    check_out(git, folder, to)
}

/// Files and index as in a commit. Files that it does not have stay.
fn check_out(git: &Git, folder: &Path, commit: &Commit<'_>) -> Result<(), Error> {
    for (path, text) in &commit.files {
        let path = folder.join(path);
        let failed = || format!("writing `{}`", path.display());
        std::fs::create_dir_all(path.parent().unwrap_or(folder)).map_err(Error::io(failed()))?;
        std::fs::write(&path, text).map_err(Error::io(failed()))?;
    }
    let at = std::path::absolute(folder.join(".git")).map_err(Error::io("finding the folder"))?;
    let branch = format!("refs/heads/{}", commit.branch);
    let args = ["read-tree", &branch];
    despite_locks(&at, || git.output(Act::new("writing the index", &at, args)).map(drop))
}

/// For `git fast-import`.
fn stream(commits: &[Commit<'_>]) -> Vec<u8> {
    let mut out = String::new();
    for (number, commit) in commits.iter().enumerate() {
        let Commit { branch, message, author, seconds, files } = commit;
        out.push_str(&format!("commit refs/heads/{branch}\nmark :{}\n", number + 1));
        for who in ["author", "committer"] {
            out.push_str(&format!("{who} {author} {seconds} +0000\n"));
        }
        out.push_str(&format!("data {}\n{message}\n", message.len()));
        if number > 0 {
            out.push_str(&format!("from :{number}\ndeleteall\n"));
        }
        for (path, text) in files {
            out.push_str(&format!("M 100644 inline {path}\ndata {}\n{text}\n", text.len()));
        }
    }
    out.push_str("done\n");
    out.into_bytes()
}
