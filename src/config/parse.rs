//! The top level of the configuration, section by section.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::money::UsdMicros;
use crate::diag::{Diagnostic, MapReader, Node, Span, closest, codes, did_you_mean};
use crate::domain::definition::{From, Origin};
use crate::domain::model::Role;
use crate::domain::run::Effects;
use crate::policy::due::zone_names;

use super::reader::Reader;
use super::settings::{DaemonLimits, Http, HttpToken, Intake, IntakeProject, ModelSettings, Notify, Prices, Settings};
use super::{BUILT_IN, PRICES, ReadBeside, prices, profiles, services, sources as places};

/// The longest silence of a streaming model, and the longest answer in all.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
const TOTAL_TIMEOUT: Duration = Duration::from_secs(600);
/// What a model may answer at most when nothing is said.
const MAX_OUTPUT_TOKENS: u32 = 8_000;
/// What a token may do.
const SCOPES: &[&str] = &["read", "run", "approve", "admin"];

/// Reads the whole tree over `defaults`. The result is to be thrown away when mistakes were found.
pub(super) fn settings(
    tree: &Node,
    defaults: Option<&Settings>,
    read: ReadBeside<'_>,
    r: &mut Reader<'_>,
) -> Option<Settings> {
    if tree.is_null() {
        r.error(
            &codes::EMPTY,
            "the file is empty",
            Span::default(),
            "no setting is in it",
            Some("write at least `version: 1`".to_owned()),
        );
        return None;
    }
    let mut map = tree.map("the configuration", &mut r.d)?;
    if let Some(node) = map.require("version", &mut r.d)
        && node.text() != Some("1")
        && !node.is_broken()
    {
        r.error(
            &codes::VERSION,
            "unknown version",
            node.span,
            "this nightcrew reads version 1",
            Some("write `version: 1`".to_owned()),
        );
    }
    if let Some(defaults) = defaults {
        r.secrets = defaults.secrets.clone();
    }
    if let Some(node) = map.optional("secrets", &mut r.d) {
        r.declare_secrets(node);
    }
    let effects =
        map.optional("effects", &mut r.d).and_then(|node| node.word("`effects`", &["preview", "live"], &mut r.d));
    let models_node = map.optional("models", &mut r.d);
    let models = models(models_node, defaults, r);
    let (prices, price_files) = price_table(&mut map, read, r);
    // A table that could not be read has no prices for anybody; that is told once.
    if let Some(node) = models_node.filter(|_| !prices.models.is_empty()) {
        without_price(node, &models, &prices, r);
    }
    let services_node = map.optional("services", &mut r.d);
    let services = match services_node {
        Some(node) => services::services(node, defaults.map(|d| &d.services), r),
        None => defaults.map(|d| d.services.clone()).unwrap_or_default(),
    };
    let sources = map.optional("sources", &mut r.d).map(|node| places::sources(node, r)).unwrap_or_default();
    let sinks = map.optional("sinks", &mut r.d).map(|node| places::sinks(node, r)).unwrap_or_default();
    r.own_sinks = sinks.keys().cloned().collect();
    let hide = match map.optional("privacy", &mut r.d).and_then(|node| node.map("`privacy`", &mut r.d)) {
        Some(mut privacy) => {
            let hide = r.texts(&mut privacy, "hide");
            privacy.finish(&mut r.d);
            hide
        }
        None => Vec::new(),
    };
    let intake = map.optional("intake", &mut r.d).and_then(|node| intake(node, r));
    let http = http(map.optional("http", &mut r.d), defaults, r);
    let hooks_listen =
        map.optional("hooks", &mut r.d).and_then(|node| node.map("`hooks`", &mut r.d)).and_then(|mut hooks| {
            let listen = r.listen(&mut hooks, "listen");
            hooks.finish(&mut r.d);
            listen
        });
    let notify = map.optional("notify", &mut r.d).map(|node| notify(node, r)).unwrap_or_default();
    let limits = limits(map.optional("limits", &mut r.d), defaults, r);
    let profiles_node = map.optional("profiles", &mut r.d);
    let profiles = profiles::profiles(profiles_node, defaults.map(|d| &d.profiles), r);
    map.finish(&mut r.d);
    Some(Settings {
        file: None,
        base: r.base.to_owned(),
        effects: if effects == Some("live") { Effects::Live } else { Effects::Preview },
        models,
        prices,
        secrets: r.secrets.clone(),
        services,
        sources,
        sinks,
        hide,
        http,
        limits,
        profiles,
        notify,
        intake,
        hooks_listen,
        files: price_files,
    })
}

