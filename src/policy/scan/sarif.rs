//! SARIF 2.1.0, the part that says what was found where.
//!
//! Source: <https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/sarif-v2.1.0-os.html>, sections 3.4 (locations), 3.14 (run),
//! 3.27 (result), 3.35 (suppression).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Found, Scanned, relative, severity};

/// Some tools write `null` for what they leave out.
fn or_null<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

#[derive(Deserialize)]
struct Log {
    #[serde(default, deserialize_with = "or_null")]
    runs: Vec<Run>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Run {
    tool: Tool,
    #[serde(default)]
    results: Option<Vec<Outcome>>,
    #[serde(default, deserialize_with = "or_null")]
    artifacts: Vec<Artifact>,
    #[serde(default, deserialize_with = "or_null")]
    original_uri_base_ids: BTreeMap<String, Location>,
    #[serde(default, deserialize_with = "or_null")]
    invocations: Vec<Invocation>,
}

#[derive(Deserialize)]
struct Tool {
    driver: Component,
    #[serde(default, deserialize_with = "or_null")]
    extensions: Vec<Component>,
}

#[derive(Deserialize)]
struct Component {
    #[serde(default, deserialize_with = "or_null")]
    name: String,
    #[serde(default, deserialize_with = "or_null")]
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default, deserialize_with = "or_null")]
    id: String,
    #[serde(default)]
    short_description: Option<Message>,
    #[serde(default)]
    default_configuration: Option<Configuration>,
    #[serde(default, deserialize_with = "or_null")]
    message_strings: BTreeMap<String, Message>,
}

#[derive(Deserialize)]
struct Configuration {
    #[serde(default)]
    level: Option<String>,
}

#[derive(Default, Deserialize)]
struct Message {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    markdown: Option<String>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default, deserialize_with = "or_null")]
    arguments: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    #[serde(default)]
    rule_id: Option<String>,
    #[serde(default)]
    rule_index: Option<i64>,
    #[serde(default)]
    rule: Option<RuleReference>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    level: Option<String>,
    #[serde(default, deserialize_with = "or_null")]
    message: Message,
    #[serde(default, deserialize_with = "or_null")]
    locations: Vec<Place>,
    #[serde(default, deserialize_with = "or_null")]
    fingerprints: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_null")]
    partial_fingerprints: BTreeMap<String, String>,
    #[serde(default)]
    suppressions: Option<Vec<Suppression>>,
    #[serde(default)]
    baseline_state: Option<String>,
    #[serde(default)]
    occurrence_count: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RuleReference {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    index: Option<i64>,
    #[serde(default)]
    tool_component: Option<ComponentReference>,
}

