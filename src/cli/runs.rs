//! `nightcrew runs [ID]`: the list, or one run whole with its timeline.

use super::args::RunsArgs;
use super::session::Session;
use super::ui::{clip, table};
use super::{Exit, show, slots};
use crate::domain::view::RunView;
use crate::journal::{Reader, RunFilter};
use crate::sinks::terminal::{self, Style};

pub fn run(session: &Session, args: &RunsArgs) -> anyhow::Result<Exit> {
    if let Some(id) = &args.id {
        let reader = session.must_reader()?;
        let view = session.find_run(&reader, id)?;
        match session.ui.json {
            true => session.ui.data_json(&show::runs_json(std::slice::from_ref(&view)))?,
            false => session.ui.data(whole(session, &reader, &view).trim_end())?,
        }
        return Ok(Exit::Done);
    }
    let filter = RunFilter { pipeline: args.pipeline.clone(), open_only: args.open, limit: args.limit };
    let reader = session.reader()?;
    let lines = match &reader {
        Some(reader) => reader.runs(filter)?,
        None => Vec::new(),
    };
    if session.ui.json {
        let mut views = Vec::new();
        for line in &lines {
            if let Some(reader) = &reader {
                views.extend(reader.run(line.id.as_str())?);
            }
        }
        session.ui.data_json(&show::runs_json(&views))?;
        return Ok(Exit::Done);
    }
    if lines.is_empty() {
        session.ui.data("no runs")?;
        return Ok(Exit::Done);
    }
    let zone = jiff::tz::TimeZone::system();
    let rows: Vec<_> = lines
        .iter()
        .map(|line| {
            vec![
                line.id.short(),
                line.pipeline.clone(),
                line.started_at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
                line.trigger.clone(),
                line.outcome.map_or_else(|| "open".to_owned(), |outcome| outcome.to_string()),
                line.cost.to_string(),
                clip(&line.headline, 60),
            ]
        })
        .collect();
    let head = ["RUN", "PIPELINE", "STARTED", "TRIGGER", "OUTCOME", "COST", "HEADLINE"];
    session.ui.data(table(&head, &rows, &[5]))?;
    Ok(Exit::Done)
}

/// The run with its timeline, receipts and reasons.
fn whole(session: &Session, reader: &Reader, view: &RunView) -> String {
    let style = Style { color: session.ui.color_out(), width: session.ui.width() };
    let mut out = terminal::header(view, &show::models(reader, view), None, style) + "\n";
    let start = &view.start;
    let mut fact = |name: &str, value: String| {
        if !value.is_empty() {
            out.push_str(&format!("    {name:<11} {value}\n"));
        }
    };
    fact("id", start.id.to_string());
    fact("trigger", format!("{} {}", start.trigger.kind, clip(&start.trigger.key, 60)));
    fact("nominal", slots::local(start.nominal_at, &start.timezone));
    fact("started", slots::local(start.started_at, &start.timezone));
    fact("finished", view.finished_at.map(|at| slots::local(at, &start.timezone)).unwrap_or_default());
    if !start.params.is_empty() {
        fact("params", clip(&serde_json::Value::from(start.params.clone()).to_string(), 90));
    }
    fact("definition", start.definition.short());
    for step in &view.steps {
        let live = step.outcome.is_none().then_some(terminal::Live {
            mark: "▸",
            elapsed: std::time::Duration::ZERO,
            doing: &step.kind,
        });
        out.push_str(&terminal::step_line(step, live, style));
        out.push('\n');
    }
    out.push('\n');
    for receipt in &view.receipts {
        out.push_str(&format!("{} → {} {}\n", receipt.kind, receipt.destination, receipt.url_or_path));
    }
    out.push_str(&terminal::closing(view, &[], style));
    out
}
