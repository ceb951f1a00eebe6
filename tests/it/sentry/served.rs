//! The real daemon between the stand-in and its runs: polled, told by webhooks over HTTP, killed in between.

use std::io::{Read as _, Write as _};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::crew::delivery;
use crate::fakes::sentry::{Sentry, TOKEN};
use crate::project::{Process, Project};

const PIPELINE: &str = "\
version: 1
name: watch
summary: Errors, told.
on: {sentry: {project: api, when: [new, regressed], every: 1s}}
steps:
  - id: errors
    fetch: {from: sentry, query: \"is:unresolved\"}
  - id: post
    report: {from: [errors], to: files}
";

fn serve(project: &Project) -> (Process, String) {
    let daemon = project.start(&["serve", "--profile", "local", "--listen", "127.0.0.1:0"]);
    let address = project.until("the listener for webhooks", || {
        let log = daemon.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut lines = lines.filter(|line| line["message"] == "taking webhooks");
        lines.next().map(|line| line["address"].as_str().unwrap().to_owned())
    });
    (daemon, address)
}

/// The status of the answer.
fn post(address: &str, request: &nightcrew::triggers::hook::HookRequest) -> u16 {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let mut head = format!(
        "POST /hooks/sentry HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n",
        request.body.len()
    );
    for (name, value) in &request.headers {
        head.push_str(&format!("{name}: {}\r\n", String::from_utf8_lossy(value)));
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    stream.write_all(&request.body).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn errors_become_one_run_each_by_polls_and_webhooks_through_a_kill() {
    let sentry = Sentry::start();
    let project = Project::new(&[("watch", PIPELINE)], None);
    let config = std::fs::read_to_string(project.path("config/nightcrew.yaml")).unwrap();
    let url = sentry.url();
    project.write(
        "config/nightcrew.yaml",
        &format!(
            "{config}secrets: {{SENTRY: {{file: sentry.token}}, HOOK: {{file: [hook.new, hook.old]}}}}\n\
             services: {{sentry: {{base_url: \"{url}\", organization: acme, token: secret:SENTRY, webhook_secret: secret:HOOK}}}}\n\
             hooks: {{listen: \"127.0.0.1:0\"}}\n"
        ),
    );
    project.write("config/sentry.token", TOKEN);
    project.write("config/hook.new", "the new secret of the hook\n");
    project.write("config/hook.old", "the old secret of the hook\n");
    let first = sentry.error("api", "ValueError", "before it began", &[("src/a.py", "f", 1)]);
    let (daemon, _) = serve(&project);
    let ended = |n: usize| {
        let runs = project.runs();
        (runs.len() >= n && runs.iter().all(|run| run["outcome"] == "reported")).then_some(runs)
    };
    project.until("the run of what was polled", || ended(1));
    daemon.kill();
    let second = sentry.error("api", "KeyError", "while it was down", &[("src/b.py", "g", 2)]);
    let (daemon, address) = serve(&project);
    project.until("the run of the gap", || ended(2));

    let third = sentry.error("api", "TypeError", "told by a webhook", &[("src/c.py", "h", 3)]);
    let mut issue = sentry.issue(&third);
    issue["project_url"] = "https://sentry.io/api/0/projects/acme/api/".into();
    let body = json!({"action": "created", "data": {"issue": issue}});
    let now = Timestamp::now();
    let told = delivery("the old secret of the hook", "issue", "r-1", &body, now);
    assert!([200, 202].contains(&post(&address, &told)));
    assert_eq!(post(&address, &told), 200, "it has come before");
    assert_eq!(post(&address, &delivery("the secret of nobody", "issue", "r-2", &body, now)), 401);
    let early = Timestamp::from_second(now.as_second() - 3_600).unwrap();
    assert_eq!(post(&address, &delivery("the new secret of the hook", "issue", "r-3", &body, early)), 401);
    let runs = project.until("the run of the webhook", || ended(3));
    // Some more polls change nothing.
    let list = "/api/0/organizations/acme/issues";
    let polls = sentry.requests("GET", list).len();
    project.until("more polls", || (sentry.requests("GET", list).len() >= polls + 2).then_some(()));
    assert_eq!(project.runs().len(), 3);
    let ids = runs.iter().map(|run| project.run(&["--json", "runs", run["id"].as_str().unwrap()]).ends(0).out);
    let all: String = ids.collect();
    let reports = std::fs::read_dir(project.path("state/out")).map(|_| ()).is_ok();
    assert!(reports && [&first, &second, &third].iter().all(|id| !id.is_empty()), "{all}");
    assert!(!daemon.log().contains(TOKEN) && !daemon.log().contains("secret of the hook"));
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
}
