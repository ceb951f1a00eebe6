//! `scan`: findings of scanners over the repository, each with an identity that outlives moved lines.
//!
//! Scanners run in the sandbox, one after the other, each on a clean copy of the code. One that fails ends the step: what it did
//! not say is not gone. The ledger is kept per scanner, so that one that is added later has a first run of its own, and one that
//! is taken away has fixed nothing.

use serde_json::{Map, Value, json};

use crate::base::LocalBoxFuture;
use crate::domain::activity::{Activity, LinesRequest, Passage, Passages};
use crate::domain::entry::StepEnd;
use crate::domain::finding::{FindingsRequest, Handled, Seen};
use crate::expr::types::{Field, Type};
use crate::policy::scan::{self as rules, Found, Scanned};
use crate::ports::durable::Stop;
use crate::ports::step::{Checked, KindMistake, Opt, OptType, StepCall, StepKind, Work};

use super::model::mistake;
use super::{data, ledger, publish};
use command::{blocked, commands, scan};

mod command;

/// Lines of `source` above and below the line of a finding.
const AROUND: u32 = 3;

pub const KIND: StepKind = StepKind {
    name: "scan",
    summary: "scan the repository for findings",
    options: &[
        Opt { name: "sarif", ty: OptType::Commands, required: false, doc: "commands that print SARIF" },
        Opt { name: "cargo", ty: OptType::Commands, required: false, doc: "cargo commands that print JSON messages" },
        Opt {
            name: "jsonl",
            ty: OptType::Commands,
            required: false,
            doc: "commands that print one finding as JSON a line",
        },
        Opt { name: "pattern", ty: OptType::Commands, required: false, doc: "regular expressions to look for" },
        Opt {
            name: "only",
            ty: OptType::Words(&["new", "worsened", "regressed", "all"]),
            required: false,
            doc: "default: what is new, worse or back",
        },
        Opt {
            name: "first_run",
            ty: OptType::Word(&["baseline", "judge"]),
            required: false,
            doc: "whether a scanner's first run only records what exists; default `judge`",
        },
    ],
    beside: &[],
    model: false,
    closing: false,
    yields: |_| {
        let text = || Type::String { max: None };
        let field = |name: &str, ty| Field { name: name.into(), ty };
        let finding = Type::Map(vec![
            field("key", text()),
            field("rule", text()),
            field("file", text()),
            field("line", Type::Integer),
            field("message", text()),
            field("source", text()),
            field("severity", text()),
            field("scanner", text()),
            field("standing", text()),
        ]);
        let list = |of| Type::List(Box::new(of));
        Type::Map(vec![
            field("items", list(finding.clone())),
            field("count", Type::Integer),
            field("fixed", list(finding)),
            field("known", Type::Integer),
            field("muted", Type::Integer),
            field("baseline", Type::Integer),
        ])
    },
    check,
    run: Some(run),
    example: "scan: {first_run: baseline}\n",
};

fn check(checked: &Checked<'_>) -> Vec<KindMistake> {
    let mut mistakes = Vec::new();
    if !checked.repository {
        mistakes.push(mistake(
            "",
            "`scan` needs a repository",
            "there is nothing to scan",
            Some("write `repository: {github: owner/name, path: …}`"),
        ));
    }
    if !checked.environment {
        let help = "write `environment: environments/….yaml`";
        mistakes.push(mistake("", "`scan` needs an environment", "scanners run in a sandbox made from it", Some(help)));
    }
    mistakes
}

fn run<'a>(call: StepCall<'a>) -> LocalBoxFuture<'a, Result<StepEnd, Stop>> {
    Box::pin(go(call))
}

