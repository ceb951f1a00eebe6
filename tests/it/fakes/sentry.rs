//! A stand-in of Sentry's REST API, as strict as the real one where we lean on it.
//!
//! Written from Sentry's own description (`getsentry/sentry-api-schema`) and, for comments and stored events, its `urls.py`; not from
//! our client. A list comes in pages whose `Link` always names a next one: who does not look at `results="false"` never ends. Reading
//! needs `event:read`, changing `event:write`. An event has two shapes: as the API tells it (`entries`, camel case), and raw, as an
//! SDK sent it. What every answer, fault and line of the log is like: [`service`](super::service).
//!
//! ```ignore
//! let sentry = Sentry::start();                            // or Sentry::start_at(clock); organisation `acme`, project `api`
//! let id = sentry.error("api", "ValueError", "no unit in '5'", &[("src/duration.py", "parse", 41)]);
//! sentry.seen(&id, 12, 5);                                 // twelve more events, five more people
//! // … base_url: sentry.url(), organization: acme, token: sentry::TOKEN …
//! assert_eq!(sentry.issue(&id)["status"], "resolved");
//! ```
//!
//! Effects in the log: `issue.update`, `note.create`, `external_issue.create`, each with `issue` and what it is about.

#![allow(dead_code)] // More than each test needs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nightcrew::base::clock::{Clock, Timestamp};
use serde_json::{Value, json};

use super::service::{Answer, Log, Part, Request, Server};

/// The token that is let in, with both scopes.
pub const TOKEN: &str = "sntryu_0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
pub const ORGANIZATION: &str = "acme";
/// An installed integration, by which pull requests are linked.
pub const INSTALLATION: &str = "6c7a5d1e-7d3b-4d7f-9d64-0f2d7f6f2c11";

/// An issue and its events.
#[derive(Clone, Debug)]
pub struct Issue {
    pub id: String,
    pub short_id: String,
    pub project: String,
    pub kind: String,
    pub value: String,
    pub culprit: String,
    pub level: String,
    /// `unresolved`, `resolved`, `ignored`.
    pub status: String,
    /// `new`, `ongoing`, `regressed`, …
    pub substatus: Option<String>,
    pub details: Value,
    pub assigned_to: Value,
    pub count: u64,
    pub users: u64,
    pub first_seen: Timestamp,
    pub last_seen: Timestamp,
    pub environments: BTreeSet<String>,
    pub notes: Vec<Value>,
    pub links: Vec<Value>,
    /// As an SDK sent them, the oldest first.
    pub events: Vec<Value>,
}

/// All that it holds.
pub struct Watch {
    base: String,
    tokens: BTreeMap<String, BTreeSet<String>>,
    /// By slug.
    pub projects: BTreeMap<String, u64>,
    pub issues: Vec<Issue>,
    next: u64,
}

fn detail(status: u16, message: &str) -> Answer {
    Answer::json(status, &json!({"detail": message}))
}

fn not_found() -> Answer {
    detail(404, "The requested resource does not exist")
}

