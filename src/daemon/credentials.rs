//! Secrets that a service refused: told once for each content, and the runs that wait for one go on when it is another.
//!
//! A run that is refused for its secret ends `blocked` and is parked with it in the same transaction. Here is watched what clients
//! hear (`clients::credentials`) and whether a secret for which runs wait has changed; then each of them is resumed, which takes it
//! off the list in the same transaction, so that it goes on once. Nothing is asked of any service.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Holder;
use super::load::Library;
use crate::base::money::UsdMicros;
use crate::base::secret::SecretRef;
use crate::clients::credentials::{Credentials, Refusal, fingerprint};
use crate::clients::slack::{NewMessage, Slack};
use crate::journal::{ParkedRun, RefusedSecret};
use crate::ports::service::Outside;

/// Between two looks at secrets for which runs wait.
const LOOK: Duration = Duration::from_secs(3);
/// Between two tries to tell people where they are.
const TELL_AGAIN: Duration = Duration::from_secs(600);
/// Messages that are looked through for one that was sent already.
const LOOKED_AT: usize = 200;
/// Who resumes, as the journal has it.
const BY: &str = "a replaced secret";

/// Starts it.
pub(super) async fn start(holder: &Holder) -> anyhow::Result<()> {
    let credentials = Credentials::of(&holder.inner.shared);
    let (mut refused, mut ended) = (credentials.changes(), holder.engine().ended());
    let stop = holder.inner.scope.token().clone();
    let weak = std::sync::Arc::downgrade(&holder.inner);
    let clock = holder.inner.env.clock.clone();
    drop(holder.inner.scope.spawn("secrets", async move {
        let mut watch = Watch { credentials, tried_at: None };
        loop {
            let Some(inner) = weak.upgrade() else { return };
            let waiting = match watch.look(&Holder { inner }).await {
                Ok(waiting) => waiting,
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "the secrets could not be looked at");
                    true
                }
            };
            let again = async {
                match waiting {
                    true => clock.sleep(LOOK).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = refused.changed() => if changed.is_err() { return },
                changed = ended.changed() => if changed.is_err() { return },
                () = again => {}
            }
        }
    }));
    Ok(())
}

struct Watch {
    credentials: Credentials,
    /// When telling people was tried and failed.
    tried_at: Option<jiff::Timestamp>,
}

impl Watch {
    /// One look. Answers whether anything waits.
    async fn look(&mut self, holder: &Holder) -> anyhow::Result<bool> {
        let reader = holder.journal().reader();
        // Before what was refused: whoever parked a run had told of the refusal by then.
        let parked = reader.parked_runs()?;
        self.note(holder).await?;
        let refused = reader.refused_secrets()?;
        self.tell(holder, &refused, &parked).await?;
        let library = holder.library();
        let names: BTreeSet<&str> = parked
            .iter()
            .map(|parked| parked.secret.as_str())
            .chain(refused.iter().map(|row| row.secret.as_str()))
            .collect();
        for name in names {
            let row = refused.iter().find(|row| row.secret == name);
            let Some(secret) = library.settings.secrets.get(name) else { continue };
            if !is_another(secret, row).await {
                continue;
            }
            let waited: Vec<&ParkedRun> = parked.iter().filter(|parked| parked.secret == name).collect();
            if row.is_some() {
                tracing::info!(secret = name, runs = waited.len(), "the secret is another one now");
                holder.journal().secret_replaced(name).await?;
            }
            for parked in waited {
                match holder.resume(&parked.run, UsdMicros::ZERO, BY).await {
                    Ok(()) => tracing::info!(run = %parked.run, secret = name, "the run goes on"),
                    Err(refusal) => {
                        tracing::warn!(run = %parked.run, secret = name, error = %refusal.message, "the run cannot go on")
                    }
                }
            }
        }
        Ok(!refused.is_empty() || !parked.is_empty())
    }

