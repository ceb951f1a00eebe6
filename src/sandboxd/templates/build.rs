//! Building a template: its steps in order in one room over a home that grows.
//!
//! A build makes a folder of its own, which becomes an image when everything has worked and goes otherwise; what the template was
//! before is in use until then. Builds of the same wait for each other and share what the first one has made.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::base::hash::Hash;
use crate::clients::e2b::wire::{BuildReason, BuildStatus, StartBuild};
use crate::isolation::{Chunk, Command, Error, Finished, Limits, Process, Room, RoomSpec, Root, Stopped};
use crate::sandboxd::Shared;
use crate::sandboxd::own::{leave_room, make_dir};
use crate::workspace::remove_folder;

use super::archive::Bounds;
use super::catalogue::{Index, Tag};
use super::images::{Image, Lock, Manifest};
use super::log::{self, Lines, Log};
use super::steps::{Refused, Step};
use super::tree::Tree;
use super::{copy, start, unpack};

/// How long one `RUN` may take.
const WALL: Duration = Duration::from_secs(1800);
pub(super) const BASE: &str = "base";
pub(super) const FINALIZE: &str = "finalize";

/// One build, from the request to its end and for a while after.
#[derive(Debug)]
pub(super) struct Build {
    pub id: String,
    pub template: String,
    pub tags: Vec<String>,
    pub memory_mb: u64,
    pub log: Log,
    pub cancel: CancellationToken,
    pub state: Mutex<State>,
}

#[derive(Clone, Debug)]
pub(super) struct State {
    pub status: BuildStatus,
    pub reason: Option<BuildReason>,
    /// Its steps are known.
    pub begun: bool,
}

impl Build {
    /// It has begun and is not over.
    pub fn is_at_work(&self) -> bool {
        let state = self.state();
        state.begun && matches!(state.status, BuildStatus::Waiting | BuildStatus::Building)
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a template is built on.
#[derive(Debug)]
pub(super) enum From {
    Host,
    Image(Arc<Image>),
    /// A configured root file system.
    Root(String),
}

/// What there is to do.
#[derive(Debug)]
pub(super) struct Work {
    pub from: From,
    pub steps: Vec<Step>,
    /// A step that cannot be done, so none is.
    pub refused: Option<Refused>,
    pub start: Option<String>,
    pub ready: Option<String>,
    /// Hosts that commands may reach.
    pub network: Vec<String>,
    /// What is there already does not do.
    pub force: bool,
    pub key: Hash,
}

impl Work {
    /// What two builds of the same have in common.
    pub fn key_of(from: &From, request: &StartBuild, network: &[String]) -> Hash {
        let from = match from {
            From::Host => BASE.to_owned(),
            From::Image(image) => format!("image {}", image.manifest.id),
            From::Root(name) => format!("root {name}"),
        };
        let asked = serde_json::json!({
            "version": 1,
            "from": from,
            "steps": request.steps.iter().map(|step| (&step.kind, &step.args, &step.files_hash)).collect::<Vec<_>>(),
            "start": request.start_cmd,
            "ready": request.ready_cmd,
            "network": network,
        });
        Hash::of_json(&asked)
    }
}

/// A build that did not work.
#[derive(Debug)]
pub(super) struct Failure {
    pub step: String,
    pub message: String,
}

impl Failure {
    fn at(step: impl Into<String>) -> impl Fn(String) -> Self {
        let step = step.into();
        move |message| Self { step: step.clone(), message }
    }
}

/// Builds, and tells how it went wherever somebody may ask.
pub(super) async fn run(shared: Arc<Shared>, build: Arc<Build>, work: Work) {
    let began = Instant::now();
    build.state().status = BuildStatus::Building;
    let cancel = build.cancel.clone();
    let mut site = Site::default();
    let outcome = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Failure { step: FINALIZE.into(), message: "the build was cancelled".into() }),
        outcome = carry_out(&shared, &build, &work, &mut site) => outcome,
    };
    // Until it is written down, nobody else must take the image for one that nobody refers to.
    let held = site.close().await;
    let at = shared.env.now();
    let reason = match &outcome {
        Ok(_) => None,
        Err(failure) => {
            build.log.say(&shared.env, &failure.step, log::ERROR, failure.message.clone());
            let log_entries = build.log.end_of(&failure.step, 20);
            let message = failure.message.clone();
            Some(BuildReason { message, step: Some(failure.step.clone()), log_entries })
        }
    };
    let (image, key) = (outcome.ok(), work.key);
    let kept = {
        let (build, image, reason) = (build.clone(), image.clone(), reason.clone());
        shared.templates.change(move |index| conclude(index, &build, image, key, reason, at)).await
    };
    // Before anybody hears that it is ready: who hears it uses it.
    drop((held.own, held.same));
    if let Some(turn) = held.turn {
        turn.retire();
    }
    let mut state = build.state();
    (state.status, state.reason) = match (kept, reason) {
        (Ok(true), None) => (BuildStatus::Ready, None),
        (Ok(_), Some(reason)) => (BuildStatus::Error, Some(reason)),
        (Ok(false), None) => (BuildStatus::Error, Some(lost("the template was deleted while it was built"))),
        (Err(error), _) => {
            (BuildStatus::Error, Some(lost(&format!("the list of templates cannot be written: {error}"))))
        }
    };
    let status = state.status;
    drop(state);
    let duration_ms = began.elapsed().as_millis();
    tracing::info!(template = build.template, build = build.id, ?status, duration_ms, "a template was built");
    shared.templates.tidy(image);
}