fn date(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

impl Watch {
    fn id(&mut self) -> String {
        self.next += 1;
        self.next.to_string()
    }

    fn project_shown(&self, slug: &str) -> Value {
        json!({"id": self.projects[slug].to_string(), "name": slug, "slug": slug, "platform": "python"})
    }

    fn find(&self, id: &str) -> Option<usize> {
        self.issues.iter().position(|issue| issue.id == id || issue.short_id.eq_ignore_ascii_case(id))
    }

    /// As the list and an issue's own address show it.
    fn shown(&self, issue: &Issue) -> Value {
        let mut shown = json!({
            "id": issue.id, "shortId": issue.short_id, "title": format!("{}: {}", issue.kind, issue.value), "culprit": issue.culprit,
            "permalink": format!("{}/organizations/{ORGANIZATION}/issues/{}/", self.base, issue.id), "level": issue.level,
            "status": issue.status, "substatus": issue.substatus, "statusDetails": issue.details, "platform": "python",
            "project": self.project_shown(&issue.project), "type": "error", "issueType": "error", "issueCategory": "error",
            "metadata": {"type": issue.kind, "value": issue.value, "filename": issue.culprit, "function": issue.culprit, "in_app_frame_mix": "in-app-only"},
            "count": issue.count.to_string(), "userCount": issue.users, "firstSeen": date(issue.first_seen), "lastSeen": date(issue.last_seen),
        });
        let rest = json!({
            "assignedTo": issue.assigned_to, "isUnhandled": true, "isPublic": false, "isBookmarked": false, "isSubscribed": false, "hasSeen": false,
            "priority": "high", "priorityLockedAt": null, "seerFixabilityScore": null, "seerAutofixLastTriggered": null,
            "seerExplorerAutofixLastTriggered": null, "numComments": issue.notes.len(), "annotations": issue.links, "logger": null, "shareId": null,
            "subscriptionDetails": null, "derivedData": null, "inbox": null, "owners": null, "integrationIssues": [], "sentryAppIssues": [],
            "latestEventHasAttachments": false, "matchingEventEnvironment": null, "matchingEventId": null, "sessionCount": null,
            "stats": {"24h": []}, "lifetime": null, "filtered": null,
        });
        extend(&mut shown, rest);
        shown
    }

    /// With what only its own address tells.
    fn detailed(&self, issue: &Issue) -> Value {
        let mut shown = self.shown(issue);
        for only_listed in ["matchingEventEnvironment", "matchingEventId", "sessionCount", "lifetime", "filtered"] {
            if let Some(shown) = shown.as_object_mut() {
                shown.remove(only_listed);
            }
        }
        let rest = json!({
            "activity": issue.notes, "participants": [], "seenBy": [], "userReportCount": 0, "tags": [], "firstRelease": null,
            "lastRelease": null, "forecast": {},
        });
        extend(&mut shown, rest);
        shown
    }

    /// A page, and the two links that every list has.
    fn paged(&self, request: &Request, all: Vec<Value>, most: usize, size_key: &str) -> Answer {
        let size = match request.query(size_key).map(str::parse::<usize>) {
            None => most,
            Some(Ok(size)) if (1..=100).contains(&size) => size,
            Some(_) => return detail(400, &format!("Invalid {size_key} parameter. Value must be between 1 and 100.")),
        };
        let parts: Vec<usize> = match request.query("cursor") {
            None => vec![0, 0, 0],
            Some(cursor) => cursor.split(':').filter_map(|part| part.parse().ok()).collect(),
        };
        let [_, start, _] = parts.as_slice() else { return detail(400, "Invalid cursor parameter.") };
        let link = |rel: &str, at: usize, results: bool| {
            let cursor = format!("0:{at}:{}", u8::from(rel == "previous"));
            let others = request.query.iter().filter(|(name, _)| name != "cursor");
            let mut url = reqwest::Url::parse(&format!("{}{}", self.base, request.path)).unwrap();
            url.query_pairs_mut().extend_pairs(others).append_pair("cursor", &cursor);
            format!("<{url}>; rel=\"{rel}\"; results=\"{results}\"; cursor=\"{cursor}\"")
        };
        let links = [
            link("previous", start.saturating_sub(size), *start > 0),
            link("next", start + size, all.len() > start + size),
        ];
        let page: Vec<Value> = all.into_iter().skip(*start).take(size).collect();
        Answer::json(200, &page.into()).header("link", links.join(", "))
    }

    fn issues(&self, request: &Request) -> Answer {
        let projects: Vec<&str> = request
            .query
            .iter()
            .filter(|(key, value)| key == "project" && value != "-1")
            .map(|(_, value)| value.as_str())
            .collect();
        let known = |wanted: &&str| {
            self.projects.iter().find(|(slug, id)| slug == wanted || id.to_string() == **wanted).map(|(slug, _)| slug)
        };
        if projects.iter().any(|wanted| known(wanted).is_none()) {
            return detail(403, "You do not have permission to perform this action.");
        }
        let slugs: Vec<&String> = projects.iter().filter_map(known).collect();
        let environments: Vec<&str> =
            request.query.iter().filter(|(key, _)| key == "environment").map(|(_, value)| value.as_str()).collect();
        let since = match request.query("statsPeriod") {
            None => None,
            Some(period) => {
                let Some((count, unit)) = period.len().checked_sub(1).map(|at| period.split_at(at)) else {
                    return detail(400, "Invalid statsPeriod");
                };
                let unit = match unit {
                    "m" => 60,
                    "h" => 3_600,
                    "d" => 86_400,
                    "w" => 604_800,
                    _ => return detail(400, "Invalid statsPeriod"),
                };
                let Ok(count) = count.parse::<i64>() else { return detail(400, "Invalid statsPeriod") };
                Some(request.at - jiff::SignedDuration::from_secs(count * unit))
            }
        };
        let query = request.query("query").unwrap_or("is:unresolved").to_owned();
        let by_id = request.query("shortIdLookup").is_some_and(|flag| flag == "1");
        let meant = |issue: &&Issue| {
            (slugs.is_empty() || slugs.contains(&&issue.project))
                && (environments.is_empty() || environments.iter().any(|name| issue.environments.contains(*name)))
                && since.is_none_or(|since| issue.last_seen >= since)
        };
        let words = words(&query);
        if by_id
            && let [one] = words.as_slice()
            && let Some(at) = self.find(one)
        {
            return self
                .paged(request, vec![self.shown(&self.issues[at])], 100, "limit")
                .header("x-sentry-direct-hit", "1");
        }
        let mut found: Vec<&Issue> =
            self.issues.iter().filter(meant).filter(|issue| words.iter().all(|word| fits(issue, word))).collect();
        match request.query("sort").unwrap_or("date") {
            "new" => found.sort_by_key(|issue| std::cmp::Reverse(issue.first_seen)),
            "freq" => found.sort_by_key(|issue| std::cmp::Reverse(issue.count)),
            "user" => found.sort_by_key(|issue| std::cmp::Reverse(issue.users)),
            "date" | "inbox" | "trends" | "recommended" => {
                found.sort_by_key(|issue| std::cmp::Reverse(issue.last_seen))
            }
            _ => return detail(400, "Invalid sort parameter."),
        }
        self.paged(request, found.into_iter().map(|issue| self.shown(issue)).collect(), 100, "limit")
    }

    fn issue(&mut self, at: usize, rest: &[&str], request: &Request, log: &mut Log) -> Answer {
        let body = request.json();
        match (request.method.as_str(), rest) {
            ("GET", []) => Answer::json(200, &self.detailed(&self.issues[at])),
            ("PUT", []) => {
                let status = match body["status"].as_str() {
                    None => None,
                    Some("resolvedInNextRelease") => Some("resolved"),
                    Some(status @ ("resolved" | "unresolved" | "ignored")) => Some(status),
                    Some(_) => return Answer::json(400, &json!({"status": ["Invalid choice."]})),
                };
                let assigned = body["assignedTo"].as_str();
                if assigned.is_some_and(|who| who.starts_with("user:") && who[5..].parse::<u64>().is_err()) {
                    return Answer::json(400, &json!({"assignedTo": ["Unknown actor input"]}));
                }
                let issue = &mut self.issues[at];
                if let Some(status) = status {
                    issue.status = status.into();
                    issue.substatus = None;
                    issue.details = match body["status"].as_str() {
                        Some("resolvedInNextRelease") => json!({"inNextRelease": true}),
                        _ => body.get("statusDetails").cloned().unwrap_or_else(|| json!({})),
                    };
                }
                if let Some(who) = assigned {
                    issue.assigned_to = if who.is_empty() {
                        Value::Null
                    } else {
                        json!({"type": "user", "id": who, "name": who, "email": who})
                    };
                }
                log.effect("issue.update", json!({"issue": issue.short_id, "change": body}));
                Answer::json(200, &self.shown(&self.issues[at]))
            }
            ("GET", ["comments" | "notes"]) => {
                self.paged(request, self.issues[at].notes.iter().rev().cloned().collect(), 100, "per_page")
            }
            ("POST", ["comments" | "notes"]) => {
                let Some(text) = body["text"].as_str().filter(|text| !text.trim().is_empty()) else {
                    return Answer::json(400, &json!({"text": ["This field is required."]}));
                };
                let id = self.id();
                let note = json!({
                    "id": id, "type": "note", "data": {"text": text}, "dateCreated": date(request.at),
                    "user": {"id": "1", "name": "crew", "email": "crew@example.com"}, "issue": self.issues[at].id,
                });
                self.issues[at].notes.push(note.clone());
                log.effect("note.create", json!({"issue": self.issues[at].short_id, "id": id, "text": text}));
                Answer::json(201, &note)
            }
            ("GET", ["events"]) => {
                let issue = &self.issues[at];
                let full = request.query("full").is_some_and(|full| full != "0" && full != "false");
                let all = issue
                    .events
                    .iter()
                    .rev()
                    .map(|event| if full { self.told(issue, event) } else { self.brief(issue, event) });
                self.paged(request, all.collect(), 100, "per_page")
            }
            ("GET", ["events", which]) => {
                let issue = &self.issues[at];
                let event = match *which {
                    "latest" | "recommended" => issue.events.last(),
                    "oldest" => issue.events.first(),
                    id => issue.events.iter().find(|event| event["event_id"] == id),
                };
                event.map_or_else(not_found, |event| Answer::json(200, &self.told(issue, event)))
            }
            _ => not_found(),
        }
    }

    fn brief(&self, issue: &Issue, event: &Value) -> Value {
        json!({
            "id": event["event_id"], "event.type": "error", "groupID": issue.id, "eventID": event["event_id"], "projectID": self.projects[&issue.project].to_string(),
            "message": issue.value, "title": format!("{}: {}", issue.kind, issue.value), "location": issue.culprit, "culprit": issue.culprit,
            "user": null, "tags": tags(event), "platform": "python", "dateCreated": event["timestamp"], "crashFile": null,
            "metadata": {"type": issue.kind, "value": issue.value},
        })
    }

    /// An event as the API tells it: another shape than what was sent.
    fn told(&self, issue: &Issue, event: &Value) -> Value {
        let values: Vec<Value> = event["exception"]["values"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|exception| {
                let frames: Vec<Value> = exception["stacktrace"]["frames"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|frame| {
                        let line = frame["lineno"].as_i64().unwrap_or(0);
                        let before = frame["pre_context"].as_array().cloned().unwrap_or_default();
                        let after = frame["post_context"].as_array().cloned().unwrap_or_default();
                        let start = line - i64::try_from(before.len()).unwrap();
                        let here = (!frame["context_line"].is_null()).then(|| frame["context_line"].clone());
                        let lines = before.into_iter().chain(here).chain(after);
                        let context: Vec<Value> = lines.zip(start..).map(|(text, number)| json!([number, text])).collect();
                        json!({
                            "filename": frame["filename"], "absPath": frame["abs_path"], "module": frame["module"], "package": null, "platform": null,
                            "instructionAddr": null, "symbolAddr": null, "function": frame["function"], "rawFunction": null, "symbol": null,
                            "context": context, "lineNo": frame["lineno"], "colNo": frame["colno"], "inApp": frame["in_app"],
                            "vars": frame["vars"], "errors": null, "trust": null, "lock": null, "sourceLink": null,
                        })
                    })
                    .collect();
                json!({
                    "type": exception["type"], "value": exception["value"], "mechanism": exception["mechanism"], "threadId": null,
                    "module": exception["module"], "rawStacktrace": null,
                    "stacktrace": {"frames": frames, "framesOmitted": null, "registers": null, "hasSystemFrames": false},
                })
            })
            .collect();
        let mut entries = Vec::new();
        if !values.is_empty() {
            entries.push(
                json!({"type": "exception", "data": {"values": values, "hasSystemFrames": false, "excOmitted": null}}),
            );
        }
        if event["breadcrumbs"]["values"].is_array() {
            entries.push(json!({"type": "breadcrumbs", "data": {"values": event["breadcrumbs"]["values"]}}));
        }
        if event["request"].is_object() {
            entries.push(json!({"type": "request", "data": event["request"]}));
        }
        if values_empty(&entries) {
            entries.push(json!({"type": "message", "data": {"formatted": issue.value}}));
        }
        let mut told = json!({
            "id": event["event_id"], "eventID": event["event_id"], "groupID": issue.id, "projectID": self.projects[&issue.project].to_string(),
            "title": format!("{}: {}", issue.kind, issue.value), "message": "", "location": issue.culprit, "culprit": issue.culprit,
            "metadata": {"type": issue.kind, "value": issue.value}, "platform": event["platform"], "type": "error",
            "dateCreated": event["timestamp"], "dateReceived": event["timestamp"], "entries": entries, "tags": tags(event),
        });
        let rest = json!({
            "user": event["user"], "contexts": event.get("contexts").cloned().unwrap_or_else(|| json!({})), "context": {}, "dist": null, "sdk": event["sdk"],
            "release": event["release"].as_str().map(|version| json!({"version": version})), "packages": {}, "errors": [], "size": 1000, "_meta": {},
            "nextEventID": null, "previousEventID": null, "occurrence": null, "resolvedWith": [], "sdkUpdates": [], "userReport": null,
            "fingerprints": [issue.short_id], "crashFile": null, "groupingConfig": {"id": "newstyle:2023-01-11", "enhancements": ""},
        });
        extend(&mut told, rest);
        told
    }

    fn routed(&mut self, request: &Request, log: &mut Log) -> Answer {
        let path = request.path.clone();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (request.method.as_str(), parts.as_slice()) {
            ("GET", ["api", "0"]) => Answer::json(
                200,
                &json!({"version": "0", "auth": {"scopes": ["event:read", "event:write"]}, "user": null}),
            ),
            (_, ["api", "0", "organizations", organization, ..]) if *organization != ORGANIZATION => not_found(),
            ("GET", ["api", "0", "organizations", _]) => Answer::json(
                200,
                &json!({"id": "1", "slug": ORGANIZATION, "name": "Acme", "status": {"id": "active", "name": "active"}}),
            ),
            ("GET", ["api", "0", "organizations", _, "projects"]) => self.paged(
                request,
                self.projects.keys().map(|slug| self.project_shown(slug)).collect(),
                100,
                "per_page",
            ),
            ("GET", ["api", "0", "organizations", _, "issues"]) => self.issues(request),
            (_, ["api", "0", "organizations", _, "issues", id, rest @ ..]) => match self.find(id) {
                Some(at) => self.issue(at, rest, request, log),
                None => not_found(),
            },
            ("GET", ["api", "0", "projects", ORGANIZATION, slug]) if self.projects.contains_key(*slug) => {
                Answer::json(200, &self.project_shown(slug))
            }
            ("GET", ["api", "0", "projects", ORGANIZATION, slug, "events", id, rest @ ..]) => {
                let found = self.issues.iter().filter(|issue| issue.project == *slug);
                let found = found
                    .flat_map(|issue| issue.events.iter().map(move |event| (issue, event)))
                    .find(|(_, event)| event["event_id"] == *id);
                match (found, rest) {
                    (Some((issue, event)), []) => Answer::json(200, &self.told(issue, event)),
                    (Some((_, event)), ["json"]) => Answer::json(200, event),
                    _ => not_found(),
                }
            }
            ("POST", ["api", "0", "sentry-app-installations", installation, "external-issues"]) => {
                let body = request.json();
                let at = body["issueId"].as_u64().and_then(|id| self.find(&id.to_string()));
                let whole = ["webUrl", "project", "identifier"].iter().all(|key| body[*key].is_string());
                match at {
                    Some(_) if *installation != INSTALLATION => not_found(),
                    Some(at) if whole => {
                        let name = format!(
                            "{}#{}",
                            body["project"].as_str().unwrap_or_default(),
                            body["identifier"].as_str().unwrap_or_default()
                        );
                        let id = self.id();
                        let issue = &mut self.issues[at];
                        issue.links.push(json!({"displayName": name, "url": body["webUrl"]}));
                        log.effect(
                            "external_issue.create",
                            json!({"issue": issue.short_id, "url": body["webUrl"], "name": name}),
                        );
                        Answer::json(
                            200,
                            &json!({
                                "id": id, "issueId": issue.id, "serviceType": "nightcrew", "displayName": name, "webUrl": body["webUrl"],
                            }),
                        )
                    }
                    Some(_) => detail(400, "issueId, webUrl, project and identifier are required"),
                    None => not_found(),
                }
            }
            _ => not_found(),
        }
    }
}

fn extend(into: &mut Value, rest: Value) {
    if let (Value::Object(into), Value::Object(rest)) = (into, rest) {
        into.extend(rest);
    }
}

fn values_empty(entries: &[Value]) -> bool {
    !entries.iter().any(|entry| entry["type"] == "exception")
}

/// Pairs, or a map, as the API tells them.
fn tags(event: &Value) -> Value {
    let pairs =
        event["tags"].as_array().into_iter().flatten().filter_map(|pair| Some((pair[0].as_str()?, pair[1].clone())));
    let map = event["tags"].as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value.clone()));
    pairs.chain(map).map(|(key, value)| json!({"key": key, "value": value})).collect::<Vec<_>>().into()
}

