//! PostgreSQL, read-only: `{postgres: secret:URL, statement_timeout: 30s}`, asked with `{sql: NAME, file: QUERY.sql}`.
//!
//! The query names its arguments `:name`; they are bound, never written into it. Dates, times, UUIDs and intervals come as text (in
//! UTC and ISO 8601), numbers as numbers (of `numeric`, about 15 digits), JSON and arrays as they are, NaN and infinities as null.
//! What it may take and what it cannot do stands in `clients/postgres.rs`.

use std::sync::Arc;
use std::time::Duration;

use crate::base::BoxFuture;
use crate::clients::credentials::CredentialError;
use crate::clients::postgres::{Bounds, Database, Named, PostgresError};
use crate::domain::activity::Rows;
use crate::domain::definition::ToolQuery;
use crate::ports::source::{Source, SourceError, SourceKind, SourceQuery, SourceSetup};

pub const KIND: SourceKind =
    SourceKind { name: "postgres", summary: "a PostgreSQL database, read-only", query: "sql", make: Some(make) };

/// The most that one answer may take.
const MOST_BYTES: usize = 32 << 20;

fn make(setup: &SourceSetup) -> Result<Arc<dyn Source>, SourceError> {
    let secret = setup.secret.as_ref().ok_or_else(|| SourceError::Missing {
        name: setup.name.clone(),
        message: "no URL is given".into(),
        help: "write `{postgres: secret:NAME}`".into(),
    })?;
    let database = Database::of(secret, &setup.base, &setup.outside);
    Ok(Arc::new(Postgres { name: setup.name.clone(), database, timeout: setup.timeout }))
}

struct Postgres {
    name: String,
    database: Database,
    timeout: Duration,
}

impl Source for Postgres {
    fn fetch<'a>(&'a self, query: SourceQuery<'a>) -> BoxFuture<'a, Result<Rows, SourceError>> {
        Box::pin(async move {
            let refused = |message: String| SourceError::Refused { name: self.name.clone(), message };
            let text = match (query.query, query.filter) {
                (Some(ToolQuery::Sql { text, .. }), _) => text.as_str(),
                (None, Some(text)) => text,
                (Some(ToolQuery::HttpGet { .. } | ToolQuery::Promql { .. }), _) => {
                    return Err(refused("it is a database: ask it with `sql` and a `file`".into()));
                }
                (None, None) => return Err(refused("no query is given".into())),
            };
            let question = Named::parse(text).map_err(refused)?;
            let bounds = Bounds { max_rows: query.max_rows, max_bytes: MOST_BYTES, timeout: self.timeout };
            let found = self.database.select(&question, query.args, bounds).await.map_err(|error| self.error(error))?;
            Ok(Rows { rows: found.rows, truncated: found.truncated, via: "postgres".into() })
        })
    }
}

impl Postgres {
    fn error(&self, error: PostgresError) -> SourceError {
        let name = self.name.clone();
        let replace = |secret: &str| {
            format!("put a valid one where `secrets.{secret}` says; the runs that wait for it go on by themselves")
        };
        match error {
            PostgresError::Refused { secret, message } => {
                SourceError::Credential { name, help: replace(&secret), secret, message }
            }
            PostgresError::Credential(CredentialError::Refused(known)) => SourceError::Credential {
                name,
                help: replace(&known.secret.name),
                message: format!("{} (not sent again)", known.message),
                secret: known.secret.name,
            },
            error @ PostgresError::Credential(CredentialError::Secret(_)) => SourceError::Missing {
                name,
                message: error.to_string(),
                help: "supply it where `secrets:` says".into(),
            },
            PostgresError::Missing { message, help } => SourceError::Missing { name, message, help },
            PostgresError::Question { message } => SourceError::Refused { name, message },
            PostgresError::Unavailable { message } => SourceError::Unavailable { name, message, after: None },
        }
    }
}
