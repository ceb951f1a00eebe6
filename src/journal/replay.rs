//! What a run that is taken up again has to know: the records that still count, by path.
//!
//! Pure selection over a run's entries in their order; whether a record fits what logic asks is the engine's judgement.
//!
//! After a person's resume the run may go another way than before: spans that ended badly are open again, and so is all that
//! holds them; skipped and closing steps are judged anew; failures are forgotten. In spans that were blocked, and in
//! closing ones, what was merely read is read anew as well, or the same old answer would block them again. The same goes for what
//! the run itself read when it was blocked before its steps: the code whose environment did not work.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rusqlite::Connection;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::blobs::Blobs;
use super::entries::{Stored, hash, word};
use super::error::Error;
use super::grants::spends;
use super::reader::Reader;
use super::runs::{open_runs, start};
use crate::base::hash::Hash;
use crate::base::ids::RunId;
use crate::base::money::UsdMicros;
use crate::domain::entry::EntryKind;
use crate::domain::money::Spend;
use crate::domain::run::RunStart;
use crate::ports::durable::Stop;

/// The records of one run that count.
#[derive(Clone, Debug, Default)]
pub struct ReplayRecords {
    /// By path; the newest attempt. What lies below a finished span is left out.
    pub records: HashMap<String, Record>,
    /// Number of the last `RunResumed` by which a person reopened the run; 0: none. Records before it count where path and
    /// input fit and are superseded where they do not.
    pub resumed_at: i64,
    /// The binary that worked on the run last.
    pub build_id_of_last: String,
    /// By `resume --add-usd`.
    pub added: UsdMicros,
    pub spend: Spend,
    /// Questions without an answer: the payload of `Asked` by path.
    pub asked: HashMap<String, Arc<RawValue>>,
    /// How many notes, complaints and messages (counted together) were written at a path, in program order: so many are
    /// not written again.
    pub written: HashMap<String, u32>,
    /// Attempt and number of the newest entry at paths where they do not follow from the record.
    tries: HashMap<String, (u32, i64)>,
}

/// What is known of one path.
#[derive(Clone, Debug)]
pub enum Record {
    Done {
        output: Arc<RawValue>,
        input: Option<Hash>,
        seq: i64,
    },
    /// `stop` is a serialised `ports::durable::Stop`.
    Failed {
        stop: Arc<RawValue>,
        input: Option<Hash>,
        seq: i64,
    },
    /// Begun and not ended: ambiguous.
    Intended {
        seq: i64,
        input: Option<Hash>,
    },
    /// The `StepEnd` of a step or child.
    Finished(Arc<RawValue>),
    Value(Arc<RawValue>),
}

impl ReplayRecords {
    /// What a new try at this path has to say: its attempt, and the number of the entry that it supersedes.
    pub fn next_attempt(&self, path: &str) -> (u32, Option<i64>) {
        match (self.tries.get(path), self.records.get(path)) {
            (Some((attempt, seq)), _) => (attempt + 1, Some(*seq)),
            (None, Some(Record::Done { seq, .. } | Record::Failed { seq, .. } | Record::Intended { seq, .. })) => {
                (2, Some(*seq))
            }
            (None, Some(Record::Finished(_) | Record::Value(_)) | None) => (1, None),
        }
    }
}

/// The paths above `path`, without itself.
pub(super) fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices(['/', '[']).map(|(at, _)| &path[..at])
}

/// One entry, with its payload where replay needs it.
struct Row {
    seq: i64,
    kind: EntryKind,
    path: String,
    attempt: u32,
    input: Option<Hash>,
    payload: Option<Stored>,
}

struct Draft {
    seq: i64,
    attempt: u32,
    input: Option<Hash>,
    kind: EntryKind,
    payload: Option<Stored>,
}

#[derive(Default)]
struct Span {
    /// Runs after failures, to report: its `StepStarted` says so.
    closing: bool,
    started: i64,
    ended: Option<(i64, Stored)>,
}

