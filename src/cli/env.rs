//! `nightcrew env build|check|shell`: the environments of pipelines, by hand.
//!
//! Works beside a running daemon: environments are shared with it under file locks, everything else (the copies of repositories,
//! the isolation's own folder, the folders of commands) is this command's own. It reads what is committed, as a run would.

use std::future::Future;
use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;

use super::args::{EnvAct, EnvArgs, WhichEnv};
use super::session::Session;
use super::ui::{DIM, GREEN, RED, paint, table};
use super::{Exit, Trouble};
use crate::base::env::process_variable;
use crate::base::hash::Hash;
use crate::base::scope::Scope;
use crate::builtin::REGISTRY;
use crate::config::settings::Profile;
use crate::daemon::find;
use crate::daemon::load::Library;
use crate::daemon::signals::Signals;
use crate::domain::code::TreeId;
use crate::domain::definition::{Environment, Limits, On, Pipeline, Repository};
use crate::domain::run::Effects;
use crate::domain::sandbox::SandboxAnswer;
use crate::engine::workshop::{Source, Workshop, WorkshopSetup, sandbox_folder, workspace_stop};
use crate::isolation::{Chunk, Command};
use crate::pipeline;
use crate::ports::durable::Stop;
use crate::ports::sandbox::{Job, SandboxError, SandboxSetup};
use crate::sandboxes::sandboxd::{self, Built, Options, Progress, Sandboxd};
use crate::sinks::text;

/// How long what was started may take to go away at the end.
const GRACE: Duration = Duration::from_secs(60);

pub async fn run(session: &Session, args: EnvArgs) -> anyhow::Result<Exit> {
    let scope = Scope::new(tokio::runtime::Handle::current());
    let done = perform(session, &scope, args).await;
    for late in scope.close(GRACE).await {
        session.ui.must_say(format!("still busy: {late}"));
    }
    done
}

async fn perform(session: &Session, scope: &Scope, args: EnvArgs) -> anyhow::Result<Exit> {
    let which = match &args.act {
        EnvAct::Build { which, .. } | EnvAct::Check { which } | EnvAct::Shell { which, .. } => which,
    };
    let library = session.library()?;
    let profile = profile(&library, &which.profile)?;
    if profile.sandbox != sandboxd::KIND.name {
        session.ui.say(format!(
            "runs with the profile `{}` use the sandbox `{}`; this is about sandboxd, on this machine",
            profile.name, profile.sandbox
        ));
    }
    let mut bench = Bench::open(session, scope, library.clone())?;
    let named = named(session, &library, which)?;
    match args.act {
        EnvAct::Build { anew, .. } => bench.each(&named, &profile, Act::Build { anew }).await,
        EnvAct::Check { .. } => bench.each(&named, &profile, Act::Check).await,
        EnvAct::Shell { command, .. } => match &named[..] {
            [one] => bench.shell(one, &profile, command).await,
            several => {
                let names: Vec<_> = several.iter().map(Named::shown).collect();
                Err(Trouble::new(Exit::Usage, "there are several environments")
                    .help(format!("name one of: {}", names.join(", ")))
                    .into())
            }
        },
    }
}

fn profile(library: &Library, name: &str) -> anyhow::Result<Profile> {
    library.settings.profiles.get(name).cloned().ok_or_else(|| {
        let known: Vec<_> = library.settings.profiles.keys().map(String::as_str).collect();
        let trouble = Trouble::new(Exit::Usage, format!("there is no profile `{name}`"));
        trouble.help(format!("one of: {}", known.join(", "))).into()
    })
}

/// An environment, and the code for which it is.
#[derive(Clone, Debug)]
struct Named {
    environment: Environment,
    /// The pipeline, whose repository it is for.
    pipeline: Arc<Pipeline>,
    /// All pipelines that use it for that repository.
    used_by: Vec<String>,
}

impl Named {
    fn shown(&self) -> String {
        match self.used_by.first() {
            Some(pipeline) => pipeline.clone(),
            None => self.environment.file.clone(),
        }
    }
}