async fn go(call: StepCall<'_>) -> Result<StepEnd, Stop> {
    let commands = commands(&call)?;
    let work =
        call.work.ok_or_else(|| blocked("the run has no code to scan", "name a `repository` in the pipeline"))?;
    let mut scanned: Vec<Scanned> = Vec::new();
    for (at, (format, command)) in commands.iter().enumerate() {
        for found in scan(&call, work, format, command, at + 1).await? {
            join(&mut scanned, found);
        }
    }
    let mut tally = Tally::default();
    let only = ledger::only(call.options);
    let baseline = call.options.text("first_run") == Some("baseline");
    let mut items = Vec::new();
    let mut fixed = Vec::new();
    for scanned in scanned {
        let (scanner, complete) = (scanned.scanner.clone(), scanned.complete);
        let mut found = identify(&call, work, scanned, &mut tally).await?;
        tally.incomplete.extend((!complete).then(|| scanner.clone()));
        let source = ledger::scan_source(&call.step.id, &scanner);
        let judged = ledger::judge(call.ctx, &format!("known-{scanner}"), &source, &mut found, complete).await?;
        if baseline && judged.first {
            tally.baseline += record(&call, &scanner, source, &found).await?;
            continue;
        }
        let sifted = ledger::sift(found, &only);
        tally.known += sifted.known;
        tally.muted += sifted.muted;
        items.extend(sifted.items);
        fixed.extend(judged.gone.into_iter().map(|seen| gone(&scanner, seen)));
    }
    quote(&call, work, &mut items).await?;
    let why = format!("not found any more at {}", work.workspace.commit.short());
    publish::close_gone(&call, &fixed, &why).await?;
    Ok(tally.end(&call, items, fixed))
}

/// Several commands may be one scanner's: `cargo check` and `cargo clippy` report the same once.
fn join(all: &mut Vec<Scanned>, more: Scanned) {
    let Some(known) = all.iter_mut().find(|known| known.scanner == more.scanner) else { return all.push(more) };
    let new: Vec<Found> = more.found.into_iter().filter(|found| !known.found.contains(found)).collect();
    known.found.extend(new);
    known.outside = known.outside.saturating_add(more.outside);
    known.suppressed = known.suppressed.saturating_add(more.suppressed);
    known.complete &= more.complete;
}

async fn lines(
    call: &StepCall<'_>,
    work: &Work,
    label: &str,
    wanted: Vec<Passage>,
) -> Result<Vec<Option<String>>, Stop> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let request = LinesRequest { tree: work.workspace.tree.clone(), wanted };
    let passages: Passages = call.ctx.perform(label, Activity::Lines(request)).await?.decode()?;
    Ok(passages.texts)
}

/// The findings as items, each with its key. Those in files that the tree does not have (built ones, packages) are left out.
async fn identify(call: &StepCall<'_>, work: &Work, scanned: Scanned, tally: &mut Tally) -> Result<Vec<Value>, Stop> {
    let Scanned { scanner, found, outside, suppressed, .. } = scanned;
    tally.outside += outside as usize;
    tally.suppressed += suppressed as usize;
    let wanted = found.iter().map(|found| Passage { path: found.file.clone(), from: found.line, to: found.line });
    let texts = lines(call, work, &format!("lines-{scanner}"), wanted.collect()).await?;
    let read = found.len();
    let (found, texts): (Vec<Found>, Vec<Option<String>>) =
        found.into_iter().zip(texts).filter(|(_, text)| text.is_some()).unzip();
    tally.outside += read - found.len();
    tally.read += found.len();
    let keys = rules::keys(&found, &texts);
    let item = |(found, key): (Found, String)| {
        json!({
            "key": key, "rule": found.rule, "file": found.file, "line": found.line, "message": found.message,
            "severity": found.severity, "scanner": scanner, "symbol": found.symbol, "occurrences": found.occurrences,
        })
    };
    Ok(found.into_iter().zip(keys).map(item).collect())
}

