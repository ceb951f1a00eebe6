//! What people read in answer, in Slack's own markup. Short; what somebody else wrote stands in code spans.

use super::{Heard, Holder};
use crate::base::clock::Timestamp;
use crate::base::ids::RunId;
use crate::control::Refusal;
use crate::domain::run::Outcome;
use crate::journal::{Error, RunFilter};
use crate::render::text;
use crate::triggers::slack::{Act, Who};

/// Lines of one kind in a status.
const MOST: usize = 5;

/// Text of ours, or from the YAML.
pub fn plain(found: &str) -> String {
    text::line(found).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Anything, so that nothing in it means anything.
pub fn code(found: &str) -> String {
    format!("`{}`", plain(&text::fit(found, 120)).replace('`', "'"))
}

/// Who did something, as Slack shows people; nobody is rung by an answer that only one sees.
pub fn person(by: &str) -> String {
    let id = by.strip_prefix("slack:").and_then(|rest| rest.split(' ').next());
    match id.filter(|id| id.len() > 2 && id.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())) {
        Some(id) => format!("<@{id}>"),
        None => code(by),
    }
}

pub fn refusal(refusal: &Refusal) -> String {
    let help = refusal.help.as_deref().map(|help| format!("\n{}", plain(help))).unwrap_or_default();
    format!("⛔ {}{help}", plain(&refusal.message))
}

pub fn not_listed(who: &Who) -> String {
    format!(
        "🔒 You are not on the list of people who may do this, so nothing was changed.\nWhoever runs nightcrew can add {} to \
         `services.slack.users`.",
        code(&who.user)
    )
}

pub fn stopping() -> Heard {
    Heard::NotNow("⏳ nightcrew is stopping. Nothing was changed; try again in a minute.".into())
}

pub fn not_recorded(error: &Error) -> Heard {
    tracing::error!(%error, "a word from Slack cannot be recorded");
    Heard::NotNow("⛔ This cannot be recorded now, so nothing was changed. Try again in a minute.".into())
}

/// For the record.
pub fn name_of(act: &Act) -> &'static str {
    match act {
        Act::Decide { approved: true, .. } => "approve",
        Act::Decide { approved: false, .. } => "deny",
        Act::WrongCause { .. } => "wrong_cause",
        Act::WontFix { .. } => "wont_fix",
        Act::Retry { .. } => "retry",
        Act::AddBudget { .. } => "add_budget",
        Act::Command(_) | Act::Misspelt(_) => "command",
        Act::Unreadable | Act::Nothing => "nothing",
    }
}

pub fn help() -> String {
    "*What I understand*\n\
     • `run PIPELINE [name=value …]` begins a run\n\
     • `status` what runs, waits and was last\n\
     • `mute ID [days]` nobody hears of a finding, for good or for so many days\n\
     • `stop RUN` ends a run for good\n\
     Buttons under my messages approve, deny, try again, and tell me what I got wrong."
        .into()
}

pub fn misspelt(help: &str) -> String {
    // Its parts are ours, what was typed stands in code spans already.
    let help = help.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("🤔 Sorry, {help}\nType `help` to see what I understand.")
}

/// `` `error-to-pr` run `01JD…7QK` ``
pub fn run(pipeline: &str, run: &RunId) -> String {
    format!("{} run {}", code(pipeline), code(&run.short()))
}

/// The state of things, for a phone.
pub fn status(holder: &Holder, now: Timestamp) -> Result<String, Error> {
    let status = holder.status();
    let reader = holder.journal().reader();
    let spent = reader.costs(1, now)?.iter().fold(crate::base::money::UsdMicros::ZERO, |sum, line| {
        sum + line.boss + line.intern + line.reviewer + line.sandbox + line.reserved
    });
    let mut lines = vec![format!(
        "{} · {} at work, {} waiting · {spent} today",
        text::counted(status.pipelines.len() as u64, "pipeline"),
        text::counted(status.active.len() as u64, "run"),
        status.queued
    )];
    let open = reader.runs(RunFilter { open_only: true, limit: 50, ..RunFilter::default() })?;
    let (mut shown, mut questions) = (Vec::new(), Vec::new());
    for line in &open {
        let since = text::duration(text::between(line.started_at, now));
        shown.push(format!("▸ {} · since {since}", run(&line.pipeline, &line.id)));
        if let Some(view) = reader.run(line.id.as_str())? {
            let asks =
                view.questions.iter().map(|(_, ask)| format!("✋ {} asks: {}", code(&line.pipeline), plain(ask)));
            questions.extend(asks);
        }
    }
    for mut found in [shown, questions] {
        let more = found.len().saturating_sub(MOST);
        found.truncate(MOST);
        lines.extend(found);
        if more > 0 {
            lines.push(format!("   and {more} more"));
        }
    }
    if !status.broken.is_empty() {
        let files = text::counted(status.broken.len() as u64, "file");
        lines.push(format!("⚠ {files} cannot be used: `nightcrew validate` says why"));
    }
    let last = reader.runs(RunFilter { limit: 20, ..RunFilter::default() })?;
    if let Some((last, outcome, at)) = last.iter().find_map(|line| Some((line, line.outcome?, line.finished_at?))) {
        let ago = text::duration(text::between(at, now));
        let mark = if outcome.is_healthy() { "✓" } else { "✗" };
        lines.push(format!(
            "{mark} last: {} {}, {ago} ago",
            run(&last.pipeline, &last.id),
            text::outcome_word(Some(outcome))
        ));
    }
    Ok(lines.join("\n"))
}

/// How a run ended, where somebody still wants something of it.
pub fn ended(outcome: Outcome) -> String {
    format!("⏹ The run has already ended ({}). Nothing was changed.", text::outcome_word(Some(outcome)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_means_nothing_in_slack() {
        let evil = "a`b <!channel> <https://evil.example|x> *b* &\u{202e}\nnext";
        assert_eq!(code(evil), "`a'b &lt;!channel&gt; &lt;https://evil.example|x&gt; *b* &amp; next`");
        assert_eq!(plain("<@U1> & co"), "&lt;@U1&gt; &amp; co");
        assert_eq!(person("slack:U024BE7LH (ann)"), "<@U024BE7LH>");
        assert_eq!(person("slack:!channel"), "`slack:!channel`");
        assert_eq!(person("cli:ann"), "`cli:ann`");
        assert!(misspelt("`a` is <no> name").contains("`a` is &lt;no&gt; name"));
    }
}
