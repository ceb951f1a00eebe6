//! Whole runs through the real engine against a scripted model: limits, signals, outages, bad answers, upgrades.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nightcrew::base::BoxFuture;
use nightcrew::base::clock::{Clock, Timestamp};
use nightcrew::base::money::UsdMicros;
use nightcrew::domain::entry::EntryKind;
use nightcrew::domain::run::Outcome;
use serde_json::json;

use crate::fakes::model::{ModelServer, Reply, Request};
use crate::world::World;

/// A clock on which sleeping takes no time: it jumps to the end of each sleep.
#[derive(Debug)]
struct JumpingClock(Mutex<Timestamp>);

impl JumpingClock {
    fn start() -> Self {
        Self(Mutex::new("2026-11-20T08:00:00Z".parse().unwrap()))
    }
}

impl Clock for JumpingClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let mut now = self.0.lock().unwrap();
        *now = now.checked_add(duration).unwrap();
        Box::pin(tokio::task::yield_now())
    }
}

fn world(model: &ModelServer) -> World {
    let mut world = World::new(model);
    world.env.clock = std::sync::Arc::new(JumpingClock::start());
    world
}

fn pipeline(limits: &str, steps: &str) -> String {
    format!(
        "version: 1\nname: trial\nsummary: A trial.\nlimits: {limits}\nsteps:\n{steps}\n\
         tools:\n  days: {{sql: warehouse, file: days.sql, args: {{from: date?}}}}\n"
    )
}

