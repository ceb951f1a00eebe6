//! Pull requests.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::service::{Answer, Log, Request};
use super::{Hub, Identity, account, date, git, invalid, issues, not_found, said};

/// What a pull request has beyond an issue.
#[derive(Clone, Debug)]
pub struct Pull {
    pub head: String,
    pub head_sha: String,
    pub base: String,
    pub base_sha: String,
    pub draft: bool,
    pub merged_at: Option<Timestamp>,
    pub merge_sha: Option<String>,
    pub reviewers: Vec<String>,
    pub teams: Vec<String>,
}

/// As the API shows it.
pub fn shown(hub: &Hub, repository: &str, issue: &issues::Issue) -> Value {
    let found = hub.repository(repository);
    let pull = issue.pull.as_ref().unwrap();
    let owner = repository.split('/').next().unwrap_or_default();
    let side = |branch: &str, sha: &str| json!({"label": format!("{owner}:{branch}"), "ref": branch, "sha": sha, "user": account(owner), "repo": hub.shown_repository(found)});
    let api = hub.api(&format!("/repos/{repository}/pulls/{}", issue.number));
    let files = git::files(&found.bare, &pull.base_sha, &pull.head_sha);
    let total = |key: &str| files.iter().filter_map(|file| file[key].as_u64()).sum::<u64>();
    let commits = found
        .bare
        .git(&["rev-list", "--count", &format!("{}..{}", pull.base_sha, pull.head_sha)], b"")
        .unwrap_or_default();
    let mut shown = json!({
        "id": issue.id, "node_id": format!("PR_{}", issue.id), "number": issue.number, "state": issue.state, "locked": false,
        "title": issue.title, "body": issue.body, "user": account(&issue.author), "draft": pull.draft,
        "url": api, "html_url": hub.web(&format!("/{repository}/pull/{}", issue.number)),
        "diff_url": format!("{api}.diff"), "patch_url": format!("{api}.patch"), "commits_url": format!("{api}/commits"),
        "issue_url": hub.api(&format!("/repos/{repository}/issues/{}", issue.number)), "comments_url": format!("{api}/comments"),
        "review_comments_url": format!("{api}/comments"), "review_comment_url": format!("{api}/comments"), "statuses_url": "http://localhost/",
    });
    let rest = json!({
        "labels": issue.labels.iter().map(|name| issues::label_shown(hub, repository, name)).collect::<Vec<_>>(),
        "assignees": issue.assignees.iter().map(|login| account(login)).collect::<Vec<_>>(), "assignee": issue.assignees.first().map(|login| account(login)),
        "requested_reviewers": pull.reviewers.iter().map(|login| account(login)).collect::<Vec<_>>(),
        "requested_teams": pull.teams.iter().map(|slug| json!({"slug": slug, "name": slug})).collect::<Vec<_>>(),
        "head": side(&pull.head, &pull.head_sha), "base": side(&pull.base, &pull.base_sha),
        "created_at": date(issue.created_at.as_second()), "updated_at": date(issue.updated_at.as_second()),
        "closed_at": issue.closed_at.map(|at| date(at.as_second())), "merged_at": pull.merged_at.map(|at| date(at.as_second())),
        "merged": pull.merged_at.is_some(), "merge_commit_sha": pull.merge_sha, "mergeable": null, "mergeable_state": "unknown",
        "author_association": "COLLABORATOR", "auto_merge": null, "maintainer_can_modify": false, "milestone": null,
        "comments": issue.comments.len(), "review_comments": 0, "commits": commits.parse::<u64>().unwrap_or(0),
        "additions": total("additions"), "deletions": total("deletions"), "changed_files": files.len(),
        "_links": {"self": {"href": api}, "html": {"href": api}, "issue": {"href": api}, "comments": {"href": api}},
    });
    if let (Value::Object(shown), Value::Object(rest)) = (&mut shown, rest) {
        shown.extend(rest);
    }
    shown
}

pub fn answer(
    hub: &mut Hub,
    repository: &str,
    rest: &[&str],
    request: &Request,
    who: &Identity,
    log: &mut Log,
) -> Answer {
    let number = rest.first().and_then(|number| number.parse::<u64>().ok());
    match (request.method.as_str(), rest) {
        ("POST", []) => create(hub, repository, request, who, log),
        ("GET", []) => list(hub, repository, request),
        (_, [_, tail @ ..]) => {
            let Some(number) = number else { return not_found() };
            if hub.repository(repository).issues.get(&number).is_none_or(|issue| issue.pull.is_none()) {
                return not_found();
            }
            one(hub, repository, number, tail, request, who, log)
        }
        _ => not_found(),
    }
}