/// The words of a query; what stands in quotes is one.
fn words(query: &str) -> Vec<String> {
    let (mut found, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in query.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => found.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
            c => word.push(c),
        }
    }
    found.extend((!word.is_empty()).then_some(word));
    found
}

fn fits(issue: &Issue, word: &str) -> bool {
    let (negated, word) = word.strip_prefix('!').map_or((false, word), |word| (true, word));
    let fit = match word.split_once(':') {
        Some(("is", "unhandled")) => true,
        Some(("is", "regressed" | "new" | "ongoing" | "escalating")) => issue.substatus.as_deref() == Some(&word[3..]),
        Some(("is", "archived")) => issue.status == "ignored",
        Some(("is", status)) => issue.status == status,
        Some(("level", level)) => issue.level == level,
        Some(("issue", id)) => issue.short_id.eq_ignore_ascii_case(id),
        Some(("project" | "project.name", slug)) => issue.project == slug,
        Some(("error.type", kind)) => issue.kind == kind,
        Some(("release" | "firstRelease", release)) => issue.events.iter().any(|event| event["release"] == release),
        Some(("environment", name)) => issue.environments.contains(name),
        _ => format!("{}: {} {}", issue.kind, issue.value, issue.culprit).to_lowercase().contains(&word.to_lowercase()),
    };
    fit != negated
}

