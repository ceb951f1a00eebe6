//! SQLite files, read-only: `{sqlite: FILE}`, asked with `{sql: NAME, file: QUERY.sql}`.
//!
//! A query can read and nothing else, by four bars: the file is opened read-only, `query_only` is on, an authorizer lets through
//! only SELECT, READ, recursion and functions, and only one statement is prepared. It cannot run longer than the source's
//! timeout, nor give more than [`MOST_BYTES`]. The connection lives for one read, so a file that is replaced is seen at once.
//! The file must be one that can be read without writing: not in WAL mode in a folder that is read-only.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use serde_json::{Map, Value};

use super::rows::Row;
use crate::base::BoxFuture;
use crate::domain::activity::Rows;
use crate::domain::definition::ToolQuery;
use crate::ports::source::{Source, SourceError, SourceKind, SourceQuery, SourceSetup, resolve};

pub const KIND: SourceKind =
    SourceKind { name: "sqlite", summary: "a SQLite file, opened read-only", query: "sql", make: Some(make) };

/// The most that the texts and numbers of one answer may take.
const MOST_BYTES: usize = 32 << 20;
/// How long a writer that holds the file is waited for.
const BUSY: Duration = Duration::from_secs(5);
/// How many instructions of SQLite's machine lie between two looks at the clock.
const INSTRUCTIONS: i32 = 2_000;

fn make(setup: &SourceSetup) -> Result<Arc<dyn Source>, SourceError> {
    let target = setup.target.as_deref().ok_or_else(|| SourceError::Missing {
        name: setup.name.clone(),
        message: "no file is given".into(),
        help: "write `{sqlite: FILE}`".into(),
    })?;
    Ok(Arc::new(Sqlite { name: setup.name.clone(), file: resolve(&setup.base, target), timeout: setup.timeout }))
}

struct Sqlite {
    name: String,
    file: PathBuf,
    timeout: Duration,
}

impl Source for Sqlite {
    fn fetch<'a>(&'a self, query: SourceQuery<'a>) -> BoxFuture<'a, Result<Rows, SourceError>> {
        Box::pin(async move {
            let refused = |message: String| SourceError::Refused { name: self.name.clone(), message };
            let sql = match (query.query, query.filter) {
                (Some(ToolQuery::Sql { text, .. }), _) => text.clone(),
                (None, Some(text)) => text.to_owned(),
                (Some(ToolQuery::HttpGet { .. } | ToolQuery::Promql { .. }), _) => {
                    return Err(refused("it is a database: ask it with `sql` and a `file`".into()));
                }
                (None, None) => return Err(refused("no query is given".into())),
            };
            let (args, max_rows) = (query.args.clone(), query.max_rows);
            let stop = StopOnDrop(Arc::new(AtomicBool::new(false)));
            let read = Read {
                name: self.name.clone(),
                file: self.file.clone(),
                until: Instant::now() + self.timeout,
                timeout: self.timeout,
                stop: stop.0.clone(),
            };
            let answer = tokio::task::spawn_blocking(move || read.run(&sql, &args, max_rows)).await;
            match answer {
                Ok(answer) => answer,
                Err(error) => Err(SourceError::Unavailable {
                    name: self.name.clone(),
                    message: format!("the read was interrupted: {error}"),
                    after: None,
                }),
            }
        })
    }
}

/// Ends the blocking read when nobody waits for it any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One read, on a blocking thread.
struct Read {
    name: String,
    file: PathBuf,
    until: Instant,
    timeout: Duration,
    stop: Arc<AtomicBool>,
}

impl Read {
    fn run(&self, sql: &str, args: &Map<String, Value>, max_rows: u32) -> Result<Rows, SourceError> {
        let connection = self.open()?;
        let mut statement = connection.prepare(sql).map_err(|error| self.error(error))?;
        if statement.column_count() == 0 || !statement.readonly() {
            return Err(self.refused("the query yields no rows: write one SELECT".into()));
        }
        let columns = self.columns(&statement)?;
        self.bind(&mut statement, args)?;
        let most = usize::try_from(max_rows).unwrap_or(usize::MAX);
        let (mut found, mut bytes, mut truncated) = (Vec::new(), 0, false);
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next().map_err(|error| self.error(error))? {
            if found.len() == most {
                truncated = true;
                break;
            }
            let mut map = Row::new();
            for (index, column) in columns.iter().enumerate() {
                let value = row.get_ref(index).map_err(|error| self.error(error))?;
                let value = self.value(column, value)?;
                bytes += column.len() + value.as_str().map_or(16, str::len);
                map.insert(column.clone(), value);
            }
            if bytes > MOST_BYTES {
                return Err(self.refused(format!("the answer is larger than {} MB: select less", MOST_BYTES >> 20)));
            }
            found.push(map);
        }
        Ok(Rows { rows: found, truncated, via: "sqlite".into() })
    }

