//! The text of an issue: ours above the line, a person's below it; and the hidden marker by which we know it again. Pure.
//!
//! What is read back is data that anybody who may edit the issue can have changed. It says which findings the issue is about; that
//! the issue is ours is told by its author.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::super::ticket::{self, Member, NOTES};
use super::context::Context;
use crate::domain::proposal::{Proposal, TicketText};
use crate::render::markdown::{code, inline, within};
use crate::render::text;

/// A marker stands alone on its line, at its beginning: in no text of ours is such a line, whoever wrote what is in it.
const BEGIN: &str = "<!-- nightcrew:ticket ";
const SAID: &str = "<!-- nightcrew:said ";
const END: &str = " -->";

/// GitHub takes 65,536 characters.
const MOST_BODY: usize = 60_000;
const MOST_TITLE: usize = 200;
/// With its backticks; GitHub takes 256 characters.
const MOST_SHOWN_TITLE: usize = 250;
/// Members whose place and quote the marker keeps, fewer if it grows too long; of the others only the fingerprint.
const MOST_KEPT: [usize; 3] = [40, 10, 0];
const MOST_MARKER: usize = 20_000;
const MOST_QUOTE: usize = 160;
/// Fingerprints that people are shown.
const MOST_SHOWN: usize = 20;

/// What we know of an issue, as its body keeps it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Marker {
    pub key: String,
    pub pipeline: String,
    pub definition: String,
    /// As we wrote it: another one is a person's, and stays.
    pub title: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub severity: Option<String>,
    pub members: Vec<Member>,
    /// The run that wrote it last, and what it did: `opened`, `updated`, `reopened`, `closed`.
    pub run: String,
    pub did: String,
    /// The hash of what was proposed; empty after a part of it has gone.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub content: String,
}

impl Marker {
    pub fn of(proposal: &Proposal, key: &str, ticket: &TicketText, members: &[Member], did: &str) -> Self {
        Self {
            key: key.to_owned(),
            pipeline: proposal.pipeline.clone(),
            definition: proposal.definition.clone(),
            title: title(&ticket.title),
            severity: ticket.severity.as_deref().map(text::line).filter(|severity| !severity.is_empty()),
            members: members.to_vec(),
            run: proposal.run.clone(),
            did: did.to_owned(),
            content: ticket::content(ticket, members),
        }
    }

    /// As a comment that no text within can end, and in which nothing rings anybody.
    fn render(&self) -> String {
        let mut json = String::new();
        for most in MOST_KEPT {
            let mut kept = self.clone();
            for (index, member) in kept.members.iter_mut().enumerate() {
                if index >= most {
                    *member =
                        Member { fingerprint: member.fingerprint.clone(), gone: member.gone, ..Member::default() };
                }
                member.quote = member.quote.take().map(|quote| text::fit(&quote, MOST_QUOTE));
            }
            // Serialising plain data to memory cannot fail; without it the issue would not be found again by its text.
            json = hidden(&serde_json::to_string(&kept).unwrap_or_default());
            if json.len() <= MOST_MARKER {
                break;
            }
        }
        format!("{BEGIN}{json}{END}")
    }

    fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line.strip_prefix(BEGIN)?.trim_end().strip_suffix(END)?).ok()
    }

    /// The first line of the body.
    fn status(&self) -> String {
        let (all, left) = (self.members.len(), self.members.iter().filter(|member| !member.gone).count());
        let mut parts = Vec::new();
        if let Some(severity) = &self.severity {
            parts.push(format!("**{}** severity", inline(severity)));
        }
        match (all, left) {
            (0 | 1, _) => {}
            (all, left) if all == left => parts.push(format!("{all} findings of one cause")),
            (all, left) => parts.push(format!("{left} of {all} findings left")),
        }
        parts.push(format!("found by `{}`", code(&self.pipeline)));
        parts.join(" · ")
    }
}

/// JSON in which nothing ends a comment, is a tag, a mention or a reference. All of these only stand in its texts.
fn hidden(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut units = [0; 2];
    for c in json.chars() {
        match matches!(c, '<' | '>' | '&' | '@' | '#') || !text::is_visible(c) {
            true => c.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}"))),
            false => out.push(c),
        }
    }
    out
}

/// A title is no Markdown but for its code; what programs make links and mentions of is code there too.
pub(super) fn title(found: &str) -> String {
    let line = text::fit(&text::line(found), MOST_TITLE);
    let mut out = String::new();
    for (is_code, part) in text::spans(&line) {
        if is_code {
            out.push_str(&format!("`{}`", code(part)));
            continue;
        }
        let part = part.replace('`', "'");
        let words = part.split(' ').map(|word| match within(word) {
            shown if shown.starts_with('`') => shown,
            _ => word.to_owned(),
        });
        out.push_str(&words.collect::<Vec<_>>().join(" "));
    }
    if out.trim().is_empty() { "Untitled".to_owned() } else { text::fit(&out, MOST_SHOWN_TITLE) }
}

/// An issue of ours.
#[derive(Clone, Debug)]
pub(super) struct Issue {
    pub number: u64,
    pub url: String,
    pub title: String,
    pub open: bool,
    /// A person does not want it: closed as not planned, or as a duplicate.
    pub not_planned: bool,
    pub closed_at: Option<jiff::Timestamp>,
    pub body: String,
    pub marker: Marker,
}

