//! Templates: built by E2B's calls, used by sandboxes, kept over a restart and a `kill -9`.

#[path = "../../../src/sandboxd/templates/tar_writer.rs"]
#[allow(dead_code)] // The builder writes more kinds of entries than these tests.
mod tar_writer;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use nightcrew::base::hash::Hash;

use super::{Answer, Bench, Call, until};
use tar_writer::Tar;

fn run(command: &str) -> Value {
    json!({"type": "RUN", "args": [command]})
}

fn copy(archive: &[u8], source: &str, target: &str) -> Value {
    json!({"type": "COPY", "args": [source, target, "", ""], "filesHash": Hash::of(archive).to_string()})
}

/// A build that was asked for.
struct Asked {
    template: String,
    build: String,
}

impl Asked {
    async fn new(bench: &Bench, name: &str) -> Self {
        let answer = bench.call("POST", "/v3/templates").json(&json!({"name": name})).send().await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let text = |key: &str| answer.json()[key].as_str().unwrap().to_owned();
        Self { template: text("templateID"), build: text("buildID") }
    }

    async fn address(&self, bench: &Bench, hash: &str) -> (bool, String) {
        let answer = bench.call("GET", &format!("/templates/{}/files/{hash}", self.template)).send().await;
        assert_eq!(answer.status, 201, "{answer:?}");
        (answer.json()["present"].as_bool().unwrap(), answer.json()["url"].as_str().unwrap().to_owned())
    }

    async fn upload(&self, bench: &Bench, archive: &[u8]) -> Answer {
        let (_, url) = self.address(bench, &Hash::of(archive).to_string()).await;
        Call::new("PUT", url).body(archive.to_vec()).send().await
    }

    async fn begin(&self, bench: &Bench, body: Value) -> Answer {
        bench.call("POST", &format!("/v2/templates/{}/builds/{}", self.template, self.build)).json(&body).send().await
    }

