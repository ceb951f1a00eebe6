//! A ticket as Markdown: what happened, how bad, where, when it is done. Pure.
//!
//! Order as in every surface. Texts are untrusted: they are escaped, or stand in fences longer than any inside.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::front::{Front, State};
use crate::base::hash::Hash;
use crate::domain::proposal::{Proposal, TicketFinding, TicketText};
use crate::render::markdown::{block, code, fenced, inline};
use crate::render::text;

/// What stands below it is a person's.
pub(super) const NOTES: &str = "_Everything below this line is yours: nightcrew keeps it as it is._";

/// Members whose lines are shown; the others are counted.
const MOST_MEMBERS: usize = 50;

/// One finding or error that the ticket is about, as the head of its file keeps it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Member {
    pub fingerprint: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub title: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quote: Option<String>,
    /// It was there and is not any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
}

impl From<&TicketFinding> for Member {
    fn from(finding: &TicketFinding) -> Self {
        Self {
            fingerprint: finding.fingerprint.clone(),
            title: text::fit(&text::line(&finding.title), 200),
            file: finding.file.as_deref().map(text::line),
            line: finding.line,
            quote: finding.quote.as_deref().map(|quote| text::fit(&text::line(quote), 400)),
            gone: false,
        }
    }
}

/// The members that a file names.
pub(super) fn members(front: &Front) -> Vec<Member> {
    let stored = front.get("members").cloned().unwrap_or_default();
    serde_json::from_value(stored).unwrap_or_default()
}

pub(super) fn fingerprints(members: &[Member]) -> BTreeSet<&str> {
    members.iter().map(|member| member.fingerprint.as_str()).collect()
}

/// What is known already, with what is proposed: the newer word counts, and nothing is forgotten.
pub(super) fn merged(known: &[Member], proposal: &Proposal, ticket: &TicketText) -> Vec<Member> {
    let mut members: Vec<Member> = Vec::new();
    let fresh = ticket.findings.iter().map(Member::from);
    let bare = proposal
        .fingerprints
        .iter()
        .map(|fingerprint| Member { fingerprint: fingerprint.clone(), ..Member::default() });
    for member in fresh.chain(bare).chain(known.iter().cloned()) {
        if !member.fingerprint.is_empty() && members.iter().all(|other| other.fingerprint != member.fingerprint) {
            members.push(member);
        }
    }
    members
}

/// What must differ for the ticket to be another one: not the run, the moment or the commit.
pub(super) fn content(ticket: &TicketText, members: &[Member]) -> String {
    let value = json!([
        ticket.title,
        ticket.severity,
        ticket.harm,
        ticket.sections,
        ticket.code,
        ticket.accept,
        ticket.labels,
        ticket.assignees,
        ticket.facts,
        members,
    ]);
    Hash::of_json(&value).short()
}

/// The line under the title.
pub(super) fn status(state: State, why: Option<&str>, severity: Option<&str>, pipeline: &str) -> String {
    let mut parts = vec![match why {
        Some(why) => format!("**{}**: {}", state.word(), inline(why)),
        None => format!("**{}**", state.word()),
    }];
    parts.extend(severity.map(|severity| format!("severity {}", inline(severity))));
    parts.push(inline(pipeline));
    parts.join(" · ")
}

/// The file's text between its head and [`NOTES`].
pub(super) fn render(proposal: &Proposal, ticket: &TicketText, members: &[Member]) -> String {
    let title = if text::line(&ticket.title).is_empty() { "Untitled" } else { &ticket.title };
    let mut parts = vec![
        format!("# {}", inline(&text::fit(&text::line(title), 200))),
        status(State::Open, None, ticket.severity.as_deref(), &proposal.pipeline),
    ];
    parts.extend(sections(ticket, members, 2, |_| None));
    for (name, words) in [("Labels", &ticket.labels), ("Assigned to", &ticket.assignees)] {
        if !words.is_empty() {
            let words: Vec<String> = words.iter().map(|word| format!("`{}`", code(word))).collect();
            parts.push(format!("{name}: {}", words.join(", ")));
        }
    }
    parts.push(
        "## To dismiss it\n\nWrite `state: closed as not planned` at the top of this file and the reason below the last line. It is \
         then left alone."
            .into(),
    );
    parts.push(provenance(proposal, members));
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n") + "\n"
}

