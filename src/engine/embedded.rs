//! The embedded engine's durable context: pipeline logic on a current-thread executor, records in the journal.
//!
//! A context stands at a path. Every ask has an address below it; what the journal already holds for an address is the answer,
//! everything else goes to the executor on the multi-thread runtime. Dropping a future abandons the wait, never the act: the
//! activity runs to its end in the engine's scope and its record is found after the next start.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::base::LocalBoxFuture;
use crate::base::env::Env;
use crate::base::hash::Hash;
use crate::base::money::UsdMicros;
use crate::base::scope::Scope;
use crate::domain::activity::{Activity, Complaint};
use crate::domain::entry::{EntryKind, Family, NewEntry, StepEnd};
use crate::domain::money::Cap;
use crate::domain::run::{Failure, RunStart};
use crate::journal::{self, Journal, Record, ReplayRecords};
use crate::ports::durable::{ChildRun, DurableContext, Logic, Recorded, SignalValue, Stop};
use crate::ports::sink::Earlier;

use super::executor::{At, Executor, Halt};

/// What all contexts of one run share. Lives on the run's executor thread.
pub(super) struct RunState {
    pub start: RunStart,
    pub env: Env,
    pub journal: Journal,
    pub executor: Arc<Executor>,
    pub scope: Scope,
    /// A person stopped the run; the reason is in `cancel_reason`.
    pub cancel: CancellationToken,
    pub cancel_reason: Arc<std::sync::OnceLock<String>>,
    /// The process is stopping.
    pub suspend: CancellationToken,
    replay: RefCell<ReplayRecords>,
    /// How many notes, complaints and messages each path has asked for in this life.
    noted: RefCell<HashMap<String, u32>>,
    resumed_at: i64,
    /// The same binary wrote the records: another hash is then a bug.
    strict: bool,
    deadline: Option<Timestamp>,
}

impl RunState {
    #[allow(clippy::too_many_arguments)] // Made in one place, by name.
    pub fn new(
        start: RunStart,
        env: Env,
        journal: Journal,
        executor: Arc<Executor>,
        scope: Scope,
        cancel: (CancellationToken, Arc<std::sync::OnceLock<String>>),
        suspend: CancellationToken,
        replay: ReplayRecords,
        build_id: &str,
    ) -> Self {
        let mut replay = replay;
        let by_person = replay.resumed_at > 0;
        if by_person {
            // A closing call was the end of an agent that may now go on.
            replay.records.retain(|path, _| !path.ends_with("/closing"));
        }
        let begins = if by_person { env.now() } else { start.started_at };
        let deadline = start.limits.max_duration_s.and_then(|s| begins.checked_add(Duration::from_secs(s)).ok());
        let strict = replay.build_id_of_last == build_id;
        Self {
            start,
            env,
            journal,
            executor,
            scope,
            cancel: cancel.0,
            cancel_reason: cancel.1,
            suspend,
            resumed_at: replay.resumed_at,
            replay: RefCell::new(replay),
            noted: RefCell::default(),
            strict,
            deadline,
        }
    }

    fn stopped(&self) -> Option<Stop> {
        if self.cancel.is_cancelled() {
            let reason = self.cancel_reason.get().cloned().unwrap_or_else(|| "stopped".into());
            return Some(Stop::Cancelled { reason });
        }
        self.suspend.is_cancelled().then_some(Stop::Suspended)
    }

    /// Resolves when the run must stop.
    async fn stopping(&self) -> Stop {
        tokio::select! {
            () = self.cancel.cancelled() => {}
            () = self.suspend.cancelled() => {}
        }
        self.stopped().unwrap_or(Stop::Suspended)
    }

    fn past_deadline(&self) -> Option<Stop> {
        let deadline = self.deadline?;
        (self.env.now() >= deadline).then(|| {
            let limit = self.start.limits.max_duration_s.unwrap_or_default();
            Stop::Capped { cap: Cap::Duration, message: format!("the time limit of {limit} s is reached") }
        })
    }

    fn entry(&self, family: Family, kind: EntryKind, path: &str, payload: Box<RawValue>) -> NewEntry {
        NewEntry {
            run: self.start.id.clone(),
            family,
            kind,
            path: path.to_owned(),
            attempt: 1,
            supersedes: None,
            input: None,
            payload,
        }
    }

