//! Tables `error_*`: what our own intake has received, by group, bounded in every direction.
//!
//! A group's counts are exact; of its events the first and the newest are kept whole, of its users only hashes. What exceeds a
//! bound goes and is counted in `error_drops`. Counted once per event id as long as the event is kept, so that an SDK which sends
//! again after a lost answer counts once.

mod pack;
mod read;
mod tidy;

use std::collections::HashMap;

use rusqlite::{OptionalExtension as _, params};

use super::error::Error;
use super::writer::Store;
use super::{Journal, from_micros, micros};
use crate::base::clock::Timestamp;
use crate::domain::error_group::{ErrorDrops, ErrorStanding, ErrorTold, SeenErrors};

pub use tidy::ErrorRetention;

use pack::Packed;

/// Bounds of what is kept of each project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorBounds {
    pub groups: u64,
    /// Distinct users that are told apart, per group and in the whole project.
    pub users_of_group: u64,
    pub users: u64,
    /// Events of a group that are kept whole; at least two.
    pub events: u32,
    /// Of all kept events, as stored.
    pub bytes: u64,
}

impl Default for ErrorBounds {
    fn default() -> Self {
        Self { groups: 5_000, users_of_group: 10_000, users: 1_000_000, events: 10, bytes: 256 << 20 }
    }
}

/// Names in the lists of a group: the newest.
const NAMES: usize = 20;
/// Given up at once when there are too many bytes: the oldest events.
const PORTION: u32 = 20;

/// Groups ready to be written: redacted and packed.
#[derive(Debug)]
pub struct PreparedErrors(Vec<(SeenErrors, Vec<Packed>)>);

/// The row of a project in `error_projects`.
#[derive(Clone, Copy, Default)]
struct Amount {
    groups: i64,
    users: i64,
    bytes: i64,
}

/// What is known of a group before the new events count.
struct KnownGroup {
    no: i64,
    count: u64,
    users: u64,
    first_seen: i64,
    last_seen: i64,
    releases: Vec<String>,
    environments: Vec<String>,
    levels: Vec<String>,
    told: Option<ErrorTold>,
}

impl Store {
    fn errors_seen(
        &mut self,
        groups: &[(SeenErrors, Vec<Packed>)],
        bounds: ErrorBounds,
    ) -> Result<Vec<ErrorStanding>, Error> {
        let mut amounts: HashMap<&str, Amount> = HashMap::new();
        let mut standings = Vec::with_capacity(groups.len());
        for (seen, events) in groups {
            let amount = match amounts.get_mut(seen.project.as_str()) {
                Some(amount) => amount,
                None => {
                    let amount = self.amount(&seen.project)?;
                    amounts.entry(&seen.project).or_insert(amount)
                }
            };
            standings.push(self.group_seen(seen, events, bounds, amount)?);
        }
        for (project, amount) in &mut amounts {
            self.give_up_groups(project, amount, bounds)?;
            self.give_up_bytes(project, amount, bounds)?;
            self.put_amount(project, *amount)?;
        }
        Ok(standings)
    }

