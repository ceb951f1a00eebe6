//! What tickets and pull requests have in common: their identity, the proposal, and how what became of it ends a step.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::base::hash::Hash;
use crate::domain::activity::Activity;
use crate::domain::definition::{Step, StepBody};
use crate::domain::entry::StepEnd;
use crate::domain::proposal::{Proposal, Proposed, PublishState, Published};
use crate::ports::durable::Stop;
use crate::ports::step::StepCall;

use super::{E_LIMITED, data};

/// Characters of the readable part of a key.
const MOST_SLUG: usize = 40;
/// Hex digits of the part that is the identity.
const ID: usize = 8;

/// By which it is found again: of the pipeline and of what it is about, never of a model's words. The words in front are for
/// people only. Fit for a file name and a branch.
pub(super) fn key(pipeline: &str, fingerprints: &[String], words: &str) -> String {
    let parts = std::iter::once(pipeline).chain(fingerprints.iter().map(String::as_str)).map(str::as_bytes);
    let id = Hash::of_parts(parts).to_string();
    let id = id.get(..ID).unwrap_or(&id);
    let slug = slug(words);
    if slug.is_empty() { id.to_owned() } else { format!("{slug}-{id}") }
}

/// Sorted and each once, without what is empty.
pub(super) fn fingerprints(found: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut prints: Vec<String> = found.into_iter().filter(|print| !print.trim().is_empty()).collect();
    prints.sort();
    prints.dedup();
    prints
}

/// `ParseError` → `parse-error`, `clippy::unwrap_used` → `clippy-unwrap-used`.
pub(super) fn slug(words: &str) -> String {
    let mut out = String::new();
    let mut before = ' ';
    for c in words.chars() {
        if out.len() >= MOST_SLUG {
            break;
        }
        if c.is_ascii_alphanumeric() {
            let hump = c.is_ascii_uppercase() && (before.is_ascii_lowercase() || before.is_ascii_digit());
            if hump && !out.is_empty() && !out.ends_with('-') {
                out.push('-');
            }
            out.push(c.to_ascii_lowercase());
        } else if !out.is_empty() && !out.ends_with('-') {
            out.push('-');
        }
        before = c;
    }
    out.trim_matches('-').to_owned()
}

/// How long is waited for a service's limit to end before it is tried again. Windows of limits are an hour at most.
const WAITS: [Duration; 4] = [
    Duration::from_secs(2 * 60),
    Duration::from_secs(10 * 60),
    Duration::from_secs(20 * 60),
    Duration::from_secs(35 * 60),
];

/// Hands a proposal over.
pub(super) async fn publish(
    call: &StepCall<'_>,
    sink: &str,
    key: String,
    fingerprints: Vec<String>,
    what: Proposed,
) -> Result<Published, Stop> {
    publish_as(call, "", sink, key, fingerprints, what).await
}

/// The same below this label. A limit of the service is waited for.
pub(super) async fn publish_as(
    call: &StepCall<'_>,
    label: &str,
    sink: &str,
    key: String,
    fingerprints: Vec<String>,
    what: Proposed,
) -> Result<Published, Stop> {
    let run = call.ctx.run();
    let proposal = Proposal {
        sink: sink.to_owned(),
        key,
        fingerprints,
        same: Vec::new(),
        at: run.started_at,
        effects: run.effects,
        pipeline: call.pipeline.name.clone(),
        definition: run.definition.to_string(),
        run: run.id.to_string(),
        what,
    };
    let mut waits = WAITS.iter().enumerate();
    let mut path = format!("{label}publish");
    loop {
        let failure = match call.ctx.perform(&path, Activity::Publish(Box::new(proposal.clone()))).await {
            Ok(published) => return published.decode(),
            Err(Stop::Failed(failure)) if failure.code == E_LIMITED => failure,
            Err(stop) => return Err(stop),
        };
        let Some((number, wait)) = waits.next() else { return Err(Stop::Failed(failure)) };
        call.ctx.note("waiting", json!({"for_s": wait.as_secs(), "reason": failure.message}));
        call.ctx.sleep(&format!("{label}limit-{}", number + 1), *wait).await?;
        path = format!("{label}publish-{}", number + 2);
    }
}