impl Part for Watch {
    const NAME: &'static str = "sentry";

    fn answer(&mut self, request: &Request, log: &mut Log) -> Answer {
        let token = request.header("authorization").and_then(|given| given.strip_prefix("Bearer "));
        let Some(token) = token else { return detail(401, "Authentication credentials were not provided.") };
        let Some(scopes) = self.tokens.get(token) else { return detail(401, "Invalid token") };
        let needed = if request.method == "GET" { "event:read" } else { "event:write" };
        if !scopes.contains(needed) {
            return detail(403, "You do not have permission to perform this action.");
        }
        // Django's way: an address without its last stroke is another one.
        if !request.path.ends_with('/') {
            return if request.method == "GET" {
                Answer::json(301, &Value::Null).header("location", format!("{}/", request.path))
            } else {
                not_found()
            };
        }
        let answer = self.routed(request, log);
        answer.header("x-sentry-rate-limit-limit", "40").header("x-sentry-rate-limit-remaining", "39")
    }

    fn error(status: u16) -> Value {
        let message = match status {
            401 => "Invalid token",
            403 => "You do not have permission to perform this action.",
            404 => "The requested resource does not exist",
            429 => "You are attempting to use this endpoint too frequently. Limit is 40 requests in 1 seconds",
            _ => "Internal Error",
        };
        json!({"detail": message})
    }

