//! Trees written out as files for reading: kept, shared, and turned from one tree into the next.
//!
//! An agent's edit makes a new tree that differs from the last by a file or two. So a copy that nobody reads at the moment is
//! brought to the tree that is wanted, by writing what differs; copies are made whole only when there is none to start from.
//! Readers of one tree share one copy; a copy that is read is never touched, so agents on different trees do not see each other.
//! At most [`MOST`] copies are kept. When all are being read, or a repository cannot be written out, the caller reads the tree
//! itself, which answers the same.
//!
//! Only the host writes here: no sandbox ever sees one of these folders, so what stands in them can be believed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::domain::code::TreeId;
use crate::workspace::{Code, Directory, Error, Repository, Snapshot, Worktree, Worktrees};

/// Copies kept at a time, over all repositories.
const MOST: usize = 6;
/// Lists of files kept at a time.
const MOST_SNAPSHOTS: usize = 16;
/// Another copy is made rather than to change this share of an idle one, as long as there is room.
const MUCH: f64 = 0.2;

/// Made once per process.
#[derive(Debug)]
pub(super) struct Shelf {
    worktrees: Arc<Worktrees>,
    state: Mutex<State>,
    /// Something that others wait for has been made, or could not be.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    kept: Vec<Kept>,
    /// Trees that somebody is writing at this moment.
    making: Vec<(PathBuf, TreeId)>,
    snapshots: Vec<(PathBuf, Snapshot)>,
    /// Repositories that could not be written out: too large, a full disk. It is not tried again at every look.
    unfit: BTreeSet<PathBuf>,
    /// Grows with every use.
    clock: u64,
}

#[derive(Debug)]
struct Kept {
    repository: PathBuf,
    snapshot: Snapshot,
    copy: Arc<Copy>,
    used: u64,
}

impl Kept {
    fn is(&self, repository: &Path, tree: &TreeId) -> bool {
        self.repository == repository && self.snapshot.tree() == tree
    }

    /// References are handed out under the lock only, so a copy that is idle stays so as long as the lock is held.
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.copy) == 1
    }
}

/// A tree as files, for reading. As long as it is held, it stays what it is.
#[derive(Debug)]
pub(super) struct Copy {
    /// In front: closed before the folder is removed.
    code: Code,
    worktree: Worktree,
}

impl Copy {
    pub fn code(&self) -> &Code {
        &self.code
    }
}

/// What to do for a tree that is not there.
enum Plan {
    Ready(Arc<Copy>),
    Change(Box<Kept>),
    /// After this one is gone.
    Make(Option<Box<Kept>>),
    /// Everything is being read.
    Full,
}

