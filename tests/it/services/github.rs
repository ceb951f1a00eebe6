//! The stand-in of GitHub.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Said, ask};
use crate::fakes::github::{GitHub, LOGIN, TOKEN};
use crate::fakes::service::{Fault, read_log};

const REPO: &str = "acme/api";

async fn call(hub: &GitHub, method: &str, path: &str, body: Value) -> Said {
    let body = (!body.is_null()).then_some(body);
    ask(method, &format!("{}{path}", hub.url()), Some(TOKEN), body.as_ref()).await.unwrap()
}

fn hub() -> GitHub {
    let hub = GitHub::start();
    hub.repository(REPO, "private");
    hub.push(REPO, "main", &[("src/a.txt", Some("one\n")), ("README.md", Some("hello\n"))], "first");
    hub
}

/// A branch with one commit on top of main, made as our publisher makes it. Its commit.
async fn branch(hub: &GitHub, name: &str) -> String {
    let main = hub.branches(REPO)["main"].clone();
    let blob =
        call(hub, "POST", "/repos/acme/api/git/blobs", json!({"content": "dHdvCg==", "encoding": "base64"})).await;
    let tree = json!({"base_tree": main, "tree": [{"path": "src/a.txt", "mode": "100644", "type": "blob", "sha": blob.body["sha"]}]});
    let tree = call(hub, "POST", "/repos/acme/api/git/trees", tree).await;
    assert_eq!(tree.status, 201, "{}", tree.body);
    let commit = json!({"message": "fix", "tree": tree.body["sha"], "parents": [main]});
    let commit = call(hub, "POST", "/repos/acme/api/git/commits", commit).await;
    let reference = json!({"ref": format!("refs/heads/{name}"), "sha": commit.body["sha"]});
    let made = call(hub, "POST", "/repos/acme/api/git/refs", reference).await;
    assert_eq!(made.status, 201, "{}", made.body);
    assert_eq!(hub.tree(REPO, name).unwrap(), tree.body["sha"]);
    commit.body["sha"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn who_has_no_token_or_another_one_is_told_nothing() {
    let hub = hub();
    let user = format!("{}/user", hub.url());
    assert_eq!(ask("GET", &user, None, None).await.unwrap().status, 401);
    let refused = ask("GET", &user, Some("ghp_another"), None).await.unwrap();
    assert_eq!((refused.status, &refused.body["message"]), (401, &json!("Bad credentials")));
    let taken = call(&hub, "GET", "/user", Value::Null).await;
    assert_eq!((taken.status, &taken.body["login"]), (200, &json!(LOGIN)));
    assert_eq!(taken.header("x-ratelimit-remaining"), "4999");
    assert_eq!(call(&hub, "GET", "/repos/acme/other", Value::Null).await.status, 404);
    assert_eq!(call(&hub, "GET", "/repos/acme/api", Value::Null).await.body["visibility"], "private");
    hub.hide(REPO);
    assert_eq!(call(&hub, "GET", "/repos/acme/api", Value::Null).await.status, 404);
    hub.remaining(0, Duration::from_secs(60));
    let limited = call(&hub, "GET", "/user", Value::Null).await;
    assert_eq!((limited.status, limited.header("x-ratelimit-remaining")), (403, "0"));
}

#[tokio::test]
async fn objects_are_gits_own_and_references_move_forward_only() {
    let hub = hub();
    let commit = branch(&hub, "nightcrew/fix").await;
    assert_eq!(hub.file(REPO, "nightcrew/fix", "src/a.txt").unwrap(), "two");
    assert_eq!(hub.file(REPO, "nightcrew/fix", "README.md").unwrap(), "hello");
    let refs = "/repos/acme/api/git/refs";
    let again = call(&hub, "POST", refs, json!({"ref": "refs/heads/nightcrew/fix", "sha": commit})).await;
    assert_eq!((again.status, &again.body["message"]), (422, &json!("Reference already exists")));
    let missing = call(&hub, "POST", refs, json!({"ref": "refs/heads/x", "sha": "0".repeat(40)})).await;
    assert_eq!((missing.status, &missing.body["message"]), (422, &json!("Object does not exist")));
    let main = hub.branches(REPO)["main"].clone();
    let path = "/repos/acme/api/git/refs/heads/nightcrew/fix";
    let back = call(&hub, "PATCH", path, json!({"sha": main})).await;
    assert_eq!((back.status, &back.body["message"]), (422, &json!("Update is not a fast forward")));
    assert_eq!(call(&hub, "PATCH", path, json!({"sha": main, "force": true})).await.status, 200);
    let looked = call(&hub, "GET", "/repos/acme/api/git/ref/heads/nightcrew/fix", Value::Null).await;
    assert_eq!(looked.body["object"]["sha"], json!(main));
    assert_eq!(call(&hub, "GET", "/repos/acme/api/git/ref/heads/none", Value::Null).await.status, 404);
    for (entry, status) in [
        (json!({"path": "../x", "mode": "100644", "type": "blob", "content": ""}), 422),
        (json!({"path": ".git/x", "mode": "100644", "type": "blob", "content": ""}), 422),
        (json!({"path": "x", "mode": "0644", "type": "blob", "content": ""}), 422),
        (json!({"path": "x", "mode": "100644", "type": "blob", "sha": "0".repeat(40)}), 422),
        (json!({"path": "none", "mode": "100644", "type": "blob", "sha": null}), 422),
        (json!({"path": "src/a.txt", "mode": "100644", "type": "blob", "sha": null}), 201),
        (json!({"path": "x", "mode": "100755", "type": "blob", "content": "y"}), 201),
    ] {
        let made = call(&hub, "POST", "/repos/acme/api/git/trees", json!({"base_tree": main, "tree": [entry]})).await;
        assert_eq!(made.status, status, "{entry}: {}", made.body);
    }
    let file = call(&hub, "GET", "/repos/acme/api/contents/README.md?ref=main", Value::Null).await;
    assert_eq!((&file.body["type"], &file.body["content"]), (&json!("file"), &json!("aGVsbG8K")));
    assert_eq!(call(&hub, "GET", "/repos/acme/api/contents/.github/CODEOWNERS", Value::Null).await.status, 404);
}

#[tokio::test]
async fn a_pull_request_is_one_per_branch_and_stays_a_draft() {
    let hub = hub();
    branch(&hub, "nightcrew/fix").await;
    let pulls = "/repos/acme/api/pulls";
    let wanted = json!({"title": "Fix", "head": "nightcrew/fix", "base": "main", "body": "b", "draft": true});
    let with = |key: &str, value: Value| {
        let mut wanted = wanted.clone();
        wanted[key] = value;
        wanted
    };
    for wrong in [
        with("head", json!("none")),
        with("base", json!("none")),
        with("head", json!("main")),
        with("title", json!("")),
        with("draft", json!("yes")),
    ] {
        assert_eq!(call(&hub, "POST", pulls, wrong.clone()).await.status, 422, "{wrong}");
    }
    let made = call(&hub, "POST", pulls, wanted.clone()).await;
    assert_eq!(
        (made.status, &made.body["draft"], &made.body["number"]),
        (201, &json!(true), &json!(1)),
        "{}",
        made.body
    );
    let again = call(&hub, "POST", pulls, wanted).await;
    assert_eq!(again.status, 422);
    assert_eq!(again.body["errors"][0]["message"], "A pull request already exists for acme:nightcrew/fix.");
    let changed = call(&hub, "PATCH", "/repos/acme/api/pulls/1", json!({"title": "Better", "draft": false})).await;
    assert_eq!((&changed.body["title"], &changed.body["draft"]), (&json!("Better"), &json!(true)));
    let listed = |query: &str| format!("{pulls}?{query}");
    let count = async |query: &str| call(&hub, "GET", &listed(query), Value::Null).await.body.as_array().unwrap().len();
    assert_eq!(count("state=all&head=acme:nightcrew/fix").await, 1);
    assert_eq!(count("state=all&head=acme:other").await, 0);
    assert_eq!(count("state=all&head=other").await, 1, "a head without its owner filters nothing");
    let reviewers = "/repos/acme/api/pulls/1/requested_reviewers";
    assert_eq!(call(&hub, "POST", reviewers, json!({"reviewers": [LOGIN]})).await.status, 422);
    assert_eq!(call(&hub, "POST", reviewers, json!({"reviewers": ["stranger"]})).await.status, 422);
    assert_eq!(call(&hub, "POST", reviewers, json!({"reviewers": ["ada"]})).await.status, 201);
    hub.close(REPO, 1, "ada");
    assert_eq!(count("head=acme:nightcrew/fix").await, 0);
    let closed = call(&hub, "GET", "/repos/acme/api/issues/1", Value::Null).await;
    assert_eq!(closed.body["closed_by"]["login"], "ada");
    hub.reopen(REPO, 1, "ada");
    hub.merge(REPO, 1, "grace");
    assert_eq!(hub.file(REPO, "main", "src/a.txt").unwrap(), "two");
    let merged = call(&hub, "GET", "/repos/acme/api/pulls/1", Value::Null).await;
    assert_eq!((&merged.body["merged"], &merged.body["state"]), (&json!(true), &json!("closed")));
    assert_eq!(hub.effects("pull_request.create").len(), 1);
}

#[tokio::test]
async fn issues_have_reasons_pages_and_comments_and_a_search_lags() {
    let hub = hub();
    for n in 1..=5 {
        let body =
            json!({"title": format!("t{n}"), "body": "b", "labels": ["tech-debt"], "assignees": ["ada", "stranger"]});
        let made = call(&hub, "POST", "/repos/acme/api/issues", body).await;
        assert_eq!((made.status, made.body["assignees"].as_array().unwrap().len()), (201, 1));
    }
    let first = call(&hub, "GET", "/repos/acme/api/issues?labels=tech-debt&per_page=2", Value::Null).await;
    assert_eq!(first.body[0]["number"], 5);
    assert!(first.header("link").contains("page=2>; rel=\"next\""), "{}", first.header("link"));
    assert!(first.header("link").contains("page=3>; rel=\"last\""));
    let last = call(&hub, "GET", "/repos/acme/api/issues?labels=tech-debt&per_page=2&page=3", Value::Null).await;
    assert!(!last.header("link").contains("next"));
    assert_eq!(last.body.as_array().unwrap().len(), 1);
    let closed =
        call(&hub, "PATCH", "/repos/acme/api/issues/1", json!({"state": "closed", "state_reason": "not_planned"}))
            .await;
    assert_eq!(closed.body["state_reason"], "not_planned");
    assert_eq!(
        call(&hub, "PATCH", "/repos/acme/api/issues/1", json!({"state": "closed", "state_reason": "bored"}))
            .await
            .status,
        422
    );
    assert_eq!(call(&hub, "POST", "/repos/acme/api/issues", json!({"body": "no title"})).await.status, 422);
    assert_eq!(call(&hub, "POST", "/repos/acme/api/issues/2/comments", json!({"body": "c"})).await.status, 201);
    assert_eq!(call(&hub, "POST", "/repos/acme/api/issues/99/comments", json!({"body": "c"})).await.status, 404);
    assert_eq!(hub.comments(REPO, 2)[0]["user"]["login"], LOGIN);
    let found = call(&hub, "GET", "/search/issues?q=repo:acme/api+t1", Value::Null).await;
    assert_eq!(found.body["total_count"], 0);
}

#[tokio::test]
async fn clones_need_the_token_and_nothing_can_be_pushed() {
    let hub = hub();
    let folder = tempfile::tempdir().unwrap();
    let git = |args: &[&str], header: Option<&str>| {
        let mut command = Command::new("git");
        command.current_dir(folder.path()).env("GIT_TERMINAL_PROMPT", "0").env("GIT_CONFIG_GLOBAL", "/dev/null");
        command.env("GIT_ASKPASS", "true").env("no_proxy", "*");
        if let Some(token) = header {
            use base64::Engine as _;
            let basic = base64::engine::general_purpose::STANDARD.encode(format!("x-access-token:{token}"));
            command.args(["-c", &format!("http.extraHeader=Authorization: Basic {basic}")]);
        }
        command.args(args).output().unwrap()
    };
    let url = format!("{}/acme/api.git", hub.url());
    assert!(!git(&["clone", &url, "none"], None).status.success());
    assert!(!git(&["clone", &url, "other"], Some("ghp_other")).status.success());
    let cloned = git(&["clone", "--filter=blob:none", &url, "mine"], Some(TOKEN));
    assert!(cloned.status.success(), "{}", String::from_utf8_lossy(&cloned.stderr));
    assert_eq!(std::fs::read_to_string(folder.path().join("mine/src/a.txt")).unwrap(), "one\n");
    assert!(!git(&["-C", "mine", "push", "origin", "HEAD:refs/heads/x"], Some(TOKEN)).status.success());
    hub.repository("acme/open", "public");
    hub.push("acme/open", "main", &[("a", Some("b"))], "first");
    let open = format!("{}/acme/open.git", hub.url());
    assert!(git(&["clone", &open, "open"], None).status.success());
}

#[tokio::test]
async fn what_goes_wrong_goes_wrong_before_or_after_and_stands_in_the_log() {
    let hub = hub();
    let issues = format!("{}/repos/acme/api/issues", hub.url());
    let send = async || ask("POST", &issues, Some(TOKEN), Some(&json!({"title": "t"}))).await;
    hub.fault("POST", "/repos/*/*/issues", Fault::status(502));
    hub.fault("POST", "/repos/*/*/issues", Fault::Cut);
    hub.fault("POST", "/repos/*/*/issues", Fault::Lost);
    hub.fault("POST", "/repos/**", Fault::Failed(502));
    hub.fault("POST", "/repos/**", Fault::Torn(10));
    hub.fault("POST", "/repos/**", Fault::status(403).header("retry-after", "7"));
    assert_eq!(send().await.unwrap().status, 502);
    assert!(send().await.is_err());
    assert_eq!(hub.issues(REPO).len(), 0);
    assert!(send().await.is_err());
    assert_eq!(send().await.unwrap().status, 502);
    assert!(send().await.is_err());
    assert_eq!(hub.issues(REPO).len(), 3);
    let limited = send().await.unwrap();
    assert_eq!((limited.status, limited.header("retry-after")), (403, "7"));
    assert_eq!(hub.faults_left(), 0);
    hub.lose_effect(1);
    assert!(send().await.is_ok());
    assert!(send().await.is_err());
    let lines = read_log(&hub.log_path());
    assert_eq!(lines, hub.lines());
    let ended: Vec<&str> =
        lines.iter().filter(|line| line["kind"] == "request").map(|line| line["ended"].as_str().unwrap()).collect();
    assert_eq!(ended, ["refused", "cut", "lost", "failed", "torn", "refused", "answered", "lost"]);
    assert_eq!(hub.effects("issue.create").len(), 5);
    assert!(!std::fs::read_to_string(hub.log_path()).unwrap().lines().skip(1).any(|line| line.contains(TOKEN)));
}
