//! One adapter for whoever speaks E2B's protocol: E2B's cloud, or our own server (`nightcrew sandboxd`), started by itself or elsewhere.
//!
//! An environment becomes a *template* ([`template`]): a tree's files and what setup left, known by the hash of the recipe and of what
//! the recipe reads. A command runs in a sandbox made from it that is brought to the command's tree ([`bring`]): one of its own if it
//! asks for a fresh one, else one that its step keeps. So commands share nothing, and nothing of a command finds its way into a
//! template. Two sandboxes of one template can try two fixes side by side.
//!
//! Invariants. A sandbox has no network unless the environment names hosts for `run`, and never a credential. It lives as long as this
//! process holds it ([`held`]). One that vanishes (its time is over, its host has died) is made again from template and tree and the
//! command repeated, which changes nothing that is kept. Verdicts come from the server, never from what a command prints. Everything is
//! begun when it is first needed.

mod archive;
mod bring;
mod held;
mod kept;
mod log;
mod needs;
mod own;
mod recipe;
mod records;
mod run;
mod scripts;
mod server;
mod site;
mod template;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::Semaphore;

use crate::base::BoxFuture;
use crate::base::hash::Hash;
use crate::clients::e2b::wire::{ProcessConfig, Pty, PtySize, Report, StartProcess};
use crate::clients::e2b::{Envd, Error, Event, Process};
use crate::domain::code::TreeId;
use crate::domain::definition::Environment;
use crate::domain::sandbox::{CommandReceipt, Prepared, SandboxAnswer, SandboxRequest};
use crate::ports::sandbox::{Billed, Job, Phase, Progress, Sandbox, SandboxError, SandboxKind, SandboxSetup};

use bring::{Change, Seen};
use held::Held;
use kept::Kept;
use needs::{Host, chain, failed, of_client, supported, toolchain};
use recipe::{Listing, Subject, listing};
use records::{Record, Records};
use run::{Ended, MOST_OUTPUT, own_script, tail, tell};
use site::{Link, Site};
use template::{Base, Build, Marker};

pub use site::{Chosen, chosen};
pub use template::{CPUS, MEMORY_MB};

/// What a profile calls them, and what receipts say.
pub const SANDBOXD: &str = "sandboxd";
pub const E2B: &str = "e2b";

pub const KIND_SANDBOXD: SandboxKind = SandboxKind {
    name: SANDBOXD,
    summary: "our own server: commands confined on this machine, without a key, or on another one",
    make: Some(|setup| Arc::new(Remote::new(setup, SANDBOXD, Options::default()))),
};
pub const KIND_E2B: SandboxKind = SandboxKind {
    name: E2B,
    summary: "E2B's cloud; without a key our own server stands in",
    make: Some(|setup| Arc::new(Remote::new(setup, E2B, Options::default()))),
};

/// Listings of trees that are kept in memory.
const LISTINGS: usize = 8;
/// How long a command may take that nobody gave another limit.
const WALL: Duration = Duration::from_secs(SandboxRequest::WALL_S);
/// The longest that anybody can ask for.
const WALL_MOST: Duration = Duration::from_secs(6 * 3600);
/// Sandboxes of a server elsewhere that this process has at once; the other side may allow fewer, and then is waited for.
const ELSEWHERE: usize = 20;
/// What is taken of `$JUNIT`.
const MOST_RESULTS: usize = 8 << 20;
/// How much of a failed command's output goes into an error, in bytes from its end.
const SHOWN: usize = 4000;
/// The list of the files of a large repository.
const MOST_LISTING: usize = 256 << 20;
/// How long a sandbox that is paid for is kept between two commands of a step.
const PAID_IDLE: Duration = Duration::from_secs(60);
/// How often work in a sandbox that vanished is begun anew.
const AGAIN: u32 = 2;

/// Removes what processes that were killed left below a kind's `folder`, without starting anything. Blocking.
pub fn tidy(folder: &Path) -> std::io::Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        own::tidy(&entry?.path())?;
    }
    Ok(())
}

