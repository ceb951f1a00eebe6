//! How much a sandbox uses at a moment: processes, memory, processor time, disk.
//!
//! Read from `/proc` and by walking the work directory. It backs the limits that the kernel enforces only with a delegated
//! cgroup, so what it misses for a tenth of a second is an overshoot and not a hole. Memory and disk that belong to nothing with a
//! name (segments, deleted files) are looked for as well. An error means that nothing can be said, and the run then ends.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Processor time in `/proc` is counted in hundredths of a second on every architecture that Linux has.
const TICK: Duration = Duration::from_millis(10);

/// How long a walk of the work directory may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// One line of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub state: u8,
    pub parent: i32,
    pub session: i32,
    /// With this its number names one process for ever.
    pub started: u64,
    /// Processes and threads.
    pub tasks: u64,
    /// Of those that it has waited for as well.
    pub cpu: Duration,
    pub memory_bytes: u64,
}

impl Stat {
    /// `None`: there is no such process any more.
    pub(super) fn of(pid: i32) -> Option<Self> {
        Self::parse(&String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/stat")).ok()?))
    }

    fn parse(text: &str) -> Option<Self> {
        // The program's name stands in parentheses and may hold anything, so the fields are counted from its end.
        let mut fields = [""; 22];
        let mut words = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
        for field in &mut fields {
            *field = words.next()?;
        }
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        let ticks = (11..15).map(number).sum::<Option<u64>>()?;
        let pages = fields[21].parse::<i64>().ok()?.max(0).unsigned_abs();
        Some(Self {
            state: *fields[0].as_bytes().first()?,
            parent: fields[1].parse().ok()?,
            session: fields[3].parse().ok()?,
            started: number(19)?,
            tasks: number(17)?,
            cpu: TICK * u32::try_from(ticks).unwrap_or(u32::MAX),
            memory_bytes: pages * rustix::param::page_size() as u64,
        })
    }

    /// It has ended, and nobody has waited for it yet.
    pub(super) fn dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }
}

/// Processes by number.
pub(super) type Table = BTreeMap<i32, Stat>;

/// Every process that can be seen.
fn processes() -> io::Result<Table> {
    let found = std::fs::read_dir("/proc")?
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            // A process that ends meanwhile is no process any more.
            Some((pid, Stat::of(pid)?))
        })
        .collect();
    Ok(found)
}

/// The descendants of `root`, without itself.
fn descendants(of: i32, all: &Table) -> BTreeSet<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for (pid, stat) in all {
        children.entry(stat.parent).or_default().push(*pid);
    }
    let (mut found, mut open) = (BTreeSet::new(), vec![of]);
    while let Some(pid) = open.pop() {
        open.extend(children.get(&pid).into_iter().flatten().filter(|child| found.insert(**child)));
    }
    found
}

/// Every living descendant of this process. In a namespace of its own that is every process there is.
pub(super) fn living(supervisor: i32) -> io::Result<Table> {
    let mut all = processes()?;
    let ours = descendants(supervisor, &all);
    all.retain(|pid, _| ours.contains(pid));
    Ok(all)
}

/// Memory of `living` with shared pages counted once. Slow, so it is asked only when the quick sum is above a limit.
pub(super) fn exact_memory_bytes(living: &Table) -> u64 {
    let share = |(pid, stat): (&i32, &Stat)| {
        let kilobytes = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok().and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
            line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
        });
        // What cannot be looked into is counted whole.
        kilobytes.map_or(stat.memory_bytes, |kb| kb * 1024)
    };
    living.iter().map(share).sum()
}

/// Memory that no process need hold: what lies in the temporary file systems, and System V segments. Only in a namespace of one's own.
pub(super) fn unowned_memory_bytes(temporary: &[PathBuf]) -> io::Result<u64> {
    /// What the kernel keeps for a file, beside its content.
    const INODE: u64 = 1024;
    let mut bytes = 0;
    for place in temporary {
        let found = rustix::fs::statvfs(place)?;
        bytes += found.f_blocks.saturating_sub(found.f_bfree) * found.f_frsize;
        bytes += found.f_files.saturating_sub(found.f_ffree) * INODE;
    }
    Ok(bytes + segments().into_iter().map(|(_, resident)| resident).sum::<u64>())
}

