//! Archives that clients upload for `COPY` steps: by an address with a word in it that nobody can guess, since clients send no key
//! there.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use futures_util::StreamExt as _;
use jiff::{SignedDuration, Timestamp};

use crate::sandboxd::error::ApiError;
use crate::sandboxd::own::make_dir;

use super::archive::Bounds;
use super::unpack;

/// The largest archive, packed.
const LARGEST: u64 = 4 << 30;
/// What all of them may take, and how long one is kept that nobody asks for.
const MOST_BYTES: u64 = 8 << 30;
const KEPT: SignedDuration = SignedDuration::from_hours(24 * 7);
/// How long an address is good, and how many are.
const GOOD: SignedDuration = SignedDuration::from_hours(2);
const MOST_ADDRESSES: usize = 1000;
/// A client that sends nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(60);
/// At the same time.
const MOST_AT_ONCE: usize = 8;
/// What an upload leaves of the disk.
const RESERVE: u64 = 256 << 20;

#[derive(Debug)]
pub(super) struct Uploads {
    folder: PathBuf,
    addresses: Mutex<BTreeMap<String, Address>>,
    serial: AtomicU64,
    turns: tokio::sync::Semaphore,
}

#[derive(Clone, Debug)]
struct Address {
    hash: String,
    ends_at: Timestamp,
}

impl Uploads {
    /// Opens the folder and removes what uploads that were cut off have left. Blocking.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let folder = folder.join("files");
        make_dir(&folder)?;
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            let half = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".half-"));
            // Whoever still writes it has it locked.
            if half && File::open(&path).is_ok_and(|file| file.try_lock().is_ok()) {
                std::fs::remove_file(&path)?;
            }
        }
        let turns = tokio::sync::Semaphore::new(MOST_AT_ONCE);
        Ok(Self { folder, addresses: Mutex::default(), serial: AtomicU64::new(1), turns })
    }

    /// Where the archive with this hash is, whether there is one or not. `None`: that is no hash.
    pub fn path(&self, hash: &str) -> Option<PathBuf> {
        let plain = (8..=128).contains(&hash.len()) && hash.bytes().all(|byte| byte.is_ascii_alphanumeric());
        plain.then(|| self.folder.join(hash))
    }

    /// Whether it is there; it then stays for a while.
    pub fn is_there(&self, hash: &str, now: Timestamp) -> bool {
        let Some(path) = self.path(hash) else { return false };
        let touched = File::options().append(true).open(path).and_then(|file| {
            let at = Duration::try_from(now.duration_since(Timestamp::UNIX_EPOCH)).unwrap_or_default();
            file.set_modified(std::time::UNIX_EPOCH + at)
        });
        touched.is_ok()
    }

    /// A new address for an archive. `word` is random.
    pub fn address(&self, word: String, hash: &str, now: Timestamp) {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        addresses.retain(|_, address| address.ends_at > now);
        while addresses.len() >= MOST_ADDRESSES
            && let Some(oldest) =
                addresses.iter().min_by_key(|(_, address)| address.ends_at).map(|(word, _)| word.clone())
        {
            addresses.remove(&oldest);
        }
        let ends_at = now.checked_add(GOOD).unwrap_or(Timestamp::MAX);
        addresses.insert(word, Address { hash: hash.to_owned(), ends_at });
    }

    /// Takes an archive that is sent to an address. It is looked through before it counts.
    pub async fn take(&self, word: &str, body: Body, length: Option<u64>, now: Timestamp) -> Result<(), ApiError> {
        let address = self.addresses.lock().unwrap_or_else(PoisonError::into_inner).get(word).cloned();
        let address = address.filter(|address| address.ends_at > now);
        let refuse = |status, message: String| Err(ApiError::new(status, message));
        let Some((address, path)) =
            address.and_then(|address| Some((self.path(&address.hash)?, address))).map(|(p, a)| (a, p))
        else {
            return refuse(StatusCode::FORBIDDEN, "this upload address is not known, or its time is over".into());
        };
        if length.is_some_and(|length| length > LARGEST) {
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, too_large());
        }
        let Ok(_turn) = self.turns.acquire().await else {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "the server ends".into());
        };
        let broken = |error: io::Error| match error.raw_os_error() {
            Some(code) if code == rustix::io::Errno::NOSPC.raw_os_error() => full(),
            _ => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the upload cannot be kept: {error}")),
        };
        let number = self.serial.fetch_add(1, Ordering::Relaxed);
        let half = Half(self.folder.join(format!(".half-{}-{number}", std::process::id())));
        let mut file = File::create(&half.0).map_err(broken)?;
        file.lock().map_err(broken)?;
        let (mut stream, mut bytes) = (body.into_data_stream(), 0_u64);
        loop {
            let piece = match tokio::time::timeout(SILENCE, stream.next()).await {
                Ok(None) => break,
                Ok(Some(Ok(piece))) => piece,
                Ok(Some(Err(_))) | Err(_) => return refuse(StatusCode::BAD_REQUEST, "the upload was cut off".into()),
            };
            bytes += piece.len() as u64;
            if bytes > LARGEST {
                return refuse(StatusCode::PAYLOAD_TOO_LARGE, too_large());
            }
            if bytes / (64 << 20) != (bytes - piece.len() as u64) / (64 << 20) && !has_room(&self.folder) {
                return Err(full());
            }
            // Into memory of the kernel's: as fast as a local client sends.
            file.write_all(&piece).map_err(broken)?;
        }
        if length.is_some_and(|length| length != bytes) {
            return refuse(StatusCode::BAD_REQUEST, "the upload was cut off".into());
        }
        let looked = tokio::task::spawn_blocking(move || {
            unpack::check(&half.0, Bounds::USUAL)?;
            file.sync_all()?;
            std::fs::rename(&half.0, &path)
        });
        match looked.await.unwrap_or_else(|lost| Err(io::Error::other(lost))) {
            Ok(()) => {
                tracing::debug!(hash = address.hash, bytes, "an archive for a template");
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                refuse(StatusCode::BAD_REQUEST, format!("the archive is refused: {error}"))
            }
            Err(error) => Err(broken(error)),
        }
    }

    /// Removes archives that nobody has asked for in a while, and the longest unused ones of too many. Blocking.
    pub fn prune(&self, now: Timestamp) -> io::Result<()> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            let about = match entry.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                about => about?,
            };
            if !entry.file_name().to_string_lossy().starts_with('.') {
                found.push((
                    Timestamp::try_from(about.modified()?).unwrap_or(Timestamp::MIN),
                    about.len(),
                    entry.path(),
                ));
            }
        }
        found.sort_by_key(|(used_at, ..)| std::cmp::Reverse(*used_at));
        let mut kept = 0;
        for (used_at, bytes, path) in found {
            kept += bytes;
            if now.duration_since(used_at) > KEPT || kept > MOST_BYTES {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// A file that goes unless it was renamed.
struct Half(PathBuf);

impl Drop for Half {
    fn drop(&mut self) {
        // Else the next start removes it.
        drop(std::fs::remove_file(&self.0));
    }
}

fn too_large() -> String {
    format!("the archive is larger than {} MiB", LARGEST >> 20)
}

fn full() -> ApiError {
    ApiError::new(StatusCode::INSUFFICIENT_STORAGE, "there is not enough room on this server's disk")
}

fn has_room(folder: &Path) -> bool {
    rustix::fs::statvfs(folder).is_ok_and(|found| found.f_bavail.saturating_mul(found.f_frsize) > RESERVE)
}
