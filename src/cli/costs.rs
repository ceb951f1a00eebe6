//! `nightcrew costs`: what was spent, by day and pipeline.

use serde_json::json;

use super::Exit;
use super::args::CostsArgs;
use super::session::Session;
use super::ui::table;
use crate::base::money::UsdMicros;
use crate::domain::view::CostLine;

fn total(line: &CostLine) -> UsdMicros {
    line.boss + line.intern + line.reviewer + line.sandbox + line.reserved
}

pub fn run(session: &Session, args: &CostsArgs) -> anyhow::Result<Exit> {
    let lines = match session.reader()? {
        Some(reader) => reader.costs(args.days, session.env.now())?,
        None => Vec::new(),
    };
    let sum: UsdMicros = lines.iter().map(total).sum();
    if session.ui.json {
        let rows: Vec<_> = lines
            .iter()
            .map(|line| {
                json!({
                    "day": line.day, "pipeline": line.pipeline, "runs": line.runs, "usd": total(line).as_usd(),
                    "boss": {"calls": line.boss_calls, "usd": line.boss.as_usd()},
                    "intern": {"calls": line.intern_calls, "usd": line.intern.as_usd()},
                    "reviewer": {"usd": line.reviewer.as_usd()}, "sandbox": {"usd": line.sandbox.as_usd()},
                    "reserved_usd": line.reserved.as_usd(),
                })
            })
            .collect();
        session.ui.data_json(&json!({"days": args.days, "costs": rows, "total_usd": sum.as_usd()}))?;
        return Ok(Exit::Done);
    }
    if lines.is_empty() {
        session.ui.data(format!("nothing was spent in the last {} days", args.days))?;
        return Ok(Exit::Done);
    }
    let rows: Vec<_> = lines
        .iter()
        .map(|line| {
            vec![
                line.day.clone(),
                line.pipeline.clone(),
                line.runs.to_string(),
                format!("{} ({})", line.boss, line.boss_calls),
                format!("{} ({})", line.intern, line.intern_calls),
                line.reviewer.to_string(),
                line.sandbox.to_string(),
                line.reserved.to_string(),
                total(line).to_string(),
            ]
        })
        .collect();
    let head = [
        "DAY (UTC)",
        "PIPELINE",
        "RUNS",
        "BOSS (CALLS)",
        "INTERNS (CALLS)",
        "REVIEWER",
        "SANDBOX",
        "RESERVED",
        "TOTAL",
    ];
    session.ui.data(table(&head, &rows, &[2, 3, 4, 5, 6, 7, 8]))?;
    session.ui.data(format!("{sum} in the last {} days", args.days))?;
    Ok(Exit::Done)
}
