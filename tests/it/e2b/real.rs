//! The same client before our own server, which really does what it is asked; by itself, and behind the scripted cloud, which lets things
//! go wrong on the way.

use std::collections::BTreeMap;
use std::time::Duration;

use nightcrew::base::env::Env;
use nightcrew::base::scope::Scope;
use nightcrew::base::secret::Secret;
use nightcrew::clients::e2b::{Cloud, Endpoint, Envd, Error, Event, Key};
use tokio::runtime::Handle;

use super::bench::{asked, finish, shell};
use super::scenario;
use crate::fakes::e2b::{E2b, Fault, KEY};
use crate::sandboxd::{self, Bench};

fn client(url: &str, key: &str) -> (Cloud, Scope) {
    let key = Key::Given(Secret::new(key));
    let endpoint = Endpoint { api_url: url.to_owned(), sandbox_url: Some(url.to_owned()), key };
    let scope = Scope::new(Handle::current());
    (Cloud::new(endpoint, Env::system(), scope.clone()).unwrap(), scope)
}

/// Waits until no process runs in a sandbox.
async fn quiet(envd: &Envd) {
    for _ in 0..600 {
        if envd.list().await.unwrap().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("still running: {:?}", envd.list().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_life_on_our_own_server() {
    let bench = Bench::new().await;
    let (client, _scope) = client(&bench.url, sandboxd::KEY);
    scenario::life(&client).await;
    let report = client.report().await.unwrap().unwrap();
    assert!(report.isolation.is_some(), "{report:?}");
    bench.server.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_life_on_a_cloud_that_is_our_own_server() {
    let bench = Bench::new().await;
    let cloud = E2b::before(&bench.url, sandboxd::KEY);
    let (client, _scope) = client(&cloud.url(), KEY);
    scenario::life(&client).await;
    assert_eq!(client.report().await.unwrap(), None);
    cloud.assert_clean();
    bench.server.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_on_the_way_leaves_nothing_behind() {
    let bench = Bench::new().await;
    let cloud = E2b::before(&bench.url, sandboxd::KEY);
    let (client, scope) = client(&cloud.url(), KEY);
    let everything = BTreeMap::new();

    // The answers of two creates are lost, and a third is limited: one sandbox.
    cloud.fail_times("create", &Fault::Lost, 2);
    cloud.fail("create", Fault::status(429).header("retry-after", "0"));
    let created = client.create(&asked("base"), "only-one").await.unwrap();
    assert_eq!(cloud.calls("create").len(), 4);
    let live = client.list(&everything, &[]).await.unwrap();
    assert_eq!(live.iter().map(|info| &info.sandbox_id).collect::<Vec<_>>(), [&created.sandbox_id]);
    let envd = client.envd(&created).unwrap();

    // A download that breaks off is begun again.
    let content = vec![7; 300_000];
    cloud.fail("write", Fault::Lost);
    envd.write("/home/user/large", &content).await.unwrap();
    cloud.fail_times("read", &Fault::Torn(100_000), 2);
    assert_eq!(envd.read("/home/user/large", 300_000).await.unwrap(), content);

    // The answer of a start is lost: it may run, and is not started again. Its deadline ends it.
    cloud.fail("Start", Fault::Lost);
    let error = envd.start(&shell("echo up; sleep 300"), Some(Duration::from_millis(500))).await.unwrap_err();
    assert!(matches!(error, Error::Ambiguous { .. }), "{error:?}");
    assert_eq!(cloud.calls("Start").len(), 1);
    quiet(&envd).await;

    // A process whose owner goes away, while it runs or before it was told of, is killed.
    let mut process = envd.start(&shell("echo up; sleep 300"), None).await.unwrap();
    assert_eq!(process.next().await.unwrap(), Some(Event::Stdout(b"up\n".to_vec())));
    drop(process);
    quiet(&envd).await;
    cloud.fail("Start", Fault::Slow(Duration::from_millis(300)));
    let start = shell("echo up; sleep 300");
    let half_way = async {
        while cloud.calls("Start").len() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        _ = envd.start(&start, None) => panic!("it was slow"),
        () = half_way => {}
    }
    while cloud.calls("SendSignal").len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    quiet(&envd).await;

    // The sandbox goes away under a process.
    let mut process = envd.start(&shell("echo up; sleep 300"), None).await.unwrap();
    assert_eq!(process.next().await.unwrap(), Some(Event::Stdout(b"up\n".to_vec())));
    cloud.fail("Stat", Fault::Vanish);
    assert!(envd.stat("/home/user").await.unwrap_err().is_gone());
    let error = finish(&mut process).await.unwrap_err();
    assert!(error.is_gone(), "{error:?}");
    drop(process);
    assert!(scope.close(Duration::from_secs(20)).await.is_empty());
    assert!(client.list(&everything, &[]).await.unwrap().is_empty());
    assert!(!client.kill(&created.sandbox_id).await.unwrap());
    bench.server.close().await;
}
