//! Trees: reading files straight from the object database, and making a tree from a tree. Nothing is ever checked out for it.
//!
//! Invariants: a [`Snapshot`] never changes; an edit makes new objects and leaves the old tree as it was; either all edits of
//! a call apply or none; an edit writes ordinary files only, under names that mean the same on every system.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use crate::domain::code::{Edit, Mode, TreeId};

use super::Error;
use super::git::Act;
use super::objects::{Batch, Kind};
use super::path::{RepoPath, is_git_folder, shown};
use super::repository::{Repository, odd_id};

/// Of a name that is refused, in bytes.
const MOST_SHOWN: usize = 200;

/// A file above this is neither read nor edited, in bytes.
pub(super) const MOST_BYTES: u64 = 8 * 1024 * 1024;
/// The list of the entries of one folder, in bytes.
const MOST_FOLDER: u64 = 32 * 1024 * 1024;
/// Edits of one call, and their text in bytes.
const MOST_EDITS: usize = 200;
const MOST_TEXT: usize = 16 * 1024 * 1024;

/// One tree, to read.
#[derive(Clone)]
pub struct Snapshot {
    repository: Arc<Repository>,
    tree: TreeId,
    /// Listed once.
    entries: Arc<OnceLock<Vec<Entry>>>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Snapshot({})", self.tree.short())
    }
}

/// A file, a link or a submodule in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub path: RepoPath,
    /// Never `Absent`; `Folder` only where a folder was asked for.
    pub mode: Mode,
    pub(super) id: String,
}

impl Entry {
    /// Names content and mode: two entries with the same are the same file.
    pub fn content(&self) -> String {
        format!("{:?} {}", self.mode, self.id)
    }
}

/// An entry as it stands in a tree object.
struct Raw {
    mode: u32,
    name: Vec<u8>,
    id: String,
}

impl Raw {
    fn mode(&self) -> Mode {
        mode_of(self.mode)
    }
    fn is_folder(&self) -> bool {
        self.mode() == Mode::Folder
    }
}

/// What git's mode bits mean. Old trees have 100664 and the like: they are files.
pub(super) fn mode_of(bits: u32) -> Mode {
    match bits & 0o170000 {
        0o040000 => Mode::Folder,
        0o120000 => Mode::Symlink,
        0o160000 => Mode::Submodule,
        0o100000 if bits & 0o100 != 0 => Mode::Executable,
        0o100000 => Mode::File,
        _ => Mode::Absent,
    }
}

impl Snapshot {
    pub(super) fn open(repository: Arc<Repository>, tree: &TreeId) -> Result<Self, Error> {
        match repository.objects.info(tree.as_str())? {
            Some((Kind::Tree, _)) => Ok(Self { repository, tree: tree.clone(), entries: Arc::default() }),
            Some(_) => Err(Error::NotFound(format!("object {tree} is no tree"))),
            None => Err(Error::NotFound(format!("the workspace has no tree {tree}"))),
        }
    }

    pub fn tree(&self) -> &TreeId {
        &self.tree
    }

