//! Work on code, as activities: the workspace, the environment, commands in the sandbox, trees made from trees.
//!
//! Whatever blocks (git, files) runs where blocking is allowed. A command in the sandbox ends when the run does: it changes
//! nothing that is kept, so nothing is lost by it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::base::BoxFuture;
use crate::domain::activity::{CodeRequest, Difference, NewTree};
use crate::domain::code::{TreeDiff, TreeId};
use crate::domain::definition::Environment;
use crate::domain::run::Failure;
use crate::domain::sandbox::{Prepared, SandboxAnswer, SandboxRequest, Workspace};
use crate::pipeline;
use crate::policy::proof;
use crate::ports::durable::Stop;
use crate::ports::sandbox::{Job, Sandbox, SandboxError};
use crate::workspace::{Error, Pick, RepoPath, Repository};

use super::embedded::raw;
use super::executor::{At, Executor, Halt};
use super::workshop::{self, E_REPOSITORY, Source, Workshop, workspace_stop};

/// A person must install, configure or repair something before commands can run.
pub(super) const E_SANDBOX: &str = "E-SANDBOX";
/// The recipe of the environment does not work on this code.
pub(super) const E_ENVIRONMENT: &str = "E-ENVIRONMENT";
/// A change does not fit the code that it is put on.
const E_CONFLICT: &str = "E-CONFLICT";

/// Characters of a command and of the end of its output in a message for people.
const SHOWN_COMMAND: usize = 160;
const SHOWN_OUTPUT: usize = 700;
/// A file above this is no test to be picked apart, in bytes.
const MOST_SOURCE: u64 = 4 * 1024 * 1024;

impl Executor {
    pub(super) fn workshop(&self) -> Result<Arc<Workshop>, Stop> {
        self.bound.workshop.clone().ok_or_else(|| {
            Stop::Blocked(
                Failure::new(E_REPOSITORY, "this process works on no code")
                    .help("run the pipeline with `nightcrew run` or `nightcrew serve`"),
            )
        })
    }

