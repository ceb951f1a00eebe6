//! Table `calls`: money is reserved before it is spent.
//!
//! [`decide`] is pure arithmetic over pools. The pools themselves are sums over the table, kept in memory while they are in
//! use and read anew after a rollback. Outstanding grants count in full; one that nobody will settle (its process died, its run
//! was resumed or ended) stays charged as granted: spent, never lost. Day and month caps count money when it is granted.

use std::collections::{HashMap, HashSet};

use jiff::tz::TimeZone;
use rusqlite::{Connection, OptionalExtension as _, params};
use serde_json::{Map, Value};

use super::Intended;
use super::entries::{Prepared, Stored, large};
use super::error::Error;
use super::raw;
use super::reader::Reader;
use super::runs;
use super::writer::Store;
use crate::base::clock::Timestamp;
use crate::base::ids::RunId;
use crate::base::money::UsdMicros;
use crate::domain::model::Usage;
use crate::domain::money::{Cap, Grant, GrantRequest, Payee, RoleSpend, SandboxSpend, Settlement, Spend};
use crate::domain::run::RunLimits;
use crate::domain::view::CostLine;

/// What a pool has given out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Level {
    /// Settled and reserved money together.
    pub(super) charged: UsdMicros,
    /// The part of it that a settlement may still give back.
    pub(super) outstanding: UsdMicros,
}

/// One cap that a call has to fit under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pool {
    pub(super) cap: Cap,
    pub(super) limit: UsdMicros,
    pub(super) level: Level,
}

/// The rule of grants. All of it, or as much output as fits, or wait, or no.
pub(super) fn decide(request: &GrantRequest, pools: &[Pool]) -> Grant {
    let available = pools.iter().map(|pool| pool.limit - pool.level.charged).min().unwrap_or(UsdMicros::MAX);
    let least = request.input + request.least_output.min(request.output);
    if request.input + request.output <= available {
        return Grant::Granted { input: request.input, output: request.output };
    }
    if least <= available {
        return Grant::Granted { input: request.input, output: available - request.input };
    }
    let alone = |pool: &Pool| pool.limit - pool.level.charged + pool.level.outstanding;
    match pools.iter().min_by_key(|pool| alone(pool)) {
        Some(tightest) if least > alone(tightest) => Grant::Refused(tightest.cap),
        Some(_) | None => Grant::Wait,
    }
}

/// How many turns a call may begin with: the last one is held back for closing calls.
pub(super) fn turns_allowed(max_turns: u32, from_report_slice: bool) -> u32 {
    if from_report_slice || max_turns < 2 { max_turns } else { max_turns - 1 }
}

/// Paths above and including `path`, where a child's budget may stand.
fn above(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at]).chain([path])
}

/// The calendar day of a moment in a zone. An unknown zone (checked long before) counts as UTC.
pub(super) fn day_in(timezone: &str, at: Timestamp) -> String {
    day(&TimeZone::get(timezone).unwrap_or(TimeZone::UTC), at)
}

fn day(zone: &TimeZone, at: Timestamp) -> String {
    at.to_zoned(zone.clone()).date().to_string()
}

/// Sums over table `calls`, as far as they are in use.
#[derive(Debug, Default)]
pub(super) struct Money {
    runs: HashMap<RunId, RunMoney>,
    /// (pipeline, day in the run's zone) → what was given out, what a person added.
    pipeline_days: HashMap<(String, String), (Level, UsdMicros)>,
    /// UTC days (`2026-11-20`) and months (`2026-11`).
    periods: HashMap<String, Level>,
}

#[derive(Debug)]
struct RunMoney {
    no: i64,
    pipeline: String,
    zone: TimeZone,
    limits: RunLimits,
    added: UsdMicros,
    level: Level,
    /// A repeated request (same address, same input) is the same turn.
    turns: HashSet<(String, String)>,
    /// By the path of the child.
    items: HashMap<String, Level>,
}

