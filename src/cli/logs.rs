//! `nightcrew logs ID [-f]`: the entries of a run, one line each; as JSON one entry per line.

use std::time::Duration;

use serde_json::Value;

use super::Exit;
use super::args::LogsArgs;
use super::session::Session;
use super::ui::{DIM, RED, clip, paint};
use crate::domain::entry::{Entry, EntryKind};
use crate::sinks::text;

/// Entries read at once.
const CHUNK: u32 = 500;
/// Looks at the journal of another process are this far apart.
const POLL: Duration = Duration::from_millis(250);

pub async fn run(session: &Session, args: LogsArgs) -> anyhow::Result<Exit> {
    let reader = session.must_reader()?;
    let run = session.find_run(&reader, &args.id)?.start.id;
    let mut seq = 0;
    let mut told = false;
    loop {
        // Asked before reading: what ends afterwards is seen in the next round.
        let open = reader.run(run.as_str())?.is_some_and(|view| view.outcome.is_none());
        loop {
            let entries = reader.entries_after(Some(&run), seq, CHUNK)?;
            let Some(last) = entries.last() else { break };
            seq = last.seq;
            for entry in &entries {
                print(session, entry)?;
            }
        }
        if !args.follow || !open {
            return Ok(Exit::Done);
        }
        if !told && session.holder().await?.is_none() {
            told = true;
            session
                .ui
                .say(format!("nobody is at it now; go on with: {}", session.again(&format!("resume {}", run.short()))));
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Done),
        }
    }
}

fn print(session: &Session, entry: &Entry) -> anyhow::Result<()> {
    if session.ui.json {
        return session.ui.data(serde_json::to_string(entry)?);
    }
    let zone = jiff::tz::TimeZone::system();
    let at = entry.at.to_zoned(zone).strftime("%H:%M:%S%.3f").to_string();
    let color = session.ui.color_out();
    let kind = format!("{:<17}", entry.kind.as_str());
    let kind = if entry.kind == EntryKind::ActivityFailed { paint(color, RED, &kind) } else { kind };
    let path = if entry.path.is_empty() { "·".to_owned() } else { text::line(&entry.path) };
    let attempt = if entry.attempt > 1 { format!(" (attempt {})", entry.attempt) } else { String::new() };
    let room = session.ui.width().saturating_sub(34 + text::width(&path)).max(30);
    let said = clip(&gist(entry), room);
    session.ui.data(format!("{} {kind} {path}{attempt}  {}", paint(color, DIM, &at), paint(color, DIM, &said)))
}

/// What an entry says, in a line.
fn gist(entry: &Entry) -> String {
    let Ok(payload) = serde_json::from_str::<Value>(entry.payload.get()) else { return String::new() };
    let text = |key: &str| payload.get(key).and_then(Value::as_str).map(str::to_owned);
    match entry.kind {
        EntryKind::StepFinished | EntryKind::ChildFinished => {
            let outcome = payload.pointer("/result/outcome").or_else(|| payload.get("outcome"));
            let outcome = outcome.and_then(Value::as_str).unwrap_or_default().to_owned();
            let rest = text("summary").filter(|s| !s.is_empty()).or_else(|| text("reason")).unwrap_or_default();
            if rest.is_empty() { outcome } else { format!("{outcome}: {rest}") }
        }
        EntryKind::RunFinished => {
            let outcome = text("outcome").unwrap_or_default();
            match payload.pointer("/failure/message").and_then(Value::as_str) {
                Some(why) => format!("{outcome}: {why}"),
                None => format!("{outcome} {}", text("headline").unwrap_or_default()),
            }
        }
        EntryKind::RunStarted => {
            let trigger = payload.pointer("/trigger/kind").and_then(Value::as_str).unwrap_or_default();
            format!("{} by {trigger}", text("pipeline").unwrap_or_default())
        }
        EntryKind::StepStarted => text("kind").unwrap_or_default(),
        EntryKind::ChildStarted => text("title").unwrap_or_default(),
        EntryKind::Complaint => format!("{}: {}", text("kind").unwrap_or_default(), text("need").unwrap_or_default()),
        EntryKind::ActivityFailed => {
            let message = ["/message", "/0/message", "/failure/message"].iter().find_map(|p| payload.pointer(p));
            message.and_then(Value::as_str).map_or_else(|| payload.to_string(), str::to_owned)
        }
        EntryKind::ActivityDone => match (payload.get("usage"), payload.get("rows").and_then(Value::as_array)) {
            (Some(usage), _) => format!("{} {usage}", text("model").unwrap_or_default()),
            (None, Some(rows)) => format!("{} rows", rows.len()),
            (None, None) => payload.to_string(),
        },
        EntryKind::RunResumed
        | EntryKind::ActivityIntended
        | EntryKind::Value
        | EntryKind::Signal
        | EntryKind::Message
        | EntryKind::Note
        | EntryKind::Asked => payload.to_string(),
    }
}
