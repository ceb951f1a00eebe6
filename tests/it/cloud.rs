//! The sandbox over a stand-in of E2B's cloud: what it asks for, what happens when something goes wrong at any point, and that nothing
//! is left over there. What belongs here: faults between the two. Commands are run by a shell on the host, in a folder per sandbox.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use nightcrew::base::env::Env;
use nightcrew::base::scope::Scope;
use nightcrew::base::secret::{SecretRef, SecretSource};
use nightcrew::domain::code::TreeId;
use nightcrew::domain::definition::{Environment, SetupCommand};
use nightcrew::domain::sandbox::{SandboxAnswer, SandboxRequest};
use nightcrew::ports::sandbox::{CloudPlace, Job, Places, Sandbox, SandboxError, SandboxSetup};
use nightcrew::sandboxes::e2b::{E2B, Options, Remote};
use nightcrew::workspace::Repository;
use serde_json::{Value, json};

use crate::fakes::e2b::{Act, E2b, Fault, KEY, Run};
use crate::sandbox::Trees;
use crate::workspace::Place;

/// A cloud, a repository, and sandboxes of the one with the code of the other.
struct Bench {
    place: Place,
    cloud: E2b,
    repository: Arc<Repository>,
    base: TreeId,
    scope: Scope,
}

impl Bench {
    fn new() -> Self {
        let place = Place::new();
        place.write("a", "a1\n");
        place.write("src/b", "b1\n");
        place.commit();
        let (repository, base) = place.fetched();
        let cloud = E2b::start();
        let homes = place.folder.path().join("homes");
        cloud.program(move |run| really(&homes, run));
        let scope = Scope::new(tokio::runtime::Handle::current());
        Self { place, cloud, repository, base, scope }
    }

    fn folder(&self) -> PathBuf {
        self.place.folder.path().join("sandboxes/e2b")
    }

    fn sandbox(&self) -> Remote {
        let key = self.place.folder.path().join("key");
        std::fs::write(&key, KEY).unwrap();
        let key = SecretRef { name: "E2B".into(), source: SecretSource::Files(vec![key]) };
        let e2b = CloudPlace { api_url: Some(self.cloud.url()), sandbox_url: Some(self.cloud.url()), key: Some(key) };
        let setup = SandboxSetup {
            env: Env::system(),
            folder: self.folder(),
            scope: self.scope.clone(),
            program: None,
            places: Places { e2b, ..Places::default() },
            watcher: None,
        };
        Remote::new(&setup, E2B, Options::default())
    }

    fn job(&self, environment: Environment) -> Job {
        Job {
            environment: Arc::new(environment),
            repository: "acme/api".into(),
            files: Arc::new(Trees(self.repository.clone())),
            owner: "run-1/fix".into(),
        }
    }

    fn on(&self, command: &str, fresh: bool) -> SandboxRequest {
        let (base, tree) = (self.base.clone(), self.base.clone());
        SandboxRequest { base, tree, command: command.into(), fresh, wall_s: Some(60), attempt: 0 }
    }

