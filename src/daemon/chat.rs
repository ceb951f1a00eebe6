//! Slack as a place to answer, approve and command; and GitHub's word of what people did with our work (`github`).
//!
//! One interpreter ([`crate::triggers::slack`]), fed in two ways: by Socket Mode, which needs no public address (`socket`), and by
//! signed HTTP at `/hooks/slack` (`hooks`). What somebody did is recorded before it is acknowledged, so a delivery that was not
//! acknowledged may come again; every act is such that the second time changes nothing. The configuration is read at each word:
//! who is taken off the list has no say from then on.

mod acts;
mod github;
mod hooks;
mod said;
mod socket;

use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde_json::{Value, json};

use super::{Holder, Inner};
use crate::base::ids::RunId;
use crate::clients::slack::{Slack, SlackError};
use crate::ports::service::Outside;
use crate::triggers::hook::Hooks;
use crate::triggers::slack::{self, Act, Allowed, Place, Refused, Who, Word};

/// The name under which words are remembered.
const HOOK: &str = "slack";
/// Answers on their way at a time; more are left out, since what was done is recorded anyway.
const ANSWERS: usize = 16;

/// Starts it, where it is configured.
pub(super) async fn start(holder: &Holder, hooks: &mut Hooks) -> anyhow::Result<()> {
    let chat = Arc::new(Chat {
        inner: Arc::downgrade(&holder.inner),
        ours: Mutex::default(),
        answers: Arc::new(tokio::sync::Semaphore::new(ANSWERS)),
    });
    github::add(holder, hooks);
    hooks::add(&chat, holder, hooks);
    socket::start(&chat, holder);
    Ok(())
}

/// Hears what people do. Holds the holder weakly: nobody's word keeps a stopping daemon alive.
struct Chat {
    inner: Weak<Inner>,
    ours: Mutex<Ours>,
    answers: Arc<tokio::sync::Semaphore>,
}

/// What Slack has said about us.
#[derive(Clone, Debug, Default)]
struct Ours {
    team: Option<String>,
    app: Option<String>,
}

/// What became of a word.
#[derive(Clone, Debug, PartialEq)]
enum Heard {
    /// It is recorded, or there is nothing to record; what who said it should see.
    Done(Option<String>),
    /// It cannot be recorded now: whoever delivered it is not told that it was taken.
    NotNow(String),
}

impl Chat {
    fn ours(&self) -> Ours {
        self.ours.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn learn(&self, learn: impl FnOnce(&mut Ours)) {
        learn(&mut self.ours.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The client, with the configuration of this moment.
    fn client(&self, holder: &Holder) -> Result<Slack, SlackError> {
        Slack::of(&Outside {
            services: Arc::new(holder.library().settings.services.clone()),
            shared: holder.inner.shared.clone(),
            env: holder.inner.env.clone(),
        })
    }

    /// Takes a payload. Not cancel safe: what it began goes on.
    async fn hear(&self, kind: &str, payload: &Value) -> (Heard, Option<Word>) {
        let Some(word) = slack::read(kind, payload).filter(|word| word.act != Act::Nothing) else {
            return (Heard::Done(None), None);
        };
        let Some(inner) = self.inner.upgrade() else { return (said::stopping(), Some(word)) };
        let heard = self.heard(&Holder { inner }, &word).await;
        (heard, Some(word))
    }

    async fn heard(&self, holder: &Holder, word: &Word) -> Heard {
        let journal = holder.journal();
        match journal.reader().was_delivered(HOOK, &word.key) {
            Ok(false) => {}
            // What it had to say it said the first time.
            Ok(true) => return Heard::Done(None),
            Err(error) => return said::not_recorded(&error),
        }
        let library = holder.library();
        let users = library.settings.services.slack.as_ref().map(|slack| slack.list("users")).unwrap_or_default();
        let ours = self.ours();
        let allowed = Allowed { users, team: ours.team.as_deref(), app: ours.app.as_deref() };
        let heard = match allowed.judge(&word.who) {
            Ok(()) => acts::act(holder, word).await,
            Err(refused) => refuse(holder, word, refused).await,
        };
        if let Heard::Done(_) = &heard
            && let Err(error) = journal.note_delivery(HOOK, &word.key).await
        {
            return said::not_recorded(&error);
        }
        heard
    }

    /// Tells who acted, and nobody else. A failure is a line in the log: what was done is recorded.
    fn tell(self: &Arc<Self>, place: &Place, who: &Who, text: String) {
        let Some(inner) = self.inner.upgrade() else { return };
        let Ok(turn) = self.answers.clone().try_acquire_owned() else {
            tracing::warn!(user = who.user, "too many answers to Slack are on their way; this one is left out");
            return;
        };
        let holder = Holder { inner };
        let scope = holder.inner.scope.clone();
        let (place, user) = (place.clone(), who.user.clone());
        let client = self.client(&holder);
        drop(holder);
        drop(scope.spawn("an answer to Slack", async move {
            let told = async {
                let client = client?;
                match (&place.response_url, &place.channel) {
                    (Some(url), _) => client.answer_at(url, &text).await,
                    (None, Some(channel)) => client.whisper(channel, &user, &text).await,
                    (None, None) => Ok(()),
                }
            };
            if let Err(error) = told.await {
                tracing::warn!(user, error = %error, "an answer did not reach Slack");
            }
            drop(turn);
        }));
    }
}

/// Somebody whose word does not count. It is recorded; a person is told so, whoever else it was is not.
async fn refuse(holder: &Holder, word: &Word, refused: Refused) -> Heard {
    let by = word.who.by();
    let run = match &word.act {
        Act::Decide { question, .. } => Some(&question.run),
        Act::Retry { run } | Act::AddBudget { run, .. } => Some(run),
        _ => None,
    };
    tracing::warn!(
        by,
        why = refused.why(),
        act = said::name_of(&word.act),
        run = run.map(String::as_str),
        team = word.who.team.as_deref(),
        app = word.who.app.as_deref(),
        "a word from Slack that does not count"
    );
    if let Some(run) = run {
        let value = json!({"act": said::name_of(&word.act), "why": refused.why(), "key": word.key});
        match holder.journal().overheard(&RunId(run.clone()), "", "refused", value, &by).await {
            // A run that does not exist has nothing to record it with.
            Ok(()) | Err(crate::journal::Error::NoRun(_)) => {}
            Err(error) => return said::not_recorded(&error),
        }
    }
    Heard::Done(match refused {
        Refused::NotListed => Some(said::not_listed(&word.who)),
        Refused::NotAPerson | Refused::OtherTeam | Refused::OtherApp => None,
    })
}
