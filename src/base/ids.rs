//! Identifiers: time-ordered, 26 characters of Crockford base 32 (a ULID).

use std::sync::Mutex;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One run. Sorts by the time of its creation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub String);

impl RunId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// `01JD…7QK`: what people see where space is short.
    pub fn short(&self) -> String {
        match (self.0.get(..4), self.0.len().checked_sub(3).and_then(|from| self.0.get(from..))) {
            (Some(head), Some(tail)) if self.0.len() > 8 => format!("{head}…{tail}"),
            _ => self.0.clone(),
        }
    }
}

impl std::fmt::Display for RunId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

/// Where identifiers and random numbers come from.
pub trait Ids: Send + Sync + std::fmt::Debug {
    /// 80 random bits in the low bits.
    fn random(&self) -> u128;
    /// A new identifier for something that began at `now`.
    fn new_id(&self, now: Timestamp) -> String {
        ulid(now, self.random())
    }
    fn run_id(&self, now: Timestamp) -> RunId {
        RunId(self.new_id(now))
    }
}

fn ulid(now: Timestamp, random: u128) -> String {
    const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let ms = u128::from(now.as_millisecond().max(0) as u64);
    let bits = (ms << 80) | (random & ((1 << 80) - 1));
    (0..26).rev().map(|i| DIGITS[(bits >> (5 * i) & 31) as usize] as char).collect()
}

/// From the operating system.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemIds;

impl Ids for SystemIds {
    #[allow(clippy::disallowed_methods, clippy::expect_used)] // The one place. A system without randomness cannot go on.
    fn random(&self) -> u128 {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
        u128::from_le_bytes(bytes)
    }
}

/// A repeatable sequence, for tests (SplitMix64).
#[derive(Debug)]
pub struct SeededIds(Mutex<u64>);

impl SeededIds {
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }
}

impl Ids for SeededIds {
    fn random(&self) -> u128 {
        let mut state = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut next = || {
            *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = *state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        };
        u128::from(next()) << 64 | u128::from(next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time_and_are_26_characters() {
        let ids = SeededIds::new(1);
        let early = ids.run_id("2026-11-20T08:00:00Z".parse().unwrap());
        let late = ids.run_id("2026-11-20T08:00:00.001Z".parse().unwrap());
        assert!(early < late);
        assert_eq!((early.as_str().len(), early.short().chars().count()), (26, 8));
    }
}
