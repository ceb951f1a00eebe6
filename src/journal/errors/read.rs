//! Reading groups and their events.

use std::time::Duration;

use rusqlite::{Row, params};
use serde_json::Value;

use super::pack::unpack;
use super::{before, names, told};
use crate::base::clock::Timestamp;
use crate::domain::error_group::{ErrorDrops, ErrorGroup, ErrorGroupLine, ErrorStanding};
use crate::journal::error::Error;
use crate::journal::reader::Reader;
use crate::journal::{from_micros, micros};
use crate::policy::errors::event::normalise;
use crate::policy::errors::group::id;
use crate::ports::source::ErrorShelf;

const GROUP: &str =
    "g.key, g.project, g.title, g.count, g.users, g.first_seen, g.last_seen, g.releases, e.packed, e.body";
/// With its newest event, if one is kept.
const NEWEST: &str = "error_groups g LEFT JOIN error_events e
    ON e.no = (SELECT max(no) FROM error_events WHERE grp = g.no)";

fn group(row: &Row<'_>) -> Result<ErrorGroup, Error> {
    let key: String = row.get(0)?;
    let event = match row.get::<_, Option<bool>>(8)? {
        Some(packed) => {
            let text = unpack(packed, row.get_ref(9)?.as_blob().unwrap_or_default())?;
            serde_json::from_str(&text).map(normalise).map_err(|error| Error::record("an event", error))?
        }
        None => Value::Null,
    };
    Ok(ErrorGroup {
        id: id(&key),
        key,
        project: row.get(1)?,
        title: row.get(2)?,
        count: row.get::<_, i64>(3)? as u64,
        users: row.get::<_, i64>(4)? as u64,
        first_seen: from_micros(row.get(5)?)?,
        last_seen: from_micros(row.get(6)?)?,
        releases: names(row.get_ref(7)?.as_str().unwrap_or_default()),
        event,
    })
}

