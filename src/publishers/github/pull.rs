//! Draft pull requests on GitHub.

use jiff::Timestamp;

use crate::clients::github::GitHub;
use crate::domain::proposal::{Proposal, PublishState, Published, PullRequestText, Tended};
use crate::ports::publisher::{PublishError, PublisherSetup};
use crate::ports::sink::Earlier;

pub(super) async fn publish(
    setup: &PublisherSetup,
    proposal: &Proposal,
    pr: &PullRequestText,
    earlier: Earlier,
) -> Result<Published, PublishError> {
    let github = GitHub::of(&setup.outside).map_err(super::error)?;
    let _ = (proposal, pr, earlier, PublishState::Opened);
    github.login().await.map_err(super::error)?;
    Err(PublishError::Refused { message: "pull requests on GitHub come with a later version".into() })
}

pub(super) async fn tend(_: &PublisherSetup, _: &str, _: Timestamp) -> Result<Tended, PublishError> {
    Ok(Tended::default())
}
