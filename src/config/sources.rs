//! `sources` and `sinks`: what is read beside the services, and where reports go beside what is built in.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::diag::{MapReader, Node, codes, did_you_mean};
use crate::ports::source::{PageSize, Paging, SourceAuth};

use super::reader::Reader;
use super::settings::{SinkSettings, SourceSettings};

/// How long a source may take when nothing is said.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Kinds of sinks that a configuration makes, with a target of their own.
const OWN_SINKS: &[&str] = &["markdown", "webhook"];

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
    let kind = one_kind(&format!("source `{name}`"), "what kind of source is it?", &kinds, &mut map, r)?;
    let target_node = map.optional(kind, &mut r.d);
    let by_secret = target_node.and_then(Node::text).is_some_and(|text| text.starts_with("secret:"));
    let (mut target, mut secret) = (None, None);
    if let Some(node) = target_node {
        match kind {
            // A database's address holds its password.
            "postgres" => secret = r.secret_of(kind, node),
            _ if by_secret => secret = r.secret_of(kind, node),
            "http" | "prometheus" => target = r.url_of(kind, node),
            _ => target = node.filled_string(&format!("`{kind}`"), &mut r.d).map(str::to_owned),
        }
    }
    let (mut auth, mut paging) = (SourceAuth::None, Paging::None);
    if matches!(kind, "http" | "prometheus") {
        auth = map.optional("auth", &mut r.d).and_then(|node| self::auth(node, r)).unwrap_or_default();
    }
    if kind == "http" {
        paging = map.optional("paging", &mut r.d).and_then(|node| self::paging(node, r)).unwrap_or_default();
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
        kind: kind.to_owned(),
        target,
        secret,
        auth,
        paging,
        timeout: timeout.unwrap_or(TIMEOUT),
        origin: r.origin(node.span),
        base: r.base.to_owned(),
    })
}

/// The one of `kinds` that the map has as a key.
fn one_kind<'k>(
    what: &str,
    ask: &'static str,
    kinds: &[&'k str],
    map: &mut MapReader<'_>,
    r: &mut Reader<'_>,
) -> Option<&'k str> {
    let written: Vec<&'k str> = kinds.iter().copied().filter(|kind| map.has(kind)).collect();
    if let [kind] = written.as_slice() {
        return Some(kind);
    }
    map.know(kinds.iter().copied());
    let misspelt = map
        .unknown()
        .into_iter()
        .find_map(|entry| did_you_mean(&entry.key, kinds.iter().copied()).filter(|help| help.starts_with("did")));
    let label = if written.is_empty() { ask } else { "it can be only one of them" };
    let help = misspelt.or_else(|| Some(format!("write one of `{}`", kinds.join("`, `"))));
    r.error(&codes::NEEDS, format!("{what} needs one kind"), map.place(), label, help);
    None
}

/// `{bearer: secret:X}`, `{basic: secret:X}`, `{header: {name, secret}}` or `{query: {name, secret}}`.
fn auth(node: &Node, r: &mut Reader<'_>) -> Option<SourceAuth> {
    const WORDS: &[&str] = &["bearer", "basic", "header", "query"];
    let mut map = node.map("`auth`", &mut r.d)?;
    let word = one_kind("`auth`", "how is the credential sent?", WORDS, &mut map, r)?;
    let node = map.optional(word, &mut r.d)?;
    map.finish(&mut r.d);
    if let "bearer" | "basic" = word {
        let secret = r.secret_of(word, node)?;
        return Some(if word == "bearer" { SourceAuth::Bearer(secret) } else { SourceAuth::Basic(secret) });
    }
    let mut named = node.map(&format!("`{word}`"), &mut r.d)?;
    let name_node = named.require("name", &mut r.d);
    let name = name_node.and_then(|node| node.filled_string("`name`", &mut r.d)).map(str::to_owned);
    let secret = named.require("secret", &mut r.d).and_then(|node| r.secret_of("secret", node));
    named.finish(&mut r.d);
    let (name, secret) = (name?, secret?);
    if word == "query" {
        return Some(SourceAuth::Query { name, secret });
    }
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if !name.chars().all(token) {
        let help = Some("write for example `X-Api-Key`".to_owned());
        r.error(
            &codes::BAD_VALUE,
            "`name` is not the name of a header",
            name_node?.span,
            "holds other characters",
            help,
        );
        return None;
    }
    Some(SourceAuth::Header { name, secret })
}

