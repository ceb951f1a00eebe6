//! `doctor --online`: each configured service is asked whether it takes our credential, what it lets us do, and whether it knows
//! what the pipelines name. Only reads, nothing that costs anything; one line each with the fix.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::Findings;
use crate::base::secret::SecretRef;
use crate::cli::connect::{GITHUB_PERMISSIONS, SLACK_SCOPES};
use crate::cli::session::Session;
use crate::clients::github::{GitHub, GitHubError, Visibility, repository_route, segment};
use crate::clients::http::{Auth, Client, HttpError, Limits};
use crate::clients::json::{JsonError, Service};
use crate::clients::postgres::Database;
use crate::clients::sentry::{Sentry, SentryError};
use crate::clients::slack::{Slack, SlackError};
use crate::config::settings::{ModelSettings, Settings, SourceSettings};
use crate::daemon::load::Library;
use crate::domain::definition::{Pipeline, StepBody};
use crate::engine::workshop::places;
use crate::ports::service::Outside;
use crate::ports::source::{SourceAuth, SourceQuery, SourceSetup};
use crate::sandboxes::e2b;

/// For one probe.
const PATIENCE: Duration = Duration::from_secs(15);
const LIMITS: Limits = Limits { idle: PATIENCE, total: PATIENCE, cap_bytes: 8 << 20 };
/// Of `may_reach`.
const PUBLIC_CHANNELS: &str = "public_channels";

pub async fn look(session: &Session, settings: &Settings, library: Option<&Library>, found: &mut Findings) {
    github(session, settings, library, found).await;
    slack(session, settings, library, found).await;
    sentry(session, settings, library, found).await;
    models(session, settings, found).await;
    sandboxes(session, settings, found).await;
    sources(session, settings, found).await;
}

fn outside(session: &Session, settings: &Settings) -> Outside {
    Outside { services: Arc::new(settings.services.clone()), ..Outside::none(session.env.clone()) }
}

fn pipelines(library: Option<&Library>) -> impl Iterator<Item = &Arc<Pipeline>> {
    library.into_iter().flat_map(|library| library.pipelines.values().map(|(_, pipeline)| pipeline))
}

/// The kinds of steps that a pipeline has.
fn kinds(pipeline: &Pipeline) -> BTreeSet<&str> {
    let steps = pipeline.walk().into_iter();
    steps
        .filter_map(|(_, step)| if let StepBody::Kind { kind, .. } = &step.body { Some(kind.as_str()) } else { None })
        .collect()
}

pub async fn github(session: &Session, settings: &Settings, library: Option<&Library>, found: &mut Findings) {
    const ABOUT: &str = "github";
    let configured = settings.services.github.as_ref();
    if configured.is_none_or(|github| github.secret("token").or(github.secret("app.key")).is_none()) {
        return;
    }
    let told = |error: &GitHubError, found: &mut Findings| {
        let fix = match error {
            GitHubError::Missing { help, .. } => help.clone(),
            GitHubError::Credential { secret, .. } => format!("replace the secret {secret}: nightcrew connect github"),
            _ => "see the message".to_owned(),
        };
        found.bad(ABOUT, error.to_string(), fix);
    };
    let client = match GitHub::of(&outside(session, settings)) {
        Ok(client) => client,
        Err(error) => return told(&error, found),
    };
    match client.login().await {
        Ok(login) => found.good(ABOUT, format!("acts as {login}")),
        Err(error) => return told(&error, found),
    }
    match client.rights().await {
        Err(error) => told(&error, found),
        // A fine-grained token does not tell; the repositories below do.
        Ok(rights) if rights.is_empty() => {}
        Ok(rights) if rights.iter().any(|right| right.contains(": ")) => {
            for (name, level, why) in GITHUB_PERMISSIONS {
                let enough = |right: &String| {
                    right.split_once(": ").is_some_and(|(own, has)| own == *name && (has == *level || has == "write"))
                };
                match rights.iter().any(enough) {
                    true => found.good(ABOUT, format!("{name}: {level}")),
                    false => {
                        let fix = format!("give the App {name}: {level}, and accept it in the installation");
                        found.bad(ABOUT, format!("{name}: {level} is missing ({why})"), fix);
                    }
                }
            }
        }
        Ok(scopes) => {
            let what = format!("a classic token ({}), for every repository of its owner", scopes.join(", "));
            found.warn(ABOUT, what, "a fine-grained token for these repositories alone: nightcrew connect github");
        }
    }
    let mut named: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for pipeline in pipelines(library) {
        if let Some(name) = pipeline.repository.as_ref().and_then(|repository| repository.github.as_deref()) {
            named.entry(name).or_default().extend(kinds(pipeline));
        }
    }
    for (name, kinds) in named {
        repository(&client, name, &kinds, found).await;
    }
}