/// Why an ended span is open again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reopened {
    /// What was read stays.
    Keep,
    /// It was skipped: whether it still is follows from what stays, also that nobody answered in time.
    Judge,
    /// What was read is read anew.
    Afresh,
}

#[derive(Default)]
struct Collector {
    drafts: HashMap<String, Draft>,
    /// Paths of activities that cost money or act outside.
    guarded: HashSet<String>,
    spans: HashMap<String, Span>,
    asked: HashMap<String, Stored>,
    written: HashMap<String, u32>,
    resumed_at: i64,
    build_id: Option<String>,
}

#[derive(Deserialize)]
struct Resumed {
    #[serde(default)]
    person: bool,
    build_id: Option<String>,
}

#[derive(Default, Deserialize)]
struct Started {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    closing: bool,
}

#[derive(Deserialize)]
struct Ended {
    result: EndedResult,
}

#[derive(Deserialize)]
struct EndedResult {
    #[serde(default)]
    outcome: String,
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str, seq: i64) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|error| Error::record(format!("number {seq}"), error))
}

impl Collector {
    fn take(&mut self, row: Row, blobs: &Blobs) -> Result<(), Error> {
        let seq = row.seq;
        let text = |payload: Option<Stored>| match payload {
            Some(stored) => stored.text(blobs),
            None => Ok("{}".to_owned()),
        };
        match row.kind {
            EntryKind::RunResumed => {
                let text = text(row.payload)?;
                let resumed: Resumed = parse(&text, seq)?;
                if resumed.person {
                    self.resumed_at = seq;
                }
                self.build_id = resumed.build_id.or(self.build_id.take());
            }
            EntryKind::StepStarted | EntryKind::ChildStarted => {
                let text = text(row.payload)?;
                let started: Started = parse(&text, seq)?;
                let span = self.spans.entry(row.path).or_default();
                span.closing = started.closing || started.kind == "report";
                span.started = seq;
            }
            EntryKind::StepFinished | EntryKind::ChildFinished => {
                if let Some(payload) = row.payload {
                    self.spans.entry(row.path).or_default().ended = Some((seq, payload));
                }
            }
            EntryKind::ActivityIntended | EntryKind::ActivityDone | EntryKind::ActivityFailed | EntryKind::Value => {
                if row.kind == EntryKind::ActivityIntended {
                    self.guarded.insert(row.path.clone());
                }
                let Row { path, attempt, input, kind, payload, .. } = row;
                self.drafts.insert(path, Draft { seq, attempt, input, kind, payload });
            }
            EntryKind::Asked => {
                if let Some(payload) = row.payload {
                    self.asked.insert(row.path, payload);
                }
            }
            EntryKind::Note | EntryKind::Complaint | EntryKind::Message => {
                *self.written.entry(row.path).or_default() += 1;
            }
            EntryKind::RunStarted | EntryKind::RunFinished | EntryKind::Signal => {}
        }
        Ok(())
    }

    /// Ended spans that are open again, with everything that holds a span that ended badly.
    fn reopened(&self, blobs: &Blobs) -> Result<HashMap<String, Reopened>, Error> {
        let mut reopened = HashMap::new();
        let mut holders = Vec::new();
        for (path, span) in &self.spans {
            let Some((seq, end)) = span.ended.as_ref().filter(|(seq, _)| *seq < self.resumed_at) else { continue };
            let text = end.clone().text(blobs)?;
            let ended: Ended = parse(&text, *seq)?;
            let why = match ended.result.outcome.as_str() {
                "failed" | "capped" if !span.closing => Reopened::Keep,
                "skipped" if !span.closing => Reopened::Judge,
                "blocked" => Reopened::Afresh,
                _ if span.closing => Reopened::Afresh,
                _ => continue,
            };
            if matches!(ended.result.outcome.as_str(), "failed" | "capped" | "blocked") {
                holders.extend(ancestors(path).map(str::to_owned));
            }
            reopened.insert(path.clone(), why);
        }
        for path in holders {
            reopened.entry(path).or_insert(Reopened::Keep);
        }
        Ok(reopened)
    }

