//! Event files in Sentry's own format, grouped into issues: `{sentry: {files: GLOB}}` in a profile.
//!
//! It stands in for Sentry's list of issues: one row per group (`policy::errors::group`), the newest first.

use std::sync::Arc;

use jiff::Timestamp;

use super::files::{FileSet, name_of};
use super::rows::{Row, argument, cut};
use crate::base::BoxFuture;
use crate::domain::activity::Rows;
use crate::policy::errors::event::{Report, events};
use crate::policy::errors::filter::{Filter, is_issue};
use crate::policy::errors::group::group;
use crate::ports::source::{Source, SourceError, SourceQuery};

/// The source over `files`.
pub fn source(files: FileSet) -> Arc<dyn Source> {
    Arc::new(SentryEvents(files))
}

struct SentryEvents(FileSet);

impl Source for SentryEvents {
    fn fetch<'a>(&'a self, query: SourceQuery<'a>) -> BoxFuture<'a, Result<Rows, SourceError>> {
        Box::pin(async move {
            let filter = Filter::parse("event files", query.filter.unwrap_or_default())
                .map_err(|message| SourceError::Refused { name: self.0.name.clone(), message })?;
            let issue = query.args.get("issue").and_then(argument).filter(|issue| !issue.is_empty());
            let max_rows = query.max_rows;
            self.0
                .blocking(move |set| {
                    let mut reports = Vec::new();
                    for (path, text) in set.read()? {
                        let refused = |message: String| SourceError::Refused {
                            name: set.name.clone(),
                            message: format!("{}: {message}", name_of(&path)),
                        };
                        let modified = std::fs::metadata(&path).and_then(|file| file.modified()).ok();
                        let received = modified.and_then(|at| Timestamp::try_from(at).ok()).unwrap_or_default();
                        let found = events(&text).map_err(refused)?;
                        reports.extend(found.into_iter().map(|event| Report::read(event, received)));
                    }
                    let named = |row: &Row| issue.as_ref().is_none_or(|issue| is_issue(row, issue));
                    let rows = group(&reports).into_iter().filter(|row| filter.takes(row) && named(row));
                    let (rows, truncated) = cut(rows.collect(), max_rows);
                    Ok(Rows { rows, truncated, via: "files".into() })
                })
                .await
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const EVENTS: [&str; 2] = [
        r#"{"event_id": "6f1c2a9d7d6b4b1c8c0d3c1a2b3c4d5e", "platform": "python", "level": "error",
            "timestamp": "2026-11-20T08:00:00Z", "exception": {"values": [{"type": "ReportError", "value": "no report"}]}}"#,
        r#"{"event_id": "0194a1f0-3b5f-7c21-9d8e-aa0011223344", "platform": "native", "timestamp": "2026-11-20T08:00:00",
            "exception": {"values": [{"type": "ParseIntError", "value": "invalid digit found in string"}]}}"#,
    ];

    #[tokio::test]
    async fn a_profile_that_binds_sentry_to_files_gives_issues() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.json"), EVENTS[0]).unwrap();
        std::fs::write(folder.path().join("b.json"), EVENTS[1]).unwrap();
        let source = source(FileSet { name: "sentry".into(), pattern: "*.json".into(), base: folder.path().into() });
        let ask = async |filter: &str, args: Value| {
            let query =
                SourceQuery { query: None, filter: Some(filter), args: args.as_object().unwrap(), max_rows: 10 };
            source.fetch(query).await
        };
        let all = ask("is:unresolved", json!({"issue": ""})).await.unwrap();
        assert_eq!(all.rows.len(), 2);
        let id = all.rows[0]["id"].clone();
        assert_eq!(ask("", json!({"issue": id})).await.unwrap().rows, all.rows[..1]);
        assert_eq!(ask("level:error platform:native", json!({})).await.unwrap().rows.len(), 1);
        assert!(matches!(ask("assigned:me", json!({})).await, Err(SourceError::Refused { .. })));
    }
}
