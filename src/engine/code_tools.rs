//! The agents' code tools: `read search tree edit run_tests run`, over the tree that the agent is at.
//!
//! Every answer is the same for the same code, whatever the binding and the machine. What the agent did wrong is an answer to
//! it; only what a person must mend ends the step. Nothing here changes the tree of an agent but `edit`, which makes another.

use serde::de::DeserializeOwned;

use crate::domain::activity::{CodeAt, ToolAnswer, ToolRequest};
use crate::domain::code::Edit;
use crate::domain::proof::{Case, CaseState, Suite};
use crate::domain::sandbox::{CommandReceipt, SandboxAnswer, SandboxRequest};
use crate::policy::suite;
use crate::ports::durable::Stop;
use crate::tools::code::{self as capability, Look};
use crate::tools::normalise::{self, Place};
use crate::workspace::{Code, Error, ReadInput, RepoPath};

use super::executor::{At, Executor, Halt};
use super::workshop::{Source, Workshop, workspace_stop};

/// Seconds that `run` may take: when nothing is said, and at most.
const WALL: u64 = 120;
const MOST_WALL: u64 = 900;
/// Characters of the end of a test command's output, and of all that is shown of a command's.
const TAIL: usize = 6_000;
const MOST_OUTPUT: usize = 200_000;
/// Failing tests that are shown with what they say, and how much of that, in characters.
const MOST_FAILURES: usize = 12;
const MESSAGE: usize = 600;
const MOST_NAMES: usize = 60;
/// Lines shown around an edit.
const AROUND: u32 = 3;
const MOST_SHOWN_LINES: u32 = 40;

impl Executor {
    /// An agent's call of `read`, `search`, `tree`, `edit`, `run_tests` or `run`.
    pub(super) async fn code_tool(
        &self,
        at: &At,
        request: &ToolRequest,
        code: &CodeAt,
        halt: &Halt,
    ) -> Result<ToolAnswer, Stop> {
        match request.tool.as_str() {
            "run_tests" => self.run_tests(at, request, code, halt).await,
            "run" => self.run_command(at, request, code, halt).await,
            _ => {
                let (request, code) = (request.clone(), code.clone());
                let look = Look::of(&self.bound.profile.tools);
                self.with_source(move |workshop, source| on_code(workshop, &source, look, &request, &code)).await
            }
        }
    }

    async fn run_tests(&self, at: &At, request: &ToolRequest, code: &CodeAt, halt: &Halt) -> Result<ToolAnswer, Stop> {
        let recipe = self.recipe()?;
        let Some(command) = recipe.test.clone() else {
            return Ok(ToolAnswer::mistake("this project names no command that runs its tests; use `run`"));
        };
        let answer = self.command(at, code, command, None, halt).await?;
        let filter = request.input["filter"].as_str().map(str::trim).filter(|filter| !filter.is_empty());
        let folder = self.workshop()?.shown_folder();
        let place = Place { at: answer.receipt.at, folder: folder.as_deref() };
        let suite = suite::read(&answer.stdout, &answer.stderr, answer.junit.as_deref());
        Ok(ToolAnswer::text(tests_text(&answer, &suite, filter, &place)))
    }

    async fn run_command(
        &self,
        at: &At,
        request: &ToolRequest,
        code: &CodeAt,
        halt: &Halt,
    ) -> Result<ToolAnswer, Stop> {
        let command = request.input["command"].as_str().unwrap_or_default();
        if command.trim().is_empty() || command.contains('\0') {
            return Ok(ToolAnswer::mistake("`command` is empty or has a NUL in it"));
        }
        let wall = request.input["wall_s"].as_u64().unwrap_or(WALL).clamp(1, MOST_WALL);
        let answer = self.command(at, code, command.to_owned(), Some(wall), halt).await?;
        let folder = self.workshop()?.shown_folder();
        let place = Place { at: answer.receipt.at, folder: folder.as_deref() };
        Ok(ToolAnswer::text(command_text(&answer, &place)))
    }

    async fn command(
        &self,
        at: &At,
        code: &CodeAt,
        command: String,
        wall_s: Option<u64>,
        halt: &Halt,
    ) -> Result<SandboxAnswer, Stop> {
        let (base, tree) = (code.base.clone(), code.tree.clone());
        let request = SandboxRequest { base, tree, command, fresh: false, wall_s, attempt: 0 };
        self.sandbox(at, &request, halt).await
    }
}

