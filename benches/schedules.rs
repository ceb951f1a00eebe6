//! A thousand schedules that are due in the same second: how late each run is handed on, its claim on disk.

use std::sync::Arc;
use std::time::Duration;

use nightcrew::base::clock::Timestamp;
use nightcrew::base::env::Env;
use nightcrew::base::hash::Hash;
use nightcrew::base::scope::Scope;
use nightcrew::domain::definition::{Limits, Missed, On, Origin, Overlap, Pipeline, ScheduleDef};
use nightcrew::domain::run::{Effects, RunLimits, RunStart, Trigger, TriggerKind};
use nightcrew::journal::{Journal, OpenOptions};
use nightcrew::triggers::handle::{Bounds, Hooks, Order, Scheduled};
use nightcrew::triggers::schedule::Loop;
use tokio_util::sync::CancellationToken;

use crate::table::{Bar, Line, median};
use crate::{runtime, scratch};

const SCHEDULES: usize = 1_000;

pub fn schedules() -> Vec<Line> {
    let (mut p99, mut p50) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let mut late = runtime().block_on(one_second());
        assert_eq!(late.len(), SCHEDULES, "slots were lost");
        late.sort_by(f64::total_cmp);
        p99.push(late[SCHEDULES * 99 / 100]);
        p50.push(late[SCHEDULES / 2]);
    }
    vec![
        Line {
            name: "1,000 schedules on one second, 99 % at most late",
            figure: median(p99),
            unit: "ms",
            bar: Bar::AtMost(10.0),
            floor: None,
        },
        Line { name: "  half of them", figure: median(p50), unit: "ms", bar: Bar::None, floor: None },
    ]
}

/// How late each of them was, in milliseconds.
async fn one_second() -> Vec<f64> {
    let folder = scratch();
    let env = Env::system();
    let journal = Journal::open(folder.path(), OpenOptions::new(env.clone(), "bench")).unwrap();
    let ids = env.clone();
    let hooks = Hooks {
        prepare: Arc::new(move |pipeline, slot, now| {
            Ok(RunStart {
                id: ids.ids.run_id(now),
                pipeline: pipeline.name.clone(),
                definition: pipeline.hash,
                profile: "local".into(),
                effects: Effects::Preview,
                trigger: Trigger { kind: TriggerKind::Schedule, key: String::new(), item: None },
                params: serde_json::Map::new(),
                nominal_at: slot.nominal_at,
                timezone: "UTC".into(),
                started_at: now,
                build_id: "bench".into(),
                limits: RunLimits::default(),
                until: None,
            })
        }),
        limit: Arc::new(|_, _| None),
        alive: Arc::new(|| {}),
    };
    let (sender, mut orders) = tokio::sync::mpsc::channel(64);
    let bounds = Bounds { max_running: 10 * SCHEDULES, max_waiting: 10 * SCHEDULES };
    let (schedule, handle) = Loop::new(journal.clone(), env.clone(), hooks, bounds, sender);
    let (scope, stop) = (Scope::new(tokio::runtime::Handle::current()), CancellationToken::new());
    drop(scope.spawn("schedule", schedule.run(stop.clone())));
    // The second after next, so that all of them are known before.
    let due = Timestamp::from_second(env.now().as_second() + 2).unwrap();
    let cron = format!("{} * * * * *", due.as_second().rem_euclid(60));
    handle.set_pipelines((0..SCHEDULES).map(|n| scheduled(&format!("p{n:04}"), &cron)).collect()).await;
    let mut late = Vec::new();
    while late.len() < SCHEDULES {
        match tokio::time::timeout(Duration::from_secs(30), orders.recv()).await {
            Ok(Some(Order::Start(start))) => {
                let now = env.now();
                assert_eq!(start.nominal_at, due);
                late.push(now.duration_since(due).as_secs_f64() * 1e3);
            }
            Ok(Some(Order::Cancel { .. })) => {}
            Ok(None) | Err(_) => break,
        }
    }
    stop.cancel();
    scope.close(Duration::from_secs(5)).await;
    journal.close().await.unwrap();
    late
}

fn scheduled(name: &str, cron: &str) -> Scheduled {
    let schedule = ScheduleDef {
        cron: cron.into(),
        timezone: "UTC".into(),
        missed: Missed::Latest,
        max_age: None,
        overlap: Overlap::Queue,
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
    Scheduled::of(&Arc::new(pipeline), 10_000).unwrap().unwrap()
}
