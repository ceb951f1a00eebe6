//! JSON files as a stand-in for a service: `{files: GLOB}`. A profile binds it where no service can be reached.
//!
//! A file is a list of objects, an object with the list where the query's `rows` says (else its only list), or one object per
//! line. Rows of all files follow each other in the order of the names. Like the service it stands in for, it heeds `from` and
//! `to` when rows have a `day`. A source named `sentry` reads event files instead (`sentry_files`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::rows::{Row, RowsPath, argument, cut};
use super::{glob, sentry_files};
use crate::base::BoxFuture;
use crate::domain::activity::Rows;
use crate::domain::definition::ToolQuery;
use crate::ports::source::{Source, SourceError, SourceKind, SourceQuery, SourceSetup};

pub const KIND: SourceKind =
    SourceKind { name: "files", summary: "JSON files, by a pattern", query: "", make: Some(make) };

/// The most bytes of all files together.
pub const MOST_BYTES: u64 = 256 << 20;

fn make(setup: &SourceSetup) -> Result<Arc<dyn Source>, SourceError> {
    let pattern = setup.target.clone().ok_or_else(|| SourceError::Missing {
        name: setup.name.clone(),
        message: "no files are given".into(),
        help: "write `{files: \"data/*.json\"}`".into(),
    })?;
    let found = FileSet { name: setup.name.clone(), pattern, base: setup.base.clone() };
    if setup.name == "sentry" { Ok(sentry_files::source(found)) } else { Ok(Arc::new(Files(found))) }
}

/// The files that a pattern names.
#[derive(Clone, Debug)]
pub struct FileSet {
    pub name: String,
    pub pattern: String,
    pub base: PathBuf,
}

impl FileSet {
    /// Paths and texts, by name. Errors: `Missing` when nothing matches; a stand-in without data is never an empty answer.
    pub fn read(&self) -> Result<Vec<(PathBuf, String)>, SourceError> {
        let missing = |message: String| SourceError::Missing {
            name: self.name.clone(),
            message,
            help: format!("put the files there, or change `sources.{}.files`", self.name),
        };
        let place = self.base.join(&self.pattern);
        let paths = glob::find(&self.base, &self.pattern)
            .map_err(|error| missing(format!("looking for {}: {error}", place.display())))?;
        if paths.is_empty() {
            return Err(missing(format!("no file matches {}", place.display())));
        }
        if paths.len() > glob::MOST {
            return Err(missing(format!("more than {} files match {}", glob::MOST, place.display())));
        }
        let (mut files, mut bytes) = (Vec::with_capacity(paths.len()), 0);
        for path in paths {
            let unreadable = |error: std::io::Error| missing(format!("reading {}: {error}", path.display()));
            bytes += std::fs::metadata(&path).map_err(unreadable)?.len();
            if bytes > MOST_BYTES {
                return Err(missing(format!("{} are larger than {} MB together", place.display(), MOST_BYTES >> 20)));
            }
            let raw = std::fs::read(&path).map_err(unreadable)?;
            files.push((path, String::from_utf8_lossy(&raw).into_owned()));
        }
        Ok(files)
    }

    /// Runs `work` on a blocking thread.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(FileSet) -> Result<T, SourceError> + Send + 'static,
    ) -> Result<T, SourceError> {
        let set = self.clone();
        match tokio::task::spawn_blocking(move || work(set)).await {
            Ok(answer) => answer,
            Err(error) => Err(SourceError::Unavailable {
                name: self.name.clone(),
                message: format!("the read was interrupted: {error}"),
                after: None,
            }),
        }
    }
}

struct Files(FileSet);

impl Source for Files {
    fn fetch<'a>(&'a self, query: SourceQuery<'a>) -> BoxFuture<'a, Result<Rows, SourceError>> {
        Box::pin(async move {
            let path = match query.query {
                Some(ToolQuery::HttpGet { rows, .. }) => rows.clone(),
                Some(ToolQuery::Sql { .. } | ToolQuery::Promql { .. }) | None => None,
            };
            let bound = |name: &str| query.args.get(name).and_then(argument);
            let (from, to, max_rows) = (bound("from"), bound("to"), query.max_rows);
            self.0
                .blocking(move |set| {
                    let mut rows = Vec::new();
                    for (file, text) in set.read()? {
                        let found = parse(&text, path.as_deref()).map_err(|message| SourceError::Refused {
                            name: set.name.clone(),
                            message: format!("{}: {message}", name_of(&file)),
                        })?;
                        rows.extend(found.into_iter().filter(|row| within(row, from.as_deref(), to.as_deref())));
                    }
                    let (rows, truncated) = cut(rows, max_rows);
                    Ok(Rows { rows, truncated, via: "files".into() })
                })
                .await
        })
    }
}