/// Days remembered before the memory is emptied.
const DAYS: usize = 1_000;

impl Money {
    pub(super) fn forget(&mut self, run: &RunId) {
        self.runs.remove(run);
    }

    /// Somebody has added to one of them.
    pub(super) fn forget_pipeline_days(&mut self) {
        self.pipeline_days.clear();
    }

    fn run(&mut self, store: &Source<'_>, id: &RunId) -> Result<&mut RunMoney, Error> {
        match self.runs.entry(id.clone()) {
            std::collections::hash_map::Entry::Occupied(known) => Ok(known.into_mut()),
            std::collections::hash_map::Entry::Vacant(new) => Ok(new.insert(store.run(id)?)),
        }
    }

    fn pipeline_day(&mut self, store: &Source<'_>, key: &(String, String)) -> Result<(Level, UsdMicros), Error> {
        if let Some(known) = self.pipeline_days.get(key) {
            return Ok(*known);
        }
        if self.pipeline_days.len() >= DAYS {
            self.pipeline_days.clear();
        }
        let level = store.level("pipeline = ?2 AND pipeline_day = ?3", &[&key.0, &key.1])?;
        let mut added = store.conn.prepare_cached(
            "SELECT coalesce(sum(amount), 0) FROM additions WHERE pipeline = ?1 AND pipeline_day = ?2",
        )?;
        let added = UsdMicros(added.query_row([&key.0, &key.1], |row| row.get(0))?);
        self.pipeline_days.insert(key.clone(), (level, added));
        Ok((level, added))
    }

    /// `period`: a day or a month.
    fn period(&mut self, store: &Source<'_>, period: &str) -> Result<Level, Error> {
        if let Some(known) = self.periods.get(period) {
            return Ok(*known);
        }
        if self.periods.len() >= DAYS {
            self.periods.clear();
        }
        // `2026-11` and `2026-11-20` both stand before `2026-11-20~` in the order of text, and before `2026-11~`.
        let level = store.level("utc_day >= ?2 AND utc_day < ?3", &[period, &format!("{period}~")])?;
        self.periods.insert(period.to_owned(), level);
        Ok(level)
    }

    /// Books a change on every pool in memory that holds the call. Pools not in memory read it from the table later.
    fn book(&mut self, id: &RunId, call: &Call, change: Level) {
        let add = |level: &mut Level| {
            level.charged += change.charged;
            level.outstanding += change.outstanding;
        };
        if let Some(run) = self.runs.get_mut(id) {
            add(&mut run.level);
            for prefix in above(&call.path) {
                if let Some(level) = run.items.get_mut(prefix) {
                    add(level);
                }
            }
        }
        if let Some((level, _)) = self.pipeline_days.get_mut(&(call.pipeline.clone(), call.pipeline_day.clone())) {
            add(level);
        }
        for period in [call.utc_day.as_str(), month(&call.utc_day)] {
            if let Some(level) = self.periods.get_mut(period) {
                add(level);
            }
        }
    }
}

fn month(day: &str) -> &str {
    day.get(..7).unwrap_or(day)
}

/// Where a call is booked.
struct Call {
    path: String,
    pipeline: String,
    pipeline_day: String,
    utc_day: String,
}

/// The table, read for pools.
struct Source<'a> {
    conn: &'a Connection,
    blobs: &'a super::blobs::Blobs,
    epoch: i64,
}

