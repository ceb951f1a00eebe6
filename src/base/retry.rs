//! Retry maths: how long to wait before the next try. Pure; the waiting is done by the caller.

use std::time::Duration;

/// What a failed call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The other side named a time.
    After(Duration),
    /// Try again with growing pauses.
    Backoff,
    /// Trying again cannot help, or must not happen without a read-back.
    Never,
}

/// Exponential pauses from `first`, doubled up to `most`, with at most `total` of waiting altogether.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    pub first: Duration,
    pub most: Duration,
    pub total: Duration,
}

impl Backoff {
    /// The pause after the failed try number `attempt` (1 is the first), or `None` once `waited` plus the pause would
    /// pass `total`. What the server asked for is honoured whole, never shortened; it is believed once, and a server that
    /// names the same short time again and again is asked less and less often.
    pub fn pause(&self, attempt: u32, waited: Duration, retry: Retry) -> Option<Duration> {
        let doubled = |times: u32| self.first.saturating_mul(1u32 << times.min(16)).min(self.most);
        let pause = match retry {
            Retry::Never => return None,
            Retry::After(asked) if attempt <= 1 => asked,
            Retry::After(asked) => asked.max(doubled(attempt - 2)),
            Retry::Backoff => doubled(attempt.saturating_sub(1)),
        };
        (waited + pause <= self.total).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_most_and_end_with_the_total() {
        let s = Duration::from_secs;
        let backoff = Backoff { first: s(1), most: s(4), total: s(12) };
        let pauses: Vec<_> = (1..=4).map(|n| backoff.pause(n, s(0), Retry::Backoff)).collect();
        assert_eq!(pauses, [Some(s(1)), Some(s(2)), Some(s(4)), Some(s(4))]);
        assert_eq!(backoff.pause(5, s(11), Retry::Backoff), None);
        assert_eq!(backoff.pause(1, s(0), Retry::After(s(9))), Some(s(9)));
        assert_eq!(backoff.pause(1, s(0), Retry::Never), None);
        let asked: Vec<_> = (1..=4).map(|n| backoff.pause(n, s(0), Retry::After(s(1)))).collect();
        assert_eq!(asked, [Some(s(1)), Some(s(1)), Some(s(2)), Some(s(4))]);
    }
}
