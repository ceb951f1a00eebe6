//! `error-to-pr` as it ships, by the real binary, over the demo's sample and tape, in sandboxes of another process. What judges reads
//! what the binary prints and writes, the requests on their way, and what the server has at the end.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::crash::shipped::lay_out;
use crate::demo;
use crate::fakes::e2b::{E2b, Fault, KEY};
use crate::project::{Answer, Process};
use crate::sandboxd::{Call, sandbox_folders, until};

/// The key of the server itself; the stand-in of the cloud has another.
const OWN_KEY: &str = "e2b_00112233445566778899aabbccddeeff00112233";
/// Is in the test command of the sample, and in no other command.
const TESTS: &str = "--no-fail-fast";

/// A folder as the demo lays it out, that users of sandboxes can reach where the tests run as root.
struct Stage {
    folder: tempfile::TempDir,
}

impl Stage {
    /// Its profile has this kind of sandboxes; `services` are the configuration's.
    fn new(kind: &str, services: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        lay_out(folder.path());
        let stage = Self { folder };
        stage.write("cloud.key", KEY);
        stage.write("own.key", OWN_KEY);
        let text = std::fs::read_to_string(stage.path("nightcrew.yaml")).unwrap();
        assert!(text.contains("    sandbox: sandboxd\n"), "{text}");
        let text = text.replace("    sandbox: sandboxd\n", &format!("    sandbox: {kind}\n"));
        let secrets = json!({"CLOUD": {"file": "cloud.key"}, "OWN": {"file": "own.key"}});
        stage.write("nightcrew.yaml", &format!("{text}secrets: {secrets}\nservices: {services}\n"));
        stage
    }

    fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    fn write(&self, below: &str, text: &str) {
        let path = self.path(below);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }

    /// From now on the tests take until they are ended; there is a process with this word meanwhile.
    fn tests_hang(&self, word: &str) {
        let text = std::fs::read_to_string(self.path("samples/environment.yaml")).unwrap();
        assert!(text.contains("test: \"cargo"));
        self.write("samples/environment.yaml", &text.replace("test: \"cargo", &format!("test: \"sleep {word}; cargo")));
    }

    /// One run that goes on.
    fn begin(&self) -> Process {
        start(self.command(&["run", "error-to-pr", "--profile", "demo"]), &self.path("run.log"))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let begin = ["--config", "nightcrew.yaml", "--state", "state", "--json"];
        demo::command(self.folder.path(), &[&begin[..], arguments].concat())
    }

    /// One run, to its end.
    fn run(&self) -> Value {
        let answer = Answer::of(self.command(&["run", "error-to-pr", "--profile", "demo"]).output().unwrap()).ends(0);
        answer.json()["runs"][0].clone()
    }

    /// The receipts of its commands.
    fn receipts(&self, run: &Value) -> Vec<Value> {
        let logs = Answer::of(self.command(&["logs", run["id"].as_str().unwrap()]).output().unwrap()).ends(0);
        let mut found = Vec::new();
        for line in logs.out.lines() {
            receipts(&serde_json::from_str(line).unwrap(), &mut found);
        }
        assert!(!found.is_empty(), "{}", logs.out);
        found
    }

    /// It came to its one draft, whose proof names where it was made.
    fn has_acted(&self, run: &Value, proof: &str) -> Vec<Value> {
        assert_eq!(demo::summary(&json!({"runs": [run]})), json!([["error-to-pr", "acted", 1, 1, 1]]), "{run:#}");
        let all = run["receipts"].as_array().unwrap();
        let draft = all.iter().find(|receipt| receipt["kind"] == "pull_request").unwrap();
        let page = self.path(draft["url_or_path"].as_str().unwrap());
        let text = std::fs::read_to_string(page.with_file_name("pull-request.md")).unwrap();
        let line = text.lines().find(|line| line.starts_with("- sandbox: ")).unwrap_or_else(|| panic!("{text}"));
        assert!(line.starts_with(&format!("- sandbox: {proof}")) && line.contains("template base, sandbox"), "{line}");
        let receipts = self.receipts(run);
        let (_, named) = line.rsplit_once(' ').unwrap();
        let known = |receipt: &Value| receipt["sandbox"].as_str().unwrap().starts_with(named);
        assert!(receipts.iter().any(known), "{line}: {receipts:#?}");
        receipts
    }
}

