//! Which template was made for which environment: files beside each other, shared by every process that uses the folder.
//!
//! A record is written whole, after its template is ready. Whoever makes one holds the lock of its environment; a process that dies holds
//! nothing. A template can go away at its provider's any time; then its record goes as well and it is made again.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::base::hash::Hash;
use crate::domain::code::TreeId;
use crate::domain::sandbox::CommandReceipt;

use super::own::make_dir;

/// How often a lock that somebody else holds is tried.
const TRY_AGAIN: Duration = Duration::from_millis(40);

/// A template that was built.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub environment: Hash,
    /// `nightcrew-…`, by which sandboxes are made from it.
    pub name: String,
    /// As its provider names it.
    pub template: String,
    /// The tree whose files are in it.
    pub tree: TreeId,
    pub repository: String,
    pub made_at: Timestamp,
    /// Of the setup commands.
    pub receipts: Vec<CommandReceipt>,
}

/// A lock on one environment, let go when it is dropped.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held for its end")] File);

#[derive(Clone, Debug)]
pub(super) struct Records {
    folder: PathBuf,
}

impl Records {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.join("templates") }
    }

    fn file(&self, hash: &Hash, kind: &str) -> PathBuf {
        self.folder.join(format!("{hash}.{kind}"))
    }

    /// What is known, if it was made at or after `oldest`. Blocking.
    pub(super) fn find(&self, hash: &Hash, oldest: Option<Timestamp>) -> io::Result<Option<Record>> {
        let text = match std::fs::read(self.file(hash, "json")) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // What another version wrote is made anew.
        let record: Option<Record> = serde_json::from_slice(&text).ok();
        Ok(record.filter(|record| record.environment == *hash && oldest.is_none_or(|oldest| record.made_at >= oldest)))
    }

    /// For the holder of the lock. Blocking.
    pub(super) fn keep(&self, record: &Record) -> io::Result<()> {
        let half = self.file(&record.environment, "half");
        std::fs::write(&half, serde_json::to_vec(record)?)?;
        std::fs::rename(half, self.file(&record.environment, "json"))
    }

    /// The template of this record is not there any more; one that was made since stays. Blocking.
    pub(super) fn forget(&self, gone: &Record) -> io::Result<()> {
        if self.find(&gone.environment, None)?.is_some_and(|known| known.name == gone.name) {
            std::fs::remove_file(self.file(&gone.environment, "json"))?;
        }
        Ok(())
    }

    /// Waits until nobody else makes it. Cancel safe.
    pub(super) async fn lock(&self, hash: &Hash) -> io::Result<Lock> {
        make_dir(&self.folder)?;
        let file = File::options().write(true).create(true).truncate(false).open(self.file(hash, "lock"))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock(file)),
                Err(std::fs::TryLockError::WouldBlock) => tokio::time::sleep(TRY_AGAIN).await,
                Err(std::fs::TryLockError::Error(error)) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_record_is_found_while_it_is_fresh_and_goes_with_its_template() {
        let root = tempfile::tempdir().unwrap();
        let records = Records::new(root.path());
        let at = |second| Timestamp::from_second(second).unwrap();
        let record = Record {
            environment: Hash::of("environment"),
            name: "nightcrew-1".into(),
            template: "t1".into(),
            tree: "a".repeat(40).parse().unwrap(),
            repository: "r".into(),
            made_at: at(100),
            receipts: Vec::new(),
        };
        assert_eq!(records.find(&record.environment, None).unwrap(), None);
        let held = records.lock(&record.environment).await.unwrap();
        records.keep(&record).unwrap();
        let waits = tokio::time::timeout(Duration::from_millis(100), records.lock(&record.environment)).await;
        assert!(waits.is_err());
        drop(held);
        drop(records.lock(&record.environment).await.unwrap());
        assert_eq!(records.find(&record.environment, Some(at(100))).unwrap(), Some(record.clone()));
        assert_eq!(records.find(&record.environment, Some(at(101))).unwrap(), None);
        let newer = Record { name: "nightcrew-2".into(), ..record.clone() };
        records.keep(&newer).unwrap();
        records.forget(&record).unwrap();
        assert_eq!(records.find(&record.environment, None).unwrap(), Some(newer.clone()));
        records.forget(&newer).unwrap();
        assert_eq!(records.find(&record.environment, None).unwrap(), None);
        std::fs::write(records.file(&record.environment, "json"), "{").unwrap();
        assert_eq!(records.find(&record.environment, None).unwrap(), None, "half a record is none");
    }
}
