//! The loop over a real journal, with a clock that moves when told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::handle::{Bounds, Handle, Hooks, Order, Scheduled};
use super::schedule::Loop;
use crate::base::clock::{Clock, ManualClock};
use crate::base::env::Env;
use crate::base::hash::Hash;
use crate::base::ids::{RunId, SystemIds};
use crate::base::scope::Scope;
use crate::domain::definition::{Limits, Missed, On, Origin, Overlap, Pipeline, ScheduleDef};
use crate::domain::run::{Effects, Failure, RunLimits, RunStart, Trigger, TriggerKind};
use crate::domain::view::{SlotFate, SlotLine};
use crate::journal::{Journal, OpenOptions};

/// A run of `pipeline`, for a slot unless told otherwise.
pub fn run_start(id: &str, pipeline: &str) -> RunStart {
    RunStart {
        id: RunId(id.into()),
        pipeline: pipeline.into(),
        definition: Hash::of(pipeline),
        profile: "local".into(),
        effects: Effects::Preview,
        trigger: Trigger { kind: TriggerKind::Schedule, key: id.into(), item: None },
        params: serde_json::Map::new(),
        nominal_at: Timestamp::UNIX_EPOCH,
        timezone: "UTC".into(),
        started_at: Timestamp::UNIX_EPOCH,
        build_id: "test".into(),
        limits: RunLimits::default(),
        until: None,
    }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn scheduled(name: &str, cron: &str, timezone: &str, missed: Missed, overlap: Overlap) -> Scheduled {
    let schedule = ScheduleDef {
        cron: cron.into(),
        timezone: timezone.into(),
        missed,
        max_age: None,
        overlap,
        jitter: None,
        origin: Origin::default(),
    };
    let pipeline = Pipeline {
        name: name.into(),
        summary: String::new(),
        hash: Hash::of(name),
        files: Vec::new(),
        owner: None,
        effects: Effects::Preview,
        params: Vec::new(),
        on: On { schedule: Some(schedule), sentry: None },
        limits: Limits::default(),
        repository: None,
        environment: None,
        tools: Vec::new(),
        steps: Vec::new(),
    };
    Scheduled::of(&Arc::new(pipeline), 100).unwrap().unwrap()
}

/// What the hooks answer; tests change it.
#[derive(Default)]
struct Answers {
    limit: Mutex<Option<String>>,
    unprepared: Mutex<Option<Failure>>,
    alive: AtomicUsize,
}

struct Daemon {
    dir: Arc<tempfile::TempDir>,
    clock: ManualClock,
    journal: Journal,
    handle: Handle,
    orders: mpsc::Receiver<Order>,
    answers: Arc<Answers>,
    stop: CancellationToken,
    scope: Scope,
}

impl Daemon {
    fn start(dir: Arc<tempfile::TempDir>, clock: ManualClock, bounds: Bounds) -> Self {
        let env = Env { clock: Arc::new(clock.clone()), ids: Arc::new(SystemIds) };
        let journal = Journal::open(dir.path(), OpenOptions::new(env.clone(), "test")).unwrap();
        let answers = Arc::new(Answers::default());
        let (limits, prepares, lives, ids) = (answers.clone(), answers.clone(), answers.clone(), env.clone());
        let hooks = Hooks {
            prepare: Arc::new(move |pipeline, _, now| match &*prepares.unprepared.lock().unwrap() {
                Some(failure) => Err(failure.clone()),
                None => Ok(RunStart { started_at: now, ..run_start(ids.ids.run_id(now).as_str(), &pipeline.name) }),
            }),
            limit: Arc::new(move |_, _| limits.limit.lock().unwrap().clone()),
            alive: Arc::new(move || {
                lives.alive.fetch_add(1, Ordering::Relaxed);
            }),
        };
        let (sender, orders) = mpsc::channel(2_000);
        let (schedule, handle) = Loop::new(journal.clone(), env, hooks, bounds, sender);
        let (scope, stop) = (Scope::new(tokio::runtime::Handle::current()), CancellationToken::new());
        drop(scope.spawn("schedule", schedule.run(stop.clone())));
        Self { dir, clock, journal, handle, orders, answers, stop, scope }
    }

    fn new(now: &str) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Self::start(dir, ManualClock::new(at(now)), Bounds::default())
    }

    /// The process ends and another begins, `seconds` later.
    async fn restart(self, seconds: u64) -> Self {
        self.stop.cancel();
        assert_eq!(self.scope.close(Duration::from_secs(10)).await, Vec::<String>::new());
        self.journal.close().await.unwrap();
        self.clock.advance(Duration::from_secs(seconds));
        Self::start(self.dir, self.clock, Bounds::default())
    }

    /// Time passes, and the loop has looked.
    async fn pass(&mut self, seconds: u64) -> Vec<Order> {
        self.clock.advance(Duration::from_secs(seconds));
        self.look().await
    }

    async fn look(&mut self) -> Vec<Order> {
        self.handle.wake();
        self.handle.settle().await;
        std::iter::from_fn(|| self.orders.try_recv().ok()).collect()
    }

    async fn end(&self, orders: &[Order]) {
        for order in orders {
            if let Order::Start(start) = order {
                self.handle.run_ended(start.id.clone()).await;
            }
        }
        // It has been heard before time passes.
        self.handle.settle().await;
    }

    /// Rows of a pipeline, oldest first.
    fn rows(&self, pipeline: &str) -> Vec<SlotLine> {
        let mut rows = self.journal.reader().slots(Some(pipeline), 10_000).unwrap();
        rows.sort_by_key(|row| row.nominal_at);
        rows
    }

    fn fates(&self, pipeline: &str) -> Vec<(SlotFate, String)> {
        self.rows(pipeline).into_iter().map(|row| (row.fate, row.reason)).collect()
    }
}