    fn write(&self, family: Family, kind: EntryKind, path: &str, payload: &impl serde::Serialize) {
        self.journal.append_lazy(self.entry(family, kind, path, raw(payload)));
    }

    /// The recorded value at `path`, removed from what is left to replay.
    fn recorded_value(&self, path: &str) -> Option<Arc<RawValue>> {
        match self.replay.borrow_mut().records.remove(path) {
            Some(Record::Value(value)) => Some(value),
            _ => None,
        }
    }

    /// Whether records below `path` are still to be replayed.
    fn replaying(&self, path: &str) -> bool {
        let replay = self.replay.borrow();
        let prefix = format!("{path}/");
        !replay.records.is_empty() && replay.records.keys().any(|key| key.starts_with(&prefix))
    }
}

/// Serialises plain data. It cannot fail for the types used here; `null` would be seen as a broken record.
pub(super) fn raw(value: &impl serde::Serialize) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// A journal that fails ends nothing well: the run stays open and is taken up at the next start.
pub(super) fn journal_broken(error: journal::Error) -> Stop {
    tracing::error!(%error, "the journal cannot record");
    Stop::Broken(Failure::new("E-JOURNAL", format!("the journal cannot record: {error}")))
}

/// A context at one path of one run.
#[derive(Clone)]
pub(super) struct Context {
    state: Rc<RunState>,
    path: String,
    /// How often a label was used here.
    labels: Rc<RefCell<HashMap<String, u32>>>,
    /// Budgets of the items above, outermost first.
    items: Rc<Vec<(String, UsdMicros)>>,
}

impl Context {
    pub fn root(state: Rc<RunState>) -> Self {
        Self { state, path: String::new(), labels: Rc::default(), items: Rc::default() }
    }

    fn at(&self, path: String) -> Self {
        Self { state: self.state.clone(), path, labels: Rc::default(), items: self.items.clone() }
    }

    /// `path/label`, with `~n` from the second use on.
    fn address(&self, label: &str) -> String {
        let mut labels = self.labels.borrow_mut();
        let count = labels.entry(label.to_owned()).or_insert(0);
        *count += 1;
        let label = if *count == 1 { label.to_owned() } else { format!("{label}~{count}") };
        if self.path.is_empty() || label.starts_with('[') {
            format!("{}{label}", self.path)
        } else {
            format!("{}/{label}", self.path)
        }
    }

    /// What the journal says about `path`: an answer, or how to go about the act.
    fn replay(&self, path: &str, hash: Hash) -> Result<Replayed, Stop> {
        let state = &self.state;
        let ((attempt, supersedes), record) = {
            let mut replay = state.replay.borrow_mut();
            (replay.next_attempt(path), replay.records.remove(path))
        };
        let act = |earlier| Replayed::Act { attempt, supersedes, earlier };
        let Some(record) = record else { return Ok(act(Earlier::None)) };
        let (input, seq) = match &record {
            Record::Done { input, seq, .. } | Record::Failed { input, seq, .. } | Record::Intended { seq, input } => {
                (*input, *seq)
            }
            Record::Finished(_) | Record::Value(_) => {
                return Err(replay_error(path, "another kind of entry stands there"));
            }
        };
        if input.is_some_and(|input| input != hash) {
            if state.strict && seq > state.resumed_at {
                return Err(replay_error(path, "the input differs from the recorded one"));
            }
            return Ok(act(Earlier::None));
        }
        Ok(match record {
            Record::Done { output, .. } => Replayed::Answer(Ok(Recorded { path: path.to_owned(), output })),
            Record::Failed { stop, .. } => {
                let stop =
                    serde_json::from_str(stop.get()).map_err(|_| replay_error(path, "the failure cannot be read"))?;
                Replayed::Answer(Err(stop))
            }
            _ => act(Earlier::Unknown),
        })
    }

