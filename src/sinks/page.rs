//! The report page: one HTML file per run, and the index of runs. Pure.
//!
//! A page stands alone: no script, no font, no picture, nothing loaded from anywhere, and a content policy that forbids all of
//! it (the style is allowed by its hash, so not even an injected style would count). It reads offline, prints, is dark where
//! the reader's system is. Every text is cleaned and escaped; the only links lead to files beside the page.
//!
//! Order, as everywhere: what happened, is it certain, what to do, what it cost, where the evidence is.

use std::time::Duration;

use jiff::Timestamp;
use maud::{Markup, PreEscaped, html};
use serde_json::Value;

use super::markdown::own_path;
use super::{chart, text};
use crate::base::money::UsdMicros;
use crate::domain::activity::{Complaint, Receipt};
use crate::domain::money::{RoleSpend, Spend};
use crate::domain::report::{Footer, InternStats, Link, Report, ReportBlock};
use crate::domain::run::{Effects, Outcome};
use crate::domain::view::{RunLine, RunView, StepView};
use crate::render::page::{self, rich, sky, wordmark};

/// Characters of one message that are shown.
const MESSAGE: usize = 40_000;
/// Messages that are shown; a longer transcript is cut in the middle of nowhere else.
const MESSAGES: usize = 2_000;

/// One message of the transcript.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TranscriptItem {
    /// `boss`, `intern`, `host`, `tool search`: who said it.
    pub speaker: String,
    /// The path of the step.
    pub step: String,
    pub text: String,
}

/// What a page is made of.
#[derive(Clone, Copy)]
pub struct Page<'a> {
    /// `None` while only the report exists (a sink writes its page before the run has ended).
    pub run: Option<&'a RunView>,
    pub reports: &'a [Report],
    pub transcript: &'a [TranscriptItem],
}

impl<'a> Page<'a> {
    pub fn of_run(run: &'a RunView, transcript: &'a [TranscriptItem]) -> Self {
        Self { run: Some(run), reports: &run.reports, transcript }
    }
    pub fn of_report(report: &'a Report) -> Self {
        Self { run: None, reports: std::slice::from_ref(report), transcript: &[] }
    }
}

/// What the head of the page says, whether a run or only a report is known.
struct Head<'a> {
    pipeline: &'a str,
    run: &'a str,
    profile: &'a str,
    effects: Effects,
    outcome: Option<Outcome>,
    date: String,
    headline: String,
    sentence: String,
    spend: &'a Spend,
    budget: Option<UsdMicros>,
    max_turns: Option<u32>,
    took: Duration,
    interns: &'a InternStats,
    figures_checked: u32,
    sentences_dropped: u32,
    models: &'a [String],
    complaints: &'a [Complaint],
    refused: &'a [String],
    problems: Vec<String>,
    stand_ins: Vec<String>,
    code: Vec<String>,
}