/// `read`, `search`, `tree` and `edit`. Blocking.
fn on_code(
    workshop: &Workshop,
    source: &Source,
    look: Look,
    request: &ToolRequest,
    at: &CodeAt,
) -> Result<ToolAnswer, Stop> {
    if request.tool == "edit" {
        return edit(workshop, source, request, at);
    }
    let shelf = workshop.shelf()?;
    let repository = &source.repository;
    let copy = match look {
        Look::Objects => None,
        Look::Files => match shelf.copy(repository, &at.tree) {
            Ok(copy) => copy,
            // A name that no file can have, no room on the disk: the tree itself can still be read.
            Err(error) => {
                tracing::warn!(%error, "the code could not be written out as files; it is read from the repository");
                None
            }
        },
    };
    let answer = match &copy {
        Some(copy) => look_at(copy.code(), request),
        None => {
            shelf.snapshot(repository, &at.tree).map(Code::Tree).map(|code| look_at(&code, request)).and_then(|a| a)
        }
    };
    told(answer.map(ToolAnswer::text))
}

/// One look. The same for both bindings.
fn look_at(code: &Code, request: &ToolRequest) -> Result<String, Error> {
    match request.tool.as_str() {
        "read" => code.read(&input::<ReadInput>(request)?),
        "search" => code.search(&input(request)?),
        "tree" => code.tree(&input(request)?),
        other => Err(Error::Refused(format!("there is no tool `{other}` for code"))),
    }
}

fn input<T: DeserializeOwned>(request: &ToolRequest) -> Result<T, Error> {
    serde_json::from_value(request.input.clone())
        .map_err(|error| Error::Refused(format!("the arguments are wrong: {error}")))
}

fn edit(workshop: &Workshop, source: &Source, request: &ToolRequest, at: &CodeAt) -> Result<ToolAnswer, Stop> {
    let edit = match capability::edit(&request.input) {
        Ok(edit) => edit,
        Err(mistake) => return Ok(ToolAnswer::mistake(mistake)),
    };
    let repository = &source.repository;
    let edited = match repository.edit(&at.tree, std::slice::from_ref(&edit)) {
        Ok(edited) if edited.tree == at.tree => {
            return Ok(ToolAnswer::mistake("this changes nothing: the code is as it was"));
        }
        Ok(edited) => edited,
        Err(error) => return told(Err(error)),
    };
    let shown = workshop
        .shelf()?
        .snapshot(repository, &edited.tree)
        .map(|tree| after(&Code::Tree(tree), &edit))
        .map_err(workspace_stop)?;
    Ok(ToolAnswer { text: shown, is_error: false, tree: Some(edited.tree) })
}

/// What an edit made, as the file reads now: so that it need not be read again.
fn after(code: &Code, edit: &Edit) -> String {
    let (path, passage) = match edit {
        Edit::Replace { path, new, .. } => (path, Some(new)),
        Edit::Write { path, content } => {
            return format!("`{}` has {} lines now", shown(path), content.lines().count());
        }
        Edit::Delete { path } => return format!("`{}` is deleted", shown(path)),
        Edit::Rename { from, to } => return format!("`{}` is `{}` now", shown(from), shown(to)),
    };
    let done = format!("`{}` is changed", shown(path));
    let Some(first) = passage.filter(|new| !new.trim().is_empty()).and_then(|new| line_of(code, path, new)) else {
        return done;
    };
    let lines = passage.map_or(1, |new| new.lines().count().max(1));
    let from = first.saturating_sub(AROUND).max(1);
    let most = u32::try_from(lines).unwrap_or(MOST_SHOWN_LINES).saturating_add(first - from + AROUND);
    let look = ReadInput { path: path.clone(), from_line: Some(from), lines: Some(most.min(MOST_SHOWN_LINES)) };
    match code.read(&look) {
        // Without its last line, which tells how to go on.
        Ok(text) => format!("{done}; it reads now:\n{}", text.rsplit_once('\n').map_or("", |(lines, _)| lines)),
        Err(_) => done,
    }
}

/// The line at which a passage begins for the first time.
fn line_of(code: &Code, path: &str, passage: &str) -> Option<u32> {
    let Code::Tree(tree) = code else { return None };
    let text = tree.read(&RepoPath::parse(path).ok()?, u64::MAX).ok()?;
    let at = memchr::memmem::find(&text, passage.as_bytes())?;
    u32::try_from(memchr::memchr_iter(b'\n', &text[..at]).count() + 1).ok()
}

