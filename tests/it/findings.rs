//! What pipelines remember of errors, through the real engine and journal, and the command that shows it. What belongs here:
//! several runs of one pipeline over the same source.

use std::path::Path;
use std::sync::Arc;

use nightcrew::base::clock::ManualClock;
use nightcrew::domain::finding::FindingState;
use nightcrew::domain::run::{Effects, Outcome, RunStart};
use nightcrew::domain::view::RunView;
use nightcrew::journal::FindingFilter;
use serde_json::json;

use crate::fakes::model::{ModelServer, Reply, Request};
use crate::project::Project;
use crate::world::{Process, World};

const PIPELINE: &str = "version: 1
name: watch
summary: Watches errors.
on: {sentry: {project: api, when: [new]}}
limits: {max_turns: 5, max_budget_usd: 1.00}
params: {issue: {type: string, default: \"\"}}
steps:
  - id: errors
    fetch: {from: sentry, args: {issue: params.issue}}
  - id: triage
    each: error in errors
    intern: {task: filter, ask: \"Real?\", given: [error], keep: output.verdict == \"keep\"}
  - id: news
    report: {from: triage, to: files}
";

const LOCAL: &str = "profiles: {local: {sources: {sentry: {files: \"events/*.json\"}}}}\n";

/// One event of the error `name` that hit `user`.
fn event(folder: &Path, name: &str, user: u32) {
    let event = json!({
        "event_id": format!("{user:032x}"), "platform": "python", "level": "error", "timestamp": "2026-11-20T07:00:00Z",
        "exception": {"values": [{"type": name, "value": "it broke", "stacktrace": {"frames": [
            {"function": name, "module": "shop", "filename": "shop/a.py", "lineno": 9, "in_app": true}]}}]},
        "user": {"id": user.to_string()},
    });
    std::fs::create_dir_all(folder.join("events")).unwrap();
    std::fs::write(folder.join(format!("events/{name}-{user}.json")), event.to_string()).unwrap();
}

/// Everything is worth keeping but what is called `Noise`.
fn interns() -> ModelServer {
    ModelServer::script(|request: &Request| {
        let verdict = if request.all_text().contains("Noise") { "drop" } else { "keep" };
        Reply::json(&json!({"verdict": verdict, "why": "so"}))
    })
}

fn world(model: &ModelServer) -> World {
    let mut world = World::new(model);
    world.config.push_str(LOCAL);
    world.env.clock = Arc::new(ManualClock::new("2026-11-20T08:00:00Z".parse().unwrap()));
    event(world.path(), "Broken", 1);
    event(world.path(), "Broken", 2);
    event(world.path(), "Noise", 1);
    world
}

/// The parameter as it is when nobody gives it.
fn no_issue(start: &mut RunStart) {
    start.params.insert("issue".into(), json!(""));
}

async fn run_as(
    world: &World,
    process: &Process,
    key: &str,
    change: impl FnOnce(&mut RunStart),
) -> (Option<Outcome>, RunView) {
    let start = world.claim_as(process, PIPELINE, key, change).await;
    let outcome = process.run(start.clone()).await;
    (outcome, process.view(&start.id))
}

async fn run(world: &World, process: &Process, key: &str) -> (Option<Outcome>, RunView) {
    run_as(world, process, key, no_issue).await
}

fn step(view: &RunView, path: &str) -> String {
    view.steps.iter().find(|step| step.path == path).unwrap_or_else(|| panic!("no step {path}")).summary.clone()
}

fn known(process: &Process) -> Vec<(String, String)> {
    let all = FindingFilter { all: true, ..FindingFilter::default() };
    let mut known: Vec<_> =
        process.journal.reader().findings(&all).unwrap().into_iter().map(|line| (line.title, line.end)).collect();
    known.sort();
    known
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_run_over_the_same_errors_asks_no_model_and_costs_nothing() {
    let model = interns();
    let world = world(&model);
    let process = world.open(|_| {});
    let (outcome, view) = run(&world, &process, "1").await;
    assert_eq!((outcome, model.count()), (Some(Outcome::Reported), 2));
    assert_eq!(step(&view, "errors"), "2 items");
    let pair = |title: &str, end: &str| (title.to_owned(), end.to_owned());
    assert_eq!(known(&process), [pair("Broken: it broke", "reported"), pair("Noise: it broke", "dropped")]);

    let (outcome, view) = run(&world, &process, "2").await;
    assert_eq!((outcome, model.count()), (Some(Outcome::NothingNew), 2));
    assert_eq!(view.spend.total().as_usd(), 0.0);
    assert_eq!(step(&view, "errors"), "0 items of 2 (2 known)");
    // A new process remembers too, and only what is new is looked at.
    process.stop().await;
    let process = world.open(|_| {});
    event(world.path(), "Fresh", 1);
    let (outcome, view) = run(&world, &process, "3").await;
    assert_eq!((outcome, model.count()), (Some(Outcome::Reported), 3));
    assert_eq!(step(&view, "errors"), "1 item of 3 (2 known)");
    process.stop().await;
    model.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_that_hits_many_more_users_is_looked_at_again_unless_it_is_muted() {
    let model = interns();
    let world = world(&model);
    let process = world.open(|_| {});
    run(&world, &process, "1").await;
    // From two users to six: three times as many, but few.
    (3..=6).for_each(|user| event(world.path(), "Broken", user));
    assert_eq!(run(&world, &process, "2").await.0, Some(Outcome::NothingNew));
    event(world.path(), "Broken", 7);
    let (outcome, view) = run(&world, &process, "3").await;
    assert_eq!((outcome, step(&view, "errors").as_str()), (Some(Outcome::Reported), "1 item of 2 (1 known)"));
    assert_eq!(run(&world, &process, "4").await.0, Some(Outcome::NothingNew), "handled at its new weight");

    let lines = process.journal.reader().findings(&FindingFilter::default()).unwrap();
    let broken = lines.iter().find(|line| line.title.starts_with("Broken")).unwrap();
    assert!(process.journal.mute_finding(&broken.id, None, "we know", "cli:ann").await.unwrap());
    (8..=40).for_each(|user| event(world.path(), "Broken", user));
    let (outcome, view) = run(&world, &process, "5").await;
    assert_eq!(
        (outcome, step(&view, "errors").as_str()),
        (Some(Outcome::NothingNew), "0 items of 2 (1 known, 1 muted)")
    );
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_preview_handled_is_new_in_live_and_an_error_named_by_hand_is_always_taken() {
    let model = interns();
    let world = world(&model);
    let process = world.open(|_| {});
    run(&world, &process, "1").await;
    assert_eq!(model.count(), 2);
    // The claim decides which ledger it is.
    let (outcome, _) = run_as(&world, &process, "live", |start| {
        no_issue(start);
        start.effects = Effects::Live;
    })
    .await;
    assert_eq!(outcome, Some(Outcome::Reported));
    assert_eq!(model.count(), 4);
    let states: Vec<_> = process.journal.reader().findings(&FindingFilter::default()).unwrap();
    assert_eq!(states.len(), 4);
    assert!(states.iter().all(|line| line.state == FindingState::Handled));

    let broken = states.iter().find(|line| line.title.starts_with("Broken")).unwrap().fingerprint.clone();
    let (outcome, view) =
        run_as(&world, &process, "hand", |start| drop(start.params.insert("issue".into(), json!(broken)))).await;
    assert_eq!((outcome, step(&view, "errors").as_str()), (Some(Outcome::Reported), "1 item"));
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failed_run_did_not_finish_stays_new() {
    // The first run's intern answers nonsense for what is called `Broken`.
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let model = ModelServer::script(move |request: &Request| {
        let broken = request.all_text().contains("Broken");
        match broken && asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 3 {
            true => Reply::text("I would rather not say."),
            false => Reply::json(&json!({"verdict": if broken { "keep" } else { "drop" }, "why": "so"})),
        }
    });
    let world = world(&model);
    let process = world.open(|_| {});
    let mut outcome = run(&world, &process, "1").await.0;
    assert_eq!(outcome, Some(Outcome::Failed));
    assert_eq!(known(&process), [("Noise: it broke".to_owned(), "dropped".to_owned())]);
    // It is there in every run until one gets through, and then no more.
    for key in ["2", "3", "4"] {
        if outcome == Some(Outcome::Failed) {
            outcome = run(&world, &process, key).await.0;
        }
    }
    assert_eq!(outcome, Some(Outcome::Reported));
    assert_eq!(run(&world, &process, "last").await.0, Some(Outcome::NothingNew));
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wherever_a_run_dies_the_ledger_is_in_the_end_as_if_it_had_not() {
    let model = interns();
    let world = world(&model);
    let process = world.open(|_| {});
    run(&world, &process, "1").await;
    let undisturbed = known(&process);
    let entries = process.journal.reader().entries_after(None, 0, 10_000).unwrap().len() as i64;
    process.stop().await;
    assert!(undisturbed.len() == 2 && entries > 10, "{entries}");

    for n in 1..entries {
        let model = interns();
        let world = self::world(&model);
        let dying = world.open(|options| options.die_after = Some(n));
        if let Ok(start) = world.try_claim(&dying, PIPELINE, "crash", no_issue).await {
            dying.run(start).await;
        }
        dying.stop().await;
        let process = world.open(|_| {});
        if process.engine.resume_open().await.unwrap() == 0 {
            assert!(n + 1 >= entries, "the run is lost after entry {n}");
            continue;
        }
        let id = process.journal.reader().runs(Default::default()).unwrap()[0].id.clone();
        let outcome = process.engine.wait(&id).await.unwrap();
        assert_eq!(outcome, Some(Outcome::Reported), "after entry {n}: {:#?}", process.view(&id).failure);
        assert_eq!(known(&process), undisturbed, "after entry {n}");
        let (outcome, _) = run(&world, &process, "next").await;
        assert_eq!(outcome, Some(Outcome::NothingNew), "after entry {n}");
        process.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_a_person_takes_further_tells_the_ledger_the_rest() {
    // Refuses requests about `Broken` until somebody has put that right.
    let mended = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = mended.clone();
    let model = ModelServer::script(move |request: &Request| {
        let broken = request.all_text().contains("Broken");
        match broken && !seen.load(std::sync::atomic::Ordering::SeqCst) {
            true => Reply::status(400, "invalid_request_error", "out of order"),
            false => Reply::json(&json!({"verdict": if broken { "keep" } else { "drop" }, "why": "so"})),
        }
    });
    let world = world(&model);
    let process = world.open(|_| {});
    let start = world.claim_as(&process, PIPELINE, "1", no_issue).await;
    assert_eq!(process.run(start.clone()).await, Some(Outcome::Failed));
    assert_eq!(known(&process), [("Noise: it broke".to_owned(), "dropped".to_owned())]);
    mended.store(true, std::sync::atomic::Ordering::SeqCst);
    process.journal.resume_run(&start.id, nightcrew::base::money::UsdMicros::from_usd(1.0), "test").await.unwrap();
    assert_eq!(process.run(start.clone()).await, Some(Outcome::Reported), "{:#?}", process.view(&start.id).failure);
    let pair = |title: &str, end: &str| (title.to_owned(), end.to_owned());
    assert_eq!(known(&process), [pair("Broken: it broke", "reported"), pair("Noise: it broke", "dropped")]);
    process.stop().await;
}

fn project(server: &ModelServer) -> Project {
    let project = Project::new(&[("watch", PIPELINE)], Some(server));
    let config = std::fs::read_to_string(project.path("config/nightcrew.yaml")).unwrap();
    let local = "profiles: {local: {sources: {sentry: {files: \"../events/*.json\"}}}}\n";
    project.write("config/nightcrew.yaml", &format!("{config}{local}"));
    for name in ["Broken", "Noise"] {
        event(&project.path(""), name, 1);
    }
    project
}

#[test]
fn findings_are_listed_muted_and_heard_of_again() {
    let server = interns();
    let project = project(&server);
    assert_eq!(project.run(&["findings"]).ends(0).out.trim(), "nothing was handled yet");
    assert_eq!(project.run(&["--json", "findings"]).ends(0).json(), json!({"findings": []}));
    assert!(project.run(&["findings", "dismiss", "abc", "--reason", "x"]).ends(1).err.contains("nothing was recorded"));
    project.run(&["run", "watch"]).ends(0);
    assert_eq!(
        project.run(&["findings", "--pipeline", "other"]).ends(0).out.trim(),
        "nothing was handled by `other` yet"
    );

    let table = project.run(&["findings"]).ends(0).out;
    assert!(table.contains("Broken: it broke") && table.contains("reported") && table.contains("dropped"), "{table}");
    let lines = project.run(&["--json", "findings"]).ends(0).json();
    let broken = lines["findings"].as_array().unwrap().iter().find(|f| f["end"] == "reported").unwrap().clone();
    let id = broken["id"].as_str().unwrap();

    // Wrong ids, empty reasons, moments that have passed.
    let other = format!("{}{}", &id[..5], if id.as_bytes()[5] == b'0' { '1' } else { '0' });
    let unknown = project.run(&["findings", "mute", &other, "--reason", "x"]).ends(1).err;
    assert!(
        unknown.contains(&format!("there is no finding `{other}`"))
            && unknown.contains(&format!("did you mean `{}`", &id[..6])),
        "{unknown}"
    );
    assert!(project.run(&["findings", "mute", id]).ends(2).err.contains("--reason"));
    assert!(project.run(&["findings", "mute", id, "--reason", " "]).ends(2).err.contains("reason is empty"));
    let past = project.run(&["findings", "mute", id, "--reason", "x", "--until", "2020-01-01"]).ends(2).err;
    assert!(past.contains("has passed"), "{past}");
    assert!(project.run(&["findings", "mute", id, "--reason", "x", "--for", "soon"]).ends(2).err.contains("30d"));
    assert!(project.run(&["findings", "unmute", id]).ends(1).err.contains("is not muted"));

    // By the beginning of its id, for a time; and nothing is asked about it, however bad it gets.
    let said = project.run(&["findings", "mute", &id[..8], "--reason", "vendor", "--for", "30d"]).ends(0).err;
    assert!(said.contains("is muted until 20") && said.contains(&format!("findings unmute {id}")), "{said}");
    let muted = project.run(&["findings"]).ends(0).out;
    assert!(muted.contains("muted to 20") && muted.contains("vendor"), "{muted}");
    (2..20).for_each(|user| event(&project.path(""), "Broken", user));
    let before = server.count();
    project.run(&["run", "watch"]).ends(0);
    assert_eq!(server.count(), before);
    // Heard of again; by its fingerprint.
    project.run(&["findings", "unmute", broken["fingerprint"].as_str().unwrap()]).ends(0);
    project.run(&["run", "watch"]).ends(0);
    assert_eq!(server.count(), before + 1, "worse than when it was handled");
    let said = project.run(&["findings", "dismiss", id, "--reason", "by design"]).ends(0).err;
    assert!(said.contains("is muted for good"), "{said}");
}

#[test]
fn a_finding_is_muted_through_the_daemon_while_it_runs() {
    let server = interns();
    let project = project(&server);
    project.run(&["run", "watch"]).ends(0);
    let id = project.run(&["--json", "findings"]).ends(0).json()["findings"][0]["id"].as_str().unwrap().to_owned();
    let daemon = project.start(&["serve", "--profile", "local"]);
    project.until("the daemon holds the directory", || project.path("state/control.sock").exists().then_some(()));
    let said = project.run(&["findings", "mute", &id, "--reason", "known", "--until", "2999-12-24"]).ends(0).err;
    assert!(said.contains("until 2999-12-24 00:00"), "{said}");
    let line = project.run(&["--json", "findings"]).ends(0).json();
    let muted = line["findings"].as_array().unwrap().iter().find(|f| f["id"] == id.as_str()).unwrap().clone();
    assert_eq!(
        (&muted["state"], &muted["reason"], &muted["muted_until"]),
        (&json!("muted"), &json!("known"), &json!("2999-12-24T00:00:00Z"))
    );
    project.run(&["findings", "unmute", &id]).ends(0);
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
}
