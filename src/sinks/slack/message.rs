//! From a report to messages: what stands in the channel, and what in its thread. Pure.
//!
//! Phone-first: the first line alone is enough, then what is certain, what to do, what it cost. Tables, long texts and how it was
//! made are in the thread.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::kit;
use super::links::{Hosts, label};
use crate::base::hash::Hash;
use crate::domain::report::{Link, Question, Report, ReportBlock, ReportFinding};
use crate::domain::run::{Effects, Outcome};
use crate::sinks::{markdown, text};

/// Body text of the message in the channel, in characters; what is beyond goes to the thread.
const BRIEF: usize = 1_200;
/// Bullets of it.
const BRIEF_ITEMS: usize = 6;
/// Findings with buttons in the channel's message, where a report has one message.
const BRIEF_FINDINGS: usize = 3;
/// Findings told at all.
const MOST_FINDINGS: usize = 40;
/// What a notification shows.
const NOTIFIED: usize = 300;
/// What is asked about, in the channel, in characters.
const GIVEN: usize = 5_500;
/// Ways out told in the channel.
const BRIEF_HELPS: usize = 3;

/// One message, without where it goes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    pub text: String,
    pub blocks: Vec<Value>,
}

impl Message {
    fn new(text: &str, blocks: Vec<Value>) -> Self {
        Self { text: kit::escaped(text, NOTIFIED), blocks: blocks.into_iter().take(kit::BLOCKS).collect() }
    }

    /// Two messages with the same digest look the same.
    pub fn digest(&self) -> String {
        let blocks = Value::from(self.blocks.clone()).to_string();
        Hash::of_parts([self.text.as_bytes(), blocks.as_bytes()]).short()
    }
}

/// A report in one message and its thread.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rendered {
    pub main: Message,
    pub thread: Vec<Message>,
}

/// The whole report as one message and its thread. `with_findings`: they have no messages of their own.
pub fn report(report: &Report, hosts: &Hosts, with_findings: bool) -> Rendered {
    let headline = kit::line(&report.headline);
    let first = format!("{} {headline}", emoji(report));
    let mut main = vec![kit::header(&first)];
    if kit::length(&first) > kit::HEADER {
        main.extend(kit::paragraphs(&headline));
    }
    main.extend(kit::context(&preview(report).into_iter().collect::<Vec<_>>()));
    let (mut brief, mut rest) = (Vec::new(), Vec::new());
    let mut room = (BRIEF, BRIEF_ITEMS);
    body(report, hosts, &mut room, &mut brief, &mut rest);
    main.extend(brief);
    if let Some(question) = &report.question {
        let (shown, more) = given(question);
        main.extend(shown);
        main.extend(asked(report, question));
        rest.extend(more);
    }
    let footer = &report.footer;
    if !footer.help.is_empty() {
        main.extend(kit::rich(vec![kit::bold("What to do")]));
        main.extend(kit::bullets(&footer.help[..footer.help.len().min(BRIEF_HELPS)]));
        rest.extend(kit::bullets(footer.help.get(BRIEF_HELPS..).unwrap_or_default()));
    }
    if with_findings {
        for (index, found) in report.findings.iter().take(MOST_FINDINGS).enumerate() {
            let blocks = finding_blocks(found, hosts, index);
            if index < BRIEF_FINDINGS { main.extend(blocks) } else { rest.extend(blocks) }
        }
    }
    main.truncate(kit::BLOCKS - 1);
    main.extend(kit::context(&small_print(report)));
    if report.question.is_none() {
        rest.extend(the_rest(report));
    }
    let name = kit::line(&report.pipeline);
    let thread = kit::pack(rest).into_iter().map(|blocks| Message::new(&format!("{name}: details"), blocks));
    Rendered { main: Message::new(&first, main), thread: thread.collect() }
}

