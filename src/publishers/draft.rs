//! A draft pull request as text: facts gathered from the evidence, and the body as Markdown. Pure.
//!
//! The sections and their order are those of every surface: what was wrong, what changes, the proof as a table of receipts, the
//! review, the limits, and folded at the end the evidence, the cost and where it comes from. Nothing here is decided by a model:
//! its texts stand in their sections, escaped; every number and every "passed" comes from the evidence.

use serde_json::json;

use crate::base::hash::Hash;
use crate::domain::proof::{CaseState, Evidence, Proven, Stage, StageKind};
use crate::domain::proposal::{Proposal, PullRequestText};
use crate::domain::sandbox::CommandReceipt;
use crate::policy::proof;
use crate::render::markdown::{block, code, fenced, inline, within};
use crate::render::text;

use super::patch::{self, FilePatch};

/// Characters of a sandbox's id that people are shown.
const SHOWN_ID: usize = 12;
/// Names of tests that are listed one by one.
const MOST_NAMES: usize = 30;

/// One line of the table of receipts.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    /// What it shows.
    pub shows: &'static str,
    /// It is as it must be. `None`: neither good nor bad.
    pub good: Option<bool>,
    pub command: String,
    pub result: String,
    /// What the failing test said.
    pub said: Vec<(String, String)>,
    pub took: String,
    pub tree: String,
    pub output: String,
}

/// Everything that both renderings show.
pub(super) struct Draft<'a> {
    pub proposal: &'a Proposal,
    pub text: &'a PullRequestText,
    pub branch: &'a str,
    pub proven: Proven,
    pub lines: Vec<Line>,
    pub files: Vec<FilePatch>,
}

impl<'a> Draft<'a> {
    pub fn new(proposal: &'a Proposal, pr: &'a PullRequestText, branch: &'a str) -> Self {
        // The executor refused whatever is not proved; should it ever come here, the page says nothing was.
        let proven = proof::judge(&pr.evidence).unwrap_or_default();
        let lines = pr.evidence.stages.iter().map(|stage| line(stage, &proven)).collect();
        Self { proposal, text: pr, branch, proven, lines, files: patch::parse(&pr.patch) }
    }

    pub fn title(&self) -> String {
        title(self.text)
    }

    /// `2 files, +9 −3`.
    pub fn size(&self) -> String {
        let (added, removed) = self.files.iter().fold((0, 0), |(a, r), file| (a + file.added, r + file.removed));
        format!("{}, +{added} −{removed}", text::counted(self.files.len() as u64, "file"))
    }

    /// The proof in one sentence.
    pub fn verdict(&self) -> String {
        if self.proven.red_then_green.is_empty() {
            return "Nothing is proved".into();
        }
        let tests = text::counted(self.proven.red_then_green.len() as u64, "new test");
        let because = self.proven.because.as_deref().map(|why| format!(" with “{}”", text::fit(&text::line(why), 80)));
        let (fails, passes) =
            if self.proven.red_then_green.len() == 1 { ("fails", "passes") } else { ("fail", "pass") };
        format!(
            "{tests} {fails} on the base{} and {passes} with the patch; {} {} before and after",
            because.unwrap_or_default(),
            text::counted(u64::from(self.proven.unchanged), "other test"),
            if self.proven.unchanged == 1 { "passes" } else { "pass" },
        )
    }

    /// The command by which the failure shows itself: the base with the new tests alone.
    pub fn reproduce(&self) -> Option<&CommandReceipt> {
        stage(&self.text.evidence, StageKind::Reproduced).map(|stage| &stage.receipt)
    }

    /// How it ran: provider, isolation, network, what stayed open, and in which sandboxes of which template.
    pub fn confined(&self) -> Vec<String> {
        let mut lines: Vec<(String, Vec<String>)> = Vec::new();
        for stage in &self.text.evidence.stages {
            let receipt = &stage.receipt;
            let mut line = format!("{} ({}), network: {}", receipt.provider, receipt.isolation, receipt.network);
            match receipt.gaps.is_empty() {
                true => line.push_str(", no known gap"),
                false => line.push_str(&format!("; not closed here: {}", receipt.gaps.join("; "))),
            }
            if !receipt.template.is_empty() {
                line.push_str(&format!("; template {}", receipt.template));
            }
            let (line, id) = (text::line(&line), text::line(&receipt.sandbox));
            // Enough to find it at its provider's.
            let id: String = id.chars().take(SHOWN_ID).collect();
            let at = match lines.iter().position(|(known, _)| *known == line) {
                Some(at) => at,
                None => {
                    lines.push((line, Vec::new()));
                    lines.len() - 1
                }
            };
            if let Some((_, ids)) = lines.get_mut(at)
                && !id.is_empty()
                && !ids.contains(&id)
            {
                ids.push(id);
            }
        }
        let line = |(line, ids): (String, Vec<String>)| match &ids[..] {
            [] => line,
            [one] => format!("{line}, sandbox {one}"),
            several => format!("{line}, sandboxes {}", several.join(", ")),
        };
        lines.into_iter().map(line).collect()
    }