/// Everything below that says in which sandbox a command ran.
fn receipts(value: &Value, into: &mut Vec<Value>) {
    if value["sandbox"].is_string() && value["network"].is_string() && value["template"].is_string() {
        into.push(value.clone());
    }
    match value {
        Value::Object(map) => map.values().for_each(|below| receipts(below, into)),
        Value::Array(list) => list.iter().for_each(|below| receipts(below, into)),
        _ => {}
    }
}

fn start(mut command: Command, log: &Path) -> Process {
    let file = std::fs::File::create(log).unwrap();
    let child = command.stdout(Stdio::null()).stderr(file).spawn().unwrap();
    Process::new(child, log.to_owned())
}

/// `nightcrew sandboxd`, started by hand.
struct Server {
    process: Process,
    url: String,
}

impl Server {
    async fn begin(directory: &Path) -> Self {
        let key = directory.join("key");
        std::fs::write(&key, OWN_KEY).unwrap();
        let key = key.to_str().unwrap();
        let arguments = ["--state", "server", "sandboxd", "--listen", "127.0.0.1:0", "--api-key-file", key];
        let process = start(demo::command(directory, &arguments), &directory.join("server.log"));
        let url = |log: String| Some(log.split_once("sandboxes at ")?.1.split_once(',')?.0.to_owned());
        until("the server listens", async || url(process.log()).is_some()).await;
        Self { url: url(process.log()).unwrap(), process }
    }

    /// Ids of the sandboxes that live.
    async fn live(&self) -> BTreeSet<String> {
        let answer = Call::new("GET", format!("{}/v2/sandboxes", self.url)).header("x-api-key", OWN_KEY).send().await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let id = |info: &Value| info["sandboxID"].as_str().unwrap().to_owned();
        answer.json().as_array().unwrap().iter().map(id).collect()
    }
}

/// A folder for a server that is started by hand.
fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    directory
}

/// A cloud that is a real server, and a stage with nothing but its services changed.
async fn cloud() -> (tempfile::TempDir, Server, E2b, Stage) {
    let directory = directory();
    let server = Server::begin(directory.path()).await;
    let cloud = E2b::before(&server.url, OWN_KEY);
    let services = json!({"e2b": {"api_url": cloud.url(), "sandbox_url": cloud.url(), "api_key": "secret:CLOUD"}});
    let stage = Stage::new("e2b", &services);
    (directory, server, cloud, stage)
}

/// What holds of a run in E2B's sandboxes, whatever went wrong on the way.
async fn held(server: &Server, directory: &Path, cloud: &E2b, stage: &Stage, run: &Value) {
    for receipt in stage.has_acted(run, "e2b (e2b), network: none") {
        assert_eq!(
            json!([receipt["provider"], receipt["template"], receipt["network"]]),
            json!(["e2b", "base", "none"]),
            "{receipt:#}"
        );
    }
    for create in cloud.calls("create") {
        let asked = create.json();
        assert_eq!((&asked["allow_internet_access"], &asked["network"]), (&json!(false), &Value::Null), "{asked}");
    }
    let paid = &run["sandbox"];
    assert!(paid["uses"].as_u64().unwrap() > 0 && paid["usd"].as_f64().unwrap() > 0.0, "{paid}");
    assert_eq!(server.live().await, BTreeSet::new(), "sandboxes are left");
    assert_eq!(sandbox_folders(directory), Vec::<PathBuf>::new());
    cloud.assert_clean();
}

