//! One event as Sentry's SDKs send it, read into what nightcrew needs of it: pure.
//!
//! Three steps. [`events`] takes a file apart (an event, a list or lines of events, an envelope). [`normalise`] brings the JSON
//! into the one form that `sentry-types` reads: the SDKs for Node send flat breadcrumbs, webhooks send tags as pairs, and any
//! of them sends `null` where the types want nothing. [`Report::read`] takes the fields out; when the types still refuse the
//! event, it takes them from the normalised JSON, so that no event is lost. Nothing here trusts a field to be well-formed.

use jiff::Timestamp;
use sentry_types::protocol::v7::Event;
use serde_json::{Map, Value, json};

/// What is kept of an event.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// `sentry-types` accepted it after normalising.
    pub typed: bool,
    pub platform: String,
    pub level: String,
    pub at: Timestamp,
    /// Cause first, what was thrown last: (type, value).
    pub exceptions: Vec<(String, String)>,
    /// Of the exception thrown last; the oldest call first.
    pub frames: Vec<Frame>,
    /// The message as people read it, and as it was written in the code where that is known.
    pub message: Option<String>,
    pub template: Option<String>,
    /// As given by the application; empty when it gave none.
    pub fingerprint: Vec<String>,
    pub transaction: Option<String>,
    pub release: Option<String>,
    pub environment: Option<String>,
    /// Whatever tells users apart. Only ever counted.
    pub user: Option<String>,
    pub breadcrumbs: Vec<Value>,
    pub tags: Map<String, Value>,
    /// Of the request, without its query.
    pub url: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Frame {
    pub file: Option<String>,
    pub function: Option<String>,
    pub module: Option<String>,
    pub line: Option<u64>,
    pub in_app: bool,
    pub context: Vec<(u64, String)>,
}

/// The events in a file's text, raw. Items of an envelope that are no events are passed over.
///
/// Errors: a sentence when the text is neither JSON nor an envelope.
pub fn events(text: &str) -> Result<Vec<Value>, String> {
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Array(items)) => Ok(items),
        Ok(Value::Object(mut map)) => match map.remove("data") {
            // The form of the other stand-in files; an event has no such member.
            Some(Value::Array(items)) if !map.contains_key("event_id") => Ok(items),
            Some(data) => {
                map.insert("data".into(), data);
                Ok(vec![Value::Object(map)])
            }
            None => Ok(vec![Value::Object(map)]),
        },
        Ok(_) => Err("neither an event nor a list of events".into()),
        Err(error) => {
            let mut lines = text.lines().filter(|line| !line.trim().is_empty());
            let second = lines.nth(1).and_then(|line| serde_json::from_str::<Map<String, Value>>(line).ok());
            match second {
                Some(header)
                    if header.get("type").is_some_and(Value::is_string) && !header.contains_key("event_id") =>
                {
                    envelope(text)
                }
                Some(_) => text
                    .lines()
                    .filter(|line| !line.trim().is_empty())
                    .map(|line| serde_json::from_str(line).map_err(|error| format!("not an event per line: {error}")))
                    .collect(),
                None => Err(format!("not an event, an envelope or events by line: {error}")),
            }
        }
    }
}

/// Header line, then per item a header line and a payload of `length` bytes, or up to the end of its line.
fn envelope(text: &str) -> Result<Vec<Value>, String> {
    let mut rest = text.split_once('\n').map_or("", |(_, rest)| rest);
    let mut found = Vec::new();
    while !rest.trim().is_empty() {
        let (header, payload) = rest.split_once('\n').unwrap_or((rest, ""));
        if header.trim().is_empty() {
            rest = payload;
            continue;
        }
        let header: Value = serde_json::from_str(header).map_err(|error| format!("an item's header: {error}"))?;
        let end = match header.get("length").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok()) {
            Some(length) => length,
            None => payload.find('\n').unwrap_or(payload.len()),
        };
        let body = payload.get(..end).ok_or("an item is shorter than its length says")?;
        rest = payload[end..].strip_prefix('\n').unwrap_or(&payload[end..]);
        if matches!(header.get("type").and_then(Value::as_str), Some("event")) {
            found.push(serde_json::from_str(body).map_err(|error| format!("the event in the envelope: {error}"))?);
        }
    }
    Ok(found)
}