#[derive(Deserialize)]
struct ComponentReference {
    #[serde(default)]
    index: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Place {
    #[serde(default)]
    physical_location: Option<Physical>,
    #[serde(default, deserialize_with = "or_null")]
    logical_locations: Vec<Logical>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Physical {
    #[serde(default)]
    artifact_location: Option<Location>,
    #[serde(default)]
    region: Option<Region>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Location {
    #[serde(default)]
    uri: Option<String>,
    #[serde(default)]
    uri_base_id: Option<String>,
    #[serde(default)]
    index: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Region {
    #[serde(default)]
    start_line: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Logical {
    #[serde(default)]
    fully_qualified_name: Option<String>,
    #[serde(default)]
    name: Option<String>,
}

#[derive(Deserialize)]
struct Artifact {
    #[serde(default)]
    location: Option<Location>,
}

#[derive(Deserialize)]
struct Suppression {
    #[serde(default)]
    status: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Invocation {
    #[serde(default)]
    execution_successful: Option<bool>,
}

/// Findings of a SARIF log, one [`Scanned`] for each tool in it.
///
/// Left out: what is suppressed, what passed, what is gone compared with the tool's own baseline. Errors: no SARIF, for people.
pub fn sarif(text: &str, roots: &[String]) -> Result<Vec<Scanned>, String> {
    let log: Log = serde_json::from_str(text.trim_start_matches('\u{feff}').trim())
        .map_err(|error| format!("this is no SARIF: {error}"))?;
    if log.runs.is_empty() {
        return Err("this SARIF has no `runs`".into());
    }
    let mut all: Vec<Scanned> = Vec::new();
    for run in log.runs {
        let of = Scanned::new(&run.tool.driver.name);
        let at = all.iter().position(|known| known.scanner == of.scanner).unwrap_or_else(|| {
            all.push(of);
            all.len() - 1
        });
        read(run, roots, &mut all[at]);
    }
    Ok(all)
}

fn read(mut run: Run, roots: &[String], into: &mut Scanned) {
    // Without `results` the tool did not come so far as to look.
    into.complete &= run.results.is_some();
    into.complete &= run.invocations.iter().all(|invocation| invocation.execution_successful != Some(false));
    for result in run.results.take().unwrap_or_default() {
        let is_finding = matches!(result.kind.as_deref(), None | Some("fail" | "open" | "review"));
        if !is_finding || result.baseline_state.as_deref() == Some("absent") {
            continue;
        }
        let accepted = |s: &Suppression| !matches!(s.status.as_deref(), Some("underReview" | "rejected"));
        if result.suppressions.iter().flatten().any(accepted) {
            into.suppressed = into.suppressed.saturating_add(1);
            continue;
        }
        match finding(&run, result, roots) {
            Some(found) => into.push(found),
            None => into.outside = into.outside.saturating_add(1),
        }
    }
}

fn finding(run: &Run, result: Outcome, roots: &[String]) -> Option<Found> {
    let rule = rule(run, &result);
    let place = result.locations.first()?;
    let physical = place.physical_location.as_ref()?;
    let mut location = physical.artifact_location.as_ref()?;
    if location.uri.is_none() {
        location = at(&run.artifacts, location.index)?.location.as_ref()?;
    }
    let file = relative(&resolve(run, location)?, roots)?;
    let line = physical.region.as_ref().and_then(|region| region.start_line);
    let logical = place.logical_locations.first();
    let rule_id = result.rule_id.clone().or_else(|| result.rule.as_ref()?.id.clone());
    let rule_id = rule_id.filter(|id| !id.is_empty()).or_else(|| rule.map(|rule| rule.id.clone()));
    let level = result.level.as_deref().or_else(|| rule?.default_configuration.as_ref()?.level.as_deref());
    Some(Found {
        message: message(&result.message, rule),
        rule: rule_id.unwrap_or_else(|| "finding".into()),
        file,
        line: line.and_then(|line| u32::try_from(line).ok()).unwrap_or(0),
        severity: severity(level.unwrap_or("warning")),
        symbol: logical.and_then(|logical| logical.fully_qualified_name.clone().or_else(|| logical.name.clone())),
        identity: identity(&result, line.is_some()),
        occurrences: result.occurrence_count.and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
    })
}

fn at<T>(list: &[T], index: Option<i64>) -> Option<&T> {
    list.get(usize::try_from(index?).ok()?)
}

/// The metadata of a result's rule: by index, or by its name (`CA1000/1` is a case of `CA1000`).
fn rule<'a>(run: &'a Run, result: &Outcome) -> Option<&'a Rule> {
    let reference = result.rule.as_ref();
    let component = match reference.and_then(|rule| rule.tool_component.as_ref()).and_then(|tool| tool.index) {
        Some(index) => at(&run.tool.extensions, Some(index))?,
        None => &run.tool.driver,
    };
    let index = result.rule_index.or_else(|| reference?.index).filter(|index| *index >= 0);
    let id = result.rule_id.as_deref().or_else(|| reference?.id.as_deref());
    let named = |id: &str| component.rules.iter().find(|rule| rule.id == id);
    at(&component.rules, index).or_else(|| named(id?)).or_else(|| named(id?.rsplit_once('/')?.0))
}

fn message(message: &Message, rule: Option<&Rule>) -> String {
    let named =
        || message.id.as_ref().and_then(|id| rule?.message_strings.get(id)).and_then(|found| found.text.clone());
    let text = message.text.clone().or_else(named).or_else(|| message.markdown.clone());
    let text = text.or_else(|| rule?.short_description.as_ref()?.text.clone()).unwrap_or_default();
    // In one pass, so that an argument that looks like a placeholder is none.
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(open) = rest.find('{') {
        let (before, from) = rest.split_at(open);
        out.push_str(before);
        let argument = from[1..].split_once('}').and_then(|(number, after)| {
            let argument = message.arguments.get(number.parse::<usize>().ok()?)?;
            Some((argument, after))
        });
        match argument {
            Some((argument, after)) => {
                out.push_str(argument);
                rest = after;
            }
            None => {
                out.push('{');
                rest = &from[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// A fingerprint of the tool's own. Some print a notice there instead of one.
fn identity(result: &Outcome, has_line: bool) -> Option<String> {
    let believable = |value: &&String| value.len() >= 16 && !value.chars().any(|c| c.is_whitespace() || c.is_control());
    let join = |prints: &BTreeMap<String, String>| {
        let parts: Vec<&str> = prints.values().filter(believable).map(String::as_str).collect();
        (!parts.is_empty()).then(|| parts.join(" "))
    };
    // A partial one is to be combined with what else is known: it stands in for the line's text where there is none.
    join(&result.fingerprints).or_else(|| join(&result.partial_fingerprints).filter(|_| !has_line))
}

/// The path that a location names: absolute, or relative to the repository.
fn resolve(run: &Run, location: &Location) -> Option<String> {
    let mut path = plain(location.uri.as_deref()?)?;
    let mut base = location.uri_base_id.as_deref();
    // Bases may have bases; a circle is cut.
    for _ in 0..8 {
        let Some(id) = base.filter(|_| !path.starts_with('/')) else { break };
        let Some(found) = run.original_uri_base_ids.get(id) else { break };
        if let Some(uri) = found.uri.as_deref().filter(|uri| !uri.is_empty()) {
            path = format!("{}/{path}", plain(uri)?.trim_end_matches('/'));
        }
        base = found.uri_base_id.as_deref();
    }
    Some(path)
}

/// The path of a URI: of a file on this machine, or relative. `None` for other schemes.
fn plain(uri: &str) -> Option<String> {
    let path = match uri.split_once(':') {
        Some(("file", rest)) => match rest.strip_prefix("//") {
            // `file://host/path`; the host is this one.
            Some(rest) => &rest[rest.find('/')?..],
            None => rest,
        },
        Some((scheme, _))
            if scheme.len() > 1 && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) =>
        {
            return None;
        }
        _ => uri,
    };
    decode(path)
}

/// Percent-encoding undone. `None`: not UTF-8 afterwards.
fn decode(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let hex = bytes.get(at + 1..at + 3).filter(|_| *byte == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) => {
                out.push(decoded);
                at += 3;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).ok()
}