fn create(hub: &mut Hub, repository: &str, request: &Request, who: &Identity, log: &mut Log) -> Answer {
    let body = request.json();
    let text = |key: &str| body[key].as_str().filter(|text| !text.is_empty());
    let missing = |field: &str| git::field("PullRequest", field, "missing_field");
    let Some(head) = text("head") else { return missing("head") };
    let Some(base) = text("base") else { return missing("base") };
    let Some(title) = text("title") else { return missing("title") };
    if !body["draft"].is_null() && !body["draft"].is_boolean() {
        return said(422, "Invalid request.\n\nFor 'properties/draft', value is not a boolean.");
    }
    if text("body").is_some_and(|text| text.chars().count() > 65_536) {
        return invalid(&[
            json!({"resource": "Issue", "code": "custom", "field": "body", "message": "body is too long (maximum is 65536 characters)"}),
        ]);
    }
    let owner = repository.split('/').next().unwrap_or_default();
    let branch = match head.split_once(':') {
        Some((from, branch)) if from == owner => branch,
        Some(_) => return git::field("PullRequest", "head", "invalid"),
        None => head,
    };
    let found = hub.repository(repository);
    let Some(base_sha) = found.bare.branch(base) else { return git::field("PullRequest", "base", "invalid") };
    let Some(head_sha) = found.bare.branch(branch) else { return git::field("PullRequest", "head", "invalid") };
    let custom = |message: String| invalid(&[json!({"resource": "PullRequest", "code": "custom", "message": message})]);
    let same = |issue: &&issues::Issue| {
        issue.state == "open" && issue.pull.as_ref().is_some_and(|pull| pull.head == branch && pull.base == base)
    };
    if found.issues.values().any(|issue| same(&issue)) {
        return custom(format!("A pull request already exists for {owner}:{branch}."));
    }
    let ahead = found.bare.git(&["rev-list", "--count", &format!("{base_sha}..{head_sha}")], b"").unwrap_or_default();
    if ahead == "0" {
        return custom(format!("No commits between {base} and {branch}"));
    }
    let (branch, base, title) = (branch.to_owned(), base.to_owned(), title.to_owned());
    let now = log.now();
    let pull = Pull {
        head: branch.clone(),
        head_sha: head_sha.clone(),
        base: base.clone(),
        base_sha,
        draft: body["draft"] == true,
        merged_at: None,
        merge_sha: None,
        reviewers: Vec::new(),
        teams: Vec::new(),
    };
    let number =
        issues::insert(hub, repository, &who.login, &title, body["body"].as_str().unwrap_or_default(), Some(pull), now);
    log.effect("pull_request.create", json!({
        "repository": repository, "number": number, "head": branch, "base": base, "sha": head_sha, "draft": body["draft"] == true,
        "title": title, "body": body["body"], "by": who.login,
    }));
    let issue = &hub.repository(repository).issues[&number];
    Answer::json(201, &shown(hub, repository, issue))
}