    /// Every file and link, sorted by the bytes of the path. Submodules and folders are not among them.
    ///
    /// Errors: `Refused` when the tree has a name that no file can safely have (`..`, `.git`, absurdly long), `TooLarge`.
    pub fn entries(&self) -> Result<&[Entry], Error> {
        if let Some(entries) = self.entries.get() {
            return Ok(entries);
        }
        let args = ["ls-tree", "-r", "-z", "--full-tree", self.tree.as_str()];
        let output = self.repository.git.output(Act::new(
            "listing the files of the repository",
            &self.repository.folder,
            args,
        ))?;
        let mut entries = Vec::new();
        for record in output.split(|b| *b == 0).filter(|record| !record.is_empty()) {
            let entry = list_entry(record)?;
            if entry.mode != Mode::Submodule {
                entries.push(entry);
            }
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        check_names(&entries)?;
        Ok(self.entries.get_or_init(|| entries))
    }

    /// How many files would have to be written or removed to make the files of `other` of the files of this one.
    /// What cannot be listed is far away.
    pub fn distance(&self, other: &Self) -> usize {
        let (Ok(ours), Ok(theirs)) = (self.entries(), other.entries()) else { return usize::MAX };
        let (mut ours, mut theirs) = (ours.iter().peekable(), theirs.iter().peekable());
        let mut different = 0;
        // Both are sorted by path.
        while let (Some(a), Some(b)) = (ours.peek(), theirs.peek()) {
            match a.path.cmp(&b.path) {
                std::cmp::Ordering::Less => drop(ours.next()),
                std::cmp::Ordering::Greater => drop(theirs.next()),
                std::cmp::Ordering::Equal => {
                    let same = a == b;
                    ours.next();
                    theirs.next();
                    if same {
                        continue;
                    }
                }
            }
            different += 1;
        }
        different + ours.count() + theirs.count()
    }

    /// What stands at a path: a file, a link, a submodule or a folder.
    pub fn entry(&self, path: &RepoPath) -> Result<Option<Entry>, Error> {
        self.repository.objects.with(|batch| look_up(batch, self.tree.as_str(), path))
    }

    /// The content of a file; of a link, the text that it points to.
    ///
    /// Errors: `NotFound`, `Refused` for a folder or submodule, `TooLarge` above `cap` bytes.
    pub fn read(&self, path: &RepoPath, cap: u64) -> Result<Vec<u8>, Error> {
        let Some(entry) = self.entry(path)? else { return Err(not_found(path)) };
        self.read_entry(&entry, cap)
    }

    /// The content of an entry of this snapshot.
    pub(super) fn read_entry(&self, entry: &Entry, cap: u64) -> Result<Vec<u8>, Error> {
        match entry.mode {
            Mode::File | Mode::Executable | Mode::Symlink => self.repository.objects.read(&entry.id, Kind::Blob, cap),
            Mode::Folder => Err(Error::Refused(format!("`{}` is a folder", entry.path))),
            Mode::Submodule | Mode::Absent => {
                Err(Error::Refused(format!("`{}` is a submodule: its files are not here", entry.path)))
            }
        }
        .map_err(|error| match error {
            Error::TooLarge { cap, .. } => Error::TooLarge { what: format!("the bytes of `{}`", entry.path), cap },
            other => other,
        })
    }

    /// Hands a process for many reads to `ask`.
    pub(super) fn reading<T>(&self, ask: impl FnOnce(&mut Batch) -> Result<T, Error>) -> Result<T, Error> {
        self.repository.objects.with(ask)
    }
}

/// A name stands once, and a file has nothing below it: otherwise the tree cannot be a folder of files. Entries are sorted.
fn check_names(entries: &[Entry]) -> Result<(), Error> {
    let refused = |path: &RepoPath| Err(Error::Refused(format!("the repository has two things of the name `{path}`")));
    if let Some(twice) = entries.windows(2).find(|pair| pair[0].path == pair[1].path) {
        return refused(&twice[0].path);
    }
    let mut last = None;
    for entry in entries {
        let folder = entry.path.split().0;
        if folder == last {
            continue;
        }
        let mut above = folder.clone();
        while let Some(path) = above {
            if entries.binary_search_by(|entry| entry.path.cmp(&path)).is_ok() {
                return refused(&path);
            }
            above = path.split().0;
        }
        last = folder;
    }
    Ok(())
}

pub(super) fn not_found(path: &RepoPath) -> Error {
    Error::NotFound(format!("there is no file `{path}`"))
}

/// `<mode> <type> <id>\t<path>`.
fn list_entry(record: &[u8]) -> Result<Entry, Error> {
    let odd = || Error::Git {
        what: "listing the files of the repository".into(),
        message: "git answered something else".into(),
    };
    let tab = record.iter().position(|b| *b == b'\t').ok_or_else(odd)?;
    let head = std::str::from_utf8(&record[..tab]).map_err(|_| odd())?;
    let mut words = head.split(' ');
    let bits = words.next().and_then(|bits| u32::from_str_radix(bits, 8).ok()).ok_or_else(odd)?;
    let id = words.nth(1).ok_or_else(odd)?.to_owned();
    let name = &record[tab + 1..];
    // The beginning says which it is.
    let refused = || {
        let (begins, more) = if name.len() > MOST_SHOWN { (&name[..MOST_SHOWN], "…") } else { (name, "") };
        let begins = shown(begins);
        Error::Refused(format!("the repository has a file with the name `{begins}{more}`, which is not worked on"))
    };
    let path = RepoPath::from_bytes(name).ok_or_else(refused)?;
    if path.parts().any(is_git_folder) || mode_of(bits) == Mode::Absent {
        return Err(refused());
    }
    Ok(Entry { path, mode: mode_of(bits), id })
}

/// Follows a path from a tree, folder by folder.
fn look_up(batch: &mut Batch, root: &str, path: &RepoPath) -> Result<Option<Entry>, Error> {
    let mut at = root.to_owned();
    let mut parts = path.parts().peekable();
    while let Some(part) = parts.next() {
        let content = batch.read(&at, Kind::Tree, MOST_FOLDER)?;
        let Some(found) = parse_tree(&content, root.len() / 2)?.into_iter().find(|raw| raw.name == part) else {
            return Ok(None);
        };
        if parts.peek().is_none() {
            return Ok(Some(Entry { path: path.clone(), mode: found.mode(), id: found.id }));
        }
        if !found.is_folder() {
            return Ok(None);
        }
        at = found.id;
    }
    Ok(None)
}

/// The entries of a tree object: `<mode> <name>\0<id>`, again and again. `id_bytes` is 20 or 32.
fn parse_tree(mut bytes: &[u8], id_bytes: usize) -> Result<Vec<Raw>, Error> {
    let odd = || Error::Refused("the repository has a broken tree".into());
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|b| *b == b' ').ok_or_else(odd)?;
        let nul = bytes.iter().position(|b| *b == 0).filter(|nul| *nul > space).ok_or_else(odd)?;
        let mode = std::str::from_utf8(&bytes[..space])
            .ok()
            .and_then(|mode| u32::from_str_radix(mode, 8).ok())
            .ok_or_else(odd)?;
        let id = bytes.get(nul + 1..nul + 1 + id_bytes).ok_or_else(odd)?;
        entries.push(Raw {
            mode,
            name: bytes[space + 1..nul].to_owned(),
            id: id.iter().map(|b| format!("{b:02x}")).collect(),
        });
        bytes = &bytes[nul + 1 + id_bytes..];
    }
    Ok(entries)
}

