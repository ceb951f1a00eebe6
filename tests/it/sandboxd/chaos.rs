//! What breaks while sandboxes are at work: the server, a client, a sandbox, the disk, or what runs inside.
//!
//! The server is the real program in a process of its own, and the client is ours. After each test nothing of it may run or lie about.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use nightcrew::base::env::Env;
use nightcrew::base::scope::Scope;
use nightcrew::base::secret::Secret;
use nightcrew::clients::e2b::wire::{Created, NewSandbox, ProcessConfig, ProcessEnd, Signal, StartProcess};
use nightcrew::clients::e2b::{Cloud, Endpoint, Envd, Error, Event, Key, Process};

use super::{KEY, sandbox_folders, until};

/// The server of the program, and our client of it.
struct Real {
    process: Child,
    folder: PathBuf,
    url: String,
    cloud: Cloud,
    scope: Scope,
}

impl Real {
    /// Over `folder`, which may hold what another one left.
    fn start(folder: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_nightcrew"))
            .args(["sandboxd", "--attached"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let words = json!({"key": KEY, "folder": folder});
        writeln!(process.stdin.as_mut().unwrap(), "{words}").unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let told: serde_json::Value = serde_json::from_str(&line).unwrap();
        let url = told["url"].as_str().unwrap_or_else(|| panic!("no server: {line}")).to_owned();
        let scope = Scope::new(tokio::runtime::Handle::current());
        nightcrew::clients::install_tls();
        let endpoint =
            Endpoint { api_url: url.clone(), sandbox_url: Some(url.clone()), key: Key::Given(Secret::new(KEY)) };
        let cloud = Cloud::new(endpoint, Env::system(), scope.clone()).unwrap();
        Self { process, folder: folder.to_owned(), url, cloud, scope }
    }

    async fn create(&self) -> (Created, Envd) {
        let asked = NewSandbox { template_id: "base".into(), timeout: Some(600), ..NewSandbox::default() };
        let name = format!("chaos-{:x}", Env::system().ids.random());
        let made = self.cloud.create(&asked, &name).await.unwrap();
        let envd = self.cloud.envd(&made).unwrap();
        (made, envd)
    }

    /// As `kill -9` does it.
    async fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        drop(self.scope.close(Duration::from_secs(5)).await);
    }

    /// As its parent's end does it. Nothing may be left.
    async fn end(mut self) {
        drop(self.scope.close(Duration::from_secs(30)).await);
        drop(self.process.stdin.take());
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "the server does not end when its parent does");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert!(status.success(), "{status}");
        let left = sandbox_folders(&self.folder);
        assert!(left.is_empty(), "folders of sandboxes stay behind: {left:?}");
    }

    /// Resident, in bytes.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap().count()
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        // Where a test failed.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A folder for a server, with its own user let in.
fn directory() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let folder = directory.path().canonicalize().unwrap().join("sandboxd");
    (directory, folder)
}

fn shell(script: &str) -> StartProcess {
    let words = ["-c", script].map(str::to_owned).to_vec();
    let process = ProcessConfig { cmd: "/bin/bash".into(), args: words, ..ProcessConfig::default() };
    StartProcess { process, ..StartProcess::default() }
}

async fn start(envd: &Envd, script: &str) -> Process {
    envd.start(&shell(script), Some(Duration::from_secs(300))).await.unwrap()
}

/// To its end: standard output, and how it ended.
async fn finish(mut process: Process) -> Result<(Vec<u8>, ProcessEnd), Error> {
    let (mut output, mut end) = (Vec::new(), None);
    while let Some(event) = process.next().await? {
        match event {
            Event::Stdout(bytes) => output.extend(bytes),
            Event::Stderr(_) | Event::Pty(_) => {}
            Event::End(ended) => end = Some(ended),
        }
    }
    Ok((output, end.unwrap()))
}

async fn run(envd: &Envd, script: &str) -> (String, i32) {
    let (output, end) = finish(start(envd, script).await).await.unwrap();
    (String::from_utf8(output).unwrap(), end.exit_code)
}

/// Waits for its first line, so that what the script did before is done.
async fn up(process: &mut Process) {
    assert_eq!(process.next().await.unwrap(), Some(Event::Stdout(b"up\n".to_vec())));
}

/// In sessions of their own, orphaned, deaf to signals, and known by a word of their command lines.
fn stubborn(mark: &str) -> String {
    format!(
        "trap '' TERM HUP INT; \
         (setsid bash -c 'trap \"\" TERM HUP INT; while :; do sleep 0.05; done' {mark} >/dev/null 2>&1 </dev/null &); \
         bash -c 'while :; do sleep 0.05; done' {mark} & echo up; while :; do sleep 0.05; done"
    )
}