    fn finish(
        mut self,
        blobs: &Blobs,
        first_build: &str,
        added: UsdMicros,
        spend: Spend,
    ) -> Result<ReplayRecords, Error> {
        let resumed_at = self.resumed_at;
        let reopened = if resumed_at > 0 { self.reopened(blobs)? } else { HashMap::new() };
        let mut found = ReplayRecords {
            resumed_at,
            build_id_of_last: self.build_id.take().unwrap_or_else(|| first_build.to_owned()),
            added,
            spend,
            written: std::mem::take(&mut self.written),
            ..ReplayRecords::default()
        };

        let stands = |path: &str, span: &Span| {
            span.ended
                .as_ref()
                .is_some_and(|(seq, _)| *seq > span.started && !(*seq < resumed_at && reopened.contains_key(path)))
        };
        let standing: HashSet<&str> =
            self.spans.iter().filter(|(path, span)| stands(path, span)).map(|(path, _)| path.as_str()).collect();
        let hidden = |path: &str| ancestors(path).any(|above| standing.contains(above));
        // The innermost span that had ended decides what of its content is out of date.
        let why = |path: &str| {
            let ended = |above: &&str| self.spans.get(*above).is_some_and(|span| span.ended.is_some());
            ancestors(path).filter(ended).last().and_then(|above| reopened.get(above).copied())
        };

        // What the run itself asked for, beside its steps.
        let is_own = |path: &str| ancestors(path).next().is_none();
        let mut blocked = false;
        for (path, draft) in &self.drafts {
            if draft.kind == EntryKind::ActivityFailed && draft.seq < resumed_at && is_own(path) {
                let stop = draft.payload.clone().map(|payload| payload.text(blobs)).transpose()?;
                blocked |= matches!(stop.map(|stop| serde_json::from_str(&stop)), Some(Ok(Stop::Blocked(_))));
            }
        }
        let out_of_date = |path: &str| why(path) == Some(Reopened::Afresh) || (blocked && is_own(path));

        // A question that nobody answered in time is asked again, with a new time: the engine keeps that beside it.
        let unanswered = |path: &str| {
            let draft = self.drafts.get(path.strip_suffix("-expires").unwrap_or(path));
            draft.is_some_and(|draft| {
                draft.kind == EntryKind::Value
                    && matches!(&draft.payload, Some(Stored::Inline(text)) if text == "null")
                    && self.asked.contains_key(path.strip_suffix("-expires").unwrap_or(path))
            })
        };
        let expired: HashSet<String> = self.drafts.keys().filter(|path| unanswered(path)).cloned().collect();
        for (path, draft) in self.drafts.drain() {
            if hidden(&path) {
                continue;
            }
            let Draft { seq, attempt, input, kind, payload } = draft;
            let old = seq < resumed_at;
            let dropped = old
                && match kind {
                    EntryKind::ActivityFailed => true,
                    EntryKind::ActivityDone => !self.guarded.contains(&path) && out_of_date(&path),
                    EntryKind::Value => match why(&path) {
                        Some(Reopened::Afresh) => true,
                        Some(Reopened::Keep) => expired.contains(&path),
                        Some(Reopened::Judge) | None => false,
                    },
                    _ => false,
                };
            if kind == EntryKind::Value {
                // Answered, or out of date: in both cases no longer open.
                self.asked.remove(&path);
            }
            if (dropped || attempt > 1) && kind != EntryKind::Value {
                found.tries.insert(path.clone(), (attempt, seq));
            }
            if dropped {
                continue;
            }
            let payload = || -> Result<Arc<RawValue>, Error> {
                let missing = || Error::record(format!("number {seq}"), "it has no payload");
                Ok(Arc::from(payload.ok_or_else(missing)?.raw(blobs)?))
            };
            let record = match kind {
                EntryKind::ActivityDone => Record::Done { output: payload()?, input, seq },
                EntryKind::ActivityFailed => Record::Failed { stop: payload()?, input, seq },
                EntryKind::ActivityIntended => Record::Intended { seq, input },
                _ => Record::Value(payload()?),
            };
            found.records.insert(path, record);
        }
        for (path, asked) in self.asked.drain() {
            if !hidden(&path) {
                found.asked.insert(path, Arc::from(asked.raw(blobs)?));
            }
        }
        for path in &standing {
            if let Some((_, end)) = self.spans.get(*path).and_then(|span| span.ended.as_ref())
                && !hidden(path)
            {
                found.records.insert((*path).to_owned(), Record::Finished(Arc::from(end.clone().raw(blobs)?)));
            }
        }
        Ok(found)
    }
}

