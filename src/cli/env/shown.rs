//! What commands say while they run, and what came of them.

use std::future::Future;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::named::Named;
use crate::cli::session::Session;
use crate::cli::ui::{DIM, GREEN, RED, paint};
use crate::domain::code::TreeId;
use crate::domain::sandbox::SandboxAnswer;
use crate::ports::sandbox::Progress;
use crate::sandboxes::e2b::Built;
use crate::sinks::text;

/// Bytes of a command for a person or a pipe. A terminal gets nothing that could move its cursor or set its title.
pub(super) fn pass_on(mut to: impl std::io::Write, terminal: bool, bytes: &[u8]) {
    let clean = terminal.then(|| text::clean(&String::from_utf8_lossy(bytes)));
    // Who has gone away misses nothing.
    drop(to.write_all(clean.as_ref().map_or(bytes, |clean| clean.as_bytes())).and_then(|()| to.flush()));
}

/// Does the work and meanwhile shows what the commands say.
pub(super) async fn watched<T>(
    session: &Session,
    progress: &mut mpsc::Receiver<Progress>,
    work: impl Future<Output = T>,
) -> T {
    let mut work = std::pin::pin!(work);
    let mut shown = Shown { session, line: Vec::new() };
    loop {
        tokio::select! {
            biased;
            Some(news) = progress.recv() => shown.news(news),
            done = &mut work => {
                while let Ok(news) = progress.try_recv() {
                    shown.news(news);
                }
                return done;
            }
        }
    }
}

/// What commands say, line by line, on stderr.
struct Shown<'a> {
    session: &'a Session,
    /// Of what is not a whole line yet.
    line: Vec<u8>,
}

impl Shown<'_> {
    /// The longest line that is waited for.
    const LONGEST: usize = 4096;

    fn news(&mut self, news: Progress) {
        let ui = &self.session.ui;
        match news {
            Progress::Began { phase, command } => {
                ui.say(format!("{} $ {}", phase.name(), text::line(&command)));
            }
            Progress::Output(bytes) => {
                for byte in bytes {
                    if byte == b'\n' || self.line.len() >= Self::LONGEST {
                        self.end_line();
                    }
                    if byte != b'\n' {
                        self.line.push(byte);
                    }
                }
            }
            Progress::Ended(receipt) => {
                if !self.line.is_empty() {
                    self.end_line();
                }
                let took = text::duration(Duration::from_millis(receipt.duration_ms));
                let (color, mark) = if receipt.succeeded() { (GREEN, "✓") } else { (RED, "✗") };
                ui.say(format!("  {} {took}", paint(ui.color_err(), color, mark)));
            }
        }
    }

    fn end_line(&mut self) {
        let ui = &self.session.ui;
        let line = text::clean(&String::from_utf8_lossy(&self.line)).replace('\n', " ");
        ui.say(paint(ui.color_err(), DIM, &format!("  {line}")));
        self.line.clear();
    }
}

/// What came of one environment.
pub(super) struct Done {
    pub good: bool,
    /// Rows of the table.
    pub rows: Vec<Vec<String>>,
    pub json: Value,
}

impl Done {
    pub(super) fn of_build(one: &Named, base: &TreeId, built: &Built, took: Duration) -> Self {
        let how = if built.built { "built" } else { "found" };
        let row = vec![
            one.environment.file.clone(),
            one.used_by.join(", "),
            built.environment.short(),
            how.to_owned(),
            built.template.clone(),
            text::duration(took),
        ];
        let json = json!({
            "environment": one.environment.file,
            "pipelines": one.used_by,
            "tree": base,
            "hash": built.environment,
            "built": built.built,
            "made_at": built.made_at,
            "duration_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "template": built.template,
            "receipts": built.receipts,
        });
        Self { good: true, rows: vec![row], json }
    }

    pub(super) fn of_checks(one: &Named, base: &TreeId, built: &Built, answers: &[SandboxAnswer]) -> Self {
        let good = answers.iter().all(|answer| answer.receipt.succeeded());
        let mut rows = Vec::new();
        let mut checks = Vec::new();
        for answer in answers {
            let receipt = &answer.receipt;
            let tests = collected(&answer.stdout);
            rows.push(vec![
                one.environment.file.clone(),
                text::fit(&text::line(&receipt.command), 60),
                if receipt.succeeded() { "passed" } else { "failed" }.to_owned(),
                text::duration(Duration::from_millis(receipt.duration_ms)),
                tests.map(|tests| tests.to_string()).unwrap_or_default(),
            ]);
            checks.push(json!({"receipt": receipt, "passed": receipt.succeeded(), "tests": tests}));
        }
        for command in one.environment.checks.iter().skip(answers.len()) {
            let command = text::fit(&text::line(command), 60);
            rows.push(vec![one.environment.file.clone(), command, "not run".to_owned(), String::new(), String::new()]);
        }
        if one.environment.checks.is_empty() {
            let none = ["no checks", "", "", ""].map(str::to_owned);
            rows.push(std::iter::once(one.environment.file.clone()).chain(none).collect());
        }
        let json = json!({
            "environment": one.environment.file,
            "pipelines": one.used_by,
            "tree": base,
            "hash": built.environment,
            "checks": checks,
            "passed": good,
        });
        Self { good, rows, json }
    }
}

/// How many tests a check says that it found: pytest's `12 tests collected` and `collected 12 items`, cargo's and others' `12 tests`.
fn collected(stdout: &str) -> Option<u64> {
    let number = |word: &str| word.trim_matches(['=', ',', '.', ':']).parse::<u64>().ok();
    stdout.lines().rev().take(20).find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.windows(2).find_map(|pair| match pair[1].trim_end_matches([',', '.', ':']) {
            "test" | "tests" | "items" | "item" => number(pair[0]),
            _ => None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collected_tests_are_read_from_what_runners_say() {
        assert_eq!(collected("a.py::b\n\n===== 12 tests collected in 0.02s =====\n"), Some(12));
        assert_eq!(collected("collected 7 items\n"), Some(7));
        assert_eq!(collected("x: test\n3 tests, 0 benchmarks\n"), Some(3));
        assert_eq!(collected("nothing here\n"), None);
    }
}
