//! A sandbox that confines nothing and runs nothing: a script in Rust answers for each command. It writes the tree that it is
//! given into a folder, as a real one does, so that a script sees the files as a command would.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};

use nightcrew::base::BoxFuture;
use nightcrew::base::hash::Hash;
use nightcrew::domain::code::TreeId;
use nightcrew::domain::definition::Environment;
use nightcrew::domain::sandbox::{CommandReceipt, Prepared, SandboxAnswer, SandboxRequest};
use nightcrew::ports::sandbox::{Billed, Job, Sandbox, SandboxError, SandboxKind, SandboxSetup};

/// In the place of the real one.
pub const ALL: &[SandboxKind] = &[SandboxKind { name: "sandboxd", summary: "scripted", make: Some(make) }];

/// Scripted sandboxes by the folder of their world: a `make` is a plain function.
static WORLDS: LazyLock<Mutex<BTreeMap<PathBuf, Arc<Script>>>> = LazyLock::new(Mutex::default);

/// How a command ends: exit code, output, complaints, JUnit.
#[derive(Clone, Debug, Default)]
pub struct End {
    pub exit: i32,
    pub stdout: String,
    pub stderr: String,
    pub junit: Option<String>,
}

type Run = Box<dyn Fn(&SandboxRequest, &Path) -> Result<End, SandboxError> + Send + Sync>;

/// What happens in one world's sandbox, and what has happened.
pub struct Script {
    run: Run,
    /// What a preparation ends with, if it fails.
    broken: Mutex<Option<SandboxError>>,
    /// By what it is billed, and for how many milliseconds each use.
    billed: Mutex<Option<(Billed, u64)>>,
    /// `prepare OWNER`, `run OWNER: COMMAND`, `dropped`, `release RUN`.
    pub seen: Mutex<Vec<String>>,
}

/// Scripts the sandbox of the world in `folder`. A command `hang` never ends.
pub fn script(
    folder: &Path,
    run: impl Fn(&SandboxRequest, &Path) -> Result<End, SandboxError> + Send + Sync + 'static,
) -> Arc<Script> {
    let script = Arc::new(Script {
        run: Box::new(run),
        broken: Mutex::default(),
        billed: Mutex::default(),
        seen: Mutex::default(),
    });
    WORLDS.lock().unwrap().insert(std::fs::canonicalize(folder).unwrap(), script.clone());
    script
}

impl Script {
    pub fn breaks(&self, error: SandboxError) {
        *self.broken.lock().unwrap() = Some(error);
    }
    pub fn is_billed(&self, by: Billed, ms: u64) {
        *self.billed.lock().unwrap() = Some((by, ms));
    }
    fn ms(&self) -> u64 {
        self.billed.lock().unwrap().as_ref().map_or(0, |(_, ms)| *ms)
    }
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
    fn note(&self, text: String) {
        self.seen.lock().unwrap().push(text);
    }
}

fn make(setup: &SandboxSetup) -> Arc<dyn Sandbox> {
    let worlds = WORLDS.lock().unwrap();
    std::fs::create_dir_all(&setup.folder).unwrap();
    let folder = std::fs::canonicalize(&setup.folder).unwrap();
    let (_, script) = worlds.iter().find(|(world, _)| folder.starts_with(world)).expect("a scripted world");
    Arc::new(Scripted(script.clone()))
}

struct Scripted(Arc<Script>);

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scripted")
    }
}

/// Tells when a command was ended from outside.
struct Running(Arc<Script>, bool);

impl Drop for Running {
    fn drop(&mut self) {
        if !self.1 {
            self.0.note("dropped".into());
        }
    }
}

pub fn receipt(command: &str, tree: &TreeId, exit: i32) -> CommandReceipt {
    CommandReceipt {
        command: command.into(),
        tree: tree.clone(),
        exit: Some(exit),
        signal: None,
        stopped: None,
        duration_ms: 10,
        output: Hash::of(""),
        environment: Hash::of("environment"),
        provider: "scripted".into(),
        template: String::new(),
        sandbox: String::new(),
        isolation: "none".into(),
        gaps: Vec::new(),
        network: "none".into(),
        fresh: true,
        at: "2026-11-20T08:00:00Z".parse().unwrap(),
    }
}

impl Sandbox for Scripted {
    fn prepare<'a>(&'a self, job: &'a Job, _: &'a TreeId) -> BoxFuture<'a, Result<Prepared, SandboxError>> {
        Box::pin(async move {
            self.0.note(format!("prepare {}", job.owner));
            match self.0.broken.lock().unwrap().take() {
                Some(error) => Err(error),
                None => Ok(Prepared {
                    environment: Hash::of("environment"),
                    built: true,
                    duration_ms: 1,
                    receipts: Vec::new(),
                    sandbox: "scripted".into(),
                    billed_ms: self.0.ms(),
                }),
            }
        })
    }

    fn run<'a>(
        &'a self,
        job: &'a Job,
        request: &'a SandboxRequest,
    ) -> BoxFuture<'a, Result<SandboxAnswer, SandboxError>> {
        Box::pin(async move {
            self.0.note(format!("run {}: {}", job.owner, request.command));
            let mut running = Running(self.0.clone(), false);
            if request.command == "hang" {
                std::future::pending::<()>().await;
            }
            let folder = tempfile::tempdir().unwrap();
            let (files, tree, into) = (job.files.clone(), request.tree.clone(), folder.path().to_owned());
            tokio::task::spawn_blocking(move || files.write(&tree, &into)).await.unwrap().unwrap();
            let end = (self.0.run)(request, folder.path());
            running.1 = true;
            let end = end?;
            let receipt = receipt(&request.command, &request.tree, end.exit);
            Ok(SandboxAnswer {
                receipt: CommandReceipt { fresh: request.fresh, ..receipt },
                stdout: end.stdout,
                stderr: end.stderr,
                junit: end.junit,
                billed_ms: self.0.ms(),
            })
        })
    }

    fn billed(&self, _: &Environment) -> Option<Billed> {
        self.0.billed.lock().unwrap().as_ref().map(|(by, _)| by.clone())
    }

    fn release<'a>(&'a self, run: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.0.note(format!("release {run}")) })
    }
}
