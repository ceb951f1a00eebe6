//! A webhook out, signed as Standard Webhooks say: `webhook-id`, `webhook-timestamp` and `webhook-signature: v1,BASE64` of
//! HMAC-SHA256 over `id.timestamp.body`. The official libraries of the receiver check it with the same secret: `whsec_` and base64, or
//! any text, which is then taken as it is.
//!
//! What was sent cannot be read back. So a message has an id that stays the same however often it is sent, and the receiver drops
//! the second one of an id. No redirect is followed.
//!
//! Source: <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>.

use std::time::Duration;

use ring::hmac;

use super::credentials::{CredentialError, Credentials};
use super::http::{Auth, Client, HttpError, Limits, shorten};
use crate::base::base64::{base64, decoded};
use crate::base::retry::{Backoff, Retry};
use crate::base::secret::{Secret, SecretRef};
use crate::ports::service::Outside;

/// For one try; a receiver that works before it answers is too slow.
const TIMEOUT: Duration = Duration::from_secs(15);
const BACKOFF: Backoff =
    Backoff { first: Duration::from_secs(1), most: Duration::from_secs(16), total: Duration::from_secs(60) };
const CAP: usize = 64 << 10;

/// How a message did not arrive, or perhaps did.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The secret cannot be read, or was refused before. Nothing was sent.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// 401: the receiver does not take our signature.
    #[error("the receiver refuses the signature: {message}")]
    Refused { secret: String, message: String },
    /// Another 3xx or 4xx: the same again would be refused again.
    #[error("the receiver answers HTTP {status}: {message}")]
    Status { status: u16, message: String },
    /// The address or the secret cannot be used.
    #[error("{0}")]
    Request(String),
    /// It did not answer, or said that it cannot now. Sending it again with the same id does no harm.
    #[error("the receiver does not take it now: {message}")]
    Unavailable { message: String, after: Option<Duration> },
}

/// Sends `body` as the message of that `id`, again and again for a minute while it does not arrive. Repeatable: the id is what
/// counts.
pub async fn send(
    url: &str,
    secret: &SecretRef,
    id: &str,
    body: Vec<u8>,
    outside: &Outside,
) -> Result<(), WebhookError> {
    let request = |error: HttpError| WebhookError::Request(error.to_string());
    let client = outside
        .shared
        .get_or_make(&format!("webhook {url}"), || Client::for_url_without_redirects(url))
        .map_err(request)?;
    let credential = Credentials::of(&outside.shared).take(secret)?;
    let mut waited = Duration::ZERO;
    for attempt in 1.. {
        // Each try is as old as itself, so that a receiver may refuse what is old.
        let timestamp = outside.env.now().as_second().to_string();
        let signature = signature(credential.value(), id, &timestamp, &body);
        let headers = [("webhook-id", id), ("webhook-timestamp", &timestamp), ("webhook-signature", &signature)];
        let limits = Limits { idle: TIMEOUT, total: TIMEOUT, cap_bytes: CAP };
        let (error, retry) = match client.post_json(url, &headers, Auth::None, body.clone(), limits).await {
            Ok(answer) if (200..300).contains(&answer.status) => return Ok(()),
            Ok(mut answer) => {
                let (status, after) = (answer.status, answer.retry_after());
                let message = shorten(&answer.refusal_text().await);
                match status {
                    401 => {
                        credential.refused("the receiver of the webhook", &format!("HTTP 401: {message}"));
                        return Err(WebhookError::Refused { secret: secret.name.clone(), message });
                    }
                    408 | 425 | 429 | 500.. => {
                        let error = WebhookError::Unavailable { message: format!("HTTP {status}: {message}"), after };
                        (error, after.map_or(Retry::Backoff, Retry::After))
                    }
                    _ => return Err(WebhookError::Status { status, message }),
                }
            }
            Err(error @ (HttpError::Connect(_) | HttpError::Timeout(_) | HttpError::Broken(_))) => {
                (WebhookError::Unavailable { message: error.to_string(), after: None }, Retry::Backoff)
            }
            Err(error) => return Err(request(error)),
        };
        let Some(pause) = BACKOFF.pause(attempt, waited, retry) else { return Err(error) };
        tracing::warn!(%error, id, "sending the webhook again in {pause:?}");
        waited += pause;
        outside.env.clock.sleep(pause).await;
    }
    Err(WebhookError::Request("it was not sent".into()))
}

fn signature(secret: &Secret, id: &str, timestamp: &str, body: &[u8]) -> String {
    let text = secret.expose();
    let key = text.strip_prefix("whsec_").and_then(decoded).unwrap_or_else(|| text.as_bytes().to_vec());
    let mut signer = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &key));
    signer.update(format!("{id}.{timestamp}.").as_bytes());
    signer.update(body);
    format!("v1,{}", base64(signer.sign().as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_signed_as_the_specification_has_it() {
        // The vector of the specification's own libraries.
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let body = br#"{"test": 2432232314}"#;
        let signed = signature(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_ne!(signature(&Secret::new("other"), "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body), signed);
    }
}