/// What an edit made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edited {
    pub tree: TreeId,
    /// The files that differ now, sorted.
    pub changed: Vec<String>,
}

/// What [`Repository::pick`] takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pick {
    /// The file as the other tree has it; gone where that has none.
    AsIn(String),
    /// This text for a file that is there.
    Text { path: String, content: String },
}

/// What a path holds after the edits so far.
#[derive(Clone)]
enum After {
    Gone,
    /// An object that is there already.
    Object {
        mode: u32,
        id: String,
    },
    Text {
        mode: u32,
        text: Vec<u8>,
    },
}

impl Repository {
    /// Applies edits in their order; all or none.
    ///
    /// Errors (texts for the model that asked): `NotFound`, `Refused` when a passage is not there the expected number of times, a
    /// name may not be written, or something stands in the way; `TooLarge`.
    pub fn edit(self: &Arc<Self>, tree: &TreeId, edits: &[Edit]) -> Result<Edited, Error> {
        if edits.len() > MOST_EDITS {
            return Err(Error::TooLarge { what: "edits in one call".into(), cap: MOST_EDITS as u64 });
        }
        let text: usize = edits
            .iter()
            .map(|edit| match edit {
                Edit::Replace { old, new, .. } => old.len() + new.len(),
                Edit::Write { content, .. } => content.len(),
                Edit::Delete { .. } | Edit::Rename { .. } => 0,
            })
            .sum();
        if text > MOST_TEXT {
            return Err(Error::TooLarge { what: "bytes of text in one call".into(), cap: MOST_TEXT as u64 });
        }
        let mut overlay = Overlay { base: self.snapshot(tree)?, after: BTreeMap::new() };
        for edit in edits {
            overlay.apply(edit)?;
        }
        let changed: Vec<String> = overlay.after.keys().map(ToString::to_string).collect();
        Ok(Edited { tree: self.write_overlay(overlay)?, changed })
    }