pub(super) fn lost(message: &str) -> BuildReason {
    BuildReason { message: message.to_owned(), step: Some(FINALIZE.into()), log_entries: Vec::new() }
}

/// Writes down how it ended. `false`: nobody wants it any more.
fn conclude(
    index: &mut Index,
    build: &Build,
    image: Option<String>,
    key: Hash,
    reason: Option<BuildReason>,
    at: Timestamp,
) -> bool {
    let (Some(template), Some(record)) = (index.templates.get_mut(&build.template), index.builds.get_mut(&build.id))
    else {
        return false;
    };
    record.status = if image.is_some() { BuildStatus::Ready } else { BuildStatus::Error };
    record.finished_at = Some(at);
    record.updated_at = at;
    record.reason = reason;
    record.key = Some(key);
    if image.is_some() {
        template.updated_at = at;
        (template.cpu_count, template.memory_mb) = (record.cpu_count, record.memory_mb);
        for tag in &build.tags {
            template.tags.insert(tag.clone(), Tag { build: build.id.clone(), assigned_at: at });
        }
    }
    record.image = image;
    true
}

/// What a build holds on to while it works.
#[derive(Default)]
struct Site {
    /// Of its key: the same is not built twice at once.
    turn: Option<Lock>,
    /// Of its image.
    own: Option<Lock>,
    /// An image that was there already.
    same: Option<Image>,
    half: Option<PathBuf>,
    room: Option<Room>,
}

impl Site {
    /// Ends what runs and removes what is half made; locks stay.
    async fn close(mut self) -> Self {
        if let Some(room) = self.room.take() {
            room.close().await;
        }
        if let Some(half) = self.half.take() {
            let removed = tokio::task::spawn_blocking(move || remove_folder(&half)).await;
            if let Ok(Err(error)) = removed {
                tracing::warn!(%error, "a half-made template stays until the next start");
            }
        }
        self
    }
}

