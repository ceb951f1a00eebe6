//! A run as people see it: [`RunView`], assembled from its entries and calls. Nothing of it is stored.

use std::collections::{BTreeMap, HashMap, HashSet};

use rusqlite::Connection;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::blobs::Blobs;
use super::entries::{Stored, word};
use super::error::Error;
use super::from_micros;
use super::grants::spends;
use super::reader::Reader;
use super::replay::ancestors;
use super::runs::start;
use crate::base::clock::Timestamp;
use crate::base::money::UsdMicros;
use crate::domain::activity::{Complaint, Receipt};
use crate::domain::entry::{EntryKind, StepEnd};
use crate::domain::money::Payee;
use crate::domain::proposal::Published;
use crate::domain::report::{InternStats, Report};
use crate::domain::run::Failure;
use crate::domain::view::{RunView, StepView};

impl Reader {
    /// One run whole, by its id, the beginning or end of it, or its short form. `Error::Ambiguous` when several fit.
    pub fn run(&self, id_or_prefix: &str) -> Result<Option<RunView>, Error> {
        self.with(|conn, blobs| {
            let Some(id) = self.find(conn, id_or_prefix)? else { return Ok(None) };
            let no = self.no(conn, &id)?.ok_or(Error::NoRun(id))?;
            view(conn, blobs, no).map(Some)
        })
    }
}

fn view(conn: &Connection, blobs: &Blobs, no: i64) -> Result<RunView, Error> {
    let mut statement = conn.prepare_cached(
        "SELECT e.payload, e.blob, r.outcome, r.failure, r.finished_at, r.added
         FROM runs r JOIN entries e ON e.seq = r.first_seq WHERE r.no = ?1",
    )?;
    let mut rows = statement.query([no])?;
    let row = rows.next()?.ok_or_else(|| Error::record("of a run", "no row"))?;
    let failure: Option<String> = row.get(3)?;
    let mut view = RunView {
        start: start(Stored::from_row(row, 0, 1)?, blobs)?,
        outcome: row.get::<_, Option<String>>(2)?.map(|text| word(&text)).transpose()?,
        failure: failure.map(|text| read::<Failure>(&text, "failure")).transpose()?,
        finished_at: row.get::<_, Option<i64>>(4)?.map(from_micros).transpose()?,
        added: UsdMicros(row.get(5)?),
        spend: spends(conn, "c.run = ?1", &[&no])?.remove(&no).unwrap_or_default(),
        activities: 0,
        counts: BTreeMap::new(),
        complaints: Vec::new(),
        refused: Vec::new(),
        receipts: Vec::new(),
        steps: Vec::new(),
        models: Vec::new(),
        interns: InternStats::default(),
        figures_checked: 0,
        sentences_dropped: 0,
        questions: Vec::new(),
        reports: Vec::new(),
    };
    let mut timeline = Timeline::default();
    entries(conn, blobs, no, &mut view, &mut timeline)?;
    calls(conn, no, &mut view, &mut timeline)?;
    timeline.finish(&mut view);
    Ok(view)
}

fn read<'a, T: Deserialize<'a>>(text: &'a str, what: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|error| Error::record(format!("of a run's {what}"), error))
}

/// The spans in the order in which they began.
#[derive(Default)]
struct Timeline {
    spans: Vec<Line>,
    by_path: HashMap<String, usize>,
}

#[derive(Default)]
struct Line {
    step: StepView,
    child: bool,
}

impl Timeline {
    fn line(&mut self, path: &str) -> &mut Line {
        let at = *self.by_path.entry(path.to_owned()).or_insert_with(|| {
            self.spans.push(Line { step: StepView { path: path.to_owned(), ..StepView::default() }, child: false });
            self.spans.len() - 1
        });
        &mut self.spans[at]
    }

    fn started(&mut self, path: &str, kind: String, title: String, child: bool, at: Timestamp) {
        let line = self.line(path);
        // A span that was interrupted began when it first did; one that is opened again begins anew.
        let began = if line.step.finished_at.is_some() { None } else { line.step.started_at };
        line.child = child;
        line.step = StepView {
            path: path.to_owned(),
            kind,
            summary: title,
            started_at: Some(began.unwrap_or(at)),
            ..StepView::default()
        };
    }

    fn finished(&mut self, path: &str, end: StepEnd, child: bool, at: Timestamp) {
        let line = self.line(path);
        line.child |= child;
        line.step.outcome = end.result.get("outcome").and_then(Value::as_str).map(str::to_owned);
        line.step.reason = end.reason;
        line.step.finished_at = Some(at);
        if !end.summary.is_empty() {
            line.step.summary = end.summary;
        }
    }

