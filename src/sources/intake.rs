//! The errors that our own intake has received: `from: sentry` where the intake has the project of `on.sentry`.
//!
//! Rows of the same shape as those of event files and of Sentry's API (`policy::errors::group`), with the group's own counts.

use std::sync::Arc;
use std::time::Duration;

use super::rows::{Row, argument, cut};
use crate::base::BoxFuture;
use crate::base::env::Env;
use crate::domain::activity::Rows;
use crate::policy::errors::filter::{Filter, is_issue};
use crate::policy::errors::group::row_of;
use crate::ports::source::{ErrorShelf, Source, SourceError, SourceKind, SourceQuery, SourceSetup};

pub const KIND: SourceKind = SourceKind {
    name: "intake",
    summary: "errors that Sentry's SDKs report to the daemon itself",
    query: "",
    make: Some(make),
};

/// Groups that were not seen for longer are not looked at, as Sentry's own list does it.
const PERIOD: Duration = Duration::from_secs(14 * 86_400);
/// Groups of which the newest event is read for one answer.
const MOST: u32 = 1_000;

struct Intake {
    name: String,
    project: String,
    shelf: Arc<dyn ErrorShelf>,
    env: Env,
}

fn make(setup: &SourceSetup) -> Result<Arc<dyn Source>, SourceError> {
    let missing = |message: &str, help: &str| SourceError::Missing {
        name: setup.name.clone(),
        message: message.into(),
        help: help.into(),
    };
    let project = setup
        .project
        .clone()
        .ok_or_else(|| missing("it has no project", "write `on: {sentry: {project: …}}` in the pipeline"))?;
    let shelf = setup
        .errors
        .clone()
        .ok_or_else(|| missing("nothing takes errors in here", "start the daemon: nightcrew serve"))?;
    Ok(Arc::new(Intake { name: setup.name.clone(), project, shelf, env: setup.outside.env.clone() }))
}

