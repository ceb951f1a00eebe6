//! `nightcrew env build|check|shell`: the environments of pipelines, by hand.
//!
//! Works beside a running daemon: environments are shared with it under file locks, everything else (the copies of repositories,
//! the sandboxes, the server if one is started) is this command's own. It reads what is committed, as a run would.

mod named;
mod shown;
mod terminal;

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;

use super::args::{EnvAct, EnvArgs};
use super::session::Session;
use super::ui::table;
use super::{Exit, Trouble};
use crate::base::env::process_variable;
use crate::base::scope::Scope;
use crate::builtin::REGISTRY;
use crate::config::settings::Profile;
use crate::daemon::load::Library;
use crate::daemon::signals::Signals;
use crate::domain::code::TreeId;
use crate::engine::workshop::{self, Source, Workshop, WorkshopSetup, places, sandbox_folder, workspace_stop};
use crate::ports::durable::Stop;
use crate::ports::sandbox::{Job, Progress, SandboxError, SandboxSetup};
use crate::ports::service::{Outside, Shared};
use crate::sandboxes::e2b::{Options, Remote, Said};
use crate::sinks::text;

use named::{Named, named, read};
use shown::{Done, pass_on, watched};

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
    let mut bench = Bench::open(session, scope, library.clone(), &profile)?;
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
    sandbox: Remote,
    progress: mpsc::Receiver<Progress>,
    /// Only one such command at a time has the copies of repositories.
    lock: Option<std::fs::File>,
}

impl<'a> Bench<'a> {
    fn open(session: &'a Session, scope: &'a Scope, library: Library, profile: &Profile) -> anyhow::Result<Self> {
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
            folder: sandbox_folder(&shared, &profile.sandbox),
            scope: scope.clone(),
            program: None,
            places: places(&library.settings),
            watcher: Some(watcher),
        };
        let sandbox = Remote::new(&setup, &profile.sandbox, Options::default());
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
                    rows.extend(done.rows);
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
                Act::Build { .. } => &["ENVIRONMENT", "FOR", "HASH", "", "TEMPLATE", "TIME"][..],
                Act::Check => &["ENVIRONMENT", "CHECK", "", "TIME", "TESTS"],
            };
            let right = match act {
                Act::Build { .. } => &[5][..],
                Act::Check => &[3, 4],
            };
            ui.data(table(head, &rows, right))?;
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
        let outside = Outside {
            services: Arc::new(settings.services.clone()),
            shared: Shared::default(),
            env: self.session.env.clone(),
        };
        let access = workshop::access(profile, &outside).await.map_err(no_code)?;
        let (pipeline, profile) = (one.pipeline.clone(), profile.clone());
        let looked = tokio::task::spawn_blocking(move || -> Result<(Source, TreeId), Stop> {
            let source = workshop.source(&pipeline, &settings, &profile)?;
            let found = source.repository.fetch(&source.reference, &access).map_err(workspace_stop)?;
            Ok((source, found.tree))
        });
        let (source, base) = looked.await.context("looking up the code")?.map_err(no_code)?;
        let session = self.session;
        session.ui.say(format!(
            "{}  {} at {}  tree {}",
            environment.file,
            text::line(&source.repository.origin().to_string()),
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
        let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        let interactive = command.is_empty() && terminal;
        let command = match &command[..] {
            [] if terminal => vec!["/bin/sh".to_owned(), "-i".to_owned()],
            [] => vec!["/bin/sh".to_owned()],
            _ => command,
        };
        let size = terminal.then(terminal::size);
        let started = self.sandbox.shell(&job, &base, &command, size);
        let started = watched(self.session, &mut self.progress, started).await;
        let mut shell = started.map_err(|error| self.trouble(error))?;
        // The sandbox stands: others may have the repositories.
        drop(self.lock.take());
        if interactive {
            let hash = shell.environment.short();
            self.session.ui.say(format!(
                "environment {hash}: no network; what you change is thrown away. Ctrl-D or `exit` leaves."
            ));
        }
        // From here on keys go to the shell as they are typed, Ctrl-C too.
        let raw = if terminal { terminal::Raw::begin() } else { None };
        let (keyboard, ended) = (shell.keyboard(), self.scope.token().clone());
        drop(self.scope.spawn("what is typed", async move {
            let (mut typed, mut buffer) = (tokio::io::stdin(), vec![0; 8192]);
            loop {
                let read = tokio::select! {
                    read = typed.read(&mut buffer) => read,
                    () = ended.cancelled() => return,
                };
                let bytes = read.ok().and_then(|count| buffer.get(..count)).unwrap_or_default();
                let sent = if bytes.is_empty() { keyboard.close().await } else { keyboard.write(bytes).await };
                if let Err(error) = sent {
                    // It has ended, which is told by its output.
                    tracing::debug!(%error, "what was typed went nowhere");
                    return;
                }
                if bytes.is_empty() {
                    return;
                }
            }
        }));
        let signals = Signals::listen(self.scope)?;
        let mut resized = terminal::resized()?;
        let keyboard = shell.keyboard();
        let mut well = None;
        loop {
            tokio::select! {
                said = shell.next() => match said.map_err(|error| self.trouble(error))? {
                    // A terminal of its own may do with the person's what it likes, once it is the person's whole screen.
                    Some(Said::Stdout(bytes)) => {
                        pass_on(std::io::stdout().lock(), std::io::stdout().is_terminal() && raw.is_none(), &bytes);
                    }
                    Some(Said::Stderr(bytes)) => pass_on(std::io::stderr().lock(), std::io::stderr().is_terminal(), &bytes),
                    Some(Said::Ended { well: how, limit }) => {
                        well = Some(how);
                        if let Some(limit) = limit {
                            self.session.ui.must_say(format!("ended by its limit: {limit}"));
                        }
                    }
                    None => break,
                },
                _ = resized.recv(), if raw.is_some() => {
                    if let Err(error) = keyboard.resize(terminal::size()).await {
                        tracing::debug!(%error, "the terminal keeps its size");
                    }
                }
                () = signals.stop.cancelled() => break,
            }
        }
        drop(raw);
        Ok(if well == Some(true) { Exit::Done } else { Exit::No })
    }
}

/// Why the code cannot be had.
fn no_code(stop: Stop) -> Trouble {
    match stop {
        Stop::Blocked(failure) | Stop::Failed(failure) => {
            Trouble { exit: Exit::No, message: failure.to_string(), help: failure.help }
        }
        stop => Trouble::new(Exit::No, stop.to_string()),
    }
}