/// How one of them differs from the usual.
#[derive(Clone, Debug)]
pub struct Options {
    /// Sandboxes of steps: how many are kept between commands, and for how long.
    pub kept: usize,
    pub kept_idle: Duration,
    /// A server that is started here is held to this tier, for those who want the same everywhere. `None`: the best that works.
    pub tier: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { kept: 16, kept_idle: Duration::from_secs(2 * 3600), tier: None }
    }
}

/// The sandbox. See the module.
#[derive(Debug)]
pub struct Remote {
    setup: SandboxSetup,
    site: Site,
    records: Records,
    /// As many commands at once as there are cores, where they are this machine's.
    turns: Semaphore,
    kept: Kept<Box<Checkout>>,
    listings: Mutex<VecDeque<Listed>>,
}

/// A tree of a repository with its files.
type Listed = ((String, TreeId), Arc<Listing>);

/// A sandbox with the files of a tree.
#[derive(Debug)]
struct Checkout {
    held: Held,
    tracked: Arc<Listing>,
    /// How every file was written. `None`: it is for one command.
    seen: Option<Seen>,
}

/// A template as `env build` tells of it.
#[derive(Clone, Debug)]
pub struct Built {
    pub environment: Hash,
    /// It was made now and not found.
    pub built: bool,
    pub template: String,
    pub made_at: Timestamp,
    /// Of the setup commands.
    pub receipts: Vec<CommandReceipt>,
}

/// What sandboxes of an environment begin with.
#[derive(Clone, Debug)]
struct Ready {
    name: String,
    /// The tree whose files are in it; `None`: none are.
    tree: Option<TreeId>,
    record: Option<Record>,
    built: bool,
    receipts: Vec<CommandReceipt>,
    made_at: Timestamp,
}

/// Why something was not done in a sandbox.
enum Trouble {
    /// The sandbox is not there any more, and another one may do.
    Vanished(String),
    /// There is no such template any more.
    NoTemplate(Option<Record>, String),
    Stop(SandboxError),
}

impl From<SandboxError> for Trouble {
    fn from(error: SandboxError) -> Self {
        Self::Stop(error)
    }
}

impl Trouble {
    /// Of a call about a sandbox that was made.
    fn inside(error: Error) -> Self {
        match error {
            Error::Gone { .. }
            | Error::Unreachable { .. }
            | Error::Unavailable { .. }
            | Error::Ambiguous { .. }
            | Error::Protocol { .. } => Self::Vanished(chain(&error)),
            error => Self::Stop(of_client(error)),
        }
    }
}

/// What came of a command.
struct Acted {
    receipt: CommandReceipt,
    stdout: String,
    stderr: String,
    junit: Option<String>,
}

impl From<Acted> for SandboxAnswer {
    fn from(acted: Acted) -> Self {
        let Acted { receipt, stdout, stderr, junit } = acted;
        Self { receipt, stdout, stderr, junit, billed_ms: 0 }
    }
}

/// One command to be run.
#[derive(Clone, Copy)]
struct Act<'a> {
    job: &'a Job,
    phase: Phase,
    command: &'a str,
    tree: &'a TreeId,
    hash: Hash,
    template: &'a str,
    fresh: bool,
    wall: Duration,
}

