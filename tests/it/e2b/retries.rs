//! What is sent again, how often and after which pauses; and what never is.

use std::time::Duration;

use nightcrew::base::secret::{SecretRef, SecretSource};
use nightcrew::clients::e2b::wire::{NewTemplate, Signal, StartBuild};
use nightcrew::clients::e2b::{Cloud, Endpoint, Envd, Error, Key};

use super::bench::{Bench, asked, shell};
use crate::fakes::e2b::{Act, Fault, KEY};

/// The name of the error, and all that it says.
fn kind(error: &Error) -> &'static str {
    match error {
        Error::NotFound { .. } => "NotFound",
        Error::Gone { .. } => "Gone",
        Error::Unreachable { .. } => "Unreachable",
        Error::Unauthorized { .. } => "Unauthorized",
        Error::RateLimited { .. } => "RateLimited",
        Error::Rejected { .. } => "Rejected",
        Error::NoSpace { .. } => "NoSpace",
        Error::Unavailable { .. } => "Unavailable",
        Error::Ambiguous { .. } => "Ambiguous",
        Error::Deadline { .. } => "Deadline",
        Error::Protocol { .. } => "Protocol",
        Error::TooLarge { .. } => "TooLarge",
        Error::Request(_) => "Request",
        Error::Read(_) => "Read",
        Error::Secret(_) => "Secret",
    }
}

/// Makes one call of each kind, by the name that the cloud has for it.
async fn call(name: &str, client: &Cloud, envd: &Envd) -> Result<(), Error> {
    let id = envd.sandbox().to_owned();
    match name {
        "create" => client.create(&asked("base"), "another-key").await.map(drop),
        "connect" => client.connect(&id, 60).await.map(drop),
        "info" => client.info(&id).await.map(drop),
        "list" => client.list(&Default::default(), &[]).await.map(drop),
        "kill" => client.kill(&id).await.map(drop),
        "timeout" => client.set_timeout(&id, 60).await,
        "pause" => client.pause(&id).await.map(drop),
        "network" => client.set_network(&id, &Default::default(), false).await,
        "alias" => client.template("base").await.map(drop),
        "request_template" => client.request_template(&NewTemplate::default()).await.map(drop),
        "upload" => client.upload("base", "0abc", b"archive".to_vec()).await.map(drop),
        "start_build" => client.start_build("base", "b", &StartBuild::default(), &[]).await,
        "build_status" => client.build_status("base", "b", 0).await.map(drop),
        "delete_template" => client.delete_template("base").await.map(drop),
        "health" => envd.health().await.map(drop),
        "read" => envd.read("/home/user/a", 1000).await.map(drop),
        "write" => envd.write("/home/user/b", b"b").await,
        "Stat" => envd.stat("/home/user/a").await.map(drop),
        "ListDir" => envd.list_dir("/home/user", 1).await.map(drop),
        "MakeDir" => envd.make_dir("/home/user/c").await.map(drop),
        "Remove" => envd.remove("/home/user/a").await,
        "Move" => envd.rename("/home/user/a", "/home/user/d").await.map(drop),
        "List" => envd.list().await.map(drop),
        "Start" => envd.start(&shell("true"), None).await.map(drop),
        "Connect" => envd.connect(pid(envd).await).await.map(drop),
        "SendInput" => envd.send_input(pid(envd).await, b"x").await,
        "CloseStdin" => envd.close_stdin(pid(envd).await).await,
        "SendSignal" => envd.signal(pid(envd).await, Signal::Term).await.map(drop),
        other => panic!("no call {other}"),
    }
}

/// Of a process that runs.
async fn pid(envd: &Envd) -> u32 {
    envd.start(&shell("cat"), None).await.unwrap().leave()
}

async fn ready() -> (Bench, Envd) {
    let bench = Bench::new();
    bench.cloud.program(|run| if run.command == "cat" { vec![Act::Echo, Act::Exit(0)] } else { Act::exit(0) });
    let (_, envd) = bench.sandbox().await;
    envd.write("/home/user/a", b"content").await.unwrap();
    (bench, envd)
}

