//! The conversation of a run as people read it, from the journal's entries.

use serde_json::Value;
use serde_json::value::RawValue;

use crate::base::ids::RunId;
use crate::domain::activity::ToolAnswer;
use crate::domain::entry::{Entry, EntryKind};
use crate::domain::model::{Block, Message, ModelAnswer};
use crate::journal::{Error, Reader};
use crate::sinks::page::TranscriptItem;

/// Entries read at a time.
const PAGE: u32 = 1_000;

/// Everything that was said to models and by them, in order.
pub(super) fn of_run(reader: &Reader, run: &RunId) -> Result<Vec<TranscriptItem>, Error> {
    let mut items = Vec::new();
    let mut after = 0;
    loop {
        let entries = reader.entries_after(Some(run), after, PAGE)?;
        let Some(last) = entries.last() else { return Ok(items) };
        after = last.seq;
        items.extend(entries.iter().filter_map(item));
    }
}

fn item(entry: &Entry) -> Option<TranscriptItem> {
    let (speaker, text) = match entry.kind {
        EntryKind::Message => ("host".to_owned(), spoken(&entry.payload)?),
        EntryKind::ActivityDone => match serde_json::from_str::<ModelAnswer>(entry.payload.get()) {
            Ok(answer) => (answer.model, spoken(&answer.message)?),
            Err(_) => {
                let answer: ToolAnswer = serde_json::from_str(entry.payload.get()).ok()?;
                ("tool".to_owned(), answer.text)
            }
        },
        _ => return None,
    };
    Some(TranscriptItem { speaker, step: entry.path.clone(), text })
}

/// The text of a message; tool calls as `name {input}`. Thinking stays out: it is not addressed to people.
fn spoken(message: &RawValue) -> Option<String> {
    let message = Message::from_raw(message).ok()?;
    let parts: Vec<String> = message
        .content
        .into_iter()
        .filter_map(|block| match block {
            Block::Text { text } => Some(text),
            Block::ToolUse { name, input, .. } => Some(format!("→ {name} {}", Value::to_string(&input))),
            Block::ToolResult { content, .. } => Some(content),
            Block::Thinking { .. } | Block::RedactedThinking { .. } | Block::Other => None,
        })
        .collect();
    (!parts.is_empty()).then(|| parts.join("\n\n"))
}
