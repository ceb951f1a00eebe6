//! A draft pull request as a page that stands alone. Pure.
//!
//! The same content in the same order as the text, with the difference drawn: lines that appear and disappear are coloured and
//! carry their sign, so that it reads on paper too.

use std::path::Path;

use maud::{Markup, html};

use super::draft::{Draft, Line, by_hand};
use super::patch::{FilePatch, HunkText};
use crate::render::page::{document, rich, sky, wordmark};
use crate::render::text;

const STYLE: &str = include_str!("draft_page.css");

/// Lines of the difference that are drawn; `patch.diff` has all of them.
const MOST_LINES: usize = 5_000;
/// Characters of one line that are drawn.
const MOST_WIDE: usize = 600;

/// The whole document. `clone` is the folder of the private clone.
pub(super) fn render(draft: &Draft<'_>, clone: &Path) -> String {
    let title = draft.title();
    let body = html! {
        div.banner { strong { "Draft, on this machine only" } " — nothing was pushed; your own clone was not touched." }
        (hero(draft, &title))
        main {
            (facts(draft))
            section.card {
                h2 { "What was wrong" }
                (prose(&draft.text.cause))
                h2 { "What changes" }
                (prose(&draft.text.change))
                @if !draft.text.fixes.is_empty() {
                    p { @for (n, fixed) in draft.text.fixes.iter().enumerate() { @if n > 0 { " · " } "Fixes " strong { (text::line(fixed)) } } }
                }
                (take_it(draft, clone))
            }
            (proof(draft))
            (review(draft))
            section.card {
                h2 { "Limits" }
                @let limits = draft.limits();
                @if limits.is_empty() { p.quiet { "None is known." } } @else {
                    ul.bullets { @for limit in &limits { li { (rich(&text::line(limit))) } } }
                }
            }
            (difference(&draft.files))
            (folded(draft))
            footer { p { "Made by nightcrew from typed values. No script, nothing loaded, no link that leaves this folder." } p { code { (text::line(&draft.marker())) } } }
        }
    };
    document(&title, STYLE, &body)
}

fn hero(draft: &Draft<'_>, title: &str) -> Markup {
    html! {
        header.hero {
            div.wrap {
                (wordmark())
                p.sub { span.pipeline { (text::line(&draft.proposal.pipeline)) } " · draft pull request · " (text::line(draft.branch)) }
                h1 { (title) }
                p.sentence {
                    @if draft.proven.red_then_green.is_empty() { span.pill.bad { "not proved" } } @else { span.pill.good { "proved" } }
                    " " (draft.verdict()) "."
                }
            }
            (sky())
        }
    }
}

fn facts(draft: &Draft<'_>) -> Markup {
    let proven = &draft.proven;
    let (added, removed) = draft.files.iter().fold((0, 0), |(a, r), file| (a + file.added, r + file.removed));
    let base = &draft.text.evidence.base;
    html! {
        section.facts aria-label="In numbers" {
            div.fact { span.label { "red, then green" } span.big { (proven.red_then_green.len()) } span.small { (text::counted(proven.red_then_green.len() as u64, "new test").split_once(' ').map_or("", |(_, words)| words)) } }
            div.fact { span.label { "other tests" } span.big { (proven.unchanged) } span.small { "pass before and after" } }
            div.fact { span.label { "patch" } span.big { "+" (added) " −" (removed) } span.small { (text::counted(draft.files.len() as u64, "file")) } }
            div.fact { span.label { "base" } span.big { (base.commit.as_str().get(..7).unwrap_or_default()) } span.small { (text::line(&base.reference)) " of " (text::fit(&text::line(&base.origin), 60)) } }
            div.fact { span.label { "cost so far" } span.big { (text::usd(draft.text.cost_usd)) } span.small { "of this run" } }
        }
    }
}

