//! One life of a sandbox with all that the client can do, against the scripted cloud and against our own server alike. It is the
//! list of calls that E2B's own clients go through in `tests/conformance/`.

use std::collections::BTreeMap;
use std::time::Duration;

use nightcrew::clients::e2b::wire::{NewSandbox, Signal, State};
use nightcrew::clients::e2b::{Cloud, Envd, Error, Event};
use serde_json::json;

use super::bench::{Bench, Done, finish, shell};
use crate::fakes::e2b::{Act, Run};

/// What the scripted cloud does for the commands of the scenario.
fn program(run: &Run) -> Vec<Act> {
    match run.command.as_str() {
        "echo hello $NAME $MORE" => {
            let envs = &run.start["process"]["envs"];
            let name = envs["NAME"].as_str().unwrap_or("world");
            Act::said(&format!("hello {name} {}\n", envs["MORE"].as_str().unwrap_or_default()), 0)
        }
        "echo out; echo bad >&2; exit 3" => {
            vec![Act::Out(b"out\n".to_vec()), Act::Err(b"bad\n".to_vec()), Act::Exit(3)]
        }
        "cat" => vec![Act::Echo, Act::Exit(0)],
        "echo up; sleep 300" => vec![Act::Out(b"up\n".to_vec()), Act::Hang],
        "pwd" => Act::said(&format!("{}\n", run.start["process"]["cwd"].as_str().unwrap()), 0),
        other => panic!("the scenario has no {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scripted_cloud() {
    let bench = Bench::new();
    bench.cloud.program(program);
    life(&bench.client).await;
    bench.cloud.assert_clean();
    assert!(bench.cloud.sandboxes().is_empty());
}

/// All of it, on a cloud that has no sandbox.
pub async fn life(client: &Cloud) {
    let asked = NewSandbox {
        template_id: "base".into(),
        timeout: Some(120),
        allow_internet_access: Some(false),
        metadata: [("nightcrew".to_owned(), "a b&c=d/ü%".to_owned())].into(),
        env_vars: [("MORE".to_owned(), "sandbox".to_owned())].into(),
        ..NewSandbox::default()
    };
    let created = client.create(&asked, "life-of-a-sandbox").await.unwrap();
    assert_eq!(client.create(&asked, "life-of-a-sandbox").await.unwrap().sandbox_id, created.sandbox_id);
    let other = client.create(&NewSandbox { metadata: BTreeMap::new(), ..asked.clone() }, "another").await.unwrap();
    assert_ne!(other.sandbox_id, created.sandbox_id);
    let id = created.sandbox_id.as_str();
    let envd = client.envd(&created).unwrap();
    assert!(envd.health().await.unwrap());
    processes(&envd).await;
    files(&envd).await;

    client.set_timeout(id, 600).await.unwrap();
    let info = client.info(id).await.unwrap();
    assert_eq!((info.sandbox_id.as_str(), info.state), (id, State::Running));
    assert_eq!(info.metadata, asked.metadata);
    assert!(info.end_at > info.started_at);
    let found = client.list(&asked.metadata, &[State::Running]).await.unwrap();
    assert_eq!(found.iter().map(|info| info.sandbox_id.as_str()).collect::<Vec<_>>(), [id]);
    assert_eq!(client.list(&BTreeMap::new(), &[]).await.unwrap().len(), 2);
    let nobody = [("nightcrew".to_owned(), "a b".to_owned())].into();
    assert_eq!(client.list(&nobody, &[]).await.unwrap().len(), 0);
    let again = client.connect(id, 60).await.unwrap();
    assert_eq!((&again.sandbox_id, &again.envd_access_token), (&created.sandbox_id, &created.envd_access_token));
    assert_eq!(client.envd(&again).unwrap().read("/home/user/work/b\"2", 10).await.unwrap(), b"--\r\n");

    assert!(client.pause(id).await.unwrap());
    assert!(!client.pause(id).await.unwrap());
    assert_eq!(client.info(id).await.unwrap().state, State::Paused);
    assert_eq!(client.list(&asked.metadata, &[State::Running]).await.unwrap().len(), 0);
    assert_eq!(client.list(&asked.metadata, &[State::Paused, State::Running]).await.unwrap().len(), 1);
    client.resume(id, 60).await.unwrap();
    assert_eq!(client.info(id).await.unwrap().state, State::Running);
    let done = finish(&mut envd.start(&shell("echo out; echo bad >&2; exit 3"), None).await.unwrap()).await.unwrap();
    assert_eq!(done.exit, 3);

    assert!(client.kill(id).await.unwrap());
    assert!(!client.kill(id).await.unwrap());
    assert!(!envd.health().await.unwrap());
    for error in [
        envd.start(&shell("echo up; sleep 300"), None).await.map(drop).unwrap_err(),
        envd.read("/home/user/work/moved", 10).await.map(drop).unwrap_err(),
        envd.write("/home/user/work/moved", b"x").await.unwrap_err(),
        envd.stat("/home/user/work/moved").await.map(drop).unwrap_err(),
    ] {
        assert!(error.is_gone(), "{error:?}");
    }
    for error in [
        client.info(id).await.map(drop).unwrap_err(),
        client.set_timeout(id, 5).await.unwrap_err(),
        client.connect(id, 5).await.map(drop).unwrap_err(),
        client.pause(id).await.map(drop).unwrap_err(),
    ] {
        assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    }
    assert!(client.kill(&other.sandbox_id).await.unwrap());
    assert_eq!(client.list(&BTreeMap::new(), &[]).await.unwrap().len(), 0);
}

/// Processes of a sandbox in which none runs.
pub async fn processes(envd: &Envd) {
    let mut start = shell("echo hello $NAME $MORE");
    start.process.envs = [("NAME", "crew"), ("MORE", "request")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let done = finish(&mut envd.start(&start, None).await.unwrap()).await.unwrap();
    assert_eq!((String::from_utf8(done.stdout).unwrap().as_str(), done.exit), ("hello crew request\n", 0));
    let failing = shell("echo out; echo bad >&2; exit 3");
    let Done { stdout, stderr, exit, exited, .. } =
        finish(&mut envd.start(&failing, Some(Duration::from_secs(60))).await.unwrap()).await.unwrap();
    assert_eq!((stdout, stderr, exit, exited), (b"out\n".to_vec(), b"bad\n".to_vec(), 3, true));

    let mut start = shell("cat");
    start.stdin = Some(true);
    let mut cat = envd.start(&start, None).await.unwrap();
    cat.send_input("grüße\n".as_bytes()).await.unwrap();
    assert_eq!(cat.next().await.unwrap(), Some(Event::Stdout("grüße\n".as_bytes().to_vec())));
    cat.close_stdin().await.unwrap();
    assert_eq!(finish(&mut cat).await.unwrap().exit, 0);

    let mut server = envd.start(&shell("echo up; sleep 300"), None).await.unwrap();
    assert_eq!(server.next().await.unwrap(), Some(Event::Stdout(b"up\n".to_vec())));
    let pid = server.leave();
    let listed = envd.list().await.unwrap();
    let found = listed.iter().find(|process| process.pid == pid).unwrap();
    assert_eq!((found.config.cmd.as_str(), found.config.args.len()), ("/bin/bash", 3));
    let mut watching = envd.connect(pid).await.unwrap();
    assert!(envd.signal(pid, Signal::Kill).await.unwrap());
    let done = finish(&mut watching).await.unwrap();
    assert_eq!((done.exit, done.exited), (-1, false));
    assert!(!envd.signal(pid, Signal::Kill).await.unwrap());
    assert!(matches!(envd.connect(pid).await, Err(Error::NotFound { .. })));

    let mut late = envd.start(&shell("echo up; sleep 300"), Some(Duration::from_millis(700))).await.unwrap();
    let error = loop {
        match late.next().await {
            Ok(Some(Event::Stdout(_))) => {}
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    drop(late);
    for _ in 0..600 {
        if envd.list().await.unwrap().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(envd.list().await.unwrap().len(), 0);
    let mut start = shell("pwd");
    start.process.cwd = Some("/home/user/no-such-folder".into());
    let nowhere = envd.start(&start, None).await;
    assert!(matches!(nowhere, Err(Error::Rejected { .. })), "{nowhere:?}");
}

/// Files of a sandbox whose work folder has none.
pub async fn files(envd: &Envd) {
    let binary: Vec<u8> = (0..70_000u32).map(|n| (n * 31 % 256) as u8).collect();
    let text = "/home/user/work/a folder/t\"ex't ü.txt";
    envd.write(text, "grüße\n".as_bytes()).await.unwrap();
    envd.write_many(&[
        ("/home/user/work/binary", &binary),
        ("/home/user/work/empty", b""),
        ("/home/user/work/b\"2", b"--\r\n"),
    ])
    .await
    .unwrap();
    let local = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(local.path(), &binary).unwrap();
    envd.write_file("/home/user/work/streamed", local.path()).await.unwrap();
    assert_eq!(envd.read(text, 1000).await.unwrap(), "grüße\n".as_bytes());
    assert_eq!(envd.read("/home/user/work/binary", 70_000).await.unwrap(), binary);
    assert_eq!(envd.read("/home/user/work/streamed", 70_000).await.unwrap(), binary);
    assert_eq!(envd.read("/home/user/work/empty", 0).await.unwrap(), b"");
    assert_eq!(envd.read("/home/user/work/b\"2", 10).await.unwrap(), b"--\r\n");
    assert!(matches!(envd.read("/home/user/work/binary", 69_999).await, Err(Error::TooLarge { .. })));
    assert!(matches!(envd.read("/home/user/work/none", 10).await, Err(Error::NotFound { .. })));
    assert!(matches!(envd.read("/home/user/work", 10).await, Err(Error::Rejected { status: 400, .. })));
    let mut download = envd.open("/home/user/work/binary").await.unwrap();
    let mut streamed = Vec::new();
    while download.more(&mut streamed).await.unwrap() {}
    assert_eq!(streamed, binary);

    let entry = envd.stat("/home/user/work/binary").await.unwrap();
    assert_eq!((entry.name.as_str(), entry.kind.as_str(), entry.size.as_str()), ("binary", "FILE_TYPE_FILE", "70000"));
    assert!(entry.modified_time.is_some());
    assert!(matches!(envd.stat("/home/user/work/none").await, Err(Error::NotFound { .. })));
    assert!(envd.make_dir("/home/user/work/x/y").await.unwrap());
    assert!(!envd.make_dir("/home/user/work/x/y").await.unwrap());
    let kinds = |entries: Vec<nightcrew::clients::e2b::wire::Entry>| {
        let mut all: Vec<_> = entries.into_iter().map(|entry| (entry.name, entry.kind)).collect();
        all.sort();
        all
    };
    let (file, folder) = ("FILE_TYPE_FILE".to_owned(), "FILE_TYPE_DIRECTORY".to_owned());
    let named = |name: &str, kind: &String| (name.to_owned(), kind.clone());
    assert_eq!(
        kinds(envd.list_dir("/home/user/work", 1).await.unwrap()),
        [
            named("a folder", &folder),
            named("b\"2", &file),
            named("binary", &file),
            named("empty", &file),
            named("streamed", &file),
            named("x", &folder),
        ]
    );
    assert_eq!(kinds(envd.list_dir("/home/user/work/x", 3).await.unwrap()), [named("y", &folder)]);
    assert!(matches!(envd.list_dir("/home/user/work/none", 1).await, Err(Error::NotFound { .. })));
    let moved = envd.rename("/home/user/work/binary", "/home/user/work/moved").await.unwrap();
    assert_eq!(moved.path, "/home/user/work/moved");
    assert!(matches!(envd.stat("/home/user/work/binary").await, Err(Error::NotFound { .. })));
    envd.remove("/home/user/work/a folder").await.unwrap();
    assert!(matches!(envd.read(text, 10).await, Err(Error::NotFound { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_of_a_list_are_followed() {
    let bench = Bench::new();
    bench.cloud.page(3);
    for n in 0..8 {
        bench.client.create(&super::bench::asked("base"), &format!("key-{n}")).await.unwrap();
    }
    let all = bench.client.list(&super::bench::asked("base").metadata, &[]).await.unwrap();
    assert_eq!(all.len(), 8);
    let tokens: Vec<Option<String>> = bench
        .cloud
        .calls("list")
        .iter()
        .map(|request| request.query.iter().find(|(name, _)| name == "nextToken").map(|(_, token)| token.clone()))
        .collect();
    assert_eq!(tokens, [None, Some("page 3".to_owned()), Some("page 6".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_is_built_from_steps_and_archives() {
    use nightcrew::clients::e2b::wire::{BuildStatus, BuildStep, NewTemplate, StartBuild};
    let bench = Bench::new();
    let entry = |n: u32, message: &str| json!({"timestamp": format!("2026-11-20T08:00:0{n}Z"), "message": message, "level": "info"});
    let first = json!([entry(0, "COPY"), entry(1, "RUN make")]);
    let all = json!([entry(0, "COPY"), entry(1, "RUN make"), entry(2, "no rule")]);
    bench.cloud.builder(move |_| {
        vec![
            json!({"status": "waiting"}),
            json!({"status": "building", "logEntries": first}),
            json!({"status": "error", "logEntries": all, "reason": {"message": "exit status 2", "step": "2"}}),
        ]
    });
    let client = &bench.client;
    let name = "nightcrew-0abc";
    assert_eq!(client.template(name).await.unwrap(), None);
    let new = NewTemplate { name: Some(name.into()), ..NewTemplate::default() };
    let template = client.request_template(&new).await.unwrap();
    assert_eq!(client.template(name).await.unwrap(), Some(template.template_id.clone()));
    let (id, build) = (template.template_id.as_str(), template.build_id.as_str());
    assert!(client.upload(id, "0f00", vec![7; 100_000]).await.unwrap());
    assert!(!client.upload(id, "0f00", vec![7; 100_000]).await.unwrap());
    assert_eq!(bench.count("upload"), 1);
    assert_eq!(bench.cloud.templates()[1].archives["0f00"], vec![7; 100_000]);
    let steps = StartBuild {
        from_template: Some("base".into()),
        steps: vec![BuildStep {
            kind: "COPY".into(),
            args: [".", "work", "", ""].map(str::to_owned).to_vec(),
            files_hash: Some("0f00".into()),
            force: false,
        }],
        ..StartBuild::default()
    };
    client.start_build(id, build, &steps, &["crates.io".into(), "*.npmjs.org".into()]).await.unwrap();
    let told = bench.cloud.calls("start_build");
    assert_eq!(told[0].header("x-nightcrew-network"), Some("crates.io,*.npmjs.org"));
    client.start_build(id, build, &steps, &[]).await.unwrap();
    assert_eq!(bench.cloud.calls("start_build")[1].header("x-nightcrew-network"), None);

    let mut log = Vec::new();
    let ended = loop {
        let info = client.build_status(id, build, log.len()).await.unwrap();
        log.extend(info.log_entries.iter().map(|entry| entry.message.clone()));
        if !matches!(info.status, BuildStatus::Waiting | BuildStatus::Building) {
            break info;
        }
    };
    assert_eq!(ended.status, BuildStatus::Error);
    assert_eq!(ended.reason.unwrap().message, "exit status 2");
    assert_eq!(log, ["COPY", "RUN make", "no rule"]);
    let error = client.create(&super::bench::asked(name), "k").await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    assert!(client.delete_template(id).await.unwrap());
    assert!(!client.delete_template(id).await.unwrap());
    assert_eq!(client.report().await.unwrap(), None);
    bench.cloud.assert_clean();
}
