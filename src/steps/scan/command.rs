//! Running one scanner in the sandbox and reading what it printed.

use crate::domain::activity::Activity;
use crate::domain::definition::{OptionValue, ScanCommand};
use crate::domain::run::Failure;
use crate::domain::sandbox::{SandboxAnswer, SandboxRequest};
use crate::policy::scan::{self as rules, Scanned};
use crate::ports::durable::Stop;
use crate::ports::step::{StepCall, Work};

use super::data;

/// A scanner did not do its work.
const E_SCAN: &str = "E-SCAN";
/// Characters of the end of a failed scanner's output that people are shown.
const SHOWN: usize = 700;
const FORMATS: [&str; 4] = ["sarif", "cargo", "jsonl", "pattern"];

/// Format and command of every scanner: of the step, else of the environment.
pub(super) fn commands(call: &StepCall<'_>) -> Result<Vec<(String, ScanCommand)>, Stop> {
    let mut found = Vec::new();
    for format in FORMATS {
        for command in call.options.list(format).into_iter().flatten() {
            let OptionValue::Map(command) = command else { continue };
            let Some(OptionValue::Text(run)) = data::nested(command, "run") else { continue };
            let exits = match data::nested(command, "ok_exit") {
                Some(OptionValue::List(exits)) => exits.as_slice(),
                _ => &[],
            };
            let code = |exit: &OptionValue| match exit {
                OptionValue::Integer(code) => i32::try_from(*code).ok(),
                _ => None,
            };
            let ok_exit = exits.iter().filter_map(code).collect();
            found.push((format.to_owned(), ScanCommand { run: run.clone(), ok_exit }));
        }
    }
    if found.is_empty() {
        let environment = call.pipeline.environment.as_ref();
        found = environment.map(|environment| environment.scanners.clone()).unwrap_or_default();
    }
    if found.is_empty() {
        let help = "add for instance `scanners: {sarif: [{run: \"ruff check --output-format sarif .\", ok_exit: [0, 1]}]}` to the \
                    environment";
        return Err(blocked("there is no scanner: neither in the step nor in the environment", help));
    }
    Ok(found)
}

pub(super) fn blocked(message: impl Into<String>, help: impl Into<String>) -> Stop {
    Stop::Blocked(Failure::new(E_SCAN, message).help(help))
}

/// Runs one scanner and reads what it printed.
pub(super) async fn scan(
    call: &StepCall<'_>,
    work: &Work,
    format: &str,
    command: &ScanCommand,
    number: usize,
) -> Result<Vec<Scanned>, Stop> {
    let (line, name, mut ok) = match format {
        "pattern" => (rules::pattern_command(&command.run), "grep", vec![1]),
        _ => (command.run.clone(), rules::program(&command.run), Vec::new()),
    };
    ok.extend(&command.ok_exit);
    if ok.is_empty() || format == "pattern" {
        ok.push(0);
    }
    let request = SandboxRequest {
        base: work.workspace.tree.clone(),
        tree: work.workspace.tree.clone(),
        // Through a file, because a long output is cut in the middle. Its first line is the folder, for absolute paths.
        command: format!("{{ pwd\n{line}\n}} > \"$JUNIT\""),
        fresh: true,
        wall_s: None,
        attempt: 0,
    };
    let label = format!("scan/{}-{number}", label_of(name));
    let answer: SandboxAnswer = call.ctx.perform(&label, Activity::Sandbox(request)).await?.decode()?;
    let output = answer.junit.as_deref().unwrap_or(&answer.stdout);
    let (root, printed) = match output.split_once('\n') {
        Some((root, printed)) if root.starts_with('/') => (Some(root.trim_end().to_owned()), printed),
        _ => (None, output),
    };
    check_end(call, &command.run, name, &answer, printed, &ok)?;
    // The folder is always in the file: without it the output was too large to be read, which is not the same as no finding.
    let unread = root.is_none() && printed.trim().is_empty();
    let roots: Vec<String> = root.into_iter().collect();
    let read = match format {
        _ if unread => Err(String::new()),
        "sarif" => rules::sarif(printed, &roots),
        "cargo" => rules::cargo(printed, &roots),
        "pattern" => rules::pattern(printed, &command.run, &roots),
        _ => rules::jsonl(printed, name, &roots),
    };
    read.map_err(|why| {
        let shown = shown_command(&command.run);
        // What was too large to be read is not there at all.
        let (why, help) = match printed.trim().is_empty() {
            true => (
                "it printed nothing, or more than 8 MiB".to_owned(),
                format!("what `{format}:` reads must come to its standard output, at most 8 MiB: else fewer rules, or several scanners"),
            ),
            false => (why, format!("it stands under `{format}:`: see what it prints, and its options for that format")),
        };
        Stop::Failed(Failure::new(E_SCAN, format!("cannot read what `{shown}` printed: {why}")).help(help))
    })
}

/// A label without what has a meaning in paths.
fn label_of(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    let name: String = name.chars().map(plain).take(40).collect();
    if name.is_empty() { "scanner".into() } else { name }
}

fn shown_command(command: &str) -> String {
    command.chars().map(|c| if c.is_control() { ' ' } else { c }).take(160).collect()
}

/// Errors: `Blocked` for a program that is not there, `Failed` for an end that is not among the good ones.
fn check_end(
    call: &StepCall<'_>,
    command: &str,
    name: &str,
    answer: &SandboxAnswer,
    printed: &str,
    ok: &[i32],
) -> Result<(), Stop> {
    let (receipt, shown) = (&answer.receipt, shown_command(command));
    let what = match (&receipt.stopped, receipt.exit, receipt.signal) {
        (Some(limit), _, _) => format!("was stopped at its limit: {limit}"),
        (None, Some(code), _) if ok.contains(&code) => return Ok(()),
        (None, Some(127), _) => {
            let file = call.pipeline.environment.as_ref().map_or("the environment", |found| found.file.as_str());
            let help = format!(
                "let `{file}` install it, for instance `setup: [{{run: \"pip install {name}\"}}]` with `network: {{setup: [pypi]}}`, \
                 or name the host's under `tools:`"
            );
            return Err(blocked(format!("the sandbox has no `{name}`, which `{shown}` needs"), help));
        }
        (None, Some(code), _) => format!("ended with exit code {code}"),
        (None, None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None, None) => "did not end by itself".into(),
    };
    let output = if answer.stderr.trim().is_empty() { printed } else { &answer.stderr };
    let end: String = output.trim_end().chars().rev().take(SHOWN).collect::<Vec<_>>().into_iter().rev().collect();
    let end: String = end.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect();
    let message = match end.trim().is_empty() {
        true => format!("`{shown}` {what}, and said nothing"),
        false => format!("`{shown}` {what}: {}", end.trim()),
    };
    let failure = Failure::new(E_SCAN, message);
    Err(Stop::Failed(match receipt.exit {
        Some(code) => {
            failure.help(format!("if that is how it says that it found something: `ok_exit: [0, {code}]` beside `run`"))
        }
        None => failure,
    }))
}