    fn who(&self, request: &Request) -> String {
        match request.header("authorization").and_then(|given| given.strip_prefix("Bearer ")) {
            Some(token) if self.tokens.contains_key(token) => "crew".into(),
            Some(_) => "unknown".into(),
            None => "nobody".into(),
        }
    }
}

/// The running stand-in; faults and the log are the [`Server`]'s.
pub struct Sentry {
    server: Server<Watch>,
}

impl std::ops::Deref for Sentry {
    type Target = Server<Watch>;
    fn deref(&self) -> &Server<Watch> {
        &self.server
    }
}

impl Sentry {
    /// With the project `api`, and nothing in it.
    pub fn start() -> Self {
        Self::make(None)
    }

    /// With a test's own clock.
    pub fn start_at(clock: Arc<dyn Clock>) -> Self {
        Self::make(Some(clock))
    }

    fn make(clock: Option<Arc<dyn Clock>>) -> Self {
        let server = Server::start(clock, |base| Watch {
            base: base.to_owned(),
            tokens: BTreeMap::from([(TOKEN.to_owned(), ["event:read", "event:write"].map(str::to_owned).into())]),
            projects: BTreeMap::from([("api".to_owned(), 42)]),
            issues: Vec::new(),
            next: 4500,
        });
        server.secrets(&[TOKEN]);
        Self { server }
    }

