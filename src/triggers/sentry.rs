//! Errors as a trigger: whoever sees one tells it here, and it waits in the journal until it is a run or it is known why not.
//!
//! Three ways in: our own intake (`Handle::seen`), Sentry's webhooks and polling Sentry. All end in [`Journal::note_errors`], so that a
//! flood of one error costs one row and one run. What is told is durable before anybody is answered. This module decides nothing
//! about standings: the journal does, beside the ledger.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::sync::{Notify, watch};

use crate::domain::finding::Standing;
use crate::journal::{self, Journal, Listener, Noted, SeenError};

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
}

impl Handle {
    /// Nobody listens yet: see [`Handle::set_watches`].
    pub fn new(journal: Journal) -> Self {
        Self { journal, watches: watch::Sender::new(Arc::default()), wake: Arc::default() }
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
