//! The real program, attached to a parent that hands over a key and is killed.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nightcrew::isolation::Search;
use serde_json::{Value, json};

use super::{Call, KEY, until};

/// Starts it as its parent should. The words are what it says when it is ready.
fn attach(folder: &Path, more: Value) -> (Child, Value) {
    let variables: BTreeMap<_, _> =
        Search::variables().filter_map(|name| Some((name, std::env::var(name).ok()?))).collect();
    let mut child = Command::new(env!("CARGO_BIN_EXE_nightcrew"))
        .args(["sandboxd", "--attached"])
        .env_clear()
        .envs(variables)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut words = json!({"key": KEY, "folder": folder});
    words.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    writeln!(child.stdin.as_ref().unwrap(), "{words}").unwrap();
    let mut said = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
    (child, serde_json::from_str(&said).unwrap())
}

/// A folder that users of sandboxes can reach, where the tests run as root.
fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    directory
}

fn left(folder: &Path) -> Vec<String> {
    let names = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    std::fs::read_dir(folder.join("own")).unwrap().flatten().map(names).filter(|name| name != "turn").collect()
}

/// Whether some process of this machine has this word among its own.
fn runs(word: &str) -> bool {
    let lines = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.into_iter().any(|line| line.split(|byte| *byte == 0).any(|part| part == word.as_bytes()))
}

async fn answers(url: &str) -> bool {
    let address = url.trim_start_matches("http://");
    tokio::net::TcpStream::connect(address).await.is_ok()
}

/// A sandbox with a process in it that nothing but its end ends. Its second word is `word`.
async fn busy(url: &str, word: &str) {
    let call = |path: &str| Call::new("POST", format!("{url}{path}"));
    let made = call("/v2/sandboxes")
        .header("x-api-key", KEY)
        .json(&json!({"templateID": "base", "timeout": 600}))
        .send()
        .await;
    assert_eq!(made.status, 201, "{made:?}");
    let made = made.json();
    let line = format!("trap '' TERM INT HUP; setsid sleep {word} >/dev/null 2>&1 </dev/null & echo begun");
    let begun = call("/process.Process/Start")
        .header("e2b-sandbox-id", made["sandboxID"].as_str().unwrap())
        .header("x-access-token", made["envdAccessToken"].as_str().unwrap())
        .message(&json!({"process": {"cmd": "/bin/sh", "args": ["-c", line]}}))
        .send()
        .await;
    assert_eq!(begun.status, 200, "{begun:?}");
    until("its process runs", async || runs(word)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_with_all_it_has_when_the_pipe_of_its_parent_closes() {
    let directory = directory();
    let folder = directory.path().join("sandboxd");
    let (mut child, ready) = attach(&folder, json!({}));
    let url = ready["url"].as_str().unwrap().to_owned();
    assert_eq!(ready["pid"], child.id());
    // A Ctrl-C at the terminal is for the parent to understand.
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let word = format!("98{:07}", std::process::id());
    busy(&url, &word).await;

    drop(child.stdin.take());
    let ended = tokio::task::spawn_blocking(move || child.wait().unwrap());
    assert!(ended.await.unwrap().success());
    assert!(!runs(&word) && !answers(&url).await);
    assert_eq!(left(&folder), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_its_parent_leaves_no_process_and_no_file() {
    let directory = directory();
    let folder = directory.path().join("sandboxd");
    // The parent is this test binary, started anew for the function below.
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sandboxd::attached::parent", "--ignored", "--nocapture", "--test-threads=1"])
        .env("NIGHTCREW_TEST_FOLDER", &folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(parent.stdout.take().unwrap()).lines();
    let ready = lines.find_map(|line| line.unwrap().split_once("ready: ").map(|(_, words)| words.to_owned())).unwrap();
    let ready: Value = serde_json::from_str(&ready).unwrap();
    let url = ready["url"].as_str().unwrap().to_owned();
    let word = format!("97{:07}", std::process::id());
    busy(&url, &word).await;
    assert!(!left(&folder).is_empty());

    parent.kill().unwrap();
    parent.wait().unwrap();
    until("the server ends", async || !answers(&url).await).await;
    let server = format!("/proc/{}", ready["pid"]);
    until("its processes end", async || !runs(&word) && !Path::new(&server).join("exe").exists()).await;
    assert_eq!(left(&folder), Vec::<String>::new());
}

#[test]
#[ignore = "the parent that is killed"]
fn parent() {
    let folder = std::env::var("NIGHTCREW_TEST_FOLDER").unwrap();
    let (_child, ready) = attach(Path::new(&folder), json!({}));
    println!("ready: {ready}");
    std::thread::sleep(Duration::from_secs(600));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_the_server_leaves_no_process_and_the_next_one_removes_its_files() {
    let directory = directory();
    let folder = directory.path().join("sandboxd");
    let (mut child, ready) = attach(&folder, json!({}));
    let word = format!("96{:07}", std::process::id());
    busy(ready["url"].as_str().unwrap(), &word).await;
    child.kill().unwrap();
    child.wait().unwrap();
    until("its processes end", async || !runs(&word)).await;
    assert!(!left(&folder).is_empty(), "nobody was there to remove anything");
    let (mut next, ready) = attach(&folder, json!({}));
    assert!(ready["url"].is_string() && left(&folder).iter().all(|name| name.starts_with(&format!("{}-", next.id()))));
    drop(next.stdin.take());
    assert!(next.wait().unwrap().success());
    assert_eq!(left(&folder), Vec::<String>::new());
}

#[test]
fn what_it_cannot_do_is_told_to_its_parent() {
    let directory = directory();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let (mut child, told) = attach(&file.join("below"), json!({}));
    assert!(told["error"].as_str().unwrap().contains("below") && told["help"].is_string(), "{told}");
    assert!(!told.to_string().contains(KEY));
    assert_eq!(child.wait().unwrap().code(), Some(1));
}
