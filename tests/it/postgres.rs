//! The source `postgres` against a real PostgreSQL, started here from the machine's own package in a folder of its own.
//!
//! Without the package nothing can be asked and the test says so; `tests/conformance/postgres.sh` installs it and takes no excuse.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nightcrew::base::env::{Env, process_variable};
use nightcrew::base::secret::{SecretRef, SecretSource};
use nightcrew::clients::postgres::Database;
use nightcrew::domain::activity::Rows;
use nightcrew::domain::definition::ToolQuery;
use nightcrew::ports::service::Outside;
use nightcrew::ports::source::{SourceError, SourceQuery, SourceSetup};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// A server on a port of its own; ended with the value.
struct Server {
    child: std::process::Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGINT is its fast shutdown.
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).unwrap();
        // It may have ended by itself; then there is nobody to wait for long.
        let told = kill_process(pid, Signal::INT);
        let ended = self.child.wait();
        assert!(std::thread::panicking() || (told.is_ok() && ended.is_ok()), "{told:?} {ended:?}");
    }
}

/// The newest installed server's folder of programs.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<PathBuf> = versions.map(|entry| entry.unwrap().path().join("bin")).collect();
    found.retain(|bin| bin.join("initdb").exists());
    found.sort_by_key(|bin| bin.to_string_lossy().split('/').nth(4).and_then(|v| v.parse::<u32>().ok()));
    found.pop()
}

/// It refuses to run as root, so it runs as whoever the package made.
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_remove("PGHOST").env("LC_ALL", "C").current_dir("/").stdout(Stdio::null()).stderr(Stdio::null());
    if rustix::process::geteuid().is_root() {
        use std::os::unix::process::CommandExt as _;
        let (uid, gid) = account();
        command.uid(uid).gid(gid);
    }
    command
}

fn account() -> (u32, u32) {
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:")).expect("the package makes this account");
    let mut parts = line.split(':').skip(2).map(|part| part.parse().unwrap());
    (parts.next().unwrap(), parts.next().unwrap())
}

impl Server {
    fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            assert!(process_variable("NIGHTCREW_NEED_POSTGRES").is_none(), "PostgreSQL is not installed");
            eprintln!("NOT TESTED: PostgreSQL is not installed here (apt install postgresql)");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("pg").tempdir_in("/tmp").unwrap();
        let data = folder.path().join("data");
        std::fs::write(folder.path().join("password"), "hunter2").unwrap();
        certificate(folder.path());
        if rustix::process::geteuid().is_root() {
            let (uid, gid) = account();
            for path in [folder.path().to_owned(), folder.path().join("password"), folder.path().join("key.pem")] {
                std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
            }
        }
        let password = format!("--pwfile={}", folder.path().join("password").display());
        let made = command(&programs.join("initdb"))
            .args(["-D".as_ref(), data.as_os_str()])
            .args(["-U", "admin", "-A", "scram-sha-256", "-E", "UTF8", "--no-sync", &password])
            .status()
            .unwrap();
        assert!(made.success(), "initdb");
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = command(&programs.join("postgres"))
            .args(["-D".as_ref(), data.as_os_str()])
            .args(["-p", &port.to_string(), "-h", "127.0.0.1", "-k", folder.path().to_str().unwrap()])
            .args(["-c", "fsync=off", "-c", "ssl=on"])
            .args(["-c", &format!("ssl_cert_file={}", folder.path().join("cert.pem").display())])
            .args(["-c", &format!("ssl_key_file={}", folder.path().join("key.pem").display())])
            .spawn()
            .unwrap();
        Some(Self { child, port, folder })
    }

    fn url(&self, user: &str, password: &str, rest: &str) -> String {
        format!("postgres://{user}:{password}@localhost:{}/{rest}", self.port)
    }
}

