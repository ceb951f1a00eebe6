//! Finding, posting and editing, once each.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;

use super::links::Hosts;
use super::message::{self, Message};
use super::{FINDING, REPORT, failed};
use crate::base::env::Env;
use crate::base::hash::Hash;
use crate::clients::slack::{Channel, NewMessage, Posted, Slack, SlackError, Upload};
use crate::domain::activity::{Delivery, Receipt, Thread};
use crate::domain::report::ReportFinding;
use crate::domain::run::Effects;
use crate::ports::service::Outside;
use crate::ports::sink::{Earlier, SinkError};
use crate::sinks::{chart_png, text};

/// How far back a run's own message is looked for, and those of findings.
const RUN_BACK: Duration = Duration::from_secs(7 * 86_400);
const FINDING_BACK: Duration = Duration::from_secs(60 * 86_400);
/// Messages looked through.
const MOST: usize = 2_000;
/// Between a post without an answer and the look for it: Slack may still be at it.
const SETTLE: Duration = Duration::from_secs(2);
/// Posts of one message at most.
const TRIES: u32 = 2;

/// A channel to deliver to.
pub struct Place<'a> {
    slack: &'a Slack,
    env: &'a Env,
    channel: &'a Channel,
    earlier: Earlier,
    /// Looking and posting is one act: two deliveries to a channel do not overlap.
    turn: Arc<Semaphore>,
}

/// What is posted, and by what it is found again.
struct Piece<'a> {
    event: &'static str,
    key: String,
    message: &'a Message,
    thread: Option<&'a str>,
    /// More for whoever reads the metadata.
    more: Map<String, Value>,
}

impl<'a> Piece<'a> {
    fn new(event: &'static str, key: String, message: &'a Message) -> Self {
        Self { event, key, message, thread: None, more: Map::new() }
    }
}

/// Where a piece is now.
struct There {
    ts: String,
    found: bool,
}

impl<'a> Place<'a> {
    pub fn new(slack: &'a Slack, outside: &'a Outside, channel: &'a Channel, earlier: Earlier) -> Self {
        let name = format!("slack sink {}", channel.id);
        let made: Result<_, std::convert::Infallible> = outside.shared.get_or_make(&name, || Ok(Semaphore::new(1)));
        let Ok(turn) = made;
        Self { slack, env: &outside.env, channel, earlier, turn }
    }

    /// One message, its details in its thread.
    pub async fn report(&self, delivery: &Delivery, hosts: &Hosts) -> Result<Receipt, SinkError> {
        let _turn = self.turn.acquire().await;
        let report = &delivery.report;
        let rendered = message::report(report, hosts, true);
        let (key, back) = match delivery.thread {
            Thread::Quiet => (format!("{}/quiet", report.pipeline), FINDING_BACK),
            Thread::PerRun | Thread::PerFinding => (delivery.key.clone(), RUN_BACK),
        };
        let known = self.look(None, self.since(back)).await?;
        let mut piece = Piece::new(REPORT, key.clone(), &rendered.main);
        piece.more = Map::from_iter([
            ("pipeline".to_owned(), Value::from(report.pipeline.as_str())),
            ("run".to_owned(), report.run.as_str().into()),
        ]);
        let root = self.put(&piece, &known).await?;
        self.details(delivery, &key, &root, &rendered.thread).await?;
        self.receipt(delivery, &root).await
    }

    /// The thread of a message: the chart, then everything else.
    async fn details(&self, delivery: &Delivery, key: &str, root: &There, thread: &[Message]) -> Result<(), SinkError> {
        // A quiet message is one line; the next quiet night only edits it.
        if delivery.thread == Thread::Quiet {
            return Ok(());
        }
        let chart = delivery.report.chart.as_ref().filter(|chart| !chart.series.is_empty());
        if thread.is_empty() && chart.is_none() {
            return Ok(());
        }
        let known = if root.found { self.look(Some(&root.ts), self.since(RUN_BACK)).await? } else { Vec::new() };
        if let Some(chart) = chart {
            match chart_png::render(chart) {
                Ok(png) => self.show(delivery, key, root, png, &known).await?,
                // The figures stand in the thread anyway.
                Err(error) => tracing::warn!(%error, "the chart could not be drawn"),
            }
        }
        for (index, message) in thread.iter().enumerate() {
            let mut piece = Piece::new(REPORT, format!("{key}#{}", index + 1), message);
            piece.thread = Some(&root.ts);
            self.put(&piece, &known).await?;
        }
        Ok(())
    }