impl Reader {
    /// Groups of a project, or of all, the one seen last first; at most so many.
    pub fn error_groups(&self, project: Option<&str>, most: u32) -> Result<Vec<ErrorGroupLine>, Error> {
        self.with(|conn, _| {
            let mut statement = conn.prepare_cached(
                "SELECT project, key, title, culprit, level, platform, count, users, first_seen, last_seen, releases,
                        environments, levels, (SELECT count(*) FROM error_events e WHERE e.grp = error_groups.no), told_count, told_users,
                        told_at
                 FROM error_groups WHERE ?1 IS NULL OR project = ?1 ORDER BY last_seen DESC, key LIMIT ?2",
            )?;
            let mut rows = statement.query(params![project, most])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let key: String = row.get(1)?;
                let list =
                    |column| -> Result<Vec<String>, Error> { Ok(names(row.get_ref(column)?.as_str().unwrap_or_default())) };
                found.push(ErrorGroupLine {
                    project: row.get(0)?,
                    id: id(&key),
                    key,
                    title: row.get(2)?,
                    culprit: row.get(3)?,
                    level: row.get(4)?,
                    platform: row.get(5)?,
                    count: row.get::<_, i64>(6)? as u64,
                    users: row.get::<_, i64>(7)? as u64,
                    first_seen: from_micros(row.get(8)?)?,
                    last_seen: from_micros(row.get(9)?)?,
                    releases: list(10)?,
                    environments: list(11)?,
                    levels: list(12)?,
                    kept: row.get::<_, i64>(13)? as u64,
                    told_at: told(row, 14)?.map(|told| told.at),
                });
            }
            Ok(found)
        })
    }

    /// The kept events of a group as they came, the oldest first.
    pub fn error_events(&self, project: &str, key: &str) -> Result<Vec<Value>, Error> {
        self.with(|conn, _| {
            let mut statement = conn.prepare_cached(
                "SELECT e.packed, e.body FROM error_events e JOIN error_groups g ON g.no = e.grp
                 WHERE g.project = ?1 AND g.key = ?2 ORDER BY e.no",
            )?;
            let mut rows = statement.query(params![project, key])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let text = unpack(row.get(0)?, row.get_ref(1)?.as_blob().unwrap_or_default())?;
                found.push(serde_json::from_str(&text).map_err(|error| Error::record("an event", error))?);
            }
            Ok(found)
        })
    }

    /// What was not taken in or given up since then, by project and reason.
    pub fn error_drops(&self, since: Timestamp) -> Result<Vec<ErrorDrops>, Error> {
        self.with(|conn, _| {
            let mut statement = conn.prepare_cached(
                "SELECT project, reason, sum(count) FROM error_drops WHERE hour >= ?1 GROUP BY project, reason
                 ORDER BY project, reason",
            )?;
            let drops = statement.query_map([micros(since)], |row| {
                Ok(ErrorDrops { project: row.get(0)?, reason: row.get(1)?, count: row.get::<_, i64>(2)?.max(0) as u64 })
            })?;
            Ok(drops.collect::<Result<_, _>>()?)
        })
    }

    /// Groups of a project of which triggers may have to be told: never told, or seen since they were told at least `quiet` ago.
    pub fn errors_to_tell(
        &self,
        project: &str,
        now: Timestamp,
        quiet: Duration,
        most: u32,
    ) -> Result<Vec<ErrorStanding>, Error> {
        self.with(|conn, _| {
            let mut statement = conn.prepare_cached(
                "SELECT project, key, title, count, users, last_seen, told_count, told_users, told_at FROM error_groups
                 WHERE project = ?1
                     AND (told_at IS NULL OR (told_at <= ?2 AND (count > told_count OR users > told_users)))
                 ORDER BY told_at, last_seen LIMIT ?3",
            )?;
            let mut rows = statement.query(params![project, micros(before(now, quiet)), most])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(ErrorStanding {
                    project: row.get(0)?,
                    key: row.get(1)?,
                    title: row.get(2)?,
                    count: row.get::<_, i64>(3)? as u64,
                    users: row.get::<_, i64>(4)? as u64,
                    last_seen: from_micros(row.get(5)?)?,
                    seen_before: None,
                    told: told(row, 6)?,
                });
            }
            Ok(found)
        })
    }

    /// Which of these errors some ledger has as fixed: one of them that is seen again is back.
    pub fn errors_fixed(&self, keys: &[String]) -> Result<Vec<String>, Error> {
        self.with(|conn, _| {
            let mut statement = conn.prepare_cached(
                "SELECT 1 FROM findings WHERE source = 'sentry' AND fingerprint = ?1 AND state = 'fixed' LIMIT 1",
            )?;
            let mut fixed = Vec::new();
            for key in keys {
                if statement.exists([key])? {
                    fixed.push(key.clone());
                }
            }
            Ok(fixed)
        })
    }
}

impl ErrorShelf for Reader {
    fn groups(&self, project: &str, since: Timestamp, most: u32) -> Result<Vec<ErrorGroup>, String> {
        self.with(|conn, _| {
            let mut statement = conn.prepare_cached(&format!(
                "SELECT {GROUP} FROM {NEWEST} WHERE g.project = ?1 AND g.last_seen >= ?2
                 ORDER BY g.last_seen DESC, g.key LIMIT ?3"
            ))?;
            let mut rows = statement.query(params![project, micros(since), most])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(group(row)?);
            }
            Ok(found)
        })
        .map_err(|error| error.to_string())
    }

    fn group(&self, project: &str, key: &str) -> Result<Option<ErrorGroup>, String> {
        self.with(|conn, _| {
            let mut statement =
                conn.prepare_cached(&format!("SELECT {GROUP} FROM {NEWEST} WHERE g.project = ?1 AND g.key = ?2"))?;
            let mut rows = statement.query(params![project, key])?;
            rows.next()?.map(group).transpose()
        })
        .map_err(|error| error.to_string())
    }
}