    /// `base` with some of its files as in `other`, whatever they are: contents and modes are taken over as objects.
    ///
    /// Errors: `NotFound` for a path that cannot be one, `TooLarge`.
    pub fn pick(self: &Arc<Self>, base: &TreeId, other: &TreeId, picks: &[Pick]) -> Result<TreeId, Error> {
        let other = self.snapshot(other)?;
        let mut overlay = Overlay { base: self.snapshot(base)?, after: BTreeMap::new() };
        for pick in picks {
            let (path, after) = match pick {
                Pick::AsIn(path) => {
                    let path = RepoPath::parse(path)?;
                    let entry = other.entry(&path)?.filter(|entry| entry.mode != Mode::Folder);
                    let after =
                        entry.map_or(After::Gone, |entry| After::Object { mode: bits_of(entry.mode), id: entry.id });
                    (path, after)
                }
                Pick::Text { path, content } => {
                    let path = RepoPath::parse(path)?;
                    let Some((mode, _)) = overlay.find(&path)? else { return Err(not_found(&path)) };
                    let mode = ordinary(&path, mode)?;
                    (path, After::Text { mode, text: content.as_bytes().to_vec() })
                }
            };
            overlay.after.insert(path, after);
        }
        self.write_overlay(overlay)
    }

    fn write_overlay(&self, overlay: Overlay) -> Result<TreeId, Error> {
        let mut folder = Folder::default();
        for (path, after) in overlay.after {
            let parts: Vec<Vec<u8>> = path.parts().map(<[u8]>::to_vec).collect();
            folder.put(&parts, after);
        }
        let new = match self.write_folder(Some(overlay.base.tree.as_str()), folder)? {
            Some(id) => id,
            // Git's empty tree, whatever the hash.
            None => self.one_id(Act::new("writing a tree", self.folder(), ["mktree", "-z"]))?,
        };
        new.parse().map_err(|_| odd_id())
    }

    /// Writes a folder with its changes; `None` when nothing is left in it.
    fn write_folder(&self, base: Option<&str>, folder: Folder) -> Result<Option<String>, Error> {
        let mut entries: BTreeMap<Vec<u8>, (u32, String)> = BTreeMap::new();
        if let Some(base) = base {
            let content = self.objects.read(base, Kind::Tree, MOST_FOLDER)?;
            let raw = parse_tree(&content, base.len() / 2)?;
            let count = raw.len();
            entries.extend(raw.into_iter().map(|raw| (raw.name, (raw.mode, raw.id))));
            if entries.len() != count {
                return Err(Error::Refused("the repository has two things of the same name in one folder".into()));
            }
        }
        for (name, node) in folder.nodes {
            let new = match node {
                Node::After(After::Gone) => None,
                Node::After(After::Object { mode, id }) => Some((mode, id)),
                Node::After(After::Text { mode, text }) => {
                    let mut act =
                        Act::new("writing a file", self.folder(), ["hash-object", "-w", "--stdin", "--no-filters"]);
                    act.input = &text;
                    Some((mode, self.one_id(act)?))
                }
                Node::Folder(inner) => {
                    let below =
                        entries.get(&name).filter(|(mode, _)| mode_of(*mode) == Mode::Folder).map(|(_, id)| id.clone());
                    self.write_folder(below.as_deref(), inner)?.map(|id| (0o040000, id))
                }
            };
            match new {
                Some(new) => {
                    if !entries.contains_key(&name) {
                        let folded = fold_case(&name);
                        if let Some(other) = entries.keys().find(|other| fold_case(other) == folded) {
                            return Err(Error::Refused(format!(
                                "`{}` and `{}` differ only in upper and lower case, which not every system keeps apart",
                                shown(&name),
                                shown(other)
                            )));
                        }
                    }
                    entries.insert(name, new);
                }
                None => {
                    entries.remove(&name);
                }
            }
        }
        if entries.is_empty() {
            return Ok(None);
        }
        let mut input = Vec::new();
        for (name, (mode, id)) in entries {
            let kind = match mode_of(mode) {
                Mode::Folder => "tree",
                Mode::Submodule => "commit",
                _ => "blob",
            };
            input.extend(format!("{mode:o} {kind} {id}\t").as_bytes());
            input.extend(&name);
            input.push(0);
        }
        let mut act = Act::new("writing a folder", self.folder(), ["mktree", "-z"]);
        act.input = &input;
        self.one_id(act).map(Some)
    }
}

fn fold_case(name: &[u8]) -> String {
    String::from_utf8_lossy(name).to_lowercase()
}

/// Changes below one folder.
#[derive(Default)]
struct Folder {
    nodes: BTreeMap<Vec<u8>, Node>,
}

enum Node {
    After(After),
    Folder(Folder),
}