/// System V segments of memory: number and size.
pub(super) fn segments() -> Vec<(i32, u64)> {
    // A kernel without them has no such file.
    let text = std::fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    let segment = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        Some((fields.get(1)?.parse().ok()?, fields.get(14)?.parse().ok()?))
    };
    text.lines().skip(1).filter_map(segment).collect()
}

/// How many processes and threads a user runs on the whole machine.
pub(super) fn tasks_of_user(uid: u32) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let of_user = |pid: &i32| std::fs::metadata(format!("/proc/{pid}")).is_ok_and(|found| found.uid() == uid);
    Ok(processes()?.into_iter().filter(|(pid, _)| of_user(pid)).map(|(_, stat)| stat.tasks).sum())
}

/// Whether a disk below `roots` has hardly any room left: less than a twentieth, and less than 256 MiB. The daemon's journal needs it.
pub(super) fn hardly_any_room(roots: &[PathBuf]) -> bool {
    const MOST: u64 = 256 << 20;
    // A root that cannot be asked is one that the walk finds unreadable.
    roots.iter().filter_map(|root| rustix::fs::statvfs(root).ok()).any(|found| {
        let reserve = (found.f_blocks / 20).saturating_mul(found.f_frsize).min(MOST);
        found.f_bavail.saturating_mul(found.f_frsize) < reserve
    })
}

/// The size of directories on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DiskUse {
    pub bytes: u64,
    /// Something could not be read, so the size is a lower bound.
    pub incomplete: bool,
}

impl DiskUse {
    pub(super) fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.incomplete |= other.incomplete;
    }
}

/// What files below `roots` take that are deleted and still in use, which no walk finds.
pub(super) fn deleted_disk_use<'a>(living: impl Iterator<Item = &'a i32>, roots: &[PathBuf]) -> DiskUse {
    use std::os::unix::fs::MetadataExt;
    let mut used = DiskUse::default();
    let mut seen = BTreeSet::new();
    let deleted = |target: &str| {
        target.strip_suffix(" (deleted)").is_some_and(|path| roots.iter().any(|root| Path::new(path).starts_with(root)))
    };
    for pid in living {
        // A process that has ended holds nothing; one that does not let itself be looked into hides something.
        let hides = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
        match std::fs::read_dir(format!("/proc/{pid}/fd")) {
            Ok(entries) => {
                for entry in entries.flatten() {
                    let target = std::fs::read_link(entry.path());
                    used.incomplete |= target.as_ref().is_err_and(hides);
                    if target.is_ok_and(|target| deleted(&target.to_string_lossy()))
                        && let Ok(found) = std::fs::metadata(entry.path())
                        && seen.insert(found.ino())
                    {
                        used.bytes += found.blocks() * 512;
                    }
                }
            }
            Err(error) => used.incomplete |= hides(&error),
        }
        // Mapped, and the descriptor closed: address, mode, offset, device, inode, path.
        let maps = std::fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
        for line in String::from_utf8_lossy(&maps).lines().filter(|line| line.ends_with(" (deleted)")) {
            let mut fields = line.splitn(6, ' ');
            let range = fields.next().and_then(|range| range.split_once('-'));
            let (inode, path) = (fields.nth(3), fields.next());
            if let (Some((from, to)), Some(Ok(inode)), Some(path)) = (range, inode.map(str::parse), path)
                && deleted(path.trim_start())
                && seen.insert(inode)
            {
                let address = |text| u64::from_str_radix(text, 16).unwrap_or(0);
                used.bytes += address(to).saturating_sub(address(from));
            }
        }
    }
    used
}