impl Source<'_> {
    /// The sum over some calls; `which` may use `?2` and up.
    fn level(&self, which: &str, values: &[&str]) -> Result<Level, Error> {
        let mut statement = self.conn.prepare_cached(&format!(
            "SELECT coalesce(sum(coalesce(settled, granted)), 0),
                 coalesce(sum(CASE WHEN settled IS NULL AND abandoned = 0 AND epoch = ?1 THEN granted ELSE 0 END), 0)
             FROM calls WHERE {which}"
        ))?;
        statement.raw_bind_parameter(1, self.epoch)?;
        for (n, value) in values.iter().enumerate() {
            statement.raw_bind_parameter(n + 2, value)?;
        }
        let mut rows = statement.raw_query();
        let row = rows.next()?.ok_or_else(|| Error::record("of sums", "no row"))?;
        Ok(Level { charged: UsdMicros(row.get(0)?), outstanding: UsdMicros(row.get(1)?) })
    }

    fn item(&self, run: i64, prefix: &str) -> Result<Level, Error> {
        // `0` is the character after `/`.
        self.level(
            "run = CAST(?2 AS INTEGER) AND (path = ?3 OR (path >= ?4 AND path < ?5))",
            &[&run.to_string(), prefix, &format!("{prefix}/"), &format!("{prefix}0")],
        )
    }

    fn run(&self, id: &RunId) -> Result<RunMoney, Error> {
        let mut statement = self.conn.prepare_cached(
            "SELECT r.no, r.added, e.payload, e.blob FROM runs r JOIN entries e ON e.seq = r.first_seq WHERE r.id = ?1",
        )?;
        let mut rows = statement.query([id.as_str()])?;
        let row = rows.next()?.ok_or_else(|| Error::NoRun(id.clone()))?;
        let no: i64 = row.get(0)?;
        let start = runs::start(Stored::from_row(row, 2, 3)?, self.blobs)?;
        let mut turns = self
            .conn
            .prepare_cached("SELECT path, coalesce(input, '') FROM calls WHERE run = ?1 AND counts_turn = 1")?;
        let turns = turns.query_map([no], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
        Ok(RunMoney {
            no,
            pipeline: start.pipeline,
            zone: TimeZone::get(&start.timezone).unwrap_or(TimeZone::UTC),
            limits: start.limits,
            added: UsdMicros(row.get(1)?),
            level: self.level("run = CAST(?2 AS INTEGER)", &[&no.to_string()])?,
            turns,
            items: HashMap::new(),
        })
    }
}

