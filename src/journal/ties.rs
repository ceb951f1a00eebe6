//! Tables `ties`, `sames` and `feedback`: where findings can be seen outside, which of them are one, what people said of them.
//!
//! All of it may be told twice, as the rest of the ledger. What a publication's end means for a finding (fixed, muted) counts
//! once, when its state changes: a person who takes it back afterwards is not overruled by the next look.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::entries::word;
use super::error::Error;
use super::findings::Of;
use super::reader::Reader;
use super::writer::Store;
use super::{Journal, from_micros, micros};
use crate::base::ids::RunId;
use crate::domain::finding::{Feedback, FeedbackWord, FindingLine, Tie, TieKind, TieState};
use crate::domain::proposal::{EndedWork, WorkEnd};

/// The reason of a mute by [`FeedbackWord::WontFix`].
const WONT_FIX: &str = "won't fix";

/// Something outside that findings are tied to from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTie {
    pub kind: TieKind,
    /// The sink or publisher that keeps it.
    pub destination: String,
    /// Empty: its key stands for it.
    pub url: String,
    pub key: String,
    pub state: TieState,
}

/// What it means for findings that a person closed their ticket as not planned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NotPlanned {
    /// Nobody wants to hear of them.
    #[default]
    Mute,
    /// Their ticket is opened again when they are seen next.
    Reopen,
}

impl Store {
    /// Ties the findings. Several of one ticket or pull request are the same from now on.
    fn tie(&mut self, run: &RunId, tie: &NewTie, fingerprints: &[String]) -> Result<(), Error> {
        let of = Of::run(self.conn(), run)?;
        let url = if tie.url.is_empty() { &tie.key } else { &tie.url };
        for fingerprint in fingerprints {
            self.put_tie(&of, run, tie, url, fingerprint)?;
        }
        let state = tie.state;
        if tie.kind != TieKind::Slack {
            self.join(&of, run, fingerprints)?;
            // All that it is about ends with it; what is about fewer than before keeps the others.
            let also = tied_to(self.conn(), &of, url)?;
            for fingerprint in also.iter().filter(|print| !fingerprints.contains(print)) {
                self.put_tie(&of, run, tie, url, fingerprint)?;
            }
            if state == TieState::Closed && tie.kind == TieKind::Ticket {
                self.note_fix(&of, tie.kind, url, &also)?;
            }
        }
        Ok(())
    }

    /// Answers whether its state is another one than before.
    fn put_tie(&self, of: &Of, run: &RunId, tie: &NewTie, url: &str, fingerprint: &str) -> Result<bool, Error> {
        let key = params![of.pipeline, of.profile, of.effects, fingerprint, tie.kind.as_str(), url];
        let before: Option<String> = self
            .conn()
            .prepare_cached(
                "SELECT state FROM ties WHERE pipeline = ?1 AND profile = ?2 AND effects = ?3 AND fingerprint = ?4
                     AND kind = ?5 AND url = ?6",
            )?
            .query_row(key, |row| row.get(0))
            .optional()?;
        if before.as_deref() == Some(tie.state.as_str()) {
            return Ok(false);
        }
        self.conn()
            .prepare_cached(
                "INSERT INTO ties (pipeline, profile, effects, fingerprint, kind, url, key, destination, state, run, at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
                 ON CONFLICT DO UPDATE SET key = excluded.key, destination = excluded.destination,
                     state = excluded.state, run = excluded.run, at = excluded.at",
            )?
            .execute(params![
                of.pipeline,
                of.profile,
                of.effects,
                fingerprint,
                tie.kind.as_str(),
                url,
                tie.key,
                tie.destination,
                tie.state.as_str(),
                run.as_str(),
                micros(self.now()),
            ])?;
        Ok(true)
    }

