//! `on`: what starts a run beside a person.

use jiff::Timestamp;

use crate::diag::{MapReader, Node, Span, closest, codes};
use crate::domain::definition::{Missed, On, Overlap, ScheduleDef, SentryDef, TellDef};
use crate::policy::due::{CronError, CronSchedule, zone_names};

use super::context::Context;

/// `missed: all` without a number makes up for at most so many slots.
const MOST_MISSED: u32 = 24;

pub(super) fn on(node: &Node, c: &mut Context<'_>) -> On {
    let mut on = On::default();
    let Some(mut map) = node.map("`on`", &mut c.d) else { return on };
    map.renamed("cron", "schedule: {cron: …, timezone: …}");
    on.schedule = map.optional("schedule", &mut c.d).and_then(|node| schedule(node, c));
    on.sentry = map.optional("sentry", &mut c.d).and_then(|node| sentry(node, c));
    map.finish(&mut c.d);
    on
}

fn schedule(node: &Node, c: &mut Context<'_>) -> Option<ScheduleDef> {
    let mut map = node.map("`schedule`", &mut c.d)?;
    for other in ["tz", "zone", "time_zone"] {
        map.renamed(other, "timezone");
    }
    let cron_node = map.require("cron", &mut c.d);
    let cron = cron_node.and_then(|node| cron(node, c));
    let zone_node = zone_node(&mut map, c);
    let zone = zone_node.and_then(|node| node.filled_string("`timezone`", &mut c.d).map(|text| (text, node)));
    if let (Some((cron, cron_node)), zone) = (cron, zone) {
        check_cron(cron, cron_node, zone, c);
    } else if let Some((text, node)) = zone {
        check_cron(ANY_DAY, node, Some((text, node)), c);
    }
    let missed = map.optional("missed", &mut c.d).and_then(|node| missed(node, c)).unwrap_or_default();
    let max_age = map.optional("max_age", &mut c.d).and_then(|node| node.duration("`max_age`", &mut c.d));
    let overlap = map
        .optional("overlap", &mut c.d)
        .and_then(|node| node.word("`overlap`", &["skip", "queue", "cancel_previous"], &mut c.d));
    let jitter = map.optional("jitter", &mut c.d).and_then(|node| node.duration("`jitter`", &mut c.d));
    map.finish(&mut c.d);
    Some(ScheduleDef {
        cron: cron?.0.to_owned(),
        timezone: zone?.0.to_owned(),
        missed,
        max_age,
        overlap: match overlap {
            Some("queue") => Overlap::Queue,
            Some("cancel_previous") => Overlap::CancelPrevious,
            _ => Overlap::Skip,
        },
        jitter,
        origin: c.origin(node.span),
    })
}

fn cron<'n>(node: &'n Node, c: &mut Context<'_>) -> Option<(&'n str, &'n Node)> {
    let text = node.filled_string("`cron`", &mut c.d)?;
    if node.in_flow && node.plain().is_some() {
        let help = format!("quote it: `cron: \"{text}\"`");
        c.error(
            &codes::CRON_QUOTES,
            "a cron expression without quotes",
            node.span,
            "inside `{…}` a comma would cut it",
            Some(help),
        );
        return None;
    }
    Some((text, node))
}

/// The zone's node; that there is none is a mistake of its own.
fn zone_node<'n>(map: &mut MapReader<'n>, c: &mut Context<'_>) -> Option<&'n Node> {
    let misspelt = ["tz", "zone", "time_zone"].iter().any(|other| map.has(other));
    if map.has("timezone") {
        return map.optional("timezone", &mut c.d);
    }
    map.take("timezone");
    if !misspelt {
        let help = "add `timezone: Europe/Berlin`, or `timezone: UTC`".to_owned();
        c.error(
            &codes::NO_ZONE,
            "a schedule without a time zone",
            map.place(),
            "in which zone is this time meant?",
            Some(help),
        );
    }
    None
}

/// An expression without mistakes, to check a zone by.
const ANY_DAY: &str = "0 0 * * *";

