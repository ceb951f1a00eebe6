//! Which templates there are: names, tags and builds, in one file that every process over this folder shares.
//!
//! Whoever changes it holds its lock, reads it anew, and puts a whole new file in its place. Only what is over stands in it: a build
//! that is at work is its server's alone, so one that stands here as begun and is nobody's was lost with its server.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::base::hash::Hash;
use crate::clients::e2b::wire::{BuildReason, BuildStatus};

/// Builds of one template that are remembered.
const MOST_BUILDS: usize = 20;
/// Templates that are remembered.
const MOST_TEMPLATES: usize = 2000;
pub(super) const DEFAULT_TAG: &str = "default";

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Index {
    pub templates: BTreeMap<String, Record>,
    pub builds: BTreeMap<String, BuildRecord>,
}

/// A template.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub name: Option<String>,
    #[serde(default)]
    pub public: bool,
    /// The sandbox that it is a snapshot of.
    #[serde(default)]
    pub source: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub tags: BTreeMap<String, Tag>,
    pub cpu_count: u32,
    pub memory_mb: u64,
}

/// What a tag names: a build that is ready.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Tag {
    pub build: String,
    pub assigned_at: Timestamp,
}

/// A build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct BuildRecord {
    pub template: String,
    pub status: BuildStatus,
    pub tags: Vec<String>,
    /// Where its files are, once it is ready. Builds of the same may share one.
    pub image: Option<String>,
    /// What it was made of.
    pub key: Option<Hash>,
    pub cpu_count: u32,
    pub memory_mb: u64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    pub reason: Option<BuildReason>,
}

impl Index {
    /// The template with this name or id; a tag behind it says nothing here.
    pub fn template(&self, name: &str) -> Option<(&String, &Record)> {
        let (name, _) = split(name);
        let by_name = || self.templates.iter().find(|(_, record)| record.name.as_deref() == Some(name));
        self.templates.get_key_value(name).or_else(by_name)
    }

    /// The template and its build that `NAME[:TAG]` means.
    pub fn tagged(&self, name: &str) -> Option<(&String, &Record, &String, &BuildRecord)> {
        let (name, tag) = split(name);
        let (id, record) = self.template(name)?;
        let tag = record.tags.get(tag.unwrap_or(DEFAULT_TAG))?;
        let (build, found) = self.builds.get_key_value(&tag.build)?;
        Some((id, record, build, found))
    }

    /// Images that a tag of some template leads to.
    pub fn images(&self) -> BTreeSet<String> {
        let tagged = self.templates.values().flat_map(|record| record.tags.values());
        tagged.filter_map(|tag| self.builds.get(&tag.build)?.image.clone()).collect()
    }

    /// Ready builds of the same, the newest first.
    pub fn same(&self, key: Hash) -> Vec<(&String, &BuildRecord)> {
        let ready = |build: &BuildRecord| build.status == BuildStatus::Ready && build.key == Some(key);
        let mut found: Vec<_> = self.builds.iter().filter(|(_, build)| ready(build)).collect();
        found.sort_by_key(|(_, build)| std::cmp::Reverse(build.finished_at));
        found
    }

    /// A template without a name has its id as the only one.
    pub fn remove(&mut self, id: &str) -> bool {
        self.builds.retain(|_, build| build.template != id);
        self.templates.remove(id).is_some()
    }

    /// Forgets what leads to images that are gone, and builds that nobody will ask for.
    pub fn forget(&mut self, gone: &[String], now: Timestamp) {
        for build in self.builds.values_mut() {
            if build.image.as_ref().is_some_and(|image| gone.contains(image)) {
                build.image = None;
            }
        }
        let old = now.checked_sub(jiff::SignedDuration::from_hours(24)).unwrap_or(Timestamp::MIN);
        let builds = &mut self.builds;
        self.templates.retain(|id, record| {
            record.tags.retain(|_, tag| builds.get(&tag.build).is_some_and(|build| build.image.is_some()));
            let mut own: Vec<_> = builds.iter().filter(|(_, build)| build.template == *id).collect();
            let lives = !record.tags.is_empty() || own.iter().any(|(_, build)| build.created_at > old);
            own.sort_by_key(|(_, build)| std::cmp::Reverse(build.created_at));
            let tagged: BTreeSet<_> = record.tags.values().map(|tag| tag.build.clone()).collect();
            let late = own.iter().skip(MOST_BUILDS).map(|(build, _)| (*build).clone());
            let late: Vec<_> = late.filter(|build| !tagged.contains(build)).collect();
            late.iter().for_each(|build| drop(builds.remove(build)));
            lives
        });
        let templates = &self.templates;
        self.builds.retain(|_, build| templates.contains_key(&build.template));
    }

    pub fn is_full(&self) -> bool {
        self.templates.len() >= MOST_TEMPLATES
    }
}

/// `NAME[:TAG]`.
pub(super) fn split(name: &str) -> (&str, Option<&str>) {
    match name.split_once(':') {
        Some((name, tag)) => (name, Some(tag)),
        None => (name, None),
    }
}

/// What a file was when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    seconds: i64,
    nanoseconds: i64,
    bytes: u64,
}

#[derive(Debug)]
pub(super) struct Catalogue {
    path: PathBuf,
    read: Mutex<Option<(Stamp, Arc<Index>)>>,
}

impl Catalogue {
    pub fn open(folder: &Path) -> io::Result<Self> {
        let this = Self { path: folder.join("index.json"), read: Mutex::new(None) };
        this.read()?;
        Ok(this)
    }

    /// As it is now. Costs a look at the file where nobody has changed it.
    pub fn read(&self) -> io::Result<Arc<Index>> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Arc::default()),
            Err(error) => return Err(error),
        };
        let found = file.metadata()?;
        let stamp =
            Stamp { inode: found.ino(), seconds: found.mtime(), nanoseconds: found.mtime_nsec(), bytes: found.len() };
        if let Some((then, index)) = &*read
            && *then == stamp
        {
            return Ok(index.clone());
        }
        // What another version wrote, or a machine that lost power, is begun anew; images that nobody refers to are pruned.
        let index = serde_json::from_reader(io::BufReader::new(file)).unwrap_or_else(|error| {
            tracing::warn!(%error, file = %self.path.display(), "the list of templates cannot be read and is begun anew");
            Index::default()
        });
        let index = Arc::new(index);
        *read = Some((stamp, index.clone()));
        Ok(index)
    }

    /// Changes it. Blocking, also for other processes that do.
    pub fn change<T>(&self, change: impl FnOnce(&mut Index) -> T) -> io::Result<T> {
        let lock = File::options().write(true).create(true).truncate(false).open(self.path.with_extension("lock"))?;
        lock.lock()?;
        let before = self.read()?;
        let mut index = (*before).clone();
        let answer = change(&mut index);
        if index != *before {
            let new = self.path.with_extension("new");
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec(&index)?)?;
            file.sync_all()?;
            std::fs::rename(&new, &self.path)?;
        }
        Ok(answer)
    }
}
