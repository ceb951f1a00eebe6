//! PostgreSQL, to read and for nothing else. The secret is the whole URL, `postgres://user:password@host:5432/database`.
//!
//! A question is one SELECT. It runs in a transaction that is read-only, as the inner part of a query of ours that turns each row
//! into JSON on the server, so that nothing but rows can come of it; the server itself ends it after the timeout, and is told to
//! when nobody waits any more. Arguments are bound, never written into the text. Few connections per database are kept, and given
//! up after a minute without use. What keeps a query from calling functions that act elsewhere is the role it runs as: give it one
//! that may only read.

mod args;
mod named;
mod tls;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::TryStreamExt as _;
use serde_json::{Map, Value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{CancelToken, Client};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::credentials::{Credential, CredentialError, Credentials};
use crate::base::scope::Scope;
use crate::base::secret::{Secret, SecretRef};
use crate::ports::service::Outside;

use args::Arg;
pub use named::Named;

/// Connections to one database at a time.
const MOST_CONNECTIONS: usize = 4;
/// A connection that nobody used for this long is given up.
const IDLE: Duration = Duration::from_secs(60);
/// How long the server may take to hear that a query should end.
const CANCEL: Duration = Duration::from_secs(5);

/// What one read may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub max_rows: u32,
    /// Of all rows as JSON.
    pub max_bytes: usize,
    pub timeout: Duration,
}

/// Rows as objects, with the columns in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selected {
    pub rows: Vec<Map<String, Value>>,
    /// There were more.
    pub truncated: bool,
}

/// Who we are to the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    pub version: String,
    pub user: String,
    pub database: String,
    /// It may do everything: no account for reading.
    pub superuser: bool,
    pub encrypted: bool,
}

/// Why there are no rows.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// The secret cannot be read, or was refused before. Nothing was sent.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The password is not taken.
    #[error("{message}")]
    Refused { secret: String, message: String },
    /// A person must repair something: the URL, the role, the certificate.
    #[error("{message}")]
    Missing { message: String, help: String },
    /// The question is wrong.
    #[error("{message}")]
    Question { message: String },
    /// Worth another try.
    #[error("{message}")]
    Unavailable { message: String },
}

