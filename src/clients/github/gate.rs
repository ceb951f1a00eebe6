//! What GitHub lets one credential do, kept for all runs of the process: its rate limits and the pace of writes. Sends nothing.
//!
//! Whoever sends asks to be let in, and tells what came back. A limit that ends soon is waited for; one that lasts longer is told.
//! Source: <https://docs.github.com/en/rest/using-the-rest-api/best-practices-for-using-the-rest-api>.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::HeaderMap;
use jiff::Timestamp;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::GitHubError;
use crate::base::env::Env;
use crate::clients::http;

/// The longest that a call waits for a limit to end.
pub(super) const MOST_WAIT: Duration = Duration::from_secs(90);
/// Between two writes that people are notified of.
pub(super) const PACE: Duration = Duration::from_secs(1);
/// A secondary limit that names no time: at first so long, doubled each time it is met again.
const COOLDOWN: Duration = Duration::from_secs(60);
const MOST_COOLDOWN: Duration = Duration::from_secs(15 * 60);
/// A window of the primary limit is an hour; a header that says more is not believed.
const MOST_CLOSED: Duration = Duration::from_secs(65 * 60);
/// Calls on their way at the same time. GitHub allows 100 for all that use the credential.
const PARALLEL: usize = 8;

/// One for each credential.
#[derive(Debug)]
pub(super) struct Gate {
    env: Env,
    state: Mutex<State>,
    calls: Semaphore,
    /// One write at a time.
    writes: Semaphore,
}

#[derive(Debug, Default)]
struct State {
    closed: Option<Span>,
    /// Secondary limits in a row.
    strikes: u32,
    created: Option<Span>,
}

/// A time that began and lasts so long. Never longer than that, whatever the wall clock does.
#[derive(Clone, Copy, Debug)]
struct Span {
    since: Timestamp,
    lasts: Duration,
}

impl Span {
    fn left(self, now: Timestamp) -> Option<Duration> {
        let gone = Duration::try_from(now.duration_since(self.since)).unwrap_or(Duration::ZERO);
        self.lasts.checked_sub(gone).filter(|left| !left.is_zero())
    }
}

impl Gate {
    pub fn new(env: Env) -> Self {
        Self { env, state: Mutex::default(), calls: Semaphore::new(PARALLEL), writes: Semaphore::new(1) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no limit is in the way. Held while the call is on its way.
    ///
    /// Errors: `RateLimited` when that would take too long; nothing was sent.
    pub async fn enter(&self) -> Result<SemaphorePermit<'_>, GitHubError> {
        let permit = self.calls.acquire().await.map_err(|_| closed())?;
        let mut waited = Duration::ZERO;
        loop {
            let Some(left) = self.left() else { return Ok(permit) };
            if waited + left > MOST_WAIT {
                return Err(GitHubError::RateLimited { after: left });
            }
            self.env.clock.sleep(left).await;
            waited += left;
        }
    }

    /// How long a limit still lasts.
    pub fn left(&self) -> Option<Duration> {
        let now = self.env.now();
        self.state().closed.and_then(|closed| closed.left(now))
    }

    /// The turn to write, held until the write has ended.
    pub async fn turn(&self) -> Result<SemaphorePermit<'_>, GitHubError> {
        self.writes.acquire().await.map_err(|_| closed())
    }

    /// Waits until a second has gone by since the last write that people are notified of.
    pub async fn pace(&self) {
        loop {
            let now = self.env.now();
            let left = self.state().created.and_then(|created| created.left(now));
            let Some(left) = left else { return };
            self.env.clock.sleep(left).await;
        }
    }

    /// A write that people are notified of has ended, however it did.
    pub fn created(&self) {
        let now = self.env.now();
        self.state().created = Some(Span { since: now, lasts: PACE });
    }

