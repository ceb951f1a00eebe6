//! For tests: a durable context in memory whose models, sources, tools and people are scripted.
//!
//! It holds every request to the rules of a real provider: the first message is a user's, speakers alternate, every tool call
//! has exactly one result in the next message, nothing is sent that is larger than a cap.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::base::LocalBoxFuture;
use crate::base::hash::Hash;
use crate::base::ids::RunId;
use crate::base::money::UsdMicros;
use crate::domain::activity::{
    Activity, Artifact, Complaint, Delivery, FetchRequest, Receipt, Rows, ToolAnswer, ToolRequest,
};
use crate::domain::definition::Pipeline;
use crate::domain::entry::StepEnd;
use crate::domain::finding::{FindingsRequest, Judged, Standing};
use crate::domain::model::{Block, Message, ModelAnswer, ModelRequest, Speaker, StopReason, Usage};
use crate::domain::money::{Cap, RoleSpend, Spend};
use crate::domain::run::{Effects, Failure, RunLimits, RunStart, Trigger, TriggerKind};
use crate::domain::view::RunView;
use crate::pipeline::{StoredFiles, Surroundings, parse};
use crate::ports::Registry;
use crate::ports::durable::{ChildRun, DurableContext, Logic, Recorded, SignalValue, Stop};

use super::run::{RunEnd, run_pipeline};

pub(super) mod code;

pub(super) const REGISTRY: Registry = Registry {
    steps: super::ALL,
    tools: crate::tools::ALL,
    sources: &[],
    sinks: &[],
    models: &[],
    sandboxes: &[],
    publishers: &[],
};

/// What a scripted model does at one call.
#[derive(Clone, Debug)]
pub(super) enum Says {
    Text(String),
    /// Tool calls: (name, input).
    Calls(Vec<(String, Value)>),
    /// These content blocks and this stop reason.
    Raw(Value, StopReason),
    Stop(Stop),
}

/// A typed answer.
pub(super) fn says(value: Value) -> Says {
    Says::Text(value.to_string())
}

/// One tool call.
pub(super) fn calls(name: &str, input: Value) -> Says {
    Says::Calls(vec![(name.to_owned(), input)])
}

pub(super) fn capped() -> Says {
    Says::Stop(Stop::Capped { cap: Cap::Run, message: "the run's budget of $0.60 is reached".into() })
}

type Record = (Hash, Result<Value, Stop>);
type ModelScript = Box<dyn FnMut(&str, &ModelRequest) -> Says>;
type Script<A, B> = RefCell<Box<dyn FnMut(&A) -> Result<B, Stop>>>;

/// The world outside of the logic, and what it saw.
pub(super) struct World {
    pub run: RunStart,
    /// Answers by the path of the call, in order; the last one stays when it is the only one left and `endless`.
    pub models: RefCell<BTreeMap<String, VecDeque<Says>>>,
    /// Asked when a path has no answer of its own.
    pub model: RefCell<ModelScript>,
    pub source: Script<FetchRequest, Vec<Value>>,
    pub tool: Script<ToolRequest, String>,
    pub sink: Script<Delivery, Receipt>,
    /// Code, sandbox, ledger and publishing.
    pub work: Script<Activity, Value>,
    /// The findings ledger, but for remembered figures: those are `work`. Knows nothing unless it is told to.
    pub ledger: Script<FindingsRequest, Value>,
    pub signals: RefCell<BTreeMap<String, VecDeque<SignalValue>>>,
    pub now: Cell<Timestamp>,
    pub asked: RefCell<Vec<(String, Activity)>>,
    pub notes: RefCell<Vec<(String, String, Value)>>,
    pub complaints: RefCell<Vec<Complaint>>,
    pub told: RefCell<Vec<String>>,
    pub slept: RefCell<Vec<Duration>>,
    pub questions: RefCell<Vec<Value>>,
    pub ends: RefCell<Vec<(String, String, StepEnd)>>,
    pub budgets: RefCell<Vec<Option<UsdMicros>>>,
    artifacts: RefCell<BTreeMap<String, String>>,
    /// What was answered, by path: a run that begins again gets the same answers.
    records: RefCell<BTreeMap<String, Record>>,
    /// Answers until the process is killed.
    pub lives: Cell<usize>,
}

