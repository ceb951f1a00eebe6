//! Retention: what is old goes, in portions, so that nobody waits long for the writer.

use std::time::Duration;

use rusqlite::params;

use super::{Amount, before};
use crate::journal::error::Error;
use crate::journal::writer::Store;
use crate::journal::{Journal, micros};

/// How long things are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorRetention {
    /// Whole events, by when they came.
    pub events: Duration,
    /// Groups, by when they were seen last; and the counts of what was dropped.
    pub groups: Duration,
}

const DAY: Duration = Duration::from_secs(86_400);

impl Default for ErrorRetention {
    fn default() -> Self {
        Self { events: 30 * DAY, groups: 90 * DAY }
    }
}

/// Rows of one portion.
const PORTION: u32 = 200;

impl Store {
    /// Removes a portion of what is old. False: nothing was left.
    fn tidy_errors(&mut self, retention: ErrorRetention) -> Result<bool, Error> {
        let now = self.now();
        let (events, groups) = (micros(before(now, retention.events)), micros(before(now, retention.groups)));
        let mut removed = self
            .conn()
            .prepare_cached(
                "DELETE FROM error_events WHERE no IN (SELECT no FROM error_events WHERE at < ?1 ORDER BY at LIMIT ?2)",
            )?
            .execute(params![events, PORTION])?;
        let mut statement = self
            .conn()
            .prepare_cached("SELECT no FROM error_groups WHERE last_seen < ?1 ORDER BY last_seen LIMIT ?2")?;
        let old = statement.query_map(params![groups, PORTION], |row| row.get(0))?.collect::<Result<Vec<_>, _>>()?;
        drop(statement);
        let mut any = Amount::default();
        for group in old {
            self.remove_group(group, &mut any)?;
            removed += 1;
        }
        removed += self.conn().prepare_cached("DELETE FROM error_drops WHERE hour < ?1")?.execute([groups])?;
        Ok(removed > 0)
    }

    /// Counts anew what there is of each project.
    fn recount_errors(&mut self) -> Result<(), Error> {
        self.conn().execute("DELETE FROM error_projects", [])?;
        self.conn().execute(
            "INSERT INTO error_projects (project, groups, users, bytes)
             SELECT g.project, count(*),
                 sum((SELECT count(*) FROM error_users u WHERE u.grp = g.no)),
                 sum((SELECT coalesce(sum(length(body)), 0) FROM error_events e WHERE e.grp = g.no))
             FROM error_groups g GROUP BY g.project",
            [],
        )?;
        Ok(())
    }
}

impl Journal {
    /// Removes what is older than that. To be called now and then; every portion is a transaction of its own.
    pub async fn tidy_errors(&self, retention: ErrorRetention) -> Result<(), Error> {
        let mut portions = 0_u64;
        while self.ask(move |store| store.tidy_errors(retention)).await? {
            portions += 1;
        }
        if portions > 0 {
            self.ask(Store::recount_errors).await?;
            tracing::debug!(portions, "old errors were removed");
        }
        Ok(())
    }
}