    fn open(&self) -> Result<Connection, SourceError> {
        if !self.file.is_file() {
            return Err(SourceError::Missing {
                name: self.name.clone(),
                message: format!("there is no file {}", self.file.display()),
                help: format!("put the database there, or change `sources.{}`", self.name),
            });
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(&self.file, flags).map_err(|error| self.error(error))?;
        connection.busy_timeout(BUSY.min(self.timeout)).map_err(|error| self.error(error))?;
        connection.pragma_update(None, "query_only", true).map_err(|error| self.error(error))?;
        let (until, stop) = (self.until, self.stop.clone());
        let late = move || stop.load(Ordering::Relaxed) || Instant::now() >= until;
        connection.progress_handler(INSTRUCTIONS, Some(late)).map_err(|error| self.error(error))?;
        connection.authorizer(Some(allow)).map_err(|error| self.error(error))?;
        Ok(connection)
    }

    fn columns(&self, statement: &rusqlite::Statement<'_>) -> Result<Vec<String>, SourceError> {
        let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
        for (index, name) in names.iter().enumerate() {
            if names[..index].contains(name) {
                return Err(self.refused(format!("two columns are named `{name}`: give one another name with AS")));
            }
        }
        Ok(names)
    }

    /// Binds what the query names. Arguments that it does not name are not its business: one fetch may ask several sources.
    fn bind(&self, statement: &mut rusqlite::Statement<'_>, args: &Map<String, Value>) -> Result<(), SourceError> {
        for index in 1..=statement.parameter_count() {
            let name = statement
                .parameter_name(index)
                .ok_or_else(|| self.refused("the query has a parameter without a name: write `:name`, not `?`".into()))?
                .to_owned();
            let value = args.get(name.trim_start_matches([':', '@', '$'])).ok_or_else(|| {
                let given: Vec<_> = args.keys().map(|key| format!("`{key}`")).collect();
                let given = if given.is_empty() { "none".to_owned() } else { given.join(", ") };
                self.refused(format!("the query needs `{name}`, which is not among the arguments ({given})"))
            })?;
            let bound = match value {
                Value::Null => rusqlite::types::Value::Null,
                Value::Bool(flag) => rusqlite::types::Value::Integer(i64::from(*flag)),
                Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                    (Some(integer), _) => rusqlite::types::Value::Integer(integer),
                    (None, Some(real)) => rusqlite::types::Value::Real(real),
                    (None, None) => return Err(self.refused(format!("`{name}` is not a number SQLite can hold"))),
                },
                Value::String(text) => rusqlite::types::Value::Text(text.clone()),
                // SQLite takes no lists; `json_each(:name)` reads one from its JSON.
                list => rusqlite::types::Value::Text(list.to_string()),
            };
            statement.raw_bind_parameter(index, bound).map_err(|error| self.error(error))?;
        }
        Ok(())
    }

    fn value(&self, column: &str, value: ValueRef<'_>) -> Result<Value, SourceError> {
        Ok(match value {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(integer) => Value::from(integer),
            // Infinities have no JSON; they are as unknown as NULL.
            ValueRef::Real(real) => serde_json::Number::from_f64(real).map_or(Value::Null, Value::Number),
            ValueRef::Text(bytes) => Value::from(String::from_utf8_lossy(bytes).into_owned()),
            ValueRef::Blob(_) => {
                return Err(self.refused(format!("column `{column}` is a BLOB: leave it out, or select hex({column})")));
            }
        })
    }

    fn refused(&self, message: String) -> SourceError {
        SourceError::Refused { name: self.name.clone(), message }
    }

    fn error(&self, error: rusqlite::Error) -> SourceError {
        let name = self.name.clone();
        let missing =
            |message: String, help: &str| SourceError::Missing { name: name.clone(), message, help: help.into() };
        let file = self.file.display();
        match error.sqlite_error_code() {
            Some(ErrorCode::OperationInterrupted) => SourceError::Unavailable {
                name,
                message: format!("the query took longer than {:?} and was stopped", self.timeout),
                after: None,
            },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                SourceError::Unavailable { name, message: format!("{file} is locked by a writer"), after: None }
            }
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => missing(
                format!("{file} is not a SQLite database, or is damaged"),
                "give a file that `sqlite3` can open",
            ),
            Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => missing(
                format!("{file} cannot be opened for reading"),
                "let the daemon's user read it; a file in WAL mode also needs a folder that it may write to",
            ),
            Some(ErrorCode::AuthorizationForStatementDenied) => {
                self.refused("only SELECT may run here: no writing, no ATTACH, no PRAGMA".into())
            }
            Some(ErrorCode::SystemIoFailure) => {
                SourceError::Unavailable { name, message: format!("reading {file}: {error}"), after: None }
            }
            _ => match error {
                rusqlite::Error::MultipleStatement => self.refused("write one statement, not several".into()),
                rusqlite::Error::SqlInputError { msg, sql, offset, .. } => {
                    let line = usize::try_from(offset)
                        .ok()
                        .and_then(|offset| sql.get(..offset))
                        .map(|before| format!(" (line {})", before.matches('\n').count() + 1))
                        .unwrap_or_default();
                    self.refused(format!("{msg}{line}"))
                }
                other => self.refused(other.to_string()),
            },
        }
    }
}

