//! `environments/*.yaml`: the recipe of the sandbox, read and checked whole.

use std::sync::Arc;

use crate::diag::{Diagnostic, Diagnostics, MapReader, Node, Source, Span, codes, parse_yaml};
use crate::domain::definition::{Environment, ScanCommand, ServiceCommand, SetupCommand};

use super::context::Context;

/// The formats that scanners report in.
pub(super) const SCANNERS: &[&str] = &["sarif", "cargo", "jsonl", "pattern"];

/// Reads an environment's text, for instance one that a profile puts in the place of `file`.
pub(super) fn from_text(shown: &str, file: &str, text: &str) -> (Option<Environment>, Diagnostics) {
    let (tree, mut d) = parse_yaml(&Arc::new(Source::new(shown, text)));
    let environment = tree.and_then(|tree| read(&tree, file.to_owned(), &mut d));
    (environment, d)
}

/// Reads the file that the pipeline names; its mistakes are reported under its own name.
pub(super) fn environment(node: &Node, c: &mut Context<'_>) -> Option<Environment> {
    let (file, text) = c.file("`environment`", node)?;
    let (environment, d) = from_text(&c.files.shown(&file), &file, &text);
    c.other(d);
    environment
}

fn read(tree: &Node, file: String, d: &mut Diagnostics) -> Option<Environment> {
    if tree.is_null() {
        d.push(
            Diagnostic::error(&codes::EMPTY, "the file is empty", Span::new(0, 0), "no environment is in it")
                .help("write at least `test:`"),
        );
        return None;
    }
    let mut map = tree.map("an environment", d)?;
    let mut environment = Environment { file, ..Environment::default() };
    if let Some(mut base) = map.optional("base", d).and_then(|node| node.map("`base`", d)) {
        environment.e2b_template = nullable(&mut base, "e2b_template", d);
        environment.image = nullable(&mut base, "image", d);
        base.finish(d);
    }
    environment.tools = texts(&mut map, "tools", d);
    for node in map.optional("setup", d).and_then(|node| node.list("`setup`", d)).unwrap_or_default() {
        environment.setup.extend(setup(node, d));
    }
    if let Some(mut network) = map.optional("network", d).and_then(|node| node.map("`network`", d)) {
        environment.network_setup = texts(&mut network, "setup", d);
        environment.network_run = texts(&mut network, "run", d);
        network.finish(d);
    }
    if let Some(mut services) = map.optional("services", d).and_then(|node| node.map("`services`", d)) {
        for entry in services.rest() {
            environment
                .services
                .extend(service(&entry.key, &entry.value, d).map(|service| (entry.key.clone(), service)));
        }
    }
    environment.checks = texts(&mut map, "checks", d);
    environment.test = map.optional("test", d).and_then(|node| node.filled_string("`test`", d)).map(str::to_owned);
    if let Some(mut scanners) = map.optional("scanners", d).and_then(|node| node.map("`scanners`", d)) {
        for format in SCANNERS {
            for node in scanners.optional(format, d).map(Node::one_or_more).unwrap_or_default() {
                environment.scanners.extend(command(node, d).map(|command| ((*format).to_owned(), command)));
            }
        }
        scanners.finish(d);
    }
    if let Some(mut fresh) = map.optional("fresh", d).and_then(|node| node.map("`fresh`", d)) {
        environment.fresh_max_age = fresh.optional("max_age", d).and_then(|node| node.duration("`max_age`", d));
        environment.rebuild_when = texts(&mut fresh, "rebuild_when", d);
        fresh.finish(d);
    }
    map.finish(d);
    Some(environment)
}

fn nullable(map: &mut MapReader<'_>, key: &str, d: &mut Diagnostics) -> Option<String> {
    let node = map.take(key).filter(|node| !node.is_null())?;
    node.filled_string(&format!("`{key}`"), d).map(str::to_owned)
}

fn texts(map: &mut MapReader<'_>, key: &str, d: &mut Diagnostics) -> Vec<String> {
    let Some(items) = map.optional(key, d).and_then(|node| node.list(&format!("`{key}`"), d)) else {
        return Vec::new();
    };
    items.iter().filter_map(|item| item.filled_string(&format!("an entry of `{key}`"), d).map(str::to_owned)).collect()
}

fn setup(node: &Node, d: &mut Diagnostics) -> Option<SetupCommand> {
    if let Some(run) = node.text() {
        return Some(SetupCommand { run: run.to_owned(), reads: None });
    }
    let mut map = node.map("a setup command", d)?;
    let run = map.require("run", d).and_then(|node| node.filled_string("`run`", d)).map(str::to_owned);
    let reads = map.has("reads").then(|| texts(&mut map, "reads", d));
    map.finish(d);
    Some(SetupCommand { run: run?, reads })
}

fn service(name: &str, node: &Node, d: &mut Diagnostics) -> Option<ServiceCommand> {
    let mut map = node.map(&format!("service `{name}`"), d)?;
    let run = map.require("run", d).and_then(|node| node.filled_string("`run`", d)).map(str::to_owned);
    let ready = map.optional("ready", d).and_then(|node| node.filled_string("`ready`", d)).map(str::to_owned);
    map.finish(d);
    Some(ServiceCommand { run: run?, ready })
}

/// A command: its text, or `{run, ok_exit}`.
pub(super) fn command(node: &Node, d: &mut Diagnostics) -> Option<ScanCommand> {
    if node.text().is_some() {
        let run = node.filled_string("a command", d)?.to_owned();
        return Some(ScanCommand { run, ok_exit: vec![0] });
    }
    let mut map = node.map("a command", d)?;
    let run = map.require("run", d).and_then(|node| node.filled_string("`run`", d)).map(str::to_owned);
    let mut ok_exit = Vec::new();
    for node in map.optional("ok_exit", d).map(Node::one_or_more).unwrap_or_default() {
        ok_exit.extend(node.integer("`ok_exit`", 0..=255, d).and_then(|code| i32::try_from(code).ok()));
    }
    if ok_exit.is_empty() {
        ok_exit.push(0);
    }
    map.finish(d);
    Some(ScanCommand { run: run?, ok_exit })
}
