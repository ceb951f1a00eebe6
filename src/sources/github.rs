//! `github`: what happens in a repository on GitHub, as rows that a pipeline can compute over.
//!
//! `query`: `activity` (the default) is one row a day (UTC) with counts, `pulls` and `issues` are one row each. `args`: `from` and `to`,
//! days, for `activity` (default: the last 30 days); `state` (`open`, `closed`, `all`) for the others. The repository is the
//! pipeline's, or the one that the configuration names (`{github: owner/name}`).
//!
//! Numbers that are not known are not zero: days that a capped list does not reach are left out, and so is a column that the
//! credential may not read.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use serde_json::{Map, Value, json};

use crate::base::BoxFuture;
use crate::clients::github::{GitHub, GitHubError, repository_route};
use crate::domain::activity::Rows;
use crate::ports::service::Outside;
use crate::ports::source::{Source, SourceError, SourceKind, SourceQuery, SourceSetup};

pub const KIND: SourceKind = SourceKind {
    name: "github",
    summary: "a repository's pull requests, issues, commits and CI",
    query: "",
    make: Some(make),
};

/// Elements of one list that are read: 30 pages.
const MOST: usize = 3_000;
/// GitHub lists at most so many runs of workflows.
const MOST_RUNS: usize = 1_000;
/// Days of `activity` when none are named, and the most that may be.
const DAYS: i64 = 30;
const MOST_DAYS: i64 = 400;

fn make(setup: &SourceSetup) -> Result<Arc<dyn Source>, SourceError> {
    let missing =
        |message: String, help: &str| SourceError::Missing { name: setup.name.clone(), message, help: help.to_owned() };
    let repository = setup.target.as_ref().or(setup.repository.as_ref()).ok_or_else(|| {
        missing("no repository is named".into(), "write `repository: {github: owner/name}` in the pipeline")
    })?;
    let route =
        repository_route(repository).map_err(|error| missing(error.to_string(), "a repository is `owner/name`"))?;
    Ok(Arc::new(Statistics { name: setup.name.clone(), route, outside: setup.outside.clone() }))
}

struct Statistics {
    name: String,
    /// `/repos/owner/name`.
    route: String,
    outside: Outside,
}

impl Source for Statistics {
    fn fetch<'a>(&'a self, query: SourceQuery<'a>) -> BoxFuture<'a, Result<Rows, SourceError>> {
        Box::pin(async move {
            let github = GitHub::of(&self.outside).map_err(|error| self.error(error))?;
            let most = usize::try_from(query.max_rows).unwrap_or(MOST).clamp(1, MOST);
            let (rows, truncated) = match query.filter.map_or("activity", str::trim) {
                "activity" | "" => self.activity(&github, query.args).await?,
                "pulls" => self.items(&github, "pulls", query.args, most).await?,
                "issues" => self.items(&github, "issues", query.args, most).await?,
                other => {
                    return Err(self.refused(format!("`{other}` is none of activity, pulls, issues")));
                }
            };
            Ok(Rows { rows, truncated, via: KIND.name.into() })
        })
    }
}

/// Counts of one day, by column.
type Days = BTreeMap<Date, BTreeMap<&'static str, u64>>;

impl Statistics {
    fn refused(&self, message: String) -> SourceError {
        SourceError::Refused { name: self.name.clone(), message }
    }

    fn error(&self, error: GitHubError) -> SourceError {
        let (name, message) = (self.name.clone(), error.to_string());
        match error {
            GitHubError::Missing { message, help } => SourceError::Missing { name, message, help },
            GitHubError::Credential { secret, .. } => {
                let help = format!("replace the secret `{secret}`; runs that wait for it go on by themselves");
                SourceError::Credential { name, secret, message, help }
            }
            GitHubError::Forbidden { .. } | GitHubError::NotFound { .. } => SourceError::Missing {
                name,
                message,
                help: "give the token this right, and the App this repository: nightcrew connect github".into(),
            },
            GitHubError::Conflict { .. } | GitHubError::Invalid { .. } => self.refused(message),
            GitHubError::RateLimited { after } => SourceError::Unavailable { name, message, after: Some(after) },
            GitHubError::Unavailable { .. } | GitHubError::Ambiguous { .. } => {
                SourceError::Unavailable { name, message, after: None }
            }
        }
    }