fn list(hub: &Hub, repository: &str, request: &Request) -> Answer {
    let found = hub.repository(repository);
    let owner = repository.split('/').next().unwrap_or_default();
    let state = request.query("state").unwrap_or("open");
    // Without its owner the real one takes no notice of it.
    let head = request.query("head").and_then(|head| head.split_once(':'));
    let base = request.query("base");
    let meant = |issue: &&issues::Issue| {
        let Some(pull) = &issue.pull else { return false };
        (state == "all" || issue.state == state)
            && head.is_none_or(|(from, branch)| from == owner && pull.head == branch)
            && base.is_none_or(|base| pull.base == base)
    };
    let mut all: Vec<&issues::Issue> = found.issues.values().filter(meant).collect();
    issues::sorted(&mut all, request);
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
    match (request.method.as_str(), tail) {
        ("GET", []) => Answer::json(200, &shown_now(hub)),
        ("PATCH", []) => {
            if let Some(base) = body["base"].as_str()
                && hub.repository(repository).bare.branch(base).is_none()
            {
                return git::field("PullRequest", "base", "invalid");
            }
            if let Some(state) = body["state"].as_str() {
                let issue = &hub.repository(repository).issues[&number];
                let pull = issue.pull.as_ref().unwrap();
                let gone = hub.repository(repository).bare.branch(&pull.head).is_none();
                if !matches!(state, "open" | "closed") {
                    return git::field("PullRequest", "state", "invalid");
                }
                if state == "open" && issue.state == "closed" && (gone || pull.merged_at.is_some()) {
                    return git::field("PullRequest", "state", "invalid");
                }
                issues::set_state(hub, repository, number, state, None, &who.login, log);
            }
            let base = body["base"].as_str().map(str::to_owned);
            // `draft` is not among what a PATCH changes: GitHub has a GraphQL mutation for it.
            issues::rewrite(hub, repository, number, &body, &who.login, log);
            if let Some(base) = base {
                let pull = hub.repository_mut(repository).issues.get_mut(&number).unwrap().pull.as_mut().unwrap();
                pull.base = base;
            }
            Answer::json(200, &shown_now(hub))
        }
        ("GET", ["commits"]) => {
            let pull = hub.repository(repository).issues[&number].pull.clone().unwrap();
            let range = format!("{}..{}", pull.base_sha, pull.head_sha);
            let listed =
                hub.repository(repository).bare.git(&["rev-list", "--reverse", &range], b"").unwrap_or_default();
            hub.paged(request, listed.lines().map(|sha| git::commit_shown(hub, repository, sha)).collect())
        }
        ("GET", ["files"]) => {
            let pull = hub.repository(repository).issues[&number].pull.clone().unwrap();
            hub.paged(request, git::files(&hub.repository(repository).bare, &pull.base_sha, &pull.head_sha))
        }
        ("GET", ["merge"]) => match hub.repository(repository).issues[&number].pull.as_ref().unwrap().merged_at {
            Some(_) => Answer::none(),
            None => not_found(),
        },
        ("GET", ["reviews" | "comments"]) => hub.paged(request, Vec::new()),
        ("GET", ["requested_reviewers"]) => {
            let shown = shown_now(hub);
            Answer::json(200, &json!({"users": shown["requested_reviewers"], "teams": shown["requested_teams"]}))
        }
        ("POST", ["requested_reviewers"]) => {
            let names = |key: &str| -> Vec<String> {
                body[key].as_array().into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
            };
            let (people, teams) = (names("reviewers"), names("team_reviewers"));
            let found = hub.repository(repository);
            if people.contains(&found.issues[&number].author) {
                return said(422, "Review cannot be requested from pull request author.");
            }
            if people.iter().any(|login| !found.collaborators.contains(login)) {
                return said(
                    422,
                    "Reviews may only be requested from collaborators. One or more of the users or teams you specified is not a collaborator of the repository.",
                );
            }
            let pull = hub.repository_mut(repository).issues.get_mut(&number).unwrap().pull.as_mut().unwrap();
            let before = (pull.reviewers.clone(), pull.teams.clone());
            pull.reviewers.extend(people.into_iter().filter(|login| !before.0.contains(login)));
            pull.teams.extend(teams.into_iter().filter(|slug| !before.1.contains(slug)));
            if (&pull.reviewers, &pull.teams) != (&before.0, &before.1) {
                let asked = json!({"repository": repository, "number": number, "reviewers": pull.reviewers, "teams": pull.teams, "by": who.login});
                log.effect("review.request", asked);
            }
            Answer::json(201, &shown_now(hub))
        }
        _ => not_found(),
    }
}

/// A person merges it.
pub fn merge(hub: &mut Hub, repository: &str, number: u64, by: &str, log: &mut Log) -> String {
    let pull = hub.repository(repository).issues[&number].pull.clone().unwrap();
    let bare = hub.repository(repository).bare.clone();
    let tree = bare.tree_of(&pull.head_sha).unwrap();
    let now = log.now();
    let who = (by, "person@example.com", now.as_second());
    let parents = [bare.branch(&pull.base).unwrap(), pull.head_sha.clone()];
    let sha = bare.commit(&tree, &parents, &format!("Merge pull request #{number}"), who, who).unwrap();
    bare.git(&["update-ref", &format!("refs/heads/{}", pull.base), &sha], b"").unwrap();
    let issue = hub.repository_mut(repository).issues.get_mut(&number).unwrap();
    issue.state = "closed".into();
    issue.closed_at = Some(now);
    issue.closed_by = Some(by.to_owned());
    issue.updated_at = now;
    let pull = issue.pull.as_mut().unwrap();
    pull.merged_at = Some(now);
    pull.merge_sha = Some(sha.clone());
    pull.draft = false;
    log.effect("pull_request.merge", json!({"repository": repository, "number": number, "sha": sha, "by": by}));
    sha
}