impl Store {
    pub(super) fn intend(&mut self, entry: &Prepared, request: Option<&GrantRequest>) -> Result<Intended, Error> {
        let Some(request) = request else {
            return Ok(Intended { seq: self.insert(entry)?, grant: None });
        };
        let id = &entry.entry.run;
        let path = &entry.entry.path;
        let input = entry.entry.input.map(|hash| hash.to_string());
        let turn = (path.clone(), input.clone().unwrap_or_default());
        let (now, caps, epoch, blobs) = (self.now(), self.caps(), self.epoch(), self.blobs().clone());
        let (conn, money) = self.money();
        let source = Source { conn, blobs: &blobs, epoch };

        let run = money.run(&source, id)?;
        let no = run.no;
        if let Some(max) = run.limits.max_turns
            && request.counts_turn
            && !run.turns.contains(&turn)
            && run.turns.len() >= turns_allowed(max, request.from_report_slice) as usize
        {
            return Ok(Intended { seq: 0, grant: Some(Grant::Refused(Cap::Turns)) });
        }
        let mut pools = Vec::with_capacity(request.items.len() + 4);
        for (prefix, limit) in &request.items {
            let level = match run.items.get(prefix) {
                Some(level) => *level,
                None => *run.items.entry(prefix.clone()).or_insert(source.item(no, prefix)?),
            };
            pools.push(Pool { cap: Cap::Item, limit: *limit, level });
        }
        if let Some(max) = run.limits.max_budget {
            let held_back = if request.from_report_slice {
                UsdMicros::ZERO
            } else {
                max.permille(run.limits.keep_for_report_permille)
            };
            pools.push(Pool { cap: Cap::Run, limit: max + run.added - held_back, level: run.level });
        }
        let call = Call {
            path: path.clone(),
            pipeline: run.pipeline.clone(),
            pipeline_day: day(&run.zone, now),
            utc_day: day(&TimeZone::UTC, now),
        };
        if let Some(max) = run.limits.max_per_day {
            let (level, added) = money.pipeline_day(&source, &(call.pipeline.clone(), call.pipeline_day.clone()))?;
            pools.push(Pool { cap: Cap::PipelineDay, limit: max + added, level });
        }
        if let Some(limit) = caps.max_per_day {
            pools.push(Pool { cap: Cap::DaemonDay, limit, level: money.period(&source, &call.utc_day)? });
        }
        if let Some(limit) = caps.max_per_month {
            pools.push(Pool { cap: Cap::DaemonMonth, limit, level: money.period(&source, month(&call.utc_day))? });
        }

        let grant = decide(request, &pools);
        let Grant::Granted { input: granted_input, output } = grant else {
            return Ok(Intended { seq: 0, grant: Some(grant) });
        };
        let granted = granted_input + output;
        let payload = with_grant(entry, granted)?;
        let seq = self.insert_with(entry, payload.get(), large(payload.get()))?;
        self.conn()
            .prepare_cached(
                "INSERT INTO calls (intended, run, pipeline, path, input, role, model, counts_turn, utc_day, pipeline_day,
                     epoch, granted)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            )?
            .execute(params![
                seq,
                no,
                call.pipeline,
                call.path,
                input,
                request.payee.as_str(),
                request.model,
                request.counts_turn,
                call.utc_day,
                call.pipeline_day,
                epoch,
                granted.0,
            ])?;
        let (_, money) = self.money();
        money.book(id, &call, Level { charged: granted, outstanding: granted });
        if let Some(run) = money.runs.get_mut(id).filter(|_| request.counts_turn) {
            run.turns.insert(turn);
        }
        Ok(Intended { seq, grant: Some(grant) })
    }

    /// What the call really cost takes the place of its grant. Without a settlement the grant stays charged.
    pub(super) fn settle_grant(
        &mut self,
        id: &RunId,
        intended: i64,
        settlement: Option<&Settlement>,
    ) -> Result<(), Error> {
        let epoch = self.epoch();
        let found = self
            .conn()
            .prepare_cached(
                "SELECT path, pipeline, pipeline_day, utc_day, granted, settled, abandoned = 0 AND epoch = ?2
                 FROM calls WHERE intended = ?1",
            )?
            .query_row(params![intended, epoch], |row| {
                let call =
                    Call { path: row.get(0)?, pipeline: row.get(1)?, pipeline_day: row.get(2)?, utc_day: row.get(3)? };
                Ok((call, UsdMicros(row.get(4)?), row.get::<_, Option<i64>>(5)?.map(UsdMicros), row.get::<_, bool>(6)?))
            })
            .optional()?;
        // Activities without a grant have no row.
        let Some((call, granted, settled, alive)) = found else { return Ok(()) };
        let reserved = if alive && settled.is_none() { granted } else { UsdMicros::ZERO };
        let mut change = Level { charged: UsdMicros::ZERO, outstanding: -reserved };
        match settlement {
            Some(Settlement { cost, usage, millis }) => {
                change.charged = *cost - settled.unwrap_or(granted);
                self.conn()
                    .prepare_cached(
                        "UPDATE calls SET settled = ?2, fresh_tokens = ?3, write_5m_tokens = ?4, write_1h_tokens = ?5,
                             read_tokens = ?6, output_tokens = ?7, millis = ?8 WHERE intended = ?1",
                    )?
                    .execute(params![
                        intended,
                        cost.0,
                        count(usage.input),
                        count(usage.cache_write_5m),
                        count(usage.cache_write_1h),
                        count(usage.cache_read),
                        count(usage.output),
                        count(*millis),
                    ])?;
            }
            None => {
                self.conn()
                    .prepare_cached("UPDATE calls SET abandoned = 1 WHERE intended = ?1")?
                    .execute([intended])?;
            }
        }
        self.money().1.book(id, &call, change);
        self.tell_settled();
        Ok(())
    }

    /// Nobody will settle what this run has outstanding.
    pub(super) fn abandon_grants(&mut self, id: &RunId) -> Result<(), Error> {
        let run = self.run_no(id)?;
        let outstanding = {
            let mut statement = self
                .conn()
                .prepare_cached("SELECT intended FROM calls WHERE run = ?1 AND settled IS NULL AND abandoned = 0")?;
            let found = statement.query_map([run], |row| row.get(0))?;
            found.collect::<Result<Vec<i64>, _>>()?
        };
        outstanding.into_iter().try_for_each(|intended| self.settle_grant(id, intended, None))
    }
}