impl Issue {
    /// An issue as GitHub shows it, if this login wrote it and it bears our marker.
    pub fn read(value: &Value, login: &str) -> Option<Self> {
        let by = value["user"]["login"].as_str()?;
        if !by.eq_ignore_ascii_case(login) || value.get("pull_request").is_some_and(|pull| !pull.is_null()) {
            return None;
        }
        let body = value["body"].as_str()?.replace("\r\n", "\n");
        let marker = body.lines().find_map(Marker::parse)?;
        Some(Self {
            number: value["number"].as_u64()?,
            url: value["html_url"].as_str().unwrap_or_default().to_owned(),
            title: value["title"].as_str().unwrap_or_default().to_owned(),
            open: value["state"] != "closed",
            not_planned: matches!(value["state_reason"].as_str(), Some("not_planned" | "duplicate")),
            closed_at: value["closed_at"].as_str().and_then(|at| at.parse().ok()),
            body,
            marker,
        })
    }

    pub fn is(&self, proposal: &Proposal) -> bool {
        self.marker.key.rsplit_once('-').map_or(self.marker.key.as_str(), |(_, id)| id) == proposal.id()
    }

    /// How many of the proposal's findings it is about; one that the ledger knows to be the same is one.
    pub fn shares(&self, proposal: &Proposal) -> usize {
        let own = ticket::fingerprints(&self.marker.members);
        let all = proposal.fingerprints.iter().chain(&proposal.same);
        all.filter(|print| own.contains(print.as_str())).count()
    }

    /// We closed it, because what it is about was gone.
    pub fn closed_by_us(&self) -> bool {
        !self.open && !self.not_planned && self.marker.did == "closed"
    }

    /// What a person wrote below our line.
    pub fn notes(&self) -> &str {
        self.body.split_once(&format!("\n{NOTES}")).map_or("", |(_, notes)| notes)
    }

    /// The title that it shall have: ours, unless a person has given it another one.
    pub fn title_for(&self, marker: &Marker) -> String {
        let theirs = self.title != self.marker.title && !self.title.trim().is_empty();
        if theirs { self.title.clone() } else { marker.title.clone() }
    }

    /// The body with another marker, and its first line with it if a person left that.
    pub fn with_marker(&self, marker: &Marker) -> String {
        let (before, after) = (self.marker.status(), marker.status());
        let body = match self.body.strip_prefix(before.as_str()) {
            Some(rest) => format!("{after}{rest}"),
            None => self.body.clone(),
        };
        let mut done = false;
        let lines = body.split('\n').map(|line| match !done && Marker::parse(line).is_some() {
            true => {
                done = true;
                marker.render()
            }
            false => line.to_owned(),
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// The whole body. `notes`: what a person wrote below our line.
pub(super) fn body(
    proposal: &Proposal,
    ticket: &TicketText,
    marker: &Marker,
    context: &Context,
    notes: &str,
) -> String {
    let mut parts = vec![marker.status()];
    parts.extend(ticket::sections(ticket, &marker.members, 3, |member| context.link(member)));
    parts.extend(context.people());
    let end = format!("{}\n\n{}\n\n{NOTES}", about(proposal, marker, context), marker.render());
    let room = MOST_BODY.saturating_sub(end.chars().count() + notes.chars().count());
    // Parts are dropped whole: half a fence would swallow what follows.
    let mut used = 0;
    let before = parts.len();
    parts.retain(|part| {
        used += part.chars().count() + 2;
        used <= room
    });
    if parts.len() < before {
        parts.push("_What else is known is too long for an issue: see the run's report._".into());
    }
    parts.push(end);
    parts.join("\n\n") + if notes.is_empty() { "\n" } else { notes }
}

/// Folded at the end: where it comes from, and how to be rid of it.
fn about(proposal: &Proposal, marker: &Marker, context: &Context) -> String {
    let prints: Vec<String> = marker
        .members
        .iter()
        .filter(|member| !text::line(&member.fingerprint).is_empty())
        .take(MOST_SHOWN)
        .map(|member| format!("`{}`", code(&member.fingerprint)))
        .collect();
    let more = marker.members.len().saturating_sub(MOST_SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let definition = proposal.definition.get(..12).unwrap_or(&proposal.definition);
    let mut lines = vec![
        "- **Not worth it?** Close this issue as *not planned*, and say why in a comment: it is then left alone.".to_owned(),
        "- **Done?** Close it, or just fix it: nightcrew closes it when it is gone, and opens it again if it comes back."
            .to_owned(),
    ];
    if let Some(commit) = context.commit() {
        lines.push(format!("- Seen at {commit}"));
    }
    lines.push(format!("- Fingerprints: {}{more}", prints.join(" ")));
    lines.push(format!("- Run `{}` of `{}` (`{}`)", code(&proposal.run), code(&proposal.pipeline), code(definition)));
    format!(
        "<details>\n<summary>About this ticket, and how to dismiss it</summary>\n\n{}\n\n</details>",
        lines.join("\n")
    )
}

/// What a comment of ours is about: a run says each thing once.
pub(super) fn said(run: &str, what: &str) -> String {
    format!("{SAID}{}{END}", hidden(&Value::from(format!("{run} {what}")).to_string()))
}

/// Whether a comment of this login says it.
pub(super) fn says(value: &Value, login: &str, mark: &str) -> bool {
    let by = value["user"]["login"].as_str().is_some_and(|by| by.eq_ignore_ascii_case(login));
    by && value["body"].as_str().is_some_and(|body| body.lines().next() == Some(mark))
}