fn models(node: Option<&Node>, defaults: Option<&Settings>, r: &mut Reader<'_>) -> BTreeMap<Role, ModelSettings> {
    let mut found = defaults.map(|d| d.models.clone()).unwrap_or_default();
    let Some(mut map) = node.and_then(|node| node.map("`models`", &mut r.d)) else { return found };
    for entry in map.rest() {
        match entry.key.parse::<Role>() {
            Ok(role) => found.extend(model(role, &entry.value, r).map(|model| (role, model))),
            Err(_) => {
                let help = did_you_mean(&entry.key, Role::ALL.iter().map(|role| role.as_str()));
                r.error(
                    &codes::UNKNOWN_MODEL_ROLE,
                    format!("unknown role `{}`", entry.key),
                    entry.key_span,
                    "no model call has this role",
                    help,
                );
            }
        }
    }
    found
}

fn model(role: Role, node: &Node, r: &mut Reader<'_>) -> Option<ModelSettings> {
    let mut map = node.map(&format!("model `{role}`"), &mut r.d)?;
    let providers: Vec<&'static str> = r.registry.models.iter().map(|kind| kind.name).collect();
    let provider = map.require("provider", &mut r.d).and_then(|node| node.word("`provider`", &providers, &mut r.d));
    let model = map.require("model", &mut r.d).and_then(|node| node.filled_string("`model`", &mut r.d));
    let base_url = r.url(&mut map, "base_url");
    let api_key = r.secret(&mut map, "api_key");
    let max_output_tokens = map
        .optional("max_output_tokens", &mut r.d)
        .and_then(|node| node.integer("`max_output_tokens`", 256..=1_000_000, &mut r.d))
        .and_then(|tokens| u32::try_from(tokens).ok());
    let mut fallback = Vec::new();
    if let Some(node) = map.optional("fallback", &mut r.d) {
        for item in node.one_or_more() {
            let words: Vec<&str> = Role::ALL.iter().map(|role| role.as_str()).collect();
            let Some(other) = item.word("`fallback`", &words, &mut r.d).and_then(|word| word.parse::<Role>().ok())
            else {
                continue;
            };
            if other == role {
                r.error(
                    &codes::BAD_VALUE,
                    "a role cannot stand in for itself",
                    item.span,
                    "the same role",
                    Some("name another role".to_owned()),
                );
            } else {
                fallback.push(other);
            }
        }
    }
    let timeout = |key: &str, map: &mut MapReader<'_>, r: &mut Reader<'_>| {
        map.optional(key, &mut r.d)?.duration(&format!("`{key}`"), &mut r.d)
    };
    let idle_timeout = timeout("idle_timeout", &mut map, r).unwrap_or(IDLE_TIMEOUT);
    let total_timeout = timeout("total_timeout", &mut map, r).unwrap_or(TOTAL_TIMEOUT);
    map.finish(&mut r.d);
    Some(ModelSettings {
        provider: provider?.to_owned(),
        model: model?.to_owned(),
        base_url,
        api_key,
        max_output_tokens: max_output_tokens.unwrap_or(MAX_OUTPUT_TOKENS),
        fallback,
        idle_timeout,
        total_timeout,
        origin: r.origin(node.span),
    })
}

/// A model without a price is refused before any call; whoever reads the file should know now.
fn without_price(node: &Node, models: &BTreeMap<Role, ModelSettings>, prices: &Prices, r: &mut Reader<'_>) {
    for (role, model) in models {
        let written =
            node.get(role.as_str()).and_then(|node| node.get("model")).filter(|node| node.text() == Some(&model.model));
        let Some(written) = written.filter(|_| !prices.models.contains_key(&model.model)) else { continue };
        let near =
            did_you_mean(&model.model, prices.models.keys().map(String::as_str)).filter(|help| help.starts_with("did"));
        let help = near.unwrap_or_else(|| {
            format!("add `\"{}\": {{bands: […]}}` or `{{free: true}}` to the price table", model.model)
        });
        let title = format!("model `{}` has no price", model.model);
        r.d.push(Diagnostic::warning(&codes::NO_PRICE, title, written.span, "its calls will be refused").help(help));
    }
}

/// The named price table, or the built-in one; with its file for the journal.
fn price_table(map: &mut MapReader<'_>, read: ReadBeside<'_>, r: &mut Reader<'_>) -> (Prices, Vec<(String, String)>) {
    let (shown, text, kept) = match map.optional("prices", &mut r.d) {
        Some(node) => {
            let Some(name) = node.filled_string("`prices`", &mut r.d) else { return (Prices::default(), Vec::new()) };
            match read(name) {
                Ok(text) => {
                    let built_in = r.d.source().name() == BUILT_IN;
                    let shown =
                        if built_in { "built-in prices".to_owned() } else { r.base.join(name).display().to_string() };
                    (shown, text, Some(name.to_owned()))
                }
                Err(why) => {
                    let help = Some(format!("looked for {}", r.base.join(name).display()));
                    r.error(&codes::UNREADABLE, "the price table cannot be read", node.span, why, help);
                    return (Prices::default(), Vec::new());
                }
            }
        }
        None => ("built-in prices".to_owned(), PRICES.to_owned(), None),
    };
    let (prices, d) = prices::prices(&shown, &text);
    r.others.add(d);
    (prices, kept.map(|name| (name, text)).into_iter().collect())
}

