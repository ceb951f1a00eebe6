//! Root file systems that sandboxes can have instead of the host's: directories as they are, and images unpacked once.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::isolation::Root;
use crate::sandboxd::own::make_dir;
use crate::workspace::remove_folder;

use super::images::{Base, Images, Lock};
use super::oci;

/// Where something is mounted in every sandbox, so it must be there.
const MOUNTED: &[&str] = &["dev", "etc", "home/user", "proc", "sys", "tmp", "work", ".nightcrew"];
const PREFIX: &str = "root-";

/// A root file system that can be used.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub base: Base,
    pub place: PathBuf,
    pub environment: BTreeMap<String, String>,
    pub directory: Option<PathBuf>,
}

/// What was unpacked says of itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct About {
    environment: BTreeMap<String, String>,
    directory: Option<PathBuf>,
}

#[derive(Debug)]
pub(super) struct Roots {
    configured: BTreeMap<String, PathBuf>,
    folder: PathBuf,
    images: Arc<Images>,
    /// Nobody removes what this server has used.
    held: Mutex<BTreeMap<String, Lock>>,
}

impl Roots {
    pub fn open(folder: &Path, configured: BTreeMap<String, PathBuf>, images: Arc<Images>) -> io::Result<Self> {
        let folder = folder.join("roots");
        make_dir(&folder)?;
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            // `.half-DIGEST-…`: whoever still makes it holds the lock.
            let name = entry.file_name();
            let digest = name.to_str().and_then(|name| name.strip_prefix(".half-")?.split('-').next());
            if let Some(digest) = digest
                && let Some(_alone) = images.try_alone(&format!("{PREFIX}{digest}"))?
                && let Err(error) = remove_folder(&entry.path())
            {
                tracing::warn!(%error, folder = %entry.path().display(), "a half-unpacked image stays");
            }
        }
        Ok(Self { configured, folder, images, held: Mutex::default() })
    }

    /// Whether there is one with this name.
    pub fn has(&self, name: &str) -> bool {
        self.configured.contains_key(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.configured.keys().map(String::as_str)
    }

    /// What a sandbox's room is told. `None`: it is gone.
    pub fn place(&self, base: &Base) -> Option<Root> {
        match base {
            Base::Host => Some(Root::Host),
            Base::Directory(place) => place.is_dir().then(|| Root::Directory(place.clone())),
            Base::Root(digest) => {
                let place = self.folder.join(digest).join("root");
                self.hold(digest).ok().filter(|_| place.is_dir()).map(|()| Root::Directory(place))
            }
        }
    }

    fn hold(&self, digest: &str) -> io::Result<()> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if !held.contains_key(digest) {
            let lock = self.images.try_shared(&format!("{PREFIX}{digest}"))?;
            held.insert(digest.to_owned(), lock.ok_or(io::ErrorKind::WouldBlock)?);
        }
        Ok(())
    }

    /// The root file system with this name; an image is unpacked if it is not yet. Not cancel safe: what is half unpacked stays until
    /// the next start.
    pub async fn prepare(&self, name: &str) -> anyhow::Result<Prepared> {
        let path = self.configured.get(name).context("no image has this name")?.clone();
        let source = tokio::task::spawn_blocking(move || oci::open(&path)).await??;
        let oci::Source::Image(image) = source else {
            let oci::Source::Directory(place) = source else { anyhow::bail!("it is neither a directory nor an image") };
            let base = Base::Directory(place.clone());
            return Ok(Prepared { base, place, environment: BTreeMap::new(), directory: None });
        };
        let digest = image.digest.to_string();
        let folder = self.folder.join(&digest);
        if !folder.is_dir() {
            let alone = self.images.lock_alone(&format!("{PREFIX}{digest}")).await?;
            if !folder.is_dir() {
                let half = self.folder.join(format!(".half-{digest}-{}", std::process::id()));
                let about = About { environment: image.environment.clone(), directory: image.directory.clone() };
                let done = folder.clone();
                tokio::task::spawn_blocking(move || unpack(&image, &half, &about, &done)).await??;
            }
            drop(alone);
        }
        while self.hold(&digest).is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let about: About = serde_json::from_slice(&std::fs::read(folder.join("about.json"))?)?;
        let (environment, directory) = (about.environment, about.directory);
        Ok(Prepared { base: Base::Root(digest), place: folder.join("root"), environment, directory })
    }

    /// Removes what is unpacked and neither configured nor in use: `used` are the digests of all images. Blocking.
    pub fn prune(&self, used: &std::collections::BTreeSet<String>) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            if name.starts_with('.') || used.contains(&name) {
                continue;
            }
            // Shared by every server that has used it since it began.
            if let Some(alone) = self.images.try_alone(&format!("{PREFIX}{name}"))? {
                let gone = self.folder.join(format!(".half-{name}-{}", std::process::id()));
                remove_folder(&gone)?;
                std::fs::rename(&path, &gone)?;
                remove_folder(&gone)?;
                alone.retire();
            }
        }
        Ok(())
    }
}

fn unpack(image: &oci::Image, half: &Path, about: &About, done: &Path) -> anyhow::Result<()> {
    remove_folder(half)?;
    make_dir(half)?;
    let root = half.join("root");
    std::fs::create_dir(&root)?;
    let unpacked = image.unpack(&root, MOUNTED);
    if unpacked.is_err() {
        remove_folder(half)?;
    }
    unpacked?;
    std::fs::write(half.join("about.json"), serde_json::to_vec(about)?)?;
    // A machine that loses power may keep names and lose contents.
    rustix::fs::syncfs(std::fs::File::open(half)?)?;
    Ok(std::fs::rename(half, done)?)
}