async fn repository(client: &GitHub, name: &str, kinds: &BTreeSet<&str>, found: &mut Findings) {
    const ABOUT: &str = "github";
    let facts = match client.repository(name).await {
        Ok(facts) => facts,
        Err(GitHubError::NotFound { .. }) => {
            let fix = "correct `repository.github` in the pipeline, or let the token or App have this repository";
            return found.bad(ABOUT, format!("{name} is not there for this credential"), fix);
        }
        Err(error) => return found.bad(ABOUT, format!("{name}: {error}"), "see the message"),
    };
    let route = match repository_route(name) {
        Ok(route) => route,
        Err(error) => {
            return found.bad(ABOUT, format!("{name}: {error}"), "correct `repository.github` in the pipeline");
        }
    };
    let visibility = match facts.visibility {
        Visibility::Public => "public",
        Visibility::Internal => "internal",
        Visibility::Private => "private",
    };
    found.good(ABOUT, format!("{} ({visibility}, {})", facts.name, facts.default_branch));
    // Only people's tokens are told what they may do there.
    let may_push = client.get(&route, &[]).await.ok().and_then(|facts| facts["permissions"]["push"].as_bool());
    if kinds.contains("pull_request") && may_push == Some(false) {
        found.bad(
            ABOUT,
            format!("{name}: no right to push"),
            "give the token contents: write and pull_requests: write",
        );
    }
    let checks = format!("commits/{}/check-runs", segment(&facts.default_branch));
    for (kind, list, right) in [
        ("pull_request", "pulls", "pull_requests: write"),
        ("pull_request", checks.as_str(), "checks: read"),
        ("pull_request", "actions/runs", "actions: read"),
        ("ticket", "issues", "issues: write"),
    ] {
        if !kinds.contains(kind) {
            continue;
        }
        match client.get(&format!("{route}/{list}"), &[("per_page", "1".to_owned())]).await {
            Ok(_) => found.good(ABOUT, format!("{name}: {list} can be read")),
            Err(GitHubError::Forbidden { .. } | GitHubError::NotFound { .. }) => {
                found.bad(
                    ABOUT,
                    format!("{name}: {list} cannot be read"),
                    format!("give the token {right}: nightcrew connect github"),
                );
            }
            Err(error) => found.bad(ABOUT, format!("{name}: {list}: {error}"), "see the message"),
        }
    }
}

