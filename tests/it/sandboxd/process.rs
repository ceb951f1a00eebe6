//! Processes of a sandbox, through our own client and, where that says what no client would, by hand.

use std::collections::BTreeMap;
use std::time::Duration;

use nightcrew::base::env::Env;
use nightcrew::base::scope::Scope;
use nightcrew::base::secret::Secret;
use nightcrew::clients::e2b::wire::{ProcessConfig, ProcessEnd, Pty, PtySize, Signal, StartProcess};
use nightcrew::clients::e2b::{Cloud, Endpoint, Envd, Error, Event, Key, Process};
use serde_json::json;

use super::{Bench, KEY, until};

/// What a process said, and how it ended.
#[derive(Debug, Default)]
struct Said {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    pty: Vec<u8>,
    end: ProcessEnd,
}

impl Said {
    fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

async fn all(mut process: Process) -> Result<Said, Error> {
    let mut said = Said::default();
    while let Some(event) = process.next().await? {
        match event {
            Event::Stdout(bytes) => said.stdout.extend(bytes),
            Event::Stderr(bytes) => said.stderr.extend(bytes),
            Event::Pty(bytes) => said.pty.extend(bytes),
            Event::End(end) => said.end = end,
        }
    }
    Ok(said)
}

fn shell(line: &str) -> StartProcess {
    let process =
        ProcessConfig { cmd: "/bin/sh".into(), args: vec!["-c".into(), line.into()], ..ProcessConfig::default() };
    StartProcess { process, ..StartProcess::default() }
}

async fn run(envd: &Envd, line: &str) -> Said {
    all(envd.start(&shell(line), None).await.unwrap()).await.unwrap()
}

/// A server with one sandbox, and our client of it.
struct Desk {
    bench: Bench,
    scope: Scope,
    cloud: Cloud,
    envd: Envd,
    sandbox: nightcrew::clients::e2b::wire::Created,
}

impl Desk {
    async fn new() -> Self {
        let bench = Bench::new().await;
        let scope = Scope::new(tokio::runtime::Handle::current());
        let key = Key::Given(Secret::new(KEY));
        let endpoint = Endpoint { api_url: bench.url.clone(), sandbox_url: Some(bench.url.clone()), key };
        let cloud = Cloud::new(endpoint, Env::system(), scope.clone()).unwrap();
        let sandbox = bench.create_with(json!({"envVars": {"OF_SANDBOX": "1"}})).await;
        let envd = cloud.envd(&sandbox).unwrap();
        Self { bench, scope, cloud, envd, sandbox }
    }