    /// Does what blocks with the run's repository. Not cancel safe: it goes on to its end.
    pub(super) async fn with_source<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Workshop, Source) -> Result<T, Stop> + Send + 'static,
    ) -> Result<T, Stop> {
        let (workshop, bound) = (self.workshop()?, self.bound.clone());
        let done = tokio::task::spawn_blocking(move || {
            let source = workshop.source(&bound.pipeline, &bound.settings, &bound.profile)?;
            work(&workshop, source)
        });
        done.await.unwrap_or_else(|lost| {
            Err(Stop::Failed(Failure::new("E-PANIC", format!("work on the code broke: {lost}"))))
        })
    }

    /// The code that the run works on, as it is now.
    pub(super) async fn workspace(&self, attempt: u32) -> Result<Workspace, Stop> {
        tracing::debug!(attempt, "looking up the code");
        let access = workshop::access(&self.bound.profile, &self.bound.outside).await?;
        self.with_source(move |_, source| {
            let fetched = source.repository.fetch(&source.reference, &access);
            let found = fetched.map_err(|error| not_fetched(error, &source, access.is_some()))?;
            Ok(Workspace {
                origin: source.origin,
                reference: source.reference,
                commit: found.commit,
                tree: found.tree,
                bound: source.bound.into(),
            })
        })
        .await
    }

    /// What the sandbox is told about this run. `at` is the activity that asks.
    pub(super) async fn job(&self, at: &At) -> Result<(Arc<dyn Sandbox>, Job), Stop> {
        let environment = self.recipe()?;
        let sandbox = self.workshop()?.sandbox(&self.bound.settings, &self.bound.profile)?;
        let owner = format!("{}/{}", at.run, at.asker);
        let job = self.with_source(move |_, source| Ok(source.job(environment, owner))).await?;
        Ok((sandbox, job))
    }

    /// The environment of the pipeline, or what the profile puts in its place.
    pub(super) fn recipe(&self) -> Result<Arc<Environment>, Stop> {
        let blocked = |message: String, help: String| Stop::Blocked(Failure::new(E_ENVIRONMENT, message).help(help));
        let named = self.bound.pipeline.environment.as_ref().ok_or_else(|| {
            blocked(
                "the pipeline names no environment".into(),
                "add `environment: environments/NAME.yaml` with `setup:` and `test:`; `nightcrew init` writes one"
                    .into(),
            )
        })?;
        let Some(file) = self.bound.profile.environments.get(&named.file) else { return Ok(Arc::new(named.clone())) };
        let shown = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|error| {
            let help = format!("see `environments` in the profile `{}`", self.bound.profile.name);
            blocked(format!("cannot read the environment {shown}: {error}"), help)
        })?;
        let (read, report) = pipeline::parse_environment(&shown, &named.file, &text);
        read.map(Arc::new).ok_or_else(|| {
            let mistakes = report.render(crate::diag::Color::Off);
            blocked(format!("the environment {shown} has mistakes"), one_line(&mistakes, SHOWN_OUTPUT))
        })
    }

    /// The environment for `base`.
    pub(super) async fn environment(&self, at: &At, base: &TreeId, halt: &Halt) -> Result<Prepared, Stop> {
        let (sandbox, job) = self.job(at).await?;
        let file = job.environment.file.clone();
        let wall = Duration::from_secs(SandboxRequest::WALL_S);
        let paid = self.pay_for(at, &*sandbox, &job, (job.environment.checks.len(), wall), halt).await?;
        let prepared = unless_halted(halt, "the environment was prepared", sandbox.prepare(&job, base)).await;
        let billed_ms = prepared.as_ref().ok().and_then(|done| done.as_ref().ok()).map_or(0, |done| done.billed_ms);
        self.settle_paid(at, paid, billed_ms).await?;
        prepared?.map_err(|error| sandbox_stop(error, &file))
    }

    /// One command.
    pub(super) async fn sandbox(&self, at: &At, request: &SandboxRequest, halt: &Halt) -> Result<SandboxAnswer, Stop> {
        let (sandbox, job) = self.job(at).await?;
        let file = job.environment.file.clone();
        let wall = Duration::from_secs(request.wall_s());
        let paid = self.pay_for(at, &*sandbox, &job, (1, wall), halt).await?;
        let answer = unless_halted(halt, "a command ran in the sandbox", sandbox.run(&job, request)).await;
        let billed_ms = answer.as_ref().ok().and_then(|done| done.as_ref().ok()).map_or(0, |done| done.billed_ms);
        self.settle_paid(at, paid, billed_ms).await?;
        answer?.map_err(|error| sandbox_stop(error, &file))
    }

    /// Work on trees.
    pub(super) async fn code(&self, request: &CodeRequest) -> Result<Box<RawValue>, Stop> {
        let request = request.clone();
        self.with_source(move |_, source| {
            let repository = &source.repository;
            let new = match &request {
                CodeRequest::Diff { base, new } => {
                    let diff = repository.diff(base, new).map_err(tree_stop)?;
                    let patch = repository.patch_text(base, new).map_err(tree_stop)?;
                    return Ok(raw(&Difference { diff, patch: String::from_utf8_lossy(&patch).into_owned() }));
                }
                CodeRequest::Apply { base, patch } => repository.apply(base, patch.as_bytes()),
                CodeRequest::Carry { base, new, onto } => repository.carry(base, new, onto),
                CodeRequest::Tests { base, new } => tests_of(repository, base, new, &RULES),
            };
            new.map(|tree| raw(&NewTree { tree })).map_err(tree_stop)
        })
        .await
    }
}

/// What is a test.
struct Rules {
    is_test: fn(&str) -> bool,
    with_tests_of: fn(&str, &str) -> Option<String>,
}

const RULES: Rules = Rules { is_test: proof::is_test, with_tests_of: proof::with_tests_of };