impl<'a> Head<'a> {
    fn new(page: &Page<'a>) -> Option<Self> {
        let report = page.reports.last();
        let stand_ins = unique(page.reports.iter().flat_map(|report| &report.footer.stand_ins));
        let code = unique(page.reports.iter().flat_map(|report| &report.footer.code));
        let mut problems = unique(page.reports.iter().flat_map(|report| &report.footer.problems));
        let Some(run) = page.run else {
            let report = report?;
            let footer: &Footer = &report.footer;
            return Some(Self {
                pipeline: &report.pipeline,
                run: &report.run,
                profile: &report.profile,
                effects: report.effects,
                outcome: report.outcome,
                date: report.date.clone(),
                headline: report.headline.clone(),
                sentence: text::outcome_sentence(report.outcome).into(),
                spend: &footer.spend,
                max_turns: None,
                budget: footer.budget_usd.map(UsdMicros::from_usd),
                took: Duration::try_from_secs_f64(footer.duration_s).unwrap_or_default(),
                interns: &footer.interns,
                figures_checked: footer.figures_checked,
                sentences_dropped: footer.sentences_dropped,
                models: &footer.models,
                complaints: &footer.complaints,
                refused: &footer.refused,
                problems,
                stand_ins,
                code,
            });
        };
        let sentence = text::run_sentence(run);
        for step in &run.steps {
            let bad = matches!(step.outcome.as_deref(), Some("failed" | "blocked" | "capped" | "unsafe"));
            if let (true, Some(reason)) = (bad, &step.reason) {
                let line = format!("{}: {}: {reason}", step.path, step.outcome.as_deref().unwrap_or_default());
                if !problems.contains(&line) {
                    problems.push(line);
                }
            }
        }
        let end = run.finished_at.or_else(|| run.steps.iter().filter_map(|step| step.finished_at).max());
        Some(Self {
            pipeline: &run.start.pipeline,
            run: run.start.id.as_str(),
            profile: &run.start.profile,
            effects: run.start.effects,
            outcome: run.outcome,
            date: text::moment(run.start.nominal_at, &run.start.timezone),
            headline: report.map_or_else(|| sentence.clone(), |report| report.headline.clone()),
            sentence,
            spend: &run.spend,
            max_turns: run.start.limits.max_turns,
            budget: run.start.limits.max_budget.map(|budget| budget + run.added),
            took: end.map(|end| text::between(run.start.started_at, end)).unwrap_or_default(),
            interns: &run.interns,
            figures_checked: run.figures_checked,
            sentences_dropped: run.sentences_dropped,
            models: &run.models,
            complaints: &run.complaints,
            refused: &run.refused,
            problems,
            stand_ins,
            code,
        })
    }
}

fn unique<'a>(items: impl Iterator<Item = &'a String>) -> Vec<String> {
    items.fold(Vec::new(), |mut kept, item| {
        if !kept.contains(item) {
            kept.push(item.clone());
        }
        kept
    })
}

/// The page as a whole document. Empty only for a page without a run and without a report.
pub fn render(page: &Page<'_>) -> String {
    let Some(head) = Head::new(page) else { return String::new() };
    let title = format!("{} · {}", text::line(head.pipeline), text::line(&head.date));
    // What stopped the run, or waits for a person, comes before what it found.
    let urgent = !head.problems.is_empty()
        || page.run.is_some_and(|run| run.failure.is_some() || !run.questions.is_empty())
        || head.outcome.is_some_and(|outcome| !outcome.is_healthy());
    let body = html! {
        (hero(&head))
        main {
            (facts(&head))
            @if urgent { (attention(&head, page.run)) }
            @for (index, report) in page.reports.iter().enumerate() {
                (report_body(report, page.reports.len() > 1, index + 1 == page.reports.len()))
            }
            @if !urgent { (attention(&head, page.run)) }
            @if let Some(run) = page.run {
                (timeline(run))
                (roles(run))
            }
            div.pair {
                @if let Some(run) = page.run { (receipts(&run.receipts, head.pipeline, head.run)) }
                (certainty(&head))
            }
            (transcript(page.transcript))
            (colophon(&head, page.run))
        }
    };
    document(&title, &body)
}

/// `out/index.html`: the runs, newest first as given, each with a link to its page.
pub fn index(runs: &[RunLine]) -> String {
    let spent: UsdMicros = runs.iter().map(|run| run.cost).sum();
    let body = html! {
        header.hero.short {
            div.wrap {
                (wordmark())
                h1 { "Runs" }
                p.sub { (text::counted(runs.len() as u64, "run")) " · " (spent) " spent" }
            }
            (sky())
        }
        main {
            section.card.runs {
                @if runs.is_empty() {
                    p.quiet { "No run yet. Start one with " code { "nightcrew run PIPELINE" } "." }
                }
                @for run in runs { (run_line(run)) }
            }
        }
    };
    document("nightcrew runs", &body)
}