impl Shelf {
    pub fn new(worktrees: Arc<Worktrees>) -> Self {
        Self { worktrees, state: Mutex::default(), changed: Condvar::new() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A tree to read, whose list of files is made once. Blocking.
    pub fn snapshot(&self, repository: &Arc<Repository>, tree: &TreeId) -> Result<Snapshot, Error> {
        let place = repository.folder();
        let known = self.state().snapshots.iter().find(|(p, s)| p == place && s.tree() == tree).map(|(_, s)| s.clone());
        if let Some(snapshot) = known {
            return Ok(snapshot);
        }
        let snapshot = repository.snapshot(tree)?;
        let mut state = self.state();
        state.snapshots.insert(0, (place.to_owned(), snapshot.clone()));
        state.snapshots.truncate(MOST_SNAPSHOTS);
        Ok(snapshot)
    }

    /// The tree as files. `None`: every copy that may be kept is being read, or the repository could not be written out before.
    /// Blocking.
    ///
    /// Errors: those of writing files, once for a repository; the tree itself may still be read.
    pub fn copy(&self, repository: &Arc<Repository>, tree: &TreeId) -> Result<Option<Arc<Copy>>, Error> {
        let place = repository.folder().to_owned();
        if self.state().unfit.contains(&place) {
            return Ok(None);
        }
        let snapshot = self.snapshot(repository, tree)?;
        // Outside of the lock: it may list the files.
        snapshot.entries()?;
        let making = (place.clone(), tree.clone());
        let plan = {
            let mut state = self.state();
            while state.making.contains(&making) {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let plan = state.plan(&place, &snapshot);
            match plan {
                Plan::Ready(copy) => return Ok(Some(copy)),
                Plan::Full => return Ok(None),
                Plan::Change(_) | Plan::Make(_) => state.making.push(making.clone()),
            }
            plan
        };
        let _making = Making { shelf: self, making: &making };
        let made = match plan {
            Plan::Ready(copy) => return Ok(Some(copy)),
            Plan::Full => return Ok(None),
            Plan::Make(instead) => {
                // Outside of the lock: removing many files takes a while.
                drop(instead);
                self.worktrees.fresh_of(&snapshot)
            }
            Plan::Change(kept) => change(*kept, &snapshot).or_else(|error| {
                // In between it is worth nothing; it has been thrown away.
                tracing::warn!(%error, "a copy of the code could not be brought to another tree; it is made anew");
                self.worktrees.fresh_of(&snapshot)
            }),
        };
        let worktree = match made {
            Ok(worktree) => worktree,
            Err(error) => {
                self.state().unfit.insert(place);
                return Err(error);
            }
        };
        let copy = Arc::new(Copy { code: Code::Directory(Directory::open(worktree.path())?), worktree });
        let mut state = self.state();
        state.clock += 1;
        let used = state.clock;
        state.kept.push(Kept { repository: place, snapshot, copy: copy.clone(), used });
        Ok(Some(copy))
    }

    /// How many copies there are.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.state().kept.len()
    }
}

/// Others may go on when this goes, also after a failure or a panic.
struct Making<'a> {
    shelf: &'a Shelf,
    making: &'a (PathBuf, TreeId),
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.shelf.state().making.retain(|other| other != self.making);
        self.shelf.changed.notify_all();
    }
}

impl State {
    fn plan(&mut self, repository: &Path, wanted: &Snapshot) -> Plan {
        self.clock += 1;
        if let Some(kept) = self.kept.iter_mut().find(|kept| kept.is(repository, wanted.tree())) {
            kept.used = self.clock;
            return Plan::Ready(kept.copy.clone());
        }
        let room = self.kept.len() + self.making.len() < MOST;
        let idle = || self.kept.iter().enumerate().filter(|(_, kept)| kept.is_idle());
        let near = idle()
            .filter(|(_, kept)| kept.repository == repository)
            .map(|(at, kept)| (kept.snapshot.distance(wanted), at))
            .min();
        let size = wanted.entries().map_or(0, <[_]>::len);
        match near {
            Some((far, at)) if !room || far as f64 <= MUCH * size as f64 || far <= 16 => {
                Plan::Change(Box::new(self.kept.swap_remove(at)))
            }
            _ if room => Plan::Make(None),
            _ => match idle().min_by_key(|(_, kept)| kept.used).map(|(at, _)| at) {
                // Of another repository: nothing of it can be used.
                Some(at) => Plan::Make(Some(Box::new(self.kept.swap_remove(at)))),
                None => Plan::Full,
            },
        }
    }
}

/// Brings an idle copy to another tree.
fn change(kept: Kept, wanted: &Snapshot) -> Result<Worktree, Error> {
    let Kept { snapshot, copy, .. } = kept;
    let Some(copy) = Arc::into_inner(copy) else {
        return Err(Error::Refused("the copy is being read".into()));
    };
    let Copy { code, mut worktree } = copy;
    drop(code);
    worktree.change(&snapshot, wanted)?;
    Ok(worktree)
}

#[cfg(test)]
mod tests {
    use super::super::testing::repository;
    use super::*;
    use crate::domain::code::Edit;
    use crate::workspace::ReadInput;

    struct Place {
        folders: Vec<tempfile::TempDir>,
        shelf: Shelf,
        repositories: Vec<(Arc<Repository>, TreeId)>,
    }

    /// Two repositories of fifty files each.
    fn place() -> Place {
        let own = tempfile::tempdir().unwrap();
        let worktrees = Worktrees::open(&own.path().join("worktrees")).unwrap();
        let (mut folders, mut repositories) = (vec![own], Vec::new());
        for name in ["one", "two"] {
            let files: Vec<_> = (0..50).map(|n| (format!("{n}.txt"), format!("{name} {n}\n"))).collect();
            let files: Vec<_> = files.iter().map(|(path, content)| (path.as_str(), content.as_str())).collect();
            let (folder, repository, tree) = repository(&files);
            folders.push(folder);
            repositories.push((repository, tree));
        }
        Place { shelf: Shelf::new(Arc::new(worktrees)), repositories, folders }
    }

