//! `nightcrew slots`: what was due and what became of it.

use jiff::tz::TimeZone;
use serde_json::json;

use super::Exit;
use super::args::SlotsArgs;
use super::session::Session;
use super::ui::table;
use crate::base::clock::Timestamp;

pub fn run(session: &Session, args: &SlotsArgs) -> anyhow::Result<Exit> {
    let slots = match session.reader()? {
        Some(reader) => reader.slots(args.pipeline.as_deref(), args.limit)?,
        None => Vec::new(),
    };
    if session.ui.json {
        session.ui.data_json(&json!({ "slots": slots }))?;
        return Ok(Exit::Done);
    }
    if slots.is_empty() {
        session.ui.data("no slot was due yet")?;
        return Ok(Exit::Done);
    }
    let rows: Vec<_> = slots
        .iter()
        .map(|slot| {
            vec![
                slot.pipeline.clone(),
                local(slot.nominal_at, &slot.timezone),
                slot.fate.to_string(),
                slot.run.as_ref().map(|run| run.short()).unwrap_or_default(),
                slot.reason.clone(),
            ]
        })
        .collect();
    session.ui.data(table(&["PIPELINE", "DUE", "BECAME", "RUN", "REASON"], &rows, &[]))?;
    Ok(Exit::Done)
}

/// A moment as the wall clock of a zone shows it, with the zone.
pub fn local(at: Timestamp, timezone: &str) -> String {
    let zone = TimeZone::get(timezone).unwrap_or(TimeZone::UTC);
    at.to_zoned(zone).strftime("%a %Y-%m-%d %H:%M:%S %Z").to_string()
}
