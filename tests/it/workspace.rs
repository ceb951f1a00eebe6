//! Workspaces over real git repositories: fetching, editing, comparing, copying, reading. What belongs here: what needs git or a
//! file system; pure rules are tested beside them. Hostile repositories are in `workspace/hostile.rs`.

pub mod hostile;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use nightcrew::domain::code::{Edit, Line, Mode, Status, TreeId};
use nightcrew::workspace::{
    Access, Code, Directory, Error, Git, Origin, ReadInput, RepoPath, Repository, SearchInput, TreeInput, Worktrees,
};

/// A user's clone and our private repository of it.
pub struct Place {
    pub folder: tempfile::TempDir,
    pub git: Git,
}

impl Place {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("user")).unwrap();
        let place = Self { folder, git: find_git() };
        place.user(&["init", "-q", "-b", "main"]);
        place
    }

    /// The user's clone.
    pub fn clone(&self) -> PathBuf {
        self.folder.path().join("user")
    }

    /// Runs the user's git in the user's clone.
    pub fn user(&self, args: &[&str]) -> String {
        user_git(&self.clone(), args)
    }

    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.clone().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub fn commit(&self) {
        self.user(&["add", "-A", "-f"]);
        self.user(&["commit", "-q", "--allow-empty", "-m", "x"]);
    }

    pub fn repository(&self) -> Arc<Repository> {
        let origin = Origin::folder(&self.clone()).unwrap();
        Repository::open(&self.git, &self.folder.path().join("repositories"), origin).unwrap()
    }

    pub fn worktrees(&self) -> Worktrees {
        Worktrees::open(&self.folder.path().join("worktrees")).unwrap()
    }

    /// The repository after fetching `main`, and its tree.
    pub fn fetched(&self) -> (Arc<Repository>, TreeId) {
        let repository = self.repository();
        let resolved = repository.fetch("main", &Access::none()).unwrap();
        (repository, resolved.tree)
    }
}

pub fn find_git() -> Git {
    Git::find(&std::env::var_os("PATH").unwrap()).unwrap()
}

