//! What each process uses, with what it has started.
//!
//! Whose a process is, is known by its parents, by its session, and by having been known before. One that hid from all three (it left
//! its session and its parent between two looks) is nobody's: its processor time counts for every process that runs.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::watch::{Stat, Table};

/// Those whose starter is not known.
pub(super) const NOBODY: u64 = 0;

/// What one process has used, with what it has started.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Account {
    /// Of those that have ended and were waited for here.
    ended: Duration,
    /// Of nobody's, when it began.
    nobodys_before: Duration,
    /// Of all.
    pub cpu: Duration,
    pub peak_memory_bytes: u64,
    pub peak_tasks: u64,
    /// How many live.
    pub living: u64,
}

#[derive(Debug, Default)]
pub(super) struct Accounts {
    /// Everything belongs to this one.
    only: Option<u64>,
    of: BTreeMap<u64, Account>,
    /// By number and start, whose it is.
    known: BTreeMap<(i32, u64), u64>,
    sessions: BTreeMap<i32, u64>,
}

impl Accounts {
    pub(super) fn begin(&mut self, id: u64, pid: i32, only: bool) {
        let nobodys_before = self.cpu(NOBODY);
        self.of.insert(id, Account { nobodys_before, ..Account::default() });
        self.sessions.insert(pid, id);
        if only {
            self.only = Some(id);
        }
    }

    /// Forgets one of which nothing is left.
    pub(super) fn end(&mut self, id: u64) {
        self.of.remove(&id);
        self.sessions.retain(|_, of| *of != id);
    }

    pub(super) fn get(&self, id: u64) -> Account {
        self.of.get(&id).copied().unwrap_or_default()
    }

    /// Processor time for the limit: with nobody's since it began.
    pub(super) fn cpu(&self, id: u64) -> Duration {
        let account = self.get(id);
        let nobodys = if id == NOBODY { Duration::ZERO } else { self.get(NOBODY).cpu };
        account.cpu + nobodys.saturating_sub(account.nobodys_before)
    }

    pub(super) fn ids(&self) -> Vec<u64> {
        self.of.keys().copied().collect()
    }

    /// Whose `pid` is, which need not be in `table` any more when it has ended.
    fn whose(&self, pid: i32, stat: &Stat, table: &Table) -> u64 {
        if let Some(only) = self.only {
            return only;
        }
        let (mut pid, mut stat) = (pid, *stat);
        // No deeper than there are processes, whatever the numbers say.
        for _ in 0..=table.len() {
            if let Some(id) = self.known.get(&(pid, stat.started)).or_else(|| self.sessions.get(&stat.session)) {
                return *id;
            }
            match table.get(&stat.parent) {
                Some(parent) => (pid, stat) = (stat.parent, *parent),
                None => break,
            }
        }
        NOBODY
    }

    /// Takes in what a look has found: everything that lives, but for our own.
    pub(super) fn look(&mut self, table: &Table) {
        let owners: BTreeMap<i32, u64> =
            table.iter().map(|(pid, stat)| (*pid, self.whose(*pid, stat, table))).collect();
        let known = owners.iter().filter(|(_, id)| **id != NOBODY);
        self.known = known.map(|(pid, id)| ((*pid, table[pid].started), *id)).collect();
        // A number is not given to another process as long as it is that of somebody's session.
        self.sessions
            .retain(|session, _| table.contains_key(session) || table.values().any(|stat| stat.session == *session));
        let mut sums: BTreeMap<u64, Account> = BTreeMap::new();
        for (pid, stat) in table {
            let sum = sums.entry(owners[pid]).or_default();
            sum.cpu += stat.cpu;
            sum.peak_memory_bytes += stat.memory_bytes;
            sum.peak_tasks += stat.tasks;
            sum.living += 1;
        }
        for id in sums.keys() {
            self.of.entry(*id).or_default();
        }
        for (id, account) in &mut self.of {
            let sum = sums.get(id).copied().unwrap_or_default();
            // What ended elsewhere meanwhile may be counted a look later, never less than before.
            account.cpu = account.cpu.max(account.ended + sum.cpu);
            account.peak_memory_bytes = account.peak_memory_bytes.max(sum.peak_memory_bytes);
            account.peak_tasks = account.peak_tasks.max(sum.peak_tasks);
            account.living = sum.living;
        }
    }

    /// Takes in one that has ended and is waited for here. `table`: the last look.
    pub(super) fn ended(&mut self, pid: i32, stat: &Stat, table: &Table) -> u64 {
        let id = self.whose(pid, stat, table);
        self.known.remove(&(pid, stat.started));
        let account = self.of.entry(id).or_default();
        account.ended += stat.cpu;
        account.cpu = account.cpu.max(account.ended);
        id
    }

    /// Those of `table` that belong to `id`.
    pub(super) fn members(&self, id: u64, table: &Table) -> Vec<i32> {
        table.iter().filter(|(pid, stat)| self.whose(**pid, stat, table) == id).map(|(pid, _)| *pid).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(parent: i32, session: i32, started: u64, cpu_ms: u64) -> Stat {
        let cpu = Duration::from_millis(cpu_ms);
        Stat { state: b'S', parent, session, started, tasks: 1, cpu, memory_bytes: 10 }
    }

    #[test]
    fn a_process_is_known_by_parent_by_session_and_from_before() {
        let mut accounts = Accounts::default();
        accounts.begin(7, 20, false);
        accounts.begin(8, 30, false);
        let first = Table::from([
            (20, stat(1, 20, 1, 10)),
            (21, stat(20, 21, 2, 20)),
            // An orphan of the same session, and one of nobody.
            (22, stat(1, 20, 3, 40)),
            (30, stat(1, 30, 4, 80)),
            (31, stat(1, 31, 5, 160)),
        ]);
        accounts.look(&first);
        assert_eq!((accounts.get(7).cpu, accounts.get(7).peak_tasks), (Duration::from_millis(70), 3));
        assert_eq!(accounts.get(NOBODY).cpu, Duration::from_millis(160));
        // Nobody's counts for everybody.
        assert_eq!(accounts.cpu(8), Duration::from_millis(240));
        // It has lost its parent since, and was seen before; another with its number was not.
        let later = Table::from([(21, stat(1, 21, 2, 25))]);
        assert_eq!((accounts.members(7, &later), accounts.members(8, &later)), (vec![21], vec![]));
        assert_eq!(accounts.members(7, &Table::from([(21, stat(1, 21, 9, 0))])), Vec::<i32>::new());
        // What has ended stays on the account.
        assert_eq!(accounts.ended(20, &stat(1, 20, 1, 15), &later), 7);
        accounts.look(&later);
        assert_eq!(accounts.get(7).cpu, Duration::from_millis(70));
        accounts.look(&Table::from([(21, stat(1, 21, 2, 95))]));
        assert_eq!(accounts.get(7).cpu, Duration::from_millis(110));
    }

    #[test]
    fn an_only_process_answers_for_everything() {
        let mut accounts = Accounts::default();
        accounts.begin(7, 20, true);
        accounts.look(&Table::from([(99, stat(1, 99, 1, 5))]));
        assert_eq!((accounts.cpu(7), accounts.get(7).peak_tasks), (Duration::from_millis(5), 1));
    }
}
