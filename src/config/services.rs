//! `services` and `sources`: where the outside is, and with which secret.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::diag::{Node, codes, did_you_mean};

use super::reader::Reader;
use super::settings::{Service, Services, SourceSettings};

#[derive(Clone, Copy)]
enum Key {
    Url,
    Text,
    Secret,
    List,
    /// `images: {NAME: PATH}`
    Files,
    /// `app: {id, installation, key}`
    App,
}

const GITHUB: &[(&str, Key)] = &[
    ("api_url", Key::Url),
    ("git_url", Key::Url),
    ("token", Key::Secret),
    ("webhook_secret", Key::Secret),
    ("app", Key::App),
];
const SLACK: &[(&str, Key)] = &[
    ("api_url", Key::Url),
    ("bot_token", Key::Secret),
    ("app_token", Key::Secret),
    ("signing_secret", Key::Secret),
    ("users", Key::List),
];
const SENTRY: &[(&str, Key)] =
    &[("base_url", Key::Url), ("organization", Key::Text), ("token", Key::Secret), ("webhook_secret", Key::Secret)];
const E2B: &[(&str, Key)] = &[("api_url", Key::Url), ("sandbox_url", Key::Url), ("api_key", Key::Secret)];
const SANDBOXD: &[(&str, Key)] = &[("url", Key::Url), ("api_key", Key::Secret), ("images", Key::Files)];

/// How long a source may take when nothing is said.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);

/// Reads `services`; what a service does not say is taken from `defaults`.
pub(super) fn services(node: &Node, defaults: Option<&Services>, r: &mut Reader<'_>) -> Services {
    let mut found = defaults.cloned().unwrap_or_default();
    let Some(mut map) = node.map("`services`", &mut r.d) else { return found };
    for (name, keys, slot) in [
        ("github", GITHUB, &mut found.github),
        ("slack", SLACK, &mut found.slack),
        ("sentry", SENTRY, &mut found.sentry),
        ("e2b", E2B, &mut found.e2b),
        ("sandboxd", SANDBOXD, &mut found.sandboxd),
    ] {
        if let Some(node) = map.optional(name, &mut r.d) {
            service(name, node, keys, slot.get_or_insert_default(), r);
        }
    }
    map.finish(&mut r.d);
    found
}

fn service(name: &str, node: &Node, keys: &[(&str, Key)], into: &mut Service, r: &mut Reader<'_>) {
    let Some(mut map) = node.map(&format!("`{name}`"), &mut r.d) else { return };
    for (key, kind) in keys {
        let owned = (*key).to_owned();
        match kind {
            Key::Url => {
                if map.has(key) {
                    into.settings.remove(*key);
                }
                into.settings.extend(r.url(&mut map, key).map(|url| (owned, url)));
            }
            Key::Text => {
                let text =
                    map.optional(key, &mut r.d).and_then(|node| node.filled_string(&format!("`{key}`"), &mut r.d));
                into.settings.extend(text.map(|text| (owned, text.to_owned())));
            }
            Key::Secret => into.secrets.extend(r.secret(&mut map, key).map(|secret| (owned, secret))),
            Key::List => {
                if map.has(key) {
                    into.lists.insert(owned, r.texts(&mut map, key));
                } else {
                    map.take(key);
                }
            }
            Key::Files => {
                let Some(mut files) =
                    map.optional(key, &mut r.d).and_then(|node| node.map(&format!("`{key}`"), &mut r.d))
                else {
                    continue;
                };
                let mut named = BTreeMap::new();
                for entry in files.rest() {
                    let path = entry.value.filled_string(&format!("`{}`", entry.key), &mut r.d);
                    named.extend(path.map(|path| (entry.key.clone(), r.base.join(path))));
                }
                into.files.insert(owned, named);
            }
            Key::App => {
                let Some(mut app) = map.optional(key, &mut r.d).and_then(|node| node.map("`app`", &mut r.d)) else {
                    continue;
                };
                for part in ["id", "installation"] {
                    let text =
                        app.require(part, &mut r.d).and_then(|node| node.filled_string(&format!("`{part}`"), &mut r.d));
                    into.settings.extend(text.map(|text| (format!("app.{part}"), text.to_owned())));
                }
                let key = app.require("key", &mut r.d).and_then(|node| r.secret_of("key", node));
                into.secrets.extend(key.map(|key| ("app.key".to_owned(), key)));
                app.finish(&mut r.d);
            }
        }
    }
    map.finish(&mut r.d);
}

/// Reads a map of sources, of the configuration or of a profile.
pub(super) fn sources(node: &Node, r: &mut Reader<'_>) -> BTreeMap<String, SourceSettings> {
    let mut found = BTreeMap::new();
    let Some(mut map) = node.map("`sources`", &mut r.d) else { return found };
    for entry in map.rest() {
        found.extend(source(&entry.key, &entry.value, r).map(|source| (entry.key.clone(), source)));
    }
    found
}

fn source(name: &str, node: &Node, r: &mut Reader<'_>) -> Option<SourceSettings> {
    let mut map = node.map(&format!("source `{name}`"), &mut r.d)?;
    let kinds: Vec<&'static str> = r.registry.sources.iter().map(|kind| kind.name).collect();
    let written: Vec<&'static str> = kinds.iter().copied().filter(|kind| map.has(kind)).collect();
    let [kind] = written.as_slice() else {
        map.know(kinds.iter().copied());
        let misspelt = map
            .unknown()
            .into_iter()
            .find_map(|entry| did_you_mean(&entry.key, kinds.iter().copied()).filter(|help| help.starts_with("did")));
        let label = if written.is_empty() { "what kind of source is it?" } else { "it can be only one of them" };
        let help = misspelt.or_else(|| Some(format!("write one of `{}`", kinds.join("`, `"))));
        r.error(&codes::NEEDS, format!("source `{name}` needs one kind"), map.place(), label, help);
        return None;
    };
    let target_node = map.optional(kind, &mut r.d);
    let by_secret = target_node.and_then(Node::text).is_some_and(|text| text.starts_with("secret:"));
    let (mut target, mut secret) = (None, None);
    if let Some(node) = target_node {
        match *kind {
            // A database's address holds its password.
            "postgres" => secret = r.secret_of(kind, node),
            _ if by_secret => secret = r.secret_of(kind, node),
            "http" | "prometheus" => target = r.url_of(kind, node),
            _ => target = node.filled_string(&format!("`{kind}`"), &mut r.d).map(str::to_owned),
        }
    }
    let mut bearer = None;
    if let Some(mut auth) = map.optional("auth", &mut r.d).and_then(|node| node.map("`auth`", &mut r.d)) {
        bearer = r.secret(&mut auth, "bearer");
        auth.finish(&mut r.d);
    }
    let timeout = ["statement_timeout", "timeout"]
        .into_iter()
        .filter_map(|key| map.optional(key, &mut r.d)?.duration(&format!("`{key}`"), &mut r.d))
        .next();
    map.finish(&mut r.d);
    if target.is_none() && secret.is_none() {
        return None;
    }
    Some(SourceSettings {
        kind: (*kind).to_owned(),
        target,
        secret,
        bearer,
        timeout: timeout.unwrap_or(TIMEOUT),
        origin: r.origin(node.span),
        base: r.base.to_owned(),
    })
}
