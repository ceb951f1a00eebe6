//! `services`: where the outside is, and with which secret.

use std::collections::BTreeMap;

use crate::diag::Node;

use super::reader::Reader;
use super::settings::{Service, Services};

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
