//! The stand-in of Sentry.

use serde_json::{Value, json};

use super::{Said, ask};
use crate::fakes::sentry::{INSTALLATION, Sentry, TOKEN};

async fn call(sentry: &Sentry, method: &str, path: &str, body: Value) -> Said {
    let body = (!body.is_null()).then_some(body);
    ask(method, &format!("{}/api/0/{path}", sentry.url()), Some(TOKEN), body.as_ref()).await.unwrap()
}

#[tokio::test]
async fn a_list_always_names_a_next_page_and_says_whether_there_is_one() {
    let sentry = Sentry::start();
    for n in 0..5 {
        sentry.error("api", "ValueError", &format!("no {n}"), &[("src/a.py", "f", 3)]);
    }
    let (mut path, mut seen, mut pages) = ("organizations/acme/issues/?query=is:unresolved&limit=2".to_owned(), 0, 0);
    loop {
        let page = call(&sentry, "GET", &path, Value::Null).await;
        seen += page.body.as_array().unwrap().len();
        pages += 1;
        let next = page.header("link").split(", ").find(|link| link.contains("rel=\"next\"")).unwrap().to_owned();
        if next.contains("results=\"false\"") {
            break;
        }
        path = next.split_once("/api/0/").unwrap().1.split_once('>').unwrap().0.to_owned();
    }
    assert_eq!((seen, pages), (5, 3));
    let first = call(&sentry, "GET", "organizations/acme/issues/?limit=1", Value::Null).await;
    assert!(first.body[0]["count"].is_string() && first.body[0]["userCount"].is_u64());
    assert_eq!(call(&sentry, "GET", "organizations/acme/issues/?limit=500", Value::Null).await.status, 400);
    assert_eq!(call(&sentry, "GET", "organizations/other/issues/", Value::Null).await.status, 404);
    let url = format!("{}/api/0/organizations/acme/issues/", sentry.url());
    assert_eq!(ask("GET", &url, Some("other"), None).await.unwrap().status, 401);
    sentry.accept("reader", &["event:read"]);
    assert_eq!(ask("GET", &url, Some("reader"), None).await.unwrap().status, 200);
    let issue = format!("{url}API-4F2/");
    assert_eq!(ask("PUT", &issue, Some("reader"), Some(&json!({"status": "resolved"}))).await.unwrap().status, 403);
}

#[tokio::test]
async fn an_event_has_two_shapes_and_an_issue_can_be_resolved_noted_and_linked() {
    let sentry = Sentry::start();
    let id = sentry.error("api", "ValueError", "no unit", &[("src/main.py", "run", 9), ("src/a.py", "parse", 41)]);
    let issue = format!("organizations/acme/issues/{id}/");
    let told = call(&sentry, "GET", &format!("{issue}events/latest/"), Value::Null).await.body;
    let frames = &told["entries"][0]["data"]["values"][0]["stacktrace"]["frames"];
    assert_eq!((&frames[1]["lineNo"], &frames[1]["inApp"]), (&json!(41), &json!(true)));
    assert_eq!(told["tags"][0], json!({"key": "environment", "value": "production"}));
    let raw = call(
        &sentry,
        "GET",
        &format!("projects/acme/api/events/{}/json/", told["eventID"].as_str().unwrap()),
        Value::Null,
    )
    .await
    .body;
    assert_eq!(raw["exception"]["values"][0]["stacktrace"]["frames"][1]["lineno"], 41);
    assert_eq!(raw["tags"][0], json!(["environment", "production"]));
    let note = call(&sentry, "POST", &format!("{issue}comments/"), json!({"text": "a draft is open"})).await;
    assert_eq!((note.status, sentry.notes(&id)), (201, vec!["a draft is open".to_owned()]));
    assert_eq!(call(&sentry, "PUT", &issue, json!({"status": "bored"})).await.status, 400);
    assert_eq!(call(&sentry, "PUT", &issue, json!({"status": "resolved"})).await.body["status"], "resolved");
    let listed = call(&sentry, "GET", "organizations/acme/issues/?query=is:unresolved", Value::Null).await;
    assert_eq!(listed.body, json!([]));
    sentry.regress(&id);
    let numeric: u64 = sentry.issue(&id)["id"].as_str().unwrap().parse().unwrap();
    let link =
        json!({"issueId": numeric, "webUrl": "https://example.com/pull/1", "project": "acme/api", "identifier": "1"});
    let linked =
        call(&sentry, "POST", &format!("sentry-app-installations/{INSTALLATION}/external-issues/"), link).await;
    assert_eq!((linked.status, &linked.body["displayName"]), (200, &json!("acme/api#1")));
    let changes: Vec<String> = sentry
        .lines()
        .iter()
        .filter(|l| l["kind"] == "effect")
        .map(|l| l["effect"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(changes, ["note.create", "issue.update", "external_issue.create"]);
}
