//! Errors as a trigger: whoever sees one tells it here, and it waits in the journal until it is a run or it is known why not.
//!
//! Three ways in: our own intake (`Handle::seen`), Sentry's webhooks and polling Sentry. All end in [`Journal::note_errors`], so that a
//! flood of one error costs one row and one run. What is told is durable before anybody is answered. This module decides nothing
//! about standings: the journal does, beside the ledger.

mod hook;
mod poll;
mod turn;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::sync::{Notify, watch};

use crate::clients::sentry::Sentry;
use crate::domain::finding::{Seen as Sighting, Standing};
use crate::journal::{self, Journal, Listener, Noted, SeenError};
use crate::policy::errors::rest;

pub use hook::{HookSetup, handler};
pub use poll::Poller;
pub use turn::{Fire, Fired, Loop};

/// Sentry's API as it is configured now; `None`: it is not.
pub type Api = Arc<dyn Fn() -> Option<Arc<Sentry>> + Send + Sync>;

/// Who tells of the errors of a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// Our own intake.
    Intake,
    /// Sentry: polled, and by its webhooks.
    Sentry,
}

/// A pipeline with `on.sentry`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    pub pipeline: String,
    pub project: String,
    pub origin: Origin,
    pub when: Vec<Standing>,
    /// How long it waits for more of the same.
    pub debounce: Duration,
    /// How often it is polled.
    pub every: Duration,
}

impl Watch {
    fn listener(&self) -> Listener {
        Listener { pipeline: self.pipeline.clone(), debounce: self.debounce }
    }
}

/// An error that our own intake has received: a group that is new, has grown or is back.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// The project's name in `intake.projects`.
    pub project: String,
    /// The group's key.
    pub key: String,
    /// What the one who tells knows of it; the ledger of each pipeline has the last word. `Regressed`: it was resolved and is back.
    pub hint: Option<Standing>,
    /// The row that a run is handed: as `policy::errors::group::row` makes it.
    pub item: Map<String, Value>,
    /// Of the last event.
    pub seen_at: Timestamp,
}

/// Where errors are told. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    journal: Journal,
    watches: watch::Sender<Arc<Vec<Watch>>>,
    wake: Arc<Notify>,
    /// Slugs of Sentry's projects by their id, as they were read.
    slugs: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Handle {
    /// Nobody listens yet: see [`Handle::set_watches`].
    pub fn new(journal: Journal) -> Self {
        Self { journal, watches: watch::Sender::new(Arc::default()), wake: Arc::default(), slugs: Arc::default() }
    }

    /// The pipelines that listen from now on.
    pub fn set_watches(&self, watches: Vec<Watch>) {
        self.watches.send_replace(Arc::new(watches));
        self.wake.notify_one();
    }

    /// The pipelines that listen now.
    pub fn watches(&self) -> Arc<Vec<Watch>> {
        self.watches.borrow().clone()
    }

    /// Who wants to hear of an error of Sentry's project that is called by any of these.
    fn listeners(&self, names: &[String]) -> Vec<Listener> {
        let is_it = |project: &str| names.iter().any(|name| name.eq_ignore_ascii_case(project));
        let watches = self.watches();
        let theirs = watches.iter().filter(|watch| watch.origin == Origin::Sentry && is_it(&watch.project));
        theirs.map(Watch::listener).collect()
    }

    /// Remembers what a project is called: a webhook may name only its id.
    fn learn(&self, issue: &Value) {
        let own = |name: &str| issue.get("project").and_then(|project| project.get(name));
        if let Some((id, slug)) = own("id").and_then(rest::id).zip(own("slug").and_then(Value::as_str)) {
            let mut slugs = self.slugs.lock().unwrap_or_else(PoisonError::into_inner);
            // An organization has hundreds, not more.
            if slugs.len() < 10_000 {
                slugs.insert(id, slug.to_owned());
            }
        }
    }

    fn slug(&self, id: &str) -> Option<String> {
        self.slugs.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Whether any pipeline wants errors of this project from our own intake. Cheap: ask before a row is made.
    pub fn listens(&self, project: &str) -> bool {
        self.watches.borrow().iter().any(|watch| watch.origin == Origin::Intake && watch.project == project)
    }

    /// Our own intake has seen these. They are durable when it returns; telling them again is harmless. Cancel safe: what was
    /// queued is noted.
    pub async fn seen(&self, errors: Vec<Seen>) -> Result<Noted, journal::Error> {
        let mut all = Noted::default();
        let mut rest = errors;
        while let Some(project) = rest.first().map(|error| error.project.clone()) {
            let (these, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(|error| error.project == project);
            rest = others;
            let listeners: Vec<_> = self
                .watches()
                .iter()
                .filter(|watch| watch.origin == Origin::Intake && watch.project == project)
                .map(Watch::listener)
                .collect();
            if listeners.is_empty() {
                continue;
            }
            let noted =
                self.journal.note_errors(None, listeners, these.into_iter().map(SeenError::from).collect(), None);
            let noted = noted.await?;
            all.waiting += noted.waiting;
            all.known += noted.known;
            all.dropped += noted.dropped;
        }
        if all.waiting > 0 {
            self.wake.notify_one();
        }
        Ok(all)
    }
}

impl From<Seen> for SeenError {
    fn from(seen: Seen) -> Self {
        let Seen { key, hint, item, seen_at, .. } = seen;
        Self { key, item, whole: true, seen_at, state: None, back: hint == Some(Standing::Regressed) }
    }
}

/// An issue of Sentry's API or webhooks as the journal is told of it. `None`: it has no id.
fn from_issue(issue: &Value, now: Timestamp, back: bool) -> Option<SeenError> {
    let item = rest::row(issue, None, now)?;
    Some(SeenError {
        key: rest::key_of(&rest::issue_id(issue)?),
        item,
        whole: false,
        seen_at: rest::last_seen(issue).unwrap_or(now),
        state: rest::state(issue).map(str::to_owned),
        back,
    })
}

/// The item as the ledger sees it: its weight is how many users are hit, else how often it happened, else 1.
fn sighting(key: &str, item: &Map<String, Value>, seen_at: Timestamp) -> Sighting {
    let number = |name: &str| item.get(name).and_then(Value::as_f64).filter(|number| *number > 0.0);
    let text = |name: &str| item.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    Sighting {
        fingerprint: key.to_owned(),
        title: text("title"),
        weight: number("users").or(number("count")).unwrap_or(1.0),
        place: text("culprit"),
        last_at: Some(seen_at),
    }
}
