//! `nightcrew approve | deny | answer`: a person's word to a run that asks.

use serde_json::{Value, json};

use super::args::{AnswerArgs, DecideArgs};
use super::session::{Session, asked, by, must_be_open};
use super::{Exit, Trouble};
use crate::control::Request;
use crate::daemon::GRACE;
use crate::domain::view::RunView;
use crate::sinks::text;

/// The signal that a step of kind `approve` waits for.
const APPROVAL: &str = "approve";
/// What an agent hears between two turns.
const STEER: &str = "steer";

pub async fn approve(session: &Session, args: DecideArgs) -> anyhow::Result<Exit> {
    decide(session, args, true).await
}

pub async fn deny(session: &Session, args: DecideArgs) -> anyhow::Result<Exit> {
    decide(session, args, false).await
}

async fn decide(session: &Session, args: DecideArgs, approved: bool) -> anyhow::Result<Exit> {
    let view = session.find_run(&session.must_reader()?, &args.id)?;
    must_be_open(&view)?;
    let (path, question) = which(&view, args.step.as_deref())?;
    let value = json!({"approved": approved, "reason": args.reason});
    let said = format!("{}: {question}", if approved { "approved" } else { "denied" });
    send(session, &view, &path, APPROVAL, value, &said).await
}

/// An open question is answered with yes or no; without one the text goes to the agent that is at work.
pub async fn answer(session: &Session, args: AnswerArgs) -> anyhow::Result<Exit> {
    let view = session.find_run(&session.must_reader()?, &args.id)?;
    must_be_open(&view)?;
    if view.questions.is_empty() {
        let path = args.step.unwrap_or_default();
        let said = "it will be read before the agent's next turn";
        return send(session, &view, &path, STEER, json!({"text": args.text}), said).await;
    }
    let (path, question) = which(&view, args.step.as_deref())?;
    let approved = match args.text.trim().to_lowercase().as_str() {
        "yes" | "y" | "ok" | "approve" => true,
        "no" | "n" | "deny" => false,
        _ => {
            let trouble = Trouble::new(Exit::Usage, format!("it asks for yes or no: {question}"));
            return Err(trouble.help("answer `yes` or `no`, or use `approve` and `deny`").into());
        }
    };
    let said = format!("{}: {question}", if approved { "approved" } else { "denied" });
    send(session, &view, &path, APPROVAL, json!({"approved": approved}), &said).await
}

async fn send(
    session: &Session,
    view: &RunView,
    path: &str,
    name: &str,
    value: Value,
    said: &str,
) -> anyhow::Result<Exit> {
    let run = must_be_open(view)?.clone();
    match session.holder().await? {
        Some(mut holder) => {
            let request = Request::Signal { run, path: path.to_owned(), name: name.to_owned(), value, by: by() };
            holder.ask(&request).await.map_err(asked)?;
            session.ui.say(said);
        }
        None => {
            let holder = session.hold("answer", &view.start.profile, session.library()?)?;
            let sent = holder.signal(&run, path, name, value, &by()).await;
            holder.stop(GRACE).await?;
            sent.map_err(Trouble::from)?;
            session.ui.say(said);
            let resume = session.again(&format!("resume {}", run.short()));
            session.ui.say(format!("the run is not active now; it goes on with: {resume}"));
        }
    }
    Ok(Exit::Done)
}

/// The one open question, or the one that was named: (path, what is asked).
fn which(view: &RunView, step: Option<&str>) -> anyhow::Result<(String, String)> {
    let open = &view.questions;
    let fits = |path: &str| step.is_none_or(|step| path == step || path.ends_with(&format!("/{step}")));
    let mut found = open.iter().filter(|(path, _)| fits(path));
    let list = || {
        open.iter()
            .map(|(path, ask)| format!("  {}: {}", text::line(path), text::line(ask)))
            .collect::<Vec<_>>()
            .join("\n")
    };
    match (found.next(), found.next()) {
        (Some((path, ask)), None) => Ok((path.clone(), text::line(ask))),
        (None, _) if open.is_empty() => {
            Err(Trouble::new(Exit::No, format!("run {} asks nothing", view.start.id.short())).into())
        }
        (None, _) => Err(Trouble::new(Exit::No, format!("no such question; it asks:\n{}", list())).into()),
        (Some(_), Some(_)) => Err(Trouble::new(Exit::Usage, format!("it asks several things:\n{}", list()))
            .help("name one with --step")
            .into()),
    }
}