/// The one form that `sentry-types` reads. Never fails; what cannot be understood is dropped.
pub fn normalise(event: Value) -> Value {
    let Some(Value::Object(mut event)) = without_nulls(event) else { return json!({}) };
    for name in ["breadcrumbs", "exception", "threads"] {
        if let Some(found) = event.remove(name)
            && let Some(values) = values(found)
        {
            event.insert(name.into(), json!({ "values": values }));
        }
    }
    for exception in list(&mut event, "exception") {
        text_or(exception, "type", Some("Error"));
        text_or(exception, "value", None);
        text_or(exception, "module", None);
        for name in ["stacktrace", "raw_stacktrace"] {
            stacktrace(exception, name);
        }
    }
    for thread in list(&mut event, "threads") {
        stacktrace(thread, "stacktrace");
    }
    stacktrace(&mut event, "stacktrace");
    for crumb in list(&mut event, "breadcrumbs") {
        time(crumb, "timestamp");
        level(crumb);
        for name in ["type", "category", "message"] {
            text_or(crumb, name, None);
        }
        if crumb.get("data").is_some_and(|data| !data.is_object()) {
            let data = crumb.remove("data");
            crumb.insert("data".into(), json!({ "value": data }));
        }
    }
    let id = event.get("event_id").and_then(Value::as_str).unwrap_or_default();
    if id.chars().filter(char::is_ascii_hexdigit).count() != 32 || !matches!(id.len(), 32 | 36) {
        event.remove("event_id");
    }
    time(&mut event, "timestamp");
    level(&mut event);
    message(&mut event);
    for name in ["release", "environment", "transaction", "culprit", "logger", "server_name", "dist", "platform"] {
        text_or(&mut event, name, None);
    }
    if let Some(tags) = event.remove("tags") {
        event.insert("tags".into(), Value::Object(text_map(tags)));
    }
    match event.remove("fingerprint") {
        Some(Value::Array(parts)) => {
            let parts: Vec<Value> = parts.into_iter().filter_map(|part| text(part).map(Value::from)).collect();
            event.insert("fingerprint".into(), Value::Array(parts));
        }
        Some(one) => {
            let part: Vec<Value> = text(one).map(Value::from).into_iter().collect();
            event.insert("fingerprint".into(), Value::Array(part));
        }
        None => {}
    }
    match event.get_mut("user") {
        Some(Value::Object(user)) => {
            for name in ["id", "email", "username", "ip_address"] {
                text_or(user, name, None);
            }
            let address = user.get("ip_address").and_then(Value::as_str);
            if address.is_some_and(|ip| ip != "{{auto}}" && ip.parse::<std::net::IpAddr>().is_err()) {
                user.remove("ip_address");
            }
        }
        Some(_) => drop(event.remove("user")),
        None => {}
    }
    match event.get_mut("request") {
        Some(Value::Object(request)) => self::request(request),
        Some(_) => drop(event.remove("request")),
        None => {}
    }
    Value::Object(event)
}

/// Members and elements that are null are gone, at any depth.
fn without_nulls(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(without_nulls).collect())),
        Value::Object(map) => {
            Some(Value::Object(map.into_iter().filter_map(|(key, value)| Some((key, without_nulls(value)?))).collect()))
        }
        other => Some(other),
    }
}

/// `[…]`, `{values: […]}` or one object: the objects in it.
fn values(found: Value) -> Option<Vec<Value>> {
    let items = match found {
        Value::Array(items) => items,
        Value::Object(mut map) => match map.remove("values") {
            Some(Value::Array(items)) => items,
            Some(_) => Vec::new(),
            None if map.is_empty() => Vec::new(),
            None => vec![Value::Object(map)],
        },
        _ => return None,
    };
    Some(items.into_iter().filter(Value::is_object).collect())
}

/// The objects of `event.NAME.values`.
fn list<'a>(event: &'a mut Map<String, Value>, name: &str) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    let items = event.get_mut(name).and_then(|v| v.get_mut("values")).and_then(Value::as_array_mut);
    items.into_iter().flatten().filter_map(Value::as_object_mut)
}