fn intake(node: &Node, r: &mut Reader<'_>) -> Option<Intake> {
    let mut map = node.map("`intake`", &mut r.d)?;
    let listen = r.listen(&mut map, "listen");
    if !map.has("listen") {
        map.require("listen", &mut r.d);
    }
    let mut projects: Vec<IntakeProject> = Vec::new();
    for item in map.require("projects", &mut r.d).and_then(|node| node.list("`projects`", &mut r.d)).unwrap_or_default()
    {
        let Some(mut project) = item.map("a project", &mut r.d) else { continue };
        let id_node = project.require("id", &mut r.d);
        let id =
            id_node.and_then(|node| node.integer("`id`", 1..=i64::MAX, &mut r.d)).and_then(|id| u64::try_from(id).ok());
        let name = project.require("name", &mut r.d).and_then(|node| node.filled_string("`name`", &mut r.d));
        let key = project.require("key", &mut r.d).and_then(|node| r.secret_of("key", node));
        let max_per_minute = project
            .optional("max_per_minute", &mut r.d)
            .and_then(|node| node.integer("`max_per_minute`", 1..=i64::from(u32::MAX), &mut r.d))
            .and_then(|most| u32::try_from(most).ok());
        project.finish(&mut r.d);
        if let (Some(id), Some(id_node)) = (id, id_node)
            && projects.iter().any(|known| known.id == id)
        {
            r.error(
                &codes::DUPLICATE_NAME,
                format!("project {id} twice"),
                id_node.span,
                "already listed above",
                Some("give each its own id".to_owned()),
            );
        }
        if let (Some(id), Some(name), Some(key)) = (id, name, key) {
            projects.push(IntakeProject { id, name: name.to_owned(), key, max_per_minute });
        }
    }
    map.finish(&mut r.d);
    Some(Intake { listen: listen?, projects })
}

fn http(node: Option<&Node>, defaults: Option<&Settings>, r: &mut Reader<'_>) -> Http {
    let mut http = defaults.map(|d| d.http.clone()).unwrap_or_default();
    let Some(mut map) = node.and_then(|node| node.map("`http`", &mut r.d)) else { return http };
    let listen_node = map.has("listen").then(|| map.take("listen")).flatten();
    http.listen = r.listen(&mut map, "listen").or(http.listen);
    http.public_url = r.url(&mut map, "public_url");
    for item in map.optional("tokens", &mut r.d).and_then(|node| node.list("`tokens`", &mut r.d)).unwrap_or_default() {
        let Some(mut token) = item.map("a token", &mut r.d) else { continue };
        let name = token.require("name", &mut r.d).and_then(|node| node.filled_string("`name`", &mut r.d));
        let secret = token.require("secret", &mut r.d).and_then(|node| r.secret_of("secret", node));
        let mut scopes = Vec::new();
        for scope in token.require("scopes", &mut r.d).map(Node::one_or_more).unwrap_or_default() {
            scopes.extend(scope.word("a scope", SCOPES, &mut r.d).map(str::to_owned));
        }
        token.finish(&mut r.d);
        if let (Some(name), Some(secret)) = (name, secret) {
            http.tokens.push(HttpToken { name: name.to_owned(), secret, scopes });
        }
    }
    let loopback = |listen: &str| {
        listen.starts_with("localhost:")
            || listen.parse::<std::net::SocketAddr>().is_ok_and(|address| address.ip().is_loopback())
    };
    if let (Some(listen), Some(node)) = (&http.listen, listen_node)
        && !loopback(listen)
        && !map.has("tokens")
    {
        let help =
            Some("add `tokens: [{name: …, secret: secret:NAME, scopes: [read]}]`, or listen on 127.0.0.1".to_owned());
        r.error(
            &codes::NEEDS,
            "an open address without a token",
            node.span,
            "every call from outside needs a token",
            help,
        );
    }
    map.finish(&mut r.d);
    http
}