/// A certificate for `localhost`, signed by itself.
fn certificate(folder: &Path) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(folder)
        .stderr(Stdio::null())
        .status()
        .expect("openssl makes the certificate");
    assert!(made.success());
    use std::os::unix::fs::PermissionsExt as _;
    for (file, mode) in [("key.pem", 0o600), ("cert.pem", 0o644)] {
        std::fs::set_permissions(folder.join(file), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// A source on the database, with the URL in a file.
struct Fixture {
    outside: Outside,
    secret: SecretRef,
    file: PathBuf,
    timeout: Duration,
}

impl Fixture {
    fn new(server: &Server, name: &str, url: &str) -> Self {
        let file = server.folder.path().join(format!("{name}.url"));
        std::fs::write(&file, url).unwrap();
        let secret = SecretRef { name: name.into(), source: SecretSource::Files(vec![file.clone()]) };
        Self { outside: Outside::none(Env::system()), secret, file, timeout: Duration::from_secs(20) }
    }

    async fn ask(&self, sql: &str, args: Value, max_rows: u32) -> Result<Rows, SourceError> {
        let row = nightcrew::sources::ALL.iter().find(|row| row.name == "postgres").unwrap();
        let base = self.file.parent().unwrap();
        let setup = SourceSetup {
            secret: Some(self.secret.clone()),
            timeout: self.timeout,
            ..SourceSetup::new("warehouse", base, self.outside.clone())
        };
        let source = row.make.unwrap()(&setup).unwrap();
        let query = ToolQuery::Sql { file: "q.sql".into(), text: sql.into() };
        let args = args.as_object().unwrap();
        source.fetch(SourceQuery { query: Some(&query), filter: None, args, max_rows }).await
    }

    async fn refused(&self, sql: &str) -> String {
        match self.ask(sql, json!({"from": 1}), 5).await.unwrap_err() {
            SourceError::Refused { message, .. } => message,
            other => panic!("{sql}: {other:?}"),
        }
    }
}

/// What an administrator would do: a role that may read one table.
const PREPARE: &str = "
    CREATE TYPE mood AS ENUM ('good', 'bad');
    CREATE TABLE t (day date, n int, big bigint, price numeric(12,2), ratio float8, at timestamptz, doc jsonb, tags text[],
        id uuid, ok bool, m mood, len interval, email text);
    INSERT INTO t VALUES
        ('2026-11-18', 1, 9007199254740993, 10.50, 'NaN', '2026-11-18 08:00:00+01', '{\"b\": [1, {\"email\": \"x\"}]}', '{a,\"b c\",NULL}',
         '00000000-0000-0000-0000-00000000002a', true, 'good', '1 day 2 hours', 'a@example.com'),
        ('2026-11-19', 2, NULL, -3, 0.25, '2026-11-19 00:30:00+02', NULL, '{}', NULL, false, 'bad', NULL, 'b@example.com'),
        ('2026-11-20', 3, 5, NULL, '-Infinity', NULL, '\"x\"', NULL, NULL, NULL, NULL, NULL, NULL);
    CREATE TABLE secrets (x int);
    CREATE ROLE reader LOGIN PASSWORD 'pass%word';
    GRANT SELECT ON t TO reader;
    CREATE FUNCTION sneaky() RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t (n) VALUES (9); RETURN 1; END $$;
";

async fn prepared() -> Option<Server> {
    let server = Server::start()?;
    let until = Instant::now() + Duration::from_secs(60);
    let psql = |sql: &str| {
        Command::new("psql")
            .args(["-qX", "-v", "ON_ERROR_STOP=1", "-d", &server.url("admin", "hunter2", "postgres"), "-c", sql])
            .env("LC_ALL", "C")
            .stderr(Stdio::piped())
            .output()
            .unwrap()
    };
    while !psql("SELECT 1").status.success() {
        assert!(Instant::now() < until, "the server does not start");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let done = psql(PREPARE);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Some(server)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_database_is_read_and_nothing_else() {
    let Some(server) = prepared().await else { return };
    let reader = Fixture::new(&server, "READER", &server.url("reader", "pass%25word", "postgres"));
    values(&reader).await;
    bounds(&reader).await;
    only_reading(&reader).await;
    mistakes(&reader).await;
    encryption(&server).await;
    credentials(&server).await;
    cancelling(&server).await;
}

async fn values(reader: &Fixture) {
    let sql = "SELECT day, n, big, price, ratio, at, doc, tags, id, ok, m, len FROM t -- :not one\n
               WHERE day BETWEEN :from AND :to AND n = ANY(:ns) AND m::text = :mood AND ':x' = ':x' ORDER BY day;";
    let args =
        json!({"from": "2026-11-18", "to": "2026-11-19", "ns": [1, 2, 7], "mood": "good", "unused": "'; DROP TABLE t"});
    let rows = reader.ask(sql, args, 10).await.unwrap();
    assert_eq!(
        json!(rows.rows),
        json!([{
            "day": "2026-11-18", "n": 1, "big": 9_007_199_254_740_993_i64, "price": 10.5, "ratio": null,
            "at": "2026-11-18T07:00:00+00:00", "doc": {"b": [1, {"email": "x"}]}, "tags": ["a", "b c", null],
            "id": "00000000-0000-0000-0000-00000000002a", "ok": true, "m": "good", "len": "P1DT2H",
        }])
    );
    assert_eq!((rows.truncated, rows.via.as_str()), (false, "postgres"));
    // An argument is a value, whatever it looks like; null is NULL.
    let sneaky = json!({"mood": "x' OR 'a' = 'a", "d": null});
    let rows = reader.ask("SELECT n FROM t WHERE m::text = :mood OR day = :d", sneaky, 10).await.unwrap();
    assert!(rows.rows.is_empty());
    let doc = json!({"d": {"b": [1, {"email": "x"}]}});
    assert_eq!(reader.ask("SELECT n FROM t WHERE doc = :d", doc, 10).await.unwrap().rows.len(), 1);
    // What is hidden is hidden in the column, in another spelling, and within a document.
    let mut rows = reader.ask("SELECT n, email AS \"Email\", doc FROM t WHERE n = 1", json!({}), 10).await.unwrap();
    rows.hide(&["email".to_owned()]);
    assert_eq!(json!(rows.rows), json!([{"n": 1, "doc": {"b": [1, {}]}}]));
}

async fn bounds(reader: &Fixture) {
    let rows = reader.ask("SELECT n FROM t ORDER BY n DESC", json!({}), 2).await.unwrap();
    assert_eq!((json!(rows.rows), rows.truncated), (json!([{"n": 3}, {"n": 2}]), true));
    let rows = reader.ask("WITH x AS (SELECT n FROM t) SELECT n FROM x ORDER BY n", json!({}), 3).await.unwrap();
    assert_eq!((rows.rows.len(), rows.truncated), (3, false));
    let much = "SELECT repeat('x', 1000000) AS x FROM generate_series(1, 40)";
    let error = reader.ask(much, json!({}), 100).await.unwrap_err().to_string();
    assert!(error.contains("larger than 32 MB"), "{error}");
    let hurried = Fixture {
        outside: reader.outside.clone(),
        secret: reader.secret.clone(),
        file: reader.file.clone(),
        timeout: Duration::from_millis(300),
    };
    let error = hurried.ask("SELECT pg_sleep(20)::text", json!({}), 5).await.unwrap_err();
    assert!(
        matches!(&error, SourceError::Unavailable { message, .. } if message.contains("took longer than 300ms")),
        "{error}"
    );
    // The connection is used again.
    assert_eq!(reader.ask("SELECT 1 AS one", json!({}), 5).await.unwrap().rows.len(), 1);
}

async fn only_reading(reader: &Fixture) {
    for sql in [
        "INSERT INTO t (n) VALUES (4) RETURNING n",
        "WITH x AS (DELETE FROM t RETURNING n) SELECT n FROM x",
        "SELECT sneaky()",
        "SELECT n FROM t FOR UPDATE",
        "SELECT set_config('transaction_read_only', 'off', false), sneaky()",
        "SELECT 1) AS q; DELETE FROM t; SELECT (1",
        "SELECT 1; DELETE FROM t",
        "COPY t TO STDOUT",
        "SET transaction_read_only = off",
        "COMMIT",
        "EXPLAIN SELECT 1",
        "SELECT x FROM secrets",
        "",
    ] {
        let message = reader.refused(sql).await;
        assert!(!message.contains("hunter2"), "{message}");
    }
    assert_eq!(reader.ask("SELECT n FROM t", json!({}), 9).await.unwrap().rows.len(), 3);
}

async fn mistakes(reader: &Fixture) {
    let mut messages = Vec::new();
    for sql in [
        "SELECT\n  nn FROM t",
        "SELECT n, n FROM t",
        "SELECT n FROM t WHERE day = :day",
        "SELECT email::int FROM t",
        "SELECT x FROM secrets",
        "SELECT n FROM t WHERE n = $1",
    ] {
        messages.push(reader.refused(sql).await);
    }
    assert_eq!(
        messages,
        [
            "column \"nn\" does not exist (line 2)",
            "two columns are named `n`: give one another name with AS",
            "the query needs `:day`, which is not among the arguments (`from`)",
            // The value is not repeated.
            "invalid input syntax for type integer",
            "permission denied for table secrets: GRANT SELECT on it to this role",
            "the query has a parameter without a name: write `:name`, not `$1`",
        ]
    );
}

async fn encryption(server: &Server) {
    let probe = |name: &str, rest: &str| {
        let fixture = Fixture::new(server, name, &server.url("reader", "pass%25word", &format!("postgres{rest}")));
        async move {
            let base = fixture.file.parent().unwrap();
            Database::of(&fixture.secret, base, &fixture.outside).probe(Duration::from_secs(10)).await
        }
    };
    let plain = probe("PLAIN", "?sslmode=disable").await.unwrap();
    assert_eq!((plain.user.as_str(), plain.superuser, plain.encrypted), ("reader", false, false));
    for (name, rest) in
        [("USUAL", ""), ("REQUIRED", "?sslmode=require"), ("CHECKED", "?sslmode=verify-full&sslrootcert=cert.pem")]
    {
        assert!(probe(name, rest).await.unwrap().encrypted, "{rest}");
    }
    // The machine does not know who signed it.
    let error = probe("UNKNOWN_CA", "?sslmode=verify-full").await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
    let other =
        format!("postgres://reader:x@127.0.0.1:{}/postgres?sslmode=verify-full&sslrootcert=cert.pem", server.port);
    let fixture = Fixture::new(server, "OTHER_NAME", &other);
    let database = Database::of(&fixture.secret, server.folder.path(), &fixture.outside);
    let error = database.probe(Duration::from_secs(10)).await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
}

async fn credentials(server: &Server) {
    let fixture = Fixture::new(server, "WRONG", &server.url("reader", "hunter3", "postgres"));
    for _ in 0..2 {
        let error = fixture.ask("SELECT 1 AS x", json!({}), 1).await.unwrap_err();
        assert!(matches!(&error, SourceError::Credential { secret, .. } if secret == "WRONG"), "{error:?}");
        assert!(!error.to_string().contains("hunter3"));
    }
    std::fs::write(&fixture.file, server.url("reader", "pass%25word", "postgres")).unwrap();
    assert_eq!(fixture.ask("SELECT 1 AS x", json!({}), 1).await.unwrap().rows.len(), 1);
    for (url, message) in [
        (server.url("reader", "pass%25word", "nowhere"), "database \"nowhere\" does not exist"),
        ("hunter2".to_owned(), "the secret is no address of a database"),
    ] {
        std::fs::write(&fixture.file, url).unwrap();
        let error = fixture.ask("SELECT 1 AS x", json!({}), 1).await.unwrap_err();
        assert!(matches!(&error, SourceError::Missing { message: said, .. } if said.starts_with(message)), "{error:?}");
    }
    std::fs::write(&fixture.file, "postgres://u:p@127.0.0.1:1/d").unwrap();
    let error = fixture.ask("SELECT 1 AS x", json!({}), 1).await.unwrap_err();
    assert!(matches!(error, SourceError::Unavailable { .. }), "{error:?}");
}

/// A read that nobody waits for any more is ended on the server.
async fn cancelling(server: &Server) {
    let fixture = Fixture::new(server, "DROPPED", &server.url("reader", "pass%25word", "postgres"));
    let admin = Fixture::new(server, "ADMIN", &server.url("admin", "hunter2", "postgres"));
    let running = "SELECT count(*) AS n FROM pg_stat_activity WHERE usename = 'reader' AND state = 'active'";
    let count = || async { admin.ask(running, json!({}), 1).await.unwrap().rows[0]["n"].as_i64().unwrap() };
    {
        let read = fixture.ask("SELECT pg_sleep(60)::text AS x", json!({}), 1);
        tokio::pin!(read);
        loop {
            tokio::select! {
                ended = &mut read => panic!("it sleeps: {ended:?}"),
                n = count() => if n == 1 { break },
            }
        }
    }
    let until = Instant::now() + Duration::from_secs(15);
    while count().await > 0 {
        assert!(Instant::now() < until, "the server goes on with it");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
