//! What is done for somebody who may: each act is recorded with who wanted it, and doing it again changes nothing.

use serde_json::{Map, Value, json};

use super::said::{self, code, person, plain};
use super::{Heard, Holder};
use crate::base::ids::RunId;
use crate::base::money::UsdMicros;
use crate::control::{Refusal, RunRequest};
use crate::daemon::Submitted;
use crate::diag::did_you_mean;
use crate::domain::run::TriggerKind;
use crate::journal::{Answer, Answered, Error, FindingFilter};
use crate::render::text;
use crate::steps;
use crate::triggers::slack::command::Command;
use crate::triggers::slack::{Act, Asked, Word};

/// The most that one press adds to a run's budget, in dollars, and what it adds when the button says nothing.
const MOST_USD: f64 = 5.0;

/// Does it. Not cancel safe.
pub(super) async fn act(holder: &Holder, word: &Word) -> Heard {
    let by = word.who.by();
    match &word.act {
        Act::Decide { approved, question } => decide(holder, word, *approved, question).await,
        Act::WrongCause { finding } => {
            let said = "👎 Noted: the cause is another one. It is looked at anew when it is seen next.";
            told(holder.feedback(finding, "wrong_cause", &by).await, said)
        }
        Act::WontFix { finding } => {
            let said = format!(
                "🔇 Noted: won't fix. You hear no more of it; `nightcrew findings unmute {finding}` takes that back."
            );
            told(holder.feedback(finding, "wont_fix", &by).await, &said)
        }
        Act::Retry { run } => go_on(holder, word, run, UsdMicros::ZERO).await,
        Act::AddBudget { run, usd } => match usd.unwrap_or(MOST_USD) {
            usd if usd > 0.0 && usd <= MOST_USD => go_on(holder, word, run, UsdMicros::from_usd(usd)).await,
            _ => unreadable(),
        },
        Act::Command(command) => command_of(holder, word, command).await,
        Act::Misspelt(help) => say(said::misspelt(help)),
        Act::Unreadable => unreadable(),
        Act::Nothing => Heard::Done(None),
    }
}

fn say(text: impl Into<String>) -> Heard {
    Heard::Done(Some(text.into()))
}

fn unreadable() -> Heard {
    say("🤷 This button is none that I made. Nothing was changed.")
}

/// The journal's failures and a stopping daemon leave the word untaken; every other refusal is an answer.
fn refused(refusal: &Refusal) -> Heard {
    match refusal.code.as_str() {
        "E-STOPPING" => said::stopping(),
        "E-JOURNAL" => {
            tracing::error!(error = refusal.message, "a word from Slack cannot be recorded");
            Heard::NotNow(said::refusal(refusal))
        }
        _ => say(said::refusal(refusal)),
    }
}

fn told(done: Result<(), Refusal>, said: &str) -> Heard {
    match done {
        Ok(()) => say(said),
        Err(refusal) => refused(&refusal),
    }
}

async fn decide(holder: &Holder, word: &Word, approved: bool, asked: &Asked) -> Heard {
    let not_open = || say("🤷 This question is not open. Nothing was changed.");
    let Some(delivered_at) = steps::delivered_at(&asked.path) else { return not_open() };
    let by = word.who.by();
    let answer = Answer {
        run: RunId(asked.run.clone()),
        path: asked.path.clone(),
        name: steps::APPROVAL.to_owned(),
        delivered_at,
        hash: asked.hash.clone(),
        value: json!({"approved": approved, "hash": asked.hash}),
        by: by.clone(),
    };
    match holder.journal().answer(answer).await {
        Ok(Answered::Now { ask }) if approved => say(format!("✅ You approved: {}", plain(&ask))),
        Ok(Answered::Now { ask }) => say(format!("🚫 You denied: {}", plain(&ask))),
        Ok(Answered::Before(before)) => {
            let how = if before.value["approved"] == true { "approved" } else { "denied" };
            match before.by == by {
                true => say(format!("👌 You have {how} it already.")),
                false => say(format!("👌 {} has {how} it already.", person(&before.by))),
            }
        }
        Ok(Answered::Expired { then }) => say(format!("⌛ Too late: nobody answered in time, so: {}.", plain(&then))),
        Ok(Answered::NotAsked) => {
            tracing::warn!(by, run = asked.run, path = asked.path, "an answer to a question that was not asked");
            let value = json!({"act": said::name_of(&word.act), "why": "no such question", "key": word.key});
            match holder.journal().overheard(&RunId(asked.run.clone()), "", "refused", value, &by).await {
                Ok(()) => not_open(),
                Err(error) => said::not_recorded(&error),
            }
        }
        Err(Error::Ended { outcome, .. }) => say(said::ended(outcome)),
        Err(Error::NoRun(_)) => {
            tracing::warn!(by, run = asked.run, "an answer to a run that does not exist");
            not_open()
        }
        Err(error) => said::not_recorded(&error),
    }
}

