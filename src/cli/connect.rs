//! `nightcrew connect`: what to make and to click at a service, what to write here, and then what works of it.
//!
//! What it prints is exactly what the code uses, and nothing more. It contacts the service only where that is configured.

use serde_json::{Value, json};

use super::Exit;
use super::args::{ConnectArgs, ConnectTo};
use super::doctor::{Findings, Level, online};
use super::session::Session;
use super::ui::{BOLD, paint};
use crate::config::settings::Settings;
use crate::http::hooks::DEFAULT_LISTEN;

/// What the bot needs in Slack, and what for.
pub(super) const SLACK_SCOPES: &[(&str, &str)] = &[
    ("chat:write", "post and edit its own messages"),
    ("channels:read", "find public channels by their names"),
    ("groups:read", "find the private channels it is in"),
    ("channels:history", "find its own messages again, so that none is posted twice"),
    ("groups:history", "the same in private channels"),
    ("files:write", "charts and evidence as files"),
    ("commands", "/nightcrew"),
];

/// What a token or an App needs at GitHub.
pub(super) const GITHUB_PERMISSIONS: &[(&str, &str, &str)] = &[
    ("contents", "write", "clone, and commit to branches of its own"),
    ("pull_requests", "write", "draft pull requests"),
    ("issues", "write", "tickets"),
    ("checks", "read", "whether CI has started on a draft"),
    ("actions", "read", "the same, for workflows"),
    ("metadata", "read", "the repository's visibility and default branch"),
];

/// What Sentry's internal integration needs.
pub(super) const SENTRY_SCOPES: &[(&str, &str)] = &[
    ("event:read", "issues and their events"),
    ("event:write", "only for notes: comment, assign and resolve issues; leave it out otherwise"),
];

pub async fn run(session: &Session, args: ConnectArgs) -> anyhow::Result<Exit> {
    let settings = session.settings()?;
    let guide = match args.service {
        ConnectTo::Slack => slack(&settings),
        ConnectTo::Github => github(&settings),
        ConnectTo::Sentry => sentry(&settings),
    };
    let mut found = Findings::default();
    let library = session.library_if_whole();
    match args.service {
        ConnectTo::Slack => online::slack(session, &settings, library.as_ref(), &mut found).await,
        ConnectTo::Github => online::github(session, &settings, library.as_ref(), &mut found).await,
        ConnectTo::Sentry => online::sentry(session, &settings, library.as_ref(), &mut found).await,
    }
    let bad = found.0.iter().any(|finding| finding.level == Level::Bad);
    if session.ui.json {
        let configured = !found.0.is_empty();
        session.ui.data_json(&json!({
            "service": guide.service, "configured": configured, "ok": configured && !bad,
            "manifest": guide.manifest, "permissions": guide.permissions, "configuration": guide.configuration,
            "webhook": guide.webhook, "findings": found.0,
        }))?;
    } else {
        session.ui.data(guide.text(session.ui.color_out()))?;
        if found.0.is_empty() {
            session.ui.say(format!("{} is not configured yet: nothing was contacted", guide.name));
        } else {
            session.ui.data(paint(session.ui.color_out(), BOLD, "What works now"))?;
            found.print(&session.ui)?;
        }
    }
    Ok(if bad { Exit::No } else { Exit::Done })
}

/// What a person does.
struct Guide {
    service: &'static str,
    name: &'static str,
    /// For machines; YAML takes JSON as it is.
    manifest: Value,
    permissions: Value,
    configuration: String,
    webhook: Option<String>,
    steps: Vec<String>,
    /// Printed as they are, each under its title.
    blocks: Vec<(String, String)>,
}