/// One database. Cheap to clone; all of one process share its connections.
#[derive(Clone, Debug)]
pub struct Database {
    secret: SecretRef,
    /// The folder against which `sslrootcert` is resolved.
    base: PathBuf,
    credentials: Credentials,
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Pool {
    /// Of the connections, and of what tells the server to stop.
    scope: Mutex<Option<Scope>>,
    idle: Mutex<Vec<Idle>>,
    places: Arc<Semaphore>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

struct Connection {
    client: Client,
    /// What it was made with.
    url: Secret,
    cancel: CancelToken,
    tls: MakeRustlsConnect,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

/// A connection in use. Dropped before [`Lease::give_back`], it tells the server to end what it is doing and is given up.
struct Lease {
    pool: Arc<Pool>,
    scope: Scope,
    connection: Option<Connection>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        drop(self.scope.spawn("cancel a query", async move {
            let Connection { client, cancel, tls, .. } = connection;
            // Nobody waits for the answer; the server's own timeout ends it otherwise.
            match tokio::time::timeout(CANCEL, cancel.cancel_query(tls)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(error = told(&error), "a query could not be cancelled"),
                Err(_) => tracing::debug!("a query could not be cancelled within {CANCEL:?}"),
            }
            drop(client);
        }));
    }
}

impl Lease {
    fn client(&self) -> Result<&Client, PostgresError> {
        let gone = || PostgresError::Unavailable { message: "the connection is gone".into() };
        self.connection.as_ref().map(|connection| &connection.client).ok_or_else(gone)
    }

    /// Nothing is under way on it.
    fn give_back(mut self) {
        if let Some(connection) = self.connection.take().filter(|connection| !connection.client.is_closed()) {
            self.pool.idle().push(Idle { connection, since: Instant::now() });
            let pool = self.pool.clone();
            drop(self.scope.spawn("give up idle connections", async move {
                tokio::time::sleep(IDLE).await;
                pool.sweep();
            }));
        }
    }
}

impl Pool {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sweep(&self) {
        self.idle().retain(|idle| idle.since.elapsed() < IDLE && !idle.connection.client.is_closed());
    }

    /// The scope of the runtime that asks first.
    fn scope(&self) -> Scope {
        let mut scope = self.scope.lock().unwrap_or_else(PoisonError::into_inner);
        scope.get_or_insert_with(|| Scope::new(tokio::runtime::Handle::current())).clone()
    }
}

impl Database {
    /// The database behind a secret. Contacts nothing. `base`: where a relative `sslrootcert` is looked for.
    pub fn of(secret: &SecretRef, base: &Path, outside: &Outside) -> Self {
        let pool =
            outside.shared.get_or_make::<Pool, std::convert::Infallible>(&format!("postgres {}", secret.name), || {
                Ok(Pool {
                    scope: Mutex::default(),
                    idle: Mutex::default(),
                    places: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
                })
            });
        let pool = match pool {
            Ok(pool) => pool,
            Err(never) => match never {},
        };
        let credentials = Credentials::of(&outside.shared);
        Self { secret: secret.clone(), base: base.to_owned(), credentials, pool }
    }

    /// The rows of one SELECT with its named arguments. Cancel safe: the server is told to end it.
    pub async fn select(
        &self,
        question: &Named,
        args: &Map<String, Value>,
        bounds: Bounds,
    ) -> Result<Selected, PostgresError> {
        self.within(bounds.timeout, |lease| async move {
            let read = read(lease.client()?, question, args, bounds).await;
            self.end(lease, read).await
        })
        .await
    }

    /// Connects and looks who we are.
    pub async fn probe(&self, timeout: Duration) -> Result<Probe, PostgresError> {
        self.within(timeout, |lease| async move {
            let looked = look(lease.client()?).await;
            self.end(lease, looked).await
        })
        .await
    }

    async fn within<T, F>(&self, timeout: Duration, work: impl FnOnce(Lease) -> F) -> Result<T, PostgresError>
    where
        F: Future<Output = Result<T, PostgresError>>,
    {
        // The server's own timeout comes first and says more.
        let most = timeout + Duration::from_secs(1);
        let all = async {
            let credential = self.credentials.take(&self.secret)?;
            work(self.lease(&credential).await?).await
        };
        match tokio::time::timeout(most, all).await {
            Ok(answer) => answer,
            Err(_) => Err(PostgresError::Unavailable { message: format!("no answer within {most:?}") }),
        }
    }

    /// The transaction has done its work, well or not; the connection is used again if it can be.
    async fn end<T>(&self, lease: Lease, work: Result<T, PostgresError>) -> Result<T, PostgresError> {
        if lease.client()?.batch_execute("ROLLBACK").await.is_ok() {
            lease.give_back();
        }
        work
    }

    async fn lease(&self, credential: &Credential) -> Result<Lease, PostgresError> {
        let closed = |_| PostgresError::Unavailable { message: "no connection is given out any more".into() };
        let place = self.pool.places.clone().acquire_owned().await.map_err(closed)?;
        let scope = self.pool.scope();
        self.pool.sweep();
        // One that was made with another URL is not ours any more.
        let known = {
            let mut idle = self.pool.idle();
            idle.retain(|idle| idle.connection.url == *credential.value());
            idle.pop()
        };
        let connection = match known {
            Some(idle) => idle.connection,
            None => self.connect(credential, &scope).await?,
        };
        Ok(Lease { pool: self.pool.clone(), scope, connection: Some(connection), _place: place })
    }

    async fn connect(&self, credential: &Credential, scope: &Scope) -> Result<Connection, PostgresError> {
        let missing = |message: String, help: &str| PostgresError::Missing { message, help: help.into() };
        let (config, tls) = tls::config(credential.value(), &self.base)
            .map_err(|message| missing(message, "correct the URL in the secret"))?;
        let (client, connection) =
            config.connect(tls.clone()).await.map_err(|error| self.connecting(&error, credential))?;
        let name = format!("connection of {}", self.secret.name);
        drop(scope.spawn(name, async move {
            // What breaks it is told to whoever uses it.
            if let Err(error) = connection.await {
                tracing::debug!(error = told(&error), "a connection to PostgreSQL ended");
            }
        }));
        let cancel = client.cancel_token();
        Ok(Connection { client, url: credential.value().clone(), cancel, tls })
    }

    fn connecting(&self, error: &tokio_postgres::Error, credential: &Credential) -> PostgresError {
        let message = told(error);
        let missing = |help: &str| PostgresError::Missing { message: message.clone(), help: help.to_owned() };
        match error.code().map(tokio_postgres::error::SqlState::code) {
            Some("28P01") => {
                credential.refused("PostgreSQL", &message);
                PostgresError::Refused { secret: credential.name().to_owned(), message }
            }
            Some("28000") => missing("let this role in: pg_hba.conf, and CREATE ROLE … LOGIN"),
            Some("3D000") => missing("correct the database's name at the end of the URL"),
            Some(code) if code.starts_with("42") => missing("GRANT CONNECT ON DATABASE … TO …"),
            Some(_) => PostgresError::Unavailable { message },
            None if message.contains("certificate") || message.contains("TLS") => {
                missing("give the URL `sslrootcert=FILE`, or the `sslmode` that the server has")
            }
            None if message.contains("password missing") => missing("the URL lacks the password"),
            None => PostgresError::Unavailable { message },
        }
    }
}

async fn begin(client: &Client, timeout: Duration) -> Result<(), tokio_postgres::Error> {
    let ms = timeout.as_millis().clamp(1, i32::MAX as u128);
    client
        .batch_execute(&format!(
            "BEGIN READ ONLY; SET LOCAL statement_timeout = {ms}; SET LOCAL lock_timeout = {ms};
             SET LOCAL idle_in_transaction_session_timeout = {ms}; SET LOCAL standard_conforming_strings = on;
             SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO'; SET LOCAL IntervalStyle = 'iso_8601'"
        ))
        .await
}

async fn read(
    client: &Client,
    question: &Named,
    args: &Map<String, Value>,
    bounds: Bounds,
) -> Result<Selected, PostgresError> {
    let wrong = |message: String| PostgresError::Question { message };
    let broken = |error: tokio_postgres::Error| asked(&error, &question.sql, bounds.timeout);
    begin(client, bounds.timeout).await.map_err(broken)?;
    // As it stands first, for its columns and for mistakes at their lines.
    let own = client.prepare(&question.sql).await.map_err(broken)?;
    if own.columns().is_empty() {
        return Err(wrong("the query yields no rows: write one SELECT".into()));
    }
    let names: Vec<&str> = own.columns().iter().map(tokio_postgres::Column::name).collect();
    for (index, name) in names.iter().enumerate() {
        if names[..index].contains(name) {
            return Err(wrong(format!("two columns are named `{name}`: give one another name with AS")));
        }
    }
    let numbers = [Type::FLOAT4, Type::FLOAT8, Type::NUMERIC];
    let numbers: Vec<String> = (own.columns().iter())
        .filter(|column| numbers.contains(column.type_()))
        .map(|column| column.name().to_owned())
        .collect();
    let bound: Vec<Arg> = question.bind(args).map_err(wrong)?.into_iter().map(Arg).collect();
    let limit = u64::from(bounds.max_rows) + 1;
    let sql = format!("SELECT row_to_json(q)::text FROM (\n{}\n) AS q LIMIT {limit}", question.sql);
    let whole = client.prepare(&sql).await.map_err(|error| match error.code().map(|code| code.code()) {
        Some("42601") => wrong("only a SELECT can be asked".into()),
        _ => broken(error),
    })?;
    let params = bound.iter().map(|arg| arg as &(dyn ToSql + Sync));
    let stream = client.query_raw(&whole, params).await.map_err(broken)?;
    tokio::pin!(stream);
    let (mut found, mut bytes) = (Selected::default(), 0_usize);
    while let Some(row) = stream.try_next().await.map_err(broken)? {
        if found.rows.len() as u64 == u64::from(bounds.max_rows) {
            found.truncated = true;
            continue;
        }
        let text: &str = row.try_get(0).map_err(broken)?;
        bytes = bytes.saturating_add(text.len());
        if bytes > bounds.max_bytes {
            return Err(wrong(format!("the answer is larger than {} MB: select less", bounds.max_bytes >> 20)));
        }
        let mut row: Map<String, Value> =
            serde_json::from_str(text).map_err(|error| wrong(format!("a row is no JSON object: {error}")))?;
        for name in &numbers {
            // `NaN` and infinities have no JSON; they are as unknown as NULL.
            if let Some(value) = row.get_mut(name).filter(|value| value.is_string()) {
                *value = Value::Null;
            }
        }
        found.rows.push(row);
    }
    Ok(found)
}

async fn look(client: &Client) -> Result<Probe, PostgresError> {
    let broken = |error: tokio_postgres::Error| asked(&error, "", CANCEL);
    begin(client, CANCEL).await.map_err(broken)?;
    let row = client
        .query_one(
            "SELECT current_setting('server_version'), current_user::text, current_database()::text,
                 coalesce((SELECT rolsuper FROM pg_roles WHERE rolname = current_user), false),
                 coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)",
            &[],
        )
        .await
        .map_err(broken)?;
    Ok(Probe {
        version: row.try_get(0).map_err(broken)?,
        user: row.try_get(1).map_err(broken)?,
        database: row.try_get(2).map_err(broken)?,
        superuser: row.try_get(3).map_err(broken)?,
        encrypted: row.try_get(4).map_err(broken)?,
    })
}

/// What a failed question means. `sql` is what its positions are about.
fn asked(error: &tokio_postgres::Error, sql: &str, timeout: Duration) -> PostgresError {
    let message = told(error);
    let Some(db) = error.as_db_error() else {
        return match error.is_closed()
            || std::error::Error::source(error).is_some_and(|source| source.is::<std::io::Error>())
        {
            true => PostgresError::Unavailable { message },
            false => PostgresError::Question { message },
        };
    };
    match db.code().code() {
        "57014" => {
            PostgresError::Unavailable { message: format!("the query took longer than {timeout:?} and was stopped") }
        }
        "55P03" => PostgresError::Unavailable { message: "a table is locked by a writer".into() },
        "25006" => PostgresError::Question { message: "only SELECT may run here: nothing can be written".into() },
        "42501" => PostgresError::Question { message: format!("{message}: GRANT SELECT on it to this role") },
        "42601" if message.contains("multiple commands") => {
            PostgresError::Question { message: "write one statement, not several".into() }
        }
        // Connection lost, out of resources, operator intervention, system error.
        code if ["08", "53", "57", "58", "40"].iter().any(|class| code.starts_with(class)) => {
            PostgresError::Unavailable { message }
        }
        _ => {
            let line = match db.position() {
                Some(tokio_postgres::error::ErrorPosition::Original(at)) => {
                    let before = sql.chars().take(usize::try_from(*at).unwrap_or(0).saturating_sub(1));
                    format!(" (line {})", before.filter(|c| *c == '\n').count() + 1)
                }
                _ => String::new(),
            };
            PostgresError::Question { message: format!("{message}{line}") }
        }
    }
}

/// What the server or the system said, in one line, without values of rows.
fn told(error: &tokio_postgres::Error) -> String {
    let Some(db) = error.as_db_error() else {
        let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
        return super::http::shorten(&format!("{error}{source}"));
    };
    // Errors about data repeat the value, which nobody said may be shown.
    let message = match db.code().code().get(..2) {
        Some("22" | "23") => db.message().split(": \"").next().unwrap_or_default(),
        _ => db.message(),
    };
    super::http::shorten(message)
}
