//! Tickets as GitHub's issues.

use jiff::Timestamp;

use crate::domain::proposal::{EndedWork, Proposal, Published, TicketText};
use crate::ports::publisher::{PublishError, PublisherSetup};
use crate::ports::sink::Earlier;

pub(super) async fn publish(
    _: &PublisherSetup,
    _: &Proposal,
    _: &TicketText,
    _: Earlier,
) -> Result<Published, PublishError> {
    Err(PublishError::Refused { message: "tickets on GitHub come with a later version".into() })
}

pub(super) async fn close(_: &PublisherSetup, _: &Proposal, _: &str, _: Earlier) -> Result<Published, PublishError> {
    Err(PublishError::Refused { message: "tickets on GitHub come with a later version".into() })
}

pub(super) async fn tend(_: &PublisherSetup, _: &str, _: Timestamp) -> Result<Vec<EndedWork>, PublishError> {
    Ok(Vec::new())
}