/// SQLite's integers are signed; no count of tokens comes near.
fn count(tokens: u64) -> i64 {
    i64::try_from(tokens).unwrap_or(i64::MAX)
}

/// The payload with the money that was granted.
fn with_grant(entry: &Prepared, granted: UsdMicros) -> Result<Box<serde_json::value::RawValue>, Error> {
    let payload = entry.entry.payload.get();
    let mut map: Map<String, Value> =
        serde_json::from_str(payload).map_err(|error| Error::record("of an intention to be written", error))?;
    map.insert("grant_usd_micros".to_owned(), granted.0.into());
    raw(&map)
}

/// What the calls of each run add up to. `which` limits the rows of `calls c`.
pub(super) fn spends(
    conn: &Connection,
    which: &str,
    values: &[&dyn rusqlite::ToSql],
) -> Result<HashMap<i64, Spend>, Error> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT c.run, c.role, count(c.settled), coalesce(sum(c.settled), 0),
             coalesce(sum(CASE WHEN c.settled IS NULL THEN c.granted END), 0),
             sum(c.fresh_tokens), sum(c.write_5m_tokens), sum(c.write_1h_tokens), sum(c.read_tokens), sum(c.output_tokens),
             count(DISTINCT CASE WHEN c.counts_turn = 1 THEN c.path || char(10) || coalesce(c.input, '') END), sum(c.millis)
         FROM calls c WHERE {which} GROUP BY c.run, c.role"
    ))?;
    let mut rows = statement.query(values)?;
    let mut spends: HashMap<i64, Spend> = HashMap::new();
    while let Some(row) = rows.next()? {
        let tokens = |column: usize| row.get::<_, i64>(column).map(|n| n.max(0) as u64);
        let spend = spends.entry(row.get(0)?).or_default();
        spend.turns += row.get::<_, u32>(10)?;
        spend.reserved += UsdMicros(row.get(4)?);
        let (calls, usd) = (tokens(2)?, UsdMicros(row.get(3)?));
        let Some(role) = super::entries::word::<Payee>(&row.get::<_, String>(1)?)?.role() else {
            spend.sandbox = SandboxSpend { uses: calls, usd, millis: tokens(11)? };
            continue;
        };
        *spend.of(role) = RoleSpend {
            calls,
            usd,
            usage: Usage {
                input: tokens(5)?,
                cache_write_5m: tokens(6)?,
                cache_write_1h: tokens(7)?,
                cache_read: tokens(8)?,
                output: tokens(9)?,
            },
        };
    }
    Ok(spends)
}

impl Reader {
    /// What a run has used so far.
    pub fn spend_of(&self, run: &RunId) -> Result<Spend, Error> {
        self.with(|conn, _| {
            let no = self.no(conn, run)?.ok_or_else(|| Error::NoRun(run.clone()))?;
            Ok(spends(conn, "c.run = ?1", &[&no])?.remove(&no).unwrap_or_default())
        })
    }

