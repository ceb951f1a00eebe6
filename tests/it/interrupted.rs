//! Work on code that is interrupted by people and machines: the real binary with the real sandbox over a real clone.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nightcrew::base::money::UsdMicros;
use nightcrew::domain::run::Outcome;
use serde_json::Value;

use crate::fakes::model::{ModelServer, Tokens};
use crate::project::{Answer, Process, Project};
use crate::publish;
use crate::trouble::Small;
use crate::workspace::user_git;

const PIPELINE: &str = "\
version: 1
name: look
summary: Looks at code.
repository: {path: ../clone, ref: main}
environment: environments/api.yaml
steps:
  - id: found
    scan: {}
  - id: news
    report: {from: found, to: files, when_quiet: post}
";

/// The setup and the scanner are what the repository says.
const ENVIRONMENT: &str = "\
tools: [git]
setup: [{run: \"sh setup.sh\", reads: [setup.sh]}]
test: \"true\"
scanners: {sarif: [\"sh scan.sh\"]}
";

/// Finds nothing.
const NOTHING: &str = "echo '{\"runs\": [{\"tool\": {\"driver\": {\"name\": \"none\"}}, \"results\": []}]}'\n";

struct Bench(Project);

impl Bench {
    fn new(setup: &str, scan: &str) -> Self {
        let project = Project::new(&[("look", PIPELINE)], None);
        project.write("pipelines/environments/api.yaml", ENVIRONMENT);
        user_git_init(&project);
        let bench = Self(project);
        bench.commit(setup, scan);
        bench
    }

    fn commit(&self, setup: &str, scan: &str) {
        self.0.write("clone/setup.sh", &format!("{setup}\n"));
        self.0.write("clone/scan.sh", &format!("{scan}\n{NOTHING}"));
        user_git(&self.0.path("clone"), &["add", "-A"]);
        user_git(&self.0.path("clone"), &["commit", "-q", "-m", "x"]);
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = self.0.command(arguments);
        command.env("PATH", std::env::var_os("PATH").unwrap());
        command
    }

    fn run(&self, arguments: &[&str]) -> Answer {
        Answer::of(self.command(arguments).output().unwrap())
    }

    fn start(&self, arguments: &[&str]) -> Process {
        self.0.start_command(self.command(arguments))
    }

    /// The newest run.
    fn last(&self) -> Value {
        self.0.runs()[0].clone()
    }

    fn id(&self) -> String {
        self.last()["id"].as_str().unwrap().to_owned()
    }

    fn sandbox(&self, below: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.0.path("state/work/sandboxes/sandboxd").join(below));
        entries.into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
    }

    /// Templates that are known.
    fn templates(&self) -> usize {
        let records = self.sandbox("client/templates");
        records.iter().filter(|path| path.extension().is_some_and(|extension| extension == "json")).count()
    }

    /// Sandboxes on this machine, and files on their way into them.
    fn folders(&self) -> usize {
        let below = |folder: PathBuf| std::fs::read_dir(folder).map_or(0, Iterator::count);
        let sandboxes: usize = self.sandbox("own").iter().map(|own| below(own.join("sandboxes"))).sum();
        sandboxes + self.sandbox("client/own").into_iter().map(below).sum::<usize>()
    }
}

fn user_git_init(project: &Project) {
    std::fs::create_dir_all(project.path("clone")).unwrap();
    user_git(&project.path("clone"), &["init", "-q", "-b", "main"]);
}

/// A command that sleeps, and that no other test has.
struct Sleep(String);

impl Sleep {
    fn new(seconds: u32, test: u32) -> Self {
        Self(format!("sleep {seconds}.{test:03}{:07}", std::process::id()))
    }

    /// Whether anybody sleeps so, confined or not.
    fn is_on(&self) -> bool {
        let wanted = self.0.replace(' ', "\0") + "\0";
        std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            command == wanted.as_bytes()
        })
    }

    /// Waits until it begins.
    fn begins(&self, bench: &Bench) {
        bench.0.until("the command", || self.is_on().then_some(()));
    }

    /// How long it goes on from now.
    fn ends(&self) -> Duration {
        let began = Instant::now();
        while self.is_on() && began.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(5));
        }
        began.elapsed()
    }
}

