//! The terminal: lines of a run as text, and the sink that prints a report to standard output. The renderers are pure.
//!
//! The live display (spinner, redrawing) belongs to the CLI; what a line says stands here. Texts are cleaned, so nothing that a
//! model wrote can move the cursor.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use super::{markdown, text};
use crate::base::BoxFuture;
use crate::domain::activity::{Delivery, Receipt};
use crate::domain::money::Spend;
use crate::domain::report::{InternStats, Report, ReportBlock};
use crate::domain::run::Outcome;
use crate::domain::view::{RunView, StepView};
use crate::ports::sink::{Earlier, Sink, SinkError, SinkKind, SinkSetup};

pub const KIND: SinkKind = SinkKind { name: "terminal", summary: "standard output", make: Some(make) };

/// Frames of the spinner, for the CLI.
pub const SPINNER: &[&str] = &["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

/// How lines are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    pub color: bool,
    /// Columns; lines are fitted to it, never broken by the terminal.
    pub width: usize,
}

impl Style {
    /// For pipes and logs.
    pub const PLAIN: Self = Self { color: false, width: 120 };

    fn paint(self, tone: Tone, text: &str) -> String {
        if self.color && !text.is_empty() { format!("\u{1b}[{}m{text}\u{1b}[0m", tone.code()) } else { text.to_owned() }
    }
}

#[derive(Clone, Copy)]
enum Tone {
    Good,
    Bad,
    Wait,
    Dim,
    Strong,
}

impl Tone {
    fn code(self) -> &'static str {
        match self {
            Self::Good => "32",
            Self::Bad => "31",
            Self::Wait => "33",
            Self::Dim => "2",
            Self::Strong => "1",
        }
    }
}

/// A step that is running, for [`step_line`].
#[derive(Clone, Copy, Debug)]
pub struct Live<'a> {
    /// A frame of [`SPINNER`], or `▸`.
    pub mark: &'a str,
    pub elapsed: Duration,
    /// What it is doing now; replaces an empty summary.
    pub doing: &'a str,
}

/// The first line of a run: `error-to-pr  run 01JD…7QK   demo profile · preview · models: …`.
pub fn header(run: &RunView, models: &[String], sandbox: Option<&str>, style: Style) -> String {
    let name = text::line(&run.start.pipeline);
    let head = format!("  run {}   ", run.start.id.short());
    let before = format!("{} profile · {}", text::line(&run.start.profile), run.start.effects);
    let after = sandbox.map_or_else(String::new, |sandbox| format!(" · sandbox: {}", text::line(sandbox)));
    let room = style.width.saturating_sub(text::width(&name) + text::width(&head));
    let mut facts = before;
    // The models give way before what confines the run's commands.
    let left = room.saturating_sub(text::width(&facts) + text::width(&after));
    if !models.is_empty() && (left >= MODELS || after.is_empty()) {
        facts.push_str(&text::fit(&format!(" · models: {}", text::line(&models.join(", "))), left));
    }
    let facts = text::fit(&(facts + &after), room);
    format!("{}{}", style.paint(Tone::Strong, &name), style.paint(Tone::Dim, &format!("{head}{facts}")))
}

/// Columns below which the names of models say nothing.
const MODELS: usize = 24;

/// One step or child on one line: mark, name, what came of it, time, money.
pub fn step_line(step: &StepView, live: Option<Live<'_>>, style: Style) -> String {
    let width = style.width.clamp(40, 120);
    let indent = 2 + 4 * step.depth as usize;
    let (mark, tone) = mark(step, live);
    let name = text::fit(&step_name(step), 30);
    // Summaries of parents and children begin in one column.
    let column = 18usize.max(indent + 2 + text::width(&name) + 2);
    let took = match (live, step.started_at, step.finished_at) {
        (Some(live), _, _) => text::duration(live.elapsed),
        (None, Some(from), Some(to)) => text::duration(text::between(from, to)),
        (None, _, _) => String::new(),
    };
    let cost = if step.cost.is_zero() { String::new() } else { step.cost.to_string() };
    let right = if took.is_empty() && cost.is_empty() { String::new() } else { format!("{took:>10}  {cost:>9}") };
    let right = right.trim_end();
    let room = width.saturating_sub(column + if right.is_empty() { 0 } else { 22 });
    let said = said(step, live);
    let summary = text::fit(&said, room);
    let pad = |n: usize| " ".repeat(n);
    let left = format!(
        "{}{} {}{}{}",
        pad(indent),
        style.paint(tone, mark),
        name,
        pad(column.saturating_sub(indent + 2 + text::width(&name))),
        match tone {
            Tone::Dim => style.paint(Tone::Dim, &summary),
            Tone::Bad => style.paint(Tone::Bad, &summary),
            Tone::Good | Tone::Wait | Tone::Strong => summary.clone(),
        }
    );
    if right.is_empty() {
        return left.trim_end().to_owned();
    }
    format!("{left}{}{}", pad(room.saturating_sub(text::width(&summary))), style.paint(Tone::Dim, right))
}