    async fn perform_at(&self, path: String, mut activity: Activity) -> Result<Recorded, Stop> {
        let state = &self.state;
        if let Activity::Model(request) = &mut activity {
            request.items = self.items.as_ref().clone();
        }
        let hash = activity.input_hash();
        let (attempt, supersedes, earlier) = match self.replay(&path, hash)? {
            Replayed::Answer(answer) => return answer,
            Replayed::Act { attempt, supersedes, earlier } => (attempt, supersedes, earlier),
        };
        if let Some(stop) = state.stopped() {
            return Err(stop);
        }
        let (run, asker) = (state.start.id.clone(), self.path.clone());
        let at = At {
            run,
            path: path.clone(),
            asker,
            attempt,
            supersedes,
            earlier,
            input: hash,
            items: self.items.as_ref().clone(),
        };
        if let Some(stop) = self.over_time(&activity) {
            state.executor.record_failure(&at, &stop).await?;
            return Err(stop);
        }
        let executor = state.executor.clone();
        let halt = Halt { cancel: state.cancel.clone(), suspend: state.suspend.clone() };
        let act = state
            .scope
            .spawn(format!("{} {path}", state.start.id), async move { executor.perform(at, activity, &halt).await });
        tokio::pin!(act);
        // A cancelled run does not wait; the act ends in the scope and its cost is booked. A suspended run waits: the daemon
        // gives every act the grace to reach its record.
        let answer = tokio::select! {
            answer = &mut act => answer,
            () = state.cancel.cancelled() => return Err(state.stopping().await),
        };
        match answer {
            Ok(Ok(output)) => Ok(Recorded { path, output }),
            // The act knows that it was stopped, the run knows who said why.
            Ok(Err(stop @ Stop::Cancelled { .. })) => Err(state.stopped().unwrap_or(stop)),
            Ok(Err(stop)) => Err(stop),
            Err(lost) if state.suspend.is_cancelled() => {
                tracing::debug!(%lost, path, "an activity was cut off while stopping");
                Err(Stop::Suspended)
            }
            Err(lost) => Err(Stop::Failed(Failure::new("E-PANIC", format!("the activity at `{path}` broke: {lost}")))),
        }
    }

    /// Deliveries and account reads are allowed after the time limit: the report must get out.
    fn over_time(&self, activity: &Activity) -> Option<Stop> {
        match activity {
            Activity::Model(request) if request.from_report_slice => None,
            Activity::Model(_)
            | Activity::Fetch(_)
            | Activity::Tool(_)
            | Activity::Workspace { .. }
            | Activity::Environment { .. }
            | Activity::Sandbox(_) => self.state.past_deadline(),
            // What is finished is not thrown away for want of a second.
            Activity::Deliver(_)
            | Activity::Publish(_)
            | Activity::Tend { .. }
            | Activity::Findings(_)
            | Activity::Code(_)
            | Activity::Lines(_)
            | Activity::Account
            | Activity::Keep { .. } => None,
        }
    }

    /// Runs `logic` as a span at `path`, unless it has already ended.
    async fn span<'a>(
        &'a self,
        span: Context,
        (begin, end): (EntryKind, EntryKind),
        head: Value,
        logic: Logic<'a>,
    ) -> Result<StepEnd, Stop> {
        let state = &self.state;
        let path = span.path.clone();
        let finished = {
            let mut replay = state.replay.borrow_mut();
            match replay.records.get(&path) {
                Some(Record::Finished(_)) => replay.records.remove(&path),
                _ => None,
            }
        };
        if let Some(Record::Finished(end)) = finished {
            return serde_json::from_str(end.get())
                .map_err(|_| replay_error(&path, "the end of the step cannot be read"));
        }
        if let Some(stop) = state.stopped() {
            return Err(stop);
        }
        if !state.replaying(&path) {
            state.write(Family::Span, begin, &path, &head);
        }
        let ended = logic(Box::new(span)).await?;
        state.write(Family::Span, end, &path, &ended);
        Ok(ended)
    }

    /// A value that replay must see again.
    fn value(&self, label: &str, make: impl FnOnce() -> Value) -> Arc<RawValue> {
        let path = self.address(label);
        if let Some(value) = self.state.recorded_value(&path) {
            return value;
        }
        let value = raw(&make());
        self.state.journal.append_lazy(self.state.entry(Family::Span, EntryKind::Value, &path, value.clone()));
        Arc::from(value)
    }

    fn decode<T: serde::de::DeserializeOwned>(&self, value: &RawValue) -> Result<T, Stop> {
        serde_json::from_str(value.get())
            .map_err(|error| replay_error(&self.path, &format!("a value cannot be read: {error}")))
    }

    /// Writes something for people, once.
    fn once(&self, family: Family, kind: EntryKind, payload: Box<RawValue>) {
        let state = &self.state;
        let mut noted = state.noted.borrow_mut();
        let count = noted.entry(self.path.clone()).or_insert(0);
        *count += 1;
        // The first so many were written in an earlier life.
        if *count > state.replay.borrow().written.get(&self.path).copied().unwrap_or(0) {
            state.journal.append_lazy(state.entry(family, kind, &self.path, payload));
        }
    }

    async fn wait_until(&self, until: Timestamp) -> Result<(), Stop> {
        let state = &self.state;
        loop {
            let left = until.duration_since(state.env.now());
            if left.is_negative() || left.is_zero() {
                return Ok(());
            }
            // In pieces, so that a stepped wall clock is noticed.
            let piece = Duration::try_from(left).unwrap_or_default().min(Duration::from_secs(60));
            tokio::select! {
                () = state.env.clock.sleep(piece) => {}
                stop = state.stopping() => return Err(stop),
            }
        }
    }
}