impl Source for Intake {
    fn fetch<'a>(&'a self, query: SourceQuery<'a>) -> BoxFuture<'a, Result<Rows, SourceError>> {
        Box::pin(async move {
            let filter = Filter::parse("the errors of our own intake", query.filter.unwrap_or_default())
                .map_err(|message| SourceError::Refused { name: self.name.clone(), message })?;
            let issue = query.args.get("issue").and_then(argument).filter(|issue| !issue.is_empty());
            let (shelf, project) = (self.shelf.clone(), self.project.clone());
            // By hand everything can be named that is still kept.
            let since = match &issue {
                Some(_) => jiff::Timestamp::MIN,
                None => self.env.now().saturating_sub(PERIOD).unwrap_or(jiff::Timestamp::MIN),
            };
            let max_rows = query.max_rows;
            let read = move || -> Result<Rows, String> {
                if let Some(group) = issue.as_deref().map(|issue| shelf.group(&project, issue)).transpose()?.flatten() {
                    return Ok(Rows { rows: vec![row_of(&group)], truncated: false, via: "intake".into() });
                }
                let groups = shelf.groups(&project, since, MOST)?;
                let more = groups.len() == MOST as usize;
                let named = |row: &Row| issue.as_ref().is_none_or(|issue| is_issue(row, issue));
                let rows = groups.iter().map(row_of).filter(|row| filter.takes(row) && named(row)).collect();
                let (rows, truncated) = cut(rows, max_rows);
                Ok(Rows { rows, truncated: truncated || more, via: "intake".into() })
            };
            let unavailable =
                |message: String| SourceError::Unavailable { name: self.name.clone(), message, after: None };
            match tokio::task::spawn_blocking(read).await {
                Ok(rows) => rows.map_err(unavailable),
                Err(error) => Err(unavailable(error.to_string())),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::base::clock::ManualClock;
    use crate::base::ids::SeededIds;
    use crate::domain::error_group::ErrorGroup;
    use crate::ports::service::{Outside, Services, Shared};

    #[derive(Debug)]
    struct Shelf(Vec<ErrorGroup>);

    impl ErrorShelf for Shelf {
        fn groups(&self, project: &str, since: jiff::Timestamp, most: u32) -> Result<Vec<ErrorGroup>, String> {
            let fits = |group: &&ErrorGroup| group.project == project && group.last_seen >= since;
            Ok(self.0.iter().filter(fits).take(most as usize).cloned().collect())
        }
        fn group(&self, project: &str, key: &str) -> Result<Option<ErrorGroup>, String> {
            Ok(self.0.iter().find(|group| group.project == project && group.key == key).cloned())
        }
    }

    fn group(key: &str, last_seen: &str, event: Value) -> ErrorGroup {
        ErrorGroup {
            key: key.into(),
            project: "api".into(),
            id: crate::policy::errors::group::id(key),
            title: "kept title".into(),
            count: 412,
            users: 37,
            first_seen: "2026-11-01T00:00:00Z".parse().unwrap(),
            last_seen: last_seen.parse().unwrap(),
            releases: vec!["1.0".into(), "1.1".into()],
            event,
        }
    }

    #[tokio::test]
    async fn groups_are_rows_with_their_own_counts_and_are_found_by_filter_id_and_key() {
        let event = json!({"level": "fatal", "platform": "python", "release": "1.1", "user": {"id": 7},
            "exception": [{"type": "KeyError", "value": "'sku'", "stacktrace": {"frames": [
                {"function": "f", "filename": "a.py", "lineno": 3, "in_app": true}]}}]});
        let shelf = Shelf(vec![
            group("aaaaaaaa00000001", "2026-11-20T11:00:00Z", event.clone()),
            group("bbbbbbbb00000002", "2026-11-20T10:00:00Z", Value::Null),
            group("cccccccc00000003", "2026-11-01T10:00:00Z", event),
        ]);
        let clock = ManualClock::new("2026-11-20T12:00:00Z".parse().unwrap());
        let env = Env { clock: Arc::new(clock), ids: Arc::new(SeededIds::new(1)) };
        let outside = Outside { services: Arc::new(Services::default()), shared: Shared::default(), env };
        let mut setup = SourceSetup::new("sentry", ".", outside);
        assert!(matches!(make(&setup), Err(SourceError::Missing { .. })));
        setup.project = Some("api".into());
        assert!(matches!(make(&setup), Err(SourceError::Missing { .. })));
        setup.errors = Some(Arc::new(shelf));
        let source = make(&setup).ok().unwrap();
        let ask = async |filter: &str, args: Value| {
            let query =
                SourceQuery { query: None, filter: Some(filter), args: args.as_object().unwrap(), max_rows: 10 };
            source.fetch(query).await
        };
        let keys = |rows: &Rows| -> Vec<String> {
            rows.rows.iter().map(|row| row["key"].as_str().unwrap()[..1].to_owned()).collect()
        };
        let all = ask("is:unresolved", json!({"issue": ""})).await.unwrap();
        assert_eq!((keys(&all), all.truncated, all.via.as_str()), (vec!["a".into(), "b".into()], false, "intake"));
        let row = &all.rows[0];
        assert_eq!(
            json!([
                row["id"],
                row["title"],
                row["count"],
                row["users"],
                row["first_seen"],
                row["last_seen"],
                row["releases"]
            ]),
            json!([
                "E-AAAAAA",
                "KeyError: 'sku'",
                412,
                37,
                "2026-11-01T00:00:00Z",
                "2026-11-20T11:00:00Z",
                ["1.0", "1.1"]
            ])
        );
        assert_eq!((&row["culprit"], &all.rows[1]["title"]), (&json!("f in a.py"), &json!("kept title")));
        let mut names: Vec<_> = row.keys().collect();
        let mut bare: Vec<_> = all.rows[1].keys().collect();
        names.sort();
        bare.sort();
        assert_eq!(names, bare, "a row without its event has the same fields");
        assert_eq!(keys(&ask("level:fatal release:1.1 platform:python", json!({})).await.unwrap()), ["a"]);
        assert_eq!(keys(&ask("", json!({"issue": "e-bbbbbb"})).await.unwrap()), ["b"]);
        assert_eq!(keys(&ask("", json!({"issue": "cccccccc00000003"})).await.unwrap()), ["c"], "however old");
        assert!(matches!(ask("assigned:me", json!({})).await, Err(SourceError::Refused { .. })));
    }
}