impl Remote {
    /// Contacts nothing. `kind`: [`SANDBOXD`] or [`E2B`].
    pub fn new(setup: &SandboxSetup, kind: &str, options: Options) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let site = Site::new(setup, kind, options.tier);
        Self {
            setup: setup.clone(),
            turns: Semaphore::new(if site.host == Host::Here { cores } else { ELSEWHERE }),
            records: Records::new(&site.folder),
            site,
            kept: Kept::new(options.kept, options.kept_idle),
            listings: Mutex::default(),
        }
    }

    /// How our own server confines; `None` where it is another's.
    pub async fn report(&self) -> Result<Option<Arc<Report>>, SandboxError> {
        Ok(self.site.link().await?.report)
    }

    /// Ends what earlier processes left at a server elsewhere.
    pub async fn reach(&self) -> Result<(), SandboxError> {
        match self.site.host {
            Host::Here => Ok(()),
            Host::Elsewhere | Host::Cloud => self.site.link().await.map(drop),
        }
    }

    /// `sandboxd (bubblewrap)`, `e2b`, and why it is not what was asked for.
    fn shown(&self, link: &Link) -> String {
        let own = match &link.report {
            Some(_) => format!("{} ({})", self.site.provider, link.isolation(self.site.provider)),
            None => self.site.provider.to_owned(),
        };
        match self.site.instead {
            Some(why) => format!("{own}; {why}"),
            None => own,
        }
    }

    /// Makes the template for `base` or finds it. `anew`: it is made in any case. Cancel safe.
    pub async fn build(&self, job: &Job, base: &TreeId, anew: bool) -> Result<Built, SandboxError> {
        let link = self.site.link().await?;
        supported(&job.environment, self.site.host, link.report.as_deref())?;
        let (hash, listing) = self.environment(&link, job, base).await?;
        let now = self.setup.env.now();
        let max_age = job.environment.fresh_max_age.and_then(|age| now.checked_sub(age).ok());
        let oldest = if anew { Some(Timestamp::MAX) } else { max_age };
        let ready = self.ready(&link, job, base, &listing, hash, oldest).await?;
        let Ready { name: template, built, receipts, made_at, .. } = ready;
        Ok(Built { environment: hash, built, template, made_at, receipts })
    }

    /// Runs the environment's checks on `base`, in one fresh sandbox of the template that was prepared for it. Answers with the
    /// receipts and outputs of all, the first that fails is the last.
    ///
    /// Errors: not for a check that fails. Cancel safe.
    pub async fn check(&self, job: &Job, base: &TreeId) -> Result<Vec<SandboxAnswer>, SandboxError> {
        Ok(self.checked(job, base).await?.into_iter().map(SandboxAnswer::from).collect())
    }

    /// Starts a command for a person, in a fresh sandbox of the template for `base`: with a terminal of this size (columns, rows), or
    /// with pipes.
    ///
    /// The sandbox lasts as long as the [`Shell`].
    pub async fn shell(
        &self,
        job: &Job,
        base: &TreeId,
        command: &[String],
        terminal: Option<(u32, u32)>,
    ) -> Result<Shell, SandboxError> {
        let mut tries = 0;
        loop {
            match self.opened(job, base, command, terminal).await {
                Ok(shell) => return Ok(shell),
                Err(trouble) => self.recover(&mut tries, trouble).await?,
            }
        }
    }

    async fn opened(
        &self,
        job: &Job,
        base: &TreeId,
        command: &[String],
        terminal: Option<(u32, u32)>,
    ) -> Result<Shell, Trouble> {
        let link = self.site.link().await?;
        supported(&job.environment, self.site.host, link.report.as_deref())?;
        let (hash, listing) = self.environment(&link, job, base).await?;
        let ready = self.ready(&link, job, base, &listing, hash, None).await?;
        let checkout = self.checkout(&link, job, &ready, base, listing, true).await?;
        let mut process = ProcessConfig {
            cmd: "/bin/sh".into(),
            args: scripts::shell(command, &job.environment),
            ..ProcessConfig::default()
        };
        if terminal.is_some() {
            process.envs.insert("TERM".into(), "xterm-256color".into());
        }
        let pty = terminal.map(|(cols, rows)| Pty { size: PtySize { cols, rows } });
        let start = StartProcess { process, stdin: Some(pty.is_none()), pty, tag: None };
        let process = checkout.held.envd.start(&start, None).await.map_err(Trouble::inside)?;
        Ok(Shell { environment: hash, process, terminal: terminal.is_some(), held: checkout.held })
    }

    /// The hash of the environment for a tree, and the tree's files.
    async fn environment(&self, link: &Link, job: &Job, base: &TreeId) -> Result<(Hash, Arc<Listing>), SandboxError> {
        let listing = self.listing(job, base).await?;
        let environment = &job.environment;
        let names: Vec<&str> = environment.tools.iter().filter_map(|tool| toolchain(tool)).collect();
        let toolchains: Vec<String> = match (&link.report, &environment.image) {
            (Some(report), None) => report
                .toolchains
                .iter()
                .filter(|(name, _)| names.contains(&name.as_str()))
                .map(|(name, place)| format!("{name} {place}"))
                .collect(),
            _ => Vec::new(),
        };
        let subject = Subject {
            environment,
            provider: self.site.provider,
            base_of: &format!("{:?}", Base::of(environment, self.site.host == Host::Cloud)),
            repository: &job.repository,
            base,
            listing: &listing,
            fixed_places: link.report.as_ref().is_none_or(|report| report.own_file_system),
            toolchains: &toolchains,
        };
        Ok((subject.hash(), listing))
    }

    async fn listing(&self, job: &Job, tree: &TreeId) -> Result<Arc<Listing>, SandboxError> {
        let key = (job.repository.clone(), tree.clone());
        let known = |listings: &VecDeque<Listed>| {
            listings.iter().find(|(known, _)| *known == key).map(|(_, listing)| listing.clone())
        };
        if let Some(found) = known(&self.listings.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(found);
        }
        let (files, asked) = (job.files.clone(), tree.clone());
        let found = Arc::new(blocking(move || files.list(&asked).map(listing)).await?);
        let mut listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        listings.truncate(LISTINGS - 1);
        listings.push_front((key, found.clone()));
        Ok(found)
    }

    /// The template, and whether it was made for this call.
    async fn ready(
        &self,
        link: &Link,
        job: &Job,
        base: &TreeId,
        listing: &Arc<Listing>,
        hash: Hash,
        oldest: Option<Timestamp>,
    ) -> Result<Ready, SandboxError> {
        let from = Base::of(&job.environment, self.site.host == Host::Cloud);
        if let Some(name) = from.as_it_is(&job.environment) {
            let (name, made_at) = (name.to_owned(), self.setup.env.now());
            return Ok(Ready { name, tree: None, record: None, built: false, receipts: Vec::new(), made_at });
        }
        if let Some(record) = self.recorded(hash, oldest).await? {
            return Ok(Ready::of(record, false));
        }
        let asked_at = self.setup.env.now();
        let lock = self.records.lock(&hash).await.map_err(disk)?;
        // Somebody may have made it while this one waited.
        let oldest = oldest.map(|oldest| oldest.min(asked_at));
        if let Some(record) = self.recorded(hash, oldest).await? {
            return Ok(Ready::of(record, false));
        }
        let before = self.recorded(hash, None).await?;
        let made_at = self.setup.env.now();
        let first = template::name(&hash, None);
        let taken = before.is_some() || link.cloud.template(&first).await.map_err(of_client)?.is_some();
        let name = if taken { template::name(&hash, Some(made_at)) } else { first };
        let marker = Marker { environment: hash, tree: base.clone(), repository: job.repository.clone(), made_at };
        let (files, tree, tracked, own) = (job.files.clone(), base.clone(), listing.clone(), self.site.own().await?);
        let archive = blocking(move || {
            let scratch = own.scratch().map_err(|error| error.to_string())?;
            bring::of_template(&*files, &tree, &tracked, scratch.path())
        })
        .await?;
        let build = Build {
            link,
            scope: &self.setup.scope,
            provider: self.site.provider,
            environment: &job.environment,
            base: &from,
            marker: &marker,
            name: &name,
            watcher: &self.setup.watcher,
        };
        let (template, receipts) = build.run(&archive).await?;
        let Marker { environment, tree, repository, made_at } = marker;
        let record = Record { environment, name, template, tree, repository, made_at, receipts };
        let (records, kept) = (self.records.clone(), record.clone());
        blocking(move || records.keep(&kept).map_err(|error| error.to_string())).await?;
        drop(lock);
        if let Some(before) = before.filter(|before| before.template != record.template) {
            template::remove(link, &self.setup.scope, before.template);
        }
        Ok(Ready::of(record, true))
    }

    async fn recorded(&self, hash: Hash, oldest: Option<Timestamp>) -> Result<Option<Record>, SandboxError> {
        let records = self.records.clone();
        blocking(move || records.find(&hash, oldest).map_err(|error| error.to_string())).await
    }

    /// A sandbox of a template with the files of a tree. `once`: for one command.
    async fn checkout(
        &self,
        link: &Link,
        job: &Job,
        ready: &Ready,
        tree: &TreeId,
        tracked: Arc<Listing>,
        once: bool,
    ) -> Result<Checkout, Trouble> {
        let own = self.site.own().await?;
        let mut asked = template::sandbox_of(&ready.name, &job.environment.network_run);
        let run = job.owner.split('/').next().unwrap_or_default();
        asked.metadata.extend([
            (held::MARK.to_owned(), own.instance.clone()),
            (held::HOLDER.to_owned(), own.name.clone()),
            ("run".to_owned(), run.to_owned()),
            ("step".to_owned(), job.owner.clone()),
        ]);
        let made = Held::make(link, &self.setup.env, &self.setup.scope, asked).await;
        let held = made.map_err(|error| match error {
            Error::NotFound { message } => Trouble::NoTemplate(ready.record.clone(), message),
            error if link.is_gone() => Trouble::Vanished(chain(&error)),
            error => Trouble::Stop(of_client(error)),
        })?;
        let inside = match &ready.tree {
            None => Arc::default(),
            Some(tree) => match self.listing(job, tree).await {
                Ok(listing) => listing,
                // The template is older than this copy of the repository.
                Err(error) => {
                    tracing::debug!(%error, %tree, "the tree of a template is not known here; the template lists its files");
                    let listed = held.envd.read(&scripts::own("tracked"), MOST_LISTING).await;
                    Arc::new(bring::tracked_of(&listed.map_err(Trouble::inside)?))
                }
            },
        };
        let mut checkout = Checkout { held, tracked: inside, seen: (!once).then(Seen::default) };
        // Where files are compared later they have to be known.
        let first = ready.tree.is_none() || !once;
        let change = Change::between(&checkout.tracked, &tracked, |_| false);
        if first || !change.is_empty() {
            self.bring(&mut checkout, job, tree, &change, tracked).await?;
        }
        Ok(checkout)
    }

    /// Makes the code in a sandbox that of `tree`. On an error it is in between: let it go.
    async fn bring(
        &self,
        checkout: &mut Checkout,
        job: &Job,
        tree: &TreeId,
        change: &Change,
        to: Arc<Listing>,
    ) -> Result<(), Trouble> {
        let (files, tree, own) = (job.files.clone(), tree.clone(), self.site.own().await?);
        let (change, listing, far) = (change.clone(), to.clone(), self.site.host != Host::Here);
        let archive = blocking(move || {
            let scratch = own.scratch().map_err(|error| error.to_string())?;
            change.archive(&*files, &tree, &listing, scratch.path(), far)
        })
        .await?;
        let envd = &checkout.held.envd;
        envd.write(&scripts::own(scripts::BRING_ARCHIVE), &archive).await.map_err(Trouble::inside)?;
        match &mut checkout.seen {
            None => drop(own_script(envd, scripts::BRING).await.map_err(Trouble::inside)?),
            Some(seen) => {
                let script = format!("{}{}", scripts::BRING, scripts::LOOK);
                *seen = bring::seen(&own_script(envd, &script).await.map_err(Trouble::inside)?);
            }
        }
        checkout.tracked = to;
        Ok(())
    }

    /// Brings a sandbox that a step has kept to a tree. `None`: it cannot be used any more.
    async fn brought(
        &self,
        mut checkout: Box<Checkout>,
        job: &Job,
        tree: &TreeId,
        to: Arc<Listing>,
    ) -> Option<Box<Checkout>> {
        let brought = async {
            checkout.held.wake().await.map_err(Trouble::inside)?;
            let now = own_script(&checkout.held.envd, scripts::LOOK).await.map_err(Trouble::inside)?;
            let now = bring::seen(&now);
            let before = checkout.seen.take().unwrap_or_default();
            let change = Change::between(&checkout.tracked, &to, |path| bring::spoiled(path, &before, &now));
            checkout.seen = Some(before);
            if !change.is_empty() {
                self.bring(&mut checkout, job, tree, &change, to).await?;
            }
            Ok(checkout)
        };
        match brought.await {
            Ok(checkout) => Some(checkout),
            Err(trouble) => {
                let why = match trouble {
                    Trouble::Vanished(why) | Trouble::NoTemplate(_, why) => why,
                    Trouble::Stop(error) => error.to_string(),
                };
                tracing::info!(why, "a step's sandbox is made anew");
                None
            }
        }
    }

    /// What to do after trouble, for something that needs a sandbox and may be done again: `Ok` says again.
    async fn recover(&self, tries: &mut u32, trouble: Trouble) -> Result<(), SandboxError> {
        let why = match trouble {
            Trouble::Stop(error) => return Err(error),
            Trouble::NoTemplate(Some(record), why) => {
                let records = self.records.clone();
                blocking(move || records.forget(&record).map_err(|error| error.to_string())).await?;
                format!("its template is gone: {why}")
            }
            Trouble::NoTemplate(None, why) => return Err(failed(format!("there is no such template: {why}"))),
            Trouble::Vanished(why) => why,
        };
        *tries += 1;
        if *tries > AGAIN {
            return Err(failed(format!("the sandbox vanished {tries} times, the last time: {why}")));
        }
        tracing::warn!(why, tries, "a sandbox vanished; it is made again, and its work begins anew");
        Ok(())
    }

    /// Runs one command in a sandbox.
    async fn act(&self, link: &Link, checkout: &Checkout, act: Act<'_>) -> Result<Acted, Trouble> {
        let turn = self.turns.acquire().await.map_err(|closed| failed(closed.to_string()))?;
        let (environment, watcher, envd) = (&act.job.environment, &self.setup.watcher, &checkout.held.envd);
        let at = self.setup.env.now();
        tell(watcher, || Progress::Began { phase: act.phase, command: act.command.to_owned() }).await;
        let words = scripts::run(act.command, checkout.seen.is_some(), environment);
        let wall = act.wall.min(WALL_MOST);
        // Many tools ask questions, draw progress bars or write snapshots unless they know that nobody is there.
        let ended = run::shell(envd, words, &[("CI", "true")], wall, MOST_OUTPUT, watcher).await;
        let ended = ended.map_err(Trouble::inside)?;
        if ended.exit == Some(scripts::SERVICE_EXIT) && !environment.services.is_empty() {
            let service = run::left(envd, scripts::FAILED, 200).await.map_err(Trouble::inside)?;
            if let Some(service) = service.kept {
                let name = String::from_utf8_lossy(&service).trim().to_owned();
                let said = tail(&ended.stderr.text(), SHOWN);
                let message = format!("the service `{name}` of the environment did not get ready: {said}");
                return Err(failed(message).into());
            }
        }
        let junit = run::left(envd, scripts::JUNIT, MOST_RESULTS).await.map_err(Trouble::inside)?;
        drop(turn);
        let receipt = self.receipt(link, checkout, act, &ended, junit.hash, at);
        tell(watcher, || Progress::Ended(Box::new(receipt.clone()))).await;
        let mut stderr = ended.stderr.text();
        if junit.left_out {
            stderr.push_str("\n[what $JUNIT names is larger than 8 MiB and was not read]\n");
        }
        let junit = junit.kept.map(|text| String::from_utf8_lossy(&text).into_owned());
        Ok(Acted { receipt, stdout: ended.stdout.text(), stderr, junit })
    }

    fn receipt(
        &self,
        link: &Link,
        checkout: &Checkout,
        act: Act<'_>,
        ended: &Ended,
        junit: Hash,
        at: Timestamp,
    ) -> CommandReceipt {
        let parts = [ended.stdout.hash, ended.stderr.hash, junit].map(|hash| hash.to_string());
        CommandReceipt {
            command: act.command.to_owned(),
            tree: act.tree.clone(),
            exit: ended.exit,
            signal: ended.signal,
            stopped: ended.stopped.clone(),
            duration_ms: u64::try_from(ended.duration.as_millis()).unwrap_or(u64::MAX),
            output: Hash::of_parts(parts.iter().map(|part| part.as_bytes())),
            environment: act.hash,
            provider: self.site.provider.to_owned(),
            template: act.template.to_owned(),
            sandbox: checkout.held.id.clone(),
            isolation: link.isolation(self.site.provider),
            gaps: link.gaps(),
            network: match &act.job.environment.network_run[..] {
                [] => "none".to_owned(),
                hosts => hosts.join(", "),
            },
            fresh: act.fresh,
            at,
        }
    }

    /// What every check came to, up to the first that fails.
    async fn checked(&self, job: &Job, base: &TreeId) -> Result<Vec<Acted>, SandboxError> {
        if job.environment.checks.is_empty() {
            return Ok(Vec::new());
        }
        let mut tries = 0;
        loop {
            match self.checks(job, base).await {
                Ok(all) => return Ok(all),
                Err(trouble) => self.recover(&mut tries, trouble).await?,
            }
        }
    }

    async fn checks(&self, job: &Job, base: &TreeId) -> Result<Vec<Acted>, Trouble> {
        let link = self.site.link().await?;
        supported(&job.environment, self.site.host, link.report.as_deref())?;
        let (hash, listing) = self.environment(&link, job, base).await?;
        let ready = self.ready(&link, job, base, &listing, hash, None).await?;
        let checkout = self.checkout(&link, job, &ready, base, listing, false).await?;
        let mut all = Vec::new();
        for command in &job.environment.checks {
            let (phase, template) = (Phase::Check, ready.name.as_str());
            let act = Act { job, phase, command, tree: base, hash, template, fresh: true, wall: WALL };
            let acted = self.act(&link, &checkout, act).await?;
            let passed = acted.receipt.succeeded();
            all.push(acted);
            if !passed {
                break;
            }
        }
        Ok(all)
    }

    async fn prepared(&self, job: &Job, base: &TreeId) -> Result<Prepared, SandboxError> {
        let begun = Instant::now();
        let built = self.build(job, base, false).await?;
        let mut receipts = if built.built { built.receipts } else { Vec::new() };
        for acted in self.checked(job, base).await? {
            if !acted.receipt.succeeded() {
                return Err(broken(acted));
            }
            receipts.push(acted.receipt);
        }
        let link = self.site.link().await?;
        Ok(Prepared {
            environment: built.environment,
            built: built.built,
            duration_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            receipts,
            sandbox: self.shown(&link),
            billed_ms: 0,
        })
    }

    async fn answered(&self, job: &Job, request: &SandboxRequest) -> Result<SandboxAnswer, SandboxError> {
        let mut tries = 0;
        loop {
            match self.answer(job, request, tries == 0).await {
                Ok(answer) => return Ok(answer),
                Err(trouble) => self.recover(&mut tries, trouble).await?,
            }
        }
    }

    /// `kept`: what the step has kept may be used. A second time it may be what makes it vanish.
    async fn answer(&self, job: &Job, request: &SandboxRequest, kept: bool) -> Result<SandboxAnswer, Trouble> {
        let begun = Instant::now();
        let link = self.site.link().await?;
        supported(&job.environment, self.site.host, link.report.as_deref())?;
        let (hash, base) = self.environment(&link, job, &request.base).await?;
        let tracked = self.listing(job, &request.tree).await?;
        let ready = self.ready(&link, job, &request.base, &base, hash, None).await?;
        let key = (job.owner.clone(), hash);
        let kept = if request.fresh { None } else { self.kept.take(&key, self.setup.env.now()).filter(|_| kept) };
        let brought = match kept {
            Some(checkout) => self.brought(checkout, job, &request.tree, tracked.clone()).await,
            None => None,
        };
        let checkout = match brought {
            Some(checkout) => checkout,
            None => Box::new(self.checkout(&link, job, &ready, &request.tree, tracked, request.fresh).await?),
        };
        let act = Act {
            job,
            phase: Phase::Run,
            command: &request.command,
            tree: &request.tree,
            hash,
            template: &ready.name,
            fresh: request.fresh,
            wall: request.wall_s.map_or(WALL, Duration::from_secs),
        };
        let acted = self.act(&link, &checkout, act).await?;
        let mut answer = SandboxAnswer::from(acted);
        // After a limit nobody knows what still runs in it.
        if !request.fresh && answer.receipt.stopped.is_none() {
            if self.billed(&job.environment).is_some() {
                // What it costs until somebody comes back is booked now: then nobody may be there to do it.
                checkout.held.rest(PAID_IDLE);
                let lasts = begun.elapsed() + PAID_IDLE;
                answer.billed_ms = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
            }
            self.kept.bring_back(&key, checkout, self.setup.env.now());
        }
        Ok(answer)
    }
}

