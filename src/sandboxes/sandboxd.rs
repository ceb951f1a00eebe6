//! `sandboxd`: commands confined on this machine, by `isolation/`.
//!
//! An environment becomes an *image* ([`images`]): a tree's files and what setup left, known by the hash of the recipe and of what
//! the recipe reads. A command runs in a copy of it that is brought to the command's tree ([`folder`]): its own one if it asks for a
//! fresh one, else one that its step keeps. So commands share nothing, and nothing of a command finds its way into an image.
//!
//! Everything is begun when it is first needed. Several processes may use one folder: images are shared under file locks, all
//! else is the process's own and removed by the next one that starts. What this does not do: no other base image than the host's
//! toolchains, no network for commands (setup: what `isolation` has).

mod act;
mod copy;
mod folder;
mod images;
mod kept;
mod needs;
mod own;
mod recipe;
mod services;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{OnceCell, Semaphore};

use crate::base::BoxFuture;
use crate::base::hash::Hash;
use crate::domain::code::TreeId;
use crate::domain::sandbox::{CommandReceipt, Prepared, SandboxAnswer, SandboxRequest};
use crate::isolation::{self, Command, Limits, Running, Stdin};
use crate::ports::sandbox::{Job, Sandbox, SandboxError, SandboxKind, SandboxSetup};

use act::{Act, Acted, WALL, WALL_SETUP, broken, failed};
use folder::{Checkout, Folder};
use images::{Image, Manifest};
use kept::Kept;
use needs::{isolation_error, no_tier, supported, toolchain};
use own::Own;
use recipe::{Listing, Subject, listing};

pub use act::{Phase, Progress, Watcher};
pub use images::Keep;

/// Removes what processes that were killed left below `folder`, without starting anything.
pub fn tidy(folder: &std::path::Path) -> std::io::Result<()> {
    let all = folder.join("own");
    if all.is_dir() { own::reap(&all).map(drop) } else { Ok(()) }
}

/// What a profile calls it, and what receipts say.
pub(super) const PROVIDER: &str = "sandboxd";

pub const KIND: SandboxKind = SandboxKind {
    name: PROVIDER,
    summary: "confined on this machine, without a key",
    make: Some(|setup| Arc::new(Sandboxd::new(setup, Options::default()))),
};

/// Listings of trees that are kept in memory.
const LISTINGS: usize = 8;

/// How one of them differs from the usual.
#[derive(Clone, Debug)]
pub struct Options {
    pub keep: Keep,
    /// Folders of steps: how many are kept between commands, and for how long.
    pub folders: usize,
    pub folder_idle: Duration,
    pub watcher: Watcher,
    /// Held to this tier, for those who want the same everywhere. `None`: the best that works.
    pub tier: Option<isolation::Tier>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            keep: Keep::default(),
            folders: 16,
            folder_idle: Duration::from_secs(2 * 3600),
            watcher: None,
            tier: None,
        }
    }
}

/// The sandbox. See the module.
#[derive(Debug)]
pub struct Sandboxd {
    setup: SandboxSetup,
    options: Options,
    own: OnceCell<Arc<Own>>,
    /// As many commands at once as there are cores.
    turns: Semaphore,
    kept: Kept<Box<Checkout>>,
    listings: Mutex<VecDeque<Listed>>,
}

/// A tree of a repository with its files.
type Listed = ((String, TreeId), Arc<Listing>);

/// An image as `env build` tells of it.
#[derive(Clone, Debug)]
pub struct Built {
    pub environment: Hash,
    /// It was made now and not found.
    pub built: bool,
    pub bytes: u64,
    pub made_at: Timestamp,
    /// Of the setup commands.
    pub receipts: Vec<CommandReceipt>,
}

