//! For tests: a repository of small texts and a sandbox in which its tests "run".
//!
//! A tree is a map of files. A file below `tests/` has one test a line: `NAME: FILE has TEXT`, `NAME: FILE lacks TEXT`,
//! `NAME: fails`, `NAME: fails once` (in the first of two runs), or `NAME: FILE unlucky TEXT` (fails in the first run where the
//! file has the text). A text `NOT RUST` in any file keeps the suite from being
//! built. The suite writes JUnit.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use serde_json::{Value, json};

use crate::base::hash::Hash;
use crate::domain::activity::{Activity, CodeRequest, Difference, NewTree, ToolAnswer, ToolRequest};
use crate::domain::code::{Change, Hunk, Line, Mode, Status, TreeDiff, TreeId};
use crate::domain::finding::FindingsRequest;
use crate::domain::run::Failure;
use crate::domain::sandbox::{CommandReceipt, Prepared, SandboxAnswer, SandboxRequest, Workspace};
use crate::ports::durable::Stop;

pub(in crate::steps) type Files = BTreeMap<String, String>;

/// The repository, its heads and its trees.
pub(in crate::steps) struct Repo {
    trees: RefCell<BTreeMap<TreeId, Files>>,
    /// What `Workspace` with this attempt finds; the last one stays.
    pub heads: Vec<Files>,
    /// Tests that an earlier run remembered.
    pub tests_before: Option<i64>,
    /// What the sandbox says instead of running anything.
    pub broken: Option<Stop>,
    /// `Code::Apply` gives another tree.
    pub lossy: bool,
}

pub(in crate::steps) fn files(list: &[(&str, &str)]) -> Files {
    list.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
}

impl Repo {
    pub fn new(heads: Vec<Files>) -> Self {
        Self { trees: RefCell::default(), heads, tests_before: None, broken: None, lossy: false }
    }

    /// What `World::work` answers.
    pub fn work(self) -> impl FnMut(&Activity) -> Result<Value, Stop> + 'static {
        let repo = Rc::new(self);
        move |activity| repo.answer(activity)
    }

    fn put(&self, files: Files) -> TreeId {
        let id: TreeId = Hash::of(json!(files).to_string()).to_string()[..40].parse().unwrap();
        self.trees.borrow_mut().insert(id.clone(), files);
        id
    }

    fn get(&self, tree: &TreeId) -> Files {
        self.trees.borrow()[tree].clone()
    }

    fn answer(&self, activity: &Activity) -> Result<Value, Stop> {
        Ok(match activity {
            Activity::Workspace { attempt } => {
                let at = (*attempt as usize).min(self.heads.len() - 1);
                let tree = self.put(self.heads[at].clone());
                json!(Workspace {
                    origin: "acme/api".into(),
                    reference: "main".into(),
                    commit: tree.as_str().parse().unwrap(),
                    tree,
                    bound: "path".into(),
                })
            }
            Activity::Environment { base } => {
                let _known = self.get(base);
                json!(Prepared {
                    environment: Hash::of("environment"),
                    built: false,
                    duration_ms: 1,
                    receipts: Vec::new(),
                    sandbox: "sandboxd (bubblewrap)".into(),
                    billed_ms: 0
                })
            }
            Activity::Sandbox(request) => match &self.broken {
                Some(stop) => return Err(stop.clone()),
                None => json!(self.suite(request)),
            },
            Activity::Code(request) => self.code(request)?,
            Activity::Tool(request) => json!(self.tool(request)),
            Activity::Findings(FindingsRequest::Remember { .. }) => json!({"before": self.tests_before}),
            other => return Err(crate::steps::failed("E-TEST", format!("no answer to a {}", other.kind()))),
        })
    }

    fn tool(&self, request: &ToolRequest) -> ToolAnswer {
        let code = request.code.as_ref().unwrap();
        let mut files = self.get(&code.tree);
        let input = |name: &str| request.input[name].as_str().unwrap_or_default().to_owned();
        match request.tool.as_str() {
            "edit" => {
                let text = files.remove(&input("path")).unwrap_or_default();
                let text =
                    if input("old").is_empty() { input("new") } else { text.replace(&input("old"), &input("new")) };
                if !text.is_empty() {
                    files.insert(input("path"), text);
                }
                ToolAnswer { tree: Some(self.put(files)), ..ToolAnswer::text("edited") }
            }
            "read" => ToolAnswer::text(files.get(&input("path")).cloned().unwrap_or_default()),
            name => ToolAnswer::text(format!("{name}: {} files", files.len())),
        }
    }

    fn code(&self, request: &CodeRequest) -> Result<Value, Stop> {
        let new_tree = |files: Files| json!(NewTree { tree: self.put(files) });
        Ok(match request {
            CodeRequest::Diff { base, new } => json!(difference(base, &self.get(base), new, &self.get(new))),
            CodeRequest::Apply { base, patch } => {
                let changes: BTreeMap<String, Option<String>> = serde_json::from_str(patch).unwrap();
                let mut files = self.get(base);
                for (path, text) in changes {
                    match text {
                        Some(text) => files.insert(path, text),
                        None => files.remove(&path),
                    };
                }
                if self.lossy {
                    files.insert("lost".into(), "bytes".into());
                }
                new_tree(files)
            }
            CodeRequest::Carry { base, new, onto } => {
                let (base, new, mut onto) = (self.get(base), self.get(new), self.get(onto));
                for path in changed(&base, &new) {
                    if onto.get(&path) != base.get(&path) {
                        let failure = Failure::new("E-CONFLICT", format!("`{path}` has changed on both sides"));
                        return Err(Stop::Failed(failure));
                    }
                    match new.get(&path) {
                        Some(text) => onto.insert(path, text.clone()),
                        None => onto.remove(&path),
                    };
                }
                new_tree(onto)
            }
            CodeRequest::Tests { base, new } => {
                let mut files = self.get(base);
                files.retain(|path, _| !is_test(path));
                files.extend(self.get(new).into_iter().filter(|(path, _)| is_test(path)));
                new_tree(files)
            }
        })
    }

    fn suite(&self, request: &SandboxRequest) -> SandboxAnswer {
        let files = self.get(&request.tree);
        let built = !files.values().any(|text| text.contains("NOT RUST"));
        let mut cases = String::new();
        let (mut count, mut failures) = (0, 0);
        for line in files.iter().filter(|(path, _)| is_test(path)).flat_map(|(_, text)| text.lines()) {
            let Some((name, rule)) = line.split_once(": ") else { continue };
            let words: Vec<&str> = rule.splitn(3, ' ').collect();
            let has = |file: &str, text: &str| files.get(file).is_some_and(|found| found.contains(text));
            let (passes, why) = match words[..] {
                [file, "has", text] => (has(file, text), format!("ParseError: {file} has no {text}")),
                [file, "lacks", text] => (!has(file, text), format!("ParseError: {file} has {text}")),
                [file, "unlucky", text] => (!has(file, text) || request.attempt > 0, "a timeout".to_owned()),
                ["fails", "once"] => (request.attempt > 0, "a timeout".to_owned()),
                ["fails"] => (false, "it always did".to_owned()),
                _ => (true, String::new()),
            };
            count += 1;
            let case = if passes {
                format!("<testcase classname=\"all\" name=\"{name}\"/>")
            } else {
                failures += 1;
                format!(
                    "<testcase classname=\"all\" name=\"{name}\"><failure message=\"{why}\">{why}</failure></testcase>"
                )
            };
            cases.push_str(&case);
        }
        let junit = format!(
            "<?xml version=\"1.0\"?><testsuites><testsuite name=\"all\" tests=\"{count}\" failures=\"{failures}\" errors=\"0\" \
             skipped=\"0\">{cases}</testsuite></testsuites>"
        );
        let (exit, stderr) = match (built, failures) {
            (false, _) => (101, "error: expected one of `!` or `::`, found `RUST`".to_owned()),
            (true, 0) => (0, String::new()),
            // Much is written when much fails.
            (true, _) => (1, "a line of no interest\n".repeat(300)),
        };
        SandboxAnswer {
            receipt: CommandReceipt {
                command: request.command.clone(),
                tree: request.tree.clone(),
                exit: Some(exit),
                signal: None,
                stopped: None,
                duration_ms: 12,
                output: Hash::of(&junit),
                environment: Hash::of("environment"),
                provider: "sandboxd".into(),
                template: String::new(),
                sandbox: String::new(),
                isolation: "bubblewrap".into(),
                gaps: Vec::new(),
                network: "none".into(),
                fresh: request.fresh,
                at: "2026-11-20T07:00:00Z".parse().unwrap(),
            },
            stdout: String::new(),
            stderr,
            junit: built.then_some(junit),
            billed_ms: 0,
        }
    }
}