/// One finding in a message of its own.
pub fn finding(report: &Report, found: &ReportFinding, hosts: &Hosts) -> Message {
    let (mark, phrase) = state(&found.state);
    let title = kit::line(&found.title);
    let first = format!("{mark} {phrase}: {title}");
    let mut blocks = vec![kit::header(&first)];
    if kit::length(&first) > kit::HEADER {
        blocks.extend(kit::paragraphs(&title));
    }
    blocks.extend(told(found));
    blocks.extend(kit::actions(buttons(found, hosts)));
    blocks.extend(places(found, hosts));
    let mut small = small_print(report);
    if report.effects == Effects::Preview {
        small.push("👁 effects: preview".into());
    }
    blocks.extend(kit::context(&small));
    Message::new(&first, blocks)
}

/// What moved, for the thread: an edit rings no phone.
pub fn moved(found: &ReportFinding, hosts: &Hosts) -> Message {
    let (mark, phrase) = state(&found.state);
    let first = format!("{mark} {phrase}");
    let mut blocks: Vec<Value> = kit::rich(vec![kit::bold(&first)]).into_iter().collect();
    blocks.extend(told(found));
    let links = found.links.iter().filter_map(|link| hosts.allowed(&link.url_or_path));
    let links = links.enumerate().map(|(n, url)| kit::link_button(&label(&url), &format!("link.{n}"), &url));
    blocks.extend(kit::actions(links.collect()));
    Message::new(&format!("{first}: {}", kit::line(&found.title)), blocks)
}

/// Whether somebody should look when a finding comes into this state.
pub fn needs_a_person(state: &str) -> bool {
    matches!(state, "draft" | "ticket" | "updated" | "failed" | "unproved")
}

/// How a finding stands: a mark, and words that the first line begins with.
fn state(state: &str) -> (&'static str, String) {
    let (mark, words) = match state {
        "draft" => ("✅", "Draft PR ready for review"),
        "would_draft" => ("👁", "Would open a draft PR"),
        "ticket" => ("🎫", "Ticket opened"),
        "would_ticket" => ("👁", "Would open a ticket"),
        "updated" => ("🎫", "Ticket updated, it got worse"),
        "unchanged" => ("🎫", "Ticket as before"),
        "closed" => ("☑️", "Gone, its ticket is closed"),
        "left_alone" => ("🤚", "Left alone, a person closed it"),
        "declined" => ("🤚", "Looked at and left alone"),
        "unproved" => ("🔍", "No proven fix yet"),
        "failed" => ("❌", "Could not be worked on"),
        "merged" => ("🎉", "Fix merged"),
        other => return ("🔎", capital(&kit::line(&other.replace('_', " ")))),
    };
    (mark, words.to_owned())
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(|| "Seen".to_owned(), |first| first.to_uppercase().chain(chars).collect())
}

fn emoji(report: &Report) -> &'static str {
    if let Some(question) = &report.question {
        return match question.answered.as_ref().map(|(how, _)| how.as_str()) {
            None => "✋",
            Some("approved") => "✅",
            Some("expired") => "⌛",
            Some(_) => "🚫",
        };
    }
    match report.outcome {
        Some(Outcome::NothingNew) => "🌙",
        Some(Outcome::Acted) => "✅",
        Some(Outcome::Declined) => "🤚",
        Some(Outcome::Blocked) => "⛔",
        Some(Outcome::Capped) => "⏸️",
        Some(Outcome::Failed) => "❌",
        Some(Outcome::Unsafe) => "🛑",
        Some(Outcome::Cancelled) => "⏹️",
        Some(Outcome::Reported) | None if report.chart.is_some() => "📊",
        Some(Outcome::Reported) => "📝",
        None => "▶️",
    }
}

/// `👁 Preview: would have opened 1 draft PR and 2 tickets`.
fn preview(report: &Report) -> Option<String> {
    if report.effects != Effects::Preview || report.question.is_some() {
        return None;
    }
    let of_blocks = report.blocks.iter().filter_map(|block| match block {
        ReportBlock::Links { items } => Some(items),
        _ => None,
    });
    let would: Vec<&Link> = of_blocks.flatten().filter(|link| link.preview).collect();
    let of_state = |state: &str| report.findings.iter().filter(|found| found.state == state).count();
    // A link of the body does not always say what it would have led to; a finding does.
    let drafts = would.iter().filter(|link| link.title.starts_with("Draft pull request")).count();
    let tickets = would.len() - drafts;
    let (drafts, tickets) = match (of_state("would_draft"), of_state("would_ticket")) {
        (0, 0) => (drafts, tickets),
        of_findings => of_findings,
    };
    let counts = [(drafts, "draft PR"), (tickets, "ticket")];
    let counts = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| text::counted(*n as u64, what));
    let counts = counts.collect::<Vec<_>>().join(" and ");
    Some(match counts.is_empty() {
        true => "👁 Preview: nothing is published but this report".into(),
        false => format!("👁 Preview: would have opened {counts}"),
    })
}

