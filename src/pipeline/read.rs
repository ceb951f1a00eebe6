//! The top level of a pipeline: name, owner, params, limits, repository; the rest is handed on.

use std::time::Duration;

use jiff::civil::Date;
use serde_json::Value;

use crate::base::hash::Hash;
use crate::base::money::UsdMicros;
use crate::diag::{Diagnostic, MapReader, Node, NodeKind, ScalarStyle, Span, codes};
use crate::domain::definition::{From, Limits, Owner, Param, Pipeline, Repository};
use crate::domain::run::Effects;
use crate::expr::names;
use crate::expr::parse_type::parse_type;
use crate::expr::types::{Field, Type};

use super::context::Context;
use super::scope::Scope;
use super::{environment, on, steps, tools};

/// The version of the dialect.
const VERSION: &str = "1";

/// Where limits stand, for mistakes that involve two of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LimitSpans {
    pub max_budget: Option<(UsdMicros, Span)>,
}

/// Reads the whole tree. The result is to be thrown away when mistakes were found.
pub(super) fn pipeline(tree: &Node, c: &mut Context<'_>) -> Option<Pipeline> {
    if tree.is_null() {
        let help = "write at least `version`, `name`, `summary` and `steps`".to_owned();
        c.error(&codes::EMPTY, "the file is empty", Span::new(0, 0), "no pipeline is in it", Some(help));
        return None;
    }
    let mut map = tree.map("a pipeline", &mut c.d)?;
    for (old, new) in [
        ("description", "summary"),
        ("triggers", "on"),
        ("trigger", "on"),
        ("schedule", "on: {schedule: …}"),
        ("jobs", "steps"),
        ("inputs", "params"),
    ] {
        map.renamed(old, new);
    }
    version(&mut map, c);
    let name = name(&mut map, c);
    let summary = map.require("summary", &mut c.d).and_then(|node| node.filled_string("`summary`", &mut c.d));
    let owner = map.optional("owner", &mut c.d).and_then(|node| owner(node, c));
    let effects =
        map.optional("effects", &mut c.d).and_then(|node| node.word("`effects`", &["preview", "live"], &mut c.d));
    let params = map.optional("params", &mut c.d).map(|node| params(node, c)).unwrap_or_default();
    let on = map.optional("on", &mut c.d).map(|node| on::on(node, c)).unwrap_or_default();
    let (limits, limit_spans) = map.optional("limits", &mut c.d).map(|node| limits(node, c)).unwrap_or_default();
    let repository = map.optional("repository", &mut c.d).and_then(|node| repository(node, c));
    let environment_node = map.optional("environment", &mut c.d);
    let environment = environment_node.and_then(|node| environment::environment(node, c));
    let tools = map.optional("tools", &mut c.d).map(|node| tools::tools(node, c)).unwrap_or_default();
    let steps_node = map.require("steps", &mut c.d);

    let mut scope = Scope::default();
    scope.types.set("trigger", trigger_type());
    scope.types.set("run", run_type());
    let param_fields = params.iter().map(|param| Field::new(param.name.clone(), param.ty.clone())).collect();
    scope.types.set("params", Type::Map(param_fields));
    let rules = steps::Rules {
        tools: &tools,
        limits: limit_spans,
        // A file that could not be read was reported; what depends on it is not asked for a second time.
        environment: environment_node.is_some(),
        repository: map.has("repository"),
        sentry: on.sentry.is_some(),
    };
    let steps = steps_node.map(|node| steps::steps(node, &mut scope, &rules, c)).unwrap_or_default();
    map.finish(&mut c.d);
    Some(Pipeline {
        name: name?.to_owned(),
        summary: summary?.to_owned(),
        hash: Hash::of(""),
        files: Vec::new(),
        owner,
        effects: if effects == Some("live") { Effects::Live } else { Effects::Preview },
        params,
        on,
        limits,
        repository,
        environment,
        tools,
        steps,
    })
}

fn version(map: &mut MapReader<'_>, c: &mut Context<'_>) {
    let Some(node) = map.require("version", &mut c.d) else { return };
    let Some(text) = node.string("`version`", &mut c.d) else { return };
    if text != VERSION || node.plain().is_none() {
        c.error(
            &codes::VERSION,
            "unknown version",
            node.span,
            "this nightcrew reads version 1",
            Some("write `version: 1`".to_owned()),
        );
    }
}

fn name<'n>(map: &mut MapReader<'n>, c: &mut Context<'_>) -> Option<&'n str> {
    let node = map.require("name", &mut c.d)?;
    let name = node.string("`name`", &mut c.d)?;
    if let Err((why, help)) = names::check_kebab_case(name) {
        c.error(&codes::NAME, format!("`{name}` cannot be a pipeline's name"), node.span, why, help);
        return None;
    }
    Some(name)
}