async fn go_on(holder: &Holder, word: &Word, run: &str, add: UsdMicros) -> Heard {
    let run = RunId(run.to_owned());
    let pipeline = match holder.journal().reader().run(run.as_str()) {
        // Whole ids only: a button names exactly one run.
        Ok(Some(view)) if view.start.id == run => view.start.pipeline,
        Ok(_) | Err(Error::Ambiguous { .. }) => return say("🤷 There is no such run. Nothing was changed."),
        Err(error) => return said::not_recorded(&error),
    };
    match holder.take_further(&run, add, &word.who.by(), Some(&word.key)).await {
        Ok(()) if add.is_zero() => say(format!("▶ {} goes on.", said::run(&pipeline, &run))),
        Ok(()) => say(format!("▶ {} goes on with {add} more.", said::run(&pipeline, &run))),
        Err(refusal) => refused(&refusal),
    }
}

async fn command_of(holder: &Holder, word: &Word, command: &Command) -> Heard {
    match command {
        Command::Help => say(said::help()),
        Command::Status => match said::status(holder, holder.inner.env.now()) {
            Ok(status) => say(status),
            Err(error) => said::not_recorded(&error),
        },
        Command::Run { pipeline, params } => begin(holder, word, pipeline, params).await,
        Command::Mute { id, days } => mute(holder, word, id, *days).await,
        Command::Stop { run } => stop(holder, word, run).await,
    }
}

async fn begin(holder: &Holder, word: &Word, pipeline: &str, params: &[(String, String)]) -> Heard {
    let library = holder.library();
    // Only what is loaded: a path is no pipeline here.
    if !library.pipelines.contains_key(pipeline) {
        let near = did_you_mean(pipeline, library.pipelines.keys().map(String::as_str));
        let near = near.map(|near| format!(": {}", plain(&near))).unwrap_or_default();
        return say(format!("🤔 There is no pipeline {}{near}", code(pipeline)));
    }
    let given: Map<String, Value> = params.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let request = RunRequest {
        pipeline: pipeline.to_owned(),
        params: given,
        trigger: Some(TriggerKind::Slack),
        key: Some(word.key.clone()),
        ..RunRequest::default()
    };
    let run = match holder.submit(request).await {
        Ok(Submitted::Already(run)) => return say(format!("👌 It has begun already: {}", said::run(pipeline, &run))),
        Ok(Submitted::New(run)) => run,
        Err(refusal) => return refused(&refusal),
    };
    let value = json!({"params": params.iter().cloned().collect::<std::collections::BTreeMap<_, _>>()});
    if let Err(error) = holder.journal().overheard(&run, "", "run", value, &word.who.by()).await {
        return said::not_recorded(&error);
    }
    let effects = match holder.journal().reader().run(run.as_str()) {
        Ok(Some(view)) => format!(" · {}", view.start.effects),
        Ok(None) | Err(_) => String::new(),
    };
    say(format!("▶ Begun: {}{effects}", said::run(pipeline, &run)))
}

async fn mute(holder: &Holder, word: &Word, id: &str, days: Option<u32>) -> Heard {
    let wanted = id.to_ascii_lowercase();
    let lines = match holder.journal().reader().findings(&FindingFilter { all: true, ..FindingFilter::default() }) {
        Ok(lines) => lines,
        Err(error) => return said::not_recorded(&error),
    };
    let found: Vec<_> = lines.iter().filter(|line| line.id.starts_with(&wanted)).collect();
    let line = match found.as_slice() {
        [line] => line,
        [] => return say(format!("🤔 There is no finding {}. `nightcrew findings` lists them.", code(id))),
        several => {
            let ids: Vec<String> =
                several.iter().take(5).map(|line| format!("{} {}", code(&line.id), code(&line.title))).collect();
            return say(format!("🤔 That fits {} findings; write more of the id:\n{}", several.len(), ids.join("\n")));
        }
    };
    let until =
        days.map(|days| holder.inner.env.now().saturating_add(jiff::SignedDuration::from_hours(24 * i64::from(days))));
    let until = until.and_then(Result::ok);
    if let Err(refusal) = holder.mute(&line.id, until, "muted in Slack", &word.who.by()).await {
        return refused(&refusal);
    }
    let long =
        days.map_or_else(|| "for good".to_owned(), |days| format!("for {}", text::counted(u64::from(days), "day")));
    say(format!("🔇 Muted {long}: {}\n`nightcrew findings unmute {}` takes that back.", code(&line.title), line.id))
}

async fn stop(holder: &Holder, word: &Word, run: &str) -> Heard {
    let view = match holder.journal().reader().run(run) {
        Ok(Some(view)) => view,
        Ok(None) => return say(format!("🤔 There is no run {}. `status` shows what is open.", code(run))),
        Err(Error::Ambiguous { matches, .. }) => {
            let ids: Vec<String> = matches.iter().map(|id| code(id)).collect();
            return say(format!("🤔 That fits several runs; write more of the id: {}", ids.join(", ")));
        }
        Err(error) => return said::not_recorded(&error),
    };
    if let Some(outcome) = view.outcome {
        return say(said::ended(outcome));
    }
    let (run, by) = (&view.start.id, word.who.by());
    if let Err(error) = holder.journal().overheard(run, "", "stop", json!({}), &by).await {
        return said::not_recorded(&error);
    }
    told(
        holder.cancel(run, &format!("stopped by {by}")).await,
        &format!("⏹ Stopped: {}", said::run(&view.start.pipeline, run)),
    )
}
