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

mod act;
mod archive;
mod bring;
mod checkout;
mod held;
mod kept;
mod log;
mod needs;
mod own;
mod ready;
mod recipe;
mod records;
mod run;
mod scripts;
mod server;
mod shell;
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
use crate::clients::e2b::Error;
use crate::clients::e2b::wire::Report;
use crate::domain::code::TreeId;
use crate::domain::definition::Environment;
use crate::domain::sandbox::{CommandReceipt, Prepared, SandboxAnswer, SandboxRequest};
use crate::ports::sandbox::{Billed, Job, Phase, Sandbox, SandboxError, SandboxKind, SandboxSetup};

use act::{Act, Acted, broken};
use checkout::Checkout;
use kept::Kept;
use needs::{Host, chain, failed, of_client, supported, toolchain};
use ready::Ready;
use recipe::{Listing, Subject, listing};
use records::{Record, Records};
use site::{Link, Site};
use template::Base;

pub use shell::{Keyboard, Said, Shell};
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