impl Ready {
    fn of(record: Record, built: bool) -> Self {
        Self {
            name: record.name.clone(),
            tree: Some(record.tree.clone()),
            built,
            receipts: record.receipts.clone(),
            made_at: record.made_at,
            record: Some(record),
        }
    }
}

impl Sandbox for Remote {
    fn prepare<'a>(&'a self, job: &'a Job, base: &'a TreeId) -> BoxFuture<'a, Result<Prepared, SandboxError>> {
        Box::pin(self.prepared(job, base))
    }

    fn run<'a>(
        &'a self,
        job: &'a Job,
        request: &'a SandboxRequest,
    ) -> BoxFuture<'a, Result<SandboxAnswer, SandboxError>> {
        Box::pin(self.answered(job, request))
    }

    fn billed(&self, _: &Environment) -> Option<Billed> {
        // What templates of ours are built with; E2B's own are no larger.
        let (vcpus, memory_mb) = (CPUS, MEMORY_MB);
        (self.site.host == Host::Cloud).then(|| Billed { provider: E2B.to_owned(), vcpus, memory_mb })
    }

    fn release<'a>(&'a self, run: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.kept.release(run) })
    }
}

/// A command that a person talks to.
#[derive(Debug)]
pub struct Shell {
    pub environment: Hash,
    process: Process,
    terminal: bool,
    held: Held,
}