fn shown(path: &str) -> String {
    RepoPath::parse(path).map_or_else(|_| normalise::plain(path), |path| path.to_string())
}

/// What went wrong as an answer to the agent, where it can do something about it.
fn told(answer: Result<ToolAnswer, Error>) -> Result<ToolAnswer, Stop> {
    match answer {
        Ok(answer) => Ok(answer),
        Err(error) if error.is_reply() => Ok(ToolAnswer::mistake(error.to_string())),
        // A pattern that takes forever is the agent's to change.
        Err(error @ Error::Timeout { .. }) => Ok(ToolAnswer::mistake(format!("{error}; ask for less"))),
        Err(error) => match workspace_stop(error) {
            Stop::Blocked(failure) => Err(Stop::Failed(failure)),
            stop => Err(stop),
        },
    }
}

/// How a command ended, in a line.
fn ended(receipt: &CommandReceipt) -> String {
    match (receipt.stopped.as_deref(), receipt.exit, receipt.signal) {
        (Some("wall"), _, _) => "stopped: it took too long".into(),
        (Some(limit), _, _) => format!("stopped by a limit: {limit}"),
        (None, Some(code), _) => format!("exit code {code}"),
        (None, None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None, None) => "it did not end by itself".into(),
    }
}

/// What an agent is told of a command: how it ended, and what it said. Large texts become artifacts later.
fn command_text(answer: &SandboxAnswer, place: &Place<'_>) -> String {
    let mut text = ended(&answer.receipt);
    for (name, output) in [("output", &answer.stdout), ("errors", &answer.stderr)] {
        let output = normalise::middle(&normalise::output(output, place), MOST_OUTPUT);
        if !output.trim().is_empty() {
            text.push_str(&format!("\n--- {name} ---\n{}", output.trim_end()));
        }
    }
    text
}

/// What an agent is told of a run of the tests: verdict, counts, failing tests, the end of the output.
fn tests_text(answer: &SandboxAnswer, suite: &Suite, filter: Option<&str>, place: &Place<'_>) -> String {
    let verdict = if answer.receipt.succeeded() { "the tests passed" } else { "the tests FAILED" };
    let mut text = format!("{verdict}: {}", ended(&answer.receipt));
    match suite.format.as_str() {
        "" => text.push_str("; single tests could not be told apart"),
        _ => text.push_str(&format!("; {}", counts(&suite.cases.iter().collect::<Vec<_>>()))),
    }
    text.push('\n');
    for doubt in suite.doubts.iter().take(3) {
        text.push_str(&format!("(not sure: {})\n", normalise::plain(doubt)));
    }
    if let Some(filter) = filter {
        text.push_str(&filtered(suite, filter));
    }
    let fits = |case: &&Case| filter.is_none_or(|filter| case.name.contains(filter));
    let failed: Vec<&Case> = suite.cases.iter().filter(|case| case.state == CaseState::Failed).filter(fits).collect();
    for case in failed.iter().take(MOST_FAILURES) {
        text.push_str(&format!("\nFAILED {}\n", case.name));
        let message = normalise::middle(normalise::output(&case.message, place).trim(), MESSAGE);
        message.lines().for_each(|line| text.push_str(&format!("  {line}\n")));
    }
    if failed.len() > MOST_FAILURES {
        text.push_str(&format!("\n{} more failed\n", failed.len() - MOST_FAILURES));
    }
    for (name, output) in [("output", &answer.stdout), ("errors", &answer.stderr)] {
        let tail = normalise::tail(&normalise::output(output, place), TAIL);
        if !tail.trim().is_empty() {
            text.push_str(&format!("\n--- the end of the {name} ---\n{}\n", tail.trim_end()));
        }
    }
    text.truncate(text.trim_end().len());
    text
}

fn counts(cases: &[&Case]) -> String {
    let count = |state| cases.iter().filter(|case| case.state == state).count();
    let mut said = format!("{} passed, {} failed", count(CaseState::Passed), count(CaseState::Failed));
    match count(CaseState::Skipped) {
        0 => {}
        skipped => said.push_str(&format!(", {skipped} skipped")),
    }
    said
}