    fn group_seen(
        &mut self,
        seen: &SeenErrors,
        events: &[Packed],
        bounds: ErrorBounds,
        amount: &mut Amount,
    ) -> Result<ErrorStanding, Error> {
        let now = micros(self.now());
        let (first, last) = (micros(seen.first), micros(seen.last));
        let mut group = match self.known_group(&seen.project, &seen.key)? {
            Some(known) => known,
            None => {
                self.conn()
                    .prepare_cached(
                        "INSERT INTO error_groups (project, key, title, culprit, level, platform, count, users, first_seen,
                                                   last_seen, releases, environments, levels)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, 0, ?7, ?8, '[]', '[]', '[]')",
                    )?
                    .execute(params![
                        seen.project,
                        seen.key,
                        seen.title,
                        seen.culprit,
                        seen.level,
                        seen.platform,
                        first,
                        last
                    ])?;
                amount.groups += 1;
                KnownGroup {
                    no: self.conn().last_insert_rowid(),
                    count: 0,
                    users: 0,
                    first_seen: first,
                    last_seen: last,
                    releases: Vec::new(),
                    environments: Vec::new(),
                    levels: Vec::new(),
                    told: None,
                }
            }
        };
        let seen_before = (group.count > 0).then_some(group.last_seen);
        let mut again = 0;
        for event in events {
            let inserted = self
                .conn()
                .prepare_cached(
                    "INSERT INTO error_events (grp, event_id, at, packed, body) VALUES (?1, ?2, ?3, ?4, ?5)
                     ON CONFLICT DO NOTHING",
                )?
                .execute(params![group.no, event.event_id, now, event.packed, event.body])?;
            match inserted {
                0 => again += 1,
                _ => amount.bytes += event.body.len() as i64,
            }
        }
        self.thin_out(group.no, bounds.events, amount)?;
        let mut refused = 0;
        for user in &seen.users {
            // One who was told apart before is known, however many there are.
            let full = group.users >= bounds.users_of_group || amount.users >= bounds.users as i64;
            if full {
                let known = self.conn().prepare_cached("SELECT 1 FROM error_users WHERE grp = ?1 AND user = ?2")?;
                refused += u64::from(!{ known }.exists(params![group.no, *user as i64])?);
                continue;
            }
            let new = self
                .conn()
                .prepare_cached("INSERT INTO error_users (grp, user) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
                .execute(params![group.no, *user as i64])?;
            group.users += new as u64;
            amount.users += new as i64;
        }
        self.drop_errors(&seen.project, "users", refused)?;
        // What did not fit into the batch was never compared; it counts.
        group.count += seen.count.saturating_sub(again);
        group.first_seen = group.first_seen.min(first);
        group.last_seen = group.last_seen.max(last);
        merge(&mut group.releases, &seen.releases);
        merge(&mut group.environments, &seen.environments);
        merge(&mut group.levels, &seen.levels);
        self.conn()
            .prepare_cached(
                "UPDATE error_groups SET title = ?2, culprit = ?3, level = ?4, platform = ?5, count = ?6, users = ?7,
                     first_seen = ?8, last_seen = ?9, releases = ?10, environments = ?11, levels = ?12 WHERE no = ?1",
            )?
            .execute(params![
                group.no,
                seen.title,
                seen.culprit,
                seen.level,
                seen.platform,
                group.count as i64,
                group.users as i64,
                group.first_seen,
                group.last_seen,
                list(&group.releases)?,
                list(&group.environments)?,
                list(&group.levels)?,
            ])?;
        Ok(ErrorStanding {
            project: seen.project.clone(),
            key: seen.key.clone(),
            title: seen.title.clone(),
            count: group.count,
            users: group.users,
            last_seen: from_micros(group.last_seen)?,
            seen_before: seen_before.map(from_micros).transpose()?,
            told: group.told,
        })
    }

    fn known_group(&self, project: &str, key: &str) -> Result<Option<KnownGroup>, Error> {
        let mut statement = self.conn().prepare_cached(
            "SELECT no, count, users, first_seen, last_seen, releases, environments, levels, told_count, told_users, told_at
             FROM error_groups WHERE project = ?1 AND key = ?2",
        )?;
        let mut rows = statement.query(params![project, key])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        Ok(Some(KnownGroup {
            no: row.get(0)?,
            count: row.get::<_, i64>(1)? as u64,
            users: row.get::<_, i64>(2)? as u64,
            first_seen: row.get(3)?,
            last_seen: row.get(4)?,
            releases: names(row.get_ref(5)?.as_str().unwrap_or_default()),
            environments: names(row.get_ref(6)?.as_str().unwrap_or_default()),
            levels: names(row.get_ref(7)?.as_str().unwrap_or_default()),
            told: told(row, 8)?,
        }))
    }

    /// Only the first and the newest events of a group stay.
    fn thin_out(&self, group: i64, most: u32, amount: &mut Amount) -> Result<(), Error> {
        let mut statement = self.conn().prepare_cached(
            "DELETE FROM error_events WHERE grp = ?1
                 AND no NOT IN (SELECT no FROM error_events WHERE grp = ?1 ORDER BY no DESC LIMIT ?2)
                 AND no <> (SELECT min(no) FROM error_events WHERE grp = ?1)
             RETURNING length(body)",
        )?;
        let mut rows = statement.query(params![group, most.saturating_sub(1)])?;
        while let Some(row) = rows.next()? {
            amount.bytes -= row.get::<_, i64>(0)?;
        }
        Ok(())
    }

    /// Beyond the bound the groups go that were seen last the longest ago.
    fn give_up_groups(&mut self, project: &str, amount: &mut Amount, bounds: ErrorBounds) -> Result<(), Error> {
        let too_many = amount.groups - bounds.groups as i64;
        if too_many <= 0 {
            return Ok(());
        }
        let mut statement = self
            .conn()
            .prepare_cached("SELECT no FROM error_groups WHERE project = ?1 ORDER BY last_seen, no LIMIT ?2")?;
        let found =
            statement.query_map(params![project, too_many], |row| row.get(0))?.collect::<Result<Vec<_>, _>>()?;
        drop(statement);
        for group in found {
            self.remove_group(group, amount)?;
        }
        self.drop_errors(project, "groups", too_many as u64)
    }

    /// Beyond the bound the oldest events go; their groups and counts stay.
    fn give_up_bytes(&mut self, project: &str, amount: &mut Amount, bounds: ErrorBounds) -> Result<(), Error> {
        let mut gone = 0;
        while amount.bytes > bounds.bytes as i64 {
            let mut statement = self.conn().prepare_cached(
                "DELETE FROM error_events WHERE no IN (
                     SELECT e.no FROM error_events e JOIN error_groups g ON g.no = e.grp
                     WHERE g.project = ?1 ORDER BY e.no LIMIT ?2)
                 RETURNING length(body)",
            )?;
            let freed = statement
                .query_map(params![project, PORTION], |row| row.get::<_, i64>(0))?
                .collect::<Result<Vec<_>, _>>()?;
            amount.bytes -= freed.iter().sum::<i64>();
            gone += freed.len() as u64;
            if freed.is_empty() {
                // The amount was wrong; the next tidying counts anew.
                amount.bytes = 0;
            }
        }
        self.drop_errors(project, "bytes", gone)
    }

    fn remove_group(&self, group: i64, amount: &mut Amount) -> Result<(), Error> {
        let freed: i64 = self
            .conn()
            .prepare_cached("SELECT coalesce(sum(length(body)), 0) FROM error_events WHERE grp = ?1")?
            .query_row([group], |row| row.get(0))?;
        self.conn().prepare_cached("DELETE FROM error_events WHERE grp = ?1")?.execute([group])?;
        let users = self.conn().prepare_cached("DELETE FROM error_users WHERE grp = ?1")?.execute([group])?;
        self.conn().prepare_cached("DELETE FROM error_groups WHERE no = ?1")?.execute([group])?;
        amount.groups -= 1;
        amount.users -= users as i64;
        amount.bytes -= freed;
        Ok(())
    }

    fn amount(&self, project: &str) -> Result<Amount, Error> {
        let found = self
            .conn()
            .prepare_cached("SELECT groups, users, bytes FROM error_projects WHERE project = ?1")?
            .query_row([project], |row| Ok(Amount { groups: row.get(0)?, users: row.get(1)?, bytes: row.get(2)? }))
            .optional()?;
        Ok(found.unwrap_or_default())
    }

    fn put_amount(&self, project: &str, amount: Amount) -> Result<(), Error> {
        self.conn()
            .prepare_cached(
                "INSERT INTO error_projects (project, groups, users, bytes) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO UPDATE SET groups = excluded.groups, users = excluded.users, bytes = excluded.bytes",
            )?
            .execute(params![project, amount.groups, amount.users, amount.bytes])?;
        Ok(())
    }

    fn drop_errors(&self, project: &str, reason: &str, count: u64) -> Result<(), Error> {
        if count == 0 {
            return Ok(());
        }
        let now = self.now().as_second();
        let hour = (now - now.rem_euclid(3_600)).saturating_mul(1_000_000);
        self.conn()
            .prepare_cached(
                "INSERT INTO error_drops (project, hour, reason, count) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO UPDATE SET count = count + excluded.count",
            )?
            .execute(params![project, hour, reason, count as i64])?;
        Ok(())
    }

    fn errors_told(&self, told: &[(String, String, ErrorTold)]) -> Result<(), Error> {
        let mut update = self.conn().prepare_cached(
            "UPDATE error_groups SET told_count = ?3, told_users = ?4, told_at = ?5 WHERE project = ?1 AND key = ?2",
        )?;
        for (project, key, told) in told {
            update.execute(params![project, key, told.count as i64, told.users as i64, micros(told.at)])?;
        }
        Ok(())
    }
}