impl Guide {
    fn text(&self, color: bool) -> String {
        let mut parts = vec![format!("{}\n", paint(color, BOLD, &format!("Connect {}", self.name)))];
        parts.push(self.steps.iter().enumerate().map(|(n, step)| format!("{}. {step}\n", n + 1)).collect());
        for (title, block) in &self.blocks {
            parts.push(format!("{}\n\n{block}", paint(color, BOLD, title)));
        }
        parts.join("\n")
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

fn table<'a>(rows: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> String {
    let width = rows.clone().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    rows.map(|(name, why)| format!("    {name:width$}  {why}\n")).collect()
}

/// Where a service reaches our webhooks.
fn hook(settings: &Settings, path: &str) -> (String, bool) {
    match &settings.http.public_url {
        Some(url) => (format!("{}{path}", url.trim_end_matches('/')), true),
        None => (format!("https://YOUR-HOST{path}"), false),
    }
}

fn listens(settings: &Settings) -> &str {
    settings.hooks_listen.as_deref().unwrap_or(DEFAULT_LISTEN)
}

fn slack(_: &Settings) -> Guide {
    let scopes: Vec<&str> = SLACK_SCOPES.iter().map(|(scope, _)| *scope).collect();
    let manifest = json!({
        "display_information": {
            "name": "nightcrew",
            "description": "Reports, draft pull requests and questions of the night shift",
            "background_color": "#1f2937"
        },
        "features": {
            "app_home": {"home_tab_enabled": false, "messages_tab_enabled": false},
            "bot_user": {"display_name": "nightcrew", "always_online": true},
            "slash_commands": [{
                "command": "/nightcrew",
                "description": "Run, stop and look after pipelines",
                "usage_hint": "run PIPELINE | status | mute ID | stop RUN",
                "should_escape": false
            }]
        },
        "oauth_config": {"scopes": {"bot": scopes}},
        "settings": {
            "interactivity": {"is_enabled": true},
            "org_deploy_enabled": false,
            "socket_mode_enabled": true,
            "token_rotation_enabled": false
        }
    });
    let configuration = "\
secrets:
  SLACK:     {file: slack.token}        # the bot token, xoxb-…
  SLACK_APP: {file: slack.app}          # the app token, xapp-…
services:
  slack: {bot_token: secret:SLACK, app_token: secret:SLACK_APP, users: [U024BE7LH]}
"
    .to_owned();
    let shown = serde_json::to_string_pretty(&manifest).unwrap_or_default();
    Guide {
        service: "slack",
        name: "Slack",
        steps: vec![
            "https://api.slack.com/apps → Create New App → From a manifest: paste the manifest below".into(),
            "Install it to the workspace; OAuth & Permissions shows the bot token (xoxb-…)".into(),
            "Basic Information → App-Level Tokens: one with connections:write is the app token (xapp-…); with it buttons and \
             /nightcrew work without any public address (Socket Mode)"
                .into(),
            "Write both into files with mode 0600, and the configuration as below; `users` are the members who may act (their \
             profile → Copy member ID)"
                .into(),
            "In each channel that reports go to: /invite @nightcrew".into(),
        ],
        blocks: vec![
            ("The manifest".into(), indented(&shown)),
            ("What each scope is for".into(), table(SLACK_SCOPES.iter().copied())),
            ("In config/nightcrew.yaml".into(), indented(&configuration)),
        ],
        permissions: json!({"bot": scopes, "app": ["connections:write"]}),
        manifest,
        configuration,
        webhook: None,
    }
}

fn github(settings: &Settings) -> Guide {
    let (webhook, known) = hook(settings, "/hooks/github");
    let permissions: Value =
        GITHUB_PERMISSIONS.iter().map(|(name, level, _)| ((*name).to_owned(), Value::from(*level))).collect();
    let manifest = json!({
        "name": "nightcrew",
        "url": "https://github.com",
        "public": false,
        "hook_attributes": {"url": webhook, "active": known},
        "default_permissions": permissions,
        "default_events": ["issues", "pull_request"],
    });
    let configuration = "\
secrets:
  GITHUB: {file: github.token}          # mode 0600
services:
  github: {token: secret:GITHUB}
  # or as an App, with its private key in the file:
  # github: {app: {id: 12345, installation: 67890, key: secret:GITHUB}}
"
    .to_owned();
    let names: Vec<String> = GITHUB_PERMISSIONS.iter().map(|(name, level, _)| format!("{name}: {level}")).collect();
    let rows = names.iter().map(String::as_str).zip(GITHUB_PERMISSIONS.iter().map(|(_, _, why)| *why));
    let mut steps = vec![
        "For one person or a try: https://github.com/settings/personal-access-tokens/new, a fine-grained token for only those \
         repositories, with the permissions below and nothing else"
            .to_owned(),
        "For a team: Settings → Developer settings → GitHub Apps → New, with the same permissions; generate a private key, \
         install it on the repositories; the number at the end of the installation's address is `installation`"
            .to_owned(),
        "Write the token, or the private key, into a file with mode 0600, and the configuration as below".to_owned(),
    ];
    steps.push(format!(
        "If pull requests and tickets should be followed at once and not only looked at: a webhook to {webhook} with the events \
         issues and pull_request, and `webhook_secret` (nightcrew listens on {})",
        listens(settings)
    ));
    Guide {
        service: "github",
        name: "GitHub",
        steps,
        blocks: vec![
            ("Permissions of the repository".into(), table(rows)),
            ("In config/nightcrew.yaml".into(), indented(&configuration)),
        ],
        permissions: manifest["default_permissions"].clone(),
        manifest,
        configuration,
        webhook: Some(webhook),
    }
}

fn sentry(settings: &Settings) -> Guide {
    let (webhook, known) = hook(settings, "/hooks/sentry");
    let scopes: Vec<&str> = SENTRY_SCOPES.iter().map(|(scope, _)| *scope).collect();
    let manifest = json!({
        "name": "nightcrew",
        "isInternal": true,
        "isAlertable": true,
        "verifyInstall": false,
        "scopes": scopes,
        "events": ["issue"],
        "webhookUrl": known.then_some(&webhook),
    });
    let configuration = "\
secrets:
  SENTRY:      {file: sentry.token}     # mode 0600
  SENTRY_HOOK: {file: sentry.hook}      # the integration's client secret, if it has a webhook
services:
  sentry: {organization: acme, token: secret:SENTRY, webhook_secret: secret:SENTRY_HOOK}
"
    .to_owned();
    let base =
        settings.services.sentry.as_ref().and_then(|sentry| sentry.setting("base_url")).unwrap_or("https://sentry.io");
    Guide {
        service: "sentry",
        name: "Sentry",
        steps: vec![
            format!("{base} → Settings → Developer Settings → Create New Integration → Internal Integration"),
            "Permissions: Issue & Event read (read & write only for notes); nothing else".into(),
            format!(
                "Without a public address leave Webhook URL empty: errors are polled every 5 minutes. With one: {webhook}, Webhooks: \
                 issue; Alert Rule Action on (nightcrew listens on {})",
                listens(settings)
            ),
            "Save; copy the token, and the client secret if there is a webhook, into files with mode 0600".into(),
        ],
        blocks: vec![
            ("What each scope is for".into(), table(SENTRY_SCOPES.iter().copied())),
            ("In config/nightcrew.yaml".into(), indented(&configuration)),
        ],
        permissions: json!(scopes),
        manifest,
        configuration,
        webhook: Some(webhook),
    }
}