/// The body in its order: the first short texts in the channel, everything else in the thread.
fn body(report: &Report, hosts: &Hosts, room: &mut (usize, usize), brief: &mut Vec<Value>, rest: &mut Vec<Value>) {
    for block in &report.blocks {
        match block {
            ReportBlock::Notice { text } => {
                brief.extend(kit::rich(inline_with("⚠️ ", &kit::cut(&kit::line(text), 600))))
            }
            ReportBlock::Links { items } => brief.extend(links(items, hosts)),
            ReportBlock::Paragraph { text } => {
                let size = kit::length(&kit::lines(text));
                let into = if size <= room.0 { &mut *brief } else { &mut *rest };
                room.0 = room.0.saturating_sub(size);
                into.extend(kit::paragraphs(text));
            }
            ReportBlock::Bullets { items } => {
                let fits = |item: &&String| {
                    let size = kit::length(&kit::line(item));
                    let fits = room.1 > 0 && size <= room.0;
                    *room = if fits { (room.0 - size, room.1 - 1) } else { (0, 0) };
                    fits
                };
                let first = items.iter().take_while(fits).count();
                brief.extend(kit::bullets(&items[..first]));
                rest.extend(kit::bullets(&items[first..]));
            }
            ReportBlock::Table { title, columns, rows } => rest.extend(table(title, columns, rows)),
        }
    }
}

fn inline_with(mark: &str, found: &str) -> Vec<Value> {
    let mut elements = vec![json!({"type": "text", "text": mark})];
    elements.extend(kit::inline(found));
    elements
}

fn links(items: &[Link], hosts: &Hosts) -> Vec<Value> {
    let item = |link: &Link| {
        let title = kit::cut(&kit::line(&link.title), 300);
        let mut elements = Vec::new();
        if link.preview {
            elements.push(json!({"type": "text", "text": "would have opened: "}));
        }
        match hosts.allowed(&link.url_or_path) {
            Some(url) => elements.push(kit::link(&title, &url)),
            None => {
                elements.extend(kit::inline(&title));
                let path = kit::cut(&kit::line(&link.url_or_path), 300);
                if !path.is_empty() {
                    elements.extend([json!({"type": "text", "text": " "}), kit::code(&path)]);
                }
            }
        }
        elements
    };
    kit::list(items.iter().map(item).collect())
}

fn table(title: &str, columns: &[String], rows: &[Vec<Value>]) -> Vec<Value> {
    let null = Value::Null;
    // A `flagged` column of booleans is a mark at its row instead.
    let flag = columns.iter().position(|c| c == "flagged");
    let flag = flag.filter(|i| rows.iter().all(|r| r.get(*i).is_none_or(Value::is_boolean)));
    let shown: Vec<usize> = (0..columns.len()).filter(|i| Some(*i) != flag).collect();
    let numeric: Vec<bool> = shown
        .iter()
        .map(|i| {
            let mut cells = rows.iter().filter_map(|row| row.get(*i)).filter(|v| !v.is_null()).peekable();
            cells.peek().is_some() && cells.all(Value::is_number)
        })
        .collect();
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let hot = flag.and_then(|i| row.get(i)) == Some(&Value::Bool(true));
            let cell = |(place, i): (usize, &usize)| {
                let text = text::cell(&columns[*i], row.get(*i).unwrap_or(&null));
                if hot && place == 0 { format!("⚑ {text}") } else { text }
            };
            shown.iter().enumerate().map(cell).collect()
        })
        .collect();
    let mut blocks: Vec<Value> = Vec::new();
    if !title.is_empty() {
        blocks.extend(kit::rich(vec![kit::bold(&capital(&kit::cut(&text::heading(title), 200)))]));
    }
    if rows.is_empty() {
        return Vec::new();
    }
    let heads: Vec<String> = shown.iter().map(|i| text::heading(&columns[*i])).collect();
    let (table, left_out) = kit::table(&heads, &cells, &numeric);
    blocks.push(table);
    if left_out > 0 {
        blocks.extend(kit::context(&[format!("{} not shown here", text::counted(left_out as u64, "more row"))]));
    }
    blocks
}