    async fn close(self) {
        let Self { bench, scope, .. } = self;
        assert!(scope.close(Duration::from_secs(60)).await.is_empty());
        bench.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_says_what_it_did() {
    let desk = Desk::new().await;
    let envd = &desk.envd;
    let said = run(envd, "echo out; echo err >&2; printf '\\000\\377'; exit 3").await;
    assert_eq!((said.out().starts_with("out\n"), &said.stdout[4..]), (true, &[0, 255][..]));
    assert_eq!(said.stderr, b"err\n");
    assert_eq!((said.end.exit_code, said.end.exited, said.end.status.as_str()), (3, true, "exit status 3"));
    let said = run(envd, "kill -9 $$").await;
    assert_eq!((said.end.exit_code, said.end.exited, said.end.status.as_str()), (-1, false, "signal: killed"));

    // Whose it is and where it starts.
    let mut asked = shell("echo $PWD $HOME $USER $OF_SANDBOX $OWN $(pwd)");
    asked.process.envs = BTreeMap::from([("OWN".into(), "2".into())]);
    let said = all(envd.start(&asked, None).await.unwrap()).await.unwrap();
    assert_eq!(said.out(), "/home/user /home/user user 1 2 /home/user\n");
    asked.process.cwd = Some("made".into());
    assert!(matches!(envd.start(&asked, None).await, Err(Error::Rejected { .. })), "a folder that is not there");
    run(envd, "mkdir made").await;
    let said = all(envd.start(&asked, None).await.unwrap()).await.unwrap();
    assert!(said.out().starts_with("/home/user/made "), "{}", said.out());
    asked.process = ProcessConfig { cmd: "/no/such/program".into(), ..ProcessConfig::default() };
    assert!(envd.start(&asked, None).await.is_err());
    assert!(envd.as_user("root").start(&shell("true"), None).await.is_err(), "there is one user");
    // Another's token opens nothing.
    let other = desk.bench.create().await;
    let stolen = nightcrew::clients::e2b::wire::Created {
        envd_access_token: other.envd_access_token.clone(),
        ..desk.sandbox.clone()
    };
    let stolen = desk.cloud.envd(&stolen).unwrap();
    assert!(matches!(stolen.start(&shell("true"), None).await, Err(Error::Unauthorized { .. })));
    desk.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_lives_on_without_its_caller_and_not_beyond_its_time() {
    let desk = Desk::new().await;
    let envd = &desk.envd;
    // Left alone, found again, talked to, ended.
    let mut asked = shell("while read line; do echo \"got $line\"; done; echo over");
    asked.stdin = Some(true);
    let pid = envd.start(&asked, None).await.unwrap().leave();
    let listed = envd.list().await.unwrap();
    assert!(listed.len() == 1 && listed[0].pid == pid && listed[0].config.cmd == "/bin/sh", "{listed:?}");
    let mut first = envd.connect(pid).await.unwrap();
    let second = envd.connect(pid).await.unwrap();
    envd.send_input(pid, b"one\n").await.unwrap();
    assert_eq!(first.next().await.unwrap(), Some(Event::Stdout(b"got one\n".to_vec())));
    drop(first);
    envd.send_input(pid, b"two\n").await.unwrap();
    envd.close_stdin(pid).await.unwrap();
    let said = all(second).await.unwrap();
    assert_eq!((said.out().as_str(), said.end.exit_code), ("got one\ngot two\nover\n", 0));
    until("the process leaves the list", async || envd.list().await.unwrap().is_empty()).await;
    assert!(matches!(envd.connect(pid).await, Err(Error::NotFound { .. })));
    assert!(envd.send_input(pid, b"x").await.is_err() && !envd.signal(pid, Signal::Kill).await.unwrap());

    // One that does not listen to a polite signal.
    let mut stubborn = envd.start(&shell("trap '' TERM; echo up; while :; do sleep 0.05; done"), None).await.unwrap();
    assert_eq!(stubborn.next().await.unwrap(), Some(Event::Stdout(b"up\n".to_vec())));
    assert!(envd.signal(stubborn.pid(), Signal::Term).await.unwrap());
    assert!(envd.signal(stubborn.pid(), Signal::Kill).await.unwrap());
    assert_eq!(all(stubborn).await.unwrap().end.status, "signal: killed");
    let polite = envd.start(&shell("sleep 1000"), None).await.unwrap();
    assert!(envd.signal(polite.pid(), Signal::Term).await.unwrap());
    assert_eq!(all(polite).await.unwrap().end.status, "signal: terminated");

    // Its time is over, with what it has started.
    let asked = shell("(sleep 1000; echo late >late) & sleep 1000");
    let late = envd.start(&asked, Some(Duration::from_millis(300))).await.unwrap();
    assert!(matches!(all(late).await, Err(Error::Deadline { .. })));
    assert!(envd.list().await.unwrap().is_empty());

    // The sandbox ends under it: no silence, and nothing that looks like an end of its own.
    let watched = envd.start(&shell("sleep 1000"), None).await.unwrap();
    assert!(desk.cloud.kill(&desk.sandbox.sandbox_id).await.unwrap());
    let end = all(watched).await;
    assert!(end.as_ref().is_err_and(Error::is_gone), "{end:?}");
    let gone = envd.start(&shell("true"), None).await;
    assert!(gone.as_ref().is_err_and(Error::is_gone), "{gone:?}");
    desk.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_large_output_is_lost_and_much_input_arrives() {
    let desk = Desk::new().await;
    let envd = &desk.envd;
    let lines = 300_000;
    let said = run(envd, &format!("seq 1 {lines}")).await;
    let expected: String = (1..=lines).map(|n| format!("{n}\n")).collect();
    assert!(said.out() == expected, "{} bytes of {}", said.stdout.len(), expected.len());
    let mut asked = shell("sha256sum");
    asked.stdin = Some(true);
    let process = envd.start(&asked, None).await.unwrap();
    let input: Vec<u8> = (0..2_000_000_u32).map(|n| (n % 251) as u8).collect();
    for piece in input.chunks(500_000) {
        process.send_input(piece).await.unwrap();
    }
    process.close_stdin().await.unwrap();
    let said = all(process).await.unwrap();
    assert!(said.out().starts_with(&nightcrew::base::hash::Hash::of(&input).to_string()), "{}", said.out());
    // Nobody watches this one, and it ends all the same.
    let pid = envd.start(&shell("seq 1 300000; echo done >done"), None).await.unwrap().leave();
    until("it ends", async || !envd.list().await.unwrap().iter().any(|process| process.pid == pid)).await;
    assert_eq!(run(envd, "cat done").await.out(), "done\n");
    desk.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_is_one() {
    let desk = Desk::new().await;
    let mut asked = shell("test -t 0 && test -t 1 && stty size && read line && stty size && echo \"<$line>\"");
    asked.pty = Some(Pty { size: PtySize { cols: 100, rows: 30 } });
    let mut process = desk.envd.start(&asked, None).await.unwrap();
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("30 100") {
        match process.next().await.unwrap() {
            Some(Event::Pty(bytes)) => said.extend(bytes),
            other => panic!("{other:?} after {}", String::from_utf8_lossy(&said)),
        }
    }
    let resized = json!({"process": {"pid": process.pid()}, "pty": {"size": {"cols": 90, "rows": 20}}});
    let answer = desk.bench.inside(&desk.sandbox, "POST", "/process.Process/Update").json(&resized).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let input = json!({"process": {"pid": process.pid()}, "input": {"pty": "aGVsbG8K"}});
    let answer = desk.bench.inside(&desk.sandbox, "POST", "/process.Process/SendInput").json(&input).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let rest = all(process).await.unwrap();
    let text = String::from_utf8_lossy(&rest.pty).into_owned();
    assert!(text.contains("20 90") && text.contains("<hello>") && rest.end.exit_code == 0, "{text}");
    desk.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_make_no_sense_are_refused() {
    let desk = Desk::new().await;
    let call = |path: &str| desk.bench.inside(&desk.sandbox, "POST", path);
    for (path, body, status, code) in [
        ("SendSignal", json!({"process": {"pid": 4242}, "signal": "SIGNAL_SIGKILL"}), 404, "not_found"),
        ("SendSignal", json!({"process": {"tag": "none"}, "signal": 15}), 404, "not_found"),
        ("SendInput", json!({"process": {"pid": 4242}, "input": {"stdin": "aA=="}}), 404, "not_found"),
        ("SendInput", json!({"process": 3}), 400, "invalid_argument"),
        ("CloseStdin", json!({"process": {"pid": 4242}}), 404, "not_found"),
    ] {
        let answer = call(&format!("/process.Process/{path}")).json(&body).send().await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (status, Some(code)), "{path} {body}");
    }
    for message in [json!({"process": 3}), json!({"process": {"cmd": 3}})] {
        let answer = call("/process.Process/Start").message(&message).send().await;
        let frames = answer.frames();
        assert!(
            frames.len() == 1 && frames[0].0 == 2 && frames[0].1["error"]["code"] == "invalid_argument",
            "{frames:?}"
        );
    }
    // A tag is as good as a number, and a signal may be one.
    let asked = json!({"process": {"cmd": "sleep", "args": ["1000"]}, "tag": "mine", "stdin": false});
    let open = call("/process.Process/Start").message(&asked).open().await;
    until("it is listed", async || {
        call("/process.Process/List").json(&json!({})).send().await.text().contains("\"mine\"")
    })
    .await;
    let body = json!({"process": {"tag": "mine"}, "input": {"stdin": "aA=="}});
    let answer = call("/process.Process/SendInput").json(&body).send().await;
    assert_eq!(answer.json()["code"], "failed_precondition", "it reads nothing");
    let answer =
        call("/process.Process/SendSignal").json(&json!({"process": {"tag": "mine"}, "signal": 9})).send().await;
    assert_eq!(answer.status, 200);
    let said = open.text().await.unwrap();
    assert!(said.contains("signal: killed"), "{said}");
    desk.close().await;
}
