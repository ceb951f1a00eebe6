//! A client before a scripted cloud, on a clock that does not wait.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use nightcrew::base::BoxFuture;
use nightcrew::base::clock::{Clock, Timestamp};
use nightcrew::base::env::Env;
use nightcrew::base::ids::SeededIds;
use nightcrew::base::scope::Scope;
use nightcrew::base::secret::Secret;
use nightcrew::clients::e2b::wire::{Created, NewSandbox, ProcessConfig, StartProcess};
use nightcrew::clients::e2b::{Cloud, Endpoint, Envd, Event, Key, Process};

use crate::fakes::e2b::{E2b, KEY};

/// Notes how long it was asked to wait, and does not.
#[derive(Debug, Default)]
pub struct Hurried(Mutex<Vec<Duration>>);

impl Clock for Hurried {
    fn now(&self) -> Timestamp {
        "2026-11-20T08:00:00Z".parse().unwrap()
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.0.lock().unwrap().push(duration);
        Box::pin(std::future::ready(()))
    }
}

pub struct Bench {
    pub cloud: E2b,
    pub client: Cloud,
    pub scope: Scope,
    clock: Arc<Hurried>,
}

impl Bench {
    pub fn new() -> Self {
        Self::with_key(Key::Given(Secret::new(KEY)))
    }

    pub fn with_key(key: Key) -> Self {
        let cloud = E2b::start();
        let clock = Arc::new(Hurried::default());
        let env = Env { clock: clock.clone(), ids: Arc::new(SeededIds::new(7)) };
        let scope = Scope::new(tokio::runtime::Handle::current());
        let endpoint = Endpoint { api_url: cloud.url(), sandbox_url: Some(cloud.url()), key };
        let client = Cloud::new(endpoint, env, scope.clone()).unwrap();
        Self { cloud, client, scope, clock }
    }

    /// The pauses since the last time that this was asked.
    pub fn pauses(&self) -> Vec<Duration> {
        std::mem::take(&mut self.clock.0.lock().unwrap())
    }

    /// A sandbox from the usual template.
    pub async fn sandbox(&self) -> (Created, Envd) {
        let created = self.client.create(&asked("base"), "a-key").await.unwrap();
        let envd = self.client.envd(&created).unwrap();
        (created, envd)
    }

    /// How many calls of a kind came.
    pub fn count(&self, call: &str) -> usize {
        self.cloud.calls(call).len()
    }
}

pub fn asked(template: &str) -> NewSandbox {
    NewSandbox {
        template_id: template.into(),
        timeout: Some(300),
        allow_internet_access: Some(false),
        metadata: [("run".to_owned(), "01K".to_owned())].into(),
        ..NewSandbox::default()
    }
}

/// As E2B's clients start a command.
pub fn shell(command: &str) -> StartProcess {
    let args = ["-l", "-c", command].map(str::to_owned).to_vec();
    let process = ProcessConfig { cmd: "/bin/bash".into(), args, ..ProcessConfig::default() };
    StartProcess { process, ..StartProcess::default() }
}

/// What came of a process.
#[derive(Debug, Default, PartialEq)]
pub struct Done {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit: i32,
    pub exited: bool,
    pub error: Option<String>,
}

/// Follows a process to its end.
pub async fn finish(process: &mut Process) -> Result<Done, nightcrew::clients::e2b::Error> {
    let mut done = Done::default();
    while let Some(event) = process.next().await? {
        match event {
            Event::Stdout(bytes) => done.stdout.extend(bytes),
            Event::Stderr(bytes) => done.stderr.extend(bytes),
            Event::Pty(_) => panic!("nobody asked for a terminal"),
            Event::End(end) => (done.exit, done.exited, done.error) = (end.exit_code, end.exited, end.error),
        }
    }
    Ok(done)
}

/// Waits for a fact that others bring about.
pub async fn eventually(what: &str, fact: impl Fn() -> bool) {
    for _ in 0..3000 {
        if fact() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never came: {what}");
}
