//! The stand-in of Slack.

use std::sync::Arc;
use std::time::Duration;

use nightcrew::base::clock::ManualClock;
use serde_json::{Value, json};

use super::{Said, ask};
use crate::fakes::service::Fault;
use crate::fakes::slack::{APP_TOKEN, BOT_USER, Members, Slack, TOKEN};

async fn get(slack: &Slack, method: &str, query: &str) -> Value {
    ask("GET", &format!("{}/{method}?{query}", slack.api()), Some(TOKEN), None).await.unwrap().body
}

async fn post(slack: &Slack, method: &str, body: Value) -> Said {
    ask("POST", &format!("{}/{method}", slack.api()), Some(TOKEN), Some(&body)).await.unwrap()
}

fn clock() -> ManualClock {
    ManualClock::new("2026-11-20T08:00:00Z".parse().unwrap())
}

#[tokio::test]
async fn who_is_not_let_in_hears_the_word_for_it() {
    let slack = Slack::start();
    slack.channel("ops", Members::WithBot);
    slack.channel("away", Members::WithoutBot);
    slack.channel("hidden", Members::PrivateWithoutBot);
    let url = format!("{}/auth.test", slack.api());
    assert_eq!(ask("POST", &url, None, None).await.unwrap().body["error"], "not_authed");
    assert_eq!(ask("POST", &url, Some("xoxb-other"), None).await.unwrap().body["error"], "invalid_auth");
    let known = ask("POST", &url, Some(TOKEN), None).await.unwrap();
    assert_eq!(known.body["user_id"], BOT_USER);
    assert!(known.header("x-oauth-scopes").contains("chat:write"));
    let open = format!("{}/apps.connections.open", slack.api());
    assert_eq!(ask("POST", &open, Some(TOKEN), None).await.unwrap().body["error"], "not_allowed_token_type");
    slack.socket("ws://127.0.0.1:1/link");
    assert_eq!(ask("POST", &open, Some(APP_TOKEN), None).await.unwrap().body["url"], "ws://127.0.0.1:1/link");
    for (channel, word) in [
        ("ops", None),
        ("away", Some("not_in_channel")),
        ("hidden", Some("channel_not_found")),
        ("none", Some("channel_not_found")),
    ] {
        let said = post(&slack, "chat.postMessage", json!({"channel": channel, "text": "hello"})).await;
        assert_eq!((said.status, said.body["error"].as_str()), (200, word), "{channel}");
    }
    let names = |listed: &Value| -> Vec<String> {
        listed["channels"]
            .as_array()
            .unwrap()
            .iter()
            .map(|channel| channel["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        names(&get(&slack, "conversations.list", "types=public_channel,private_channel").await),
        ["ops", "away"]
    );
    slack.without_scope("chat:write");
    let said = post(&slack, "chat.postMessage", json!({"channel": "ops", "text": "hello"})).await;
    assert_eq!((&said.body["error"], &said.body["needed"]), (&json!("missing_scope"), &json!("chat:write")));
}

#[tokio::test]
async fn a_message_is_found_by_its_metadata_and_changed_only_by_who_wrote_it() {
    let clock = clock();
    let slack = Slack::start_at(Arc::new(clock.clone()));
    let ops = slack.channel("ops", Members::WithBot);
    let marked =
        json!({"channel": ops, "text": "one", "metadata": {"event_type": "nightcrew", "event_payload": {"key": "k1"}}});
    let first = post(&slack, "chat.postMessage", marked.clone()).await.body;
    // Not even a second later.
    assert_eq!(post(&slack, "chat.postMessage", marked).await.status, 429);
    clock.advance(Duration::from_secs(1));
    let reply = json!({"channel": ops, "text": "more", "thread_ts": first["ts"]});
    assert_eq!(post(&slack, "chat.postMessage", reply).await.body["ok"], true);
    let persons = slack.say("ops", "U0ADA", "thanks", None);
    let top = get(&slack, "conversations.history", &format!("channel={ops}&include_all_metadata=true")).await;
    let texts: Vec<&str> = top["messages"].as_array().unwrap().iter().map(|m| m["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["thanks", "one"]);
    assert_eq!(top["messages"][1]["metadata"]["event_payload"]["key"], "k1");
    let plain = get(&slack, "conversations.history", &format!("channel={ops}&limit=1")).await;
    assert!(plain["messages"][0]["metadata"].is_null() && plain["has_more"] == true);
    let next = plain["response_metadata"]["next_cursor"].as_str().unwrap();
    let second = get(&slack, "conversations.history", &format!("channel={ops}&limit=1&cursor={next}")).await;
    assert!(second["messages"][0]["metadata"].is_null() && second["has_more"] == false);
    let thread =
        get(&slack, "conversations.replies", &format!("channel={ops}&ts={}", first["ts"].as_str().unwrap())).await;
    assert_eq!(thread["messages"].as_array().unwrap().len(), 2);
    let changed = post(&slack, "chat.update", json!({"channel": ops, "ts": first["ts"], "text": "two"})).await.body;
    assert_eq!((&changed["ok"], &changed["message"]["metadata"]["event_type"]), (&json!(true), &json!("nightcrew")));
    let refused = post(&slack, "chat.update", json!({"channel": ops, "ts": persons, "text": "two"})).await.body;
    assert_eq!(refused["error"], "cant_update_message");
    assert_eq!(slack.effects("message.create").len(), 3);
    let link =
        get(&slack, "chat.getPermalink", &format!("channel={ops}&message_ts={}", first["ts"].as_str().unwrap())).await;
    assert!(link["permalink"].as_str().unwrap().contains(&ops));
}

#[tokio::test]
async fn blocks_that_slack_refuses_are_refused() {
    let slack = Slack::start();
    slack.patient();
    let ops = slack.channel("ops", Members::WithBot);
    let section = |text: &str| json!({"type": "section", "text": {"type": "mrkdwn", "text": text}});
    for (blocks, taken) in [
        (json!([section("a")]), true),
        (json!([section(&"a".repeat(3000))]), true),
        (json!([section(&"a".repeat(3001))]), false),
        (json!([section("")]), false),
        (json!([{"type": "sectionXX"}]), false),
        (json!([{"type": "header", "text": {"type": "mrkdwn", "text": "a"}}]), false),
        (json!(vec![section("a"); 51]), false),
        (
            json!([{"type": "actions", "elements": [{"type": "button", "action_id": "a", "text": {"type": "plain_text", "text": "b"}}]}]),
            true,
        ),
        (json!([{"type": "image", "slack_file": {"id": "F1"}, "alt_text": ""}]), false),
    ] {
        let said = post(&slack, "chat.postMessage", json!({"channel": ops, "text": "t", "blocks": blocks})).await.body;
        assert_eq!(said["ok"] == true, taken, "{blocks}: {said}");
    }
}

#[tokio::test]
async fn a_file_is_placed_uploaded_and_shared() {
    let slack = Slack::start();
    let ops = slack.channel("ops", Members::WithBot);
    let place = get(&slack, "files.getUploadURLExternal", "filename=chart.png&length=5").await;
    let url = place["upload_url"].as_str().unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    assert_eq!(client.post(url).body("four").send().await.unwrap().status(), 400);
    assert_eq!(client.post(url).body("bytes").send().await.unwrap().status(), 200);
    let end = json!({"files": [{"id": place["file_id"], "title": "Sign-ups"}], "channel_id": ops});
    assert_eq!(post(&slack, "files.completeUploadExternal", end.clone()).await.body["ok"], true);
    assert_eq!(post(&slack, "files.completeUploadExternal", end).await.body["error"], "file_already_completed");
    assert_eq!(slack.messages("ops")[0].files[0]["title"], "Sign-ups");
    assert_eq!(slack.files(), [("chart.png".to_owned(), b"bytes".to_vec())]);
}

#[tokio::test]
async fn limits_refusals_and_cuts_come_as_they_were_ordered() {
    let slack = Slack::start();
    slack.patient();
    slack.channel("ops", Members::WithBot);
    slack.limit("chat.postMessage", Some(30), 1);
    slack.refuse("chat.postMessage", "fatal_error");
    let said = post(&slack, "chat.postMessage", json!({"channel": "ops", "text": "a"})).await;
    assert_eq!((said.status, said.header("retry-after")), (429, "30"));
    let said = post(&slack, "chat.postMessage", json!({"channel": "ops", "text": "a"})).await;
    assert_eq!((said.status, &said.body["error"]), (200, &json!("fatal_error")));
    slack.fault("POST", "/api/chat.postMessage", Fault::Lost);
    let url = format!("{}/chat.postMessage", slack.api());
    assert!(ask("POST", &url, Some(TOKEN), Some(&json!({"channel": "ops", "text": "a"}))).await.is_err());
    assert_eq!(slack.messages("ops").len(), 1);
}
