//! The executor: the one place where an [`Activity`] becomes an act.
//!
//! It knows what the run is bound to, writes the journal around each act as its care demands, and redacts every output before
//! it is stored or handed on. It runs on the multi-thread runtime; an act that has begun runs to its end.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use crate::base::hash::Hash;
use crate::base::ids::RunId;
use crate::base::money::UsdMicros;
use crate::base::retry::{Backoff, Retry};
use crate::clients::credentials::Credentials;
use crate::domain::activity::{Activity, Artifact, Care, Delivery, FetchRequest, Rows, ToolAnswer, ToolRequest};
use crate::domain::entry::{EntryKind, Family, NewEntry};
use crate::domain::run::Failure;
use crate::domain::view::RunView;
use crate::expr::types::Type;
use crate::journal::Journal;
use crate::ports::durable::Stop;
use crate::ports::sink::{Earlier, SinkError};
use crate::ports::source::{SourceError, SourceQuery};
use crate::tools::artifact;

use super::Live;
use super::bind::Bound;
use super::embedded::{journal_broken, raw};
use super::publish::{E_CREDENTIAL, E_UNKNOWN};

/// Where an act stands in its run.
#[derive(Clone, Debug)]
pub(super) struct At {
    pub run: RunId,
    pub path: String,
    /// The path of the step or item that asks.
    pub asker: String,
    pub attempt: u32,
    pub supersedes: Option<i64>,
    pub earlier: Earlier,
    pub input: Hash,
    /// Item budgets above it, outermost first.
    pub items: Vec<(String, UsdMicros)>,
}

/// Why an act that only waits should wait no longer. An act under way is not touched by it.
#[derive(Clone, Debug)]
pub(super) struct Halt {
    /// A person stopped the run.
    pub cancel: CancellationToken,
    /// The process is stopping; the run stays open.
    pub suspend: CancellationToken,
}

impl Halt {
    /// Resolves when one of them is asked for. Cancel safe.
    pub async fn asked(&self, while_: &str) -> Stop {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Stop::Cancelled { reason: format!("stopped while {while_}") },
            () = self.suspend.cancelled() => Stop::Suspended,
        }
    }
}

/// Acts for one run.
pub(super) struct Executor {
    pub(super) bound: Arc<Bound>,
    pub(super) journal: Journal,
    pub(super) env: crate::base::env::Env,
    pub(super) live: tokio::sync::broadcast::Sender<Live>,
}

/// Pauses between tries of a read that failed for a passing reason.
const READ_BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(500), most: Duration::from_secs(8), total: Duration::from_secs(30) };

/// A fetch takes at most this many rows unless the tool says otherwise.
const MAX_ROWS: u32 = 10_000;

impl Executor {
    pub fn new(
        bound: Arc<Bound>,
        journal: Journal,
        env: crate::base::env::Env,
        live: tokio::sync::broadcast::Sender<Live>,
    ) -> Self {
        Self { bound, journal, env, live }
    }

    /// Performs one activity and records its end. Not cancel safe: dropped half-way, the act is ambiguous.
    pub async fn perform(&self, at: At, activity: Activity, halt: &Halt) -> Result<Arc<RawValue>, Stop> {
        match activity {
            Activity::Model(request) => self.model(at, request, halt).await,
            Activity::Deliver(delivery) => self.deliver(at, &delivery).await,
            Activity::Publish(proposal) => self.publish(at, &proposal).await,
            pure => {
                debug_assert_eq!(pure.care(), Care::Pure);
                let answer = match &pure {
                    Activity::Fetch(request) => self.fetch(request, halt).await.map(|rows| raw(&rows)),
                    Activity::Tool(request) => self.tool(&at, request, halt).await.map(|answer| raw(&answer)),
                    Activity::Account => self.account(&at.run).await.map(|view| raw(&view)),
                    Activity::Keep { name, text } => self.keep(name, text).await.map(|artifact| raw(&artifact)),
                    Activity::Workspace { attempt } => self.workspace(*attempt).await.map(|found| raw(&found)),
                    Activity::Environment { base } => {
                        self.environment(&at, base, halt).await.map(|prepared| raw(&prepared))
                    }
                    Activity::Sandbox(request) => self.sandbox(&at, request, halt).await.map(|answer| raw(&answer)),
                    Activity::Code(request) => self.code(request).await,
                    Activity::Lines(request) => self.lines(request).await.map(|passages| raw(&passages)),
                    Activity::Findings(request) => self.findings(&at, request).await,
                    Activity::Tend { sink, effects } => self.tend(&at, sink, *effects).await.map(|tended| raw(&tended)),
                    Activity::Model(_) | Activity::Deliver(_) | Activity::Publish(_) => {
                        unreachable!("handled above")
                    }
                };
                match answer {
                    Ok(output) => {
                        let output = self.redacted(output);
                        self.journal.append_lazy(self.entry(&at, EntryKind::ActivityDone, output.clone()));
                        Ok(Arc::from(output))
                    }
                    Err(stop) => {
                        self.record_failure(&at, &stop).await?;
                        Err(stop)
                    }
                }
            }
        }
    }

