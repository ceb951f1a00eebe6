//! `on.sentry.tell`: Sentry hears what became of its issues: the link of a pull request or ticket, whom it is for, and that it is
//! resolved once the pull request is in.
//!
//! Only in live, only what the YAML says, only of issues of Sentry's (our own intake has nobody to tell). A note that cannot be made
//! fails nothing: it is noted in the run.

use serde_json::json;

use crate::base::hash::Hash;
use crate::domain::activity::Activity;
use crate::domain::definition::{Pipeline, TellDef};
use crate::domain::finding::Handled;
use crate::domain::proposal::{EndedWork, ErrorNote, Proposal, Proposed, Published, WorkEnd};
use crate::domain::run::Effects;
use crate::policy::errors::rest;
use crate::ports::durable::{DurableContext, Stop};

/// Notes of one kind in one run.
const MOST: usize = 20;
/// The name that a profile binds; `sentry` where it binds nothing.
const SINK: &str = "errors";

/// The run has ended with these. Errors: only final stops.
pub(super) async fn handled(ctx: &dyn DurableContext, pipeline: &Pipeline, handled: &[Handled]) -> Result<(), Stop> {
    let Some(tell) = wanted(ctx, pipeline) else { return Ok(()) };
    let mut told = 0;
    for Handled { seen, end, place } in handled {
        let Some(issue) = rest::issue_of(&seen.fingerprint) else { continue };
        let Some(url) = place.as_deref().filter(|place| place.starts_with("http")) else { continue };
        let (what, text) = match end.as_str() {
            "pull_request" => ("Pull request", "A draft pull request with a proved fix is open."),
            "ticket" => ("Ticket", "A ticket is open for this."),
            _ => continue,
        };
        if told == MOST {
            ctx.note("not_told", json!({"reason": format!("more than {MOST} notes in one run")}));
            break;
        }
        told += 1;
        let links = if tell.comment { vec![(what.to_owned(), url.to_owned())] } else { Vec::new() };
        let note = ErrorNote {
            issue: issue.to_owned(),
            text: if tell.comment { text.to_owned() } else { String::new() },
            links,
            assign: tell.assign.clone(),
            resolve: false,
        };
        send(ctx, pipeline, &seen.fingerprint, &format!("{end} {url}"), note).await?;
    }
    Ok(())
}

/// This work of earlier runs has ended. Errors: only final stops.
pub(super) async fn ended(ctx: &dyn DurableContext, pipeline: &Pipeline, ended: &[EndedWork]) -> Result<(), Stop> {
    let Some(tell) = wanted(ctx, pipeline).filter(|tell| tell.resolve) else { return Ok(()) };
    let merged = ended.iter().filter(|work| work.how == WorkEnd::Merged);
    let issues = merged.flat_map(|work| work.fingerprints.iter().map(move |print| (work, print)));
    let issues = issues.filter_map(|(work, print)| Some((work, print, rest::issue_of(print)?)));
    for (work, print, issue) in issues.take(MOST) {
        let note = ErrorNote {
            issue: issue.to_owned(),
            text: if tell.comment {
                "The fix is merged: resolved with the next release.".to_owned()
            } else {
                String::new()
            },
            links: if tell.comment { vec![("Pull request".to_owned(), work.url.clone())] } else { Vec::new() },
            assign: None,
            resolve: true,
        };
        send(ctx, pipeline, print, &format!("merged {}", work.url), note).await?;
    }
    Ok(())
}

fn wanted<'a>(ctx: &dyn DurableContext, pipeline: &'a Pipeline) -> Option<&'a TellDef> {
    let tell = pipeline.on.sentry.as_ref()?.tell.as_ref()?;
    (ctx.run().effects == Effects::Live).then_some(tell)
}

async fn send(
    ctx: &dyn DurableContext,
    pipeline: &Pipeline,
    fingerprint: &str,
    about: &str,
    note: ErrorNote,
) -> Result<(), Stop> {
    let run = ctx.run();
    // The same for the same news in every run.
    let id = Hash::of_parts([fingerprint, about].map(str::as_bytes)).short();
    let proposal = Proposal {
        sink: SINK.to_owned(),
        key: format!("note-{id}"),
        fingerprints: vec![fingerprint.to_owned()],
        same: Vec::new(),
        at: run.started_at,
        effects: run.effects,
        pipeline: pipeline.name.clone(),
        definition: run.definition.to_string(),
        run: run.id.to_string(),
        what: Proposed::ErrorNote(Box::new(note)),
    };
    let answer = match ctx.perform(&format!("tell-{id}"), Activity::Publish(Box::new(proposal))).await {
        Ok(recorded) => recorded.decode::<Published>().map(drop),
        Err(stop) => Err(stop),
    };
    match answer {
        Ok(()) => Ok(()),
        Err(stop) if stop.is_final() => Err(stop),
        Err(stop) => {
            ctx.note("not_told", json!({"issue": fingerprint, "reason": stop.to_string()}));
            Ok(())
        }
    }
}
