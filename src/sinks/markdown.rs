//! A report as Markdown. Pure.
//!
//! Every text is untrusted: it is cleaned, and every character that Markdown or GitHub's dialect gives a meaning is escaped, so a
//! model can make no heading, link, image, mention, HTML or table of its own. Words that a reader's program would turn into a
//! link or a mention by itself stand in code spans, whole. Only paths below the report's own folder become links.

use serde_json::Value;

use super::text;
use crate::domain::report::{Chart, Footer, Link, Question, Report, ReportBlock};
use crate::domain::run::Effects;
pub use crate::render::markdown::inline;
use crate::render::markdown::{block as paragraphs, code, fenced, within};

/// The whole document, ending in a newline.
pub fn render(report: &Report) -> String {
    if let Some(question) = &report.question {
        return asked(report, question);
    }
    let mut parts = vec![format!("# {}", inline(&report.headline))];
    parts.push(format!(
        "**{}** · {} · {} · {} profile · effects: {}",
        text::outcome_word(report.outcome),
        inline(&report.pipeline),
        inline(&report.date),
        inline(&report.profile),
        report.effects
    ));
    if report.effects == Effects::Preview {
        parts.push("> Preview: nothing was published but this report.".into());
    }
    parts.extend(report.blocks.iter().map(|found| block(found, report)));
    if let Some(chart) = report.chart.as_ref().filter(|chart| !chart.series.is_empty()) {
        parts.push(chart_table(chart));
    }
    parts.extend(footer(report));
    parts.push(format!("---\n\nrun `{}` · nightcrew", code(&report.run)));
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n") + "\n"
}

/// What a person is asked, exactly, and how to answer it or how it was answered.
fn asked(report: &Report, question: &Question) -> String {
    let mut parts = vec![format!("# ✋ {} asks: {}", inline(&report.pipeline), inline(&question.ask))];
    parts.extend(question_lines(question, &report.run).iter().map(|line| inline(line)));
    parts.extend(question.given.iter().map(|(label, text)| format!("**{}**\n\n{}", inline(label), fenced(text))));
    parts.push(format!("---\n\nrun `{}` · `{}` · nightcrew", code(&report.run), code(&question.hash)));
    parts.join("\n\n") + "\n"
}

/// Where a question stands, in plain words. Shared by every surface.
pub fn question_lines(question: &Question, run: &str) -> Vec<String> {
    let expires = question.expires_at.map(|at| text::moment(at, "UTC"));
    match &question.answered {
        Some((how, _)) if how == "expired" => vec![format!("Expired: nobody answered, so: {}", question.on_expiry)],
        Some((how, by)) => {
            let (first, rest) = how.split_at(how.chars().next().map_or(0, char::len_utf8));
            vec![format!("{}{rest} by {by}", first.to_uppercase())]
        }
        None => {
            let run = crate::base::ids::RunId(run.to_owned()).short();
            let mut lines = vec![format!("Answer: `nightcrew approve {run}` or `nightcrew deny {run}`")];
            lines.extend(expires.map(|at| format!("Expires {at} UTC, then: {}", question.on_expiry)));
            lines
        }
    }
}

fn block(block: &ReportBlock, report: &Report) -> String {
    match block {
        ReportBlock::Paragraph { text } => paragraphs(text),
        ReportBlock::Bullets { items } => bullets(items),
        ReportBlock::Table { title, columns, rows } => {
            let title = if title.is_empty() { String::new() } else { format!("## {}\n\n", inline(title)) };
            format!("{title}{}", table(columns, rows))
        }
        ReportBlock::Links { items } => items.iter().map(|item| link(item, report)).collect::<Vec<_>>().join("\n"),
        ReportBlock::Notice { text } => format!("> ⚠ {}", inline(text)),
    }
}

fn bullets(items: &[String]) -> String {
    items.iter().map(|item| format!("- {}", inline(item))).collect::<Vec<_>>().join("\n")
}