    /// The day that an argument names.
    fn day(&self, args: &Map<String, Value>, name: &str, default: Date) -> Result<Date, SourceError> {
        match args.get(name) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::String(text)) => {
                text.get(..10).unwrap_or(text).parse().map_err(|_| self.refused(format!("`{name}` is no day: {text}")))
            }
            Some(other) => Err(self.refused(format!("`{name}` is no day: {other}"))),
        }
    }

    async fn activity(
        &self,
        github: &GitHub,
        args: &Map<String, Value>,
    ) -> Result<(Vec<Map<String, Value>>, bool), SourceError> {
        let today = day_of(self.outside.env.now());
        let to = self.day(args, "to", today)?.min(today);
        let from = self.day(args, "from", to.saturating_sub((DAYS - 1).days()))?;
        let from = from.max(to.saturating_sub((MOST_DAYS - 1).days()));
        let (since, until) = (format!("{from}T00:00:00Z"), format!("{to}T23:59:59Z"));
        let mut days: Days = BTreeMap::new();
        let mut columns =
            vec!["pulls_opened", "pulls_merged", "pulls_closed", "issues_opened", "issues_closed", "commits"];
        // From this day on nothing is missing.
        let mut whole = from;

        // Whatever was opened or closed since then was changed since then; pull requests are among the issues.
        let query = [("state", "all"), ("sort", "updated"), ("direction", "desc"), ("since", since.as_str())];
        let changed = self.list(github, "issues", &query, MOST).await.map_err(|error| self.error(error))?;
        whole = whole.max(reached(&changed, MOST, |item| time(item, "updated_at")));
        for item in &changed {
            let is_pull = item.get("pull_request").is_some_and(|pull| !pull.is_null());
            let merged = item["pull_request"]["merged_at"].as_str().is_some();
            let (opened, closed) = match (is_pull, merged) {
                (true, true) => ("pulls_opened", "pulls_merged"),
                (true, false) => ("pulls_opened", "pulls_closed"),
                (false, _) => ("issues_opened", "issues_closed"),
            };
            for (field, column) in [("created_at", opened), ("closed_at", closed)] {
                count(&mut days, time(item, field), column);
            }
        }

        let query = [("since", since.as_str()), ("until", until.as_str())];
        let commits = match self.list(github, "commits", &query, MOST).await {
            // 409: there is none yet.
            Err(GitHubError::Conflict { .. }) => Vec::new(),
            other => other.map_err(|error| self.error(error))?,
        };
        let at = |commit: &Value| time(&commit["commit"]["committer"], "date");
        whole = whole.max(reached(&commits, MOST, at));
        for commit in &commits {
            count(&mut days, at(commit), "commits");
        }

        let span = format!("{from}..{to}");
        let query = [("status", "failure"), ("created", span.as_str())];
        match self.list(github, "actions/runs", &query, MOST_RUNS).await {
            Ok(runs) => {
                columns.push("ci_failures");
                whole = whole.max(reached(&runs, MOST_RUNS, |run| time(run, "created_at")));
                for run in runs.iter().filter(|run| run["conclusion"] == "failure") {
                    count(&mut days, time(run, "created_at"), "ci_failures");
                }
            }
            Err(GitHubError::Forbidden { .. } | GitHubError::NotFound { .. }) => {
                tracing::info!(source = self.name, "runs of workflows cannot be read: no `ci_failures`");
            }
            Err(error) => return Err(self.error(error)),
        }

        let mut rows = Vec::new();
        let mut day = whole;
        while day <= to {
            let counts = days.get(&day);
            let mut row = Map::from_iter([("day".to_owned(), Value::from(day.to_string()))]);
            for column in &columns {
                let n = counts.and_then(|counts| counts.get(column)).copied().unwrap_or(0);
                row.insert((*column).to_owned(), n.into());
            }
            rows.push(row);
            day = day.saturating_add(1.days());
        }
        Ok((rows, whole > from))
    }

    /// One row each, those made last first.
    async fn items(
        &self,
        github: &GitHub,
        what: &str,
        args: &Map<String, Value>,
        most: usize,
    ) -> Result<(Vec<Map<String, Value>>, bool), SourceError> {
        let state = match args.get("state") {
            None | Some(Value::Null) => "all",
            Some(Value::String(state)) if matches!(state.as_str(), "open" | "closed" | "all") => state,
            Some(other) => return Err(self.refused(format!("`state` is one of open, closed, all, not {other}"))),
        };
        let query = [("state", state), ("sort", "created"), ("direction", "desc")];
        // Pull requests stand among the issues, and are not counted.
        let found = self.list(github, what, &query, MOST).await.map_err(|error| self.error(error))?;
        let capped = found.len() >= MOST;
        let own = found.iter().filter(|item| what == "pulls" || item.get("pull_request").is_none_or(Value::is_null));
        let now = self.outside.env.now();
        let mut rows: Vec<Map<String, Value>> = own.take(most + 1).map(|item| row(what, item, now)).collect();
        let truncated = capped || rows.len() > most;
        rows.truncate(most);
        Ok((rows, truncated))
    }

    async fn list(
        &self,
        github: &GitHub,
        what: &str,
        query: &[(&str, &str)],
        most: usize,
    ) -> Result<Vec<Value>, GitHubError> {
        let query: Vec<(&str, String)> = query.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        github.list(&format!("{}/{what}", self.route), &query, most).await
    }
}