    async fn status(&self, bench: &Bench) -> Value {
        let path = format!("/templates/{}/builds/{}/status", self.template, self.build);
        let answer = bench.call("GET", &path).send().await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// The answer at the end, with all of the log in it.
    async fn ended(&self, bench: &Bench) -> Value {
        until("the build is over", async || {
            let status = self.status(bench).await;
            ["ready", "error"].contains(&status["status"].as_str().unwrap())
        })
        .await;
        let mut last = self.status(bench).await;
        let (mut all, path) = (Vec::new(), format!("/templates/{}/builds/{}/status", self.template, self.build));
        loop {
            let part = bench.call("GET", &format!("{path}?logsOffset={}", all.len())).send().await.json();
            match part["logEntries"].as_array().unwrap().as_slice() {
                [] => break,
                entries => all.extend(entries.to_vec()),
            }
        }
        last["logEntries"] = all.into();
        last
    }
}

fn messages(status: &Value) -> Vec<String> {
    let entries = status["logEntries"].as_array().unwrap();
    entries.iter().map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
}

async fn build(bench: &Bench, name: &str, body: Value) -> (Asked, Value) {
    let asked = Asked::new(bench, name).await;
    assert_eq!(asked.begin(bench, body).await.status, 202);
    let ended = asked.ended(bench).await;
    (asked, ended)
}

async fn ready(bench: &Bench, name: &str, steps: Value) -> Asked {
    let (asked, ended) = build(bench, name, json!({"fromTemplate": "base", "steps": steps})).await;
    assert_eq!(ended["status"], "ready", "{ended}");
    asked
}

/// A sandbox from a template, and its home on the host.
async fn sandbox(bench: &Bench, template: &str) -> PathBuf {
    let made = bench.create_with(json!({"templateID": template})).await;
    bench.folder_of(&made.sandbox_id).unwrap().join("home")
}

fn text(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// Everything below a folder: names, kinds, modes, contents.
fn contents(folder: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    let (mut open, mut found) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let about = entry.metadata().unwrap();
            let content = if about.is_file() { std::fs::read(entry.path()).unwrap() } else { Vec::new() };
            found.push((entry.path(), about.permissions().mode(), content));
            if about.is_dir() {
                open.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

fn images(bench: &Bench) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(bench.folder.join("templates/images")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_is_built_step_by_step_and_sandboxes_begin_with_it() {
    let bench = Bench::new().await;
    let asked = Asked::new(&bench, "My-Template").await;
    let mut tar = Tar::default();
    tar.folder("base").file("base/code.txt", "one").entry(b'0', b"base/tool", "", 0o755, b"#!/bin/sh\necho tool\n");
    tar.file("base/deep/x", "x").symlink("base/link", "deep/x");
    let archive = tar.gzip();
    let hash = Hash::of(&archive).to_string();
    assert!(!asked.address(&bench, &hash).await.0);
    assert_eq!(asked.upload(&bench, &archive).await.status, 200);
    assert!(asked.address(&bench, &hash).await.0);
    let steps = json!([
        copy(&archive, "base", "work"),
        {"type": "WORKDIR", "args": ["work"]},
        {"type": "ENV", "args": ["GREETING", "hello there"]},
        run("./tool; echo $GREETING >> code.txt; echo to stderr >&2; mkdir kept; chmod 700 kept; pwd > kept/where"),
        run("rm code.txt && mkdir code.txt && echo x > deep/y"),
        copy(&archive, "./base", "/home/user/work"),
    ]);
    let body = json!({"fromTemplate": "base", "steps": steps, "force": false, "extra": "unknown"});
    assert_eq!(asked.begin(&bench, body.clone()).await.status, 202);
    assert_eq!(asked.begin(&bench, body).await.status, 409);
    let ended = asked.ended(&bench).await;
    assert_eq!(ended["status"], "ready", "{ended}");
    let said = messages(&ended);
    for line in ["tool", "to stderr", "[4/6] RUN ./tool; echo $GREETING"] {
        assert!(said.iter().any(|message| message.starts_with(line)), "{line}: {said:?}");
    }
    // What our client reads.
    let exits = ended["logEntries"].as_array().unwrap().iter().filter(|entry| {
        let message = entry["message"].as_str().unwrap();
        let code = message.strip_prefix("exit ").and_then(|rest| rest.strip_suffix(" ms")?.split_once(" after "));
        code.is_some_and(|(code, ms)| code == "0" && ms.parse::<u64>().is_ok() && entry["level"] == "debug")
    });
    let exits: Vec<_> = exits.map(|entry| entry["step"].as_str().unwrap().to_owned()).collect();
    assert_eq!(exits, ["4", "5"]);

    let home = sandbox(&bench, "my-template").await;
    assert_eq!(text(home.join("work/code.txt")), "one", "the last COPY has put the file in the folder's place");
    assert_eq!(text(home.join("work/deep/y")), "x\n", "what setup made beside it stays");
    assert!(text(home.join("work/kept/where")).trim().ends_with("/work"));
    let mode = |path: &str| std::fs::metadata(home.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("work/tool"), mode("work/kept")), (0o755, 0o700));
    assert_eq!(std::fs::read_link(home.join("work/link")).unwrap(), Path::new("deep/x"));
    // By its id as well, and nothing that one sandbox does is there for the next.
    let image = images(&bench).pop().unwrap();
    let before = contents(&image.join("home"));
    spoil(&home);
    let other = sandbox(&bench, &asked.template).await;
    spoil(&other);
    assert_eq!(contents(&image.join("home")), before);
    assert_eq!(text(sandbox(&bench, "my-template:default").await.join("work/code.txt")), "one");
    bench.close().await;
}

/// Everything that could be done to a home, at its files themselves.
fn spoil(home: &Path) {
    let work = home.join("work");
    std::fs::hard_link(work.join("tool"), work.join("hard")).unwrap();
    std::fs::OpenOptions::new().write(true).open(work.join("hard")).unwrap().set_len(3).unwrap();
    std::fs::set_permissions(work.join("code.txt"), std::fs::Permissions::from_mode(0o666)).unwrap();
    std::fs::write(work.join("code.txt"), "changed, and longer than before").unwrap();
    std::fs::rename(work.join("code.txt"), work.join("deep/x")).unwrap();
    // Some file systems have none.
    if rustix::fs::setxattr(work.join("tool"), "user.x", b"1", rustix::fs::XattrFlags::empty()).is_err() {
        println!("no extended attributes here");
    }
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(work.join("tool"), Some(12345), Some(12345)).unwrap();
    }
    std::fs::remove_dir_all(work.join("kept")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_fails_says_where_and_leaves_the_former_one_in_use() {
    let bench = Bench::new().await;
    ready(&bench, "t", json!([run("echo former > it")])).await;
    let root = json!({"type": "RUN", "args": ["apt-get update", "root"]});
    let no_files = json!({"type": "COPY", "args": ["a", "b"], "filesHash": "0123456789abcdef"});
    let no_folder = json!({"type": "WORKDIR", "args": ["/not/there"]});
    let fine = run("echo new > it");
    for (bad, step, says) in [
        (run("echo some output; exit 3"), "2", "exit code 3"),
        (run("kill -9 $$"), "2", "signal 9"),
        (root, "2", "nobody is root"),
        (no_files, "2", "were not uploaded"),
        (no_folder, "2", "/not/there"),
        (json!({"type": "ENTRYPOINT", "args": ["x"]}), "2", "no step that is known"),
    ] {
        let steps = json!([fine, bad, fine]);
        let (_, ended) = build(&bench, "t", json!({"fromTemplate": "base", "steps": steps})).await;
        assert_eq!(ended["status"], "error", "{ended}");
        let reason = &ended["reason"];
        assert_eq!(reason["step"], step, "{ended}");
        assert!(reason["message"].as_str().unwrap().contains(says), "{says}: {ended}");
        let last = messages(&ended).pop().unwrap();
        assert_eq!(last, reason["message"].as_str().unwrap());
        assert_eq!(text(sandbox(&bench, "t").await.join("it")), "former\n");
    }
    let (_, ended) =
        build(&bench, "t", json!({"steps": [run("true")], "startCmd": "exit 4", "readyCmd": "false"})).await;
    assert_eq!((&ended["status"], &ended["reason"]["step"]), (&json!("error"), &json!("finalize")), "{ended}");
    assert!(ended["reason"]["message"].as_str().unwrap().contains("exit code 4"), "{ended}");
    let asked = Asked::new(&bench, "u").await;
    for (body, says) in [
        (json!({"fromTemplate": "missing"}), "not found"),
        (json!({"fromImage": "python:3"}), "loads none from a registry"),
        (json!({"fromImage": "a", "fromTemplate": "b"}), "from an image or from a template"),
    ] {
        let refused = asked.begin(&bench, body).await;
        assert!((400..405).contains(&refused.status) && refused.text().contains(says), "{refused:?}");
    }
    let path = format!("/v2/templates/{}/builds/{}", asked.template, asked.build);
    let call = bench.call("POST", &path).header("x-nightcrew-network", "not a host!").json(&json!({"steps": []}));
    assert_eq!(call.send().await.status, 400);
    assert_eq!(images(&bench).len(), 1, "of what failed nothing is left");
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_is_built_once_unless_it_is_forced_and_other_things_beside_it() {
    let bench = Bench::new().await;
    let slow = json!({"fromTemplate": "base", "steps": [run("sleep 1; date +%s%N > when; echo done")]});
    let mut asked = Vec::new();
    for name in ["a", "b", "a"] {
        let one = Asked::new(&bench, name).await;
        assert_eq!(one.begin(&bench, slow.clone()).await.status, 202);
        asked.push(one);
    }
    let other = ready(&bench, "other", json!([run("echo other")])).await;
    for one in &asked {
        let ended = one.ended(&bench).await;
        assert_eq!(ended["status"], "ready", "{ended}");
        let said = messages(&ended);
        assert!(
            said.contains(&"done".to_owned()) && said.iter().any(|line| line.starts_with("exit 0 after")),
            "{said:?}"
        );
    }
    assert_eq!(asked[0].template, asked[2].template);
    assert_ne!(asked[0].template, other.template);
    let when = text(sandbox(&bench, "a").await.join("when"));
    assert_eq!(text(sandbox(&bench, "b").await.join("when")), when);
    let mut forced = slow.clone();
    forced["force"] = true.into();
    build(&bench, "a", forced).await;
    assert_ne!(text(sandbox(&bench, "a").await.join("when")), when);
    assert_eq!(text(sandbox(&bench, "b").await.join("when")), when);
    // On top of another: what it is built on is not changed by it.
    let (_, ended) = build(&bench, "c", json!({"fromTemplate": "b", "steps": [run("echo more >> when")]})).await;
    assert_eq!(ended["status"], "ready", "{ended}");
    assert_eq!(text(sandbox(&bench, "c").await.join("when")), format!("{when}more\n"));
    assert_eq!(text(sandbox(&bench, "b").await.join("when")), when);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn templates_have_names_tags_and_an_end() {
    let bench = Bench::new().await;
    let get = async |path: &str| bench.call("GET", path).send().await;
    let asked = Asked::new(&bench, "lib:v1").await;
    assert_eq!(get("/templates/aliases/lib").await.status, 404, "nothing can begin with it yet");
    asked.begin(&bench, json!({"steps": [run("echo 1 > v")]})).await;
    assert_eq!(asked.ended(&bench).await["status"], "ready");
    let create =
        async |name: &str| bench.call("POST", "/v2/sandboxes").json(&json!({"templateID": name})).send().await.status;
    assert_eq!((create("lib").await, create("lib:v1").await), (404, 201));
    let assigned =
        bench.call("POST", "/templates/tags").json(&json!({"target": "lib:v1", "tags": ["default", "stable"]}));
    let assigned = assigned.send().await;
    assert_eq!((assigned.status, &assigned.json()["buildID"]), (201, &json!(asked.build)));
    assert_eq!(get("/templates/aliases/lib").await.json()["templateID"], asked.template);
    let tags = get("/templates/lib/tags").await.json();
    assert_eq!(tags.as_array().unwrap().len(), 3);
    let removed =
        bench.call("DELETE", "/templates/tags").json(&json!({"name": "lib", "tags": ["stable"]})).send().await;
    assert_eq!((removed.status, create("lib:stable").await, create("lib").await), (204, 404, 201));
    let listed = get("/templates").await.json();
    assert_eq!((listed[0]["names"][0].as_str(), listed[0]["buildStatus"].as_str()), (Some("lib"), Some("ready")));
    let one = get(&format!("/templates/{}", asked.template)).await.json();
    assert_eq!(one["builds"][0]["buildID"], asked.build);
    assert_eq!(
        bench.call("PATCH", "/v2/templates/lib").json(&json!({"public": true})).send().await.json()["names"][0],
        "lib"
    );
    for name in ["base", "no spaces", "../x", "ä"] {
        let refused = bench.call("POST", "/v3/templates").json(&json!({"name": name})).send().await;
        assert_eq!(refused.status, 400, "{name}");
    }
    for (method, path) in [("GET", "/templates"), ("POST", "/v3/templates"), ("DELETE", "/templates/lib")] {
        assert_eq!(Call::new(method, format!("{}{path}", bench.url)).send().await.status, 401);
    }
    // One that is built when it is deleted ends.
    let asked = Asked::new(&bench, "lib").await;
    asked.begin(&bench, json!({"steps": [run("sleep 1000")]})).await;
    until("it works", async || messages(&asked.status(&bench).await).iter().any(|line| line.contains("RUN sleep")))
        .await;
    assert_eq!(bench.call("DELETE", "/templates/lib").send().await.status, 204);
    let ended = asked.ended(&bench).await;
    assert!(ended["reason"]["message"].as_str().unwrap().contains("cancelled"), "{ended}");
    assert_eq!((create("lib:v1").await, get("/templates/aliases/lib").await.status), (404, 404));
    until("its image goes", async || images(&bench).is_empty()).await;
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_needs_its_address_and_a_sound_archive() {
    let bench = Bench::new().await;
    let asked = Asked::new(&bench, "t").await;
    let archive = Tar::default().file("a", "a").gzip();
    let unknown = Call::new("PUT", format!("{}/nightcrew/uploads/{}", bench.url, "0".repeat(40)));
    assert_eq!(unknown.body(archive.clone()).send().await.status, 403);
    let hash = Hash::of("whatever").to_string();
    let (_, url) = asked.address(&bench, &hash).await;
    for (bad, says) in [
        (Tar::default().file("../a", "x").gzip(), "leads out"),
        (Tar::default().entry(b'6', b"pipe", "", 0o644, b"").gzip(), "a device or a pipe"),
        (archive[..archive.len() / 2].to_vec(), "damaged"),
        (b"<html>".repeat(100), "not a tar archive"),
    ] {
        let refused = Call::new("PUT", url.clone()).body(bad).send().await;
        assert!(refused.status == 400 && refused.text().contains(says), "{says}: {refused:?}");
    }
    let missing = bench.call("GET", &format!("/templates/{}/files/..%2F..%2Fx", asked.template)).send().await;
    assert_eq!(missing.status, 400);
    assert!(!asked.address(&bench, &hash).await.0);
    assert_eq!(std::fs::read_dir(bench.folder.join("templates/files")).unwrap().count(), 0);
    assert_eq!(Call::new("PUT", url.clone()).body(archive.clone()).send().await.status, 200);
    assert!(asked.address(&bench, &hash).await.0);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn templates_outlive_their_server_and_half_ones_do_not() {
    let bench = Bench::new().await;
    let kept = ready(&bench, "kept", json!([run("echo kept > it")])).await;
    let folder = bench.folder.clone();
    let directory = bench.close().await;

    let bench = Bench::over(directory, folder.clone(), |_| {}, nightcrew::base::env::Env::system()).await.unwrap();
    assert_eq!(text(sandbox(&bench, "kept").await.join("it")), "kept\n");
    assert_eq!(kept.status(&bench).await["status"], "ready");
    assert!(messages(&kept.ended(&bench).await).iter().any(|line| line.starts_with("exit 0 after")));
    let asked = Asked::new(&bench, "kept").await;
    asked.begin(&bench, json!({"steps": [run("echo half > it"), run("sleep 1000")]})).await;
    until("it works", async || messages(&asked.status(&bench).await).iter().any(|line| line.contains("RUN sleep")))
        .await;
    assert!(images(&bench).iter().any(|path| path.file_name().unwrap().to_string_lossy().starts_with(".half-")));
    // Another server over the same folder leaves what this one makes alone.
    let beside = nightcrew::sandboxd::Server::begin(
        super::settings(&folder),
        nightcrew::base::env::Env::system(),
        bench.scope.clone(),
    );
    let beside = beside.await.unwrap();
    assert!(images(&bench).iter().any(|path| path.file_name().unwrap().to_string_lossy().starts_with(".half-")));
    drop(beside);
    let began = std::time::Instant::now();
    let directory = bench.close().await;
    assert!(began.elapsed() < Duration::from_secs(60), "a build does not keep a server from ending");
    let bench = Bench::over(directory, folder, |_| {}, nightcrew::base::env::Env::system()).await.unwrap();
    assert_eq!(images(&bench).len(), 1);
    assert_eq!(asked.status(&bench).await["status"], "error");
    assert_eq!(text(sandbox(&bench, "kept").await.join("it")), "kept\n");
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_server_that_is_killed_while_it_builds_nothing_half_is_used() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let (key, said) = (directory.path().join("key"), directory.path().join("said"));
    std::fs::write(&key, super::KEY).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let log = || std::fs::File::options().create(true).append(true).open(&said).unwrap();
    let mut server = std::process::Command::new(env!("CARGO_BIN_EXE_nightcrew"))
        .arg("--state")
        .arg(directory.path().join("state"))
        .args(["sandboxd", "--listen", "127.0.0.1:0", "--api-key-file"])
        .arg(&key)
        .stdin(std::process::Stdio::null())
        .stdout(log())
        .stderr(log())
        .spawn()
        .unwrap();
    let url =
        || text(&said).lines().find_map(|line| Some(line.strip_prefix("sandboxes at ")?.split(',').next()?.to_owned()));
    until("the server answers", async || url().is_some()).await;
    let url = url().unwrap();
    let call = |method: &str, path: &str| Call::new(method, format!("{url}{path}")).header("x-api-key", super::KEY);
    let asked = call("POST", "/v3/templates").json(&json!({"name": "t"})).send().await.json();
    let path =
        format!("templates/{}/builds/{}", asked["templateID"].as_str().unwrap(), asked["buildID"].as_str().unwrap());
    let body = json!({"steps": [run("echo half > it"), run("sleep 1000")]});
    assert_eq!(call("POST", &format!("/v2/{path}")).json(&body).send().await.status, 202);
    let status = async || call("GET", &format!("/{path}/status")).send().await.json();
    until("it works", async || messages(&status().await).iter().any(|line| line.contains("RUN sleep"))).await;
    server.kill().unwrap();
    server.wait().unwrap();

    let folder = directory.path().join("state/work/sandboxes/sandboxd");
    let left = |folder: &Path| std::fs::read_dir(folder.join("templates/images")).unwrap().count();
    assert_eq!(left(&folder), 1, "the half one");
    let bench = Bench::over(directory, folder.clone(), |_| {}, nightcrew::base::env::Env::system()).await.unwrap();
    assert_eq!(left(&folder), 0);
    let told = bench.call("GET", &format!("/{path}/status")).send().await.json();
    assert_eq!(told["status"], "error", "{told}");
    assert!(told["reason"]["message"].as_str().unwrap().contains("has ended"), "{told}");
    let refused = bench.call("POST", "/v2/sandboxes").json(&json!({"templateID": "t"})).send().await;
    assert_eq!(refused.status, 404);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_and_forks_have_the_files_of_their_moment() {
    let bench = Bench::new().await;
    let made = bench.create_with(json!({"metadata": {"run": "1"}})).await;
    let home = bench.folder_of(&made.sandbox_id).unwrap().join("home");
    std::fs::write(home.join("it"), "then").unwrap();
    let post = async |path: &str, body: Value| {
        bench.call("POST", &format!("/sandboxes/{}/{path}", made.sandbox_id)).json(&body).send().await
    };
    let named = post("snapshots", json!({"name": "moment"})).await;
    assert_eq!((named.status, &named.json()["snapshotID"]), (201, &json!("moment:default")), "{named:?}");
    let plain = post("snapshots", json!({})).await.json()["snapshotID"].as_str().unwrap().to_owned();
    let forked = post("fork", json!({"count": 2, "timeout": 100})).await;
    assert_eq!(forked.status, 201, "{forked:?}");
    std::fs::write(home.join("it"), "now").unwrap();
    for fork in forked.json().as_array().unwrap() {
        let id = fork["sandbox"]["sandboxID"].as_str().unwrap();
        assert_eq!(text(bench.folder_of(id).unwrap().join("home/it")), "then");
        assert_eq!(bench.info(id).await.unwrap().metadata["run"], "1");
    }
    assert_eq!(text(sandbox(&bench, "moment").await.join("it")), "then");
    assert_eq!(text(sandbox(&bench, &plain).await.join("it")), "then");
    let listed = bench.call("GET", &format!("/snapshots?sandboxID={}", made.sandbox_id)).send().await.json();
    assert_eq!(listed.as_array().unwrap().len(), 2, "{listed}");
    assert_eq!(post("snapshots", json!({"name": "moment"})).await.status, 201);
    assert_eq!(text(sandbox(&bench, "moment").await.join("it")), "now");
    for (id, status) in [(&plain, 204), (&plain, 404)] {
        assert_eq!(bench.call("DELETE", &format!("/templates/{id}")).send().await.status, status);
    }
    assert_eq!(post("fork", json!({"count": 0})).await.status, 400);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_template_starts_runs_in_each_of_its_sandboxes() {
    let bench = Bench::new().await;
    let start = "echo once >> started; echo it is up; sleep 1000";
    let body = json!({"steps": [], "startCmd": start, "readyCmd": "test -f started"});
    let (_, ended) = build(&bench, "service", body).await;
    assert_eq!(ended["status"], "ready", "{ended}");
    assert!(messages(&ended).contains(&"ready".to_owned()), "{ended}");
    let home = sandbox(&bench, "service").await;
    until("it was started again", async || text(home.join("started")).lines().count() == 2).await;
    bench.close().await;
}
