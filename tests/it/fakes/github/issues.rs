//! Issues, and what pull requests share with them: state, labels, comments.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::service::{Answer, Log, Request};
use super::pulls::Pull;
use super::{Hub, Identity, account, date, git, invalid, not_found, said};

#[derive(Clone, Debug)]
pub struct Issue {
    pub id: u64,
    pub number: u64,
    pub author: String,
    pub title: String,
    pub body: String,
    /// `open` or `closed`.
    pub state: String,
    /// `completed`, `not_planned`, `reopened`, `duplicate`.
    pub state_reason: Option<String>,
    pub labels: Vec<String>,
    pub assignees: Vec<String>,
    pub comments: Vec<Comment>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub closed_at: Option<Timestamp>,
    pub closed_by: Option<String>,
    pub pull: Option<Pull>,
}

#[derive(Clone, Debug)]
pub struct Comment {
    pub id: u64,
    pub author: String,
    pub body: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

pub fn insert(
    hub: &mut Hub,
    repository: &str,
    by: &str,
    title: &str,
    body: &str,
    pull: Option<Pull>,
    now: Timestamp,
) -> u64 {
    let id = hub.id();
    let found = hub.repository_mut(repository);
    let number = found.next;
    found.next += 1;
    let issue = Issue {
        id,
        number,
        author: by.into(),
        title: title.into(),
        body: body.into(),
        state: "open".into(),
        state_reason: None,
        labels: Vec::new(),
        assignees: Vec::new(),
        comments: Vec::new(),
        created_at: now,
        updated_at: now,
        closed_at: None,
        closed_by: None,
        pull,
    };
    found.issues.insert(number, issue);
    number
}

pub fn open(hub: &mut Hub, repository: &str, by: &str, title: &str, body: &str, log: &mut Log) -> u64 {
    let number = insert(hub, repository, by, title, body, None, log.now());
    log.effect(
        "issue.create",
        json!({"repository": repository, "number": number, "title": title, "body": body, "labels": [], "by": by}),
    );
    number
}

pub fn label_shown(hub: &Hub, repository: &str, name: &str) -> Value {
    let id = name.bytes().fold(7_u64, |sum, byte| (sum * 31 + u64::from(byte)) % 1_000_003);
    json!({
        "id": id, "node_id": format!("LA_{id}"), "name": name, "color": "ededed", "default": false, "description": null,
        "url": hub.api(&format!("/repos/{repository}/labels/{name}")),
    })
}

/// As the API shows it.
pub fn shown(hub: &Hub, repository: &str, issue: &Issue) -> Value {
    let api = hub.api(&format!("/repos/{repository}/issues/{}", issue.number));
    let kind = if issue.pull.is_some() { "pull" } else { "issues" };
    let web = hub.web(&format!("/{repository}/{kind}/{}", issue.number));
    let mut shown = json!({
        "id": issue.id, "node_id": format!("I_{}", issue.id), "number": issue.number, "state": issue.state, "state_reason": issue.state_reason,
        "title": issue.title, "body": issue.body, "user": account(&issue.author), "locked": false, "url": api, "html_url": web,
        "repository_url": hub.api(&format!("/repos/{repository}")), "labels_url": format!("{api}/labels"), "comments_url": format!("{api}/comments"),
        "events_url": format!("{api}/events"), "labels": issue.labels.iter().map(|name| label_shown(hub, repository, name)).collect::<Vec<_>>(),
        "assignees": issue.assignees.iter().map(|login| account(login)).collect::<Vec<_>>(), "assignee": issue.assignees.first().map(|login| account(login)),
        "comments": issue.comments.len(), "milestone": null, "author_association": "COLLABORATOR", "active_lock_reason": null,
        "created_at": date(issue.created_at.as_second()), "updated_at": date(issue.updated_at.as_second()),
        "closed_at": issue.closed_at.map(|at| date(at.as_second())), "closed_by": issue.closed_by.as_deref().map(account),
    });
    if let Some(pull) = &issue.pull {
        let api = hub.api(&format!("/repos/{repository}/pulls/{}", issue.number));
        shown["pull_request"] = json!({
            "url": api, "html_url": web, "diff_url": api, "patch_url": api, "merged_at": pull.merged_at.map(|at| date(at.as_second())),
        });
        shown["draft"] = pull.draft.into();
    }
    shown
}

pub fn comment_shown(hub: &Hub, repository: &str, number: u64, comment: &Comment) -> Value {
    json!({
        "id": comment.id, "node_id": format!("IC_{}", comment.id), "body": comment.body, "user": account(&comment.author),
        "url": hub.api(&format!("/repos/{repository}/issues/comments/{}", comment.id)),
        "html_url": hub.web(&format!("/{repository}/issues/{number}#issuecomment-{}", comment.id)),
        "issue_url": hub.api(&format!("/repos/{repository}/issues/{number}")), "author_association": "COLLABORATOR",
        "created_at": date(comment.created_at.as_second()), "updated_at": date(comment.updated_at.as_second()),
    })
}

/// In the order that is asked for; the newest first where none is.
pub fn sorted(all: &mut [&Issue], request: &Request) {
    match request.query("sort") {
        Some("updated") => all.sort_by_key(|issue| (issue.updated_at, issue.number)),
        Some("comments") => all.sort_by_key(|issue| (issue.comments.len(), issue.number)),
        _ => all.sort_by_key(|issue| issue.number),
    }
    if request.query("direction") != Some("asc") {
        all.reverse();
    }
}

/// Opens or closes; nothing where it is so already.
pub fn set_state(
    hub: &mut Hub,
    repository: &str,
    number: u64,
    state: &str,
    reason: Option<&str>,
    by: &str,
    log: &mut Log,
) {
    let now = log.now();
    let issue = hub.repository_mut(repository).issues.get_mut(&number).unwrap();
    if issue.state == state {
        if issue.pull.is_none() && state == "closed" && reason.is_some() {
            issue.state_reason = reason.map(str::to_owned);
        }
        return;
    }
    issue.state = state.into();
    issue.updated_at = now;
    let verb = if state == "closed" {
        issue.closed_at = Some(now);
        issue.closed_by = Some(by.into());
        "close"
    } else {
        issue.closed_at = None;
        issue.closed_by = None;
        "reopen"
    };
    let kind = if issue.pull.is_some() {
        "pull_request"
    } else {
        let default = if state == "closed" { "completed" } else { "reopened" };
        issue.state_reason = Some(reason.unwrap_or(default).into());
        "issue"
    };
    let line = json!({"repository": repository, "number": number, "reason": issue.state_reason, "by": by});
    log.effect(&format!("{kind}.{verb}"), line);
}

/// Title and body as a PATCH says.
pub fn rewrite(hub: &mut Hub, repository: &str, number: u64, body: &Value, by: &str, log: &mut Log) {
    let now = log.now();
    let issue = hub.repository_mut(repository).issues.get_mut(&number).unwrap();
    let before = (issue.title.clone(), issue.body.clone());
    if let Some(title) = body["title"].as_str() {
        issue.title = title.into();
    }
    if let Some(text) = body["body"].as_str() {
        issue.body = text.into();
    }
    if before != (issue.title.clone(), issue.body.clone()) {
        issue.updated_at = now;
        let kind = if issue.pull.is_some() { "pull_request" } else { "issue" };
        let line =
            json!({"repository": repository, "number": number, "title": issue.title, "body": issue.body, "by": by});
        log.effect(&format!("{kind}.update"), line);
    }
}

pub fn add_comment(hub: &mut Hub, repository: &str, number: u64, by: &str, body: &str, log: &mut Log) -> u64 {
    let id = hub.id();
    let now = log.now();
    let issue = hub.repository_mut(repository).issues.get_mut(&number).unwrap();
    issue.comments.push(Comment { id, author: by.into(), body: body.into(), created_at: now, updated_at: now });
    issue.updated_at = now;
    log.effect("comment.create", json!({"repository": repository, "number": number, "id": id, "body": body, "by": by}));
    id
}

fn names(body: &Value, key: &str) -> Vec<String> {
    let entries = body[key].as_array().into_iter().flatten();
    entries.filter_map(|entry| entry.as_str().or_else(|| entry["name"].as_str()).map(str::to_owned)).collect()
}

/// Sets the labels; unknown ones are made, as GitHub does for who may write.
fn set_labels(hub: &mut Hub, repository: &str, number: u64, labels: Vec<String>, by: &str, log: &mut Log) {
    let found = hub.repository_mut(repository);
    for label in &labels {
        if found.labels.insert(label.clone()) {
            log.effect("label.create", json!({"repository": repository, "name": label, "by": by}));
        }
    }
    let issue = found.issues.get_mut(&number).unwrap();
    let mut new: Vec<String> = Vec::new();
    for label in labels {
        if !new.contains(&label) {
            new.push(label);
        }
    }
    if issue.labels != new {
        issue.labels = new;
        let line = json!({"repository": repository, "number": number, "labels": issue.labels, "by": by});
        log.effect("labels.change", line);
    }
}

fn set_assignees(hub: &mut Hub, repository: &str, number: u64, wanted: &[String], by: &str, log: &mut Log) {
    let found = hub.repository_mut(repository);
    // Who cannot be assigned is left out without a word.
    let wanted: Vec<String> = wanted.iter().filter(|login| found.collaborators.contains(*login)).cloned().collect();
    let issue = found.issues.get_mut(&number).unwrap();
    if issue.assignees != wanted {
        issue.assignees = wanted;
        let line = json!({"repository": repository, "number": number, "assignees": issue.assignees, "by": by});
        log.effect("assignees.change", line);
    }
}

/// `/repos/{owner}/{name}/issues…` and `…/labels…`
pub fn answer(
    hub: &mut Hub,
    repository: &str,
    rest: &[&str],
    request: &Request,
    who: &Identity,
    log: &mut Log,
) -> Answer {
    let body = request.json();
    match (request.method.as_str(), rest) {
        ("GET", ["labels"]) => {
            let found = hub.repository(repository);
            let all = found.labels.iter().map(|name| label_shown(hub, repository, name)).collect();
            hub.paged(request, all)
        }
        ("POST", ["labels"]) => {
            let Some(name) = body["name"].as_str() else { return git::field("Label", "name", "missing_field") };
            if !hub.repository_mut(repository).labels.insert(name.to_owned()) {
                return git::field("Label", "name", "already_exists");
            }
            log.effect("label.create", json!({"repository": repository, "name": name, "by": who.login}));
            Answer::json(201, &label_shown(hub, repository, name))
        }
        ("GET", ["labels", name]) if hub.repository(repository).labels.contains(*name) => {
            Answer::json(200, &label_shown(hub, repository, name))
        }
        (_, ["issues", ..]) if !hub.repository(repository).has_issues => {
            said(410, "Issues has been disabled in this repository.")
        }
        ("POST", ["issues"]) => create(hub, repository, &body, who, log),
        ("GET", ["issues"]) => list(hub, repository, request),
        ("GET", ["issues", "comments"]) => {
            let found = hub.repository(repository);
            let since: Option<Timestamp> = request.query("since").and_then(|since| since.parse().ok());
            let mut all: Vec<Value> = found
                .issues
                .values()
                .flat_map(|issue| issue.comments.iter().map(move |comment| (issue.number, comment)))
                .filter(|(_, comment)| since.is_none_or(|since| comment.updated_at >= since))
                .map(|(number, comment)| comment_shown(hub, repository, number, comment))
                .collect();
            if request.query("direction") == Some("desc") {
                all.reverse();
            }
            hub.paged(request, all)
        }
        (_, ["issues", "comments", id]) => one_comment(hub, repository, id, request, who, log),
        (_, ["issues", number, tail @ ..]) => {
            let Some(number) = number.parse::<u64>().ok().filter(|n| hub.repository(repository).issues.contains_key(n))
            else {
                return not_found();
            };
            one(hub, repository, number, tail, request, who, log)
        }
        _ => not_found(),
    }
}

fn create(hub: &mut Hub, repository: &str, body: &Value, who: &Identity, log: &mut Log) -> Answer {
    let Some(title) = body["title"].as_str().filter(|title| !title.trim().is_empty()) else {
        return git::field("Issue", "title", "missing_field");
    };
    let text = body["body"].as_str().unwrap_or_default();
    if title.chars().count() > 256 {
        return invalid(&[
            json!({"resource": "Issue", "code": "custom", "field": "title", "message": "title is too long (maximum is 256 characters)"}),
        ]);
    }
    if text.chars().count() > 65_536 {
        return invalid(&[
            json!({"resource": "Issue", "code": "custom", "field": "body", "message": "body is too long (maximum is 65536 characters)"}),
        ]);
    }
    let number = insert(hub, repository, &who.login, title, text, None, log.now());
    let labels = names(body, "labels");
    log.effect("issue.create", json!({
        "repository": repository, "number": number, "title": title, "body": text, "labels": labels, "assignees": body["assignees"], "by": who.login,
    }));
    let found = hub.repository_mut(repository);
    found.labels.extend(labels.iter().cloned());
    let assignees: Vec<String> =
        names(body, "assignees").into_iter().filter(|login| found.collaborators.contains(login)).collect();
    let issue = found.issues.get_mut(&number).unwrap();
    issue.labels = labels;
    issue.assignees = assignees;
    Answer::json(201, &shown(hub, repository, &hub.repository(repository).issues[&number]))
}

fn list(hub: &Hub, repository: &str, request: &Request) -> Answer {
    let found = hub.repository(repository);
    let state = request.query("state").unwrap_or("open");
    let labels: Vec<&str> = request.query("labels").map(|labels| labels.split(',').collect()).unwrap_or_default();
    let since: Option<Timestamp> = request.query("since").and_then(|since| since.parse().ok());
    let meant = |issue: &&Issue| {
        (state == "all" || issue.state == state)
            && labels.iter().all(|label| issue.labels.iter().any(|has| has.eq_ignore_ascii_case(label)))
            && request.query("creator").is_none_or(|login| issue.author == login)
            && request
                .query("assignee")
                .is_none_or(|login| login == "*" || issue.assignees.iter().any(|has| has == login))
            && since.is_none_or(|since| issue.updated_at >= since)
    };
    let mut all: Vec<&Issue> = found.issues.values().filter(meant).collect();
    sorted(&mut all, request);
    hub.paged(request, all.into_iter().map(|issue| shown(hub, repository, issue)).collect())
}

fn one(
    hub: &mut Hub,
    repository: &str,
    number: u64,
    tail: &[&str],
    request: &Request,
    who: &Identity,
    log: &mut Log,
) -> Answer {
    let body = request.json();
    let shown_now = |hub: &Hub| shown(hub, repository, &hub.repository(repository).issues[&number]);
    let labels_now = |hub: &Hub| -> Value {
        let issue = &hub.repository(repository).issues[&number];
        issue.labels.iter().map(|name| label_shown(hub, repository, name)).collect::<Vec<_>>().into()
    };
    match (request.method.as_str(), tail) {
        ("GET", []) => Answer::json(200, &shown_now(hub)),
        ("PATCH", []) => {
            let reason = body["state_reason"].as_str();
            if reason.is_some_and(|reason| !matches!(reason, "completed" | "not_planned" | "reopened" | "duplicate")) {
                return git::field("Issue", "state_reason", "invalid");
            }
            if let Some(state) = body["state"].as_str() {
                if !matches!(state, "open" | "closed") {
                    return git::field("Issue", "state", "invalid");
                }
                set_state(hub, repository, number, state, reason, &who.login, log);
            }
            rewrite(hub, repository, number, &body, &who.login, log);
            if body["labels"].is_array() {
                set_labels(hub, repository, number, names(&body, "labels"), &who.login, log);
            }
            if body["assignees"].is_array() {
                set_assignees(hub, repository, number, &names(&body, "assignees"), &who.login, log);
            }
            Answer::json(200, &shown_now(hub))
        }
        ("GET", ["comments"]) => {
            let since: Option<Timestamp> = request.query("since").and_then(|since| since.parse().ok());
            let issue = &hub.repository(repository).issues[&number];
            let all = issue.comments.iter().filter(|comment| since.is_none_or(|since| comment.updated_at >= since));
            hub.paged(request, all.map(|comment| comment_shown(hub, repository, number, comment)).collect())
        }
        ("POST", ["comments"]) => {
            let Some(text) = body["body"].as_str().filter(|text| !text.trim().is_empty()) else {
                return git::field("IssueComment", "body", "missing_field");
            };
            let id = add_comment(hub, repository, number, &who.login, text, log);
            let issue = &hub.repository(repository).issues[&number];
            let comment = issue.comments.iter().find(|comment| comment.id == id).unwrap();
            Answer::json(201, &comment_shown(hub, repository, number, comment))
        }
        ("GET", ["labels"]) => Answer::json(200, &labels_now(hub)),
        ("POST", ["labels"]) => {
            let mut all = hub.repository(repository).issues[&number].labels.clone();
            all.extend(names(&body, "labels"));
            set_labels(hub, repository, number, all, &who.login, log);
            Answer::json(200, &labels_now(hub))
        }
        ("PUT", ["labels"]) => {
            set_labels(hub, repository, number, names(&body, "labels"), &who.login, log);
            Answer::json(200, &labels_now(hub))
        }
        ("DELETE", ["labels", name]) => {
            let mut all = hub.repository(repository).issues[&number].labels.clone();
            if !all.iter().any(|label| label == name) {
                return said(404, "Label does not exist");
            }
            all.retain(|label| label != name);
            set_labels(hub, repository, number, all, &who.login, log);
            Answer::json(200, &labels_now(hub))
        }
        ("POST", ["assignees"]) => {
            let mut all = hub.repository(repository).issues[&number].assignees.clone();
            all.extend(names(&body, "assignees"));
            all.dedup();
            set_assignees(hub, repository, number, &all, &who.login, log);
            Answer::json(201, &shown_now(hub))
        }
        ("GET", ["events" | "timeline"]) => {
            let issue = &hub.repository(repository).issues[&number];
            let mut all = Vec::new();
            if let (Some(by), Some(at)) = (&issue.closed_by, issue.closed_at) {
                all.push(json!({
                    "id": issue.id, "event": "closed", "actor": account(by), "created_at": date(at.as_second()), "state_reason": issue.state_reason,
                    "commit_id": null, "node_id": "E", "url": "",
                }));
            }
            hub.paged(request, all)
        }
        _ => not_found(),
    }
}

fn one_comment(hub: &mut Hub, repository: &str, id: &str, request: &Request, who: &Identity, log: &mut Log) -> Answer {
    let place = hub.repository(repository).issues.values().find_map(|issue| {
        let at = issue.comments.iter().position(|comment| comment.id.to_string() == id)?;
        Some((issue.number, at))
    });
    let Some((number, at)) = place else { return not_found() };
    let now = log.now();
    match request.method.as_str() {
        "GET" => {}
        "PATCH" => {
            let body = request.json();
            let Some(text) = body["body"].as_str() else { return git::field("IssueComment", "body", "missing_field") };
            let comment = &mut hub.repository_mut(repository).issues.get_mut(&number).unwrap().comments[at];
            if comment.author != who.login {
                return said(403, "Must have admin rights to Repository.");
            }
            if comment.body != text {
                comment.body = text.into();
                comment.updated_at = now;
                let line = json!({"repository": repository, "number": number, "id": comment.id, "body": text, "by": who.login});
                log.effect("comment.update", line);
            }
        }
        "DELETE" => {
            let gone = hub.repository_mut(repository).issues.get_mut(&number).unwrap().comments.remove(at);
            log.effect(
                "comment.delete",
                json!({"repository": repository, "number": number, "id": gone.id, "by": who.login}),
            );
            return Answer::none();
        }
        _ => return not_found(),
    }
    let comment = &hub.repository(repository).issues[&number].comments[at];
    Answer::json(200, &comment_shown(hub, repository, number, comment))
}