impl Journal {
    /// Makes groups ready for [`Journal::errors_seen`]: secrets taken out, events packed. Work for a thread that may block.
    pub fn prepare_errors(&self, groups: Vec<SeenErrors>) -> PreparedErrors {
        let clean = |mut seen: SeenErrors| {
            seen.title = self.redact_text(&seen.title);
            seen.culprit = self.redact_text(&seen.culprit);
            for names in [&mut seen.releases, &mut seen.environments] {
                names.iter_mut().for_each(|name| *name = self.redact_text(name));
            }
            let events = std::mem::take(&mut seen.events);
            let events = events.into_iter().map(|event| Packed::of(event.event_id, &self.redact(event.raw)));
            let events = events.collect();
            (seen, events)
        };
        PreparedErrors(groups.into_iter().map(clean).collect())
    }

    /// Counts and keeps events by group, in one transaction. Answers how each group stands now, in the same order.
    pub async fn errors_seen(&self, groups: PreparedErrors, bounds: ErrorBounds) -> Result<Vec<ErrorStanding>, Error> {
        self.ask(move |store| store.errors_seen(&groups.0, bounds)).await
    }

    /// The triggers were told of these groups (project, key), with what they were told.
    pub async fn errors_told(&self, told: Vec<(String, String, ErrorTold)>) -> Result<(), Error> {
        self.ask(move |store| store.errors_told(&told)).await
    }

