//! Tables `findings`, `finding_sources` and `figures`: what pipelines know of findings with an identity. What findings are tied
//! to outside, and what people said of them, is next door (`ties`).
//!
//! Everything a run writes here may be written twice: a crash between the ledger and the run's own entry repeats it, and the
//! ledger is then as after the first time. Which pipeline, profile and effects it is about follows from the run.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::entries::word;
use super::error::Error;
use super::reader::Reader;
use super::ties;
use super::writer::Store;
use super::{Journal, from_micros, micros};
use crate::base::clock::Timestamp;
use crate::base::ids::RunId;
use crate::domain::finding::{FindingLine, FixedBy, Handled, Judged, Seen};
use crate::policy::findings::{Known, id, standing};

/// Figures kept per name; older ones are of no use but to a run that was interrupted so many runs ago.
const FIGURES: u32 = 100;

/// Which findings to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FindingFilter {
    pub pipeline: Option<String>,
    /// Also those that are fixed, and those that the first run only recorded.
    pub all: bool,
}

/// Whose ledger it is.
pub(super) struct Of {
    pub(super) pipeline: String,
    pub(super) profile: String,
    pub(super) effects: String,
}

impl Of {
    pub(super) fn run(conn: &Connection, run: &RunId) -> Result<Self, Error> {
        let found = conn
            .prepare_cached("SELECT pipeline, profile, effects FROM runs WHERE id = ?1")?
            .query_row([run.as_str()], |row| {
                Ok(Self { pipeline: row.get(0)?, profile: row.get(1)?, effects: row.get(2)? })
            })
            .optional()?;
        found.ok_or_else(|| Error::NoRun(run.clone()))
    }

    fn id(&self, source: &str, fingerprint: &str) -> String {
        id(&self.pipeline, &self.profile, &self.effects, source, fingerprint)
    }
}

impl Store {
    pub(super) fn findings_handled(&mut self, run: &RunId, source: &str, findings: &[Handled]) -> Result<(), Error> {
        let of = Of::run(self.conn(), run)?;
        let now = micros(self.now());
        self.conn()
            .prepare_cached(
                "INSERT INTO finding_sources (pipeline, profile, effects, source, run, at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
            )?
            .execute(params![of.pipeline, of.profile, of.effects, source, run.as_str(), now])?;
        // What a person has muted stays muted for its time, whatever a run that had begun before made of it.
        let waiting = self.feedback_waits()?;
        let mut insert = self.conn().prepare_cached(
            "INSERT INTO findings (pipeline, profile, effects, source, fingerprint, id, title, place, weight, first_seen,
                                   last_seen, state, ended, url_or_path, run)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?10, 'handled', ?11, ?12, ?13)
             ON CONFLICT DO UPDATE SET
                 title = excluded.title, place = excluded.place, weight = excluded.weight,
                 last_seen = max(last_seen, excluded.last_seen), ended = excluded.ended,
                 url_or_path = coalesce(excluded.url_or_path, url_or_path), run = excluded.run,
                 state = iif(state = 'muted' AND (muted_until IS NULL OR muted_until > ?10), 'muted', 'handled'),
                 muted_until = iif(state = 'muted' AND muted_until > ?10, muted_until, NULL),
                 reason = iif(state = 'muted' AND (muted_until IS NULL OR muted_until > ?10), reason, NULL),
                 again = 0, fixed_kind = NULL, fixed_url = NULL, fixed_at = NULL",
        )?;
        for Handled { seen, end, place } in findings {
            let id = of.id(source, &seen.fingerprint);
            insert.execute(params![
                of.pipeline,
                of.profile,
                of.effects,
                source,
                seen.fingerprint,
                id,
                seen.title,
                seen.place,
                seen.weight,
                now,
                end,
                place,
                run.as_str(),
            ])?;
            if waiting {
                self.apply_feedback(&id)?;
            }
        }
        Ok(())
    }

    pub(super) fn findings_gone(&mut self, run: &RunId, source: &str, fingerprints: &[String]) -> Result<(), Error> {
        let of = Of::run(self.conn(), run)?;
        let now = micros(self.now());
        let mut update = self.conn().prepare_cached(
            "UPDATE findings SET state = 'fixed', muted_until = NULL, run = ?6
             WHERE pipeline = ?1 AND profile = ?2 AND effects = ?3 AND source = ?4 AND fingerprint = ?5
                 AND (state = 'handled' OR (state = 'muted' AND muted_until <= ?7))",
        )?;
        for fingerprint in fingerprints {
            update.execute(params![of.pipeline, of.profile, of.effects, source, fingerprint, run.as_str(), now])?;
        }
        Ok(())
    }

    pub(super) fn remember(&mut self, run: &RunId, name: &str, value: i64) -> Result<Option<i64>, Error> {
        let of = Of::run(self.conn(), run)?;
        let told: Option<Option<i64>> = self
            .conn()
            .prepare_cached(
                "SELECT before FROM figures WHERE pipeline = ?1 AND profile = ?2 AND name = ?3 AND run = ?4",
            )?
            .query_row(params![of.pipeline, of.profile, name, run.as_str()], |row| row.get(0))
            .optional()?;
        if let Some(before) = told {
            return Ok(before);
        }
        let before: Option<i64> = self
            .conn()
            .prepare_cached(
                "SELECT value FROM figures WHERE pipeline = ?1 AND profile = ?2 AND name = ?3 ORDER BY no DESC LIMIT 1",
            )?
            .query_row(params![of.pipeline, of.profile, name], |row| row.get(0))
            .optional()?;
        self.conn()
            .prepare_cached(
                "INSERT INTO figures (pipeline, profile, name, run, value, before, at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![of.pipeline, of.profile, name, run.as_str(), value, before, micros(self.now())])?;
        self.conn()
            .prepare_cached(
                "DELETE FROM figures WHERE no IN (
                     SELECT no FROM figures WHERE pipeline = ?1 AND profile = ?2 AND name = ?3
                     ORDER BY no DESC LIMIT -1 OFFSET ?4)",
            )?
            .execute(params![of.pipeline, of.profile, name, FIGURES])?;
        Ok(before)
    }

    pub(super) fn mute_finding(
        &self,
        id: &str,
        until: Option<Timestamp>,
        reason: &str,
        by: &str,
    ) -> Result<bool, Error> {
        let changed = self
            .conn()
            .prepare_cached(
                "UPDATE findings SET state = 'muted', muted_until = ?2, reason = ?3, by = ?4 WHERE id = ?1",
            )?
            .execute(params![id, until.map(micros), reason, by])?;
        Ok(changed > 0)
    }

    fn unmute_finding(&mut self, id: &str, by: &str) -> Result<bool, Error> {
        let changed = self
            .conn()
            .prepare_cached(
                "UPDATE findings SET state = 'handled', muted_until = NULL, reason = NULL, by = ?2
                 WHERE id = ?1 AND state = 'muted'",
            )?
            .execute(params![id, by])?;
        Ok(changed > 0)
    }
}

