//! Which patches may leave: rules over the parsed difference of two trees, never over the text of a patch.
//!
//! A patch is refused when it touches what runs without anybody asking for it (CI, hooks, build scripts), what steers agents or
//! git, what pulls in foreign code, or the tests it is judged by; when it carries what a reviewer cannot see (binaries, links,
//! invisible characters, secrets); and when it leaves the paths or the size that the pipeline gives it. Some rules can be
//! relaxed by the pipeline's author ([`Rule::may_be_allowed`]), most cannot.
//!
//! What it does not do: prove a fix. The host runs the tests itself; these rules keep a patch from touching the scales. It reads
//! neither files nor clocks.
//!
//! Invariants: pure; every finding names a rule and a file; what is not understood (bytes that are no text, an odd name) is
//! refused; both names of a renamed file count.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};

use crate::domain::code::{Change, Line, Mode, Status, TreeDiff};
pub use crate::domain::diff::{DiffRules, Rule};

use super::redact::Redactor;

mod lines;
mod names;
mod testing;
#[cfg(test)]
mod table;

pub use lines::is_invisible;

/// Findings that are kept; one who floods the list cannot hide in it, for one is enough to refuse.
const MOST_FINDINGS: usize = 200;

/// Whether a file belongs to the tests by where it lies or how it is called. `policy::proof` takes the same view.
pub(in crate::policy) fn is_test_file(path: &str) -> bool {
    testing::is_test(path)
}

/// The rules that a file falls under by its name.
pub(in crate::policy) fn rules_of_name(path: &str) -> Vec<Rule> {
    let parts: Vec<String> = path.split(['/', '\\']).map(names::plain).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    names::meanings(&parts).into_iter().map(|(rule, _)| rule).collect()
}

/// One thing that a rule found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub rule: Rule,
    /// Empty where it is about the patch as a whole.
    pub path: String,
    /// The line afterwards (before, for lines that disappear).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// For people. Repeats nothing of the file.
    pub why: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.path.is_empty(), self.line) {
            (true, _) => f.write_str(&self.why),
            (false, None) => write!(f, "{}: {}", self.path.escape_debug(), self.why),
            (false, Some(line)) => write!(f, "{}:{line}: {}", self.path.escape_debug(), self.why),
        }
    }
}

/// The verdict over a patch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// Why it is refused. Empty: it is not.
    pub refused: Vec<Finding>,
    /// What was found and is allowed.
    pub noted: Vec<Finding>,
}

impl Judgement {
    pub fn is_accepted(&self) -> bool {
        self.refused.is_empty()
    }
}

/// A glob that cannot be read, or a rule that cannot be allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRules {
    #[error("`{glob}` is no glob: {why}")]
    Glob { glob: String, why: String },
    #[error("the rule {rule:?} holds for every patch")]
    NotToBeAllowed { rule: Rule },
}

/// The rules of one pipeline, ready to judge.
#[derive(Clone, Debug)]
pub struct DiffPolicy {
    rules: DiffRules,
    paths: Option<GlobSet>,
}

impl DiffPolicy {
    /// Errors: a glob that is none, an allowed rule that holds always.
    pub fn new(rules: DiffRules) -> Result<Self, BadRules> {
        if let Some(rule) = rules.allow.iter().find(|rule| !rule.may_be_allowed()) {
            return Err(BadRules::NotToBeAllowed { rule: *rule });
        }
        let mut set = GlobSetBuilder::new();
        for text in &rules.paths {
            let bad = |error: globset::Error| BadRules::Glob { glob: text.clone(), why: error.kind().to_string() };
            set.add(GlobBuilder::new(text).literal_separator(true).build().map_err(bad)?);
        }
        let bad = |error: globset::Error| BadRules::Glob { glob: rules.paths.join(" "), why: error.kind().to_string() };
        let paths = if rules.paths.is_empty() { None } else { Some(set.build().map_err(bad)?) };
        Ok(Self { rules, paths })
    }