pub async fn slack(session: &Session, settings: &Settings, library: Option<&Library>, found: &mut Findings) {
    const ABOUT: &str = "slack";
    let Some(service) = settings.services.slack.as_ref().filter(|slack| slack.secret("bot_token").is_some()) else {
        return;
    };
    let told = |what: &str, error: &SlackError, found: &mut Findings| {
        let fix = match error {
            SlackError::Missing { help, .. } => help.clone(),
            SlackError::Credential { secret, .. } => format!("replace the secret {secret}: nightcrew connect slack"),
            SlackError::Refused { needed: Some(scope), .. } => {
                format!("add the scope {scope} to the app and install it again")
            }
            _ => "see the message".to_owned(),
        };
        found.bad(ABOUT, format!("{what}{error}"), fix);
    };
    let outside = outside(session, settings);
    let client = match Slack::of(&outside) {
        Ok(client) => client,
        Err(error) => return told("", &error, found),
    };
    match client.rights().await {
        Err(error) => return told("", &error, found),
        Ok(rights) => {
            found.good(ABOUT, format!("acts as {} in {}", rights.user, rights.team));
            // A service that does not list them will say so where one is missing.
            for (scope, why) in SLACK_SCOPES.iter().filter(|_| !rights.scopes.is_empty()) {
                match rights.scopes.iter().any(|own| own == scope) {
                    true => found.good(ABOUT, scope.to_string()),
                    false => {
                        let fix = format!("add {scope} under OAuth & Permissions and install the app again");
                        found.bad(ABOUT, format!("{scope} is missing ({why})"), fix);
                    }
                }
            }
        }
    }
    if let Some(secret) = service.secret("app_token") {
        app_token(service.setting("api_url"), secret, found).await;
    }
    // By channel: what private repositories' text would go there.
    let mut named: BTreeMap<String, Vec<(&str, Option<String>)>> = BTreeMap::new();
    for pipeline in pipelines(library) {
        for channel in channels(pipeline, settings) {
            let home =
                pipeline.repository.as_ref().filter(|home| !home.may_reach.iter().any(|to| to == PUBLIC_CHANNELS));
            named.entry(channel).or_default().push((&pipeline.name, home.and_then(|home| home.github.clone())));
        }
    }
    named.extend(settings.notify.digest_channel.iter().map(|channel| (channel.clone(), Vec::new())));
    let github = GitHub::of(&outside).ok();
    for (name, users) in named {
        let shown = name.trim_start_matches('#');
        match client.channel(&name).await {
            Err(SlackError::Refused { word, .. }) if word == "channel_not_found" => {
                let fix = format!("make it, or /invite the bot if it is private; or correct `channel: {shown}`");
                found.bad(ABOUT, format!("there is no #{shown} for the bot"), fix);
            }
            Err(error) => told(&format!("#{shown}: "), &error, found),
            Ok(channel) if !channel.is_member => {
                found.bad(ABOUT, format!("the bot is not in #{shown}"), format!("in #{shown}: /invite it"));
            }
            Ok(channel) => {
                found.good(ABOUT, format!("#{shown}"));
                let Some(github) = github.as_ref().filter(|_| !channel.is_private) else { continue };
                for (pipeline, repository) in users {
                    let Some(repository) = repository else { continue };
                    let facts = github.repository(&repository).await;
                    if facts.is_ok_and(|facts| facts.visibility != Visibility::Public) {
                        let what = format!(
                            "{pipeline}: {repository} is private and #{shown} is open to the workspace: its text is held back"
                        );
                        let fix = "use a private channel, or say so in the pipeline: repository: {may_reach: [public_channels]}";
                        found.warn(ABOUT, what, fix);
                    }
                }
            }
        }
    }
}

/// Socket Mode opens an address with it; nothing is sent there.
async fn app_token(url: Option<&str>, secret: &SecretRef, found: &mut Findings) {
    const ABOUT: &str = "slack";
    let base = url.unwrap_or("https://slack.com/api").trim_end_matches('/');
    let asked = async {
        let client = Client::for_url(base)?;
        let open = format!("{base}/apps.connections.open");
        let mut answer = client.post_json(&open, &[], Auth::Bearer(secret), b"{}".to_vec(), LIMITS).await?;
        let mut body = Vec::new();
        while answer.more(&mut body).await? {}
        serde_json::from_slice::<Value>(&body).map_err(|error| HttpError::NotJson(error.to_string()))
    };
    let why = match asked.await {
        Ok(said) if said["ok"].as_bool() == Some(true) => {
            return found.good(ABOUT, "Socket Mode can be opened: buttons and /nightcrew work");
        }
        Ok(said) => said["error"].as_str().unwrap_or("it does not say why").to_owned(),
        Err(error) => error.to_string(),
    };
    let fix = format!("secret {}: an app-level token with connections:write, and Socket Mode on", secret.name);
    found.bad(ABOUT, format!("Socket Mode cannot be opened: {why}"), fix);
}

/// Where the reports and questions of a pipeline go in Slack, in any profile.
fn channels(pipeline: &Pipeline, settings: &Settings) -> BTreeSet<String> {
    let owner = pipeline.owner.as_ref().map(|owner| owner.channel.clone());
    let mut found = BTreeSet::new();
    for (_, step) in pipeline.walk() {
        let StepBody::Kind { kind, options, .. } = &step.body else { continue };
        let to_slack = |name: &&str| {
            settings.profiles.values().any(|p| p.sinks.get(*name).map_or(*name, String::as_str) == "slack")
        };
        if kind == "report" && options.texts("to").iter().any(to_slack) {
            found.extend(options.text("channel").map(str::to_owned).or_else(|| owner.clone()));
        }
    }
    found
}