enum Replayed {
    Answer(Result<Recorded, Stop>),
    Act { attempt: u32, supersedes: Option<i64>, earlier: Earlier },
}

fn replay_error(path: &str, what: &str) -> Stop {
    Stop::Broken(
        Failure::new(
            "E-REPLAY",
            format!("the journal's record at `{path}` does not fit what the run asks now: {what}"),
        )
        .help("this is a bug in nightcrew; keep the state directory and report it. `nightcrew run` starts a new run"),
    )
}

impl DurableContext for Context {
    fn run(&self) -> &RunStart {
        &self.state.start
    }

    fn path(&self) -> &str {
        &self.path
    }

    fn perform<'a>(&'a self, label: &str, activity: Activity) -> LocalBoxFuture<'a, Result<Recorded, Stop>> {
        let path = self.address(label);
        Box::pin(self.perform_at(path, activity))
    }

    fn perform_all<'a>(
        &'a self,
        activities: Vec<(String, Activity)>,
        max_parallel: usize,
    ) -> LocalBoxFuture<'a, Vec<Result<Recorded, Stop>>> {
        // Addresses are given in program order, before anything begins.
        let addressed: Vec<_> =
            activities.into_iter().map(|(label, activity)| (self.address(&label), activity)).collect();
        Box::pin(async move {
            let mut answers: Vec<_> = futures_util::stream::iter(addressed.into_iter().enumerate())
                .map(|(i, (path, activity))| async move { (i, self.perform_at(path, activity).await) })
                .buffer_unordered(max_parallel.max(1))
                .collect()
                .await;
            answers.sort_by_key(|(i, _)| *i);
            answers.into_iter().map(|(_, answer)| answer).collect()
        })
    }

    fn step<'a>(&'a self, id: &str, kind: &str, logic: Logic<'a>) -> LocalBoxFuture<'a, Result<StepEnd, Stop>> {
        let span = self.at(self.address(id));
        let head = json!({ "kind": kind });
        Box::pin(self.span(span, (EntryKind::StepStarted, EntryKind::StepFinished), head, logic))
    }

    fn children<'a>(
        &'a self,
        children: Vec<ChildRun<'a>>,
        max_parallel: usize,
    ) -> LocalBoxFuture<'a, Result<Vec<StepEnd>, Stop>> {
        let of = children.len();
        let mut branches = Vec::with_capacity(of);
        for (index, child) in children.into_iter().enumerate() {
            let mut span = self.at(self.address(&format!("[{}]", child.key)));
            if let Some(budget) = child.budget {
                let mut items = self.items.as_ref().clone();
                items.push((span.path.clone(), budget));
                span.items = Rc::new(items);
            }
            let head = json!({ "key": child.key, "title": child.title, "number": index + 1, "of": of });
            branches.push((span, head, child.logic));
        }
        Box::pin(async move {
            const KINDS: (EntryKind, EntryKind) = (EntryKind::ChildStarted, EntryKind::ChildFinished);
            let mut ends = futures_util::stream::iter(branches.into_iter().enumerate())
                .map(|(i, (span, head, logic))| async move { (i, self.span(span, KINDS, head, logic).await) })
                .buffer_unordered(max_parallel.max(1));
            let mut all = Vec::new();
            while let Some((i, end)) = ends.next().await {
                all.push((i, end?));
            }
            all.sort_by_key(|(i, _)| *i);
            Ok(all.into_iter().map(|(_, end)| end).collect())
        })
    }

    fn sleep<'a>(&'a self, label: &str, duration: Duration) -> LocalBoxFuture<'a, Result<(), Stop>> {
        let now = self.state.env.now();
        let until = self.value(label, || json!(now.saturating_add(duration).unwrap_or(Timestamp::MAX)));
        Box::pin(async move {
            let until: Timestamp = self.decode(&until)?;
            match self.state.deadline {
                Some(deadline) if deadline < until => {
                    self.wait_until(deadline).await?;
                    Err(self.state.past_deadline().unwrap_or(Stop::Suspended))
                }
                _ => self.wait_until(until).await,
            }
        })
    }

    fn signal<'a>(
        &'a self,
        name: &str,
        asked: Value,
        timeout: Option<Duration>,
    ) -> LocalBoxFuture<'a, Result<Option<SignalValue>, Stop>> {
        let path = self.address(name);
        let name = name.to_owned();
        Box::pin(async move {
            let state = &self.state;
            if let Some(value) = state.recorded_value(&path) {
                return self.decode(&value);
            }
            let now = state.env.now();
            let expires = timeout.and_then(|t| now.checked_add(t).ok());
            let mut fresh = false;
            let expires = self.value(&format!("{name}-expires"), || {
                fresh = true;
                json!(expires)
            });
            let expires: Option<Timestamp> = self.decode(&expires)?;
            if fresh {
                let question = json!({ "name": name, "ask": asked, "expires_at": expires });
                state.write(Family::Agent, EntryKind::Asked, &path, &question);
            }
            let mut signals = state.journal.signals();
            loop {
                let taken =
                    state.journal.take_signal(&state.start.id, &path, &name, &path).await.map_err(journal_broken)?;
                if taken.is_some() {
                    return Ok(taken);
                }
                let expired = async {
                    match expires {
                        Some(at) => self.wait_until(at).await,
                        None => Err(state.stopping().await),
                    }
                };
                tokio::select! {
                    changed = signals.changed() => {
                        if changed.is_err() {
                            return Err(Stop::Suspended);
                        }
                    }
                    ended = expired => {
                        ended?;
                        // An answer that came at the last moment was told to be one.
                        let last = state.journal.take_signal(&state.start.id, &path, &name, &path).await;
                        if let Some(taken) = last.map_err(journal_broken)? {
                            return Ok(Some(taken));
                        }
                        state.write(Family::Span, EntryKind::Value, &path, &Value::Null);
                        return Ok(None);
                    }
                }
            }
        })
    }

    fn poll_signal<'a>(&'a self, name: &str) -> LocalBoxFuture<'a, Result<Option<SignalValue>, Stop>> {
        let path = self.address(&format!("poll-{name}"));
        let name = name.to_owned();
        Box::pin(async move {
            let state = &self.state;
            if let Some(value) = state.recorded_value(&path) {
                return self.decode(&value);
            }
            // What was not there in the first life of this branch must not appear in its replay.
            if state.replaying(&self.path) {
                return Ok(None);
            }
            state.journal.take_signal(&state.start.id, &self.path, &name, &path).await.map_err(journal_broken)
        })
    }

    fn now<'a>(&'a self) -> LocalBoxFuture<'a, Result<Timestamp, Stop>> {
        let value = self.value("now", || json!(self.state.env.now()));
        Box::pin(async move { self.decode(&value) })
    }

    fn new_id<'a>(&'a self) -> LocalBoxFuture<'a, Result<String, Stop>> {
        let value = self.value("new-id", || json!(self.state.env.ids.new_id(self.state.env.now())));
        Box::pin(async move { self.decode(&value) })
    }

    fn note(&self, note: &str, details: Value) {
        let mut payload = json!({ "note": note });
        if let (Some(payload), Value::Object(details)) = (payload.as_object_mut(), details) {
            payload.extend(details);
        }
        self.once(Family::Session, EntryKind::Note, raw(&payload));
    }

    fn complain(&self, complaint: Complaint) {
        self.once(Family::Agent, EntryKind::Complaint, raw(&complaint));
    }

    fn message(&self, message: &RawValue) {
        self.once(Family::Agent, EntryKind::Message, message.to_owned());
    }
}