/// A way to write to a [`Shell`] while somebody else listens to it.
#[derive(Clone, Debug)]
pub struct Keyboard {
    envd: Envd,
    pid: u32,
    terminal: bool,
}

impl Shell {
    /// What it does next; `None` after its end. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Said>, SandboxError> {
        let said = match self.process.next().await.map_err(of_client)? {
            Some(Event::Stdout(bytes) | Event::Pty(bytes)) => Said::Stdout(bytes),
            Some(Event::Stderr(bytes)) => Said::Stderr(bytes),
            Some(Event::End(end)) => {
                let (exit, _, limit) = run::how(Some(&end));
                Said::Ended { well: exit == Some(0) && limit.is_none(), limit }
            }
            None => return Ok(None),
        };
        Ok(Some(said))
    }

    pub fn keyboard(&self) -> Keyboard {
        Keyboard { envd: self.held.envd.clone(), pid: self.process.pid(), terminal: self.terminal }
    }
}

/// What a shell does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    Ended { well: bool, limit: Option<String> },
}

impl Keyboard {
    pub async fn write(&self, bytes: &[u8]) -> Result<(), SandboxError> {
        let sent = match self.terminal {
            true => self.envd.send_keys(self.pid, bytes).await,
            false => self.envd.send_input(self.pid, bytes).await,
        };
        sent.map_err(of_client)
    }