    /// What was not checked.
    pub fn limits(&self) -> Vec<String> {
        let mut limits = self.text.limits.clone();
        limits.extend(self.text.evidence.noted.iter().map(|note| format!("the diff policy notes: {note}")));
        let some = |names: &[String], what: &str| {
            let more = names.len().saturating_sub(MOST_NAMES);
            let list: Vec<&str> = names.iter().take(MOST_NAMES).map(String::as_str).collect();
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            (!names.is_empty()).then(|| format!("{what}: {}{more}", list.join(", ")))
        };
        limits.extend(some(&self.proven.flaky, "these tests are flaky, so they prove nothing"));
        limits.extend(some(&self.proven.known_failures, "these tests fail on the base and still do"));
        limits
    }

    /// (name, value) of everything that is compared by hash.
    pub fn hashes(&self) -> Vec<(&'static str, String)> {
        let evidence = &self.text.evidence;
        let environment = evidence.stages.first().map(|stage| stage.receipt.environment.to_string());
        let mut hashes = vec![
            ("base commit", evidence.base.commit.to_string()),
            ("base tree", evidence.base.tree.to_string()),
            ("tree of the base with the new tests", evidence.test_tree.to_string()),
            ("tree with the patch", evidence.new_tree.to_string()),
            ("patch (SHA-256)", evidence.patch.to_string()),
        ];
        hashes.extend(environment.map(|hash| ("environment", hash)));
        hashes
    }

    /// By which we find it again, for a reader's machine.
    pub fn marker(&self) -> String {
        let prints = Hash::of(self.proposal.fingerprints.join("\n")).short();
        format!("nightcrew: {} {prints} {} {}", self.proposal.key, self.proposal.pipeline, self.proposal.definition)
    }
}

pub(super) fn title(pr: &PullRequestText) -> String {
    let title = text::fit(&text::line(&pr.title), 120);
    if title.is_empty() { "Fix an error".into() } else { title }
}

pub(super) fn stage(evidence: &Evidence, kind: StageKind) -> Option<&Stage> {
    evidence.stages.iter().find(|stage| stage.kind == kind)
}

fn line(stage: &Stage, proven: &Proven) -> Line {
    let receipt = &stage.receipt;
    let count = |state| stage.suite.cases.iter().filter(|case| case.state == state).count();
    let (passed, failed, skipped) = (count(CaseState::Passed), count(CaseState::Failed), count(CaseState::Skipped));
    let mut result = match (receipt.exit, receipt.signal, &receipt.stopped) {
        (_, _, Some(limit)) => format!("stopped by the limit `{limit}`"),
        (Some(code), ..) => format!("exit {code}"),
        (None, Some(signal), None) => format!("ended by signal {signal}"),
        (None, None, None) => "no exit code".into(),
    };
    if !stage.suite.cases.is_empty() {
        result.push_str(&format!(" · {passed} passed, {failed} failed, {skipped} skipped"));
    }
    let red = stage.kind == StageKind::Reproduced;
    let told =
        stage.suite.cases.iter().filter(|case| red && case.state == CaseState::Failed && !case.message.is_empty());
    let told = told.filter(|case| proven.red_then_green.contains(&case.name)).take(5);
    let good = match stage.kind {
        StageKind::Base | StageKind::BaseAgain => None,
        StageKind::Reproduced => Some(failed > 0),
        StageKind::Patched | StageKind::PatchedAgain => Some(receipt.succeeded() || !proven.known_failures.is_empty()),
    };
    Line {
        shows: match stage.kind {
            StageKind::Base => "the suite on the base",
            StageKind::BaseAgain => "once more on the base",
            StageKind::Reproduced => "the new test on the base: red",
            StageKind::Patched => "the suite with the patch: green",
            StageKind::PatchedAgain => "once more with the patch",
        },
        good,
        command: text::line(&receipt.command),
        result: text::line(&result),
        said: told.map(|case| (text::line(&case.name), text::fit(&text::clean(&case.message), 600))).collect(),
        took: text::duration(std::time::Duration::from_millis(receipt.duration_ms)),
        tree: receipt.tree.short().to_owned(),
        output: receipt.output.short(),
    }
}