/// `{link: true}`, `{cursor: {param, at}}`, `{page: {param, first, size_param, size}}` or `{offset: {param, size_param, size}}`.
fn paging(node: &Node, r: &mut Reader<'_>) -> Option<Paging> {
    const WORDS: &[&str] = &["link", "cursor", "page", "offset"];
    let mut map = node.map("`paging`", &mut r.d)?;
    let word = one_kind("`paging`", "how is the next page found?", WORDS, &mut map, r)?;
    let node = map.optional(word, &mut r.d)?;
    map.finish(&mut r.d);
    if word == "link" {
        return node.boolean("`link`", &mut r.d)?.then_some(Paging::Link);
    }
    let mut map = node.map(&format!("`{word}`"), &mut r.d)?;
    let text = |key: &str, map: &mut MapReader<'_>, r: &mut Reader<'_>| {
        let node = map.optional(key, &mut r.d)?;
        node.filled_string(&format!("`{key}`"), &mut r.d).map(str::to_owned)
    };
    let param = text("param", &mut map, r);
    if word == "cursor" {
        let at_node = map.require("at", &mut r.d);
        let at = at_node.and_then(|node| node.filled_string("`at`", &mut r.d)).map(str::to_owned);
        map.finish(&mut r.d);
        let at = at?;
        if !at.starts_with("$.") && !at.starts_with("$[") {
            at_node?.bad("`at`", "a path such as `$.meta.next`", "`$` and names with dots between", None, &mut r.d);
            return None;
        }
        return Some(Paging::Cursor { param, at });
    }
    let number = |key: &str, from: i64, map: &mut MapReader<'_>, r: &mut Reader<'_>| {
        let number = map.optional(key, &mut r.d)?.integer(&format!("`{key}`"), from..=100_000, &mut r.d)?;
        u32::try_from(number).ok()
    };
    let first = if word == "page" { number("first", 0, &mut map, r) } else { None };
    let (size_param, size) = (text("size_param", &mut map, r), number("size", 1, &mut map, r));
    if let (Some(_), None) = (&size_param, size) {
        let help = Some("add `size: 100`".to_owned());
        r.error(&codes::NEEDS, "`size_param` needs `size`", map.place(), "how many rows should be asked for?", help);
    }
    map.finish(&mut r.d);
    let size = size.map(|rows| PageSize { param: size_param, rows });
    let param = param.unwrap_or_else(|| word.to_owned());
    Some(match word {
        "page" => Paging::Page { param, first: first.unwrap_or(1), size },
        _ => Paging::Offset { param, size },
    })
}

/// Reads `sinks`: `{notes: {markdown: FOLDER}}`, `{ops_hook: {webhook: URL, secret: secret:X}}`.
pub(super) fn sinks(node: &Node, r: &mut Reader<'_>) -> BTreeMap<String, SinkSettings> {
    let mut found = BTreeMap::new();
    let Some(mut map) = node.map("`sinks`", &mut r.d) else { return found };
    for entry in map.rest() {
        if r.registry.sinks.iter().any(|kind| kind.name == entry.key) {
            let help = Some(format!("choose another name, such as `my_{}`", entry.key));
            let title = format!("`{}` is built in", entry.key);
            r.error(&codes::DUPLICATE_NAME, title, entry.key_span, "already the name of a sink", help);
        }
        let shaped = entry.key.starts_with(|c: char| c.is_ascii_lowercase())
            && entry.key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !shaped {
            let title = format!("`{}` cannot be the name of a sink", entry.key);
            let help = Some("write for example `notes` or `ops_hook`".to_owned());
            r.error(&codes::NAME, title, entry.key_span, "names of sinks are a-z, 0-9 and `_`", help);
        }
        found.extend(sink(&entry.key, &entry.value, r).map(|sink| (entry.key.clone(), sink)));
    }
    found
}

fn sink(name: &str, node: &Node, r: &mut Reader<'_>) -> Option<SinkSettings> {
    let mut map = node.map(&format!("sink `{name}`"), &mut r.d)?;
    let kind = one_kind(&format!("sink `{name}`"), "what kind of sink is it?", OWN_SINKS, &mut map, r)?;
    let target_node = map.optional(kind, &mut r.d);
    let (mut target, mut secret) = (None, None);
    if let Some(node) = target_node {
        if kind == "webhook" {
            target = r.url_of(kind, node);
            if !map.has("secret") {
                let help =
                    Some("add `secret: secret:NAME`; the receiver checks the signature with the same".to_owned());
                r.error(&codes::NEEDS, "a webhook needs a secret", map.place(), "what is it signed with?", help);
            }
            secret = r.secret(&mut map, "secret");
        } else {
            target = r.path(&format!("`{kind}`"), node).map(|path| path.display().to_string());
        }
    }
    map.finish(&mut r.d);
    Some(SinkSettings {
        kind: kind.to_owned(),
        target: target?,
        secret,
        origin: r.origin(node.span),
        base: r.base.to_owned(),
    })
}