/// What happened, where, why it is real, when it is done, how often it was seen: in this order, each if it is known, under
/// headings of this level. `link` is the address of a member's line, if it has one.
pub(super) fn sections(
    ticket: &TicketText,
    members: &[Member],
    level: usize,
    link: impl Fn(&Member) -> Option<String>,
) -> Vec<String> {
    let level = "#".repeat(level);
    let mut parts = vec![block(&ticket.harm)];
    let shown: Vec<String> = members
        .iter()
        .filter(|m| !m.title.is_empty() || m.file.is_some())
        .take(MOST_MEMBERS)
        .map(|m| place(m, ticket, link(m)))
        .collect();
    if !shown.is_empty() {
        let more = members.len().saturating_sub(MOST_MEMBERS);
        let more = if more > 0 { format!("\n- and {more} more") } else { String::new() };
        parts.push(format!("{level} Where\n\n{}{more}", shown.join("\n")));
    }
    for (heading, found) in ticket.sections.iter().filter(|(_, found)| !text::line(found).is_empty()) {
        parts.push(format!("{level} {}\n\n{}", inline(heading), block(found)));
    }
    for (heading, found) in ticket.code.iter().filter(|(_, found)| !text::line(found).is_empty()) {
        parts.push(format!("{level} {}\n\n{}", inline(heading), fenced(found)));
    }
    if !ticket.accept.is_empty() {
        let list: Vec<String> = ticket.accept.iter().map(|item| format!("- [ ] {}", inline(item))).collect();
        parts.push(format!("{level} Done when\n\n{}", list.join("\n")));
    }
    if !ticket.facts.is_empty() {
        let list: Vec<String> =
            ticket.facts.iter().map(|(name, value)| format!("- {}: {}", inline(name), inline(value))).collect();
        parts.push(format!("{level} How often seen\n\n{}", list.join("\n")));
    }
    parts.retain(|part| !part.is_empty());
    parts
}

fn place(member: &Member, ticket: &TicketText, link: Option<String>) -> String {
    let mut line = "- ".to_owned();
    if let Some(file) = &member.file {
        let at = member.line.map(|line| format!(":{line}")).unwrap_or_default();
        let shown = format!("`{}{at}`", code(file));
        match (link, ticket.commit.as_deref().filter(|_| !member.gone)) {
            (Some(link), _) => line.push_str(&format!("[{shown}]({link})")),
            (None, Some(commit)) => {
                line.push_str(&format!("{shown} at `{}`", code(commit.get(..12).unwrap_or(commit))));
            }
            (None, None) => line.push_str(&shown),
        }
    }
    if !member.title.is_empty() {
        let dash = if member.file.is_some() { " — " } else { "" };
        line.push_str(&format!("{dash}{}", inline(&member.title)));
    }
    if member.gone {
        line.push_str(" (gone)");
    }
    if let Some(quote) = member.quote.as_deref().filter(|quote| !quote.is_empty()) {
        line.push_str(&format!("\n  the deciding line: `{}`", code(quote)));
    }
    line
}

fn provenance(proposal: &Proposal, members: &[Member]) -> String {
    let prints: Vec<String> =
        members.iter().take(MOST_MEMBERS).map(|member| format!("`{}`", code(&member.fingerprint))).collect();
    format!(
        "---\n\nfound by {} · fingerprints {} · nightcrew `{}` of `{}`",
        inline(&proposal.pipeline),
        prints.join(" "),
        code(&proposal.run),
        code(proposal.definition.get(..12).unwrap_or(&proposal.definition)),
    )
}

/// The head of a file.
pub(super) fn head(proposal: &Proposal, key: &str, ticket: &TicketText, members: &[Member], did: &str) -> Front {
    let mut front = Front::default();
    front.set("nightcrew", key);
    front.set("state", State::Open.word());
    front.set("title", text::fit(&text::line(&ticket.title), 200));
    if let Some(severity) = &ticket.severity {
        front.set("severity", text::line(severity));
    }
    front.set("pipeline", proposal.pipeline.as_str());
    front.set("members", serde_json::to_value(members).unwrap_or(Value::Null));
    front.set("run", proposal.run.as_str());
    front.set("did", did);
    front.set("content", content(ticket, members));
    front
}
