//! Bounds of the intake: bytes held at once, events per project and minute, and what was refused because of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Refused;
use crate::base::clock::Timestamp;
use crate::domain::error_group::ErrorDrops;

/// Bodies and events that wait to be written, together.
const HELD: usize = 96 << 20;
/// Bytes that are counted as one.
const UNIT: usize = 1 << 10;

/// Bytes that requests hold.
#[derive(Clone, Debug)]
pub struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(HELD / UNIT)))
    }
}

impl Room {
    /// Counts so many bytes until the permit is dropped.
    pub fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refused> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        self.0.clone().try_acquire_many_owned(units).map_err(|_| Refused::Busy)
    }
}

/// A bucket of tokens for each project: full at the beginning, filled again within a minute.
#[derive(Debug, Default)]
pub struct Buckets(Mutex<BTreeMap<u64, Bucket>>);

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Timestamp,
}

impl Buckets {
    /// Takes `count` tokens of a bucket that holds `per_minute`. False: they are not there, and none is taken.
    pub fn take(&self, project: u64, count: u32, per_minute: u32, now: Timestamp) -> bool {
        let most = f64::from(per_minute);
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.entry(project).or_insert(Bucket { tokens: most, at: now });
        // A clock that was set back gives nothing.
        let passed = now.duration_since(bucket.at).as_secs_f64().max(0.0);
        let tokens = (bucket.tokens + passed * most / 60.0).min(most);
        let enough = tokens >= f64::from(count);
        *bucket = Bucket { tokens: if enough { tokens - f64::from(count) } else { tokens }, at: now };
        enough
    }
}

/// What was refused, until it is written down.
#[derive(Debug, Default)]
pub struct Drops(Mutex<BTreeMap<(String, &'static str), u64>>);

impl Drops {
    fn counts(&self) -> MutexGuard<'_, BTreeMap<(String, &'static str), u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, project: &str, reason: &'static str, count: u64) {
        if count > 0 {
            *self.counts().entry((project.to_owned(), reason)).or_default() += count;
        }
    }

    /// All of it; afterwards there is nothing.
    pub fn drain(&self) -> Vec<ErrorDrops> {
        let counts = std::mem::take(&mut *self.counts());
        let drop = |((project, reason), count): ((String, &str), u64)| ErrorDrops {
            project,
            reason: reason.to_owned(),
            count,
        };
        counts.into_iter().map(drop).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bucket_gives_what_it_holds_and_fills_within_a_minute() {
        let buckets = Buckets::default();
        let now: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
        let at = |seconds: u64| now + Duration::from_secs(seconds);
        assert!(buckets.take(1, 60, 60, now) && !buckets.take(1, 1, 60, now));
        assert!(buckets.take(2, 1, 60, now), "another project has its own");
        assert!(buckets.take(1, 10, 60, at(10)) && !buckets.take(1, 1, 60, at(10)));
        assert!(!buckets.take(1, 1, 60, now), "the clock went back");
        assert!(buckets.take(1, 60, 60, at(1_000)) && !buckets.take(1, 1, 60, at(1_000)), "it never holds more");
    }
}