    /// One message and thread per finding, across the runs of the pipeline.
    pub async fn findings(&self, delivery: &Delivery, hosts: &Hosts) -> Result<Receipt, SinkError> {
        let _turn = self.turn.acquire().await;
        let report = &delivery.report;
        let known = self.look(None, self.since(FINDING_BACK)).await?;
        let mut first: Option<There> = None;
        for found in &report.findings {
            // What a preview would have done is told beside what was done, never in its place.
            let owner = match report.effects {
                Effects::Live => report.pipeline.clone(),
                Effects::Preview => format!("{}/preview", report.pipeline),
            };
            let key = format!("{owner}/{}", found.fingerprint);
            let key = if key.len() > 300 { format!("{owner}/{}", Hash::of(&key)) } else { key };
            let message = message::finding(report, found, hosts);
            let mut piece = Piece::new(FINDING, key.clone(), &message);
            let before = find(&known, FINDING, &key).and_then(|posted| posted.metadata.as_ref()).map(|(_, told)| told);
            let came = came(before, &found.state, &report.run);
            piece.more = Map::from_iter([
                ("state".to_owned(), Value::from(found.state.as_str())),
                ("came".to_owned(), came.as_str().into()),
                ("finding".to_owned(), found.id.as_str().into()),
            ]);
            let root = self.put(&piece, &known).await?;
            // Also where the edit was made by this same delivery before it was interrupted: the note is looked for.
            if root.found && came == report.run && message::needs_a_person(&found.state) {
                self.note(&key, found, &report.run, &root, hosts).await?;
            }
            first.get_or_insert(root);
        }
        // Problems of the run belong to no finding.
        let footer = &report.footer;
        if !footer.problems.is_empty() || !footer.complaints.is_empty() || !footer.refused.is_empty() {
            let rendered = message::report(report, hosts, false);
            let root = self.put(&Piece::new(REPORT, delivery.key.clone(), &rendered.main), &known).await?;
            self.details(delivery, &delivery.key, &root, &rendered.thread).await?;
            first.get_or_insert(root);
        }
        match first {
            Some(root) => self.receipt(delivery, &root).await,
            None => Err(SinkError::Refused { message: "the report is about nothing".into(), help: String::new() }),
        }
    }

    /// A reply that rings phones, where a message was only edited; once per run and state.
    async fn note(
        &self,
        key: &str,
        found: &ReportFinding,
        run: &str,
        root: &There,
        hosts: &Hosts,
    ) -> Result<(), SinkError> {
        let known = self.look(Some(&root.ts), self.since(FINDING_BACK)).await?;
        let message = message::moved(found, hosts);
        let mut piece = Piece::new(FINDING, format!("{key}#{run}/{}", found.state), &message);
        piece.thread = Some(&root.ts);
        self.put(&piece, &known).await.map(drop)
    }