fn row(what: &str, item: &Value, now: Timestamp) -> Map<String, Value> {
    let (created, closed) = (time(item, "created_at"), time(item, "closed_at"));
    let merged = time(item, "merged_at");
    let labels = item["labels"].as_array().into_iter().flatten();
    let labels: Vec<&str> = labels.filter_map(|label| label["name"].as_str().or(label.as_str())).collect();
    let state = match (merged, item["state"].as_str()) {
        (Some(_), _) => "merged",
        (None, Some("closed")) => "closed",
        _ => "open",
    };
    let days_open = created.map(|created| {
        let hours = closed.unwrap_or(now).duration_since(created).as_secs_f64() / 3600.0;
        (hours / 24.0 * 10.0).round().max(0.0) / 10.0
    });
    let one = if what == "pulls" { "pull" } else { "issue" };
    let number = item["number"].as_u64().unwrap_or(0);
    let mut fields = json!({
        "key": format!("{one}-{number}"),
        "number": number,
        "title": item["title"],
        "author": item["user"]["login"],
        "state": state,
        "labels": labels,
        "created_at": item["created_at"],
        "closed_at": item["closed_at"],
        "days_open": days_open,
        "url": item["html_url"],
    });
    if what == "pulls" {
        fields["merged_at"] = item["merged_at"].clone();
        fields["draft"] = item["draft"].as_bool().unwrap_or(false).into();
    } else {
        fields["comments"] = item["comments"].clone();
    }
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn time(item: &Value, field: &str) -> Option<Timestamp> {
    item[field].as_str().and_then(|at| at.parse().ok())
}

fn day_of(at: Timestamp) -> Date {
    at.to_zoned(TimeZone::UTC).date()
}

fn count(days: &mut Days, at: Option<Timestamp>, column: &'static str) {
    if let Some(at) = at {
        *days.entry(day_of(at)).or_default().entry(column).or_default() += 1;
    }
}

/// The first day that a list, the newest first, tells all of: every one if it was not capped.
fn reached(list: &[Value], most: usize, at: impl Fn(&Value) -> Option<Timestamp>) -> Date {
    match list.iter().filter_map(at).min().filter(|_| list.len() >= most) {
        Some(oldest) => day_of(oldest).saturating_add(1.days()),
        None => Date::MIN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_how_it_ended_and_how_long_it_took() {
        let now = "2026-11-20T00:00:00Z".parse().unwrap();
        let pull = json!({"number": 7, "title": "T", "user": {"login": "ada"}, "state": "closed", "draft": true, "labels": [{"name": "bug"}],
            "created_at": "2026-11-10T00:00:00Z", "closed_at": "2026-11-11T12:00:00Z", "merged_at": "2026-11-11T12:00:00Z", "html_url": "u"});
        let shown = Value::Object(row("pulls", &pull, now));
        assert_eq!(
            shown,
            json!({"key": "pull-7", "number": 7, "title": "T", "author": "ada", "state": "merged", "labels": ["bug"],
                "created_at": "2026-11-10T00:00:00Z", "closed_at": "2026-11-11T12:00:00Z", "merged_at": "2026-11-11T12:00:00Z",
                "days_open": 1.5, "url": "u", "draft": true})
        );
        let issue = json!({"number": 8, "title": "T", "user": null, "state": "open", "labels": [], "comments": 3,
            "created_at": "2026-11-10T00:00:00Z", "closed_at": null});
        let shown = Value::Object(row("issues", &issue, now));
        assert_eq!(
            (&shown["state"], &shown["days_open"], &shown["comments"]),
            (&json!("open"), &json!(10.0), &json!(3))
        );
        assert_eq!(shown.get("draft"), None);
    }

    #[test]
    fn a_capped_list_tells_all_only_of_the_days_after_its_oldest() {
        let list = [json!({"at": "2026-11-12T10:00:00Z"}), json!({"at": "2026-11-10T10:00:00Z"})];
        let at = |item: &Value| time(item, "at");
        assert_eq!(reached(&list, 2, at).to_string(), "2026-11-11");
        assert_eq!(reached(&list, 3, at), Date::MIN);
        assert_eq!(reached(&[], 3, at), Date::MIN);
    }
}