#[test]
fn what_a_broken_environment_blocked_goes_on_when_the_repository_is_mended() {
    let bench = Bench::new("echo cannot >&2; exit 3", "");
    let blocked = bench.run(&["run", "look"]).ends(1);
    assert_eq!(bench.last()["outcome"], "blocked");
    assert!(blocked.err.contains("exit code 3 (setup)") || blocked.out.contains("exit code 3 (setup)"), "{blocked:?}");
    let id = bench.id();
    // Nothing has changed.
    bench.run(&["resume", &id]).ends(1);
    assert_eq!(bench.last()["outcome"], "blocked");
    bench.commit("true", "");
    bench.run(&["resume", &id]).ends(0);
    assert_eq!((&bench.last()["outcome"], bench.id()), (&Value::from("reported"), id));
    assert_eq!((bench.templates(), bench.folders()), (1, 0));
}

#[test]
fn what_a_broken_environment_file_blocked_says_that_a_new_run_takes_the_mended_one() {
    let bench = Bench::new("true", "");
    bench.0.write("pipelines/environments/api.yaml", &ENVIRONMENT.replace("sh setup.sh", "exit 4"));
    bench.run(&["run", "look"]).ends(1);
    bench.0.write("pipelines/environments/api.yaml", ENVIRONMENT);
    let kept = bench.run(&["resume", &bench.id()]).ends(1);
    assert!(kept.err.contains("the run keeps the pipeline and the configuration that it began with"), "{kept:?}");
    bench.run(&["run", "look"]).ends(0);
    assert_eq!(bench.last()["outcome"], "reported");
}