    fn since(&self, back: Duration) -> Timestamp {
        self.env.now().saturating_sub(back).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// Our own messages that have a key.
    async fn look(&self, thread: Option<&str>, since: Timestamp) -> Result<Vec<Posted>, SinkError> {
        let failed = |error| failed(error, &self.channel.name);
        let own = self.slack.me().await.map_err(failed)?.bot_id;
        let found = self.slack.history(&self.channel.id, thread, since, MOST).await.map_err(failed)?;
        if self.earlier == Earlier::Unknown && thread.is_none() && found.len() >= MOST {
            let message = format!("#{} holds too many newer messages to tell", self.channel.name);
            return Err(SinkError::Unknown { message });
        }
        // A key in somebody else's message says nothing.
        let ours = |posted: &Posted| posted.bot_id.is_empty() || own.is_empty() || posted.bot_id == own;
        Ok(found.into_iter().filter(ours).collect())
    }

    /// Finds it, edits it if it looks otherwise now, or posts it.
    async fn put(&self, piece: &Piece<'_>, known: &[Posted]) -> Result<There, SinkError> {
        let digest = piece.message.digest();
        let found = find(known, piece.event, &piece.key);
        let before = found.and_then(|found| found.metadata.as_ref()).map(|(_, payload)| payload);
        let mut payload = piece.more.clone();
        payload.insert("key".into(), piece.key.as_str().into());
        payload.insert("digest".into(), digest.as_str().into());
        let message = NewMessage {
            channel: self.channel.id.clone(),
            blocks: piece.message.blocks.clone(),
            text: piece.message.text.clone(),
            thread_ts: piece.thread.map(str::to_owned),
            metadata: Some((piece.event.to_owned(), Value::Object(payload))),
        };
        if let Some(found) = found {
            let ts = found.ts.clone();
            if before != message.metadata.as_ref().map(|(_, payload)| payload) {
                self.edit(&ts, &message).await?;
            }
            return Ok(There { ts, found: true });
        }
        let posted = self.post(piece, &message).await?;
        Ok(There { ts: posted.ts, found: false })
    }

    async fn post(&self, piece: &Piece<'_>, message: &NewMessage) -> Result<Posted, SinkError> {
        let begun = self.env.now().saturating_sub(Duration::from_secs(600)).unwrap_or(Timestamp::UNIX_EPOCH);
        let mut why = String::new();
        for _ in 0..TRIES {
            match self.slack.post(message).await {
                Ok(posted) => return Ok(posted),
                Err(SlackError::Ambiguous { message }) => why = message,
                Err(error) => return Err(failed(error, &self.channel.name)),
            }
            tracing::warn!(channel = self.channel.name, %why, "looking whether the message is there");
            self.env.clock.sleep(SETTLE).await;
            let looked = self.look(piece.thread, begun).await;
            let known = looked.map_err(|error| SinkError::Unknown { message: format!("{why}, then {error}") })?;
            if let Some(found) = find(&known, piece.event, &piece.key) {
                return Ok(found.clone());
            }
        }
        Err(SinkError::Unknown { message: why })
    }

    /// An edit may be made twice. One that Slack does not allow any more becomes a reply.
    async fn edit(&self, ts: &str, message: &NewMessage) -> Result<(), SinkError> {
        let mut last = None;
        for _ in 0..TRIES {
            match self.slack.update(ts, message).await {
                Ok(_) => return Ok(()),
                Err(SlackError::Ambiguous { message }) => {
                    last = Some(SinkError::Unavailable { message, after: None });
                }
                Err(SlackError::Refused { word, .. })
                    if matches!(word.as_str(), "edit_window_closed" | "cant_update_message" | "message_not_found") =>
                {
                    tracing::warn!(word, "a message cannot be edited any more");
                    return Ok(());
                }
                Err(error) => return Err(failed(error, &self.channel.name)),
            }
        }
        last.map_or(Ok(()), Err)
    }

    /// The chart as a file in the thread, once: its name says whose it is and what it shows.
    async fn show(
        &self,
        delivery: &Delivery,
        key: &str,
        root: &There,
        png: chart_png::Png,
        known: &[Posted],
    ) -> Result<(), SinkError> {
        let id = Hash::of_parts([key.as_bytes(), &png.bytes]).short();
        let name = format!("nightcrew-chart-{id}.png");
        let is_there = |known: &[Posted]| known.iter().any(|posted| posted.files.contains(&name));
        if is_there(known) {
            return Ok(());
        }
        let title = text::line(&delivery.report.headline);
        let file = Upload {
            channel: self.channel.id.clone(),
            thread_ts: root.ts.clone(),
            name: name.clone(),
            title: super::kit::cut(&title, 200),
            alt: png.words,
            media_type: "image/png",
            bytes: png.bytes,
        };
        let mut why = String::new();
        for tried in 1.. {
            match self.slack.upload(&file).await {
                Ok(_) => return Ok(()),
                Err(SlackError::Ambiguous { message }) => why = message,
                // The bytes did not get there, and nothing shows yet.
                Err(SlackError::Unavailable { after: None, .. }) if tried < TRIES => {
                    self.env.clock.sleep(SETTLE).await;
                    continue;
                }
                Err(error) => return Err(failed(error, &self.channel.name)),
            }
            self.env.clock.sleep(SETTLE).await;
            let looked = self.look(Some(&root.ts), self.since(RUN_BACK)).await;
            let known = looked.map_err(|error| SinkError::Unknown { message: format!("{why}, then {error}") })?;
            if is_there(&known) {
                return Ok(());
            }
            if tried >= TRIES {
                break;
            }
        }
        Err(SinkError::Unknown { message: why })
    }

    async fn receipt(&self, delivery: &Delivery, root: &There) -> Result<Receipt, SinkError> {
        // Delivered is delivered, also where Slack names no link.
        let link = self.slack.permalink(&self.channel.id, &root.ts).await;
        let url = link.unwrap_or_else(|error| {
            tracing::warn!(%error, "no link to the message");
            format!("#{} {}", self.channel.name, root.ts)
        });
        Ok(Receipt {
            kind: "report".into(),
            destination: "slack".into(),
            url_or_path: url,
            key: delivery.key.clone(),
            found: root.found,
        })
    }
}

/// The newest message with this key.
fn find<'k>(known: &'k [Posted], event: &str, key: &str) -> Option<&'k Posted> {
    known.iter().find(|posted| {
        posted.metadata.as_ref().is_some_and(|(found, payload)| found == event && payload["key"] == json!(key))
    })
}

/// The run in which a finding came into this state. The first message rings by itself, so it names none.
fn came(before: Option<&Value>, state: &str, run: &str) -> String {
    match before {
        None => String::new(),
        Some(told) if told["state"] == state => told["came"].as_str().unwrap_or_default().to_owned(),
        Some(_) => run.to_owned(),
    }
}
