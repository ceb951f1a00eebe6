//! `tools`: read-only queries that `fetch` and agents may call.

use crate::diag::{Node, closest, codes};
use crate::domain::definition::{ToolDef, ToolQuery};
use crate::expr::parse_type::parse_type;
use crate::expr::types::Type;

use super::context::Context;
use super::read::check_name;

/// The words for a query, with what they need.
const QUERIES: &[&str] = &["sql", "http", "promql"];
/// Their options.
const OPTIONS: &[&str] = &["file", "get", "rows", "query", "step"];

pub(super) fn tools(node: &Node, c: &mut Context<'_>) -> Vec<ToolDef> {
    let Some(mut map) = node.map("`tools`", &mut c.d) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in map.rest() {
        check_name(&entry.key, entry.key_span, "a tool", c);
        if c.registry.tool(&entry.key).is_some() {
            let help = "choose another name: a model sees both".to_owned();
            c.error(
                &codes::DUPLICATE_NAME,
                format!("`{}` is a built-in tool", entry.key),
                entry.key_span,
                "already the name of a capability",
                Some(help),
            );
        }
        found.extend(tool(&entry.key, &entry.value, c));
    }
    found
}

fn tool(name: &str, node: &Node, c: &mut Context<'_>) -> Option<ToolDef> {
    let mut map = node.map(&format!("tool `{name}`"), &mut c.d)?;
    let kinds: Vec<&str> = QUERIES.iter().copied().filter(|word| map.has(word)).collect();
    let (source, query) = match kinds.as_slice() {
        ["sql"] => {
            let source = map.optional("sql", &mut c.d).and_then(|node| source("sql", node, c));
            let file = map.require("file", &mut c.d).and_then(|node| c.file("`file`", node));
            (source, file.map(|(file, text)| ToolQuery::Sql { file, text }))
        }
        ["http"] => {
            let source = map.optional("http", &mut c.d).and_then(|node| source("http", node, c));
            let path = map.require("get", &mut c.d).and_then(|node| get(node, c));
            let rows = map.optional("rows", &mut c.d).and_then(|node| rows(node, c));
            (source, path.map(|path| ToolQuery::HttpGet { path, rows }))
        }
        ["promql"] => {
            let source = map.optional("promql", &mut c.d).and_then(|node| source("promql", node, c));
            let query = map.require("query", &mut c.d).and_then(|node| node.filled_string("`query`", &mut c.d));
            let step = map.optional("step", &mut c.d).and_then(|node| step(node, c));
            (source, query.map(|query| ToolQuery::Promql { query: query.to_owned(), step }))
        }
        [] => {
            let help =
                Some("write for example `{sql: warehouse, file: sql/x.sql}` or `{http: shop, get: /v1/x}`".to_owned());
            let other = OPTIONS.iter().any(|option| map.has(option));
            let label = if other { "`sql`, `http` or `promql` names its source" } else { "it asks nothing" };
            c.error(&codes::NEEDS, format!("tool `{name}` has no source"), map.place(), label, help);
            map.know(QUERIES.iter().chain(OPTIONS).copied());
            for key in OPTIONS {
                map.take(key);
            }
            (None, None)
        }
        _ => {
            let help = Some("keep one of them, or make two tools".to_owned());
            c.error(
                &codes::TWO_KINDS,
                format!("tool `{name}` has two sources"),
                map.place(),
                "`sql`, `http` and `promql` exclude each other",
                help,
            );
            for key in QUERIES.iter().chain(OPTIONS) {
                map.take(key);
            }
            (None, None)
        }
    };
    let args = map.optional("args", &mut c.d).map(|node| args(node, c)).unwrap_or_default();
    let max_rows =
        map.optional("max_rows", &mut c.d).and_then(|node| node.integer("`max_rows`", 1..=1_000_000, &mut c.d));
    let mut hide = Vec::new();
    if let Some(node) = map.optional("hide", &mut c.d) {
        for item in node.one_or_more() {
            hide.extend(item.filled_string("`hide`", &mut c.d).map(str::to_owned));
        }
    }
    map.finish(&mut c.d);
    Some(ToolDef {
        name: name.to_owned(),
        source: source?,
        query: query?,
        args,
        max_rows: max_rows.and_then(|rows| u32::try_from(rows).ok()),
        hide,
        origin: c.origin(node.span),
    })
}

