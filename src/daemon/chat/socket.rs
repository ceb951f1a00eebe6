//! Socket Mode: one connection is kept open while it is configured, and replaced before Slack ends it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Chat, Heard, Holder};
use crate::base::clock::Timestamp;
use crate::base::env::Env;
use crate::base::retry::{Backoff, Retry};
use crate::base::secret::SecretRef;
use crate::clients::slack::{Envelope, Incoming, Slack, SlackError, Socket};
use crate::daemon::load::Library;
use crate::ports::service::Service;

/// Pauses between tries to connect; they never end.
const AGAIN: Backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(60), total: Duration::MAX };
/// A connection that is to be replaced so soon is replaced after a pause.
const SHORT: Duration = Duration::from_secs(5);

/// Listens in a task of the holder's scope until that is closed.
pub(super) fn start(chat: &Arc<Chat>, holder: &Holder) {
    let listener = Listener {
        chat: chat.clone(),
        env: holder.inner.env.clone(),
        stop: holder.inner.scope.token().clone(),
        library: holder.inner.library.subscribe(),
    };
    drop(holder.inner.scope.spawn("slack's socket", listener.run()));
}

struct Listener {
    chat: Arc<Chat>,
    env: Env,
    stop: CancellationToken,
    library: watch::Receiver<Arc<Library>>,
}

/// Why a connection is not used any more.
enum End {
    Stop,
    /// Slack is configured otherwise now.
    Changed,
    Lost(SlackError),
}

impl Listener {
    async fn run(mut self) {
        let mut failures = 0;
        let mut told = String::new();
        loop {
            let service = self.configured();
            let Some(token) = service.as_ref().and_then(|service| service.secret("app_token")).cloned() else {
                match self.change(&service).await {
                    End::Stop => return,
                    End::Changed | End::Lost(_) => continue,
                }
            };
            let ended = match self.connect(&token).await {
                Ok((slack, socket)) => {
                    let before = self.env.now();
                    let ended = self.serve(socket, &slack, &token, &service).await;
                    // One that stood for a while is no failure to connect.
                    if self.lasted(before, SHORT) {
                        (failures, told) = (0, String::new());
                    }
                    ended
                }
                Err(error) => End::Lost(error),
            };
            let error = match ended {
                End::Stop => return,
                End::Changed => continue,
                End::Lost(error) => error,
            };
            failures += 1;
            let pause = AGAIN.pause(failures, Duration::ZERO, after(&error)).unwrap_or(AGAIN.most);
            let message = error.to_string();
            // Once for each reason: a Slack that is away all night fills no log.
            if message != told {
                let help = if let SlackError::Missing { help, .. } = &error { help.as_str() } else { "" };
                match error {
                    SlackError::Unavailable { .. } | SlackError::Ambiguous { .. } => {
                        tracing::warn!(error = message, "slack's socket is not connected; trying again");
                    }
                    _ => tracing::error!(error = message, help, "slack's socket cannot be connected; trying again"),
                }
            }
            told = message;
            tokio::select! {
                () = self.env.clock.sleep(self.env.jitter(pause)) => {}
                ended = self.change(&service) => if matches!(ended, End::Stop) { return },
            }
        }
    }

    fn configured(&mut self) -> Option<Service> {
        self.library.borrow_and_update().settings.services.slack.clone()
    }

    fn lasted(&self, since: Timestamp, at_least: Duration) -> bool {
        crate::render::text::between(since, self.env.now()) >= at_least
    }

