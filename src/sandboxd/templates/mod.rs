//! Templates: what sandboxes begin with, and how they are built.
//!
//! A template has a name, tags and builds; a ready build has an image, which is a home on disk and what the image says of itself
//! ([`images`]). Templates are built through E2B's calls ([`api`]) from uploaded archives ([`uploads`]) by a builder that runs in a room
//! ([`build`]); around their home they have the host's toolchains or a root file system that the operator has named ([`roots`]).
//!
//! A sandbox gets a copy of the home, never the image itself, so nothing that it does changes what others begin with. Copies share
//! blocks where the file system can, and one is made ahead ([`spares`]). An overlay was considered and left out: bubblewrap knows it
//! only in newer versions, a mount of the server's own outlives a `kill -9` unless the server lives in a mount namespace of its own, and
//! what lies in two folders is hard to measure and to snapshot.

mod api;
mod archive;
mod build;
mod catalogue;
mod copy;
mod images;
mod log;
mod oci;
mod roots;
mod snapshots;
mod spares;
mod start;
mod steps;
#[cfg(test)]
mod tar_writer;
mod tree;
mod unpack;
mod uploads;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;
use tokio_util::sync::CancellationToken;

use crate::base::env::Env;
use crate::base::hash::Hash;
use crate::base::scope::Scope;
use crate::clients::e2b::wire::BuildStatus;
use crate::isolation::{Room, Root};

use super::Settings;
use super::error::ApiError;
use super::live::Live;
use super::own::{Own, make_dir};

use build::Build;
use catalogue::{BuildRecord, Catalogue, DEFAULT_TAG, Index, Record, Tag};
use images::{Image, Images, Keep, Manifest};
use roots::Roots;
use spares::Spares;
use uploads::Uploads;

/// The calls about templates.
pub(super) fn routes() -> axum::Router<Arc<super::Shared>> {
    api::routes().merge(snapshots::routes())
}

/// The template of the host's toolchains, with an empty home.
const BASE: &str = "base";
const MEMORY_MB: u64 = 4096;
const CPU_COUNT: u32 = 2;
/// Builds at work at the same time, and builds that are over and still told of with all that they said.
const MOST_AT_ONCE: usize = 2;
const MOST_OVER: usize = 32;

/// What a sandbox begins with.
#[derive(Clone, Debug, Default)]
pub(super) struct Template {
    pub id: String,
    pub alias: Option<String>,
    pub root: Root,
    pub environment: BTreeMap<String, String>,
    /// Where processes start that say nothing: `WORKDIR`.
    pub directory: Option<PathBuf>,
    pub memory_mb: u64,
    pub cpu_count: u32,
    manifest: Manifest,
    /// Whether there is an image, by the id of the manifest; else the home is empty.
    has_image: bool,
}

/// All that there are.
#[derive(Debug)]
pub(super) struct Templates {
    catalogue: Arc<Catalogue>,
    images: Arc<Images>,
    uploads: Arc<Uploads>,
    roots: Arc<Roots>,
    spares: Spares,
    keep: Keep,
    /// Those of this server.
    builds: Mutex<BTreeMap<String, Arc<Build>>>,
    turns: tokio::sync::Semaphore,
    /// All builds end with it.
    stop: CancellationToken,
    env: Env,
    scope: Scope,
}

impl Templates {
    /// Opens what earlier servers have built and removes what they left half made. Blocking.
    pub fn open(settings: &Settings, own: &Own, env: Env, scope: Scope) -> anyhow::Result<Self> {
        let folder = settings.folder.join("templates");
        make_dir(&folder)?;
        let images = Arc::new(Images::open(&folder)?);
        let this = Self {
            catalogue: Arc::new(Catalogue::open(&folder)?),
            uploads: Arc::new(Uploads::open(&folder)?),
            roots: Arc::new(Roots::open(&folder, settings.images.clone(), images.clone())?),
            spares: Spares::new(own.spares(), scope.clone())?,
            images,
            keep: Keep::default(),
            builds: Mutex::default(),
            turns: tokio::sync::Semaphore::new(MOST_AT_ONCE),
            stop: scope.token().child_token(),
            env,
            scope,
        };
        this.tidy(None);
        Ok(this)
    }