    /// A person goes on with what ended badly.
    fn resumed(&mut self) {
        for Line { step, .. } in &mut self.spans {
            if matches!(step.outcome.as_deref(), Some("failed" | "capped" | "blocked")) {
                step.outcome = None;
                step.reason = None;
                step.finished_at = None;
            }
        }
    }

    /// Books a call on every span that holds it.
    fn call(&mut self, path: &str, payee: Payee, cost: UsdMicros) {
        for holder in ancestors(path).chain([path]) {
            let Some(at) = self.by_path.get(holder) else { continue };
            let step = &mut self.spans[*at].step;
            step.cost += cost;
            match payee {
                Payee::Boss => step.boss_calls += 1,
                Payee::Intern => step.intern_calls += 1,
                Payee::Reviewer | Payee::Sandbox => {}
            }
        }
    }

    /// As a tree: what a span holds follows it, in the order in which it began.
    fn finish(mut self, view: &mut RunView) {
        for line in self.spans.iter().filter(|line| line.child) {
            if let Some(outcome) = &line.step.outcome {
                *view.counts.entry(outcome.clone()).or_default() += 1;
            }
        }
        let mut below: HashMap<Option<usize>, Vec<usize>> = HashMap::new();
        for (at, line) in self.spans.iter().enumerate() {
            let holder = ancestors(&line.step.path).filter_map(|above| self.by_path.get(above).copied()).last();
            below.entry(holder).or_default().push(at);
        }
        let mut todo: Vec<(usize, u32)> =
            below.remove(&None).unwrap_or_default().into_iter().rev().map(|at| (at, 0)).collect();
        while let Some((at, depth)) = todo.pop() {
            let mut step = std::mem::take(&mut self.spans[at].step);
            step.depth = depth;
            view.steps.push(step);
            todo.extend(below.remove(&Some(at)).unwrap_or_default().into_iter().rev().map(|at| (at, depth + 1)));
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Started {
    kind: String,
    title: String,
    key: String,
    number: u32,
    of: u32,
}

#[derive(Deserialize)]
struct Intention {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    report: Option<Report>,
}

fn entries(
    conn: &Connection,
    blobs: &Blobs,
    no: i64,
    view: &mut RunView,
    timeline: &mut Timeline,
) -> Result<(), Error> {
    // Outputs can be large and only receipts are looked at: those are fetched by number.
    let mut statement = conn.prepare_cached(
        "SELECT seq, kind, path, at, kind <> 'activity_done',
             CASE WHEN kind <> 'activity_done' THEN payload END, blob
         FROM entries WHERE run = ?1 AND kind NOT IN ('message', 'run_started', 'signal', 'run_finished')
         ORDER BY seq",
    )?;
    let mut output = conn.prepare_cached("SELECT payload, blob FROM entries WHERE seq = ?1")?;
    let mut rows = statement.query([no])?;
    let mut ended: HashSet<String> = HashSet::new();
    // By path: a repeated delivery or publication counts once.
    let mut delivering: HashSet<String> = HashSet::new();
    let mut publishing: HashSet<String> = HashSet::new();
    let mut receipts: Vec<(String, Receipt)> = Vec::new();
    while let Some(row) = rows.next()? {
        let kind: EntryKind = word(row.get_ref(1)?.as_str().unwrap_or_default())?;
        let path: String = row.get(2)?;
        let at = from_micros(row.get(3)?)?;
        let text = if row.get(4)? { Stored::from_row(row, 5, 6)?.text(blobs)? } else { String::new() };
        match kind {
            EntryKind::StepStarted => {
                let started: Started = read(&text, "step")?;
                timeline.started(&path, started.kind, String::new(), false, at);
            }
            EntryKind::ChildStarted => {
                let Started { title, key, number, of, .. } = read(&text, "child")?;
                timeline.started(&path, "item".to_owned(), if title.is_empty() { key } else { title }, true, at);
                timeline.line(&path).step.place = (of > 0).then_some((number, of));
            }
            EntryKind::StepFinished | EntryKind::ChildFinished => {
                timeline.finished(&path, read(&text, "step")?, kind == EntryKind::ChildFinished, at);
            }
            EntryKind::ActivityIntended => {
                let intention: Intention = read(&text, "intention")?;
                if intention.report.as_ref().is_some_and(|report| report.question.is_some()) {
                    // A question stands among the questions; it is no result.
                } else if intention.kind == "deliver" {
                    view.reports.extend(intention.report.filter(|report| !view.reports.contains(report)));
                    delivering.insert(path);
                } else if intention.kind == "publish" {
                    publishing.insert(path);
                }
            }
            EntryKind::ActivityDone => {
                let published = publishing.contains(&path);
                if published || delivering.contains(&path) {
                    let mut rows = output.query([row.get::<_, i64>(0)?])?;
                    let found = rows.next()?.ok_or_else(|| Error::record("of a receipt", "no row"))?;
                    let text = Stored::from_row(found, 0, 1)?.text(blobs)?;
                    receipts.retain(|(known, _)| *known != path);
                    if published {
                        let published: Published = read(&text, "publication")?;
                        // What a person closed, or a cap held back, is no work of this run.
                        if published.state.is_there() {
                            receipts.push((path.clone(), published.receipt));
                        }
                    } else {
                        receipts.push((path.clone(), read(&text, "receipt")?));
                    }
                }
                ended.insert(path);
            }
            EntryKind::ActivityFailed => {
                ended.insert(path);
            }
            EntryKind::Complaint => {
                let complaint: Complaint = read(&text, "complaint")?;
                if !view.complaints.contains(&complaint) {
                    view.complaints.push(complaint);
                }
            }
            EntryKind::Note => note(&read(&text, "note")?, view),
            EntryKind::Asked => {
                let asked: Map<String, Value> = read(&text, "question")?;
                view.questions.retain(|(known, _)| *known != path);
                // What the step asks stands below the name of the signal that it waits for.
                let ask = asked.get("ask").and_then(Value::as_object).and_then(|ask| ask.get("ask")?.as_str());
                let ask = ask.map_or_else(|| words(&asked, &["ask", "name"]), str::to_owned);
                view.questions.push((path, ask));
            }
            EntryKind::Value => view.questions.retain(|(known, _)| *known != path),
            EntryKind::RunResumed => {
                let resumed: Map<String, Value> = read(&text, "resumption")?;
                if resumed.get("person").and_then(Value::as_bool) == Some(true) {
                    timeline.resumed();
                }
            }
            EntryKind::RunStarted | EntryKind::RunFinished | EntryKind::Signal | EntryKind::Message => {}
        }
    }
    view.activities = ended.len() as u64;
    view.receipts = receipts.into_iter().map(|(_, receipt)| receipt).collect();
    if view.outcome.is_some() {
        view.questions.clear();
    }
    Ok(())
}

/// The first of these fields that is a text, else all of it.
fn words(details: &Map<String, Value>, keys: &[&str]) -> String {
    let text = keys.iter().find_map(|key| details.get(*key).and_then(Value::as_str));
    text.map_or_else(|| Value::Object(details.clone()).to_string(), str::to_owned)
}

fn note(details: &Map<String, Value>, view: &mut RunView) {
    let flag = |key: &str| details.get(key).and_then(Value::as_bool);
    match details.get("note").and_then(Value::as_str).unwrap_or_default() {
        "refused" => {
            let refused = words(details, &["text", "message", "reason", "what"]);
            if !view.refused.contains(&refused) {
                view.refused.push(refused);
            }
        }
        "escalated" => view.interns.escalated += 1,
        "audited" => {
            view.interns.audited += 1;
            view.interns.disagreed += u32::from(flag("agreed") == Some(false));
        }
        "interns_saved" => view.interns.saved_usd += details.get("usd").and_then(Value::as_f64).unwrap_or_default(),
        "figures_checked" => {
            let n = details.get("n").and_then(Value::as_u64).unwrap_or_default();
            view.figures_checked = view.figures_checked.saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
        }
        "sentence_dropped" => view.sentences_dropped += 1,
        // Other notes are for the log.
        _ => {}
    }
}

fn calls(conn: &Connection, no: i64, view: &mut RunView, timeline: &mut Timeline) -> Result<(), Error> {
    let mut statement = conn.prepare_cached(
        "SELECT path, role, model, coalesce(settled, granted) FROM calls WHERE run = ?1 ORDER BY intended",
    )?;
    let mut rows = statement.query([no])?;
    let mut items: HashSet<String> = HashSet::new();
    while let Some(row) = rows.next()? {
        let (path, model): (String, String) = (row.get(0)?, row.get(2)?);
        let payee: Payee = word(row.get_ref(1)?.as_str().unwrap_or_default())?;
        timeline.call(&path, payee, UsdMicros(row.get(3)?));
        if payee.role().is_some() && !view.models.contains(&model) {
            view.models.push(model);
        }
        if payee == Payee::Intern {
            // A correction is another call for the same item: what they share is the context they are made in.
            let item = match path.rsplit_once('/') {
                Some((context, label)) if !label.ends_with(']') => context,
                _ => &path,
            };
            items.insert(item.to_owned());
        }
    }
    view.interns.items = u32::try_from(items.len()).unwrap_or(u32::MAX);
    Ok(())
}