    /// What an answer says of the limits. `Some`: it is the answer of a limit, which lasts so long; nothing was done.
    pub fn learn(&self, status: u16, headers: &HeaderMap, message: &str) -> Option<Duration> {
        let now = self.env.now();
        let used_up = used_up(headers, now);
        if !is_limit(status, headers, message) {
            let mut state = self.state();
            if (200..300).contains(&status) {
                state.strikes = 0;
            }
            if let Some(lasts) = used_up {
                state.close(now, lasts);
            }
            return None;
        }
        let mut state = self.state();
        let asked = http::retry_after(|name| text(headers, name));
        let lasts = asked.or(used_up).unwrap_or_else(|| {
            state.strikes += 1;
            COOLDOWN.saturating_mul(1 << (state.strikes - 1).min(8)).min(MOST_COOLDOWN)
        });
        let lasts = lasts.clamp(Duration::from_secs(1), MOST_CLOSED);
        state.close(now, lasts);
        Some(lasts)
    }
}

impl State {
    /// Closed for at least so long from now.
    fn close(&mut self, now: Timestamp, lasts: Duration) {
        let left = self.closed.and_then(|closed| closed.left(now)).unwrap_or_default();
        if lasts > left {
            self.closed = Some(Span { since: now, lasts });
        }
    }
}

/// Semaphores of a gate are never closed.
fn closed() -> GitHubError {
    GitHubError::Unavailable { message: "the client is being taken down".into() }
}

/// 429 always is one; 403 is where it says so.
fn is_limit(status: u16, headers: &HeaderMap, message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    let says = message.contains("rate limit") || message.contains("abuse detection");
    let none_left = text(headers, "x-ratelimit-remaining") == Some("0");
    status == 429 || (status == 403 && (says || none_left || headers.contains_key("retry-after")))
}

/// How long until there are calls again, where this was the last one. Held against the server's own clock.
fn used_up(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    // Searches are counted apart from everything else, and are not used here.
    if text(headers, "x-ratelimit-remaining") != Some("0")
        || text(headers, "x-ratelimit-resource").is_some_and(|resource| resource != "core")
    {
        return None;
    }
    let reset: i64 = text(headers, "x-ratelimit-reset")?.trim().parse().ok()?;
    let reset = Timestamp::from_second(reset).ok()?;
    let there = text(headers, "date").and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
    let there = there.map_or(now, |date| date.timestamp());
    let left = Duration::try_from(reset.duration_since(there)).unwrap_or(Duration::ZERO);
    Some((left + Duration::from_secs(1)).min(MOST_CLOSED))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn each_form_of_a_limit_is_understood_and_a_plain_refusal_is_none() {
        let s = Duration::from_secs;
        let date = ("date", "Fri, 20 Nov 2026 08:00:00 GMT");
        let reset = ("x-ratelimit-reset", "1795162500"); // 08:15 on that day
        let cases: [(u16, HeaderMap, &str, Option<Duration>); 9] = [
            (403, headers(&[]), "Resource not accessible by integration", None),
            (403, headers(&[]), "You have exceeded a secondary rate limit.", Some(s(60))),
            (403, headers(&[("retry-after", "7")]), "wait", Some(s(7))),
            (403, headers(&[("x-ratelimit-remaining", "0"), reset, date]), "API rate limit exceeded", Some(s(901))),
            (429, headers(&[]), "", Some(s(60))),
            (429, headers(&[("retry-after", "0")]), "", Some(s(1))),
            (429, headers(&[("retry-after", "999999")]), "", Some(MOST_CLOSED)),
            (404, headers(&[("retry-after", "7")]), "Not Found", None),
            (200, headers(&[("x-ratelimit-remaining", "17")]), "", None),
        ];
        for (status, headers, message, lasts) in cases {
            let gate = Gate::new(Env::system());
            assert_eq!(gate.learn(status, &headers, message), lasts, "{status} {message} {headers:?}");
            assert_eq!(gate.left().is_some(), lasts.is_some());
        }
        let gate = Gate::new(Env::system());
        assert_eq!(gate.learn(200, &headers(&[("x-ratelimit-remaining", "0"), reset, date]), ""), None);
        assert!(gate.left().unwrap() > s(890), "the last call that was left closes it");
        let gate = Gate::new(Env::system());
        let waits: Vec<_> = (0..6).filter_map(|_| gate.learn(403, &headers(&[]), "secondary rate limit")).collect();
        assert_eq!(waits, [60, 120, 240, 480, 900, 900].map(s), "whoever is told again waits longer");
    }
}