/// Makes the image, or finds one of the same. The answer is its id.
async fn carry_out(shared: &Arc<Shared>, build: &Build, work: &Work, site: &mut Site) -> Result<String, Failure> {
    let (templates, env) = (&shared.templates, &shared.env);
    let at_base = Failure::at(BASE);
    let failed = |error: io::Error| at_base(format!("the folder of templates: {error}"));
    if let Some(refused) = &work.refused {
        return Err(Failure { step: refused.step.to_string(), message: refused.message.clone() });
    }
    let turn = format!("key-{}", work.key);
    site.turn = templates.images.try_alone(&turn).map_err(failed)?;
    if site.turn.is_none() {
        build.log.say(env, BASE, log::INFO, "waits for another build of the same");
        site.turn = Some(templates.images.lock_alone(&turn).await.map_err(failed)?);
    }
    if !work.force
        && let Some(image) = templates.same(work.key).map_err(failed)?
    {
        build.log.say(env, BASE, log::INFO, "the same was built before and is used again");
        build.log.repeat(image.log().unwrap_or_default());
        let id = image.manifest.id.clone();
        site.same = Some(image);
        return Ok(id);
    }
    let _turn = templates.turns.acquire().await.map_err(|_| at_base("the server ends".into()))?;
    site.own = Some(templates.images.lock_alone(&build.id).await.map_err(failed)?);
    let half = templates.images.half(&build.id).map_err(failed)?;
    site.half = Some(half.clone());

    let mut manifest = origin(shared, build, work, &half.join("home")).await?;
    manifest.id.clone_from(&build.id);
    manifest.downloads |= !work.network.is_empty();
    let mut spec = RoomSpec::new(half.join("home"));
    let root = templates.roots.place(&manifest.base).ok_or_else(|| at_base("its root file system is gone".into()))?;
    spec.root.clone_from(&root);
    spec.egress.clone_from(&work.network);
    spec.limits = limits(build.memory_mb);
    leave_room(&mut spec.limits, &half);
    let room = shared.isolation.open(spec).await.map_err(|error| at_base(chain(&error)))?;
    site.room = Some(room.clone());
    let mut builder = Builder {
        shared,
        build,
        room,
        root,
        home: half.join("home"),
        manifest,
        count: work.steps.len(),
        refused: Vec::new(),
    };
    for (index, step) in work.steps.iter().enumerate() {
        builder.step(index + 1, step).await?;
    }
    builder.finalize().await?;
    let (mut manifest, room) = (builder.manifest, builder.room);
    // Nothing may write to it any more.
    site.room = None;
    room.close().await;
    manifest.made_at = env.now();
    build.log.say(env, FINALIZE, log::INFO, "done");
    let (images, log, scope) = (templates.images.clone(), build.log.all(), shared.scope.clone());
    let published = tokio::task::spawn_blocking(move || images.publish(&half, manifest, &log, &scope)).await;
    published
        .unwrap_or_else(|lost| Err(io::Error::other(lost)))
        .map_err(|error| Failure { step: FINALIZE.into(), message: format!("the template cannot be kept: {error}") })?;
    site.half = None;
    Ok(build.id.clone())
}

/// Begins the home with what the template is built on.
async fn origin(shared: &Shared, build: &Build, work: &Work, home: &Path) -> Result<Manifest, Failure> {
    let (templates, env) = (&shared.templates, &shared.env);
    let at_base = Failure::at(BASE);
    let (mut manifest, before) = match &work.from {
        From::Host => {
            build.log.say(env, BASE, log::INFO, "FROM base: this machine's programs and toolchains");
            (Manifest::default(), None)
        }
        From::Image(image) => {
            build.log.say(env, BASE, log::INFO, format!("FROM the template of build {}", image.manifest.id));
            (image.manifest.clone(), Some(image.home()))
        }
        From::Root(name) => {
            build.log.say(env, BASE, log::INFO, format!("FROM {name}"));
            let root =
                templates.roots.prepare(name).await.map_err(|error| at_base(format!("the image {name}: {error:#}")))?;
            let place = root.place.join("home/user");
            let plain = [root.place.join("home"), place.clone()]
                .iter()
                .all(|path| std::fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()));
            let manifest = Manifest {
                base: root.base.clone(),
                environment: root.environment.clone(),
                directory: root.directory.clone(),
                ..Manifest::default()
            };
            (manifest, plain.then_some(place))
        }
    };
    manifest.start = work.start.clone().or(manifest.start);
    manifest.ready = work.ready.clone().or(manifest.ready);
    let (home, how) = (home.to_owned(), templates.spares.how);
    let made = tokio::task::spawn_blocking(move || {
        let half = home.parent().map(Path::to_owned).unwrap_or_default();
        make_dir(&half)?;
        std::fs::create_dir(&home)?;
        before.map_or(Ok(()), |before| copy::copy(&before, &home, how).map(drop))
    });
    let made = made.await.unwrap_or_else(|lost| Err(io::Error::other(lost)));
    made.map_err(|error| at_base(format!("the home of the template: {error}")))?;
    Ok(manifest)
}