impl World {
    /// A world in which nothing answers yet but a repository with one file.
    pub fn new() -> Self {
        let now: Timestamp = "2026-11-20T07:00:00Z".parse().unwrap();
        Self {
            run: RunStart {
                id: RunId("01JD0000000000000000000001".into()),
                pipeline: "test".into(),
                definition: Hash::of(""),
                profile: "local".into(),
                effects: Effects::Preview,
                trigger: Trigger { kind: TriggerKind::Manual, key: "k".into(), item: None },
                params: Map::from_iter([("day".to_owned(), Value::from("2026-11-19"))]),
                nominal_at: now,
                timezone: "Europe/Berlin".into(),
                started_at: now,
                build_id: "b".into(),
                limits: RunLimits {
                    max_turns: Some(12),
                    max_budget: Some(UsdMicros(600_000)),
                    keep_for_report_permille: 150,
                    ..RunLimits::default()
                },
                until: None,
            },
            models: RefCell::default(),
            model: RefCell::new(Box::new(|path, _| panic!("nobody answers the call at `{path}`"))),
            source: RefCell::new(Box::new(|request| {
                Err(Stop::Blocked(Failure::new("E-SOURCE", format!("no source `{}`", request.from))))
            })),
            tool: RefCell::new(Box::new(|request| Err(super::failed("E-TEST", format!("no tool `{}`", request.tool))))),
            sink: RefCell::new(Box::new(|delivery| {
                Ok(Receipt {
                    kind: "report".into(),
                    destination: delivery.sink.clone(),
                    url_or_path: format!("out/{}.md", delivery.sink),
                    key: delivery.key.clone(),
                    found: false,
                })
            })),
            work: RefCell::new(Box::new(code::Repo::new(vec![code::files(&[("README.md", "# api\n")])]).work())),
            ledger: RefCell::new(Box::new(|request| {
                Ok(match request {
                    FindingsRequest::Judge { seen, .. } => {
                        json!(Judged { standings: vec![Standing::New; seen.len()], gone: Vec::new(), first: true })
                    }
                    _ => json!({}),
                })
            })),
            signals: RefCell::default(),
            now: Cell::new(now),
            asked: RefCell::default(),
            notes: RefCell::default(),
            complaints: RefCell::default(),
            told: RefCell::default(),
            slept: RefCell::default(),
            questions: RefCell::default(),
            ends: RefCell::default(),
            budgets: RefCell::default(),
            artifacts: RefCell::default(),
            records: RefCell::default(),
            lives: Cell::new(usize::MAX),
        }
    }

    /// What the model says at this path, one call after the other.
    pub fn answer(self, path: &str, says: impl IntoIterator<Item = Says>) -> Self {
        self.models.borrow_mut().entry(path.to_owned()).or_default().extend(says);
        self
    }

    pub fn model(self, model: impl FnMut(&str, &ModelRequest) -> Says + 'static) -> Self {
        *self.model.borrow_mut() = Box::new(model);
        self
    }

    pub fn source(self, source: impl FnMut(&FetchRequest) -> Result<Vec<Value>, Stop> + 'static) -> Self {
        *self.source.borrow_mut() = Box::new(source);
        self
    }

    /// The same rows for every fetch.
    pub fn rows(self, rows: Value) -> Self {
        self.source(move |_| Ok(rows.as_array().cloned().unwrap()))
    }

    pub fn tool(self, tool: impl FnMut(&ToolRequest) -> Result<String, Stop> + 'static) -> Self {
        *self.tool.borrow_mut() = Box::new(tool);
        self
    }

    /// Code and sandbox.
    pub fn work(self, work: impl FnMut(&Activity) -> Result<Value, Stop> + 'static) -> Self {
        *self.work.borrow_mut() = Box::new(work);
        self
    }