    /// These fingerprints are one from now on, with all that any of them was one with before.
    fn join(&self, of: &Of, run: &RunId, fingerprints: &[String]) -> Result<(), Error> {
        if fingerprints.len() < 2 {
            return Ok(());
        }
        let joined = same(self.conn(), of, fingerprints)?;
        let Some(root) = joined.first() else { return Ok(()) };
        let mut insert = self.conn().prepare_cached(
            "INSERT INTO sames (pipeline, profile, effects, fingerprint, root, run, at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT DO UPDATE SET root = excluded.root, run = excluded.run, at = excluded.at
                 WHERE root <> excluded.root",
        )?;
        for fingerprint in &joined {
            let now = micros(self.now());
            insert.execute(params![of.pipeline, of.profile, of.effects, fingerprint, root, run.as_str(), now])?;
        }
        Ok(())
    }

    /// Remembers what ended them, without a word on whether they are gone.
    fn note_fix<'a>(
        &self,
        of: &Of,
        kind: TieKind,
        url: &str,
        fingerprints: impl IntoIterator<Item = &'a String>,
    ) -> Result<(), Error> {
        let mut update = self.conn().prepare_cached(
            "UPDATE findings SET fixed_kind = ?5, fixed_url = ?6, fixed_at = ?7
             WHERE pipeline = ?1 AND profile = ?2 AND effects = ?3 AND fingerprint = ?4 AND fixed_url IS NULL",
        )?;
        let now = micros(self.now());
        for print in fingerprints {
            update.execute(params![of.pipeline, of.profile, of.effects, print, kind.as_str(), url, now])?;
        }
        Ok(())
    }

    fn tended(
        &mut self,
        run: &RunId,
        destination: &str,
        ended: &[EndedWork],
        not_planned: NotPlanned,
    ) -> Result<(), Error> {
        let of = Of::run(self.conn(), run)?;
        for work in ended {
            let url = if work.url.is_empty() { &work.key } else { &work.url };
            let mut prints: BTreeSet<String> = work.fingerprints.iter().cloned().collect();
            prints.extend(tied_to(self.conn(), &of, url)?);
            let tie = NewTie {
                kind: self.kind_of(&of, url)?,
                destination: destination.to_owned(),
                url: url.clone(),
                key: work.key.clone(),
                state: state_of(work.how),
            };
            for print in &prints {
                if self.put_tie(&of, run, &tie, url, print)? {
                    self.ended(&of, run, &tie, print, not_planned)?;
                }
            }
        }
        Ok(())
    }

    /// As it was tied; a journal that was restored may know nothing, and then the address tells.
    fn kind_of(&self, of: &Of, url: &str) -> Result<TieKind, Error> {
        let known: Option<String> = self
            .conn()
            .prepare_cached(
                "SELECT kind FROM ties WHERE pipeline = ?1 AND profile = ?2 AND effects = ?3 AND url = ?4 LIMIT 1",
            )?
            .query_row(params![of.pipeline, of.profile, of.effects, url], |row| row.get(0))
            .optional()?;
        match known {
            Some(known) => word(&known),
            None if url.contains("/pull/") => Ok(TieKind::PullRequest),
            None => Ok(TieKind::Ticket),
        }
    }

    /// What the end of a ticket or pull request means for one of its findings.
    fn ended(
        &self,
        of: &Of,
        run: &RunId,
        tie: &NewTie,
        fingerprint: &str,
        not_planned: NotPlanned,
    ) -> Result<(), Error> {
        let now = micros(self.now());
        match (tie.kind, tie.state) {
            (TieKind::PullRequest, TieState::Merged) | (TieKind::Ticket, TieState::Closed | TieState::Merged) => {
                self.conn()
                    .prepare_cached(
                        "UPDATE findings SET fixed_kind = ?5, fixed_url = ?6, fixed_at = ?7,
                             state = iif(state = 'muted' AND (muted_until IS NULL OR muted_until > ?7), 'muted', 'fixed'),
                             run = ?8
                         WHERE pipeline = ?1 AND profile = ?2 AND effects = ?3 AND fingerprint = ?4",
                    )?
                    .execute(params![
                        of.pipeline,
                        of.profile,
                        of.effects,
                        fingerprint,
                        tie.kind.as_str(),
                        tie.url,
                        now,
                        run.as_str(),
                    ])?;
            }
            (TieKind::Ticket, TieState::NotPlanned) if not_planned == NotPlanned::Mute => {
                // A mute that a person chose has its own reason and end.
                self.conn()
                    .prepare_cached(
                        "UPDATE findings SET state = 'muted', muted_until = NULL, reason = ?5, by = ?6
                         WHERE pipeline = ?1 AND profile = ?2 AND effects = ?3 AND fingerprint = ?4
                             AND (state <> 'muted' OR muted_until <= ?7)",
                    )?
                    .execute(params![
                        of.pipeline,
                        of.profile,
                        of.effects,
                        fingerprint,
                        format!("closed as not planned: {}", tie.url),
                        tie.destination,
                        now,
                    ])?;
            }
            // A person closed the draft, or nobody looked at it: the finding is as it was.
            (TieKind::PullRequest | TieKind::Slack, _) => {}
            (TieKind::Ticket, TieState::Open | TieState::Expired | TieState::NotPlanned) => {}
        }
        Ok(())
    }

    fn feedback(&mut self, id: &str, word: FeedbackWord, by: &str) -> Result<bool, Error> {
        let now = micros(self.now());
        self.conn()
            .prepare_cached("INSERT INTO feedback (id, word, by, at, applied) VALUES (?1, ?2, ?3, ?4, 0)")?
            .execute(params![id, word.as_str(), by, now])?;
        self.apply_feedback(id)
    }

    /// Whether anybody said something of a finding that was not there.
    pub(super) fn feedback_waits(&self) -> Result<bool, Error> {
        Ok(self.conn().prepare_cached("SELECT 1 FROM feedback WHERE applied = 0 LIMIT 1")?.exists([])?)
    }

    /// Does what people said of this finding, if it is there.
    pub(super) fn apply_feedback(&self, id: &str) -> Result<bool, Error> {
        if !self.conn().prepare_cached("SELECT 1 FROM findings WHERE id = ?1")?.exists([id])? {
            return Ok(false);
        }
        let said: Vec<(String, String)> = {
            let mut statement = self
                .conn()
                .prepare_cached("SELECT word, by FROM feedback WHERE id = ?1 AND applied = 0 ORDER BY no")?;
            let rows = statement.query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<Result<_, _>>()?
        };
        for (said, by) in said {
            match word(&said)? {
                FeedbackWord::WontFix => {
                    self.mute_finding(id, None, WONT_FIX, &by)?;
                }
                FeedbackWord::WrongCause => {
                    self.conn().prepare_cached("UPDATE findings SET again = 1 WHERE id = ?1")?.execute([id])?;
                }
            }
        }
        self.conn().prepare_cached("UPDATE feedback SET applied = 1 WHERE id = ?1")?.execute([id])?;
        Ok(true)
    }
}

