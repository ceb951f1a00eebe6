//! Streams of processes: whole, torn, silent, without an end; and that no process outlives whoever asked for it.

use std::time::Duration;

use nightcrew::clients::e2b::wire::frame;
use nightcrew::clients::e2b::{Envd, Error, Event};
use serde_json::json;

use super::bench::{Bench, Done, eventually, finish, shell};
use crate::fakes::e2b::{Act, Fault};

/// Runs what is written in `acts`, to its end.
async fn run(acts: &[Act]) -> Result<Done, Error> {
    let bench = Bench::new();
    let acts = acts.to_vec();
    bench.cloud.program(move |_| acts.clone());
    let (_, envd) = bench.sandbox().await;
    let mut process = envd.start(&shell("x"), Some(Duration::from_secs(60))).await?;
    finish(&mut process).await
}

#[tokio::test(flavor = "multi_thread")]
async fn output_and_end_come_as_they_were() {
    let binary: Vec<u8> = (0..=255).collect();
    let done = run(&[
        Act::Out(b"one ".to_vec()),
        Act::Keepalive,
        Act::Err(b"no".to_vec()),
        Act::Out(Vec::new()),
        Act::Raw(frame(0, br#"{"event":{"resized":{"cols":1}},"trace":"x"}"#)),
        Act::Raw(frame(0, b"{}")),
        Act::Out(binary.clone()),
        Act::Exit(3),
    ])
    .await
    .unwrap();
    let expected = Done {
        stdout: [b"one ".to_vec(), binary].concat(),
        stderr: b"no".to_vec(),
        exit: 3,
        exited: true,
        error: Some("exit status 3".into()),
    };
    assert_eq!(done, expected);
    assert_eq!(run(&[Act::Exit(0)]).await.unwrap(), Done { exited: true, ..Done::default() });
    let limited = run(&[Act::Limit("memory")]).await.unwrap();
    assert_eq!((limited.exit, limited.exited, limited.error.as_deref()), (-1, false, Some("limit: memory")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lot_of_output_comes_whole() {
    let piece = vec![b'x'; 30_000];
    let acts: Vec<Act> = (0..300).map(|_| Act::Out(piece.clone())).chain([Act::Exit(0)]).collect();
    assert_eq!(run(&acts).await.unwrap().stdout.len(), 300 * 30_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_not_one_is_told_apart() {
    let said = || Act::Out(b"said".to_vec());
    let oversized = [&[0u8, 255, 255, 255, 255][..], &[b'x'; 100]].concat();
    let table: Vec<(&str, Vec<Act>, &str)> = vec![
        ("no end", vec![said(), Act::Stop], "the sandbox cannot be reached: the stream ended without its end"),
        ("half a frame", vec![said(), Act::Raw(vec![0, 0, 0, 0, 9, b'{']), Act::Stop], "the stream broke off"),
        ("a connection that breaks", vec![said(), Act::Break], "the sandbox cannot be reached"),
        (
            "an end of stream without the end of the process",
            vec![said(), Act::Finish(json!({}))],
            "the sandbox cannot be reached: the stream ended before the process did",
        ),
        ("an oversized frame", vec![said(), Act::Raw(oversized)], "a frame of 4294967295 bytes"),
        ("a compressed frame", vec![said(), Act::Raw(frame(1, b"{}"))], "compressed"),
        ("garbage", vec![said(), Act::Raw(frame(0, b"{\"event\":{\"data\":"))], "an answer that cannot be understood"),
        (
            "a wrong type",
            vec![Act::Raw(frame(0, br#"{"event":{"end":{"exitCode":"three"}}}"#))],
            "cannot be understood",
        ),
        ("no base64", vec![Act::Raw(frame(0, br#"{"event":{"data":{"stdout":"a!b"}}}"#))], "not base64"),
        (
            "an error at the end",
            vec![said(), Act::Finish(json!({"error": {"code": "internal", "message": "boom"}}))],
            "the sandbox cannot be reached: boom",
        ),
        (
            "a deadline",
            vec![said(), Act::Finish(json!({"error": {"code": "deadline_exceeded", "message": "too\u{7}long"}}))],
            "out of time: too long",
        ),
        ("a sandbox that vanishes", vec![said(), Act::Vanish], "the sandbox is gone"),
        (
            "a sandbox that vanishes and kills first",
            vec![said(), Act::VanishTold],
            "the sandbox is gone: it ended under a process (signal: killed)",
        ),
    ];
    for (what, acts, words) in table {
        let error = run(&acts).await.expect_err(what);
        assert!(error.to_string().contains(words), "{what}: {error}");
        assert_eq!(error.is_gone(), what.contains("vanishes"), "{what}");
        assert_eq!(matches!(error, Error::Deadline { .. }), what == "a deadline", "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_cannot_be_started_is_told_with_the_reason() {
    let bench = Bench::new();
    let (_, envd) = bench.sandbox().await;
    let mut start = shell("true");
    start.process.cwd = Some("/nowhere".into());
    let error = envd.start(&start, None).await.unwrap_err();
    assert!(matches!(&error, Error::Rejected { status: 400, message } if message == "cwd '/nowhere' does not exist"));
    let error = envd.connect(4242).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_is_kept_by_the_sandbox_and_told() {
    let bench = Bench::new();
    bench.cloud.program(|_| vec![Act::Out(b"working".to_vec()), Act::Hang]);
    let (_, envd) = bench.sandbox().await;
    let mut process = envd.start(&shell("sleep 300"), Some(Duration::from_millis(300))).await.unwrap();
    assert_eq!(process.next().await.unwrap(), Some(Event::Stdout(b"working".to_vec())));
    let error = process.next().await.unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    assert_eq!(bench.cloud.calls("Start")[0].header("connect-timeout-ms"), Some("300"));
    assert_eq!(bench.cloud.running().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_the_sandbox_does_not_keep_is_kept_by_the_client() {
    let bench = Bench::new();
    bench.cloud.careless();
    bench.cloud.program(|_| vec![Act::Hang]);
    let (_, envd) = bench.sandbox().await;
    let mut process = envd.start(&shell("sleep 300"), Some(Duration::from_millis(10))).await.unwrap();
    let error = process.next().await.unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    assert_eq!(bench.cloud.running().len(), 1);
    drop(process);
    eventually("the end of the process", || bench.cloud.running().is_empty()).await;
}

async fn hanging() -> (Bench, Envd) {
    let bench = Bench::new();
    bench.cloud.program(|_| vec![Act::Out(b"up".to_vec()), Act::Hang]);
    let (_, envd) = bench.sandbox().await;
    (bench, envd)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_dropped_is_killed_once() {
    let (bench, envd) = hanging().await;
    let mut process = envd.start(&shell("sleep 300"), None).await.unwrap();
    process.next().await.unwrap();
    assert_eq!(bench.cloud.running().len(), 1);
    let pid = process.pid();
    drop(process);
    eventually("the end of the process", || bench.cloud.running().is_empty()).await;
    assert!(bench.scope.close(Duration::from_secs(20)).await.is_empty());
    let signals = bench.cloud.calls("SendSignal");
    assert_eq!(signals.len(), 1);
    assert_eq!(signals[0].json(), json!({"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_dropped_half_way_leaves_nothing_running() {
    let (bench, envd) = hanging().await;
    // The cloud has it, and answers later.
    bench.cloud.fail("Start", Fault::Slow(Duration::from_millis(400)));
    let start = shell("sleep 300");
    tokio::select! {
        _ = envd.start(&start, None) => panic!("it was slow"),
        () = eventually("the start", || !bench.cloud.running().is_empty()) => {}
    }
    eventually("the end of the process", || bench.cloud.running().is_empty()).await;
    assert_eq!(bench.count("SendSignal"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_or_only_looked_at_runs_on() {
    let (bench, envd) = hanging().await;
    let pid = envd.start(&shell("server"), None).await.unwrap().leave();
    let watching = envd.connect(pid).await.unwrap();
    assert_eq!(watching.pid(), pid);
    drop(watching);
    assert_eq!(envd.list().await.unwrap().iter().map(|process| process.pid).collect::<Vec<_>>(), [pid]);
    assert_eq!(bench.count("SendSignal"), 0);

    let mut watching = envd.connect(pid).await.unwrap();
    assert!(watching.kill().await.unwrap());
    let done = finish(&mut watching).await.unwrap();
    assert_eq!((done.exit, done.exited, done.error.as_deref()), (-1, false, Some("signal: killed")));
    assert!(!watching.kill().await.unwrap());
    assert_eq!(envd.list().await.unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_killed_that_has_ended_or_whose_sandbox_is_gone() {
    let (bench, envd) = hanging().await;
    let mut process = envd.start(&shell("sleep 300"), None).await.unwrap();
    process.next().await.unwrap();
    bench.cloud.vanish(envd.sandbox());
    assert!(process.next().await.unwrap_err().is_gone());
    drop(process);
    bench.cloud.program(|_| Act::exit(0));
    let (_, envd) = {
        let created = bench.client.create(&super::bench::asked("base"), "second").await.unwrap();
        let envd = bench.client.envd(&created).unwrap();
        (created, envd)
    };
    let mut process = envd.start(&shell("true"), None).await.unwrap();
    finish(&mut process).await.unwrap();
    drop(process);
    assert!(bench.scope.close(Duration::from_secs(20)).await.is_empty());
    assert_eq!(bench.count("SendSignal"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_can_be_taken_up_again() {
    let bench = Bench::new();
    bench.cloud.program(|_| vec![Act::Break, Act::Wait(Duration::from_millis(500)), Act::Exit(7)]);
    let (_, envd) = bench.sandbox().await;
    let mut process = envd.start(&shell("x"), None).await.unwrap();
    let error = process.next().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    let mut again = envd.connect(process.pid()).await.unwrap();
    assert_eq!(finish(&mut again).await.unwrap().exit, 7);
    process.leave();
}

#[tokio::test(flavor = "multi_thread")]
async fn input_is_written_and_closed() {
    let bench = Bench::new();
    bench.cloud.program(|_| vec![Act::Echo, Act::Exit(0)]);
    let (_, envd) = bench.sandbox().await;
    let mut start = shell("cat");
    start.stdin = Some(true);
    let mut process = envd.start(&start, None).await.unwrap();
    process.send_input("grüße\n".as_bytes()).await.unwrap();
    process.send_input(&[0, 255]).await.unwrap();
    process.close_stdin().await.unwrap();
    let done = finish(&mut process).await.unwrap();
    assert_eq!(done.stdout, ["grüße\n".as_bytes(), &[0, 255]].concat());
    let error = process.send_input(b"late").await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}