fn check_cron(cron: &str, node: &Node, zone: Option<(&str, &Node)>, c: &mut Context<'_>) {
    // Whether a slot ever comes does not depend on today.
    let reference = Timestamp::UNIX_EPOCH;
    let zone_name = zone.map_or("UTC", |(name, _)| name);
    let Err(error) = CronSchedule::parse(cron, zone_name).and_then(|schedule| schedule.first(reference)) else {
        return;
    };
    match (&error, zone) {
        (CronError::UnknownZone { zone: name }, Some((_, zone_node))) => {
            let known = zone_names();
            let near = closest(name, known.iter().map(String::as_str)).map(|near| format!("did you mean `{near}`?"));
            let help = near.or_else(|| Some(error.help()));
            c.error(
                &codes::BAD_ZONE,
                format!("unknown time zone `{name}`"),
                zone_node.span,
                "not in the time zone database",
                help,
            );
            // The expression is checked all the same.
            check_cron(cron, node, None, c);
        }
        _ => {
            let inner = node.inner_start(c.d.source().text());
            let span = match (inner, error.span()) {
                (Some(start), Some(range)) if !range.is_empty() => Span::new(start + range.start, start + range.end),
                _ => node.span,
            };
            c.error(
                &codes::BAD_CRON,
                "a cron expression that is not understood",
                span,
                error.to_string(),
                Some(error.help()),
            );
            // The zone is checked all the same.
            if let Some((_, zone_node)) = zone.filter(|_| cron != ANY_DAY) {
                check_cron(ANY_DAY, zone_node, zone, c);
            }
        }
    }
}

fn missed(node: &Node, c: &mut Context<'_>) -> Option<Missed> {
    let text = node.string("`missed`", &mut c.d)?;
    let count =
        text.strip_prefix("all(").and_then(|rest| rest.strip_suffix(')')).and_then(|count| count.parse::<u32>().ok());
    match (text, count) {
        ("skip", _) => Some(Missed::Skip),
        ("latest", _) => Some(Missed::Latest),
        ("all", _) => Some(Missed::All(MOST_MISSED)),
        (_, Some(count)) if (1..=1_000).contains(&count) => Some(Missed::All(count)),
        _ => {
            node.word("`missed`", &["skip", "latest", "all", "all(3)"], &mut c.d);
            None
        }
    }
}

fn sentry(node: &Node, c: &mut Context<'_>) -> Option<SentryDef> {
    const WHEN: &[&str] = &["new", "worsened", "regressed"];
    let mut map = node.map("`sentry`", &mut c.d)?;
    let project = map.require("project", &mut c.d).and_then(|node| node.filled_string("`project`", &mut c.d));
    let mut when = Vec::new();
    if let Some(node) = map.optional("when", &mut c.d) {
        for item in node.one_or_more() {
            when.extend(item.word("`when`", WHEN, &mut c.d).map(str::to_owned));
        }
    } else {
        when.extend(WHEN.iter().map(|word| (*word).to_owned()));
    }
    let debounce = map.optional("debounce", &mut c.d).and_then(|node| node.duration("`debounce`", &mut c.d));
    let every = map.optional("every", &mut c.d).and_then(|node| node.duration("`every`", &mut c.d));
    let tell = map.optional("tell", &mut c.d).and_then(|node| tell(node, c));
    map.finish(&mut c.d);
    Some(SentryDef { project: project?.to_owned(), when, debounce, every, tell })
}

fn tell(node: &Node, c: &mut Context<'_>) -> Option<TellDef> {
    let mut map = node.map("`tell`", &mut c.d)?;
    let mut tell = TellDef::default();
    for (name, told) in [("comment", &mut tell.comment), ("resolve", &mut tell.resolve)] {
        let node = map.optional(name, &mut c.d);
        *told = node.and_then(|node| node.boolean(&format!("`{name}`"), &mut c.d)).unwrap_or(false);
    }
    if let Some(node) = map.optional("assign", &mut c.d) {
        let who = node.filled_string("`assign`", &mut c.d)?;
        let id = who.strip_prefix("user:").or(who.strip_prefix("team:"));
        let known = match id {
            Some(id) => !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()),
            None => who.split_once('@').is_some_and(|(name, host)| !name.is_empty() && host.contains('.')),
        };
        if known {
            tell.assign = Some(who.to_owned());
        } else {
            let help = "write `team:ID`, `user:ID` or an e-mail address, as Sentry knows them".to_owned();
            let title = format!("`assign` cannot be `{who}`");
            c.error(&codes::BAD_VALUE, title, node.span, "nobody is called this in Sentry", Some(help));
        }
    }
    map.finish(&mut c.d);
    Some(tell)
}