    /// The template with this name or id, which may have a tag behind a colon.
    pub fn resolve(&self, name: &str) -> Result<Template, ApiError> {
        let plain = Template { id: BASE.into(), memory_mb: MEMORY_MB, cpu_count: CPU_COUNT, ..Template::default() };
        let index = self.catalogue.read().map_err(broken)?;
        let Some((id, record, _, build)) = index.tagged(name) else {
            return if name == BASE { Ok(plain) } else { Err(self.unknown(name)) };
        };
        let image = build.image.as_ref().and_then(|image| self.images.find(image, self.env.now()).transpose());
        let image = image.transpose().map_err(broken)?.ok_or_else(|| self.unknown(name))?;
        let manifest = image.manifest.clone();
        let root = self.roots.place(&manifest.base).ok_or_else(|| {
            let gone = format!("the root file system of template '{name}' is gone: build it again");
            ApiError::new(StatusCode::NOT_FOUND, gone)
        })?;
        Ok(Template {
            id: id.clone(),
            alias: record.name.clone(),
            root,
            environment: manifest.environment.clone(),
            directory: manifest.directory.clone(),
            memory_mb: build.memory_mb,
            cpu_count: build.cpu_count,
            manifest,
            has_image: true,
        })
    }

    fn unknown(&self, name: &str) -> ApiError {
        let message = match self.roots.has(name) {
            true => format!("'{name}' is an image: build a template from it"),
            false => format!("template '{name}' not found"),
        };
        ApiError::new(StatusCode::NOT_FOUND, message)
    }

    /// A home for one sandbox, below its folder, with what the template has in it.
    pub async fn home(&self, template: &Template, folder: &Path) -> io::Result<PathBuf> {
        let home = folder.join("home");
        if template.has_image {
            let image = self.images.find(&template.manifest.id, self.env.now())?;
            let image = image.ok_or_else(|| io::Error::other("the template was deleted"))?;
            self.spares.home(Arc::new(image), &home).await?;
        } else {
            std::fs::create_dir(&home)?;
        }
        Ok(home)
    }

    /// Variables of all processes in a room that was begun with a template.
    pub fn variables(&self, template: &Template, room: &Room) -> BTreeMap<String, String> {
        build::variables(&template.environment, template.manifest.downloads, room)
    }

    /// Starts what the template has running, and waits until it is ready. The error is for people.
    pub async fn boot(&self, template: &Template, room: &Room) -> Result<(), String> {
        let manifest = &template.manifest;
        if manifest.start.is_none() && manifest.ready.is_none() {
            return Ok(());
        }
        start::start(manifest, &template.root, room, &self.scope, start::IN_SANDBOX, |_| {}).await
    }

    /// A template from what a sandbox has in its home now; its processes stand still meanwhile.
    pub async fn snapshot(&self, live: &Live, name: Option<&str>) -> Result<Template, ApiError> {
        let (new, build) = (self.new_id(), self.new_uuid());
        let name = name.map(api::checked_name).transpose()?;
        // Nobody pauses, resumes or ends it meanwhile.
        let _turn = live.lasting.turn.lock().await;
        let own = self.images.lock_alone(&build).await.map_err(broken)?;
        let half = self.images.half(&build).map_err(broken)?;
        let frozen = |error: crate::isolation::Error| {
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the sandbox cannot be stopped: {error}"))
        };
        let paused = live.vital().state == crate::clients::e2b::wire::State::Paused;
        if !paused {
            live.room.freeze(true).await.map_err(frozen)?;
        }
        let (home, to, how) = (live.folder.join("home"), half.clone(), self.spares.how);
        let (images, scope, now) = (self.images.clone(), self.scope.clone(), self.env.now());
        let manifest = Manifest { id: build.clone(), made_at: now, ..live.template.manifest.clone() };
        let copied = tokio::task::spawn_blocking(move || {
            make_dir(&to)?;
            std::fs::create_dir(to.join("home"))?;
            copy::copy(&home, &to.join("home"), how)?;
            Ok(to)
        });
        let copied = copied.await.unwrap_or_else(|lost| Err(io::Error::other(lost)));
        if !paused {
            live.room.freeze(false).await.map_err(frozen)?;
        }
        let published = tokio::task::spawn_blocking(move || {
            let published = copied.and_then(|half| images.publish(&half, manifest, &[], &scope));
            crate::workspace::remove_folder(&half)?;
            published
        });
        published.await.unwrap_or_else(|lost| Err(io::Error::other(lost))).map_err(broken)?;
        let (cpu_count, memory_mb) = (live.template.cpu_count, live.template.memory_mb);
        let source = Some(live.id.clone());
        let tag = Tag { build: build.clone(), assigned_at: now };
        let template = self.change(move |index| {
            let known = name.as_deref().and_then(|name| index.template(name)).map(|(id, _)| id.clone());
            let template = known.unwrap_or(new);
            let record = index.templates.entry(template.clone()).or_insert_with(|| Record {
                name,
                public: false,
                source: None,
                created_at: now,
                updated_at: now,
                tags: BTreeMap::new(),
                cpu_count,
                memory_mb,
            });
            (record.source, record.updated_at) = (source, now);
            record.tags.insert(DEFAULT_TAG.to_owned(), tag);
            let about = BuildRecord {
                template: template.clone(),
                status: BuildStatus::Ready,
                tags: vec![DEFAULT_TAG.to_owned()],
                image: Some(build.clone()),
                key: None,
                cpu_count,
                memory_mb,
                created_at: now,
                updated_at: now,
                finished_at: Some(now),
                reason: None,
            };
            index.builds.insert(build, about);
            template
        });
        let template = template.await.map_err(broken)?;
        // From here on it is known, and can be used.
        drop(own);
        self.tidy(None);
        self.resolve(&template)
    }