fn run_line(run: &RunLine) -> Markup {
    let plain =
        |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let linked = plain(&run.pipeline) && plain(run.id.as_str());
    let title = if run.headline.is_empty() {
        text::outcome_sentence(run.outcome).to_owned()
    } else {
        text::line(&run.headline)
    };
    let took = run.finished_at.map(|end| text::duration(text::between(run.started_at, end)));
    html! {
        article.run {
            div.runhead { (pill(run.outcome)) span.pipeline { (text::line(&run.pipeline)) } @if run.effects == "preview" { span.tag { "preview" } } }
            div.runtitle {
                @if linked { a href=(format!("{}/{}/index.html", run.pipeline, run.id)) { (title) } } @else { (title) }
            }
            div.meta {
                (text::moment(run.started_at, "UTC")) " UTC · " (text::line(&run.trigger)) " · " (text::line(&run.profile)) " · " (run.cost)
                @if let Some(took) = took { " · " (took) }
            }
        }
    }
}

fn document(title: &str, body: &Markup) -> String {
    page::document(title, chart::STYLE, body)
}

fn pill(outcome: Option<Outcome>) -> Markup {
    let tone = match outcome {
        None => "open",
        Some(Outcome::NothingNew | Outcome::Declined) => "calm",
        Some(Outcome::Reported | Outcome::Acted) => "good",
        Some(Outcome::Blocked | Outcome::Capped | Outcome::Cancelled) => "warn",
        Some(Outcome::Failed | Outcome::Unsafe) => "bad",
    };
    html! { span class={ "pill " (tone) } { (text::outcome_word(outcome)) } }
}

fn hero(head: &Head<'_>) -> Markup {
    html! {
        @if head.effects == Effects::Preview {
            div.banner { strong { "Preview" } " — everything here is real but publishing: nothing was opened, posted or changed for anybody else." }
        }
        header.hero {
            div.wrap {
                (wordmark())
                p.sub { span.pipeline { (text::line(head.pipeline)) } " · " (text::line(&head.date)) " · " (text::line(head.profile)) " profile" }
                h1 { (text::line(&head.headline)) }
                p.sentence { (pill(head.outcome)) " " (text::line(&head.sentence)) "." }
            }
            (sky())
        }
    }
}

/// The four or five numbers a reader asks for first.
fn facts(head: &Head<'_>) -> Markup {
    let total = head.spend.total();
    let share = head.budget.filter(|b| b.0 > 0).map(|b| (total.0 as f64 / b.0 as f64).clamp(0.0, 1.0));
    let checks = match (head.figures_checked, head.sentences_dropped) {
        (0, 0) => None,
        (checked, dropped) => Some((checked, dropped)),
    };
    html! {
        section.facts aria-label="In numbers" {
            div.fact {
                span.label { "cost" } span.big { (total) }
                span.small { @if let Some(budget) = head.budget { "of " (budget) } @else { "no budget set" } }
                @if let Some(share) = share { (meter(share)) }
            }
            div.fact { span.label { "took" } span.big { (text::duration(head.took)) } span.small { (text::counted(u64::from(head.spend.turns), "turn")) @if let Some(most) = head.max_turns { " of at most " (most) } } }
            div.fact {
                span.label { "calls" } span.big { (head.spend.boss.calls + head.spend.intern.calls + head.spend.reviewer.calls) }
                span.small { (text::calls(head.spend)) }
            }
            @if head.interns.items > 0 || head.interns.saved_usd > 0.0 {
                div.fact {
                    span.label { "interns saved" } span.big { "≈ " (text::usd(head.interns.saved_usd.max(0.0))) }
                    span.small { @if head.interns.audited > 0 { "disagreed with the boss in " (head.interns.disagreed) " of " (head.interns.audited) " audited" } @else { "none audited" } }
                }
            }
            @if let Some((checked, dropped)) = checks {
                div.fact {
                    span.label { "figures checked" } span.big { (checked) }
                    span.small { @if dropped == 0 { "all stand in the data" } @else { (text::counted(u64::from(dropped), "sentence")) " dropped" } }
                }
            }
        }
    }
}

fn meter(share: f64) -> Markup {
    html! {
        svg.meter viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true" {
            rect.track width="100" height="4" {}
            rect.fill width=(format!("{:.1}", (share * 100.0).max(0.8))) height="4" {}
        }
    }
}