fn is_test(path: &str) -> bool {
    path.starts_with("tests/")
}

fn changed(old: &Files, new: &Files) -> BTreeSet<String> {
    old.keys().chain(new.keys()).filter(|path| old.get(*path) != new.get(*path)).cloned().collect()
}

fn difference(base: &TreeId, old: &Files, tree: &TreeId, new: &Files) -> Difference {
    let paths = changed(old, new);
    let patch: BTreeMap<&String, Option<&String>> = paths.iter().map(|path| (path, new.get(path))).collect();
    let changes = paths.iter().map(|path| change(path, old.get(path), new.get(path))).collect();
    Difference {
        diff: TreeDiff { base: base.clone(), new: tree.clone(), changes },
        patch: serde_json::to_string_pretty(&patch).unwrap(),
    }
}

/// Lines at the beginning that are the same stay, the others are exchanged.
fn change(path: &str, old: Option<&String>, new: Option<&String>) -> Change {
    let lines =
        |text: Option<&String>| text.map_or(Vec::new(), |text| text.lines().map(str::to_owned).collect::<Vec<_>>());
    let (before, after) = (lines(old), lines(new));
    let same = before.iter().zip(&after).take_while(|(a, b)| a == b).count();
    let mut hunk: Vec<Line> = before[..same].iter().cloned().map(Line::Kept).collect();
    hunk.extend(before[same..].iter().cloned().map(Line::Removed));
    hunk.extend(after[same..].iter().cloned().map(Line::Added));
    let mode = |text: Option<&String>| if text.is_some() { Mode::File } else { Mode::Absent };
    Change {
        status: match (old, new) {
            (None, _) => Status::Added,
            (_, None) => Status::Deleted,
            _ => Status::Modified,
        },
        path: path.to_owned(),
        old_path: None,
        old_mode: mode(old),
        new_mode: mode(new),
        binary: false,
        lfs_pointer: false,
        new_bytes: new.map_or(0, |text| text.len() as u64),
        added: (after.len() - same) as u32,
        removed: (before.len() - same) as u32,
        hunks: vec![Hunk { old_start: u32::from(old.is_some()), new_start: 1, section: String::new(), lines: hunk }],
    }
}