/// Payloads are left where they are unless replay looks at them: transcripts are the bulk of a journal.
fn collect(conn: &Connection, blobs: &Blobs, run: i64) -> Result<Collector, Error> {
    let mut statement = conn.prepare_cached(
        "SELECT seq, kind, path, attempt, input,
             CASE WHEN kind IN ('run_started', 'activity_intended', 'note', 'complaint', 'message', 'signal', 'run_finished')
                 THEN 0 ELSE 1 END AS needed,
             CASE WHEN kind IN ('run_started', 'activity_intended', 'note', 'complaint', 'message', 'signal', 'run_finished')
                 THEN NULL ELSE payload END,
             blob
         FROM entries WHERE run = ?1 ORDER BY seq",
    )?;
    let mut rows = statement.query([run])?;
    let mut collector = Collector::default();
    while let Some(row) = rows.next()? {
        let needed: bool = row.get(5)?;
        let entry = Row {
            seq: row.get(0)?,
            kind: word(row.get_ref(1)?.as_str().unwrap_or_default())?,
            path: row.get(2)?,
            attempt: row.get(3)?,
            input: row.get_ref(4)?.as_str_or_null().map_err(rusqlite::Error::from)?.map(hash).transpose()?,
            payload: if needed { Some(Stored::from_row(row, 6, 7)?) } else { None },
        };
        collector.take(entry, blobs)?;
    }
    Ok(collector)
}

impl Reader {
    /// What replay of one run needs. `Error::NoRun` if there is none.
    pub fn replay(&self, run: &RunId) -> Result<ReplayRecords, Error> {
        self.with(|conn, blobs| {
            let no = self.no(conn, run)?.ok_or_else(|| Error::NoRun(run.clone()))?;
            let (added, first) = {
                let mut statement = conn.prepare_cached(
                    "SELECT r.added, e.payload, e.blob FROM runs r JOIN entries e ON e.seq = r.first_seq WHERE r.no = ?1",
                )?;
                statement.query_row([no], |row| Ok((UsdMicros(row.get(0)?), Stored::from_row(row, 1, 2))))?
            };
            let spend = spends(conn, "c.run = ?1", &[&no])?.remove(&no).unwrap_or_default();
            collect(conn, blobs, no)?.finish(blobs, &start(first?, blobs)?.build_id, added, spend)
        })
    }