#[test]
fn a_cancelled_run_ends_its_command_at_once_and_leaves_nothing() {
    let sleep = Sleep::new(300, 1);
    let bench = Bench::new("true", &sleep.0);
    let daemon = bench.start(&["serve", "--profile", "local"]);
    bench.0.until("the daemon", || daemon.log().contains("\"ready\"").then_some(()));
    let run = bench.command(&["run", "look"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    sleep.begins(&bench);
    let id = bench.id();
    bench.run(&["cancel", &id, "--reason", "enough"]).ends(0);
    let took = sleep.ends();
    assert!(took < Duration::from_secs(2), "the command went on for {took:?}");
    let ended = Answer::of(run.wait_with_output().unwrap()).ends(1);
    assert_eq!(bench.last()["outcome"], "cancelled", "{ended:?}");
    assert!(ended.out.contains("enough") || ended.err.contains("enough"), "{ended:?}");
    bench.0.until("its folder is gone", || (bench.folders() == 0).then_some(()));
    // Its end is for good.
    assert!(bench.run(&["resume", &id]).ends(1).err.contains("the run ended cancelled"));
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
}

#[test]
fn a_stop_in_the_middle_of_a_command_is_quick_and_the_run_goes_on_at_the_next_start() {
    let sleep = Sleep::new(4, 2);
    let bench = Bench::new("true", &sleep.0);
    let process = bench.start(&["run", "look"]);
    sleep.begins(&bench);
    let began = Instant::now();
    process.signal("TERM");
    process.wait();
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?} to stop", began.elapsed());
    assert!(!sleep.is_on(), "the command outlives the daemon");
    assert!(bench.last()["outcome"].is_null(), "{}", bench.last());
    assert_eq!(bench.folders(), 0);
    bench.run(&["resume"]).ends(0);
    assert_eq!(bench.last()["outcome"], "reported");
}

#[test]
fn a_kill_in_the_middle_of_a_setup_leaves_no_command_and_no_half_made_image() {
    let sleep = Sleep::new(3, 3);
    let bench = Bench::new(&format!("echo half >half; {}", sleep.0), "");
    for _ in 0..2 {
        let process = bench.start(&["run", "look"]);
        sleep.begins(&bench);
        assert_eq!(bench.templates(), 0);
        process.kill();
        let took = sleep.ends();
        assert!(took < Duration::from_secs(2), "the command went on for {took:?}");
    }
    bench.run(&["resume"]).ends(0);
    assert!(bench.0.runs().iter().all(|run| run["outcome"] == "reported"), "{:?}", bench.0.runs());
    assert_eq!((bench.templates(), bench.folders()), (1, 0), "{:?}", bench.sandbox("own"));
}

#[test]
fn two_that_build_the_same_environment_at_once_build_it_once() {
    let bench = Bench::new("sleep 1; echo made", "");
    let begin = || {
        let mut command = bench.command(&["--json", "env", "build"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let builders = [begin(), begin(), begin()];
    let built: Vec<Value> = builders
        .into_iter()
        .map(|child| Answer::of(child.wait_with_output().unwrap()).ends(0).json()["environments"][0].clone())
        .collect();
    assert_eq!(built.iter().filter(|found| found["built"] == true).count(), 1, "{built:#?}");
    assert!(built.iter().all(|found| found["hash"] == built[0]["hash"]), "{built:#?}");
    assert_eq!(bench.templates(), 1);
}

#[test]
fn a_command_that_wants_the_whole_disk_ends_its_run_and_nothing_else() {
    let greedy = "head -c 64m /dev/zero >big || exit 9";
    for (setup, scan, outcome) in [(greedy, "", "blocked"), ("true", greedy, "failed")] {
        let bench = Bench::new(setup, scan);
        let Some(small) = Small::mount(bench.0.path("small"), "24m") else {
            println!("skipped: only root can mount a small disk");
            return;
        };
        let state = small.0.join("state").display().to_string();
        let run = |arguments: &[&str]| bench.run(&[&["--state", &state], arguments].concat());
        let full = run(&["run", "look"]).ends(1);
        let first = run(&["--json", "runs"]).ends(0).json()["runs"][0].clone();
        assert_eq!(first["outcome"], outcome, "{full:?}");
        assert!(full.out.contains("exit code 9"), "{full:?}");
        assert_eq!(first["receipts"].as_array().map(Vec::len), Some(1), "the report got out: {first:#}");
        let doctor = run(&["doctor"]);
        assert!(doctor.out.contains("no run is open") && doctor.out.contains("make room"), "{doctor:?}");
        bench.commit("true", "");
        // What failed keeps the code that it began with; what was blocked looks anew.
        let mended =
            if outcome == "blocked" { run(&["resume", first["id"].as_str().unwrap()]) } else { run(&["run", "look"]) };
        mended.ends(0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fix_that_ran_out_of_money_goes_on_with_more_and_pays_for_nothing_twice() {
    // Each call costs five cents.
    let tokens = Tokens { input: 10_000, cache_write: 0, cache_read: 0, output: 500 };
    let model = ModelServer::script(move |request| publish::script(request).tokens(tokens));
    let world = publish::world(&model);
    let process = world.open(|_| {});
    let yaml = publish::PIPELINE.replace("max_budget_usd: 9.00", "max_budget_usd: 0.13");
    let start = world.claim(&process, &yaml, "1").await.unwrap();
    let id = start.id.clone();
    assert_eq!(process.run(start.clone()).await, Some(Outcome::Capped), "{:#?}", process.view(&id));
    let calls = model.count();
    assert!(calls > 0, "in the middle of the fix");
    let fix = process.view(&id).steps.into_iter().find(|step| step.path == "repair[E-1]/fix").unwrap();
    assert_eq!((fix.outcome.as_deref(), fix.boss_calls as usize), (Some("capped"), calls));

    process.journal.resume_run(&id, UsdMicros::from_usd(3.0), "test").await.unwrap();
    assert_eq!(process.run(start).await, Some(Outcome::Acted), "{:#?}", process.view(&id).failure);
    let all = model.requests();
    let repeated = all[calls..].iter().filter(|r| all[..calls].iter().any(|old| old.body == r.body)).count();
    assert_eq!(repeated, 0, "no turn was paid for twice");
    let kinds: Vec<String> = process.view(&id).receipts.into_iter().map(|receipt| receipt.kind).collect();
    assert_eq!(kinds, ["pull_request", "ticket", "report"]);
    assert_eq!(publish::branches(&world).len(), 1);
    process.stop().await;
    model.assert_clean();
}