/// Closes the tickets of findings that are gone, where the pipeline opens any. What keeps it from that is told, and fails nothing.
///
/// Errors: only final stops.
pub(super) async fn close_gone(call: &StepCall<'_>, gone: &[Value], why: &str) -> Result<(), Stop> {
    let opens = |step: &Step| matches!(&step.body, StepBody::Kind { kind, .. } if kind == "ticket");
    let prints = fingerprints(gone.iter().filter_map(|item| item["key"].as_str()).map(str::to_owned));
    if prints.is_empty() || !call.pipeline.walk().iter().any(|(_, step)| opens(step)) {
        return Ok(());
    }
    let key = key(&call.pipeline.name, &prints, "gone");
    let what = Proposed::CloseTicket { why: why.to_owned() };
    match publish(call, "tickets", key, prints, what).await {
        Ok(published) if published.state.acted() => {
            call.ctx.note("closed", json!({"key": published.receipt.key, "text": published.note}));
            Ok(())
        }
        Ok(_) => Ok(()),
        Err(stop) if stop.is_final() => Err(stop),
        Err(stop) => {
            call.ctx.note("not_closed", json!({"reason": stop.to_string()}));
            Ok(())
        }
    }
}

/// The step's end. `acted` when something is otherwise than before, `reported` when preview would have done it.
pub(super) fn end(published: &Published, title: &str) -> StepEnd {
    let receipt = &published.receipt;
    let (word, outcome) = match published.state {
        PublishState::Opened => ("opened", "acted"),
        PublishState::Updated => ("updated", "acted"),
        PublishState::Closed => ("closed", "acted"),
        PublishState::Unchanged => ("as before", "done"),
        PublishState::WouldHave => ("would have been opened", "reported"),
        PublishState::LeftAlone => ("left alone", "done"),
        PublishState::Refused => ("held back", "done"),
    };
    // Few names at the top: where the step runs per item they stand beside the item's own.
    let about = json!({"state": published.state, "key": receipt.key, "title": title, "note": published.note});
    let fields = [
        ("opened", (published.state == PublishState::Opened).into()),
        ("updated", (published.state == PublishState::Updated).into()),
        ("url", receipt.url_or_path.as_str().into()),
        ("published", about),
        ("receipts", if published.state.is_there() { json!([receipt]) } else { json!([]) }),
    ];
    let fields: Map<String, Value> = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let what = match (published.note.is_empty(), published.state) {
        (true, _) => word.to_owned(),
        (false, PublishState::Opened | PublishState::WouldHave | PublishState::Refused) => published.note.clone(),
        (false, _) => format!("{word}: {}", published.note),
    };
    let summary = if receipt.url_or_path.is_empty() { what } else { format!("{what} → {}", receipt.url_or_path) };
    data::end(outcome, fields, summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_pipeline_and_what_it_is_about_and_fits_a_file_and_a_branch() {
        let prints = fingerprints(["b".to_owned(), "a".to_owned(), "b".to_owned(), " ".to_owned()]);
        assert_eq!(prints, ["a", "b"]);
        let one = key("error-to-pr", &prints, "ParseError");
        assert!(one.starts_with("parse-error-") && one.len() == "parse-error-".len() + ID, "{one}");
        let id = |key: &str| key.rsplit_once('-').unwrap().1.to_owned();
        assert_eq!(id(&one), id(&key("error-to-pr", &prints, "other words")));
        assert_ne!(id(&one), id(&key("other", &prints, "ParseError")));
        assert_ne!(id(&one), id(&key("error-to-pr", &prints[..1], "ParseError")));
        for evil in ["", "../../etc", "a\u{202e}b", "💥", "-x", "A".repeat(500).as_str(), "HTTPError2Foo"] {
            let key = key("p", &prints, evil);
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(key.chars().all(plain) && !key.starts_with('-') && !key.contains("--") && key.len() < 60, "{key}");
        }
        assert_eq!(slug("HTTPError2Foo"), "httperror2-foo");
    }
}
