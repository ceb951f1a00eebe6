//! Passages of files, as an activity: what stands at the places that scanners report.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::activity::{LinesRequest, Passage, Passages};
use crate::ports::durable::Stop;
use crate::workspace::{Error, RepoPath, Repository};

use super::executor::Executor;
use super::workshop::workspace_stop;

/// A file above this is no source code, in bytes.
const MOST_FILE: u64 = 4 * 1024 * 1024;
/// Lines of one passage, and characters of one line.
const MOST_LINES: u32 = 200;
const MOST_LINE: usize = 400;

impl Executor {
    /// The wanted passages of a tree of the run's repository.
    pub(super) async fn lines(&self, request: &LinesRequest) -> Result<Passages, Stop> {
        let request = request.clone();
        self.with_source(move |_, source| passages(&source.repository, &request).map_err(workspace_stop)).await
    }
}

/// Reads each file once. Blocking.
fn passages(repository: &Arc<Repository>, request: &LinesRequest) -> Result<Passages, Error> {
    let tree = repository.snapshot(&request.tree)?;
    let mut files: HashMap<&str, Option<String>> = HashMap::new();
    let mut texts = Vec::with_capacity(request.wanted.len());
    for wanted in &request.wanted {
        if !files.contains_key(wanted.path.as_str()) {
            let read = RepoPath::parse(&wanted.path).and_then(|path| tree.read(&path, MOST_FILE));
            let text = match read {
                Ok(bytes) => String::from_utf8(bytes).ok().filter(|text| !text.contains('\0')),
                Err(error) if error.is_reply() => None,
                Err(error) => return Err(error),
            };
            files.insert(&wanted.path, text);
        }
        let text = files.get(wanted.path.as_str()).and_then(Option::as_ref);
        texts.push(text.map(|text| passage(text, wanted)));
    }
    Ok(Passages { texts })
}

fn passage(text: &str, wanted: &Passage) -> String {
    let Some(skip) = wanted.from.checked_sub(1) else { return String::new() };
    let count = wanted.to.saturating_sub(skip).min(MOST_LINES);
    let lines = text.lines().skip(skip as usize).take(count as usize);
    let cut = |line: &str| line.chars().filter(|c| *c == '\t' || !c.is_control()).take(MOST_LINE).collect::<String>();
    lines.map(cut).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::workspace::{Access, Git, Origin};

    fn git(folder: &std::path::Path, arguments: &[&str]) {
        let identity = ["-c", "user.name=U", "-c", "user.email=u@example", "-c", "commit.gpgsign=false"];
        let mut command = std::process::Command::new("git");
        command.args(identity).args(arguments).current_dir(folder);
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        assert!(command.output().unwrap().status.success(), "git {arguments:?}");
    }

    #[test]
    fn passages_are_read_from_a_tree_and_what_is_no_text_or_not_there_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let origin = folder.path().join("clone");
        std::fs::create_dir_all(origin.join("src")).unwrap();
        std::fs::write(origin.join("src/a.py"), "one\ntwo\nthree\n").unwrap();
        std::fs::write(origin.join("b.bin"), b"a\0b").unwrap();
        std::fs::write(origin.join("latin"), b"caf\xe9").unwrap();
        git(&origin, &["init", "-q", "-b", "main"]);
        git(&origin, &["add", "."]);
        git(&origin, &["commit", "-q", "-m", "x"]);
        let path = option_env!("PATH").unwrap_or("/usr/local/bin:/usr/bin:/bin");
        let program = Git::find(path.as_ref()).unwrap();
        let origin = Origin::folder(&origin).unwrap();
        let repository = Repository::open(&program, &folder.path().join("private"), origin).unwrap();
        let tree = repository.fetch("main", &Access::none()).unwrap().tree;
        let wanted = |path: &str, from, to| Passage { path: path.into(), from, to };
        let all = [
            wanted("src/a.py", 2, 2),
            wanted("src/a.py", 2, 5),
            wanted("src/a.py", 0, 0),
            wanted("src/none.py", 1, 1),
            wanted("src", 1, 1),
            wanted("b.bin", 1, 1),
            wanted("latin", 1, 1),
            wanted("../clone/src/a.py", 1, 1),
            wanted("/etc/passwd", 1, 1),
        ];
        let read = passages(&repository, &LinesRequest { tree, wanted: all.to_vec() }).unwrap();
        let expected = [Some("two"), Some("two\nthree"), Some(""), None, None, None, None, None, None];
        assert_eq!(read.texts.iter().map(Option::as_deref).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_passage_is_what_stands_between_two_lines_as_far_as_they_exist() {
        let text = "one\r\ntwo\n\tthree\u{1b}[2J\nfour";
        let of = |from, to| passage(text, &Passage { path: String::new(), from, to });
        assert_eq!(of(1, 2), "one\ntwo");
        assert_eq!(of(3, 3), "\tthree[2J");
        assert_eq!(of(4, 9), "four");
        assert_eq!(of(9, 12), "");
        assert_eq!(of(0, 0), "");
        assert_eq!(of(3, 2), "");
        let long = "x".repeat(1_000);
        assert_eq!(passage(&long, &Passage { path: String::new(), from: 1, to: 1 }).len(), MOST_LINE);
        let many = "x\n".repeat(1_000);
        assert_eq!(passage(&many, &Passage { path: String::new(), from: 1, to: u32::MAX }).lines().count(), 200);
    }
}
