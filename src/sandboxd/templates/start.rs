//! Commands of a template: how one is started, and the one that runs in every sandbox until it is ready.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::base::scope::Scope;
use crate::isolation::{Chunk, Command, Error, Finished, Process, Room, Root, Running};

use super::build::{chain, how, is_in, variables};
use super::images::Manifest;
use super::log::Lines;

/// How long a start command may take until it is ready, while a template is built.
pub(super) const LONGEST: Duration = Duration::from_secs(300);
/// The same in a sandbox.
pub(super) const IN_SANDBOX: Duration = Duration::from_secs(60);
/// What is waited between two looks: at first, and at most.
const LOOK: Duration = Duration::from_millis(50);
const LOOK_LATER: Duration = Duration::from_secs(1);

/// It may run for as long as its sandbox does.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// Where nothing tells that it is ready, it is so when it still runs after this time.
const GRACE: Duration = Duration::from_millis(300);

/// A command as processes of a template are started: by a login shell.
pub(super) fn process(manifest: &Manifest, root: &Root, room: &Room, command: &str) -> Process {
    let bash = match root {
        Root::Host => Path::new("/bin/bash").exists(),
        Root::Directory(root) => is_in(root, "bin/bash"),
    };
    let words: &[&str] = if bash { &["/bin/bash", "-l", "-c", command] } else { &["/bin/sh", "-c", command] };
    let mut process = Process::new(Command::Argv(words.iter().map(|word| (*word).to_owned()).collect()));
    process.directory.clone_from(&manifest.directory);
    process.environment = variables(&manifest.environment, manifest.downloads, room);
    process
}

/// Starts what a template has running in its sandboxes, and waits until it is ready. It goes on until the room is closed.
///
/// `said`: gets its lines until then. The error says what went wrong.
pub(super) async fn start(
    manifest: &Manifest,
    root: &Root,
    room: &Room,
    scope: &Scope,
    longest: Duration,
    said: impl Fn(&[u8]),
) -> Result<(), String> {
    let began = Instant::now();
    let (sender, mut lines) = mpsc::channel::<Vec<u8>>(64);
    let mut ended = None;
    if let Some(command) = &manifest.start {
        let mut process = process(manifest, root, room, command);
        process.wall = Some(FOR_EVER);
        let started = room.start(process).await.map_err(|error| format!("the start command: {}", chain(&error)))?;
        ended = Some(scope.spawn("a start command", drain(started.running, sender, scope.token().clone())));
    } else {
        drop(sender);
    }
    let ready = wait(manifest, root, room, longest.saturating_sub(began.elapsed()));
    tokio::pin!(ready);
    let mut silent = false;
    loop {
        let end = async {
            match &mut ended {
                Some(answer) => answer.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            line = lines.recv(), if !silent => match line {
                Some(line) => said(&line),
                None => silent = true,
            },
            finished = end => {
                ended = None;
                match finished {
                    // It may have left something running.
                    Ok(Ok(finished)) if finished.succeeded() => {}
                    Ok(Ok(finished)) => return Err(format!("the start command: {}", how(&finished))),
                    Ok(Err(error)) => return Err(format!("the start command: {}", chain(&error))),
                    Err(lost) => return Err(format!("the start command: {lost}")),
                }
            }
            answer = &mut ready => return answer,
        }
    }
}

/// Reads what it writes, so that it can go on writing, until it ends or everything does.
async fn drain(mut running: Running, to: mpsc::Sender<Vec<u8>>, stop: CancellationToken) -> Result<Finished, Error> {
    let (mut out, mut err) = (Lines::default(), Lines::default());
    loop {
        let chunk = tokio::select! {
            () = stop.cancelled() => break,
            chunk = running.next() => chunk,
        };
        // Who has stopped listening, or does not keep up, misses some.
        let mut line = |line: &[u8]| drop(to.try_send(line.to_vec()));
        match chunk {
            Some(Chunk::Stdout(piece)) => out.push(&piece, &mut line),
            Some(Chunk::Stderr(piece)) => err.push(&piece, &mut line),
            None => {
                out.flush(&mut line);
                err.flush(&mut line);
                break;
            }
        }
    }
    if stop.is_cancelled() {
        running.handle().kill();
    }
    running.wait().await
}

async fn wait(manifest: &Manifest, root: &Root, room: &Room, longest: Duration) -> Result<(), String> {
    let Some(command) = &manifest.ready else {
        tokio::time::sleep(GRACE).await;
        return Ok(());
    };
    let (began, mut pause, mut last) = (Instant::now(), LOOK, String::new());
    while began.elapsed() < longest {
        let mut process = process(manifest, root, room, command);
        process.wall = Some(longest.saturating_sub(began.elapsed()));
        let started = room.start(process).await.map_err(|error| format!("the ready command: {}", chain(&error)))?;
        let finished = started.running.wait().await.map_err(|error| format!("the ready command: {}", chain(&error)))?;
        if finished.succeeded() {
            return Ok(());
        }
        last = how(&finished);
        tokio::time::sleep(pause).await;
        pause = LOOK_LATER.min(pause * 2);
    }
    Err(format!("the start command was not ready after {} s; the ready command: {last}", longest.as_secs()))
}