/// What a query may do: read.
fn allow(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Select | AuthAction::Read { .. } | AuthAction::Recursive => Authorization::Allow,
        AuthAction::Function { function_name } if !function_name.eq_ignore_ascii_case("load_extension") => {
            Authorization::Allow
        }
        _ => Authorization::Deny,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    struct Fixture {
        folder: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let db = Connection::open(folder.path().join("w.db")).unwrap();
            db.execute_batch(
                "CREATE TABLE t (day TEXT, n INTEGER, r REAL, b BLOB);
                 INSERT INTO t VALUES ('2026-11-18', 1, 0.5, NULL), ('2026-11-19', 2, 1.0, x'00'), ('2026-11-20', 3, NULL, NULL);",
            )
            .unwrap();
            Self { folder }
        }

        async fn ask(&self, file: &str, sql: &str, args: Value, max_rows: u32) -> Result<Rows, SourceError> {
            let setup = SourceSetup {
                target: Some(file.into()),
                timeout: Duration::from_millis(300),
                ..SourceSetup::new(
                    "warehouse",
                    self.folder.path().to_owned(),
                    crate::ports::service::Outside::none(crate::base::env::Env::system()),
                )
            };
            let query = ToolQuery::Sql { file: "q.sql".into(), text: sql.into() };
            let args = args.as_object().unwrap();
            make(&setup).unwrap().fetch(SourceQuery { query: Some(&query), filter: None, args, max_rows }).await
        }
    }

    #[tokio::test]
    async fn rows_come_with_their_types_and_are_cut_at_the_most() {
        let fixture = Fixture::new();
        let sql = "SELECT day, n, r FROM t WHERE day >= :from AND day <= :to ORDER BY day";
        let args = json!({"from": "2026-11-19", "to": "2026-11-20", "unused": 1});
        let all = fixture.ask("w.db", sql, args.clone(), 500).await.unwrap();
        let expected = json!([{"day": "2026-11-19", "n": 2, "r": 1.0}, {"day": "2026-11-20", "n": 3, "r": null}]);
        assert_eq!((serde_json::to_value(&all.rows).unwrap(), all.truncated), (expected, false));
        let cut = fixture.ask("w.db", sql, args, 1).await.unwrap();
        assert_eq!((cut.rows.len(), cut.truncated, cut.via.as_str()), (1, true, "sqlite"));
    }

    #[tokio::test]
    async fn nothing_but_one_select_runs() {
        let fixture = Fixture::new();
        let other = fixture.folder.path().join("other.db");
        for sql in [
            "DELETE FROM t",
            "INSERT INTO t VALUES ('x', 1, 1, NULL) RETURNING day",
            "CREATE TABLE u (x)",
            "CREATE TEMP TABLE u AS SELECT * FROM t",
            &format!("ATTACH '{}' AS o", other.display()),
            "VACUUM INTO 'copy.db'",
            "PRAGMA query_only = 0",
            "PRAGMA user_version",
            "SELECT load_extension('x')",
            "SELECT 1; SELECT 2",
            "SELECT * FROM pragma_table_info('t'); DROP TABLE t",
            "BEGIN",
            "",
        ] {
            let error = fixture.ask("w.db", sql, json!({}), 5).await.unwrap_err();
            assert!(matches!(error, SourceError::Refused { .. }), "{sql}: {error:?}");
        }
        assert!(!other.exists());
        assert_eq!(fixture.ask("w.db", "SELECT * FROM t WHERE b IS NULL", json!({}), 9).await.unwrap().rows.len(), 2);
    }

    #[tokio::test]
    async fn mistakes_say_what_is_wrong_and_what_to_do() {
        let fixture = Fixture::new();
        std::fs::write(fixture.folder.path().join("text.db"), "not a database at all, sorry. ".repeat(50)).unwrap();
        let mut messages = Vec::new();
        for (file, sql) in [
            ("gone.db", "SELECT 1"),
            ("text.db", "SELECT * FROM t"),
            ("w.db", "SELECT\n  nn FROM t"),
            ("w.db", "SELECT n, n FROM t"),
            ("w.db", "SELECT b FROM t WHERE b IS NOT NULL"),
            ("w.db", "SELECT n FROM t WHERE day = :day"),
            ("w.db", "WITH RECURSIVE f(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM f) SELECT max(x) FROM f"),
        ] {
            let error = fixture.ask(file, sql, json!({"from": 1}), 5).await.unwrap_err();
            messages.push(error.to_string().replace(&fixture.folder.path().display().to_string(), "DIR"));
        }
        assert_eq!(
            messages,
            [
                "source `warehouse` is not usable: there is no file DIR/gone.db",
                "source `warehouse` is not usable: DIR/text.db is not a SQLite database, or is damaged",
                "source `warehouse` refused the query: no such column: nn (line 2)",
                "source `warehouse` refused the query: two columns are named `n`: give one another name with AS",
                "source `warehouse` refused the query: column `b` is a BLOB: leave it out, or select hex(b)",
                "source `warehouse` refused the query: the query needs `:day`, which is not among the arguments (`from`)",
                "source `warehouse` does not answer: the query took longer than 300ms and was stopped",
            ]
        );
    }
}