impl Journal {
    /// These findings of a source were taken to their end by this run. Also an empty list is remembered: the source was read.
    pub async fn findings_handled(&self, run: &RunId, source: &str, findings: Vec<Handled>) -> Result<(), Error> {
        let (run, source) = (run.clone(), source.to_owned());
        let findings: Vec<_> = findings
            .into_iter()
            .map(|Handled { seen, end, place }| Handled {
                seen: Seen { title: self.redact_text(&seen.title), place: self.redact_text(&seen.place), ..seen },
                end,
                place: place.map(|place| self.redact_text(&place)),
            })
            .collect();
        self.ask(move |store| store.findings_handled(&run, &source, &findings)).await
    }

    /// These findings of a source are gone. Those that are muted stay so.
    pub async fn findings_gone(&self, run: &RunId, source: &str, fingerprints: Vec<String>) -> Result<(), Error> {
        let (run, source) = (run.clone(), source.to_owned());
        self.ask(move |store| store.findings_gone(&run, &source, &fingerprints)).await
    }

    /// Keeps a figure of this run and answers what the run before it kept. A run that asks again is answered the same again,
    /// and its first figure stays.
    pub async fn remember(&self, run: &RunId, name: &str, value: i64) -> Result<Option<i64>, Error> {
        let (run, name) = (run.clone(), name.to_owned());
        self.ask(move |store| store.remember(&run, &name, value)).await
    }

    /// A person does not want to hear of a finding until then, or ever. `id` is whole. False: there is none.
    pub async fn mute_finding(
        &self,
        id: &str,
        until: Option<Timestamp>,
        reason: &str,
        by: &str,
    ) -> Result<bool, Error> {
        let (id, reason, by) = (id.to_owned(), self.redact_text(reason), by.to_owned());
        self.ask(move |store| store.mute_finding(&id, until, &reason, &by)).await
    }

    /// Takes that back: the finding counts as handled. False: there is no muted one with this id.
    pub async fn unmute_finding(&self, id: &str, by: &str) -> Result<bool, Error> {
        let (id, by) = (id.to_owned(), by.to_owned());
        self.ask(move |store| store.unmute_finding(&id, &by)).await
    }
}