    pub fn project(&self, slug: &str, id: u64) {
        self.with(|watch, _| watch.projects.insert(slug.into(), id));
    }

    pub fn revoke(&self, token: &str) {
        self.with(|watch, _| watch.tokens.remove(token));
    }

    pub fn accept(&self, token: &str, scopes: &[&str]) {
        self.with(|watch, _| {
            watch.tokens.insert(token.into(), scopes.iter().map(|scope| (*scope).to_owned()).collect())
        });
        self.secrets(&[token]);
    }

    /// An error with these frames (file, function, line), the one that raised last; seen once by one person. Its issue's short id.
    pub fn error(&self, project: &str, kind: &str, value: &str, frames: &[(&str, &str, u32)]) -> String {
        let frames: Vec<Value> = frames
            .iter()
            .map(|(file, function, line)| {
                json!({
                    "filename": file, "abs_path": format!("/srv/app/{file}"), "function": function, "module": file.trim_end_matches(".py").replace('/', "."),
                    "lineno": line, "colno": null, "in_app": true, "context_line": null, "pre_context": null, "post_context": null, "vars": null,
                })
            })
            .collect();
        let exception = json!({"type": kind, "value": value, "module": "builtins", "mechanism": {"type": "logging", "handled": false}, "stacktrace": {"frames": frames}});
        self.report(project, &json!({"platform": "python", "level": "error", "exception": {"values": [exception]}, "tags": [["environment", "production"]], "release": "api@1.0.0"}))
    }