fn tests_begun(cloud: &E2b) -> usize {
    cloud.calls("Start").iter().filter(|start| start.json().to_string().contains(TESTS)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_fix_runs_in_e2bs_sandboxes_by_a_change_of_services_alone() {
    let (directory, server, cloud, stage) = cloud().await;
    let run = stage.run();
    held(&server, directory.path(), &cloud, &stage, &run).await;
    assert!(tests_begun(&cloud) > 0);
    let made = cloud.calls("create").len();
    assert!(made > 0);

    let again = stage.run();
    assert_eq!(json!([again["outcome"], again["cost_usd"]]), json!(["nothing_new", 0.0]), "{again:#}");
    assert_eq!(cloud.calls("create").len(), made, "a sandbox was made for nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_on_the_way_to_e2b_change_nothing_that_comes_of_it() {
    let (directory, server, cloud, stage) = cloud().await;
    cloud.fail("create", Fault::status(429).header("retry-after", "0"));
    cloud.fail("create", Fault::status(503));
    cloud.fail("create", Fault::Lost);
    // After its first event and some of its output: the tests are under way.
    cloud.fail_where("Start", TESTS, Fault::VanishAfter(300));
    let run = stage.run();
    assert!(cloud.faults().is_empty(), "never came: {:?}", cloud.faults());
    held(&server, directory.path(), &cloud, &stage, &run).await;
}

/// Processes of this machine that hold `word` among what they were started with, or work below `folder`.
fn processes(word: &str, folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let there = std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
        if there || line.contains(word) {
            found.push(line);
        }
    }
    found
}

/// The word of a command that hangs, of this test process alone.
fn word(number: u32) -> String {
    format!("{number}{:07}", std::process::id())
}

/// The files of sandboxes, and the folders of the servers that had them.
fn left(folder: &Path) -> Vec<PathBuf> {
    let mut found = sandbox_folders(folder);
    for entry in std::fs::read_dir(folder.join("work/sandboxes/sandboxd/own")).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.push(path);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_a_run_in_the_middle_of_its_tests_leaves_no_process_and_no_file_of_a_sandbox() {
    let stage = Stage::new("sandboxd", &json!({}));
    let word = word(95);
    stage.tests_hang(&word);
    let state = stage.path("state");
    let run = stage.begin();
    until("the tests run", async || processes(&word, &state).iter().any(|line| line.starts_with("sleep "))).await;
    assert!(!left(&state).is_empty(), "{}", run.log());
    run.kill();
    until("every process ends", async || processes(&word, stage.folder.path()).is_empty()).await;
    until("every file goes", async || left(&state).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_elsewhere_is_used_and_what_dead_processes_left_there_is_ended() {
    let directory = directory();
    let folder = directory.path().join("server");
    let server = Server::begin(directory.path()).await;
    let services = json!({"sandboxd": {"url": server.url, "api_key": "secret:OWN"}});
    let stage = Stage::new("sandboxd", &services);
    let usual = std::fs::read_to_string(stage.path("samples/environment.yaml")).unwrap();
    let word = word(94);
    stage.tests_hang(&word);
    let run = stage.begin();
    until("the tests run", async || processes(&word, &folder).iter().any(|line| line.starts_with("sleep "))).await;
    let orphans = server.live().await;
    assert!(!orphans.is_empty() && !left(&folder).is_empty(), "{}", run.log());
    run.kill();

    // The server does not know that nobody waits; the next process of the same folder ends what the dead one had.
    assert!(!server.live().await.is_disjoint(&orphans));
    stage.write("samples/environment.yaml", &usual);
    let run = stage.run();
    for receipt in stage.has_acted(&run, "sandboxd (") {
        assert_eq!(json!([receipt["provider"], receipt["network"]]), json!(["sandboxd", "none"]), "{receipt:#}");
    }
    assert_eq!(left(&stage.path("state")), Vec::<PathBuf>::new(), "a server was started here");
    until("orphans end", async || server.live().await.is_empty()).await;
    until("their processes end", async || processes(&word, &folder).is_empty()).await;

    // The server dies with sandboxes, and the next one removes what is left of it.
    let made = Call::new("POST", format!("{}/v2/sandboxes", server.url)).header("x-api-key", OWN_KEY);
    let made = made.json(&json!({"templateID": "base", "timeout": 600})).send().await;
    assert_eq!(made.status, 201, "{made:?}");
    let made = made.json()["sandboxID"].as_str().unwrap().to_owned();
    let of_it = || sandbox_folders(&folder).iter().any(|path| path.ends_with(&made));
    assert!(of_it());
    server.process.kill();
    assert!(of_it(), "nobody was there to remove anything");
    let next = Server::begin(directory.path()).await;
    assert!(next.live().await.is_empty() && !of_it());
}
