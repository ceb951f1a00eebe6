//! `/hooks/github`: the ledger learns at once what people did with our pull requests and tickets.
//!
//! Only what a run of ours has tied to that very address counts: nothing in the delivery's own words says whose it is.

use std::sync::{Arc, Weak};

use super::Holder;
use crate::daemon::Inner;
use crate::domain::definition::StepBody;
use crate::domain::finding::{TieKind, TieState};
use crate::domain::proposal::{EndedWork, WorkEnd};
use crate::journal::{Error, NewTie, NotPlanned};
use crate::triggers::github::{self, Ended, Rejected, What};
use crate::triggers::hook::{HookAnswer, HookRequest, Hooks};

const HOOK: &str = "github";

/// Takes deliveries where GitHub's webhook secret is configured.
pub(super) fn add(holder: &Holder, hooks: &mut Hooks) {
    let library = holder.library();
    if library.settings.services.github.as_ref().is_none_or(|github| github.secret("webhook_secret").is_none()) {
        return;
    }
    let inner = Arc::downgrade(&holder.inner);
    let handler = move |request| {
        let inner = inner.clone();
        let answered: crate::base::BoxFuture<'static, HookAnswer> = Box::pin(answer(inner, request));
        answered
    };
    hooks.add(HOOK, Arc::new(handler));
}

async fn answer(inner: Weak<Inner>, request: HookRequest) -> HookAnswer {
    let Some(inner) = inner.upgrade() else { return HookAnswer::status(503) };
    let holder = Holder { inner };
    let library = holder.library();
    let secret = library.settings.services.github.as_ref().and_then(|github| github.secret("webhook_secret"));
    let secrets = match secret.map(|secret| secret.read_all()) {
        Some(Ok(secrets)) => secrets,
        Some(Err(error)) => {
            tracing::error!(%error, "GitHub's webhook secret cannot be read, so nothing is taken from it");
            return HookAnswer::status(503);
        }
        None => return HookAnswer::status(404),
    };
    let told = match github::open(&request, &secrets) {
        Ok(told) => told,
        Err(Rejected::Signature) => return HookAnswer::status(401),
        Err(Rejected::Body) => return HookAnswer::status(400),
    };
    let ended = match told.what {
        What::Ping => return HookAnswer::text(200, "pong"),
        What::Nothing => return HookAnswer::text(202, "nothing to do"),
        What::Ended(ended) => ended,
    };
    match take(&holder, &told.id, &ended).await {
        Ok(said) => HookAnswer::text(202, said),
        Err(error) => {
            tracing::error!(%error, "what GitHub tells cannot be recorded");
            HookAnswer::status(503)
        }
    }
}

/// Tells every ledger that knows this address, then remembers the delivery: what is told twice counts once.
async fn take(holder: &Holder, id: &str, ended: &Ended) -> Result<&'static str, Error> {
    let journal = holder.journal();
    if journal.reader().was_delivered(HOOK, id)? {
        return Ok("known");
    }
    let tied = journal.reader().tied_to_url(&ended.url)?;
    for tie in &tied {
        let Some(how) = ended.how else {
            let open = NewTie {
                kind: tie.kind,
                destination: tie.destination.clone(),
                url: ended.url.clone(),
                key: tie.key.clone(),
                state: TieState::Open,
            };
            journal.tie(&tie.run, open, Vec::new()).await?;
            continue;
        };
        // A pull request cannot be "not planned", and an issue cannot be merged.
        let how = match (tie.kind, how) {
            (TieKind::PullRequest, WorkEnd::NotPlanned) | (TieKind::Ticket, WorkEnd::Merged) => WorkEnd::Closed,
            (_, how) => how,
        };
        let work = EndedWork { key: tie.key.clone(), url: ended.url.clone(), fingerprints: Vec::new(), how };
        journal.tended(&tie.run, &tie.destination, vec![work], not_planned(holder, &tie.pipeline)).await?;
        tracing::info!(pipeline = tie.pipeline, url = ended.url, ?how, "a person ended what was published");
    }
    journal.note_delivery(HOOK, id).await?;
    Ok(if tied.is_empty() { "not ours" } else { "noted" })
}

/// What the pipeline's tickets say, as its runs read it.
fn not_planned(holder: &Holder, pipeline: &str) -> NotPlanned {
    let library = holder.library();
    let reopens = library.pipelines.get(pipeline).is_some_and(|(_, pipeline)| {
        pipeline.walk().iter().any(|(_, step)| match &step.body {
            StepBody::Kind { kind, options, .. } => {
                kind == "ticket" && options.text("closed_as_not_planned") == Some("reopen")
            }
            _ => false,
        })
    });
    if reopens { NotPlanned::Reopen } else { NotPlanned::Mute }
}
