//! Tables `refused_secrets` and `parked_runs`: what a service refused, and the runs that wait for another secret.
//!
//! A run is parked in the transaction that ends it and leaves in the one that resumes it, so it goes on once. Of a secret there is
//! only a slow hash with a salt of its own, by which it is known again.

use rusqlite::params;

use super::error::Error;
use super::reader::Reader;
use super::writer::Store;
use super::{Journal, from_micros, micros};
use crate::base::clock::Timestamp;
use crate::base::ids::RunId;
use crate::domain::run::Outcome;

/// A secret that a service has refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedSecret {
    /// The name under `secrets:`.
    pub secret: String,
    pub salt: String,
    /// Of the content that was refused.
    pub fingerprint: String,
    /// Who refused it, and what it said; for people.
    pub service: String,
    pub message: String,
    pub refused_at: Timestamp,
    /// Somebody was told where people are.
    pub told: bool,
}

/// A run that waits for a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedRun {
    pub run: RunId,
    pub pipeline: String,
    pub secret: String,
}

impl Store {
    /// The run has ended. It waits for a secret if that is why.
    pub(super) fn park(&mut self, run: i64, outcome: Outcome, secret: Option<&str>) -> Result<(), Error> {
        let Some(secret) = secret.filter(|_| outcome == Outcome::Blocked) else { return Ok(()) };
        self.conn()
            .prepare_cached("INSERT OR REPLACE INTO parked_runs (run, secret) VALUES (?1, ?2)")?
            .execute(params![run, secret])?;
        Ok(())
    }

    pub(super) fn unpark(&mut self, run: i64) -> Result<(), Error> {
        self.conn().prepare_cached("DELETE FROM parked_runs WHERE run = ?1")?.execute([run])?;
        Ok(())
    }
}

impl Journal {
    /// A secret was refused. What was known of it before is replaced.
    pub async fn secret_refused(&self, refused: RefusedSecret) -> Result<(), Error> {
        let (service, message) = (self.redact_text(&refused.service), self.redact_text(&refused.message));
        self.ask(move |store| {
            let sql =
                "INSERT OR REPLACE INTO refused_secrets (name, salt, fingerprint, service, message, refused_at, told)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
            let refused_at = micros(refused.refused_at);
            let RefusedSecret { secret, salt, fingerprint, told, .. } = &refused;
            let row = params![secret, salt, fingerprint, service, message, refused_at, told];
            store.conn().prepare_cached(sql)?.execute(row)?;
            Ok(())
        })
        .await
    }

    /// It is another one now.
    pub async fn secret_replaced(&self, secret: &str) -> Result<(), Error> {
        let secret = secret.to_owned();
        self.ask(move |store| {
            store.conn().prepare_cached("DELETE FROM refused_secrets WHERE name = ?1")?.execute([&secret])?;
            Ok(())
        })
        .await
    }
}

impl Reader {
    pub fn refused_secrets(&self) -> Result<Vec<RefusedSecret>, Error> {
        self.with(|conn, _| {
            let mut statement = conn.prepare_cached(
                "SELECT name, salt, fingerprint, service, message, refused_at, told FROM refused_secrets ORDER BY name",
            )?;
            let mut rows = statement.query([])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(RefusedSecret {
                    secret: row.get(0)?,
                    salt: row.get(1)?,
                    fingerprint: row.get(2)?,
                    service: row.get(3)?,
                    message: row.get(4)?,
                    refused_at: from_micros(row.get(5)?)?,
                    told: row.get(6)?,
                });
            }
            Ok(found)
        })
    }

    /// The runs that wait, the one that waits longest first.
    pub fn parked_runs(&self) -> Result<Vec<ParkedRun>, Error> {
        self.with(|conn, _| {
            let mut statement = conn.prepare_cached(
                "SELECT r.id, r.pipeline, p.secret FROM parked_runs p JOIN runs r ON r.no = p.run ORDER BY r.finished_at, r.no",
            )?;
            let found = statement.query_map([], |row| {
                Ok(ParkedRun { run: RunId(row.get(0)?), pipeline: row.get(1)?, secret: row.get(2)? })
            })?;
            Ok(found.collect::<Result<_, _>>()?)
        })
    }
}