fn table(columns: &[String], rows: &[Vec<Value>]) -> String {
    let numeric = |index: usize| {
        rows.iter().filter_map(|row| row.get(index)).all(|v| v.is_number() || v.is_null())
            && rows.iter().any(|row| row.get(index).is_some_and(Value::is_number))
    };
    let mut lines = vec![
        format!("| {} |", columns.iter().map(|c| within(&text::heading(c))).collect::<Vec<_>>().join(" | ")),
        format!(
            "|{}|",
            (0..columns.len()).map(|i| if numeric(i) { " ---: " } else { " --- " }).collect::<Vec<_>>().join("|")
        ),
    ];
    for row in rows {
        let cells = columns.iter().enumerate().map(|(i, c)| within(&text::cell(c, row.get(i).unwrap_or(&Value::Null))));
        lines.push(format!("| {} |", cells.collect::<Vec<_>>().join(" | ")));
    }
    lines.join("\n")
}

fn link(link: &Link, report: &Report) -> String {
    let would = if link.preview { "would have opened: " } else { "" };
    match own_path(&link.url_or_path, &report.pipeline, &report.run) {
        Some(path) => format!("- {would}[{}](<{path}>)", inline(&link.title)),
        None if link.url_or_path.is_empty() => format!("- {would}{}", inline(&link.title)),
        None => format!("- {would}{} · `{}`", inline(&link.title), code(&link.url_or_path)),
    }
}

/// Where a file of ours stands, seen from the folder of the report, `<pipeline>/<run>/`: in it, or a ticket or draft beside all
/// pipelines. Only if it can stand in a link as it is.
pub fn own_path(path: &str, pipeline: &str, run: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    let safe = |below: &str| {
        below.chars().all(plain) && !below.is_empty() && !below.split('/').any(|part| part == ".." || part.is_empty())
    };
    if let Some((_, below)) = path.split_once(&format!("{pipeline}/{run}/")) {
        return safe(below).then(|| below.to_owned());
    }
    if path.contains("://") {
        return None;
    }
    let mut parts = path.rsplit('/');
    let (file, folder) = (parts.next()?, parts.next()?);
    let ours = folder == "tickets" && file.ends_with(".md") || folder.starts_with("pr-") && file == "index.html";
    let below = format!("{folder}/{file}");
    (ours && safe(&below)).then(|| format!("../../{below}"))
}

/// The last days of each series: a chart's figures in words.
fn chart_table(chart: &Chart) -> String {
    let title = if chart.title.is_empty() { "The series".to_owned() } else { inline(&chart.title) };
    let most = 7;
    let from = chart.days.len().saturating_sub(most);
    let mut columns = vec!["metric".to_owned(), "usual".to_owned()];
    columns.extend(chart.days[from..].iter().map(|day| day.get(5..).unwrap_or(day).to_owned()));
    let rows: Vec<Vec<Value>> = chart
        .series
        .iter()
        .map(|series| {
            let name = if series.flagged { format!("{} ⚑", series.metric) } else { series.metric.clone() };
            let mut row = vec![Value::from(name), series.usual.map_or(Value::Null, Value::from)];
            let values = series.values.get(from..).unwrap_or_default();
            row.extend(values.iter().map(|value| value.map_or(Value::Null, Value::from)));
            row
        })
        .collect();
    format!("## {title}\n\n{}", table(&columns, &rows))
}

fn footer(report: &Report) -> Vec<String> {
    let footer = &report.footer;
    let mut parts = Vec::new();
    let mut list = |title: &str, items: Vec<String>| {
        if !items.is_empty() {
            parts.push(format!(
                "## {title}\n\n{}",
                items.iter().map(|i| format!("- {i}")).collect::<Vec<_>>().join("\n")
            ));
        }
    };
    // What stands above as a warning is not told again.
    let told = |problem: &str| {
        report.blocks.iter().any(|block| matches!(block, ReportBlock::Notice { text } if text == problem))
    };
    list("Problems", footer.problems.iter().filter(|text| !told(text)).map(|text| inline(text)).collect());
    list("What to do", footer.help.iter().map(|text| inline(text)).collect());
    list("Refused by policy", footer.refused.iter().map(|text| inline(text)).collect());
    let complaint = |c: &crate::domain::activity::Complaint| {
        let evidence = if c.evidence.is_empty() { String::new() } else { format!(" ({})", inline(&c.evidence)) };
        format!("**{}**: {}{evidence}", inline(&c.kind), inline(&c.need))
    };
    list("What was missing", footer.complaints.iter().map(complaint).collect());
    list("How it was made", footer_lines(footer).iter().map(|line| inline(line)).collect());
    parts
}