pub async fn sentry(session: &Session, settings: &Settings, library: Option<&Library>, found: &mut Findings) {
    const ABOUT: &str = "sentry";
    if settings.services.sentry.as_ref().is_none_or(|sentry| sentry.secret("token").is_none()) {
        return;
    }
    let client = match Sentry::of(&outside(session, settings)) {
        Ok(client) => client,
        Err(SentryError::Missing { message, help }) => return found.bad(ABOUT, message, help),
        Err(error) => return found.bad(ABOUT, error.to_string(), "see the message"),
    };
    let own: BTreeSet<&str> =
        settings.intake.iter().flat_map(|intake| &intake.projects).map(|own| own.name.as_str()).collect();
    let projects: BTreeSet<&str> = pipelines(library)
        .filter_map(|pipeline| pipeline.on.sentry.as_ref().map(|on| on.project.as_str()))
        .filter(|project| !own.contains(project))
        .collect();
    if projects.is_empty() {
        found
            .note(ABOUT, "a token is configured, and no pipeline has `on: {sentry: {project: …}}`: nothing to ask for");
    }
    for project in projects {
        for (scope, answer) in client.rights(project).await {
            match answer {
                Ok(()) => found.good(ABOUT, format!("{project}: {scope}")),
                // Only notes need it.
                Err(SentryError::Forbidden { .. }) if scope == "event:write" => {
                    let what =
                        format!("{project}: no {scope}: errors are read, and not commented, assigned or resolved");
                    found.warn(ABOUT, what, "give the integration Issue & Event: read & write, if that is wanted");
                }
                Err(SentryError::NotFound { .. } | SentryError::Invalid { .. }) => {
                    let fix = "correct `on.sentry.project` in the pipeline, or `services.sentry.organization`";
                    found.bad(ABOUT, format!("{project}: no such project in the organization"), fix);
                }
                Err(SentryError::Credential { secret, message }) => {
                    let fix = format!("replace the secret {secret}: nightcrew connect sentry");
                    return found.bad(ABOUT, format!("the token is refused: {message}"), fix);
                }
                Err(error) => {
                    found.bad(
                        ABOUT,
                        format!("{project}: {scope}: {error}"),
                        "nightcrew connect sentry lists the scopes",
                    );
                }
            }
        }
    }
}

/// Each key once, by the list of models, which costs nothing.
async fn models(session: &Session, settings: &Settings, found: &mut Findings) {
    const ABOUT: &str = "models";
    let mut asked = BTreeSet::new();
    for (role, model) in &settings.models {
        let key = model.api_key.as_ref().map(|key| key.name.clone());
        let place = (model.provider.clone(), model.base_url.clone(), key);
        if !asked.insert(place) {
            continue;
        }
        // A key that cannot be read was told already.
        if model.api_key.as_ref().is_some_and(|key| key.read().is_err()) {
            continue;
        }
        let name = format!("{role} at {}", model.base_url.as_deref().unwrap_or(&model.provider));
        match model_key(model, &outside(session, settings)).await {
            Ok(()) => found.good(ABOUT, format!("{name}: the key is taken")),
            Err(why) => found.bad(ABOUT, format!("{name}: {why}"), "replace the key, or correct `base_url`"),
        }
    }
}