/// How often it was seen, and its proof.
fn told(found: &ReportFinding) -> Vec<Value> {
    let lines = found.lines.iter().map(|line| kit::line(line)).filter(|line| !line.is_empty());
    let lines = kit::cut(&lines.collect::<Vec<_>>().join(" · "), 1_000);
    let mut blocks: Vec<Value> = kit::rich(kit::inline(&lines)).into_iter().collect();
    if let Some(proof) = found.proof.as_deref().map(kit::line).filter(|proof| !proof.is_empty()) {
        let mut elements = vec![kit::bold("Proof: ")];
        elements.extend(kit::inline(&kit::cut(&proof, 1_000)));
        blocks.extend(kit::rich(elements));
    }
    blocks
}

/// Where it can be seen, for those of its places that are no links.
fn places(found: &ReportFinding, hosts: &Hosts) -> Vec<Value> {
    let local: Vec<Link> =
        found.links.iter().filter(|link| hosts.allowed(&link.url_or_path).is_none()).cloned().collect();
    links(&local, hosts)
}

/// `[Review PR #214] [Wrong cause] [Won't fix]`. The last two are for the ledger: only where the finding is in it.
fn buttons(found: &ReportFinding, hosts: &Hosts) -> Vec<Value> {
    let open = found.links.iter().filter_map(|link| hosts.allowed(&link.url_or_path));
    let mut buttons: Vec<Value> = open
        .take(3)
        .enumerate()
        .map(|(n, url)| {
            let mut button = kit::link_button(&label(&url), &format!("link.{n}"), &url);
            if n == 0 {
                button["style"] = "primary".into();
            }
            button
        })
        .collect();
    let id = kit::line(&found.id);
    if !id.is_empty() && id.len() <= 200 {
        buttons.push(kit::button("Wrong cause", "finding.wrong_cause", &id, None));
        buttons.push(kit::button("Won't fix", "finding.wont_fix", &id, None));
    }
    buttons
}

/// A finding within the message of a report.
fn finding_blocks(found: &ReportFinding, hosts: &Hosts, index: usize) -> Vec<Value> {
    let (mark, phrase) = state(&found.state);
    let title = kit::cut(&kit::line(&found.title), 300);
    let mut blocks: Vec<Value> =
        kit::rich(vec![kit::bold(&format!("{mark} {phrase}: ")), json!({"type": "text", "text": title})])
            .into_iter()
            .collect();
    blocks.extend(told(found));
    if let Some(mut actions) = kit::actions(buttons(found, hosts)) {
        actions["block_id"] = format!("finding.{index}").into();
        blocks.push(actions);
    }
    blocks
}

/// Everything that is approved by the answer, as it is: in the message, and what does not fit there in the thread.
fn given(question: &Question) -> (Vec<Value>, Vec<Value>) {
    let (mut shown, mut more, mut room) = (Vec::new(), Vec::new(), GIVEN);
    for (label, text) in &question.given {
        let pieces = kit::pieces(&kit::lines(text), kit::TEXT - 100);
        let size = pieces.iter().map(|piece| kit::length(piece)).sum();
        let into = if size <= room { &mut shown } else { &mut more };
        room = room.saturating_sub(size);
        into.extend(kit::rich(vec![kit::bold(&kit::cut(&kit::line(label), 200))]));
        into.extend(pieces.iter().filter_map(|piece| kit::preformatted(piece, kit::TEXT)));
    }
    if !more.is_empty() {
        shown.extend(kit::context(&["The rest of what is asked about is in the thread".to_owned()]));
    }
    (shown, more)
}