fn notify(node: &Node, r: &mut Reader<'_>) -> Notify {
    let mut notify = Notify::default();
    let Some(mut map) = node.map("`notify`", &mut r.d) else { return notify };
    if let Some(mut digest) = map.optional("digest", &mut r.d).and_then(|node| node.map("`digest`", &mut r.d)) {
        notify.digest_channel = digest
            .require("channel", &mut r.d)
            .and_then(|node| node.filled_string("`channel`", &mut r.d))
            .map(|channel| channel.trim_start_matches('#').to_owned());
        notify.digest_at = digest.require("at", &mut r.d).and_then(|node| {
            let text = node.string("`at`", &mut r.d)?;
            if !is_clock(text) {
                node.bad(
                    "`at`",
                    "a time of day",
                    "not of the form HH:MM",
                    Some("write for example `\"08:30\"`".to_owned()),
                    &mut r.d,
                );
            }
            Some(text.to_owned())
        });
        if digest.has("timezone") {
            notify.digest_timezone = digest.optional("timezone", &mut r.d).and_then(|node| zone(node, r));
        } else {
            digest.take("timezone");
            let help = Some("add `timezone: Europe/Berlin`, or `timezone: UTC`".to_owned());
            r.error(
                &codes::NO_ZONE,
                "a time without a time zone",
                digest.place(),
                "in which zone is this time meant?",
                help,
            );
        }
        digest.finish(&mut r.d);
    }
    notify.quiet_hours = map.optional("quiet_hours", &mut r.d).and_then(|node| {
        let text = node.string("`quiet_hours`", &mut r.d)?;
        if !text.split_once('-').is_some_and(|(from, to)| is_clock(from) && is_clock(to)) {
            node.bad(
                "`quiet_hours`",
                "two times of day",
                "not of the form HH:MM-HH:MM",
                Some("write for example `\"22:00-07:00\"`".to_owned()),
                &mut r.d,
            );
        }
        Some(text.to_owned())
    });
    notify.ping_url = r.url(&mut map, "ping_url");
    map.finish(&mut r.d);
    notify
}

fn is_clock(text: &str) -> bool {
    let part = |part: &str, most: u8| part.len() == 2 && part.parse::<u8>().is_ok_and(|number| number < most);
    text.split_once(':').is_some_and(|(hours, minutes)| part(hours, 24) && part(minutes, 60))
}

fn zone(node: &Node, r: &mut Reader<'_>) -> Option<String> {
    let name = node.filled_string("`timezone`", &mut r.d)?;
    let known = zone_names();
    if known.iter().any(|zone| zone == name) || jiff::tz::TimeZone::get(name).is_ok() {
        return Some(name.to_owned());
    }
    let near = closest(name, known.iter().map(String::as_str)).map(|near| format!("did you mean `{near}`?"));
    let help = near.or_else(|| Some("use an IANA name such as `Europe/Berlin` or `UTC`".to_owned()));
    r.error(&codes::BAD_ZONE, format!("unknown time zone `{name}`"), node.span, "not in the time zone database", help);
    None
}

fn limits(node: Option<&Node>, defaults: Option<&Settings>, r: &mut Reader<'_>) -> DaemonLimits {
    let built_in = || Origin { file: BUILT_IN.to_owned(), line: 0 };
    let money = |micros: i64| From { value: UsdMicros(micros), origin: built_in() };
    let mut limits = defaults.map(|d| d.limits.clone()).unwrap_or_else(|| DaemonLimits {
        max_budget: money(10_000_000),
        max_per_day: money(100_000_000),
        max_per_month: money(1_000_000_000),
        max_concurrent_runs: From { value: 50, origin: built_in() },
    });
    let Some(mut map) = node.and_then(|node| node.map("`limits`", &mut r.d)) else { return limits };
    for (key, slot) in [
        ("max_budget_usd", &mut limits.max_budget),
        ("max_per_day_usd", &mut limits.max_per_day),
        ("max_per_month_usd", &mut limits.max_per_month),
    ] {
        let Some(node) = map.optional(key, &mut r.d) else { continue };
        if let Some(micros) = node.money(&format!("`{key}`"), &mut r.d) {
            *slot = From { value: UsdMicros(micros), origin: r.origin(node.span) };
        }
    }
    if let Some(node) = map.optional("max_concurrent_runs", &mut r.d)
        && let Some(runs) = node.integer("`max_concurrent_runs`", 1..=10_000, &mut r.d)
    {
        limits.max_concurrent_runs =
            From { value: u32::try_from(runs).unwrap_or(u32::MAX), origin: r.origin(node.span) };
    }
    for (small, large, small_key, large_key) in [
        (limits.max_budget.value, limits.max_per_day.value, "max_budget_usd", "max_per_day_usd"),
        (limits.max_per_day.value, limits.max_per_month.value, "max_per_day_usd", "max_per_month_usd"),
    ] {
        if small > large {
            let help = Some(format!("raise `{large_key}`, or lower `{small_key}`"));
            r.error(
                &codes::LIMIT,
                format!("`{small_key}` is above `{large_key}`"),
                map.place(),
                format!("{small} against {large}"),
                help,
            );
        }
    }
    map.finish(&mut r.d);
    limits
}