/// The size in bytes of what lies below a directory, for people: what cannot be read is left out.
pub fn folder_bytes(folder: &Path) -> u64 {
    disk_use(&[folder.to_owned()], &[], u64::MAX).bytes
}

/// Adds up what lies below `roots`, but not below `aside`, without following links; stops as soon as it is above `enough`, or after
/// two seconds.
pub(super) fn disk_use(roots: &[PathBuf], aside: &[PathBuf], enough: u64) -> DiskUse {
    /// An entry costs the file system something even when it is empty.
    const LEAST: u64 = 256;
    let mut used = DiskUse::default();
    let mut open: Vec<PathBuf> = roots.to_vec();
    let began = Instant::now();
    while let Some(directory) = open.pop() {
        // Whoever asks has other things to watch meanwhile, and only somebody who hides makes a tree that takes longer.
        if began.elapsed() > PATIENCE {
            used.incomplete = true;
            return used;
        }
        let Some(entries) = read(&directory, &mut used) else { continue };
        for entry in entries.flatten() {
            match entry.metadata() {
                Ok(found) => {
                    use std::os::unix::fs::MetadataExt;
                    used.bytes += (found.blocks() * 512).max(LEAST);
                    if found.is_dir() && !aside.contains(&entry.path()) {
                        open.push(entry.path());
                    }
                }
                Err(error) => used.incomplete |= error.kind() != std::io::ErrorKind::NotFound,
            }
            if used.bytes > enough {
                return used;
            }
        }
    }
    used
}

fn read(directory: &Path, used: &mut DiskUse) -> Option<std::fs::ReadDir> {
    match std::fs::read_dir(directory) {
        Ok(entries) => Some(entries),
        Err(error) => {
            // Gone, or no directory any more: the command is at work in there.
            let moved = matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory);
            used.incomplete |= !moved;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_cannot_hide_by_its_name() {
        let text = "42 (a) S 7 (x) R 3 42 41 0 -1 4194560 90 0 0 0 11 12 13 14 20 0 5 0 100 8192 3 184467440737095";
        let stat = Stat::parse(text).unwrap();
        let expected = Stat {
            state: b'R',
            parent: 3,
            session: 41,
            started: 100,
            tasks: 5,
            cpu: Duration::from_millis(500),
            memory_bytes: 3 * rustix::param::page_size() as u64,
        };
        assert_eq!(stat, expected);
        assert_eq!(Stat::parse("42 (a"), None);
    }

    #[test]
    fn descendants_are_found_at_every_depth() {
        let line = "1 (x) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 0 0 0";
        let stat = |parent| Stat { parent, ..Stat::parse(line).unwrap() };
        let all = BTreeMap::from([(1, stat(0)), (2, stat(1)), (3, stat(2)), (4, stat(3)), (5, stat(1)), (6, stat(9))]);
        assert_eq!(descendants(2, &all), BTreeSet::from([3, 4]));
        assert_eq!(descendants(6, &all), BTreeSet::new());
    }

    #[test]
    fn disk_use_counts_without_following_links() {
        let root = tempfile::tempdir().unwrap();
        let work = root.path().join("work");
        std::fs::create_dir_all(work.join("deep/er")).unwrap();
        std::fs::write(root.path().join("large"), vec![1; 1 << 20]).unwrap();
        std::fs::write(work.join("deep/er/file"), vec![1; 100_000]).unwrap();
        std::os::unix::fs::symlink(root.path(), work.join("deep/up")).unwrap();
        let used = disk_use(std::slice::from_ref(&work), &[], u64::MAX);
        assert!((100_000..1 << 20).contains(&used.bytes) && !used.incomplete, "{used:?}");
        let aside = disk_use(std::slice::from_ref(&work), &[work.join("deep/er")], u64::MAX);
        assert!(aside.bytes < 100_000, "{aside:?}");
        assert!(disk_use(&[work], &[], 1000).bytes > 1000);
    }
}
