//! Standing still: every process of a room is stopped where it is, and goes on later as if nothing had been.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::super::watch::Stat;
use super::super::wire::Word;
use super::keep::Keep;

/// How long stopping everything may take.
const FREEZING: Duration = Duration::from_secs(2);

/// A standstill.
pub(super) struct Frozen {
    since: Instant,
    stopped: BTreeSet<(i32, u64)>,
}

impl Keep<'_> {
    pub(super) fn freeze(&mut self) -> io::Result<()> {
        let since = Instant::now();
        let mut stopped = self.frozen.take().map(|frozen| frozen.stopped).unwrap_or_default();
        loop {
            let table = self.others()?;
            let runs = |stat: &Stat| !stat.dead() && !matches!(stat.state, b'T' | b't');
            let moving: Vec<_> = table.iter().filter(|(pid, stat)| runs(stat) && !self.is_worker(**pid)).collect();
            if moving.is_empty() || since.elapsed() > FREEZING {
                break;
            }
            for (pid, stat) in moving {
                stopped.insert((*pid, stat.started));
                signal(*pid, Signal::STOP);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.frozen = Some(Frozen { since, stopped });
        self.lines.say(&Word::Frozen(true))
    }

    pub(super) fn thaw(&mut self) -> io::Result<()> {
        if let Some(Frozen { since, stopped }) = self.frozen.take() {
            let table = self.others()?;
            for (pid, started) in stopped {
                if table.get(&pid).is_some_and(|stat| stat.started == started) {
                    signal(pid, Signal::CONT);
                }
            }
            let lost = since.elapsed();
            for running in self.running.values_mut() {
                running.deadline = running.deadline.and_then(|at| at.checked_add(lost));
            }
        }
        self.lines.say(&Word::Frozen(false))
    }
}

/// Sends a signal to one that may have ended meanwhile.
fn signal(pid: i32, signal: Signal) {
    match Pid::from_raw(pid).map(|pid| rustix::process::kill_process(pid, signal)) {
        Some(Ok(()) | Err(_)) | None => {}
    }
}
