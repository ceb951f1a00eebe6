//! Images: the homes that builds have made, on disk, shared by every process that uses this folder.
//!
//! An image is a folder `images/ID` with `home/`, `log.json` and `manifest.json`. Invariants: it is renamed into its place whole and,
//! but for two marks (`used`, `on-disk`), never written to afterwards; whoever reads it holds its lock shared, whoever makes or
//! removes it holds it alone; a process that dies holds nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::base::scope::Scope;
use crate::clients::e2b::wire::LogEntry;
use crate::sandboxd::own::make_dir;
use crate::workspace::remove_folder;

use super::copy;

/// How often a lock that somebody else holds is tried.
const TRY_AGAIN: Duration = Duration::from_millis(40);

/// What is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
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

/// The file system around the home.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Base {
    /// The host's programs and toolchains.
    #[default]
    Host,
    /// A directory of the host.
    Directory(PathBuf),
    /// A root file system that was unpacked, by its digest.
    Root(String),
}

/// What an image says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub id: String,
    pub base: Base,
    pub environment: BTreeMap<String, String>,
    /// Where processes start that say nothing.
    pub directory: Option<PathBuf>,
    /// The build had a network, so what its tools have downloaded lies in the home.
    pub downloads: bool,
    /// What runs in every sandbox, and what tells that it is ready.
    pub start: Option<String>,
    pub ready: Option<String>,
    pub made_at: Timestamp,
    pub bytes: u64,
    pub entries: u64,
    /// The boot of the machine during which it was made: until it is on disk for sure, only that one believes it.
    pub boot: String,
}

/// An image that nobody removes while this is held.
#[derive(Debug)]
pub(super) struct Image {
    pub folder: PathBuf,
    pub manifest: Manifest,
    _shared: Lock,
}

impl Image {
    pub fn home(&self) -> PathBuf {
        self.folder.join("home")
    }

    /// What its build said.
    pub fn log(&self) -> io::Result<Vec<LogEntry>> {
        Ok(serde_json::from_slice(&std::fs::read(self.folder.join("log.json"))?)?)
    }
}

/// A lock, let go when it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    /// Held for its end.
    _file: File,
    path: PathBuf,
}

impl Lock {
    /// Lets it go for good: what it was about is no more. For who holds it alone.
    pub fn retire(self) {
        // Left behind it is an empty file that the next holder takes.
        drop(std::fs::remove_file(&self.path));
    }
}

type Take = fn(&File) -> Result<(), std::fs::TryLockError>;

#[derive(Debug)]
pub(super) struct Images {
    folder: PathBuf,
    locks: PathBuf,
    boot: String,
    serial: AtomicU64,
}