/// The sections of a body, without their headings.
pub(super) struct Sections {
    pub cause: String,
    pub change: String,
    pub proof: String,
    pub review: String,
    pub limits: String,
}

pub(super) fn sections(draft: &Draft<'_>) -> Sections {
    let pr = draft.text;
    let mut change = or_unknown(&pr.change);
    if !pr.fixes.is_empty() {
        let fixes: Vec<String> = pr.fixes.iter().map(|fixed| format!("Fixes {}", within(fixed))).collect();
        change.push_str(&format!("\n\n{}", fixes.join(" · ")));
    }
    if let Some(receipt) = draft.reproduce() {
        let command = fenced(&by_hand(&receipt.command));
        change.push_str(&format!("\n\nTo see it fail: put the new tests on the base and run\n\n{command}"));
    }
    let limits: Vec<String> = draft.limits().iter().map(|limit| format!("- {}", inline(limit))).collect();
    let limits = if limits.is_empty() { "- none is known".to_owned() } else { limits.join("\n") };
    Sections { cause: or_unknown(&pr.cause), change, proof: proof_section(draft), review: review(pr), limits }
}

/// The body as Markdown, from "What was wrong" on.
pub(super) fn body(draft: &Draft<'_>) -> String {
    let Sections { cause, change, proof, review, limits } = sections(draft);
    let stop = "write `state: closed` at the top of `pull-request.md`; it is then left alone";
    let parts = [
        format!("# {}", inline(&draft.title())),
        format!(
            "Draft · `{}` · {} · nothing is merged or marked ready without a person",
            code(draft.branch),
            inline(&draft.size())
        ),
        format!("## What was wrong\n\n{cause}"),
        format!("## What changes\n\n{change}"),
        format!("## Proof\n\n{proof}"),
        format!("## Review\n\n{review}"),
        format!("## Limits\n\n{limits}"),
        folded(draft, stop),
        format!("`{}`", code(&draft.marker())),
    ];
    parts.join("\n\n") + "\n"
}

/// A test command as a person can type it: what the sandbox sets is set.
pub(super) fn by_hand(command: &str) -> String {
    let set = command.contains("$JUNIT") || command.contains("${JUNIT}");
    if set { format!("export JUNIT=junit.xml\n{command}") } else { command.to_owned() }
}

fn or_unknown(found: &str) -> String {
    let shown = block(found);
    if shown.is_empty() { "Nothing was said about it.".into() } else { shown }
}

fn proof_section(draft: &Draft<'_>) -> String {
    let base = &draft.text.evidence.base;
    let mut out = format!("{}\n\n", inline(&format!("{}.", draft.verdict())));
    out.push_str("| what the host ran | command | result | took | tree |\n| --- | --- | --- | ---: | --- |\n");
    out.push_str(&format!(
        "| base | `{}` of {} | commit `{}` |  | `{}` |\n",
        code(&base.reference),
        within(&base.origin),
        base.commit.short(),
        base.tree.short()
    ));
    for line in &draft.lines {
        out.push_str(&format!(
            "| {} | `{}` | {} | {} | `{}` |\n",
            line.shows,
            code(&line.command),
            within(&line.result),
            line.took,
            line.tree
        ));
    }
    for (name, said) in draft.lines.iter().flat_map(|line| &line.said) {
        out.push_str(&format!("\n`{}` on the base says:\n\n{}\n", code(name), fenced(said)));
    }
    let names = |title: &str, names: &[String]| {
        if names.is_empty() {
            return String::new();
        }
        let list: Vec<String> = names.iter().take(MOST_NAMES).map(|name| format!("`{}`", code(name))).collect();
        let more = names.len().saturating_sub(MOST_NAMES);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("\n- {title}: {}{more}", list.join(", "))
    };
    let proven = &draft.proven;
    out.push_str(&names("red, then green", &proven.red_then_green));
    out.push_str(&names("fixed beside them", &proven.also_fixed));
    out.push_str(&names("flaky", &proven.flaky));
    out.push_str(&names("fail on the base and still do", &proven.known_failures));
    for line in draft.confined() {
        out.push_str(&format!("\n- sandbox: {}", within(&line)));
    }
    out
}