impl Folder {
    /// A deletion never hides changes below the same name: a file that became a folder is both, the folder wins.
    fn put(&mut self, parts: &[Vec<u8>], after: After) {
        match parts {
            [] => {}
            [name] => match self.nodes.get(name) {
                Some(Node::Folder(_)) if matches!(after, After::Gone) => {}
                _ => drop(self.nodes.insert(name.clone(), Node::After(after))),
            },
            [name, rest @ ..] => {
                // A folder that became a file: what was below it went with it.
                if matches!(after, After::Gone)
                    && matches!(self.nodes.get(name), Some(Node::After(After::Object { .. } | After::Text { .. })))
                {
                    return;
                }
                let node = self.nodes.entry(name.clone()).or_insert_with(|| Node::Folder(Self::default()));
                if !matches!(node, Node::Folder(_)) {
                    *node = Node::Folder(Self::default());
                }
                if let Node::Folder(folder) = node {
                    folder.put(rest, after);
                }
            }
        }
    }
}

/// A tree with edits on top.
struct Overlay {
    base: Snapshot,
    after: BTreeMap<RepoPath, After>,
}

impl Overlay {
    fn apply(&mut self, edit: &Edit) -> Result<(), Error> {
        match edit {
            Edit::Replace { path, old, new, count } => self.replace(&RepoPath::parse(path)?, old, new, *count),
            Edit::Write { path, content } => {
                let existing = RepoPath::parse(path)?;
                if let Some(found) = self.find(&existing)? {
                    let mode = ordinary(&existing, found.0)?;
                    self.after.insert(existing, After::Text { mode, text: content.as_bytes().to_vec() });
                    return Ok(());
                }
                let path = self.free(path)?;
                self.after.insert(path, After::Text { mode: 0o100644, text: content.as_bytes().to_vec() });
                Ok(())
            }
            Edit::Delete { path } => {
                let path = RepoPath::parse(path)?;
                match self.find(&path)? {
                    Some((bits, _)) if mode_of(bits) == Mode::Folder => {
                        Err(Error::Refused(format!("`{path}` is a folder: delete its files one by one")))
                    }
                    Some(_) => {
                        self.after.insert(path, After::Gone);
                        Ok(())
                    }
                    None => Err(not_found(&path)),
                }
            }
            Edit::Rename { from, to } => {
                let from = RepoPath::parse(from)?;
                let Some((mode, after)) = self.find(&from)? else { return Err(not_found(&from)) };
                ordinary(&from, mode)?;
                // Gone first: a new name that differs only in case, or that lies below the old one, is free then.
                self.after.insert(from.clone(), After::Gone);
                let to = self.free(to)?;
                self.after.insert(to, after);
                Ok(())
            }
        }
    }

    fn replace(&mut self, path: &RepoPath, old: &str, new: &str, count: u32) -> Result<(), Error> {
        let Some((mode, after)) = self.find(path)? else { return Err(not_found(path)) };
        let mode = ordinary(path, mode)?;
        let text = match after {
            After::Text { text, .. } => text,
            After::Object { id, .. } => self.base.repository.objects.read(&id, Kind::Blob, MOST_BYTES)?,
            After::Gone => return Err(not_found(path)),
        };
        if old.is_empty() {
            return Err(Error::Refused("the passage to replace is empty".into()));
        }
        if old == new {
            return Err(Error::Refused("the passage and what replaces it are the same".into()));
        }
        let found: Vec<usize> = memchr::memmem::find_iter(&text, old.as_bytes()).take(10_001).collect();
        if found.len() as u64 != u64::from(count) {
            return Err(Error::Refused(wrong_count(path, &text, old, &found, count)));
        }
        let size = text.len() + found.len() * new.len();
        if size as u64 > MOST_BYTES {
            return Err(Error::TooLarge { what: format!("the bytes of `{path}`"), cap: MOST_BYTES });
        }
        let mut out = Vec::with_capacity(size);
        let mut at = 0;
        for start in found {
            out.extend(&text[at..start]);
            out.extend(new.as_bytes());
            at = start + old.len();
        }
        out.extend(&text[at..]);
        self.after.insert(path.clone(), After::Text { mode, text: out });
        Ok(())
    }

