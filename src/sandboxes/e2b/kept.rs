//! What steps keep between their commands: one folder per step and environment, as long as somebody comes back for it.
//!
//! A folder is with a command or here, never both; what a command does not bring back is gone.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::base::hash::Hash;

/// Whose folder (`run/path`), and of which environment.
pub(super) type Key = (String, Hash);

#[derive(Debug)]
pub(super) struct Kept<T> {
    slots: Mutex<HashMap<Key, Slot<T>>>,
    most: usize,
    longest: Duration,
}

#[derive(Debug)]
enum Slot<T> {
    /// With a command.
    Taken,
    Idle {
        kept: T,
        since: Timestamp,
    },
}

impl<T> Slot<T> {
    fn idle_since(&self) -> Option<Timestamp> {
        match self {
            Self::Taken => None,
            Self::Idle { since, .. } => Some(*since),
        }
    }
}

impl<T> Kept<T> {
    /// At most `most` that nobody uses, none of them for longer than `longest`.
    pub(super) fn new(most: usize, longest: Duration) -> Self {
        Self { slots: Mutex::default(), most, longest }
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Slot<T>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept, if no other command has it. Whoever gets nothing may bring back something new.
    pub(super) fn take(&self, key: &Key, now: Timestamp) -> Option<T> {
        let mut slots = self.slots();
        self.forget_old(&mut slots, now);
        match slots.insert(key.clone(), Slot::Taken) {
            Some(Slot::Idle { kept, .. }) => Some(kept),
            Some(Slot::Taken) | None => None,
        }
    }

    pub(super) fn bring_back(&self, key: &Key, kept: T, now: Timestamp) {
        let mut slots = self.slots();
        match slots.get_mut(key) {
            Some(slot @ Slot::Taken) => *slot = Slot::Idle { kept, since: now },
            // Its run was released meanwhile, or a second command was quicker.
            Some(Slot::Idle { .. }) | None => {}
        }
        self.forget_old(&mut slots, now);
    }

    /// Forgets what the steps of a run keep, also what is with a command now.
    pub(super) fn release(&self, run: &str) {
        let of_run = |owner: &str| owner.strip_prefix(run).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.slots().retain(|(owner, _), _| !of_run(owner));
    }

    fn forget_old(&self, slots: &mut HashMap<Key, Slot<T>>, now: Timestamp) {
        let unused = |since| Duration::try_from(now.duration_since(since)).unwrap_or_default();
        slots.retain(|_, slot| slot.idle_since().is_none_or(|since| unused(since) <= self.longest));
        while slots.values().filter_map(Slot::idle_since).count() > self.most {
            let oldest = slots.iter().filter_map(|(key, slot)| Some((slot.idle_since()?, key.clone()))).min();
            let Some((_, key)) = oldest else { break };
            slots.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_with_one_command_and_goes_with_its_run_or_its_time() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let key = |owner: &str| (owner.to_owned(), Hash::of("environment"));
        let kept = Kept::new(2, Duration::from_secs(100));
        let one = key("run-1/fix");
        assert_eq!(kept.take(&one, at(0)), None);
        // A second command at the same time gets none, and the first to bring one back is heard.
        assert_eq!(kept.take(&one, at(1)), None);
        kept.bring_back(&one, "first", at(2));
        kept.bring_back(&one, "second", at(3));
        assert_eq!(kept.take(&one, at(4)), Some("first"));
        assert_eq!(kept.take(&one, at(4)), None);

        // A run that has ended keeps nothing, and takes nothing back; another whose name begins so is another.
        let other = key("run-11/fix");
        assert_eq!(kept.take(&other, at(5)), None);
        kept.bring_back(&other, "other", at(5));
        kept.release("run-1");
        kept.bring_back(&one, "late", at(6));
        assert_eq!(kept.take(&one, at(7)), None);
        kept.bring_back(&one, "anew", at(7));
        // The longest unused goes first, and all do with time.
        let third = key("run-3/fix");
        assert_eq!(kept.take(&third, at(8)), None);
        kept.bring_back(&third, "third", at(8));
        assert_eq!(kept.take(&other, at(9)), None);
        assert_eq!(kept.take(&one, at(107)), Some("anew"));
        assert_eq!(kept.take(&third, at(109)), None);
    }
}
