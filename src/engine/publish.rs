//! Proposals become tickets and pull requests: policy first, then find or create, then a receipt.
//!
//! The destination is what the profile binds, never what a model says. A publisher that reaches anybody else is not even made in
//! preview. Before a pull request everything about it is looked at again (`inspect`). All texts pass the redactor on their way out.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;
use serde_json::value::RawValue;

use crate::domain::activity::Receipt;
use crate::domain::code::{BlobId, CommitId, TreeId};
use crate::domain::definition::StepBody;
use crate::domain::entry::EntryKind;
use crate::domain::proposal::{Proposal, Proposed, PublishState, Published, Tended};
use crate::domain::run::{Effects, Failure};
use crate::ports::durable::Stop;
use crate::ports::publisher::{Branches, PublishError, PublisherKind, TreeChange};
use crate::steps::{E_BASE, E_LIMITED};
use crate::workspace::Repository;

use super::embedded::{journal_broken, raw};
use super::executor::{At, Executor};

const E_PUBLISH: &str = "E-PUBLISH";

impl Executor {
    /// Publishes, or says what preview would have published. Not cancel safe: dropped half-way, the act is ambiguous.
    ///
    /// Errors: `Unsafe` when policy or the proof refuses it, `Blocked` when nothing that is bound can take it.
    pub(super) async fn publish(&self, at: At, proposal: &Proposal) -> Result<Arc<RawValue>, Stop> {
        if let Proposed::PullRequest(pr) = &proposal.what {
            let looked = match self.inspect(&at.run, pr).await {
                Ok(looked) => looked,
                Err(stop) => return self.not_published(&at, stop).await,
            };
            if let Err(refusal) = looked {
                for reason in &refusal.reasons {
                    let note = json!({"note": "refused", "text": format!("a pull request: {reason}")});
                    self.journal.append_lazy(self.entry(&at, EntryKind::Note, raw(&note)));
                }
                return self.not_published(&at, refusal.stop()).await;
            }
        }
        let kind = match self.publisher(proposal) {
            Ok(kind) => kind,
            Err(stop) => return self.not_published(&at, stop).await,
        };
        let proposal: Proposal = match serde_json::from_str(self.redacted(raw(proposal)).get()) {
            Ok(proposal) => proposal,
            Err(error) => {
                let failure =
                    Failure::new(E_PUBLISH, format!("without its secrets the proposal cannot be read: {error}"));
                return self.not_published(&at, Stop::Failed(failure)).await;
            }
        };
        if !kind.local && proposal.effects == Effects::Preview {
            let output = self.redacted(raw(&would_have(kind, &proposal)));
            self.journal.append_lazy(self.entry(&at, EntryKind::ActivityDone, output.clone()));
            return Ok(Arc::from(output));
        }
        let Some(make) = kind.make else {
            let stop = self.unable(&proposal, format!("publishing through `{}` comes with a later version", kind.name));
            return self.not_published(&at, stop).await;
        };
        if let Some(stop) = self.bound.known_refusal(kind.name) {
            return self.not_published(&at, stop).await;
        }
        let branches = match &proposal.what {
            Proposed::PullRequest(_) => match self.repository().await {
                Ok(repository) => Some(Arc::new(PrivateBranches(repository)) as Arc<dyn Branches>),
                Err(stop) => return self.not_published(&at, stop).await,
            },
            Proposed::Ticket(_) | Proposed::CloseTicket { .. } | Proposed::ErrorNote(_) => None,
        };
        let publisher = make(&self.bound.publisher_setup(branches));
        let proposal = self.with_same(&at.run, proposal)?;
        let payload = json!({"kind": "publish", "publisher": kind.name, "proposal": proposal});
        let intended = self.journal.intend(self.entry(&at, EntryKind::ActivityIntended, raw(&payload)), None).await;
        let intended = intended.map_err(journal_broken)?;
        let (entry, payload, answer) = match publisher.publish(&proposal, at.earlier).await {
            Ok(published) => {
                self.tie_published(&at, &proposal, &published).await?;
                if published.state == PublishState::Refused {
                    let note = json!({"note": "refused", "text": published.note});
                    self.journal.append_lazy(self.entry(&at, EntryKind::Note, raw(&note)));
                }
                let output = self.redacted(raw(&published));
                (EntryKind::ActivityDone, output.clone(), Ok(Arc::from(output)))
            }
            Err(error) => {
                let stop = self.refused(kind.name, publish_stop(error));
                (EntryKind::ActivityFailed, raw(&stop), Err(stop))
            }
        };
        self.journal.settle(self.entry(&at, entry, payload), intended.seq, None).await.map_err(journal_broken)?;
        answer
    }