    pub fn ledger(self, ledger: impl FnMut(&FindingsRequest) -> Result<Value, Stop> + 'static) -> Self {
        *self.ledger.borrow_mut() = Box::new(ledger);
        self
    }

    pub fn signal(self, path_and_name: &str, value: Value) -> Self {
        let signal = SignalValue { value, by: "cli".into() };
        self.signals.borrow_mut().entry(path_and_name.to_owned()).or_default().push_back(signal);
        self
    }

    /// Runs the steps, written as in a pipeline's file.
    pub fn run(self, steps: &str) -> Ran {
        self.run_pipeline(&pipeline(steps))
    }

    pub fn run_pipeline(self, pipeline: &Pipeline) -> Ran {
        Rc::new(self).begin(pipeline)
    }

    /// Runs it, or runs it again with what is recorded.
    pub fn begin(self: Rc<Self>, pipeline: &Pipeline) -> Ran {
        let world = self;
        world.ends.borrow_mut().clear();
        let ctx = TestContext { world: world.clone(), path: String::new(), used: RefCell::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let end = runtime.block_on(run_pipeline(&ctx, pipeline));
        Ran { end, world }
    }
}

/// A pipeline around these steps.
pub(super) fn pipeline(steps: &str) -> Pipeline {
    let text = format!(
        "version: 1
name: test
summary: A test.
owner: {{channel: growth}}
params: {{day: {{type: date, default: yesterday}}}}
on: {{sentry: {{project: api, when: [new]}}}}
limits: {{max_turns: 12, max_budget_usd: 0.60, keep_for_report: 15%}}
repository: {{github: acme/api, ref: main}}
environment: environments/api.yaml
tools:
  signups: {{sql: warehouse, file: sql/signups.sql, args: {{from: date?, to: date?}}, hide: [email]}}
  checkout: {{http: shop, get: /errors, args: {{from: date?, to: date?}}}}
steps:
{steps}"
    );
    let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let files = [
        file("sql/signups.sql", "select 1"),
        file("environments/api.yaml", "test: \"true\"\n"),
        file("playbooks/book.md", "Follow the book."),
        file("playbooks/review.md", "Be strict."),
    ];
    let (pipeline, report) =
        parse("t.yaml", "t.yaml", &text, &StoredFiles(&files), &REGISTRY, &Surroundings::default());
    pipeline.unwrap_or_else(|| panic!("{}", report.render(crate::diag::Color::Off)))
}

/// A run that is over.
pub(super) struct Ran {
    pub end: Result<RunEnd, Stop>,
    pub world: Rc<World>,
}

impl Ran {
    pub fn outcome(&self) -> &'static str {
        self.end.as_ref().unwrap().outcome.as_str()
    }

    /// The end of the step at this path.
    pub fn step(&self, path: &str) -> StepEnd {
        let ends = self.world.ends.borrow();
        ends.iter().find(|(known, _, _)| known == path).unwrap_or_else(|| panic!("no step `{path}`")).2.clone()
    }

    pub fn result(&self, path: &str) -> Value {
        Value::Object(self.step(path).result)
    }

    pub fn reason(&self, path: &str) -> String {
        self.step(path).reason.unwrap_or_default()
    }

    /// Paths of all activities of a kind, in order.
    pub fn paths(&self, kind: &str) -> Vec<String> {
        self.world.asked.borrow().iter().filter(|(_, a)| a.kind() == kind).map(|(path, _)| path.clone()).collect()
    }

