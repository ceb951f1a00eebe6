//! What a room uses, and the end of what uses too much.

use std::io;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::super::sys;
use super::super::watch::{self, DiskUse, Table};
use super::super::wire::Stopped;
use super::accounts::NOBODY;
use super::keep::Keep;

/// How often usage is looked at while something runs, and while only the worker for files is there.
pub(super) const LOOK: Duration = Duration::from_millis(50);
const LOOK_AT_REST: Duration = Duration::from_millis(500);
pub(super) const LOOK_AT_DISK: Duration = Duration::from_millis(1000);
/// How often those are looked for that are to be ended.
pub(super) const LOOK_WHILE_ENDING: Duration = Duration::from_millis(2);
/// Looking may take this part of the time, so that it is rarer where it is expensive.
const SHARE: u32 = 20;
/// A directory that stays unreadable for so many looks hides something.
const UNREADABLE_LOOKS: u32 = 5;

impl Keep<'_> {
    pub(super) fn end_all(&mut self, limit: Stopped) {
        for running in self.running.values_mut() {
            running.stopped.get_or_insert(limit);
        }
        self.ending_all = true;
    }

    /// Ends what is to be ended, also what is being born meanwhile.
    pub(super) fn end_some(&mut self) -> io::Result<()> {
        let table = self.others()?;
        let ids = if self.ending_all { self.accounts.ids() } else { self.ending.iter().copied().collect() };
        self.accounts.look(&table);
        let members = if self.ending_all {
            table.keys().copied().collect()
        } else {
            ids.iter().flat_map(|id| self.accounts.members(*id, &table)).collect::<Vec<_>>()
        };
        for pid in members.iter().filter(|pid| !table[*pid].dead()).filter_map(|pid| Pid::from_raw(*pid)) {
            match rustix::process::kill_process(pid, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.reap()?;
        if members.is_empty() {
            if self.ending_all {
                // Nobody who is left could have them.
                if self.plan.tier.own_file_system() {
                    watch::segments().into_iter().for_each(|(id, _)| drop(sys::remove_segment(id)));
                }
                self.last = table;
                self.suffer_disk();
            }
            self.ending.retain(|id| self.pending.iter().any(|pending| pending.opening.id == *id));
            self.ending_all = false;
            return Ok(());
        }
        self.last = table;
        Ok(())
    }

    /// Everything that lives, but for the starter.
    pub(super) fn others(&self) -> io::Result<Table> {
        let mut table = watch::living(self.supervisor)?;
        if let Some(starter) = &self.starter {
            table.remove(&starter.pid.as_raw_nonzero().get());
        }
        Ok(table)
    }

    pub(super) fn look(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if self.ending_all || !self.ending.is_empty() {
            self.end_some()?;
        }
        if self.frozen.is_some() || self.last_word.is_some() {
            return Ok(());
        }
        for (id, running) in &mut self.running {
            if running.deadline.is_some_and(|at| now >= at) && running.stopped.is_none() {
                running.stopped = Some(Stopped::Wall);
                self.ending.insert(*id);
            }
        }
        if self.look_at.is_some_and(|at| now >= at) {
            let table = self.others()?;
            let limit = self.take_in(table)?;
            if let Some(limit) = limit {
                self.end_all(limit);
            }
            let rest = self.last.is_empty() && self.running.is_empty();
            let every = if self.only_the_worker() { LOOK_AT_REST } else { LOOK };
            self.look_at = (!rest).then(|| next(now, every));
            if rest {
                self.look_at_disk = None;
            }
            for id in self.accounts.ids() {
                if self.accounts.get(id).living == 0 && !self.running.contains_key(&id) {
                    self.accounts.end(id);
                }
            }
        } else if self.look_at_disk.is_some_and(|at| now >= at) {
            if self.too_much_on_disk() {
                self.end_all(Stopped::Disk);
            }
            self.look_at_disk = Some(next(now, LOOK_AT_DISK));
        }
        Ok(())
    }

    fn only_the_worker(&self) -> bool {
        self.pending.is_empty() && self.last.keys().all(|pid| self.is_worker(*pid))
    }

    pub(super) fn is_worker(&self, pid: i32) -> bool {
        self.running.values().any(|it| it.files && it.pid.as_raw_nonzero().get() == pid)
    }

    /// Takes in a look at everything that lives. Answers the limit that all of it together has met.
    pub(super) fn take_in(&mut self, table: Table) -> io::Result<Option<Stopped>> {
        let limits = &self.plan.limits;
        self.accounts.look(&table);
        for id in self.accounts.ids() {
            if self.accounts.cpu(id) > limits.cpu {
                if let Some(running) = self.running.get_mut(&id) {
                    running.stopped.get_or_insert(Stopped::Cpu);
                }
                // Also what one has left behind that has ended itself.
                if id != NOBODY || self.accounts.get(id).living > 0 {
                    self.ending.insert(id);
                }
            }
        }
        let tasks: u64 = table.values().map(|stat| stat.tasks).sum();
        let mut memory: u64 = table.values().map(|stat| stat.memory_bytes).sum();
        let unowned =
            if self.plan.tier.own_file_system() { watch::unowned_memory_bytes(&self.plan.memories)? } else { 0 };
        if memory + unowned > limits.memory_bytes {
            memory = watch::exact_memory_bytes(&table);
        }
        let none = table.is_empty();
        self.last = table;
        let over = [
            (tasks > limits.processes, Stopped::Processes),
            (!none && memory + unowned > limits.memory_bytes, Stopped::Memory),
        ];
        Ok(over.into_iter().find_map(|(over, limit)| over.then_some(limit)))
    }

    pub(super) fn too_much_on_disk(&mut self) -> bool {
        let limit = self.plan.limits.disk_bytes;
        let most = self.suffered_bytes.max(limit);
        let used = self.disk_use(most);
        self.unreadable = if used.incomplete { self.unreadable + 1 } else { 0 };
        if used.bytes <= limit {
            self.suffered_bytes = 0;
        }
        let over = used.bytes > most || self.unreadable >= UNREADABLE_LOOKS;
        over || watch::hardly_any_room(&self.plan.disks)
    }

    fn disk_use(&self, enough: u64) -> DiskUse {
        let mut used = watch::disk_use(&self.plan.disks, &self.aside, enough);
        // The worker is a copy of this process: it lets nobody look into it, and hides nothing.
        let others = self.last.keys().filter(|pid| !self.is_worker(**pid));
        used.add(watch::deleted_disk_use(others, &self.plan.disks));
        used
    }

    /// After everything was ended for what lies on disk: so much and a little more is suffered, so that somebody can tidy up.
    fn suffer_disk(&mut self) {
        const LITTLE: u64 = 1 << 20;
        let limit = self.plan.limits.disk_bytes;
        let most = limit.saturating_add(limit / 4);
        let used = self.disk_use(most).bytes;
        self.suffered_bytes = if used > limit { used.saturating_add(LITTLE).min(most) } else { 0 };
        self.unreadable = 0;
    }
}

/// When to look again: after `every`, or later where looking takes long.
fn next(began: Instant, every: Duration) -> Instant {
    let now = Instant::now();
    now + every.max((now - began) * SHARE)
}