pub fn user_git(folder: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args([
            "-c",
            "user.name=U",
            "-c",
            "user.email=u@example",
            "-c",
            "commit.gpgsign=false",
            "-c",
            "protocol.file.allow=always",
        ])
        .args(args)
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Every file below a folder, with its bits and content; `.git` is left out, a link is its target behind an arrow.
pub fn files(folder: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    use std::os::unix::fs::PermissionsExt;
    fn walk(root: &Path, at: &Path, into: &mut BTreeMap<String, (u32, Vec<u8>)>) {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            if meta.is_dir() {
                if name != ".git" {
                    walk(root, &path, into);
                }
            } else if meta.is_symlink() {
                into.insert(name, (0, format!("-> {}", std::fs::read_link(&path).unwrap().display()).into_bytes()));
            } else {
                into.insert(name, (meta.permissions().mode() & 0o777, std::fs::read(&path).unwrap()));
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(folder, folder, &mut all);
    all
}

fn text(repository: &Arc<Repository>, tree: &TreeId, path: &str) -> String {
    let content = repository.snapshot(tree).unwrap().read(&RepoPath::parse(path).unwrap(), 1 << 20).unwrap();
    String::from_utf8(content).unwrap()
}

fn replace(path: &str, old: &str, new: &str) -> Edit {
    Edit::Replace { path: path.into(), old: old.into(), new: new.into(), count: 1 }
}

fn write(path: &str, content: &str) -> Edit {
    Edit::Write { path: path.into(), content: content.into() }
}

fn delete(path: &str) -> Edit {
    Edit::Delete { path: path.into() }
}

fn rename(from: &str, to: &str) -> Edit {
    Edit::Rename { from: from.into(), to: to.into() }
}

#[test]
fn fetching_leaves_the_users_clone_as_it_was_and_sees_only_what_is_committed() {
    let place = Place::new();
    place.write("src/a.rs", "fn a() {}\n");
    place.commit();
    place.write("src/a.rs", "fn uncommitted() {}\n");
    place.write("untracked.txt", "x");
    let everything = || {
        let mut all = files(&place.clone());
        all.extend(files(&place.clone().join(".git")).into_iter().map(|(name, file)| (format!(".git/{name}"), file)));
        all
    };
    let before = everything();
    let (repository, tree) = place.fetched();
    assert_eq!(everything(), before);
    assert_eq!(tree.as_str(), place.user(&["rev-parse", "HEAD^{tree}"]));
    assert_eq!(text(&repository, &tree, "src/a.rs"), "fn a() {}\n");
    assert!(repository.snapshot(&tree).unwrap().entry(&RepoPath::parse("untracked.txt").unwrap()).unwrap().is_none());
    // By tag, by commit, by full name, by HEAD; and a later commit is seen by the repository that is there already.
    place.user(&["checkout", "-q", "-f", "HEAD"]);
    place.user(&["tag", "-a", "v1", "-m", "x"]);
    let first = place.user(&["rev-parse", "HEAD"]);
    place.write("b", "2");
    place.commit();
    for (name, commit) in [
        ("v1", first.clone()),
        (first.as_str(), first.clone()),
        ("refs/heads/main", place.user(&["rev-parse", "HEAD"])),
        ("HEAD", place.user(&["rev-parse", "HEAD"])),
    ] {
        let resolved = place.repository().fetch(name, &Access::none()).unwrap();
        assert_eq!(resolved.commit.as_str(), commit, "{name}");
        assert_eq!(resolved.tree.as_str(), place.user(&["rev-parse", &format!("{commit}^{{tree}}")]));
    }
    let missing = repository.fetch("no-such-branch", &Access::none()).unwrap_err();
    assert!(matches!(missing, Error::NotFound(_)), "{missing}");
    let nowhere = Origin::folder(place.folder.path()).unwrap();
    let nowhere = Repository::open(&place.git, &place.folder.path().join("r"), nowhere).unwrap();
    let error = nowhere.fetch("main", &Access::none()).unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{error}");
}

#[test]
fn repositories_of_the_other_hash_and_shallow_ones_are_fetched_too() {
    let place = Place::new();
    for n in 0..3 {
        place.write("a", n.to_string());
        place.commit();
    }
    let other = place.folder.path().join("sha256");
    std::fs::create_dir(&other).unwrap();
    user_git(&other, &["init", "-q", "-b", "main", "--object-format=sha256"]);
    std::fs::write(other.join("a"), "x").unwrap();
    user_git(&other, &["add", "a"]);
    user_git(&other, &["commit", "-q", "-m", "x"]);
    let shallow = place.folder.path().join("shallow");
    let url = format!("file://{}", place.clone().display());
    user_git(place.folder.path(), &["clone", "-q", "--depth=1", &url, shallow.to_str().unwrap()]);
    for (folder, digits) in [(&other, 64), (&shallow, 40)] {
        let origin = Origin::folder(folder).unwrap();
        let repository = Repository::open(&place.git, &place.folder.path().join("repositories"), origin).unwrap();
        for _ in 0..2 {
            let resolved = repository.fetch("main", &Access::none()).unwrap();
            assert_eq!(resolved.tree.as_str().len(), digits);
            let edited = repository.edit(&resolved.tree, &[write("d/e/f", "new\n")]).unwrap();
            assert_eq!(text(&repository, &edited.tree, "d/e/f"), "new\n");
            assert_eq!(repository.diff(&resolved.tree, &edited.tree).unwrap().changes.len(), 1);
        }
    }
}

#[test]
fn an_edit_makes_the_tree_that_git_would_make() {
    let place = Place::new();
    place.write("src/lib.rs", "fn a() {}\nfn b() {}\nfn a2() {}\n");
    place.write("src/deep/down/x.txt", "x\n");
    place.write("run.sh", "#!/bin/sh\n");
    place.write("latin1.txt", b"caf\xe9 one\r\ntwo\r\n");
    place.write("a-b", "1");
    place.write("a/b", "2");
    place.write("a.b", "3");
    place.user(&["add", "-A"]);
    place.user(&["update-index", "--chmod=+x", "run.sh"]);
    place.user(&["commit", "-q", "-m", "x"]);
    let (repository, tree) = place.fetched();
    let edits = [
        replace("src/lib.rs", "fn b() {}", "fn b() {\n    1\n}"),
        Edit::Replace { path: "src/lib.rs".into(), old: "fn a".into(), new: "fn z".into(), count: 2 },
        replace("run.sh", "/bin/sh", "/bin/bash"),
        replace("latin1.txt", "one\r\n", "eins\r\n"),
        write("new/folder/file.txt", "hello\n"),
        write("a-b", "one"),
        delete("src/deep/down/x.txt"),
        rename("a/b", "a/c"),
        write("a/b/now-a-folder", "4"),
    ];
    let edited = repository.edit(&tree, &edits).unwrap();
    assert_eq!(
        edited.changed,
        [
            "a-b",
            "a/b",
            "a/b/now-a-folder",
            "a/c",
            "latin1.txt",
            "new/folder/file.txt",
            "run.sh",
            "src/deep/down/x.txt",
            "src/lib.rs"
        ]
    );
    // The same by hand.
    place.user(&["checkout", "-q", "-f", "HEAD"]);
    place.write("src/lib.rs", "fn z() {}\nfn b() {\n    1\n}\nfn z2() {}\n");
    place.write("run.sh", "#!/bin/bash\n");
    place.write("latin1.txt", b"caf\xe9 eins\r\ntwo\r\n");
    place.write("new/folder/file.txt", "hello\n");
    place.write("a-b", "one");
    place.user(&["rm", "-q", "src/deep/down/x.txt"]);
    place.user(&["mv", "a/b", "a/c"]);
    place.write("a/b/now-a-folder", "4");
    place.user(&["add", "-A"]);
    assert_eq!(edited.tree.as_str(), place.user(&["write-tree"]));
    // The old tree is as it was, the same edits make the same tree, and no edit at all changes nothing.
    assert_eq!(text(&repository, &tree, "a/b"), "2");
    assert_eq!(repository.edit(&tree, &edits).unwrap(), edited);
    assert_eq!(repository.edit(&tree, &[]).unwrap().tree, tree);
    let all: Vec<Edit> =
        repository.snapshot(&tree).unwrap().entries().unwrap().iter().map(|e| delete(&e.path.to_string())).collect();
    let empty = repository.edit(&tree, &all).unwrap().tree;
    assert!(repository.snapshot(&empty).unwrap().entries().unwrap().is_empty());
    assert_eq!(text(&repository, &repository.edit(&empty, &[write("x", "y")]).unwrap().tree, "x"), "y");
}

#[test]
fn an_edit_that_cannot_be_meant_is_refused_with_a_way_out_and_changes_nothing() {
    let place = Place::new();
    place.write("src/lib.rs", "one\ntwo\none\n");
    place.write("crlf.txt", "one\r\ntwo\r\n");
    place.write("README.md", "x");
    std::os::unix::fs::symlink("/etc/passwd", place.clone().join("link")).unwrap();
    place.commit();
    let (repository, tree) = place.fetched();
    let cases: Vec<(Vec<Edit>, &str)> = vec![
        (vec![replace("src/lib.rs", "one", "1")], "2 times, expected was 1 (lines 1, 3)"),
        (vec![replace("src/lib.rs", "three", "3")], "not in `src/lib.rs`"),
        (vec![replace("src/lib.rs", "one  two", "3")], "other white space"),
        (vec![replace("crlf.txt", "one\ntwo", "3")], "CR LF"),
        (vec![replace("src/lib.rs", "", "3")], "empty"),
        (vec![replace("src/lib.rs", "two", "two")], "the same"),
        (vec![replace("nowhere", "a", "b")], "no file `nowhere`"),
        (vec![replace("src", "a", "b")], "a folder"),
        (vec![replace("link", "etc", "b")], "symbolic link"),
        (vec![write("link", "b")], "symbolic link"),
        (vec![write("link/x", "b")], "is a file"),
        (vec![rename("link", "other")], "symbolic link"),
        (vec![write("src", "b")], "a folder"),
        (vec![write("src/lib.rs/x", "b")], "`src/lib.rs` is a file"),
        (vec![write("../x", "b")], "`..`"),
        (vec![write("/etc/x", "b")], "absolute"),
        (vec![write(".git/hooks/x", "b")], "git's own folder"),
        (vec![write("a/.GIT/x", "b")], "git's own folder"),
        (vec![write("git~1/x", "b")], "git's own folder"),
        (vec![write(".g\u{200c}it/x", "b")], "invisible"),
        (vec![write("a\\b", "b")], "backslash"),
        (vec![write("a\u{7}", "b")], "control"),
        (vec![write("x ", "b")], "space"),
        (vec![write("readme.MD", "b")], "upper and lower case"),
        (vec![write("SRC/x", "b")], "upper and lower case"),
        (vec![rename("README.md", "src/lib.rs")], "is a file already"),
        (vec![rename("README.md", "README.md")], ""),
        (vec![delete("src")], "folder"),
        (vec![delete("nowhere")], "no file"),
        (vec![delete("README.md"), replace("README.md", "x", "y")], "no file"),
        (vec![write("ok", "1"), delete("nowhere")], "no file"),
        (vec![write("x", "1"); 201], "more than 200"),
        (vec![write("x", &"a".repeat(17 << 20))], "more than"),
    ];
    for (edits, says) in cases {
        if says.is_empty() {
            assert_eq!(repository.edit(&tree, &edits).unwrap().tree, tree);
            continue;
        }
        let error = repository.edit(&tree, &edits).unwrap_err();
        assert!(error.is_reply() && error.to_string().contains(says), "{:?}: {error}", edits[0]);
    }
    // Only the case of a name: the old one is gone by then.
    let renamed = repository.edit(&tree, &[rename("README.md", "readme.md")]).unwrap();
    assert_eq!(text(&repository, &renamed.tree, "readme.md"), "x");
}

#[test]
fn a_difference_is_read_whole_and_applies_again_to_the_same_tree() {
    let place = Place::new();
    let long: String = (1..=40).map(|n| format!("line {n}\n")).collect();
    place.write("src/long.txt", &long);
    place.write("src/moved.txt", long.replace("line", "row"));
    place.write("gone.txt", "a\nb\n");
    place.write("data.bin", b"\0\x01\x02");
    place.write("tricky \"name\"\t.txt", "x\n");
    place.write("no-end", "a\nb");
    std::os::unix::fs::symlink("src/long.txt", place.clone().join("link")).unwrap();
    place.commit();
    let (_, _) = place.fetched();
    place.write("src/long.txt", long.replace("line 20\n", "line twenty\n").replace("line 35\n", ""));
    place.user(&["mv", "src/moved.txt", "src/there.txt"]);
    place.write("src/there.txt", long.replace("line", "row").replace("row 7\n", "row seven\n"));
    place.user(&["rm", "-q", "gone.txt", "link"]);
    place.write("link", "a file now\n");
    place.write("data.bin", b"\0\x01\x03");
    place.write("tricky \"name\"\t.txt", "-- y\n++ z\n");
    place.write("no-end", "a\nc");
    place.write("pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n");
    place.write("empty", "");
    place.user(&["add", "-A"]);
    place.user(&["update-index", "--chmod=+x", "empty"]);
    place.user(&["commit", "-q", "-m", "y"]);
    let repository = place.repository();
    let base = repository.fetch(&place.user(&["rev-parse", "HEAD~1"]), &Access::none()).unwrap().tree;
    let new = repository.fetch("main", &Access::none()).unwrap().tree;
    let diff = repository.diff(&base, &new).unwrap();
    let by_name: BTreeMap<&str, _> = diff.changes.iter().map(|change| (change.path.as_str(), change)).collect();
    let status: Vec<(&str, Status, u32, u32)> =
        diff.changes.iter().map(|c| (c.path.as_str(), c.status, c.added, c.removed)).collect();
    assert_eq!(
        status,
        [
            ("data.bin", Status::Modified, 0, 0),
            ("empty", Status::Added, 0, 0),
            ("gone.txt", Status::Deleted, 0, 2),
            ("link", Status::TypeChanged, 1, 1),
            ("no-end", Status::Modified, 1, 1),
            ("pointer", Status::Added, 3, 0),
            ("src/long.txt", Status::Modified, 1, 2),
            ("src/there.txt", Status::Renamed, 1, 1),
            ("tricky \"name\"\t.txt", Status::Modified, 2, 1),
        ]
    );
    assert!(by_name["data.bin"].binary && by_name["data.bin"].new_bytes == 3);
    assert!(by_name["pointer"].lfs_pointer && !by_name["src/long.txt"].lfs_pointer);
    assert_eq!(by_name["src/there.txt"].old_path.as_deref(), Some("src/moved.txt"));
    assert_eq!((by_name["link"].old_mode, by_name["link"].new_mode), (Mode::Symlink, Mode::File));
    assert_eq!((by_name["empty"].old_mode, by_name["empty"].new_mode), (Mode::Absent, Mode::Executable));
    let long = &by_name["src/long.txt"].hunks;
    assert_eq!((long.len(), long[0].old_start, long[1].old_start, long[1].new_start), (2, 17, 32, 32));
    assert!(
        long[0].lines.contains(&Line::Removed("line 20".into()))
            && long[0].lines.contains(&Line::Added("line twenty".into()))
    );
    assert_eq!(diff.lines(), (9, 8));
    // As text, too.
    let patch = repository.patch_text(&base, &new).unwrap();
    assert_eq!(repository.apply(&base, &patch).unwrap(), new);
    let error = repository.apply(&new, &patch).unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error}");
    assert_eq!(repository.apply(&base, b"").unwrap(), base);
    assert_eq!(repository.diff(&base, &base).unwrap().changes, []);
    // And a patch as text cannot do what an edit cannot.
    for path in [".git/config", "../x", "/etc/x", "a/../../x"] {
        let evil = format!(
            "diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+x\n"
        );
        assert!(repository.apply(&base, evil.as_bytes()).is_err(), "{path}");
    }
}

#[test]
fn a_change_is_carried_over_to_newer_code_unless_both_changed_the_same_lines() {
    let place = Place::new();
    let long: String = (1..=40).map(|n| format!("line {n}\n")).collect();
    place.write("a.txt", &long);
    place.commit();
    let (repository, base) = place.fetched();
    let new = repository.edit(&base, &[replace("a.txt", "line 10\n", "line ten\n")]).unwrap().tree;
    let onto = repository.edit(&base, &[replace("a.txt", "line 30\n", "line thirty\n"), write("b", "x")]).unwrap().tree;
    let both = repository.carry(&base, &new, &onto).unwrap();
    let merged = text(&repository, &both, "a.txt");
    assert!(merged.contains("line ten\n") && merged.contains("line thirty\n") && text(&repository, &both, "b") == "x");
    assert_eq!(repository.carry(&base, &new, &base).unwrap(), new);
    let clash = repository.edit(&base, &[replace("a.txt", "line 10\n", "line X\n")]).unwrap().tree;
    let error = repository.carry(&base, &new, &clash).unwrap_err();
    assert!(matches!(&error, Error::Refused(text) if text.contains("a.txt")), "{error}");
    // A branch of the private repository shows it.
    let commit = repository.commit(&both, &[], "a message\n\nwith -- odd $(things)", 1_700_000_000).unwrap();
    assert_eq!(repository.branch("nightcrew/fix-1").unwrap(), None);
    repository.set_branch("nightcrew/fix-1", &commit).unwrap();
    assert_eq!(repository.branch("nightcrew/fix-1").unwrap(), Some(commit.clone()));
    assert_eq!(repository.commit(&both, &[], "a message\n\nwith -- odd $(things)", 1_700_000_000).unwrap(), commit);
    assert!(
        repository.set_branch("--delete", &commit).is_err() && repository.set_branch("refs/heads/x", &commit).is_err()
    );
}

#[test]
fn a_worktree_holds_the_files_of_its_tree_and_follows_edits() {
    let place = Place::new();
    place.write("src/a.txt", "a\n");
    place.write("src/b/c.txt", "c\n");
    place.write("run.sh", "#!/bin/sh\n");
    std::os::unix::fs::symlink("../outside", place.clone().join("src/link")).unwrap();
    place.user(&["add", "-A"]);
    place.user(&["update-index", "--chmod=+x", "run.sh"]);
    place.user(&["commit", "-q", "-m", "x"]);
    let (repository, tree) = place.fetched();
    let worktrees = place.worktrees();
    let mut worktree = worktrees.fresh(&repository, &tree).unwrap();
    let expected = BTreeMap::from([
        ("run.sh".to_owned(), (0o755, b"#!/bin/sh\n".to_vec())),
        ("src/a.txt".to_owned(), (0o644, b"a\n".to_vec())),
        ("src/b/c.txt".to_owned(), (0o644, b"c\n".to_vec())),
        ("src/link".to_owned(), (0o644, b"../outside".to_vec())),
    ]);
    assert_eq!(files(worktree.path()), expected);
    let edits =
        [delete("src/b/c.txt"), write("src/b", "file\n"), rename("run.sh", "bin/run"), replace("src/a.txt", "a", "A")];
    let edited = repository.edit(&tree, &edits).unwrap().tree;
    worktree.update(&repository, &edited).unwrap();
    assert_eq!(worktree.tree(), &edited);
    assert_eq!(files(worktree.path()), files(worktrees.fresh(&repository, &edited).unwrap().path()));
    worktree.update(&repository, &tree).unwrap();
    assert_eq!(files(worktree.path()), expected);
    let path = worktree.path().to_owned();
    drop(worktree);
    assert!(!path.exists());
    // What a crash leaves is gone when the folder is opened again.
    std::mem::forget(worktrees.fresh(&repository, &tree).unwrap());
    place.worktrees();
    assert_eq!(std::fs::read_dir(place.folder.path().join("worktrees")).unwrap().count(), 0);
}

/// Repositories of many kinds, for parity.
fn kinds() -> Vec<(&'static str, Place)> {
    let mut all = Vec::new();
    let plain = Place::new();
    for n in 0..30 {
        plain.write(
            &format!("src/m{n}/mod.rs"),
            format!("pub fn f{n}() -> u32 {{\n    {n}\n}}\n\n#[test]\nfn t() {{ assert_eq!(f{n}(), {n}); }}\n"),
        );
    }
    plain.write("README.md", "# Ünïcode ✓\n\nfn in prose\n");
    plain.commit();
    all.push(("plain", plain));
    let odd = Place::new();
    odd.write("latin1.txt", b"caf\xe9 fn\n");
    odd.write("utf16.txt", b"\xff\xfef\0n\0\n\0");
    odd.write("binary.bin", b"fn\0fn");
    odd.write("nul-late.txt", [b"fn\n".as_slice(), &[b'x'; 9000], b"\nfn\0\n"].concat());
    odd.write("crlf.txt", "fn\r\nx\r\n");
    odd.write("no-end.txt", "fn");
    odd.write("empty", "");
    odd.write("long-line.js", format!("fn{}fn\n", "x".repeat(100_000)));
    odd.write("many.txt", "fn fn\n".repeat(500));
    odd.write("big.txt", "fn\n".repeat(3 << 20));
    odd.write("a b/-rf", "fn\n");
    odd.write("a\tb\nc\u{202e}d", "fn\n");
    odd.write("w\\x", "fn\n");
    odd.write(".hidden/x", "fn\n");
    odd.write(".gitignore", "ignored\n");
    odd.write("ignored", "fn, and yet in the tree\n");
    use std::os::unix::ffi::OsStrExt;
    std::fs::write(odd.clone().join(std::ffi::OsStr::from_bytes(b"bytes-\xff\xfe")), "fn\n").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", odd.clone().join("link")).unwrap();
    std::os::unix::fs::symlink("fn-nowhere", odd.clone().join("dangling")).unwrap();
    std::os::unix::fs::symlink("a b", odd.clone().join("to-folder")).unwrap();
    odd.commit();
    all.push(("odd", odd));
    let many = Place::new();
    for n in 0..900 {
        many.write(&format!("d{}/e{}/f{n}.txt", n % 7, n % 3), format!("{n}\nneedle {}\n", n % 5));
    }
    many.commit();
    all.push(("many", many));
    let sub = Place::new();
    sub.write("a.txt", "fn\n");
    sub.commit();
    let inner = sub.folder.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    user_git(&inner, &["init", "-q", "-b", "main"]);
    std::fs::write(inner.join("x.txt"), "fn\n").unwrap();
    user_git(&inner, &["add", "x.txt"]);
    user_git(&inner, &["commit", "-q", "-m", "x"]);
    sub.user(&["submodule", "add", "-q", inner.to_str().unwrap(), "vendor/inner"]);
    sub.commit();
    all.push(("submodule", sub));
    let empty = Place::new();
    empty.commit();
    all.push(("empty", empty));
    all
}

#[test]
fn both_bindings_answer_alike_about_the_same_code() {
    let reads = [
        "src/m1/mod.rs",
        "README.md",
        "latin1.txt",
        "utf16.txt",
        "binary.bin",
        "crlf.txt",
        "empty",
        "long-line.js",
        "many.txt",
        "big.txt",
        "link",
        "dangling",
        "to-folder",
        "to-folder/-rf",
        "link/x",
        "a b/-rf",
        "w\\x",
        "ignored",
        "src",
        "nowhere",
        "mod.rs",
        "../x",
        "/etc/passwd",
        ".git/config",
        "vendor/inner",
        "vendor/inner/x.txt",
        "",
        ".",
        "nul-late.txt",
        "f1.txt",
    ];
    let searches = [
        SearchInput { pattern: "fn".into(), ..Default::default() },
        SearchInput { pattern: "FN".into(), ignore_case: true, around: Some(2), ..Default::default() },
        SearchInput { pattern: "^fn$".into(), ..Default::default() },
        SearchInput { pattern: "needle [13]".into(), ..Default::default() },
        SearchInput { pattern: "needle".into(), skip: Some(130), around: Some(1), ..Default::default() },
        SearchInput { pattern: "needle".into(), path: Some("d3/e1".into()), ..Default::default() },
        SearchInput { pattern: "fn".into(), glob: Some("*.rs".into()), skip: Some(20), ..Default::default() },
        SearchInput { pattern: "fn".into(), glob: Some("src/**/mod.rs".into()), ..Default::default() },
        SearchInput { pattern: "(".into(), ..Default::default() },
        SearchInput { pattern: "a\\nb".into(), ..Default::default() },
        SearchInput { pattern: "ï|é".into(), ..Default::default() },
        SearchInput { pattern: ".".into(), path: Some("nowhere".into()), ..Default::default() },
        SearchInput { pattern: "x".into(), glob: Some("[".into()), ..Default::default() },
        SearchInput { pattern: "(((((a{50}){50}){50}){50}){50})".into(), ..Default::default() },
    ];
    let trees = [
        TreeInput::default(),
        TreeInput { path: Some("src".into()), ..Default::default() },
        TreeInput { path: Some("d1".into()), skip: Some(5), ..Default::default() },
        TreeInput { glob: Some("*.txt".into()), ..Default::default() },
        TreeInput { glob: Some("*.txt".into()), skip: Some(290), ..Default::default() },
        TreeInput { glob: Some("{src,d2}/**".into()), ..Default::default() },
        TreeInput { path: Some("nowhere".into()), ..Default::default() },
        TreeInput { path: Some("a.txt".into()), ..Default::default() },
        TreeInput { path: Some("/".into()), ..Default::default() },
        TreeInput { path: Some("vendor".into()), ..Default::default() },
        TreeInput { path: Some(".git".into()), ..Default::default() },
    ];
    for (kind, place) in kinds() {
        let (repository, tree) = place.fetched();
        let worktree = place.worktrees().fresh(&repository, &tree).unwrap();
        let bindings = [
            Code::Tree(repository.snapshot(&tree).unwrap()),
            Code::Directory(Directory::open(worktree.path()).unwrap()),
            Code::Directory(Directory::open(&place.clone()).unwrap()),
        ];
        let answers = |ask: &dyn Fn(&Code) -> Result<String, Error>, what: &str| {
            let answers: Vec<String> = bindings
                .iter()
                .map(|code| match ask(code) {
                    Ok(text) => text,
                    Err(error) => {
                        assert!(error.is_reply(), "{kind}: {what}: {error}");
                        format!("error: {error}")
                    }
                })
                .collect();
            for other in &answers[1..] {
                assert_eq!(&answers[0], other, "{kind}: {what}");
            }
            assert!(answers[0].len() < 16_000, "{kind}: {what}: {}", answers[0].len());
            assert!(!answers[0].contains("root:"), "{kind}: {what}: {}", answers[0]);
        };
        for path in reads {
            for from_line in [None, Some(2), Some(400)] {
                let input = ReadInput { path: path.into(), from_line, lines: Some(50) };
                answers(&|code| code.read(&input), path);
            }
        }
        for input in &searches {
            answers(&|code| code.search(input), &input.pattern);
        }
        for input in &trees {
            answers(&|code| code.tree(input), &format!("{input:?}"));
        }
    }
}

#[test]
fn answers_are_paged_and_pages_follow_each_other_without_gap() {
    let place = Place::new();
    for n in 0..50 {
        place.write(&format!("f{n:02}.txt"), "needle\nother\nneedle again\n".repeat(1 + n % 4));
    }
    place.write("z-many.txt", "needle\n".repeat(100));
    place.commit();
    let (repository, tree) = place.fetched();
    let code = Code::Tree(repository.snapshot(&tree).unwrap());
    let (mut skip, mut seen, mut pages) = (0, Vec::new(), 0);
    loop {
        let input = SearchInput { pattern: "needle".into(), skip: Some(skip), ..Default::default() };
        let page = code.search(&input).unwrap();
        let mut file = String::new();
        for line in page.lines() {
            match line.strip_prefix("  ") {
                Some(found) if !found.starts_with('[') => {
                    seen.push(format!("{file}:{}", found.split(':').next().unwrap()))
                }
                Some(_) => {}
                None => file = line.to_owned(),
            }
        }
        pages += 1;
        match page.split("go on with skip ").nth(1) {
            Some(next) => skip = next.trim_end_matches(']').parse().unwrap(),
            None => {
                assert!(page.contains("[70 more lines of this file match]"), "{page}");
                assert!(page.ends_with("[346 lines match in 51 of 51 files]"), "{page}");
                break;
            }
        }
    }
    let unique: std::collections::BTreeSet<_> = seen.iter().collect();
    assert_eq!((seen.len(), unique.len(), pages), (276, 276, 3), "{seen:?}");
    let read = |from_line| code.read(&ReadInput { path: "z-many.txt".into(), from_line, lines: Some(60) }).unwrap();
    assert!(read(None).ends_with("60: needle\n[100 lines in all; go on with from_line 61]"));
    assert!(read(Some(61)).ends_with("100: needle\n[100 lines in all]"));
}

#[test]
fn no_path_and_no_swapped_link_leads_out_of_a_directory() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    std::fs::create_dir_all(root.join("a/b")).unwrap();
    std::fs::create_dir_all(folder.path().join("outside/b")).unwrap();
    std::fs::write(root.join("a/b/secret"), "inside").unwrap();
    std::fs::write(folder.path().join("outside/b/secret"), "OUTSIDE").unwrap();
    std::fs::write(folder.path().join("outside/secret"), "OUTSIDE").unwrap();
    let outside = folder.path().join("outside");
    std::os::unix::fs::symlink(&outside, root.join("out")).unwrap();
    std::os::unix::fs::symlink("../outside/secret", root.join("link")).unwrap();
    std::os::unix::fs::symlink("/proc/self/environ", root.join("env")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let directory = Directory::open(&root).unwrap();
    let parts = [
        "a",
        "b",
        "..",
        ".",
        "",
        "out",
        "secret",
        "link",
        "env",
        "pipe",
        "outside",
        "%2e%2e",
        "..\\",
        "\u{ff0e}\u{ff0e}",
        "a\0",
        "~",
        "c",
    ];
    std::thread::scope(|scope| {
        // Swaps the folder for a link to the outside and back, all the time.
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                std::fs::rename(root.join("a"), root.join("c")).unwrap();
                std::os::unix::fs::symlink(&outside, root.join("a")).unwrap();
                std::fs::remove_file(root.join("a")).unwrap();
                std::fs::rename(root.join("c"), root.join("a")).unwrap();
            }
        });
        let mut seed = 7u64;
        let mut next = || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as usize
        };
        let (mut inside, mut opened) = (0, 0);
        for n in 0..10_000 {
            let path = match n % 3 {
                0 => "a/b/secret".to_owned(),
                _ => (0..1 + next() % 5).map(|_| parts[next() % parts.len()]).collect::<Vec<_>>().join("/"),
            };
            let Ok(path) = RepoPath::parse(&path) else { continue };
            if let Ok(content) = directory.read(&path, 1000) {
                assert!(!content.starts_with(b"OUTSIDE") && !content.contains(&0), "{path}");
                inside += usize::from(content == b"inside");
                opened += 1;
            }
            if n % 500 == 0 {
                for path in directory.entries().unwrap() {
                    assert!(!path.to_string().starts_with("out/") && path.to_string() != "a/secret", "{path}");
                }
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(inside > 0 && opened > inside, "{inside} {opened}");
    });
}

