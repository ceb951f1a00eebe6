//! Opening the database file and bringing its schema up to date.
//!
//! Migrations only ever get added. All that are missing run in one transaction, after a backup of what was there.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::error::Error;
use super::lock::{narrow, private_dir};

/// The first migration makes version 1. Never change one that was released.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_first.sql"),
    include_str!("migrations/0002_findings.sql"),
    include_str!("migrations/0003_sandbox_money.sql"),
    include_str!("migrations/0004_triggers.sql"),
    include_str!("migrations/0005_errors.sql"),
    include_str!("migrations/0006_ties.sql"),
    include_str!("migrations/0007_parked.sql"),
];

/// `NCRW`: tells our files from other SQLite databases.
const APPLICATION: i32 = 0x4E43_5257;

/// The first SQLite without the bug that can corrupt a database when its WAL is reset.
const OLDEST_SQLITE: i32 = 3_051_003;

/// Opens the file for the holder, migrated. It is made if missing.
pub(super) fn open_holder(path: &Path, migrations: &[&str]) -> Result<Connection, Error> {
    check_library()?;
    // SQLite gives its side files the permissions of this one. The lock is ours, so nobody in this process has it open.
    match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => narrow(path, 0o600)?,
        Err(error) => return Err(Error::io("making", path, error)),
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(std::time::Duration::from_secs(10))?;
    conn.set_prepared_statement_cache_capacity(64);
    let found = version(&conn, path, migrations)?;
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF;
         PRAGMA wal_autocheckpoint = 4000; PRAGMA journal_size_limit = 67108864; PRAGMA temp_store = MEMORY;",
    )?;
    migrate(&mut conn, path, found, migrations)?;
    Ok(conn)
}

/// Opens the file to read, beside whoever writes.
pub(super) fn open_reader(path: &Path) -> Result<Connection, Error> {
    check_library()?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(std::time::Duration::from_secs(10))?;
    conn.set_prepared_statement_cache_capacity(32);
    let (found, known) = (version(&conn, path, MIGRATIONS)?, MIGRATIONS.len() as u32);
    match found {
        _ if found == known => Ok(conn),
        // A holder has just made the file and not filled it yet.
        0 => Err(Error::Missing { dir: path.parent().unwrap_or(path).to_owned() }),
        _ => Err(Error::Older { path: path.to_owned(), found, known }),
    }
}

fn check_library() -> Result<(), Error> {
    if rusqlite::version_number() < OLDEST_SQLITE {
        return Err(Error::OldSqlite { found: rusqlite::version().to_owned() });
    }
    Ok(())
}

/// The schema version of the file, 0 when it is empty.
fn version(conn: &Connection, path: &Path, migrations: &[&str]) -> Result<u32, Error> {
    // One state of the file: a holder may be filling it at this moment.
    let read = conn.unchecked_transaction()?;
    let found: u32 = read.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let application: i32 = read.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let tables: u32 = read.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    drop(read);
    if tables > 0 && application != APPLICATION {
        return Err(Error::Corrupt { path: path.to_owned(), detail: "it belongs to another program".to_owned() });
    }
    let known = migrations.len() as u32;
    if found > known {
        return Err(Error::Newer { path: path.to_owned(), found, known });
    }
    Ok(found)
}

fn migrate(conn: &mut Connection, path: &Path, found: u32, migrations: &[&str]) -> Result<(), Error> {
    let missing = migrations.get(found as usize..).unwrap_or_default();
    if missing.is_empty() {
        return Ok(());
    }
    if found > 0 {
        let backup = backup(conn, path, found)?;
        tracing::info!(from = found, to = migrations.len(), backup = %backup.display(), "migrating the journal");
    }
    let transaction = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    for migration in missing {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", migrations.len() as u32)?;
    Ok(transaction.commit()?)
}

/// A whole copy of the database as it is, in `DIR/backups`. One of the same version that is already there stays.
fn backup(conn: &Connection, path: &Path, version: u32) -> Result<PathBuf, Error> {
    let folder = path.with_file_name("backups");
    private_dir(&folder)?;
    let file = (0..)
        .map(|n| {
            folder.join(if n == 0 {
                format!("nightcrew-v{version}.db")
            } else {
                format!("nightcrew-v{version}-{n}.db")
            })
        })
        .find(|file| !file.exists())
        .unwrap_or_else(|| folder.join("nightcrew.db"));
    // SQLite fills an existing empty file, which so has our permissions.
    let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file);
    drop(made.map_err(|error| Error::io("making the backup", &file, error))?);
    conn.execute("VACUUM INTO ?1", [file.to_string_lossy()])?;
    let synced =
        std::fs::File::open(&file).and_then(|f| f.sync_all()).and_then(|()| std::fs::File::open(&folder)?.sync_all());
    synced.map_err(|error| Error::io("writing the backup", &file, error))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_backup_is_taken_before_a_migration_and_a_newer_database_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nightcrew.db");
        drop(open_holder(&path, MIGRATIONS).unwrap());
        assert!(!dir.path().join("backups").exists(), "there was nothing to keep");
        let later: Vec<_> = MIGRATIONS.iter().copied().chain(["CREATE TABLE more (x INTEGER) STRICT;"]).collect();
        let conn = open_holder(&path, &later).unwrap();
        assert_eq!(version(&conn, &path, &later).unwrap() as usize, later.len());
        drop(conn);
        let backup = dir.path().join(format!("backups/nightcrew-v{}.db", MIGRATIONS.len()));
        for file in [&backup, &path] {
            assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        drop(open_holder(&backup, MIGRATIONS).unwrap());
        let error = open_holder(&path, MIGRATIONS).unwrap_err().to_string();
        assert!(error.contains(&format!("has schema version {}", later.len())), "{error}");
        assert!(error.contains(&format!("up to {}", MIGRATIONS.len())), "{error}");
    }

    #[test]
    fn a_failed_migration_leaves_the_database_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nightcrew.db");
        drop(open_holder(&path, MIGRATIONS).unwrap());
        let broken: Vec<_> =
            MIGRATIONS.iter().copied().chain(["CREATE TABLE more (x INTEGER) STRICT; nonsense"]).collect();
        assert!(open_holder(&path, &broken).is_err());
        open_holder(&path, MIGRATIONS).unwrap();
    }

    #[test]
    fn other_files_are_not_taken_for_a_journal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nightcrew.db");
        std::fs::write(&path, "x".repeat(5_000)).unwrap();
        assert!(matches!(open_holder(&path, MIGRATIONS).map_err(|e| e.at(&path)), Err(Error::Corrupt { .. })));
        std::fs::remove_file(&path).unwrap();
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE other (x)").unwrap();
        assert!(matches!(open_holder(&path, MIGRATIONS), Err(Error::Corrupt { .. })));
    }
}