    /// Judges a patch. `redactor` knows the daemon's own secrets beside the shapes of others.
    pub fn judge(&self, diff: &TreeDiff, redactor: &Redactor) -> Judgement {
        let mut findings = Findings::default();
        self.sizes(diff, &mut findings);
        for change in &diff.changes {
            for path in std::iter::once(&change.path).chain(&change.old_path) {
                if self.paths.as_ref().is_some_and(|paths| !paths.is_match(path)) {
                    findings.add(Rule::Path, path, None, "outside of the paths that the pipeline allows");
                }
                names::judge(path, &mut findings);
                if *redactor.redact(path) != **path {
                    findings.add(Rule::Secret, "", None, "a file name looks like a secret");
                }
            }
            kinds(change, &mut findings);
            lines::judge(change, redactor, &mut findings);
            testing::judge(change, &mut findings);
        }
        let (noted, refused) = findings.list.into_iter().partition(|finding| self.rules.allow.contains(&finding.rule));
        Judgement { refused, noted }
    }

    fn sizes(&self, diff: &TreeDiff, findings: &mut Findings) {
        let rules = &self.rules;
        if diff.changes.len() > rules.max_files as usize {
            let why = format!("{} files change, {} may", diff.changes.len(), rules.max_files);
            findings.add(Rule::TooManyFiles, "", None, why);
        }
        let (added, removed) = diff.lines();
        if added + removed > u64::from(rules.max_lines) {
            findings.add(
                Rule::TooManyLines,
                "",
                None,
                format!("{} lines change, {} may", added + removed, rules.max_lines),
            );
        }
        let bytes: u64 = diff.changes.iter().map(bytes_of).sum();
        if bytes > rules.max_bytes {
            findings.add(Rule::TooManyBytes, "", None, format!("{bytes} bytes appear, {} may", rules.max_bytes));
        }
    }
}

/// Bytes that appear.
fn bytes_of(change: &Change) -> u64 {
    if change.binary {
        return change.new_bytes;
    }
    let lines = change.hunks.iter().flat_map(|hunk| &hunk.lines);
    lines.map(|line| if let Line::Added(text) = line { text.len() as u64 + 1 } else { 0 }).sum()
}

/// What kind of file it was and is.
fn kinds(change: &Change, findings: &mut Findings) {
    let path = &change.path;
    let either = |mode: Mode| change.old_mode == mode || change.new_mode == mode;
    if either(Mode::Symlink) {
        findings.add(Rule::Symlink, path, None, "a symbolic link");
    }
    if either(Mode::Submodule) || either(Mode::Folder) {
        findings.add(Rule::Submodule, path, None, "a submodule");
    }
    if change.new_mode == Mode::Executable && change.old_mode != Mode::Executable {
        findings.add(Rule::Mode, path, None, "becomes executable");
    }
    if change.old_mode == Mode::Executable && change.new_mode == Mode::File {
        findings.add(Rule::Mode, path, None, "is no longer executable");
    }
    if change.status == Status::TypeChanged && !either(Mode::Symlink) && !either(Mode::Submodule) {
        findings.add(Rule::Mode, path, None, "becomes another kind of file");
    }
    // A binary that only goes away shows nothing that could hide.
    if change.binary && change.new_mode != Mode::Absent {
        findings.add(Rule::Binary, path, None, "no text");
    }
    if change.lfs_pointer {
        findings.add(Rule::Lfs, path, None, "a pointer of Git LFS, which stands for a file that nobody sees here");
    }
}

/// Collects findings.
#[derive(Default)]
struct Findings {
    list: Vec<Finding>,
}

impl Findings {
    fn add(&mut self, rule: Rule, path: &str, line: Option<u32>, why: impl Into<String>) {
        let finding = Finding { rule, path: path.to_owned(), line, why: why.into() };
        // What may be allowed must not crowd out what may not.
        let room = if rule.may_be_allowed() { MOST_FINDINGS } else { MOST_FINDINGS * 2 };
        if self.list.len() < room && !self.list.contains(&finding) {
            self.list.push(finding);
        }
    }
}
