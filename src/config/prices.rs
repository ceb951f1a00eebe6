//! The price table: dated, by prompt length, in US dollars per million tokens.

use std::sync::Arc;

use crate::diag::{Diagnostic, Diagnostics, MapReader, Node, Source, codes, parse_yaml};
use crate::domain::definition::Origin;
use crate::expr::types::parse_date;

use super::settings::{PriceBand, Prices, SandboxPrice};

/// Reads the table from its text; `shown` names it in messages.
pub(super) fn prices(shown: &str, text: &str) -> (Prices, Diagnostics) {
    let source = Arc::new(Source::new(shown, text));
    let (tree, mut d) = parse_yaml(&source);
    let mut prices = Prices::default();
    let Some(mut map) = tree.as_ref().and_then(|tree| tree.map("a price table", &mut d)) else { return (prices, d) };
    if let Some(node) = map.require("version", &mut d)
        && node.text() != Some("1")
    {
        d.push(
            Diagnostic::error(&codes::VERSION, "unknown version", node.span, "this nightcrew reads version 1")
                .help("write `version: 1`"),
        );
    }
    if let Some(node) = map.require("as_of", &mut d)
        && let Some(date) = node.string("`as_of`", &mut d)
    {
        if parse_date(date).is_none() {
            node.bad(
                "`as_of`",
                "a date",
                "not of the form YYYY-MM-DD",
                Some("write for example `2026-11-20`".to_owned()),
                &mut d,
            );
        }
        prices.as_of = date.to_owned();
    }
    if let Some(mut models) = map.require("models", &mut d).and_then(|node| node.map("`models`", &mut d)) {
        for entry in models.rest() {
            if let Some(bands) = model(&entry.key, &entry.value, &mut d) {
                let line = u32::try_from(source.position(entry.key_span.start).0).unwrap_or(u32::MAX);
                prices.origins.insert(entry.key.clone(), Origin { file: shown.to_owned(), line });
                prices.models.insert(entry.key.clone(), bands);
            }
        }
    }
    // Added later: a table of an earlier time has none, and then only sandboxes that cost nothing are used.
    if let Some(mut sandboxes) = map.optional("sandboxes", &mut d).and_then(|node| node.map("`sandboxes`", &mut d)) {
        for entry in sandboxes.rest() {
            let Some(mut map) = entry.value.map(&format!("sandbox `{}`", entry.key), &mut d) else { continue };
            let vcpu = price("vcpu_second", true, &mut map, &mut d);
            let gib = price("gib_second", true, &mut map, &mut d);
            map.finish(&mut d);
            if let (Some(vcpu), Some(gib)) = (vcpu, gib) {
                prices.sandboxes.insert(entry.key.clone(), SandboxPrice { vcpu, gib });
            }
        }
    }
    map.finish(&mut d);
    (prices, d)
}

fn model(name: &str, node: &Node, d: &mut Diagnostics) -> Option<Vec<PriceBand>> {
    let mut map = node.map(&format!("model `{name}`"), d)?;
    let free = map.optional("free", d).and_then(|node| node.boolean("`free`", d));
    let bands_node = map.optional("bands", d);
    let bands = match (free, bands_node) {
        (Some(true), None) => Some(vec![PriceBand::default()]),
        (None | Some(false), Some(node)) => bands(node, d),
        _ => {
            let help = "write `bands: [{input: …, output: …}]`, or `{free: true}`";
            d.push(
                Diagnostic::error(
                    &codes::BAD_PRICES,
                    format!("model `{name}` needs its prices"),
                    map.place(),
                    "either `bands` or `free: true`",
                )
                .help(help),
            );
            None
        }
    };
    map.finish(d);
    bands
}

fn bands(node: &Node, d: &mut Diagnostics) -> Option<Vec<PriceBand>> {
    let items = node.list("`bands`", d)?;
    let mut found: Vec<PriceBand> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let Some(mut map) = item.map("a price band", d) else { continue };
        let up_to_tokens = map
            .optional("up_to_tokens", d)
            .and_then(|node| node.integer("`up_to_tokens`", 1..=i64::MAX, d))
            .and_then(|tokens| u64::try_from(tokens).ok());
        let input = price("input", true, &mut map, d).unwrap_or_default();
        let output = price("output", true, &mut map, d).unwrap_or_default();
        // What is not said is assumed dear rather than cheap: a cap must hold.
        let cache_write_5m = price("cache_write_5m", false, &mut map, d).unwrap_or(input * 1.25);
        let cache_write_1h = price("cache_write_1h", false, &mut map, d).unwrap_or(input * 2.0);
        let cache_read = price("cache_read", false, &mut map, d).unwrap_or(input);
        let last = index + 1 == items.len();
        let previous = found.last().and_then(|band| band.up_to_tokens);
        let ordered = match (up_to_tokens, last) {
            (None, true) => true,
            (Some(tokens), false) => previous.is_none_or(|previous| tokens > previous),
            _ => false,
        };
        if !ordered {
            let help = "write the shortest band first, each with `up_to_tokens`, and the last one without";
            d.push(
                Diagnostic::error(
                    &codes::BAD_PRICES,
                    "price bands out of order",
                    map.place(),
                    "this band leaves a gap",
                )
                .help(help),
            );
        }
        map.finish(d);
        found.push(PriceBand { up_to_tokens, input, output, cache_write_5m, cache_write_1h, cache_read });
    }
    if found.is_empty() {
        d.push(Diagnostic::error(&codes::EMPTY, "no price bands", node.span, "at least one is needed"));
        return None;
    }
    Some(found)
}

fn price(key: &str, required: bool, map: &mut MapReader<'_>, d: &mut Diagnostics) -> Option<f64> {
    let node = if required { map.require(key, d) } else { map.optional(key, d) }?;
    let what = format!("`{key}`");
    let price = node.number(&what, d)?;
    if !(0.0..=100_000.0).contains(&price) {
        node.bad(&what, "US dollars per million tokens", "out of range", None, d);
        return None;
    }
    Some(price)
}