    /// Spending by UTC day and pipeline on the last `days` days up to `now`, newest day first.
    pub fn costs(&self, days: u32, now: Timestamp) -> Result<Vec<CostLine>, Error> {
        let back = jiff::Span::new().try_days(i64::from(days.max(1)) - 1).unwrap_or_default();
        let first = now.to_zoned(TimeZone::UTC).date().saturating_sub(back).to_string();
        self.with(|conn, _| {
            let mut statement = conn.prepare_cached(
                "SELECT utc_day, pipeline, count(DISTINCT run),
                     count(CASE WHEN role = 'boss' THEN settled END),
                     coalesce(sum(CASE WHEN role = 'boss' THEN settled END), 0),
                     count(CASE WHEN role = 'intern' THEN settled END),
                     coalesce(sum(CASE WHEN role = 'intern' THEN settled END), 0),
                     coalesce(sum(CASE WHEN role = 'reviewer' THEN settled END), 0),
                     coalesce(sum(CASE WHEN settled IS NULL THEN granted END), 0),
                     coalesce(sum(CASE WHEN role = 'sandbox' THEN settled END), 0)
                 FROM calls WHERE utc_day >= ?1 GROUP BY utc_day, pipeline ORDER BY utc_day DESC, pipeline",
            )?;
            let lines = statement.query_map([first], |row| {
                let number = |column: usize| row.get::<_, i64>(column).map(|n| n.max(0) as u64);
                Ok(CostLine {
                    day: row.get(0)?,
                    pipeline: row.get(1)?,
                    runs: number(2)?,
                    boss_calls: number(3)?,
                    boss: UsdMicros(row.get(4)?),
                    intern_calls: number(5)?,
                    intern: UsdMicros(row.get(6)?),
                    reviewer: UsdMicros(row.get(7)?),
                    reserved: UsdMicros(row.get(8)?),
                    sandbox: UsdMicros(row.get(9)?),
                })
            })?;
            Ok(lines.collect::<Result<_, _>>()?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(cap: Cap, limit: i64, charged: i64, outstanding: i64) -> Pool {
        let level = Level { charged: UsdMicros(charged), outstanding: UsdMicros(outstanding) };
        Pool { cap, limit: UsdMicros(limit), level }
    }

    fn request(input: i64, output: i64, least: i64) -> GrantRequest {
        GrantRequest {
            input: UsdMicros(input),
            output: UsdMicros(output),
            least_output: UsdMicros(least),
            payee: Payee::Boss,
            model: "m".to_owned(),
            from_report_slice: false,
            counts_turn: true,
            items: Vec::new(),
        }
    }

    #[test]
    fn a_grant_is_lowered_before_it_waits_and_waits_before_it_is_refused() {
        let granted = |input, output| Grant::Granted { input: UsdMicros(input), output: UsdMicros(output) };
        let pools = [pool(Cap::Run, 100, 40, 30), pool(Cap::PipelineDay, 200, 150, 0)];
        assert_eq!(decide(&request(10, 40, 20), &pools), granted(10, 40));
        assert_eq!(decide(&request(10, 90, 40), &pools), granted(10, 40));
        assert_eq!(decide(&request(10, 90, 41), &pools), Grant::Refused(Cap::PipelineDay));
        assert_eq!(decide(&request(10, 90, 80), &pools[..1]), Grant::Wait);
        assert_eq!(decide(&request(10, 90, 81), &pools[..1]), Grant::Refused(Cap::Run));
        assert_eq!(decide(&request(10, i64::MAX, 0), &[]), granted(10, i64::MAX));
        // A cap that was passed by a call that cost more than its estimate.
        assert_eq!(decide(&request(0, 0, 0), &[pool(Cap::Item, 10, 11, 0)]), Grant::Refused(Cap::Item));
        assert_eq!(decide(&request(0, 0, 0), &[pool(Cap::Item, 0, 0, 0)]), granted(0, 0));
    }

    #[test]
    fn the_last_turn_is_kept_for_closing_calls() {
        let allowed = [(1, false), (2, false), (2, true), (0, false)].map(|(max, slice)| turns_allowed(max, slice));
        assert_eq!(allowed, [1, 1, 2, 0]);
        assert_eq!(above("a[k/k]/b/c").collect::<Vec<_>>(), ["a[k", "a[k/k]", "a[k/k]/b", "a[k/k]/b/c"]);
    }
}
