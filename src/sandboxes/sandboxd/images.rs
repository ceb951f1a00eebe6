//! Images: prepared environments on disk, shared by every process that uses this folder.
//!
//! An image is a folder `images/HASH` with `work/` (a tree's files and what setup left beside them), `home/`, `tracked` (the tree's
//! files with what names their content) and `manifest.json`. Invariants: it is renamed into its place whole and, but for two marks
//! (`used`, `on-disk`), never written to afterwards; whoever reads it holds its lock shared, whoever makes or removes it holds it alone; a process that dies holds
//! nothing.

use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::base::hash::Hash;
use crate::base::scope::Scope;
use crate::domain::code::TreeId;
use crate::domain::sandbox::CommandReceipt;
use crate::workspace::remove_folder;

use super::copy;
use super::recipe::Listing;

/// How often a lock that somebody else holds is tried.
const TRY_AGAIN: Duration = Duration::from_millis(40);

/// What is kept.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    pub images: usize,
    pub bytes: u64,
    /// An image that nobody has used for so long goes.
    pub unused: Duration,
}

impl Default for Keep {
    fn default() -> Self {
        Self { images: 16, bytes: 40 << 30, unused: Duration::from_secs(30 * 24 * 3600) }
    }
}

/// What an image says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub environment: Hash,
    /// The tree whose files are in it.
    pub tree: TreeId,
    pub repository: String,
    pub made_at: Timestamp,
    pub bytes: u64,
    /// Of the setup commands.
    pub receipts: Vec<CommandReceipt>,
    /// The boot of the machine during which it was made: until it is on disk for sure, only that one believes it.
    pub boot: String,
}

/// An image that nobody removes while this is held.
#[derive(Debug)]
pub(super) struct Image {
    pub folder: PathBuf,
    pub manifest: Manifest,
    pub tracked: Arc<Listing>,
    _shared: Lock,
}

/// A lock on one image, let go when it is dropped.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held for its end")] File);

#[derive(Debug)]
pub(super) struct Images {
    folder: PathBuf,
    locks: PathBuf,
    boot: String,
    serial: AtomicU64,
}

