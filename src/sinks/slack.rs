//! Slack: a report as one message and its thread, or one message per finding, each exactly once.
//!
//! Every message carries its key as metadata. It is looked for before it is posted: the same delivery again finds it, a changed
//! report edits it in place. When Slack does not say how a post ended, it is looked for, sent at most once more, and looked for
//! again; if that does not tell, the end is `Unknown` and a person looks.
//!
//! Text of a private repository goes to private channels only, unless the YAML says `may_reach: [public_channels]`.

mod deliver;
mod kit;
mod links;
mod message;

use std::sync::Arc;

use crate::base::BoxFuture;
use crate::clients::github::{GitHub, Visibility};
use crate::clients::slack::{Channel, Slack, SlackError};
use crate::domain::activity::{Delivery, Receipt, Thread};
use crate::ports::sink::{Earlier, Sink, SinkError, SinkKind, SinkSetup};

pub const KIND: SinkKind = SinkKind { name: "slack", summary: "a Slack channel", make: Some(make) };

/// Under which messages of reports are found again, and those of single findings.
pub const REPORT: &str = "nightcrew_report";
pub const FINDING: &str = "nightcrew_finding";

fn make(setup: &SinkSetup) -> Arc<dyn Sink> {
    Arc::new(SlackSink { setup: setup.clone() })
}

struct SlackSink {
    setup: SinkSetup,
}

impl Sink for SlackSink {
    /// Looks in any case: reading the channel is cheaper than a doubled report.
    fn deliver<'a>(&'a self, delivery: &'a Delivery, earlier: Earlier) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            let outside = &self.setup.outside;
            let slack = Slack::of(outside).map_err(|error| failed(error, ""))?;
            let name = delivery.channel.as_deref().unwrap_or_default().trim().trim_start_matches('#');
            if name.is_empty() {
                let help = "add `channel:` to the report, or an owner with a channel to the pipeline";
                return Err(SinkError::Missing { message: "no channel is named".into(), help: help.into() });
            }
            let channel = slack.channel(name).await.map_err(|error| failed(error, name))?;
            self.may_reach(&channel).await?;
            let links = links::Hosts::of(&outside.services);
            let place = deliver::Place::new(&slack, outside, &channel, earlier);
            match delivery.thread {
                Thread::PerFinding if !delivery.report.findings.is_empty() => place.findings(delivery, &links).await,
                Thread::PerFinding | Thread::PerRun | Thread::Quiet => place.report(delivery, &links).await,
            }
        })
    }
}

impl SlackSink {
    /// T15. A pipeline without a repository has no text of one.
    async fn may_reach(&self, channel: &Channel) -> Result<(), SinkError> {
        let Some(home) = &self.setup.repository else { return Ok(()) };
        if channel.is_private || home.may_reach.iter().any(|word| word == "public_channels") {
            return Ok(());
        }
        // What is not known to be public is private.
        if let Some(name) = &home.github
            && let Ok(github) = GitHub::of(&self.setup.outside)
            && let Ok(facts) = github.repository(name).await
            && facts.visibility == Visibility::Public
        {
            return Ok(());
        }
        let of = home.github.as_deref().unwrap_or("a repository that is not on GitHub");
        Err(SinkError::Refused {
            message: format!("#{} is not private, and the report holds text of {of}, which is", channel.name),
            help: format!(
                "/invite the bot to a private channel and name that, or allow it in the YAML: repository: {{{}, may_reach: \
                 [public_channels]}}",
                home.github.as_deref().map_or("…".to_owned(), |name| format!("github: {name}"))
            ),
        })
    }
}

/// What Slack's answer means for a delivery, with what to do about it.
fn failed(error: SlackError, channel: &str) -> SinkError {
    let message = error.to_string();
    match error {
        SlackError::Missing { message, help } => SinkError::Missing { message, help },
        SlackError::Credential { secret, .. } => SinkError::Credential {
            help: format!("replace the secret `{secret}`; runs that wait for it go on by themselves"),
            secret,
            message,
        },
        SlackError::Unavailable { message, after } => SinkError::Unavailable { message, after },
        SlackError::Ambiguous { message } => SinkError::Unknown { message },
        SlackError::Refused { word, needed } => {
            let missing = |message: String, help: String| SinkError::Missing { message, help };
            match word.as_str() {
                "channel_not_found" => missing(
                    format!("Slack shows the bot no channel #{channel}"),
                    format!("if it is private: /invite the bot in #{channel}; else correct `channel:`"),
                ),
                "not_in_channel" => {
                    missing(format!("the bot is not in #{channel}"), format!("/invite the bot in #{channel}"))
                }
                "is_archived" => missing(format!("#{channel} is archived"), "name another channel".into()),
                "missing_scope" | "no_permission" => {
                    let scope = needed.map_or_else(|| "a scope".to_owned(), |scope| format!("the scope `{scope}`"));
                    missing(
                        format!("the bot lacks {scope}"),
                        "add it and install the app again: nightcrew connect slack".into(),
                    )
                }
                _ => {
                    SinkError::Refused { message, help: "`nightcrew doctor --online` looks at the app's rights".into() }
                }
            }
        }
    }
}