    /// Waits until Slack is configured otherwise than so. Cancel safe.
    async fn change(&mut self, service: &Option<Service>) -> End {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return End::Stop,
                changed = self.library.changed() => match changed {
                    Err(_) => return End::Stop,
                    Ok(()) if self.configured() != *service => return End::Changed,
                    Ok(()) => {}
                },
            }
        }
    }

    async fn connect(&self, token: &SecretRef) -> Result<(Slack, Socket), SlackError> {
        let gone = || SlackError::Unavailable { message: "the daemon is stopping".into(), after: None };
        let slack = {
            let holder = Holder { inner: self.chat.inner.upgrade().ok_or_else(gone)? };
            self.chat.client(&holder)?
        };
        let opening = async {
            if self.chat.ours().team.is_none() {
                // Whose words these are cannot be said without it, so it comes first.
                let me = slack.me().await?;
                // An app of a whole organisation (`E…`) is spoken to from many workspaces.
                self.chat.learn(|ours| ours.team = Some(me.team_id).filter(|team| team.starts_with('T')));
            }
            slack.open_socket(token).await
        };
        let socket = tokio::select! {
            socket = opening => socket?,
            () = self.stop.cancelled() => return Err(gone()),
        };
        Ok((slack, socket))
    }

    async fn serve(&mut self, mut socket: Socket, slack: &Slack, token: &SecretRef, service: &Option<Service>) -> End {
        let stop = self.stop.clone();
        let chat = self.chat.clone();
        let env = self.env.clone();
        let mut connected_at = env.now();
        let mut next = None;
        loop {
            let opened = async {
                match next.as_mut() {
                    Some(next) => next.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => {
                    socket.close().await;
                    return End::Stop;
                }
                ended = self.change(service) => {
                    socket.close().await;
                    return ended;
                }
                opened = opened => {
                    next = None;
                    match opened {
                        Ok(new) => {
                            connected_at = env.now();
                            std::mem::replace(&mut socket, new).close().await;
                        }
                        Err(error) => return End::Lost(error),
                    }
                }
                incoming = socket.next() => match incoming {
                    Ok(Incoming::Hello { app }) => {
                        tracing::info!(app = app.as_deref(), "slack's socket is connected");
                        if app.is_some() {
                            chat.learn(|ours| ours.app = app);
                        }
                    }
                    Ok(Incoming::Leave { reason }) => {
                        tracing::debug!(reason, "slack's socket is to be replaced");
                        if next.is_none() {
                            let is_short = crate::render::text::between(connected_at, env.now()) < SHORT;
                            let pause = if is_short { AGAIN.first } else { Duration::ZERO };
                            let (slack, token, clock) = (slack.clone(), token.clone(), env.clock.clone());
                            next = Some(Box::pin(async move {
                                clock.sleep(pause).await;
                                slack.open_socket(&token).await
                            }));
                        }
                    }
                    Ok(Incoming::Envelope(envelope)) => {
                        if let Err(error) = take(&chat, &mut socket, &envelope).await {
                            return End::Lost(error);
                        }
                    }
                    Err(error) => {
                        let Some(opening) = next.take() else { return End::Lost(error) };
                        // It ended before the other one stood, if one was asked for.
                        let opened = tokio::select! {
                            opened = opening => opened,
                            () = stop.cancelled() => return End::Stop,
                        };
                        match opened {
                            Ok(new) => (socket, connected_at) = (new, env.now()),
                            Err(error) => return End::Lost(error),
                        }
                    }
                },
            }
        }
    }
}

/// Hears it, and only then says so. What cannot be recorded is not acknowledged; who did it is told.
async fn take(chat: &Arc<Chat>, socket: &mut Socket, envelope: &Envelope) -> Result<(), SlackError> {
    let (heard, word) = chat.hear(&envelope.kind, &envelope.payload).await;
    let (answer, is_taken) = match heard {
        Heard::Done(answer) => (answer, true),
        Heard::NotNow(answer) => (Some(answer), false),
    };
    let with_it = is_taken && envelope.takes_answer && answer.is_some();
    if is_taken {
        socket.acknowledge(envelope, answer.as_deref()).await?;
    }
    if let (Some(answer), Some(word), false) = (answer, word, with_it) {
        chat.tell(&word.place, &word.who, answer);
    }
    Ok(())
}

/// Only a passing fault may pass soon.
fn after(error: &SlackError) -> Retry {
    match error {
        SlackError::Unavailable { after: Some(after), .. } => Retry::After(*after),
        SlackError::Unavailable { .. } | SlackError::Ambiguous { .. } => Retry::Backoff,
        SlackError::Missing { .. } | SlackError::Credential { .. } | SlackError::Refused { .. } => {
            Retry::After(AGAIN.most)
        }
    }
}