/// The last part of a path, for messages.
pub fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

fn parse(text: &str, path: Option<&str>) -> Result<Vec<Row>, String> {
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Array(items)) => RowsPath::parse("$")?.rows(Value::Array(items)),
        Ok(Value::Object(map)) => match path {
            Some(path) => RowsPath::parse(path)?.rows(Value::Object(map)),
            None => {
                let mut lists = map.iter().filter(|(_, value)| value.is_array());
                match (lists.next(), lists.next()) {
                    (Some((_, list)), None) => RowsPath::parse("$")?.rows(list.clone()),
                    // One object alone, as the only line of a file of lines.
                    (None, _) => Ok(vec![map]),
                    (Some(_), Some(_)) => Err("several lists stand in it: the tool's `rows` must name one".into()),
                }
            }
        },
        Ok(_) => Err("neither a list nor an object".into()),
        Err(whole) => lines(text).map_err(|line| format!("not JSON ({whole}), nor one object per line ({line})")),
    }
}

fn lines(text: &str) -> Result<Vec<Row>, String> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| serde_json::from_str(line).map_err(|error| format!("line {}: {error}", index + 1)))
        .collect()
}

/// Days are `YYYY-MM-DD`, perhaps with a time behind: they compare as text. Rows without a day always count.
fn within(row: &Row, from: Option<&str>, to: Option<&str>) -> bool {
    let Some(day) = row.get("day").and_then(Value::as_str) else { return true };
    let cut = |text: &str| text.chars().take(10).collect::<String>();
    let day = cut(day);
    from.is_none_or(|from| day >= cut(from)) && to.is_none_or(|to| day <= cut(to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    async fn ask(files: &[(&str, &str)], pattern: &str, rows: Option<&str>, args: Value) -> Result<Value, String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let setup = SourceSetup {
            target: Some(pattern.into()),
            timeout: Duration::from_secs(5),
            ..SourceSetup::new(
                "shop",
                folder.path().to_owned(),
                crate::ports::service::Outside::none(crate::base::env::Env::system()),
            )
        };
        let query = ToolQuery::HttpGet { path: "/v1".into(), rows: rows.map(str::to_owned) };
        let query = SourceQuery { query: Some(&query), filter: None, args: args.as_object().unwrap(), max_rows: 100 };
        match make(&setup).unwrap().fetch(query).await {
            Ok(answer) => Ok(serde_json::to_value(answer.rows).unwrap()),
            Err(error) => Err(error.to_string().replace(&folder.path().display().to_string(), "DIR")),
        }
    }

    #[tokio::test]
    async fn every_form_of_file_gives_its_rows_within_the_days() {
        let files = [
            ("1.json", r#"{"data": [{"day": "2026-11-01", "n": 1}, {"day": "2026-11-02", "n": 2}]}"#),
            ("2.json", r#"[{"day": "2026-11-03T10:00:00Z", "n": 3}]"#),
            ("3.json", "{\"day\": \"2026-11-04\", \"n\": 4}\n\n{\"n\": 5}\n"),
        ];
        let args = json!({"from": "2026-11-02", "to": "2026-11-03"});
        let rows = ask(&files, "*.json", Some("$.data"), args).await.unwrap();
        let expected = json!([{"day": "2026-11-02", "n": 2}, {"day": "2026-11-03T10:00:00Z", "n": 3}, {"n": 5}]);
        assert_eq!(rows, expected);
        assert_eq!(ask(&files[..1], "1.json", None, json!({})).await.unwrap().as_array().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn no_file_and_no_json_are_said_plainly() {
        let missing = ask(&[], "*.json", None, json!({})).await.unwrap_err();
        assert_eq!(missing, "source `shop` is not usable: no file matches DIR/*.json");
        let garbage = ask(&[("a.json", "<html>")], "*.json", None, json!({})).await.unwrap_err();
        assert!(garbage.starts_with("source `shop` refused the query: a.json: not JSON"), "{garbage}");
    }
}