    /// What clients have heard since, into the journal; each content of a secret once.
    async fn note(&self, holder: &Holder) -> anyhow::Result<()> {
        for refusal in self.credentials.refusals() {
            let Refusal { secret, service, message } = refusal;
            let known = holder.journal().reader().refused_secrets()?.into_iter().find(|row| row.secret == secret.name);
            let credentials = self.credentials.clone();
            let salt = known
                .as_ref()
                .map_or_else(|| format!("{:016x}", holder.inner.env.ids.random()), |row| row.salt.clone());
            let (name, with) = (secret.name.clone(), salt.clone());
            let marked = tokio::task::spawn_blocking(move || credentials.fingerprint(&name, &with)).await?;
            // It was replaced and taken again in between.
            let Some(fingerprint) = marked else { continue };
            if known.is_some_and(|row| row.fingerprint == fingerprint) {
                continue;
            }
            tracing::error!(
                secret = secret.name,
                service,
                message,
                "the secret is refused; its runs wait until it is replaced"
            );
            let (refused_at, secret) = (holder.inner.env.now(), secret.name);
            let row = RefusedSecret { secret, salt, fingerprint, service, message, refused_at, told: false };
            holder.journal().secret_refused(row).await?;
        }
        Ok(())
    }

    /// Tells people where they are, once for each refusal, if that place is not what is refused.
    async fn tell(&mut self, holder: &Holder, refused: &[RefusedSecret], parked: &[ParkedRun]) -> anyhow::Result<()> {
        let now = holder.inner.env.now();
        let soon =
            |at: jiff::Timestamp| now.duration_since(at) < jiff::SignedDuration::from_secs(TELL_AGAIN.as_secs() as i64);
        let untold: Vec<&RefusedSecret> = refused.iter().filter(|row| !row.told).collect();
        if untold.is_empty() || self.tried_at.is_some_and(soon) {
            return Ok(());
        }
        let library = holder.library();
        let services = std::sync::Arc::new(library.settings.services.clone());
        let outside = Outside { services, shared: holder.inner.shared.clone(), env: holder.inner.env.clone() };
        for row in untold {
            let runs: Vec<&ParkedRun> = parked.iter().filter(|parked| parked.secret == row.secret).collect();
            let Some(channel) = channel(&library, &holder.inner.profile, row, &runs) else { continue };
            match post(&outside, &channel, row, library.settings.secrets.get(&row.secret), &runs).await {
                Ok(()) => holder.journal().secret_refused(RefusedSecret { told: true, ..row.clone() }).await?,
                Err(error) => {
                    tracing::warn!(secret = row.secret, channel, %error, "nobody could be told of the refused secret");
                    self.tried_at = Some(now);
                }
            }
        }
        Ok(())
    }
}

/// Whether the secret is another one than the one that was refused. One that cannot be read is waited for.
async fn is_another(secret: &SecretRef, refused: Option<&RefusedSecret>) -> bool {
    let (secret, salt) = (secret.clone(), refused.map(|row| row.salt.clone()).unwrap_or_default());
    let now = tokio::task::spawn_blocking(move || fingerprint(&secret, salt.as_bytes())).await;
    match (now, refused) {
        (Ok(Ok(now)), Some(row)) => now != row.fingerprint,
        // It could not be read when the run was blocked, and now it can.
        (Ok(Ok(_)), None) => true,
        (Ok(Err(_)) | Err(_), _) => false,
    }
}

/// The channel of the digest, else that of the owner of a pipeline that waits; none where Slack is not used or is what is refused.
fn channel(library: &Library, profile: &str, row: &RefusedSecret, runs: &[&ParkedRun]) -> Option<String> {
    let settings = &library.settings;
    let slack = settings.services.slack.as_ref()?;
    let bound = settings.profiles.get(profile).and_then(|profile| profile.sinks.get("slack"));
    let token = slack.secret("bot_token")?;
    if bound.is_some_and(|bound| bound != "slack") || token.name == row.secret {
        return None;
    }
    settings.notify.digest_channel.clone().or_else(|| {
        let (_, pipeline) = runs.iter().find_map(|parked| library.pipelines.get(&parked.pipeline))?;
        pipeline.owner.as_ref().map(|owner| owner.channel.clone())
    })
}