/// `base` with its tests as in `new`, and all else as it was.
fn tests_of(repository: &Arc<Repository>, base: &TreeId, new: &TreeId, rules: &Rules) -> Result<TreeId, Error> {
    let is_test = rules.is_test;
    let diff: TreeDiff = repository.diff(base, new)?;
    let (before, after) = (repository.snapshot(base)?, repository.snapshot(new)?);
    let text = |tree: &crate::workspace::Snapshot, path: &str| -> Result<Option<String>, Error> {
        match tree.read(&RepoPath::parse(path)?, MOST_SOURCE) {
            Ok(bytes) => Ok(String::from_utf8(bytes).ok()),
            Err(Error::NotFound(_) | Error::Refused(_) | Error::TooLarge { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    };
    let mut picks = Vec::new();
    for change in &diff.changes {
        // A test that was moved goes from its old place; what was no test there stays.
        for path in change.old_path.iter().chain([&change.path]) {
            if is_test(path) {
                picks.push(Pick::AsIn(path.clone()));
            }
        }
        let old_path = change.old_path.as_ref().unwrap_or(&change.path);
        if is_test(old_path) || is_test(&change.path) || !old_path.ends_with(".rs") {
            continue;
        }
        if let (Some(was), Some(is)) = (text(&before, old_path)?, text(&after, &change.path)?)
            && let Some(content) = (rules.with_tests_of)(&was, &is)
        {
            picks.push(Pick::Text { path: old_path.clone(), content });
        }
    }
    repository.pick(base, new, &picks)
}

/// Waits for the sandbox, but no longer than the run goes on: a dropped command is ended.
pub(super) async fn unless_halted<T>(halt: &Halt, while_: &str, act: impl Future<Output = T>) -> Result<T, Stop> {
    tokio::select! {
        biased;
        done = act => Ok(done),
        stop = halt.asked(while_) => Err(stop),
    }
}

/// Why the code could not be looked up, and what to do about it.
fn not_fetched(error: Error, source: &Source, has_credential: bool) -> Stop {
    let of_head = source.reference == "HEAD";
    let (origin, reference) = (source.repository.origin(), &source.reference);
    let (message, help) = match (&error, source.bound) {
        (Error::NotFound(said), "path") if said.contains("is not a git repository") => (
            said.clone(),
            "name the top folder of a git clone (`git rev-parse --show-toplevel` tells it), or make one there: git init".into(),
        ),
        (Error::NotFound(_), "path") if of_head => {
            (format!("{origin} has no commit yet"), "commit the code there: git add -A && git commit".into())
        }
        (Error::NotFound(said), _) => (
            said.clone(),
            format!("`ref: {reference}` in the pipeline's `repository` must name a branch, a tag or a full commit id"),
        ),
        (Error::Unreachable { .. }, _) if has_credential => (
            error.to_string(),
            format!("check the address and that the token or App of `services.github` may read the contents of {}", source.origin),
        ),
        (Error::Unreachable { .. }, _) => (
            error.to_string(),
            "check the address; a private repository needs `services: {github: {token: secret:NAME}}`".into(),
        ),
        _ => return workspace_stop(error),
    };
    Stop::Blocked(Failure::new(E_REPOSITORY, message).help(help))
}

/// What went wrong with trees, as the end of an activity.
fn tree_stop(error: Error) -> Stop {
    match error {
        // The asker may try another patch.
        error if error.is_reply() => Stop::Failed(Failure::new(E_CONFLICT, error.to_string())),
        error => workspace_stop(error),
    }
}

/// Why a sandbox could not do it; `file` is the environment's.
pub(super) fn sandbox_stop(error: SandboxError, file: &str) -> Stop {
    match error {
        SandboxError::Missing { message, help } => {
            Stop::Blocked(Failure::new(E_SANDBOX, one_line(&message, SHOWN_OUTPUT)).help(one_line(&help, SHOWN_OUTPUT)))
        }
        SandboxError::Broken { what, receipt, output } => {
            let command = one_line(&receipt.command, SHOWN_COMMAND);
            let message = format!("`{command}` {}", one_line(&what, SHOWN_COMMAND));
            let help = match last_lines(&output, SHOWN_OUTPUT) {
                said if said.is_empty() => format!("it said nothing; mend `{file}`"),
                said => format!("mend `{file}`; the end of its output: {said}"),
            };
            Stop::Blocked(Failure::new(E_ENVIRONMENT, message).help(help))
        }
        SandboxError::Failed { message } => Stop::Failed(Failure::new(E_SANDBOX, one_line(&message, SHOWN_OUTPUT))),
    }
}

/// Printable, in one line, the beginning of it.
fn one_line(text: &str, most: usize) -> String {
    let line = printable(text);
    match line.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Printable, in one line, the end of it: the lines are kept apart by ` / `.
fn last_lines(text: &str, most: usize) -> String {
    let lines: Vec<String> = text.lines().map(printable).filter(|line| !line.is_empty()).collect();
    let line = lines.join(" / ");
    let count = line.chars().count();
    if count <= most { line } else { format!("…{}", line.chars().skip(count - most).collect::<String>()) }
}

fn printable(text: &str) -> String {
    let plain = crate::tools::normalise::plain(text);
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Workshop {
    /// The run has ended: its sandboxes may forget it.
    pub fn release<'a>(&'a self, run: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            for sandbox in self.made_sandboxes() {
                sandbox.release(run).await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::repository;
    use super::*;
    use crate::domain::code::Edit;

    fn write(path: &str, content: &str) -> Edit {
        Edit::Write { path: path.into(), content: content.into() }
    }

    #[test]
    fn the_tests_of_a_change_are_taken_over_and_nothing_else_of_it() {
        let rules = Rules {
            is_test: |path| path.starts_with("tests/"),
            // What stands behind a mark is the test module.
            with_tests_of: |base, new| {
                let (code, _) = base.split_once("#t")?;
                let (_, tests) = new.split_once("#t")?;
                Some(format!("{code}#t{tests}")).filter(|text| text != base)
            },
        };
        let base = [("src/a.rs", "old#t1"), ("src/b.rs", "b#t1"), ("src/c.py", "c#t1"), ("tests/old.rs", "x\ny\nz\n")];
        let (_folder, repository, tree) = repository(&base);
        let edits = [
            write("src/a.rs", "new#t2"),
            write("src/b.rs", "changed#t1"),
            write("src/c.py", "c#t2"),
            write("src/new.rs", "n#t1"),
            write("tests/new.rs", "red"),
            Edit::Rename { from: "tests/old.rs".into(), to: "src/no_test_any_more.rs".into() },
        ];
        let new = repository.edit(&tree, &edits).unwrap().tree;
        let made = tests_of(&repository, &tree, &new, &rules).unwrap();
        let snapshot = repository.snapshot(&made).unwrap();
        let files: Vec<(String, String)> = snapshot
            .entries()
            .unwrap()
            .iter()
            .map(|entry| {
                let content = snapshot.read(&entry.path, 1000).unwrap();
                (entry.path.to_string(), String::from_utf8(content).unwrap())
            })
            .collect();
        let wanted = [("src/a.rs", "old#t2"), ("src/b.rs", "b#t1"), ("src/c.py", "c#t1"), ("tests/new.rs", "red")];
        assert_eq!(files, wanted.map(|(path, content)| (path.to_owned(), content.to_owned())));
        assert_eq!(tests_of(&repository, &tree, &tree, &rules).unwrap(), tree);
    }

    #[test]
    fn what_a_failed_command_said_fits_into_a_message() {
        let said = last_lines("\u{1b}[31mone\u{1b}[0m\r\n\n  two\u{7}  words \n", 100);
        assert_eq!(said, "one / two words");
        assert_eq!(last_lines("abcdef", 3), "…def");
        assert_eq!(one_line(" a\n b ", 100), "a b");
        assert_eq!(one_line("abcdef", 3), "abc…");
    }
}