fn state_of(how: WorkEnd) -> TieState {
    match how {
        WorkEnd::Merged => TieState::Merged,
        WorkEnd::Closed => TieState::Closed,
        WorkEnd::NotPlanned => TieState::NotPlanned,
        WorkEnd::Expired => TieState::Expired,
    }
}

/// Fingerprints that are tied to this address.
fn tied_to(conn: &Connection, of: &Of, url: &str) -> Result<BTreeSet<String>, Error> {
    let mut statement = conn.prepare_cached(
        "SELECT DISTINCT fingerprint FROM ties WHERE pipeline = ?1 AND profile = ?2 AND effects = ?3 AND url = ?4",
    )?;
    let rows = statement.query_map(params![of.pipeline, of.profile, of.effects, url], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// These fingerprints and all that are one with any of them.
fn same(conn: &Connection, of: &Of, fingerprints: &[String]) -> Result<BTreeSet<String>, Error> {
    let mut statement = conn.prepare_cached(
        "SELECT other.fingerprint FROM sames AS own JOIN sames AS other
             ON other.pipeline = own.pipeline AND other.profile = own.profile AND other.effects = own.effects
                 AND other.root = own.root
         WHERE own.pipeline = ?1 AND own.profile = ?2 AND own.effects = ?3 AND own.fingerprint = ?4",
    )?;
    let mut found: BTreeSet<String> = fingerprints.iter().cloned().collect();
    for fingerprint in fingerprints {
        let rows = statement.query_map(params![of.pipeline, of.profile, of.effects, fingerprint], |row| row.get(0))?;
        for print in rows {
            found.insert(print?);
        }
    }
    Ok(found)
}

/// Adds to lines of the ledger what they are tied to, are one with, and what was said of them.
pub(super) fn add_to(conn: &Connection, lines: &mut [FindingLine]) -> Result<(), Error> {
    let mut ties = conn.prepare_cached(
        "SELECT kind, destination, url, key, state, run, at FROM ties
         WHERE pipeline = ?1 AND profile = ?2 AND effects = ?3 AND fingerprint = ?4 ORDER BY at DESC, kind, url",
    )?;
    let mut feedback = conn.prepare_cached("SELECT word, by, at FROM feedback WHERE id = ?1 ORDER BY no DESC")?;
    for line in lines {
        let mut rows = ties.query(params![line.pipeline, line.profile, line.effects.as_str(), line.fingerprint])?;
        while let Some(row) = rows.next()? {
            line.ties.push(Tie {
                kind: word(&row.get::<_, String>(0)?)?,
                destination: row.get(1)?,
                url: row.get(2)?,
                key: row.get(3)?,
                state: word(&row.get::<_, String>(4)?)?,
                run: row.get(5)?,
                at: from_micros(row.get(6)?)?,
            });
        }
        let mut rows = feedback.query([&line.id])?;
        while let Some(row) = rows.next()? {
            line.feedback.push(Feedback {
                word: word(&row.get::<_, String>(0)?)?,
                by: row.get(1)?,
                at: from_micros(row.get(2)?)?,
            });
        }
        let of = Of { pipeline: line.pipeline.clone(), profile: line.profile.clone(), effects: line.effects.clone() };
        let group = same(conn, &of, std::slice::from_ref(&line.fingerprint))?;
        line.same_as = group.into_iter().filter(|print| *print != line.fingerprint).collect();
    }
    Ok(())
}

impl Journal {
    /// Findings of this run's pipeline, profile and effects are tied to something outside. Several of one ticket or pull request
    /// are the same from now on.
    pub async fn tie(&self, run: &RunId, tie: NewTie, fingerprints: Vec<String>) -> Result<(), Error> {
        let run = run.clone();
        let tie = NewTie { url: self.redact_text(&tie.url), key: self.redact_text(&tie.key), ..tie };
        self.ask(move |store| store.tie(&run, &tie, &fingerprints)).await
    }

    /// What `destination` says has become of what this pipeline published there. Each end counts once.
    pub async fn tended(
        &self,
        run: &RunId,
        destination: &str,
        ended: Vec<EndedWork>,
        not_planned: NotPlanned,
    ) -> Result<(), Error> {
        let (run, destination) = (run.clone(), destination.to_owned());
        self.ask(move |store| store.tended(&run, &destination, &ended, not_planned)).await
    }

    /// A person's click on a finding. False: the ledger does not know it yet; it is then done as soon as a run tells of it.
    ///
    /// `id` is whole, as [`crate::policy::findings::is_id`] says.
    pub async fn feedback(&self, id: &str, word: FeedbackWord, by: &str) -> Result<bool, Error> {
        let (id, by) = (id.to_owned(), by.to_owned());
        self.ask(move |store| store.feedback(&id, word, &by)).await
    }
}

impl Reader {
    /// These fingerprints and all that are one with any of them in the run's ledger. Sorted.
    pub fn same_findings(&self, run: &RunId, fingerprints: &[String]) -> Result<Vec<String>, Error> {
        self.with(|conn, _| Ok(same(conn, &Of::run(conn, run)?, fingerprints)?.into_iter().collect()))
    }
}