/// What a person should look at: why it stopped, open questions, problems, complaints, refusals.
fn attention(head: &Head<'_>, run: Option<&RunView>) -> Markup {
    let failure = run.and_then(|run| run.failure.as_ref());
    let questions: &[(String, String)] = run.map_or(&[], |run| &run.questions);
    let nothing = failure.is_none()
        && questions.is_empty()
        && head.problems.is_empty()
        && head.complaints.is_empty()
        && head.refused.is_empty();
    html! {
        @if !nothing {
            section.card.attention {
                h2 { "Needs a look" }
                @if let Some(failure) = failure {
                    div.note.bad {
                        strong { (text::line(&failure.message)) } " " code { (text::line(&failure.code)) }
                        @if let Some(help) = &failure.help { p { "→ " (text::line(help)) } }
                    }
                }
                @for (path, ask) in questions {
                    div.note.warn { strong { "Waits for an answer: " } (text::line(ask)) " " span.path { (text::line(path)) } }
                }
                @for problem in &head.problems { div.note.bad { (rich(&text::line(problem))) } }
                @for complaint in head.complaints {
                    div.note.warn {
                        strong { "Missing " (text::line(&complaint.kind)) ": " } (text::line(&complaint.need))
                        @if !complaint.evidence.is_empty() { p { (text::line(&complaint.evidence)) } }
                        @if !complaint.step.is_empty() { " " span.path { (text::line(&complaint.step)) } }
                    }
                }
                @for refused in head.refused { div.note.warn { strong { "Refused by policy: " } (rich(&text::line(refused))) } }
            }
        }
    }
}

/// A problem that already stands under "Needs a look".
fn told_above(block: &ReportBlock, report: &Report) -> bool {
    matches!(block, ReportBlock::Notice { text } if report.footer.problems.contains(text))
}

fn report_body(report: &Report, several: bool, last: bool) -> Markup {
    html! {
        section.card.report {
            @if several && !last { h2 { (text::line(&report.headline)) } }
            @for block in report.blocks.iter().filter(|block| !matches!(block, ReportBlock::Table { .. }) && !told_above(block, report)) { (self::block(block, report)) }
            @if let Some(chart) = report.chart.as_ref().filter(|chart| !chart.series.is_empty()) {
                @let (panels, left_out) = chart::panels(chart, chart::Size::PANEL);
                h2 { @if chart.title.is_empty() { "The series" } @else { (text::line(&chart.title)) } }
                div.panels { @for panel in &panels { figure { (PreEscaped(&panel.svg)) } } }
                p.legend { span.dash {} " the usual value" @if panels.iter().any(|p| p.flagged) { span.hot {} " flagged" } span.week {} " weekend" }
                @if left_out > 0 { p.quiet { (text::counted(left_out as u64, "more metric")) " not drawn; all stand in the table." } }
            }
            @for block in report.blocks.iter().filter(|block| matches!(block, ReportBlock::Table { .. })) { (self::block(block, report)) }
            @if report.footer.left_behind > 0 {
                p.quiet { (text::counted(u64::from(report.footer.left_behind), "item")) " left for the next run; they stay new." }
            }
        }
    }
}

fn block(block: &ReportBlock, report: &Report) -> Markup {
    html! {
        @match block {
            ReportBlock::Paragraph { text: found } => {
                @for part in text::clean(found).split("\n\n").filter(|part| !part.trim().is_empty()) { p { (rich(part.trim())) } }
            }
            ReportBlock::Bullets { items } => ul.bullets { @for item in items { li { (rich(&text::line(item))) } } },
            ReportBlock::Table { title, columns, rows } => (table(title, columns, rows)),
            ReportBlock::Links { items } => ul.links { @for item in items { li { (link(item, report)) } } },
            ReportBlock::Notice { text: found } => div.note.warn { (rich(&text::line(found))) },
        }
    }
}