fn owner(node: &Node, c: &mut Context<'_>) -> Option<Owner> {
    let mut map = node.map("`owner`", &mut c.d)?;
    let channel = map.require("channel", &mut c.d).and_then(|node| channel(node, c));
    let alarm_if_late =
        map.optional("alarm_if_late", &mut c.d).and_then(|node| node.duration("`alarm_if_late`", &mut c.d));
    map.finish(&mut c.d);
    Some(Owner { channel: channel?, alarm_if_late })
}

/// The name of a channel; a `#` in front (quoted) is dropped.
pub(super) fn channel(node: &Node, c: &mut Context<'_>) -> Option<String> {
    let text = node.filled_string("`channel`", &mut c.d)?;
    let name = text.strip_prefix('#').unwrap_or(text);
    let shaped = !name.is_empty() && name.chars().all(|ch| ch.is_alphanumeric() || matches!(ch, '-' | '_' | '.'));
    if !shaped || text.starts_with('@') {
        node.bad(
            "`channel`",
            "the name of a channel",
            "one word without spaces",
            Some("write for example `ops`".to_owned()),
            &mut c.d,
        );
        return None;
    }
    Some(name.to_owned())
}

fn params(node: &Node, c: &mut Context<'_>) -> Vec<Param> {
    let Some(mut map) = node.map("`params`", &mut c.d) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in map.rest() {
        check_name(&entry.key, entry.key_span, "a param", c);
        let Some(mut param) = entry.value.map(&format!("param `{}`", entry.key), &mut c.d) else { continue };
        let no_keys = |step: &str| Err(Some(format!("`key({step})` is for `output`; a param has no earlier step")));
        let type_node = param.require("type", &mut c.d);
        let ty = type_node.and_then(|node| parse_type(node, &no_keys, &mut c.d));
        let default_node = param.take("default");
        let default = match (&ty, default_node) {
            (Some(ty), Some(node)) => default_value(ty, node, c),
            _ => None,
        };
        param.finish(&mut c.d);
        // A param without a type is kept as anything, so that expressions about it are not wrong as well.
        let ty = ty.unwrap_or(Type::Any);
        found.push(Param { name: entry.key.clone(), ty, default });
    }
    found
}

fn default_value(ty: &Type, node: &Node, c: &mut Context<'_>) -> Option<Value> {
    let value = to_json(ty, node);
    // Any day will do: only whether the default fits is asked here.
    if let Err(mistakes) = ty.resolve_default(&value, Date::constant(2026, 1, 1)) {
        for mistake in mistakes.into_iter().filter(|_| !node.is_broken()) {
            let help = (*ty.required() == Type::Date)
                .then(|| "write `today`, `yesterday` or a date such as 2026-11-20".to_owned());
            c.error(&codes::BAD_VALUE, "the default does not fit the type", node.span, mistake.to_string(), help);
        }
        return None;
    }
    Some(value)
}

/// The JSON that a node means where `ty` is expected: nothing else is coerced.
fn to_json(ty: &Type, node: &Node) -> Value {
    match (&node.kind, ty.required()) {
        (NodeKind::Scalar { text, style: ScalarStyle::Plain }, Type::Integer | Type::Number | Type::Ratio) => {
            serde_json::from_str(text).ok().filter(Value::is_number).unwrap_or_else(|| Value::String(text.clone()))
        }
        (NodeKind::Scalar { text, style: ScalarStyle::Plain }, Type::Boolean) => match text.as_str() {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            other => Value::String(other.to_owned()),
        },
        (NodeKind::Scalar { text, .. }, _) => Value::String(text.clone()),
        (NodeKind::Seq(items), Type::List(of)) => Value::Array(items.iter().map(|item| to_json(of, item)).collect()),
        (NodeKind::Map(entries), map) => Value::Object(
            entries
                .iter()
                .map(|entry| (entry.key.clone(), to_json(map.field(&entry.key).unwrap_or(&Type::Any), &entry.value)))
                .collect(),
        ),
        (NodeKind::Seq(items), _) => Value::Array(items.iter().map(|item| to_json(&Type::Any, item)).collect()),
        (NodeKind::Null | NodeKind::Broken, _) => Value::Null,
    }
}

/// Reports a name that is not `snake_case` or is reserved.
pub(super) fn check_name(name: &str, span: Span, what: &str, c: &mut Context<'_>) -> bool {
    match names::check_snake_case(name) {
        Ok(()) => true,
        Err((why, help)) => {
            c.error(&codes::NAME, format!("`{name}` cannot be the name of {what}"), span, why, help);
            false
        }
    }
}