/// The tests whose name contains the filter, with what they did.
fn filtered(suite: &Suite, filter: &str) -> String {
    let fitting: Vec<&Case> = suite.cases.iter().filter(|case| case.name.contains(filter)).collect();
    let filter = normalise::plain(filter);
    if fitting.is_empty() {
        return format!("no test has `{filter}` in its name\n");
    }
    let mut text = format!("of these with `{filter}` in the name: {}\n", counts(&fitting));
    for case in fitting.iter().take(MOST_NAMES) {
        let state = match case.state {
            CaseState::Passed => "passed ",
            CaseState::Failed => "FAILED ",
            CaseState::Skipped => "skipped",
        };
        text.push_str(&format!("  {state} {}\n", case.name));
    }
    if fitting.len() > MOST_NAMES {
        text.push_str(&format!("  and {} more\n", fitting.len() - MOST_NAMES));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::hash::Hash;

    fn answer(exit: Option<i32>, stopped: Option<&str>, stdout: &str) -> SandboxAnswer {
        SandboxAnswer {
            receipt: CommandReceipt {
                command: "make test".into(),
                tree: "0123456789abcdef0123456789abcdef01234567".parse().unwrap(),
                exit,
                signal: None,
                stopped: stopped.map(Into::into),
                duration_ms: 1234,
                output: Hash::of(""),
                environment: Hash::of(""),
                provider: "sandboxd".into(),
                template: String::new(),
                sandbox: String::new(),
                isolation: "bubblewrap".into(),
                gaps: Vec::new(),
                network: "none".into(),
                fresh: false,
                at: "2026-11-20T08:00:00Z".parse().unwrap(),
            },
            stdout: stdout.into(),
            stderr: String::new(),
            junit: None,
            billed_ms: 0,
        }
    }

    fn place() -> Place<'static> {
        Place { at: "2026-11-20T08:00:00Z".parse().unwrap(), folder: None }
    }

    fn case(name: &str, state: CaseState, message: &str) -> Case {
        Case { name: name.into(), state, message: message.into() }
    }

    #[test]
    fn failing_tests_come_first_and_the_end_of_the_output_last() {
        let suite = Suite {
            cases: vec![
                case("duration::negative", CaseState::Failed, "at /home/user/work/src/d.rs:4\nleft: 1, in 0.02s"),
                case("duration::zero", CaseState::Passed, ""),
                case("time::skipped", CaseState::Skipped, ""),
            ],
            format: "cargo".into(),
            doubts: vec!["a name stands twice".into()],
        };
        let answer = answer(Some(101), None, "error: test failed\n");
        let head = "the tests FAILED: exit code 101; 1 passed, 1 failed, 1 skipped\n(not sure: a name stands twice)\n";
        let failed = "\nFAILED duration::negative\n  at src/d.rs:4\n  left: 1, in <duration>\n";
        let end = "\n--- the end of the output ---\nerror: test failed";
        assert_eq!(tests_text(&answer, &suite, None, &place()), format!("{head}{failed}{end}"));
        let shown = tests_text(&answer, &suite, Some("time"), &place());
        let narrowed = "of these with `time` in the name: 0 passed, 0 failed, 1 skipped\n  skipped time::skipped\n";
        assert_eq!(shown, format!("{head}{narrowed}{end}"));
        let none = tests_text(&answer, &suite, Some("nothing"), &place());
        assert!(none.contains("no test has `nothing` in its name"), "{none}");
    }

    #[test]
    fn an_end_is_told_in_words_and_answers_are_bounded() {
        let none = Suite::default();
        let stopped = answer(None, Some("wall"), "");
        assert_eq!(
            tests_text(&stopped, &none, None, &place()),
            "the tests FAILED: stopped: it took too long; single tests could not be told apart"
        );
        assert_eq!(command_text(&answer(None, Some("memory"), ""), &place()), "stopped by a limit: memory");
        let long = "line of output\n".repeat(100_000);
        let many = Suite {
            cases: (0..500).map(|n| case(&format!("t{n:03}"), CaseState::Failed, &long)).collect(),
            format: "junit".into(),
            doubts: Vec::new(),
        };
        let text = tests_text(&answer(Some(1), None, &long), &many, Some("t"), &place());
        // Below the size from which a result is stored instead of shown.
        assert!(text.len() < 16 * 1024, "{}", text.len());
        assert!(text.contains("488 more failed") && text.contains("  and 440 more\n"), "{text}");
        assert!(command_text(&answer(Some(0), None, &long), &place()).len() < MOST_OUTPUT + 200);
    }
}