fn link(link: &Link, report: &Report) -> Markup {
    let title = text::line(&link.title);
    html! {
        @if link.preview { span.tag { "would have opened" } " " }
        @match own_path(&link.url_or_path, &report.pipeline, &report.run) {
            Some(path) => a href=(path) { (title) },
            None => { strong { (title) } @if !link.url_or_path.is_empty() { " " code { (text::line(&link.url_or_path)) } } },
        }
    }
}

/// Characters of a word that is never broken.
const SHORT: usize = 14;

fn table(title: &str, columns: &[String], rows: &[Vec<Value>]) -> Markup {
    // A `flagged` column of booleans colours its row instead of standing in it.
    let flag = columns
        .iter()
        .position(|c| c == "flagged")
        .filter(|i| rows.iter().all(|r| r.get(*i).is_none_or(Value::is_boolean)));
    let shown: Vec<usize> = (0..columns.len()).filter(|i| Some(*i) != flag).collect();
    let numeric = |index: usize| {
        rows.iter().filter_map(|row| row.get(index)).all(|v| v.is_number() || v.is_null())
            && rows.iter().any(|row| row.get(index).is_some_and(Value::is_number))
    };
    // A class, a severity, a day: broken in two they could not be read.
    let short = |value: &Value| match value {
        Value::String(text) => text.chars().count() <= SHORT && !text.contains(' '),
        value => value.is_null(),
    };
    let words = |index: usize| rows.iter().filter_map(|row| row.get(index)).all(short);
    let class = |index: usize| match (numeric(index), words(index)) {
        (true, _) => "num",
        (false, true) => "word",
        (false, false) => "",
    };
    html! {
        @if !title.is_empty() { h2 { (capital(&text::heading(title))) } }
        @if rows.is_empty() { p.quiet { "No rows." } } @else {
            div.tablebox {
                table {
                    thead { tr { @for index in &shown { th scope="col" class=(class(*index)) { (text::heading(&columns[*index])) } } } }
                    tbody {
                        @for row in rows {
                            @let hot = flag.and_then(|i| row.get(i)) == Some(&Value::Bool(true));
                            tr.hot[hot] {
                                @for index in &shown {
                                    td class=(class(*index)) data-label=(text::heading(&columns[*index])) {
                                        @if hot && shown.first() == Some(index) { span.flag title="flagged" { "⚑ " } }
                                        (rich(&text::cell(&columns[*index], row.get(*index).unwrap_or(&Value::Null))))
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

fn timeline(run: &RunView) -> Markup {
    let from = run.start.started_at;
    let ends = run.steps.iter().filter_map(|step| step.finished_at).chain(run.finished_at);
    let end = ends.max().unwrap_or(from);
    html! {
        @if !run.steps.is_empty() {
            section.card.timeline {
                h2 { "Step by step" }
                ol { @for step in &run.steps { (step_row(step, from, end)) } }
            }
        }
    }
}

fn step_row(step: &StepView, from: Timestamp, end: Timestamp) -> Markup {
    let whole = text::between(from, end).as_secs_f64().max(0.001);
    let place = |at: Timestamp| (text::between(from, at).as_secs_f64() / whole * 1000.0).clamp(0.0, 1000.0);
    let (tone, mark) = match step.outcome.as_deref() {
        None => ("open", "▸"),
        Some("skipped" | "cancelled") => ("calm", "–"),
        Some("failed" | "unsafe") => ("bad", "✕"),
        Some("blocked" | "capped" | "unproved" | "blocked_by_review" | "no_change") => ("warn", "!"),
        Some(_) => ("good", "✓"),
    };
    let took = step.started_at.zip(step.finished_at).map(|(a, b)| text::duration(text::between(a, b)));
    let calls = [(step.boss_calls, "boss"), (step.intern_calls, "intern")];
    let calls: Vec<String> = calls.iter().filter(|(n, _)| *n > 0).map(|(n, name)| format!("{n} {name}")).collect();
    let role = if step.intern_calls > step.boss_calls {
        "intern"
    } else if step.boss_calls > 0 {
        "boss"
    } else {
        "host"
    };
    html! {
        li class={ "step " (tone) " d" (step.depth.min(4)) } {
            span.dot aria-hidden="true" { (mark) }
            div.what {
                span.name { (super::terminal::name(&step.path)) }
                @if !step.kind.is_empty() { span.kind { (text::line(&step.kind)) } }
                @if let Some(outcome) = step.outcome.as_deref().filter(|o| !matches!(*o, "done")) { span.tag { (text::heading(outcome)) } }
                @if step.outcome.is_none() { span.tag { "open" } }
                p.said {
                    (text::line(&step.summary))
                    @if let Some(reason) = &step.reason { @if !step.summary.is_empty() { " · " } em { (text::line(reason)) } }
                }
            }
            div.bar {
                @if let Some(start) = step.started_at {
                    @let (a, b) = (place(start), place(step.finished_at.unwrap_or(end)));
                    svg viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true" {
                        rect.track y="4" width="1000" height="2" {}
                        rect class={ "span " (role) } x=(format!("{:.1}", a.min(994.0))) width=(format!("{:.1}", (b - a).max(6.0))) height="10" rx="2" {}
                    }
                }
            }
            div.took { (took.unwrap_or_default()) @if !calls.is_empty() { span.small { (calls.join(", ")) } } }
            div.cost { @if step.cost.is_zero() { span.none { "–" } } @else { (step.cost) } }
        }
    }
}

fn roles(run: &RunView) -> Markup {
    let rows: Vec<(&str, &RoleSpend)> =
        [("boss", &run.spend.boss), ("interns", &run.spend.intern), ("reviewer", &run.spend.reviewer)]
            .into_iter()
            .filter(|(_, role)| role.calls > 0)
            .collect();
    let total = run.spend.total().0.max(1) as f64;
    let interns = &run.interns;
    html! {
        section.card.roles {
            h2 { "Who did what" }
            @if rows.is_empty() { p.quiet { "No model was called: nothing was spent." } } @else {
                div.tablebox { table {
                    thead { tr { th scope="col" { "role" } th.num scope="col" { "calls" } th.num scope="col" { "tokens in" } th.num scope="col" { "from cache" } th.num scope="col" { "tokens out" } th.num scope="col" { "cost" } th.share scope="col" { "share" } } }
                    tbody {
                        @for (name, role) in &rows {
                            @let input = role.usage.total_input();
                            @let cached = if input > 0 { role.usage.cache_read as f64 / input as f64 * 100.0 } else { 0.0 };
                            tr {
                                td data-label="role" { (name) }
                                td.num data-label="calls" { (text::number(role.calls as f64)) }
                                td.num data-label="tokens in" { (text::number(input as f64)) }
                                td.num data-label="from cache" { (format!("{cached:.0} %")) }
                                td.num data-label="tokens out" { (text::number(role.usage.output as f64)) }
                                td.num data-label="cost" { (role.usd) }
                                td.share data-label="share" { (meter(role.usd.0 as f64 / total)) }
                            }
                        }
                    }
                } }
            }
            ul.plain {
                @if interns.items > 0 {
                    li { (text::counted(u64::from(interns.items), "item")) " for interns · " (interns.escalated) " escalated to the boss · " (interns.audited) " audited, the boss disagreed with " (interns.disagreed) }
                    li { "The same calls at the boss's prices would have cost about " strong { (text::usd(interns.saved_usd.max(0.0))) } " more" }
                }
                @if run.spend.sandbox.uses > 0 { li { (run.spend.sandbox.usd) " for " (text::counted(run.spend.sandbox.uses, "use")) " of a sandbox that is billed by the second, " (format!("{:.0} s", run.spend.sandbox.millis as f64 / 1e3)) " together" } }
                @if !run.spend.reserved.is_zero() { li { (run.spend.reserved) " stays reserved: granted to calls whose end is not known, counted as spent" } }
                @if !run.counts.is_empty() { li { "Items: " (run.counts.iter().map(|(k, n)| format!("{n} {}", text::heading(k))).collect::<Vec<_>>().join(", ")) } }
            }
        }
    }
}

fn receipts(receipts: &[Receipt], pipeline: &str, run: &str) -> Markup {
    html! {
        @if !receipts.is_empty() {
            section.card.receipts {
                h2 { "Receipts" }
                ul.plain {
                    @for receipt in receipts {
                        li {
                            strong { (text::receipt_kind(&receipt.kind)) } " → " (text::line(&receipt.destination)) " "
                            @match own_path(&receipt.url_or_path, pipeline, run) {
                                Some(path) => a href=(path) { (path) },
                                None => code { (text::line(&receipt.url_or_path)) },
                            }
                            @if receipt.found { " " span.tag { "found again after a restart" } }
                            div.key { (text::line(&receipt.key)) }
                        }
                    }
                }
            }
        }
    }
}

/// What may be relied on: who answered, what was a stand-in.
fn certainty(head: &Head<'_>) -> Markup {
    html! {
        section.card.sent {
            h2 { "What went where" }
            @if head.models.is_empty() { p { "Nothing was sent to a model provider." } } @else {
                p { "Answers came from:" }
                ul.plain { @for model in head.models { li { code { (text::line(model)) } } } }
            }
            @if !head.code.is_empty() {
                p { "What ran here:" }
                ul.plain { @for line in &head.code { li { (text::line(line)) } } }
            }
            @if !head.stand_ins.is_empty() {
                p { "Stand-ins, not the real thing:" }
                ul.plain { @for stand_in in &head.stand_ins { li { (text::line(stand_in)) } } }
            }
        }
    }
}

fn transcript(items: &[TranscriptItem]) -> Markup {
    let mut steps: Vec<(&str, Vec<&TranscriptItem>)> = Vec::new();
    for item in items.iter().take(MESSAGES) {
        match steps.iter_mut().find(|(step, _)| *step == item.step) {
            Some((_, found)) => found.push(item),
            None => steps.push((&item.step, vec![item])),
        }
    }
    html! {
        @if !items.is_empty() {
            section.card.transcript {
                h2 { "Transcript" }
                p.quiet { "What the models were given and what they said, word for word. Fold out a step to read it." }
                @for (step, items) in &steps {
                    details {
                        summary { span.name { (text::line(step)) } " " span.small { (text::counted(items.len() as u64, "message")) } }
                        @for item in items {
                            div class={ "say " (voice(&item.speaker)) } {
                                div.who { (text::line(&item.speaker)) }
                                pre { (capped(&item.text)) }
                            }
                        }
                    }
                }
                @if items.len() > MESSAGES { p.quiet { (items.len() - MESSAGES) " more messages: " code { "nightcrew logs" } } }
            }
        }
    }
}

fn voice(speaker: &str) -> &'static str {
    match speaker.split([' ', ':']).next().unwrap_or_default() {
        "boss" | "reviewer" | "assistant" => "boss",
        "intern" => "intern",
        "tool" => "tool",
        _ => "host",
    }
}

fn capped(found: &str) -> String {
    let cleaned = text::clean(found);
    match cleaned.char_indices().nth(MESSAGE) {
        Some((end, _)) => format!("{}\n… {} characters more", &cleaned[..end], cleaned[end..].chars().count()),
        None => cleaned,
    }
}

fn colophon(head: &Head<'_>, run: Option<&RunView>) -> Markup {
    let zone = run.map_or("UTC", |run| run.start.timezone.as_str());
    html! {
        footer {
            dl {
                dt { "run" } dd { code { (text::line(head.run)) } }
                @if let Some(run) = run {
                    dt { "pipeline" } dd { (text::line(head.pipeline)) " " code title=(run.start.definition) { (run.start.definition.short()) } }
                    dt { "began" } dd { (text::moment(run.start.started_at, zone)) " " (text::line(zone)) ", by " (run.start.trigger.kind) }
                    dt { "journal" } dd { (text::counted(run.activities, "activity")) ", build " code { (text::line(&run.start.build_id)) } }
                }
                dt { "effects" } dd { (head.effects) }
            }
            p { "Made by nightcrew from typed values. No script, nothing loaded, no link that leaves this folder." }
        }
    }
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