    fn edit(repository: &Arc<Repository>, tree: &TreeId, content: &str) -> TreeId {
        let write = Edit::Write { path: "0.txt".into(), content: content.into() };
        repository.edit(tree, &[write]).unwrap().tree
    }

    fn first(copy: &Copy) -> String {
        copy.code().read(&ReadInput { path: "0.txt".into(), ..ReadInput::default() }).unwrap()
    }

    #[test]
    fn an_edit_changes_the_copy_that_nobody_reads_and_never_one_that_is_read() {
        let place = place();
        let (one, base) = &place.repositories[0];
        let copy = place.shelf.copy(one, base).unwrap().unwrap();
        let folder = copy.worktree.path().to_owned();
        drop(copy);
        let edited = edit(one, base, "edited\n");
        let copy = place.shelf.copy(one, &edited).unwrap().unwrap();
        assert_eq!((copy.worktree.path(), place.shelf.len()), (folder.as_path(), 1));
        assert_eq!(first(&copy), "1: edited\n[1 lines in all]");
        // The first one is still being read.
        let other = place.shelf.copy(one, base).unwrap().unwrap();
        assert_eq!((first(&other), place.shelf.len()), ("1: one 0\n[1 lines in all]".to_owned(), 2));
        assert_eq!(first(&copy), "1: edited\n[1 lines in all]");
        // Two that read the same share it.
        let again = place.shelf.copy(one, base).unwrap().unwrap();
        assert!(Arc::ptr_eq(&other, &again));
    }

    #[test]
    fn there_are_never_more_copies_than_may_be_and_idle_ones_make_room() {
        let place = place();
        let (one, base) = &place.repositories[0];
        let mut trees = vec![base.clone()];
        trees.extend((1..=MOST).map(|n| edit(one, base, &format!("{n}\n"))));
        let mut held: Vec<_> = trees[..MOST].iter().map(|tree| place.shelf.copy(one, tree).unwrap().unwrap()).collect();
        assert!(place.shelf.copy(one, &trees[MOST]).unwrap().is_none());
        let (two, other) = &place.repositories[1];
        assert!(place.shelf.copy(two, other).unwrap().is_none());
        let gone = held.remove(2).worktree.path().to_owned();
        assert_eq!(first(&place.shelf.copy(two, other).unwrap().unwrap()), "1: two 0\n[1 lines in all]");
        assert!(!gone.exists());
        assert_eq!(place.shelf.len(), MOST);
    }

    #[test]
    fn many_that_want_the_same_tree_at_once_get_one_copy_of_it() {
        let place = place();
        let (one, base) = &place.repositories[0];
        let trees: Vec<_> = (0..3).map(|n| edit(one, base, &format!("{n}\n"))).collect();
        std::thread::scope(|scope| {
            for n in 0..24 {
                let (shelf, tree) = (&place.shelf, &trees[n % 3]);
                scope.spawn(move || {
                    for _ in 0..5 {
                        let copy = shelf.copy(one, tree).unwrap().unwrap();
                        assert_eq!(first(&copy), format!("1: {}\n[1 lines in all]", n % 3));
                    }
                });
            }
        });
        assert!(place.shelf.len() <= 3, "{}", place.shelf.len());
    }

    #[test]
    fn what_cannot_be_written_out_is_not_tried_again_at_every_look() {
        let place = place();
        let (one, base) = &place.repositories[0];
        let (two, other) = &place.repositories[1];
        let worktrees = place.folders[0].path().join("worktrees");
        std::fs::remove_dir(&worktrees).unwrap();
        assert!(place.shelf.copy(one, base).is_err());
        std::fs::create_dir(&worktrees).unwrap();
        assert!(place.shelf.copy(one, base).unwrap().is_none());
        assert!(place.shelf.copy(two, other).unwrap().is_some());
    }
}
