//! A sandbox that remembers: what it is asked for the first time the real one answers, what it was asked before comes from memory.
//! Closed, it refuses whatever is new: then a run that is taken up again runs no command but those of the undisturbed one.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};

use nightcrew::base::BoxFuture;
use nightcrew::base::env::Env;
use nightcrew::base::scope::Scope;
use nightcrew::domain::code::TreeId;
use nightcrew::domain::sandbox::{Prepared, SandboxAnswer, SandboxRequest};
use nightcrew::ports::sandbox::{Job, Places, Sandbox, SandboxError, SandboxKind, SandboxSetup};

/// In the place of the real one.
pub const ALL: &[SandboxKind] =
    &[SandboxKind { name: "sandboxd", summary: "remembered", make: Some(|setup| find(&setup.folder)) }];

/// Memories by the folder of their world: a `make` is a plain function.
static WORLDS: LazyLock<Mutex<BTreeMap<PathBuf, Arc<Memory>>>> = LazyLock::new(Mutex::default);

#[derive(Default, Debug)]
struct Known {
    answers: HashMap<String, SandboxAnswer>,
    prepared: HashMap<String, Prepared>,
    closed: bool,
    /// Asked for since the last look.
    asked: usize,
}

/// What is remembered in one world.
#[derive(Debug)]
pub struct Memory {
    real: Arc<dyn Sandbox>,
    known: Mutex<Known>,
}

/// Gives the world in `world` a memory; the real sandbox keeps its things in `folder`.
pub fn begin(world: &Path, folder: PathBuf) -> Arc<Memory> {
    let make = nightcrew::sandboxes::ALL.iter().find(|kind| kind.name == "sandboxd").unwrap().make.unwrap();
    let real = make(&SandboxSetup {
        env: Env::system(),
        folder,
        scope: Scope::new(tokio::runtime::Handle::current()),
        program: Some(env!("CARGO_BIN_EXE_nightcrew").into()),
        places: Places::default(),
        watcher: None,
    });
    let memory = Arc::new(Memory { real, known: Mutex::default() });
    WORLDS.lock().unwrap().insert(std::fs::canonicalize(world).unwrap(), memory.clone());
    memory
}

fn find(folder: &Path) -> Arc<dyn Sandbox> {
    std::fs::create_dir_all(folder).unwrap();
    let folder = std::fs::canonicalize(folder).unwrap();
    let worlds = WORLDS.lock().unwrap();
    let (_, memory) = worlds.iter().find(|(world, _)| folder.starts_with(world)).expect("a world with a memory");
    Arc::new(Remembered(memory.clone()))
}

impl Memory {
    /// From now on nothing new is run.
    pub fn close(&self) {
        self.known.lock().unwrap().closed = true;
    }

    /// How many commands were asked for since the last look.
    pub fn asked(&self) -> usize {
        std::mem::take(&mut self.known.lock().unwrap().asked)
    }
}

#[derive(Debug)]
struct Remembered(Arc<Memory>);

fn refused(what: &str) -> SandboxError {
    SandboxError::Failed { message: format!("the undisturbed run never asked for {what}") }
}

impl Sandbox for Remembered {
    fn prepare<'a>(&'a self, job: &'a Job, base: &'a TreeId) -> BoxFuture<'a, Result<Prepared, SandboxError>> {
        Box::pin(async move {
            let key = format!("{} {base}", job.repository);
            {
                let known = self.0.known.lock().unwrap();
                if let Some(prepared) = known.prepared.get(&key) {
                    return Ok(prepared.clone());
                }
                if known.closed {
                    return Err(refused(&key));
                }
            }
            let prepared = self.0.real.prepare(job, base).await?;
            self.0.known.lock().unwrap().prepared.insert(key, prepared.clone());
            Ok(prepared)
        })
    }

    fn run<'a>(
        &'a self,
        job: &'a Job,
        request: &'a SandboxRequest,
    ) -> BoxFuture<'a, Result<SandboxAnswer, SandboxError>> {
        Box::pin(async move {
            let key = format!("{} {}", job.repository, serde_json::to_string(request).unwrap());
            {
                let mut known = self.0.known.lock().unwrap();
                known.asked += 1;
                if let Some(answer) = known.answers.get(&key) {
                    return Ok(answer.clone());
                }
                if known.closed {
                    return Err(refused(&key));
                }
            }
            let answer = self.0.real.run(job, request).await?;
            self.0.known.lock().unwrap().answers.insert(key, answer.clone());
            Ok(answer)
        })
    }

    fn release<'a>(&'a self, run: &'a str) -> BoxFuture<'a, ()> {
        self.0.real.release(run)
    }
}