    /// Events that were not taken in.
    pub async fn errors_dropped(&self, drops: Vec<ErrorDrops>) -> Result<(), Error> {
        self.ask(move |store| {
            drops.iter().try_for_each(|drop| store.drop_errors(&drop.project, &drop.reason, drop.count))
        })
        .await
    }
}

/// Adds names to a list that has the newest last.
fn merge(into: &mut Vec<String>, new: &[String]) {
    for name in new.iter().filter(|name| !name.is_empty()) {
        into.retain(|known| known != name);
        into.push(name.clone());
    }
    into.drain(..into.len().saturating_sub(NAMES));
}

fn list(names: &[String]) -> Result<String, Error> {
    serde_json::to_string(names).map_err(|error| Error::record("names of a group", error))
}

/// A damaged list costs nothing but itself.
fn names(text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_default()
}

/// The three columns `told_count, told_users, told_at` from `at` on.
fn told(row: &rusqlite::Row<'_>, at: usize) -> Result<Option<ErrorTold>, Error> {
    let Some(moment) = row.get::<_, Option<i64>>(at + 2)? else { return Ok(None) };
    let number = |column| -> Result<u64, Error> { Ok(row.get::<_, Option<i64>>(column)?.unwrap_or_default() as u64) };
    Ok(Some(ErrorTold { count: number(at)?, users: number(at + 1)?, at: from_micros(moment)? }))
}

/// So long before `now`.
fn before(now: Timestamp, by: std::time::Duration) -> Timestamp {
    now.saturating_sub(by).unwrap_or(Timestamp::MIN)
}
