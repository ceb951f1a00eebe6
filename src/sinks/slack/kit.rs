//! Block Kit from typed parts. Pure.
//!
//! Untrusted text stands only where Slack reads no markup: `plain_text`, the text elements of `rich_text`, the cells of a table. So
//! there is nothing to escape there, no mention and no link of its own. Limits are Slack's, counted in UTF-16.

use serde_json::{Value, json};
use unicode_normalization::UnicodeNormalization as _;

use crate::sinks::text;

pub const BLOCKS: usize = 50;
pub const TEXT: usize = 3_000;
pub const HEADER: usize = 150;
const BUTTON: usize = 75;
const BUTTONS: usize = 25;
const ROWS: usize = 100;
const COLUMNS: usize = 20;
const CELL: usize = 300;
/// All cells of one message; Slack's limit is 10,000.
const TABLE: usize = 9_000;
/// All text of one message.
const MESSAGE: usize = 10_000;
/// Items of one list.
const ITEMS: usize = 40;

/// Clean text on one line, in one Unicode form.
pub fn line(found: &str) -> String {
    text::line(&text::clean(found).nfc().collect::<String>())
}

/// The same over several lines.
pub fn lines(found: &str) -> String {
    let cleaned = text::clean(&text::clean(found).nfc().collect::<String>());
    cleaned.replace('\t', "    ").lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim().to_owned()
}

/// Length as Slack counts.
pub fn length(text: &str) -> usize {
    text.encode_utf16().count()
}

/// At most so many, with `…` if something was cut.
pub fn cut(text: &str, most: usize) -> String {
    if length(text) <= most {
        return text.to_owned();
    }
    let mut used = 1;
    let kept = text.chars().take_while(|c| {
        used += c.len_utf16();
        used <= most
    });
    kept.collect::<String>().trim_end().to_owned() + "…"
}

/// Pieces of at most `most`, parted at line ends or spaces where there are any.
pub fn pieces(text: &str, most: usize) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut rest = text.trim();
    while length(rest) > most {
        let mut used = 0;
        let end = rest.char_indices().find(|(_, c)| {
            used += c.len_utf16();
            used > most
        });
        let end = end.map_or(rest.len(), |(at, _)| at);
        let head = &rest[..end];
        let at = head.rfind('\n').or_else(|| head.rfind(' ')).filter(|at| *at > end / 2).unwrap_or(end);
        pieces.push(rest[..at].trim_end().to_owned());
        rest = rest[at..].trim_start();
    }
    if !rest.is_empty() {
        pieces.push(rest.to_owned());
    }
    pieces
}