    /// Nothing more is typed.
    pub async fn close(&self) -> Result<(), SandboxError> {
        match self.terminal {
            // What ends an input at a terminal.
            true => self.envd.send_keys(self.pid, b"\x04").await.map_err(of_client),
            false => self.envd.close_stdin(self.pid).await.map_err(of_client),
        }
    }

    /// The terminal has another size: columns, rows.
    pub async fn resize(&self, (cols, rows): (u32, u32)) -> Result<(), SandboxError> {
        self.envd.resize(self.pid, PtySize { cols, rows }).await.map_err(of_client)
    }
}

/// A failed check as an error.
fn broken(acted: Acted) -> SandboxError {
    let receipt = acted.receipt;
    let how = match (&receipt.stopped, receipt.exit, receipt.signal) {
        (Some(limit), _, _) => format!("was stopped by the limit `{limit}`"),
        (None, Some(code), _) => format!("failed with exit code {code}"),
        (None, None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None, None) => "failed".to_owned(),
    };
    let mut output = acted.stdout;
    if !output.is_empty() && !output.ends_with('\n') {
        output.push('\n');
    }
    output.push_str(&acted.stderr);
    SandboxError::Broken {
        what: format!("{how} ({})", Phase::Check.name()),
        receipt: Box::new(receipt),
        output: tail(&output, SHOWN),
    }
}

fn disk(error: std::io::Error) -> SandboxError {
    failed(format!("the templates that are known: {error}"))
}

/// Work on files, where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, SandboxError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(message)) => Err(failed(format!("the sandbox's files: {message}"))),
        Err(lost) => Err(failed(format!("the sandbox's files: {lost}"))),
    }
}