    /// As [`Reader::replay`] for every open run, oldest first.
    pub fn replay_all_open(&self) -> Result<Vec<(RunStart, ReplayRecords)>, Error> {
        self.with(|conn, blobs| {
            let open = "c.run IN (SELECT no FROM runs WHERE outcome IS NULL)";
            let mut spends = spends(conn, open, &[])?;
            let mut added = conn.prepare_cached("SELECT added FROM runs WHERE no = ?1")?;
            let runs = open_runs(conn, blobs)?.into_iter().map(|(no, start)| {
                let added = UsdMicros(added.query_row([no], |row| row.get(0))?);
                let spend = spends.remove(&no).unwrap_or_default();
                let records = collect(conn, blobs, no)?.finish(blobs, &start.build_id, added, spend)?;
                Ok((start, records))
            });
            runs.collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::run::Failure;
    use serde_json::{Value, json};

    /// A run's entries in short: (kind, path, payload). Numbers count from 1.
    fn replayed(entries: &[(EntryKind, &str, Value)]) -> ReplayRecords {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::at(dir.path());
        let mut collector = Collector::default();
        for (n, (kind, path, payload)) in entries.iter().enumerate() {
            let payload = Some(Stored::Inline(payload.to_string()));
            let row =
                Row { seq: n as i64 + 1, kind: *kind, path: (*path).to_owned(), attempt: 1, input: None, payload };
            collector.take(row, &blobs).unwrap();
        }
        collector.finish(&blobs, "first", UsdMicros::ZERO, Spend::default()).unwrap()
    }

    /// `path: what`, sorted.
    fn shown(found: &ReplayRecords) -> Vec<String> {
        let mut lines: Vec<_> = found
            .records
            .iter()
            .map(|(path, record)| match record {
                Record::Done { output, seq, .. } => format!("{path}: done {output} #{seq}"),
                Record::Failed { stop, seq, .. } => format!("{path}: failed {stop} #{seq}"),
                Record::Intended { seq, .. } => format!("{path}: intended #{seq}"),
                Record::Finished(_) => format!("{path}: finished"),
                Record::Value(value) => format!("{path}: value {value}"),
            })
            .collect();
        lines.sort();
        lines
    }

    use EntryKind::{
        ActivityDone as Done, ActivityFailed as Failed, ActivityIntended as Intended, Asked, ChildFinished,
        ChildStarted, Note, RunResumed, StepFinished, StepStarted, Value as Val,
    };

    fn started(kind: &str) -> Value {
        json!({"kind": kind})
    }
    fn ended(outcome: &str) -> Value {
        json!({"result": {"ran": true, "outcome": outcome}})
    }
    fn person() -> (EntryKind, &'static str, Value) {
        (RunResumed, "", json!({"by": "cli", "person": true, "build_id": "second"}))
    }

    #[test]
    fn a_finished_span_hides_what_it_holds_and_an_intention_alone_is_ambiguous() {
        let found = replayed(&[
            (StepStarted, "data", started("fetch")),
            (Done, "data/a", json!(1)),
            (StepFinished, "data", ended("done")),
            (StepStarted, "each", started("each")),
            (ChildStarted, "each[k]", json!({"key": "k", "title": ""})),
            (Intended, "each[k]/call", json!({})),
            (Done, "each[k]/call", json!(2)),
            (ChildFinished, "each[k]", ended("failed")),
            (ChildStarted, "each[l]", json!({"key": "l", "title": ""})),
            (Intended, "each[l]/call", json!({})),
            (Failed, "each[l]/other", json!("x")),
            (Val, "each[l]/now", json!(7)),
            (Note, "each[l]", json!({"note": "n"})),
            (Asked, "each[l]/ask", json!({"ask": "?"})),
            (RunResumed, "", json!({"by": "engine", "person": false, "build_id": "next"})),
        ]);
        let expected = [
            "data: finished",
            "each[k]: finished",
            "each[l]/call: intended #10",
            "each[l]/now: value 7",
            "each[l]/other: failed \"x\" #11",
        ];
        assert_eq!(shown(&found), expected);
        assert_eq!((found.resumed_at, found.build_id_of_last.as_str()), (0, "next"));
        assert_eq!((found.written["each[l]"], found.asked.len()), (1, 1));
        assert_eq!(found.next_attempt("each[l]/call"), (2, Some(10)));
        assert_eq!(found.next_attempt("each[l]/new"), (1, None));
    }

    #[test]
    fn a_persons_resume_opens_what_ended_badly_with_all_that_holds_it() {
        let found = replayed(&[
            (StepFinished, "data", ended("done")),
            (StepStarted, "each", started("each")),
            (ChildStarted, "each[k]", json!({})),
            (Done, "each[k]/read", json!(1)),
            (Intended, "each[k]/call", json!({})),
            (Done, "each[k]/call", json!(2)),
            (Failed, "each[k]/next", json!("x")),
            (ChildFinished, "each[k]", ended("failed")),
            (StepFinished, "each[l]/draft", ended("skipped")),
            (ChildFinished, "each[l]", ended("done")),
            (StepFinished, "each", ended("done")),
            (StepFinished, "after", ended("skipped")),
            person(),
            (Failed, "each[k]/later", json!("y")),
        ]);
        let expected = [
            "data: finished",
            "each[k]/call: done 2 #6",
            "each[k]/later: failed \"y\" #14",
            "each[k]/read: done 1 #4",
            "each[l]: finished",
        ];
        assert_eq!(shown(&found), expected);
        assert_eq!((found.resumed_at, found.build_id_of_last.as_str()), (13, "second"));
        assert_eq!(found.next_attempt("each[k]/next"), (2, Some(7)));
    }

    #[test]
    fn what_was_blocked_or_closing_is_read_anew_and_paid_answers_stay() {
        let found = replayed(&[
            (StepStarted, "data", started("fetch")),
            (Val, "data/now", json!("early")),
            (Done, "data/rows", json!([])),
            (Intended, "data/call", json!({})),
            (Done, "data/call", json!("paid")),
            (StepFinished, "data", ended("blocked")),
            (StepStarted, "ask", started("approve")),
            (Val, "ask/answer-expires", json!("2026-11-20T12:00:00Z")),
            (Asked, "ask/answer", json!({"ask": "?"})),
            (Val, "ask/answer", json!(null)),
            (StepFinished, "ask", ended("failed")),
            (StepStarted, "optional", started("approve")),
            (Asked, "optional/answer", json!({"ask": "?"})),
            (Val, "optional/answer", json!(null)),
            (StepFinished, "optional", ended("skipped")),
            (StepStarted, "post", started("report")),
            (Done, "post/account", json!(1)),
            (Intended, "post/files", json!({})),
            (Done, "post/files", json!("receipt")),
            (StepFinished, "post", ended("done")),
            person(),
        ]);
        assert_eq!(
            shown(&found),
            ["data/call: done \"paid\" #5", "optional/answer: value null", "post/files: done \"receipt\" #19",]
        );
        assert!(found.asked.is_empty());
        let again = replayed(&[
            (StepStarted, "data", started("fetch")),
            (Done, "data/rows", json!([])),
            (StepFinished, "data", ended("blocked")),
            person(),
            (StepStarted, "data", started("fetch")),
            (Done, "data/rows", json!([1])),
        ]);
        assert_eq!(shown(&again), ["data/rows: done [1] #6"]);
    }

    #[test]
    fn a_run_that_was_blocked_by_its_environment_looks_at_its_code_anew() {
        let stop = |stop: Stop| serde_json::to_value(stop).unwrap();
        let blocked = stop(Stop::Blocked(Failure::new("E-ENVIRONMENT", "exit 1")));
        let run = |failed: Value| {
            shown(&replayed(&[
                (StepFinished, "data", ended("done")),
                (Done, "base-code", json!("old")),
                (Failed, "base-environment", failed),
                (StepFinished, "scan", ended("blocked")),
                (Done, "later/look", json!(1)),
                person(),
            ]))
        };
        assert_eq!(run(blocked), ["data: finished", "later/look: done 1 #5"]);
        let failed = stop(Stop::Failed(Failure::new("E-SANDBOX", "no room")));
        assert_eq!(run(failed), ["base-code: done \"old\" #2", "data: finished", "later/look: done 1 #5"]);
    }

    #[test]
    fn a_span_that_a_person_reopened_and_that_ended_well_stands() {
        let found = replayed(&[
            (StepStarted, "data", started("fetch")),
            (StepFinished, "data", ended("failed")),
            person(),
            (StepStarted, "data", started("fetch")),
            (Done, "data/rows", json!([1])),
            (StepFinished, "data", ended("done")),
            (StepFinished, "why", ended("capped")),
            person(),
            (StepStarted, "why", started("boss")),
        ]);
        assert_eq!(shown(&found), ["data: finished"]);
    }
}