    /// An event as an SDK sends it becomes an issue of its own. Its short id.
    pub fn report(&self, project: &str, event: &Value) -> String {
        self.with(|watch, log| {
            let now = log.now();
            let id = watch.id();
            let exception =
                event["exception"]["values"].as_array().and_then(|values| values.last()).cloned().unwrap_or_default();
            let text = |value: &Value, default: &str| value.as_str().unwrap_or(default).to_owned();
            let frame = exception["stacktrace"]["frames"]
                .as_array()
                .and_then(|frames| frames.last())
                .cloned()
                .unwrap_or_default();
            let short_id = format!("{}-{:X}", project.to_uppercase(), watch.issues.len() + 0x4F2);
            let mut event = event.clone();
            let number = watch.id();
            event["event_id"] = event
                .get("event_id")
                .cloned()
                .filter(Value::is_string)
                .unwrap_or_else(|| format!("{number:0>32}").into());
            event["timestamp"] = date(now).into();
            event["project"] = watch.projects[project].into();
            let issue = Issue {
                id,
                short_id: short_id.clone(),
                project: project.into(),
                kind: text(&exception["type"], "Error"),
                value: text(&exception["value"], ""),
                culprit: format!("{} in {}", text(&frame["module"], "unknown"), text(&frame["function"], "unknown")),
                level: text(&event["level"], "error"),
                status: "unresolved".into(),
                substatus: Some("new".into()),
                details: json!({}),
                assigned_to: Value::Null,
                count: 1,
                users: 1,
                first_seen: now,
                last_seen: now,
                environments: BTreeSet::from([text(&event["environment"], "production")]),
                notes: Vec::new(),
                links: Vec::new(),
                events: vec![event],
            };
            watch.issues.push(issue);
            short_id
        })
    }

    /// Seen so many times more, by so many more people.
    pub fn seen(&self, id: &str, count: u64, users: u64) {
        self.change(id, |issue, now| {
            issue.count += count;
            issue.users += users;
            issue.last_seen = now;
        });
    }

    /// It came back after it was resolved.
    pub fn regress(&self, id: &str) {
        self.change(id, |issue, now| {
            issue.status = "unresolved".into();
            issue.substatus = Some("regressed".into());
            issue.count += 1;
            issue.last_seen = now;
        });
    }

    pub fn change(&self, id: &str, change: impl FnOnce(&mut Issue, Timestamp)) {
        self.with(|watch, log| {
            let at = watch.find(id).unwrap();
            change(&mut watch.issues[at], log.now());
        });
    }

    /// As the API shows it.
    pub fn issue(&self, id: &str) -> Value {
        self.with(|watch, _| watch.detailed(&watch.issues[watch.find(id).unwrap()]))
    }

    /// The texts of its comments.
    pub fn notes(&self, id: &str) -> Vec<String> {
        let issue = self.issue(id);
        issue["activity"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|note| note["data"]["text"].as_str().map(str::to_owned))
            .collect()
    }
}