fn review(pr: &PullRequestText) -> String {
    if pr.review.is_empty() {
        return "No second model has read it.".into();
    }
    let rounds: Vec<String> = pr
        .review
        .iter()
        .map(|(round, verdict, said)| format!("- round {round}, **{}**: {}", within(verdict), within(said)))
        .collect();
    rounds.join("\n")
}

/// Hashes, cost and origin, folded. `stop`: how a person stops it, as Markdown.
pub(super) fn folded(draft: &Draft<'_>, stop: &str) -> String {
    let (proposal, pr) = (draft.proposal, draft.text);
    let mut lines: Vec<String> =
        draft.hashes().into_iter().map(|(name, hash)| format!("- {name}: `{}`", code(&hash))).collect();
    for line in &draft.lines {
        lines.push(format!("- output of {}: `{}`", line.shows, line.output));
    }
    let models: Vec<String> = pr.models.iter().map(|model| format!("`{}`", code(model))).collect();
    let models = if models.is_empty() { "no model".to_owned() } else { models.join(", ") };
    lines.push(format!("- cost so far in this run: {} · {models}", within(&text::usd(pr.cost_usd))));
    lines.push(format!(
        "- made by nightcrew: pipeline {} `{}`, run `{}`",
        within(&proposal.pipeline),
        code(&proposal.definition),
        code(&proposal.run)
    ));
    for (name, words) in [("labels", &pr.labels), ("reviewers", &pr.reviewers)] {
        if !words.is_empty() {
            let words: Vec<String> = words.iter().map(|word| format!("`{}`", code(word))).collect();
            lines.push(format!("- {name}: {}", words.join(", ")));
        }
    }
    if let Some(days) = pr.expires_days {
        lines.push(format!("- closed when nobody looks at it for {}", text::counted(u64::from(days), "day")));
    }
    lines.push(format!("- to stop it: {stop}"));
    // Our own two tags, around text that is escaped.
    format!("<details><summary>Evidence, cost and origin</summary>\n\n{}\n\n</details>", lines.join("\n"))
}

/// What must differ for the draft to be another one: not the run, its cost, or how long a command took.
pub(super) fn content(pr: &PullRequestText) -> String {
    Hash::of_json(&json!([
        pr.title,
        pr.cause,
        pr.change,
        pr.limits,
        pr.fixes,
        pr.patch,
        pr.new_tree,
        pr.evidence.base.commit,
        pr.review,
        pr.labels,
        pr.reviewers,
    ]))
    .short()
}

/// Title, what was wrong, what it fixes, and the marker by which it is found again. The trailers in `more` come last.
pub(super) fn commit_message(proposal: &Proposal, pr: &PullRequestText, title: &str, more: &[String]) -> String {
    let mut parts = vec![text::fit(&plain(title), 72)];
    let cause = wrapped(&plain(&pr.cause));
    parts.extend((!cause.is_empty()).then_some(cause));
    let mut trailers: Vec<String> = pr.fixes.iter().map(|fixed| format!("Fixes: {}", plain(fixed))).collect();
    trailers.push(format!(
        "Nightcrew: {} {}",
        proposal.key,
        proposal.definition.get(..12).unwrap_or(&proposal.definition)
    ));
    trailers.extend_from_slice(more);
    parts.push(trailers.join("\n"));
    parts.join("\n\n") + "\n"
}

/// One line that rings nobody and closes nothing wherever the commit may be pushed: there is no escape in a commit's message.
pub(super) fn plain(found: &str) -> String {
    let mut out = String::new();
    let line = text::line(found);
    for (at, c) in line.char_indices() {
        let (before, after) = (line.get(..at).unwrap_or_default(), line.get(at + c.len_utf8()..).unwrap_or_default());
        let number = after.starts_with(|c: char| c.is_ascii_digit());
        match c {
            '@' => out.push_str("(at)"),
            '#' if number => out.push_str("no. "),
            // `GH-12` is GitHub's other way to write it.
            '-' if number && before.to_ascii_lowercase().ends_with("gh") => out.push(' '),
            // An address that is no link any more.
            ':' if after.starts_with("//") => out.push_str(": "),
            c => out.push(c),
        }
    }
    out
}

/// Lines of at most 76 columns.
fn wrapped(line: &str) -> String {
    let mut out = String::new();
    let mut used = 0;
    for word in line.split(' ').take(400) {
        let width = text::width(word);
        if used > 0 && used + 1 + width > 76 {
            out.push('\n');
            used = 0;
        }
        if used > 0 {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += width;
    }
    out
}