fn stacktrace(owner: &mut Map<String, Value>, name: &str) {
    let frames = match owner.remove(name) {
        Some(Value::Object(mut trace)) => {
            let frames = match trace.remove("frames") {
                Some(Value::Array(frames)) => frames,
                _ => Vec::new(),
            };
            frames
                .into_iter()
                .filter_map(|f| if let Value::Object(f) = f { Some(f) } else { None })
                .map(frame)
                .collect()
        }
        Some(_) => Vec::new(),
        None => return,
    };
    owner.insert(name.into(), json!({ "frames": Value::Array(frames) }));
}

fn frame(mut frame: Map<String, Value>) -> Value {
    for name in ["function", "module", "filename", "abs_path", "context_line", "package", "symbol", "raw_function"] {
        text_or(&mut frame, name, None);
    }
    for name in ["lineno", "colno"] {
        if let Some(found) = frame.remove(name) {
            let number = found.as_u64().or_else(|| found.as_str()?.trim().parse().ok());
            let number = number.or_else(|| found.as_f64().filter(|n| *n >= 0.0 && n.fract() == 0.0).map(|n| n as u64));
            // No file has more lines than that.
            if let Some(number) = number.filter(|number| *number <= u64::from(u32::MAX)) {
                frame.insert(name.into(), Value::from(number));
            }
        }
    }
    for name in ["pre_context", "post_context"] {
        if let Some(found) = frame.remove(name) {
            let lines = if let Value::Array(lines) = found { lines } else { Vec::new() };
            let lines = lines.into_iter().filter_map(|line| text(line).map(Value::from)).collect();
            frame.insert(name.into(), Value::Array(lines));
        }
    }
    if frame.get("vars").is_some_and(|vars| !vars.is_object()) {
        frame.remove("vars");
    }
    if frame.get("in_app").is_some_and(|flag| !flag.is_boolean()) {
        frame.remove("in_app");
    }
    Value::Object(frame)
}

/// The event without the members that nothing here reads: an odd one of them must not spoil the rest.
fn without_unused(mut event: Value) -> Value {
    if let Some(event) = event.as_object_mut() {
        for name in ["sdk", "contexts", "modules", "extra", "debug_meta", "template", "threads"] {
            event.remove(name);
        }
        for exception in list(event, "exception") {
            exception.retain(|name, _| matches!(name.as_str(), "type" | "value" | "stacktrace"));
        }
    }
    event
}

/// `message` may be an object; `logentry` holds the text of the code beside the formatted one.
fn message(event: &mut Map<String, Value>) {
    let mut formatted = None;
    for name in ["message", "logentry"] {
        match event.remove(name) {
            Some(Value::Object(mut entry)) => {
                formatted = formatted.or_else(|| entry.remove("formatted").and_then(text));
                let written = entry.remove("message").and_then(text);
                let params = match entry.remove("params") {
                    Some(Value::Array(params)) => params,
                    Some(Value::Object(named)) => named.into_iter().map(|(_, value)| value).collect(),
                    _ => Vec::new(),
                };
                if let Some(written) = written {
                    event.insert("logentry".into(), json!({"message": written, "params": params}));
                }
            }
            Some(other) => formatted = formatted.or_else(|| text(other)),
            None => {}
        }
    }
    if let Some(formatted) = formatted {
        event.insert("message".into(), Value::from(formatted));
    }
}

fn request(request: &mut Map<String, Value>) {
    for name in ["headers", "env"] {
        if let Some(found) = request.remove(name) {
            request.insert(name.into(), Value::Object(text_map(found)));
        }
    }
    for (name, separator) in [("query_string", "&"), ("cookies", "; ")] {
        if let Some(found) = request.remove(name) {
            let joined = match found {
                Value::String(text) => text,
                other => {
                    let pairs = text_map(other);
                    let part =
                        |(k, v): (&String, &Value)| format!("{}={}", encode(k), encode(v.as_str().unwrap_or_default()));
                    pairs.iter().map(part).collect::<Vec<_>>().join(separator)
                }
            };
            request.insert(name.into(), Value::from(joined));
        }
    }
    text_or(request, "data", None);
    text_or(request, "method", None);
    let absolute = request.get("url").and_then(Value::as_str).is_some_and(|url| {
        url.split_once("://").is_some_and(|(scheme, rest)| {
            !scheme.is_empty()
                && scheme.chars().all(|c| c.is_ascii_alphanumeric())
                && !rest.is_empty()
                && !rest.contains(' ')
        })
    });
    if !absolute {
        request.remove("url");
    }
}