impl Images {
    /// Opens the folder and removes what builders that died have left half made. Blocking.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let (images, locks) = (folder.join("images"), folder.join("locks"));
        for folder in [&images, &locks] {
            make_dir(folder)?;
        }
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let this = Self { folder: images, locks, boot: boot.trim().to_owned(), serial: AtomicU64::new(0) };
        for entry in std::fs::read_dir(&this.folder)? {
            let entry = entry?;
            // `.half-PROCESS-NUMBER-ID`: whoever still makes it holds the lock.
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.strip_prefix(".half-")?.splitn(3, '-').nth(2));
            if let Some(id) = id
                && let Some(lock) = this.try_lock(id, File::try_lock)?
            {
                // It takes up room and does no other harm.
                match remove_folder(&entry.path()) {
                    Ok(()) if !this.folder.join(id).exists() => lock.retire(),
                    Ok(()) => {}
                    Err(error) => {
                        tracing::warn!(%error, folder = %entry.path().display(), "a half-made template stays");
                    }
                }
            }
        }
        Ok(this)
    }

    fn try_lock(&self, name: &str, take: Take) -> io::Result<Option<Lock>> {
        let path = self.locks.join(format!("{name}.lock"));
        loop {
            let file = File::options().write(true).create(true).truncate(false).open(&path)?;
            match take(&file) {
                Ok(()) => {}
                Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
                Err(std::fs::TryLockError::Error(error)) => return Err(error),
            }
            // Whoever retired it meanwhile has taken the name away: a lock on a file without a name keeps nobody out.
            if std::fs::metadata(&path).is_ok_and(|found| file.metadata().is_ok_and(|own| own.ino() == found.ino())) {
                return Ok(Some(Lock { _file: file, path }));
            }
        }
    }

    /// The lock of anything by its name, if nobody else has it.
    pub fn try_alone(&self, name: &str) -> io::Result<Option<Lock>> {
        self.try_lock(name, File::try_lock)
    }

    /// Shared with everybody but who makes or removes it.
    pub fn try_shared(&self, name: &str) -> io::Result<Option<Lock>> {
        self.try_lock(name, File::try_lock_shared)
    }

    /// Waits until nobody else uses or makes it. Cancel safe.
    pub async fn lock_alone(&self, name: &str) -> io::Result<Lock> {
        loop {
            if let Some(held) = self.try_alone(name)? {
                return Ok(held);
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }

    /// The image, if there is one that is whole. Notes that it is used.
    pub fn find(&self, id: &str, now: Timestamp) -> io::Result<Option<Image>> {
        // Held alone it is being made, which nobody knows of yet, or removed.
        let Some(image) = self.find_unused(id)? else { return Ok(None) };
        // Without the mark it counts as unused and goes a little earlier: no reason to do without it now.
        if let Err(error) = std::fs::write(image.folder.join("used"), now.to_string()) {
            tracing::debug!(%error, "a template's use was not noted");
        }
        Ok(Some(image))
    }

    /// The same, and it does not count as a use.
    pub fn find_unused(&self, id: &str) -> io::Result<Option<Image>> {
        let Some(shared) = self.try_shared(id)? else { return Ok(None) };
        let folder = self.folder.join(id);
        let manifest = self.manifest(&folder)?;
        Ok(manifest.map(|manifest| Image { folder, manifest, _shared: shared }))
    }

    /// Digests of the root file systems that images stand on.
    pub fn roots(&self) -> io::Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        for entry in std::fs::read_dir(&self.folder)? {
            if let Some(Manifest { base: Base::Root(digest), .. }) = self.manifest(&entry?.path())? {
                found.insert(digest);
            }
        }
        Ok(found)
    }

    /// Whether there is an image that is whole.
    pub fn has(&self, id: &str) -> bool {
        self.manifest(&self.folder.join(id)).is_ok_and(|found| found.is_some())
    }

    /// When it was last used; `None`: never.
    pub fn used_at(&self, id: &str) -> Option<Timestamp> {
        std::fs::read_to_string(self.folder.join(id).join("used")).ok()?.parse().ok()
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
    pub fn half(&self, id: &str) -> io::Result<PathBuf> {
        let number = self.serial.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!(".half-{}-{number}-{id}", std::process::id()));
        remove_folder(&path)?;
        Ok(path)
    }

    /// Turns a folder with `home/` into the image. Blocking; for the holder of the lock.
    pub fn publish(&self, half: &Path, mut manifest: Manifest, log: &[LogEntry], scope: &Scope) -> io::Result<()> {
        manifest.boot.clone_from(&self.boot);
        let size = copy::measure(&half.join("home"))?;
        (manifest.bytes, manifest.entries) = (size.bytes, size.entries);
        std::fs::write(half.join("log.json"), serde_json::to_vec(log)?)?;
        std::fs::write(half.join("manifest.json"), serde_json::to_vec(&manifest)?)?;
        let image = self.folder.join(&manifest.id);
        std::fs::rename(half, &image)?;
        // A machine that loses power may keep the name and lose the content. Writing everything out can take long, so nobody waits.
        drop(scope.spawn("writing a template to disk", async move {
            let written = tokio::task::spawn_blocking(move || {
                rustix::fs::syncfs(File::open(&image)?)?;
                std::fs::write(image.join("on-disk"), "")
            });
            // Without the mark it is made anew after the next start of the machine.
            if let Ok(Err(error)) = written.await {
                tracing::debug!(%error, "a template could not be written to disk at once");
            }
        }));
        Ok(())
    }

    /// Removes what `keep` does not allow and what is in no use: first what nobody refers to, then what was never used, then the
    /// longest unused; never one that somebody reads or makes. Blocking. The answer is what is gone.
    pub fn prune(&self, keep: &Keep, referred: &BTreeSet<String>, now: Timestamp) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let folder = entry?.path();
            let name = folder.file_name().and_then(|name| name.to_str()).filter(|name| !name.starts_with('.'));
            let Some(id) = name.map(str::to_owned) else { continue };
            let manifest = self.manifest(&folder)?;
            let made_at = manifest.as_ref().map_or(Timestamp::MIN, |manifest| manifest.made_at);
            let bytes = manifest.as_ref().map_or(0, |manifest| manifest.bytes);
            let useless = manifest.is_none() || !referred.contains(&id);
            found.push((!useless, self.used_at(&id), made_at, id, bytes, folder));
        }
        // A `used` of none is less than any.
        found.sort_by_key(|one| std::cmp::Reverse((one.0, one.1, one.2)));
        let (mut kept, mut bytes_kept, mut removed) = (0, 0_u64, Vec::new());
        for (useful, used_at, made_at, id, bytes, folder) in found {
            let unused = Duration::try_from(now.duration_since(used_at.unwrap_or(made_at))).unwrap_or_default();
            // The newest stays, however large.
            let fits = kept == 0 || (kept < keep.images && bytes_kept + bytes <= keep.bytes);
            if useful && fits && unused <= keep.unused {
                kept += 1;
                bytes_kept += bytes;
            } else if self.remove_folder(&id, &folder)? {
                removed.push(id);
            }
        }
        Ok(removed)
    }

    /// `false`: somebody holds it.
    fn remove_folder(&self, id: &str, folder: &Path) -> io::Result<bool> {
        let Some(alone) = self.try_alone(id)? else { return Ok(false) };
        let gone = self.half(id)?;
        std::fs::rename(folder, &gone)?;
        remove_folder(&gone)?;
        alone.retire();
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: i8) -> Timestamp {
        jiff::civil::date(2026, 5, day).to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp()
    }

    fn make(images: &Images, id: &str, day: i8, scope: &Scope) -> String {
        let half = images.half(id).unwrap();
        std::fs::create_dir_all(half.join("home/work")).unwrap();
        std::fs::write(half.join("home/work/file"), vec![b'x'; 1000]).unwrap();
        let manifest = Manifest { id: id.into(), made_at: at(day), ..Manifest::default() };
        images.publish(&half, manifest, &[], scope).unwrap();
        id.to_owned()
    }

    fn names(images: &Images) -> Vec<String> {
        let entries = std::fs::read_dir(&images.folder).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn images_come_whole_and_go_when_they_are_not_used() {
        let root = tempfile::tempdir().unwrap();
        let scope = Scope::new(tokio::runtime::Handle::current());
        let images = Images::open(root.path()).unwrap();
        let made: Vec<_> = (1..=5).map(|number| make(&images, &format!("a-{number}"), number, &scope)).collect();
        let all: BTreeSet<_> = made.iter().filter(|id| *id != "a-5").cloned().collect();
        let image = images.find("a-1", at(6)).unwrap().unwrap();
        assert_eq!((image.manifest.bytes, image.manifest.entries), (1000, 2));
        assert_eq!(image.log().unwrap(), Vec::new());
        assert!(images.find("other", at(6)).unwrap().is_none());
        drop(images.find("a-2", at(7)).unwrap());

        // Nobody refers to the last; the third and fourth were never used, the third is older.
        let keep = Keep { images: 3, bytes: 1 << 20, unused: Duration::from_secs(90 * 86_400) };
        let mut gone = images.prune(&keep, &all, at(8)).unwrap();
        gone.sort();
        assert_eq!(gone, ["a-3", "a-5"]);
        let gone = images.prune(&Keep { bytes: 2000, ..keep }, &all, at(8)).unwrap();
        assert_eq!(gone, ["a-4"]);
        // By age all go but the one that is held.
        let by_age = Keep { unused: Duration::from_secs(86_400), ..keep };
        assert_eq!(images.prune(&by_age, &all, at(20)).unwrap(), ["a-2"]);
        assert_eq!(names(&images), ["a-1"]);
        drop(image);
        assert_eq!(images.prune(&by_age, &all, at(20)).unwrap(), ["a-1"]);
        assert_eq!(std::fs::read_dir(&images.locks).unwrap().count(), 1, "of the one that never was");
        assert!(scope.close(Duration::from_secs(30)).await.is_empty());
    }

    #[tokio::test]
    async fn what_a_builder_that_died_left_goes_and_what_was_not_on_disk_is_not_believed() {
        let root = tempfile::tempdir().unwrap();
        let scope = Scope::new(tokio::runtime::Handle::current());
        let images = Images::open(root.path()).unwrap();
        let (dead, living) = (images.half("dead-1").unwrap(), images.half("living-1").unwrap());
        std::fs::create_dir(&dead).unwrap();
        std::fs::create_dir(&living).unwrap();
        let held = images.lock_alone("living-1").await.unwrap();
        let again = Images::open(root.path()).unwrap();
        assert!(!dead.exists() && living.exists());
        drop(held);

        make(&again, "four", 6, &scope);
        assert!(again.has("four") && again.find("four", at(6)).unwrap().is_some());
        assert!(scope.close(Duration::from_secs(30)).await.is_empty());
        let other_boot = Images { boot: "another".into(), ..Images::open(root.path()).unwrap() };
        assert!(other_boot.has("four"));
        std::fs::remove_file(other_boot.folder.join("four/on-disk")).unwrap();
        assert!(!other_boot.has("four"));
    }

    #[test]
    fn a_lock_that_was_retired_keeps_nobody_waiting_and_lets_nobody_share() {
        let root = tempfile::tempdir().unwrap();
        let images = Images::open(root.path()).unwrap();
        let one = images.try_alone("x").unwrap().unwrap();
        let old = File::options().write(true).open(&one.path).unwrap();
        assert!(images.try_alone("x").unwrap().is_none() && images.try_shared("x").unwrap().is_none());
        one.retire();
        // Somebody who had opened it before gets a lock of no worth; who asks here gets the one that counts.
        old.try_lock().unwrap();
        let two = images.try_alone("x").unwrap().unwrap();
        assert!(images.try_alone("x").unwrap().is_none());
        assert!(two._file.metadata().unwrap().ino() != old.metadata().unwrap().ino());
    }
}