    /// Writes a failure that needs no settlement. Stops that end the run from outside are not records.
    pub async fn record_failure(&self, at: &At, stop: &Stop) -> Result<(), Stop> {
        if !stop.is_final() {
            self.journal.append_lazy(self.entry(at, EntryKind::ActivityFailed, raw(stop)));
        }
        Ok(())
    }

    pub(super) fn entry(&self, at: &At, kind: EntryKind, payload: Box<RawValue>) -> NewEntry {
        NewEntry {
            run: at.run.clone(),
            family: Family::Span,
            kind,
            path: at.path.clone(),
            attempt: at.attempt,
            supersedes: at.supersedes,
            input: Some(at.input),
            payload,
        }
    }

    /// Known secrets leave every output before it is stored, sent on or shown.
    pub(super) fn redacted(&self, output: Box<RawValue>) -> Box<RawValue> {
        self.journal.redact(output)
    }

    async fn fetch(&self, request: &FetchRequest, halt: &Halt) -> Result<Rows, Stop> {
        let (source, query, max_rows, hide) = self.bound.source(&request.from)?;
        let mut args = request.args.clone();
        if let Some(tool) = self.bound.pipeline.tool(&request.from) {
            // An optional argument that was not given is null, so that a query may name it.
            let optional = tool.args.iter().filter(|(_, ty)| matches!(ty, Type::Optional(_)));
            for (name, _) in optional {
                args.entry(name.clone()).or_insert(Value::Null);
            }
        }
        let mut waited = Duration::ZERO;
        for attempt in 1.. {
            let asked = SourceQuery { query, filter: request.query.as_deref(), args: &args, max_rows };
            let error = match source.fetch(asked).await {
                Ok(mut rows) => {
                    rows.hide(&hide);
                    return Ok(rows);
                }
                Err(error) => error,
            };
            let retry = match &error {
                SourceError::Unavailable { after: Some(after), .. } => Retry::After(*after),
                SourceError::Unavailable { after: None, .. } => Retry::Backoff,
                SourceError::Missing { .. } | SourceError::Refused { .. } | SourceError::Credential { .. } => {
                    Retry::Never
                }
            };
            let Some(pause) = READ_BACKOFF.pause(attempt, waited, retry) else {
                return Err(self.refused(&request.from, source_stop(error)));
            };
            tracing::warn!(%error, from = request.from, "reading again in {pause:?}");
            waited += pause;
            tokio::select! {
                () = self.env.clock.sleep(pause) => {}
                stop = halt.asked("waiting for the source") => return Err(stop),
            }
        }
        Err(Stop::Failed(Failure::new("E-SOURCE", "no answer")))
    }

    async fn tool(&self, at: &At, request: &ToolRequest, halt: &Halt) -> Result<ToolAnswer, Stop> {
        if let Some(answer) = self.artifact_tool(request).await? {
            return Ok(answer);
        }
        if let Some(code) = &request.code {
            return self.code_tool(at, request, code, halt).await;
        }
        let args = request.input.as_object().cloned().unwrap_or_default();
        let fetch = FetchRequest { from: request.tool.clone(), query: None, args, attempt: 0 };
        match self.fetch(&fetch, halt).await {
            Ok(rows) => Ok(ToolAnswer::text(table_text(&rows))),
            // The model may ask again in another way; only what a person must mend ends the step.
            Err(Stop::Failed(failure)) => Ok(ToolAnswer::mistake(failure.message)),
            Err(stop) => Err(stop),
        }
    }

    /// The blob was put into the input by the agent's logic, which knows its own artifacts; a model cannot name one.
    async fn artifact_tool(&self, request: &ToolRequest) -> Result<Option<ToolAnswer>, Stop> {
        let look = match request.tool.as_str() {
            "artifact_read" => artifact::read,
            "artifact_search" => artifact::search,
            _ => return Ok(None),
        };
        let blob = request.input.get("blob").and_then(Value::as_str).and_then(|hash| hash.parse::<Hash>().ok());
        let blob = blob.ok_or_else(|| Stop::Failed(Failure::new("E-ARTIFACT", "the artifact is not known")))?;
        let bytes = self.journal.reader().blob(&blob).map_err(journal_broken)?;
        let text = look(&String::from_utf8_lossy(&bytes), &request.input);
        Ok(Some(ToolAnswer::text(text)))
    }

    async fn keep(&self, name: &str, text: &str) -> Result<Artifact, Stop> {
        let (bytes, lines) = (text.len() as u64, text.lines().count() as u64);
        let blob = self.journal.put_blob(text.as_bytes().to_vec()).await.map_err(journal_broken)?;
        Ok(Artifact { id: format!("art-{}", blob.short()), name: name.to_owned(), blob, bytes, lines })
    }