/// May be sent again after anything.
const SAFE: &[&str] = &[
    "create",
    "connect",
    "info",
    "list",
    "kill",
    "timeout",
    "pause",
    "network",
    "alias",
    "upload",
    "build_status",
    "delete_template",
    "health",
    "read",
    "write",
    "Stat",
    "ListDir",
    "MakeDir",
    "Remove",
    "List",
    "Connect",
    "SendSignal",
];
/// Only where the server asked for it.
const ASKED: &[&str] = &["request_template", "start_build", "Move", "CloseStdin"];
const NEVER: &[&str] = &["Start", "SendInput"];

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_asked_for_again_only_where_that_does_no_harm() {
    for (names, expected) in [(SAFE, 2), (ASKED, 1), (NEVER, 1)] {
        for name in names {
            for fault in [Fault::Cut, Fault::Lost] {
                let (bench, envd) = ready().await;
                let before = bench.count(name);
                bench.cloud.fail(name, fault.clone());
                let outcome = call(name, &bench.client, &envd).await;
                // `Start` is also how the others that need a process get one.
                assert_eq!(bench.count(name) - before, expected, "{name} after {fault:?}: {outcome:?}");
                match outcome {
                    Err(error) if expected == 1 => {
                        assert_eq!(kind(&error), "Ambiguous", "{name} after {fault:?}: {error}");
                    }
                    other => assert!(expected == 2 && other.is_ok(), "{name} after {fault:?}: {other:?}"),
                }
                bench.cloud.assert_clean();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_server_asks_for_it_everything_but_a_start_and_an_input_is_sent_again() {
    for (names, expected) in [(SAFE, 4), (ASKED, 4), (NEVER, 1)] {
        for name in names {
            for fault in [Fault::status(503), Fault::status(429).header("retry-after", "1")] {
                let (bench, envd) = ready().await;
                let before = bench.count(name);
                bench.cloud.fail_times(name, &fault, 3);
                let outcome = call(name, &bench.client, &envd).await;
                assert_eq!(bench.count(name) - before, expected, "{name}: {outcome:?}");
                assert_eq!(bench.pauses().len(), expected - 1, "{name}");
                assert_eq!(outcome.is_ok(), expected == 4, "{name}: {outcome:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_whose_answer_was_lost_makes_one_sandbox() {
    let bench = Bench::new();
    bench.cloud.fail_times("create", &Fault::Lost, 2);
    let created = bench.client.create(&asked("base"), "run-01k-step-2").await.unwrap();
    let requests = bench.cloud.calls("create");
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|request| request.header("idempotency-key") == Some("run-01k-step-2")));
    assert!(requests.iter().all(|request| request.body == requests[0].body));
    let live = bench.cloud.sandboxes();
    assert_eq!(live.iter().map(|sandbox| sandbox.id.as_str()).collect::<Vec<_>>(), [created.sandbox_id.as_str()]);

    for bad in ["", "Upper", "a b", "a_b", &"x".repeat(256)] {
        let error = bench.client.create(&asked("base"), bad).await.unwrap_err();
        assert_eq!(kind(&error), "Request", "{bad}");
    }
    assert_eq!(bench.count("create"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_has_its_outcome_and_its_number_of_tries() {
    let long = "x".repeat(100_000);
    let table: Vec<(&str, Fault, &str, usize)> = vec![
        ("info", Fault::status(400), "Rejected", 1),
        ("info", Fault::status(401), "Unauthorized", 1),
        ("info", Fault::status(403), "Unauthorized", 1),
        ("info", Fault::status(404), "NotFound", 1),
        ("info", Fault::status(409), "Rejected", 1),
        ("info", Fault::status(429), "RateLimited", 4),
        ("info", Fault::status(429).header("should-retry", "false"), "RateLimited", 1),
        ("info", Fault::status(500), "Unavailable", 1),
        ("info", Fault::status(500).header("should-retry", "true"), "Unavailable", 4),
        ("info", Fault::status(400).header("Should-Retry", " TRUE "), "Rejected", 4),
        ("info", Fault::status(502), "Unavailable", 4),
        ("info", Fault::html(502), "Unavailable", 4),
        ("info", Fault::status(503), "Unavailable", 4),
        ("info", Fault::status(503).header("should-retry", "false"), "Unavailable", 1),
        ("info", Fault::status(504), "Unavailable", 4),
        ("info", Fault::Cut, "Unavailable", 4),
        ("info", Fault::Torn(10), "Unavailable", 4),
        ("info", Fault::Garbage("{\"sandboxID\": \"x\""), "Protocol", 1),
        ("info", Fault::Garbage("[]"), "Protocol", 1),
        ("info", Fault::Garbage("<html>"), "Protocol", 1),
        ("info", Fault::text(400, &long), "Rejected", 1),
        // The words of the control plane are not those of the proxy.
        ("info", Fault::proxy("The sandbox was not found"), "Unavailable", 4),
        ("create", Fault::status(400), "Rejected", 1),
        ("create", Fault::status(401), "Unauthorized", 1),
        ("create", Fault::html(502), "Unavailable", 4),
        ("create", Fault::Garbage("{}"), "Protocol", 1),
        ("request_template", Fault::html(504), "Unavailable", 4),
        ("request_template", Fault::Cut, "Ambiguous", 1),
        ("upload", Fault::status(403), "Unauthorized", 1),
        ("upload", Fault::status(503), "Unavailable", 4),
        ("Stat", Fault::proxy("The sandbox was not found"), "Gone", 1),
        ("Stat", Fault::proxy("The sandbox is running but port is not open"), "Unreachable", 4),
        ("Stat", Fault::html(502), "Unreachable", 4),
        ("Stat", Fault::status(500), "Unavailable", 1),
        ("Stat", Fault::status(401), "Unauthorized", 1),
        ("Stat", Fault::text(404, "404 page not found"), "NotFound", 1),
        ("Stat", Fault::Cut, "Unavailable", 4),
        ("Stat", Fault::Garbage("{\"entry\":"), "Protocol", 1),
        ("Stat", Fault::Vanish, "Gone", 1),
        ("read", Fault::proxy("The sandbox was not found"), "Gone", 1),
        ("read", Fault::Torn(3), "Unavailable", 4),
        ("write", Fault::status(507), "NoSpace", 1),
        ("write", Fault::Vanish, "Gone", 1),
        ("health", Fault::html(502), "Unreachable", 4),
        ("Start", Fault::status(429), "RateLimited", 1),
        ("Start", Fault::status(400), "Rejected", 1),
        ("Start", Fault::status(500), "Unavailable", 1),
        ("Start", Fault::status(503), "Unavailable", 1),
        ("Start", Fault::html(502), "Ambiguous", 1),
        ("Start", Fault::html(504), "Ambiguous", 1),
        ("Start", Fault::proxy("The sandbox was not found"), "Gone", 1),
        ("Start", Fault::proxy("The sandbox is running but port is not open"), "Unreachable", 1),
        ("Start", Fault::Cut, "Ambiguous", 1),
        ("Start", Fault::Vanish, "Gone", 1),
        ("Start", Fault::Garbage("{\"event\":{\"start\":{\"pid\":1}}}"), "Protocol", 1),
    ];
    for (name, fault, expected, tries) in table {
        let (bench, envd) = ready().await;
        let before = bench.count(name);
        bench.cloud.fail_times(name, &fault, tries);
        let error = call(name, &bench.client, &envd).await.expect_err(name);
        let what = format!("{name} after {fault:?}: {error:?}").chars().take(900).collect::<String>();
        assert_eq!(kind(&error), expected, "{what}");
        assert_eq!(bench.count(name) - before, tries, "{what}");
        let text = error.to_string();
        assert!(text.len() < 1000 && !text.contains('<') && !text.contains(KEY), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pauses_are_those_that_the_server_names_or_grow_with_jitter() {
    let (bench, envd) = ready().await;
    let id = envd.sandbox();
    let ms = Duration::from_millis;

    bench.cloud.fail("info", Fault::status(429).header("retry-after", "7"));
    bench.cloud.fail("info", Fault::status(503).header("Retry-After", "0"));
    bench.client.info(id).await.unwrap();
    assert_eq!(bench.pauses(), [ms(7000), ms(0)]);

    bench.cloud.fail_times("info", &Fault::status(503), 3);
    bench.client.info(id).await.unwrap();
    let pauses = bench.pauses();
    for (pause, around) in pauses.iter().zip([100, 200, 400]) {
        assert!((ms(around / 2)..=ms(around * 3 / 2)).contains(pause), "{pauses:?}");
    }
    assert_eq!(pauses.len(), 3);

    // A date, a fraction or nonsense is no number of seconds: the usual pause.
    for odd in ["1.5", "soon", "", "-3", "Fri, 20 Nov 2026 08:00:30 GMT", "99999999999"] {
        bench.cloud.fail("info", Fault::status(429).header("retry-after", odd));
        bench.client.info(id).await.unwrap();
        let pauses = bench.pauses();
        assert!(pauses.len() == 1 && pauses[0] <= ms(150), "{odd}: {pauses:?}");
    }

    // Longer than the whole call may take: the caller is told, and decides.
    bench.cloud.fail("info", Fault::status(429).header("retry-after", "61"));
    let error = bench.client.info(id).await.unwrap_err();
    assert!(
        matches!(error, Error::RateLimited { retry_after: Some(after), .. } if after == Duration::from_secs(61)),
        "{error:?}"
    );
    assert!(bench.pauses().is_empty());
    bench.cloud.fail_times("info", &Fault::status(429).header("retry-after", "25"), 3);
    bench.client.info(id).await.unwrap_err();
    assert_eq!(bench.pauses(), [ms(25_000), ms(25_000)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_at_home_is_tried_four_times_and_told() {
    let bench = Bench::new();
    let (created, envd) = bench.sandbox().await;
    let (client, scope) = (bench.client.clone(), bench.scope.clone());
    // A port on which nobody listens any more.
    drop(bench);
    let error = client.info(&created.sandbox_id).await.unwrap_err();
    assert_eq!(kind(&error), "Unavailable", "{error}");
    let error = envd.start(&shell("true"), None).await.unwrap_err();
    assert_eq!(kind(&error), "Unavailable", "{error}");
    assert!(scope.close(Duration::from_secs(20)).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_read_at_each_use_and_stands_in_no_message() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    let key = SecretRef { name: "E2B".into(), source: SecretSource::Files(vec![file.clone()]) };
    let bench = Bench::with_key(Key::Kept(key));
    let client = &bench.client;
    let missing = client.list(&Default::default(), &[]).await.unwrap_err();
    assert_eq!(kind(&missing), "Secret");
    std::fs::write(&file, "e2b_wrong\n").unwrap();
    let error = client.list(&Default::default(), &[]).await.unwrap_err();
    assert_eq!(error.to_string(), "the credential was refused: invalid API key [secret]");
    std::fs::write(&file, format!("{KEY}\n")).unwrap();
    client.list(&Default::default(), &[]).await.unwrap();
    std::fs::write(&file, "e2b_two\nlines").unwrap();
    let error = client.list(&Default::default(), &[]).await.unwrap_err();
    assert_eq!(error.to_string(), "secret `E2B` holds characters that a header cannot carry");
    let (created, envd) = {
        std::fs::write(&file, KEY).unwrap();
        bench.sandbox().await
    };
    let token = created.envd_access_token.clone().unwrap();
    for shown in [format!("{created:?}"), format!("{envd:?}"), format!("{client:?}")] {
        assert!(!shown.contains(&token) && !shown.contains(KEY), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_or_a_name_that_cannot_be_asked_for_is_refused_before_anything_is_sent() {
    let bench = Bench::new();
    let scope = bench.scope.clone();
    for api_url in ["", "ftp://x", "not an address", "https://"] {
        let endpoint = Endpoint { api_url: api_url.into(), sandbox_url: None, key: bench_key() };
        let error = Cloud::new(endpoint, nightcrew::base::env::Env::system(), scope.clone()).unwrap_err();
        assert_eq!(kind(&error), "Request", "{api_url}");
    }
    for id in ["", ".", "..", "%2e%2e"] {
        let outcome = bench.client.kill(id).await;
        // What is encoded is another name, and stays one.
        let fine = matches!((&outcome, id), (Err(Error::Request(_)), _) | (Ok(false), "%2e%2e"));
        assert!(fine, "{id}: {outcome:?}");
    }
    bench.client.kill("../v2/sandboxes?x=1#y").await.unwrap();
    let paths: Vec<String> = bench.cloud.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(paths, ["/sandboxes/%252e%252e", "/sandboxes/..%2Fv2%2Fsandboxes%3Fx=1%23y"]);
}

fn bench_key() -> Key {
    Key::Given(nightcrew::base::secret::Secret::new(KEY))
}