fn mark(name: &str) -> String {
    format!("chaos-{}-{name}", std::process::id())
}

/// How many processes of this machine have a word in their command lines.
fn running(mark: &str) -> usize {
    let commands = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        (name.bytes().all(|byte| byte.is_ascii_digit()) && name != std::process::id().to_string()).then_some(())?;
        std::fs::read(entry.path().join("cmdline")).ok()
    });
    commands.filter(|command| String::from_utf8_lossy(command).contains(mark)).count()
}

async fn gone(mark: &str) {
    until(&format!("the end of every {mark}"), async || running(mark) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_leaves_no_process_and_the_next_one_removes_the_files() {
    let (_directory, folder) = directory();
    let server = Real::start(&folder);
    let mark = mark("server");
    let mut processes = Vec::new();
    for _ in 0..3 {
        let (_, envd) = server.create().await;
        envd.write("large", &vec![7; 1 << 20]).await.unwrap();
        let mut process = start(&envd, &stubborn(&mark)).await;
        up(&mut process).await;
        processes.push(process);
    }
    assert!(running(&mark) >= 6, "{} run, so the test shows nothing", running(&mark));
    assert_eq!(sandbox_folders(&folder).len(), 3);
    server.kill().await;
    for mut process in processes {
        // The client sees a connection that broke, not an end of the process.
        let error = process.next().await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. } | Error::Unavailable { .. }), "{error:?}");
    }
    gone(&mark).await;
    let next = Real::start(&folder);
    until("the removal of what the dead server left", async || sandbox_folders(&folder).is_empty()).await;
    assert_eq!(next.cloud.list(&Default::default(), &[]).await.unwrap().len(), 0);
    let (_, envd) = next.create().await;
    assert_eq!(run(&envd, "echo works").await, ("works\n".into(), 0));
    next.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_parent_ends_takes_everything_with_it() {
    let (_directory, folder) = directory();
    let server = Real::start(&folder);
    let mark = mark("parent");
    let (_, envd) = server.create().await;
    let mut process = start(&envd, &stubborn(&mark)).await;
    up(&mut process).await;
    process.leave();
    server.end().await;
    gone(&mark).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_in_the_middle_of_a_stream_harms_nobody() {
    let (_directory, folder) = directory();
    let server = Real::start(&folder);
    let (made, envd) = server.create().await;
    let mark = mark("client");
    let address = server.url.strip_prefix("http://").unwrap();
    let body = |message: serde_json::Value| nightcrew::clients::e2b::wire::frame(0, message.to_string().as_bytes());
    let talker = format!("exec -a {mark} bash -c 'n=0; while :; do n=$((n+1)); echo $n; echo $n >count; done' {mark}");
    let message = body(json!({"process": {"cmd": "/bin/bash", "args": ["-c", talker]}, "stdin": false}));
    {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let head = format!(
            "POST /process.Process/Start HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/connect+json\r\n\
             connect-protocol-version: 1\r\ne2b-sandbox-id: {}\r\nx-access-token: {}\r\ncontent-length: {}\r\n\r\n",
            made.sandbox_id,
            made.envd_access_token.as_deref().unwrap(),
            message.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&message).unwrap();
        std::io::Read::read_exact(&mut stream, &mut [0; 4096]).unwrap();
    }
    // It goes on, without anybody who reads: a disconnect is no kill.
    let count = async || -> u64 { run(&envd, "cat count").await.0.trim().parse().unwrap_or(0) };
    let before = count().await;
    until("the process going on", async || count().await > before).await;
    assert!(running(&mark) > 0);
    // Half a request, and one with a body that never comes.
    for head in ["POST /v2/sandb", "POST /v2/sandboxes HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n{"] {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
    }
    assert!(server.cloud.kill(&made.sandbox_id).await.unwrap());
    gone(&mark).await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_refused_while_sending_hears_why() {
    use std::io::Read as _;
    let (_directory, folder) = directory();
    let server = Real::start(&folder);
    let address = server.url.strip_prefix("http://").unwrap().to_owned();
    let talk = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // Twice on one connection: the first refusal did not close it.
        for _ in 0..2 {
            let head =
                "POST /files?path=x HTTP/1.1\r\nhost: x\r\ne2b-sandbox-id: inone\r\ncontent-length: 300000\r\n\r\n";
            stream.write_all(head.as_bytes()).unwrap();
            for _ in 0..3 {
                std::thread::sleep(Duration::from_millis(100));
                stream.write_all(&[7; 100_000]).unwrap();
            }
            let mut answer = vec![0; 4096];
            let length = stream.read(&mut answer).unwrap();
            let text = String::from_utf8_lossy(&answer[..length]).into_owned();
            assert!(text.starts_with("HTTP/1.1 502") && text.contains("was not found"), "{text}");
        }
    });
    talk.await.unwrap();
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_killed_at_work_ends_every_call_as_gone() {
    let (_directory, folder) = directory();
    let server = Real::start(&folder);
    let (made, envd) = server.create().await;
    let mark = mark("sandbox");
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let mut process = start(&envd, &stubborn(&mark)).await;
        up(&mut process).await;
        waiting.push(server.scope.spawn("a command", async move {
            loop {
                match process.next().await {
                    Ok(Some(Event::End(end))) => return format!("it ended: {end:?}"),
                    Ok(Some(_)) => {}
                    Ok(None) => return "it ended without an end".into(),
                    Err(Error::Gone { .. }) => return String::new(),
                    Err(error) => return format!("{error:?}"),
                }
            }
        }));
    }
    for n in 0..3 {
        let envd = envd.clone();
        waiting.push(server.scope.spawn("uploads", async move {
            let bytes = vec![n; 8 << 20];
            loop {
                match envd.write(&format!("upload-{n}"), &bytes).await {
                    Ok(()) => {}
                    Err(Error::Gone { .. }) => return String::new(),
                    Err(error) => return format!("upload: {error:?}"),
                }
            }
        }));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(server.cloud.kill(&made.sandbox_id).await.unwrap());
    assert_eq!(sandbox_folders(&folder), Vec::<PathBuf>::new(), "after the kill was answered");
    assert_eq!(running(&mark), 0, "after the kill was answered");
    for one in waiting {
        let wrong = tokio::time::timeout(Duration::from_secs(60), one).await.expect("a call that hangs").unwrap();
        assert_eq!(wrong, "");
    }
    assert!(!envd.health().await.unwrap());
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_beside_the_worker_for_files_runs_on() {
    let (_directory, folder) = directory();
    let server = Real::start(&folder);
    let (_, envd) = server.create().await;
    envd.write("before", b"x").await.unwrap();
    // The disk is looked at once a second, and a few looks that see nothing end everything.
    let (output, end) = finish(start(&envd, "sleep 8; echo on").await).await.unwrap();
    assert_eq!((output, end.error), (b"on\n".to_vec(), None));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_and_survived() {
    let (_directory, folder) = directory();
    std::fs::create_dir_all(&folder).unwrap();
    let mount = |args: &[&str]| Command::new(args[0]).args(&args[1..]).arg(&folder).status().is_ok_and(|s| s.success());
    if !mount(&["mount", "-t", "tmpfs", "-o", "size=48m,mode=755", "tmpfs"]) {
        println!("skipped: no file system can be mounted here");
        return;
    }
    let server = Real::start(&folder);
    let (made, envd) = server.create().await;
    envd.write("kept", b"small").await.unwrap();
    let error = envd.write("large", &vec![1; 80 << 20]).await.unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error:?}");
    let (said, code) = run(&envd, "dd if=/dev/zero of=fill bs=1M count=80 2>&1; echo $?").await;
    // The disk is full, or the command may not fill it: then a signal ends it.
    assert!(code == 0 && !said.ends_with("\n0\n"), "{code} {said}");
    assert_eq!(envd.read("kept", 100).await.unwrap(), b"small");
    // No room for another one, perhaps; then that is said as well, and nothing of it stays.
    let asked = NewSandbox { template_id: "base".into(), timeout: Some(60), ..NewSandbox::default() };
    match server.cloud.create(&asked, "while-full").await {
        Ok(second) => assert!(server.cloud.kill(&second.sandbox_id).await.unwrap()),
        Err(error) => assert!(matches!(error, Error::NoSpace { .. } | Error::Unavailable { .. }), "{error:?}"),
    }
    assert!(server.cloud.kill(&made.sandbox_id).await.unwrap());
    let (_, envd) = server.create().await;
    envd.write("again", &vec![1; 20 << 20]).await.unwrap();
    assert_eq!(run(&envd, "wc -c <again").await.0.trim(), (20 << 20).to_string());
    server.end().await;
    assert!(mount(&["umount"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_costs_the_server_no_memory_and_loses_nothing() {
    const BYTES: usize = 192 << 20;
    let (_directory, folder) = directory();
    let server = Real::start(&folder);
    let (_, envd) = server.create().await;
    let before = server.memory();
    let mut process = start(&envd, &format!("echo up; head -c {BYTES} /dev/zero")).await;
    up(&mut process).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    // Others are served meanwhile.
    assert_eq!(run(&envd, "echo quick").await, ("quick\n".into(), 0));
    let more = server.memory().saturating_sub(before);
    assert!(more < 64 << 20, "the server holds {} MiB for a client that does not read", more >> 20);
    let (output, end) = finish(process).await.unwrap();
    assert_eq!((output.len(), end.exit_code), (BYTES, 0));
    assert!(output.iter().all(|byte| *byte == 0));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_lines_and_every_byte_arrive_as_they_were() {
    let (_directory, folder) = directory();
    let server = Real::start(&folder);
    let (_, envd) = server.create().await;
    let (output, end) = finish(start(&envd, "seq 1000000").await).await.unwrap();
    let expected: Vec<u8> = (1..=1_000_000).flat_map(|n: u32| format!("{n}\n").into_bytes()).collect();
    assert!(output == expected, "{} bytes instead of {}", output.len(), expected.len());
    assert_eq!(end.exit_code, 0);
    let bytes: Vec<u8> = (0..3 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    envd.write("every", &bytes).await.unwrap();
    let (output, _) = finish(start(&envd, "cat every").await).await.unwrap();
    assert!(output == bytes, "{} bytes instead of {}", output.len(), bytes.len());
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ignores_sigterm_is_killed_and_what_it_left_behind_ends_with_the_sandbox() {
    let (_directory, folder) = directory();
    let server = Real::start(&folder);
    let (made, envd) = server.create().await;
    let mark = mark("deaf");
    let mut process = start(&envd, &stubborn(&mark)).await;
    up(&mut process).await;
    assert!(envd.signal(process.pid(), Signal::Term).await.unwrap());
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(envd.list().await.unwrap().len(), 1, "it heard SIGTERM, so the test shows nothing");
    assert!(process.kill().await.unwrap());
    let Some(Event::End(end)) = process.next().await.unwrap() else { panic!("no end") };
    assert_eq!((end.exit_code, end.exited), (-1, false), "{end:?}");
    assert!(!process.kill().await.unwrap());
    assert!(server.cloud.kill(&made.sandbox_id).await.unwrap());
    assert_eq!(running(&mark), 0, "after the kill was answered");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_ends_a_process_with_all_that_it_started() {
    let (_directory, folder) = directory();
    let server = Real::start(&folder);
    let (made, envd) = server.create().await;
    let mark = mark("deadline");
    let mut process = envd.start(&shell(&stubborn(&mark)), Some(Duration::from_secs(2))).await.unwrap();
    up(&mut process).await;
    let error = process.next().await.unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    until("the end of the process", async || envd.list().await.unwrap().is_empty()).await;
    assert!(server.cloud.kill(&made.sandbox_id).await.unwrap());
    assert_eq!(running(&mark), 0);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_bomb_stays_in_its_sandbox() {
    let (_directory, folder) = directory();
    let server = Real::start(&folder);
    let (bombed, bomb) = server.create().await;
    let (_, other) = server.create().await;
    let mark = mark("bomb");
    // Of so many that it shows, and no more, should nothing hold it.
    let script = format!("echo up; for i in $(seq 4000); do (exec -a {mark} sleep 600) & done; wait");
    let mut process = start(&bomb, &script).await;
    up(&mut process).await;
    for round in 0..5 {
        assert_eq!(run(&other, &format!("echo {round}")).await, (format!("{round}\n"), 0));
        other.write("file", &[round; 1000]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(running(&mark) < 2000, "{} processes", running(&mark));
    assert!(server.cloud.kill(&bombed.sandbox_id).await.unwrap());
    assert_eq!(running(&mark), 0, "after the kill was answered");
    drop(process);
    assert_eq!(run(&other, "echo still").await, ("still\n".into(), 0));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_short_lives_leave_nothing_in_the_server() {
    let (_directory, folder) = directory();
    let server = Real::start(&folder);
    let mark = mark("short");
    let (mut descriptors, mut memory) = (0, 0);
    for number in 0..100 {
        if number == 30 {
            // By now pools and caches are as large as they become.
            (descriptors, memory) = (server.descriptors(), server.memory());
        }
        let (made, envd) = server.create().await;
        envd.write("file", b"content").await.unwrap();
        let (said, _) =
            run(&envd, &format!("(setsid bash -c 'sleep 600; :' {mark} >/dev/null 2>&1 &); cat file")).await;
        assert_eq!(said, "content");
        assert!(server.cloud.kill(&made.sandbox_id).await.unwrap());
    }
    assert_eq!((running(&mark), sandbox_folders(&folder)), (0, Vec::new()));
    let more = (server.descriptors().saturating_sub(descriptors), server.memory().saturating_sub(memory));
    assert!(more.0 <= 8, "{} descriptors more", more.0);
    assert!(more.1 < 16 << 20, "{} KiB more", more.1 >> 10);
    server.end().await;
}