fn started(orders: &[Order]) -> Vec<(String, String)> {
    let name = |order: &Order| match order {
        Order::Start(start) => ("start".to_owned(), start.nominal_at.to_string()),
        Order::Cancel { run, .. } => ("cancel".to_owned(), run.to_string()),
    };
    orders.iter().map(name).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_is_claimed_once_and_its_run_begins() {
    let mut daemon = Daemon::new("2026-11-20T06:59:58Z");
    let pipelines = vec![scheduled("report", "0 8 * * *", "Europe/Berlin", Missed::Latest, Overlap::Skip)];
    daemon.handle.set_pipelines(pipelines.clone()).await;
    assert_eq!(daemon.pass(1).await, []);
    let orders = daemon.pass(1).await;
    let [Order::Start(start)] = &orders[..] else { panic!("{orders:?}") };
    assert_eq!((start.nominal_at, start.timezone.as_str()), (at("2026-11-20T07:00:00Z"), "Europe/Berlin"));
    assert_eq!(start.trigger, Trigger { kind: TriggerKind::Schedule, key: "2026-11-20T07:00:00Z".into(), item: None });
    for _ in 0..5 {
        assert_eq!(daemon.look().await, [], "a doubled wake-up is harmless");
    }
    let row = SlotLine {
        pipeline: "report".into(),
        nominal_at: start.nominal_at,
        timezone: "Europe/Berlin".into(),
        fate: SlotFate::Run,
        reason: "on time".into(),
        run: Some(start.id.clone()),
        decided_at: at("2026-11-20T07:00:00Z"),
    };
    assert_eq!(daemon.rows("report"), std::slice::from_ref(&row));
    // Put in force again, and by another process: it goes on where it was.
    daemon.handle.set_pipelines(pipelines.clone()).await;
    let mut daemon = daemon.restart(10).await;
    daemon.handle.set_pipelines(pipelines).await;
    assert_eq!(daemon.look().await, []);
    assert_eq!(daemon.rows("report"), [row]);
    assert!(daemon.answers.alive.load(Ordering::Relaxed) > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlap_is_met_as_declared() {
    let mut daemon = Daemon::new("2026-11-20T08:00:00Z");
    let each = |name, overlap| scheduled(name, "* * * * *", "UTC", Missed::Latest, overlap);
    let pipelines =
        vec![each("skip", Overlap::Skip), each("queue", Overlap::Queue), each("cancel", Overlap::CancelPrevious)];
    daemon.handle.set_pipelines(pipelines).await;
    let first = daemon.pass(60).await;
    assert_eq!(first.len(), 3);
    let runs: BTreeMap<String, RunId> = first
        .iter()
        .filter_map(|order| match order {
            Order::Start(start) => Some((start.pipeline.clone(), start.id.clone())),
            Order::Cancel { .. } => None,
        })
        .collect();
    let second = daemon.pass(60).await;
    let [Order::Cancel { run, reason }] = &second[..] else { panic!("{second:?}") };
    assert_eq!((run, reason.as_str()), (&runs["cancel"], "the slot of 2026-11-20T08:02:00Z takes its place"));
    let skipped = format!("run {} was still active", runs["skip"]);
    assert_eq!(daemon.fates("skip")[1], (SlotFate::Skipped, skipped));
    assert_eq!(daemon.fates("queue")[1], (SlotFate::Queued, "on time; waits for the run before it".into()));
    assert_eq!(daemon.fates("cancel")[1], (SlotFate::Run, "on time; the run before it is cancelled".into()));
    // A third slot of `cancel` takes the place of the second, which has not begun and never will.
    let third = daemon.pass(60).await;
    assert_eq!(started(&third), [("cancel".to_owned(), runs["cancel"].to_string())]);
    daemon.end(&first).await;
    let orders = daemon.look().await;
    let begun = |at: &str| ("start".to_owned(), at.to_owned());
    assert_eq!(started(&orders), [begun("2026-11-20T08:03:00Z"), begun("2026-11-20T08:02:00Z")]);
    daemon.look().await;
    assert_eq!(daemon.fates("queue")[1], (SlotFate::Run, "waited for the run before it".into()));
    let open = daemon.journal.reader().open_runs().unwrap();
    assert_eq!(open.iter().filter(|start| start.pipeline == "cancel").count(), 2, "the one in the middle is over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_run_is_refused_by_name() {
    let mut daemon = Daemon::new("2026-11-20T08:00:00Z");
    daemon.handle.set_pipelines(vec![scheduled("p", "* * * * *", "UTC", Missed::Latest, Overlap::Skip)]).await;
    daemon.handle.set_paused("p", Some("the warehouse moves".into())).await;
    assert_eq!(daemon.pass(60).await, []);
    daemon.handle.set_paused("p", None).await;
    *daemon.answers.limit.lock().unwrap() = Some("the day cap of $20.00 is reached".into());
    assert_eq!(daemon.pass(60).await, []);
    *daemon.answers.limit.lock().unwrap() = None;
    *daemon.answers.unprepared.lock().unwrap() = Some(Failure::new("E-PARAM", "`day` is not a date"));
    assert_eq!(daemon.pass(60).await, []);
    *daemon.answers.unprepared.lock().unwrap() = None;
    assert_eq!(daemon.pass(60).await.len(), 1);
    let refused = |reason: &str| (SlotFate::Refused, reason.to_owned());
    assert_eq!(
        daemon.fates("p"),
        [
            refused("paused: the warehouse moves"),
            refused("the day cap of $20.00 is reached"),
            refused("`day` is not a date (E-PARAM)"),
            (SlotFate::Run, "on time".into()),
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_run_than_may_and_more_than_may_wait_are_refused() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let mut daemon =
        Daemon::start(dir, ManualClock::new(at("2026-11-20T08:00:00Z")), Bounds { max_running: 2, max_waiting: 3 });
    let names: Vec<String> = (0..5).map(|n| format!("p{n}")).collect();
    daemon
        .handle
        .set_pipelines(
            names.iter().map(|name| scheduled(name, "* * * * *", "UTC", Missed::Latest, Overlap::Queue)).collect(),
        )
        .await;
    let first = daemon.pass(60).await;
    assert_eq!(first.len(), 2);
    assert_eq!(daemon.pass(60).await, []);
    assert!(names.iter().all(|name| daemon.fates(name)[1] == (SlotFate::Refused, "the queue is full".into())));
    daemon.end(&first).await;
    assert_eq!(daemon.look().await.len(), 2);
    daemon.handle.set_bounds(Bounds { max_running: 3, max_waiting: 3 }).await;
    assert_eq!(daemon.look().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn downtime_leaves_a_row_for_every_slot() {
    let daemon = Daemon::new("2026-11-20T08:00:00Z");
    let pipelines = vec![
        scheduled("skip", "*/10 * * * *", "UTC", Missed::Skip, Overlap::Skip),
        scheduled("latest", "*/10 * * * *", "UTC", Missed::Latest, Overlap::Skip),
        scheduled("all", "*/10 * * * *", "UTC", Missed::All(3), Overlap::Skip),
        scheduled("seconds", "* * * * * *", "UTC", Missed::Skip, Overlap::Skip),
    ];
    daemon.handle.set_pipelines(pipelines.clone()).await;
    let mut daemon = daemon.restart(3 * 3_600 + 300).await;
    daemon.handle.set_pipelines(pipelines).await;
    daemon.look().await;
    let count = |pipeline: &str| {
        let mut counts = BTreeMap::<&str, usize>::new();
        daemon.rows(pipeline).into_iter().for_each(|row| *counts.entry(row.fate.as_str()).or_default() += 1);
        counts.into_iter().map(|(fate, n)| format!("{fate} {n}")).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(count("skip"), "missed 18");
    assert_eq!(count("latest"), "coalesced 17, run 1");
    assert_eq!(count("all"), "missed 15, queued 2, run 1");
    assert_eq!(daemon.journal.reader().slots(Some("seconds"), 100_000).unwrap().len(), 3 * 3_600 + 300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_expression_begins_anew_and_the_old_one_is_accounted_for() {
    let mut daemon = Daemon::new("2026-11-20T08:00:30Z");
    daemon.handle.set_pipelines(vec![scheduled("p", "* * * * *", "UTC", Missed::Latest, Overlap::Skip)]).await;
    daemon.clock.advance(Duration::from_secs(60));
    // The slot of 08:01 is due under the old expression when the new one comes.
    daemon.handle.set_pipelines(vec![scheduled("p", "*/30 * * * * *", "UTC", Missed::Latest, Overlap::Skip)]).await;
    let before = daemon.look().await;
    assert_eq!(started(&before), [("start".to_owned(), "2026-11-20T08:01:00Z".to_owned())]);
    daemon.end(&before).await;
    assert_eq!(daemon.pass(29).await, [], "08:01:30 had passed before the expression was there");
    assert_eq!(started(&daemon.pass(1).await), [("start".to_owned(), "2026-11-20T08:02:00Z".to_owned())]);
    let mut daemon = daemon.restart(3_600).await;
    daemon.handle.set_pipelines(vec![scheduled("p", "0 0 * * *", "UTC", Missed::All(100), Overlap::Skip)]).await;
    assert_eq!(daemon.look().await, [], "nothing is made up for that the new expression never asked for");
}

/// Through the change of Berlin's clocks, a clock set back and forward, doubled and late wake-ups and two restarts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_second_for_a_minute_and_none_lost_and_none_twice() {
    let from = at("2026-10-25T00:59:30Z");
    let mut daemon = Daemon::new("2026-10-25T00:59:30Z");
    let pipelines = vec![scheduled("p", "* * * * * *", "Europe/Berlin", Missed::All(60), Overlap::Queue)];
    daemon.handle.set_pipelines(pipelines.clone()).await;
    let mut runs = Vec::new();
    let mut wall = 0_i64;
    for (step, passes) in [
        (1, 1),
        (1, 1),
        (5, 1),
        (3, 0),
        (1, 1),
        (-10, 0),
        (1, 1),
        (1, 1),
        (10, 0),
        (3, 1),
        (9, 1),
        (1, 1),
        (2, 1),
        (30, 1),
        (2, 1),
    ] {
        wall += step;
        if passes == 1 {
            daemon.clock.advance(Duration::from_secs(step.unsigned_abs()));
        } else {
            daemon.clock.step_to(from + SignedDuration::from_secs(wall));
        }
        if wall == 25 || wall == 58 {
            daemon = daemon.restart(0).await;
            daemon.handle.set_pipelines(pipelines.clone()).await;
            // What the daemon does at its start with runs that were interrupted.
            for start in daemon.journal.reader().open_runs().unwrap() {
                daemon.handle.admit(start).await;
            }
        }
        daemon.handle.wake();
        loop {
            let orders = daemon.look().await;
            if orders.is_empty() {
                break;
            }
            for order in &orders {
                let Order::Start(start) = order else { panic!("{order:?}") };
                runs.push(start.nominal_at.duration_since(from).as_secs());
                let finish = crate::journal::RunFinish {
                    outcome: crate::domain::run::Outcome::NothingNew,
                    failure: None,
                    headline: String::new(),
                    at: daemon.clock.now(),
                };
                daemon.journal.finish_run(&start.id, finish).await.unwrap();
            }
            daemon.end(&orders).await;
        }
    }
    let expected: Vec<i64> = (1..=60).collect();
    runs.sort_unstable();
    assert_eq!(daemon.clock.now(), from + SignedDuration::from_secs(60));
    assert_eq!(runs, expected);
    assert_eq!(daemon.rows("p").len(), 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_schedules_on_one_second_lose_none() {
    let mut daemon = Daemon::start(
        Arc::new(tempfile::tempdir().unwrap()),
        ManualClock::new(at("2026-11-20T08:00:30Z")),
        Bounds { max_running: 2_000, ..Bounds::default() },
    );
    let pipelines =
        (0..1_000).map(|n| scheduled(&format!("p{n}"), "* * * * *", "UTC", Missed::Skip, Overlap::Skip)).collect();
    daemon.handle.set_pipelines(pipelines).await;
    assert_eq!(daemon.pass(30).await.len(), 1_000);
    assert_eq!(daemon.journal.reader().open_runs().unwrap().len(), 1_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_clock_that_was_ahead_decided_without_a_run_gives_way() {
    let mut daemon = Daemon::new("2026-11-20T08:00:30Z");
    let pipelines = vec![scheduled("p", "* * * * *", "UTC", Missed::Skip, Overlap::Skip)];
    daemon.handle.set_pipelines(pipelines.clone()).await;
    daemon.clock.step_to(at("2026-11-20T08:05:00Z"));
    let ahead = daemon.look().await;
    assert_eq!(started(&ahead), [("start".to_owned(), "2026-11-20T08:05:00Z".to_owned())]);
    daemon.end(&ahead).await;
    daemon.clock.step_to(at("2026-11-20T08:00:40Z"));
    assert_eq!(daemon.look().await, []);
    let mut begun = Vec::new();
    for minute in 0..6 {
        if minute == 2 {
            daemon = daemon.restart(0).await;
            daemon.handle.set_pipelines(pipelines.clone()).await;
        }
        let orders = daemon.pass(60).await;
        begun.extend(started(&orders).into_iter().map(|(_, at)| at[14..16].to_owned()));
        daemon.end(&orders).await;
    }
    assert_eq!(begun, ["01", "02", "03", "04", "06"], "08:05 has had its run");
    let fates: Vec<_> = daemon.fates("p");
    assert_eq!(fates, vec![(SlotFate::Run, "on time".to_owned()); 6]);
}

/// The crash between the claim and the account: the rows stand, the account does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deciding_again_what_is_written_changes_nothing() {
    let mut daemon = Daemon::new("2026-11-20T08:00:30Z");
    let pipelines = vec![scheduled("p", "* * * * *", "UTC", Missed::Latest, Overlap::Skip)];
    daemon.handle.set_pipelines(pipelines.clone()).await;
    let before = daemon.journal.schedule_state("p").await.unwrap().unwrap();
    assert_eq!(daemon.pass(60).await.len(), 1);
    assert_eq!(daemon.pass(60).await, []);
    let rows = daemon.rows("p");
    assert_eq!(rows.len(), 2);
    daemon.journal.set_schedule_state("p", before).await.unwrap();
    let mut daemon = daemon.restart(0).await;
    daemon.handle.set_pipelines(pipelines).await;
    assert_eq!(daemon.look().await, []);
    assert_eq!(daemon.rows("p"), rows);
    // The account has caught up with the next slot.
    assert_eq!(daemon.pass(60).await.len(), 1);
    assert_eq!(daemon.rows("p").len(), 3);
}

/// By hand: `cargo test --lib real_minute -- --ignored --nocapture`. A schedule every second and a thousand that share seconds, on
/// the real clock with the real safety wake-up. Prints how late runs began; only the account is asserted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a real minute"]
async fn real_minute() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::system();
    let journal = Journal::open(dir.path(), OpenOptions::new(env.clone(), "test")).unwrap();
    let ids = env.clone();
    let hooks = Hooks {
        prepare: Arc::new(move |pipeline, _, now| {
            Ok(RunStart { started_at: now, ..run_start(ids.ids.run_id(now).as_str(), &pipeline.name) })
        }),
        limit: Arc::new(|_, _| None),
        alive: Arc::new(|| {}),
    };
    let (sender, mut orders) = mpsc::channel(10_000);
    let bounds = Bounds { max_running: 10_000, ..Bounds::default() };
    let (schedule, handle) = Loop::new(journal.clone(), env.clone(), hooks, bounds, sender);
    let (scope, stop) = (Scope::new(tokio::runtime::Handle::current()), CancellationToken::new());
    let ended = scope.spawn("schedule", schedule.run(stop.clone()));
    let waking = handle.clone();
    let housekeeping = super::housekeeping::Housekeeping::start(move || waking.wake(), Vec::new()).await.unwrap();
    let each = |name: &str, cron: &str| scheduled(name, cron, "Europe/Berlin", Missed::Skip, Overlap::Queue);
    let mut pipelines = vec![each("second", "* * * * * *")];
    pipelines.extend((0..1_000).map(|n| each(&format!("p{n}"), "*/20 * * * * *")));
    let begin = env.now();
    handle.set_pipelines(pipelines).await;
    let mut late = (Vec::new(), Vec::new());
    let end = begin + SignedDuration::from_secs(61);
    while let Ok(Some(Order::Start(start))) = tokio::time::timeout(Duration::from_secs(3), orders.recv()).await {
        let by = env.now().duration_since(start.nominal_at).as_micros();
        if start.nominal_at > end {
            break;
        }
        if start.pipeline == "second" {
            late.0.push(by)
        } else {
            late.1.push(by)
        }
        handle.run_ended(start.id.clone()).await;
    }
    housekeeping.stop().await.unwrap();
    stop.cancel();
    ended.await.unwrap();
    for (name, mut late) in [("every second", late.0), ("a thousand at once", late.1)] {
        late.sort_unstable();
        let at = |share: usize| late[(late.len() - 1) * share / 100];
        println!("{name}: {} runs, late by {} / {} / {} µs (median, 99th, most)", late.len(), at(50), at(99), at(100));
    }
    let rows = journal.reader().slots(None, 100_000).unwrap();
    let not_run: Vec<_> = rows.iter().filter(|row| row.run.is_none()).collect();
    assert_eq!(not_run, Vec::<&SlotLine>::new());
    let seconds = rows.iter().filter(|row| row.pipeline == "second" && row.nominal_at <= end).count();
    assert!((60..=62).contains(&seconds), "{seconds}");
}