async fn model_key(model: &ModelSettings, outside: &Outside) -> Result<(), String> {
    let (default, anthropic) = match model.provider.as_str() {
        "anthropic" => ("https://api.anthropic.com", true),
        "openai" => ("https://api.openai.com/v1", false),
        _ => return Ok(()),
    };
    let base = model.base_url.as_deref().unwrap_or(default).trim_end_matches('/');
    let auth = match &model.api_key {
        None => SourceAuth::None,
        Some(key) if anthropic => SourceAuth::Header { name: "x-api-key".into(), secret: key.clone() },
        Some(key) => SourceAuth::Bearer(key.clone()),
    };
    let service = Service::new(base, auth, outside).map_err(|error| error.to_string())?;
    let service = if anthropic { service.with_header("anthropic-version", "2023-06-01") } else { service };
    let path = if anthropic && !base.ends_with("/v1") { "/v1/models" } else { "/models" };
    let url = service.below(path)?;
    match service.get("the provider", &url, &[], LIMITS).await {
        // A stand-in need not list its models.
        Ok(_) | Err(JsonError::Http(HttpError::Status { status: 404 | 405, .. } | HttpError::NotJson(_))) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

async fn sandboxes(session: &Session, settings: &Settings, found: &mut Findings) {
    let places = places(settings);
    let mut asked = BTreeSet::new();
    for profile in settings.profiles.values() {
        let chosen = e2b::chosen(&profile.sandbox, &places);
        let Some(url) = chosen.url.filter(|url| asked.insert(url.clone())) else { continue };
        let key = if chosen.provider == e2b::E2B { &places.e2b.key } else { &places.sandboxd.key };
        let Some(key) = key.as_ref().filter(|key| key.read().is_ok()) else { continue };
        let auth = SourceAuth::Header { name: "X-API-Key".into(), secret: key.clone() };
        let asked = async {
            let service = Service::new(&url, auth, &outside(session, settings)).map_err(|error| error.to_string())?;
            let list = service.below("/v2/sandboxes")?;
            service.get("the sandboxes", &list, &[], LIMITS).await.map(drop).map_err(|error| error.to_string())
        };
        match asked.await {
            Ok(()) => found.good("sandboxes", format!("{url} takes the key {}", key.name)),
            Err(why) => found.bad(
                "sandboxes",
                format!("{url}: {why}"),
                format!("replace the secret {}, or correct the address", key.name),
            ),
        }
    }
}

async fn sources(session: &Session, settings: &Settings, found: &mut Findings) {
    let own = settings.sources.iter().map(|(name, source)| (name.clone(), source));
    let of_profiles = settings.profiles.values().flat_map(|profile| {
        profile.sources.iter().map(|(name, source)| (format!("{name} of profile {}", profile.name), source))
    });
    for (name, source) in own.chain(of_profiles) {
        let secrets = source.secret.iter().chain(source.auth.secret());
        // What cannot be read was told already.
        if secrets.into_iter().any(|secret| secret.read().is_err()) {
            continue;
        }
        let outside = outside(session, settings);
        match source.kind.as_str() {
            "postgres" => postgres(&name, source, &outside, found).await,
            "http" => http(&name, source, &outside, found).await,
            "prometheus" => prometheus(&name, source, &outside, found).await,
            _ => {}
        }
    }
}

async fn postgres(name: &str, source: &SourceSettings, outside: &Outside, found: &mut Findings) {
    const ABOUT: &str = "sources";
    let Some(secret) = &source.secret else { return };
    match Database::of(secret, &source.base, outside).probe(PATIENCE.min(source.timeout)).await {
        Err(error) => {
            found.bad(ABOUT, format!("{name}: {error}"), format!("correct the URL in the secret {}", secret.name))
        }
        Ok(probe) => {
            let what = format!("{name}: PostgreSQL {} as {} on {}", probe.version, probe.user, probe.database);
            match (probe.superuser, probe.encrypted) {
                (true, _) => {
                    let fix = "CREATE ROLE nightcrew LOGIN PASSWORD …; GRANT SELECT ON … TO nightcrew";
                    found.warn(ABOUT, format!("{what}, which may do everything"), fix);
                }
                (false, false) => found.warn(
                    ABOUT,
                    format!("{what}, not encrypted"),
                    "add ?sslmode=verify-full to the URL if it is elsewhere",
                ),
                (false, true) => found.good(ABOUT, what),
            }
        }
    }
}

async fn http(name: &str, source: &SourceSettings, outside: &Outside, found: &mut Findings) {
    const ABOUT: &str = "sources";
    let Some(target) = &source.target else { return };
    let asked = async {
        let service = Service::new(target, source.auth.clone(), outside)?;
        let url = service.below("").map_err(HttpError::Request)?;
        service.get(name, &url, &[], LIMITS).await
    };
    match asked.await {
        // What stands at the address itself is nobody's business.
        Ok(_) | Err(JsonError::Http(HttpError::NotJson(_) | HttpError::TooLarge { .. })) => {
            found.good(ABOUT, format!("{name}: {target} answers"));
        }
        Err(JsonError::Http(HttpError::Status { status, .. })) if status < 500 && !matches!(status, 401 | 403) => {
            found.good(ABOUT, format!("{name}: {target} answers (HTTP {status} at its root)"));
        }
        Err(error) => found.bad(ABOUT, format!("{name}: {error}"), format!("correct `sources.{name}` or its secret")),
    }
}

async fn prometheus(name: &str, source: &SourceSettings, outside: &Outside, found: &mut Findings) {
    const ABOUT: &str = "sources";
    let setup = SourceSetup {
        target: source.target.clone(),
        auth: source.auth.clone(),
        timeout: PATIENCE.min(source.timeout),
        ..SourceSetup::new(name, source.base.clone(), outside.clone())
    };
    let make = crate::builtin::REGISTRY.source(&source.kind).and_then(|kind| kind.make);
    let Some(Ok(made)) = make.map(|make| make(&setup)) else { return };
    match made.fetch(SourceQuery { query: None, filter: Some("1"), args: &Map::new(), max_rows: 1 }).await {
        Ok(_) => found.good(ABOUT, format!("{name}: Prometheus answers")),
        Err(error) => found.bad(ABOUT, error.to_string(), format!("correct `sources.{name}` or its secret")),
    }
}