    /// Looks after what this pipeline has published. In preview nothing was published to others, and nothing is looked at. One
    /// publisher that keeps both tickets and drafts is asked once, for the drafts.
    pub(super) async fn tend(&self, at: &At, sink: &str, effects: Effects) -> Result<Tended, Stop> {
        let bound = |sink: &str| self.bound.profile.sinks.get(sink);
        let Some(name) = bound(sink) else { return Ok(Tended::default()) };
        if sink == "tickets" && bound("pull_requests") == Some(name) && self.opens_drafts() {
            return Ok(Tended::default());
        }
        let kind = self.bound.registry.publisher(name).filter(|kind| kind.local || effects == Effects::Live);
        let Some((kind, make)) = kind.and_then(|kind| Some((kind, kind.make?))) else { return Ok(Tended::default()) };
        let publisher = make(&self.bound.publisher_setup(None));
        let tended = publisher.tend(&self.bound.pipeline.name, self.env.now()).await.map_err(publish_stop)?;
        self.remember_tended(at, kind.name, &tended).await?;
        Ok(tended)
    }

    fn opens_drafts(&self) -> bool {
        let steps = self.bound.pipeline.walk();
        steps.iter().any(|(_, step)| matches!(&step.body, StepBody::Kind { kind, .. } if kind == "pull_request"))
    }

    /// Nothing was begun, so there is nothing to settle.
    async fn not_published(&self, at: &At, stop: Stop) -> Result<Arc<RawValue>, Stop> {
        self.record_failure(at, &stop).await?;
        Err(stop)
    }

    /// What the profile binds for this.
    fn publisher(&self, proposal: &Proposal) -> Result<&'static PublisherKind, Stop> {
        let name = self.bound.profile.sinks.get(&proposal.sink).map_or(default_of(&proposal.what), String::as_str);
        let takes = takes(&proposal.what);
        match self.bound.registry.publisher(name) {
            Some(kind) if kind.takes.contains(&takes) => Ok(kind),
            Some(_) => Err(self.unable(proposal, format!("`{name}` takes no {}", takes.replace('_', " ")))),
            None => Err(self.unable(proposal, format!("`{name}` is no place for a {}", takes.replace('_', " ")))),
        }
    }

    fn unable(&self, proposal: &Proposal, message: String) -> Stop {
        let (sink, profile) = (&proposal.sink, &self.bound.profile.name);
        let local = default_of(&proposal.what);
        let help = format!("bind `{sink}` to `{local}` in the profile `{profile}`: sinks: {{{sink}: {local}}}");
        Stop::Blocked(Failure::new(E_PUBLISH, message).help(help))
    }
}

fn takes(what: &Proposed) -> &'static str {
    match what {
        Proposed::Ticket(_) | Proposed::CloseTicket { .. } => "ticket",
        Proposed::PullRequest(_) => "pull_request",
        Proposed::ErrorNote(_) => "error_note",
    }
}

/// What takes it on this machine.
fn default_of(what: &Proposed) -> &'static str {
    match what {
        Proposed::Ticket(_) | Proposed::CloseTicket { .. } => "files",
        Proposed::PullRequest(_) => "local_branch",
        Proposed::ErrorNote(_) => "sentry",
    }
}

