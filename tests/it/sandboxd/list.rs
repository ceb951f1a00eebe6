//! What sandboxes there are, what is known of one, and what happened to it.

use nightcrew::clients::e2b::wire;
use serde_json::{Value, json};

use super::{Bench, Call};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_are_filtered_ordered_and_come_in_pages() {
    let bench = Bench::new().await;
    let mut ids = Vec::new();
    for n in 0..5 {
        let metadata = json!({"n": n.to_string(), "a b": "c+d&e=ü", "even": (n % 2 == 0).to_string()});
        ids.push(bench.create_with(json!({"metadata": metadata})).await.sandbox_id);
    }
    let get = async |query: &str| bench.call("GET", &format!("/v2/sandboxes?{query}")).send().await;
    let listed = |answer: &super::Answer| -> Vec<String> {
        let all = answer.json();
        all.as_array().unwrap().iter().map(|one| one["sandboxID"].as_str().unwrap().to_owned()).collect()
    };
    let newest_first: Vec<_> = ids.iter().rev().cloned().collect();
    assert_eq!(listed(&get("").await), newest_first);
    assert_eq!(listed(&get("order=asc").await), ids);
    assert_eq!(listed(&get("template=base&state=running").await), newest_first);
    assert!(listed(&get("template=other").await).is_empty());
    // As Python's httpx and JavaScript's URLSearchParams encode it.
    let encoded = "a%252520b%3Dc%25252Bd%252526e%25253D%2525C3%2525BC%26even%3Dtrue";
    let even = [&ids[0][..], &ids[2], &ids[4]];
    assert_eq!(listed(&get(&format!("order=asc&metadata={encoded}")).await), even);
    assert_eq!(listed(&get("metadata=n%3D3").await), [&ids[3][..]]);
    assert!(listed(&get("metadata=n%3D3%26even%3Dtrue").await).is_empty());

    let third = bench.info(&ids[2]).await.unwrap().started_at;
    let after = third.to_string().replace(':', "%3A");
    assert_eq!(listed(&get(&format!("order=asc&startedAfter={after}")).await), ids[2..]);

    let first = get("limit=2&order=asc").await;
    assert_eq!((listed(&first), &first.headers["x-total-running"][..]), (ids[..2].to_vec(), "5"));
    let second = get(&format!("limit=2&order=asc&nextToken={}", first.headers["x-next-token"])).await;
    assert_eq!(listed(&second), ids[2..4]);
    let last = get(&format!("limit=2&order=asc&nextToken={}", second.headers["x-next-token"])).await;
    assert_eq!((listed(&last), last.headers.get("x-next-token")), (ids[4..].to_vec(), None));

    let paused = get("state=paused").await;
    assert!(listed(&paused).is_empty() && !paused.headers.contains_key("x-total-running"));
    let old = bench.call("GET", "/sandboxes?metadata=even%3Dfalse").send().await;
    assert_eq!(listed(&old), [&ids[3][..], &ids[1]]);
    assert!(!old.text().contains("envdAccessToken"), "a list holds no credential");
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_told_of_a_sandbox_is_what_it_has() {
    let bench = Bench::new().await;
    let made = bench
        .create_with(json!({
            "metadata": {"run": "1"}, "allow_internet_access": false, "autoPause": true, "autoResume": {"enabled": true},
            "network": {"denyOut": ["0.0.0.0/0"]},
        }))
        .await;
    let told = bench.call("GET", &format!("/sandboxes/{}", made.sandbox_id)).send().await.json();
    let info: wire::Info = serde_json::from_value(told.clone()).unwrap();
    assert_eq!(info.envd_access_token, made.envd_access_token);
    assert_eq!((info.state, info.metadata["run"].as_str()), (wire::State::Running, "1"));
    assert_eq!((info.allow_internet_access, info.network.unwrap().deny_out), (Some(false), vec!["0.0.0.0/0".into()]));
    assert_eq!(told["lifecycle"], json!({"autoResume": true, "onTimeout": "pause"}));
    let processors = std::thread::available_parallelism().unwrap().get();
    assert_eq!((info.cpu_count as usize, info.memory_mb), (processors, 4096));
    assert!(info.disk_size_mb > 0 && told.get("pauseMode").is_none());

    let logs = |answer: Value| -> Vec<String> {
        answer["logs"].as_array().unwrap().iter().map(|line| line["message"].as_str().unwrap().to_owned()).collect()
    };
    let path = format!("/v2/sandboxes/{}/logs", made.sandbox_id);
    let all = bench.call("GET", &path).send().await.json();
    assert_eq!(logs(all.clone()), ["the sandbox was made"]);
    assert_eq!((&all["logs"][0]["level"], &all["logs"][0]["fields"]), (&json!("info"), &json!({"template": "base"})));
    let timeout = format!("/sandboxes/{}/timeout", made.sandbox_id);
    assert_eq!(bench.call("POST", &timeout).json(&json!({"timeout": 60})).send().await.status, 204);
    let get = async |query: &str| logs(bench.call("GET", &format!("{path}?{query}")).send().await.json());
    assert_eq!(get("direction=backward").await, ["its time was set", "the sandbox was made"]);
    assert_eq!(get("direction=backward&limit=1").await, ["its time was set"]);
    assert_eq!(get("level=info").await, ["the sandbox was made"]);
    assert_eq!(get("search=time").await, ["its time was set"]);
    assert!(get("cursor=99999999999999").await.is_empty());
    let old = bench.call("GET", &format!("/sandboxes/{}/logs?limit=1", made.sandbox_id)).send().await.json();
    assert_eq!(
        (&old["logs"][0]["line"], &old["logEntries"][0]["level"]),
        (&json!("the sandbox was made"), &json!("info"))
    );
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_the_servers_or_that_of_the_sandbox_it_names() {
    let bench = Bench::new().await;
    let made = bench.create().await;
    let health = async |header: Option<(&str, &str)>| {
        let call = Call::new("GET", format!("{}/health", bench.url));
        let call =
            header.map_or(Call::new("GET", format!("{}/health", bench.url)), |(name, value)| call.header(name, value));
        call.send().await
    };
    assert_eq!(health(None).await.status, 200);
    assert_eq!(health(Some(("e2b-sandbox-id", &made.sandbox_id))).await.status, 204);
    let host = format!("49983-{}.sandbox.test", made.sandbox_id);
    assert_eq!(health(Some(("host", &host))).await.status, 204);
    assert_eq!(bench.call("DELETE", &format!("/sandboxes/{}", made.sandbox_id)).send().await.status, 204);
    let gone = health(Some(("host", &host))).await;
    assert_eq!(gone.status, 502);
    assert!(gone.json()["message"].as_str().unwrap().contains("was not found"), "{gone:?}");

    let report = bench.call("GET", "/nightcrew/report").send().await.json();
    let report: wire::Report = serde_json::from_value(report).unwrap();
    assert_eq!(report.isolation.as_deref(), bench.server.tier().map(|tier| tier.name()));
    assert_eq!(report.version, env!("CARGO_PKG_VERSION"));
    bench.close().await;
}