/// The facts about a run, one per line, in plain words. Shared by every surface.
pub fn footer_lines(footer: &Footer) -> Vec<String> {
    let mut lines = Vec::new();
    let of = footer.budget_usd.map(|budget| format!(" of {}", text::usd(budget))).unwrap_or_default();
    let took = text::duration(std::time::Duration::try_from_secs_f64(footer.duration_s).unwrap_or_default());
    lines.push(format!("{}{of} · {} · {took}", footer.spend.total(), text::calls(&footer.spend)));
    lines.extend(interns(&footer.interns));
    match (footer.figures_checked, footer.sentences_dropped) {
        (0, 0) => {}
        (checked, 0) => lines.push(format!("{} checked against the data", text::counted(u64::from(checked), "figure"))),
        (checked, dropped) => lines.push(format!(
            "{} checked against the data, {} dropped",
            text::counted(u64::from(checked), "figure"),
            text::counted(u64::from(dropped), "sentence")
        )),
    }
    if footer.left_behind > 0 {
        lines.push(format!("{} left for the next run", text::counted(u64::from(footer.left_behind), "item")));
    }
    lines.extend(footer.code.iter().cloned());
    if !footer.models.is_empty() {
        lines.push(format!("models: {}", footer.models.join(", ")));
    }
    if !footer.stand_ins.is_empty() {
        lines.push(format!("stand-ins: {}", footer.stand_ins.join(", ")));
    }
    lines
}

/// What the interns did and saved; nothing when they did nothing.
pub fn interns(interns: &crate::domain::report::InternStats) -> Option<String> {
    if interns.items == 0 && interns.saved_usd <= 0.0 {
        return None;
    }
    let head = if interns.saved_usd > 0.0 {
        format!("interns saved about {} against the boss alone", text::usd(interns.saved_usd))
    } else {
        format!("interns worked on {}", text::counted(u64::from(interns.items), "item"))
    };
    let mut facts = Vec::new();
    match interns.audited {
        0 => facts.push("none audited".to_owned()),
        audited => facts.push(format!("audited disagreement {} of {audited}", interns.disagreed)),
    }
    if interns.escalated > 0 {
        facts.push(format!("{} of {} escalated", interns.escalated, interns.items));
    }
    Some(format!("{head} ({})", facts.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::sample;

    #[test]
    fn a_report_is_markdown_that_reads_well_as_plain_text_too() {
        sample::golden("report.md", &render(&sample::report()));
    }

    #[test]
    fn only_paths_of_the_run_itself_are_links() {
        assert_eq!(own_path("out/p/01J/pr-3f9c/index.html", "p", "01J").as_deref(), Some("pr-3f9c/index.html"));
        assert_eq!(own_path("/x/out/tickets/a-1f.md", "p", "01J").as_deref(), Some("../../tickets/a-1f.md"));
        assert_eq!(own_path("out/pr-3f9c/index.html", "p", "01J").as_deref(), Some("../../pr-3f9c/index.html"));
        for foreign in [
            "https://x/p/01K/a",
            "https://x/tickets/a.md",
            "tickets/a b.md",
            "pr-1/x.html",
            "a.md",
            "out/p/01J/../../x",
            "out/p/01J//x",
            "out/p/01J/a b",
            "out/p/01J/",
            "/etc/passwd",
        ] {
            assert_eq!(own_path(foreign, "p", "01J"), None, "{foreign}");
        }
    }
}