/// How to answer, or how it was answered.
fn asked(report: &Report, question: &Question) -> Vec<Value> {
    let mut blocks = Vec::new();
    if let Some((how, _)) = &question.answered {
        let mark = match how.as_str() {
            "approved" => "✅",
            "expired" => "⌛",
            _ => "🚫",
        };
        let said = markdown::question_lines(question, &report.run).join(" ");
        blocks.extend(kit::rich(vec![kit::bold(&kit::cut(&format!("{mark} {}", kit::line(&said)), 300))]));
        return blocks;
    }
    let [run, path, hash] = [&report.run, &question.path, &question.hash].map(|text| kit::line(text));
    let value = json!({"run": run, "path": path, "hash": hash}).to_string();
    blocks.extend(kit::actions(vec![
        kit::button("Approve", "run.approve", &value, Some("primary")),
        kit::button("Deny", "run.deny", &value, Some("danger")),
    ]));
    if let Some(at) = question.expires_at {
        blocks.extend(kit::rich(vec![
            json!({"type": "text", "text": "Expires "}),
            date(at),
            json!({"type": "text", "text": format!(", then: {}", kit::cut(&kit::line(&question.on_expiry), 200))}),
        ]));
    }
    blocks
}

/// An instant in each reader's own zone.
fn date(at: Timestamp) -> Value {
    let fallback = format!("{} UTC", text::moment(at, "UTC"));
    json!({"type": "date", "timestamp": at.as_second(), "format": "{date_short_pretty} at {time}", "fallback": fallback})
}

/// What it cost, how long it took, what is certain; then which run it was.
fn small_print(report: &Report) -> Vec<String> {
    let footer = &report.footer;
    let mut which = vec![kit::line(&report.pipeline)];
    which.extend(Some(kit::line(&report.date)).filter(|date| !date.is_empty()));
    // A question is asked before anything is known of that.
    if report.question.is_some() {
        return vec![which.join(" · ")];
    }
    let took = text::duration(std::time::Duration::try_from_secs_f64(footer.duration_s).unwrap_or_default());
    let mut facts = vec![footer.spend.total().to_string(), took];
    match (footer.figures_checked, footer.sentences_dropped) {
        (0, 0) => {}
        (_, 0) => facts.push("every figure checked against the data".into()),
        (_, dropped) => {
            facts.push(format!("{} dropped: not in the data", text::counted(u64::from(dropped), "sentence")));
        }
    }
    let mut lines = vec![facts.join(" · "), which.join(" · ")];
    if !footer.stand_ins.is_empty() {
        lines.push(kit::cut(&format!("Stand-ins: {}", footer.stand_ins.join(", ")), 300));
    }
    lines
}

/// For the thread: what was missing or refused, and how it was made.
fn the_rest(report: &Report) -> Vec<Value> {
    let footer = &report.footer;
    let told = |problem: &String| {
        report.blocks.iter().any(|block| matches!(block, ReportBlock::Notice { text } if text == problem))
    };
    let mut blocks = Vec::new();
    let mut titled = |title: &str, items: Vec<String>| {
        if !items.is_empty() {
            blocks.extend(kit::rich(vec![kit::bold(title)]));
            blocks.extend(kit::bullets(&items));
        }
    };
    titled("Problems", footer.problems.iter().filter(|problem| !told(problem)).cloned().collect());
    titled("Refused by policy", footer.refused.clone());
    let complaint = |c: &crate::domain::activity::Complaint| {
        let evidence = if c.evidence.is_empty() { String::new() } else { format!(" ({})", c.evidence) };
        format!("{}: {}{evidence}", c.kind, c.need)
    };
    titled("What was missing", footer.complaints.iter().map(complaint).collect());
    let mut made = markdown::footer_lines(footer);
    made.push(format!("run {} · {} profile · effects: {}", report.run, report.profile, report.effects));
    blocks.extend(kit::context(&made));
    blocks
}

#[cfg(test)]
mod tests;