fn limits(memory_mb: u64) -> Limits {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu = WALL.saturating_mul(u32::try_from(cores).unwrap_or(1));
    Limits { wall: WALL, cpu, memory_bytes: memory_mb << 20, ..Limits::default() }
}

struct Builder<'a> {
    shared: &'a Arc<Shared>,
    build: &'a Build,
    room: Room,
    root: Root,
    home: PathBuf,
    manifest: Manifest,
    count: usize,
    /// Hosts that were told of.
    refused: Vec<String>,
}

impl Builder<'_> {
    fn say(&self, step: &str, level: &str, message: impl Into<String>) {
        self.build.log.say(&self.shared.env, step, level, message);
    }

    async fn step(&mut self, number: usize, step: &Step) -> Result<(), Failure> {
        let name = number.to_string();
        let at = Failure::at(name.clone());
        let (shared, build, count) = (self.shared, self.build, self.count);
        let begins = |what: String| build.log.say(&shared.env, &name, log::INFO, format!("[{number}/{count}] {what}"));
        match step {
            Step::Copy { source, target, into, mode, files } => {
                let shown: PathBuf = [Path::new(Room::HOME)].into_iter().chain(target.iter().map(Path::new)).collect();
                begins(format!("COPY {source} {}", shown.display()));
                let Some(archive) = self.shared.templates.uploads.path(files).filter(|path| path.is_file()) else {
                    return Err(at(format!("COPY {source}: its files were not uploaded")));
                };
                let (source, target, into, mode) = (source.clone(), target.clone(), *into, *mode);
                let done = self.in_home(move |tree| {
                    let copied = unpack::Copy { source: &source, target: &target, into, mode };
                    unpack::copy(&archive, &copied, tree, Bounds::USUAL)
                });
                let brought = done.await.map_err(|error| at(format!("COPY {}: {error}", shown.display())))?;
                let told = format!("copied {} entries, {} bytes", brought.entries, brought.bytes);
                self.say(&name, log::DEBUG, told);
            }
            Step::Run { command } => {
                begins(format!("RUN {command}"));
                let finished = self.run(&name, command).await.map_err(&at)?;
                if !finished.succeeded() {
                    return Err(at(format!("RUN {}: {}", shortened(command), how(&finished))));
                }
            }
            Step::Env { variables } => {
                let names: Vec<_> = variables.iter().map(|(name, _)| name.as_str()).collect();
                begins(format!("ENV {}", names.join(" ")));
                self.manifest.environment.extend(variables.iter().cloned());
            }
            Step::Workdir { path } => {
                begins(format!("WORKDIR {}", path.display()));
                self.workdir(path).await.map_err(&at)?;
                self.manifest.directory = Some(path.clone());
            }
            Step::User => begins("USER".into()),
        }
        Ok(())
    }

    /// Writes to the home beside whatever runs there.
    async fn in_home<T: Send + 'static>(
        &self,
        write: impl FnOnce(&mut Tree) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let home = self.home.clone();
        let written = tokio::task::spawn_blocking(move || {
            let mut tree = Tree::open(&home)?;
            let answer = write(&mut tree)?;
            tree.finish()?;
            Ok(answer)
        });
        written.await.unwrap_or_else(|lost| Err(io::Error::other(lost)))
    }

    async fn workdir(&self, path: &Path) -> Result<(), String> {
        if let Ok(below) = path.strip_prefix(Room::HOME) {
            let names: Vec<OsString> = below.components().map(|name| name.as_os_str().to_owned()).collect();
            let made = self.in_home(move |tree| tree.ensure(&names)).await;
            return made.map_err(|error| format!("WORKDIR {}: {error}", path.display()));
        }
        let mut look = Process::new(Command::Argv(["/bin/sh", "-c", ":"].map(str::to_owned).to_vec()));
        look.directory = Some(path.to_owned());
        let none = || {
            let kept = Room::HOME;
            format!("WORKDIR {}: there is none, and of a template only what lies below {kept} is kept", path.display())
        };
        let started = match self.room.start(look).await {
            Err(Error::Directory { .. } | Error::Command { .. }) => return Err(none()),
            started => started.map_err(|error| chain(&error))?,
        };
        match started.running.wait().await {
            Ok(finished) if finished.succeeded() => Ok(()),
            Ok(_) | Err(Error::Directory { .. } | Error::Command { .. }) => Err(none()),
            Err(error) => Err(chain(&error)),
        }
    }

    async fn run(&mut self, step: &str, command: &str) -> Result<Finished, String> {
        let (shared, build) = (self.shared, self.build);
        let (env, log) = (&shared.env, &build.log);
        let process = start::process(&self.manifest, &self.root, &self.room, command);
        let began = Instant::now();
        let started = self.room.start(process).await.map_err(|error| chain(&error))?;
        let mut running = started.running;
        let (mut out, mut err) = (Lines::default(), Lines::default());
        while let Some(chunk) = running.next().await {
            match chunk {
                Chunk::Stdout(piece) => out.push(&piece, |line| log.line(env, step, line)),
                Chunk::Stderr(piece) => err.push(&piece, |line| log.line(env, step, line)),
            }
        }
        out.flush(|line| log.line(env, step, line));
        err.flush(|line| log.line(env, step, line));
        let finished = running.wait().await.map_err(|error| chain(&error))?;
        // The room tells of all that were refused so far.
        let new: Vec<_> = finished.refused.iter().filter(|host| !self.refused.contains(host)).cloned().collect();
        if !new.is_empty() {
            let hosts = new.join(", ");
            self.refused.extend(new);
            self.say(step, log::WARN, format!("refused, because the network of this build does not allow it: {hosts}"));
        }
        let code = finished.exit.unwrap_or(-1);
        self.say(step, log::DEBUG, format!("exit {code} after {} ms", began.elapsed().as_millis()));
        Ok(finished)
    }

    /// Tries what every sandbox will begin with.
    async fn finalize(&self) -> Result<(), Failure> {
        if self.manifest.start.is_none() && self.manifest.ready.is_none() {
            return Ok(());
        }
        let at = Failure::at(FINALIZE);
        if let Some(command) = &self.manifest.start {
            self.say(FINALIZE, log::INFO, format!("START {command}"));
        }
        let said = |line: &[u8]| self.build.log.line(&self.shared.env, FINALIZE, line);
        start::start(&self.manifest, &self.root, &self.room, &self.shared.scope, start::LONGEST, said)
            .await
            .map_err(at)?;
        self.say(FINALIZE, log::INFO, "ready");
        Ok(())
    }
}

