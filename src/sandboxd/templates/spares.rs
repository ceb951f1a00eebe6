//! Homes that are ready before anybody asks for one.
//!
//! A copy of thousands of files takes as long as it takes. So for templates that were used last copies are kept ready and made anew
//! in the background when they were taken: a sandbox then begins with a rename. There are two, so that two fixes can be tried side by
//! side, or one where that is much of a disk. Spares lie in the folder of this server alone and go with it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::base::scope::Scope;
use crate::sandboxd::own::make_dir;
use crate::workspace::remove_folder;

use super::copy::{self, How};
use super::images::Image;

/// Templates that have one at the same time.
const MOST: usize = 3;
/// For each, and above which size it is but one.
const EACH: usize = 2;
const LARGE: u64 = 512 << 20;
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

/// Those of one template.
#[derive(Debug, Default)]
struct Slot {
    stock: Mutex<Stock>,
    /// There is one more, or none is made any more.
    made: tokio::sync::Notify,
    waiting: AtomicUsize,
    last_used: AtomicU64,
}

#[derive(Debug, Default)]
struct Stock {
    ready: Vec<PathBuf>,
    making: bool,
    /// Nobody will take one.
    gone: bool,
}

impl Slot {
    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that is there or is just being made. Only one caller waits: the others are as fast by themselves.
    async fn take(&self) -> Option<PathBuf> {
        let waits = self.waiting.fetch_add(1, Ordering::Relaxed) == 0;
        let taken = loop {
            let more = self.made.notified();
            tokio::pin!(more);
            // From here on nothing is missed.
            more.as_mut().enable();
            {
                let mut stock = self.stock();
                if let Some(path) = stock.ready.pop() {
                    break Some(path);
                }
                if !stock.making || !waits {
                    break None;
                }
            }
            more.await;
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        taken
    }

    /// `false`: nobody wants it.
    fn add(&self, path: &Path) -> bool {
        let mut stock = self.stock();
        if !stock.gone {
            stock.ready.push(path.to_owned());
        }
        let wanted = !stock.gone;
        drop(stock);
        self.made.notify_waiters();
        wanted
    }
}

/// Nothing is made any more when this is dropped, however that comes about.
struct Making(Arc<Slot>);

impl Drop for Making {
    fn drop(&mut self) {
        self.0.stock().making = false;
        self.0.made.notify_waiters();
    }
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
            Some(slot) => slot.take().await,
            None => None,
        };
        match spare {
            Some(spare) => std::fs::rename(spare, home)?,
            None => self.copy(image.clone(), home.to_owned()).await?,
        }
        self.prepare(image);
        Ok(())
    }

    /// Makes in the background what is missing.
    pub fn prepare(&self, image: Arc<Image>) {
        let bytes = image.manifest.bytes;
        let costs = if self.how == How::Reflink { bytes / 8 } else { bytes };
        if costs > LARGEST || !has_room(&self.folder, costs.saturating_mul(4)) {
            return;
        }
        let Some(slot) = self.slot(&image.manifest.id, true) else { return };
        let each = if costs > LARGE { 1 } else { EACH };
        let missing = {
            let mut stock = slot.stock();
            if stock.making || stock.gone || stock.ready.len() >= each {
                return;
            }
            stock.making = true;
            each - stock.ready.len()
        };
        let paths: Vec<_> =
            (0..missing).map(|_| self.folder.join(self.serial.fetch_add(1, Ordering::Relaxed).to_string())).collect();
        let (how, id, making) = (self.how, image.manifest.id.clone(), Making(slot));
        drop(self.scope.spawn(format!("spare homes of {id}"), async move {
            for path in paths {
                let (image, made) = (image.clone(), path.clone());
                let copied = tokio::task::spawn_blocking(move || fill(&image, &made, how)).await;
                let wanted = match copied.unwrap_or_else(|lost| Err(io::Error::other(lost))) {
                    Ok(()) => making.0.add(&path),
                    Err(error) => {
                        tracing::debug!(%error, template = id, "no spare home");
                        false
                    }
                };
                if !wanted {
                    remove(vec![path]).await;
                    return;
                }
            }
        }));
    }

    /// Removes those of a template that is gone.
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
        let paths = {
            let mut stock = slot.stock();
            stock.gone = true;
            std::mem::take(&mut stock.ready)
        };
        if !paths.is_empty() {
            drop(self.scope.spawn("removing spare homes", remove(paths)));
        }
    }
}

async fn remove(paths: Vec<PathBuf>) {
    let removed = tokio::task::spawn_blocking(move || paths.iter().try_for_each(|path| remove_folder(path))).await;
    if let Ok(Err(error)) = removed {
        tracing::debug!(%error, "a spare home stays until the server ends");
    }
}

fn fill(image: &Image, to: &Path, how: How) -> io::Result<()> {
    std::fs::create_dir(to)?;
    copy::copy(&image.home(), to, how).map(drop)
}

fn has_room(folder: &Path, bytes: u64) -> bool {
    rustix::fs::statvfs(folder).is_ok_and(|found| found.f_bavail.saturating_mul(found.f_frsize) > bytes)
}
