//! `profiles`: what each profile binds. A profile is data; `local` and `cloud` are built in, others are made like them.

use std::collections::BTreeMap;

use crate::diag::{Node, closest, codes};

use super::reader::Reader;
use super::settings::Profile;
use super::sources;

/// What a pipeline's words for sinks are.
const SINK_NAMES: &[&str] = &["slack", "files", "terminal", "tickets", "pull_requests"];
/// Sinks of the dialect; those that can run have a row in the registry.
const SINKS: &[&str] = &["files", "terminal", "slack", "github", "local_branch"];

/// Reads all profiles over the built-in ones.
pub(super) fn profiles(
    node: Option<&Node>,
    defaults: Option<&BTreeMap<String, Profile>>,
    r: &mut Reader<'_>,
) -> BTreeMap<String, Profile> {
    let mut found = defaults.cloned().unwrap_or_default();
    let Some(mut map) = node.and_then(|node| node.map("`profiles`", &mut r.d)) else { return found };
    for entry in map.rest() {
        let like = found.get(&entry.key).or_else(|| found.get("local")).cloned();
        if let Some(profile) = profile(&entry.key, &entry.value, like.as_ref(), r) {
            found.insert(entry.key.clone(), profile);
        }
    }
    found
}

/// Reads one profile; what it does not say is as in `like`.
pub(super) fn profile(name: &str, node: &Node, like: Option<&Profile>, r: &mut Reader<'_>) -> Option<Profile> {
    let mut map = node.map(&format!("profile `{name}`"), &mut r.d)?;
    let mut profile = like.cloned().unwrap_or_default();
    profile.name = name.to_owned();
    profile.origin = r.origin(node.span);
    if let Some(node) = map.optional("repository", &mut r.d) {
        if node.entries().is_some() {
            repository(node, &mut profile, r);
        } else if let Some(word) = binding(node, "`repository`", &["path", "clone"], r) {
            (profile.repository, profile.repository_path) = (Some(word), None);
            profile.repository_paths.clear();
        }
    }
    if let Some(word) =
        map.optional("tools", &mut r.d).and_then(|node| binding(node, "`tools`", &["native", "clone"], r))
    {
        profile.tools = word;
    }
    if let Some(word) =
        map.optional("sandbox", &mut r.d).and_then(|node| binding(node, "`sandbox`", &["sandboxd", "e2b"], r))
    {
        profile.sandbox = word;
    }
    if let Some(node) = map.optional("sources", &mut r.d) {
        profile.sources = sources::sources(node, r);
    }
    if let Some(node) = map.optional("sinks", &mut r.d) {
        sinks(node, &mut profile, r);
    }
    if let Some(mut models) = map.optional("models", &mut r.d).and_then(|node| node.map("`models`", &mut r.d)) {
        profile.tape = models.require("tape", &mut r.d).and_then(|node| r.path("`tape`", node));
        models.finish(&mut r.d);
    }
    if let Some(mut environments) =
        map.optional("environments", &mut r.d).and_then(|node| node.map("`environments`", &mut r.d))
    {
        for entry in environments.rest() {
            profile
                .environments
                .extend(r.path("an environment's file", &entry.value).map(|path| (entry.key.clone(), path)));
        }
    }
    map.finish(&mut r.d);
    Some(profile)
}

/// `{path: DIR}`, with `pipelines: {NAME: DIR}` for those that work on another one; without `path` all others have their own.
fn repository(node: &Node, profile: &mut Profile, r: &mut Reader<'_>) {
    let Some(mut map) = node.map("`repository`", &mut r.d) else { return };
    profile.repository = Some("path".to_owned());
    profile.repository_paths.clear();
    let folder = if map.has("pipelines") { map.optional("path", &mut r.d) } else { map.require("path", &mut r.d) };
    profile.repository_path = folder.and_then(|node| r.path("`path`", node));
    if let Some(mut pipelines) = map.optional("pipelines", &mut r.d).and_then(|node| node.map("`pipelines`", &mut r.d))
    {
        for entry in pipelines.rest() {
            let folder = r.path("a pipeline's repository", &entry.value);
            profile.repository_paths.extend(folder.map(|folder| (entry.key.clone(), folder)));
        }
    }
    map.finish(&mut r.d);
}

/// One of the words that something can be bound to.
fn binding(node: &Node, what: &str, words: &[&str], r: &mut Reader<'_>) -> Option<String> {
    let text = node.string(what, &mut r.d)?;
    if words.contains(&text) {
        return Some(text.to_owned());
    }
    let help = closest(text, words.iter().copied()).map(|near| format!("did you mean `{near}`?"));
    r.error(
        &codes::UNKNOWN_PROFILE_VALUE,
        format!("{what} cannot be bound to `{text}`"),
        node.span,
        format!("expected {}", words.join(" | ")),
        help,
    );
    None
}

fn sinks(node: &Node, profile: &mut Profile, r: &mut Reader<'_>) {
    let Some(mut map) = node.map("`sinks`", &mut r.d) else { return };
    // One of `sinks:` can stand for another, and be replaced by another.
    let own = r.own_sinks.clone();
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let mut known: Vec<&str> = SINKS.to_vec();
    let with_target = ["markdown", "webhook"];
    let built_in = r.registry.sinks.iter().map(|sink| sink.name);
    known.extend(built_in.filter(|name| !SINKS.contains(name) && !with_target.contains(name)));
    known.extend(&own);
    for name in SINK_NAMES.iter().chain(&own) {
        let Some(node) = map.optional(name, &mut r.d) else { continue };
        if let Some(sink) = binding(node, &format!("`{name}`"), &known, r) {
            profile.sinks.insert((*name).to_owned(), sink);
        }
    }
    map.finish(&mut r.d);
}
