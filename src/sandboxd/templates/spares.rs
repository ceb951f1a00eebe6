//! Homes that are ready before anybody asks for one.
//!
//! A copy of thousands of files takes as long as it takes. So for templates that were used last one copy is kept ready and made anew
//! in the background when it was taken: a sandbox then begins with a rename. Spares lie in the folder of this server alone and go with
//! it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::scope::Scope;
use crate::sandboxd::own::make_dir;
use crate::workspace::remove_folder;

use super::copy::{self, How};
use super::images::Image;

/// Templates that have one at the same time.
const MOST: usize = 3;
/// Above this size a full copy takes too much of the disk to lie idle.
const LARGEST: u64 = 4 << 30;

#[derive(Debug)]
pub(super) struct Spares {
    folder: PathBuf,
    pub how: How,
    scope: Scope,
    slots: Mutex<BTreeMap<String, Arc<Slot>>>,
    serial: AtomicU64,
}

#[derive(Debug, Default)]
struct Slot {
    /// Locked while it is made.
    ready: Arc<tokio::sync::Mutex<Option<PathBuf>>>,
    waiting: AtomicUsize,
    last_used: AtomicU64,
}

impl Spares {
    /// `folder` is this server's own, empty, on the file system of the images and of the homes.
    pub fn new(folder: PathBuf, scope: Scope) -> io::Result<Self> {
        make_dir(&folder)?;
        let how = How::find(&folder)?;
        Ok(Self { folder, how, scope, slots: Mutex::default(), serial: AtomicU64::new(1) })
    }

    /// Puts a home like the image's at `home`, which does not exist.
    pub async fn home(&self, image: Arc<Image>, home: &Path) -> io::Result<()> {
        let spare = match self.slot(&image.manifest.id, false) {
            Some(slot) => take(&slot).await,
            None => None,
        };
        match spare {
            Some(spare) => std::fs::rename(spare, home)?,
            None => self.copy(image.clone(), home.to_owned()).await?,
        }
        self.prepare(image);
        Ok(())
    }

    /// Makes one in the background if there is none.
    pub fn prepare(&self, image: Arc<Image>) {
        let bytes = image.manifest.bytes;
        let costs = if self.how == How::Reflink { bytes / 8 } else { bytes };
        if costs > LARGEST || !has_room(&self.folder, costs.saturating_mul(4)) {
            return;
        }
        let Some(slot) = self.slot(&image.manifest.id, true) else { return };
        // Somebody makes it now, or takes it and comes by here afterwards.
        let Ok(mut ready) = slot.ready.clone().try_lock_owned() else { return };
        if ready.is_some() {
            return;
        }
        let path = self.folder.join(self.serial.fetch_add(1, Ordering::Relaxed).to_string());
        let (how, id) = (self.how, image.manifest.id.clone());
        drop(self.scope.spawn(format!("a spare home of {id}"), async move {
            let made = path.clone();
            let copied = tokio::task::spawn_blocking(move || fill(&image, &made, how)).await;
            match copied.unwrap_or_else(|lost| Err(io::Error::other(lost))) {
                Ok(()) => *ready = Some(path),
                Err(error) => {
                    tracing::debug!(%error, template = id, "no spare home");
                    drop(remove_folder(&path)); // What stays goes with this server's folder.
                }
            }
        }));
    }

    /// Removes the one of a template that is gone.
    pub fn forget(&self, image: &str) {
        let slot = self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(image);
        self.discard(slot);
    }

    async fn copy(&self, image: Arc<Image>, to: PathBuf) -> io::Result<()> {
        let how = self.how;
        let copied = tokio::task::spawn_blocking(move || fill(&image, &to, how)).await;
        copied.unwrap_or_else(|lost| Err(io::Error::other(lost)))
    }

    fn slot(&self, image: &str, make: bool) -> Option<Arc<Slot>> {
        let now = self.serial.fetch_add(1, Ordering::Relaxed);
        let (mut old, mut slots) = (None, self.slots.lock().unwrap_or_else(PoisonError::into_inner));
        if make && !slots.contains_key(image) && slots.len() >= MOST {
            let unused = slots.iter().min_by_key(|(_, slot)| slot.last_used.load(Ordering::Relaxed));
            let unused = unused.map(|(id, _)| id.clone());
            old = unused.and_then(|id| slots.remove(&id));
        }
        let slot = match make {
            true => Some(slots.entry(image.to_owned()).or_default().clone()),
            false => slots.get(image).cloned(),
        };
        drop(slots);
        self.discard(old);
        slot.inspect(|slot| slot.last_used.store(now, Ordering::Relaxed))
    }

    fn discard(&self, slot: Option<Arc<Slot>>) {
        let Some(slot) = slot else { return };
        drop(self.scope.spawn("removing a spare home", async move {
            let Some(path) = slot.ready.lock().await.take() else { return };
            let removed = tokio::task::spawn_blocking(move || remove_folder(&path)).await;
            if let Ok(Err(error)) = removed {
                tracing::debug!(%error, "a spare home stays until the server ends");
            }
        }));
    }
}

/// The one that is there or is just being made; for one caller at a time, since there is but one.
async fn take(slot: &Slot) -> Option<PathBuf> {
    if slot.waiting.fetch_add(1, Ordering::Relaxed) > 0 {
        slot.waiting.fetch_sub(1, Ordering::Relaxed);
        return None;
    }
    let taken = slot.ready.lock().await.take();
    slot.waiting.fetch_sub(1, Ordering::Relaxed);
    taken
}

fn fill(image: &Image, to: &Path, how: How) -> io::Result<()> {
    std::fs::create_dir(to)?;
    copy::copy(&image.home(), to, how).map(drop)
}

fn has_room(folder: &Path, bytes: u64) -> bool {
    rustix::fs::statvfs(folder).is_ok_and(|found| found.f_bavail.saturating_mul(found.f_frsize) > bytes)
}