/// What the argument means: a pipeline, a file that pipelines name, any other file (for the repository one stands in), or all.
fn named(session: &Session, library: &Library, which: &WhichEnv) -> anyhow::Result<Vec<Named>> {
    let mut all: Vec<Named> = Vec::new();
    for (_, pipeline) in library.pipelines.values() {
        let Some(environment) = &pipeline.environment else { continue };
        let same = |one: &&mut Named| {
            one.environment.file == environment.file && one.pipeline.repository == pipeline.repository
        };
        match all.iter_mut().find(same) {
            Some(one) => one.used_by.push(pipeline.name.clone()),
            None => all.push(Named {
                environment: environment.clone(),
                pipeline: pipeline.clone(),
                used_by: vec![pipeline.name.clone()],
            }),
        }
    }
    let Some(asked) = &which.environment else {
        return match all.is_empty() {
            false => Ok(all),
            true => Err(Trouble::new(Exit::No, "no pipeline has an environment")
                .help("add `environment: environments/NAME.yaml` to one, or name a file")
                .into()),
        };
    };
    if let Some(position) = all.iter().position(|one| one.used_by.contains(asked)) {
        return Ok(vec![all.swap_remove(position)]);
    }
    let file = Path::new(asked);
    let folder = session.places.pipelines.clone();
    let of = |one: &Named| -> bool {
        let Ok(meant) = folder.join(&one.environment.file).canonicalize() else { return false };
        let stem = meant.file_stem().is_some_and(|stem| stem == asked.as_str());
        stem || file.canonicalize().is_ok_and(|file| file == meant)
    };
    let by_file: Vec<Named> = all.iter().filter(|one| of(one)).cloned().collect();
    if !by_file.is_empty() {
        return Ok(by_file);
    }
    if !file.is_file() || file.parent().is_some_and(|parent| same_folder(parent, &folder)) {
        let pipeline = find(library, &session.places, &REGISTRY, asked).map_err(|refusal| {
            if refusal.code == "E-CONFIG" {
                session.show_mistakes_of(&library.report, asked);
            }
            Trouble::from(refusal)
        })?;
        let Some(environment) = pipeline.environment.clone() else {
            let help = format!("add `environment: environments/NAME.yaml` to {}", pipeline.name);
            return Err(Trouble::new(Exit::No, format!("the pipeline `{asked}` has no environment")).help(help).into());
        };
        return Ok(vec![Named { environment, used_by: vec![pipeline.name.clone()], pipeline }]);
    }
    // For the clone that one stands in.
    let here = std::env::current_dir().context("finding the folder one stands in")?;
    let top = here.ancestors().find(|folder| folder.join(".git").exists()).unwrap_or(&here);
    let pipeline = Arc::new(Pipeline {
        name: asked.clone(),
        summary: String::new(),
        hash: Hash::of(asked),
        files: Vec::new(),
        owner: None,
        effects: Effects::Preview,
        params: Vec::new(),
        on: On::default(),
        limits: Limits::default(),
        repository: Some(Repository { github: None, r#ref: None, path: Some(top.display().to_string()) }),
        environment: None,
        tools: Vec::new(),
        steps: Vec::new(),
    });
    Ok(vec![Named { environment: read(session, file, asked)?, pipeline, used_by: Vec::new() }])
}

fn same_folder(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| if path.as_os_str().is_empty() { Path::new(".") } else { path }.canonicalize().ok();
    real(one).is_some_and(|one| Some(one) == real(other))
}

/// An environment's file. Its mistakes are shown.
fn read(session: &Session, path: &Path, file: &str) -> anyhow::Result<Environment> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(|| format!("reading `{shown}`"))?;
    let (environment, report) = pipeline::parse_environment(&shown, file, &text);
    session.show_report(&report);
    environment.ok_or_else(|| Trouble::new(Exit::Config, format!("`{shown}` has mistakes")).into())
}

/// What is done to each.
#[derive(Clone, Copy, Debug)]
enum Act {
    Build { anew: bool },
    Check,
}

/// What is needed for all of them.
struct Bench<'a> {
    session: &'a Session,
    scope: &'a Scope,
    library: Library,
    workshop: Arc<Workshop>,
    sandbox: Sandboxd,
    progress: mpsc::Receiver<Progress>,
    /// Only one such command at a time has the copies of repositories.
    lock: Option<std::fs::File>,
}

