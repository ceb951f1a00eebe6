//! Sandboxes that are billed by the second. What belongs here: their money, from the reservation to the account.

use nightcrew::domain::run::Outcome;
use nightcrew::domain::view::RunView;
use nightcrew::ports::Registry;
use nightcrew::ports::sandbox::Billed;

use crate::fakes::model::{ModelServer, Reply};
use crate::fakes::sandbox::{self, End};
use crate::workspace::user_git;
use crate::world::{REGISTRY, World};

const PIPELINE: &str = "version: 1
name: trial
summary: A trial.
limits: {max_turns: 60, max_budget_usd: 0.03}
repository: {path: code, ref: main}
environment: environments/api.yaml
steps:
  - id: found
    scan: {}
  - id: news
    report: {from: found, to: files}
";

/// One run over a sandbox of `provider` with so many processors, billed a minute for each use.
async fn run(provider: &str, vcpus: u32) -> (Option<Outcome>, RunView, Vec<String>) {
    let model = ModelServer::script(|_| Reply::text("nobody asks"));
    let mut world = World::new(&model);
    world.prices.push_str("sandboxes: {e2b: {vcpu_second: 0.000014, gib_second: 0.0000045}}\n");
    world.registry = Registry { sandboxes: sandbox::ALL, ..REGISTRY };
    let recipe = "test: \"make test\"\nchecks: [\"make check\"]\nscanners: {sarif: [\"make scan\"]}\n";
    world.files.push(("environments/api.yaml".into(), recipe.into()));
    let code = world.path().join("code");
    std::fs::create_dir(&code).unwrap();
    user_git(&code, &["init", "-q", "-b", "main"]);
    std::fs::write(code.join("a.py"), "a = 1\n").unwrap();
    user_git(&code, &["add", "-A"]);
    user_git(&code, &["commit", "-q", "-m", "x"]);
    let script = sandbox::script(world.path(), |_, _| {
        Ok(End {
            stdout: "{\"runs\": [{\"tool\": {\"driver\": {\"name\": \"t\"}}, \"results\": []}]}".into(),
            ..End::default()
        })
    });
    script.is_billed(Billed { provider: provider.into(), vcpus, memory_mb: 1024 }, 60_000);
    let process = world.open(|_| {});
    let start = world.claim(&process, PIPELINE, "k").await.unwrap();
    let id = start.id.clone();
    process.run(start).await;
    let view = process.view(&id);
    process.stop().await;
    (view.outcome, view, script.seen())
}

fn work(seen: &[String]) -> Vec<&str> {
    seen.iter().filter(|line| !line.starts_with("release")).map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seconds_of_a_sandbox_are_reserved_and_then_booked_as_they_were() {
    let (outcome, view, seen) = run("e2b", 1).await;
    assert_eq!(outcome, Some(Outcome::NothingNew), "{:?}", view.failure);
    assert_eq!(work(&seen).len(), 2, "{seen:?}");
    let spent = &view.spend.sandbox;
    // Two minutes of a processor and a GiB at the table's prices.
    assert_eq!((spent.uses, spent.millis / 1000, spent.usd.0), (2, 120, 2 * 60 * 14 + 2 * 60 * 45 / 10));
    assert!(view.spend.reserved.is_zero() && view.spend.total() == spent.usd);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_or_has_no_price_is_not_begun() {
    // Twelve minutes of eight processors are eight cents.
    let (outcome, view, seen) = run("e2b", 8).await;
    assert_eq!(outcome, Some(Outcome::Capped), "{:?}", view.failure);
    assert!(work(&seen).is_empty() && view.spend.total().is_zero(), "{seen:?}");

    let (outcome, view, seen) = run("elsewhere", 1).await;
    assert_eq!(outcome, Some(Outcome::Blocked));
    assert!(format!("{:?}", view.steps).contains("have no price"), "{:?}", view.steps);
    assert!(work(&seen).is_empty() && view.spend.total().is_zero(), "{seen:?}");
}
