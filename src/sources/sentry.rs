//! `sentry`: Sentry's issues through its API, as the rows that every source of errors gives.
//!
//! `query` is Sentry's own search language, the project that of `on.sentry`. `args`: `issue` names one by hand (its id or short
//! id), `environment` (a name or a list) and `period` (`14d` unless said otherwise) narrow the list. The latest event is read for each issue
//! that is given, a few at a time.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use serde_json::Value;

use super::rows::{Row, argument};
use crate::base::BoxFuture;
use crate::base::env::Env;
use crate::clients::sentry::{IssueQuery, Sentry, SentryError};
use crate::domain::activity::Rows;
use crate::policy::errors::rest;
use crate::ports::source::{Source, SourceError, SourceKind, SourceQuery, SourceSetup};

pub const KIND: SourceKind =
    SourceKind { name: "sentry", summary: "Sentry's issues, through its API", query: "", make: Some(make) };

/// Issues that are read with their latest event at one go: each is a call.
const MOST: usize = 100;
const PARALLEL: usize = 4;
const PERIOD: &str = "14d";
const QUERY: &str = "is:unresolved";

fn make(setup: &SourceSetup) -> Result<Arc<dyn Source>, SourceError> {
    let name = setup.name.clone();
    let sentry = Sentry::of(&setup.outside).map_err(|error| told(&name, error))?;
    let project = setup.project.clone().ok_or_else(|| SourceError::Missing {
        name: name.clone(),
        message: "the pipeline names no project".into(),
        help: "write `on: {sentry: {project: …}}`".into(),
    })?;
    Ok(Arc::new(SentrySource { name, sentry, project, env: setup.outside.env.clone() }))
}

struct SentrySource {
    name: String,
    sentry: Arc<Sentry>,
    project: String,
    env: Env,
}

impl Source for SentrySource {
    fn fetch<'a>(&'a self, query: SourceQuery<'a>) -> BoxFuture<'a, Result<Rows, SourceError>> {
        Box::pin(async move {
            let refused = |message: String| SourceError::Refused { name: self.name.clone(), message };
            let named = query.args.get("issue").and_then(argument).filter(|issue| !issue.trim().is_empty());
            let (issues, truncated) = match named {
                Some(issue) => {
                    let found = self.sentry.issue(issue.trim()).await.map_err(|error| told(&self.name, error))?;
                    let found = found.ok_or_else(|| refused(format!("there is no issue `{issue}`")))?;
                    if !is_of(&found, &self.project) {
                        let project = found.pointer("/project/slug").and_then(Value::as_str).unwrap_or("another");
                        return Err(refused(format!(
                            "the issue `{issue}` is of the project `{project}`, and `on.sentry` names `{}`",
                            self.project
                        )));
                    }
                    (vec![found], false)
                }
                None => {
                    let period = query.args.get("period").and_then(argument).unwrap_or_else(|| PERIOD.into());
                    if !is_period(&period) {
                        return Err(refused(format!("`{period}` is no period; write for instance `14d` or `24h`")));
                    }
                    let environments = match query.args.get("environment") {
                        Some(Value::Array(names)) => names.iter().filter_map(argument).collect(),
                        Some(name) => argument(name).filter(|name| !name.is_empty()).into_iter().collect(),
                        None => Vec::new(),
                    };
                    let ask = IssueQuery {
                        query: query.filter.unwrap_or(QUERY),
                        project: &self.project,
                        environments: &environments,
                        period: &period,
                    };
                    let most = usize::try_from(query.max_rows).unwrap_or(MOST).min(MOST);
                    self.sentry.issues(ask, most).await.map_err(|error| told(&self.name, error))?
                }
            };
            let now = self.env.now();
            let rows: Vec<Option<Row>> = stream::iter(issues)
                .map(|issue| async move { whole(&self.sentry, &issue, now).await })
                .buffered(PARALLEL)
                .try_collect()
                .await
                .map_err(|error| told(&self.name, error))?;
            Ok(Rows { rows: rows.into_iter().flatten().collect(), truncated, via: "sentry".into() })
        })
    }
}

/// The row of an issue with its latest event. One whose event cannot be had is given without.
pub async fn whole(sentry: &Sentry, issue: &Value, now: Timestamp) -> Result<Option<Row>, SentryError> {
    let Some(id) = rest::issue_id(issue) else { return Ok(None) };
    let event = match sentry.latest_event(&id).await {
        Ok(event) => event,
        Err(error @ (SentryError::Unavailable { after: None, .. } | SentryError::Invalid { .. })) => {
            tracing::warn!(issue = id, %error, "an issue is read without its latest event");
            None
        }
        Err(error) => return Err(error),
    };
    Ok(rest::row(issue, event, now))
}

/// Whether an issue is of this project, by slug or id.
pub fn is_of(issue: &Value, project: &str) -> bool {
    let own = |name: &str| issue.get("project").and_then(|own| own.get(name));
    own("slug").and_then(Value::as_str).is_some_and(|slug| slug.eq_ignore_ascii_case(project))
        || own("id").and_then(rest::id).as_deref() == Some(project)
}

fn is_period(text: &str) -> bool {
    let number = text.strip_suffix(['s', 'm', 'h', 'd', 'w']);
    number.is_some_and(|number| number.len() <= 4 && number.parse::<u32>().is_ok_and(|number| number > 0))
}

fn told(name: &str, error: SentryError) -> SourceError {
    let (name, message) = (name.to_owned(), error.to_string());
    match error {
        SentryError::Missing { message, help } => SourceError::Missing { name, message, help },
        SentryError::Credential { secret, message } => SourceError::Credential {
            name,
            help: format!("put a valid token into the secret `{secret}`: nightcrew connect sentry"),
            secret,
            message,
        },
        SentryError::Forbidden { scope, .. } => SourceError::Missing {
            name,
            message,
            help: format!("give the token the scope `{scope}`: nightcrew connect sentry"),
        },
        SentryError::NotFound { .. } | SentryError::Invalid { .. } => SourceError::Refused { name, message },
        SentryError::Unavailable { after, .. } => SourceError::Unavailable { name, message, after },
        SentryError::Ambiguous { .. } => SourceError::Unavailable { name, message, after: None },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_issue_is_of_a_project_by_slug_or_id_and_a_period_is_a_number_with_a_unit() {
        let issue = json!({"project": {"id": "42", "slug": "api", "name": "API"}});
        assert!(is_of(&issue, "api") && is_of(&issue, "API") && is_of(&issue, "42"));
        assert!(!is_of(&issue, "web") && !is_of(&json!({}), "api") && !is_of(&json!({"project": 42}), "42"));
        assert!(["14d", "24h", "1w"].iter().all(|period| is_period(period)));
        assert!(["", "d", "0d", "-1d", "14", "14д", "é", "99999d", "1 d"].iter().all(|period| !is_period(period)));
    }
}