impl<'a> Bench<'a> {
    fn open(session: &'a Session, scope: &'a Scope, library: Library) -> anyhow::Result<Self> {
        // Beside what the daemon has in `work`: a private repository is for one process at a time.
        let (shared, own) = (session.state.join("work"), session.state.join("work/env"));
        let making = || format!("making `{}`", own.display());
        std::fs::create_dir_all(&own).with_context(making)?;
        let lock = std::fs::File::create(own.join("lock")).with_context(making)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                session.ui.say("waiting for another `nightcrew env` to end");
                lock.lock().with_context(making)?;
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(error).with_context(making),
        }
        let workshop = Workshop::new(WorkshopSetup {
            env: session.env.clone(),
            registry: REGISTRY,
            folder: own,
            pipelines: session.places.pipelines.clone(),
            scope: scope.clone(),
            program: None,
            path: process_variable("PATH").unwrap_or_default().into(),
        });
        let (watcher, progress) = mpsc::channel(64);
        let setup = SandboxSetup {
            env: session.env.clone(),
            folder: sandbox_folder(&shared, sandboxd::KIND.name),
            scope: scope.clone(),
            program: None,
        };
        let sandbox = Sandboxd::new(&setup, Options { watcher: Some(watcher), ..Options::default() });
        Ok(Self { session, scope, library, workshop: Arc::new(workshop), sandbox, progress, lock: Some(lock) })
    }

    /// One after the other; what goes wrong with one is said, and the others follow.
    async fn each(&mut self, named: &[Named], profile: &Profile, act: Act) -> anyhow::Result<Exit> {
        let (mut rows, mut values, mut exit) = (Vec::new(), Vec::new(), Exit::Done);
        for one in named {
            match self.one(one, profile, act).await {
                Ok(done) => {
                    if !done.good {
                        exit = Exit::No;
                    }
                    rows.push(done.row);
                    values.push(done.json);
                }
                Err(error) if named.len() > 1 => {
                    super::tell(self.session, &error);
                    values.push(json!({"environment": one.environment.file, "error": format!("{error:#}")}));
                    exit = Exit::No;
                }
                Err(error) => return Err(error),
            }
        }
        let ui = &self.session.ui;
        if ui.json {
            ui.data_json(&json!({"environments": values}))?;
        } else if !rows.is_empty() {
            let head = match act {
                Act::Build { .. } => &["ENVIRONMENT", "FOR", "HASH", "", "TIME", "SIZE"][..],
                Act::Check => &["ENVIRONMENT", "CHECK", "", "TIME", "TESTS"],
            };
            let rows: Vec<Vec<String>> = rows.into_iter().flatten().collect();
            ui.data(table(head, &rows, &[head.len() - 2, head.len() - 1]))?;
        }
        Ok(exit)
    }

    async fn one(&mut self, one: &Named, profile: &Profile, act: Act) -> anyhow::Result<Done> {
        let (job, base) = self.job(one, profile).await?;
        let begun = Instant::now();
        let anew = matches!(act, Act::Build { anew: true });
        let built = watched(self.session, &mut self.progress, self.sandbox.build(&job, &base, anew)).await;
        let built = built.map_err(|error| self.trouble(error))?;
        match act {
            Act::Build { .. } => Ok(Done::of_build(one, &base, &built, begun.elapsed())),
            Act::Check => {
                let answers = watched(self.session, &mut self.progress, self.sandbox.check(&job, &base)).await;
                let answers = answers.map_err(|error| self.trouble(error))?;
                Ok(Done::of_checks(one, &base, &built, &answers))
            }
        }
    }

    /// The code of an environment, as it is committed now.
    async fn job(&self, one: &Named, profile: &Profile) -> anyhow::Result<(Job, TreeId)> {
        let mut environment = one.environment.clone();
        if let Some(file) = profile.environments.get(&environment.file) {
            let own = environment.file.clone();
            environment = read(self.session, file, &own)?;
        }
        let (workshop, settings) = (self.workshop.clone(), self.library.settings.clone());
        let (pipeline, profile) = (one.pipeline.clone(), profile.clone());
        let looked = tokio::task::spawn_blocking(move || -> Result<(Source, TreeId), Stop> {
            let source = workshop.source(&pipeline, &settings, &profile)?;
            let found = source.repository.fetch(&source.reference, &source.access).map_err(workspace_stop)?;
            Ok((source, found.tree))
        });
        let (source, base) = looked.await.context("looking up the code")?.map_err(|stop| match stop {
            Stop::Blocked(failure) | Stop::Failed(failure) => {
                Trouble { exit: Exit::No, message: failure.to_string(), help: failure.help }
            }
            stop => Trouble::new(Exit::No, stop.to_string()),
        })?;
        let session = self.session;
        session.ui.say(format!(
            "{}  {} at {}  tree {}",
            environment.file,
            text::line(&source.origin),
            text::line(&source.reference),
            base.short()
        ));
        Ok((source.job(Arc::new(environment), "env".to_owned()), base))
    }

    fn trouble(&self, error: SandboxError) -> Trouble {
        let said = error.to_string();
        match error {
            SandboxError::Missing { message, help } => Trouble::new(Exit::No, message).help(help),
            // Its output was shown as it came, unless nobody wanted to see it.
            SandboxError::Broken { output, .. } if self.session.ui.quiet => {
                Trouble::new(Exit::No, format!("{said}\n{output}"))
            }
            SandboxError::Broken { .. } | SandboxError::Failed { .. } => Trouble::new(Exit::No, said),
        }
    }

    async fn shell(&mut self, one: &Named, profile: &Profile, command: Vec<String>) -> anyhow::Result<Exit> {
        let (job, base) = self.job(one, profile).await?;
        let terminal = std::io::stdin().is_terminal();
        let interactive = command.is_empty() && terminal;
        let command = match &command[..] {
            [] if terminal => vec!["/bin/sh".to_owned(), "-i".to_owned()],
            [] => vec!["/bin/sh".to_owned()],
            _ => command,
        };
        let started = self.sandbox.shell(&job, &base, Command::Argv(command));
        let started = watched(self.session, &mut self.progress, started).await;
        let mut shell = started.map_err(|error| self.trouble(error))?;
        // The copy stands: others may have the repositories.
        drop(self.lock.take());
        if interactive {
            let hash = shell.environment.short();
            self.session.ui.say(format!(
                "environment {hash}: no network; what you change is thrown away. This is no full terminal (no line editing, no \
                 job control): Ctrl-D leaves, Ctrl-C ends everything."
            ));
        }
        let (stdin, ended) = (shell.running.handle(), self.scope.token().clone());
        drop(self.scope.spawn("what is typed", async move {
            let (mut typed, mut buffer) = (tokio::io::stdin(), vec![0; 8192]);
            loop {
                let read = tokio::select! {
                    read = typed.read(&mut buffer) => read,
                    () = ended.cancelled() => return,
                };
                let bytes = read.ok().and_then(|count| buffer.get(..count)).unwrap_or_default().to_vec();
                if bytes.is_empty() {
                    stdin.close_stdin().await;
                    return;
                }
                if !stdin.write_stdin(bytes).await {
                    return;
                }
            }
        }));
        let signals = Signals::listen(self.scope)?;
        let handle = shell.running.handle();
        loop {
            tokio::select! {
                chunk = shell.running.next() => match chunk {
                    Some(Chunk::Stdout(bytes)) => pass_on(std::io::stdout().lock(), std::io::stdout().is_terminal(), &bytes),
                    Some(Chunk::Stderr(bytes)) => pass_on(std::io::stderr().lock(), std::io::stderr().is_terminal(), &bytes),
                    None => break,
                },
                () = signals.stop.cancelled() => {
                    handle.kill();
                    break;
                }
            }
        }
        let finished = shell.running.wait().await.map_err(|error| Trouble::new(Exit::No, error.to_string()))?;
        match (finished.exit, finished.stopped) {
            (Some(0), None) => Ok(Exit::Done),
            (_, Some(limit)) => {
                self.session.ui.must_say(format!("ended by its limit: {limit:?}"));
                Ok(Exit::No)
            }
            _ => Ok(Exit::No),
        }
    }
}