const COLUMNS: &str = "id, pipeline, profile, effects, source, fingerprint, title, place, state, ended, url_or_path, weight, \
                       first_seen, last_seen, muted_until, reason, by, run, fixed_kind, fixed_url, fixed_at, again";

fn line(row: &Row<'_>) -> Result<FindingLine, Error> {
    Ok(FindingLine {
        id: row.get(0)?,
        pipeline: row.get(1)?,
        profile: row.get(2)?,
        effects: row.get(3)?,
        source: row.get(4)?,
        fingerprint: row.get(5)?,
        title: row.get(6)?,
        place: row.get(7)?,
        state: word(&row.get::<_, String>(8)?)?,
        end: row.get(9)?,
        url_or_path: row.get(10)?,
        weight: row.get(11)?,
        first_seen: from_micros(row.get(12)?)?,
        last_seen: from_micros(row.get(13)?)?,
        muted_until: row.get::<_, Option<i64>>(14)?.map(from_micros).transpose()?,
        reason: row.get(15)?,
        by: row.get(16)?,
        run: row.get(17)?,
        again: row.get(21)?,
        fixed_by: fixed_by(row)?,
        ties: Vec::new(),
        feedback: Vec::new(),
        same_as: Vec::new(),
    })
}

/// Also a finding that is not fixed may have a word about it: a ticket that was closed while the scanner still sees it.
fn fixed_by(row: &Row<'_>) -> Result<Option<FixedBy>, Error> {
    let (kind, url): (Option<String>, Option<String>) = (row.get(18)?, row.get(19)?);
    let at = row.get::<_, Option<i64>>(20)?.map(from_micros).transpose()?;
    Ok(match (kind, url, at) {
        (Some(kind), Some(url), Some(at)) => Some(FixedBy { kind: word(&kind)?, url, at }),
        _ => None,
    })
}

impl Reader {
    /// What these findings of a source are to the run's ledger at `now`, and, after a complete reading, which of the known
    /// ones are gone.
    pub fn judge_findings(
        &self,
        run: &RunId,
        source: &str,
        seen: &[Seen],
        complete: bool,
        now: Timestamp,
    ) -> Result<Judged, Error> {
        self.with(|conn, _| {
            let of = Of::run(conn, run)?;
            let key = params![of.pipeline, of.profile, of.effects, source];
            let mut recorded = conn.prepare_cached(
                "SELECT 1 FROM finding_sources WHERE pipeline = ?1 AND profile = ?2 AND effects = ?3 AND source = ?4",
            )?;
            let first = !recorded.exists(key)?;
            let mut statement = conn.prepare_cached(
                "SELECT fingerprint, state, weight, muted_until, title, place, again, fixed_at FROM findings
                 WHERE pipeline = ?1 AND profile = ?2 AND effects = ?3 AND source = ?4 ORDER BY fingerprint",
            )?;
            let mut rows = statement.query(key)?;
            let seen_now: HashSet<&str> = seen.iter().map(|seen| seen.fingerprint.as_str()).collect();
            let mut known: HashMap<String, Known> = HashMap::new();
            let mut gone = Vec::new();
            while let Some(row) = rows.next()? {
                let fingerprint: String = row.get(0)?;
                let found = Known {
                    state: word(row.get_ref(1)?.as_str().unwrap_or_default())?,
                    weight: row.get(2)?,
                    muted_until: row.get::<_, Option<i64>>(3)?.map(from_micros).transpose()?,
                    again: row.get(6)?,
                    fixed_at: row.get::<_, Option<i64>>(7)?.map(from_micros).transpose()?,
                };
                if seen_now.contains(fingerprint.as_str()) {
                    known.insert(fingerprint, found);
                } else if complete && found.may_be_gone(now) {
                    let (title, place) = (row.get(4)?, row.get(5)?);
                    gone.push(Seen { fingerprint, title, weight: found.weight, place, last_at: None });
                }
            }
            let standings = seen.iter().map(|seen| standing(known.get(&seen.fingerprint), seen, now)).collect();
            Ok(Judged { standings, gone, first })
        })
    }

    /// Findings, those handled last first.
    pub fn findings(&self, filter: &FindingFilter) -> Result<Vec<FindingLine>, Error> {
        self.with(|conn, _| {
            let mut statement = conn.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM findings
                 WHERE (?1 IS NULL OR pipeline = ?1)
                     AND (?2 OR state = 'muted' OR (state = 'handled' AND ended <> 'baseline'))
                 ORDER BY last_seen DESC, pipeline, source, place, fingerprint"
            ))?;
            let mut rows = statement.query(params![filter.pipeline, filter.all])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(line(row)?);
            }
            ties::add_to(conn, &mut found)?;
            Ok(found)
        })
    }
}