    pub fn request(&self, path: &str) -> ModelRequest {
        let asked = self.world.asked.borrow();
        let found = asked.iter().rev().find_map(|(known, activity)| match activity {
            Activity::Model(request) if known == path => Some(request.clone()),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("no model call at `{path}`"))
    }

    /// All text of the messages of a request.
    pub fn prompt(&self, path: &str) -> String {
        self.request(path).messages.iter().map(|message| message.get().to_owned()).collect::<Vec<_>>().join("\n")
    }

    pub fn delivered(&self) -> Vec<Delivery> {
        let asked = self.world.asked.borrow();
        asked.iter().filter_map(|(_, a)| if let Activity::Deliver(d) = a { Some(d.clone()) } else { None }).collect()
    }

    pub fn notes(&self, word: &str) -> Vec<Value> {
        self.world
            .notes
            .borrow()
            .iter()
            .filter(|(_, note, _)| note == word)
            .map(|(_, _, details)| details.clone())
            .collect()
    }
}

struct TestContext {
    world: Rc<World>,
    path: String,
    used: RefCell<BTreeMap<String, u32>>,
}

impl TestContext {
    fn address(&self, label: &str) -> String {
        let mut used = self.used.borrow_mut();
        let count = used.entry(label.to_owned()).or_default();
        *count += 1;
        let label = if *count == 1 { label.to_owned() } else { format!("{label}~{count}") };
        if self.path.is_empty() { label } else { format!("{}/{label}", self.path) }
    }

    /// The answer as it was recorded, or a new one. An ask with another input than the recorded one is a bug in the logic.
    fn recorded(&self, path: &str, input: Hash, answer: impl FnOnce() -> Result<Value, Stop>) -> Result<Value, Stop> {
        let world = &self.world;
        if let Some((known, answer)) = world.records.borrow().get(path) {
            assert_eq!(*known, input, "E-REPLAY at `{path}`");
            return answer.clone();
        }
        let lives = world.lives.get().checked_sub(1).ok_or(Stop::Suspended)?;
        world.lives.set(lives);
        let answer = answer();
        world.records.borrow_mut().insert(path.to_owned(), (input, answer.clone()));
        answer
    }

    fn act(&self, label: &str, activity: Activity) -> Result<Recorded, Stop> {
        let path = self.address(label);
        let output = self.recorded(&path, activity.input_hash(), || self.perform_now(&path, &activity))?;
        Ok(Recorded { path, output: Arc::from(serde_json::value::to_raw_value(&output).unwrap()) })
    }

    fn perform_now(&self, path: &str, activity: &Activity) -> Result<Value, Stop> {
        let world = &self.world;
        world.asked.borrow_mut().push((path.to_owned(), activity.clone()));
        Ok(match activity {
            Activity::Model(request) => json!(world.call(path, request)?),
            Activity::Fetch(request) => {
                let rows = (world.source.borrow_mut())(request)?;
                let rows = rows.into_iter().map(|row| serde_json::from_value(row).unwrap()).collect();
                json!(Rows { rows, truncated: false, via: "test".into() })
            }
            Activity::Tool(request) if request.tool.starts_with("artifact_") => {
                let artifacts = world.artifacts.borrow();
                let text = &artifacts[request.input["blob"].as_str().unwrap()];
                let text = match request.tool.as_str() {
                    "artifact_read" => crate::tools::artifact::read(text, &request.input),
                    _ => crate::tools::artifact::search(text, &request.input),
                };
                json!(ToolAnswer::text(text))
            }
            Activity::Tool(request) if request.code.is_some() => (world.work.borrow_mut())(activity)?,
            Activity::Tool(request) => json!(ToolAnswer::text((world.tool.borrow_mut())(request)?)),
            Activity::Workspace { .. }
            | Activity::Environment { .. }
            | Activity::Sandbox(_)
            | Activity::Code(_)
            | Activity::Lines(_)
            | Activity::Findings(FindingsRequest::Remember { .. })
            | Activity::Publish(_)
            | Activity::Tend { .. } => (world.work.borrow_mut())(activity)?,
            Activity::Findings(request) => (world.ledger.borrow_mut())(request)?,
            Activity::Deliver(delivery) => json!((world.sink.borrow_mut())(delivery)?),
            Activity::Account => json!(world.account()),
            Activity::Keep { name, text } => {
                let blob = Hash::of(text);
                world.artifacts.borrow_mut().insert(blob.to_string(), text.clone());
                let lines = text.lines().count() as u64;
                json!(Artifact {
                    id: format!("a-{}", blob.short()),
                    name: name.clone(),
                    blob,
                    bytes: text.len() as u64,
                    lines
                })
            }
        })
    }
}

impl World {
    fn call(&self, path: &str, request: &ModelRequest) -> Result<ModelAnswer, Stop> {
        check_request(path, request);
        let scripted = self.models.borrow_mut().get_mut(path).and_then(VecDeque::pop_front);
        let says = match scripted {
            Some(says) => says,
            None => (self.model.borrow_mut())(path, request),
        };
        let (content, stop) = match says {
            Says::Stop(stop) => return Err(stop),
            Says::Text(text) => (json!([{"type": "text", "text": text}]), StopReason::EndTurn),
            Says::Calls(calls) => {
                let block = |(n, (name, input)): (usize, (String, Value))| json!({"type": "tool_use", "id": format!("{path}#{n}"), "name": name, "input": input});
                (Value::Array(calls.into_iter().enumerate().map(block).collect()), StopReason::ToolUse)
            }
            Says::Raw(content, stop) => (content, stop),
        };
        let message = json!({"role": "assistant", "content": content});
        Ok(ModelAnswer {
            message: Arc::from(serde_json::value::to_raw_value(&message).unwrap()),
            stop,
            usage: Usage {
                input: request.messages.iter().map(|m| m.get().len() as u64 / 4).sum(),
                output: 10,
                ..Usage::default()
            },
            model: "scripted".into(),
            provider: "tape".into(),
            fallback: None,
        })
    }