/// For the fields that Slack reads as its own markup: what programs show in a notification.
pub fn escaped(found: &str, most: usize) -> String {
    cut(&line(found), most).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn plain(text: &str, most: usize) -> Value {
    json!({"type": "plain_text", "text": cut(text, most), "emoji": true})
}

pub fn header(text: &str) -> Value {
    json!({"type": "header", "text": plain(&line(text), HEADER)})
}

/// Small print, a line each.
pub fn context(lines: &[String]) -> Option<Value> {
    let text = lines.iter().map(|l| line(l)).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("\n");
    (!text.is_empty()).then(|| json!({"type": "context", "elements": [plain(&text, TEXT)]}))
}

/// Text with what stands in backticks as code; every part literal.
pub fn inline(found: &str) -> Vec<Value> {
    let parts = text::spans(found).into_iter();
    parts
        .map(|(is_code, part)| match is_code {
            true => json!({"type": "text", "text": part, "style": {"code": true}}),
            false => json!({"type": "text", "text": part}),
        })
        .collect()
}

pub fn bold(text: &str) -> Value {
    json!({"type": "text", "text": text, "style": {"bold": true}})
}

pub fn code(text: &str) -> Value {
    json!({"type": "text", "text": text, "style": {"code": true}})
}

/// A link that was allowed.
pub fn link(title: &str, url: &str) -> Value {
    json!({"type": "link", "url": url, "text": title})
}

fn section(elements: Vec<Value>) -> Value {
    json!({"type": "rich_text_section", "elements": elements})
}

/// One line of elements.
pub fn rich(elements: Vec<Value>) -> Option<Value> {
    let elements: Vec<Value> = elements.into_iter().filter(|element| element["text"] != "").collect();
    (!elements.is_empty()).then(|| json!({"type": "rich_text", "elements": [section(elements)]}))
}

/// Paragraphs, each block at most as long as Slack takes.
pub fn paragraphs(found: &str) -> Vec<Value> {
    pieces(&lines(found), TEXT).iter().filter_map(|piece| rich(inline(piece))).collect()
}

/// A list. Items are elements of their own.
pub fn list(items: Vec<Vec<Value>>) -> Vec<Value> {
    let mut blocks = Vec::new();
    let (mut held, mut used) = (Vec::new(), 0);
    let mut close = |held: &mut Vec<Value>| {
        if !held.is_empty() {
            let list = json!({"type": "rich_text_list", "style": "bullet", "elements": std::mem::take(held)});
            blocks.push(json!({"type": "rich_text", "elements": [list]}));
        }
    };
    for item in items.into_iter().filter(|item| !item.is_empty()) {
        let size: usize = item.iter().filter_map(|element| element["text"].as_str()).map(length).sum();
        if used + size > TEXT || held.len() >= ITEMS {
            close(&mut held);
            used = 0;
        }
        used += size;
        held.push(section(item));
    }
    close(&mut held);
    blocks
}

/// A list of untrusted texts.
pub fn bullets<S: AsRef<str>>(items: &[S]) -> Vec<Value> {
    list(items.iter().map(|item| inline(&cut(&line(item.as_ref()), 1_500))).collect())
}

/// Lines as they are, in one width.
pub fn preformatted(found: &str, most: usize) -> Option<Value> {
    let text = cut(&lines(found), most);
    let elements = json!([{"type": "text", "text": text}]);
    (!text.is_empty())
        .then(|| json!({"type": "rich_text", "elements": [{"type": "rich_text_preformatted", "elements": elements}]}))
}

/// A table that phones scroll sideways; and how many rows did not fit. Texts of its first row are headings.
pub fn table(columns: &[String], rows: &[Vec<String>], numeric: &[bool]) -> (Value, usize) {
    let cell = |text: &String| {
        let text = cut(&line(text), CELL);
        json!({"type": "raw_text", "text": if text.is_empty() { "–".to_owned() } else { text }})
    };
    let heading = |text: &String| {
        let text = cut(&line(text), CELL);
        let elements = json!([bold(if text.is_empty() { "–" } else { &text })]);
        json!({"type": "rich_text", "elements": [{"type": "rich_text_section", "elements": elements}]})
    };
    let width = columns.len().min(COLUMNS);
    let mut shown = vec![Value::from(columns[..width].iter().map(heading).collect::<Vec<_>>())];
    let mut used: usize = columns[..width].iter().map(|text| length(text).min(CELL)).sum();
    for row in rows.iter().take(ROWS - 1) {
        let size: usize = row.iter().take(width).map(|text| length(text).clamp(1, CELL)).sum();
        if used + size > TABLE {
            break;
        }
        used += size;
        shown.push(Value::from(row.iter().take(width).map(cell).collect::<Vec<_>>()));
    }
    let left_out = rows.len() + 1 - shown.len();
    let settings: Vec<Value> = (0..width)
        .map(|i| match numeric.get(i) {
            Some(true) => json!({"align": "right"}),
            _ => json!({"is_wrapped": true}),
        })
        .collect();
    (json!({"type": "table", "rows": shown, "column_settings": settings}), left_out)
}

/// A button that says something to us.
pub fn button(label: &str, action: &str, value: &str, style: Option<&str>) -> Value {
    let mut button = json!({"type": "button", "text": plain(label, BUTTON), "action_id": action, "value": value});
    if let Some(style) = style {
        button["style"] = style.into();
    }
    button
}

/// A button that opens an allowed address. `action` is unique in its block.
pub fn link_button(label: &str, action: &str, url: &str) -> Value {
    json!({"type": "button", "text": plain(label, BUTTON), "action_id": action, "url": url})
}

pub fn actions(elements: Vec<Value>) -> Option<Value> {
    let elements: Vec<Value> = elements.into_iter().take(BUTTONS).collect();
    (!elements.is_empty()).then(|| json!({"type": "actions", "elements": elements}))
}

/// Blocks in as few messages as Slack takes them in: 50 blocks, so much text, one table each.
pub fn pack(blocks: Vec<Value>) -> Vec<Vec<Value>> {
    let mut messages: Vec<Vec<Value>> = Vec::new();
    let (mut held, mut used, mut tables) = (Vec::new(), 0, 0);
    for block in blocks {
        let (size, table) = (block.to_string().len().min(MESSAGE), usize::from(block["type"] == "table"));
        if held.len() >= BLOCKS || used + size > MESSAGE && !held.is_empty() && table == 0 || tables + table > 1 {
            // A heading stays with its table.
            let title = (table == 1 && held.last().is_some_and(is_title)).then(|| held.pop()).flatten();
            if !held.is_empty() {
                messages.push(std::mem::take(&mut held));
            }
            held.extend(title);
            (used, tables) = (0, 0);
        }
        used += size;
        tables += table;
        held.push(block);
    }
    if !held.is_empty() {
        messages.push(held);
    }
    messages
}

fn is_title(block: &Value) -> bool {
    block["elements"][0]["elements"][0]["style"]["bold"] == true
        && block["elements"][0]["elements"].as_array().is_some_and(|elements| elements.len() == 1)
}