/// Bytes of a command for a person or a pipe. A terminal gets nothing that could move its cursor or set its title.
fn pass_on(mut to: impl std::io::Write, terminal: bool, bytes: &[u8]) {
    let clean = terminal.then(|| text::clean(&String::from_utf8_lossy(bytes)));
    // Who has gone away misses nothing.
    drop(to.write_all(clean.as_ref().map_or(bytes, |clean| clean.as_bytes())).and_then(|()| to.flush()));
}

/// Does the work and meanwhile shows what the commands say.
async fn watched<T>(session: &Session, progress: &mut mpsc::Receiver<Progress>, work: impl Future<Output = T>) -> T {
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
            Progress::Output(Chunk::Stdout(bytes) | Chunk::Stderr(bytes)) => {
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
struct Done {
    good: bool,
    row: Vec<Vec<String>>,
    json: Value,
}

impl Done {
    fn of_build(one: &Named, base: &TreeId, built: &Built, took: Duration) -> Self {
        let how = if built.built { "built" } else { "found" };
        let row = vec![
            one.environment.file.clone(),
            one.used_by.join(", "),
            built.environment.short(),
            how.to_owned(),
            text::duration(took),
            bytes(built.bytes),
        ];
        let json = json!({
            "environment": one.environment.file,
            "pipelines": one.used_by,
            "tree": base,
            "hash": built.environment,
            "built": built.built,
            "made_at": built.made_at,
            "duration_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "bytes": built.bytes,
            "receipts": built.receipts,
        });
        Self { good: true, row: vec![row], json }
    }

    fn of_checks(one: &Named, base: &TreeId, built: &Built, answers: &[SandboxAnswer]) -> Self {
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
        Self { good, row: rows, json }
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

/// `812 KB`, `1.4 GB`.
fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} KB", bytes.div_ceil(1000)),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
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
        assert_eq!(
            (bytes(10), bytes(1_500_000), bytes(2_340_000_000)),
            ("1 KB".into(), "1.5 MB".into(), "2.3 GB".into())
        );
    }
}
