//! `github`: draft pull requests and issues as tickets on GitHub. `pull` and `ticket` hold how each is found, made and kept.

mod pull;
mod ticket;

use std::sync::Arc;

use jiff::Timestamp;

use crate::base::BoxFuture;
use crate::clients::github::GitHubError;
use crate::domain::proposal::{Proposal, Proposed, Published, Tended};
use crate::ports::publisher::{PublishError, Publisher, PublisherKind, PublisherSetup};
use crate::ports::sink::Earlier;

pub const KIND: PublisherKind = PublisherKind {
    name: "github",
    summary: "issues and draft pull requests on GitHub",
    takes: &["ticket", "pull_request"],
    local: false,
    make: Some(make),
};

fn make(setup: &PublisherSetup) -> Arc<dyn Publisher> {
    Arc::new(GitHubPublisher { setup: setup.clone() })
}

struct GitHubPublisher {
    setup: PublisherSetup,
}

impl Publisher for GitHubPublisher {
    fn publish<'a>(
        &'a self,
        proposal: &'a Proposal,
        earlier: Earlier,
    ) -> BoxFuture<'a, Result<Published, PublishError>> {
        Box::pin(async move {
            match &proposal.what {
                Proposed::PullRequest(pr) => pull::publish(&self.setup, proposal, pr, earlier).await,
                Proposed::Ticket(ticket) => ticket::publish(&self.setup, proposal, ticket, earlier).await,
                Proposed::CloseTicket { why } => ticket::close(&self.setup, proposal, why, earlier).await,
                Proposed::ErrorNote(_) => Err(PublishError::Refused {
                    message: "`github` takes tickets and pull requests, not notes for a tracker of errors".into(),
                }),
            }
        })
    }

    fn tend<'a>(&'a self, pipeline: &'a str, now: Timestamp) -> BoxFuture<'a, Result<Tended, PublishError>> {
        Box::pin(async move {
            let mut tended = pull::tend(&self.setup, pipeline, now).await?;
            tended.ended.extend(ticket::tend(&self.setup, pipeline, now).await?);
            Ok(tended)
        })
    }
}

/// What a call's failure means for a publication. `looked`: it was looked for afterwards, and that did not tell.
fn error(error: GitHubError) -> PublishError {
    let message = error.to_string();
    match error {
        GitHubError::Missing { message, help } => PublishError::Missing { message, help },
        GitHubError::Credential { secret, .. } => {
            let help = format!("replace the secret `{secret}`; runs that wait for it go on by themselves");
            PublishError::Credential { secret, message, help }
        }
        GitHubError::Forbidden { .. } | GitHubError::NotFound { .. } => PublishError::Missing {
            message,
            help: "give the token this right, and the App this repository: nightcrew connect github".into(),
        },
        GitHubError::Conflict { .. } | GitHubError::Invalid { .. } => PublishError::Refused { message },
        GitHubError::RateLimited { after } => PublishError::Unavailable { message, after: Some(after) },
        GitHubError::Unavailable { .. } => PublishError::Unavailable { message, after: None },
        GitHubError::Ambiguous { .. } => PublishError::Unknown { message },
    }
}
