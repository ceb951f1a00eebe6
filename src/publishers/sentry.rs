//! `sentry`: what became of an issue, told to Sentry: a comment with the link, who it is assigned to, that it is resolved.
//!
//! A comment bears a marker and is looked for before it is made; one whose end is not known is looked for again before it is sent a
//! second time. What a person did there stands: an issue that has somebody is not assigned, and one that is not open is not resolved.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::base::BoxFuture;
use crate::clients::sentry::{Sentry, SentryError};
use crate::domain::activity::Receipt;
use crate::domain::proposal::{ErrorNote, Proposal, Proposed, PublishState, Published};
use crate::ports::publisher::{PublishError, Publisher, PublisherKind, PublisherSetup};
use crate::ports::service::Outside;
use crate::ports::sink::Earlier;

pub const KIND: PublisherKind = PublisherKind {
    name: "sentry",
    summary: "notes on Sentry's issues",
    takes: &["error_note"],
    local: false,
    make: Some(make),
};

/// After a write whose end is not known: it may still be under way over there.
const BEFORE_LOOKING: Duration = Duration::from_secs(2);
const MOST_TEXT: usize = 500;
const MOST_URL: usize = 500;

fn make(setup: &PublisherSetup) -> Arc<dyn Publisher> {
    Arc::new(SentryPublisher { outside: setup.outside.clone() })
}

struct SentryPublisher {
    outside: Outside,
}

impl Publisher for SentryPublisher {
    fn publish<'a>(&'a self, proposal: &'a Proposal, _: Earlier) -> BoxFuture<'a, Result<Published, PublishError>> {
        Box::pin(async move {
            match &proposal.what {
                Proposed::ErrorNote(note) => self.tell(proposal, note).await,
                Proposed::Ticket(_) | Proposed::PullRequest(_) | Proposed::CloseTicket { .. } => {
                    Err(PublishError::Refused { message: "`sentry` takes notes on its issues and nothing else".into() })
                }
            }
        })
    }
}

impl SentryPublisher {
    async fn tell(&self, proposal: &Proposal, note: &ErrorNote) -> Result<Published, PublishError> {
        let sentry = Sentry::of(&self.outside).map_err(failed)?;
        let told = self
            .outside
            .shared
            .get_or_make::<Mutex<BTreeSet<String>>, PublishError>("sentry told", || Ok(Mutex::default()))?;
        let known = || told.lock().unwrap_or_else(PoisonError::into_inner);
        let published = |state, url: &str| Published {
            state,
            receipt: Receipt {
                kind: "error_note".into(),
                destination: KIND.name.into(),
                url_or_path: url.to_owned(),
                key: proposal.key.clone(),
                found: state == PublishState::Unchanged,
            },
            note: String::new(),
        };
        if known().contains(&proposal.key) {
            return Ok(published(PublishState::Unchanged, ""));
        }
        let issue = sentry.issue(&note.issue).await.map_err(failed)?;
        let Some(issue) = issue else {
            return Err(PublishError::Refused { message: format!("Sentry has no issue {} any more", note.issue) });
        };
        let url = issue.get("permalink").and_then(Value::as_str).unwrap_or_default().to_owned();
        let commented = match comment_of(note, proposal.id()) {
            Some(text) => self.comment(&sentry, &note.issue, &text, &marker(proposal.id())).await?,
            None => false,
        };
        let changed = match change_of(note, &issue) {
            Some(change) => self.change(&sentry, note, change).await?,
            None => false,
        };
        known().insert(proposal.key.clone());
        let state = match (commented, changed) {
            (true, _) => PublishState::Opened,
            (false, true) => PublishState::Updated,
            (false, false) => PublishState::Unchanged,
        };
        Ok(published(state, &url))
    }

