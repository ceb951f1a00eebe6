//! Paused, resumed, measured: with processes at work inside.

use std::time::Duration;

use nightcrew::clients::e2b::wire::{Created, State};
use serde_json::{Value, json};

use super::{Bench, until};

/// Runs a line in a sandbox. Its output, without what ends it.
async fn sh(bench: &Bench, sandbox: &Created, line: &str) -> Result<String, String> {
    let call = bench.inside(sandbox, "POST", "/process.Process/Start");
    let answer = call.message(&json!({"process": {"cmd": "/bin/sh", "args": ["-c", line]}})).send().await;
    if answer.status != 200 {
        return Err(answer.text());
    }
    let mut said = Vec::new();
    for (_, message) in answer.frames() {
        if let Some(text) = message["event"]["data"]["stdout"].as_str() {
            said.extend(decode(text));
        }
    }
    Ok(String::from_utf8(said).unwrap())
}

fn decode(base64: &str) -> Vec<u8> {
    let digit =
        |byte: u8| b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".iter().position(|d| *d == byte);
    let digits: Vec<usize> = base64.bytes().filter_map(digit).collect();
    let bytes = |group: &[usize]| {
        let bits = group.iter().fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - group.len()));
        [bits >> 16, bits >> 8, bits].map(|byte| byte as u8)[..group.len() - 1].to_vec()
    };
    digits.chunks(4).flat_map(bytes).collect()
}

/// Counts in a file, for as long as it is let.
const COUNTING: &str = "setsid sh -c 'n=0; while :; do n=$((n+1)); echo $n >count.new; mv count.new count; sleep 0.01; done' \
                        >/dev/null 2>&1 </dev/null & echo begun";

impl Bench {
    async fn post(&self, sandbox: &Created, call: &str, body: Value) -> u16 {
        let path = format!("/sandboxes/{}/{call}", sandbox.sandbox_id);
        self.call("POST", &path).json(&body).send().await.status
    }

    /// How far it has counted, as the host sees it.
    fn counted(&self, sandbox: &Created) -> u64 {
        let file = self.folder_of(&sandbox.sandbox_id).unwrap().join("home/count");
        std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    async fn counts_on(&self, sandbox: &Created) {
        let from = self.counted(sandbox);
        until("it counts", async || self.counted(sandbox) > from + 2).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_sandbox_stands_still_and_goes_on_where_it_was() {
    let bench = Bench::new().await;
    let made = bench.create_with(json!({"timeout": 100})).await;
    assert_eq!(sh(&bench, &made, COUNTING).await.unwrap(), "begun\n");
    bench.counts_on(&made).await;

    assert_eq!(bench.post(&made, "pause", json!({})).await, 204);
    let stands_at = bench.counted(&made);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(bench.counted(&made) <= stands_at + 1, "it goes on while it is paused");
    assert_eq!(bench.post(&made, "pause", json!({})).await, 409);
    assert_eq!(bench.post(&made, "timeout", json!({"timeout": 5})).await, 409);
    let told = bench.call("GET", &format!("/sandboxes/{}", made.sandbox_id)).send().await.json();
    assert_eq!((&told["state"], &told["pauseMode"]), (&json!("paused"), &json!("full")));
    let refused = sh(&bench, &made, "echo x").await.unwrap_err();
    assert!(refused.contains("was not found") && refused.contains("paused"), "{refused}");
    assert_eq!(bench.inside(&made, "GET", "/health").send().await.status, 502);
    assert_eq!(bench.inside(&made, "GET", "/files?path=count").send().await.status, 502);

    let path = format!("/v2/sandboxes/{}/connect", made.sandbox_id);
    assert_eq!(bench.call("POST", &path).json(&json!({"timeout": 50})).send().await.status, 201);
    bench.counts_on(&made).await;
    assert_eq!(sh(&bench, &made, "echo back").await.unwrap(), "back\n");
    assert_eq!(bench.info(&made.sandbox_id).await.unwrap().state, State::Running);

    // Without its processes, and killed while it is paused.
    assert_eq!(bench.post(&made, "pause", json!({"memory": false})).await, 204);
    let told = bench.call("GET", &format!("/sandboxes/{}", made.sandbox_id)).send().await.json();
    assert_eq!(told["pauseMode"], "filesystem");
    assert_eq!(bench.post(&made, "resume", json!({"timeout": 50})).await, 201);
    let count = bench.counted(&made);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(bench.counted(&made), count, "its processes have ended");
    assert_eq!(sh(&bench, &made, "cat count").await.unwrap(), format!("{count}\n"), "its files are there");
    assert_eq!(bench.post(&made, "pause", json!({})).await, 204);
    assert_eq!(bench.call("DELETE", &format!("/sandboxes/{}", made.sandbox_id)).send().await.status, 204);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_end_of_its_time_it_is_paused_and_a_call_wakes_it_if_so_asked() {
    let bench = Bench::new().await;
    let pauses = bench.create_with(json!({"timeout": 2, "autoPause": true})).await;
    let wakes = bench.create_with(json!({"timeout": 2, "autoPause": true, "autoResume": {"enabled": true}})).await;
    let cold = bench.create_with(json!({"timeout": 2, "autoPause": true, "autoPauseMemory": false})).await;
    for made in [&pauses, &wakes] {
        assert_eq!(sh(&bench, made, COUNTING).await.unwrap(), "begun\n");
    }
    for made in [&pauses, &wakes, &cold] {
        until("it is paused", async || bench.info(&made.sandbox_id).await.unwrap().state == State::Paused).await;
    }
    assert!(sh(&bench, &pauses, "echo x").await.is_err());
    assert_eq!(sh(&bench, &wakes, "echo woken").await.unwrap(), "woken\n");
    bench.counts_on(&wakes).await;
    let told = bench.call("GET", &format!("/sandboxes/{}", cold.sandbox_id)).send().await.json();
    assert_eq!(told["pauseMode"], "filesystem");
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_uses_is_measured_and_not_made_up() {
    let bench = Bench::new().await;
    let (busy, idle) = (bench.create().await, bench.create().await);
    sh(&bench, &busy, "head -c 3000000 /dev/zero >large").await.unwrap();
    sh(&bench, &busy, "setsid sh -c 'while :; do :; done' >/dev/null 2>&1 </dev/null &").await.unwrap();
    let measure = async |made: &Created, query: &str| {
        bench.call("GET", &format!("/sandboxes/{}/metrics{query}", made.sandbox_id)).send().await.json()
    };
    until("it is seen to be busy", async || measure(&busy, "").await[0]["cpuUsedPct"].as_f64().unwrap() > 1.0).await;
    let [of_busy, of_idle] = [measure(&busy, "").await[0].clone(), measure(&idle, "").await[0].clone()];
    assert!(of_busy["diskUsed"].as_u64().unwrap() >= 3_000_000 && of_idle["diskUsed"].as_u64().unwrap() < 1_000_000);
    assert!(of_busy["memUsed"].as_u64().unwrap() > 0 && of_busy["memTotal"] == 4096_u64 << 20, "{of_busy}");
    assert_eq!(measure(&busy, "?start=1&end=2").await, json!([]));
    let ids = format!("/sandboxes/metrics?sandbox_ids={},{},nobody", busy.sandbox_id, idle.sandbox_id);
    let many = bench.call("GET", &ids).send().await.json();
    assert_eq!(many["sandboxes"].as_object().unwrap().len(), 2);
    bench.close().await;
}