fn limits(node: &Node, c: &mut Context<'_>) -> (Limits, LimitSpans) {
    let mut limits = Limits::default();
    let mut spans = LimitSpans::default();
    let Some(mut map) = node.map("`limits`", &mut c.d) else { return (limits, spans) };
    let count = |key: &str, map: &mut MapReader<'_>, c: &mut Context<'_>, least: i64| -> Option<From<u32>> {
        let node = map.optional(key, &mut c.d)?;
        let value = node.integer(&format!("`{key}`"), least..=1_000_000, &mut c.d)?;
        Some(From { value: u32::try_from(value).unwrap_or(u32::MAX), origin: c.origin(node.span) })
    };
    let money = |key: &str, map: &mut MapReader<'_>, c: &mut Context<'_>| -> Option<(From<UsdMicros>, Span)> {
        let node = map.optional(key, &mut c.d)?;
        let value = UsdMicros(node.money(&format!("`{key}`"), &mut c.d)?);
        Some((From { value, origin: c.origin(node.span) }, node.span))
    };
    limits.max_turns = count("max_turns", &mut map, c, 1);
    let budget = money("max_budget_usd", &mut map, c);
    let day = money("max_per_day_usd", &mut map, c);
    if let (Some((budget, budget_span)), Some((day, day_span))) = (&budget, &day)
        && budget.value > day.value
    {
        c.d.push(
            Diagnostic::error(
                &codes::LIMIT,
                "one run may spend more than a day",
                *budget_span,
                format!("{} a run", budget.value),
            )
            .also(*day_span, format!("{} a day", day.value))
            .help("lower `max_budget_usd`, or raise `max_per_day_usd`"),
        );
    }
    spans.max_budget = budget.as_ref().map(|(from, span)| (from.value, *span));
    limits.max_budget_usd = budget.map(|(from, _)| from);
    limits.max_per_day_usd = day.map(|(from, _)| from);
    limits.max_duration = map.optional("max_duration", &mut c.d).and_then(|node| {
        let value = node.duration("`max_duration`", &mut c.d)?;
        if value == Duration::ZERO {
            node.bad("`max_duration`", "longer than nothing", "no step could run", None, &mut c.d);
        }
        Some(From { value, origin: c.origin(node.span) })
    });
    limits.keep_for_report_permille = map.optional("keep_for_report", &mut c.d).and_then(|node| {
        let ratio = node.ratio("`keep_for_report`", &mut c.d)?;
        if ratio > 0.9 {
            c.error(
                &codes::LIMIT,
                "nothing is left for the work",
                node.span,
                "at most 90% can be held back",
                Some("write for example `10%`".to_owned()),
            );
        }
        Some(From { value: permille(ratio), origin: c.origin(node.span) })
    });
    limits.max_open_prs = count("max_open_prs", &mut map, c, 0);
    map.finish(&mut c.d);
    (limits, spans)
}

/// A ratio in thousandths.
pub(super) fn permille(ratio: f64) -> u32 {
    (ratio * 1000.0).round() as u32
}

fn repository(node: &Node, c: &mut Context<'_>) -> Option<Repository> {
    let mut map = node.map("`repository`", &mut c.d)?;
    let github = map.optional("github", &mut c.d).and_then(|node| {
        let text = node.filled_string("`github`", &mut c.d)?;
        let part = |part: &str| {
            !part.is_empty() && part.chars().all(|ch| ch.is_ascii_alphanumeric() || matches!(ch, '-' | '_' | '.'))
        };
        let shaped = text.split_once('/').is_some_and(|(owner, name)| part(owner) && part(name));
        if !shaped {
            let short =
                text.trim_end_matches(".git").rsplit("github.com/").next().unwrap_or("").trim_start_matches(':');
            let help = if short != text && short.contains('/') {
                format!("write `{short}`")
            } else {
                "write for example `acme/api`".to_owned()
            };
            node.bad("`github`", "`owner/name`", "not of that form", Some(help), &mut c.d);
        }
        Some(text.to_owned())
    });
    let text = |key: &str, map: &mut MapReader<'_>, c: &mut Context<'_>| {
        map.optional(key, &mut c.d)
            .and_then(|node| node.filled_string(&format!("`{key}`"), &mut c.d))
            .map(str::to_owned)
    };
    let r#ref = text("ref", &mut map, c);
    let path = text("path", &mut map, c);
    let mut may_reach = Vec::new();
    if let Some(node) = map.optional("may_reach", &mut c.d) {
        for item in node.one_or_more() {
            let word = item.word("`may_reach`", &["public_channels", "public_repositories"], &mut c.d);
            may_reach.extend(word.map(str::to_owned));
        }
    }
    if !map.has("github") && !map.has("path") {
        c.error(
            &codes::NEEDS,
            "a repository is somewhere",
            map.place(),
            "`github` or `path` is needed",
            Some("add `github: owner/name`".to_owned()),
        );
    }
    map.finish(&mut c.d);
    Some(Repository { github, r#ref, path, may_reach })
}

fn trigger_type() -> Type {
    Type::Map(vec![
        Field::new("kind", Type::TEXT),
        Field::new("key", Type::TEXT),
        Field::new("item", Type::Any.optional()),
    ])
}

fn run_type() -> Type {
    Type::Map(vec![
        Field::new("id", Type::TEXT),
        Field::new("started_at", Type::TEXT),
        Field::new("nominal_at", Type::TEXT),
    ])
}