/// One change without a terminal: `analytics-report 01JD…7QK  why: done, 4 turns (10.6 s, $0.041)`.
pub fn change_line(run: &RunView, step: &StepView) -> String {
    let head = format!("{} {}  {}", text::line(&run.start.pipeline), run.start.id.short(), text::line(&step.path));
    let Some(outcome) = &step.outcome else { return format!("{head}: started") };
    let said = said(step, None);
    let said = if said.is_empty() { String::new() } else { format!(", {said}") };
    let mut facts = Vec::new();
    if let (Some(from), Some(to)) = (step.started_at, step.finished_at) {
        facts.push(text::duration(text::between(from, to)));
    }
    if !step.cost.is_zero() {
        facts.push(step.cost.to_string());
    }
    let facts = if facts.is_empty() { String::new() } else { format!(" ({})", facts.join(", ")) };
    format!("{head}: {}{said}{facts}", text::line(outcome))
}

/// The last block of a run: outcome, why, money and calls, what the interns saved, what to do next.
pub fn closing(run: &RunView, next: &[String], style: Style) -> String {
    let tone = match run.outcome {
        None => Tone::Wait,
        Some(outcome) if outcome.is_healthy() => Tone::Good,
        Some(Outcome::Blocked | Outcome::Capped | Outcome::Cancelled) => Tone::Wait,
        Some(_) => Tone::Bad,
    };
    let budget = run.start.limits.max_budget.map(|budget| format!(" of {}", budget + run.added)).unwrap_or_default();
    // Whether somebody is at it is not known here.
    let word = if run.outcome.is_none() { "open" } else { text::outcome_word(run.outcome) };
    let mut facts = vec![style.paint(tone, word)];
    let produced = text::produce(&run.receipts);
    if !produced.is_empty() {
        facts.push(produced);
    }
    facts.push(format!("{}{budget}", run.spend.total()));
    facts.push(text::calls(&run.spend));
    let mut lines = vec![facts.join(" · ")];
    if let Some(failure) = &run.failure {
        lines.push(format!("{} {}", style.paint(tone, "why:"), text::line(&failure.to_string())));
        lines.extend(failure.help.as_deref().map(|help| format!("fix: {}", text::line(help))));
    }
    if !run.counts.is_empty() {
        let counts = run.counts.iter().map(|(outcome, n)| format!("{n} {}", text::line(outcome).replace('_', " ")));
        lines.push(format!("items: {}", counts.collect::<Vec<_>>().join(", ")));
    }
    for complaint in &run.complaints {
        lines.push(format!(
            "{} {}: {}",
            style.paint(Tone::Wait, "missing"),
            text::line(&complaint.kind),
            text::line(&complaint.need)
        ));
    }
    lines
        .extend(run.refused.iter().map(|what| format!("{} {}", style.paint(Tone::Wait, "refused:"), text::line(what))));
    lines.extend(
        run.questions.iter().map(|(_, ask)| format!("{} {}", style.paint(Tone::Wait, "asks:"), text::line(ask))),
    );
    lines.extend(markdown::interns(&run.interns));
    if run.sentences_dropped > 0 {
        let dropped = text::counted(u64::from(run.sentences_dropped), "sentence");
        lines.push(format!("{dropped} dropped: a figure or quote did not stand in the data"));
    }
    if !next.is_empty() {
        let next: Vec<String> = next.iter().map(|step| text::line(step)).collect();
        lines.push(format!("{} {}", style.paint(Tone::Strong, "next:"), next.join(", or ")));
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

/// The last block over several runs: the gravest outcome, why the unhealthy ones were so, everything together, what to do next.
pub fn together(runs: &[RunView], next: &[String], style: Style) -> String {
    let open = runs.iter().any(|run| run.outcome.is_none());
    let gravest = runs.iter().filter_map(|run| run.outcome).max();
    let tone = match gravest {
        Some(outcome) if !open && outcome.is_healthy() => Tone::Good,
        Some(Outcome::Failed | Outcome::Unsafe) => Tone::Bad,
        Some(_) | None => Tone::Wait,
    };
    let word = if open { "open" } else { gravest.map_or("nothing", |outcome| text::outcome_word(Some(outcome))) };
    let receipts: Vec<Receipt> = runs.iter().flat_map(|run| run.receipts.clone()).collect();
    let mut spend = Spend::default();
    let mut interns = InternStats::default();
    let mut took = Duration::ZERO;
    for run in runs {
        for (all, one) in [
            (&mut spend.boss, &run.spend.boss),
            (&mut spend.intern, &run.spend.intern),
            (&mut spend.reviewer, &run.spend.reviewer),
        ] {
            all.calls += one.calls;
            all.usd += one.usd;
        }
        spend.sandbox.uses += run.spend.sandbox.uses;
        spend.sandbox.usd += run.spend.sandbox.usd;
        spend.sandbox.millis += run.spend.sandbox.millis;
        spend.reserved += run.spend.reserved;
        interns.items += run.interns.items;
        interns.escalated += run.interns.escalated;
        interns.audited += run.interns.audited;
        interns.disagreed += run.interns.disagreed;
        interns.saved_usd += run.interns.saved_usd;
        took += run.finished_at.map_or(Duration::ZERO, |at| text::between(run.start.started_at, at));
    }
    let mut facts = vec![style.paint(tone, word), text::counted(runs.len() as u64, "run")];
    let produced = text::produce(&receipts);
    facts.extend((!produced.is_empty()).then_some(produced));
    facts.extend([spend.total().to_string(), text::calls(&spend), text::duration(took)]);
    let mut lines = vec![facts.join(" · ")];
    for run in runs.iter().filter(|run| run.outcome.is_some_and(|outcome| !outcome.is_healthy())) {
        let (name, word) = (text::line(&run.start.pipeline), text::outcome_word(run.outcome));
        let why = run.failure.as_ref().map(|failure| format!(": {}", text::line(&failure.to_string())));
        lines.push(format!("{} {name} {}{}", style.paint(tone, "!"), word, why.unwrap_or_default()));
        let help = run.failure.as_ref().and_then(|failure| failure.help.as_deref());
        lines.extend(help.map(|help| format!("  fix: {}", text::line(help))));
    }
    lines.extend(markdown::interns(&interns));
    if !next.is_empty() {
        let next: Vec<String> = next.iter().map(|step| text::line(step)).collect();
        lines.push(format!("{} {}", style.paint(Tone::Strong, "next:"), next.join(", or ")));
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

/// A report as plain text, for the `terminal` sink.
pub fn report(report: &Report) -> String {
    if let Some(question) = &report.question {
        let mut lines = vec![format!("✋ {} asks: {}", text::line(&report.pipeline), text::line(&question.ask))];
        for (label, given) in &question.given {
            lines.push(format!("  {}:", text::line(label)));
            lines.extend(text::clean(given).lines().map(|line| format!("    {line}")));
        }
        lines.extend(markdown::question_lines(question, &report.run).iter().map(|line| text::line(line)));
        return lines.into_iter().map(|line| line.trim_end().to_owned() + "\n").collect();
    }
    let mut lines = vec![text::line(&report.headline)];
    lines.push(format!(
        "{} · {} · {} · effects: {}",
        text::outcome_word(report.outcome),
        text::line(&report.pipeline),
        text::line(&report.date),
        report.effects
    ));
    for block in &report.blocks {
        lines.push(String::new());
        match block {
            ReportBlock::Paragraph { text } => lines.extend(text::clean(text).lines().map(str::to_owned)),
            ReportBlock::Bullets { items } => {
                lines.extend(items.iter().map(|item| format!("  • {}", text::line(item))))
            }
            ReportBlock::Table { title, columns, rows } => {
                if !title.is_empty() {
                    lines.push(text::line(title));
                }
                lines.extend(table(columns, rows));
            }
            ReportBlock::Links { items } => lines.extend(items.iter().map(|link| {
                let would = if link.preview { "would have opened: " } else { "" };
                format!("  → {would}{}  {}", text::line(&link.title), text::line(&link.url_or_path))
            })),
            ReportBlock::Notice { text } => lines.push(format!("! {}", text::line(text))),
        }
    }
    let footer = &report.footer;
    lines.push(String::new());
    lines.extend(footer.problems.iter().map(|text| format!("! {}", text::line(text))));
    lines.extend(footer.refused.iter().map(|text| format!("refused: {}", text::line(text))));
    lines.extend(footer.complaints.iter().map(|c| format!("missing {}: {}", text::line(&c.kind), text::line(&c.need))));
    lines.extend(markdown::footer_lines(footer).iter().map(|line| text::line(line)));
    lines.into_iter().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// Columns as wide as their widest cell, numbers to the right. Rows with long texts become records instead.
fn table(columns: &[String], rows: &[Vec<serde_json::Value>]) -> Vec<String> {
    let null = serde_json::Value::Null;
    let mut cells: Vec<Vec<String>> = vec![columns.iter().map(|column| text::heading(column)).collect()];
    for row in rows {
        let shown = columns.iter().enumerate().map(|(i, c)| text::cell(c, row.get(i).unwrap_or(&null)));
        cells.push(shown.collect());
    }
    if cells.iter().flatten().any(|cell| text::width(cell) > 44) {
        let (heads, rows) = cells.split_at(1);
        return rows
            .iter()
            .flat_map(|row| {
                let named = heads[0].iter().zip(row).skip(1).map(|(head, cell)| format!("    {head}: {cell}"));
                std::iter::once(format!("  {}", row.first().map_or("", String::as_str))).chain(named)
            })
            .collect();
    }
    let widths: Vec<usize> =
        (0..columns.len()).map(|i| cells.iter().map(|row| text::width(&row[i])).max().unwrap_or(0)).collect();
    let numeric: Vec<bool> = (0..columns.len())
        .map(|i| rows.iter().all(|row| row.get(i).is_none_or(|v| v.is_number() || v.is_null())))
        .collect();
    let line = |row: &Vec<String>| {
        let parts = row.iter().enumerate().map(|(i, cell)| {
            let pad = " ".repeat(widths[i].saturating_sub(text::width(cell)));
            if numeric[i] { format!("{pad}{cell}") } else { format!("{cell}{pad}") }
        });
        format!("  {}", parts.collect::<Vec<_>>().join("  ")).trim_end().to_owned()
    };
    cells.iter().map(line).collect()
}

fn said(step: &StepView, live: Option<Live<'_>>) -> String {
    let summary = text::line(&step.summary);
    let reason = step.reason.as_deref().map(text::line).unwrap_or_default();
    match (summary.is_empty(), reason.is_empty(), live) {
        (true, true, Some(live)) => text::line(live.doing),
        (true, false, _) => reason,
        (false, false, _) => format!("{summary} · {reason}"),
        (_, true, _) => summary,
    }
}

fn mark<'a>(step: &StepView, live: Option<Live<'a>>) -> (&'a str, Tone) {
    match (step.outcome.as_deref(), live) {
        (None, Some(live)) => (live.mark, Tone::Wait),
        (None, None) => ("▸", Tone::Wait),
        (Some("skipped" | "cancelled"), _) => ("–", Tone::Dim),
        (Some("failed" | "unsafe"), _) => ("✗", Tone::Bad),
        (Some("blocked" | "capped" | "unproved" | "blocked_by_review" | "no_change"), _) => ("!", Tone::Wait),
        (Some(_), _) => ("✓", Tone::Good),
    }
}

/// `repair 1/4` for a child, else as [`name`] says.
fn step_name(step: &StepView) -> String {
    let name = name(&step.path);
    match (step.place, name.split_once(' ')) {
        (Some((number, of)), Some((id, _))) => format!("{id} {number}/{of}"),
        _ => name,
    }
}

/// The last part of a path; an item's key is cut short: `repair[3f9c21aa]` → `repair 3f9c21`.
pub fn name(path: &str) -> String {
    let mut depth = 0;
    let mut from = 0;
    for (index, c) in path.char_indices() {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            '/' if depth == 0 => from = index + 1,
            _ => {}
        }
    }
    let last = text::line(&path[from..]);
    match last.split_once('[') {
        Some((id, key)) => {
            let key = key.strip_suffix(']').unwrap_or(key);
            let hex = key.len() >= 12 && key.chars().all(|c| c.is_ascii_hexdigit());
            let key = if hex { key[..6].to_owned() } else { text::fit(key, 18) };
            format!("{id} {key}")
        }
        None => last,
    }
}

fn make(_: &SinkSetup) -> Arc<dyn Sink> {
    Arc::new(Terminal)
}

struct Terminal;

impl Sink for Terminal {
    /// Printing twice after a crash does no harm, so nothing is looked for.
    fn deliver<'a>(&'a self, delivery: &'a Delivery, _: Earlier) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            let shown = format!("{}\n", report(&delivery.report));
            let mut out = std::io::stdout().lock();
            out.write_all(shown.as_bytes())
                .and_then(|()| out.flush())
                .map_err(|source| SinkError::Write { path: "standard output".into(), source })?;
            Ok(Receipt {
                kind: "report".into(),
                destination: "terminal".into(),
                url_or_path: String::new(),
                key: delivery.key.clone(),
                found: false,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_narrow_first_line_drops_the_models_and_never_the_sandbox() {
        let run = crate::sinks::sample::run();
        let models = ["a-model-with-a-long-name".to_owned(), "another-model-with-a-long-name".to_owned()];
        let shown = |width| super::header(&run, &models, Some("bubblewrap"), super::Style { color: false, width });
        for width in [80, 100, 120] {
            let shown = shown(width);
            assert!(shown.ends_with(" · sandbox: bubblewrap") && super::text::width(&shown) <= width, "{shown}");
        }
        assert!(!shown(80).contains("models") && shown(300).contains("another-model"));
    }

    use super::*;
    use crate::sinks::sample;

    fn whole(run: &RunView, style: Style, next: &[&str]) -> String {
        let next: Vec<String> = next.iter().map(|s| (*s).to_owned()).collect();
        let mut out = header(run, &run.models, Some("bubblewrap"), style) + "\n";
        for step in &run.steps {
            let live = Live { mark: "⠋", elapsed: Duration::from_millis(1_300), doing: "asking the boss" };
            out += &(step_line(step, step.outcome.is_none().then_some(live), style) + "\n");
        }
        out + "\n" + &closing(run, &next, style)
    }

    #[test]
    fn a_run_on_a_terminal_reads_as_the_golden_text() {
        let style = Style { color: false, width: 110 };
        let shown = whole(&sample::run(), style, &["open out/index.html", "`nightcrew logs 01KA…7QK`"]);
        let both = shown
            + "\n"
            + &whole(&sample::repair(), style, &["open out/index.html"])
            + "\n"
            + &report(&sample::report());
        sample::golden("terminal.txt", &both);
    }

    #[test]
    fn several_runs_end_in_one_block_with_the_gravest_outcome_and_its_way_out() {
        let (good, mut bad) = (sample::repair(), sample::run());
        let next = ["open out/index.html".to_owned()];
        let shown = together(&[good.clone(), bad.clone()], &next, Style::PLAIN);
        assert!(shown.starts_with("acted · 2 runs · 1 draft pull request, 3 tickets, 2 reports · $"), "{shown}");
        assert!(shown.ends_with("next: open out/index.html\n"), "{shown}");
        bad.outcome = Some(Outcome::Blocked);
        bad.failure =
            Some(crate::domain::run::Failure::new("E-SANDBOX", "no sandbox works").help("apt install bubblewrap"));
        let shown = together(&[good, bad], &[], Style::PLAIN);
        assert!(shown.starts_with("blocked · 2 runs · "), "{shown}");
        let way_out = "! analytics-report blocked: no sandbox works (E-SANDBOX)\n  fix: apt install bubblewrap\n";
        assert!(shown.contains(way_out), "{shown}");
    }

    #[test]
    fn lines_fit_the_width_and_carry_no_control_characters_of_others() {
        let mut run = sample::repair();
        run.steps[0].summary = "\u{1b}[2J\u{1b}]0;x\u{7}日本語 ".repeat(30);
        for width in [40, 61, 80, 200] {
            for step in &run.steps {
                let line = step_line(step, None, Style { color: false, width });
                assert!(text::width(&line) <= width.min(120), "{width}: {line}");
                assert!(!line.contains('\u{1b}'), "{line:?}");
            }
        }
        let coloured = step_line(&run.steps[0], None, Style { color: true, width: 80 });
        assert!(coloured.contains("\u{1b}[32m✓\u{1b}[0m") && !coloured.contains("\u{1b}[2J"));
    }

    #[test]
    fn names_are_the_last_part_of_a_path_whatever_a_key_holds() {
        assert_eq!(name("repair[a/b]/fix"), "fix");
        assert_eq!(name("repair[src/x.rs:3]"), "repair src/x.rs:3");
        assert_eq!(name("repair[0123456789abcdef]"), "repair 012345");
        assert_eq!(
            change_line(&sample::run(), &sample::run().steps[2]),
            "analytics-report 01KA…7QK  why: done, 4 turns, 3 tool calls · 2 causes (10.6 s, $0.041)"
        );
    }
}