/// The configured source that a tool asks.
fn source(word: &str, node: &Node, c: &mut Context<'_>) -> Option<String> {
    let name = node.filled_string(&format!("`{word}`"), &mut c.d)?;
    let Some(known) = &c.surroundings.sources else { return Some(name.to_owned()) };
    match known.get(name) {
        Some(kind) => {
            let query = c.registry.source(kind).map_or("", |kind| kind.query);
            // A profile may bind recorded answers (`files`) in place of either.
            if !query.is_empty() && query != word {
                let title = format!("source `{name}` does not answer {word}");
                c.error(
                    &codes::UNKNOWN_SOURCE,
                    title,
                    node.span,
                    format!("it is configured as `{kind}`"),
                    Some(format!("write `{query}: {name}`")),
                );
            }
        }
        None => unknown_source(name, node, known.keys().map(String::as_str).collect(), c),
    }
    Some(name.to_owned())
}

/// A name near a known one is a slip. Another one may be configured elsewhere: its step is blocked here, and `plan` and
/// `doctor` say so; the file itself is right.
pub(super) fn unknown_source(name: &str, node: &Node, known: Vec<&str>, c: &mut Context<'_>) {
    if let Some(near) = closest(name, known) {
        let help = Some(format!("did you mean `{near}`?"));
        c.error(
            &codes::UNKNOWN_SOURCE,
            format!("unknown source `{name}`"),
            node.span,
            "neither configured nor a tool of this file",
            help,
        );
    }
}

fn get(node: &Node, c: &mut Context<'_>) -> Option<String> {
    let path = node.filled_string("`get`", &mut c.d)?;
    if !path.starts_with('/') || path.contains("://") || path.contains(char::is_whitespace) {
        node.bad(
            "`get`",
            "a path that begins with `/`",
            "the address itself is configured",
            Some("write for example `/v1/orders`".to_owned()),
            &mut c.d,
        );
        return None;
    }
    Some(path.to_owned())
}

/// Between two points of a range, in seconds.
fn step(node: &Node, c: &mut Context<'_>) -> Option<u64> {
    let step = node.duration("`step`", &mut c.d)?;
    if step.as_secs() == 0 {
        node.bad("`step`", "at least one second", "too short", Some("write for example `1h`".to_owned()), &mut c.d);
        return None;
    }
    Some(step.as_secs())
}

fn rows(node: &Node, c: &mut Context<'_>) -> Option<String> {
    let path = node.filled_string("`rows`", &mut c.d)?;
    let shaped = path == "$"
        || path.strip_prefix("$.").is_some_and(|rest| {
            rest.split('.')
                .all(|part| !part.is_empty() && part.chars().all(|ch| ch.is_alphanumeric() || matches!(ch, '_' | '-')))
        });
    if !shaped {
        node.bad("`rows`", "a path such as `$.data`", "`$` and names with dots between", None, &mut c.d);
        return None;
    }
    Some(path.to_owned())
}

fn args(node: &Node, c: &mut Context<'_>) -> Vec<(String, Type)> {
    let Some(mut map) = node.map("`args`", &mut c.d) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in map.rest() {
        // `from` and `in` are ordinary names here: they are never seen by an expression.
        if entry.key != "in" {
            check_name(&entry.key, entry.key_span, "an argument", c);
        }
        let no_keys = |_: &str| Err(Some("`key(…)` is for `output`".to_owned()));
        if let Some(ty) = parse_type(&entry.value, &no_keys, &mut c.d) {
            found.push((entry.key.clone(), ty));
        }
    }
    found
}