    /// The run's own account at this moment, with what the interns saved.
    pub async fn account(&self, run: &RunId) -> Result<RunView, Stop> {
        self.journal.sync().await.map_err(journal_broken)?;
        let view = self.journal.reader().run(run.as_str()).map_err(journal_broken)?;
        let mut view = view.ok_or_else(|| Stop::Broken(Failure::new("E-JOURNAL", "the run is not in the journal")))?;
        view.interns.saved_usd = self.bound.interns_saved(&view.spend.intern);
        // A report within a report would grow without end.
        view.reports.clear();
        Ok(view)
    }

    /// A stop for a secret that a service refuses is told to everybody who would send the same; `by` is the service for people.
    pub(super) fn refused(&self, by: &str, stop: Stop) -> Stop {
        if let Stop::Blocked(failure) = &stop
            && let Some(secret) = failure.secret.as_ref().and_then(|name| self.bound.settings.secrets.get(name))
        {
            Credentials::of(&self.bound.outside.shared).note(secret, by, &failure.message);
        }
        stop
    }

    async fn deliver(&self, at: At, delivery: &Delivery) -> Result<Arc<RawValue>, Stop> {
        let bound = self.bound.sink_name(&delivery.sink);
        if let Some(stop) = self.bound.known_refusal(bound) {
            self.record_failure(&at, &stop).await?;
            return Err(stop);
        }
        let sink = self.bound.sink(&delivery.sink)?;
        let payload = json!({
            "kind": "deliver", "sink": delivery.sink, "channel": delivery.channel, "key": delivery.key,
            "report": delivery.report,
        });
        let intended = self.journal.intend(self.entry(&at, EntryKind::ActivityIntended, raw(&payload)), None).await;
        let intended = intended.map_err(journal_broken)?;
        let (kind, payload, answer) = match sink.deliver(delivery, at.earlier).await {
            Ok(receipt) => {
                self.tie_delivered(&at, delivery, &receipt).await?;
                let output = self.redacted(raw(&receipt));
                (EntryKind::ActivityDone, output.clone(), Ok(Arc::from(output)))
            }
            Err(error) => {
                let stop = self.refused(bound, sink_stop(error));
                (EntryKind::ActivityFailed, raw(&stop), Err(stop))
            }
        };
        self.journal.settle(self.entry(&at, kind, payload), intended.seq, None).await.map_err(journal_broken)?;
        answer
    }
}

fn sink_stop(error: SinkError) -> Stop {
    let text = error.to_string();
    match error {
        SinkError::Missing { message, help } => Stop::Blocked(Failure::new("E-SINK", message).help(help)),
        SinkError::Credential { secret, message, help } => {
            Stop::Blocked(Failure::new(E_CREDENTIAL, message).help(help).waits_for(secret))
        }
        SinkError::Refused { message, help } => Stop::Failed(Failure::new("E-SINK", message).help(help)),
        SinkError::Unavailable { message, .. } => {
            Stop::Failed(Failure::new("E-SINK", message).help("nightcrew resume tries it again"))
        }
        SinkError::Unknown { .. } => Stop::Failed(
            Failure::new(E_UNKNOWN, text).help("look there by hand; `nightcrew resume` looks again before it sends"),
        ),
        SinkError::Write { ref source, .. } => Stop::Failed(Failure::new("E-SINK", format!("{text}: {source}"))),
    }
}

fn source_stop(error: SourceError) -> Stop {
    let message = error.to_string();
    match error {
        SourceError::Missing { help, .. } => Stop::Blocked(Failure::new("E-SOURCE", message).help(help)),
        SourceError::Credential { secret, help, .. } => {
            Stop::Blocked(Failure::new(E_CREDENTIAL, message).help(help).waits_for(secret))
        }
        SourceError::Unavailable { .. } | SourceError::Refused { .. } => {
            Stop::Failed(Failure::new("E-SOURCE", message))
        }
    }
}

/// Rows as an agent reads them: one JSON array per line under a line of column names, which costs a model half the tokens of
/// objects.
fn table_text(rows: &Rows) -> String {
    if rows.rows.is_empty() {
        return "no rows".into();
    }
    let mut columns: Vec<&String> = Vec::new();
    for row in &rows.rows {
        for column in row.keys() {
            if !columns.contains(&column) {
                columns.push(column);
            }
        }
    }
    let line = |row: &Map<String, Value>| {
        Value::Array(columns.iter().map(|column| row.get(*column).cloned().unwrap_or(Value::Null)).collect())
            .to_string()
    };
    let mut text = Value::from(columns.iter().map(|c| c.as_str()).collect::<Vec<_>>()).to_string();
    for row in &rows.rows {
        text.push('\n');
        text.push_str(&line(row));
    }
    if rows.truncated {
        text.push_str("\n(more rows exist; narrow the question)");
    }
    text
}

pub(super) const fn default_max_rows() -> u32 {
    MAX_ROWS
}