/// Percent-encoding of everything but unreserved characters.
fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte as char),
            other => out.push_str(&format!("%{other:02X}")),
        }
        out
    })
}

/// A map, pairs, or `{key, value}` objects, as a map of texts.
fn text_map(found: Value) -> Map<String, Value> {
    let mut map = Map::new();
    let mut put = |key: Option<String>, value: Option<Value>| {
        if let (Some(key), Some(value)) = (key, value.and_then(text)) {
            map.insert(key, Value::from(value));
        }
    };
    match found {
        Value::Object(found) => found.into_iter().for_each(|(key, value)| {
            // A header that came several times is a list.
            let value = match value {
                Value::Array(items) => Value::from(items.into_iter().filter_map(text).collect::<Vec<_>>().join(", ")),
                other => other,
            };
            put(Some(key), Some(value));
        }),
        Value::Array(items) => {
            for item in items {
                match item {
                    Value::Array(pair) => {
                        let mut pair = pair.into_iter();
                        put(pair.next().and_then(text), pair.next());
                    }
                    Value::Object(mut pair) => put(pair.remove("key").and_then(text), pair.remove("value")),
                    _ => {}
                }
            }
        }
        _ => {}
    }
    map
}

/// A scalar as it is, anything else as JSON.
fn text(value: Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

/// Makes a member a text; `fallback` stands in for a missing one.
fn text_or(map: &mut Map<String, Value>, name: &str, fallback: Option<&str>) {
    match map.get(name) {
        Some(Value::String(_)) => {}
        Some(_) => {
            if let Some(text) = map.remove(name).and_then(text) {
                map.insert(name.into(), Value::from(text));
            }
        }
        None => drop(fallback.map(|text| map.insert(name.into(), Value::from(text)))),
    }
}

fn level(map: &mut Map<String, Value>) {
    let Some(found) = map.remove("level") else { return };
    let level = match found.as_str().unwrap_or_default().to_ascii_lowercase().as_str() {
        "critical" | "fatal" => "fatal",
        "warn" | "warning" => "warning",
        "info" | "log" | "sample" => "info",
        "debug" | "trace" => "debug",
        _ => "error",
    };
    map.insert("level".into(), Value::from(level));
}

/// A time without zone is UTC; one that cannot be read is dropped.
fn time(map: &mut Map<String, Value>, name: &str) {
    let Some(found) = map.remove(name) else { return };
    let kept = match &found {
        Value::Number(_) => instant(&found).map(|_| found),
        Value::String(_) => instant(&found).map(|at| Value::from(at.to_string())),
        _ => None,
    };
    if let Some(kept) = kept {
        map.insert(name.into(), kept);
    }
}

/// Seconds since 1970, or RFC 3339 with or without a zone. Not before 1970: `sentry-types` cannot hold that.
fn instant(value: &Value) -> Option<Timestamp> {
    let at = match value {
        Value::Number(number) => {
            let seconds = number.as_f64().filter(|s| s.is_finite() && s.abs() < 2e11)?;
            Timestamp::from_microsecond((seconds * 1e6).round() as i64).ok()?
        }
        Value::String(text) => {
            let text = text.trim().replace(' ', "T");
            match text.parse::<Timestamp>() {
                Ok(at) => at,
                Err(_) => match format!("{text}Z").parse() {
                    Ok(at) => at,
                    Err(_) => instant(&Value::from(text.parse::<f64>().ok()?))?,
                },
            }
        }
        _ => return None,
    };
    (at >= Timestamp::UNIX_EPOCH).then_some(at)
}

impl Report {
    /// Reads an event; `received` stands in for a time that it does not give.
    pub fn read(event: Value, received: Timestamp) -> Self {
        let mut event = normalise(event);
        // The types would put the time of reading there.
        if event.get("timestamp").is_none() {
            event["timestamp"] = Value::from(received.to_string());
        }
        let parse = |event: &Value| serde_json::from_value::<Event<'static>>(event.clone()).ok();
        let typed = parse(&event).or_else(|| parse(&without_unused(event.clone())));
        let mut event = match typed.as_ref().and_then(|typed| serde_json::to_value(typed).ok()) {
            // What the types leave out because it is their default.
            Some(mut canonical) => {
                for name in ["platform", "level"] {
                    if canonical.get(name).is_none()
                        && let Some(found) = event.get(name)
                    {
                        canonical[name] = found.clone();
                    }
                }
                canonical
            }
            None => event,
        };
        let field = |name: &str| event.get(name).and_then(Value::as_str).map(str::to_owned);
        let platform = field("platform").unwrap_or_else(|| "other".into());
        let exceptions: Vec<&Value> =
            event.pointer("/exception/values").and_then(Value::as_array).into_iter().flatten().collect();
        let thrown = exceptions.last().and_then(|e| e.pointer("/stacktrace/frames"));
        let frames = thrown.or_else(|| {
            let threads = event.pointer("/threads/values").and_then(Value::as_array);
            let crashed = threads.into_iter().flatten().find(|t| t.get("crashed") == Some(&Value::Bool(true)));
            crashed.and_then(|t| t.pointer("/stacktrace/frames")).or_else(|| event.pointer("/stacktrace/frames"))
        });
        let frames = frames.and_then(Value::as_array).into_iter().flatten().map(Frame::read).collect();
        let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let user = ["id", "username", "email", "ip_address"]
            .iter()
            .find_map(|name| event.pointer(&format!("/user/{name}"))?.as_str().filter(|v| !v.is_empty()))
            .map(str::to_owned);
        let parts = event.get("fingerprint").and_then(Value::as_array).into_iter().flatten();
        let fingerprint: Vec<String> = parts.filter_map(Value::as_str).map(str::to_owned).collect();
        let url = event.pointer("/request/url").and_then(Value::as_str);
        Self {
            typed: typed.is_some(),
            level: field("level").unwrap_or_else(|| "error".into()),
            at: event.get("timestamp").and_then(instant).unwrap_or(received),
            exceptions: exceptions.iter().map(|e| (text(e, "type"), text(e, "value"))).collect(),
            frames,
            template: event.pointer("/logentry/message").and_then(Value::as_str).map(str::to_owned),
            message: field("message"),
            fingerprint: if fingerprint == ["{{ default }}"] { Vec::new() } else { fingerprint },
            transaction: field("transaction"),
            release: field("release"),
            environment: field("environment"),
            user,
            url: url.map(|url| url.split(['?', '#']).next().unwrap_or(url).to_owned()),
            breadcrumbs: match event.pointer_mut("/breadcrumbs/values").map(Value::take) {
                Some(Value::Array(crumbs)) => crumbs,
                _ => Vec::new(),
            },
            tags: match event.get_mut("tags").map(Value::take) {
                Some(Value::Object(tags)) => tags,
                _ => Map::new(),
            },
            platform,
        }
    }
}

impl Frame {
    fn read(frame: &Value) -> Self {
        let field = |name: &str| frame.get(name).and_then(Value::as_str).filter(|v| !v.is_empty()).map(str::to_owned);
        let file = field("filename").or_else(|| field("abs_path"));
        let lines = |name: &str| -> Vec<String> {
            let lines = frame.get(name).and_then(Value::as_array).into_iter().flatten();
            lines.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let line = frame.get("lineno").and_then(Value::as_u64);
        let mut context = Vec::new();
        if let (Some(at), Some(text)) = (line, field("context_line")) {
            let (before, after) = (lines("pre_context"), lines("post_context"));
            let first = at.saturating_sub(before.len() as u64);
            context.extend((first..).zip(before));
            context.push((at, text));
            context.extend((at + 1..).zip(after));
        }
        let in_app = frame.get("in_app").and_then(Value::as_bool).unwrap_or_else(|| {
            let place = field("abs_path").or(file.clone()).unwrap_or_default();
            !FOREIGN.iter().any(|mark| place.contains(mark))
        });
        Self { file, function: field("function"), module: field("module"), line, in_app, context }
    }
}

/// Marks of code that is not the application's own, for frames that do not say.
const FOREIGN: &[&str] = &[
    "site-packages/",
    "dist-packages/",
    "/lib/python",
    "node_modules/",
    "node:",
    "/rustc/",
    "/.cargo/registry/",
    "/rustlib/",
    "<frozen ",
    "vendor/bundle/",
];

#[cfg(test)]
#[path = "event_tests.rs"]
mod tests;
