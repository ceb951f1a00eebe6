//! What was published and delivered reaches the findings ledger, and what it knows of merged findings reaches publishers.
//!
//! A tie is written before the act's end is: what a crash cuts off in between is looked for again, found, and tied once more.

use crate::base::ids::RunId;
use crate::domain::activity::{Delivery, Receipt};
use crate::domain::definition::StepBody;
use crate::domain::finding::{TieKind, TieState};
use crate::domain::proposal::{Proposal, Proposed, PublishState, Published, Tended};
use crate::journal::{NewTie, NotPlanned};
use crate::ports::durable::Stop;

use super::embedded::journal_broken;
use super::executor::{At, Executor};

impl Executor {
    /// The proposal with all fingerprints that its own are one with: what was merged in an earlier run is found by any of them.
    pub(super) fn with_same(&self, run: &RunId, mut proposal: Proposal) -> Result<Proposal, Stop> {
        if matches!(proposal.what, Proposed::Ticket(_) | Proposed::PullRequest(_)) {
            let same = self.journal.reader().same_findings(run, &proposal.fingerprints).map_err(journal_broken)?;
            proposal.same = same.into_iter().filter(|print| !proposal.fingerprints.contains(print)).collect();
        }
        Ok(proposal)
    }

    /// Findings are tied to the ticket or pull request that is about them.
    pub(super) async fn tie_published(&self, at: &At, proposal: &Proposal, published: &Published) -> Result<(), Stop> {
        let kind = match &proposal.what {
            Proposed::Ticket(_) | Proposed::CloseTicket { .. } => TieKind::Ticket,
            Proposed::PullRequest(_) => TieKind::PullRequest,
            Proposed::ErrorNote(_) => return Ok(()),
        };
        let state = match published.state {
            PublishState::Opened | PublishState::Updated | PublishState::Unchanged => TieState::Open,
            PublishState::Closed => TieState::Closed,
            // What a person did with it is told by `tend`.
            PublishState::WouldHave | PublishState::LeftAlone | PublishState::Refused => return Ok(()),
        };
        // What is gone may have been of several tickets: whatever is tied to this one ends with it, and nothing is merged.
        let prints = match &proposal.what {
            Proposed::CloseTicket { .. } => Vec::new(),
            Proposed::Ticket(_) | Proposed::PullRequest(_) | Proposed::ErrorNote(_) => proposal.fingerprints.clone(),
        };
        self.tie(at, kind, state, &published.receipt, prints).await
    }

    /// Findings are tied to the message that tells of them.
    pub(super) async fn tie_delivered(&self, at: &At, delivery: &Delivery, receipt: &Receipt) -> Result<(), Stop> {
        if receipt.destination != TieKind::Slack.as_str() || delivery.report.findings.is_empty() {
            return Ok(());
        }
        let prints = delivery.report.findings.iter().map(|finding| finding.fingerprint.clone());
        let prints: Vec<String> = prints.filter(|print| !print.is_empty()).collect();
        self.tie(at, TieKind::Slack, TieState::Open, receipt, prints).await
    }

    async fn tie(
        &self,
        at: &At,
        kind: TieKind,
        state: TieState,
        receipt: &Receipt,
        prints: Vec<String>,
    ) -> Result<(), Stop> {
        let tie = NewTie {
            kind,
            destination: receipt.destination.clone(),
            url: receipt.url_or_path.clone(),
            key: receipt.key.clone(),
            state,
        };
        self.journal.tie(&at.run, tie, prints).await.map_err(journal_broken)
    }

    /// What people did with what this pipeline published: their findings are fixed or muted by it.
    pub(super) async fn remember_tended(&self, at: &At, destination: &str, tended: &Tended) -> Result<(), Stop> {
        if tended.ended.is_empty() {
            return Ok(());
        }
        let reopens = self.bound.pipeline.walk().iter().any(|(_, step)| match &step.body {
            StepBody::Kind { kind, options, .. } => {
                kind == "ticket" && options.text("closed_as_not_planned") == Some("reopen")
            }
            _ => false,
        });
        let not_planned = if reopens { NotPlanned::Reopen } else { NotPlanned::Mute };
        let told = self.journal.tended(&at.run, destination, tended.ended.clone(), not_planned).await;
        told.map_err(journal_broken)
    }
}