    fn account(&self) -> RunView {
        let boss = RoleSpend { usd: UsdMicros(10_000), ..RoleSpend::default() };
        let spend = Spend { turns: 2, boss, ..Spend::default() };
        RunView {
            start: self.run.clone(),
            outcome: None,
            failure: None,
            finished_at: None,
            added: UsdMicros::ZERO,
            spend,
            activities: 0,
            counts: BTreeMap::new(),
            complaints: self.complaints.borrow().clone(),
            refused: Vec::new(),
            receipts: Vec::new(),
            steps: Vec::new(),
            models: vec!["scripted".into()],
            interns: Default::default(),
            figures_checked: 3,
            sentences_dropped: 0,
            questions: Vec::new(),
            reports: Vec::new(),
        }
    }
}

/// What every provider demands.
fn check_request(path: &str, request: &ModelRequest) {
    let messages: Vec<Message> = request.messages.iter().map(|raw| Message::from_raw(raw).unwrap()).collect();
    assert_eq!(messages.first().unwrap().role, Speaker::User, "{path}: begins with a user");
    let bytes: usize = request.messages.iter().map(|m| m.get().len()).sum();
    assert!(bytes < 2 << 20, "{path}: {bytes} bytes");
    let mut open: Vec<&str> = Vec::new();
    for (n, message) in messages.iter().enumerate() {
        assert!(!message.content.is_empty(), "{path}: message {n} is empty");
        let mut results = Vec::new();
        for block in &message.content {
            match block {
                Block::ToolResult { tool_use_id, .. } => results.push(tool_use_id.as_str()),
                Block::Text { text } => assert!(!text.is_empty(), "{path}: an empty text"),
                _ => {}
            }
        }
        assert_eq!(results, open, "{path}: results in message {n} answer the calls before it");
        open = message
            .content
            .iter()
            .filter_map(|b| if let Block::ToolUse { id, .. } = b { Some(id.as_str()) } else { None })
            .collect();
        if n > 0 && messages[n - 1].role == message.role {
            panic!("{path}: two messages of one speaker");
        }
    }
    assert!(open.is_empty(), "{path}: calls without results");
    let (_, known) = request.known_prefix;
    assert!(known <= messages.len(), "{path}: known prefix");
}

impl DurableContext for TestContext {
    fn run(&self) -> &RunStart {
        &self.world.run
    }

    fn path(&self) -> &str {
        &self.path
    }