/// Paragraphs of an untrusted text.
fn prose(found: &str) -> Markup {
    let cleaned = text::clean(found);
    let parts: Vec<&str> = cleaned.split("\n\n").map(str::trim).filter(|part| !part.is_empty()).collect();
    html! {
        @if parts.is_empty() { p.quiet { "Nothing was said about it." } }
        @for part in parts { p { (rich(part)) } }
    }
}

fn take_it(draft: &Draft<'_>, clone: &Path) -> Markup {
    let fetch = format!("git fetch {} {}", quoted(&clone.display().to_string()), quoted(draft.branch));
    html! {
        h2 { "To try it" }
        p.quiet { "In your own clone, at the base or later:" }
        pre.cmd { (text::clean(&fetch)) "\ngit cherry-pick FETCH_HEAD" }
        @if let Some(receipt) = draft.reproduce() {
            p.quiet { "The command that was red with the new tests alone, and is green with the patch:" }
            pre.cmd { (text::clean(&by_hand(&receipt.command))) }
        }
        p.quiet { "Or as a patch: " a href="patch.diff" { "patch.diff" } ". The text of this page for a pull request: " a href="pull-request.md" { "pull-request.md" } "." }
    }
}

/// As one word of a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-');
    if word.chars().all(plain) && !word.is_empty() {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

fn proof(draft: &Draft<'_>) -> Markup {
    let base = &draft.text.evidence.base;
    let proven = &draft.proven;
    html! {
        section.card {
            h2 { "Proof" }
            p.verdict { strong { (draft.verdict()) } "." }
            p.quiet { "Run by the host, on clean checkouts, from the patch as data. No line of this table was written by a model." }
            div.tablebox {
                table.receipt {
                    thead { tr { th scope="col" { "what the host ran" } th scope="col" { "command" } th scope="col" { "result" } th.num scope="col" { "took" } th scope="col" { "tree" } } }
                    tbody {
                        tr {
                            td data-label="what" { "the base" }
                            td data-label="command" { (text::line(&base.reference)) " of " (text::line(&base.origin)) }
                            td data-label="result" { "commit " code { (base.commit.short()) } }
                            td.num data-label="took" {}
                            td data-label="tree" { code { (base.tree.short()) } }
                        }
                        @for line in &draft.lines { (receipt(line)) }
                    }
                }
            }
            @for (name, said) in draft.lines.iter().flat_map(|line| &line.said) {
                div.said { span.small { code { (name) } " on the base says:" } pre { (said) } }
            }
            (names("Red, then green", &proven.red_then_green))
            (names("Fixed beside them", &proven.also_fixed))
            (names("Flaky, so they count for nothing", &proven.flaky))
            (names("Fail on the base and still do", &proven.known_failures))
            h2 { "Where it ran" }
            ul.plain { @for line in draft.confined() { li { (line) } } }
        }
    }
}

fn receipt(line: &Line) -> Markup {
    html! {
        tr {
            td data-label="what" {
                @match line.good { Some(true) => span.mark-good { "✓ " }, Some(false) => span.mark-bad { "✕ " }, None => "" }
                (line.shows)
            }
            td data-label="command" { code { (line.command) } }
            td data-label="result" { (line.result) }
            td.num data-label="took" { (line.took) }
            td data-label="tree" { code { (line.tree) } }
        }
    }
}

fn names(title: &str, names: &[String]) -> Markup {
    const MOST: usize = 30;
    html! {
        @if !names.is_empty() {
            p.quiet { (title) ":" }
            ul.plain { @for name in names.iter().take(MOST) { li { code { (text::line(name)) } } } }
            @if names.len() > MOST { p.quiet { "and " (names.len() - MOST) " more" } }
        }
    }
}

fn review(draft: &Draft<'_>) -> Markup {
    html! {
        section.card {
            h2 { "Review" }
            @if draft.text.review.is_empty() { p.quiet { "No second model has read it." } }
            @for (round, verdict, said) in &draft.text.review {
                div.say.reviewer {
                    div.who { "round " (round) " · " (text::line(verdict)) }
                    (prose(said))
                }
            }
        }
    }
}

fn difference(files: &[FilePatch]) -> Markup {
    let mut left = MOST_LINES;
    html! {
        section.card {
            h2 { "The difference" }
            @if files.is_empty() { p.quiet { "Nothing changes." } }
            @for file in files {
                div.file {
                    div.filehead {
                        span.path { (text::line(&file.path)) }
                        @if !file.what.is_empty() { span.small { (text::line(&file.what)) } }
                        span.plus { "+" (file.added) } span.minus { "−" (file.removed) }
                    }
                    @if file.binary { p.quiet { "Not text: it is in " code { "patch.diff" } " only." } }
                    @if !file.hunks.is_empty() {
                        div.diff { table { tbody { @for hunk in &file.hunks { (self::hunk(hunk, &mut left)) } } } }
                    }
                }
            }
            @if left == 0 { p.quiet { "It goes on in " code { "patch.diff" } "." } }
        }
    }
}

fn hunk(hunk: &HunkText, left: &mut usize) -> Markup {
    let (mut old, mut new) = (hunk.old_start, hunk.new_start);
    let take = hunk.lines.len().min(*left);
    *left -= take;
    let rows: Vec<_> = hunk
        .lines
        .iter()
        .take(take)
        .map(|(sign, found)| {
            let (class, before, after) = match sign {
                '+' => ("plus", None, Some(new)),
                '-' => ("minus", Some(old), None),
                _ => ("", Some(old), Some(new)),
            };
            old += u32::from(before.is_some());
            new += u32::from(after.is_some());
            let sign = if *sign == '-' { '−' } else { *sign };
            (class, before, after, sign, text::fit(&text::clean(found).replace('\n', " "), MOST_WIDE))
        })
        .collect();
    html! {
        @if take > 0 {
            tr.hunk { td colspan="4" { "@@ " (hunk.old_start) " → " (hunk.new_start) " " (text::fit(&text::line(&hunk.section), 120)) } }
            @for (class, before, after, sign, line) in rows {
                tr class=(class) {
                    td.n { @if let Some(n) = before { (n) } }
                    td.n { @if let Some(n) = after { (n) } }
                    td.s { (sign) }
                    td.t { (line) }
                }
            }
        }
    }
}

fn folded(draft: &Draft<'_>) -> Markup {
    let (proposal, pr) = (draft.proposal, draft.text);
    html! {
        section.card {
            h2 { "Evidence, cost and origin" }
            details {
                summary { span.name { "Hashes" } " " span.small { "what was compared, and what came out" } }
                dl.facts2 {
                    @for (name, hash) in draft.hashes() { dt { (name) } dd { code { (text::line(&hash)) } } }
                    @for line in &draft.lines { dt { "output of " (line.shows) } dd { code { (line.output) } } }
                }
            }
            details {
                summary { span.name { "Cost and models" } }
                dl.facts2 {
                    dt { "cost so far" } dd { (text::usd(pr.cost_usd)) }
                    dt { "models" } dd { @if pr.models.is_empty() { "none" } @else { (text::line(&pr.models.join(", "))) } }
                }
            }
            details {
                summary { span.name { "Where it comes from" } }
                dl.facts2 {
                    dt { "pipeline" } dd { (text::line(&proposal.pipeline)) " " code { (text::line(&proposal.definition)) } }
                    dt { "run" } dd { code { (text::line(&proposal.run)) } }
                    dt { "about" } dd { @for print in &proposal.fingerprints { code { (text::line(print)) } " " } }
                    @if !pr.labels.is_empty() { dt { "labels" } dd { (text::line(&pr.labels.join(", "))) } }
                    @if !pr.reviewers.is_empty() { dt { "reviewers" } dd { (text::line(&pr.reviewers.join(", "))) } }
                    @if let Some(days) = pr.expires_days { dt { "expires" } dd { "when nobody looks at it for " (text::counted(u64::from(days), "day")) } }
                    dt { "to stop it" } dd { "write " code { "state: closed" } " at the top of " code { "pull-request.md" } "; it is then left alone" }
                }
            }
        }
    }
}