    /// What stands at a path now, with its mode bits; a folder has no content.
    fn find(&self, path: &RepoPath) -> Result<Option<(u32, After)>, Error> {
        match self.after.get(path) {
            Some(After::Gone) => return Ok(self.is_folder(path)?.then_some((0o040000, After::Gone))),
            Some(after @ (After::Object { mode, .. } | After::Text { mode, .. })) => {
                return Ok(Some((*mode, after.clone())));
            }
            None => {}
        }
        if self.is_folder(path)? {
            return Ok(Some((0o040000, After::Gone)));
        }
        Ok(match self.base.entry(path)? {
            Some(entry) if entry.mode == Mode::Folder => None,
            Some(entry) => {
                let bits = bits_of(entry.mode);
                Some((bits, After::Object { mode: bits, id: entry.id }))
            }
            None => None,
        })
    }

    /// Whether anything is left or new below this path.
    fn is_folder(&self, path: &RepoPath) -> Result<bool, Error> {
        let prefix = [path.as_bytes(), b"/"].concat();
        let below: Vec<_> = self.after.iter().filter(|(path, _)| path.as_bytes().starts_with(&prefix)).collect();
        if below.iter().any(|(_, after)| !matches!(after, After::Gone)) {
            return Ok(true);
        }
        match self.base.entry(path)? {
            Some(entry) if entry.mode == Mode::Folder && below.is_empty() => Ok(true),
            Some(entry) if entry.mode == Mode::Folder => Ok(self
                .base
                .entries()?
                .iter()
                .any(|entry| entry.path.as_bytes().starts_with(&prefix) && !self.after.contains_key(&entry.path))),
            _ => Ok(false),
        }
    }

    /// A path that may be written and at which nothing stands.
    fn free(&self, text: &str) -> Result<RepoPath, Error> {
        let path = RepoPath::for_writing(text)?;
        if let Some((mode, _)) = self.find(&path)? {
            let what = if mode_of(mode) == Mode::Folder { "a folder" } else { "a file" };
            return Err(Error::Refused(format!("`{path}` is {what} already")));
        }
        let (mut above, _) = path.split();
        while let Some(folder) = above {
            if let Some((mode, _)) = self.find(&folder)?
                && mode_of(mode) != Mode::Folder
            {
                return Err(Error::Refused(format!("`{folder}` is a file, so nothing can lie below it")));
            }
            above = folder.split().0;
        }
        Ok(path)
    }
}

/// The bits under which git keeps an entry that is no folder.
fn bits_of(mode: Mode) -> u32 {
    match mode {
        Mode::Executable => 0o100755,
        Mode::Symlink => 0o120000,
        Mode::Submodule => 0o160000,
        Mode::File | Mode::Folder | Mode::Absent => 0o100644,
    }
}

/// The bits of a file whose content may be changed.
fn ordinary(path: &RepoPath, bits: u32) -> Result<u32, Error> {
    let why = match mode_of(bits) {
        Mode::File => return Ok(0o100644),
        Mode::Executable => return Ok(0o100755),
        Mode::Symlink => "a symbolic link",
        Mode::Submodule => "a submodule",
        Mode::Folder => "a folder",
        Mode::Absent => "no file",
    };
    Err(Error::Refused(format!("`{path}` is {why}, which cannot be edited")))
}

/// Says what was found instead, so that the next try can be right.
fn wrong_count(path: &RepoPath, text: &[u8], old: &str, found: &[usize], count: u32) -> String {
    if found.is_empty() {
        let plain = String::from_utf8_lossy(text);
        let mut hint = "";
        if old.contains('\n') && !old.contains("\r\n") && plain.contains("\r\n") {
            hint = "; its lines end with CR LF";
        } else {
            let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            let wanted = squeeze(old);
            if !wanted.is_empty() && squeeze(&plain).contains(&wanted) {
                hint = "; it is there with other white space: read the file again and copy the passage exactly";
            }
        }
        return format!("the passage is not in `{path}`{hint}");
    }
    let lines: Vec<String> =
        found.iter().take(10).map(|at| (memchr::memchr_iter(b'\n', &text[..*at]).count() + 1).to_string()).collect();
    let more = if found.len() > 10 { ", …" } else { "" };
    format!(
        "the passage is in `{path}` {} times, expected was {count} (lines {}{more}): take in more of what stands around it, or say the count",
        found.len(),
        lines.join(", ")
    )
}