    /// Removes a template and ends its builds. `false`: there is none.
    pub async fn remove(&self, name: &str) -> Result<bool, ApiError> {
        let name = name.to_owned();
        let removed = self.change(move |index| {
            let id = index.template(&name).map(|(id, _)| id.clone())?;
            let own = index.builds.values().filter(|build| build.template == id);
            let images: Vec<_> = own.filter_map(|build| build.image.clone()).collect();
            index.remove(&id).then_some((id, images))
        });
        let Some((id, images)) = removed.await.map_err(broken)? else { return Ok(false) };
        images.iter().for_each(|image| self.spares.forget(image));
        self.builds().values().filter(|build| build.template == id).for_each(|build| build.cancel.cancel());
        self.tidy(None);
        Ok(true)
    }

    /// Ends all builds and waits until nothing of them runs.
    pub async fn close(&self) {
        self.stop.cancel();
        // Bounded, so that one that is lost keeps nobody from ending.
        for _ in 0..3000 {
            if !self.builds().values().any(|build| build.is_at_work()) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        tracing::warn!("a template is still being built");
    }

    /// The image of the newest build of the same.
    fn same(&self, key: Hash) -> io::Result<Option<Image>> {
        for (_, build) in self.catalogue.read()?.same(key) {
            if let Some(image) = &build.image
                && let Some(image) = self.images.find(image, self.env.now())?
            {
                return Ok(Some(image));
            }
        }
        Ok(None)
    }

    async fn change<T: Send + 'static>(&self, change: impl FnOnce(&mut Index) -> T + Send + 'static) -> io::Result<T> {
        let catalogue = self.catalogue.clone();
        let changed = tokio::task::spawn_blocking(move || catalogue.change(change)).await;
        changed.unwrap_or_else(|lost| Err(io::Error::other(lost)))
    }

    fn builds(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Build>>> {
        self.builds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In the background: makes a spare home of a new image, and removes what is too much.
    fn tidy(&self, new: Option<String>) {
        if let Some(image) = new
            && let Ok(Some(image)) = self.images.find_unused(&image)
        {
            self.spares.prepare(Arc::new(image));
        }
        let (catalogue, images, uploads, roots) =
            (self.catalogue.clone(), self.images.clone(), self.uploads.clone(), self.roots.clone());
        let (keep, now) = (self.keep, self.env.now());
        drop(self.scope.spawn("pruning templates", async move {
            let tidied = tokio::task::spawn_blocking(move || {
                let gone = images.prune(&keep, &catalogue.read()?.images(), now)?;
                catalogue.change(|index| index.forget(&gone, now))?;
                roots.prune(&images.roots()?)?;
                uploads.prune(now)
            });
            // What is left over is tried again after the next build.
            if let Ok(Err(error)) = tidied.await {
                tracing::warn!(%error, "old templates stay");
            }
        }));
    }

    /// As E2B's: twenty letters and digits.
    fn new_id(&self) -> String {
        const DIGITS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let digit = |index: u128| char::from(DIGITS[usize::try_from(index % 36).unwrap_or_default()]);
        (0..2)
            .flat_map(|_| {
                let random = self.env.ids.random();
                (0..10_u32).map(move |place| digit(random / 36_u128.pow(place)))
            })
            .collect()
    }

    fn new_uuid(&self) -> String {
        // Each has 80 random bits for sure.
        let random = (self.env.ids.random() << 64) ^ (self.env.ids.random() & u128::from(u64::MAX));
        let random = (random & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
        let digits = format!("{random:032x}");
        let cut = [0, 8, 12, 16, 20, 32];
        cut.windows(2).map(|ends| &digits[ends[0]..ends[1]]).collect::<Vec<_>>().join("-")
    }

    /// 160 random bits.
    fn new_word(&self) -> String {
        const LOW: u128 = (1 << 80) - 1;
        format!("{:020x}{:020x}", self.env.ids.random() & LOW, self.env.ids.random() & LOW)
    }
}

fn broken(error: io::Error) -> ApiError {
    tracing::warn!(%error, "the folder of templates");
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the folder of templates: {error}"))
}