fn would_have(kind: &PublisherKind, proposal: &Proposal) -> Published {
    let what = match &proposal.what {
        Proposed::Ticket(_) => "a ticket",
        Proposed::PullRequest(_) => "a draft pull request",
        Proposed::CloseTicket { .. } => "the end of a ticket",
        Proposed::ErrorNote(_) => "a note on the error",
    };
    Published {
        state: PublishState::WouldHave,
        receipt: Receipt {
            kind: takes(&proposal.what).into(),
            destination: kind.name.into(),
            url_or_path: String::new(),
            key: proposal.key.clone(),
            found: false,
        },
        note: format!("preview: {what} would have gone to {}", kind.name),
    }
}

/// A secret is refused by the service that it is for; its runs wait until it is replaced.
pub(super) const E_CREDENTIAL: &str = "E-CREDENTIAL";
/// It is not known whether an act happened; a person is told, and it is not done again.
pub(super) const E_UNKNOWN: &str = "E-UNKNOWN";

fn publish_stop(error: PublishError) -> Stop {
    let text = error.to_string();
    match error {
        PublishError::Missing { message, help } => Stop::Blocked(Failure::new(E_PUBLISH, message).help(help)),
        PublishError::Credential { secret, message, help } => {
            Stop::Blocked(Failure::new(E_CREDENTIAL, message).help(help).waits_for(secret))
        }
        PublishError::Unsafe { message, help } => Stop::Unsafe(Failure::new(E_PUBLISH, message).help(help)),
        PublishError::Unknown { .. } => Stop::Failed(
            Failure::new(E_UNKNOWN, text).help("look there by hand; `nightcrew resume` looks again before it acts"),
        ),
        PublishError::Unavailable { message, after: Some(_) } => {
            Stop::Failed(Failure::new(E_LIMITED, message).help("nightcrew resume tries it again"))
        }
        PublishError::Unavailable { message, after: None } => {
            Stop::Failed(Failure::new(E_PUBLISH, message).help("nightcrew resume tries it again"))
        }
        PublishError::BaseMoved { .. } => Stop::Failed(
            Failure::new(E_BASE, text).help("nightcrew resume looks at the base again and repeats the proof there"),
        ),
        PublishError::Refused { .. } => Stop::Failed(Failure::new(E_PUBLISH, text)),
        PublishError::Write { ref source, .. } => Stop::Failed(Failure::new(E_PUBLISH, format!("{text}: {source}"))),
    }
}

/// Branches of the private clone.
struct PrivateBranches(Arc<Repository>);

impl Branches for PrivateBranches {
    fn put(
        &self,
        branch: &str,
        tree: &TreeId,
        parent: &CommitId,
        message: &str,
        seconds: i64,
    ) -> Result<CommitId, String> {
        let put = || {
            let commit = self.0.commit(tree, std::slice::from_ref(parent), message, seconds)?;
            self.0.set_branch(branch, &commit)?;
            Ok(commit)
        };
        put().map_err(told)
    }

    fn find(&self, branch: &str) -> Result<Option<CommitId>, String> {
        self.0.branch(branch).map_err(told)
    }

    fn folder(&self) -> PathBuf {
        self.0.folder().to_owned()
    }

    fn changes(&self, base: &TreeId, new: &TreeId) -> Result<Vec<TreeChange>, String> {
        let changed = self.0.changes(base, new).map_err(told)?;
        Ok(changed.into_iter().map(|(path, mode, blob)| TreeChange { path, mode, blob }).collect())
    }

    fn blob(&self, id: &BlobId) -> Result<Vec<u8>, String> {
        self.0.blob(id).map_err(told)
    }

    fn file(&self, tree: &TreeId, path: &str) -> Result<Option<Vec<u8>>, String> {
        self.0.file(tree, path).map_err(told)
    }
}

fn told(error: crate::workspace::Error) -> String {
    match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
