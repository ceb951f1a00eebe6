//! From create to kill: what is answered, what is refused, and that nothing is left.

use serde_json::json;

use super::{Bench, Call, KEY};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_is_made_with_the_key_alone_and_killed_once() {
    let bench = Bench::new().await;
    let body = json!({"templateID": "base"});
    for key in ["", "e2b_0123456789abcdee", "e2b_0123456789abcdef0"] {
        let call = Call::new("POST", format!("{}/v2/sandboxes", bench.url)).header("x-api-key", key).json(&body);
        let answer = call.send().await;
        assert_eq!((answer.status, answer.json()["code"].as_u64()), (401, Some(401)), "{key:?}");
        assert!(!answer.text().contains(KEY));
    }
    let made = bench.create().await;
    assert!(bench.folder_of(&made.sandbox_id).is_some());
    let path = format!("/sandboxes/{}", made.sandbox_id);
    assert_eq!(bench.call("DELETE", &path).send().await.status, 204);
    assert!(bench.folder_of(&made.sandbox_id).is_none());
    assert_eq!(bench.call("DELETE", &path).send().await.status, 404);
    bench.close().await;
}
