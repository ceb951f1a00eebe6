//! Users that sandboxes have for themselves, where the daemon is root: who breaks out of one is neither root nor the user of another.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// In no range that a distribution or systemd hands out.
pub(super) const USERS: std::ops::Range<u32> = 60_800..61_100;

type Taken = Arc<Mutex<BTreeSet<u32>>>;

/// Who is taken at the moment.
#[derive(Debug, Default)]
pub(super) struct Users {
    taken: Taken,
}

impl Users {
    /// `None`: there are too many sandboxes at the same time.
    pub(super) fn take(&self) -> Option<TakenUser> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let uid = USERS.into_iter().find(|uid| taken.insert(*uid))?;
        Some(TakenUser { own: Arc::new(Own { uid, of: self.taken.clone() }) })
    }
}

/// A user that is nobody else's until the last clone of this is dropped.
#[derive(Clone)]
pub struct TakenUser {
    own: Arc<Own>,
}

struct Own {
    uid: u32,
    of: Taken,
}

impl TakenUser {
    /// Its number, which is that of its group as well.
    pub fn uid(&self) -> u32 {
        self.own.uid
    }
}

impl fmt::Debug for TakenUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TakenUser({})", self.own.uid)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.of.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_free_again_when_nobody_has_it() {
        let users = Users::default();
        let (one, two) = (users.take().unwrap(), users.take().unwrap());
        assert_ne!(one.uid(), two.uid());
        let (uid, again) = (one.uid(), one.clone());
        drop(one);
        assert_ne!(users.take().unwrap().uid(), uid);
        drop(again);
        assert_eq!(users.take().unwrap().uid(), uid);
    }
}