/// How a command ended that did not succeed.
pub(super) fn how(finished: &Finished) -> String {
    match (finished.stopped, finished.exit, finished.signal) {
        (Some(Stopped::Wall), ..) => format!("it took longer than {} minutes", WALL.as_secs() / 60),
        (Some(limit), ..) => format!("it was ended by a limit: {limit:?}").to_lowercase(),
        (None, Some(code), _) => format!("exit code {code}"),
        (None, None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None, None) => "it was lost".to_owned(),
    }
}

fn shortened(command: &str) -> String {
    let line: String = command.chars().take(200).collect();
    if line.len() < command.len() { line + "[…]" } else { line }
}

pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(&format!(": {source}"));
        next = source.source();
    }
    text
}

/// Variables of a template's processes, as processes of this room must see them.
pub(super) fn variables(
    environment: &BTreeMap<String, String>,
    downloads: bool,
    room: &Room,
) -> BTreeMap<String, String> {
    let mut variables = environment.clone();
    if downloads {
        // What the build has downloaded went into the home; the host's own cache is read-only.
        let home = room.shown(&Path::new(Room::HOME).join(".cargo"));
        variables.entry("CARGO_HOME".into()).or_insert_with(|| home.display().to_string());
    }
    variables
}

/// Whether there is a file in a root file system, links in it followed inside of it.
pub(super) fn is_in(root: &Path, path: &str) -> bool {
    use rustix::fs::{Mode, OFlags, ResolveFlags};
    let Ok(root) = File::open(root) else { return false };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat2(root, path.trim_start_matches('/'), flags, Mode::empty(), ResolveFlags::IN_ROOT).is_ok()
}