impl Sandboxd {
    pub fn new(setup: &SandboxSetup, options: Options) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            setup: setup.clone(),
            own: OnceCell::new(),
            turns: Semaphore::new(cores),
            kept: Kept::new(options.folders, options.folder_idle),
            listings: Mutex::default(),
            options,
        }
    }

    /// What the self-test of the isolation found here.
    pub async fn report(&self) -> Result<isolation::Report, SandboxError> {
        Ok(self.own().await?.isolation.report())
    }

    /// Makes the image for `base` or finds it. `anew`: it is made in any case. Cancel safe.
    pub async fn build(&self, job: &Job, base: &TreeId, anew: bool) -> Result<Built, SandboxError> {
        let own = self.own().await?;
        supported(&job.environment, &own.isolation)?;
        let (hash, listing) = self.environment(&own, job, base).await?;
        let now = self.setup.env.now();
        let max_age = job.environment.fresh_max_age.and_then(|age| now.checked_sub(age).ok());
        let oldest = if anew { Some(Timestamp::MAX) } else { max_age };
        let (image, built) = self.image(&own, job, base, &listing, hash, oldest).await?;
        let Manifest { environment, bytes, made_at, receipts, .. } = image.manifest.clone();
        Ok(Built { environment, built, bytes, made_at, receipts })
    }

    /// Runs the environment's checks on `base`, in one fresh copy of the image that was prepared for it. Answers with the receipts
    /// and outputs of all, the first that fails is the last.
    ///
    /// Errors: not for a check that fails. Cancel safe.
    pub async fn check(&self, job: &Job, base: &TreeId) -> Result<Vec<SandboxAnswer>, SandboxError> {
        let mut answers = Vec::new();
        for acted in self.checked(job, base).await? {
            let Acted { receipt, stdout, stderr, junit } = acted;
            answers.push(SandboxAnswer { receipt, stdout, stderr, junit, billed_ms: 0 });
        }
        Ok(answers)
    }

    /// Starts a command for a person, in a fresh copy of the image for `base`, reading what the person writes.
    ///
    /// The copy lasts as long as the [`Shell`].
    pub async fn shell(&self, job: &Job, base: &TreeId, command: Command) -> Result<Shell, SandboxError> {
        let own = self.own().await?;
        supported(&job.environment, &own.isolation)?;
        let (hash, listing) = self.environment(&own, job, base).await?;
        let (image, _) = self.image(&own, job, base, &listing, hash, None).await?;
        let checkout = self.copy(&own, job, image, base, listing).await?;
        let tier = own.isolation.tier().ok_or_else(|| no_tier(&own.isolation))?;
        let mut spec = act::confined(tier, &checkout.folder, &job.environment, command);
        spec.environment.remove("CI");
        spec.stdin = Stdin::Open;
        let day = Duration::from_secs(24 * 3600);
        spec.limits = Limits { wall: day, cpu: day, output_bytes: 0, ..Limits::default() };
        let running = own.isolation.start(spec).await.map_err(|error| isolation_error(error, &own.isolation))?;
        Ok(Shell { running, folder: checkout.folder, environment: hash })
    }

    /// What this process has for itself; begun at the first call.
    async fn own(&self) -> Result<Arc<Own>, SandboxError> {
        self.own.get_or_try_init(|| Own::begin(&self.setup, self.options.tier)).await.cloned()
    }

    /// The hash of the environment for a tree, and the tree's files.
    async fn environment(&self, own: &Own, job: &Job, base: &TreeId) -> Result<(Hash, Arc<Listing>), SandboxError> {
        let listing = self.listing(job, base).await?;
        let report = own.isolation.report();
        let toolchains = report
            .toolchains
            .iter()
            .filter(|found| job.environment.tools.iter().any(|tool| toolchain(tool) == Some(found.name)));
        let toolchains: Vec<String> =
            toolchains.map(|found| format!("{} {:?} {:?}", found.name, found.paths, found.search)).collect();
        let subject = Subject {
            environment: &job.environment,
            repository: &job.repository,
            base,
            listing: &listing,
            fixed_places: report.tier.is_some_and(isolation::Tier::own_file_system),
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

    /// The image, and whether it was made for this call.
    async fn image(
        &self,
        own: &Own,
        job: &Job,
        base: &TreeId,
        listing: &Arc<Listing>,
        hash: Hash,
        oldest: Option<Timestamp>,
    ) -> Result<(Image, bool), SandboxError> {
        let now = || self.setup.env.now();
        let disk = |error: std::io::Error| failed(format!("the environments on disk: {error}"));
        if let Some(image) = own.images.find(&hash, oldest, now()).await.map_err(disk)? {
            return Ok((image, false));
        }
        let asked_at = now();
        let mut built = false;
        // Again, because another process may remove it between the two locks.
        for _ in 0..3 {
            let alone = own.images.lock_alone(&hash).await.map_err(disk)?;
            // Somebody may have made it while this one waited.
            let oldest = oldest.map(|oldest| oldest.min(asked_at));
            if !built && !own.images.has(&hash, oldest).map_err(disk)? {
                self.make_image(own, job, base, listing, hash).await?;
                built = true;
            }
            drop(alone);
            if let Some(image) = own.images.find(&hash, oldest, now()).await.map_err(disk)? {
                if built {
                    self.prune(own);
                }
                return Ok((image, built));
            }
            built = false;
        }
        Err(failed("the environment was removed as soon as it was made: is the disk full?".into()))
    }

    /// Makes it, for the holder of its lock.
    async fn make_image(
        &self,
        own: &Own,
        job: &Job,
        base: &TreeId,
        listing: &Arc<Listing>,
        hash: Hash,
    ) -> Result<(), SandboxError> {
        let scope = self.setup.scope.clone();
        let half = own.images.half(&hash).map_err(|error| failed(error.to_string()))?;
        let (files, tree, tracked) = (job.files.clone(), base.clone(), listing.clone());
        let mut checkout = {
            let scope = scope.clone();
            blocking(move || {
                let folder = Folder::make(half, &scope).map_err(said)?;
                let mut checkout = Checkout::write(folder, &*files, &tree, tracked)?;
                checkout.remember();
                Ok(checkout)
            })
            .await?
        };
        let mut receipts = Vec::new();
        for command in &job.environment.setup {
            let acted = self
                .act(own, job, &checkout.folder, Phase::Setup, &command.run, base, hash, (true, WALL_SETUP))
                .await?;
            if !acted.receipt.succeeded() {
                return Err(broken(Phase::Setup, acted));
            }
            receipts.push(acted.receipt);
        }
        let manifest = Manifest {
            environment: hash,
            tree: base.clone(),
            repository: job.repository.clone(),
            made_at: self.setup.env.now(),
            bytes: 0,
            receipts,
            boot: String::new(),
        };
        let (files, tree, tracked, images) = (job.files.clone(), base.clone(), listing.clone(), own.images.clone());
        blocking(move || {
            // What is proved is a tree: setup adds to it, and changes nothing of it.
            checkout.bring(&*files, &tree, tracked.clone())?;
            crate::workspace::remove_folder(&checkout.folder.results()).map_err(said)?;
            images.publish(checkout.folder.path(), manifest, &tracked, &scope).map_err(said)
        })
        .await
    }

    /// Removes old images, while nobody waits.
    fn prune(&self, own: &Own) {
        let (images, keep, now) = (own.images.clone(), self.options.keep, self.setup.env.now());
        drop(self.setup.scope.spawn("removing old environments", async move {
            match tokio::task::spawn_blocking(move || images.prune(&keep, now)).await {
                Ok(Ok(0)) => {}
                Ok(Ok(removed)) => tracing::info!(removed, "old environments are removed"),
                Ok(Err(error)) => tracing::warn!(%error, "old environments stay"),
                Err(lost) => tracing::warn!(%lost, "old environments stay"),
            }
        }));
    }

    /// A copy of an image with the files of a tree.
    async fn copy(
        &self,
        own: &Own,
        job: &Job,
        image: Image,
        tree: &TreeId,
        tracked: Arc<Listing>,
    ) -> Result<Checkout, SandboxError> {
        let (files, tree, scope, path) = (job.files.clone(), tree.clone(), self.setup.scope.clone(), own.next_folder());
        blocking(move || {
            let folder = Folder::make(path, &scope).map_err(said)?;
            let mut checkout = Checkout::copy(folder, &image.folder, image.tracked.clone()).map_err(said)?;
            drop(image);
            checkout.bring(&*files, &tree, tracked)?;
            Ok(checkout)
        })
        .await
    }

    #[expect(clippy::too_many_arguments, reason = "one place where all that a command needs comes together")]
    async fn act(
        &self,
        own: &Own,
        job: &Job,
        folder: &Folder,
        phase: Phase,
        command: &str,
        tree: &TreeId,
        hash: Hash,
        (fresh, wall): (bool, Duration),
    ) -> Result<Acted, SandboxError> {
        let _turn = self.turns.acquire().await.map_err(|closed| failed(closed.to_string()))?;
        let watcher = &self.options.watcher;
        let act = Act { environment: &job.environment, phase, command, tree, hash, fresh, wall, watcher };
        act.run(&own.isolation, folder, &self.setup.env).await
    }

    /// What every check came to, up to the first that fails.
    async fn checked(&self, job: &Job, base: &TreeId) -> Result<Vec<Acted>, SandboxError> {
        if job.environment.checks.is_empty() {
            return Ok(Vec::new());
        }
        let own = self.own().await?;
        supported(&job.environment, &own.isolation)?;
        let (hash, listing) = self.environment(&own, job, base).await?;
        let (image, _) = self.image(&own, job, base, &listing, hash, None).await?;
        let checkout = self.copy(&own, job, image, base, listing).await?;
        let mut all = Vec::new();
        for command in &job.environment.checks {
            let acted = self.act(&own, job, &checkout.folder, Phase::Check, command, base, hash, (true, WALL)).await?;
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
                return Err(broken(Phase::Check, acted));
            }
            receipts.push(acted.receipt);
        }
        let tier = self.own().await?.isolation.tier();
        Ok(Prepared {
            environment: built.environment,
            built: built.built,
            duration_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            receipts,
            sandbox: format!("{PROVIDER} ({})", tier.map_or("none", isolation::Tier::name)),
            billed_ms: 0,
        })
    }

    async fn answered(&self, job: &Job, request: &SandboxRequest) -> Result<SandboxAnswer, SandboxError> {
        let own = self.own().await?;
        supported(&job.environment, &own.isolation)?;
        let (hash, base) = self.environment(&own, job, &request.base).await?;
        let tracked = self.listing(job, &request.tree).await?;
        let key = (job.owner.clone(), hash);
        let kept = if request.fresh { None } else { self.kept.take(&key, self.setup.env.now()) };
        let brought = match kept {
            // A folder that cannot be brought in order (a command has made parts of it unwritable) is replaced.
            Some(checkout) => self.brought(checkout, job, &request.tree, tracked.clone()).await,
            None => None,
        };
        let checkout = match brought {
            Some(checkout) => checkout,
            None => {
                let (image, _) = self.image(&own, job, &request.base, &base, hash, None).await?;
                let mut checkout = Box::new(self.copy(&own, job, image, &request.tree, tracked).await?);
                if !request.fresh {
                    checkout = blocking(move || {
                        checkout.remember();
                        Ok(checkout)
                    })
                    .await?;
                }
                checkout
            }
        };
        let wall = request.wall_s.map_or(WALL, Duration::from_secs);
        let acted = self
            .act(&own, job, &checkout.folder, Phase::Run, &request.command, &request.tree, hash, (request.fresh, wall))
            .await?;
        if !request.fresh {
            self.kept.bring_back(&key, checkout, self.setup.env.now());
        }
        let Acted { receipt, stdout, stderr, junit } = acted;
        Ok(SandboxAnswer { receipt, stdout, stderr, junit, billed_ms: 0 })
    }

    async fn brought(
        &self,
        mut checkout: Box<Checkout>,
        job: &Job,
        tree: &TreeId,
        tracked: Arc<Listing>,
    ) -> Option<Box<Checkout>> {
        let (files, tree) = (job.files.clone(), tree.clone());
        let brought = blocking(move || {
            checkout.bring(&*files, &tree, tracked)?;
            Ok(checkout)
        });
        match brought.await {
            Ok(checkout) => Some(checkout),
            Err(error) => {
                tracing::info!(%error, "a step's folder is made anew");
                None
            }
        }
    }
}

impl Sandbox for Sandboxd {
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

    fn release<'a>(&'a self, run: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.kept.release(run) })
    }
}

/// A command that a person talks to.
#[derive(Debug)]
pub struct Shell {
    pub running: Running,
    pub environment: Hash,
    folder: Arc<Folder>,
}

impl Shell {
    /// Where its files are on the host, as long as it lasts.
    pub fn work(&self) -> std::path::PathBuf {
        self.folder.work()
    }
}

fn said(error: std::io::Error) -> String {
    error.to_string()
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