async fn post(
    outside: &Outside,
    channel: &str,
    row: &RefusedSecret,
    secret: Option<&SecretRef>,
    runs: &[&ParkedRun],
) -> Result<(), crate::clients::slack::SlackError> {
    let slack = Slack::of(outside)?;
    let channel = slack.channel(channel).await?;
    let (first, second) = words(row, secret, runs);
    // Plain text: what a service says is nobody's markup.
    let section = serde_json::json!({"type": "section", "text": {"type": "plain_text", "text": first, "emoji": true}});
    let context =
        serde_json::json!({"type": "context", "elements": [{"type": "plain_text", "text": second, "emoji": false}]});
    let event =
        ("nightcrew_secret".to_owned(), serde_json::json!({"secret": row.secret, "at": row.refused_at.to_string()}));
    // A process before this one, or a try whose end was not known, may have said it.
    // Its clock may be behind ours.
    let since = row.refused_at.checked_sub(jiff::SignedDuration::from_mins(5)).unwrap_or(row.refused_at);
    let said = slack.history(&channel.id, None, since, LOOKED_AT).await?;
    if said.iter().any(|message| message.metadata.as_ref() == Some(&event)) {
        return Ok(());
    }
    let message = NewMessage {
        channel: channel.id,
        blocks: vec![section, context],
        text: first,
        thread_ts: None,
        metadata: Some(event),
    };
    slack.post(&message).await.map(drop)
}

/// What people read: what happened, and what to do.
fn words(row: &RefusedSecret, secret: Option<&SecretRef>, runs: &[&ParkedRun]) -> (String, String) {
    use crate::base::secret::SecretSource;
    let what = crate::clients::http::shorten(&row.message);
    let first = format!("🔑 The secret {} is refused by {}: {what}", row.secret, row.service);
    let place = match secret.map(|secret| &secret.source) {
        Some(SecretSource::Files(files)) => match files.first() {
            Some(file) => format!("Write a valid one to {}", file.display()),
            None => "Replace it".to_owned(),
        },
        Some(SecretSource::Env(variable)) => format!("Set {variable} and restart the daemon"),
        Some(SecretSource::Credential(id)) => format!("Replace the credential {id} of the unit and restart it"),
        None => "Replace it".to_owned(),
    };
    let pipelines: BTreeSet<&str> = runs.iter().map(|parked| parked.pipeline.as_str()).collect();
    let names = pipelines.into_iter().collect::<Vec<_>>().join(", ");
    let waiting = match runs.len() {
        0 => "Runs that need it wait and go on by themselves".to_owned(),
        1 => format!("1 run waits ({names}) and goes on by itself"),
        n => format!("{n} runs wait ({names}) and go on by themselves"),
    };
    (first, format!("{place}. {waiting}."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::RunId;
    use crate::base::secret::SecretSource;

    #[test]
    fn people_are_told_what_to_do_and_who_waits() {
        let row = RefusedSecret {
            secret: "GITHUB".into(),
            salt: "1".into(),
            fingerprint: "2".into(),
            service: "GitHub".into(),
            message: "Bad credentials".into(),
            refused_at: jiff::Timestamp::UNIX_EPOCH,
            told: false,
        };
        let secret =
            SecretRef { name: "GITHUB".into(), source: SecretSource::Files(vec!["/etc/n/github.token".into()]) };
        let run =
            |pipeline: &str| ParkedRun { run: RunId("x".into()), pipeline: pipeline.into(), secret: "GITHUB".into() };
        let (one, two) = (run("code-health"), run("error-to-pr"));
        let (first, second) = words(&row, Some(&secret), &[&two, &one, &one]);
        assert_eq!(first, "🔑 The secret GITHUB is refused by GitHub: Bad credentials");
        assert_eq!(
            second,
            "Write a valid one to /etc/n/github.token. 3 runs wait (code-health, error-to-pr) and go on by themselves."
        );
    }
}
