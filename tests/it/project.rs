//! A user's folder with a configuration and pipelines, and the real binary run in it.

#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::fakes::model::ModelServer;

/// Nothing here may take longer.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A summary of a table, by an intern.
pub const BRIEF: &str = "\
version: 1
name: brief
summary: A table in one line.
params: {day: {type: date, default: yesterday}}
limits: {max_turns: 5, max_budget_usd: 0.50}
tools:
  days: {sql: warehouse, file: sql/days.sql}
steps:
  - id: data
    fetch: {from: days}
  - id: brief
    intern: {task: summarise, ask: \"Say it in one line.\", given: [data]}
  - id: post
    report: {from: [brief, data], to: files}
";

/// Asks a person, then tells what they said.
pub const ASK: &str = "\
version: 1
name: ask
summary: A person decides.
steps:
  - id: ok
    approve: {ask: \"May I go on?\", expires: 1h, on_expiry: skip}
  - id: post
    report: {from: [ok], to: files, when_quiet: post}
";

/// Every second.
pub const TICK: &str = "\
version: 1
name: tick
summary: Often.
on: {schedule: {cron: \"* * * * * *\", timezone: UTC, missed: all, overlap: queue}}
steps:
  - id: data
    fetch: {from: days}
  - id: post
    report: {from: [data], to: files, when_quiet: post}
tools:
  days: {sql: warehouse, file: sql/days.sql}
";

pub struct Project {
    folder: TempDir,
}

impl Project {
    /// A folder with these pipelines by name; models answer at `server`.
    pub fn new(pipelines: &[(&str, &str)], server: Option<&ModelServer>) -> Self {
        let project = Self { folder: tempfile::tempdir().unwrap() };
        let url = server.map_or_else(|| "http://127.0.0.1:9".to_owned(), ModelServer::url);
        project.write(
            "config/nightcrew.yaml",
            &format!(
                "version: 1\n\
                 models:\n\
                 \x20 boss: {{provider: anthropic, model: claude-opus-5-5, base_url: \"{url}\"}}\n\
                 \x20 intern: {{provider: anthropic, model: claude-haiku-5-5, base_url: \"{url}\"}}\n\
                 prices: prices.yaml\n\
                 sources: {{warehouse: {{sqlite: ../days.db}}}}\n\
                 http: {{listen: \"127.0.0.1:0\"}}\n"
            ),
        );
        project.write("config/prices.yaml", include_str!("../../config/prices.yaml"));
        project.write("pipelines/sql/days.sql", "SELECT day, n FROM days ORDER BY day\n");
        for (name, text) in pipelines {
            project.write(&format!("pipelines/{name}.yaml"), text);
        }
        let database = rusqlite::Connection::open(project.path("days.db")).unwrap();
        database
            .execute_batch("CREATE TABLE days (day TEXT, n INTEGER); INSERT INTO days VALUES ('2026-11-18', 4), ('2026-11-19', 7);")
            .unwrap();
        project
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    pub fn write(&self, below: &str, text: &str) {
        let path = self.path(below);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// The binary with these arguments, in the folder and its own state directory, with nothing of the caller's environment.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(self.folder.path(), arguments);
        command.env("NIGHTCREW_STATE", self.path("state"));
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Answer {
        Answer::of(self.command(arguments).output().unwrap())
    }

    /// Begins a command and lets it go on.
    pub fn start(&self, arguments: &[&str]) -> Process {
        self.start_command(self.command(arguments))
    }

    /// The same for a command that was made before.
    pub fn start_command(&self, mut command: Command) -> Process {
        let file = std::fs::File::create(self.path("process.log")).unwrap();
        let child = command.stdout(Stdio::null()).stderr(file).spawn().unwrap();
        Process { child, log: self.path("process.log") }
    }

    /// `runs --json`, newest first.
    pub fn runs(&self) -> Vec<Value> {
        let answer = self.run(&["--json", "runs", "--limit", "1000"]);
        answer.json()["runs"].as_array().cloned().unwrap_or_default()
    }

    /// Waits for a fact.
    pub fn until<T>(&self, what: &str, mut fact: impl FnMut() -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(found) = fact() {
                return found;
            }
            assert!(began.elapsed() < PATIENCE, "never came: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("process.log")).unwrap_or_default()
    }
}

/// The binary in a folder, with a home of its own.
pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nightcrew"));
    command.current_dir(folder).args(arguments).env_clear().env("HOME", folder).stdin(Stdio::null());
    command
}

/// What a command answered.
#[derive(Debug)]
pub struct Answer {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Answer {
    pub fn of(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    pub fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }
}

/// A command that goes on. Killed when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// What it says goes to the file `log`.
    pub fn new(child: Child, log: PathBuf) -> Self {
        Self { child, log }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// It has ended by itself.
    pub fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the end and answers the exit code.
    pub fn wait(mut self) -> Option<i32> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(began.elapsed() < PATIENCE, "does not end\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