#[test]
fn a_tree_is_made_of_two_with_modes_and_contents_as_they_are() {
    use nightcrew::workspace::Pick;
    let place = Place::new();
    place.write("src/a.rs", "old\n");
    place.write("tests/moved.rs", "test\n");
    place.write("tests/gone.rs", "test\n");
    place.write("tests/data/x.bin", b"\0old");
    place.write("keep.txt", "keep\n");
    place.commit();
    let (repository, base) = place.fetched();
    place.write("src/a.rs", "new\n");
    place.user(&["mv", "tests/moved.rs", "tests/here.rs"]);
    std::fs::remove_file(place.clone().join("tests/gone.rs")).unwrap();
    std::fs::remove_dir_all(place.clone().join("tests/data")).unwrap();
    place.write("tests/data", "a file now\n");
    place.write("tests/run.sh", "#!/bin/sh\n");
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(place.clone().join("tests/run.sh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    place.commit();
    let new = repository.fetch("main", &Access::none()).unwrap().tree;
    let as_in = |path: &str| Pick::AsIn(path.into());
    let picks = [
        as_in("tests/moved.rs"),
        as_in("tests/here.rs"),
        as_in("tests/gone.rs"),
        as_in("tests/data"),
        as_in("tests/data/x.bin"),
        as_in("tests/run.sh"),
        Pick::Text { path: "keep.txt".into(), content: "kept\n".into() },
    ];
    let made = repository.pick(&base, &new, &picks).unwrap();
    let written = place.worktrees().fresh(&repository, &made).unwrap();
    let wanted: BTreeMap<String, (u32, Vec<u8>)> = [
        ("src/a.rs", 0o644, "old\n"),
        ("tests/here.rs", 0o644, "test\n"),
        ("tests/data", 0o644, "a file now\n"),
        ("tests/run.sh", 0o755, "#!/bin/sh\n"),
        ("keep.txt", 0o644, "kept\n"),
    ]
    .map(|(path, bits, content)| (path.to_owned(), (bits, content.as_bytes().to_vec())))
    .into();
    assert_eq!(files(written.path()), wanted);
    assert_eq!(repository.pick(&base, &new, &[]).unwrap(), base);
    for bad in ["../x", "/x", ""] {
        assert!(repository.pick(&base, &new, &[as_in(bad)]).is_err(), "{bad}");
    }
    // The same by edits: what was below a folder goes before a file takes its name.
    let edits = [delete("tests/data/x.bin"), write("tests/data", "a file now\n")];
    let edited = repository.edit(&base, &edits).unwrap().tree;
    assert_eq!(text(&repository, &edited, "tests/data"), "a file now\n");
}

#[test]
fn files_are_put_back_whatever_stands_in_their_way() {
    use std::os::unix::fs::symlink;
    let place = Place::new();
    for (path, content) in [("a", "a\n"), ("deep/er/b", "b\n"), ("deep/c", "c\n"), ("d", "d\n"), ("same", "same\n")] {
        place.write(path, content);
    }
    place.commit();
    let (repository, tree) = place.fetched();
    let snapshot = repository.snapshot(&tree).unwrap();
    let folder = place.folder.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    snapshot.write(&folder).unwrap();
    let whole = files(&folder);

    // A command had its way: links that lead out, folders for files, files for folders.
    let outside = place.folder.path().join("outside");
    std::fs::create_dir_all(outside.join("er")).unwrap();
    std::fs::write(outside.join("er/b"), "mine\n").unwrap();
    std::fs::write(outside.join("target"), "mine\n").unwrap();
    std::fs::remove_file(folder.join("a")).unwrap();
    symlink(outside.join("target"), folder.join("a")).unwrap();
    std::fs::remove_dir_all(folder.join("deep")).unwrap();
    symlink(&outside, folder.join("deep")).unwrap();
    std::fs::remove_file(folder.join("d")).unwrap();
    std::fs::create_dir_all(folder.join("d/x")).unwrap();
    symlink(&outside, folder.join("d/x/out")).unwrap();
    let untouched = std::fs::metadata(folder.join("same")).unwrap().modified().unwrap();
    let paths = ["a", "deep/er/b", "deep/c", "d"].map(PathBuf::from);
    snapshot.put(&paths, &folder).unwrap();
    assert_eq!(files(&folder), whole);
    assert_eq!(std::fs::metadata(folder.join("same")).unwrap().modified().unwrap(), untouched);
    assert_eq!(std::fs::read_to_string(outside.join("er/b")).unwrap(), "mine\n");
    assert_eq!(std::fs::read_to_string(outside.join("target")).unwrap(), "mine\n");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 2);

    // To another tree: a file becomes a folder, a folder a file, one goes with the folder that is empty without it.
    let edits = [delete("a"), write("a/now", "n\n"), delete("deep/er/b"), write("deep/er", "file\n"), delete("d")];
    let other =
        edits.iter().fold(tree.clone(), |tree, edit| repository.edit(&tree, std::slice::from_ref(edit)).unwrap().tree);
    std::fs::write(folder.join("deep/er/left"), "by a command\n").unwrap();
    let paths = ["a", "a/now", "deep/er/b", "deep/er", "d"].map(PathBuf::from);
    repository.snapshot(&other).unwrap().put(&paths, &folder).unwrap();
    let names: Vec<_> = files(&folder).into_keys().collect();
    assert_eq!(names, ["a/now", "deep/c", "deep/er", "same"]);
    for bad in ["../x", "/etc/x", "a/../../x", ""] {
        assert!(snapshot.put(&[bad.into()], &folder).is_err(), "{bad:?}");
    }
}