    async fn nothing_lives(&self) {
        let gone = async {
            while !self.cloud.sandboxes().is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let left = tokio::time::timeout(Duration::from_secs(60), gone).await;
        assert!(left.is_ok(), "sandboxes are left: {:?}", self.cloud.sandboxes());
    }

    /// Everything has ended, here and over there, and no request was wrong.
    async fn close(self) {
        assert_eq!(self.scope.close(Duration::from_secs(60)).await, Vec::<String>::new());
        assert!(self.cloud.sandboxes().is_empty(), "{:?}", self.cloud.sandboxes());
        self.cloud.assert_clean();
    }
}

/// Runs what was started by a shell of this machine, with the sandbox's home in a folder of its own.
fn really(homes: &Path, run: &Run) -> Vec<Act> {
    let home = homes.join(&run.sandbox);
    std::fs::create_dir_all(&home).unwrap();
    for (path, bytes) in &run.files {
        let Some(below) = path.strip_prefix("/home/user/") else { continue };
        let at = home.join(below);
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::fs::write(&at, bytes).unwrap();
    }
    let config = &run.start["process"];
    let words: Vec<&str> = config["args"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    if words.iter().any(|word| word.contains("vanish now")) && homes.join("vanishing").exists() {
        let left: u32 = std::fs::read_to_string(homes.join("vanishing")).unwrap().parse().unwrap();
        if left > 0 {
            std::fs::write(homes.join("vanishing"), (left - 1).to_string()).unwrap();
            return vec![Act::Out(b"begun\n".to_vec()), Act::Vanish];
        }
    }
    if words.iter().any(|word| word.contains("hang now")) {
        return vec![Act::Hang];
    }
    let mut command = Command::new(config["cmd"].as_str().unwrap());
    command.args(&words).env_clear().env("HOME", &home).env("PATH", std::env::var_os("PATH").unwrap());
    for (name, value) in config["envs"].as_object().into_iter().flatten() {
        command.env(name, value.as_str().unwrap());
    }
    let output = command.output().unwrap();
    let mut acts = vec![Act::Out(output.stdout), Act::Err(output.stderr)];
    if let Ok(results) = std::fs::read(home.join(".nightcrew/results/junit.xml")) {
        acts.push(Act::Write("/home/user/.nightcrew/results/junit.xml".into(), results));
    }
    acts.push(Act::Exit(output.status.code().unwrap_or(137)));
    acts
}

fn said(answer: Result<SandboxAnswer, SandboxError>) -> String {
    let answer = answer.unwrap();
    assert!(answer.receipt.succeeded(), "{answer:?}");
    answer.stdout
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_runs_in_a_sandbox_without_network_that_is_ended_after_it() {
    let bench = Bench::new();
    let sandbox = bench.sandbox();
    let job = bench.job(Environment::default());
    let prepared = sandbox.prepare(&job, &bench.base).await.unwrap();
    assert_eq!((prepared.built, prepared.sandbox.as_str()), (false, "e2b"));
    let answer = sandbox.run(&job, &bench.on("cat a src/b; echo err >&2; echo '<x/>' >$JUNIT; exit 3", true)).await;
    let answer = answer.unwrap();
    assert_eq!((answer.stdout.as_str(), answer.stderr.as_str()), ("a1\nb1\n", "err\n"));
    assert_eq!((answer.receipt.exit, answer.junit.as_deref()), (Some(3), Some("<x/>\n")));
    let receipt = &answer.receipt;
    assert_eq!((receipt.provider.as_str(), receipt.template.as_str()), ("e2b", "base"));
    assert_eq!((receipt.network.as_str(), receipt.isolation.as_str()), ("none", "e2b"));
    bench.nothing_lives().await;

    let [create] = &bench.cloud.calls("create")[..] else { panic!("{:?}", bench.cloud.calls("create")) };
    let (asked, instance) = (create.json(), std::fs::read_dir(bench.folder()).unwrap().next().unwrap().unwrap().path());
    let instance = std::fs::read_to_string(instance.join("instance")).unwrap();
    assert_eq!((&asked["allow_internet_access"], &asked["network"]), (&json!(false), &Value::Null));
    assert_eq!((&asked["metadata"]["nightcrew"], &asked["metadata"]["run"]), (&json!(instance), &json!("run-1")));
    assert!(create.header("idempotency-key").is_some() && asked["timeout"].as_u64().unwrap() <= 600, "{asked}");

    // Hosts that the environment names for its commands, and no others.
    let open = Environment { network_run: vec!["example.com".into()], ..Environment::default() };
    let answer = sandbox.run(&bench.job(open), &bench.on("true", true)).await.unwrap();
    assert_eq!(answer.receipt.network, "example.com");
    let asked = bench.cloud.calls("create")[1].json();
    assert_eq!(
        (&asked["allow_internet_access"], &asked["network"]),
        (&json!(false), &json!({"allowOut": ["example.com"]}))
    );
    drop(sandbox);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_that_vanishes_is_made_again_wherever_it_vanishes() {
    let bench = Bench::new();
    let sandbox = bench.sandbox();
    let job = bench.job(Environment::default());
    for (call, fresh) in
        [("write", true), ("Start", true), ("Stat", true), ("read", true), ("write", false), ("Start", false)]
    {
        let before = bench.cloud.calls("create").len();
        bench.cloud.fail(call, Fault::Vanish);
        let answer = sandbox.run(&job, &bench.on("cat a; echo x >$JUNIT", fresh)).await;
        let answer = answer.unwrap_or_else(|error| panic!("{call}: {error:?}"));
        assert_eq!((answer.stdout.as_str(), answer.junit.as_deref()), ("a1\n", Some("x\n")), "{call}");
        let made = bench.cloud.calls("create").len() - before;
        assert_eq!(made, if !fresh && call == "Start" { 1 } else { 2 }, "{call}, fresh: {fresh}");
        if fresh {
            bench.nothing_lives().await;
        }
    }
    sandbox.release("run-1").await;
    bench.nothing_lives().await;
    // In the middle of the command: its output so far is not that of the answer.
    let vanishing = bench.place.folder.path().join("homes/vanishing");
    std::fs::write(&vanishing, "2").unwrap();
    assert_eq!(said(sandbox.run(&job, &bench.on("echo whole # vanish now", true)).await), "whole\n");
    std::fs::write(&vanishing, "3").unwrap();
    let error = sandbox.run(&job, &bench.on("echo whole # vanish now", true)).await.unwrap_err();
    assert!(matches!(&error, SandboxError::Failed { message } if message.contains("vanished 3 times")), "{error:?}");
    drop(sandbox);
    bench.nothing_lives().await;
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloud_that_limits_or_fails_is_waited_for_and_no_sandbox_is_lost() {
    let bench = Bench::new();
    let sandbox = bench.sandbox();
    let job = bench.job(Environment::default());
    let run = async || said(sandbox.run(&job, &bench.on("cat a", true)).await);
    for fault in [
        Fault::status(429).header("retry-after", "0"),
        Fault::status(500),
        Fault::status(503),
        Fault::html(502),
        Fault::Cut,
        Fault::Lost,
        Fault::Torn(10),
    ] {
        bench.cloud.fail("create", fault.clone());
        assert_eq!(run().await, "a1\n", "{fault:?}");
        bench.nothing_lives().await;
    }
    // Longer than one call is patient; then what was made unseen is found by its mark.
    bench.cloud.fail_times("create", &Fault::status(429).header("retry-after", "0"), 6);
    assert_eq!(run().await, "a1\n");
    bench.cloud.fail_times("create", &Fault::Lost, 4);
    assert_eq!(run().await, "a1\n");
    bench.nothing_lives().await;
    // What cannot help is said at once.
    bench.cloud.fail("create", Fault::status(401));
    let error = sandbox.run(&job, &bench.on("true", true)).await.unwrap_err();
    assert!(matches!(&error, SandboxError::Missing { help, .. } if help.contains("services.e2b.api_key")), "{error:?}");
    // An end that fails is tried again.
    bench.cloud.fail_times("kill", &Fault::status(500), 2);
    assert_eq!(run().await, "a1\n");
    bench.nothing_lives().await;
    drop(sandbox);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gives_up_leaves_no_sandbox() {
    let bench = Bench::new();
    let sandbox = bench.sandbox();
    let job = bench.job(Environment::default());
    for fresh in [true, false] {
        let request = bench.on("hang now", fresh);
        let run = sandbox.run(&job, &request);
        let hangs = async {
            while bench.cloud.running().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            // One of ours runs before it.
            while !bench.cloud.running().iter().any(|config| config.to_string().contains("hang now")) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            answer = run => panic!("{answer:?}"),
            () = hangs => {}
        }
        bench.nothing_lives().await;
    }
    // While it is made: it comes when nobody waits any more.
    bench.cloud.fail("create", Fault::Slow(Duration::from_millis(500)));
    let request = bench.on("true", true);
    let gone = tokio::time::timeout(Duration::from_millis(100), sandbox.run(&job, &request)).await;
    assert!(gone.is_err());
    let made = async {
        while bench.cloud.calls("kill").len() < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), made).await.unwrap();
    bench.nothing_lives().await;
    drop(sandbox);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_ends_what_dead_processes_left_and_nothing_else() {
    let bench = Bench::new();
    let sandbox = bench.sandbox();
    let job = bench.job(Environment::default());
    assert_eq!(said(sandbox.run(&job, &bench.on("echo one >kept; cat kept", false)).await), "one\n");
    let [kept] = &bench.cloud.sandboxes()[..] else { panic!() };
    let mut marks: BTreeMap<String, String> = serde_json::from_value(kept.asked["metadata"].clone()).unwrap();
    let make = async |marks: &BTreeMap<String, String>| {
        let client = reqwest::Client::new();
        let body = json!({"templateID": "base", "timeout": 300, "metadata": marks}).to_string();
        let url = format!("{}/v2/sandboxes", bench.cloud.url());
        let sent =
            client.post(url).header("x-api-key", KEY).header("content-type", "application/json").body(body).send();
        let made: Value = serde_json::from_slice(&sent.await.unwrap().bytes().await.unwrap()).unwrap();
        made["sandboxID"].as_str().unwrap().to_owned()
    };
    marks.insert("holder".into(), "77-0".into());
    let dead = make(&marks).await;
    marks.insert("nightcrew".into(), "another".into());
    let foreign = make(&marks).await;
    let second = bench.sandbox();
    second.reach().await.unwrap();
    let gone = async {
        while bench.cloud.sandbox(&dead).is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone).await.unwrap();
    assert!(bench.cloud.sandbox(&foreign).is_some() && bench.cloud.sandbox(&kept.id).is_some());
    // The one that lives is still of use, and its life is that of something that costs.
    assert_eq!(said(sandbox.run(&job, &bench.on("cat kept", false)).await), "one\n");
    let rests = async {
        while bench.cloud.sandbox(&kept.id).unwrap().timeout > 60 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), rests).await.unwrap();
    assert!(bench.cloud.vanish(&kept.id));
    assert_eq!(said(sandbox.run(&job, &bench.on("test ! -e kept && cat a", false)).await), "a1\n");
    sandbox.release("run-1").await;
    assert!(bench.cloud.vanish(&foreign));
    bench.nothing_lives().await;
    drop((sandbox, second));
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_is_built_once_and_again_when_it_is_gone() {
    let bench = Bench::new();
    let sandbox = bench.sandbox();
    let line = |at: u32, message: &str| json!({"timestamp": format!("2026-11-20T08:00:{at:02}Z"), "message": message, "level": "info"});
    bench.cloud.builder(move |_| {
        let log = [
            line(1, "[builder 3/6] [stdout]: nightcrew-begin:0"),
            line(1, "[builder 3/6] [stderr]: nightcrew-begin:0"),
            line(2, "[builder 3/6] [stdout]: fetched"),
            line(4, "[builder 3/6] [stdout]: nightcrew-end:0:0"),
        ];
        vec![
            json!({"status": "building", "logEntries": &log[..2]}),
            json!({"status": "building", "logEntries": log}),
            json!({"status": "ready", "logEntries": log}),
        ]
    });
    let setup = vec![SetupCommand { run: "make fetch".into(), reads: Some(vec!["a".into()]) }];
    let environment = Environment { setup, e2b_template: Some("base".into()), ..Environment::default() };
    let job = bench.job(environment.clone());
    let prepared = sandbox.prepare(&job, &bench.base).await.unwrap();
    let [receipt] = &prepared.receipts[..] else { panic!("{prepared:?}") };
    assert_eq!((receipt.command.as_str(), receipt.exit, receipt.duration_ms), ("make fetch", Some(0), 3000));
    assert_eq!((prepared.built, receipt.network.as_str()), (true, "open"));
    let name = format!("nightcrew-{}", &prepared.environment.to_string()[..32]);
    assert_eq!(receipt.template, name);
    let asked = bench.cloud.calls("start_build")[0].json();
    let steps: Vec<&str> =
        asked["steps"].as_array().unwrap().iter().map(|step| step["type"].as_str().unwrap()).collect();
    assert_eq!((steps, &asked["fromTemplate"]), (vec!["COPY", "RUN", "RUN", "COPY", "RUN"], &json!("base")));
    let new = bench.cloud.calls("request_template")[0].json();
    assert_eq!((&new["name"], new["cpuCount"].is_u64()), (&json!(name), true));
    assert!(!bench.sandbox().prepare(&job, &bench.base).await.unwrap().built);

    // It is not known any more when a sandbox is made from it.
    bench.cloud.fail("create", Fault::status(404));
    let homes = bench.place.folder.path().join("homes");
    bench.cloud.program(move |run| {
        std::fs::create_dir_all(homes.join(&run.sandbox).join("work")).unwrap();
        really(&homes, run)
    });
    assert_eq!(said(sandbox.run(&job, &bench.on("echo there", true)).await), "there\n");
    assert_eq!(bench.cloud.calls("start_build").len(), 2);
    assert!(bench.cloud.calls("create").last().unwrap().json()["templateID"].as_str().unwrap().starts_with(&name));

    // A setup that fails, and a build that does for another reason: nothing of them stays.
    let known = bench.cloud.templates().len();
    bench.cloud.builder(move |_| {
        let log = [
            line(1, "nightcrew-begin:0"),
            line(2, "no such package"),
            line(3, "nightcrew-end:0:3"),
            line(3, "[builder] failed"),
        ];
        vec![json!({"status": "error", "logEntries": log, "reason": {"message": "exit status 3", "step": "3"}})]
    });
    let broken = Environment { rebuild_when: vec!["a".into()], ..environment.clone() };
    let error = sandbox.prepare(&bench.job(broken.clone()), &bench.base).await.unwrap_err();
    let SandboxError::Broken { what, output, .. } = &error else { panic!("{error:?}") };
    assert_eq!((what.as_str(), output.as_str()), ("failed with exit code 3 (setup)", "no such package"));
    bench.cloud.builder(|_| vec![json!({"status": "error", "reason": {"message": "no room left"}})]);
    let error = sandbox.prepare(&bench.job(broken), &bench.base).await.unwrap_err();
    assert!(matches!(&error, SandboxError::Failed { message } if message.contains("no room left")), "{error:?}");
    let removed = async {
        while bench.cloud.templates().len() > known {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), removed).await.unwrap();
    drop(sandbox);
    bench.nothing_lives().await;
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_kept_sandbox_may_cost_is_told_and_without_a_key_our_own_server_stands_in() {
    let bench = Bench::new();
    let sandbox = bench.sandbox();
    let job = bench.job(Environment::default());
    let billed = sandbox.billed(&job.environment).unwrap();
    assert_eq!((billed.provider.as_str(), billed.vcpus), ("e2b", 2));
    assert_eq!(sandbox.run(&job, &bench.on("true", true)).await.unwrap().billed_ms, 0);
    let kept = sandbox.run(&job, &bench.on("true", false)).await.unwrap();
    assert!(kept.billed_ms >= 60_000, "what it costs until somebody comes back: {}", kept.billed_ms);
    sandbox.release("run-1").await;
    bench.nothing_lives().await;
    drop(sandbox);

    let setup = SandboxSetup {
        env: Env::system(),
        folder: bench.folder(),
        scope: bench.scope.clone(),
        program: Some(env!("CARGO_BIN_EXE_nightcrew").into()),
        places: Places::default(),
        watcher: None,
    };
    let own = Remote::new(&setup, E2B, Options::default());
    assert_eq!(own.billed(&job.environment), None);
    let prepared = own.prepare(&job, &bench.base).await.unwrap();
    assert!(
        prepared.sandbox.starts_with("sandboxd (") && prepared.sandbox.ends_with("; e2b has no key"),
        "{prepared:?}"
    );
    assert_eq!(said(own.run(&job, &bench.on("cat a", true)).await), "a1\n");
    drop(own);
    bench.close().await;
}