    fn perform<'a>(&'a self, label: &str, activity: Activity) -> LocalBoxFuture<'a, Result<Recorded, Stop>> {
        let answer = self.act(label, activity);
        Box::pin(async move { answer })
    }

    fn perform_all<'a>(
        &'a self,
        activities: Vec<(String, Activity)>,
        _max_parallel: usize,
    ) -> LocalBoxFuture<'a, Vec<Result<Recorded, Stop>>> {
        Box::pin(async move { activities.into_iter().map(|(label, activity)| self.act(&label, activity)).collect() })
    }

    fn step<'a>(&'a self, id: &str, kind: &str, logic: Logic<'a>) -> LocalBoxFuture<'a, Result<StepEnd, Stop>> {
        let path = self.address(id);
        let kind = kind.to_owned();
        Box::pin(async move {
            let ctx = TestContext { world: self.world.clone(), path: path.clone(), used: RefCell::default() };
            let end = logic(Box::new(ctx)).await?;
            let copy: StepEnd = serde_json::from_str(&serde_json::to_string(&end).unwrap()).unwrap();
            self.world.ends.borrow_mut().push((path, kind, copy.clone()));
            Ok(copy)
        })
    }

    fn children<'a>(
        &'a self,
        children: Vec<ChildRun<'a>>,
        _max_parallel: usize,
    ) -> LocalBoxFuture<'a, Result<Vec<StepEnd>, Stop>> {
        Box::pin(async move {
            let mut ends = Vec::new();
            let mut keys: BTreeMap<String, u32> = BTreeMap::new();
            for child in children {
                let count = keys.entry(child.key.clone()).or_default();
                *count += 1;
                let key = if *count == 1 { child.key } else { format!("{}~{count}", child.key) };
                self.world.budgets.borrow_mut().push(child.budget);
                let path = format!("{}[{key}]", self.path);
                let ctx = TestContext { world: self.world.clone(), path, used: RefCell::default() };
                ends.push((child.logic)(Box::new(ctx)).await?);
            }
            Ok(ends)
        })
    }

    fn sleep<'a>(&'a self, label: &str, duration: Duration) -> LocalBoxFuture<'a, Result<(), Stop>> {
        let slept = self.recorded(&self.address(label), Hash::of("sleep"), || {
            self.world.slept.borrow_mut().push(duration);
            self.world.now.set(self.world.now.get().saturating_add(duration).unwrap());
            Ok(Value::Null)
        });
        Box::pin(async move { slept.map(drop) })
    }

    fn signal<'a>(
        &'a self,
        name: &str,
        asked: Value,
        _timeout: Option<Duration>,
    ) -> LocalBoxFuture<'a, Result<Option<SignalValue>, Stop>> {
        self.world.questions.borrow_mut().push(asked);
        self.poll_signal(name)
    }

    fn poll_signal<'a>(&'a self, name: &str) -> LocalBoxFuture<'a, Result<Option<SignalValue>, Stop>> {
        let found = self.recorded(&self.address(&format!("signal-{name}")), Hash::of("signal"), || {
            let mut signals = self.world.signals.borrow_mut();
            Ok(json!(signals.get_mut(&format!("{}:{name}", self.path)).and_then(VecDeque::pop_front)))
        });
        Box::pin(async move { found.map(|value| serde_json::from_value(value).unwrap()) })
    }

    fn now<'a>(&'a self) -> LocalBoxFuture<'a, Result<Timestamp, Stop>> {
        let now = self.recorded(&self.address("now"), Hash::of("now"), || Ok(json!(self.world.now.get())));
        Box::pin(async move { now.map(|value| serde_json::from_value(value).unwrap()) })
    }

    fn new_id<'a>(&'a self) -> LocalBoxFuture<'a, Result<String, Stop>> {
        Box::pin(async { Ok("01JD0000000000000000000002".into()) })
    }

    fn note(&self, note: &str, details: Value) {
        self.world.notes.borrow_mut().push((self.path.clone(), note.to_owned(), details));
    }

    fn complain(&self, complaint: Complaint) {
        self.world.complaints.borrow_mut().push(complaint);
    }

    fn message(&self, message: &RawValue) {
        self.world.told.borrow_mut().push(message.get().to_owned());
    }
}