impl Images {
    /// Opens the folder and removes what builders that died have left half made.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let (images, locks) = (folder.join("images"), folder.join("locks"));
        for folder in [&images, &locks] {
            std::fs::create_dir_all(folder)?;
        }
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let this = Self { folder: images, locks, boot: boot.trim().to_owned(), serial: AtomicU64::new(0) };
        for entry in std::fs::read_dir(&this.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            // `.half-HASH-…`: whoever still makes it holds the lock.
            let hash = name.to_str().and_then(|name| name.strip_prefix(".half-")?.split('-').next()?.parse().ok());
            if let Some(hash) = hash
                && let Some(_alone) = this.try_lock(&hash, File::try_lock)?
            {
                // It takes up room and does no other harm.
                if let Err(error) = remove_folder(&entry.path()) {
                    tracing::warn!(%error, folder = %entry.path().display(), "a half-made environment stays");
                }
            }
        }
        Ok(this)
    }

    fn try_lock(&self, hash: &Hash, lock: fn(&File) -> Result<(), std::fs::TryLockError>) -> io::Result<Option<Lock>> {
        let path = self.locks.join(format!("{hash}.lock"));
        let file = File::options().write(true).create(true).truncate(false).open(path)?;
        match lock(&file) {
            Ok(()) => Ok(Some(Lock(file))),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(error)) => Err(error),
        }
    }

    /// Waits until nobody else uses or makes it. Cancel safe.
    pub(super) async fn lock_alone(&self, hash: &Hash) -> io::Result<Lock> {
        self.wait_for(hash, File::try_lock).await
    }

    async fn wait_for(&self, hash: &Hash, lock: fn(&File) -> Result<(), std::fs::TryLockError>) -> io::Result<Lock> {
        loop {
            if let Some(held) = self.try_lock(hash, lock)? {
                return Ok(held);
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }

    /// The image, if there is one that is whole and was made at or after `oldest`. Waits for one that is being made. Cancel safe.
    pub(super) async fn find(
        &self,
        hash: &Hash,
        oldest: Option<Timestamp>,
        now: Timestamp,
    ) -> io::Result<Option<Image>> {
        let shared = self.wait_for(hash, File::try_lock_shared).await?;
        let folder = self.folder.join(hash.to_string());
        let Some(manifest) = self.manifest(&folder)? else { return Ok(None) };
        if manifest.environment != *hash || oldest.is_some_and(|oldest| manifest.made_at < oldest) {
            return Ok(None);
        }
        let tracked = match std::fs::read(folder.join("tracked")) {
            Ok(text) => Arc::new(tracked_of(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // Without the mark it counts as unused and goes a little earlier: no reason to do without it now.
        if let Err(error) = std::fs::write(folder.join("used"), now.to_string()) {
            tracing::debug!(%error, "an environment's use was not noted");
        }
        Ok(Some(Image { folder, manifest, tracked, _shared: shared }))
    }

    /// Whether there is one that is whole and was made at or after `oldest`. For the holder of its lock.
    pub(super) fn has(&self, hash: &Hash, oldest: Option<Timestamp>) -> io::Result<bool> {
        let found = self.manifest(&self.folder.join(hash.to_string()))?;
        Ok(found.is_some_and(|found| oldest.is_none_or(|oldest| found.made_at >= oldest)))
    }

    /// What stands in the manifest of a folder. `None`: there is none, or none that can be believed.
    fn manifest(&self, folder: &Path) -> io::Result<Option<Manifest>> {
        let text = match std::fs::read(folder.join("manifest.json")) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // What another version wrote is made anew.
        let manifest: Option<Manifest> = serde_json::from_slice(&text).ok();
        Ok(manifest.filter(|manifest| manifest.boot == self.boot || folder.join("on-disk").exists()))
    }

    /// A folder to make an image in, for the holder of its lock. It lies beside the images, so that it can be renamed.
    pub(super) fn half(&self, hash: &Hash) -> io::Result<PathBuf> {
        let number = self.serial.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!(".half-{hash}-{}-{number}", std::process::id()));
        remove_folder(&path)?;
        Ok(path)
    }

    /// Turns a folder with `work/` and `home/` into the image, in the place of an older one. Blocking; for the holder of the lock.
    pub(super) fn publish(
        &self,
        half: &Path,
        mut manifest: Manifest,
        tracked: &Listing,
        scope: &Scope,
    ) -> io::Result<()> {
        manifest.boot.clone_from(&self.boot);
        manifest.bytes = copy::measure(half)?.bytes;
        let mut text = Vec::new();
        for (path, content) in tracked {
            text.extend_from_slice(path.as_os_str().as_bytes());
            text.push(0);
            text.extend_from_slice(content.as_bytes());
            text.push(0);
        }
        std::fs::write(half.join("tracked"), text)?;
        std::fs::write(half.join("used"), manifest.made_at.to_string())?;
        std::fs::write(half.join("manifest.json"), serde_json::to_vec(&manifest)?)?;
        let image = self.folder.join(manifest.environment.to_string());
        let gone = self.half(&manifest.environment)?;
        if image.exists() {
            std::fs::rename(&image, &gone)?;
        }
        std::fs::rename(half, &image)?;
        remove_folder(&gone)?;
        // A machine that loses power may keep the name and lose the content. Writing everything out can take long, so nobody waits.
        drop(scope.spawn("writing an environment to disk", async move {
            let written = tokio::task::spawn_blocking(move || {
                rustix::fs::syncfs(File::open(&image)?)?;
                std::fs::write(image.join("on-disk"), "")
            });
            // Without the mark it is made anew after the next start of the machine.
            if let Ok(Err(error)) = written.await {
                tracing::debug!(%error, "an environment could not be written to disk at once");
            }
        }));
        Ok(())
    }

    /// Removes what `keep` does not allow, the longest unused first; never one that somebody reads or makes. Blocking.
    pub(super) fn prune(&self, keep: &Keep, now: Timestamp) -> io::Result<usize> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let folder = entry?.path();
            let Some(hash) = folder.file_name().and_then(|name| name.to_str()?.parse::<Hash>().ok()) else { continue };
            let bytes = self.manifest(&folder)?.map_or(0, |manifest| manifest.bytes);
            let used = std::fs::read_to_string(folder.join("used")).ok().and_then(|text| text.parse().ok());
            found.push((used.unwrap_or(Timestamp::MIN), hash, bytes, folder));
        }
        found.sort_by_key(|(used, ..)| std::cmp::Reverse(*used));
        let (mut kept, mut bytes_kept, mut removed) = (0, 0_u64, 0);
        for (used, hash, bytes, folder) in found {
            let unused = Duration::try_from(now.duration_since(used)).unwrap_or_default();
            // The newest stays, however large.
            let fits = kept == 0 || (kept < keep.images && bytes_kept + bytes <= keep.bytes);
            if fits && unused <= keep.unused {
                kept += 1;
                bytes_kept += bytes;
            } else if let Some(_alone) = self.try_lock(&hash, File::try_lock)? {
                let gone = self.half(&hash)?;
                std::fs::rename(&folder, &gone)?;
                remove_folder(&gone)?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

fn tracked_of(text: &[u8]) -> Listing {
    let mut fields = text.split(|byte| *byte == 0);
    let mut listing = Listing::new();
    while let (Some(path), Some(content)) = (fields.next(), fields.next()) {
        let path = PathBuf::from(std::ffi::OsString::from_vec(path.to_vec()));
        listing.insert(path, String::from_utf8_lossy(content).into_owned());
    }
    listing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: i8) -> Timestamp {
        jiff::civil::date(2026, 5, day).to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp()
    }

    fn make(images: &Images, name: &str, day: i8, scope: &Scope) -> Hash {
        let hash = Hash::of(name);
        let half = images.half(&hash).unwrap();
        std::fs::create_dir_all(half.join("work")).unwrap();
        std::fs::write(half.join("work/file"), vec![b'x'; 1000]).unwrap();
        let manifest = Manifest {
            environment: hash,
            tree: "a".repeat(40).parse().unwrap(),
            repository: "r".into(),
            made_at: at(day),
            bytes: 0,
            receipts: Vec::new(),
            boot: String::new(),
        };
        let odd = PathBuf::from(std::ffi::OsString::from_vec(b"n\xff\nm".to_vec()));
        let tracked = Listing::from([(odd, "File 1".to_owned()), ("b".into(), "File 2".to_owned())]);
        images.publish(&half, manifest, &tracked, scope).unwrap();
        hash
    }

    #[tokio::test]
    async fn images_come_whole_and_go_when_they_are_not_used() {
        let root = tempfile::tempdir().unwrap();
        let scope = Scope::new(tokio::runtime::Handle::current());
        let images = Images::open(root.path()).unwrap();
        let one = make(&images, "one", 1, &scope);
        let two = make(&images, "two", 2, &scope);
        let three = make(&images, "three", 3, &scope);
        let names = |images: &Images| {
            let mut names: Vec<_> =
                std::fs::read_dir(&images.folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let image = images.find(&one, None, at(4)).await.unwrap().unwrap();
        assert_eq!((image.manifest.bytes, image.tracked.len()), (1000, 2));
        assert!(image.tracked.keys().any(|path| path.as_os_str().as_bytes() == b"n\xff\nm"));
        assert!(images.find(&two, Some(at(3)), at(3)).await.unwrap().is_none(), "too old for who asks");

        // The first was used last; the second goes.
        let keep = Keep { images: 2, bytes: 1 << 20, unused: Duration::from_secs(90 * 86_400) };
        assert_eq!(images.prune(&keep, at(5)).unwrap(), 1);
        let mut left: Vec<std::ffi::OsString> = vec![one.to_string().into(), three.to_string().into()];
        left.sort();
        assert_eq!(names(&images), left);
        // By age all go but the one that is held.
        assert_eq!(images.prune(&Keep { unused: Duration::from_secs(86_400), ..keep }, at(20)).unwrap(), 1);
        assert_eq!(names(&images), [std::ffi::OsString::from(one.to_string())]);
        drop(image);
        assert_eq!(images.prune(&Keep { unused: Duration::from_secs(86_400), ..keep }, at(20)).unwrap(), 1);

        // What a builder that died left goes at the next start, what a living one makes does not.
        let (dead, living) = (images.half(&one).unwrap(), images.half(&two).unwrap());
        std::fs::create_dir(&dead).unwrap();
        std::fs::create_dir(&living).unwrap();
        let held = images.lock_alone(&two).await.unwrap();
        let again = Images::open(root.path()).unwrap();
        assert!(!dead.exists() && living.exists());
        drop(held);

        // What was not on disk for sure when the machine stopped is not believed.
        let four = make(&again, "four", 6, &scope);
        assert!(again.find(&four, None, at(6)).await.unwrap().is_some());
        assert!(scope.close(Duration::from_secs(30)).await.is_empty());
        let other_boot = Images { boot: "another".into(), ..Images::open(root.path()).unwrap() };
        assert!(other_boot.find(&four, None, at(6)).await.unwrap().is_some());
        std::fs::remove_file(other_boot.folder.join(four.to_string()).join("on-disk")).unwrap();
        assert!(other_boot.find(&four, None, at(6)).await.unwrap().is_none());
    }
}