/// Records what a scanner found in its first run. Answers how many findings that were.
async fn record(call: &StepCall<'_>, scanner: &str, source: String, items: &[Value]) -> Result<usize, Stop> {
    let seen = items.iter().filter_map(ledger::seen);
    let findings: Vec<Handled> = seen.map(|seen| Handled { seen, end: "baseline".into(), place: None }).collect();
    let count = findings.len();
    // A run that was to go only so far changes nothing.
    if call.ctx.run().until.is_none() {
        let request = FindingsRequest::Handled { source, findings };
        call.ctx.perform(&format!("baseline-{scanner}"), Activity::Findings(request)).await?;
    }
    Ok(count)
}

/// A finding that is not there any more.
fn gone(scanner: &str, seen: Seen) -> Value {
    let (file, line) = match seen.place.rsplit_once(':') {
        Some((file, line)) if line.parse::<u32>().is_ok() => (file.to_owned(), line.parse::<u32>().unwrap_or(0)),
        _ => (seen.place, 0),
    };
    let rule = seen.fingerprint.rsplit_once('-').map_or("", |(rule, _)| rule).to_owned();
    json!({
        "key": seen.fingerprint, "rule": rule, "file": file, "line": line, "message": seen.title, "severity": "note",
        "scanner": scanner, "source": "", "standing": "fixed",
    })
}

/// Gives each item the code around its line, as it stands there, so that it can be quoted.
async fn quote(call: &StepCall<'_>, work: &Work, items: &mut [Value]) -> Result<(), Stop> {
    let wanted = items.iter().map(|item| {
        let line = item["line"].as_u64().and_then(|line| u32::try_from(line).ok()).unwrap_or(0);
        // A finding about a file as a whole is shown its beginning.
        let (from, to) = (line.saturating_sub(AROUND).max(1), line.saturating_add(AROUND));
        Passage { path: item["file"].as_str().unwrap_or_default().to_owned(), from, to }
    });
    let wanted: Vec<Passage> = wanted.collect();
    let texts = lines(call, work, "around", wanted.clone()).await?;
    for ((item, text), passage) in items.iter_mut().zip(texts).zip(wanted) {
        item["source"] = text.unwrap_or_default().into();
        item["source_from"] = passage.from.into();
    }
    Ok(())
}

/// What is counted.
#[derive(Default)]
struct Tally {
    read: usize,
    known: usize,
    muted: usize,
    baseline: usize,
    outside: usize,
    suppressed: usize,
    /// Scanners that did not look at everything, or found more than is taken.
    incomplete: Vec<String>,
}

impl Tally {
    fn end(self, call: &StepCall<'_>, items: Vec<Value>, fixed: Vec<Value>) -> StepEnd {
        let mut parts = Vec::new();
        if self.baseline > 0 {
            let recorded = if call.ctx.run().until.is_none() { " recorded" } else { ", not recorded" };
            parts.push(format!("baseline: {}{recorded}", plural(self.baseline, "finding")));
        }
        if self.baseline == 0 || !items.is_empty() {
            let mut found = plural(items.len(), "finding");
            if items.len() < self.read {
                found.push_str(&format!(" of {}", self.read));
            }
            parts.push(found);
        }
        let told = [(self.known, "known"), (self.muted, "muted"), (fixed.len(), "fixed")];
        parts.extend(told.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")));
        if self.outside > 0 {
            parts.push(format!("{} outside of the repository's files", self.outside));
        }
        if !self.incomplete.is_empty() {
            parts.push(format!("not complete: {}", self.incomplete.join(", ")));
            call.ctx.note("incomplete", json!({"scanners": self.incomplete}));
        }
        let mut fields = Map::new();
        for (name, count) in [
            ("count", items.len()),
            ("known", self.known),
            ("muted", self.muted),
            ("baseline", self.baseline),
            ("outside", self.outside),
            ("suppressed", self.suppressed),
        ] {
            fields.insert(name.into(), count.into());
        }
        fields.insert("items".into(), items.into());
        fields.insert("fixed".into(), fixed.into());
        data::done(fields, parts.join(", "))
    }
}

fn plural(n: usize, word: &str) -> String {
    format!("{n} {word}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
#[path = "tests/scan.rs"]
mod tests;
