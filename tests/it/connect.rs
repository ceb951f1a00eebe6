//! `connect` and `doctor --online`: what to make at a service, and what of it works, each with its fix.

use serde_json::{Value, json};

use crate::fakes::github::{self, GitHub};
use crate::fakes::slack::{self, Members, Slack};
use crate::project::{ASK, Project};

/// Works on private code, and tells two channels of it.
const CODE: &str = "\
version: 1
name: NAME
summary: Drafts and tickets.
owner: {channel: CHANNEL}
repository: {github: REPOSITORY, ref: main}
steps:
  - id: ask
    approve: {ask: \"Go on?\", expires: 1h, on_expiry: skip}
  - id: ticket
    ticket: {from: [ask], tracker: github}
  - id: news
    report: {from: [ask], to: slack}
";

fn project(hub: &GitHub, desk: &Slack) -> Project {
    let project = Project::new(&[], None);
    for (name, channel, repository) in
        [("one", "ops", "acme/api"), ("two", "away", "acme/gone"), ("three", "nowhere", "acme/api")]
    {
        let text = CODE.replace("NAME", name).replace("CHANNEL", channel).replace("REPOSITORY", repository);
        project.write(&format!("pipelines/{name}.yaml"), &text);
    }
    for (file, value) in [
        ("github", github::TOKEN),
        ("slack", slack::TOKEN),
        ("app", slack::APP_TOKEN),
        ("database", "postgres://u:hunter2@127.0.0.1:1/d"),
    ] {
        project.write(&format!("config/{file}.secret"), value);
    }
    project.write(
        "config/nightcrew.yaml",
        &format!(
            "version: 1\nprices: prices.yaml\n\
             secrets: {{GITHUB: {{file: github.secret}}, SLACK: {{file: slack.secret}}, APP: {{file: app.secret}}, DB: {{file: database.secret}}}}\n\
             services:\n\
             \x20 github: {{api_url: \"{}\", token: secret:GITHUB}}\n\
             \x20 slack: {{api_url: \"{}\", bot_token: secret:SLACK, app_token: secret:APP}}\n\
             sources: {{warehouse: {{postgres: secret:DB}}, metrics: {{prometheus: \"http://127.0.0.1:1\"}}}}\n",
            hub.url(),
            desk.api()
        ),
    );
    project
}

/// The lines about something, as (level, what, fix).
fn about(answer: &Value, about: &str) -> Vec<(String, String, String)> {
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let findings = answer["findings"].as_array().unwrap().iter().filter(|finding| finding["about"] == about);
    findings.map(|finding| (text(finding, "level"), text(finding, "what"), text(finding, "fix"))).collect()
}

fn has(found: &[(String, String, String)], level: &str, what: &str, fix: &str) {
    let fits = |line: &&(String, String, String)| line.0 == level && line.1.contains(what) && line.2.contains(fix);
    assert!(found.iter().any(|line| fits(&line)), "no {level} `{what}` → `{fix}` in {found:#?}");
}

#[test]
fn each_service_is_asked_and_each_fault_has_its_fix() {
    let (hub, desk) = (GitHub::start(), Slack::start());
    hub.repository("acme/api", "private");
    hub.push("acme/api", "main", &[("a.txt", Some("a"))], "first");
    desk.channel("ops", Members::WithBot);
    desk.channel("away", Members::WithoutBot);
    desk.socket("ws://127.0.0.1:1/link");
    desk.without_scope("files:write");
    let project = project(&hub, &desk);

    // Nothing is contacted without being asked to.
    project.run(&["doctor"]);
    assert_eq!((hub.requests("*", "**").len(), desk.requests("*", "**").len()), (0, 0));

    let answer = project.run(&["--json", "doctor", "--online"]).ends(1).json();
    let found = about(&answer, "github");
    has(&found, "good", "acts as crew-bot", "");
    has(&found, "warning", "a classic token", "nightcrew connect github");
    has(&found, "good", "acme/api (private, main)", "");
    has(&found, "good", "acme/api: issues can be read", "");
    has(&found, "bad", "acme/gone is not there", "correct `repository.github`");
    let found = about(&answer, "slack");
    has(&found, "good", "acts as crew", "");
    has(&found, "good", "chat:write", "");
    has(&found, "bad", "files:write is missing", "OAuth & Permissions");
    has(&found, "good", "Socket Mode can be opened", "");
    has(&found, "good", "#ops", "");
    has(&found, "warning", "one: acme/api is private and #ops is open", "may_reach: [public_channels]");
    has(&found, "bad", "the bot is not in #away", "in #away: /invite it");
    has(&found, "bad", "there is no #nowhere", "/invite the bot if it is private");
    let found = about(&answer, "sources");
    has(&found, "bad", "warehouse: ", "the secret DB");
    has(&found, "bad", "`metrics`", "`sources.metrics`");
    let written = ["POST", "PATCH", "PUT", "DELETE"].iter().flat_map(|method| hub.requests(method, "**"));
    assert_eq!((written.count(), desk.all_messages().len()), (0, 0), "nothing is written");

    hub.revoke(github::TOKEN);
    let answer = project.run(&["--json", "doctor", "--online"]).ends(1).json();
    has(&about(&answer, "github"), "bad", "refuses the secret `GITHUB`", "replace the secret GITHUB");
    let told = project.run(&["doctor", "--online"]).ends(1);
    assert!(
        told.out.contains("✗ github") && !told.out.contains("hunter2") && !told.out.contains("ghp_"),
        "{}",
        told.out
    );
}

#[test]
fn what_to_make_at_a_service_is_printed_without_anything_being_configured() {
    let project = Project::new(&[("ask", ASK)], None);
    for (service, words) in [
        ("slack", ["From a manifest", "\"socket_mode_enabled\": true", "/invite @nightcrew"]),
        ("github", ["fine-grained token", "pull_requests: write", "secret:GITHUB"]),
        ("sentry", ["Internal Integration", "event:read", "secret:SENTRY"]),
    ] {
        let told = project.run(&["connect", service]).ends(0);
        for word in words {
            assert!(told.out.contains(word), "{word}: {}", told.out);
        }
        assert!(told.err.contains("not configured yet"), "{}", told.err);
        let answer = project.run(&["--json", "connect", service]).ends(0).json();
        assert_eq!((&answer["service"], &answer["configured"]), (&json!(service), &json!(false)));
        assert!(answer["manifest"].is_object() && answer["configuration"].as_str().unwrap().contains("services:"));
    }
    let slack = project.run(&["--json", "connect", "slack"]).json();
    assert_eq!(
        slack["manifest"]["oauth_config"]["scopes"]["bot"],
        json!([
            "chat:write",
            "channels:read",
            "groups:read",
            "channels:history",
            "groups:history",
            "files:write",
            "commands"
        ])
    );
    let github = project.run(&["--json", "connect", "github"]).json();
    assert_eq!(
        github["permissions"],
        json!({"contents": "write", "pull_requests": "write", "issues": "write", "checks": "read", "actions": "read", "metadata": "read"})
    );
    // What it says to write is right as it stands.
    for service in ["slack", "github", "sentry"] {
        let answer = project.run(&["--json", "connect", service]).json();
        let text = format!("version: 1\n{}", answer["configuration"].as_str().unwrap());
        project.write("config/written.yaml", &text);
        project.run(&["--config", "config/written.yaml", "validate"]).ends(0);
    }
}