    /// True: it was said now. False: it had been said.
    async fn comment(&self, sentry: &Sentry, issue: &str, text: &str, marker: &str) -> Result<bool, PublishError> {
        let said = async || {
            let comments = sentry.comments(issue).await.map_err(failed)?;
            let text =
                |comment: &Value| comment.pointer("/data/text").and_then(Value::as_str).unwrap_or_default().to_owned();
            Ok::<_, PublishError>(comments.iter().any(|comment| text(comment).contains(marker)))
        };
        if said().await? {
            return Ok(false);
        }
        for last in [false, true] {
            match sentry.comment(issue, text).await {
                Ok(_) => return Ok(true),
                Err(SentryError::Ambiguous { message }) => {
                    self.outside.env.clock.sleep(BEFORE_LOOKING).await;
                    match said().await {
                        Ok(true) => return Ok(true),
                        Ok(false) if !last => {}
                        Ok(false) => return Err(PublishError::Unavailable { message, after: None }),
                        Err(_) => return Err(PublishError::Unknown { message }),
                    }
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(false)
    }

    /// True: it is so now. Saying it twice changes nothing, and it is looked at in between.
    async fn change(&self, sentry: &Sentry, note: &ErrorNote, change: Value) -> Result<bool, PublishError> {
        let mut change = change;
        for last in [false, true] {
            match sentry.update(&note.issue, &change).await {
                Ok(_) => return Ok(true),
                // There are no releases to wait for.
                Err(SentryError::Invalid { .. }) if !last && change.get("statusDetails").is_some() => {
                    if let Some(change) = change.as_object_mut() {
                        change.remove("statusDetails");
                    }
                }
                Err(SentryError::Ambiguous { message }) => {
                    self.outside.env.clock.sleep(BEFORE_LOOKING).await;
                    let issue = sentry.issue(&note.issue).await;
                    match issue {
                        Ok(Some(issue)) => match change_of(note, &issue) {
                            None => return Ok(true),
                            Some(rest) if !last => change = rest,
                            Some(_) => return Err(PublishError::Unavailable { message, after: None }),
                        },
                        Ok(None) | Err(_) => return Err(PublishError::Unknown { message }),
                    }
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Err(PublishError::Refused { message: "Sentry takes neither the next release nor now".into() })
    }
}

/// By which a comment is found again.
fn marker(id: &str) -> String {
    format!("[nightcrew {id}]")
}

/// The comment: a sentence, a line for each link, the marker. `None`: there is nothing to say.
fn comment_of(note: &ErrorNote, id: &str) -> Option<String> {
    let text = plain(&note.text, MOST_TEXT);
    let links: Vec<String> = note
        .links
        .iter()
        .filter(|(_, url)| is_link(url))
        .map(|(what, url)| format!("{}: {url}", plain(what, MOST_TEXT)))
        .collect();
    if text.is_empty() && links.is_empty() {
        return None;
    }
    let mut lines = Vec::new();
    lines.extend((!text.is_empty()).then_some(text));
    lines.extend(links);
    lines.push(marker(id));
    Some(lines.join("\n\n"))
}

/// What of the note is not so yet. `None`: nothing.
fn change_of(note: &ErrorNote, issue: &Value) -> Option<Value> {
    let mut change = serde_json::Map::new();
    let somebody = issue.get("assignedTo").is_some_and(|assigned| !assigned.is_null());
    if let Some(assign) = note.assign.as_ref().filter(|_| !somebody) {
        change.insert("assignedTo".into(), assign.as_str().into());
    }
    if note.resolve && issue.get("status").and_then(Value::as_str) == Some("unresolved") {
        change.insert("status".into(), "resolved".into());
        change.insert("statusDetails".into(), json!({"inNextRelease": true}));
    }
    (!change.is_empty()).then(|| Value::Object(change))
}

/// Letters, digits and plain punctuation of one line: nothing that Markdown or a mention could be made of.
fn plain(text: &str, most: usize) -> String {
    let fit =
        |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '.' | ',' | ':' | ';' | '\'' | '-' | '/' | '(' | ')' | '?');
    let line: String = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).filter(fit).take(most).collect();
    line.trim().to_owned()
}

/// Shown in full, and nothing in it that ends a link.
fn is_link(url: &str) -> bool {
    let fit = |c: char| c.is_ascii_alphanumeric() || "-._~:/?#=&%+".contains(c);
    (url.starts_with("https://") || url.starts_with("http://")) && url.len() <= MOST_URL && url.chars().all(fit)
}

fn failed(error: SentryError) -> PublishError {
    let message = error.to_string();
    match error {
        SentryError::Missing { message, help } => PublishError::Missing { message, help },
        SentryError::Credential { secret, .. } => {
            let help = format!("replace the secret `{secret}`; runs that wait for it go on by themselves");
            PublishError::Credential { secret, message, help }
        }
        SentryError::Forbidden { scope, .. } => PublishError::Missing {
            message,
            help: format!("give the token the scope `{scope}`: nightcrew connect sentry"),
        },
        SentryError::NotFound { .. } | SentryError::Invalid { .. } => PublishError::Refused { message },
        SentryError::Unavailable { after, .. } => PublishError::Unavailable { message, after },
        SentryError::Ambiguous { .. } => PublishError::Unknown { message },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note() -> ErrorNote {
        ErrorNote {
            issue: "45".into(),
            text: "A draft pull request fixes this.".into(),
            links: vec![("Pull request".into(), "https://github.com/acme/api/pull/7".into())],
            assign: Some("team:3".into()),
            resolve: true,
        }
    }

    #[test]
    fn a_comment_is_a_sentence_its_links_and_a_marker_and_nothing_that_is_not_plain() {
        let said = comment_of(&note(), "3f9c").unwrap();
        assert_eq!(
            said,
            "A draft pull request fixes this.\n\nPull request: https://github.com/acme/api/pull/7\n\n[nightcrew 3f9c]"
        );
        let hostile = ErrorNote {
            text: "![x](http://evil) <b>@everyone</b>\u{202e}`a`".into(),
            links: vec![
                ("a".into(), "javascript:alert(1)".into()),
                ("b".into(), "https://a/) [x](https://evil".into()),
            ],
            ..note()
        };
        let said = comment_of(&hostile, "3f9c").unwrap();
        assert!(
            !said.contains(['!', '<', '@', '`', '\u{202e}']) && !said.contains("javascript") && !said.contains("]("),
            "{said}"
        );
        assert_eq!(comment_of(&ErrorNote { text: String::new(), links: Vec::new(), ..note() }, "3f9c"), None);
    }

    #[test]
    fn what_a_person_did_stands() {
        let open = json!({"status": "unresolved", "assignedTo": null});
        let wanted = json!({"assignedTo": "team:3", "status": "resolved", "statusDetails": {"inNextRelease": true}});
        assert_eq!(change_of(&note(), &open), Some(wanted));
        assert_eq!(change_of(&note(), &json!({"status": "ignored", "assignedTo": {"id": "1"}})), None);
        assert_eq!(change_of(&ErrorNote { assign: None, resolve: false, ..note() }, &open), None);
    }
}
