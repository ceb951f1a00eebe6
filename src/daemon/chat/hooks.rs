//! The same over HTTP, at `/hooks/slack`: answered when it is recorded, within Slack's three seconds.

use std::sync::Arc;

use serde_json::json;

use super::{Chat, Heard, Holder};
use crate::base::secret::Secret;
use crate::triggers::hook::{HookAnswer, HookRequest, Hooks};
use crate::triggers::slack::signed::{self, Arrived, Rejected};

/// Takes deliveries where Slack's signing secret is configured.
pub(super) fn add(chat: &Arc<Chat>, holder: &Holder, hooks: &mut Hooks) {
    let library = holder.library();
    if library.settings.services.slack.as_ref().is_none_or(|slack| slack.secret("signing_secret").is_none()) {
        return;
    }
    let chat = chat.clone();
    hooks.add(
        "slack",
        Arc::new(move |request| {
            let chat = chat.clone();
            Box::pin(async move { answer(&chat, request).await })
        }),
    );
}

async fn answer(chat: &Arc<Chat>, request: HookRequest) -> HookAnswer {
    let Some(inner) = chat.inner.upgrade() else { return HookAnswer::status(503) };
    let holder = Holder { inner };
    let Some(secrets) = secrets(&holder) else { return HookAnswer::status(503) };
    let opened = signed::open(&request, &secrets, holder.inner.env.now());
    drop(holder);
    let (kind, payload) = match opened {
        Ok(Arrived::Payload(kind, payload)) => (kind, payload),
        Ok(Arrived::Challenge(challenge)) => return HookAnswer::text(200, challenge),
        Ok(Arrived::Check) => return HookAnswer::status(200),
        Err(Rejected::Signature) => {
            tracing::debug!("a request to /hooks/slack is not signed by Slack, or too long ago");
            return HookAnswer::status(401);
        }
        Err(Rejected::Body) => return HookAnswer::status(400),
    };
    match chat.hear(kind, &payload).await {
        (Heard::Done(Some(text)), _) if kind == "slash_commands" => {
            HookAnswer::json(200, &json!({"response_type": "ephemeral", "text": text}))
        }
        (Heard::Done(text), word) => {
            if let (Some(text), Some(word)) = (text, word) {
                chat.tell(&word.place, &word.who, text);
            }
            HookAnswer::status(200)
        }
        (Heard::NotNow(text), word) => {
            if let Some(word) = word {
                chat.tell(&word.place, &word.who, text);
            }
            HookAnswer::status(503)
        }
    }
}

/// The signing secrets of this moment: two while one is rotated.
fn secrets(holder: &Holder) -> Option<Vec<Secret>> {
    let library = holder.library();
    let reference = library.settings.services.slack.as_ref()?.secret("signing_secret")?;
    match reference.read_all() {
        Ok(secrets) => Some(secrets),
        Err(error) => {
            tracing::error!(%error, "Slack's signing secret cannot be read, so nothing is taken from it");
            None
        }
    }
}