const BOSS: &str = "  - id: data
    fetch: {from: days}
  - id: why
    boss: {ask: \"Why?\", given: [data], tools: [days]}
    output: {cause: string(200)}
  - id: news
    report: {from: [why], to: files}";

/// Calls a tool with another argument in each of `turns` turns, then answers.
fn busy(turns: usize) -> impl Fn(&Request) -> Reply {
    move |request| {
        if request.may_call() && request.turn() <= turns {
            Reply::calls([("days", json!({"from": format!("2026-11-{:02}", request.turn() + 1)}))])
        } else {
            Reply::json(&json!({"cause": "unknown"}))
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_at_its_cap_ends_with_its_report_and_goes_on_with_more_money() {
    let model = ModelServer::script(busy(8));
    let world = world(&model);
    let process = world.open(|_| {});
    let yaml = pipeline("{max_turns: 30, max_budget_usd: 0.10, keep_for_report: 40%}", BOSS);
    let start = world.claim(&process, &yaml, "1").await.unwrap();
    let id = start.id.clone();
    assert_eq!(process.run(start.clone()).await, Some(Outcome::Capped));
    let view = process.view(&id);
    assert!(view.spend.total() <= UsdMicros::from_usd(0.10), "{:?}", view.spend);
    assert_eq!(view.receipts.len(), 1, "the report got out");
    let calls = model.count();

    process.journal.resume_run(&id, UsdMicros::from_usd(2.0), "test").await.unwrap();
    assert_eq!(process.run(start).await, Some(Outcome::Reported), "{:#?}", process.view(&id).failure);
    let all = model.requests();
    let repeated = all[calls..].iter().filter(|r| all[..calls].iter().any(|old| old.body == r.body)).count();
    assert_eq!(repeated, 0, "no turn was paid for twice");
    process.stop().await;
    model.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_turn_is_a_closing_call_and_no_turn_goes_beyond_the_limit() {
    let model = ModelServer::script(busy(100));
    let world = world(&model);
    let process = world.open(|_| {});
    let start = world.claim(&process, &pipeline("{max_turns: 5, max_budget_usd: 5.00}", BOSS), "1").await.unwrap();
    let id = start.id.clone();
    assert_eq!(process.run(start).await, Some(Outcome::Capped));
    assert_eq!((model.count(), process.view(&id).spend.turns), (5, 5));
    let last = model.requests().pop().unwrap();
    assert!(!last.may_call());
    process.stop().await;
    model.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_minutes_of_429_are_few_calls_and_no_turn_and_no_money() {
    let model = ModelServer::script(|_| Reply::status(429, "rate_limit_error", "slow down"));
    let world = world(&model);
    let process = world.open(|_| {});
    let start = world.claim(&process, &pipeline("{max_turns: 5, max_budget_usd: 5.00}", BOSS), "1").await.unwrap();
    let id = start.id.clone();
    assert_eq!(process.run(start).await, Some(Outcome::Failed));
    assert!(model.count() <= 12, "{} calls", model.count());
    let view = process.view(&id);
    assert_eq!(view.spend.total(), UsdMicros::ZERO);
    assert_eq!(view.failure.unwrap().code, "E-MODEL");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limited_call_is_asked_again_and_counts_as_one_turn() {
    let tries = AtomicUsize::new(0);
    let model = ModelServer::script(move |request| match tries.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::status(429, "rate_limit_error", "slow down").header("retry-after", "7"),
        1 => Reply::status(529, "overloaded_error", "overloaded"),
        _ => busy(1)(request),
    });
    let world = world(&model);
    let process = world.open(|_| {});
    let start = world.claim(&process, &pipeline("{max_turns: 5, max_budget_usd: 5.00}", BOSS), "1").await.unwrap();
    let id = start.id.clone();
    assert_eq!(process.run(start).await, Some(Outcome::Reported));
    let view = process.view(&id);
    assert_eq!((view.spend.turns, model.count()), (3, 5));
    process.stop().await;
    model.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_falls_back_to_the_configured_model() {
    let model = ModelServer::script(|request| {
        if request.model() == "claude-opus-5-5" {
            Reply::status(503, "api_error", "down")
        } else {
            Reply::json(&json!({"cause": "unknown"}))
        }
    });
    let mut world = world(&model);
    world.config = world.config.replace("max_output_tokens: 2000}", "max_output_tokens: 2000, fallback: [intern]}");
    let process = world.open(|_| {});
    let start = world.claim(&process, &pipeline("{max_turns: 5, max_budget_usd: 5.00}", BOSS), "1").await.unwrap();
    let id = start.id.clone();
    assert_eq!(process.run(start).await, Some(Outcome::Reported), "{:#?}", process.view(&id).failure);
    process.stop().await;
    model.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_answers_end_in_a_typed_outcome_with_the_report() {
    type Bad = (&'static str, fn(&Request) -> Reply, &'static str);
    let table: [Bad; 6] = [
        ("refuses", |_| Reply::text("").refusal("cyber", "no"), "E-REFUSED"),
        ("cuts off", |r| Reply::json(&json!({"cause": "x".repeat(r.turn())})).cut_at(300), "E-MODEL"),
        ("talks", |_| Reply::text("I would rather chat."), "E-OUTPUT"),
        ("garbles", |_| Reply::raw(200, "text/event-stream", "event: message_start\ndata: {oops\n\n"), "E-MODEL"),
        ("loops", |_| Reply::calls([("days", json!({"from": "2026-11-19"}))]), "E-LOOP"),
        ("is the wrong one", |_| Reply::json(&json!({"cause": "x"})).model("other-model"), "E-MODEL"),
    ];
    for (name, answer, code) in table {
        let model = ModelServer::script(answer);
        let world = world(&model);
        let process = world.open(|_| {});
        let start = world.claim(&process, &pipeline("{max_turns: 9, max_budget_usd: 5.00}", BOSS), "1").await.unwrap();
        let id = start.id.clone();
        assert_eq!(process.run(start).await, Some(Outcome::Failed), "a model that {name}");
        let view = process.view(&id);
        assert_eq!(view.failure.map(|f| f.code).as_deref(), Some(code), "a model that {name}");
        assert_eq!(view.receipts.len(), 1, "a model that {name}: the report says so");
        process.stop().await;
    }
}

const APPROVE: &str = "  - id: data
    fetch: {from: days}
  - id: gate
    approve: {ask: \"Go on?\", given: [data], expires: 1h, on_expiry: skip}
  - id: news
    when: gate.ran && gate.approved
    report: {from: [data], to: files}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_survives_a_restart_and_is_recorded_with_who_gave_it() {
    let model = ModelServer::queue([]);
    // On the real clock: the question must not expire while the test answers it.
    let world = World::new(&model);
    let process = world.open(|_| {});
    let start = world.claim(&process, &pipeline("{max_budget_usd: 1.00}", APPROVE), "1").await.unwrap();
    let id = start.id.clone();
    process.engine.launch(start);
    let mut entries = process.journal.entries();
    while process.view(&id).questions.is_empty() {
        entries.changed().await.unwrap();
    }
    process.stop().await;

    let process = world.open(|_| {});
    let path = process.view(&id).questions[0].0.clone();
    process.journal.signal(&id, &path, "approve", json!({"approved": true}), "cli:ann").await.unwrap();
    assert_eq!(process.engine.resume_open().await.unwrap(), 1);
    assert_eq!(process.engine.wait(&id).await.unwrap(), Some(Outcome::Reported));
    let view = process.view(&id);
    assert!(view.questions.is_empty());
    assert_eq!(view.receipts.len(), 1);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_that_expires_takes_the_declared_branch() {
    let model = ModelServer::queue([]);
    let world = world(&model);
    let process = world.open(|_| {});
    let start = world.claim(&process, &pipeline("{max_budget_usd: 1.00}", APPROVE), "1").await.unwrap();
    let id = start.id.clone();
    process.run(start).await;
    let view = process.view(&id);
    assert_eq!(view.receipts.len(), 0, "{:#?}", view.steps);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_run_ends_at_once_and_what_was_under_way_is_booked() {
    let model = ModelServer::script(|_| Reply::json(&json!({"cause": "late"})).delay(Duration::from_millis(300)));
    let world = World::new(&model);
    let process = world.open(|_| {});
    let start = world.claim(&process, &pipeline("{max_turns: 5, max_budget_usd: 5.00}", BOSS), "1").await.unwrap();
    let id = start.id.clone();
    process.engine.launch(start);
    let mut entries = process.journal.entries();
    while process.view(&id).spend.total().is_zero() {
        entries.changed().await.unwrap();
    }
    assert!(process.engine.cancel(&id, "enough"));
    assert_eq!(process.engine.wait(&id).await.unwrap(), Some(Outcome::Cancelled));
    process.stop().await;
    let process = world.open(|_| {});
    let view = process.view(&id);
    assert_eq!(view.failure.unwrap().message, "enough");
    assert!(!view.spend.total().is_zero());
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_build_takes_up_a_run_and_pays_for_nothing_twice() {
    let model = ModelServer::script(busy(4));
    let world = World::new(&model);
    let dying = world.open(|options| options.die_after = Some(14));
    let start = world.claim(&dying, &pipeline("{max_turns: 9, max_budget_usd: 5.00}", BOSS), "1").await.unwrap();
    let id = start.id.clone();
    dying.run(start).await;
    dying.stop().await;
    let before = model.count();
    let process = world.open(|options| options.build_id = "next-build".into());
    assert_eq!(process.engine.resume_open().await.unwrap(), 1);
    assert_eq!(process.engine.wait(&id).await.unwrap(), Some(Outcome::Reported));
    assert!(before > 0 && model.count() <= 6, "{before} calls before, {} in all", model.count());
    let entries = process.journal.reader().entries_after(Some(&id), 0, 1_000).unwrap();
    let builds: Vec<&str> =
        entries.iter().filter(|entry| entry.kind == EntryKind::RunResumed).map(|entry| entry.payload.get()).collect();
    assert_eq!(builds, [r#"{"by":"engine","person":false,"build_id":"next-build"}"#], "whose records follow");
    process.stop().await;
    model.assert_clean();
}
